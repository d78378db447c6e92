package undo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/faults/fill"
)

// Processes is the key in Record.Data under which a record names the processes
// it is about, in the format of FormatProcesses.
const Processes = "processes"

// Files is the key under which a record names the files that a disk fault writes, in
// the format of FormatFiles.
const Files = "files"

// FormatFiles writes paths for Record.Data, with a NUL, which no path has, in between.
func FormatFiles(paths []string) string { return strings.Join(paths, "\x00") }

// ParseFiles reads what FormatFiles wrote. It refuses what cannot be a file that fills
// a disk.
func ParseFiles(s string) ([]string, error) {
	paths := strings.Split(s, "\x00")
	for _, path := range paths {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || !strings.HasPrefix(filepath.Base(path), fill.Prefix) {
			return nil, fmt.Errorf("files: %q is not the path of a file that fills a disk", path)
		}
	}
	return paths, nil
}

const (
	kindPause = "pause"
	kindDisk  = "disk"
)

// Outcome is what Revert found to do.
type Outcome string

const (
	Reverted Outcome = "reverted" // it was in effect, and no longer is
	Nothing  Outcome = "nothing"  // it was not in effect any more: what it changed died with its owner
)

// ErrOwned is why a record is left alone: the process that made it still runs,
// and reverts it itself.
var ErrOwned = errors.New("its owner still runs")

// Revert undoes a record with nothing but what the record says, and removes its
// file (where it has one). It is for those who come after the owner: a watchdog,
// or `recover`. A record whose owner still runs is refused with ErrOwned.
//
//	pause                                    SIGCONT to every process that is still the one recorded
//	disk                                     each file is removed, if it says that it is this fault's
//	kill, restart, dns, clock                nothing: the services were the owner's children, and died with it
//	cpu, memory                              nothing: so were the stressors
//	latency, error, reset, … partition       nothing: the proxies were in the owner
//
// ctx bounds the wait for the processes to run again. Safe to repeat.
func Revert(ctx context.Context, r Record) (Outcome, error) {
	owner := Process(r.Owner)
	if r.Boot == BootID() && owner.Alive() {
		return "", fmt.Errorf("revert fault %q: %w (pid %d)", r.Fault, ErrOwned, r.Owner.PID)
	}
	outcome := Nothing
	if r.Kind == kindPause && r.Boot == BootID() {
		processes, err := ParseProcesses(r.Data[Processes])
		if err != nil {
			return "", fmt.Errorf("revert fault %q: %w", r.Fault, err)
		}
		var failed []error
		for _, p := range processes {
			did, err := resume(ctx, p)
			if err != nil {
				failed = append(failed, fmt.Errorf("revert fault %q: resume pid %d: %w", r.Fault, p.PID, err))
			} else if did {
				outcome = Reverted
			}
		}
		if len(failed) > 0 {
			return "", errors.Join(failed...)
		}
	}
	if r.Kind == kindDisk { // a file outlives a boot
		paths, err := ParseFiles(r.Data[Files])
		if err != nil {
			return "", fmt.Errorf("revert fault %q: %w", r.Fault, err)
		}
		var failed []error
		for _, path := range paths {
			did, err := fill.Remove(path, fill.Mark{Run: r.Run, Fault: r.Fault})
			if err != nil {
				failed = append(failed, fmt.Errorf("revert fault %q: %w", r.Fault, err))
			} else if did {
				outcome = Reverted
			}
		}
		if len(failed) > 0 {
			return "", errors.Join(failed...)
		}
	}
	if r.File != "" {
		if err := os.Remove(r.File); err != nil && !errors.Is(err, os.ErrNotExist) {
			return outcome, fmt.Errorf("remove undo record: %w", err)
		}
	}
	return outcome, nil
}

// resume lets one stopped process go on, and waits until it does. A pidfd is
// opened before the identity is compared: the number may be given to another
// process at any time, the descriptor may not.
func resume(ctx context.Context, p Process) (did bool, err error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	now, state, err := stat(p.PID)
	if err != nil || now != p || state != 'T' {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		now, state, err := stat(p.PID)
		if err != nil || now != p || state != 'T' {
			return true, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, fmt.Errorf("still stopped after SIGCONT: %w", context.Cause(ctx))
		}
	}
}

// Process is one process for all time: its number, and when it started.
type Process struct {
	PID        int
	StartTicks uint64 // since boot, field 22 of /proc/PID/stat
}

// Identify looks up the process that has this number now.
func Identify(pid int) (Process, error) {
	p, _, err := stat(pid)
	return p, err
}

// Alive tells whether this very process still runs (a zombie does not).
func (p Process) Alive() bool {
	now, state, err := stat(p.PID)
	return err == nil && now == p && state != 'Z' && state != 'X'
}

// Stopped tells whether this very process is stopped by a signal.
func (p Process) Stopped() bool {
	now, state, err := stat(p.PID)
	return err == nil && now == p && state == 'T'
}

// String is "840@90260".
func (p Process) String() string { return fmt.Sprintf("%d@%d", p.PID, p.StartTicks) }

// FormatProcesses writes processes for Record.Data: "840@90260 846@90262".
func FormatProcesses(ps []Process) string {
	var words []string
	for _, p := range ps {
		words = append(words, p.String())
	}
	return strings.Join(words, " ")
}

// ParseProcesses reads what FormatProcesses wrote. It refuses process numbers
// that a signal would take for something else: 0 and negative ones are groups,
// -1 is everybody, 1 is init.
func ParseProcesses(s string) ([]Process, error) {
	var ps []Process
	for word := range strings.FieldsSeq(s) {
		pid, start, ok := strings.Cut(word, "@")
		n, err := strconv.ParseInt(pid, 10, 32)
		ticks, err2 := strconv.ParseUint(start, 10, 64)
		if !ok || err != nil || err2 != nil || n <= 1 {
			return nil, fmt.Errorf(`processes: %q is not "pid@start"`, word)
		}
		ps = append(ps, Process{PID: int(n), StartTicks: ticks})
	}
	return slices.Clip(ps), nil
}

// stat reads /proc/PID/stat. The second field is the command in parentheses and
// may itself hold parentheses and spaces, so fields are counted from the last ")".
func stat(pid int) (p Process, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, 0, fmt.Errorf("look up process %d: %w", pid, err)
	}
	_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ")")
	fields := strings.Fields(rest) // fields[0] is the third one, the state
	if !ok || len(fields) < 20 {
		return Process{}, 0, fmt.Errorf("look up process %d: cannot read its stat", pid)
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return Process{}, 0, fmt.Errorf("look up process %d: %w", pid, err)
	}
	return Process{PID: pid, StartTicks: ticks}, fields[0][0], nil
}
