package arrival

import (
	"encoding/json"
	"math"
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
	if due, ok := On(Ramp(10, 0, 200*time.Millisecond)).second(); ok {
		t.Errorf("ramp to 0: a second request due at %v", due)
	}
}

func (s *Schedule) second() (time.Duration, bool) { s.Next(); return s.Next() }

// Where vegeta's own pacers are exact, a Profile says the same as they do on the
// virtual clock, to within one request.
func TestAgreesWithVegeta(t *testing.T) {
	for name, c := range map[string]struct {
		p      Profile
		theirs vegeta.Pacer
		gap    time.Duration
	}{
		"constant": {Constant(250), vegeta.ConstantPacer{Freq: 250, Per: time.Second}, 4 * time.Millisecond},
		"linear":   {Ramp(100, 400, 30*time.Second), vegeta.LinearPacer{StartAt: vegeta.Rate{Freq: 100, Per: time.Second}, Slope: 10}, 10 * time.Millisecond},
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
	s := On(Ramp(100, 200, time.Minute))
	for b.Loop() {
		s.Next()
	}
}
