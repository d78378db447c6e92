// Package targets starts, readies and stops the system under test.
package targets

import (
	"time"

	"github.com/chaosctl/chaosctl/targets/topology"
)

// Edges is the one seam between a system and what stands on its edges. The
// runner implements it with proxies; services are handed addresses and never
// learn of it. Safe for use by several goroutines.
type Edges interface {
	// Resolve says where caller should reach callee's instance: asked before caller starts.
	Resolve(caller, callee string, instance int) (address string, err error)
	// Serves says where callee's instance really listens: told whenever it becomes
	// ready, the first time and after each restart.
	Serves(callee string, instance int, address string)
}

// Config says what to start, and where its traces go.
type Config struct {
	Spec      Spec
	Topology  topology.Topology // of Spec.Resolve
	Timescale float64           // scales the patterns' timers
	Seed      uint64
	Temp      string // folder for the services' own data; removed by Stop
	Logs      string // folder for <service>.log
	Edges     Edges
	Notify    func(Event) // called in order, from one goroutine at a time; must not block long
}

// Event is a step in the life of one instance.
type Event struct {
	Service  string
	Instance int
	State    string // started, ready, died, restarted, paused, resumed, stopped
	PID      int
	Address  string
	Detail   string
	Expected bool
	Log      []string // last lines, with died
	At       time.Time
}
