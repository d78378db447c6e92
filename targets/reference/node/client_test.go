package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// callee is a callee in memory: it answers the n-th call (from 1) as told.
type callee struct {
	calls  atomic.Int64
	answer func(n int, r *http.Request) (status int, err error)
}

func (c *callee) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	status, err := c.answer(int(c.calls.Add(1)), r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader([]byte(`{}`))), Request: r}, nil
}

// always answers every call alike.
func always(status int) *callee {
	return &callee{answer: func(int, *http.Request) (int, error) { return status, nil }}
}

// silent never answers before its caller gives up.
func silent() *callee {
	return &callee{answer: func(_ int, r *http.Request) (int, error) {
		<-r.Context().Done()
		return 0, r.Context().Err()
	}}
}

func client(s pattern.Settings, c *callee) *Client {
	return NewClient(ClientConfig{Edge: "a -> b", Address: "b:80", Settings: s, Seed: 7, Transport: c})
}

var (
	get   = Call{Method: "GET", Path: "/x"}
	post  = Call{Method: "POST", Path: "/x", Body: map[string]int{"a": 1}}
	keyed = Call{Method: "POST", Path: "/x", Key: "k"}
)

func TestOffIsOneTryWithoutLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &callee{answer: func(int, *http.Request) (int, error) { time.Sleep(time.Hour); return 200, nil }}
		if a, err := client(pattern.Settings{}, slow).Do(t.Context(), get); err != nil || a.Status != 200 {
			t.Errorf("an hour's call came to %v, %v", a, err)
		}
		broken := always(500)
		if _, err := client(pattern.Settings{}, broken).Do(t.Context(), get); KindOf(err) != Status {
			t.Errorf("status 500 came to %v", err)
		}
		if n := broken.calls.Load(); n != 1 {
			t.Errorf("%d tries, want 1", n)
		}
	})
}

func TestTimeoutIsOfOneTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pattern.Settings{Timeout: 500 * time.Millisecond, Retry: pattern.Retry{Mode: pattern.Hardened, Tries: 3, Base: 50 * time.Millisecond, Cap: time.Second}}
		c := silent()
		start := time.Now()
		_, err := client(s, c).Do(t.Context(), get)
		if took, want := time.Since(start), 3*500*time.Millisecond+(50+100)*time.Millisecond; took != want {
			t.Errorf("three tries took %s, want %s", took, want)
		}
		if KindOf(err) != Timeout || c.calls.Load() != 3 {
			t.Errorf("%d tries came to %v", c.calls.Load(), err)
		}
	})
}

func TestRetryOnlyWhatMayPassAndMayBeRepeated(t *testing.T) {
	reset := func(int, *http.Request) (int, error) { return 0, syscall.ECONNRESET }
	status := func(n int) func(int, *http.Request) (int, error) {
		return func(int, *http.Request) (int, error) { return n, nil }
	}
	for name, test := range map[string]struct {
		mode   pattern.Mode
		call   Call
		answer func(int, *http.Request) (int, error)
		tries  int64
	}{
		"5xx of a GET":            {pattern.Hardened, get, status(503), 3},
		"reset of a GET":          {pattern.Hardened, get, reset, 3},
		"5xx of a keyed POST":     {pattern.Hardened, keyed, status(500), 3},
		"5xx of a POST":           {pattern.Hardened, post, status(500), 1},
		"declined":                {pattern.Hardened, keyed, status(402), 1},
		"too many requests":       {pattern.Hardened, keyed, status(429), 1},
		"once":                    {pattern.Hardened, Call{Method: "GET", Path: "/", Once: true}, status(500), 1},
		"D14: textbook, declined": {pattern.Textbook, keyed, status(402), 3},
		"D14: textbook, no key":   {pattern.Textbook, post, status(500), 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &callee{answer: test.answer}
				s := pattern.Settings{Retry: pattern.Retry{Mode: test.mode, Tries: 3, Base: time.Millisecond, Cap: time.Second}}
				a, err := client(s, c).Do(t.Context(), test.call)
				if n := c.calls.Load(); n != test.tries {
					t.Errorf("%d tries, want %d", n, test.tries)
				}
				if (err == nil) != (a.Status >= 400) {
					t.Errorf("came to %v, %v: an answer below 500 has no error, anything else has no answer", a, err)
				}
			})
		})
	}
}

// The waits obey their formula: hardened never exceeds the cap, and the
// textbook does (D14: up to 90 s for a cap of 60 s).
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := pattern.Retry{
			Mode:   rapid.SampledFrom([]pattern.Mode{pattern.Hardened, pattern.Textbook}).Draw(t, "mode"),
			Base:   time.Duration(rapid.Int64Range(1e3, 1e10).Draw(t, "base")),
			Cap:    time.Duration(rapid.Int64Range(1e10, 1e11).Draw(t, "cap")),
			Jitter: rapid.Float64Range(0, 1).Draw(t, "jitter"),
		}
		k := rapid.IntRange(1, 60).Draw(t, "k")
		b := &backoff{retry: r, rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
		plain := float64(r.Base) * float64(uint64(1)<<(k-1))
		low, high := min(plain*(1-r.Jitter), float64(r.Cap)), min(plain*(1+r.Jitter), float64(r.Cap))
		if r.Mode == pattern.Textbook {
			low, high = min(plain, float64(r.Cap))*(1-r.Jitter), min(plain, float64(r.Cap))*(1+r.Jitter)
		}
		if wait := float64(b.before(k)); wait < low-1 || wait > high+1 {
			t.Errorf("wait before retry %d is %v, want %v to %v", k, wait, low, high)
		}
	})
}

func TestD14TextbookWaitsExceedTheCap(t *testing.T) {
	worst := func(mode pattern.Mode) (longest time.Duration) {
		b := &backoff{retry: pattern.Retry{Mode: mode, Base: time.Second, Cap: 60 * time.Second, Jitter: 0.5}, rand: rand.New(rand.NewPCG(1, 2))}
		for range 1000 {
			longest = max(longest, b.before(8))
		}
		return longest
	}
	if w := worst(pattern.Textbook); w < 85*time.Second || w > 90*time.Second {
		t.Errorf("the longest of 1000 textbook waits is %s, want close to 90 s", w)
	}
	if w := worst(pattern.Hardened); w != 60*time.Second {
		t.Errorf("the longest of 1000 hardened waits is %s, want the cap of 60 s", w)
	}
}

func TestOneSeedDrawsTheSameWaits(t *testing.T) {
	draw := func(seed uint64) string {
		b := &backoff{retry: pattern.Default(pattern.Hardened).Retry, rand: rand.New(rand.NewPCG(seed, 0))}
		return fmt.Sprint(b.before(1), b.before(2), b.before(1))
	}
	first, again, other := draw(1), draw(1), draw(2)
	if first != again || first == other {
		t.Errorf("waits of seed 1: %s, and %s; of seed 2: %s", first, again, other)
	}
}

// Everything fails, many callers at once: without a budget every call is tried
// three times; with one, the tries beyond the first stay near a fifth.
func TestRetryBudgetBoundsAmplification(t *testing.T) {
	tries := func(budget float64) float64 {
		const callers = 200
		c := &callee{answer: func(int, *http.Request) (int, error) { time.Sleep(20 * time.Millisecond); return 503, nil }}
		synctest.Test(t, func(t *testing.T) {
			cl := client(pattern.Settings{Retry: pattern.Retry{Mode: pattern.Hardened, Tries: 3, Base: 10 * time.Millisecond, Cap: time.Second, Budget: budget}}, c)
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					if _, err := cl.Do(t.Context(), get); KindOf(err) != Status {
						t.Errorf("came to %v, want the last try's status", err)
					}
				})
			}
			all.Wait()
		})
		return float64(c.calls.Load()) / callers
	}
	if n := tries(0); n != 3 {
		t.Errorf("%v tries per call without a budget, want 3", n)
	}
	if n := tries(0.2); n < 1.05 || n > 1.5 {
		t.Errorf("%v tries per call with a budget of 0.2, want 1.05 to 1.5", n)
	}
}

func TestBulkheadAdmitsItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &callee{answer: func(int, *http.Request) (int, error) { time.Sleep(time.Second); return 200, nil }}
		cl := client(pattern.Settings{Bulkhead: pattern.Bulkhead{Mode: pattern.Hardened, Limit: 2, Wait: 10 * time.Millisecond}}, c)
		var ok, full atomic.Int64
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				start := time.Now()
				_, err := cl.Do(t.Context(), get)
				switch {
				case err == nil:
					ok.Add(1)
				case KindOf(err) == Full && time.Since(start) == 10*time.Millisecond:
					full.Add(1)
				default:
					t.Errorf("after %s: %v", time.Since(start), err)
				}
			})
		}
		all.Wait()
		if ok.Load() != 2 || full.Load() != 3 {
			t.Errorf("%d admitted, %d turned away; want 2 and 3", ok.Load(), full.Load())
		}
		if _, err := cl.Do(t.Context(), get); err != nil {
			t.Errorf("after the rush: %v", err)
		}
	})
}

var five = pattern.Settings{Breaker: pattern.Breaker{Mode: pattern.Hardened, Failures: 5, Open: 30 * time.Second, Probes: 1}}

func TestBreakerOpensAtTheFifthFailureInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		c := &callee{}
		c.answer = func(int, *http.Request) (int, error) {
			if fail {
				return 500, nil
			}
			return 200, nil
		}
		cl := client(five, c)
		for range 4 {
			cl.Do(t.Context(), get)
		}
		fail = false
		cl.Do(t.Context(), get) // ends the row
		fail = true
		for i := 1; i <= 5; i++ {
			if s := cl.BreakerState(); s != "closed" {
				t.Fatalf("%s before failure %d in a row", s, i)
			}
			if _, err := cl.Do(t.Context(), get); KindOf(err) != Status {
				t.Fatalf("failure %d: %v", i, err)
			}
		}
		before := c.calls.Load()
		if _, err := cl.Do(t.Context(), get); KindOf(err) != Open || cl.BreakerState() != "open" || cl.Admits() {
			t.Errorf("after the fifth: %v, %s, admits %t", err, cl.BreakerState(), cl.Admits())
		}
		if c.calls.Load() != before {
			t.Error("an open breaker let a call through")
		}
	})
}

func TestHalfOpenAdmitsOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		c := &callee{}
		c.answer = func(int, *http.Request) (int, error) {
			time.Sleep(10 * time.Millisecond)
			if fail {
				return 500, nil
			}
			return 200, nil
		}
		cl := client(five, c)
		for range 5 {
			cl.Do(t.Context(), get)
		}
		rush := func() (through int64) {
			before := c.calls.Load()
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() { cl.Do(t.Context(), get) })
			}
			all.Wait()
			return c.calls.Load() - before
		}
		time.Sleep(30*time.Second - time.Nanosecond)
		if n := rush(); n != 0 {
			t.Errorf("%d of 100 calls passed within the open time", n)
		}
		time.Sleep(time.Millisecond)
		if n := rush(); n != 1 {
			t.Errorf("%d of 100 calls passed when half-open, want 1", n)
		}
		// The probe failed: a full open time again, from now.
		time.Sleep(29 * time.Second)
		if n := rush(); n != 0 {
			t.Errorf("%d calls passed 29 s after a failed probe", n)
		}
		fail = false
		time.Sleep(1100 * time.Millisecond)
		if n := rush(); n != 1 || cl.BreakerState() != "closed" {
			t.Errorf("%d calls passed as probes and the breaker is %s, want 1 and closed", n, cl.BreakerState())
		}
		if n := rush(); n != 100 {
			t.Errorf("%d of 100 calls passed when closed", n)
		}
	})
}

// A call from before the breaker opened says nothing about now: neither its
// late success closes the breaker nor its late failure counts as the probe.
func TestStaleResultsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := &callee{}
		c.answer = func(n int, _ *http.Request) (int, error) {
			if n == 1 {
				<-release
				return 200, nil
			}
			return 500, nil
		}
		cl := client(five, c)
		var all sync.WaitGroup
		all.Go(func() { cl.Do(t.Context(), get) })
		synctest.Wait()
		for range 5 {
			cl.Do(t.Context(), get)
		}
		time.Sleep(31 * time.Second)
		if s := cl.BreakerState(); s != "half-open" {
			t.Fatalf("%s after the open time", s)
		}
		close(release)
		all.Wait()
		if s := cl.BreakerState(); s != "half-open" {
			t.Errorf("a success from 31 s ago made the breaker %s", s)
		}
	})
}

func TestBreakerOpensOnTheRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pattern.Settings{Breaker: pattern.Breaker{Mode: pattern.Hardened, FailureRatio: 0.5, MinCalls: 20, Window: 10 * time.Second, Open: 5 * time.Second, Probes: 1}}
		c := &callee{answer: func(n int, _ *http.Request) (int, error) { return 200 + 300*(n%2), nil }} // odd ones fail
		cl := client(s, c)
		for range 19 {
			cl.Do(t.Context(), get)
		}
		if s := cl.BreakerState(); s != "closed" {
			t.Fatalf("%s after 19 calls", s)
		}
		cl.Do(t.Context(), get) // a success, the 20th
		cl.Do(t.Context(), get) // 11 of 21 failed
		if s := cl.BreakerState(); s != "open" {
			t.Errorf("%s after 11 of 21 failed, want open", s)
		}

		// The same failures spread so that the window never holds twenty.
		c.calls.Store(0)
		cl = client(s, c)
		for range 60 {
			cl.Do(t.Context(), get)
			time.Sleep(600 * time.Millisecond)
		}
		if s := cl.BreakerState(); s != "closed" {
			t.Errorf("%s although no window held 20 calls", s)
		}
	})
}

func TestOpenTimeHasItsJitterFromTheSeed(t *testing.T) {
	b := pattern.Default(pattern.Hardened).Breaker
	seen := make(map[time.Duration]bool)
	for seed := range uint64(50) {
		cl := NewClient(ClientConfig{Edge: "a -> b", Settings: pattern.Settings{Breaker: b}, Seed: seed})
		same := NewClient(ClientConfig{Edge: "a -> b", Settings: pattern.Settings{Breaker: b}, Seed: seed})
		open := cl.breaker.open
		if open != same.breaker.open {
			t.Fatalf("seed %d drew %s and %s", seed, open, same.breaker.open)
		}
		if open < 4*time.Second || open > 6*time.Second {
			t.Errorf("seed %d drew %s, want 5 s ± 20 %%", seed, open)
		}
		seen[open] = true
	}
	if len(seen) < 45 {
		t.Errorf("50 seeds drew only %d open times", len(seen))
	}
}

func TestDeclinedCardsAndTheBreaker(t *testing.T) {
	for name, test := range map[string]struct {
		mode pattern.Mode
		want string
	}{
		"hardened": {pattern.Hardened, "closed"},
		"D13":      {pattern.Textbook, "open"},
	} {
		t.Run(name, func(t *testing.T) {
			s := five
			s.Breaker.Mode = test.mode
			cl := client(s, always(402))
			for range 5 {
				if a, err := cl.Do(t.Context(), keyed); err != nil || a.Status != 402 {
					t.Fatalf("a declined card came to %v, %v", a, err)
				}
			}
			if got := cl.BreakerState(); got != test.want {
				t.Errorf("%s after five declined cards, want %s", got, test.want)
			}
		})
	}
}

// D13: the textbook's call has no timeout, so a hanging callee never fails, and
// a breaker that waits for failures never opens.
func TestD13WithoutTimeoutTheBreakerNeverOpens(t *testing.T) {
	for mode, want := range map[pattern.Mode]string{pattern.Textbook: "closed", pattern.Hardened: "open"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cl := client(pattern.Default(mode), silent())
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() { cl.Do(ctx, get) })
			}
			time.Sleep(4 * time.Second)
			if got := cl.BreakerState(); got != want {
				t.Errorf("%s: %s after 4 s of silence, want %s", mode, got, want)
			}
			cancel()
			all.Wait()
		})
	}
}

func TestOpenBreakerEndsTheRetrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := five
		s.Retry = pattern.Retry{Mode: pattern.Hardened, Tries: 10, Base: time.Second, Cap: time.Second}
		c := always(500)
		start := time.Now()
		if _, err := client(s, c).Do(t.Context(), get); KindOf(err) != Open {
			t.Errorf("came to %v", err)
		}
		if c.calls.Load() != 5 || time.Since(start) != 5*time.Second {
			t.Errorf("%d tries in %s, want 5 tries, and no wait after the breaker's no", c.calls.Load(), time.Since(start))
		}
	})
}

func TestCallersWhoLeaveAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := five
		s.Timeout = time.Second
		cl := client(s, silent())
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			if _, err := cl.Do(ctx, get); KindOf(err) != Canceled {
				t.Fatalf("a caller who left: %v", err)
			}
		}
		if got := cl.BreakerState(); got != "closed" {
			t.Errorf("%s after 20 callers left", got)
		}
	})
}

func TestFallback(t *testing.T) {
	covered := Call{Method: "GET", Path: "/x", Fallback: func(err error) (Answer, error) {
		return Answer{Status: 200, Body: []byte(KindOf(err))}, nil
	}}
	on := client(pattern.Settings{Fallback: pattern.Hardened}, always(500))
	if a, err := on.Do(t.Context(), covered); err != nil || string(a.Body) != "5xx" {
		t.Errorf("with fallback: %q, %v", a.Body, err)
	}
	off := client(pattern.Settings{}, always(500))
	if _, err := off.Do(t.Context(), covered); KindOf(err) != Status {
		t.Errorf("with fallback off: %v", err)
	}
	if a, err := client(pattern.Settings{Fallback: pattern.Hardened}, always(404)).Do(t.Context(), covered); err != nil || a.Status != 404 {
		t.Errorf("an answer was covered up: %v, %v", a, err)
	}
}

func TestRequestCarriesKeyAndTrace(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	var got http.Header
	var replay bool
	c := &callee{answer: func(_ int, r *http.Request) (int, error) {
		got, replay = r.Header, r.GetBody != nil
		return 200, nil
	}}
	ctx := withTrace(t.Context(), "00-"+trace+"-b7ad6b7169203331-01")
	if _, err := client(pattern.Settings{}, c).Do(ctx, Call{Method: "POST", Path: "/x", Key: "k-1", Body: 1}); err != nil {
		t.Fatal(err)
	}
	if got.Get("Idempotency-Key") != "k-1" {
		t.Errorf("Idempotency-Key is %q", got.Get("Idempotency-Key"))
	}
	if tp := got.Get("Traceparent"); !strings.HasPrefix(tp, "00-"+trace+"-") || strings.Contains(tp, "b7ad6b7169203331") || len(tp) != 55 {
		t.Errorf("traceparent is %q, want trace %s and a span of its own", tp, trace)
	}
	if replay {
		t.Error("the transport could resend the request by itself")
	}
}

func TestBadTraceparentStartsANewTrace(t *testing.T) {
	for _, header := range []string{"", "00-xyz", "00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", strings.Repeat("é", 30)} {
		if trace := Trace(withTrace(t.Context(), header)); len(trace) != 32 || !isHex(trace) {
			t.Errorf("header %q gave trace %q", header, trace)
		}
	}
}

// Changes are told in order, and by nobody who holds the breaker's lock: a log
// handler that asks for the state would hang otherwise.
func TestBreakerChangesAreToldOutsideItsLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		var cl *Client
		handler := tap{func(r slog.Record) {
			line := ""
			r.Attrs(func(a slog.Attr) bool {
				if a.Key == "from" || a.Key == "to" {
					line += a.Value.String() + " "
				}
				return true
			})
			told = append(told, line)
			cl.breaker.state()
		}}
		fail := true
		c := &callee{}
		c.answer = func(int, *http.Request) (int, error) {
			if fail {
				return 0, errors.New("gone")
			}
			return 200, nil
		}
		cl = NewClient(ClientConfig{Edge: "a -> b", Address: "b:80", Settings: five, Transport: c, Log: slog.New(handler)})
		for range 5 {
			cl.Do(t.Context(), get)
		}
		time.Sleep(31 * time.Second)
		fail = false
		cl.Do(t.Context(), get)
		if got, want := strings.Join(told, "| "), "closed open | open half-open | half-open closed "; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

type tap struct{ seen func(slog.Record) }

func (tap) Enabled(context.Context, slog.Level) bool        { return true }
func (h tap) Handle(_ context.Context, r slog.Record) error { h.seen(r); return nil }
func (h tap) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h tap) WithGroup(string) slog.Handler                 { return h }

func BenchmarkHardenedCall(b *testing.B) {
	cl := client(pattern.Default(pattern.Hardened), always(200))
	ctx := withTrace(context.Background(), "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cl.Do(ctx, keyed); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("")
	f.Fuzz(func(t *testing.T, header string) {
		ctx := withTrace(context.Background(), header)
		if trace := Trace(ctx); len(trace) != 32 || !isHex(trace) {
			t.Errorf("%q gave the trace %q", header, trace)
		}
		if again := withTrace(context.Background(), traceparent(ctx)); Trace(again) != Trace(ctx) {
			t.Errorf("%q: the callee sees trace %q, not %q", header, Trace(again), Trace(ctx))
		}
	})
}
