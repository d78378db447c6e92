package reports

import (
	"fmt"
	"io"
	"strings"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// Markdown writes the summary for a pull request: the verdict and the objectives
// in sight, the rest in sections to unfold. It is GitHub's dialect; elsewhere it
// still reads as text.
func Markdown(w io.Writer, r Report) error {
	m := &markdown{}
	res := r.Result
	m.line("## %s %s: %s", mark(res.Verdict), strings.ToUpper(word(res.Verdict)), md(named(res.Scenario, "run")))
	m.line("")
	for i, reason := range allReasons(r) {
		if i == 0 {
			m.line("**%s**", md(reason))
			m.line("")
			continue
		}
		m.line("- %s", md(reason))
	}
	if len(allReasons(r)) > 1 {
		m.line("")
	}
	if c := res.Control; c != nil {
		m.line("%s **control: %s** — %s", mark(pairVerdict(c.Pair)), md(c.Pair), md(pairMeaning(c)))
		m.line("")
	}
	for _, s := range explain(r) {
		m.line("%s", md(s))
	}
	m.line("")
	m.objectives(r)
	m.warnings(r)
	m.breakers(res.Breakers)
	m.invariants(res.Invariants)
	m.faults(r)
	m.slos(res.SLOs)
	m.load(r)
	m.run(r)
	_, err := io.WriteString(w, m.String())
	return err
}

type markdown struct{ strings.Builder }

func (m *markdown) line(format string, args ...any) {
	fmt.Fprintf(m, format, args...)
	m.WriteByte('\n')
}

// row writes one line of a table; its cells are escaped already.
func (m *markdown) row(cells ...string) { m.line("| %s |", strings.Join(cells, " | ")) }

// table writes the head; columns from number on are set to the right.
func (m *markdown) head(number int, cells ...string) {
	m.row(cells...)
	rule := make([]string, len(cells))
	for i := range rule {
		if rule[i] = "---"; i >= number {
			rule[i] = "---:"
		}
	}
	m.row(rule...)
}

func (m *markdown) section(title string, open bool) {
	tag := "<details>"
	if open {
		tag = "<details open>"
	}
	m.line("%s<summary>%s</summary>", tag, title)
	m.line("")
}

func (m *markdown) end() {
	m.line("")
	m.line("</details>")
	m.line("")
}

// mark is a symbol that renderers show in colour; the word stands beside it.
func mark(v verdict.Verdict) string {
	switch v {
	case verdict.Pass:
		return "✅"
	case verdict.Fail:
		return "❌"
	}
	return "❔"
}

func judged(v verdict.Verdict) string { return mark(v) + " " + md(word(v)) }

func (m *markdown) objectives(r Report) {
	if len(r.Result.Objectives) == 0 {
		return
	}
	m.head(4, "verdict", "load", "phase", "objective", "before", "during", "after", "bounds", "n")
	var more []string
	for _, o := range r.Result.Objectives {
		m.row(judged(o.Verdict), md(o.Load), md(o.Phase), clauseMark(o.Objective),
			md(value(o.PerPhase["before"], o.Unit)), md(value(o.PerPhase["during"], o.Unit)), md(value(o.PerPhase["after"], o.Unit)),
			bounds(o), chart.Count(o.Samples))
		if s := needed(o); s != "" {
			more = append(more, md(o.Load+" "+o.Phase+" "+o.Objective)+": "+s)
		}
	}
	m.line("")
	for _, s := range more {
		m.line("- %s", s)
	}
	if len(more) > 0 {
		m.line("")
	}
	m.line("<sub>Bounds are those of the share that is judged: good answers, or answers within the limit.</sub>")
	m.line("")
}

// clauseMark sets a clause as code, and anything else as plain text.
func clauseMark(clause string) string {
	if strings.Trim(clause, "abcdefghijklmnopqrstuvwxyz0123456789 .<>=%/") == "" {
		return "`" + clean(clause) + "`"
	}
	return md(clause)
}

func (m *markdown) warnings(r Report) {
	if len(r.Result.Warnings) == 0 {
		return
	}
	m.line("**Warnings**")
	m.line("")
	for _, w := range r.Result.Warnings {
		m.line("- ⚠️ %s", md(w))
	}
	m.line("")
}

func (m *markdown) breakers(all []verdict.BreakerResult) {
	if len(all) == 0 {
		return
	}
	m.section(summary("Breakers", all, func(b verdict.BreakerResult) verdict.Verdict { return b.Verdict }))
	for _, b := range all {
		m.line("- %s **%s**: %s", judged(b.Verdict), md(b.Edge), md(breakerWords(b)))
		for _, c := range b.Checks {
			m.line("  - %s %s%s", judged(c.Verdict), md(c.Claim), lead(": ", md(c.Detail)))
		}
	}
	m.end()
}

func (m *markdown) invariants(all []verdict.InvariantResult) {
	if len(all) == 0 {
		return
	}
	m.section(summary("Invariants", all, func(i verdict.InvariantResult) verdict.Verdict { return i.Verdict }))
	for _, i := range all {
		m.line("- %s **%s**%s%s", judged(i.Verdict), md(i.Name), lead(": ", md(i.Detail)), lead(" — ", md(values(i.Values))))
	}
	m.end()
}

func (m *markdown) faults(r Report) {
	all := r.Result.Faults
	if len(all) == 0 {
		return
	}
	m.section(summary("Faults: asked and observed", all, func(f verdict.FaultResult) verdict.Verdict {
		v, _ := faultVerdict(r, f)
		return v
	}))
	m.head(3, "positive control", "fault", "asked → observed", "from", "to", "fired")
	for _, f := range all {
		v, seen := faultVerdict(r, f)
		var proof []string
		pairs, _ := positiveControl(f)
		for _, q := range pairs {
			proof = append(proof, md(q.name+" "+q.asked+" → "+q.observed))
		}
		m.row(mark(v)+" "+seen, "**"+md(f.Name)+"** "+md(faultWords(f))+lead("<br>", md(f.Detail)), strings.Join(proof, "<br>"),
			secs(f.InjectedAtS, chart.Missing), secs(f.RevertedAtS, chart.Missing), chart.Count(f.Fired))
	}
	m.end()
}

// summary names a section and its worst verdict; it is open when that is no pass.
func summary[T any](title string, all []T, of func(T) verdict.Verdict) (string, bool) {
	worst := verdict.Pass
	pass := 0
	for _, a := range all {
		switch v := of(a); {
		case v == verdict.Pass:
			pass++
		case v == verdict.Fail || worst == verdict.Fail:
			worst = verdict.Fail
		default:
			worst = verdict.Inconclusive
		}
	}
	return fmt.Sprintf("%s %s (%d of %d)", mark(worst), title, pass, len(all)), worst != verdict.Pass
}

func (m *markdown) load(r Report) {
	if len(r.Result.Load) == 0 {
		return
	}
	m.section("Load and latency", false)
	m.head(1, "load", "due", "sent", "ok", "failed", "queued", "dropped", "late", "p50", "p90", "p95", "p99", "p99.9", "max")
	for _, l := range withSteps(r.Result.Load) {
		cells := []string{md(l.Name)}
		for _, n := range []int{l.Due, l.Sent, l.OK, l.Failed, l.Queued, l.Dropped, l.Late} {
			cells = append(cells, chart.Count(n))
		}
		for _, s := range []float64{l.P50S, l.P90S, l.P95S, l.P99S, l.P999S, l.MaxS} {
			text := chart.Seconds(s)
			if l.OK+l.Failed == 0 {
				text = chart.Missing
			}
			cells = append(cells, text)
		}
		m.row(cells...)
	}
	for _, l := range r.Result.Load {
		if words := wireWords(l); words != "" {
			m.line("")
			m.line("%s: %s", md(l.Name), md(words))
		}
		if l.Sessions != nil {
			m.line("")
			m.line("%s: %s", md(l.Name), md(sessionWords(*l.Sessions)))
		}
	}
	for _, rec := range r.Result.Recovery {
		m.line("")
		m.line("Recovery of %s after the last fault: %s", md(rec.Load), md(recoveryWords(rec)))
	}
	m.end()
}

func (m *markdown) run(r Report) {
	res := r.Result
	m.section("Run", false)
	m.head(2, "", "")
	for _, kv := range aboutRun(r) {
		m.row(md(kv[0]), md(kv[1]))
	}
	m.line("")
	m.line("Again:")
	m.line("")
	fence := "```"
	for strings.Contains(command(r), fence) {
		fence += "`"
	}
	m.line("%ssh", fence)
	m.line("%s", command(r))
	m.line("%s", fence)
	if c := res.Control; c != nil {
		m.line("")
		m.line("Control run: %s; must fail: %s; failed: %s%s", md(word(c.Verdict)), md(orNone(c.MustFail)), md(orNone(c.Failed)), lead("; ", md(c.Detail)))
	}
	m.end()
}

// md makes text from outside plain text in Markdown: no tags, no links, no
// tables, and no person or team called by an "@".
func md(s string) string {
	var b strings.Builder
	for _, r := range clean(s) {
		switch r {
		case '&':
			b.WriteString("&amp;")
		case '<':
			b.WriteString("&lt;")
		case '>':
			b.WriteString("&gt;")
		case '@':
			b.WriteString("@<!-- -->")
		case '\\', '`', '*', '_', '[', ']', '|', '~', '#', '!':
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
