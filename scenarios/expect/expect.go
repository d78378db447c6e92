package expect

import "time"

// Clause is one parsed expectation. Which fields count depends on Metric.
type Clause struct {
	Metric   Metric        `json:"metric"`
	Quantile float64       `json:"quantile,omitempty"` // 0.95 for p95
	Op       string        `json:"op"`                 // < <= > >=
	Ratio    float64       `json:"ratio,omitempty"`    // limit of ok, 0 to 1
	Limit    time.Duration `json:"limit_ns,omitempty"` // limit of pNN
	PerS     float64       `json:"per_s,omitempty"`    // limit of upstream, calls per second
	For      time.Duration `json:"for_ns,omitempty"`   // abort conditions only: "for 30s"
}

// Metric is what a clause speaks of.
type Metric string

const (
	OK         Metric = "ok"       // share of requests answered as they should be
	Percentile Metric = "p"        // p50 … p99.99: latency, failed requests counting as slow
	Upstream   Metric = "upstream" // calls per second that still reach the callee
)
