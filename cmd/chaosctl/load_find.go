package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/reports/chart"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// capacity looks for the highest rate at which an objective holds, the knee. It
// is told what each rate showed, and says which rate is next:
//
//	rate                        x fails: the knee lies between
//	  |            o            the two; then the geometric middle
//	  |      o           x      of the interval, until it is
//	  |  o         o   o        narrower than 5 %
//	  +----------------------> steps
//	    doubling   | bisection
//
// Where even the first rate fails, it is halved until one holds. A step whose
// bounds do not decide counts as not holding: the knee is what was shown.
//
// It knows nothing of time or sockets.
type capacity struct {
	clause expect.Clause
	start  arrival.Rate
	most   arrival.Rate

	holds  float64 // the highest rate that holds; 0: none yet
	limit  float64 // the lowest rate above it that does not; 0: none yet
	reason stepOutcome
}

// stepOutcome is what a rate showed.
type stepOutcome string

const (
	stepHolds     stepOutcome = "pass"
	stepFails     stepOutcome = "fail"
	stepUndecided stepOutcome = "inconclusive"
	stepSaturated stepOutcome = "generator saturated" // says nothing about the server
)

const (
	kneeWidth   = 1.05 // the search ends when limit/holds is less
	lowestRate  = 1.0  // below, a step would take minutes
	mostRetries = 2    // of a step that its bounds left undecided, or the generator spoiled
)

// next is the rate to try, false when the search is over.
func (c *capacity) next() (rate float64, more bool) {
	switch {
	case c.holds == 0 && c.limit == 0:
		return min(float64(c.start), float64(c.most)), true
	case c.limit == 0:
		if c.holds >= float64(c.most) {
			return 0, false
		}
		return min(2*c.holds, float64(c.most)), true
	case c.holds == 0:
		if c.limit <= lowestRate {
			return 0, false
		}
		return max(round3(c.limit/2), lowestRate), true
	}
	rate = round3(math.Sqrt(c.holds * c.limit))
	if c.limit < kneeWidth*c.holds || rate <= c.holds || rate >= c.limit {
		return 0, false
	}
	return rate, true
}

// saw is told what a rate showed.
func (c *capacity) saw(rate float64, o stepOutcome) {
	if o == stepHolds {
		c.holds = max(c.holds, rate)
		return
	}
	c.limit, c.reason = rate, o
}

// round3 keeps three significant digits: rates that people can repeat.
func round3(x float64) float64 {
	scale := math.Pow(10, 2-math.Floor(math.Log10(x)))
	return math.Round(x*scale) / scale
}

// planSearch checks what --find-max says.
func planSearch(p *loadPlan, f loadFlags, changed func(string) bool) (*capacity, error) {
	clause, err := parseObjective("--find-max", f.findMax)
	if err != nil {
		return nil, usage(err, "")
	}
	if p.spec.Rate == nil {
		return nil, usage(fmt.Errorf("--find-max sets the rate itself; the load must not have another shape"), "leave it to --rate, which is where the search starts")
	}
	if clause.Op == ">" && clause.Metric == expect.Percentile || clause.Op == ">=" && clause.Metric == expect.Percentile ||
		clause.Op[0] == '<' && clause.Metric == expect.OK {
		return nil, usage(fmt.Errorf("--find-max %q gets easier as the rate rises: there is no highest rate to find", clause), "write it as a promise, like 'p99 < 50ms' or 'ok >= 99%'")
	}
	if _, _, need := verdict.Decidable(verdict.Objective{Clause: clause}.Target(), 0, p.confidence); need == 0 {
		return nil, usage(fmt.Errorf("--find-max %q: no number of requests can show 100%%", clause), "ask for 99.9%")
	}
	most, err := parseRate("--max-rate", f.maxRate)
	if err != nil {
		return nil, usage(err, "")
	}
	if most <= 0 || most < *p.spec.Rate {
		return nil, usage(fmt.Errorf("--max-rate %s is below --rate %s, where the search starts", most, *p.spec.Rate), "")
	}
	if f.stepDuration <= 0 {
		return nil, usage(fmt.Errorf("--step-duration %s: it must be above 0s", f.stepDuration), "")
	}
	if !changed("warmup") {
		p.warmup = time.Second
	}
	p.duration, p.objectives = f.stepDuration, []verdict.Objective{{Clause: clause}}
	return &capacity{clause: clause, start: *p.spec.Rate, most: most}, nil
}

// searchStep is one step, judged.
type searchStep struct {
	RatePerS  float64                 `json:"rate_per_s"`
	Outcome   stepOutcome             `json:"outcome"`
	DurationS float64                 `json:"duration_s"`
	Objective verdict.ObjectiveResult `json:"objective"`
	Load      loadResult              `json:"load"`
}

// searchResult is what --find-max prints with --output json.
type searchResult struct {
	Objective  string       `json:"objective"`
	URL        string       `json:"url"`
	Address    string       `json:"address"`
	Status     string       `json:"status"`
	Verdict    string       `json:"verdict"`     // pass: a knee was found; fail: no rate holds; inconclusive
	HoldsPerS  float64      `json:"holds_per_s"` // the highest rate shown to hold; 0: none
	LimitPerS  float64      `json:"limit_per_s"` // the lowest rate above it that was not; 0: none up to --max-rate
	LimitedBy  string       `json:"limited_by"`  // fail, inconclusive, generator saturated; empty: --max-rate
	Confidence float64      `json:"confidence"`
	Steps      []searchStep `json:"steps"`
}

// findMax steps through rates until the knee is known, printing each step.
func findMax(ctx context.Context, p *loadPlan, c *capacity, f loadFlags, stdout, stderr io.Writer) error {
	r := searchResult{Objective: c.clause.String(), URL: p.target.url(), Address: p.target.address, Status: "completed", Confidence: p.confidence, Steps: []searchStep{}}
	text := func(format string, args ...any) error {
		if f.output == "json" {
			return nil
		}
		_, err := fmt.Fprintf(stdout, format, args...)
		return err
	}
	for rate, more := c.next(); more; rate, more = c.next() {
		step, err := p.step(ctx, rate, f, stderr)
		if err != nil {
			return internal(err)
		}
		if step.Load.Status == "interrupted" {
			r.Status = "interrupted"
			break
		}
		r.Steps = append(r.Steps, step)
		if err := text("%s\n", step.line()); err != nil {
			return internal(err)
		}
		c.saw(rate, step.Outcome)
		if step.Outcome != stepHolds {
			if err := p.calm(ctx); err != nil {
				return internal(err)
			}
		}
	}
	r.HoldsPerS, r.LimitPerS, r.LimitedBy = c.holds, c.limit, string(c.reason)
	code := exitPass
	switch {
	case r.Status == "interrupted":
		r.Verdict, code = string(verdict.Inconclusive), exitAborted
	case c.holds == 0 && c.reason == stepFails:
		r.Verdict, code = string(verdict.Fail), exitFail
	case c.holds == 0 || c.limit > 0 && c.reason != stepFails:
		r.Verdict, code = string(verdict.Inconclusive), exitInconclusive
	default:
		r.Verdict = string(verdict.Pass)
	}
	var err error
	if f.output == "json" {
		err = writeJSON(stdout, r)
	} else {
		err = text("\n%s\n", r.sentence(c))
	}
	if err != nil {
		return internal(err)
	}
	if code != exitPass {
		return &exitError{code: code}
	}
	return nil
}

// longestStep bounds what a step may take for the sake of its bounds.
const longestStep = 2 * time.Minute

// step sends one rate for as long as it takes to decide: first --step-duration,
// which is enough to see a rate that is far too high; then again, for as long as
// the bounds say they need.
func (p *loadPlan) step(ctx context.Context, rate float64, f loadFlags, stderr io.Writer) (searchStep, error) {
	r, long := arrival.Rate(rate), f.stepDuration
	for try := 0; ; try++ {
		q := *p
		q.spec.Rate, q.duration = &r, min(long, longestStep).Round(windowLength)
		live := newLoadLive(stderr, &q, f.quiet || f.output == "text" && !isTerminal(stderr))
		o, err := q.run(ctx, live.window, nil)
		live.Close()
		if err != nil {
			return searchStep{}, err
		}
		v := q.judge(o, q.objectives)
		q.objectives = nil // the step has it
		s := searchStep{RatePerS: rate, DurationS: q.duration.Seconds(), Objective: v.Objectives[0], Load: q.result(o)}
		switch {
		case v.Void == verdict.Saturated:
			s.Outcome = stepSaturated
		case s.Objective.Verdict == verdict.Pass:
			s.Outcome = stepHolds
		case s.Objective.Verdict == verdict.Fail:
			s.Outcome = stepFails
		default:
			s.Outcome = stepUndecided
		}
		switch {
		case s.Outcome == stepHolds, s.Outcome == stepFails, try == mostRetries, ctx.Err() != nil:
			return s, nil
		case s.Outcome == stepSaturated:
			if err := p.calm(ctx); err != nil { // a hiccup of the machine, perhaps
				return s, err
			}
			continue
		case q.duration >= longestStep:
			return s, nil
		}
		long = q.duration * 2
		if s.Objective.NeededS > 0 {
			long = max(long, q.duration+time.Duration(1.2*s.Objective.NeededS*float64(time.Second)))
		}
	}
}

// calm waits until the server answers a single user again, whatever the answer:
// after a rate that was too high it may still be busy with what it was asked.
func (p *loadPlan) calm(ctx context.Context) error {
	ctx, answered := context.WithCancel(ctx)
	defer answered()
	q, one := *p, 1
	q.spec.Rate, q.spec.Users, q.spec.Think, q.spec.Spacing = nil, &one, windowLength, ""
	q.warmup, q.duration, q.objectives = 0, calmWithin, nil
	_, err := q.run(ctx, func(w loadgen.Window) {
		for outcome := range w.Outcomes {
			if outcome[0] >= '1' && outcome[0] <= '9' { // a status code
				answered()
			}
		}
	}, nil)
	return err
}

// calmWithin is how long calm waits at most; then the next step shows what is wrong.
const calmWithin = 30 * time.Second

func (s searchStep) line() string {
	o := s.Objective
	text := fmt.Sprintf("%10s  %-19s", chart.Rate(s.RatePerS), s.Outcome)
	if o.Estimate != nil {
		text += fmt.Sprintf("  %s good (%s to %s)", chart.ShareAgainst(*o.Estimate, o.Target), chart.ShareAgainst(*o.Low, o.Target), chart.ShareAgainst(*o.High, o.Target))
	}
	text += fmt.Sprintf(", p99 %s, %s requests", chart.Seconds(s.Load.P99S), chart.Count(o.Samples))
	if s.Outcome == stepSaturated {
		text += fmt.Sprintf(", %s late", chart.Count(s.Load.Late))
	}
	return text
}

// sentence says where the knee is, and why it is thought to be there.
func (r searchResult) sentence(c *capacity) string {
	holds, limit := chart.Rate(c.holds), chart.Rate(c.limit)
	switch {
	case r.Status == "interrupted" && c.holds > 0:
		return fmt.Sprintf("interrupted: %s holds at %s; higher rates were not decided", r.Objective, holds)
	case r.Status == "interrupted":
		return "interrupted before any rate was shown to hold"
	case c.holds == 0 && c.reason == stepFails:
		return fmt.Sprintf("FAIL  %s does not hold at any rate down to %s", r.Objective, limit)
	case c.holds == 0:
		return fmt.Sprintf("INCONCLUSIVE  no rate down to %s was shown to hold (%s)", limit, c.reason)
	case c.limit == 0:
		return fmt.Sprintf("PASS  %s holds at %s, the most that was tried; the knee is above (--max-rate)", r.Objective, holds)
	case c.reason == stepSaturated:
		return fmt.Sprintf("INCONCLUSIVE  %s holds at %s; at %s this generator could not keep up, which says nothing about the server. Give it more CPU, or a machine of its own", r.Objective, holds, limit)
	case c.reason == stepUndecided:
		return fmt.Sprintf("INCONCLUSIVE  %s holds at %s; at %s it is undecided. A longer --step-duration would tell", r.Objective, holds, limit)
	}
	return fmt.Sprintf("PASS  the knee: %s holds at %s and fails at %s (each at %s confidence)", r.Objective, holds, limit, chart.Share(r.Confidence))
}
