package faults

import "time"

// Spec is one fault as a scenario writes it: one verb key, a target, a window.
// Exactly one of the verb fields is set.
//
//	slow-payments:
//	  target: orders -> payments
//	  latency: { delay: 800ms, jitter: 100ms, percent: 50 }
//	  at: 0s        # into `during`
//	  for: 20s      # default: the rest of `during`
type Spec struct {
	Name   string         `yaml:"-" json:"-"`                     // the key it stands under
	Target string         `yaml:"target" json:"target,omitempty"` // "caller -> callee" or a service; none for partition
	At     time.Duration  `yaml:"at" json:"at,omitempty"`         // offset into `during`
	For    *time.Duration `yaml:"for" json:"for,omitempty"`       // default: until `during` ends

	Latency   *Latency   `yaml:"latency" json:"latency,omitempty"`
	Error     *Error     `yaml:"error" json:"error,omitempty"`
	Reset     *Cut       `yaml:"reset" json:"reset,omitempty"`
	Blackhole *Cut       `yaml:"blackhole" json:"blackhole,omitempty"`
	Refuse    *Refuse    `yaml:"refuse" json:"refuse,omitempty"`
	Bandwidth *Bandwidth `yaml:"bandwidth" json:"bandwidth,omitempty"`
	Partition *Partition `yaml:"partition" json:"partition,omitempty"`
	Kill      *Kill      `yaml:"kill" json:"kill,omitempty"`
	Pause     *Pause     `yaml:"pause" json:"pause,omitempty"`
	Restart   *Restart   `yaml:"restart" json:"restart,omitempty"`
}

// Latency adds Delay ± Jitter once per call, to the answer unless Direction says
// "request". On tcp edges it holds back every byte by that much, order kept.
type Latency struct {
	Delay        time.Duration `yaml:"delay" json:"delay"`
	Jitter       time.Duration `yaml:"jitter" json:"jitter,omitempty"`
	Distribution string        `yaml:"distribution" json:"distribution,omitempty"` // uniform (default)
	Percent      *Percent      `yaml:"percent" json:"percent,omitempty"`           // default 100
	Direction    string        `yaml:"direction" json:"direction,omitempty"`       // answer (default) | request
}

// Error answers with Status instead of asking the callee. HTTP edges only.
type Error struct {
	Status  int      `yaml:"status" json:"status,omitempty"` // default 503
	Body    string   `yaml:"body" json:"body,omitempty"`
	Percent *Percent `yaml:"percent" json:"percent,omitempty"`
}

// Cut is reset (RST) or blackhole (silence), after so many bytes of the answer.
type Cut struct {
	Percent *Percent `yaml:"percent" json:"percent,omitempty"`
	After   Bytes    `yaml:"after" json:"after,omitempty"`
}

// Refuse turns connections away before they are open.
type Refuse struct {
	Percent *Percent `yaml:"percent" json:"percent,omitempty"`
}

// Bandwidth lets Rate bytes per second through, per connection, each direction.
type Bandwidth struct {
	Rate ByteRate `yaml:"rate" json:"rate"`
}

// Partition silences every edge from a service of From to one of To
// (Direction "both", the default: and back; "forward": only From -> To).
type Partition struct {
	From      []string `yaml:"from" json:"from"`
	To        []string `yaml:"to" json:"to"`
	Direction string   `yaml:"direction" json:"direction,omitempty"`
}

// Kill sends Signal to the picked instances; the runtime starts them again after Down.
type Kill struct {
	Pick   Pick           `yaml:"pick" json:"pick,omitempty"`     // default 1
	Signal string         `yaml:"signal" json:"signal,omitempty"` // KILL (default) | TERM
	Down   *time.Duration `yaml:"down" json:"down,omitempty"`     // default 1s
}

// Pause stops the picked instances (SIGSTOP) for the fault's time, then SIGCONT.
type Pause struct {
	Pick Pick `yaml:"pick" json:"pick,omitempty"`
}

// Restart asks politely (SIGTERM), waits for Grace, then kills; starts again at once.
type Restart struct {
	Pick  Pick           `yaml:"pick" json:"pick,omitempty"`
	Grace *time.Duration `yaml:"grace" json:"grace,omitempty"` // default 5s
}
