package proxy

import (
	"errors"
	"io"
	"slices"
	"time"
)

// tunnel passes on bytes as they come, for the rest of the connection, those
// that wait in the buffer first.
func (f *flow) tunnel() error {
	f.sent, f.holds.free = 0, f.w-f.r
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

// pump is one loop: pass on what may pass, then read until the next byte may.
// Reading goes on while bytes are held, so that each is held from the moment it
// came; what is held is bounded, and then the sender waits.
func (f *flow) pump() error {
	for {
		now := f.c.p.now()
		until := forever
		if n := f.holds.ready(now); n > 0 {
			n, again := f.admit(now, n)
			if n > 0 {
				if err := f.pass(n); err != nil {
					return err
				}
				continue
			}
			until = again
		} else {
			until = f.holds.next()
		}

		var n int
		var err error
		switch {
		case f.eof && f.r == f.w && now >= f.holds.end:
			return io.EOF
		case f.eof && f.r == f.w:
			err = f.wait(f.holds.end)
		case f.unseen():
			err = f.direct()
		case f.eof, f.holds.full(), !f.room(f.holds.most()):
			err = f.wait(until)
		default:
			n, err = f.read(f.buf[f.w:], until)
			f.received(n)
			f.holds.receive(f.c, f.c.p.now(), n)
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

// pass writes n bytes from the buffer, or lets them fall.
func (f *flow) pass(n int) error {
	if f.mute != nil {
		f.mute.did.bytes.Add(int64(n))
		f.r += n
		f.holds.free -= n
		return nil
	}
	p, place := f.buf[f.r:f.r+n], f.sent
	for _, c := range f.corrupt {
		c.flips = c.flip(p, place)
	}
	n, err := f.write(p)
	for _, c := range f.corrupt { // what was not written is as it was
		c.by.did.bytes.Add(c.flips - c.flip(p[n:], place+int64(n)))
	}
	f.r += n
	f.holds.free -= n
	if struck := f.passed(n); struck != nil {
		return struck
	}
	if errors.Is(err, errNudged) {
		return f.look()
	}
	return err
}

// holds is what latency rules hold back in one direction of a raw conn: which of
// the bytes in the flow's buffer may go on, and when the others may.
//
//	buf[r:w]  =  free bytes, then the bytes of each mark, oldest first
type holds struct {
	by    rules // the latency rules of this direction that hit the conn
	free  int
	marks []mark // [first:]
	first int
	piece uint64        // chunks received so far
	end   time.Duration // when EOF may be passed on
}

// mark is a chunk that was received at once.
type mark struct {
	n       int
	at, due time.Duration
	piece   uint64
	known   uint64 // rules up to this id hold it
	short   bool   // a rule that held it is gone: not a measurement any more
}

const marksMost = 128 << 10

// ready frees the chunks whose time has come, and tells how many bytes may go.
func (h *holds) ready(now time.Duration) int {
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

func (h *holds) full() bool { return len(h.marks)-h.first >= marksMost }

// most is how large a buffer the direction may have.
func (h *holds) most() int {
	if len(h.by) == 0 {
		return largeBuffer
	}
	return heldMost
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
	if h.first > len(h.marks)/2 && len(h.marks) == cap(h.marks) {
		h.marks = h.marks[:copy(h.marks, h.marks[h.first:])]
		h.first = 0
	}
	m := mark{n: n, at: now, piece: h.piece, known: h.by.last()}
	h.piece++
	m.due = h.after(c, m)
	h.marks = append(h.marks, m)
}

// receiveEnd notes when EOF, which came just now, may be passed on.
func (h *holds) receiveEnd(c *conn, now time.Duration) {
	h.end = now
	if len(h.by) > 0 {
		h.end = h.after(c, mark{at: now, piece: h.piece, known: h.by.last()})
	}
}

// after is when a chunk may go on: when every rule has had its delay, and not
// before the chunk that came before it.
func (h *holds) after(c *conn, m mark) time.Duration {
	due := m.at
	for _, r := range h.by {
		if r.id <= m.known {
			due += r.delay(c.number, m.piece)
		}
	}
	if n := len(h.marks); n > h.first {
		due = max(due, h.marks[n-1].due)
	}
	return due
}

// restage takes over the rules of now. What was held by a rule that is gone is
// held by the others only.
func (h *holds) restage(f *flow, now rules) {
	var by rules
	for _, r := range now {
		if r.Latency != nil && r.toAnswer() == f.isDown && r.picks(f.c.who()) {
			by = append(by, r)
		}
	}
	lost := slices.ContainsFunc(h.by, func(r *active) bool { return !slices.Contains(by, r) })
	h.by = by
	if !lost {
		return
	}
	marks := h.marks[h.first:]
	h.marks, h.first = nil, 0
	for _, m := range marks {
		m.due, m.short = h.after(f.c, m), true
		h.marks = append(h.marks, m)
	}
	h.end = min(h.end, f.c.p.now())
	if n := len(h.marks); n > 0 {
		h.end = max(h.end, h.marks[n-1].due)
	}
}
