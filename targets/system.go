package targets

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime is the name of what runs the services.
func (s *System) Runtime() string { return "process" }

// Address is where the first instance of a service really listens (host:port); ""
// before it was ready for the first time, and for a service that does not exist.
func (s *System) Address(service string) string {
	in, err := s.instance(service, 0)
	if err != nil {
		return ""
	}
	return in.listens()
}

// Turn is where the next connection to a service is to go: its instances take turns,
// those that do not run are passed over, as long as one does. "" is as Address says.
func (s *System) Turn(service string) string {
	turn, known := s.turns[service]
	if !known {
		return ""
	}
	all := s.instancesOf(service)
	first := turn.Add(1) - 1
	next := func(i int) *instance { return all[(first+uint64(i))%uint64(len(all))] }
	chosen := next(0)
	for i := range all {
		if in := next(i); in.current() != nil {
			chosen = in
			break
		}
	}
	return chosen.listens()
}

// instancesOf are the instances of a service, in their order: Start has put them side
// by side.
func (s *System) instancesOf(service string) []*instance {
	is := func(in *instance) bool { return in.service.Name == service }
	from := slices.IndexFunc(s.instances, is)
	if from < 0 {
		return nil
	}
	return s.instances[from : from+s.instances[from].service.Count()]
}

func (s *System) instance(service string, number int) (*instance, error) {
	i := slices.IndexFunc(s.instances, func(in *instance) bool { return in.service.Name == service && in.number == number })
	if i >= 0 {
		return s.instances[i], nil
	}
	if number != 0 && s.Address(service) != "" {
		return nil, fmt.Errorf("service %q has no instance %d", service, number)
	}
	return nil, fmt.Errorf("there is no service %q (there are: %s)", service, strings.Join(s.config.Topology.Names(), ", "))
}

// own finds an instance that is ours to start, stop and signal, and takes it for
// one operation.
func (s *System) own(service string, number int) (in *instance, release func(), err error) {
	in, err = s.instance(service, number)
	if err != nil {
		return nil, nil, err
	}
	if in.service.Absent != nil {
		return nil, nil, fmt.Errorf("service %q is absent: there is nothing to signal", service)
	}
	if !in.service.Managed() {
		return nil, nil, fmt.Errorf("service %q runs at %s and was not started by us: it is not ours to signal", service, in.service.Address)
	}
	in.busy.Lock()
	return in, in.busy.Unlock, nil
}

// bounded is ctx, but also ends when Stop begins.
func (s *System) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Kill ends an instance with signal KILL or TERM, and everything it forked. It
// returns when all that is gone and the death has been told as expected. An
// instance that does not run is an error.
func (s *System) Kill(ctx context.Context, service string, instance int, signal string) error {
	signals := map[string]unix.Signal{"KILL": unix.SIGKILL, "TERM": unix.SIGTERM}
	number, ok := signals[signal]
	if !ok {
		return fmt.Errorf("kill service %q: signal %q is unknown: use KILL or TERM", service, signal)
	}
	in, release, err := s.own(service, instance)
	if err != nil {
		return err
	}
	defer release()
	return in.kill(ctx, number)
}

// Terminate asks an instance to end (SIGTERM) and kills it after grace. It
// returns when it is gone and that has been told. An instance that does not run
// is an error.
func (s *System) Terminate(ctx context.Context, service string, instance int, grace time.Duration) error {
	in, release, err := s.own(service, instance)
	if err != nil {
		return err
	}
	defer release()
	if in.current() == nil {
		return fmt.Errorf("service %q does not run", service)
	}
	_, err = in.terminate(ctx, grace)
	return err
}

// StartAgain starts an instance that is gone, and returns when it is ready and
// its edges lead to it. One that runs is left alone.
func (s *System) StartAgain(ctx context.Context, service string, instance int) error {
	in, release, err := s.own(service, instance)
	if err != nil {
		return err
	}
	running := in.current() != nil
	release()
	if running {
		return nil
	}
	return in.start(ctx, Restarted)
}

// Pause stops an instance, all its processes, where it is (SIGSTOP). It returns
// when the kernel shows all of them stopped.
func (s *System) Pause(ctx context.Context, service string, instance int) error {
	in, release, err := s.own(service, instance)
	if err != nil {
		return err
	}
	defer release()
	p := in.current()
	if p == nil {
		return fmt.Errorf("service %q does not run", service)
	}
	if p.Paused() {
		return fmt.Errorf("service %q is paused already", service)
	}
	if err := p.Pause(ctx); err != nil {
		return err
	}
	in.tell(Event{State: Paused, PID: p.PID(), Address: in.listens()})
	return nil
}

// Resume lets a paused instance go on (SIGCONT). It returns when the kernel shows
// all its processes running. One that is gone, or was not paused, is left alone.
func (s *System) Resume(ctx context.Context, service string, instance int) error {
	in, release, err := s.own(service, instance)
	if err != nil {
		return err
	}
	defer release()
	p := in.current()
	if p == nil {
		return nil
	}
	paused := p.Paused()
	if err := p.Resume(ctx); err != nil {
		return err
	}
	if paused {
		in.tell(Event{State: Resumed, PID: p.PID(), Address: in.listens()})
	}
	return nil
}

// Paused tells whether all processes of an instance are stopped; one that does
// not run is not paused.
func (s *System) Paused(service string, instance int) (bool, error) {
	in, err := s.instance(service, instance)
	if err != nil {
		return false, err
	}
	p := in.current()
	return p != nil && p.Paused(), nil
}

// Processes lists the processes of an instance, the first one first; none when
// it does not run, or is not ours.
func (s *System) Processes(service string, instance int) ([]int, error) {
	in, err := s.instance(service, instance)
	if err != nil {
		return nil, err
	}
	if p := in.current(); p != nil {
		return p.Members()
	}
	return nil, nil
}

// askWithin bounds one question to a service's admin page: it may be paused, or
// overloaded, and the next question comes soon.
const askWithin = 250 * time.Millisecond

// Breakers is the state of every breaker ("closed", "open", "half-open") by the
// name of its edge, as the reference services tell it. Those that do not answer
// in time are left out; users' own services are not asked.
func (s *System) Breakers(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	states := map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, in := range s.instances {
		p := in.current()
		if in.service.Role == "" || p == nil {
			continue
		}
		all.Go(func() {
			told, err := s.adminState(ctx, s.Address(in.service.Name))
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for edge, state := range told {
				states[edge] = state
			}
		})
	}
	all.Wait()
	return states
}

func (s *System) adminState(ctx context.Context, address string) (breakers map[string]string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/admin/state", nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/admin/state of %s answered %s", address, answer.Status)
	}
	var state struct {
		Breakers map[string]string `json:"breakers"`
	}
	body := io.LimitReader(answer.Body, 1<<20)
	err = json.NewDecoder(body).Decode(&state)
	_, _ = io.Copy(io.Discard, body) // to the end, so that the connection is used again
	return state.Breakers, err
}

// Check judges one invariant of a reference system from its services' own
// databases; see reference.System.
func (s *System) Check(ctx context.Context, invariant string) (ok bool, detail string, values map[string]float64, err error) {
	if s.reference == nil || s.reference.Check == nil {
		return false, "", nil, fmt.Errorf("invariant %q: only reference systems have invariants, not services of your own", invariant)
	}
	if !slices.Contains(s.reference.Invariants, invariant) {
		return false, "", nil, fmt.Errorf("system %q has no invariant %q (it has: %s)", s.reference.Name, invariant, strings.Join(s.reference.Invariants, ", "))
	}
	return s.reference.Check(ctx, s.data, invariant)
}

// Drained tells whether a reference system has finished what it accepted. Nothing
// is known of users' own services: they count as drained.
func (s *System) Drained(ctx context.Context) (ok bool, detail string, err error) {
	if s.reference == nil || s.reference.Drained == nil {
		return true, "nothing to wait for", nil
	}
	return s.reference.Drained(ctx, s.data)
}
