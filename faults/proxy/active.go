package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"
)

// active is a Rule at work. It never changes: other settings are another active
// on the same work.
type active struct {
	Rule
	*work
	key uint64 // of its draws
	law law    // of a latency rule

	source netip.Prefix // When.Source; invalid when it is empty
	match  *matching    // nil: of all calls
}

// work is what outlives a change of a rule's settings.
type work struct {
	id           uint64        // order of arrival; 1 is the first
	added        time.Duration // on the proxy's clock
	calls, conns uint64        // numbers that the first call, and connection, after that has
	answers      uint64        // … and the first datagram that answers
	gone         atomic.Bool   // removed
	matched      atomic.Uint64 // calls that its Match was about
	did          *ruleCounters
	lines        [2]line  // of a shared bandwidth: up and down
	bursts       [2]burst // of a loss on a UDP edge: up and down
}

func newActive(r Rule, id, seed uint64) *active {
	return (&active{work: &work{id: id, did: new(ruleCounters)}}).as(r, seed)
}

// as is the same work with other settings.
func (r *active) as(other Rule, seed uint64) *active {
	a := &active{
		Rule: other.clone(),
		work: r.work,
		key:  mix(mix(mix(seed)^other.Seed) ^ hashName(other.Name)),
	}
	a.source, _ = a.When.source() // as validated
	if reflect.DeepEqual(a.Rule.match(), r.Rule.match()) {
		a.match = r.match
	}
	if a.Latency != nil {
		a.law = a.Latency.law()
	}
	return a
}

// hits tells whether the draw for the call or connection of that number is a hit.
func (r *active) hits(number uint64) bool {
	return unit(mix(r.key+number*golden)) < r.Percent
}

// who is a call or connection that a rule may hit.
type who struct {
	number   uint64
	isCall   bool // an HTTP request, or a caller's datagram
	isAnswer bool // a datagram to a caller
	begun    time.Duration
	from     netip.Addr
	marks
}

// draws tells whether the rule hits it, and counts that, if it is about it at all.
func (r *active) draws(w who) bool {
	return r.about(&w) && r.did.drawn(r.picks(w))
}

// picks tells whether the rule hits it. The answer is always the same.
func (r *active) picks(w who) bool {
	if !r.about(&w) {
		return false
	}
	if r.When == (When{}) {
		return r.hits(w.number)
	}
	first := r.conns
	switch {
	case w.isCall:
		first = r.calls
	case w.isAnswer:
		first = r.answers
	}
	percent := r.Percent
	switch when := r.When; {
	case r.source.IsValid() && !r.source.Contains(w.from):
		return false
	case r.match != nil && w.turn>>r.match.slot&1 == 0: // it counted its calls itself
		return false
	case r.match == nil && (when.First > 0 || when.Every > 0) && (w.number < first || !when.has(w.number-first+1)):
		return false
	case when.Ramp > 0:
		percent *= min(max(0, (w.begun-r.added).Seconds()/when.Ramp.Seconds()), 1)
	}
	return unit(mix(r.key+w.number*golden)) < percent
}

// picksAll tells whether it hits every call of that caller.
func (r *active) picksAll(from netip.Addr) bool {
	w := r.When
	return r.match == nil && r.Percent == 1 && w.Ramp == 0 && w.First == 0 && w.Every <= 1 && (!r.source.IsValid() || r.source.Contains(from))
}

// What is drawn for: each has draws of its own.
const (
	ofDelay uint64 = 0xd1b54a32d192ed03
	ofSlice uint64 = 0xaef17502108ef2d9 // one direction; the other is the next number
	ofLoss  uint64 = 0xf1357aea2e62a9c5
	ofByte  uint64 = 0xcb24d0a5c88c35b3
)

// draw is the piece-th draw for the call or connection of that number.
func (r *active) draw(of, number, piece uint64) float64 {
	return unit(mix(mix(r.key^of+number*golden) + piece*golden))
}

// delay draws how long the call (or, on a TCP edge, the piece-th chunk of a
// connection) is to wait.
func (r *active) delay(number, piece uint64) time.Duration {
	return r.law(r.draw(ofDelay, number, piece))
}

// toAnswer tells whether a latency rule holds the answer back; otherwise the request.
func (r *active) toAnswer() bool { return r.Latency.Direction != "request" }

// cut is the Cut of a reset or blackhole rule that strikes by bytes, else nil.
func (r *active) cut() *Cut {
	if r.Reset != nil && r.Reset.Wait == 0 {
		return r.Reset
	}
	return r.Blackhole
}

// strikesAfter is how long after both it and the connection were there the rule
// strikes; 0: not by time.
func (r *active) strikesAfter() time.Duration {
	switch {
	case r.Silence != nil:
		return r.Silence.For
	case r.Reset != nil:
		return r.Reset.Wait
	}
	return 0
}

// reaches tells whether the rule has a say in all the bytes of a call that it hits,
// whenever it was added: it is drawn when either begins, and looked up after that.
func (r *active) reaches() bool {
	return r.Bandwidth != nil || r.Slice != nil || r.Loss != nil || r.Abort != nil || r.Corrupt != nil || r.Reshape != nil
}

// ofCallsOnly tells whether the rule leaves bytes alone that belong to no call.
func (r *active) ofCallsOnly(protocol Protocol) bool {
	return r.match != nil || r.Error != nil || r.Abort != nil || r.Reshape != nil ||
		r.Latency != nil && r.Latency.inBody() || r.Corrupt != nil && protocol == HTTP
}

// paces tells whether it paces those of that direction.
func (r *active) paces(isDown bool) bool {
	switch {
	case r.Bandwidth != nil:
		return r.Bandwidth.Direction.covers(isDown)
	case r.Slice != nil:
		return r.Slice.Direction.covers(isDown)
	case r.Loss != nil:
		return r.Loss.Direction.covers(isDown)
	}
	return false
}

// stage is how it paces those of the call or connection of that number, from the beginning.
func (r *active) stage(p *Proxy, direction, number uint64) stage {
	switch {
	case r.Bandwidth != nil && r.Bandwidth.Shared:
		return &portions{by: r, line: &r.lines[direction]}
	case r.Bandwidth != nil:
		return newBucket(r, p.now())
	case r.Slice != nil:
		return &slicer{by: r, of: ofSlice ^ direction, number: number}
	}
	return &loss{by: r, of: ofLoss ^ direction, number: number}
}

// answer is what an error rule sends; close says whether the connection ends with it.
func (r *active) answer(head, close bool) []byte {
	e := r.Error
	b := fmt.Appendf(nil, "HTTP/1.1 %03d %s\r\n", e.status(), http.StatusText(e.status()))
	if close {
		b = append(b, "Connection: close\r\n"...)
	}
	if e.Code != 0 { // gRPC-Web's trailers-only answer
		b = fmt.Appendf(b, "Content-Type: application/grpc-web\r\nGrpc-Status: %d\r\n", int(e.Code))
		if e.Message != "" {
			b = fmt.Appendf(b, "Grpc-Message: %s\r\n", percentEncoded(e.Message))
		}
		return append(b, "Content-Length: 0\r\n\r\n"...)
	}
	if e.Status == http.StatusNoContent || e.Status == http.StatusNotModified {
		return append(b, "\r\n"...)
	}
	b = fmt.Appendf(b, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n", len(e.Body))
	if !head {
		b = append(b, e.Body...)
	}
	return b
}

// rules is an immutable list of active rules, in the order of Proxy.placed.
type rules []*active

// last is the id of the youngest rule, or Match, 0 when there is none.
func (rs rules) last() uint64 {
	id := uint64(0)
	for _, r := range rs {
		id = max(id, r.id)
		if r.match != nil {
			id = max(id, r.match.id)
		}
	}
	return id
}

// now is the rule with the settings it has by now; itself when it is gone.
func (rs rules) now(r *active) *active {
	for _, x := range rs {
		if x.work == r.work {
			return x
		}
	}
	return r
}

// golden is 2^64 divided by the golden ratio: consecutive numbers, multiplied by
// it, are spread evenly (Weyl sequence).
const golden = 0x9e3779b97f4a7c15

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the
// input changes every bit of the output with probability 1/2.
func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit maps to [0, 1).
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// hashName is FNV-1a.
func hashName(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return h
}
