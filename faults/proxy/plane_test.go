package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onPlane is how many connections of the proxy the fast plane serves.
func onPlane(p *Proxy) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// linked dials a connection that the fast plane serves, which has been used.
func linked(t *testing.T, p *Proxy) caller {
	t.Helper()
	before := onPlane(p)
	c := dial(t, p.Addr())
	c.send("?")
	if b, err := c.ReadByte(); b != '?' {
		t.Fatalf("no echo: %q, %v", b, err)
	}
	if n := onPlane(p); n != before+1 {
		t.Fatalf("%d connections on the fast plane, want %d", n, before+1)
	}
	return c
}

// await waits until something is so.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// answers is how many calls were answered, in whatever way.
func answers(s Stats) (n int) {
	for _, k := range s.Answers {
		n += k
	}
	return n
}

// TestMovesLoseNothing: on connections that began on the fast plane, bytes go both
// ways at once, to readers that are often slow; at any moment the first rule comes,
// and goes again. Both sums are as sent.
func TestMovesLoseNothing(t *testing.T) {
	const rounds = 8
	size := *exactBytes / rounds
	type sums struct{ sent, got []byte }
	upstream := make(chan sums, 1)
	// talk sends size bytes and reads to the end, at a pace that changes.
	talk := func(c *net.TCPConn, seed uint64) (s sums, n int64, err error) {
		var both sync.WaitGroup
		both.Go(func() {
			h := sha256.New()
			content := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), size), h)
			io.CopyBuffer(struct{ io.Writer }{c}, content, make([]byte, 512<<10))
			c.CloseWrite()
			s.sent = h.Sum(nil)
		})
		h, draw := sha256.New(), rand.New(rand.NewPCG(seed, 1))
		for err == nil {
			var m int64
			m, err = io.CopyN(h, c, int64(1+draw.IntN(1<<20)))
			n += m
			if draw.IntN(3) == 0 {
				<-time.After(time.Duration(draw.IntN(3)) * time.Millisecond)
			}
		}
		both.Wait()
		s.got = h.Sum(nil)
		return s, n, err
	}
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		s, _, _ := talk(c.(*net.TCPConn), 200)
		upstream <- s
	}))
	draw := rand.New(rand.NewPCG(5, 5))
	moved := 0
	for round := range rounds {
		c := dial(t, p.Addr())
		c.SetDeadline(time.Now().Add(time.Duration(size/(1<<20))*time.Second + 3*patience))
		var rules sync.WaitGroup
		rules.Go(func() {
			// Often while bytes wait in a pipe, and sometimes before the first one.
			await(t, "bytes pass", func() bool { return p.stats.bytesDown.Load()+p.stats.bytesUp.Load() >= draw.Int64N(size) })
			if onPlane(p) == 1 {
				moved++
			}
			for range 3 {
				r := Rule{Name: "x", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1 << 30}}
				if draw.IntN(2) == 0 {
					r = Rule{Name: "x", Percent: 1, Latency: &Latency{Delay: time.Duration(draw.IntN(500)) * time.Microsecond}}
				}
				remove := add(t, p, r)
				if n := onPlane(p); n > 0 {
					t.Errorf("%d connections are where no rule sees them", n)
				}
				<-time.After(time.Duration(draw.IntN(1000)) * time.Microsecond)
				remove()
			}
		})
		here, n, err := talk(c.TCPConn, uint64(round))
		rules.Wait()
		c.Close()
		there := <-upstream
		if n != size || err != io.EOF || !bytes.Equal(here.sent, there.got) || !bytes.Equal(there.sent, here.got) {
			t.Fatalf("round %d: %d bytes of %d came back, %v; up whole: %v, down whole: %v", round, n, size, err,
				bytes.Equal(here.sent, there.got), bytes.Equal(there.sent, here.got))
		}
		s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
		if s.BytesUp != size || s.BytesDown != size || s.Calls != 1 || s.Upstream != 1 || s.Answers["closed"] != 1 || answers(s) != 1 {
			t.Errorf("round %d: %+v, want %d bytes each way", round, s, size)
		}
	}
	if moved < rounds/2 {
		t.Errorf("%d of %d connections had begun on the fast plane", moved, rounds)
	}
}

// TestLinkOfAReaderThatWaits: a caller that does not read stops its sender, costs
// a bounded amount of memory, and can still be heard; what it reads at last is whole.
func TestLinkOfAReaderThatWaits(t *testing.T) {
	var written atomic.Int64
	heard := make(chan byte, 1)
	const size = 64 << 20
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		go func() {
			b := make([]byte, 1)
			io.ReadFull(c, b)
			heard <- b[0]
		}()
		content := rand.NewChaCha8([32]byte{9})
		for buf := make([]byte, 64<<10); written.Load() < size; {
			content.Read(buf)
			n, err := c.Write(buf)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	c := dial(t, p.Addr())
	c.SetReadBuffer(64 << 10) // and no more, however fast it reads
	// held is what waits in the proxy; -1: the connection is not on the fast plane.
	held := func() int {
		p.mu.Lock()
		links := p.links
		p.mu.Unlock()
		if len(links) != 1 {
			return -1
		}
		k := links[0]
		k.mu.Lock()
		defer k.mu.Unlock()
		n := 0
		for _, lane := range k.lanes {
			if lane.pipe != nil {
				n += lane.pipe.held
			}
			n += lane.w - lane.r
		}
		return n
	}
	// The sender is stopped when nothing has moved for a while, and something waits.
	waits, until := 0, time.Now().Add(10*time.Second)
	for last := int64(-1); waits <= 0 || last != written.Load(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d bytes wait in the proxy, of %d that were written", waits, written.Load())
		}
		last, waits = written.Load(), held()
	}
	if waits > spliceMost {
		t.Errorf("%d bytes wait in the proxy, want at most %d", waits, spliceMost)
	}
	if w := written.Load(); w == size {
		t.Errorf("all of %d bytes were taken from the upstream", w)
	}
	c.send("!")
	select {
	case <-heard:
	case <-time.After(patience):
		t.Fatal("a caller that does not read is not heard")
	}
	got, want := sha256.New(), sha256.New()
	if n, err := io.Copy(got, c.TCPConn); n != size || err != nil {
		t.Errorf("%d bytes, %v; want %d", n, err, size)
	}
	io.CopyN(want, rand.NewChaCha8([32]byte{9}), size)
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("they are not those that were sent")
	}
}

// TestLinkHalfClose: the end of one direction passes, and leaves the other open,
// before a move and after it.
func TestLinkHalfClose(t *testing.T) {
	for _, move := range []bool{false, true} {
		moved := func(p *Proxy) {
			if move {
				add(t, p, Rule{Name: "none", Latency: &Latency{Delay: time.Hour}})
			}
			if n := onPlane(p); (n == 0) != move {
				t.Errorf("%d connections on the fast plane", n)
			}
		}
		// The caller first.
		go1 := make(chan struct{})
		p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
			said, _ := io.ReadAll(c)
			<-go1
			fmt.Fprintf(c, "you said %q", said)
		}))
		c := dial(t, p.Addr())
		c.send("all")
		c.CloseWrite()
		await(t, "FIN passed on", func() bool { return laneDone(p, up) })
		moved(p)
		close(go1)
		if got, err := io.ReadAll(c.Reader); string(got) != `you said "all"` || err != nil {
			t.Errorf("moved %v: got %q, %v", move, got, err)
		}
		collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 && s.Open == 0 && answers(s) == 1 })

		// The upstream first.
		heard := make(chan string, 1)
		p = startProxy(t, TCP, startTCP(t, func(c net.Conn) {
			io.WriteString(c, "bye")
			c.(*net.TCPConn).CloseWrite()
			rest, _ := io.ReadAll(c)
			heard <- string(rest)
		}))
		c = dial(t, p.Addr())
		if got, err := io.ReadAll(c.Reader); string(got) != "bye" || err != nil {
			t.Errorf("moved %v: got %q, %v", move, got, err)
		}
		moved(p)
		c.send("and ")
		c.send("more")
		c.CloseWrite()
		if got := <-heard; got != "and more" {
			t.Errorf("moved %v: the upstream heard %q after its own end", move, got)
		}
		collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 && s.Open == 0 && answers(s) == 1 })
	}
}

// laneDone tells whether that direction of the proxy's first link has ended.
func laneDone(p *Proxy, d int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.links) == 0 {
		return false
	}
	k := p.links[0]
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lanes[d].done
}

// TestLinkResetBehindBytes: RST passes as RST, and the bytes in front of it pass too.
func TestLinkResetBehindBytes(t *testing.T) {
	go1 := make(chan struct{})
	heard := make(chan error, 1)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		b := make([]byte, 4)
		io.ReadFull(c, b)
		if string(b) == "mine" {
			io.WriteString(c, "last words")
			c.(*net.TCPConn).SetLinger(0)
			return
		}
		<-go1
		rest, err := io.ReadAll(c)
		if string(rest) != "words" {
			err = fmt.Errorf("got %q, %v", rest, err)
		}
		heard <- err
	}))
	for range 50 {
		c := dial(t, p.Addr())
		c.send("mine")
		got, err := io.ReadAll(c.Reader)
		if string(got) != "last words" || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("got %q, %v; want the last words, then RST", got, err)
		}
	}
	collect(t, p, func(s Stats) bool { return s.Answers["reset"] == 50 && s.Open == 0 && answers(s) == 50 })

	c := dial(t, p.Addr())
	c.send("yourwords")
	collect(t, p, func(s Stats) bool { return s.BytesUp == 9 })
	c.SetLinger(0)
	c.Close()
	collect(t, p, func(s Stats) bool { return s.Answers["canceled"] == 1 && s.Open == 0 })
	close(go1)
	if err := <-heard; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream saw %v, want what was sent, then the caller's RST", err)
	}
}

// fullListener listens, and answers to no more connections: two fill its backlog.
func fullListener(t *testing.T) (l *net.TCPListener) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return nil }}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = ln.(*net.TCPListener)
	t.Cleanup(func() { l.Close() })
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }) // a shorter backlog
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 20*time.Millisecond)
		if err != nil {
			return l
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this kernel answers though the backlog is full")
	return nil
}

// TestLinkDialling: an upstream that refuses, or does not answer in time, is
// "refused" to the caller; so it is where a rule came meanwhile, which has its say.
func TestLinkDialling(t *testing.T) {
	start := func(upstream string, timeout time.Duration, closeUnreachable bool) *Proxy {
		p, err := Start(t.Context(), Config{Name: "x", Upstream: upstream, Protocol: TCP, DialTimeout: timeout, CloseUnreachable: closeUnreachable})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Stop() })
		return p
	}
	counted := func(p *Proxy, class string) {
		t.Helper()
		s := collect(t, p, func(s Stats) bool { return s.Answers[class] == 1 && s.Open == 0 })
		if s.Calls != 1 || s.Upstream != 0 || answers(s) != 1 || s.BytesUp != 0 {
			t.Errorf("%+v, want one call, %s", s, class)
		}
	}
	nobody := "127.0.0.1:1"
	p := start(nobody, 0, false)
	wantRefused(t, p.Addr())
	counted(p, wasRefused)
	p = start(nobody, 0, true)
	dial(t, p.Addr()).wantEnd()
	counted(p, wasRefused)

	full := fullListener(t)
	const timeout = 100 * time.Millisecond
	p = start(full.Addr().String(), timeout, false)
	begun := time.Now()
	wantRefused(t, p.Addr())
	counted(p, wasRefused)
	if d := time.Since(begun); d < timeout {
		t.Errorf("given up after %v, want %v", d, timeout)
	}

	p = start(full.Addr().String(), timeout, true)
	begun = time.Now()
	c := dial(t, p.Addr())
	await(t, "dialling", func() bool { return onPlane(p) == 1 })
	add(t, p, Rule{Name: "none", Latency: &Latency{}})
	if onPlane(p) != 0 {
		t.Error("it was not moved")
	}
	c.wantEnd()
	counted(p, wasRefused)
	if d := time.Since(begun); d < timeout {
		t.Errorf("given up after %v, want %v", d, timeout)
	}

	p = start(full.Addr().String(), time.Minute, false)
	c = dial(t, p.Addr())
	await(t, "dialling", func() bool { return onPlane(p) == 1 })
	add(t, p, Rule{Name: "cut", Percent: 1, Reset: &Cut{}})
	c.wantReset()
	counted(p, wasReset)

	p = start(full.Addr().String(), time.Minute, false)
	c = dial(t, p.Addr())
	await(t, "dialling", func() bool { return onPlane(p) == 1 })
	p.Stop()
	c.wantReset()
	counted(p, wasReset)

	// It answers at last, both where the connection began and where it went. The
	// kernel asks again a second later.
	staying, going := start(full.Addr().String(), time.Minute, false), start(full.Addr().String(), time.Minute, false)
	a, b := dial(t, staying.Addr()), dial(t, going.Addr())
	for _, p := range []*Proxy{staying, going} {
		await(t, "dialling", func() bool { return onPlane(p) == 1 })
	}
	add(t, going, Rule{Name: "none", Latency: &Latency{}})
	go func() {
		for {
			c, err := full.Accept()
			if err != nil {
				return
			}
			go func() { echo(c); c.Close() }()
		}
	}()
	for _, c := range []caller{a, b} {
		c.send("late")
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); string(got) != "late" {
			t.Errorf("got %q, %v", got, err)
		}
		c.CloseWrite()
		c.wantEnd()
	}
	for _, p := range []*Proxy{staying, going} {
		s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
		if s.Calls != 1 || s.Upstream != 1 || s.Answers["closed"] != 1 || s.BytesUp != 4 || s.BytesDown != 4 {
			t.Errorf("%+v", s)
		}
	}
}

// openFiles counts the process's file descriptors but those of spare pipes.
func openFiles(t *testing.T) int {
	t.Helper()
	sparePipes.mu.Lock() // first: none becomes spare between the two counts
	defer sparePipes.mu.Unlock()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all) - 2*len(sparePipes.idle)
}

// TestPlanesAddUp: connections come, end in every way that callers know, and are
// moved or born on the other plane, all at once; each is counted once, and none
// leaves a file descriptor behind.
func TestPlanesAddUp(t *testing.T) {
	before := openFiles(t)
	t.Run("storm", func(t *testing.T) {
		p := startProxy(t, TCP, startTCP(t, echo))
		over := make(chan struct{})
		var callers, rules sync.WaitGroup
		fast := 0
		rules.Go(func() {
			draw := rand.New(rand.NewPCG(4, 4))
			pause := func() { <-time.After(time.Duration(draw.IntN(4000)) * time.Microsecond) }
			kinds := []Rule{
				{Name: "slow", Percent: 0.5, Latency: &Latency{Delay: time.Millisecond}},
				{Name: "cut", Percent: 0.1, Reset: &Cut{}},
				{Name: "late cut", Percent: 0.3, Reset: &Cut{After: 100}},
				{Name: "hole", Percent: 0.1, Blackhole: &Cut{}},
				{Name: "closed", Percent: 0.2, Refuse: &Refuse{}},
				{Name: "end", Percent: 0.2, Limit: &Limit{Bytes: 50}},
				{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1 << 20}},
				{Name: "open", Percent: 0.5, Connect: &Connect{Delay: time.Millisecond}},
			}
			for {
				select {
				case <-over:
					return
				default:
				}
				remove := add(t, p, kinds[draw.IntN(len(kinds))])
				pause()
				remove()
				pause() // when links begin
				fast += onPlane(p)
			}
		})
		for i := range 25 {
			callers.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 3))
				for range 20 {
					callFor(t, p, rng)
				}
			})
		}
		callers.Wait()
		close(over)
		rules.Wait()
		s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
		if s.Calls != 500 || answers(s) != s.Calls {
			t.Errorf("%d calls, %d answers: %v; want 500", s.Calls, answers(s), s.Answers)
		}
		if fast == 0 {
			t.Error("no connection began on the fast plane")
		}
		if n := onPlane(p); n > 0 {
			t.Errorf("%d links are still held", n)
		}
	})
	await(t, "every file descriptor closed", func() bool { return openFiles(t) <= before })
}

// TestStopUnderLoad: everything ends, and is counted; connections that wait to be
// accepted meanwhile too.
func TestStopUnderLoad(t *testing.T) {
	upstream := startTCP(t, echo)
	for range 5 {
		p, err := Start(context.Background(), Config{Name: "x", Upstream: upstream, Protocol: TCP})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		begun := make(chan struct{}, 8)
		for range 8 {
			all.Go(func() {
				buf := make([]byte, 64)
				for first := true; ; {
					c, err := net.Dial("tcp", p.Addr())
					if err != nil {
						return
					}
					c.SetDeadline(time.Now().Add(patience))
					for range 20 {
						if _, err = c.Write(buf); err == nil {
							_, err = io.ReadFull(c, buf)
						}
						if err != nil {
							break
						}
						if first {
							first = false
							begun <- struct{}{}
						}
					}
					c.Close()
					var timeout net.Error
					if errors.As(err, &timeout) && timeout.Timeout() {
						t.Error("a connection was forgotten")
					}
				}
			})
		}
		for range 8 {
			<-begun
		}
		p.Stop()
		all.Wait()
		s := p.Collect()
		if s.Open != 0 || s.Calls != answers(s) || s.Calls == 0 {
			t.Errorf("%d open, %d calls, answers %v", s.Open, s.Calls, s.Answers)
		}
		if n := onPlane(p); n > 0 {
			t.Errorf("%d links are still held", n)
		}
	}
}

// TestDoorSurvivesRunningOutOfFiles: callers that cannot be accepted wait until
// they can, and nothing spins meanwhile.
func TestDoorSurvivesRunningOutOfFiles(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	isOpen := func() bool {
		p.door.mu.Lock()
		defer p.door.mu.Unlock()
		return p.door.open
	}
	await(t, "the door open", isOpen)
	back := func() {}
	d := net.Dialer{Control: func(_, _ string, _ syscall.RawConn) error { // the caller has its file descriptor
		back = outOfFiles(t)
		return nil
	}}
	nc, err := d.Dial("tcp", p.Addr())
	shut := false
	for limit := time.Now().Add(patience); !shut && time.Now().Before(limit); {
		shut = !isOpen()
	}
	back()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if !shut {
		t.Error("the door stayed open though nobody could be accepted")
	}
	nc.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(nc, "x")
	if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
		t.Errorf("nobody was accepted afterwards: %v", err)
	}
}

// TestPlaneLeavesOddOnesAlone: names to look up, and urgent data, are not for the
// fast plane.
func TestPlaneLeavesOddOnesAlone(t *testing.T) {
	address := startTCP(t, echo)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, TCP, net.JoinHostPort("localhost", port))
	c := dial(t, p.Addr())
	c.send("x")
	if b, err := c.ReadByte(); b != 'x' {
		t.Fatal(err)
	}
	if n := onPlane(p); n > 0 {
		t.Errorf("%d links to a name", n)
	}

	p.SetUpstream(address)
	c = linked(t, p)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), []byte("ab!"), unix.MSG_OOB, nil) // its last byte is the urgent one
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	c.send("cd")
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); string(got) != "abcd" {
		t.Errorf("got %q, %v; want what is not urgent", got, err)
	}
	if n := onPlane(p); n > 0 {
		t.Errorf("%d links, one with urgent data", n)
	}
}

// TestBellIsAlwaysHeard: however often it has been rung.
func TestBellIsAlwaysHeard(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	for _, l := range p.door.loops {
		for range 1000 {
			l.ring()
		}
	}
	linked(t, p)
	p.Stop() // which rings, and waits
}

// TestLinkKeepAlive: the kernel looks after links as it does after conns.
func TestLinkKeepAlive(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	linked(t, p)
	p.mu.Lock()
	k := p.links[0]
	p.mu.Unlock()
	k.keepAlive()
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, s := range k.sides {
		on, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, err2 := unix.GetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		delay, err3 := unix.GetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
		if err := errors.Join(err, err2, err3); err != nil || on != 1 || idle != 15 || delay != 1 {
			t.Errorf("side %d: keep-alive %d after %d s, no delay %d, %v", i, on, idle, delay, err)
		}
	}
}

// TestMovedBytesCount: a rule that counts bytes counts those that passed before it
// came, on the fast plane.
func TestMovedBytesCount(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	c := linked(t, p) // one byte each way
	add(t, p, Rule{Name: "end", Percent: 1, Limit: &Limit{Bytes: 3, Direction: Answer}})
	c.send("abc")
	if got, err := io.ReadAll(c.Reader); string(got) != "ab" || err != nil {
		t.Errorf("got %q, %v; want the two bytes that were left", got, err)
	}
}
