package reports

import (
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// TextOptions is what the reader's terminal is like.
type TextOptions struct {
	Width int  // columns; 0: 80; less than 40 counts as 40
	Color bool // ANSI colours, beside the words, never in their place
	// Folder is where the run's files are; they are named at the end. Empty: they
	// are not. No other writer knows it, so that a run folder can be moved and its
	// report made again to the same bytes.
	Folder string
}

// Text writes the summary for a terminal: the verdict and its main reason on the
// first line, then what it rests on. No line is wider than Width: long names end
// in "…", long sentences go on in the next line, numbers are never cut. With a
// control, the last line is "control: PROVEN" (or DISPROVEN, VACUOUS, INCONCLUSIVE).
func Text(w io.Writer, r Report, o TextOptions) error {
	t := &text{width: o.Width, color: o.Color}
	if t.width <= 0 {
		t.width = 80
	}
	t.width = max(t.width, 40)

	t.verdict(r)
	t.objectives(r.Result.Objectives, r.Result.FamilyError)
	t.breakers(r.Result.Breakers)
	t.invariants(r.Result.Invariants)
	t.faults(r)
	t.recovery(r.Result.Recovery)
	t.slos(r.Result.SLOs)
	t.load(r.Result.Load)
	t.timeline(r)
	t.warnings(r)
	t.files(r, o.Folder)
	if c := r.Result.Control; c != nil {
		t.control(c)
	}
	_, err := io.WriteString(w, t.String())
	return err
}

type text struct {
	strings.Builder
	width int
	color bool
}

// The few colours used, as ANSI "select graphic rendition" codes.
const (
	bold   = "1"
	faint  = "2"
	red    = "1;31"
	green  = "1;32"
	yellow = "1;33"
)

func (t *text) paint(code, s string) string {
	if !t.color || code == "" || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func paintOf(v verdict.Verdict) string {
	switch v {
	case verdict.Pass:
		return green
	case verdict.Fail:
		return red
	}
	return yellow
}

// heading stands above a section, after an empty line.
func (t *text) heading(s string) {
	t.WriteString("\n")
	for _, line := range wrap(s, t.width, t.width) {
		t.WriteString(t.paint(bold, line) + "\n")
	}
}

// item writes lead (painted), then words wrapped behind it; further lines begin
// under the first word.
func (t *text) item(lead, code, words string) {
	indent := columns(lead)
	if indent > t.width/2 {
		indent = 4
	}
	lines := wrap(words, t.width-columns(lead), t.width-indent)
	for i, l := range lines {
		if i == 0 {
			t.WriteString(strings.TrimRight(t.paint(code, lead)+l, " ") + "\n")
		} else {
			t.WriteString(strings.Repeat(" ", indent) + l + "\n")
		}
	}
}

func (t *text) verdict(r Report) {
	v, reasons := r.Result.Verdict, allReasons(r)
	lead := symbol(v) + " " + strings.ToUpper(word(v)) + "  "
	t.item(lead, paintOf(v), reasons[0])
	for _, reason := range reasons[1:] {
		t.item(strings.Repeat(" ", columns(lead)), "", reason)
	}
	if c := r.Result.Control; c != nil {
		pv := pairVerdict(c.Pair)
		t.item(symbol(pv)+" control: "+short(c.Pair, 14)+"  ", paintOf(pv), pairMeaning(c))
	}

	var about []string
	if s := r.Result.Scenario; s != "" {
		about = append(about, short(s, 48))
	}
	if r.Result.Variant != "" {
		about = append(about, "variant "+short(r.Result.Variant, 12))
	}
	about = append(about, fmt.Sprintf("seed %d", r.Result.Seed), chart.Seconds(r.Result.DurationS))
	if s := planOf(r.Events).Timescale; s > 0 && s != 1 {
		about = append(about, "timescale "+chart.Number(s))
	}
	status := short(r.Result.Status, 16)
	if status == "" {
		status = "status unknown"
	}
	about = append(about, status)
	t.item("", "", strings.Join(about, " · "))
	for _, ev := range r.Events {
		if ev.Abort != nil {
			t.item(abortWord(ev.Abort)+" at "+moments(ev.At)+"  ", yellow, clean(ev.Abort.Reason))
		}
		if ev.End != nil && ev.End.Error != "" {
			t.item("error  ", red, clean(ev.End.Error))
		}
	}
}

// objectives are one table per stream of load:
//
//	OBJECTIVES                      before   during    after    bounds       n
//	shoppers
//	  ✓ pass  during  ok >= 97%       100%    98.1%     100%  97.6–98.5%   4000
//
// before, during and after show the metric in every phase; bounds are those of
// the share that is judged. Where a row does not fit, it takes two lines.
func (t *text) objectives(all []verdict.ObjectiveResult, family string) {
	if len(all) == 0 {
		return
	}
	phases := []string{"before", "during", "after"}
	type row struct {
		o      verdict.ObjectiveResult
		lead   string
		cells  []string
		bounds string
		n      string
	}
	var rows []row
	phaseW, clauseW, verdictW := 6, 0, 0
	cellW, boundsW, nW := []int{6, 6, 6}, len("bounds"), len("n")
	for _, o := range all {
		row := row{o: o, lead: symbol(o.Verdict) + " " + word(o.Verdict), bounds: bounds(o), n: chart.Count(o.Samples)}
		for i, p := range phases {
			row.cells = append(row.cells, value(o.PerPhase[p], o.Unit))
			cellW[i] = max(cellW[i], columns(row.cells[i]))
		}
		verdictW = max(verdictW, columns(row.lead))
		phaseW = max(phaseW, min(columns(clean(o.Phase)), 10))
		clauseW = max(clauseW, columns(clean(o.Objective)))
		boundsW = max(boundsW, columns(row.bounds))
		nW = max(nW, columns(row.n))
		rows = append(rows, row)
	}
	gap := "  "
	numbers := func(c []string, b, n string) string {
		s := ""
		for i := range c {
			s += gap + left(c[i], cellW[i])
		}
		return s + gap + left(b, boundsW) + gap + left(n, nW)
	}
	labelW := 2 + verdictW + 1 + phaseW + 1 + clauseW
	if labelW+columns(numbers(phases, "bounds", "n")) > t.width {
		gap = " "
	}
	numbersW := columns(numbers(phases, "bounds", "n"))
	stacked := labelW+numbersW > t.width
	labelW = max(min(labelW, t.width-numbersW), 0)

	head := "OBJECTIVES"
	if stacked {
		t.heading(head)
		if numbersW+4 <= t.width {
			t.WriteString(t.paint(faint, right("", t.width-numbersW)+numbers(phases, "bounds", "n")) + "\n")
		}
	} else {
		t.WriteString("\n" + t.paint(bold, right(head, labelW)) + t.paint(faint, numbers(phases, "bounds", "n")) + "\n")
	}
	load, notes := "", newNotes()
	for i, row := range rows {
		if i == 0 || row.o.Load != load {
			load = row.o.Load
			t.WriteString(short(load, t.width) + "\n")
		}
		what := right(short(row.o.Phase, phaseW), phaseW) + " " + clean(row.o.Objective)
		lead := "  " + right(row.lead, verdictW) + " "
		n := numbers(row.cells, row.bounds, row.n)
		switch {
		case !stacked:
			t.WriteString("  " + t.paint(paintOf(row.o.Verdict), right(row.lead, verdictW)) + " " + right(what, labelW-3-verdictW) + n + "\n")
		case numbersW+4 <= t.width:
			t.item(lead, paintOf(row.o.Verdict), what)
			t.WriteString(right("", t.width-numbersW) + n + "\n")
		default:
			t.item(lead, paintOf(row.o.Verdict), what)
			t.item("      ", "", fmt.Sprintf("before %s, during %s, after %s", row.cells[0], row.cells[1], row.cells[2]))
			t.item("      ", "", fmt.Sprintf("bounds %s, n %s", row.bounds, row.n))
		}
		if s := needed(row.o); s != "" {
			t.item("      ", "", s)
		}
		if row.o.Note != "" {
			notes.add(clean(row.o.Note), short(row.o.Load, 16)+" "+short(row.o.Phase, 10))
		}
	}
	for _, n := range notes.order {
		t.item("  note: ", faint, n+" ("+list(notes.of[n])+")")
	}
	if family != "" {
		t.item("  note: ", faint, clean(family))
	}
}

// metricOf is the clause without its limit: "p95" of "p95 < 700ms".
func metricOf(o verdict.ObjectiveResult) string {
	metric, _, _ := strings.Cut(clean(o.Objective), " ")
	return metric
}

// notes says each note once, with all it is about.
type notes struct {
	order []string
	of    map[string][]string
}

func newNotes() *notes { return &notes{of: map[string][]string{}} }

func (n *notes) add(note, about string) {
	if n.of[note] == nil {
		n.order = append(n.order, note)
	}
	if !slices.Contains(n.of[note], about) {
		n.of[note] = append(n.of[note], about)
	}
}

func (t *text) breakers(all []verdict.BreakerResult) {
	if len(all) == 0 {
		return
	}
	t.heading("BREAKERS, as the wire shows them")
	for _, b := range all {
		t.item("  "+symbol(b.Verdict)+" "+word(b.Verdict)+" ", paintOf(b.Verdict), short(b.Edge, 40)+": "+breakerWords(b))
		for _, c := range b.Checks {
			words := clean(c.Claim)
			if c.Detail != "" {
				words += ": " + clean(c.Detail)
			}
			t.item("      "+symbol(c.Verdict)+" "+word(c.Verdict)+" ", paintOf(c.Verdict), words)
		}
	}
}

// breakerWords tell the life of a breaker in one sentence.
func breakerWords(b verdict.BreakerResult) string {
	if b.OpenedAtS == nil {
		return "never opened"
	}
	s := "opened at " + chart.Seconds(*b.OpenedAtS)
	if b.TimeToOpenS != nil {
		s += " (" + chart.Seconds(*b.TimeToOpenS) + " into the fault)"
	}
	if b.ClosedAtS == nil {
		s += ", never closed"
	} else {
		s += ", closed at " + chart.Seconds(*b.ClosedAtS)
		if b.TimeToCloseS != nil {
			s += " (" + chart.Seconds(*b.TimeToCloseS) + " after its end)"
		}
	}
	s += ", " + plural(b.Flaps, "flap", "flaps") + ", " + plural(b.Probes, "probe", "probes")
	if b.UpstreamPerS != nil {
		s += ", " + chart.Rate(*b.UpstreamPerS) + " let through while open"
	}
	if b.ReportedBy != "" {
		s += "; by its own " + clean(b.ReportedBy) + " metrics"
		i := slices.IndexFunc(b.Reported, func(s verdict.Span) bool { return s.State != "closed" })
		if i < 0 {
			s += " it never opened"
		} else {
			s += " opened at " + chart.Seconds(b.Reported[i].FromS)
		}
	}
	for i, p := range slices.Sorted(maps.Keys(b.FailFastS)) {
		if i == 0 {
			s += "; the caller's answers while open:"
		} else {
			s += ","
		}
		s += " " + clean(p) + " " + chart.Seconds(b.FailFastS[p])
	}
	return s
}

func (t *text) invariants(all []verdict.InvariantResult) {
	if len(all) == 0 {
		return
	}
	t.heading("INVARIANTS, read from the system's own state")
	for _, i := range all {
		words := short(i.Name, 30)
		if i.Detail != "" {
			words += ": " + clean(i.Detail)
		}
		t.item("  "+symbol(i.Verdict)+" "+word(i.Verdict)+" ", paintOf(i.Verdict), words)
		if s := values(i.Values); s != "" && i.Verdict != verdict.Pass {
			t.item("      ", faint, s)
		}
	}
}

// faults show the positive control: asked -> observed.
func (t *text) faults(r Report) {
	all := r.Result.Faults
	if len(all) == 0 {
		return
	}
	if r.Hypotheses.Sham {
		t.heading("FAULTS, left out on purpose (sham)")
	} else {
		t.heading("FAULTS, asked -> observed")
	}
	for _, f := range all {
		v, seen := faultVerdict(r, f)
		words := short(f.Name, 30) + ": " + short(faultWords(f), 60)
		if f.InjectedAtS != nil {
			words += ", " + chart.Seconds(*f.InjectedAtS) + " to " + secs(f.RevertedAtS, "the end")
		}
		t.item("  "+symbol(v)+" "+seen+" ", paintOf(v), words)
		var proof []string
		if f.Fired > 0 && f.Detail == "" {
			proof = append(proof, fmt.Sprintf("fired %s", chart.Count(f.Fired)))
		}
		// The judge's own sentence says what counts; without one, the pairs do.
		if f.Detail != "" {
			proof = append(proof, clean(f.Detail))
		} else {
			pairs, _ := positiveControl(f)
			for _, m := range pairs {
				proof = append(proof, m.name+" "+m.asked+" -> "+m.observed)
			}
		}
		if s, _ := reverted(f); s != "" {
			proof = append(proof, s)
		}
		if len(proof) > 0 {
			t.item("      ", "", strings.Join(proof, ", "))
		}
	}
}

// faultVerdict judges the positive control, and words it.
func faultVerdict(r Report, f verdict.FaultResult) (verdict.Verdict, string) {
	switch {
	case r.Hypotheses.Sham && f.InjectedAtS == nil:
		return verdict.Pass, "left out"
	case f.InjectedAtS != nil && !f.VerifiedReverted:
		return verdict.Fail, "NOT REVERTED"
	case f.InjectedAtS == nil:
		return verdict.Inconclusive, "not injected"
	case f.ObservedOK:
		return verdict.Pass, "observed"
	}
	return verdict.Inconclusive, "not observed"
}

// reverted says whether the fault is gone; "" when it never was.
func reverted(f verdict.FaultResult) (words string, ok bool) {
	switch {
	case f.InjectedAtS == nil:
		return "", true
	case f.VerifiedReverted:
		return "reverted and verified", true
	case f.RevertedAtS != nil:
		return "reverted, but not verified", false
	}
	return "not known to be reverted", false
}

func (t *text) recovery(all []verdict.RecoveryResult) {
	if len(all) == 0 {
		return
	}
	t.heading("RECOVERY, after the last fault")
	for _, rec := range all {
		words := short(rec.Load, 30) + ": " + recoveryWords(rec)
		t.item("  ", "", words)
	}
}

func recoveryWords(rec verdict.RecoveryResult) string {
	words := "not recovered within the run"
	if rec.MeasuredS != nil {
		words = chart.Seconds(*rec.MeasuredS)
	}
	switch {
	case rec.AtLeastS != nil && rec.AtMostS != nil:
		words += fmt.Sprintf(" (at least %s, at most %s)", chart.Seconds(*rec.AtLeastS), chart.Seconds(*rec.AtMostS))
	case rec.AtLeastS != nil:
		words += fmt.Sprintf(" (at least %s)", chart.Seconds(*rec.AtLeastS))
	case rec.AtMostS != nil:
		words += fmt.Sprintf(" (at most %s)", chart.Seconds(*rec.AtMostS))
	}
	if rec.AllowedS > 0 {
		words += ", allowed " + chart.Seconds(rec.AllowedS)
	}
	if rec.Detail != "" {
		words += "; " + clean(rec.Detail)
	}
	return words
}

// load has two tables: what became of the requests, and how long they took.
func (t *text) load(all []verdict.LoadResult) {
	if len(all) == 0 {
		return
	}
	nameW := 8
	for _, l := range withSteps(all) {
		nameW = max(nameW, min(columns(clean(l.Name))+2, 18))
	}
	var requests, latency [][]string
	for _, l := range withSteps(all) {
		name := "  " + short(l.Name, nameW-2)
		row := []string{name}
		for _, n := range []int{l.Due, l.Sent, l.OK, l.Failed, l.Queued, l.Dropped, l.Late} {
			row = append(row, chart.Count(n))
		}
		requests = append(requests, row)
		row = []string{name}
		for _, s := range []float64{l.P50S, l.P90S, l.P95S, l.P99S, l.P999S, l.MaxS} {
			if l.OK+l.Failed == 0 {
				s = math.NaN()
			}
			row = append(row, chart.Seconds(s))
		}
		latency = append(latency, row)
	}
	t.WriteString("\n")
	t.table([]string{"LOAD", "due", "sent", "ok", "failed", "queued", "dropped", "late"}, requests, nameW)
	t.table([]string{"  latency", "p50", "p90", "p95", "p99", "p99.9", "max"}, latency, nameW)
	for _, l := range all {
		if l.Lag != nil {
			t.item("  "+clean(l.Name)+": ", "", lagWords(l))
		}
		if words := wireWords(l); words != "" {
			t.item("  "+clean(l.Name)+": ", "", words)
		}
		if l.Sessions != nil {
			t.item("  "+clean(l.Name)+": ", "", sessionWords(*l.Sessions))
		}
	}
}

// lagWords is what the generator itself added, and what the answers took without
// the wait for a connection.
func lagWords(l verdict.LoadResult) string {
	words := fmt.Sprintf("sent after it was due by p50 %s, p99 %s", chart.Seconds(l.Lag.P50S), chart.Seconds(l.Lag.P99S))
	if l.Service != nil {
		words += fmt.Sprintf("; answered after it was sent in p50 %s, p99 %s", chart.Seconds(l.Service.P50S), chart.Seconds(l.Service.P99S))
	}
	return words
}

// wireWords is what connections cost, and when answers began.
func wireWords(l verdict.LoadResult) string {
	if l.FirstByte == nil || l.Connect == nil {
		return ""
	}
	words := fmt.Sprintf("first byte p50 %s, p99 %s after the send; %s connections made, each in p50 %s, p99 %s",
		chart.Seconds(l.FirstByte.P50S), chart.Seconds(l.FirstByte.P99S), chart.Count(l.Connects), chart.Seconds(l.Connect.P50S), chart.Seconds(l.Connect.P99S))
	if l.Handshake != nil {
		words += fmt.Sprintf(", and TLS after it p50 %s, p99 %s (%s resumed)", chart.Seconds(l.Handshake.P50S), chart.Seconds(l.Handshake.P99S), chart.Count(l.Resumed))
	}
	return words + fmt.Sprintf("; %s sent, %s received", chart.Bytes(float64(l.BytesSent)), chart.Bytes(float64(l.BytesReceived)))
}

// withSteps lists each stream and, below it, the steps of its sessions and those of
// its setup.
func withSteps(all []verdict.LoadResult) []verdict.LoadResult {
	var lines []verdict.LoadResult
	for _, l := range all {
		lines = append(lines, l)
		for _, step := range l.Steps {
			step.Name = "- " + step.Name
			lines = append(lines, step)
		}
		for _, step := range l.Setup {
			step.Name = "(setup) " + step.Name
			lines = append(lines, step)
		}
	}
	return lines
}

// sessionWords is what came of the sessions of a stream.
func sessionWords(s verdict.SessionResult) string {
	words := fmt.Sprintf("%s sessions completed, %s failed, %s cut off by the end", chart.Count(s.Completed), chart.Count(s.Failed), chart.Count(s.Cut))
	if s.Completed > 0 {
		words += fmt.Sprintf("; a whole one took p50 %s, p95 %s, max %s", chart.Seconds(s.P50S), chart.Seconds(s.P95S), chart.Seconds(s.MaxS))
	}
	return words
}

// table writes a name and numbers in columns; where they do not fit, the numbers
// go below the name as "head number" pairs.
func (t *text) table(head []string, rows [][]string, nameW int) {
	nameW = max(nameW, columns(head[0]))
	widths := make([]int, len(head))
	total := nameW
	for i := 1; i < len(head); i++ {
		widths[i] = max(7, columns(head[i]))
		for _, row := range rows {
			widths[i] = max(widths[i], columns(row[i]))
		}
		total += 1 + widths[i]
	}
	if total > t.width {
		t.WriteString(t.paint(bold, strings.TrimSpace(head[0])) + "\n")
		for _, row := range rows {
			var pairs []string
			for i := 1; i < len(head); i++ {
				pairs = append(pairs, head[i]+" "+row[i])
			}
			t.item(row[0]+"  ", "", strings.Join(pairs, ", "))
		}
		return
	}
	line := t.paint(bold, right(head[0], nameW))
	for i := 1; i < len(head); i++ {
		line += " " + t.paint(faint, left(head[i], widths[i]))
	}
	t.WriteString(line + "\n")
	for _, row := range rows {
		line := right(row[0], nameW)
		for i := 1; i < len(row); i++ {
			line += " " + left(row[i], widths[i])
		}
		t.WriteString(line + "\n")
	}
}

// timeline draws the run in single lines: p95 and failures of each load, the
// phases, and when which fault was there.
func (t *text) timeline(r Report) {
	const nameW, tailW = 18, 14
	e := gather(r, t.width-nameW-tailW, fitting)
	any := false
	for _, l := range e.loads {
		for _, b := range l.buckets {
			any = any || b.due > 0 || b.ok+b.failed > 0
		}
	}
	if !any {
		return
	}
	t.heading("TIMELINE, " + chart.Clock(e.bucket) + " a character")
	put := func(name, line, tail string) {
		t.WriteString(strings.TrimRight("  "+right(short(name, nameW-3), nameW-2)+line+" "+t.paint(faint, tail), " ") + "\n")
	}
	beyond := false
	for _, l := range e.loads {
		var p95, failed []float64
		top, worst := 0.0, 0.0
		for _, b := range l.buckets {
			p95 = append(p95, b.p95)
			if !math.IsInf(b.p95, 0) && !math.IsNaN(b.p95) {
				top = max(top, b.p95)
			}
			share := math.NaN()
			if n := b.ok + b.failed; n > 0 {
				share = float64(b.failed) / float64(n)
				worst = max(worst, share)
			}
			failed = append(failed, share)
		}
		line := chart.Sparkline(p95, 0, top)
		if strings.Contains(line, "✗") {
			beyond = true
		}
		put(short(l.name, nameW-7)+" p95", line, "max "+chart.Seconds(top))
		if worst > 0 {
			put("  failed", string(dotted([]rune(chart.Sparkline(failed, 0, 1)), failed)), "max "+chart.Share(worst))
		}
	}
	mark := func(spans []chart.Span, fill func(i int) rune) []rune {
		line := []rune(strings.Repeat(" ", e.count))
		for i, s := range spans {
			from, to := e.at(s.From+e.bucket/2), max(e.at(s.To+e.bucket/2), e.at(s.From+e.bucket/2)+1)
			if s.To >= e.end {
				to = e.count
			}
			for j := from; j < min(to, e.count); j++ {
				line[j] = fill(i)
			}
		}
		return line
	}
	if len(e.phases) > 0 {
		line := mark(e.phases, func(int) rune { return '·' })
		for _, p := range e.phases {
			from := e.at(p.From + e.bucket/2)
			room := e.at(p.To+e.bucket/2) - from
			if p.To >= e.end {
				room = e.count - from
			}
			for j, c := range []rune(short(p.Label, max(room-1, 0))) {
				if j < room-1 && from+1+j < len(line) {
					line[from+1+j] = c
				}
			}
			line[from] = '|'
		}
		put("phase", string(line), "")
	}
	for _, b := range e.bands {
		name, _, _ := strings.Cut(b.Label, " (")
		put(name, string(mark([]chart.Span{b}, func(int) rune { return '━' })), "fault")
	}
	if beyond {
		t.item("  ✗ ", "", "where the p95 falls among failed requests")
	}
}

// dotted shows "none" as a dot, so that it cannot be taken for "few".
func dotted(line []rune, values []float64) []rune {
	for i, v := range values {
		if v == 0 {
			line[i] = '·'
		}
	}
	return line
}

func abortWord(a *journal.Abort) string {
	if a.Interrupted {
		return "interrupted"
	}
	return "aborted"
}

func (t *text) warnings(r Report) {
	type warning struct{ at, text string }
	var all []warning
	for _, w := range r.Result.Warnings {
		all = append(all, warning{"", clean(w)})
	}
	for _, ev := range r.Events {
		if ev.Mark != nil && ev.Mark.Warning && !slices.Contains(r.Result.Warnings, ev.Mark.Text) {
			all = append(all, warning{chart.Clock(round(ev.At.Seconds(), 1)) + ": ", clean(ev.Mark.Text)})
		}
	}
	if len(all) == 0 {
		return
	}
	t.heading("WARNINGS")
	for _, w := range all {
		t.item("  ! ", yellow, w.at+w.text)
	}
}

func (t *text) files(r Report, folder string) {
	t.WriteString("\n")
	line := func(name, value string) {
		if value != "" {
			t.item(right(name, 14), faint, clean(value))
		}
	}
	if folder != "" {
		line("report", filepath.Join(folder, "report.html"))
		line("journal", filepath.Join(folder, "journal.jsonl"))
	}
	line("journal head", r.Result.JournalHead)
	line("run", r.Result.Run)
	line("run again", command(r))
}

func (t *text) control(c *verdict.ControlResult) {
	t.heading("CONTROL, the same without the protection under test")
	t.item("  ", "", fmt.Sprintf("the control run's verdict: %s; must fail: %s; failed: %s",
		word(c.Verdict), orNone(c.MustFail), orNone(c.Failed)))
	if c.Detail != "" && clean(c.Detail) != pairMeaning(c) {
		t.item("  ", "", clean(c.Detail))
	}
	if c.Run != "" {
		t.item("  ", "", "its run: "+clean(c.Run))
	}
	t.WriteString("\ncontrol: " + short(c.Pair, 14) + "\n")
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return clean(strings.Join(names, ", "))
}

func round(v float64, digits int) float64 {
	p := math.Pow(10, float64(digits))
	return math.Round(v*p) / p
}
