package loadgen

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

func writeTrace(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trace")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const accessLog = `h - - [10/Oct/2026:13:55:36 +0000] "GET /a HTTP/1.1" 200 1
h - - [10/Oct/2026:13:55:36 +0000] "\x16\x03" 400 0
h - - [10/Oct/2026:13:55:37 +0000] "PUT /{{b}} HTTP/1.1" 200 1
h - - [10/Oct/2026:13:55:37 +0000] "CONNECT h:1 HTTP/1.1" 400 0
h - - [10/Oct/2026:13:55:38 +0000] "GET /a HTTP/1.1" 200 1
`

// asked is what the first n requests of a stream are.
func asked(s Spec, n int) (all []string) {
	st := compile(s, 1, func(path, format string, args ...any) { panic(path + format) })
	for seq := range uint64(n) {
		method, path := st.describe(seq)
		all = append(all, method+" "+path)
	}
	return all
}

func dueTimes(s Spec) (all []time.Duration) {
	process, _ := s.Arrivals(1)
	schedule := arrival.On(process)
	for due, ok := schedule.Next(); ok; due, ok = schedule.Next() {
		all = append(all, due)
	}
	return all
}

// A log brings times and requests, as far as they can be sent; nothing in it is a
// template. A stream with requests of its own takes the times of all its lines.
func TestReplayOfALog(t *testing.T) {
	s := Spec{Name: "s", To: "h", Replay: &Replay{File: writeTrace(t, accessLog), Speed: ptr(2.0)}, Headers: map[string]string{"X": "1"}}
	if found := problems(s); len(found) > 0 {
		t.Fatal(found)
	}
	if got, want := asked(s, 3), []string{"GET /a", "PUT /{{b}}", "GET /a"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	if got, want := dueTimes(s), []time.Duration{125 * time.Millisecond, 625 * time.Millisecond, 1250 * time.Millisecond}; !slices.Equal(got, want) {
		t.Errorf("due at %v, want %v", got, want)
	}
	if d := s.Describe(); d != "the 3 requests of "+s.Replay.File+" (2 lines without a request that can be sent are left out), at speed 2" {
		t.Error(d)
	}
	s.Request = &Request{Method: "GET", Path: "/own"}
	if got := asked(s, 5); got[0] != "GET /own" || len(dueTimes(s)) != 5 {
		t.Errorf("with a request of its own: %q at %v", got, dueTimes(s))
	}
}

func TestReplayRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":        "replay.file: the trace cannot be used: FILE: there is no moment in it",
		"2\n1\n":  "replay.file: the trace cannot be used: FILE: line 2: its time is 1s before that of the line above; sort the file by time",
		"1\n2\n":  ": what is asked is missing: FILE holds only times",
		"h [x]\n": "replay.file: the trace cannot be used: FILE: line 1:",
		`h - - [10/Oct/2026:13:55:36 +0000] "OPTIONS * HTTP/1.1" 200 1` + "\n": "replay.file: no line of FILE holds a request that can be sent again",
	} {
		file := writeTrace(t, text)
		found := problems(Spec{To: "h", Replay: &Replay{File: file}})
		got := ""
		for path, message := range found {
			got += path + ": " + strings.ReplaceAll(message, file, "FILE")
		}
		if !strings.HasPrefix(got, want) || len(found) != 1 {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	found := problems(Spec{To: "h", Request: &Request{Method: "GET", Path: "/"}, Replay: &Replay{File: writeTrace(t, "1\n"), Speed: ptr(0.0)}, Spacing: arrival.PoissonSpacing})
	if len(found) != 2 || found["replay.speed"] == "" || !strings.Contains(found["arrivals"], "times of its own") {
		t.Errorf("%v", found)
	}
}

// Requests of a list come in turn, whatever the seed; Poisson arrivals depend on
// seed and name.
func TestListedAndSeeded(t *testing.T) {
	s := Spec{Name: "s", To: "h", Order: Listed, Rate: perSecond(10), Requests: []Request{{Method: "GET", Path: "/1"}, {Method: "GET", Path: "/2"}, {Method: "GET", Path: "/3"}}}
	if got := strings.Join(asked(s, 7), " "); got != "GET /1 GET /2 GET /3 GET /1 GET /2 GET /3 GET /1" {
		t.Errorf("asked %s", got)
	}
	first := func(s Spec, seed uint64) time.Duration {
		process, _ := s.Arrivals(seed)
		due, _ := arrival.On(process).Next()
		return due
	}
	if first(s, 1) != 50*time.Millisecond || first(s, 2) != 50*time.Millisecond {
		t.Error("even arrivals depend on the seed")
	}
	s.Spacing = arrival.PoissonSpacing
	other := s
	other.Name = "other"
	once, again := first(s, 1), first(s, 1)
	if once != again || once == first(s, 2) || once == first(other, 1) {
		t.Error("Poisson arrivals are not a function of seed and name")
	}
}
