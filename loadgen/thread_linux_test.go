package loadgen

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttentive(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack := func() int {
		ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
		if err != nil {
			t.Skip(err)
		}
		return ns
	}
	before := slack()
	undo := attentive()
	if ns := slack(); ns != 1 {
		t.Errorf("the thread wakes up to %d ns late, want 1", ns)
	}
	undo()
	if ns := slack(); ns != before {
		t.Errorf("afterwards the slack is %d ns, before it was %d", ns, before)
	}
}

// The processors that Go is told of are as many more as were asked for, and those for
// goroutines as many as ever.
func TestExtraProcessors(t *testing.T) {
	all, real := runtime.GOMAXPROCS(0), processors()
	one, two := extraProcessors(1), extraProcessors(2)
	if n := runtime.GOMAXPROCS(0); n != all+3 || processors() != real {
		t.Errorf("%d processors and %d without the extra ones, want %d and %d", n, processors(), all+3, real)
	}
	one()
	two()
	if n := runtime.GOMAXPROCS(0); n != all || processors() != real {
		t.Errorf("afterwards there are %d processors and %d without the extra ones, want %d and %d", n, processors(), all, real)
	}
}

func TestReserveFiles(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 5000 {
		t.Skipf("the limit of open files is %d: %v", limit.Cur, err)
	}
	reserveFiles(4000)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	room := 0
	_, line, _ := bytes.Cut(status, []byte("\nFDSize:"))
	if _, err := fmt.Sscan(string(line), &room); err != nil || room < 4000 {
		t.Errorf("there is room for %d descriptors, want at least 4000; %v", room, err)
	}
	reserveFiles(1 << 30) // more than allowed: as many as are
}
