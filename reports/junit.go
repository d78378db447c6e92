package reports

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// JUnit writes the run as one test suite for CI systems. Test cases are the
// verdict itself, every objective, every claim on a breaker, every invariant,
// the positive control and the revert of every fault, and the pair with its control.
//
//	pass          the case passes
//	fail          <failure>
//	inconclusive  <error>
//
// Inconclusive is an error and not <skipped>, because CI systems count skipped
// tests as fine, and no pass may come of not knowing. The case "verdict" fails or
// errs whenever the run did, so that a suite is green exactly when the exit code is 0.
func JUnit(w io.Writer, r Report) error {
	res := r.Result
	s := junitSuite{Name: named(res.Scenario, "chaosctl"), Time: plain(res.DurationS)}
	if !res.StartedAt.IsZero() {
		s.Timestamp = res.StartedAt.UTC().Format("2006-01-02T15:04:05")
	}
	property := func(name, value string) {
		if value != "" {
			s.Properties = append(s.Properties, junitProperty{name, printable(value)})
		}
	}
	property("run", res.Run)
	property("scenario", res.Scenario)
	property("variant", res.Variant)
	property("seed", strconv.FormatUint(res.Seed, 10))
	property("status", res.Status)
	property("verdict", word(res.Verdict))
	if res.Control != nil {
		property("control", res.Control.Pair)
	}
	property("journal_head", res.JournalHead)
	if res.AuditHead != "" {
		property("audit_head", res.AuditHead)
	}
	property("chaosctl", res.Environment.Chaosctl)
	property("command", command(r))

	class := func(part string) string { return "chaosctl." + named(res.Scenario, "run") + "." + part }
	add := func(part, name string, v verdict.Verdict, message, detail string) {
		s.add(class(part), name, v, message, detail)
	}

	overall := res.Verdict
	if overall == verdict.Pass && res.Status != "completed" {
		overall = verdict.Inconclusive
	}
	add("run", "verdict", overall, allReasons(r)[0], strings.Join(append(explain(r), allReasons(r)...), "\n"))
	s.Cases[0].Time = plain(res.DurationS)
	for _, o := range res.Objectives {
		message := fmt.Sprintf("%s: %s %s, bounds %s, target %s, n %d", word(o.Verdict), metricOf(o), value(o.Value, o.Unit), bounds(o), chart.Share(o.Target), o.Samples)
		add("objectives", named(o.Load+" "+o.Phase+" "+o.Objective, "objective"), o.Verdict, message, lines(needed(o), o.Note))
	}
	for _, b := range res.Breakers {
		add("breakers", b.Edge, b.Verdict, breakerWords(b), "")
		for _, c := range b.Checks {
			add("breakers", b.Edge+": "+c.Claim, c.Verdict, c.Detail, "")
		}
	}
	for _, i := range res.Invariants {
		add("invariants", i.Name, i.Verdict, i.Detail, values(i.Values))
	}
	for _, x := range res.SLOs {
		property("slo "+named(x.Name, "slo"), x.Objective+": "+sloWords(x))
		for _, a := range x.Alerts {
			property("slo "+named(x.Name, "slo")+", "+alertName(a), alertWords(a, x))
		}
		for _, c := range x.Checks {
			add("slos", x.Name+": "+c.Claim, c.Verdict, c.Detail, sloWords(x))
		}
	}
	for _, f := range res.Faults {
		v, seen := faultVerdict(r, f)
		if v == verdict.Fail {
			v = verdict.Pass // that it is still there is the next case's business
			if !f.ObservedOK {
				v, seen = verdict.Inconclusive, "not observed"
			}
		}
		var proof []string
		pairs, more := positiveControl(f)
		for _, m := range pairs {
			proof = append(proof, fmt.Sprintf("%s: asked %s, observed %s", m.name, m.asked, m.observed))
		}
		add("faults", f.Name+" is observed", v, seen+lead(": ", f.Detail), lines(append(proof, more...)...))
		if words, ok := reverted(f); words != "" {
			v := verdict.Pass
			if !ok {
				v = verdict.Fail
			}
			add("faults", f.Name+" is reverted", v, words, f.Detail)
		}
	}
	if c := res.Control; c != nil {
		add("run", "control", pairVerdict(c.Pair), c.Pair+": "+pairMeaning(c), lines(
			"must fail: "+orNone(c.MustFail), "failed: "+orNone(c.Failed), c.Detail))
	}

	all := junitSuites{Name: "chaosctl", Tests: s.Tests, Failures: s.Failures, Errors: s.Errors, Time: s.Time, Suites: []junitSuite{s}}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("encode JUnit of run %q: %w", res.Run, err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr,omitempty"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

// add is one more case: what does not pass is a failure, or, undecided, an error.
func (s *junitSuite) add(class, name string, v verdict.Verdict, message, detail string) {
	c := junitCase{Class: class, Name: printable(name), Time: "0"}
	text := &junitText{Message: clean(message), Type: word(v), Text: printable(detail)}
	s.Tests++
	switch v {
	case verdict.Pass:
	case verdict.Fail:
		c.Failure = text
		s.Failures++
	default:
		c.Error = text
		s.Errors++
	}
	s.Cases = append(s.Cases, c)
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Time    string     `xml:"time,attr"`
	Failure *junitText `xml:"failure"`
	Error   *junitText `xml:"error"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

// printable keeps line breaks, and takes out what else cannot be shown.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return chart.Printable(r)
	}, s)
}

func named(s, otherwise string) string {
	if s = clean(s); s == "" {
		return otherwise
	}
	return s
}

func plain(seconds float64) string { return strconv.FormatFloat(seconds, 'f', 3, 64) }

// lines joins what is not empty.
func lines(s ...string) string {
	var kept []string
	for _, l := range s {
		if l != "" {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "\n")
}

func lead(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}
