// Package process runs services as child processes of this one, so that each
// can be killed, stopped and started again, and none outlives us.
//
// Three things tie a child to us. It dies with us (parent-death signal). It leads
// a process group of its own, through which its descendants are signalled, and
// without which Ctrl-C at the terminal would reach it before us. And it is reaped
// only after its whole group is gone: until then its number stays taken, so that
// no signal of ours can hit a stranger.
//
//	started ──> running <──SIGSTOP/SIGCONT──> stopped
//	               └──── exits, or is killed ────┴──> group killed ──> output drained ──> reaped (Done)
//
// Linux only.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// Runtime starts child processes. Its methods may be called from any goroutine.
type Runtime struct {
	orders chan order
	forker sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	children map[*Process]struct{}
}

// Command is a child to be.
type Command struct {
	Name string   // of the service, for messages
	Args []string // program and arguments
	Dir  string   // working directory; default: ours
	Env  []string // "KEY=value", added to the minimal environment of Environ
	Log  string   // file to which its output is appended; "" = none
	// Announces says that the first line of its standard output will be
	// {"listening":"host:port"}; see Process.Listening.
	Announces bool
}

type order struct {
	cmd  *exec.Cmd
	done chan error
}

// StartRuntime returns a runtime without children. Stop ends it.
//
// All children are forked by one goroutine that keeps its thread for as long as
// the runtime lives: the kernel sends the parent-death signal when the *thread*
// that forked ends, and threads of ordinary goroutines may end at any time.
func StartRuntime() *Runtime {
	r := &Runtime{orders: make(chan order), children: make(map[*Process]struct{})}
	r.forker.Go(func() {
		// Never unlocked: when this goroutine ends so does its thread, and a
		// child that Stop could not get rid of is killed by the kernel.
		runtime.LockOSThread()
		ordinary() // what it forks inherits this thread's priority
		for o := range r.orders {
			o.done <- o.cmd.Start()
		}
	})
	return r
}

// Start forks and executes c. A program that does not exist, or is not
// executable, is an error here; everything later shows in the Process. The error
// leaves it to the caller to say which service it is about.
func (r *Runtime) Start(c Command) (*Process, error) {
	program, err := find(c)
	if err != nil {
		return nil, err
	}
	p, files, err := newProcess(c)
	if err != nil {
		return nil, err
	}
	p.cmd = &exec.Cmd{
		Path:   program,
		Args:   c.Args,
		Dir:    c.Dir,
		Env:    append(Environ(), c.Env...),
		Stdout: files.stdout,
		Stderr: files.stderr,
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:   true,
			Pdeathsig: syscall.SIGKILL,
		},
	}
	err = r.fork(p)
	err = errors.Join(err, files.closeChildSide())
	if p.cmd.Process == nil {
		p.abandon()
		return nil, err
	}
	p.run(func() {
		r.mu.Lock()
		delete(r.children, p)
		r.mu.Unlock()
	})
	return p, nil
}

// fork has the forker start p, unless the runtime is stopped. The lock is held
// meanwhile, so that Stop sees every child that exists.
func (r *Runtime) fork(p *Process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("the runtime is stopped")
	}
	o := order{cmd: p.cmd, done: make(chan error, 1)}
	r.orders <- o
	if err := <-o.done; err != nil {
		return err
	}
	r.children[p] = struct{}{}
	return nil
}

// Stop kills every child that still runs, waits until it and its group are gone,
// and ends the runtime. Whoever wants an orderly end calls Process.Stop before.
// The error names children that did not go away before ctx ended. Stop may be
// called again.
func (r *Runtime) Stop(ctx context.Context) error {
	r.mu.Lock()
	var left []*Process
	for p := range r.children {
		left = append(left, p)
	}
	if !r.closed {
		r.closed = true
		close(r.orders)
	}
	r.mu.Unlock()
	var failed []error
	for _, p := range left {
		failed = append(failed, p.Signal(syscall.SIGKILL))
	}
	for _, p := range left {
		select {
		case <-p.Done():
		case <-ctx.Done():
			failed = append(failed, fmt.Errorf("%q (pid %d) did not die: %w", p.name, p.PID(), context.Cause(ctx)))
		}
	}
	r.forker.Wait()
	return errors.Join(failed...)
}

// find resolves the program like a shell would, but relative to c.Dir, and says
// where it looked.
func find(c Command) (string, error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return "", errors.New("the command is empty")
	}
	if c.Dir != "" {
		if info, err := os.Stat(c.Dir); err != nil {
			return "", fmt.Errorf("working directory: %w", err)
		} else if !info.IsDir() {
			return "", fmt.Errorf("working directory %s is not a directory", c.Dir)
		}
	}
	name := c.Args[0]
	if !strings.Contains(name, "/") {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("there is no command %q in PATH", name)
		}
		return path, nil
	}
	path := name
	if !filepath.IsAbs(path) {
		abs, err := filepath.Abs(filepath.Join(c.Dir, path))
		if err != nil {
			return "", err
		}
		path = abs
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("there is no file %s", path)
	case err != nil:
		return "", err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s is not executable", path)
	}
	return path, nil
}

// Environ is what every child is given: PATH, HOME, TMPDIR and LANG of ours where
// they are set, and nothing else, so that a run does not depend on who starts it.
func Environ() []string {
	var env []string
	for _, key := range []string{"PATH", "HOME", "TMPDIR", "LANG"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}
