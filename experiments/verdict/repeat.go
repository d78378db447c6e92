package verdict

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// RepeatResult says what several runs of one scenario show together.
//
// A run is the sample here. Requests of one run share its machine, its start and
// its luck, so that a hundred thousand of them say less about the next run than
// five runs do, and five say little: 5 of 5 shows at least 55 % at 95 %.
type RepeatResult struct {
	Version    int             `json:"version"`
	Scenario   string          `json:"scenario"`
	Asked      int             `json:"asked"`   // runs
	Verdict    Verdict         `json:"verdict"` // fail when any run fails; inconclusive when any is, or is missing
	Reasons    []string        `json:"reasons"`
	Confidence float64         `json:"confidence"`
	Passed     int             `json:"passed"`  // runs
	Decided    int             `json:"decided"` // runs that passed or failed
	Low        *float64        `json:"low"`     // of the share of runs that pass, among those that decide
	High       *float64        `json:"high"`
	Shows      string          `json:"shows"`
	Runs       []RepeatedRun   `json:"runs"`
	Claims     []RepeatedClaim `json:"claims"`
	Notes      []string        `json:"notes"`
}

// RepeatedRun is one of them; its own result.json stands in its folder.
type RepeatedRun struct {
	Folder  string  `json:"folder"`
	Run     string  `json:"run"`
	Seed    uint64  `json:"seed"`
	Status  string  `json:"status"`
	Verdict Verdict `json:"verdict"` // of the pair where there is a control
	Reason  string  `json:"reason"`
}

// RepeatedClaim is one claim over all runs.
type RepeatedClaim struct {
	Claim        string   `json:"claim"` // "shoppers during p95 < 700ms", "breaker orders -> payments", "invariant money"
	Unit         string   `json:"unit,omitempty"`
	Pass         int      `json:"pass"`
	Fail         int      `json:"fail"`
	Inconclusive int      `json:"inconclusive"`
	Low          *float64 `json:"low"` // of the share of runs in which it holds, among those that decide
	High         *float64 `json:"high"`
	Least        *float64 `json:"least"` // of the values that people read
	Median       *float64 `json:"median"`
	Most         *float64 `json:"most"`
	values       []float64
}

// Repeat sums up runs of one scenario, of which asked were wanted; folders name
// them. confidence is the scenario's.
func Repeat(scenario string, asked int, confidence float64, runs []Result, folders []string) RepeatResult {
	out := RepeatResult{Version: 1, Scenario: scenario, Asked: asked, Confidence: orDefault(confidence),
		Reasons: []string{}, Runs: []RepeatedRun{}, Claims: []RepeatedClaim{}, Notes: []string{}}
	counts := map[Verdict]int{}
	for i, r := range runs {
		run := RepeatedRun{Folder: folders[i], Run: r.Run, Seed: r.Seed, Status: r.Status, Verdict: r.Overall(), Reason: firstReason(r)}
		if r.Control != nil {
			run.Reason = r.Control.Pair + ": " + r.Control.Detail
		}
		counts[run.Verdict]++
		out.Runs = append(out.Runs, run)
		// Nothing of a run that does not count is evidence, for or against any claim.
		claim := out.claim
		if r.Void != "" {
			claim = func(name, unit string, _ Verdict, _ *float64) { out.claim(name, unit, Inconclusive, nil) }
		}
		for _, o := range r.Objectives {
			claim(o.Load+" "+o.Phase+" "+o.Objective, o.Unit, o.Verdict, o.Value)
		}
		for _, b := range r.Breakers {
			claim("breaker "+b.Edge, "s", b.Verdict, b.TimeToOpenS)
		}
		for _, x := range r.Invariants {
			claim("invariant "+x.Name, "", x.Verdict, nil)
		}
		for _, x := range r.SLOs {
			if x.Verdict != "" {
				claim("slo "+x.Name, "ratio", x.Verdict, x.Spent)
			}
		}
		if r.Control != nil {
			out.claim("control", "", run.Verdict, nil)
		}
	}
	for i := range out.Claims {
		c := &out.Claims[i]
		if n := c.Pass + c.Fail; n > 0 {
			low, high := bounds(float64(c.Pass), float64(n), out.Confidence)
			c.Low, c.High = ptr(low), ptr(high)
		}
		if n := len(c.values); n > 0 {
			slices.Sort(c.values)
			c.Least, c.Most = ptr(c.values[0]), ptr(c.values[n-1])
			c.Median = ptr((c.values[(n-1)/2] + c.values[n/2]) / 2)
		}
	}

	out.Passed, out.Decided = counts[Pass], counts[Pass]+counts[Fail]
	if out.Decided > 0 {
		low, high := bounds(float64(out.Passed), float64(out.Decided), out.Confidence)
		out.Low, out.High = ptr(low), ptr(high)
	}
	out.Shows = kOfN(out.Passed, out.Decided, out.Confidence)
	switch {
	case counts[Fail] > 0:
		out.Verdict = Fail
		out.Reasons = append(out.Reasons, fmt.Sprintf("%d of %s failed.", counts[Fail], plural(len(runs), "run", "runs")))
	case len(runs) < asked:
		out.Verdict = Inconclusive
		out.Reasons = append(out.Reasons, fmt.Sprintf("Only %d of %s took place.", len(runs), plural(asked, "run", "runs")))
	case counts[Inconclusive] > 0:
		out.Verdict = Inconclusive
		out.Reasons = append(out.Reasons, fmt.Sprintf("%d of %s were inconclusive.", counts[Inconclusive], plural(len(runs), "run", "runs")))
	default:
		out.Verdict = Pass
	}
	out.Reasons = append(out.Reasons, upper(out.Shows)+".")
	if counts[Inconclusive] > 0 && out.Decided > 0 {
		out.Notes = append(out.Notes, "inconclusive runs are in no share: if what makes a run inconclusive also makes it fail, the share is too high")
	}
	out.Notes = append(out.Notes, "the seeds differ from run to run, the machine and the build do not: the share is that of runs like these")
	return out
}

func (r *RepeatResult) claim(name, unit string, v Verdict, value *float64) {
	i := slices.IndexFunc(r.Claims, func(c RepeatedClaim) bool { return c.Claim == name })
	if i < 0 {
		i = len(r.Claims)
		r.Claims = append(r.Claims, RepeatedClaim{Claim: name, Unit: unit})
	}
	c := &r.Claims[i]
	switch v {
	case Pass:
		c.Pass++
	case Fail:
		c.Fail++
	default:
		c.Inconclusive++
	}
	if value != nil {
		c.values = append(c.values, *value)
	}
}

// Overall is the verdict of a run, or of the pair where it has a control.
func (r Result) Overall() Verdict {
	if r.Control == nil {
		return r.Verdict
	}
	switch r.Control.Pair {
	case Proven:
		return Pass
	case Disproven, Vacuous:
		return Fail
	}
	return Inconclusive
}

// kOfN says what k passes among n runs show about the share of runs that pass:
// Clopper-Pearson, one-sided; none of n says at most, all of n at least.
func kOfN(k, n int, confidence float64) string {
	if n == 0 {
		return "no run decided, which shows nothing"
	}
	low, high := bounds(float64(k), float64(n), confidence)
	found := fmt.Sprintf("%d of %s passed, which shows with %s confidence that", k, plural(n, "deciding run", "deciding runs"), percent(confidence))
	switch k {
	case n:
		return fmt.Sprintf("%s at least %s of such runs pass", found, percent(low))
	case 0:
		return fmt.Sprintf("%s at most %s of such runs pass", found, percent(high))
	}
	return fmt.Sprintf("%s at least %s, and as surely that at most %s, of such runs pass", found, percent(low), percent(high))
}

func upper(s string) string {
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		return string(s[0]-'a'+'A') + s[1:]
	}
	return s
}

// SeedOfRepeat is the seed of run number i (from 0): the first runs with the
// scenario's own, the others with numbers drawn from it, small enough for every
// reader of JSON.
func SeedOfRepeat(seed uint64, i int) uint64 {
	if i == 0 {
		return seed
	}
	return rand.New(rand.NewPCG(seed, uint64(i))).Uint64() >> 11
}
