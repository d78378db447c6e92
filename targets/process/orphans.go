package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Mark is the variable that names its run in the environment of every child.
// What a child starts inherits it, also what leaves the child's process group or
// session, so that whoever cleans up behind a dead runner knows what was the run's
// and what was not.
const Mark = "CHAOSCTL_RUN"

// Marked lists the processes, zombies left out, whose environment says that they
// belong to this run, but for the one that asks. Processes that may not be looked at (somebody else's) are
// not ours.
func Marked(run string) ([]int, error) {
	names, err := processNames()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() && marked(pid, run) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// marked looks at the environment a process was started with. A zombie has none.
func marked(pid int, run string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	for entry := range bytes.SplitSeq(b, []byte{0}) {
		if string(entry) == Mark+"="+run {
			return true
		}
	}
	return false
}

// KillMarked kills every process of the run, and returns which they were when
// none is left. It looks again until then: one of them may have been forking.
// Each is held by a descriptor while it is looked at, so that a number given to a
// stranger meanwhile hits nobody.
func KillMarked(ctx context.Context, run string) (killed []int, err error) {
	if run == "" {
		return nil, errors.New("kill the processes of a run: it has no id")
	}
	err = poll(ctx, func() (bool, error) {
		pids, err := Marked(run)
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		for _, pid := range pids {
			did, err := killHeld(ctx, pid, func() bool { return marked(pid, run) })
			if err != nil {
				return false, fmt.Errorf("kill process %d of run %s: %w", pid, run, err)
			}
			if did && !slices.Contains(killed, pid) {
				killed = append(killed, pid)
			}
		}
		return false, nil
	}, func() error {
		pids, _ := Marked(run)
		return fmt.Errorf("processes %v of run %s did not die of SIGKILL", pids, run)
	})
	return killed, err
}

// killHeld kills a process if it is still the one that is meant, and waits until
// it is gone. That it shows no environment any more would not do: a process that
// exits gives up its memory first, and its ports only then.
func killHeld(ctx context.Context, pid int, meant func() bool) (did bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if !meant() {
		return false, nil
	}
	err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = poll(ctx, func() (bool, error) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err == unix.EINTR {
			err = nil
		}
		return n > 0, err // readable: it has ended
	}, func() error { return fmt.Errorf("it did not die of SIGKILL: %w", context.Cause(ctx)) })
	return err == nil, err
}
