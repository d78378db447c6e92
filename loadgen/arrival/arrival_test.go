package arrival

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"pgregory.net/rapid"
)

func TestRateText(t *testing.T) {
	for in, want := range map[string]Rate{
		"200/s": 200, "30/m": 0.5, "100/h": 100.0 / 3600, "0.5/s": 0.5, " 1e3 / s ": 1000, "0/s": 0, "-5/s": -5,
	} {
		var r Rate
		if err := r.UnmarshalText([]byte(in)); err != nil || r != want {
			t.Errorf("%q = %v, %v; want %v", in, float64(r), err, float64(want))
		}
	}
	for in, want := range map[string]string{
		"200": "no unit", "": "no unit", "/s": "not a number", "x/s": "not a number", "inf/s": "not a number", "1e999/s": "not a number",
		"0x10/s": "not a number", "5/ms": `unit "ms" is not one of s, m, h`, "5/": `unit ""`, "5/s/s": `unit "s/s"`,
	} {
		var r Rate
		if err := r.UnmarshalText([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", in, err, want)
		}
	}
	for r, want := range map[Rate]string{200: "200/s", 0.5: "30/m", 0.25: "15/m", Rate(100.0 / 3600): "100/h", 0.05: "3/m", 0: "0/s"} {
		if r.String() != want {
			t.Errorf("%v is written %q, want %q", float64(r), r.String(), want)
		}
	}
}

func TestRateTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Rate(rapid.Float64Range(-1e12, 1e12).Draw(t, "rate"))
		raw, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Rate
		if err := json.Unmarshal(raw, &got); err != nil || got != want {
			t.Fatalf("%v is written %s and read %v, %v", float64(want), raw, float64(got), err)
		}
	})
}

var drawProfile = rapid.Custom(func(t *rapid.T) Profile {
	rate := rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0, 5), rapid.Float64Range(0, 3000))
	legs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Leg {
		from := rate.Draw(t, "from")
		to := rapid.OneOf(rapid.Just(from), rate).Draw(t, "to")
		return Leg{Rate(from), Rate(to), time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "for"))}
	}), 0, 5).Draw(t, "legs")
	return Stages(legs...)
})

// The law of arrivals: they never go back, and at no moment does their number
// differ from the integral of the rate by more than one.
func TestCountFollowsTheIntegralOfTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProfile.Draw(t, "profile")
		until := time.Duration(rapid.Int64Range(0, int64(12*time.Second)).Draw(t, "until"))
		s, last, n := On(p), time.Duration(0), 0
		for {
			due, ok := s.Next()
			if !ok || due >= until {
				break
			}
			if due < last {
				t.Fatalf("request %d is due at %v, before the one before it at %v", n, due, last)
			}
			if exact, _ := p.Due(uint64(n)); exact != due {
				t.Fatalf("request %d: the virtual clock says %v, Due says %v", n, due, exact)
			}
			if h := p.Expected(due); math.Abs(h-float64(n)) > 1 {
				t.Fatalf("%d requests were due at %v, the rate adds up to %v", n, due, h)
			}
			last = due
			n++
		}
		if h := p.Expected(until); math.Abs(h-float64(n)) > 1 {
			t.Fatalf("%d requests are due before %v, the rate adds up to %v", n, until, h)
		}
		if c := p.Count(until); c != n {
			t.Fatalf("Count(%v) = %d, the schedule yields %d", until, c, n)
		}
	})
}

// drawCurve is any rate there is.
var drawCurve = rapid.Custom(func(t *rapid.T) curve {
	rate := rapid.Float64Range(0.1, 2000)
	long := rapid.Int64Range(int64(10*time.Millisecond), int64(5*time.Second))
	span := func(name string) time.Duration { return time.Duration(long.Draw(t, name)) }
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return drawProfile.Draw(t, "profile")
	case 1:
		from, to := Rate(rate.Draw(t, "from")), Rate(rate.Draw(t, "to"))
		return Step(from, max((to-from)/7, (from-to)/7, 0.1), span("every"), to)
	case 2:
		return Spike(Rate(rate.Draw(t, "base")), Rate(rate.Draw(t, "peak")), span("at"), span("for"))
	}
	mean := rate.Draw(t, "mean")
	share := rapid.OneOf(rapid.Just(1.0), rapid.Float64Range(0, 1)).Draw(t, "amplitude/mean")
	phase := rapid.SampledFrom([]Phase{"", MeanUp, Peak, MeanDown, Trough}).Draw(t, "phase")
	return Sine{Mean: Rate(mean), Amplitude: Rate(mean * share), Period: span("period"), Phase: phase}
})

type curve interface {
	Process
	Curve
}

// The same law for every rate there is: requests never go back, and their number
// is within one of the integral.
func TestEvenCountFollowsEveryCurve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, until := drawCurve.Draw(t, "curve"), 6*time.Second
		s, last, n := On(c), time.Duration(0), 0
		for {
			due, ok := s.Next()
			if !ok || due >= until {
				break
			}
			if due < last {
				t.Fatalf("request %d is due at %v, before the one before it at %v", n, due, last)
			}
			if h := c.Expected(due); math.Abs(h-float64(n)-0.5) > 0.01 {
				t.Fatalf("request %d is due at %v, where the rate adds up to %v", n, due, h)
			}
			last = due
			n++
		}
		if h := c.Expected(until); math.Abs(h-float64(n)) > 1 {
			t.Fatalf("%d requests are due before %v, the rate adds up to %v", n, until, h)
		}
	})
}

// Expected is the integral of Rate also where there is no trapezoidal rule to
// agree exactly: between close moments it grows by rate times time.
func TestSineIntegratesItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Sine{Mean: 500, Amplitude: Rate(rapid.Float64Range(0, 500).Draw(t, "amplitude")), Period: time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Hour)).Draw(t, "period")),
			Phase: rapid.SampledFrom([]Phase{MeanUp, Peak, MeanDown, Trough}).Draw(t, "phase")}
		at := time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "at"))
		const dt = time.Millisecond
		got := s.Expected(at+dt) - s.Expected(at)
		want := (s.Rate(at) + s.Rate(at+dt)) / 2 * dt.Seconds()
		if math.Abs(got-want) > 1e-4 {
			t.Fatalf("from %v on %v requests in %v, by the rate %v", at, got, dt, want)
		}
	})
}

// All parts of a schedule together are the schedule, whatever it is made of.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCurve.Draw(t, "curve")
		process := rapid.SampledFrom([]Process{c, Poisson{Curve: c, Seed: 7}}).Draw(t, "process")
		of := rapid.IntRange(1, 5).Draw(t, "of")
		var parts []*Schedule
		for i := range of {
			parts = append(parts, Split(process, i, of))
		}
		whole := On(process)
		for k := range 300 {
			want, wantOK := whole.Next()
			got, ok := parts[k%of].Next()
			if got != want || ok != wantOK {
				t.Fatalf("request %d is due at %v (%t), in part %d of %d at %v (%t)", k, want, wantOK, k%of, of, got, ok)
			}
			if !ok {
				return
			}
			if parts[k%of].Seq() != uint64(k) || whole.Seq() != uint64(k) {
				t.Fatalf("request %d is number %d, in its part %d", k, whole.Seq(), parts[k%of].Seq())
			}
		}
	})
}

// Kolmogorov and Smirnov's test of Poisson arrivals: under any rate, the steps of
// H between them are exponential. With n = 5000 the largest distance between the
// two distribution functions stays below 1.95/√n in all but one of 1,000 runs;
// the seeds are fixed, so that it passes always or never.
func TestPoissonIsExponential(t *testing.T) {
	for name, c := range map[string]curve{
		"constant": Constant(700),
		"ramp":     Ramp(0, 2000, 5*time.Second),
		"pauses":   Stages(Leg{500, 500, time.Second}, Leg{0, 0, time.Second}, Leg{1000, 1000, time.Second}),
		"sine":     Sine{Mean: 800, Amplitude: 800, Period: 2 * time.Second, Phase: Trough},
	} {
		for _, seed := range []uint64{0, 1, 2} {
			const n = 5000
			s, last := On(Poisson{Curve: c, Seed: seed}), 0.0
			var gaps []float64
			for range n {
				due, ok := s.Next()
				if !ok {
					t.Fatalf("%s: no request after %d", name, len(gaps))
				}
				h := c.Expected(due)
				gaps = append(gaps, h-last)
				last = h
			}
			slices.Sort(gaps)
			distance := 0.0
			for i, g := range gaps {
				f := 1 - math.Exp(-g)
				distance = max(distance, math.Abs(f-float64(i)/n), math.Abs(f-float64(i+1)/n))
			}
			if limit := 1.95 / math.Sqrt(n); distance > limit {
				t.Errorf("%s, seed %d: the gaps are %.4f from an exponential distribution, at most %.4f", name, seed, distance, limit)
			}
		}
	}
	if a, b := On(Poisson{Curve: Constant(1), Seed: 1}), On(Poisson{Curve: Constant(1), Seed: 2}); func() bool { x, _ := a.Next(); y, _ := b.Next(); return x == y }() {
		t.Error("two seeds give the same first request")
	}
}

// The number of Poisson arrivals varies as it should: its variance is its mean.
func TestPoissonVariance(t *testing.T) {
	const runs, mean = 400, 100
	var sum, squares float64
	for seed := range uint64(runs) {
		s, n := On(Poisson{Curve: Constant(mean), Seed: seed}), 0.0
		for due, ok := s.Next(); ok && due < time.Second; due, ok = s.Next() {
			n++
		}
		sum += n
		squares += n * n
	}
	m := sum / runs
	v := squares/runs - m*m
	if math.Abs(m-mean) > 3 || v < 70 || v > 140 {
		t.Errorf("%d runs have %.1f arrivals with variance %.1f; a Poisson process has %d and %d", runs, m, v, mean, mean)
	}
}

// Expected is the integral of Rate, by the trapezoidal rule.
func TestExpectedIntegratesRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProfile.Draw(t, "profile")
		var sum float64
		const step = 5 * time.Millisecond
		for at := time.Duration(0); at < 6*time.Second; at += step {
			sum += (p.Rate(at) + p.Rate(at+step-1)) / 2 * step.Seconds()
		}
		// A leg may begin inside a step: then the sum is off by up to a step's worth.
		if h := p.Expected(6 * time.Second); math.Abs(h-sum) > 5*3000*step.Seconds()+1e-6*sum {
			t.Fatalf("the rate adds up to %v, Expected says %v", sum, h)
		}
	})
}

func TestKnownSchedules(t *testing.T) {
	ms := func(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }
	for name, c := range map[string]struct {
		p    Profile
		want []time.Duration
	}{
		"constant 200/s": {Constant(200), []time.Duration{ms(2.5), ms(7.5), ms(12.5)}},
		"ramp from 0":    {Ramp(0, 100, 10*time.Second), []time.Duration{316227766, 547722558, 707106781}}, // √((2k+1)/10) s
		"ramp to 0":      {Ramp(10, 0, 200*time.Millisecond), []time.Duration{ms(58.578644)}},              // H ends at 1
		"pause first":    {Stages(Leg{0, 0, time.Second}, Leg{100, 100, time.Second}), []time.Duration{ms(1005), ms(1015)}},
		"up and hold":    {Stages(Leg{0, 20, 100 * time.Millisecond}, Leg{20, 20, time.Second}), []time.Duration{ms(70.710678), ms(125)}},
		"never":          {Constant(0), nil},
		"zero value":     {Profile{}, nil},
	} {
		s := On(c.p)
		for k, want := range c.want {
			if got, ok := s.Next(); !ok || (got-want).Abs() > time.Nanosecond {
				t.Errorf("%s: request %d due at %v, %t; want %v", name, k, got, ok, want)
			}
		}
		if c.want == nil {
			if got, ok := s.Next(); ok {
				t.Errorf("%s: a request due at %v", name, got)
			}
		}
	}
	for name, c := range map[string]struct {
		p    Process
		want []float64 // the number of requests in each second
	}{
		"step up":   {Step(1, 2, time.Second, 6), []float64{1, 3, 5, 6, 6}},
		"step down": {Step(6, 2, time.Second, 1), []float64{6, 4, 2, 1, 1}},
		"spike":     {Spike(2, 9, time.Second, 2*time.Second), []float64{2, 9, 9, 2}},
		"no base":   {Spike(0, 9, 0, time.Second), []float64{9, 0, 0}},
		"sine":      {Sine{Mean: 10, Amplitude: 10, Period: 4 * time.Second, Phase: MeanDown}, []float64{10 - 20/math.Pi, 10 - 20/math.Pi, 10 + 20/math.Pi, 10 + 20/math.Pi}},
	} {
		for i, want := range c.want {
			at := time.Duration(i) * time.Second
			if got := c.p.Expected(at+time.Second) - c.p.Expected(at); math.Abs(got-want) > 1e-9 {
				t.Errorf("%s: %v requests in second %d, want %v", name, got, i, want)
			}
		}
	}
	if due, ok := On(Ramp(10, 0, 200*time.Millisecond)).second(); ok {
		t.Errorf("ramp to 0: a second request due at %v", due)
	}
}

func (s *Schedule) second() (time.Duration, bool) { s.Next(); return s.Next() }

// Where vegeta's own pacers are exact, a Profile says the same as they do on the
// virtual clock, to within one request.
func TestAgreesWithVegeta(t *testing.T) {
	for name, c := range map[string]struct {
		p      Process
		theirs vegeta.Pacer
		gap    time.Duration
	}{
		"constant": {Constant(250), vegeta.ConstantPacer{Freq: 250, Per: time.Second}, 4 * time.Millisecond},
		"sine": {Sine{Mean: 200, Amplitude: 150, Period: 10 * time.Second, Phase: Trough},
			vegeta.SinePacer{Period: 10 * time.Second, Mean: vegeta.Rate{Freq: 200, Per: time.Second}, Amp: vegeta.Rate{Freq: 150, Per: time.Second}, StartAt: vegeta.Trough}, 20 * time.Millisecond},
		"linear": {Ramp(100, 400, 30*time.Second), vegeta.LinearPacer{StartAt: vegeta.Rate{Freq: 100, Per: time.Second}, Slope: 10}, 10 * time.Millisecond},
	} {
		ours, theirs := On(c.p), On(c.theirs)
		for k := range 2000 {
			a, _ := ours.Next()
			b, _ := theirs.Next()
			if (a - b).Abs() > c.gap {
				t.Errorf("%s: request %d is due at %v, vegeta says %v", name, k, a, b)
				break
			}
		}
	}
}

func TestNoDriftAtHighRates(t *testing.T) {
	// vegeta's ConstantPacer, in whole nanoseconds, is 3,600 requests off after an hour at this rate.
	if got := Constant(999_999).Count(time.Hour); math.Abs(float64(got)-999_999*3600) > 1 {
		t.Errorf("an hour at 999,999/s has %d requests", got)
	}
}

func BenchmarkNext(b *testing.B) {
	sine := Sine{Mean: 100, Amplitude: 50, Period: time.Minute}
	for name, p := range map[string]Process{
		"ramp": Ramp(100, 200, time.Minute), "sine": sine, "poisson": Poisson{Curve: Constant(100)}, "poisson sine": Poisson{Curve: sine},
	} {
		b.Run(name, func(b *testing.B) {
			s := On(p)
			for b.Loop() {
				s.Next()
			}
		})
	}
}
