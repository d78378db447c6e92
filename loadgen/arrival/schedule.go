// Package arrival decides when requests are due: pure functions of the time
// since the stream began, in vegeta's vocabulary of pacers, run on a virtual
// clock. Nothing here waits, and nothing depends on how fast anyone answers.
package arrival

import (
	"math"
	"sort"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Schedule yields due times one by one, by asking a pacer on a virtual clock
// that is moved by exactly what the pacer says:
//
//	wait = pacer.Pace(v, hits);  v += wait;  request number `hits` is due at v
//
// Any vegeta.Pacer will do, with what it does on vegeta's own clock: a
// ConstantPacer divides its period into whole nanoseconds (and divides by zero
// above 1e9 per second), a LinearPacer that starts at 0 means "without limit",
// that is, always wait 0. A Profile has none of these corners.
//
// A Schedule belongs to one goroutine.
type Schedule struct {
	pacer     vegeta.Pacer
	now       time.Duration
	hits      uint64
	shard, of uint64
}

// On is the schedule of p from its beginning.
func On(p vegeta.Pacer) *Schedule { return Split(p, 0, 1) }

// Split is part shard (from 0) of the schedule of p cut into so many: of all
// requests, those whose number leaves shard when divided by of. The parts need
// nothing of one another, and together are the whole.
func Split(p vegeta.Pacer, shard, of int) *Schedule {
	return &Schedule{pacer: p, shard: uint64(shard), of: uint64(of)}
}

// Next is when the next request is due, since the schedule's beginning; due
// times never go back. There is none (false) when the pacer stops.
func (s *Schedule) Next() (due time.Duration, ok bool) {
	for {
		wait, stop := s.pacer.Pace(s.now, s.hits)
		if stop || wait > math.MaxInt64-s.now {
			return 0, false
		}
		s.now += max(wait, 0)
		s.hits++
		if (s.hits-1)%s.of == s.shard {
			return s.now, true
		}
	}
}

// Seq is the number, in the whole schedule, of the request that Next told last.
func (s *Schedule) Seq() uint64 { return s.hits - 1 }

// Profile is a rate that changes over time in straight lines: constant, ramp,
// stages, step, or spike. It is a vegeta.Pacer, exact where vegeta's own approximate.
//
//	rate
//	 To  |          ,-------------    R(t) = R₀ + a·x       in a leg that begins at t₀,
//	     |        ,'                  H(t) = H₀ + R₀·x + a·x²/2   with x = t − t₀
//	From |______,'
//	     +------------------------> t
//
// H, the integral of the rate, is the expected number of requests until t.
// Request k (from 0) is due when H reaches k + ½, so that at every moment the
// number of requests that were due differs from H by at most ½: no long-term
// drift, no burst at the beginning, nothing due while the rate is 0.
//
// The zero Profile has rate 0 for ever. A Profile is a value; any number of
// goroutines may use it.
type Profile struct {
	legs []leg
}

// leg is one straight line of a Profile; the last one never ends.
type leg struct {
	start  float64 // s since the profile's beginning
	length float64 // s; +Inf for the last
	before float64 // H at start
	rate   float64 // R₀, 1/s
	slope  float64 // a, 1/s²
}

var _ vegeta.Pacer = Profile{}

// Leg is a part of Stages: a straight line from From to To over For.
type Leg struct {
	From, To Rate
	For      time.Duration
}

// Constant is r for ever.
func Constant(r Rate) Profile { return Stages(Leg{From: r, To: r}) }

// Ramp goes from one rate to another in a straight line, then stays there.
func Ramp(from, to Rate, over time.Duration) Profile {
	return Stages(Leg{From: from, To: to, For: over})
}

// Stages follows its legs one after another and keeps the last one's To for
// ever. Legs without length only set the rate; negative rates count as 0.
func Stages(legs ...Leg) Profile {
	var p Profile
	at, h, last := 0.0, 0.0, 0.0
	for _, l := range legs {
		from, to, length := max(float64(l.From), 0), max(float64(l.To), 0), l.For.Seconds()
		last = to
		if length <= 0 {
			continue
		}
		p.legs = append(p.legs, leg{start: at, length: length, before: h, rate: from, slope: (to - from) / length})
		at += length
		h += (from + to) / 2 * length
	}
	p.legs = append(p.legs, leg{start: at, length: math.Inf(1), before: h, rate: last})
	return p
}

// Step begins at one rate and goes by so much to another, once every so often,
// then stays there.
//
//	  to |             ,-----
//	     |         ,---'
//	from |_____,---'
//	     +-------------------> t
//	       every
func Step(from, by Rate, every time.Duration, to Rate) Profile {
	return Stages(stairs(from, by, every, to)...)
}

func stairs(from, by Rate, every time.Duration, to Rate) []Leg {
	var legs []Leg
	if by > 0 {
		for k := range Steps(from, by, to) {
			r := from + Rate(k)*by
			if to < from {
				r = from - Rate(k)*by
			}
			legs = append(legs, Leg{r, r, every})
		}
	}
	return append(legs, Leg{From: to, To: to})
}

// Steps is how many rates a Step goes through before the last one.
func Steps(from, by, to Rate) int {
	return int(math.Ceil(math.Abs(float64(to-from))/float64(by) - 1e-9))
}

// Spike is a rate with an interlude: base, from at on peak for so long, then base.
func Spike(base, peak Rate, at, long time.Duration) Profile {
	return Stages(Leg{base, base, at}, Leg{peak, peak, long}, Leg{From: base, To: base})
}

// Due is when request k is due, and whether it ever is.
func (p Profile) Due(k uint64) (time.Duration, bool) { return p.When(float64(k) + 0.5) }

// When implements Curve.
func (p Profile) When(target float64) (time.Duration, bool) {
	// The leg in which H reaches the target is the last one that begins below it.
	i := sort.Search(len(p.legs), func(i int) bool { return p.legs[i].before >= target }) - 1
	if i < 0 {
		return 0, false
	}
	x, ok := p.legs[i].reach(target - p.legs[i].before)
	t := (p.legs[i].start + x) * float64(time.Second)
	if !ok || t >= math.MaxInt64 {
		return 0, false
	}
	return time.Duration(math.Round(t)), true
}

// reach solves R₀·x + a·x²/2 = n for the smaller x ≥ 0, in the form
// x = 2n / (R₀ + √(R₀² + 2an)), which cancels nowhere and holds for a = 0.
func (l leg) reach(n float64) (x float64, ok bool) {
	// On a falling line the root vanishes at its very end; rounding must not
	// make it imaginary there.
	divisor := l.rate + math.Sqrt(max(l.rate*l.rate+2*l.slope*n, 0))
	if divisor == 0 {
		return 0, false
	}
	return min(2*n/divisor, l.length), true
}

// Expected is H: how many requests the rate adds up to until t.
func (p Profile) Expected(t time.Duration) float64 {
	if t <= 0 || len(p.legs) == 0 {
		return 0
	}
	l := p.at(t)
	x := t.Seconds() - l.start
	return l.before + l.rate*x + l.slope*x*x/2
}

// Count is how many requests are due before until: Expected to within one.
func (p Profile) Count(until time.Duration) int {
	guess := max(int64(math.Round(p.Expected(until))), 0)
	// Rounding of due times to nanoseconds may put one on the other side.
	before := func(k int64) bool {
		due, ok := p.Due(uint64(k))
		return ok && due < until
	}
	for guess > 0 && !before(guess-1) {
		guess--
	}
	for before(guess) {
		guess++
	}
	return int(guess)
}

// Pace implements vegeta.Pacer: how long to wait, at elapsed, until request
// number hits is due; at once when it was due before.
func (p Profile) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	due, ok := p.Due(hits)
	return max(due-elapsed, 0), !ok
}

// Rate implements vegeta.Pacer: arrivals per second at elapsed.
func (p Profile) Rate(elapsed time.Duration) float64 {
	if len(p.legs) == 0 {
		return 0
	}
	l := p.at(max(elapsed, 0))
	return l.rate + l.slope*(max(elapsed, 0).Seconds()-l.start)
}

// at is the leg that holds at t ≥ 0.
func (p Profile) at(t time.Duration) leg {
	s := t.Seconds()
	i := sort.Search(len(p.legs), func(i int) bool { return p.legs[i].start > s }) - 1
	return p.legs[max(i, 0)]
}
