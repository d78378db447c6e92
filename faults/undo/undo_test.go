package undo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/faults/fill"
)

// The test binary is also the processes the tests need: it re-executes itself.
func TestMain(m *testing.M) {
	switch os.Getenv("UNDO_TEST_ROLE") {
	case "sleep":
		fmt.Println("up")
		time.Sleep(time.Hour) // not select{}: without another goroutine that is a fatal deadlock
	case "full-disk":
		os.Exit(fullDisk())
	}
	os.Exit(m.Run())
}

func TestARecordIsThereUntilItIsDone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "undo")
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Run = "r-1"
	first, err := l.Record(Record{Fault: "a/b c", Kind: "kill", Target: "stock", Data: map[string]string{"instances": "0"}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.Record(Record{Fault: "slow", Kind: "latency", Target: "orders -> payments"})
	if err != nil {
		t.Fatal(err)
	}
	records, err := Pending(dir)
	if err != nil || len(records) != 2 {
		t.Fatalf("pending: %v, %v; want two records", records, err)
	}
	r := records[0]
	if r.Fault != "a/b c" || r.Run != "r-1" || r.Version != Version || r.At.IsZero() || r.Data["instances"] != "0" {
		t.Errorf("first record reads back as %+v", r)
	}
	me, err := Identify(os.Getpid())
	if err != nil || Process(r.Owner) != me || !me.Alive() {
		t.Errorf("owner is %+v, this process is %+v (%v)", r.Owner, me, err)
	}
	for range 2 { // done twice is done once
		if err := first(); err != nil {
			t.Fatal(err)
		}
	}
	if records, err := Pending(dir); err != nil || len(records) != 1 || records[0].Fault != "slow" {
		t.Fatalf("after the first is done: %v, %v; want only the second", records, err)
	}
	if err := second(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d files left when all is done", len(left))
	}
}

func TestPendingWithoutAFolderIsNothing(t *testing.T) {
	if r, err := Pending(filepath.Join(t.TempDir(), "none")); r != nil || err != nil {
		t.Errorf("got %v, %v; want nothing and no error", r, err)
	}
}

func TestASecondLogInTheFolderNeverOverwrites(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		l, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for range 5 {
				if _, err := l.Record(Record{Fault: "same", Kind: "kill"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if r, err := Pending(dir); err != nil || len(r) != 20 {
		t.Errorf("%d records, %v; want 20", len(r), err)
	}
}

// A write that fails at any of its steps leaves no record and no file.
func TestNoRecordWhenItCannotBeSynced(t *testing.T) {
	for failing := 1; failing <= 2; failing++ { // 1: the file, 2: the folder
		dir := t.TempDir()
		l, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		l.sync = func(*os.File) error {
			if calls++; calls == failing {
				return syscall.ENOSPC
			}
			return nil
		}
		done, err := l.Record(Record{Fault: "x", Kind: "kill"})
		if !errors.Is(err, syscall.ENOSPC) || done != nil {
			t.Errorf("sync %d fails: error %v, done given: %v; want ENOSPC and no done", failing, err, done != nil)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("sync %d fails: %d files left", failing, len(left))
		}
	}
}

// On a file system that is really full, of its own in a name space of its own.
func TestFullDisk(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "UNDO_TEST_ROLE=full-disk", "UNDO_TEST_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 77 {
		t.Skipf("no small file system to be had: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fullDisk() int {
	dir := os.Getenv("UNDO_TEST_DIR")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32k"); err != nil {
		fmt.Println(err)
		return 77
	}
	l, err := Open(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	kept := 0
	for ; kept < 100; kept++ {
		before, _ := os.ReadDir(dir)
		if _, err = l.Record(Record{Fault: "x", Kind: "kill", Data: map[string]string{"big": strings.Repeat("x", 5000)}}); err != nil {
			after, _ := os.ReadDir(dir)
			if len(after) != len(before) {
				fmt.Printf("%d files before the failed record, %d after\n", len(before), len(after))
				return 1
			}
			break
		}
	}
	records, perr := Pending(dir)
	if !errors.Is(err, syscall.ENOSPC) || kept == 0 || perr != nil || len(records) != kept {
		fmt.Printf("error %v after %d records, %d pending (%v)\n", err, kept, len(records), perr)
		return 1
	}
	return 0
}

func TestPendingNamesBadFilesAndKeepsGoodOnes(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Record(Record{Fault: "good", Kind: "kill"}); err != nil {
		t.Fatal(err)
	}
	good, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	whole, err := os.ReadFile(good[0])
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"1-torn.json":    string(whole[:len(whole)/2]),
		"2-empty.json":   "",
		"3-zeros.json":   "\x00\x00\x00\x00",
		"4-version.json": `{"version":2,"fault":"f","kind":"k"}`,
		"5-list.json":    `[]`,
		"6-key.json":     `{"version":1,"fault":"f","kind":"k","owner":{"pid":9},"rm":"-rf"}`,
		"7-all.json":     `{"version":1,"fault":"f","kind":"pause","owner":{"pid":9},"data":{"processes":"-1@5"}}`,
		"8-huge.json":    strings.Repeat(" ", limit+1),
		"9-owner.json":   `{"version":1,"fault":"f","kind":"k","owner":{"pid":-1}}`,
	}
	for name, content := range bad {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "a-fifo.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	// What was being written when the owner died is no record.
	if err := os.WriteFile(filepath.Join(dir, "000009-x.json.new"), whole[:10], 0o644); err != nil {
		t.Fatal(err)
	}
	records, err := Pending(dir)
	if len(records) != 1 || records[0].Fault != "good" {
		t.Errorf("records %v; want the good one", records)
	}
	if err == nil {
		t.Fatal("no error for the bad files")
	}
	for name := range bad {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s", name)
		}
	}
	if !strings.Contains(err.Error(), "a-fifo.json: not a plain file") || strings.Contains(err.Error(), ".new") {
		t.Errorf("error: %v", err)
	}
}

func TestRevertResumesOnlyWhoWasRecorded(t *testing.T) {
	paused, stranger := sleeper(t), sleeper(t)
	for _, p := range []Process{paused, stranger} {
		stop(t, p)
	}
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	reused := Process{PID: stranger.PID, StartTicks: stranger.StartTicks + 1} // the same number, another process
	if _, err := l.Record(Record{Fault: "freeze", Kind: "pause", Target: "payments",
		Data: map[string]string{Processes: FormatProcesses([]Process{paused, reused})}}); err != nil {
		t.Fatal(err)
	}
	records, err := Pending(dir)
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	r := records[0]
	if _, err := Revert(t.Context(), r); !errors.Is(err, ErrOwned) || !paused.Stopped() {
		t.Fatalf("with the owner (this process) alive: %v, still stopped: %v; want ErrOwned and no change", err, paused.Stopped())
	}
	r.Owner = Owner{PID: 1 << 22, StartTicks: 1} // beyond the highest process number: a dead owner
	if got, err := Revert(t.Context(), r); got != Reverted || err != nil {
		t.Fatalf("Revert: %v, %v; want reverted", got, err)
	}
	if paused.Stopped() || !paused.Alive() {
		t.Error("the recorded process does not run")
	}
	if !stranger.Stopped() {
		t.Error("a process that only has the recorded number was resumed")
	}
	if got, err := Revert(t.Context(), r); got != Nothing || err != nil {
		t.Errorf("a second time: %v, %v; want nothing to do", got, err)
	}
	if left, _ := Pending(dir); len(left) != 0 {
		t.Error("the record is still there")
	}
}

func TestRevertAfterAnotherBootTouchesNoProcess(t *testing.T) {
	p := sleeper(t)
	stop(t, p)
	got, err := Revert(t.Context(), Record{Fault: "f", Kind: "pause", Owner: Owner(p), Boot: "an earlier boot",
		Data: map[string]string{Processes: p.String()}})
	if got != Nothing || err != nil || !p.Stopped() {
		t.Errorf("%v, %v, stopped %v; want nothing done", got, err, p.Stopped())
	}
}

func TestRevertOfWhatDiedWithItsOwner(t *testing.T) {
	for _, kind := range []string{"kill", "restart", "latency", "partition"} {
		got, err := Revert(context.Background(), Record{Fault: "f", Kind: kind, Owner: Owner{PID: 1 << 22}, Boot: BootID()})
		if got != Nothing || err != nil {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
	}
}

// A file outlives its owner and the boot: it is removed whenever, if it is ours.
func TestRevertRemovesWhatFilledADisk(t *testing.T) {
	m := fill.Mark{Run: "r-1", Fault: "full"}
	path, second := fill.Path(t.TempDir(), m), fill.Path(t.TempDir(), m)
	r := Record{Run: "r-1", Fault: "full", Kind: "disk", Owner: Owner{PID: 1 << 22}, Boot: "an earlier boot", Data: map[string]string{Files: FormatFiles([]string{path, second})}}
	if got, err := Revert(t.Context(), r); got != Nothing || err != nil {
		t.Errorf("before it is written: %v, %v", got, err)
	}
	for _, path := range []string{path, second} {
		if err := fill.Write(t.Context(), path, m, 1000); err != nil {
			t.Fatal(err)
		}
	}
	other := r
	other.Run = "r-2"
	if _, err := Revert(t.Context(), other); err == nil {
		t.Error("another run's file was removed")
	}
	if got, err := Revert(t.Context(), r); got != Reverted || err != nil {
		t.Errorf("%v, %v; want reverted", got, err)
	}
	for _, path := range []string{path, second} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	}
	for _, path := range []string{"", "relative/" + fill.Prefix + "x", "/etc/passwd", "/tmp/../" + fill.Prefix, "/tmp/" + fill.Prefix + "\x00", path + "\x00/etc/passwd"} {
		r.Data[Files] = path
		if err := r.check(); err == nil {
			t.Errorf("a record of %q is accepted", path)
		}
	}
}

func TestProcessesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ps []Process
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			ps = append(ps, Process{PID: rapid.IntRange(2, 1<<31-1).Draw(t, "pid"), StartTicks: rapid.Uint64().Draw(t, "start")})
		}
		got, err := ParseProcesses(FormatProcesses(ps))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(ps) {
			t.Fatalf("%v reads back as %v, %v", ps, got, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"fault":"f","kind":"pause","target":"t","owner":{"pid":9,"start_ticks":1},"data":{"processes":"7@8"},"at":"2026-01-02T15:04:05Z"}`))
	f.Add([]byte(`{"version":1,"fault":"f","kind":"pause","owner":{"pid":9},"data":{"processes":"0@1"}}`))
	f.Add([]byte(`{"version":1,"run":"r","fault":"f","kind":"disk","owner":{"pid":9},"data":{"files":"/tmp/.chaosctl-fill-r-f\u0000/var/.chaosctl-fill-r-f"}}`))
	f.Add([]byte(`{"version":1,"fault":"f","kind":"disk","owner":{"pid":9},"data":{"files":"/etc/../etc/passwd"}}`))
	f.Add([]byte(`{"version":1e0}`))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if r.Version != Version || r.Owner.PID <= 0 || r.Fault == "" {
			t.Errorf("accepted %+v", r)
		}
		ps, err := ParseProcesses(r.Data[Processes])
		if r.Kind == kindPause && err != nil {
			t.Errorf("accepted processes %q", r.Data[Processes])
		}
		if r.Kind == kindDisk {
			for path := range strings.SplitSeq(r.Data[Files], "\x00") {
				if !filepath.IsAbs(path) || !strings.HasPrefix(filepath.Base(path), fill.Prefix) {
					t.Errorf("would remove %q", path)
				}
			}
		}
		for _, p := range ps {
			if p.PID <= 1 {
				t.Errorf("would signal %d", p.PID)
			}
		}
	})
}

// sleeper starts a child that does nothing.
func sleeper(t *testing.T) Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "UNDO_TEST_ROLE=sleep")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stop sends SIGSTOP and waits for the kernel to say that it took effect.
func stop(t *testing.T, p Process) {
	t.Helper()
	if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, p.PID, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if !p.Stopped() {
		t.Fatalf("process %v is not stopped after SIGSTOP", p)
	}
}

func TestClose(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "undo")
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	done, err := l.Record(Record{Fault: "f", Kind: "kill"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // with something pending
		t.Fatal(err)
	}
	if r, err := Pending(dir); err != nil || len(r) != 1 {
		t.Errorf("Close took what was pending: %v, %v", r, err)
	}
	if _, err := l.Record(Record{Fault: "g", Kind: "kill"}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a record after Close: %v", err)
	}
	if err := done(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder is left (%v)", err)
	}
}
