// Package scenarios is what a user writes: a scenario file, read strictly, checked
// as a whole, with every mistake told at once and at its place.
//
// A file names a target (the system under test), load streams, phases, faults, and
// what must hold: hypothesis, breakers, invariants. Parse makes a Scenario of it,
// in which every name exists and every default is filled in. Each part knows its
// own rules (loadgen.Spec.Check, faults.Spec.Check, targets.Spec.Check,
// pattern.Spec.Check); what the parts say of one another is checked here, where
// all of them are known. Reading is strict's work, the clauses are expect's.
//
// library/ holds the scenarios that come with the binary; Schema describes the
// same structs to editors. Nothing here runs anything.
package scenarios

import (
	"time"

	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/metrics"
)

// Scenario is a scenario file, parsed and valid: every name in it exists, every
// number has its unit, every default is filled in. Lists are in file order.
type Scenario struct {
	Name        string
	Description string
	Rows        []int
	Seed        uint64 // default 1
	Target      targets.Spec
	Loads       []loadgen.Spec
	Edges       map[string]EdgeSettings // by edge, those that have some
	Phases      Phases
	Faults      []faults.Spec
	Hypothesis  []Expectation
	Breakers    []BreakerExpectation
	SLOs        []SLO
	Invariants  []string
	Abort       []expect.Clause // nil: the default conditions; see AbortSet
	AbortSet    bool
	Control     *Control
	Confidence  float64 // default 0.95
	Timescale   float64 // default 1

	File string // where it came from, for messages
}

// EdgeSettings are those of the proxy on an edge.
type EdgeSettings struct {
	HoldMost faults.Bytes `json:"hold_most"` // that faults hold back, of all its connections together; 0: 256 MiB
}

// Phases are the lengths of the run's parts; 0 = left out.
type Phases struct {
	Warmup, Before, During, After time.Duration
}

// Expectation is the steady-state hypothesis about one load stream, or about one
// step of its sessions.
type Expectation struct {
	Load                  string
	Step                  string // empty: all of the stream
	Before, During, After []expect.Clause
	Settle, Recovery      time.Duration
}

// BreakerExpectation is what is claimed of the breaker on one edge.
type BreakerExpectation struct {
	Edge   string
	Opens  time.Duration // 0: not claimed
	Closes time.Duration // 0: not claimed
	Open   []expect.Clause
	Flaps  *int
	// Metrics is where the breaker's own state is told; nil: nowhere.
	Metrics *metrics.Source
}

// Control is the variant that must fail: what its target has otherwise, and the
// claims ("shoppers during p95", "orders -> payments opens", "money") on which it must fail.
type Control struct {
	targets.Change
	MustFail []string
}
