package loadgen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is an HTTP server in memory: every request is answered by handle, on as
// many connections as are dialed. It lives inside a synctest bubble.
type pipes struct {
	handle func(r *http.Request) (status int) // may sleep
	fate   func(c net.Conn) bool              // decides on a connection first; false ends it

	mu     sync.Mutex
	dialed int
	open   int
	most   int
	seen   []string // "POST /path body"
	all    sync.WaitGroup
}

func (p *pipes) dial(ctx context.Context, network, address string) (net.Conn, error) {
	client, server := net.Pipe()
	p.mu.Lock()
	p.dialed++
	p.open++
	p.most = max(p.most, p.open)
	p.mu.Unlock()
	p.all.Go(func() {
		defer func() {
			server.Close()
			p.mu.Lock()
			p.open--
			p.mu.Unlock()
		}()
		if p.fate != nil && !p.fate(server) {
			return
		}
		r := bufio.NewReader(server)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.seen = append(p.seen, req.Method+" "+req.RequestURI+" "+string(body))
			p.mu.Unlock()
			status := p.handle(req)
			if status == 0 {
				return
			}
			if _, err := io.WriteString(server, fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\nok", status)); err != nil {
				return
			}
		}
	})
	return client, nil
}

// inBubble runs a stream against p in a bubble's time, from its beginning.
func inBubble(t *testing.T, s Spec, length time.Duration, p *pipes, f func(t *testing.T, sums *sums, err error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sums := newSums()
		err := Run(t.Context(), sums.listen(config(s, length, p)))
		sums.took = time.Since(sums.start)
		p.all.Wait()
		f(t, sums, err)
	})
}

func config(s Spec, length time.Duration, p *pipes) Config {
	if s.Name == "" {
		s.Name = "shoppers"
	}
	if s.To == "" {
		s.To = "gateway"
	}
	if s.Request == nil && s.Requests == nil {
		s.Request = &Request{Method: "GET", Path: "/"}
	}
	return Config{
		Spec: s, Seed: 7, Start: time.Now(), Until: length, Dial: p.dial,
		Resolve: func() string { return "gateway:80" },
	}
}

func after(d time.Duration) func(*http.Request) int {
	return func(*http.Request) int { time.Sleep(d); return 200 }
}

func TestOpenModelSendsWhenDue(t *testing.T) {
	p := &pipes{handle: after(30 * time.Millisecond)}
	inBubble(t, Spec{Rate: perSecond(100)}, 2*time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.DueCount != 200 || s.OK != 200 || s.Sent != 200 || s.Queued+s.Late+s.Dropped+s.Failed != 0 {
			t.Errorf("%d due, %d sent, %d ok, %d queued, %d late, %d failed; want 200 due, sent and ok, nothing else", s.DueCount, s.Sent, s.OK, s.Queued, s.Late, s.Failed)
		}
		if got := s.OKLatency.Quantile(1); got < 30*time.Millisecond || got > 30100*time.Microsecond {
			t.Errorf("slowest %v, want 30ms", got)
		}
		if p.most != 4 && p.most != 3 {
			t.Errorf("%d connections for 100/s of 30 ms, want 3 or 4", p.most)
		}
		if len(s.windows) != 20 {
			t.Errorf("%d windows, want 20", len(s.windows))
		}
		for due, w := range s.windows {
			if w.DueCount != 10 {
				t.Errorf("window %v: %d due, want 10", due, w.DueCount)
			}
		}
		if took := s.took; took < 2*time.Second || took > 2200*time.Millisecond {
			t.Errorf("the run took %v, want until the last answer", took)
		}
	})
}

func TestOffsetsAreOfTheRunsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{handle: after(time.Millisecond)}
		s := newSums()
		c := s.listen(config(Spec{Rate: perSecond(50)}, 0, p))
		c.Start = time.Now().Add(time.Second)
		c.From, c.Until = 300*time.Millisecond, 500*time.Millisecond
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		p.all.Wait()
		if s.DueCount != 10 || s.windows[300*time.Millisecond].DueCount != 5 || s.windows[400*time.Millisecond].DueCount != 5 {
			t.Errorf("windows %v, want 5 due at 300 ms and 5 at 400 ms", s.windows)
		}
		if took := time.Since(s.start); took < 1500*time.Millisecond-20*time.Millisecond {
			t.Errorf("all was sent within %v, before it was due", took)
		}
	})
}

// Arrivals do not wait for answers: with too few connections requests queue, and
// their waiting is part of their latency.
func TestQueuedIsNotLate(t *testing.T) {
	p := &pipes{handle: after(100 * time.Millisecond)}
	inBubble(t, Spec{Rate: perSecond(40), Connections: ptr(2)}, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		// 20/s get served: the last of 40 is done 2 s after the beginning.
		if s.OK != 40 || s.Late != 0 || s.Dropped != 0 || s.Queued < 36 || s.Queued > 38 {
			t.Errorf("%d ok, %d late, %d dropped, %d queued; want 40, 0, 0, about 37", s.OK, s.Late, s.Dropped, s.Queued)
		}
		if p.most != 2 {
			t.Errorf("%d connections were open at once, 2 are allowed", p.most)
		}
		if got := s.OKLatency.Max(); got < time.Second || got > 1150*time.Millisecond {
			t.Errorf("slowest %v, want about 1.03s", got)
		}
	})
}

// The timeout runs from due: a request that queued has less time left for its answer.
func TestTimeoutRunsFromDue(t *testing.T) {
	p := &pipes{handle: after(time.Second)}
	spec := Spec{Rate: perSecond(10), Connections: ptr(1), Timeout: ptr(1500 * time.Millisecond)}
	inBubble(t, spec, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		// The first is served until 1.05 s. The second, due at 0.15 s, is sent then
		// and has until 1.65 s; the third is sent at 1.65 s and has until 1.75 s; …
		if s.OK != 1 || s.Outcomes["timeout"] != 9 || s.Sent != 10 || s.Queued != 9 || s.Late != 0 {
			t.Errorf("%d sent, %d queued, %d late, outcomes %v; want 10, 9, 0, one 200 and nine timeouts", s.Sent, s.Queued, s.Late, s.Outcomes)
		}
		if lo, hi := s.FailedLatency.Min(), s.FailedLatency.Max(); lo < 1498*time.Millisecond || hi > 1502*time.Millisecond {
			t.Errorf("failed after %v to %v, want the timeout since due, 1.5s", lo, hi)
		}
	})
}

// What has queued for its whole timeout fails without being sent.
func TestDroppedWhileNobodyAnswers(t *testing.T) {
	p := &pipes{handle: after(time.Hour)}
	spec := Spec{Rate: perSecond(20), Connections: ptr(1), Timeout: ptr(500 * time.Millisecond),
		Requests: []Request{{Method: "GET", Path: "/slow"}, {Method: "GET", Path: "/fast", Timeout: ptr(100 * time.Millisecond)}}}
	inBubble(t, spec, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.OK != 0 || s.Outcomes["timeout"]+s.Outcomes["dropped"] != 20 || s.Outcomes["timeout"] == 0 || s.Dropped == 0 {
			t.Errorf("outcomes %v, want timeouts and drops", s.Outcomes)
		}
		for _, x := range s.results {
			want := 500 * time.Millisecond
			if strings.HasSuffix(x.URL, "/fast") {
				want = 100 * time.Millisecond
			}
			if x.Latency < want || x.Latency > want+2*time.Millisecond {
				t.Errorf("%s %s after %v, want %v", x.URL, x.Outcome, x.Latency, want)
			}
		}
		if took := s.took; took > 1600*time.Millisecond {
			t.Errorf("the run took %v, at most the timeout after its end is allowed", took)
		}
	})
}

// A server that freezes: latency from due shows it however few connections there
// are. 200/s for 10 s, frozen for the second second; truth: of 2,000 requests the
// 200 due in the freeze wait for the rest of it.
func TestCoordinatedOmission(t *testing.T) {
	for _, connections := range []int{4, 1000} {
		var begin time.Time
		p := &pipes{handle: func(*http.Request) int {
			if at := time.Since(begin); at > time.Second && at < 2*time.Second {
				time.Sleep(2*time.Second - at)
			}
			time.Sleep(time.Millisecond)
			return 200
		}}
		synctest.Test(t, func(t *testing.T) {
			begin = time.Now()
			s := newSums()
			if err := Run(t.Context(), s.listen(config(Spec{Rate: perSecond(200), Connections: ptr(connections)}, 10*time.Second, p))); err != nil {
				t.Fatal(err)
			}
			p.all.Wait()
			s.balance(t)
			// 1 % of 2,000 = the 20 that waited longest: above 905 ms.
			if p99 := s.OKLatency.Quantile(0.99); p99 < 890*time.Millisecond || p99 > 960*time.Millisecond {
				t.Errorf("%d connections: p99 = %v, want about 905ms", connections, p99)
			}
			if p50 := s.OKLatency.Quantile(0.5); p50 > 2*time.Millisecond {
				t.Errorf("%d connections: p50 = %v, want about 1ms", connections, p50)
			}
			if s.Late != 0 {
				t.Errorf("%d connections: %d late: it was the server", connections, s.Late)
			}
		})
	}
}

func TestWindowsAreToldInTime(t *testing.T) {
	p := &pipes{handle: func(r *http.Request) int {
		if r.URL.Path == "/slow" {
			time.Sleep(5 * time.Second)
		}
		return 200
	}}
	spec := Spec{Rate: perSecond(50), Requests: []Request{{Method: "GET", Path: "/"}, {Method: "GET", Path: "/slow"}}}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		type line struct {
			at time.Duration
			w  Window
		}
		var lines []line
		c := config(spec, 3*time.Second, p)
		c.OnWindow = func(w Window) { lines = append(lines, line{time.Since(start), w}) }
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		p.all.Wait()
		last := map[time.Duration]time.Duration{}
		first := map[time.Duration]line{}
		for _, l := range lines {
			if before, ok := last[l.w.Due]; ok && l.at-before < 900*time.Millisecond && l.at < 8*time.Second {
				t.Errorf("window %v was told at %v and at %v", l.w.Due, before, l.at)
			}
			last[l.w.Due] = l.at
			if _, ok := first[l.w.Due]; !ok {
				first[l.w.Due] = l
			}
		}
		for due, l := range first {
			if lag := l.at - due; lag > 1300*time.Millisecond {
				t.Errorf("window %v was first told at %v", due, l.at)
			}
			if l.w.DueCount != 5 || l.w.Sent != 5 {
				t.Errorf("window %v was first told with %d due and %d sent, want 5", due, l.w.DueCount, l.w.Sent)
			}
		}
		if len(first) != 30 {
			t.Errorf("%d windows, want 30", len(first))
		}
	})
}

func TestCancelCutsAndAccountsForAll(t *testing.T) {
	for name, spec := range map[string]Spec{
		"open":            {Rate: perSecond(100), Connections: ptr(5)},
		"closed":          {Users: ptr(10)},
		"closed, sharing": {Users: ptr(10), Connections: ptr(5), Think: time.Millisecond},
	} {
		p := &pipes{handle: after(time.Hour)}
		synctest.Test(t, func(t *testing.T) {
			stopped := errors.New("stopped")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(stopped) })
			s := newSums()
			err := Run(ctx, s.listen(config(spec, time.Minute, p)))
			if err != stopped {
				t.Errorf("%s: Run = %v, want the cause", name, err)
			}
			took := time.Since(s.start)
			p.all.Wait()
			if took > 1100*time.Millisecond {
				t.Errorf("%s: Run came back %v after its cancel", name, took-time.Second)
			}
			s.balance(t)
			if s.DueCount == 0 || s.Outcomes["canceled"] != s.DueCount || len(s.samples) != 0 || s.OK+s.Failed != 0 {
				t.Errorf("%s: %d due, outcomes %v, %d samples; want all canceled and no samples", name, s.DueCount, s.Outcomes, len(s.samples))
			}
		})
	}
}

func TestClosedModel(t *testing.T) {
	p := &pipes{handle: after(100 * time.Millisecond)}
	inBubble(t, Spec{Users: ptr(5), Think: 400 * time.Millisecond}, 10*time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		// Each user asks every 0.5 s, the first times spread over 0.4 s.
		if s.DueCount < 98 || s.DueCount > 100 || s.OK != s.DueCount || s.Queued+s.Late != 0 || p.most != 5 {
			t.Errorf("%d due, %d ok, %d queued, %d late, %d connections; want about 100, 100, 0, 0, 5", s.DueCount, s.OK, s.Queued, s.Late, p.most)
		}
		if m := s.OKLatency.Max(); m < 100*time.Millisecond || m > 101*time.Millisecond {
			t.Errorf("slowest %v, want 100ms", m)
		}
	})
}

func TestClosedModelSharingConnections(t *testing.T) {
	p := &pipes{handle: after(100 * time.Millisecond)}
	inBubble(t, Spec{Users: ptr(6), Connections: ptr(2)}, 2*time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		// 2 connections carry 20/s; each of the 6 waits for two others, but the first.
		if p.most != 2 || s.OK != s.DueCount || s.OK < 42 || s.OK > 46 || s.Queued < s.OK-10 || s.Late != 0 {
			t.Errorf("%d connections at once, %d due, %d ok, %d queued, %d late; want 2, about 44, the same, nearly all, 0", p.most, s.DueCount, s.OK, s.Queued, s.Late)
		}
		if m := s.OKLatency.Quantile(0.5); m < 290*time.Millisecond || m > 310*time.Millisecond {
			t.Errorf("median %v, want 300ms: own service and that of two before", m)
		}
	})
}

func TestClosedModelDropped(t *testing.T) {
	p := &pipes{handle: after(time.Hour)}
	inBubble(t, Spec{Users: ptr(2), Connections: ptr(1), Timeout: ptr(200 * time.Millisecond)}, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.OK != 0 || s.Dropped == 0 || s.Outcomes["timeout"] == 0 {
			t.Errorf("outcomes %v, want timeouts and drops", s.Outcomes)
		}
	})
}

// Users whom nobody lets in do not spin.
func TestClosedModelTakesABreath(t *testing.T) {
	p := &pipes{handle: after(0)}
	synctest.Test(t, func(t *testing.T) {
		s := newSums()
		c := s.listen(config(Spec{Users: ptr(3)}, time.Second, p))
		c.Resolve = func() string { return "" }
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.Outcomes["refused"] != 300 || s.DueCount != 300 {
			t.Errorf("outcomes %v, want 300 refused", s.Outcomes)
		}
	})
}

func TestRampAndStages(t *testing.T) {
	for name, c := range map[string]struct {
		spec Spec
		want map[int]int // second: due in it
	}{
		"ramp": {Spec{Ramp: &Ramp{From: 0, To: 100, Over: 2 * time.Second}}, map[int]int{0: 25, 1: 75, 2: 100, 3: 100}},
		"stages": {Spec{Stages: []Stage{
			{Rate: perSecond(20), For: time.Second}, {To: perSecond(60), For: time.Second}, {Rate: perSecond(0), For: time.Second}, {Rate: perSecond(10), For: time.Second},
		}}, map[int]int{0: 20, 1: 40, 2: 0, 3: 10}},
	} {
		p := &pipes{handle: after(time.Millisecond)}
		inBubble(t, c.spec, 4*time.Second, p, func(t *testing.T, s *sums, err error) {
			if err != nil {
				t.Fatal(err)
			}
			got := map[int]int{0: 0, 1: 0, 2: 0, 3: 0}
			for due, w := range s.windows {
				got[int(due/time.Second)] += w.DueCount
			}
			for second, want := range c.want {
				if d := got[second] - want; d < -1 || d > 1 {
					t.Errorf("%s: %d due in second %d, want %d", name, got[second], second, want)
				}
			}
		})
	}
}

// The same seed sends the same requests, however fast they are answered; another
// seed or stream sends others.
func TestRequestsAreReproducible(t *testing.T) {
	spec := Spec{Name: "shoppers", Rate: perSecond(200), Body: `{"user":"{{user}}","id":"{{uuid}}"}`, Requests: []Request{
		{Method: "POST", Path: "/checkout"}, {Method: "GET", Path: "/orders/{{int 1 1000}}?n={{seq}}", Weight: ptr(3)},
	}}
	play := func(name string, seed uint64, connections int, d time.Duration) (seen []string, kinds int) {
		p := &pipes{handle: after(d)}
		synctest.Test(t, func(t *testing.T) {
			sp := spec
			sp.Name, sp.Connections = name, ptr(connections)
			c := config(sp, time.Second, p)
			c.Seed = seed
			if err := Run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			p.all.Wait()
		})
		slices.Sort(p.seen)
		for _, s := range p.seen {
			if strings.HasPrefix(s, "POST") {
				kinds++
			}
		}
		return p.seen, kinds
	}
	a, posts := play("shoppers", 7, 1, time.Millisecond)
	b, _ := play("shoppers", 7, 100, 50*time.Millisecond)
	if !slices.Equal(a, b) {
		t.Errorf("one seed, two timings, different requests")
	}
	if posts < 30 || posts > 70 {
		t.Errorf("%d of 200 were the first kind, whose weight is 1 of 4", posts)
	}
	for _, o := range []struct {
		name string
		seed uint64
	}{{"shoppers", 8}, {"others", 7}} {
		if c, _ := play(o.name, o.seed, 1, time.Millisecond); slices.Equal(a, c) {
			t.Errorf("stream %q with seed %d sends the same as %q with 7", o.name, o.seed, "shoppers")
		}
	}
}

func TestTraceIDsAreTold(t *testing.T) {
	var mu sync.Mutex
	sent := map[string]bool{}
	p := &pipes{handle: func(r *http.Request) int {
		mu.Lock()
		defer mu.Unlock()
		sent[r.Header.Get("traceparent")] = true
		return 500
	}}
	inBubble(t, Spec{Rate: perSecond(10)}, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil || len(sent) != 10 {
			t.Fatalf("%v, %d different traceparent of 10", err, len(sent))
		}
		if len(s.samples) == 0 || s.samples[0].Request != "GET /" || s.samples[0].Outcome != "500" {
			t.Fatalf("samples %+v, want failed ones", s.samples)
		}
		for _, x := range s.samples {
			found := false
			for tp := range sent {
				parts := strings.Split(tp, "-")
				found = found || len(parts) == 4 && parts[0] == "00" && parts[1] == x.TraceID && len(x.TraceID) == 32 && len(parts[2]) == 16
			}
			if !found {
				t.Errorf("trace id %q of a sample was never sent in %v", x.TraceID, sent)
			}
		}
	})
}

func TestOKSets(t *testing.T) {
	for _, c := range []struct {
		ok     []StatusSet
		status int
		want   bool
	}{{nil, 200, true}, {nil, 302, true}, {nil, 404, false}, {[]StatusSet{{200, 299}, {402, 402}}, 402, true}, {[]StatusSet{{200, 299}, {402, 402}}, 302, false}} {
		p := &pipes{handle: func(*http.Request) int { return c.status }}
		inBubble(t, Spec{Rate: perSecond(5), OK: c.ok}, time.Second, p, func(t *testing.T, s *sums, err error) {
			if err != nil || (s.OK == 5) != c.want || s.OK+s.Failed != 5 || s.Outcomes[outcome(c.status).String()] != 5 {
				t.Errorf("%v: status %d: %d ok, %d failed, %v", c.ok, c.status, s.OK, s.Failed, err)
			}
		})
	}
}

func TestSamplesAreBounded(t *testing.T) {
	n := 0
	var mu sync.Mutex
	p := &pipes{handle: func(*http.Request) int {
		mu.Lock()
		n++
		k := n
		mu.Unlock()
		time.Sleep(time.Duration(k%50) * time.Millisecond)
		switch {
		case k%300 == 299:
			return 418
		case k%3 == 0:
			return 503
		}
		return 200
	}}
	inBubble(t, Spec{Rate: perSecond(300)}, 5*time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, x := range s.samples {
			count[x.Outcome]++
			if x.Outcome == "200" && x.Latency < 40*time.Millisecond {
				t.Errorf("a sample of %v is not one of the slowest", x.Latency)
			}
		}
		if count["200"] < 20 || count["200"] > 30 || count["503"]+count["418"] > 30 || count["418"] < 3 {
			t.Errorf("samples by outcome %v: want at most 5 slow and 5 failed per second, rare outcomes among them", count)
		}
		if len(s.results) != s.DueCount {
			t.Errorf("%d results for %d requests", len(s.results), s.DueCount)
		}
	})
}

// A connection that the server closed while it was idle is replaced when that
// shows before anything was written; a pipe refuses the write.
func TestIdleConnectionIsReplaced(t *testing.T) {
	p := &pipes{}
	p.fate = func(c net.Conn) bool {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		return false // close after one answer, without saying so
	}
	inBubble(t, Spec{Rate: perSecond(10), Connections: ptr(1)}, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil || s.OK != 10 || p.dialed != 10 {
			t.Errorf("%v: %d ok on %d connections, outcomes %v; want 10 on 10", err, s.OK, p.dialed, s.Outcomes)
		}
	})
}

func TestBadConfigSendsNothing(t *testing.T) {
	err := Run(t.Context(), Config{Spec: Spec{Name: "x", Rate: perSecond(-1)}, Resolve: func() string { t.Error("a connection was asked for"); return "" }})
	if err == nil || !strings.Contains(err.Error(), `load "x", rate: rate -1/s must be above 0`) || !strings.Contains(err.Error(), "what is asked is missing") {
		t.Errorf("Run of a bad spec: %v", err)
	}
	if err := Run(t.Context(), Config{Spec: Spec{Name: "x", To: "y"}}); err == nil || !strings.Contains(err.Error(), "Resolve") {
		t.Errorf("Run without Resolve: %v", err)
	}
}

func TestQueueOrder(t *testing.T) {
	s := compile(Spec{Requests: []Request{{Method: "GET", Path: "/a", Timeout: ptr(time.Second)}, {Method: "GET", Path: "/b", Timeout: ptr(3 * time.Second)}}}, 1,
		func(path, format string, args ...any) { t.Errorf(path+": "+format, args...) })
	q := newQueue(s)
	for seq := range uint64(5000) {
		q.push(job{seq: seq, due: time.Duration(seq) * time.Millisecond})
	}
	expired := map[uint64]bool{}
	now := 2 * time.Second
	for j, ok := q.popExpired(now); ok; j, ok = q.popExpired(now) {
		if j.due+s.timeout(j.seq) > now {
			t.Fatalf("%d expires later than %v", j.seq, now)
		}
		expired[j.seq] = true
	}
	if next := q.expiry(); next <= now {
		t.Fatalf("something expires at %v and is still there", next)
	}
	last, n := -1, 0
	for j, ok := q.pop(); ok; j, ok = q.pop() {
		if int(j.seq) <= last || expired[j.seq] {
			t.Fatalf("%d came after %d, expired %t", j.seq, last, expired[j.seq])
		}
		last = int(j.seq)
		n++
	}
	if n+len(expired) != 5000 || q.size != 0 || q.expiry() != never {
		t.Errorf("%d popped and %d expired of 5000, %d left", n, len(expired), q.size)
	}
}

func TestCollectorTellsEverythingOnce(t *testing.T) {
	var told []Window
	c := Config{Spec: Spec{Name: "x"}, Start: time.Now(), OnWindow: func(w Window) { told = append(told, w) }}
	col := newCollector(c, &stream{wanted: [grpcOutcome + 20]bool{200: true}})
	r := col.recorder()
	r.note(50*time.Millisecond, 0, count{due: 2, queued: 1})
	r.note(60*time.Millisecond, 0, count{sent: 2})
	r.finish(finished{due: 50 * time.Millisecond, latency: time.Millisecond, lag: unknown, service: 1, firstByte: 1, outcome: 200, sent: 100, read: 30,
		made: []made{{connect: 1, handshake: 1, resumed: true}, {connect: 1, handshake: unknown}}})
	col.passed.Store(int64(time.Second))
	col.collect(false)
	if len(told) != 0 {
		t.Fatalf("%+v was told although one of two requests is unresolved and no second is over", told)
	}
	r.finish(finished{due: 60 * time.Millisecond, latency: time.Millisecond, lag: 5, service: 1, firstByte: unknown, outcome: canceled, sent: 10})
	col.collect(false)
	col.collect(true)
	want := Window{Load: "x", DueCount: 2, Sent: 2, OK: 1, Queued: 1, Connects: 2, Resumed: 1, BytesSent: 110, BytesReceived: 30, Outcomes: map[string]int{"200": 1, "canceled": 1}}
	if len(told) != 1 {
		t.Fatalf("%d windows told, want one", len(told))
	}
	got := told[0]
	counts := [...]int64{got.OKLatency.Count(), got.FailedLatency.Count(), got.Lag.Count(), got.Service.Count(), got.FirstByte.Count(), got.Connect.Count(), got.Handshake.Count()}
	if counts != [...]int64{1, 0, 1, 1, 1, 2, 1} {
		t.Errorf("histograms of %v durations: ok, failed, lag, service, first byte, connect, handshake; want 1 each, 0 failed, 2 of connections", counts)
	}
	got.OKLatency, got.FailedLatency, got.Lag, got.Service, got.FirstByte, got.Connect, got.Handshake = nil, nil, nil, nil, nil, nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("told %+v, want %+v", got, want)
	}
	if len(col.windows) != 0 {
		t.Errorf("%d windows are kept after they were told whole", len(col.windows))
	}
}

func TestVegetaResult(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	r := Result{Load: "shoppers", Seq: 3, Due: at, Latency: time.Second, Outcome: "reset", Sent: 100, Received: 7, Method: "POST", URL: "http://gateway/x", Detail: "gone"}
	v := r.Vegeta()
	if v.Attack != "shoppers" || v.Seq != 3 || v.Code != 0 || !v.Timestamp.Equal(at) || v.Latency != time.Second || v.BytesOut != 100 || v.BytesIn != 7 || v.Error != "reset: gone" || v.Method != "POST" || v.URL != "http://gateway/x" {
		t.Errorf("%+v became %+v", r, v)
	}
	if v := (Result{Status: 200, OK: true, Outcome: "200"}).Vegeta(); v.Code != 200 || v.Error != "" {
		t.Errorf("an ok result became code %d, error %q", v.Code, v.Error)
	}
}

func TestHealth(t *testing.T) {
	watch := WatchHealth()
	var sink [][]byte
	for range 100 {
		sink = append(sink, make([]byte, 1<<20))
	}
	h := watch()
	if h.Goroutines < 1 || h.GCs < 1 || h.GCPauseMax <= 0 || len(sink) != 100 {
		t.Errorf("after 100 MB of garbage: %+v", h)
	}
	if h.ReadyP99 > h.ReadyMax {
		t.Errorf("p99 %v above the maximum %v", h.ReadyP99, h.ReadyMax)
	}
}
