package proxy

import (
	"math"
	"time"
)

// A law maps u, even on [0, 1), to a delay. It never falls as u grows, is never
// below 0, and its mean is the one that was asked for.
type law func(u float64) time.Duration

// law is how a Latency is distributed; see Latency for the words.
func (l *Latency) law() law {
	mean, width := float64(l.Delay), float64(l.Jitter)
	if l.Distribution == "exponential" {
		return rounded(exponential(mean))
	}
	if width == 0 {
		return func(float64) time.Duration { return l.Delay }
	}
	switch l.Distribution {
	case "normal":
		return rounded(normal(mean, width))
	case "pareto":
		return rounded(pareto(mean, width))
	}
	return rounded(uniform(mean, width))
}

func rounded(x func(u float64) float64) law {
	return func(u float64) time.Duration {
		return time.Duration(math.Round(min(max(0, x(u)), float64(maxTime))))
	}
}

// uniform is mean ± width, evenly. Where that would reach below 0 it has two even
// parts, from 0 to the mean with probability p and from there to mean + width
// otherwise, so that the mean holds:
//
//	p·mean/2 + (1−p)·(mean + width/2) = mean,  p = width / (mean + width)
//
// At width = mean, p is 1/2, and the two laws are the same. With mean 0, it is
// evenly from 0 to width.
func uniform(mean, width float64) func(u float64) float64 {
	p := width / (mean + width)
	return func(u float64) float64 {
		switch {
		case width <= mean:
			return mean + (2*u-1)*width
		case mean == 0:
			return u * width
		case u < p:
			return u / p * mean
		}
		return mean + (u-p)/(1-p)*width
	}
}

// exponential has the survival function exp(−x/mean).
func exponential(mean float64) func(u float64) float64 {
	return func(u float64) float64 { return -mean * math.Log1p(-u) }
}

// pareto has the survival function (least/x)^shape from least on, with
//
//	mean = shape·least/(shape−1),  (sigma/mean)² = 1/(shape·(shape−2))
//
// so the shape is above 2 for every sigma, and never is x below 0.
func pareto(mean, sigma float64) func(u float64) float64 {
	shape := 1 + math.Sqrt(1+(mean/sigma)*(mean/sigma))
	least := mean * (shape - 1) / shape
	return func(u float64) float64 { return least * math.Exp(-math.Log1p(-u)/shape) }
}

// normal is the part above 0 of a normal law of that sigma, whose own middle is
// where the part's mean is as asked:
//
//	mean/sigma = h(a) − a,  middle = −a·sigma,  h(a) = φ(a) / Q(a), Q(a) = 1 − Φ(a)
//
// (N. L. Johnson, S. Kotz, N. Balakrishnan, Continuous Univariate Distributions,
// vol. 1, 10.1.) The right-hand side falls with a. For means far below sigma it
// becomes 1/a, and the part an exponential law.
func normal(mean, sigma float64) func(u float64) float64 {
	const far = 30 // where the two differ by less than 2/far² of the mean
	m := mean / sigma
	if m < 1.0/far {
		return exponential(mean)
	}
	low, high := -m-1, float64(far)+1 // low: h(a) > 0 always, so that h(a) − a > m there
	for range 100 {
		if a := (low + high) / 2; math.Exp(-a*a/2)/math.Sqrt(2*math.Pi)/survival(a)-a > m {
			low = a
		} else {
			high = a
		}
	}
	a := (low + high) / 2
	q := survival(a)
	return func(u float64) float64 { return sigma * (quantile(q*(1-u)) - a) }
}

// survival is Q(x), the chance that a standard normal draw is above x.
func survival(x float64) float64 { return math.Erfc(x/math.Sqrt2) / 2 }

// quantile is x with survival(x) = q > 0, also where q is so small that
// math.Erfcinv(2q), which is Erfinv(1−2q), is not: there Newton's method on log Q,
// which is nearly a parabola, from the bound Q(x) < exp(−x²/2)/2.
func quantile(q float64) float64 {
	if q > 1e-3 {
		return math.Sqrt2 * math.Erfcinv(2*q)
	}
	x := math.Sqrt(-2 * math.Log(2*q))
	for range 6 {
		s := survival(x)
		x += (math.Log(s) - math.Log(q)) * s / (math.Exp(-x*x/2) / math.Sqrt(2*math.Pi))
	}
	return x
}
