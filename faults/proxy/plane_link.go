package proxy

import (
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// link is a connection on the fast plane: what a conn and its two flows are to a
// proxy with rules. It ends as they do, and counts as they do.
//
//	         sides[0]   ── lanes[up] ──>   sides[1]
//	caller                                           upstream
//	                    <── lanes[down] ──
type link struct {
	p      *Proxy
	loop   *loop // that watches it; any may serve it
	number uint64
	opened time.Duration
	place  int // in Proxy.links; guarded by Proxy.mu

	mu       sync.Mutex
	over     bool // ended, or moved: nothing of it is valid any more
	dialling bool
	broken   bool // the upstream takes no more …
	reset    bool // … since it has sent RST
	kept     bool // keep-alive is on
	queued   bool // some loop is about to give it another turn
	slot     int32
	greeting greeting
	patience *time.Timer // while dialling, unless that was over at once
	sides    [2]side
	lanes    [2]lane
}

// The directions. Bytes of the direction d come from sides[d].
const (
	up   = 0
	down = 1
)

// side is one of the two sockets.
type side struct {
	fd       int  // -1: there is none
	readable bool // perhaps
	fin      bool // no more will come than what is there
	failed   bool // … and that ends with an error, perhaps
	writable bool
	watched  uint32 // the events asked for
}

// lane is one direction. Bytes that could not be passed on at once wait in one of
// two places, never both; while they do, no more are read.
type lane struct {
	sent  int64 // bytes passed on
	got   int64 // bytes received that stats does not know of yet
	buf   *[largeBuffer]byte
	r, w  int   // buf[r:w] waits
	pipe  *pipe // pipe.held bytes wait
	bulk  int   // full buffers in a row (see flow.direct)
	short int   // short splices in a row
	ends  bool  // there will be no more bytes than those that wait
	done  bool  // the end was passed on
}

func (n *lane) waits() bool { return n.buf != nil || n.pipe != nil }

// A turn is over when so many bytes have passed, or so many rounds: others wait.
const (
	turnBytes  = spliceMost
	turnRounds = 64
)

const (
	readEvents  = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET
	writeEvents = unix.EPOLLOUT
)

// welcome serves a connection that was just accepted: here, or as a conn where
// that is not possible.
func (p *Proxy) welcome(by *loop, fd int, number uint64) {
	if to := p.upstream.Load().direct; to.IsValid() {
		k := &link{p: p, number: number, opened: p.now(), sides: [2]side{{fd: fd, writable: true}, {fd: -1}}}
		k.mu.Lock()
		defer k.mu.Unlock()
		if p.enlist(k, by) {
			p.stats.begun()
			p.open.Add(1)
			if !k.dial(by, to) {
				k.leave()
			}
			return
		}
	}
	client, err := adopt(fd)
	if err != nil { // out of file descriptors: to dial would fail as well
		p.stats.begun()
		p.stats.ended(wasRefused)
		return
	}
	p.admit(newSocket(client), number)
}

// enlist makes the link one of the proxy's, watched by the loop with the least to
// do; false where the proxy has rules, or is stopped. k.mu is held.
func (p *Proxy) enlist(k *link, by *loop) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || len(*p.rules.Load()) > 0 {
		return false
	}
	k.loop = leastBusy(by, p.door.loops)
	k.loop.links.Add(1)
	k.slot = k.loop.place(k)
	k.place = len(p.links)
	p.links = append(p.links, k)
	return true
}

// delist undoes it. p.mu is held.
func (p *Proxy) delist(k *link) {
	// Whoever moves or ends all of them has taken the list.
	if k.place < len(p.links) && p.links[k.place] == k {
		last := len(p.links) - 1
		p.links[k.place] = p.links[last]
		p.links[k.place].place = k.place
		p.links[last] = nil
		p.links = p.links[:last]
	}
}

// dial connects to the upstream; false where it is not as simple as that. k.mu is held.
func (k *link) dial(by *loop, to netip.AddrPort) bool {
	fd, errno := connectTo(to)
	switch errno {
	case 0:
	case unix.EMFILE, unix.ENFILE:
		k.end(wasRefused, !k.p.config.CloseUnreachable)
		return true
	default:
		return false
	}
	connected, errno := progress(fd)
	k.sides[1] = side{fd: fd, writable: connected}
	k.dialling = true
	switch {
	case errno != 0:
		k.end(wasRefused, !k.p.config.CloseUnreachable)
		return true
	case connected:
		k.connected(by)
	default:
		k.patience = time.AfterFunc(k.p.config.DialTimeout, k.giveUp)
	}
	// Watched last: what has been read by now needs no event.
	for i := range k.sides {
		s := &k.sides[i]
		events := uint32(readEvents)
		if !s.writable {
			events |= writeEvents
		}
		if k.over {
			return true
		}
		if k.watch(unix.EPOLL_CTL_ADD, i, events) != nil {
			return false
		}
	}
	return true
}

func (k *link) watch(op, i int, events uint32) error {
	k.sides[i].watched = events
	return k.loop.watch(op, k.sides[i].fd, k.slot, i, events)
}

// connected notes that the upstream is there. The caller has spoken already, as a
// rule. k.mu is held.
func (k *link) connected(by *loop) {
	k.dialling = false
	if k.patience != nil {
		k.patience.Stop()
		k.patience = nil
	}
	k.p.stats.reached()
	k.sides[up].readable = true
	k.turn(by)
}

// giveUp ends a link whose upstream has not answered in time.
func (k *link) giveUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.over && k.dialling {
		k.end(wasRefused, !k.p.config.CloseUnreachable)
	}
}

// happened implements watcher.
func (k *link) happened(by *loop, i int, events uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return
	}
	s := &k.sides[i]
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.fin = true
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.failed = true
	}
	if events&unix.EPOLLPRI != 0 { // urgent data, at which reading stops short: not for here
		k.leave()
		return
	}
	if k.dialling {
		if i == down {
			k.dialled(by)
		}
		return
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	k.turn(by)
}

// dialled looks how dialling has gone on. k.mu is held.
func (k *link) dialled(by *loop) {
	connected, errno := progress(k.sides[down].fd)
	switch {
	case errno != 0:
		k.end(wasRefused, !k.p.config.CloseUnreachable)
	case connected:
		k.sides[down].writable = true
		k.connected(by)
	}
}

// goOn is another turn.
func (k *link) goOn(by *loop) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queued = false
	if !k.over {
		k.turn(by)
	}
}

// turn passes on what there is, up to a limit. k.mu is held.
func (k *link) turn(by *loop) {
	more := k.carry(by, up)
	more = !k.over && k.carry(by, down) || more
	if more && !k.over && !k.queued {
		k.queued = true
		by.again = append(by.again, k)
	}
}

// carry passes on the bytes of one direction, until no more can be or the turn is
// over (true). k.mu is held.
func (k *link) carry(by *loop, d int) bool {
	n, in, out := &k.lanes[d], &k.sides[d], &k.sides[1-d]
	bytes := 0
	for round := 0; !k.over && !n.done; round++ {
		switch {
		case n.waits() && !out.writable:
			return false
		case n.waits():
			bytes += k.give(d)
			continue
		case n.ends:
			k.finished(d)
			continue
		case !in.readable:
			return false
		case bytes >= turnBytes || round >= turnRounds:
			return true
		}
		if n.bulk < bulkAfter || d == up && k.broken {
			bytes += k.take(by.buf, d)
		} else {
			bytes += k.takeBulk(d)
		}
	}
	return false
}

// take reads what is there, and passes it on at once. k.mu is held.
func (k *link) take(buf *[largeBuffer]byte, d int) int {
	n, in := &k.lanes[d], &k.sides[d]
	got, errno := receive(in.fd, buf[:])
	n.got += int64(got)
	switch {
	case errno == unix.EAGAIN:
		in.readable = false
		return 0
	case errno != 0:
		k.readFailed(d)
		return 0
	case got == 0:
		n.ends = true
		return 0
	case got == len(buf):
		n.bulk++
	default: // that was all; whatever comes is another event
		n.bulk = 0
		in.readable = in.fin
		n.ends = in.fin && !in.failed
	}
	if d == up && !k.greeting.over {
		k.saw(buf[:got])
	}
	if d == up && k.broken {
		return got
	}
	gave, errno := transmit(k.sides[1-d].fd, buf[:got])
	k.passed(d, gave)
	if errno != 0 && errno != unix.EAGAIN {
		k.writeFailed(d, errno)
		return got
	}
	if gave < got {
		n.buf = largeBuffers.Get().(*[largeBuffer]byte)
		n.r, n.w = 0, copy(n.buf[:], buf[gave:got])
		k.blocked(1 - d)
	}
	return got
}

// takeBulk moves what is there into a pipe. k.mu is held.
func (k *link) takeBulk(d int) int {
	n, in := &k.lanes[d], &k.sides[d]
	p, err := sparePipes.get()
	if err != nil { // out of file descriptors: the buffer does as well
		n.bulk = 0
		return 0
	}
	got, errno := move(in.fd, p.w, spliceMost)
	p.held = got
	n.got += int64(got)
	if got == 0 {
		sparePipes.put(p)
	}
	switch {
	case errno == unix.EAGAIN:
		in.readable = false
		return 0
	case errno != 0:
		k.readFailed(d)
		return 0
	case got == 0:
		n.ends = true
		return 0
	case got >= bulkShort:
		n.short = 0
	default:
		if n.short++; n.short == bulkEnds {
			n.bulk, n.short = 0, 0
		}
	}
	n.pipe = p
	return got
}

// give passes on what waits. k.mu is held.
func (k *link) give(d int) (gave int) {
	n, out := &k.lanes[d], &k.sides[1-d]
	var errno syscall.Errno
	if n.pipe != nil {
		gave, errno = move(n.pipe.r, out.fd, n.pipe.held)
		n.pipe.held -= gave
		k.p.stats.spliced.Add(int64(gave))
	} else {
		gave, errno = transmit(out.fd, n.buf[n.r:n.w])
		n.r += gave
	}
	k.passed(d, gave)
	switch {
	case errno == unix.EAGAIN:
		k.blocked(1 - d)
	case errno != 0:
		k.writeFailed(d, errno)
	case n.pipe != nil && n.pipe.held == 0, n.buf != nil && n.r == n.w:
		n.discard()
	}
	return gave
}

// discard gives back what the lane holds.
func (n *lane) discard() {
	if n.pipe != nil {
		sparePipes.put(n.pipe)
		n.pipe = nil
	}
	if n.buf != nil {
		largeBuffers.Put(n.buf)
		n.buf, n.r, n.w = nil, 0, 0
	}
}

// passed counts bytes that were passed on.
func (k *link) passed(d, gave int) {
	if d == down {
		k.p.stats.bytesDown.Add(int64(gave))
	} else {
		k.p.stats.bytesUp.Add(int64(gave))
	}
	k.lanes[d].sent += int64(gave)
}

// blocked notes that a side takes no more for now. k.mu is held.
func (k *link) blocked(i int) {
	s := &k.sides[i]
	s.writable = false
	// Not watched at all yet: dial will.
	if s.watched != 0 && s.watched&writeEvents == 0 && k.watch(unix.EPOLL_CTL_MOD, i, readEvents|writeEvents) != nil {
		k.end(wasReset, true) // cannot be: it is watched already
	}
}

// finished passes the end of a direction on (as conn.finished). k.mu is held.
func (k *link) finished(d int) {
	k.lanes[d].done = true
	switch {
	case k.lanes[1-d].done:
		k.end(wasClosed, false)
	case d == down && k.reset:
		k.end(wasReset, true) // the error of writing has told of it
	case d == down && k.broken:
		k.end(wasClosed, false)
	default:
		shutdownWriting(k.sides[1-d].fd)
	}
}

// readFailed and writeFailed do as conn.run. k.mu is held.
func (k *link) readFailed(d int) {
	switch {
	case d == down:
		k.end(wasReset, true)
	case k.broken:
		k.lanes[up].ends = true
	default:
		k.end(wasCanceled, true)
	}
}

func (k *link) writeFailed(d int, errno syscall.Errno) {
	switch {
	case d == down:
		k.end(wasCanceled, true)
	case k.lanes[down].done:
		k.end(wasReset, true)
	default: // what the upstream said before is still to come down
		k.broken, k.reset = true, errno == unix.ECONNRESET
		k.lanes[up].discard()
		k.sides[down].writable = true
	}
}

// end closes both sides, with RST or as close(2) does. k.mu is held.
func (k *link) end(class string, abort bool) {
	if k.over {
		return
	}
	k.retire()
	k.p.stats.ended(class)
	for _, s := range k.sides {
		switch {
		case s.fd < 0:
		case abort:
			abortSocket(s.fd)
		default:
			closeSocket(s.fd)
		}
	}
	k.lanes[up].discard()
	k.lanes[down].discard()
	k.p.open.Add(-1)
	k.p.mu.Lock()
	k.p.delist(k)
	k.p.mu.Unlock()
}

// retire takes the link from its loop. k.mu is held.
func (k *link) retire() {
	k.over = true
	k.tell()
	k.loop.vacate(k.slot)
	k.loop.links.Add(-1)
	if k.patience != nil {
		k.patience.Stop()
		k.patience = nil
	}
}

// eachLink calls do for every link that there is.
func (p *Proxy) eachLink(do func(*link)) {
	p.mu.Lock()
	links := slices.Clone(p.links)
	p.mu.Unlock()
	for _, k := range links {
		do(k)
	}
}

// settle returns when what the link had received and passed on by now is counted: a
// peer may have it, and ask, before that.
func (k *link) settle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tell()
}

// tell counts what was received. k.mu is held.
func (k *link) tell() {
	for d := range k.lanes {
		n := &k.lanes[d]
		k.p.stats.received(d == down, int(n.got))
		n.got = 0
	}
}

// keepAlive turns TCP keep-alive on, as conn.keepAlive.
func (k *link) keepAlive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over || k.kept {
		return
	}
	for _, s := range k.sides {
		if s.fd >= 0 {
			setOption(s.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
			setOption(s.fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(keepAliveAfter/time.Second))
			setOption(s.fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int32(keepAliveAfter/time.Second))
		}
	}
	k.kept = !k.dialling
}
