package reports

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/reports/chart"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

var (
	//go:embed page.gohtml
	pageSource string
	//go:embed page.css
	pageStyle string
	//go:embed page.js
	pageScript string

	pageTemplate = template.Must(template.New("page").Parse(pageSource))
)

// HTML writes one self-contained page: verdict and explanation, objectives with
// their bounds, faults with asked and observed, and the charts with the tables
// behind them. It loads nothing from anywhere, and its Content-Security-Policy
// forbids it to: of scripts and styles, only the page's own bytes may act, by
// their hash. Without scripts, all of it is there; they add a read-out.
func HTML(w io.Writer, r Report) error {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, newPage(r)); err != nil {
		return fmt.Errorf("render the report of run %q: %w", r.Result.Run, err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// page is what the template fills in. Strings in it are escaped by the template;
// template.HTML is only what package chart has drawn and escaped.
type page struct {
	Policy              string
	Style               template.CSS
	Script              template.JS
	Symbol, Word, Class string
	Scenario, Variant   string
	Description         string
	Reasons, Explain    []string
	Pair                *pairLine
	Facts               []string
	Aborts, Warnings    []string
	Sections            []section
	seen                evidence
	x                   chart.Axis
	limits              map[string][]chart.Limit // by load
}

type pairLine struct{ Symbol, Word, Class, Text string }

type section struct {
	ID, Title, Lead string
	Parts           []part
}

// part is one piece of a section; the fields that are set are shown, in this order.
type part struct {
	Heading, Text string
	Figure        *figure
	Grid          []figure
	Table         *table
	List          []moment
	Code          string
	Fold          *fold
}

// figure is a chart, drawn twice where it is large: a phone shows the narrow one.
type figure struct {
	Wide, Narrow     template.HTML
	Readout, Caption string
}

type table struct {
	Caption, Class string
	Head           []column
	Rows           [][]cell
	Fold           string // the line to unfold it; empty: in sight
	Open           bool
	Scroll         bool // too wide for a phone: scrolls within itself
}

type column struct {
	Text   string
	Number bool
}

type cell struct {
	Text, More, Class string
	Picture           template.HTML
}

type moment struct {
	When, What, Class string
	Log               []string
}

type fold struct{ Summary, Text string }

const (
	wideWidth   = 760.0
	narrowWidth = 360.0
	smallWidth  = 330.0
)

func newPage(r Report) *page {
	res := r.Result
	style := chart.CSS + pageStyle
	p := &page{
		Policy: "default-src 'none'; base-uri 'none'; form-action 'none'; style-src '" + hashOf(style) + "'; script-src '" + hashOf(pageScript) + "'",
		Style:  template.CSS(style), Script: template.JS(pageScript),
		Symbol: symbol(res.Verdict), Word: strings.ToUpper(word(res.Verdict)), Class: class(res.Verdict),
		Scenario: named(res.Scenario, "run"), Variant: clean(res.Variant),
		Explain: explain(r),
		seen:    gather(r, 150, roundWidth),
		limits:  map[string][]chart.Limit{},
	}
	p.Reasons = allReasons(r)
	p.Description = clean(r.Description)
	if p.Description == "" {
		p.Description = clean(p.seen.plan.Description)
	}
	if c := res.Control; c != nil {
		v := pairVerdict(c.Pair)
		text := strings.TrimSuffix(pairMeaning(c), ".") + ". Must fail: " + orNone(c.MustFail) + "; failed: " + orNone(c.Failed)
		if c.Detail != "" && clean(c.Detail) != pairMeaning(c) {
			text += "; " + clean(c.Detail)
		}
		p.Pair = &pairLine{symbol(v), clean(c.Pair), class(v), strings.TrimSuffix(text, ".") + "."}
	}
	status := named(res.Status, "status unknown")
	p.Facts = append(p.Facts, status, fmt.Sprintf("seed %d", res.Seed), chart.Seconds(res.DurationS))
	if s := p.seen.plan.Timescale; s > 0 && s != 1 {
		p.Facts = append(p.Facts, "timescale "+chart.Number(s))
	}
	if !res.StartedAt.IsZero() {
		p.Facts = append(p.Facts, res.StartedAt.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	if res.Run != "" {
		p.Facts = append(p.Facts, "run "+clean(res.Run))
	}
	for _, ev := range p.seen.aborts {
		p.Aborts = append(p.Aborts, "at "+moments(ev.At)+": "+clean(ev.Abort.Reason))
	}
	for _, ev := range r.Events {
		if ev.End != nil && ev.End.Error != "" {
			p.Aborts = append(p.Aborts, clean(ev.End.Error))
		}
	}
	for _, w := range res.Warnings {
		p.Warnings = append(p.Warnings, clean(w))
	}
	for _, ev := range p.seen.marks {
		if ev.Mark.Warning && !slices.Contains(res.Warnings, ev.Mark.Text) {
			p.Warnings = append(p.Warnings, "at "+moments(ev.At)+": "+clean(ev.Mark.Text))
		}
	}
	if n := p.seen.unreadable; n > 0 {
		p.Warnings = append(p.Warnings, plural(n, "histogram", "histograms")+" of the journal could not be read; the charts lack them.")
	}
	p.x = chart.Axis{Min: 0, Max: p.seen.end, Format: chart.Clock}
	p.placeLimits(r)

	for _, s := range []struct {
		id, title string
		build     func(Report) (lead string, parts []part)
	}{
		{"objectives", "Objectives", p.objectives},
		{"faults", "Faults", p.faults},
		{"latency", "Latency over time", p.latency},
		{"throughput", "Throughput and errors", p.throughput},
		{"breakers", "Breakers", p.breakers},
		{"invariants", "Invariants", p.invariants},
		{"slos", "Error budgets", p.slos},
		{"percentiles", "Percentiles by phase", p.percentiles},
		{"edges", "Calls per edge", p.edgeCalls},
		{"delay", "Added delay", p.addedDelay},
		{"load", "Load", p.load},
		{"events", "What happened", p.happenings},
		{"exemplars", "Slow and failed requests", p.exemplars},
		{"reproduce", "Run it again", p.reproduce},
	} {
		// A section without anything to show is left out.
		if lead, parts := s.build(r); len(parts) > 0 {
			p.Sections = append(p.Sections, section{s.id, s.title, lead, parts})
		}
	}
	return p
}

// hashOf is the source expression by which a policy allows exactly these bytes.
func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// placeLimits puts every latency objective on the clock, where it is judged.
func (p *page) placeLimits(r Report) {
	for _, o := range r.Hypotheses.Objectives {
		if o.Clause.Metric != expect.Percentile {
			continue
		}
		for _, ph := range r.Hypotheses.Phases {
			if ph.Name != o.Phase {
				continue
			}
			from, to := ph.Start, ph.End
			switch o.Phase {
			case "during":
				from += o.Settle
			case "after":
				from += o.Recovery
			}
			l := chart.Limit{From: from.Seconds(), To: min(to.Seconds(), p.seen.end), Y: o.Clause.Limit.Seconds(), Label: clean(o.Clause.String())}
			if l.From < l.To {
				p.limits[o.Load] = append(p.limits[o.Load], l)
			}
		}
	}
}

func (p *page) objectives(r Report) (string, []part) {
	t := &table{Caption: "Bounds are those of the share that is judged: good answers, or answers within the limit. The line in the picture is the share to reach. A request that failed counts as slow.", Class: "stack objectives"}
	t.Head = columnsOf("verdict", "load", "objective", "#before", "#during", "#after", "judged share", "#bounds", "#n")
	for i, o := range r.Result.Objectives {
		row := []cell{
			{Text: symbol(o.Verdict) + " " + word(o.Verdict), Class: class(o.Verdict)},
			{Text: clean(o.Load)},
			{Text: clean(o.Phase) + ": " + clean(o.Objective), More: lines1(needed(o), clean(o.Note))},
		}
		for _, phase := range []string{"before", "during", "after"} {
			c := cell{Text: value(o.PerPhase[phase], o.Unit), Class: "n"}
			if phase == o.Phase {
				c.Class = "n focus"
			}
			row = append(row, c)
		}
		bar := chart.Interval{
			ID: fmt.Sprintf("o%d", i), Low: number(o.Low), High: number(o.High), Estimate: number(o.Estimate), Target: o.Target, Color: color(o.Verdict),
			Title: fmt.Sprintf("%s: %s, bounds %s, target %s", word(o.Verdict), share(o.Estimate, o.Target), bounds(o), chart.Share(o.Target)),
		}
		row = append(row, cell{Picture: bar.SVG(), Class: "picture"},
			cell{Text: bounds(o), More: "target " + chart.Share(o.Target), Class: "n"},
			cell{Text: chart.Count(o.Samples), Class: "n", More: effective(o)})
		t.Rows = append(t.Rows, row)
	}
	parts := tablePart(t)
	if len(r.Result.Recovery) > 0 {
		rt := &table{Caption: "How long after the last fault every clause of “after” held for good.", Class: "stack", Head: columnsOf("load", "recovery")}
		for _, rec := range r.Result.Recovery {
			rt.Rows = append(rt.Rows, []cell{{Text: clean(rec.Load)}, {Text: recoveryWords(rec)}})
		}
		parts = append(parts, part{Heading: "Recovery", Table: rt})
	}
	return "", parts
}

// effective is the number of independent samples, where it is another.
func effective(o verdict.ObjectiveResult) string {
	if o.EffectiveSamples <= 0 || math.Abs(o.EffectiveSamples-float64(o.Samples)) < 0.5 {
		return ""
	}
	return "worth " + chart.Number(o.EffectiveSamples)
}

func (p *page) faults(r Report) (string, []part) {
	if len(r.Result.Faults) == 0 {
		return "", []part{{Text: "No fault was part of this run."}}
	}
	lead := "The positive control: what was asked of each fault, and what was seen of it where it acts. A fault that was not observed makes the run inconclusive, whatever else it shows."
	if r.Hypotheses.Sham {
		lead = "A sham run: these faults were left out on purpose."
	}
	t := &table{Class: "stack", Head: columnsOf("control", "fault", "quantity: asked → observed", "#from", "#to", "#fired", "reverted")}
	for _, f := range r.Result.Faults {
		v, seen := faultVerdict(r, f)
		var proof []string
		pairs, more := positiveControl(f)
		for _, m := range pairs {
			proof = append(proof, m.name+": "+m.asked+" → "+m.observed)
		}
		words, ok := reverted(f)
		back := cell{Text: orMissing(words)}
		if !ok {
			back = cell{Text: "✗ " + words, Class: "fail"}
		}
		t.Rows = append(t.Rows, []cell{
			{Text: symbol(v) + " " + seen, Class: class(v)},
			{Text: clean(f.Name), More: lines1(faultWords(f), clean(f.Detail))},
			{Text: orMissing(strings.Join(proof, "; ")), More: strings.Join(more, ", ")},
			{Text: secs(f.InjectedAtS, chart.Missing), Class: "n"},
			{Text: secs(f.RevertedAtS, chart.Missing), Class: "n"},
			{Text: chart.Count(f.Fired), Class: "n"},
			back,
		})
	}
	return lead, tablePart(t)
}

func (p *page) latency(r Report) (string, []part) {
	var parts []part
	for i, l := range p.seen.loads {
		series := []chart.Series{
			{Name: "p50", Color: chart.Blue, Stroke: 2},
			{Name: "p95", Color: chart.Orange, Stroke: 2, Dash: "7 2"},
			{Name: "p99", Color: chart.Purple, Stroke: 1.6, Dash: "2 2"},
		}
		t := &table{Caption: "Latency percentiles by the time requests were due.", Fold: "The numbers of this chart", Scroll: true,
			Head: columnsOf("due", "#p50", "#p95", "#p99", "#due", "#ok", "#failed")}
		var readouts []chart.Readout
		for _, b := range l.buckets {
			at := b.from + p.seen.bucket/2
			for s, v := range []float64{b.p50, b.p95, b.p99} {
				series[s].Points = append(series[s].Points, chart.Point{X: at, Y: v})
			}
			if b.due == 0 && b.ok+b.failed == 0 {
				continue
			}
			readouts = append(readouts, chart.Readout{From: b.from, To: b.from + p.seen.bucket,
				Text: fmt.Sprintf("%s: p50 %s, p95 %s, p99 %s of %s", span(b.from, p.seen.bucket), among(b.p50), among(b.p95), among(b.p99), plural(b.ok+b.failed, "request", "requests"))})
			t.Rows = append(t.Rows, []cell{{Text: chart.Clock(round(b.from, 3))}, num(among(b.p50)), num(among(b.p95)), num(among(b.p99)),
				num(chart.Count(b.due)), num(chart.Count(b.ok)), num(chart.Count(b.failed))})
		}
		plot := chart.Plot{
			Title: "Latency of " + clean(l.name) + " over time", Desc: p.latencyDesc(r, l),
			Height: 250, X: p.x, Y: chart.Axis{Label: "latency, done − due (log scale)", Log: true, Format: chart.TickSeconds},
			Phases: p.seen.phases, Bands: p.seen.bands, Limits: p.limits[l.name], Series: series, Readouts: readouts,
			Empty: "no request was finished",
		}
		caption := fmt.Sprintf("Percentiles per %s. A failed request counts as slower than any other; ▲ at the upper edge: the percentile falls among them.", chart.Clock(p.seen.bucket))
		parts = append(parts, part{Heading: p.heading(l.name), Figure: both(plot, fmt.Sprintf("lat%d", i), caption)})
		if len(t.Rows) > 0 {
			parts = append(parts, part{Table: t})
		}
	}
	return "", parts
}

// heading names a load where there is more than one.
func (p *page) heading(load string) string {
	if len(p.seen.loads) < 2 {
		return ""
	}
	return clean(load)
}

// latencyDesc says in words what the chart shows.
func (p *page) latencyDesc(r Report, l loadEvidence) string {
	s := fmt.Sprintf("Lines of the 50th, 95th and 99th percentile over %s.", chart.Seconds(p.seen.end))
	for _, ph := range l.byPhase {
		s += fmt.Sprintf(" In %s: p50 %s, p95 %s, p99 %s.", ph.phase,
			among(quantile(ph.ok, ph.failed, 0.5)), among(quantile(ph.ok, ph.failed, 0.95)), among(quantile(ph.ok, ph.failed, 0.99)))
	}
	for _, b := range p.seen.bands {
		s += fmt.Sprintf(" Fault %s from %s to %s.", b.Label, chart.Clock(round(b.From, 1)), chart.Clock(round(b.To, 1)))
	}
	return s
}

func (p *page) throughput(r Report) (string, []part) {
	var parts []part
	for i, l := range p.seen.loads {
		ok := chart.Series{Name: "ok", Style: chart.Area, Color: chart.Good, Width: p.seen.bucket}
		failed := chart.Series{Name: "failed", Style: chart.Area, Color: chart.Bad, Width: p.seen.bucket}
		due := chart.Series{Name: "offered (due)", Style: chart.Step, Color: chart.Grey, Width: p.seen.bucket, Stroke: 1.6, Dash: "5 3"}
		t := &table{Caption: "Requests by the time they were due, per second.", Fold: "The numbers of this chart", Scroll: true,
			Head: columnsOf("due", "#offered", "#ok", "#failed", "#queued", "#dropped", "#late")}
		var readouts []chart.Readout
		var total loadBucket
		for _, b := range l.buckets {
			if b.due == 0 && b.ok+b.failed == 0 || b.width < p.seen.bucket/4 {
				nan := chart.Point{X: b.from, Y: math.NaN()}
				ok.Points, failed.Points, due.Points = append(ok.Points, nan), append(failed.Points, nan), append(due.Points, nan)
				continue
			}
			per := func(n int) float64 { return float64(n) / b.width }
			ok.Points = append(ok.Points, chart.Point{X: b.from, Y: per(b.ok)})
			failed.Points = append(failed.Points, chart.Point{X: b.from, Y0: per(b.ok), Y: per(b.ok + b.failed)})
			due.Points = append(due.Points, chart.Point{X: b.from, Y: per(b.due)})
			readouts = append(readouts, chart.Readout{From: b.from, To: b.from + p.seen.bucket,
				Text: fmt.Sprintf("%s: offered %s, ok %s, failed %s", span(b.from, p.seen.bucket), chart.Rate(per(b.due)), chart.Rate(per(b.ok)), chart.Rate(per(b.failed)))})
			t.Rows = append(t.Rows, []cell{{Text: chart.Clock(round(b.from, 3))}, num(chart.Rate(per(b.due))), num(chart.Rate(per(b.ok))), num(chart.Rate(per(b.failed))),
				num(chart.Count(b.queued)), num(chart.Count(b.dropped)), num(chart.Count(b.late))})
			total.due, total.ok, total.failed = total.due+b.due, total.ok+b.ok, total.failed+b.failed
		}
		plot := chart.Plot{
			Title: "Throughput and errors of " + clean(l.name) + " over time",
			Desc: fmt.Sprintf("Stacked areas of requests answered well and failed, per second, below the offered rate as a line. In all %s due, %s ok, %s failed.",
				chart.Count(total.due), chart.Count(total.ok), chart.Count(total.failed)),
			Height: 170, X: p.x, Y: chart.Axis{Label: "requests per second", Format: chart.TickNumber},
			Phases: p.seen.phases, Bands: p.seen.bands, Series: []chart.Series{ok, failed, due}, Readouts: readouts,
			Empty: "no request was due",
		}
		parts = append(parts, part{Heading: p.heading(l.name), Figure: both(plot, fmt.Sprintf("thr%d", i), "A request is counted where it was due, whenever it was answered.")})
		if len(t.Rows) > 0 {
			parts = append(parts, part{Table: t})
		}
	}
	return "", parts
}

// stateColors: a breaker's states; half-open is hatched as well.
var stateColors = map[string]chart.Color{"closed": chart.Good, "open": chart.Bad, "half-open": chart.Unsure}

func lane(label string, spans []verdict.Span, thin bool) chart.Lane {
	l := chart.Lane{Label: label, Thin: thin}
	for _, s := range spans {
		c, ok := stateColors[s.State]
		if !ok {
			c = chart.Grey
		}
		l.States = append(l.States, chart.State{From: s.FromS, To: s.ToS, Text: clean(s.State), Color: c, Hatched: s.State == "half-open"})
	}
	return l
}

func (p *page) breakers(r Report) (string, []part) {
	if len(r.Result.Breakers) == 0 {
		return "", nil
	}
	var lanes []chart.Lane
	var desc []string
	var claims []part
	spans := &table{Caption: "States over time.", Fold: "The numbers of this chart", Scroll: true, Head: columnsOf("edge", "seen by", "state", "#from", "#to")}
	for _, b := range r.Result.Breakers {
		lanes = append(lanes, lane(clean(b.Edge), b.Spans, false))
		if len(b.Reported) > 0 {
			lanes = append(lanes, lane(clean(b.Edge)+", as "+reporter(b)+" it", b.Reported, true))
		}
		desc = append(desc, clean(b.Edge)+" "+breakerWords(b))
		t := &table{Class: "stack", Head: columnsOf("verdict", "claim", "observed")}
		for _, c := range b.Checks {
			t.Rows = append(t.Rows, []cell{{Text: symbol(c.Verdict) + " " + word(c.Verdict), Class: class(c.Verdict)}, {Text: clean(c.Claim)}, {Text: orMissing(clean(c.Detail))}})
		}
		claims = append(claims, part{Heading: symbol(b.Verdict) + " " + word(b.Verdict) + ": " + clean(b.Edge), Text: sentence(breakerWords(b))})
		claims = append(claims, tablePart(t)...)
		for _, of := range []struct {
			by    string
			spans []verdict.Span
		}{{"the wire", b.Spans}, {strings.TrimSuffix(strings.TrimSuffix(reporter(b), " report"), " reports"), b.Reported}} {
			for _, s := range of.spans {
				spans.Rows = append(spans.Rows, []cell{{Text: clean(b.Edge)}, {Text: of.by}, {Text: clean(s.State)}, num(chart.Clock(round(s.FromS, 2))), num(chart.Clock(round(s.ToS, 2)))})
			}
		}
	}
	draw := func(id string, width float64) template.HTML {
		return chart.Lanes{ID: id, Title: "Breaker states over time", Desc: strings.Join(desc, ". ") + ".", Width: width, X: p.x,
			Phases: p.seen.phases, Bands: p.seen.bands, Lanes: lanes}.SVG()
	}
	parts := []part{{Figure: &figure{Wide: draw("brk-w", wideWidth), Narrow: draw("brk-n", narrowWidth)}}}
	if len(spans.Rows) > 0 {
		parts = append(parts, part{Table: spans})
	}
	parts = append(parts, claims...)
	return "States are read from the wire: from which calls pass and which are answered without one. What the service itself reports stands beneath, for comparison; it is not judged.", parts
}

// reporter says who tells a breaker's state, beside the wire.
func reporter(b verdict.BreakerResult) string {
	if b.ReportedBy != "" {
		return "the service's " + clean(b.ReportedBy) + " metrics report"
	}
	return "the service reports"
}

func (p *page) invariants(r Report) (string, []part) {
	t := &table{Class: "stack", Caption: "Read from the system's own state when the load had drained.", Head: columnsOf("verdict", "invariant", "finding")}
	for _, i := range r.Result.Invariants {
		t.Rows = append(t.Rows, []cell{{Text: symbol(i.Verdict) + " " + word(i.Verdict), Class: class(i.Verdict)}, {Text: clean(i.Name)}, {Text: orMissing(clean(i.Detail)), More: values(i.Values)}})
	}
	return "", tablePart(t)
}

// percentiles draw each phase as one line over the percentiles, on an axis that
// gives every further nine the same room.
func (p *page) percentiles(r Report) (string, []part) {
	nines := func(q float64) float64 { return -math.Log10(1 - q) }
	var ticks []chart.Tick
	for _, t := range []struct {
		q    float64
		name string
	}{{0, "p0"}, {0.5, "p50"}, {0.9, "p90"}, {0.99, "p99"}, {0.999, "p99.9"}, {0.9999, "p99.99"}} {
		ticks = append(ticks, chart.Tick{At: nines(t.q), Label: t.name})
	}
	styles := map[string]chart.Series{
		"warmup": {Color: chart.Grey, Dash: "1 3"}, "before": {Color: chart.Blue}, "during": {Color: chart.Orange, Dash: "7 2", Stroke: 2.4},
		"after": {Color: chart.Teal, Dash: "2 2", Stroke: 2}, "drain": {Color: chart.Grey, Dash: "4 4"},
	}
	var parts []part
	for i, l := range p.seen.loads {
		var series []chart.Series
		t := &table{Caption: "Latency percentiles of whole phases.", Fold: "The numbers of this chart", Scroll: true, Head: columnsOf("phase", "#p50", "#p90", "#p95", "#p99", "#p99.9", "#n", "#failed")}
		top := 2.0
		for _, ph := range l.byPhase {
			n := ph.ok.Count() + int64(ph.failed)
			row := []cell{{Text: clean(ph.phase)}}
			for _, q := range []float64{0.5, 0.9, 0.95, 0.99, 0.999} {
				row = append(row, num(among(quantile(ph.ok, ph.failed, q))))
			}
			t.Rows = append(t.Rows, append(row, num(chart.Count(int(n))), num(chart.Count(ph.failed))))
			if ph.phase == "warmup" || ph.phase == "drain" {
				continue
			}
			s, known := styles[ph.phase]
			if !known {
				s = chart.Series{Color: chart.Purple}
			}
			s.Name = clean(ph.phase)
			s.Points = curve(ph.ok, ph.failed, nines)
			top = max(top, s.Points[len(s.Points)-1].X)
			series = append(series, s)
		}
		if len(t.Rows) == 0 {
			continue
		}
		plot := chart.Plot{
			Title: "Latency percentiles of " + clean(l.name) + " by phase", Desc: p.latencyDesc(r, l),
			Height: 220, X: chart.Axis{Label: "percentile", Min: 0, Max: min(top, 4), Ticks: ticks},
			Y: chart.Axis{Label: "latency, done − due (log scale)", Log: true, Format: chart.TickSeconds}, Series: series, Empty: "no request was finished in before, during or after",
		}
		parts = append(parts, part{Heading: p.heading(l.name), Figure: both(plot, fmt.Sprintf("pct%d", i), "Whole phases, time to settle and to recover included. A line that ends early: the rest of its requests failed.")}, part{Table: t})
	}
	return "", parts
}

// curve walks a histogram: one point per bucket in use, at the share of all
// requests that were at most that slow. The last point has no share left above
// it; it stands where half a request would be.
func curve(ok *hdr.Histogram, failed int, at func(float64) float64) []chart.Point {
	all := float64(ok.Count()) + float64(failed)
	var points []chart.Point
	sum, last := 0.0, math.Inf(-1)
	ok.Each(func(_, high time.Duration, count int64) {
		sum += float64(count)
		x := at(min(sum/all, 1-0.5/all))
		// A hundredth of a nine is below a pixel.
		if x-last >= 0.01 || sum >= float64(ok.Count()) {
			points, last = append(points, chart.Point{X: x, Y: high.Seconds()}), x
		}
	})
	if len(points) == 0 {
		points = []chart.Point{{X: 0, Y: math.Inf(1)}}
	}
	return points
}

func (p *page) edgeCalls(r Report) (string, []part) {
	if len(p.seen.edges) == 0 {
		return "", nil
	}
	var grid []figure
	t := &table{Class: "stack", Caption: "Whole run, as the proxies counted.", Head: columnsOf("edge", "#calls", "#reached the callee", "answers", "#bytes up", "#bytes down")}
	for i, e := range p.seen.edges {
		calls := chart.Series{Name: "calls begun", Style: chart.Area, Color: chart.Good, Width: p.seen.bucket}
		upstream := chart.Series{Name: "reached the callee", Style: chart.Step, Color: chart.Orange, Width: p.seen.bucket, Stroke: 1.6}
		var readouts []chart.Readout
		for b := range e.calls {
			from := float64(b) * p.seen.bucket
			calls.Points = append(calls.Points, chart.Point{X: from, Y: e.calls[b]})
			upstream.Points = append(upstream.Points, chart.Point{X: from, Y: e.upstream[b]})
			readouts = append(readouts, chart.Readout{From: from, To: from + p.seen.bucket,
				Text: fmt.Sprintf("%s: %s begun, %s reached the callee", span(from, p.seen.bucket), chart.Rate(e.calls[b]), chart.Rate(e.upstream[b]))})
		}
		plot := chart.Plot{ID: fmt.Sprintf("edge%d", i), Width: smallWidth, Height: 110, HideLabels: true,
			Title: "Calls per second, " + clean(e.name),
			Desc:  fmt.Sprintf("%s calls begun in the run, %s reached the callee.", chart.Count(e.total.Calls), chart.Count(e.total.Upstream)),
			X:     p.x, Y: chart.Axis{Format: chart.TickNumber}, Phases: p.seen.phases, Bands: p.seen.bands, Series: []chart.Series{calls, upstream}, Readouts: readouts}
		grid = append(grid, figure{Wide: plot.SVG(), Caption: clean(e.name), Readout: "\u00a0"})
		t.Rows = append(t.Rows, []cell{{Text: clean(e.name)}, num(chart.Count(e.total.Calls)), num(chart.Count(e.total.Upstream)), {Text: orMissing(counts(e.total.Answers))},
			num(chart.Bytes(float64(e.total.BytesUp))), num(chart.Bytes(float64(e.total.BytesDown)))})
	}
	return "Calls per second on each edge, seen by the proxy on it. Where fewer reach the callee than were begun, a fault answered or cut them; where fewer are begun, the caller holds back.",
		[]part{{Grid: grid}, {Table: t}}
}

func (p *page) addedDelay(r Report) (string, []part) {
	var grid []figure
	t := &table{Caption: "Added delay, p50 and p95 of the calls that were hit.", Fold: "The numbers of these charts", Scroll: true, Head: columnsOf("fault", "edge", "from", "#p50", "#p95")}
	for i, d := range p.seen.delays {
		p50 := chart.Series{Name: "p50", Color: chart.Blue}
		p95 := chart.Series{Name: "p95", Color: chart.Orange, Dash: "5 2"}
		var readouts []chart.Readout
		for b := range d.p50 {
			from := float64(b) * p.seen.bucket
			at := from + p.seen.bucket/2
			p50.Points, p95.Points = append(p50.Points, chart.Point{X: at, Y: d.p50[b]}), append(p95.Points, chart.Point{X: at, Y: d.p95[b]})
			if !math.IsNaN(d.p50[b]) {
				readouts = append(readouts, chart.Readout{From: from, To: from + p.seen.bucket,
					Text: fmt.Sprintf("%s: p50 %s, p95 %s", span(from, p.seen.bucket), chart.Seconds(d.p50[b]), chart.Seconds(d.p95[b]))})
				t.Rows = append(t.Rows, []cell{{Text: clean(d.fault)}, {Text: clean(d.edge)}, {Text: chart.Clock(round(from, 3))}, num(chart.Seconds(d.p50[b])), num(chart.Seconds(d.p95[b]))})
			}
		}
		plot := chart.Plot{ID: fmt.Sprintf("dly%d", i), Width: smallWidth, Height: 110, HideLabels: true,
			Title: "Delay added by " + clean(d.fault) + " on " + clean(d.edge), Desc: "Lines of the 50th and 95th percentile of the delay measured on the calls that were hit, and the mean that was asked for.",
			X: p.x, Y: chart.Axis{Format: chart.TickSeconds}, Phases: p.seen.phases, Bands: p.seen.bands, Series: []chart.Series{p50, p95}, Readouts: readouts, LimitName: "asked, mean"}
		for _, f := range r.Result.Faults {
			if asked, ok := f.Asked["delay_s"]; ok && f.Name == d.fault && f.InjectedAtS != nil {
				to := p.seen.end
				if f.RevertedAtS != nil {
					to = *f.RevertedAtS
				}
				plot.Limits = append(plot.Limits, chart.Limit{From: *f.InjectedAtS, To: to, Y: asked, Label: "asked " + chart.Seconds(asked)})
			}
		}
		grid = append(grid, figure{Wide: plot.SVG(), Caption: clean(d.fault) + ", " + clean(d.edge), Readout: "\u00a0"})
	}
	if len(grid) == 0 {
		return "", nil
	}
	return "What the proxies measured on the calls that a fault delayed.", []part{{Grid: grid}, {Table: t}}
}

func (p *page) load(r Report) (string, []part) {
	t := &table{Class: "stack", Caption: "Whole run, warm-up included. Queued: due, but no free connection; the wait counts as latency. Dropped: queued longer than the timeout. Late: sent more than 10 ms after due although a connection was free, the generator's own lag.",
		Head: columnsOf("load", "#due", "#sent", "#ok", "#failed", "#queued", "#dropped", "#late", "outcomes")}
	q := &table{Class: "stack", Caption: "Latency of all finished requests, failed ones at the moment they failed.", Head: columnsOf("load", "#p50", "#p90", "#p95", "#p99", "#p99.9", "#max")}
	var sentences []string
	for _, l := range withSteps(r.Result.Load) {
		if l.Sessions != nil {
			sentences = append(sentences, clean(l.Name)+": "+sessionWords(*l.Sessions)+".")
		}
		if words := wireWords(l); words != "" {
			sentences = append(sentences, clean(l.Name)+": "+words+".")
		}
		row := []cell{{Text: clean(l.Name), More: clean(l.Model)}}
		for _, n := range []int{l.Due, l.Sent, l.OK, l.Failed, l.Queued, l.Dropped, l.Late} {
			row = append(row, num(chart.Count(n)))
		}
		t.Rows = append(t.Rows, append(row, cell{Text: orMissing(counts(l.Outcomes))}))
		row = []cell{{Text: clean(l.Name)}}
		for _, s := range []float64{l.P50S, l.P90S, l.P95S, l.P99S, l.P999S, l.MaxS} {
			if l.OK+l.Failed == 0 {
				s = math.NaN()
			}
			row = append(row, num(chart.Seconds(s)))
		}
		q.Rows = append(q.Rows, row)
	}
	return strings.Join(sentences, " "), append(tablePart(t), tablePart(q)...)
}

// happenings are the journal's events that are neither load nor edges.
func (p *page) happenings(r Report) (string, []part) {
	var all []moment
	for _, ev := range r.Events {
		m := moment{When: moments(ev.At)}
		switch {
		case ev.Phase != nil:
			m.What = "phase " + clean(ev.Phase.Name) + " begins"
		case ev.Fault != nil:
			f := ev.Fault
			m.What = "fault " + clean(f.Name) + " (" + faultWords(verdict.FaultResult{Kind: f.Kind, Target: f.Target}) + "): " + clean(f.State) + lead(", ", clean(f.Detail)) + lead(": ", clean(f.Error))
			if f.Error != "" || f.State == "failed" {
				m.Class = "fail"
			}
		case ev.Service != nil:
			s := ev.Service
			m.What = clean(s.Name)
			if s.Instance > 0 {
				m.What += fmt.Sprintf(" #%d", s.Instance)
			}
			m.What += " " + clean(s.State)
			if s.PID > 0 {
				m.What += fmt.Sprintf(" (process %d)", s.PID)
			}
			m.What += lead(": ", clean(s.Detail))
			if s.State == "died" {
				if s.Expected {
					m.What += ", as asked"
				} else {
					m.What, m.Class = "✗ "+m.What+", unexpected", "fail"
				}
			}
			for _, line := range s.Log {
				m.Log = append(m.Log, printable(line))
			}
		case ev.Probe != nil:
			pr := ev.Probe
			m.What = clean(pr.Kind+" "+pr.Name) + lead(": ", clean(pr.Detail)) + lead(": ", clean(pr.Error))
			if !pr.OK {
				m.What, m.Class = "✗ "+m.What, "fail"
			}
		case ev.Abort != nil:
			m.What, m.Class = "aborted: "+clean(ev.Abort.Reason), "unsure"
			if ev.Abort.Interrupted {
				m.What = "interrupted: " + clean(ev.Abort.Reason)
			}
		case ev.Mark != nil:
			m.What = clean(ev.Mark.Text)
			if ev.Mark.Warning {
				m.What, m.Class = "! "+m.What, "unsure"
			}
		case ev.End != nil:
			m.What = "end: " + named(ev.End.Status, "status unknown") + lead(": ", clean(ev.End.Error))
		default:
			continue
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return "", nil
	}
	return "", []part{{List: all}}
}

// exemplars are the failed and the slowest requests that the journal kept.
func (p *page) exemplars(Report) (string, []part) {
	const most = 20
	failed, slow := []journal.Sample{}, []journal.Sample{}
	for _, s := range p.seen.samples {
		if strings.HasPrefix(s.Outcome, "2") || strings.HasPrefix(s.Outcome, "3") {
			slow = append(slow, s)
		} else {
			failed = append(failed, s)
		}
	}
	slices.SortStableFunc(slow, func(a, b journal.Sample) int { return int(max(min(b.Latency-a.Latency, 1), -1)) })
	slices.SortStableFunc(failed, func(a, b journal.Sample) int { return int(max(min(a.DueS-b.DueS, 1), -1)) })
	var parts []part
	for _, of := range []struct {
		title   string
		samples []journal.Sample
		shown   []journal.Sample
	}{{"Failed", failed, spread(failed, most)}, {"Slowest", slow, slow[:min(most, len(slow))]}} {
		if len(of.samples) == 0 {
			continue
		}
		t := &table{Class: "stack", Caption: fmt.Sprintf("%s of %s in the journal.", chart.Count(len(of.shown)), chart.Count(len(of.samples))),
			Head: columnsOf("due", "#latency", "outcome", "request", "load", "detail")}
		for _, s := range of.shown {
			t.Rows = append(t.Rows, []cell{{Text: moments(time.Duration(s.DueS))}, num(chart.Duration(time.Duration(s.Latency))), {Text: clean(s.Outcome)}, {Text: clean(s.Request)},
				{Text: clean(s.Load), More: fmt.Sprintf("number %d", s.Seq)}, {Text: orMissing(clean(s.Detail)), More: lead("trace ", clean(s.TraceID))}})
		}
		parts = append(parts, part{Heading: of.title, Table: t})
	}
	return "", parts
}

// spread takes at most n of s, evenly over its length, so that a burst at the
// start does not hide what came later.
func spread(s []journal.Sample, n int) []journal.Sample {
	if len(s) <= n {
		return s
	}
	var kept []journal.Sample
	for i := range n {
		kept = append(kept, s[i*(len(s)-1)/(n-1)])
	}
	return kept
}

func (p *page) reproduce(r Report) (string, []part) {
	t := &table{Class: "stack", Caption: "Where and when.", Head: columnsOf("fact", "value")}
	for _, kv := range aboutRun(r) {
		t.Rows = append(t.Rows, []cell{{Text: kv[0]}, {Text: kv[1]}})
	}
	parts := []part{{Code: command(r)}, {Table: t}}
	if p.seen.start != nil && len(p.seen.start.Plan) > 0 {
		var b bytes.Buffer
		if json.Indent(&b, p.seen.start.Plan, "", "  ") != nil {
			b.Reset()
			b.Write(p.seen.start.Plan)
		}
		parts = append(parts, part{Fold: &fold{"The whole plan", printable(b.String())}})
	}
	return "The same seed sends the same requests to the same faults; the system's own timing is not part of it.", parts
}

// both draws a plot for wide and for narrow screens.
func both(plot chart.Plot, id, caption string) *figure {
	plot.ID, plot.Width = id+"-w", wideWidth
	f := &figure{Wide: plot.SVG(), Caption: caption}
	plot.ID, plot.Width = id+"-n", narrowWidth
	f.Narrow = plot.SVG()
	if len(plot.Readouts) > 0 {
		f.Readout = "\u00a0"
	}
	return f
}

// columnsOf names columns; "#" marks those of numbers.
func columnsOf(names ...string) []column {
	var all []column
	for _, n := range names {
		name, number := strings.CutPrefix(n, "#")
		all = append(all, column{name, number})
	}
	return all
}

// tablePart is a part per table, or none for an empty one.
func tablePart(t *table) []part {
	if len(t.Rows) == 0 {
		return nil
	}
	return []part{{Table: t}}
}

func num(s string) cell { return cell{Text: s, Class: "n"} }

func number(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

// among writes a latency; +Inf is one that falls among failed requests.
func among(s float64) string {
	if math.IsInf(s, 1) {
		return "failed"
	}
	return chart.Seconds(s)
}

// span writes a bucket's time.
func span(from, width float64) string {
	return chart.Clock(round(from, 3)) + " – " + chart.Clock(round(from+width, 3))
}

func moments(at time.Duration) string { return chart.Clock(round(at.Seconds(), 2)) }

func orMissing(s string) string {
	if s == "" {
		return chart.Missing
	}
	return s
}

// sentence begins with a capital and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// lines1 joins what is not empty into one line.
func lines1(s ...string) string { return strings.Join(nonEmpty(s...), "; ") }
