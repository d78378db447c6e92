package loadgen

import (
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// ledger is where one event loop adds up what it does. The loop writes tallies
// that nobody else sees, and publishes them at most ten times a second; the
// collector takes what is published, and gives the emptied tallies back.
//
//	loop ──> tallies ──publish──> published ──collect──> Window
//	            ^                                  │
//	            └───────────── spare <─────────────┘
type ledger struct {
	// Of the loop.
	tallies   map[int64]*tally
	last      *tally // the one used last
	stream    *stream
	samples   sampler
	fates     []finished // of everything that was resolved, where they are wanted
	keepFates bool
	keep      bool // samples
	spare     []*tally
	latest    time.Duration // the end of the last window noted
	passed    time.Duration // as published

	mu        sync.Mutex
	published published
	returned  []*tally
}

// published is what the collector has not seen yet.
type published struct {
	passed  time.Duration // nothing that is due before will be published any more
	tallies []*tally
	samples []finished
	fates   []finished
}

// tally counts what is noted of one window, of one step, until a Window is told of it.
type tally struct {
	key      windowKey
	count    count
	resolved int
	good     int
	failed   int
	dropped  int
	connects int
	resumed  int
	sent     int64 // bytes
	read     int64
	outcomes []outcomeCount // few are different

	okLatency, failedLatency, lag, service, firstByte, connect, handshake hdr.Counts
}

type outcomeCount struct {
	outcome outcome
	class   string
	n       int
}

// finish counts a fate; ok says that it is a good one.
func (t *tally) finish(f *finished, ok bool) {
	t.resolved++
	t.note(f.outcome, f.class)
	if f.lag >= 0 {
		t.lag.Record(f.lag)
	}
	for _, m := range f.made {
		t.made(m)
	}
	t.sent += int64(f.sent)
	t.read += int64(f.read)
	switch {
	case f.outcome == canceled:
	case ok:
		t.good++
		t.okLatency.Record(f.latency)
		t.service.Record(f.service)
		t.firstByte.Record(f.firstByte)
	default:
		t.failed++
		t.failedLatency.Record(f.latency)
		if f.outcome == dropped {
			t.dropped++
		}
	}
}

// made counts a connection.
func (t *tally) made(m made) {
	t.connects++
	t.connect.Record(m.connect)
	if m.handshake >= 0 {
		t.handshake.Record(m.handshake)
	}
	if m.resumed {
		t.resumed++
	}
}

func (t *tally) note(o outcome, class string) {
	for i := range t.outcomes {
		if t.outcomes[i].outcome == o && t.outcomes[i].class == class {
			t.outcomes[i].n++
			return
		}
	}
	t.outcomes = append(t.outcomes, outcomeCount{o, class, 1})
}

// moveTo adds the tally to a window, and empties it.
func (t *tally) moveTo(w *window) {
	w.DueCount += t.count.due
	w.Sent += t.count.sent
	w.Queued += t.count.queued
	w.Late += t.count.late
	w.due += t.count.due
	w.resolved += t.resolved
	w.OK += t.good
	w.Failed += t.failed
	w.Dropped += t.dropped
	w.Connects += t.connects
	w.Resumed += t.resumed
	w.BytesSent += t.sent
	w.BytesReceived += t.read
	for _, o := range t.outcomes {
		w.Outcomes[outcomeName(o.outcome, o.class)] += o.n
	}
	for _, h := range []struct {
		from *hdr.Counts
		to   *hdr.Histogram
	}{
		{&t.okLatency, w.OKLatency}, {&t.failedLatency, w.FailedLatency}, {&t.lag, w.Lag}, {&t.service, w.Service},
		{&t.firstByte, w.FirstByte}, {&t.connect, w.Connect}, {&t.handshake, w.Handshake},
	} {
		h.from.MoveTo(h.to)
	}
	t.count, t.resolved, t.good, t.failed, t.dropped, t.connects, t.resumed = count{}, 0, 0, 0, 0, 0, 0
	t.sent, t.read, t.outcomes = 0, 0, t.outcomes[:0]
}

func newLedger(c Config, s *stream) *ledger {
	l := &ledger{stream: s, tallies: map[int64]*tally{}, keepFates: c.OnResult != nil, keep: c.OnSample != nil}
	l.published.passed = c.From
	return l
}

// tally is the one of the window in which due lies.
func (l *ledger) tally(due time.Duration) *tally {
	w := windowOf(due)
	if l.last != nil && l.last.key.at == w {
		return l.last
	}
	t := l.tallies[w]
	if t == nil {
		if n := len(l.spare); n > 0 {
			t, l.spare = l.spare[n-1], l.spare[:n-1]
		} else {
			t = new(tally)
		}
		t.key = windowKey{at: w}
		l.tallies[w] = t
		l.latest = max(l.latest, time.Duration(w+1)*windowLength)
	}
	l.last = t
	return t
}

// finish notes a fate.
func (l *ledger) finish(f *finished) {
	ok := l.stream.ok(f)
	l.tally(f.due).finish(f, ok)
	if f.outcome == canceled {
		return
	}
	if l.keep {
		l.samples.see(f, ok)
	}
	if l.keepFates {
		l.fates = append(l.fates, *f)
	}
}

// settled tells that there is nothing to publish: not even that a window is over.
func (l *ledger) settled() bool { return len(l.tallies) == 0 && l.passed >= l.latest }

// publish hands over everything noted so far. Nothing that is due before passed
// will be noted later.
func (l *ledger) publish(passed time.Duration) {
	l.passed = passed
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.published
	p.passed = passed
	for _, t := range l.tallies {
		p.tallies = append(p.tallies, t)
	}
	clear(l.tallies)
	l.last = nil
	p.samples = append(append(p.samples, l.samples.slow...), l.samples.failed...)
	l.samples.slow, l.samples.failed = l.samples.slow[:0], l.samples.failed[:0]
	p.fates = append(p.fates, l.fates...)
	clear(l.fates) // their details
	l.fates = l.fates[:0]
	l.spare = append(l.spare, l.returned...)
	l.returned = l.returned[:0]
}

// collect adds what was published to the collector's windows.
func (l *ledger) collect(c *collector) (passed time.Duration) {
	l.mu.Lock()
	p := l.published
	l.published = published{passed: p.passed}
	l.mu.Unlock()
	for _, t := range p.tallies {
		t.moveTo(c.window(t.key))
	}
	for i := range p.samples {
		f := &p.samples[i]
		c.samples.see(f, l.stream.ok(f))
	}
	for i := range p.fates {
		c.config.OnResult(c.result(&p.fates[i]))
	}
	clear(p.fates)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.returned = append(l.returned, p.tallies...)
	if l.published.fates == nil {
		l.published.fates = p.fates[:0]
	}
	return p.passed
}
