package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Rule is one disturbance of a Proxy. Exactly one of the pointers is set.
//
// Which calls it hits is decided by a hash of (Config.Seed, Seed, Name, number
// of the call), so that the same calls are hit whatever else happens at the
// time, and whatever other rules come and go. A call is an HTTP request, or on
// TCP edges (and for Refuse and Connect, everywhere) a connection; both are
// numbered from 0 on each Proxy.
//
// A rule holds for connections that are open already as for new ones. Of HTTP/2 it
// hits streams, where it says connection, but for Refuse and Connect (see stream).
//
// On UDP edges a call is a datagram: each is drawn for by its number, those of callers
// and those that answer in rows of their own, and First and Every count each row for
// itself; only a Limit draws for sessions, by theirs.
//
// On HTTP edges Silence, Limit, SlowClose and Reset with Wait are refused: they
// are about a connection, where the others are about a call. Match, Error, Abort,
// Reshape and Latency of the body need an HTTP edge.
type Rule struct {
	Name    string // under which Stats tells what it did
	Seed    uint64
	Percent float64 // share of calls to hit, 0 (none) to 1 (all)
	When    When    // which calls it is about at all; zero: all
	Match   Match   // which requests, by what they say; zero: all

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
	Connect   *Connect
	Corrupt   *Corrupt
	Abort     *Abort
	Reshape   *Reshape
	Duplicate *Duplicate
	Reorder   *Reorder
}

// When narrows a rule down; the zero value does not, nor does any zero field.
// Percent is the share of what is left.
type When struct {
	// Source is where the caller's address is from: 10.0.0.0/8, or one address.
	Source string
	// Pulse has the rule come and go, as if it were added and removed each time: the
	// same connections are hit again, and what removal does to them happens.
	Pulse Pulse
	// Ramp is how long Percent takes to grow to its full value, from when the rule was
	// added. What counts is when the call began.
	Ramp time.Duration
	// First is how many calls the rule is about, of those that begin after it was added.
	First uint64
	// Every n is about the n-th, 2n-th, … call after it was added.
	Every uint64
}

// Pulse is On at work, then Off not, in turn.
type Pulse struct{ On, Off time.Duration }

// shortestPulse keeps a pulse from doing nothing but come and go.
const shortestPulse = time.Millisecond

func (w *When) wrong() error {
	if _, err := w.source(); err != nil {
		return err
	}
	switch p := w.Pulse; {
	case p == Pulse{}:
	case p.On < shortestPulse || p.Off < shortestPulse:
		return fmt.Errorf("pulse is %v on, %v off, want at least %v each", p.On, p.Off, shortestPulse)
	case p.On > maxTime || p.Off > maxTime:
		return errors.Join(span("pulse on", p.On), span("pulse off", p.Off))
	}
	return span("ramp", w.Ramp)
}

// source is Source, parsed; invalid when it is empty.
func (w *When) source() (netip.Prefix, error) {
	if w.Source == "" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(w.Source); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(w.Source)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("source is %q, want addresses such as 10.0.0.0/8 or 2001:db8::/32, or one address", w.Source)
	}
	return p, nil
}

// Latency holds the answer of a call (or, Direction "request", the request) back
// by a delay that is drawn. On HTTP edges the whole message waits once, counted
// from when its head was complete; on TCP edges and behind an Upgrade every byte
// waits, counted from when it was received, in order. Several add up. Whatever is
// held when the rule is removed goes on at once.
//
// By Distribution, Jitter is
//
//	"", uniform    the most by which a delay differs from Delay, either way, evenly.
//	               Beyond Delay: from 0 to Delay evenly, and from there to Delay +
//	               Jitter, the former so much more often that the mean holds
//	normal         sigma of a normal law, of which the part above 0 is taken
//	pareto         sigma of a Pareto law (heavy tail)
//	exponential    nothing (0): sigma is Delay
//
// No delay is less than 0, and yet the mean is Delay under each (law.go has the
// formulas); but uniform with Delay 0, which is evenly from 0 to Jitter.
//
// On UDP edges every datagram waits for itself, counted from when it was received, so
// that with a jitter they overtake one another, as those of tc-netem(8) do.
type Latency struct {
	Delay        time.Duration
	Jitter       time.Duration
	Distribution string
	Direction    string // "answer", also when empty; "request"
	Where        Where  // HTTP edges: what of the message waits
	KeepOrder    bool   // UDP edges: none overtakes another of its session; else each goes when its own time is over
}

// Where is the place in a message from which on a latency rule holds it back.
type Where string

const (
	Head Where = "head" // all of it; so it is when empty
	Body Where = "body" // only its body, from when its head has gone; a message without one is not drawn for
)

// Error answers an HTTP request with Status and Body in the upstream's place.
// The request's body is read to its end, so that the connection stays usable;
// only where the caller waits for a 100 Continue, or asked for it, is it closed.
// Other rules treat that answer as they would the upstream's.
//
// With a Code it is a gRPC status that is answered, in trailers alone, and only calls
// of gRPC are drawn for; Status and Body are empty then.
type Error struct {
	Status  int // 200 to 599
	Body    string
	Code    Code
	Message string // beside Code
}

// status is that of the answer's head.
func (e *Error) status() int {
	if e.Code != 0 {
		return 200
	}
	return e.Status
}

// Cut is what Reset and Blackhole have in common: it strikes when After bytes
// of the answer, its head included (TCP edges: of everything that came from the
// upstream), have passed; After 0 strikes before the upstream hears of the call.
// To strike so far into the body is what Abort is for.
//
// Reset closes the caller's connection, and the upstream's, with RST; also open
// ones, and at Percent 1 idle ones of HTTP edges too, before Add returns.
//
// Blackhole lets nothing pass any more in either direction, not even the news
// that the other side closed; when the rule is removed, the connections it held
// are closed with RST, since bytes are missing in them.
//
// On UDP edges Blackhole discards the datagrams it hits, both ways; there is no After.
type Cut struct {
	After int64
	// Wait is for Reset, and without After: strike so long after the connection was
	// opened or the rule added, whichever is later, also when no byte passes.
	Wait time.Duration
}

// Direction says which way bytes go that a rule is about.
type Direction string

const (
	Both    Direction = ""        // both ways
	Request Direction = "request" // from the caller to the upstream
	Answer  Direction = "answer"  // from the upstream to the caller
)

// covers tells whether the direction is meant.
func (d Direction) covers(isDown bool) bool { return d == Both || (d == Answer) == isDown }

// includes tells whether it covers all that other does.
func (d Direction) includes(other Direction) bool { return d == Both || d == other }

// Silence discards every byte of one direction, and does not pass its end on
// either; the other direction goes on. After For (0: never), counted once from
// when the connection was opened or the rule added, whichever is later, the
// connection is closed in order, however busy it is. Those it had silenced are
// closed when the rule is removed, since bytes are missing; until then they are
// held, also when a side has gone, since the other is not to know.
type Silence struct {
	For       time.Duration
	Direction Direction
}

// Slice sends bytes in pieces of Average ± Variation bytes, evenly distributed
// (at least 1), each in a write of its own, and waits for Delay between two of
// them. A piece is smaller when no more bytes are there to be sent.
type Slice struct {
	Average, Variation int64
	Delay              time.Duration
	Direction          Direction
}

// Limit closes the connection, in order, when so many bytes have passed in that
// direction (Both: in either) since it was opened; exactly so many do. 0 closes it
// at the first byte.
//
// On UDP edges it is about sessions: a datagram with which more bytes would have passed is
// dropped.
type Limit struct {
	Bytes     int64
	Direction Direction
}

// SlowClose passes FIN on only Delay after it would have been; several add up.
type SlowClose struct {
	Delay     time.Duration
	Direction Direction
}

// Loss is what loss of packets means to a stream of bytes: the chunk that is
// hit, and everything behind it, comes late by one retransmission timeout
// (RFC 6298; Linux: 200 ms at least), which doubles with each hit in a row, up to
// 120 s. A chunk is what is ready to go at once, at most 64 KiB.
//
// Ratio is the share of chunks hit. Correlation is how much a draw depends on the
// one before: with that probability its outcome is the same again, else it is
// drawn anew. So the share stays Ratio, whatever the correlation; in netem's own
// law, p = Correlation·last + (1−Correlation)·uniform (tc-netem(8)), it does not.
//
// On UDP edges the datagram that is hit is lost, and one that a rule loses is the rule's
// Fired. Each direction has a chain of its own, in the order in which datagrams came.
type Loss struct {
	Ratio, Correlation float64
	Direction          Direction
}

// Connect is a slow handshake: the upstream is dialled, and the first byte passes,
// only so long after the connection was opened; several add up. (That it is open
// the caller knows at once: the kernel accepts, for the listener.)
type Connect struct {
	Delay time.Duration
}

// Corrupt flips one bit in so large a share of all bytes. Which ones depends on
// the rule, the number of the connection and the place in its stream alone, so
// that the same stream breaks in the same places again. Lengths stay as they are.
//
// On HTTP edges it is the number of the call and the place in its body, and nothing
// but the content of bodies is altered: no head, no chunk size, no trailer, and
// nothing behind an Upgrade, or that is not understood.
//
// On UDP edges it is the number of the datagram and the place in it.
type Corrupt struct {
	Ratio     float64
	Direction Direction
}

// Refuse turns new connections away. The listener stays bound and accepts, and
// the connection is reset at once: the caller sees "connection reset", from
// connect(2) or right after it, where a closed port would show "connection
// refused". In exchange the port is never lost, Percent can be below 1, and
// every attempt is seen and counted, which a verdict on a breaker depends on.
//
// A UDP port is as if closed instead: the kernel answers each datagram with ICMP "port
// unreachable", and the proxy sees none of them. What is counted is one probe of its
// own, when the rule begins. Answers to what came before go on.
type Refuse struct{}

// Bandwidth lets BytesPerS through each connection, in each direction it is about;
// 0 lets nothing pass. Bytes count against it while they wait only: an idle connection
// saves nothing up. Shared, it is the connections that it hits that share it, on
// TCP and HTTP edges alike, portion by portion in the order in which they ask.
type Bandwidth struct {
	BytesPerS int64
	Shared    bool
	Direction Direction
	// Queue is UDP's: how many bytes wait at most, on the line that a session has, or all
	// share; what comes beyond is dropped. 0 is what passes in 100 ms, at least 64 KiB.
	Queue int64
}

// Where numbers stop meaning anything; sums of them are far from an overflow.
const (
	maxRate  = 1_000_000_000_000 // bytes per second
	maxBytes = 1 << 50
	maxTime  = 365 * 24 * time.Hour
)

// kinds is which of the pointers are set, by the kind's name.
func (r *Rule) kinds() []kind {
	return []kind{
		{"latency", r.Latency != nil}, {"error", r.Error != nil}, {"reset", r.Reset != nil},
		{"blackhole", r.Blackhole != nil}, {"refuse", r.Refuse != nil}, {"bandwidth", r.Bandwidth != nil},
		{"silence", r.Silence != nil}, {"slice", r.Slice != nil}, {"limit", r.Limit != nil},
		{"slow close", r.SlowClose != nil}, {"loss", r.Loss != nil},
		{"connect", r.Connect != nil}, {"corrupt", r.Corrupt != nil},
		{"abort", r.Abort != nil}, {"reshape", r.Reshape != nil},
		{"duplicate", r.Duplicate != nil}, {"reorder", r.Reorder != nil},
	}
}

type kind struct {
	name string
	set  bool
}

// kind is the name of the kind that is set.
func (r *Rule) kind() string {
	for _, k := range r.kinds() {
		if k.set {
			return k.name
		}
	}
	return ""
}

// Validate tells the first thing that is wrong with the rule.
func (r Rule) Validate() error {
	if r.Name == "" {
		return fmt.Errorf("rule without a name: its effects are counted under one")
	}
	if err := r.wrong(); err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, err)
	}
	return nil
}

func (r *Rule) wrong() error {
	var set, known []string
	for _, k := range r.kinds() {
		known = append(known, k.name)
		if k.set {
			set = append(set, k.name)
		}
	}
	if len(set) != 1 {
		return fmt.Errorf("%d kinds set (%s), want exactly one of %s", len(set), strings.Join(set, ", "), strings.Join(known, ", "))
	}
	if err := errors.Join(share("percent", r.Percent), r.When.wrong(), r.Match.wrong()); err != nil {
		return err
	}
	if !r.Match.isZero() && (r.Refuse != nil || r.Connect != nil) {
		return errMatchOfConnections
	}
	if l := r.Latency; l != nil {
		switch known := []string{"uniform", "normal", "pareto", "exponential"}; {
		case l.Distribution == "" || l.Distribution == "uniform":
		case !slices.Contains(known, l.Distribution):
			return fmt.Errorf("distribution is %q, want one of %s", l.Distribution, strings.Join(known, ", "))
		case l.Delay == 0:
			return fmt.Errorf("delay is 0, want a mean above 0 for the distribution %s", l.Distribution)
		case l.Distribution == "exponential" && l.Jitter != 0:
			return fmt.Errorf("jitter is %v, want none: the delay alone says how an exponential distribution spreads", l.Jitter)
		}
		if l.Direction != "" && l.Direction != "answer" && l.Direction != "request" {
			return fmt.Errorf(`direction is %q, want "answer" or "request"`, l.Direction)
		}
		if l.Where != "" && l.Where != Head && l.Where != Body {
			return fmt.Errorf("where is %q, want %q or %q", l.Where, Head, Body)
		}
		return errors.Join(span("delay", l.Delay), span("jitter", l.Jitter))
	}
	if e := r.Error; e != nil {
		return e.wrong()
	}
	if c := r.Reset; c != nil {
		if c.After > 0 && c.Wait > 0 {
			return fmt.Errorf("after %d bytes and wait %v, want one of them: two rules do both", c.After, c.Wait)
		}
		return errors.Join(count("after", c.After, 0), span("wait", c.Wait))
	}
	if c := r.Blackhole; c != nil {
		if c.Wait != 0 {
			return fmt.Errorf("wait is %v, which only a reset can", c.Wait)
		}
		return count("after", c.After, 0)
	}
	if b := r.Bandwidth; b != nil {
		if b.BytesPerS < 0 || b.BytesPerS > maxRate {
			return fmt.Errorf("rate is %d bytes/s, want from 0 to %d", b.BytesPerS, int64(maxRate))
		}
		return errors.Join(count("queue", b.Queue, 0), b.Direction.wrong())
	}
	if s := r.Silence; s != nil {
		return errors.Join(span("for", s.For), s.Direction.wrong())
	}
	if s := r.Slice; s != nil {
		if s.Variation < 0 || s.Variation > s.Average {
			return fmt.Errorf("variation is %d bytes, want from 0 to the average, %d", s.Variation, s.Average)
		}
		return errors.Join(count("average", s.Average, 1), span("delay", s.Delay), s.Direction.wrong())
	}
	if l := r.Limit; l != nil {
		return errors.Join(count("limit", l.Bytes, 0), l.Direction.wrong())
	}
	if s := r.SlowClose; s != nil {
		return errors.Join(span("delay", s.Delay), s.Direction.wrong())
	}
	if l := r.Loss; l != nil {
		return errors.Join(share("ratio", l.Ratio), share("correlation", l.Correlation), l.Direction.wrong())
	}
	if c := r.Connect; c != nil {
		return span("delay", c.Delay)
	}
	if c := r.Corrupt; c != nil {
		return errors.Join(share("ratio", c.Ratio), c.Direction.wrong())
	}
	if a := r.Abort; a != nil {
		return count("after", a.After, 0)
	}
	if s := r.Reshape; s != nil {
		return s.wrong()
	}
	if d := r.Duplicate; d != nil {
		return d.Direction.wrong()
	}
	if o := r.Reorder; o != nil {
		return errors.Join(span("wait", o.Wait), o.Direction.wrong())
	}
	return nil
}

func (e *Error) wrong() error {
	switch {
	case e.Code < 0 || int(e.Code) >= len(codeNames):
		return fmt.Errorf("code is %d, want a gRPC status from 1 to %d", int(e.Code), len(codeNames)-1)
	case e.Code != 0 && (e.Status != 0 || e.Body != ""):
		return fmt.Errorf("a gRPC status (%s) and an HTTP status or body, want one of them: a gRPC answer is 200 and has its status in its trailers", e.Code)
	case e.Code == 0 && e.Message != "":
		return fmt.Errorf("message is %q without a gRPC status, want a code, or a body", e.Message)
	case e.Code == 0 && (e.Status < 200 || e.Status > 599):
		return fmt.Errorf("status is %d, want from 200 to 599", e.Status)
	case len(e.Message) > messageMost:
		return fmt.Errorf("message has %d bytes, want at most %d", len(e.Message), messageMost)
	}
	return nil
}

// messageMost keeps a message within what callers take of trailers.
const messageMost = 1024

// match is what the rule is about: its Match, and what its kind has a place in.
func (r *Rule) match() Match {
	m := r.Match
	if r.Error != nil && r.Error.Code != 0 && m.GRPC == (GRPC{}) {
		m.GRPC.Service = "*"
	}
	return m
}

func (d Direction) wrong() error {
	if d != Both && d != Request && d != Answer {
		return fmt.Errorf("direction is %q, want %q, %q, or empty for both", d, Request, Answer)
	}
	return nil
}

func span(what string, d time.Duration) error {
	if d < 0 || d > maxTime {
		return fmt.Errorf("%s is %v, want from 0 to %v", what, d, maxTime)
	}
	return nil
}

func count(what string, n, least int64) error {
	if n < least || n > maxBytes {
		return fmt.Errorf("%s is %d bytes, want from %d to %d", what, n, least, int64(maxBytes))
	}
	return nil
}

func share(what string, x float64) error {
	if !(x >= 0 && x <= 1) { // NaN too
		return fmt.Errorf("%s is %v, want a share from 0 to 1", what, x)
	}
	return nil
}

// needs tells what kind of edge the rule cannot work on, if protocol is such a one.
func (r *Rule) needs(protocol Protocol) error {
	switch {
	case r.Error != nil && protocol != HTTP:
		return fmt.Errorf("rule %q: an error status needs an http edge, this one carries %s", r.Name, protocol)
	case protocol != HTTP && !r.Match.isZero():
		return fmt.Errorf("rule %q: a match needs an http edge, where requests can be told apart; this one carries %s", r.Name, protocol)
	case protocol != HTTP && r.Abort != nil:
		return fmt.Errorf("rule %q: an abort needs an http edge, this one carries %s: use a reset with after, or a limit", r.Name, protocol)
	case protocol != HTTP && r.Reshape != nil:
		return fmt.Errorf("rule %q: reshape changes headers and needs an http edge, this one carries %s", r.Name, protocol)
	case protocol != HTTP && r.Latency != nil && r.Latency.Where != "":
		return fmt.Errorf("rule %q: latency of the %s needs an http edge, this one carries %s", r.Name, r.Latency.Where, protocol)
	case protocol == UDP:
		return r.needsConnections()
	case r.Duplicate != nil || r.Reorder != nil:
		return fmt.Errorf("rule %q: to %s datagrams needs a udp edge, this one carries %s, whose bytes come once and in order", r.Name, r.kind(), protocol)
	case r.Latency != nil && r.Latency.KeepOrder, r.Bandwidth != nil && r.Bandwidth.Queue > 0:
		return fmt.Errorf("rule %q: keep order and queue are about datagrams and need a udp edge; on one that carries %s order is kept, and nothing dropped", r.Name, protocol)
	case protocol == TCP:
		return nil
	case r.Silence != nil:
		return fmt.Errorf("rule %q: silence of one direction needs a tcp edge, this one carries %s: use a blackhole", r.Name, protocol)
	case r.Limit != nil:
		return fmt.Errorf("rule %q: a limit counts the bytes of a connection and needs a tcp edge, this one carries %s: use a reset with after", r.Name, protocol)
	case r.SlowClose != nil:
		return fmt.Errorf("rule %q: a slow close needs a tcp edge, this one carries %s: use latency", r.Name, protocol)
	case r.Reset != nil && r.Reset.Wait > 0:
		return fmt.Errorf("rule %q: a reset that waits needs a tcp edge, this one carries %s: use a reset with after", r.Name, protocol)
	}
	return nil
}

// On tells what is wrong with the rule on an edge that carries that protocol.
func (r Rule) On(protocol Protocol) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return r.needs(protocol)
}

// needsConnections tells what the rule misses on a UDP edge.
func (r *Rule) needsConnections() error {
	why := ""
	switch w := r.When; {
	case r.Reset != nil:
		why = "a reset ends a connection, and datagrams have none: use loss or blackhole"
	case r.Silence != nil:
		why = "silence ends a connection, and datagrams have none: use loss with a ratio of 1 in one direction"
	case r.Slice != nil:
		why = "datagrams stay whole, there is nothing to slice: use bandwidth"
	case r.SlowClose != nil:
		why = "datagrams have no end that could come late: use latency"
	case r.Connect != nil:
		why = "datagrams go without a handshake that could be slow: use latency"
	case r.Blackhole != nil && r.Blackhole.After > 0:
		why = "after counts the bytes of an answer, and a datagram is struck whole: use a limit"
	case r.Refuse != nil && (r.Percent != 1 || w.Source != "" || w.Ramp > 0 || w.First > 0 || w.Every > 1):
		why = "on a udp edge refuse closes the port, to everybody: leave percent and conditions other than a pulse out, or use blackhole"
	default:
		return nil
	}
	return fmt.Errorf("rule %q: %s", r.Name, why)
}

// clone is a copy that shares nothing with r.
func (r Rule) clone() Rule {
	r.Latency, r.Error, r.Reset = dup(r.Latency), dup(r.Error), dup(r.Reset)
	r.Blackhole, r.Refuse, r.Bandwidth = dup(r.Blackhole), dup(r.Refuse), dup(r.Bandwidth)
	r.Silence, r.Slice, r.Limit = dup(r.Silence), dup(r.Slice), dup(r.Limit)
	r.SlowClose, r.Loss = dup(r.SlowClose), dup(r.Loss)
	r.Connect, r.Corrupt, r.Abort = dup(r.Connect), dup(r.Corrupt), dup(r.Abort)
	r.Duplicate, r.Reorder = dup(r.Duplicate), dup(r.Reorder)
	if s := r.Reshape; s != nil {
		r.Reshape = &Reshape{s.Request.clone(), s.Answer.clone()}
	}
	r.Match = r.Match.clone()
	return r
}

func dup[T any](p *T) *T {
	if p == nil {
		return nil
	}
	q := *p
	return &q
}
