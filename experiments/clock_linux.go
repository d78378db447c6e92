package experiments

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock is CLOCK_BOOTTIME, or the run's own clock where there is none.
func bootClock(run time.Duration) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return run
	}
	return time.Duration(t.Nano())
}
