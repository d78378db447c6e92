package process

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one child and its group. Its methods may be called from any
// goroutine, also after it is gone.
type Process struct {
	name string
	cmd  *exec.Cmd
	out  *output

	exited chan struct{} // the child has exited; its group may not be gone yet
	done   chan struct{} // group gone, output drained, reaped
	exit   Exit
	err    error

	mu     sync.Mutex // holds off reaping while a signal is sent
	reaped bool
}

// Exit is how a process ended: Signal is 0 when it exited by itself.
type Exit struct {
	Code   int
	Signal syscall.Signal
}

// String is "exit status 1" or "killed by SIGKILL".
func (e Exit) String() string {
	if e.Signal != 0 {
		return "killed by " + unix.SignalName(e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// gone bounds how long the rest of a group may take to disappear after SIGKILL.
const gone = 5 * time.Second

func newProcess(c Command) (*Process, *childFiles, error) {
	out, files, err := newOutput(c)
	if err != nil {
		return nil, nil, err
	}
	return &Process{name: c.Name, out: out, exited: make(chan struct{}), done: make(chan struct{})}, files, nil
}

// abandon frees what newProcess opened, for a process that never came to be.
func (p *Process) abandon() { p.out.close() }

// run starts to collect output and to wait for the end; when that has come and
// all is cleaned up it calls last, then closes done.
func (p *Process) run(last func()) {
	p.out.start()
	go func() {
		defer close(p.done)
		defer last()
		p.await()
	}()
}

// await sees the child off. The order matters: as long as the child is not
// reaped, its process number, and with it the number of its group, belongs to
// us, and the group can be signalled without hitting anybody else.
func (p *Process) await() {
	pid := p.cmd.Process.Pid
	var err error
	for {
		err = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		p.err = errors.Join(p.err, fmt.Errorf("wait for %q (pid %d): %w", p.name, pid, err))
	}
	close(p.exited)

	// A service ends with its first process; what it forked goes with it.
	ctx, cancel := context.WithTimeout(context.Background(), gone)
	defer cancel()
	if err := p.killGroup(ctx, pid); err != nil {
		p.err = errors.Join(p.err, err)
	}
	if err := p.out.drain(); err != nil {
		p.err = errors.Join(p.err, fmt.Errorf("log of %q: %w", p.name, err))
	}

	p.mu.Lock()
	p.reaped = true
	_ = p.cmd.Wait() // how it ended stands in ProcessState; it has exited, so this does not block
	p.mu.Unlock()
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		p.exit = Exit{Code: s.ExitStatus()}
		if s.Signaled() {
			p.exit = Exit{Signal: s.Signal()}
		}
	}
}

// killGroup kills the group until nobody but zombies is left in it. Once is not
// enough: a member may have been forking.
func (p *Process) killGroup(ctx context.Context, pgid int) error {
	return poll(ctx, func() (bool, error) {
		members, err := Group(pgid)
		if err != nil || len(members) == 0 {
			return err == nil, err
		}
		if err := unix.Kill(-pgid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return false, fmt.Errorf("kill the process group of %q: %w", p.name, err)
		}
		return false, nil
	}, func() error {
		members, _ := Group(pgid)
		return fmt.Errorf("processes %v of %q did not die of SIGKILL", members, p.name)
	})
}

// PID is the child's process number, and the number of its group.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child is reaped, its group is gone and its output is
// in the log.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit tells how it ended; only after Done.
func (p *Process) Exit() Exit { return p.exit }

// Err is what went wrong in seeing it off: a group member that did not die, a
// log that could not be written. Only after Done.
func (p *Process) Err() error { return p.err }

// Listening gets the address that the child announced, once; it is closed
// without one when the child ends its output before.
func (p *Process) Listening() <-chan string { return p.out.listening }

// Tail is the last lines of its output, oldest first.
func (p *Process) Tail() []string { return p.out.ring.lines() }

// Signal sends s to the whole group. A process that is gone is not an error.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return nil
	}
	if err := unix.Kill(-p.PID(), s); err != nil && err != unix.ESRCH {
		return fmt.Errorf("send %s to %q (pid %d): %w", unix.SignalName(s), p.name, p.PID(), err)
	}
	return nil
}

// Kill sends s to the group and waits until it is gone, at most until ctx ends.
func (p *Process) Kill(ctx context.Context, s syscall.Signal) error {
	if err := p.Signal(s); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%q (pid %d) did not die of %s: %w", p.name, p.PID(), unix.SignalName(s), context.Cause(ctx))
	}
}

// Stop asks politely (SIGTERM), also a paused child, and kills after grace.
// forced tells that it came to that. An end of ctx cuts the grace short.
func (p *Process) Stop(ctx context.Context, grace time.Duration) (forced bool, err error) {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return false, err
	}
	if err := p.Signal(unix.SIGCONT); err != nil { // a stopped process takes no SIGTERM
		return false, err
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-p.done:
		return false, p.err
	case <-patience.C:
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*gone)
	defer cancel()
	if err := p.Kill(last, unix.SIGKILL); err != nil {
		return true, err
	}
	return true, p.err
}

// Pause stops the group (SIGSTOP) and waits until the kernel shows every member
// as stopped.
func (p *Process) Pause(ctx context.Context) error {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	err := poll(ctx, func() (bool, error) { return p.Paused(), p.gone() }, func() error {
		return fmt.Errorf("%q (pid %d) runs on after SIGSTOP: %w", p.name, p.PID(), context.Cause(ctx))
	})
	if err != nil {
		return errors.Join(err, p.Signal(unix.SIGCONT))
	}
	return nil
}

// Resume lets the group go on (SIGCONT) and waits until every member does. A
// process that is gone has nothing to resume.
func (p *Process) Resume(ctx context.Context) error {
	if err := p.Signal(unix.SIGCONT); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		states, err := p.states()
		for _, s := range states {
			if s == 'T' {
				return false, nil
			}
		}
		return err == nil, err
	}, func() error {
		return fmt.Errorf("%q (pid %d) is still stopped after SIGCONT: %w", p.name, p.PID(), context.Cause(ctx))
	})
}

// Paused tells whether every process of the group is stopped.
func (p *Process) Paused() bool {
	states, err := p.states()
	if err != nil || len(states) == 0 {
		return false
	}
	for _, s := range states {
		if s != 'T' {
			return false
		}
	}
	return true
}

func (p *Process) gone() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%q (pid %d) is gone", p.name, p.PID())
	default:
		return nil
	}
}

// Members lists the live processes of the group, the child first.
func (p *Process) Members() ([]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return nil, nil
	}
	return Group(p.PID())
}

func (p *Process) states() (map[int]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return nil, nil
	}
	return group(p.PID())
}

// poll asks until the answer is yes or an error, at short intervals: the kernel
// tells nobody but the parent when a process stops or dies. When ctx ends, late
// says what did not happen.
func poll(ctx context.Context, yes func() (bool, error), late func() error) error {
	wait := time.Millisecond
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		ok, err := yes()
		if ok || err != nil {
			return err
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return late()
		}
		wait = min(2*wait, 20*time.Millisecond)
	}
}
