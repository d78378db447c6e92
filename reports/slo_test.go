package reports

import (
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/experiments/verdict"
)

// TestSLOsEverywhere: every format tells what was spent, which alert would have
// fired and when, how the windows were scaled, and what was claimed.
func TestSLOsEverywhere(t *testing.T) {
	at := func(x float64) *float64 { return &x }
	r := failing()
	r.Result.SLOs = []verdict.SLOResult{{
		Name: "shop<pers", Load: "shoppers", Objective: "99.9% ok in 30d", Verdict: verdict.Fail, Scale: 60, WindowS: 2592000,
		BudgetRatio: 0.001, BudgetS: 2592, BudgetRequests: 259200, Rate: 100, FromS: at(10), ToS: at(60), Samples: 5000, Bad: 2000,
		Spent: at(0.462963), SpentS: at(1200), Peak: at(1000), BurnWindowS: 5,
		Alerts: []verdict.AlertResult{
			{Severity: "page", LongS: 3600, ShortS: 300, Burn: 14.4, FiredAtS: at(11.9), FiredAfterS: at(1.9), FiredAfterSLOS: at(114), ResetAtS: at(35), Times: 2, PeakLong: at(333), PeakShort: at(1000)},
			{Severity: "page", LongS: 21600, ShortS: 1800, Burn: 6, FiredAtS: at(14.5), FiredAfterS: at(4.5), FiredAfterSLOS: at(270), ResetAtS: at(90), ResetBeyond: true, Times: 1},
			{Severity: "ticket", LongS: 86400, ShortS: 7200, Burn: 3, NeedsS: at(51.84)},
			{Severity: "ticket", LongS: 259200, ShortS: 21600, Burn: 1, Note: "its short window is 50 ms"},
		},
		Burn:   []verdict.BurnPoint{{AtS: 11, Burn: 0}, {AtS: 12, Burn: 1000}},
		Checks: []verdict.Check{{Claim: "spends at most 10 % of the budget", Verdict: verdict.Fail, Detail: "spent 46.3 %"}},
	}}
	for kind, wants := range map[string][]string{
		"txt":  {"ERROR BUDGETS", "46.3%", "20m of 43m12s", "1.90 s after the first fault (1m54s on the SLO's clock)", "fired 2 times", "stands for 1m", "spent 46.3 %"},
		"md":   {"Error budgets", "46.3%", "shop&lt;pers", "would not have fired; the faults would have to go on for 51.8 s", "not evaluated: its short window"},
		"html": {`id="slos"`, "46.3%", "shop&lt;pers", "behind the end of the run", "Burn rate of", "spends at most 10 % of the budget"},
		"xml":  {"spends at most 10 % of the budget", "46.3%", "slo shop&lt;pers, page, burn rate 14.4 over 1h and 5m"},
		"json": {`"slos"`, `"burn_window_s": 5`, `"fired_after_slo_s": 114`},
	} {
		got := render(t, writers[kind], r)
		flat := strings.Join(strings.Fields(got), " ")
		for _, want := range wants {
			if !strings.Contains(got, want) && !strings.Contains(flat, want) {
				t.Errorf("%s does not say %q", kind, want)
			}
		}
	}
	for _, line := range strings.Split(render(t, writers["txt"], r), "\n") {
		if columns(line) > 80 {
			t.Errorf("a line of %d columns: %s", columns(line), line)
		}
	}
	if lines := SLOLines(r.Result.SLOs); len(lines) != 5 || !strings.Contains(lines[1], "would have fired 1.90 s") {
		t.Errorf("lines for verify: %q", lines)
	}
}
