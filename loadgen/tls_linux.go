package loadgen

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loopSocket is what is below a wire in an event loop: the socket of a conn. The
// conn itself closes it and knows its deadline.
type loopSocket struct {
	net.Conn // nil: crypto/tls calls nothing but what is below
	conn     *conn
	errno    syscall.Errno // why the socket was given up
	sent     int           // bytes of the request in flight that the socket has taken
}

// Read takes what the socket has.
func (l *loopSocket) Read(p []byte) (int, error) {
	for {
		n, errno := receiveFrom(l.conn.fd, p, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return 0, errAgain
		case errno != 0:
			l.errno = errno
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write sends what the socket takes, and keeps the rest for conn.flush.
func (l *loopSocket) Write(p []byte) (int, error) {
	c, n := l.conn, 0
	if c.flushed == len(c.rest) {
		var errno syscall.Errno
		n, errno = sendTo(c.fd, p)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
			l.errno = errno
			return 0, errno
		}
		l.sent += n
		c.rest, c.flushed = c.rest[:0], 0
	}
	c.rest = append(c.rest, p[n:]...)
	return len(p), nil
}

func (l *loopSocket) Close() error                     { return nil }
func (l *loopSocket) SetWriteDeadline(time.Time) error { return nil }

// adopt makes a connection part of the loop. crypto/tls may have read more than the
// handshake: there is something to read until that turns out to be false.
func (c *conn) adopt(t *secured) {
	c.tls, c.socket, c.readable = t, &loopSocket{conn: c}, true
	c.rest, c.flushed = c.rest[:0], 0
	t.wire.Conn = c.socket
}

// farewell says that nothing more comes, where that is not cut off from what was
// said before.
func (c *conn) farewell() {
	if t := c.tls; t != nil && !c.ended && c.socket.errno == 0 && c.flushed == len(c.rest) {
		_ = t.CloseWrite() // nobody waits for it to arrive
	}
	c.tls, c.socket = nil, nil
}

// writeSecure is write over TLS: whatever the socket does not take at once is
// encrypted already.
func (c *conn) writeSecure(request []byte) {
	s, l := c.shard, c.socket
	c.size, l.sent = len(request), 0
	_, err := c.tls.Write(request)
	switch {
	case err == nil && c.flushed == len(c.rest):
		c.fate.sent = c.size
		c.await()
	case err == nil:
		c.state = writing
		c.flush()
	case l.errno != 0 && !c.fresh && l.sent == 0 && classify(l.errno, false) == reset:
		// Nothing of it was written: nobody can have acted on it.
		c.disconnect()
		c.connect()
	case l.errno != 0:
		c.fate.sent = min(l.sent, c.size)
		c.fail("write", "write", l.errno)
	default:
		c.finish(classify(err, false), err.Error(), s.now())
	}
}

// receiveSecure is receive over TLS.
func (c *conn) receiveSecure() (n int, more, ok bool) {
	n, err := c.tls.Read(c.shard.buffer)
	switch {
	case n > 0:
		c.ended = c.ended || err != nil // what it was, the next read says
		return n, !c.tls.wire.alone, true
	case err == errAgain:
		c.readable = false
	case errors.Is(err, io.EOF):
		return 0, false, true
	case c.socket.errno != 0:
		c.fail("read", "read", c.socket.errno)
	default:
		failed := answerError(err, c.fate.read)
		c.finish(classify(failed, false), failed.Error(), c.shard.now())
	}
	return 0, false, false
}

// dial is the making of a connection off the loop.
type dial struct {
	securing atomic.Bool // the handshake has begun
}

// run connects as Go's dialer does, with all its care for names with several
// addresses, secures the connection if need be, and takes the socket out of Go's
// hands.
func (d *dial) run(ctx context.Context, address string, s *secure) (fd int, t *secured, err error) {
	conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", address)
	if err != nil {
		return -1, nil, err
	}
	defer conn.Close() // of Go's descriptor of it
	if s != nil {
		d.securing.Store(true)
		if t, err = s.handshake(ctx, conn, address); err != nil {
			return -1, nil, err
		}
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return -1, nil, err
	}
	var failed error
	err = raw.Control(func(its uintptr) { fd, failed = unix.FcntlInt(its, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil && failed != nil {
		err = &net.OpError{Op: "dial", Net: "tcp", Addr: conn.RemoteAddr(), Err: failed}
	}
	return fd, t, err
}
