//go:build linux

// Package loop is the cheap side of a benchmark: sockets served by one thread
// with epoll, so that what is measured is the program under test and not the
// traffic around it, and timers that are exact to some ten microseconds.
//
// Everything in it belongs to one goroutine, the one that calls Run.
package loop

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spin is how long before a timer Run stops sleeping and asks again and again:
// a sleeping thread wakes up some 50 µs late.
const spin = 80 * time.Microsecond

// Loop calls what waits for a socket or for a time.
type Loop struct {
	// Due, where set, is called before every wait with the current time and returns
	// when it wants to be called again at the latest, 0 for whenever.
	Due func(now time.Duration) (next time.Duration)

	fd      int
	start   time.Time
	ready   []handler // by descriptor
	events  [256]unix.EpollEvent
	stopped bool
}

// handler is what waits for one descriptor. Generation tells an event of a
// descriptor that was closed within the same batch from one of its successor.
type handler struct {
	call       func(events uint32)
	generation int32
}

// New makes a Loop; its clock starts at 0.
func New() (*Loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &Loop{fd: fd, start: time.Now()}, nil
}

// Close ends the Loop; its sockets belong to whoever opened them.
func (l *Loop) Close() error { return unix.Close(l.fd) }

// Now is the time on the Loop's clock.
func (l *Loop) Now() time.Duration { return time.Since(l.start) }

// Add has call told of events (unix.EPOLLIN …) of fd for as long as they hold.
func (l *Loop) Add(fd int, events uint32, call func(events uint32)) error {
	for fd >= len(l.ready) {
		l.ready = append(l.ready, handler{})
	}
	h := &l.ready[fd]
	h.call = call
	h.generation++
	e := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: h.generation}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, fd, &e))
}

// Watch has call told of events of fd from now on, in place of what Add said.
func (l *Loop) Watch(fd int, events uint32, call func(events uint32)) error {
	l.ready[fd].call = call
	e := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: l.ready[fd].generation}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.fd, unix.EPOLL_CTL_MOD, fd, &e))
}

// Drop closes fd, whether added or not.
func (l *Loop) Drop(fd int) {
	if fd < len(l.ready) {
		l.ready[fd].call = nil
		l.ready[fd].generation++
	}
	unix.Close(fd)
}

// Stop makes Run return after the events at hand.
func (l *Loop) Stop() { l.stopped = true }

// Run serves until Stop, or for the given time; it says whether it was Stop.
func (l *Loop) Run(atMost time.Duration) (stopped bool, err error) {
	l.stopped = false
	until := l.Now() + atMost
	for !l.stopped {
		now := l.Now()
		if now >= until {
			return false, nil
		}
		next := until
		if l.Due != nil {
			if due := l.Due(now); due > 0 && due < next {
				next = due
			}
			if l.stopped {
				break
			}
		}
		n, err := l.wait(max(0, next-now-spin))
		if err != nil {
			return false, err
		}
		for _, e := range l.events[:n] {
			if h := l.ready[e.Fd]; h.call != nil && h.generation == e.Pad {
				h.call(e.Events)
			}
		}
	}
	return true, nil
}

// wait is epoll_pwait2(2): epoll_wait counts in milliseconds. What is ready is
// taken without telling the scheduler, which costs more than the call.
func (l *Loop) wait(timeout time.Duration) (int, error) {
	zero := unix.Timespec{}
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), uintptr(unsafe.Pointer(&zero)), 0, 0)
	if errno == 0 && n == 0 && timeout > 0 {
		ts := unix.NsecToTimespec(timeout.Nanoseconds())
		n, _, errno = syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	}
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, os.NewSyscallError("epoll_pwait2", errno)
}

// Listen opens a listening socket on a free port of 127.0.0.1.
func Listen() (fd int, addr netip.AddrPort, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, addr, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		unix.Close(fd)
		return 0, addr, os.NewSyscallError("bind", err)
	}
	if err = unix.Listen(fd, 4096); err != nil {
		unix.Close(fd)
		return 0, addr, os.NewSyscallError("listen", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return 0, addr, os.NewSyscallError("getsockname", err)
	}
	in, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		unix.Close(fd)
		return 0, addr, fmt.Errorf("getsockname: %T, want IPv4", sa)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)), nil
}

// Accept takes the next caller of a listening socket; ok is false if none waits.
func Accept(listener int) (fd int, ok bool) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return 0, false
	}
	noDelay(fd)
	return fd, true
}

// Connect begins a connection; it is there when the socket can be written to.
func Connect(to netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	noDelay(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return 0, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

func noDelay(fd int) {
	// It fails only on what is no TCP socket.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// Read is read(2) on a socket that does not block: 0 is the end, or nothing to
// read yet if again.
func Read(fd int, b []byte) (n int, again bool, err error) {
	r, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return result(r, errno)
}

// Discard takes up to most bytes from a socket without copying them.
func Discard(fd, most int) (n int, again bool, err error) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(most), unix.MSG_TRUNC, 0, 0)
	return result(r, errno)
}

// Write is write(2) on a socket that does not block.
func Write(fd int, b []byte) (n int, again bool, err error) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return result(r, errno)
}

func result(r uintptr, errno syscall.Errno) (int, bool, error) {
	switch errno {
	case 0:
		return int(r), false, nil
	case unix.EAGAIN, unix.EINTR:
		return 0, true, nil
	}
	return 0, false, errno
}
