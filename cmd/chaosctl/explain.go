package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/pattern"
)

func newExplain() *cobra.Command {
	return &cobra.Command{
		Use:     "explain SCENARIO",
		GroupID: "run",
		Short:   "Tell in plain words what a scenario does, claims, and how it is judged",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := openScenario(args[0])
			if err != nil {
				return err
			}
			plan, err := experiments.Compile(s, experiments.Main)
			if err != nil {
				return usage(err, "")
			}
			return internal(explain(cmd.OutOrStdout(), s, plan))
		},
		ValidArgsFunction: completeScenarios,
	}
}

// explain reads a plan aloud.
func explain(w io.Writer, s *scenarios.Scenario, p *experiments.Plan) error {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	say("%s", p.Scenario)
	say("%s", strings.TrimSpace(p.Description))
	say("")
	system := "your own services"
	if p.Topology.System != "" {
		system = "the reference system " + p.Topology.System
	}
	say("It starts %s (%s). Every call between them passes a proxy of ours; they do not know.", system, strings.Join(p.Topology.Names(), ", "))
	for _, l := range p.Loads {
		say("Load %q sends %s to %s. A request is due at its time whether or not earlier ones were answered, and its latency counts from then.", l.Name, l.Describe(), l.To)
	}
	say("")
	for _, ph := range p.Hypotheses.Phases {
		switch ph.Name {
		case "warmup":
			say("For %s it warms up; nothing is judged.", ph.End-ph.Start)
		case "before":
			say("For %s nothing is wrong: what `before` claims must hold, or no fault is injected.", ph.End-ph.Start)
		case "during":
			say("For %s something goes wrong:", ph.End-ph.Start)
			for _, f := range p.Faults {
				kind, _ := f.Spec.Kind()
				target := p.Hypotheses.Faults[faultIndex(p.Faults, f.Spec.Name)].Target
				say("  %s into it, %q: %s, on %s, for %s. %s", f.At-ph.Start, f.Spec.Name, kind.Verb, target, f.For, kind.Summary)
				say("    %s", settings(f.Spec))
				for _, c := range conditions(f.Spec) {
					say("    %s", c)
				}
			}
		case "after":
			say("For %s it must be as it was.", ph.End-ph.Start)
		}
	}
	if len(p.Hypotheses.Objectives) > 0 {
		say("")
		say("It claims:")
		for _, o := range p.Hypotheses.Objectives {
			extra := ""
			if o.Settle > 0 {
				extra = fmt.Sprintf(" (the first %s are shown, not judged)", o.Settle)
			}
			if o.Recovery > 0 {
				extra = fmt.Sprintf(" (judged from %s on)", o.Recovery)
			}
			say("  %s, %s: %s%s", o.Of(), o.Phase, o.Clause, extra)
		}
	}
	for _, c := range p.Hypotheses.Breakers {
		say("  the breaker on %s, seen from the wire: %s", c.Edge, strings.Join(breakerClaims(c), ", "))
	}
	for _, x := range p.Hypotheses.SLOs {
		say("  the SLO %s on %s: %s", x.Name, x.Load, strings.Join(sloClaims(x), ", "))
	}
	if len(p.Hypotheses.Invariants) > 0 {
		say("  when the load has drained, in the services' own databases: %s", strings.Join(p.Hypotheses.Invariants, " and "))
	}
	say("")
	say("Each claim about a share is judged by its exact confidence bound at %g %%: pass when the", p.Hypotheses.Confidence*100)
	say("lower bound reaches the target, fail when the upper bound stays below it, else inconclusive.")
	say("A fault that was not seen to take effect makes the run inconclusive: no pass without proof.")
	if s.Control != nil {
		say("")
		say("Its control (--control) runs the same with %s, and must fail on: %s.", strings.Join(changes(s.Control.Change), ", "), strings.Join(s.Control.MustFail, "; "))
		say("If both pass, the scenario shows nothing: VACUOUS.")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// changes says in a few words each what a control has otherwise.
func changes(c targets.Change) []string {
	var all []string
	for _, edge := range slices.Sorted(maps.Keys(c.Patterns)) {
		all = append(all, fmt.Sprintf("%s %s", edge, c.Patterns[edge]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sagas)) {
		all = append(all, fmt.Sprintf("the sagas of %s %s", name, map[pattern.Sagas]string{pattern.Durable: "on disk", pattern.Memory: "in memory"}[c.Sagas[name]]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		all = append(all, name+" started otherwise")
	}
	return all
}

// settings is a fault's verb and conditions in the scenario's own words, on one line.
func settings(s faults.Spec) string {
	s.Target, s.At, s.For = "", 0, nil // said elsewhere
	return strings.TrimSuffix(strings.TrimPrefix(onOneLine(s), "{"), "}")
}

// onOneLine is a fault, or a part of one, as a scenario would write it.
func onOneLine(part any) string {
	b, err := yaml.MarshalWithOptions(part, yaml.Flow(true))
	if err != nil {
		panic(fmt.Sprintf("a fault is plain data: %v", err))
	}
	return strings.TrimSpace(string(b))
}

// conditions reads the conditions of a fault aloud, a sentence each.
func conditions(s faults.Spec) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if m := s.Match; m != nil {
		say("It is about requests that match %s only.", onOneLine(*m))
	}
	if p := s.Pulse; p != nil {
		say("It comes and goes: %s at work, %s not, in turn.", p.Active, p.Pause)
	}
	if s.Ramp != nil {
		say("The share that it hits grows to its full value over %s.", *s.Ramp)
	}
	if s.First != nil {
		say("It is about the first %d calls only, counted from when it begins.", *s.First)
	}
	if s.Every != nil {
		say("It is about one call in %d.", *s.Every)
	}
	if s.From != "" {
		say("It is about callers from %s only.", s.From)
	}
	return all
}

func faultIndex(all []faults.Fault, name string) int {
	for i, f := range all {
		if f.Spec.Name == name {
			return i
		}
	}
	return -1
}
