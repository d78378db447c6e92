//go:build linux

package main

import (
	"testing"
	"time"
)

const ms = time.Millisecond

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		name    string
		arrived []time.Duration // of 10 due at 10/s within 1 s
		share   float64
		late    float64 // the last one's, in µs
	}{
		{"on time", []time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms, 500 * ms, 600 * ms, 700 * ms, 800 * ms, 900 * ms}, 1, 0},
		{"the first was late: the others were not early", []time.Duration{0, 99 * ms, 199 * ms, 299 * ms, 399 * ms, 499 * ms, 599 * ms, 699 * ms, 799 * ms, 899 * ms}, 1, 0},
		{"two arrived in the wrong order", []time.Duration{0, 200 * ms, 100 * ms, 300 * ms, 400 * ms, 500 * ms, 600 * ms, 700 * ms, 800 * ms, 902 * ms}, 1, 2000},
		{"half", []time.Duration{0, 200 * ms, 400 * ms, 600 * ms, 800 * ms}, 0.5, 400_000},
		{"one long after the end", []time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms, 500 * ms, 600 * ms, 700 * ms, 800 * ms, 1900 * ms}, 0.9, 1_000_000},
	} {
		share, late := schedule(c.arrived, 10, time.Second)
		if share != c.share || late[len(late)-1] != c.late {
			t.Errorf("%s: share %v, the last %v µs late; want %v, %v", c.name, share, late[len(late)-1], c.share, c.late)
		}
	}
	if share, late := schedule(nil, 10, time.Second); share != 0 || len(late) != 0 {
		t.Errorf("nothing arrived: share %v, %v", share, late)
	}
}

func TestFreezing(t *testing.T) {
	b := behaviour{Delay: ms, Period: 10 * time.Second, Freeze: time.Second}
	for arrived, want := range map[time.Duration]time.Duration{
		0:                       ms,
		8998 * ms:               8999 * ms,
		8999 * ms:               10 * time.Second, // due as it freezes
		9500 * ms:               10 * time.Second,
		9999 * ms:               10 * time.Second,
		10 * time.Second:        10_001 * ms,
		19*time.Second + 500*ms: 20 * time.Second,
	} {
		if got := b.answerAt(arrived); got != want {
			t.Errorf("arrived at %v, answered at %v, want %v", arrived, got, want)
		}
	}
	// A tenth of the callers waits evenly up to a second: one in a hundred more than 0.9 s.
	if got := b.p99(500, 20*time.Second); got < 895*ms || got > 905*ms {
		t.Errorf("the p99 is %v, want about 900ms", got)
	}
}

// TestReports: what each generator prints is understood, in its own unit.
func TestReports(t *testing.T) {
	want := seen{5 * ms, 7500 * time.Microsecond}
	for name, c := range map[string]struct {
		parse func([]byte) (seen, error)
		out   string
	}{
		"ours":   {parseOurs, `{"due":2000,"p50_s":0.005,"p99_s":0.0075}`},
		"vegeta": {parseVegeta, `{"latencies":{"total":1,"mean":5100000,"50th":5000000,"90th":6000000,"99th":7500000}}`},
		"fortio": {parseFortio, `{"DurationHistogram":{"Count":9,"Percentiles":[{"Percentile":50,"Value":0.005},{"Percentile":99,"Value":0.0075}]}}`},
		"k6":     {parseK6, `{"metrics":{"http_req_duration":{"p(50)":5,"p(99)":7.5},"http_reqs":{"count":9}}}`},
		"wrk":    {parseWrk, "  Latency Distribution\n     50%    5.00ms\n     75%    6.00ms\n     99%    7.50ms\n  100 requests in 1.00s\n"},
		"wrk2":   {parseWrk, "  Latency Distribution (HdrHistogram - Recorded Latency)\n 50.000%    5.00ms\n 99.000%    7.50ms\n 99.900%    8.00ms\n"},
		"hey":    {parseHey, "response-time,DNS+dialup,DNS\n0.0050,0,0\n0.0075,0,0\n0.0040,0,0\n"},
	} {
		if got, err := c.parse([]byte(c.out)); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		}
	}
}
