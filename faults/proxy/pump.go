package proxy

import (
	"errors"
	"io"
	"runtime"
	"slices"
	"time"
	"unsafe"
)

// tunnel passes on bytes as they come, for the rest of the connection, those
// that wait in the buffer first.
func (f *flow) tunnel() error {
	f.sent = 0
	f.enqueue()
	if !f.isDown && f.out == nil {
		if err := f.c.dial(); err != nil {
			return err
		}
	}
	if err := f.look(); err != nil {
		return err
	}
	return f.pump()
}

// enqueue puts what waits in the buffer into the queue, free to go.
func (f *flow) enqueue() {
	f.holds.free = f.w - f.r
	if f.w > f.r {
		if f.c.origin == nil { // else it has been seen
			f.saw(f.buf[f.r:f.w])
		}
		f.queue.adopt(f.buf, f.r, f.w, f.claimed)
		f.buf, f.claimed = nil, 0
	}
	f.release()
}

// pump is one loop: pass on what may pass, then read until the next byte may.
// Reading goes on while bytes are held, also when the receiver takes none, so that
// each is held from the moment it came; what is held is bounded, and then the
// sender waits.
func (f *flow) pump() error {
	for {
		now := f.c.p.now()
		until := forever
		if n := f.holds.ready(now, &f.queue); n == 0 || f.stuck.Load() {
			until = f.holds.next()
		} else {
			n, again := f.admit(now, n)
			if n > 0 {
				if err := f.pass(n); err != nil {
					return err
				}
				if len(f.holds.by) > 0 {
					runtime.Gosched() // many may be due at once: all write first, and then look what has come
				}
				if f.holds.free == 0 || len(f.holds.by) == 0 {
					continue
				}
				again = now // what has come meanwhile is read at once: it is held from then on
			}
			until = again
		}

		var err error
		switch {
		case f.eof && f.queue.n == 0 && now >= f.holds.end:
			return io.EOF
		case f.eof && f.queue.n == 0:
			err = f.wait(f.holds.end)
		case f.eof:
			err = f.wait(until)
		case f.unseen():
			f.queue.drop()
			err = f.direct()
		default:
			err = f.receive(until)
		}
		switch {
		case errors.Is(err, io.EOF):
			f.holds.receiveEnd(f.c, f.c.p.now())
		case errors.Is(err, errNudged):
			if err := f.look(); err != nil {
				return err
			}
		case err != nil && !errors.Is(err, errDue):
			return err
		}
	}
}

// receive reads into the queue until that time. Where nothing more may be held, it
// waits: for the time, or for others to hold less.
func (f *flow) receive(until time.Duration) error {
	held := len(f.holds.by) > 0
	if !f.reserve() {
		if held && until > f.c.p.now() {
			f.queue.budget.await(f, f.queue.refused)
		}
		return f.wait(until)
	}
	f.ago = 0
	n, err := f.readQuick(until)
	if !f.isDown && !f.c.greeting.over {
		f.sawIn(f.spaces, n)
	}
	f.queue.received(n, len(f.spaces))
	at := f.c.p.now()
	if f.ago > 0 {
		at = f.arrived.came(at, f.ago, !f.queue.full)
	}
	f.holds.receive(f.c, at, n)
	return err
}

// reserve has f.spaces be where the next bytes go; false: nothing more may be held.
func (f *flow) reserve() bool {
	f.spaces = f.spaces[:0]
	held := len(f.holds.by) > 0
	if held && !f.holds.room(&f.queue) {
		return false
	}
	p := f.queue.room(held)
	if p == nil {
		return false
	}
	f.spaces = append(f.spaces, p)
	if held && f.in.raw != nil && f.pipe == nil {
		f.spaces = f.queue.more(f.spaces)
	}
	return true
}

// pass writes n bytes from the queue, or lets them fall.
func (f *flow) pass(n int) error {
	if f.mute != nil {
		f.mute.did.bytes.Add(int64(n))
		f.queue.passed(n)
		f.holds.free -= n
		return nil
	}
	n = min(n, passMost)
	place := f.sent
	for _, c := range f.corrupt {
		c.flips = f.flip(c, place, 0, n)
	}
	vec := f.queue.front(f.vec[:0], n)
	f.vec = vec
	var passed int
	var err error
	switch holds := len(f.holds.by) > 0; {
	case holds && f.out.raw != nil:
		passed, err = f.writeSome()
	case holds && f.out.tls != nil:
		passed, err = f.offer()
	default:
		passed, err = f.writev(&f.vec)
	}
	f.vec = vec[:0]
	for _, c := range f.corrupt { // what was not written is as it was
		c.by.did.bytes.Add(c.flips - f.flip(c, place, passed, n))
	}
	n = passed
	f.queue.passed(n)
	f.holds.free -= n
	if struck := f.passed(n); struck != nil {
		return struck
	}
	if errors.Is(err, errNudged) {
		return f.look()
	}
	return err
}

// passMost is what is written at once: no more, so that between two writes what
// has come meanwhile is read.
const passMost = 16 * largeBuffer

// flip flips bits in those of the bytes in front of the queue, from and to
// counted from its first, which is at that place in the stream.
func (f *flow) flip(c *corrupter, place int64, from, to int) (n int64) {
	at := 0
	for _, p := range f.queue.front(nil, to) {
		if skip := max(0, from-at); skip < len(p) {
			n += c.flip(p[skip:], place+int64(at+skip))
		}
		at += len(p)
	}
	return n
}

// holds is what latency rules hold back in one direction of a raw conn: which of
// the bytes in the flow's queue may go on, and when the others may.
//
//	queue  =  free bytes, then the bytes of each mark, oldest first
type holds struct {
	by      rules // the latency rules of this direction that hit the conn
	free    int
	marks   []mark // [first:]
	first   int
	piece   uint64        // chunks received so far
	end     time.Duration // when EOF may be passed on
	claimed int64         // of the budget, for marks
}

// mark is a chunk that was received at once.
type mark struct {
	n       int
	at, due time.Duration
	piece   uint64
	known   uint64 // rules up to this id hold it
	short   bool   // a rule that held it is gone: not a measurement any more
}

const (
	markSize   = int64(unsafe.Sizeof(mark{}))
	ownMarks   = 1024 // more are claimed from the budget
	leastMarks = 16
)

// room sees to it that there is room for one more mark.
func (h *holds) room(q *queue) bool {
	if len(h.marks) < cap(h.marks) {
		return true
	}
	if h.first > len(h.marks)/2 {
		h.marks, h.first = h.marks[:copy(h.marks, h.marks[h.first:])], 0
		return true
	}
	n := max(leastMarks, 2*cap(h.marks))
	claimed := int64(0)
	if n > ownMarks {
		if claimed = int64(n) * markSize; !q.claim(claimed) {
			return false
		}
	}
	marks := append(make([]mark, 0, n), h.marks[h.first:]...)
	h.drop(q)
	h.marks, h.claimed = marks, claimed
	return true
}

// drop gives the marks back.
func (h *holds) drop(q *queue) {
	if h.claimed > 0 {
		q.give(h.claimed)
	}
	h.marks, h.first, h.claimed = nil, 0, 0
}

// ready frees the chunks whose time has come, and tells how many bytes may go.
func (h *holds) ready(now time.Duration, q *queue) int {
	for h.first < len(h.marks) && h.marks[h.first].due <= now {
		m := h.marks[h.first]
		h.first++
		h.free += m.n
		if !m.short {
			h.measure(m, now-m.at)
		}
	}
	if h.first == len(h.marks) {
		h.marks, h.first = h.marks[:0], 0
		if h.claimed > 0 {
			h.drop(q)
		}
	}
	return h.free
}

// measure gives each rule its part of the time that a chunk was held.
func (h *holds) measure(m mark, held time.Duration) {
	var sum time.Duration
	for _, r := range h.by {
		if r.id <= m.known {
			sum += r.Latency.Delay
		}
	}
	for _, r := range h.by {
		switch {
		case r.id > m.known:
		case r.Latency.Delay == sum: // the only one, as a rule
			r.did.held(held)
		default:
			r.did.held(time.Duration(float64(held) * float64(r.Latency.Delay) / float64(sum)))
		}
	}
}

// next is when the oldest chunk may go on.
func (h *holds) next() time.Duration {
	if h.first == len(h.marks) {
		return forever
	}
	return h.marks[h.first].due
}

// receive counts n bytes that came just now.
func (h *holds) receive(c *conn, now time.Duration, n int) {
	if n == 0 {
		return
	}
	if len(h.by) == 0 {
		h.free += n
		return
	}
	for _, r := range h.by {
		r.did.bytes.Add(int64(n))
	}
	m := mark{n: n, at: now, piece: h.piece, known: h.by.last()}
	h.piece++
	m.due = h.after(c, m, h.last())
	h.marks = append(h.marks, m) // see room
}

// receiveEnd notes when EOF, which came just now, may be passed on.
func (h *holds) receiveEnd(c *conn, now time.Duration) {
	h.end = now
	if len(h.by) > 0 {
		h.end = h.after(c, mark{at: now, piece: h.piece, known: h.by.last()}, h.last())
	}
}

// after is when a chunk may go on: when every rule has had its delay, and not
// before the chunk that came before it, at that time.
func (h *holds) after(c *conn, m mark, before time.Duration) time.Duration {
	due := m.at
	for _, r := range h.by {
		if r.id <= m.known {
			due += r.delay(c.number, m.piece)
		}
	}
	return max(due, before)
}

// last is when the youngest chunk may go on.
func (h *holds) last() time.Duration {
	if h.first == len(h.marks) {
		return 0
	}
	return h.marks[len(h.marks)-1].due
}

// restage takes over the rules of now. What was held by a rule that is gone is
// held by the others only.
func (h *holds) restage(f *flow, now rules) {
	var by rules
	for _, r := range now {
		if r.Latency != nil && !r.Latency.inBody() && r.toAnswer() == f.isDown && r.picks(f.c.who()) {
			by = append(by, r)
		}
	}
	lost := slices.ContainsFunc(h.by, func(r *active) bool { return !slices.Contains(by, r) })
	h.by = by
	if !lost {
		return
	}
	before := time.Duration(0)
	for i := h.first; i < len(h.marks); i++ {
		m := &h.marks[i]
		m.due, m.short = h.after(f.c, *m, before), true
		before = m.due
	}
	h.end = max(min(h.end, f.c.p.now()), before)
}
