package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/faults/fill"
	"github.com/chaosctl/chaosctl/faults/undo"
)

// Every instance that is picked has a file in a folder of its own; what is to stay
// free is a matter of the file system, of which they share one here.
func TestADiskFaultFillsForEveryInstance(t *testing.T) {
	dir := t.TempDir()
	free, _, err := fill.Free(dir)
	if err != nil {
		t.Fatal(err)
	}
	left := Bytes(free - 100_000_000) // whatever others write meanwhile
	for _, c := range []struct {
		disk  Disk
		files int
	}{
		{Disk{Pick: Pick{Count: 1}, Fill: 50_000}, 1},
		{Disk{Pick: Pick{Count: 2}, Fill: 50_000}, 2},
		{Disk{Pick: Pick{All: true}, Fill: 50_000}, 3},
		{Disk{Pick: Pick{All: true}, Free: &left}, 1},
	} {
		f := newFake(3)
		x := f.fault(Spec{Name: "full", Target: "stock", Disk: &c.disk}, time.Millisecond, 3)
		world := f.world(t, filepath.Join(dir, "undo"))
		before := f.surface()
		n, err := c.disk.Pick.Of(3)
		if err != nil {
			t.Fatal(err)
		}
		err = Hold(t.Context(), x, world, func(s State) {
			if s.State != Injected {
				return
			}
			found, _ := filepath.Glob(filepath.Join(dir, "data", "*", fill.Prefix+"*"))
			if len(found) != c.files || s.Observed["instances"] != float64(n) || c.disk.Fill > 0 && s.Observed["bytes"] < float64(c.files)*50_000 {
				t.Errorf("%s: files %v, observed %v; want %d files for %d instances", c.disk.Pick, found, s.Observed, c.files, n)
			}
			pending, err := undo.Pending(filepath.Join(dir, "undo"))
			if err != nil || len(pending) != 1 {
				t.Fatalf("undo records %v (%v)", pending, err)
			}
			if recorded, err := undo.ParseFiles(pending[0].Data[undo.Files]); err != nil || fmt.Sprint(recorded) != fmt.Sprint(found) {
				t.Errorf("recorded %q (%v); want %q", recorded, err, found)
			}
		})
		if after := f.surface(); err != nil || after != before {
			t.Errorf("%s: %v; the world is %s, it was %s", c.disk.Pick, err, after, before)
		}
	}
}

// When the second file cannot be written the first one goes, too; what is there by that
// name and is somebody else's stays.
func TestADiskFaultThatFailsHalfway(t *testing.T) {
	dir := t.TempDir()
	f := newFake(2)
	world := f.world(t, filepath.Join(dir, "undo"))
	world.Run = "r-1"
	folder, err := f.DataFolder("stock", 1)
	if err != nil {
		t.Fatal(err)
	}
	theirs := fill.Path(folder, fill.Mark{Run: "r-1", Fault: "full"})
	if err := os.WriteFile(theirs, []byte("somebody else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x := f.fault(Spec{Name: "full", Target: "stock", Disk: &Disk{Pick: Pick{All: true}, Fill: 50_000}}, time.Hour, 2)
	err = Hold(t.Context(), x, world, func(State) {})
	if err == nil || !strings.Contains(err.Error(), "file exists") || !strings.Contains(err.Error(), "left alone") {
		t.Errorf("%v; want that it could not be written, and that another's file was left alone", err)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "data", "*", fill.Prefix+"*"))
	if len(found) != 1 || found[0] != theirs {
		t.Errorf("files %q; want only %q", found, theirs)
	}
}
