package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

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
		if !s.Managed() {
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
	o.Temp, o.Guarded = temp, watchdog.Ready
	o.Child = func(service string, pid int) {
		// The note speeds recovery up; the process carries the run's mark without it.
		_ = run.Child(service, pid)
	}

	halted, halt := context.WithCancelCause(ctx)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		if lever := index.AwaitLever(halted, o.ID); lever != nil {
			halt(&experiments.HaltError{Reason: lever.Reason})
		}
	}()
	return halted, func() error {
		halt(nil)
		<-looked
		return errors.Join(watchdog.Stop(), run.Leave())
	}, nil
}
