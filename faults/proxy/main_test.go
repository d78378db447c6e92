package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// startProxy starts a proxy in front of upstream that stops with the test.
func startProxy(t testing.TB, protocol Protocol, upstream string) *Proxy {
	t.Helper()
	p, err := Start(context.Background(), Config{Name: "a -> b", Upstream: upstream, Protocol: protocol, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop() })
	return p
}

// add adds a rule that must be valid.
func add(t testing.TB, p *Proxy, r Rule) (remove func()) {
	t.Helper()
	remove, err := p.Add(r)
	if err != nil {
		t.Fatal(err)
	}
	return remove
}

// startTCP serves every connection with handle.
func startTCP(t testing.TB, handle func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	conns := make(chan net.Conn, 10_000)
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(conns)
		for c := range conns {
			c.Close()
		}
	})
	return l.Addr().String()
}

func echo(c net.Conn) { io.Copy(c, c); c.(*net.TCPConn).CloseWrite() }

// startHTTP serves h.
func startHTTP(t testing.TB, h http.HandlerFunc) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// caller is a client of one connection.
type caller struct {
	*net.TCPConn
	*bufio.Reader
	t testing.TB
}

func (c caller) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c caller) WriteTo(w io.Writer) (int64, error) { return c.Reader.WriteTo(w) }

func (c caller) ReadFrom(r io.Reader) (int64, error) { return c.TCPConn.ReadFrom(r) }

func dial(t testing.TB, address string) caller {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return caller{c.(*net.TCPConn), bufio.NewReader(c), t}
}

func (c caller) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.t.Fatal(err)
	}
}

// get sends a GET and returns the status and the body of its answer.
func (c caller) get(path string) (int, string) {
	c.t.Helper()
	c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	return c.answer("GET")
}

func (c caller) answer(method string) (int, string) {
	c.t.Helper()
	a, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(a.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return a.StatusCode, string(body)
}

// wantReset reads until the connection ends, which must be by RST.
func (c caller) wantReset() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.Reader)
	if !errors.Is(err, syscall.ECONNRESET) {
		c.t.Errorf("the connection ended with %v, want RST", err)
	}
}

// wantRefused connects, and wants RST before connect(2) returns or right after.
func wantRefused(t testing.TB, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want RST", err)
	}
}

// wantEnd reads until the connection ends, which must be in order.
func (c caller) wantEnd() {
	c.t.Helper()
	if n, err := io.Copy(io.Discard, c.Reader); n > 0 || err != nil {
		c.t.Errorf("%d more bytes, then %v; want the orderly end", n, err)
	}
}

// wantSilence checks that nothing comes for a moment. That nothing comes can be
// seen only by waiting; what is wrong shows up sooner.
func (c caller) wantSilence() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b, err := c.ReadByte()
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		c.t.Errorf("read %q, %v; want silence", b, err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
}

// collect gathers until the stats are as wanted.
func collect(t testing.TB, p *Proxy, want func(Stats) bool) Stats {
	t.Helper()
	sum := p.Collect()
	for limit := time.Now().Add(patience); !want(sum); {
		if time.Now().After(limit) {
			t.Fatalf("stats did not become as wanted: %+v", sum)
		}
		time.Sleep(time.Millisecond)
		s := p.Collect()
		sum.Calls += s.Calls
		sum.Upstream += s.Upstream
		sum.Opaque += s.Opaque
		sum.Open = s.Open
		sum.BytesUp += s.BytesUp
		sum.BytesDown += s.BytesDown
		sum.ReceivedUp += s.ReceivedUp
		sum.ReceivedDown += s.ReceivedDown
		for why, n := range s.Handshakes {
			sum.Handshakes[why] += n
		}
		for at, u := range s.Upstreams {
			if sum.Upstreams == nil {
				sum.Upstreams = map[string]UpstreamStats{}
			}
			old := sum.Upstreams[at]
			sum.Upstreams[at] = UpstreamStats{old.Connections + u.Connections, old.Refused + u.Refused}
		}
		sum.Latency.Merge(s.Latency)
		for class, n := range s.Answers {
			sum.Answers[class] += n
		}
		for name, r := range s.Rules {
			old := sum.Rules[name]
			r.Eligible += old.Eligible
			r.Fired += old.Fired
			r.Bytes += old.Bytes
			r.Delay.Merge(old.Delay)
			sum.Rules[name] = r
		}
	}
	return sum
}

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// outOfFiles has every system call fail that makes a file descriptor, until back is called.
func outOfFiles(t testing.TB) (back func()) {
	t.Helper()
	var usual unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: usual.Max}); err != nil {
		t.Fatal(err)
	}
	back = func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(back)
	return back
}
