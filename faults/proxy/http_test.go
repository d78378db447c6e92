package proxy

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// hello answers with the path and the body of the request.
func hello(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s", r.URL.Path, body)
}

func TestHTTPKeepAlive(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	c := dial(t, p.Addr())
	for i := range 3 {
		if status, body := c.get(fmt.Sprint("/", i)); status != 200 || body != fmt.Sprint("/", i, " ") {
			t.Fatalf("call %d: %d %q", i, status, body)
		}
	}
	c.send("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
	if status, body := c.answer("POST"); status != 200 || body != "/p abc" {
		t.Fatalf("%d %q", status, body)
	}
	c.send("POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n")
	if status, body := c.answer("POST"); status != 200 || body != "/c abc" {
		t.Fatalf("%d %q", status, body)
	}
	c.Close()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 && s.Answers["200"] == 5 })
	if s.Calls != 5 || s.Upstream != 5 || len(s.Answers) != 1 || s.Latency.Count() != 5 || s.Opaque != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestHTTPPipelining(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	c := dial(t, p.Addr())
	const n = 50
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", i)
	}
	c.send(all.String())
	for i := range n {
		if _, body := c.answer("POST"); body != fmt.Sprintf("/%d x", i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
	collect(t, p, func(s Stats) bool { return s.Calls == n && s.Answers["200"] == n })
}

// TestHTTPForms runs through the shapes of messages that framing must get right,
// each followed by a plain call on the same connection.
func TestHTTPForms(t *testing.T) {
	script := map[string]string{ // request line -> answer, as it stands
		"HEAD /head":     "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
		"GET /204":       "HTTP/1.1 204 No Content\r\n\r\n",
		"GET /304":       "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
		"GET /chunked":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nTrailer: v\r\n\r\n",
		"GET /hints":     "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"GET /lf":        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"GET /noreason":  "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
		"GET /plain":     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"OPTIONS *":      "HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n",
		"GET /not-taken": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
	}
	upstream := startTCP(t, func(nc net.Conn) {
		c := caller{TCPConn: nc.(*net.TCPConn), Reader: newReader(nc)}
		for {
			line, err := c.ReadString('\n')
			if err != nil {
				return
			}
			for l := line; l != "\r\n" && err == nil; {
				l, err = c.ReadString('\n')
			}
			io.WriteString(nc, script[strings.TrimSuffix(line, " HTTP/1.1\r\n")])
		}
	})
	for request, answer := range script {
		t.Run(request, func(t *testing.T) {
			p := startProxy(t, HTTP, upstream)
			c := dial(t, p.Addr())
			for _, x := range [][2]string{{request, answer}, {"GET /plain", script["GET /plain"]}} {
				c.send(x[0] + " HTTP/1.1\r\nHost: x\r\n\r\n")
				got := make([]byte, len(x[1]))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != x[1] {
					t.Fatalf("%s: got %q, %v, want %q", x[0], got, err, x[1])
				}
			}
			s := collect(t, p, func(s Stats) bool {
				n := 0
				for _, k := range s.Answers {
					n += k
				}
				return n == 2
			})
			if s.Opaque != 0 || s.Calls != 2 || s.Latency.Count() != 2 {
				t.Errorf("stats %+v, want 2 calls, understood", s)
			}
		})
	}
}

func TestHTTPExpectContinue(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	c := dial(t, p.Addr())
	c.send("POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	if line, _ := c.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q, want 100 Continue", line)
	}
	c.ReadString('\n')
	c.send("abc")
	if status, body := c.answer("POST"); status != 200 || body != "/e abc" {
		t.Fatalf("%d %q", status, body)
	}
	collect(t, p, func(s Stats) bool { return s.Calls == 1 && s.Answers["200"] == 1 })
}

func TestHTTPUpgrade(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(426)
			return
		}
		nc, rw, _ := w.(http.Hijacker).Hijack()
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(nc, rw)
	}))
	c := dial(t, p.Addr())
	upgrade := " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	c.send("GET /no" + upgrade)
	if status, _ := c.answer("GET"); status != 426 {
		t.Fatalf("status %d, want 426", status)
	}
	c.send("GET /yes" + upgrade)
	if status, _ := c.answer("GET"); status != 101 {
		t.Fatalf("status %d, want 101", status)
	}
	c.send("\x00 not HTTP at all")
	got := make([]byte, 17)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "\x00 not HTTP at all" {
		t.Fatalf("got %q, %v", got, err)
	}
	c.CloseWrite()
	c.wantEnd()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	if s.Calls != 2 || s.Answers["426"] != 1 || s.Answers["101"] != 1 || s.Opaque != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestHTTPUntilClose(t *testing.T) {
	p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) {
		newReader(c).ReadString('\n')
		io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nall of it")
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	}))
	c := dial(t, p.Addr())
	if status, body := c.get("/"); status != 200 || body != "all of it" {
		t.Fatalf("%d %q", status, body)
	}
	c.Close()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	if s.Answers["200"] != 1 || len(s.Answers) != 1 {
		t.Errorf("answers %v, want one 200", s.Answers)
	}
}

func TestHTTPOpaque(t *testing.T) {
	for name, says := range map[string]string{
		"binary":      "\x16\x03\x01\x02\x00",
		"http/2":      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno SETTINGS",
		"line":        "PING\r\n",
		"bad head":    "GET / HTTP/1.1\r\nno colon\r\n\r\n",
		"two lengths": "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, HTTP, startTCP(t, echo))
			c := dial(t, p.Addr())
			c.send(says)
			got := make([]byte, len(says))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != says {
				t.Fatalf("got %q, %v", got, err)
			}
			c.CloseWrite()
			c.wantEnd()
			s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
			if s.Opaque != 1 || s.Calls != 0 {
				t.Errorf("stats %+v, want one opaque connection and no call", s)
			}
		})
	}
	t.Run("answer", func(t *testing.T) {
		p := startProxy(t, HTTP, startTCP(t, echo))
		c := dial(t, p.Addr())
		const says = "GET / HTTP/1.1\r\n\r\n"
		c.send(says)
		got := make([]byte, len(says))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != says {
			t.Fatalf("got %q, %v", got, err)
		}
		c.Close()
		s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
		if s.Opaque != 1 || s.Answers["opaque"] != 1 {
			t.Errorf("stats %+v, want one opaque answer", s)
		}
	})
}

func TestHTTPLatency(t *testing.T) {
	for _, direction := range []string{"answer", "request"} {
		t.Run(direction, func(t *testing.T) {
			p := startProxy(t, HTTP, startHTTP(t, hello))
			c := dial(t, p.Addr())
			c.get("/")
			remove := add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: 50 * time.Millisecond, Direction: direction}})
			for range 4 {
				c.get("/")
			}
			remove()
			s := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 5 })
			r := s.Rules["slow"]
			if r.Eligible != 4 || r.Fired != 4 || r.Delay.Count() != 4 {
				t.Fatalf("rule %+v, want 4 of 4 hit and measured", r)
			}
			// Not earlier; how much later is the machine's doing (TestExactLatency, BenchmarkAccuracy).
			if min := r.Delay.Min(); min < 49*time.Millisecond {
				t.Errorf("the shortest measured delay is %v, want 50ms", min)
			}
			if q := s.Latency.Quantile(0.5); q < 50*time.Millisecond {
				t.Errorf("median of the calls is %v, want the delay in it", q)
			}
		})
	}
}

func TestHTTPLatencyEndsWithItsRule(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	remove := add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Hour}})
	c := dial(t, p.Addr())
	c.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
	collect(t, p, func(s Stats) bool { return s.Rules["slow"].Fired == 1 })
	remove()
	if _, body := c.answer("GET"); body != "/held " {
		t.Fatalf("got %q", body)
	}
	s := p.Collect()
	if n := s.Rules["slow"].Delay; n != nil && n.Count() > 0 {
		t.Errorf("%d delays measured of a hold that was cut short", n.Count())
	}
}

func TestHTTPErrorStatus(t *testing.T) {
	p := startProxy(t, HTTP, "127.0.0.1:1") // nobody there: the upstream must not be needed
	add(t, p, Rule{Name: "down", Percent: 1, Error: &Error{Status: 503, Body: "no"}})
	c := dial(t, p.Addr())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000))
	for i, request := range []string{"", "GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"} {
		c.send(request)
		if status, body := c.answer("GET"); status != 503 || body != "no" {
			t.Fatalf("call %d: %d %q, want 503 \"no\"", i, status, body)
		}
	}
	c.send("HEAD / HTTP/1.1\r\n\r\n")
	if status, body := c.answer("HEAD"); status != 503 || body != "" {
		t.Fatalf("HEAD: %d %q", status, body)
	}
	c.send("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if status, _ := c.answer("POST"); status != 503 {
		t.Fatalf("Expect: %d", status)
	}
	c.wantEnd()
	s := collect(t, p, func(s Stats) bool { return s.Answers["503"] == 5 })
	if s.Upstream != 0 || s.Calls != 5 || s.Rules["down"].Fired != 5 {
		t.Errorf("stats %+v", s)
	}
}

// TestHTTPErrorAmongOthers: injected and real answers keep the order of pipelined requests.
func TestHTTPErrorAmongOthers(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	add(t, p, Rule{Name: "some", Seed: 3, Percent: 0.5, Error: &Error{Status: 500, Body: "injected"}})
	c := dial(t, p.Addr())
	const n = 200
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
	}
	c.send(all.String())
	want := newActive(Rule{Name: "some", Seed: 3, Percent: 0.5}, 1, 7)
	fired := 0
	for i := range uint64(n) {
		status, body := c.answer("GET")
		if hit := want.hits(i); hit != (status == 500) || !hit && body != fmt.Sprintf("/%d ", i) {
			t.Fatalf("answer %d is %d %q; hit: %v", i, status, body, hit)
		}
		if status == 500 {
			fired++
		}
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["200"]+s.Answers["500"] == n })
	if r := s.Rules["some"]; r.Fired != fired || r.Eligible != n || s.Upstream != n-fired {
		t.Errorf("rule %+v, upstream %d; %d of %d were hit", r, s.Upstream, fired, n)
	}
	if d := math.Abs(float64(fired) - n/2); d > 4*math.Sqrt(n/4) {
		t.Errorf("%d of %d hit, more than 4σ from a half", fired, n)
	}
}

func TestHTTPResetOfOpenConnections(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	}))
	idle, busy := dial(t, p.Addr()), dial(t, p.Addr())
	idle.get("/")
	busy.send("GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
	collect(t, p, func(s Stats) bool { return s.Upstream == 2 })
	remove := add(t, p, Rule{Name: "cut", Percent: 1, Reset: &Cut{}})
	idle.wantReset()
	busy.wantReset()
	late := dial(t, p.Addr())
	late.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	late.wantReset()
	s := collect(t, p, func(s Stats) bool { return s.Answers["reset"] == 2 && s.Open == 0 })
	if r := s.Rules["cut"]; r.Eligible != 2 || r.Fired != 2 || s.Upstream != 0 {
		t.Errorf("rule %+v, upstream %d: want the two calls hit, and no more upstream", r, s.Upstream)
	}
	remove()
	again := dial(t, p.Addr())
	if status, _ := again.get("/"); status != 200 {
		t.Errorf("after the rule: %d", status)
	}
}

func TestHTTPResetAfterBytes(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) }))
	add(t, p, Rule{Name: "cut", Percent: 1, Reset: &Cut{After: 1000}})
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	got := make([]byte, 1000)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(got); n > 0 || err == nil {
		t.Errorf("%d more bytes, %v; want RST after 1000", n, err)
	}
	collect(t, p, func(s Stats) bool { return s.Answers["reset"] == 1 && s.BytesDown == 1000 })
}

func TestHTTPBlackhole(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	open := dial(t, p.Addr())
	open.get("/")
	collect(t, p, func(s Stats) bool { return s.Answers["200"] == 1 }) // or the rule would still have this call
	remove := add(t, p, Rule{Name: "hole", Percent: 1, Blackhole: &Cut{}})
	fresh := dial(t, p.Addr())
	for _, c := range []caller{open, fresh} {
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.wantSilence()
	}
	s := collect(t, p, func(s Stats) bool { return s.Calls == 2 })
	if s.Upstream != 0 || s.Rules["hole"].Fired != 2 {
		t.Errorf("stats %+v, want nothing more upstream", s)
	}
	gaveUp := dial(t, p.Addr())
	gaveUp.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	gaveUp.Close()
	collect(t, p, func(s Stats) bool { return s.Answers["canceled"] == 1 && s.Open == 2 })
	remove()
	open.wantReset()
	fresh.wantReset()
	collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 2 && s.Open == 0 })
	if status, _ := dial(t, p.Addr()).get("/"); status != 200 {
		t.Errorf("after the rule: %d", status)
	}
}

func TestHTTPUpstreamGone(t *testing.T) {
	for name, end := range map[string]struct {
		how  func(*net.TCPConn)
		want string
	}{
		"fin": {func(c *net.TCPConn) {}, "closed"},
		"rst": {func(c *net.TCPConn) { c.SetLinger(0) }, "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) {
				r := newReader(c)
				for range 3 {
					r.ReadString('\n')
				}
				end.how(c.(*net.TCPConn))
			}))
			c := dial(t, p.Addr())
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if name == "fin" {
				c.wantEnd()
				c.Close()
			} else {
				c.wantReset()
			}
			s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
			if s.Answers[end.want] != 1 || len(s.Answers) != 1 {
				t.Errorf("answers %v, want one %s", s.Answers, end.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		p := startProxy(t, HTTP, "127.0.0.1:1")
		c := dial(t, p.Addr())
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.wantReset()
		collect(t, p, func(s Stats) bool { return s.Calls == 1 && s.Upstream == 0 && s.Answers["refused"] == 1 })
		p.SetUpstream(startHTTP(t, hello))
		if status, _ := dial(t, p.Addr()).get("/"); status != 200 {
			t.Errorf("after SetUpstream: %d", status)
		}
	})
}

// TestHTTPCallerGivesUp: a caller's timeout is no answer, although the upstream gave one.
func TestHTTPCallerGivesUp(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: 100 * time.Millisecond}})
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	collect(t, p, func(s Stats) bool { return s.Rules["slow"].Fired == 1 })
	c.Close()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	if s.Answers["canceled"] != 1 || len(s.Answers) != 1 {
		t.Errorf("answers %v, want one canceled", s.Answers)
	}
	if n := s.Rules["slow"].Delay.Count(); n != 1 {
		t.Errorf("%d delays measured, want 1: the hold went on", n)
	}
}

func TestHTTPHalfClose(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.0\r\n\r\n")
	c.CloseWrite()
	if status, body := c.answer("GET"); status != 200 || body != "ok" {
		t.Fatalf("%d %q", status, body)
	}
	s := collect(t, p, func(s Stats) bool { return len(s.Answers) > 0 })
	if s.Answers["200"] != 1 {
		t.Errorf("answers %v, want a 200", s.Answers)
	}
}

// TestHTTPErrorWithoutARequest: a caller that leaves in the middle of a request
// that an error rule was to answer leaves nothing behind.
func TestHTTPErrorWithoutARequest(t *testing.T) {
	p := startProxy(t, HTTP, "")
	add(t, p, Rule{Name: "down", Percent: 1, Error: &Error{Status: 503}})
	for _, says := range []string{"Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\nno chunk"} {
		c := dial(t, p.Addr())
		c.send("POST / HTTP/1.1\r\n" + says)
		c.CloseWrite()
		collect(t, p, func(s Stats) bool { return s.Open == 0 && s.Answers["canceled"] == 1 })
	}
}

// TestHTTPIdleUpstreamCloses: what a pool of connections must hear of.
func TestHTTPIdleUpstreamCloses(t *testing.T) {
	release := make(chan struct{})
	p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) {
		r := newReader(c)
		for range 3 {
			r.ReadString('\n')
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		<-release
	}))
	c := dial(t, p.Addr())
	c.get("/")
	close(release)
	c.wantEnd()
	c.Close()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	if len(s.Answers) != 1 || s.Answers["200"] != 1 {
		t.Errorf("answers %v, want the 200 alone", s.Answers)
	}
}

// TestHTTPCloseAfterInjectedAnswer: a caller that asks for the end gets it, and an answer whole.
func TestHTTPCloseAfterInjectedAnswer(t *testing.T) {
	p := startProxy(t, HTTP, "")
	add(t, p, Rule{Name: "down", Percent: 1, Error: &Error{Status: 204}})
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\nand more that nobody reads")
	if status, _ := c.answer("GET"); status != 204 {
		t.Errorf("status %d", status)
	}
	c.wantEnd()
}
