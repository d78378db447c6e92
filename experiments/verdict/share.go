package verdict

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// window is one 100 ms slot of one stream in one phase: how many of the requests
// due in it are finished, and how many of those were good. The regime numbers
// which of the plan's faults were there.
type window struct{ n, good, regime int }

// share is what a sequence of windows says about the share of good requests.
type share struct {
	n, good   int
	estimate  float64 // good / n
	low, high float64 // one-sided bounds, each at the confidence asked for
	effective float64 // independent samples that carry as much as the n; at most n
	block     float64 // estimated autocorrelation time, in windows, at least 1
	blocks    float64 // windows / block
	uniform   bool    // all good or all bad, in each regime
	short     bool    // fewer than minBlocks blocks: the bounds count every block as one sample
}

// minBlocks is how many autocorrelation times a phase must last before batches
// of that length say how much it fluctuates. Below it, the scatter of so few
// batches is itself too uncertain to be trusted.
const minBlocks = 20

// estimateShare bounds the share of good requests.
//
// With independent requests, x good of n bound the share by Clopper-Pearson:
//
//	low  = Beta(x, n-x+1)   quantile 1-confidence   (0 when x = 0)
//	high = Beta(x+1, n-x)   quantile   confidence   (1 when x = n)
//
// Failures in a fault are not independent: they come in bursts, and n of them
// say less than n draws would. Korn and Graubard (Survey Methodology 24, 1998)
// keep the formula and replace n by the number of independent draws with the
// same variance, n' = p(1-p)/v, and x by p·n'. v is the variance of the share as
// batches of time show it, and n' shrinks by (t(n-1)/t(batches-regimes))² because v is
// an estimate. A batch is as long as the autocorrelation time of the windows.
//
// What the plan itself does is no burst: a service killed at 10 s for 2 s is away
// for those 2 s in every repetition of the run. So windows are compared with the
// mean of their regime (the same faults in place), as strata are in a survey, and
// only what scatters around it counts as chance.
//
// Windows that are all good or all bad have no autocorrelation to estimate: n
// stands as it is, and says nothing about bursts that did not happen to come.
func estimateShare(ws []window, confidence float64) share {
	s := share{block: 1, blocks: float64(len(ws)), uniform: true}
	regimes := map[int]window{}
	for _, w := range ws {
		s.n += w.n
		s.good += w.good
		sum := regimes[w.regime]
		regimes[w.regime] = window{n: sum.n + w.n, good: sum.good + w.good}
	}
	if s.n == 0 {
		return share{high: 1}
	}
	n := float64(s.n)
	s.estimate = float64(s.good) / n
	s.effective = n
	for _, sum := range regimes {
		s.uniform = s.uniform && (sum.good == 0 || sum.good == sum.n)
	}
	if s.uniform {
		s.low, s.high = bounds(float64(s.good), n, confidence)
		return s
	}

	// residual[k] is how many more good ones window k had than its n would
	// suggest: what is left of it, summed, is the error of the ratio good/n.
	residual := make([]float64, len(ws))
	for k, w := range ws {
		if sum := regimes[w.regime]; sum.n > 0 {
			residual[k] = float64(w.good) - float64(sum.good)/float64(sum.n)*float64(w.n)
		}
	}
	s.block = autocorrelationTime(residual)
	s.blocks = float64(len(ws)) / s.block
	if s.short = s.blocks < minBlocks; s.short {
		s.effective = math.Min(n, math.Max(1, s.blocks))
	} else {
		s.effective = math.Min(n, effectiveSamples(residual, s, len(regimes), confidence))
	}
	s.low, s.high = bounds(s.estimate*s.effective, s.effective, confidence)
	return s
}

// bounds are Clopper and Pearson's (Biometrika 26, 1934), one-sided at
// confidence each; x and n need not be whole.
func bounds(x, n, confidence float64) (low, high float64) {
	high = 1
	if x >= n { // all good: the Beta quantile in closed form
		return math.Pow(1-confidence, 1/n), 1
	}
	if x <= 0 {
		return 0, 1 - math.Pow(1-confidence, 1/n)
	}
	low = distuv.Beta{Alpha: x, Beta: n - x + 1}.Quantile(1 - confidence)
	high = distuv.Beta{Alpha: x + 1, Beta: n - x}.Quantile(confidence)
	return low, high
}

// effectiveSamples is Korn and Graubard's n'.
//
// The variance of the sum of residuals is taken twice, and the larger counts:
// from the scatter of whole batches, which misses what neighbouring batches have
// in common, and as (variance of one window) · windows · block, which misses what
// the estimate of the block misses.
func effectiveSamples(residual []float64, s share, regimes int, confidence float64) float64 {
	batches := int(s.blocks)
	var scatter, power float64
	for j := range batches {
		var sum float64
		for _, r := range residual[j*len(residual)/batches : (j+1)*len(residual)/batches] {
			sum += r
		}
		scatter += sum * sum
	}
	freedom := float64(max(1, batches-regimes)) // each regime's mean was estimated too
	scatter *= float64(batches) / freedom
	for _, r := range residual {
		power += r * r
	}
	variance := math.Max(scatter, power*s.block)
	if variance == 0 {
		return float64(s.n)
	}
	n := float64(s.n)
	kish := s.estimate * (1 - s.estimate) * n * n / variance
	return kish * math.Pow(t(n-1, confidence)/t(freedom, confidence), 2)
}

func t(freedom, confidence float64) float64 {
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(confidence)
}

// autocorrelationTime is the integrated autocorrelation time of x in steps,
//
//	1 + 2 Σ ρ(k),  k = 1, 2, …
//
// at least 1: so many steps carry as much as one independent one. The sum ends
// where pairs ρ(2m)+ρ(2m+1) turn negative, and the pairs are kept from rising
// (Geyer's initial monotone sequence, Statistical Science 7, 1992): beyond it is
// only noise. x has mean zero. Lags end at mostLag: a series that remembers
// longer is told apart by its few blocks.
func autocorrelationTime(x []float64) float64 {
	n := len(x)
	if n < 2 {
		return 1
	}
	// Subtleness ahead! Dividing each lag's sum by n, not by n-k, keeps the
	// estimate of far lags from exploding; it is the usual, slightly low one.
	covariance := func(k int) float64 {
		var sum float64
		for i := k; i < n; i++ {
			sum += x[i] * x[i-k]
		}
		return sum
	}
	c0 := covariance(0)
	if c0 == 0 {
		return 1
	}
	sum, last := 0.0, math.Inf(1)
	for m := 0; 2*m+1 < min(n, mostLag); m++ {
		pair := (covariance(2*m) + covariance(2*m+1)) / c0
		if pair <= 0 {
			break
		}
		last = math.Min(last, pair)
		sum += last
	}
	return math.Max(1, 2*sum-1)
}

// mostLag bounds the time that a day of windows takes: some seconds.
const mostLag = 4000

// claim is a share and the side of it that is claimed.
type claim struct {
	target  float64
	atLeast bool // share >= target; else share < target
}

// verdict compares bounds with the claim.
func (c claim) verdict(low, high float64) Verdict {
	switch {
	case c.atLeast && low >= c.target, !c.atLeast && high < c.target:
		return Pass
	case c.atLeast && high < c.target, !c.atLeast && low >= c.target:
		return Fail
	}
	return Inconclusive
}

// mostSamples is where looking for a sufficient number of samples ends: a share
// that lies so close to its target that a billion do not tell them apart.
const mostSamples = 1e9

// enough is the number of independent samples with which the claim would be
// decided if the share stayed what it is; 0: none up to mostSamples.
func (c claim) enough(estimate, confidence float64) float64 {
	decided := func(n float64) bool {
		low, high := bounds(estimate*n, n, confidence)
		return c.verdict(low, high) != Inconclusive
	}
	high := 1.0
	for ; !decided(high); high *= 2 {
		if high > mostSamples {
			return 0
		}
	}
	// Bounds tighten steadily with n when x/n stays: bisection finds the edge.
	low := high / 2
	for high-low > 0.5 {
		mid := (low + high) / 2
		if decided(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return math.Ceil(high)
}

// Decidable says beforehand what n independent samples can show about "at least
// target of all are good" at the given confidence: up to passUpTo bad ones pass
// (-1: not even none), from failFrom bad ones on it fails (n+1: never), and between
// them lies the inconclusive. minSamples is the smallest n with which no bad
// request at all is a pass: ⌈ln(1-confidence)/ln(target)⌉, for 99 % at 95 % 299;
// 0 when no number is enough, as for a target of 100 %.
func Decidable(target float64, n int, confidence float64) (passUpTo, failFrom, minSamples int) {
	confidence = orDefault(confidence)
	c := claim{target: target, atLeast: true}
	verdict := func(bad int) Verdict {
		if n <= 0 {
			return Inconclusive
		}
		return c.verdict(bounds(float64(n-bad), float64(n), confidence))
	}
	// More bad ones never judge better: both edges by bisection.
	first := func(is func(Verdict) bool) int {
		low, high := 0, n+1
		for low < high {
			mid := (low + high) / 2
			if is(verdict(mid)) {
				high = mid
			} else {
				low = mid + 1
			}
		}
		return low
	}
	n = max(n, 0)
	passUpTo = first(func(v Verdict) bool { return v != Pass }) - 1
	failFrom = first(func(v Verdict) bool { return v == Fail })
	switch {
	case target <= 0:
		minSamples = 1
	case target < 1:
		minSamples = max(1, int(math.Ceil(math.Log(1-confidence)/math.Log(target)-1e-9)))
	}
	return passUpTo, failFrom, minSamples
}

// orDefault is the confidence to use: 95 % unless a usable one is given.
func orDefault(confidence float64) float64 {
	if confidence > 0 && confidence < 1 {
		return confidence
	}
	return 0.95
}
