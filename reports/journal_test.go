package reports

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// The runs that the tests report on. None of them took place: their journals are
// written here, and every number of them comes from one seed.

const second = time.Second

func f(v float64) *float64 { return &v }

func p95(limit time.Duration) expect.Clause {
	return expect.Clause{Metric: expect.Percentile, Quantile: 0.95, Op: "<", Limit: limit}
}

func okShare(ratio float64) expect.Clause {
	return expect.Clause{Metric: expect.OK, Op: ">=", Ratio: ratio}
}

// failing is a full run in which one objective failed and one stayed undecided.
//
//	0   3           15        25  27    35            50  51
//	|wu | before    | during            | after       |drain
//	                [slow-payments      ]
//	                          [lose-stock 2 s]
func failing() Report {
	r := judgedFailing()
	for _, ev := range failingEvents() {
		// Tests change what they are given.
		if ev.Window != nil {
			w := *ev.Window
			ev.Window = &w
		}
		if ev.Start != nil {
			s := *ev.Start
			ev.Start = &s
		}
		r.Events = append(r.Events, ev)
	}
	return r
}

// failingEvents is made once: encoding a thousand histograms takes its time.
var failingEvents = sync.OnceValue(func() []journal.Event { return events(judgedFailing()) })

// judgedFailing is failing without its journal.
func judgedFailing() Report {
	start := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	zero := 0
	phases := []verdict.Phase{{Name: "warmup", Start: 0, End: 3 * second}, {Name: "before", Start: 3 * second, End: 15 * second}, {Name: "during", Start: 15 * second, End: 35 * second}, {Name: "after", Start: 35 * second, End: 50 * second}}
	r := Report{
		Description: "A slow payment provider may cost us speed, never the order.",
		Hypotheses: verdict.Hypotheses{
			Confidence: 0.95, Phases: phases,
			Loads: []verdict.Load{{Name: "shoppers", Model: "open", To: "gateway", Timeout: 10 * second}, {Name: "browsers", Model: "open", To: "gateway", Timeout: 10 * second}},
			Objectives: []verdict.Objective{
				{Load: "shoppers", Phase: "before", Clause: okShare(0.99)},
				{Load: "shoppers", Phase: "before", Clause: p95(150 * time.Millisecond)},
				{Load: "shoppers", Phase: "during", Clause: okShare(0.97), Settle: 3 * second},
				{Load: "shoppers", Phase: "during", Clause: p95(700 * time.Millisecond), Settle: 3 * second},
				{Load: "shoppers", Phase: "after", Clause: okShare(0.99), Recovery: 5 * second},
				{Load: "shoppers", Phase: "after", Clause: p95(150 * time.Millisecond), Recovery: 5 * second},
				{Load: "browsers", Phase: "during", Clause: okShare(0.999)},
			},
			Breakers:   []verdict.Breaker{{Edge: "orders -> payments", Opens: 5 * second, Closes: 15 * second, Flaps: &zero, FaultFrom: 15 * second, FaultTo: 35 * second}},
			Invariants: []string{"money", "stock"},
		},
		Result: verdict.Result{
			Version: 1, Run: "20260304-050607-k3v9", Scenario: "checkout-survives-slow-payments", Seed: 7, Status: "completed", Verdict: verdict.Fail,
			Reasons: []string{
				"shoppers during p95 < 700ms: 71.3% of 3400 were within 700 ms (at most 72.6%), 95% were asked",
				"browsers during ok >= 99.9%: undecided, 1 of 1000 failed; about 3,740 more arrivals (74.8 s) would decide",
			},
			Warnings:  []string{"the machine was busy: scheduler lag up to 4.20 ms"},
			StartedAt: start, DurationS: 51.2,
			JournalHead: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
			Environment: journal.Environment{Chaosctl: "v0.1.0", Go: "go1.26.8", OS: "linux", Arch: "amd64", CPUs: 2, Kernel: "6.1.0", Hostname: "ci-17"},
			Objectives: []verdict.ObjectiveResult{
				objective("shoppers", "before", "ok >= 99%", verdict.Pass, 0.99, 1, 0.99875, 1, 2400, f(1), f(0.9915), f(1)),
				objective("shoppers", "before", "p95 < 150ms", verdict.Pass, 0.95, 1, 0.99875, 1, 2400, f(0.0241), f(0.8312), f(0.0238)),
				objective("shoppers", "during", "ok >= 97%", verdict.Pass, 0.97, 0.9915, 0.9883, 0.9940, 3400, f(1), f(0.9915), f(1)),
				objective("shoppers", "during", "p95 < 700ms", verdict.Fail, 0.95, 0.7131, 0.6998, 0.7261, 3400, f(0.0241), f(0.8312), f(0.0238)),
				objective("shoppers", "after", "ok >= 99%", verdict.Pass, 0.99, 1, 0.9985, 1, 2000, f(1), f(0.9915), f(1)),
				objective("shoppers", "after", "p95 < 150ms", verdict.Pass, 0.95, 0.99951, 0.9976, 0.99999, 2000, f(0.0241), f(0.8312), f(0.0238)),
				objective("browsers", "during", "ok >= 99.9%", verdict.Inconclusive, 0.999, 0.999, 0.99526, 0.999949, 1000, f(1), f(0.999), f(1)),
			},
			Breakers: []verdict.BreakerResult{{
				Edge: "orders -> payments", Verdict: verdict.Pass, OpenedAtS: f(16.2), ClosedAtS: f(37.4), TimeToOpenS: f(1.2), TimeToCloseS: f(2.4), Flaps: 0, Probes: 6, UpstreamPerS: f(0.31),
				FailFastS: map[string]float64{"p99": 0.0042},
				Checks: []verdict.Check{
					{Claim: "opens within 5s", Verdict: verdict.Pass, Detail: "opened 1.20 s after the fault began"},
					{Claim: "open: p99 < 20ms", Verdict: verdict.Pass, Detail: "p99 4.20 ms of 3812 answers"},
					{Claim: "open: upstream <= 2/s", Verdict: verdict.Pass, Detail: "0.31/s"},
					{Claim: "closes within 15s", Verdict: verdict.Pass, Detail: "closed 2.40 s after the fault ended"},
					{Claim: "flaps <= 0", Verdict: verdict.Pass, Detail: "0 flaps"},
				},
				Spans:    []verdict.Span{{State: "closed", FromS: 0, ToS: 16.2}, {State: "open", FromS: 16.2, ToS: 21.2}, {State: "half-open", FromS: 21.2, ToS: 22.1}, {State: "open", FromS: 22.1, ToS: 27.1}, {State: "half-open", FromS: 27.1, ToS: 28}, {State: "open", FromS: 28, ToS: 36.2}, {State: "half-open", FromS: 36.2, ToS: 37.4}, {State: "closed", FromS: 37.4, ToS: 51.2}},
				Reported: []verdict.Span{{State: "closed", FromS: 0.2, ToS: 16.1}, {State: "open", FromS: 16.1, ToS: 36.1}, {State: "half-open", FromS: 36.1, ToS: 37.3}, {State: "closed", FromS: 37.3, ToS: 51.2}},
			}},
			Invariants: []verdict.InvariantResult{
				{Name: "money", Verdict: verdict.Pass, Detail: "debits equal credits in 9,971 entries", Values: map[string]float64{"entries": 9971, "difference": 0}},
				{Name: "stock", Verdict: verdict.Pass, Detail: "nothing oversold, nothing lost", Values: map[string]float64{"reserved": 0}},
			},
			Faults: []verdict.FaultResult{
				{Name: "slow-payments", Kind: "latency", Target: "orders -> payments", InjectedAtS: f(15.004), RevertedAtS: f(35.002), Fired: 212, ObservedOK: true, VerifiedReverted: true,
					Asked: map[string]float64{"ratio": 0.5, "delay_s": 0.8}, Observed: map[string]float64{"ratio": 0.4953, "delay_s": 0.80312}},
				{Name: "lose-stock", Kind: "kill", Target: "stock", InjectedAtS: f(25.001), RevertedAtS: f(27.204), Fired: 1, ObservedOK: true, VerifiedReverted: true,
					Asked: map[string]float64{"instances": 1, "down_s": 2}, Observed: map[string]float64{"instances": 1, "down_s": 2.203}},
			},
			Load: []verdict.LoadResult{
				{Name: "shoppers", Model: "open", Due: 10000, Sent: 10000, OK: 9971, Failed: 29, Queued: 12, P50S: 0.0121, P90S: 0.412, P95S: 0.798, P99S: 0.884, P999S: 1.204, MaxS: 2.31, Outcomes: map[string]int{"201": 9971, "503": 24, "timeout": 5}},
				{Name: "browsers", Model: "open", Due: 2500, Sent: 2500, OK: 2499, Failed: 1, P50S: 0.0031, P90S: 0.0052, P95S: 0.0061, P99S: 0.0112, P999S: 0.0204, MaxS: 0.0412, Outcomes: map[string]int{"200": 2499, "503": 1}},
			},
			Recovery: []verdict.RecoveryResult{{Load: "shoppers", MeasuredS: f(2.1), AtLeastS: f(1.8), AtMostS: f(2.4), AllowedS: 5}},
		},
	}
	return r
}

func objective(load, phase, clause string, v verdict.Verdict, target, estimate, low, high float64, n int, before, during, after *float64) verdict.ObjectiveResult {
	o := verdict.ObjectiveResult{
		ID: load + " " + phase + " " + clause[:3], Load: load, Phase: phase, Objective: clause, Verdict: v, Target: target,
		Estimate: &estimate, Low: &low, High: &high, Samples: n, EffectiveSamples: float64(n), Unit: "ratio",
		PerPhase: map[string]*float64{"before": before, "during": during, "after": after},
	}
	if clause[0] == 'p' {
		o.Unit = "s"
	}
	o.Value = o.PerPhase[phase]
	if v == verdict.Inconclusive {
		o.NeededSamples, o.NeededS = 3740, 74.8
	}
	if estimate == 1 {
		o.Note = "bursts rarer than about one per 4.00 s are not excluded"
	}
	if phase == "during" {
		o.EffectiveSamples = float64(n) / 4
	}
	return o
}

// events tell the story of failing.
func events(r Report) []journal.Event {
	rng := rand.New(rand.NewPCG(7, 1))
	plan, err := json.Marshal(map[string]any{"scenario": r.Result.Scenario, "timescale": 1, "rows": []int{4, 11}, "seed": 7, "hypotheses": r.Hypotheses})
	if err != nil {
		panic(err)
	}
	var all []journal.Event
	at := func(t time.Duration, e journal.Event) {
		e.At = t
		all = append(all, e)
	}
	at(0, journal.Event{Start: &journal.Start{Version: 1, Run: r.Result.Run, Scenario: r.Result.Scenario, Seed: 7, PlanHash: "5a1f", Plan: plan, Environment: r.Result.Environment, Wall: r.Result.StartedAt}})
	for i, s := range []string{"users", "stock", "payments", "orders", "gateway"} {
		at(0, journal.Event{Service: &journal.Service{Name: s, State: "ready", PID: 4100 + i, Address: fmt.Sprintf("127.0.0.1:%d", 40000+i)}})
	}
	for t := time.Duration(0); t < 50*second; t += 100 * time.Millisecond {
		for _, ph := range r.Hypotheses.Phases {
			if ph.Start == t {
				at(t, journal.Event{Phase: &journal.Phase{Name: ph.Name}})
			}
		}
		s := t.Seconds()
		switch t {
		case 15 * second:
			at(t, journal.Event{Fault: &journal.Fault{Name: "slow-payments", Kind: "latency", Target: "orders -> payments", State: "injected", Asked: map[string]float64{"delay_s": 0.8}}})
		case 25 * second:
			at(t, journal.Event{Fault: &journal.Fault{Name: "lose-stock", Kind: "kill", Target: "stock", State: "injected"}})
			at(t, journal.Event{Service: &journal.Service{Name: "stock", State: "died", PID: 4101, Detail: "signal: killed", Expected: true, Log: []string{`{"level":"INFO","msg":"reserved","order":"o-4711"}`, `{"level":"INFO","msg":"reserved","order":"o-4712"}`}}})
		case 27200 * time.Millisecond:
			at(t, journal.Event{Service: &journal.Service{Name: "stock", State: "restarted", PID: 4177, Address: "127.0.0.1:40001"}})
			at(t, journal.Event{Fault: &journal.Fault{Name: "lose-stock", Kind: "kill", Target: "stock", State: "verified", Observed: map[string]float64{"down_s": 2.203}}})
		case 30 * second:
			at(t, journal.Event{Mark: &journal.Mark{Text: "the clock stepped by 12 ms", Warning: true}})
		case 35 * second:
			at(t, journal.Event{Fault: &journal.Fault{Name: "slow-payments", Kind: "latency", Target: "orders -> payments", State: "verified"}})
		}
		slow := 0.0
		if s >= 15 && s < 35 {
			slow = 0.31
			if s < 16.2 {
				slow = 0.5
			}
		}
		at(t, journal.Event{Window: window(rng, "shoppers", t, 20, slow, s >= 25 && s < 27.2)})
		at(t, journal.Event{Window: window(rng, "browsers", t, 5, 0, t == 25400*time.Millisecond)})
		if t%(500*time.Millisecond) == 0 {
			calls := 100
			var delay string
			if s >= 15 && s < 35 {
				if calls = 100; s >= 16.5 {
					calls = rng.IntN(2)
				}
				h := hdr.New()
				for range calls/2 + 1 {
					h.Record(700*time.Millisecond + time.Duration(rng.Int64N(int64(200*time.Millisecond))))
				}
				delay = h.Encode()
			}
			e := &journal.Edge{Edge: "orders -> payments", Calls: calls, Upstream: calls, Answers: map[string]int{"200": calls}, BytesUp: int64(calls) * 210, BytesDown: int64(calls) * 340}
			if delay != "" {
				e.Faults = map[string]journal.EdgeFault{"slow-payments": {Eligible: calls, Fired: calls / 2, Delay: delay}}
			}
			at(t, journal.Event{Edge: e})
			n := 100 + rng.IntN(5)
			if s >= 25 && s < 27.2 {
				at(t, journal.Event{Edge: &journal.Edge{Edge: "orders -> stock", Calls: n / 4, Answers: map[string]int{"refused": n / 4}}})
			} else {
				at(t, journal.Event{Edge: &journal.Edge{Edge: "orders -> stock", Calls: n, Upstream: n, Answers: map[string]int{"200": n - 1, "409": 1}, BytesUp: 21000, BytesDown: 34000}})
			}
			at(t, journal.Event{Edge: &journal.Edge{Edge: "gateway -> orders", Calls: 100, Upstream: 100, Answers: map[string]int{"201": 100}, BytesUp: 21000, BytesDown: 34000}})
		}
		if t%(4*second) == 0 && s > 15 && s < 40 {
			at(t, journal.Event{Sample: &journal.Sample{Load: "shoppers", Seq: uint64(s * 200), DueS: journal.Secs(t), Latency: journal.Secs(800*time.Millisecond + t/100), Outcome: "201", Request: "POST /checkout"}})
			at(t, journal.Event{Sample: &journal.Sample{Load: "shoppers", Seq: uint64(s*200) + 3, DueS: journal.Secs(t), Latency: journal.Secs(12 * time.Millisecond), Outcome: "503", Request: "POST /checkout", Detail: "stock is gone", TraceID: "4bf92f3577b34da6"}})
		}
	}
	at(50*second, journal.Event{Phase: &journal.Phase{Name: "drain"}})
	at(51*second, journal.Event{Probe: &journal.Probe{Name: "money", Kind: "invariant", OK: true, Detail: "debits equal credits in 9,971 entries"}})
	at(51*second+200*time.Millisecond, journal.Event{End: &journal.End{Status: "completed"}})
	return all
}

// window draws n latencies: lognormal around 12 ms (shoppers) or 3 ms, the share
// slow of them 800 ms later; down makes a third of them fail.
func window(rng *rand.Rand, load string, due time.Duration, n int, slow float64, down bool) *journal.Window {
	w := &journal.Window{Load: load, DueS: journal.Secs(due), Due: n, Sent: n, Outcomes: map[string]int{}}
	ok, failed := hdr.New(), hdr.New()
	middle := 0.012
	if load == "browsers" {
		middle = 0.003
	}
	for range n {
		d := time.Duration(middle * math.Exp(0.35*rng.NormFloat64()) * float64(second))
		if rng.Float64() < slow {
			d += 700*time.Millisecond + time.Duration(rng.Int64N(int64(200*time.Millisecond)))
		}
		if down && rng.Float64() < 0.3 {
			failed.Record(d)
			w.Failed++
			w.Outcomes["503"]++
			continue
		}
		ok.Record(d)
		w.OK++
		w.Outcomes["201"]++
	}
	w.OKLatency, w.FailedLatency = ok.Encode(), failed.Encode()
	return w
}

// passing is failing with a better end, and a control that proves it.
func passing() Report {
	r := failing()
	r.Result.Verdict = verdict.Pass
	r.Result.Reasons = nil
	r.Result.Warnings = nil
	r.Result.Objectives = r.Result.Objectives[:3]
	r.Result.Control = &verdict.ControlResult{Pair: "PROVEN", Verdict: verdict.Fail, MustFail: []string{"shoppers during p95"}, Failed: []string{"shoppers during p95", "shoppers during ok"}, Run: ".chaosctl/runs/20260304-050607-k3v9/control"}
	return r
}

// paired is passing without its journal.
func paired() Report {
	r := passing()
	r.Events = nil
	return r
}

// aborted ended in `before`: no fault, half the values missing.
func aborted() Report {
	r := failing()
	res := &r.Result
	res.Status, res.Verdict = "aborted", verdict.Inconclusive
	res.Reasons = []string{"no steady state: shoppers before ok >= 99% failed, nothing was injected"}
	res.Warnings = nil
	res.DurationS = 9.4
	for i := range res.Objectives {
		o := &res.Objectives[i]
		if o.Phase != "before" {
			o.Verdict, o.Estimate, o.Low, o.High, o.Value, o.Samples, o.EffectiveSamples = verdict.Inconclusive, nil, nil, nil, nil, 0, 0
			o.Note, o.NeededSamples, o.NeededS = "no data", 0, 0
		}
		o.PerPhase = map[string]*float64{"before": o.PerPhase["before"], "during": nil, "after": nil}
	}
	res.Breakers = []verdict.BreakerResult{{Edge: "orders -> payments", Verdict: verdict.Inconclusive, Checks: []verdict.Check{{Claim: "opens within 5s", Verdict: verdict.Inconclusive, Detail: "the fault was not injected"}}}}
	res.Invariants = []verdict.InvariantResult{{Name: "money", Verdict: verdict.Inconclusive, Detail: "not asked"}}
	for i := range res.Faults {
		res.Faults[i] = verdict.FaultResult{Name: res.Faults[i].Name, Kind: res.Faults[i].Kind, Target: res.Faults[i].Target, Asked: res.Faults[i].Asked, Detail: "not injected"}
	}
	res.Recovery = []verdict.RecoveryResult{{Load: "shoppers", AllowedS: 5}}
	var kept []journal.Event
	for _, ev := range r.Events {
		if ev.At < 9*second {
			kept = append(kept, ev)
		}
	}
	r.Events = append(kept,
		journal.Event{At: 9 * second, Abort: &journal.Abort{Reason: "ok < 10% for 30s"}},
		journal.Event{At: 9400 * time.Millisecond, End: &journal.End{Status: "aborted"}})
	return r
}

// empty is nothing at all.
func empty() Report { return Report{} }

// minimal is a run that did nothing and knows it.
func minimal() Report {
	return Report{
		Result: verdict.Result{Version: 1, Run: "r1", Scenario: "idle", Seed: 1, Status: "completed", Verdict: verdict.Pass,
			Load: []verdict.LoadResult{{Name: "none"}}},
		Hypotheses: verdict.Hypotheses{Loads: []verdict.Load{{Name: "none"}}},
		Events:     []journal.Event{{Start: &journal.Start{Version: 1, Run: "r1", Scenario: "idle", Seed: 1}}, {End: &journal.End{Status: "completed"}}},
	}
}

// nasty is in every text of hostile.
const nasty = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`|*_[a](javascript:b)&amp;@everyone ]]> \x1b[31m\x1b]0;t\x07\u202egpj.exe\u0000\xff 日本語のとても長い名前のサービス-and-a-very-long-name-without-any-space-that-goes-on-and-on\nsecond line"

// hostile has nasty wherever a name or a detail can stand, and numbers that no run has.
func hostile() Report {
	r := failing()
	b, err := json.Marshal(r.Result)
	if err != nil {
		panic(err)
	}
	res := verdict.Result{}
	if err := json.Unmarshal(b, &res); err != nil {
		panic(err)
	}
	res.Run, res.Scenario, res.Variant, res.Status, res.JournalHead = nasty, nasty, nasty, nasty, nasty
	res.Verdict = nasty
	res.Reasons, res.Warnings = []string{nasty, ""}, []string{nasty}
	res.Environment = journal.Environment{Chaosctl: nasty, Go: nasty, OS: nasty, Kernel: nasty, Hostname: nasty}
	for i := range res.Objectives {
		o := &res.Objectives[i]
		o.Load, o.Phase, o.Objective, o.Note, o.Unit = nasty, nasty, nasty, nasty, nasty
	}
	res.Objectives[0].Verdict = nasty
	for i := range res.Breakers {
		b := &res.Breakers[i]
		b.Edge, b.FailFastS = nasty, map[string]float64{nasty: 1e300}
		b.Checks = append(b.Checks, verdict.Check{Claim: nasty, Verdict: nasty, Detail: nasty})
		b.Spans = append(b.Spans, verdict.Span{State: nasty, FromS: 40, ToS: -3})
	}
	res.Invariants[0] = verdict.InvariantResult{Name: nasty, Verdict: nasty, Detail: nasty, Values: map[string]float64{nasty: -1e-300}}
	for i := range res.Faults {
		x := &res.Faults[i]
		x.Name, x.Kind, x.Target, x.Detail = nasty, nasty, nasty, nasty
		x.Asked, x.Observed = map[string]float64{nasty: 1e300, "_s": 1}, map[string]float64{"delay_s": -5}
		x.RevertedAtS = f(-3)
	}
	res.Load[0] = verdict.LoadResult{Name: nasty, Model: nasty, Due: math.MaxInt64, Sent: -5, OK: 1, MaxS: 1e300, Outcomes: map[string]int{nasty: 3}}
	res.Recovery = []verdict.RecoveryResult{{Load: nasty, Detail: nasty, MeasuredS: f(1e300)}}
	res.Control = &verdict.ControlResult{Pair: nasty, Verdict: nasty, MustFail: []string{nasty}, Failed: []string{nasty}, Detail: nasty, Run: nasty}
	r.Result, r.Description = res, nasty
	r.Hypotheses.Loads[0].Name = nasty
	for i := range r.Hypotheses.Objectives {
		r.Hypotheses.Objectives[i].Load = nasty
		r.Hypotheses.Objectives[i].Clause.Quantile = math.Inf(1)
	}
	var all []journal.Event
	for i, ev := range r.Events {
		if i%3 == 0 && ev.Window != nil {
			w := *ev.Window
			w.Load, w.OKLatency, w.Outcomes = nasty, "not a histogram", map[string]int{nasty: 1}
			ev.Window = &w
		}
		all = append(all, ev)
	}
	text := nasty
	r.Events = append(all,
		journal.Event{At: -5 * second, Window: &journal.Window{Load: nasty, DueS: journal.Secs(math.MinInt64), Due: -3, OK: -1}},
		journal.Event{At: second, Window: &journal.Window{Load: nasty, DueS: journal.Secs(math.MaxInt64), Due: 3, OK: 1 << 60}},
		journal.Event{At: second, Phase: &journal.Phase{Name: text}},
		journal.Event{At: second, Fault: &journal.Fault{Name: text, Kind: text, Target: text, State: text, Error: text, Detail: text}},
		journal.Event{At: second, Edge: &journal.Edge{Edge: text, Calls: 3, Answers: map[string]int{text: 1}, Faults: map[string]journal.EdgeFault{text: {Delay: text}}}},
		journal.Event{At: second, Probe: &journal.Probe{Name: text, Kind: text, Detail: text}},
		journal.Event{At: second, Service: &journal.Service{Name: text, State: "died", Instance: 3, Detail: text, Log: []string{text, text}}},
		journal.Event{At: second, Sample: &journal.Sample{Load: text, Outcome: text, Request: text, Detail: text, TraceID: text}},
		journal.Event{At: second, Mark: &journal.Mark{Text: text, Warning: true}},
		journal.Event{At: second, Abort: &journal.Abort{Reason: text}},
		journal.Event{At: second, Start: &journal.Start{Plan: json.RawMessage(`{"file":"` + "`rm -rf`" + `","description":7}`)}},
		journal.Event{At: 52 * second, End: &journal.End{Status: text, Error: text}},
		journal.Event{At: 52 * second},
	)
	return r
}
