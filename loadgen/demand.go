package loadgen

import (
	"sync/atomic"
	"time"
)

// demand says when requests are due, to one event loop. It belongs to that loop's
// goroutine; times are offsets of the run's clock.
type demand interface {
	// next is when the next request is due; never where that is not known yet, or
	// there will be none.
	next() time.Duration
	// take is a request that is due at now, the one due first.
	take(now time.Duration) (job, bool)
	// done tells that a request taken has met its fate.
	done(j job, o outcome, now time.Duration)
	// passed is a time before which nothing will be due that was not taken.
	passed(now time.Duration) time.Duration
}

// arrivals is the demand of an open stream: of its requests the ones whose number
// is shard modulo of. All shards together have each once.
type arrivals struct {
	schedule    func() (due time.Duration, ok bool)
	from, until time.Duration
	shard, of   uint64

	seq uint64 // of the next
	due time.Duration
}

func newArrivals(c Config, shard, of int) *arrivals {
	a := &arrivals{schedule: schedule(c), from: c.From, until: c.Until, shard: uint64(shard), of: uint64(of)}
	for range shard {
		a.skip()
	}
	a.advance()
	return a
}

func (a *arrivals) skip() {
	due, ok := a.schedule()
	due += a.from
	if !ok || due >= a.until {
		due = never
	}
	a.due = due
}

func (a *arrivals) advance() {
	if a.due != never {
		a.skip()
	}
}

func (a *arrivals) next() time.Duration { return a.due }

func (a *arrivals) take(now time.Duration) (job, bool) {
	if a.due > now {
		return job{}, false
	}
	j := job{seq: a.seq*a.of + a.shard, due: a.due}
	a.seq++
	for range a.of {
		a.advance()
	}
	return j, true
}

func (a *arrivals) done(job, outcome, time.Duration) {}

func (a *arrivals) passed(time.Duration) time.Duration { return a.due }

// users is the demand of a closed stream: of its users the ones whose number is
// shard modulo of. They ask, wait for the answer, think, and ask again; their
// first requests are spread over one think time.
type users struct {
	think, until time.Duration
	seq          *atomic.Uint64 // of the next request, shared by the stream's shards
	limit        uint64         // how many requests there are for all shards; 0: no limit

	ready    []thinker // due at once, first come first served from head on
	head     int
	thinking []thinker // a heap by due
}

// thinker is a user who will ask at due.
type thinker struct {
	due  time.Duration
	user int32 // among those of its shard, from 0
}

func newUsers(c Config, seq *atomic.Uint64, shard, of int) *users {
	u := &users{think: c.Spec.Think, until: c.Until, seq: seq, limit: c.Requests}
	n := c.Spec.users()
	for i := shard; i < n; i += of {
		u.add(thinker{c.From + firstDue(c.Spec, i), int32(i / of)})
	}
	return u
}

// firstDue is when user number i of a closed stream first asks, since the
// stream's beginning.
func firstDue(s Spec, i int) time.Duration {
	return s.Think * time.Duration(i) / time.Duration(s.users())
}

func (u *users) add(t thinker) {
	if t.due >= u.until {
		return
	}
	u.thinking = append(u.thinking, t)
	i := len(u.thinking) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if u.thinking[parent].due <= t.due {
			break
		}
		u.thinking[i] = u.thinking[parent]
		i = parent
	}
	u.thinking[i] = t
}

// pop takes the first of the heap.
func (u *users) pop() thinker {
	h := u.thinking
	first, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	u.thinking = h
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].due < h[child].due {
			child++
		}
		if h[child].due >= last.due {
			break
		}
		h[i] = h[child]
		i = child
	}
	if len(h) > 0 {
		h[i] = last
	}
	return first
}

func (u *users) next() time.Duration {
	next := never
	if u.head < len(u.ready) {
		next = u.ready[u.head].due
	}
	if len(u.thinking) > 0 {
		next = min(next, u.thinking[0].due)
	}
	return next
}

func (u *users) take(now time.Duration) (job, bool) {
	due := u.next()
	if due > now {
		return job{}, false
	}
	var t thinker
	if u.head < len(u.ready) && u.ready[u.head].due == due {
		t = u.ready[u.head]
		switch u.head++; {
		case u.head == len(u.ready):
			u.ready, u.head = u.ready[:0], 0
		case u.head > 1024 && u.head > len(u.ready)/2:
			u.ready, u.head = u.ready[:copy(u.ready, u.ready[u.head:])], 0
		}
	} else {
		t = u.pop()
	}
	seq := u.seq.Add(1) - 1
	if u.limit > 0 && seq >= u.limit { // nobody asks again
		u.until, u.ready, u.head, u.thinking = 0, nil, 0, nil
		return job{}, false
	}
	return job{seq: seq, due: due, user: t.user}, true
}

func (u *users) done(j job, o outcome, now time.Duration) {
	t := thinker{now + u.think, j.user}
	if o.unmade() {
		t.due = max(t.due, now+breath)
	}
	if t.due > now {
		u.add(t)
	} else if t.due < u.until {
		u.ready = append(u.ready, t)
	}
}

func (u *users) passed(now time.Duration) time.Duration {
	// Whoever is waiting for an answer will ask later than now.
	return min(now, u.next())
}
