package reports

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// evidence is the journal folded into what pictures need: everything on one clock
// (seconds since the run's start), cut into buckets of equal width.
type evidence struct {
	start  *journal.Start // nil: the journal has no first line
	plan   planWords
	end    float64 // of the run
	bucket float64 // width
	count  int     // of buckets, 1 or more

	phases []chart.Span // as they took place; as planned where the journal has none
	bands  []chart.Span // faults, from injected to reverted
	loads  []loadEvidence
	edges  []edgeEvidence
	delays []delayEvidence

	services []journal.Event
	samples  []journal.Sample
	marks    []journal.Event
	aborts   []journal.Event

	unreadable int // histograms that could not be decoded
}

// planWords is what a report says of the plan. The plan's own type belongs to
// experiments; a journal of another version may lack any of it.
type planWords struct {
	Description string   `json:"description"`
	File        string   `json:"file"`
	Timescale   float64  `json:"timescale"`
	Rows        []int    `json:"rows"`
	MustFail    []string `json:"must_fail"`
}

// loadEvidence is one stream of load, by the time requests were due.
type loadEvidence struct {
	name     string
	from, to float64 // first and last due
	buckets  []loadBucket
	phases   []phaseLatency // as evidence.phases, and one for requests of none
	byPhase  []phaseLatency // those of phases in which requests finished
}

type loadBucket struct {
	from, width     float64 // width: the part of the bucket in which requests were due
	due, sent       int
	ok, failed      int
	queued, dropped int
	late            int
	p50, p95, p99   float64        // seconds; NaN: nothing finished; +Inf: falls among the failed
	latency         *hdr.Histogram // of the ok; nil: none
}

type phaseLatency struct {
	phase  string
	ok     *hdr.Histogram
	failed int
}

// edgeEvidence is one edge as its proxy saw it.
type edgeEvidence struct {
	name            string
	calls, upstream []float64 // per second
	total           journal.Edge
}

// delayEvidence is what one fault added on one edge.
type delayEvidence struct {
	fault, edge string
	p50, p95    []float64 // seconds, NaN where nothing was delayed
	delays      []*hdr.Histogram
}

// roundWidth cuts the run into at most about most buckets of a width that people
// count in, half a second or more. fitting uses all the places there are.
func roundWidth(end float64, most int) float64 {
	for _, w := range []float64{0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 6 * 3600} {
		if end/w <= float64(most) {
			return w
		}
	}
	return fitting(end, most)
}

func fitting(end float64, most int) float64 {
	return max(math.Ceil(end/float64(max(most, 1))*10-1e-9)/10, 0.1)
}

// gather folds the journal into about most buckets, of the width that width says.
func gather(r Report, most int, width func(end float64, most int) float64) evidence {
	e := evidence{plan: planOf(r.Events)}
	for _, ev := range r.Events {
		e.end = max(e.end, ev.At.Seconds())
	}
	if e.end == 0 {
		for _, p := range r.Hypotheses.Phases {
			e.end = max(e.end, p.End.Seconds())
		}
	}
	if !(e.end > 0) || e.end > 1e8 {
		e.end = min(max(e.end, 1), 1e8)
	}
	e.bucket = width(e.end, most)
	e.count = max(int(math.Ceil(e.end/e.bucket-1e-9)), 1)

	e.placePhases(r)
	e.readEvents(r)
	for _, f := range r.Result.Faults {
		if f.InjectedAtS == nil {
			continue
		}
		to := e.end
		if f.RevertedAtS != nil {
			to = *f.RevertedAtS
		}
		label := f.Name
		if f.Kind != "" && f.Kind != f.Name {
			label += " (" + f.Kind + ")"
		}
		e.bands = append(e.bands, chart.Span{From: *f.InjectedAtS, To: to, Label: label})
	}
	slices.SortStableFunc(e.bands, func(a, b chart.Span) int {
		switch {
		case a.From < b.From:
			return -1
		case a.From > b.From:
			return 1
		}
		return 0
	})
	e.measure()
	return e
}

func (e *evidence) at(seconds float64) int {
	return min(max(int(seconds/e.bucket+1e-9), 0), e.count-1)
}

func (e *evidence) readEvents(r Report) {
	loads := map[string]int{}
	for _, l := range r.Hypotheses.Loads {
		e.load(loads, l.Name)
	}
	edges, delays := map[string]int{}, map[[2]string]int{}
	for _, ev := range r.Events {
		switch {
		case ev.Start != nil:
			if e.start == nil {
				e.start = ev.Start
			}
		case ev.Window != nil && ev.Window.Setup:
		case ev.Window != nil:
			w, due := ev.Window, time.Duration(ev.Window.DueS).Seconds()
			l := &e.loads[e.load(loads, w.Load)]
			l.from, l.to = min(l.from, due), max(l.to, due+0.1)
			b := &l.buckets[e.at(due)]
			b.due += w.Due
			b.sent += w.Sent
			b.ok += w.OK
			b.failed += w.Failed
			b.queued += w.Queued
			b.dropped += w.Dropped
			b.late += w.Late
			phase := l.phase(e.phases, due)
			phase.failed += w.Failed
			if h := e.decode(w.OKLatency); h != nil {
				b.latency = plus(b.latency, h)
				phase.ok.Merge(h)
			}
		case ev.Sample != nil:
			e.samples = append(e.samples, *ev.Sample)
		case ev.Edge != nil:
			e.addEdge(edges, delays, ev)
		case ev.Service != nil:
			e.services = append(e.services, ev)
		case ev.Mark != nil:
			e.marks = append(e.marks, ev)
		case ev.Abort != nil:
			e.aborts = append(e.aborts, ev)
		}
	}
}

// load finds the stream, or adds it.
func (e *evidence) load(index map[string]int, name string) int {
	i, ok := index[name]
	if !ok {
		i = len(e.loads)
		index[name] = i
		l := loadEvidence{name: name, from: math.Inf(1), buckets: make([]loadBucket, e.count), phases: make([]phaseLatency, len(e.phases)+1)}
		e.loads = append(e.loads, l)
	}
	return i
}

func (e *evidence) addEdge(edges map[string]int, delays map[[2]string]int, ev journal.Event) {
	seen := ev.Edge
	i, ok := edges[seen.Edge]
	if !ok {
		i = len(e.edges)
		edges[seen.Edge] = i
		e.edges = append(e.edges, edgeEvidence{name: seen.Edge, calls: make([]float64, e.count), upstream: make([]float64, e.count),
			total: journal.Edge{Edge: seen.Edge, Answers: map[string]int{}}})
	}
	edge, b := &e.edges[i], e.at(ev.At.Seconds())
	edge.calls[b] += float64(seen.Calls) / e.bucket
	edge.upstream[b] += float64(seen.Upstream) / e.bucket
	edge.total.Calls += seen.Calls
	edge.total.Upstream += seen.Upstream
	edge.total.BytesUp += seen.BytesUp
	edge.total.BytesDown += seen.BytesDown
	for k, n := range seen.Answers {
		edge.total.Answers[k] += n
	}
	for _, fault := range slices.Sorted(maps.Keys(seen.Faults)) {
		delay := e.decode(seen.Faults[fault].Delay)
		if delay == nil {
			continue
		}
		key := [2]string{fault, seen.Edge}
		j, ok := delays[key]
		if !ok {
			j = len(e.delays)
			delays[key] = j
			e.delays = append(e.delays, delayEvidence{fault: fault, edge: seen.Edge, delays: make([]*hdr.Histogram, e.count)})
		}
		e.delays[j].delays[b] = plus(e.delays[j].delays[b], delay)
	}
}

func (e *evidence) placePhases(r Report) {
	for _, ev := range r.Events {
		if ev.Phase == nil {
			continue
		}
		at := ev.At.Seconds()
		if n := len(e.phases); n > 0 {
			e.phases[n-1].To = at
		}
		e.phases = append(e.phases, chart.Span{From: at, To: e.end, Label: ev.Phase.Name})
	}
	if len(e.phases) > 0 {
		return
	}
	for _, p := range r.Hypotheses.Phases {
		if p.Start.Seconds() < e.end {
			e.phases = append(e.phases, chart.Span{From: p.Start.Seconds(), To: min(p.End.Seconds(), e.end), Label: p.Name})
		}
	}
}

// phase is where a load's requests that were due at a moment are counted; the last
// entry takes those of no phase. A window belongs where most of its 100 ms do.
func (l *loadEvidence) phase(phases []chart.Span, due float64) *phaseLatency {
	at := len(phases)
	for i, span := range phases {
		if due >= span.From-0.05 && due < span.To-0.05 {
			at = i
			break
		}
	}
	p := &l.phases[at]
	if p.ok == nil {
		p.ok = hdr.New()
		if at < len(phases) {
			p.phase = phases[at].Label
		}
	}
	return p
}

// measure turns histograms into percentiles.
func (e *evidence) measure() {
	for i := range e.loads {
		l := &e.loads[i]
		for j := range l.buckets {
			b := &l.buckets[j]
			b.from = float64(j) * e.bucket
			b.width = max(min(b.from+e.bucket, l.to)-max(b.from, l.from), 0)
			b.p50, b.p95, b.p99 = quantile(b.latency, b.failed, 0.50), quantile(b.latency, b.failed, 0.95), quantile(b.latency, b.failed, 0.99)
		}
		for _, p := range l.phases[:len(l.phases)-1] {
			if p.ok != nil && (p.ok.Count() > 0 || p.failed > 0) {
				l.byPhase = append(l.byPhase, p)
			}
		}
	}
	for i := range e.delays {
		d := &e.delays[i]
		d.p50, d.p95 = make([]float64, e.count), make([]float64, e.count)
		for b, h := range d.delays {
			d.p50[b], d.p95[b] = quantile(h, 0, 0.50), quantile(h, 0, 0.95)
		}
	}
}

// decode is nil for what is empty, and for what cannot be read, which is counted.
func (e *evidence) decode(s string) *hdr.Histogram {
	if s == "" {
		return nil
	}
	h, err := hdr.Decode(s)
	if err != nil {
		e.unreadable++
		return nil
	}
	return h
}

func plus(sum, h *hdr.Histogram) *hdr.Histogram {
	if sum == nil {
		sum = hdr.New()
	}
	sum.Merge(h)
	return sum
}

// quantile is the q-quantile, in seconds, of all finished requests, the failed
// ones counting as slower than any other: NaN when nothing finished, +Inf when it
// falls among the failed.
func quantile(ok *hdr.Histogram, failed int, q float64) float64 {
	var good int64
	if ok != nil {
		good = ok.Count()
	}
	all := good + int64(failed)
	if all <= 0 {
		return math.NaN()
	}
	rank := max(int64(math.Ceil(q*float64(all)-1e-9)), 1)
	if rank > good {
		return math.Inf(1)
	}
	// Half a rank down, so that Quantile's rounding up meets exactly this one.
	return ok.Quantile((float64(rank) - 0.5) / float64(good)).Seconds()
}

// planOf reads what reports need of the plan; a plan that cannot be read leaves
// its words empty (it is still shown whole).
func planOf(events []journal.Event) (p planWords) {
	for _, ev := range events {
		if ev.Start != nil {
			_ = json.Unmarshal(ev.Start.Plan, &p)
			break
		}
	}
	return p
}
