package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios"
)

// made is a run that never took place: its journal is drawn.
type made struct {
	scenario string        // text; "": quietScenario
	seed     uint64        // of the draw, and of the plan
	middle   time.Duration // latency; 0: 50 ms
	bad      func(second int) bool
	cut      int // bytes to leave out at the end
}

const quietScenario = `
scenario: quiet
target: { system: shop }
load:
  load: { request: POST /checkout, to: gateway, rate: 50/s }
phases: { before: 15s, during: 15s }
hypothesis:
  load:
    during: [ok >= 95%, p99 < 100ms]
`

// write makes the run's folder.
func (m made) write(t *testing.T, dir string) string {
	t.Helper()
	if m.scenario == "" {
		m.scenario = quietScenario
	}
	if m.middle == 0 {
		m.middle = 50 * time.Millisecond
	}
	s, err := scenarios.Parse("test.yaml", []byte(m.scenario))
	if err != nil {
		t.Fatal(err)
	}
	s.Seed = m.seed
	plan, err := experiments.Compile(s, experiments.Main)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "journal.jsonl")
	var now time.Duration
	w, err := journal.Create(path, func() time.Duration { return now })
	if err != nil {
		t.Fatal(err)
	}
	write := func(e journal.Event) {
		now = e.At
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	write(journal.Event{Start: &journal.Start{Version: journal.Version, Run: filepath.Base(dir), Scenario: s.Name, Seed: m.seed, PlanHash: plan.Hash(), Plan: plan.JSON(), Wall: time.Unix(1e9, 0)}})
	r := rand.New(rand.NewPCG(m.seed, 1))
	end := plan.Duration()
	for due := time.Duration(0); due < end; due += 100 * time.Millisecond {
		win := &journal.Window{Load: "load", DueS: journal.Secs(due), Due: 5, Sent: 5, Outcomes: map[string]int{}}
		h := hdr.New()
		if m.bad != nil && m.bad(int(due/time.Second)) {
			win.Failed, win.Outcomes["503"] = 5, 5
			h.RecordN(2*time.Millisecond, 5)
			win.FailedLatency = h.Encode()
		} else {
			win.OK, win.Outcomes["200"] = 5, 5
			for range 5 {
				h.Record(time.Duration(float64(m.middle) * math.Exp(0.1*r.NormFloat64())))
			}
			win.OKLatency = h.Encode()
		}
		write(journal.Event{At: due + 200*time.Millisecond, Window: win})
	}
	write(journal.Event{At: end + time.Second, End: &journal.End{Status: "completed"}})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if m.cut > 0 {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, b[:len(b)-m.cut], 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ask runs chaosctl in this process.
func ask(t *testing.T, code int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(context.Background(), args, strings.NewReader(""), &stdout, &stderr); got != code {
		t.Errorf("chaosctl %v: exit code %d, want %d\n%s%s", args, got, code, stdout.String(), stderr.String())
	}
	return strings.Join(strings.Fields(stdout.String()+stderr.String()), " ")
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in:\n%s", p, text)
		}
	}
}

func TestCompareCommand(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	dir := t.TempDir()
	a := made{seed: 1}.write(t, filepath.Join(dir, "a"))
	b := made{seed: 2}.write(t, filepath.Join(dir, "b"))
	slow := made{seed: 3, middle: 70 * time.Millisecond}.write(t, filepath.Join(dir, "slow"))
	other := made{seed: 4, scenario: strings.Replace(quietScenario, "50/s", "60/s", 1)}.write(t, filepath.Join(dir, "other"))
	off := made{seed: 5, scenario: strings.Replace(quietScenario, "system: shop", "system: shop, patterns: { orders -> payments: off }", 1)}.write(t, filepath.Join(dir, "off"))

	wants(t, ask(t, 0, "compare", a, b), "NOISE", "load, during, latency", "one run of each")
	wants(t, ask(t, 1, "compare", a, slow), "REGRESSED", "+20", "a request of B is slower with probability")
	wants(t, ask(t, 0, "compare", slow, a), "IMPROVED")
	wants(t, ask(t, 0, "compare", a, slow, "--margin", "50ms"), "NOISE")
	wants(t, ask(t, 2, "compare", a, other), "different scenarios", "load", "and \"60/s\"", "hint: only the target")
	wants(t, ask(t, 0, "compare", a, off), "differs: patterns.orders -> payments")
	wants(t, ask(t, 0, "compare", a), "during against before")
	wants(t, ask(t, 3, "compare", a+","+b+","+a, slow+","+slow+","+slow), "UNDECIDED", "3 and 3 runs can never be significant")
	wants(t, ask(t, 1, "compare", a+","+b+","+a+","+b, slow+","+slow+","+slow+","+slow), "REGRESSED")
	wants(t, ask(t, 0, "compare", "--self", a, b), "NOISE FLOOR", "typical", "probability 2/3")
	wants(t, ask(t, 1, "compare", "--self", a, slow), "false alarms 1")
	wants(t, ask(t, 2, "compare", "--self", a, off), "not of one build")
	wants(t, ask(t, 2, "compare", "--self", a), "this is one")
	for _, margin := range []string{"5", "-1ms", "1", "NaN%", "101pp", "2m3"} {
		wants(t, ask(t, 2, "compare", a, b, "--margin", margin), "allowed are percentage points")
	}
	wants(t, ask(t, 2, "compare", a, filepath.Join(dir, "none")), "holds no run")
	wants(t, ask(t, 2, "compare", a, b, "--output", "pdf"), "allowed are text, json")

	// All formats say the same word.
	var j struct {
		Outcome string
		Rows    []struct {
			Metric  string
			Outcome string
			Low     *float64
		}
	}
	if err := json.Unmarshal([]byte(ask(t, 1, "compare", a, slow, "--output", "json")), &j); err != nil || j.Outcome != "regressed" || len(j.Rows) == 0 || j.Rows[0].Low == nil {
		t.Errorf("JSON: %v %+v", err, j)
	}
	junit := ask(t, 1, "compare", a, slow, "--output", "junit")
	if err := xml.Unmarshal([]byte(junit), new(struct{})); err != nil {
		t.Errorf("JUnit: %v", err)
	}
	wants(t, junit, "<failure", `name="load, during, latency"`)
	wants(t, ask(t, 1, "compare", a, slow, "--output", "html"), "REGRESSED", "Content-Security-Policy", "load, during, latency")
	wants(t, ask(t, 1, "compare", a, slow, "--output", "markdown"), "REGRESSED", "| ")
}

// A repeat is judged again from its runs' journals.
func TestReportOfARepeat(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		made{seed: uint64(i)}.write(t, filepath.Join(dir, strconv.Itoa(i+1)))
	}
	wants(t, ask(t, 0, "report", dir, "--write"), "PASS", "at least 54.9 % of such runs pass")
	for _, name := range []string{"result.json", "report.html", "report.md", "junit.xml"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) < 200 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	wants(t, ask(t, 0, "compare", "--self", dir), "10 pairs")
	wants(t, ask(t, 0, "verify", dir), "journals intact: 5 runs", "verdict: pass", "5 of 5")
	wants(t, ask(t, 2, "verify", dir, "--set", "load during ok >= 5%"), "--set judges one")
	made{seed: 6, bad: func(int) bool { return true }}.write(t, filepath.Join(dir, "6"))
	wants(t, ask(t, 1, "verify", dir), "verdict: fail", "5 of 6")
}

// The same journal, other objectives.
func TestVerifyWithOtherObjectives(t *testing.T) {
	dir := made{seed: 1}.write(t, filepath.Join(t.TempDir(), "run"))
	wants(t, ask(t, 0, "verify", dir), "journal intact", "verdict: pass")
	wants(t, ask(t, 1, "verify", dir, "--set", "load during p99 < 30ms"), "verdict: fail", "load, during: p99 < 30ms does not hold")
	wants(t, ask(t, 3, "verify", dir, "--set", "load during ok >= 99.99%", "--set", "load before p50 < 1s"), "verdict: inconclusive", "ok >= 99.99% is undecided")
	for set, says := range map[string]string{
		"load during p99 > 30ms":     "takes < or <=",
		"load during ok < 5%":        "takes > or >=",
		"load during":                "write 'STREAM PHASE CLAUSE'",
		"lad during ok >= 5%":        "no such stream or phase (streams: load; phases: before, during)",
		"load after ok >= 5%":        "no such stream or phase",
		"load during p99 < 30":       "has no unit",
		"load during upstream < 1/s": "allowed are ok and percentiles",
	} {
		wants(t, ask(t, 2, "verify", dir, "--set", set), says)
	}
	wants(t, ask(t, 2, "verify", dir, "--set", "load during ok >= 5%", "--set", "load during ok >= 99%"), "set twice")
}

// Everything before the cut is used: a pass is not known any more, a fail still is.
func TestJournalCutInTheMiddleOfALine(t *testing.T) {
	dir := t.TempDir()
	whole := made{seed: 1, cut: 300}.write(t, filepath.Join(dir, "good"))
	wants(t, ask(t, 0, "report", whole), "INCONCLUSIVE", "did not come to its end", "torn")
	bad := made{seed: 1, cut: 300, bad: func(second int) bool { return second%2 == 0 }}.write(t, filepath.Join(dir, "bad"))
	wants(t, ask(t, 2, "verify", bad), "torn", "chaosctl report judges what was recorded")
	if r, err := readRun(bad); err != nil || r.Result.Verdict != "fail" || r.Result.Status != "interrupted" {
		t.Errorf("half of it failed before the cut: %s %s (%v), want fail, interrupted", r.Result.Verdict, r.Result.Status, err)
	}
}
