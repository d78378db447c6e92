package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// udpEcho is an upstream that sends every datagram back; its port is free when the
// test is over.
func udpEcho(t testing.TB) string {
	t.Helper()
	return startUDPService(t, func(b []byte) []byte { return b })
}

// startUDPService answers each datagram with what handle makes of it; nil: with nothing.
func startUDPService(t testing.TB, handle func([]byte) []byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.UDPConn).SetReadBuffer(4 << 20)
	var all sync.WaitGroup
	all.Go(func() {
		for b := make([]byte, 1<<16); ; {
			n, from, err := c.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer := handle(b[:n]); err == nil && answer != nil {
				c.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() { c.Close(); all.Wait() })
	return c.LocalAddr().String()
}

func dialPort(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.UDPConn)
}

// exchange sends a datagram and wants these as answers.
func exchange(t testing.TB, c *net.UDPConn, ask string, want ...string) {
	t.Helper()
	if _, err := c.Write([]byte(ask)); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		b := make([]byte, 1<<16)
		if n, err := c.Read(b); err != nil || string(b[:n]) != w {
			t.Fatalf("asked %q: got %q, %v; want %q", ask, b[:n], err, w)
		}
	}
}

// TestUDPDatagramsAreTheSame: whole, of every size, the empty one too, both ways.
func TestUDPDatagramsAreTheSame(t *testing.T) {
	p := startProxy(t, UDP, udpEcho(t))
	c := dialPort(t, p.Addr())
	sizes := []int{0, 1, 2, 511, 512, 1472, 1473, 4096, 9000, 65506, 65507}
	total := 0
	for i, n := range sizes {
		b := make([]byte, n)
		rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		exchange(t, c, string(b), string(b))
		total += n
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["answered"] == len(sizes) })
	if s.Calls != len(sizes) || s.Upstream != len(sizes) || s.BytesUp != int64(total) || s.BytesDown != int64(total) || s.Open != 1 || len(s.Answers) != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestUDPSessions(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	upstream := startUDPService(t, func(b []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		seen[string(b)] = true
		return append(b, '!')
	})
	p := startProxy(t, UDP, upstream)
	for i := range 20 { // each caller is answered, and nobody else
		c := dialPort(t, p.Addr())
		exchange(t, c, fmt.Sprint(i), fmt.Sprint(i, "!"))
		exchange(t, c, "again", "again!")
	}
	if s := p.Collect(); s.Open != 20 || s.Calls != 40 || s.Datagrams.Up != 40 || s.Datagrams.Down != 40 || len(s.Datagrams.Lost) != 0 {
		t.Errorf("%+v, %+v", s, s.Datagrams)
	}
}

// TestUDPAnswersComeFromWhereTheyWereAsked: a port at every address answers from the
// one that was written to, or a connected caller would not take it.
func TestUDPAnswersComeFromWhereTheyWereAsked(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", "[::]:0"} {
		p, err := Start(t.Context(), Config{Name: "a -> b", Listen: listen, Upstream: udpEcho(t), Protocol: UDP})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Stop()
		_, port, _ := net.SplitHostPort(p.Addr())
		for _, at := range []string{"127.0.0.1", "127.0.0.2", "127.3.2.1", "::1"} {
			c, err := net.Dial("udp", net.JoinHostPort(at, port))
			if err != nil {
				if at == "::1" {
					continue // no IPv6 here
				}
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(patience))
			exchange(t, c.(*net.UDPConn), "from "+at, "from "+at)
			c.Close()
		}
	}
}

// TestUDPUpstreamIsGone: a refusal is counted, sessions go on, and follow the upstream.
func TestUDPUpstreamIsGone(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	p := startProxy(t, UDP, gone.LocalAddr().String())
	c := dialPort(t, p.Addr())
	c.Write([]byte("x"))
	collect(t, p, func(s Stats) bool { return s.Answers["refused"] == 1 })
	p.SetUpstream(udpEcho(t))
	exchange(t, c, "back", "back")
	p.SetUpstream("")
	c.Write([]byte("y"))
	s := collect(t, p, func(s Stats) bool { return s.Answers["refused"] == 1 && s.Open == 0 })
	if s.Answers["answered"] != 1 {
		t.Errorf("answers %v", s.Answers)
	}
	p.SetUpstream("no.such.name.invalid:1")
	c.Write([]byte("z"))
	collect(t, p, func(s Stats) bool { return s.Answers["refused"] == 1 && s.Open == 0 })
}

// TestUDPRefuse: to callers the port is as closed as any, nobody else can have it, and
// it is there again.
func TestUDPRefuse(t *testing.T) {
	p := startProxy(t, UDP, udpEcho(t))
	c := dialPort(t, p.Addr())
	exchange(t, c, "before", "before")
	for range 3 {
		remove := add(t, p, Rule{Name: "closed", Percent: 1, Refuse: &Refuse{}})
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("got %v, want ICMP's connection refused", err)
		}
		if other, err := net.ListenPacket("udp", p.Addr()); err == nil {
			other.Close()
			t.Fatal("somebody else could take the port meanwhile")
		}
		if r := p.Collect().Rules["closed"]; r.Eligible != 1 || r.Fired != 1 {
			t.Errorf("the probe: %+v", r)
		}
		remove()
		exchange(t, c, "after", "after")
		exchange(t, dialPort(t, p.Addr()), "after", "after")
	}
}

func TestUDPRefuseFromTheStart(t *testing.T) {
	p, err := Start(t.Context(), Config{Name: "a -> b", Listen: "0.0.0.0:0", Upstream: udpEcho(t), Protocol: UDP,
		Rules: []Rule{{Name: "closed", Percent: 1, Refuse: &Refuse{}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	_, port, _ := net.SplitHostPort(p.Addr())
	c := dialPort(t, "127.0.0.1:"+port)
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v, want ICMP's connection refused", err)
	}
	if err := p.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "after", "after")
}

// TestUDPPortIsTaken: an error, as for TCP; and a stopped proxy gives it back.
func TestUDPPortIsTaken(t *testing.T) {
	p := startProxy(t, UDP, udpEcho(t))
	c := Config{Name: "a -> b", Listen: p.Addr(), Protocol: UDP}
	if _, err := Start(t.Context(), c); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want: address in use", err)
	}
	p.Stop()
	q, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	q.Stop()
}

// TestUDPKinds: what makes no sense for datagrams is refused, with the reason.
func TestUDPKinds(t *testing.T) {
	p := startProxy(t, UDP, "")
	for want, r := range map[string]Rule{
		"a reset ends a connection":        {Reset: &Cut{}},
		"silence ends a connection":        {Silence: &Silence{}},
		"nothing to slice":                 {Slice: &Slice{Average: 1}},
		"no end that could come late":      {SlowClose: &SlowClose{}},
		"without a handshake":              {Connect: &Connect{}},
		"use a limit":                      {Blackhole: &Cut{After: 1}},
		"closes the port, to everybody":    {Refuse: &Refuse{}, When: When{First: 1}},
		"needs an http edge":               {Error: &Error{Status: 500}},
		"abort needs an http edge":         {Abort: &Abort{}},
		"changes headers":                  {Reshape: &Reshape{Request: Edit{Remove: []string{"A"}}}},
		"match needs an http edge":         {Loss: &Loss{Ratio: 1}, Match: Match{Path: "/"}},
		"latency of the body needs":        {Latency: &Latency{Delay: 1, Where: Body}},
		"wait is -1s, want from 0":         {Reorder: &Reorder{Wait: -time.Second}},
		`direction is "up"`:                {Duplicate: &Duplicate{Direction: "up"}},
		"queue is -1 bytes, want from 0":   {Bandwidth: &Bandwidth{BytesPerS: 1, Queue: -1}},
		"closes the port, to everybody: l": {Refuse: &Refuse{}, When: When{Ramp: 1}},
	} {
		r.Name, r.Percent = "r", 1
		if _, err := p.Add(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", r.kind(), err, want)
		}
	}
	for _, protocol := range []Protocol{TCP, HTTP} {
		p := startProxy(t, protocol, "")
		for _, r := range []Rule{{Duplicate: &Duplicate{}}, {Reorder: &Reorder{}}, {Latency: &Latency{KeepOrder: true}}, {Bandwidth: &Bandwidth{Queue: 1}}} {
			r.Name, r.Percent = "r", 1
			if _, err := p.Add(r); err == nil || !strings.Contains(err.Error(), "needs a udp edge") && !strings.Contains(err.Error(), "need a udp edge") {
				t.Errorf("%s on %s: %v", r.kind(), protocol, err)
			}
		}
	}
}

func TestUDPStop(t *testing.T) {
	p := startProxy(t, UDP, udpEcho(t))
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Hour}})
	c := dialPort(t, p.Addr())
	c.Write([]byte("x"))
	collect(t, p, func(s Stats) bool { return s.Rules["slow"].Fired == 1 })
	p.Stop()
	p.Stop()
	if s := p.Collect(); s.Open != 0 || s.Answers["unanswered"] != 1 {
		t.Errorf("stats %+v", s)
	}
}

// memory is a port and its upstream in a synctest bubble: what is sent through is in
// sent, with its time.
type memory struct {
	*Proxy
	t        *testing.T
	in       chan memoryDatagram
	closed   chan struct{}
	refusing bool

	mu   sync.Mutex
	sent []memoryDatagram // that went on, to either side
	legs int
}

type memoryDatagram struct {
	b    []byte
	from netip.AddrPort
	down bool
	at   time.Duration
}

// inMemory starts a proxy whose upstream answers with answer (nil: never).
func inMemory(t *testing.T, c Config, answer func([]byte) []byte) *memory {
	m := &memory{t: t, in: make(chan memoryDatagram), closed: make(chan struct{})}
	c.Name, c.Protocol, c.Upstream = "a -> b", UDP, "b:1"
	m.Proxy = serveUDP(context.Background(), c, m, func(context.Context, string) (leg, error) {
		m.mu.Lock()
		m.legs++
		m.mu.Unlock()
		return &memoryLeg{m: m, answer: answer, in: make(chan []byte, 1<<16), closed: make(chan struct{})}, nil
	})
	t.Cleanup(func() { m.Stop() })
	return m
}

// send is a datagram of the n-th caller. When it returns, all that happens at once has happened.
func (m *memory) send(n int, b []byte) {
	m.in <- memoryDatagram{b: slices.Clone(b), from: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 1000)}
	synctest.Wait()
}

// went is what has passed since the last call.
func (m *memory) went(down bool) (all []memoryDatagram) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.sent {
		if d.down == down {
			all = append(all, d)
		}
	}
	m.sent = slices.DeleteFunc(m.sent, func(d memoryDatagram) bool { return d.down == down })
	return all
}

func (m *memory) record(b []byte, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent = append(m.sent, memoryDatagram{b: slices.Clone(b), down: down, at: m.now()})
}

func (m *memory) read() ([]byte, peer, error) {
	select {
	case d := <-m.in:
		return d.b, peer{from: d.from}, nil
	case <-m.closed:
		return nil, peer{}, net.ErrClosed
	}
}

func (m *memory) write(b []byte, _ *session) error { m.record(b, true); return nil }
func (m *memory) refuse(on bool) error             { m.refusing = on; return nil }
func (m *memory) missed() uint64                   { return 0 }
func (m *memory) addr() net.Addr                   { return &net.UDPAddr{} }
func (m *memory) Close() error                     { close(m.closed); return nil }

func (m *memory) probe() error {
	if m.refusing {
		return syscall.ECONNREFUSED
	}
	return nil
}

type memoryLeg struct {
	m      *memory
	answer func([]byte) []byte
	in     chan []byte
	closed chan struct{}
}

func (l *memoryLeg) read(handle func([]byte)) error {
	select {
	case b := <-l.in:
		handle(b)
		return nil
	case <-l.closed:
		return net.ErrClosed
	}
}

func (l *memoryLeg) write(b []byte) error {
	l.m.record(b, false)
	if l.answer != nil {
		if a := l.answer(b); a != nil {
			l.in <- slices.Clone(a)
		}
	}
	return nil
}

func (l *memoryLeg) Close() error { close(l.closed); return nil }

func number(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

func numberOf(b []byte) int { return int(binary.BigEndian.Uint32(b)) }

// wantShare fails when hits of n is further from p than chance brings about once in a
// million runs (Hoeffding's inequality, for both tails: 2·exp(−2nδ²)).
func wantShare(t *testing.T, what string, hits, n int, p float64) {
	t.Helper()
	if delta := math.Sqrt(math.Log(2e6) / 2 / float64(n)); math.Abs(float64(hits)/float64(n)-p) > delta {
		t.Errorf("%s: %d of %d, want about %g", what, hits, n, p)
	}
}

const many = 20_000

// TestUDPShares: each kind hits the share that was asked for, and what is not hit is as it was.
func TestUDPShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{Seed: 7}, func(b []byte) []byte { return b })
		for i := range many {
			m.send(0, number(i))
		}
		if up, down := m.went(false), m.went(true); len(up) != many || len(down) != many {
			t.Fatalf("without a rule, %d and %d of %d passed", len(up), len(down), many)
		}
		m.Collect()
		for _, r := range []Rule{
			{Name: "loss", Percent: 1, Loss: &Loss{Ratio: 0.1}},
			{Name: "half of it", Percent: 0.5, Loss: &Loss{Ratio: 0.2, Direction: Answer}},
			{Name: "hole", Percent: 0.3, Blackhole: &Cut{}},
			{Name: "twice", Percent: 0.25, Duplicate: &Duplicate{}},
			{Name: "twice down", Percent: 0.25, Duplicate: &Duplicate{Direction: Answer}},
			{Name: "every", Percent: 1, When: When{Every: 4}, Loss: &Loss{Ratio: 1}},
			{Name: "from elsewhere", Percent: 1, When: When{Source: "10.1.0.0/16"}, Blackhole: &Cut{}},
		} {
			remove := add(t, m.Proxy, r)
			for i := range many {
				m.send(0, number(i))
			}
			remove()
			up, down, s := m.went(false), m.went(true), m.Collect()
			did := s.Rules[r.Name]
			for _, d := range append(up, down...) {
				if len(d.b) != 4 {
					t.Fatalf("%s: a datagram became %x", r.Name, d.b)
				}
			}
			switch r.Name {
			case "loss":
				wantShare(t, "lost on the way up", many-len(up), many, 0.1)
				wantShare(t, "lost on the way down", len(up)-len(down), len(up), 0.1)
				if lost := many - len(down); did.Fired != lost || did.Eligible != many+len(up) || s.Datagrams.Lost["loss"] != lost || did.Bytes != 4*int64(lost) {
					t.Errorf("%s: %+v, %+v; lost %d", r.Name, did, s.Datagrams, lost)
				}
				if s.Answers["answered"] != len(down) || s.Upstream != len(up) {
					t.Errorf("%s: %+v", r.Name, s)
				}
			case "half of it":
				if len(up) != many {
					t.Errorf("%s: %d of %d went up, want all", r.Name, len(up), many)
				}
				wantShare(t, r.Name, many-len(down), many, 0.1)
			case "hole":
				wantShare(t, r.Name, did.Fired, did.Eligible, 0.3)
				wantShare(t, "answers into the hole", len(up)-len(down), len(up), 0.3)
			case "twice":
				wantShare(t, r.Name, len(up)-many, many, 0.25)
				wantShare(t, "answers twice", len(down)-len(up), len(up), 0.25)
				if did.Fired != len(down)-many || s.Upstream != many {
					t.Errorf("%s: %+v, %d up, %d down, %d calls reached the upstream", r.Name, did, len(up), len(down), s.Upstream)
				}
			case "twice down":
				if len(up) != many || did.Fired != len(down)-many {
					t.Errorf("%s: %+v, %d up, %d down", r.Name, did, len(up), len(down))
				}
			case "every":
				if len(up) != many*3/4 || len(down) != len(up)*3/4 {
					t.Errorf("%s: %d up, %d down", r.Name, len(up), len(down))
				}
				for i, d := range up {
					if want := i/3*4 + i%3; numberOf(d.b) != want {
						t.Fatalf("%s: the %dth to pass is %d, want %d", r.Name, i, numberOf(d.b), want)
					}
				}
			case "from elsewhere":
				if len(down) != many || did.Fired != 0 {
					t.Errorf("%s: %+v, %d down", r.Name, did, len(down))
				}
			}
		}
	})
}

// TestUDPCorrupt: that share of the bytes, one bit in each, lengths as they were.
func TestUDPCorrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{Seed: 7}, nil)
		add(t, m.Proxy, Rule{Name: "noise", Percent: 1, Corrupt: &Corrupt{Ratio: 0.02, Direction: Request}})
		const size, n = 1000, 500
		whole := bytes.Repeat([]byte{0x5a}, size)
		for range n {
			m.send(0, whole)
		}
		flipped := 0
		for _, d := range m.went(false) {
			if len(d.b) != size {
				t.Fatalf("%d bytes became %d", size, len(d.b))
			}
			for _, x := range d.b {
				if x ^= 0x5a; x != 0 {
					flipped++
					if x&(x-1) != 0 {
						t.Fatalf("more than one bit of a byte: %08b", x)
					}
				}
			}
		}
		wantShare(t, "corrupted bytes", flipped, n*size, 0.02)
		if r := m.Collect().Rules["noise"]; r.Bytes != int64(flipped) || r.Fired != n {
			t.Errorf("%+v; %d bytes were corrupted", r, flipped)
		}
	})
}

// TestUDPLossInBursts: the share stays as asked, and what follows a loss is lost with
// probability c + (1−c)·p; so bursts are 1/((1−c)(1−p)) long on average.
func TestUDPLossInBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const p, c = 0.1, 0.8
		m := inMemory(t, Config{Seed: 7}, nil)
		add(t, m.Proxy, Rule{Name: "bursts", Percent: 1, Loss: &Loss{Ratio: p, Correlation: c, Direction: Request}})
		const n = 5 * many
		for i := range n {
			m.send(i%3, number(i)) // one chain, whoever calls
		}
		lost := make([]bool, n)
		for i := range lost {
			lost[i] = true
		}
		for _, d := range m.went(false) {
			lost[numberOf(d.b)] = false
		}
		all, bursts := 0, 0
		for i, l := range lost {
			if l {
				all++
				if i == 0 || !lost[i-1] {
					bursts++
				}
			}
		}
		// A chain of this correlation tells as much as (1−c)/(1+c) times as many draws.
		const effective = (1 - c) / (1 + c)
		wantShare(t, "lost", int(float64(all)*effective), int(math.Round(n*effective)), p)
		if mean, want := float64(all)/float64(bursts), 1/((1-c)*(1-p)); math.Abs(mean/want-1) > 0.1 {
			t.Errorf("bursts of %.2f on average, want %.2f", mean, want)
		}
	})
}

// TestUDPDelays: times are those of the law, from when each datagram came; with a
// jitter they overtake one another; with order kept they do not.
func TestUDPDelays(t *testing.T) {
	for _, distribution := range []string{"uniform", "normal", "pareto", "exponential"} {
		synctest.Test(t, func(t *testing.T) {
			latency := &Latency{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond, Distribution: distribution, Direction: "request"}
			if distribution == "exponential" {
				latency.Jitter = 0
			}
			m := inMemory(t, Config{Seed: 7}, nil)
			add(t, m.Proxy, Rule{Name: "slow", Percent: 1, Latency: latency})
			const n = 5000
			came := make([]time.Duration, n)
			for i := range n {
				came[i] = m.now()
				m.send(0, number(i))
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			sent := m.went(false)
			if len(sent) != n {
				t.Fatalf("%d of %d came out", len(sent), n)
			}
			delays := make([]time.Duration, n)
			overtaken, last := 0, -1
			for i, d := range sent {
				x := numberOf(d.b)
				delays[i] = d.at - came[x]
				if x < last {
					overtaken++
				}
				last = max(last, x)
			}
			slices.Sort(delays)
			// Kolmogorov and Smirnov: the largest gap between the shares measured and the
			// law's is above 2.7/√n less than once in a million times.
			law, gap := latency.law(), 0.0
			for i, d := range delays {
				for _, u := range []float64{float64(i) / n, float64(i+1) / n} {
					// u is what was measured; the law's own share at d is between those
					// of its delays just below and above.
					low, high := 0.0, 1.0
					for range 60 {
						if mid := (low + high) / 2; law(mid) < d {
							low = mid
						} else {
							high = mid
						}
					}
					gap = max(gap, math.Abs(low-u))
				}
			}
			if limit := 2.7 / math.Sqrt(n); gap > limit {
				t.Errorf("%s: the delays are %.4f off the law, at most %.4f", distribution, gap, limit)
			}
			if overtaken < n/10 {
				t.Errorf("%s: %d of %d were overtaken, want many", distribution, overtaken, n)
			}
			did := m.Collect().Rules["slow"]
			if did.Delay.Count() != n || did.Delay.Max() < delays[n-1]*99/100 || did.Delay.Mean() < 45*time.Millisecond || did.Delay.Mean() > 55*time.Millisecond {
				t.Errorf("%s: measured %d, mean %v, max %v of %v", distribution, did.Delay.Count(), did.Delay.Mean(), did.Delay.Max(), delays[n-1])
			}
		})
	}
}

func TestUDPKeepOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{Seed: 7}, nil)
		add(t, m.Proxy, Rule{Name: "slow", Percent: 0.7, Latency: &Latency{Delay: 50 * time.Millisecond, Jitter: 50 * time.Millisecond, Direction: "request", KeepOrder: true}})
		remove := add(t, m.Proxy, Rule{Name: "also", Percent: 1, Latency: &Latency{Delay: 30 * time.Millisecond, Jitter: 30 * time.Millisecond, Direction: "request"}})
		const n = 2000
		for i := range n {
			m.send(0, number(i))
			time.Sleep(time.Millisecond)
			if i == n/2 {
				remove()
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		sent := m.went(false)
		if len(sent) != n {
			t.Fatalf("%d of %d came out", len(sent), n)
		}
		for i, d := range sent {
			if numberOf(d.b) != i {
				t.Fatalf("the %dth out is the %dth in", i, numberOf(d.b))
			}
		}
	})
}

// TestUDPRemovalLetsGo: what a rule held is on its way when it is removed, and what
// another holds stays.
func TestUDPRemovalLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{}, nil)
		hour := add(t, m.Proxy, Rule{Name: "hour", Percent: 1, Latency: &Latency{Delay: time.Hour, Direction: "request"}})
		minute := add(t, m.Proxy, Rule{Name: "minute", Percent: 1, Latency: &Latency{Delay: time.Minute, Direction: "request"}})
		m.send(0, number(1))
		hour()
		synctest.Wait()
		if sent := m.went(false); len(sent) != 0 {
			t.Fatalf("the minute does not hold it: %v", sent)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if sent := m.went(false); len(sent) != 1 || sent[0].at != time.Minute {
			t.Fatalf("after a minute: %v", sent)
		}
		m.send(0, number(2))
		minute()
		synctest.Wait()
		if sent := m.went(false); len(sent) != 1 || sent[0].at != time.Minute {
			t.Fatalf("after the removal: %v", sent)
		}
		if n := m.Collect().Rules["minute"].Delay.Count(); n != 0 {
			t.Errorf("%d holds that were cut short were measured", n)
		}
		if held := m.held.claimed.Load(); held != 0 {
			t.Errorf("%d bytes are held still", held)
		}
	})
}

// TestUDPSetRules: another delay takes the place of the old one for what is held, too.
func TestUDPSetRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{}, nil)
		rule := func(d time.Duration) []Rule {
			return []Rule{{Name: "slow", Percent: 1, Latency: &Latency{Delay: d, Direction: "request"}}}
		}
		m.SetRules(rule(time.Hour))
		m.send(0, number(1))
		time.Sleep(time.Second)
		m.SetRules(rule(2 * time.Second))
		time.Sleep(time.Minute)
		synctest.Wait()
		if sent := m.went(false); len(sent) != 1 || sent[0].at != 2*time.Second {
			t.Errorf("got %v, want one after 2s", sent)
		}
	})
}

// TestUDPReorder: what is hit overtakes what is delayed; where nothing is, the next
// overtakes it, or it goes when its wait is over.
func TestUDPReorder(t *testing.T) {
	order := func(m *memory) (all []int) {
		for _, d := range m.went(false) {
			all = append(all, numberOf(d.b))
		}
		return all
	}
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{Seed: 7}, nil)
		add(t, m.Proxy, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: 10 * time.Millisecond, Direction: "request"}})
		add(t, m.Proxy, Rule{Name: "ahead", Percent: 0.25, Reorder: &Reorder{Direction: Request}})
		came := map[int]time.Duration{}
		for i := range many {
			came[i] = m.now()
			m.send(0, number(i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		ahead := 0
		for _, d := range m.went(false) {
			switch d.at - came[numberOf(d.b)] {
			case 0:
				ahead++
			case 10 * time.Millisecond:
			default:
				t.Fatalf("%d after %v", numberOf(d.b), d.at-came[numberOf(d.b)])
			}
		}
		wantShare(t, "sent ahead", ahead, many, 0.25)
		s := m.Collect()
		if r := s.Rules["ahead"]; r.Fired != ahead || r.Eligible != many || r.Bytes == 0 {
			t.Errorf("%+v, %d sent ahead", r, ahead)
		}
		if r := s.Rules["slow"]; r.Fired != many-ahead || r.Eligible != many-ahead {
			t.Errorf("slow %+v", r)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{Seed: 7}, nil)
		add(t, m.Proxy, Rule{Name: "swap", Percent: 1, When: When{Every: 3}, Reorder: &Reorder{}})
		for i := range 9 {
			m.send(0, number(i))
			m.send(1, number(100+i)) // of another session, and so nobody's next
		}
		time.Sleep(time.Second)
		synctest.Wait()
		got := order(m)
		one := slices.DeleteFunc(slices.Clone(got), func(i int) bool { return i >= 100 })
		other := slices.DeleteFunc(slices.Clone(got), func(i int) bool { return i < 100 })
		// Every third of 0 100 1 101 2 102 3 …: 1, 102, 4, 105, 7, 108.
		if want := []int{0, 2, 1, 3, 5, 4, 6, 8, 7}; !slices.Equal(one, want) {
			t.Errorf("got %v, want %v", one, want)
		}
		if want := []int{100, 101, 103, 102, 104, 106, 105, 107, 108}; !slices.Equal(other, want) {
			t.Errorf("got %v, want %v", other, want)
		}
		if r := m.Collect().Rules["swap"]; r.Fired != 6 || r.Bytes != 5*4 {
			t.Errorf("%+v, want 6 hit, and 5 of them overtaken", r)
		}
	})
	synctest.Test(t, func(t *testing.T) { // two in a row, and a removal
		m := inMemory(t, Config{Seed: 7}, nil)
		remove := add(t, m.Proxy, Rule{Name: "swap", Percent: 1, When: When{First: 2}, Reorder: &Reorder{Wait: time.Minute}})
		m.send(0, number(0))
		m.send(0, number(1))
		m.send(0, number(2))
		if got := order(m); !slices.Equal(got, []int{2, 0, 1}) {
			t.Errorf("got %v", got)
		}
		remove()
		remove = add(t, m.Proxy, Rule{Name: "swap", Percent: 1, Reorder: &Reorder{Wait: time.Minute}})
		m.send(0, number(3))
		remove()
		synctest.Wait()
		if got := order(m); !slices.Equal(got, []int{3}) {
			t.Errorf("after the removal: %v", got)
		}
	})
}

// TestUDPBandwidth: to the nanosecond, and what does not fit into the queue is dropped.
func TestUDPBandwidth(t *testing.T) {
	for _, shared := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := inMemory(t, Config{}, nil)
			add(t, m.Proxy, Rule{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1000, Queue: 1000, Shared: shared, Direction: Request}})
			for i := range 30 { // 100 bytes are 100 ms
				m.send(i%2, append(number(i), make([]byte, 96)...))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			sent, s := m.went(false), m.Collect()
			lines := 2
			if shared {
				lines = 1
			}
			if len(sent) != lines*10 || s.Datagrams.Lost["bandwidth"] != 30-lines*10 {
				t.Fatalf("shared %v: %d passed, %v lost", shared, len(sent), s.Datagrams.Lost)
			}
			for i, d := range sent {
				if want := time.Duration(i/lines+1) * 100 * time.Millisecond; d.at != want {
					t.Errorf("shared %v: the %dth at %v, want %v", shared, i, d.at, want)
				}
			}
			if r := s.Rules["thin"]; r.Bytes != int64(100*len(sent)) || r.Fired != 30 {
				t.Errorf("shared %v: %+v", shared, r)
			}
			// A line that was idle has saved nothing up.
			from := m.now()
			m.send(0, make([]byte, 50))
			time.Sleep(time.Second)
			synctest.Wait()
			if sent := m.went(false); len(sent) != 1 || sent[0].at-from != 50*time.Millisecond {
				t.Errorf("shared %v: %v after %v", shared, sent, from)
			}
		})
	}
}

func TestUDPLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{}, func(b []byte) []byte { return b })
		m.send(0, make([]byte, 60)) // counts from when the session began
		remove := add(t, m.Proxy, Rule{Name: "quota", Percent: 1, Limit: &Limit{Bytes: 100, Direction: Answer}})
		m.send(0, make([]byte, 40))
		m.send(0, make([]byte, 1))
		m.send(1, make([]byte, 101))
		m.send(1, make([]byte, 100))
		if up, down := m.went(false), m.went(true); len(up) != 5 || len(down) != 3 {
			t.Errorf("%d went up, %d down; want 5 and 3", len(up), len(down))
		}
		s := m.Collect()
		if r := s.Rules["quota"]; r.Eligible != 2 || r.Fired != 2 || r.Bytes != 102 || s.Datagrams.Lost["limit"] != 2 {
			t.Errorf("%+v %+v", r, s.Datagrams)
		}
		remove()
		m.send(0, make([]byte, 1000))
		if down := m.went(true); len(down) != 1 {
			t.Errorf("after the rule, %d went down", len(down))
		}
	})
}

func TestUDPSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{MostSessions: 3, Idle: 10 * time.Second}, nil)
		for i := range 3 {
			m.send(i, number(i))
			time.Sleep(time.Second)
		}
		m.send(0, number(0)) // now the second is idle for longest
		m.send(3, number(3))
		if s := m.Collect(); s.Open != 3 || s.Answers["unanswered"] != 1 || m.legs != 4 {
			t.Errorf("%+v, %d legs", s, m.legs)
		}
		m.send(1, number(1)) // has to begin anew
		if m.legs != 5 {
			t.Errorf("%d legs, want 5", m.legs)
		}
		time.Sleep(9 * time.Second)
		m.send(0, number(0)) // begins anew, too: the others came later
		if s := m.Collect(); s.Open != 3 {
			t.Errorf("%d open", s.Open)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s := m.Collect()
		if s.Open != 0 || len(m.relay.sessions) != 0 || m.relay.idle.Len() != 0 {
			t.Errorf("%d open after a minute", s.Open)
		}
		// Idle is not who waits for what is held.
		add(t, m.Proxy, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Hour, Direction: "request"}})
		m.went(false)
		m.send(0, number(7))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if sent := m.went(false); len(sent) != 1 {
			t.Errorf("%d came out", len(sent))
		}
	})
}

// TestUDPHoldMost: what is beyond the bound is dropped and counted, and the budget is
// given back.
func TestUDPHoldMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{HoldMost: 1 << 20}, nil)
		add(t, m.Proxy, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Second, Direction: "request"}})
		for range 100 {
			m.send(0, make([]byte, 60_000))
		}
		if c := m.held.claimed.Load(); c > 1<<20 || c < 1<<19 {
			t.Errorf("%d bytes are held", c)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		sent, s := m.went(false), m.Collect()
		if len(sent) == 0 || len(sent)+s.Datagrams.Lost["held"] != 100 || m.held.claimed.Load() != 0 {
			t.Errorf("%d sent, %v lost, %d held", len(sent), s.Datagrams.Lost, m.held.claimed.Load())
		}
	})
}

// TestUDPPulse: it comes and goes, and what it held goes with it.
func TestUDPPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, Config{}, nil)
		remove := add(t, m.Proxy, Rule{Name: "off and on", Percent: 1, When: When{Pulse: Pulse{On: time.Second, Off: time.Second}}, Blackhole: &Cut{}})
		defer remove()
		closed := add(t, m.Proxy, Rule{Name: "closed", Percent: 1, When: When{Pulse: Pulse{On: time.Second, Off: time.Second}}, Refuse: &Refuse{}})
		defer closed()
		time.Sleep(500 * time.Millisecond)
		for i := range 6 {
			synctest.Wait()
			if m.refusing != (i%2 == 0) {
				t.Errorf("second %d: refuses %v", i, m.refusing)
			}
			m.send(0, number(i))
			time.Sleep(time.Second)
		}
		if sent := m.went(false); len(sent) != 3 || numberOf(sent[0].b) != 1 || numberOf(sent[1].b) != 3 {
			t.Errorf("%v passed", sent)
		}
	})
}

// TestUDPSameSeed: the same datagrams meet the same fate, whatever else goes on.
func TestUDPSameSeed(t *testing.T) {
	run := func(seed uint64, more ...Rule) (got []int) {
		synctest.Test(t, func(t *testing.T) {
			rules := append([]Rule{
				{Name: "loss", Percent: 1, Loss: &Loss{Ratio: 0.2, Correlation: 0.5, Direction: Request}},
				{Name: "slow", Percent: 0.5, Latency: &Latency{Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond, Direction: "request"}},
			}, more...)
			m := inMemory(t, Config{Seed: seed, Rules: rules}, nil)
			for i := range 500 {
				m.send(0, number(i))
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			for _, d := range m.went(false) {
				got = append(got, numberOf(d.b), int(d.at))
			}
		})
		return got
	}
	first := run(7)
	if !slices.Equal(first, run(7)) || !slices.Equal(first, run(7, Rule{Name: "nothing", Percent: 1, Corrupt: &Corrupt{}})) {
		t.Error("two runs of one seed differ")
	}
	if slices.Equal(first, run(8)) {
		t.Error("two seeds are treated alike")
	}
}

// TestUDPStorm: under rules that come and go, datagrams of many callers arrive as they
// were sent, or not at all, and every one of them is accounted for.
func TestUDPStorm(t *testing.T) {
	p, err := Start(t.Context(), Config{Name: "a -> b", Protocol: UDP, Upstream: udpEcho(t), Seed: 7, MostSessions: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	over := make(chan struct{})
	var all, callers sync.WaitGroup
	all.Go(func() {
		random := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-over:
				return
			default:
			}
			rules := []Rule{
				{Latency: &Latency{Delay: time.Millisecond, Jitter: time.Millisecond, KeepOrder: random.IntN(2) == 0}},
				{Latency: &Latency{Delay: time.Millisecond, Direction: "request", Distribution: "exponential"}},
				{Loss: &Loss{Ratio: 0.1, Correlation: 0.5}}, {Duplicate: &Duplicate{}}, {Reorder: &Reorder{Wait: time.Millisecond}},
				{Bandwidth: &Bandwidth{BytesPerS: 10 << 20, Shared: random.IntN(2) == 0}}, {Refuse: &Refuse{}}, {Limit: &Limit{Bytes: 1 << 16}},
				{Blackhole: &Cut{}},
			}
			r := rules[random.IntN(len(rules))]
			r.Name, r.Percent = "r", 1
			if r.Refuse == nil {
				r.Percent = random.Float64()
			}
			remove, err := p.Add(r)
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
			remove()
		}
	})
	came := 0
	var mu sync.Mutex
	for i := range 8 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			c, err := net.Dial("udp", p.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			var reader sync.WaitGroup
			reader.Go(func() {
				b := make([]byte, 1<<16)
				for {
					n, err := c.Read(b)
					switch {
					case errors.Is(err, syscall.ECONNREFUSED):
						continue
					case err != nil:
						return
					case n < 5 || b[0] != byte(i) || !slices.Equal(b[5:n], bytes.Repeat(b[4:5], n-5)):
						t.Errorf("a datagram of caller %d became %x", i, b[:min(n, 40)])
						return
					}
					mu.Lock()
					came++
					mu.Unlock()
				}
			})
			for range 1500 {
				b := append([]byte{byte(i), 1, 2, 3}, bytes.Repeat([]byte{byte(random.Uint32())}, 1+random.IntN(2000))...)
				c.Write(b)
				time.Sleep(50 * time.Microsecond)
			}
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			reader.Wait()
		})
	}
	callers.Wait()
	close(over)
	all.Wait()
	if came < 100 {
		t.Errorf("%d answers came: hardly any", came)
	}
	p.Stop()
	if n := p.held.claimed.Load(); n != 0 {
		// What was held when it stopped is nobody's, but must be bounded by what was there.
		t.Logf("%d bytes were held at the end", n)
	}
	s := p.Collect()
	sum := 0
	for _, n := range s.Answers {
		sum += n
	}
	if sum != s.Calls || s.Open != 0 {
		t.Errorf("%d calls, but %v; %d open", s.Calls, s.Answers, s.Open)
	}
}
