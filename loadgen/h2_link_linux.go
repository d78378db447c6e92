package loadgen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// laneLink is a connection of a trunk: a socket in the shard's poller, and what is
// spoken over it.
//
//	          connected                  going: GOAWAY, silence     the last answer
//	dialing ───────────> open, trunk.link ───────────────────> open ───────────────> over
//	   └─────────────────────────────────────────────────────────────────────────────┘
//	                                      failed
type laneLink struct {
	all   *lanes
	trunk *laneTrunk
	id    socketID
	state linkState
	host  string
	peer  unix.Sockaddr
	fd    int
	line  []*lane // who waits for the connection, or for a free stream, in turn

	// Of making it.
	deadline time.Duration // of the request that it is made for
	began    time.Duration // when that did
	made     made          // what it took
	selves   int           // times it turned out to lead to itself
	dial     *dial         // that goes on off the loop; nil: on it

	h2      *h2conn
	heard   time.Duration // when something came last
	settled time.Duration // when the server had said how many streams it takes
	born    time.Duration // when it was made
	used    time.Duration // when a stream last ended

	out   []byte // what the socket is taking,
	taken int    // and how much of that it has
	next  uint32 // streams from here on are not in out yet
	mark  uint32 // streams from here on have not been written
	dirty bool   // it is in lanes.dirty

	// Of the socket; an edge-triggered poller says so only once.
	readable bool
	ended    bool

	tls    *secured // nil: plain
	socket *linkSocket
}

type linkState uint8

const (
	linkDialing linkState = iota // off the loop
	linkConnecting
	linkOpen
	linkOver
)

// firstLink is the index of a link's socket in the poller; those of others are below.
const firstLink = bellIndex - 1

// find is the link of an id; nil if that has ended.
func (a *lanes) find(id socketID) *laneLink {
	if k := a.links[firstLink-id.index]; k != nil && k.id == id {
		return k
	}
	return nil
}

// connect makes a connection to where the service is now, for l.
func (l *lane) connect(now time.Duration) {
	a, s := l.all, l.all.shard
	host := s.config.Resolve()
	if host == "" {
		l.finish(refused, errNoAddress.Error(), now)
		return
	}
	if s.target.host != host {
		s.target = targetOf(host)
	}
	a.last++
	k := &laneLink{
		all: a, trunk: l.trunk, host: host, peer: s.target.address, fd: -1, line: []*lane{l},
		deadline: l.conn.deadline, began: now, made: made{handshake: unknown}, mark: 1,
	}
	place := slices.Index(a.links, nil)
	if place < 0 {
		place = len(a.links)
		a.links = append(a.links, nil)
	}
	k.id = socketID{firstLink - int32(place), a.last}
	a.links[place], l.trunk.link, l.link = k, k, k
	if k.peer == nil || s.config.secure != nil {
		k.dial = new(dial)
		s.dialOff(k.dial, k.id, host, k.deadline)
		return
	}
	k.start()
}

// start connects a socket.
func (k *laneLink) start() {
	s := k.all.shard
	fd, err := unix.Socket(s.target.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		k.refuse(errnoOf(err), "socket")
		return
	}
	k.fd, k.state = fd, linkConnecting
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // it only matters for pieces
	if s.config.buffer > 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, s.config.buffer)
	}
	switch err := unix.Connect(fd, k.peer); err {
	case nil:
		if k.watch() {
			k.connected()
		}
	case unix.EINPROGRESS, unix.EINTR:
		k.watch()
	default:
		k.refuse(errnoOf(err), "connect")
	}
}

func (k *laneLink) watch() bool {
	s := k.all.shard
	if err := s.poller.add(k.fd, k.id, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET); err != nil {
		k.unmade(other, s.detail("dial", "", k.host, err))
		return false
	}
	return true
}

func (k *laneLink) refuse(errno syscall.Errno, call string) {
	k.unmade(classify(errno, true), k.all.shard.detail("dial", call, k.host, errno))
}

// unmade fails all who wait for a connection that there will not be.
func (k *laneLink) unmade(o outcome, detail string) {
	k.close()
	now, line := k.all.shard.now(), k.line
	k.line = nil
	for _, l := range line {
		l.finish(o, detail, now)
	}
}

// giveUp ends the making of a connection that the request which it was for does not
// wait for any more; others have another one made.
func (k *laneLink) giveUp(now time.Duration) {
	k.close()
	line := k.line
	k.line = nil
	for _, l := range line {
		l.link = nil
		k.all.again = append(k.all.again, l)
	}
}

// takeDialed goes on with a connection that was made off the loop.
func (k *laneLink) takeDialed(d dialed) {
	now := k.all.shard.now()
	k.dial = nil
	switch {
	case d.err != nil && now >= k.deadline && classify(d.err, true) == timeout:
		// It was one request's timeout, which will be told of it.
		line := k.line[1:]
		if first := k.line[0]; first.conn.deadline <= now {
			k.line = line
			first.finish(timeout, d.err.Error(), now)
		}
		k.giveUp(now)
		return
	case d.err != nil:
		k.unmade(classify(d.err, true), d.err.Error())
		return
	}
	k.fd, k.state = d.fd, linkConnecting
	if t := d.tls; t != nil {
		k.tls, k.socket = t, &linkSocket{link: k}
		t.wire.Conn = k.socket
		k.made.handshake, k.made.resumed = t.took, t.resumed
		if got := t.ConnectionState().NegotiatedProtocol; got != "h2" {
			err := violated("the server does not speak it over TLS: it agreed to %q", got)
			k.unmade(classify(err, true), err.Error())
			return
		}
	}
	if !k.watch() {
		return
	}
	k.connected()
	if k.tls != nil && k.state == linkOpen { // crypto/tls may have read more than the handshake
		k.read()
	}
}

// connected begins to speak.
func (k *laneLink) connected() {
	now := k.all.shard.now()
	if local, err := unix.Getsockname(k.fd); err == nil && sameAddress(local, k.peer) { // see conn.connected
		closeSocket(k.fd)
		k.fd = -1
		if k.selves++; k.selves > 2 {
			k.refuse(unix.ECONNREFUSED, "connect")
			return
		}
		k.start()
		return
	}
	k.made.connect = now - k.began - max(k.made.handshake, 0)
	k.all.shard.ledger.tally(k.line[0].conn.job.due).made(k.made)
	k.state, k.heard, k.born, k.used = linkOpen, now, now, now
	k.h2 = newH2(func(st *h2stream) { st.owner.(*lane).ended() })
	k.trunk.warm()
	k.look(now)
}

// room tells whether a stream can be opened.
func (k *laneLink) room() bool {
	return k.state == linkOpen && k.h2.going == nil && k.h2.live.n < k.h2.most
}

// open sends the request of a lane.
func (k *laneLink) open(l *lane, now time.Duration) {
	c := l.conn
	block, body, err := l.render(k.host, c.deadline-now)
	if err != nil {
		l.finish(other, err.Error(), now)
		return
	}
	l.admitted(now)
	l.st.head = c.shard.stream.kinds[c.kind].method == "HEAD"
	if l.st.grpc != nil {
		l.st.grpc.reset(false)
	}
	c.state, l.began = reading, now
	k.h2.open(&l.st, block, body)
	k.touch()
	if k.h2.opened() >= c.shard.stream.keep.requests {
		k.retire(now)
	}
}

// touch has the link written to at the end of the step.
func (k *laneLink) touch() {
	if !k.dirty && k.state == linkOpen {
		k.dirty = true
		k.all.dirty = append(k.all.dirty, k)
	}
}

// look goes on after whatever may have changed what the link takes: with who waits in
// line, or to its end.
func (k *laneLink) look(now time.Duration) {
	for i := 0; i < len(k.line) && k.room(); {
		l := k.line[i]
		if l.conn.deadline <= now { // lane.expire comes to it
			i++
			continue
		}
		k.line = slices.Delete(k.line, i, i+1)
		k.open(l, now)
	}
	if k.h2.going != nil {
		k.part(now)
	}
	if len(k.h2.out) > 0 {
		k.touch()
	}
}

// part takes a link that is to carry no more requests out of its trunk; it ends with
// its last answer.
func (k *laneLink) part(now time.Duration) {
	if k.trunk.link == k {
		k.trunk.link = nil
		k.trunk.cool()
	}
	line := k.line
	k.line = nil
	for _, l := range line { // to another one
		l.retry(cmpErr(k.h2.going, errCrowded), now)
	}
	if k.h2.live.n == 0 {
		k.end(k.h2.going, now)
	}
}

// retire has the link carry no more requests: it has been kept for long enough.
func (k *laneLink) retire(now time.Duration) {
	k.h2.going = cmpErr(k.h2.going, errRetired)
	k.part(now)
}

// end closes the connection; whatever is under way on it fails with err.
func (k *laneLink) end(err error, now time.Duration) {
	if k.state == linkOver {
		return
	}
	k.close()
	for _, st := range k.h2.live.all() {
		st.unheard = st.id >= k.mark
	}
	k.h2.going = cmpErr(k.h2.going, err)
	k.h2.fail(err, now)
	k.part(now)
}

// close gives up the socket, and the link's place.
func (k *laneLink) close() {
	if k.state == linkOver {
		return
	}
	k.state, k.dial = linkOver, nil
	k.all.links[firstLink-k.id.index] = nil
	if k.fd >= 0 {
		closeSocket(k.fd)
	}
	k.fd = -1
	if k.trunk.link == k {
		k.trunk.link = nil
		k.trunk.cool()
	}
}

// failure is what a system call said, in the words of package net.
func (k *laneLink) failure(op string, errno syscall.Errno) error {
	return fmt.Errorf("%s tcp %s: %w", op, k.host, os.NewSyscallError(op, errno))
}

// handle takes news of the socket.
func (k *laneLink) handle(events uint32) {
	const end = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	k.readable = k.readable || events&(unix.EPOLLIN|end) != 0
	k.ended = k.ended || events&end != 0
	switch k.state {
	case linkConnecting:
		errno, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			k.refuse(errnoOf(err), "getsockopt")
		case errno != 0:
			k.refuse(syscall.Errno(errno), "connect")
		case events&unix.EPOLLOUT != 0:
			k.connected()
		}
	case linkOpen:
		if k.taken < len(k.out) {
			k.touch()
		}
		if k.readable {
			k.read()
		}
	}
}

// read takes what has come.
func (k *laneLink) read() {
	s := k.all.shard
	for range gulp {
		n, more, err := k.receive(s.buffer)
		if err == errAgain {
			k.readable = false
			return
		}
		now := s.now()
		if err != nil {
			k.end(err, now)
			return
		}
		k.heard = now
		if bad := k.h2.feed(s.buffer[:n], now); bad != nil {
			k.end(bad, now)
			return
		}
		if k.settled == 0 && k.h2.settled {
			k.settled = now
		}
		if k.used == now && s.stream.keep.over(now-k.born, 0) {
			k.retire(now)
		}
		if k.look(now); k.state == linkOver {
			return
		}
		if !more && !k.ended {
			k.readable = false
			return
		}
	}
	s.unread = append(s.unread, k.id)
}

// receive returns what has come: io.EOF at the end, errAgain where there is nothing
// now. There may be more where no news of it will come.
func (k *laneLink) receive(p []byte) (n int, more bool, err error) {
	if k.tls != nil {
		n, err = k.tls.Read(p)
		if k.taken < len(k.out) { // TLS itself has something to say
			k.touch()
		}
		switch {
		case n > 0:
			k.ended = k.ended || err != nil // what it was, the next read says
			return n, !k.tls.wire.alone, nil
		case err == errAgain || errors.Is(err, io.EOF) || k.socket.errno == 0:
			return 0, false, err
		}
		return 0, false, k.failure("read", k.socket.errno)
	}
	for {
		n, errno := receiveFrom(k.fd, p, 0)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return 0, false, errAgain
		case errno != 0:
			return 0, false, k.failure("read", errno)
		case n == 0:
			return 0, false, io.EOF
		default:
			return n, n == len(p), nil
		}
	}
}

// flush writes what there is to write, as far as the socket takes it.
func (k *laneLink) flush() {
	k.dirty = false
	for k.state == linkOpen {
		if k.taken == len(k.out) {
			if len(k.h2.out) == 0 {
				return
			}
			if err := k.wrap(); err != nil {
				k.end(err, k.all.shard.now())
				return
			}
		}
		n, errno := sendTo(k.fd, k.out[k.taken:])
		if n > 0 {
			k.taken += n
			k.mark = k.next
		}
		switch errno {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			return
		default:
			k.end(k.failure("write", errno), k.all.shard.now())
			return
		}
	}
}

// wrap makes what is to be said what is to be written.
func (k *laneLink) wrap() (err error) {
	k.taken, k.next = 0, k.h2.next
	if k.out = k.out[:0]; cap(k.out) > 2*maxOut {
		k.out = nil
	}
	if k.tls == nil {
		k.out, k.h2.out = k.h2.out, k.out
	} else {
		_, err = k.tls.Write(k.h2.out) // to linkSocket, which keeps it in out
	}
	k.h2.written()
	return err
}

// linkSocket is what is below TLS: reads are of the socket, writes end up in the
// link's out.
type linkSocket struct {
	net.Conn // nil: crypto/tls calls nothing but what is below
	link     *laneLink
	errno    syscall.Errno // why the socket was given up
}

// Read takes what the socket has.
func (l *linkSocket) Read(p []byte) (int, error) {
	n, err := receiveNow(l.link.fd, p)
	l.errno = errnoOf(errors.Unwrap(errors.Unwrap(err)))
	return n, err
}

func (l *linkSocket) Write(p []byte) (int, error) {
	l.link.out = append(l.link.out, p...)
	return len(p), nil
}

func (l *linkSocket) Close() error                     { return nil }
func (l *linkSocket) SetWriteDeadline(time.Time) error { return nil }
