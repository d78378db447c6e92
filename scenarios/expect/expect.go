// Package expect is the small language in which a scenario says what it expects:
//
//	ok >= 99%           share of requests answered as they should be
//	p95 < 250ms         a latency percentile; failed requests count as slow
//	upstream <= 2/s     calls that still reach the callee (while a breaker is open)
//	ok < 5% for 30s     held for so long (abort conditions)
//
// The grammar, with any white space between the words:
//
//	clause = metric op limit [ "for" duration ]
//	metric = "ok" | "upstream" | "p" quantile     quantile: 1 to 99.999, in percent
//	op     = "<" | "<=" | ">" | ">="
//	limit  = share "%" for ok; a duration for pNN; calls "/s" for upstream
//
// Which clauses make sense where is for the user of the package to decide.
package expect

import (
	"strconv"
	"strings"
	"time"
)

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

// Name is the metric as users write it: "ok", "p95", "upstream".
func (c Clause) Name() string {
	if c.Metric == Percentile {
		return "p" + shift(number(c.Quantile), 2)
	}
	return string(c.Metric)
}

// String is the clause as Parse reads it: Parse(c.String()) is c again, for every
// c that Parse made.
func (c Clause) String() string {
	limit := ""
	switch c.Metric {
	case OK:
		limit = shift(number(c.Ratio), 2) + "%"
	case Percentile:
		limit = duration(c.Limit)
	case Upstream:
		limit = number(c.PerS) + "/s"
	}
	s := c.Name() + " " + c.Op + " " + limit
	if c.For != 0 {
		s += " for " + duration(c.For)
	}
	return s
}

// Holds tells whether a value satisfies the clause: a share (0 to 1) for ok,
// seconds for a percentile, calls per second for upstream.
func (c Clause) Holds(value float64) bool {
	limit := c.Ratio
	switch c.Metric {
	case Percentile:
		limit = c.Limit.Seconds()
	case Upstream:
		limit = c.PerS
	}
	switch c.Op {
	case "<":
		return value < limit
	case "<=":
		return value <= limit
	case ">":
		return value > limit
	default:
		return value >= limit
	}
}

// number writes x in decimal digits, as few as read back as x.
func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// shift moves the decimal point of a decimal number by places to the right (left
// if negative). It works on the digits, because ×100 in binary would make
// 0.07 into 7.000000000000001.
func shift(digits string, places int) string {
	whole, fraction, _ := strings.Cut(digits, ".")
	for ; places > 0; places-- {
		if fraction == "" {
			fraction = "0"
		}
		whole, fraction = whole+fraction[:1], fraction[1:]
	}
	for ; places < 0; places++ {
		if whole == "" {
			whole = "0"
		}
		fraction, whole = whole[len(whole)-1:]+fraction, whole[:len(whole)-1]
	}
	whole = strings.TrimLeft(whole, "0")
	if whole == "" {
		whole = "0"
	}
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		return whole + "." + fraction
	}
	return whole
}

// duration is time.Duration's own form without the parts that are zero: 1m30s, 2m, 250ms.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
