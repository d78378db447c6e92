package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/live"
)

// newWatchdog is how chaosctl becomes the process that undoes what a killed run
// left: run re-executes the binary with it. It is not for people.
func newWatchdog() *cobra.Command {
	return &cobra.Command{
		Use:    "watchdog ENTRY",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, ok := cmd.OutOrStdout().(io.WriteCloser)
			if !ok {
				return internal(errors.New("watchdog: its stdout cannot be closed"))
			}
			return internal(live.Watch(args[0], cmd.InOrStdin(), out))
		},
	}
}

// startable heals what dead runs left, and refuses to start while the lever is
// pulled. What could not be healed is a warning: it is another run's, and recover
// says what to do.
func startable(ctx context.Context, index *live.Index, stderr io.Writer) error {
	if lever := index.Halted(""); lever != nil {
		return startedUnder(lever)
	}
	report := heal(ctx, index, "the next run")
	for _, h := range report.Healed {
		fmt.Fprintf(stderr, "run %s had been killed: %s\n", h.Run, h)
	}
	for _, text := range report.Failed {
		fmt.Fprintf(stderr, "warning: %s\n", text)
	}
	if len(report.Failed) > 0 {
		fmt.Fprintln(stderr, "hint: chaosctl recover tries again")
	}
	return nil
}

// guard enters a run into the index, starts its watchdog, and makes the lever end
// it. leave is for when the run is over, and returns when its watchdog is gone. An
// error of guard itself is an *exitError: nothing was started.
func guard(ctx context.Context, index *live.Index, plan *experiments.Plan, o *experiments.Options) (_ context.Context, leave func() error, err error) {
	folder, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, nil, internal(err)
	}
	temp, err := filepath.Abs(filepath.Join(os.TempDir(), live.TempPrefix+o.ID+"-"+strconv.Itoa(os.Getpid())))
	if err != nil {
		return nil, nil, internal(err)
	}
	entry := live.Entry{Run: o.ID, Folder: folder, Temp: temp}
	for _, s := range plan.Topology.Services {
		if s.Address != "" {
			entry.Holds = append(entry.Holds, s.Address)
		}
	}
	run, err := index.Enter(entry)
	var held *live.HeldError
	if errors.As(err, &held) {
		return nil, nil, usage(err, "chaosctl recover --list shows what runs; wait for it, or end it with: chaosctl halt "+held.By.Run)
	}
	if err != nil {
		return nil, nil, internal(err)
	}
	self := o.Self
	if self == "" {
		if self, err = os.Executable(); err != nil {
			return nil, nil, internal(errors.Join(err, run.Leave()))
		}
	}
	watchdog, err := live.StartWatchdog(self, run)
	if err != nil {
		return nil, nil, internal(errors.Join(err, run.Leave()))
	}
	odd := make(chan string, mostWatchdogs)
	o.Temp, o.Odd = temp, odd
	o.Child = func(service string, pid int) {
		// The note speeds recovery up; the process carries the run's mark without it.
		_ = run.Child(service, pid)
	}

	halted, halt := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		if lever := index.AwaitLever(halted, o.ID); lever != nil {
			halt(&experiments.HaltError{Reason: lever.Reason})
		}
	})
	leaving := make(chan struct{})
	o.Guarded = func(ctx context.Context) error {
		killed := 0
		for err := watchdog.Ready(ctx); err != nil; err = watchdog.Ready(ctx) {
			if killed++; ctx.Err() != nil || killed == mostWatchdogs {
				return err
			}
			if watchdog, err = another(watchdog, self, run, odd); err != nil {
				return err
			}
		}
		looking.Go(func() {
			var err error
			if watchdog, err = keepWatched(watchdog, mostWatchdogs-killed, self, run, leaving, odd); err != nil {
				halt(&experiments.HaltError{Reason: err.Error()})
			}
		})
		return nil
	}
	return halted, func() error {
		halt(nil)
		close(leaving)
		looking.Wait()
		if watchdog == nil { // it was told already why the run had to end
			return run.Leave()
		}
		return errors.Join(watchdog.Stop(), run.Leave())
	}, nil
}

// mostWatchdogs is how many a run has, one after the other: whoever kills more of
// them means it.
const mostWatchdogs = 3

// keepWatched starts another watchdog when somebody has killed the one there is; after
// so many it gives up, because a run that nobody guards is not to go on. It returns
// the one that is there when leaving is closed, nil with an error.
func keepWatched(w *live.Watchdog, most int, self string, run *live.Run, leaving <-chan struct{}, odd chan<- string) (*live.Watchdog, error) {
	for {
		select {
		case <-leaving:
			return w, nil
		case <-w.Gone():
		}
		if most--; most <= 0 {
			return nil, errors.Join(fmt.Errorf("%d watchdogs of the run were killed: nobody would undo its faults if it were, too", mostWatchdogs), w.Discard())
		}
		var err error
		if w, err = another(w, self, run, odd); err != nil {
			return nil, err
		}
	}
}

// another starts a watchdog in the place of one that was killed.
func another(w *live.Watchdog, self string, run *live.Run, odd chan<- string) (*live.Watchdog, error) {
	_ = w.Discard() // how it ended is no news
	w, err := live.StartWatchdog(self, run)
	if err != nil {
		return nil, fmt.Errorf("the watchdog was killed, and another one could not be started: %w", err)
	}
	select {
	case odd <- "the watchdog was killed; another one was started":
	default:
	}
	return w, nil
}
