package proxy

import (
	"net"
	"syscall"
)

// socket is one side of a proxied connection: a TCP connection, or in tests
// something that can do less.
type socket struct {
	net.Conn
	tcp *net.TCPConn // nil: not a kernel socket
}

func newSocket(c net.Conn) *socket {
	tcp, _ := c.(*net.TCPConn)
	return &socket{Conn: c, tcp: tcp}
}

// finish sends FIN: no more bytes will come, but the other direction stays open.
func (s *socket) finish() {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() // fails only where the connection is gone already
		return
	}
	s.Close()
}

// abort closes with RST (SO_LINGER 0, see socket(7)): at once, unsent bytes
// dropped, no TIME_WAIT.
func (s *socket) abort() {
	if s.tcp != nil {
		s.tcp.SetLinger(0)
	}
	s.Close()
}

// broken tells whether the peer has sent RST, which after a write to a closed
// loopback peer is known when write returns.
func (s *socket) broken() bool {
	if s.tcp == nil {
		return false
	}
	raw, err := s.tcp.SyscallConn()
	if err != nil {
		return true
	}
	var errno int
	err = raw.Control(func(fd uintptr) {
		errno, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
	})
	return err != nil || errno != 0
}
