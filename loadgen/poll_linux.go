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
// is waited for next. Moments are told by a timerfd among the sockets, which is
// exact where timeouts of epoll are rounded or 50 µs late.
//
// There are two ways to wait. To block is the quicker one, by some µs, but holds
// up others: Go counts a processor that waits in a system call as taken until it
// notices, after 20 µs to 10 ms. To park leaves the waiting to Go's own poller,
// which watches the gate:
//
//	sockets ─┐
//	bell    ─┼─> epoll ── open while the loop is parked ──> gate ──> Go's poller
//	alarm   ─┘
//
// As long as the gate is shut Go's poller sleeps through all that happens here.
type poller struct {
	epoll  int
	bell   int           // an eventfd that other goroutines ring
	alarm  int           // a timerfd
	set    time.Duration // what it is set to, on the run's clock; 0: it is not
	events [512]unix.EpollEvent

	gate    *os.File // an epoll that holds nothing but the other one
	gateFD  int
	watched syscall.RawConn // the gate, in Go's poller
	look    func(uintptr) bool
	ready   int // what look saw
}

// What stands for a socket in an event: where its connection is, and which of the
// sockets that it had.
type socketID struct{ index, generation int32 }

const (
	bellIndex  = -1
	alarmIndex = -2
)

func newPoller() (p *poller, err error) {
	p = &poller{epoll: -1, bell: -1, alarm: -1}
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
	if p.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return p, os.NewSyscallError("timerfd_create", err)
	}
	if err = p.add(p.bell, socketID{index: bellIndex}, unix.EPOLLIN); err != nil {
		return p, err
	}
	if err = p.add(p.alarm, socketID{index: alarmIndex}, unix.EPOLLIN); err != nil {
		return p, err
	}
	if p.gateFD, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return p, os.NewSyscallError("epoll_create1", err)
	}
	// Not blocking is what makes Go take it for something to poll.
	err = unix.SetNonblock(p.gateFD, true)
	p.gate = os.NewFile(uintptr(p.gateFD), "events")
	if err != nil {
		return p, os.NewSyscallError("fcntl", err)
	}
	if p.watched, err = p.gate.SyscallConn(); err != nil {
		return p, err
	}
	if err = unix.EpollCtl(p.gateFD, unix.EPOLL_CTL_ADD, p.epoll, new(unix.EpollEvent)); err != nil {
		return p, os.NewSyscallError("epoll_ctl", err)
	}
	p.look = func(uintptr) bool {
		p.ready = p.poll(syscall.RawSyscall6, 0)
		return p.ready > 0
	}
	return p, nil
}

func (p *poller) add(fd int, id socketID, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: id.index, Pad: id.generation}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// wait returns how many events there are: at once when until is not after now,
// else when there are any; one of them will be the alarm's at until, if not
// before. Any wait may end early with none.
func (p *poller) wait(now, until time.Duration, park bool) (n int) {
	if until <= now {
		// Does not block: the Go scheduler need not know.
		return p.poll(syscall.RawSyscall6, 0)
	}
	// An alarm that rings early does no harm; to set it is a system call.
	if until != never && (p.set == 0 || until < p.set) {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(until - now))}
		if err := unix.TimerfdSettime(p.alarm, 0, &spec, nil); err != nil {
			panic(os.NewSyscallError("timerfd_settime", err)) // see poll
		}
		p.set = until
	}
	if !park {
		return p.poll(syscall.Syscall6, -1)
	}
	p.open(unix.EPOLLIN)
	err := p.watched.Read(p.look)
	p.open(0)
	if err != nil { // Go's poller refused the gate
		return p.poll(syscall.Syscall6, -1)
	}
	return p.ready
}

// open lets events through the gate, or none.
func (p *poller) open(events uint32) {
	if err := unix.EpollCtl(p.gateFD, unix.EPOLL_CTL_MOD, p.epoll, &unix.EpollEvent{Events: events}); err != nil {
		panic(os.NewSyscallError("epoll_ctl", err)) // see poll
	}
}

type systemCall = func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)

// poll is epoll_wait.
func (p *poller) poll(call systemCall, ms int) (n int) {
	r, _, errno := call(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(ms), 0, 0)
	switch errno {
	case 0:
		return int(r)
	case unix.EINTR:
		return 0
	}
	// What is left is a file descriptor that is not ours any more.
	panic(os.NewSyscallError("epoll_wait", errno))
}

// ring ends the wait that goes on, or else the next one. Any goroutine may, as
// long as the poller is not closed.
func (p *poller) ring() {
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1}
	// It fails only when the bell has been rung 2^64 times and not heard.
	_, _ = unix.Write(p.bell, one[:])
}

// hear silences bell or alarm.
func (p *poller) hear(index int32) {
	fd := p.bell
	if index == alarmIndex {
		fd, p.set = p.alarm, 0
	}
	var count [8]byte
	_, _ = unix.Read(fd, count[:]) // fails where it is silent already
}

func (p *poller) close() {
	if p.gate != nil {
		p.gate.Close() // it holds nothing that could be lost
	}
	for _, fd := range []int{p.epoll, p.bell, p.alarm} {
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
