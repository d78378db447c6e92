package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// loadText is the answer of load for people.
type loadText struct {
	w     io.Writer
	width int
	color bool
}

// result writes the summary, the verdict last: where the eye rests when a
// command has ended.
func (t loadText) result(p *loadPlan, o *loadOutcome, r loadResult) error {
	var b strings.Builder
	t.counts(&b, p, o, r)
	t.latencies(&b, o)
	t.histogram(&b, o.total.latency)
	t.answers(&b, r)
	t.steps(&b, r)
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "\n%s %s\n", t.paint(yellow, "warning:"), w)
	}
	if r.Status == "interrupted" {
		fmt.Fprintf(&b, "\ninterrupted after %s; %s requests in flight were cut off\n", chart.Seconds(r.TookS), chart.Count(r.Canceled))
	}
	t.verdict(&b, r)
	_, err := io.WriteString(t.w, b.String())
	return err
}

func (t loadText) counts(b *strings.Builder, p *loadPlan, o *loadOutcome, r loadResult) {
	n := chart.Count
	fmt.Fprintf(b, "requests   %s due, %s sent, %s ok, %s failed\n", n(r.Due), n(r.Sent), n(r.OK), n(r.Failed))
	if r.Queued+r.Dropped+r.Late > 0 {
		fmt.Fprintf(b, "           %s queued (all connections busy), %s dropped (queued beyond the timeout), %s late (our own lag)\n", n(r.Queued), n(r.Dropped), n(r.Late))
	}
	asked := ""
	if r.AskedPerS > 0 {
		asked = fmt.Sprintf(" of %s asked", chart.Rate(r.AskedPerS))
	}
	fmt.Fprintf(b, "rate       %s sent%s, %s ok, for %s\n", chart.Rate(r.SentPerS), asked, chart.Rate(r.OKPerS), chart.Seconds(r.DurationS))
	if r.BytesSent+r.BytesReceived > 0 {
		fmt.Fprintf(b, "bytes      %s sent, %s received\n", chart.Bytes(float64(r.BytesSent)), chart.Bytes(float64(r.BytesReceived)))
	}
	if r.Connects > 0 {
		fmt.Fprintf(b, "connects   %s, at most %s at once\n", n(r.Connects), n(p.spec.MostConnections()))
	}
	if r.FirstByte != nil && (r.Connect != nil && r.Connect.P50S >= 0.0005 || r.Handshake != nil) {
		fmt.Fprintf(b, "first byte p50 %s, p99 %s after the send; a connection p50 %s, p99 %s\n",
			chart.Seconds(r.FirstByte.P50S), chart.Seconds(r.FirstByte.P99S), chart.Seconds(r.Connect.P50S), chart.Seconds(r.Connect.P99S))
	}
	for _, s := range r.Setup {
		fmt.Fprintf(b, "setup      %s: %s ok, %s failed, p50 %s, max %s; in no other number\n", s.Name, n(s.OK), n(s.Failed), chart.Seconds(s.P50S), chart.Seconds(s.MaxS))
	}
	if s := r.Sessions; s != nil {
		fmt.Fprintf(b, "sessions   %s completed, %s failed, %s cut off by the end\n", n(s.Completed), n(s.Failed), n(s.Cut))
	}
	if r.Handshake != nil {
		fmt.Fprintf(b, "TLS        handshake p50 %s, p99 %s; %s resumed\n", chart.Duration(o.total.handshake.Quantile(0.5)), chart.Duration(o.total.handshake.Quantile(0.99)), n(r.Resumed))
	}
}

// latencies shows latency, and beside it what it is made of where they differ:
//
//	             latency   service       lag
//	            from due  from send  our own
//	p50           1.2 ms    1.1 ms    0.1 ms
func (t loadText) latencies(b *strings.Builder, o *loadOutcome) {
	c := &o.total
	if c.latency.Count() == 0 {
		return
	}
	type column struct {
		name, from string
		h          *hdr.Histogram
	}
	columns := []column{{"latency", "from due", c.latency}}
	if c.service.Count() > 0 && differ(c.latency, c.service) {
		columns = append(columns, column{"service", "from send", c.service})
	}
	if c.lag.Count() > 0 && (len(columns) > 1 || c.lag.Quantile(0.99) >= time.Millisecond) {
		columns = append(columns, column{"lag", "our own", c.lag})
	}
	b.WriteString("\n           ")
	for _, col := range columns {
		fmt.Fprintf(b, "%11s", col.name)
	}
	b.WriteString("\n           ")
	for _, col := range columns {
		fmt.Fprintf(b, "%11s", col.from)
	}
	b.WriteString("\n")
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}} {
		fmt.Fprintf(b, "%-11s", q.name)
		for _, col := range columns {
			fmt.Fprintf(b, "%11s", chart.Duration(col.h.Quantile(q.at)))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(b, "%-11s", "mean")
	for _, col := range columns {
		fmt.Fprintf(b, "%11s", chart.Duration(col.h.Mean()))
	}
	b.WriteString("\n")
}

// differ tells whether two distributions are more than 2 % and 50 µs apart at
// some percentile that is shown.
func differ(a, b *hdr.Histogram) bool {
	for _, q := range []float64{0.5, 0.9, 0.95, 0.99, 0.999, 1} {
		x, y := a.Quantile(q), b.Quantile(q)
		if d := (x - y).Abs(); d > 50*time.Microsecond && float64(d) > 0.02*float64(max(x, y)) {
			return true
		}
	}
	return false
}

// bars is how many rows the histogram has at most.
const bars = 12

// histogram draws how latencies are spread: rows are equally wide on a
// logarithmic scale, each named by its upper end.
func (t loadText) histogram(b *strings.Builder, h *hdr.Histogram) {
	if h.Count() < 20 {
		return
	}
	low, high := max(h.Min(), hdr.Lowest), h.Max()
	counts := make([]int64, bars)
	step := math.Log(float64(high)/float64(low)) / bars
	if step < 0.01 { // all the same, to some percent
		return
	}
	// A bucket is far narrower than a row: it goes where its lower edge lies.
	h.Each(func(at, _ time.Duration, n int64) {
		i := int(math.Log(float64(max(at, low))/float64(low)) / step)
		counts[min(max(i, 0), bars-1)] += n
	})
	most := slices.Max(counts)
	wide := max(10, min(t.width, 100)-34)
	b.WriteString("\n")
	for i, n := range counts {
		bar := int(math.Round(float64(n) / float64(most) * float64(wide)))
		sign := strings.Repeat("■", bar)
		if n > 0 && bar == 0 {
			sign = "·"
		}
		edge := time.Duration(float64(low) * math.Exp(step*float64(i+1)))
		fmt.Fprintf(b, "  <= %9s %11s  %s\n", chart.Duration(edge), chart.Count(int(n)), sign)
	}
}

func (t loadText) answers(b *strings.Builder, r loadResult) {
	if len(r.Outcomes) == 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(r.Outcomes), func(x, y string) int {
		return cmp.Or(r.Outcomes[y]-r.Outcomes[x], strings.Compare(x, y))
	})
	b.WriteString("\n")
	for i, name := range names {
		lead := ""
		if i == 0 {
			lead = "answers"
		}
		line := fmt.Sprintf("%-10s %-9s %11s", lead, name, chart.Count(r.Outcomes[name]))
		if d := r.Errors[name]; d != "" {
			line += "  " + d
		}
		b.WriteString(line + "\n")
	}
}

// steps shows what became of each step of the sessions, and how long it took.
func (t loadText) steps(b *strings.Builder, r loadResult) {
	if len(r.Steps) == 0 {
		return
	}
	wide := len("steps")
	for _, s := range r.Steps {
		wide = max(wide, utf8.RuneCountInString(s.Name))
	}
	fmt.Fprintf(b, "\n%-*s %11s %9s %11s %11s %11s\n", wide, "steps", "ok", "failed", "p50", "p99", "max")
	for _, s := range r.Steps {
		fmt.Fprintf(b, "%-*s %11s %9s %11s %11s %11s\n", wide, s.Name, chart.Count(s.OK), chart.Count(s.Failed),
			chart.Seconds(s.P50S), chart.Seconds(s.P99S), chart.Seconds(s.MaxS))
	}
}

func (t loadText) verdict(b *strings.Builder, r loadResult) {
	if r.Verdict == "" {
		return
	}
	b.WriteString("\n")
	for _, o := range r.Objectives {
		step := strings.TrimPrefix(strings.TrimPrefix(o.Load, r.Name), ".")
		line := fmt.Sprintf("%-12s %s", o.Verdict, strings.TrimSpace(step+" "+o.Objective))
		if o.Estimate != nil {
			line += fmt.Sprintf(": %s good, bounds %s to %s, %s requests", chart.ShareAgainst(*o.Estimate, o.Target),
				chart.ShareAgainst(*o.Low, o.Target), chart.ShareAgainst(*o.High, o.Target), chart.Count(o.Samples))
		}
		b.WriteString(t.paint(verdictColor(o.Verdict), line) + "\n")
	}
	reason := ""
	if len(r.Reasons) > 0 {
		reason = r.Reasons[0]
	}
	fmt.Fprintf(b, "%s  %s\n", t.paint(verdictColor(r.Verdict), strings.ToUpper(string(r.Verdict))), reason)
}

// Colours go beside the words, never in their place (ANSI SGR codes).
const (
	red    = "1;31"
	green  = "1;32"
	yellow = "1;33"
)

func verdictColor(v verdict.Verdict) string {
	switch v {
	case verdict.Pass:
		return green
	case verdict.Fail:
		return red
	}
	return yellow
}

func (t loadText) paint(code, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
