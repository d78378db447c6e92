package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// pour writes for as long as the other side takes it.
func pour(c net.Conn) {
	for buf := make([]byte, 32<<10); ; {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// talk sends a byte and wants it back.
func (c caller) talk() {
	c.t.Helper()
	c.send("x")
	if b, err := c.ReadByte(); b != 'x' {
		c.t.Fatalf("got %q, %v; want the echo", b, err)
	}
}

// TestTimeoutOnABusyStream: the time is over once, however many bytes come.
func TestTimeoutOnABusyStream(t *testing.T) {
	busy := func(c net.Conn) {
		go io.Copy(io.Discard, c)
		for {
			if _, err := c.Write([]byte("tick")); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	for _, direction := range []Direction{Both, Request, Answer} {
		inBubble(t, TCP, busy, func(t *testing.T, p *Proxy, c net.Conn) {
			start := time.Now()
			time.Sleep(100 * time.Millisecond)
			add(t, p, Rule{Name: "timeout", Percent: 1, Silence: &Silence{For: 300 * time.Millisecond, Direction: direction}})
			go func() {
				for {
					if _, err := c.Write([]byte("tick")); err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
			n, err := io.Copy(io.Discard, c)
			if d := time.Since(start); err != nil || d != 400*time.Millisecond {
				t.Errorf("%q: ended with %v after %v, want in order 300ms after the rule came, at 400ms", direction, err, d)
			}
			if mute := direction != Request; (n == 0) != mute {
				t.Errorf("%q: %d bytes came down", direction, n)
			}
			if s := p.Collect().Rules["timeout"]; s.Bytes < 290*4 || s.Fired != 1 {
				t.Errorf("%q: %+v, want what was discarded", direction, s)
			}
			time.Sleep(time.Second) // for both who write to find out
		})
	}
}

// TestTimeoutOfASilentOne: and it is over also when none comes, before the
// upstream has answered the dial, and for a connection that came after the rule.
func TestTimeoutOfASilentOne(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	dialling := make(chan struct{})
	p.dialer = func(ctx context.Context, _ string) (net.Conn, error) {
		close(dialling)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	add(t, p, Rule{Name: "timeout", Percent: 1, Silence: &Silence{For: 20 * time.Millisecond}})
	start := time.Now()
	c := dial(t, p.Addr())
	c.send("unheard")
	<-dialling
	c.CloseWrite()
	c.wantEnd()
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("closed after %v, want 20ms", d)
	}
	collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 && s.Open == 0 })
}

// TestSilenceIsOneWay: what goes the other way arrives whole, its end too; when
// the rule is removed, those it had silenced are closed, and no others.
func TestSilenceIsOneWay(t *testing.T) {
	heard := make(chan string, 1)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		io.WriteString(c, "never heard")
		all, _ := io.ReadAll(c)
		heard <- string(all)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	}))
	remove := add(t, p, Rule{Name: "mute", Percent: 1, Silence: &Silence{Direction: Answer}})
	c := dial(t, p.Addr())
	c.send("hello")
	c.CloseWrite()
	if got := <-heard; got != "hello" {
		t.Errorf("the upstream heard %q", got)
	}
	collect(t, p, func(s Stats) bool { return s.Rules["mute"].Bytes == int64(len("never heard")) && s.BytesDown == 0 })
	c.wantSilence() // not even the end
	remove()
	c.wantEnd()

	p = startProxy(t, TCP, startTCP(t, echo))
	remove = add(t, p, Rule{Name: "mute", Percent: 0.5, Silence: &Silence{Direction: Request}})
	hit := newActive(Rule{Name: "mute", Percent: 0.5}, 1, 7)
	for i := range uint64(8) {
		c := dial(t, p.Addr())
		if c.send("x"); hit.hits(i) {
			defer c.wantEnd()
			continue
		}
		c.ReadByte()
		defer c.talk()
	}
	collect(t, p, func(s Stats) bool {
		return s.Rules["mute"].Eligible == 8 && s.Rules["mute"].Bytes == int64(s.Rules["mute"].Fired)
	})
	remove()
}

// TestSilenceIsNeverBroken: between the end of a rule and that of the connections
// it had silenced, not one byte comes from behind the gap.
func TestSilenceIsNeverBroken(t *testing.T) {
	inBubble(t, TCP, func(c net.Conn) { io.Copy(c, c) }, func(t *testing.T, p *Proxy, c net.Conn) {
		remove := add(t, p, Rule{Name: "mute", Percent: 1, Silence: &Silence{Direction: Answer}})
		heard := make(chan string)
		go func() {
			all, _ := io.ReadAll(c)
			heard <- string(all)
		}()
		fmt.Fprint(c, "lost")
		synctest.Wait()
		p.rules.Store(&rules{}) // half of the removal: the conn has not been told, but looks for another reason
		p.connections()[0].wakeUp()
		fmt.Fprint(c, "behind the gap")
		synctest.Wait()
		remove()
		if got := <-heard; got != "" {
			t.Errorf("heard %q", got)
		}
	})
}

// TestResetOfIdleAndOpenConnections: after its wait a reset strikes by RST, at
// both ends, those that say nothing and those that talk, older and newer than
// itself; at toxicity 0 it strikes nobody.
func TestResetOfIdleAndOpenConnections(t *testing.T) {
	ends := make(chan error, 3)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		_, err := io.Copy(c, c)
		ends <- err
	}))
	idle, busy := dial(t, p.Addr()), dial(t, p.Addr())
	busy.talk()
	collect(t, p, func(s Stats) bool { return s.Upstream == 2 })
	add(t, p, Rule{Name: "nobody", Percent: 0, Reset: &Cut{}})
	add(t, p, Rule{Name: "nobody later", Percent: 0, Reset: &Cut{Wait: time.Millisecond}})
	start := time.Now()
	add(t, p, Rule{Name: "reset", Percent: 1, Reset: &Cut{Wait: 60 * time.Millisecond}})
	fresh := dial(t, p.Addr())
	fresh.talk()
	writing := make(chan error, 1)
	go func() {
		for {
			if _, err := busy.Write([]byte("x")); err != nil {
				writing <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	for _, c := range []caller{idle, busy, fresh} {
		if c != busy {
			c.wantReset()
		} else if _, err := io.Copy(io.Discard, c.Reader); err == nil { // RST is told once: to who reads or to who writes
			if err := <-writing; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the busy one ended with %v, want RST", err)
			}
		}
		if d := time.Since(start); d < 60*time.Millisecond {
			t.Errorf("reset after %v, want 60ms", d)
		}
		if err := <-ends; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the upstream saw %v, want RST", err)
		}
	}
	collect(t, p, func(s Stats) bool {
		return s.Answers["reset"] == 3 && s.Rules["reset"].Fired == 3 && s.Rules["nobody"].Fired == 0 && s.Open == 0
	})
}

// TestLimitIsExactAndPerDirection: so many bytes pass and no more, then FIN, to
// both sides; the other direction is not counted; what had passed before is.
func TestLimitIsExactAndPerDirection(t *testing.T) {
	arrived := make(chan int64, 1)
	count := func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		arrived <- n
	}
	const most = 100_001
	t.Run("answer", func(t *testing.T) {
		p := startProxy(t, TCP, startTCP(t, pour))
		add(t, p, Rule{Name: "limit", Percent: 1, Limit: &Limit{Bytes: most, Direction: Answer}})
		c := dial(t, p.Addr())
		c.send(strings.Repeat("not counted ", 20_000)) // unread by the upstream: closing must not lose what went down
		if n, err := io.Copy(io.Discard, c.Reader); n != most || err != nil {
			t.Errorf("%d bytes came, then %v; want %d and the orderly end", n, err, most)
		}
	})
	t.Run("request", func(t *testing.T) {
		p := startProxy(t, TCP, startTCP(t, count))
		add(t, p, Rule{Name: "limit", Percent: 1, Limit: &Limit{Bytes: most, Direction: Request}})
		c := dial(t, p.Addr())
		go pour(c.TCPConn)
		if n := <-arrived; n != most {
			t.Errorf("%d bytes arrived, want %d", n, most)
		}
		io.Copy(io.Discard, c.Reader)
		c.Close()
		collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 && s.Open == 0 })
	})
	t.Run("counted since the connection was opened", func(t *testing.T) {
		p := startProxy(t, TCP, startTCP(t, echo))
		over, under := dial(t, p.Addr()), dial(t, p.Addr())
		over.talk()
		over.talk()
		over.talk()
		under.talk()
		add(t, p, Rule{Name: "limit", Percent: 1, Limit: &Limit{Bytes: 2, Direction: Answer}})
		over.wantEnd() // idle as it is
		under.talk()
		under.wantEnd()
	})
	t.Run("none", func(t *testing.T) {
		p := startProxy(t, TCP, startTCP(t, echo))
		add(t, p, Rule{Name: "limit", Percent: 1, Limit: &Limit{Direction: Answer}})
		c := dial(t, p.Addr())
		c.wantSilence()
		c.send("heard, not answered")
		c.wantEnd()
		collect(t, p, func(s Stats) bool { return s.BytesUp == 19 && s.BytesDown == 0 })
	})
}

// TestSlowCloseKeepsHalfOpen: only the end is late, in its direction, and what
// goes the other way meanwhile arrives.
func TestSlowCloseKeepsHalfOpen(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	add(t, p, Rule{Name: "slow", Percent: 1, SlowClose: &SlowClose{Delay: 30 * time.Millisecond, Direction: Request}})
	add(t, p, Rule{Name: "slower", Percent: 1, SlowClose: &SlowClose{Delay: 20 * time.Millisecond, Direction: Answer}})
	add(t, p, Rule{Name: "more", Percent: 1, SlowClose: &SlowClose{Delay: 20 * time.Millisecond}})
	c := dial(t, p.Addr())
	start := time.Now()
	c.send("last words")
	c.CloseWrite()
	got, err := io.ReadAll(c.Reader)
	if string(got) != "last words" || err != nil || time.Since(start) < 90*time.Millisecond {
		t.Errorf("got %q, %v after %v; want it to end after 30ms + 20ms up, 20ms + 20ms down", got, err, time.Since(start))
	}

	inBubble(t, TCP, func(c net.Conn) { io.WriteString(c, "bye") }, func(t *testing.T, p *Proxy, c net.Conn) {
		remove := add(t, p, Rule{Name: "long", Percent: 1, SlowClose: &SlowClose{Delay: time.Hour}})
		add(t, p, Rule{Name: "short", Percent: 1, SlowClose: &SlowClose{Delay: 100 * time.Millisecond}})
		start := time.Now()
		io.ReadFull(c, make([]byte, 3))
		if d := time.Since(start); d != 0 {
			t.Errorf("the bytes took %v, want none", d)
		}
		time.Sleep(50 * time.Millisecond)
		remove()
		c.Read(make([]byte, 1))
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("the end came after %v, want what the other rule asks, 100ms", d)
		}
	})
}

// TestSlicesKeepTheirSizesAndGaps, and the bytes, with settings as odd as they come.
func TestSlicesKeepTheirSizesAndGaps(t *testing.T) {
	for _, s := range []Slice{{Average: 1}, {Average: 1, Variation: 1}, {Average: 7, Variation: 7}, {Average: 16, Variation: 3}, {Average: maxBytes, Variation: maxBytes}} {
		s.Delay = 5 * time.Millisecond
		const size = 100
		inBubble(t, TCP, func(c net.Conn) { c.Write(bytes.Repeat([]byte("0123456789"), size/10)); io.Copy(io.Discard, c) }, func(t *testing.T, p *Proxy, c net.Conn) {
			add(t, p, Rule{Name: "slice", Percent: 1, Slice: &s})
			var got []byte
			var last time.Time
			for buf := make([]byte, size); len(got) < size; {
				n, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, buf[:n]...)
				low, high := max(1, s.Average-s.Variation), s.Average+s.Variation
				if int64(n) > high || int64(n) < low && len(got) < size {
					t.Errorf("%+v: a piece of %d bytes", s, n)
				}
				if !last.IsZero() && time.Since(last) != s.Delay {
					t.Errorf("%+v: %v between two pieces", s, time.Since(last))
				}
				last = time.Now()
			}
			if !bytes.Equal(got, bytes.Repeat([]byte("0123456789"), size/10)) {
				t.Errorf("%+v: got %q", s, got)
			}
		})
	}
}

// TestSliceSizes: evenly from Average − Variation to Average + Variation.
func TestSliceSizes(t *testing.T) {
	r := newActive(Rule{Name: "slice", Slice: &Slice{Average: 10, Variation: 4}}, 1, 7)
	const n = 90_000
	var seen [20]int
	for i := range uint64(n) {
		seen[r.Slice.size(r.draw(ofSlice, 3, i))]++
	}
	for size, got := range seen {
		p := 0.0
		if size >= 6 && size <= 14 {
			p = 1.0 / 9
		}
		if math.Abs(float64(got)-n*p) > 4*math.Sqrt(n*p*(1-p)) {
			t.Errorf("%d of %d pieces had %d bytes, more than 4σ from %v", got, n, size, p)
		}
	}
}

// TestLossStallsWhatIsBehind: what is hit waits, twice as long each time, and what
// is behind it waits too; nothing is lost or overtakes.
func TestLossStallsWhatIsBehind(t *testing.T) {
	inBubble(t, TCP, func(c net.Conn) { io.Copy(c, c) }, func(t *testing.T, p *Proxy, c net.Conn) {
		remove := add(t, p, Rule{Name: "loss", Percent: 1, Loss: &Loss{Ratio: 1, Direction: Answer}})
		start := time.Now()
		buf := make([]byte, 100)
		want := func(bytes string, after time.Duration) {
			t.Helper()
			n, err := c.Read(buf)
			if d := time.Since(start); string(buf[:n]) != bytes || err != nil || d != after {
				t.Fatalf("got %q, %v after %v, want %q after %v", buf[:n], err, d, bytes, after)
			}
		}
		fmt.Fprint(c, "a")
		time.Sleep(100 * time.Millisecond)
		fmt.Fprint(c, "b")
		fmt.Fprint(c, "c")
		want("a", 200*time.Millisecond)
		want("bc", 600*time.Millisecond)
		fmt.Fprint(c, "d")
		time.Sleep(time.Millisecond)
		remove()
		want("d", 601*time.Millisecond)
		if s := p.Collect().Rules["loss"]; s.Bytes != 4 || s.Delay.Count() != 2 || s.Delay.Max() < 399*time.Millisecond {
			t.Errorf("%d bytes, %d delays, the longest %v", s.Bytes, s.Delay.Count(), s.Delay.Max())
		}
	})
}

// TestLossHoldsItsShare: whatever the correlation, the share of chunks hit is
// Ratio, and each outcome depends on the one before as much as asked.
func TestLossHoldsItsShare(t *testing.T) {
	const n = 200_000
	for _, want := range []Loss{{Ratio: 0.01}, {Ratio: 0.3}, {Ratio: 0.01, Correlation: 0.5}, {Ratio: 0.3, Correlation: 0.9}, {Ratio: 0}, {Ratio: 1, Correlation: 1}} {
		l := &loss{by: newActive(Rule{Name: "loss", Loss: &want}, 1, 7), of: ofLoss}
		var now time.Duration
		hits, pairs, last := 0.0, 0.0, 0.0
		for range n {
			k, again := l.admit(now, 1)
			hit := 0.0
			if k == 0 {
				hit, now = 1, again
				k, _ = l.admit(now, 1)
			}
			l.passed(now, k)
			hits += hit
			pairs += hit * last
			last = hit
		}
		p, c := want.Ratio, want.Correlation
		// The mean of n outcomes with autocorrelation c^k has (1+c)/(1−c) times the variance of independent ones.
		sigma := math.Sqrt(p * (1 - p) / n * (1 + c) / max(1-c, 1e-9))
		if p < 1 && math.Abs(hits/n-p) > 4*sigma || p == 1 && hits != n {
			t.Errorf("%+v: share %v", want, hits/n)
		}
		if v := p * (1 - p); v > 0 {
			if got := (pairs/n - p*p) / v; math.Abs(got-c) > 0.1 {
				t.Errorf("%+v: correlation %v", want, got)
			}
		}
	}
	for row, want := range map[int]time.Duration{1: 200 * time.Millisecond, 2: 400 * time.Millisecond, 5: 3200 * time.Millisecond, 10: 102400 * time.Millisecond, 11: 120 * time.Second, 1 << 40: 120 * time.Second} {
		if got := rto(row); got != want {
			t.Errorf("loss %d in a row waits %v, want %v", row, got, want)
		}
	}
}

// TestNewKindsOnHTTP: slices and losses pace messages, and leave their bytes alone.
func TestNewKindsOnHTTP(t *testing.T) {
	body := strings.Repeat("0123456789", 50)
	inBubble(t, HTTP, func(c net.Conn) {
		for buf := make([]byte, 4096); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}, func(t *testing.T, p *Proxy, c net.Conn) {
		add(t, p, Rule{Name: "slice", Percent: 1, Slice: &Slice{Average: 300, Delay: 10 * time.Millisecond, Direction: Answer}})
		add(t, p, Rule{Name: "loss", Percent: 1, Loss: &Loss{Ratio: 1, Direction: Request}})
		start := time.Now()
		fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
		all := make([]byte, 40+len(body))
		n, err := c.Read(all)
		if d := time.Since(start); n != 300 || err != nil || d != 200*time.Millisecond {
			t.Fatalf("%d bytes, %v after %v, want 300 after 200ms", n, err, d)
		}
		n, err = c.Read(all[n:])
		if d := time.Since(start); n != len(all)-300 || err != nil || d != 210*time.Millisecond || !strings.HasSuffix(string(all), body) {
			t.Fatalf("%d bytes, %v after %v, want the rest after 210ms", n, err, d)
		}
		if s := p.Collect(); s.Rules["slice"].Eligible != 1 || s.Rules["loss"].Fired != 1 {
			t.Errorf("rules %+v", s.Rules)
		}
	})
}

// TestBandwidthOfOneDirection: the other one is free.
func TestBandwidthOfOneDirection(t *testing.T) {
	inBubble(t, TCP, func(c net.Conn) { io.Copy(c, c) }, func(t *testing.T, p *Proxy, c net.Conn) {
		add(t, p, Rule{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1000, Direction: Answer}})
		add(t, p, Rule{Name: "thick", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 4000, Direction: Request}})
		start := time.Now()
		go c.Write(make([]byte, 1000))
		io.ReadFull(c, make([]byte, 1000))
		if d := time.Since(start); (d - time.Second).Abs() > 20*time.Millisecond {
			t.Errorf("1000 bytes took %v, want 1s: at 4000 B/s up, and meanwhile at 1000 B/s down", d)
		}
	})
}

// TestRulesFromTheStart: there is no first connection without them.
func TestRulesFromTheStart(t *testing.T) {
	config := Config{Name: "a -> b", Protocol: TCP, Upstream: startTCP(t, echo), Rules: []Rule{{Name: "closed", Percent: 1, Refuse: &Refuse{}}}}
	p, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	wantRefused(t, p.Addr())
	if err := p.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	dial(t, p.Addr()).talk()

	config.Rules = append(config.Rules, Rule{Name: "odd", Percent: 1, Slice: &Slice{}})
	if _, err := Start(t.Context(), config); err == nil || !strings.Contains(err.Error(), `"a -> b": rule "odd": average is 0`) {
		t.Errorf("an odd rule: %v", err)
	}
}

// TestNeighboursAreNotDrawnAgain: whatever comes, goes and changes beside a rule,
// the connections that it hit stay hit, and no others are.
func TestNeighboursAreNotDrawnAgain(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	mute := Rule{Name: "mute", Percent: 0.5, Silence: &Silence{Direction: Answer}}
	slow := Rule{Name: "slow", Percent: 0.5, Latency: &Latency{Delay: time.Millisecond}}
	set := func(rules ...Rule) {
		t.Helper()
		if err := p.SetRules(rules); err != nil {
			t.Fatal(err)
		}
	}
	set(mute)
	work := (*p.rules.Load())[0]
	var spared []caller
	hit := 0
	const n = 20
	for i := range uint64(n) {
		c := dial(t, p.Addr())
		if work.hits(i) {
			hit++
			c.send("x")
		} else {
			c.talk()
			spared = append(spared, c)
		}
	}
	talk := func() {
		t.Helper()
		for _, c := range spared {
			c.talk()
		}
	}
	set(slow, mute)
	talk()
	slow.Percent = 0.9
	set(slow, mute)
	talk()
	set(mute)
	talk()
	if (*p.rules.Load())[0] != work {
		t.Error("a rule that was set again as it is was replaced")
	}
	s := collect(t, p, func(s Stats) bool { return s.Rules["mute"].Bytes == int64(hit) })
	if r := s.Rules["mute"]; r.Eligible != n || r.Fired != hit || s.Open != n {
		t.Errorf("%+v, %d open; want each of %d drawn for once, %d hit, none closed", r, s.Open, n, hit)
	}
}

// TestChangedInPlace: other settings of a rule are not its removal.
func TestChangedInPlace(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	set := func(rules ...Rule) {
		t.Helper()
		if err := p.SetRules(rules); err != nil {
			t.Fatal(err)
		}
	}
	mute := func(percent float64, forTime time.Duration) Rule {
		return Rule{Name: "mute", Percent: percent, Silence: &Silence{For: forTime}}
	}
	set(mute(0.5, 0))
	rule := (*p.rules.Load())[0]
	var all []caller
	for i := range uint64(12) {
		c := dial(t, p.Addr())
		if c.send("x"); !rule.hits(i) {
			c.ReadByte()
		}
		all = append(all, c)
	}
	hits := func(percent float64) (n int) {
		for i := range uint64(len(all)) {
			if (&active{Rule: Rule{Percent: percent}, key: rule.key}).hits(i) {
				n++
			}
		}
		return n
	}
	collect(t, p, func(s Stats) bool { return s.Rules["mute"].Bytes == int64(hits(0.5)) })

	set(mute(0.5, time.Hour)) // longer: nothing happens
	set(mute(0.3, time.Hour)) // fewer: those hit no more are closed, since bytes are missing
	fewer := (*p.rules.Load())[0]
	for i, c := range all {
		if rule.hits(uint64(i)) && !fewer.hits(uint64(i)) {
			c.wantEnd()
			c.Close()
		}
	}
	collect(t, p, func(s Stats) bool { return s.Open == len(all)-hits(0.5)+hits(0.3) })
	set(mute(0.3, time.Nanosecond)) // shorter: the time is over since long
	for i, c := range all {
		switch {
		case fewer.hits(uint64(i)):
			c.wantEnd()
		case !rule.hits(uint64(i)):
			c.talk()
		}
	}
	set()

	// A reset that waits for long becomes one that does not; one that lets bytes pass, one that has let pass too many.
	cut := Rule{Name: "cut", Percent: 1, Reset: &Cut{Wait: time.Hour}}
	set(cut)
	c := dial(t, p.Addr())
	c.talk()
	set(Rule{Name: "cut", Percent: 1, Reset: &Cut{After: 3}})
	c.talk()
	set(Rule{Name: "cut", Percent: 1, Reset: &Cut{After: 1}})
	c.wantReset()
	set(cut)
	c = dial(t, p.Addr())
	c.talk()
	set(Rule{Name: "cut", Percent: 1, Reset: &Cut{}})
	c.wantReset()

	// A black hole that changes holds on; when it is gone, what it held is reset.
	hole := Rule{Name: "hole", Percent: 1, Blackhole: &Cut{}}
	set(hole)
	c = dial(t, p.Addr())
	c.send("x")
	collect(t, p, func(s Stats) bool { return s.Rules["hole"].Bytes == 1 })
	hole.Blackhole = &Cut{After: 5}
	set(hole)
	c.wantSilence()
	set()
	c.wantReset()
}

// TestSetRulesIsAllOrNothing, and leaves the rules of Add alone.
func TestSetRulesIsAllOrNothing(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	remove := add(t, p, Rule{Name: "added", Percent: 1, Latency: &Latency{}})
	names := func() (all []string) {
		for _, r := range *p.rules.Load() {
			all = append(all, r.Name)
		}
		return all
	}
	a := Rule{Name: "a", Percent: 1, Slice: &Slice{Average: 3}}
	b := Rule{Name: "b", Percent: 1, Limit: &Limit{Bytes: 1 << 40}}
	if err := p.SetRules([]Rule{a, b}); err != nil {
		t.Fatal(err)
	}
	first := slices.Clone(*p.rules.Load())
	if err := p.SetRules([]Rule{b, {Name: "c", Percent: 2, Refuse: &Refuse{}}}); err == nil || !strings.Contains(err.Error(), `rule "c": percent is 2`) {
		t.Errorf("a rule that is wrong: %v", err)
	}
	if got := names(); !slices.Equal(got, []string{"a", "b", "added"}) {
		t.Errorf("after a refusal: %q", got)
	}
	a.Slice.Average = 4 // of the caller's own: what is at work is a copy
	if err := p.SetRules([]Rule{{Name: "c", Percent: 1, SlowClose: &SlowClose{}}, b, a}); err != nil {
		t.Fatal(err)
	}
	now := *p.rules.Load()
	if got := names(); !slices.Equal(got, []string{"c", "b", "a", "added"}) {
		t.Errorf("in order: %q", got)
	}
	if now[1] != first[1] || now[2] == first[0] || now[2].work != first[0].work || now[2].Slice.Average != 4 {
		t.Errorf("b was touched, or a was not changed in place")
	}
	remove()
	p.SetRules(nil)
	if got := names(); len(got) > 0 {
		t.Errorf("left over: %q", got)
	}
	p.Stop()
	if err := p.SetRules(nil); err == nil {
		t.Error("a stopped proxy took rules")
	}
}

// TestDeclaredBytesAreTheSame: rules that alter time only, declared anew all the
// time, alter no byte, and let half-closed connections be.
func TestDeclaredBytesAreTheSame(t *testing.T) {
	const size = 4 << 20
	p := startProxy(t, TCP, startTCP(t, echo))
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(3, 0))
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Duration(rng.IntN(3000)) * time.Microsecond):
			}
			var rules []Rule
			for i, r := range []Rule{
				{Latency: &Latency{Delay: time.Duration(rng.IntN(2)) * time.Millisecond, Jitter: 2 * time.Millisecond}},
				{Latency: &Latency{Delay: time.Millisecond, Direction: "request"}},
				{Slice: &Slice{Average: 20_000, Variation: int64(rng.IntN(20_000)), Delay: 10 * time.Microsecond}},
				{Loss: &Loss{Ratio: 0.02, Correlation: 0.5}},
				{SlowClose: &SlowClose{Delay: 10 * time.Millisecond}},
				{Bandwidth: &Bandwidth{BytesPerS: 100 << 20, Direction: Answer}},
				{Limit: &Limit{Bytes: 1 << 40}},
				{Reset: &Cut{Wait: time.Hour}},
				{Silence: &Silence{}},
			} {
				r.Name, r.Percent = fmt.Sprint("rule ", i), 1
				if r.Silence != nil {
					r.Percent = 0
				}
				if rng.IntN(2) == 0 {
					rules = append(rules, r)
				}
			}
			rng.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
			if err := p.SetRules(rules); err != nil {
				t.Error(err)
			}
		}
	}()
	c := dial(t, p.Addr())
	want := sha256.New()
	go func() {
		io.CopyN(io.MultiWriter(c.TCPConn, want), rand.NewChaCha8([32]byte{}), size)
		c.CloseWrite()
	}()
	got := sha256.New()
	if n, err := io.Copy(got, c.Reader); n != size || err != nil {
		t.Errorf("%d bytes came back, %v; want %d", n, err, size)
	}
	close(over)
	<-done
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("they came back changed")
	}
}

// TestConnectIsSlowForTheFirstByteOnly: nothing is heard of the connection, by
// either side, until it has been open for so long.
func TestConnectIsSlowForTheFirstByteOnly(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, TCP} {
		answer := func(c net.Conn) {
			for buf := make([]byte, 64); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
		synctest.Test(t, func(t *testing.T) {
			l := pipes{make(chan net.Conn), make(chan struct{})}
			p := serve(t.Context(), Config{Name: "x", Protocol: protocol, Rules: []Rule{
				{Name: "slow", Percent: 1, Connect: &Connect{Delay: 300 * time.Millisecond}},
				{Name: "slower", Percent: 1, Connect: &Connect{Delay: 100 * time.Millisecond}},
				{Name: "longest", Percent: 1, Connect: &Connect{Delay: time.Hour}},
				{Name: "never", Percent: 0, Connect: &Connect{Delay: time.Hour}},
			}}, l)
			start := time.Now()
			var dialled time.Duration
			p.dialer = func(context.Context, string) (net.Conn, error) {
				dialled = time.Since(start)
				a, b := net.Pipe()
				go func() { defer b.Close(); answer(b) }()
				return a, nil
			}
			c, far := net.Pipe()
			l.accepted <- far
			go func() {
				time.Sleep(50 * time.Millisecond)
				p.SetRules(append(p.config.Rules[:2:2], p.config.Rules[3]))
			}()
			for _, want := range []time.Duration{400 * time.Millisecond, 400 * time.Millisecond} {
				fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
				if n, err := c.Read(make([]byte, 64)); n != 40 || err != nil || time.Since(start) != want {
					t.Errorf("%s: %d bytes, %v after %v, want them after %v", protocol, n, err, time.Since(start), want)
				}
			}
			if dialled != 400*time.Millisecond {
				t.Errorf("%s: dialled after %v", protocol, dialled)
			}
			s := p.Collect().Rules
			if a, b, c := s["slow"], s["slower"], s["never"]; a.Fired != 1 || a.Eligible != 1 || c.Eligible != 1 || c.Fired != 0 ||
				a.Delay.Max() < 299*time.Millisecond || b.Delay.Max() > 101*time.Millisecond {
				t.Errorf("%s: %+v, %+v, %+v", protocol, a, b, c)
			}
			c.Close()
			p.Stop()
		})
	}
}

// TestCorruptBreaksTheSameBitsAgain: so large a share of the bytes, one bit in
// each, in the same places of the same stream, whatever pieces it comes in; and
// none of the other direction.
func TestCorruptBreaksTheSameBitsAgain(t *testing.T) {
	const size, ratio = 1 << 20, 0.01
	sent := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(sent)
	run := func(pieces bool) []byte {
		heard := make(chan []byte, 1)
		p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
			all, _ := io.ReadAll(c)
			heard <- all
			c.Write(sent)
		}))
		add(t, p, Rule{Name: "rot", Percent: 1, Corrupt: &Corrupt{Ratio: ratio, Direction: Answer}})
		over := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for pieces { // writes are interrupted all the time
				select {
				case <-over:
					return
				default:
					add(t, p, Rule{Name: "slice", Percent: 1, Slice: &Slice{Average: 5000, Variation: 4000, Direction: Answer}})()
				}
			}
		}()
		c := dial(t, p.Addr())
		c.TCPConn.Write(sent)
		c.CloseWrite()
		if !bytes.Equal(<-heard, sent) {
			t.Error("the other direction suffers")
		}
		got, err := io.ReadAll(c.Reader)
		if err != nil || len(got) != size {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		close(over)
		<-done
		n := 0
		for i := range got {
			switch bits.OnesCount8(got[i] ^ sent[i]) {
			case 0:
			case 1:
				n++
			default:
				t.Fatalf("byte %d: %08b became %08b", i, sent[i], got[i])
			}
		}
		if d := math.Abs(float64(n) - ratio*size); d > 4*math.Sqrt(size*ratio*(1-ratio)) {
			t.Errorf("%d bits flipped in %d bytes, more than 4σ from %v", n, size, ratio)
		}
		if s := p.Collect().Rules["rot"]; s.Bytes != int64(n) {
			t.Errorf("%d counted, %d flipped", s.Bytes, n)
		}
		return got
	}
	if !bytes.Equal(run(false), run(true)) {
		t.Error("two streams broke in different places")
	}
}

// TestSharedBandwidth: so many connections together get the rate, all the time,
// and none is left out.
func TestSharedBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn), make(chan struct{})}
		const rate, conns, took = 100_000, 20, 10 * time.Second
		p := serve(t.Context(), Config{Name: "x", Protocol: TCP, Rules: []Rule{
			{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: rate, Shared: true, Direction: Answer}},
		}}, l)
		p.dialer = func(context.Context, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { defer b.Close(); pour(b) }()
			return a, nil
		}
		var got [conns]atomic.Int64
		var all sync.WaitGroup
		for i := range conns {
			c, far := net.Pipe()
			l.accepted <- far
			all.Go(func() {
				defer c.Close()
				for buf := make([]byte, 1000); ; {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					got[i].Add(int64(n))
				}
			})
		}
		time.Sleep(took)
		sum := int64(0)
		for i := range got {
			n := got[i].Load()
			sum += n
			if fair := rate * int64(took/time.Second) / conns; n < fair*9/10 || n > fair*11/10 {
				t.Errorf("connection %d got %d bytes, want about %d", i, n, fair)
			}
		}
		if want := int64(rate * int64(took/time.Second)); sum > want || sum < want*995/1000 {
			t.Errorf("%d bytes passed, want %d", sum, want)
		}
		p.Stop()
		all.Wait()
	})
}

// TestSharedLineKeepsItsRate: whoever asks for whatever and however late, no more
// passes than the rate allows; and no time is lost as long as somebody waits.
func TestSharedLineKeepsItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, maxRate).Draw(t, "rate")
		a := newActive(Rule{Name: "a", Bandwidth: &Bandwidth{BytesPerS: rate, Shared: true}}, 1, 0)
		now := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "start"))
		start, passed := now, int64(0)
		conns := make([]portions, rapid.IntRange(1, 5).Draw(t, "connections"))
		for i := range conns {
			conns[i] = portions{by: a, line: &a.lines[0]}
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			first := forever
			for i := range conns { // all want bytes, all the time
				n, again := conns[i].admit(now, largeBuffer)
				if n > 0 {
					conns[i].passed(now, n)
					passed += int64(n)
					again = now
				}
				first = min(first, again)
			}
			if most := float64(rate) * (now - start).Seconds(); float64(passed) > most*(1+1e-9)+1 {
				t.Fatalf("%d bytes passed in %v at %d B/s, at most %.0f may", passed, now-start, rate, most)
			}
			now = max(now, first) + time.Duration(rapid.Int64Range(0, int64(5*time.Millisecond)).Draw(t, "late"))
		}
	})
	for _, rate := range []int64{1000, 30_000, 7_777_777, 200_000_000} {
		for _, n := range []int{1, 7} {
			a := newActive(Rule{Name: "a", Bandwidth: &Bandwidth{BytesPerS: rate, Shared: true}}, 1, 0)
			conns := make([]portions, n)
			due := make([]time.Duration, n)
			now, passed := time.Duration(0), int64(0)
			for i := 0; now < 10*time.Second; i++ {
				next := 0
				for j := range due {
					if due[j] < due[next] {
						next = j
					}
				}
				if due[next] > now {
					now = due[next] + time.Duration(i%17)*100*time.Microsecond // each time late, as timers are
				}
				c := &conns[next]
				c.by, c.line = a, &a.lines[0]
				k, again := c.admit(now, largeBuffer)
				if due[next] = again; k > 0 {
					c.passed(now, k)
					passed += int64(k)
				}
			}
			if got := float64(passed) / now.Seconds() / float64(rate); math.Abs(got-1) > 0.01 {
				t.Errorf("%d connections got %.4f of %d B/s", n, got, rate)
			}
		}
	}
}
