package experiments

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

func parse(t *testing.T, source string) *scenarios.Scenario {
	t.Helper()
	s, err := scenarios.Parse("test.yaml", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compile(t *testing.T, s *scenarios.Scenario, v Variant) *Plan {
	t.Helper()
	p, err := Compile(s, v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const story = `
scenario: story
seed: 3
target:
  system: shop
  patterns: { orders -> payments: { timeout: 300ms } }
load:
  shoppers: { request: POST /checkout, to: gateway, rate: 100/s }
phases: { warmup: 2s, before: 10s, during: 20s, after: 10s }
faults:
  slow: { target: orders->payments, latency: { delay: 800ms, percent: 50 }, at: 4s, for: 8s }
  gone: { target: payments, kill: { down: 2s }, at: 10s }
  split: { partition: { from: [orders], to: [stock, users] }, at: 1s, for: 1s }
hypothesis:
  shoppers: { before: [ok >= 99%], during: [p95 < 700ms], after: [ok >= 99%], settle: 2s, recovery: 4s }
breakers:
  orders -> payments: { opens: 5s, closes: 10s, flaps: 0 }
control: { patterns: { orders->payments: off }, must_fail: [shoppers during p95] }
`

// Phases follow each other, faults lie in `during`, and everything that is a
// moment or a patience of the run is scaled, nothing that is a latency.
func TestCompilePlaces(t *testing.T) {
	for _, scale := range []float64{1, 0.5} {
		s := parse(t, story)
		s.Timescale = scale
		p := compile(t, s, Main)
		at := func(d time.Duration) time.Duration { return time.Duration(float64(d) * scale) }

		want := []verdict.Phase{
			{Name: "warmup", Start: 0, End: at(2 * time.Second)},
			{Name: "before", Start: at(2 * time.Second), End: at(12 * time.Second)},
			{Name: "during", Start: at(12 * time.Second), End: at(32 * time.Second)},
			{Name: "after", Start: at(32 * time.Second), End: at(42 * time.Second)},
		}
		if diff := cmp.Diff(want, p.Hypotheses.Phases); diff != "" {
			t.Errorf("timescale %v: phases (-want +got):\n%s", scale, diff)
		}
		type placed struct {
			At, For time.Duration
			Edges   []string
			Service string
		}
		got := map[string]placed{}
		for _, f := range p.Faults {
			got[f.Spec.Name] = placed{f.At, f.For, f.Edges, f.Service}
		}
		wantFaults := map[string]placed{
			"slow":  {at(16 * time.Second), at(8 * time.Second), []string{"orders -> payments"}, ""},
			"gone":  {at(22 * time.Second), at(2 * time.Second), nil, "payments"},
			"split": {at(13 * time.Second), at(time.Second), []string{"orders -> users", "orders -> stock"}, ""},
		}
		if diff := cmp.Diff(wantFaults, got); diff != "" {
			t.Errorf("timescale %v: faults (-want +got):\n%s", scale, diff)
		}
		// The breaker is answerable for both faults that take its callee away.
		b := p.Hypotheses.Breakers[0]
		if b.FaultFrom != at(16*time.Second) || b.FaultTo != at(24*time.Second) || b.Opens != at(5*time.Second) {
			t.Errorf("timescale %v: breaker claim is %+v", scale, b)
		}
		if d := cmp.Diff([]string{"gateway -> orders"}, b.CallerEdges); d != "" {
			t.Errorf("where the caller's answers are seen (-want +got):\n%s", d)
		}
		if delay := p.Faults[0].Spec.Latency.Delay; delay != 800*time.Millisecond {
			t.Errorf("timescale %v: an injected delay became %s", scale, delay)
		}
		if timeout := p.Patterns["orders -> payments"].Timeout; timeout != 300*time.Millisecond {
			t.Errorf("timescale %v: a timeout became %s", scale, timeout)
		}
	}
}

// The control lays its patterns over the scenario's, however the edge is spelled,
// and loses the default abort conditions; a sham keeps everything but the faults.
// A fault's conditions reach the judge, and those that are parts of its time are
// scaled with it.
func TestCompileConditions(t *testing.T) {
	s := parse(t, `
scenario: conditions
target: { system: shop }
load: { shoppers: { request: POST /checkout, to: gateway, rate: 100/s } }
phases: { during: 20s }
faults:
  rare: { target: orders->payments, latency: { delay: 1s, distribution: exponential }, pulse: { active: 4s, pause: 6s }, ramp: 2s, first: 20, every: 5, from: 10.1.2.3/8 }
  plain: { target: orders->payments, refuse: {} }
timescale: 0.5
`)
	p := compile(t, s, Main)
	want := verdict.When{PulseOn: 2 * time.Second, PulseOff: 3 * time.Second, Ramp: time.Second, First: 20, Every: 5, From: "10.0.0.0/8"}
	rare := p.Hypotheses.Faults[0]
	if d := cmp.Diff(want, rare.When); d != "" {
		t.Error(d)
	}
	if rare.Asked["delay_s"] != 1 || p.Faults[0].Spec.Pulse.Active != 2*time.Second || *p.Faults[0].Spec.Ramp != time.Second {
		t.Errorf("a delay is not scaled, a pulse and a ramp are: %v, %+v", rare.Asked, p.Faults[0].Spec)
	}
	if d := cmp.Diff(verdict.When{}, p.Hypotheses.Faults[1].When); d != "" {
		t.Error(d)
	}
	if s.Faults[0].Pulse.Active != 4*time.Second {
		t.Error("compiling changed the scenario")
	}
}

func TestCompileVariants(t *testing.T) {
	s := parse(t, story)
	main, control, sham := compile(t, s, Main), compile(t, s, Control), compile(t, s, Sham)
	if got := control.Patterns["orders -> payments"].Timeout; got != 0 {
		t.Errorf("the control's edge still has a timeout of %s", got)
	}
	if cmp.Diff(main.Patterns["orders -> users"], control.Patterns["orders -> users"]) != "" {
		t.Error("the control changed an edge that it does not name")
	}
	if diff := cmp.Diff(DefaultAbort, main.Abort); diff != "" || control.Abort != nil {
		t.Errorf("abort conditions: main %v, control %v", main.Abort, control.Abort)
	}
	if !sham.Hypotheses.Sham || len(sham.Timeline()) != len(main.Timeline())-2*len(main.Faults) {
		t.Errorf("the sham's timeline is %v", sham.Timeline())
	}
	s.Control = nil
	if _, err := Compile(s, Control); err == nil {
		t.Error("a scenario without control was compiled as one")
	}
}

// The plan in the journal is the plan: nothing is lost on the way through JSON.
// One seed gives one plan, another seed another.
func TestPlanTravels(t *testing.T) {
	sources := map[string]string{"story": story}
	for _, e := range scenarios.Library() {
		sources[e.Name] = string(e.Source)
	}
	for name, source := range sources {
		s := parse(t, source)
		p := compile(t, s, Main)
		var back Plan
		if err := json.Unmarshal(p.JSON(), &back); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if back.Hash() != p.Hash() {
			t.Errorf("%s: changed on its way (-sent +received):\n%s", name, cmp.Diff(string(p.JSON()), string(back.JSON())))
		}
		if again := compile(t, parse(t, source), Main); again.Hash() != p.Hash() {
			t.Errorf("%s: one seed, two plans", name)
		}
		s.Seed++
		if other := compile(t, s, Main); other.Hash() == p.Hash() {
			t.Errorf("%s: two seeds, one plan", name)
		}
	}
}

// TestEdgeSettings: what a file says of an edge gets to its proxy, and to no other.
func TestEdgeSettings(t *testing.T) {
	p := compile(t, parse(t, story+"edges: { orders->payments: { hold_most: 64MiB } }\n"), Main)
	for _, edge := range p.Topology.Edges {
		want := int64(0)
		if edge.Name() == "orders -> payments" {
			want = 64 << 20
		}
		if c := proxyConfig(p, edge, nil, nil); c.HoldMost != want || c.Name != edge.Name() {
			t.Errorf("%s: %+v, want at most %d held", edge.Name(), c, want)
		}
	}
	var back Plan
	if err := json.Unmarshal(p.JSON(), &back); err != nil || back.Hash() != p.Hash() || back.Edges["orders -> payments"].HoldMost != 64<<20 {
		t.Errorf("changed on its way: %v, %v", back.Edges, err)
	}
}

// A request without a body gets the sample of the reference system, which the
// plan then shows.
func TestSampleBody(t *testing.T) {
	p := compile(t, parse(t, story), Main)
	if body := p.Loads[0].Requests[0].Body; body == "" {
		t.Error("POST /checkout to the shop has no body")
	}
	if n := p.Expected(verdict.Objective{Load: "shoppers", Phase: "during", Settle: 2 * time.Second, Clause: expect.Clause{Metric: expect.OK}}); !n.Open || n.Requests < 1799 || n.Requests > 1801 {
		t.Errorf("18 s at 100/s are expected to be %+v", n)
	}
}

// What users who wait for answers will ask is not known before; their think time
// bounds it. A step has one request per session.
func TestExpected(t *testing.T) {
	const text = `
scenario: demand
target: { services: { api: { address: "127.0.0.1:1" } } }
phases: { before: 10s }
load:
  thinkers: { to: api, users: 5, think: 1s, steps: [{ name: a, method: GET, path: / }, { name: b, method: GET, path: /, think: 1s }] }
  hurried: { to: api, users: 5, request: GET / }
  arrivals: { to: api, rate: 20/s, steps: [{ name: a, method: GET, path: / }, { name: b, method: GET, path: / }] }
hypothesis:
  thinkers: { before: [ok >= 90%] }
  thinkers.b: { before: [ok >= 90%] }
  hurried: { before: [ok >= 90%] }
  arrivals: { before: [ok >= 90%] }
  arrivals.b: { before: [ok >= 90%] }
`
	p := compile(t, parse(t, text), Main)
	want := []Demand{
		{Requests: 5 * 6 * 2, Bounded: true}, // a turn takes 2 s: six begin in 10 s
		{Requests: 5 * 6, Bounded: true},
		{},
		{Requests: 400, Open: true},
		{Requests: 200, Open: true},
	}
	for i, o := range p.Hypotheses.Objectives {
		if got := p.Expected(o); got != want[i] {
			t.Errorf("%s: %+v, want %+v", o.ID(), got, want[i])
		}
	}
	if rate := p.PhaseRate(p.Hypotheses.Objectives[4]); rate != 20 {
		t.Errorf("arrivals.b: %v requests/s, want 20", rate)
	}
}

// derive separates its parts: ("ab", "c") is not ("a", "bc").
func TestDerive(t *testing.T) {
	seen := map[uint64][]string{}
	for _, parts := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {"load", "x"}, {"fault", "x"}} {
		d := derive(1, parts...)
		if seen[d] != nil || d == derive(2, parts...) {
			t.Errorf("%v and %v share a seed, or the seed does not matter", parts, seen[d])
		}
		seen[d] = parts
	}
}
