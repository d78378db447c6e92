package scenarios

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/metrics"
	"github.com/chaosctl/chaosctl/targets/pattern"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden: what is said about each file of testdata, all of it, word for word.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, err := Load(path)
			problems, ok := errors.AsType[Problems](err)
			if !ok {
				t.Fatalf("got %v, want Problems", err)
			}
			got := strings.ReplaceAll(problems.Error(), "testdata/", "") + "\n"
			golden := strings.TrimSuffix(path, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got; go test -update writes it anew):\n%s", diff)
			}
		})
	}
}

// TestLibrary: every scenario of the library is valid, named like its file, tells
// what it shows, and takes less than a minute.
func TestLibrary(t *testing.T) {
	entries := Library()
	if len(entries) < 5 {
		t.Fatalf("%d scenarios", len(entries))
	}
	for _, e := range entries {
		s, src, err := Open(e.Name)
		if err != nil {
			t.Errorf("%s:\n%v", e.Name, err)
			continue
		}
		if s.Name != e.Name || string(src) != e.Source || s.Description == "" || e.Description != s.Description {
			t.Errorf("%s: name %q, description %q (entry: %q)", e.Name, s.Name, s.Description, e.Description)
		}
		p := s.Phases
		if total := p.Warmup + p.Before + p.During + p.After; total > 55*time.Second {
			t.Errorf("%s takes %s, and start and drain come on top of that", e.Name, total)
		}
	}
}

func TestParse(t *testing.T) {
	s, err := ParseIn(files, "everything.yaml", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	if s.File != "everything.yaml" || s.Seed != 3 || s.Confidence != 0.95 || s.Timescale != 0.5 {
		t.Errorf("%+v", s)
	}
	var loads, faults []string
	for _, l := range s.Loads {
		loads = append(loads, l.Name)
	}
	for _, f := range s.Faults {
		faults = append(faults, f.Name)
	}
	if got := strings.Join(loads, " "); got != "shoppers ramping staged users journeys" {
		t.Errorf("loads in the order of the file: %s", got)
	}
	if got := strings.Join(faults, " "); got != "slow wrong cut silent away narrow tail open crumbs lossy split crash frozen anew" {
		t.Errorf("faults in the order of the file: %s", got)
	}
	flaps := 3
	want := []BreakerExpectation{{Edge: "orders -> payments", Opens: 5 * time.Second, Closes: 5 * time.Second, Flaps: &flaps, Metrics: &metrics.Source{Service: "orders", Path: "/metrics", Kind: metrics.Opossum, Name: "payments"}, Open: []expect.Clause{
		{Metric: expect.Percentile, Quantile: 0.99, Op: "<", Limit: 20 * time.Millisecond},
		{Metric: expect.Upstream, Op: "<=", PerS: 2},
	}}}
	if diff := cmp.Diff(want, s.Breakers); diff != "" {
		t.Error(diff)
	}
	if !s.AbortSet || len(s.Abort) != 1 || s.Abort[0].For != 30*time.Second {
		t.Errorf("abort: %v %v", s.AbortSet, s.Abort)
	}
}

// TestDefaults: what a file leaves out, and that an edge has one spelling
// whatever the file's.
func TestDefaults(t *testing.T) {
	s, err := Parse("small.yaml", []byte(`
scenario: small
target: { system: shop, patterns: { "orders->payments": off } }
load: { shoppers: { request: POST /checkout, to: gateway, rate: 20/s } }
phases: { during: 10s }
faults: { slow: { target: "orders->payments", latency: { delay: 1s } } }
hypothesis: { shoppers: { during: [ok >= 99%] } }
breakers: { "orders  ->payments": { opens: 1s } }
control: { patterns: { "orders ->  payments": off }, must_fail: ["shoppers  during ok", "orders->payments  opens"] }
`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Seed != 1 || s.Confidence != 0.95 || s.Timescale != 1 || s.AbortSet || s.Abort != nil {
		t.Errorf("%+v", s)
	}
	const edge = "orders -> payments"
	off := map[string]pattern.Spec{edge: {Mode: pattern.Off}}
	if diff := cmp.Diff(off, s.Target.Patterns); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&Control{Change: targets.Change{Patterns: off}, MustFail: []string{"shoppers during ok", "orders -> payments opens"}}, s.Control); diff != "" {
		t.Error(diff)
	}
	if s.Faults[0].Target != edge || s.Breakers[0].Edge != edge {
		t.Errorf("%q, %q", s.Faults[0].Target, s.Breakers[0].Edge)
	}
}

// TestNoAbort: `abort: []` switches the default off, and is not the same as
// leaving it out.
func TestNoAbort(t *testing.T) {
	s, _, err := Open("gateway-cut-off-from-orders")
	if err != nil {
		t.Fatal(err)
	}
	if !s.AbortSet || len(s.Abort) != 0 {
		t.Errorf("%v %v", s.AbortSet, s.Abort)
	}
}

func TestOpen(t *testing.T) {
	t.Chdir(t.TempDir())
	good := []byte("scenario: mine\ntarget: { system: shop }\nload: { a: { request: POST /checkout, to: gateway, rate: 1/s } }\nphases: { before: 5s }\n")
	for _, name := range []string{"mine.yaml", "mine", "stock-dies-and-comes-back.yaml"} {
		if err := os.WriteFile(name, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for arg, want := range map[string]string{
		"mine.yaml":                      "mine",
		"./mine.yaml":                    "mine",
		"mine":                           "mine",                      // a file of that name
		"stock-dies-and-comes-back":      "stock-dies-and-comes-back", // the library's
		"stock-dies-and-comes-back.yaml": "mine",                      // the file
	} {
		s, src, err := Open(arg)
		if err != nil {
			t.Errorf("%s: %v", arg, err)
		} else if s.Name != want || len(src) == 0 {
			t.Errorf("%s: opened %q, want %q", arg, s.Name, want)
		}
	}
	for arg, want := range map[string]string{
		"stock-dies-and-came-back": `no scenario "stock-dies-and-came-back" in the library, and no file of that name: did you mean "stock-dies-and-comes-back"?`,
		"zzz":                      `no scenario "zzz" in the library, and no file of that name (library: checkout-survives-slow-payments,`,
	} {
		if _, _, err := Open(arg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	for _, arg := range []string{"no/such/file", "none.yaml"} {
		if _, _, err := Open(arg); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

// TestLargeFile: a file of 10 MB is not even read to its end.
func TestLargeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.yaml")
	if err := os.WriteFile(path, []byte(strings.Repeat("# nothing to see\n", 600_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	_, src, err := load(path)
	if err == nil || !strings.Contains(err.Error(), "large.yaml:1:1: the file is larger than 1024 KiB") {
		t.Errorf("got %.200v", err)
	}
	if len(src) > 1<<20+1 {
		t.Errorf("%d bytes were read", len(src))
	}
}

// FuzzParse: whatever the bytes, Parse says a scenario or Problems, and never panics.
func FuzzParse(f *testing.F) {
	for _, e := range Library() {
		f.Add([]byte(e.Source))
	}
	f.Add([]byte(everything))
	f.Add([]byte(ownServices))
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1<<15 {
			return
		}
		s, err := Parse("fuzz.yaml", src)
		if err == nil {
			if s == nil || s.Name == "" || len(s.Loads) == 0 || s.Confidence <= 0.5 || s.Timescale <= 0 {
				t.Fatalf("%+v", s)
			}
			return
		}
		if problems, ok := errors.AsType[Problems](err); !ok || len(problems) == 0 || s != nil {
			t.Fatalf("%T %v", err, err)
		}
	})
}
