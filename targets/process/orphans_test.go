package process

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillMarked: every process of the run goes, wherever it went and also when it
// is stopped; another run's, whose id begins the same, stays.
func TestKillMarked(t *testing.T) {
	run := "test-" + strconv.Itoa(os.Getpid())
	start := func(mark string, attr *syscall.SysProcAttr) *exec.Cmd {
		c := exec.Command(os.Args[0], "child", "sleep")
		c.Env, c.SysProcAttr = []string{"A=1", Mark + "=" + mark}, attr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = c.Process.Kill(), c.Wait() })
		if _, err := out.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	left := start(run, &syscall.SysProcAttr{Setsid: true})
	frozen := start(run, &syscall.SysProcAttr{Setpgid: true})
	other := start(run+"-control", nil)
	if err := frozen.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	killed, err := KillMarked(ctx, run)
	want := []int{left.Process.Pid, frozen.Process.Pid}
	slices.Sort(want)
	slices.Sort(killed)
	if err != nil || !slices.Equal(killed, want) {
		t.Fatalf("killed %v (%v), want %v", killed, err, want)
	}
	if pids, err := Marked(run); err != nil || len(pids) > 0 {
		t.Errorf("left: %v (%v)", pids, err)
	}
	if pids, err := Marked(run + "-control"); err != nil || !slices.Equal(pids, []int{other.Process.Pid}) {
		t.Errorf("of the other run are left: %v (%v), want %d", pids, err, other.Process.Pid)
	}
	if killed, err := KillMarked(ctx, run); err != nil || len(killed) > 0 {
		t.Errorf("a second time: %v, %v", killed, err)
	}
	if _, err := KillMarked(ctx, ""); err == nil || !strings.Contains(err.Error(), "id") {
		t.Errorf("a run without an id: %v", err)
	}
}
