package proxy

import (
	"container/heap"
	"errors"
	"math/bits"
	"slices"
	"syscall"
	"time"
)

// Duplicate sends the datagrams it hits twice. Every copy waits its own time, as drawn
// for it; the loss of one is not drawn for the other. UDP edges only.
type Duplicate struct {
	Direction Direction
}

// Reorder has datagrams overtake one another, or be overtaken. UDP edges only. Where
// latency rules delay a datagram that it hits, it is sent at once, ahead of those that
// wait (as tc-netem(8) does). Where none does, it waits until the next of the same
// session and direction that is not hit has gone, but no longer than Wait.
type Reorder struct {
	Wait      time.Duration // 0 is 100 ms
	Direction Direction
}

const reorderWait = 100 * time.Millisecond

// queueTime is what waits for a bandwidth at most, where it does not say: what passes in
// so long, but at least queueLeast bytes, a datagram of any size.
const (
	queueTime  = 100 * time.Millisecond
	queueLeast = 64 << 10
)

// datagram is one that is held.
type datagram struct {
	s      *session
	isDown bool
	b      []byte
	came   time.Duration
	due    time.Duration
	order  time.Duration // of due: what it waits for the one before, to keep order
	seq    uint64        // of those with the same due, the least goes first
	number uint64
	copy   uint64
	holds  []hold
	cut    bool // a rule that held it is gone: how long it waits says nothing
	index  int  // in relay.held, from 1; 0: it is not there
	claim  int64
}

// hold is what one rule adds to a datagram's time.
type hold struct {
	by *active
	d  time.Duration
}

// heldSize is what a held datagram takes beside its bytes, about.
const heldSize = 256

func (d *datagram) before(e *datagram) bool {
	return d.due < e.due || d.due == e.due && d.seq < e.seq
}

func (d *datagram) placed() *int { return &d.index }

// pass decides what becomes of a datagram, and has it done or held. Its order: what
// drops it; what alters it; how many of it there are; the line that it takes; the time
// that it takes. A rule draws only for what has come so far. b may be written to, and
// is not kept. u.mu is held.
func (u *relay) pass(s *session, isDown bool, b []byte, number uint64, now time.Duration) {
	all := *u.p.rules.Load()
	if len(all) == 0 {
		s.way(isDown).bytes += int64(len(b))
		u.reach(isDown)
		u.write(s, isDown, b)
		return
	}
	w := who{number: number, isCall: !isDown, isAnswer: isDown, begun: now, from: s.from.Addr().Unmap().WithZone("")}
	if why := u.dropped(s, isDown, len(b), all, w); why != "" {
		u.lost[why]++
		return
	}
	u.reach(isDown)
	copies := uint64(1)
	for _, r := range all {
		switch {
		case r.Corrupt != nil && r.Corrupt.Direction.covers(isDown):
			if r.did.drawn(r.picks(w)) {
				r.did.bytes.Add(newCorrupter(r, ofByte, number).flip(b, 0))
			}
		case r.Duplicate != nil && r.Duplicate.Direction.covers(isDown):
			if r.did.drawn(r.picks(w)) {
				r.did.bytes.Add(int64(len(b)))
				copies++
			}
		}
	}
	for i := range copies {
		u.place(s, isDown, b, i, all, w, now)
	}
}

// reach counts a call that is on its way to the upstream.
func (u *relay) reach(isDown bool) {
	if !isDown {
		u.p.stats.reached()
	}
}

// dropped tells by what kind of rule a datagram of n bytes is lost, if it is. u.mu is held.
func (u *relay) dropped(s *session, isDown bool, n int, all rules, w who) string {
	l := s.way(isDown)
	for _, r := range all {
		why := ""
		switch {
		case r.Blackhole != nil:
			if r.did.drawn(r.picks(w)) {
				why = lostBlackhole
			}
		case r.Loss != nil && r.Loss.Direction.covers(isDown):
			if r.did.drawn(r.picks(w) && r.loses(w)) {
				why = lostLoss
			}
		case r.Limit != nil:
			of := who{number: s.number, begun: s.opened, from: w.from}
			if r.id > s.drawn {
				r.did.drawn(r.picks(of))
			}
			if r.Limit.Direction.covers(isDown) && l.bytes+int64(n) > r.Limit.Bytes && r.picks(of) {
				why = lostLimit
			}
		}
		if why != "" {
			r.did.bytes.Add(int64(n))
			return why
		}
	}
	s.drawn = max(s.drawn, all.last())
	l.bytes += int64(n)
	return ""
}

// burst is the fate of the last datagram that a loss rule decided on, in one direction.
type burst struct{ known, lost bool }

// loses draws for a datagram. The proxy's relay's lock is held.
func (r *active) loses(w who) bool {
	b := &r.bursts[0]
	if w.isAnswer {
		b = &r.bursts[1]
	}
	if !b.known || r.draw(ofLoss, w.number, 1) >= r.Loss.Correlation {
		b.lost = r.draw(ofLoss, w.number, 0) < r.Loss.Ratio
	}
	b.known = true
	return b.lost
}

// place sends one copy of a datagram, or holds it until its time. u.mu is held.
func (u *relay) place(s *session, isDown bool, b []byte, copy uint64, all rules, w who, now time.Duration) {
	l := s.way(isDown)
	hits := func(r *active) bool { // counted once for all copies
		if copy > 0 {
			return r.picks(w)
		}
		return r.did.drawn(r.picks(w))
	}
	due := now
	holds := u.holds[:0]
	for _, r := range all {
		if r.Bandwidth == nil || !r.Bandwidth.Direction.covers(isDown) || !hits(r) {
			continue
		}
		at, ok := u.lineOf(l, isDown, r).datagram(due, int64(len(b)), r.Bandwidth)
		if !ok {
			u.lost[lostBandwidth]++
			return
		}
		r.did.bytes.Add(int64(len(b)))
		holds = append(holds, hold{r, at - due})
		due = at
	}
	late, ordered := false, false
	var ahead *active
	for _, r := range all {
		switch {
		case r.Latency != nil && r.toAnswer() == isDown:
			ordered = ordered || r.Latency.KeepOrder
			late = late || r.picks(w) && r.delay(w.number, copy) > 0
		case r.Reorder != nil && r.Reorder.Direction.covers(isDown):
			if hits(r) && ahead == nil {
				ahead = r
			}
		}
	}
	if ahead == nil || !late {
		for _, r := range all {
			if r.Latency != nil && r.toAnswer() == isDown && hits(r) {
				d := r.delay(w.number, copy)
				r.did.bytes.Add(int64(len(b)))
				holds = append(holds, hold{r, d})
				due += d
			}
		}
	} else if l.pending > 0 {
		ahead.did.bytes.Add(int64(len(b)))
	}
	u.holds = holds
	swap := ahead != nil && !late
	if swap {
		wait := ahead.Reorder.Wait
		if wait == 0 {
			wait = reorderWait
		}
		holds = append(holds, hold{ahead, wait})
		due += wait
	}
	if due <= now && len(l.swapped) == 0 && !(ordered && l.pending > 0) {
		for _, h := range holds {
			u.measured(h, 0)
		}
		u.write(s, isDown, b)
		return
	}
	claim := int64(len(b) + heldSize)
	if ok, _ := u.p.held.claim(claim, s.claimed); !ok {
		u.lost[lostHeld]++
		return
	}
	d := &datagram{s: s, isDown: isDown, b: append([]byte(nil), b...), came: now, due: due, number: w.number, copy: copy,
		holds: slices.Clone(holds), claim: claim}
	s.claimed += claim
	s.pending++
	l.pending++
	if ordered {
		d.order = max(0, l.last-due)
		d.due += d.order
		l.last = d.due
	}
	u.hold(d)
	if swap {
		l.swapped = append(l.swapped, d)
		return
	}
	for _, x := range l.swapped { // it has been overtaken
		heap.Remove(&u.held, x.index-1)
		x.holds[len(x.holds)-1].by.did.bytes.Add(int64(len(x.b)))
		x.came, x.due, x.holds, x.cut = d.came, d.due, slices.Clone(d.holds), true // from now on it goes where d goes, behind it
		u.hold(x)
	}
	l.swapped = nil
}

// hold puts a datagram where send finds it. u.mu is held.
func (u *relay) hold(d *datagram) {
	u.seq++
	d.seq = u.seq
	heap.Push(&u.held, d)
	u.wakeAt(d.due)
}

// release sends a datagram whose time has come. u.mu is held.
func (u *relay) release(d *datagram) {
	l := d.s.way(d.isDown)
	l.swapped = slices.DeleteFunc(l.swapped, func(x *datagram) bool { return x == d })
	d.s.pending--
	l.pending--
	d.s.claimed -= d.claim
	u.p.held.give(d.claim)
	u.write(d.s, d.isDown, d.b)
	if d.cut {
		return
	}
	// Each rule is given its part of what was measured.
	waited, sum := u.p.now()-d.came-d.order, time.Duration(0)
	for _, h := range d.holds {
		sum += h.d
	}
	for _, h := range d.holds {
		part := time.Duration(0)
		if sum > 0 {
			part = time.Duration(float64(waited) * (float64(h.d) / float64(sum)))
		}
		u.measured(h, part)
	}
}

// measured records how long a datagram waited for a latency rule.
func (u *relay) measured(h hold, waited time.Duration) {
	if h.by.Latency != nil {
		h.by.did.held(waited)
	}
}

// rulesChanged has the datagrams that are held, and the port, follow the rules of now:
// what a rule held back that is gone is held by the others only.
func (u *relay) rulesChanged() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return
	}
	now := *u.p.rules.Load()
	u.rehold(now)
	var refuse *active
	for _, r := range now {
		if r.Refuse != nil {
			refuse = r
		}
	}
	if (refuse != nil) != u.refusing {
		u.refusing = refuse != nil
		_ = u.port.refuse(u.refusing) // whether it does, the probe finds out
	}
	if refuse != nil && refuse.did.eligible.Load() == 0 {
		refuse.did.drawn(errors.Is(u.port.probe(), syscall.ECONNREFUSED))
	}
}

// rehold gives what is held the times it has under these rules. u.mu is held.
func (u *relay) rehold(now rules) {
	if len(u.held) == 0 {
		return
	}
	ordered := [2]bool{}
	for _, r := range now {
		if r.Latency != nil && r.Latency.KeepOrder {
			ordered[direction(r.toAnswer())] = true
		}
	}
	slices.SortFunc(u.held, func(a, b *datagram) int { return int(a.seq) - int(b.seq) })
	for _, d := range u.held {
		d.s.way(d.isDown).last = 0
	}
	for _, d := range u.held {
		l := d.s.way(d.isDown)
		kept := d.holds[:0]
		due := d.came
		for _, h := range d.holds {
			r := now.now(h.by)
			switch {
			case r.gone.Load():
				d.cut = true
				if h.by.Reorder != nil {
					l.swapped = slices.DeleteFunc(l.swapped, func(x *datagram) bool { return x == d })
				}
				continue
			case r != h.by && r.Latency != nil:
				h.d = r.delay(d.number, d.copy)
			}
			h.by = r
			due += h.d
			kept = append(kept, h)
		}
		d.holds = kept
		d.due, d.order = due, 0
		if ordered[direction(d.isDown)] {
			d.order = max(0, l.last-due)
			d.due += d.order
			l.last = d.due
		}
	}
	for i, d := range u.held {
		d.index = i + 1
	}
	heap.Init(&u.held)
	u.wakeAt(u.held[0].due)
}

func direction(isDown bool) int {
	if isDown {
		return 1
	}
	return 0
}

func (s *session) way(isDown bool) *heading { return &s.ways[direction(isDown)] }

// lineOf is the line of a bandwidth rule: the session's, or the one that all share.
func (u *relay) lineOf(l *heading, isDown bool, r *active) *line {
	if r.Bandwidth.Shared {
		return &r.lines[direction(isDown)]
	}
	if l.lines[r.work] == nil {
		if l.lines == nil {
			l.lines = map[*work]*line{}
		}
		for w := range l.lines {
			if w.gone.Load() {
				delete(l.lines, w)
			}
		}
		l.lines[r.work] = &line{}
	}
	return l.lines[r.work]
}

// datagram books the line for n bytes, and tells when the last of them is through; not
// ok where as much waits for it already as may. The line is a link that sends one
// datagram after the other, and no time of its is lost while one waits:
//
//	begins = max(now, free),  free = begins + n/rate,  waiting = (begins − now) · rate
func (l *line) datagram(now time.Duration, n int64, b *Bandwidth) (through time.Duration, ok bool) {
	if b.BytesPerS == 0 {
		return 0, false
	}
	most := b.Queue
	if most == 0 {
		most = max(queueLeast, b.BytesPerS*int64(queueTime/time.Millisecond)/1000)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free < now {
		l.free, l.rest = now, 0
	}
	if waiting := (l.free - now).Seconds() * float64(b.BytesPerS); waiting > 0 && waiting+float64(n) > float64(most) {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(n), uint64(time.Second))
	lo, carry := bits.Add64(lo, uint64(l.rest%b.BytesPerS), 0)
	q, rest := bits.Div64(hi+carry, lo, uint64(b.BytesPerS))
	l.free += time.Duration(q)
	l.rest = int64(rest)
	return l.free, true
}
