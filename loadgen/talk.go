package loadgen

import (
	"bufio"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// dialect is how a protocol other than HTTP uses a connection: how it is made
// ready, and how one request is put and answered. One goroutine uses it.
type dialect interface {
	// open makes a new connection ready for requests: a handshake, a login.
	open(l *link, t *trip) error
	// idle looks at a connection that has served before; false gives it up.
	idle(l *link) bool
	// exchange sends the request of the trip and reads its answer into t.reply;
	// keep tells whether the connection can carry another one.
	exchange(l *link, t *trip) (keep bool, err error)
	// bye says what a peer is told before the connection is closed, if anything.
	bye(l *link)
}

// replyError is an answer that says that the request has failed: the request is a
// failure, the connection is not.
type replyError struct {
	code string // of the protocol's own: WRONGTYPE, 23505
	text string
}

func (e *replyError) Error() string { return e.text }

// link is one connection, and what went over it for the request on its way. A
// library that reads from a goroutine of its own may use it, too.
type link struct {
	net.Conn
	in   *bufio.Reader   // of the Conn
	raw  syscall.RawConn // of the Conn, or of what is below its TLS
	tls  *secured        // the Conn, if it is
	host string

	sent, read atomic.Int64 // bytes
	begun      atomic.Int64 // when the first of those read came, ns since 1970; 0 if none did
	born       time.Time    // when it was made
	used       time.Time    // when it last served,
	served     int          // and how many requests
	deadline   time.Time    // of the request on its way
	after      func()       // waits for what a library does when the connection is closed; may be nil
}

func newLink(c net.Conn, host string) *link {
	l := &link{Conn: c, host: host}
	l.in = bufio.NewReader(l)
	return l
}

// rawOf is the socket of a connection, if it has one.
func rawOf(c net.Conn) syscall.RawConn {
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// spent tells whether an idle connection is of no more use.
func (l *link) spent() bool {
	if l.tls != nil {
		return l.tls.spent(l.raw)
	}
	return spent(l.raw)
}

func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		if l.read.Add(int64(n)) == int64(n) {
			l.begun.Store(time.Now().UnixNano())
		}
	}
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	l.sent.Add(int64(n))
	return n, err
}

// recount makes the counts those of a new request.
func (l *link) recount() {
	l.sent.Store(0)
	l.read.Store(0)
	l.begun.Store(0)
}

// arm sets the deadline of whatever the connection does next. An error would mean
// a closed connection: the next use says so.
func (l *link) arm(deadline time.Time) {
	l.deadline = deadline
	_ = l.SetDeadline(deadline)
}

// talker is a client of a protocol with a dialect: one connection at a time, kept
// as long as the peer and the protocol do. What httpClient says about a kept
// connection that turns out to be closed holds here, too.
type talker struct {
	ctx      context.Context // of the run
	stream   *stream
	resolve  func() string
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	network  string
	secure   *secure // nil where the connection is not secured here
	dialect  dialect
	numbered bool // what a request was is told by its number

	mu   sync.Mutex // guards link against cut
	link *link
	trip *trip
}

func newTalker(ctx context.Context, s *stream, c Config, network string, d dialect) *talker {
	return &talker{
		ctx: ctx, stream: s, resolve: c.Resolve, dial: c.dialer(), secure: c.secure, network: network, dialect: d,
		numbered: !s.session && !slices.ContainsFunc(s.sources, func(src *source) bool { return src.order == Unique }),
		trip:     &trip{stream: s, start: c.Start, scheme: string(s.spec.Protocol)},
	}
}

func (c *talker) warm() bool { return c.link != nil }

func (c *talker) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		_ = c.link.SetDeadline(time.Unix(1, 0)) // a failure means that it is closed already
	}
}

func (c *talker) rest(since time.Time) {
	if c.link != nil && !c.link.used.After(since) {
		c.close()
	}
}

// parting is how long a goodbye may take: nobody waits for what comes of it.
const parting = 50 * time.Millisecond

func (c *talker) close() {
	if c.link != nil && c.ctx.Err() == nil {
		c.link.arm(time.Now().Add(parting))
		c.dialect.bye(c.link)
	}
	c.hangUp()
}

// hangUp closes the connection without a word.
func (c *talker) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return
	}
	c.link.Close() // nothing is left to be lost
	if c.link.after != nil {
		c.link.after()
	}
	c.link = nil
}

func (c *talker) do(j job, deadline time.Time) result {
	t := c.trip
	if err := t.begin(j); err != nil {
		return result{outcome: classify(err, false), detail: err.Error(), done: time.Now(), request: t.kind.method + " ?"}
	}
	r := c.attempt(deadline)
	r.done = time.Now()
	if c.link != nil {
		c.link.used = r.done
		c.link.served++
	}
	switch {
	case r.outcome < 100 && c.ctx.Err() != nil:
		r.outcome, r.detail, r.class = canceled, "", ""
	case r.outcome >= 100:
		if err := t.examine(&r, 0); err != nil {
			r.outcome, r.detail = classify(err, false), err.Error()
		}
	}
	r.wanted = r.outcome >= 100
	if l := c.link; l != nil && c.stream.ends(j, r) && c.stream.keep.over(r.done.Sub(l.born), l.served) {
		c.close()
	}
	if !c.numbered {
		d := t.draw(forContent)
		r.request = t.kind.method + " " + t.kind.shown(&d)
	}
	return r
}

// attempt carries out one request and its answer.
func (c *talker) attempt(deadline time.Time) (r result) {
	for {
		if l := c.link; l != nil {
			l.arm(deadline)
			if time.Since(l.used) > longIdle && !c.dialect.idle(l) {
				c.hangUp()
			}
		}
		fresh := c.link == nil
		if fresh {
			if err := c.connect(deadline, &r); err != nil {
				c.hangUp()
				r.class, r.outcome, r.detail = unsaid(err)
				return r
			}
		}
		l := c.link
		l.recount()
		l.arm(deadline)
		if c.ctx.Err() != nil { // after arm: whoever cuts later overrides the deadline
			r.outcome = canceled
			return r
		}
		c.trip.reply.reset(c.trip.kind.keepBody)
		keep, err := c.dialect.exchange(l, c.trip)
		if err != nil && !fresh && l.sent.Load() == 0 && classify(err, false) == reset {
			c.hangUp()
			continue
		}
		r.sent, r.read = int(l.sent.Load()), int(l.read.Load())
		r.received = r.read
		if at := l.begun.Load(); at != 0 {
			r.begun = time.Unix(0, at)
		}
		r.outcome = answered
		if err != nil {
			r.class, r.outcome, r.detail = unsaid(err)
			keep = keep && r.outcome == replied
		}
		if !keep {
			if err == nil {
				c.close()
			} else {
				c.hangUp()
			}
		}
		return r
	}
}

// connect makes a connection and makes it ready, and notes in r how long that took.
func (c *talker) connect(deadline time.Time, r *result) error {
	ctx, cancel := context.WithDeadline(c.ctx, deadline)
	defer cancel()
	host := c.resolve()
	if host == "" {
		return errNoAddress
	}
	began := time.Now()
	conn, err := c.dial(ctx, c.network, host)
	if err != nil {
		return err
	}
	m := made{handshake: unknown}
	raw := rawOf(conn)
	var over *secured
	if c.secure != nil {
		if over, err = c.secure.handshake(ctx, conn, host); err != nil {
			return err
		}
		conn, m.handshake, m.resumed = over, over.took, over.resumed
	}
	l := newLink(conn, host)
	l.raw, l.tls = raw, over
	c.mu.Lock()
	c.link = l
	c.mu.Unlock()
	l.arm(deadline)
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.trip.address = host
	if err := c.dialect.open(l, c.trip); err != nil {
		return openingError{err}
	}
	l.born = time.Now()
	m.connect = l.born.Sub(began) - max(m.handshake, 0)
	r.made = append(r.made, m)
	return nil
}

// openingError is what went wrong on a connection that was made already: its end
// is that of a connection, not of an attempt to make one.
type openingError struct{ error }

func (e openingError) Unwrap() error { return e.error }

// unsaid is the fate of a request that was not answered as it should be.
func unsaid(err error) (class string, o outcome, detail string) {
	var said *replyError
	if errors.As(err, &said) {
		return said.code, replied, said.text
	}
	var opening openingError
	return "", classify(err, !errors.As(err, &opening) && isDialing(err)), err.Error()
}

// isDialing tells an error of making a connection from one of using it.
func isDialing(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// mostShown is how much of a request is told, in characters.
const mostShown = 120

// shown is what a request of this kind was, in a few words.
func (k *kind) shown(d *draw) string {
	text, err := k.path.append(nil, d)
	if err != nil {
		return "?"
	}
	return clip(string(text))
}

// clip makes a text of one line, and not a long one.
func clip(text string) string {
	text = strings.Map(func(c rune) rune {
		if isControl(c) || c == '\t' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	if all := []rune(text); len(all) > mostShown {
		return string(all[:mostShown]) + "…"
	}
	return text
}
