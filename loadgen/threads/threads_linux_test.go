package threads

import (
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
	undo := Attentive()
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
func TestExtra(t *testing.T) {
	all, real := runtime.GOMAXPROCS(0), Processors()
	one, two := Extra(1), Extra(2)
	if n := runtime.GOMAXPROCS(0); n != all+3 || Processors() != real {
		t.Errorf("%d processors and %d without the extra ones, want %d and %d", n, Processors(), all+3, real)
	}
	one()
	two()
	if n := runtime.GOMAXPROCS(0); n != all || Processors() != real {
		t.Errorf("afterwards there are %d processors and %d without the extra ones, want %d and %d", n, Processors(), all, real)
	}
}
