package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/chaosctl/chaosctl/faults/undo"
)

// Fault is a Spec placed on a run's clock, its target resolved.
type Fault struct {
	Spec      Spec          `json:"spec"`
	At        time.Duration `json:"at_ns"`               // since the run's start
	For       time.Duration `json:"for_ns"`              // of kill: how long the instances stay away
	Edges     []string      `json:"edges,omitempty"`     // names of the edges it is on
	Service   string        `json:"service,omitempty"`   // or the service
	Instances int           `json:"instances,omitempty"` // that service has; 0 counts as 1
	Seed      uint64        `json:"seed"`
}

// MarshalJSON adds the fault's name, which Spec leaves out because in a scenario
// it is the key above.
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	return json.Marshal(struct {
		Name string `json:"name"`
		plain
	}{f.Spec.Name, plain(f)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (f *Fault) UnmarshalJSON(b []byte) error {
	type plain Fault
	v := struct {
		Name string `json:"name"`
		*plain
	}{plain: (*plain)(f)}
	err := json.Unmarshal(b, &v)
	f.Spec.Name = v.Name
	return err
}

// length is how long the fault is held.
func (f Fault) length() time.Duration {
	if d, fixed := f.Spec.Length(); fixed && f.For == 0 {
		return d
	}
	return f.For
}

// The states of a fault, in the journal's words.
const (
	Injecting = "injecting"
	Injected  = "injected"  // confirmed, as far as can be seen without traffic
	Reverting = "reverting" // its time is over, or ctx ended
	Reverted  = "reverted"
	Verified  = "verified" // seen to be as before
	Failed    = "failed"   // Err says what
)

// State is one step in the life of a fault.
type State struct {
	State  string
	Err    error
	Detail string
	// Observed is what has been measured so far (see Spec.Asked), and beyond that
	//
	//	gone_s       from the signal to the end of the last instance (kill, restart)
	//	outage_s     from an instance's end until it was ready again: the longest
	//	paused_s     from stopped to running again: the longest
	//	pid_before, pid_after   with several instances: pid_before_0, …
	Observed map[string]float64
}

// RevertError says that a fault may still be in effect: exit code 5. The undo
// record is still there.
type RevertError struct {
	Fault string
	Err   error
}

func (e *RevertError) Error() string { return fmt.Sprintf("revert fault %q: %v", e.Fault, e.Err) }
func (e *RevertError) Unwrap() error { return e.Err }
func (e *RevertError) ExitCode() int { return 5 }

// How long injecting and reverting may take. Reverting includes that a service
// becomes ready again.
const (
	injectWithin = 15 * time.Second
	revertWithin = 30 * time.Second
)

// An injector makes a fault concrete: it looks up what it is to act on, and
// changes nothing. Errors here leave nothing to revert.
type injector func(f Fault, w World) (*plan, error)

// plan is a fault about to be injected.
type plan struct {
	detail string
	data   map[string]string // for the undo record
	// patience is what injecting may take besides injectWithin: a grace.
	patience time.Duration
	// inject does it, step by step, and returns when it has seen that it is done.
	// Every step says beforehand how it is reverted, so that whatever happens in
	// between, an error, a panic, an end of ctx, is undone by e.revert.
	inject func(ctx context.Context, e *effect) error
}

// effect is what there is to revert, and what has been measured.
type effect struct {
	steps    []step // reverted last in, first out
	undone   int    // so many have been reverted, or tried to
	observed map[string]float64
	detail   string   // a note of the revert
	releases []func() // of claims: called when all is reverted and seen to be
}

type step struct {
	revert func(ctx context.Context) error
	verify func(ctx context.Context) error // nil: revert has said it all
}

func (e *effect) step(revert, verify func(ctx context.Context) error) {
	e.steps = append(e.steps, step{revert, verify})
}

func (e *effect) longest(key string, d time.Duration) {
	e.observed[key] = max(e.observed[key], d.Seconds())
}

// Hold injects f, keeps it for f.For or until ctx ends, reverts it and verifies
// that. It returns when all that is over. report is told of every step, from the
// calling goroutine.
//
// A fault that cannot be injected is an error, whatever was done of it is
// reverted. A fault that cannot be reverted, or is still there afterwards, is a
// *RevertError. That ctx ended is no error, except while injecting. Reverting has
// a time limit of its own and does not care about ctx; it also takes place when
// report panics.
func Hold(ctx context.Context, f Fault, w World, report func(State)) (err error) {
	name := f.Spec.Name
	if ctx.Err() != nil {
		return fmt.Errorf("inject fault %q: %w", name, context.Cause(ctx))
	}
	e := &effect{observed: map[string]float64{}}
	tell := func(state, detail string, err error) {
		report(State{State: state, Err: err, Detail: detail, Observed: maps.Clone(e.observed)})
	}
	failed := func(err error) error {
		err = fmt.Errorf("inject fault %q: %w", name, err)
		tell(Failed, "", err)
		return err
	}

	p, kind, err := prepare(f, w)
	if err != nil {
		return failed(err)
	}
	target := f.Service
	if target == "" {
		target = f.Spec.Target
	}
	if f.Spec.Partition != nil {
		target = f.Spec.Partition.String()
	}
	done, err := w.Undo.Record(undo.Record{Run: w.Run, Fault: name, Kind: kind.Verb, Target: target, Data: p.data})
	if err != nil {
		return failed(err)
	}
	defer func() { err = errors.Join(err, e.revert(ctx, name, done, tell)) }()
	tell(Injecting, p.detail, nil)

	limited, cancel := context.WithTimeout(ctx, injectWithin+p.patience)
	err = p.inject(limited, e)
	cancel()
	if err != nil {
		return failed(err)
	}
	tell(Injected, p.detail, nil)

	timer := time.NewTimer(f.length())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

func prepare(f Fault, w World) (*plan, Kind, error) {
	kind, ok := f.Spec.Kind()
	if !ok {
		return nil, kind, errors.New("it has no verb, or more than one")
	}
	if w.Undo == nil {
		return nil, kind, errors.New("there is no undo log: a fault without a record could not be undone when this process dies")
	}
	if err := kind.Supported(w.Services); err != nil {
		return nil, kind, err
	}
	p, err := kind.inject(f, w)
	return p, kind, err
}

// revert undoes every step, the last one first, whatever becomes of the others,
// and then looks whether all is as before.
func (e *effect) revert(ctx context.Context, fault string, done func() error, tell func(string, string, error)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revertWithin)
	defer cancel()
	defer func() {
		for _, release := range e.releases {
			release()
		}
	}()
	defer func() { _ = e.undo(ctx) }() // only if tell panics is there something left to do
	failed := func(err error) error {
		err = &RevertError{Fault: fault, Err: err}
		tell(Failed, e.detail, err)
		return err
	}
	tell(Reverting, "", nil)
	if err := e.undo(ctx); err != nil {
		return failed(err)
	}
	tell(Reverted, e.detail, nil)
	var errs []error
	for _, s := range e.steps {
		if s.verify != nil {
			errs = append(errs, s.verify(ctx))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return failed(err)
	}
	// Reverted and seen to be. A record that cannot be removed is no harm done, but
	// whoever recovers would look at it again, so it is told.
	if err := done(); err != nil {
		return failed(err)
	}
	tell(Verified, e.detail, nil)
	return nil
}

// undo reverts every step once, the last one first, whatever becomes of the others.
func (e *effect) undo(ctx context.Context) error {
	var errs []error
	for ; e.undone < len(e.steps); e.undone++ {
		errs = append(errs, e.steps[len(e.steps)-1-e.undone].revert(ctx))
	}
	return errors.Join(errs...)
}
