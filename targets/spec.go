package targets

import (
	"time"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// Spec is the `target:` of a scenario: a reference system with patterns per
// edge, or the user's own services.
type Spec struct {
	System   string                  `yaml:"system" json:"system,omitempty"`
	Runtime  string                  `yaml:"runtime" json:"runtime,omitempty"` // process (default)
	Patterns map[string]pattern.Spec `yaml:"patterns" json:"patterns,omitempty"`
	Services map[string]ServiceSpec  `yaml:"services" json:"services,omitempty"`
}

// ServiceSpec is one of the user's own services: started by Command, or already
// running at Address. Edges come from the ${edge.NAME} it uses in command and env.
type ServiceSpec struct {
	Command  []string          `yaml:"command" json:"command,omitempty"`
	Address  string            `yaml:"address" json:"address,omitempty"`
	Env      map[string]string `yaml:"env" json:"env,omitempty"`
	Dir      string            `yaml:"dir" json:"dir,omitempty"`
	Ready    *ReadySpec        `yaml:"ready" json:"ready,omitempty"`
	Protocol string            `yaml:"protocol" json:"protocol,omitempty"` // of the edges into it: http (default) | tcp
}

// ReadySpec is "GET /healthz", "tcp", or a mapping with a timeout (default 10s).
type ReadySpec struct {
	Path    string        `yaml:"path" json:"path,omitempty"`
	Timeout time.Duration `yaml:"timeout" json:"timeout,omitempty"`
}
