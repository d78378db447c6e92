package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/faults/undo"
	"github.com/chaosctl/chaosctl/targets/process"
)

// Watchdog is a process in a session of its own that outlives us, whatever kills
// us, and undoes what we left. It waits at a pipe whose only write end is ours:
//
//	we write "bye" and close it     the run is over: it ends
//	the end comes without           we are gone: it heals, and ends
//
// The kernel closes our end whatever ended us, SIGKILL too. Nobody else has one:
// it is closed on exec, so that neither services nor the watchdog itself inherit it.
type Watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
	said *os.File // its "ready"
	gone chan struct{}
	err  error // how it ended; once gone is closed
}

// goodbye is what the runner says when it needs no watchdog any more.
const goodbye = "bye\n"

// ready is what the watchdog says when it can do its work.
const ready = "ready\n"

// StartWatchdog starts `self watchdog ENTRY` for a run of ours. It returns as soon
// as the process exists; Ready waits until it can do its work.
func StartWatchdog(self string, r *Run) (*Watchdog, error) {
	failed := func(err error) error { return fmt.Errorf("start the watchdog: %w", err) }
	in, pipe, err := os.Pipe()
	if err != nil {
		return nil, failed(err)
	}
	said, out, err := os.Pipe()
	if err != nil {
		return nil, failed(errors.Join(err, in.Close(), pipe.Close()))
	}
	cmd := exec.Command(self, "watchdog", r.File)
	cmd.Dir = "/" // it holds no folder busy
	cmd.Env = process.Environ()
	cmd.Stdin, cmd.Stdout = in, out
	// A session of its own: neither Ctrl-C, nor a terminal that goes away, nor a
	// kill of our process group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	err = errors.Join(err, in.Close(), out.Close())
	if err != nil {
		return nil, failed(errors.Join(err, pipe.Close(), said.Close()))
	}
	w := &Watchdog{cmd: cmd, pipe: pipe, said: said, gone: make(chan struct{})}
	go func() {
		defer close(w.gone)
		w.err = cmd.Wait()
	}()
	return w, nil
}

// Ready returns when the watchdog watches. No fault may exist before.
func (w *Watchdog) Ready(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.said.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer := make([]byte, len(ready))
	if _, err := io.ReadFull(w.said, answer); err != nil {
		return fmt.Errorf("the watchdog did not get ready: %w", errors.Join(context.Cause(ctx), err))
	}
	return nil
}

// Gone is closed when the watchdog's process has ended, for whatever reason.
func (w *Watchdog) Gone() <-chan struct{} { return w.gone }

// Discard frees what is left on our side of a watchdog that is gone.
func (w *Watchdog) Discard() error {
	<-w.gone
	return errors.Join(w.pipe.Close(), w.said.Close())
}

// leaveWithin is how long a watchdog may take to go once it was told to.
const leaveWithin = 5 * time.Second

// Stop tells the watchdog that it is not needed any more, and returns when it is
// gone. A watchdog that had died before is an error: the run was not guarded.
func (w *Watchdog) Stop() error {
	defer w.said.Close()
	_, told := io.WriteString(w.pipe, goodbye)
	closed := w.pipe.Close()
	select {
	case <-w.gone:
	case <-time.After(leaveWithin):
		if err := w.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop the watchdog: %w", err)
		}
		<-w.gone
		return fmt.Errorf("stop the watchdog: it did not go within %s and was killed", leaveWithin)
	}
	if err := errors.Join(told, closed, w.err); err != nil {
		return fmt.Errorf("the watchdog ended before the run did: %w", err)
	}
	return nil
}

// Watch is the watchdog's own side: it returns when the owner of the entry is
// gone, and healed where it did not say goodbye. in is the pipe, out gets "ready".
//
// It cannot tell anybody what goes wrong: whoever would read that is dead. The
// journal is told, and what it could not do stays in the index for recover.
func Watch(entry string, in io.Reader, out io.WriteCloser) error {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	e, err := ReadEntry(entry)
	if err != nil {
		return err
	}
	owner, err := unix.PidfdOpen(e.Owner.PID, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) { // gone already: the pipe will say so
		return fmt.Errorf("watch process %d: %w", e.Owner.PID, err)
	}
	if _, err := io.WriteString(out, ready); err == nil {
		_ = out.Close()
	}
	words, err := io.ReadAll(in)
	if err == nil && strings.HasSuffix(string(words), goodbye) {
		return nil
	}
	// The pipe is closed a moment before the process counts as dead.
	if owner > 0 && undo.Process(e.Owner).Alive() {
		if err := awaitExit(owner); err != nil {
			return err
		}
	}
	x := &Index{filepath.Dir(filepath.Dir(entry))}
	_, err = x.Heal(context.Background(), e, "its watchdog")
	return err
}

// awaitExit returns when the process of a descriptor has ended.
func awaitExit(fd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err != unix.EINTR {
			return err
		}
	}
}
