package experiments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/timeline"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/faults/undo"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/targets"
)

// Options are what a run needs besides its plan.
type Options struct {
	ID          string              // run id, for the journal and for undo records
	Dir         string              // run folder; exists, and is ours alone
	Self        string              // the program to re-execute for reference services; default: this one
	Environment journal.Environment // where we are, for the record
	Watch       func(journal.Event) // sees every event as it is written; must not block
	Hurry       <-chan struct{}     // closed by a second Ctrl-C: stop waiting, still undo everything
	Samples     func(loadgen.Result)
	Audit       *journal.AuditHead // of the audit log, for the journal's first line

	// For whoever cleans up behind us if we are killed.
	Temp    string                        // folder for the services' data, made and removed by Run; default: a new one
	Child   func(service string, pid int) // told of every process that was started
	Guarded func(context.Context) error   // asked when the system is up: an error ends the run before the first fault
	Odd     <-chan string                 // what went wrong around the run while it is live: warnings, for the journal
}

// drainTimeout bounds the wait for work that the system accepted and has not
// finished when the load ends. What is left then breaks the invariants.
const drainTimeout = 30 * time.Second

// drainedFor is how many looks in a row, 100 ms apart, must find the system drained.
const drainedFor = 6

// Errors that end a run early; Run records them and reports them as its status.
var (
	errNoSteadyState = errors.New("no steady state")
	errInterrupted   = errors.New("interrupted")
)

// HaltError as the cause of Run's context says that somebody pulled the lever:
// the run is aborted for that reason, not interrupted.
type HaltError struct{ Reason string }

func (e *HaltError) Error() string { return "halted: " + e.Reason }

type abortError struct{ reason string }

func (e *abortError) Error() string { return "aborted: " + e.reason }

// StartError says that the system under test did not start: nothing was sent,
// nothing was injected.
type StartError struct{ Err error }

func (e *StartError) Error() string { return "start the system: " + e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Run carries a plan out and leaves its journal in o.Dir. It returns when
// everything it started is gone and everything it injected is reverted, whatever
// ended it. The run's outcome (also aborted, also interrupted through ctx) stands
// in the journal; the error is about what the journal cannot answer for: a
// system that did not start (*StartError), a fault that could not be reverted
// (*faults.RevertError), a journal that could not be written.
func Run(ctx context.Context, p *Plan, o Options) (err error) {
	r := &run{plan: p, o: o}
	if r.journal, err = journal.Create(filepath.Join(o.Dir, "journal.jsonl"), r.now); err != nil {
		return err
	}
	r.journal.Subscribe(r.steady.observe)
	if o.Watch != nil {
		r.journal.Subscribe(o.Watch)
	}
	defer func() { err = errors.Join(err, r.journal.Close()) }()
	if r.undo, err = undo.Open(filepath.Join(o.Dir, "undo")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.undo.Close()) }()

	// One proxy per edge first: services are handed its address when they start.
	secrets, err := targets.ReadSecrets(p.Topology, filepath.Dir(p.File))
	if err != nil {
		return &StartError{err}
	}
	ca, caFile, err := authority(p, o.Dir)
	if err != nil {
		return err
	}
	r.edges, err = listen(ctx, p, secrets, ca)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.edges.stop()) }()

	began := time.Now()
	temp, err := o.makeTemp()
	if err != nil {
		return fmt.Errorf("make a temporary folder for the services' data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	r.system, err = targets.Start(ctx, targets.Config{
		Spec: p.Target, Topology: p.Topology, Timescale: p.Timescale, Seed: p.Seed, Self: o.Self,
		Run: o.ID, Temp: temp, Logs: filepath.Join(o.Dir, "logs"), Edges: r.edges, Secrets: secrets, CA: caFile, Notify: r.service,
	})
	if err == nil && o.Guarded != nil {
		if err = o.Guarded(ctx); err != nil {
			err = errors.Join(err, r.system.Stop(r.unhurried(15*time.Second)))
		}
	}
	if err != nil {
		r.begin()
		status := "failed"
		if ctx.Err() != nil {
			status = endStatus(r.ended(ctx, " while the system was starting"))
		}
		r.write(journal.Event{End: &journal.End{Status: status, Error: err.Error()}})
		if status != "failed" {
			return r.writeErr()
		}
		return errors.Join(&StartError{err}, r.writeErr())
	}

	loadgen.Reserve(r.plan.Loads...)
	r.begin()
	r.mark(fmt.Sprintf("system ready in %s", time.Since(began).Round(time.Millisecond)), false)
	cause := r.live(ctx)
	r.write(journal.Event{Phase: &journal.Phase{Name: "drain"}})
	if cause == nil || errors.Is(cause, errNoSteadyState) {
		r.settle(ctx)
		if ctx.Err() != nil {
			cause = r.ended(ctx, " while the system drained")
		}
	}
	r.stopObserving()

	var stopErr error
	if e := r.system.Stop(r.unhurried(15 * time.Second)); e != nil {
		stopErr = fmt.Errorf("stop the system: %w", e)
	}
	end := &journal.End{Status: endStatus(cause)}
	if e := errors.Join(r.revertErr, stopErr); e != nil {
		end.Error = e.Error()
	}
	r.write(journal.Event{End: end})
	return errors.Join(r.revertErr, stopErr, r.writeErr())
}

// makeTemp makes the folder for the services' data. One that exists is somebody
// else's.
func (o Options) makeTemp() (string, error) {
	if o.Temp == "" {
		return os.MkdirTemp("", "chaosctl-"+o.ID+"-")
	}
	return o.Temp, os.Mkdir(o.Temp, 0o700)
}

// endStatus is how a run ended, in the journal's words.
func endStatus(cause error) string {
	var aborted *abortError
	switch {
	case errors.Is(cause, errInterrupted):
		return "interrupted"
	case errors.As(cause, &aborted):
		return "aborted"
	}
	return "completed"
}

// ended records why the user's context ended, and says it as a cause: a signal,
// or a lever that somebody pulled.
func (r *run) ended(outer context.Context, during string) error {
	var halt *HaltError
	if errors.As(context.Cause(outer), &halt) {
		r.write(journal.Event{Abort: &journal.Abort{Reason: halt.Error()}})
		return &abortError{halt.Error()}
	}
	r.write(journal.Event{Abort: &journal.Abort{Reason: "interrupted" + during, Interrupted: true}})
	return errInterrupted
}

// run is one execution: its clock, its journal, and what is alive.
type run struct {
	plan    *Plan
	o       Options
	journal *journal.Writer
	undo    *undo.Log
	edges   *edges
	system  *targets.System

	mu        sync.Mutex
	zero      time.Time       // offset 0: the first phase begins
	early     []journal.Event // what happened before that
	failed    error           // first error of the journal
	stop      context.CancelCauseFunc
	revertErr error

	steady    steadiness
	observers sync.WaitGroup
	disagreed once          // handshakes that failed, as told; of observeEdges
	stopped   chan struct{} // closed when the observers should end
}

// now is the run's clock. Before offset 0 it stands still.
func (r *run) now() time.Duration {
	if r.zero.IsZero() {
		return 0
	}
	return time.Since(r.zero)
}

// begin starts the clock: whatever happened during start-up is written at
// offset 0, behind the journal's first line.
func (r *run) begin() {
	plan := r.plan.JSON()
	r.mu.Lock()
	early := r.early
	r.early = nil
	r.zero = time.Now()
	wall := r.zero
	r.mu.Unlock()
	r.write(journal.Event{Start: &journal.Start{
		Version: journal.Version, Run: r.o.ID, Scenario: r.plan.Scenario, Variant: string(r.plan.Variant),
		Seed: r.plan.Seed, PlanHash: r.plan.Hash(), Plan: plan, Environment: r.o.Environment, Wall: wall, Audit: r.o.Audit,
	}})
	for _, e := range early {
		r.write(e)
	}
}

func (r *run) write(e journal.Event) {
	if err := r.journal.Write(e); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.failed == nil {
			r.failed = err
			if r.stop != nil {
				r.stop(&abortError{err.Error()}) // what cannot be recorded need not happen
			}
		}
	}
}

// writeErr is the first event that the journal refused. What stopped the journal
// itself is left to its Close.
func (r *run) writeErr() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(r.failed, r.journal.Err()) {
		return nil
	}
	return r.failed
}

func (r *run) mark(text string, warning bool) {
	r.write(journal.Event{Mark: &journal.Mark{Text: text, Warning: warning}})
}

// service puts an instance's news into the journal.
func (r *run) service(e targets.Event) {
	if r.o.Child != nil && (e.State == targets.Started || e.State == targets.Restarted) {
		r.o.Child(e.Service, e.PID)
	}
	event := journal.Event{Service: &journal.Service{
		Name: e.Service, Instance: e.Instance, State: e.State, PID: e.PID,
		Address: e.Address, Detail: e.Detail, Expected: e.Expected, Log: e.Log,
	}}
	r.mu.Lock()
	starting := r.zero.IsZero()
	if starting {
		r.early = append(r.early, event)
	}
	r.mu.Unlock()
	if !starting {
		r.write(event)
	}
}

// live is the run itself, from the first phase to the end of the load: every
// stream, every fault and every observer on one clock. It returns why it ended:
// nil, errNoSteadyState, errInterrupted or an *abortError. When it returns,
// every fault is reverted and every request is finished.
func (r *run) live(outer context.Context) error {
	ctx, stop := context.WithCancelCause(outer)
	defer stop(nil)
	r.mu.Lock()
	r.stop = stop
	if r.failed != nil {
		stop(&abortError{r.failed.Error()}) // the journal's first lines could not be written
	}
	r.mu.Unlock()
	r.stopped = make(chan struct{})
	r.observers.Go(r.observeEdges)
	r.observers.Go(r.observeBreakers)
	r.observers.Go(func() { observeClocks(r.stopped, clocksFrom(r.zero), r.write) })
	for _, edge := range slices.Sorted(maps.Keys(r.plan.Metrics)) {
		r.observers.Go(func() { r.observeMetrics(edge, r.plan.Metrics[edge]) })
	}
	r.observers.Go(func() {
		for {
			select {
			case text := <-r.o.Odd:
				r.mark(text, true)
			case <-r.stopped:
				return
			}
		}
	})
	watch := r.watch(stop)

	var all sync.WaitGroup
	for _, spec := range r.plan.Loads {
		all.Go(func() {
			if err := r.load(ctx, spec); err != nil && ctx.Err() == nil {
				stop(&abortError{fmt.Sprintf("load %q: %v", spec.Name, err)})
			}
		})
	}
	for _, m := range r.plan.Timeline() {
		if !sleepUntil(ctx, r.zero.Add(m.At)) {
			break
		}
		switch m.Kind {
		case timeline.Phase:
			if m.Name == "during" {
				if why := r.unsteady(); why != "" {
					r.mark("no steady state before the fault, nothing is injected: "+why, true)
					stop(errNoSteadyState)
					continue
				}
			}
			r.write(journal.Event{Phase: &journal.Phase{Name: m.Name}})
		case timeline.Inject:
			f := r.fault(m.Name)
			all.Go(func() { r.hold(ctx, f) })
		}
	}
	all.Wait()
	watch()

	cause := context.Cause(ctx)
	switch {
	case cause == nil, errors.Is(cause, errNoSteadyState):
		return cause
	case outer.Err() != nil:
		return r.ended(outer, "")
	}
	var aborted *abortError
	if errors.As(cause, &aborted) {
		r.write(journal.Event{Abort: &journal.Abort{Reason: aborted.reason}})
	}
	return cause
}

// load runs one stream from the run's start to the end of the last phase.
func (r *run) load(ctx context.Context, spec loadgen.Spec) error {
	c := loadgen.Config{
		Spec: spec, Seed: derive(r.plan.Seed, "load", spec.Name),
		Start: r.zero, From: 0, Until: r.plan.Duration(),
		Resolve:  func() string { return r.system.Turn(spec.To) },
		OnWindow: func(w loadgen.Window) { r.write(journal.Event{Window: windowEvent(w)}) },
		OnSample: func(s loadgen.Sample) { r.write(journal.Event{Sample: sampleEvent(s)}) },
		OnResult: r.o.Samples,
	}
	var err error
	if c.TLS, err = r.system.Secured(spec.To); err != nil {
		return fmt.Errorf("load %q: %w", spec.Name, err)
	}
	return loadgen.Run(ctx, c)
}

func (r *run) fault(name string) faults.Fault {
	for _, f := range r.plan.Faults {
		if f.Spec.Name == name {
			return f
		}
	}
	panic("timeline names a fault that the plan does not hold: " + name)
}

// hold keeps one fault for its time. A fault that cannot be injected does not
// end the run: the missing evidence makes its verdict inconclusive.
func (r *run) hold(ctx context.Context, f faults.Fault) {
	world := faults.World{Edge: r.edges.proxy, Services: r.system, Undo: r.undo, Run: r.o.ID}
	claim := r.claim(f.Spec.Name)
	err := faults.Hold(ctx, f, world, func(s faults.State) {
		event := &journal.Fault{
			Name: claim.Name, Kind: claim.Kind, Target: claim.Target,
			State: s.State, Detail: s.Detail, Asked: claim.Asked, Observed: s.Observed,
		}
		if s.Err != nil {
			event.Error = s.Err.Error()
		}
		r.write(journal.Event{Fault: event})
	})
	var revert *faults.RevertError
	if errors.As(err, &revert) {
		r.mu.Lock()
		r.revertErr = errors.Join(r.revertErr, err)
		r.mu.Unlock()
	} else if err != nil && ctx.Err() == nil {
		r.mark(fmt.Sprintf("fault %q: %v", f.Spec.Name, err), true)
	}
}

func (r *run) claim(fault string) verdict.Fault {
	for _, f := range r.plan.Hypotheses.Faults {
		if f.Name == fault {
			return f
		}
	}
	return verdict.Fault{Name: fault}
}

// settle waits until the system has finished what it accepted, then asks for
// its invariants. When it is interrupted it asks for none: a system that has not
// drained breaks them without being wrong.
func (r *run) settle(outer context.Context) {
	if len(r.plan.Hypotheses.Invariants) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(outer, drainTimeout)
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	// A request whose caller gave up may still be on its way through the system
	// and place an order after the first yes: it must stay drained for a while.
	for quiet := 0; ; {
		ok, detail, err := r.system.Drained(ctx)
		if err != nil {
			ok, detail = false, err.Error()
		}
		if quiet++; !ok {
			quiet = 0
		}
		if outer.Err() != nil {
			return
		}
		if quiet >= drainedFor || ctx.Err() != nil {
			r.write(journal.Event{Probe: &journal.Probe{
				Name: "drained", Kind: "drain", OK: ok, Detail: detail,
				Values: map[string]float64{"wait_s": time.Since(began).Seconds()},
			}})
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		case <-r.o.Hurry:
			cancel()
		}
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, name := range r.plan.Hypotheses.Invariants {
		ok, detail, values, err := r.system.Check(asking, name)
		probe := &journal.Probe{Name: name, Kind: "invariant", OK: ok, Detail: detail, Values: values}
		if err != nil {
			probe.Error = err.Error()
		}
		r.write(journal.Event{Probe: probe})
	}
}

// unhurried is a context for cleaning up: it outlives the run's own and ends
// after d, or at once when the user says so a second time.
func (r *run) unhurried(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	go func() {
		defer cancel()
		select {
		case <-r.o.Hurry:
		case <-ctx.Done():
		}
	}()
	return ctx
}

// sleepUntil waits for a moment; false when ctx ended first.
func sleepUntil(ctx context.Context, t time.Time) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
