package reports

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// comparison is what a comparison, a noise floor and a series of repeats look
// like to a reader: a word, the reasons for it, tables, notes. Every format shows the same.
type comparison struct {
	title   string
	word    string          // regressed, noise, pass …
	verdict verdict.Verdict // how it is coloured, and what it means to CI
	reasons []string
	facts   []string
	head    []string
	rows    []comparedRow
	notes   []string
}

// comparedRow is a line of the table, and a test case.
type comparedRow struct {
	verdict verdict.Verdict
	name    string // of the test case
	cells   []string
	note    string
}

// ComparisonText, …JSON, …Markdown, …JUnit and …HTML write a comparison of two sides.
func ComparisonText(w io.Writer, c verdict.Comparison, o TextOptions) error {
	return compared(c).text(w, o)
}
func ComparisonJSON(w io.Writer, c verdict.Comparison) error     { return indented(w, c) }
func ComparisonJUnit(w io.Writer, c verdict.Comparison) error    { return compared(c).junit(w) }
func ComparisonHTML(w io.Writer, c verdict.Comparison) error     { return compared(c).html(w) }
func ComparisonMarkdown(w io.Writer, c verdict.Comparison) error { return compared(c).markdown(w) }

// NoiseText, …JSON, …Markdown, …JUnit and …HTML write a noise floor.
func NoiseText(w io.Writer, n verdict.NoiseFloor, o TextOptions) error { return floor(n).text(w, o) }
func NoiseJSON(w io.Writer, n verdict.NoiseFloor) error                { return indented(w, n) }
func NoiseJUnit(w io.Writer, n verdict.NoiseFloor) error               { return floor(n).junit(w) }
func NoiseHTML(w io.Writer, n verdict.NoiseFloor) error                { return floor(n).html(w) }
func NoiseMarkdown(w io.Writer, n verdict.NoiseFloor) error            { return floor(n).markdown(w) }

// RepeatText, …JSON, …Markdown, …JUnit and …HTML write what several runs of one scenario show.
func RepeatText(w io.Writer, r verdict.RepeatResult, o TextOptions) error {
	return repeated(r).text(w, o)
}
func RepeatJSON(w io.Writer, r verdict.RepeatResult) error     { return indented(w, r) }
func RepeatJUnit(w io.Writer, r verdict.RepeatResult) error    { return repeated(r).junit(w) }
func RepeatHTML(w io.Writer, r verdict.RepeatResult) error     { return repeated(r).html(w) }
func RepeatMarkdown(w io.Writer, r verdict.RepeatResult) error { return repeated(r).markdown(w) }

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// verdictOf says what an outcome means to whoever waits for a yes or no.
func verdictOf(o verdict.Outcome) verdict.Verdict {
	switch o {
	case verdict.Regressed:
		return verdict.Fail
	case verdict.Undecided:
		return verdict.Inconclusive
	}
	return verdict.Pass
}

func compared(c verdict.Comparison) comparison {
	out := comparison{
		title: c.Scenario, word: string(c.Outcome), verdict: verdictOf(c.Outcome), reasons: c.Reasons, notes: c.Notes,
		head: []string{"stream, phase, metric", "A", "B", "difference", "bounds", "margin", "outcome"},
		facts: []string{
			sideWords("A", c.A), sideWords("B", c.B),
			fmt.Sprintf("bounds at %s confidence each; a difference counts from %s (and %s of the bad) or %s (and %s of the median) on",
				chart.Share(c.Confidence), points(c.Margins.Share), chart.Share(c.Margins.ShareRatio), chart.Seconds(c.Margins.Latency.Seconds()), chart.Share(c.Margins.LatencyRatio)),
		},
	}
	for _, d := range c.Differs {
		out.facts = append(out.facts, "differs: "+d)
	}
	for _, d := range c.Rows {
		name := d.Load + ", " + d.Phase + ", " + d.Metric
		note := d.Note
		if d.Superiority != nil {
			text := fmt.Sprintf("a request of B is slower with probability %s", chart.Number(round(*d.Superiority, 3)))
			if d.SuperiorityLow != nil {
				text += fmt.Sprintf(" (%s to %s)", chart.Number(round(*d.SuperiorityLow, 3)), chart.Number(round(*d.SuperiorityHigh, 3)))
			}
			note = lines1(text, note)
		}
		out.rows = append(out.rows, comparedRow{verdictOf(d.Outcome), name, []string{
			name, inUnit(d.A, d.Unit), inUnit(d.B, d.Unit), signed(d.Difference, d.Unit), between(d), marginWords(d.Margin, d.Unit), string(d.Outcome),
		}, note})
	}
	return out
}

func sideWords(letter string, s verdict.SideResult) string {
	if len(s.Runs) == 1 {
		return fmt.Sprintf("%s: %s (run %s)", letter, s.Name, s.Runs[0])
	}
	return fmt.Sprintf("%s: %s (%d runs)", letter, s.Name, len(s.Runs))
}

func floor(n verdict.NoiseFloor) comparison {
	out := comparison{
		title: n.Scenario, word: "noise floor", verdict: verdictOf(n.Outcome), reasons: n.Reasons, notes: n.Notes,
		head:  []string{"stream, phase, metric", "typical", "largest", "margin", "pairs", "false alarms", "undecided"},
		facts: []string{fmt.Sprintf("%s of one build, %s", plural(len(n.Runs), "run", "runs"), plural(n.Pairs, "pair", "pairs"))},
	}
	if len(out.reasons) == 0 {
		out.reasons = []string{"Equal runs are not called different with this margin."}
	}
	for _, r := range n.Rows {
		name := r.Load + ", " + r.Phase + ", " + r.Metric
		v := verdict.Pass
		if r.FalseAlarms > 0 {
			v = verdict.Fail
		}
		out.rows = append(out.rows, comparedRow{v, name, []string{name, marginWords(r.Typical, r.Unit), marginWords(r.Largest, r.Unit), marginWords(r.Margin, r.Unit),
			fmt.Sprint(r.Pairs), fmt.Sprint(r.FalseAlarms), fmt.Sprint(r.Undecided)}, ""})
	}
	return out
}

func repeated(r verdict.RepeatResult) comparison {
	out := comparison{
		title: r.Scenario, word: word(r.Verdict), verdict: r.Verdict, reasons: r.Reasons, notes: r.Notes,
		head: []string{"claim", "pass", "fail", "inconclusive", "holds in", "lowest", "median", "highest"},
	}
	out.facts = append(out.facts, fmt.Sprintf("%d of %s asked for", len(r.Runs), plural(r.Asked, "run", "runs")))
	for _, run := range r.Runs {
		words := fmt.Sprintf("%s: %s, seed %d", run.Folder, word(run.Verdict), run.Seed)
		if run.Status != "completed" {
			words += ", " + run.Status
		}
		out.facts = append(out.facts, words+lead(": ", run.Reason))
		out.rows = append(out.rows, comparedRow{run.Verdict, "run " + run.Folder, nil, run.Reason})
	}
	for _, c := range r.Claims {
		v := verdict.Pass
		switch {
		case c.Fail > 0:
			v = verdict.Fail
		case c.Inconclusive > 0:
			v = verdict.Inconclusive
		}
		cells := []string{c.Claim, fmt.Sprint(c.Pass), fmt.Sprint(c.Fail), fmt.Sprint(c.Inconclusive), holdsIn(c), inUnit(c.Least, c.Unit), inUnit(c.Median, c.Unit), inUnit(c.Most, c.Unit)}
		out.rows = append(out.rows, comparedRow{v, c.Claim, cells, ""})
	}
	return out
}

// holdsIn bounds the share of runs in which a claim holds.
func holdsIn(c verdict.RepeatedClaim) string {
	if c.Low == nil {
		return "-"
	}
	return chart.Share(*c.Low) + " to " + chart.Share(*c.High) + " of runs"
}

// points writes a difference of shares: 0.5 pp.
func points(x float64) string { return chart.Number(round(100*x, 3)) + " pp" }

func marginWords(x float64, unit string) string {
	if unit == "s" {
		return chart.Seconds(x)
	}
	return points(x)
}

func inUnit(v *float64, unit string) string {
	switch {
	case v == nil:
		return "-"
	case unit == "s":
		return chart.Seconds(*v)
	}
	return chart.Share(*v)
}

func signed(v *float64, unit string) string {
	if v == nil {
		return "-"
	}
	sign := "+"
	if *v < 0 {
		sign = "-"
	}
	return sign + marginWords(math.Abs(*v), unit)
}

func between(d verdict.Difference) string {
	if d.Low == nil && d.High == nil {
		return "none"
	}
	return signed(d.Low, d.Unit) + " to " + signed(d.High, d.Unit)
}

// text writes the word and its reasons, the facts, each row in two lines, the notes.
func (c comparison) text(w io.Writer, o TextOptions) error {
	t := &text{width: o.Width, color: o.Color}
	if t.width <= 0 {
		t.width = 80
	}
	t.width = max(t.width, 40)
	first := symbol(c.verdict) + " " + strings.ToUpper(c.word) + "  "
	t.item(first, paintOf(c.verdict), clean(c.title))
	for _, r := range c.reasons {
		t.item("  ", "", clean(r))
	}
	for _, f := range c.facts {
		t.item("  ", "", clean(f))
	}
	for _, r := range c.rows {
		if r.cells == nil {
			continue
		}
		t.WriteString("\n")
		t.item(symbol(r.verdict)+" ", paintOf(r.verdict), clean(r.cells[0]))
		var words []string
		for i, cell := range r.cells[1:] {
			words = append(words, c.head[i+1]+" "+cell)
		}
		t.item("  ", "", clean(strings.Join(words, ", ")))
		if r.note != "" {
			t.item("  ", "", clean(r.note))
		}
	}
	if len(c.notes) > 0 {
		t.heading("Notes")
		for _, n := range c.notes {
			t.item("- ", "", clean(n))
		}
	}
	if o.Folder != "" {
		t.heading("Files")
		t.item("  ", "", o.Folder)
	}
	_, err := io.WriteString(w, t.String())
	return err
}

func (c comparison) junit(w io.Writer) error {
	s := junitSuite{Name: named(c.title, "chaosctl"), Time: "0"}
	for _, f := range c.facts {
		if name, value, ok := strings.Cut(f, ": "); ok {
			s.Properties = append(s.Properties, junitProperty{clean(name), printable(value)})
		}
	}
	add := func(name string, v verdict.Verdict, detail string) {
		s.add("chaosctl."+named(c.title, "compare"), name, v, detail, detail)
	}
	add(c.word, c.verdict, strings.Join(c.reasons, " "))
	for _, r := range c.rows {
		var words []string
		for i := 1; i < len(r.cells); i++ {
			words = append(words, c.head[i]+" "+r.cells[i])
		}
		add(r.name, r.verdict, lines1(strings.Join(words, ", "), r.note))
	}
	all := junitSuites{Name: "chaosctl", Tests: s.Tests, Failures: s.Failures, Errors: s.Errors, Time: s.Time, Suites: []junitSuite{s}}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("encode JUnit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (c comparison) markdown(w io.Writer) error {
	m := &markdown{}
	m.line("## %s %s: %s", mark(c.verdict), strings.ToUpper(c.word), md(c.title))
	m.line("")
	for _, text := range append(cleaned(c.reasons), c.facts...) {
		m.line("- %s", md(text))
	}
	m.line("")
	m.head(len(c.head)+2, append(append([]string{""}, c.head...), "note")...)
	for _, r := range c.rows {
		if r.cells == nil {
			continue
		}
		cells := []string{mark(r.verdict)}
		for _, text := range append(append([]string{}, r.cells...), r.note) {
			cells = append(cells, md(text))
		}
		m.row(cells...)
	}
	if len(c.notes) > 0 {
		m.line("")
	}
	for _, n := range c.notes {
		m.line("- %s", md(n))
	}
	_, err := io.WriteString(w, m.String())
	return err
}

// html is the page of a run with other sections.
func (c comparison) html(w io.Writer) error {
	style := chart.CSS + pageStyle
	p := &page{
		Policy: "default-src 'none'; base-uri 'none'; form-action 'none'; style-src '" + hashOf(style) + "'; script-src '" + hashOf(pageScript) + "'",
		Style:  template.CSS(style), Script: template.JS(pageScript),
		Symbol: symbol(c.verdict), Word: strings.ToUpper(c.word), Class: class(c.verdict),
		Scenario: named(c.title, "comparison"), Reasons: cleaned(c.reasons), Facts: cleaned(c.facts), Warnings: cleaned(c.notes),
	}
	body := &table{Head: columnsOf(append([]string{""}, append(c.head, "note")...)...)}
	for _, r := range c.rows {
		if r.cells == nil {
			continue
		}
		line := []cell{{Text: symbol(r.verdict), Class: class(r.verdict)}}
		for _, text := range r.cells {
			line = append(line, cell{Text: clean(text)})
		}
		body.Rows = append(body.Rows, append(line, cell{Text: clean(r.note)}))
	}
	p.Sections = []section{{ID: "rows", Title: "In numbers", Parts: tablePart(body)}}
	if err := pageTemplate.Execute(w, p); err != nil {
		return fmt.Errorf("render the comparison: %w", err)
	}
	return nil
}

func cleaned(texts []string) []string {
	var all []string
	for _, t := range texts {
		all = append(all, clean(t))
	}
	return all
}
