package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/audit"
	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/live"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		GroupID: "read",
		Short:   "Who asked for which fault, when, and what became of it",
		Long: `Every run, load, proxy, halt, watchdog and recover of this user appends to one
log, $XDG_STATE_HOME/chaosctl/audit.jsonl: who asked for what, when it was
injected, reverted and verified. Each entry carries the hash of the one before.`,
		Example: `  chaosctl audit list --last 20
  chaosctl audit verify
  chaosctl audit verify --run last`,
	}
	cmd.AddCommand(newAuditList(), newAuditVerify())
	return cmd
}

// readAudit reads the files given, or those of this user's log.
func readAudit(files []string) (*audit.Found, error) {
	if len(files) == 0 {
		index, err := live.Open()
		if err != nil {
			return nil, usage(err, "set XDG_STATE_HOME to where it was when the runs were started, or name a file")
		}
		if files, err = audit.In(index.Dir()).Files(); err != nil {
			return nil, internal(err)
		}
	}
	found, err := audit.Read(files...)
	if err != nil {
		return nil, usage(err, "")
	}
	return found, nil
}

func newAuditList() *cobra.Command {
	var run, output string
	var last int
	cmd := &cobra.Command{
		Use:   "list [FILE...]",
		Short: "Show the entries, the oldest first",
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usage(fmt.Errorf("--output %q: allowed are text, json", output), "")
			}
			if last < 0 {
				return usage(fmt.Errorf("--last %d: it cannot be below 0", last), "")
			}
			found, err := readAudit(args)
			if err != nil {
				return err
			}
			entries := found.Entries
			if run != "" {
				entries = slices.DeleteFunc(entries, func(e audit.Entry) bool { return e.Run != run })
			}
			if last > 0 {
				entries = entries[max(0, len(entries)-last):]
			}
			for _, p := range found.Problems {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", p)
			}
			if output == "json" {
				return internal(writeJSON(cmd.OutOrStdout(), append([]audit.Entry{}, entries...)))
			}
			return internal(printAudit(cmd.OutOrStdout(), entries))
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "only those of this run")
	cmd.Flags().IntVar(&last, "last", 0, "only so many of the end (default: all)")
	cmd.Flags().StringVar(&output, "output", "text", "what stdout gets: text or json")
	return cmd
}

func printAudit(w io.Writer, entries []audit.Entry) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range entries {
		about := strings.Join(slices.DeleteFunc([]string{e.Fault, e.Kind, e.Target, e.Scenario, e.Detail, e.Error}, func(s string) bool { return s == "" }), " · ")
		who := e.Who.User
		if who == "" {
			who = fmt.Sprint(e.Who.UID)
		}
		fmt.Fprintf(t, "%d\t%s\t%s@%s %d\t%s\t%s\t%s\t%s\n", e.N, e.At.Local().Format(time.DateTime), who, e.Who.Host, e.Who.PID, e.Command, e.Event, e.Run, about)
	}
	return t.Flush()
}

func newAuditVerify() *cobra.Command {
	var run string
	cmd := &cobra.Command{
		Use:   "verify [FILE...]",
		Short: "Check that no entry was changed, removed or put in",
		Long: `Verify reads the log, or the files given, the oldest first, and checks the chain.
Exit code 0: it holds. 2: it is not what was written, or cannot be read.

The chain has no key: that its end is missing shows only against a hash that was
kept elsewhere. Every run notes in its journal which entry it began with: --run
compares. What was rotated away (the log keeps about 32 MiB) cannot be checked.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := readAudit(args)
			if err != nil {
				return err
			}
			if len(found.Problems) > 0 {
				return usage(fmt.Errorf("the audit log is not what was written:\n  %s", strings.Join(found.Problems, "\n  ")), "")
			}
			out := cmd.OutOrStdout()
			if found.Count == 0 {
				fmt.Fprintln(out, "no entry yet")
			} else {
				fmt.Fprintf(out, "audit log intact: entries %d to %d, head %s\n", found.First, found.Last.N, found.Last.Hash)
				if found.First > 1 {
					fmt.Fprintf(out, "it begins at entry %d: what was before was rotated away, or removed\n", found.First)
				}
				if found.Sealed > 0 || found.Torn > 0 {
					fmt.Fprintf(out, "%d lines were cut off while they were written, and sealed; %d bytes at the end are not sealed yet\n", found.Sealed, found.Torn)
				}
			}
			if run == "" {
				return nil
			}
			return verifyAuditOf(out, found, run)
		},
	}
	cmd.Flags().StringVar(&run, "run", "", `also compare with what this run's journal noted: a run folder, or "last"`)
	return cmd
}

// verifyAuditOf compares the log with what a run has kept of it.
func verifyAuditOf(out io.Writer, found *audit.Found, run string) error {
	dir, err := runFolder(run)
	if err != nil {
		return err
	}
	if err := verifyFolder(dir); err != nil {
		return notIntact(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "journal.jsonl"))
	if err != nil {
		return usage(err, "")
	}
	events, _, err := journal.Read(bytes.NewReader(b))
	if err != nil {
		return usage(err, "")
	}
	start := events[0].Start // journal.Read sees to it that there is one
	if start.Audit == nil {
		return usage(fmt.Errorf("the journal of run %s names no entry of the audit log", run), "")
	}
	m := audit.Mark{N: start.Audit.Entry, Hash: start.Audit.Hash}
	holds, known := found.Holds(m)
	switch {
	case !known:
		_, err = fmt.Fprintf(out, "run %s: its entry %d was rotated away\n", start.Run, m.N)
	case !holds:
		return usage(fmt.Errorf("the audit log is not what was written: run %s began with entry %d, hash %s, which does not stand there", start.Run, m.N, m.Hash), "")
	default:
		_, err = fmt.Fprintf(out, "run %s: its entry %d stands where it did\n", start.Run, m.N)
	}
	return internal(err)
}

// auditRun begins the entries of a run, tells its journal, and adds one for each
// step of each fault. close is for when the run is over.
func auditRun(index *live.Index, o *experiments.Options, scenario string, stderr io.Writer) (closing func(error), err error) {
	folder, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, internal(err)
	}
	rec, mark, err := audit.In(index.Dir()).Record(audit.Entry{Command: "run", Run: o.ID, Scenario: scenario, Detail: folder})
	if err != nil {
		return nil, usage(fmt.Errorf("nothing was started: what cannot be written into the audit log is not to happen: %w", err), "make room, or set XDG_STATE_HOME to a folder that can be written")
	}
	o.Audit = &journal.AuditHead{Entry: mark.N, Hash: mark.Hash}
	status, watch := "", o.Watch
	o.Watch = func(e journal.Event) {
		if watch != nil {
			watch(e)
		}
		if e.End != nil {
			status = e.End.Status
		}
		if f := e.Fault; f != nil && auditEvents[f.State] != "" {
			rec.Add(audit.Entry{Event: auditEvents[f.State], Fault: f.Name, Kind: f.Kind, Target: f.Target, Detail: f.Detail, Error: f.Error})
		}
	}
	return func(err error) {
		if err := rec.Close(status, err); err != nil {
			fmt.Fprintln(stderr, "warning:", err)
		}
	}, nil
}

// auditEvents are the states of a fault that the audit log has, by the journal's words.
var auditEvents = map[string]string{
	"injecting": audit.Asked, "injected": audit.Injected, "reverted": audit.Reverted, "verified": audit.Verified, "failed": audit.Failed,
}

// underLever is what commands that are no runs do about the lever and the audit
// log: they do not start while it is pulled, end when it is, and are put down. The
// context's cause is a *experiments.HaltError then. Where there is no folder to keep
// either in, nobody can have pulled it: that is a warning.
func underLever(ctx context.Context, about audit.Entry, stderr io.Writer) (_ context.Context, closing func(detail string, err error), err error) {
	ctx, halt := context.WithCancelCause(ctx)
	index, err := live.Open()
	if err != nil {
		fmt.Fprintf(stderr, "warning: neither chaosctl halt nor the audit log knows of this: %v\n", err)
		return ctx, func(string, error) { halt(nil) }, nil
	}
	if lever := index.Halted(""); lever != nil {
		halt(nil)
		return nil, nil, startedUnder(lever)
	}
	rec, _, err := audit.In(index.Dir()).Record(about)
	if err != nil {
		halt(nil)
		return nil, nil, usage(fmt.Errorf("nothing was started: %w", err), "make room, or set XDG_STATE_HOME to a folder that can be written")
	}
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		if lever := index.AwaitLever(ctx, ""); lever != nil {
			halt(&experiments.HaltError{Reason: lever.Reason})
		}
	}()
	return ctx, func(detail string, err error) {
		halt(nil)
		<-looked
		if err := rec.Close(detail, err); err != nil {
			fmt.Fprintln(stderr, "warning:", err)
		}
	}, nil
}

// startedUnder is the error of what would start while the lever is pulled.
func startedUnder(lever *live.Lever) error {
	return usage(fmt.Errorf("nothing starts: %s", lever), "chaosctl halt --release lets runs start again")
}

// haltedBy is the error of what the lever has ended, nil for anything else.
func haltedBy(ctx context.Context) error {
	var halted *experiments.HaltError
	if errors.As(context.Cause(ctx), &halted) {
		return &exitError{code: exitAborted, err: halted, hint: "chaosctl halt --release lets it start again"}
	}
	return nil
}
