package loadgen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spent tells whether the peer has closed an idle connection, or has sent
// something that nobody asked for; either way it is of no more use.
func spent(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	var closed bool
	err := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = err != unix.EAGAIN && err != unix.EINTR
		return true
	})
	return closed || err != nil
}

// readNow reads what a connection has, or returns errAgain.
func readNow(raw syscall.RawConn, p []byte) (n int, err error) {
	failed := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case failed != nil:
		return 0, failed
	case err == unix.EAGAIN:
		return 0, errAgain
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// talk writes a request to a socket and reads the beginning of its answer, in one
// wait of package net's: Read and Write would look for the answer before it can be
// there, which is a system call.
type talk struct {
	raw    syscall.RawConn
	step   func(fd uintptr) bool // kept: to make it anew would be garbage
	out    []byte
	in     []byte
	asked  bool
	sent   int
	read   int
	failed syscall.Errno
}

func newTalk(raw syscall.RawConn) *talk {
	t := &talk{raw: raw}
	t.step = t.next
	return t
}

// do returns how many bytes of out were sent and, if all were, what package net's
// Read would. Where not all were sent, there is an error, or no more room in the
// socket now.
func (t *talk) do(out, in []byte) (sent, read int, err error) {
	t.out, t.in, t.asked, t.sent, t.read, t.failed = out, in, false, 0, 0, 0
	err = t.raw.Read(t.step)
	op, ok := errors.AsType[*net.OpError](err)
	if ok {
		op.Op = "read" // it says raw-read
	}
	call := "read"
	if t.sent < len(out) {
		call = "write"
	}
	switch {
	case err != nil:
	case t.failed != 0:
		err = &net.OpError{Op: call, Net: "tcp", Err: os.NewSyscallError(call, t.failed)}
	case call == "read" && t.read == 0:
		err = io.EOF
	}
	return t.sent, t.read, err
}

func (t *talk) next(fd uintptr) (done bool) {
	if !t.asked {
		t.asked = true
		n, errno := sendTo(int(fd), t.out)
		if errno != unix.EAGAIN && errno != unix.EINTR {
			t.failed = errno
		}
		t.sent = n
		return n < len(t.out)
	}
	for {
		n, errno := receiveFrom(int(fd), t.in, 0)
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			t.read, t.failed = n, errno
			return true
		}
	}
}

// push writes to a socket what it takes at once, without telling the scheduler.
type push struct {
	raw  syscall.RawConn
	step func(fd uintptr) bool // kept: to make it anew would be garbage
	out  []byte
	sent int
}

func newPush(raw syscall.RawConn) *push {
	p := &push{raw: raw}
	p.step = func(fd uintptr) bool {
		p.sent, _ = sendTo(int(fd), p.out) // who writes the rest is told of an error
		return true
	}
	return p
}

// do returns how many bytes of out were taken.
func (p *push) do(out []byte) int {
	p.out, p.sent = out, 0
	if p.raw.Write(p.step) != nil {
		return 0
	}
	return p.sent
}

// timerfd waits with the kernel's high-resolution timers, through the netpoller:
// the goroutine is parked, no thread is held. Go's own timers end up in
// epoll_wait, whose unit is a millisecond.
type timerfd struct {
	fd    int
	file  *os.File
	woken atomic.Bool

	mu     sync.Mutex
	closed bool
}

func newWaiter() (waiter, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating a timer: %w", os.NewSyscallError("timerfd_create", err))
	}
	return &timerfd{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

func (w *timerfd) until(t time.Time) {
	d := time.Until(t)
	if d <= 0 || !w.set(d) {
		return
	}
	// Whoever woke us before the timer was set must not be forgotten; whoever does
	// so from now on sets it anew, to ring at once.
	if w.woken.Swap(false) {
		return
	}
	var expirations [8]byte
	// An error leaves the wait short, and the caller asks for the time anyway.
	_, _ = w.file.Read(expirations[:])
	w.woken.Store(false)
}

func (w *timerfd) wake() {
	w.woken.Store(true)
	w.set(1)
}

func (w *timerfd) set(d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	return unix.TimerfdSettime(w.fd, 0, &spec, nil) == nil
}

func (w *timerfd) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.file.Close() // it holds nothing that could be lost
}
