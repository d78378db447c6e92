package targets

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/targets/probe"
	"github.com/chaosctl/chaosctl/targets/process"
	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// instance is one running copy of a service.
//
//	nothing ──start──> started ──> ready <──pause/resume──> paused
//	   ^                               │                       │
//	   └── died (by itself, killed), stopped (terminated) <────┘
type instance struct {
	system  *System
	service topology.Service
	number  int

	wrong sync.Mutex // one change of faults at a time

	busy sync.Mutex // one of start, kill, pause, … at a time
	port int        // of a user's command, kept over restarts; under busy
	hold io.Closer  // holds that port against other runs; nil: no port of ours yet

	mu      sync.Mutex
	process *process.Process // nil: none yet; Done: gone
	told    chan struct{}    // closed when the process is gone and that has been told
	address string           // where it really listens, or did last
	faults  node.Faults      // what is wrong with it on purpose, now and when it is started again
	ending  string           // what an end of the process is to be called, when it is our doing
}

// start starts the process, or finds out that the service runs where its address
// says, and returns when it is ready. as is Started or Restarted. What does not
// get ready is ended.
func (in *instance) start(ctx context.Context, as string) error {
	in.busy.Lock()
	defer in.busy.Unlock()
	p, err := in.bring(ctx, as)
	if err == nil {
		return nil
	}
	tail := ""
	if p != nil {
		in.mu.Lock()
		told := in.told
		in.mu.Unlock()
		_, stopErr := in.terminate(ctx, stopGrace)
		if stopErr == nil {
			<-told // its end is told before the failure is
		}
		err = errors.Join(err, stopErr)
		tail = lastLines(p.Tail())
	}
	return fmt.Errorf("%s: %w%s", in.who(), err, tail)
}

// who is the instance in messages.
func (in *instance) who() string {
	if in.service.Count() == 1 {
		return fmt.Sprintf("service %q", in.service.Name)
	}
	return fmt.Sprintf("service %q, instance %d", in.service.Name, in.number)
}

// file is the instance in the names of files. No service has an @ in its name.
func (in *instance) file() string {
	if in.service.Count() == 1 {
		return in.service.Name
	}
	return fmt.Sprintf("%s@%d", in.service.Name, in.number)
}

// bring does the work of start. The process is returned also with an error, for
// its last lines.
func (in *instance) bring(ctx context.Context, as string) (*process.Process, error) {
	ctx, cancel := in.system.bounded(ctx)
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	s := in.service
	if s.Absent != nil {
		in.ready(absent, 0)
		return nil, nil
	}
	if !s.Managed() {
		if err := in.awaitReady(ctx, s.Address, nil); err != nil {
			return nil, fmt.Errorf("at its address %s: %w", s.Address, err)
		}
		in.ready(s.Address, 0)
		return nil, nil
	}
	command, err := in.command()
	if err != nil {
		return nil, err
	}
	p, err := in.system.runtime.Start(command)
	if err != nil {
		return nil, err
	}
	in.watch(p, as)

	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(in.port))
	if s.Role != "" {
		if address, err = in.awaitListening(ctx, p); err != nil {
			return p, err
		}
	}
	if err := in.awaitReady(ctx, address, p); err != nil {
		return p, err
	}
	in.ready(address, p.PID())
	return p, nil
}

// absent is where a service is that is not there, in the words of Edges.Serves.
const absent = "none"

func (in *instance) ready(address string, pid int) {
	in.mu.Lock()
	in.address = address
	in.mu.Unlock()
	if e := in.system.config.Edges; e != nil {
		e.Serves(in.service.Name, in.number, address)
	}
	in.tell(Event{State: Ready, PID: pid, Address: address})
}

// listens is where it really listens, or did last; "" before it was ready for the
// first time.
func (in *instance) listens() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.address
}

// watch tells of the process now, and of its end then.
func (in *instance) watch(p *process.Process, as string) {
	told := make(chan struct{})
	in.mu.Lock()
	in.process, in.told, in.ending = p, told, ""
	in.mu.Unlock()
	in.tell(Event{State: as, PID: p.PID()})
	in.system.watches.Go(func() {
		defer close(told)
		<-p.Done()
		in.mu.Lock()
		e := Event{State: in.ending, PID: p.PID(), Address: in.address, Detail: p.Exit().String(), Expected: in.ending != ""}
		in.mu.Unlock()
		if e.State == "" {
			e.State = Died
		}
		if e.State == Died {
			e.Log = p.Tail()
		}
		in.tell(e)
	})
}

func (in *instance) tell(e Event) {
	e.Service, e.Instance = in.service.Name, in.number
	in.system.notify(e)
}

// awaitListening waits for the line in which a reference service says where it
// listens.
func (in *instance) awaitListening(ctx context.Context, p *process.Process) (address string, err error) {
	patience := time.NewTimer(in.patience())
	defer patience.Stop()
	select {
	case address, said := <-p.Listening():
		if said {
			return address, nil
		}
		// Its output has ended: so does it, unless something is very wrong.
		select {
		case <-p.Done():
			return "", endedEarly(p)
		case <-patience.C:
			return "", errors.New("it does not say where it listens")
		}
	case <-patience.C:
		return "", fmt.Errorf("it did not say where it listens within %s", in.patience())
	case <-ctx.Done():
		return "", fmt.Errorf("not ready yet: %w", context.Cause(ctx))
	}
}

// awaitReady asks at the service's own address, never through an edge, until it
// is ready. p, where there is one, must not end before.
func (in *instance) awaitReady(ctx context.Context, address string, p *process.Process) error {
	asking, cancel := context.WithTimeout(ctx, in.patience())
	defer cancel()
	if p != nil {
		var all sync.WaitGroup
		defer all.Wait()
		defer cancel()
		all.Go(func() {
			select {
			case <-p.Done():
				cancel()
			case <-asking.Done():
			}
		})
	}
	var secure *tls.Config
	if secrets := in.system.config.Secrets[in.service.Name]; secrets != nil {
		var err error
		if secure, err = secrets.Config(address); err != nil {
			return err
		}
	}
	err := probe.Until(asking, func(ctx context.Context) error {
		if in.service.Ready.UDP {
			return probe.UDP(ctx, address)
		}
		return probe.Ask(ctx, address, in.service.Ready.Path, secure)
	})
	if p != nil {
		if err == nil && len(in.service.Command) > 0 && !in.service.UDP && process.StrangerListens(p.PID(), in.port) {
			select {
			case <-asking.Done(): // p has ended, or time is up
			case <-time.After(strangerGrace):
			}
		}
		select {
		case <-p.Done(): // whoever has answered, it was not our process
			return endedEarly(p)
		default:
		}
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("not ready yet: %w", context.Cause(ctx))
	case len(in.service.Command) > 0:
		return fmt.Errorf("not ready within %s: %w (it is to listen on %s127.0.0.1:%d, which is ${port} in its command and $PORT in its environment)",
			in.patience(), err, map[bool]string{true: "UDP "}[in.service.UDP], in.port)
	}
	return fmt.Errorf("not ready within %s: %w", in.patience(), err)
}

// strangerGrace is how long a service must last on whose port somebody else has
// answered: whoever has the port by chance, so that ours fails, or whom ours has
// told to listen, such as the daemon of containers.
const strangerGrace = time.Second

func (in *instance) patience() time.Duration {
	if in.service.Ready.Timeout > 0 {
		return in.service.Ready.Timeout
	}
	return readyWithin
}

func endedEarly(p *process.Process) error {
	if e := p.Exit(); e.Signal == 0 && e.Code == 0 {
		return fmt.Errorf("it ended before it was ready (%s); a service has to stay in the foreground", e)
	}
	return fmt.Errorf("it ended before it was ready (%s)", p.Exit())
}

// lastLines is the end of a service's output as part of a message.
func lastLines(lines []string) string {
	if len(lines) == 0 {
		return "; it has said nothing"
	}
	lines = lines[max(0, len(lines)-10):]
	return "; its last lines:\n    | " + strings.Join(lines, "\n    | ")
}

// command makes the command line, with every edge resolved.
func (in *instance) command() (process.Command, error) {
	s, c := in.service, in.system.config
	command := process.Command{Name: s.Name, Dir: s.Dir}
	if c.Run != "" {
		command.Env = []string{process.Mark + "=" + c.Run}
	}
	if c.Logs != "" {
		command.Log = filepath.Join(c.Logs, in.file()+".log")
	}
	if s.Role != "" {
		path, err := in.writeConfig()
		command.Args = []string{c.Self, "service", s.Role, path}
		command.Announces = true
		return command, err
	}
	if in.port == 0 {
		var err error
		if in.port, in.hold, err = process.FreePort(in.service.UDP); err != nil {
			return command, err
		}
	} else if err := process.PortFree(net.JoinHostPort("127.0.0.1", strconv.Itoa(in.port)), in.service.UDP); err != nil {
		return command, fmt.Errorf("its port %d is taken: %w", in.port, err)
	}
	value := func(word string) (string, error) {
		switch word {
		case "port":
			return strconv.Itoa(in.port), nil
		case "instance":
			return strconv.Itoa(in.number), nil
		case "self":
			return c.Self, nil
		case "ca":
			return c.CA, nil
		case "data":
			// Absolute: the command may have a working directory of its own.
			folder, err := filepath.Abs(filepath.Join(in.system.data, in.file()))
			if err != nil {
				return "", err
			}
			return folder, os.MkdirAll(folder, 0o755)
		}
		callee, isEdge := strings.CutPrefix(word, "edge.")
		if !isEdge {
			return "", fmt.Errorf("${%s} is unknown", word)
		}
		return c.Edges.Resolve(s.Name, callee, 0)
	}
	for _, arg := range s.Command {
		text, err := expand(arg, value)
		if err != nil {
			return command, fmt.Errorf("command: %w", err)
		}
		command.Args = append(command.Args, text)
	}
	command.Env = append(command.Env, "PORT="+strconv.Itoa(in.port))
	for _, key := range slices.Sorted(maps.Keys(s.Env)) {
		text, err := expand(s.Env[key], value)
		if err != nil {
			return command, fmt.Errorf("env %s: %w", key, err)
		}
		command.Env = append(command.Env, key+"="+text)
	}
	return command, nil
}

// writeConfig writes what a reference service is told, anew for every start.
func (in *instance) writeConfig() (path string, err error) {
	s, c := in.service, in.system.config
	told := node.Config{
		Service: s.Name, Instance: in.number, Role: s.Role, Listen: "127.0.0.1:0", Data: in.system.data,
		Seed: c.Seed, Edges: map[string]node.Edge{}, Scale: c.Timescale, Parent: os.Getpid(), Control: in.system.token,
		Sagas: c.Spec.Sagas[s.Name],
	}
	in.mu.Lock()
	told.Faults = in.faults
	in.mu.Unlock()
	for _, e := range c.Topology.Edges {
		if e.Caller != s.Name {
			continue
		}
		address, err := c.Edges.Resolve(e.Caller, e.Callee, 0)
		if err != nil {
			return "", fmt.Errorf("edge %q: %w", e.Name(), err)
		}
		told.Edges[e.Callee] = node.Edge{Address: address, Settings: c.Spec.Settings(e, c.Timescale)}
	}
	text, err := json.MarshalIndent(told, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write its configuration: %w", err)
	}
	path = filepath.Join(c.Temp, fmt.Sprintf("%s-%d.json", s.Name, in.number))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write its configuration: %w", err)
	}
	return path, nil
}

// current is the process, if it has not ended.
func (in *instance) current() *process.Process {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.process == nil {
		return nil
	}
	select {
	case <-in.process.Done():
		return nil
	default:
		return in.process
	}
}

// expect says what the coming end of the process is to be called.
func (in *instance) expect(ending string) (told <-chan struct{}) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ending = ending
	return in.told
}

// terminate ends the process, if there is one, and returns when that is told.
// Under busy.
func (in *instance) terminate(ctx context.Context, grace time.Duration) (forced bool, err error) {
	p := in.current()
	if p == nil {
		return false, nil
	}
	told := in.expect(Stopped)
	forced, err = p.Stop(ctx, grace)
	if err == nil {
		<-told
	}
	return forced, err
}

// kill ends the process by a signal. A polite one that is not heard before ctx
// ends is followed by SIGKILL, so that the outcome is known. Under busy.
func (in *instance) kill(ctx context.Context, signal unix.Signal) error {
	p := in.current()
	if p == nil {
		return fmt.Errorf("%s does not run", in.who())
	}
	told := in.expect(Died)
	err := p.Kill(ctx, signal)
	if err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		if worse := p.Kill(last, unix.SIGKILL); worse != nil {
			return errors.Join(err, worse)
		}
	}
	<-told
	return err
}
