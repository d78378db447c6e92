package loadgen

import (
	"math"
	"time"
)

// never is later than anything.
const never = time.Duration(math.MaxInt64)

// queue holds the requests that are due and have no connection, first come,
// first served. As requests with different timeouts expire in another order than
// they came, there is one line per timeout; in each the first expires first.
type queue struct {
	stream *stream
	lines  []line
	size   int
}

// line is a first-in-first-out list.
type line struct {
	jobs []job
	head int
}

func newQueue(s *stream) queue { return queue{stream: s, lines: make([]line, len(s.timeouts))} }

func (q *queue) push(j job) {
	l := &q.lines[q.stream.kind(j.seq).timeout]
	l.jobs = append(l.jobs, j)
	q.size++
}

// pop takes the job that has waited longest.
func (q *queue) pop() (job, bool) {
	first := -1
	for i, l := range q.lines {
		if l.head < len(l.jobs) && (first < 0 || l.jobs[l.head].seq < q.lines[first].jobs[q.lines[first].head].seq) {
			first = i
		}
	}
	if first < 0 {
		return job{}, false
	}
	return q.take(first), true
}

// popExpired takes a job whose timeout has passed at now.
func (q *queue) popExpired(now time.Duration) (job, bool) {
	for i, l := range q.lines {
		if l.head < len(l.jobs) && l.jobs[l.head].due+q.stream.timeouts[i] <= now {
			return q.take(i), true
		}
	}
	return job{}, false
}

// expiry is when popExpired will next find one.
func (q *queue) expiry() time.Duration {
	next := never
	for i, l := range q.lines {
		if l.head < len(l.jobs) {
			next = min(next, l.jobs[l.head].due+q.stream.timeouts[i])
		}
	}
	return next
}

func (q *queue) take(i int) job {
	l := &q.lines[i]
	j := l.jobs[l.head]
	l.head++
	q.size--
	switch {
	case l.head == len(l.jobs):
		l.jobs, l.head = l.jobs[:0], 0
	case l.head > 1024 && l.head > len(l.jobs)/2:
		l.jobs, l.head = l.jobs[:copy(l.jobs, l.jobs[l.head:])], 0
	}
	return j
}
