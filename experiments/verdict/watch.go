package verdict

import (
	"fmt"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// Watch looks for abort conditions while a run goes on: `ok < 10% for 30s` holds
// when of all requests (of all streams) that were finished in the last 30 s fewer
// than 10 % were ok. Requests that are due and of which none finishes count as
// none being ok; a time in which nothing was due says nothing.
//
// That is an estimate, looked at with every event, and a rule for stopping: it
// bounds nothing, and its being met is no verdict. Live is for that.
//
// Observe wants one goroutine at a time; a Watch never blocks.
type Watch struct {
	conditions []condition
	began      time.Duration // of the first load window; -1 before
	done       bool
}

// condition is one clause with the increments of its rolling time.
type condition struct {
	clause expect.Clause
	recent []increment
	sum    increment
}

// increment is what became known at a moment.
type increment struct {
	at              time.Duration
	due, n, holding int // holding: ok, or good within the limit
}

// shortest is the rolling time of a clause without "for".
const shortest = time.Second

// NewWatch watches for any of the clauses. Clauses about anything but ok and
// percentiles are never met.
func NewWatch(clauses []expect.Clause) *Watch {
	w := &Watch{began: -1}
	for _, c := range clauses {
		if c.For <= 0 {
			c.For = shortest
		}
		w.conditions = append(w.conditions, condition{clause: c})
	}
	return w
}

// Observe takes the next event of the journal and says whether the run must end
// now, and why. It says so once.
func (w *Watch) Observe(e journal.Event) (reason string, abort bool) {
	if w.done || e.Window == nil || e.Window.Setup {
		return "", false
	}
	if w.began < 0 {
		w.began = e.At
	}
	for i := range w.conditions {
		c := &w.conditions[i]
		c.add(e.At, e.Window)
		if e.At-w.began < c.clause.For || !c.met() {
			continue
		}
		w.done = true
		return c.reason(e.At), true
	}
	return "", false
}

func (c *condition) add(at time.Duration, win *journal.Window) {
	in := increment{at: at, due: win.Due, n: win.OK + win.Failed - win.Outcomes["canceled"], holding: win.OK}
	in.n = max(in.n, win.OK)
	if c.clause.Metric == expect.Percentile {
		in.holding = 0
		if h, err := hdr.Decode(win.OKLatency); err == nil {
			in.holding = int(min(h.CountAtMost(c.clause.Limit), int64(win.OK)))
		}
	}
	c.recent = append(c.recent, in)
	c.sum.due, c.sum.n, c.sum.holding = c.sum.due+in.due, c.sum.n+in.n, c.sum.holding+in.holding
	for len(c.recent) > 0 && c.recent[0].at <= at-c.clause.For {
		old := c.recent[0]
		c.recent = c.recent[1:]
		c.sum.due, c.sum.n, c.sum.holding = c.sum.due-old.due, c.sum.n-old.n, c.sum.holding-old.holding
	}
}

// share is that of the rolling time; ok is false where nothing was due.
func (c *condition) share() (share float64, ok bool) {
	switch {
	case c.sum.n > 0:
		return float64(c.sum.holding) / float64(c.sum.n), true
	case c.sum.due > 0:
		return 0, true
	}
	return 0, false
}

func (c *condition) met() bool {
	share, ok := c.share()
	if !ok {
		return false
	}
	switch c.clause.Metric {
	case expect.OK:
		switch c.clause.Op {
		case "<":
			return share < c.clause.Ratio
		case "<=":
			return share <= c.clause.Ratio
		case ">":
			return share > c.clause.Ratio
		case ">=":
			return share >= c.clause.Ratio
		}
	case expect.Percentile:
		fast := share >= c.clause.Quantile // the percentile lies within the limit
		switch c.clause.Op {
		case ">", ">=":
			return !fast
		case "<", "<=":
			return fast
		}
	}
	return false
}

func (c *condition) reason(at time.Duration) string {
	share, _ := c.share()
	what := "ok"
	if c.clause.Metric == expect.Percentile {
		what = "good within " + c.clause.Limit.String()
	}
	found := fmt.Sprintf("%s of %s were %s", percent(share), plural(c.sum.n, "request", "requests"), what)
	if c.sum.n == 0 {
		found = fmt.Sprintf("none of %s was answered", plural(c.sum.due, "request", "requests"))
	}
	return fmt.Sprintf("abort condition %q: in the %s up to %s, %s (an estimate, and no verdict)", c.clause.String(), seconds(c.clause.For), seconds(at), found)
}
