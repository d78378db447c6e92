package faults

import (
	"context"
	"fmt"
	"strings"

	"github.com/chaosctl/chaosctl/faults/undo"
)

func cpu(f Fault, w World) (*plan, error) {
	c, stresser := f.Spec.CPU, w.Services.(Stresser)
	return press(f, w, c.Pick, stresser, func(ctx context.Context, v victim, e *effect) (pid int, where string, err error) {
		pid, workers, where, err := stresser.StressCPU(ctx, v.service, v.instance, f.Spec.Name, c.Workers, c.Load.or(0.8))
		if err == nil {
			e.observed["workers"] += float64(workers)
		}
		return pid, where, err
	})
}

func memory(f Fault, w World) (*plan, error) {
	m, stresser := f.Spec.Memory, w.Services.(Stresser)
	return press(f, w, m.Pick, stresser, func(ctx context.Context, v victim, e *effect) (pid int, where string, err error) {
		pid, held, where, err := stresser.StressMemory(ctx, v.service, v.instance, f.Spec.Name, int64(m.Size), m.Share.or(0))
		if err == nil {
			e.observed["held_bytes"] += float64(held)
		}
		return pid, where, err
	})
}

// press starts a process beside each victim, and reverts that by ending it. What it
// has done is measured when it is confirmed, and again before it ends.
func press(f Fault, w World, pick Pick, stresser Stresser, start func(context.Context, victim, *effect) (pid int, where string, err error)) (*plan, error) {
	all, p, err := victims(f, w, pick)
	if err != nil {
		return nil, err
	}
	p.inject = func(ctx context.Context, e *effect) error {
		e.observed["instances"] = 0
		latest := make([]map[string]float64, len(all))
		measure := func(i int) error {
			m, err := stresser.Pressure(all[i].service, all[i].instance, f.Spec.Name)
			if err != nil {
				return err
			}
			latest[i] = m
			for key := range m {
				e.observed[key] = 0
				for _, other := range latest {
					if key == "held_s" {
						e.observed[key] = max(e.observed[key], other[key])
					} else {
						e.observed[key] += other[key]
					}
				}
			}
			return nil
		}
		var places []string
		for i, v := range all {
			var process undo.Process // what presses; zero: it is none of this machine
			started := false
			e.step(func(ctx context.Context) error {
				if started {
					if err := measure(i); err != nil {
						e.detail = err.Error()
					} else if process.PID != 0 && !process.Alive() {
						e.detail = fmt.Sprintf("what pressed on %s (pid %d) had ended by itself", v, process.PID)
					}
				}
				return stresser.Relieve(ctx, v.service, v.instance, f.Spec.Name)
			}, func(context.Context) error {
				if process.PID != 0 && process.Alive() {
					return fmt.Errorf("what pressed on %s is still there (pid %d)", v, process.PID)
				}
				return nil
			})
			pid, where, err := start(ctx, v, e)
			if err != nil {
				return err
			}
			if pid != 0 {
				if process, err = undo.Identify(pid); err != nil {
					return err
				}
			}
			if err := measure(i); err != nil {
				return err
			}
			started = true
			e.observed["instances"]++
			places = append(places, fmt.Sprintf("%s: pid %d, %s", v, pid, where))
		}
		p.detail = strings.Join(places, "; ")
		return nil
	}
	return p, nil
}
