package proxy

import (
	"math"
	"math/bits"
	"sync"
	"time"
)

// forever is later than any time of a proxy's clock.
const forever = time.Duration(math.MaxInt64)

// A stage paces the bytes of one direction of one connection for one rule. It
// is asked by one goroutine, with times of the proxy's clock that never go back.
type stage interface {
	// admit says how many of the n bytes that are ready may pass at now; when
	// none, at what time to ask again (forever: not before the rules change).
	admit(now time.Duration, n int) (pass int, again time.Duration)
	// passed is told how many did. True: the rule strikes now.
	passed(now time.Duration, n int) bool
	rule() *active
}

// kept is the rule's stage of before, with its state, or else a new one.
func kept(before []stage, r *active, anew func() stage) stage {
	for _, s := range before {
		if s.rule() == r {
			return s
		}
	}
	return anew()
}

// bucket lets rate bytes per second pass, a byte when the time is over that it
// takes at this rate. Time counts in whole bytes with the remainder kept, and
// what is lost by waking late is made up for, so that a long transfer takes
// bytes/rate to within one quantum:
//
//	paid    the time up to which the bytes that passed have used up the line
//	rest    what that leaves out, less than 1 ns, in units of 1 ns / rate
//	tokens  (now − paid) · rate − rest
//
// A second bucket bounds how fast it is made up for, so that a receiver who counts
// over a tenth of a second sees the rate there too: up to hasty behind, at
// peakRatio · rate, and only what goes beyond that at once. Within a window w at
// most
//
//	(w + quantumTime + slack) · peakRatio · rate
//
// bytes pass so, 1.09 · rate · w in 100 ms.
type bucket struct {
	by      *active
	paid    time.Duration
	rest    int64
	peak    time.Duration // as paid, at peakRatio · rate
	last    time.Duration
	waiting bool // bytes wait since the last admit
}

const (
	quantumTime = 5 * time.Millisecond  // bytes pass in portions of about so much line time …
	quantumMax  = 64 << 10              // … or of so many bytes
	idleAfter   = 10 * time.Millisecond // with nothing to send for so long, the line's time is lost
	catchUp     = 50 * time.Millisecond // most that is made up for

	peakRatio = 1.03
	slack     = time.Millisecond      // a timer that is late by less does not slow the peak down
	hasty     = 10 * time.Millisecond // who is behind by more does not wait for the peak
)

// quantum is the largest portion, in bytes.
func quantum(rate int64) int64 {
	return min(quantumMax, max(1, rate*int64(quantumTime/time.Millisecond)/1000))
}

func newBucket(by *active, now time.Duration) *bucket {
	return &bucket{by: by, paid: now, peak: now, last: now}
}

func (b *bucket) rule() *active { return b.by }

func (b *bucket) admit(now time.Duration, n int) (int, time.Duration) {
	rate := b.by.Bandwidth.BytesPerS
	if rate == 0 {
		return 0, forever
	}
	if !b.waiting && now-b.last > idleAfter && b.paid < now {
		b.paid, b.rest = now, 0
	}
	b.waiting = true
	need := min(int64(n), quantum(rate))
	b.paid = max(b.paid, now-time.Duration(need*int64(time.Second)/rate)-catchUp)
	var have int64
	if dt := now - b.paid; dt > 0 {
		hi, lo := bits.Mul64(uint64(dt), uint64(rate))
		lo, borrow := bits.Sub64(lo, uint64(b.rest), 0)
		hi -= borrow                                    // no underflow: dt·rate ≥ rate > rest
		q, _ := bits.Div64(hi, lo, uint64(time.Second)) // hi < 10^9: dt ≤ 1 s + catchUp, rate ≤ maxRate
		have = int64(min(q, math.MaxInt32))
	}
	perNs := peakRatio * float64(rate) / float64(time.Second)
	b.peak = min(max(b.peak, now-slack-time.Duration(float64(quantum(rate))/perNs)), now)
	most := max(int64(float64(now-b.peak)*perNs), have-int64(hasty.Seconds()*float64(rate)))
	if have < need || most < need {
		inTime := b.paid + time.Duration((need*int64(time.Second)+b.rest+rate-1)/rate)
		inPeak := b.peak + time.Duration(float64(need)/perNs) + 1
		return 0, max(inTime, inPeak)
	}
	return int(min(int64(n), have, most)), now
}

func (b *bucket) passed(now time.Duration, n int) bool {
	rate := b.by.Bandwidth.BytesPerS
	b.by.did.bytes.Add(int64(n))
	hi, lo := bits.Mul64(uint64(n), uint64(time.Second))
	lo, carry := bits.Add64(lo, uint64(b.rest), 0)
	q, rest := bits.Div64(hi+carry, lo, uint64(rate))
	b.paid += time.Duration(q)
	b.rest = int64(rest)
	b.peak += time.Duration(float64(n) / peakRatio / float64(rate) * float64(time.Second))
	b.last, b.waiting = now, false
	return false
}

// line is what connections share: it is taken up to free, portion by portion.
// Whoever is late for a portion has it all the same, so that the line loses no
// time as long as somebody wants it.
type line struct {
	mu   sync.Mutex
	free time.Duration
	rest int64         // of the time up to free, in units of 1 ns / rate
	last time.Duration // when somebody last had a portion
	used bool
}

// take books n bytes, and tells when they are through.
func (l *line) take(now time.Duration, n, rate int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := now // with nothing to send for so long, the line's time is lost
	if l.used && now-l.last <= idleAfter {
		from = now - catchUp
	}
	if l.free < from {
		l.free, l.rest = from, 0
	}
	hi, lo := bits.Mul64(uint64(n), uint64(time.Second))
	lo, carry := bits.Add64(lo, uint64(l.rest%rate), 0) // the rate may have changed
	q, rest := bits.Div64(hi+carry, lo, uint64(rate))
	l.free += time.Duration(q)
	l.rest, l.used = int64(rest), true
	if l.rest > 0 {
		return l.free + 1
	}
	return l.free
}

func (l *line) had(now time.Duration) {
	l.mu.Lock()
	l.last = max(l.last, now)
	l.mu.Unlock()
}

// portions is a connection's part of a shared line: it books a portion when bytes
// wait, and passes it when the time is over that it takes.
type portions struct {
	by     *active
	line   *line
	booked int // bytes
	due    time.Duration
}

func (p *portions) rule() *active { return p.by }

func (p *portions) admit(now time.Duration, n int) (int, time.Duration) {
	rate := p.by.Bandwidth.BytesPerS
	if rate == 0 {
		return 0, forever
	}
	if p.booked == 0 {
		n := min(int64(n), quantum(rate))
		p.booked, p.due = int(n), p.line.take(now, n, rate)
	}
	if now < p.due {
		return 0, p.due
	}
	return min(n, p.booked), now
}

func (p *portions) passed(now time.Duration, n int) bool {
	p.by.did.bytes.Add(int64(n))
	p.booked -= n
	p.line.had(now)
	return false
}

// cut counts the bytes down that may pass before its rule strikes.
type cut struct {
	by   *active
	left int64
}

func (c *cut) rule() *active { return c.by }

func (c *cut) admit(now time.Duration, n int) (int, time.Duration) {
	return int(min(int64(n), c.left)), forever
}

func (c *cut) passed(_ time.Duration, n int) bool {
	c.left -= int64(n)
	return c.left <= 0
}

// slicer makes pieces, and pauses between them.
type slicer struct {
	by         *active
	of, number uint64 // what it draws for
	piece      uint64 // pieces sent
	left       int64  // of the piece that is next; 0: not drawn yet
	next       time.Duration
}

func (s *slicer) rule() *active { return s.by }

func (s *slicer) admit(now time.Duration, n int) (int, time.Duration) {
	if now < s.next {
		return 0, s.next
	}
	if s.left == 0 {
		s.left = s.by.Slice.size(s.by.draw(s.of, s.number, s.piece))
	}
	return int(min(int64(n), s.left)), now
}

// passed ends the piece, also when it was smaller than drawn: what was written
// at once goes over the wire as one.
func (s *slicer) passed(now time.Duration, n int) bool {
	s.by.did.bytes.Add(int64(n))
	s.piece++
	s.left, s.next = 0, now+s.by.Slice.Delay
	return false
}

// size maps u, even on [0, 1), to Average ± Variation, evenly, at least 1.
func (s *Slice) size(u float64) int64 {
	return max(1, s.Average-s.Variation+int64(u*float64(2*s.Variation+1)))
}

// loss stalls the chunks it hits, and so what is behind them.
type loss struct {
	by          *active
	of, number  uint64 // what it draws for
	chunk       uint64 // chunks drawn for
	left        int    // of the chunk drawn for last
	hit         bool   // it was hit …
	row         int    // … the row-th in a row
	stalled     bool   // it waits, …
	since, till time.Duration
}

func (l *loss) rule() *active { return l.by }

func (l *loss) admit(now time.Duration, n int) (int, time.Duration) {
	if l.left == 0 {
		l.left = min(n, largeBuffer)
		l.draw(now)
	}
	if now < l.till {
		return 0, l.till
	}
	if l.stalled {
		l.by.did.held(now - l.since)
		l.stalled = false
	}
	return min(n, l.left), now
}

func (l *loss) passed(_ time.Duration, n int) bool {
	l.left -= n
	return false
}

// draw decides on the next chunk.
func (l *loss) draw(now time.Duration) {
	again := l.chunk > 0 && l.by.draw(l.of, l.number, 2*l.chunk+1) < l.by.Loss.Correlation
	if !again {
		l.hit = l.by.draw(l.of, l.number, 2*l.chunk) < l.by.Loss.Ratio
	}
	l.chunk++
	if !l.hit {
		l.row = 0
		return
	}
	l.row++
	l.stalled, l.since, l.till = true, now, now+rto(l.row)
	l.by.did.bytes.Add(int64(l.left))
}

// rto is the retransmission timeout of the row-th loss in a row: Linux's
// TCP_RTO_MIN, doubled each time (RFC 6298, 5.5) up to its TCP_RTO_MAX.
func rto(row int) time.Duration {
	return min(200*time.Millisecond<<min(row-1, 10), 120*time.Second)
}

// limit counts the bytes that may pass before its rule closes the connection.
type limit struct {
	c    *conn
	by   *active
	left int64
}

func (l *limit) rule() *active { return l.by }

func (l *limit) admit(now time.Duration, n int) (int, time.Duration) {
	if l.left == 0 { // not even one: the flow is told by a nudge
		l.c.strike(l.by)
		return 0, forever
	}
	return int(min(int64(n), l.left)), now
}

func (l *limit) passed(_ time.Duration, n int) bool {
	l.by.did.bytes.Add(int64(n))
	l.left -= int64(n)
	return l.left <= 0
}

// mute stands for a silence rule: everything may pass, and flow.pass lets it fall.
type mute struct{ by *active }

func (m mute) rule() *active { return m.by }

func (m mute) admit(now time.Duration, n int) (int, time.Duration) { return n, now }

func (m mute) passed(time.Duration, int) bool { return false }

// corrupter lets every byte pass; flow.pass has it flip bits in them.
type corrupter struct {
	by    *active
	of    uint64 // the draws of the direction
	below uint64 // a draw below it is a hit
	flips int64  // in the bytes that are being written
}

func newCorrupter(by *active, of, number uint64) *corrupter {
	return &corrupter{by: by, of: mix(by.key ^ of + number*golden), below: uint64(by.Corrupt.Ratio * (1 << 53))}
}

func (c *corrupter) rule() *active { return c.by }

func (c *corrupter) admit(now time.Duration, n int) (int, time.Duration) { return n, now }

func (c *corrupter) passed(time.Duration, int) bool { return false }

// flip flips the bits that are to be flipped in the bytes from that place in the
// stream on, and tells how many. Twice is as never.
func (c *corrupter) flip(p []byte, place int64) (n int64) {
	for i := range p {
		if x := mix(c.of + uint64(place+int64(i))*golden); x>>11 < c.below {
			p[i] ^= 1 << (x & 7)
			n++
		}
	}
	return n
}
