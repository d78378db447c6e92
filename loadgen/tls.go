package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/threads"
)

// secure makes the connections of one stream secure. They share what servers give
// them to resume a session with.
type secure struct {
	config *tls.Config
	// turns are for the arithmetic of handshakes, one per processor: thousands of them
	// that go on at once must not keep the event loops waiting.
	turns chan struct{}

	mu     sync.Mutex
	server string      // the name that named has
	named  *tls.Config // the one used last, where config leaves the name open
}

// sessions is how many servers' sessions are kept for the next connection to them.
const sessions = 64

// newSecure is nil for a plain stream.
func newSecure(c *tls.Config) *secure {
	if c == nil {
		return nil
	}
	c = c.Clone()
	if len(c.NextProtos) == 0 {
		c.NextProtos = []string{"http/1.1"}
	}
	if c.ClientSessionCache == nil && !c.SessionTicketsDisabled {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(sessions)
	}
	// Small records first make large requests several writes, for the sake of
	// networks that lose much.
	c.DynamicRecordSizingDisabled = true
	return &secure{config: c, turns: make(chan struct{}, threads.Processors())}
}

// offer is for protocols that TLS has to agree on (ALPN); "" leaves it as it is.
func (s *secure) offer(protocol string) {
	if protocol != "" {
		s.config.NextProtos = []string{protocol}
	}
}

// towards is how TLS is spoken with who is at address.
func (s *secure) towards(address string) *tls.Config {
	if s.config.ServerName != "" {
		return s.config
	}
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		name = address
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.named == nil || s.server != name {
		s.server, s.named = name, s.config.Clone()
		s.named.ServerName = name
	}
	return s.named
}

// secured is a connection with TLS, and what that took.
type secured struct {
	*tls.Conn
	wire    *wire
	took    time.Duration
	resumed bool    // a session of an earlier connection
	look    [1]byte // of spent
}

// handshake secures a connection. An error leaves it closed.
func (s *secure) handshake(ctx context.Context, conn net.Conn, address string) (*secured, error) {
	w := &wire{Conn: conn, turns: s.turns}
	c := &secured{Conn: tls.Client(w, s.towards(address)), wire: w}
	began := time.Now()
	s.turns <- struct{}{}
	err := c.HandshakeContext(ctx)
	<-s.turns
	w.turns = nil
	if err != nil {
		conn.Close() // nothing is left to be lost
		record, ok := errors.AsType[tls.RecordHeaderError](err)
		switch {
		case ok && record.Conn != nil:
			err = fmt.Errorf("%w: what answers there does not speak TLS", err)
		case errors.Is(err, io.EOF):
			err = errHandshakeCut
		case errors.Is(err, context.DeadlineExceeded):
			err = os.ErrDeadlineExceeded
		}
		return nil, &handshakeError{"tcp", address, err}
	}
	c.took, c.resumed = time.Since(began), c.ConnectionState().DidResume
	return c, nil
}

// spent tells whether an idle connection is of no more use; raw is its socket, if it
// has one. What came may be of TLS itself, like a ticket to resume the session with.
func (c *secured) spent(raw syscall.RawConn) bool {
	w := c.wire
	if w.alone && !spent(raw) {
		return false
	}
	var n int
	var err error
	if raw == nil {
		w.hasty = true
		n, err = c.Read(c.look[:])
		w.hasty = false
	} else {
		failed := raw.Read(func(fd uintptr) bool {
			w.direct, w.fd = true, int(fd)
			n, err = c.Read(c.look[:])
			return true
		})
		w.direct = false
		if failed != nil {
			err = failed
		}
	}
	return n > 0 || err != errAgain
}

// farewell closes the connection, and says so before where that does not have to
// wait and is not cut off from what was said before: its Close may take seconds.
func (c *secured) farewell(raw syscall.RawConn) {
	if w := c.wire; len(w.rest) == 0 {
		// Nobody waits for it to arrive.
		_ = raw.Control(func(fd uintptr) {
			w.direct, w.fd = true, int(fd)
			_ = c.CloseWrite()
		})
	}
	c.wire.Conn.Close()
}

// handshakeError is a failed handshake, in the words of package net.
type handshakeError struct {
	network, address string
	err              error
}

func (e *handshakeError) Error() string {
	return fmt.Sprintf("handshake %s %s: %v", e.network, e.address, e.err)
}

func (e *handshakeError) Unwrap() error { return e.err }

var errHandshakeCut = errors.New("the connection was closed in the TLS handshake")

// ofTLS tells the errors that TLS itself is the reason of: certificates, alerts of
// either side, bytes that are no records.
func ofTLS(err error) bool {
	if _, ok := errors.AsType[*handshakeError](err); ok {
		return true
	}
	// PostgreSQL's handshakes are not ours.
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	// How crypto/tls returns alerts, whose type it does not show.
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error")
}

// wire is the connection below TLS. Where that does not wait, because an event loop
// has it, or it is direct or hasty, a read returns errAgain, after which crypto/tls
// goes on where it was: to it that is a deadline, and it keeps a record that has
// arrived in part.
type wire struct {
	net.Conn
	direct bool // reads and writes go to the socket, and wait for nothing
	fd     int  // of the socket, then
	rest   []byte
	turns  chan struct{} // of which the handshake has one, while it does not wait
	hasty  bool          // there is no socket, and a read must not wait

	frame frames
	alone bool // what was read last was one whole record, with nothing before or behind it
}

// errAgain says that there is nothing to read now.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// Read is called by crypto/tls, which by then has used up all whole records that it
// has read before.
func (w *wire) Read(p []byte) (n int, err error) {
	switch {
	case w.direct:
		n, err = receiveNow(w.fd, p)
	case w.hasty:
		err = errAgain
	case w.turns != nil:
		<-w.turns
		n, err = w.Conn.Read(p)
		w.turns <- struct{}{}
	default:
		n, err = w.Conn.Read(p)
	}
	first := w.frame.between()
	begun := w.frame.see(p[:n])
	w.alone = first && begun == 1 && w.frame.between() && n < len(p)
	return n, err
}

// Write is called by crypto/tls, with whole records. What a socket does not take at
// once is kept for flush.
func (w *wire) Write(p []byte) (n int, err error) {
	switch {
	case w.turns != nil:
		<-w.turns
		n, err = w.Conn.Write(p)
		w.turns <- struct{}{}
		return n, err
	case !w.direct:
		return w.Conn.Write(p)
	}
	if len(w.rest) == 0 {
		if n, err = sendNow(w.fd, p); err != nil {
			return 0, err
		}
	}
	w.rest = append(w.rest, p[n:]...)
	return len(p), nil
}

// flush writes what a direct wire has kept.
func (w *wire) flush() error {
	if len(w.rest) == 0 {
		return nil
	}
	n, err := w.Conn.Write(w.rest)
	if w.rest = w.rest[n:]; len(w.rest) == 0 {
		w.rest = nil
	}
	return err
}

// frames follows where the records of TLS begin and end in what is read: five
// bytes, of which the last two say how many follow (RFC 8446, 5.1).
type frames struct {
	header [5]byte
	has    int // of the header
	left   int // of the record that it begins
}

// between tells that all records seen are complete.
func (f *frames) between() bool { return f.has == 0 && f.left == 0 }

// see takes the next bytes and returns how many records begin in them.
func (f *frames) see(p []byte) (begun int) {
	for len(p) > 0 {
		if f.left == 0 {
			if f.has == 0 {
				begun++
			}
			n := copy(f.header[f.has:], p)
			f.has += n
			p = p[n:]
			if f.has < len(f.header) {
				return begun
			}
			f.has, f.left = 0, int(f.header[3])<<8|int(f.header[4])
		}
		n := min(f.left, len(p))
		f.left -= n
		p = p[n:]
	}
	return begun
}
