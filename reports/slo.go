package reports

import (
	"fmt"
	"math"
	"time"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// sloWords say what the incident cost.
func sloWords(s verdict.SLOResult) string {
	var words string
	switch {
	case s.Spent != nil:
		words = fmt.Sprintf("spent %s of the error budget: %s of %s; %s of %s bad since the first fault",
			chart.Share(*s.Spent), long(*s.SpentS), long(s.BudgetS), chart.Count(s.Bad), plural(s.Samples, "request", "requests"))
	case s.Note != "":
		words = clean(s.Note)
	default:
		words = "nothing was due since the first fault"
	}
	if s.Peak != nil {
		words += fmt.Sprintf("; burn rate at most %s (over %s)", chart.Number(*s.Peak), chart.Seconds(s.BurnWindowS))
	}
	return words
}

// SLOLines say per SLO what the incident cost and which alerts would have fired, one line each.
func SLOLines(all []verdict.SLOResult) (lines []string) {
	for _, s := range all {
		lines = append(lines, fmt.Sprintf("slo %s, %s: %s (%s)", clean(s.Name), clean(s.Objective), sloWords(s), scaleWords(s)))
		for _, a := range s.Alerts {
			lines = append(lines, fmt.Sprintf("slo %s, %s: %s", clean(s.Name), alertName(a), alertWords(a, s)))
		}
	}
	return lines
}

// scaleWords say how the windows fit into the run.
func scaleWords(s verdict.SLOResult) string {
	if s.Scale == 1 {
		return "one second of the run is one second of the SLO"
	}
	return fmt.Sprintf("one second of the run stands for %s of the SLO, and every window is divided by %s", long(s.Scale), chart.Number(s.Scale))
}

// alertName is an alert in a few words: "page, burn rate 14.4 over 1h and 5m".
func alertName(a verdict.AlertResult) string {
	text := fmt.Sprintf("%s, burn rate %s over %s", short(a.Severity, 16), chart.Number(a.Burn), long(a.LongS))
	if a.ShortS != a.LongS {
		text += " and " + long(a.ShortS)
	}
	if a.AfterS > 0 {
		text += ", for " + long(a.AfterS)
	}
	return text
}

// alertWords say whether it would have fired, and when.
func alertWords(a verdict.AlertResult, s verdict.SLOResult) string {
	if a.FiredAtS == nil {
		switch {
		case a.Note != "":
			return "not evaluated: " + clean(a.Note)
		case a.NeedsS != nil:
			return fmt.Sprintf("would not have fired; the faults would have to go on for %s in all", long(*a.NeedsS))
		case s.FromS != nil:
			return "would not have fired, however long the faults went on"
		}
		return "would not have fired"
	}
	words := "would have fired at " + chart.Seconds(*a.FiredAtS)
	if a.FiredAfterS != nil {
		words = fmt.Sprintf("would have fired %s after the first fault", chart.Seconds(*a.FiredAfterS))
		if *a.FiredAfterS < 0 {
			words = fmt.Sprintf("would have fired %s before the first fault", chart.Seconds(-*a.FiredAfterS))
		}
		if s.Scale != 1 {
			words += fmt.Sprintf(" (%s on the SLO's clock)", long(math.Abs(*a.FiredAfterSLOS)))
		}
	}
	switch {
	case a.ResetAtS == nil:
		words += lead(", ", clean(a.Note))
	case a.ResetBeyond:
		words += fmt.Sprintf(", and reset at %s, behind the end of the run, if the steady state went on", chart.Seconds(*a.ResetAtS))
	default:
		words += ", and reset at " + chart.Seconds(*a.ResetAtS)
	}
	if a.Times > 1 {
		words += fmt.Sprintf(" (fired %d times)", a.Times)
	}
	return words
}

// long writes seconds as people say hours and days: 43m12s, 30d, 90s.
func long(s float64) string {
	if s < 60 {
		return chart.Seconds(s)
	}
	d := time.Duration(s * float64(time.Second)).Round(time.Second)
	var words string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.unit; n > 0 {
			words += fmt.Sprintf("%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	return words
}

// sloMark is the symbol and class of an SLO: one of which nothing is claimed is no pass and no fail.
func sloMark(v verdict.Verdict) string {
	if v == "" {
		return "·"
	}
	return symbol(v) + " " + word(v)
}

func (t *text) slos(all []verdict.SLOResult) {
	if len(all) == 0 {
		return
	}
	t.heading("ERROR BUDGETS, as this one incident spends them")
	for _, s := range all {
		code := ""
		if s.Verdict != "" {
			code = paintOf(s.Verdict)
		}
		t.item("  "+sloMark(s.Verdict)+" ", code, short(s.Name, 30)+", "+clean(s.Objective)+": "+sloWords(s))
		t.item("      ", faint, scaleWords(s))
		for _, a := range s.Alerts {
			t.item("      ", "", alertName(a)+": "+alertWords(a, s))
		}
		for _, c := range s.Checks {
			t.item("      "+symbol(c.Verdict)+" "+word(c.Verdict)+" ", paintOf(c.Verdict), clean(c.Claim)+lead(": ", clean(c.Detail)))
		}
	}
}

func (m *markdown) slos(all []verdict.SLOResult) {
	if len(all) == 0 {
		return
	}
	m.section("Error budgets", false)
	for _, s := range all {
		state := ""
		if s.Verdict != "" {
			state = judged(s.Verdict) + " "
		}
		m.line("- %s**%s**, %s: %s", state, md(s.Name), md(s.Objective), md(sloWords(s)))
		m.line("  - %s", md(scaleWords(s)))
		for _, a := range s.Alerts {
			m.line("  - %s: %s", md(alertName(a)), md(alertWords(a, s)))
		}
		for _, c := range s.Checks {
			m.line("  - %s %s%s", judged(c.Verdict), md(c.Claim), lead(": ", md(c.Detail)))
		}
	}
	m.end()
}

// slos are the budgets, the alerts, and the burn rate over time.
func (p *page) slos(r Report) (string, []part) {
	var parts []part
	for i, s := range r.Result.SLOs {
		parts = append(parts, part{Heading: sloMark(s.Verdict) + " " + clean(s.Name) + ": " + clean(s.Objective), Text: sentence(sloWords(s) + "; " + scaleWords(s))})
		checks := &table{Class: "stack", Head: columnsOf("verdict", "claim", "observed")}
		for _, c := range s.Checks {
			checks.Rows = append(checks.Rows, []cell{{Text: symbol(c.Verdict) + " " + word(c.Verdict), Class: class(c.Verdict)}, {Text: clean(c.Claim)}, {Text: orMissing(clean(c.Detail))}})
		}
		parts = append(parts, tablePart(checks)...)
		alerts := &table{Class: "stack", Caption: "Multi-window, multi-burn-rate alerts, evaluated on what was known at each moment.", Head: columnsOf("alert", "would it have fired?", "#highest, long", "#highest, short")}
		for _, a := range s.Alerts {
			alerts.Rows = append(alerts.Rows, []cell{{Text: clean(alertName(a))}, {Text: alertWords(a, s)}, num(highest(a.PeakLong)), num(highest(a.PeakShort))})
		}
		parts = append(parts, tablePart(alerts)...)
		if len(s.Burn) == 0 {
			continue
		}
		series := chart.Series{Name: "burn rate", Color: chart.Orange, Stroke: 2}
		numbers := &table{Caption: "Burn rate of the error budget.", Fold: "The numbers of this chart", Scroll: true, Head: columnsOf("until", "#burn rate")}
		for _, b := range s.Burn {
			series.Points = append(series.Points, chart.Point{X: b.AtS, Y: b.Burn})
			numbers.Rows = append(numbers.Rows, []cell{{Text: chart.Clock(round(b.AtS, 3))}, num(chart.Number(b.Burn))})
		}
		plot := chart.Plot{
			Title: "Burn rate of " + clean(s.Name) + " over time", Desc: sentence(sloWords(s)),
			Height: 170, X: p.x, Y: chart.Axis{Label: "burn rate", Format: chart.TickNumber},
			Phases: p.seen.phases, Bands: p.seen.bands, Series: []chart.Series{series}, Empty: "nothing was known",
		}
		caption := fmt.Sprintf("Over the %s before each moment; 1 spends the whole budget in the window of the objective.", chart.Seconds(s.BurnWindowS))
		parts = append(parts, part{Figure: both(plot, fmt.Sprintf("slo%d", i), caption)}, part{Table: numbers})
	}
	return "What this incident would cost if it happened once in the window of the objective. These are counts of one incident, without bounds.", parts
}

func highest(v *float64) string {
	if v == nil {
		return chart.Missing
	}
	return chart.Number(*v)
}
