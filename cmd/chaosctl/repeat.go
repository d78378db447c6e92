package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/live"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports"
)

// repeatScenario runs a scenario several times, each in a folder of its own below
// dir, and judges the runs together. It stops early when a fault could not be
// reverted, when a run could not be made at all, or when it is interrupted.
func repeatScenario(ctx context.Context, index *live.Index, seed uint64, compile func(uint64) ([]*experiments.Plan, error), id, dir string, f runFlags, hurry <-chan struct{}, stdout, stderr io.Writer) error {
	code := exitPass
	var failures error
	for i := range f.repeat {
		name := strconv.Itoa(i + 1)
		folder := filepath.Join(dir, name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return internal(err)
		}
		plans, err := compile(verdict.SeedOfRepeat(seed, i))
		if err != nil {
			return err
		}
		if !f.quiet {
			fmt.Fprintf(stderr, "run %d of %d\n", i+1, f.repeat)
		}
		report, err := runOnce(ctx, index, plans, id+"-"+name, folder, f, hurry, stderr)
		var e *exitError
		if errors.As(err, &e) {
			code = worst(code, e.code)
			if e.err != nil {
				failures = errors.Join(failures, fmt.Errorf("run %d: %w", i+1, e.err))
			}
		}
		if report == nil && i == 0 {
			return err // nothing to sum up
		}
		if report == nil || failures != nil || ctx.Err() != nil {
			break
		}
	}
	sum, err := readRepeat(dir)
	if err != nil {
		return internal(err)
	}
	sum.Asked = f.repeat
	if len(sum.Runs) < sum.Asked {
		code = worst(code, exitInconclusive)
	}
	if err := writeRepeat(dir, sum); err != nil {
		return errors.Join(failures, internal(err))
	}
	if err := printRepeat(stdout, f.output, dir, sum); err != nil {
		return internal(err)
	}
	if failures != nil || code != exitPass {
		return &exitError{code: code, err: failures}
	}
	return nil
}

// repeatFolders lists the runs of a repeat, in their order; none where dir is none.
func repeatFolders(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil || holdsRun(dir) {
		return nil
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 && holdsRun(filepath.Join(dir, e.Name())) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var all []string
	for _, n := range numbers {
		all = append(all, filepath.Join(dir, strconv.Itoa(n)))
	}
	return all
}

// readRepeat judges every run of a repeat from its journal. How many were asked
// for is what the summary beside them says, else as many as there are.
func readRepeat(dir string) (verdict.RepeatResult, error) {
	folders := repeatFolders(dir)
	if len(folders) == 0 {
		return verdict.RepeatResult{}, fmt.Errorf("%s holds no repeated runs", dir)
	}
	var results []verdict.Result
	var names []string
	var confidence float64
	for _, folder := range folders {
		r, err := readRun(folder)
		if err != nil {
			return verdict.RepeatResult{}, err
		}
		results, names, confidence = append(results, r.Result), append(names, filepath.Base(folder)), r.Hypotheses.Confidence
	}
	asked := len(results)
	var stored struct {
		Asked int `json:"asked"`
	}
	if readJSON(filepath.Join(dir, "result.json"), &stored) == nil {
		asked = max(asked, stored.Asked)
	}
	return verdict.Repeat(results[0].Scenario, asked, confidence, results, names), nil
}

// writeRepeat writes the summary beside the runs; result.json comes last.
func writeRepeat(dir string, sum verdict.RepeatResult) error {
	for _, f := range []struct {
		name  string
		write func(io.Writer, verdict.RepeatResult) error
	}{{"report.html", reports.RepeatHTML}, {"report.md", reports.RepeatMarkdown}, {"junit.xml", reports.RepeatJUnit}, {"result.json", reports.RepeatJSON}} {
		if err := reports.WriteFile(dir, f.name, func(w io.Writer) error { return f.write(w, sum) }); err != nil {
			return err
		}
	}
	return nil
}

func printRepeat(stdout io.Writer, output, dir string, sum verdict.RepeatResult) error {
	switch output {
	case "json":
		return reports.RepeatJSON(stdout, sum)
	case "junit":
		return reports.RepeatJUnit(stdout, sum)
	case "markdown":
		return reports.RepeatMarkdown(stdout, sum)
	case "html":
		return reports.RepeatHTML(stdout, sum)
	}
	width, color := terminal(stdout)
	return reports.RepeatText(stdout, sum, reports.TextOptions{Width: width, Color: color, Folder: dir})
}

// repeatCode is the exit code of a stored repeat.
func repeatCode(sum verdict.RepeatResult) int {
	code := exitPass
	for _, r := range sum.Runs {
		c := exitInconclusive
		switch {
		case r.Status == "aborted" || r.Status == "interrupted":
			c = exitAborted
		case r.Verdict == verdict.Pass:
			c = exitPass
		case r.Verdict == verdict.Fail:
			c = exitFail
		}
		code = worst(code, c)
	}
	if len(sum.Runs) < sum.Asked {
		code = worst(code, exitInconclusive)
	}
	return code
}

// reportRepeat is report for the folder of a repeat.
func reportRepeat(cmd *cobra.Command, dir, output string, write bool) error {
	for _, folder := range repeatFolders(dir) {
		if err := verifyFolder(folder); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", err)
		}
	}
	sum, err := readRepeat(dir)
	if err != nil {
		return usage(err, "")
	}
	if write {
		if err := writeRepeat(dir, sum); err != nil {
			return internal(err)
		}
	}
	return internal(printRepeat(cmd.OutOrStdout(), output, dir, sum))
}

// verifyRepeat is verify for the folder of a repeat: every run of it.
func verifyRepeat(cmd *cobra.Command, dir string, folders []string) error {
	for _, folder := range folders {
		if err := verifyFolder(folder); err != nil {
			return notIntact(err)
		}
	}
	sum, err := readRepeat(dir)
	if err != nil {
		return usage(err, "")
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "journals intact: %d runs\nverdict: %s\n  %s\n", len(folders), sum.Verdict, sum.Shows); err != nil {
		return internal(err)
	}
	if code := repeatCode(sum); code != exitPass {
		return &exitError{code: code}
	}
	return nil
}
