package proxy

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls on sockets that do not block. The Go scheduler is not told of
// them (RawSyscall), which would cost a third of a small one.

func receive(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

func transmit(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// move is splice(2) between a socket and a pipe.
func move(from, to, most int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

func acceptFrom(fd int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// eventsOf is epoll_wait(2) that does not wait.
func eventsOf(epoll int, into []unix.EpollEvent) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)), 0, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// awaitEvents is epoll_wait(2) that does, of which the scheduler is told.
func awaitEvents(epoll int, into []unix.EpollEvent) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)), ^uintptr(0), 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

func result(n uintptr, errno syscall.Errno) (int, syscall.Errno) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func control(epoll, op, fd int, e *unix.EpollEvent) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(e)), 0, 0)
	return errno
}

// connectTo begins to connect a new socket; that it goes on is no error.
func connectTo(to netip.AddrPort) (int, syscall.Errno) {
	family := uintptr(unix.AF_INET)
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	setOption(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	unpace(int(fd), to.Addr())
	var address unix.RawSockaddrAny
	size := fill(&address, to)
	_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&address)), size)
	if errno != 0 && errno != unix.EINPROGRESS && errno != unix.EINTR {
		closeSocket(int(fd))
		return -1, errno
	}
	return int(fd), 0
}

// fill writes the kernel's form of an address, and tells its size.
func fill(a *unix.RawSockaddrAny, of netip.AddrPort) uintptr {
	var port uint16 // in the order of bytes that the network has
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&port))[:], of.Port())
	if of.Addr().Is6() {
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		*in = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: of.Addr().As16()}
		return unix.SizeofSockaddrInet6
	}
	in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
	*in = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: of.Addr().As4()}
	return unix.SizeofSockaddrInet4
}

// progress tells how far a socket's connecting has come: an error, or whether it
// is connected. One that is connected to itself is refused: the kernel does that
// where nobody listens at a port that it has just given to the caller (TCP's
// simultaneous open).
func progress(fd int) (connected bool, errno syscall.Errno) {
	var own, peer unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno = syscall.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&size)))
	switch errno {
	case 0:
		size = unix.SizeofSockaddrAny
		_, _, errno = syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&own)), uintptr(unsafe.Pointer(&size)))
		if errno == 0 && own == peer {
			errno = unix.ECONNREFUSED
		}
		return errno == 0, errno
	case unix.ENOTCONN: // not yet, or not any more
		var failed int32
		size = uint32(unsafe.Sizeof(failed))
		_, _, errno = syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&failed)), uintptr(unsafe.Pointer(&size)), 0)
		return false, max(errno, syscall.Errno(failed))
	}
	return false, errno
}

func shutdownWriting(fd int) {
	// It fails only where the connection is gone already.
	_, _, _ = syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
}

// closeSocket is close(2), which does not wait for a socket without SO_LINGER.
func closeSocket(fd int) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// abortSocket is close(2) with RST (see socket.abort).
func abortSocket(fd int) {
	linger := unix.Linger{Onoff: 1}
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&linger)), unsafe.Sizeof(linger), 0)
	closeSocket(fd)
}

// setOption sets an option of a TCP socket, which fails only where it is gone.
func setOption(fd, level, name int, value int32) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
}
