package verdict

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// recoveryWindow is over how long a clause is looked at for recovery.
const recoveryWindow = time.Second

// measureRecovery finds, per stream (and step) with clauses in `after`, the first moment
// since the last fault's end from which all of them hold for good: in every second
// of due times (sliding by 100 ms) from there to the end of `after`. A single
// bad request in a second is no relapse: at low rates it would break any
// clause without saying anything.
func measureRecovery(h Hypotheses, r *record) []RecoveryResult {
	if h.Sham || len(h.Faults) == 0 {
		return nil
	}
	var faultEnd time.Duration
	for _, f := range h.Faults {
		if _, end, ok := r.inPlace(f.Name); ok && end < r.last {
			faultEnd = max(faultEnd, end)
		} else if ok {
			faultEnd = max(faultEnd, f.At+f.For)
		}
	}
	if faultEnd == 0 {
		return nil // nothing was injected: there is nothing to recover from
	}
	var all []RecoveryResult
	for _, clauses := range h.after() {
		whose := clauses[0].Of()
		_, end, ok := judged(h, clauses[0])
		if !ok {
			continue
		}
		out := RecoveryResult{Load: whose, AllowedS: sec(clauses[0].Recovery)}
		if !r.complete && end > r.last {
			out.Detail = "the run ended before it could be seen"
			all = append(all, out)
			continue
		}
		end = min(end, r.last)
		second := int64(recoveryWindow / step)
		first, last := int64(faultEnd/step), slotOf(end)
		if last-first < second {
			out.Detail = fmt.Sprintf("only %s of the run lie behind the last fault's end: too short to see a recovery", seconds(max(0, end-faultEnd)))
			all = append(all, out)
			continue
		}
		var bounds []suffixBounds
		holds := make([]bool, last-first-second+1)
		for i := range holds {
			holds[i] = true
		}
		for _, o := range clauses {
			c, good := claimOf(o.Clause)
			ws := r.between(whose, time.Duration(first)*step, time.Duration(last)*step, good)
			for i := range holds {
				holds[i] = holds[i] && secondHolds(c, ws[i:i+int(second)])
			}
			bounds = append(bounds, boundSuffixes(ws, c, h.Confidence))
		}
		// From the end back to the last second that does not hold.
		at := len(holds)
		for at > 0 && holds[at-1] {
			at--
		}
		if at == len(holds) {
			out.Detail = "not recovered: the clauses of after do not hold in its last second"
		} else {
			recovered := max(faultEnd, time.Duration(first+int64(at))*step)
			out.MeasuredS = ptr(sec(recovered - faultEnd))
			out.Detail = fmt.Sprintf("every clause of after holds from %s after the last fault's end", seconds(recovered-faultEnd))
			if recovered == faultEnd {
				out.Detail = "every clause of after holds from the last fault's end"
			}
		}
		moment := func(k int) *float64 {
			return ptr(sec(max(0, time.Duration(first+int64(k))*step-faultEnd)))
		}
		if k := notBefore(bounds); k >= 0 {
			out.AtLeastS = moment(k)
		}
		if out.MeasuredS != nil {
			if k := at + by(bounds, at); k < int(last-first) {
				out.AtMostS = moment(k)
			}
		}
		all = append(all, out)
	}
	return all
}

// suffixBounds say, for each slot, what the requests due from there to the end of
// `after` show of one clause together.
type suffixBounds struct{ holds, fails []bool }

// boundSuffixes bounds the recovery of one clause. What is estimated is the first
// moment from which on the clause holds for good: A(t) >= target for it and every later t, A(t)
// being the mean of the true shares of the requests due from t to the end. The
// requests are read backwards, from the end, so that each t is one more look at a
// sequence, and the evidence of anytime is used, for which looking at all of them
// is allowed: of all runs, at most 1 - confidence show "A(t) >= target" for any t
// for which it is false, and as many "A(t) < target".
//
// That the share changes on the way does no harm. For λ = ln(q(1-p)/(p(1-q))) each term of M(p) is
// exp(λs - n ln(1-p+p·e^λ)), and by Jensen's inequality n ln(1-p̄+p̄·e^λ) is no less than
// the sum of the single ones, p̄ being the mean of the first n shares: wherever p̄ <= p, M(p) lies below a
// nonnegative martingale that begins at 1.
//
// Where what is good afterwards comes and goes in bursts, requests count for as
// many as they are worth; that is an estimate, as in Live.
func boundSuffixes(ws []window, c claim, confidence float64) suffixBounds {
	b := suffixBounds{make([]bool, len(ws)), make([]bool, len(ws))}
	if !c.atLeast {
		return b
	}
	worth := 1.0
	// The second half is what recovery should have led to.
	if s := estimateShare(ws[len(ws)/2:], confidence); !s.uniform && s.n > 0 && s.block > memory {
		worth = s.effective / float64(s.n)
	}
	limit := -math.Log(1 - confidence)
	var n, good float64
	for k := len(ws) - 1; k >= 0; k-- {
		n, good = n+worth*float64(ws[k].n), good+worth*float64(ws[k].good)
		if n == 0 {
			continue
		}
		share := good / n
		b.holds[k] = share >= c.target && evidenceAbove(c.target, good, n) >= limit
		b.fails[k] = share < c.target && evidenceAbove(1-c.target, n-good, n) >= limit
	}
	return b
}

// notBefore is the last slot from which on some clause is shown not to hold: it
// held for good later than that. -1: there is none.
func notBefore(all []suffixBounds) int {
	last := -1
	for _, b := range all {
		for k, fails := range b.fails {
			if fails {
				last = max(last, k)
			}
		}
	}
	return last
}

// by is how many slots behind the one where it was measured every clause is shown
// to hold to the end; so many as there are where none is.
func by(all []suffixBounds, measured int) int {
	if len(all) == 0 {
		return 0
	}
	for k := measured; k < len(all[0].holds); k++ {
		shown := true
		for _, b := range all {
			shown = shown && b.holds[k]
		}
		if shown {
			return k - measured
		}
	}
	return len(all[0].holds)
}

// after is the clauses of that phase, per stream and step, in the order of the streams.
func (h Hypotheses) after() [][]Objective {
	var all [][]Objective
	for _, l := range h.Loads {
		first := len(all)
		for _, o := range h.Objectives {
			if o.Load != l.Name || o.Phase != "after" {
				continue
			}
			at := slices.IndexFunc(all[first:], func(same []Objective) bool { return same[0].Of() == o.Of() })
			if at < 0 {
				all = append(all, []Objective{o})
			} else {
				all[first+at] = append(all[first+at], o)
			}
		}
	}
	return all
}

// secondHolds looks at one second by its plain share, leaving one bad request
// out of account. A second in which nothing was finished does not hold.
func secondHolds(c claim, ws []window) bool {
	var n, good int
	for _, w := range ws {
		n, good = n+w.n, good+w.good
	}
	if n == 0 {
		return false
	}
	if !c.atLeast {
		return float64(good) < c.target*float64(n)
	}
	return n-good <= max(1, int(math.Floor((1-c.target)*float64(n)+1e-9))) && good > 0
}
