package verdict

import (
	"strings"
	"testing"
)

// Five of five show that at least 55 % of such runs pass (0.05^(1/5) = 0.549), and no more.
func TestRepeatSaysWhatRunsShow(t *testing.T) {
	of := func(verdicts ...Verdict) (all []Result, folders []string) {
		for _, v := range verdicts {
			all = append(all, Result{Scenario: "s", Status: "completed", Verdict: v, Reasons: []string{"because."},
				Objectives: []ObjectiveResult{{Load: "l", Phase: "during", Objective: "ok >= 99%", Verdict: v, Value: ptr(0.99)}}})
			folders = append(folders, "1")
		}
		return all, folders
	}
	for name, c := range map[string]struct {
		asked int
		runs  []Verdict
		want  Verdict
		says  string
	}{
		"five of five":     {5, []Verdict{Pass, Pass, Pass, Pass, Pass}, Pass, "5 of 5 deciding runs passed, which shows with 95 % confidence that at least 54.9 %"},
		"four of five":     {5, []Verdict{Pass, Pass, Fail, Pass, Pass}, Fail, "1 of 5 runs failed."},
		"one undecided":    {3, []Verdict{Pass, Inconclusive, Pass}, Inconclusive, "1 of 3 runs were inconclusive."},
		"cut short":        {5, []Verdict{Pass, Pass}, Inconclusive, "Only 2 of 5 runs took place."},
		"none of three":    {3, []Verdict{Fail, Fail, Fail}, Fail, "at most 63.2 %"},
		"nothing is known": {2, []Verdict{Inconclusive, Inconclusive}, Inconclusive, "no run decided"},
	} {
		runs, folders := of(c.runs...)
		got := Repeat("s", c.asked, 0.95, runs, folders)
		if text := strings.Join(got.Reasons, " "); got.Verdict != c.want || !strings.Contains(strings.ToLower(text), strings.ToLower(c.says)) {
			t.Errorf("%s: %s, %q; want %s and %q", name, got.Verdict, text, c.want, c.says)
		}
		if k := got.Claims[0]; k.Pass+k.Fail+k.Inconclusive != len(c.runs) || *k.Median != 0.99 {
			t.Errorf("%s: claim %+v", name, k)
		}
	}
	// What does not count says nothing about any claim either.
	void := Result{Status: "completed", Verdict: Inconclusive, Void: Saturated, Objectives: []ObjectiveResult{{Load: "l", Phase: "during", Objective: "ok >= 99%", Verdict: Pass, Value: ptr(1.0)}}}
	if got := Repeat("s", 2, 0.95, []Result{void, void}, []string{"1", "2"}); got.Claims[0].Pass != 0 || got.Claims[0].Inconclusive != 2 || got.Claims[0].Low != nil || got.Claims[0].Median != nil {
		t.Errorf("claims of runs that do not count: %+v", got.Claims)
	}
	// A pair is judged as a pair.
	vacuous := Result{Status: "completed", Verdict: Pass, Control: &ControlResult{Pair: Vacuous}}
	if got := Repeat("s", 1, 0.95, []Result{vacuous}, []string{"1"}); got.Verdict != Fail {
		t.Errorf("a vacuous pair: %s, want fail", got.Verdict)
	}
	// An SLO that claims something is a claim, with what was spent; another is none.
	spent := Result{Status: "completed", Verdict: Pass, Reasons: []string{"because."}, SLOs: []SLOResult{{Name: "a", Verdict: Pass, Spent: ptr(0.25)}, {Name: "b", Spent: ptr(0.5)}}}
	if got := Repeat("s", 2, 0.95, []Result{spent, spent}, []string{"1", "2"}); len(got.Claims) != 1 || got.Claims[0].Claim != "slo a" || got.Claims[0].Pass != 2 || *got.Claims[0].Median != 0.25 {
		t.Errorf("claims of SLOs: %+v", got.Claims)
	}
	seen := map[uint64]bool{}
	for i := range 100 {
		seed := SeedOfRepeat(7, i)
		if seen[seed] || seed != SeedOfRepeat(7, i) || i == 0 && seed != 7 || seed >= 1<<53 {
			t.Errorf("seed %d of repeat %d", seed, i)
		}
		seen[seed] = true
	}
}
