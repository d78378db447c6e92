package orders

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/targets/reference/node"
)

// How the background goes about the orders that wait for one callee.
const (
	slowest    = 5.0                    // sagas started per second when everything fails
	gentle     = 50.0                   // … to begin with
	fastest    = 100.0                  // … when everything succeeds: customers of the moment need the same services
	gain       = 0.5                    // added to the pace by each success; a failure halves it
	abreast    = 16                     // sagas under way at once: well below a bulkhead, which customers need
	patience   = 5 * time.Second        // of one try, where the edge itself has no timeout
	firstWait  = 200 * time.Millisecond // before the same order is tried again …
	longest    = 5 * time.Second        // … doubled each time, up to this
	breakerAsk = 50 * time.Millisecond  // how often an open breaker is looked at
)

// drain takes the orders whose next step is a call to one callee through the
// rest of their sagas, in the order they are due.
//
// A callee that has just come back finds all that piled up while it was away.
// So nothing is sent while the breaker is open; after that the pace starts
// gently, rises with every success and is halved by every failure (additive
// increase, multiplicative decrease, as in TCP). An order that failed waits
// longer each time, with jitter, so that one that cannot succeed does not hold
// up the others.
type drain struct {
	service *service
	client  *node.Client
	scale   float64
	wake    chan struct{} // capacity 1: something may be due sooner than thought

	mu    sync.Mutex
	queue byDue
	pace  float64 // per second
	rand  *rand.Rand
}

// entry is an order and when it is due.
type entry struct {
	order *order
	due   time.Time
	seq   uint64 // first in, first out among equals
}

func newDrain(s *service, c *node.Client) *drain {
	return &drain{service: s, client: c, scale: s.node.Config.Scale, wake: make(chan struct{}, 1), pace: gentle, rand: s.node.Rand("drain " + c.Edge())}
}

// add queues an order, after a step that failed with err (nil: none did). It
// takes the order over.
func (d *drain) add(o *order, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait := time.Duration(0)
	switch {
	case err == nil:
	case node.KindOf(err) == node.Open || node.KindOf(err) == node.Full:
		wait = firstWait // it was not even tried
	default:
		wait = min(firstWait<<min(o.tries, 10), longest)
		o.tries++
	}
	wait = time.Duration(float64(wait) * d.scale * (0.5 + d.rand.Float64()))
	d.queue.seq++
	heap.Push(&d.queue, entry{o, time.Now().Add(wait), d.queue.seq})
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *drain) waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queue.Len()
}

// run works until ctx ends, and waits for what it started.
func (d *drain) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	room := make(chan struct{}, abreast)
	for {
		o, wait := d.take()
		if o == nil {
			if !d.sleep(ctx, wait) {
				return
			}
			continue
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return // o's row is as it was
		}
		all.Go(func() {
			d.service.proceed(ctx, o)
			<-room
		})
		if !d.rest(ctx) {
			return
		}
	}
}

// take returns the first order that is due and may be tried, or how long to
// wait (0: until something is added).
func (d *drain) take() (*order, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queue.Len() == 0 {
		return nil, 0
	}
	if wait := time.Until(d.queue.entries[0].due); wait > 0 {
		return nil, wait
	}
	if !d.client.Admits() {
		return nil, time.Duration(float64(breakerAsk) * max(d.scale, 0.1))
	}
	return heap.Pop(&d.queue).(entry).order, 0
}

// sleep waits for a while (0: for ever) or until something is added; false when
// ctx ended.
func (d *drain) sleep(ctx context.Context, wait time.Duration) bool {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-due:
	case <-d.wake:
	}
	return true
}

// rest keeps the pace; false when ctx ended.
func (d *drain) rest(ctx context.Context) bool {
	d.mu.Lock()
	gap := time.Duration(float64(time.Second) / d.pace)
	d.mu.Unlock()
	timer := time.NewTimer(gap)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// learn adapts the pace to how a call went.
func (d *drain) learn(ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok {
		d.pace = min(d.pace+gain, fastest)
	} else {
		d.pace = max(d.pace/2, slowest)
	}
}

// proceed takes one order through the rest of its saga, until a step gives no
// answer; then the order waits in the queue of that step's callee.
func (s *service) proceed(ctx context.Context, o *order) {
	for !o.State.Terminal() {
		d := s.drains[s.callee(o.Step)]
		try, cancel := context.WithTimeout(ctx, patience)
		result, err := s.do(try, o, true)
		cancel()
		if kind := node.KindOf(err); kind != node.Open && kind != node.Full && ctx.Err() == nil {
			d.learn(result != Unknown)
		}
		if !s.settle(ctx, o, result, err) {
			s.later(ctx, o, err)
			return
		}
	}
}

// byDue is a heap of entries, the earliest first.
type byDue struct {
	entries []entry
	seq     uint64
}

func (q *byDue) Len() int { return len(q.entries) }
func (q *byDue) Less(i, j int) bool {
	a, b := q.entries[i], q.entries[j]
	if a.due.Equal(b.due) {
		return a.seq < b.seq
	}
	return a.due.Before(b.due)
}
func (q *byDue) Swap(i, j int) { q.entries[i], q.entries[j] = q.entries[j], q.entries[i] }
func (q *byDue) Push(x any)    { q.entries = append(q.entries, x.(entry)) }
func (q *byDue) Pop() any {
	last := q.entries[len(q.entries)-1]
	q.entries = q.entries[:len(q.entries)-1]
	return last
}
