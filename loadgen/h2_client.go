package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// h2hub is what the clients of one stream share: its HTTP/2 connections. Each
// client is one of the streams that may be under way at once; so many of them
// share a trunk, which has one connection at a time:
//
//	client ─┐
//	client ─┼─ trunk ── link ── connection
//	client ─┘     └──── link ── connection that takes no more requests, until its last answer
//
// A link has a goroutine that reads and one that writes. What several requests, or
// answers to the server's settings and pings, add while one write goes on is the
// next write.
type h2hub struct {
	ctx    context.Context
	config Config
	stream *stream
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	scheme string
	each   int                         // clients of a trunk
	fixed  []atomic.Pointer[h2request] // by kind, where all its requests are alike

	mu     sync.Mutex
	trunks []*h2trunk
	links  sync.WaitGroup // their goroutines
}

func newH2Hub(ctx context.Context, c Config, s *stream) *h2hub {
	h := &h2hub{
		ctx: ctx, config: c, stream: s, dial: c.dialer(), scheme: "http", each: c.Spec.streams(),
		fixed: make([]atomic.Pointer[h2request], len(s.kinds)),
	}
	if c.secure != nil {
		h.scheme = "https"
	}
	return h
}

func (h *h2hub) carrier() carrier { return carrier{client: h.client, close: h.links.Wait} }

func (h *h2hub) client() client {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &h2Client{hub: h, wake: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	c.st.owner = c
	if h.config.Spec.speech().name == GRPC {
		c.st.grpc = new(grpcAnswer)
	}
	if n := len(h.trunks); n == 0 || h.trunks[n-1].clients == h.each {
		h.trunks = append(h.trunks, newH2Trunk(h))
	}
	c.trunk = h.trunks[len(h.trunks)-1]
	c.trunk.clients++
	c.trunk.mu.Lock() // its links are at work already
	c.trunk.open++
	c.trunk.mu.Unlock()
	if !h.stream.plain() {
		c.trip = &trip{stream: h.stream, start: h.config.Start, scheme: h.scheme}
	}
	return c
}

func (h *h2hub) now() time.Duration { return time.Since(h.config.Start) }

// h2trunk is one of the connections that the stream may have.
type h2trunk struct {
	trunk[h2link]
	hub   *h2hub
	links []*h2link   // all that have not ended
	line  []*h2Client // who waits for a free stream, because the server takes fewer than we may have
}

func newH2Trunk(h *h2hub) *h2trunk {
	t := &h2trunk{hub: h}
	t.ctx, t.network, t.resolve, t.connect = h.ctx, "tcp", h.config.Resolve, t.connectTo
	t.begin = func(l *h2link) {
		t.links = append(t.links, l)
		h.links.Go(l.read)
		h.links.Go(l.write)
	}
	return t
}

// h2link is a connection. The trunk's lock guards it.
type h2link struct {
	trunk    *h2trunk
	conn     net.Conn
	host     string
	h2       *h2conn
	reserved int           // streams promised to clients that waited in line
	heard    time.Duration // when something came last
	settled  time.Duration // when the server had said how many streams it takes
	born     time.Duration // when it was made
	used     time.Duration // when a stream last ended
	mark     uint32        // streams from here on have not been written
	kick     chan struct{} // there is something to write
	over     chan struct{} // closed when the connection is
	ended    bool
	writing  bool  // the writer is
	push     *push // of a plain socket

	made made
}

var (
	errSilent  = errors.New("the connection has fallen silent")
	errHungUp  = errors.New("the connection is not needed any more")
	errCrowded = fmt.Errorf("%w: connections end before the request gets onto one", syscall.ECONNRESET)
)

func (t *h2trunk) connectTo(ctx context.Context, host string) (*h2link, error) {
	h := t.hub
	l := &h2link{trunk: t, host: host, mark: 1, made: made{handshake: unknown}, kick: make(chan struct{}, 1), over: make(chan struct{})}
	began := time.Now()
	conn, err := h.dial(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	l.made.connect = time.Since(began)
	if secure := h.config.secure; secure != nil {
		s, err := secure.handshake(ctx, conn, host)
		if err != nil {
			return nil, err
		}
		if got := s.ConnectionState().NegotiatedProtocol; got != "h2" {
			hangUp(conn)
			return nil, violated("the server does not speak it over TLS: it agreed to %q", got)
		}
		conn, l.made.handshake, l.made.resumed = s, s.took, s.resumed
	}
	l.conn = conn
	if s, ok := conn.(syscall.Conn); ok && h.config.secure == nil {
		if raw, err := s.SyscallConn(); err == nil {
			l.push = newPush(raw)
		}
	}
	l.heard = h.now()
	l.born, l.used = l.heard, l.heard
	l.h2 = newH2(func(st *h2stream) {
		l.used = st.done
		t.serve()
		c := st.owner.(*h2Client)
		c.finished = true
		c.rouse()
	})
	return l, nil
}

// hangUp closes without saying goodbye, which may take as long as the other side likes.
func hangUp(conn net.Conn) {
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secured.NetConn()
	}
	conn.Close() // nothing is left to be lost
}

// room tells whether a client may open a stream.
func (l *h2link) room() bool {
	return l.h2.going == nil && l.h2.live.n+l.reserved < l.h2.most
}

// serve gives free streams to who waits in line.
func (t *h2trunk) serve() {
	for len(t.line) > 0 && t.link != nil && t.link.room() {
		c := t.line[0]
		t.line = slices.Delete(t.line, 0, 1)
		c.promised, c.since = t.link, t.link.heard
		t.link.reserved++
		c.rouse()
	}
}

// part takes a link that is to carry no more requests out of the trunk; it ends
// with its last answer.
func (l *h2link) part() {
	t := l.trunk
	if t.link == l {
		t.link = nil
		for _, c := range t.line { // to another one
			c.promised = nil
			c.rouse()
		}
		t.line = nil
	}
	if l.h2.live.n == 0 && l.reserved == 0 && len(l.h2.out) == 0 {
		l.end(l.h2.going)
	}
}

// retire has the link carry no more requests: it has been kept for long enough.
func (l *h2link) retire() {
	l.h2.going = cmpErr(l.h2.going, errRetired)
	l.part()
}

// end closes the connection; whatever is under way on it fails with err.
func (l *h2link) end(err error) {
	if l.ended {
		return
	}
	l.ended = true
	for _, st := range l.h2.live.all() {
		st.unheard = st.id >= l.mark
	}
	l.h2.going = cmpErr(l.h2.going, err)
	l.h2.fail(err, l.trunk.hub.now())
	l.part()
	if i := slices.Index(l.trunk.links, l); i >= 0 {
		l.trunk.links = slices.Delete(l.trunk.links, i, i+1)
	}
	close(l.over)
	hangUp(l.conn)
}

func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// flush has the writer look.
func (l *h2link) flush() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// send writes what there is to write, at once where nobody else is about to add
// to it and the socket takes it; else the writer does.
func (l *h2link) send() {
	if l.push == nil || l.trunk.open > 1 || l.writing || len(l.h2.out) > maxOut {
		l.flush()
		return
	}
	n, next := l.push.do(l.h2.out), l.h2.next
	if n > 0 {
		l.mark = next
	}
	if n < len(l.h2.out) {
		l.h2.out = append(l.h2.out[:0], l.h2.out[n:]...)
		l.flush()
		return
	}
	if l.h2.written(); len(l.h2.out) > 0 {
		l.flush()
	}
}

func (l *h2link) read() {
	t := l.trunk
	buffer := make([]byte, 16<<10)
	for {
		n, err := l.conn.Read(buffer)
		t.mu.Lock()
		if n > 0 && !l.ended {
			l.heard = t.hub.now()
			if bad := l.h2.feed(buffer[:n], l.heard); bad != nil {
				l.end(bad)
			}
			if l.settled == 0 && l.h2.settled {
				l.settled = l.heard
			}
			if l.used == l.heard && t.hub.stream.keep.over(l.heard-l.born, 0) {
				l.retire()
			}
			t.serve()
			if l.h2.going != nil {
				l.part()
			}
			if len(l.h2.out) > 0 {
				l.flush()
			}
		}
		if err != nil {
			l.end(err)
		}
		ended := l.ended
		t.mu.Unlock()
		if ended {
			return
		}
	}
}

func (l *h2link) write() {
	t := l.trunk
	var spare []byte
	for {
		select {
		case <-l.kick:
		case <-l.over:
			return
		}
		t.mu.Lock()
		if t.open > 1 {
			// Others have been told of their answers in the same read, and are about to
			// ask again: one write for all.
			t.mu.Unlock()
			runtime.Gosched()
			t.mu.Lock()
		}
		for len(l.h2.out) > 0 && !l.ended {
			out, next := l.h2.out, l.h2.next
			l.h2.out = spare
			l.h2.written()
			l.writing = true
			t.mu.Unlock()
			n, err := l.conn.Write(out)
			t.mu.Lock()
			l.writing = false
			if spare = out[:0]; cap(spare) > 2*maxOut {
				spare = nil
			}
			if n > 0 {
				l.mark = next
			}
			if err != nil {
				l.end(err)
			}
		}
		if l.h2.going != nil && !l.ended {
			l.part()
		}
		t.mu.Unlock()
	}
}

// h2Client carries one request at a time as a stream of its trunk's connection.
type h2Client struct {
	hub   *h2hub
	trunk *h2trunk
	trip  *trip // nil for streams of plain requests
	st    h2stream
	wake  chan struct{}
	timer *time.Timer
	off   atomic.Bool // cut

	// Guarded by the trunk.
	finished bool
	promised *h2link // on which it may open a stream, after waiting in line
	since    time.Duration
	closed   bool

	request h2request
	text    []byte
	body    []byte
}

func (c *h2Client) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *h2Client) warm() bool { return c.trunk.warm() }

func (c *h2Client) rest(since time.Time) {
	t := c.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.link; l != nil && l.h2.live.n == 0 && l.reserved == 0 && len(t.line) == 0 && l.used <= since.Sub(c.hub.config.Start) {
		l.retire()
	}
}

func (c *h2Client) cut() {
	c.off.Store(true)
	c.rouse()
}

func (c *h2Client) close() {
	t := c.trunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if t.open--; t.open == 0 {
		for _, l := range slices.Clone(t.links) {
			l.end(errHungUp)
		}
	}
}

func (c *h2Client) do(j job, deadline time.Time) result {
	if c.trip != nil {
		return c.trip.visit(j, deadline, c.once)
	}
	return c.once(j.seq, deadline)
}

// once carries out one request and its answer.
func (c *h2Client) once(seq uint64, deadline time.Time) result {
	c.timer.Reset(time.Until(deadline))
	defer c.timer.Stop()
	r := c.attempt(seq, deadline)
	if r.done.IsZero() {
		r.done = time.Now()
	}
	if r.outcome < 100 && c.hub.ctx.Err() != nil {
		r.outcome, r.detail = canceled, ""
	}
	return r
}

// mostTries is how often a request is sent again of which the server, or the state
// of the connection, says that nobody has acted on it.
const mostTries = 3

func (c *h2Client) attempt(seq uint64, deadline time.Time) (r result) {
	t := c.trunk
	for try := 1; ; try++ {
		if c.off.Load() {
			r.outcome = canceled
			return r
		}
		l, fresh, err := t.get(deadline)
		if fresh {
			r.made = append(r.made, l.made)
		}
		if err != nil {
			r.outcome, r.detail = classify(err, true), err.Error()
			return r
		}
		block, body, err := c.render(seq, l.host, deadline)
		if err != nil {
			r.outcome, r.detail = other, err.Error()
			return r
		}
		t.mu.Lock()
		gone := l
		l, err = c.admit(l, deadline, &r)
		if l == nil && gone.h2.going == errRetired {
			try-- // nobody is to blame, and each has carried some
		} else if l == nil && err == nil && try == mostTries {
			if err = gone.h2.going; err == nil {
				err = errCrowded
			}
		}
		if err != nil {
			t.mu.Unlock()
			r.fail(early(err, 0), false)
			return r
		}
		if l == nil {
			t.mu.Unlock()
			continue
		}
		if trip := c.trip; trip != nil {
			trip.reply.reset(trip.kind.keepBody)
			c.st.into, c.st.head = &trip.reply, trip.method() == "HEAD"
		} else {
			c.st.head = c.hub.stream.kind(seq).method == "HEAD"
		}
		if c.st.grpc != nil {
			c.st.grpc.reset(c.trip != nil && c.trip.kind.keepBody)
		}
		began := c.hub.now()
		c.finished = false
		l.h2.open(&c.st, block, body)
		l.send()
		if l.h2.opened() >= c.hub.stream.keep.requests {
			l.retire()
		}
		t.mu.Unlock()
		err = c.await(l, began)
		r.sent, r.read, r.received = r.sent+c.st.sent, r.read+c.st.read, c.st.bytes
		if c.st.begun > 0 {
			r.begun = c.hub.config.Start.Add(c.st.begun)
		}
		if c.st.done > 0 {
			r.done = c.hub.config.Start.Add(c.st.done)
		}
		switch {
		case err == nil:
			r.outcome = outcome(c.st.status)
			if c.st.grpc != nil {
				c.answered(&r)
			}
		case c.st.unheard && try < mostTries:
			r.done = time.Time{}
			continue
		default:
			r.fail(early(err, c.st.begun), false)
		}
		return r
	}
}

// early says of a connection that ended without a word when it did.
func early(err error, begun time.Duration) error {
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case begun == 0:
		return errEarly
	}
	return errMidAnswer
}

// admit waits until l has a free stream for c, with the trunk's lock held but
// while it waits. No link and no error mean that another one has to be found.
func (c *h2Client) admit(l *h2link, deadline time.Time, r *result) (*h2link, error) {
	t := c.trunk
	if t.link != l {
		return nil, nil
	}
	if len(t.line) == 0 && l.room() {
		return l, nil
	}
	began := t.hub.now()
	// Until the server has said how many streams it takes, the connection is being made.
	waited := func(until time.Duration) {
		if l.settled > 0 {
			r.waited += max(until-max(began, l.settled), 0)
		}
	}
	c.promised = nil
	t.line = append(t.line, c)
	for {
		t.mu.Unlock()
		expired := false
		select {
		case <-c.wake:
		case <-c.timer.C:
			expired = true
		}
		expired = expired || !time.Now().Before(deadline)
		t.mu.Lock()
		promised := c.promised
		c.promised = nil
		if promised != nil {
			if promised.reserved--; promised.h2.going != nil {
				promised.part()
			}
		}
		i := slices.Index(t.line, c)
		switch {
		case expired || c.off.Load():
			if i >= 0 {
				t.line = slices.Delete(t.line, i, i+1)
			}
			t.serve()
			waited(t.hub.now())
			if expired {
				return nil, errNoStream
			}
			return nil, context.Canceled
		case promised != nil && promised.h2.going == nil:
			waited(c.since)
			return promised, nil
		case i < 0:
			waited(t.hub.now())
			return nil, nil
		}
	}
}

var errNoStream = errors.New("no stream became free in time: the server takes too few at once")

// await waits until the answer is complete, or there will be none.
func (c *h2Client) await(l *h2link, began time.Duration) error {
	t := c.trunk
	for {
		expired := false
		select {
		case <-c.wake:
		case <-c.timer.C:
			expired = true
		}
		t.mu.Lock()
		if c.finished {
			err := c.st.err
			t.mu.Unlock()
			return err
		}
		cut := c.off.Load()
		if !expired && !cut {
			t.mu.Unlock()
			continue
		}
		l.h2.reset(&c.st)
		t.serve()
		if l.heard < began && l.h2.going == nil {
			l.h2.going = errSilent
		}
		if l.h2.going != nil {
			l.part()
		}
		l.flush()
		t.mu.Unlock()
		if cut {
			return context.Canceled
		}
		return fmt.Errorf("read tcp %s: %w", l.host, os.ErrDeadlineExceeded)
	}
}

// render is the request's header block and body, until the next one is rendered.
func (c *h2Client) render(seq uint64, host string, deadline time.Time) (block, body []byte, err error) {
	h, r := c.hub, &c.request
	if c.trip != nil {
		if c.text, c.body, err = c.trip.append(c.text[:0], c.body, host); err == nil {
			err = r.compose(c.trip.kind, c.text, c.body, host, h.scheme)
		}
		if err == nil {
			r.stamp(r.block, h.stream, c.trip.kind, seq, time.Until(deadline))
		}
		return r.block, r.body, err
	}
	i := h.stream.pick(seq)
	k := &h.stream.kinds[i]
	if !k.static() {
		if c.text, c.body, err = h.stream.appendRequest(c.text[:0], c.body, seq, host); err == nil {
			err = r.compose(k, c.text, c.body, host, h.scheme)
		}
		if err == nil {
			r.stamp(r.block, h.stream, k, seq, time.Until(deadline))
		}
		return r.block, r.body, err
	}
	fixed := h.fixed[i].Load()
	if fixed == nil || fixed.host != host {
		if fixed, err = fixedRequest(h.stream, k, seq, host, h.scheme); err != nil {
			return nil, nil, err
		}
		h.fixed[i].Store(fixed)
	}
	r.block = append(r.block[:0], fixed.block...)
	fixed.stamp(r.block, h.stream, k, seq, time.Until(deadline))
	return r.block, fixed.body, nil
}
