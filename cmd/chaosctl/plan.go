package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/timeline"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/targets/topology"
)

func newPlan() *cobra.Command {
	var output string
	var control bool
	var seed uint64
	cmd := &cobra.Command{
		Use:     "plan SCENARIO",
		GroupID: "run",
		Short:   "Show what a run would do and whether it can decide, without running it",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := openScenario(args[0])
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("seed") {
				s.Seed = seed
			}
			variant := experiments.Main
			if control {
				variant = experiments.Control
			}
			plan, err := experiments.Compile(s, variant)
			if err != nil {
				return usage(err, "")
			}
			switch output {
			case "text":
				return internal(printPlan(cmd.OutOrStdout(), plan))
			case "yaml":
				b, err := planYAML(plan)
				if err != nil {
					return internal(err)
				}
				_, err = cmd.OutOrStdout().Write(b)
				return internal(err)
			case "json":
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", plan.JSON())
				return internal(err)
			}
			return usage(fmt.Errorf("--output %q: allowed are text, yaml, json", output), "")
		},
		ValidArgsFunction: completeScenarios,
	}
	cmd.Flags().StringVar(&output, "output", "text", "text, yaml or json")
	cmd.Flags().BoolVar(&control, "control", false, "plan the control variant")
	cmd.Flags().Uint64Var(&seed, "seed", 0, "seed of every random choice (default: the scenario's)")
	return cmd
}

// printPlan tells a person what will happen, in the order in which it will.
func printPlan(w io.Writer, p *experiments.Plan) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", p.Scenario)
	if p.Variant != experiments.Main {
		fmt.Fprintf(&b, " (%s)", p.Variant)
	}
	fmt.Fprintf(&b, ": %s, seed %d", p.Duration(), p.Seed)
	if p.Timescale != 1 {
		fmt.Fprintf(&b, ", time scale %g", p.Timescale)
	}
	b.WriteString("\n")
	if p.Description != "" {
		b.WriteString(p.Description + "\n")
	}
	fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace("System "+p.Topology.System))
	for _, s := range p.Topology.Services {
		from := "reference service"
		switch {
		case len(s.Command) > 0:
			from = strings.Join(s.Command, " ")
		case s.Address != "":
			from = "already running at " + s.Address
		case s.Absent != nil && s.Absent.Status != 0:
			from = fmt.Sprintf("absent: what no fault answers gets %d", s.Absent.Status)
		case s.Absent != nil:
			from = "absent: what no fault answers is refused"
		}
		if s.TLS != nil {
			from += "; speaks TLS, " + map[topology.Caller]string{
				topology.CallerTLS:   "and so do its callers, to the proxy",
				topology.CallerPlain: "which the proxy does for its callers",
				topology.Passthrough: "which passes through the proxy",
			}[s.TLS.Caller]
		}
		if calls := p.Topology.CallsOf(s.Name); len(calls) > 0 {
			from += "; calls " + strings.Join(calls, ", ")
		}
		if n := s.Count(); n > 1 {
			from = fmt.Sprintf("%d instances of %s", n, from)
		}
		fmt.Fprintf(&b, "  %s: %s\n", s.Name, from)
	}
	for _, e := range p.Topology.Edges {
		if most := p.Edges[e.Name()].HoldMost; most != 0 {
			fmt.Fprintf(&b, "  %s: its faults hold back %s at most\n", e.Name(), most)
		}
	}
	if radius := radiusLines(p); len(radius) > 0 {
		fmt.Fprintf(&b, "\nBlast radius\n  %s\n", strings.Join(radius, "\n  "))
	}
	fmt.Fprintln(&b, "\nLoad")
	for _, l := range p.Loads {
		fmt.Fprintf(&b, "  %s: %s to %s, timeout %s\n", l.Name, l.Describe(), l.To, l.TimeoutOrDefault())
	}
	fmt.Fprintln(&b, "\nTimeline")
	for _, m := range p.Timeline() {
		fmt.Fprintf(&b, "  %6.1fs  %s\n", m.At.Seconds(), describeMoment(p, m))
	}
	if err := printDecidable(&b, p); err != nil {
		return err
	}
	for _, c := range p.Hypotheses.Breakers {
		fmt.Fprintf(&b, "\nBreaker %s: %s\n", c.Edge, strings.Join(breakerClaims(c), ", "))
	}
	for _, x := range p.Hypotheses.SLOs {
		fmt.Fprintf(&b, "\nSLO %s on %s: %s\n", x.Name, x.Load, strings.Join(sloClaims(x), ", "))
	}
	if len(p.Hypotheses.Invariants) > 0 {
		fmt.Fprintf(&b, "\nInvariants, read when the load has drained: %s\n", strings.Join(p.Hypotheses.Invariants, ", "))
	}
	for _, a := range p.Abort {
		fmt.Fprintf(&b, "\nAborts when: %s\n", a)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// radiusLines is the blast radius, as far as it is worth a line.
func radiusLines(p *experiments.Plan) []string {
	lines := []string{}
	for _, r := range p.Radius() {
		text := r.String()
		if r.MoreThanHalf() {
			text += ": more than half, so that run needs --more-than-half"
		}
		lines = append(lines, text)
	}
	return lines
}

// withinHalf refuses a plan whose faults have more than half of a service's instances
// at once, unless that is meant.
func withinHalf(p *experiments.Plan, meant bool) error {
	for _, r := range p.Radius() {
		if r.MoreThanHalf() && !meant {
			return usage(fmt.Errorf("nothing was started: more than half of a service would go wrong: %s", r), "pick fewer; or, if that is what is to be seen, --more-than-half")
		}
	}
	return nil
}

func describeMoment(p *experiments.Plan, m timeline.Moment) string {
	switch m.Kind {
	case timeline.Phase:
		return fmt.Sprintf("phase %s (%s)", m.Name, m.For)
	case timeline.End:
		return "the load ends; the system drains; invariants; stop"
	}
	for i, f := range p.Hypotheses.Faults {
		switch {
		case f.Name != m.Name:
		case m.Kind == timeline.Inject:
			return fmt.Sprintf("%s %s on %s: %s", m.Kind, f.Name, f.Target, settings(p.Faults[i].Spec))
		default:
			return fmt.Sprintf("%s %s: %s on %s", m.Kind, f.Name, f.Kind, f.Target)
		}
	}
	return m.Kind.String() + " " + m.Name
}

// printDecidable says, per objective, how many bad requests still pass and how
// many certainly fail, and warns where the phase is too short to decide at all.
func printDecidable(w io.Writer, p *experiments.Plan) error {
	if len(p.Hypotheses.Objectives) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nObjectives (each bound one-sided at %g %%, independent requests)\n", p.Hypotheses.Confidence*100)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "  OBJECTIVE\tREQUESTS\tPASSES WITH\tFAILS FROM\t")
	for _, o := range p.Hypotheses.Objectives {
		d := p.Expected(o)
		requests := fmt.Sprint(d.Requests)
		pass, fail, enough := verdict.Decidable(o.Target(), d.Requests, p.Hypotheses.Confidence)
		passes, fails, note := fmt.Sprintf("<= %d bad", pass), fmt.Sprintf("%d bad", fail), ""
		switch {
		case !d.Open && !d.Bounded:
			requests, passes, fails = "depends on answers", "-", "-"
			note = fmt.Sprintf("users ask when they are answered; it needs at least %d requests to pass", enough)
		case !d.Open:
			requests = fmt.Sprintf("depends on answers, <= %d", d.Requests)
		}
		if pass < 0 && (d.Open || d.Bounded) {
			passes = "cannot pass"
			note = fmt.Sprintf("warning: too short to pass, needs %d requests", enough)
			if rate := p.PhaseRate(o); rate > 0 {
				note += fmt.Sprintf(" (%s)", time.Duration(float64(enough)/rate*float64(time.Second)).Round(100*time.Millisecond))
			}
		} else if d.Bounded {
			passes, fails = "-", "-" // both depend on how many there will be
			note = fmt.Sprintf("it needs at least %d requests to pass", enough)
		}
		fmt.Fprintf(tab, "  %s %s: %s\t%s\t%s\t%s\t%s\n", o.Of(), o.Phase, o.Clause, requests, passes, fails, note)
	}
	return tab.Flush()
}

func breakerClaims(b verdict.Breaker) []string {
	var claims []string
	if b.Opens > 0 {
		claims = append(claims, "opens within "+b.Opens.String())
	}
	for _, c := range b.Open {
		claims = append(claims, "while open "+c.String())
	}
	if b.Closes > 0 {
		claims = append(claims, "closes within "+b.Closes.String())
	}
	if b.Flaps != nil {
		claims = append(claims, fmt.Sprintf("at most %d flaps", *b.Flaps))
	}
	return claims
}

// writePlan leaves the resolved plan in the run folder, for people.
func writePlan(path string, p *experiments.Plan) error {
	b, err := planYAML(p)
	if err != nil {
		return internal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return internal(fmt.Errorf("write the plan: %w", err))
	}
	return nil
}

// planYAML is the plan as people read it: durations with units, clauses as they
// are written, and the timeline merged.
func planYAML(p *experiments.Plan) ([]byte, error) {
	type moment struct {
		At   time.Duration `yaml:"at"`
		What string        `yaml:"what"`
	}
	var moments []moment
	for _, m := range p.Timeline() {
		moments = append(moments, moment{m.At, describeMoment(p, m)})
	}
	objectives := []string{}
	for _, o := range p.Hypotheses.Objectives {
		objectives = append(objectives, fmt.Sprintf("%s %s: %s", o.Of(), o.Phase, o.Clause))
	}
	breakers := map[string][]string{}
	for _, b := range p.Hypotheses.Breakers {
		breakers[b.Edge] = breakerClaims(b)
	}
	slos := map[string][]string{}
	for _, x := range p.Hypotheses.SLOs {
		slos[x.Name] = sloClaims(x)
	}
	view := yaml.MapSlice{
		{Key: "scenario", Value: p.Scenario},
		{Key: "description", Value: p.Description},
		{Key: "variant", Value: variantName(p.Variant)},
		{Key: "seed", Value: p.Seed},
		{Key: "timescale", Value: p.Timescale},
		{Key: "plan_hash", Value: p.Hash()},
		{Key: "topology", Value: p.Topology},
		{Key: "blast_radius", Value: radiusLines(p)},
		{Key: "patterns", Value: sortedPatterns(p)},
		{Key: "edges", Value: edgeSettings(p)},
		{Key: "load", Value: p.Loads},
		{Key: "timeline", Value: moments},
		{Key: "objectives", Value: objectives},
		{Key: "breakers", Value: breakers},
		{Key: "slos", Value: slos},
		{Key: "invariants", Value: append([]string{}, p.Hypotheses.Invariants...)},
		{Key: "abort", Value: clauseTexts(p.Abort)},
		{Key: "confidence", Value: p.Hypotheses.Confidence},
		{Key: "must_fail", Value: append([]string{}, p.MustFail...)},
	}
	if len(p.Target.Sagas) > 0 {
		view = append(view, yaml.MapItem{Key: "sagas", Value: p.Target.Sagas})
	}
	return yaml.MarshalWithOptions(view, yaml.IndentSequence(true))
}

func edgeSettings(p *experiments.Plan) yaml.MapSlice {
	view := yaml.MapSlice{}
	for _, edge := range slices.Sorted(maps.Keys(p.Edges)) {
		view = append(view, yaml.MapItem{Key: edge, Value: map[string]string{"hold_most": p.Edges[edge].HoldMost.String()}})
	}
	return view
}

func sortedPatterns(p *experiments.Plan) yaml.MapSlice {
	view := yaml.MapSlice{}
	for edge := range p.Patterns {
		view = append(view, yaml.MapItem{Key: edge, Value: p.Patterns[edge]})
	}
	sort.Slice(view, func(i, j int) bool { return view[i].Key.(string) < view[j].Key.(string) })
	return view
}

func clauseTexts(clauses []expect.Clause) []string {
	texts := []string{}
	for _, c := range clauses {
		texts = append(texts, c.String())
	}
	return texts
}

func variantName(v experiments.Variant) string {
	if v == experiments.Main {
		return "main"
	}
	return string(v)
}

// sloClaims are an SLO, its scale, its alerts, and what is claimed of them, in words.
func sloClaims(s verdict.SLO) []string {
	all := []string{s.String(), fmt.Sprintf("1 s of the run stands for %g s", s.Scale)}
	if s.Spends > 0 {
		all = append(all, fmt.Sprintf("spends at most %g %% of the budget", s.Spends*100))
	}
	for _, a := range s.Alerts {
		text := fmt.Sprintf("%s at burn rate %s over %s", a.Severity, a.Burn, a.Long)
		if a.Short != a.Long {
			text += fmt.Sprintf(" and %s", a.Short)
		}
		if a.After > 0 {
			text += fmt.Sprintf(", for %s", a.After)
		}
		if a.Fires > 0 {
			text += fmt.Sprintf(", which fires within %s", a.Fires)
		}
		all = append(all, text)
	}
	return all
}
