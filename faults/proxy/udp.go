package proxy

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// relay is what a Proxy of UDP has in the place of conns: datagrams, whole, each with a
// fate of its own.
//
//	port ──receive──> session ──> fate (udp_fate.go) ──┬── at once ──────────────┬─> leg ──> upstream
//	   ^                 ^                             └─> held ──send, in time ─┘    │
//	   └─────────────────┴───────────── the same, the other way ──────────────────────┘
//
// A session is a caller's address, and the upstream socket behind it, by which the
// answers find their way back. It begins with the caller's first datagram and ends
// when nothing has passed for Config.Idle, when there are Config.MostSessions and
// another caller comes (the one that has been idle for longest goes), or when the
// proxy has got another upstream and the caller's next datagram comes.
//
// Goroutines: receive, one in all, for callers; listen, one per session, for its
// upstream; send, one in all, for what is held back. All that they share is behind
// one lock, also while they write: no write waits. What the kernel will not take at
// once is dropped, and counted.
type relay struct {
	p    *Proxy
	port port
	dial func(ctx context.Context, upstream string) (leg, error)

	mu        sync.Mutex
	up, down  int    // datagrams passed on since the last Collect
	missed    uint64 // by the kernel, in front of the port, up to the last Collect
	sessions  map[peer]*session
	idle      *list.List // of *session, the one idle for longest in front
	held      indexed[*datagram]
	seq       uint64 // given to what is held
	lost      map[string]int
	wakes     time.Duration // when send looks again
	refusing  bool
	stopped   bool
	listeners sync.WaitGroup // the sessions' goroutines

	kick  chan struct{}
	alarm alarm
	holds []hold // scratch
}

// peer is a caller: its address, and, where the port has several, the one that it
// wrote to, so that its answers come from there.
type peer struct {
	from netip.AddrPort
	at   netip.Addr
}

// port is where callers' datagrams come in. One goroutine reads.
type port interface {
	read() (b []byte, from peer, err error) // b is valid until the next read
	write(b []byte, to *session) error      // does not wait
	refuse(bool) error                      // be as if closed, or not; what callers send then is not seen
	probe() error                           // ask as a caller would: ECONNREFUSED where it is as if closed
	missed() uint64                         // datagrams that the kernel had no room for
	addr() net.Addr
	Close() error
}

// leg is a session's socket to the upstream. One goroutine reads.
type leg interface {
	read(handle func(b []byte)) error // hands over the next one; b is valid in handle only
	write(b []byte) error             // does not wait
	Close() error
}

// session is one caller. The relay's lock guards it.
type session struct {
	peer
	number   uint64
	opened   time.Duration
	upstream string   // as the proxy had it then
	leg      leg      // nil: not dialled yet
	early    [][]byte // wait for the leg
	over     bool
	used     time.Duration // when something passed last
	place    *list.Element // in relay.idle
	waiting  int           // calls without an answer
	pending  int           // datagrams that are held
	claimed  int64         // of the proxy's budget for held bytes
	drawn    uint64        // the youngest rule about sessions that was drawn for
	ways     [2]heading    // up, down

	to  unix.Sockaddr // of its caller, and whence to send: the port's business
	oob []byte
}

// heading is one direction of a session.
type heading struct {
	bytes   int64           // that got past the limits
	pending int             // datagrams that are held
	last    time.Duration   // when the last one goes, where order is kept
	swapped []*datagram     // held until another has gone
	lines   map[*work]*line // of bandwidths
}

// earlyMost is how many datagrams a session holds for an upstream whose name is being
// looked up.
const earlyMost = 64

// Why datagrams were lost, as in DatagramStats.Lost.
const (
	lostLoss      = "loss"
	lostBlackhole = "blackhole"
	lostBandwidth = "bandwidth"
	lostLimit     = "limit"
	lostHeld      = "held"     // HoldMost bytes were held already
	lostSession   = "session"  // its session was over before it went
	lostUnsent    = "unsent"   // the kernel did not take it
	lostUpstream  = "upstream" // the upstream cannot be reached
	lostKernel    = "kernel"   // came faster than they could be read
)

const (
	idleDefault     = time.Minute
	sessionsDefault = 1024
)

// udpFits tells what of the settings is not for UDP.
func (c *Config) udpFits() error {
	if c.CallerTLS != nil || c.UpstreamTLS != nil {
		return errors.New("TLS is for connections, not for datagrams")
	}
	listen, err := parsePlace(c.Listen)
	for _, at := range append(parseUpstreams(c.Upstream).places, listen) {
		if at.network == "unix" {
			return fmt.Errorf("%s is a Unix socket: datagrams go to and from host:port", at)
		}
	}
	return err
}

// startUDP is Start for UDP.
func startUDP(ctx context.Context, c Config) (*Proxy, error) {
	port, err := listenUDP(ctx, c.Listen)
	if err != nil {
		return nil, fmt.Errorf("start proxy %q: %w", c.Name, err)
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	return serveUDP(ctx, c, port, dialUDP(c.DialTimeout)), nil
}

// serveUDP is startUDP on a port that is there.
func serveUDP(ctx context.Context, c Config, at port, dial func(context.Context, string) (leg, error)) *Proxy {
	if c.Idle == 0 {
		c.Idle = idleDefault
	}
	if c.MostSessions == 0 {
		c.MostSessions = sessionsDefault
	}
	p := &Proxy{config: c, start: time.Now(), conns: map[*conn]struct{}{}}
	p.held.most = c.HoldMost
	if p.held.most == 0 {
		p.held.most = holdMost
	}
	p.answers.Store(answersFrom)
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.upstream.Store(parseUpstreams(c.Upstream))
	u := &relay{p: p, port: at, dial: dial, sessions: map[peer]*session{}, idle: list.New(), lost: map[string]int{},
		wakes: forever, kick: make(chan struct{}, 1)}
	u.alarm.wakes = u
	p.relay = u
	for _, r := range c.Rules {
		p.placed = append(p.placed, p.place(r, true))
	}
	p.publish(nil)
	if _, is := at.(*udpPort); is {
		p.alarms = newAlarms(p.start)
	}
	u.rulesChanged()
	p.all.Go(u.receive)
	p.all.Go(u.send)
	p.all.Go(func() {
		<-p.ctx.Done()
		p.shut()
	})
	return p
}

// answersFrom is the number of the first answer: what is drawn for it must not be what
// was drawn for the first request.
const answersFrom = 1 << 62

// receive takes callers' datagrams until the port is closed.
func (u *relay) receive() {
	for {
		b, from, err := u.port.read()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // of a datagram before, or a lack of memory
			select {
			case <-u.p.ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		u.mu.Lock()
		if !u.stopped {
			now := u.p.now()
			s := u.sessionOf(from, now)
			u.p.stats.begun()
			s.waiting++
			u.pass(s, false, b, u.p.calls.Add(1)-1, now)
		}
		u.mu.Unlock()
	}
}

// sessionOf is the caller's session; a new one, where it has none. u.mu is held.
func (u *relay) sessionOf(from peer, now time.Duration) *session {
	s := u.sessions[from]
	upstream := u.p.Upstream()
	if s != nil && s.upstream != upstream {
		u.end(s)
		s = nil
	}
	if s == nil {
		if len(u.sessions) >= u.p.config.MostSessions {
			u.end(u.idle.Front().Value.(*session))
		}
		s = &session{peer: from, number: u.p.accepted.Add(1) - 1, opened: now, upstream: upstream}
		s.place = u.idle.PushBack(s)
		u.sessions[from] = s
		u.p.open.Add(1)
		u.listeners.Go(func() { u.listen(s) })
	}
	u.touch(s, now)
	return s
}

// touch says that something has passed. u.mu is held.
func (u *relay) touch(s *session, now time.Duration) {
	s.used = now
	u.idle.MoveToBack(s.place)
	u.wakeAt(now + u.p.config.Idle)
}

// listen serves a session's upstream until the session is over.
func (u *relay) listen(s *session) {
	var l leg
	err := errNoUpstream
	if places := u.p.upstream.Load().places; len(places) > 0 { // several take turns
		l, err = u.dial(u.p.ctx, places[s.number%uint64(len(places))].address)
	}
	u.mu.Lock()
	switch {
	case err != nil: // the next datagram tries again, in a session of its own
		u.refused(s, len(s.early))
		u.giveUp(s, lostUpstream)
		u.end(s)
	case s.over:
		l.Close()
	default:
		s.leg = l
		for _, b := range s.early {
			u.p.held.give(int64(len(b) + heldSize))
			u.write(s, false, b)
		}
		s.early = nil
	}
	over := s.over
	u.mu.Unlock()
	if over {
		return
	}
	answer := func(b []byte) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if s.over {
			return
		}
		now := u.p.now()
		u.touch(s, now)
		u.pass(s, true, b, u.p.answers.Add(1)-1, now)
	}
	for {
		err := l.read(answer)
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			u.mu.Lock()
			u.refused(s, 1)
			u.mu.Unlock()
		default: // such as that there is no route: said once for each datagram
			select {
			case <-u.p.ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

var errNoUpstream = errors.New("there is no upstream")

// refused counts calls that the upstream has refused. u.mu is held.
func (u *relay) refused(s *session, calls int) {
	for range min(calls, s.waiting) {
		s.waiting--
		u.p.stats.ended(wasRefused)
	}
}

// end ends a session. u.mu is held.
func (u *relay) end(s *session) {
	if s.over {
		return
	}
	s.over = true
	delete(u.sessions, s.peer)
	u.idle.Remove(s.place)
	if s.leg != nil {
		s.leg.Close()
	}
	for range s.waiting {
		u.p.stats.ended(wasUnanswered)
	}
	s.waiting = 0
	u.giveUp(s, lostSession)
	u.p.open.Add(-1)
}

// giveUp drops what waits for a session's leg. u.mu is held.
func (u *relay) giveUp(s *session, why string) {
	for _, b := range s.early {
		u.p.held.give(int64(len(b) + heldSize))
		u.lost[why]++
	}
	s.early = nil
}

// write passes one datagram on. u.mu is held.
func (u *relay) write(s *session, isDown bool, b []byte) {
	switch {
	case s.over:
		u.lost[lostSession]++
		return
	case !isDown && s.leg == nil:
		if len(s.early) == earlyMost {
			u.lost[lostUpstream]++
			return
		}
		if ok, _ := u.p.held.claim(int64(len(b)+heldSize), 0); !ok {
			u.lost[lostHeld]++
			return
		}
		s.early = append(s.early, append([]byte(nil), b...))
		return
	}
	var err error
	if isDown {
		err = u.port.write(b, s)
	} else if err = s.leg.write(b); errors.Is(err, syscall.ECONNREFUSED) {
		u.refused(s, 1) // an earlier one was; this one has not been looked at
		err = s.leg.write(b)
	}
	if err != nil {
		u.lost[lostUnsent]++
		return
	}
	if isDown {
		u.down++
		u.p.stats.bytesDown.Add(int64(len(b)))
		if s.waiting > 0 {
			s.waiting--
			u.p.stats.ended(wasAnswered)
		}
		return
	}
	u.up++
	u.p.stats.bytesUp.Add(int64(len(b)))
}

// rung implements sleeper.
func (u *relay) rung(time.Duration, bool) { u.lookAgain() }

// lookAgain has send look again, now.
func (u *relay) lookAgain() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// send lets go what was held, in time, and ends sessions that are idle.
func (u *relay) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		u.mu.Lock()
		for range sendBatch {
			if len(u.held) == 0 || u.held[0].due > u.p.now() {
				break
			}
			u.release(heap.Pop(&u.held).(*datagram))
		}
		u.expire(u.p.now())
		at := u.next()
		u.wakes = at
		wait := at - u.p.now()
		u.mu.Unlock()
		if wait <= 0 {
			continue
		}
		timer.Reset(wait)
		if wait < time.Minute {
			u.p.alarms.wake(&u.alarm, at)
		}
		select {
		case <-timer.C:
		case <-u.kick:
		case <-u.p.ctx.Done():
			u.p.alarms.stop(&u.alarm)
			return
		}
	}
}

// sendBatch is how many go in a row, before others get the lock.
const sendBatch = 64

// next is when something is due. u.mu is held.
func (u *relay) next() time.Duration {
	at := forever
	if len(u.held) > 0 {
		at = u.held[0].due
	}
	if first := u.idle.Front(); first != nil {
		at = min(at, first.Value.(*session).used+u.p.config.Idle)
	}
	return at
}

// wakeAt has send look again at that time at the latest. u.mu is held.
func (u *relay) wakeAt(at time.Duration) {
	if at >= u.wakes {
		return
	}
	u.wakes = at
	u.lookAgain()
}

// expire ends the sessions that have been idle for long. u.mu is held.
func (u *relay) expire(now time.Duration) {
	for first := u.idle.Front(); first != nil; first = u.idle.Front() {
		s := first.Value.(*session)
		switch {
		case s.used+u.p.config.Idle > now:
			return
		case s.pending > 0: // what is held is still to pass
			u.touch(s, now)
		default:
			u.end(s)
		}
	}
}

// shut ends everything; when it returns, the sessions' goroutines are gone.
func (u *relay) shut() {
	u.port.Close()
	u.mu.Lock()
	u.stopped = true
	for _, s := range u.sessions {
		u.end(s)
	}
	u.mu.Unlock()
	u.listeners.Wait()
}

// collect is what happened to datagrams since the last one.
func (u *relay) collect() *DatagramStats {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := &DatagramStats{Up: u.up, Down: u.down, Lost: u.lost}
	u.up, u.down = 0, 0
	u.lost = map[string]int{}
	if all := u.port.missed(); all > u.missed { // 0 when the port is closed
		s.Lost[lostKernel] += int(all - u.missed)
		u.missed = all
	}
	return s
}

// DatagramStats counts the datagrams of a UDP edge.
type DatagramStats struct {
	Up, Down int // passed on, copies among them, to the upstream and to callers
	// Lost counts those that were not, by reason: the kind of the rule that dropped it
	// (loss, blackhole, bandwidth, limit), or
	//	held      Config.HoldMost bytes were held back already
	//	session   its session was over before its time came
	//	upstream  the upstream cannot be reached
	//	unsent    the kernel did not take it
	//	kernel    it came faster than the proxy could read
	Lost map[string]int
}
