package node

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dieWithParent asks the kernel to kill this process when its parent ends.
// parent, when not 0, is who that should be. A parent that ended before the
// kernel was asked sends no signal: that shows as a changed parent pid.
func dieWithParent(parent int) error {
	before := os.Getppid()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tie the process's life to its parent's: %w", err)
	}
	now := os.Getppid()
	if now != before || (parent != 0 && now != parent) {
		return fmt.Errorf("the parent process is gone (pid %d, now %d)", max(parent, before), now)
	}
	return nil
}
