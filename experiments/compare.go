package experiments

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// DifferentError says why two runs cannot be compared: what was asked of the
// system differs, so that a difference of the answers would show nothing.
type DifferentError struct {
	Differences []string // "phases.during: 20s, not 30s"
}

func (e *DifferentError) Error() string {
	return "these runs are of different scenarios, and cannot be compared:\n  " + strings.Join(e.Differences, "\n  ")
}

// Comparable tells whether runs of two plans can be compared: the same load and
// the same faults in the same phases. What is compared may differ (the target, its
// patterns, the variant) and is returned, as is what does not matter much: the
// objectives. Seeds are not mentioned. The error is a *DifferentError.
func Comparable(a, b *Plan) (other []string, err error) {
	must, may := &differences{}, &differences{}
	must.add("scenario", a.Scenario, b.Scenario)
	must.add("timescale", a.Timescale, b.Timescale)
	must.add("phases", a.Hypotheses.Phases, b.Hypotheses.Phases)
	must.add("load", a.Loads, b.Loads)
	must.add("faults", a.Faults, b.Faults)
	if (a.Variant == Sham) != (b.Variant == Sham) {
		must.all = append(must.all, "faults: one run left them out (--sham), the other did not")
	}
	if len(must.all) > 0 {
		return nil, &DifferentError{must.all}
	}
	may.add("variant", a.Variant, b.Variant)
	may.add("target", a.Target, b.Target)
	may.add("patterns", a.Patterns, b.Patterns)
	may.add("objectives", a.Hypotheses.Objectives, b.Hypotheses.Objectives)
	return may.all, nil
}

// differences between pairs of plain data, by their JSON.
type differences struct{ all []string }

// mostDifferences are listed of one part of a plan: the reader wants the point, not the plan.
const mostDifferences = 5

func (d *differences) add(name string, a, b any) {
	var found []string
	walk(name, tree(a), tree(b), &found)
	if more := len(found) - mostDifferences; more > 0 {
		found = append(found[:mostDifferences], fmt.Sprintf("%s: %d more", name, more))
	}
	d.all = append(d.all, found...)
}

// tree is v as JSON has it, numbers as they were written.
func tree(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("a plan is plain data: %v", err))
	}
	var out any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		panic(fmt.Sprintf("JSON just written reads back: %v", err))
	}
	return out
}

// walk lists where two trees differ, in the order of the keys.
func walk(path string, a, b any, found *[]string) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			var keys []string
			for k := range x {
				keys = append(keys, k)
			}
			for k := range y {
				if _, both := x[k]; !both {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			for _, k := range keys {
				if k == "seed" { // of a fault, drawn from the run's
					continue
				}
				walk(path+"."+k, x[k], y[k], found)
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				name := fmt.Sprintf("%s[%d]", path, i)
				if m, ok := x[i].(map[string]any); ok {
					if text, ok := m["name"].(string); ok {
						name = path + "." + text
					}
				}
				walk(name, x[i], y[i], found)
			}
			return
		}
	}
	if ja, jb := brief(a), brief(b); ja != jb {
		*found = append(*found, fmt.Sprintf("%s: %s, and %s", path, ja, jb))
	}
}

// brief is a value on one short line.
func brief(v any) string {
	if v == nil {
		return "nothing"
	}
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // "orders -> payments", not "orders -\u003e payments"
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	b := strings.TrimSuffix(text.String(), "\n")
	if r := []rune(b); len(r) > 60 {
		return string(r[:59]) + "…"
	}
	return b
}
