package proxy

import (
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is one side of a proxied connection: a TCP connection, a Unix socket, TLS
// on one of them, or in tests something that can do less.
type socket struct {
	net.Conn
	tcp *net.TCPConn    // what RST, keep-alive and SIOCOUTQ are for; nil: no TCP
	raw syscall.RawConn // nil: the kernel does not have the bytes as they are
	tls *secured        // nil: plain
}

func newSocket(c net.Conn) *socket {
	s := &socket{Conn: c}
	switch k := c.(type) {
	case *net.TCPConn:
		if raw, err := k.SyscallConn(); err == nil {
			s.tcp, s.raw = k, raw
		}
	case *net.UnixConn:
		if raw, err := k.SyscallConn(); err == nil {
			s.raw = raw
		}
	case *secured:
		s.tls = k
		s.tcp, _ = k.wire.Conn.(*net.TCPConn)
	}
	return s
}

// torn tells whether the peer has sent FIN without close_notify, where TLS wants one.
func (s *socket) torn() bool { return s != nil && s.tls != nil && s.tls.wire.torn.Load() }

// hungUp tells whether the peer has said its last word, which may not be read yet.
func (s *socket) hungUp() bool {
	raw := s.raw
	if s.tls != nil {
		raw = s.tls.wire.raw
	}
	if raw == nil {
		return false
	}
	over := false
	err := raw.Control(func(fd uintptr) {
		all := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, err := ignoringEINTR(func() (int, error) { return unix.Poll(all, 0) })
		over = err == nil && all[0].Revents != 0
	})
	return over || err != nil
}

// from is the address of the peer; invalid when it has none.
func (s *socket) from() netip.Addr {
	if a, ok := s.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// finish sends FIN, on TLS behind close_notify: no more bytes will come, but the
// other direction stays open.
func (s *socket) finish() {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() // fails only where the connection is gone already
		return
	}
	s.Close()
}

// abort closes with RST (SO_LINGER 0, see socket(7)): at once, unsent bytes
// dropped, no TIME_WAIT, no last word of TLS. A Unix socket has no RST: its peer
// sees an error (ECONNRESET) where bytes of it are unread, and the end otherwise.
func (s *socket) abort() {
	if s.tcp != nil {
		s.tcp.SetLinger(0)
	}
	if s.tls != nil {
		s.tls.wire.Close()
		return
	}
	s.Close()
}

// gone tells whether a peer that has sent FIN had closed altogether, rather than
// shut down its sending side only, once something was written to it: the one
// acknowledges (SIOCOUTQ becomes 0), the other answers with RST. Neither takes
// long; a peer that has said nothing after 20 ms counts as there.
func (s *socket) gone() bool {
	if s.tcp == nil {
		return false
	}
	raw, err := s.tcp.SyscallConn()
	if err != nil {
		return true
	}
	for range 40 {
		unacknowledged, errno := 0, 0
		err := raw.Control(func(fd uintptr) {
			unacknowledged, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			errno, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		})
		if err != nil || errno != 0 {
			return true
		}
		if unacknowledged == 0 {
			return false
		}
		time.Sleep(500 * time.Microsecond)
	}
	return false
}
