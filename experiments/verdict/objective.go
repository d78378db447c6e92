package verdict

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// claimOf turns a clause into a claim about a share, and says which requests of
// a slot are good. `p95 < 250ms` claims that at least 95 % are good within
// 250 ms; the reversed `p95 > 250ms` claims that fewer are.
func claimOf(c expect.Clause) (claim, func(*slot) int) {
	if c.Metric == expect.Percentile {
		return claim{target: c.Quantile, atLeast: c.Op == "<" || c.Op == "<="},
			func(s *slot) int { return s.within(c.Limit) }
	}
	return claim{target: c.Ratio, atLeast: c.Op == ">" || c.Op == ">="}, func(s *slot) int { return s.ok }
}

// Of is whom the objective is about, as it is named everywhere: the stream, or
// STREAM.STEP.
func (o Objective) Of() string {
	if o.Step == "" {
		return o.Load
	}
	return o.Load + "." + o.Step
}

// Named takes such a name apart: a stream's own comes first.
func (h Hypotheses) Named(name string) (load, step string) {
	load = name
	for _, l := range h.Loads {
		if l.Name == name {
			return name, ""
		}
		if rest, ok := strings.CutPrefix(name, l.Name+"."); ok && (step == "" || len(rest) < len(step)) {
			load, step = l.Name, rest
		}
	}
	return load, step
}

// Steps are the steps of a stream that an objective may be about.
func (h Hypotheses) Steps(load string) []string {
	for _, l := range h.Loads {
		if l.Name == load {
			return l.Steps
		}
	}
	return nil
}

// about tells whether the requests of a window are among those of the objective.
func (o Objective) about(w *journal.Window) bool {
	return o.Load == w.Load && !w.Setup && (o.Step == "" || o.Step == w.Step)
}

// Target is the share that the objective's clause sets as the limit: 0.99 for
// `ok >= 99%`, 0.95 for `p95 < 250ms`.
func (o Objective) Target() float64 {
	c, _ := claimOf(o.Clause)
	return c.target
}

// judgeObjective judges one clause about one stream in one phase.
func judgeObjective(h Hypotheses, r *record, o Objective) ObjectiveResult {
	out := ObjectiveResult{
		ID: o.ID(), Load: o.Of(), Phase: o.Phase, Objective: o.Clause.String(),
		Verdict: Inconclusive, Unit: "ratio", PerPhase: map[string]*float64{},
	}
	if o.Clause.Metric == expect.Percentile {
		out.Unit = "s"
	}
	for _, p := range h.Phases {
		out.PerPhase[p.Name] = r.value(o, p.Start, p.End)
	}
	c, good := claimOf(o.Clause)
	out.Target = c.target
	from, to, ok := judged(h, o)
	switch {
	case o.Clause.Metric != expect.OK && o.Clause.Metric != expect.Percentile:
		out.Note = fmt.Sprintf("%q says nothing about a load stream", o.Clause.Metric)
		return out
	case !ok:
		out.Note = fmt.Sprintf("the run has no phase %q", o.Phase)
		return out
	case from >= to:
		out.Note = "nothing of the phase is left to judge: settle or recovery is as long as the phase"
		return out
	}

	ws := r.between(o.Of(), from, to, good)
	r.markRegimes(h, ws, from)
	s := estimateShare(ws, h.Confidence)
	out.Samples, out.EffectiveSamples = s.n, math.Round(s.effective*10)/10
	if s.n == 0 {
		out.NeededSamples = smallest(c, h.Confidence)
		out.Note = "no data: " + r.whyNoData(o, from)
		return out
	}
	out.Estimate, out.Low, out.High = ptr(s.estimate), ptr(s.low), ptr(s.high)
	out.Value = r.value(o, from, to)
	out.Verdict = c.verdict(s.low, s.high)

	length := to - from
	rate := float64(s.n) / length.Seconds()
	if out.Verdict == Inconclusive {
		total := c.enough(s.estimate, h.Confidence)
		more := total * float64(s.n) / s.effective
		if total == 0 {
			out.NeededSamples = -1
		} else {
			out.NeededSamples = max(1, int(math.Ceil(more))-s.n)
		}
	}
	if s.short {
		block := time.Duration(s.block * float64(step))
		out.Note = fmt.Sprintf("too short for its burstiness: good and bad come in spells of about %s, and %s hold only %d of them (%d are needed to know the scatter)",
			seconds(block), seconds(length), int(s.blocks), minBlocks)
		switch out.Verdict {
		case Pass:
			// Fewer than 20 blocks never pass; how close they come is still worth saying.
			out.Verdict, out.NeededSamples = Inconclusive, 0
			out.Note += fmt.Sprintf("; counting each spell as a single sample would give at least %s, and pass", percent(s.low))
		case Fail:
			out.Note += "; it fails even when each spell counts as a single sample"
		}
		if out.Verdict == Inconclusive && out.NeededSamples >= 0 {
			longer := int(math.Ceil((minBlocks - s.blocks) * s.block * step.Seconds() * rate))
			out.NeededSamples = max(out.NeededSamples, longer)
		}
	}
	if s.uniform {
		out.Note = fmt.Sprintf("bursts rarer than about one per %s are not excluded", seconds(length/3))
	}
	switch {
	case out.NeededSamples > 0:
		out.NeededS = math.Ceil(float64(out.NeededSamples)/rate*10) / 10
	case out.NeededSamples < 0 && c.atLeast && c.target >= 1:
		out.Note = "100 % cannot be shown by any number of samples: ask for 99.9 %"
	case out.NeededSamples < 0:
		out.Note = "the share lies too close to its target: no realistic number of samples would decide"
	}
	if out.Verdict == Pass && !r.complete && r.last < to {
		out.Verdict = Inconclusive
		out.Note = fmt.Sprintf("the phase was cut short at %s of %s", seconds(max(0, r.last-from)), seconds(length))
	}
	return out
}

// judged is the part of the phase that the objective speaks of.
func judged(h Hypotheses, o Objective) (from, to time.Duration, ok bool) {
	for _, p := range h.Phases {
		if p.Name == o.Phase {
			switch o.Phase {
			case "during":
				return p.Start + o.Settle, p.End, true
			case "after":
				return p.Start + o.Recovery, p.End, true
			}
			return p.Start, p.End, true
		}
	}
	return 0, 0, false
}

// value is what people read: the share for ok, seconds for a percentile.
func (r *record) value(o Objective, from, to time.Duration) *float64 {
	if o.Clause.Metric == expect.Percentile {
		return r.quantile(o.Of(), from, to, o.Clause.Quantile)
	}
	var n, good int
	for _, w := range r.between(o.Of(), from, to, func(s *slot) int { return s.ok }) {
		n, good = n+w.n, good+w.good
	}
	if n == 0 {
		return nil
	}
	return ptr(float64(good) / float64(n))
}

// whyNoData says why nothing is known of a stream, or a step, from some moment on.
func (r *record) whyNoData(o Objective, from time.Duration) string {
	switch {
	case r.streams[o.Load] == nil:
		return fmt.Sprintf("stream %q sent nothing in the whole run", o.Load)
	case r.streams[o.Of()] == nil:
		return fmt.Sprintf("no session of %q came to its step %q in the whole run", o.Load, o.Step)
	case r.last < from:
		return fmt.Sprintf("the run ended at %s, before this part began", seconds(r.last))
	case !r.complete:
		return "no request that was due here was finished when the run ended"
	}
	return "no request was due here"
}

// smallest is the least number of samples that can decide, all being good (or
// all bad, for a claim that fewer are).
func smallest(c claim, confidence float64) int {
	if !c.atLeast {
		c.target = 1 - c.target
	}
	_, _, n := Decidable(c.target, 0, confidence)
	return n
}

// sentence says what was found, for the list of reasons.
func (o ObjectiveResult) sentence(confidence float64) string {
	who := fmt.Sprintf("%s, %s: %s", o.Load, o.Phase, o.Objective)
	if o.Estimate == nil {
		return fmt.Sprintf("%s cannot be judged: %s.", who, o.Note)
	}
	what := "were good"
	if o.Unit == "s" {
		what = "were good within the limit"
	}
	found := fmt.Sprintf("%s of %s %s", percent(*o.Estimate), plural(o.Samples, "request", "requests"), what)
	// What the bounds say on the side that decides.
	side := fmt.Sprintf("at least %s", percent(*o.Low))
	if *o.High < o.Target {
		side = fmt.Sprintf("at most %s", percent(*o.High))
	}
	switch o.Verdict {
	case Pass:
		return fmt.Sprintf("%s holds: %s, %s with %s confidence.", who, found, side, percent(confidence))
	case Fail:
		s := fmt.Sprintf("%s does not hold: %s, %s with %s confidence", who, found, side, percent(confidence))
		if o.Value == nil && o.Unit == "s" {
			s += "; so many failed that there is no such percentile"
		}
		return s + "."
	}
	s := fmt.Sprintf("%s is undecided: %s, which bounds the share by %s and %s", who, found, percent(*o.Low), percent(*o.High))
	if o.NeededSamples > 0 {
		s += fmt.Sprintf("; about %s more arrivals (%s) would decide", thousands(o.NeededSamples), seconds(time.Duration(o.NeededS*float64(time.Second))))
	}
	if o.Note != "" {
		s += " (" + o.Note + ")"
	}
	return s + "."
}
