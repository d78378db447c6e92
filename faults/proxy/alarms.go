package proxy

import (
	"container/heap"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/loadgen/threads"
)

// alarms wake those of a proxy's flows that are due, or write what is due in their
// place (lent.go). Go's timers and deadlines do so as well, but a runtime with
// nothing else to do sleeps in epoll_wait(2), whose timeout is in whole
// milliseconds, and is up to one late; and where others run, what is due waits for
// its turn.
//
// Nothing depends on an alarm but how exact a time is kept: one that rings for
// nothing does no harm, and where there is no timerfd flows are late.
type alarms struct {
	ahead  time.Duration // zero of the proxy's clock on the ringer's
	closed bool          // guarded by ringers.mu
}

// alarm is one sleeper's.
type alarm struct {
	wakes sleeper
	of    *alarms
	at    time.Duration // on the ringer's clock
	index int           // in ringer.set, from 1; 0: it is not set
}

// sleeper is told that its alarm rings, which was set for that time of its proxy's
// clock. It must not wait. Alone: there is one processor.
type sleeper interface {
	rung(due time.Duration, alone bool)
}

func (x *alarm) before(y *alarm) bool { return x.at < y.at }
func (x *alarm) placed() *int         { return &x.index }

// ringers has the ringer of the process, which there is for as long as there are
// proxies that may set an alarm; its goroutine, from the first alarm on.
type ringers struct {
	epoch time.Time // zero of the ringer's clock

	mu    sync.Mutex
	users int
	now   *ringer // nil: there are no users
}

var sharedRinger = ringers{epoch: time.Now()}

// newAlarms are those of a proxy whose clock starts then, until close; nil when there
// is no timerfd. On nil, as on those that are closed, all methods do nothing.
func newAlarms(start time.Time) *alarms {
	s := &sharedRinger
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
		if err != nil {
			return nil
		}
		s.now = &ringer{of: s, fd: fd, at: forever, alone: threads.Processors() == 1, done: make(chan struct{})}
	}
	s.users++
	return &alarms{ahead: start.Sub(s.epoch)}
}

// wake sets the alarm to that time of the proxy's clock, instead of any other.
func (a *alarms) wake(x *alarm, at time.Duration) {
	if a == nil || at == forever {
		return
	}
	s := &sharedRinger
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.closed {
		return
	}
	if !s.now.runs {
		s.now.runs = true
		go s.now.run()
	}
	x.of = a
	s.now.wake(x, at+a.ahead)
}

// stop is for an alarm that will not be used any more.
func (a *alarms) stop(x *alarm) {
	if a == nil {
		return
	}
	s := &sharedRinger
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.index > 0 { // or close has done so
		heap.Remove(&s.now.set, x.index-1)
	}
}

// close stops all alarms of the proxy. The last one returns when the ringer has
// ended.
func (a *alarms) close() {
	if a == nil {
		return
	}
	s := &sharedRinger
	s.mu.Lock()
	a.closed = true
	r := s.now
	r.drop(a)
	if s.users--; s.users > 0 {
		s.mu.Unlock()
		return
	}
	s.now = nil
	r.ended = true
	r.arm(0)
	s.mu.Unlock()
	if r.runs {
		<-r.done
	}
	unix.Close(r.fd)
}

// ringer is a goroutine that blocks its thread until shortly before an alarm is due,
// by as much as it is used to be woken late, and then asks the clock until it is.
// What is not constant is guarded by ringers.mu.
type ringer struct {
	of    *ringers
	fd    int  // a timerfd(2), which unlike other timeouts has no slack
	alone bool // there is one processor
	done  chan struct{}
	runs  bool // run does, or did
	ended bool

	set   indexed[*alarm]
	at    time.Duration // which alarm the timerfd is set for; forever: none
	wakes time.Duration // when it is to ring for it
	again time.Duration // no alarm is waited for before, but served with others

	late   time.Duration // how late it wakes, on average
	credit time.Duration // for so long it may ask the clock …
	as     time.Duration // … as of then
}

const (
	// ringPause is between two rings. Where many alarms are due one after the other,
	// several are served at once: a receiver that is awake takes half of the time of one
	// that has to be woken.
	ringPause = 50 * time.Microsecond
	// mostLate is what is made up for: more is not usual.
	mostLate = 100 * time.Microsecond
	// Asking the clock may take one askingPart-th of the time, mostCredit of it at once.
	askingPart = 50
	mostCredit = 5 * time.Millisecond
)

func (r *ringer) now() time.Duration { return time.Since(r.of.epoch) }

func (r *ringer) run() {
	defer close(r.done)
	defer threads.Extra(1)()
	defer threads.Attentive()()
	for {
		r.wait()
		r.of.mu.Lock()
		if r.ended {
			r.of.mu.Unlock()
			return
		}
		if late := r.now() - r.wakes; late < mostLate {
			r.late += (late - r.late) / 8
		}
		r.serve()
		r.of.mu.Unlock()
	}
}

// serve rings every alarm that is due, and has the timerfd ring for the next.
// ringers.mu is held, but not while anybody is told.
func (r *ringer) serve() {
	r.at = 0 // nobody sets the timerfd meanwhile
	for len(r.set) > 0 {
		now, first := r.now(), r.set[0]
		if first.at > now {
			if first.at < r.again || first.at-now > r.lead(now) {
				break
			}
			at := first.at // it may be set anew meanwhile
			r.of.mu.Unlock()
			for r.now() < at {
			}
			r.of.mu.Lock()
			r.credit -= at - now
			continue
		}
		heap.Pop(&r.set)
		due := first.at - first.of.ahead
		r.of.mu.Unlock()
		first.wakes.rung(due, r.alone)
		r.of.mu.Lock()
		r.again = now + ringPause
	}
	r.at = forever
	r.rearm()
}

// lead is how long before an alarm is due the timerfd is to ring.
func (r *ringer) lead(now time.Duration) time.Duration {
	r.credit = min(r.credit+(now-r.as)/askingPart, mostCredit)
	r.as = now
	if r.credit <= 0 {
		return 0
	}
	return r.late
}

// rearm has the timerfd ring for the first alarm.
func (r *ringer) rearm() {
	if len(r.set) == 0 || max(r.set[0].at, r.again) >= r.at {
		return
	}
	r.at = max(r.set[0].at, r.again)
	now := r.now()
	r.wakes = max(now, r.at-r.lead(now))
	r.arm(r.wakes - now)
}

// arm has the timerfd ring in so long a time.
func (r *ringer) arm(in time.Duration) {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(1, in)))}
	_ = unix.TimerfdSettime(r.fd, 0, &at, nil) // cannot fail for such a value
}

// wait blocks until the timerfd rings.
func (r *ringer) wait() {
	var count [8]byte
	for {
		_, _, errno := syscall.Syscall(unix.SYS_READ, uintptr(r.fd), uintptr(unsafe.Pointer(&count)), uintptr(len(count)))
		switch errno {
		case 0:
			return
		case unix.EINTR:
		default: // a file descriptor that is not ours any more
			panic(os.NewSyscallError("read of a timerfd", errno))
		}
	}
}

func (r *ringer) wake(x *alarm, at time.Duration) {
	switch {
	case x.index == 0:
		x.at = at
		heap.Push(&r.set, x)
	case x.at != at:
		x.at = at
		heap.Fix(&r.set, x.index-1)
	}
	r.rearm()
}

// drop stops the alarms of one proxy.
func (r *ringer) drop(of *alarms) {
	kept := r.set[:0]
	for _, x := range r.set {
		if x.index = 0; x.of != of {
			kept = append(kept, x)
			x.index = len(kept)
		}
	}
	clear(r.set[len(kept):])
	r.set = kept
	heap.Init(&r.set)
}
