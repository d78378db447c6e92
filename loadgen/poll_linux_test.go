package loadgen

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fullListener is an address where connections are neither accepted nor refused:
// its queue is full, and the kernel ignores who else comes.
func fullListener(t *testing.T) (address string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(fd, local); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for { // until one is not let in
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		if err := unix.Connect(c, at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
		ready := []unix.PollFd{{Fd: int32(c), Events: unix.POLLOUT}}
		if n, err := unix.Poll(ready, 50); err == nil && n == 0 {
			break
		}
	}
	return "127.0.0.1:" + strconv.Itoa(at.(*unix.SockaddrInet4).Port)
}

// Where nobody accepts, connections are not made in time: a timeout like any other.
func TestNobodyAccepts(t *testing.T) {
	onEngines(t, "", func(t *testing.T, w way) {
		address := fullListener(t)
		s := newSums()
		spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(200), Timeout: ptr(50 * time.Millisecond)}
		if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Start: s.start, Until: 20 * time.Millisecond, Resolve: func() string { return address }})); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.Outcomes["timeout"] != 4 || s.Connects != 0 || s.Sent != 4 || s.FailedLatency.Min() < 49*time.Millisecond {
			t.Errorf("outcomes %v from %v on, %d sent on %d connections; want 4 timeouts after 50ms, sent on none", s.Outcomes, s.FailedLatency.Min(), s.Sent, s.Connects)
		}
		for _, x := range s.samples {
			if x.Detail != "dial tcp "+address+": i/o timeout" {
				t.Errorf("detail %q", x.Detail)
			}
		}
	})
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	var server sync.WaitGroup
	defer server.Wait()
	defer l.Close()
	server.Go(func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			in := make([]byte, 1000)
			for {
				if _, err := c.Read(in); err != nil || !say(c, fine) {
					return
				}
			}
		}
	})
	s := newSums()
	spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Users: ptr(1), Think: time.Millisecond}
	if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: Fast, Start: s.start, Until: 10 * time.Millisecond, Resolve: l.Addr().String})); err != nil {
		t.Fatal(err)
	}
	if s.OK != s.DueCount || s.OK == 0 {
		t.Errorf("outcomes %v", s.Outcomes)
	}
}

// A connection to a port that nobody listens on may find itself at the other end;
// it is not taken for the service.
func TestConnectedToItself(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, at); err != nil {
		t.Fatal(err)
	}
	resolved := 0
	spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Users: ptr(1)}
	c := Config{Spec: spec, Start: time.Now(), Until: time.Second, Resolve: func() string {
		resolved++
		return "" // gone
	}}
	s := compile(spec, 1, func(_, format string, args ...any) { t.Errorf(format, args...) })
	shards, err := newShards(c, s, newCollector(c, s))
	if err != nil {
		t.Fatal(err)
	}
	defer closeShards(shards)
	sh := shards[0]
	conn := sh.newConn()
	conn.fd, conn.state, conn.peer = fd, connecting, at
	j, _ := sh.demand.take(0)
	conn.job, conn.deadline = j, time.Second
	sh.inFlight[0].insert(conn)
	conn.connected()
	if resolved != 1 || conn.state != shut || conn.fate.outcome != refused {
		t.Errorf("asked %d times where the service is, then %v; want once, refused", resolved, conn.fate.outcome)
	}
}

// A poller waits until it is told, unless it is rung, with the kernel's epoll_pwait2
// and without.
func TestPoller(t *testing.T) {
	for _, coarse := range []bool{false, true} {
		p, err := newPoller()
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		p.coarse = coarse
		begin := time.Now()
		for _, d := range []time.Duration{-1, 0, 100 * time.Microsecond, 20 * time.Millisecond} {
			now := time.Since(begin)
			for at := now; at <= now+d; at = time.Since(begin) { // a signal may end a wait
				if n := p.wait(at, now+d); n != 0 {
					t.Errorf("coarse %t: %+v happened", coarse, p.events[0])
				}
				if d <= 0 {
					break
				}
			}
		}
		for _, until := range []time.Duration{never, time.Hour} {
			var ringing sync.WaitGroup
			ringing.Go(p.ring)
			n := 0
			for n == 0 {
				n = p.wait(time.Since(begin), until)
			}
			if n != 1 || p.events[0].Fd != bellIndex {
				t.Errorf("coarse %t: %d events, %+v, want the bell", coarse, n, p.events[0])
			}
			p.hear()
			ringing.Wait()
		}
		if n := p.wait(1, 0); n != 0 {
			t.Errorf("coarse %t: %d events after all were heard", coarse, n)
		}
		if !coarse && p.coarse {
			t.Log("this kernel has no epoll_pwait2")
		}
	}
}

// The heads of answers are remembered, and mean the same as when they were read
// for the first time, however they come in pieces.
func TestRememberedHeads(t *testing.T) {
	answers := []string{
		fine,
		"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + strings.Repeat("x", 20),
		"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\n\r\n" + fine,
		"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
		"HTTP/1.1 500 No\nContent-Length: 1\n\nx",
	}
	for _, head := range []bool{false, true} {
		s := new(shard)
		var a, b answer
		for round := range 3 {
			for i, text := range answers {
				if head {
					text, _, _ = strings.Cut(text, "\r\n\r\n")
					text += "\r\n\r\n"
				}
				// First it comes whole, then without its last byte, then in halves.
				pieces := []string{text}
				switch round {
				case 1:
					pieces = []string{text[:len(text)-1], text[len(text)-1:]}
				case 2:
					pieces = []string{text[:len(text)/2], text[len(text)/2:]}
				}
				a.reset(head)
				b.reset(head)
				for _, p := range pieces {
					n, err := s.feed(&a, []byte(p))
					m, plain := b.feed([]byte(p))
					if n != m || (err == nil) != (plain == nil) {
						t.Errorf("answer %d, round %d: %d bytes and %v; without memory %d and %v", i, round, n, err, m, plain)
					}
				}
				if a.done() != b.done() || a.status != b.status || a.close != b.close || a.bytes != b.bytes || a.left != b.left {
					t.Errorf("answer %d, round %d: %+v; without memory %+v", i, round, a, b)
				}
			}
		}
		if s.memos[0].text == nil {
			t.Error("nothing was remembered")
		}
	}
}
