package scenarios

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/shopspring/decimal"
)

// What is taken of OpenSLO's alerting (v1, kinds AlertPolicy and AlertCondition): when
// an alert fires. Whom it tells is nobody's business in a run.
type (
	// openSLOPolicy is one of an SLO's alertPolicies: a name (alertPolicyRef, or the
	// name alone), or the policy itself.
	openSLOPolicy struct {
		Ref      string `yaml:"alertPolicyRef"`
		Metadata struct {
			Name string `yaml:"name"`
		} `yaml:"metadata"`
		Spec struct {
			WhenBreaching *bool              `yaml:"alertWhenBreaching"`
			Conditions    []openSLOCondition `yaml:"conditions"`
		} `yaml:"spec"`
	}
	// openSLOCondition is one of a policy's conditions: a name, or the condition itself.
	openSLOCondition struct {
		Ref      string `yaml:"conditionRef"`
		Metadata struct {
			Name string `yaml:"name"`
		} `yaml:"metadata"`
		Spec struct {
			Severity  string `yaml:"severity"`
			Condition struct {
				Kind      string   `yaml:"kind"`
				Op        string   `yaml:"op"`
				Threshold *float64 `yaml:"threshold"`
				Lookback  string   `yaml:"lookbackWindow"`
				After     string   `yaml:"alertAfter"`
			} `yaml:"condition"`
		} `yaml:"spec"`
	}
)

// UnmarshalYAML takes a name alone for a reference.
func (p *openSLOPolicy) UnmarshalYAML(text []byte) error {
	if yaml.Unmarshal(text, &p.Ref) == nil && p.Ref != "" {
		return nil
	}
	type plain openSLOPolicy
	return yaml.Unmarshal(text, (*plain)(p))
}

// openSLORules are the policies and conditions that stand in a file by themselves.
type openSLORules struct {
	policies   map[string]openSLOPolicy
	conditions map[string]openSLOCondition
}

// add takes a document if it is one of them.
func (r *openSLORules) add(doc []byte) error {
	var kind struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return fmt.Errorf("not YAML that OpenSLO describes: %w", err)
	}
	var err error
	switch kind.Kind {
	case "AlertPolicy":
		var p openSLOPolicy
		if err = yaml.Unmarshal(doc, &p); err == nil {
			err = keep(&r.policies, kind.Kind, p.Metadata.Name, p)
		}
	case "AlertCondition":
		var c openSLOCondition
		if err = yaml.Unmarshal(doc, &c); err == nil {
			err = keep(&r.conditions, kind.Kind, c.Metadata.Name, c)
		}
	default:
		return nil
	}
	if err == nil && kind.APIVersion != "openslo/v1" {
		err = fmt.Errorf("apiVersion %q of an %s: openslo/v1 is read", kind.APIVersion, kind.Kind)
	}
	return err
}

func keep[T any](all *map[string]T, kind, name string, v T) error {
	if _, twice := (*all)[name]; twice {
		return fmt.Errorf("it holds two documents of kind %s that are named %q", kind, name)
	}
	if *all == nil {
		*all = map[string]T{}
	}
	(*all)[name] = v
	return nil
}

// alerts are those of an SLO's policies. A policy that does not alert when the
// objective is being missed has none.
func (r openSLORules) alerts(policies []openSLOPolicy) ([]SLOAlert, error) {
	var all []SLOAlert
	for i, p := range policies {
		who := fmt.Sprintf("alertPolicies[%d]", i)
		if p.Ref != "" {
			found, ok := r.policies[p.Ref]
			if !ok {
				return nil, fmt.Errorf("%s: no AlertPolicy %q in the file (%s)", who, p.Ref, list(sorted(r.policies)))
			}
			p = found
		}
		if p.Metadata.Name != "" {
			who = fmt.Sprintf("AlertPolicy %q", p.Metadata.Name)
		}
		if p.Spec.WhenBreaching != nil && !*p.Spec.WhenBreaching {
			continue
		}
		if n := len(p.Spec.Conditions); n != 1 {
			return nil, fmt.Errorf("%s has %d conditions: OpenSLO v1 allows one", who, n)
		}
		c := p.Spec.Conditions[0]
		if c.Ref != "" {
			found, ok := r.conditions[c.Ref]
			if !ok {
				return nil, fmt.Errorf("%s: no AlertCondition %q in the file (%s)", who, c.Ref, list(sorted(r.conditions)))
			}
			c = found
		}
		a, err := c.alert()
		if err != nil {
			if c.Metadata.Name != "" {
				who += fmt.Sprintf(", AlertCondition %q", c.Metadata.Name)
			}
			return nil, fmt.Errorf("%s: %w", who, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// alert is the condition as an alert over one window, which is long and short at once.
func (c openSLOCondition) alert() (a SLOAlert, err error) {
	x := c.Spec.Condition
	switch {
	case !strings.EqualFold(x.Kind, "burnrate"):
		return a, fmt.Errorf("kind %q: only burnrate is evaluated here", x.Kind)
	case x.Op == "lt" || x.Op == "lte":
		return a, fmt.Errorf("op %s alerts while the budget burns slowly, at %s here: gt and gte are evaluated", x.Op, threshold(x.Threshold))
	case x.Op != "gt" && x.Op != "gte":
		return a, fmt.Errorf("op %q is none of OpenSLO's: gt and gte are evaluated", x.Op)
	case x.Threshold == nil:
		return a, errors.New("it has no threshold")
	case !(*x.Threshold > 0 && *x.Threshold < 1e9):
		return a, fmt.Errorf("threshold %v: a burn rate is above 0", *x.Threshold)
	}
	a = SLOAlert{Severity: c.Spec.Severity, Burn: decimal.NewFromFloat(*x.Threshold), AtLeast: x.Op == "gte"}
	if a.Severity == "" {
		a.Severity = "page"
	}
	if a.Long, err = parseWindow(x.Lookback); err != nil {
		return a, fmt.Errorf("lookbackWindow: %w", err)
	}
	a.Short = a.Long
	if after := strings.TrimSpace(x.After); after != "" && strings.Trim(after, "0smhdw") != "" {
		if a.After, err = parseWindow(after); err != nil {
			return a, fmt.Errorf("alertAfter: %w", err)
		}
	}
	return a, nil
}

func threshold(t *float64) string {
	if t == nil {
		return "no threshold"
	}
	return fmt.Sprint(*t)
}
