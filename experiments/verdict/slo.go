package verdict

import (
	"fmt"
	"time"

	"github.com/shopspring/decimal"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// SLO is a service level objective in OpenSLO's words: of all requests of a
// stream in a rolling window, at least Objective are to be good; the others are
// the error budget (budgeting method Occurrences).
//
// A window of 30 days does not fit into a run of a minute. Scale says how many
// seconds of the SLO's clock one second of the run stands for: with 1, an outage
// of 20 s is an outage of 20 s; with 60, one of 20 min. Every window of the SLO
// and of its alerts is divided by it, nothing else is.
type SLO struct {
	Name      string          `json:"name"`
	Load      string          `json:"load"`
	Objective decimal.Decimal `json:"objective"`           // share of good requests to reach, below 1
	Within    time.Duration   `json:"within_ns,omitempty"` // good: ok within this time; 0: ok
	Window    time.Duration   `json:"window_ns"`
	Scale     float64         `json:"scale"`
	Spends    float64         `json:"spends,omitempty"` // claimed: at most this share of the budget; 0: not claimed
	Alerts    []Alert         `json:"alerts,omitempty"`
}

// Alert is a multi-window, multi-burn-rate alert: it fires while the budget burns
// faster than Burn in both windows. The long one shows that it matters, the short
// one that it still goes on. OpenSLO's conditions have one window, which is both.
type Alert struct {
	Severity string          `json:"severity"` // page, ticket
	Long     time.Duration   `json:"long_ns"`
	Short    time.Duration   `json:"short_ns"`
	Burn     decimal.Decimal `json:"burn"`
	Fires    time.Duration   `json:"fires_ns,omitempty"` // claimed: within this time of the first fault, on the SLO's clock; 0: not claimed
	After    time.Duration   `json:"after_ns,omitempty"` // it fires when this has gone on for so long, on the SLO's clock (OpenSLO's alertAfter)
	AtLeast  bool            `json:"at_least,omitempty"` // Burn itself is fast enough (OpenSLO's gte)
}

// DefaultAlerts fire when 2, 5, 10 and 10 % of the budget would be spent in 1 h,
// 6 h, 1 d and 3 d. At 30 days these are burn rates of 14.4, 6, 3 and 1 (The Site
// Reliability Workbook, chapter 5, table 5-8; the third as rule generators add it).
//
//	burn = share of the budget · window / long
func DefaultAlerts(window time.Duration) []Alert {
	var all []Alert
	for _, a := range []struct {
		severity    string
		long, short time.Duration
		percent     int64
	}{
		{"page", time.Hour, 5 * time.Minute, 2},
		{"page", 6 * time.Hour, 30 * time.Minute, 5},
		{"ticket", 24 * time.Hour, 2 * time.Hour, 10},
		{"ticket", 72 * time.Hour, 6 * time.Hour, 10},
	} {
		if a.long > window {
			continue
		}
		burn := decimal.New(a.percent, -2).Mul(decimal.NewFromInt(int64(window))).DivRound(decimal.NewFromInt(int64(a.long)), 6)
		all = append(all, Alert{Severity: a.severity, Long: a.long, Short: a.short, Burn: burn})
	}
	return all
}

// SLOResult is what the run did to an SLO. It counts what happened and has no
// bounds: an incident is one, however many requests it hit. All moments are on
// the run's clock, and times that end in SLOS on the SLO's.
type SLOResult struct {
	Name      string  `json:"name"`
	Load      string  `json:"load"`
	Objective string  `json:"objective"`         // "99.9% ok in 30d"
	Verdict   Verdict `json:"verdict,omitempty"` // of the checks; empty: nothing was claimed
	Scale     float64 `json:"scale"`             // seconds of the SLO's clock in one of the run
	WindowS   float64 `json:"window_s"`
	// BudgetRatio is the share of requests that may be bad, BudgetS the same as
	// time of full outage in the window, BudgetRequests as requests at Rate.
	BudgetRatio    float64 `json:"budget_ratio"`
	BudgetS        float64 `json:"budget_s"`
	BudgetRequests float64 `json:"budget_requests"`
	Rate           float64 `json:"rate"` // finished requests per second in the steady state
	// The incident: from the first fault to the end of the load.
	FromS   *float64 `json:"from_s"` // null: nothing was injected
	ToS     *float64 `json:"to_s"`
	Samples int      `json:"samples"`
	Bad     int      `json:"bad"`
	// Spent is the share of the budget that the incident cost, SpentS that share of
	// BudgetS; null where it is not known.
	Spent  *float64      `json:"spent"`
	SpentS *float64      `json:"spent_s"`
	Peak   *float64      `json:"peak"` // highest burn rate in the shortest window
	Alerts []AlertResult `json:"alerts"`
	Burn   []BurnPoint   `json:"burn"` // over the shortest window, BurnWindowS long
	// BurnWindowS is on the run's clock.
	BurnWindowS float64 `json:"burn_window_s"`
	Checks      []Check `json:"checks"`
	Note        string  `json:"note,omitempty"`
}

// AlertResult is what an alert would have done.
type AlertResult struct {
	Severity string   `json:"severity"`
	LongS    float64  `json:"long_s"` // on the SLO's clock
	ShortS   float64  `json:"short_s"`
	AfterS   float64  `json:"after_s,omitempty"` // it had to burn so long before it fired, on the SLO's clock
	Burn     float64  `json:"burn"`
	FiredAtS *float64 `json:"fired_at_s"` // null: never
	// FiredAfterS counts from the first fault, on the run's clock; FiredAfterSLOS is
	// the same on the SLO's.
	FiredAfterS    *float64 `json:"fired_after_s"`
	FiredAfterSLOS *float64 `json:"fired_after_slo_s"`
	ResetAtS       *float64 `json:"reset_at_s"`           // when it stopped for good; null: it never fired
	ResetBeyond    bool     `json:"reset_beyond"`         // that lies behind the end of the run, the steady state going on
	Times          int      `json:"times"`                // how often it fired
	NeedsS         *float64 `json:"needs_s,omitempty"`    // never fired: how long the incident would have to go on at its burn rate, on the run's clock; null: for ever
	Note           string   `json:"note,omitempty"`       // why it could not be evaluated
	PeakLong       *float64 `json:"peak_long,omitempty"`  // highest burn rate in the long window
	PeakShort      *float64 `json:"peak_short,omitempty"` // and in the short one
}

// BurnPoint is the burn rate over the time that ends at AtS.
type BurnPoint struct {
	AtS  float64 `json:"at_s"`
	Burn float64 `json:"burn"`
}

// mostBurnPoints of a series, however long the run.
const mostBurnPoints = 300

// mostLooks is how often an alert is evaluated in a run: each 100 ms of an hour,
// less often in a longer one.
const mostLooks = 36_000

// learnt is what had become known of a stream by the end of each 100 ms of the
// run: an alert cannot see a request fail before it fails. The budget is of due times.
type learnt map[int64]tallied

type tallied struct{ n, good int }

// learn counts one window line for the SLOs of its stream.
func (r *record) learn(h Hypotheses, at time.Duration, w *journal.Window) {
	for _, s := range h.SLOs {
		if s.Load != w.Load || w.Setup {
			continue
		}
		if r.learnt[s.Name] == nil {
			r.learnt[s.Name] = learnt{}
		}
		k := int64(at / step)
		t := r.learnt[s.Name][k]
		n := max(w.OK+w.Failed-w.Outcomes["canceled"], w.OK)
		good := w.OK
		if s.Within > 0 {
			good = 0
			if d, err := hdr.Decode(w.OKLatency); err == nil && w.OKLatency != "" {
				good = int(min(d.CountAtMost(s.Within), int64(w.OK)))
			}
		}
		r.learnt[s.Name][k] = tallied{t.n + n, t.good + good}
	}
}

// burning is a stream on the run's clock, as an SLO counts it: what was seen in
// [from, to), and the steady state for ever before and after.
type burning struct {
	from, to int64 // slots
	n, bad   []int64
	// Sums up to each slot from `from` on, one more than there are slots.
	steadyN, steadyBad decimal.Decimal // per slot
	allowed            decimal.Decimal // 1 - objective
}

// count is what is in [a, b), exactly as far as it was seen.
func (x burning) count(a, b int64) (n, bad decimal.Decimal) {
	in := func(sums []int64, k int64) int64 { return sums[min(max(k, x.from), x.to)-x.from] }
	n = decimal.NewFromInt(in(x.n, b) - in(x.n, a))
	bad = decimal.NewFromInt(in(x.bad, b) - in(x.bad, a))
	if outside := max(0, min(b, x.from)-a) + max(0, b-max(a, x.to)); outside > 0 {
		slots := decimal.NewFromInt(outside)
		n, bad = n.Add(x.steadyN.Mul(slots)), bad.Add(x.steadyBad.Mul(slots))
	}
	return n, bad
}

// faster tells whether the budget burns faster than rate in [a, b), or just as
// fast where that is enough:
//
//	bad / n  >  rate · (1 - objective)
//
// without a division, so that it is exact. Nothing due burns nothing.
func (x burning) faster(a, b int64, rate decimal.Decimal, atLeast bool) bool {
	n, bad := x.count(a, b)
	limit := rate.Mul(x.allowed).Mul(n)
	return bad.GreaterThan(limit) || atLeast && n.Sign() > 0 && bad.Equal(limit)
}

// rate is the burn rate in [a, b): the share of bad ones over the share allowed.
func (x burning) rate(a, b int64) decimal.Decimal {
	n, bad := x.count(a, b)
	return burnRate(bad, n, x.allowed)
}

// burnRate is bad / n / allowed, to a millionth; 0 of nothing.
func burnRate(bad, n, allowed decimal.Decimal) decimal.Decimal {
	if n.Sign() <= 0 || allowed.Sign() <= 0 {
		return decimal.Zero
	}
	return bad.DivRound(n.Mul(allowed), 6)
}

// spent is the share of an error budget that bad requests cost:
//
//	bad · scale / (allowed · requests in the window)
func spent(bad, scale, allowed, rate, window decimal.Decimal) decimal.Decimal {
	budget := allowed.Mul(rate).Mul(window)
	if budget.Sign() <= 0 {
		return decimal.Zero
	}
	return bad.Mul(scale).DivRound(budget, 9)
}

// judgeSLO says what the run did to an SLO.
func judgeSLO(h Hypotheses, r *record, s SLO) SLOResult {
	allowed := decimal.NewFromInt(1).Sub(s.Objective)
	window := decimal.NewFromFloat(s.Window.Seconds())
	scale := decimal.NewFromFloat(s.Scale)
	out := SLOResult{
		Name: s.Name, Load: s.Load, Objective: s.String(), Scale: s.Scale,
		WindowS: sec(s.Window), BudgetRatio: plain(allowed), BudgetS: plain(allowed.Mul(window)),
		Alerts: []AlertResult{}, Burn: []BurnPoint{}, Checks: []Check{},
	}
	steady, end, ok := r.steady(h, s)
	if !ok {
		out.Note = "no data: " + r.whyNoData(Objective{Load: s.Load}, 0)
		out.claim(s)
		return out
	}
	rate := decimal.NewFromInt(int64(steady.n)).DivRound(decimal.NewFromFloat((steady.to - steady.from).Seconds()), 9)
	out.Rate, out.BudgetRequests = plain(rate), plain(allowed.Mul(rate).Mul(window).Round(3))

	from, to, injected := r.incident(h)
	var faulty decimal.Decimal // burn rate in the faults
	if !injected {
		out.Note = "no fault was injected, so there is no incident"
	} else {
		out.FromS, out.ToS = ptr(sec(from)), ptr(sec(end))
		var n, bad int // of those that were due while the faults were in place
		first := from.Truncate(step)
		for k, w := range r.between(s.Load, first, end, s.good) {
			out.Samples, out.Bad = out.Samples+w.n, out.Bad+w.n-w.good
			if first+time.Duration(k)*step < to {
				n, bad = n+w.n, bad+w.n-w.good
			}
		}
		faulty = burnRate(decimal.NewFromInt(int64(bad)), decimal.NewFromInt(int64(n)), allowed)
		if out.Samples > 0 && rate.Sign() > 0 {
			part := spent(decimal.NewFromInt(int64(out.Bad)), scale, allowed, rate, window)
			out.Spent, out.SpentS = ptr(plain(part)), ptr(plain(part.Mul(allowed).Mul(window).Round(6)))
		}
	}

	x := r.burning(s, steady, end, allowed)
	shortest := s.Window
	for _, a := range s.Alerts {
		shortest = min(shortest, a.Short)
		out.Alerts = append(out.Alerts, x.alert(s, a, from, injected, faulty))
	}
	length := max(slotsOf(shortest, s.Scale), int64(time.Second/step))
	length = min(length, max(1, x.to-x.from))
	out.BurnWindowS = sec(time.Duration(length) * step)
	every := max(int64(time.Second/step), (x.to-x.from+mostBurnPoints-1)/mostBurnPoints)
	var peak decimal.Decimal
	for k := x.from + 1; k <= x.to; k++ {
		if last := k == x.to; !last && (k-x.from)%every != 0 {
			continue
		}
		b := x.rate(k-length, k)
		peak = decimal.Max(peak, b)
		out.Burn = append(out.Burn, BurnPoint{sec(time.Duration(k) * step), plain(b.Round(3))})
	}
	out.Peak = ptr(plain(peak.Round(3)))
	out.claim(s)
	return out
}

// good counts a slot's good ones.
func (s SLO) good(x *slot) int {
	if s.Within > 0 {
		return x.within(s.Within)
	}
	return x.ok
}

// String is the SLO in a few words: "99.9% ok within 300ms in 30d".
func (s SLO) String() string {
	text := s.Objective.Shift(2).String() + "% ok"
	if s.Within > 0 {
		text += " within " + s.Within.String()
	}
	return text + " in " + days(s.Window)
}

// days writes a window as OpenSLO does: 30d, 12h, 90m.
func days(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d%s", d/u.unit, u.name)
		}
	}
	return d.String()
}

// steadyPart is the time in which a stream did what it always does.
type steadyPart struct {
	from, to time.Duration
	n, bad   int
	observed bool // it was seen; otherwise it is taken to have no bad requests
}

// steady is the phase `before`; a run without one has its rate, and no bad ones.
// end is where the load ends, or the record.
func (r *record) steady(h Hypotheses, s SLO) (p steadyPart, end time.Duration, ok bool) {
	if len(h.Phases) == 0 {
		return p, 0, false
	}
	end = h.Phases[len(h.Phases)-1].End
	if !r.complete {
		end = min(end, r.last)
	}
	p.from, p.to = h.Phases[0].Start, end
	for _, ph := range h.Phases {
		if ph.Name == "before" && ph.End <= end {
			p.from, p.to, p.observed = ph.Start, ph.End, true
		}
	}
	for _, w := range r.between(s.Load, p.from, p.to, s.good) {
		p.n += w.n
		if p.observed {
			p.bad += w.n - w.good
		}
	}
	return p, end, p.n > 0 && p.to > p.from
}

// incident is from when the first fault took effect to when the last was reverted.
func (r *record) incident(h Hypotheses) (from, to time.Duration, injected bool) {
	for _, f := range h.Faults {
		start, end, ok := r.inPlace(f.Name)
		if !ok {
			continue
		}
		if !injected || start < from {
			from = start
		}
		to, injected = max(to, end), true
	}
	return from, to, injected
}

// burning sums up what became known from the start of the steady part on.
func (r *record) burning(s SLO, steady steadyPart, end time.Duration, allowed decimal.Decimal) burning {
	x := burning{from: slotOf(steady.from), to: slotOf(end), allowed: allowed}
	x.n, x.bad = make([]int64, x.to-x.from+1), make([]int64, x.to-x.from+1)
	for k, t := range r.learnt[s.Name] {
		if k < x.from {
			continue
		}
		// What became known when the load had ended counts at its end: behind it
		// there are only stragglers, whose share of bad ones is nobody's burn rate.
		i := min(k, x.to-1) - x.from + 1
		x.n[i] += int64(t.n)
		x.bad[i] += int64(t.n - t.good)
	}
	for i := 1; i < len(x.n); i++ {
		x.n[i], x.bad[i] = x.n[i]+x.n[i-1], x.bad[i]+x.bad[i-1]
	}
	slots := decimal.NewFromInt(max(1, slotOf(steady.to)-slotOf(steady.from)))
	x.steadyN = decimal.NewFromInt(int64(steady.n)).DivRound(slots, 16)
	x.steadyBad = decimal.NewFromInt(int64(steady.bad)).DivRound(slots, 16)
	return x
}

// slotsOf is a window of the SLO's clock in slots of the run.
func slotsOf(d time.Duration, scale float64) int64 {
	return int64(float64(d)/scale/float64(step) + 1e-9)
}

// alert evaluates one alert at the end of each slot, and beyond the run's end
// until it resets.
func (x burning) alert(s SLO, a Alert, fault time.Duration, injected bool, faulty decimal.Decimal) AlertResult {
	out := AlertResult{Severity: a.Severity, LongS: sec(a.Long), ShortS: sec(a.Short), AfterS: sec(a.After), Burn: plain(a.Burn)}
	long, short := slotsOf(a.Long, s.Scale), slotsOf(a.Short, s.Scale)
	if short < 1 {
		out.Note = fmt.Sprintf("its short window is %s of the run, shorter than the %s that the journal tells apart", seconds(time.Duration(float64(a.Short)/s.Scale)), seconds(step))
		return out
	}
	every := max(1, (x.to-x.from+mostLooks-1)/mostLooks)
	burns := func(k int64) bool {
		return x.faster(k-long, k, a.Burn, a.AtLeast) && (short == long || x.faster(k-short, k, a.Burn, a.AtLeast))
	}
	after := slotsOf(a.After, s.Scale)
	firing := false
	reset, since := int64(-1), int64(-1) // since: it burns from there on; -1: it does not
	var peakLong, peakShort decimal.Decimal
	for k := x.from + every; k <= x.to; k += every {
		was := firing
		switch {
		case !burns(k):
			since = -1
		case since < 0:
			since = k
		}
		firing = since >= 0 && k-since >= after
		peakLong = decimal.Max(peakLong, x.rate(k-long, k))
		peakShort = decimal.Max(peakShort, x.rate(k-short, k))
		switch {
		case firing && !was:
			out.Times++
			if out.FiredAtS == nil {
				at := time.Duration(k) * step
				out.FiredAtS = ptr(sec(at))
				if injected {
					out.FiredAfterS = ptr(sec(at - fault))
					out.FiredAfterSLOS = ptr(sec(at-fault) * s.Scale)
				}
			}
		case was && !firing:
			reset = k
		}
	}
	out.PeakLong, out.PeakShort = ptr(plain(peakLong.Round(3))), ptr(plain(peakShort.Round(3)))
	switch {
	case firing:
		// The short window ends it, at the latest when all of it is steady.
		coarse := max(1, short/10_000)
		for k := x.to + coarse; ; k += coarse {
			if !burns(k) {
				reset, out.ResetBeyond = k, true
				break
			}
			if k > x.to+short+coarse { // the steady state itself burns faster than the alert allows
				out.Note = "it does not reset: the steady state itself burns the budget faster"
				break
			}
		}
		if !out.ResetBeyond {
			return out
		}
		fallthrough
	case out.Times > 0:
		out.ResetAtS = ptr(sec(time.Duration(reset) * step))
	case injected:
		out.NeedsS = needs(s, a, faulty)
	}
	return out
}

// needs is how long the faults would have to go on, at the burn rate of the requests
// that were due while they were in place, before the alert fires (The Site
// Reliability Workbook, chapter 5):
//
//	burn / burn rate in the faults · long window + after
//
// null where they burn no faster than the alert allows.
func needs(s SLO, a Alert, faulty decimal.Decimal) *float64 {
	if faulty.LessThanOrEqual(a.Burn) {
		return nil
	}
	scale := decimal.NewFromFloat(s.Scale)
	long, after := decimal.NewFromFloat(a.Long.Seconds()).Div(scale), decimal.NewFromFloat(a.After.Seconds()).Div(scale)
	return ptr(plain(a.Burn.Mul(long).DivRound(faulty, 3).Add(after)))
}

// claim judges what the SLO claims of the incident.
func (out *SLOResult) claim(s SLO) {
	if s.Spends > 0 {
		c := Check{Claim: "spends at most " + percent(s.Spends) + " of the budget", Verdict: Inconclusive, Detail: out.Note}
		if out.Spent != nil {
			c.Verdict, c.Detail = Pass, "spent "+percent(*out.Spent)
			if *out.Spent > s.Spends {
				c.Verdict = Fail
			}
		}
		out.Checks = append(out.Checks, c)
	}
	for i, a := range s.Alerts {
		if a.Fires == 0 {
			continue
		}
		c := Check{Claim: fmt.Sprintf("%s over %s and %s fires within %s", a.Severity, days(a.Long), days(a.Short), a.Fires), Verdict: Inconclusive, Detail: out.Note}
		if i < len(out.Alerts) && out.FromS != nil {
			r := out.Alerts[i]
			switch {
			case r.Note != "" && r.FiredAtS == nil:
				c.Detail = r.Note
			case r.FiredAfterSLOS == nil:
				c.Verdict, c.Detail = Fail, "it did not fire"
			case *r.FiredAfterSLOS < 0:
				c.Detail = "it was firing before the first fault"
			default:
				c.Verdict, c.Detail = Pass, fmt.Sprintf("fired after %s", days(time.Duration(*r.FiredAfterSLOS*float64(time.Second)).Round(time.Second)))
				if *r.FiredAfterSLOS > a.Fires.Seconds() {
					c.Verdict = Fail
				}
			}
		}
		out.Checks = append(out.Checks, c)
	}
	if len(out.Checks) > 0 {
		out.Verdict = worst(out.Checks)
	}
}

// plain is a decimal as result.json has numbers.
func plain(d decimal.Decimal) float64 { return d.InexactFloat64() }
