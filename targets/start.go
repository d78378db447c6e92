// Package targets starts, readies and stops the system under test, and does to
// its services what faults ask for: end them, stop them, start them again.
//
// A Spec is what a scenario writes; Resolve makes a topology of it; Start makes
// that run. Services reach each other through addresses that Edges hands out
// beforehand, so all of them can start at the same time.
package targets

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chaosctl/chaosctl/targets/process"
	"github.com/chaosctl/chaosctl/targets/reference"
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
	Timescale float64           // scales the patterns' timers; 0 counts as 1
	Seed      uint64
	Self      string // the program to re-execute for reference services; default: this one
	Run       string // its id, which marks every process (process.Mark); "" = none is marked
	Temp      string // folder for the services' own data, removed by Stop; default: a new one
	Logs      string // folder for <service>.log, <service>@<instance>.log; "" = none are written
	Edges     Edges
	Secrets   map[string]*Secrets // of ReadSecrets
	CA        string              // the file that ${ca} stands for
	Notify    func(Event)         // called in order, from one goroutine at a time; must not block long
}

// The states of an instance, in the journal's words.
const (
	Started   = "started"   // the process exists
	Ready     = "ready"     // and answers; also again after restarted
	Died      = "died"      // by itself, or (Expected) killed by a fault
	Restarted = "restarted" // the process exists again
	Paused    = "paused"
	Resumed   = "resumed"
	Stopped   = "stopped" // because we asked for it politely: a restart, or the end of the run
)

// Event is a step in the life of one instance.
type Event struct {
	Service  string
	Instance int
	State    string // one of the above
	PID      int
	Address  string
	Detail   string   // exit status or signal
	Expected bool     // died because a fault asked for it, stopped in any case
	Log      []string // last lines, with died
	At       time.Time
}

// System is a running target. Its methods may be called from any goroutine.
type System struct {
	config    Config
	reference *reference.System // nil for users' own services
	data      string            // folder with the services' databases
	runtime   *process.Runtime
	instances []*instance               // in the order of the topology
	turns     map[string]*atomic.Uint64 // by service: whose turn it is, see Turn
	token     string                    // by which reference services know us
	client    *http.Client

	life    context.Context // ends when Stop begins
	end     context.CancelCauseFunc
	watches sync.WaitGroup // one per process, until its end is told

	notifying sync.Mutex

	pressing  sync.Mutex
	stressors map[pressKey]*stressor

	stopping sync.Mutex
	stopped  bool
}

// Start starts every service at the same time and returns when all are ready. If
// one does not get there, the error says which, why, and its last lines, and
// nothing is left running. A service that already runs (address) must answer, too.
func Start(ctx context.Context, c Config) (*System, error) {
	s, err := newSystem(c)
	if err != nil {
		return nil, fmt.Errorf("start the system: %w", err)
	}
	// The first that fails makes waiting for the others pointless.
	errFailed := errors.New("another service failed to start")
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make([]error, len(s.instances))
	var all sync.WaitGroup
	for i, in := range s.instances {
		all.Go(func() {
			if errs[i] = in.start(starting, Started); errs[i] != nil {
				cancel(errFailed)
			}
		})
	}
	all.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil || errors.Is(err, errFailed) })
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, s.Stop(context.WithoutCancel(ctx)))...)
	}
	return s, nil
}

func newSystem(c Config) (_ *System, err error) {
	if c.Timescale == 0 {
		c.Timescale = 1
	}
	if c.Notify == nil {
		c.Notify = func(Event) {}
	}
	if c.Edges == nil && len(c.Topology.Edges) > 0 {
		return nil, errors.New("there is nobody to say where edges lead to (Config.Edges)")
	}
	if c.Self == "" {
		if c.Self, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find our own program: %w", err)
		}
	}
	s := &System{config: c, token: rand.Text(), turns: map[string]*atomic.Uint64{}, stressors: map[pressKey]*stressor{}, client: &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if c.Spec.System != "" {
		r, err := c.Spec.reference()
		if err != nil {
			return nil, err
		}
		s.reference = &r
	}
	if c.Logs != "" {
		if err := os.MkdirAll(c.Logs, 0o755); err != nil {
			return nil, fmt.Errorf("make the folder for logs: %w", err)
		}
	}
	if c.Temp == "" {
		if s.config.Temp, err = os.MkdirTemp("", "chaosctl-"); err != nil {
			return nil, fmt.Errorf("make a folder for the services' data: %w", err)
		}
	}
	s.data = filepath.Join(s.config.Temp, "data")
	if err := os.MkdirAll(s.data, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make a folder for the services' data: %w", err), os.RemoveAll(s.config.Temp))
	}
	for _, service := range c.Topology.Services {
		s.turns[service.Name] = new(atomic.Uint64)
		for number := range service.Count() {
			s.instances = append(s.instances, &instance{system: s, service: service, number: number, address: service.Address})
		}
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.runtime = process.StartRuntime()
	return s, nil
}

// stopGrace is how long services have to end by themselves.
const stopGrace = 3 * time.Second

// stopWithin bounds everything that follows the grace.
const stopWithin = 15 * time.Second

// Stop asks every service to end, kills what does not, and removes the services'
// data. When it returns nothing of them is left, or the error says what. An end
// of ctx cuts the grace short, nothing else. It may be called again, and then
// does nothing.
func (s *System) Stop(ctx context.Context) error {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	s.end(errors.New("the system is being stopped"))

	errs := make([]error, len(s.instances))
	var all sync.WaitGroup
	for i, in := range s.instances {
		all.Go(func() {
			in.busy.Lock()
			defer in.busy.Unlock()
			_, errs[i] = in.terminate(ctx, stopGrace)
		})
	}
	all.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	errs = append(errs, s.runtime.Stop(last))
	s.watches.Wait()
	for _, in := range s.instances {
		if in.hold != nil {
			in.hold.Close()
		}
	}
	s.client.CloseIdleConnections()
	if s.config.Run != "" {
		// What a service started in a session of its own has left its group with it.
		_, err := process.KillMarked(last, s.config.Run)
		errs = append(errs, err)
	}
	if err := os.RemoveAll(s.config.Temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove the services' data: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop the system: %w", err)
	}
	return nil
}

func (s *System) notify(e Event) {
	s.notifying.Lock()
	defer s.notifying.Unlock()
	e.At = time.Now()
	s.config.Notify(e)
}
