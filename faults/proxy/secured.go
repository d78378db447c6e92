package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// secured is TLS on one side of a proxied connection. A flow may be interrupted in
// the middle of a write and go on later, which a tls.Conn does not survive: once a
// write of it has run into a deadline, it is of no more use. So its records go to
// a wire, which takes them all at once, and what waits is the flow:
//
//	flow ── Write ──> tls.Conn ── records ──> wire ── what fits ──> socket
//	   waits while some are pending            └ pending ── goroutine ─┘
//
// An interrupted Write has passed on what it says it has, as with a kernel that
// holds bytes for its peer.
type secured struct {
	*tls.Conn
	wire     *wire
	patience *time.Timer // ends the handshake; of whose goroutine it is

	mu      sync.Mutex
	shaking bool // a handshake that ran into a deadline could not go on: none is set
	shaken  bool // that is over
	quiet   bool // it ends without close_notify, as its other side did
}

// recordsAtOnce is how much is encrypted before the wire must have taken it.
const recordsAtOnce = largeBuffer

// newSecured is TLS on a connection, of which the proxy is the server or the
// client. Its goroutines are started by spawn.
func newSecured(nc net.Conn, spawn func(func()), as func(net.Conn) *tls.Conn) *secured {
	w := &wire{Conn: nc, spawn: spawn}
	w.changed.L = &w.mu
	if k, ok := nc.(syscall.Conn); ok {
		if raw, err := k.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	return &secured{Conn: as(w), wire: w}
}

// handshake takes that long at most.
func (s *secured) handshake(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.patience = time.AfterFunc(within, func() { cancel(context.DeadlineExceeded) })
	defer s.patience.Stop()
	s.mu.Lock()
	s.shaking = true
	s.Conn.SetReadDeadline(time.Time{})
	s.mu.Unlock()
	err := s.HandshakeContext(ctx)
	if err != nil && context.Cause(ctx) == context.DeadlineExceeded {
		err = context.DeadlineExceeded
	}
	s.mu.Lock()
	s.shaking, s.shaken = false, err == nil
	s.mu.Unlock()
	return err
}

// aside does something else in the midst of the handshake, at which the peer's time stands still.
func (s *secured) aside(within time.Duration, do func()) {
	s.patience.Stop()
	do()
	s.patience.Reset(within)
}

// Read without a handshake is what the peer sends to begin one: whoever discards
// it does not answer.
func (s *secured) Read(p []byte) (int, error) {
	s.mu.Lock()
	shaken := s.shaken
	s.mu.Unlock()
	if !shaken {
		return s.wire.Read(p)
	}
	return s.Conn.Read(p)
}

// Write returns when the wire has passed all of p on, or was interrupted.
func (s *secured) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := s.wire.drained(); err != nil {
			return n, err
		}
		m, err := s.encrypt(p[n:])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, s.wire.drained()
}

// offer is Write as far as it goes without waiting.
func (s *secured) offer(p []byte) (n int, err error) {
	for n < len(p) && !s.wire.waits() {
		m, err := s.encrypt(p[n:])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// encrypt gives the wire some of p.
func (s *secured) encrypt(p []byte) (int, error) {
	s.wire.gather(true)
	defer s.wire.gather(false)
	return s.Conn.Write(p[:min(len(p), recordsAtOnce)])
}

// SetReadDeadline is of no effect during the handshake. Whoever set one to
// interrupt a flow has counted it first (see flow.armRead).
func (s *secured) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shaking {
		return nil
	}
	return s.Conn.SetReadDeadline(t)
}

// SetWriteDeadline interrupts writes, whatever the time, until it is set to none.
func (s *secured) SetWriteDeadline(t time.Time) error {
	s.wire.interrupt(!t.IsZero())
	return nil
}

// CloseWrite says close_notify, and FIN behind it.
func (s *secured) CloseWrite() error {
	if !s.isQuiet() {
		_ = s.Conn.CloseWrite() // fails before the handshake is over, and where the peer has gone
	}
	s.wire.finish()
	return nil
}

func (s *secured) Close() error {
	if s.isQuiet() {
		return s.wire.Close()
	}
	return s.Conn.Close()
}

func (s *secured) isQuiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quiet
}

// tear has it end without close_notify.
func (s *secured) tear() {
	s.mu.Lock()
	s.quiet = true
	s.mu.Unlock()
}

// wire carries the records of a secured. Its Write never waits.
type wire struct {
	net.Conn
	raw   syscall.RawConn // nil: not a kernel socket
	spawn func(func())

	torn atomic.Bool // FIN came where a record was to begin: without close_notify, if TLS took it for the end

	mu        sync.Mutex
	changed   sync.Cond // pending, failed or stopped
	gathering bool      // records are kept, to be written at once
	buf       *[recordsRoom]byte
	pending   []byte // … of it, as a rule: not written yet
	writing   bool   // a goroutine does
	stopped   bool   // whoever waits is to look elsewhere
	fin       bool   // FIN is to follow
	failed    error
}

// recordsRoom has room for recordsAtOnce, encrypted: at most 16 KiB each (of TLS
// 1.2 with a block cipher, the longest), and an alert or two.
const recordsRoom = recordsAtOnce + 4<<10

var recordBuffers = sync.Pool{New: func() any { return new([recordsRoom]byte) }}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err == io.EOF {
		w.torn.Store(true)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.failed != nil:
		return 0, w.failed
	case w.fin:
		return 0, syscall.EPIPE
	}
	if w.buf == nil {
		w.buf = recordBuffers.Get().(*[recordsRoom]byte)
		w.pending = w.buf[:0]
	}
	w.pending = append(w.pending, p...)
	if !w.gathering {
		w.push()
	}
	return len(p), nil
}

// gather begins to keep records, or writes those that were kept.
func (w *wire) gather(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gathering = on; !on {
		w.push()
	}
}

// push writes what can be at once, and leaves the rest to a goroutine. w.mu is held.
func (w *wire) push() {
	if w.writing || w.failed != nil {
		return
	}
	if w.raw != nil && len(w.pending) > 0 {
		w.pending = w.pending[w.try(w.pending):]
	}
	if len(w.pending) == 0 || w.failed != nil {
		w.empty()
		return
	}
	w.writing = true
	w.spawn(w.write)
}

// try writes what the kernel takes now. w.mu is held.
func (w *wire) try(p []byte) (n int) {
	var errno error
	err := w.raw.Write(func(fd uintptr) bool {
		n, errno = ignoringEINTR(func() (int, error) { return unix.Write(int(fd), p) })
		return true
	})
	switch {
	case err != nil:
		w.failed = err
	case errno != nil && errno != unix.EAGAIN:
		w.failed = os.NewSyscallError("write", errno)
	}
	return max(n, 0)
}

// write writes until nothing is pending, or the connection is closed.
func (w *wire) write() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) > 0 && w.failed == nil {
		p := w.pending
		w.mu.Unlock()
		n, err := w.Conn.Write(p)
		w.mu.Lock()
		w.pending = w.pending[n:] // it may have grown behind p
		if err != nil && w.failed == nil {
			w.failed = err
		}
	}
	w.writing = false
	w.empty()
}

// empty gives the buffer back and tells who waits. w.mu is held.
func (w *wire) empty() {
	if w.failed != nil {
		w.pending = nil
	}
	if w.buf != nil {
		recordBuffers.Put(w.buf)
		w.buf, w.pending = nil, nil
	}
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok && w.fin && w.failed == nil {
		half.CloseWrite() // fails only where the connection is gone already
	}
	w.changed.Broadcast()
}

// drained waits until nothing is pending; os.ErrDeadlineExceeded: it was interrupted.
func (w *wire) drained() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) > 0 && w.failed == nil && !w.stopped {
		w.changed.Wait()
	}
	switch {
	case w.failed != nil:
		return w.failed
	case len(w.pending) > 0:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// waits tells whether something is pending.
func (w *wire) waits() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pending) > 0 && w.failed == nil
}

// emptied waits until nothing is pending, whatever interrupts others.
func (w *wire) emptied() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) > 0 && w.failed == nil {
		w.changed.Wait()
	}
}

func (w *wire) interrupt(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = on
	w.changed.Broadcast()
}

// finish sends FIN behind what is pending.
func (w *wire) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fin {
		return
	}
	w.fin = true
	w.push()
}

// Close drops what is pending.
func (w *wire) Close() error {
	w.mu.Lock()
	if w.failed == nil {
		w.failed = net.ErrClosed
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	return w.Conn.Close()
}

// SetWriteDeadline is what TLS asks for around its last words. They do not wait.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
