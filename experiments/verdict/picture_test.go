package verdict

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// TestPictures judges the runs drawn in testdata/*.txt. Each file draws a run,
// one character per 100 ms, and below the line ---- stands what Judge says about it.
//
//	rate N                          requests per 100 ms of every stream and edge below
//	phase NAME DURATION             in order
//	objective LOAD PHASE CLAUSE [settle D] [recovery D]
//	breaker EDGE caller EDGE [opens D] [closes D] [flaps N] [open CLAUSE] fault FROM TO
//	invariant NAME
//	fault NAME KIND TARGET at D for D [key=value asked …]
//	status STATUS                   default completed
//	sham
//	load NAME |…|                   # all good   x all failed   s all slow (1 s)
//	                                1-9 so many tenths failed   ? due, never heard of   l all late   . nothing due
//	edge NAME |…|                   # N calls   _ none   1-9 so many calls; answered in 30 ms
//	                                f N calls, answered in 2 ms   s in 1 s
//	did FAULT EDGE eligible N fired N [delay D] [hungup N] [bytes N]
//	event AT fault NAME STATE | event AT service NAME STATE | event AT probe NAME ok|broken DETAIL | event AT breaker EDGE STATE
func TestPictures(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pictures in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			drawn, want, _ := strings.Cut(string(text), "\n----\n")
			p := parsePicture(t, drawn)
			result := Judge(p.h, p.events())
			got := describe(result)
			if *update {
				if err := os.WriteFile(file, []byte(drawn+"\n----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got), -update if it is right:\n%s", file, diff)
			}
			if diff := cmp.Diff(result, Judge(p.h, p.events())); diff != "" {
				t.Errorf("judged twice, said differently:\n%s", diff)
			}
		})
	}
}

// describe is a Result in a few lines.
func describe(r Result) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	number := func(p *float64) string {
		if p == nil {
			return "-"
		}
		return strconv.FormatFloat(*p, 'g', 4, 64)
	}
	line("%s %s%s", r.Status, r.Verdict, suffix(r.Void))
	for _, o := range r.Objectives {
		line("%s: %s %s: value %s, share %s in [%s, %s] of %d (worth %g), needs %d (%g s)", o.ID, o.Objective, o.Verdict,
			number(o.Value), number(o.Estimate), number(o.Low), number(o.High), o.Samples, o.EffectiveSamples, o.NeededSamples, o.NeededS)
	}
	for _, k := range r.Breakers {
		line("%s: %s, opened at %s, closed at %s, flaps %d, probes %d, %s calls/s while open", k.Edge, k.Verdict, number(k.OpenedAtS), number(k.ClosedAtS), k.Flaps, k.Probes, number(k.UpstreamPerS))
		for _, s := range k.Spans {
			line("  %4.1f-%4.1f %s", s.FromS, s.ToS, s.State)
		}
		for _, c := range k.Checks {
			line("  %s: %s (%s)", c.Verdict, c.Claim, c.Detail)
		}
	}
	for _, i := range r.Invariants {
		line("invariant %s: %s (%s)", i.Name, i.Verdict, i.Detail)
	}
	for _, f := range r.Faults {
		line("fault %s: observed %v, fired %d, in %s out %s, verified %v (%s)", f.Name, f.ObservedOK, f.Fired, number(f.InjectedAtS), number(f.RevertedAtS), f.VerifiedReverted, f.Detail)
	}
	for _, x := range r.Recovery {
		line("recovery %s: %s s, at least %s s, at most %s s, allowed %g s (%s)", x.Load, number(x.MeasuredS), number(x.AtLeastS), number(x.AtMostS), x.AllowedS, x.Detail)
	}
	for _, s := range r.Reasons {
		line("- %s", s)
	}
	for _, s := range r.Warnings {
		line("! %s", s)
	}
	return b.String()
}

// picture is a drawn run.
type picture struct {
	t      *testing.T
	h      Hypotheses
	rate   int
	status string
	list   []journal.Event
}

// events are the drawn events in the order of a journal.
func (p *picture) events() []journal.Event {
	end := time.Duration(0)
	for _, ph := range p.h.Phases {
		end = max(end, ph.End)
	}
	list := slices.Clone(p.list)
	slices.SortStableFunc(list, func(a, b journal.Event) int { return int(a.At - b.At) })
	all := append([]journal.Event{{Start: &journal.Start{Version: 1, Run: "r", Scenario: "drawn", Seed: 1}}}, list...)
	if p.status != "none" {
		last := end + time.Second
		if p.status != "completed" {
			last = all[len(all)-1].At + step
		}
		all = append(all, journal.Event{At: last, End: &journal.End{Status: p.status}})
	}
	return all
}

func parsePicture(t *testing.T, text string) *picture {
	p := &picture{t: t, rate: 10, status: "completed", h: Hypotheses{Confidence: 0.95}}
	for n, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		if err := p.line(line); err != nil {
			t.Fatalf("line %d: %q: %v", n+1, line, err)
		}
	}
	return p
}

func (p *picture) line(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	fields := strings.Fields(rest)
	option := func(name string) time.Duration {
		if i := slices.Index(fields, name); i >= 0 {
			return p.duration(fields[i+1])
		}
		return 0
	}
	// until is the text from the field named up to the next option.
	until := func(from string, stops ...string) string {
		i := slices.Index(fields, from) + 1
		j := i
		for j < len(fields) && !slices.Contains(stops, fields[j]) {
			j++
		}
		return strings.Join(fields[i:j], " ")
	}
	switch word {
	case "rate":
		p.rate = p.int(fields[0])
	case "status":
		p.status = fields[0]
	case "sham":
		p.h.Sham = true
	case "phase":
		var at time.Duration
		if n := len(p.h.Phases); n > 0 {
			at = p.h.Phases[n-1].End
		}
		p.h.Phases = append(p.h.Phases, Phase{fields[0], at, at + p.duration(fields[1])})
	case "objective":
		c, err := expect.Parse(until(fields[1], "settle", "recovery"))
		if err != nil {
			return err
		}
		p.h.Objectives = append(p.h.Objectives, Objective{Load: fields[0], Phase: fields[1], Clause: c, Settle: option("settle"), Recovery: option("recovery")})
	case "breaker":
		b := Breaker{Edge: strings.Join(fields[:3], " "), CallerEdges: []string{strings.Join(fields[4:7], " ")}, Opens: option("opens"), Closes: option("closes"), FaultFrom: option("fault")}
		b.FaultTo = p.duration(fields[slices.Index(fields, "fault")+2])
		if i := slices.Index(fields, "flaps"); i >= 0 {
			b.Flaps = ptr(p.int(fields[i+1]))
		}
		for i, f := range fields {
			if f == "open" {
				c, err := expect.Parse(strings.Join(fields[i+1:i+4], " "))
				if err != nil {
					return err
				}
				b.Open = append(b.Open, c)
			}
		}
		p.h.Breakers = append(p.h.Breakers, b)
	case "invariant":
		p.h.Invariants = append(p.h.Invariants, fields[0])
	case "fault":
		f := Fault{Name: fields[0], Kind: fields[1], Target: until(fields[1], "at"), At: option("at"), For: option("for"), Asked: map[string]float64{}}
		for _, field := range fields {
			if k, v, ok := strings.Cut(field, "="); ok {
				f.Asked[k] = p.float(v)
			}
		}
		if strings.Contains(f.Target, "->") {
			f.Edges = []string{f.Target}
		}
		p.h.Faults = append(p.h.Faults, f)
	case "load":
		p.load(fields[0], bars(rest))
	case "edge":
		name, _, _ := strings.Cut(rest, "|")
		p.edge(strings.TrimSpace(name), bars(rest))
	case "did":
		p.did(fields)
	case "event":
		return p.event(p.duration(fields[0]), fields[1:])
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

// bars is what stands between |…|, blanks left out.
func bars(s string) string {
	s = s[strings.Index(s, "|")+1 : strings.LastIndex(s, "|")]
	return strings.ReplaceAll(s, " ", "")
}

func latencies(d time.Duration, n int) string {
	h := hdr.New()
	h.RecordN(d, int64(n))
	return h.Encode()
}

func (p *picture) load(name, drawn string) {
	if !slices.ContainsFunc(p.h.Loads, func(l Load) bool { return l.Name == name }) {
		p.h.Loads = append(p.h.Loads, Load{Name: name, Model: "open", Timeout: 5 * time.Second})
	}
	for k, c := range drawn {
		w := journal.Window{Load: name, DueS: journal.Secs(time.Duration(k) * step), Due: p.rate, Sent: p.rate, Outcomes: map[string]int{}}
		took := 20 * time.Millisecond
		switch {
		case c == '#':
			w.OK = p.rate
		case c == 's':
			w.OK, took = p.rate, time.Second
		case c == 'l':
			w.OK, w.Late = p.rate, p.rate
		case c == 'x':
			w.Failed = p.rate
		case c == '?':
		case c >= '1' && c <= '9':
			w.Failed = int(math.Round(float64(p.rate) * float64(c-'0') / 10))
			w.OK = p.rate - w.Failed
		case c == '.':
			continue
		default:
			p.t.Fatalf("load %s: %q draws nothing", name, c)
		}
		if w.OK > 0 {
			w.OKLatency, w.Outcomes["200"] = latencies(took, w.OK), w.OK
		}
		if w.Failed > 0 {
			w.FailedLatency, w.Outcomes["503"] = latencies(5*time.Millisecond, w.Failed), w.Failed
		}
		p.list = append(p.list, journal.Event{At: time.Duration(k+1)*step + took, Window: &w})
	}
}

func (p *picture) edge(name, drawn string) {
	for k, c := range drawn {
		calls, took := p.rate, 30*time.Millisecond
		switch {
		case c == '_':
			continue // a proxy that saw nothing says nothing
		case c == '#':
		case c == 'f':
			took = 2 * time.Millisecond
		case c == 's':
			took = time.Second
		case c >= '1' && c <= '9':
			calls = int(c - '0')
		default:
			p.t.Fatalf("edge %s: %q draws nothing", name, c)
		}
		p.list = append(p.list, journal.Event{At: time.Duration(k+1) * step, Edge: &journal.Edge{
			Edge: name, Calls: calls, Upstream: calls, Answers: map[string]int{"200": calls}, Latency: latencies(took, calls),
		}})
	}
}

// did: what one fault did on one edge, all of it told in one line while it was there.
func (p *picture) did(fields []string) {
	i := slices.Index(fields, "eligible")
	name, edge := fields[0], strings.Join(fields[1:i], " ")
	did := journal.EdgeFault{Eligible: p.int(fields[i+1]), Fired: p.int(fields[i+3])}
	e := &journal.Edge{Edge: edge, Answers: map[string]int{}}
	hung := 0
	if j := slices.Index(fields, "hungup"); j >= 0 {
		hung = p.int(fields[j+1])
		e.Answers["canceled"] = hung
	}
	if j := slices.Index(fields, "delay"); j >= 0 && did.Fired > hung {
		did.Delay = latencies(p.duration(fields[j+1]), did.Fired-hung)
	}
	if j := slices.Index(fields, "bytes"); j >= 0 {
		did.Bytes = int64(p.int(fields[j+1]))
	}
	e.Faults = map[string]journal.EdgeFault{name: did}
	f := p.h.Faults[slices.IndexFunc(p.h.Faults, func(f Fault) bool { return f.Name == name })]
	p.list = append(p.list, journal.Event{At: f.At + f.For/2, Edge: e})
}

func (p *picture) event(at time.Duration, f []string) error {
	e := journal.Event{At: at}
	switch f[0] {
	case "fault":
		e.Fault = &journal.Fault{Name: f[1], State: f[2]}
		if i := slices.IndexFunc(p.h.Faults, func(x Fault) bool { return x.Name == f[1] }); i >= 0 {
			e.Fault.Kind, e.Fault.Target = p.h.Faults[i].Kind, p.h.Faults[i].Target
		}
		if len(f) > 3 {
			e.Fault.Error = strings.Join(f[3:], " ")
		}
	case "service":
		e.Service = &journal.Service{Name: f[1], State: f[2], Expected: len(f) > 3 && f[3] == "expected"}
	case "probe":
		e.Probe = &journal.Probe{Name: f[1], Kind: "invariant", OK: f[2] == "ok", Detail: strings.Join(f[3:], " ")}
	case "breaker":
		e.Breaker = &journal.Breaker{Edge: strings.Join(f[1:4], " "), State: f[4]}
	case "abort":
		e.Abort = &journal.Abort{Reason: strings.Join(f[1:], " ")}
	default:
		return fmt.Errorf("unknown event %q", f[0])
	}
	p.list = append(p.list, e)
	return nil
}

func (p *picture) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *picture) int(s string) int { return int(p.float(s)) }

func (p *picture) float(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}
