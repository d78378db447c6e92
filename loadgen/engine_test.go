package loadgen

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

func TestChosenEngine(t *testing.T) {
	spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(1)}
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	best := General
	if haveFast {
		best = Fast
	}
	for _, c := range []struct {
		config Config
		want   Engine
		why    string
		err    string
	}{
		{Config{Spec: spec}, best, "", ""},
		{Config{Spec: spec, Engine: General}, General, "asked for", ""},
		{Config{Spec: spec, Dial: dial}, General, "Config.Dial", ""},
		{Config{Spec: spec, Dial: dial, Engine: Fast}, Fast, "", "Config.Dial"},
		{Config{Spec: Spec{Name: "s", To: "peer", Request: spec.Request, Rate: perSecond(1), Protocol: H2C, Streams: ptr(8)}}, best, "", ""},
		{Config{Spec: Spec{Name: "s", To: "peer", Request: spec.Request, Rate: perSecond(1), Protocol: GRPC}}, best, "", ""},
		{Config{Spec: spec, Engine: "quick"}, "", "", `engine "quick" is none of auto, fast, general`},
	} {
		e, why, err := c.config.Chosen()
		if e != c.want || !strings.Contains(why, c.why) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: chosen %q, %q, %v; want %q, %q, %q", c.config.Engine, e, why, err, c.want, c.why, c.err)
		}
		if c.err == "" {
			continue
		}
		c.config.Resolve = func() string { t.Error("a connection was asked for"); return "" }
		if err := Run(t.Context(), c.config); err == nil || !strings.Contains(err.Error(), `load "s": `) {
			t.Errorf("Run with engine %q: %v", c.config.Engine, err)
		}
	}
	for text, want := range map[string]Engine{"auto": Auto, "fast": Fast, "general": General, "": Auto} {
		var e Engine
		if err := e.UnmarshalText([]byte(text)); err != nil || e != want {
			t.Errorf("%q is read as %q, %v", text, e, err)
		}
	}
}

func TestEventLoops(t *testing.T) {
	cpus := runtime.GOMAXPROCS(0)
	for _, c := range []struct {
		spec Spec
		want int
	}{
		{Spec{Rate: perSecond(10)}, 1},
		{Spec{Rate: perSecond(1e6)}, cpus},
		{Spec{Ramp: &Ramp{To: 80_000}}, min(2, cpus)},
		{Spec{Stages: []Stage{{To: perSecond(1e9)}, {Rate: perSecond(1)}}}, cpus},
		{Spec{Rate: perSecond(1e6), Connections: ptr(1)}, 1},
		{Spec{Users: ptr(64)}, 1},
		{Spec{Users: ptr(1 << 20)}, cpus},
		{Spec{Users: ptr(10_000), Think: 10 * time.Second}, 1},
	} {
		if got := (Config{Spec: c.spec}).shards(); got != c.want {
			t.Errorf("%s: %d event loops, want %d", c.spec.Describe(), got, c.want)
		}
	}
}

// The shards of a stream have each of its arrivals once, at its own time.
func TestShardsOfArrivals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := func(label string) float64 { return float64(rapid.IntRange(0, 3000).Draw(t, label)) }
		spec := Spec{Stages: []Stage{
			{Rate: perSecond(rate("first")), For: 200 * time.Millisecond}, {To: perSecond(rate("second")), For: 200 * time.Millisecond},
		}}
		c := Config{Spec: spec, From: rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "from")}
		c.Until = c.From + rapid.SampledFrom([]time.Duration{0, 300 * time.Millisecond, time.Second}).Draw(t, "length")
		want := map[uint64]time.Duration{}
		next := schedule(c)
		for seq := uint64(0); ; seq++ {
			due, ok := next()
			if due += c.From; !ok || due >= c.Until {
				break
			}
			want[seq] = due
		}
		of := rapid.IntRange(1, 5).Draw(t, "shards")
		for shard := range of {
			a := newArrivals(c, shard, of)
			for a.next() != never {
				if _, ok := a.take(a.next() - 1); ok {
					t.Fatalf("a request was taken before it was due at %v", a.next())
				}
				j, ok := a.take(a.next())
				if due, is := want[j.seq]; !ok || !is || due != j.due {
					t.Fatalf("shard %d of %d has number %d due at %v (%t), want %v (%t)", shard, of, j.seq, j.due, ok, due, is)
				}
				delete(want, j.seq)
				if a.passed(0) < j.due {
					t.Fatalf("what is due before %v is over, with %v taken", a.passed(0), j.due)
				}
			}
		}
		if len(want) > 0 {
			t.Fatalf("%d of the arrivals are no shard's", len(want))
		}
	})
}

// Users take their turns in the order in which they are due, whatever the order
// in which they were answered, and none is lost.
func TestUsersTakeTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		think := rapid.SampledFrom([]time.Duration{0, 3 * time.Millisecond}).Draw(t, "think")
		n := rapid.IntRange(1, 40).Draw(t, "users")
		u := newUsers(Config{Spec: Spec{Users: ptr(n), Think: think}, Until: time.Hour}, new(atomic.Uint64), 0, 1)
		var asked []job
		now, last, seq := time.Duration(0), time.Duration(0), uint64(0)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "time passes") {
				now += time.Millisecond
			}
			for {
				passed := u.passed(now)
				j, ok := u.take(now)
				if !ok {
					break
				}
				if j.due > now || j.due < passed || j.due < last || j.seq != seq {
					t.Fatalf("number %d due at %v was taken at %v, after number %d due at %v; nothing before %v was to come", j.seq, j.due, now, seq-1, last, passed)
				}
				last = j.due
				seq++
				asked = append(asked, j)
			}
			last = min(last, now)
			if len(asked) > 0 && rapid.Bool().Draw(t, "answer") {
				i := rapid.IntRange(0, len(asked)-1).Draw(t, "who")
				u.done(asked[i], rapid.SampledFrom([]outcome{200, refused, timeout}).Draw(t, "outcome"), now)
				asked = slices.Delete(asked, i, i+1)
			}
		}
		seen := map[int32]bool{}
		for _, j := range asked {
			seen[j.user] = true
		}
		for j, ok := u.take(time.Minute); ok; j, ok = u.take(time.Minute) {
			seen[j.user] = true
		}
		if len(seen) != n {
			t.Fatalf("%d of %d users are left", len(seen), n)
		}
	})
}

// Both engines, any number of event loops, plain and over TLS: the same requests,
// the same counts, the same fates, and histograms that say what the single results
// say.
func TestEnginesAgree(t *testing.T) {
	client, server := trusted(t)
	law := func(path string) (status int, takes time.Duration) {
		var seq int
		if _, err := fmt.Sscanf(path, "/%d", &seq); err != nil {
			return 400, 0
		}
		if seq%10 == 9 {
			return 503, 0
		}
		return 200, time.Duration(seq%7) * 3 * time.Millisecond
	}
	var all sync.Mutex
	asked := map[string]int{} // by engine and path
	serve := func(c *peerConn, r *http.Request, _ int) bool {
		all.Lock()
		asked[r.Header.Get("Engine")+" "+r.URL.Path]++
		all.Unlock()
		status, takes := law(r.URL.Path)
		time.Sleep(takes)
		return say(c, fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\nok", status))
	}
	type variant struct {
		engine Engine
		loops  int
		tls    *tls.Config
	}
	variants := []variant{{Fast, 1, nil}, {Fast, 3, nil}, {General, 0, nil}, {Fast, 1, client}, {Fast, 3, client}, {General, 0, client}}
	name := func(v variant) string { return fmt.Sprintf("%s%d-tls=%t", v.engine, v.loops, v.tls != nil) }
	plain, secure := startPeer(t, serve), way{server: server}.startPeer(t, serve)
	const n = 200
	var runs sync.WaitGroup
	for _, v := range variants {
		if v.engine == Fast && !haveFast {
			continue
		}
		name, p := name(v), plain
		if v.tls != nil {
			p = secure
		}
		s := newSums()
		c := s.listen(Config{
			Spec: Spec{Name: "s", To: "peer", Rate: perSecond(500), Connections: ptr(100), Headers: map[string]string{"Engine": name},
				Request: &Request{Method: "GET", Path: "/{{seq}}"}, Timeout: ptr(time.Minute)},
			Engine: v.engine, TLS: v.tls, loops: v.loops, Seed: 1, Start: s.start, Until: 400 * time.Millisecond, Resolve: p.address,
		})
		runs.Go(func() {
			if err := Run(t.Context(), c); err != nil {
				t.Error(err)
			}
			s.balance(t)
			if s.DueCount != n || s.Sent != n || s.OK != n*9/10 || s.Outcomes["503"] != n/10 || len(s.windows) != 4 || s.Connects > 100 {
				t.Errorf("%s: %d due, %d sent, outcomes %v in %d windows on %d connections; want %d, %d, 180 ok, 20 failed, 4, at most 100", name, s.DueCount, s.Sent, s.Outcomes, len(s.windows), s.Connects, n, n)
			}
			var latencies []time.Duration
			seen := map[uint64]bool{}
			sent := 0
			for _, r := range s.results {
				seen[r.Seq] = true
				sent += r.Sent
				status, takes := law(r.URL[strings.Index(r.URL, "//peer")+len("//peer"):])
				if r.Status != status || r.Latency < takes || r.Received != 2 {
					t.Errorf("%s: %s got %d and %d bytes after %v, the law says %d and 2 after %v", name, r.URL, r.Status, r.Received, r.Latency, status, takes)
				}
				if r.OK {
					latencies = append(latencies, r.Latency)
				}
			}
			if len(seen) != n || len(s.results) != n || int(s.BytesSent) != sent {
				t.Errorf("%s: %d results of %d requests, %d bytes sent and told as %d", name, len(s.results), len(seen), sent, s.BytesSent)
			}
			slices.Sort(latencies)
			for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
				exact := latencies[max(int(math.Ceil(q*float64(len(latencies))))-1, 0)]
				if got := s.OKLatency.Quantile(q); math.Abs(float64(got-exact)) > float64(exact)/1000+float64(time.Microsecond) {
					t.Errorf("%s: p%g is told as %v, the results say %v", name, 100*q, got, exact)
				}
			}
			// Latency is lag or queueing, and then service.
			if s.Service.Mean() > s.OKLatency.Mean() || s.FirstByte.Mean() > s.Service.Mean() || s.Service.Min() > s.OKLatency.Min() {
				t.Errorf("%s: on average a first byte after %v, service in %v, latency %v", name, s.FirstByte.Mean(), s.Service.Mean(), s.OKLatency.Mean())
			}
		})
	}
	runs.Wait()
	for _, v := range variants {
		for seq := range n {
			if got := asked[fmt.Sprintf("%s /%d", name(v), seq)]; got != 1 && (v.engine == General || haveFast) {
				t.Errorf("%s asked for /%d %d times", name(v), seq, got)
			}
		}
	}
}

// Closed streams number their requests without gaps, over any number of loops,
// and share connections where there are fewer than users.
func TestClosedEventLoops(t *testing.T) {
	if !haveFast {
		t.Skip("no fast engine here")
	}
	client, server := trusted(t)
	serve := func(c *peerConn, _ *http.Request, _ int) bool { return say(c, fine) }
	t.Run("plain", func(t *testing.T) { testClosedEventLoops(t, startPeer(t, serve), nil) })
	t.Run("tls", func(t *testing.T) { testClosedEventLoops(t, way{server: server}.startPeer(t, serve), client) })
}

func testClosedEventLoops(t *testing.T, p *peer, client *tls.Config) {
	for _, spec := range []Spec{
		{Users: ptr(10)}, {Users: ptr(10), Connections: ptr(4)}, {Users: ptr(10), Think: 5 * time.Millisecond}, {Users: ptr(10), Connections: ptr(4), Think: time.Millisecond},
	} {
		for _, loops := range []int{1, 3} {
			before := p.dialed.Load()
			s := newSums()
			spec.Name, spec.To, spec.Request = "s", "peer", &Request{Method: "GET", Path: "/"}
			if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: Fast, TLS: client, loops: loops, Start: s.start, Until: 60 * time.Millisecond, Resolve: p.address})); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			seen := make([]bool, s.DueCount)
			for _, r := range s.results {
				seen[r.Seq] = true
			}
			dialed := int(p.dialed.Load() - before)
			if i := slices.Index(seen, false); i >= 0 || s.OK != s.DueCount || s.OK < 10 || dialed != spec.connectionsOfUsers() || dialed != s.Connects {
				t.Errorf("%s, %d loops: %d due, outcomes %v, %d connections, number %d missing", spec.Describe(), loops, s.DueCount, s.Outcomes, dialed, i)
			}
			if (s.Queued > 0) != (spec.Connections != nil && spec.Think == 0) && spec.Think == 0 {
				t.Errorf("%s, %d loops: %d queued", spec.Describe(), loops, s.Queued)
			}
		}
	}
}

func (s Spec) connectionsOfUsers() int { return min(s.users(), s.connections()) }

// A request larger than the socket's buffers goes out in pieces, as the other side
// reads; one that is never read is a timeout.
func TestLargeRequests(t *testing.T) {
	onEngines(t, "", func(t *testing.T, w way) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		body := strings.Repeat("0123456789abcdef", 60_000) // 960 kB
		var stall atomic.Bool
		var server sync.WaitGroup
		server.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				server.Go(func() {
					if w.server != nil {
						secure := tls.Server(c, w.server)
						if secure.Handshake() != nil {
							c.Close()
							return
						}
						c = secure
					}
					defer c.Close()
					if stall.Load() {
						<-t.Context().Done() // which is before Wait
						return
					}
					for in := bufio.NewReader(c); ; {
						r, err := http.ReadRequest(in)
						if err != nil {
							return
						}
						if got, err := io.ReadAll(r.Body); err != nil || string(got) != body {
							return
						}
						say(c, fine)
					}
				})
			}
		})
		ask := func(timeout time.Duration) *sums {
			s := newSums()
			spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "POST", Path: "/", Body: body}, Rate: perSecond(100), Timeout: &timeout, Connections: ptr(2)}
			if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, buffer: 200_000, Start: s.start, Until: 40 * time.Millisecond, Resolve: l.Addr().String})); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			return s
		}
		if s := ask(time.Minute); s.OK != 4 || s.BytesSent < 4*960_000 {
			t.Errorf("outcomes %v, %d bytes sent; want 4 ok with 960 kB each", s.Outcomes, s.BytesSent)
		}
		stall.Store(true)
		if s := ask(2 * time.Second); s.Outcomes["timeout"]+s.Dropped != 4 || s.Outcomes["timeout"] < 2 || s.BytesSent == 0 {
			t.Errorf("outcomes %v, %d bytes sent; want timeouts of what nobody reads", s.Outcomes, s.BytesSent)
		}
		l.Close()
		t.Cleanup(server.Wait) // after the context has ended
	})
}

// With too few connections requests queue, in order, and go out when one becomes
// free; where none does in time they are dropped, each after its own timeout.
func TestQueueOnRealSockets(t *testing.T) {
	onEngines(t, "", func(t *testing.T, w way) {
		var stall atomic.Bool
		var mu sync.Mutex
		var order []string
		p := w.startPeer(t, func(c *peerConn, r *http.Request, _ int) bool {
			if stall.Load() {
				return hang(c)
			}
			mu.Lock()
			order = append(order, r.URL.Path)
			mu.Unlock()
			time.Sleep(2 * time.Millisecond)
			return say(c, fine)
		})
		ask := func(spec Spec) *sums {
			s := newSums()
			spec.Name, spec.To, spec.Rate, spec.Connections = "s", "peer", perSecond(1000), ptr(1)
			if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Seed: 5, Start: s.start, Until: 30 * time.Millisecond, Resolve: p.address})); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			return s
		}
		s := ask(Spec{Request: &Request{Method: "GET", Path: "/{{seq}}"}})
		if s.OK != 30 || s.Queued < 10 || s.Connects != 1 || s.OKLatency.Max() < 30*time.Millisecond || s.Lag.Count() != int64(30-s.Queued) {
			t.Errorf("%d ok, %d queued, %d connections, slowest %v, %d lags; want 30, many, 1, 30ms or more, one for each not queued", s.OK, s.Queued, s.Connects, s.OKLatency.Max(), s.Lag.Count())
		}
		mu.Lock()
		defer mu.Unlock()
		for i, path := range order {
			if path != fmt.Sprintf("/%d", i) {
				t.Fatalf("they were sent in the order %v", order)
			}
		}
		stall.Store(true)
		s = ask(Spec{Requests: []Request{{Method: "GET", Path: "/slow", Timeout: ptr(120 * time.Millisecond)}, {Method: "GET", Path: "/fast", Timeout: ptr(40 * time.Millisecond)}}})
		if s.Outcomes["timeout"]+s.Outcomes["dropped"] != 30 || s.Outcomes["timeout"] == 0 || s.Dropped == 0 || s.Queued != 29 || s.Sent != s.Outcomes["timeout"] {
			t.Errorf("outcomes %v, %d queued, %d sent; want timeouts of those sent and the others dropped, all but one queued", s.Outcomes, s.Queued, s.Sent)
		}
		for _, r := range s.results {
			want := 120 * time.Millisecond
			if strings.HasSuffix(r.URL, "/fast") {
				want = 40 * time.Millisecond
			}
			if r.Latency < want-time.Millisecond {
				t.Errorf("%s %s after %v, want %v or more", r.URL, r.Outcome, r.Latency, want)
			}
		}
	})
}

// Large bodies are counted whole, and what follows them is not lost.
func TestLargeAnswers(t *testing.T) {
	body := strings.Repeat("x", 3_000_000)
	serve := func(c *peerConn, r *http.Request, n int) bool {
		if n%2 == 1 {
			return say(c, "HTTP/1.1 201 Chunked\r\nTransfer-Encoding: chunked\r\n\r\n") && say(c, fmt.Sprintf("%x\r\n%s\r\n5\r\nhello\r\n0\r\n\r\n", len(body), body))
		}
		return say(c, fmt.Sprintf("HTTP/1.1 200 Counted\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	}
	onEngines(t, "", func(t *testing.T, w way) {
		p := w.startPeer(t, serve)
		s := newSums()
		spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Users: ptr(1), Think: 5 * time.Millisecond}
		if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Start: s.start, Until: 50 * time.Millisecond, Resolve: p.address})); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		for _, r := range s.results {
			if r.Status == 200 && r.Received != len(body) || r.Status == 201 && r.Received != len(body)+5 || !r.OK {
				t.Errorf("%d with %d bytes", r.Status, r.Received)
			}
		}
		if s.OK != s.DueCount || s.Connects != 1 || s.BytesReceived < int64(s.OK*len(body)) {
			t.Errorf("outcomes %v on %d connections, %d bytes received", s.Outcomes, s.Connects, s.BytesReceived)
		}
	})
}

// Names are looked up, and dialed, without holding up anything else.
func TestNamesAreResolved(t *testing.T) {
	serve := func(c *peerConn, r *http.Request, _ int) bool {
		if !strings.HasPrefix(r.Host, "localhost:") {
			return say(c, "HTTP/1.1 421 Misdirected\r\nContent-Length: 0\r\n\r\n")
		}
		return say(c, fine)
	}
	onEngines(t, "", func(t *testing.T, w way) {
		p := w.startPeer(t, serve)
		_, port, _ := net.SplitHostPort(p.address())
		s := newSums()
		spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(200)}
		if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Start: s.start, Until: 50 * time.Millisecond, Resolve: func() string { return "localhost:" + port }})); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.OK != 10 || s.Connects == 0 {
			t.Errorf("outcomes %v on %d connections, want 10 ok", s.Outcomes, s.Connects)
		}
	})
}

// Sockets are given back, also those of requests that were cut off.
func TestNoSocketIsLeft(t *testing.T) {
	sockets := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(all)
	}
	onEngines(t, "", func(t *testing.T, w way) {
		run := func() {
			p := w.startPeer(t, func(c *peerConn, r *http.Request, _ int) bool {
				if r.URL.Path == "/hang" {
					return hang(c)
				}
				return say(c, fine)
			})
			s := newSums()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
			defer cancel()
			spec := Spec{Name: "s", To: "peer", Rate: perSecond(300), Requests: []Request{{Method: "GET", Path: "/"}, {Method: "GET", Path: "/hang"}}}
			if err := Run(ctx, s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Seed: 3, Start: s.start, Until: time.Hour, Resolve: p.address})); err != context.DeadlineExceeded {
				t.Errorf("Run: %v", err)
			}
			s.balance(t)
			p.stop()
		}
		run() // opens what Go opens once
		before := sockets()
		run()
		if after := sockets(); after > before {
			t.Errorf("%d open files after a run, %d before", after, before)
		}
	})
}

// A histogram made by way of Counts is the one that recording makes.
func TestCountsOfLatencies(t *testing.T) {
	var c hdr.Counts
	a, b := hdr.New(), hdr.New()
	for i := range 3000 {
		d := time.Duration(i*i*i) * 7
		c.Record(d)
		a.Record(d)
	}
	c.MoveTo(b)
	if a.Encode() != b.Encode() {
		t.Error("they differ")
	}
}

// A request costs no memory once everything is there, but for what crypto/tls takes:
// an object or two to read a record. The server is in this process; plain, it allocates
// nothing either.
func TestNoGarbagePerRequest(t *testing.T) {
	if !haveFast {
		t.Skip("no fast engine here")
	}
	client, server := trusted(t)
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		most           uint64 // mallocs of 10 requests, the server's included; the race detector makes sync.Pool forgetful
	}{{"plain", nil, nil, 1}, {"tls", client, server, 60}} {
		t.Run(c.name, func(t *testing.T) {
			mallocs, n := mallocsOfRequests(t, HTTP1, c.client, c.server, func(c net.Conn) {
				in, out := make([]byte, 4096), []byte(fine)
				for {
					if _, err := c.Read(in); err != nil {
						return
					}
					if _, err := c.Write(out); err != nil {
						return
					}
				}
			})
			t.Logf("%d mallocs for %d requests", mallocs, n)
			if n < 300 || mallocs > 2000 && mallocs > c.most*uint64(n)/10 {
				t.Errorf("%d mallocs for %d requests, want windows' and at most %d for 10 requests", mallocs, n, c.most)
			}
		})
	}
}

func mallocsOfRequests(t *testing.T, p Protocol, client, secure *tls.Config, answer func(c net.Conn)) (mallocs uint64, n int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	var server sync.WaitGroup
	defer server.Wait()
	defer l.Close()
	server.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			server.Go(func() {
				defer c.Close()
				answer(c)
			})
		}
	})
	var from, to runtime.MemStats
	requests, begun := 0, 0
	spec := Spec{Name: "s", To: "peer", Protocol: p, Users: ptr(8), Request: &Request{Method: "POST", Path: "/orders/{{int 1 9}}", Body: `{"user":"{{user}}"}`}}
	if p != HTTP1 {
		spec.Streams = ptr(4)
	}
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	err = Run(ctx, Config{Spec: spec, Engine: Fast, TLS: client, Start: time.Now(), Until: time.Minute, Resolve: l.Addr().String, OnWindow: func(w Window) {
		if requests += w.OK; from.Mallocs == 0 && requests > 0 {
			begun = requests
			runtime.ReadMemStats(&from)
		}
		runtime.ReadMemStats(&to)
		if requests-begun >= 2000 {
			enough()
		}
	}})
	if err != context.Canceled {
		t.Fatal(err)
	}
	return to.Mallocs - from.Mallocs, requests - begun
}
