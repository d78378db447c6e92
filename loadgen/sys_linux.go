package loadgen

import (
	"fmt"
	"io"
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
