package timeline_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/experiments/timeline"
)

func ExampleMerge() {
	phases := []timeline.Span{{Name: "before", At: 0, For: 10 * time.Second}, {Name: "during", At: 10 * time.Second, For: 20 * time.Second}}
	faults := []timeline.Span{{Name: "slow", At: 10 * time.Second, For: 20 * time.Second}, {Name: "kill", At: 15 * time.Second, For: 2 * time.Second}}
	for _, m := range timeline.Merge(phases, faults) {
		fmt.Println(m.At, m.Kind, m.Name)
	}
	// Output:
	// 0s phase before
	// 10s phase during
	// 10s inject slow
	// 15s inject kill
	// 17s revert kill
	// 30s revert slow
	// 30s end
}

// The laws: moments are in order, every fault is injected once before it is
// reverted once, and the end comes last of all that the phases bring.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var phases, faults []timeline.Span
		var at time.Duration
		for i := range rapid.IntRange(0, 4).Draw(t, "phases") {
			d := time.Duration(rapid.IntRange(1, 100).Draw(t, "length"))
			phases = append(phases, timeline.Span{Name: fmt.Sprint("phase-", i), At: at, For: d})
			at += d
		}
		for i := range rapid.IntRange(0, 5).Draw(t, "faults") {
			from := time.Duration(rapid.IntRange(0, int(at)).Draw(t, "at"))
			faults = append(faults, timeline.Span{Name: fmt.Sprint("fault-", i), At: from, For: time.Duration(rapid.IntRange(0, int(at-from)).Draw(t, "for"))})
		}
		all := timeline.Merge(phases, faults)
		if !slices.IsSortedFunc(all, func(a, b timeline.Moment) int { return int(a.At - b.At) }) {
			t.Fatalf("out of order: %v", all)
		}
		if want := len(phases) + 2*len(faults) + 1; len(all) != want {
			t.Fatalf("%d moments, want %d", len(all), want)
		}
		if all[len(all)-1].Kind != timeline.End {
			t.Fatalf("%v comes after the end", all[len(all)-1])
		}
		for _, f := range faults {
			injected := slices.IndexFunc(all, func(m timeline.Moment) bool { return m.Kind == timeline.Inject && m.Name == f.Name })
			reverted := slices.IndexFunc(all, func(m timeline.Moment) bool { return m.Kind == timeline.Revert && m.Name == f.Name })
			if injected < 0 || reverted < 0 || all[injected].At != f.At || all[reverted].At != f.At+f.For {
				t.Fatalf("%v is not injected and reverted when it should be: %v", f, all)
			}
			if f.For > 0 && reverted < injected {
				t.Fatalf("%v is reverted before it is injected: %v", f, all)
			}
		}
	})
}
