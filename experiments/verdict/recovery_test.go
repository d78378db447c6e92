package verdict

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestSimulatedRecovery: 15 s of 60 requests/s behind a fault, in which the share of
// good ones rises from one value to another after 2 s. The true moment of recovery
// is known, and each bound on it misses in at most 5 % of runs.
func TestSimulatedRecovery(t *testing.T) {
	const slots, rate, recovered, target = 150, 6, 20, 0.99
	runs := 300
	if *simulate {
		runs = 4000
	}
	var table strings.Builder
	table.WriteString("| truly ok, first 2 s | then | true moment | at least: misses | given | median | at most: misses | given | median |\n|---|---|---|---|---|---|---|---|---|\n")
	for i, c := range []struct{ before, after float64 }{{0, 1}, {0, 0.999}, {0.5, 1}, {0.9, 1}, {0.9, 0.999}, {0.97, 1}, {0.5, 0.995}, {0.98, 0.98}} {
		r := rand.New(rand.NewPCG(uint64(i), 41))
		// The first slot from which on the mean of the true shares reaches the target.
		truth := slots
		for k := range slots {
			early := max(0, recovered-k)
			if mean := (c.before*float64(early) + c.after*float64(slots-k-early)) / float64(slots-k); mean >= target {
				truth = k
				break
			}
		}
		var low, high []int
		var lowMisses, highMisses int
		for range runs {
			ws := make([]window, slots)
			for k := range ws {
				share := c.after
				if k < recovered {
					share = c.before
				}
				ws[k].n = rate
				for range rate {
					if r.Float64() < share {
						ws[k].good++
					}
				}
			}
			b := []suffixBounds{boundSuffixes(ws, claim{target, true}, 0.95)}
			if k := notBefore(b); k >= 0 {
				low = append(low, k)
				if k >= truth {
					lowMisses++
				}
			}
			if k := by(b, 0); k < slots {
				high = append(high, k)
				if k < truth {
					highMisses++
				}
			}
		}
		share := func(n int) float64 { return float64(n) / float64(runs) }
		moment := "never"
		if truth < slots {
			moment = fmt.Sprintf("%.1f s", float64(truth)/10)
		}
		row := fmt.Sprintf("| %g %% | %g %% | %s | %.1f %% | %.0f %% | %s | %.1f %% | %.0f %% | %s |", 100*c.before, 100*c.after, moment,
			100*share(lowMisses), 100*share(len(low)), median(low), 100*share(highMisses), 100*share(len(high)), median(high))
		fmt.Fprintln(&table, row)
		t.Log(row)
		if share(lowMisses) > most(runs) || share(highMisses) > most(runs) {
			t.Errorf("from %g to %g: the bounds miss in %.1f %% and %.1f %% of %d runs, at most %.1f %% are allowed", c.before, c.after, 100*share(lowMisses), 100*share(highMisses), runs, 100*most(runs))
		}
	}
	if *simulate {
		into(t, "recovery", table.String())
	}
}

func median(slots []int) string {
	if len(slots) == 0 {
		return "-"
	}
	sorted := append([]int{}, slots...)
	for i := range sorted { // few, and no more than slots
		for k := i; k > 0 && sorted[k] < sorted[k-1]; k-- {
			sorted[k], sorted[k-1] = sorted[k-1], sorted[k]
		}
	}
	return fmt.Sprintf("%.1f s", float64(sorted[len(sorted)/2])/10)
}

// TestRecoveryHasBounds: an outage of 2 s behind the fault, among 20 s of 50
// requests/s. It lasted until 2 s at least, less the ten requests that 99 % of the
// rest would allow; that the rest holds is shown as long as 449 requests follow.
func TestRecoveryHasBounds(t *testing.T) {
	p := parsePicture(t, "rate 5\nphase before 2s\nphase during 2s\nphase after 20s\nobjective l after ok >= 99% recovery 5s\nfault f error orders -> payments at 0s for 2s ratio=1\n"+
		"event 2s fault f injecting\nevent 2s fault f injected\nevent 4s fault f reverting\nevent 4s fault f verified\n"+
		"load l |"+strings.Repeat("#", 20)+strings.Repeat("x", 40)+strings.Repeat("#", 180)+"|\n")
	r := Judge(p.h, p.events())
	if len(r.Recovery) != 1 {
		t.Fatalf("recovery: %+v", r.Recovery)
	}
	got := r.Recovery[0]
	if got.MeasuredS == nil || got.AtLeastS == nil || got.AtMostS == nil {
		t.Fatalf("recovery: measured %v, at least %v, at most %v", value(got.MeasuredS), value(got.AtLeastS), value(got.AtMostS))
	}
	if m, low, high := *got.MeasuredS, *got.AtLeastS, *got.AtMostS; m < 1.9 || m > 2 || low < 1 || low > m || high < m || high > 2 {
		t.Errorf("recovery: measured %g s, at least %g s, at most %g s; want about 2 s, 1 to 2 s, and no more than 2 s", m, low, high)
	}
}
