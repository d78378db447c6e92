//go:build http3

package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// haveHTTP3 tells whether this binary speaks HTTP/3; docs/decisions says why not all do.
const haveHTTP3 = true

// h3hub is what the clients of one stream share: its HTTP/3 connections. Each
// client is one of the requests that may be under way at once; so many of them
// share a trunk, which has one connection at a time, as in HTTP/2 (h2hub). What
// QUIC does by itself, streams, windows, acknowledgements, is quic-go's.
type h3hub struct {
	ctx    context.Context
	config Config
	stream *stream
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	each   int                         // clients of a trunk
	fixed  []atomic.Pointer[h3request] // by kind, where all its requests are alike

	mu     sync.Mutex
	trunks []*h3trunk
	all    sync.WaitGroup // the goroutines of links
}

func openH3(ctx context.Context, c Config, s *stream) (carrier, error) {
	quietly()
	h := &h3hub{
		ctx: ctx, config: c, stream: s, dial: c.dialer(), each: c.Spec.streams(),
		fixed: make([]atomic.Pointer[h3request], len(s.kinds)),
	}
	return carrier{client: h.client, close: h.all.Wait}, nil
}

func (h *h3hub) client() client {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &h3Client{hub: h, buffer: make([]byte, 8<<10)}
	c.alarm = time.AfterFunc(time.Hour, c.expire)
	c.alarm.Stop()
	if n := len(h.trunks); n == 0 || h.trunks[n-1].clients == h.each {
		h.trunks = append(h.trunks, newH3Trunk(h))
	}
	c.trunk = h.trunks[len(h.trunks)-1]
	c.trunk.clients++
	c.trunk.open++
	if !h.stream.plain() {
		c.trip = &trip{stream: h.stream, start: h.config.Start, scheme: "https"}
	}
	return c
}

// h3trunk is one of the connections that the stream may have.
type h3trunk struct {
	trunk[h3link]
	hub   *h3hub
	links map[*h3link]bool
}

func newH3Trunk(h *h3hub) *h3trunk {
	t := &h3trunk{hub: h, links: map[*h3link]bool{}}
	t.ctx, t.network, t.resolve, t.connect = h.ctx, "udp", h.config.Resolve, t.connectTo
	t.begin = func(l *h3link) {
		t.links[l] = true
		h.all.Go(l.listen)
	}
	return t
}

// h3Client carries one request at a time, each on a stream of its own of its trunk's
// connection.
type h3Client struct {
	hub   *h3hub
	trunk *h3trunk
	trip  *trip // nil for streams of plain requests
	alarm *time.Timer
	off   atomic.Bool // cut

	mu       sync.Mutex // below the trunk's
	st       *quic.Stream
	deadline time.Time
	expired  bool // the request's time is over
	unheard  bool // the server says that it has not acted on it
	closed   bool // guarded by the trunk

	answer  h3answer
	request h3request
	text    []byte
	body    []byte
	buffer  []byte
}

func (c *h3Client) warm() bool { return c.trunk.warm() }

func (c *h3Client) rest(since time.Time) {
	t := c.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.link; l != nil && len(l.live) == 0 && !l.used.After(since) {
		l.retire()
	}
}

func (c *h3Client) cut() {
	c.off.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveUp(h3RequestCancelled)
}

// giveUp ends the stream from our side, whoever reads or writes on it. The client's
// lock is held.
func (c *h3Client) giveUp(code quic.StreamErrorCode) {
	if c.st != nil {
		c.st.CancelRead(code)
		c.st.CancelWrite(code)
	}
}

// expire is called when the alarm goes off, which may be late: then the request has
// ended, and the next one may have begun.
func (c *h3Client) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st != nil && !time.Now().Before(c.deadline) {
		c.expired = true
		c.giveUp(h3RequestCancelled)
	}
}

// turnAway ends a request that the server will not act on. The trunk's lock is held.
func (c *h3Client) turnAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unheard = true
	c.giveUp(h3RequestCancelled)
}

func (c *h3Client) close() {
	t := c.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if t.open--; t.open == 0 {
		for l := range t.links {
			l.end(errHungUp)
		}
	}
}

func (c *h3Client) do(j job, deadline time.Time) result {
	if c.trip != nil {
		return c.trip.visit(j, deadline, c.once)
	}
	return c.once(j.seq, deadline)
}

// once carries out one request and its answer.
func (c *h3Client) once(seq uint64, deadline time.Time) result {
	r := c.attempt(seq, deadline)
	r.done = time.Now()
	if r.outcome < 100 && c.hub.ctx.Err() != nil {
		r.outcome, r.detail = canceled, ""
	}
	return r
}

func (c *h3Client) attempt(seq uint64, deadline time.Time) (r result) {
	for try := 1; ; try++ {
		if c.off.Load() {
			r.outcome = canceled
			return r
		}
		l, fresh, err := c.trunk.get(deadline)
		if fresh {
			r.made = append(r.made, l.made)
		}
		if err != nil {
			r.fail(err, true)
			return r
		}
		if err := c.render(seq, l.host); err != nil {
			r.outcome, r.detail = other, err.Error()
			return r
		}
		if err = c.begin(l, deadline, &r); err == nil {
			heard := l.conn.ConnectionStats().PacketsReceived
			err = c.finish(l, heard, c.converse(l, seq, &r))
			r.received = c.answer.bytes
		}
		switch {
		case err == nil:
			r.outcome = outcome(c.answer.status)
		case err == errRetired:
			try-- // nobody is to blame, and each has carried some
			continue
		case errors.Is(err, errUnheard) && try < mostTries:
			continue
		default:
			r.fail(err, false)
		}
		return r
	}
}

// errUnheard is wrapped by what became of a request that nobody has acted on, so
// that it can be sent again.
var errUnheard = errors.New("the server has not acted on the request")

// begin opens a stream on l. Where the server takes no more at once the request
// waits for one, which is queueing.
func (c *h3Client) begin(l *h3link, deadline time.Time, r *result) error {
	st, err := l.conn.OpenStream()
	if _, full := errors.AsType[*quic.StreamLimitReachedError](err); full {
		began := time.Now()
		ctx, cancel := context.WithDeadline(l.ctx, deadline)
		st, err = l.conn.OpenStreamSync(ctx)
		cancel()
		r.waited += time.Since(began)
		if errors.Is(err, context.DeadlineExceeded) {
			return errNoStream
		}
	}
	t := c.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && l.going != nil {
		st.CancelRead(h3RequestCancelled)
		st.CancelWrite(h3RequestCancelled)
		err = l.going
	}
	if err != nil { // nothing was sent
		err = quicError(err, l.host, false)
		l.going = cmpErr(l.going, err)
		l.part()
		if l.going == errRetired {
			return errRetired
		}
		return fmt.Errorf("%w: %w", l.going, errUnheard)
	}
	l.live[c] = st.StreamID()
	if l.opened++; l.opened >= c.hub.stream.keep.requests {
		l.retire()
	}
	c.mu.Lock()
	c.st, c.deadline, c.expired, c.unheard = st, deadline, false, false
	if c.off.Load() {
		c.giveUp(h3RequestCancelled)
	}
	c.mu.Unlock()
	c.alarm.Reset(time.Until(deadline))
	return nil
}

// inline is how much a stream takes at once, whatever its windows are.
const inline = 1 << 10

// converse sends the request and reads the answer, at the same time where the
// request is large: a server may answer without having read it.
func (c *h3Client) converse(l *h3link, seq uint64, r *result) error {
	if t := c.trip; t != nil {
		t.reply.reset(t.kind.keepBody)
		c.answer.reset(t.method() == "HEAD")
		c.answer.into = &t.reply
	} else {
		c.answer.reset(c.hub.stream.kind(seq).method == "HEAD")
	}
	if len(c.request.bytes) <= inline {
		r.sent += c.write()
		return c.receive(l, r)
	}
	written := make(chan int, 1)
	go func() { written <- c.write() }()
	err := c.receive(l, r)
	select {
	case n := <-written:
		r.sent += n
	default:
		c.st.CancelWrite(h3NoError) // the answer did not wait for the rest
		r.sent += <-written
	}
	return err
}

// write sends the request and returns how much of it went out. Where that is not
// all, the server does not want the rest, or is gone: what it answers, or the end of
// the connection, says which.
func (c *h3Client) write() int {
	n, err := c.st.Write(c.request.bytes)
	if err == nil {
		_ = c.st.Close() // it is given up at worst
	}
	return n
}

// receive reads one answer, all of it.
func (c *h3Client) receive(l *h3link, r *result) error {
	for {
		n, err := c.st.Read(c.buffer)
		if n > 0 && r.begun.IsZero() {
			r.begun = time.Now()
		}
		r.read += n
		bad := c.answer.feed(c.buffer[:n])
		if bad == nil && err == io.EOF {
			if bad = c.answer.end(); bad == nil {
				return nil
			}
		}
		if bad != nil {
			if bad.whole() {
				l.accuse(bad)
			}
			return bad
		}
		if err != nil {
			return err
		}
	}
}

// finish ends the stream of a request, for the reason that failed is, and says what
// that means. heard is how many packets had come before it began.
func (c *h3Client) finish(l *h3link, heard uint64, failed error) error {
	c.alarm.Stop()
	c.mu.Lock()
	expired, unheard := c.expired, c.unheard
	if failed != nil {
		code := quic.StreamErrorCode(h3RequestCancelled)
		if bad, ok := errors.AsType[*h3violation](failed); ok {
			code = quic.StreamErrorCode(bad.code)
		}
		c.giveUp(code)
	}
	c.st = nil
	c.mu.Unlock()

	t := c.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(l.live, c)
	l.used = time.Now()
	if failed == nil && c.hub.stream.keep.over(l.used.Sub(l.born), l.opened) {
		l.going = cmpErr(l.going, errRetired)
	}
	if expired && l.conn.ConnectionStats().PacketsReceived == heard {
		l.going = cmpErr(l.going, errSilent)
	}
	if l.going != nil {
		l.part()
	}
	var rejected *h3codeError
	switch {
	case failed == nil:
		return nil
	case expired:
		return fmt.Errorf("read udp %s: %w", l.host, os.ErrDeadlineExceeded)
	case c.off.Load():
		return context.Canceled
	case unheard:
		return fmt.Errorf("%w: %w", l.going, errUnheard)
	case errors.Is(failed, errProtocol):
		return failed
	}
	failed = quicError(failed, l.host, false)
	switch {
	case errors.As(failed, &rejected) && rejected.code == h3RequestRejected:
		return fmt.Errorf("%w: %w", failed, errUnheard)
	case errors.Is(l.going, errProtocol):
		return l.going // we have ended the connection
	}
	return failed
}

// h3request is a request as it goes onto its stream: HEADERS and, with a body, DATA.
type h3request struct {
	host  string
	bytes []byte
	trace int // where in bytes the trace context stands; 0: nowhere

	section []byte // memory
}

// render makes c.request of the request's number, for the service at host.
func (c *h3Client) render(seq uint64, host string) (err error) {
	h, r := c.hub, &c.request
	if c.trip != nil {
		if c.text, c.body, err = c.trip.append(c.text[:0], c.body, host); err == nil {
			r.compose(c.text, c.body)
		}
		return err
	}
	i := h.stream.pick(seq)
	k := &h.stream.kinds[i]
	if !k.static() {
		if c.text, c.body, err = h.stream.appendRequest(c.text[:0], c.body, seq, host); err == nil {
			r.compose(c.text, c.body)
		}
		return err
	}
	fixed := h.fixed[i].Load()
	if fixed == nil || fixed.host != host {
		if c.text, c.body, err = h.stream.appendRequest(c.text[:0], c.body, seq, host); err != nil {
			return err
		}
		fixed = &h3request{host: host}
		fixed.compose(c.text, c.body)
		if !k.trace {
			t := drawOf(h.stream.seed, seq, forTrace)
			text := append(t.trace([]byte("00-")), "-01"...)
			fixed.trace = bytes.Index(fixed.bytes, text) + len("00-")
		}
		h.fixed[i].Store(fixed)
	}
	r.bytes = append(r.bytes[:0], fixed.bytes...)
	if fixed.trace > 0 {
		t := drawOf(h.stream.seed, seq, forTrace)
		t.trace(r.bytes[fixed.trace:fixed.trace])
	}
	return nil
}

// compose makes r of a request's HTTP/1.1 text, which ends with its body.
func (r *h3request) compose(text, body []byte) {
	r.section = appendSection(r.section[:0], text[:len(text)-len(body)])
	r.bytes = quicvarint.Append(append(r.bytes[:0], h3Headers), uint64(len(r.section)))
	r.bytes = append(r.bytes, r.section...)
	if len(body) > 0 {
		r.bytes = quicvarint.Append(append(r.bytes, h3Data), uint64(len(body)))
		r.bytes = append(r.bytes, body...)
	}
}
