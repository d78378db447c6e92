package loadgen

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for sockets and for moments, for one event loop. Every socket is
// added once, edge-triggered, for all it may do: no further system call tells what
// is waited for next.
//
//	sockets ─┐
//	bell    ─┴─> epoll ─> wait, until the moment at the latest
//
// A wait blocks the thread, which the loop has for itself (see attentive): parked
// in Go's own poller, it would wake up when Go's scheduler has a processor for it.
type poller struct {
	epoll   int
	bell    int           // an eventfd that other goroutines ring
	timeout unix.Timespec // of the wait at hand
	coarse  bool          // the kernel's epoll_wait counts in ms
	events  [512]unix.EpollEvent
}

// What stands for a socket in an event: where its connection is, and which of the
// sockets that it had.
type socketID struct{ index, generation int32 }

const bellIndex = -1

func newPoller() (p *poller, err error) {
	p = &poller{epoll: -1, bell: -1}
	defer func() {
		if err != nil {
			p.close()
			p, err = nil, fmt.Errorf("creating an event loop: %w", err)
		}
	}()
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return p, os.NewSyscallError("epoll_create1", err)
	}
	if p.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return p, os.NewSyscallError("eventfd", err)
	}
	return p, p.add(p.bell, socketID{index: bellIndex}, unix.EPOLLIN)
}

func (p *poller) add(fd int, id socketID, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: id.index, Pad: id.generation}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// wait returns how many events there are: at once when until is not after now,
// else when there are any, or at until. Any wait may end early with none.
func (p *poller) wait(now, until time.Duration) (n int) {
	switch {
	case until <= now:
		// Does not block: the Go scheduler need not know.
		p.timeout = unix.Timespec{}
		return p.poll(syscall.RawSyscall6, &p.timeout)
	case until == never:
		return p.poll(syscall.Syscall6, nil)
	}
	p.timeout = unix.NsecToTimespec(int64(until - now))
	return p.poll(syscall.Syscall6, &p.timeout)
}

type systemCall = func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)

// poll is epoll_pwait2(2), which Linux has since 5.11; where it does not, ppoll(2)
// knows as well how to wait for less than a millisecond. timeout is in p.
func (p *poller) poll(call systemCall, timeout *unix.Timespec) (n int) {
	name, r, errno := "epoll_pwait2", uintptr(0), syscall.ENOSYS
	if !p.coarse {
		r, _, errno = call(unix.SYS_EPOLL_PWAIT2, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(unsafe.Pointer(timeout)), 0, 0)
	}
	if errno == syscall.ENOSYS {
		p.coarse = true
		ready := [1]unix.PollFd{{Fd: int32(p.epoll), Events: unix.POLLIN}}
		name = "ppoll"
		if r, _, errno = call(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&ready)), 1, uintptr(unsafe.Pointer(timeout)), 0, 0, 0); errno == 0 && r > 0 {
			name = "epoll_pwait"
			r, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), 0, 0, 0)
		}
	}
	switch errno {
	case 0:
		return int(r)
	case unix.EINTR:
		return 0
	}
	// What is left is a file descriptor that is not ours any more.
	panic(os.NewSyscallError(name, errno))
}

// ring ends the wait that goes on, or else the next one. Any goroutine may, as
// long as the poller is not closed.
func (p *poller) ring() {
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	// It fails only when the bell has been rung 2^64 times and not heard.
	_, _ = unix.Write(p.bell, one[:])
}

// hear silences the bell.
func (p *poller) hear() {
	var count [8]byte
	_, _ = unix.Read(p.bell, count[:]) // fails where it is silent already
}

func (p *poller) close() {
	for _, fd := range []int{p.epoll, p.bell} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// sendTo and receiveFrom are send(2) and recv(2) on a socket that does not block, so
// that the Go scheduler need not be told of them.
func sendTo(fd int, p []byte) (n int, errno syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

func receiveFrom(fd int, p []byte, flags int) (n int, errno syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}
