package targets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/targets/process"
	"github.com/chaosctl/chaosctl/targets/stress"
)

// A stressor is a process of ours that presses on an instance from beside it.
type stressor struct {
	process *process.Process
	began   time.Time
	victims []int         // what the instance consisted of then
	theirs  process.Usage // that they had used then
	last    process.Usage // of the stressor, as seen last
}

// pressKey names a stressor: an instance may be under several faults.
type pressKey struct {
	service  string
	instance int
	fault    string
}

// processors is how many there are for this process. The load generator tells Go of
// more than that while it runs.
var processors = runtime.GOMAXPROCS(0)

// StressCPU starts a process that keeps workers threads busy (0: one less than
// there are processors, at least one), each for its load (0 to 1) of the time. It runs in the
// control groups of the instance's first process where that has some of its own,
// else beside it: where says which. It returns when the process has had processor
// time, and how many workers there are; fault tells it from the instance's other stressors.
//
// More than four workers per processor are refused: they would wait for one
// another.
func (s *System) StressCPU(ctx context.Context, service string, instance int, fault string, workers int, load float64) (pid, started int, where string, err error) {
	if workers == 0 {
		workers = max(1, processors-1)
	}
	if most := 4 * processors; workers > most {
		return 0, 0, "", fmt.Errorf("%d workers on %d processors would wait for one another: ask for at most %d", workers, processors, most)
	}
	args := []string{"--workers", strconv.Itoa(workers), "--load", strconv.FormatFloat(load, 'g', -1, 64)}
	idle := time.Duration(-1) // what it had used when it began
	pid, where, err = s.press(ctx, pressKey{service, instance, fault}, args, []string{"cpu", "cpuacct", "cpuset"}, func(u process.Usage, p *process.Process) bool {
		if idle < 0 && slices.Contains(p.Tail(), stress.Busy) {
			idle = u.CPU
		}
		return idle >= 0 && u.CPU > idle
	})
	return pid, workers, where, err
}

// StressMemory starts a process that holds bytes of memory, or, with a ratio, that
// share of what is available. It runs where StressCPU's would, and returns when all
// of it is resident, and how much that is.
//
// It is refused when it would leave the machine less than memoryReserve, or a
// control group with a limit less than a twentieth of it.
func (s *System) StressMemory(ctx context.Context, service string, instance int, fault string, bytes int64, ratio float64) (pid int, held int64, where string, err error) {
	folders, err := s.groupsOf(service, instance, "memory")
	if err != nil {
		return 0, 0, "", err
	}
	if held, err = sizeOf(bytes, ratio, folders); err != nil {
		return 0, 0, "", err
	}
	args := []string{"--bytes", strconv.FormatInt(held, 10)}
	pid, where, err = s.press(ctx, pressKey{service, instance, fault}, args, []string{"memory"}, func(u process.Usage, p *process.Process) bool {
		return u.RSS >= held && slices.Contains(p.Tail(), stress.Held)
	})
	return pid, held, where, err
}

// memoryReserve is what a fault leaves available on a machine with so much memory:
// a tenth, and at least 256 MiB.
func memoryReserve(total int64) int64 { return max(total/10, 256<<20) }

// sizeOf says how much to hold, within the machine's limits and the groups'.
func sizeOf(bytes int64, ratio float64, folders []string) (int64, error) {
	total, available, err := process.Memory()
	if err != nil {
		return 0, err
	}
	most := available - memoryReserve(total)
	limit := "the machine, which has " + mib(available) + " available and is left " + mib(memoryReserve(total))
	for _, folder := range folders {
		left, limited, err := process.MemoryLeft(folder)
		if err != nil {
			return 0, err
		}
		if left -= left / 20; limited && left < most {
			most, available = left, left
			limit = "its control group " + folder + ", whose limit leaves " + mib(left)
		}
	}
	if ratio > 0 {
		bytes = int64(ratio * float64(available))
	}
	if bytes > most {
		return 0, fmt.Errorf("holding %s would be too much for %s: ask for at most %s", mib(bytes), limit, mib(max(most, 0)))
	}
	return bytes, nil
}

func mib(bytes int64) string { return strconv.FormatInt(bytes>>20, 10) + " MiB" }

// groupsOf are the control groups of an instance's own, with these controllers.
func (s *System) groupsOf(service string, instance int, controllers ...string) ([]string, error) {
	in, release, err := s.own(service, instance)
	if err != nil {
		return nil, err
	}
	defer release()
	p := in.current()
	if p == nil {
		return nil, fmt.Errorf("service %q does not run", service)
	}
	return process.OwnGroups(p.PID(), controllers...)
}

// press starts a stressor, and returns when it shows its effect.
func (s *System) press(ctx context.Context, key pressKey, args, controllers []string, effect func(process.Usage, *process.Process) bool) (pid int, where string, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	folders, err := s.groupsOf(key.service, key.instance, controllers...)
	if err != nil {
		return 0, "", err
	}
	c := process.Command{Name: "stress of " + key.service, Args: append([]string{s.config.Self, "stress"}, args...)}
	for _, folder := range folders {
		c.Args = append(c.Args, "--join", filepath.Join(folder, "cgroup.procs"))
	}
	if s.config.Run != "" {
		c.Env = []string{process.Mark + "=" + s.config.Run}
	}
	victims, err := s.Processes(key.service, key.instance)
	if err != nil {
		return 0, "", err
	}
	theirs, err := process.UsageOf(victims...)
	if err != nil {
		return 0, "", err
	}
	s.pressing.Lock()
	if _, is := s.stressors[key]; is {
		s.pressing.Unlock()
		return 0, "", fmt.Errorf("fault %q presses on %s/%d already", key.fault, key.service, key.instance)
	}
	p, err := s.runtime.Start(c)
	if err != nil {
		s.pressing.Unlock()
		return 0, "", err
	}
	st := &stressor{process: p, began: time.Now(), victims: victims, theirs: theirs}
	s.stressors[key] = st
	s.pressing.Unlock()

	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		u, err := process.UsageOf(p.PID())
		if err != nil {
			return p.PID(), "", err
		}
		if effect(u, p) {
			break
		}
		select {
		case <-p.Done():
			return p.PID(), "", fmt.Errorf("what presses on %s/%d ended early (%s)%s", key.service, key.instance, p.Exit(), lastLines(p.Tail()))
		case <-tick.C:
		case <-ctx.Done():
			return p.PID(), "", fmt.Errorf("what presses on %s/%d shows no effect: %w", key.service, key.instance, context.Cause(ctx))
		}
	}
	return p.PID(), whereIs(p.PID(), folders, controllers), nil
}

// whereIs says in which of the victim's control groups a stressor is.
func whereIs(pid int, folders, controllers []string) string {
	if len(folders) == 0 {
		return "beside it, which has no control group of its own"
	}
	joined, err := process.OwnGroups(pid, controllers...)
	var in, not []string
	for _, folder := range folders {
		if err == nil && slices.Contains(joined, folder) {
			in = append(in, folder)
		} else {
			not = append(not, folder)
		}
	}
	switch {
	case len(not) == 0:
		return "in its control group " + strings.Join(in, ", ")
	case len(in) == 0:
		return "beside it: we may not join its control group " + strings.Join(not, ", ")
	}
	return "in its control group " + strings.Join(in, ", ") + ", not in " + strings.Join(not, ", ") + ", which we may not join"
}

// Pressure is what a stressor has done so far:
//
//	held_s          since it was started
//	cpu_s           processor time that it had
//	wait_s          time for which its threads wanted a processor and had none
//	rss_bytes       that it holds now; 0 when it has ended by itself
//	victim_cpu_s    processor time that the instance had meanwhile, where it is still the same
//
// It is an error when there is none of that name.
func (s *System) Pressure(service string, instance int, fault string) (map[string]float64, error) {
	s.pressing.Lock()
	defer s.pressing.Unlock()
	st := s.stressors[pressKey{service, instance, fault}]
	if st == nil {
		return nil, fmt.Errorf("nothing of fault %q presses on %s/%d", fault, service, instance)
	}
	u, err := process.UsageOf(st.process.PID())
	if err != nil {
		return nil, err
	}
	st.last.CPU, st.last.Waited, st.last.RSS = max(st.last.CPU, u.CPU), max(st.last.Waited, u.Waited), u.RSS
	measured := map[string]float64{
		"held_s": time.Since(st.began).Seconds(), "cpu_s": st.last.CPU.Seconds(), "wait_s": st.last.Waited.Seconds(),
		"rss_bytes": float64(st.last.RSS),
	}
	if now, err := s.Processes(service, instance); err == nil && len(now) > 0 && len(st.victims) > 0 && now[0] == st.victims[0] {
		if theirs, err := process.UsageOf(st.victims...); err == nil && theirs.CPU >= st.theirs.CPU {
			measured["victim_cpu_s"] = (theirs.CPU - st.theirs.CPU).Seconds()
		}
	}
	return measured, nil
}

// Relieve ends a stressor, and returns when its process is gone. That there is
// none is no error.
func (s *System) Relieve(ctx context.Context, service string, instance int, fault string) error {
	key := pressKey{service, instance, fault}
	s.pressing.Lock()
	st := s.stressors[key]
	s.pressing.Unlock()
	if st == nil {
		return nil
	}
	if err := st.process.Kill(ctx, unix.SIGKILL); err != nil {
		return err
	}
	s.pressing.Lock()
	delete(s.stressors, key)
	s.pressing.Unlock()
	return st.process.Err()
}

// DataFolder is where an instance keeps its data, absolute: a service's own folder
// (${data}); that of all services for a reference system. It is an error for a
// service that is not ours.
func (s *System) DataFolder(service string, instance int) (string, error) {
	in, release, err := s.own(service, instance)
	if err != nil {
		return "", err
	}
	defer release()
	folder := s.data
	if in.service.Role == "" {
		folder = filepath.Join(s.data, in.file())
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return "", err
	}
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("service %q has no data folder: give it one with ${data} in its command or env", service)
	} else if err != nil {
		return "", err
	}
	return folder, nil
}
