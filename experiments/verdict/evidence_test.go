package verdict

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
)

// inject draws a run with one fault on one edge; did is what its proxy saw.
func inject(kind, asked, did string) string {
	text := fmt.Sprintf(`
phase before 2s
phase during 10s
phase after 2s
fault f %s orders -> payments at 2s for 10s %s
event 2s fault f injecting
event 2s fault f injected
event 12s fault f reverting
event 12s fault f verified
edge orders -> payments |####################____________________________________________________________________________________________________####################|
`, kind, asked)
	if did != "" {
		text += "did f orders -> payments " + did + "\n"
	}
	return text
}

func TestPositiveControlOnEdges(t *testing.T) {
	for name, c := range map[string]struct {
		kind, asked, did string
		ok               bool
		says             string
	}{
		"as asked":                            {"latency", "ratio=0.5 delay_s=0.8 jitter_s=0.1", "eligible 1000 fired 480 delay 805ms", true, "hit 480 of 1,000, added 805 ms"},
		"share at the edge of chance":         {"error", "ratio=0.5", "eligible 1000 fired 437", true, "hit 437 of 1,000"},
		"share beyond chance":                 {"error", "ratio=0.5", "eligible 1000 fired 420", false, "asked was 50 %"},
		"few calls leave much to chance":      {"error", "ratio=0.5", "eligible 6 fired 1", true, "hit 1 of 6"},
		"all but one of all":                  {"error", "ratio=1", "eligible 2000 fired 1995", true, "hit 1,995"},
		"far from all of all":                 {"error", "ratio=1", "eligible 2000 fired 1900", false, "asked was 100 %"},
		"nothing passed":                      {"error", "ratio=1", "", false, "found no traffic"},
		"nothing was hit":                     {"error", "ratio=0.001", "eligible 100 fired 0", false, "hit none of 100 calls"},
		"delay a fifth too long":              {"latency", "ratio=1 delay_s=0.1", "eligible 100 fired 100 delay 119ms", true, "added 119 ms"},
		"delay a quarter too long":            {"latency", "ratio=1 delay_s=0.1", "eligible 100 fired 100 delay 126ms", false, "asked was 100 ms"},
		"delay too short":                     {"latency", "ratio=1 delay_s=0.1", "eligible 100 fired 100 delay 60ms", false, "no added delay near 100 ms"},
		"two milliseconds on a short delay":   {"latency", "ratio=1 delay_s=0.001", "eligible 100 fired 100 delay 2900us", true, "added 2.9 ms"},
		"three milliseconds on a short delay": {"latency", "ratio=1 delay_s=0.001", "eligible 100 fired 100 delay 4100us", false, "asked was 1 ms"},
		"all callers hung up":                 {"latency", "ratio=1 delay_s=0.8", "eligible 100 fired 100 hungup 100", true, "hung up each time"},
		"half of the callers hung up":         {"latency", "ratio=1 delay_s=0.8 jitter_s=0.3", "eligible 100 fired 100 hungup 50 delay 600ms", true, "50 callers hung up before"},
		"no delay measured and nobody left":   {"latency", "ratio=1 delay_s=0.8", "eligible 100 fired 100", false, "no added delay near 800 ms"},
		"delay longer than the fault":         {"latency", "ratio=1 delay_s=60", "eligible 100 fired 100", true, "over before the delay"},
		"partition that hit":                  {"partition", "", "eligible 3 fired 3", true, "hit 3 calls"},
		"partition without traffic":           {"partition", "", "", false, "found no traffic"},
	} {
		p := parsePicture(t, inject(c.kind, c.asked, c.did))
		got := Judge(p.h, p.events())
		f := got.Faults[0]
		if f.ObservedOK != c.ok || !strings.Contains(f.Detail, c.says) {
			t.Errorf("%s: observed %v (%s), want %v and %q", name, f.ObservedOK, f.Detail, c.ok, c.says)
		}
		if (got.Void == NotObserved) == c.ok {
			t.Errorf("%s: observed is %v, and the run is void for %q", name, c.ok, got.Void)
		}
	}
}

// On UDP edges a loss is a share of the datagrams, and what a closed port turns away
// nobody sees.
func TestPositiveControlOfDatagrams(t *testing.T) {
	for name, c := range map[string]struct {
		kind, asked, did string
		when             When
		ok               bool
		says             string
	}{
		"as many lost as asked":        {"loss", "ratio=0.1 loss_ratio=0.1", "eligible 1000 fired 96 bytes 9600", When{}, true, "hit 96 of 1,000, 9,600 bytes lost"},
		"fewer lost than by chance":    {"loss", "ratio=0.1 loss_ratio=0.1", "eligible 1000 fired 50 bytes 5000", When{}, false, "asked was 10 %"},
		"as few, but in bursts":        {"loss", "ratio=0.1 loss_ratio=0.1 loss_correlation=0.8", "eligible 1000 fired 50 bytes 5000", When{}, true, "hit 50 of 1,000"},
		"hardly any, even for bursts":  {"loss", "ratio=0.5 loss_ratio=0.5 loss_correlation=0.8", "eligible 1000 fired 50 bytes 5000", When{}, false, "asked was 50 %"},
		"sent twice":                   {"duplicate", "ratio=0.1", "eligible 1000 fired 110 bytes 11000", When{}, true, "11,000 bytes sent twice"},
		"changed places with none":     {"reorder", "ratio=0.1", "eligible 1000 fired 110", When{}, false, "but not a byte was out of order"},
		"first 20 of each direction":   {"latency", "ratio=1 delay_s=0.1", "eligible 100 fired 40 delay 100ms", When{First: 20}, true, "hit 40 of 100"},
		"more than that":               {"latency", "ratio=1 delay_s=0.1", "eligible 100 fired 41 delay 100ms", When{First: 20}, false, "left it 40 at most"},
		"a port that a probe is told":  {"refuse", "ratio=1", "eligible 1 fired 1", When{}, true, "a probe found its port closed"},
		"a port that a probe finds":    {"refuse", "ratio=1", "eligible 1 fired 0", When{}, false, "hit none of 1 call"},
		"a partition, nothing came by": {"partition", "", "", When{}, false, "found no traffic"},
	} {
		p := parsePicture(t, inject(c.kind, c.asked, c.did))
		p.h.Faults[0].UDP, p.h.Faults[0].When = true, c.when
		f := Judge(p.h, p.events()).Faults[0]
		if f.ObservedOK != c.ok || !strings.Contains(f.Detail, c.says) {
			t.Errorf("%s: observed %v (%s), want %v and %q", name, f.ObservedOK, f.Detail, c.ok, c.says)
		}
	}
}

// What a fault's conditions left it is what the share is of.
func TestPositiveControlUnderConditions(t *testing.T) {
	for name, c := range map[string]struct {
		when       When
		asked, did string
		ok         bool
		says       string
	}{
		"all of the first 20":             {When{First: 20}, "ratio=1", "eligible 480 fired 20", true, "hit 20 of the 20 that its conditions left of 480"},
		"not all of the first 20":         {When{First: 20}, "ratio=1", "eligible 480 fired 12", false, "hit 12 of the 20 that its conditions left of 480 (60 %), asked was 100 %"},
		"more than the first 20":          {When{First: 20}, "ratio=1", "eligible 480 fired 21", false, "and its conditions left it 20 at most"},
		"half of the first 100":           {When{First: 100}, "ratio=0.5", "eligible 480 fired 55", true, "hit 55 of the 100"},
		"fewer than first came":           {When{First: 100}, "ratio=1", "eligible 30 fired 30", true, "hit 30 of the 30"},
		"every fifth":                     {When{Every: 5}, "ratio=1", "eligible 483 fired 96", true, "hit 96 of the 96"},
		"every call, asked was fifth":     {When{Every: 5}, "ratio=1", "eligible 483 fired 483", false, "left it 96 at most"},
		"every tenth, asked was fifth":    {When{Every: 5}, "ratio=1", "eligible 480 fired 48", false, "asked was 100 %"},
		"every fifth of the first 100":    {When{First: 100, Every: 5}, "ratio=1", "eligible 480 fired 20", true, "hit 20 of the 20"},
		"first 20 of each of two pulses":  {When{First: 20, PulseOn: 3 * time.Second, PulseOff: 3 * time.Second}, "ratio=1", "eligible 480 fired 40", true, "hit 40 of 480"},
		"more than that":                  {When{First: 20, PulseOn: 3 * time.Second, PulseOff: 3 * time.Second}, "ratio=1", "eligible 480 fired 41", false, "left it 40 at most"},
		"all in pulses":                   {When{PulseOn: time.Second, PulseOff: time.Second}, "ratio=1", "eligible 480 fired 480", true, "hit 480 of 480"},
		"hardly any in pulses":            {When{PulseOn: time.Second, PulseOff: time.Second}, "ratio=1", "eligible 480 fired 48", false, "asked was 100 %"},
		"the same connections each time":  {When{PulseOn: time.Second, PulseOff: time.Second}, "ratio=0.5", "eligible 20 fired 20", true, "hit 20 of 20"},
		"half way up the ramp":            {When{Ramp: 10 * time.Second}, "ratio=1", "eligible 1000 fired 495", true, "(with the ramp, worth 49"},
		"no ramp at all":                  {When{Ramp: 10 * time.Second}, "ratio=1", "eligible 1000 fired 1000", false, "asked was 100 %"},
		"a ramp that lags":                {When{Ramp: 10 * time.Second}, "ratio=1", "eligible 1000 fired 300", false, "asked was 100 %"},
		"half of half":                    {When{Ramp: 10 * time.Second}, "ratio=0.5", "eligible 1000 fired 240", true, "hit 240 of 1,000"},
		"some addresses":                  {When{From: "10.0.0.0/8"}, "ratio=1", "eligible 1000 fired 7", true, "hit 7 of 1,000"},
		"no address":                      {When{From: "10.0.0.0/8"}, "ratio=1", "eligible 1000 fired 0", false, "hit none of 1,000 calls"},
		"more than half of any addresses": {When{From: "10.0.0.0/8"}, "ratio=0.5", "eligible 1000 fired 900", false, "asked was 50 %"},
		"all were under way before":       {When{First: 20}, "ratio=1", "eligible 30 fired 0", false, "first and every count those that begin when it is in place"},
	} {
		p := parsePicture(t, inject("error", c.asked, c.did))
		p.h.Faults[0].When = c.when
		got := Judge(p.h, p.events())
		f := got.Faults[0]
		if f.ObservedOK != c.ok || !strings.Contains(f.Detail, c.says) {
			t.Errorf("%s: observed %v (%s), want %v and %q", name, f.ObservedOK, f.Detail, c.ok, c.says)
		}
		if (got.Void == NotObserved) == c.ok {
			t.Errorf("%s: observed is %v, and the run is void for %q", name, c.ok, got.Void)
		}
	}
}

// Calls that were under way when the fault came are not among those that first
// and every count.
func TestUnderWayBefore(t *testing.T) {
	p := parsePicture(t, inject("error", "ratio=1", "eligible 40 fired 20"))
	p.h.Faults[0].When = When{Every: 1, First: 30}
	if f := Judge(p.h, p.events()).Faults[0]; f.ObservedOK {
		t.Errorf("20 of the first 30: %s", f.Detail)
	}
	for _, e := range p.list {
		if e.Edge != nil && e.At == 2*time.Second {
			e.Edge.Answers = nil // ten calls that began in the last 100 ms before
		}
		if e.Edge != nil && e.At == time.Second {
			e.Edge.Answers = nil // and ten that are older
		}
	}
	f := Judge(p.h, p.events()).Faults[0]
	if !f.ObservedOK || f.Observed["ratio"] != 0.8 || f.Detail != "hit 20 of the 20 to 30 that its conditions left of 40" {
		t.Errorf("20 of the 20 to 30 that were left: observed %v, share %v (%s)", f.ObservedOK, f.Observed["ratio"], f.Detail)
	}
}

// A fault on bytes is one only if there were any.
func TestPositiveControlOfBytes(t *testing.T) {
	for kind, did := range map[string]string{"bandwidth": "throttled", "slice": "sliced", "loss": "lost and sent again", "corrupt": "corrupted", "silence": "discarded"} {
		p := parsePicture(t, inject(kind, "ratio=1", "eligible 10 fired 10 bytes 4096"))
		if f := Judge(p.h, p.events()).Faults[0]; !f.ObservedOK || f.Detail != "hit 10 of 10, 4,096 bytes "+did || f.Observed["bytes"] != 4096 {
			t.Errorf("%s: observed %v (%s) %v", kind, f.ObservedOK, f.Detail, f.Observed)
		}
		p = parsePicture(t, inject(kind, "ratio=1", "eligible 10 fired 10"))
		if r := Judge(p.h, p.events()); r.Faults[0].ObservedOK || r.Void != NotObserved || !strings.Contains(r.Faults[0].Detail, "not a byte was "+did) {
			t.Errorf("%s without a byte: %v (%s)", kind, r.Faults[0].ObservedOK, r.Faults[0].Detail)
		}
	}
}

// A reset that is due later finds nothing to reset where calls are short: who was
// drawn for is no evidence of it.
func TestPositiveControlOfLaterResets(t *testing.T) {
	for asked, says := range map[string]string{
		"ratio=1 wait_s=2":        "hit 10 of 10, but none of them was still there after 2 s",
		"ratio=1 after_bytes=500": "hit 10 of 10, but none of them had an answer of more than 500 bytes",
	} {
		p := parsePicture(t, inject("reset", asked, "eligible 10 fired 10"))
		if f := Judge(p.h, p.events()).Faults[0]; f.ObservedOK || !strings.Contains(f.Detail, says) {
			t.Errorf("%s: observed %v (%s)", asked, f.ObservedOK, f.Detail)
		}
		for _, e := range p.list {
			if e.Edge != nil && e.Edge.Faults != nil {
				e.Edge.Answers = map[string]int{"reset": 1}
			}
		}
		if f := Judge(p.h, p.events()).Faults[0]; !f.ObservedOK {
			t.Errorf("%s, and one was reset: %s", asked, f.Detail)
		}
	}
}

// Delays that follow a law are compared with its median, as closely as their
// number allows: 1 s of mean has a median of 693 ms under the exponential one.
func TestPositiveControlOfLaws(t *testing.T) {
	for name, c := range map[string]struct {
		n, gaveUp, hungUp int
		mean              float64 // of the delays that were measured
		ok                bool
		says              string
	}{
		"as asked":                           {500, 0, 0, 1, true, "added 69"},
		"a tenth too long":                   {500, 0, 0, 1.1, true, "asked 693 ms"},
		"half as long again":                 {1000, 0, 0, 1.5, false, "asked was 693 ms"},
		"half as long":                       {500, 0, 0, 0.5, false, "asked was 693 ms"},
		"half as long again, but only three": {3, 0, 0, 1.5, true, "asked 693 ms"},
		"a third of the callers hung up":     {500, 250, 250, 0.9, true, "250 callers hung up before"},
		"all callers hung up":                {0, 100, 100, 1, true, "hung up each time"},
		"nothing was measured":               {0, 100, 0, 1, false, "no added delay around 693 ms"},
		"hardly anything was":                {10, 90, 0, 1, false, "of 90 of them no added delay"},
	} {
		ev := edgeEvidence{eligible: c.n + c.gaveUp, fired: c.n + c.gaveUp, hungUp: c.hungUp}
		for i := range c.n {
			d := time.Duration(-c.mean * math.Log1p(-(float64(i)+0.5)/float64(c.n)) * float64(time.Second))
			ev.delay = append(ev.delay, bucket{d, d, 1})
		}
		f := Fault{Kind: "latency", Edges: []string{"a -> b"}, Asked: map[string]float64{"ratio": 1, "delay_s": 1, "delay_median_s": math.Ln2}}
		observed := map[string]float64{}
		if ok, detail := ev.compare(f, observed); ok != c.ok || !strings.Contains(detail, c.says) {
			t.Errorf("%s: %v (%s) %v, want %v and %q", name, ok, detail, observed, c.ok, c.says)
		}
		if c.n > 100 && math.Abs(observed["delay_s"]-c.mean) > 0.02 {
			t.Errorf("%s: measured a mean of %g s", name, observed["delay_s"])
		}
	}
}

// A partition is also seen by calls that nobody answers, and not where they are answered.
func TestPartitionBySilence(t *testing.T) {
	p := parsePicture(t, inject("partition", "", ""))
	for i, e := range p.list {
		if e.Edge != nil && e.At < 2*time.Second {
			moved := *e.Edge
			moved.Answers = nil
			e.At += 5 * time.Second
			e.Edge = &moved
			p.list = append(p.list, e)
			_ = i
		}
	}
	if f := Judge(p.h, p.events()).Faults[0]; !f.ObservedOK || !strings.Contains(f.Detail, "was answered") {
		t.Errorf("calls without an answer: observed %v (%s)", f.ObservedOK, f.Detail)
	}
	for _, e := range p.list {
		if e.Edge != nil && e.Edge.Answers == nil {
			e.Edge.Answers = map[string]int{"200": e.Edge.Calls}
		}
	}
	if f := Judge(p.h, p.events()).Faults[0]; f.ObservedOK || !strings.Contains(f.Detail, "were answered across") {
		t.Errorf("answered calls: observed %v (%s)", f.ObservedOK, f.Detail)
	}
}

func TestPositiveControlOfProcesses(t *testing.T) {
	for name, c := range map[string]struct {
		fault, events string
		ok            bool
		says          string
	}{
		"killed and back":        {"kill stock at 2s for 2s down_s=2", "2s died, 4.1s started, 4.3s ready", true, "back after 2.1 s (ready after 2.3 s)"},
		"only readiness is told": {"kill stock at 2s for 2s down_s=2", "2s died, 5.9s ready", true, "back after 3.9 s"},
		"back at once":           {"kill stock at 2s for 2s down_s=2", "2s died, 2.3s started", false, "gone for 300 ms, asked was 2 s"},
		"back much too late":     {"kill stock at 2s for 2s down_s=2", "2s died, 7s started", false, "gone for 5 s"},
		"never back":             {"kill stock at 2s for 2s down_s=2", "2s died", false, "not seen to come back"},
		"never gone":             {"kill stock at 2s for 2s down_s=2", "", false, "no instance of \"stock\" was seen to go"},
		"one of two":             {"kill stock at 2s for 2s down_s=2 instances=2", "2s died, 4s started", false, "1 of 2 instances"},
		"died before the fault":  {"kill stock at 2s for 2s down_s=2", "1s died, 1.5s started", false, "was seen to go"},
		"restarted":              {"restart stock at 2s for 1s", "2s stopped, 2.2s restarted, 2.4s ready", true, "restarted 1 instance"},
		"paused":                 {"pause stock at 2s for 3s", "2s paused, 5s resumed", true, "stopped 1 instance, back after 3 s"},
		"paused too shortly":     {"pause stock at 2s for 3s", "2s paused, 3s resumed", false, "asked was 3 s"},
	} {
		text := "phase before 2s\nphase during 10s\nfault f " + c.fault + "\nevent 2s fault f injecting\nevent 2s fault f injected\nevent 9s fault f verified\n"
		for _, e := range strings.Split(c.events, ", ") {
			if at, state, ok := strings.Cut(e, " "); ok {
				text += fmt.Sprintf("event %s service stock %s expected\n", at, state)
			}
		}
		p := parsePicture(t, text)
		if f := Judge(p.h, p.events()).Faults[0]; f.ObservedOK != c.ok || !strings.Contains(f.Detail, c.says) {
			t.Errorf("%s: observed %v (%s), want %v and %q", name, f.ObservedOK, f.Detail, c.ok, c.says)
		}
	}
}

// Another fault on the same service, at the same time, changes nothing about the
// evidence: neither one that no process goes by, nor one that hits another instance.
func TestPositiveControlBesideAnotherFault(t *testing.T) {
	secs := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	state := func(at float64, name, state string, pids ...float64) journal.Event {
		observed := map[string]float64{}
		for i, pid := range pids {
			observed[fmt.Sprintf("pid_before_%d", i)] = pid
		}
		return journal.Event{At: secs(at), Fault: &journal.Fault{Name: name, State: state, Target: "stock", Observed: observed}}
	}
	service := func(at float64, instance, pid int, state string) journal.Event {
		return journal.Event{At: secs(at), Service: &journal.Service{Name: "stock", Instance: instance, PID: pid, State: state, Expected: state == "died" || state == "stopped"}}
	}
	for name, c := range map[string]struct {
		faults []Fault
		events []journal.Event
		says   []string
	}{
		"a disk fills up meanwhile": {
			[]Fault{{Name: "die", Kind: "kill", Target: "stock", At: secs(2), For: secs(1), Asked: map[string]float64{"down_s": 1}}},
			[]journal.Event{
				state(2, "die", "injecting"), service(2.01, 0, 10, "died"), state(2.02, "full", "injecting"), state(2.03, "die", "injected", 10),
				state(2.04, "full", "injected"), service(3.1, 0, 20, "restarted"), service(3.2, 0, 20, "ready"),
			},
			[]string{"killed 1 instance, back after 1.1 s"},
		},
		"a disk had begun to": {
			[]Fault{{Name: "die", Kind: "kill", Target: "stock", At: secs(2), For: secs(1), Asked: map[string]float64{"down_s": 1}}},
			[]journal.Event{
				state(2, "die", "injecting"), state(2.001, "full", "injecting"), service(2.01, 0, 10, "died"), state(2.03, "die", "injected", 10),
				service(3.1, 0, 20, "restarted"), service(3.2, 0, 20, "ready"),
			},
			[]string{"killed 1 instance, back after 1.1 s"},
		},
		"two kills, each of another instance": {
			[]Fault{
				{Name: "die", Kind: "kill", Target: "stock", At: secs(2), For: secs(1), Asked: map[string]float64{"down_s": 1, "instances": 1}},
				{Name: "long", Kind: "kill", Target: "stock", At: secs(2), For: secs(4), Asked: map[string]float64{"down_s": 4, "instances": 1}},
			},
			[]journal.Event{
				state(2, "die", "injecting"), state(2, "long", "injecting"), service(2.01, 1, 11, "died"), service(2.02, 0, 10, "died"),
				state(2.03, "die", "injected", 10), state(2.04, "long", "injected", 11),
				service(3.02, 0, 20, "restarted"), service(3.1, 0, 20, "ready"), service(6.01, 1, 21, "restarted"), service(6.1, 1, 21, "ready"),
			},
			[]string{"killed 1 instance, back after 1 s", "killed 1 instance, back after 4 s"},
		},
		"two kills of the same one, in turn": {
			[]Fault{
				{Name: "die", Kind: "kill", Target: "stock", At: secs(2), For: secs(1), Asked: map[string]float64{"down_s": 1, "instances": 1}},
				{Name: "again", Kind: "kill", Target: "stock", At: secs(5), For: secs(2), Asked: map[string]float64{"down_s": 2, "instances": 1}},
			},
			[]journal.Event{
				state(2, "die", "injecting"), service(2.01, 0, 10, "died"), state(2.02, "die", "injected", 10), service(3.01, 0, 20, "ready"),
				state(5, "again", "injecting"), service(5.01, 0, 20, "died"), state(5.02, "again", "injected", 20), service(7.01, 0, 30, "ready"),
			},
			[]string{"killed 1 instance, back after 1 s", "killed 1 instance, back after 2 s"},
		},
		"instances that the end of the run stops": {
			[]Fault{{Name: "anew", Kind: "restart", Target: "stock", At: secs(2), Asked: map[string]float64{"instances": 1}}},
			[]journal.Event{
				state(2, "anew", "injecting"), service(2.1, 0, 10, "stopped"), state(2.2, "anew", "injected", 10), service(2.3, 0, 20, "restarted"),
				service(2.4, 0, 20, "ready"), service(14, 0, 20, "stopped"), service(14, 1, 11, "stopped"),
			},
			[]string{"restarted 1 instance, back after 200 ms"},
		},
	} {
		p := parsePicture(t, "phase before 2s\nphase during 10s\nphase after 2s\n")
		p.h.Faults = c.faults
		p.list = append(p.list, c.events...)
		for i, f := range Judge(p.h, p.events()).Faults {
			if !f.ObservedOK || !strings.HasPrefix(f.Detail, c.says[i]) || f.Fired != 1 {
				t.Errorf("%s: %s observed %v, fired %d (%s), want 1 and %q", name, f.Name, f.ObservedOK, f.Fired, f.Detail, c.says[i])
			}
		}
	}
}
