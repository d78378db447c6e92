package proxy

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arrivals reads bytes together with the time at which they came to the socket,
// as the kernel has noted it (SO_TIMESTAMPNS, see socket(7)). A flow that wakes late,
// because others were first, so holds them from the same moment on as one that was
// quick.
//
// Bytes that came in several packets and are read at once have the time of the
// last. The kernel tells the time of the wall clock; dry bounds what a clock that is
// set meanwhile can do.
type arrivals struct {
	of  *socket       // whose packets are stamped
	dry time.Duration // when nothing waited in the socket last

	header unix.Msghdr
	spaces [readChunks]unix.Iovec
	stamp  [stampSpace]byte
}

// stampSpace is what a timespec in a control message takes.
var _ = [1]int{}[stampSpace-(unix.SizeofCmsghdr+int(unsafe.Sizeof(unix.Timespec{})))]

const stampSpace = 32

// start has the packets stamped that come from now on.
func (a *arrivals) start(fd int, of *socket, now time.Duration) {
	a.of, a.dry = of, now
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) // without: they came when they are read
}

// read is readv(2), and how long ago, as of now, the bytes came.
func (a *arrivals) read(fd int, into [][]byte) (int, time.Duration, error) {
	for i, p := range into {
		a.spaces[i].Base = unsafe.SliceData(p)
		a.spaces[i].SetLen(len(p))
	}
	a.header = unix.Msghdr{Iov: &a.spaces[0], Control: &a.stamp[0]}
	a.header.SetIovlen(len(into))
	a.header.SetControllen(len(a.stamp))
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&a.header)), unix.MSG_DONTWAIT)
	clear(a.spaces[:])
	if errno != 0 {
		return -1, 0, errno
	}
	head := (*unix.Cmsghdr)(unsafe.Pointer(&a.stamp[0]))
	if a.header.Controllen < stampSpace || head.Level != unix.SOL_SOCKET || head.Type != unix.SO_TIMESTAMPNS {
		return int(n), 0, nil
	}
	at := (*unix.Timespec)(unsafe.Pointer(&a.stamp[unix.SizeofCmsghdr]))
	return int(n), time.Duration(time.Now().UnixNano() - at.Nano()), nil
}

// came is when bytes came that were read now, which were noted to have come so long
// ago. emptied tells that nothing was left.
func (a *arrivals) came(now, ago time.Duration, emptied bool) time.Duration {
	at := min(max(now-ago, a.dry), now)
	if emptied {
		a.dry = now
	}
	return at
}
