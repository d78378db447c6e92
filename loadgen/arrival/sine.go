package arrival

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Sine is a rate that goes up and down, as over a day: vegeta's SinePacer and its
// vocabulary, but exact, and without its exclusion of rates that touch 0.
//
//	rate
//	Mean+Amplitude |   ,-.           ,-.     R(t) = M + A·sin(2πt/P + φ)
//	          Mean |  /   \         /   \    H(t) = M·t + AP/2π · (cos φ − cos(2πt/P + φ))
//	Mean−Amplitude |,'     `.     ,'     `
//	               +-----------------------> t
//
// Amplitude is at most Mean. Request k is due when H reaches k + ½, as in a
// Profile. A Sine is a value; any number of goroutines may use it. The zero Sine
// has rate 0 for ever.
type Sine struct {
	Mean, Amplitude Rate
	Period          time.Duration
	Phase           Phase
}

// Phase is where on the wave a Sine begins, in vegeta's words; empty is MeanUp.
type Phase string

const (
	MeanUp   Phase = "mean-up"   // at the mean, rising
	Peak     Phase = "peak"      // at the top
	MeanDown Phase = "mean-down" // at the mean, falling
	Trough   Phase = "trough"    // at the bottom
)

// UnmarshalText reads one of the four.
func (p *Phase) UnmarshalText(text []byte) error {
	switch v := Phase(strings.TrimSpace(string(text))); v {
	case MeanUp, Peak, MeanDown, Trough:
		*p = v
		return nil
	}
	return fmt.Errorf("%q is not where a sine begins: mean-up (default), peak, mean-down or trough", text)
}

func (p Phase) radians() float64 {
	switch p {
	case Peak:
		return math.Pi / 2
	case MeanDown:
		return math.Pi
	case Trough:
		return 3 * math.Pi / 2
	}
	return 0
}

// Rate implements Curve.
func (s Sine) Rate(t time.Duration) float64 { return s.rate(max(t, 0).Seconds()) }

func (s Sine) rate(x float64) float64 {
	if s.Period <= 0 {
		return float64(s.Mean)
	}
	return max(float64(s.Mean)+float64(s.Amplitude)*math.Sin(2*math.Pi*x/s.Period.Seconds()+s.Phase.radians()), 0)
}

// Expected implements Curve.
func (s Sine) Expected(t time.Duration) float64 { return s.integral(max(t, 0).Seconds()) }

func (s Sine) integral(x float64) float64 {
	if s.Period <= 0 {
		return float64(s.Mean) * x
	}
	p, phi := s.Period.Seconds(), s.Phase.radians()
	return float64(s.Mean)*x + float64(s.Amplitude)*p/(2*math.Pi)*(math.Cos(phi)-math.Cos(2*math.Pi*x/p+phi))
}

// When implements Curve. H has no inverse in closed form: Newton's method finds
// it, kept within bounds by bisection where the rate comes near 0.
func (s Sine) When(h float64) (time.Duration, bool) {
	mean := float64(s.Mean)
	if mean <= 0 || h < 0 || h/mean > math.MaxInt64/1e9-s.Period.Seconds() {
		return 0, false
	}
	// H strays from M·t by at most twice the amplitude of its wave.
	slack := float64(s.Amplitude) * s.Period.Seconds() / math.Pi / mean
	low, high := max(h/mean-slack, 0), h/mean+slack
	x := h / mean
	for range 100 {
		off := s.integral(x) - h
		if off > 0 {
			high = x
		} else {
			low = x
		}
		next := x - off/s.rate(x)
		if !(next > low && next < high) { // also when the rate is 0
			next = (low + high) / 2
		}
		if math.Abs(next-x) < 0.25e-9 || next == low || next == high {
			x = next
			break
		}
		x = next
	}
	return time.Duration(math.Round(x * float64(time.Second))), true
}

// Due is when request k is due, and whether it ever is.
func (s Sine) Due(k uint64) (time.Duration, bool) { return s.When(float64(k) + 0.5) }

// Pace implements vegeta.Pacer.
func (s Sine) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	due, ok := s.Due(hits)
	return max(due-elapsed, 0), !ok
}
