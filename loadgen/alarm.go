package loadgen

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// alarms wakes goroutines, each at a moment of its own, as exactly as its waiter can:
// users who think. Go's timers may be a millisecond late, and that would be counted as
// latency of the requests that are due then.
type alarms struct {
	wait waiter
	idle sync.Pool // of *alarm
	over sync.WaitGroup

	mu     sync.Mutex
	set    alarmHeap
	closed bool
}

type alarm struct {
	at   time.Time
	ring chan struct{} // holds one
}

func newAlarms(wait waiter) *alarms {
	a := &alarms{wait: wait}
	a.idle.New = func() any { return &alarm{ring: make(chan struct{}, 1)} }
	a.over.Go(a.run)
	return a
}

// until waits for t; false if ctx ended first.
func (a *alarms) until(ctx context.Context, t time.Time) bool {
	if time.Until(t) <= 0 {
		return ctx.Err() == nil
	}
	mine := a.idle.Get().(*alarm)
	mine.at = t
	a.mu.Lock()
	heap.Push(&a.set, mine)
	first := a.set[0] == mine
	a.mu.Unlock()
	if first {
		a.wait.wake()
	}
	select {
	case <-mine.ring:
		a.idle.Put(mine)
	case <-ctx.Done(): // it stays set, and rings for nobody
	}
	return ctx.Err() == nil
}

func (a *alarms) run() {
	for {
		now := time.Now()
		a.mu.Lock()
		for len(a.set) > 0 && !a.set[0].at.After(now) {
			heap.Pop(&a.set).(*alarm).ring <- struct{}{}
		}
		next, closed := now.Add(time.Hour), a.closed
		if len(a.set) > 0 {
			next = a.set[0].at
		}
		a.mu.Unlock()
		if closed {
			return
		}
		a.wait.until(next)
	}
}

// close ends it, when nobody waits any more.
func (a *alarms) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wait.wake()
	a.over.Wait()
	a.wait.close()
}

// alarmHeap has the next one first.
type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h alarmHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are container/heap's.
func (h *alarmHeap) Push(x any) { *h = append(*h, x.(*alarm)) }

func (h *alarmHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return x
}
