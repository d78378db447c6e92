package reports

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// symbol and word of a verdict always stand together. A verdict that is none of
// the three, as in an empty result, is no pass.
func symbol(v verdict.Verdict) string {
	switch v {
	case verdict.Pass:
		return "✓"
	case verdict.Fail:
		return "✗"
	}
	return "?"
}

func word(v verdict.Verdict) string {
	if v == verdict.Pass || v == verdict.Fail {
		return string(v)
	}
	return string(verdict.Inconclusive)
}

// class is the verdict as a CSS class.
func class(v verdict.Verdict) string {
	switch v {
	case verdict.Pass:
		return "pass"
	case verdict.Fail:
		return "fail"
	}
	return "unsure"
}

func color(v verdict.Verdict) chart.Color {
	switch v {
	case verdict.Pass:
		return chart.Teal
	case verdict.Fail:
		return chart.Bad
	}
	return chart.Yellow
}

// pairVerdict is how far a pair's word is a pass.
func pairVerdict(pair string) verdict.Verdict {
	switch pair {
	case "PROVEN":
		return verdict.Pass
	case "DISPROVEN", "VACUOUS":
		return verdict.Fail
	}
	return verdict.Inconclusive
}

// pairMeaning says the pair's word in a sentence.
func pairMeaning(c *verdict.ControlResult) string {
	switch c.Pair {
	case "PROVEN":
		return "the scenario holds, and it fails without the protection under test: the protection is what makes it hold"
	case "DISPROVEN":
		return "the scenario does not hold, even with the protection under test"
	case "VACUOUS":
		return "the control did not fail where it must: the protection under test is not what makes the scenario hold"
	}
	if c.Detail != "" {
		return clean(c.Detail)
	}
	return "the pair does not show whether the protection under test makes the difference"
}

// clean makes text from outside fit for one line of anything: controls, escapes
// and direction overrides become "·", any white space one space.
func clean(s string) string {
	return strings.Map(chart.Printable, strings.Join(strings.Fields(s), " "))
}

// allReasons are the reasons of the verdict, cleaned; there is always one.
func allReasons(r Report) []string {
	var reasons []string
	for _, reason := range r.Result.Reasons {
		reasons = append(reasons, clean(reason))
	}
	if reasons = nonEmpty(reasons...); len(reasons) > 0 {
		return reasons
	}
	pass, all := claims(r.Result)
	switch {
	case r.Result.Verdict == verdict.Pass && all > 0:
		at := ""
		if c := r.Hypotheses.Confidence; c > 0 && c < 1 {
			at = ", at " + chart.Share(c) + " confidence"
		}
		return []string{fmt.Sprintf("%d of %s%s", pass, plural(all, "claim holds", "claims hold"), at)}
	case r.Result.Verdict == verdict.Fail && all > 0:
		return []string{fmt.Sprintf("%d of %s", pass, plural(all, "claim holds", "claims hold"))}
	case all == 0:
		return []string{"nothing was claimed, so nothing was shown"}
	}
	return []string{fmt.Sprintf("%d of %s; the rest is undecided", pass, plural(all, "claim holds", "claims hold"))}
}

// claims counts what was judged, and what of it passed.
func claims(r verdict.Result) (pass, all int) {
	see := func(v verdict.Verdict) {
		all++
		if v == verdict.Pass {
			pass++
		}
	}
	for _, o := range r.Objectives {
		see(o.Verdict)
	}
	for _, b := range r.Breakers {
		see(b.Verdict)
	}
	for _, i := range r.Invariants {
		see(i.Verdict)
	}
	for _, s := range r.SLOs {
		if s.Verdict != "" {
			see(s.Verdict)
		}
	}
	return pass, all
}

// explain says in plain words what the verdict means here.
func explain(r Report) []string {
	res := r.Result
	pass, all := claims(res)
	var during string
	switch {
	case r.Hypotheses.Sham || res.Variant == "sham":
		during = "This was a sham run: everything took place but the faults."
	case len(res.Faults) == 0:
		during = "No fault was part of this run."
	default:
		var names []string
		for _, f := range res.Faults {
			if f.InjectedAtS != nil {
				names = append(names, fmt.Sprintf("%s (%s)", clean(f.Name), faultWords(f)))
			}
		}
		if during = "What went wrong on purpose: " + list(names) + "."; len(names) == 0 {
			during = "No fault was injected."
		}
	}
	var shown string
	confidence := ""
	if c := r.Hypotheses.Confidence; c > 0 && c < 1 {
		confidence = " at " + chart.Share(c) + " confidence"
	}
	switch res.Verdict {
	case verdict.Pass:
		shown = fmt.Sprintf("The system kept its promise: %d of %s%s.", pass, plural(all, "claim held", "claims held"), confidence)
	case verdict.Fail:
		shown = fmt.Sprintf("The system broke its promise: %d of %s did not hold, or could not be shown to.", all-pass, plural(all, "claim", "claims"))
	default:
		shown = "This run cannot tell whether the system keeps its promise. That is not a pass."
		if res.Void != "" {
			shown = "Nothing of this run counts as evidence, for or against (" + clean(res.Void) + "). That is not a pass."
		}
	}
	words := []string{shown, during}
	if res.Variant == "control" {
		words = append(words, "This is the control variant: the protection under test is switched off, and it is expected to fail.")
	}
	switch res.Status {
	case "aborted":
		words = append(words, "The run was aborted before its end by an abort condition.")
	case "interrupted":
		words = append(words, "The run was interrupted before its end.")
	case "failed":
		words = append(words, "The run could not be carried out to its end.")
	}
	return words
}

func faultWords(f verdict.FaultResult) string {
	switch {
	case f.Target == "":
		return clean(f.Kind)
	case f.Kind == "":
		return "on " + clean(f.Target)
	}
	return clean(f.Kind) + " on " + clean(f.Target)
}

// value is a metric as people read it, in the unit of its objective.
func value(v *float64, unit string) string {
	switch {
	case v == nil:
		return chart.Missing
	case unit == "s":
		return chart.Seconds(*v)
	case unit == "ratio", unit == "":
		return chart.Share(*v)
	}
	return chart.Number(*v) + " " + short(unit, 8)
}

// bounds is the interval of the share that is judged, and says on which side of
// the target its ends lie.
func bounds(o verdict.ObjectiveResult) string {
	if o.Low == nil || o.High == nil {
		return chart.Missing
	}
	lo, hi := chart.ShareAgainst(*o.Low, o.Target), chart.ShareAgainst(*o.High, o.Target)
	return strings.TrimSuffix(lo, "%") + "–" + hi
}

func share(v *float64, target float64) string {
	if v == nil {
		return chart.Missing
	}
	return chart.ShareAgainst(*v, target)
}

func secs(v *float64, none string) string {
	if v == nil {
		return none
	}
	return chart.Seconds(*v)
}

// needed says how much more data would decide; "" when decided or unknown.
func needed(o verdict.ObjectiveResult) string {
	switch {
	case o.Verdict == verdict.Pass || o.Verdict == verdict.Fail || o.NeededSamples == 0:
		return ""
	case o.NeededSamples < 0:
		return "no realistic number of arrivals would decide"
	case o.NeededS > 0:
		return fmt.Sprintf("about %s more arrivals (%s) would decide", chart.Count(o.NeededSamples), chart.Seconds(o.NeededS))
	}
	return fmt.Sprintf("about %s more arrivals would decide", chart.Count(o.NeededSamples))
}

// measured is one quantity of a fault's positive control, asked and observed.
type measured struct{ name, asked, observed string }

// positiveControl pairs what was asked of a fault with what was observed, by
// name. more is what was observed without having been asked for. A quantity of
// zero that nobody measured (no jitter) says nothing and is left out.
func positiveControl(f verdict.FaultResult) (pairs []measured, more []string) {
	for _, k := range slices.Sorted(maps.Keys(f.Asked)) {
		name, text := quantity(k)
		m := measured{name: name, asked: text(f.Asked[k]), observed: chart.Missing}
		if v, ok := f.Observed[k]; ok {
			m.observed = text(v)
		} else if f.Asked[k] == 0 {
			continue
		}
		pairs = append(pairs, m)
	}
	for _, k := range slices.Sorted(maps.Keys(f.Observed)) {
		if _, asked := f.Asked[k]; !asked {
			name, text := quantity(k)
			more = append(more, name+" "+text(f.Observed[k]))
		}
	}
	return pairs, more
}

// quantity turns a key such as "delay_s" into a name and a way to write its values.
func quantity(key string) (name string, text func(float64) string) {
	name, text = key, chart.Number
	for _, of := range []struct {
		suffix string
		text   func(float64) string
	}{
		{"bytes_per_s", func(v float64) string { return chart.Bytes(v) + "/s" }},
		{"_per_s", chart.Rate},
		{"bytes", chart.Bytes},
		{"ratio", chart.Share},
		{"_s", chart.Seconds},
	} {
		if strings.HasSuffix(key, of.suffix) {
			name, text = strings.TrimSuffix(key, of.suffix), of.text
			break
		}
	}
	switch {
	case strings.HasPrefix(key, "pid"):
		text = func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) } // a name, not a number
	case key == "ratio":
		name = "share hit"
	case key == "bytes_per_s":
		name = "bandwidth"
	case name == "":
		name = key
	}
	return clean(strings.Trim(strings.ReplaceAll(name, "_", " "), " ")), text
}

// counts writes a map of counts, largest first: "200: 3950, 503: 12".
func counts(m map[string]int) string {
	keys := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(keys, func(a, b string) int { return m[b] - m[a] })
	var parts []string
	for _, k := range keys {
		parts = append(parts, clean(k)+": "+chart.Count(m[k]))
	}
	return strings.Join(parts, ", ")
}

// values writes a map of numbers by name: "debit 12.5, credit 12.5".
func values(m map[string]float64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		name, text := quantity(k)
		parts = append(parts, name+" "+text(m[k]))
	}
	return strings.Join(parts, ", ")
}

// command is how to run the same again.
func command(r Report) string {
	what := r.Result.Scenario
	if file := planOf(r.Events).File; file != "" && file != "library/"+r.Result.Scenario+".yaml" {
		what = file
	}
	if what == "" {
		what = "SCENARIO"
	}
	c := "chaosctl run " + shellQuote(clean(what)) + " --seed " + strconv.FormatUint(r.Result.Seed, 10)
	switch r.Result.Variant {
	case "control":
		c += " --control"
	case "sham":
		c += " --sham"
	default:
		if r.Result.Control != nil {
			c += " --control"
		}
	}
	return c
}

// shellQuote keeps a hostile name from becoming a command when it is pasted.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return r == '-' || r == '_' || r == '.' || r == '/' || r == ':' || r == ',' || r == '=' || r == '@' ||
			r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if s != "" && s[0] != '-' && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return chart.Count(n) + " " + many
}

// list joins names the way a sentence does: "a, b and c".
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// aboutRun are the facts about where and when, name and value.
func aboutRun(r Report) [][2]string {
	res, plan := r.Result, planOf(r.Events)
	var all [][2]string
	add := func(name, value string) {
		if value = clean(value); value != "" {
			all = append(all, [2]string{name, value})
		}
	}
	add("scenario", res.Scenario)
	add("file", plan.File)
	add("run", res.Run)
	add("variant", res.Variant)
	add("seed", strconv.FormatUint(res.Seed, 10))
	add("status", res.Status)
	if !res.StartedAt.IsZero() {
		add("started", res.StartedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	add("duration", chart.Seconds(res.DurationS))
	if c := r.Hypotheses.Confidence; c > 0 {
		add("confidence", chart.Share(c)+", each bound one-sided")
	}
	if plan.Timescale > 0 {
		add("timescale", chart.Number(plan.Timescale))
	}
	if len(plan.Rows) > 0 {
		var rows []string
		for _, n := range plan.Rows {
			rows = append(rows, strconv.Itoa(n))
		}
		add("rows", strings.Join(rows, ", "))
	}
	e := res.Environment
	add("chaosctl", e.Chaosctl)
	add("go", e.Go)
	add("machine", strings.Join(nonEmpty(e.OS, e.Arch, cpus(e.CPUs), e.Kernel, e.Hostname), ", "))
	for _, ev := range r.Events {
		if ev.Start != nil {
			add("plan hash", ev.Start.PlanHash)
			break
		}
	}
	add("journal head", res.JournalHead)
	if res.AuditHead != "" {
		add("audit head", res.AuditHead)
	}
	return all
}

func cpus(n int) string {
	if n <= 0 {
		return ""
	}
	return plural(n, "CPU", "CPUs")
}

func nonEmpty(s ...string) []string {
	return slices.DeleteFunc(s, func(s string) bool { return s == "" })
}
