package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// client carries one request at a time over a connection of its own. It is the
// seam between when requests are sent (open.go, closed.go) and how they go over
// the wire.
type client interface {
	// do sends the request of a job and waits until its answer is complete, it has
	// failed, or the deadline is past. It always returns.
	do(j job, deadline time.Time) result
	// warm tells whether a connection is open, so that the next request need not
	// wait for one.
	warm() bool
	// rest gives up the connection if it has carried no request since then. It is called
	// while do is not.
	rest(since time.Time)
	// cut ends a request in flight, and every later one, with canceled. It may be
	// called from any goroutine, once the run's context has ended.
	cut()
	// close gives up the connection.
	close()
}

// outcome is a status code, or one of the error classes below 100, or a status of
// gRPC, from grpcOutcome on.
type outcome uint16

const (
	other outcome = iota + 1
	timeout
	refused
	reset
	protocol
	dropped
	canceled
	unchecked  // a check does not hold
	uncaptured // a captured value is not in the answer
	exhausted  // no row of unique data is left
	astray     // a redirect that is not followed
	replied    // the answer is an error of the protocol's own
	insecure   // TLS could not be agreed on, or went wrong
	nameless   // the host's name has no address
	unready    // its user's setup failed
)

// answered is the outcome of a request in a protocol that has no status codes.
// gRPC's, which are from 1000 on, end at 16.
const answered outcome = grpcOutcome + 19

var outcomeNames = [...]string{
	other: "other", timeout: "timeout", refused: "refused", reset: "reset",
	protocol: "protocol", dropped: "dropped", canceled: "canceled",
	unchecked: "check", uncaptured: "capture", exhausted: "data", astray: "redirect",
	insecure: "tls", nameless: "dns", replied: "error", unready: "setup",
}

// unmade tells that no connection could be made, which may take no time at all.
func (o outcome) unmade() bool {
	return o == refused || o == other || o == insecure || o == nameless || o == unready
}

func (o outcome) String() string {
	switch {
	case o == answered:
		return "answered"
	case int(o) < len(outcomeNames):
		return outcomeNames[o]
	case o >= grpcOutcome:
		return grpcNames[o-grpcOutcome].name
	}
	return strconv.Itoa(int(o))
}

// result is how a request ended.
type result struct {
	outcome  outcome
	detail   string    // of an error
	class    string    // what the protocol calls an outcome replied: WRONGTYPE, 23505
	sent     int       // bytes of the request
	received int       // bytes of the answer's body
	read     int       // bytes of the answer, head and all
	begun    time.Time // when the first of them came; zero if none did
	done     time.Time

	made []made // connections, for this request

	// waited is how long the request had a connection whose server took no more
	// streams: it was queued, and sent only then, or never.
	waited time.Duration

	// Of streams that are not plain.
	wanted  bool   // the status is what a check asks for
	status  int    // of an answer that failed for another reason
	request string // "POST /checkout", as it was sent last
}

// classify names an error of a connection. connecting tells whether it came
// from making one.
func classify(err error, connecting bool) outcome {
	var netErr net.Error
	var dnsErr *net.DNSError
	switch {
	case errors.Is(err, errProtocol), errors.Is(err, errGarbled):
		return protocol
	case errors.Is(err, errChecked):
		return unchecked
	case errors.Is(err, errCaptured):
		return uncaptured
	case errors.Is(err, errNoRow):
		return exhausted
	case errors.Is(err, errRedirect):
		return astray
	case errors.Is(err, errNoStream):
		return dropped
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return timeout
	case errors.As(err, &dnsErr):
		return nameless
	case errors.As(err, &netErr) && netErr.Timeout():
		return timeout
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, errNoAddress):
		return refused
	case errors.Is(err, errEarly), errors.Is(err, errMidAnswer), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED), errors.Is(err, errHandshakeCut),
		!connecting && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed)):
		return reset
	case ofTLS(err):
		return insecure
	}
	return other
}

var (
	errNoAddress = errors.New("the service has no address now")
	errEarly     = errors.New("the connection was closed before the answer began")
	errMidAnswer = errors.New("the connection was closed in the middle of the answer")
)

// cutShort says that the connection ended after so many bytes of the answer.
func cutShort(read int) error {
	if read == 0 {
		return errEarly
	}
	return errMidAnswer
}

// answerError is an error of reading, after so many bytes of the answer. The end of
// a connection inside a record of TLS is an end like any other.
func answerError(err error, read int) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", cutShort(read), io.ErrUnexpectedEOF)
	}
	return err
}

// httpClient is HTTP/1.1 on one raw connection at a time, kept alive as long as
// the server does.
//
// A kept connection may turn out to be closed. If that shows before anything of
// a request was written, the request is sent on a new connection, as net/http
// does. Once a byte is written nobody can tell whether the server has acted on
// it, so that the request counts as failed (reset) and is not sent again.
//
// A request is written whole before its answer is read: a server that answers
// early and stops reading may cut off a body larger than the socket's buffers.
type httpClient struct {
	ctx     context.Context // of the run
	stream  *stream
	resolve func() string
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	secure  *secure // nil if the stream is plain

	mu   sync.Mutex // guards conn against cut
	conn net.Conn

	raw     syscall.RawConn // of conn, or of what is below its TLS, where that has one
	tls     *secured        // conn, if it is
	talk    *talk           // of conn, if that is a socket
	host    string          // that conn leads to
	born    time.Time       // when conn was made
	used    time.Time       // when it last served,
	served  int             // and how many requests
	trip    *trip           // nil if the stream is plain
	answer  answer
	draw    draw // memory
	request []byte
	body    []byte
	buffer  []byte
}

func newHTTPClient(ctx context.Context, s *stream, c Config) *httpClient {
	cl := &httpClient{ctx: ctx, stream: s, resolve: c.Resolve, dial: c.dialer(), secure: c.secure, buffer: make([]byte, 4096)}
	if !s.plain() {
		cl.trip = &trip{stream: s, start: c.Start, scheme: "http"}
		if c.secure != nil {
			cl.trip.scheme = "https"
		}
	}
	return cl
}

func (c *httpClient) warm() bool { return c.conn != nil }

func (c *httpClient) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		// A failure means that it is closed already, which is as good.
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	}
}

func (c *httpClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		if c.tls != nil && c.raw != nil {
			c.tls.farewell(c.raw)
		} else {
			c.conn.Close() // nothing is left to be lost
		}
		c.conn, c.raw, c.tls, c.talk = nil, nil, nil, nil
	}
}

func (c *httpClient) rest(since time.Time) {
	if !c.used.After(since) {
		c.close()
	}
}

func (c *httpClient) do(j job, deadline time.Time) result {
	if c.trip != nil {
		return c.trip.visit(j, deadline, c.once)
	}
	return c.once(j.seq, deadline)
}

// once carries out one request and its answer.
func (c *httpClient) once(seq uint64, deadline time.Time) result {
	r := c.attempt(seq, deadline)
	r.done = time.Now()
	c.served++
	if r.outcome < 100 || c.stream.keep.over(r.done.Sub(c.born), c.served) {
		c.close()
	}
	if r.outcome < 100 && c.ctx.Err() != nil {
		r.outcome, r.detail = canceled, ""
	}
	c.used = r.done
	return r
}

// longIdle is how long a connection is trusted without a look whether its peer
// has closed it: the look is a system call.
const longIdle = time.Millisecond

func (c *httpClient) attempt(seq uint64, deadline time.Time) (r result) {
	if c.conn != nil {
		c.arm(deadline)
		if (time.Since(c.used) > longIdle || c.tls != nil && !c.tls.wire.alone) && c.spent() {
			c.close()
		}
	}
	for {
		if c.conn == nil {
			if err := c.connect(deadline, &r); err != nil {
				r.fail(err, true)
				return r
			}
			c.arm(deadline)
		}
		if c.ctx.Err() != nil { // after arm: whoever cuts later overrides the deadline
			r.outcome = canceled
			return r
		}
		var err error
		if c.trip != nil {
			c.request, c.body, err = c.trip.append(c.request[:0], c.body, c.host)
		} else {
			c.request, c.body, err = c.stream.appendDrawn(&c.draw, c.request[:0], c.body, seq, c.host)
		}
		if err != nil {
			r.outcome, r.detail = other, err.Error()
			return r
		}
		var read int
		r.sent, read, err = c.talkOrWrite()
		if r.sent == len(c.request) {
			c.receive(&r, seq, read, err)
			return r
		}
		if r.sent > 0 || len(r.made) > 0 || classify(err, false) != reset {
			r.fail(err, false)
			return r
		}
		c.close()
	}
}

// talkOrWrite sends the request. If all of it was sent, it returns what a Read of
// the answer's beginning does; 0 bytes without an error are none.
func (c *httpClient) talkOrWrite() (sent, read int, err error) {
	if c.talk != nil {
		if sent, read, err = c.talk.do(c.request, c.buffer); sent == len(c.request) || err != nil {
			return sent, read, err
		}
	}
	n, err := c.conn.Write(c.request[sent:])
	return sent + n, 0, err
}

func (r *result) fail(err error, connecting bool) {
	r.outcome, r.detail = classify(err, connecting), err.Error()
}

// spent tells whether an idle connection is of no more use.
func (c *httpClient) spent() bool {
	if c.tls == nil {
		return spent(c.raw)
	}
	return c.tls.spent(c.raw)
}

// arm sets the deadline of whatever the connection does next. An error would
// mean a closed connection: the next write says so.
func (c *httpClient) arm(deadline time.Time) { _ = c.conn.SetDeadline(deadline) }

// connect makes a connection and notes in r how long that took.
func (c *httpClient) connect(deadline time.Time, r *result) error {
	ctx, cancel := context.WithDeadline(c.ctx, deadline)
	defer cancel()
	host := c.resolve()
	if host == "" {
		return errNoAddress
	}
	began := time.Now()
	conn, err := c.dial(ctx, "tcp", host)
	if err != nil {
		return err
	}
	m := made{connect: time.Since(began), handshake: unknown}
	var raw syscall.RawConn
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err = s.SyscallConn(); err != nil {
			raw = nil
		}
	}
	_, socket := conn.(*net.TCPConn)
	var secure *secured
	if c.secure != nil {
		if secure, err = c.secure.handshake(ctx, conn, host); err != nil {
			return err
		}
		conn, m.handshake, m.resumed = secure, secure.took, secure.resumed
	}
	r.made = append(r.made, m)
	c.born, c.served = time.Now(), 0
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.host, c.raw, c.tls, c.talk = conn, host, raw, secure, nil
	if socket && raw != nil {
		c.talk = newTalk(raw, secure)
	}
	return nil
}

// receive reads one answer, all of it, after a first read of n bytes.
func (c *httpClient) receive(r *result, seq uint64, n int, err error) {
	if t := c.trip; t != nil {
		t.reply.reset(t.kind.keepBody)
		c.answer.reset(t.method() == "HEAD")
		c.answer.into = &t.reply
	} else {
		c.answer.reset(c.stream.kind(seq).method == "HEAD")
	}
	for ; ; n, err = c.conn.Read(c.buffer) {
		if n > 0 && r.read == 0 {
			r.begun = time.Now()
		}
		r.read += n
		used, bad := c.answer.feed(c.buffer[:n])
		r.received = c.answer.bytes
		switch {
		case bad != nil:
			r.fail(bad, false)
		case c.answer.done():
			if c.answer.close || used < n || err != nil {
				c.close()
			}
			r.outcome = outcome(c.answer.status)
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && c.answer.end():
			c.close()
			r.outcome = outcome(c.answer.status)
		case errors.Is(err, io.EOF):
			r.outcome, r.detail = reset, cutShort(r.read).Error()
		default:
			r.fail(answerError(err, r.read), false)
		}
		return
	}
}
