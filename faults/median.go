package faults

import (
	"math"
	"time"
)

// median is the delay that half of those drawn stay below. The laws, and why each
// has the mean it has, stand in faults/proxy/law.go.
func (l *Latency) median() time.Duration {
	mean, sigma := float64(l.Delay), float64(l.Jitter)
	if mean <= 0 {
		return l.Delay
	}
	switch {
	case l.Distribution == "exponential":
		mean *= math.Ln2
	case sigma <= 0:
	case l.Distribution == "pareto":
		// Half of them are above least·2^(1/shape): (least/x)^shape = 1/2.
		shape := 1 + math.Sqrt(1+(mean/sigma)*(mean/sigma))
		mean *= (shape - 1) / shape * math.Exp2(1/shape)
	case l.Distribution == "normal":
		mean = normalMedian(mean, sigma)
	}
	return time.Duration(math.Round(mean))
}

// normalMedian is the median of the part above 0 of a normal law of that sigma
// whose middle is where the part's mean is as given. In units of sigma, with the
// middle at −a, Q the survival function and φ the density of the standard normal:
//
//	mean = φ(a)/Q(a) − a,  Q(median + a) = Q(a)/2
func normalMedian(mean, sigma float64) float64 {
	above := func(x float64) float64 { return math.Erfc(x/math.Sqrt2) / 2 }
	// root is where a function that falls through 0 does.
	root := func(low, high float64, f func(float64) float64) float64 {
		for range 100 {
			if x := (low + high) / 2; f(x) > 0 {
				low = x
			} else {
				high = x
			}
		}
		return (low + high) / 2
	}
	const far = 30 // from where on the part is an exponential law, to 2/far²
	m := mean / sigma
	if m < 1.0/far {
		return mean * math.Ln2
	}
	a := root(-m-1, far+1, func(a float64) float64 { return math.Exp(-a*a/2)/math.Sqrt(2*math.Pi)/above(a) - a - m })
	z := root(a, max(a, 0)+1, func(z float64) float64 { return above(z) - above(a)/2 })
	return sigma * (z - a)
}
