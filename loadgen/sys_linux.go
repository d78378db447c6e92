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

// receiveNow reads what a socket has, or returns errAgain.
func receiveNow(fd int, p []byte) (int, error) {
	for {
		n, errno := receiveFrom(fd, p, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return 0, errAgain
		case errno != 0:
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", errno)}
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// sendNow writes what a socket takes.
func sendNow(fd int, p []byte) (int, error) {
	n, errno := sendTo(fd, p)
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", errno)}
	}
	return n, nil
}

// talk writes a request to a socket and reads the beginning of its answer, in one
// wait of package net's: Read and Write would look for the answer before it can be
// there, which is a system call.
type talk struct {
	raw   syscall.RawConn
	tls   *secured              // nil: plain
	step  func(fd uintptr) bool // kept: to make it anew would be garbage
	out   []byte
	in    []byte
	asked bool
	sent  int
	read  int
	err   error
}

func newTalk(raw syscall.RawConn, tls *secured) *talk {
	t := &talk{raw: raw, tls: tls}
	t.step = t.next
	return t
}

// do returns how many bytes of out were sent and, if all were, what Read would. Where
// not all were sent, there is an error, or no more room in the socket now.
func (t *talk) do(out, in []byte) (sent, read int, err error) {
	t.out, t.in, t.asked, t.sent, t.read, t.err = out, in, false, 0, 0, nil
	err = t.raw.Read(t.step)
	if t.tls != nil {
		t.tls.wire.direct = false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		op.Op = "read" // it says raw-read
	}
	if err == nil {
		err = t.err
	}
	if t.tls != nil && err == nil && t.sent == len(out) {
		if err = t.tls.wire.flush(); err != nil {
			t.sent = 0 // who knows
		}
	}
	return t.sent, t.read, err
}

func (t *talk) next(fd uintptr) (done bool) {
	var w *wire
	if t.tls != nil {
		w = t.tls.wire
		w.direct, w.fd = true, int(fd)
	}
	switch {
	case t.asked && w == nil:
		t.read, t.err = receiveNow(int(fd), t.in)
		return t.err != errAgain
	case t.asked:
		t.read, t.err = t.tls.Read(t.in)
		return t.err != errAgain
	case w == nil:
		t.sent, t.err = sendNow(int(fd), t.out)
	default:
		t.sent, t.err = t.tls.Write(t.out)
	}
	t.asked = true
	return t.err != nil || t.sent < len(t.out) || w != nil && len(w.rest) > 0
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

// reserveFiles makes room in this process's table of descriptors for n more than there
// are. The kernel makes room for twice as many whenever it is full, and before it goes on
// waits until no thread looks at the old table: 10 to 40 ms, in the middle of the load.
// A limit on open files that is lower is for others to report.
func reserveFiles(n int) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	lowest, err := unix.Eventfd(0, unix.EFD_CLOEXEC) // the lowest number that is free
	if err != nil {
		return
	}
	defer unix.Close(lowest)
	const others = 64 // that come later
	last := min(uint64(lowest+n+others), limit.Cur-1)
	if fd, err := unix.FcntlInt(uintptr(lowest), unix.F_DUPFD_CLOEXEC, int(last)); err == nil {
		unix.Close(fd)
	}
}
