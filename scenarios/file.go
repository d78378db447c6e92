package scenarios

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/scenarios/strict"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/metrics"
	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// Problems is every mistake of a scenario file, each with its place in the file.
// All errors of Parse are of this type.
type Problems = strict.Problems

// Problem is one of them.
type Problem = strict.Problem

// Parse reads the bytes of a scenario file; the name is for messages. Its error
// is of type Problems: all mistakes at once. A scenario whose load uses data files
// needs ParseIn.
func Parse(name string, src []byte) (*Scenario, error) { return ParseIn(nil, name, src) }

// ParseIn is Parse for a scenario whose data files are in files.
func ParseIn(files fs.FS, name string, src []byte) (*Scenario, error) {
	doc := strict.Parse(name, src)
	doc.Unavailable = unavailable
	var f file
	doc.Decode(&f)
	if doc.Readable() {
		check(doc, &f, files)
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return f.scenario(name), nil
}

// Load reads a scenario file, and the data files that it names.
func Load(path string) (*Scenario, error) {
	s, _, err := load(path)
	return s, err
}

func load(path string) (*Scenario, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a scenario: %w", err)
	}
	defer f.Close()
	// One byte more than is allowed tells that there is more; the rest stays unread.
	src, err := io.ReadAll(io.LimitReader(f, strict.MaxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading a scenario: %w", err)
	}
	s, err := ParseIn(Folder(filepath.Dir(path)), path, src)
	return s, src, err
}

// Folder is what is in a folder and below: no path and no link leads out of it
// (os.Root). It opens the folder only when something in it is asked for.
func Folder(dir string) fs.StatFS { return folder(dir) }

type folder string

func (dir folder) Open(name string) (fs.File, error) {
	root, err := os.OpenRoot(string(dir))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.FS().Open(name)
}

func (dir folder) Stat(name string) (fs.FileInfo, error) {
	root, err := os.OpenRoot(string(dir))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Stat(name)
}

// file is a scenario file as it is written: DESIGN's keys, one field each, from
// which the decoder and the JSON Schema are made. The doc tags are the schema's
// descriptions.
type file struct {
	Scenario    string               `yaml:"scenario,required" doc:"The scenario's name: letters, digits, - _ and dots. It names the run folder."`
	Description string               `yaml:"description" doc:"What the system promises here, in a sentence."`
	Rows        []int                `yaml:"rows" doc:"Which reference rows the scenario shows (library scenarios)."`
	Seed        *uint64              `yaml:"seed" doc:"Every random choice comes from it. Default 1."`
	Target      targets.Spec         `yaml:"target,required" doc:"The system under test: a reference system, or services of your own."`
	Allow       []string             `yaml:"allow" doc:"Hosts, beside this machine, that services with an address may be at: [10.0.0.7, staging.example.com]. Without it, load and faults stay on loopback addresses."`
	Load        []loadgen.Spec       `yaml:"load,required,named" doc:"The streams of requests, by name."`
	Edges       []edgeSettings       `yaml:"edges,named" doc:"Settings of the proxies on single edges, by edge: orders -> payments."`
	Phases      phases               `yaml:"phases,required" doc:"How long each part of the run takes; a part left out is skipped."`
	Faults      []faults.Spec        `yaml:"faults,named" doc:"What goes wrong in the phase during, by name: one verb, a target, a time."`
	Hypothesis  []expectation        `yaml:"hypothesis,named" doc:"The steady state that each load stream must show, phase by phase; STREAM.STEP is about one step of its sessions."`
	Breakers    []breakerExpectation `yaml:"breakers,named" doc:"What the circuit breaker on an edge must do, judged from the wire."`
	SLOs        []slo                `yaml:"slos,named" doc:"Service level objectives: what this incident would cost of their error budgets, and whether their alerts would have fired."`
	Invariants  []string             `yaml:"invariants" doc:"What must hold in the system's own state when the load has drained. The shop offers money and stock."`
	Abort       *[]expect.Clause     `yaml:"abort" doc:"When to end the run early. Replaces the default (ok < 10% for 30s); [] means never."`
	Control     *control             `yaml:"control" doc:"The same run with other patterns, or services started otherwise, which must fail on the clauses named: it shows that the hypothesis can fail."`
	Confidence  *confidence          `yaml:"confidence" doc:"Of each bound, one-sided. Default 95%."`
	Timescale   *float64             `yaml:"timescale" doc:"Scales phases and the patterns' timers, never latency limits or injected delays. Default 1."`
}

type edgeSettings struct {
	Name     string        `yaml:"-"` // the edge
	HoldMost *faults.Bytes `yaml:"hold_most" doc:"How many bytes faults on the edge hold back at most, of all its connections together; then senders wait (udp: datagrams are dropped). Default 256MiB."`
}

type phases struct {
	Warmup time.Duration `yaml:"warmup" doc:"Load that no one judges."`
	Before time.Duration `yaml:"before" doc:"The steady state; if it fails, nothing is injected."`
	During time.Duration `yaml:"during" doc:"The faults happen in here."`
	After  time.Duration `yaml:"after" doc:"The faults are gone."`
}

type expectation struct {
	Name     string          `yaml:"-"`
	Before   []expect.Clause `yaml:"before" doc:"Clauses that must hold before the faults."`
	During   []expect.Clause `yaml:"during" doc:"Clauses that must hold during the faults."`
	After    []expect.Clause `yaml:"after" doc:"Clauses that must hold after the faults."`
	Settle   time.Duration   `yaml:"settle" doc:"The start of during that is shown, but not judged. Default 0s."`
	Recovery time.Duration   `yaml:"recovery" doc:"The start of after that is not judged; the measured recovery is reported. Default 0s."`
}

type breakerExpectation struct {
	Name   string          `yaml:"-"` // the edge
	Opens  *time.Duration  `yaml:"opens" doc:"Open within this time of the fault."`
	Open   []expect.Clause `yaml:"open" doc:"While it is open: pNN of the caller's answers, upstream calls per second."`
	Closes *time.Duration  `yaml:"closes" doc:"Closed within this time of the fault's end."`
	Flaps  *int            `yaml:"flaps" doc:"At most so many closings and reopenings during the fault."`
	// Shown beside what the wire tells; a disagreement is a warning.
	Metrics *metrics.Source `yaml:"metrics" doc:"Where the caller tells the state of its breaker in Prometheus metrics: shown beside what the wire tells, a disagreement is a warning."`
}

type control struct {
	Patterns map[string]pattern.Spec          `yaml:"patterns" doc:"Per edge of a reference system, over the target's own."`
	Sagas    map[string]pattern.Sagas         `yaml:"sagas" doc:"Per service of a reference system that runs sagas: durable, memory."`
	Services map[string]targets.ServiceChange `yaml:"services" doc:"Services of your own that are started otherwise: another command, other env."`
	MustFail []string                         `yaml:"must_fail,required" doc:"What must fail: clauses, as STREAM PHASE METRIC (shoppers during p95), claims of a breaker (orders -> payments opens), invariants (money)."`
}

// confidence is a share above one half and below one, written "95%".
type confidence float64

// UnmarshalText reads "95%".
func (c *confidence) UnmarshalText(text []byte) error {
	digits, unit := strings.CutSuffix(string(text), "%")
	x, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil || math.IsNaN(x):
		return fmt.Errorf("%q is not a confidence: write one like 95%%", text)
	case !unit && x > 0.5 && x < 1:
		return fmt.Errorf("%q has no unit: write %s%%", text, strconv.FormatFloat(100*x, 'g', 6, 64))
	case !unit:
		return fmt.Errorf("%q has no unit: write %s%%", text, text)
	case x <= 50 || x >= 100:
		return fmt.Errorf("a confidence is above 50%% and below 100%%, not %s", text)
	}
	*c = confidence(x / 100)
	return nil
}

// scenario is the file with its defaults filled in and its edges spelt in one way.
func (f *file) scenario(name string) *Scenario {
	s := &Scenario{
		Name: f.Scenario, Description: f.Description, Rows: f.Rows,
		Seed: 1, Target: f.Target, Loads: f.Load,
		Phases:     Phases(f.Phases),
		Faults:     f.Faults,
		Invariants: f.Invariants,
		Confidence: 0.95,
		Timescale:  1,
		File:       name,
	}
	s.Target.Patterns = spelt(s.Target.Patterns)
	for i, spec := range s.Faults {
		if edge, ok := edgeName(spec.Target); ok {
			s.Faults[i].Target = edge
		}
	}
	for _, e := range f.Edges {
		if name, ok := edgeName(e.Name); ok && e.HoldMost != nil {
			if s.Edges == nil {
				s.Edges = map[string]EdgeSettings{}
			}
			s.Edges[name] = EdgeSettings{HoldMost: *e.HoldMost}
		}
	}
	for _, h := range f.Hypothesis {
		load, step := claimed(f.Load, h.Name)
		s.Hypothesis = append(s.Hypothesis, Expectation{
			Load: load, Step: step, Before: h.Before, During: h.During, After: h.After, Settle: h.Settle, Recovery: h.Recovery,
		})
	}
	for _, b := range f.Breakers {
		e := BreakerExpectation{Open: b.Open, Flaps: b.Flaps, Metrics: b.Metrics}
		e.Edge, _ = edgeName(b.Name)
		if m := e.Metrics; m != nil {
			if m.Service == "" {
				m.Service, _, _ = topology.ParseEdge(b.Name)
			}
			if m.Path == "" {
				m.Path = m.Kind.DefaultPath()
			}
		}
		if b.Opens != nil {
			e.Opens = *b.Opens
		}
		if b.Closes != nil {
			e.Closes = *b.Closes
		}
		s.Breakers = append(s.Breakers, e)
	}
	for _, x := range f.SLOs {
		s.SLOs = append(s.SLOs, x.slo())
	}
	if f.Seed != nil {
		s.Seed = *f.Seed
	}
	if f.Abort != nil {
		s.Abort, s.AbortSet = *f.Abort, true
	}
	if f.Control != nil {
		s.Control = &Control{Change: f.Control.change()}
		for _, clause := range f.Control.MustFail {
			s.Control.MustFail = append(s.Control.MustFail, claimName(clause))
		}
	}
	if f.Confidence != nil {
		s.Confidence = float64(*f.Confidence)
	}
	if f.Timescale != nil {
		s.Timescale = *f.Timescale
	}
	return s
}

// claimName spells a claim as results do: one blank between words, and around the
// arrow of an edge.
func claimName(text string) string {
	name := strings.Join(strings.Fields(text), " ")
	if caller, rest, ok := strings.Cut(name, "->"); ok {
		name = strings.TrimSpace(caller) + " -> " + strings.TrimSpace(rest)
	}
	return name
}

func (c control) change() targets.Change {
	return targets.Change{Patterns: spelt(c.Patterns), Sagas: c.Sagas, Services: c.Services}
}

// spelt writes every edge as "caller -> callee".
func spelt(patterns map[string]pattern.Spec) map[string]pattern.Spec {
	if patterns == nil {
		return nil
	}
	all := make(map[string]pattern.Spec, len(patterns))
	for edge, spec := range patterns {
		if name, ok := edgeName(edge); ok {
			edge = name
		}
		all[edge] = spec
	}
	return all
}
