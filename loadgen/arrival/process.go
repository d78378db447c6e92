package arrival

import (
	"fmt"
	"math"
	"strings"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Process is when the requests of an open stream are due: a vegeta.Pacer to be
// run on a virtual clock (see Schedule), and how many requests it makes on average.
type Process interface {
	vegeta.Pacer
	// Expected is how many requests fall due before t, on average.
	Expected(t time.Duration) float64
}

// Curve is a rate that changes over time: R(t), its integral H(t) and the inverse
// of that. Both ways of placing requests under it are made of these three.
type Curve interface {
	Rate(t time.Duration) float64                // R, per second
	Expected(t time.Duration) float64            // H
	When(h float64) (due time.Duration, ok bool) // the first t with H(t) = h; false if H never gets there
}

var (
	_ Process = Profile{}
	_ Process = Sine{}
	_ Process = Poisson{}
	_ Process = Trace{}
	_ Curve   = Profile{}
	_ Curve   = Sine{}
)

// Spacing is how requests are placed under a rate: "even" (also the empty text)
// or "poisson".
type Spacing string

const (
	EvenSpacing    Spacing = "even"
	PoissonSpacing Spacing = "poisson"
)

// UnmarshalText reads one of the two.
func (s *Spacing) UnmarshalText(text []byte) error {
	switch v := Spacing(strings.TrimSpace(string(text))); v {
	case EvenSpacing, PoissonSpacing:
		*s = v
		return nil
	}
	return fmt.Errorf("%q is not a spacing of arrivals: even (default) or poisson", text)
}

// Poisson are arrivals that know nothing of one another, as those of many users
// are: the gaps under a constant rate R are exponential with mean 1/R, and any
// other rate stretches time (Daley and Vere-Jones, "An Introduction to the Theory
// of Point Processes", 7.4: H(t) turns the process into one of rate 1).
//
//	Hₖ = Hₖ₋₁ + Eₖ     Eₖ = −ln U(seed, k),  request k is due when H reaches Hₖ
//
// E depends on the seed and the request's number only, so that the same seed
// gives the same times whoever asks, in as many shards as they like. A Poisson is
// a value; any number of goroutines may use it.
type Poisson struct {
	Curve
	Seed uint64
}

// Pace implements vegeta.Pacer, on a virtual clock only: request hits−1 is taken
// to be due at elapsed.
func (p Poisson) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	due, ok := p.When(p.Expected(elapsed) + exponential(p.Seed, hits))
	return max(due-elapsed, 0), !ok
}

// exponential is a draw with mean 1.
func exponential(seed, k uint64) float64 {
	// 53 bits, so that u is uniform over (0, 1] and its logarithm finite.
	u := float64(mix(seed+(k+1)*0x9e3779b97f4a7c15)>>11+1) / (1 << 53)
	return -math.Log(u)
}

// mix is the output function of splitmix64 (Steele, Lea and Flood, 2014).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
