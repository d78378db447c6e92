package verdict

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// bootstrap bounds a statistic of n things in time, one-sided at confidence each,
// by drawing them anew in blocks of neighbours from a circle (Politis and Romano,
// "A circular block-resampling procedure for stationary data", 1992): blocks keep
// what neighbours have in common, the circle gives the first and last an equal chance.
//
// statistic gets the numbers of the things drawn, n of them; it must not keep the slice.
//
// The bounds are the percentiles of the draws, spread around their median by
//
//	√(m/(m-1)) · t(m-1)/z      m = n/block, the number of blocks
//
// because the scatter of a dozen blocks is itself an estimate, and percentiles
// take it for known (Hesterberg, "What Teachers Should Know About the Bootstrap",
// The American Statistician 69, 2015, section 3.2).
func bootstrap(r *rand.Rand, n, block, draws int, confidence float64, statistic func(pick []int) float64) (low, high float64) {
	values := make([]float64, draws)
	pick := make([]int, n)
	for d := range values {
		resample(r, pick, block)
		values[d] = statistic(pick)
	}
	return percentiles(values, float64(n)/float64(block), confidence)
}

// resample fills pick with numbers below its length, in blocks of neighbours on a circle.
func resample(r *rand.Rand, pick []int, block int) {
	n := len(pick)
	for i := 0; i < n; i += block {
		from := r.IntN(n)
		for k := i; k < min(i+block, n); k++ {
			pick[k] = (from + k - i) % n
		}
	}
}

// percentiles are the bounds that draws of a statistic give, see bootstrap.
func percentiles(values []float64, blocks, confidence float64) (low, high float64) {
	slices.Sort(values)
	at := func(q float64) float64 { return values[min(len(values)-1, int(q*float64(len(values))))] }
	stretch := math.Inf(1)
	if blocks > 1 {
		stretch = math.Sqrt(blocks/(blocks-1)) * t(blocks-1, confidence) / distuv.UnitNormal.Quantile(confidence)
	}
	middle := at(0.5)
	spread := func(x float64) float64 {
		if x == middle {
			return x
		}
		return middle + (x-middle)*stretch
	}
	return spread(at(1 - confidence)), spread(at(confidence))
}
