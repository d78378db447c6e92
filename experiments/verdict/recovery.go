package verdict

import (
	"fmt"
	"math"
	"time"
)

// recoveryWindow is over how long a clause is looked at for recovery.
const recoveryWindow = time.Second

// measureRecovery finds, per stream with clauses in `after`, the first moment
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
	for _, l := range h.Loads {
		var clauses []Objective
		for _, o := range h.Objectives {
			if o.Load == l.Name && o.Phase == "after" {
				clauses = append(clauses, o)
			}
		}
		if len(clauses) == 0 {
			continue
		}
		_, end, ok := judged(h, clauses[0])
		if !ok {
			continue
		}
		out := RecoveryResult{Load: l.Name, AllowedS: sec(clauses[0].Recovery)}
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
		holds := make([]bool, last-first-second+1)
		for i := range holds {
			holds[i] = true
		}
		for _, o := range clauses {
			c, good := claimOf(o.Clause)
			ws := r.between(l.Name, time.Duration(first)*step, time.Duration(last)*step, good)
			for i := range holds {
				holds[i] = holds[i] && secondHolds(c, ws[i:i+int(second)])
			}
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
		all = append(all, out)
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
