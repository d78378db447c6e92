package killmatrix

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults"
)

// record is what a matrix has shown.
type record struct {
	todo []point
	seen []outcome
	took time.Duration
}

func newRecord(todo []point, seen []outcome, took time.Duration) record {
	return record{todo, seen, took}
}

// undone is how long it took from SIGKILL until the watchdog had undone everything
// and told the journal, sorted; of the points that match.
func (r record) undone(matches func(point) bool) (all []time.Duration) {
	for i, o := range r.seen {
		if o.undone > 0 && matches(r.todo[i]) {
			all = append(all, o.undone)
		}
	}
	slices.Sort(all)
	return all
}

func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	at := func(q float64) time.Duration {
		return all[min(int(q*float64(len(all))), len(all)-1)].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("median %s, p95 %s, longest %s (%d points)", at(0.5), at(0.95), at(1), len(all))
}

func (r record) summary() string {
	left, exact, missed := 0, 0, 0
	for _, o := range r.seen {
		if len(o.left) > 0 {
			left++
		}
		if o.exact {
			exact++
		}
		if o.missed {
			missed++
		}
	}
	return fmt.Sprintf("%d points in %s, seed %d, %d at once: something left at %d; ended in the very step meant at %d, in a later one at %d, over before at %d\nfrom SIGKILL until the journal said the end: %s",
		len(r.todo), r.took.Round(time.Second), *seed, *atOnce, left, exact, len(r.todo)-exact-missed, missed,
		quantiles(r.undone(func(point) bool { return true })))
}

func (r record) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "<!-- Written by `make kill-matrix`; do not edit. -->\n\n# Kill matrix\n\n")
	fmt.Fprintf(&b, "chaosctl was ended at every step of every kind of fault, in every way below, and what was left was looked for: processes\n(services, what they had started, the watchdog; running or stopped), ports, temporary folders, undo records, entries in the index of live\nruns; and whether the journal holds and says the end. At no point was anything left. `test/killmatrix` is the test; CI runs a sample.\n\n")
	fmt.Fprintf(&b, "```\n%s\n```\n\n%d CPUs, %s.\n\n", r.summary(), runtime.NumCPU(), runtime.Version())
	b.WriteString("Points tried:\n\n| ended by |")
	for _, m := range moments {
		fmt.Fprintf(&b, " %s |", m.says)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", len(moments)))
	for _, w := range ways {
		fmt.Fprintf(&b, "| %s |", w.says)
		for _, m := range moments {
			n := 0
			for _, p := range r.todo {
				if p.way == w.name && p.moment == m.name {
					n++
				}
			}
			fmt.Fprintf(&b, " %d |", n)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\nFrom SIGKILL until everything was undone and the journal said so, by kind of fault in effect or on its way:\n\n| fault | time |\n|---|---|\n")
	for _, k := range faults.Kinds {
		fmt.Fprintf(&b, "| %s | %s |\n", k.Verb, quantiles(r.undone(func(p point) bool { return p.kind == k.Verb && p.moment != "starting" && p.moment != "before" })))
	}
	return b.Bytes()
}
