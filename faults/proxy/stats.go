package proxy

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// Stats is what a Proxy saw and did since the last Collect (Open: now). It is
// the evidence that a fault took effect, and what a breaker is judged by.
type Stats struct {
	// Calls that the caller began: HTTP requests whose head was complete,
	// connections on TCP edges, and connections that a Refuse rule turned away, or
	// that were HTTP/2 and without a request when the upstream could not be dialled.
	// On UDP edges, each datagram of a caller is a call.
	Calls int
	// Answers counts finished calls: by status code when the answer went to the
	// caller whole, else by what ended the call:
	//	refused   the upstream could not be dialled, or a Refuse rule struck
	//	handshake TLS was not agreed on, with the caller or the upstream (see Handshakes)
	//	reset     the upstream, or a Reset rule, sent RST
	//	closed    the upstream, or an Abort rule, closed before the end of the answer; TCP edges: any orderly end
	//	canceled  the caller went away first
	//	opaque    the answer was not HTTP
	//
	// The answer to a call of gRPC (by its content type) whose status is not OK is
	// counted by that status's name, UNAVAILABLE for example, and one that is OK as
	// 200; without a status it is not whole: closed.
	//
	// UDP edges: each datagram that goes back to a caller answers the oldest call of its
	// session that has no answer, if there is one; and so does the news that nobody
	// listens there.
	//	answered    by a datagram
	//	refused     by ICMP "port unreachable", or the upstream cannot be dialled
	//	unanswered  its session has ended before
	Answers map[string]int
	// Upstream counts the calls that reached the callee, or began to (an injected
	// error, reset or silence before the first byte does not).
	Upstream int
	// Opaque counts connections of an HTTP edge, or ends of them, that could not be
	// understood and passed through as they were, or, of HTTP/2 with heads in them
	// that were passed on, ended.
	Opaque int
	// Open is how many connections callers hold now; UDP edges: sessions.
	Open int
	// BytesUp went to the upstream, BytesDown to callers.
	BytesUp, BytesDown int64
	// ReceivedUp came from callers, ReceivedDown from the upstream: also what is still
	// held back, or was discarded. Of TLS that ends here, what was inside.
	ReceivedUp, ReceivedDown int64
	// Spliced of those never entered user space.
	Spliced int64
	// Handshakes counts those of TLS that failed, by whose doing and why: "caller: it
	// says: bad certificate". Reasons beyond the first 16 are "others". Never nil.
	Handshakes map[string]int
	// TLS counts connections by what was seen of their TLS, with each side that spoke
	// it; of TLS that passes through, from the ClientHello. Never nil.
	TLS map[TLSFacts]int
	// Upstreams is what became of each of several upstreams, as they were named; nil
	// where nothing was sent to one of several.
	Upstreams map[string]UpstreamStats
	// Latency is call begun (head complete) to answer begun (first byte of the final
	// head sent, added delays included), on HTTP edges. Never nil.
	Latency *hdr.Histogram
	// Rules is keyed by Rule.Name; it has the rules that are active, and those
	// removed since the last Collect.
	Rules map[string]RuleStats
	// Datagrams is nil but on UDP edges.
	Datagrams *DatagramStats
}

// UpstreamStats is one of several upstreams.
type UpstreamStats struct {
	Connections int // made to it
	Refused     int // that could not be, and went to the next
}

// RuleStats is what the rules of one name did since the last Collect.
type RuleStats struct {
	Eligible int // calls (connections) that it drew for
	Fired    int // those it hit
	// Delay is how long messages (TCP edges: chunks) were measured to wait on top,
	// for latency rules; holds that were cut short (the rule removed, the
	// connection gone) are not in it. Of several latency rules on a TCP or UDP edge
	// each is given its part of the sum. Never nil.
	Delay *hdr.Histogram
	Bytes int64 // held back, throttled, discarded, altered, or kept from the upstream by an injected error
}

// The classes of a call without an answer, as in Stats.Answers.
const (
	wasRefused   = "refused"
	wasReset     = "reset"
	wasClosed    = "closed"
	wasCanceled  = "canceled"
	wasOpaque    = "opaque"
	wasHandshake = "handshake"

	wasAnswered   = "answered"
	wasUnanswered = "unanswered"
)

// counters is Stats in the making. Safe for use by several goroutines.
type counters struct {
	bytesUp, bytesDown, spliced atomic.Int64
	lent                        atomic.Int64 // bytes down and up that an alarm wrote (lent.go)
	receivedUp, receivedDown    atomic.Int64

	mu         sync.Mutex
	calls      int
	upstream   int
	opaque     int
	status     [1000]int
	class      map[string]int
	latency    samples
	handshakes map[string]int
	tls        map[TLSFacts]int
	upstreams  map[string]UpstreamStats
}

// received counts bytes of a direction that came.
func (c *counters) received(isDown bool, n int) {
	if isDown {
		c.receivedDown.Add(int64(n))
	} else {
		c.receivedUp.Add(int64(n))
	}
}

// mostReasons is how many are told apart between two collects.
const mostReasons = 16

// disagreed counts a handshake that failed.
func (c *counters) disagreed(why *handshakeError) {
	reason := why.Error()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handshakes == nil {
		c.handshakes = map[string]int{}
	}
	if c.handshakes[reason] == 0 && len(c.handshakes) >= mostReasons {
		reason = "others"
	}
	c.handshakes[reason]++
}

// tried counts a connection to one of several upstreams.
func (c *counters) tried(at place, reached bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.upstreams == nil {
		c.upstreams = map[string]UpstreamStats{}
	}
	s := c.upstreams[at.String()]
	if reached {
		s.Connections++
	} else {
		s.Refused++
	}
	c.upstreams[at.String()] = s
}

func (c *counters) begun() {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
}

func (c *counters) reached() {
	c.mu.Lock()
	c.upstream++
	c.mu.Unlock()
}

func (c *counters) passedOpaque() {
	c.mu.Lock()
	c.opaque++
	c.mu.Unlock()
}

func (c *counters) answerBegun(after time.Duration) {
	c.mu.Lock()
	c.latency.add(after)
	c.mu.Unlock()
}

func (c *counters) answered(status int) {
	c.mu.Lock()
	c.status[status]++
	c.mu.Unlock()
}

func (c *counters) ended(class string) {
	c.mu.Lock()
	if c.class == nil {
		c.class = map[string]int{}
	}
	c.class[class]++
	c.mu.Unlock()
}

// collect returns the counts and starts again from zero.
func (c *counters) collect() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{
		Calls:     c.calls,
		Answers:   c.class,
		Upstream:  c.upstream,
		Opaque:    c.opaque,
		BytesUp:   c.bytesUp.Swap(0),
		BytesDown: c.bytesDown.Swap(0),
		Spliced:   c.spliced.Swap(0),
		Latency:   c.latency.take(),
		Rules:     map[string]RuleStats{},

		ReceivedUp: c.receivedUp.Swap(0), ReceivedDown: c.receivedDown.Swap(0),
		Handshakes: c.handshakes, TLS: c.tls, Upstreams: c.upstreams,
	}
	if s.TLS == nil {
		s.TLS = map[TLSFacts]int{}
	}
	if s.Handshakes == nil {
		s.Handshakes = map[string]int{}
	}
	if s.Answers == nil {
		s.Answers = map[string]int{}
	}
	for status, n := range c.status {
		if n > 0 {
			s.Answers[strconv.Itoa(status)] = n
		}
	}
	c.calls, c.upstream, c.opaque, c.class = 0, 0, 0, nil
	c.handshakes, c.tls, c.upstreams = nil, nil, nil
	c.status = [1000]int{}
	return s
}

// ruleCounters is RuleStats in the making. Safe for use by several goroutines.
type ruleCounters struct {
	eligible, fired atomic.Int64
	bytes           atomic.Int64

	mu    sync.Mutex
	delay samples
}

// drawn counts a draw, and passes its result on.
func (c *ruleCounters) drawn(hit bool) bool {
	c.eligible.Add(1)
	if hit {
		c.fired.Add(1)
	}
	return hit
}

func (c *ruleCounters) held(d time.Duration) {
	c.mu.Lock()
	c.delay.add(d)
	c.mu.Unlock()
}

// collectInto adds the counts to those of rules of the same name.
func (c *ruleCounters) collectInto(s RuleStats) RuleStats {
	// Fired before eligible: so that a draw in between shows as eligible only, never as fired only.
	s.Fired += int(c.fired.Swap(0))
	s.Eligible += int(c.eligible.Swap(0))
	s.Bytes += c.bytes.Swap(0)
	c.mu.Lock()
	delay := c.delay.take()
	c.mu.Unlock()
	if s.Delay != nil {
		delay.Merge(s.Delay)
	}
	s.Delay = delay
	return s
}

// samples gathers durations cheaply: a histogram is built when someone asks, or
// when nobody has for long.
type samples struct {
	recent []time.Duration
	folded *hdr.Histogram // nil: none yet
}

const recentSamples = 4096

func (s *samples) add(d time.Duration) {
	if len(s.recent) == recentSamples {
		s.fold()
	}
	s.recent = append(s.recent, d)
}

func (s *samples) fold() {
	if s.folded == nil {
		s.folded = hdr.New()
	}
	for _, d := range s.recent {
		s.folded.Record(d)
	}
	s.recent = s.recent[:0]
}

func (s *samples) take() *hdr.Histogram {
	s.fold()
	h := s.folded
	s.folded = nil
	return h
}
