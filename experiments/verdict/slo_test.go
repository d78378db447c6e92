package verdict

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
)

// outage is 10 s of steady state, then requests failing for so long, then steady
// state up to the end at 60 s; ten requests each 100 ms.
const outage = `
phase before 10s
phase during 20s
phase after 30s
fault f error orders -> payments at 10s for 20s ratio=1
event 10s fault f injecting
event 10s fault f injected
event 30s fault f reverting
event 30s fault f verified
load shoppers |`

func drawOutage(t *testing.T, bad string, seconds int) *picture {
	line := strings.Repeat("#", 100) + strings.Repeat(bad, 10*seconds) + strings.Repeat("#", 500-10*seconds) + "|"
	return parsePicture(t, outage+line+"\n")
}

func shoppersSLO(scale float64) SLO {
	month := 30 * 24 * time.Hour
	return SLO{Name: "shoppers", Load: "shoppers", Objective: decimal.RequireFromString("0.999"), Window: month, Scale: scale, Alerts: DefaultAlerts(month)}
}

// TestErrorBudget: by hand. 100 requests/s for 30 days are 259,200,000, of which
// 259,200 may fail. An outage of 20 s costs 2,000, at scale 60 as much as 20 min: 120,000.
func TestErrorBudget(t *testing.T) {
	for scale, want := range map[float64]struct{ spent, spentS float64 }{
		1:  {2000.0 / 259_200, 20},
		60: {120_000.0 / 259_200, 1200},
	} {
		p := drawOutage(t, "x", 20)
		p.h.SLOs = []SLO{shoppersSLO(scale)}
		got := Judge(p.h, p.events()).SLOs[0]
		if got.BudgetS != 2592 || got.BudgetRequests != 259_200 || got.Rate != 100 || got.Bad != 2000 || got.Samples != 5000 {
			t.Errorf("scale %g: budget %g s, %g requests at %g/s, %d of %d bad; want 2592 s, 259200, 100/s, 2000 of 5000",
				scale, got.BudgetS, got.BudgetRequests, got.Rate, got.Bad, got.Samples)
		}
		if got.Spent == nil || math.Abs(*got.Spent-want.spent) > 1e-9 || math.Abs(*got.SpentS-want.spentS) > 1e-3 {
			t.Errorf("scale %g: spent %v (%v s), want %g (%g s)", scale, *got.Spent, *got.SpentS, want.spent, want.spentS)
		}
	}
}

// TestAlerts: by hand, with half of the requests failing for 20 s at scale 60. The
// page over 1 h and 5 m becomes one over 60 s and 5 s. It fires when
// 0.5 · t/60 > 14.4 · 0.001, after 1.728 s, seen at the end of the slot: 1.8 s; failed
// requests are known within 5 ms, in the slot after the one in which they were due: 1.9 s.
// It resets when less than 5 s · 0.0144 / 0.5 = 0.144 s of the outage are left in the short window.
func TestAlerts(t *testing.T) {
	p := drawOutage(t, "5", 20)
	p.h.SLOs = []SLO{shoppersSLO(60)}
	got := Judge(p.h, p.events()).SLOs[0]
	fast := got.Alerts[0]
	if fast.FiredAfterS == nil || *fast.FiredAfterS != 1.9 || *fast.FiredAfterSLOS != 114 {
		t.Fatalf("the fast page: %+v, want it to fire after 1.9 s, 114 s on the SLO's clock", fast)
	}
	if fast.ResetAtS == nil || math.Abs(*fast.ResetAtS-35) > 0.11 || fast.ResetBeyond || fast.Times != 1 {
		t.Errorf("the fast page: %+v, want it to reset at 35 s, once", fast)
	}
	// 6 h are 360 s: 0.5 · t/360 > 0.006 after 4.32 s. It resets 30 s after the
	// outage less 0.36 s, at 59.7 s.
	slow := got.Alerts[1]
	if slow.FiredAfterS == nil || *slow.FiredAfterS != 4.5 || slow.ResetAtS == nil || math.Abs(*slow.ResetAtS-59.8) > 0.11 {
		t.Errorf("the slow page: fired after %v, reset at %v; want 4.5 and 59.8", value(slow.FiredAfterS), value(slow.ResetAtS))
	}
	// 3 d are 4,320 s: 0.5 · t/4320 > 0.001 after 8.64 s. Its short window is 360 s.
	ticket := got.Alerts[3]
	if ticket.FiredAfterS == nil || math.Abs(*ticket.FiredAfterS-8.8) > 0.11 || !ticket.ResetBeyond || math.Abs(*ticket.ResetAtS-389.4) > 0.5 {
		t.Errorf("the slow ticket: %+v, want it to fire after 8.8 s, and to reset at 389.4 s, beyond the run", ticket)
	}
}

// TestAlertSilent: at scale 1 a minute's outage pages nobody, and the result says
// how long it would take: 14.4 · 0.001 · 3600 s / 1 = 51.84 s.
func TestAlertSilent(t *testing.T) {
	p := drawOutage(t, "x", 20)
	p.h.SLOs = []SLO{shoppersSLO(1)}
	got := Judge(p.h, p.events()).SLOs[0].Alerts[0]
	if got.FiredAtS != nil || got.NeedsS == nil || math.Abs(*got.NeedsS-51.84) > 0.01 {
		t.Errorf("20 s of outage: %+v (needs %v), want no page, and 51.84 s needed", got, value(got.NeedsS))
	}
	p = drawOutage(t, "#", 20)
	p.h.SLOs = []SLO{shoppersSLO(1)}
	if got := Judge(p.h, p.events()).SLOs[0].Alerts[0]; got.FiredAtS != nil || got.NeedsS != nil {
		t.Errorf("no bad request: %+v, want neither a page nor a time", got)
	}
}

// TestAlertKnowsWhatWasKnown: a request that hangs for 5 s has not failed before.
func TestAlertKnowsWhatWasKnown(t *testing.T) {
	p := drawOutage(t, "x", 20)
	for i := range p.list {
		if w := p.list[i].Window; w != nil && w.Failed > 0 {
			p.list[i].At += 5 * time.Second
		}
	}
	p.h.SLOs = []SLO{shoppersSLO(60)}
	got := Judge(p.h, p.events()).SLOs[0]
	if a := got.Alerts[0]; a.FiredAfterS == nil || *a.FiredAfterS < 5.9 || *a.FiredAfterS > 6.2 {
		t.Errorf("failures known 5 s late: fired after %v, want about 6 s", value(a.FiredAfterS))
	}
	if got.Bad != 2000 {
		t.Errorf("%d bad in the incident, want 2000: the budget goes by due times", got.Bad)
	}
	// With 30 s of hanging nothing is known to fail while the fault is there, and
	// the time that the slow alert needs is nevertheless that of the outage.
	for i := range p.list {
		if w := p.list[i].Window; w != nil && w.Failed > 0 {
			p.list[i].At += 20 * time.Second
		}
	}
	p.h.SLOs[0].Scale = 1
	if a := Judge(p.h, p.events()).SLOs[0].Alerts[0]; a.FiredAtS != nil || a.NeedsS == nil || math.Abs(*a.NeedsS-51.84) > 0.01 {
		t.Errorf("failures known when the fault is gone: needs %v, want 51.84 s", value(a.NeedsS))
	}
}

// TestSLOClaims: what is claimed of an SLO is judged like anything else.
func TestSLOClaims(t *testing.T) {
	judge := func(change func(*SLO), bad string) Result {
		p := drawOutage(t, bad, 20)
		s := shoppersSLO(60)
		change(&s)
		p.h.SLOs = []SLO{s}
		p.h.Faults = parsePicture(t, outage+"|").h.Faults
		p.list = append(p.list, parsePicture(t, outage+"|\ndid f orders -> payments eligible 100 fired 100\n").list...)
		return Judge(p.h, p.events())
	}
	for name, c := range map[string]struct {
		change func(*SLO)
		bad    string
		want   Verdict
		says   string
	}{
		"spends less":        {func(s *SLO) { s.Spends = 0.5 }, "x", Pass, "claim holds"},
		"spends more":        {func(s *SLO) { s.Spends = 0.4 }, "x", Fail, "spent 46.3 %"},
		"pages in time":      {func(s *SLO) { s.Alerts[0].Fires = 2 * time.Minute }, "x", Pass, "claim holds"},
		"pages too late":     {func(s *SLO) { s.Alerts[0].Fires = time.Minute }, "5", Fail, "fired after 114s"},
		"does not page":      {func(s *SLO) { s.Alerts[0].Fires = time.Minute }, "#", Fail, "it did not fire"},
		"nothing is claimed": {func(s *SLO) {}, "x", Inconclusive, "Nothing was claimed"},
		"too short a window": {func(s *SLO) { s.Scale, s.Alerts[0].Fires = 6000, time.Minute }, "x", Inconclusive, "shorter than the 100 ms"},
	} {
		got := judge(c.change, c.bad)
		if got.Verdict != c.want || !strings.Contains(strings.Join(got.Reasons, " "), c.says) {
			t.Errorf("%s: %s, %v; want %s with %q", name, got.Verdict, got.Reasons, c.want, c.says)
		}
	}
}

// TestSLOWithin: good within a time counts slow answers as bad.
func TestSLOWithin(t *testing.T) {
	p := drawOutage(t, "s", 20) // a second each
	s := shoppersSLO(1)
	p.h.SLOs = []SLO{s}
	if got := Judge(p.h, p.events()).SLOs[0]; got.Bad != 0 {
		t.Errorf("slow answers are ok: %d bad, want none", got.Bad)
	}
	p.h.SLOs[0].Within = 300 * time.Millisecond
	got := Judge(p.h, p.events()).SLOs[0]
	if got.Bad != 2000 || got.Objective != "99.9% ok within 300ms in 30d" {
		t.Errorf("%s: %d bad, want 2000", got.Objective, got.Bad)
	}
}

// TestDefaultAlerts: at 30 days they are the workbook's; at another window they
// spend the same shares of the budget.
func TestDefaultAlerts(t *testing.T) {
	for window, want := range map[time.Duration]string{30 * 24 * time.Hour: "14.4 6 3 1", 28 * 24 * time.Hour: "13.44 5.6 2.8 0.933333", 12 * time.Hour: "0.24 0.1"} {
		var got []string
		for _, a := range DefaultAlerts(window) {
			got = append(got, a.Burn.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: burn rates %v, want %s", window, got, want)
		}
	}
}

// TestSLOWithoutIncident: a sham spends nothing and says why; a stream that sent
// nothing has no budget to speak of.
func TestSLOWithoutIncident(t *testing.T) {
	p := drawOutage(t, "#", 20)
	p.h.SLOs, p.h.Sham, p.h.Faults = []SLO{shoppersSLO(1)}, true, nil
	if got := Judge(p.h, p.events()).SLOs[0]; got.Spent != nil || !strings.Contains(got.Note, "no fault was injected") {
		t.Errorf("a sham: spent %v (%s)", value(got.Spent), got.Note)
	}
	p.h.SLOs[0].Load = "nobody"
	if got := Judge(p.h, p.events()).SLOs[0]; got.Spent != nil || !strings.Contains(got.Note, "no data") {
		t.Errorf("an unknown stream: spent %v (%s)", value(got.Spent), got.Note)
	}
}

func value(p *float64) any {
	if p == nil {
		return nil
	}
	return *p
}

// TestOneWindowAlerts: as TestAlerts, over one window of 60 s. Without a second
// window it burns until the outage leaves the long one: half of the requests fail
// from 10 s to 30 s, so that at 30 s + 60 s - 1.728 s = 88.272 s less than 14.4 times
// the budget burns. With after: 2 min it fires 2 s later. A rate that is met and not
// exceeded is enough for at_least only.
func TestOneWindowAlerts(t *testing.T) {
	p := drawOutage(t, "5", 20)
	slo := shoppersSLO(60)
	burn := func(s string) decimal.Decimal { return decimal.RequireFromString(s) }
	// From 11.0 s on, 10 s have 500 · t bad of 1,000: 50 of them 1 s into the outage.
	slo.Alerts = []Alert{
		{Severity: "page", Long: time.Hour, Short: time.Hour, Burn: burn("14.4")},
		{Severity: "page", Long: time.Hour, Short: time.Hour, Burn: burn("14.4"), After: 2 * time.Minute},
		{Severity: "page", Long: 10 * time.Minute, Short: 10 * time.Minute, Burn: burn("500")},
		{Severity: "page", Long: 10 * time.Minute, Short: 10 * time.Minute, Burn: burn("500"), AtLeast: true},
		{Severity: "page", Long: time.Hour, Short: time.Hour, Burn: burn("14.4"), After: time.Hour},
	}
	p.h.SLOs = []SLO{slo}
	got := Judge(p.h, p.events()).SLOs[0].Alerts
	if a := got[0]; a.FiredAfterS == nil || *a.FiredAfterS != 1.9 || a.ResetAtS == nil || math.Abs(*a.ResetAtS-88.4) > 0.11 {
		t.Errorf("one window: fired after %v, reset at %v; want 1.9 and 88.4", value(a.FiredAfterS), value(a.ResetAtS))
	}
	if a := got[1]; a.FiredAfterS == nil || math.Abs(*a.FiredAfterS-3.9) > 1e-9 || a.AfterS != 120 || *a.ResetAtS != *got[0].ResetAtS {
		t.Errorf("after 2 min: fired after %v, reset at %v; want 3.9 and the same", value(a.FiredAfterS), value(a.ResetAtS))
	}
	if a := got[2]; a.FiredAtS != nil {
		t.Errorf("half of all failing burns at 500, not faster: fired at %v", *a.FiredAtS)
	}
	if a := got[3]; a.FiredAfterS == nil || *a.FiredAfterS != 10.1 {
		t.Errorf("at least 500: fired after %v, want 10.1", value(a.FiredAfterS))
	}
	// The faults would have to go on for 1.728 s and the 60 s after that.
	if a := got[4]; a.FiredAtS != nil && *a.FiredAfterS < 60 {
		t.Errorf("after 1 h: fired after %v", *a.FiredAfterS)
	} else if a.FiredAtS == nil && (a.NeedsS == nil || math.Abs(*a.NeedsS-61.728) > 1e-9) {
		t.Errorf("after 1 h: it needs %v s, want 61.728", value(a.NeedsS))
	}
}
