package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

func newReport() *cobra.Command {
	var output string
	var write bool
	cmd := &cobra.Command{
		Use:     "report RUN",
		GroupID: "run",
		Short:   "Render a stored run's reports again, from its journal",
		Long: `Report judges a stored run again from its journal alone and prints it. The same
journal gives the same bytes. With --write the files in the run folder are
replaced: result.json, report.html, report.md, junit.xml.

RUN is a run folder, or "last" for the newest below .chaosctl/runs.`,
		Example: `  chaosctl report last
  chaosctl report .chaosctl/runs/20261121-101500-a1b2c3 --output markdown`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if len(repeatFolders(args[0])) > 0 {
				return reportRepeat(cmd, args[0], output, write)
			}
			dir, err := runFolder(args[0])
			if err != nil {
				return err
			}
			r, err := readRun(dir)
			if err != nil {
				return usage(err, "")
			}
			if err := verifyFolder(dir); err != nil { // still worth a look, and not to be trusted
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", err)
			}
			if write {
				if err := reports.WriteAll(dir, r); err != nil {
					return internal(err)
				}
			}
			return internal(printReport(cmd.OutOrStdout(), output, dir, r))
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "what stdout gets: text, json, markdown, junit or html")
	cmd.Flags().BoolVar(&write, "write", false, "replace the report files in the run folder")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func newVerify() *cobra.Command {
	var set []string
	cmd := &cobra.Command{
		Use:     "verify RUN",
		GroupID: "run",
		Short:   "Check a stored journal's chain of hashes and judge it again",
		Long: `Verify reads a run's journal, checks that no line was changed, and judges it
again. Its exit code is the verdict's, as after run; 2 when the journal is not
what was written.

The chain has no key: it shows edits only against a copy of the head hash that
was kept elsewhere (it stands on stdout of run and in result.json).

With --set the run is judged with other objectives: each takes the place of the
clause about the same stream, phase and metric, or is added. Nothing is written.`,
		Example: `  chaosctl verify last
  chaosctl verify last --set 'shoppers during p95 < 300ms' --set 'shoppers during ok >= 99.9%'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if folders := repeatFolders(args[0]); len(folders) > 0 {
				if len(set) > 0 {
					return usage(fmt.Errorf("%s holds %d runs: --set judges one", args[0], len(folders)), "name one of them, like "+folders[0])
				}
				return verifyRepeat(cmd, args[0], folders)
			}
			dir, err := runFolder(args[0])
			if err != nil {
				return err
			}
			if err := verifyFolder(dir); err != nil {
				return notIntact(err)
			}
			change, err := changedObjectives(set)
			if err != nil {
				return usage(err, "")
			}
			r, err := readRunWith(dir, change)
			if err != nil {
				return usage(err, "")
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "journal intact: %d events, head %s\nverdict: %s\n", len(r.Events), r.Result.JournalHead, r.Result.Verdict); err != nil {
				return internal(err)
			}
			if len(set) > 0 {
				for _, reason := range r.Result.Reasons {
					if _, err := fmt.Fprintln(cmd.OutOrStdout(), "  "+reason); err != nil {
						return internal(err)
					}
				}
			}
			for _, line := range reports.SLOLines(r.Result.SLOs) {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
					return internal(err)
				}
			}
			if c := r.Result.Control; c != nil {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "control: %s\n", c.Pair); err != nil {
					return internal(err)
				}
			}
			if code := reportCode(r.Result); code != exitPass {
				return &exitError{code: code}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&set, "set", nil, "judge with this objective, 'STREAM PHASE CLAUSE'; may be repeated")
	return cmd
}

// notIntact is the error of a journal that is not what was written.
func notIntact(err error) error {
	hint := ""
	var broken *journal.BrokenError
	switch {
	case errors.As(err, &broken) && broken.Torn:
		hint = "the run was killed, or its disk was full; chaosctl report judges what was recorded"
	case broken != nil:
		hint = "the journal was changed after the run; its verdict means nothing"
	}
	return usage(err, hint)
}

// changedObjectives reads objectives of the form "load phase p95 < 300ms". The
// function that it returns puts them in the place of the run's own; nil for none.
func changedObjectives(texts []string) (func(*verdict.Hypotheses) error, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	var wanted []verdict.Objective
	for _, text := range texts {
		words := strings.Fields(text)
		if len(words) < 3 {
			return nil, fmt.Errorf("--set %q: write 'STREAM PHASE CLAUSE', like 'shoppers during p95 < 300ms'", text)
		}
		c, err := parseObjective("--set", strings.Join(words[2:], " "))
		if err != nil {
			return nil, err
		}
		o := verdict.Objective{Load: words[0], Phase: words[1], Clause: c}
		up := strings.HasPrefix(c.Op, ">")
		switch {
		case c.Metric == expect.OK && !up:
			return nil, fmt.Errorf("--set %q: a steady state asks for enough good answers: ok takes > or >=", text)
		case c.Metric == expect.Percentile && up:
			return nil, fmt.Errorf("--set %q: a steady state asks for fast answers: %s takes < or <=", text, c.Name())
		}
		for _, w := range wanted {
			if w.ID() == o.ID() {
				return nil, fmt.Errorf("--set: %s is set twice, to %s and to %s", o.ID(), w.Clause, c)
			}
		}
		wanted = append(wanted, o)
	}
	return func(h *verdict.Hypotheses) error {
		for _, o := range wanted {
			var loads, phases []string
			for _, l := range h.Loads {
				loads = append(loads, l.Name)
			}
			for _, p := range h.Phases {
				phases = append(phases, p.Name)
			}
			o.Load, o.Step = h.Named(o.Load)
			if !slices.Contains(loads, o.Load) || !slices.Contains(phases, o.Phase) {
				return fmt.Errorf("--set '%s %s %s': the run has no such stream or phase (streams: %s; phases: %s)",
					o.Of(), o.Phase, o.Clause, strings.Join(loads, ", "), strings.Join(phases, ", "))
			}
			if o.Step != "" && !slices.Contains(h.Steps(o.Load), o.Step) {
				return fmt.Errorf("--set '%s %s %s': %q has no such step (named steps: %s)", o.Of(), o.Phase, o.Clause, o.Load, strings.Join(h.Steps(o.Load), ", "))
			}
			at := -1
			for i, x := range h.Objectives {
				if x.Of() == o.Of() && x.Phase == o.Phase {
					o.Settle, o.Recovery = x.Settle, x.Recovery
					if x.Clause.Name() == o.Clause.Name() {
						at = i
					}
				}
			}
			if at < 0 {
				h.Objectives = append(h.Objectives, o)
			} else {
				h.Objectives[at] = o
			}
		}
		return nil
	}, nil
}

// verifyFolder checks the chain of a run's journal, against the head in its
// result.json where that is, and the chain of its control's.
func verifyFolder(dir string) error {
	path := filepath.Join(dir, "journal.jsonl")
	head, err := verifyFile(path)
	if err != nil {
		return err
	}
	var stored struct {
		Head string `json:"journal_head"`
	}
	switch b, err := os.ReadFile(filepath.Join(dir, "result.json")); {
	case errors.Is(err, fs.ErrNotExist): // the run was cut off before it was judged
	case err != nil:
		return err
	case json.Unmarshal(b, &stored) != nil || stored.Head != head:
		return fmt.Errorf("%s: its head is %.12s…, and result.json beside it was made from %.12s…: one of them was changed", path, head, stored.Head)
	}
	if _, err := verifyFile(filepath.Join(dir, "control", "journal.jsonl")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func verifyFile(path string) (head string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if head, err = journal.VerifyHead(f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return head, nil
}

// runFolder finds a stored run: a folder, a run id, or "last".
func runFolder(arg string) (string, error) {
	runs := filepath.Join(".chaosctl", "runs")
	if arg == "last" {
		entries, err := os.ReadDir(runs)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", usage(err, "")
		}
		for i := len(entries) - 1; i >= 0; i-- {
			if dir := filepath.Join(runs, entries[i].Name()); holdsRun(dir) {
				return dir, nil
			}
		}
		return "", usage(fmt.Errorf("no run below %s", runs), "chaosctl run SCENARIO makes one")
	}
	for _, dir := range []string{arg, filepath.Join(runs, arg)} {
		if holdsRun(dir) {
			return dir, nil
		}
	}
	return "", usage(fmt.Errorf("%s holds no run: there is no journal.jsonl in it", arg), "name a run folder, the id of one below "+runs+", or last")
}

func holdsRun(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, "journal.jsonl"))
	return err == nil && info.Mode().IsRegular()
}
