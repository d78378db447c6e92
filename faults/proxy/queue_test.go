package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// startHolding starts a TCP proxy that holds back so many bytes at most.
func startHolding(t *testing.T, most int64, upstream string) *Proxy {
	t.Helper()
	p, err := Start(context.Background(), Config{Name: "a -> b", Upstream: upstream, Protocol: TCP, HoldMost: most})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop() })
	return p
}

// settled waits until what is claimed has not changed for a while, and tells how
// much it is.
func settled(p *Proxy) int64 {
	last := int64(-1)
	for n := p.held.claimed.Load(); n != last && n <= p.held.most; n = p.held.claimed.Load() {
		last = n
		time.Sleep(30 * time.Millisecond) // that nothing moves can be seen only by waiting
	}
	return p.held.claimed.Load()
}

// TestHeldBytesAreBounded: when so much is held back, senders wait; none is left
// with nothing; and what goes through or is given up is there for others.
func TestHeldBytesAreBounded(t *testing.T) {
	const most, conns = 8 << 20, 3
	p := startHolding(t, most, startTCP(t, pour))
	remove := add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Hour}})
	var all []caller
	for range conns {
		all = append(all, dial(t, p.Addr()))
		if n := settled(p); n > most || n < most*9/10 {
			t.Fatalf("%d bytes are claimed, want most of %d, no more", n, most)
		}
	}
	held := func() int64 { return p.Collect().Rules["slow"].Bytes }
	if n := held(); n > most+conns*largeBuffer {
		t.Errorf("%d bytes are held, %d may be", n, most+conns*largeBuffer)
	}
	all[0].SetLinger(0) // reset: what it held is given back, and the others take it
	all[0].Close()
	if n := collect(t, p, func(s Stats) bool { return s.Rules["slow"].Bytes >= most/4 }); n.Open > conns {
		t.Errorf("%d open", n.Open)
	}
	if n := settled(p); n > most {
		t.Errorf("%d bytes are claimed", n)
	}
	remove()
	for _, c := range all[1:] {
		if _, err := io.CopyN(io.Discard, c, 2*most); err != nil {
			t.Fatal(err)
		}
	}
	p.Stop()
	if n := p.held.claimed.Load(); n != 0 {
		t.Errorf("%d bytes are still claimed", n)
	}
}

// TestSmallPiecesAreBounded: what is known of a piece costs more than its byte.
func TestSmallPiecesAreBounded(t *testing.T) {
	const most = 4 * ownMarks * markSize
	inBubbleOf(t, Config{Name: "x", Protocol: TCP, HoldMost: most, Rules: []Rule{
		{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Second}},
	}}, func(c net.Conn) {
		for {
			if _, err := c.Write([]byte{'x'}); err != nil {
				return
			}
		}
	}, func(t *testing.T, p *Proxy, c net.Conn) {
		time.Sleep(time.Second / 2)
		pieces := p.Collect().Rules["slow"].Bytes
		if n := p.held.claimed.Load(); n > most || n == 0 || pieces < ownMarks || pieces > most/markSize+ownMarks {
			t.Errorf("%d pieces wait, %d bytes are claimed of %d", pieces, n, most)
		}
		start := time.Now()
		if _, err := io.ReadFull(c, make([]byte, 3*pieces)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 2*time.Second || d > 4*time.Second {
			t.Errorf("three times as many came after %v, want them within the fourth second", d)
		}
	})
}

// TestBudgetIsShared: no sequence of claims passes the bound, who has little gets
// some, and whoever is refused is nudged when all is given back.
func TestBudgetIsShared(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := budget{most: int64(rapid.IntRange(1, 200).Draw(rt, "chunks")) * largeBuffer}
		flows := make([]*flow, rapid.IntRange(1, 5).Draw(rt, "flows"))
		for i := range flows {
			flows[i] = &flow{queue: queue{budget: &b, own: true, full: true}, wake: make(chan struct{}, 1)}
		}
		waits := map[*flow]bool{}
		for range rapid.IntRange(1, 1000).Draw(rt, "steps") {
			f := rapid.SampledFrom(flows).Draw(rt, "flow")
			q := &f.queue
			if rapid.IntRange(0, 9).Draw(rt, "what") < 7 {
				if p := q.room(true); p != nil {
					q.received(len(p), 1)
				} else {
					if q.n < largeBuffer && b.most-b.claimed.Load() >= largeBuffer {
						rt.Fatalf("refused with %d bytes free", b.most-b.claimed.Load())
					}
					waits[f] = true
					b.await(f, q.refused)
				}
			} else if q.n > 0 {
				q.passed(rapid.IntRange(1, q.n).Draw(rt, "bytes"))
			}
			sum := int64(0)
			for _, f := range flows {
				sum += f.queue.claimed
			}
			if n := b.claimed.Load(); n != sum || n > b.most {
				rt.Fatalf("%d claimed, flows have %d, %d may be", n, sum, b.most)
			}
		}
		for _, f := range flows {
			f.queue.drop()
		}
		if n := b.claimed.Load(); n != 0 || b.starving.Load() {
			rt.Fatalf("%d still claimed; somebody waits: %v", n, b.starving.Load())
		}
		for f := range waits {
			if f.rev.Load() == 0 {
				rt.Fatal("one that was refused was not nudged")
			}
		}
	})
}

// TestQueueIsFirstInFirstOut: what goes in comes out, in order, whatever the sizes
// of reads and writes, and a queue that is drained keeps one chunk at most.
func TestQueueIsFirstInFirstOut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := budget{most: 1 << 20}
		q := queue{budget: &b}
		var in, out []byte
		if rapid.Bool().Draw(rt, "adopted") {
			for range rapid.SampledFrom([]int{1, smallBuffer, largeBuffer, 2 * largeBuffer}).Draw(rt, "buffer") {
				in = append(in, byte(len(in)%251))
			}
			claimed := int64(0)
			if len(in) > largeBuffer {
				claimed = int64(len(in))
				b.claim(claimed, 0)
			}
			q.adopt(bytes.Clone(in), 0, len(in), claimed)
		}
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "read") {
				grow := rapid.Bool().Draw(rt, "grow")
				p := q.room(grow)
				if p == nil {
					if q.n == 0 {
						rt.Fatal("an empty queue has no room")
					}
					continue
				}
				spaces := [][]byte{p}
				if grow {
					spaces = q.more(spaces)
				}
				n := rapid.SampledFrom([]int{0, 1, 100, smallBuffer, largeBuffer, readChunks * largeBuffer}).Draw(rt, "received")
				got := 0
				for _, p := range spaces {
					for i := range p[:min(len(p), n-got)] {
						p[i] = byte(len(in) % 251)
						in = append(in, p[i])
						got++
					}
				}
				q.received(got, len(spaces))
			} else if q.n > 0 {
				n := rapid.IntRange(1, q.n).Draw(rt, "passed")
				for _, p := range q.front(nil, n) {
					out = append(out, p...)
				}
				q.passed(n)
			}
			if q.n != len(in)-len(out) || b.claimed.Load() != q.claimed {
				rt.Fatalf("%d wait of %d, %d claimed of %d", q.n, len(in)-len(out), q.claimed, b.claimed.Load())
			}
			if most := int64(q.n + 2*largeBuffer); q.claimed > most {
				rt.Fatalf("%d bytes wait in chunks of %d", q.n, q.claimed)
			}
		}
		if !bytes.Equal(out, in[:len(out)]) {
			rt.Fatal("they came out changed")
		}
		q.passed(q.n)
		if len(q.chunks)-q.first > 1 || q.claimed != 0 {
			rt.Fatalf("empty, it keeps %d chunks, %d bytes of the budget", len(q.chunks)-q.first, q.claimed)
		}
	})
}

// TestHeldBytesAreTheSame: through a proxy that holds little, whatever is written
// in whatever pieces, while latency rules come, go and change and others stand
// behind them, comes out whole, in order, and with its end.
func TestHeldBytesAreTheSame(t *testing.T) {
	const most = 2 * largeBuffer
	p := startHolding(t, most, startTCP(t, echo))
	rapid.Check(t, func(rt *rapid.T) {
		c := dial(t, p.Addr())
		defer c.Close()
		sent := make([]byte, rapid.SampledFrom([]int{0, 1, 5000, largeBuffer, 3 * most}).Draw(rt, "bytes"))
		for i := range sent {
			sent[i] = byte(i % 251)
		}
		pieces := rapid.SliceOfN(rapid.IntRange(1, largeBuffer), 1, 5).Draw(rt, "pieces")
		type step struct {
			after time.Duration
			rules []Rule
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			s := step{after: time.Duration(rapid.IntRange(0, 500).Draw(rt, "µs")) * time.Microsecond}
			for _, way := range []Direction{Request, Answer} {
				if rapid.Bool().Draw(rt, "hold") {
					d := time.Duration(rapid.IntRange(0, 1500).Draw(rt, "delay µs")) * time.Microsecond
					s.rules = append(s.rules, Rule{Name: "hold " + string(way), Percent: 1, Latency: &Latency{Delay: d, Jitter: d / 2, Direction: string(way)}})
				}
				if rapid.Bool().Draw(rt, "slice") {
					n := int64(rapid.IntRange(10_000, 100_000).Draw(rt, "average"))
					s.rules = append(s.rules, Rule{Name: "slice " + string(way), Percent: 1, Slice: &Slice{Average: n, Variation: n / 2, Direction: way}})
				}
			}
			return s
		}), 1, 6).Draw(rt, "steps")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for rest, i := sent, 0; len(rest) > 0; i++ {
				n := min(len(rest), pieces[i%len(pieces)])
				c.TCPConn.Write(rest[:n])
				rest = rest[n:]
			}
			c.CloseWrite()
		}()
		ruled := make(chan error, 1)
		go func() {
			for _, s := range steps {
				time.Sleep(s.after)
				if err := p.SetRules(s.rules); err != nil {
					ruled <- err
					return
				}
			}
			ruled <- nil
		}()
		got, err := io.ReadAll(c.TCPConn)
		<-done
		if err := <-ruled; err != nil {
			rt.Fatal(err)
		}
		if err != nil || !bytes.Equal(got, sent) {
			rt.Fatalf("%d of %d bytes came back, or others: %v", len(got), len(sent), err)
		}
		if n := p.held.claimed.Load(); n > most {
			rt.Fatalf("%d bytes are claimed, %d may be", n, most)
		}
	})
	collect(t, p, func(s Stats) bool { return s.Open == 0 })
	p.Stop()
	if n := p.held.claimed.Load(); n != 0 {
		t.Errorf("%d bytes are still claimed", n)
	}
}

// TestHeldWhileTheReceiverWaits: bytes are read, and held from then on, also while
// the receiver takes none of those that are due; then they all go on at once.
func TestHeldWhileTheReceiverWaits(t *testing.T) {
	const size = 64 << 20 // more than the kernel's buffers take for a caller that does not read
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		for range size >> 20 {
			c.Write(make([]byte, 1<<20))
		}
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	}))
	remove := add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Millisecond}})
	c := dial(t, p.Addr())
	s := collect(t, p, func(s Stats) bool { return s.Rules["slow"].Bytes == size })
	if s.BytesDown >= size {
		t.Fatalf("all %d bytes went on: nothing had to wait", s.BytesDown)
	}
	add(t, p, Rule{Name: "other", Percent: 1, Latency: &Latency{Delay: time.Millisecond}}) // one that waits is nudged
	remove()
	if n, err := io.Copy(io.Discard, c.TCPConn); n != size || err != nil {
		t.Errorf("%d bytes came, %v; want %d", n, err, size)
	}
}
