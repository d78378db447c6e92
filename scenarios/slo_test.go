package scenarios

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
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

// TestOpenSLOAlerts: alert policies become alerts over one window, by reference and
// inline; what says something else is refused with the reason, unless the scenario
// has alerts of its own.
func TestOpenSLOAlerts(t *testing.T) {
	const good = `apiVersion: openslo/v1
kind: SLO
metadata: { name: checkout }
spec:
  timeWindow: [{ duration: 30d, isRolling: true }]
  budgetingMethod: Occurrences
  objectives: [{ target: 0.999 }]
  alertPolicies:
    - alertPolicyRef: fast
    - slow
    - kind: AlertPolicy
      metadata: { name: inline }
      spec:
        conditions:
          - kind: AlertCondition
            metadata: { name: week }
            spec: { condition: { kind: burnrate, op: gt, threshold: 1, lookbackWindow: 1w } }
    - alertPolicyRef: all-clear
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: { name: fast }
spec: { alertWhenNoData: true, alertWhenBreaching: true, conditions: [{ conditionRef: hour }], notificationTargets: [{ targetRef: pager }] }
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: { name: slow }
spec: { conditions: [{ conditionRef: six-hours }] }
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: { name: all-clear }
spec: { alertWhenResolved: true, alertWhenBreaching: false, conditions: [{ conditionRef: hour }] }
---
apiVersion: openslo/v1
kind: AlertCondition
metadata: { name: hour }
spec: { severity: page, condition: { kind: burnrate, op: gt, threshold: 14.4, lookbackWindow: 1h, alertAfter: 2m } }
---
apiVersion: openslo/v1
kind: AlertCondition
metadata: { name: six-hours }
spec: { severity: ticket, condition: { kind: Burnrate, op: gte, threshold: 6, lookbackWindow: 6h, alertAfter: 0m } }
`
	parse := func(file, more string) (*Scenario, error) {
		return ParseIn(fstest.MapFS{"slo.yaml": &fstest.MapFile{Data: []byte(file)}}, "x.yaml",
			[]byte("scenario: x\ntarget: { system: shop }\nload: { shoppers: { request: GET /products/p-1, to: gateway, rate: 1/s } }\nphases: { before: 1s }\nslos: { checkout: { openslo: slo.yaml"+more+" } }\n"))
	}
	s, err := parse(good, "")
	if err != nil {
		t.Fatal(err)
	}
	burn := decimal.RequireFromString
	want := []SLOAlert{
		{Severity: "page", Long: time.Hour, Short: time.Hour, Burn: burn("14.4"), After: 2 * time.Minute},
		{Severity: "ticket", Long: 6 * time.Hour, Short: 6 * time.Hour, Burn: burn("6"), AtLeast: true},
		{Severity: "page", Long: 7 * 24 * time.Hour, Short: 7 * 24 * time.Hour, Burn: burn("1")},
	}
	if diff := cmp.Diff(want, s.SLOs[0].Alerts); diff != "" || !s.SLOs[0].AlertsSet {
		t.Errorf("alerts of the file, set %v (-want +got):\n%s", s.SLOs[0].AlertsSet, diff)
	}
	for name, c := range map[string]struct{ old, new, more, says string }{
		"burning slowly":     {"op: gt, threshold: 14.4", "op: lte, threshold: 14.4", "", `AlertPolicy "fast", AlertCondition "hour": op lte alerts while the budget burns slowly`},
		"another kind":       {"kind: burnrate, op: gt, threshold: 14.4", "kind: latency, op: gt, threshold: 14.4", "", "only burnrate"},
		"no operator":        {"op: gt, threshold: 14.4", "threshold: 14.4", "", `op ""`},
		"no threshold":       {"threshold: 14.4, ", "", "", "no threshold"},
		"a negative one":     {"threshold: 14.4", "threshold: -1", "", "above 0"},
		"no window":          {"lookbackWindow: 6h, ", "", "", "lookbackWindow"},
		"no such policy":     {"alertPolicyRef: fast", "alertPolicyRef: fats", "", `no AlertPolicy "fats" in the file (all-clear, fast, slow)`},
		"no such condition":  {"conditionRef: six-hours", "conditionRef: day", "", `no AlertCondition "day" in the file (hour, six-hours)`},
		"two conditions":     {"[{ conditionRef: six-hours }]", "[{ conditionRef: six-hours }, { conditionRef: hour }]", "", "has 2 conditions: OpenSLO v1 allows one"},
		"two of one name":    {"metadata: { name: six-hours }", "metadata: { name: hour }", "", `two documents of kind AlertCondition that are named "hour"`},
		"another version":    {"openslo/v1\nkind: AlertCondition\nmetadata: { name: hour", "openslo/v2alpha\nkind: AlertCondition\nmetadata: { name: hour", "", `apiVersion "openslo/v2alpha" of an AlertCondition`},
		"it can never fire":  {"threshold: 14.4", "threshold: 1000", "", "it can never fire"},
		"too short at scale": {"lookbackWindow: 1h", "lookbackWindow: 1s", ", scale: 60", "shorter than the 100ms"},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("%s: the good file has no %q", name, c.old)
		}
		bad := strings.Replace(good, c.old, c.new, 1)
		if _, err := parse(bad, c.more); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if strings.HasPrefix(c.says, "two documents") || strings.HasPrefix(c.says, "apiVersion") {
			continue // no file to be read at all
		}
		if _, err := parse(bad, c.more+", alerts: []"); err != nil {
			t.Errorf("%s, and alerts of the scenario's own: %v", name, err)
		}
	}
}
