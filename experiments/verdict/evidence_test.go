package verdict

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
		"restarted":              {"restart stock at 2s for 1s", "2s died, 2.2s started, 2.4s ready", true, "restarted 1 instance"},
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
