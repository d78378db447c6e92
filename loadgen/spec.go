package loadgen

import (
	"time"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

// Spec is one load stream as a scenario writes it.
//
//	shoppers:
//	  request: POST /checkout
//	  to: gateway
//	  rate: 200/s          # open model; or ramp:, stages:; or users: with think: (closed model)
type Spec struct {
	Name        string            `yaml:"-" json:"-"`                         // the key it stands under
	To          string            `yaml:"to" json:"to"`                       // the service that is asked
	Request     *Request          `yaml:"request" json:"request,omitempty"`   // "POST /checkout", or a mapping
	Requests    []Request         `yaml:"requests" json:"requests,omitempty"` // a weighted mix
	Rate        *arrival.Rate     `yaml:"rate" json:"rate,omitempty"`
	Ramp        *Ramp             `yaml:"ramp" json:"ramp,omitempty"`
	Stages      []Stage           `yaml:"stages" json:"stages,omitempty"`
	Users       int               `yaml:"users" json:"users,omitempty"`
	Think       time.Duration     `yaml:"think" json:"think,omitempty"`
	Body        string            `yaml:"body" json:"body,omitempty"`               // for every request that has none of its own
	Headers     map[string]string `yaml:"headers" json:"headers,omitempty"`         // the same
	Timeout     *time.Duration    `yaml:"timeout" json:"timeout,omitempty"`         // since due; default 10s
	OK          []StatusSet       `yaml:"ok" json:"ok,omitempty"`                   // default: 200-399
	Connections int               `yaml:"connections" json:"connections,omitempty"` // most open at once; default 1024
}

// Request is one kind of request, short form "METHOD /path".
type Request struct {
	Method  string            `yaml:"method" json:"method"`
	Path    string            `yaml:"path" json:"path"`                 // template
	Body    string            `yaml:"body" json:"body,omitempty"`       // template
	Headers map[string]string `yaml:"headers" json:"headers,omitempty"` // templates
	Timeout *time.Duration    `yaml:"timeout" json:"timeout,omitempty"`
	Weight  int               `yaml:"weight" json:"weight,omitempty"` // default 1
}

// Ramp goes from one rate to another in a straight line, then stays there.
type Ramp struct {
	From arrival.Rate  `yaml:"from" json:"from"`
	To   arrival.Rate  `yaml:"to" json:"to"`
	Over time.Duration `yaml:"over" json:"over"`
}

// Stage is one leg of a stepwise load: constant at Rate, or a straight line from
// where the stage before ended to To. The last stage's rate is kept to the end.
type Stage struct {
	Rate *arrival.Rate `yaml:"rate" json:"rate,omitempty"`
	To   *arrival.Rate `yaml:"to" json:"to,omitempty"`
	For  time.Duration `yaml:"for" json:"for"`
}

// StatusSet is "2xx", "402" or "200-399".
type StatusSet struct {
	From int `json:"from"`
	To   int `json:"to"`
}
