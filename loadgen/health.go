package loadgen

import (
	"math"
	"runtime/metrics"
	"time"
)

// Health is how well this process itself kept up over a span of time: evidence
// for or against the generator when requests were late. The maxima are upper
// edges of the runtime's own histogram buckets, some 10 % wide.
type Health struct {
	Goroutines int // now
	GCs        int
	GCPauseMax time.Duration // longest stop of all goroutines by the garbage collector
	ReadyP99   time.Duration // a runnable goroutine's wait for a processor
	ReadyMax   time.Duration
}

// WatchHealth begins a span; the returned function says how things were since
// then. Any goroutine may call it, any number of times.
func WatchHealth() func() Health {
	before := readHealth()
	return func() Health {
		now := readHealth()
		pauses := since(before.pauses, now.pauses)
		ready := since(before.ready, now.ready)
		return Health{
			Goroutines: int(now.goroutines),
			GCs:        int(now.gcs - before.gcs),
			GCPauseMax: pauses.quantile(1),
			ReadyP99:   ready.quantile(0.99),
			ReadyMax:   ready.quantile(1),
		}
	}
}

type healthSample struct {
	goroutines, gcs uint64
	pauses, ready   runtimeHistogram
}

func readHealth() healthSample {
	samples := []metrics.Sample{
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/sched/pauses/total/gc:seconds"},
		{Name: "/sched/latencies:seconds"},
	}
	metrics.Read(samples)
	return healthSample{
		goroutines: samples[0].Value.Uint64(),
		gcs:        samples[1].Value.Uint64(),
		pauses:     runtimeHistogram(*samples[2].Value.Float64Histogram()),
		ready:      runtimeHistogram(*samples[3].Value.Float64Histogram()),
	}
}

// runtimeHistogram is in seconds: Counts[i] values lie in [Buckets[i], Buckets[i+1]).
type runtimeHistogram metrics.Float64Histogram

// since is what was added to a to make b.
func since(a, b runtimeHistogram) runtimeHistogram {
	d := runtimeHistogram{Buckets: b.Buckets, Counts: make([]uint64, len(b.Counts))}
	for i := range b.Counts {
		d.Counts[i] = b.Counts[i] - a.Counts[i]
	}
	return d
}

// quantile is the upper edge of the bucket that holds the share q; 0 when empty.
func (h runtimeHistogram) quantile(q float64) time.Duration {
	var total uint64
	for _, c := range h.Counts {
		total += c
	}
	rank, sum := uint64(math.Ceil(q*float64(total))), uint64(0)
	for i, c := range h.Counts {
		if sum += c; c > 0 && sum >= rank {
			edge := h.Buckets[i+1]
			if math.IsInf(edge, 1) {
				edge = h.Buckets[i]
			}
			return time.Duration(edge * float64(time.Second))
		}
	}
	return 0
}
