package experiments

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/experiments/timeline"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/metrics"
	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// Variant says which of a scenario's runs a plan is for.
type Variant string

const (
	Main    Variant = ""        // the scenario itself
	Control Variant = "control" // with control.patterns, which must fail
	Sham    Variant = "sham"    // everything but the faults, which must pass
)

// Plan is a scenario with every choice made: what Run does and Judge judges,
// with no name left to look up and no default left to fill in. It is plain data
// and travels whole in the journal's first line.
type Plan struct {
	Scenario    string                            `json:"scenario"`
	Description string                            `json:"description,omitempty"`
	Rows        []int                             `json:"rows,omitempty"`
	File        string                            `json:"file,omitempty"`
	Seed        uint64                            `json:"seed"`
	Variant     Variant                           `json:"variant,omitempty"`
	Timescale   float64                           `json:"timescale"`
	Target      targets.Spec                      `json:"target"`
	Topology    topology.Topology                 `json:"topology"`
	Patterns    map[string]pattern.Settings       `json:"patterns,omitempty"` // per edge of a reference system
	Edges       map[string]scenarios.EdgeSettings `json:"edges,omitempty"`    // those with settings of their own
	Loads       []loadgen.Spec                    `json:"loads"`
	Faults      []faults.Fault                    `json:"faults"`
	Abort       []expect.Clause                   `json:"abort,omitempty"`
	Hypotheses  verdict.Hypotheses                `json:"hypotheses"`
	MustFail    []string                          `json:"must_fail,omitempty"` // of the control
	Metrics     map[string]metrics.Source         `json:"metrics,omitempty"`   // per edge: where the state of its breaker is told
}

// DefaultAbort ends a run whose system has stopped answering for good.
var DefaultAbort = []expect.Clause{{Metric: expect.OK, Op: "<", Ratio: 0.10, For: 30 * time.Second}}

// Compile makes the plan of one variant of s. It is pure; its errors are of the
// kind that scenarios cannot see (a runtime that lacks a capability).
func Compile(s *scenarios.Scenario, v Variant) (*Plan, error) {
	target := s.Target
	if v == Control {
		if s.Control == nil {
			return nil, fmt.Errorf("scenario %q has no control: add `control: { patterns: …, must_fail: […] }`", s.Name)
		}
		target = target.With(s.Control.Change)
	}
	topo, err := target.Resolve()
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Scenario: s.Name, Description: s.Description, Rows: s.Rows, File: s.File,
		Seed: s.Seed, Variant: v, Timescale: s.Timescale,
		Target: target, Topology: topo, Edges: s.Edges,
	}
	if s.Control != nil {
		p.MustFail = s.Control.MustFail
	}
	if topo.System != "" {
		p.Patterns = map[string]pattern.Settings{}
		for _, e := range topo.Edges {
			p.Patterns[e.Name()] = target.Settings(e, s.Timescale)
		}
	}
	for _, l := range s.Loads {
		p.Loads = append(p.Loads, withSample(l, target))
	}
	switch {
	case s.AbortSet:
		p.Abort = s.Abort
	case v != Control:
		p.Abort = DefaultAbort
	}

	scale := func(d time.Duration) time.Duration { return time.Duration(float64(d) * s.Timescale) }
	phases := placePhases(s.Phases, scale)
	if p.Faults, err = placeFaults(s, topo, phases, scale); err != nil {
		return nil, err
	}
	p.Hypotheses = hypotheses(s, p, phases, scale)
	p.Hypotheses.Sham = v == Sham
	return p, nil
}

// Hash names the plan: sha256 of its JSON.
func (p *Plan) Hash() string {
	sum := sha256.Sum256(p.JSON())
	return hex.EncodeToString(sum[:])
}

// JSON is the plan as it travels in the journal.
func (p *Plan) JSON() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("a plan is plain data: %v", err))
	}
	return b
}

// Duration is the planned length of the phases, start-up and drain not counted.
func (p *Plan) Duration() time.Duration {
	if n := len(p.Hypotheses.Phases); n > 0 {
		return p.Hypotheses.Phases[n-1].End
	}
	return 0
}

// Timeline is all that is due, in order.
func (p *Plan) Timeline() []timeline.Moment {
	var phases, holds []timeline.Span
	for _, ph := range p.Hypotheses.Phases {
		phases = append(phases, timeline.Span{Name: ph.Name, At: ph.Start, For: ph.End - ph.Start})
	}
	if p.Variant != Sham {
		for _, f := range p.Faults {
			holds = append(holds, timeline.Span{Name: f.Spec.Name, At: f.At, For: f.For})
		}
	}
	return timeline.Merge(phases, holds)
}

// Demand is how many requests an objective will be judged on, as far as that is
// known before.
type Demand struct {
	Requests int  // that will probably be due; of a closed stream, at most
	Open     bool // they do not depend on the answers
	Bounded  bool // of a closed stream: its users think, and cannot ask for more than Requests
}

// Expected is the demand of an objective: what is due in its phase, less what
// settles or recovers. Of sessions it is all steps, or the one step that the
// objective is about. Users who wait for answers ask no more often than if each
// came at once, so that their think time bounds them:
//
//	requests <= users · (1 + phase / think) · requests of a turn
//
// where think is all pauses of a turn together.
func (p *Plan) Expected(o verdict.Objective) Demand {
	for _, ph := range p.Hypotheses.Phases {
		if ph.Name != o.Phase {
			continue
		}
		for _, l := range p.Loads {
			if l.Name != o.Load {
				continue
			}
			each := l.RequestsPerArrival()
			if o.Step != "" {
				each = 1
			}
			from := min(ph.Start+o.Settle+o.Recovery, ph.End)
			if profile, open := l.Arrivals(p.Seed); open {
				return Demand{Requests: int(profile.Expected(ph.End)-profile.Expected(from)) * each, Open: true}
			}
			think := l.Think
			for _, s := range l.Steps {
				think += s.Think
			}
			if think > 0 && l.Users != nil {
				turns := 1 + int((ph.End-from)/think)
				return Demand{Requests: *l.Users * turns * each, Bounded: true}
			}
		}
	}
	return Demand{}
}

// PhaseRate is the mean rate of what an objective is about in its whole phase,
// requests per second; 0 when it is closed.
func (p *Plan) PhaseRate(o verdict.Objective) float64 {
	o.Settle, o.Recovery = 0, 0
	for _, ph := range p.Hypotheses.Phases {
		if d := p.Expected(o); ph.Name == o.Phase && d.Open {
			return float64(d.Requests) / (ph.End - ph.Start).Seconds()
		}
	}
	return 0
}

// withSample gives a request without a body the one that the reference system
// documents for it, so that `request: POST /checkout` is enough.
func withSample(l loadgen.Spec, target targets.Spec) loadgen.Spec {
	requests := slices.Clone(l.Requests)
	if l.Request != nil {
		requests = []loadgen.Request{*l.Request}
	}
	for i, r := range requests {
		if r.Body == "" && l.Body == "" {
			requests[i].Body = target.Sample(r.Method, r.Path)
		}
	}
	l.Request, l.Requests = nil, requests
	l.Steps = slices.Clone(l.Steps)
	for i, step := range l.Steps {
		if step.Body == "" && l.Body == "" {
			l.Steps[i].Body = target.Sample(step.Method, step.Path)
		}
	}
	return l
}

func placePhases(p scenarios.Phases, scale func(time.Duration) time.Duration) []verdict.Phase {
	var phases []verdict.Phase
	var at time.Duration
	for _, ph := range []struct {
		name string
		d    time.Duration
	}{{"warmup", p.Warmup}, {"before", p.Before}, {"during", p.During}, {"after", p.After}} {
		if ph.d <= 0 {
			continue
		}
		d := scale(ph.d)
		phases = append(phases, verdict.Phase{Name: ph.name, Start: at, End: at + d})
		at += d
	}
	return phases
}

// placeFaults puts each fault on the run's clock and resolves its target to
// edges or to a service.
func placeFaults(s *scenarios.Scenario, topo topology.Topology, phases []verdict.Phase, scale func(time.Duration) time.Duration) ([]faults.Fault, error) {
	var placed []faults.Fault
	var during verdict.Phase
	for _, ph := range phases {
		if ph.Name == "during" {
			during = ph
		}
	}
	for _, spec := range s.Faults {
		kind, ok := spec.Kind()
		if !ok {
			return nil, fmt.Errorf("fault %q has no verb", spec.Name)
		}
		f := faults.Fault{Spec: spec.Scaled(scale), At: during.Start + scale(spec.At), Seed: derive(s.Seed, "fault", spec.Name)}
		f.For = during.End - f.At
		if spec.For != nil {
			f.For = scale(*spec.For)
		}
		if d, fixed := spec.Length(); fixed {
			f.For = scale(d)
		}
		switch {
		case spec.Partition != nil:
			for _, e := range topo.Edges {
				if spec.Partition.Covers(e.Caller, e.Callee) {
					f.Edges = append(f.Edges, e.Name())
				}
			}
			if len(f.Edges) == 0 {
				return nil, fmt.Errorf("fault %q: no edge between the two sides: there is nothing to cut", spec.Name)
			}
		case kind.On == faults.OnService:
			service, _ := topo.Service(spec.Target)
			f.Service, f.Instances = spec.Target, service.Count()
		default:
			f.Edges = []string{edgeName(spec.Target)}
		}
		placed = append(placed, f)
	}
	return placed, nil
}

func hypotheses(s *scenarios.Scenario, p *Plan, phases []verdict.Phase, scale func(time.Duration) time.Duration) verdict.Hypotheses {
	h := verdict.Hypotheses{Confidence: s.Confidence, Phases: phases, Invariants: s.Invariants}
	for _, l := range p.Loads {
		h.Loads = append(h.Loads, verdict.Load{Name: l.Name, Model: l.Model(), To: l.To, Timeout: l.TimeoutOrDefault(), Steps: l.NamedSteps()})
	}
	for _, x := range s.Hypothesis {
		for _, part := range []struct {
			phase   string
			clauses []expect.Clause
		}{{"before", x.Before}, {"during", x.During}, {"after", x.After}} {
			for _, c := range part.clauses {
				o := verdict.Objective{Load: x.Load, Step: x.Step, Phase: part.phase, Clause: c}
				switch part.phase {
				case "during":
					o.Settle = scale(x.Settle)
				case "after":
					o.Recovery = scale(x.Recovery)
				}
				h.Objectives = append(h.Objectives, o)
			}
		}
	}
	for _, b := range s.Breakers {
		h.Breakers = append(h.Breakers, breakerClaim(b, p, phases, scale))
		if b.Metrics != nil {
			if p.Metrics == nil {
				p.Metrics = map[string]metrics.Source{}
			}
			p.Metrics[edgeName(b.Edge)] = *b.Metrics
		}
	}
	for _, x := range s.SLOs {
		slo := verdict.SLO{Name: x.Name, Load: x.Load, Objective: x.Objective, Within: x.Within, Window: x.Window, Scale: x.Scale, Spends: x.Spends}
		for _, a := range x.Alerts {
			slo.Alerts = append(slo.Alerts, verdict.Alert(a))
		}
		if !x.AlertsSet {
			slo.Alerts = verdict.DefaultAlerts(x.Window)
		}
		h.SLOs = append(h.SLOs, slo)
	}
	for _, f := range p.Faults {
		target := f.Service
		if target == "" {
			target = f.Spec.Target
		}
		if f.Spec.Partition != nil {
			target = f.Spec.Partition.String()
		}
		kind, _ := f.Spec.Kind()
		asked, udp := f.Spec.Asked(), p.onUDP(f)
		if udp {
			asked = f.Spec.AskedOnUDP()
		}
		if _, ok := asked["down_s"]; ok {
			asked["down_s"] = f.For.Seconds()
		}
		edges := f.Edges
		if kind.Reference {
			edges = nil // its evidence is the caller's, not the proxies'
		}
		h.Faults = append(h.Faults, verdict.Fault{
			Name: f.Spec.Name, Kind: kind.Verb, Target: target, Edges: edges,
			At: f.At, For: f.For, When: when(f.Spec), Asked: asked, UDP: udp,
		})
	}
	return h
}

// onUDP tells whether a fault is on UDP edges, and on nothing else.
func (p *Plan) onUDP(f faults.Fault) bool {
	return len(f.Edges) > 0 && !slices.ContainsFunc(f.Edges, func(name string) bool {
		caller, callee, _ := topology.ParseEdge(name) // as the plan wrote it
		e, _ := p.Topology.Edge(caller, callee)
		return e.Protocol != topology.UDP
	})
}

// when is a fault's conditions, for the judge.
func when(s faults.Spec) verdict.When {
	w := verdict.When{From: string(s.From)}
	if s.Pulse != nil {
		w.PulseOn, w.PulseOff = s.Pulse.Active, s.Pulse.Pause
	}
	if s.Ramp != nil {
		w.Ramp = *s.Ramp
	}
	if s.First != nil {
		w.First = *s.First
	}
	if s.Every != nil {
		w.Every = *s.Every
	}
	return w
}

// breakerClaim finds the faults that should open the breaker: those on its
// edge, and those that take its callee away.
func breakerClaim(b scenarios.BreakerExpectation, p *Plan, phases []verdict.Phase, scale func(time.Duration) time.Duration) verdict.Breaker {
	name := edgeName(b.Edge)
	caller, callee, _ := topology.ParseEdge(name)
	claim := verdict.Breaker{Edge: name, Opens: scale(b.Opens), Closes: scale(b.Closes), Flaps: b.Flaps, Open: b.Open}
	for _, f := range p.Faults {
		if !slices.Contains(f.Edges, name) && f.Service != callee {
			continue
		}
		if claim.FaultTo == 0 || f.At < claim.FaultFrom {
			claim.FaultFrom = f.At
		}
		claim.FaultTo = max(claim.FaultTo, f.At+f.For)
	}
	if claim.FaultTo == 0 {
		for _, ph := range phases {
			if ph.Name == "during" {
				claim.FaultFrom, claim.FaultTo = ph.Start, ph.End
			}
		}
	}
	for _, e := range p.Topology.Into(caller) {
		claim.CallerEdges = append(claim.CallerEdges, e.Name())
	}
	for _, l := range p.Loads {
		if l.To == caller {
			claim.CallerLoads = append(claim.CallerLoads, l.Name)
		}
	}
	return claim
}

// edgeName is the one spelling of an edge: "a->b" becomes "a -> b".
func edgeName(s string) string {
	caller, callee, err := topology.ParseEdge(s)
	if err != nil {
		return s
	}
	return topology.Edge{Caller: caller, Callee: callee}.Name()
}

// derive gives every random choice of a run a seed of its own, all of them
// functions of the one seed, so that adding a stream does not change another's dice.
func derive(seed uint64, parts ...string) uint64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, seed)
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}
