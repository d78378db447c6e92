package verdict

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// Breakers of others, told nothing of us, seen from the wire alone. They go by the
// wall clock, which is a bubble's: an hour of them takes seconds.

// gobreakers is github.com/sony/gobreaker/v2.
type gobreakers struct {
	b *gobreaker.TwoStepCircuitBreaker[any]
}

func (g gobreakers) admit() (func(bool), bool) {
	done, err := g.b.Allow()
	if err != nil {
		return nil, false
	}
	return func(ok bool) {
		if ok {
			done(nil)
		} else {
			done(errors.New("failed"))
		}
	}, true
}

func withGobreaker(s gobreaker.Settings) func(func(bool)) guard {
	return func(changed func(closed bool)) guard {
		s.OnStateChange = func(_ string, _, to gobreaker.State) { changed(to == gobreaker.StateClosed) }
		return gobreakers{gobreaker.NewTwoStepCircuitBreaker[any](s)}
	}
}

// failsafes is github.com/failsafe-go/failsafe-go.
type failsafes struct {
	b circuitbreaker.CircuitBreaker[any]
}

func (f failsafes) admit() (func(bool), bool) {
	if !f.b.TryAcquirePermit() {
		return nil, false
	}
	return func(ok bool) {
		if ok {
			f.b.RecordSuccess()
		} else {
			f.b.RecordFailure()
		}
	}, true
}

// foreign are the breakers that the inference is tried on, for a shop's open time,
// failures and probes.
var foreign = map[string]func(s shop) func(func(bool)) guard{
	"gobreaker, consecutive failures": func(s shop) func(func(bool)) guard {
		return withGobreaker(gobreaker.Settings{
			MaxRequests: uint32(s.probes), Timeout: time.Duration(s.open * float64(time.Second)),
			ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(s.failures) },
		})
	},
	// As the reference services set it up for `breaker: textbook`.
	"textbook": func(s shop) func(func(bool)) guard {
		b := pattern.Default(pattern.Textbook).Breaker
		return withGobreaker(gobreaker.Settings{
			MaxRequests: uint32(b.Probes), Interval: b.Window, BucketPeriod: b.Window / 10, Timeout: time.Duration(s.open * float64(time.Second)),
			ReadyToTrip: func(n gobreaker.Counts) bool {
				if b.Failures > 0 && n.ConsecutiveFailures >= uint32(b.Failures) {
					return true
				}
				finished := n.TotalSuccesses + n.TotalFailures
				return b.FailureRatio > 0 && finished >= uint32(max(b.MinCalls, 1)) && float64(n.TotalFailures) >= b.FailureRatio*float64(finished)
			},
		})
	},
	"failsafe-go, a count": func(s shop) func(func(bool)) guard {
		return func(changed func(bool)) guard {
			return failsafes{circuitbreaker.NewBuilder[any]().WithFailureThreshold(uint(s.failures)).
				WithDelay(time.Duration(s.open * float64(time.Second))).WithSuccessThreshold(uint(s.probes)).
				OnStateChanged(func(e circuitbreaker.StateChangedEvent) { changed(e.NewState == circuitbreaker.ClosedState) }).Build()}
		}
	},
	"failsafe-go, a rate": func(s shop) func(func(bool)) guard {
		return func(changed func(bool)) guard {
			return failsafes{circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(0.5, 10, 10*time.Second).
				WithDelay(time.Duration(s.open * float64(time.Second))).WithSuccessThreshold(uint(s.probes)).
				OnStateChanged(func(e circuitbreaker.StateChangedEvent) { changed(e.NewState == circuitbreaker.ClosedState) }).Build()}
		}
	},
}

// merged are the true stays away from closed, those that are parted by less than
// the wire can tell counted as one.
func merged(away [][2]float64, least float64) (all [][2]float64) {
	for _, a := range away {
		if n := len(all); n > 0 && a[0]-all[n-1][1] < least {
			all[n-1][1] = a[1]
			continue
		}
		all = append(all, a)
	}
	return all
}

// TestForeignBreakers: every opening and closing of a real breaker is found, off by
// less than one probe interval, and no other; all but a few are found to the time
// between two calls. The few are half-open breakers that let all calls pass for a
// while (failsafe-go's, by rate) before they call themselves closed.
func TestForeignBreakers(t *testing.T) {
	for name, with := range foreign {
		t.Run(name, func(t *testing.T) {
			found, near, worst := 0, 0, 0.0
			for seed := range 30 * *thorough / fewer {
				synctest.Test(t, func(t *testing.T) {
					r := rand.New(rand.NewPCG(uint64(seed), 4))
					s := anyShop(r)
					s.open = []float64{1, 2, 5}[seed%3]
					if float64(s.probes)/s.open > 0.2*s.rate*s.pays {
						s.probes = 1 // more than a quarter passing is no open breaker: see wire.openings
					}
					s.stalls, s.flaky, s.guard = 0, 0.01, with(s)
					tr, events := s.run(r)
					got := Judge(s.hypotheses(), events).Breakers[0]
					var seen [][2]float64
					for _, sp := range got.Spans {
						switch n := len(seen); {
						case sp.State == "closed":
						case n > 0 && sp.FromS-seen[n-1][1] < 1e-6:
							seen[n-1][1] = sp.ToS
						default:
							seen = append(seen, [2]float64{sp.FromS, sp.ToS})
						}
					}
					want := merged(tr.away, 0.7)
					// Between two calls there is nothing to see.
					blur := 0.25 + 4/(s.rate*s.pays) + s.slow
					if len(seen) != len(want) {
						t.Errorf("seed %d: %d openings seen, %d happened\nshop  %+v\ntruth %v\nseen  %v", seed, len(seen), len(want), s, tr.away, got.Spans)
						return
					}
					for i := range want {
						for side := range 2 {
							off := math.Abs(seen[i][side] - want[i][side])
							worst = math.Max(worst, off)
							if off <= blur {
								near++
							}
							if found++; off > s.open {
								t.Errorf("seed %d: a change at %.2f s is seen at %.2f s, allowed are %.2f s\nshop  %+v\ntruth %v\nseen  %v", seed, want[i][side], seen[i][side], s.open, s, tr.away, got.Spans)
							}
						}
					}
				})
			}
			t.Logf("%d changes found, %d of them to the time between two calls, the worst %.2f s off", found, near, worst)
			if found == 0 || float64(near) < 0.98*float64(found) {
				t.Errorf("%d of %d changes were found to the time between two calls", near, found)
			}
		})
	}
}

// TestForeignBreakersStayClosed: in 1,000 runs without a fault, 1 % of the calls
// failing all the time, no breaker is seen to open that did not.
func TestForeignBreakersStayClosed(t *testing.T) {
	for name, with := range foreign {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range 1000 / len(foreign) * *thorough / fewer {
				synctest.Test(t, func(t *testing.T) {
					r := rand.New(rand.NewPCG(uint64(seed), 5))
					s := anyShop(r)
					s.hit, s.stalls, s.blind, s.flaky = 0, r.IntN(5), true, 0.01
					s.faultTo, s.end = 12, 16
					s.viaLoad, s.guard = seed%20 == 0, with(s)
					tr, events := s.run(r)
					got := Judge(s.hypotheses(), events).Breakers[0]
					if len(tr.away) == 0 && (len(got.Spans) != 1 || got.Spans[0].State != "closed") {
						t.Errorf("seed %d, %+v: the wire shows %v, and nothing ever opened", seed, s, got.Spans)
					}
				})
			}
		})
	}
}
