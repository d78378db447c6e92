package faults

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults/fill"
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

// patienceFor is what writing so much may take: 50 MB/s, of a slow disk that others
// use, too.
func patienceFor(bytes int64) time.Duration { return time.Duration(bytes) * time.Second / 50_000_000 }

func disk(f Fault, w World) (*plan, error) {
	d, keeper := f.Spec.Disk, w.Services.(DataKeeper)
	all, p, err := victims(f, w, d.Pick)
	if err != nil {
		return nil, err
	}
	if len(all) > 1 {
		return nil, fmt.Errorf("%d instances are picked: a disk fault fills the data folder of one", len(all))
	}
	folder, err := keeper.DataFolder(all[0].service, all[0].instance)
	if err != nil {
		return nil, err
	}
	leave := int64(0)
	if d.Free != nil {
		leave = int64(*d.Free)
	}
	size, err := fill.Size(folder, int64(d.Fill), leave)
	if err != nil {
		return nil, err
	}
	mark := fill.Mark{Run: w.Run, Fault: f.Spec.Name}
	path := fill.Path(folder, mark)
	p.detail = path
	p.data[undo.File] = path
	p.patience = patienceFor(size)
	p.inject = func(ctx context.Context, e *effect) error {
		// Its name is this fault's alone; a second one of that name would remove what
		// the first has written.
		release, ok := w.Undo.Claim("disk " + path)
		if !ok {
			return fmt.Errorf("%s is being written by another fault", path)
		}
		e.releases = append(e.releases, release)
		free := func() float64 {
			n, _, err := fill.Free(folder)
			if err != nil {
				return 0
			}
			return float64(n)
		}
		e.observed["free_before_bytes"] = free()
		written := false
		e.step(func(context.Context) error {
			if written {
				// What is left of it now is what there was all the time, at least.
				if n, err := fill.Allocated(path); err == nil && float64(n) < e.observed["bytes"] {
					e.observed["bytes"] = float64(n)
					e.detail = "somebody else made it smaller, or removed it"
				}
			}
			_, err := fill.Remove(path, mark)
			return err
		}, func(context.Context) error {
			if n, err := fill.Allocated(path); err != nil || n > 0 {
				return fmt.Errorf("%s is still there (%d bytes, %v)", path, n, err)
			}
			return nil
		})
		if err := fill.Write(ctx, path, mark, size); err != nil {
			return err
		}
		n, err := fill.Allocated(path)
		if err != nil {
			return err
		}
		written = true
		e.observed["bytes"], e.observed["free_bytes"], e.observed["instances"] = float64(n), free(), 1
		if n < size {
			return fmt.Errorf("%s takes %d bytes of its file system, %d were written: it would not fill up", path, n, size)
		}
		return nil
	}
	return p, nil
}
