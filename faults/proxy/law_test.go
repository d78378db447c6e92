package proxy

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLawsByKolmogorovSmirnov: what is drawn for the chunks of a connection
// follows the law that the distribution names. The greatest distance between the
// share of n draws below x and the law's own is under 1.95/√n in 999 of 1000 cases.
func TestLawsByKolmogorovSmirnov(t *testing.T) {
	const n = 20_000
	ms := float64(time.Millisecond)
	above := func(middle, sigma float64) func(x float64) float64 { // a normal law's part above 0
		return func(x float64) float64 { return 1 - survival((x-middle)/sigma)/survival(-middle/sigma) }
	}
	for _, c := range []struct {
		delay, jitter float64 // ms
		distribution  string
		law           func(x float64) float64 // chance of a delay up to x ms
	}{
		{100, 40, "", func(x float64) float64 { return (x - 60) / 80 }},
		{20, 50, "uniform", func(x float64) float64 { return min(x/20, 1)*5/7 + max(x-20, 0)/50*2/7 }},
		{0, 50, "", func(x float64) float64 { return x / 50 }},
		{100, 0, "exponential", func(x float64) float64 { return 1 - math.Exp(-x/100) }},
		{100, 10, "normal", above(100, 10)},
		{100 * math.Sqrt(2/math.Pi), 100, "normal", above(0, 100)}, // the mean of the half above 0
		{28.309865, 100, "normal", above(-300, 100)},               // φ(3)/Q(3) − 3 = 0.28309865
		{1, 1000, "normal", func(x float64) float64 { return 1 - math.Exp(-x) }},
		{150, 150 / math.Sqrt(3), "pareto", func(x float64) float64 { return 1 - math.Pow(100/max(x, 100), 3) }}, // shape 3, least 100
	} {
		l := Latency{Delay: time.Duration(c.delay * ms), Jitter: time.Duration(c.jitter * ms), Distribution: c.distribution}
		r := newActive(Rule{Name: "slow", Percent: 1, Latency: &l}, 1, 7)
		if err := r.Validate(); err != nil {
			t.Fatal(err)
		}
		draws := make([]float64, n)
		for i := range draws {
			draws[i] = float64(r.delay(3, uint64(i))) / ms
		}
		slices.Sort(draws)
		far := 0.0
		for i, x := range draws {
			p := min(max(c.law(x), 0), 1)
			far = max(far, math.Abs(p-float64(i)/n), math.Abs(p-float64(i+1)/n))
		}
		if far > 1.95/math.Sqrt(n) {
			t.Errorf("%+v: %.4f away from its law, want less than %.4f", l, far, 1.95/math.Sqrt(n))
		}
	}
}

// TestLawsKeepTheMean: whatever the spread, no delay is below 0, a greater u is no
// smaller delay, and the mean is as asked.
func TestLawsKeepTheMean(t *testing.T) {
	for _, distribution := range []string{"uniform", "normal", "exponential", "pareto"} {
		t.Run(distribution, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				l := Latency{Delay: time.Duration(rapid.Int64Range(int64(time.Microsecond), int64(time.Hour)).Draw(t, "delay")), Distribution: distribution}
				if distribution != "exponential" {
					l.Jitter = time.Duration(float64(l.Delay) * math.Exp2(rapid.Float64Range(-10, 7).Draw(t, "jitter/delay")))
				}
				law := l.law()
				const n = 2000
				sum, last := 0.0, 0.0
				for i := range n { // the law at the middle of n even steps: about its integral
					x := float64(law((float64(i) + 0.5) / n))
					if x < last {
						t.Fatalf("%+v: %v after %v", l, x, last)
					}
					last = x
					sum += x
				}
				// The last step is where the middle is furthest from the step's mean: for a tail
				// x^(−shape), shape > 2, by at most a few percent of what lies there, √n/n of sigma.
				if off := math.Abs(sum/n - float64(l.Delay)); off > 0.01*float64(l.Delay)+float64(l.Jitter)/40+1 {
					t.Fatalf("%+v: mean %v", l, time.Duration(sum/n))
				}
			})
		})
	}
}

// TestNormalReachesAnyMean: the mean of the normal law's part above 0, by its
// integral rather than by draws, to a thousandth.
func TestNormalReachesAnyMean(t *testing.T) {
	for _, m := range []float64{10, 3, 1, 0.5, 0.1, 0.034, 0.033, 0.001} {
		x := normal(m, 1)
		const n = 50_000
		sum := 0.0
		for i := range n {
			sum += x((float64(i) + 0.5) / n)
		}
		if got := sum / n; math.Abs(got/m-1) > 3e-3 {
			t.Errorf("mean %v of sigma: got %v", m, got)
		}
	}
	for x := -5.0; x < 37; x += 0.37 {
		if got := quantile(survival(x)); math.Abs(got-x) > 1e-9 && x > -4 {
			t.Errorf("quantile of survival(%v) is %v", x, got)
		}
	}
}
