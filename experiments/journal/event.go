// Package journal holds what happened in a run: one JSON line per event, in the
// order in which things became known, each line carrying the hash of the one
// before. Whatever is said about a run afterwards (its verdict, its reports, its
// charts) is a function of these lines alone.
//
// The first line is a start event and names the version of the format:
//
//	{"at_s":0,"start":{"version":1,"run":"…","plan":{…},…}}
//	{"at_s":3,"phase":{"name":"before"},"prev":"<sha256 of the line above, in hex>"}
//
// The hash is taken over the bytes of a line without its newline. The hash of
// the last line, the head, is printed and kept with the result: a chain without
// a key shows a later edit only against such a copy.
package journal

import (
	"encoding/json"
	"time"
)

// Version is the format of the journal; it stands in the first line.
const Version = 1

// Event is one line of the journal: a moment, and exactly one of the kinds.
//
//	{"at_s":12.1,"phase":{"name":"before"},"prev":"<sha256 of the line before>"}
//
// At is the time since the run's start, kept to the microsecond on disk.
type Event struct {
	At      time.Duration `json:"-"`
	Start   *Start        `json:"start,omitempty"`
	Phase   *Phase        `json:"phase,omitempty"`
	Window  *Window       `json:"window,omitempty"`
	Sample  *Sample       `json:"sample,omitempty"`
	Fault   *Fault        `json:"fault,omitempty"`
	Edge    *Edge         `json:"edge,omitempty"`
	Breaker *Breaker      `json:"breaker,omitempty"`
	Probe   *Probe        `json:"probe,omitempty"`
	Service *Service      `json:"service,omitempty"`
	Abort   *Abort        `json:"abort,omitempty"`
	Mark    *Mark         `json:"mark,omitempty"`
	End     *End          `json:"end,omitempty"`
}

// Start is the first event. Plan is the resolved plan as JSON, whole: it makes
// every report and every verdict a function of the journal alone.
type Start struct {
	Version     int             `json:"version"`
	Run         string          `json:"run"` // run id
	Scenario    string          `json:"scenario"`
	Variant     string          `json:"variant"` // "" | "control" | "sham"
	Seed        uint64          `json:"seed"`
	PlanHash    string          `json:"plan_hash"` // sha256 of Plan
	Plan        json.RawMessage `json:"plan"`
	Environment Environment     `json:"environment"`
	Wall        time.Time       `json:"wall"`            // wall clock at offset 0
	Audit       *AuditHead      `json:"audit,omitempty"` // nil: nobody keeps one
}

// AuditHead is where the audit log ended when the run was put down in it: the run's own
// first entry. With it, an end of that log that is missing shows.
type AuditHead struct {
	Entry uint64 `json:"entry"` // its number
	Hash  string `json:"hash"`
}

// Environment is where the run took place, for whoever compares two of them.
type Environment struct {
	Chaosctl string `json:"chaosctl"` // version
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	CPUs     int    `json:"cpus"`
	Kernel   string `json:"kernel,omitempty"`
	Hostname string `json:"hostname,omitempty"`
}

// Phase begins here and lasts until the next one, or the end.
type Phase struct {
	Name string `json:"name"` // warmup, before, during, after, drain
}

// Window is an increment of one load stream: what became known, since the last
// line for the same DueS, about the requests that were due in the 100 ms that
// begin at DueS. Windows of one stream add up, in any order. A request is
// counted where it was due, whenever it was answered.
//
// Sent + not yet sent = Due; OK + Failed = finished; Dropped are Failed that
// were never sent. Queued waited for a free connection; Late were sent more than
// 10 ms after they were due although a connection was free.
//
// A stream of sessions has windows per step, and windows without a step that hold
// no requests but say what came of the sessions due in them.
type Window struct {
	Load    string `json:"load"`
	Step    string `json:"step,omitempty"`
	Setup   bool   `json:"setup,omitempty"` // the step is one of a user's setup: in none of the stream's counts
	DueS    Secs   `json:"due_s"`
	Due     int    `json:"due,omitempty"`
	Sent    int    `json:"sent,omitempty"`
	OK      int    `json:"ok,omitempty"`
	Failed  int    `json:"failed,omitempty"`
	Queued  int    `json:"queued,omitempty"`
	Dropped int    `json:"dropped,omitempty"`
	Late    int    `json:"late,omitempty"`
	// OKLatency and FailedLatency are HDR histograms (loadgen/hdr, base64 of the
	// V2 compressed encoding) of done − due in microseconds; empty when nothing finished.
	OKLatency     string `json:"ok_latency,omitempty"`
	FailedLatency string `json:"failed_latency,omitempty"`
	// Service is the same of done − sent of the ok: without what the request waited
	// for a connection. Lag is of sent − due where a connection was free: the
	// generator's own error.
	Service string `json:"service,omitempty"`
	Lag     string `json:"lag,omitempty"`
	// FirstByte is of first byte of the answer − sent of the ok. Connect is how long
	// each connection took to make, Handshake how long TLS took after that.
	FirstByte string `json:"first_byte,omitempty"`
	Connect   string `json:"connect,omitempty"`
	Handshake string `json:"handshake,omitempty"`
	Connects  int    `json:"connects,omitempty"` // connections made
	Resumed   int    `json:"resumed,omitempty"`  // of them, those whose TLS session is an earlier one's

	BytesSent     int64 `json:"bytes_sent,omitempty"`     // of requests
	BytesReceived int64 `json:"bytes_received,omitempty"` // of answers, heads included

	// Outcomes counts the finished by status code ("200") or by error class:
	// timeout, refused, reset, tls, dns, dropped, protocol, canceled, check, capture,
	// data, redirect, setup, other.
	Outcomes map[string]int `json:"outcomes,omitempty"`
	Sessions *Sessions      `json:"sessions,omitempty"`
}

// Sessions is what came of the sessions due in a window: all steps went well, one
// failed, or the run ended first. Duration is a histogram (µs) of the completed,
// from the first step's due time to the last step's end.
type Sessions struct {
	Completed int    `json:"completed,omitempty"`
	Failed    int    `json:"failed,omitempty"`
	Cut       int    `json:"cut,omitempty"`
	Duration  string `json:"duration,omitempty"`
}

// Sample is an exemplar: one slow or failed request.
type Sample struct {
	Load    string `json:"load"`
	Step    string `json:"step,omitempty"` // of a session
	Seq     uint64 `json:"seq"`            // number of the request in its stream, from 0
	DueS    Secs   `json:"due_s"`
	Latency Secs   `json:"latency_s"`
	Outcome string `json:"outcome"`
	Request string `json:"request"` // "POST /checkout"
	Detail  string `json:"detail,omitempty"`
	TraceID string `json:"trace_id,omitempty"`
}

// Fault is one step in the life of a fault.
type Fault struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Target string `json:"target"`
	State  string `json:"state"` // injecting, injected, reverting, reverted, verified, failed
	Error  string `json:"error,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Asked and Observed are the fault's positive control, in units named by the
	// key (delay_s, ratio, down_s, ...). Observed here is what the runtime saw
	// (kill, pause, ...); what proxies saw stands in the Edge events.
	Asked    map[string]float64 `json:"asked,omitempty"`
	Observed map[string]float64 `json:"observed,omitempty"`
}

// Edge is what the proxy of one edge saw since its last Edge line (about 100 ms).
type Edge struct {
	Edge      string         `json:"edge"`
	Calls     int            `json:"calls,omitempty"`    // HTTP requests (tcp edges: connections; udp edges: datagrams) that the caller began
	Answers   map[string]int `json:"answers,omitempty"`  // by status code, or status of gRPC that is not OK (UNAVAILABLE), or: refused, reset, closed, canceled, opaque (could not be parsed); udp edges: answered, unanswered, refused
	Upstream  int            `json:"upstream,omitempty"` // calls that reached the callee (an injected error does not)
	Open      int            `json:"open,omitempty"`     // connections open now
	BytesUp   int64          `json:"bytes_up,omitempty"`
	BytesDown int64          `json:"bytes_down,omitempty"`
	// Of udp edges: datagrams passed on, copies among them, and those that were not, by
	// reason (see proxy.DatagramStats).
	DatagramsUp   int            `json:"datagrams_up,omitempty"`
	DatagramsDown int            `json:"datagrams_down,omitempty"`
	Lost          map[string]int `json:"lost,omitempty"`
	// Latency is a histogram of call begun -> answer begun, at the proxy, in µs,
	// added delay included (HTTP edges).
	Latency string               `json:"latency,omitempty"`
	Faults  map[string]EdgeFault `json:"faults,omitempty"`
}

// EdgeFault is what one fault did on one edge since the last line.
type EdgeFault struct {
	Eligible int    `json:"eligible,omitempty"` // calls (connections) it could have hit
	Fired    int    `json:"fired,omitempty"`    // those it hit
	Delay    string `json:"delay,omitempty"`    // histogram of measured added delay, µs
	Bytes    int64  `json:"bytes,omitempty"`    // bytes it held back, throttled or discarded
}

// Breaker is a state that a service itself reports for its breaker on an edge.
// (What the wire shows is the verdict's business, not the journal's.)
type Breaker struct {
	Edge  string `json:"edge"`
	State string `json:"state"` // closed, open, half-open
	// Source is the kind of metrics in which it was read (resilience4j, envoy,
	// opossum); empty: a reference service said so itself.
	Source string `json:"source,omitempty"`
}

// Probe is the answer to one question put to the system by the runner.
type Probe struct {
	Name   string             `json:"name"` // money, stock, drained, ...
	Kind   string             `json:"kind"` // invariant, drain, health
	OK     bool               `json:"ok"`
	Detail string             `json:"detail"`
	Error  string             `json:"error,omitempty"` // the question could not be put or answered: OK means nothing then
	Values map[string]float64 `json:"values,omitempty"`
}

// Service is a step in the life of one instance.
type Service struct {
	Name     string   `json:"name"`
	Instance int      `json:"instance,omitempty"`
	State    string   `json:"state"` // started, ready, died, restarted, paused, resumed, stopped
	PID      int      `json:"pid,omitempty"`
	Address  string   `json:"address,omitempty"`
	Detail   string   `json:"detail,omitempty"`   // exit status or signal
	Expected bool     `json:"expected,omitempty"` // died because a fault (or the end of the run) asked for it
	Log      []string `json:"log,omitempty"`      // its last lines, with died
}

// Abort says why a run ends early.
type Abort struct {
	Reason      string `json:"reason"`
	Interrupted bool   `json:"interrupted,omitempty"` // by a signal, not by a condition
}

// Mark is a note on the timeline: a warning, or what a person did.
type Mark struct {
	Text    string `json:"text"`
	Warning bool   `json:"warning,omitempty"`
	// SuspendedS is how long the machine was suspended before this moment, while the
	// run's clock stood still.
	SuspendedS Secs `json:"suspended_s,omitempty"`
}

// End is the last event.
type End struct {
	Status string `json:"status"` // completed, aborted, interrupted, failed
	Error  string `json:"error,omitempty"`
}

// Secs is a duration that is written as seconds, to the microsecond.
type Secs time.Duration
