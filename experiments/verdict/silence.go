package verdict

import (
	"fmt"
	"time"
)

// silence is a time in which the journal has no line at all.
type silence struct{ from, to time.Duration }

// longSilence is how long one must be to be looked at. An open stream whose
// requests are due tells of each 100 ms within a few of them, answered or not.
const longSilence = time.Second

// clockTroubles say why the run's times are not to be trusted: its clock went back,
// the machine was suspended in it, or it stood still while requests were due (its
// process was stopped, or got no processor), so that nothing was sent, injected
// or seen in that time. Warm-up does not count, unless there is nothing else; nor
// does a silence in which nothing was due: closed streams wait for answers.
func (r *record) clockTroubles(h Hypotheses) []string {
	var texts []string
	if r.wentBack > 0 {
		texts = append(texts, fmt.Sprintf("The journal's clock went back by %s: which phase a request belongs to is not known.", seconds(r.wentBack)))
	}
	if r.suspended > 0 {
		texts = append(texts, fmt.Sprintf("The machine was suspended for %s in the middle of the run.", seconds(r.suspended)))
	}
	for _, s := range r.silences {
		for _, p := range h.Phases {
			from, to := max(s.from, p.Start), min(s.to, p.End)
			if p.Name == "warmup" && len(h.Phases) > 1 || to-from < longSilence {
				continue
			}
			if due := r.dueBetween(h, from, to); due > lateFew {
				texts = append(texts, fmt.Sprintf("The run stood still from %s to %s, in %s: its journal has no line of that time, and %s were due in it.",
					seconds(s.from), seconds(s.to), p.Name, plural(due, "request", "requests")))
				break
			}
		}
	}
	return texts
}

// dueBetween counts the requests of open streams that were due in [from, to).
func (r *record) dueBetween(h Hypotheses, from, to time.Duration) (due int) {
	for _, l := range h.Loads {
		st := r.streams[l.Name]
		if st == nil || l.Model == "closed" {
			continue
		}
		for _, k := range st.order {
			if k >= slotOf(from) && k < slotOf(to) {
				due += st.slots[k].due
			}
		}
	}
	return due
}
