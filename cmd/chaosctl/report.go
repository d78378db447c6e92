package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/reports"
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
			dir, err := runFolder(args[0])
			if err != nil {
				return err
			}
			r, err := readRun(dir)
			if err != nil {
				return usage(err, "")
			}
			if write {
				if err := reports.WriteAll(dir, r); err != nil {
					return internal(err)
				}
			}
			return internal(printReport(cmd.OutOrStdout(), output, dir, r))
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "what stdout gets: text, json, markdown or junit")
	cmd.Flags().BoolVar(&write, "write", false, "replace the report files in the run folder")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func newVerify() *cobra.Command {
	return &cobra.Command{
		Use:     "verify RUN",
		GroupID: "run",
		Short:   "Check a stored journal's chain of hashes and judge it again",
		Long: `Verify reads a run's journal, checks that no line was changed, and judges it
again. Its exit code is the verdict's, as after run; 2 when the journal is not
what was written.

The chain has no key: it shows edits only against a copy of the head hash that
was kept elsewhere (it stands on stdout of run and in result.json).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := runFolder(args[0])
			if err != nil {
				return err
			}
			path := filepath.Join(dir, "journal.jsonl")
			f, err := os.Open(path)
			if err != nil {
				return usage(err, "")
			}
			defer f.Close()
			if err := journal.Verify(f); err != nil {
				return usage(fmt.Errorf("%s: %w", path, err), "the journal was changed after the run; its verdict means nothing")
			}
			r, err := readRun(dir)
			if err != nil {
				return usage(err, "")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "journal intact: %d events, head %s\nverdict: %s\n", len(r.Events), r.Result.JournalHead, r.Result.Verdict)
			if code := runCode(r.Result); code != exitPass {
				return &exitError{code: code}
			}
			return nil
		},
	}
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
