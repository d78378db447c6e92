package process

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// favoured is the nice value of a process that measures: ahead of ordinary ones,
// behind what the administrator put in front.
const favoured = -10

// Favour puts this process before the services it starts, where the user may do
// so (root, or CAP_SYS_NICE): a generator and a proxy that must wait for a
// processor until the victims are done with it measure themselves. Children start
// at ordinary priority all the same. It tells whether it could.
//
// Linux keeps priorities per thread; a new thread inherits its creator's.
func Favour() bool {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false
	}
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			if unix.Setpriority(unix.PRIO_PROCESS, tid, favoured) != nil {
				return false
			}
		}
	}
	return true
}

// ordinary takes the calling thread back to where Favour found it: 0, because
// only a process that may raise its priority ever left it. The thread must be locked.
func ordinary() {
	if now, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && now == 20-favoured { // the system call counts downwards, from 40 to 1
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 0)
	}
}
