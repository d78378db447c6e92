//go:build linux

// Package process starts the programs under test, each on cores of its own, and
// reads from outside what they cost. Every one is ended by its own id, and dies with
// the benchmark whatever ends that.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cores: the traffic, or the server, has one; the program under test the other.
// On a machine with one core they share it.
func Cores() (traffic, subject int) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0
	}
	var usable []int
	for core := range 1024 {
		if set.IsSet(core) {
			usable = append(usable, core)
		}
	}
	if len(usable) < 2 {
		return usable[0], usable[0]
	}
	return usable[0], usable[1]
}

// Pin moves the calling process, all its threads, to one core.
func Pin(core int) error {
	runtime.GOMAXPROCS(1)
	var set unix.CPUSet
	set.Set(core)
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
			return fmt.Errorf("pin thread %d to core %d: %w", tid, core, err)
		}
	}
	return nil
}

// AllowFiles lets this process and its children open so many files.
func AllowFiles(n uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if limit.Max < n {
		return fmt.Errorf("%d open files are needed, and the hard limit is %d: ulimit -n, or run as root", n, limit.Max)
	}
	limit.Cur = n
	// By setting it, even to what it was, we keep Go from resetting it for children.
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
}

// Spec is a program to start.
type Spec struct {
	Args   []string
	Env    []string   // beside the benchmark's own
	Cores  []int      // where it may run
	Files  []*os.File // descriptors 3, 4, …
	Stdin  io.Reader
	Stdout io.Writer // nil: kept for error messages, like stderr
}

// Process is a program that was started.
type Process struct {
	cmd    *exec.Cmd
	name   string
	output *tail
	done   chan struct{}
	err    error // of Wait, once done
}

// Start runs a program on its cores.
//
// The calling goroutine must be locked to a thread that lives as long as the
// benchmark (main's): the kernel kills the child when the thread that forked it
// ends.
func Start(s Spec) (*Process, error) {
	p := &Process{name: filepath.Base(s.Args[0]), output: &tail{}, done: make(chan struct{})}
	p.cmd = exec.Command(s.Args[0], s.Args[1:]...)
	p.cmd.Env = append(os.Environ(), s.Env...)
	p.cmd.ExtraFiles = s.Files
	p.cmd.Stdin = s.Stdin
	p.cmd.Stdout, p.cmd.Stderr = s.Stdout, p.output
	if s.Stdout == nil {
		p.cmd.Stdout = p.output
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	// A child inherits the affinity of the thread that forks it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for _, core := range s.Cores {
		set.Set(core)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return nil, os.NewSyscallError("sched_setaffinity", err)
	}
	err := p.cmd.Start()
	if back := unix.SchedSetaffinity(0, &before); back != nil && err == nil {
		err = os.NewSyscallError("sched_setaffinity", back)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is its process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program's own end; when ctx ends first, the program is
// stopped and that is an error. So is an exit code that is not 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", p.name, context.Cause(ctx)), p.Stop())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w%s", p.name, p.err, p.output)
	}
	return nil
}

// Ended is nil while the program runs, and then an error with its last words.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended: %v%s", p.name, p.cmd.ProcessState, p.output)
	default:
		return nil
	}
}

// Stop ends the program: SIGTERM, and SIGKILL after 2 s. One that has ended
// already is no error.
func (p *Process) Stop() error {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
		select {
		case <-p.done:
			return nil
		case <-time.After(2 * time.Second):
		}
	}
	return fmt.Errorf("stop %s: process %d outlives SIGKILL", p.name, p.Pid())
}

// CPU is what the process has used so far, user and system, to 10 ms (proc_pid_stat(5)).
func (p *Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		return 0, errors.Join(err, p.Ended())
	}
	// The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", p.Pid(), len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / 100, errors.Join(err1, err2)
}

// RSS is its resident memory in bytes (proc_pid_statm(5)).
func (p *Process) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Pid()))
	if err != nil {
		return 0, errors.Join(err, p.Ended())
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", p.Pid(), b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// tail keeps the last words of a program for error messages.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - 2048; over > 0 {
		t.b = t.b[over:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return ""
	}
	return ": " + string(bytes.TrimSpace(t.b))
}
