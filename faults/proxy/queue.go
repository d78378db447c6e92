package proxy

import (
	"sync"
	"sync/atomic"
)

// queue is what a raw flow has received and not yet passed on, in chunks:
//
//	chunks   [ ..rrrrrrrr ][ wwwwwwwwwwww ][ wwww...... ]
//	            ^ the first byte to go          ^ the next byte received
//
// Every chunk is filled before the next is taken, so that small messages do not
// cost a chunk each, and goes back to the pool as soon as it is drained. The first
// is the flow's own, small when idle or in small talk; those behind it are claimed
// from the budget of the proxy. Its flow's goroutine owns it.
type queue struct {
	budget  *budget
	chunks  []chunk // [first:]; when no byte waits, at most one, which is empty
	first   int
	n       int   // bytes that wait
	claimed int64 // of the budget, for chunks and marks
	refused int64 // how much of it was claimed when a claim was refused last
	own     bool  // one of the chunks is not claimed
	full    bool  // the last read left no room
	quiet   int   // reads in a row that a small chunk would have held
}

type chunk struct {
	b       []byte // smallBuffer or largeBuffer long, or what a message's head needed
	r, w    int    // b[r:w] waits
	claimed int64  // 0: the flow's own
}

// room is where the next bytes go; nil: nowhere before some have gone. Only with
// grow are more chunks claimed than the flow's own.
func (q *queue) room(grow bool) []byte {
	if q.first == len(q.chunks) {
		return q.add()
	}
	last := &q.chunks[len(q.chunks)-1]
	switch {
	case q.n == 0 && (q.full && len(last.b) == smallBuffer || q.quiet >= 8 && len(last.b) > smallBuffer):
		q.drop()
		return q.add()
	case last.w < len(last.b):
		return last.b[last.w:]
	case q.first == len(q.chunks)-1 && last.r >= len(last.b)/2:
		last.r, last.w = 0, copy(last.b, last.b[last.r:last.w])
		return last.b[last.w:]
	case grow || !q.own:
		return q.add()
	}
	return nil
}

// more appends to what room returned, when bytes come in bulk, some chunks, so
// that they come in few pieces. Received must follow.
func (q *queue) more(to [][]byte) [][]byte {
	for q.full && q.quiet == 0 && len(to) < readChunks {
		p := q.add()
		if p == nil {
			break
		}
		to = append(to, p)
	}
	return to
}

const readChunks = 4

// add takes one more chunk.
func (q *queue) add() []byte {
	var c chunk
	if q.own {
		if c.claimed = largeBuffer; !q.claim(c.claimed) {
			return nil
		}
	}
	q.own = true
	switch {
	case q.n == 0 && !q.full:
		c.b = make([]byte, smallBuffer)
		q.quiet = 0
	default:
		c.b = largeBuffers.Get().(*[largeBuffer]byte)[:]
	}
	q.append(c)
	return c.b
}

func (q *queue) append(c chunk) {
	if q.first > len(q.chunks)/2 && len(q.chunks) == cap(q.chunks) {
		n := copy(q.chunks, q.chunks[q.first:])
		clear(q.chunks[n:])
		q.chunks, q.first = q.chunks[:n], 0
	}
	q.chunks = append(q.chunks, c)
}

// received counts n more bytes in the k slices that room and more returned, and
// gives back those that were not needed.
func (q *queue) received(n, k int) {
	tail := len(q.chunks) - k
	if n > 0 {
		q.full = n >= len(q.chunks[tail].b)-q.chunks[tail].w
		if n <= smallBuffer {
			q.quiet++
		} else {
			q.quiet = 0
		}
	}
	q.n += n
	for i := tail; n > 0; i++ {
		c := &q.chunks[i]
		m := min(n, len(c.b)-c.w)
		c.w += m
		n -= m
	}
	for last := len(q.chunks) - 1; last > tail && q.chunks[last].w == 0; last-- {
		q.free(&q.chunks[last])
		q.chunks = q.chunks[:last]
	}
}

// adopt takes over a buffer, of whose bytes b[r:w] wait, when none wait here, and
// what was claimed for it.
func (q *queue) adopt(b []byte, r, w int, claimed int64) {
	q.drop()
	q.append(chunk{b: b, r: r, w: w, claimed: claimed})
	q.n, q.claimed, q.own = w-r, q.claimed+claimed, claimed == 0
}

// front appends the slices that the next n bytes are.
func (q *queue) front(to [][]byte, n int) [][]byte {
	for i := q.first; n > 0; i++ {
		c := q.chunks[i]
		k := min(n, c.w-c.r)
		to = append(to, c.b[c.r:c.r+k])
		n -= k
	}
	return to
}

// passed lets go of the next n bytes.
func (q *queue) passed(n int) {
	q.n -= n
	for n > 0 {
		c := &q.chunks[q.first]
		k := min(n, c.w-c.r)
		c.r += k
		n -= k
		switch {
		case c.r < c.w:
		case q.first == len(q.chunks)-1 && len(c.b) <= largeBuffer: // it stays, as the flow's own
			c.r, c.w = 0, 0
		default:
			q.free(c)
			q.first++
		}
	}
	if q.n == 0 && q.first < len(q.chunks) {
		if c := &q.chunks[q.first]; c.claimed > 0 {
			q.give(c.claimed)
			c.claimed, q.own = 0, true
		}
	}
}

// free gives a chunk back.
func (q *queue) free(c *chunk) {
	if len(c.b) == largeBuffer {
		largeBuffers.Put((*[largeBuffer]byte)(c.b))
	}
	if c.claimed > 0 {
		q.give(c.claimed)
	} else {
		q.own = false
	}
	*c = chunk{}
}

// drop gives every chunk back, with what is in it.
func (q *queue) drop() {
	for i := q.first; i < len(q.chunks); i++ {
		q.free(&q.chunks[i])
	}
	q.chunks, q.first, q.n, q.own = q.chunks[:0], 0, 0, false
}

func (q *queue) claim(n int64) bool {
	ok, all := q.budget.claim(n, q.claimed)
	if !ok {
		q.refused = all
		return false
	}
	q.claimed += n
	return true
}

func (q *queue) give(n int64) {
	q.claimed -= n
	q.budget.give(n)
}

// budget bounds what the flows of a proxy hold back together, beyond each one's
// own chunk (and its first marks). Any goroutine may use it.
//
// None can take it all: a flow may have so many times what is still free, as
// buffers of switches are shared (Choudhury and Hahne, "Dynamic Queue Length
// Thresholds in a Shared Memory Packet Switch", 1998). One flow alone gets
//
//	most · share / (1 + share)
//
// and each of N as much as any other, after the bytes have drained of those that
// were there first; what is left is at once there for one that comes anew.
type budget struct {
	most    int64
	claimed atomic.Int64

	starving atomic.Bool // somebody waits
	mu       sync.Mutex
	waiting  map[*flow]struct{}
	wakeAt   int64 // they are nudged when so much, or less, is claimed
}

const (
	holdMost    = 256 << 20 // unless Config says otherwise
	budgetShare = 64
)

// claim takes n bytes for a flow that has so many. When it may not have them, all
// is how much was claimed then.
func (b *budget) claim(n, has int64) (ok bool, all int64) {
	for {
		all = b.claimed.Load()
		if free := b.most - all; free < n || has >= budgetShare*free {
			return false, all
		}
		if b.claimed.CompareAndSwap(all, all+n) {
			return true, all + n
		}
	}
}

func (b *budget) give(n int64) {
	if left := b.claimed.Add(-n); b.starving.Load() {
		b.wake(left)
	}
}

// await has a flow nudged when so much less is claimed than when its claim was
// refused that it is worth another try.
//
// Subtle: who waits says so first and looks at the budget second; who gives back
// does it the other way round. One of them sees the other.
func (b *budget) await(f *flow, refused int64) {
	b.mu.Lock()
	if b.waiting == nil {
		b.waiting = map[*flow]struct{}{}
	}
	b.waiting[f] = struct{}{}
	b.wakeAt = max(b.wakeAt, refused-b.most/budgetShare)
	b.starving.Store(true)
	b.mu.Unlock()
	b.wake(b.claimed.Load())
}

func (b *budget) wake(claimed int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if claimed > b.wakeAt {
		return
	}
	for f := range b.waiting {
		f.rev.Add(1)
		f.rouse()
	}
	b.calm()
}

// leave is for a flow that ends.
func (b *budget) leave(f *flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if delete(b.waiting, f); len(b.waiting) == 0 {
		b.calm()
	}
}

// calm: nobody waits. b.mu is held.
func (b *budget) calm() {
	clear(b.waiting)
	b.wakeAt = 0
	b.starving.Store(false)
}
