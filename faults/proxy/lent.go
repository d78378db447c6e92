package proxy

import (
	"sync"
	"time"
)

// lending is how a flow that does nothing but delay has its bytes written while it waits for
// more to come: by the goroutine of the alarms, at once when they are due.
//
// Where hundreds of flows are due together, waking each costs as much as its write(2), and those
// that wake late are overtaken; one loop writes them in the order in which they are due.
//
//	flow: awake ── nothing to read, bytes are held ──> lent ── bytes, a nudge, too much for the loop ──> awake
//	                                                   │  ^
//	                                       alarm rings └──┘ writes
//
// What is lent are the queue, holds, and the side that is written to. While they are, the flow is
// waiting in its read and touches none of them; while they are not, the alarm touches none. So one
// at a time writes, and what ends the wait, a nudge among them, finds a flow that owns everything.
type lending struct {
	mu   sync.Mutex // held while the alarm writes, which waits for nobody
	lent bool
}

// The alarm hands back to the flow what is more than a small write, and, where there are more
// processors than its own, what it comes to so late: one loop cannot write as much as all of them.
const (
	lentMost = largeBuffer
	lentLate = 2 * time.Millisecond
)

// lends tells whether the flow can leave to the alarm what is due at that time.
func (f *flow) lends(until time.Duration) bool {
	return until != forever && f.c.p.alarms != nil && len(f.holds.by) > 0 && len(f.stages) == 0 && f.out.raw != nil
}

// lend leaves it to the alarm, until recall.
func (f *flow) lend() {
	f.queue.received(0, len(f.spaces)) // what was reserved: see reserve
	f.spaces = f.spaces[:0]
	f.lending.mu.Lock()
	f.lending.lent = true
	f.lending.mu.Unlock()
}

// recall takes it back; false where it was not lent.
func (f *flow) recall() bool {
	f.lending.mu.Lock()
	defer f.lending.mu.Unlock()
	was := f.lending.lent
	f.lending.lent = false
	return was
}

// writeDue is the alarm's part: it writes what is due since then, and sets itself for what is due
// next. An error is handed back as well: the flow meets it itself. False where nothing is lent.
func (f *flow) writeDue(since time.Duration) bool {
	f.lending.mu.Lock()
	defer f.lending.mu.Unlock()
	if !f.lending.lent {
		return false
	}
	now := f.c.p.now()
	n := f.holds.ready(now, &f.queue)
	if n > 0 && !f.stuck.Load() {
		if n <= lentMost && (f.c.p.alarms.alone || now-since < lentLate) {
			f.vec = f.queue.front(f.vec[:0], n)
			vec := f.vec
			passed, err := f.writeSome()
			f.vec = vec[:0]
			f.queue.passed(passed)
			f.holds.free -= passed
			f.c.p.stats.lent.Add(int64(passed))
			if err == nil {
				n = 0
			}
		}
		if n > 0 {
			f.in.SetReadDeadline(past)
			f.readBy = unknown
			return true
		}
	}
	f.c.p.alarms.wake(&f.alarm, f.holds.next())
	return true
}
