package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments/audit"
	"github.com/chaosctl/chaosctl/experiments/live"
)

func newHalt() *cobra.Command {
	var all, release bool
	var reason string
	cmd := &cobra.Command{
		Use:     "halt [RUN]",
		GroupID: "run",
		Short:   "End live runs now, and let none start",
		Long: `Halt pulls a lever. With --all every live run of this user aborts, reverting its
faults as ever, and nothing starts until --release. With RUN only that one
aborts. It returns when the runs are gone. A load and a proxy serve of this user
end with --all, too, and do not start.

A halted run exits 4, and its journal says why. A run that would start exits 2.`,
		Example: `  chaosctl halt --all --reason "real incident, see #ops"
  chaosctl halt --release
  chaosctl halt 20261121-101500-a1b2c3`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := live.Open()
			if err != nil {
				return usage(err, "set XDG_STATE_HOME to where it was when the run was started")
			}
			out := cmd.OutOrStdout()
			if release && len(args) > 0 {
				return usage(errors.New("--release is for all runs: a run that was halted is over"), "")
			}
			if release {
				was, err := index.Release()
				if err != nil {
					return internal(err)
				}
				if was {
					if err := auditLever(index, audit.Entry{Event: audit.Released}); err != nil {
						return internal(err)
					}
				}
				text := "released: runs start again"
				if !was {
					text = "the lever was not pulled"
				}
				_, err = fmt.Fprintln(out, text)
				return internal(err)
			}
			if len(args) == 1 && all {
				return usage(errors.New("halt takes a run or --all, not both"), "")
			}
			if len(args) == 0 && !all {
				return usage(errors.New("halt needs a run, or --all"), whatRuns(index))
			}
			lever := live.Lever{Reason: because(reason), At: time.Now()}
			if len(args) == 1 {
				lever.Run = args[0]
			}
			ended, err := halt(cmd.Context(), index, lever)
			if err != nil {
				return err
			}
			for _, e := range ended {
				if _, err := fmt.Fprintf(out, "halted  %s  (pid %d)\n", e.Run, e.Owner.PID); err != nil {
					return internal(err)
				}
			}
			if all {
				_, err = fmt.Fprintln(out, "nothing starts until: chaosctl halt --release")
			}
			return internal(err)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every live run, and every one to come")
	cmd.Flags().BoolVar(&release, "release", false, "let runs start again")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the journals and for whoever cannot start a run (default: who halted)")
	cmd.MarkFlagsMutuallyExclusive("all", "release")
	cmd.MarkFlagsMutuallyExclusive("reason", "release")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var runs []string
		if index, err := live.Open(); err == nil {
			for _, l := range look(index).Live {
				runs = append(runs, l.Run)
			}
		}
		return runs, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// haltWithin is how long halt waits for runs to end: reverting may take 30 s, and
// stopping the system some more.
const haltWithin = 60 * time.Second

// halt pulls the lever and waits until the runs it stops are gone.
func halt(ctx context.Context, index *live.Index, lever live.Lever) (ended []live.Entry, err error) {
	entries, err := index.Entries()
	if err != nil {
		return nil, internal(err)
	}
	entries = slices.DeleteFunc(entries, func(e live.Entry) bool {
		return e.State() != live.Live || lever.Run != "" && e.Run != lever.Run
	})
	if lever.Run != "" && len(entries) == 0 {
		return nil, usage(fmt.Errorf("run %q is not live", lever.Run), whatRuns(index))
	}
	if err := index.Halt(lever); err != nil { // first of all
		return nil, internal(err)
	}
	if err := auditLever(index, audit.Entry{Event: audit.Halted, Run: lever.Run, Detail: lever.Reason}); err != nil {
		return nil, internal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, haltWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, e := range entries {
		for e.State() == live.Live {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ended, &exitError{code: exitInternal, err: fmt.Errorf("run %s (pid %d) was told to end and has not", e.Run, e.Owner.PID),
					hint: fmt.Sprintf("kill -KILL %d; its watchdog undoes the rest", e.Owner.PID)}
			}
		}
		ended = append(ended, e)
	}
	return ended, nil
}

// auditLever puts down what was done with the lever.
func auditLever(index *live.Index, e audit.Entry) error {
	e.Command = "halt"
	_, err := audit.In(index.Dir()).Append(e, true)
	return err
}

// whatRuns is the hint of whoever named no run, or a wrong one.
func whatRuns(index *live.Index) string {
	var runs []string
	for _, l := range look(index).Live {
		runs = append(runs, l.Run)
	}
	if len(runs) == 0 {
		return "no run is live"
	}
	return "live: " + strings.Join(runs, ", ")
}

// because is the reason given, or who halted.
func because(reason string) string {
	if reason != "" {
		return reason
	}
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return "chaosctl halt, by " + name
}
