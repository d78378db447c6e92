//go:build http3

package loadgen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// h3link is a connection: QUIC on a socket of its own, and on it the two control
// streams of HTTP/3. The trunk's lock guards it.
type h3link struct {
	trunk     *h3trunk
	host      string
	socket    net.Conn
	transport *quic.Transport
	conn      *quic.Conn
	ctx       context.Context // ends when the link takes no more requests
	leave     context.CancelFunc

	live  map[*h3Client]quic.StreamID
	going error   // why no more requests are to be sent here, if so
	bound *uint64 // of a GOAWAY: streams from it on are not answered
	ended bool

	born   time.Time // when it was made
	used   time.Time // when a request last ended
	opened int       // streams, for requests

	control, encoder, decoder bool // the server's streams of these types are there

	made made // connect is how long the socket took, handshake QUIC and TLS, which are one
}

// quietly keeps quic-go from writing to standard error that it would like larger
// socket buffers than the system allows.
var quietly = sync.OnceFunc(func() {
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // the name is a valid one
})

// h3QUIC are the settings of our connections. Handshakes last as long as the request
// that waits for them. Keep-alives hold a connection open while an answer is
// outstanding, as RFC 9114, 5.1 expects of clients.
var h3QUIC = quic.Config{
	HandshakeIdleTimeout: time.Hour,
	KeepAlivePeriod:      10 * time.Second,
	MaxIncomingStreams:   -1, // the server has no requests
	// Nobody holds the bytes of answers back: windows as large as HTTP/2's here.
	InitialStreamReceiveWindow: ourWindow, MaxStreamReceiveWindow: 4 * ourWindow,
	InitialConnectionReceiveWindow: 4 * ourWindow, MaxConnectionReceiveWindow: 16 * ourWindow,
}

func (t *h3trunk) connectTo(ctx context.Context, host string) (*h3link, error) {
	h := t.hub
	l := &h3link{trunk: t, host: host, live: map[*h3Client]quic.StreamID{}}
	began := time.Now()
	var err error
	if l.socket, err = h.dial(ctx, "udp", host); err != nil {
		return nil, err
	}
	l.made.connect = time.Since(began)
	l.transport = &quic.Transport{Conn: packets(l.socket)}
	began = time.Now()
	l.conn, err = l.transport.Dial(ctx, l.socket.RemoteAddr(), h.config.secure.towards(host), &h3QUIC)
	if err != nil {
		l.hangUp()
		return nil, quicError(err, host, true)
	}
	l.made.handshake, l.made.resumed = time.Since(began), l.conn.ConnectionState().TLS.DidResume
	l.ctx, l.leave = context.WithCancel(h.ctx)
	if err := l.settings(); err != nil {
		l.leave()
		l.hangUp()
		return nil, quicError(err, host, false)
	}
	l.born = time.Now()
	l.used = l.born
	return l, nil
}

// settings opens our control stream. Streams for QPACK are not needed without tables.
func (l *h3link) settings() error {
	st, err := l.conn.OpenUniStream()
	if err != nil {
		return err
	}
	const controlStream, maxFieldSectionSize = 0x00, 0x06
	setting := quicvarint.Append(quicvarint.Append(nil, maxFieldSectionSize), maxFields)
	out := quicvarint.Append(quicvarint.Append([]byte{controlStream}, h3Settings), uint64(len(setting)))
	_, err = st.Write(append(out, setting...))
	return err
}

// hangUp gives the connection up, and its socket.
func (l *h3link) hangUp() {
	// What these three could return is that somebody else was first.
	if l.conn != nil {
		_ = l.conn.CloseWithError(h3NoError, "")
	}
	_ = l.transport.Close()
	_ = l.socket.Close()
}

// packets is a connected socket as QUIC wants to have it: it is connected so that
// the kernel says when nobody listens where it leads.
func packets(conn net.Conn) net.PacketConn {
	if udp, ok := conn.(*net.UDPConn); ok {
		return udpPackets{udp}
	}
	return connPackets{conn}
}

type udpPackets struct{ *net.UDPConn }

func (c udpPackets) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

func (c udpPackets) WriteMsgUDP(p, oob []byte, _ *net.UDPAddr) (n, oobn int, err error) {
	return c.UDPConn.WriteMsgUDP(p, oob, nil)
}

// connPackets is for connections of Config.Dial that are no sockets: each Write of
// one is a Read of the other.
type connPackets struct{ net.Conn }

func (c connPackets) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

func (c connPackets) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.RemoteAddr(), err
}

// listen takes the streams that the server opens, until the connection ends.
func (l *h3link) listen() {
	t := l.trunk
	for {
		st, err := l.conn.AcceptUniStream(context.Background())
		if err != nil {
			t.mu.Lock()
			l.end(quicError(err, l.host, false))
			t.mu.Unlock()
			return
		}
		t.hub.all.Go(func() {
			if bad := l.take(st); bad != nil {
				l.accuse(bad)
			}
		})
	}
}

// accuse ends the connection for what the server did on it.
func (l *h3link) accuse(bad *h3violation) {
	t := l.trunk
	t.mu.Lock()
	l.going = cmpErr(l.going, bad)
	t.mu.Unlock()
	// A connection that has ended by itself is left as it is.
	_ = l.conn.CloseWithError(quic.ApplicationErrorCode(bad.code), "")
}

// take reads a stream of the server's (RFC 9114, 6.2). What ends with the connection
// is no violation of its own.
func (l *h3link) take(st *quic.ReceiveStream) *h3violation {
	const control, push, qpackEncoder, qpackDecoder = 0x00, 0x01, 0x02, 0x03
	r := bufio.NewReaderSize(st, 64)
	kind, err := quicvarint.Read(r)
	if err != nil {
		return nil // a stream may end before anybody knows what it was to be
	}
	first := func(seen *bool) *h3violation {
		l.trunk.mu.Lock()
		defer l.trunk.mu.Unlock()
		if *seen {
			return violatedH3(h3StreamCreationError, "a second stream of type %#x", kind)
		}
		*seen = true
		return nil
	}
	switch kind {
	case control:
		if bad := first(&l.control); bad != nil {
			return bad
		}
		bad, err := l.readControl(r)
		_, reset := errors.AsType[*quic.StreamError](err)
		if reset || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			bad = violatedH3(h3ClosedCriticalStream, "the control stream ends: %v", err)
		}
		return bad
	case qpackEncoder:
		return first(&l.encoder) // with no table to encode for, nothing comes
	case qpackDecoder:
		return first(&l.decoder)
	case push:
		return violatedH3(h3IDError, "a push, though pushing was not allowed")
	}
	st.CancelRead(h3StreamCreationError)
	return nil
}

// mostControl is how long a frame on the control stream may be.
const mostControl = 64 << 10

// readControl reads the server's control stream to its end, which must not come.
func (l *h3link) readControl(r *bufio.Reader) (*h3violation, error) {
	for settled := false; ; settled = true {
		kind, err := quicvarint.Read(r)
		if err != nil {
			return nil, err
		}
		length, err := quicvarint.Read(r)
		if err != nil {
			return nil, err
		}
		switch {
		case !settled && kind != h3Settings:
			return violatedH3(h3MissingSettings, "its control stream begins with frame type %#x", kind), nil
		case settled && kind == h3Settings:
			return violatedH3(h3FrameUnexpected, "settings for a second time"), nil
		case kind == h3Data, kind == h3Headers, kind == h3PushPromise, kind == h3MaxPushID,
			kind == 0x02, kind == 0x06, kind == 0x08, kind == 0x09:
			return violatedH3(h3FrameUnexpected, "frame type %#x on the control stream", kind), nil
		case length > mostControl:
			return violatedH3(h3ExcessiveLoad, "a frame of %d bytes on the control stream", length), nil
		}
		frame := make([]byte, length)
		if _, err := io.ReadFull(r, frame); err != nil {
			return nil, err
		}
		switch kind {
		case h3Settings:
			if bad := checkSettings(frame); bad != nil {
				return bad, nil
			}
		case h3GoAway:
			id, n, err := quicvarint.Parse(frame)
			if err != nil || n != len(frame) {
				return violatedH3(h3FrameError, "GOAWAY of %d bytes", len(frame)), nil
			}
			if bad := l.goAway(id); bad != nil {
				return bad, nil
			}
		case h3CancelPush:
			return violatedH3(h3IDError, "CANCEL_PUSH of nothing"), nil
		}
	}
}

// checkSettings looks for what must not be in settings; none of the rest matters to us.
func checkSettings(p []byte) *h3violation {
	seen := map[uint64]bool{}
	for len(p) > 0 {
		id, n, err := quicvarint.Parse(p)
		if err != nil {
			return violatedH3(h3FrameError, "settings that end too early")
		}
		_, m, err := quicvarint.Parse(p[n:])
		if err != nil {
			return violatedH3(h3FrameError, "settings that end too early")
		}
		if seen[id] || id >= 0x02 && id <= 0x05 {
			return violatedH3(h3SettingsError, "setting %#x", id)
		}
		seen[id] = true
		p = p[n+m:]
	}
	return nil
}

// goAway: the server takes no more requests, and none from the stream bound on.
func (l *h3link) goAway(bound uint64) *h3violation {
	t := l.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if bound%4 != 0 || l.bound != nil && bound > *l.bound {
		return violatedH3(h3IDError, "GOAWAY up to stream %d", bound)
	}
	l.bound = &bound
	l.going = cmpErr(l.going, errGoAway)
	for c, id := range l.live {
		if uint64(id) >= bound {
			c.turnAway()
		}
	}
	l.part()
	return nil
}

var errGoAway = fmt.Errorf("the server ends the connection (GOAWAY): %w", syscall.ECONNRESET)

// part takes a link that is to carry no more requests out of the trunk; it ends
// with its last answer.
func (l *h3link) part() {
	if l.trunk.link == l {
		l.trunk.link = nil
	}
	l.leave()
	if len(l.live) == 0 {
		l.end(l.going)
	}
}

// retire has the link carry no more requests: it has been kept for long enough.
func (l *h3link) retire() {
	l.going = cmpErr(l.going, errRetired)
	l.part()
}

// end closes the connection; whatever is under way on it fails.
func (l *h3link) end(err error) {
	if l.ended {
		return
	}
	l.ended = true
	l.going = cmpErr(l.going, err)
	l.part()
	delete(l.trunk.links, l)
	l.trunk.hub.all.Go(l.hangUp) // it waits for goroutines that may wait for the trunk
}

// quicError says in the words of package net what became of a connection, or of one
// that was to be made.
func quicError(err error, host string, connecting bool) error {
	var remote *quic.ApplicationError
	var transport *quic.TransportError
	var stream *quic.StreamError
	var version *quic.VersionNegotiationError
	var stateless *quic.StatelessResetError
	var idle *quic.IdleTimeoutError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("dial udp %s: %w", host, os.ErrDeadlineExceeded)
	case errors.As(err, &transport):
		const connectionRefused, cryptoError, pastCryptoErrors = 0x02, 0x100, 0x200
		switch code := transport.ErrorCode; {
		case code >= cryptoError && code < pastCryptoErrors:
			return &handshakeError{"udp", host, errors.New(err.Error())} // without its being net.ErrClosed
		case transport.Remote && code == connectionRefused:
			return fmt.Errorf("dial udp %s: %w: %v", host, syscall.ECONNREFUSED, err)
		case transport.Remote:
			return fmt.Errorf("%w: %v", syscall.ECONNRESET, err)
		}
		return fmt.Errorf("%w: %v", errQUIC, err)
	case errors.As(err, &version):
		return fmt.Errorf("%w: %v", errQUIC, err)
	case errors.As(err, &remote):
		return &h3codeError{"the server closed the connection", uint64(remote.ErrorCode), remote.ErrorMessage}
	case errors.As(err, &stream):
		return &h3codeError{"the server reset the stream", uint64(stream.ErrorCode), ""}
	case errors.As(err, &stateless), errors.As(err, &idle), !connecting && errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %v", errLost, err)
	case connecting && errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("dial udp %s: %w", host, syscall.ECONNREFUSED)
	}
	return err
}

var (
	errQUIC = fmt.Errorf("%w: not QUIC", errGarbled)
	errLost = fmt.Errorf("%w: the server has forgotten the connection, or is gone", syscall.ECONNRESET)
)
