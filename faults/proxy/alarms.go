package proxy

import (
	"container/heap"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// alarms wake the Go runtime when flows are due. Timers and deadlines do so by
// themselves, but a runtime with nothing else to do sleeps in epoll_wait(2), whose
// timeout is in whole milliseconds, and is up to one late. A timerfd(2) among
// what it polls has it wake within some 50 µs, and then it runs the timers that
// are due.
//
// Where a flow has lent what it holds back (lent.go), the alarm writes it as well.
//
// For all others nothing depends on an alarm but how exact a time is kept: one that rings for
// nothing does no harm, and where there is no timerfd flows are late as before.
type alarms struct {
	start time.Time // of the proxy's clock
	file  *os.File
	raw   syscall.RawConn
	alone bool // there is one processor

	mu    sync.Mutex
	set   indexed[*alarm]
	at    time.Duration // when the timerfd rings; forever: not at all
	again time.Duration // not before
	arm   func(fd uintptr)
}

// alarmPause is between two rings, so that where many flows are due one after the
// other they get the time, and not the alarms.
const alarmPause = 50 * time.Microsecond

// alarm is that of one flow.
type alarm struct {
	at    time.Duration
	flow  *flow // that may lend its queue, whose bytes the alarm then writes; nil: none
	index int   // in alarms.set, from 1; 0: it is not set
}

func (x *alarm) before(y *alarm) bool { return x.at < y.at }
func (x *alarm) placed() *int         { return &x.index }

// newAlarms returns nil, on which all methods do nothing, when there is no timerfd.
func newAlarms(start time.Time) *alarms {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil
	}
	a := &alarms{start: start, file: os.NewFile(uintptr(fd), "timerfd"), at: forever, alone: runtime.GOMAXPROCS(0) == 1}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
		return nil
	}
	a.arm = func(fd uintptr) {
		in := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(1, a.at-time.Since(a.start))))}
		_ = unix.TimerfdSettime(int(fd), 0, &in, nil) // cannot fail for such a value
	}
	return a
}

// run serves the alarms until close.
func (a *alarms) run() {
	for rung := make([]byte, 8); ; {
		if _, err := a.file.Read(rung); err != nil {
			return
		}
		a.mu.Lock()
		a.at = 0 // until all that are due have been served
		for len(a.set) > 0 {
			now := time.Since(a.start)
			if a.set[0].at > now {
				break
			}
			x := heap.Pop(&a.set).(*alarm)
			since := x.at
			a.mu.Unlock()
			wrote := x.flow != nil && x.flow.writeDue(since)
			a.mu.Lock()
			if !wrote {
				a.again = now + alarmPause
			}
		}
		a.at = forever
		a.rearm()
		a.mu.Unlock()
	}
}

// rearm has the timerfd ring for the first alarm. a.mu is held.
func (a *alarms) rearm() {
	if len(a.set) > 0 && max(a.set[0].at, a.again) < a.at {
		a.at = max(a.set[0].at, a.again)
		_ = a.raw.Control(a.arm) // fails only when closed
	}
}

// wake sets the alarm to that time, instead of any other.
func (a *alarms) wake(x *alarm, at time.Duration) {
	if a == nil || at == forever {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case x.index == 0:
		x.at = at
		heap.Push(&a.set, x)
	case x.at != at:
		x.at = at
		heap.Fix(&a.set, x.index-1)
	}
	a.rearm()
}

// stop is for an alarm that will not be used any more.
func (a *alarms) stop(x *alarm) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x.index > 0 {
		heap.Remove(&a.set, x.index-1)
	}
}

func (a *alarms) close() {
	if a != nil {
		a.file.Close()
	}
}
