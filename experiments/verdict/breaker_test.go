package verdict

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// shop is a simulated caller with a breaker on one edge, and what a journal
// would hold of it. Times are seconds.
type shop struct {
	rate     float64 // requests per second into the caller
	even     bool    // arrivals at equal distances, else Poisson
	pays     float64 // share of requests that call on
	faultAt  float64
	faultTo  float64
	end      float64
	hit      float64 // share of calls that the fault hits
	timeout  float64 // of a hit call: that is when it fails
	slow     float64 // healthy call, mean
	work     float64 // caller's own work before it calls, mean
	breaker  bool
	open     float64 // how long it stays open
	failures int     // consecutive ones that open it
	probes   int     // admitted when half-open, all must succeed
	retries  int     // tries beyond the first
	drain    float64 // calls per second of queued work after it has closed, until done
	stalls   int     // times at which the machine stands still for up to 0.6 s
	viaLoad  bool    // the caller is the entry: seen by a load stream, not by an edge
	blind    bool    // leave the latencies of edges out (encoding them takes most of the time)
	flaky    float64 // share of calls that fail at any time

	// A breaker of somebody else's, in place of the simulated one. It goes by the
	// wall clock, so that run belongs into a synctest bubble. It calls changed, from
	// admit and done, when it closes and when it stops being closed.
	guard func(changed func(closed bool)) guard
}

// guard is a circuit breaker as its caller uses it: done tells how the call went.
type guard interface {
	admit() (done func(ok bool), admitted bool)
}

// truth is what the simulated breaker really did.
type truth struct {
	away   [][2]float64 // not closed
	probes int
}

type arrival struct {
	at   float64
	what func(now float64)
}

// agenda is what is still to happen, the earliest first.
type agenda []arrival

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(arrival)) }
func (a *agenda) Pop() any {
	n := len(*a) - 1
	last := (*a)[n]
	*a = (*a)[:n]
	return last
}

// run simulates. The stalls shift whatever would have happened in them to their end.
func (s shop) run(r *rand.Rand) (truth, []journal.Event) {
	queue := &agenda{}
	at := func(t float64, what func(float64)) { heap.Push(queue, arrival{t, what}) }
	type stall struct{ from, to float64 }
	var stalls []stall
	for range s.stalls {
		from := r.Float64() * s.end
		stalls = append(stalls, stall{from, from + 0.1 + 0.5*r.Float64()})
	}
	slices.SortFunc(stalls, func(a, b stall) int { return cmp.Compare(a.from, b.from) })
	real := func(t float64) float64 {
		for _, st := range stalls {
			if t >= st.from && t < st.to {
				t = st.to
			}
		}
		return t
	}
	exp := func(mean float64) float64 { return 0.001 + r.ExpFloat64()*mean }

	type bin struct {
		calls, answers int
		latency        *hdr.Histogram
	}
	bins := map[int]*bin{} // by tick number
	ticks := []float64{}
	for t := 0.1; t < s.end+1; t += 0.1 {
		ticks = append(ticks, real(t)+0.004*r.Float64())
	}
	tickOf := func(t float64) *bin {
		k, _ := slices.BinarySearch(ticks, t)
		if bins[k] == nil {
			bins[k] = &bin{latency: hdr.New()}
		}
		return bins[k]
	}
	windows := map[int]*hdr.Histogram{}

	// The breaker, as gobreaker does it: consecutive failures open it, then so
	// many probes are admitted; one failing opens it again.
	const closed, isOpen, halfOpen = 0, 1, 2
	var tr truth
	state, failed, since, admitted, succeeded, generation := closed, 0, 0.0, 0, 0, 0
	set := func(to int, now float64) {
		if state == closed && to == isOpen {
			tr.away = append(tr.away, [2]float64{now, math.Inf(1)})
		}
		if to == closed {
			tr.away[len(tr.away)-1][1] = now
		}
		state, failed, since, admitted, succeeded = to, 0, now, 0, 0
		generation++
	}
	queued := 0
	drain := func(now float64) {
		if s.drain > 0 {
			for i := range queued {
				at(now+float64(i+1)/s.drain, func(now float64) { tickOf(now).calls++ })
			}
			queued = 0
		}
	}
	letPass := func(now float64) bool {
		if !s.breaker {
			return true
		}
		if state == isOpen && now-since >= s.open {
			set(halfOpen, now)
		}
		switch state {
		case isOpen:
			return false
		case halfOpen:
			if admitted >= s.probes {
				return false
			}
			admitted++
			tr.probes++
		}
		return true
	}
	report := func(ok bool, of int, now float64) {
		if !s.breaker || of != generation {
			return // an answer from before the last change of state
		}
		switch {
		case ok && state == halfOpen:
			if succeeded++; succeeded >= s.probes {
				set(closed, now)
				drain(now)
			}
		case ok:
			failed = 0
		case state == halfOpen:
			set(isOpen, now)
		case state == closed:
			if failed++; failed >= s.failures {
				set(isOpen, now)
			}
		}
	}
	began, clock := time.Now(), 0.0
	admit := func(now float64) (func(ok bool, now float64), bool) {
		if !letPass(now) {
			return nil, false
		}
		of := generation
		return func(ok bool, now float64) { report(ok, of, now) }, true
	}
	if s.guard != nil {
		away := false
		theirs := s.guard(func(closed bool) {
			switch {
			case closed && away:
				tr.away[len(tr.away)-1][1] = clock
				drain(clock)
			case !closed && !away:
				tr.away = append(tr.away, [2]float64{clock, math.Inf(1)})
			}
			away = !closed
		})
		admit = func(float64) (func(bool, float64), bool) {
			done, ok := theirs.admit()
			if ok && away {
				tr.probes++
			}
			return func(ok bool, _ float64) { done(ok) }, ok
		}
	}
	request := func(came float64) {
		answer := func(now float64) {
			b := tickOf(now)
			b.answers++
			d := time.Duration((now - came) * float64(time.Second))
			if !s.viaLoad {
				b.latency.Record(d)
				return
			}
			k := int(came / 0.1)
			if windows[k] == nil {
				windows[k] = hdr.New()
			}
			windows[k].Record(d)
		}
		if r.Float64() >= s.pays {
			at(came+exp(s.work), answer)
			return
		}
		var try func(now float64, left int)
		try = func(now float64, left int) {
			done, admitted := admit(now)
			if !admitted {
				queued++
				at(now+0.001, answer)
				return
			}
			tickOf(now).calls++
			ok, took := s.flaky == 0 || r.Float64() >= s.flaky, exp(s.slow)
			if now >= s.faultAt && now < s.faultTo && r.Float64() < s.hit {
				ok, took = false, s.timeout
			}
			at(now+took, func(now float64) {
				done(ok, now)
				if ok || left == 0 {
					answer(now)
					return
				}
				at(now+0.02+0.05*r.Float64(), func(now float64) { try(now, left-1) })
			})
		}
		at(came+exp(s.work), func(now float64) { try(now, s.retries) })
	}
	for t := 0.0; t < s.end; {
		gap := 1 / s.rate
		if !s.even {
			gap = r.ExpFloat64() / s.rate
		}
		t += gap
		at(t, request)
	}
	for queue.Len() > 0 {
		next := heap.Pop(queue).(arrival)
		if now := real(next.at); now > next.at {
			at(now, next.what)
		} else {
			if clock = now; s.guard != nil {
				time.Sleep(time.Until(began.Add(time.Duration(now * float64(time.Second)))))
			}
			next.what(now)
		}
	}

	events := []journal.Event{{Start: &journal.Start{Version: 1}}}
	secs := func(t float64) time.Duration { return time.Duration(t * float64(time.Second)) }
	for k, t := range ticks {
		b := bins[k]
		if b == nil {
			continue
		}
		if b.answers > 0 && !s.viaLoad {
			e := &journal.Edge{Edge: "gateway -> orders", Calls: b.answers, Answers: map[string]int{"200": b.answers}}
			if !s.blind {
				e.Latency = b.latency.Encode()
			}
			events = append(events, journal.Event{At: secs(t), Edge: e})
		}
		if b.calls > 0 {
			events = append(events, journal.Event{At: secs(t) + time.Millisecond, Edge: &journal.Edge{Edge: "orders -> payments", Calls: b.calls, Upstream: b.calls, Answers: map[string]int{"200": b.calls}}})
		}
	}
	if s.viaLoad {
		for k, h := range windows {
			n := int(h.Count())
			events = append(events, journal.Event{At: time.Duration(k+20) * step, Window: &journal.Window{Load: "shoppers", DueS: journal.Secs(time.Duration(k) * step), Due: n, Sent: n, OK: n, OKLatency: h.Encode(), Outcomes: map[string]int{"200": n}}})
		}
	}
	slices.SortStableFunc(events[1:], func(a, b journal.Event) int { return cmp.Compare(a.At, b.At) })
	for i, away := range tr.away {
		tr.away[i][1] = math.Min(away[1], s.end)
	}
	return tr, append(events, journal.Event{At: secs(s.end + 1), End: &journal.End{Status: "completed"}})
}

func (s shop) hypotheses() Hypotheses {
	d := func(t float64) time.Duration { return time.Duration(math.Round(t*10)) * step }
	b := Breaker{
		Edge: "orders -> payments", Opens: 5 * time.Second, Closes: 8 * time.Second, Flaps: ptr(0),
		FaultFrom: d(s.faultAt), FaultTo: d(s.faultTo), CallerEdges: []string{"gateway -> orders"},
	}
	for _, c := range []string{"p99 < 100ms", "upstream <= 3/s"} {
		clause, err := expect.Parse(c)
		if err != nil {
			panic(err)
		}
		b.Open = append(b.Open, clause)
	}
	if s.viaLoad {
		b.CallerEdges, b.CallerLoads = nil, []string{"shoppers"}
	}
	return Hypotheses{Confidence: 0.95, Breakers: []Breaker{b},
		Loads:  []Load{{Name: "shoppers", Model: "open", Timeout: 10 * time.Second}},
		Phases: []Phase{{"before", 0, d(s.faultAt)}, {"during", d(s.faultAt), d(s.faultTo)}, {"after", d(s.faultTo), d(s.end)}}}
}

// anyShop draws a shop that a scenario might have.
func anyShop(r *rand.Rand) shop {
	pick := func(of ...float64) float64 { return of[r.IntN(len(of))] }
	return shop{
		rate: pick(15, 40, 60, 200), even: r.IntN(2) == 0, pays: pick(1, 1, 0.5),
		faultAt: 8, faultTo: 22, end: 36,
		hit: 1, timeout: pick(0.001, 0.05, 0.5), slow: pick(0.003, 0.02, 0.1), work: pick(0.002, 0.02, 0.06),
		breaker: true, open: pick(3, 5), failures: 5, probes: int(pick(1, 1, 3)),
		retries: int(pick(0, 0, 2)), drain: pick(0, 0, 100), stalls: r.IntN(3), viaLoad: r.IntN(4) == 0,
	}
}

// No run without a fault may show an opening, whatever the load looks like and
// however often the machine stands still.
func TestNoFalseOpening(t *testing.T) {
	for seed := range 1000 * *thorough / fewer {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		s := anyShop(r)
		s.hit, s.stalls, s.blind = 0, r.IntN(5), true
		s.faultTo, s.end = 12, 16
		s.viaLoad = seed%20 == 0
		_, events := s.run(r)
		got := Judge(s.hypotheses(), events).Breakers[0]
		if len(got.Spans) != 1 || got.Spans[0].State != "closed" {
			t.Errorf("seed %d, %+v: the wire shows %v, and nothing ever opened", seed, s, got.Spans)
		}
	}
}

// A breaker that opens, probes in vain and closes after the fault is seen as it
// is, to a fifth of a second or the time that a stall, a try or few requests blur.
func TestOpeningsAreSeenAsTheyAre(t *testing.T) {
	for seed := range 40 * *thorough / fewer {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		s := anyShop(r)
		tr, events := s.run(r)
		got := Judge(s.hypotheses(), events).Breakers[0]
		fail := func(format string, args ...any) {
			t.Errorf("seed %d: %s\nshop  %+v\ntruth %v\nseen  %v", seed, fmt.Sprintf(format, args...), s, tr.away, got.Spans)
		}
		if len(tr.away) != 1 || tr.away[0][1] >= s.end {
			t.Fatalf("seed %d: the simulated breaker opened %d times: %v", seed, len(tr.away), tr.away)
		}
		if got.OpenedAtS == nil || got.ClosedAtS == nil {
			fail("opened at %v, closed at %v", got.OpenedAtS, got.ClosedAtS)
			continue
		}
		// Between two calls there is nothing to see; a stall hides up to 0.6 s.
		blur := 0.25 + 4/(s.rate*s.pays) + 0.6*float64(min(1, s.stalls))
		if d := *got.OpenedAtS - tr.away[0][0]; math.Abs(d) > blur {
			fail("seen to open %.2f s off, allowed are %.2f s", d, blur)
		}
		if d := *got.ClosedAtS - tr.away[0][1]; math.Abs(d) > blur+s.slow {
			fail("seen to close %.2f s off, allowed are %.2f s", d, blur+s.slow)
		}
		if got.Flaps != 0 {
			fail("%d flaps", got.Flaps)
		}
		if d := got.Probes - tr.probes; d > 2*s.probes || d < -2*s.probes {
			fail("%d probes seen, %d sent", got.Probes, tr.probes)
		}
		for _, c := range got.Checks {
			// Work and retries put some answers beyond any limit; only the rest is certain.
			if c.Verdict == Fail && (c.Claim != "while open: p99 < 100ms" || s.work < 0.02) {
				fail("check fails: %s: %s", c.Claim, c.Detail)
			}
		}
	}
}

// A fault that hits half of the calls lets probes succeed by chance: the breaker
// closes and opens again. Closings of a second and more are counted.
func TestFlapsAreCounted(t *testing.T) {
	for seed := range 20 * *thorough / fewer {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		s := anyShop(r)
		s.hit, s.retries, s.stalls, s.drain, s.failures, s.rate, s.timeout = 0.6, 0, 0, 0, 4, 60, 0.5
		tr, events := s.run(r)
		got := Judge(s.hypotheses(), events).Breakers[0]
		// Closed for less than 0.3 s looks like a probe; up to half a second, either may be.
		least, most := 0, 0
		for i := 1; i < len(tr.away); i++ {
			if tr.away[i][0] <= s.faultTo {
				gap := tr.away[i][0] - tr.away[i-1][1]
				if gap >= 0.7 {
					least++
				}
				if gap >= 0.15 {
					most++
				}
			}
		}
		if got.Flaps < least || got.Flaps > most {
			t.Errorf("seed %d: %d flaps seen, %d to %d happened\nshop  %+v\ntruth %v\nseen  %v", seed, got.Flaps, least, most, s, tr.away, got.Spans)
		}
	}
}
