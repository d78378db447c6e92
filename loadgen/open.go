package loadgen

import (
	"context"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

// maxLag is how much later than due a request may be sent, a connection being
// free, without counting as late.
const maxLag = 10 * time.Millisecond

// job is one request that is due.
type job struct {
	seq    uint64
	due    time.Duration
	queued bool
	step   int    // of a session, from 0
	owner  uint64 // whose row of unique data it has
	user   int32  // who asks, in a closed stream on the fast engine
}

// schedule yields the due times of an open stream one by one, since From.
func schedule(c Config) (next func() (due time.Duration, ok bool)) {
	process, _ := c.Spec.Arrivals(c.Seed)
	s := arrival.On(process)
	if c.Requests == 0 {
		return s.Next
	}
	return func() (time.Duration, bool) {
		due, ok := s.Next()
		return due, ok && s.Seq() < c.Requests
	}
}

// open sends the requests of an open stream. One goroutine waits for due times
// and hands each request to a free worker; a worker is a goroutine with a
// connection. There are only as many as were needed at once, and at most the
// stream's connections. A request that finds no free one is queued; workers take
// from the queue before they become free.
func open(ctx context.Context, c Config, s *stream, col *collector, carry carrier, wait waiter) {
	scheduler := col.recorder() // the first: see collect
	p := &pool{
		config: c, ctx: ctx, stream: s, collector: col, carrier: carry, limit: c.Spec.lanes(),
		queue: newQueue(s), wake: wait.wake,
	}
	if s.identities != nil {
		p.limit = min(p.limit, len(s.identities))
	}
	// Who ends the context also ends the wait and what is in flight.
	var cut sync.WaitGroup
	cut.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer cut.Done()
		p.cut()
		wait.wake()
	})
	defer func() {
		if stop() {
			cut.Done()
		}
		cut.Wait()
	}()

	p.schedule(scheduler, wait)
	p.drain(scheduler, wait)
	p.workers.Wait()
}

// schedule offers every request at its due time, and drops those that have
// queued for too long.
func (p *pool) schedule(rec *recorder, wait waiter) {
	next := schedule(p.config)
	for seq := uint64(0); ; seq++ {
		due, ok := next()
		due += p.config.From
		if !ok || due >= p.config.Until {
			p.collector.passed.Store(int64(p.config.Until + windowLength))
			return
		}
		p.collector.passed.Store(int64(due))
		for {
			if p.ctx.Err() != nil {
				return
			}
			now := time.Since(p.config.Start)
			next := min(p.dropExpired(rec, now), due)
			if now >= due {
				break
			}
			wait.until(p.config.Start.Add(next))
		}
		if p.stream.identities != nil { // see stream.ready
			if p.offer(job{seq: seq, due: due}) {
				rec.note(due, 0, count{due: 1, queued: 1})
			}
			continue
		}
		// Noted before it is offered, so that it is not seen to finish before.
		rec.note(due, 0, count{due: 1})
		if p.offer(job{seq: seq, due: due, owner: seq}) {
			rec.note(due, 0, count{queued: 1})
		}
	}
}

// drain waits until the queue is empty, which happens at the latest when the
// last request in it has queued for too long.
func (p *pool) drain(rec *recorder, wait waiter) {
	p.mu.Lock()
	p.closing = true
	for _, idle := range [][]*worker{p.warm, p.cold} {
		for _, w := range idle {
			close(w.jobs)
		}
	}
	p.warm, p.cold = nil, nil
	p.mu.Unlock()
	for p.ctx.Err() == nil {
		expiry := p.dropExpired(rec, time.Since(p.config.Start))
		if expiry == never {
			return
		}
		wait.until(p.config.Start.Add(expiry))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for j, ok := p.queue.pop(); ok; j, ok = p.queue.pop() {
		rec.finish(unsent(j, canceled))
	}
}

// pool is the workers of one stream.
type pool struct {
	config    Config
	ctx       context.Context
	stream    *stream
	collector *collector
	carrier   carrier
	limit     int
	wake      func() // tells the scheduler that the queue is empty, once closing
	workers   sync.WaitGroup

	mu      sync.Mutex
	all     []*worker
	warm    []*worker // free, with an open connection; the last was used last
	cold    []*worker // free, without
	queue   queue
	closing bool
}

// offer gives j to a free worker, or queues it.
func (p *pool) offer(j job) (queued bool) {
	p.mu.Lock()
	var w *worker
	switch {
	case len(p.warm) > 0:
		w, p.warm = p.warm[len(p.warm)-1], p.warm[:len(p.warm)-1]
	case len(p.cold) > 0:
		w, p.cold = p.cold[len(p.cold)-1], p.cold[:len(p.cold)-1]
	case len(p.all) < p.limit:
		w = &worker{
			pool: p, number: uint64(len(p.all)), jobs: make(chan job, 1), recorder: p.collector.recorder(),
			client: p.carrier.client(),
		}
		p.all = append(p.all, w)
		p.workers.Go(w.run)
	default:
		j.queued = true
		p.queue.push(j)
	}
	p.mu.Unlock()
	if w != nil {
		w.jobs <- j // has room: a free worker has nothing to do
	}
	return j.queued
}

// free is called by a worker that has finished; it gets the next job from the
// queue, or else is free from now on.
func (p *pool) free(w *worker) (j job, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j, ok := p.queue.pop(); ok {
		if p.closing && p.queue.size == 0 {
			p.wake()
		}
		return j, true
	}
	switch {
	case p.closing:
		close(w.jobs)
	case w.client.warm():
		p.warm = append(p.warm, w)
	default:
		p.cold = append(p.cold, w)
	}
	return job{}, false
}

// dropExpired fails what has queued for its whole timeout, and returns when
// that will next be so.
func (p *pool) dropExpired(rec *recorder, now time.Duration) (next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		j, ok := p.queue.popExpired(now)
		if !ok {
			return p.queue.expiry()
		}
		rec.finish(drop(j, now))
	}
}

func drop(j job, now time.Duration) finished {
	f := unsent(j, dropped)
	f.latency, f.detail = now-j.due, "no connection became free in time"
	return f
}

// unsent is the fate of a request that never was.
func unsent(j job, o outcome) finished {
	return finished{seq: j.seq, due: j.due, outcome: o, lag: unknown, service: unknown, firstByte: unknown}
}

func (p *pool) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.all {
		w.client.cut()
	}
}

// worker is a goroutine with a connection.
type worker struct {
	pool     *pool
	number   uint64   // from 0
	jobs     chan job // closed when there will be none
	recorder *recorder
	client   client
}

func (w *worker) run() {
	defer w.client.close()
	for j := range w.jobs {
		for more := true; more; j, more = w.pool.free(w) {
			w.handle(j)
		}
	}
}

func (w *worker) handle(j job) {
	p := w.pool
	now := time.Since(p.config.Start)
	deadline := j.due + p.stream.timeout(j.seq)
	if p.stream.identities != nil {
		j.owner = w.number
	}
	switch {
	case p.ctx.Err() != nil && p.stream.identities != nil && !j.queued:
		w.recorder.end(ended{due: j.due, how: cutOff}) // it was not due yet
		return
	case p.ctx.Err() != nil:
		w.recorder.finish(unsent(j, canceled))
		return
	case j.queued && now >= deadline:
		w.recorder.finish(drop(j, now))
		return
	}
	follow(p.ctx, p.config, p.stream, w.client, w.recorder, j, now, deadline)
}

// send carries out one request and notes what comes of it.
func send(c Config, cl client, rec *recorder, j job, now, deadline time.Duration) result {
	n, lag := count{sent: 1}, unknown
	if !j.queued {
		lag = now - j.due
		if lag > maxLag {
			n.late = 1
		}
	}
	rec.note(j.due, j.step, n)
	r := cl.do(j, c.Start.Add(deadline))
	done := r.done.Sub(c.Start)
	if r.waited > 0 {
		n := count{queued: 1}
		if r.outcome == dropped {
			n.sent = -1 // it was given a connection, but nothing to send on
		}
		rec.note(j.due, j.step, n)
		lag, now = unknown, now+r.waited
	}
	f := finished{
		seq: j.seq, due: j.due, latency: done - j.due, lag: lag, service: done - now, firstByte: unknown,
		made: r.made, outcome: r.outcome, class: r.class, sent: r.sent, received: r.received, read: r.read, detail: r.detail,
		step: j.step, wanted: r.wanted, status: r.status, request: r.request,
	}
	if !r.begun.IsZero() {
		f.firstByte = r.begun.Sub(c.Start) - now
	}
	rec.finish(f)
	return r
}
