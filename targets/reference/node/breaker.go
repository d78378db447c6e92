package node

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// breaker is a gobreaker with the rules of pattern.Breaker, jitter on its open
// time, and changes told outside its lock.
type breaker struct {
	edge    string
	inner   *gobreaker.CircuitBreaker[Answer]
	open    time.Duration // this instance's open time, jitter included
	log     *slog.Logger
	metrics *callMetrics

	mu      sync.Mutex
	changes []change // not told yet
}

type change struct{ from, to gobreaker.State }

func newBreaker(edge string, b pattern.Breaker, seed uint64, log *slog.Logger, metrics *callMetrics) *breaker {
	draw := rand.New(rand.NewPCG(seed, mix(seed, "open"))).Float64()
	out := &breaker{edge: edge, open: time.Duration(float64(b.Open) * (1 + b.Jitter*(2*draw-1))), log: log, metrics: metrics}
	metrics.state.WithLabelValues(edge).Set(0)
	out.inner = gobreaker.NewCircuitBreaker[Answer](gobreaker.Settings{
		Name:         edge,
		MaxRequests:  uint32(b.Probes),
		Interval:     b.Window,
		BucketPeriod: b.Window / 10, // a sliding window: a fixed one forgets everything at its end
		Timeout:      max(out.open, 1),
		ReadyToTrip: func(n gobreaker.Counts) bool {
			if b.Failures > 0 && n.ConsecutiveFailures >= uint32(b.Failures) {
				return true
			}
			finished := n.TotalSuccesses + n.TotalFailures // Requests would count those still in flight
			return b.FailureRatio > 0 && finished >= uint32(max(b.MinCalls, 1)) &&
				float64(n.TotalFailures) >= b.FailureRatio*float64(finished)
		},
		IsSuccessful: func(err error) bool {
			return err == nil || KindOf(err) == refusal && b.Mode != pattern.Textbook // D13
		},
		IsExcluded: func(err error) bool { return KindOf(err) == Canceled },
		// Called inside the breaker's lock: nothing here may ask the breaker
		// anything or wait for anyone. tell does the rest.
		OnStateChange: func(_ string, from, to gobreaker.State) {
			out.mu.Lock()
			out.changes = append(out.changes, change{from, to})
			out.mu.Unlock()
		},
	})
	return out
}

// do makes a call if the breaker admits it, else fails with an error that is
// not an *Error.
func (b *breaker) do(call func() (Answer, error)) (Answer, error) { return b.inner.Execute(call) }

func (b *breaker) state() string { return b.inner.State().String() }

// admits is false while open; a half-open breaker may still turn a call away.
func (b *breaker) admits() bool { return b.inner.State() != gobreaker.StateOpen }

// tell logs and counts the changes since it was last called, in their order.
func (b *breaker) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.changes {
		b.log.Info("breaker", "edge", b.edge, "from", c.from.String(), "to", c.to.String(), "open_s", b.open.Seconds())
		b.metrics.changes.WithLabelValues(b.edge, c.to.String()).Inc()
		b.metrics.state.WithLabelValues(b.edge).Set(float64(c.to))
	}
	b.changes = nil
}
