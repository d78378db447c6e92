package threads

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// slice is how long the thread of an event loop asks to run at a time, in ns: the
// least that Linux takes. A thread that is woken goes at once before others with longer
// slices (3 ms by default), such as the garbage collector's, without getting more of
// the processor than they do. Linux knows it since 6.12; before, it does nothing.
const slice = 100_000

// Attentive gives the calling goroutine a thread of its own that wakes up when it is
// due: not up to 50 µs later, to save power (prctl(2), PR_SET_TIMERSLACK), nor when
// others have had their time. The returned function undoes it. It takes no privileges;
// what the kernel does not let it have, it does without.
func Attentive() (undo func()) {
	runtime.LockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	}
	slackened := err != nil
	// Of a thread that is scheduled in another way the user has said what he wants.
	before, err := unix.SchedGetAttr(0, 0)
	if err == nil && before.Policy == unix.SCHED_NORMAL {
		short := *before
		short.Runtime = slice
		err = unix.SchedSetAttr(0, &short, 0)
	}
	sliced := err == nil && before.Policy == unix.SCHED_NORMAL
	return func() {
		if !slackened {
			_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
		}
		if sliced {
			_ = unix.SchedSetAttr(0, before, 0)
		}
		runtime.UnlockOSThread()
	}
}
