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

// Stresser presses on an instance from beside it, by a process of its own that dies
// with us, in the instance's control groups where it has some of its own; where says
// which, and pid, where that is a process of this machine, else 0. fault tells the processes of an instance apart. Both ways to start return
// when the effect is there; workers 0 is a number that suits the machine, ratio 0 says
// that bytes counts.
type Stresser interface {
	StressCPU(ctx context.Context, service string, instance int, fault string, workers int, load float64) (pid, started int, where string, err error)
	StressMemory(ctx context.Context, service string, instance int, fault string, bytes int64, ratio float64) (pid int, held int64, where string, err error)
	// Pressure is what the process has done so far: held_s, cpu_s, wait_s,
	// rss_bytes, and victim_cpu_s where that is known.
	Pressure(service string, instance int, fault string) (map[string]float64, error)
	// Relieve ends the process, and returns when it is gone; that there is none is no error.
	Relieve(ctx context.Context, service string, instance int, fault string) error
}

// DataKeeper knows where an instance keeps its data.
type DataKeeper interface {
	DataFolder(service string, instance int) (string, error)
}

// LookupBreaker breaks how a caller finds its callee, on the caller's side. One
// that does not run takes it up when it is started again.
type LookupBreaker interface {
	BreakLookup(ctx context.Context, caller, callee, fail string, delay time.Duration) error
	MendLookup(ctx context.Context, caller, callee string) error
	// Lookups counts since the caller was started: those that were asked for, and
	// those that were broken. running is false where nobody is there to ask.
	Lookups(ctx context.Context, caller, callee string) (all, broken uint64, running bool, err error)
}

// ClockSetter sets the wall clock of an instance; 0, 0 is right again. One that does
// not run takes it up when it is started again.
type ClockSetter interface {
	SetClock(ctx context.Context, service string, instance int, offset, drift time.Duration) error
	// ClockOffset is by how much an instance's clock is ahead of ours, give or take
	// uncertain. running is false where nobody is there to ask.
	ClockOffset(ctx context.Context, service string, instance int) (offset, uncertain time.Duration, running bool, err error)
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
