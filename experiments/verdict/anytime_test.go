package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// peeked is what so many runs showed to someone who looks after every 100 ms and
// believes the first verdict that he sees. The claim is the truth itself: each
// verdict about it is wrong on its side.
type peeked struct {
	runs            int
	anytime, naive  int // runs in which a lower bound ever lay above the truth
	labelledAnytime int // the same, told without the label "estimate"
	below           int // runs in which an upper bound ever lay below it
}

// peek simulates s, looking all the time.
func (s simulated) peek(runs int, seed uint64) peeked {
	out := peeked{runs: runs}
	p := s.process()
	r := rand.New(rand.NewPCG(seed, 77))
	// The evidence against the truth is all that needs looking at: a bound lies
	// beyond it when that reaches 1/α.
	limit := -math.Log(1 - 0.95)
	for range runs {
		ws := p.draw(r)
		var good, n float64
		var above, below, naive, labelled bool
		for k, w := range ws {
			good, n = good+float64(w.good), n+float64(w.n)
			if n == 0 {
				continue
			}
			eff, known := n, true
			if s.burst > 0 {
				if k%50 != 49 { // a look costs an autocorrelation: each 5 s
					continue
				}
				e := estimateShare(ws[:k+1], 0.95)
				if known = !e.uniform && e.block <= memory; !e.uniform && !known {
					eff = e.effective
				}
			}
			share := good / n
			if evidenceAbove(p.p, share*eff, eff) >= limit {
				above = true
				labelled = labelled || known
			}
			below = below || evidenceAbove(1-p.p, (1-share)*eff, eff) >= limit
			if k%10 == 9 && !naive {
				low, _ := bounds(good, n, 0.95)
				naive = low > p.p
			}
		}
		for _, c := range []struct {
			n  *int
			is bool
		}{{&out.anytime, above}, {&out.below, below}, {&out.naive, naive}, {&out.labelledAnytime, labelled}} {
			if c.is {
				*c.n++
			}
		}
	}
	return out
}

// TestSimulatedPeeking: looked at all the time, the bounds are ever beyond the
// truth in at most 5 % of runs, where requests are independent. Where they come
// in bursts the numbers stand in the document, and the state is labelled.
func TestSimulatedPeeking(t *testing.T) {
	var table strings.Builder
	table.WriteString("| run | failures | truly ok | ever a wrong pass | ever a wrong fail | the bound for one look, looked at each second: ever a wrong pass | a wrong pass without the word estimate |\n|---|---|---|---|---|---|---|\n")
	for i, s := range []simulated{
		{seconds: 120, bad: 0.01}, {seconds: 120, bad: 0.1}, {seconds: 600, bad: 0.02}, {seconds: 600, bad: 0.3},
		{seconds: 600, burst: 1, bad: 0.1}, {seconds: 600, burst: 3, bad: 0.3},
	} {
		runs := 300 / fewer
		switch {
		case *simulate:
			runs = 4000
			if s.burst > 0 {
				runs = 1000
			}
		case s.burst > 0 || s.seconds > 120:
			continue // make simulate
		}
		c := s.peek(runs, uint64(i))
		pc := func(n int) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(runs)) }
		row := fmt.Sprintf("| %d s | %s | %g %% | %s | %s | %s | %s |", s.seconds, s.kind(), 100*(1-s.bad), pc(c.anytime), pc(c.below), pc(c.naive), pc(c.labelledAnytime))
		fmt.Fprintln(&table, row)
		t.Log(row)
		if s.burst > 0 {
			continue
		}
		for what, n := range map[string]int{"a wrong pass": c.anytime, "a wrong fail": c.below} {
			if float64(n)/float64(runs) > most(runs) {
				t.Errorf("%d s, %g %% bad: %s was shown at some time in %s of runs, at most %.1f %% are allowed", s.seconds, 100*s.bad, what, pc(n), 100*most(runs))
			}
		}
		if runs >= 300 && c.naive < 2*c.anytime {
			t.Errorf("%d s, %g %% bad: the bound for one look misses in %s of runs, ours in %s: this simulation does not show what it is for", s.seconds, 100*s.bad, pc(c.naive), pc(c.anytime))
		}
	}
	if *simulate {
		into(t, "peeking", table.String())
	}
}

// TestAnytimeBounds: the bounds lie outside those of a single look, close in with
// more requests, and mirror each other.
func TestAnytimeBounds(t *testing.T) {
	for _, c := range []struct{ good, n float64 }{{0, 1}, {1, 1}, {50, 100}, {99, 100}, {100, 100}, {0, 100}, {9990, 10_000}, {1e6 - 3, 1e6}, {3.5, 7.25}} {
		low, high := anytime(c.good, c.n, 0.95)
		l1, h1 := bounds(c.good, c.n, 0.95)
		if !(low <= l1 && h1 <= high && low >= 0 && high <= 1) {
			t.Errorf("%g of %g: anytime [%g, %g], one look [%g, %g]", c.good, c.n, low, high, l1, h1)
		}
		ml, mh := anytime(c.n-c.good, c.n, 0.95)
		if math.Abs(ml-(1-high)) > 1e-9 || math.Abs(mh-(1-low)) > 1e-9 {
			t.Errorf("%g of %g: [%g, %g], and mirrored [%g, %g]", c.good, c.n, low, high, ml, mh)
		}
	}
	before, _ := anytime(90, 100, 0.95)
	after, _ := anytime(900, 1000, 0.95)
	if after <= before {
		t.Errorf("ten times as many requests: the lower bound went from %g to %g", before, after)
	}
	if low, high := anytime(0, 0, 0.95); low != 0 || high != 1 {
		t.Errorf("of nothing: [%g, %g]", low, high)
	}
}

// TestLive: an objective is told decided as soon as the bounds say so, and not by
// the fast answers alone: while one request that was due is not finished, nothing
// that was due after it counts.
func TestLive(t *testing.T) {
	clause, err := expect.Parse("ok >= 90%")
	if err != nil {
		t.Fatal(err)
	}
	h := Hypotheses{Confidence: 0.95, Phases: []Phase{{"during", 0, 30 * time.Second}}, Objectives: []Objective{{Load: "a", Phase: "during", Clause: clause}}}
	window := func(k int, w journal.Window) journal.Event {
		w.Load, w.DueS = "a", journal.Secs(time.Duration(k)*step)
		return journal.Event{At: time.Duration(k+1) * step, Window: &w}
	}
	live := NewLive(h)
	for k := range 100 {
		w := journal.Window{Due: 10, OK: 10}
		if k == 20 {
			w.OK = 9 // one is still under way
		}
		live.Observe(window(k, w))
	}
	if s := live.States(); len(s) != 1 || s[0].Samples != 200 || s[0].Verdict != Pass || s[0].Basis != UnseenBursts {
		t.Errorf("with one request of slot 20 not finished: %+v, want a pass on the 200 requests before", s)
	}
	late := window(20, journal.Window{Failed: 1})
	late.At = 101 * step
	live.Observe(late)
	if s := live.States(); len(s) != 1 || s[0].Samples < 900 || s[0].Basis != Independent || !strings.Contains(s[0].String(), "holds so far") {
		t.Errorf("when it had finished: %+v, want more than 900 requests", s)
	}

	burst := NewLive(h)
	for k := range 290 {
		w := journal.Window{Due: 10, OK: 10}
		if k/20%3 == 0 {
			w = journal.Window{Due: 10, Failed: 10}
		}
		burst.Observe(window(k, w))
	}
	if s := burst.States(); len(s) != 1 || s[0].Basis != Estimated || !strings.Contains(s[0].String(), "an estimate") {
		t.Errorf("failures in bursts of 2 s: %+v, want the label estimate", s)
	}
}
