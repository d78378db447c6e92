package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBytesAreTheSame: whatever rules that alter time only come and go, the same
// bytes arrive in the same order, both ways.
func TestBytesAreTheSame(t *testing.T) {
	size := int64(16 << 20)
	if *exactBytes > 24<<20 {
		size = *exactBytes
	}
	sum := func(seed uint64, n int64) []byte {
		h := sha256.New()
		io.CopyN(h, rand.NewChaCha8([32]byte{byte(seed)}), n)
		return h.Sum(nil)
	}
	sent, answered := sum(1, size), sum(2, size)
	arrived := make(chan []byte, 1)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		var both sync.WaitGroup
		both.Go(func() {
			io.CopyN(c, rand.NewChaCha8([32]byte{2}), size)
			c.(*net.TCPConn).CloseWrite()
		})
		h := sha256.New()
		io.Copy(h, c)
		both.Wait()
		arrived <- h.Sum(nil)
	}))
	c := dial(t, p.Addr())
	c.SetDeadline(time.Now().Add(time.Duration(size/(1<<20))*time.Second + 3*patience))
	var all sync.WaitGroup
	all.Go(func() {
		io.CopyN(c.TCPConn, rand.NewChaCha8([32]byte{1}), size)
		c.CloseWrite()
	})
	over := make(chan struct{})
	all.Go(func() { rulesComeAndGo(t, p, 1, over, false) })
	h := sha256.New()
	if n, err := io.Copy(h, c.Reader); n != size || err != nil {
		t.Errorf("%d bytes came down, %v; want %d", n, err, size)
	}
	if got := <-arrived; !bytes.Equal(got, sent) {
		t.Errorf("what went up arrived changed")
	}
	close(over)
	all.Wait()
	if !bytes.Equal(h.Sum(nil), answered) {
		t.Errorf("what came down arrived changed")
	}
}

// TestHTTPBytesAreTheSame: every form of message that can be built at random
// arrives as it was sent, whatever pieces it is sent in, under rules that come and go.
func TestHTTPBytesAreTheSame(t *testing.T) {
	over := make(chan struct{})
	p := startProxy(t, HTTP, startTCP(t, echoMessages))
	var all sync.WaitGroup
	all.Go(func() { rulesComeAndGo(t, p, 2, over, false) })
	rapid.Check(t, func(rt *rapid.T) {
		c := dial(t, p.Addr())
		defer c.Close()
		var want bytes.Buffer
		for range rapid.IntRange(1, 6).Draw(rt, "calls") {
			body := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "body")
			if rapid.Bool().Draw(rt, "large") {
				body = bytes.Repeat(append(body, 'x'), 300)
			}
			eol := rapid.SampledFrom([]string{"\r\n", "\n"}).Draw(rt, "eol")
			fmt.Fprintf(&want, "POST /x HTTP/1.1%sX-Odd:   spaces  and\ttabs  %s", eol, eol)
			if rapid.Bool().Draw(rt, "chunked") {
				fmt.Fprintf(&want, "tRansfer-encoding: chunked%s%s", eol, eol)
				for len(body) > 0 {
					n := rapid.IntRange(1, len(body)).Draw(rt, "chunk")
					fmt.Fprintf(&want, "%X;ext\r\n%s\r\n", n, body[:n])
					body = body[n:]
				}
				want.WriteString("0\r\nTrailer: x\r\n\r\n")
			} else {
				fmt.Fprintf(&want, "CONTENT-LENGTH: %d%s%s%s", len(body), eol, eol, body)
			}
		}
		cuts := rapid.SliceOfN(rapid.IntRange(0, want.Len()), 0, 4).Draw(rt, "pieces")
		all := want.Bytes()
		go func() {
			from := 0
			for _, to := range append(cuts, len(all)) {
				if to > from {
					c.TCPConn.Write(all[from:to])
					from = to
				}
			}
			c.CloseWrite()
		}()
		got, err := io.ReadAll(c.Reader)
		if err != nil || !bytes.Equal(stripAnswers(got), all) {
			rt.Fatalf("got %q, %v, want %q", got, err, all)
		}
	})
	close(over)
	all.Wait()
	if n := p.Collect().Opaque; n != 0 {
		t.Errorf("%d connections were not understood", n)
	}
}

// echoMessages answers with one answer to each request whose body, chunked, is
// made of the request's bytes.
func echoMessages(c net.Conn) {
	r := newReader(c)
	for {
		var raw bytes.Buffer
		req, err := http.ReadRequest(newReaderThrough(r, &raw))
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		fmt.Fprintf(c, "%x\r\n%s\r\n0\r\n\r\n", raw.Len(), raw.Bytes())
	}
}

// newReaderThrough reads from r byte by byte, so that no byte of the next message
// is taken, and keeps a copy.
func newReaderThrough(r io.ByteReader, raw *bytes.Buffer) *bufio.Reader {
	return bufio.NewReaderSize(onebyte{r, raw}, 16)
}

type onebyte struct {
	r   io.ByteReader
	raw *bytes.Buffer
}

func (o onebyte) Read(p []byte) (int, error) {
	b, err := o.r.ReadByte()
	if err != nil {
		return 0, err
	}
	o.raw.WriteByte(b)
	p[0] = b
	return 1, nil
}

// stripAnswers undoes what echoMessages wrapped around.
func stripAnswers(p []byte) []byte {
	var all []byte
	r := newReader(bytes.NewReader(p))
	for {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			return all
		}
		body, _ := io.ReadAll(a.Body)
		all = append(all, body...)
	}
}

// rulesComeAndGo adds and removes random rules until over: with cuts of every
// kind, or only such as alter time.
func rulesComeAndGo(t *testing.T, p *Proxy, seed uint64, over <-chan struct{}, cuts bool) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var removes []func()
	var declared []Rule
	for {
		select {
		case <-over:
			for _, remove := range removes {
				remove()
				remove()
			}
			if err := p.SetRules(nil); err != nil {
				t.Error(err)
			}
			return
		case <-time.After(time.Duration(rng.IntN(4000)) * time.Microsecond):
		}
		if len(removes) > 4 {
			i := rng.IntN(len(removes))
			removes[i]()
			removes = append(removes[:i], removes[i+1:]...)
		}
		r := Rule{Name: fmt.Sprint("rule ", rng.IntN(8)), Percent: float64(rng.IntN(5)) / 4}
		const paceOnly, all, onTCP = 5, 11, 16
		if !cuts && p.config.Protocol == HTTP && rng.IntN(3) == 0 { // looks into bodies, and alters none
			switch rng.IntN(3) {
			case 0:
				r.Latency = &Latency{Delay: time.Duration(rng.IntN(4)) * time.Millisecond, Where: Body, Direction: string([]Direction{Request, Answer}[rng.IntN(2)])}
			case 1:
				r.Abort = &Abort{After: maxBytes, Close: true}
			case 2:
				r.Corrupt = &Corrupt{}
			}
			removes = append(removes, add(t, p, r))
			continue
		}
		kinds := paceOnly
		if cuts {
			kinds = all
			r.Percent /= 4
			if p.config.Protocol == TCP {
				kinds = onTCP
			}
		}
		direction := []Direction{Both, Request, Answer}[rng.IntN(3)]
		kind := rng.IntN(kinds)
		if cuts && p.config.Protocol == HTTP && rng.IntN(3) == 0 {
			r.Match = []Match{{}, {Path: "/"}, {Methods: []string{"POST"}}, {Path: "/other"}}[rng.IntN(4)]
			callRule(rng, &r)
			kind = -1
		}
		switch kind {
		case 0:
			r.Latency = &Latency{Delay: time.Duration(rng.IntN(8)) * time.Millisecond}
		case 1:
			r.Latency = &Latency{Delay: 3 * time.Millisecond, Jitter: 3 * time.Millisecond, Direction: "request"}
		case 2:
			r.Bandwidth = &Bandwidth{BytesPerS: 100 << 20, Direction: direction}
		case 3:
			r.Slice = &Slice{Average: 30_000, Variation: 30_000, Delay: 20 * time.Microsecond, Direction: direction}
		case 4:
			r.Loss = &Loss{Ratio: 0.02, Correlation: 0.3, Direction: direction}
		case 5:
			r.Reset = &Cut{After: int64(rng.IntN(2)) * 300}
		case 6:
			r.Blackhole = &Cut{After: int64(rng.IntN(2)) * 300}
		case 7:
			r.Refuse = &Refuse{}
		case 14:
			r.Silence = &Silence{For: time.Duration(rng.IntN(3)) * time.Millisecond, Direction: direction}
		case 15:
			r.Limit = &Limit{Bytes: int64(rng.IntN(500)), Direction: direction}
		case 11:
			r.SlowClose = &SlowClose{Delay: 2 * time.Millisecond, Direction: direction}
		case 12:
			r.Reset = &Cut{Wait: time.Duration(rng.IntN(3000)) * time.Microsecond}
		case 13:
			r.Corrupt = &Corrupt{Ratio: 0.1, Direction: direction}
		case 9:
			r.Connect = &Connect{Delay: 2 * time.Millisecond}
		case 10:
			r.Bandwidth = &Bandwidth{BytesPerS: 1 << 20, Shared: true}
		case 8:
			if r.Error = (&Error{Status: 500}); p.config.Protocol == TCP {
				continue
			}
		}
		switch rng.IntN(8) {
		case 0:
			r.When.Pulse = Pulse{On: 2 * time.Millisecond, Off: time.Millisecond}
		case 1:
			r.When = When{Every: 2, Ramp: 10 * time.Millisecond, Source: "127.0.0.0/8"}
		}
		if rng.IntN(4) == 0 {
			declared = append(declared, r)
			rng.Shuffle(len(declared), func(i, j int) { declared[i], declared[j] = declared[j], declared[i] })
			declared = declared[max(0, len(declared)-3):]
			if err := p.SetRules(declared); err != nil {
				t.Error(err)
			}
			continue
		}
		remove, err := p.Add(r)
		if err != nil {
			t.Error(err)
			return
		}
		removes = append(removes, remove)
		if rng.IntN(4) == 0 {
			p.Collect()
			p.SetUpstream(p.Upstream())
		}
	}
}

// TestStorm: with everything going on at once, each call is counted once, each
// connection ends, and no API call takes long.
func TestStorm(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, TCP} {
		t.Run(string(protocol), func(t *testing.T) {
			upstream := startHTTP(t, hello)
			if protocol == TCP {
				upstream = startTCP(t, echo)
			}
			p := startProxy(t, protocol, upstream)
			over := make(chan struct{})
			var all sync.WaitGroup
			for i := range 2 {
				all.Go(func() { rulesComeAndGo(t, p, uint64(i), over, true) })
			}
			for i := range 8 {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(i), 1))
					for {
						select {
						case <-over:
							return
						default:
							callFor(t, p, rng)
						}
					}
				})
			}
			time.Sleep(time.Second)
			close(over)
			all.Wait()

			begun := int(p.calls.Load())
			s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
			if s.Opaque > 0 {
				t.Errorf("%d connections were not understood", s.Opaque)
			}
			if protocol == HTTP && begun == 0 {
				t.Error("no call got through")
			}
			p.mu.Lock()
			held := len(p.conns)
			p.mu.Unlock()
			if held > 0 {
				t.Errorf("%d connections are still held", held)
			}
		})
	}
}

// callFor makes a few calls on one connection, which may fail, and leaves it in
// one of the ways that callers do.
func callFor(t *testing.T, p *Proxy, rng *rand.Rand) {
	c, err := net.Dial("tcp", p.Addr())
	if errors.Is(err, syscall.ECONNRESET) { // refused, before connect(2) returned
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(50 * time.Millisecond))
	buf := make([]byte, 4096)
	for range 1 + rng.IntN(5) {
		if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
			return
		}
		if _, err := c.Read(buf); err != nil {
			break
		}
	}
	switch rng.IntN(3) {
	case 0:
		c.(*net.TCPConn).SetLinger(0)
	case 1:
		c.(*net.TCPConn).CloseWrite()
		for err == nil {
			_, err = c.Read(buf)
		}
		var timeout net.Error
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !(errors.As(err, &timeout) && timeout.Timeout()) {
			t.Errorf("a half-closed connection ended with %v", err)
		}
	}
}

// TestCallsAddUp: every call that began is counted under exactly one answer.
func TestCallsAddUp(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	var removes []func()
	for _, r := range []Rule{
		{Name: "reset", Percent: 0.1, Reset: &Cut{}},
		{Name: "late reset", Percent: 0.1, Reset: &Cut{After: 20}},
		{Name: "hole", Percent: 0.1, Blackhole: &Cut{}},
		{Name: "error", Percent: 0.2, Error: &Error{Status: 500}},
		{Name: "refuse", Percent: 0.1, Refuse: &Refuse{}},
		{Name: "slow", Percent: 0.3, Latency: &Latency{Delay: 2 * time.Millisecond}},
		{Name: "slow body", Percent: 0.3, Latency: &Latency{Delay: 2 * time.Millisecond, Where: Body}},
		{Name: "abort", Percent: 0.1, Abort: &Abort{After: 2}},
		{Name: "close", Percent: 0.1, Abort: &Abort{After: 3, Close: true}},
		{Name: "reshape", Percent: 0.5, Reshape: &Reshape{Answer: Edit{Set: []Field{{Name: "Server", Value: "x"}}}}},
		{Name: "rot", Percent: 0.5, Match: Match{Methods: []string{"POST"}}, Corrupt: &Corrupt{Ratio: 0.1}},
	} {
		removes = append(removes, add(t, p, r))
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 2))
			for range 25 {
				callFor(t, p, rng)
			}
		})
	}
	all.Wait()
	for _, remove := range removes {
		remove()
	}
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	answers := 0
	for _, n := range s.Answers {
		answers += n
	}
	if answers != s.Calls || s.Calls == 0 {
		t.Errorf("%d calls, %d answers: %v", s.Calls, answers, s.Answers)
	}
	if r := s.Rules["error"]; r.Fired < s.Answers["500"] {
		t.Errorf("%d answers 500, %d fired", s.Answers["500"], r.Fired)
	}
	for name, r := range s.Rules {
		if r.Fired == 0 || r.Fired > r.Eligible {
			t.Errorf("%s: fired %d of %d", name, r.Fired, r.Eligible)
		}
	}
}
