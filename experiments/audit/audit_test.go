package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func add(t *testing.T, l *Log, event string) Mark {
	t.Helper()
	m, err := l.Append(Entry{Command: "run", Event: event, Run: "r-1", Fault: "freeze"}, false)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func read(t *testing.T, l *Log) *Found {
	t.Helper()
	files, err := l.Files()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(files...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAChainHolds(t *testing.T) {
	l := In(t.TempDir())
	if f := read(t, l); f.Count != 0 || len(f.Problems) > 0 {
		t.Errorf("nothing was written: %+v", f)
	}
	var marks []Mark
	for _, event := range []string{Begun, Asked, Injected, Reverted, Verified, Ended} {
		marks = append(marks, add(t, l, event))
	}
	f := read(t, l)
	if f.Count != 6 || f.First != 1 || f.Last != marks[5] || len(f.Problems) > 0 {
		t.Errorf("%+v", f)
	}
	for _, m := range marks {
		if holds, known := f.Holds(m); !holds || !known {
			t.Errorf("mark %+v: %v, %v", m, holds, known)
		}
	}
	if holds, _ := f.Holds(Mark{7, "x"}); holds {
		t.Error("an entry that is not there holds")
	}
	e := f.Entries[1]
	if e.Who.UID != os.Getuid() || e.Who.PID != os.Getpid() || e.Who.Host == "" || time.Since(e.At) > time.Minute || e.Fault != "freeze" {
		t.Errorf("%+v", e)
	}
	if info, err := os.Stat(l.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info.Mode(), err)
	}
}

// Whatever is done to the middle of the file shows.
func TestChangesShow(t *testing.T) {
	for name, change := range map[string]func([][]byte) [][]byte{
		"a word is changed":    func(l [][]byte) [][]byte { l[2] = bytes.Replace(l[2], []byte("freeze"), []byte("breeze"), 1); return l },
		"a line is removed":    func(l [][]byte) [][]byte { return append(l[:2], l[3:]...) },
		"two change places":    func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l },
		"a line stands twice":  func(l [][]byte) [][]byte { return append(l[:3], append([][]byte{l[2]}, l[3:]...)...) },
		"a line is no entry":   func(l [][]byte) [][]byte { l[2] = []byte("{}"); return l },
		"the first is removed": func(l [][]byte) [][]byte { l[0] = bytes.Replace(l[0], []byte(`"n":1`), []byte(`"n":2`), 1); return l },
		"an unknown key":       func(l [][]byte) [][]byte { l[3] = bytes.Replace(l[3], []byte(`{`), []byte(`{"x":1,`), 1); return l },
		"a line is put in":     func(l [][]byte) [][]byte { return append(l[:1], append([][]byte{nil}, l[1:]...)...) },
	} {
		l := In(t.TempDir())
		for range 6 {
			add(t, l, Asked)
		}
		b, err := os.ReadFile(l.Path())
		if err != nil {
			t.Fatal(err)
		}
		lines := change(bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")))
		if err := os.WriteFile(l.Path(), append(bytes.Join(lines, []byte("\n")), '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := read(t, l); len(f.Problems) == 0 {
			t.Errorf("%s: it does not show", name)
		}
	}
}

// A missing end shows only against a hash that somebody has kept.
func TestTruncation(t *testing.T) {
	l := In(t.TempDir())
	for range 4 {
		add(t, l, Asked)
	}
	kept := add(t, l, Begun)
	b, _ := os.ReadFile(l.Path())
	lines := bytes.SplitAfter(b, []byte("\n"))
	if err := os.WriteFile(l.Path(), bytes.Join(lines[:3], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	f := read(t, l)
	if holds, known := f.Holds(kept); len(f.Problems) > 0 || holds || !known {
		t.Errorf("%v, the kept mark holds: %v, %v", f.Problems, holds, known)
	}
	add(t, l, Asked) // the chain goes on, and the mark still says no
	if holds, _ := read(t, l).Holds(kept); holds {
		t.Error("the kept mark holds again")
	}
}

func TestATornLineIsSealed(t *testing.T) {
	for _, torn := range []string{`{"n":3,"prev":"`, "x", strings.Repeat("y", 100)} {
		for _, before := range []int{0, 2} {
			l := In(t.TempDir())
			for range before {
				add(t, l, Asked)
			}
			f, err := os.OpenFile(l.Path(), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteString(torn)
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if f := read(t, l); f.Torn != len(torn) || len(f.Problems) > 0 {
				t.Errorf("torn by %q: %+v", torn, f)
			}
			add(t, l, Injected)
			add(t, l, Reverted)
			got := read(t, l)
			if len(got.Problems) > 0 || got.Sealed != 1 || got.Torn != 0 || got.Count != before+3 {
				t.Errorf("%q after %d entries: %+v", torn, before, got)
			}
		}
	}
}

// Appending from many sides at once makes one chain, through rotations.
func TestManyAppendAtOnce(t *testing.T) {
	dir := t.TempDir()
	const writers, each = 8, 40
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			l := In(dir)
			l.rotateAt, l.lockFor = 8_000, time.Minute
			for i := range each {
				if _, err := l.Append(Entry{Command: "run", Event: Asked, Detail: fmt.Sprint(i)}, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	l := In(dir)
	files, err := l.Files()
	if err != nil || len(files) != Keep+1 {
		t.Fatalf("files %v, %v; want %d", files, err, Keep+1)
	}
	f := read(t, l)
	if len(f.Problems) > 0 || f.Last.N != writers*each || f.First < 2 || f.Count != int(f.Last.N-f.First)+1 {
		t.Errorf("%d entries from %d to %d; %v", f.Count, f.First, f.Last.N, f.Problems)
	}
	if _, known := f.Holds(Mark{1, "x"}); known {
		t.Error("the first entry, rotated away, is known")
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".audit-*"))
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestWhoHoldsTheLockIsNotWaitedForForEver(t *testing.T) {
	l := In(t.TempDir())
	add(t, l, Asked)
	f, err := os.Open(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l.lockFor = 20 * time.Millisecond
	if _, err := l.Append(Entry{Command: "run", Event: Asked}, false); err == nil || !strings.Contains(err.Error(), "locked by another process") {
		t.Errorf("%v", err)
	}
}

func TestRecorder(t *testing.T) {
	l := In(t.TempDir())
	r, mark, err := l.Record(Entry{Command: "run", Run: "r-1", Scenario: "s", Detail: "/run"})
	if err != nil || mark.N != 1 {
		t.Fatal(mark, err)
	}
	r.Add(Entry{Event: Asked, Fault: "freeze", Kind: "pause", Target: "web"})
	if err := r.Close("completed", errors.New("odd")); err != nil {
		t.Fatal(err)
	}
	r.Add(Entry{Event: Asked}) // too late, and no harm
	f := read(t, l)
	if f.Count != 3 || f.Entries[1].Run != "r-1" || f.Entries[1].Scenario != "s" || f.Entries[2].Event != Ended || f.Entries[2].Error != "odd" {
		t.Errorf("%+v", f.Entries)
	}
	if err := os.Chmod(l.dir, 0o500); err != nil || os.Getuid() == 0 {
		return // root may write anyway
	}
	if _, _, err := In(filepath.Join(l.dir, "none")).Record(Entry{Command: "run"}); err == nil {
		t.Error("recorded in a folder that is not there")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"n":1,"prev":"","at":"2026-01-02T15:04:05Z","who":{"uid":0,"host":"h","pid":1},"command":"run","event":"begun"}` + "\n"))
	f.Add([]byte("x\n" + `{"n":1,"prev":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881","at":"2026-01-02T15:04:05Z","who":{"uid":0,"host":"h","pid":1},"command":"run","event":"sealed","bytes":1}` + "\n{"))
	f.Add([]byte{0, '\n', '\n'})
	f.Fuzz(func(t *testing.T, b []byte) {
		l := In(t.TempDir())
		if err := os.WriteFile(l.Path(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := Read(l.Path())
		if err != nil {
			t.Fatal(err)
		}
		m, err := l.Append(Entry{Command: "run", Event: Asked}, false)
		if err != nil {
			return // a line that is too long
		}
		after, err := Read(l.Path())
		if err != nil {
			t.Fatal(err)
		}
		if len(after.Problems) < len(before.Problems) {
			t.Errorf("a further entry hides a problem: %v, then %v", before.Problems, after.Problems)
		}
		if len(before.Problems) == 0 && bytes.HasSuffix(b, []byte("\n")) && before.Count > 0 && after.Last.N == before.Last.N+1 && len(after.Problems) > 1 {
			t.Errorf("a chain that held does not, after an entry: %v", after.Problems)
		}
		if after.Last != m {
			t.Errorf("the last is %+v, appended was %+v", after.Last, m)
		}
	})
}
