package experiments

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/targets/metrics"
)

// window is how finely the run is observed: load, edges and breakers alike.
const window = 100 * time.Millisecond

// observeEdges writes what every proxy saw, each 100 ms, until stopObserving.
func (r *run) observeEdges() {
	tick := time.NewTicker(window)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.collectEdges()
		case <-r.stopped:
			r.collectEdges()
			return
		}
	}
}

func (r *run) collectEdges() {
	for _, e := range r.plan.Topology.Edges {
		saw := r.edges.proxy(e.Name()).Collect()
		if event := edgeEvent(e.Name(), saw); event != nil {
			r.write(journal.Event{Edge: event})
		}
		for why := range saw.Handshakes {
			if text := fmt.Sprintf("edge %q: TLS handshake failed: %s", e.Name(), why); r.disagreed.first(text) {
				r.mark(text, true)
			}
		}
	}
}

// once knows what was said already, up to a limit. Of one goroutine.
type once map[string]bool

// mostSaid bounds what is said of failed handshakes in a run.
const mostSaid = 50

func (o *once) first(text string) bool {
	if (*o)[text] || len(*o) >= mostSaid {
		return false
	}
	if *o == nil {
		*o = once{}
	}
	(*o)[text] = true
	return true
}

// observeBreakers asks the services for the breaker states they themselves
// report, and writes the changes.
func (r *run) observeBreakers() {
	if r.plan.Topology.System == "" {
		return
	}
	last := map[string]string{}
	tick := time.NewTicker(window)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.stopped:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*window)
		states := r.system.Breakers(ctx)
		cancel()
		for _, e := range r.plan.Topology.Edges {
			name := e.Name()
			if state, ok := states[name]; ok && state != last[name] {
				last[name] = state
				r.write(journal.Event{Breaker: &journal.Breaker{Edge: name, State: state}})
			}
		}
	}
}

// lookEvery is how often a service is asked for its metrics.
const lookEvery = 250 * time.Millisecond

// observeMetrics reads the state of one breaker from its service's own metrics, and
// writes the changes. It asks the service itself, not through an edge: a question is
// no call. The first failure of a kind is a warning; a service that is down says
// nothing of its breaker.
func (r *run) observeMetrics(edge string, source metrics.Source) {
	reader := metrics.NewReader(source)
	last, warned := "", false
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*lookEvery)
		state, err := reader.Look(ctx, r.system.Address(source.Service))
		cancel()
		switch {
		case err != nil && !warned:
			warned = true
			r.mark(fmt.Sprintf("breaker on %s: its state cannot be read from the metrics of %s: %v", edge, source.Service, err), true)
		case err == nil && state != last:
			last = state
			r.write(journal.Event{Breaker: &journal.Breaker{Edge: edge, State: state, Source: string(source.Kind)}})
		}
		select {
		case <-tick.C:
		case <-r.stopped:
			return
		}
	}
}

// stopObserving ends the observers; what they saw last is written.
func (r *run) stopObserving() {
	close(r.stopped)
	r.observers.Wait()
}

// watch ends the run when an abort condition holds, or when it lasts much longer
// than planned. It returns its own stop.
func (r *run) watch(stop context.CancelCauseFunc) func() {
	limit := r.plan.Duration()*3/2 + 30*time.Second
	timer := time.AfterFunc(limit, func() {
		stop(&abortError{fmt.Sprintf("still running after %s, planned %s", limit, r.plan.Duration())})
	})
	watch := verdict.NewWatch(r.plan.Abort)
	var once sync.Once
	cancel := r.journal.Subscribe(func(e journal.Event) {
		if reason, abort := watch.Observe(e); abort {
			once.Do(func() { stop(&abortError{reason}) })
		}
	})
	return func() { timer.Stop(); cancel() }
}

// steadiness collects what `before` needs to be judged while the run goes on, until
// it is: the windows of a long run would be some 40 MB an hour.
type steadiness struct {
	mu     sync.Mutex
	events []journal.Event
	judged bool
}

func (s *steadiness) observe(e journal.Event) {
	if e.Window == nil && e.Start == nil && e.Phase == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.judged {
		s.events = append(s.events, e)
	}
}

// unsteady says why the steady state does not hold before the fault, or "".
// Only a clause that fails counts: too little data is not a failure.
func (r *run) unsteady() string {
	h := r.plan.Hypotheses
	h.Objectives = slices.DeleteFunc(slices.Clone(h.Objectives), func(o verdict.Objective) bool { return o.Phase != "before" })
	h.Breakers, h.Faults, h.Invariants, h.SLOs = nil, nil, nil, nil
	r.steady.mu.Lock()
	events := r.steady.events
	r.steady.events, r.steady.judged = nil, true
	r.steady.mu.Unlock()
	if len(h.Objectives) == 0 {
		return ""
	}
	result := verdict.Judge(h, events)
	for _, o := range result.Objectives {
		if o.Verdict == verdict.Fail {
			return o.ID + ": " + o.Objective + " does not hold"
		}
	}
	return ""
}

func windowEvent(w loadgen.Window) *journal.Window {
	e := &journal.Window{
		Load: w.Load, Step: w.Step, Setup: w.Setup, DueS: journal.Secs(w.Due), Due: w.DueCount, Sent: w.Sent, OK: w.OK, Failed: w.Failed,
		Queued: w.Queued, Dropped: w.Dropped, Late: w.Late,
		OKLatency: w.OKLatency.Encode(), FailedLatency: w.FailedLatency.Encode(),
		Service: w.Service.Encode(), Lag: w.Lag.Encode(), Outcomes: w.Outcomes,
		FirstByte: w.FirstByte.Encode(), Connect: w.Connect.Encode(), Handshake: w.Handshake.Encode(),
		Connects: w.Connects, Resumed: w.Resumed, BytesSent: w.BytesSent, BytesReceived: w.BytesReceived,
	}
	if s := w.Sessions; s != nil {
		e.Sessions = &journal.Sessions{Completed: s.Completed, Failed: s.Failed, Cut: s.Cut, Duration: s.Duration.Encode()}
	}
	return e
}

func sampleEvent(s loadgen.Sample) *journal.Sample {
	return &journal.Sample{
		Load: s.Load, Step: s.Step, Seq: s.Seq, DueS: journal.Secs(s.Due), Latency: journal.Secs(s.Latency),
		Outcome: s.Outcome, Request: s.Request, Detail: s.Detail, TraceID: s.TraceID,
	}
}
