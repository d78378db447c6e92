package proxy

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// Rule is one disturbance of a Proxy. Exactly one of the pointers is set.
//
// Which calls it hits is decided by a hash of (Config.Seed, Seed, Name, number
// of the call), so that the same calls are hit whatever else happens at the
// time, and whatever other rules come and go. A call is an HTTP request, or on
// TCP edges (and for Refuse, everywhere) a connection; both are numbered from 0
// on each Proxy.
//
// A rule holds for connections that are open already as for new ones.
type Rule struct {
	Name    string // under which Stats tells what it did
	Seed    uint64
	Percent float64 // share of calls to hit, 0 (none) to 1 (all)

	Latency   *Latency
	Error     *Error
	Reset     *Cut
	Blackhole *Cut
	Refuse    *Refuse
	Bandwidth *Bandwidth
	Silence   *Silence
	Slice     *Slice
	Limit     *Limit
	SlowClose *SlowClose
	Loss      *Loss
}

// Latency holds the answer of a call (or, Direction "request", the request) back
// by Delay ± Jitter, evenly distributed. On HTTP edges the whole message waits
// once, counted from when its head was complete; on TCP edges and behind an
// Upgrade every byte waits, counted from when it was received, in order. Several
// add up. Whatever is held when the rule is removed goes on at once.
type Latency struct {
	Delay        time.Duration
	Jitter       time.Duration // at most Delay, so that the mean stays Delay
	Distribution string        // "uniform", also when empty
	Direction    string        // "answer", also when empty; "request"
}

// Error answers an HTTP request with Status and Body in the upstream's place.
// The request's body is read to its end, so that the connection stays usable;
// only where the caller waits for a 100 Continue, or asked for it, is it closed.
type Error struct {
	Status int // 200 to 599
	Body   string
}

// Cut is what Reset and Blackhole have in common: it strikes when After bytes
// of the answer (TCP edges: of everything that came from the upstream) have
// passed; After 0 strikes before the upstream hears of the call.
//
// Reset closes the caller's connection, and the upstream's, with RST; also open
// ones, and at Percent 1 idle ones of HTTP edges too, before Add returns.
//
// Blackhole lets nothing pass any more in either direction, not even the news
// that the other side closed; when the rule is removed, the connections it held
// are closed with RST, since bytes are missing in them.
type Cut struct {
	After int64
	// Wait is for Reset: strike so long after the connection was opened or the
	// rule added, whichever is later, also when no byte passes.
	Wait time.Duration
}

// Direction says which way bytes go that a rule is about.
type Direction string

const (
	Both    Direction = ""        // both ways
	Request Direction = "request" // from the caller to the upstream
	Answer  Direction = "answer"  // from the upstream to the caller
)

// Silence discards every byte of one direction; the other goes on. After For
// (0: never), counted once from when the connection was opened or the rule
// added, whichever is later, the connection is closed, however busy it is. Those
// it had silenced are closed when the rule is removed, since bytes are missing.
type Silence struct {
	For       time.Duration
	Direction Direction
}

// Slice sends bytes in pieces of Average ± Variation bytes, evenly distributed
// (at least 1), and waits for Delay between two of them.
type Slice struct {
	Average, Variation int64
	Delay              time.Duration
	Direction          Direction
}

// Limit closes the connection, in order, when so many bytes have passed in that
// direction since it was opened.
type Limit struct {
	Bytes     int64
	Direction Direction
}

// SlowClose passes FIN on only after Delay.
type SlowClose struct {
	Delay     time.Duration
	Direction Direction
}

// Loss is what loss of packets means to a stream of bytes: the chunk that is
// hit, and everything behind it, comes late by one retransmission timeout
// (RTO), the more the more often in a row (RFC 6298: 200 ms, doubled each time).
// Ratio is the share of chunks hit, Correlation how much a draw depends on the
// one before: p = Correlation·last + (1−Correlation)·uniform (tc-netem(8)).
type Loss struct {
	Ratio, Correlation float64
	Direction          Direction
}

// Refuse turns new connections away. The listener stays bound and accepts, and
// the connection is reset at once: the caller sees "connection reset", from
// connect(2) or right after it, where a closed port would show "connection
// refused". In exchange the port is never lost, Percent can be below 1, and
// every attempt is seen and counted, which a verdict on a breaker depends on.
type Refuse struct{}

// Bandwidth lets BytesPerS through each connection, in each direction; 0 lets
// nothing pass. Bytes count against it while they wait only: an idle connection
// saves nothing up.
type Bandwidth struct {
	BytesPerS int64
	Direction Direction
}

// maxRate is where a rate stops meaning anything.
const maxRate = 1_000_000_000_000

// Validate tells the first thing that is wrong with the rule.
func (r Rule) Validate() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("rule %q: %w", r.Name, fmt.Errorf(format, args...))
	}
	set := 0
	for _, is := range []bool{r.Latency != nil, r.Error != nil, r.Reset != nil, r.Blackhole != nil, r.Refuse != nil, r.Bandwidth != nil} {
		if is {
			set++
		}
	}
	switch {
	case r.Name == "":
		return fmt.Errorf("rule without a name: its effects are counted under one")
	case set != 1:
		return wrong("%d kinds set, want exactly one of latency, error, reset, blackhole, refuse, bandwidth", set)
	case !(r.Percent >= 0 && r.Percent <= 1): // NaN too
		return wrong("percent is %v, want a share from 0 to 1", r.Percent)
	}
	if l := r.Latency; l != nil {
		switch {
		case l.Delay < 0:
			return wrong("delay is %v, want 0 or more", l.Delay)
		case l.Jitter < 0 || l.Jitter > l.Delay:
			return wrong("jitter is %v, want from 0 to the delay, %v", l.Jitter, l.Delay)
		case l.Distribution != "" && l.Distribution != "uniform":
			return wrong(`distribution is %q, want "uniform"`, l.Distribution)
		case l.Direction != "" && l.Direction != "answer" && l.Direction != "request":
			return wrong(`direction is %q, want "answer" or "request"`, l.Direction)
		}
	}
	if e := r.Error; e != nil && (e.Status < 200 || e.Status > 599) {
		return wrong("status is %d, want from 200 to 599", e.Status)
	}
	for _, c := range []*Cut{r.Reset, r.Blackhole} {
		if c != nil && c.After < 0 {
			return wrong("after is %d bytes, want 0 or more", c.After)
		}
	}
	if b := r.Bandwidth; b != nil && (b.BytesPerS < 0 || b.BytesPerS > maxRate) {
		return wrong("rate is %d bytes/s, want from 0 to %d", b.BytesPerS, int64(maxRate))
	}
	return nil
}

// active is a Rule at work.
type active struct {
	Rule
	id   uint64      // order of Add; 1 is the first
	key  uint64      // of its draws
	gone atomic.Bool // removed
	did  ruleCounters
}

func newActive(r Rule, id, seed uint64) *active {
	return &active{Rule: r, id: id, key: mix(mix(mix(seed)^r.Seed) ^ hashName(r.Name))}
}

// hits tells whether the rule hits the call or connection of that number.
func (r *active) hits(number uint64) bool {
	return unit(mix(r.key+number*golden)) < r.Percent
}

// delay draws how long the call (or, on a TCP edge, the piece-th chunk of a
// connection) is to wait.
func (r *active) delay(number, piece uint64) time.Duration {
	l := r.Latency
	if l.Jitter == 0 {
		return l.Delay
	}
	u := unit(mix(mix(r.key^0xd1b54a32d192ed03+number*golden) + piece*golden))
	return l.Delay + time.Duration(math.Round((2*u-1)*float64(l.Jitter)))
}

// toAnswer tells whether a latency rule holds the answer back; otherwise the request.
func (r *active) toAnswer() bool { return r.Latency.Direction != "request" }

// cut is the Cut of a reset or blackhole rule, else nil.
func (r *active) cut() *Cut {
	if r.Reset != nil {
		return r.Reset
	}
	return r.Blackhole
}

// answer is what an error rule sends; close says whether the connection ends with it.
func (r *active) answer(head, close bool) []byte {
	e := r.Error
	b := fmt.Appendf(nil, "HTTP/1.1 %03d %s\r\n", e.Status, http.StatusText(e.Status))
	if close {
		b = append(b, "Connection: close\r\n"...)
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

// rules is an immutable set of active rules, oldest first.
type rules []*active

func (rs rules) with(r *active) rules { return append(slices.Clip(rs), r) }

func (rs rules) without(r *active) rules {
	return slices.DeleteFunc(slices.Clone(rs), func(x *active) bool { return x == r })
}

// last is the id of the youngest, 0 when there is none.
func (rs rules) last() uint64 {
	if len(rs) == 0 {
		return 0
	}
	return rs[len(rs)-1].id
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
