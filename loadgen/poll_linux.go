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
type poller struct {
	epoll  int
	bell   int // an eventfd that other goroutines ring
	alarm  int // a timerfd, where the kernel cannot wait for less than a millisecond; else −1
	events [512]unix.EpollEvent
}

// What stands for a socket in an event: where its connection is, and which of the
// sockets that it had.
type socketID struct{ index, generation int32 }

const (
	bellIndex  = -1
	alarmIndex = -2
)

// newPoller makes one; precise says that epoll_pwait2 may be used (Linux 5.11,
// and not forbidden by a sandbox), which is found out here.
func newPoller(precise bool) (p *poller, err error) {
	p = &poller{epoll: -1, bell: -1, alarm: -1}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return p, fmt.Errorf("creating an event loop: %w", os.NewSyscallError("epoll_create1", err))
	}
	if p.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return p, fmt.Errorf("creating an event loop: %w", os.NewSyscallError("eventfd", err))
	}
	if err = p.add(p.bell, socketID{index: bellIndex}, unix.EPOLLIN); err != nil {
		return p, err
	}
	if precise {
		if _, errno := p.pwait2(0); errno == 0 || errno == unix.EINTR {
			return p, nil
		}
	}
	if p.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return p, fmt.Errorf("creating an event loop: %w", os.NewSyscallError("timerfd_create", err))
	}
	return p, p.add(p.alarm, socketID{index: alarmIndex}, unix.EPOLLIN)
}

func (p *poller) add(fd int, id socketID, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: id.index, Pad: id.generation}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// wait returns how many events there are, after d at the latest; a d of never
// has no end. It may return early with none.
func (p *poller) wait(d time.Duration) (n int) {
	var errno syscall.Errno
	switch {
	case d <= 0:
		// Does not block: the Go scheduler need not know.
		n, errno = p.epollWait(syscall.RawSyscall6, 0)
	case d == never:
		n, errno = p.epollWait(syscall.Syscall6, -1)
	case p.alarm < 0:
		n, errno = p.pwait2(d)
	default:
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
		if err := unix.TimerfdSettime(p.alarm, 0, &spec, nil); err != nil {
			panic(os.NewSyscallError("timerfd_settime", err)) // as below
		}
		n, errno = p.epollWait(syscall.Syscall6, -1)
	}
	switch errno {
	case 0:
		return n
	case unix.EINTR:
		return 0
	}
	// What is left is a file descriptor that is not ours any more.
	panic(os.NewSyscallError("epoll_wait", errno))
}

type systemCall = func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)

func (p *poller) epollWait(call systemCall, ms int) (n int, errno syscall.Errno) {
	r, _, errno := call(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(ms), 0, 0)
	return int(r), errno
}

func (p *poller) pwait2(d time.Duration) (n int, errno syscall.Errno) {
	// struct __kernel_timespec, which is the same on all machines.
	t := [2]int64{int64(d / time.Second), int64(d % time.Second)}
	r, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(unsafe.Pointer(&t)), 0, 0)
	return int(r), errno
}

// ring ends the wait that goes on, or else the next one. Any goroutine may, as
// long as the poller is not closed.
func (p *poller) ring() {
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	// It fails only when the bell has been rung 2^64 times and not heard.
	_, _ = unix.Write(p.bell, one[:])
}

// hear silences bell and alarm.
func (p *poller) hear(index int32) {
	fd := p.bell
	if index == alarmIndex {
		fd = p.alarm
	}
	var count [8]byte
	_, _ = unix.Read(fd, count[:]) // fails where it is silent already
}

func (p *poller) close() {
	for _, fd := range []int{p.epoll, p.bell, p.alarm} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// precisely makes this thread's timers ring when they are set to; normally the
// kernel may be 50 µs late, to save power.
func precisely() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) }

// asUsual undoes precisely.
func asUsual() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }

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
