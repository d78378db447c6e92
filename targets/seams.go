package targets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/chaosctl/chaosctl/targets/reference/node"
)

// BreakLookup breaks how a service of a reference system finds one of its callees;
// see node.LookupFault. A service that is started later starts with it.
func (s *System) BreakLookup(ctx context.Context, caller, callee, fail string, delay time.Duration) error {
	return s.changeFaults(ctx, caller, 0, func(f *node.Faults) {
		f.Lookups = maps.Clone(f.Lookups)
		if f.Lookups == nil {
			f.Lookups = map[string]node.LookupFault{}
		}
		f.Lookups[callee] = node.LookupFault{Fail: fail, Delay: delay}
	})
}

// MendLookup is the end of BreakLookup.
func (s *System) MendLookup(ctx context.Context, caller, callee string) error {
	return s.changeFaults(ctx, caller, 0, func(f *node.Faults) {
		f.Lookups = maps.Clone(f.Lookups)
		delete(f.Lookups, callee)
	})
}

// Lookups counts how often a service has looked a callee up since it was started,
// and how often that was broken; running is false while it does not run.
func (s *System) Lookups(ctx context.Context, caller, callee string) (all, broken uint64, running bool, err error) {
	state, running, err := s.askFaults(ctx, caller, 0)
	if err != nil || !running {
		return 0, 0, false, err
	}
	n, ok := state.Lookups[callee]
	if !ok {
		return 0, 0, true, fmt.Errorf("service %q does not call %q", caller, callee)
	}
	return n.All, n.Broken, true, nil
}

// SetClock sets the wall clock of a reference service: ahead by offset, and by drift
// more in each second from now on. 0, 0 is right again. A service that is started
// later starts with it.
func (s *System) SetClock(ctx context.Context, service string, instance int, offset, drift time.Duration) error {
	return s.changeFaults(ctx, service, instance, func(f *node.Faults) {
		f.Clock = nil
		if offset != 0 || drift != 0 {
			f.Clock = &node.ClockFault{Offset: offset, Drift: drift, Since: time.Now()}
		}
	})
}

// clockTries is how often a clock is asked: the quickest answer says it best.
const clockTries = 5

// ClockOffset is how far a reference service's clock is ahead of ours, give or take
// half of what it took to ask; running is false while it does not run.
func (s *System) ClockOffset(ctx context.Context, service string, instance int) (offset, uncertain time.Duration, running bool, err error) {
	for n := range clockTries {
		asked := time.Now()
		state, running, err := s.askFaults(ctx, service, instance)
		took := time.Since(asked)
		if err != nil || !running {
			return 0, 0, false, err
		}
		if half := took / 2; n == 0 || half < uncertain {
			offset, uncertain = state.Now.Sub(asked.Round(0).Add(half)), half
		}
	}
	return offset, uncertain, true, nil
}

// changeFaults changes what is wrong with an instance, for now and for when it is
// started again. One that does not run now needs no telling.
func (s *System) changeFaults(ctx context.Context, service string, instance int, change func(*node.Faults)) error {
	in, err := s.seam(service, instance)
	if err != nil {
		return err
	}
	in.wrong.Lock()
	defer in.wrong.Unlock()
	next := in.faults
	next.Change++
	change(&next)
	in.mu.Lock()
	in.faults = next
	in.mu.Unlock()
	if in.current() == nil {
		return nil
	}
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if _, err := s.control(ctx, in, http.MethodPut, body); err != nil {
		if in.current() == nil {
			return nil // it has ended meanwhile, and what was wrong with it, too
		}
		return fmt.Errorf("tell service %q what is to be wrong with it: %w", service, err)
	}
	return nil
}

func (s *System) askFaults(ctx context.Context, service string, instance int) (state node.FaultState, running bool, err error) {
	in, err := s.seam(service, instance)
	if err != nil {
		return state, false, err
	}
	if in.current() == nil {
		return state, false, nil
	}
	state, err = s.control(ctx, in, http.MethodGet, nil)
	if err != nil {
		if in.current() == nil {
			return state, false, nil
		}
		return state, false, fmt.Errorf("ask service %q what is wrong with it: %w", service, err)
	}
	return state, true, nil
}

// seam finds an instance that can be told to go wrong.
func (s *System) seam(service string, instance int) (*instance, error) {
	in, err := s.instance(service, instance)
	if err != nil {
		return nil, err
	}
	if in.service.Role == "" {
		return nil, fmt.Errorf("service %q is none of a reference system: its clock and its lookups are its own", service)
	}
	return in, nil
}

// control asks an instance's /admin/faults, which needs the run's token.
func (s *System) control(ctx context.Context, in *instance, method string, body []byte) (state node.FaultState, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	address := in.listens()
	if address == "" {
		return state, errors.New("it is not ready yet")
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+address+"/admin/faults", bytes.NewReader(body))
	if err != nil {
		return state, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	answer, err := s.client.Do(r)
	if err != nil {
		return state, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return state, err
	}
	if answer.StatusCode != http.StatusOK {
		return state, fmt.Errorf("it answered %s: %s", answer.Status, bytes.TrimSpace(text))
	}
	return state, json.Unmarshal(text, &state)
}
