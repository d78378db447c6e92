package verdict

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/google/go-cmp/cmp"
)

func clause(t testing.TB, text string) expect.Clause {
	t.Helper()
	c, err := expect.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPair(t *testing.T) {
	of := func(v Verdict, objectives map[string]Verdict, void string) Result {
		r := Result{Verdict: v, Status: "completed", Void: void, Reasons: []string{"because."}}
		for _, id := range []string{"shoppers during ok", "shoppers during p95"} {
			if x, ok := objectives[id]; ok {
				r.Objectives = append(r.Objectives, ObjectiveResult{ID: id, Verdict: x})
			}
		}
		r.Breakers = []BreakerResult{{Edge: "orders -> payments", Verdict: Fail, Checks: []Check{{Claim: "opens within 5s", Verdict: Fail}, {Claim: "closes within 5s", Verdict: Inconclusive}}}}
		r.Invariants = []InvariantResult{{Name: "money", Verdict: Pass}}
		return r
	}
	passes := of(Pass, nil, "")
	p95Fails := of(Fail, map[string]Verdict{"shoppers during ok": Pass, "shoppers during p95": Fail}, "")
	for name, c := range map[string]struct {
		main, control Result
		must          []string
		want          string
	}{
		"fails where it must":                {passes, p95Fails, []string{"shoppers during p95"}, Proven},
		"spaces do not matter":               {passes, p95Fails, []string{"shoppers  during p95 "}, Proven},
		"fails elsewhere":                    {passes, p95Fails, []string{"shoppers during ok"}, Vacuous},
		"must fail on both, fails on one":    {passes, p95Fails, []string{"shoppers during p95", "shoppers during ok"}, Vacuous},
		"control passes":                     {passes, of(Pass, map[string]Verdict{"shoppers during p95": Pass}, ""), []string{"shoppers during p95"}, Vacuous},
		"control undecided":                  {passes, of(Inconclusive, map[string]Verdict{"shoppers during p95": Inconclusive}, ""), []string{"shoppers during p95"}, InconclusiveP},
		"control saturated":                  {passes, of(Inconclusive, map[string]Verdict{"shoppers during p95": Fail}, Saturated), []string{"shoppers during p95"}, InconclusiveP},
		"control without its fault":          {passes, of(Inconclusive, map[string]Verdict{"shoppers during p95": Pass}, NotObserved), []string{"shoppers during p95"}, InconclusiveP},
		"unknown name":                       {passes, p95Fails, []string{"shoppers during p99"}, InconclusiveP},
		"main fails":                         {p95Fails, p95Fails, []string{"shoppers during p95"}, Disproven},
		"main undecided":                     {of(Inconclusive, nil, ""), p95Fails, []string{"shoppers during p95"}, InconclusiveP},
		"breaker as a whole":                 {passes, p95Fails, []string{"orders -> payments"}, Proven},
		"one claim of a breaker":             {passes, p95Fails, []string{"orders -> payments opens"}, Proven},
		"undecided claim of a breaker":       {passes, p95Fails, []string{"orders -> payments closes"}, InconclusiveP},
		"invariant that holds":               {passes, p95Fails, []string{"money"}, Vacuous},
		"nothing named, control fails":       {passes, p95Fails, nil, Proven},
		"nothing named, control passes":      {passes, passes, nil, Vacuous},
		"nothing named, control undecided":   {passes, of(Inconclusive, nil, ""), nil, InconclusiveP},
		"control was interrupted on its way": {passes, func() Result { r := p95Fails; r.Status = "interrupted"; return r }(), []string{"shoppers during p95"}, InconclusiveP},
	} {
		got := Pair(c.main, c.control, c.must)
		if got.Pair != c.want || got.Detail == "" {
			t.Errorf("%s: got %s (%s), want %s", name, got.Pair, got.Detail, c.want)
		}
		if got.Pair == Proven && len(c.must) > 0 && len(got.Failed) != len(c.must) {
			t.Errorf("%s: proven by %v, asked were %v", name, got.Failed, c.must)
		}
	}
}

// seconds of windows: one event per 100 ms.
func feed(w *Watch, from, to time.Duration, due, ok, failed int) (reason string, at time.Duration) {
	for t := from; t < to; t += step {
		win := &journal.Window{Load: "l", DueS: journal.Secs(t), Due: due, OK: ok, Failed: failed, Outcomes: map[string]int{}}
		win.OKLatency = latencies(30*time.Millisecond, ok)
		if reason, abort := w.Observe(journal.Event{At: t, Window: win}); abort {
			return reason, t
		}
	}
	return "", -1
}

func TestWatch(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		clause     string
		due        int
		ok, failed int
		at         time.Duration // -1: never
	}{
		"all is well":                {"ok < 10% for 30s", 10, 10, 0, -1},
		"nearly all fails":           {"ok < 10% for 30s", 20, 1, 19, 37 * s},
		"one in ten is not below it": {"ok < 10% for 30s", 10, 1, 9, -1},
		"nothing comes back":         {"ok < 10% for 5s", 10, 0, 0, 15 * s}, // once no good one is in sight
		"nothing is due":             {"ok < 10% for 5s", 0, 0, 0, -1},
		"percentile over its limit":  {"p50 > 20ms for 5s", 10, 10, 0, 5 * s},
		"percentile within":          {"p50 > 50ms for 5s", 10, 10, 0, -1},
		"failed ones are slow":       {"p50 > 50ms for 5s", 10, 2, 8, 13100 * time.Millisecond},
		"without a time":             {"ok < 50%", 10, 0, 10, 10600 * time.Millisecond},
	} {
		w := NewWatch([]expect.Clause{clause(t, c.clause)})
		reason, at := feed(w, 0, 10*s, 10, 10, 0) // ten good seconds first
		if at < 0 {
			reason, at = feed(w, 10*s, 60*s, c.due, c.ok, c.failed)
		}
		if (at - c.at).Abs() > 200*time.Millisecond {
			t.Errorf("%s: abort at %s (%s), want %s", name, at, reason, c.at)
		}
		if at >= 0 {
			if !strings.Contains(reason, c.clause) {
				t.Errorf("%s: the reason %q does not name the condition", name, reason)
			}
			if _, again := feed(w, at+s, at+40*s, c.due, c.ok, c.failed); again >= 0 {
				t.Errorf("%s: told twice", name)
			}
		}
	}
}

func TestWatchWantsTheWholeTime(t *testing.T) {
	w := NewWatch([]expect.Clause{clause(t, "ok < 10% for 30s")})
	if reason, at := feed(w, 0, 29*time.Second, 10, 0, 10); at >= 0 {
		t.Errorf("aborted after %s of 30 s: %s", at, reason)
	}
	if _, at := feed(w, 29*time.Second, 31*time.Second, 10, 0, 10); at < 0 {
		t.Error("not aborted after 31 s of failure")
	}
}

// Requests cut off with the run are in no share, however the stream counted them.
func TestCanceledAreInNoShare(t *testing.T) {
	for name, failed := range map[string]int{"left out of failed": 2, "counted among failed": 7} {
		h := Hypotheses{Phases: []Phase{{"during", 0, time.Second}}, Loads: []Load{{Name: "l", Timeout: time.Second}},
			Objectives: []Objective{{Load: "l", Phase: "during", Clause: clause(t, "ok >= 50%")}}}
		r := Judge(h, []journal.Event{
			{Start: &journal.Start{Version: 1}},
			{At: time.Second, Window: &journal.Window{Load: "l", Due: 15, Sent: 15, OK: 8, Failed: failed, Outcomes: map[string]int{"200": 8, "503": 2, "canceled": 5}}},
			{At: 9 * time.Second, End: &journal.End{Status: "interrupted"}},
		})
		if o := r.Objectives[0]; o.Samples != 10 || *o.Estimate != 0.8 {
			t.Errorf("%s: %d samples, share %g; want 10 and 0.8", name, o.Samples, *o.Estimate)
		}
	}
}

func TestRequestsBelongToThePhaseInWhichTheyWereDue(t *testing.T) {
	h := Hypotheses{Phases: []Phase{{"before", 0, 950 * time.Millisecond}, {"during", 950 * time.Millisecond, 2 * time.Second}},
		Loads: []Load{{Name: "l"}}}
	for _, p := range h.Phases {
		h.Objectives = append(h.Objectives, Objective{Load: "l", Phase: p.Name, Clause: clause(t, "ok >= 50%")})
	}
	events := []journal.Event{{Start: &journal.Start{Version: 1}}}
	for k := range 20 {
		// All are answered in `during`, in reverse order and in two parts.
		for range 2 {
			events = append(events, journal.Event{At: 2*time.Second - time.Duration(k)*time.Millisecond,
				Window: &journal.Window{Load: "l", DueS: journal.Secs(time.Duration(k) * step), Due: 1, OK: 1, OKLatency: latencies(time.Millisecond, 1), Outcomes: map[string]int{"200": 1}}})
		}
	}
	r := Judge(h, append(events, journal.Event{At: 2 * time.Second, End: &journal.End{Status: "completed"}}))
	// The window at 0.9 s straddles the boundary and belongs where it begins.
	if a, b := r.Objectives[0].Samples, r.Objectives[1].Samples; a != 20 || b != 20 {
		t.Errorf("before has %d, during %d; want 20 and 20", a, b)
	}
}

// A percentile that falls among the failed requests is no number.
func TestPercentilesCountFailedAsSlow(t *testing.T) {
	p := parsePicture(t, `
rate 10
phase before 2s
phase during 2s
objective l before p95 < 100ms
objective l during p95 < 100ms
objective l during p50 < 100ms
load l |#################### #1#1#1#1#1#1#1#1#1#1 22222222222222222222|
`)
	r := Judge(p.h, p.events())
	if v := r.Objectives[0].PerPhase; v["before"] == nil || v["during"] != nil && *v["during"] > 1 {
		t.Errorf("p95 per phase: %v", v)
	}
	if o := r.Objectives[1]; o.Value == nil && o.Verdict != Fail {
		t.Errorf("5 %% failed: value %v, verdict %s", o.Value, o.Verdict)
	}
	q := parsePicture(t, "rate 10\nphase during 2s\nobjective l during p95 < 100ms\nload l |22222222222222222222|\n")
	if o := Judge(q.h, q.events()).Objectives[0]; o.Value != nil || *o.Estimate != 0.8 || o.PerPhase["during"] != nil {
		t.Errorf("20 %% failed: p95 is %v, share %g; want none and 0.8", o.Value, *o.Estimate)
	}
}

func TestResultIsOneOfBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	s := anyShop(r)
	_, events := s.run(r)
	a, err := json.Marshal(Judge(s.hypotheses(), events))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b, _ := json.Marshal(Judge(s.hypotheses(), slices.Clone(events)))
		if !bytes.Equal(a, b) {
			t.Fatalf("same input, other bytes:\n%s", cmp.Diff(string(a), string(b)))
		}
	}
}

func TestNothingAtAll(t *testing.T) {
	r := Judge(Hypotheses{}, nil)
	if r.Verdict != Inconclusive || len(r.Reasons) == 0 {
		t.Errorf("no events: %s %v, want inconclusive with a reason", r.Verdict, r.Reasons)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		percent(0.9912): "99.1 %", percent(1): "100 %", percent(0.99996): "99.996 %", percent(0): "0 %", percent(0.5): "50 %", percent(0.00004): "0.004 %",
		thousands(1234567): "1,234,567", thousands(999): "999", thousands(-1234): "-1,234",
		seconds(1200 * time.Millisecond): "1.2 s", seconds(340 * time.Millisecond): "340 ms", seconds(42 * time.Second): "42 s", seconds(0): "0 ms", seconds(1500 * time.Microsecond): "1.5 ms",
		and([]string{"a", "b", "c"}): "a, b and c",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Whatever a journal holds, Judge answers, and its answer can be written.
func FuzzJudge(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 3))
	s := anyShop(r)
	s.rate, s.end = 15, 24
	_, events := s.run(r)
	var file bytes.Buffer
	for _, e := range events[:min(len(events), 60)] {
		b, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		file.Write(append(b, '\n'))
	}
	f.Add(file.Bytes())
	f.Add([]byte(`{"at_s":0,"start":{"version":1,"run":"","scenario":"","variant":"","seed":0,"plan_hash":"","plan":{},"environment":{"chaosctl":"","go":"","os":"","arch":"","cpus":1},"wall":"2026-01-01T00:00:00Z"}}
{"at_s":-5,"window":{"load":"shoppers","due_s":-999999999,"due":5,"ok":9,"late":70,"outcomes":{"canceled":4}}}
{"at_s":999999999,"edge":{"edge":"orders -> payments","calls":2147483647,"latency":"AAAA","faults":{"f":{"fired":5}}}}
{"at_s":3,"fault":{"name":"f","kind":"latency","target":"x","state":"injected","observed":{"ratio":1e308}}}
`))
	h := s.hypotheses()
	h.Objectives = []Objective{{Load: "shoppers", Phase: "during", Clause: clause(f, "ok >= 99%")}, {Load: "shoppers", Phase: "after", Clause: clause(f, "p95 < 100ms"), Recovery: time.Second}}
	h.Invariants = []string{"money"}
	h.Faults = []Fault{{Name: "f", Kind: "latency", Edges: []string{"orders -> payments"}, At: 8 * time.Second, For: time.Second, Asked: map[string]float64{"ratio": 1, "delay_s": 1}}}
	f.Fuzz(func(t *testing.T, in []byte) {
		events, _, err := journal.Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		result := Judge(h, events)
		if _, err := json.Marshal(result); err != nil {
			t.Fatalf("the result cannot be written: %v", err)
		}
		for _, o := range result.Objectives {
			if o.Low != nil && !(*o.Low >= 0 && *o.Low <= *o.Estimate+1e-9 && *o.Estimate <= *o.High+1e-9 && *o.High <= 1) || math.IsNaN(o.EffectiveSamples) {
				t.Fatalf("bounds out of order: %g %g %g", *o.Low, *o.Estimate, *o.High)
			}
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 5))
	s := anyShop(r)
	s.rate, s.viaLoad, s.end = 200, true, 60
	_, events := s.run(r)
	h := s.hypotheses()
	for _, phase := range []string{"before", "during", "after"} {
		for _, c := range []string{"ok >= 99%", "p95 < 100ms"} {
			h.Objectives = append(h.Objectives, Objective{Load: "shoppers", Phase: phase, Clause: clause(b, c)})
		}
	}
	for b.Loop() {
		Judge(h, events)
	}
}

// A stream of sessions is judged on all its steps together, and told step by step;
// windows about sessions hold no requests.
func TestSteps(t *testing.T) {
	latency := func(d time.Duration, n int) string {
		h := hdr.New()
		for range n {
			h.Record(d)
		}
		return h.Encode()
	}
	at := func(w journal.Window) journal.Event {
		w.Load = "shoppers"
		return journal.Event{At: time.Second, Window: &w}
	}
	h := Hypotheses{
		Confidence: 0.95, Phases: []Phase{{Name: "before", End: time.Second}}, Loads: []Load{{Name: "shoppers", Model: "open"}},
		Objectives: []Objective{
			{Load: "shoppers", Phase: "before", Clause: clause(t, "ok >= 10%")},
			{Load: "shoppers", Step: "buy", Phase: "before", Clause: clause(t, "p50 < 10ms")},
			{Load: "shoppers", Step: "look", Phase: "before", Clause: clause(t, "p50 < 10ms")},
			{Load: "shoppers", Step: "pay", Phase: "before", Clause: clause(t, "ok >= 10%")},
		},
	}
	r := Judge(h, []journal.Event{
		{Start: &journal.Start{Version: journal.Version}},
		at(journal.Window{Step: "buy", Due: 10, Sent: 10, OK: 8, Failed: 2, OKLatency: latency(20*time.Millisecond, 8), FailedLatency: latency(30*time.Millisecond, 2), Outcomes: map[string]int{"201": 8, "check": 2}}),
		at(journal.Window{Step: "look", Due: 5, Sent: 5, OK: 5, OKLatency: latency(time.Millisecond, 5), Outcomes: map[string]int{"200": 5}}),
		at(journal.Window{Step: "look", DueS: journal.Secs(100 * time.Millisecond), Due: 3, Sent: 3, OK: 3, OKLatency: latency(time.Millisecond, 3), Outcomes: map[string]int{"200": 3}}),
		at(journal.Window{Step: "login", Setup: true, Due: 40, Sent: 40, Failed: 40, FailedLatency: latency(time.Second, 40), Connects: 1, BytesSent: 9}),
		at(journal.Window{Step: "look", FirstByte: latency(2*time.Millisecond, 3), Connect: latency(3*time.Millisecond, 2), Handshake: latency(4*time.Millisecond, 1), Connects: 2, Resumed: 1, BytesSent: 100, BytesReceived: 1000}),
		at(journal.Window{Sessions: &journal.Sessions{Completed: 7, Failed: 2, Cut: 1, Duration: latency(200*time.Millisecond, 7)}}),
		{At: time.Second, End: &journal.End{Status: "completed"}},
	})
	if o := r.Objectives[0]; o.Samples != 18 {
		t.Errorf("%d samples, want the 18 of all steps", o.Samples)
	}
	for i, want := range []ObjectiveResult{
		1: {ID: "shoppers.buy before p50", Load: "shoppers.buy", Samples: 10, Verdict: Fail},
		2: {ID: "shoppers.look before p50", Load: "shoppers.look", Samples: 8, Verdict: Pass},
		3: {ID: "shoppers.pay before ok", Load: "shoppers.pay", Verdict: Inconclusive, Note: `no data: no session of "shoppers" came to its step "pay" in the whole run`},
	} {
		if o := r.Objectives[i]; i > 0 && (o.ID != want.ID || o.Load != want.Load || o.Samples != want.Samples || o.Verdict != want.Verdict || want.Note != "" && o.Note != want.Note) {
			t.Errorf("objective %d is %+v, want %+v", i, o, want)
		}
	}
	l := r.Load[0]
	if l.Connects != 3 || l.Resumed != 1 || l.BytesSent != 100 || l.BytesReceived != 1000 ||
		l.FirstByte == nil || math.Abs(l.FirstByte.P50S-0.002) > 1e-5 || math.Abs(l.Connect.MaxS-0.003) > 1e-5 || math.Abs(l.Handshake.MaxS-0.004) > 1e-5 {
		t.Errorf("what the connections cost: %+v", l)
	}
	if len(l.Setup) != 1 || l.Setup[0].Name != "login" || l.Setup[0].Failed != 40 {
		t.Errorf("setup %+v", l.Setup)
	}
	if l.Due != 18 || l.OK != 16 || l.Failed != 2 || len(l.Steps) != 2 || l.Sessions == nil {
		t.Fatalf("%+v", l)
	}
	if buy, look := l.Steps[0], l.Steps[1]; buy.Name != "buy" || buy.Due != 10 || buy.Failed != 2 || buy.MaxS < 0.0299 || look.Name != "look" || look.Due != 8 || look.MaxS > 0.0011 {
		t.Errorf("steps %+v", l.Steps)
	}
	if s := *l.Sessions; s.Completed != 7 || s.Failed != 2 || s.Cut != 1 || math.Abs(s.P50S-0.2) > 0.001 {
		t.Errorf("sessions %+v", s)
	}
}

// k6 lets a total outage of 1 s in 30 s pass on `rate<0.05, p(99)<100`: 3.3 % fail,
// and they fail fast. Here it passes wherever in the phase it lies: never.
func TestOutageOfASecondDoesNotPass(t *testing.T) {
	for from := 0; from <= 290; from += 29 {
		drawn := strings.Repeat("#", from) + strings.Repeat("x", 10) + strings.Repeat("#", 290-from)
		p := parsePicture(t, "rate 5\nphase during 30s\nobjective l during ok >= 95%\nobjective l during p99 < 100ms\nload l |"+drawn+"|\n")
		r := Judge(p.h, p.events())
		if o := r.Objectives[0]; o.Estimate == nil || math.Abs(*o.Estimate-29.0/30) > 1e-9 {
			t.Fatalf("this is not the outage that k6 lets pass: %+v", o)
		}
		if r.Verdict == Pass || r.Objectives[0].Verdict == Pass || r.Objectives[1].Verdict == Pass {
			t.Errorf("an outage of 1 s from %.1f s on: %s; ok %s, p99 %s; nothing of it may pass", float64(from)/10, r.Verdict, r.Objectives[0].Verdict, r.Objectives[1].Verdict)
		}
	}
}

func TestClockThatGoesBackIsSaid(t *testing.T) {
	p := parsePicture(t, "rate 5\nphase during 4s\nobjective l during ok >= 50%\nload l |########################################|\n")
	if r := Judge(p.h, p.events()); len(r.Warnings) != 0 {
		t.Errorf("a clock that goes on: %v", r.Warnings)
	}
	events := p.events()
	for i := len(events) / 2; i < len(events)-1; i++ {
		events[i].At -= 1500 * time.Millisecond
	}
	if r := Judge(p.h, events); !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "clock went back by 1.4 s") }) {
		t.Errorf("a clock that went back by 1.5 s: warnings %v", r.Warnings)
	} else if r.Verdict != Inconclusive || r.Void != ClockBroken {
		t.Errorf("a clock that went back by 1.5 s: %s (%s), want inconclusive", r.Verdict, r.Void)
	}
}

// TestRunThatStoodStill: a journal without a line for a time in which requests were
// due is no evidence, whatever was told of that time afterwards; a silence of a
// closed stream, or a shorter one, is nothing.
func TestRunThatStoodStill(t *testing.T) {
	const drawn = "rate 5\nphase before 2s\nphase during 4s\nobjective l during ok >= 50%\nload l |############################################################|\n"
	for name, c := range map[string]struct {
		from, to time.Duration
		model    string
		void     string
	}{
		"stopped for 2 s":        {3 * time.Second, 5 * time.Second, "open", ClockBroken},
		"stopped for 0.8 s":      {3 * time.Second, 3800 * time.Millisecond, "open", ""},
		"users waiting":          {3 * time.Second, 5 * time.Second, "closed", ""},
		"across two phases":      {1500 * time.Millisecond, 3500 * time.Millisecond, "open", ClockBroken},
		"not a second of either": {1200 * time.Millisecond, 2800 * time.Millisecond, "open", ""},
	} {
		p := parsePicture(t, drawn)
		for i := range p.h.Loads {
			p.h.Loads[i].Model = c.model
		}
		events := p.events()
		for i := range events { // told when it went on
			if at := events[i].At; at > c.from && at < c.to {
				events[i].At = c.to
			}
		}
		r := Judge(p.h, events)
		if r.Void != c.void || (c.void != "" && (r.Verdict != Inconclusive || !strings.Contains(strings.Join(r.Reasons, " "), "stood still from"))) {
			t.Errorf("%s: %s, void %q, %q; want void %q", name, r.Verdict, r.Void, r.Reasons, c.void)
		}
	}
}

// TestSuspendedMachine: the journal's mark of it makes the run inconclusive.
func TestSuspendedMachine(t *testing.T) {
	p := parsePicture(t, "rate 5\nphase during 4s\nobjective l during ok >= 50%\nload l |########################################|\n")
	events := p.events()
	mark := journal.Event{At: events[len(events)/2].At, Mark: &journal.Mark{Text: "the machine was suspended for 1m0s", Warning: true, SuspendedS: journal.Secs(time.Minute)}}
	r := Judge(p.h, slices.Insert(events, len(events)/2, mark))
	if r.Verdict != Inconclusive || r.Void != ClockBroken || !slices.Contains(r.Reasons, "The machine was suspended for 60 s in the middle of the run.") {
		t.Errorf("%s (%s): %q", r.Verdict, r.Void, r.Reasons)
	}
}
