package verdict

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// simulate runs the full simulations and writes their tables into docs/statistics.md: make simulate.
var simulate = flag.Bool("simulate", false, "run the full simulations and write their tables into docs/statistics.md")

// simulated is one row of the coverage table: a phase at 50 requests/s in which
// requests fail independently, or in bursts of a length (every request in a
// burst fails, bursts begin by chance).
type simulated struct {
	seconds int
	burst   float64 // seconds; 0: independent
	bad     float64 // the true share of bad ones
	runs    int     // in go test; 0: only in make simulate
}

// claimed tells whether the bounds claim to hold here. Independent failures need
// no minimum. A burst that does not come in the phase cannot be seen in it: with
// fewer than minBlocks expected, the row is a known limit, not a claim.
func (s simulated) claimed() bool { return s.burst == 0 || s.bursts() >= minBlocks }

// bursts expected in the phase.
func (s simulated) bursts() float64 { return float64(s.seconds) * s.bad / s.burst }

func (s simulated) process() process {
	const rate = 5 // per window: 50 requests/s
	windows := s.seconds * 10
	if s.burst == 0 {
		return independent(windows, rate, 1-s.bad)
	}
	length := s.burst * 10
	// bad = length / (gap - 1 + length), see bursty.
	return bursty(windows, rate, int(length), length/s.bad-length+1, 1)
}

func (s simulated) kind() string {
	if s.burst == 0 {
		return "independent"
	}
	return fmt.Sprintf("bursts of %g s", s.burst)
}

// coverage is what so many simulated phases showed.
type coverage struct {
	runs                  int
	lowMisses, highMisses int // a bound lies beyond the truth
	wrongPass, wrongFail  int // for the claim that is hardest to get right: the truth itself
	naive                 int // the two-sided 90 % interval of independent draws, holding the truth
	short, uniform        int

	decidedWrong, decidedAltogether int // see run
}

// run simulates. A verdict is wrong at worst as often as a bound misses: a claim
// a hair above the truth is false, and passes when low lies above the truth.
// Decided counts, over a claim that is true by half the bad share and one that is
// false by as much, how many were decided and how many of those wrongly.
func (s simulated) run(runs int, seed uint64) coverage {
	c := coverage{runs: runs}
	p := s.process()
	r := rand.New(rand.NewPCG(seed, 50))
	const hair = 1e-9
	for range runs {
		ws := p.draw(r)
		e := estimateShare(ws, 0.95)
		count := func(n *int, is bool) {
			if is {
				*n++
			}
		}
		count(&c.lowMisses, e.low > p.p+hair)
		count(&c.highMisses, e.high < p.p-hair)
		count(&c.short, e.short)
		count(&c.uniform, e.uniform)
		low, high := bounds(float64(e.good), float64(e.n), 0.95)
		count(&c.naive, low <= p.p && p.p <= high)
		judged := func(target float64) Verdict {
			v := claim{target, true}.verdict(e.low, e.high)
			if e.short && v == Pass {
				return Inconclusive // as judgeObjective has it
			}
			return v
		}
		count(&c.wrongPass, judged(p.p+hair) == Pass)
		count(&c.wrongFail, judged(p.p-hair) == Fail)
		for _, t := range []struct {
			target float64
			truth  Verdict
		}{{1 - 1.5*s.bad, Pass}, {1 - 0.5*s.bad, Fail}} {
			v := judged(t.target)
			count(&c.decidedAltogether, v != Inconclusive)
			count(&c.decidedWrong, v != Inconclusive && v != t.truth)
		}
	}
	return c
}

// most is how often something with probability 5 % at most may have come in so
// many runs: three standard deviations more.
func most(runs int) float64 { return 0.05 + 3*math.Sqrt(0.05*0.95/float64(runs)) }

func (c coverage) share(n int) float64 { return float64(n) / float64(c.runs) }

// cases are the rows. The seeds are their numbers.
func simulations() []simulated {
	var all []simulated
	for _, seconds := range []int{120, 600} {
		for _, burst := range []float64{0, 1, 3, 8} {
			for _, bad := range []float64{0.02, 0.1, 0.3} {
				s := simulated{seconds: seconds, burst: burst, bad: bad}
				if s.claimed() {
					s.runs = 300
				}
				all = append(all, s)
			}
		}
	}
	return all
}

// TestSimulatedCoverage: wherever the bounds claim to hold, each misses, and each
// verdict is wrong, in at most 5 % of phases. Fixed seeds: the numbers are the same everywhere.
func TestSimulatedCoverage(t *testing.T) {
	var table strings.Builder
	table.WriteString("| phase | failures | truly ok | bursts expected | naive interval holds | low misses | high misses | wrong pass | wrong fail | too short | no burst seen | decided | wrong among them |\n")
	table.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	var claimed, limits strings.Builder
	for i, s := range simulations() {
		runs := s.runs
		if *simulate {
			runs = 4000
		}
		if runs == 0 {
			continue
		}
		c := s.run(runs, uint64(i))
		rows, bursts := &limits, "-"
		if s.claimed() {
			rows = &claimed
		}
		if s.burst > 0 {
			bursts = fmt.Sprintf("%.1f", s.bursts())
		}
		pc := func(n int) string { return fmt.Sprintf("%.1f %%", 100*c.share(n)) }
		decided, wrong := float64(c.decidedAltogether)/float64(2*runs), "-"
		if c.decidedAltogether > 0 {
			wrong = fmt.Sprintf("%.1f %%", 100*float64(c.decidedWrong)/float64(c.decidedAltogether))
		}
		row := fmt.Sprintf("| %d s | %s | %g %% | %s | %s | %s | %s | %s | %s | %s | %s | %.1f %% | %s |", s.seconds, s.kind(), 100*(1-s.bad), bursts,
			pc(c.naive), pc(c.lowMisses), pc(c.highMisses), pc(c.wrongPass), pc(c.wrongFail), pc(c.short), pc(c.uniform), 100*decided, wrong)
		fmt.Fprintln(rows, row)
		t.Log(row)
		if !s.claimed() {
			continue
		}
		for what, n := range map[string]int{"the lower bound misses": c.lowMisses, "the upper bound misses": c.highMisses, "a pass is wrong": c.wrongPass, "a fail is wrong": c.wrongFail} {
			if c.share(n) > most(runs) {
				t.Errorf("%d s, %s, %g %% bad: %s in %.1f %% of %d phases, at most %.1f %% are allowed", s.seconds, s.kind(), 100*s.bad, what, 100*c.share(n), runs, 100*most(runs))
			}
		}
	}
	if *simulate {
		into(t, "coverage", table.String()+claimed.String())
		into(t, "limits", table.String()+limits.String())
	}
}

// into replaces what stands between two marks in docs/statistics.md.
func into(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "statistics.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- simulated "+name+" -->\n", "<!-- end "+name+" -->"
	before, rest, found := strings.Cut(string(b), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s: no place for the table %q: it needs a line %q and a line %q", path, name, begin, end)
	}
	if err := os.WriteFile(path, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestBootstrapAgrees: the circular block bootstrap knows nothing of Beta
// distributions and effective samples, and comes to about the same bounds where
// there are many bursts.
func TestBootstrapAgrees(t *testing.T) {
	for i, s := range []simulated{{seconds: 600, burst: 1, bad: 0.1}, {seconds: 600, burst: 3, bad: 0.3}, {seconds: 120, bad: 0.1}} {
		r := rand.New(rand.NewPCG(uint64(i), 9))
		var ratio float64
		const phases = 10
		for range phases {
			ws := s.process().draw(r)
			e := estimateShare(ws, 0.95)
			bad := make([]float64, 0, s.seconds) // per second of 50
			for k := 0; k < len(ws); k += 10 {
				var sum float64
				for _, w := range ws[k : k+10] {
					sum += float64(w.n-w.good) / 50
				}
				bad = append(bad, sum)
			}
			low, high := bootstrap(r, len(bad), max(1, int(math.Ceil(2*e.block/10))), 400, 0.95, func(pick []int) float64 {
				var sum float64
				for _, k := range pick {
					sum += bad[k]
				}
				return 1 - sum/float64(len(pick))
			})
			ratio += (e.high - e.low) / (high - low) / phases
		}
		t.Logf("%d s, %s: our bounds are %.2f times as far apart as the bootstrap's", s.seconds, s.kind(), ratio)
		if ratio < 0.8 || ratio > 1.5 {
			t.Errorf("%d s, %s: our bounds are %.2f times as far apart as the bootstrap's, want 0.8 to 1.5", s.seconds, s.kind(), ratio)
		}
	}
}
