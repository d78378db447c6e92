package proxy

import (
	"container/heap"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// stream is one call of an h2: a request and its answer, each in a half of its own,
// so that what holds one back holds back nothing else. conn.mu guards it.
//
// A rule strikes the stream, where on HTTP/1.x it strikes the connection:
//
//	reset, abort   RST_STREAM with INTERNAL_ERROR to the caller, which is not to take it
//	               for a call that it may repeat (as REFUSED_STREAM would be), nor for its own
//	               (as CANCEL would be), and with CANCEL to the upstream, if it has heard of the call
//	abort, Close   END_STREAM to the caller: the body is too short
//	blackhole      no frame of it passes any more
type stream struct {
	h  *h2
	id uint32 // the caller's number
	up uint32 // the upstream's; 0: it has not heard of it
	call
	holds  []*active // latency on its way up
	halves [2]half

	grpc   bool
	headed bool   // the head of the answer was received
	status int    // of the answer
	code   string // its grpc-status

	more       int64 // of the window for the answer, which the upstream is to be told when it hears of the call
	silent     *active
	callerGone bool // while silent
	upGone     bool // the upstream has done with it
	settled    bool
	over       bool
}

// half is one direction of a stream: what was received and may not go on yet.
//
//	queue   head ─ data ─ data ─ … ─ trailer        each step in its turn
//	          │      └── windows, stages, rules about content
//	          └── latency, an error rule, reshape, stages
//
// What cannot go on waits for one of these: a time (way.due), room on the
// connection (way.starved), the window of the stream (way.windowUpdate), or a change of rules.
type half struct {
	s       *stream
	w       *way
	queue   []item // [first:]
	first   int
	window  int64 // of the receiver
	heard   bool  // the sender has said its last word …
	done    bool  // … which was passed on
	begun   bool  // the head is not held any more …
	headed  bool  // … and was passed on
	drop    bool  // what comes is discarded …
	give    bool  // … and the sender is given its window back …
	dropBy  *active
	holds   []*active // the first holds it now, …
	since   time.Duration
	rules   *rules // for which these are:
	stages  []stage
	corrupt []*corrupter
	aborts  rules
	sent    int64 // bytes, heads included (as RFC 9113, 6.5.2, has their size)
	content int64
	claimed int64 // of the queue's bytes: the budget's, so that the sender was given them back
	starves bool
	at      time.Duration
	index   int // in way.due, from 1; 0: it is not there
}

func (l *half) before(m *half) bool { return l.at < m.at }
func (l *half) placed() *int        { return &l.index }

// item is a frame, or a head.
type item struct {
	what     what
	end      bool // of the stream, in that direction
	owned    bool // otherwise fields and b are the reader's
	met      bool // heads: its rules were drawn …
	free     bool // … it is not held any more
	left     int  // heads: bytes that the stages have not admitted
	fields   []hpack.HeaderField
	b        []byte
	pooled   *[largeBuffer]byte // b is part of it
	priority priority
	kind     http2.FrameType // other
	flags    http2.Flags
	code     uint32 // reset
}

type what uint8

const (
	head what = iota
	interim
	data
	trailer
	other
	reset
)

// begin is a call whose head was received.
func (h *h2) begin(id uint32, b *block) {
	c := h.c
	h.asked = true
	c.p.stats.begun()
	if len(h.streams) >= streamsMost || c.downDone {
		c.p.stats.ended(wasClosed)
		h.down().sendReset(id, uint32(http2.ErrCodeRefusedStream))
		return
	}
	s := h.anew(id)
	s.call = call{number: c.p.calls.Add(1) - 1, begun: c.p.now()}
	for _, f := range b.fields {
		switch f.Name {
		case ":method":
			switch f.Value {
			case "HEAD":
				s.method = framing.Head
			case "CONNECT":
				s.method = framing.Connect
			}
		case "content-type":
			s.grpc = s.grpc || isGRPC(f.Value)
		}
	}
	h.streams[id] = s
	h.underWay++
	then := c.draw(&s.call, nil, b.fields)
	l := &s.halves[0]
	l.heard = b.end
	if then.struck != nil && s.strike(then.struck) {
		return
	}
	s.holds = then.holds
	l.put(item{what: head, fields: b.fields, end: b.end, priority: b.priority})
}

// anew is a stream that was not used, or is not any more.
func (h *h2) anew(id uint32) *stream {
	var s *stream
	if n := len(h.spare); n > 0 {
		s = h.spare[n-1]
		h.spare = h.spare[:n-1]
	} else {
		s = new(stream)
	}
	queues := [2][]item{s.halves[0].queue, s.halves[1].queue}
	*s = stream{h: h, id: id}
	for i := range s.halves {
		w := &h.ways[i]
		s.halves[i] = half{s: s, w: w, queue: queues[i][:0], window: w.initial}
	}
	return s
}

func (s *stream) half(w *way) *half { return &s.halves[w.f.direction()] }

// numberTo is what the way's receiver knows it by; 0: it does not.
func (s *stream) numberTo(w *way) uint32 {
	if w.isDown() {
		return s.id
	}
	return s.up
}

// numberFrom is what the way's sender knows it by.
func (s *stream) numberFrom(w *way) uint32 {
	if w.isDown() {
		return s.up
	}
	return s.id
}

// answered takes note of a head from the upstream.
func (s *stream) answered(fields []hpack.HeaderField, end bool) what {
	if s.headed {
		s.trailed(fields)
		return trailer
	}
	status := 0
	for _, f := range fields {
		if f.Name == ":status" {
			if n, err := strconv.Atoi(f.Value); err == nil && len(f.Value) == 3 && n >= 100 {
				status = n
			}
		}
	}
	if status/100 == 1 && !end {
		return interim
	}
	s.headed, s.status = true, status
	if end {
		s.trailed(fields)
	}
	return head
}

func (s *stream) trailed(fields []hpack.HeaderField) {
	if !s.grpc {
		return
	}
	for _, f := range fields {
		if f.Name == "grpc-status" {
			s.code = f.Value
		}
	}
}

// put hands the half what was received.
func (l *half) put(it item) {
	if l.drop || l.s.silent != nil || l.w.broken {
		l.discard(&it)
		if it.end && l.s.silent == nil {
			l.finish()
		}
		return
	}
	blocked := l.first < len(l.queue)
	if !blocked {
		l.queue, l.first = l.queue[:0], 0
		l.w.queued++
	}
	l.queue = append(l.queue, it)
	if !blocked || it.what == reset {
		l.run(l.w.f.c.p.now())
	}
	if n := len(l.queue); l.first < n && !l.queue[n-1].owned {
		l.keep()
	}
}

// keep makes a copy of the youngest item, which has to wait.
func (l *half) keep() {
	n := len(l.queue)
	it := &l.queue[n-1]
	it.owned = true
	it.fields = slices.Clone(it.fields)
	if it.what != data {
		it.b = slices.Clone(it.b)
		return
	}
	size := int64(len(it.b))
	if len(l.holds) > 0 {
		l.holds[0].did.bytes.Add(size)
	}
	// Held by a rule, it must not hold back others: the sender is given the
	// connection's window for it at once, as far as there is memory.
	if (len(l.holds) > 0 || len(l.stages) > 0 || !l.begun) && size > 0 {
		if ok, _ := l.w.f.c.p.held.claim(size, 0); ok {
			l.claimed += size
			l.w.credit(size)
		}
	}
	if before := l.first < n-1; before {
		if last := &l.queue[n-2]; last.what == data && !last.end && len(it.b) <= cap(last.b)-len(last.b) {
			last.b, last.end = append(last.b, it.b...), it.end
			*it = item{}
			l.queue = l.queue[:n-1]
			return
		}
	}
	if len(it.b) > smallBuffer/2 {
		it.pooled = largeBuffers.Get().(*[largeBuffer]byte)
		it.b = append(it.pooled[:0], it.b...)
	} else if len(it.b) > 0 {
		it.b = append(make([]byte, 0, max(64, 2*len(it.b))), it.b...)
	}
}

// discharge is the end of n bytes of the queue.
func (l *half) discharge(n int64) {
	held := min(n, l.claimed)
	if held > 0 {
		l.claimed -= held
		l.w.f.c.p.held.give(held)
	}
	l.w.credit(n - held)
}

// discard lets an item fall that was never queued, or is no more.
func (l *half) discard(it *item) {
	n := int64(len(it.b))
	if it.what == data {
		l.discharge(n)
		if l.give && !it.end && n > 0 {
			l.w.back().sendWindow(l.s.numberFrom(l.w), n)
		}
		switch {
		case l.s.silent != nil:
			l.s.silent.did.bytes.Add(n)
		case l.dropBy != nil:
			l.dropBy.did.bytes.Add(n)
		}
	}
	l.release(it)
}

func (l *half) release(it *item) {
	if it.pooled != nil {
		largeBuffers.Put(it.pooled)
	}
	*it = item{end: it.end}
}

// clear discards the queue.
func (l *half) clear() (ended bool) {
	if l.first == len(l.queue) {
		return false
	}
	for i := l.first; i < len(l.queue); i++ {
		ended = ended || l.queue[i].end
		l.discard(&l.queue[i])
	}
	l.queue, l.first = l.queue[:0], 0
	l.w.queued--
	return ended
}

// stop has the half discard what waits and what comes. With give the sender may go
// on to the end.
func (l *half) stop(give bool, by *active) {
	l.drop, l.give, l.dropBy = true, give, by
	if l.clear() {
		l.finish()
	}
}

// run passes on what may pass now.
func (l *half) run(now time.Duration) {
	w := l.w
	if l.index > 0 {
		heap.Remove(&w.due, l.index-1)
	}
	if w.h.c.over || l.first == len(l.queue) {
		return
	}
	for l.first < len(l.queue) {
		it := &l.queue[l.first]
		if !l.step(it, now) {
			return
		}
		if len(l.queue) == 0 { // all fell
			return
		}
		l.release(it)
		l.first++
	}
	l.queue, l.first = l.queue[:0], 0
	w.queued--
}

// await has the half run again at that time.
func (l *half) await(at time.Duration) {
	if at == forever { // a change of rules will come
		return
	}
	l.at = at
	heap.Push(&l.w.due, l)
	if l.index == 1 {
		l.w.wake()
	}
}

// starve has the half run again when there is room on the connection.
func (l *half) starve() {
	if !l.starves {
		l.starves = true
		l.w.starved = append(l.w.starved, l)
	}
}

// step passes an item on, or part of it; false: it has to wait.
func (l *half) step(it *item, now time.Duration) bool {
	s, w := l.s, l.w
	if it.what != interim && !l.held(now) {
		return false
	}
	switch it.what {
	case data:
		return l.stepData(it, now)
	case other:
		if to := s.numberTo(w); to != 0 {
			w.pass(it.kind, it.flags, to, it.b)
		}
		return true
	case reset:
		w.sendReset(s.id, it.code)
		s.settle(wasReset)
		s.remove()
		return true
	}
	return l.stepHead(it, now)
}

// held tells whether no latency rule holds the half any more.
func (l *half) held(now time.Duration) bool {
	for len(l.holds) > 0 {
		if r := l.holds[0]; !r.gone.Load() {
			r = l.w.f.c.p.rules.Load().now(r) // with the settings it has by now
			if at := l.since + r.delay(l.s.number, 0); now < at {
				l.await(at)
				return false
			}
			r.did.held(now - l.since)
		}
		l.holds, l.since = l.holds[1:], now
	}
	return true
}

// hold has the rules hold the half, one after the other.
func (l *half) hold(by []*active, now time.Duration, bytes int) {
	l.holds, l.since = by, now
	for _, r := range by {
		r.did.bytes.Add(int64(bytes))
	}
}

// stepHead passes a head on, or trailers.
func (l *half) stepHead(it *item, now time.Duration) bool {
	s, w := l.s, l.w
	c := s.h.c
	if it.what == interim {
		w.sendHead(s.id, it)
		return true
	}
	if !it.met {
		it.met = true
		it.left = sizeOf(it.fields)
		if it.what == head {
			by := s.holds
			if w.isDown() {
				by = s.latencies(func(r *active) bool { return !r.Latency.inBody() && r.toAnswer() })
			}
			l.hold(by, now, it.left)
			if !l.held(now) {
				return false
			}
		}
	}
	if it.what == head && !it.free {
		it.free = true
		switch {
		case w.isDown():
			c.p.stats.answerBegun(now - s.begun)
		case s.inject != nil:
			s.answerInstead(it)
			return true
		case s.h.next > s.h.last:
			s.refuse()
			return true
		}
		l.begun = true
		if l.fit(); s.over || s.silent != nil {
			return true
		}
		it.fields = l.reshaped(it.fields)
		it.left = sizeOf(it.fields)
	}
	if l.fits(); s.over || s.silent != nil {
		return true
	}
	for it.left > 0 {
		n, again := l.admit(now, it.left)
		if n == 0 {
			l.await(again)
			return false
		}
		it.left -= n
		l.sent += int64(n)
		if struck := l.passed(now, n); struck != nil {
			if it.left == 0 && !it.end {
				l.sendHead(it)
			}
			if s.strike(struck) {
				return true
			}
		}
	}
	l.sendHead(it)
	if it.what != head || it.end {
		return true
	}
	l.hold(s.latencies(func(r *active) bool { return r.Latency.inBody() && r.toAnswer() == w.isDown() }), now, 0)
	if len(l.holds) == 0 {
		l.aborted()
	}
	return true
}

// latencies draws those rules for the stream.
func (s *stream) latencies(are func(*active) bool) (by []*active) {
	now := *s.h.c.p.rules.Load()
	if len(now) == 0 {
		return nil
	}
	w := s.h.c.ofCall(&s.call)
	for _, r := range now {
		if r.Latency != nil && are(r) && r.draws(w) {
			by = append(by, r)
		}
	}
	return by
}

// sendHead sends a head of the half's stream, and says so.
func (l *half) sendHead(it *item) {
	s, w := l.s, l.w
	if !w.isDown() && it.what == head {
		s.up = s.h.next
		s.h.next += 2
		s.h.above[s.up] = s
		if w.to != nil {
			s.h.c.p.stats.reached()
		} else {
			s.h.unreached++
		}
	}
	w.sendHead(s.numberTo(w), it)
	l.headed = true
	if !w.isDown() && s.more > 0 {
		w.sendWindow(s.up, s.more)
		s.more = 0
	}
	if it.end {
		l.finish()
	}
}

// sendHead writes a head, in as many frames as the receiver wants it in.
func (w *way) sendHead(id uint32, it *item) {
	w.encoded.Reset()
	for _, f := range it.fields {
		w.enc.WriteField(f) // to memory: it cannot fail
	}
	p := w.encoded.Bytes()
	kind, flags := http2.FrameHeaders, http2.Flags(0)
	if it.end {
		flags |= http2.FlagHeadersEndStream
	}
	extra := 0
	if it.priority.is {
		flags |= http2.FlagHeadersPriority
		extra = prioritySize
	}
	for {
		n := min(len(p), w.frame-extra)
		if n == len(p) {
			flags |= http2.FlagHeadersEndHeaders
		}
		w.out = appendFrame(w.out, extra+n, kind, flags, id)
		if extra > 0 {
			on := w.mapped(it.priority.on)
			w.out = append(w.out, byte(on>>24), byte(on>>16), byte(on>>8), byte(on), it.priority.weight)
		}
		w.out = append(w.out, p[:n]...)
		if p = p[n:]; len(p) == 0 {
			return
		}
		kind, flags, extra = http2.FrameContinuation, 0, 0
	}
}

// sizeOf is the size of a head (RFC 9113, 6.5.2).
func sizeOf(fields []hpack.HeaderField) (n int) {
	for i := range fields {
		n += int(fields[i].Size())
	}
	return n
}

// stepData passes on what may pass of a piece of a body.
func (l *half) stepData(it *item, now time.Duration) bool {
	s, w := l.s, l.w
	if l.fits(); s.over || s.silent != nil {
		return true
	}
	for sent := 0; ; {
		if len(it.b) == 0 {
			if it.end {
				w.out = appendFrame(w.out, 0, http2.FrameData, http2.FlagDataEndStream, s.numberTo(w))
				l.finish()
			}
			return true
		}
		switch {
		case (l.window <= 0 || w.room <= 0) && l.queue[len(l.queue)-1].what == reset:
			l.discharge(int64(len(it.b)))
			return true // what did not fit before its stream was reset never will
		case l.window <= 0:
			return false
		case w.room <= 0, w.waiting() >= outMost, sent >= turn && len(w.starved) > 0:
			l.starve()
			return false
		}
		n := min(int64(len(it.b)), int64(w.frame), l.window, w.room)
		for _, r := range l.aborts {
			n = min(n, r.Abort.After-l.content)
		}
		if n <= 0 {
			if l.aborted(); s.over || l.done {
				return true
			}
			continue // the rule is gone again
		}
		k, again := l.admit(now, int(n))
		if k == 0 {
			l.await(again)
			return false
		}
		flags := http2.Flags(0)
		if k == len(it.b) && it.end && !l.endsAt(k) {
			flags = http2.FlagDataEndStream
		}
		at := len(w.out) + frameHead
		w.out = append(appendFrame(w.out, k, http2.FrameData, flags, s.numberTo(w)), it.b[:k]...)
		for _, c := range l.corrupt {
			c.by.did.bytes.Add(c.flip(w.out[at:], l.content))
		}
		it.b = it.b[k:]
		sent += k
		l.window -= int64(k)
		w.room -= int64(k)
		l.sent += int64(k)
		l.content += int64(k)
		l.discharge(int64(k))
		if flags != 0 {
			l.passed(now, k)
			l.finish()
			return true
		}
		if struck := l.passed(now, k); struck != nil && s.strike(struck) {
			return true
		}
		if l.aborted(); s.over || l.done {
			return true
		}
	}
}

// endsAt tells whether a rule strikes when k more bytes have passed.
func (l *half) endsAt(k int) bool {
	for _, r := range l.aborts {
		if r.Abort.After == l.content+int64(k) {
			return true
		}
	}
	return slices.ContainsFunc(l.stages, func(s stage) bool { c, is := s.(*cut); return is && c.left == int64(k) })
}

// aborted lets the first rule strike that wants no more content.
func (l *half) aborted() {
	for _, r := range l.aborts {
		if r.Abort.After <= l.content && l.s.strike(r) {
			return
		}
	}
}

// admit asks every stage how much of n bytes may pass.
func (l *half) admit(now time.Duration, n int) (int, time.Duration) {
	for _, s := range l.stages {
		var again time.Duration
		if n, again = s.admit(now, n); n == 0 {
			return 0, again
		}
	}
	return n, now
}

// passed tells every stage, and returns the first rule whose time has come.
func (l *half) passed(now time.Duration, n int) (struck *active) {
	for _, s := range l.stages {
		if s.passed(now, n) && struck == nil {
			struck = s.rule()
		}
	}
	return struck
}

// fits makes the stages fit the rules, if those have changed.
func (l *half) fits() {
	if l.begun && l.rules != l.w.f.c.p.rules.Load() {
		l.fit()
	}
}

// fit makes the stages fit the rules (see flow.restage). A rule may strike.
func (l *half) fit() {
	s, isDown := l.s, l.w.isDown()
	c := s.h.c
	l.rules = c.p.rules.Load()
	now := *l.rules
	l.corrupt, l.aborts = l.corrupt[:0], l.aborts[:0]
	old := l.stages
	l.stages = nil
	if len(now) == 0 {
		return
	}
	w := c.ofCall(&s.call)
	keep := func(r *active, anew func() stage) { l.stages = append(l.stages, kept(old, r, anew)) }
	for _, r := range now {
		switch {
		case r.paces(isDown) && r.picks(w):
			keep(r, func() stage { return r.stage(c.p, l.w.f.direction(), s.number) })
		case r.Corrupt != nil && r.Corrupt.Direction.covers(isDown) && r.picks(w):
			l.corrupt = append(l.corrupt, newCorrupter(r, ofByte^l.w.f.direction(), s.number))
		case r.Abort != nil && isDown && !r.gone.Load() && r.picks(w):
			l.aborts = append(l.aborts, r)
		}
	}
	if !isDown {
		return
	}
	for _, r := range s.cuts {
		switch left := r.cut().After - l.sent; {
		case r.gone.Load():
		case left > 0:
			keep(r, func() stage { return &cut{by: r, left: left} })
		case s.strike(r):
			return
		}
	}
}

// reshaped is the head as the rules want it.
func (l *half) reshaped(fields []hpack.HeaderField) []hpack.HeaderField {
	now := *l.rules
	if len(now) == 0 {
		return fields
	}
	w := l.s.h.c.ofCall(&l.s.call)
	for _, r := range now {
		e := r.edit(l.w.isDown())
		if e == nil || !r.picks(w) {
			continue
		}
		if anew := edited(e, fields, l.w.isDown()); sizeOf(anew) <= framing.MaxHead {
			fields = anew
		}
	}
	return fields
}

// edited is a head with the edit done to it: as framing.Edit.Append does, where
// :authority is the line Host. Other pseudo fields have no name that an edit could have.
func edited(e *framing.Edit, fields []hpack.HeaderField, isDown bool) []hpack.HeaderField {
	anew := make([]hpack.HeaderField, 0, len(fields)+len(e.Set)+len(e.Add)+1)
	set := uint64(0) // bit i: Set[i] is there
next:
	for _, f := range fields {
		name := f.Name
		if name == ":authority" {
			name = "host"
		}
		for _, x := range e.Remove {
			if strings.EqualFold(x, name) {
				continue next
			}
		}
		for i, x := range e.Set {
			if !strings.EqualFold(x.Name, name) {
				continue
			}
			if set&(1<<i) == 0 {
				set |= 1 << i
				f.Value = x.Value
				anew = append(anew, f)
			}
			continue next
		}
		anew = append(anew, f)
	}
	for i, x := range e.Set {
		switch name := strings.ToLower(x.Name); {
		case set&(1<<i) != 0:
		case name == "host" && !isDown: // pseudo fields come first
			anew = slices.Insert(anew, 0, hpack.HeaderField{Name: ":authority", Value: x.Value})
		default:
			anew = append(anew, hpack.HeaderField{Name: name, Value: x.Value})
		}
	}
	for _, x := range e.Add {
		anew = append(anew, hpack.HeaderField{Name: strings.ToLower(x.Name), Value: x.Value})
	}
	return anew
}

// answerInstead gives the answer of an error rule in the upstream's place, as soon as
// the request's head is there; what comes of its body falls.
func (s *stream) answerInstead(it *item) {
	r := s.inject
	up, down := &s.halves[0], &s.halves[1]
	r.did.bytes.Add(int64(sizeOf(it.fields)))
	fields, body := r.fields()
	if s.method == framing.Head {
		body = ""
	}
	s.answered(fields, body == "")
	down.heard = true
	up.stop(true, r) // it is gone with the queue
	end := body == ""
	down.put(item{what: head, fields: fields, end: end})
	if !end && !s.over {
		down.put(item{what: data, b: []byte(body), end: true, owned: false})
	}
}

// fields is what an error rule sends.
func (r *active) fields() (fields []hpack.HeaderField, body string) {
	e := r.Error
	if e.Code != 0 {
		fields = []hpack.HeaderField{
			{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"},
			{Name: "grpc-status", Value: strconv.Itoa(int(e.Code))},
		}
		if e.Message != "" {
			fields = append(fields, hpack.HeaderField{Name: "grpc-message", Value: percentEncoded(e.Message)})
		}
		return fields, ""
	}
	fields = []hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(e.Status)}}
	if e.Status == http.StatusNoContent || e.Status == http.StatusNotModified {
		return fields, ""
	}
	return append(fields,
		hpack.HeaderField{Name: "content-type", Value: "text/plain; charset=utf-8"},
		hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(e.Body))}), e.Body
}

// finish notes that the end of the half was passed on.
func (l *half) finish() {
	if l.done {
		return
	}
	l.done = true
	s := l.s
	if l.w.isDown() {
		s.settleAnswer()
	}
	if s.halves[0].done && s.halves[1].done {
		s.remove()
	}
}

// settleAnswer counts the call by the answer that it got.
func (s *stream) settleAnswer() {
	if s.settled {
		return
	}
	stats := &s.h.c.p.stats
	switch {
	case s.h.c.callerDone.Load():
		s.settle(wasCanceled)
	case s.grpc && s.status == http.StatusOK && s.code == "":
		s.settle(wasClosed)
	case s.grpc && s.status == http.StatusOK && s.code != "0":
		s.settle(grpcClass(s.code))
	case s.status == 0:
		s.settle(wasOpaque)
	default:
		s.settled = true
		s.h.underWay--
		stats.answered(s.status)
	}
}

// settle counts the call as class.
func (s *stream) settle(class string) {
	if !s.settled {
		s.settled = true
		s.h.underWay--
		s.h.c.p.stats.ended(class)
	}
}

// remove forgets the stream.
func (s *stream) remove() {
	if s.over {
		return
	}
	s.over = true
	h := s.h
	for i := range s.halves {
		l := &s.halves[i]
		l.give = false
		l.clear()
		if l.index > 0 {
			heap.Remove(&l.w.due, l.index-1)
		}
		if l.starves {
			l.w.starved = slices.DeleteFunc(l.w.starved, func(x *half) bool { return x == l })
		}
	}
	delete(h.streams, s.id)
	if s.up != 0 {
		delete(h.above, s.up)
	}
	if len(h.spare) < 64 {
		h.spare = append(h.spare, s)
	}
}

// strike lets a rule have the stream; false: the rule has been removed meanwhile.
func (s *stream) strike(r *active) bool {
	switch {
	case s.over || s.silent != nil:
	case r.gone.Load():
		return false
	case r.Blackhole != nil:
		s.silent = r
		s.halves[0].clear()
		s.halves[1].clear()
	case r.Abort != nil && r.Abort.Close:
		s.settle(wasClosed)
		s.leaveUpstream()
		down := &s.halves[1]
		down.clear()
		down.w.out = appendFrame(down.w.out, 0, http2.FrameData, http2.FlagDataEndStream, s.id)
		down.heard, down.drop = true, true
		s.halves[0].stop(true, nil)
		if s.halves[0].heard {
			s.halves[0].done = true
		}
		down.finish()
	default:
		s.cutOff(wasReset, http2.ErrCodeInternal)
	}
	return true
}

// leaveUpstream tells the upstream, if it knows of the call, that nobody waits for it.
func (s *stream) leaveUpstream() {
	if s.up == 0 {
		return
	}
	if !s.upGone {
		s.h.up().sendReset(s.up, uint32(http2.ErrCodeCancel))
	}
	s.upGone = true
	delete(s.h.above, s.up)
	s.up = 0
}

// cutOff ends the stream, on both sides.
func (s *stream) cutOff(class string, code http2.ErrCode) {
	s.settle(class)
	if !s.callerGone {
		s.h.down().sendReset(s.id, uint32(code))
	}
	s.leaveUpstream()
	s.remove()
}

// refuse is for a call that the upstream did not take.
func (s *stream) refuse() {
	s.upGone = true
	s.cutOff(wasClosed, http2.ErrCodeRefusedStream)
}

// resetBy is RST_STREAM from the way's sender. The caller's overtakes what waits;
// the upstream's comes behind it.
func (s *stream) resetBy(w *way, code uint32) {
	if !w.isDown() {
		s.settle(wasCanceled)
		if s.silent != nil && s.up != 0 { // the upstream is not to know
			s.callerGone = true
			return
		}
		if s.up != 0 && !s.upGone {
			w.sendReset(s.up, code)
		}
		s.remove()
		return
	}
	s.upGone = true
	if s.silent != nil {
		return
	}
	s.halves[0].stop(false, nil)
	if s.over {
		return
	}
	l := s.half(w)
	l.heard = true
	l.put(item{what: reset, code: code, owned: true})
}

// end counts every call under way as class.
func (h *h2) end(class string) {
	for _, s := range h.streams {
		s.settle(class)
	}
}

// runAll has every half look at the rules, and at its window.
func (h *h2) runAll() {
	now := h.c.p.now()
	for _, s := range h.streams {
		for i := range s.halves {
			l := &s.halves[i]
			if !s.over && s.silent == nil && !l.done {
				if l.fits(); l.headed && len(l.holds) == 0 && !s.over {
					l.aborted()
				}
				if !s.over && s.silent == nil && !l.done {
					l.run(now)
				}
			}
		}
	}
}

// upIsGone lets fall what is for an upstream that takes nothing any more.
func (h *h2) upIsGone() {
	for _, s := range h.streams {
		s.halves[0].stop(false, nil)
	}
}

// drop gives back what the streams hold, when the conn is over.
func (h *h2) drop() {
	for _, s := range h.streams {
		for i := range s.halves {
			l := &s.halves[i]
			if l.claimed > 0 {
				h.c.p.held.give(l.claimed)
				l.claimed = 0
			}
			for j := l.first; j < len(l.queue); j++ {
				l.release(&l.queue[j])
			}
			l.queue, l.first = nil, 0
		}
	}
	h.drained.Broadcast()
}

// apply tells the streams of a rule that has just been added. True: it has the conn,
// since nothing else is there that it could have.
func (h *h2) apply(r *active) (struck bool) {
	switch {
	case h.underWay == 0:
		return r.Reset != nil && r.Reset.After == 0 && r.picksAll(h.c.from)
	case r.cut() != nil || r.reaches():
		for _, s := range h.streams {
			if s.settled || s.silent != nil || s.drawn >= r.id {
				continue
			}
			s.drawn = r.id
			hit := r.draws(h.c.ofCall(&s.call))
			switch {
			case !hit || r.reaches():
			case r.cut().After == 0:
				s.strike(r)
			default:
				s.cuts = append(s.cuts, r)
			}
		}
	}
	h.runAll()
	h.kick()
	return false
}

// lift tells them of a rule that has just been removed.
func (h *h2) lift(r *active) {
	for _, s := range h.streams {
		if s.silent != nil && s.silent.work == r.work {
			s.cutOff(wasClosed, http2.ErrCodeInternal)
		}
	}
	h.runAll()
	h.kick()
}

// change tells them of a rule that has just been given other settings.
func (h *h2) change(from, to *active) {
	for _, s := range h.streams {
		if s.silent != nil && s.silent.work == to.work {
			s.silent = to
		}
		h.c.changed(&s.call, from, to)
	}
	h.runAll()
	h.kick()
}
