package verdict

import (
	"fmt"
	"slices"
	"strings"
)

// What a scenario and its control variant show together.
const (
	Proven        = "PROVEN"       // the claim holds with the pattern, and fails without it
	Disproven     = "DISPROVEN"    // the claim does not hold
	Vacuous       = "VACUOUS"      // the claim holds without the pattern too: it shows nothing about it
	InconclusiveP = "INCONCLUSIVE" // one of the two runs does not say
)

// Pair judges a scenario together with its control variant. mustFail names the
// clauses on which the control has to fail: objectives as "shoppers during p95",
// breakers as "orders -> payments" or "orders -> payments opens", invariants by
// name. Each must fail, and the control run must be one that counts: saturated, not
// steady, or without an observed fault it says nothing, however much failed in it.
// With no names, the control's verdict as a whole must be fail.
func Pair(main, control Result, mustFail []string) ControlResult {
	out := ControlResult{Verdict: control.Verdict, MustFail: slices.Clone(mustFail), Failed: []string{}, Run: ""}
	if out.MustFail == nil {
		out.MustFail = []string{}
	}
	var passed, open []string
	for _, name := range mustFail {
		switch v, known := control.verdictOf(name); {
		case !known:
			open = append(open, fmt.Sprintf("%q is nothing that the control run judged (it judged: %s)", name, strings.Join(control.names(), "; ")))
		case v == Fail:
			out.Failed = append(out.Failed, name)
		case v == Pass:
			passed = append(passed, name)
		default:
			open = append(open, fmt.Sprintf("%q is undecided in the control run", name))
		}
	}
	if len(mustFail) == 0 {
		switch control.Verdict {
		case Pass:
			passed = []string{"the whole control run"}
		case Inconclusive:
			open = []string{"the control run is inconclusive"}
		}
	}

	switch {
	case main.Verdict == Fail:
		out.Pair, out.Detail = Disproven, "the scenario itself fails: "+firstReason(main)
	case main.Verdict == Inconclusive:
		out.Pair, out.Detail = InconclusiveP, "the scenario itself is inconclusive: "+firstReason(main)
	case control.Void != "":
		out.Pair, out.Detail = InconclusiveP, fmt.Sprintf("the control run does not count (%s): %s", control.Void, firstReason(control))
	case control.Status == "interrupted" || control.Status == "failed":
		out.Pair, out.Detail = InconclusiveP, fmt.Sprintf("the control run was not finished (%s)", control.Status)
	case len(passed) > 0:
		out.Pair, out.Detail = Vacuous, and(passed)+" holds without the pattern too: passing shows nothing about the pattern"
	case len(open) > 0:
		out.Pair, out.Detail = InconclusiveP, strings.Join(open, "; ")
	default:
		out.Pair = Proven
		names := out.Failed
		if len(names) == 0 {
			names = []string{"the control run"}
		}
		out.Detail = "holds with the pattern; without it, " + and(names) + " fails"
		if len(names) > 1 {
			out.Detail = strings.TrimSuffix(out.Detail, "fails") + "fail"
		}
	}
	return out
}

func firstReason(r Result) string {
	if len(r.Reasons) == 0 {
		return string(r.Verdict)
	}
	return r.Reasons[0]
}

// verdictOf finds a claim by the name users give it.
func (r Result) verdictOf(name string) (Verdict, bool) {
	name = strings.Join(strings.Fields(name), " ")
	// Two clauses about one metric share a name: the control fails if one does.
	found, known := Pass, false
	consider := func(v Verdict) {
		if v == Fail || (v == Inconclusive && found != Fail) {
			found = v
		}
		known = true
	}
	for _, o := range r.Objectives {
		if o.ID == name {
			consider(o.Verdict)
		}
	}
	for _, b := range r.Breakers {
		if b.Edge == name {
			consider(b.Verdict)
		}
		for _, c := range b.Checks {
			word, _, _ := strings.Cut(strings.TrimPrefix(c.Claim, "while "), " ") // "while open: p99 < 20ms"
			if b.Edge+" "+strings.TrimSuffix(word, ":") == name {
				consider(c.Verdict)
			}
		}
	}
	for _, i := range r.Invariants {
		if i.Name == name || "invariant "+i.Name == name {
			consider(i.Verdict)
		}
	}
	return found, known
}

func (r Result) names() []string {
	var all []string
	for _, o := range r.Objectives {
		all = append(all, o.ID)
	}
	for _, b := range r.Breakers {
		all = append(all, b.Edge)
	}
	for _, i := range r.Invariants {
		all = append(all, i.Name)
	}
	return all
}
