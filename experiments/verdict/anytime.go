package verdict

import (
	"fmt"
	"math"
	"time"

	"gonum.org/v1/gonum/mathext"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// Whoever looks at an ordinary 95 % bound again and again, and stops when it
// pleases him, is wrong far more often than in 5 % of runs. The bounds here hold
// at all times together: of all runs, at most 5 % ever show a lower bound that
// lies above the truth, however often and for whatever reason one looks.
//
// For s good of n independent requests and a share p, the evidence against
// "the share is at most p" is the likelihood ratio mixed over all higher shares,
//
//	M(p) = ∫ q^s (1-q)^(n-s) dq / (1-p) / (p^s (1-p)^(n-s)),   q from p to 1
//
// a supermartingale that starts at 1 if the share is at most p, so that it ever
// reaches 1/α with probability α at most (Ville 1939; Robbins, Annals of
// Mathematical Statistics 41, 1970; Howard, Ramdas, McAuliffe and Sekhon, Annals
// of Statistics 49, 2021). The lower bound is the largest p with M(p) >= 1/α. The
// price: 450 good requests of 450 show 99 %, where one look needs 299.
func anytime(good, n, confidence float64) (low, high float64) {
	if n <= 0 {
		return 0, 1
	}
	// The evidence falls as p rises towards what was seen: bisection finds the edge.
	limit := -math.Log(1 - confidence)
	lower := func(good float64) float64 {
		below, above := 0.0, good/n
		for range 50 {
			middle := (below + above) / 2
			if evidenceAbove(middle, good, n) >= limit {
				below = middle
			} else {
				above = middle
			}
		}
		return below
	}
	return lower(good), 1 - lower(n-good)
}

// evidenceAbove is ln M(p) for s good of n, against a share of at most p.
func evidenceAbove(p, s, n float64) float64 {
	if p <= 0 {
		return math.Inf(1)
	}
	if p >= 1 {
		return math.Inf(-1)
	}
	a, b := s+1, n-s+1
	above := mathext.RegIncBeta(b, a, 1-p) // the part of the mixture above p
	if above <= 0 {
		return math.Inf(-1)
	}
	return mathext.Lbeta(a, b) + math.Log(above) - math.Log1p(-p) - s*math.Log(p) - (n-s)*math.Log1p(-p)
}

// Live judges the objectives while a run goes on, by bounds that allow looking at
// any time. It folds the journal's events; one goroutine at a time.
//
// A request counts from the moment when everything that was due before it, and
// in its own 100 ms, is finished: the first to finish are the fast ones, and a
// share of them would flatter. Where failures come in bursts the requests are
// replaced by as many independent ones as they are worth; how long a burst is was
// itself peeked at, so that such a state is labelled an estimate. So is one in
// which nothing has failed yet: a burst that did not come cannot be seen.
type Live struct {
	h      Hypotheses
	claims []liveClaim
}

// LiveState is what is known of an objective so far.
type LiveState struct {
	ID        string
	Objective string
	Verdict   Verdict // pass: it holds, so far; fail: it does not
	Samples   int
	Estimate  float64
	Low, High float64
	// Basis is what the bounds rest on: Independent, UnseenBursts or Estimated.
	Basis Basis
}

// Basis is how far bounds that are looked at all the time can be trusted.
type Basis string

const (
	// Independent: failures were seen, and they do not come in bursts. The bounds
	// hold however often one looks.
	Independent Basis = "at any time of looking"
	// UnseenBursts: nothing has failed yet (or nothing else happened), so that the
	// bounds hold only if it will not come in bursts.
	UnseenBursts Basis = "an estimate: bursts that have not come yet are not excluded"
	// Estimated: failures come in bursts, whose length was peeked at as well.
	Estimated Basis = "an estimate: failures come in bursts"
)

// String is the state in a few words.
func (s LiveState) String() string {
	word := map[Verdict]string{Pass: "holds so far", Fail: "does not hold", Inconclusive: "undecided"}[s.Verdict]
	return fmt.Sprintf("%s: %s, %s of %s good, between %s and %s (%s)", s.Objective, word, percent(s.Estimate), plural(s.Samples, "request", "requests"), percent(s.Low), percent(s.High), s.Basis)
}

// liveClaim is one objective with the slots of its part of the run.
type liveClaim struct {
	o        Objective
	c        claim
	from, to int64 // slots
	slots    map[int64]*liveSlot
	settled  int64    // all slots before it are finished and in windows
	windows  []window // of the slots up to there
}

type liveSlot struct{ due, n, good int }

// NewLive looks at the objectives of h.
func NewLive(h Hypotheses) *Live {
	h.Confidence = orDefault(h.Confidence)
	l := &Live{h: h}
	for _, o := range h.Objectives {
		from, to, ok := judged(h, o)
		if !ok || from >= to || o.Clause.Metric != expect.OK && o.Clause.Metric != expect.Percentile {
			continue
		}
		c, _ := claimOf(o.Clause)
		l.claims = append(l.claims, liveClaim{o: o, c: c, from: slotOf(from), to: slotOf(to), settled: slotOf(from), slots: map[int64]*liveSlot{}})
	}
	return l
}

// told is how long after a slot's end its last windows are written, at most, when nothing is open.
const told = 3 * step

// Observe takes the next event.
func (l *Live) Observe(e journal.Event) {
	w := e.Window
	if w == nil {
		return
	}
	k := int64(math.Floor(float64(w.DueS.Duration()+time.Millisecond) / float64(step)))
	for i := range l.claims {
		x := &l.claims[i]
		if x.o.about(w) && k >= x.settled && k < x.to {
			x.add(k, w)
		}
		x.settle(e.At)
	}
}

func (x *liveClaim) add(k int64, w *journal.Window) {
	s := x.slots[k]
	if s == nil {
		s = &liveSlot{}
		x.slots[k] = s
	}
	s.due += w.Due
	s.n += w.OK + w.Failed
	good := w.OK
	if x.o.Clause.Metric == expect.Percentile {
		good = 0
		if h, err := hdr.Decode(w.OKLatency); err == nil && w.OKLatency != "" {
			good = int(min(h.CountAtMost(x.o.Clause.Limit), int64(w.OK)))
		}
	}
	s.good += good
}

// settle moves the finished slots at the front into the windows.
func (x *liveClaim) settle(now time.Duration) {
	for x.settled < x.to && now > time.Duration(x.settled+1)*step+told {
		s := x.slots[x.settled]
		if s == nil {
			s = &liveSlot{}
		}
		if s.n < s.due {
			return
		}
		x.windows = append(x.windows, window{n: s.n, good: s.good})
		delete(x.slots, x.settled)
		x.settled++
	}
}

// States are what is known of the objectives of which anything is.
func (l *Live) States() []LiveState {
	var all []LiveState
	for i := range l.claims {
		if s, ok := l.claims[i].state(l.h.Confidence); ok {
			all = append(all, s)
		}
	}
	return all
}

// memory is the autocorrelation time from which on failures are taken to come in
// bursts, in windows: independent ones are estimated at up to about this.
const memory = 1.5

func (x *liveClaim) state(confidence float64) (LiveState, bool) {
	s := estimateShare(x.windows, confidence)
	out := LiveState{ID: x.o.ID(), Objective: x.o.Of() + " " + x.o.Phase + " " + x.o.Clause.String(), Verdict: Inconclusive, Samples: s.n, Estimate: s.estimate, Basis: Independent}
	if s.n == 0 {
		return out, false
	}
	n := float64(s.n)
	switch {
	case s.uniform:
		out.Basis = UnseenBursts
	case s.block > memory:
		out.Basis, n = Estimated, s.effective
	}
	out.Low, out.High = anytime(s.estimate*n, n, confidence)
	out.Verdict = x.c.verdict(out.Low, out.High)
	return out, true
}
