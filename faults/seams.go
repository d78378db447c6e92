package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/targets/topology"
)

// dns breaks the caller's lookups of the callee, and counts how many that hit.
func dns(f Fault, w World) (*plan, error) {
	d, breaker := f.Spec.DNS, w.Services.(LookupBreaker)
	if len(f.Edges) == 0 {
		return nil, errors.New("it is on no edge: there is nothing to break")
	}
	p := &plan{detail: "on " + strings.Join(f.Edges, ", "), data: map[string]string{"edges": strings.Join(f.Edges, ", ")}}
	p.inject = func(ctx context.Context, e *effect) error {
		for _, name := range f.Edges {
			caller, callee, err := topology.ParseEdge(name)
			if err != nil {
				return err
			}
			release, ok := w.Undo.Claim("dns " + name)
			if !ok {
				return fmt.Errorf("how %s finds %s is broken by another fault already", caller, callee)
			}
			e.releases = append(e.releases, release)
			before, brokenBefore, running, err := breaker.Lookups(ctx, caller, callee)
			if err != nil {
				return err
			}
			if !running {
				return fmt.Errorf("%s does not run", caller)
			}
			e.step(func(ctx context.Context) error {
				all, broken, running, err := breaker.Lookups(ctx, caller, callee)
				switch {
				case err != nil:
					e.detail = err.Error()
				case running && (all < before || broken < brokenBefore): // it was started again, and counts anew
					before, brokenBefore = 0, 0
					fallthrough
				case running:
					e.observed["lookups"] += float64(all - before)
					e.observed["hit"] += float64(broken - brokenBefore)
				}
				return breaker.MendLookup(ctx, caller, callee)
			}, nil)
			if err := breaker.BreakLookup(ctx, caller, callee, d.Fail, d.Delay); err != nil {
				return err
			}
		}
		e.observed["edges"] = float64(len(f.Edges))
		return nil
	}
	return p, nil
}

// clockSlack is how far a clock may be off what was asked, beside the uncertainty
// of asking it: what a busy machine takes between reading a clock and using it.
const clockSlack = 50 * time.Millisecond

// clock sets the victims' clocks wrong, and asks them for the time before it, then,
// and after it is reverted.
func clock(f Fault, w World) (*plan, error) {
	c, setter := f.Spec.Clock, w.Services.(ClockSetter)
	all, p, err := victims(f, w, c.Pick)
	if err != nil {
		return nil, err
	}
	p.inject = func(ctx context.Context, e *effect) error {
		e.observed["instances"] = 0
		if err := e.claim(w, "clock", all); err != nil {
			return err
		}
		for _, v := range all {
			var since time.Time // it was seen to be wrong
			e.step(func(ctx context.Context) error {
				if !since.IsZero() {
					offset, _, running, err := setter.ClockOffset(ctx, v.service, v.instance)
					if err == nil && running {
						e.observed["offset_end_s"+v.key] = offset.Seconds()
						if held := time.Since(since).Seconds(); c.Drift != 0 && held > 0 {
							e.observed["drift_ratio"+v.key] = (offset.Seconds() - e.observed["offset_s"+v.key]) / held
						}
					}
				}
				return setter.SetClock(ctx, v.service, v.instance, 0, 0)
			}, func(ctx context.Context) error {
				offset, uncertain, running, err := setter.ClockOffset(ctx, v.service, v.instance)
				if err != nil {
					return err
				}
				if running && offset.Abs() > uncertain+clockSlack {
					return fmt.Errorf("the clock of %s is still %s ahead of ours (± %s)", v, offset, uncertain)
				}
				return nil
			})
			if err := setter.SetClock(ctx, v.service, v.instance, time.Duration(c.Offset), time.Duration(c.Drift)); err != nil {
				return err
			}
			offset, uncertain, running, err := setter.ClockOffset(ctx, v.service, v.instance)
			switch {
			case err != nil:
				return err
			case !running:
				return fmt.Errorf("%s does not run", v)
			}
			since = time.Now()
			e.observed["instances"]++
			e.observed["offset_s"+v.key], e.observed["uncertain_s"+v.key] = offset.Seconds(), uncertain.Seconds()
		}
		return nil
	}
	return p, nil
}
