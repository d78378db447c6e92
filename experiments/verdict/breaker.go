package verdict

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// A breaker is seen on the wire without knowing it. Per bin of 100 ms:
//
//	calls on the edge    ▇▇▇▇▇▇▇▇▇▇▇▇▇________________▁_______________▁▇▇█▇▇▇▇▇
//	caller's answers     ▇▇▇▇▇▇▇▇▇▇▇▇▃▅▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇
//	                     closed       open            | half-open     | closed
//
// The caller goes on answering whoever calls it, and calls nobody itself: that
// is an open breaker. When the caller answers nobody either, it hangs, is dead,
// or the machine stood still: that says nothing. So each bin expects
// (calls per answer before the fault) · (answers in this bin) calls, and a run of
// bins counts as open when far fewer came than an open breaker's probes explain.
const (
	// leak is the share of the expected calls that an open breaker may let pass.
	leak = 0.02
	// turn is the log-likelihood that a change of state must outweigh. With two
	// changes per open span, a span opens by chance with odds below e^-18.
	turn = 9.0
	// binWorth bounds what one bin of silence counts, so that no span is shorter
	// than four of them, however dense the traffic.
	binWorth = 4.5
	// leastCalls in the baseline: with fewer there is no rate to fall from.
	leastCalls = 20
	// resolution is how exactly the wire tells a moment.
	resolution = step
	// agree is how far the service's own report and the wire may lie apart: a
	// poll of its state and a probe of its breaker.
	agree = time.Second
)

// wire is one edge in bins of 100 ms, with what is expected on it.
type wire struct {
	calls    []float64
	answers  []float64 // of the caller to its own callers
	expected []float64
	ratio    float64 // calls per answer in the baseline
	perS     float64 // calls per second in the baseline
	baseline float64 // calls in the baseline
	seen     bool    // the edge stands in the journal at all
}

// span of bins [from, to).
type span struct{ from, to int }

func (s span) start() time.Duration { return time.Duration(s.from) * step }
func (s span) end() time.Duration   { return time.Duration(s.to) * step }

// opening is one stay away from closed: open and half-open in turn.
type opening struct {
	span
	probes []span // bins in which calls were let through, the first two bins excepted
	calls  int    // in them
	ended  bool   // traffic came back
}

// judgeBreaker judges one breaker.
func judgeBreaker(h Hypotheses, r *record, b Breaker) BreakerResult {
	out := BreakerResult{Edge: b.Edge, Verdict: Inconclusive}
	out.Reported, out.ReportedBy = r.reported(b.Edge)
	faultFrom, faultTo := r.actual(h, b)
	end := r.last
	if n := len(h.Phases); n > 0 {
		end = min(end, h.Phases[n-1].End)
	}
	w := r.wireOf(h, b, end, faultFrom)
	if why := w.unusable(b, faultFrom); why != "" {
		out.Checks = append(out.Checks, Check{Claim: "seen from the wire", Verdict: Inconclusive, Detail: why})
		return out
	}
	openings := w.openings()
	out.Spans = spansOf(openings, end)
	if text := disagreement(b.Edge, out.Spans, out.Reported, end); text != "" {
		r.warn("%s", text)
	}

	// The opening that the claims speak of is the first in the fault (or that the
	// fault found open already); closed for good is the end of the last one.
	var first, last *opening
	for i := range openings {
		o := &openings[i]
		if o.end() > faultFrom {
			if first == nil {
				first = o
			}
			last = o
		}
	}
	before := slices.ContainsFunc(openings, func(o opening) bool { return o.start() < faultFrom-resolution })
	out.Checks = append(out.Checks, stayedClosed(openings, faultFrom, before))
	if h.Sham {
		if first != nil && !before {
			out.Checks = append(out.Checks, Check{"stays closed without the fault", Fail,
				fmt.Sprintf("opened at %s, and nothing was injected", seconds(first.start()))})
		}
		out.Verdict = worst(out.Checks)
		return out
	}

	if first != nil {
		out.OpenedAtS = ptr(sec(first.start()))
		out.TimeToOpenS = ptr(sec(max(0, first.start()-faultFrom)))
	}
	if last != nil && last.ended {
		out.ClosedAtS = ptr(sec(last.end()))
		out.TimeToCloseS = ptr(sec(max(0, last.end()-faultTo)))
	}
	var inFault []opening
	for _, o := range openings {
		if o.end() > faultFrom {
			inFault = append(inFault, o)
			out.Probes += o.calls
			if o.start() > faultFrom && first != nil && o.from != first.from {
				if o.start() <= faultTo {
					out.Flaps++
				} else {
					r.warn("breaker on %s: opened again at %s, %s after the fault had ended", b.Edge, seconds(o.start()), seconds(o.start()-faultTo))
				}
			}
		}
	}
	open := r.whileOpen(h, b, w, inFault)
	out.UpstreamPerS, out.FailFastS = open.perS, open.quantiles()

	if b.Opens > 0 {
		out.Checks = append(out.Checks, opensCheck(b, first, faultFrom, end, w.passing(faultFrom, min(faultTo, end))))
	}
	for _, c := range b.Open {
		out.Checks = append(out.Checks, open.check(c, orDefault(h.Confidence), first != nil))
	}
	if b.Closes > 0 {
		out.Checks = append(out.Checks, closesCheck(b, last, faultTo, end))
	}
	if b.Flaps != nil {
		out.Checks = append(out.Checks, flapsCheck(*b.Flaps, out.Flaps, first != nil))
	}
	out.Verdict = worst(out.Checks)
	return out
}

// actual is when the fault that should open the breaker really began and ended.
func (r *record) actual(h Hypotheses, b Breaker) (from, to time.Duration) {
	from, to = b.FaultFrom, b.FaultTo
	for _, f := range h.Faults {
		start, end, ok := r.inPlace(f.Name)
		if !ok {
			continue
		}
		if f.At == b.FaultFrom {
			from = max(from, start)
		}
		if f.At+f.For == b.FaultTo && end < r.last {
			to = max(to, end)
		}
	}
	return from, max(from, to)
}

// wireOf bins the edge and its caller, up to end.
func (r *record) wireOf(h Hypotheses, b Breaker, end, faultFrom time.Duration) wire {
	n := int(end / step)
	if n <= 0 || n > mostBins {
		return wire{}
	}
	w := wire{calls: make([]float64, n), answers: make([]float64, n), expected: make([]float64, n)}
	_, w.seen = r.edges[b.Edge]
	for _, line := range r.edges[b.Edge] {
		spread(w.calls, line.since, line.at, float64(line.Calls))
	}
	for _, edge := range b.CallerEdges {
		for _, line := range r.edges[edge] {
			var answered int
			for outcome, n := range line.Answers {
				if isStatus(outcome) {
					answered += n
				}
			}
			spread(w.answers, line.since, line.at, float64(answered))
		}
	}
	for _, load := range b.CallerLoads {
		r.eachAnswer(load, func(due, latency time.Duration, n float64) {
			if k := int((due + step/2 + latency) / step); k >= 0 && k < len(w.answers) {
				w.answers[k] += n
			}
		})
	}

	quiet := min(n, max(0, int(faultFrom/step)))
	var calls, answers float64
	for k := range quiet {
		calls += w.calls[k]
		answers += w.answers[k]
	}
	w.baseline = calls
	if quiet > 0 {
		w.perS = calls / (float64(quiet) * step.Seconds())
	}
	if len(b.CallerEdges)+len(b.CallerLoads) == 0 {
		// Nobody is known to call the caller: it acts by itself, as it did before.
		for k := range w.expected {
			w.expected[k] = w.perS * step.Seconds()
		}
		return w
	}
	if answers > 0 {
		w.ratio = calls / answers
	}
	for k := range w.expected {
		w.expected[k] = w.ratio * w.answers[k]
	}
	return w
}

// spread puts n things that happened in (since, at] into the bins.
func spread(bins []float64, since, at time.Duration, n float64) {
	if n == 0 || at <= since {
		return
	}
	for k := max(0, int(since/step)); k <= int(at/step) && k < len(bins); k++ {
		from, to := max(since, time.Duration(k)*step), min(at, time.Duration(k+1)*step)
		if to > from {
			bins[k] += n * float64(to-from) / float64(at-since)
		}
	}
}

// eachAnswer calls f for a stream's answers, by when they were due and how long
// they took; those that failed without an answer are left out.
func (r *record) eachAnswer(load string, f func(due, latency time.Duration, n float64)) {
	st := r.streams[load]
	if st == nil {
		return
	}
	for _, k := range st.order {
		s, due := st.slots[k], time.Duration(k)*step
		for _, b := range s.okLatency {
			f(due, b.high, float64(b.n))
		}
		if s.failed == 0 {
			continue
		}
		real := math.Min(1, float64(s.answered)/float64(s.failed))
		for _, b := range s.failedLatency {
			if real > 0 {
				f(due, b.high, float64(b.n)*real)
			}
		}
	}
}

// unusable says why nothing can be inferred from the wire, or "".
func (w wire) unusable(b Breaker, faultFrom time.Duration) string {
	switch {
	case !w.seen:
		return fmt.Sprintf("nothing was seen on edge %q in the whole run", b.Edge)
	case w.baseline < leastCalls:
		return fmt.Sprintf("only %.0f calls passed before the fault at %s: too few to know the rate from which it could fall (%d are needed)",
			w.baseline, seconds(faultFrom), leastCalls)
	case w.ratio == 0 && len(b.CallerEdges)+len(b.CallerLoads) > 0:
		return "the caller answered nobody before the fault: there is nothing to compare its calls with"
	}
	return ""
}

// openings finds the spans in which the breaker was not closed: the most likely
// sequence of two states given the bins, a change costing `turn` (Viterbi).
//
// In a closed bin calls are Poisson around the expected e, in an open one around
// leak·e, so that a bin with c calls speaks for open by
//
//	e·(1-leak) - c·ln(1/leak)
//
// A call that came in an open span therefore costs about four silent expected
// ones: probes do not end it, returning traffic does at once. It also says where
// this ends: a breaker that lets more than (1-leak)/ln(1/leak), a quarter, of the
// calls pass as probes is not told from a caller that calls less.
func (w wire) openings() []opening {
	n := len(w.calls)
	const closed, open = 0, 1
	cameFrom := make([][2]uint8, n)
	score := [2]float64{0, -turn}
	for k := range n {
		for to := range 2 {
			cameFrom[k][to] = uint8(to)
		}
		next := score
		if score[open]-turn > score[closed] {
			next[closed], cameFrom[k][closed] = score[open]-turn, open
		}
		if score[closed]-turn > score[open] {
			next[open], cameFrom[k][open] = score[closed]-turn, closed
		}
		next[open] += math.Min(binWorth, w.expected[k]*(1-leak)) - w.calls[k]*math.Log(1/leak)
		score = next
	}
	state := make([]bool, n) // open?
	s := uint8(closed)
	if score[open] > score[closed] {
		s = open
	}
	for k := n - 1; k >= 0; k-- {
		state[k] = s == open
		s = cameFrom[k][s]
	}

	var found []opening
	for k := 0; k < n; {
		if !state[k] {
			k++
			continue
		}
		o := opening{span: span{from: k}}
		for k < n && state[k] {
			k++
		}
		o.to, o.ended = k, k < n
		// A stay in closed that is over within three bins, or carries less than half
		// the usual calls, was a half-open breaker letting several probes through.
		if m := len(found); m > 0 {
			gap := span{found[m-1].to, o.from}
			var calls, expected float64
			for i := gap.from; i < gap.to; i++ {
				calls += w.calls[i]
				expected += w.expected[i]
			}
			if gap.to-gap.from < 3 || calls < expected/2 {
				found[m-1].to, found[m-1].ended = o.to, o.ended
				continue
			}
		}
		found = append(found, o)
	}
	for i := range found {
		o := &found[i]
		var calls float64
		for k := o.from + 2; k < o.to; k++ {
			if w.calls[k] < 1e-9 {
				continue
			}
			calls += w.calls[k]
			if m := len(o.probes); m > 0 && o.probes[m-1].to == k {
				o.probes[m-1].to++
			} else {
				o.probes = append(o.probes, span{k, k + 1})
			}
		}
		o.calls = int(math.Round(calls))
	}
	return found
}

// spansOf draws the states over the whole run.
func spansOf(openings []opening, end time.Duration) []Span {
	var all []Span
	at := time.Duration(0)
	add := func(state string, to time.Duration) {
		if to > at {
			all = append(all, Span{state, sec(at), sec(to)})
			at = to
		}
	}
	for _, o := range openings {
		add("closed", o.start())
		for _, p := range o.probes {
			add("open", p.start())
			add("half-open", p.end())
		}
		add("open", o.end())
	}
	add("closed", end)
	return all
}

// worst is the verdict of several checks, all of which must pass.
func worst(checks []Check) Verdict {
	v := Pass
	for _, c := range checks {
		switch c.Verdict {
		case Fail:
			return Fail
		case Inconclusive:
			v = Inconclusive
		}
	}
	return v
}

func stayedClosed(openings []opening, faultFrom time.Duration, before bool) Check {
	c := Check{Claim: "closed before the fault", Verdict: Pass, Detail: "no opening was seen before it"}
	if before {
		c.Verdict = Fail
		c.Detail = fmt.Sprintf("was open at %s, before the fault began at %s", seconds(openings[0].start()), seconds(faultFrom))
	}
	return c
}

// passing is the share of the expected calls that came, in words; "" where none was expected.
func (w wire) passing(from, to time.Duration) string {
	var calls, expected float64
	for k := max(0, int(from/step)); k < min(int(to/step), len(w.calls)); k++ {
		calls += w.calls[k]
		expected += w.expected[k]
	}
	if expected < 1 {
		return ""
	}
	return fmt.Sprintf(" (%.0f %% of the calls that its answers let expect)", 100*calls/expected)
}

func opensCheck(b Breaker, first *opening, faultFrom, end time.Duration, passing string) Check {
	c := Check{Claim: "opens within " + b.Opens.String()}
	switch {
	case first == nil && end < faultFrom+b.Opens:
		c.Verdict, c.Detail = Inconclusive, "had not opened when the run ended"
	case first == nil:
		c.Verdict, c.Detail = Fail, "never opened: the caller went on calling"+passing
	case first.start() < faultFrom-resolution:
		c.Verdict, c.Detail = Inconclusive, "was open already when the fault began"
	default:
		after := max(0, first.start()-faultFrom)
		c.Verdict = onTime(after, b.Opens)
		c.Detail = fmt.Sprintf("opened %s after the fault began", seconds(after))
	}
	return c
}

func closesCheck(b Breaker, last *opening, faultTo, end time.Duration) Check {
	c := Check{Claim: "closes within " + b.Closes.String()}
	switch {
	case last == nil:
		c.Verdict, c.Detail = Inconclusive, "never opened, so there was nothing to close"
	case !last.ended && end < faultTo+b.Closes:
		c.Verdict, c.Detail = Inconclusive, fmt.Sprintf("still open %s after the fault ended, when the run was over: too early to tell", seconds(max(0, end-faultTo)))
	case !last.ended:
		c.Verdict, c.Detail = Fail, fmt.Sprintf("still open %s after the fault ended", seconds(end-faultTo))
	case last.end() <= faultTo:
		c.Verdict, c.Detail = Pass, fmt.Sprintf("was closed already when the fault ended (since %s before it)", seconds(faultTo-last.end()))
	default:
		c.Verdict = onTime(last.end()-faultTo, b.Closes)
		c.Detail = fmt.Sprintf("closed for good %s after the fault ended", seconds(last.end()-faultTo))
	}
	return c
}

// onTime compares a moment known to 100 ms with its limit.
func onTime(took, limit time.Duration) Verdict {
	switch {
	case took <= limit:
		return Pass
	case took <= limit+resolution:
		return Inconclusive
	}
	return Fail
}

func flapsCheck(allowed, flaps int, opened bool) Check {
	c := Check{Claim: fmt.Sprintf("flaps at most %d", allowed), Verdict: Pass, Detail: "closed and opened again " + plural(flaps, "time", "times") + " in the fault"}
	switch {
	case !opened:
		c.Verdict, c.Detail = Inconclusive, "never opened"
	case flaps > allowed:
		c.Verdict = Fail
	}
	return c
}

// openTime is what happened while the breaker was open.
type openTime struct {
	answers []bucket // the caller's, of calls that began while it was open
	perS    *float64 // calls on the edge per second
	calls   float64
	length  time.Duration
}

// whileOpen gathers the caller's answers while open, and the calls that still
// went out.
//
// Counted are answers to calls that began while the breaker was open: what was
// under way when it opened still waits for the old trouble. Calls that began
// around a probe are left out, because one of them is the probe.
func (r *record) whileOpen(h Hypotheses, b Breaker, w wire, openings []opening) openTime {
	var o openTime
	var inside []span
	for _, op := range openings {
		for k := op.from + 1; k < op.to; k++ {
			o.calls += w.calls[k]
			o.length += step
		}
		at := op.from + 1
		for _, p := range op.probes {
			inside = append(inside, span{at, p.from - 1})
			at = p.to + 1
		}
		inside = append(inside, span{at, op.to - 1})
	}
	if len(inside) == 0 {
		return o
	}
	began := func(t time.Duration) bool {
		return slices.ContainsFunc(inside, func(s span) bool { return t >= s.start() && t < s.end() })
	}
	for _, edge := range b.CallerEdges {
		for _, line := range r.edges[edge] {
			if line.at < inside[0].start() {
				continue
			}
			middle := line.since + (line.at-line.since)/2
			for _, bk := range r.decode(line.Latency, edge) {
				if began(middle - bk.high) {
					o.answers = append(o.answers, bk)
				}
			}
		}
	}
	for _, load := range b.CallerLoads {
		r.eachAnswer(load, func(due, latency time.Duration, n float64) {
			if began(due + step/2) {
				o.answers = append(o.answers, bucket{latency, latency, int(math.Round(n))})
			}
		})
	}
	slices.SortStableFunc(o.answers, func(a, b bucket) int { return int(a.high - b.high) })
	if o.length > 0 {
		o.perS = ptr(math.Round(o.calls/o.length.Seconds()*1000) / 1000)
	}
	return o
}

func (o openTime) count() (n int) {
	for _, b := range o.answers {
		n += b.n
	}
	return n
}

func (o openTime) quantiles() map[string]float64 {
	n := o.count()
	if n == 0 {
		return nil
	}
	q := map[string]float64{}
	for name, at := range map[string]float64{"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99} {
		if v := rank(o.answers, n, at); v != nil {
			q[name] = *v
		}
	}
	return q
}

// check judges one `open:` clause. Calls per second are a fact of this run and
// compared as they are; answer times are a share, with bounds as everywhere.
func (o openTime) check(c expect.Clause, confidence float64, opened bool) Check {
	out := Check{Claim: "while open: " + c.String(), Verdict: Inconclusive}
	if !opened {
		out.Detail = "never opened"
		return out
	}
	if c.Metric == expect.Upstream {
		if o.perS == nil {
			out.Detail = "it was open for too short a time to count calls"
			return out
		}
		out.Detail = fmt.Sprintf("%.2g calls per second in %s", *o.perS, seconds(o.length))
		holds := map[string]bool{"<": *o.perS < c.PerS, "<=": *o.perS <= c.PerS, ">": *o.perS > c.PerS, ">=": *o.perS >= c.PerS}[c.Op]
		out.Verdict = Fail
		if holds {
			out.Verdict = Pass
		}
		return out
	}
	n := o.count()
	if n == 0 {
		out.Detail = "nobody was answered while it was open"
		return out
	}
	cl, _ := claimOf(c)
	var good int
	for _, b := range o.answers {
		if b.low <= c.Limit {
			good += b.n
		}
	}
	if c.Metric == expect.OK {
		out.Detail = "the wire does not tell which answers of the caller are ok: judge it on the load stream"
		return out
	}
	low, high := bounds(float64(good), float64(n), confidence)
	out.Verdict = cl.verdict(low, high)
	out.Detail = fmt.Sprintf("%s of the caller's %s came within %s", percent(float64(good)/float64(n)), plural(n, "answer", "answers"), c.Limit)
	if v := rank(o.answers, n, c.Quantile); v != nil {
		out.Detail = fmt.Sprintf("%s is %s; %s", c.Name(), seconds(time.Duration(*v*float64(time.Second))), out.Detail)
	}
	if out.Verdict == Inconclusive {
		if total := cl.enough(float64(good)/float64(n), confidence); total > 0 {
			out.Detail += fmt.Sprintf("; about %s more would decide", plural(max(1, int(total)-n), "answer", "answers"))
		}
	}
	return out
}

// reported is the breaker as the service tells it, in its metrics where it has
// some: what is asked for counts more than what a reference service offers.
func (r *record) reported(edge string) (all []Span, by string) {
	lines := r.breakers[edge]
	if i := slices.IndexFunc(lines, func(l breakerLine) bool { return l.source != "" }); i >= 0 {
		by = lines[i].source
		lines = slices.DeleteFunc(slices.Clone(lines), func(l breakerLine) bool { return l.source != by })
	}
	for i, line := range lines {
		to := r.last
		if i+1 < len(lines) {
			to = lines[i+1].at
		}
		if n := len(all); n > 0 && all[n-1].State == line.state {
			all[n-1].ToS = sec(to)
			continue
		}
		all = append(all, Span{line.state, sec(line.at), sec(to)})
	}
	return all, by
}

// disagreement compares the wire with the service's own report, if there is
// one: for how long one of them says closed and the other does not.
func disagreement(edge string, wire, reported []Span, end time.Duration) string {
	if len(reported) == 0 {
		return ""
	}
	away := func(spans []Span, from, to float64) float64 {
		var sum float64
		for _, s := range spans {
			if s.State != "closed" {
				sum += math.Max(0, math.Min(s.ToS, to)-math.Max(s.FromS, from))
			}
		}
		return sum
	}
	stays := func(spans []Span) (all []Span) { // open and half-open in a row are one stay
		for _, s := range spans {
			if s.State == "closed" {
				continue
			}
			if n := len(all); n > 0 && s.FromS-all[n-1].ToS < 1e-9 {
				all[n-1].ToS = s.ToS
			} else {
				all = append(all, s)
			}
		}
		return all
	}
	for _, side := range []struct {
		says, other string
		a, b        []Span
	}{{"the wire", "the service", wire, reported}, {"the service", "the wire", reported, wire}} {
		for _, s := range stays(side.a) {
			to := math.Min(s.ToS, end.Seconds())
			apart := (to - s.FromS) - away(side.b, s.FromS, to)
			if apart > 2*agree.Seconds() {
				return fmt.Sprintf("breaker on %s: %s shows it open from %.1f s to %.1f s, %s says closed for %.1f s of that",
					edge, side.says, s.FromS, to, side.other, apart)
			}
		}
	}
	return ""
}
