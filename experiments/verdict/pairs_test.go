package verdict

import (
	"math"
	"strings"
	"testing"
	"time"
)

// TestCriticalValues: what signed ranks and U must stay at or below for one-sided
// 5 %, as the tables of Hollander and Wolfe (A.4, A.6) and of every textbook have them.
func TestCriticalValues(t *testing.T) {
	largest := func(p func(int) float64) int {
		k := -1
		for p(k+1) <= 0.05 {
			k++
		}
		return k
	}
	for n, want := range map[int]int{3: -1, 4: -1, 5: 0, 6: 2, 7: 3, 8: 5, 9: 8, 10: 10, 12: 17, 15: 30, 20: 60} {
		if got := largest(func(w int) float64 { return smallW(n, w) }); got != want {
			t.Errorf("signed ranks of %d pairs: critical value %d, the table says %d", n, got, want)
		}
	}
	for _, c := range []struct{ n, m, want int }{{4, 4, 1}, {5, 5, 4}, {6, 6, 7}, {7, 7, 11}, {8, 8, 15}, {9, 9, 21}, {10, 10, 27}, {3, 5, 1}, {5, 8, 8}} {
		if got := largest(func(u int) float64 { return smallU(c.n, c.m, u) }); got != c.want {
			t.Errorf("U of %d and %d: critical value %d, the table says %d", c.n, c.m, got, c.want)
		}
	}
	for n := 1; n <= 12; n++ {
		if p := smallW(n, n*(n+1)/2); math.Abs(p-1) > 1e-12 {
			t.Errorf("signed ranks of %d: all sets together have probability %g", n, p)
		}
	}
}

// TestComparePairs: the machine slows down from pair to pair by far more than B
// differs from A. Side by side the difference is seen; in pairs of one regressed
// and one improved, nothing is.
func TestComparePairs(t *testing.T) {
	const seconds = 20
	pairs := func(n int, extra float64) (a, b Side) {
		for i := range n {
			middle := 50 + 30*float64(i)
			a.Runs = append(a.Runs, noisy(t, uint64(2*i+1), seconds, middle, 0.05, 0))
			b.Runs = append(b.Runs, noisy(t, uint64(2*i+2), seconds, middle+extra, 0.05, 0))
		}
		a.Name, b.Name = "a", "b"
		return a, b
	}
	margin := Margins{Share: 0.01, Latency: 4 * time.Millisecond}
	a, b := pairs(5, 12)
	d := rowOf(t, ComparePairs(a, b, margin, 0.95), "during", "latency")
	if d.Outcome != Regressed || len(d.Pairs) != 5 || d.Low == nil || *d.Low < 0.004 || !strings.Contains(d.Note, "the pairs by themselves") {
		t.Errorf("12 ms slower each: %s, %d pairs, from %v (%s); want regressed", d.Outcome, len(d.Pairs), value(d.Low), d.Note)
	}
	if d := rowOf(t, Compare(a, b, margin, 0.95), "during", "latency"); d.Outcome == Regressed {
		t.Errorf("not in pairs, the drift of 30 ms a run should hide 12 ms: %+v", d)
	}
	if d := rowOf(t, ComparePairs(b, a, margin, 0.95), "during", "latency"); d.Outcome != Improved {
		t.Errorf("the other way round: %s, want improved", d.Outcome)
	}
	same, alike := pairs(5, 0)
	if d := rowOf(t, ComparePairs(same, alike, Margins{Share: 0.01, Latency: 20 * time.Millisecond}, 0.95), "during", "latency"); d.Outcome != Noise {
		t.Errorf("the same: %s (%v to %v), want noise", d.Outcome, value(d.Low), value(d.High))
	}
	// The relative floor: 12 ms are less than half of any of these medians.
	if d := rowOf(t, ComparePairs(a, b, Margins{Share: 0.01, LatencyRatio: 0.5}, 0.95), "during", "latency"); d.Outcome != Noise {
		t.Errorf("with a relative floor of 50 %%: %s, margin %g, want noise", d.Outcome, d.Margin)
	}
	// Nothing failed in five short runs of each: they differ by nothing each time, and
	// so few requests do not show that the builds do not differ.
	short := func() (s Side) {
		for i := range 5 {
			s.Runs = append(s.Runs, noisy(t, uint64(i+1), 1, 50, 0.05, 0))
		}
		return s
	}
	for name, c := range map[string]Comparison{"pairs": ComparePairs(short(), short(), Margins{Share: 0.005}, 0.95), "runs": Compare(short(), short(), Margins{Share: 0.005}, 0.95)} {
		if d := rowOf(t, c, "during", "ok"); d.Outcome != Undecided || *d.Difference != 0 || *d.High < 0.008 {
			t.Errorf("%s without a failure, %d requests a side: %s, from %v to %v; want undecided, from -1 to 1 %%", name, d.SamplesA, d.Outcome, value(d.Low), value(d.High))
		}
	}
	few, slow := pairs(3, 200)
	got := ComparePairs(few, slow, margin, 0.95)
	if d := rowOf(t, got, "during", "latency"); d.Outcome != Undecided || got.Outcome != Undecided || !strings.Contains(strings.Join(got.Notes, " "), "3 pairs can never be significant") || !strings.Contains(d.Note, "3 regressed") {
		t.Errorf("three pairs: %s, %s (%v); want undecided, and why", got.Outcome, d.Note, got.Notes)
	}
}
