package loadgen

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// closed lets the stream's users ask, wait for the answer, think, and ask again.
// Their first requests are spread over one think time. A request is due when its
// user has finished thinking. With fewer connections than users they share, and a
// user who finds none free is queued.
func closed(ctx context.Context, c Config, s *stream, col *collector, carry carrier) {
	users := c.Spec.users()
	clients := make([]client, min(users, c.Spec.lanes()))
	for i := range clients {
		clients[i] = carry.client()
	}
	var shared chan client
	if len(clients) < users {
		shared = make(chan client, len(clients))
		for _, cl := range clients {
			shared <- cl
		}
	}
	var cut sync.WaitGroup
	cut.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer cut.Done()
		for _, cl := range clients {
			cl.cut()
		}
	})
	var next atomic.Uint64
	var all sync.WaitGroup
	for i := range users {
		u := &user{
			config: c, ctx: ctx, stream: s, collector: col, recorder: col.recorder(),
			shared: shared, next: &next, number: uint64(i), first: c.From + firstDue(c.Spec, i),
		}
		if shared == nil {
			u.own = clients[i]
		}
		all.Go(u.run)
	}
	all.Wait()
	if stop() {
		cut.Done()
	}
	cut.Wait()
	for _, cl := range clients {
		cl.close()
	}
	col.passed.Store(int64(c.Until + windowLength))
}

// user is one virtual user.
type user struct {
	config    Config
	ctx       context.Context
	stream    *stream
	collector *collector
	recorder  *recorder
	own       client      // nil where connections are shared
	shared    chan client // the free ones
	next      *atomic.Uint64
	number    uint64
	first     time.Duration // when its first request is due
	timer     *time.Timer   // of its patience for a free connection
}

// breath is how long a user waits after a request that could not be made at
// all: without it, users who do not think would spin while a service is down.
const breath = 10 * time.Millisecond

func (u *user) run() {
	u.timer = time.NewTimer(time.Hour)
	defer u.timer.Stop()
	for due := u.first; due < u.config.Until; {
		if !u.stream.alarms.until(u.ctx, u.config.Start.Add(due)) {
			return
		}
		j := job{seq: u.next.Add(1) - 1, due: due, owner: u.number}
		if limit := u.config.Requests; limit > 0 && j.seq >= limit {
			return
		}
		o := u.ask(j)
		now := time.Since(u.config.Start)
		due = now + u.config.Spec.Think
		if o.unmade() {
			due = max(due, now+breath)
		}
		// Users are many and their requests near now; a window that is told a
		// little early is told again.
		u.collector.passed.Store(int64(now))
	}
}

// ask makes one request, or has one session, once a connection is free.
func (u *user) ask(j job) outcome {
	cl, deadline := u.own, j.due+u.stream.timeout(j.seq)
	n := count{due: 1}
	if cl == nil {
		select {
		case cl = <-u.shared:
		default:
			j.queued, n.queued = true, 1
		}
	}
	if u.stream.identities == nil || j.queued { // see stream.ready
		u.recorder.note(j.due, 0, n)
	}
	if cl == nil {
		var ok bool
		if cl, ok = u.queue(deadline); !ok {
			f := drop(j, time.Since(u.config.Start))
			if u.ctx.Err() != nil {
				f.outcome = canceled
			}
			u.recorder.finish(f)
			return f.outcome
		}
	}
	o := follow(u.ctx, u.config, u.stream, cl, u.recorder, j, time.Since(u.config.Start), deadline)
	if u.own == nil {
		u.shared <- cl
	}
	return o
}

// queue waits for a free connection.
func (u *user) queue(deadline time.Duration) (client, bool) {
	u.timer.Reset(time.Until(u.config.Start.Add(deadline)))
	select {
	case cl := <-u.shared:
		return cl, true
	case <-u.timer.C:
	case <-u.ctx.Done():
	}
	return nil, false
}
