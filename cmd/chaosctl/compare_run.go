package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports"
	"github.com/chaosctl/chaosctl/scenarios"
)

// compareInterleaved runs two scenarios in turn, A B B A A B B A, each run in a
// folder of its own (a/1, b/1, …), and compares them in pairs. It stops when a run
// could not be made or undone, or when it is interrupted; complete pairs are
// still compared.
func compareInterleaved(ctx context.Context, a, b string, f runFlags, seeded bool, m verdict.Margins, confidence float64, stdout, stderr io.Writer) error {
	if f.repeat < 2 || f.repeat > mostRepeats {
		return usage(fmt.Errorf("--repeat %d: allowed are 2 to %d pairs", f.repeat, mostRepeats), "")
	}
	var sides []*scenarios.Scenario
	for _, name := range []string{a, b} {
		s, _, err := openScenario(name)
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	seed := sides[0].Seed
	if seeded {
		seed = f.seed
	}
	compile := func(side, pair int) (*experiments.Plan, error) {
		s := *sides[side]
		s.Seed = verdict.SeedOfRepeat(seed, pair)
		plan, err := experiments.Compile(&s, experiments.Main)
		if err != nil {
			return nil, usage(err, "")
		}
		return plan, withinHalf(plan, f.moreThanHalf)
	}
	var first []*experiments.Plan
	for side := range sides {
		plan, err := compile(side, 0)
		if err != nil {
			return err
		}
		first = append(first, plan)
	}
	if _, err := experiments.Comparable(first[0], first[1]); err != nil {
		return usage(fmt.Errorf("%s and %s: %w", a, b, err), "only the target and its patterns may differ; nothing was run")
	}
	start, err := begin(ctx, f.out, stderr)
	if err != nil {
		return err
	}
	defer start.release()
	ctx = start.ctx
	dir := start.dir

	code, complete := exitPass, 0
	var failures error
	for pair := 0; pair < f.repeat && failures == nil && ctx.Err() == nil; pair++ {
		done := 0
		for turn := range 2 {
			side := (turn + pair) % 2 // A B, B A, A B, …
			name := []string{"a", "b"}[side]
			folder := filepath.Join(dir, name, strconv.Itoa(pair+1))
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return internal(err)
			}
			plan, err := compile(side, pair)
			if err != nil {
				return err
			}
			if !f.quiet {
				fmt.Fprintf(stderr, "pair %d of %d, %s\n", pair+1, f.repeat, []string{a, b}[side])
			}
			report, err := runOnce(ctx, start.index, []*experiments.Plan{plan}, fmt.Sprintf("%s-%s%d", start.id, name, pair+1), folder, f, start.hurry, stderr)
			// That a run fails, or does not decide, is for the comparison to weigh; that
			// it could not be made, or undone, is an error.
			var e *exitError
			if errors.As(err, &e) && (e.err != nil || e.code == exitAborted) {
				code = worst(code, e.code)
				if e.err != nil {
					failures = errors.Join(failures, fmt.Errorf("pair %d, run of %s: %w", pair+1, []string{a, b}[side], e.err))
				}
			}
			if report == nil || failures != nil || ctx.Err() != nil {
				break
			}
			done++
		}
		if done == 2 {
			complete++
		}
	}
	if complete < 2 {
		if failures == nil {
			failures = fmt.Errorf("%d of %d pairs were completed: there is nothing to compare", complete, f.repeat)
		}
		return &exitError{code: worst(code, exitInconclusive), err: failures}
	}
	c, err := comparedPairs(dir, a, b, complete, m, confidence)
	if err != nil {
		return err
	}
	if complete < f.repeat {
		c.Notes = append(c.Notes, fmt.Sprintf("only %d of %d pairs were completed", complete, f.repeat))
	}
	for _, file := range []struct {
		name  string
		write func(io.Writer, verdict.Comparison) error
	}{{"report.html", reports.ComparisonHTML}, {"report.md", reports.ComparisonMarkdown}, {"junit.xml", reports.ComparisonJUnit}, {"result.json", reports.ComparisonJSON}} {
		if err := reports.WriteFile(dir, file.name, func(w io.Writer) error { return file.write(w, c) }); err != nil {
			return errors.Join(failures, internal(err))
		}
	}
	var e *exitError
	if err := printComparison(stdout, c, f.output); errors.As(err, &e) {
		code = worst(code, e.code)
	}
	if failures != nil || code != exitPass {
		return &exitError{code: code, err: failures}
	}
	return nil
}

// comparedPairs reads the first n pairs of runs below dir and compares them.
func comparedPairs(dir, a, b string, n int, m verdict.Margins, confidence float64) (verdict.Comparison, error) {
	var sides []verdict.Side
	var firsts []stored
	for i, name := range []string{"a", "b"} {
		runs, err := openRuns(filepath.Join(dir, name))
		if err != nil {
			return verdict.Comparison{}, err
		}
		side := verdict.Side{Name: []string{a, b}[i]}
		for _, r := range runs[:n] {
			side.Runs = append(side.Runs, r.run)
		}
		sides, firsts = append(sides, side), append(firsts, runs[0])
	}
	c := verdict.ComparePairs(sides[0], sides[1], m, confidence)
	differs, err := comparable(firsts[0], firsts[1:])
	c.Differs = append(c.Differs, differs...)
	return c, err
}
