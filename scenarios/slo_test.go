package scenarios

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/shopspring/decimal"
)

// TestOpenSLO: objective and window come from the file, what the scenario says
// itself stands, and a file that means something else is refused with the reason.
func TestOpenSLO(t *testing.T) {
	const good = `apiVersion: openslo/v1
kind: SLO
metadata: { name: checkout }
spec:
  timeWindow: [{ duration: 4w, isRolling: true }]
  budgetingMethod: Occurrences
  objectives: [{ target: 0.995 }]
`
	scenario := func(slo string) string {
		return "scenario: x\ntarget: { system: shop }\nload: { shoppers: { request: GET /products/p-1, to: gateway, rate: 1/s } }\nphases: { before: 1s }\nslos: { checkout: " + slo + " }\n"
	}
	parse := func(slo, file string) (*Scenario, error) {
		return ParseIn(fstest.MapFS{"slo.yaml": &fstest.MapFile{Data: []byte(file)}}, "x.yaml", []byte(scenario(slo)))
	}
	s, err := parse("{ openslo: slo.yaml }", good)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.SLOs[0]; !got.Objective.Equal(decimal.RequireFromString("0.995")) || got.Window != 28*24*time.Hour || got.Load != "shoppers" || got.Scale != 1 || got.AlertsSet {
		t.Errorf("taken from the file: %+v", got)
	}
	s, err = parse("{ openslo: slo.yaml, window: 30d, indicator: ok within 300ms, alerts: [] }", good)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.SLOs[0]; got.Window != 30*24*time.Hour || got.Within != 300*time.Millisecond || !got.AlertsSet || len(got.Alerts) != 0 {
		t.Errorf("the scenario's own window: %+v", got)
	}
	for name, c := range map[string]struct{ file, says string }{
		"another version":   {strings.Replace(good, "openslo/v1", "openslo/v1alpha", 1), "openslo/v1 is read"},
		"no SLO":            {strings.Replace(good, "kind: SLO", "kind: SLI", 1), "no document of kind: SLO"},
		"time slices":       {strings.Replace(good, "Occurrences", "Timeslices", 1), "only Occurrences"},
		"two objectives":    {strings.Replace(good, "[{ target: 0.995 }]", "[{ target: 0.995 }, { target: 0.9 }]", 1), "has 2 objectives"},
		"no target":         {strings.Replace(good, "target: 0.995", "displayName: x", 1), "no target"},
		"a calendar window": {strings.Replace(good, "isRolling: true", "isRolling: false", 1), "follows the calendar"},
		"a month":           {strings.Replace(good, "4w", "1M", 1), "is not a time"},
		"no YAML":           {"{{{", "YAML"},
		"two SLOs, unnamed": {strings.ReplaceAll(good+"---\n"+good, "name: checkout", "name: other"), "none of them is named"},
	} {
		if _, err := parse("{ openslo: slo.yaml }", c.file); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if _, err := Parse("x.yaml", []byte(scenario("{ openslo: ../slo.yaml }"))); err == nil || !strings.Contains(err.Error(), "beside a scenario file") {
		t.Errorf("a scenario without a folder: %v", err)
	}
}

// TestOpenSLOPercent: targetPercent is the same, and nothing is lost on the way.
func TestOpenSLOPercent(t *testing.T) {
	found, err := readOpenSLO([]byte("apiVersion: openslo/v1\nkind: SLO\nspec: { objectives: [{ targetPercent: 99.95 }] }\n"), "x")
	if err != nil {
		t.Fatal(err)
	}
	if p := found.Spec.Objectives[0].TargetPercent; p == nil || decimal.NewFromFloat(*p).Shift(-2).String() != "0.9995" {
		t.Errorf("99.95 %% became %v", p)
	}
}
