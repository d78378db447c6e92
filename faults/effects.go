package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/faults/undo"
)

// onEdges puts the fault's rule on each of its edges. Whether it hits anything
// shows in the proxies' counts, under the fault's name.
func onEdges(f Fault, w World) (*plan, error) {
	if len(f.Edges) == 0 {
		return nil, errors.New("it is on no edge: there is nothing to break")
	}
	rule := f.rule()
	if err := rule.Validate(); err != nil {
		return nil, err
	}
	edges := make([]edge, len(f.Edges))
	for i, name := range f.Edges {
		var err error
		if edges[i], err = w.edgeNamed(name); err != nil {
			return nil, err
		}
	}
	return &plan{
		detail: "on " + strings.Join(f.Edges, ", "),
		data:   map[string]string{"edges": strings.Join(f.Edges, ", ")},
		inject: func(_ context.Context, e *effect) error {
			for _, edge := range edges {
				remove, err := edge.Add(rule)
				if err != nil {
					return err
				}
				e.step(func(context.Context) error { remove(); return nil }, nil)
			}
			e.observed["edges"] = float64(len(edges))
			return nil
		},
	}, nil
}

// rule is the fault in the proxy's words. A partition is a blackhole, also towards
// new connections: packets that are lost are not answered, and the caller finds
// out by its timeouts alone.
func (f Fault) rule() proxy.Rule {
	s := f.Spec
	r := proxy.Rule{Name: s.Name, Seed: f.Seed, Percent: 1, When: s.when()}
	if m := s.Match; m != nil {
		r.Match = proxy.Match{Methods: m.Method, Path: m.Path, Host: m.Host, Headers: fields(m.Headers)}
		if m.GRPC != nil {
			r.Match.GRPC = proxy.GRPC{Service: m.GRPC.Service, Method: m.GRPC.Method}
		}
	}
	switch {
	case s.Latency != nil:
		l := s.Latency
		r.Percent = l.Percent.or(1)
		r.Latency = &proxy.Latency{Delay: l.Delay, Jitter: l.Jitter, Distribution: l.Distribution, Direction: l.Direction, Where: proxy.Where(l.Where), KeepOrder: l.KeepOrder}
	case s.Error != nil:
		r.Percent = s.Error.Percent.or(1)
		r.Error = &proxy.Error{Status: s.Error.status(), Body: s.Error.Body, Code: s.Error.code(), Message: s.Error.Message}
	case s.Reset != nil:
		r.Percent = s.Reset.Percent.or(1)
		r.Reset = &proxy.Cut{After: int64(s.Reset.After), Wait: s.Reset.Wait}
	case s.Blackhole != nil:
		r.Percent = s.Blackhole.Percent.or(1)
		r.Blackhole = &proxy.Cut{After: int64(s.Blackhole.After)}
	case s.Silence != nil:
		r.Percent = s.Silence.Percent.or(1)
		r.Silence = &proxy.Silence{For: or(s.Silence.For, 0), Direction: proxy.Answer}
		if s.Silence.Direction != "" {
			r.Silence.Direction = direction(s.Silence.Direction)
		}
	case s.Refuse != nil:
		r.Percent = s.Refuse.Percent.or(1)
		r.Refuse = &proxy.Refuse{}
	case s.SlowConnect != nil:
		r.Percent = s.SlowConnect.Percent.or(1)
		r.Connect = &proxy.Connect{Delay: s.SlowConnect.Delay}
	case s.SlowClose != nil:
		r.Percent = s.SlowClose.Percent.or(1)
		r.SlowClose = &proxy.SlowClose{Delay: s.SlowClose.Delay, Direction: direction(s.SlowClose.Direction)}
	case s.Bandwidth != nil:
		r.Percent = s.Bandwidth.Percent.or(1)
		r.Bandwidth = &proxy.Bandwidth{BytesPerS: int64(s.Bandwidth.Rate), Shared: s.Bandwidth.Shared, Direction: direction(s.Bandwidth.Direction), Queue: int64(s.Bandwidth.Queue)}
	case s.Slice != nil:
		l := s.Slice
		r.Percent = l.Percent.or(1)
		r.Slice = &proxy.Slice{Average: int64(l.Average), Variation: int64(l.Variation), Delay: l.Delay, Direction: direction(l.Direction)}
	case s.Loss != nil:
		r.Loss = &proxy.Loss{Ratio: float64(s.Loss.Percent), Correlation: float64(s.Loss.Correlation), Direction: direction(s.Loss.Direction)}
	case s.Corrupt != nil:
		r.Corrupt = &proxy.Corrupt{Ratio: float64(s.Corrupt.Percent), Direction: direction(s.Corrupt.Direction)}
	case s.Limit != nil:
		r.Percent = s.Limit.Percent.or(1)
		r.Limit = &proxy.Limit{Direction: direction(s.Limit.Direction)}
		if s.Limit.Bytes != nil {
			r.Limit.Bytes = int64(*s.Limit.Bytes)
		}
	case s.Abort != nil:
		r.Percent = s.Abort.Percent.or(1)
		r.Abort = &proxy.Abort{After: int64(s.Abort.After), Close: s.Abort.Close}
	case s.Reshape != nil:
		r.Percent = s.Reshape.Percent.or(1)
		r.Reshape = &proxy.Reshape{Request: s.Reshape.Request.lines(), Answer: s.Reshape.Answer.lines()}
	case s.Duplicate != nil:
		r.Percent = float64(s.Duplicate.Percent)
		r.Duplicate = &proxy.Duplicate{Direction: direction(s.Duplicate.Direction)}
	case s.Reorder != nil:
		r.Percent = float64(s.Reorder.Percent)
		r.Reorder = &proxy.Reorder{Wait: or(s.Reorder.Wait, 0), Direction: direction(s.Reorder.Direction)}
	case s.Partition != nil:
		r.Blackhole = &proxy.Cut{}
	}
	return r
}

// lines is the edit in the proxy's words.
func (e *Edit) lines() proxy.Edit {
	if e == nil {
		return proxy.Edit{}
	}
	return proxy.Edit{Remove: e.Remove, Set: fields(e.Set), Add: fields(e.Add)}
}

// fields are header lines, in the order of their names.
func fields(lines map[string]string) (all []proxy.Field) {
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		all = append(all, proxy.Field{Name: name, Value: lines[name]})
	}
	return all
}

// when is the conditions in the proxy's words.
func (s Spec) when() proxy.When {
	w := proxy.When{Source: string(s.From), Ramp: or(s.Ramp, 0)}
	if s.Pulse != nil {
		w.Pulse = proxy.Pulse{On: s.Pulse.Active, Off: s.Pulse.Pause}
	}
	if s.First != nil {
		w.First = *s.First
	}
	if s.Every != nil {
		w.Every = *s.Every
	}
	return w
}

// direction is the proxy's word: it says "both" by saying nothing.
func direction(word string) proxy.Direction {
	if word == "both" {
		return proxy.Both
	}
	return proxy.Direction(word)
}

// picked draws the instances to hit, from the fault's seed alone.
func (f Fault) picked(p Pick) ([]int, error) {
	instances := max(f.Instances, 1)
	n, err := p.Of(instances)
	if err != nil {
		return nil, fmt.Errorf("service %q: %w", f.Service, err)
	}
	all := rand.New(rand.NewPCG(f.Seed, 0)).Perm(instances)[:n]
	slices.Sort(all)
	return all, nil
}

// victim is one instance that is hit.
type victim struct {
	service  string
	instance int
	key      string         // appended to its own observations: "" when it is the only one
	before   []undo.Process // what it consists of, where the runtime tells
	lister   Lister         // nil where it does not
}

func (v victim) String() string {
	if len(v.before) == 0 {
		return fmt.Sprintf("%s/%d", v.service, v.instance)
	}
	return fmt.Sprintf("%s/%d (pid %d)", v.service, v.instance, v.before[0].PID)
}

// processes looks up what the instance consists of now.
func (v victim) processes() ([]undo.Process, error) {
	if v.lister == nil {
		return nil, nil
	}
	pids, err := v.lister.Processes(v.service, v.instance)
	if err != nil {
		return nil, fmt.Errorf("list the processes of %s: %w", v, err)
	}
	var all []undo.Process
	for i, pid := range pids {
		p, err := undo.Identify(pid)
		if err != nil && i == 0 {
			return nil, err
		}
		if err == nil { // else it has ended since
			all = append(all, p)
		}
	}
	return all, nil
}

// victims picks, and looks up what is to be recorded of them.
func victims(f Fault, w World, p Pick) (all []victim, p2 *plan, err error) {
	instances, err := f.picked(p)
	if err != nil {
		return nil, nil, err
	}
	lister, _ := w.Services.(Lister)
	var processes []undo.Process
	var names, numbers []string
	for _, i := range instances {
		v := victim{service: f.Service, instance: i, lister: lister}
		if len(instances) > 1 {
			v.key = "_" + strconv.Itoa(i)
		}
		if v.before, err = v.processes(); err != nil {
			return nil, nil, err
		}
		if lister != nil && len(v.before) == 0 {
			return nil, nil, fmt.Errorf("%s does not run", v)
		}
		all = append(all, v)
		names, numbers, processes = append(names, v.String()), append(numbers, strconv.Itoa(i)), append(processes, v.before...)
	}
	return all, &plan{detail: strings.Join(names, ", "), data: map[string]string{
		"instances": strings.Join(numbers, " "), undo.Processes: undo.FormatProcesses(processes),
	}}, nil
}

// claim takes something of every victim for this fault, until it is reverted: what two
// faults had changed at once, neither could put back. It must come before there is
// anything to revert, which would end the other's.
func (e *effect) claim(w World, what string, all []victim) error {
	for _, v := range all {
		release, ok := w.Undo.Claim(fmt.Sprintf("%s %s/%d", what, v.service, v.instance))
		if !ok {
			return fmt.Errorf("another fault has the %s of %s", what, v)
		}
		e.releases = append(e.releases, release)
	}
	return nil
}

// gone looks for itself whether the processes that were there before are no more.
func (v victim) gone() error {
	for _, p := range v.before {
		if p.Alive() {
			return fmt.Errorf("%s: process %d is still there", v, p.PID)
		}
	}
	return nil
}

// before notes which process the victim was.
func (e *effect) before(v victim) {
	if len(v.before) > 0 {
		e.observed["pid_before"+v.key] = float64(v.before[0].PID)
	}
}

// back looks whether the instance runs again, and as what.
func (v victim) back(e *effect) error {
	now, err := v.processes()
	if err != nil || v.lister == nil {
		return err
	}
	if len(now) == 0 || !now[0].Alive() {
		return fmt.Errorf("%s does not run", v)
	}
	e.observed["pid_after"+v.key] = float64(now[0].PID)
	return nil
}

func kill(f Fault, w World) (*plan, error) {
	k := f.Spec.Kill
	killer := w.Services.(Killer)
	return away(f, w, k.Pick, 0, func(ctx context.Context, v victim) error {
		return killer.Kill(ctx, v.service, v.instance, k.signal())
	})
}

func restart(f Fault, w World) (*plan, error) {
	r := f.Spec.Restart
	stopper := w.Services.(Stopper)
	grace := or(r.Grace, 5*time.Second)
	return away(f, w, r.Pick, grace, func(ctx context.Context, v victim) error {
		return stopper.Terminate(ctx, v.service, v.instance, grace)
	})
}

// away takes the victims away by end, all at once, and reverts that by starting
// them again, all at once. patience is what end may take by itself.
func away(f Fault, w World, pick Pick, patience time.Duration, end func(context.Context, victim) error) (*plan, error) {
	all, p, err := victims(f, w, pick)
	if err != nil {
		return nil, err
	}
	starter := w.Services.(Starter)
	p.patience = patience
	p.inject = func(ctx context.Context, e *effect) error {
		goneAt := make([]time.Time, len(all)) // zero: it is not known to be gone
		e.step(func(ctx context.Context) error {
			for i := range all {
				if !goneAt[i].IsZero() {
					e.longest("down_s", time.Since(goneAt[i]))
				}
			}
			backAt := make([]time.Time, len(all))
			err := together(all, func(i int, v victim) error {
				err := starter.StartAgain(ctx, v.service, v.instance)
				backAt[i] = time.Now()
				return err
			})
			for i := range all {
				if err == nil && !goneAt[i].IsZero() {
					e.longest("outage_s", backAt[i].Sub(goneAt[i]))
				}
			}
			return err
		}, func(context.Context) error {
			var errs []error
			for _, v := range all {
				errs = append(errs, v.back(e))
			}
			return errors.Join(errs...)
		})

		asked := time.Now()
		err := together(all, func(i int, v victim) error {
			if err := end(ctx, v); err != nil {
				return err
			}
			if err := v.gone(); err != nil {
				return err
			}
			goneAt[i] = time.Now()
			return nil
		})
		e.observed["instances"] = 0
		for i, v := range all {
			if goneAt[i].IsZero() {
				continue
			}
			e.observed["instances"]++
			e.longest("gone_s", goneAt[i].Sub(asked))
			e.before(v)
		}
		return err
	}
	return p, nil
}

// together does the same to every victim at the same time, and waits for all.
func together(all []victim, do func(int, victim) error) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, v := range all {
		wait.Go(func() { errs[i] = do(i, v) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func pause(f Fault, w World) (*plan, error) {
	all, p, err := victims(f, w, f.Spec.Pause.Pick)
	if err != nil {
		return nil, err
	}
	pauser := w.Services.(Pauser)
	for _, v := range all {
		// Somebody else's pause would end with ours.
		if paused, err := pauser.Paused(v.service, v.instance); err != nil {
			return nil, err
		} else if paused {
			return nil, fmt.Errorf("%s is paused already", v)
		}
	}
	p.inject = func(ctx context.Context, e *effect) error {
		e.observed["instances"] = 0
		// Another pause may have begun since we looked.
		if err := e.claim(w, "pause", all); err != nil {
			return err
		}
		for _, v := range all {
			var since time.Time
			e.step(func(ctx context.Context) error {
				if since.IsZero() {
					return pauser.Resume(ctx, v.service, v.instance)
				}
				if still, err := pauser.Paused(v.service, v.instance); err == nil && !still {
					e.detail = fmt.Sprintf("%s was not paused any more when the pause ended", v)
				}
				err := pauser.Resume(ctx, v.service, v.instance)
				if err == nil {
					e.longest("paused_s", time.Since(since))
				}
				return err
			}, func(context.Context) error {
				if paused, err := pauser.Paused(v.service, v.instance); err != nil {
					return err
				} else if paused {
					return fmt.Errorf("%s is still paused", v)
				}
				for _, p := range v.before {
					if p.Stopped() {
						return fmt.Errorf("%s: process %d is still stopped", v, p.PID)
					}
				}
				return nil
			})
			if err := pauser.Pause(ctx, v.service, v.instance); err != nil {
				return err
			}
			if paused, err := pauser.Paused(v.service, v.instance); err != nil {
				return err
			} else if !paused {
				return fmt.Errorf("%s runs on", v)
			}
			for _, p := range v.before {
				if p.Alive() && !p.Stopped() {
					return fmt.Errorf("%s: process %d runs on", v, p.PID)
				}
			}
			since = time.Now()
			e.observed["instances"]++
			e.before(v)
		}
		return nil
	}
	return p, nil
}
