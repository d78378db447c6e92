package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// noisy is a run whose latencies are drawn: each second has its own middle, each
// request scatters around it, and a share of them fails.
func noisy(t *testing.T, seed uint64, seconds int, middle, scatter float64, bad float64) Recorded {
	r := rand.New(rand.NewPCG(seed, 3))
	half := time.Duration(seconds) * time.Second
	h := Hypotheses{Phases: []Phase{{"before", 0, half}, {"during", half, 2 * half}}, Loads: []Load{{Name: "l", Model: "open", Timeout: time.Second}},
		Objectives: []Objective{{Load: "l", Phase: "during", Clause: clause(t, "p95 < 100ms")}}}
	events := []journal.Event{{Start: &journal.Start{Version: 1, Run: fmt.Sprint("run-", seed), Scenario: "s", Wall: time.Unix(int64(seed)*100, 0)}}}
	for s := range 2 * seconds {
		second := math.Exp(0.1 * r.NormFloat64())
		for k := range 10 {
			w := &journal.Window{Load: "l", DueS: journal.Secs(time.Duration(10*s+k) * step), Outcomes: map[string]int{}}
			all := hdr.New()
			for range 5 {
				w.Due, w.Sent = w.Due+1, w.Sent+1
				if r.Float64() < bad {
					w.Failed++
					w.Outcomes["503"]++
					continue
				}
				w.OK++
				w.Outcomes["200"]++
				all.Record(time.Duration(middle * second * math.Exp(scatter*r.NormFloat64()) * float64(time.Millisecond)))
			}
			w.OKLatency = all.Encode()
			events = append(events, journal.Event{At: time.Duration(10*s+k+1) * step, Window: w})
		}
	}
	return Recorded{h, append(events, journal.Event{At: 2*half + time.Second, End: &journal.End{Status: "completed"}})}
}

func side(runs ...Recorded) Side { return Side{Name: "side", Runs: runs} }

func rowOf(t *testing.T, c Comparison, phase, metric string) Difference {
	t.Helper()
	for _, r := range c.Rows {
		if r.Phase == phase && r.Metric == metric {
			return r
		}
	}
	t.Fatalf("no row %s %s among %+v", phase, metric, c.Rows)
	return Difference{}
}

func TestCompareSaysWhatIsThere(t *testing.T) {
	const seconds = 25
	for name, c := range map[string]struct {
		b                   Recorded
		ok, within, latency Outcome
		all                 Outcome
	}{
		"the same":             {noisy(t, 2, seconds, 50, 0.2, 0), Noise, Noise, Noise, Noise},
		"half as fast":         {noisy(t, 2, seconds, 100, 0.2, 0), Noise, Regressed, Regressed, Regressed},
		"twice as fast":        {noisy(t, 2, seconds, 25, 0.2, 0), Noise, Noise, Improved, Improved},
		"one in ten fails":     {noisy(t, 2, seconds, 50, 0.2, 0.1), Regressed, Regressed, Undecided, Regressed},
		"all fails":            {noisy(t, 2, seconds, 50, 0.2, 1), Regressed, Regressed, Undecided, Regressed},
		"too short to compare": {noisy(t, 2, 2, 50, 0.2, 0), Undecided, Undecided, Undecided, Undecided},
	} {
		t.Run(name, func(t *testing.T) {
			got := Compare(side(noisy(t, 1, seconds, 50, 0.2, 0)), side(c.b), Margins{Share: 0.01, Latency: 6 * time.Millisecond}, 0.95)
			for metric, want := range map[string]Outcome{"ok": c.ok, "within 100ms": c.within} {
				if d := rowOf(t, got, "during", metric); d.Outcome != want {
					t.Errorf("%s: %s, want %s (%+v)", metric, d.Outcome, want, d)
				}
			}
			if d := rowOf(t, got, "during", "latency"); c.latency != Undecided && d.Outcome != c.latency {
				t.Errorf("latency: %s, want %s (%v to %v)", d.Outcome, c.latency, *d.Low, *d.High)
			}
			if got.Outcome != c.all || len(got.Reasons) == 0 {
				t.Errorf("in all: %s %v, want %s", got.Outcome, got.Reasons, c.all)
			}
		})
	}
}

// Equal builds must not be called regressed more often than 5 % of the time, even
// with no margin at all; nor may the bounds miss a real shift more often.
func TestSimulatedComparisons(t *testing.T) {
	pairs := 20
	if *simulate {
		pairs = 500
	}
	none := Margins{}
	var regressed, improved, missed int
	for i := range pairs {
		a, b := open(side(noisy(t, uint64(2*i), 15, 50, 0.2, 0.02))), open(side(noisy(t, uint64(2*i+1), 15, 50, 0.2, 0.02)))
		for _, d := range compareStream(a, b, "l", "during", "during", none, 0.95) {
			if d.Metric == "within 100ms" {
				continue
			}
			switch d.Outcome {
			case Regressed:
				regressed++
			case Improved:
				improved++
			}
			if d.Low == nil || d.High == nil || *d.Low > 0 || *d.High < 0 {
				missed++
			}
		}
	}
	n := float64(2 * pairs)
	t.Logf("of %g comparisons of equals: %.1f %% called regressed, %.1f %% improved, %.1f %% of the intervals do not hold 0", n, 100*float64(regressed)/n, 100*float64(improved)/n, 100*float64(missed)/n)
	if limit := most(2 * pairs); float64(regressed)/n > limit || float64(improved)/n > limit {
		t.Errorf("of %g comparisons of equals, %d were called regressed and %d improved: at most %.1f %% each are allowed", n, regressed, improved, 100*limit)
	}
}

// Shift and superiority, by their definitions on few numbers.
func TestShiftAndSuperiorityAreWhatTheyAreDefinedAs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (values, counts, each []float64) {
			of := rapid.MapOf(rapid.IntRange(1, 2000), rapid.IntRange(1, 4)).Filter(func(m map[int]int) bool { return len(m) > 0 }).Draw(t, name)
			for v := range of {
				values = append(values, float64(v)/1000)
			}
			slices.Sort(values)
			for _, v := range values {
				n := of[int(math.Round(v*1000))]
				counts = append(counts, float64(n))
				for range n {
					each = append(each, v)
				}
			}
			return values, counts, each
		}
		av, ac, as := draw("a")
		bv, bc, bs := draw("b")
		var differences []float64
		var wins float64
		for _, a := range as {
			for _, b := range bs {
				differences = append(differences, b-a)
				switch {
				case b > a:
					wins++
				case b == a:
					wins += 0.5
				}
			}
		}
		slices.Sort(differences)
		if got, want := hodgesLehmann(av, ac, bv, bc, 0), differences[(len(differences)-1)/2]; math.Abs(got-want) > 2e-6 {
			t.Errorf("shift %g, the median of all differences is %g", got, want)
		}
		if got, want := superiority(av, ac, bv, bc), wins/float64(len(differences)); math.Abs(got-want) > 1e-9 {
			t.Errorf("superiority %g, counted %g", got, want)
		}
	})
}

// The critical values of Mann and Whitney's table (one-sided 5 %, n = m).
func TestRunsAsSamples(t *testing.T) {
	for n, critical := range map[int]int{4: 1, 5: 4, 6: 7, 8: 15, 10: 27} {
		if p, q := smallU(n, n, critical), smallU(n, n, critical+1); p > 0.05 || q <= 0.05 {
			t.Errorf("n = m = %d: P(U <= %d) = %.4f, P(U <= %d) = %.4f; the tables have %d as the last below 5 %%", n, critical, p, critical+1, q, critical)
		}
	}
	if p := smallU(3, 3, 0); math.Abs(p-0.05) > 1e-12 {
		t.Errorf("3 and 3: the smallest p is 1/20, not %g", p)
	}

	a := []Recorded{noisy(t, 1, 3, 50, 0.1, 0), noisy(t, 4, 3, 50, 0.1, 0), noisy(t, 5, 3, 50, 0.1, 0), noisy(t, 8, 3, 50, 0.1, 0)}
	b := []Recorded{noisy(t, 2, 3, 90, 0.1, 0), noisy(t, 3, 3, 90, 0.1, 0), noisy(t, 6, 3, 90, 0.1, 0), noisy(t, 7, 3, 90, 0.1, 0)}
	three := Compare(side(a[:3]...), side(b[:3]...), DefaultMargins, 0.95)
	d := rowOf(t, three, "during", "latency")
	if d.Outcome != Undecided || d.Low != nil || !strings.Contains(d.Note, "never be significant") || !slices.ContainsFunc(three.Notes, func(s string) bool { return strings.Contains(s, "3 and 3 runs can never") }) {
		t.Errorf("3 and 3 runs, 40 ms apart: %+v, notes %v; want undecided, and why", d, three.Notes)
	}
	if d := rowOf(t, Compare(side(a...), side(b...), DefaultMargins, 0.95), "during", "latency"); d.Outcome != Regressed || math.Abs(*d.Difference-0.04) > 0.015 {
		t.Errorf("4 and 4 runs, 40 ms apart: %+v, want regressed by 40 ms", d)
	}
	one := Compare(side(a[0], a[0]), side(b[2], b[3]), DefaultMargins, 0.95)
	if !slices.ContainsFunc(one.Notes, func(s string) bool { return strings.Contains(s, "A B B A") }) {
		t.Errorf("one side before the other: %v, want it said", one.Notes)
	}
}

func TestNoiseFloor(t *testing.T) {
	runs := []Recorded{noisy(t, 1, 10, 50, 0.1, 0), noisy(t, 2, 10, 50, 0.1, 0), noisy(t, 3, 10, 54, 0.1, 0)}
	quiet := SelfCompare("s", runs, Margins{Share: 0.01, Latency: 20 * time.Millisecond}, 0.95)
	loud := SelfCompare("s", runs, Margins{Share: 0.01}, 0.95)
	if quiet.Pairs != 3 || quiet.FalseAlarms != 0 || quiet.Outcome != Noise {
		t.Errorf("with a wide margin: %+v", quiet)
	}
	if loud.FalseAlarms == 0 || loud.Outcome != Regressed {
		t.Errorf("with no margin, a run 4 ms slower is no false alarm: %+v", loud)
	}
	for _, r := range quiet.Rows {
		if r.Metric == "latency" && (r.Largest < 0.001 || r.Largest > 0.012 || r.Typical > r.Largest) {
			t.Errorf("floor of latency: %+v, want some ms", r)
		}
	}
}

// A run that does not count decides nothing, however clear its numbers.
func TestComparisonWithARunThatDoesNotCount(t *testing.T) {
	late := noisy(t, 2, 20, 90, 0.1, 0)
	for _, e := range late.Events {
		if e.Window != nil {
			e.Window.Late = e.Window.Sent
		}
	}
	c := Compare(side(noisy(t, 1, 20, 50, 0.1, 0)), side(late), DefaultMargins, 0.95)
	if c.Outcome != Undecided || !strings.Contains(c.Reasons[0], Saturated) {
		t.Errorf("with a saturated generator: %s %v", c.Outcome, c.Reasons)
	}
}

func TestPhasesOfOneRun(t *testing.T) {
	run := noisy(t, 1, 20, 50, 0.1, 0)
	slow := noisy(t, 1, 20, 80, 0.1, 0)
	for i := range run.Events {
		if w := slow.Events[i].Window; w != nil && w.DueS.Duration() >= 20*time.Second {
			run.Events[i] = slow.Events[i]
		}
	}
	c := ComparePhases(run, "r", DefaultMargins, 0.95)
	if d := rowOf(t, c, "during against before", "latency"); d.Outcome != Regressed || *d.Superiority < 0.9 {
		t.Errorf("30 ms slower during: %+v", d)
	}
	if d := rowOf(t, c, "during against before", "ok"); d.Outcome != Noise {
		t.Errorf("ok: %+v", d)
	}
}
