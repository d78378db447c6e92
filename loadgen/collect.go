package loadgen

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// patience is how long something known about an incomplete window may wait to
// be told.
const patience = time.Second

// collector adds up what the recorders note, and tells it in windows.
type collector struct {
	config Config
	stream *stream

	mu        sync.Mutex
	recorders []*recorder

	// passed is an offset (ns) before which nothing will fall due any more.
	passed atomic.Int64

	ledgers []*ledger // of the fast engine's event loops

	windows map[int64]*window
	samples sampler
	counts  []count // memory for take
	fates   []finished
}

// window is what is known of one window.
type window struct {
	Window
	due, resolved int // all in all; Window holds what has not been told
	told          time.Duration
	dirty         bool
}

func newCollector(c Config, s *stream) *collector {
	col := &collector{config: c, stream: s, windows: map[int64]*window{}}
	col.passed.Store(int64(c.From))
	return col
}

// recorder is a new one for a goroutine that sends. It is emptied until the run
// is over.
func (c *collector) recorder() *recorder {
	r := new(recorder)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recorders = append(c.recorders, r)
	return r
}

// run collects until stop is closed, and then everything that is left.
func (c *collector) run(stop <-chan struct{}) {
	tick := time.NewTicker(windowLength)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.collect(false)
		case <-stop:
			c.collect(true)
			return
		}
	}
}

func (c *collector) collect(last bool) {
	// In this order: passed first, so that nothing due before it is missed below.
	// The recorders in reverse: those of senders before that of the scheduler,
	// which is the first, so that no request is seen to finish before it is due.
	passed := time.Duration(c.passed.Load())
	c.mu.Lock()
	recorders := slices.Clone(c.recorders)
	c.mu.Unlock()
	for _, r := range slices.Backward(recorders) {
		c.counts, c.fates = r.take(c.counts, c.fates)
		for _, n := range c.counts {
			c.count(n)
		}
		for i := range c.fates {
			c.finish(&c.fates[i])
			c.fates[i].detail = ""
		}
	}
	for _, l := range c.ledgers {
		passed = min(passed, l.collect(c))
	}
	now := time.Since(c.config.Start)
	for _, i := range slices.Sorted(maps.Keys(c.windows)) {
		w := c.windows[i]
		complete := w.resolved == w.due && time.Duration(i+1)*windowLength <= passed
		if w.dirty && (last || complete || now-w.told >= patience) {
			c.tell(w, now)
		}
		if complete {
			delete(c.windows, i)
		}
	}
	c.samples.tell(now, last, c.tellSample)
}

func (c *collector) window(i int64) *window {
	w := c.windows[i]
	if w == nil {
		w = &window{told: max(time.Duration(i)*windowLength, c.config.From)}
		w.Window = c.empty(i)
		c.windows[i] = w
	}
	w.dirty = true
	return w
}

func (c *collector) empty(i int64) Window {
	return Window{
		Load: c.config.Spec.Name, Due: time.Duration(i) * windowLength, Outcomes: map[string]int{},
		OKLatency: hdr.New(), FailedLatency: hdr.New(), Lag: hdr.New(), Service: hdr.New(), FirstByte: hdr.New(), Connect: hdr.New(),
	}
}

func (c *collector) count(n count) {
	w := c.window(n.window)
	w.DueCount += n.due
	w.Sent += n.sent
	w.Queued += n.queued
	w.Late += n.late
	w.due += n.due
}

func (c *collector) finish(f *finished) {
	w := c.window(windowOf(f.due))
	w.resolved++
	w.Outcomes[f.outcome.String()]++
	if f.lag >= 0 {
		w.Lag.Record(f.lag)
	}
	if f.connect >= 0 {
		w.Connects++
		w.Connect.Record(f.connect)
	}
	w.BytesSent += int64(f.sent)
	w.BytesReceived += int64(f.read)
	ok := f.outcome >= 100 && c.config.Spec.isOK(int(f.outcome))
	switch {
	case f.outcome == canceled:
		return
	case ok:
		w.OK++
		w.OKLatency.Record(f.latency)
		w.Service.Record(f.service)
		w.FirstByte.Record(f.firstByte)
	default:
		w.Failed++
		w.FailedLatency.Record(f.latency)
		if f.outcome == dropped {
			w.Dropped++
		}
	}
	if c.config.OnSample != nil {
		c.samples.see(f, ok)
	}
	if c.config.OnResult != nil {
		c.config.OnResult(c.result(f))
	}
}

func (c *collector) tell(w *window, now time.Duration) {
	told := w.Window
	w.Window, w.told, w.dirty = c.empty(windowOf(told.Due)), now, false
	if c.config.OnWindow != nil {
		c.config.OnWindow(told)
	}
}

func (c *collector) tellSample(f *finished) {
	method, path := c.stream.describe(f.seq)
	c.config.OnSample(Sample{
		Load: c.config.Spec.Name, Seq: f.seq, Due: f.due, Latency: f.latency, Outcome: f.outcome.String(),
		Request: method + " " + path, Detail: f.detail, TraceID: c.stream.traceID(f.seq),
	})
}

func (c *collector) result(f *finished) Result {
	method, path := c.stream.describe(f.seq)
	r := Result{
		Load: c.config.Spec.Name, Seq: f.seq, Due: c.config.Start.Add(f.due), Latency: f.latency, Outcome: f.outcome.String(),
		Sent: f.sent, Received: f.received, Method: method, URL: "http://" + c.config.Spec.To + path, Detail: f.detail,
	}
	if f.outcome >= 100 {
		r.Status = int(f.outcome)
		r.OK = c.config.Spec.isOK(r.Status)
	}
	return r
}

// sampler keeps, of each second, the slowest and some of the failed requests.
type sampler struct {
	since  time.Duration
	slow   []finished // by latency, the slowest first
	failed []finished
}

const samplesPerSecond = 5 // slow, and as many failed

func (s *sampler) see(f *finished, ok bool) {
	if ok {
		if len(s.slow) == samplesPerSecond && f.latency <= s.slow[samplesPerSecond-1].latency {
			return
		}
		at, _ := slices.BinarySearchFunc(s.slow, f.latency, func(k finished, l time.Duration) int { return int(l - k.latency) })
		if at < samplesPerSecond {
			s.slow = slices.Insert(s.slow, at, *f)
			s.slow = s.slow[:min(len(s.slow), samplesPerSecond)]
		}
		return
	}
	if len(s.failed) < samplesPerSecond {
		s.failed = append(s.failed, *f)
		return
	}
	// An outcome not seen yet takes the place of one that is there twice.
	seen := map[outcome]bool{}
	twice := -1
	for i, k := range s.failed {
		if k.outcome == f.outcome {
			return
		}
		if seen[k.outcome] {
			twice = i
		}
		seen[k.outcome] = true
	}
	if twice >= 0 {
		s.failed[twice] = *f
	}
}

func (s *sampler) tell(now time.Duration, last bool, tell func(*finished)) {
	if !last && now-s.since < time.Second {
		return
	}
	for _, some := range [][]finished{s.failed, s.slow} {
		for i := range some {
			tell(&some[i])
		}
	}
	s.since, s.slow, s.failed = now, s.slow[:0], s.failed[:0]
}
