package arrival

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseTrace(t *testing.T) {
	ms := func(all ...int) (due []time.Duration) {
		for _, n := range all {
			due = append(due, time.Duration(n)*time.Millisecond)
		}
		return due
	}
	const log = `1.2.3.4 - - [10/Oct/2026:13:55:36 -0700] "GET /a?b=1 HTTP/1.1" 200 12` + "\n" +
		`1.2.3.4 - x [10/Oct/2026:20:55:36 +0000] "" 400 0 "-" "agent [x]"` + "\n" +
		`1.2.3.4 - - [10/Oct/2026:13:55:38 -0700] "GET /a?b=1 HTTP/1.1" 200 12` + "\n"
	for name, c := range map[string]struct {
		src      string
		want     []time.Duration
		requests string
	}{
		"seconds":       {"# when\n1.5\n\n1.5\n2\n4.25\n", ms(0, 0, 500, 2750), ""},
		"epoch seconds": {"1700000000.000000001\n1700000000.100000001\n", ms(0, 100), ""},
		"RFC 3339":      {"2026-11-20T10:00:00.5Z\n2026-11-20T11:00:01+01:00\n", ms(0, 500), ""},
		"access log":    {log, ms(250, 750, 2500), "GET /a?b=1 HTTP/1.1|-|GET /a?b=1 HTTP/1.1"},
	} {
		trace, err := ParseTrace(strings.NewReader(c.src))
		if err != nil || !slices.Equal(trace.due, c.want) || strings.Join(trace.requests, "|") != c.requests {
			t.Errorf("%s: %v %q, %v; want %v %q", name, trace.due, trace.requests, err, c.want, c.requests)
		}
	}
	for src, want := range map[string]string{
		"":                               "there is no moment",
		"# nothing\n":                    "there is no moment",
		"soon\n":                         `line 1: "soon" is no moment`,
		"-1\n":                           `line 1: "-1" is no moment`,
		"1e3\n":                          "line 1:",
		"1.-5\n":                         "line 1:",
		"1\n\n2026-11-20T10:00:00Z\n":    `line 3: "2026-11-20T10:00:00Z" is not a number of seconds`,
		"5\n# x\n4.5\n":                  "line 3: its time is 500ms before that of the line above; sort the file by time",
		"1\n1700000000\n":                "line 2: more than a year after the first",
		log + "garbage\n":                "line 4: \"garbage\" is not a line of an access log",
		"1\n" + strings.Repeat("x", 2e6): "line 2: longer than 1 MiB",
	} {
		if _, err := ParseTrace(strings.NewReader(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", src, err, want)
		}
	}
}

// A trace that is written down comes again, at any speed, in as many parts as one likes.
func TestTraceReplays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gaps := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 50).Draw(t, "gaps")
		speed := rapid.SampledFrom([]float64{0.5, 1, 2, 10}).Draw(t, "speed")
		of := rapid.IntRange(1, 4).Draw(t, "of")
		var text strings.Builder
		var want []time.Duration
		at := rapid.Int64Range(0, 1e18).Draw(t, "start")
		start := at
		for _, g := range gaps {
			fmt.Fprintf(&text, "%d.%09d\n", at/1e9, at%1e9)
			want = append(want, time.Duration(at-start))
			at += g
		}
		trace, err := ParseTrace(strings.NewReader(text.String()))
		if err != nil {
			t.Fatal(err)
		}
		trace = trace.At(speed)
		var parts []*Schedule
		for i := range of {
			parts = append(parts, Split(trace, i, of))
		}
		for k, due := range want {
			got, ok := parts[k%of].Next()
			if d := got - time.Duration(float64(due)/speed); !ok || d.Abs() > time.Microsecond {
				t.Fatalf("request %d is due at %v (%t), was at %v, speed %v", k, got, ok, due, speed)
			}
			if n := trace.Expected(got + 1); n < float64(k+1) {
				t.Fatalf("request %d is due at %v, but only %v are expected by then", k, got, n)
			}
		}
		for i, p := range parts {
			if due, ok := p.Next(); ok {
				t.Fatalf("part %d has one more request, at %v", i, due)
			}
		}
	})
}

func TestTraceWhere(t *testing.T) {
	trace := Trace{due: []time.Duration{1, 2, 3}, requests: []string{"a", "b", "a"}}
	kept := trace.Where(func(r string) bool { return r == "a" })
	if !slices.Equal(kept.due, []time.Duration{1, 3}) || kept.Len() != 2 || kept.Request(1) != "a" {
		t.Errorf("kept %+v", kept)
	}
}

// Any file is a trace or an error, never a panic; a trace is sorted and not empty.
func FuzzParseTrace(f *testing.F) {
	for _, seed := range []string{
		"1\n2\n", "2026-11-20T10:00:00Z\n", `h - - [10/Oct/2026:13:55:36 -0700] "GET / HTTP/1.1" 200 1`, "1.999999999999999999\n", "# x\n\n", "18446744073709551615\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, src string) {
		trace, err := ParseTrace(io.LimitReader(strings.NewReader(src), 1<<16))
		if err != nil {
			return
		}
		if trace.Len() == 0 || !slices.IsSorted(trace.due) || trace.due[0] < 0 {
			t.Fatalf("%v", trace.due)
		}
		if trace.requests != nil && len(trace.requests) != len(trace.due) {
			t.Fatalf("%d moments, %d requests", len(trace.due), len(trace.requests))
		}
	})
}
