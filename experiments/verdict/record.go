package verdict

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// step is the time resolution of the journal: load windows are this long, and
// edges are collected this often.
const step = 100 * time.Millisecond

// mostBins bounds what is laid out in memory for a phase: some eleven days.
const mostBins = 1e7

// clockBack is how far a line may lie before the one above it: lines are written
// in the order in which things became known, by one clock that does not go back.
const clockBack = time.Second

// record is the journal, sorted for judging.
type record struct {
	start    journal.Start
	end      *journal.End  // nil: the journal has no end
	last     time.Duration // of the last event
	complete bool          // the run came to its planned end

	streams  map[string]*stream
	edges    map[string][]edgeLine
	faults   map[string][]faultLine
	breakers map[string][]breakerLine
	probes   []journal.Probe
	services []serviceLine
	abort    *journal.Abort
	warnings []string

	wentBack  time.Duration // by how much the journal's clock did, at most; 0: it did not
	suspended time.Duration // how long the machine was, altogether
	silences  []silence

	learnt    map[string]learnt // by SLO
	collected []time.Duration   // when edges were collected, ascending, each once
}

// stream is one load stream: its slots by number, slot k being [k·100 ms, (k+1)·100 ms).
type stream struct {
	slots map[int64]*slot
	order []int64 // ascending

	of string // the stream, where this is one of its steps that an objective is about

	// Of sessions, over the whole run; nil sessions where there are none.
	steps, setup named
	sessions     *journal.Sessions

	// Over the whole run, in µs.
	durations *hdr.Histogram // of the completed sessions
	service   *hdr.Histogram // done − sent of the ok
	lag       *hdr.Histogram // sent − due where nothing was queued
	firstByte *hdr.Histogram // of the answer − sent of the ok
	connect   *hdr.Histogram // of each connection made
	handshake *hdr.Histogram // and of TLS after that

	connects, resumed        int
	bytesSent, bytesReceived int64
}

func newStream(of string) *stream {
	return &stream{
		of: of, slots: map[int64]*slot{}, durations: hdr.New(), service: hdr.New(), lag: hdr.New(),
		firstByte: hdr.New(), connect: hdr.New(), handshake: hdr.New(),
	}
}

// slot is number k, which is there from now on.
func (st *stream) slot(k int64) *slot {
	s := st.slots[k]
	if s == nil {
		s = newSlot()
		st.slots[k] = s
		st.order = append(st.order, k)
	}
	return s
}

// named is slots by the name of a step, in the order in which they appeared.
type named struct {
	slots map[string]*slot
	names []string
}

func (n *named) slot(name string) *slot {
	s := n.slots[name]
	if s == nil {
		if n.slots == nil {
			n.slots = map[string]*slot{}
		}
		s = newSlot()
		n.slots[name] = s
		n.names = append(n.names, name)
	}
	return s
}

// sums are the steps' numbers.
func (n *named) sums() []LoadResult {
	var all []LoadResult
	for _, name := range n.names {
		all = append(all, sum(name, n.slots[name]))
	}
	return all
}

// slot adds up all that became known of the requests due in 100 ms.
type slot struct {
	due, sent, ok, failed, queued, dropped, late int

	canceled   int // cut off when the run was; in no share
	unanswered int // due, and nothing was heard of them: failed
	answered   int // failed ones that did get an answer (a status)
	outcomes   map[string]int

	okLatency, failedLatency []bucket
}

func newSlot() *slot { return &slot{outcomes: map[string]int{}} }

// bucket is one of a histogram's, widths of 0.1 % at most.
type bucket struct {
	low, high time.Duration
	n         int
}

type (
	edgeLine struct {
		at, since time.Duration // what happened in (since, at]
		journal.Edge
	}
	faultLine struct {
		at time.Duration
		journal.Fault
	}
	breakerLine struct {
		at     time.Duration
		state  string
		source string
	}
	serviceLine struct {
		at time.Duration
		journal.Service
	}
)

// finished counts the requests that are in the shares.
func (s *slot) finished() int { return s.ok + s.failed + s.unanswered }

// within counts the good ones that took no longer than limit. A request in the
// limit's own bucket (0.1 % wide) counts as good.
func (s *slot) within(limit time.Duration) int {
	var n int
	for _, b := range s.okLatency {
		if b.low <= limit {
			n += b.n
		}
	}
	return min(n, s.ok)
}

// collect sorts the events. It believes nothing: a histogram that does not decode is a
// warning, and the requests in it count as slow.
func collect(h Hypotheses, events []journal.Event) *record {
	r := &record{
		streams:  map[string]*stream{},
		edges:    map[string][]edgeLine{},
		faults:   map[string][]faultLine{},
		breakers: map[string][]breakerLine{},
		learnt:   map[string]learnt{},
	}
	for i, e := range events {
		if back := r.last - e.At; back > clockBack {
			if r.wentBack == 0 { // once is enough to say
				r.warn("the journal's clock went back by %s, from %s: times around it, and what is judged by them, are not to be trusted", seconds(back), seconds(r.last))
			}
			r.wentBack = max(r.wentBack, back)
		}
		if e.At-r.last >= longSilence && i > 0 {
			r.silences = append(r.silences, silence{r.last, e.At})
		}
		r.last = max(r.last, e.At)
		switch {
		case e.Start != nil && i == 0:
			r.start = *e.Start
		case e.Window != nil:
			r.addWindow(h, e.Window)
			r.learn(h, e.At, e.Window)
		case e.Edge != nil:
			r.edges[e.Edge.Edge] = append(r.edges[e.Edge.Edge], edgeLine{at: e.At, Edge: *e.Edge})
			r.collected = append(r.collected, e.At)
		case e.Fault != nil:
			r.faults[e.Fault.Name] = append(r.faults[e.Fault.Name], faultLine{e.At, *e.Fault})
		case e.Breaker != nil:
			r.breakers[e.Breaker.Edge] = append(r.breakers[e.Breaker.Edge], breakerLine{e.At, e.Breaker.State, e.Breaker.Source})
		case e.Probe != nil:
			r.probes = append(r.probes, *e.Probe)
		case e.Service != nil:
			r.services = append(r.services, serviceLine{e.At, *e.Service})
			r.serviceWarning(e.At, e.Service)
		case e.Abort != nil:
			r.abort = e.Abort
		case e.Mark != nil && e.Mark.Warning:
			r.suspended += e.Mark.SuspendedS.Duration()
			r.warn("%s", e.Mark.Text)
		case e.End != nil:
			r.end = e.End
		}
	}
	r.complete = r.end != nil && r.end.Status == "completed"
	r.settleSlots(h)
	r.placeEdges()
	return r
}

func (r *record) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.warnings, text) {
		r.warnings = append(r.warnings, text)
	}
}

func (r *record) addWindow(h Hypotheses, w *journal.Window) {
	st := r.streams[w.Load]
	if st == nil {
		st = newStream(w.Load)
		r.streams[w.Load] = st
	}
	ok, failed := r.decode(w.OKLatency, w.Load), r.decode(w.FailedLatency, w.Load)
	// Connections are the stream's, whatever they were first made for.
	r.merge(st.connect, w.Connect, w.Load)
	r.merge(st.handshake, w.Handshake, w.Load)
	st.connects += w.Connects
	st.resumed += w.Resumed
	if w.Setup {
		st.setup.slot(w.Step).add(w, ok, failed)
		return
	}
	// A due time is a multiple of 100 ms, give or take rounding to the microsecond.
	k := int64(math.Floor(float64(w.DueS.Duration()+time.Millisecond) / float64(step)))
	st.slot(k).add(w, ok, failed)
	if w.Step != "" {
		st.steps.slot(w.Step).add(w, ok, failed)
		r.addClaimed(h, k, w, ok, failed)
	}
	for _, x := range []struct {
		to      *hdr.Histogram
		encoded string
	}{{st.service, w.Service}, {st.lag, w.Lag}, {st.firstByte, w.FirstByte}} {
		r.merge(x.to, x.encoded, w.Load)
	}
	st.bytesSent += w.BytesSent
	st.bytesReceived += w.BytesReceived
	if w.Sessions != nil {
		if st.sessions == nil {
			st.sessions = new(journal.Sessions)
		}
		st.sessions.Completed += w.Sessions.Completed
		st.sessions.Failed += w.Sessions.Failed
		st.sessions.Cut += w.Sessions.Cut
		r.merge(st.durations, w.Sessions.Duration, w.Load)
	}
}

// addClaimed keeps the slots of a step apart, where an objective is about it.
func (r *record) addClaimed(h Hypotheses, k int64, w *journal.Window, ok, failed []bucket) {
	for _, o := range h.Objectives {
		if o.Step == "" || !o.about(w) {
			continue
		}
		st := r.streams[o.Of()]
		if st == nil {
			st = newStream(o.Load)
			r.streams[o.Of()] = st
		}
		st.slot(k).add(w, ok, failed)
		return // others may be about the same step
	}
}

// add takes a window, with its latencies.
func (s *slot) add(w *journal.Window, ok, failed []bucket) {
	s.due += w.Due
	s.sent += w.Sent
	s.ok += w.OK
	s.failed += w.Failed
	s.queued += w.Queued
	s.dropped += w.Dropped
	s.late += w.Late
	for name, n := range w.Outcomes {
		s.outcomes[name] += n
	}
	s.okLatency = append(s.okLatency, ok...)
	s.failedLatency = append(s.failedLatency, failed...)
}

// merge adds a histogram of the journal to one over the whole run.
func (r *record) merge(to *hdr.Histogram, encoded, whose string) {
	if encoded == "" {
		return
	}
	h, err := hdr.Decode(encoded)
	if err != nil {
		r.warn("%s: a histogram in the journal cannot be read: %v", whose, err)
		return
	}
	to.Merge(h)
}

// decode reads a histogram's buckets.
func (r *record) decode(encoded, whose string) []bucket {
	if encoded == "" {
		return nil
	}
	h, err := hdr.Decode(encoded)
	if err != nil {
		r.warn("%s: a histogram in the journal cannot be read, its requests count as slow: %v", whose, err)
		return nil
	}
	return bucketsOf(h)
}

func bucketsOf(h *hdr.Histogram) []bucket {
	var all []bucket
	h.Each(func(low, high time.Duration, n int64) {
		all = append(all, bucket{low, high, int(min(n, math.MaxInt32))})
	})
	return all
}

// settleSlots decides what became of requests of which the journal says nothing.
//
// In a run that came to its end everything was waited for: who is missing has
// failed. In one that was cut off, a request that was due longer ago than its
// timeout has failed too; of a younger one nothing is known, and it is in no share.
func (r *record) settleSlots(h Hypotheses) {
	for _, st := range r.streams {
		slices.Sort(st.order)
		timeout := 10 * time.Second
		for _, l := range h.Loads {
			if l.Name == st.of && l.Timeout > 0 {
				timeout = l.Timeout
			}
		}
		for k, s := range st.slots {
			var total int
			for outcome, n := range s.outcomes {
				total += n
				if isStatus(outcome) {
					s.answered += n
				}
			}
			s.canceled = s.outcomes["canceled"]
			if counted := s.ok + s.failed + s.canceled - total; total > 0 && counted > 0 {
				// Those cut off are among the failed as the stream counted them.
				s.failed = max(0, s.failed-min(s.canceled, counted))
			}
			s.answered = max(0, s.answered-s.ok)
			missing := max(0, s.due-s.ok-s.failed-s.canceled)
			known := time.Duration(k+1)*step+timeout <= r.last
			if missing > 0 && (r.complete || known) {
				s.unanswered = missing
			}
		}
	}
}

// isStatus tells whether an outcome means an answer: a status, that of gRPC by its
// name (UNAVAILABLE), or what was looked for in an answer and was not there.
func isStatus(outcome string) bool {
	switch outcome {
	case "check", "capture", "redirect":
		return true
	}
	if outcome != "" && strings.Trim(outcome, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == "" {
		return true
	}
	n, err := strconv.Atoi(outcome)
	return err == nil && n >= 100 && n <= 999
}

// placeEdges finds out which time each edge line speaks of. Every edge is
// collected in the same tick and says nothing when nothing happened, so a line
// covers the time since the tick before, whichever edge told of that one. A gap
// of more than a second without any line is silence, not a late collector.
func (r *record) placeEdges() {
	slices.Sort(r.collected)
	var ticks []time.Duration
	for _, at := range r.collected {
		// Lines of one tick are written one after the other, within milliseconds.
		if len(ticks) == 0 || at-ticks[len(ticks)-1] > step/4 {
			ticks = append(ticks, at)
		}
	}
	r.collected = ticks
	for _, lines := range r.edges {
		slices.SortStableFunc(lines, func(a, b edgeLine) int { return int(a.at - b.at) })
		for i := range lines {
			at := lines[i].at
			own, _ := slices.BinarySearch(ticks, at-step/4)
			since := at - step
			if own > 0 && at-ticks[own-1] <= time.Second {
				since = ticks[own-1]
			}
			lines[i].since = min(since, at-time.Millisecond)
		}
	}
}

func (r *record) serviceWarning(at time.Duration, s *journal.Service) {
	if s.State != "died" || s.Expected {
		return
	}
	text := fmt.Sprintf("service %q died at %s, and no fault asked for it", s.Name, seconds(at))
	if s.Detail != "" {
		text += " (" + s.Detail + ")"
	}
	if n := len(s.Log); n > 0 {
		text += "; its last words: " + s.Log[n-1]
	}
	r.warn("%s", text)
}

// between lists the slots of a stream that begin in [from, to), one window for
// each 100 ms, empty ones included. good says how many of a slot's requests are good.
func (r *record) between(load string, from, to time.Duration, good func(*slot) int) []window {
	first, last := slotOf(from), slotOf(to)
	if last <= first || last-first > mostBins {
		return nil
	}
	ws := make([]window, last-first)
	st := r.streams[load]
	if st == nil {
		return ws
	}
	for _, k := range st.order {
		if k >= first && k < last {
			s := st.slots[k]
			n := s.finished()
			ws[k-first] = window{n: n, good: min(good(s), n)}
		}
	}
	return ws
}

// shortestRegime is the shortest stay of a fault that is told apart, in windows:
// what is shorter is an inexact boundary.
const shortestRegime = 3

// markRegimes numbers, per window from `from` on, which set of faults was there, by kind and
// target: killing one service three times is one regime, not three. A fault is
// there from its injection to the end of its revert, when a killed service is
// ready again.
func (r *record) markRegimes(h Hypotheses, ws []window, from time.Duration) {
	if h.Sham {
		return
	}
	there := make([]string, len(ws))
	for _, f := range h.Faults {
		var start, end time.Duration = -1, r.last
		for _, line := range r.faults[f.Name] {
			switch {
			case start < 0:
				start = line.at
			case line.State == "reverted":
				end = line.at
			}
		}
		if start < 0 {
			continue
		}
		first := slotOf(from)
		for k := max(0, slotOf(start)-first); k < min(int64(len(ws)), slotOf(end)-first); k++ {
			there[k] += f.Kind + " " + f.Target + "\n"
		}
	}
	for k := 0; k < len(there); {
		to := k
		for to < len(there) && there[to] == there[k] {
			to++
		}
		if to-k < shortestRegime {
			for i := k; i < to; i++ {
				switch {
				case k > 0:
					there[i] = there[k-1]
				case to < len(there):
					there[i] = there[to]
				}
			}
		}
		k = to
	}
	number := map[string]int{}
	for k, name := range there {
		if _, known := number[name]; !known {
			number[name] = len(number)
		}
		ws[k].regime = number[name]
	}
}

// slotOf is the number of the first slot that begins at t or later.
func slotOf(t time.Duration) int64 {
	return int64(math.Ceil(float64(t-time.Microsecond) / float64(step)))
}

// quantile is the latency that the share q of a stream's requests, due in slots
// [from, to), did not exceed, failed ones counting as endless. It is nil when
// there are none, or when it falls among the failed.
func (r *record) quantile(load string, from, to time.Duration, q float64) *float64 {
	st := r.streams[load]
	if st == nil {
		return nil
	}
	var buckets []bucket
	var n int
	first, last := slotOf(from), slotOf(to)
	for _, k := range st.order {
		if k >= first && k < last {
			n += st.slots[k].finished()
			buckets = append(buckets, st.slots[k].okLatency...)
		}
	}
	return rank(buckets, n, q)
}

// rank is the latency (the upper edge of its bucket) of the request number ⌈q·n⌉,
// counted from the fastest, in seconds; nil when the buckets do not reach that far.
func rank(buckets []bucket, n int, q float64) *float64 {
	if n == 0 {
		return nil
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return int(a.high - b.high) })
	left := min(max(int(math.Ceil(q*float64(n)-1e-9)), 1), n)
	for _, b := range buckets {
		if left -= b.n; left <= 0 {
			return ptr(sec(b.high))
		}
	}
	return nil
}
