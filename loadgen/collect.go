package loadgen

import (
	"cmp"
	"maps"
	"slices"
	"strings"
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

	windows map[windowKey]*window
	tallies map[windowKey]*tally // of what the recorders had this time
	last    *tally               // the one used last
	spare   []*tally
	samples sampler
	counts  []count // memory for take
	fates   []finished
}

// windowKey is which 100 ms, and which step of a session; 0 without sessions, and
// wholeSession for what is said of sessions as such.
type windowKey struct {
	at   int64
	step int
}

const wholeSession = -1

// window is what is known of one window.
type window struct {
	Window
	due, resolved int // all in all; Window holds what has not been told
	told          time.Duration
	dirty         bool
}

func newCollector(c Config, s *stream) *collector {
	col := &collector{config: c, stream: s, windows: map[windowKey]*window{}, tallies: map[windowKey]*tally{}}
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
			c.tally(windowKey{n.window, n.step}).count.add(n)
		}
		for i := range c.fates {
			c.finish(&c.fates[i])
			c.fates[i].detail, c.fates[i].request, c.fates[i].class, c.fates[i].made = "", "", "", nil
		}
		if c.stream.session {
			for _, e := range r.takeEnded() {
				c.end(e)
			}
		}
	}
	for k, t := range c.tallies {
		t.moveTo(c.window(k))
		c.spare = append(c.spare, t)
	}
	clear(c.tallies)
	c.last = nil
	for _, l := range c.ledgers {
		passed = min(passed, l.collect(c))
	}
	now := time.Since(c.config.Start)
	for _, k := range slices.SortedFunc(maps.Keys(c.windows), func(a, b windowKey) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.step, b.step))
	}) {
		w := c.windows[k]
		complete := w.resolved == w.due && time.Duration(k.at+1)*windowLength <= passed
		if w.dirty && (last || complete || now-w.told >= patience) {
			c.tell(k, w, now)
		}
		if complete {
			delete(c.windows, k)
		}
	}
	c.samples.tell(now, last, c.tellSample)
}

// tally is the one of a window until they are added up.
func (c *collector) tally(k windowKey) *tally {
	if c.last != nil && c.last.key == k {
		return c.last
	}
	t := c.tallies[k]
	if t == nil {
		if n := len(c.spare); n > 0 {
			t, c.spare = c.spare[n-1], c.spare[:n-1]
		} else {
			t = new(tally)
		}
		t.key = k
		c.tallies[k] = t
	}
	c.last = t
	return t
}

func (c *collector) window(k windowKey) *window {
	w := c.windows[k]
	if w == nil {
		w = &window{told: max(time.Duration(k.at)*windowLength, c.config.From)}
		w.Window = c.empty(k)
		c.windows[k] = w
	}
	w.dirty = true
	return w
}

func (c *collector) empty(k windowKey) Window {
	w := Window{
		Load: c.config.Spec.Name, Due: time.Duration(k.at) * windowLength, Outcomes: map[string]int{},
		OKLatency: hdr.New(), FailedLatency: hdr.New(), Lag: hdr.New(), Service: hdr.New(), FirstByte: hdr.New(), Connect: hdr.New(), Handshake: hdr.New(),
	}
	switch {
	case !c.stream.session:
	case k.step == wholeSession:
		w.Sessions = &Sessions{Duration: hdr.New()}
	default:
		w.Step, w.Setup = c.stream.kinds[k.step].name, c.stream.isSetup(k.step)
	}
	return w
}

// end adds a session to the window in which it was due.
func (c *collector) end(e ended) {
	s := c.window(windowKey{windowOf(e.due), wholeSession}).Sessions
	switch e.how {
	case completed:
		s.Completed++
		s.Duration.Record(e.took)
	case failed:
		s.Failed++
	case cutOff:
		s.Cut++
	}
}

func (c *collector) finish(f *finished) {
	ok := c.stream.ok(f)
	c.tally(windowKey{windowOf(f.due), f.step}).finish(f, ok)
	if f.outcome == canceled {
		return
	}
	if c.config.OnSample != nil {
		c.samples.see(f, ok)
	}
	if c.config.OnResult != nil && !c.stream.isSetup(f.step) {
		c.config.OnResult(c.result(f))
	}
}

func (c *collector) tell(k windowKey, w *window, now time.Duration) {
	told := w.Window
	w.Window, w.told, w.dirty = c.empty(k), now, false
	if c.config.OnWindow != nil {
		c.config.OnWindow(told)
	}
}

func (c *collector) tellSample(f *finished) {
	method, path := c.describe(f)
	c.config.OnSample(Sample{
		Load: c.config.Spec.Name, Step: c.stream.kinds[f.step].name, Seq: f.seq, Due: f.due, Latency: f.latency, Outcome: f.name(),
		Request: strings.TrimSpace(method + " " + path), Detail: c.stream.redact.text(f.detail), TraceID: c.stream.traceID(f.seq, f.step),
	})
}

// describe is method and path of a request: as it was sent, if the path cannot be
// told from its number.
func (c *collector) describe(f *finished) (method, path string) {
	method, path, ok := strings.Cut(f.request, " ")
	if !ok {
		method, path = c.stream.describe(f.seq)
	}
	return method, c.stream.redact.text(path)
}

func (c *collector) result(f *finished) Result {
	method, path := c.describe(f)
	scheme := "http://"
	if c.config.TLS != nil {
		scheme = "https://"
	}
	r := Result{
		Load: c.config.Spec.Name, Step: c.stream.kinds[f.step].name, Seq: f.seq, Due: c.config.Start.Add(f.due), Latency: f.latency, Outcome: f.name(),
		Sent: f.sent, Received: f.received, Method: method, URL: scheme + c.config.Spec.To + path, Detail: c.stream.redact.text(f.detail),
		Status: f.status,
	}
	if sp := c.config.Spec.speech(); sp.talks {
		r.URL = string(sp.name) + "://" + c.config.Spec.To + "/" + escape(path)
	}
	switch {
	case f.outcome == answered:
		r.OK = true
	case f.outcome >= 100:
		r.Status, r.OK = int(f.outcome), c.stream.ok(f)
	}
	if f.outcome >= grpcOutcome && f.outcome != answered {
		r.Status = grpcNames[f.outcome-grpcOutcome].http
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
