package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/faults/undo"
	"github.com/chaosctl/chaosctl/targets/process"
)

// The test binary is also the processes the tests need: TEST ROLE ARGS.
//
//	watchdog ENTRY        what StartWatchdog starts
//	owner DIR RUN FOLDER HOW VICTIM   enters a run, freezes a process, starts one, and waits to be killed
//	sleep                 until killed
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "watchdog":
		if err := Watch(os.Args[2], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
	case "owner":
		if err := own(os.Args[2], os.Args[3], os.Args[4], os.Args[5] == "guarded", os.Args[6]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		time.Sleep(time.Hour)
	case "sleep":
		fmt.Println("up")
		time.Sleep(time.Hour)
	}
	os.Exit(0)
}

// own does what a run does, and stops in the middle of a fault.
func own(dir, id, folder string, guarded bool, pid string) error {
	index, err := OpenAt(dir)
	if err != nil {
		return err
	}
	temp := filepath.Join(folder, TempPrefix+id+"-1")
	run, err := index.Enter(Entry{Run: id, Folder: folder, Temp: temp, Holds: []string{"localhost:9001"}})
	if err != nil {
		return err
	}
	if guarded {
		w, err := StartWatchdog(os.Args[0], run)
		if err != nil {
			return err
		}
		if err := w.Ready(context.Background()); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(temp, "data"), 0o755); err != nil {
		return err
	}
	w, err := journal.Create(filepath.Join(folder, "journal.jsonl"), func() time.Duration { return time.Second })
	if err != nil {
		return err
	}
	if err := w.Write(journal.Event{Start: &journal.Start{Run: id, Plan: json.RawMessage("{}"), Wall: time.Now()}}); err != nil {
		return err
	}
	// One victim is not marked: only the record knows of it. The other is marked and
	// not recorded.
	marked, err := start(exec.Command(os.Args[0], "sleep"), process.Mark+"="+id)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	log, err := undo.Open(filepath.Join(folder, "undo"))
	if err != nil {
		return err
	}
	victim, err := undo.Identify(number)
	if err != nil {
		return err
	}
	for _, fault := range []string{"first", "second"} {
		if _, err := log.Record(undo.Record{Run: id, Fault: fault, Kind: "pause", Target: "web",
			Data: map[string]string{undo.Processes: victim.String()}}); err != nil {
			return err
		}
	}
	if err := syscall.Kill(number, syscall.SIGSTOP); err != nil {
		return err
	}
	for !victim.Stopped() {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("ready", marked.Process.Pid)
	return nil
}

// start starts a sleeper in a session of its own, so that the end of its parent
// means nothing to it, and returns when it is up.
func start(c *exec.Cmd, env ...string) (*exec.Cmd, error) {
	c.Env = env
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(out, make([]byte, 3))
	return c, err
}

// victims are the processes that a dead owner leaves: one that the test started
// and the owner froze, one that the owner started.
type victims struct{ frozen, marked undo.Process }

// killedOwner starts an owner, and kills it when its fault is in effect.
func killedOwner(t *testing.T, dir, id, folder string, how string) victims {
	t.Helper()
	sleeper, err := start(exec.Command(os.Args[0], "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = sleeper.Process.Kill(), sleeper.Wait() })
	frozen, err := undo.Identify(sleeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "owner", dir, id, folder, how, strconv.Itoa(frozen.PID))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var word string
	var pid int
	if _, err := fmt.Fscan(out, &word, &pid); err != nil || word != "ready" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("the owner says %q %s: %v", word, rest, err)
	}
	marked, err := undo.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if marked.Alive() {
			_ = syscall.Kill(marked.PID, syscall.SIGKILL)
		}
	})
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed: it says so
	return victims{frozen, marked}
}

func open(t *testing.T, dir string) *Index {
	t.Helper()
	index, err := OpenAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// clean checks that nothing of a run is left, and that its journal tells it.
func clean(t *testing.T, index *Index, folder string, v victims, by string) {
	t.Helper()
	if v.frozen.Stopped() || !v.frozen.Alive() {
		t.Error("the frozen process, which no mark says was ours, is to go on")
	}
	if v.marked.Alive() {
		t.Error("the marked process is still there")
	}
	if entries, err := index.Entries(); err != nil || len(entries) > 0 {
		t.Errorf("the index still has %v (%v)", entries, err)
	}
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("the run folder holds %v (%v), want the journal alone", left, err)
	}
	b, err := os.ReadFile(filepath.Join(folder, "journal.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := journal.Verify(bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
	events, _, err := journal.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var verified []string
	for _, e := range events {
		if e.Fault != nil && e.Fault.State == "verified" {
			verified = append(verified, e.Fault.Name)
		}
	}
	if !slices.Equal(verified, []string{"second", "first"}) {
		t.Errorf("verified %v, want the last fault first", verified)
	}
	if last := events[len(events)-1]; last.End == nil || last.End.Status != "aborted" || last.End.Error != "" {
		t.Errorf("the journal ends with %+v, want an end", last)
	}
	if !strings.Contains(string(b), "undone by "+by) {
		t.Errorf("the journal does not say that %s undid it:\n%s", by, b)
	}
}

// TestHeal: everything a dead run left is undone with nothing but its files; to
// repeat it, also at the same time, changes nothing.
func TestHeal(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	v := killedOwner(t, dir, "r1", folder, "alone")
	index := open(t, dir)
	entries, err := index.Entries()
	if err != nil || len(entries) != 1 || entries[0].State() != Dead {
		t.Fatalf("%+v, %v: want one dead run", entries, err)
	}
	if !v.frozen.Stopped() {
		t.Fatal("the fault is to outlive its owner")
	}
	// In the middle of a line, as a kill may leave it.
	j, err := os.OpenFile(filepath.Join(folder, "journal.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(j, `{"at_s":2,"mark":{"te`); err != nil {
		t.Fatal(err)
	}
	j.Close()

	var all sync.WaitGroup
	did := make([]Healed, 4)
	for i := range did {
		all.Go(func() {
			var err error
			if did[i], err = index.Heal(context.Background(), entries[0], "somebody"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	clean(t, index, folder, v, "somebody")
	reverts := 0
	for _, h := range did {
		reverts += len(h.Reverted)
	}
	if reverts != 2 {
		t.Errorf("%d reverts by four healers of two faults: %+v", reverts, did)
	}
}

// TestWatchdog: SIGKILL to the owner, and its watchdog has undone everything.
func TestWatchdog(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	v := killedOwner(t, dir, "r2", folder, "guarded")
	index := open(t, dir)
	deadline := time.Now().Add(20 * time.Second)
	for {
		entries, err := index.Entries()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("after 20 s the watchdog has not undone it")
		}
		time.Sleep(time.Millisecond)
	}
	clean(t, index, folder, v, "its watchdog")
}

// TestWatchdogGoodbye: a watchdog that is told goodbye goes and touches nothing;
// it is not needed twice; one that was killed is missed.
func TestWatchdogGoodbye(t *testing.T) {
	index := open(t, t.TempDir())
	folder := t.TempDir()
	for _, killed := range []bool{false, true} {
		run, err := index.Enter(Entry{Run: "r" + strconv.FormatBool(killed), Folder: folder, Temp: filepath.Join(folder, "t")})
		if err != nil {
			t.Fatal(err)
		}
		w, err := StartWatchdog(os.Args[0], run)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Ready(context.Background()); err != nil {
			t.Fatal(err)
		}
		if killed {
			if err := w.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-w.gone
		}
		if err := w.Stop(); (err != nil) != killed {
			t.Errorf("killed %v: %v", killed, err)
		}
		select {
		case <-w.gone:
		default:
			t.Error("Stop returned, and the watchdog is still there")
		}
		if entries, _ := index.Entries(); len(entries) != 1 || entries[0].State() != Live {
			t.Errorf("%+v: want the live run, untouched", entries)
		}
		if err := run.Leave(); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := index.Entries(); err != nil || len(entries) > 0 {
		t.Errorf("left in the index: %v (%v)", entries, err)
	}
}

// TestEnter: an address has one holder at a time, by whatever name it goes; a run
// that is live is not healed; a run with a pending fault stays in the index.
func TestEnter(t *testing.T) {
	index := open(t, t.TempDir())
	folder := t.TempDir()
	entry := func(run string, holds ...string) Entry {
		return Entry{Run: run, Folder: folder, Temp: filepath.Join(folder, "t"), Holds: holds}
	}
	first, err := index.Enter(entry("first", "localhost:9001"))
	if err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := index.Enter(entry("second", "127.0.0.1:9001")); !errors.As(err, &held) || held.By.Run != "first" {
		t.Fatalf("%v: want the first run to hold it", err)
	}
	other, err := index.Enter(entry("other", "127.0.0.1:9002"))
	if err != nil {
		t.Fatalf("side by side: %v", err)
	}
	if _, err := index.Heal(context.Background(), first.Entry, "nobody"); !errors.Is(err, undo.ErrOwned) {
		t.Fatalf("heal a live run: %v, want ErrOwned", err)
	}
	log, err := undo.Open(first.UndoFolder())
	if err != nil {
		t.Fatal(err)
	}
	done, err := log.Record(undo.Record{Fault: "f", Kind: "kill", Target: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Leave(), first.Leave(), first.Leave()); err != nil {
		t.Fatal(err)
	}
	if entries, err := index.Entries(); err != nil || len(entries) != 2 {
		t.Fatalf("%v (%v): want both, their folder has a pending record", entries, err)
	}
	if err := done(); err != nil {
		t.Fatal(err)
	}
}

// TestHealNothingElse: a temporary folder that a run cannot have made is left
// alone, and so is the entry, which is the only trace that leads to it.
func TestHealNothingElse(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	v := killedOwner(t, dir, "r3", folder, "alone")
	index := open(t, dir)
	path := filepath.Join(dir, "live", "r3")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.Mkdir(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte(filepath.Join(folder, TempPrefix+"r3-1")), []byte(precious), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := ReadEntry(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Heal(context.Background(), e, "somebody"); err == nil || !strings.Contains(err.Error(), "left alone") {
		t.Errorf("%v: want it to be left alone", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	if entries, _ := index.Entries(); len(entries) != 1 {
		t.Error("the entry is gone although not all is healed")
	}
	if v.frozen.Stopped() || v.marked.Alive() {
		t.Error("what could be healed is not")
	}
}

// TestLever: pulled for all or for one, seen by whoever waits, released once.
func TestLever(t *testing.T) {
	index := open(t, t.TempDir())
	if l := index.Halted("r"); l != nil {
		t.Fatalf("pulled from the beginning: %v", l)
	}
	seen := make(chan *Lever)
	go func() { seen <- index.AwaitLever(t.Context(), "r") }()
	if err := index.Halt(Lever{Reason: "one", Run: "r", At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if l := <-seen; l == nil || l.Reason != "one" {
		t.Errorf("the run sees %v", l)
	}
	if l := index.Halted("other"); l != nil {
		t.Errorf("another run is stopped by it: %v", l)
	}
	for _, reason := range []string{"all", "again"} {
		if err := index.Halt(Lever{Reason: reason, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	if l := index.Halted("other"); l == nil || l.Reason != "all" {
		t.Errorf("the lever says %v, want the first reason", l)
	}
	for _, want := range []bool{true, false} {
		if was, err := index.Release(); was != want || err != nil {
			t.Errorf("release: %v, %v", was, err)
		}
	}
}

// FuzzEntry: no file makes the reader panic, or makes an entry that leads outside
// of the index.
func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"version":1,"run":"r","owner":{"pid":812,"start_ticks":9},"folder":"/r","temp":"/tmp/t"}` + "\n" + `{"service":"web","process":"840@9"}`))
	f.Add([]byte(`{"version":1,"run":"../r","owner":{"pid":1},"folder":"r"}`))
	f.Add([]byte("\n{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(bytes.NewReader(b))
		if err != nil {
			return
		}
		if e.Run == "" || strings.Contains(e.Run, "/") || e.Owner.PID <= 1 || !filepath.IsAbs(e.Temp) || !filepath.IsAbs(e.Folder) {
			t.Errorf("%q is taken for %+v", b, e)
		}
	})
}
