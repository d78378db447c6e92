package loadgen

import (
	"bytes"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A conn is one of the connections that a shard may have, and the request that it
// carries. What httpClient does line by line happens here step by step, whenever
// the socket is ready; the rules are the same.
//
//	      carry                  connected           all written
//	shut ───────> connecting ───────────────> writing ───────────> reading
//	 ^      or dialing, off the loop             ^                    │
//	 │                                           └─ carry ── kept <───┤ complete
//	 └────────────────────────────────────────────────────────────────┘ failed
type conn struct {
	shard *shard
	index int32
	// generation tells the sockets of one conn apart, so that a late event of one
	// is not taken for news of the next.
	generation int32
	fd         int
	state      connState
	host       string        // that fd leads to, as Resolve said
	peer       unix.Sockaddr // the same, where it is an address
	born       time.Duration // when it was made
	used       time.Duration // when it last served,
	served     int           // and how many requests, of those that had no failure

	// Of the socket; an edge-triggered poller says so only once.
	readable bool // there may be something to read
	ended    bool // the other side has said that it sends no more, or worse

	// Of the request in flight.
	job      job
	kind     int
	deadline time.Duration
	sentAt   time.Duration
	began    time.Duration // of making the connection,
	made     made          // and what that took
	fresh    bool          // the connection is made for this request
	selves   int           // times the connection made turned out to lead to itself
	fate     finished
	rest     []byte // of the request, as far as the socket did not take it at once,
	flushed  int    // and how much of that it has taken since
	size     int    // of the request, before TLS
	answer   answer

	// Over TLS; else nil.
	dial   *dial // that goes on off the loop
	tls    *secured
	socket *loopSocket // below it

	lane *lane // over HTTP/2, where the socket is not its own; else nil

	list       *connList // that it is in
	prev, next *conn
}

type connState uint8

const (
	shut       connState = iota
	dialing              // off the loop
	connecting           // on it
	kept                 // open, without a request
	writing
	reading
	waiting // of a lane: for a connection, or for a stream on it
)

// newConn is one more, in no list.
func (s *shard) newConn() *conn {
	c := &conn{shard: s, index: int32(len(s.conns)), fd: -1}
	s.conns = append(s.conns, c)
	if s.lanes != nil {
		s.lanes.add(c)
	}
	return c
}

// carry begins with a request at now. The connection must be free.
func (c *conn) carry(j job, now time.Duration) {
	s := c.shard
	if c.list != nil {
		c.list.remove(c)
	}
	c.kind = s.stream.pick(j.seq)
	line := s.stream.kinds[c.kind].timeout
	c.job, c.sentAt, c.deadline, c.fresh, c.selves = j, now, j.due+s.stream.timeouts[line], false, 0
	c.fate = unsent(j, 0)
	t := s.ledger.tally(j.due)
	t.count.sent++
	if !j.queued {
		c.fate.lag = now - j.due
		if c.fate.lag > maxLag {
			t.count.late++
		}
	}
	s.inFlight[line].insert(c)
	s.busy++
	if c.lane != nil {
		c.lane.carry(now)
		return
	}
	// The poller has told of all connections that ended until its last wait; where
	// it may not have, an idle one is looked at.
	if c.state == kept && s.unheard && now-c.used > longIdle && c.spent() {
		c.disconnect()
	}
	if c.state == kept {
		c.write()
	} else {
		c.connect()
	}
}

// finish settles the fate of the request in flight.
func (c *conn) finish(o outcome, detail string, now time.Duration) {
	s, f := c.shard, &c.fate
	c.list.remove(c)
	s.busy--
	if o < 100 && c.lane == nil {
		c.disconnect()
	}
	f.latency, f.service = now-c.job.due, now-c.sentAt
	f.outcome, f.detail = o, detail
	s.ledger.finish(f)
	f.detail = ""
	c.used = now
	switch {
	case s.own:
	case s.closed != nil:
		s.warm.pushBack(c)
	case c.state == kept:
		s.warm.pushFront(c)
	default:
		s.cold.pushFront(c)
	}
	s.demand.done(c.job, o, now)
}

// fail finishes with what a system call said.
func (c *conn) fail(op, call string, errno syscall.Errno) {
	c.finish(classify(errno, op == "dial"), c.shard.detail(op, call, c.host, errno), c.shard.now())
}

// expire fails a request whose timeout has passed.
func (c *conn) expire(now time.Duration) {
	if c.lane != nil {
		c.lane.expire(now)
		return
	}
	op := "read"
	switch c.state {
	case dialing, connecting:
		op = "dial"
		if d := c.dial; d != nil && d.securing.Load() {
			op = "handshake"
		}
	case writing:
		op = "write"
	}
	c.finish(timeout, c.shard.detail(op, "", c.host, timedOut{}), now)
}

// timedOut says what package net says.
type timedOut struct{}

func (timedOut) Error() string { return "i/o timeout" }

// disconnect gives up the socket, if there is one.
func (c *conn) disconnect() {
	if c.fd >= 0 {
		c.farewell()
		closeSocket(c.fd)
	}
	c.fd, c.state, c.readable, c.ended, c.dial = -1, shut, false, false, nil
	c.generation++
	c.forget()
}

// hangUp closes a connection without a request.
func (c *conn) hangUp() {
	c.disconnect()
	if s := c.shard; c.list == &s.warm && s.closed == nil {
		s.warm.remove(c)
		s.cold.pushFront(c)
	}
}

// forget forgets a request that did not fit a socket, and its memory, if it is much.
func (c *conn) forget() {
	c.rest, c.flushed = c.rest[:0], 0
	if cap(c.rest) > 64<<10 {
		c.rest = nil
	}
}

// closeSocket also takes it out of the poller. Nothing is left that could be lost.
func closeSocket(fd int) { _ = unix.Close(fd) }

// connect makes a connection to where the service is now.
func (c *conn) connect() {
	s := c.shard
	c.fresh, c.began, c.made = true, s.now(), made{handshake: unknown}
	host := s.config.Resolve()
	if host == "" {
		c.finish(refused, errNoAddress.Error(), c.began)
		return
	}
	if s.target.host != host {
		s.target = targetOf(host)
	}
	c.host, c.peer = host, s.target.address
	if c.peer == nil || s.config.secure != nil {
		c.state, c.dial = dialing, new(dial)
		s.dialOff(c.dial, socketID{c.index, c.generation}, host, c.deadline)
		return
	}
	fd, err := unix.Socket(s.target.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		c.fail("dial", "socket", errnoOf(err))
		return
	}
	c.fd, c.state = fd, connecting
	// Like package net. It only matters for a request that goes out in pieces.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if s.config.buffer > 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, s.config.buffer)
	}
	switch err := unix.Connect(fd, c.peer); err {
	case nil:
		if c.watch() {
			c.connected()
		}
	case unix.EINPROGRESS, unix.EINTR:
		c.watch()
	default:
		c.fail("dial", "connect", errnoOf(err))
	}
}

// watch asks for news of the socket. It says nothing of before connect, where a
// socket counts as hung up.
func (c *conn) watch() bool {
	if err := c.shard.poller.add(c.fd, socketID{c.index, c.generation}, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET); err != nil {
		c.finish(other, c.shard.detail("dial", "", c.host, err), c.shard.now())
		return false
	}
	return true
}

// takeDialed goes on with a connection that was made off the loop.
func (c *conn) takeDialed(d dialed) {
	c.dial = nil
	if d.err != nil {
		c.finish(classify(d.err, true), d.err.Error(), c.shard.now())
		return
	}
	c.fd, c.state = d.fd, connecting
	if d.tls != nil {
		c.adopt(d.tls)
		c.made.handshake, c.made.resumed = d.tls.took, d.tls.resumed
	}
	if c.watch() {
		c.connected()
	}
}

// connected sends the request that the connection was made for.
func (c *conn) connected() {
	now := c.shard.now()
	// A connection to a local port that nobody listens on may get that very port
	// for its own end, and be connected to itself (TCP's simultaneous open).
	if local, err := unix.Getsockname(c.fd); err == nil && sameAddress(local, c.peer) {
		c.disconnect()
		if c.selves++; c.selves > 2 {
			c.fail("dial", "connect", unix.ECONNREFUSED)
			return
		}
		c.connect()
		return
	}
	c.made.connect = now - c.began - max(c.made.handshake, 0)
	c.shard.ledger.tally(c.job.due).made(c.made)
	c.born, c.served = now, 0
	c.write()
}

// handle takes news of the socket.
func (c *conn) handle(events uint32) {
	const end = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	c.readable = c.readable || events&(unix.EPOLLIN|end) != 0
	c.ended = c.ended || events&end != 0
	if c.tls != nil && c.state == reading { // TLS itself may have had something to say
		if errno := c.push(); errno != 0 {
			c.fail("write", "write", errno)
			return
		}
	}
	switch c.state {
	case reading:
		if c.readable {
			c.read()
		}
	case writing:
		c.flush()
	case kept:
		// The news may be old: of something that was read before it came.
		if c.ended || c.readable && c.spent() {
			c.hangUp()
		}
	case connecting:
		errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			c.fail("dial", "getsockopt", errnoOf(err))
		case errno != 0:
			c.fail("dial", "connect", syscall.Errno(errno))
		case events&unix.EPOLLOUT != 0:
			c.connected()
		}
	}
}

// spent tells whether there is something to read where nothing should be, if only
// the end.
func (c *conn) spent() bool {
	if c.tls != nil {
		n, err := c.tls.Read(c.shard.buffer[:1]) // what is of TLS itself is none of ours
		c.readable = false
		return n > 0 || err != errAgain
	}
	var b [1]byte
	_, errno := receiveFrom(c.fd, b[:], unix.MSG_PEEK)
	c.readable = errno != unix.EAGAIN
	return errno != unix.EAGAIN && errno != unix.EINTR
}

// write sends the request, or as much as the socket takes.
func (c *conn) write() {
	s := c.shard
	request, err := s.render(c.kind, c.job.seq, c.host)
	if err != nil {
		c.finish(other, err.Error(), s.now())
		return
	}
	if c.tls != nil {
		c.writeSecure(request)
		return
	}
	n, errno := sendTo(c.fd, request)
	switch {
	case n == len(request):
		c.fate.sent = n
		c.await()
	case errno == 0, errno == unix.EAGAIN, errno == unix.EINTR:
		c.fate.sent, c.state = n, writing
		c.rest, c.flushed = append(c.rest[:0], request[n:]...), 0
		c.flush()
	case !c.fresh && classify(errno, false) == reset:
		// Nothing of it was written: nobody can have acted on it.
		c.disconnect()
		c.connect()
	default:
		c.fail("write", "write", errno)
	}
}

// flush sends what is left of the request until the socket takes no more.
func (c *conn) flush() {
	errno := c.push()
	switch {
	case errno != 0:
		c.fail("write", "write", errno)
	case c.flushed == len(c.rest):
		c.forget()
		c.await()
	}
}

// push sends what waits for the socket, as far as that takes it.
func (c *conn) push() syscall.Errno {
	for c.flushed < len(c.rest) {
		n, errno := sendTo(c.fd, c.rest[c.flushed:])
		c.flushed += n
		if c.tls == nil {
			c.fate.sent += n
		} else {
			c.socket.sent += n
			c.fate.sent = min(c.socket.sent, c.size)
		}
		switch errno {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			return 0
		default:
			return errno
		}
	}
	return 0
}

// await is for the answer.
func (c *conn) await() {
	c.state = reading
	c.answer.reset(c.shard.stream.kinds[c.kind].method == "HEAD")
	if c.readable {
		c.read()
	}
}

// gulp is how often one connection is read from before others have their turn:
// one that has always more must not keep the loop from them.
const gulp = 16

// read takes what there is of the answer.
func (c *conn) read() {
	s := c.shard
	for range gulp {
		n, more, ok := c.receive()
		if !ok {
			return
		}
		now := s.now()
		if n > 0 && c.fate.read == 0 {
			c.fate.firstByte = now - c.sentAt
		}
		c.fate.read += n
		used, bad := s.feed(&c.answer, s.buffer[:n])
		c.fate.received = c.answer.bytes
		switch {
		case bad != nil:
			c.finish(classify(bad, false), bad.Error(), now)
		case c.answer.done():
			c.complete(now, used < n, more)
		case n == 0 && c.answer.end():
			c.complete(now, true, false)
		case n == 0:
			c.finish(reset, cutShort(c.fate.read).Error(), now)
		case more || c.ended:
			continue
		default:
			c.readable = false
		}
		return
	}
	s.unread = append(s.unread, socketID{c.index, c.generation})
}

// receive reads into the shard's buffer; 0 bytes are the end. There may be more
// where no news of it will come. It is not ok where there is nothing now, and where
// the request has failed.
func (c *conn) receive() (n int, more, ok bool) {
	s := c.shard
	if c.tls != nil {
		return c.receiveSecure()
	}
	flags := 0
	if a := &c.answer; (a.state == counted || a.state == chunk) && a.left >= int64(len(s.buffer)) {
		// Nobody looks at what is in a body: the kernel need not copy it (tcp(7)).
		flags = unix.MSG_TRUNC
	}
	for {
		n, errno := receiveFrom(c.fd, s.buffer, flags)
		switch errno {
		case 0:
			return n, n == len(s.buffer), true
		case unix.EINTR:
		case unix.EAGAIN:
			c.readable = false
			return 0, false, false
		default:
			c.fail("read", "read", errno)
			return 0, false, false
		}
	}
}

// complete ends a request with its answer. Where that came too late, it is none.
func (c *conn) complete(now time.Duration, spent, more bool) {
	if now >= c.deadline {
		c.expire(now)
		return
	}
	status := outcome(c.answer.status)
	c.readable = false
	c.served++
	if spent || c.answer.close || c.ended || c.shard.stream.keep.over(now-c.born, c.served) || more && c.spent() {
		c.disconnect()
	} else {
		c.state = kept
	}
	c.finish(status, "", now)
}

// A memo is the head of an answer and what came of it: the same bytes mean the
// same. Most servers say the same again and again, but for the date, which
// changes once a second.
type memo struct {
	text  []byte
	after answer // the parser when it had read text, and nothing else
}

const longestMemo = 4096

// feed is a.feed, with the memory of the last few heads.
func (s *shard) feed(a *answer, p []byte) (n int, err error) {
	if a.state != statusLine || a.fields > 0 || a.interim > 0 {
		return a.feed(p)
	}
	for i := range s.memos {
		m := &s.memos[i]
		if len(m.text) > 0 && m.after.head == a.head && bytes.HasPrefix(p, m.text) {
			line := a.line
			*a = m.after
			a.line = line
			n, err = a.feed(p[len(m.text):])
			return len(m.text) + n, err
		}
	}
	end := bytes.Index(p, []byte("\r\n\r\n")) + 4
	if end < 4 || end > longestMemo {
		return a.feed(p)
	}
	if n, err = a.feed(p[:end]); n < end || err != nil {
		return n, err
	}
	if a.state != statusLine && a.state != fields {
		m := &s.memos[s.memo]
		s.memo = (s.memo + 1) % len(s.memos)
		m.text, m.after = append(m.text[:0], p[:end]...), *a
		m.after.line = nil
	}
	n, err = a.feed(p[end:])
	return end + n, err
}

// A rendering is a request of a kind that has nothing in it to be drawn, but its
// trace context; such a kind is fixed.
type rendering struct {
	fixed bool
	host  string
	bytes []byte // nil: not rendered yet
	trace int    // where in bytes the trace context stands; 0: it has none
}

// render is request number seq, until the next one is rendered.
func (s *shard) render(kind int, seq uint64, host string) (request []byte, err error) {
	k, r := &s.stream.kinds[kind], &s.static[kind]
	if !r.fixed {
		s.request, s.body, err = s.stream.appendDrawn(&s.draw, s.request[:0], s.body, seq, host)
		return s.request, err
	}
	if r.bytes == nil || r.host != host {
		if r.bytes, s.body, err = s.stream.appendDrawn(&s.draw, r.bytes[:0], s.body, seq, host); err != nil {
			return nil, err
		}
		r.host = host
		if !k.trace {
			t := drawOf(s.stream.seed, seq, forTrace)
			field := append(t.trace([]byte("\r\ntraceparent: 00-")), "-01\r\n"...)
			r.trace = bytes.Index(r.bytes, field) + len("\r\ntraceparent: 00-")
		}
	}
	if r.trace > 0 {
		t := drawOf(s.stream.seed, seq, forTrace)
		t.trace(r.bytes[r.trace:r.trace])
	}
	return r.bytes, nil
}

// target is an address as the kernel wants it.
type target struct {
	host    string
	family  int
	address unix.Sockaddr // nil for what is not an IP address and a port
}

func targetOf(host string) target {
	t := target{host: host}
	at, err := netip.ParseAddrPort(host)
	switch ip := at.Addr().Unmap(); {
	case err != nil || ip.Zone() != "":
	case ip.Is4():
		t.family, t.address = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: ip.As4()}
	default:
		t.family, t.address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: ip.As16()}
	}
	return t
}

func sameAddress(a, b unix.Sockaddr) bool {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		b, ok := b.(*unix.SockaddrInet4)
		return ok && a.Port == b.Port && a.Addr == b.Addr
	case *unix.SockaddrInet6:
		b, ok := b.(*unix.SockaddrInet6)
		return ok && a.Port == b.Port && a.Addr == b.Addr
	}
	return false
}

// errnoOf is what a function of package unix returns, which is nothing else.
func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno)
	return errno
}

// connList is a list of connections, each in one at most.
type connList struct{ first, last *conn }

func (l *connList) link(c, before, after *conn) {
	c.list, c.prev, c.next = l, before, after
	if before != nil {
		before.next = c
	} else {
		l.first = c
	}
	if after != nil {
		after.prev = c
	} else {
		l.last = c
	}
}

func (l *connList) pushFront(c *conn) { l.link(c, nil, l.first) }
func (l *connList) pushBack(c *conn)  { l.link(c, l.last, nil) }

// insert keeps the order of deadlines. Requests of one timeout are sent nearly in
// that order: the place is at the end, or close.
func (l *connList) insert(c *conn) {
	at := l.last
	for at != nil && at.deadline > c.deadline {
		at = at.prev
	}
	if at == nil {
		l.pushFront(c)
	} else {
		l.link(c, at, at.next)
	}
}

func (l *connList) remove(c *conn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.list, c.prev, c.next = nil, nil, nil
}
