package loadgen

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

func TestMain(m *testing.M) {
	if os.Getenv(benchServer) != "" {
		serveBench()
		return
	}
	goleak.VerifyTestMain(m)
}

func ptr[T any](v T) *T { return &v }

func perSecond(r float64) *arrival.Rate { return ptr(arrival.Rate(r)) }

// sums adds up what a run told, as a journal's reader would.
type sums struct {
	Window
	windows map[time.Duration]Window
	told    []time.Duration // when each increment came, since start
	samples []Sample
	results []Result
	start   time.Time
	took    time.Duration // of Run, where inBubble ran it
}

func newSums() *sums {
	return &sums{windows: map[time.Duration]Window{}, Window: empty(), start: time.Now()}
}

func empty() Window {
	return Window{
		Outcomes: map[string]int{}, OKLatency: hdr.New(), FailedLatency: hdr.New(), Lag: hdr.New(),
		Service: hdr.New(), FirstByte: hdr.New(), Connect: hdr.New(), Handshake: hdr.New(),
	}
}

func (s *sums) listen(c Config) Config {
	c.OnWindow = func(w Window) {
		s.told = append(s.told, time.Since(s.start))
		at, ok := s.windows[w.Due]
		if !ok {
			at = empty()
		}
		s.windows[w.Due] = plus(at, w)
		s.Window = plus(s.Window, w)
	}
	c.OnSample = func(x Sample) { s.samples = append(s.samples, x) }
	c.OnResult = func(r Result) { s.results = append(s.results, r) }
	return c
}

func plus(a, b Window) Window {
	a.DueCount += b.DueCount
	a.Sent += b.Sent
	a.OK += b.OK
	a.Failed += b.Failed
	a.Queued += b.Queued
	a.Dropped += b.Dropped
	a.Late += b.Late
	a.Connects += b.Connects
	a.Resumed += b.Resumed
	a.BytesSent += b.BytesSent
	a.BytesReceived += b.BytesReceived
	a.OKLatency.Merge(b.OKLatency)
	a.FailedLatency.Merge(b.FailedLatency)
	a.Lag.Merge(b.Lag)
	a.Service.Merge(b.Service)
	a.FirstByte.Merge(b.FirstByte)
	a.Connect.Merge(b.Connect)
	a.Handshake.Merge(b.Handshake)
	for k, n := range b.Outcomes {
		a.Outcomes[k] += n
	}
	return a
}

// balance is what must hold of any sum of windows once a run is over.
func (s *sums) balance(t *testing.T) {
	t.Helper()
	check := func(due time.Duration, w Window) {
		if w.OK+w.Failed+w.Outcomes["canceled"] != w.DueCount {
			t.Errorf("window %v: %d ok, %d failed and %d canceled are not the %d due", due, w.OK, w.Failed, w.Outcomes["canceled"], w.DueCount)
		}
		if int(w.OKLatency.Count()) != w.OK || int(w.FailedLatency.Count()) != w.Failed {
			t.Errorf("window %v: %d and %d latencies for %d ok and %d failed", due, w.OKLatency.Count(), w.FailedLatency.Count(), w.OK, w.Failed)
		}
		if int(w.Service.Count()) != w.OK || int(w.FirstByte.Count()) != w.OK || int(w.Connect.Count()) != w.Connects {
			t.Errorf("window %v: %d service times and %d first bytes for %d ok, %d connect times for %d connections", due, w.Service.Count(), w.FirstByte.Count(), w.OK, w.Connect.Count(), w.Connects)
		}
		if n := int(w.Handshake.Count()); n != 0 && n != w.Connects || w.Resumed > n {
			t.Errorf("window %v: %d handshakes, %d of them resumed, for %d connections", due, n, w.Resumed, w.Connects)
		}
		outcomes := 0
		for _, n := range w.Outcomes {
			outcomes += n
		}
		if outcomes != w.DueCount || w.Dropped != w.Outcomes["dropped"] || w.Sent > w.DueCount {
			t.Errorf("window %v: outcomes %v, %d dropped, %d sent, %d due", due, w.Outcomes, w.Dropped, w.Sent, w.DueCount)
		}
	}
	for due, w := range s.windows {
		check(due, w)
	}
}
