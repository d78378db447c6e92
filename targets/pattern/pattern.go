// Package pattern holds the resilience settings of one edge: what a caller does
// about time, failure and load when it calls a callee. The file form (Spec) is
// what users write; the resolved form (Settings) is what a reference service is
// handed. Nothing here acts: targets/reference/node does.
package pattern

import "time"

// Mode picks a whole set of settings, or one of them, at once.
type Mode string

const (
	Off      Mode = "off"      // nothing: no timeout, no retry, no breaker, no bulkhead, no fallback
	Textbook Mode = "textbook" // as tutorials print it, defects included (docs/rows.md, D13 and D14)
	Hardened Mode = "hardened" // as it should be; the default of every reference edge
)

// Settings is what one caller does on one edge; zero values mean "off".
// What a service is handed has been through Scale already.
type Settings struct {
	Timeout  time.Duration `json:"timeout_ns,omitempty" yaml:"timeout,omitempty"` // of one try
	Retry    Retry         `json:"retry" yaml:"retry"`
	Breaker  Breaker       `json:"breaker" yaml:"breaker"`
	Bulkhead Bulkhead      `json:"bulkhead" yaml:"bulkhead"`
	Fallback Mode          `json:"fallback,omitempty" yaml:"fallback,omitempty"`
}

// Retry says how often a call is tried, and how long to wait between tries.
//
//	k     the retry, 1 … Tries-1
//	f     a random factor in [1-Jitter, 1+Jitter]
//	wait  hardened:  min(Cap, Base·2^(k-1)·f)
//	      textbook:  min(Cap, Base·2^(k-1))·f, so that waits exceed the cap (D14)
//
// Hardened retries only calls that may be repeated, and only failures that may
// pass (no answer, or 5xx). Textbook retries every call after every failure,
// 4xx included (D14).
type Retry struct {
	Mode   Mode          `json:"mode,omitempty" yaml:"mode,omitempty"`
	Tries  int           `json:"tries,omitempty" yaml:"tries,omitempty"` // in all, the first included
	Base   time.Duration `json:"base_ns,omitempty" yaml:"base,omitempty"`
	Cap    time.Duration `json:"cap_ns,omitempty" yaml:"cap,omitempty"`
	Jitter float64       `json:"jitter,omitempty" yaml:"jitter,omitempty"` // share
	Budget float64       `json:"budget,omitempty" yaml:"budget,omitempty"` // retries as a share of calls; 0 = unlimited
}

// Breaker opens after Failures consecutive failures, or when of at least MinCalls
// finished calls a share of FailureRatio or more failed; neither rule looks back
// further than Window (0 = for ever). It stays open for Open (±Jitter, drawn once
// per instance), then admits Probes calls, and closes when all of them succeed.
//
//	          failures               Open is over
//	closed ------------> open -----------------------> half-open
//	   ^                  ^        a probe fails           |
//	   |                  +--------------------------------+
//	   +---------------------------------------------------+
//	                      every probe succeeds
//
// Hardened counts no answer and 5xx as failures; textbook counts 4xx too, so
// that declined cards open the circuit (D13).
type Breaker struct {
	Mode         Mode          `json:"mode,omitempty" yaml:"mode,omitempty"`
	Failures     int           `json:"failures,omitempty" yaml:"failures,omitempty"`
	FailureRatio float64       `json:"failure_ratio,omitempty" yaml:"failure_ratio,omitempty"`
	MinCalls     int           `json:"min_calls,omitempty" yaml:"min_calls,omitempty"`
	Window       time.Duration `json:"window_ns,omitempty" yaml:"window,omitempty"`
	Open         time.Duration `json:"open_ns,omitempty" yaml:"open,omitempty"`
	Jitter       float64       `json:"jitter,omitempty" yaml:"jitter,omitempty"`
	Probes       int           `json:"probes,omitempty" yaml:"probes,omitempty"`
}

// Bulkhead admits Limit calls at once; one more waits for at most Wait.
type Bulkhead struct {
	Mode  Mode          `json:"mode,omitempty" yaml:"mode,omitempty"`
	Limit int           `json:"limit,omitempty" yaml:"limit,omitempty"`
	Wait  time.Duration `json:"wait_ns,omitempty" yaml:"wait,omitempty"`
}

// Sagas is where a service keeps the sagas that it runs. It is a setting of the
// service, not of an edge.
type Sagas string

const (
	Durable Sagas = "durable" // each step on disk before it is done: a new process takes up what the last one left; the default
	Memory  Sagas = "memory"  // as tutorials have it (D12): an order is written down when it has ended, and a crash forgets those under way
)

// Spec is how a scenario writes the patterns of one edge: a Mode alone
// (`orders -> payments: off`), or single settings over the edge's default
// (`{ breaker: hardened, timeout: 500ms }`).
type Spec struct {
	Mode     Mode          `yaml:"mode" json:"mode,omitempty"`         // where the other settings start from; default hardened
	Timeout  *Timeout      `yaml:"timeout" json:"timeout,omitempty"`   // 500ms | off
	Retry    *RetrySpec    `yaml:"retry" json:"retry,omitempty"`       // mode or { tries, base, cap, jitter, budget }
	Breaker  *BreakerSpec  `yaml:"breaker" json:"breaker,omitempty"`   // mode or { failures, failure_ratio, min_calls, window, open, jitter, probes }
	Bulkhead *BulkheadSpec `yaml:"bulkhead" json:"bulkhead,omitempty"` // mode or { limit, wait }
	Fallback *Mode         `yaml:"fallback" json:"fallback,omitempty"` // off | hardened
}

// Timeout is a duration, or "off" (0).
type Timeout time.Duration

// RetrySpec, BreakerSpec and BulkheadSpec are a Mode alone, or single settings
// over the mode's.
type (
	RetrySpec struct {
		Mode   Mode           `yaml:"mode" json:"mode,omitempty"`
		Tries  *int           `yaml:"tries" json:"tries,omitempty"`
		Base   *time.Duration `yaml:"base" json:"base,omitempty"`
		Cap    *time.Duration `yaml:"cap" json:"cap,omitempty"`
		Jitter *float64       `yaml:"jitter" json:"jitter,omitempty"`
		Budget *float64       `yaml:"budget" json:"budget,omitempty"`
	}
	BreakerSpec struct {
		Mode         Mode           `yaml:"mode" json:"mode,omitempty"`
		Failures     *int           `yaml:"failures" json:"failures,omitempty"`
		FailureRatio *float64       `yaml:"failure_ratio" json:"failure_ratio,omitempty"`
		MinCalls     *int           `yaml:"min_calls" json:"min_calls,omitempty"`
		Window       *time.Duration `yaml:"window" json:"window,omitempty"`
		Open         *time.Duration `yaml:"open" json:"open,omitempty"`
		Jitter       *float64       `yaml:"jitter" json:"jitter,omitempty"`
		Probes       *int           `yaml:"probes" json:"probes,omitempty"`
	}
	BulkheadSpec struct {
		Mode  Mode           `yaml:"mode" json:"mode,omitempty"`
		Limit *int           `yaml:"limit" json:"limit,omitempty"`
		Wait  *time.Duration `yaml:"wait" json:"wait,omitempty"`
	}
)
