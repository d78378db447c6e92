package loadgen

import (
	"sync"
	"time"
)

// windowLength is the span of due times that one Window covers.
const windowLength = 100 * time.Millisecond

// recorder is where one goroutine notes what it does; the collector empties all
// recorders ten times a second. Its lock is as good as never contended, and
// nothing is shared between the goroutines that send.
type recorder struct {
	mu       sync.Mutex
	counts   []count
	finished []finished
	ended    []ended
}

// count adds to the window it names.
type count struct {
	window                  int64
	step                    int
	due, sent, queued, late int
}

// finished is a request whose fate is known.
type finished struct {
	seq       uint64
	due       time.Duration // since the run's start
	latency   time.Duration
	lag       time.Duration // sent − due; unknown if it was queued or never sent
	service   time.Duration // done − sent; unknown if never sent
	firstByte time.Duration // of the answer, since sent; unknown if there was none
	made      []made        // connections, for it; of event loops the ledger is told of them at once
	outcome   outcome
	sent      int // bytes of the request
	received  int // bytes of the answer's body
	read      int // bytes of the answer, head and all
	detail    string
	class     string // of an outcome replied

	// Of streams that are not plain.
	step    int
	wanted  bool   // the status is what a check asks for
	status  int    // of an answer that failed for another reason
	request string // "POST /checkout"
}

// made is a connection that was made. A request may have several made for it: where
// it is sent again, or a redirect is followed.
type made struct {
	connect   time.Duration // how long that took,
	handshake time.Duration // and then TLS; unknown without
	resumed   bool          // the TLS session is an earlier connection's
}

// name is what a result calls its outcome: "200", "timeout", "error 23505".
func (f *finished) name() string { return outcomeName(f.outcome, f.class) }

func outcomeName(o outcome, class string) string {
	if class != "" {
		return o.String() + " " + class
	}
	return o.String()
}

// unknown stands for a duration that there is not.
const unknown = time.Duration(-1)

func windowOf(due time.Duration) int64 { return int64(due / windowLength) }

// note adds to the counts of the window in which due lies; step is that of a
// session, or 0.
func (r *recorder) note(due time.Duration, step int, c count) {
	c.window, c.step = windowOf(due), step
	r.mu.Lock()
	defer r.mu.Unlock()
	// Requests come nearly in order of due time: the last entry usually fits.
	if n := len(r.counts); n > 0 && r.counts[n-1].window == c.window && r.counts[n-1].step == c.step {
		r.counts[n-1].add(c)
		return
	}
	r.counts = append(r.counts, c)
}

func (c *count) add(o count) {
	c.due += o.due
	c.sent += o.sent
	c.queued += o.queued
	c.late += o.late
}

func (r *recorder) finish(f finished) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished = append(r.finished, f)
}

// end notes a session.
func (r *recorder) end(e ended) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, e)
}

// takeEnded empties the recorder of sessions.
func (r *recorder) takeEnded() []ended {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.ended
	r.ended = nil
	return e
}

// take empties the recorder into the given slices, whose memory it goes on with.
func (r *recorder) take(counts []count, fates []finished) ([]count, []finished) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, f := r.counts, r.finished
	r.counts, r.finished = counts[:0], fates[:0]
	return c, f
}
