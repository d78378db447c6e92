package verdict

import (
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// Verdict is what a run, or a part of one, showed.
type Verdict string

const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive"
)

// Hypotheses is everything a judge needs to know besides the events: what was
// claimed, and what was asked of the faults. experiments.Compile builds it; it
// travels in the journal's first line. Offsets are since the run's start.
type Hypotheses struct {
	Confidence float64     `json:"confidence"` // 0.95: each bound is one-sided at this level
	Phases     []Phase     `json:"phases"`
	Loads      []Load      `json:"loads"`
	Objectives []Objective `json:"objectives"`
	Breakers   []Breaker   `json:"breakers"`
	Invariants []string    `json:"invariants"`
	Faults     []Fault     `json:"faults"`
	SLOs       []SLO       `json:"slos,omitempty"`
	Sham       bool        `json:"sham,omitempty"` // the faults were left out on purpose
}

// Phase is a span of the run: [Start, End).
type Phase struct {
	Name  string        `json:"name"`
	Start time.Duration `json:"start_ns"`
	End   time.Duration `json:"end_ns"`
}

// Load is one stream, as far as judging needs it.
type Load struct {
	Name    string        `json:"name"`
	Model   string        `json:"model"` // open | closed
	To      string        `json:"to"`
	Timeout time.Duration `json:"timeout_ns"`
	Steps   []string      `json:"steps,omitempty"` // of its sessions, those with a name
}

// Objective is one clause about one stream, or one step of its sessions, in one
// phase. Its ID, for `must_fail` and for reports, is "load phase metric":
// "shoppers during p95", "shoppers.pay during p95".
type Objective struct {
	Load     string        `json:"load"`
	Step     string        `json:"step,omitempty"` // only its requests; empty: all of the stream
	Phase    string        `json:"phase"`
	Clause   expect.Clause `json:"clause"`
	Settle   time.Duration `json:"settle_ns,omitempty"`   // start of `during` not judged
	Recovery time.Duration `json:"recovery_ns,omitempty"` // start of `after` not judged
}

// Breaker is what a scenario claims of the breaker on one edge.
type Breaker struct {
	Edge      string          `json:"edge"`
	Opens     time.Duration   `json:"opens_ns,omitempty"`  // open within this of the fault; 0: not claimed
	Closes    time.Duration   `json:"closes_ns,omitempty"` // closed within this of the fault's end; 0: not claimed
	Flaps     *int            `json:"flaps,omitempty"`     // at most so many closings and reopenings in the fault
	Open      []expect.Clause `json:"open,omitempty"`      // while open: fail-fast pNN of the caller's answers, upstream calls/s
	FaultFrom time.Duration   `json:"fault_from_ns"`       // the fault that should open it
	FaultTo   time.Duration   `json:"fault_to_ns"`
	// Where the caller's own answers are seen: the edges and the load streams into it.
	CallerEdges []string `json:"caller_edges,omitempty"`
	CallerLoads []string `json:"caller_loads,omitempty"`
}

// Fault is what was asked: the other half of the positive control.
type Fault struct {
	Name   string             `json:"name"`
	Kind   string             `json:"kind"`
	Target string             `json:"target"`
	Edges  []string           `json:"edges,omitempty"` // where its evidence is counted, for faults of the proxy
	At     time.Duration      `json:"at_ns"`
	For    time.Duration      `json:"for_ns"`
	UDP    bool               `json:"udp,omitempty"`   // it is on UDP edges, where a call is a datagram
	When   When               `json:"when,omitzero"`   // what narrows it down, for faults of the proxy
	Asked  map[string]float64 `json:"asked,omitempty"` // ratio (share to hit), delay_s (mean added delay), down_s, ...
}

// Result is the judgement of one run: the content of result.json. Judge fills
// all of it but Control, which takes two runs.
type Result struct {
	Version     int                 `json:"version"`
	Run         string              `json:"run"`
	Scenario    string              `json:"scenario"`
	Variant     string              `json:"variant,omitempty"`
	Seed        uint64              `json:"seed"`
	Status      string              `json:"status"` // completed, aborted, interrupted, failed
	Verdict     Verdict             `json:"verdict"`
	Void        string              `json:"void,omitempty"` // why nothing in this run counts: see NoSteadyState, Saturated, NotObserved, ClockBroken
	Reasons     []string            `json:"reasons"`
	Warnings    []string            `json:"warnings"`
	Objectives  []ObjectiveResult   `json:"objectives"`
	FamilyError string              `json:"family_error,omitempty"` // what several objectives mean together, in a sentence
	Breakers    []BreakerResult     `json:"breakers"`
	Invariants  []InvariantResult   `json:"invariants"`
	Faults      []FaultResult       `json:"faults"`
	Load        []LoadResult        `json:"load"`
	Recovery    []RecoveryResult    `json:"recovery,omitempty"`
	SLOs        []SLOResult         `json:"slos,omitempty"`
	Control     *ControlResult      `json:"control"`
	Environment journal.Environment `json:"environment"`
	StartedAt   time.Time           `json:"started_at"`
	DurationS   float64             `json:"duration_s"`
	JournalHead string              `json:"journal_head"`         // hash of the last line
	AuditHead   string              `json:"audit_head,omitempty"` // hash of the audit log's entry with which the run began
}

// ObjectiveResult judges one clause. Estimate, Low and High are in the clause's
// own share (0 to 1): ok, or good within the limit. Value is what people read:
// the share for ok, seconds for a percentile (failed requests count as slow; null
// when the percentile falls among them).
type ObjectiveResult struct {
	ID               string              `json:"id"`
	Load             string              `json:"load"` // a stream, or STREAM.STEP
	Phase            string              `json:"phase"`
	Objective        string              `json:"objective"` // "p95 < 700ms"
	Verdict          Verdict             `json:"verdict"`
	Target           float64             `json:"target"` // the share to reach
	Estimate         *float64            `json:"estimate"`
	Low              *float64            `json:"low"`
	High             *float64            `json:"high"`
	Value            *float64            `json:"value"`
	Unit             string              `json:"unit"` // "ratio" | "s"
	Samples          int                 `json:"samples"`
	EffectiveSamples float64             `json:"effective_samples"`
	NeededSamples    int                 `json:"needed_samples"` // further samples that would probably decide; 0 when decided, -1 when no realistic number would
	NeededS          float64             `json:"needed_s"`       // the same in seconds of this phase at this rate
	PerPhase         map[string]*float64 `json:"per_phase"`      // Value of the same metric in every phase
	Note             string              `json:"note,omitempty"`
}

// BreakerResult is a breaker as the wire showed it.
type BreakerResult struct {
	Edge         string             `json:"edge"`
	Verdict      Verdict            `json:"verdict"`
	OpenedAtS    *float64           `json:"opened_at_s"` // since the run's start; null: never
	ClosedAtS    *float64           `json:"closed_at_s"`
	TimeToOpenS  *float64           `json:"time_to_open_s"`  // since the fault began
	TimeToCloseS *float64           `json:"time_to_close_s"` // since the fault ended
	Flaps        int                `json:"flaps"`
	Probes       int                `json:"probes"`                // calls let through while it was open or half-open
	UpstreamPerS *float64           `json:"upstream_per_s"`        // calls on the edge per second while open
	FailFastS    map[string]float64 `json:"fail_fast_s,omitempty"` // pNN of the caller's answers while open
	Checks       []Check            `json:"checks"`
	Spans        []Span             `json:"spans"`                 // states over time, from the wire
	Reported     []Span             `json:"reported,omitempty"`    // the same as the service tells it
	ReportedBy   string             `json:"reported_by,omitempty"` // kind of the metrics in which it does: resilience4j, envoy, opossum
}

// Check is one claim within a larger one.
type Check struct {
	Claim   string  `json:"claim"` // "opens within 5s"
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"` // "opened 1.2 s after the fault began"
}

// Span is a state that lasted.
type Span struct {
	State string  `json:"state"` // closed, open, half-open
	FromS float64 `json:"from_s"`
	ToS   float64 `json:"to_s"`
}

// InvariantResult is one invariant, read from the services' own state.
type InvariantResult struct {
	Name    string             `json:"name"`
	Verdict Verdict            `json:"verdict"`
	Detail  string             `json:"detail"`
	Values  map[string]float64 `json:"values,omitempty"`
}

// FaultResult is the positive control of one fault.
type FaultResult struct {
	Name             string             `json:"name"`
	Kind             string             `json:"kind"`
	Target           string             `json:"target"`
	InjectedAtS      *float64           `json:"injected_at_s"`
	RevertedAtS      *float64           `json:"reverted_at_s"`
	Fired            int                `json:"fired"`
	Asked            map[string]float64 `json:"asked"`
	Observed         map[string]float64 `json:"observed"`
	ObservedOK       bool               `json:"observed_ok"` // what was observed is what was asked
	VerifiedReverted bool               `json:"verified_reverted"`
	Detail           string             `json:"detail,omitempty"`
}

// LoadResult sums up one stream over the whole run, warm-up included.
// Percentiles are of done − due over all finished requests, failed ones at the
// moment they failed.
type LoadResult struct {
	Name    string  `json:"name"`
	Model   string  `json:"model"`
	Due     int     `json:"due"`
	Sent    int     `json:"sent"`
	OK      int     `json:"ok"`
	Failed  int     `json:"failed"`
	Queued  int     `json:"queued"`
	Dropped int     `json:"dropped"`
	Late    int     `json:"late"`
	P50S    float64 `json:"p50_s"`
	P90S    float64 `json:"p90_s"`
	P95S    float64 `json:"p95_s"`
	P99S    float64 `json:"p99_s"`
	P999S   float64 `json:"p999_s"`
	MaxS    float64 `json:"max_s"`
	// Service is done − sent of the ok, Lag the generator's own error, sent − due
	// where nothing was queued; null where the journal has neither.
	Service  *Distribution  `json:"service,omitempty"`
	Lag      *Distribution  `json:"lag,omitempty"`
	Outcomes map[string]int `json:"outcomes,omitempty"`

	// FirstByte is first byte of the answer − sent, of the ok: what the server took
	// before it answered. Connect is how long connections took to make, Handshake how
	// long TLS took after that; null where none was made.
	FirstByte *Distribution `json:"first_byte,omitempty"`
	Connect   *Distribution `json:"connect,omitempty"`
	Handshake *Distribution `json:"handshake,omitempty"`

	Connects      int   `json:"connects,omitempty"`
	Resumed       int   `json:"resumed,omitempty"` // of them, those that went on with the TLS session of an earlier one
	BytesSent     int64 `json:"bytes_sent,omitempty"`
	BytesReceived int64 `json:"bytes_received,omitempty"` // heads included

	// Of a stream of sessions: its steps in the order in which they were first
	// asked, each with a name and numbers like a stream, and the sessions as such.
	// The requests of a user's setup are counted in none of the numbers above, but the
	// connections that were made for them are.
	Steps    []LoadResult   `json:"steps,omitempty"`
	Setup    []LoadResult   `json:"setup,omitempty"`
	Sessions *SessionResult `json:"sessions,omitempty"`
}

// SessionResult sums up the sessions of a stream. The times are those of the
// completed: from the first step's due time to the last step's end, think times
// included.
type SessionResult struct {
	Completed int     `json:"completed"`
	Failed    int     `json:"failed"` // a step failed
	Cut       int     `json:"cut"`    // the run ended first
	P50S      float64 `json:"p50_s"`
	P95S      float64 `json:"p95_s"`
	MaxS      float64 `json:"max_s"`
}

// Distribution is a distribution of times in a few numbers, in seconds.
type Distribution struct {
	P50S  float64 `json:"p50_s"`
	P90S  float64 `json:"p90_s"`
	P95S  float64 `json:"p95_s"`
	P99S  float64 `json:"p99_s"`
	P999S float64 `json:"p999_s"`
	MaxS  float64 `json:"max_s"`
}

// RecoveryResult: how long after the last fault ended every clause of `after`
// held for good.
type RecoveryResult struct {
	Load      string   `json:"load"`
	MeasuredS *float64 `json:"measured_s"` // null: not recovered within the run
	// The bounds, each at the confidence of the objectives (recoveryBounds).
	AtLeastS *float64 `json:"at_least_s"` // null: it is not shown that a clause ever did not hold
	AtMostS  *float64 `json:"at_most_s"`  // null: too few requests behind it to show that the clauses held
	AllowedS float64  `json:"allowed_s"`
	Detail   string   `json:"detail,omitempty"`
}

// ControlResult is the judgement of a pair: the scenario, and its control variant.
type ControlResult struct {
	Pair     string   `json:"pair"`    // PROVEN, DISPROVEN, VACUOUS, INCONCLUSIVE
	Verdict  Verdict  `json:"verdict"` // of the control run
	MustFail []string `json:"must_fail"`
	Failed   []string `json:"failed"` // the clauses that did fail in the control run
	Detail   string   `json:"detail,omitempty"`
	Run      string   `json:"run,omitempty"` // folder of the control run
}
