// Package reference says what a reference system is: a set of small services
// of our own, built to be broken and then asked whether they kept their
// promises. The systems themselves live beside it (shop, …); what a service
// process is made of lives in node; targets holds the one table of systems.
//
// This package is a leaf: it knows topology and patterns, nothing else.
package reference

import (
	"context"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// System is one reference system: what it consists of, how to load it, and how
// to ask it the truth afterwards. It is plain data and functions without state,
// safe for use by several goroutines.
type System struct {
	Name     string
	Topology topology.Topology

	// Defaults are the resilience settings of an edge that the scenario leaves
	// alone, with unscaled timers.
	Defaults func(edge topology.Edge) pattern.Settings

	// Sagas are the services that run sagas, and can be told where to keep them.
	Sagas []string

	// Samples maps "METHOD /path" to a request body worth sending, in the load
	// generator's template language; empty for requests without a body.
	Samples map[string]string

	// Invariants lists the names that Check understands.
	Invariants []string

	// Check judges one invariant from the services' own databases in the folder
	// data, which it opens read-only: the services may still be running, but
	// Drained must have said yes, because sagas under way look like broken
	// ones. ok tells whether the invariant holds; detail says so in one line
	// with exact numbers, and names offenders; values holds the same numbers
	// for the report. err means that the question could not be answered.
	Check func(ctx context.Context, data, invariant string) (ok bool, detail string, values map[string]float64, err error)

	// Drained tells whether the system has finished what the load began, so
	// that Check may be asked; if not, detail says how much is pending.
	Drained func(ctx context.Context, data string) (ok bool, detail string, err error)
}
