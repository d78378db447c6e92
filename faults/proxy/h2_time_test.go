package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// inH2Bubble runs f with a caller of HTTP/2 behind a proxy, on a clock of its own.
// Its upstream answers each request, once that is whole, with a head and so many bytes. It
// is no http2.Server, which keeps channels from one bubble to the next.
func inH2Bubble(t *testing.T, answer int, f func(t *testing.T, p *Proxy, c http.RoundTripper)) {
	t.Helper()
	inBubbleOf(t, Config{Name: "x", Protocol: HTTP, Seed: 7}, func(c net.Conn) {
		w := newWire(t, c)
		c.SetDeadline(time.Time{})
		if _, err := io.ReadFull(c, make([]byte, len(clientPreface))); err != nil {
			return
		}
		w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		for {
			f, err := w.ReadFrame()
			if err != nil {
				return
			}
			if f, is := f.(*http2.SettingsFrame); is && !f.IsAck() {
				w.WriteSettingsAck()
			}
			if f.Header().Flags.Has(http2.FlagDataEndStream) && (f.Header().Type == http2.FrameData || f.Header().Type == http2.FrameHeaders) {
				w.head(f.Header().StreamID, false, ":status", "200")
				for left := answer; left > 0; left -= min(left, 10_000) {
					w.WriteData(f.Header().StreamID, left <= 10_000, make([]byte, min(left, 10_000)))
				}
			}
		}
	}, func(t *testing.T, p *Proxy, nc net.Conn) {
		dial := func(context.Context, string, string) (net.Conn, error) { return nc, nil }
		c := &http.Transport{Protocols: h2c(), MaxConnsPerHost: 1, DialContext: dial}
		defer c.CloseIdleConnections()
		f(t, p, c)
	})
}

// took is how long after the request the head of the answer came, and how long after
// it the body was whole.
func took(t *testing.T, c http.RoundTripper, path string, body []byte) (head, whole time.Duration, status int) {
	t.Helper()
	r, err := http.NewRequest("POST", "http://x"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	a, err := c.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	head = time.Since(begun)
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		t.Fatal(err)
	}
	return head, time.Since(begun), a.StatusCode
}

// TestH2ExactTimes: to the nanosecond where a rule says when, else within its bucket.
func TestH2ExactTimes(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name        string
		rules       []Rule
		answer      int // bytes of it
		head, whole time.Duration
		within      time.Duration
	}{
		{"nothing", nil, 1000, 0, 0, 0},
		{"latency, both ways and twice", []Rule{
			{Latency: &Latency{Delay: 200 * ms}}, {Latency: &Latency{Delay: 30 * ms, Direction: string(Request)}}, {Latency: &Latency{Delay: 5 * ms}},
		}, 1000, 235 * ms, 235 * ms, 0},
		{"latency of the body", []Rule{{Latency: &Latency{Delay: 200 * ms, Where: Body}}}, 1000, 0, 200 * ms, 0},
		{"latency of the request's body", []Rule{{Latency: &Latency{Delay: 70 * ms, Where: Body, Direction: string(Request)}}}, 1000, 70 * ms, 70 * ms, 0},
		{"bandwidth", []Rule{{Bandwidth: &Bandwidth{BytesPerS: 30_000, Direction: Answer}}}, 100_000, 0, 100_000 * time.Second / 30_000, 20 * ms},
		{"bandwidth, shared", []Rule{{Bandwidth: &Bandwidth{BytesPerS: 30_000, Direction: Answer, Shared: true}}}, 100_000, 0, 100_000 * time.Second / 30_000, 20 * ms},
		{"slices", []Rule{{Slice: &Slice{Average: 100, Delay: 10 * ms, Direction: Answer}}}, 1000, 0, 100 * ms, 20 * ms},
		{"loss: the head waits 200 ms, the body twice that", []Rule{{Loss: &Loss{Ratio: 1, Direction: Answer}}}, 1000, 200 * ms, 600 * ms, 0},
		{"no loss", []Rule{{Loss: &Loss{Direction: Answer}}}, 1000, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inH2Bubble(t, c.answer, func(t *testing.T, p *Proxy, to http.RoundTripper) {
				took(t, to, "/free", nil) // connects
				for i, r := range c.rules {
					r.Name, r.Percent, r.Match = fmt.Sprint("rule ", i), 1, Match{Path: "/slow"}
					add(t, p, r)
				}
				for range 2 { // one leaves nothing to the next
					head, whole, _ := took(t, to, "/slow", []byte("body"))
					if (head-c.head).Abs() > c.within || (whole-c.whole).Abs() > c.within {
						t.Errorf("the head came after %v, all of it after %v; want %v and %v, ± %v", head, whole, c.head, c.whole, c.within)
					}
				}
				if _, whole, _ := took(t, to, "/free", nil); whole != 0 {
					t.Errorf("a call that does not match took %v", whole)
				}
			})
		})
	}
}

// TestH2LossIsOfOneStream: what a loss holds back is what is behind it in its own
// stream, and goes on when the rule is removed.
func TestH2LossIsOfOneStream(t *testing.T) {
	inH2Bubble(t, 1000, func(t *testing.T, p *Proxy, c http.RoundTripper) {
		took(t, c, "/", nil)
		remove := add(t, p, Rule{Name: "l", Percent: 1, Loss: &Loss{Ratio: 1}, Match: Match{Path: "/lossy"}})
		ended := make(chan time.Duration)
		go func() {
			_, whole, _ := took(t, c, "/lossy", nil)
			ended <- whole
		}()
		time.Sleep(50 * time.Millisecond)
		if _, whole, _ := took(t, c, "/", nil); whole != 0 {
			t.Errorf("another stream took %v", whole)
		}
		time.Sleep(50 * time.Millisecond)
		remove()
		if whole := <-ended; whole != 100*time.Millisecond {
			t.Errorf("it ended after %v, want when the rule was removed, 100ms", whole)
		}
		if s := p.Collect().Rules["l"]; s.Fired != 1 || s.Eligible != 1 || s.Bytes == 0 {
			t.Errorf("evidence %+v", s)
		}
	})
}

// TestH2Ramp: the share grows by the clock, and the calls that are hit are those that
// HTTP/1.1 would have hit at the same times.
func TestH2Ramp(t *testing.T) {
	const calls = 600 // in 12 s, of which the ramp takes 10
	ramp := Rule{Name: "r", Percent: 0.8, Error: &Error{Status: 503}, When: When{Ramp: 10 * time.Second}}
	var one, two []int
	inH2Bubble(t, 10, func(t *testing.T, p *Proxy, c http.RoundTripper) {
		add(t, p, ramp)
		for range calls {
			_, _, status := took(t, c, "/", nil)
			two = append(two, status)
			time.Sleep(20 * time.Millisecond)
		}
	})
	inBubbleOf(t, Config{Name: "x", Protocol: HTTP, Seed: 7}, ok, func(t *testing.T, p *Proxy, c net.Conn) {
		add(t, p, ramp)
		r := bufio.NewReader(c)
		for range calls {
			io.WriteString(c, "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
			a, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, a.Body)
			one = append(one, a.StatusCode)
			time.Sleep(20 * time.Millisecond)
		}
	})
	if !slices.Equal(one, two) {
		t.Errorf("hit on HTTP/1.1: %v\non HTTP/2: %v", one, two)
	}
	for from := 0; from < calls; from += 100 { // 2 s each
		hits := 0.0
		for _, status := range two[from : from+100] {
			if status == 503 {
				hits++
			}
		}
		share := 0.8 * min(1, (float64(from)+50)*0.02/10)
		if d := math.Abs(hits - 100*share); d > 4*math.Sqrt(100*share*(1-share))+1 {
			t.Errorf("calls %d to %d: %v hit, want about %.0f", from, from+99, hits, 100*share)
		}
	}
}
