package reports

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/chaosctl/chaosctl/experiments/verdict"
)

var update = flag.Bool("update", false, "write the files under testdata anew")

// runs are all reports that the tests look at.
var runs = map[string]func() Report{
	"failing": failing, "passing": passing, "aborted": aborted, "minimal": minimal, "empty": empty, "hostile": hostile, "paired": paired,
}

var writers = map[string]func(io.Writer, Report) error{
	"txt":  func(w io.Writer, r Report) error { return Text(w, r, TextOptions{Folder: "runs/1"}) },
	"html": HTML, "md": Markdown, "xml": JUnit, "json": JSON,
}

// render is what a writer makes of a run.
func render(t *testing.T, write func(io.Writer, Report) error, r Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// each runs a test for every run.
func each(t *testing.T, do func(t *testing.T, r Report)) {
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		if name == "passing" {
			continue // has the journal of failing, and the end of paired
		}
		t.Run(name, func(t *testing.T) { do(t, runs[name]()) })
	}
}

// The page of `failing` is not kept: its pictures are tested one by one in
// package chart, and the page of `aborted` has the same parts in a quarter of the bytes.
func TestGolden(t *testing.T) {
	for _, name := range []string{
		"failing.txt", "failing.md", "failing.xml", "failing.json",
		"passing.txt", "passing.md", "passing.xml",
		"aborted.txt", "aborted.html", "aborted.md", "aborted.xml",
		"minimal.txt", "minimal.html", "minimal.md", "minimal.xml", "minimal.json",
		"empty.txt", "empty.md", "empty.xml", "empty.json",
	} {
		t.Run(name, func(t *testing.T) {
			run, kind, _ := strings.Cut(name, ".")
			golden(t, name, render(t, writers[kind], runs[run]()))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what is written now (go test ./reports -update, when it should change):\n%s", path, diff)
	}
}

func TestWritersAreFunctionsOfTheReport(t *testing.T) {
	each(t, func(t *testing.T, r Report) {
		before := render(t, JSON, r)
		for kind, write := range writers {
			if a, b := render(t, write, r), render(t, write, r); a != b {
				t.Errorf("%s differs between two renderings of one report", kind)
			}
		}
		if render(t, JSON, r) != before {
			t.Error("a writer changed the report")
		}
	})
}

func TestVerdictComesFirst(t *testing.T) {
	for _, c := range []struct {
		run  func() Report
		want string
	}{
		{failing, "✗ FAIL  shoppers during p95 < 700ms"},
		{passing, "✓ PASS  6 of 6 claims hold, at 95% confidence"},
		{aborted, "? INCONCLUSIVE  no steady state"},
		{empty, "? INCONCLUSIVE  nothing was claimed"},
		{hostile, "? INCONCLUSIVE  </script>"},
	} {
		if got := render(t, writers["txt"], c.run()); !strings.HasPrefix(got, c.want) {
			first, _, _ := strings.Cut(got, "\n")
			t.Errorf("the first line is %q, want it to begin with %q", first, c.want)
		}
	}
}

func TestPairComesLast(t *testing.T) {
	for _, pair := range []string{"PROVEN", "DISPROVEN", "VACUOUS", "INCONCLUSIVE"} {
		r := paired()
		r.Result.Control.Pair = pair
		got := render(t, writers["txt"], r)
		if !strings.HasSuffix(got, "\ncontrol: "+pair+"\n") {
			t.Errorf("the last line of a pair is not %q", "control: "+pair)
		}
		if lines := strings.Split(got, "\n"); !strings.Contains(lines[1], pair) {
			t.Errorf("the second line does not say %s: %q", pair, lines[1])
		}
	}
	if got := render(t, writers["txt"], failing()); strings.Contains(got, "control:") {
		t.Error("a run without a control speaks of one")
	}
}

var ansi = regexp.MustCompile("\x1b\\[[0-9;]*m")

func TestTextFits(t *testing.T) {
	each(t, func(t *testing.T, r Report) {
		for _, width := range []int{0, 1, 57, 132} {
			var b strings.Builder
			if err := Text(&b, r, TextOptions{Width: width, Folder: "runs/" + nasty}); err != nil {
				t.Fatal(err)
			}
			limit := max(width, 40)
			if width == 0 {
				limit = 80
			}
			for _, line := range strings.Split(b.String(), "\n") {
				if n := columns(line); n > limit {
					t.Errorf("at width %d, %d columns: %q", width, n, line)
				}
			}
		}
	})
}

// columns agrees with counting runes wherever no wide character is.
func TestTextFitsInRunes(t *testing.T) {
	for _, run := range []func() Report{failing, aborted, minimal, empty, paired} {
		for _, line := range strings.Split(render(t, writers["txt"], run()), "\n") {
			if n := len([]rune(line)); n > 80 {
				t.Errorf("%d characters: %q", n, line)
			}
		}
	}
}

func TestColorIsBesideTheWords(t *testing.T) {
	each(t, func(t *testing.T, r Report) {
		var plain, colored strings.Builder
		if err := Text(&plain, r, TextOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := Text(&colored, r, TextOptions{Color: true}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(plain.String(), "\x1b") {
			t.Error("escape codes without being asked for colour")
		}
		// Colour may stop a trailing space from being trimmed, and nothing else.
		trim := regexp.MustCompile(` +\n`)
		if diff := cmp.Diff(plain.String(), trim.ReplaceAllString(ansi.ReplaceAllString(colored.String(), ""), "\n")); diff != "" {
			t.Errorf("without its codes, the coloured text is another:\n%s", diff)
		}
	})
}

// However long the names and narrow the terminal, every number is there, whole.
func TestNumbersAreNeverCut(t *testing.T) {
	r := judgedFailing()
	long := strings.Repeat("very-", 30) + "long"
	for i := range r.Result.Objectives {
		r.Result.Objectives[i].Load = long
	}
	for i := range r.Result.Faults {
		r.Result.Faults[i].Name, r.Result.Faults[i].Target = long, long
	}
	for i := range r.Result.Load {
		r.Result.Load[i].Name = long
	}
	r.Result.Breakers[0].Edge = long
	for _, width := range []int{40, 60, 80} {
		var b strings.Builder
		if err := Text(&b, r, TextOptions{Width: width}); err != nil {
			t.Fatal(err)
		}
		flat := strings.Join(strings.Fields(b.String()), " ")
		for _, want := range []string{"24.1 ms", "831 ms", "70.0–72.6%", "99.8–99.999%", "3400", "16.2 s", "37.4 s", "4.20 ms", "10,000", "9971", "1.20 s", "2.31 s", "803 ms", "49.5%", "2.10 s", "3740", "seed 7"} {
			if !strings.Contains(flat, want) {
				t.Errorf("at width %d, %q is missing", width, want)
			}
		}
	}
}

func TestNothingSteersTheTerminal(t *testing.T) {
	for _, c := range render(t, writers["txt"], hostile()) {
		if c != '\n' && (unicode.Is(unicode.Cc, c) || unicode.Is(unicode.Cf, c) || c == unicode.ReplacementChar) {
			t.Fatalf("the text has the character %U", c)
		}
	}
}

func TestMarkdownIsInert(t *testing.T) {
	got := render(t, Markdown, hostile())
	// What stands in a fence is shown as it is.
	got = regexp.MustCompile("(?s)````*sh\n[^\n]*\n````*\n").ReplaceAllString(got, "")
	for _, bad := range []string{"<script", "<img", "@everyone", "[a](", "\x1b"} {
		if strings.Contains(got, bad) {
			t.Errorf("the Markdown has %q", bad)
		}
	}
	// Every row of a table has as many cells as its head.
	cells := regexp.MustCompile(`(^|[^\\])\|`)
	want := 0
	for _, line := range strings.Split(got, "\n") {
		if !strings.HasPrefix(line, "|") {
			want = 0
			continue
		}
		n := len(cells.FindAllString(line, -1))
		if want == 0 {
			want = n
		}
		if n != want {
			t.Errorf("a row has %d bars, its head %d: %s", n, want, line)
		}
	}
	if a, b := strings.Count(got, "<details"), strings.Count(got, "</details>"); a != b {
		t.Errorf("%d sections are opened, %d closed", a, b)
	}
}

func TestJUnit(t *testing.T) {
	each(t, func(t *testing.T, r Report) {
		var all junitSuites
		if err := xml.Unmarshal([]byte(render(t, JUnit, r)), &all); err != nil {
			t.Fatal(err)
		}
		s := all.Suites[0]
		failures, errs := 0, 0
		names := map[string]bool{}
		for _, c := range s.Cases {
			if c.Failure != nil {
				failures++
			}
			if c.Error != nil {
				errs++
			}
			names[c.Class+"."+c.Name] = true
		}
		if s.Tests != len(s.Cases) || s.Failures != failures || s.Errors != errs || s.Skipped != 0 || all.Tests != s.Tests || all.Failures != failures || all.Errors != errs {
			t.Errorf("the counts %d/%d/%d are not those of the cases %d/%d/%d", s.Tests, s.Failures, s.Errors, len(s.Cases), failures, errs)
		}
		// Green exactly when the run is a pass.
		if green := failures+errs == 0; green != (r.Result.Verdict == verdict.Pass) {
			t.Errorf("green is %v with verdict %q", green, r.Result.Verdict)
		}
		if r.Result.Scenario == "checkout-survives-slow-payments" && len(names) != len(s.Cases) {
			t.Errorf("%d cases have only %d names", len(s.Cases), len(names))
		}
	})
}

func TestJUnitMapsVerdicts(t *testing.T) {
	of := func(change func(*Report)) (failed, erred []string) {
		r := passing()
		change(&r)
		var all junitSuites
		if err := xml.Unmarshal([]byte(render(t, JUnit, r)), &all); err != nil {
			t.Fatal(err)
		}
		for _, c := range all.Suites[0].Cases {
			if c.Failure != nil {
				failed = append(failed, c.Name)
			}
			if c.Error != nil {
				erred = append(erred, c.Name)
			}
		}
		return failed, erred
	}
	for _, c := range []struct {
		name          string
		change        func(*Report)
		failed, erred []string
	}{
		{"all well", func(*Report) {}, nil, nil},
		{"run failed", func(r *Report) { r.Result.Verdict = verdict.Fail }, []string{"verdict"}, nil},
		{"run inconclusive", func(r *Report) { r.Result.Verdict = verdict.Inconclusive }, nil, []string{"verdict"}},
		{"interrupted", func(r *Report) { r.Result.Status = "interrupted" }, nil, []string{"verdict"}},
		{"objective failed", func(r *Report) { r.Result.Objectives[1].Verdict = verdict.Fail }, []string{"shoppers before p95 < 150ms"}, nil},
		{"objective undecided", func(r *Report) { r.Result.Objectives[1].Verdict = verdict.Inconclusive }, nil, []string{"shoppers before p95 < 150ms"}},
		{"breaker claim failed", func(r *Report) { r.Result.Breakers[0].Checks[0].Verdict = verdict.Fail }, []string{"orders -> payments: opens within 5s"}, nil},
		{"invariant failed", func(r *Report) { r.Result.Invariants[0].Verdict = verdict.Fail }, []string{"money"}, nil},
		{"fault not observed", func(r *Report) { r.Result.Faults[0].ObservedOK = false }, nil, []string{"slow-payments is observed"}},
		{"fault not reverted", func(r *Report) { r.Result.Faults[0].VerifiedReverted = false }, []string{"slow-payments is reverted"}, nil},
		{"fault not injected", func(r *Report) { r.Result.Faults[0].InjectedAtS = nil }, nil, []string{"slow-payments is observed"}},
		{"sham", func(r *Report) { r.Hypotheses.Sham, r.Result.Faults[0].InjectedAtS = true, nil }, nil, nil},
		{"vacuous", func(r *Report) { r.Result.Control.Pair = "VACUOUS" }, []string{"control"}, nil},
		{"pair undecided", func(r *Report) { r.Result.Control.Pair = "INCONCLUSIVE" }, nil, []string{"control"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed, erred := of(c.change)
			if !slices.Equal(failed, c.failed) || !slices.Equal(erred, c.erred) {
				t.Errorf("failures %q and errors %q, want %q and %q", failed, erred, c.failed, c.erred)
			}
		})
	}
}

func TestJSONIsTheResult(t *testing.T) {
	for _, run := range []func() Report{failing, passing, aborted} {
		r := run()
		var back verdict.Result
		if err := json.Unmarshal([]byte(render(t, JSON, r)), &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(listed(r.Result), back); diff != "" {
			t.Errorf("read back, the result is another:\n%s", diff)
		}
	}
	if got := render(t, JSON, empty()); strings.Count(got, "[]") != 7 {
		t.Errorf("the seven lists of an empty result are not all []:\n%s", got)
	}
}

// What the judge makes of the same journal can be reported, too.
func TestReportOfAJudgedJournal(t *testing.T) {
	r := failing()
	r.Result = verdict.Judge(r.Hypotheses, r.Events)
	for kind, write := range writers {
		if got := render(t, write, r); !strings.Contains(got, "shoppers") {
			t.Errorf("%s does not name the load", kind)
		}
	}
	if got := render(t, writers["txt"], r); !strings.HasPrefix(got, symbol(r.Result.Verdict)+" "+strings.ToUpper(string(r.Result.Verdict))) {
		t.Errorf("the text does not begin with the judge's verdict %q", r.Result.Verdict)
	}
}

type fullDisk struct{ room int }

var errFull = errors.New("no space left on device")

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.room -= len(b); d.room < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestWritersReportFullDisks(t *testing.T) {
	for kind, write := range writers {
		for _, room := range []int{0, 60} {
			if err := write(&fullDisk{room}, aborted()); !errors.Is(err, errFull) {
				t.Errorf("%s with room for %d bytes: %v", kind, room, err)
			}
		}
	}
}

func TestWriteAll(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second time over the first
		if err := WriteAll(dir, paired()); err != nil {
			t.Fatal(err)
		}
	}
	if got := files(t, dir); !slices.Equal(got, []string{"junit.xml", "report.html", "report.md", "result.json"}) {
		t.Errorf("the folder holds %q", got)
	}
	for _, f := range Formats {
		got, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != render(t, f.Write, paired()) {
			t.Errorf("%s is not what its writer writes", f.File)
		}
	}
}

func TestWriteAllLeavesNothingHalfDone(t *testing.T) {
	if err := WriteAll(filepath.Join(t.TempDir(), "missing"), paired()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
	dir := t.TempDir()
	r := paired()
	r.Result.DurationS = 1 / zero // JSON has no infinity: the last format fails
	err := WriteAll(dir, r)
	if err == nil || !strings.Contains(err.Error(), "result.json") {
		t.Errorf("an unwritable result: %v", err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("after an error, the folder holds %q", got)
	}
	// A folder stands where a report should be.
	if err := os.MkdirAll(filepath.Join(dir, "result.json", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteAll(dir, paired()); err == nil {
		t.Error("a folder was replaced by a file")
	}
	for _, name := range files(t, dir) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("the temporary file %s is left", name)
		}
	}
}

var zero = 0.0

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
