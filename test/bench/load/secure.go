//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/test/bench/loop"
)

// shaker makes httpServer's connections secure. Handshakes go on in goroutines, since
// crypto/tls has to wait there; everything after them on the loop.
type shaker struct {
	server *httpServer
	config *tls.Config
	bell   int // an eventfd: some are done

	mu   sync.Mutex
	done []*serverConn
}

func newShaker(s *httpServer) (*shaker, error) {
	certificate, err := selfSigned()
	if err != nil {
		return nil, err
	}
	h := &shaker{server: s, config: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}}
	if h.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return h, s.Add(h.bell, unix.EPOLLIN, func(uint32) { h.takeDone() })
}

// shake begins a handshake. Package net waits on a descriptor of its own.
func (h *shaker) shake(c *serverConn) error {
	its, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(its), "caller")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return err
	}
	below := &belowTLS{Conn: conn, fd: c.fd}
	c.tls = tls.Server(below, h.config)
	go func() {
		if conn.SetDeadline(time.Now().Add(30*time.Second)) != nil || c.tls.Handshake() != nil {
			c.closed = true
		}
		conn.Close()
		below.onLoop = true
		h.mu.Lock()
		h.done = append(h.done, c)
		h.mu.Unlock()
		_, _ = unix.Write(h.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it cannot overflow
	}()
	return nil
}

// takeDone goes on with those that are done.
func (h *shaker) takeDone() {
	_, _ = unix.Read(h.bell, make([]byte, 8))
	h.mu.Lock()
	done := h.done
	h.done = nil
	h.mu.Unlock()
	for _, c := range done {
		if c.closed || h.server.Add(c.fd, unix.EPOLLIN, func(uint32) { h.server.read(c) }) != nil {
			h.server.drop(c)
		} else {
			h.server.read(c)
		}
	}
}

// belowTLS is the connection below crypto/tls: package net's until the handshake is
// over, then the socket, which waits for nothing.
type belowTLS struct {
	net.Conn
	fd     int
	onLoop bool
}

func (b *belowTLS) Read(p []byte) (int, error) {
	if !b.onLoop {
		return b.Conn.Read(p)
	}
	n, again, err := loop.Read(b.fd, p)
	switch {
	case err != nil:
		return 0, err
	case again:
		return 0, os.ErrDeadlineExceeded // crypto/tls forgives it
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (b *belowTLS) Write(p []byte) (int, error) {
	if !b.onLoop {
		return b.Conn.Write(p)
	}
	n, _, err := loop.Write(b.fd, p)
	if n < len(p) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// receive reads from c, over TLS or not: 0 bytes are the end, or nothing to read
// yet if again.
func (s *httpServer) receive(c *serverConn) (n int, again bool, err error) {
	if c.tls == nil {
		return loop.Read(c.fd, s.buf)
	}
	n, err = c.tls.Read(s.buf)
	switch {
	case n > 0 || errors.Is(err, io.EOF):
		return n, false, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, true, nil
	}
	return 0, false, err
}

// say writes to c, over TLS or not.
func (s *httpServer) say(c *serverConn, text []byte) error {
	if c.tls != nil {
		_, err := c.tls.Write(text)
		return err
	}
	_, _, err := loop.Write(c.fd, text)
	return err
}

// selfSigned is what OpenSSL's and Go's servers mostly have: a key on P-256.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
