package toxiproxy

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// Stats is what GET /proxies/{proxy}/stats answers: what went through a proxy and
// what its toxics did to it, since the proxy was created (a toxic: since it was
// added). A real Toxiproxy does not have this.
type Stats struct {
	Name        string `json:"name"`
	Connections struct {
		Accepted int64 `json:"accepted"`
		Upstream int64 `json:"upstream"` // that reached the upstream
		Open     int   `json:"open"`     // now
		// Ended counts by how: closed (in order), reset, canceled (the client went
		// first), refused (the upstream could not be reached).
		Ended map[string]int64 `json:"ended"`
	} `json:"connections"`
	Bytes struct {
		Upstream   int64 `json:"upstream"`   // passed on to the upstream
		Downstream int64 `json:"downstream"` // passed on to clients
		// What was received, also what is held back still, or was discarded.
		ReceivedUpstream   int64 `json:"received_upstream"`
		ReceivedDownstream int64 `json:"received_downstream"`
	} `json:"bytes"`
	// Handshakes counts those of TLS that failed, by whose doing and why.
	Handshakes map[string]int64 `json:"handshakes,omitempty"`
	// TLS is what was seen of the TLS of connections, the most frequent first.
	TLS []TLSStats `json:"tls,omitempty"`
	// Upstreams is where connections went, if there are several.
	Upstreams map[string]UpstreamStats `json:"upstreams,omitempty"`
	// Datagrams is for UDP proxies, whose connections are sessions of clients (open), each
	// datagram of which counts as accepted, and has ended when it is answered, refused,
	// or its session is over.
	Datagrams *DatagramStats `json:"datagrams,omitempty"`
	Toxics    []ToxicStats   `json:"toxics"`
}

// TLSStats counts connections whose TLS was alike: see proxy.TLSFacts.
type TLSStats struct {
	Side        string `json:"side"` // through, caller or upstream
	ServerName  string `json:"server_name,omitempty"`
	Version     string `json:"version,omitempty"`
	ALPN        string `json:"alpn,omitempty"`
	Connections int64  `json:"connections"`
}

func tlsStats(seen map[proxy.TLSFacts]int64) []TLSStats {
	var all []TLSStats
	for facts, n := range seen {
		all = append(all, TLSStats{string(facts.Side), facts.ServerName, facts.Version, facts.ALPN, n})
	}
	slices.SortFunc(all, func(a, b TLSStats) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.Side, b.Side), cmp.Compare(a.ServerName, b.ServerName),
			cmp.Compare(a.Version, b.Version), cmp.Compare(a.ALPN, b.ALPN))
	})
	return all
}

// UpstreamStats is one of several upstreams.
type UpstreamStats struct {
	Connections int64 `json:"connections"` // made to it
	Refused     int64 `json:"refused"`     // that could not be, and went to the next
}

// DatagramStats counts datagrams that were passed on, copies among them, and those that
// were not, by reason: see proxy.DatagramStats.
type DatagramStats struct {
	Upstream   int64            `json:"upstream"`
	Downstream int64            `json:"downstream"`
	Lost       map[string]int64 `json:"lost"`
}

// ToxicStats is what one toxic did.
type ToxicStats struct {
	Name     string      `json:"name"`
	Type     string      `json:"type"`
	Stream   string      `json:"stream"`
	Eligible int64       `json:"eligible"`          // connections it drew for
	Fired    int64       `json:"fired"`             // those it hit
	Bytes    int64       `json:"bytes"`             // held back, throttled or discarded
	Delay    *DelayStats `json:"delay_s,omitempty"` // nil: it measured none
}

// DelayStats sums up how long chunks of data were measured to wait on top, in
// seconds.
type DelayStats struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func delayStats(h *hdr.Histogram) *DelayStats {
	if h == nil || h.Count() == 0 {
		return nil
	}
	at := func(q float64) float64 { return h.Quantile(q).Seconds() }
	return &DelayStats{Count: h.Count(), Mean: h.Mean().Seconds(), P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

func (s *Server) showStats(w http.ResponseWriter, c call) error {
	e, st, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	var answer Stats
	answer.Name = e.name
	answer.Toxics = []ToxicStats{}
	e.totals.read(st.proxy, func(t *totals, open int) {
		answer.Connections.Accepted, answer.Connections.Upstream = t.calls, t.upstream
		answer.Connections.Open, answer.Connections.Ended = open, maps.Clone(t.ended)
		answer.Bytes.Upstream, answer.Bytes.Downstream = t.bytesUp, t.bytesDown
		answer.Bytes.ReceivedUpstream, answer.Bytes.ReceivedDownstream = t.receivedUp, t.receivedDown
		answer.Handshakes, answer.Upstreams = maps.Clone(t.handshakes), maps.Clone(t.upstreams)
		answer.TLS = tlsStats(t.tls)
		if d := t.datagrams; d != nil {
			answer.Datagrams = &DatagramStats{Upstream: d.Upstream, Downstream: d.Downstream, Lost: maps.Clone(d.Lost)}
		}
		for _, x := range inOrder(st.toxics) {
			did := t.of(x.Name)
			answer.Toxics = append(answer.Toxics, ToxicStats{
				Name: x.Name, Type: x.Type, Stream: x.Stream,
				Eligible: did.eligible, Fired: did.fired, Bytes: did.bytes, Delay: delayStats(did.delay),
			})
		}
	})
	if answer.Connections.Ended == nil {
		answer.Connections.Ended = map[string]int64{}
	}
	return writeJSON(w, http.StatusOK, answer)
}

// totals are an entry's counts over every start of its data plane. Safe for use
// by several goroutines.
type totals struct {
	mu                 sync.Mutex
	calls, upstream    int64
	bytesUp, bytesDown int64
	receivedUp         int64
	receivedDown       int64
	handshakes         map[string]int64 // by why
	tls                map[proxy.TLSFacts]int64
	upstreams          map[string]UpstreamStats
	ended              map[string]int64
	toxics             map[string]*did // by name, of those that are there
	datagrams          *DatagramStats  // nil: never a UDP proxy
}

// mostReasons is how many reasons of failed handshakes are told apart, and mostTLS
// how many kinds of TLS: callers choose the names in them.
const (
	mostReasons = 50
	mostTLS     = 200
)

// did is what a toxic did.
type did struct {
	eligible, fired, bytes int64
	delay                  *hdr.Histogram // nil: none yet
}

// of is what the toxic of that name did. t.mu is held.
func (t *totals) of(name string) did {
	if d := t.toxics[name]; d != nil {
		return *d
	}
	return did{}
}

// read calls f with what is known up to now, p's counts included; nil: the proxy
// is not enabled.
func (t *totals) read(p *proxy.Proxy, f func(t *totals, open int)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := 0
	if p != nil {
		open = t.add(p.Collect())
	}
	f(t, open)
}

func (t *totals) collect(p *proxy.Proxy) { t.read(p, func(*totals, int) {}) }

func (t *totals) add(s proxy.Stats) (open int) {
	t.calls += int64(s.Calls)
	t.upstream += int64(s.Upstream)
	t.bytesUp += s.BytesUp
	t.bytesDown += s.BytesDown
	t.receivedUp += s.ReceivedUp
	t.receivedDown += s.ReceivedDown
	if t.ended == nil {
		t.ended, t.toxics = map[string]int64{}, map[string]*did{}
		t.handshakes, t.upstreams = map[string]int64{}, map[string]UpstreamStats{}
		t.tls = map[proxy.TLSFacts]int64{}
	}
	for facts, n := range s.TLS {
		if _, known := t.tls[facts]; !known && len(t.tls) >= mostTLS {
			facts = facts.Others()
		}
		t.tls[facts] += int64(n)
	}
	for why, n := range s.Handshakes {
		if _, known := t.handshakes[why]; !known && len(t.handshakes) >= mostReasons {
			why = "others"
		}
		t.handshakes[why] += int64(n)
	}
	for at, n := range s.Upstreams {
		sum := t.upstreams[at]
		sum.Connections += int64(n.Connections)
		sum.Refused += int64(n.Refused)
		t.upstreams[at] = sum
	}
	if d := s.Datagrams; d != nil {
		if t.datagrams == nil {
			t.datagrams = &DatagramStats{Lost: map[string]int64{}}
		}
		t.datagrams.Upstream += int64(d.Up)
		t.datagrams.Downstream += int64(d.Down)
		for why, n := range d.Lost {
			t.datagrams.Lost[why] += int64(n)
		}
	}
	for class, n := range s.Answers {
		t.ended[class] += int64(n)
	}
	for name, r := range s.Rules {
		d := t.toxics[name]
		if d == nil {
			d = &did{}
			t.toxics[name] = d
		}
		d.eligible += int64(r.Eligible)
		d.fired += int64(r.Fired)
		d.bytes += r.Bytes
		switch {
		case r.Delay == nil || r.Delay.Count() == 0:
		case d.delay == nil:
			d.delay = r.Delay
		default:
			d.delay.Merge(r.Delay)
		}
	}
	return s.Open
}

// keep forgets the toxics that are not among these.
func (t *totals) keep(toxics []toxic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.toxics, func(name string, _ *did) bool {
		return !slices.ContainsFunc(toxics, func(x toxic) bool { return x.Name == name })
	})
}

// delayBuckets are the upper bounds of the histogram in /metrics.
var delayBuckets = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond,
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}
