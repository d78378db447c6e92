package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestTCPHalfClose(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	c := dial(t, p.Addr())
	const size = 10 << 20
	go func() {
		c.TCPConn.Write(make([]byte, size))
		c.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, c.Reader); n != size || err != nil {
		t.Fatalf("%d bytes came back, %v; want %d", n, err, size)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 })
	if s.Calls != 1 || s.Upstream != 1 || s.BytesUp != size || s.BytesDown != size || len(s.Answers) != 1 {
		t.Errorf("stats %+v", s)
	}
}

// TestTCPHalfCloseAtOnce: a caller that says all it has to say before the flow
// down has heard of the upstream is answered all the same.
func TestTCPHalfCloseAtOnce(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	for range 300 {
		c := dial(t, p.Addr())
		c.send("hello")
		c.CloseWrite()
		if got, err := io.ReadAll(c.Reader); string(got) != "hello" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		c.Close()
	}
}

func TestTCPServerSpeaksFirst(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) { io.WriteString(c, "220 ready\r\n"); io.Copy(io.Discard, c) }))
	if line, err := dial(t, p.Addr()).ReadString('\n'); line != "220 ready\r\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestTCPEndsPassOn(t *testing.T) {
	ended := make(chan error, 1)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}))
	c := dial(t, p.Addr())
	c.send("x")
	collect(t, p, func(s Stats) bool { return s.BytesUp == 1 })
	c.SetLinger(0)
	c.Close()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream saw %v, want the caller's RST", err)
	}
	collect(t, p, func(s Stats) bool { return s.Answers["canceled"] == 1 && s.Open == 0 })

	p.SetUpstream(startTCP(t, func(c net.Conn) { c.Read(make([]byte, 1)); c.(*net.TCPConn).SetLinger(0) }))
	c = dial(t, p.Addr())
	c.send("x")
	c.wantReset()
	collect(t, p, func(s Stats) bool { return s.Answers["reset"] == 1 && s.Open == 0 })

	p.SetUpstream("127.0.0.1:1")
	wantRefused(t, p.Addr())
	collect(t, p, func(s Stats) bool { return s.Answers["refused"] == 1 && s.Upstream == 0 && s.Open == 0 })
}

func TestTCPLatencyIsFromReceiveTime(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: 60 * time.Millisecond, Jitter: 30 * time.Millisecond}})
	add(t, p, Rule{Name: "slower", Percent: 1, Latency: &Latency{Delay: 20 * time.Millisecond}})
	c := dial(t, p.Addr())
	start := time.Now()
	for i := range 10 { // in flight together: the delays overlap
		c.send(fmt.Sprint(i))
		time.Sleep(2 * time.Millisecond) // so that they are chunks of their own
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "0123456789" {
		t.Fatalf("got %q, %v", got, err)
	}
	if d := time.Since(start); d < 50*time.Millisecond || d > 700*time.Millisecond {
		t.Errorf("ten chunks took %v, want about one delay of 80ms ± 30ms", d)
	}
	s := p.Collect()
	a, b := s.Rules["slow"], s.Rules["slower"]
	if a.Delay.Count() == 0 || a.Delay.Count() != b.Delay.Count() || a.Fired != 1 || a.Bytes != 10 {
		t.Errorf("slow %+v, slower %+v", a, b)
	}
	if a.Delay.Min() < 30*time.Millisecond || math.Abs(a.Delay.Mean().Seconds()/b.Delay.Mean().Seconds()-3) > 0.1 {
		t.Errorf("slow: min %v, mean %v; slower: mean %v; want parts of 3 to 1", a.Delay.Min(), a.Delay.Mean(), b.Delay.Mean())
	}
}

// TestTCPLatencyHoldsTheEnd: FIN is as late as a byte would be, and no byte is lost before it.
func TestTCPLatencyHoldsTheEnd(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) { io.WriteString(c, "bye") }))
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: 50 * time.Millisecond}})
	start := time.Now()
	got, err := io.ReadAll(dial(t, p.Addr()).Reader)
	if string(got) != "bye" || err != nil || time.Since(start) < 50*time.Millisecond {
		t.Errorf("got %q, %v after %v", got, err, time.Since(start))
	}
}

func TestTCPResetOfOpenConnections(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	var conns []caller
	const n = 100
	for range n {
		c := dial(t, p.Addr())
		c.send("x")
		c.ReadByte()
		conns = append(conns, c)
	}
	rule := Rule{Name: "cut", Percent: 0.4, Reset: &Cut{}}
	add(t, p, rule)
	want := newActive(rule, 1, 7)
	fired := 0
	for i, c := range conns {
		if want.hits(uint64(i)) {
			fired++
			c.wantReset()
			continue
		}
		c.send("y")
		if b, err := c.ReadByte(); b != 'y' {
			t.Fatalf("connection %d, which the rule does not hit: %v", i, err)
		}
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["reset"] == fired })
	if r := s.Rules["cut"]; r.Eligible != n || r.Fired != fired || s.Open != n-fired {
		t.Errorf("rule %+v, %d open; want %d of %d", r, s.Open, fired, n)
	}
	if d := math.Abs(float64(fired) - 0.4*n); d > 4*math.Sqrt(0.24*n) {
		t.Errorf("%d of %d hit, more than 4σ from 40 %%", fired, n)
	}
}

func TestTCPResetAfterBytesOnOpenConnection(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	c := dial(t, p.Addr())
	c.send("12345")
	io.ReadFull(c, make([]byte, 5))
	add(t, p, Rule{Name: "cut", Percent: 1, Reset: &Cut{After: 8}})
	c.send("678")
	got := make([]byte, 3)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "678" {
		t.Fatalf("got %q, %v; want the bytes before the cut", got, err)
	}
	c.wantReset()
}

func TestTCPBlackhole(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	open := dial(t, p.Addr())
	open.send("x")
	open.ReadByte()
	remove := add(t, p, Rule{Name: "hole", Percent: 1, Blackhole: &Cut{}})
	fresh := dial(t, p.Addr())
	for _, c := range []caller{open, fresh} {
		c.send("lost")
		c.wantSilence()
	}
	s := collect(t, p, func(s Stats) bool { return s.Rules["hole"].Bytes == 8 })
	if r := s.Rules["hole"]; r.Eligible != 2 || r.Fired != 2 || s.Upstream != 1 {
		t.Errorf("rule %+v, upstream %d", r, s.Upstream)
	}
	remove()
	open.wantReset()
	fresh.wantReset()
	c := dial(t, p.Addr())
	c.send("z")
	if b, err := c.ReadByte(); b != 'z' {
		t.Errorf("after the rule: %v", err)
	}
}

func TestRefuse(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, TCP} {
		p := startProxy(t, protocol, startTCP(t, echo))
		open := dial(t, p.Addr())
		open.send("\x00")
		open.ReadByte()
		remove := add(t, p, Rule{Name: "closed", Percent: 1, Refuse: &Refuse{}})
		wantRefused(t, p.Addr())
		open.send("\x00")
		if _, err := open.ReadByte(); err != nil {
			t.Errorf("%s: the open connection suffers: %v", protocol, err)
		}
		s := collect(t, p, func(s Stats) bool { return s.Answers["refused"] == 1 })
		if r := s.Rules["closed"]; r.Fired != 1 || r.Eligible != 1 {
			t.Errorf("%s: rule %+v", protocol, r)
		}
		remove()
		c := dial(t, p.Addr())
		c.send("\x00")
		if _, err := c.ReadByte(); err != nil {
			t.Errorf("%s: after the rule: %v", protocol, err)
		}
	}
}

func TestBandwidth(t *testing.T) {
	const rate, size = 4 << 20, 1 << 20
	p := startProxy(t, TCP, startTCP(t, echo))
	c := dial(t, p.Addr())
	c.send("x") // an open connection is subject to it too
	c.ReadByte()
	add(t, p, Rule{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: rate}})
	start := time.Now()
	go c.TCPConn.Write(make([]byte, size))
	if _, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatal(err)
	}
	// Up and down run side by side; the test asserts the lower bound only, since a
	// busy machine can always be later. BenchmarkBandwidth measures accuracy.
	if d := time.Since(start); d < 250*time.Millisecond {
		t.Errorf("%d bytes took %v at %d B/s, want 250ms", size, d, rate)
	}
	s := collect(t, p, func(s Stats) bool { return s.Rules["thin"].Bytes == 2*size })
	if r := s.Rules["thin"]; r.Fired != 1 || r.Eligible != 1 {
		t.Errorf("rule %+v, want one connection hit", r)
	}
}

// TestSlowCallerHoldsNobodyUp: a caller that does not read blocks no API call, and can be reset.
func TestSlowCallerHoldsNobodyUp(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		for buf := make([]byte, 1<<20); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}))
	c := dial(t, p.Addr())
	last := int64(-1)
	for n := int64(0); n != last; n += p.Collect().BytesDown { // until nothing moves any more
		last = n
		time.Sleep(20 * time.Millisecond)
	}
	for _, r := range []Rule{
		{Name: "a", Percent: 1, Latency: &Latency{Delay: time.Second}},
		{Name: "b", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1}},
		{Name: "c", Percent: 1, Blackhole: &Cut{After: 1 << 40}},
	} {
		add(t, p, r)()
	}
	add(t, p, Rule{Name: "d", Percent: 1, Reset: &Cut{}})
	c.wantReset()
}

func TestStop(t *testing.T) {
	p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\n\r\n")
	collect(t, p, func(s Stats) bool { return s.Upstream == 1 })
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Hour}})
	p.Stop()
	p.Stop()
	c.wantReset()
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Stop: %v, want connection refused", err)
	}
	if _, err := p.Add(Rule{Name: "late", Refuse: &Refuse{}}); err == nil {
		t.Error("a stopped proxy took a rule")
	}

	ctx, cancel := context.WithCancel(context.Background())
	q, err := Start(ctx, Config{Name: "q", Protocol: TCP})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	q.all.Wait()
}

func TestStartErrors(t *testing.T) {
	p := startProxy(t, TCP, "")
	for want, c := range map[string]Config{
		"address already in use": {Protocol: TCP, Listen: p.Addr()},
		`protocol is "sctp"`:     {Protocol: "sctp"},
		"dial timeout is -1s":    {Protocol: TCP, DialTimeout: -time.Second},
	} {
		c.Name = "x -> y"
		if _, err := Start(context.Background(), c); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.Name) {
			t.Errorf("%+v: %v, want %q and the name", c, err, want)
		}
	}
}

// listener is one that fails before it works.
type listener struct {
	net.Listener
	failures atomic.Int32
}

func (l *listener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptSurvivesRunningOutOfFiles(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	flaky := &listener{Listener: l}
	flaky.failures.Store(4)
	p := serve(context.Background(), Config{Name: "x", Upstream: startTCP(t, echo), Protocol: TCP}, flaky)
	defer p.Stop()
	c := dial(t, p.Addr())
	c.send("x")
	if _, err := c.ReadByte(); err != nil {
		t.Error(err)
	}
}

// pipes is a listener and a dialer without a network, for bubbles.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func (l pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l pipes) Close() error   { close(l.closed); return nil }
func (l pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs f with a proxy on a clock of its own: every time is exact.
func inBubble(t *testing.T, protocol Protocol, handle func(net.Conn), f func(t *testing.T, p *Proxy, c net.Conn)) {
	t.Helper()
	inBubbleOf(t, Config{Name: "x", Protocol: protocol}, handle, f)
}

func inBubbleOf(t *testing.T, config Config, handle func(net.Conn), f func(t *testing.T, p *Proxy, c net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn), make(chan struct{})}
		p := serve(t.Context(), config, l)
		p.dialer = func(context.Context, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { defer b.Close(); handle(b) }()
			return a, nil
		}
		c, far := net.Pipe()
		l.accepted <- far
		f(t, p, c)
		c.Close()
		p.Stop()
	})
}

func TestExactLatency(t *testing.T) {
	pong := func(c net.Conn) {
		for buf := make([]byte, 64); ; {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			c.Write(buf[:n])
		}
	}
	t.Run("tcp", func(t *testing.T) {
		inBubble(t, TCP, pong, func(t *testing.T, p *Proxy, c net.Conn) {
			add(t, p, Rule{Name: "down", Percent: 1, Latency: &Latency{Delay: 200 * time.Millisecond}})
			add(t, p, Rule{Name: "up", Percent: 1, Latency: &Latency{Delay: 30 * time.Millisecond, Direction: "request"}})
			start := time.Now()
			buf := make([]byte, 64)
			for i := range 3 {
				fmt.Fprint(c, i)
				if d := time.Since(start); d != time.Duration(i)*10*time.Millisecond {
					t.Fatalf("the caller was held up for %v", d)
				}
				time.Sleep(10 * time.Millisecond)
			}
			for i := range 3 {
				n, err := c.Read(buf)
				want := 230*time.Millisecond + time.Duration(i)*10*time.Millisecond
				if d := time.Since(start); string(buf[:n]) != fmt.Sprint(i) || d != want {
					t.Fatalf("chunk %d: %q, %v after %v, want it after %v", i, buf[:n], err, d, want)
				}
			}
			if d := p.Collect().Rules["down"].Delay; d.Count() != 3 || d.Min() < 199*time.Millisecond || d.Max() > 201*time.Millisecond {
				t.Errorf("measured %d, %v to %v", d.Count(), d.Min(), d.Max())
			}
		})
	})
	t.Run("tcp, removed while bytes are held", func(t *testing.T) {
		inBubble(t, TCP, pong, func(t *testing.T, p *Proxy, c net.Conn) {
			remove := add(t, p, Rule{Name: "long", Percent: 1, Latency: &Latency{Delay: time.Hour}})
			add(t, p, Rule{Name: "short", Percent: 1, Latency: &Latency{Delay: 100 * time.Millisecond}})
			start := time.Now()
			fmt.Fprint(c, "x")
			time.Sleep(50 * time.Millisecond)
			remove()
			c.Read(make([]byte, 1))
			if d := time.Since(start); d != 100*time.Millisecond {
				t.Errorf("came after %v, want what the other rule asks, 100ms", d)
			}
		})
	})
	t.Run("http", func(t *testing.T) {
		inBubble(t, HTTP, func(c net.Conn) {
			for buf := make([]byte, 64); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}, func(t *testing.T, p *Proxy, c net.Conn) {
			add(t, p, Rule{Name: "a", Percent: 1, Latency: &Latency{Delay: 200 * time.Millisecond}})
			add(t, p, Rule{Name: "b", Percent: 1, Latency: &Latency{Delay: 30 * time.Millisecond, Direction: "request"}})
			add(t, p, Rule{Name: "c", Percent: 1, Latency: &Latency{Delay: 5 * time.Millisecond}})
			for range 3 {
				start := time.Now()
				fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
				if n, err := c.Read(make([]byte, 64)); n != 40 || err != nil || time.Since(start) != 235*time.Millisecond {
					t.Fatalf("%d bytes, %v after %v, want 235ms", n, err, time.Since(start))
				}
			}
		})
	})
	t.Run("bandwidth", func(t *testing.T) {
		inBubble(t, TCP, func(c net.Conn) { c.Write(make([]byte, 100_000)); io.Copy(io.Discard, c) }, func(t *testing.T, p *Proxy, c net.Conn) {
			add(t, p, Rule{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 30_000}})
			start := time.Now()
			io.ReadFull(c, make([]byte, 100_000))
			if d, want := time.Since(start), 100_000*time.Second/30_000; (d - want).Abs() > 10*time.Millisecond {
				t.Errorf("100 kB at 30 kB/s took %v, want %v", d, want)
			}
		})
	})
}
