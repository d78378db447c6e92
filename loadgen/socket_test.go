package loadgen

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// peer is a server on a real socket that treats connections as it is told.
type peer struct {
	listener net.Listener
	dialed   atomic.Int64
	mu       sync.Mutex
	conns    []net.Conn // in the order in which they were made
	accepted sync.Cond  // one more
	all      sync.WaitGroup
}

// peerConn is one of its connections, over TLS or not.
type peerConn struct {
	net.Conn
	tcp *net.TCPConn
}

// reset ends the connection without a word.
func (c *peerConn) reset() {
	_ = c.tcp.SetLinger(0)
	c.tcp.Close()
}

// startPeer calls serve for every request, which is read already, on its
// connection, numbered from 0 there; false closes it.
func startPeer(t *testing.T, serve func(c *peerConn, r *http.Request, n int) bool) *peer {
	t.Helper()
	return way{}.startPeer(t, serve)
}

func (w way) startPeer(t *testing.T, serve func(c *peerConn, r *http.Request, n int) bool) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{listener: l}
	p.accepted.L = &p.mu
	p.all.Go(func() {
		for {
			tcp, err := l.Accept()
			if err != nil {
				return
			}
			p.dialed.Add(1)
			c := &peerConn{tcp, tcp.(*net.TCPConn)}
			if w.server != nil {
				c.Conn = tls.Server(tcp, w.server)
			}
			p.mu.Lock()
			p.conns = append(p.conns, tcp)
			p.accepted.Broadcast()
			p.mu.Unlock()
			p.all.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for n := 0; ; n++ {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, r.Body); err != nil || !serve(c, r, n) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *peer) stop() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.all.Wait()
}

// connections counts all that were made so far, also those that nobody has accepted
// yet: one more is behind them.
func (p *peer) connections(t *testing.T) int {
	t.Helper()
	c, err := net.Dial("tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for i, made := range p.conns {
			if made.RemoteAddr().String() == c.LocalAddr().String() {
				return i
			}
		}
		p.accepted.Wait()
	}
}

func (p *peer) address() string { return p.listener.Addr().String() }

// say writes; whether it arrives shows at the other end.
func say(c net.Conn, s string) bool {
	_, err := io.WriteString(c, s)
	return err == nil
}

// hang does nothing until the other side has given up.
func hang(c net.Conn) bool {
	_, _ = io.Copy(io.Discard, c)
	return false
}

// way is how a test's requests get to its peer.
type way struct {
	engine Engine
	tls    *tls.Config // nil: plain
	server *tls.Config // the peer's
}

// onEnginesOnly is a test of both, where both can be.
func onEnginesOnly(t *testing.T, f func(t *testing.T, w way)) {
	t.Helper()
	for _, engine := range []Engine{Fast, General} {
		if engine == General || haveFast {
			t.Run(engine.String(), func(t *testing.T) { f(t, way{engine: engine}) })
		}
	}
}

// onEngines is the same, plain and over TLS.
func onEngines(t *testing.T, name string, f func(t *testing.T, w way)) {
	t.Helper()
	for _, engine := range []Engine{Fast, General} {
		if engine == General || haveFast {
			t.Run(strings.Trim(name+"/"+engine.String(), "/"), func(t *testing.T) { f(t, way{engine: engine}) })
			client, server := trusted(t)
			t.Run(strings.Trim(name+"/"+engine.String(), "/")+"-tls", func(t *testing.T) { f(t, way{engine, client, server}) })
		}
	}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// Each thing that can go wrong on the wire has its class, and none hangs.
func TestOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name   string
		method string
		serve  func(c *peerConn, r *http.Request, n int) bool
		want   string // outcome of all
		detail string // in the samples of failures
		per    int    // requests that one connection serves; 0: all of them
	}{
		{name: "answers", serve: func(c *peerConn, _ *http.Request, _ int) bool { return say(c, fine) }, want: "200"},
		{name: "answers in pieces", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			for _, b := range []byte(fine) {
				if !say(c, string(b)) {
					return false
				}
			}
			return true
		}, want: "200"},
		{name: "continue first", method: "POST", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 100 Continue\r\n\r\n") && say(c, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
		}, want: "201"},
		{name: "early hints first", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+fine)
		}, want: "200"},
		{name: "chunked with trailers", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n") && say(c, "0\r\nT: 1\r\n\r\n")
		}, want: "200"},
		{name: "head", method: "HEAD", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
		}, want: "200"},
		{name: "ends with the connection", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			say(c, "HTTP/1.1 200 OK\r\n\r\nuntil here")
			return false
		}, want: "200", per: 1},
		{name: "says close", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}, want: "200", per: 1},
		{name: "closes idle connections", serve: func(c *peerConn, _ *http.Request, n int) bool {
			return say(c, fine) && n < 1
		}, want: "200", per: 2},
		{name: "says more than it was asked", serve: func(c *peerConn, _ *http.Request, _ int) bool { return say(c, fine+fine) }, want: "200", per: 1},
		{name: "busy", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
		}, want: "503"},

		{name: "resets", serve: func(c *peerConn, _ *http.Request, _ int) bool { c.reset(); return false }, want: "reset", detail: "reset by peer", per: 1},
		{name: "closes instead of answering", serve: func(*peerConn, *http.Request, int) bool { return false }, want: "reset", detail: "before the answer began", per: 1},
		{name: "closes in the header", serve: func(c *peerConn, _ *http.Request, _ int) bool { return say(c, "HTTP/1.1 200 OK\r\nConte") && false }, want: "reset", detail: "middle of the answer", per: 1},
		{name: "closes in the body", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf") && false
		}, want: "reset", detail: "middle of the answer", per: 1},
		{name: "closes in a chunk", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhalf") && false
		}, want: "reset", detail: "middle of the answer", per: 1},
		{name: "says nothing", serve: func(c *peerConn, _ *http.Request, _ int) bool { return hang(c) }, want: "timeout", detail: "timeout", per: 1},
		{name: "stalls in the body", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			say(c, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
			return hang(c)
		}, want: "timeout", detail: "timeout", per: 1},
		{name: "says interim answers only", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			say(c, "HTTP/1.1 100 Continue\r\n\r\n")
			return hang(c)
		}, want: "timeout", detail: "timeout", per: 1},
		{name: "never ends its body", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for say(c, "10000\r\n"+strings.Repeat("y", 0x10000)+"\r\n") {
			}
			return false
		}, want: "timeout", detail: "timeout", per: 1},
		{name: "speaks something else", serve: func(c *peerConn, _ *http.Request, _ int) bool { return say(c, "220 mail.example ESMTP\r\n") }, want: "protocol", detail: "begins with", per: 1},
		{name: "answers with two lengths", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok")
		}, want: "protocol", detail: "as 1 and as 2", per: 1},
		{name: "switches protocols", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
		}, want: "protocol", detail: "101", per: 1},
		{name: "never ends its header", serve: func(c *peerConn, _ *http.Request, _ int) bool {
			for say(c, "X: "+strings.Repeat("y", 1000)+"\r\n") {
			}
			return false
		}, want: "protocol", per: 1},
	} {
		onEngines(t, c.name, func(t *testing.T, w way) {
			t.Parallel()
			p := w.startPeer(t, c.serve)
			c := c
			if c.method == "" {
				c.method = "GET"
			}
			s := newSums()
			// One user: one request after another, on one connection while it lasts.
			spec := Spec{Name: "s", To: "peer", Request: &Request{Method: c.method, Path: "/"}, Users: ptr(1), Think: 20 * time.Millisecond}
			if c.want == "timeout" {
				spec.Timeout = ptr(time.Second) // connecting is to come to an end
				if w.tls != nil {               // and its handshake
					spec.Timeout = ptr(2 * time.Second)
				}
			}
			if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Seed: 1, Start: time.Now(), Until: 100 * time.Millisecond, Resolve: p.address})); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			if s.Outcomes[c.want] != s.DueCount || s.DueCount == 0 {
				t.Errorf("outcomes %v, want only %s; samples %+v", s.Outcomes, c.want, s.samples)
			}
			for _, x := range s.samples {
				if !strings.Contains(x.Detail, c.detail) {
					t.Errorf("detail %q, want one with %q", x.Detail, c.detail)
				}
			}
			want := 1
			if c.per > 0 {
				want = (s.DueCount + c.per - 1) / c.per
			}
			if n := p.connections(t); n != want || s.Connects != want {
				t.Errorf("%d connections, %d of them told, for %d requests, want %d", n, s.Connects, s.DueCount, want)
			}
			if took := time.Since(s.start); took > 20*time.Second {
				t.Errorf("the run took %v", took)
			}
		})
	}
}

// What nobody asked for is not the answer to the next request.
func TestSpeaksOutOfTurn(t *testing.T) {
	onEngines(t, "", func(t *testing.T, w way) {
		t.Parallel()
		p := w.startPeer(t, func(c *peerConn, _ *http.Request, _ int) bool {
			return say(c, fine) && say(c, "HTTP/1.1 500 Unasked\r\nContent-Length: 0\r\n\r\n")
		})
		s := newSums()
		spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Users: ptr(1), Think: 300 * time.Millisecond}
		if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Start: s.start, Until: 400 * time.Millisecond, Resolve: p.address})); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.OK != s.DueCount || int(p.dialed.Load()) != s.DueCount {
			t.Errorf("outcomes %v on %d connections, want only 200, each on its own", s.Outcomes, p.dialed.Load())
		}
	})
}

func TestConnectionsThatCannotBeMade(t *testing.T) {
	onEngines(t, "", testConnectionsThatCannotBeMade)
}

func testConnectionsThatCannotBeMade(t *testing.T, w way) {
	p := startPeer(t, nil)
	gone := p.address()
	p.stop()
	for address, want := range map[string]string{gone: "refused", "": "refused", "127.0.0.1:99999": "other", "no..host:80": "dns"} {
		s := newSums()
		spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(50)}
		if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Start: time.Now(), Until: 100 * time.Millisecond, Resolve: func() string { return address }})); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.Outcomes[want] != 5 || len(s.samples) == 0 || s.samples[0].Detail == "" {
			t.Errorf("%q: outcomes %v, want 5 × %s with a detail", address, s.Outcomes, want)
		}
	}
}

// A restarted service is found where it is now.
func TestServiceMoves(t *testing.T) { onEngines(t, "", testServiceMoves) }

func testServiceMoves(t *testing.T, w way) {
	answer := func(c *peerConn, _ *http.Request, _ int) bool { return say(c, fine) }
	old, moved := w.startPeer(t, answer), w.startPeer(t, answer)
	var address atomic.Value
	address.Store(old.address())
	c := Config{
		Spec:   Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Users: ptr(2), Think: time.Millisecond},
		Engine: w.engine, TLS: w.tls, Seed: 1, Start: time.Now(), Until: time.Minute, Resolve: func() string { return address.Load().(string) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := newSums()
	c = s.listen(c)
	add := c.OnWindow
	c.OnWindow = func(w Window) {
		add(w)
		switch {
		case s.OK > 20 && old.dialed.Load() == 2 && address.Load() == old.address():
			address.Store(moved.address())
			old.stop()
		case moved.dialed.Load() == 2:
			cancel()
		}
	}
	if err := Run(ctx, c); err != context.Canceled {
		t.Fatal(err)
	}
	s.balance(t)
	if old.dialed.Load() != 2 || moved.dialed.Load() != 2 || s.Failed > 2 {
		t.Errorf("%d connections to the old address, %d to the new, outcomes %v; want 2, 2, and at most the two in flight lost", old.dialed.Load(), moved.dialed.Load(), s.Outcomes)
	}
}

func TestCancelOnRealSockets(t *testing.T) { onEngines(t, "", testCancelOnRealSockets) }

func testCancelOnRealSockets(t *testing.T, w way) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked atomic.Int64
	p := w.startPeer(t, func(c *peerConn, _ *http.Request, _ int) bool {
		if asked.Add(1) == 3 {
			cancel()
		}
		return hang(c)
	})
	s := newSums()
	c := s.listen(Config{
		Spec:   Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(100), Connections: ptr(3)},
		Engine: w.engine, TLS: w.tls, Start: time.Now(), Until: time.Hour, Resolve: p.address,
	})
	if err := Run(ctx, c); err != context.Canceled {
		t.Fatal(err)
	}
	s.balance(t)
	if s.Outcomes["canceled"] != s.DueCount || s.DueCount < 3 {
		t.Errorf("%d due, outcomes %v; want all canceled", s.DueCount, s.Outcomes)
	}
}

func TestWaiterCanBeWoken(t *testing.T) {
	precise, err := newWaiter()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []waiter{newTimerWaiter(), precise} {
		w.until(time.Now().Add(-time.Second)) // is past: no wait
		w.wake()
		w.until(time.Now().Add(time.Hour)) // was woken before
		var woken sync.WaitGroup
		woken.Go(w.wake)
		w.until(time.Now().Add(time.Hour)) // is woken at any moment
		woken.Wait()
		at := time.Now().Add(20 * time.Millisecond)
		for time.Now().Before(at) { // an earlier wake may end the first wait
			w.until(at)
		}
		w.close()
		w.wake() // does nothing any more
	}
}
