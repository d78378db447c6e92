package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// loadOutcome adds up what a load's windows say. One goroutine adds; it is read
// when the load is over.
type loadOutcome struct {
	status    string // completed, interrupted
	took      time.Duration
	generator generatorHealth

	total    loadCounts // of what was due after the warm-up
	steps    stepCounts // the same, of each step of the sessions
	setups   stepCounts // of the steps of a setup, warm-up included; in no total
	sessions *loadgen.Sessions
	last     time.Duration
	details  map[string]string // an example of each kind of error
	windows  []journal.Event
	warmup   time.Duration
	judged   bool // the windows are kept, for the verdict

	seconds map[int64]*loadCounts // by due time, warm-up included; nil where nobody wants them
}

// stepCounts adds up windows by the name of their step.
type stepCounts map[string]*loadCounts

func (s stepCounts) add(w loadgen.Window) {
	if s[w.Step] == nil {
		s[w.Step] = newLoadCounts()
	}
	s[w.Step].add(w)
}

// results are the steps in result.json's terms, in the order of names; what was
// never asked is left out.
func (s stepCounts) results(names []string) []verdict.LoadResult {
	var all []verdict.LoadResult
	for _, name := range names {
		if c := s[name]; c != nil {
			all = append(all, c.result(name))
		}
	}
	return all
}

// loadCounts is a sum of windows.
type loadCounts struct {
	due, sent, ok, failed, queued, dropped, late, connects, resumed int
	bytesSent, bytesReceived                                        int64
	latency                                                         *hdr.Histogram // of ok and failed
	service, firstByte, connect, handshake, lag                     *hdr.Histogram
	outcomes                                                        map[string]int
}

func newLoadCounts() *loadCounts {
	return &loadCounts{latency: hdr.New(), service: hdr.New(), firstByte: hdr.New(), connect: hdr.New(), handshake: hdr.New(), lag: hdr.New(), outcomes: map[string]int{}}
}

func (c *loadCounts) add(w loadgen.Window) {
	c.due += w.DueCount
	c.sent += w.Sent
	c.ok += w.OK
	c.failed += w.Failed
	c.queued += w.Queued
	c.dropped += w.Dropped
	c.late += w.Late
	c.connects += w.Connects
	c.resumed += w.Resumed
	c.bytesSent += w.BytesSent
	c.bytesReceived += w.BytesReceived
	c.latency.Merge(w.OKLatency)
	c.latency.Merge(w.FailedLatency)
	c.service.Merge(w.Service)
	c.firstByte.Merge(w.FirstByte)
	c.connect.Merge(w.Connect)
	c.handshake.Merge(w.Handshake)
	c.lag.Merge(w.Lag)
	for name, n := range w.Outcomes {
		c.outcomes[name] += n
	}
}

func newLoadOutcome(p *loadPlan) *loadOutcome {
	o := &loadOutcome{
		status: "completed", total: *newLoadCounts(), steps: stepCounts{}, setups: stepCounts{}, details: map[string]string{}, warmup: p.warmup, judged: len(p.objectives) > 0,
	}
	if p.perSecond {
		o.seconds = map[int64]*loadCounts{}
	}
	return o
}

func (o *loadOutcome) add(w loadgen.Window) {
	if w.Setup {
		o.setups.add(w)
		// Connections are the stream's, whatever they were first made for.
		o.total.connects += w.Connects
		o.total.resumed += w.Resumed
		o.total.connect.Merge(w.Connect)
		o.total.handshake.Merge(w.Handshake)
		return
	}
	o.last = max(o.last, w.Due+windowLength)
	if o.seconds != nil {
		second := int64(w.Due / time.Second)
		if o.seconds[second] == nil {
			o.seconds[second] = newLoadCounts()
		}
		o.seconds[second].add(w)
	}
	if w.Due >= o.warmup {
		o.total.add(w)
		if w.Step != "" {
			o.steps.add(w)
		}
		if w.Sessions != nil {
			o.countSessions(*w.Sessions)
		}
	}
	if o.judged {
		o.windows = append(o.windows, journal.Event{At: w.Due + windowLength, Window: &journal.Window{
			Load: w.Load, Step: w.Step, DueS: journal.Secs(w.Due), Due: w.DueCount, Sent: w.Sent, OK: w.OK, Failed: w.Failed,
			Queued: w.Queued, Dropped: w.Dropped, Late: w.Late,
			OKLatency: w.OKLatency.Encode(), FailedLatency: w.FailedLatency.Encode(), Outcomes: w.Outcomes,
		}})
	}
}

func (o *loadOutcome) countSessions(s loadgen.Sessions) {
	if o.sessions == nil {
		o.sessions = &loadgen.Sessions{Duration: hdr.New()}
	}
	o.sessions.Completed += s.Completed
	o.sessions.Failed += s.Failed
	o.sessions.Cut += s.Cut
	o.sessions.Duration.Merge(s.Duration)
}

// windowLength is what a loadgen.Window covers.
const windowLength = 100 * time.Millisecond

func (o *loadOutcome) sample(s loadgen.Sample) {
	if s.Detail != "" && o.details[s.Outcome] == "" {
		o.details[s.Outcome] = s.Detail
	}
}

// length is how long requests fell due, after the warm-up.
func (o *loadOutcome) length(p *loadPlan) time.Duration {
	switch {
	case p.requests == 0 && o.status == "completed":
		return p.duration
	case p.spec.Model() == "closed": // its last request fell due shortly before its answer
		return max(min(o.took-p.warmup, p.duration), time.Millisecond)
	case uint64(o.total.due) == p.requests && p.requests <= mostCounted:
		if first, next, ok := p.dueTimes(); ok {
			return max(next-first, time.Millisecond)
		}
	}
	return max(min(o.last-p.warmup, p.duration), windowLength)
}

// mostCounted bounds the due times that are counted out to know a length exactly.
const mostCounted = 10_000_000

// dueTimes are when the first request is due, and the one after the last.
func (p *loadPlan) dueTimes() (first, next time.Duration, ok bool) {
	process, _ := p.spec.Arrivals(p.seed)
	s := arrival.On(process)
	first, ok = s.Next()
	for range p.requests {
		next, ok = s.Next()
	}
	return first, next, ok
}

// events are the journal that such a run would have had.
func (o *loadOutcome) events(p *loadPlan) []journal.Event {
	slices.SortStableFunc(o.windows, func(a, b journal.Event) int { return cmp.Compare(a.At, b.At) }) // told as they were complete
	events := append([]journal.Event{{Start: &journal.Start{Version: journal.Version, Seed: p.seed}}}, o.windows...)
	end := max(o.took, p.warmup+o.length(p))
	if o.status == "interrupted" {
		events = append(events, journal.Event{At: end, Abort: &journal.Abort{Reason: "interrupted", Interrupted: true}})
	}
	return append(events, journal.Event{At: end, End: &journal.End{Status: o.status}})
}

// loadResult is what --output json prints: the load of result.json, and more
// about it. Times are in seconds.
type loadResult struct {
	verdict.LoadResult
	MinS     float64 `json:"min_s"`
	MeanS    float64 `json:"mean_s"`
	Canceled int     `json:"canceled"` // cut off by Ctrl-C; neither ok nor failed

	URL       string  `json:"url"`
	Address   string  `json:"address"`
	Seed      uint64  `json:"seed"`
	Engine    string  `json:"engine"`     // fast, general
	Status    string  `json:"status"`     // completed, interrupted
	DurationS float64 `json:"duration_s"` // in which requests fell due
	TookS     float64 `json:"took_s"`     // until the last answer, warm-up included
	AskedPerS float64 `json:"asked_per_s,omitempty"`
	SentPerS  float64 `json:"sent_per_s"`
	OKPerS    float64 `json:"ok_per_s"`

	Errors    map[string]string `json:"errors,omitempty"` // an example of each class
	Generator generatorHealth   `json:"generator"`

	Verdict    verdict.Verdict           `json:"verdict,omitempty"`
	Reasons    []string                  `json:"reasons,omitempty"`
	Objectives []verdict.ObjectiveResult `json:"objectives,omitempty"`
	Warnings   []string                  `json:"warnings"`
}

// result is what every stream and step has in result.json.
func (c *loadCounts) result(name string) verdict.LoadResult {
	r := verdict.LoadResult{
		Name: name, Due: c.due, Sent: c.sent, OK: c.ok, Failed: c.failed,
		Queued: c.queued, Dropped: c.dropped, Late: c.late, Outcomes: c.outcomes,
	}
	if q := quantilesOf(c.latency); q != nil {
		r.P50S, r.P90S, r.P95S, r.P99S, r.P999S, r.MaxS = q.P50S, q.P90S, q.P95S, q.P99S, q.P999S, q.MaxS
	}
	return r
}

func quantilesOf(h *hdr.Histogram) *verdict.Distribution {
	if h.Count() == 0 {
		return nil
	}
	q := func(x float64) float64 { return h.Quantile(x).Seconds() }
	return &verdict.Distribution{P50S: q(0.5), P90S: q(0.9), P95S: q(0.95), P99S: q(0.99), P999S: q(0.999), MaxS: q(1)}
}

// fewConnects is too few requests to say anything of keep-alive.
const fewConnects = 100

// result says everything that is known of a load.
func (p *loadPlan) result(o *loadOutcome) loadResult {
	c, length := &o.total, o.length(p).Seconds()
	r := loadResult{
		LoadResult: c.result(p.spec.Name),
		MinS:       c.latency.Min().Seconds(), MeanS: c.latency.Mean().Seconds(), Canceled: c.outcomes["canceled"],
		URL: p.target.url(), Address: p.target.address, Seed: p.seed, Status: o.status,
		DurationS: length, TookS: o.took.Seconds(), SentPerS: float64(c.sent) / length, OKPerS: float64(c.ok) / length,
		Errors: o.details, Generator: o.generator, Warnings: slices.Clone(p.warnings),
	}
	r.Model = p.spec.Model()
	r.Service, r.Lag = quantilesOf(c.service), quantilesOf(c.lag)
	r.FirstByte, r.Connect, r.Handshake = quantilesOf(c.firstByte), quantilesOf(c.connect), quantilesOf(c.handshake)
	r.Connects, r.Resumed, r.BytesSent, r.BytesReceived = c.connects, c.resumed, c.bytesSent, c.bytesReceived
	r.Steps, r.Setup = o.steps.results(p.spec.StepNames()), o.setups.results(p.spec.StepNames())
	if s := o.sessions; s != nil {
		r.Sessions = &verdict.SessionResult{
			Completed: s.Completed, Failed: s.Failed, Cut: s.Cut,
			P50S: s.Duration.Quantile(0.5).Seconds(), P95S: s.Duration.Quantile(0.95).Seconds(), MaxS: s.Duration.Max().Seconds(),
		}
	}
	engine, _, _ := p.config().Chosen() // its error was told before the start
	r.Engine = engine.String()
	if arrivals, open := p.spec.Arrivals(p.seed); open && p.requests == 0 {
		r.AskedPerS = (arrivals.Expected(p.warmup+o.length(p)) - arrivals.Expected(p.warmup)) / length
	}
	if len(p.objectives) > 0 {
		j := p.judge(o, p.objectives)
		r.Verdict, r.Reasons, r.Objectives = j.Verdict, j.Reasons, j.Objectives
		r.Warnings = append(r.Warnings, j.Warnings...)
	} else if verdict.Starved(c.late, c.due) {
		r.Warnings = append(r.Warnings, saturatedText(c))
	}
	if c.sent >= fewConnects && c.connects > c.sent/2 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("connections are hardly ever used twice (%s for %s requests): the server closes them, and most of what was measured is their making", chart.Count(c.connects), chart.Count(c.sent)))
	}
	switch {
	case c.due == 0:
		r.Warnings = append(r.Warnings, "no request was due in this time")
	case c.ok == 0 && c.failed > 0:
		r.Warnings = append(r.Warnings, "not one request was answered as it should be")
	}
	if r.Warnings == nil {
		r.Warnings = []string{}
	}
	return r
}

func saturatedText(c *loadCounts) string {
	return fmt.Sprintf("generator saturated: %s of %s requests were sent more than 10 ms late though a connection was free; the latencies are not the server's alone. Lower the rate, or give the generator more CPU",
		chart.Share(float64(c.late)/float64(c.due)), chart.Count(c.due))
}

func (r loadResult) exitCode() int {
	switch {
	case r.Status == "interrupted":
		return exitAborted
	case r.Verdict == verdict.Fail:
		return exitFail
	case r.Verdict == verdict.Inconclusive:
		return exitInconclusive
	}
	return exitPass
}

// perSecond are the seconds in their order, gaps included.
func (o *loadOutcome) perSecond(f func(second int64, c *loadCounts) error) error {
	keys := slices.Sorted(maps.Keys(o.seconds))
	if len(keys) == 0 {
		return nil
	}
	for s := keys[0]; s <= keys[len(keys)-1]; s++ {
		c := o.seconds[s]
		if c == nil {
			c = newLoadCounts()
		}
		if err := f(s, c); err != nil {
			return err
		}
	}
	return nil
}
