package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/live"
	"github.com/chaosctl/chaosctl/reports"
	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/targets/process"
)

type runFlags struct {
	out     string
	seed    uint64
	runtime string
	control bool
	sham    bool
	output  string
	samples bool
	quiet   bool
	repeat  int

	moreThanHalf bool
}

func newRun() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:     "run SCENARIO",
		GroupID: "run",
		Short:   "Run a scenario and give its verdict",
		Long: `Run starts the scenario's system, sends its load, injects its faults, undoes
them, and judges what it saw. SCENARIO is a file, or the name of a library
scenario (chaosctl scenarios list).

The run folder holds plan.yaml, journal.jsonl, result.json, report.html,
report.md, junit.xml and the services' logs. With --repeat, each run has such a
folder of its own in it (1, 2, …), beside a summary of what they show together;
the verdict is fail when any run fails.`,
		Example: `  chaosctl run checkout-survives-slow-payments
  chaosctl run checkout-survives-slow-payments --control
  chaosctl run my-scenario.yaml --seed 42 --out runs/monday
  chaosctl run my-scenario.yaml --repeat 5`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runScenario(cmd.Context(), args[0], f, cmd.Flags().Changed("seed"), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.out, "out", "", "run folder; must not hold a run yet (default .chaosctl/runs/<id>)")
	fl.Uint64Var(&f.seed, "seed", 0, "seed of every random choice (default: the scenario's)")
	fl.StringVar(&f.runtime, "runtime", "", "where the system runs, instead of what the scenario says: process")
	fl.BoolVar(&f.control, "control", false, "also run the scenario's control, which must fail, and judge the pair")
	fl.BoolVar(&f.sham, "sham", false, "run everything but the faults; the hypothesis must hold")
	fl.StringVar(&f.output, "output", "text", "what stdout gets: text, json, markdown, junit or html")
	fl.BoolVar(&f.samples, "samples", false, "also write every request to samples.bin, in vegeta's encoding")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no progress on stderr")
	fl.IntVar(&f.repeat, "repeat", 1, "run it so often, with seeds derived from the first, and judge the runs together")
	fl.BoolVar(&f.moreThanHalf, "more-than-half", false, moreThanHalfUsage)
	cmd.MarkFlagsMutuallyExclusive("control", "sham")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgsFunction = completeScenarios
	return cmd
}

const moreThanHalfUsage = "faults may hit more than half of the instances of a service at once (chaosctl plan says whether they do)"

func runScenario(ctx context.Context, name string, f runFlags, seeded bool, stdout, stderr io.Writer) error {
	if err := checkOutput(f.output); err != nil {
		return err
	}
	if f.repeat < 1 || f.repeat > mostRepeats {
		return usage(fmt.Errorf("--repeat %d: allowed are 1 to %d", f.repeat, mostRepeats), "")
	}
	scenario, _, err := openScenario(name)
	if err != nil {
		return err
	}
	var missing error
	for _, l := range scenario.Loads {
		missing = errors.Join(missing, l.ReadSecrets(nil))
	}
	if missing != nil {
		return usage(missing, "")
	}
	if seeded {
		scenario.Seed = f.seed
	}
	if f.runtime != "" {
		scenario.Target.Runtime = f.runtime
	}
	variant := experiments.Main
	if f.sham {
		variant = experiments.Sham
	}
	variants := []experiments.Variant{variant}
	if f.control {
		variants = append(variants, experiments.Control)
	}
	compile := func(seed uint64) (all []*experiments.Plan, err error) {
		s := *scenario
		s.Seed = seed
		for _, v := range variants {
			plan, err := experiments.Compile(&s, v)
			if err != nil {
				return nil, usage(err, "")
			}
			if err := withinHalf(plan, f.moreThanHalf); err != nil {
				return nil, err
			}
			all = append(all, plan)
		}
		return all, nil
	}
	compiled, err := compile(scenario.Seed)
	if err != nil {
		return err
	}
	b, err := begin(ctx, f.out, stderr)
	if err != nil {
		return err
	}
	defer b.release()
	if f.repeat > 1 {
		return repeatScenario(b.ctx, b.index, scenario.Seed, compile, b.id, b.dir, f, b.hurry, stdout, stderr)
	}
	report, failures := runOnce(b.ctx, b.index, compiled, b.id, b.dir, f, b.hurry, stderr)
	if report == nil {
		return failures
	}
	if err := printReport(stdout, f.output, b.dir, *report); err != nil {
		return internal(err)
	}
	return failures
}

// beginning is what stands before the first run of a command: where the run is
// known, where it writes, and what ends it.
type beginning struct {
	ctx     context.Context // ends with the first signal
	hurry   <-chan struct{} // closed by the second
	release func()
	index   *live.Index
	id, dir string
}

// begin makes sure that runs can be made here now, and claims their folder: out,
// or one named for the id. The caller releases it.
func begin(ctx context.Context, out string, stderr io.Writer) (*beginning, error) {
	index, err := live.Open()
	if err != nil {
		return nil, usage(err, "set XDG_STATE_HOME to a folder that can be written")
	}
	if err := startable(ctx, index, stderr); err != nil {
		return nil, err
	}
	b := &beginning{index: index, id: runID(), dir: out}
	if b.dir == "" {
		b.dir = filepath.Join(".chaosctl", "runs", b.id)
	}
	if err := claimFolder(b.dir); err != nil {
		return nil, err
	}
	process.Favour()
	b.ctx, b.hurry, b.release = interruptible(ctx, stderr)
	return b, nil
}

// mostRepeats is far more than anyone waits for.
const mostRepeats = 1000

// runOnce runs a plan, and its control's after it, in dir, and writes the reports.
// The report is nil when there is nothing to report; the error carries the exit
// code that the run means, and is nil for a pass.
func runOnce(ctx context.Context, index *live.Index, compiled []*experiments.Plan, id, dir string, f runFlags, hurry <-chan struct{}, stderr io.Writer) (*reports.Report, error) {
	var failures error
	for _, plan := range compiled {
		folder, label := dir, ""
		if plan.Variant == experiments.Control {
			folder, label = filepath.Join(dir, "control"), "control"
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return nil, internal(err)
			}
		}
		failures = errors.Join(failures, execute(ctx, index, plan, id, folder, label, f, hurry, stderr))
		if failures != nil || ctx.Err() != nil {
			break
		}
	}
	var start *experiments.StartError
	var said *exitError
	if errors.As(failures, &start) || errors.As(failures, &said) { // there is nothing to judge
		return nil, runError(failures)
	}
	report, err := readRun(dir)
	if err != nil {
		return nil, errors.Join(runError(failures), internal(err))
	}
	if err := reports.WriteAll(dir, report); err != nil {
		return nil, errors.Join(runError(failures), runError(err))
	}
	code := reportCode(report.Result)
	if f.control && ctx.Err() != nil {
		code = worst(code, exitAborted) // the pair is not complete
	}
	if failures != nil {
		e := runError(failures).(*exitError)
		e.code = worst(e.code, code)
		return &report, e
	}
	if code != exitPass {
		return &report, &exitError{code: code}
	}
	return &report, nil
}

// execute is one run of one plan in its folder.
func execute(ctx context.Context, index *live.Index, plan *experiments.Plan, id, dir, label string, f runFlags, hurry <-chan struct{}, stderr io.Writer) (err error) {
	if err := writePlan(filepath.Join(dir, "plan.yaml"), plan); err != nil {
		return err
	}
	o := experiments.Options{ID: id, Dir: dir, Environment: environment(), Hurry: hurry}
	if label != "" {
		o.ID += "-" + label
	}
	if f.samples {
		sink, err := openSamples(filepath.Join(dir, "samples.bin"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sink.Close()) }()
		o.Samples = sink.Write
	}
	if !f.quiet {
		p := newProgress(stderr, plan)
		defer p.Close()
		o.Watch = p.Event
	}
	closeAudit, err := auditRun(index, &o, plan.Scenario, stderr)
	if err != nil {
		return err
	}
	defer func() { closeAudit(err) }()
	ctx, leave, err := guard(ctx, index, plan, &o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return experiments.Run(ctx, plan, o)
}

// interruptible gives a context that ends with the first SIGINT, SIGTERM or
// SIGHUP; the second closes hurry. A closed pipe is an error of that write, not
// the end of the process: the undo comes first.
func interruptible(ctx context.Context, stderr io.Writer) (_ context.Context, hurry <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup means it
		signal.Notify(signals, syscall.SIGHUP)
	}
	signal.Ignore(syscall.SIGPIPE)
	now, done := make(chan struct{}), make(chan struct{})
	go func() {
		for n := 1; ; n++ {
			select {
			case s := <-signals:
				switch n {
				case 1:
					fmt.Fprintf(stderr, "\n%s: stopping the load, reverting every fault; once more to shorten the wait\n", s)
					cancel()
				case 2:
					fmt.Fprintf(stderr, "\n%s: not waiting any longer than the undo takes\n", s)
					close(now)
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, now, func() { signal.Stop(signals); close(done); cancel() }
}

// claimFolder makes the run folder, or refuses one that already holds a run.
func claimFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return usage(fmt.Errorf("make the run folder: %w", err), "choose another with --out")
		}
	case err != nil:
		return usage(fmt.Errorf("run folder: %w", err), "choose another with --out")
	case len(entries) > 0:
		return usage(fmt.Errorf("run folder %s is not empty", dir), "choose another with --out; nothing was overwritten")
	}
	return nil
}

func runID() string {
	var b [3]byte
	_, _ = rand.Read(b[:])
	return time.Now().UTC().Format("20060102-150405") + "-" + hex.EncodeToString(b[:])
}

func openScenario(name string) (*scenarios.Scenario, []byte, error) {
	s, src, err := scenarios.Open(name)
	if err != nil {
		hint := ""
		var problems scenarios.Problems
		if !errors.As(err, &problems) {
			hint = "chaosctl scenarios list shows the library"
		}
		return nil, src, usage(err, hint)
	}
	return s, src, nil
}
