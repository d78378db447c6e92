package loadgen

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/threads"
)

const haveFast = true

// A shard is one event loop of the fast engine: a goroutine with its part of the stream's demand and of its connections, all its
// sockets in one poller, and a ledger. Shards share nothing that is written, but
// the count of a closed stream's requests.
//
//	        ┌───────────────────────────────────────────────────────────┐
//	        v                                                           │
//	wait for sockets, or the next due time, or the next deadline        │
//	        └─> events: connect, write, read, finish; carry what queues;│
//	              │     after each, send what has fallen due meanwhile  │
//	              └─> send all that is due ─> expire ─> publish ────────┘
//
// Requests that are due within one quantum are sent together: a wait costs more
// than a request.
type shard struct {
	config Config
	stream *stream
	ledger *ledger
	poller *poller
	demand demand
	static []rendering // by kind
	target target      // the address that Resolve gave last

	begun  time.Time     // of the loop; Go's monotonic clock from here on
	offset time.Duration // of begun, on the run's clock
	clock  time.Duration // what now was when it was last asked

	// Waits for due times end on a grid of their own, not a quantum after the last one
	// did: that would put off a bit more each time what comes faster than that.
	wakeup time.Duration // where the wait at hand for a due time is to end
	slot   time.Duration // where the last one did that was waited for

	conns    []*conn // those that were needed so far
	limit    int
	closed   *users     // the demand of a closed stream
	own      bool       // every user has a connection of its own
	warm     connList   // free, open; the first was used last. Where users share, all that are free, in turn
	cold     connList   // free, not open
	inFlight []connList // by timeout, each in the order of deadlines
	busy     int        // connections in flight
	queue    queue
	unheard  bool // the poller has news that no connection has heard yet

	lookAt time.Duration // when to look for idle connections

	cutOff atomic.Bool // the run's context has ended

	lanes *lanes // over HTTP/2; else nil

	unread []socketID // where there is more to read than was read
	spare  []socketID // memory for it

	memos   [4]memo
	memo    int // the next one to be replaced
	details map[detailKey]string
	draw    draw
	request []byte
	body    []byte
	buffer  []byte

	dials  sync.WaitGroup
	dialer context.Context // of what is dialed off the loop
	hangUp context.CancelFunc
	mu     sync.Mutex
	dialed []dialed
}

const (
	// quantum is how far apart waits for due times end at least. Measured: 100 µs
	// save up to 30 % of CPU time and do not show in latencies; 1 ms does.
	quantum = 100 * time.Microsecond
	// salvo is how much of what is due is sent before looking for answers.
	salvo = 128
	// To publish more often than the collector looks would be of no use.
	publishEvery = windowLength
)

func newShards(c Config, s *stream, col *collector) (shards []*shard, err error) {
	n, connections, seq := c.shards(), c.Spec.connections(), new(atomic.Uint64)
	defer func() {
		if err != nil {
			closeShards(shards)
			shards = nil
		}
	}()
	for i := range n {
		p, err := newPoller()
		if err != nil {
			return shards, err
		}
		sh := &shard{
			config: c, stream: s, ledger: newLedger(c, s), poller: p, static: make([]rendering, len(s.kinds)),
			limit: connections / n, lookAt: never,
			inFlight: make([]connList, len(s.timeouts)), queue: newQueue(s),
			details: map[detailKey]string{}, buffer: make([]byte, 64<<10),
		}
		if i < connections%n {
			sh.limit++
		}
		if sh.lanes = newLanes(sh); sh.lanes != nil {
			sh.limit *= sh.lanes.each
		}
		if c.Spec.Users == nil {
			sh.demand = newArrivals(c, i, n)
		} else {
			sh.closed = newUsers(c, seq, i, n)
			sh.demand = sh.closed
			sh.own = (c.Spec.users()-i+n-1)/n <= sh.limit // its users are every n-th
		}
		for i := range sh.static {
			sh.static[i].fixed = s.kinds[i].static()
		}
		shards = append(shards, sh)
		col.ledgers = append(col.ledgers, sh.ledger)
	}
	col.passed.Store(int64(never)) // the ledgers say
	return shards, nil
}

func closeShards(shards []*shard) {
	for _, s := range shards {
		s.poller.close()
	}
}

// runShards returns when the fate of every request is known.
func runShards(ctx context.Context, shards []*shard) {
	var cut sync.WaitGroup
	cut.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer cut.Done()
		for _, s := range shards {
			s.cutOff.Store(true)
			s.poller.ring()
		}
	})
	// A loop that waits keeps its processor from other goroutines until Go notices.
	giveBack := threads.Extra(len(shards))
	var all sync.WaitGroup
	for _, s := range shards {
		all.Go(func() { s.run(ctx) })
	}
	all.Wait()
	giveBack()
	if stop() {
		cut.Done()
	}
	cut.Wait()
}

func (s *shard) run(ctx context.Context) {
	defer threads.Attentive()()
	s.dialer, s.hangUp = context.WithCancel(ctx)
	s.begun = time.Now()
	s.offset = s.begun.Sub(s.config.Start)

	published := s.now()
	if idle := s.stream.keep.idle; idle != never {
		s.lookAt = published + idle
	}
	for s.demand.next() != never || s.busy > 0 || s.queue.size > 0 {
		now := s.now()
		n := s.poller.wait(now, s.until(now, published))
		if s.cutOff.Load() {
			s.abandon()
			break
		}
		s.unheard = true
		for i := range n {
			e := &s.poller.events[i]
			if e.Fd <= firstLink {
				if k := s.lanes.find(socketID{e.Fd, e.Pad}); k != nil {
					k.handle(e.Events)
				}
			} else if e.Fd < 0 {
				s.poller.hear()
				s.takeDialed()
			} else if c := s.conns[e.Fd]; c.generation == e.Pad {
				c.handle(e.Events)
			}
			s.settle()
			s.keepUp()
		}
		s.unheard = n == len(s.poller.events)
		s.readOn()
		now = s.now()
		if s.demand.next() <= now {
			s.sendDue(now)
		}
		s.expire(now)
		if now >= s.lookAt {
			s.closeIdle(now)
		}
		s.settle()
		if now-published >= publishEvery && !s.ledger.settled() {
			published = now
			s.ledger.publish(s.demand.passed(now))
		}
	}

	for _, c := range s.conns {
		c.disconnect()
	}
	if s.lanes != nil {
		s.lanes.hangUp()
	}
	s.hangUp()
	s.dials.Wait()
	s.dropDialed()
	s.ledger.publish(never)
}

// now is the offset of the run's clock.
func (s *shard) now() time.Duration {
	s.clock = s.offset + time.Since(s.begun)
	return s.clock
}

// until is when there is something to do for which no socket calls.
func (s *shard) until(now, published time.Duration) time.Duration {
	if len(s.unread) > 0 {
		return now
	}
	next := s.demand.next()
	if next != never && next > now {
		next = max(next, s.slot+quantum)
		s.wakeup = next
	}
	next = min(next, s.lookAt)
	for i := range s.inFlight {
		if c := s.inFlight[i].first; c != nil {
			next = min(next, c.deadline)
		}
	}
	if s.queue.size > 0 {
		next = min(next, s.queue.expiry())
	}
	if !s.ledger.settled() {
		next = min(next, published+publishEvery)
	}
	return next
}

// readOn reads from the connections that had more than their share the last time.
func (s *shard) readOn() {
	before := s.unread
	s.unread, s.spare = s.spare[:0], before
	for _, id := range before {
		if id.index <= firstLink {
			if k := s.lanes.find(id); k != nil {
				k.read()
				s.settle()
				s.keepUp()
			}
		} else if c := s.conns[id.index]; c.generation == id.generation && c.state == reading {
			c.read()
			s.settle()
			s.keepUp()
		}
	}
}

// keepUp sends, between two answers, what has fallen due since the clock was last
// asked: as much of it as there are open connections without a request. Others are
// not made before all the answers are read that there are.
func (s *shard) keepUp() {
	for s.closed == nil && s.warm.first != nil && s.demand.next() <= s.clock {
		s.sendOne(s.now())
	}
}

// sendDue notes what is due, and sends it or queues it. To make a connection takes
// as long as several requests, and meanwhile others may have become free: it looks
// for answers before it makes another one. Who makes one for all that are due then is late
// for yet more.
func (s *shard) sendDue(now time.Duration) {
	if s.wakeup <= now {
		s.slot = s.wakeup
	}
	for range salvo {
		c := s.sendOne(now)
		if s.closed == nil && c != nil && (c.state == connecting || c.state == dialing) || s.demand.next() > now {
			return
		}
		now = s.now()
	}
}

// sendOne takes a request that is due, and sends it on the connection that it returns or queues it.
func (s *shard) sendOne(now time.Duration) *conn {
	j, ok := s.demand.take(now)
	if !ok {
		return nil
	}
	c := s.free(j)
	t := s.ledger.tally(j.due)
	t.count.due++
	if c == nil {
		t.count.queued++
		j.queued = true
		s.queue.push(j)
		return nil
	}
	c.carry(j, now)
	s.serve() // it may have failed at once, and left its connection to others
	return c
}

// free is a connection for j, nil if all are busy. An open stream prefers one that
// is open to one that is not, and the one used last to others, so that it has no
// more connections than it needs. Users have one each, or else take turns.
func (s *shard) free(j job) *conn {
	switch {
	case s.own:
		for len(s.conns) <= int(j.user) {
			s.newConn()
		}
		return s.conns[j.user]
	case s.closed != nil && len(s.conns) < s.limit:
		return s.newConn()
	case s.warm.first != nil:
		return s.warm.first
	case s.cold.first != nil:
		return s.cold.first
	case len(s.conns) < s.limit:
		return s.newConn()
	}
	return nil
}

// settle goes on after whatever may have freed a connection: with what is queued,
// and with users who ask again at once.
func (s *shard) settle() {
	for more := true; more; more = s.lanes != nil && s.lanes.settle() {
		s.serve()
		if s.closed != nil && s.closed.head < len(s.closed.ready) {
			s.sendDue(s.now())
		}
	}
}

// serve gives free connections to what is queued.
func (s *shard) serve() {
	for s.queue.size > 0 {
		c := s.warm.first
		if c == nil {
			c = s.cold.first
		}
		if c == nil {
			return
		}
		j, _ := s.queue.pop()
		now := s.now()
		if now >= j.due+s.stream.timeout(j.seq) {
			s.drop(j, now)
			continue
		}
		c.carry(j, now)
	}
}

// expire fails what has taken longer than its timeout.
func (s *shard) expire(now time.Duration) {
	for i := range s.inFlight {
		for c := s.inFlight[i].first; c != nil && c.deadline <= now; c = s.inFlight[i].first {
			c.expire(now)
		}
	}
	if s.queue.size == 0 {
		return
	}
	for j, ok := s.queue.popExpired(now); ok; j, ok = s.queue.popExpired(now) {
		s.drop(j, now)
	}
}

// closeIdle closes the connections that have carried nothing for long enough, and
// notes when to look again. Those of an open stream are in the order of their use.
func (s *shard) closeIdle(now time.Duration) {
	idle := s.stream.keep.idle
	next := now + idle
	switch {
	case s.lanes != nil:
		next = s.lanes.closeIdle(now)
	case s.closed == nil:
		for c := s.warm.last; c != nil && now-c.used >= idle; c = s.warm.last {
			c.hangUp()
		}
		if c := s.warm.last; c != nil {
			next = c.used + idle
		}
	default:
		for _, c := range s.conns {
			switch {
			case c.state != kept:
			case now-c.used >= idle:
				c.hangUp()
			default:
				next = min(next, c.used+idle)
			}
		}
	}
	s.lookAt = s.stream.keep.look(now, next)
}

func (s *shard) drop(j job, now time.Duration) {
	f := drop(j, now)
	s.ledger.finish(&f)
	s.demand.done(j, dropped, now)
}

// abandon cuts off what is in flight or queued.
func (s *shard) abandon() {
	now := s.now()
	for i := range s.inFlight {
		for c := s.inFlight[i].first; c != nil; c = s.inFlight[i].first {
			c.finish(canceled, "", now)
		}
	}
	for j, ok := s.queue.pop(); ok; j, ok = s.queue.pop() {
		f := unsent(j, canceled)
		s.ledger.finish(&f)
	}
}

// dialed is a socket that was connected off the loop, or not.
type dialed struct {
	id  socketID
	fd  int
	tls *secured // nil if the stream is plain
	err error
}

// dialOff makes a connection that takes more than a system call, because TLS or a
// name has to be negotiated, and puts it where the loop takes it.
func (s *shard) dialOff(d *dial, id socketID, address string, deadline time.Duration) {
	s.dials.Go(func() {
		ctx, cancel := context.WithDeadline(s.dialer, s.config.Start.Add(deadline))
		defer cancel()
		fd, tls, err := d.run(ctx, address, s.config.secure)
		s.mu.Lock()
		s.dialed = append(s.dialed, dialed{id, fd, tls, err})
		s.mu.Unlock()
		s.poller.ring()
	})
}

func (s *shard) takeDialed() {
	s.mu.Lock()
	all := s.dialed
	s.dialed = nil
	s.mu.Unlock()
	for _, d := range all {
		if d.id.index <= firstLink {
			if k := s.lanes.find(d.id); k != nil {
				k.takeDialed(d)
			} else if d.err == nil {
				closeSocket(d.fd)
			}
		} else if c := s.conns[d.id.index]; c.generation == d.id.generation && c.state == dialing {
			c.takeDialed(d)
		} else if d.err == nil {
			closeSocket(d.fd)
		}
		s.settle()
	}
}

func (s *shard) dropDialed() {
	for _, d := range s.dialed {
		if d.err == nil {
			closeSocket(d.fd)
		}
	}
}

// detailKey is an error that may come a hundred thousand times a second.
type detailKey struct {
	op, call, address string
	err               error
}

// detail is the error in the words of package net.
func (s *shard) detail(op, call, address string, err error) string {
	k := detailKey{op, call, address, err}
	text, ok := s.details[k]
	if !ok {
		if call != "" {
			err = &os.SyscallError{Syscall: call, Err: err}
		}
		text = fmt.Sprintf("%s tcp %s: %v", op, address, err)
		if len(s.details) > 1000 {
			clear(s.details)
		}
		s.details[k] = text
	}
	return text
}
