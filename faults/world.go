package faults

import (
	"context"
	"fmt"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/faults/undo"
)

// World is what faults act upon.
type World struct {
	Edge     func(name string) *proxy.Proxy // nil when there is no such edge
	Services any                            // the runtime; it offers some of the capabilities below
	Undo     *undo.Log
	Run      string // id of the run, for the undo records

	edge func(name string) edge // in the place of Edge, for tests
}

// Killer ends an instance by a signal, "KILL" or "TERM". It returns when the
// instance is gone and reaped; an instance that does not run is an error.
type Killer interface {
	Kill(ctx context.Context, service string, instance int, signal string) error
}

// Starter starts an instance that is gone again, and returns when it is ready. It
// leaves an instance that runs alone.
type Starter interface {
	StartAgain(ctx context.Context, service string, instance int) error
}

// Pauser stops an instance where it is, and lets it go on. Both return when the
// kernel shows it so. Pausing an instance that does not run, or is paused, is an
// error; resuming one that runs or is gone is not.
type Pauser interface {
	Pause(ctx context.Context, service string, instance int) error
	Resume(ctx context.Context, service string, instance int) error
	Paused(service string, instance int) (bool, error)
}

// Stopper asks an instance to end, kills it when grace is over, and returns when
// it is gone.
type Stopper interface {
	Terminate(ctx context.Context, service string, instance int, grace time.Duration) error
}

// Lister tells which processes of this machine an instance consists of, the
// first one first; none when it does not run. Where a runtime offers it, Hold
// looks for itself whether they are gone, stopped, or back, and undo records
// name them.
type Lister interface {
	Processes(service string, instance int) (pids []int, err error)
}

// Supported tells why a runtime cannot have this kind of fault; nil if it can.
// services is what World.Services will be, or a nil pointer of its type.
func (k Kind) Supported(services any) error {
	if k.needs == nil || k.needs(services) {
		return nil
	}
	return fmt.Errorf("%s: runtime %s cannot do that: it does not offer all of: %s", k.Verb, runtimeName(services), k.Needs)
}

func runtimeName(services any) string {
	if r, ok := services.(interface{ Runtime() string }); ok {
		return r.Runtime()
	}
	return fmt.Sprintf("%T", services)
}

func offers[Capability any](services any) bool {
	_, ok := services.(Capability)
	return ok
}

// edge is what Hold needs of a proxy.
type edge interface {
	Add(proxy.Rule) (remove func(), err error)
}

func (w World) edgeNamed(name string) (edge, error) {
	if w.edge != nil {
		if e := w.edge(name); e != nil {
			return e, nil
		}
	} else if w.Edge != nil {
		if p := w.Edge(name); p != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("there is no proxy on edge %q", name)
}
