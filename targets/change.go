package targets

import (
	"maps"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// Change is what a variant of a target has otherwise than the target itself; what
// it does not name stays.
type Change struct {
	Patterns map[string]pattern.Spec  // per edge of a reference system: in place of the target's
	Sagas    map[string]pattern.Sagas // per service of a reference system
	Services map[string]ServiceChange // of the user's own
}

// ServiceChange is what one of the user's own services is started with otherwise.
type ServiceChange struct {
	Command []string          `yaml:"command" json:"command,omitempty"` // in place of its own
	Env     map[string]string `yaml:"env" json:"env,omitempty"`         // over its own
}

// Empty tells whether nothing is changed.
func (c Change) Empty() bool {
	for _, s := range c.Services {
		if len(s.Command) > 0 || len(s.Env) > 0 {
			return false
		}
	}
	return len(c.Patterns) == 0 && len(c.Sagas) == 0
}

// With is the target with the change made. Services that it does not have are left
// out: whoever reads the change says so.
func (s Spec) With(c Change) Spec {
	if len(c.Patterns) > 0 {
		all := map[string]pattern.Spec{}
		for _, from := range []map[string]pattern.Spec{s.Patterns, c.Patterns} {
			for edge, spec := range from {
				all[edgeName(edge)] = spec
			}
		}
		s.Patterns = all
	}
	if len(c.Sagas) > 0 {
		s.Sagas = over(s.Sagas, c.Sagas)
	}
	if len(c.Services) > 0 {
		s.Services = maps.Clone(s.Services)
	}
	for name, change := range c.Services {
		service, known := s.Services[name]
		if !known {
			continue
		}
		if len(change.Command) > 0 {
			service.Command = change.Command
		}
		service.Env = over(service.Env, change.Env)
		s.Services[name] = service
	}
	return s
}

// over is base with more laid over it; neither is changed.
func over[K comparable, V any](base, more map[K]V) map[K]V {
	if len(more) == 0 {
		return base
	}
	all := map[K]V{}
	maps.Copy(all, base)
	maps.Copy(all, more)
	return all
}

// edgeName spells an edge in one way, whatever its blanks.
func edgeName(s string) string {
	caller, callee, err := topology.ParseEdge(s)
	if err != nil {
		return s
	}
	return topology.Edge{Caller: caller, Callee: callee}.Name()
}
