package verdict

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func close4(a, b float64) bool { return math.Abs(a-b) < 5e-5 }

// The values are those of the tables of exact binomial limits; where none of the
// n is bad they also follow from 1 - 0.05^(1/n).
func TestBoundsAreExact(t *testing.T) {
	for _, c := range []struct {
		good, n   float64
		low, high float64
	}{
		{100, 100, 1 - 0.02951, 1},
		{300, 300, 1 - 0.00994, 1},
		{0, 100, 0, 0.02951},
		{99, 100, 1 - 0.04656, 1 - 0.00051},
		{95, 100, 1 - 0.10225, 1 - 0.01991},
		{5, 10, 0.22244, 0.77756},
		{8, 10, 0.49310, 0.96323},
	} {
		low, high := bounds(c.good, c.n, 0.95)
		if !close4(low, c.low) || !close4(high, c.high) {
			t.Errorf("%g of %g good: got [%.5f, %.5f], want [%.5f, %.5f]", c.good, c.n, low, high, c.low, c.high)
		}
	}
	for _, c := range []struct {
		n    int
		bad  float64
		more bool // n does not suffice, n is one too few
	}{{299, 0.01, false}, {298, 0.01, true}, {2995, 0.001, false}, {2994, 0.001, true}, {29956, 0.0001, false}, {29955, 0.0001, true}} {
		low, _ := bounds(float64(c.n), float64(c.n), 0.95)
		if tooFew := 1-low > c.bad; tooFew != c.more {
			t.Errorf("0 bad of %d shows less than %.6f bad; is it too few to show less than %g? got %v, want %v", c.n, 1-low, c.bad, tooFew, c.more)
		}
	}
}

// The bounds are defined by the binomial tail: at the bound, as many good ones
// or more (or fewer) come with probability 1-confidence. Checked by summing it.
func TestBoundsInvertTheBinomialTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 3000).Draw(t, "n")
		x := rapid.IntRange(1, n-1).Draw(t, "x")
		confidence := rapid.SampledFrom([]float64{0.8, 0.95, 0.99, 0.9999}).Draw(t, "confidence")
		low, high := bounds(float64(x), float64(n), confidence)
		if got := upperTail(n, x, low); math.Abs(got-(1-confidence)) > 1e-6 {
			t.Errorf("P(X >= %d of %d) at the lower bound %g is %g, want %g", x, n, low, got, 1-confidence)
		}
		if got := 1 - upperTail(n, x+1, high); math.Abs(got-(1-confidence)) > 1e-6 {
			t.Errorf("P(X <= %d of %d) at the upper bound %g is %g, want %g", x, n, high, got, 1-confidence)
		}
	})
}

// upperTail is P(X >= x) of Binomial(n, p), summed term by term.
func upperTail(n, x int, p float64) float64 {
	lg := func(v int) float64 { l, _ := math.Lgamma(float64(v) + 1); return l }
	var sum float64
	for k := x; k <= n; k++ {
		sum += math.Exp(lg(n) - lg(k) - lg(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	return sum
}

func TestBoundsStandInMillions(t *testing.T) {
	low, high := bounds(2e6-3, 2e6, 0.95)
	if !(low < 1-1.5e-6 && low > 1-4e-6 && high > 1-1.5e-6 && high < 1) {
		t.Errorf("3 bad of 2 million: [%.8f, %.8f]", low, high)
	}
	low, high = bounds(123456.7, 1e7, 0.95)
	if !(low < 0.01234567 && high > 0.01234567 && high-low < 2e-4) {
		t.Errorf("123456.7 of 10 million: [%.8f, %.8f]", low, high)
	}
}

func TestDecidable(t *testing.T) {
	for _, c := range []struct {
		target               float64
		n                    int
		pass, fail, smallest int
	}{
		{0.99, 298, -1, 7, 299},
		{0.99, 299, 0, 7, 299},
		{0.99, 473, 1, 10, 299}, // the next step of the exact table
		{0.99, 472, 0, 10, 299},
		{0.95, 4000, 177, 224, 59},
		{0.999, 2995, 0, 7, 2995},
		{0.9999, 29956, 0, 7, 29956},
		{0.99, 0, -1, 1, 299},
		{1, 1000, -1, 1, 0},
		{0, 10, 10, 11, 1},
	} {
		pass, fail, smallest := Decidable(c.target, c.n, 0.95)
		if pass != c.pass || fail != c.fail || smallest != c.smallest {
			t.Errorf("Decidable(%g, %d): got pass up to %d, fail from %d, %d samples; want %d, %d, %d",
				c.target, c.n, pass, fail, smallest, c.pass, c.fail, c.smallest)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		target := rapid.Float64Range(0.5, 0.9999).Draw(t, "target")
		n := rapid.IntRange(1, 20000).Draw(t, "n")
		pass, fail, _ := Decidable(target, n, 0.95)
		c := claim{target, true}
		at := func(bad int) Verdict { return c.verdict(bounds(float64(n-bad), float64(n), 0.95)) }
		for _, bad := range []int{pass - 1, pass, pass + 1, fail - 1, fail, fail + 1} {
			if bad < 0 || bad > n {
				continue
			}
			want := Inconclusive
			if bad <= pass {
				want = Pass
			}
			if bad >= fail {
				want = Fail
			}
			if got := at(bad); got != want {
				t.Errorf("target %g: %d bad of %d judge %s, Decidable says %s", target, bad, n, got, want)
			}
		}
	})
}

func TestEnoughIsEnoughAndNoMore(t *testing.T) {
	for _, c := range []struct {
		claim    claim
		estimate float64
		want     float64
	}{
		{claim{0.99, true}, 1, 299},
		{claim{0.999, true}, 1, 2995},
		{claim{0.99, true}, 0.99, 0}, // on the target: nothing decides
		{claim{1, true}, 1, 0},
	} {
		if got := c.claim.enough(c.estimate, 0.95); got != c.want {
			t.Errorf("%+v at %g: %g samples decide, want %g", c.claim, c.estimate, got, c.want)
		}
	}
	c := claim{0.99, true}
	n := c.enough(0.985, 0.95)
	if got := c.verdict(bounds(0.985*n, n, 0.95)); got != Fail {
		t.Errorf("with %g samples: %s, want fail", n, got)
	}
	if got := c.verdict(bounds(0.985*n*0.97, n*0.97, 0.95)); got != Inconclusive {
		t.Errorf("with 3 %% fewer than %g samples: %s, want inconclusive", n, got)
	}
}

// process draws the windows of one phase.
type process struct {
	name string
	draw func(r *rand.Rand) []window
	p    float64 // the true share of good ones
}

// independent: rate per window, each request good with probability p.
func independent(windows, rate int, p float64) process {
	return process{fmt.Sprintf("independent, %d windows of %d, p=%g", windows, rate, p), func(r *rand.Rand) []window {
		ws := make([]window, windows)
		for k := range ws {
			ws[k].n = rate
			for range rate {
				if r.Float64() < p {
					ws[k].good++
				}
			}
		}
		return ws
	}, p}
}

// bursty: a stationary renewal process of bursts. A burst begins in any window
// outside one with probability 1/gap and lasts for exactly length windows, in
// which requests fail with probability fail.
func bursty(windows, rate, length int, gap, fail float64) process {
	// Mean cycle: gap-1 windows of calm (a burst may follow the last one at once), length of burst.
	cycle := gap - 1 + float64(length)
	bad := float64(length) / cycle
	return process{fmt.Sprintf("bursts of %d00 ms, %.0f expected in %d windows of %d", length, float64(windows)/cycle, windows, rate),
		func(r *rand.Rand) []window {
			ws := make([]window, windows)
			left := 0
			if r.Float64() < bad {
				left = 1 + r.IntN(length) // in the middle of one
			}
			for k := range ws {
				if left == 0 && r.Float64() < 1/gap {
					left = length
				}
				ws[k].n = rate
				for range rate {
					if left == 0 || r.Float64() >= fail {
						ws[k].good++
					}
				}
				left = max(0, left-1)
			}
			return ws
		}, 1 - bad*fail}
}

// planned lets all requests fail in some windows, as the plan has it, and the
// rest be as in p.
func planned(p process, from, to int) process {
	const windows, rate = 200, 20
	away := float64(to-from) / windows
	return process{fmt.Sprintf("a planned outage of %d00 ms, else %s", to-from, p.name), func(r *rand.Rand) []window {
		ws := p.draw(r)
		for k := from; k < to; k++ {
			ws[k] = window{n: rate, regime: 1}
		}
		return ws
	}, (1 - away) * p.p}
}

// thorough multiplies the number of simulated runs: go test -run Coverage -args -thorough 50.
var thorough = flag.Int("thorough", 1, "so many times as many simulated runs")

// Each one-sided bound may miss the true share in at most 5 % of phases, plus
// what chance adds to so many simulated ones (three standard deviations). Phases that
// are too short for their burstiness are counted too: their bounds are reported.
func TestCoverage(t *testing.T) {
	runs := 400 * *thorough
	for i, p := range []process{
		independent(120, 20, 0.99),
		independent(120, 20, 0.999),
		independent(200, 6, 0.95),
		independent(200, 20, 0.5),
		independent(1000, 2, 0.9),
		bursty(600, 20, 10, 20, 1),   // 20 bursts of 1 s in a minute
		bursty(1200, 20, 10, 50, 1),  // 20 in two minutes
		bursty(1200, 20, 10, 50, .5), // half of the requests in them
		bursty(3000, 5, 10, 140, 1),  // 20 in five minutes
		bursty(3000, 20, 10, 40, 1),  // 60 in five minutes
		bursty(400, 20, 2, 10, 1),    // short ones
		bursty(1200, 20, 20, 40, .8), // long ones
		planned(independent(200, 20, 0.99), 20, 53),
		planned(independent(200, 20, 0.8), 100, 120),
		planned(bursty(200, 20, 2, 8, 1), 100, 120),
	} {
		r := rand.New(rand.NewPCG(uint64(i), 7))
		truth := p.p
		var low, high, short int
		for range runs {
			s := estimateShare(p.draw(r), 0.95)
			if s.low > truth {
				low++
			}
			if s.high < truth {
				high++
			}
			if s.short {
				short++
			}
		}
		n := float64(runs)
		most := 0.05 + 3*math.Sqrt(0.05*0.95/n)
		t.Logf("%-60s low misses %4.1f %%, high misses %4.1f %%, too short %4.1f %%", p.name, 100*float64(low)/n, 100*float64(high)/n, 100*float64(short)/n)
		if float64(low)/n > most || float64(high)/n > most {
			t.Errorf("%s: low misses %.1f %%, high misses %.1f %%, want at most %.1f %%", p.name, 100*float64(low)/n, 100*float64(high)/n, 100*most)
		}
	}
}

// A phase too short for its burstiness may fail, never pass: each spell then
// counts as one sample. Such a fail must be as rarely wrong as any other.
func TestFailsInShortPhasesAreRarelyWrong(t *testing.T) {
	runs := 400 * *thorough
	for i, p := range []process{
		bursty(200, 20, 20, 60, 1),
		bursty(200, 20, 40, 60, 1),
		bursty(200, 20, 20, 150, 1),
		bursty(200, 20, 30, 60, 0.5),
	} {
		r := rand.New(rand.NewPCG(uint64(i), 8))
		var wrong, short int
		for range runs {
			s := estimateShare(p.draw(r), 0.95)
			if s.short {
				short++
				if s.high < p.p {
					wrong++
				}
			}
		}
		n := float64(runs)
		t.Logf("%-60s %.0f %% too short, %.1f %% high misses among all", p.name, 100*float64(short)/n, 100*float64(wrong)/n)
		if most := 0.05 + 3*math.Sqrt(0.05*0.95/n); float64(wrong)/n > most {
			t.Errorf("%s: %.1f %% of phases would fail wrongly, want at most %.1f %%", p.name, 100*float64(wrong)/n, 100*most)
		}
		if short == 0 {
			t.Errorf("%s: no phase was found too short: this shows nothing", p.name)
		}
	}
}
