package proxy

import (
	"sync"
	"time"
)

// lending is how a flow that does nothing but delay has its bytes written while it waits for
// more to come: by the ringer (alarms.go), at once when they are due.
//
// Where hundreds of flows are due together, waking each costs as much as its write(2), and those
// that wake late are overtaken; one loop writes them in the order in which they are due.
//
//	flow: awake ── nothing to read, bytes are held ──> lent ── bytes, a nudge, too much for the loop ──> awake
//	                                                   │  ^
//	                                       alarm rings └──┘ writes
//
// What is lent are the queue, holds, and the side that is written to. While they are, the flow is
// waiting in its read and touches none of them; while they are not, the ringer touches none. So one
// at a time writes, and what ends the wait, a nudge among them, finds a flow that owns everything.
type lending struct {
	mu    sync.Mutex // held while the ringer writes, which waits for nobody
	state lendingState
}

type lendingState byte

const (
	awake   lendingState = iota
	lent                 // the flow reads, and the ringer writes what is due
	reading              // the flow reads until something is due
)

// The ringer hands back to the flow what is more than a small write, and, where there are more
// processors than its own, what it comes to so late: one loop cannot write as much as all of them.
const (
	lentMost = largeBuffer
	lentLate = 2 * time.Millisecond
)

// lends tells whether the flow can leave to the ringer what is due at that time.
func (f *flow) lends(until time.Duration) bool {
	return until != forever && f.c.p.alarms != nil && len(f.holds.by) > 0 && len(f.stages) == 0 && f.out.raw != nil
}

// lend leaves it to the ringer, until recall.
func (f *flow) lend() {
	f.queue.received(0, len(f.spaces)) // what was reserved: see reserve
	f.spaces = f.spaces[:0]
	f.lending.become(lent)
}

func (l *lending) become(s lendingState) (was lendingState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, l.state = l.state, s
	return was
}

// settle returns when what the ringer has written by now is counted (as link.settle).
func (l *lending) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
}

// recall takes it back; false where it was not lent.
func (f *flow) recall() bool { return f.lending.become(awake) == lent }

// rung implements sleeper.
func (f *flow) rung(due time.Duration, alone bool) {
	f.lending.mu.Lock()
	defer f.lending.mu.Unlock()
	switch f.lending.state {
	case lent:
		if f.writeDue(due, alone) {
			f.c.p.alarms.wake(&f.alarm, f.holds.next())
			return
		}
		fallthrough
	case reading: // or an error, which the flow meets itself
		f.readBy = unknown
		f.in.SetReadDeadline(past)
	case awake: // in wait, perhaps
		f.rouse()
	}
}

// writeDue writes what is due, since then; false: the flow has to.
func (f *flow) writeDue(since time.Duration, alone bool) bool {
	now := f.c.p.now()
	n := f.holds.ready(now, &f.queue)
	switch {
	case n == 0 || f.stuck.Load():
		return true
	case n > lentMost, !alone && now-since >= lentLate:
		return false
	}
	f.vec = f.queue.front(f.vec[:0], n)
	vec := f.vec
	passed, err := f.writeSome()
	f.vec = vec[:0]
	f.queue.passed(passed)
	f.holds.free -= passed
	f.c.p.stats.lent.Add(int64(passed))
	return err == nil
}
