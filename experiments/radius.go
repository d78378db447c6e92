package experiments

import (
	"fmt"
	"slices"

	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// Reach is what a run's faults and load come at, of one service: so many of its
// instances at once, or a service that is not on this machine.
type Reach struct {
	Service   string
	Instances int      // that faults have at once, at most; of a service elsewhere: that there are
	Of        int      // there are
	Faults    []string // by which
	Host      string   // "": this machine
}

// MoreThanHalf tells whether most of a service goes wrong at once: with it goes what
// the others were to stand in for. A service of one instance has no others.
func (r Reach) MoreThanHalf() bool { return r.Host == "" && r.Of > 1 && 2*r.Instances > r.Of }

// String is "api: kill-two has 2 of 3 instances at once".
func (r Reach) String() string {
	if r.Host != "" {
		return fmt.Sprintf("%s: 1 instance at %s, which is not this machine, and which allow names", r.Service, r.Host)
	}
	return fmt.Sprintf("%s: %d of %d instances at once (%s)", r.Service, r.Instances, r.Of, enumerate(r.Faults))
}

// Radius is the plan's blast radius, as far as there is a choice: services with
// several instances that faults hit, and services on other hosts. Faults that are in
// effect at the same time are taken to hit different instances, whatever the seed
// draws, so that every run of a scenario has the same radius.
func (p *Plan) Radius() []Reach {
	var all []Reach
	hosts := p.Target.Hosts()
	for _, s := range p.Topology.Services {
		if host := hosts[s.Name]; host != "" {
			all = append(all, Reach{Service: s.Name, Instances: 1, Of: 1, Host: host})
		}
		if worst := p.worst(s); worst.Instances > 0 {
			all = append(all, worst)
		}
	}
	return all
}

// worst is when faults have most of a service's instances: some fault begins then.
func (p *Plan) worst(s topology.Service) Reach {
	worst := Reach{Service: s.Name, Of: s.Count()}
	if s.Count() == 1 || p.Variant == Sham {
		return worst
	}
	for _, first := range p.Faults {
		r := Reach{Service: s.Name, Of: s.Count()}
		for _, f := range p.Faults {
			if f.Service != s.Name || first.Service != s.Name || f.At > first.At || f.At+f.For < first.At {
				continue
			}
			r.Instances += hits(f)
			r.Faults = append(r.Faults, f.Spec.Name)
		}
		if r.Instances = min(r.Instances, r.Of); r.Instances > worst.Instances {
			worst = r
		}
	}
	return worst
}

// hits is how many instances a fault picks.
func hits(f faults.Fault) int {
	pick, _ := f.Spec.Selection()
	n, err := pick.Of(max(f.Instances, 1))
	if err != nil {
		return 0 // scenarios refuses it
	}
	return n
}

// enumerate is "a, b and c".
func enumerate(names []string) string {
	text := ""
	for i, name := range slices.Sorted(slices.Values(names)) {
		switch {
		case i > 0 && i == len(names)-1:
			text += " and "
		case i > 0:
			text += ", "
		}
		text += name
	}
	return text
}
