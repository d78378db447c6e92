package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports"
)

var compareOutputs = []string{"text", "json", "markdown", "junit", "html"}

func newCompare() *cobra.Command {
	var margins []string
	var output, confidence string
	var self, paired, interleave bool
	var f runFlags
	cmd := &cobra.Command{
		Use:     "compare A [B]",
		GroupID: "run",
		Short:   "Compare two runs, two sets of runs, or the phases of one",
		Long: `Compare says per stream, phase and metric whether B is worse than A: regressed,
improved, noise (no difference that matters, shown), no worse, or undecided. A
difference matters when it exceeds the margin, which is the larger of an absolute
and a relative floor.

A and B are run folders of the same scenario; only the target and its patterns may
differ. Each may also be several: the folder of run --repeat, or folders joined
with commas. Then the runs are the samples; fewer than four of each can never be
significant. With A alone, its phases during and after are compared with before.

With --interleave, A and B are scenarios that differ in their target or its
patterns, and are run first, in turn, A B B A A B B A, --repeat times each, both
of a pair with the same seed: what the machine does in the course of time then
hits both. They are judged in pairs, as --paired does with runs made so before;
fewer than five pairs can never be significant. The runs and the comparison stay
in --out.

With --self all runs are of the same build: the answer is this machine's noise
floor, and what is called different there is a false alarm.

Exit codes: 0 no regression, 1 regressed (--self: a false alarm), 2 the runs
cannot be compared, 3 undecided.`,
		Example: `  chaosctl compare runs/monday runs/tuesday
  chaosctl compare runs/monday
  chaosctl compare a1,a2,a3,a4 b1,b2,b3,b4 --margin 2ms --margin 1pp
  chaosctl compare --interleave old.yaml new.yaml --repeat 5 --out runs/old-new
  chaosctl compare --paired runs/old-new/a runs/old-new/b --output html
  chaosctl compare --self runs/monday-repeated --output json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(compareOutputs, output) {
				return usage(fmt.Errorf("--output %q: allowed are %s", output, strings.Join(compareOutputs, ", ")), "")
			}
			m, err := parseMargins(margins)
			if err != nil {
				return usage(err, "")
			}
			level, err := parseConfidence(confidence)
			if err != nil {
				return usage(err, "")
			}
			if interleave {
				if len(args) != 2 {
					return usage(fmt.Errorf("--interleave takes two scenarios, and %d are named", len(args)), "chaosctl compare --interleave A.yaml B.yaml --repeat 5")
				}
				f.output = output
				return compareInterleaved(cmd.Context(), args[0], args[1], f, cmd.Flags().Changed("seed"), m, level, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			for _, name := range []string{"repeat", "out", "seed", "quiet"} {
				if cmd.Flags().Changed(name) {
					return usage(fmt.Errorf("--%s is about runs to make, and these are made already", name), "it goes with --interleave")
				}
			}
			if self {
				return compareSelf(cmd.OutOrStdout(), args, m, level, output)
			}
			if len(args) > 2 {
				return usage(fmt.Errorf("%d runs: compare takes one or two sides", len(args)), "join the runs of one side with commas; --self compares all with each other")
			}
			return compareSides(cmd.OutOrStdout(), args, paired, m, level, output)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&margins, "margin", nil, "what a difference must exceed, by its unit: 1pp (of all requests), 2ms (latency), 10% (relative, of the bad share and of the median); may be repeated (default 0.5pp, 1ms, 10% and 5%)")
	fl.StringVar(&confidence, "confidence", "95%", "of each bound, one-sided")
	fl.StringVar(&output, "output", "text", "what stdout gets: text, json, markdown, junit or html")
	fl.BoolVar(&self, "self", false, "all runs are of the same build: this machine's noise floor")
	fl.BoolVar(&paired, "paired", false, "run number k of A and run number k of B were made side by side: judge the pairs")
	fl.BoolVar(&interleave, "interleave", false, "A and B are scenarios: run them in turn first, A B B A")
	fl.IntVar(&f.repeat, "repeat", 5, "with --interleave: so many pairs")
	fl.StringVar(&f.out, "out", "", "with --interleave: folder of the runs and the comparison; must not hold anything yet (default .chaosctl/runs/<id>)")
	fl.Uint64Var(&f.seed, "seed", 0, "with --interleave: seed of the first pair, from which the others are drawn (default: A's)")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "with --interleave: no progress on stderr")
	fl.BoolVar(&f.moreThanHalf, "more-than-half", false, "with --interleave: "+moreThanHalfUsage)
	cmd.MarkFlagsMutuallyExclusive("self", "paired", "interleave")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(compareOutputs, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// stored is a run with the plan that it carried out.
type stored struct {
	dir  string
	run  verdict.Recorded
	plan *experiments.Plan
}

// openRuns reads the runs that an argument names.
func openRuns(arg string) (all []stored, err error) {
	for _, name := range strings.Split(arg, ",") {
		folders := repeatFolders(name)
		if len(folders) == 0 {
			dir, err := runFolder(name)
			if err != nil {
				return nil, err
			}
			folders = []string{dir}
		}
		for _, dir := range folders {
			r, plan, err := readJournal(filepath.Join(dir, "journal.jsonl"))
			if err != nil {
				return nil, usage(err, "")
			}
			all = append(all, stored{dir, verdict.Recorded{Hypotheses: plan.Hypotheses, Events: r.Events}, plan})
		}
	}
	return all, nil
}

// comparable refuses runs of different scenarios, with the difference.
func comparable(first stored, others []stored) (differs []string, err error) {
	for _, o := range others {
		found, err := experiments.Comparable(first.plan, o.plan)
		if err != nil {
			return nil, usage(fmt.Errorf("%s and %s: %w", first.dir, o.dir, err), "only the target and its patterns may differ")
		}
		for _, text := range found {
			if !slices.Contains(differs, text) {
				differs = append(differs, text)
			}
		}
	}
	return differs, nil
}

func compareSides(stdout io.Writer, args []string, paired bool, m verdict.Margins, confidence float64, output string) error {
	var sides []verdict.Side
	var all [][]stored
	for _, arg := range args {
		runs, err := openRuns(arg)
		if err != nil {
			return err
		}
		s := verdict.Side{Name: arg}
		for _, r := range runs {
			s.Runs = append(s.Runs, r.run)
		}
		sides, all = append(sides, s), append(all, runs)
	}
	var c verdict.Comparison
	if len(sides) == 1 {
		if n := len(sides[0].Runs); n > 1 {
			return usage(fmt.Errorf("%s: %d runs, and nothing to compare them with", args[0], n), "name a second side, or use --self")
		}
		c = verdict.ComparePhases(sides[0].Runs[0], args[0], m, confidence)
	} else {
		for i, side := range all { // within a side everything must be equal but for the seed
			if differs, err := comparable(side[0], side[1:]); err != nil || len(differs) > 0 {
				return cmpErr(err, fmt.Errorf("%s: its runs are not of one build: %s", args[i], strings.Join(differs, "; ")))
			}
		}
		differs, err := comparable(all[0][0], all[1])
		if err != nil {
			return err
		}
		na, nb := len(sides[0].Runs), len(sides[1].Runs)
		switch {
		case paired && na != nb:
			return usage(fmt.Errorf("--paired: %s has %d runs and %s has %d: they make no pairs", args[0], na, args[1], nb), "")
		case paired && na < 2:
			return usage(errors.New("--paired: one pair shows no scatter"), "leave --paired out")
		case paired:
			c = verdict.ComparePairs(sides[0], sides[1], m, confidence)
		default:
			c = verdict.Compare(sides[0], sides[1], m, confidence)
		}
		c.Differs = append(c.Differs, differs...)
	}
	if paired && len(sides) == 1 {
		return usage(errors.New("--paired takes two sides"), "")
	}
	return printComparison(stdout, c, output)
}

func printComparison(stdout io.Writer, c verdict.Comparison, output string) error {
	width, color := terminal(stdout)
	if err := map[string]func() error{
		"text": func() error {
			return reports.ComparisonText(stdout, c, reports.TextOptions{Width: width, Color: color})
		},
		"json":     func() error { return reports.ComparisonJSON(stdout, c) },
		"junit":    func() error { return reports.ComparisonJUnit(stdout, c) },
		"markdown": func() error { return reports.ComparisonMarkdown(stdout, c) },
		"html":     func() error { return reports.ComparisonHTML(stdout, c) },
	}[output](); err != nil {
		return internal(err)
	}
	return outcomeCode(c.Outcome)
}

func compareSelf(stdout io.Writer, args []string, m verdict.Margins, confidence float64, output string) error {
	var all []stored
	for _, arg := range args {
		runs, err := openRuns(arg)
		if err != nil {
			return err
		}
		all = append(all, runs...)
	}
	if len(all) < 2 {
		return usage(errors.New("--self compares runs with each other, and this is one"), "chaosctl run SCENARIO --repeat 5 makes five")
	}
	if differs, err := comparable(all[0], all[1:]); err != nil || len(differs) > 0 {
		return cmpErr(err, fmt.Errorf("--self: these runs are not of one build: %s", strings.Join(differs, "; ")))
	}
	var runs []verdict.Recorded
	for _, r := range all {
		runs = append(runs, r.run)
	}
	n := verdict.SelfCompare(strings.Join(args, ", "), runs, m, confidence)
	width, color := terminal(stdout)
	if err := map[string]func() error{
		"text":     func() error { return reports.NoiseText(stdout, n, reports.TextOptions{Width: width, Color: color}) },
		"json":     func() error { return reports.NoiseJSON(stdout, n) },
		"junit":    func() error { return reports.NoiseJUnit(stdout, n) },
		"markdown": func() error { return reports.NoiseMarkdown(stdout, n) },
		"html":     func() error { return reports.NoiseHTML(stdout, n) },
	}[output](); err != nil {
		return internal(err)
	}
	return outcomeCode(n.Outcome)
}

// cmpErr is err, else the other as the user's mistake.
func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return usage(otherwise, "")
}

func outcomeCode(o verdict.Outcome) error {
	switch o {
	case verdict.Regressed:
		return &exitError{code: exitFail}
	case verdict.Undecided:
		return &exitError{code: exitInconclusive}
	}
	return nil
}

// parseMargins reads floors; the unit says which one is meant. What is not named
// keeps its default.
func parseMargins(texts []string) (verdict.Margins, error) {
	m := verdict.DefaultMargins
	for _, text := range texts {
		number := func(unit string) (float64, bool) {
			digits, ok := strings.CutSuffix(text, unit)
			x, err := strconv.ParseFloat(digits, 64)
			return x / 100, ok && err == nil && x >= 0 && !math.IsInf(x, 0)
		}
		if x, ok := number("pp"); ok && x <= 1 {
			m.Share = x
		} else if x, ok := number("%"); ok {
			m.ShareRatio, m.LatencyRatio = x, x
		} else if d, err := time.ParseDuration(text); err == nil && d >= 0 && strings.HasSuffix(text, "s") {
			m.Latency = d
		} else {
			return m, fmt.Errorf("--margin %q: allowed are percentage points (1pp), a duration (2ms), a share of what A has (10%%)", text)
		}
	}
	return m, nil
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}
