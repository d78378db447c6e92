package proxy

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestValidate(t *testing.T) {
	ms := time.Millisecond
	for want, r := range map[string]Rule{
		"":                       {Name: "ok", Percent: 0.5, Latency: &Latency{Delay: 20 * ms, Jitter: 20 * ms}},
		"without a name":         {Refuse: &Refuse{}},
		"0 kinds set":            {Name: "x"},
		"2 kinds set":            {Name: "x", Refuse: &Refuse{}, Reset: &Cut{}},
		"percent is NaN":         {Name: "x", Percent: math.NaN(), Refuse: &Refuse{}},
		"percent is 1.5":         {Name: "x", Percent: 1.5, Refuse: &Refuse{}},
		"delay is -1ms":          {Name: "x", Latency: &Latency{Delay: -ms}},
		"jitter is -1ms":         {Name: "x", Latency: &Latency{Jitter: -ms}},
		"delay is 2562047h":      {Name: "x", Latency: &Latency{Delay: math.MaxInt64}},
		"after 1 bytes and wait": {Name: "x", Reset: &Cut{After: 1, Wait: ms}},
		"only a reset":           {Name: "x", Blackhole: &Cut{Wait: ms}},
		"wait is -1ms":           {Name: "x", Reset: &Cut{Wait: -ms}},
		"for is -1ms":            {Name: "x", Silence: &Silence{For: -ms}},
		`direction is "down"`:    {Name: "x", Silence: &Silence{Direction: "down"}},
		"average is 0":           {Name: "x", Slice: &Slice{}},
		"average is 922":         {Name: "x", Slice: &Slice{Average: math.MaxInt64}},
		"variation is 3 bytes":   {Name: "x", Slice: &Slice{Average: 2, Variation: 3}},
		"variation is -1":        {Name: "x", Slice: &Slice{Average: 2, Variation: -1}},
		"delay is -1s":           {Name: "x", Slice: &Slice{Average: 2, Delay: -time.Second}},
		"limit is -1":            {Name: "x", Limit: &Limit{Bytes: -1}},
		"delay is -2ms":          {Name: "x", SlowClose: &SlowClose{Delay: -2 * ms}},
		"ratio is NaN":           {Name: "x", Loss: &Loss{Ratio: math.NaN()}},
		"pulse is 1s on, 0s off": {Name: "x", Refuse: &Refuse{}, When: When{Pulse: Pulse{On: time.Second}}},
		"pulse on is":            {Name: "x", Refuse: &Refuse{}, When: When{Pulse: Pulse{On: math.MaxInt64, Off: ms}}},
		`source is "10.0.0.0/33`: {Name: "x", Refuse: &Refuse{}, When: When{Source: "10.0.0.0/33"}},
		`source is "localhost"`:  {Name: "x", Refuse: &Refuse{}, When: When{Source: "localhost"}},
		"ramp is -1ms":           {Name: "x", Refuse: &Refuse{}, When: When{Ramp: -ms}},
		"ratio is 2":             {Name: "x", Corrupt: &Corrupt{Ratio: 2}},
		"delay is -3ms":          {Name: "x", Connect: &Connect{Delay: -3 * ms}},
		"correlation is 1.1":     {Name: "x", Loss: &Loss{Correlation: 1.1}},
		`distribution is "zipf"`: {Name: "x", Latency: &Latency{Distribution: "zipf"}},
		"delay is 0, want a":     {Name: "x", Latency: &Latency{Distribution: "normal", Jitter: ms}},
		"jitter is 2ms, want no": {Name: "x", Latency: &Latency{Distribution: "exponential", Delay: ms, Jitter: 2 * ms}},
		`direction is "both"`:    {Name: "x", Latency: &Latency{Direction: "both"}},
		"status is 100":          {Name: "x", Error: &Error{Status: 100}},
		"after is -1":            {Name: "x", Blackhole: &Cut{After: -1}},
		"rate is -5":             {Name: "x", Bandwidth: &Bandwidth{BytesPerS: -5}},
	} {
		err := r.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
	p := startProxy(t, TCP, "")
	if _, err := p.Add(Rule{Name: "e", Error: &Error{Status: 500}}); err == nil || !strings.Contains(err.Error(), "http edge") {
		t.Errorf("an error status on a TCP edge: %v", err)
	}
	p = startProxy(t, HTTP, "")
	for _, r := range []Rule{
		{Silence: &Silence{}}, {Limit: &Limit{}}, {SlowClose: &SlowClose{}}, {Reset: &Cut{Wait: ms}},
	} {
		r.Name = "x"
		if _, err := p.Add(r); err == nil || !strings.Contains(err.Error(), "tcp edge") {
			t.Errorf("%s on an HTTP edge: %v", r.kind(), err)
		}
	}
}

// TestDraws: the share that is hit is the share asked for, whatever the seed and
// the name; and the draws of two rules know nothing of each other.
func TestDraws(t *testing.T) {
	const n = 100_000
	for seed := range uint64(5) {
		for _, percent := range []float64{0, 0.001, 0.1, 0.5, 0.9, 1} {
			a := newActive(Rule{Name: "a", Percent: percent}, 1, seed)
			b := newActive(Rule{Name: "b", Percent: percent}, 2, seed)
			hits, both := 0, 0
			for i := range uint64(n) {
				if a.hits(i) {
					hits++
					if b.hits(i) {
						both++
					}
				}
			}
			within := func(what string, got int, p float64) {
				if d := math.Abs(float64(got) - n*p); d > 4*math.Sqrt(n*p*(1-p)) {
					t.Errorf("seed %d, %v: %s %d of %d, more than 4σ off", seed, percent, what, got, n)
				}
			}
			within("hit", hits, percent)
			within("hit by both", both, percent*percent)
		}
	}
}

func TestJitterIsUniform(t *testing.T) {
	a := newActive(Rule{Name: "a", Latency: &Latency{Delay: 100 * time.Millisecond, Jitter: 40 * time.Millisecond}}, 1, 7)
	const n = 100_000
	var sum float64
	low, high := time.Hour, time.Duration(0)
	for i := range uint64(n) {
		d := a.delay(i, 0)
		sum += d.Seconds()
		low, high = min(low, d), max(high, d)
	}
	// The mean of n uniform draws of half-width w has a standard error of w/√(3n).
	if mean := sum / n; math.Abs(mean-0.1) > 4*0.04/math.Sqrt(3*n) {
		t.Errorf("mean is %v s, want 0.1", mean)
	}
	if low < 60*time.Millisecond || low > 61*time.Millisecond || high > 140*time.Millisecond || high < 139*time.Millisecond {
		t.Errorf("from %v to %v, want 60ms to 140ms", low, high)
	}
}

// TestBucketKeepsItsRate: however late and in whatever pieces it is asked, bytes
// that keep waiting pass at the rate, to within one quantum and what it was late.
func TestBucketKeepsItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, maxRate).Draw(t, "rate")
		a := newActive(Rule{Name: "a", Bandwidth: &Bandwidth{BytesPerS: rate}}, 1, 0)
		now := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "start"))
		b := newBucket(a, now)
		start, passed := now, int64(0)
		var late time.Duration
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n, again := b.admit(now, rapid.IntRange(1, largeBuffer).Draw(t, "waiting"))
			if n == 0 {
				if again <= now {
					t.Fatalf("nothing may pass at %v, ask again at %v", now, again)
				}
				late = time.Duration(rapid.Int64Range(0, int64(5*time.Millisecond)).Draw(t, "late"))
				now = again + late
				if n, _ := b.admit(now, 1); n == 0 {
					t.Fatalf("asked again at %v as told, and still nothing may pass", now)
				}
				continue
			}
			b.passed(now, n)
			passed += int64(n)
			if most := float64(rate) * (now - start).Seconds(); float64(passed) > most*(1+1e-9)+1 {
				t.Fatalf("%d bytes passed in %v at %d B/s, at most %.0f may", passed, now-start, rate, most)
			}
		}
	})
}

// TestBucketCountsParts: portions that take parts of a nanosecond add up, and
// nothing passes on the part that is left.
func TestBucketCountsParts(t *testing.T) {
	b := newBucket(newActive(Rule{Name: "a", Bandwidth: &Bandwidth{BytesPerS: maxRate}}, 1, 0), 0)
	passed := 0
	for now := range time.Duration(1000) {
		n, _ := b.admit(now, 7)
		for n > 0 {
			b.passed(now, n)
			passed += n
			n, _ = b.admit(now, 7)
		}
		if most := int(now) * 1000; passed > most || passed <= most-7 {
			t.Fatalf("%d bytes passed in %v at 1000 bytes a nanosecond", passed, now)
		}
	}
}

func TestBucketDoesNotDrift(t *testing.T) {
	for _, rate := range []int64{1000, 30_000, 1_000_000, 7_777_777, 200_000_000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			a := newActive(Rule{Name: "a", Bandwidth: &Bandwidth{BytesPerS: rate}}, 1, 0)
			b := newBucket(a, 0)
			now, passed := time.Duration(0), int64(0)
			for i := 0; now < 10*time.Second; i++ {
				n, again := b.admit(now, largeBuffer)
				if n == 0 {
					now = again + time.Duration(i%17)*100*time.Microsecond // each time late, as timers are
					continue
				}
				b.passed(now, n)
				passed += int64(n)
			}
			if got := float64(passed) / now.Seconds() / float64(rate); math.Abs(got-1) > 0.005 {
				t.Errorf("%.4f of the rate", got)
			}
		})
	}
}

// TestBucketBoundsEveryWindow: a stall is made up for bit by bit, so that no tenth of
// a second has more than 1.1 times its part; and it is made up for, soon.
func TestBucketBoundsEveryWindow(t *testing.T) {
	type portion struct {
		at    time.Duration
		bytes int
	}
	for _, rate := range []int64{10_000, 1_000_000, 10_000_000, 500_000_000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			b := newBucket(newActive(Rule{Name: "a", Bandwidth: &Bandwidth{BytesPerS: rate}}, 1, 0), 0)
			var all []portion
			now, passed, stall := time.Duration(0), int64(0), time.Second
			for now < 10*time.Second {
				n, again := b.admit(now, largeBuffer)
				if n > 0 {
					b.passed(now, n)
					passed += int64(n)
					all = append(all, portion{now, n})
					continue
				}
				now = again + time.Duration(len(all)%9)*100*time.Microsecond // each time late, as timers are …
				if now > stall {                                             // … and now and then not to be had
					now, stall = now+9*time.Millisecond, stall+time.Second
				}
			}
			worst, sum, first := 0, 0, 0
			for _, p := range all {
				for sum += p.bytes; p.at-all[first].at >= 100*time.Millisecond; first++ {
					sum -= all[first].bytes
				}
				worst = max(worst, sum)
			}
			if got := float64(worst) / (float64(rate) / 10); got > 1.1 {
				t.Errorf("%.3f times its part in the worst 100 ms, want 1.1 at most", got)
			}
			if got := float64(passed) / now.Seconds() / float64(rate); math.Abs(got-1) > 0.0015 {
				t.Errorf("%.5f of the rate", got)
			}
		})
	}
}
