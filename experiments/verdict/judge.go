package verdict

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// Why a run as a whole says nothing, whatever its parts say (Result.Void).
const (
	NoSteadyState = "no steady state"
	Saturated     = "generator saturated"
	NotObserved   = "fault not observed"
	ClockBroken   = "clock not to be trusted"
)

// lateShare is how much of a stream may be late, or lost by the generator
// itself, before its latencies are no longer the system's.
const lateShare = 0.01

// lateFew is how many late requests are the machine's noise and no saturation,
// however short the stream: they are a warning.
const lateFew = 10

// Starved tells whether so many late requests of so many due mean that the
// generator was starved, so that their latencies are not the system's.
func Starved(late, due int) bool {
	return late > lateFew && float64(late) > lateShare*float64(due)
}

// Judge says what a run showed. It is pure: the events alone decide, in the
// order in which the journal has them, and equal input gives equal output.
// It fills everything but Control (see Pair) and JournalHead, which is not among
// the events; it also accepts the journal of a run that is still going on.
//
// The verdict, in order of precedence:
//
//	a clause of `before` fails                   inconclusive, "no steady state"
//	the load generator could not keep up         inconclusive, "generator saturated"
//	a fault is not seen to have taken effect     inconclusive, "fault not observed"
//	the run stood still, or its clock went back  inconclusive, "clock not to be trusted"
//	any claim fails                              fail
//	any claim is inconclusive, or none was made  inconclusive
//	                                             pass
func Judge(h Hypotheses, events []journal.Event) Result {
	h.Confidence = orDefault(h.Confidence)
	r := collect(h, events)
	out := Result{
		Version: 1, Run: r.start.Run, Scenario: r.start.Scenario, Variant: r.start.Variant, Seed: r.start.Seed,
		Environment: r.start.Environment, StartedAt: r.start.Wall, DurationS: sec(r.last),
		Status: r.status(), Verdict: Pass, AuditHead: auditHead(r.start),
		Reasons: []string{}, Warnings: []string{},
		Objectives: []ObjectiveResult{}, Breakers: []BreakerResult{}, Invariants: []InvariantResult{},
		Faults: []FaultResult{}, Load: []LoadResult{},
	}
	for _, o := range h.Objectives {
		out.Objectives = append(out.Objectives, judgeObjective(h, r, o))
	}
	for _, b := range h.Breakers {
		out.Breakers = append(out.Breakers, judgeBreaker(h, r, b))
	}
	for _, name := range h.Invariants {
		out.Invariants = append(out.Invariants, r.judgeInvariant(name))
	}
	for _, f := range h.Faults {
		out.Faults = append(out.Faults, judgeFault(h, r, f))
	}
	for _, l := range h.Loads {
		out.Load = append(out.Load, r.total(l))
	}
	out.Recovery = measureRecovery(h, r)
	for _, s := range h.SLOs {
		out.SLOs = append(out.SLOs, judgeSLO(h, r, s))
	}
	out.conclude(h, r)
	return out
}

// status is how the run ended; a journal without an end was cut off.
func (r *record) status() string {
	switch {
	case r.end != nil:
		return r.end.Status
	case r.abort != nil && !r.abort.Interrupted:
		return "aborted"
	}
	return "interrupted"
}

// conclude draws the verdict and its reasons from the parts.
func (out *Result) conclude(h Hypotheses, r *record) {
	var failed, undecided []string
	sort := func(v Verdict, sentence string) {
		switch v {
		case Fail:
			failed = append(failed, sentence)
		case Inconclusive:
			undecided = append(undecided, sentence)
		}
	}
	steady := true
	for i, o := range out.Objectives {
		if o.Phase == "before" && o.Verdict == Fail {
			steady = false
		}
		sort(o.Verdict, out.Objectives[i].sentence(h.Confidence))
	}
	for _, b := range out.Breakers {
		for _, c := range b.Checks {
			sort(c.Verdict, fmt.Sprintf("Breaker on %s, %s: %s.", b.Edge, c.Claim, c.Detail))
		}
	}
	for _, i := range out.Invariants {
		switch i.Verdict {
		case Fail:
			sort(Fail, fmt.Sprintf("Invariant %s is broken: %s.", i.Name, i.Detail))
		case Inconclusive:
			sort(Inconclusive, fmt.Sprintf("Invariant %s could not be checked: %s.", i.Name, i.Detail))
		}
	}
	claims := len(out.Objectives) + len(out.Breakers) + len(out.Invariants)
	for _, s := range out.SLOs {
		if s.Verdict != "" {
			claims++
		}
		for _, c := range s.Checks {
			sort(c.Verdict, fmt.Sprintf("SLO %s, %s: %s.", s.Name, c.Claim, c.Detail))
		}
	}

	var void []string
	if !steady {
		out.Void = NoSteadyState
		text := "No steady state: the system did not keep its promise before any fault, so the faults would show nothing."
		if !slices.ContainsFunc(out.Faults, func(f FaultResult) bool { return f.InjectedAtS != nil }) {
			text = "No steady state: the system did not keep its promise before any fault, so none was injected."
		}
		void = append(void, text)
	}
	if texts := r.saturation(h); len(texts) > 0 {
		out.Void = cmp.Or(out.Void, Saturated)
		void = append(void, texts...)
	}
	if steady && !h.Sham {
		for _, f := range out.Faults {
			if !f.ObservedOK && f.Detail != notReached {
				out.Void = cmp.Or(out.Void, NotObserved)
				void = append(void, fmt.Sprintf("Fault not observed: %s (%s on %s) %s.", f.Name, f.Kind, f.Target, f.Detail))
			}
		}
	}
	if texts := r.clockTroubles(h); len(texts) > 0 {
		out.Void = cmp.Or(out.Void, ClockBroken)
		void = append(void, texts...)
	}
	switch {
	case out.Void != "":
		out.Verdict = Inconclusive
	case len(failed) > 0:
		out.Verdict = Fail
	case len(undecided) > 0:
		out.Verdict = Inconclusive
	case claims == 0:
		out.Verdict = Inconclusive
		undecided = append(undecided, "Nothing was claimed, so nothing was judged: add a hypothesis.")
	}
	if out.Status != "completed" {
		text := "The run did not come to its end: " + out.Status
		switch {
		case r.abort != nil && r.abort.Reason != "" && r.abort.Reason != out.Status:
			text += " (" + r.abort.Reason + ")"
		case r.end == nil:
			text += " (its journal has no end)"
		}
		if r.end != nil && r.end.Error != "" {
			text += ": " + r.end.Error
		}
		out.Reasons = append(out.Reasons, text+".")
		if out.Verdict == Pass {
			out.Verdict = Inconclusive
		}
	} else if r.end.Error != "" {
		r.warn("the run ended with an error: %s", r.end.Error)
	}
	for _, f := range out.Faults {
		if f.InjectedAtS != nil && !f.VerifiedReverted {
			r.warn("fault %q is not known to be reverted%s: what it left stands in the undo folder of the run", f.Name, suffix(r.revertError(f.Name)))
		}
	}
	out.Reasons = append(out.Reasons, void...)
	out.Reasons = append(out.Reasons, failed...)
	out.Reasons = append(out.Reasons, undecided...)
	if out.Verdict == Pass {
		text := fmt.Sprintf("All %d claims hold, each at %s confidence.", claims, percent(h.Confidence))
		if claims == 1 {
			text = fmt.Sprintf("The one claim holds, at %s confidence.", percent(h.Confidence))
		}
		out.Reasons = append(out.Reasons, text)
	}

	r.moreWarnings(h, out)
	out.Warnings = append(out.Warnings, r.warnings...)
}

func suffix(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// revertError is what a fault's last failing line says.
func (r *record) revertError(name string) string {
	var text string
	for _, line := range r.faults[name] {
		if line.Error != "" {
			text = line.Error
		}
	}
	return text
}

// saturation says which streams the generator could not send in time. A request
// is the generator's failure when it was late although a connection was free, or
// dropped without having queued for one; queueing is the system's doing.
// Warm-up does not count, unless there is nothing else.
func (r *record) saturation(h Hypotheses) []string {
	var texts []string
	for _, l := range h.Loads {
		st := r.streams[l.Name]
		if st == nil {
			continue
		}
		worst := ""
		var due, bad int
		for _, p := range h.Phases {
			var pdue, pbad int
			for _, k := range st.order {
				if k >= slotOf(p.Start) && k < slotOf(p.End) {
					s := st.slots[k]
					pdue += s.due
					pbad += s.late + max(0, s.dropped-s.queued)
				}
			}
			if p.Name == "warmup" && len(h.Phases) > 1 {
				continue
			}
			due, bad = due+pdue, bad+pbad
			if float64(pbad) > lateShare*float64(pdue) {
				worst = p.Name
			}
		}
		switch {
		case Starved(bad, due):
			texts = append(texts, fmt.Sprintf("Generator saturated: %s of %s of %q were sent more than 10 ms late, or not at all, though a connection was free; their latencies are not the system's. Lower the rate, or give the generator more CPU.",
				percent(float64(bad)/float64(due)), plural(due, "request", "requests"), l.Name))
		case worst != "" || float64(bad) > lateShare*float64(due):
			worst = cmp.Or(worst, "the run")
			r.warn("load %q: more than %s of the requests of %s were sent late by the generator itself", l.Name, percent(lateShare), worst)
		}
	}
	return texts
}

// judgeInvariant takes the last answer to the question; no answer is no pass.
func (r *record) judgeInvariant(name string) InvariantResult {
	out := InvariantResult{Name: name, Verdict: Inconclusive, Detail: "it was never asked for"}
	if !r.complete {
		out.Detail = "the run ended before it was asked for"
	}
	for _, p := range r.probes {
		if p.Kind != "invariant" || p.Name != name {
			continue
		}
		out.Detail, out.Values = p.Detail, p.Values
		switch {
		case p.Error != "":
			out.Verdict, out.Detail = Inconclusive, p.Error
		case p.OK:
			out.Verdict = Pass
		default:
			out.Verdict = Fail
		}
	}
	return out
}

// total sums up one stream over the whole run.
func (r *record) total(l Load) LoadResult {
	st := r.streams[l.Name]
	if st == nil {
		return LoadResult{Name: l.Name, Model: l.Model}
	}
	var slots []*slot
	for _, k := range st.order {
		slots = append(slots, st.slots[k])
	}
	out := sum(l.Name, slots...)
	out.Model = l.Model
	out.Service, out.Lag = distribution(st.service), distribution(st.lag)
	out.FirstByte, out.Connect, out.Handshake = distribution(st.firstByte), distribution(st.connect), distribution(st.handshake)
	out.Connects, out.Resumed, out.BytesSent, out.BytesReceived = st.connects, st.resumed, st.bytesSent, st.bytesReceived
	out.Steps, out.Setup = st.steps.sums(), st.setup.sums()
	if s := st.sessions; s != nil {
		out.Sessions = &SessionResult{Completed: s.Completed, Failed: s.Failed, Cut: s.Cut}
		quantiles(bucketsOf(st.durations), quantile{0.5, &out.Sessions.P50S}, quantile{0.95, &out.Sessions.P95S}, quantile{1, &out.Sessions.MaxS})
	}
	return out
}

// sum adds slots up.
func sum(name string, slots ...*slot) LoadResult {
	out := LoadResult{Name: name}
	var all []bucket
	for _, s := range slots {
		out.Due += s.due
		out.Sent += s.sent
		out.OK += s.ok
		out.Failed += s.failed + s.unanswered
		out.Queued += s.queued
		out.Dropped += s.dropped
		out.Late += s.late
		all = append(append(all, s.okLatency...), s.failedLatency...)
		for name, n := range s.outcomes {
			if out.Outcomes == nil {
				out.Outcomes = map[string]int{}
			}
			out.Outcomes[name] += n
		}
	}
	quantiles(all, quantile{0.5, &out.P50S}, quantile{0.9, &out.P90S}, quantile{0.95, &out.P95S},
		quantile{0.99, &out.P99S}, quantile{0.999, &out.P999S}, quantile{1, &out.MaxS})
	return out
}

// distribution is nil of nothing.
func distribution(h *hdr.Histogram) *Distribution {
	all := bucketsOf(h)
	if len(all) == 0 {
		return nil
	}
	var d Distribution
	quantiles(all, quantile{0.5, &d.P50S}, quantile{0.9, &d.P90S}, quantile{0.95, &d.P95S},
		quantile{0.99, &d.P99S}, quantile{0.999, &d.P999S}, quantile{1, &d.MaxS})
	return &d
}

// quantile is a share and where its time belongs, in seconds.
type quantile struct {
	at float64
	to *float64
}

func quantiles(all []bucket, wanted ...quantile) {
	var n int
	for _, b := range all {
		n += b.n
	}
	for _, q := range wanted {
		if v := rank(all, n, q.at); v != nil {
			*q.to = *v
		}
	}
}

// moreWarnings adds what a careful reader would ask about.
func (r *record) moreWarnings(h Hypotheses, out *Result) {
	for _, p := range r.probes {
		if p.Kind == "drain" && !p.OK && len(h.Invariants) > 0 {
			r.warn("the system had not finished its accepted work when the invariants were read: %s", p.Detail)
		}
	}
	for _, l := range h.Loads {
		st := r.streams[l.Name]
		if st == nil {
			r.warn("load %q sent nothing in the whole run", l.Name)
			continue
		}
		var lost int
		for _, s := range st.slots {
			lost += s.unanswered
		}
		if lost > 0 {
			r.warn("load %q: nothing was ever heard of %s; they count as failed", l.Name, plural(lost, "request", "requests"))
		}
	}
	for _, rec := range out.Recovery {
		if rec.MeasuredS == nil && r.complete {
			r.warn("load %q: %s", rec.Load, rec.Detail)
		}
	}
	out.FamilyError = familyError(out.Objectives, h.Confidence)
}

// familyError says how likely it is, at most, that at least one of several
// bounds misses (Bonferroni's inequality). It is empty for a single one.
func familyError(objectives []ObjectiveResult, confidence float64) string {
	var bounded int
	for _, o := range objectives {
		if o.Verdict != Inconclusive {
			bounded++
		}
	}
	if bounded < 2 {
		return ""
	}
	alpha := 1 - confidence
	return fmt.Sprintf("%d objectives were judged, each at %s confidence: the chance that at least one of them is judged wrongly is at most %s (ask for `confidence: %s` to bound it at %s)",
		bounded, percent(confidence), percent(math.Min(1, alpha*float64(bounded))), confidenceText(1-alpha/float64(bounded)), percent(alpha))
}

func confidenceText(c float64) string {
	return trimmed(100*math.Ceil(c*1e4)/1e4, 2) + "%"
}

func auditHead(s journal.Start) string {
	if s.Audit == nil {
		return ""
	}
	return s.Audit.Hash
}
