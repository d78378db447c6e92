package loadgen

import (
	"slices"
	"time"
)

// lanes is HTTP/2 in an event loop. What are connections otherwise are lanes here:
// each conn is one of the streams that may be under way at once, with the same lists,
// deadlines and fates, but without a socket. So many of them share a trunk, which has
// one connection at a time:
//
//	conn, lane ─┐
//	conn, lane ─┼─ trunk ── link ── socket
//	conn, lane ─┘     └──── link ── socket that takes no more requests, until its last answer
//
// The rules are those of h2hub. What the lanes of a link have to say by the end of one
// step of the loop is one write.
type lanes struct {
	shard  *shard
	scheme string
	each   int // lanes of a trunk
	trunks []*laneTrunk
	links  []*laneLink  // by the place in their ids; nil where one has ended
	last   int32        // generation given to a link
	dirty  []*laneLink  // with something to write
	again  []*lane      // whose request nobody has acted on: it is to be sent again
	fixed  []*h2request // by kind, where all its requests are alike; nil: not made yet
	text   []byte
}

// laneTrunk is one of the connections that the shard may have.
type laneTrunk struct {
	lanes []*lane
	link  *laneLink // that takes requests, or is about to; nil: none does
}

// lane carries the requests of a conn over its trunk.
type lane struct {
	conn  *conn
	all   *lanes
	trunk *laneTrunk
	link  *laneLink // that has the request of the conn, or has it in line; nil: none
	st    h2stream
	tries int
	since time.Duration // when it got in line
	began time.Duration // when its stream did

	request h2request // of a kind whose requests differ
	body    []byte
}

// newLanes is nil where the stream has one request at a time on a connection.
func newLanes(s *shard) *lanes {
	if !s.config.Spec.speech().may(takesStreams) {
		return nil
	}
	a := &lanes{shard: s, scheme: "http", each: s.config.Spec.streams(), fixed: make([]*h2request, len(s.stream.kinds))}
	if s.config.secure != nil {
		a.scheme = "https"
	}
	return a
}

// add makes a conn a lane.
func (a *lanes) add(c *conn) {
	n := len(a.trunks)
	if n == 0 || len(a.trunks[n-1].lanes) == a.each {
		a.trunks = append(a.trunks, new(laneTrunk))
		n++
	}
	l := &lane{conn: c, all: a, trunk: a.trunks[n-1]}
	l.st.owner = l
	if a.shard.stream.kinds[0].rpc != nil {
		l.st.grpc = new(grpcAnswer)
	}
	l.trunk.lanes = append(l.trunk.lanes, l)
	c.lane = l
}

// settle writes what there is to write, and sends again what is to be sent again. It
// tells whether that may have freed lanes, or filled others.
func (a *lanes) settle() (more bool) {
	for len(a.dirty) > 0 {
		k := a.dirty[len(a.dirty)-1]
		a.dirty = a.dirty[:len(a.dirty)-1]
		k.flush()
		more = more || k.state == linkOver
	}
	if len(a.again) > 0 {
		again := a.again
		a.again = nil
		for _, l := range again {
			if l.conn.state == waiting && l.link == nil { // nothing else has ended it since
				l.board(a.shard.now())
			}
		}
		more = true
	}
	return more
}

// closeIdle closes the links that have carried nothing for long enough at now, and
// returns when the next one will have.
func (a *lanes) closeIdle(now time.Duration) (next time.Duration) {
	idle := a.shard.stream.keep.idle
	next = now + idle
	for _, k := range a.links {
		switch {
		case k == nil || k.state != linkOpen || k.h2.live.n > 0 || len(k.line) > 0:
		case now-k.used >= idle:
			k.retire(now)
		default:
			next = min(next, k.used+idle)
		}
	}
	return next
}

// hangUp closes all connections.
func (a *lanes) hangUp() {
	for _, k := range a.links {
		if k != nil {
			k.close()
		}
	}
}

// carry begins with the request of the conn.
func (l *lane) carry(now time.Duration) {
	l.tries = 1
	l.board(now)
}

// board gets the request onto the trunk's link, or in line for it.
func (l *lane) board(now time.Duration) {
	l.conn.state, l.since = waiting, now
	k := l.trunk.link
	if k == nil {
		l.connect(now)
		return
	}
	l.link = k
	if len(k.line) == 0 && k.room() {
		k.open(l, now)
		return
	}
	k.line = append(k.line, l)
}

// retry has the request sent again, over whatever link there is by then; it ends with
// err if that has been done too often.
func (l *lane) retry(err error, now time.Duration) {
	l.link = nil
	switch {
	case err == errRetired: // nobody is to blame, and each has carried some
	case l.tries == mostTries:
		l.fail(err, now)
		return
	default:
		l.tries++
	}
	l.conn.state = waiting
	l.all.again = append(l.all.again, l)
}

func (l *lane) fail(err error, now time.Duration) {
	err = early(err, l.st.begun)
	l.finish(classify(err, false), err.Error(), now)
}

// finish settles the fate of the request.
func (l *lane) finish(o outcome, detail string, now time.Duration) {
	l.link = nil
	l.conn.state = shut
	if l.trunk.link != nil {
		l.conn.state = kept
	}
	l.conn.finish(o, detail, now)
}

// render is the request's header block and body; the block stays as it is until the
// next one is rendered, the body until the lane's next one is.
func (l *lane) render(host string, left time.Duration) (block, body []byte, err error) {
	a, c, s := l.all, l.conn, l.all.shard
	k := &s.stream.kinds[c.kind]
	if s.static[c.kind].fixed {
		r := a.fixed[c.kind]
		if r == nil || r.host != host {
			if r, err = fixedRequest(s.stream, k, c.job.seq, host, a.scheme); err != nil {
				return nil, nil, err
			}
			a.fixed[c.kind] = r
		}
		r.stamp(r.block, s.stream, k, c.job.seq, left)
		return r.block, r.body, nil
	}
	if a.text, l.body, err = s.stream.appendDrawn(&s.draw, a.text[:0], l.body, c.job.seq, host); err != nil {
		return nil, nil, err
	}
	r := &l.request
	if err := r.compose(k, a.text, l.body, host, a.scheme); err != nil {
		return nil, nil, err
	}
	r.stamp(r.block, s.stream, k, c.job.seq, left)
	return r.block, r.body, nil
}

// admitted notes that the request goes out now. Where it had to wait because the
// server takes fewer streams than we may have, it was queued.
func (l *lane) admitted(now time.Duration) {
	c := l.conn
	if waited := l.waited(now); waited > 0 {
		l.queued()
		c.sentAt += waited
	}
}

// waited is how long the request has had a connection that takes no more streams.
// Until the server has said how many it takes, the connection is being made.
func (l *lane) waited(now time.Duration) time.Duration {
	if l.link.settled == 0 {
		return 0
	}
	return max(now-max(l.since, l.link.settled), 0)
}

func (l *lane) queued() {
	c := l.conn
	if !c.job.queued {
		c.job.queued = true
		l.all.shard.ledger.tally(c.job.due).count.queued++
	}
	c.fate.lag = unknown
}

// ended is told that the stream is over.
func (l *lane) ended() {
	c, st, now := l.conn, &l.st, l.st.done
	l.link.used = now
	l.sum()
	switch {
	case st.err != nil && st.unheard:
		l.retry(st.err, now)
	case st.err != nil:
		l.fail(st.err, now)
	case now >= c.deadline: // too late: it is none
		l.finish(timeout, l.all.shard.detail("read", "", l.link.host, timedOut{}), now)
	case st.grpc != nil:
		o, detail := st.grpc.outcome(st.status)
		l.finish(o, detail, now)
	default:
		l.finish(outcome(st.status), "", now)
	}
}

// sum adds what went over the wire to the fate of the request.
func (l *lane) sum() {
	f, st := &l.conn.fate, &l.st
	f.sent, f.read, f.received = f.sent+st.sent, f.read+st.read, st.bytes
	if st.begun > 0 {
		f.firstByte = st.begun - l.conn.sentAt
	}
}

// expire fails a request whose timeout has passed.
func (l *lane) expire(now time.Duration) {
	k, s := l.link, l.all.shard
	switch {
	case k == nil: // it is to be sent again
		l.finish(timeout, s.detail("dial", "", s.config.Resolve(), timedOut{}), now)
	case l.conn.state == reading:
		k.h2.reset(&l.st)
		k.used = now
		l.sum()
		l.finish(timeout, s.detail("read", "", k.host, timedOut{}), now)
		if k.heard < l.began && k.h2.going == nil {
			k.h2.going = errSilent
		}
		k.look(now)
	default:
		k.line = slices.Delete(k.line, slices.Index(k.line, l), slices.Index(k.line, l)+1)
		if k.state == linkOpen {
			if l.waited(now) > 0 {
				l.queued()
				s.ledger.tally(l.conn.job.due).count.sent-- // it was given a connection, but nothing to send on
			}
			l.finish(dropped, errNoStream.Error(), now)
			return
		}
		op := "dial"
		if k.dial != nil && k.dial.securing.Load() {
			op = "handshake"
		}
		l.finish(timeout, s.detail(op, "", k.host, timedOut{}), now)
		if k.deadline <= now || len(k.line) == 0 {
			k.giveUp(now)
		}
	}
}

// warm has the free lanes of the trunk preferred to those without a connection, as
// long as it has one.
func (t *laneTrunk) warm() {
	for _, l := range t.lanes {
		c := l.conn
		if s := c.shard; c.list == &s.cold {
			s.cold.remove(c)
			c.state = kept
			s.warm.pushBack(c)
		}
	}
}

func (t *laneTrunk) cool() {
	for _, l := range t.lanes {
		c := l.conn
		if s := c.shard; c.list == &s.warm && s.closed == nil {
			s.warm.remove(c)
			c.state = shut
			s.cold.pushFront(c)
		}
	}
}
