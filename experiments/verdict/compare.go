package verdict

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// Outcome is what a comparison of two sides shows. B is judged, A is what it is
// compared with. Worse by d, bounded by low and high (one-sided at the
// confidence each), against a margin m below which no difference matters:
//
//	            -m        0        m
//	regressed    |        |        |  [-----]     low > m
//	no worse     |      [-|----]   |              high <= m: non-inferior …
//	noise        |   [----|---]    |              … and low >= -m: equivalent (two one-sided tests)
//	improved [-] |        |        |              high < -m
//	undecided    |        |   [----|---]          anything else
type Outcome string

const (
	Regressed Outcome = "regressed"
	Improved  Outcome = "improved"
	Noise     Outcome = "noise"     // no difference that matters, shown
	NoWorse   Outcome = "no worse"  // no regression that matters, shown; an improvement is possible
	Undecided Outcome = "undecided" // more, or longer, runs would tell
)

// Margins are the floors below which a difference does not matter. Both floors
// of a kind must be exceeded: the larger one is the margin.
type Margins struct {
	Share        float64       `json:"share"`         // of all requests: 0.005 is half a percentage point
	ShareRatio   float64       `json:"share_ratio"`   // of A's share of bad requests
	Latency      time.Duration `json:"latency_ns"`    // shift
	LatencyRatio float64       `json:"latency_ratio"` // of A's median
}

// DefaultMargins are what people would not get up for.
var DefaultMargins = Margins{Share: 0.005, ShareRatio: 0.10, Latency: time.Millisecond, LatencyRatio: 0.05}

// Recorded is a run as its journal has it.
type Recorded struct {
	Hypotheses Hypotheses
	Events     []journal.Event
}

// Side is one side of a comparison: a run, or several of the same plan.
type Side struct {
	Name string
	Runs []Recorded
}

// Comparison says how B differs from A, per stream, phase and metric.
type Comparison struct {
	Version    int          `json:"version"`
	Kind       string       `json:"kind"` // runs: one of each; repeats: several of each; pairs: several, side by side; phases: of one run
	Scenario   string       `json:"scenario"`
	A          SideResult   `json:"a"`
	B          SideResult   `json:"b"`
	Confidence float64      `json:"confidence"` // of each bound, one-sided
	Margins    Margins      `json:"margins"`
	Outcome    Outcome      `json:"outcome"`
	Reasons    []string     `json:"reasons"`
	Rows       []Difference `json:"rows"`
	Notes      []string     `json:"notes"`
	Differs    []string     `json:"differs"` // what the two plans do not have in common
}

// SideResult names a side.
type SideResult struct {
	Name string   `json:"name"`
	Runs []string `json:"runs"`
}

// Difference is one row: B - A, in the metric's own unit.
type Difference struct {
	Load       string   `json:"load"`
	Phase      string   `json:"phase"`  // "during", or "during against before"
	Metric     string   `json:"metric"` // ok; an objective's clause: the share good within its limit; latency
	Unit       string   `json:"unit"`   // ratio | s
	Outcome    Outcome  `json:"outcome"`
	A          *float64 `json:"a"` // share, or median latency (null: failed)
	B          *float64 `json:"b"`
	Difference *float64 `json:"difference"` // of shares, or the Hodges-Lehmann shift
	Low        *float64 `json:"low"`        // null: no bound on this side
	High       *float64 `json:"high"`
	Margin     float64  `json:"margin"`
	// Superiority is, for latency, how likely a request of B is slower than one of
	// A, ties counting half (Vargha and Delaney's A12): 0.5 where nothing differs.
	Superiority     *float64 `json:"superiority,omitempty"`
	SuperiorityLow  *float64 `json:"superiority_low,omitempty"`
	SuperiorityHigh *float64 `json:"superiority_high,omitempty"`
	SamplesA        int      `json:"samples_a"`
	SamplesB        int      `json:"samples_b"`
	Note            string   `json:"note,omitempty"`

	Pairs []PairedDifference `json:"pairs,omitempty"` // see ComparePairs
}

// fewestBlocks that latencies must hold on each side for their scatter to be known at all.
const fewestBlocks = 6

// Compare says how b differs from a. Both have at least one run. It is pure:
// the same journals give the same numbers (the bootstrap's seed is fixed).
//
// With one run on each side the bounds come from within them, and speak of these
// two runs: how much runs of one build differ among themselves is for SelfCompare
// to say. With several the runs are the samples, and their order in time matters.
func Compare(a, b Side, m Margins, confidence float64) Comparison {
	out := Comparison{Version: 1, Kind: "runs", Confidence: orDefault(confidence), Margins: m,
		Reasons: []string{}, Rows: []Difference{}, Notes: []string{}, Differs: []string{}}
	ra, rb := open(a), open(b)
	out.A, out.B = describeSide(a.Name, ra), describeSide(b.Name, rb)
	out.Scenario = ra[0].result.Scenario
	out.Rows = compareAll(ra, rb, m, out.Confidence)
	if len(ra)+len(rb) > 2 {
		out.Kind = "repeats"
		out.Notes = append(out.Notes, repeatNotes(ra, rb, out.Confidence)...)
	} else {
		out.Notes = append(out.Notes, "one run of each: the bounds speak of these two runs; how much runs of the same build differ on this machine, compare --self says")
	}
	out.conclude(append(slices.Clone(ra), rb...))
	return out
}

// ComparePhases compares every later phase of a run with `before`.
func ComparePhases(run Recorded, name string, m Margins, confidence float64) Comparison {
	out := Comparison{Version: 1, Kind: "phases", Confidence: orDefault(confidence), Margins: m,
		Reasons: []string{}, Rows: []Difference{}, Notes: []string{}, Differs: []string{}}
	r := open(Side{Name: name, Runs: []Recorded{run}})
	out.Scenario = r[0].result.Scenario
	var later []string
	for _, p := range run.Hypotheses.Phases {
		if p.Name != "during" && p.Name != "after" {
			continue
		}
		later = append(later, p.Name)
		for _, l := range run.Hypotheses.Loads {
			rows := compareStream(r, r, l.Name, "before", p.Name, m, out.Confidence)
			for i := range rows {
				rows[i].Phase = p.Name + " against before"
			}
			out.Rows = append(out.Rows, rows...)
		}
	}
	out.A, out.B = describeSide("before", r), describeSide(and(later), r)
	if len(out.Rows) == 0 {
		out.Notes = append(out.Notes, "the run has no phases before and during, or before and after: there is nothing to compare")
	}
	out.conclude(r)
	return out
}

// opened is a run, sorted and judged.
type opened struct {
	h      Hypotheses
	r      *record
	result Result
}

func open(s Side) []opened {
	var all []opened
	for _, run := range s.Runs {
		h := run.Hypotheses
		h.Confidence = orDefault(h.Confidence)
		all = append(all, opened{h, collect(h, run.Events), Judge(h, run.Events)})
	}
	return all
}

func describeSide(name string, runs []opened) SideResult {
	s := SideResult{Name: name, Runs: []string{}}
	for _, r := range runs {
		s.Runs = append(s.Runs, r.result.Run)
	}
	return s
}

// conclude draws the outcome: a run that does not count makes everything undecided.
func (c *Comparison) conclude(runs []opened) {
	void := notCounting(runs)
	by := map[Outcome][]string{}
	for _, row := range c.Rows {
		by[row.Outcome] = append(by[row.Outcome], fmt.Sprintf("%s %s %s", row.Load, row.Phase, row.Metric))
	}
	say := func(o Outcome) {
		if len(by[o]) > 0 {
			c.Reasons = append(c.Reasons, fmt.Sprintf("%s: %s.", o, strings.Join(by[o], "; ")))
		}
	}
	c.Reasons = append(c.Reasons, void...)
	switch {
	case len(void) > 0 || len(c.Rows) == 0:
		c.Outcome = Undecided
	case len(by[Regressed]) > 0:
		c.Outcome = Regressed
	case len(by[Undecided]) > 0:
		c.Outcome = Undecided
	case len(by[Improved]) > 0:
		c.Outcome = Improved
	case len(by[NoWorse]) > 0:
		c.Outcome = NoWorse
	default:
		c.Outcome = Noise
	}
	for _, o := range []Outcome{Regressed, Undecided, Improved, NoWorse, Noise} {
		say(o)
	}
	if n := len(c.Rows); n > 1 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d rows, each bound at %s confidence: the chance that at least one of them is called regressed by bad luck is at most %s",
			n, percent(c.Confidence), percent(math.Min(1, float64(n)*(1-c.Confidence)))))
	}
}

// notCounting says which runs say nothing, and why.
func notCounting(runs []opened) (void []string) {
	for _, r := range runs {
		switch {
		case r.result.Void != "":
			void = append(void, fmt.Sprintf("run %s does not count (%s): %s", r.result.Run, r.result.Void, firstReason(r.result)))
		case r.result.Status != "completed":
			void = append(void, fmt.Sprintf("run %s was not finished (%s).", r.result.Run, r.result.Status))
		}
	}
	slices.Sort(void)
	return slices.Compact(void)
}

// compareAll goes through the streams and phases that all runs have, warm-up left out.
func compareAll(a, b []opened, m Margins, confidence float64) []Difference {
	var rows []Difference
	for _, p := range a[0].h.Phases {
		if p.Name == "warmup" && len(a[0].h.Phases) > 1 {
			continue
		}
		for _, l := range a[0].h.Loads {
			rows = append(rows, compareStream(a, b, l.Name, p.Name, p.Name, m, confidence)...)
		}
	}
	return rows
}

// part is what is compared of one stream in one phase of one run.
type part struct {
	o        opened
	load     string
	from, to time.Duration
}

// partOf leaves out what settles or recovers, as the judgement does.
func partOf(o opened, load, phase string) (part, bool) {
	whole := Objective{Load: load, Phase: phase}
	for _, x := range o.h.Objectives {
		if x.Load == load && x.Phase == phase {
			whole.Settle, whole.Recovery = max(whole.Settle, x.Settle), max(whole.Recovery, x.Recovery)
		}
	}
	from, to, ok := judged(o.h, whole)
	if !o.r.complete {
		to = min(to, o.r.last)
	}
	return part{o, load, from, to}, ok && from < to
}

// compareStream compares ok, the share within the limit of every percentile that
// both sides claim something of in the phase, and latency.
func compareStream(a, b []opened, load, phaseA, phaseB string, m Margins, confidence float64) []Difference {
	parts := func(runs []opened, phase string) (all []part) {
		for _, o := range runs {
			if p, ok := partOf(o, load, phase); ok {
				all = append(all, p)
			}
		}
		return all
	}
	pa, pb := parts(a, phaseA), parts(b, phaseB)
	if len(pa) == 0 || len(pb) == 0 {
		return nil
	}
	row := func(metric, unit string) Difference {
		return Difference{Load: load, Phase: phaseB, Metric: metric, Unit: unit, Outcome: Undecided}
	}
	rows := []Difference{compareShares(row("ok", "ratio"), pa, pb, expect.Clause{Metric: expect.OK, Op: ">="}, m, confidence)}
	for _, o := range b[0].h.Objectives {
		if o.Load != load || o.Phase != phaseB || o.Clause.Metric != expect.Percentile {
			continue
		}
		rows = append(rows, compareShares(row("within "+o.Clause.Limit.String(), "ratio"), pa, pb, o.Clause, m, confidence))
	}
	return append(rows, compareLatency(row("latency", "s"), pa, pb, m, confidence))
}

// shareOf is the share of good ones in a part.
func (p part) shareOf(c expect.Clause, confidence float64) share {
	_, good := claimOf(c)
	ws := p.o.r.between(p.load, p.from, p.to, good)
	p.o.r.markRegimes(p.o.h, ws, p.from)
	return estimateShare(ws, confidence)
}

// compareShares bounds the difference of two shares. With one run each by
// Newcombe's hybrid score method with our own bounds in place of Wilson's
// (Statistics in Medicine 17, 1998, method 10; Zou and Donner's MOVER, 2008):
//
//	low  = d - √((pB-lowB)² + (highA-pA)²)
//	high = d + √((highB-pB)² + (pA-lowA)²)
//
// It keeps what the bounds know: bursts, and failures that did not happen to come.
func compareShares(d Difference, a, b []part, c expect.Clause, m Margins, confidence float64) Difference {
	if len(a)+len(b) > 2 {
		return compareRuns(d, a, b, m, confidence, func(p part) (float64, int) {
			s := p.shareOf(c, confidence)
			return s.estimate, s.n
		})
	}
	sa, sb := a[0].shareOf(c, confidence), b[0].shareOf(c, confidence)
	d.SamplesA, d.SamplesB = sa.n, sb.n
	if sa.n == 0 || sb.n == 0 {
		d.Note = "no data on one side"
		return d
	}
	low, high := shareDifference(sa, sb)
	d.A, d.B, d.Difference = ptr(sa.estimate), ptr(sb.estimate), ptr(sb.estimate-sa.estimate)
	d.Low, d.High = ptr(low), ptr(high)
	d.Margin = math.Max(m.Share, m.ShareRatio*(1-sa.estimate))
	d.Outcome = outcome(-high, -low, d.Margin)
	if sa.short || sb.short {
		d.Note = "too short for its burstiness: good and bad come in spells of which too few were seen"
		if d.Outcome == Noise || d.Outcome == NoWorse || d.Outcome == Improved {
			d.Outcome = Undecided
		}
	}
	d.Note = cmp.Or(d.Note, whyUndecided(d, false))
	return d
}

func shareDifference(a, b share) (low, high float64) {
	d := b.estimate - a.estimate
	return d - math.Hypot(b.estimate-b.low, a.high-a.estimate), d + math.Hypot(b.high-b.estimate, a.estimate-a.low)
}

// outcome of a difference of which positive is worse.
func outcome(low, high, margin float64) Outcome {
	switch {
	case low > margin:
		return Regressed
	case high < -margin:
		return Improved
	case high <= margin && low >= -margin:
		return Noise
	case high <= margin:
		return NoWorse
	}
	return Undecided
}

// whyUndecided says which way an undecided difference leans, when it does.
func whyUndecided(d Difference, higherIsWorse bool) string {
	if d.Outcome != Undecided || d.Low == nil || d.High == nil {
		return ""
	}
	worse := *d.Low > 0
	if !higherIsWorse {
		worse = *d.High < 0
	}
	if worse {
		return "worse, but not shown to be worse by more than the margin"
	}
	return "the bounds reach over the margin: a longer run would tell"
}

// never is a latency that no request waited for: that of the failed ones.
const never = 1e7 // seconds

// latencySample is latencies in seconds, ascending, each once.
type latencySample struct {
	values  []float64
	counts  []float64
	seconds [][]cell // the same per second of due time
}

// cell is n requests with values[at].
type cell struct {
	at int
	n  float64
}

// latencies of a part, second by second; failed requests took for ever.
func (p part) latencies() latencySample {
	type raw struct {
		value float64
		n     int
	}
	var seconds [][]raw
	var values []float64
	st := p.o.r.streams[p.load]
	first, last := slotOf(p.from), slotOf(p.to)
	if st == nil || last <= first {
		return latencySample{}
	}
	const slots = int64(time.Second / step)
	seconds = make([][]raw, (last-first+slots-1)/slots)
	for _, k := range st.order {
		if k < first || k >= last {
			continue
		}
		s, at := st.slots[k], (k-first)/slots
		for _, b := range s.okLatency {
			seconds[at] = append(seconds[at], raw{b.high.Seconds(), b.n})
			values = append(values, b.high.Seconds())
		}
		if bad := s.failed + s.unanswered; bad > 0 {
			seconds[at] = append(seconds[at], raw{never, bad})
			values = append(values, never)
		}
	}
	slices.Sort(values)
	l := latencySample{values: slices.Compact(values)}
	l.counts = make([]float64, len(l.values))
	for _, second := range seconds {
		var cells []cell
		for _, x := range second {
			at, _ := slices.BinarySearch(l.values, x.value)
			cells = append(cells, cell{at, float64(x.n)})
			l.counts[at] += float64(x.n)
		}
		l.seconds = append(l.seconds, cells)
	}
	return l
}

func (l latencySample) n() (n float64) {
	for _, c := range l.counts {
		n += c
	}
	return n
}

// drawn is the counts of the seconds picked.
func (l latencySample) drawn(to []float64, pick []int) {
	clear(to)
	for _, s := range pick {
		for _, c := range l.seconds[s] {
			to[c.at] += c.n
		}
	}
}

// median is nil where it is a failed request.
func (l latencySample) median() *float64 {
	left := l.n() / 2
	for i, c := range l.counts {
		if left -= c; left <= 0 && c > 0 {
			if l.values[i] == never {
				return nil
			}
			return ptr(l.values[i])
		}
	}
	return nil
}

// compareLatency bounds Hodges and Lehmann's shift, the median of all
// differences b - a (Annals of Mathematical Statistics 34, 1963), and the
// probability that a request of B is slower, by the circular block bootstrap over seconds.
func compareLatency(d Difference, a, b []part, m Margins, confidence float64) Difference {
	if len(a)+len(b) > 2 {
		return compareRuns(d, a, b, m, confidence, func(p part) (float64, int) {
			l := p.latencies()
			if v := l.median(); v != nil {
				return *v, int(l.n())
			}
			return never, int(l.n())
		})
	}
	la, lb := a[0].latencies(), b[0].latencies()
	d.SamplesA, d.SamplesB = int(la.n()), int(lb.n())
	if d.SamplesA == 0 || d.SamplesB == 0 {
		d.Note = "no data on one side"
		return d
	}
	d.A, d.B = la.median(), lb.median()
	shift := hodgesLehmann(la.values, la.counts, lb.values, lb.counts, 0)
	superior := superiority(la.values, la.counts, lb.values, lb.counts)
	d.Superiority = ptr(superior)
	if math.Abs(shift) > never/2 || d.A == nil {
		d.Note = "so many failed that there is no shift of latency: look at ok"
		return d
	}
	d.Difference = ptr(sec6(shift))
	d.Margin = math.Max(m.Latency.Seconds(), m.LatencyRatio**d.A)
	blockA, blockB := la.block(), lb.block()
	blocks := math.Min(float64(len(la.seconds))/float64(blockA), float64(len(lb.seconds))/float64(blockB))
	if blocks < fewestBlocks {
		d.Note = fmt.Sprintf("too short: latencies hold together over %s, and only %d such times were seen (%d are needed)",
			seconds(time.Duration(max(blockA, blockB))*time.Second), int(blocks), fewestBlocks)
		return d
	}
	r := rand.New(rand.NewPCG(1, uint64(len(la.values))<<32|uint64(len(lb.values))))
	shifts, superiorities := make([]float64, draws), make([]float64, draws)
	pickA, pickB := make([]int, len(la.seconds)), make([]int, len(lb.seconds))
	ca, cb := make([]float64, len(la.values)), make([]float64, len(lb.values))
	for i := range shifts {
		resample(r, pickA, blockA)
		resample(r, pickB, blockB)
		la.drawn(ca, pickA)
		lb.drawn(cb, pickB)
		shifts[i] = hodgesLehmann(la.values, ca, lb.values, cb, shift)
		superiorities[i] = superiority(la.values, ca, lb.values, cb)
	}
	low, high := percentiles(shifts, blocks, confidence)
	slow, shigh := percentiles(superiorities, blocks, confidence)
	d.SuperiorityLow, d.SuperiorityHigh = ptr(math.Max(0, slow)), ptr(math.Min(1, shigh))
	if math.Abs(low) < never/2 {
		d.Low = ptr(sec6(low))
	}
	if math.Abs(high) < never/2 {
		d.High = ptr(sec6(high))
	}
	d.Outcome = outcome(low, high, d.Margin)
	d.Note = whyUndecided(d, true)
	return d
}

// draws of the bootstrap: with 600, the one-sided 95 % bound lies at a true level of 94 to 96 %.
const draws = 600

// sec6 rounds to the microsecond, as the journal does.
func sec6(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// block is how many seconds hang together: twice the autocorrelation time, less
// one, of the seconds' mean place in the order of all latencies.
func (l latencySample) block() int {
	places, total := make([]float64, len(l.values)), l.n()
	var below float64
	for i, c := range l.counts {
		places[i] = (below + c/2) / total
		below += c
	}
	x := make([]float64, len(l.seconds))
	for k, second := range l.seconds {
		for _, c := range second { // the sum, not the mean: an empty second says nothing
			x[k] += c.n * (places[c.at] - 0.5)
		}
	}
	return max(1, int(math.Round(2*autocorrelationTime(x)-1)))
}

// hodgesLehmann is the median of all differences b - a, to the microsecond. The
// values are ascending, each with its count. It is looked for from near outwards.
func hodgesLehmann(av, ac, bv, bc []float64, near float64) float64 {
	var na, nb float64
	for _, c := range ac {
		na += c
	}
	for _, c := range bc {
		nb += c
	}
	// upTo counts the pairs with b - a <= t, that is a >= b - t: going through b
	// downwards, more and more of a counts.
	upTo := func(t float64) (n float64) {
		i, taken := len(av), 0.0
		for k := len(bv) - 1; k >= 0; k-- {
			for i > 0 && av[i-1] >= bv[k]-t {
				i--
				taken += ac[i]
			}
			n += bc[k] * taken
		}
		return n
	}
	half := na * nb / 2
	width := 2.5e-4
	for width < 4*never && (upTo(near+width) < half || upTo(near-width) >= half) {
		width *= 4
	}
	low, high := near-width, near+width
	for high-low > 5e-7 {
		if middle := (low + high) / 2; upTo(middle) >= half {
			high = middle
		} else {
			low = middle
		}
	}
	return high
}

// superiority is P(b > a) + P(b = a)/2 (Mann and Whitney 1947; Vargha and Delaney,
// Journal of Educational and Behavioral Statistics 25, 2000).
func superiority(av, ac, bv, bc []float64) float64 {
	var na, nb, below, wins float64
	for _, c := range ac {
		na += c
	}
	i := 0
	for k, v := range bv {
		for i < len(av) && av[i] < v {
			below += ac[i]
			i++
		}
		ties := 0.0
		if i < len(av) && av[i] == v {
			ties = ac[i]
		}
		wins += bc[k] * (below + ties/2)
		nb += bc[k]
	}
	return wins / (na * nb)
}

// compareRuns takes one number from each run and bounds the shift between the
// sides without assuming anything of its distribution: the ordered differences
// at the critical value of Mann and Whitney's U (Hollander and Wolfe,
// Nonparametric Statistical Methods, section 4.3).
func compareRuns(d Difference, a, b []part, m Margins, confidence float64, of func(part) (float64, int)) Difference {
	values := func(parts []part, together *pool) (all []float64, n int) {
		for _, p := range parts {
			v, k := of(p)
			n += k
			if k > 0 {
				all = append(all, v)
				together.add(v, k)
			}
		}
		slices.Sort(all)
		return all, n
	}
	var va, vb []float64
	var pa, pb pool
	va, d.SamplesA = values(a, &pa)
	vb, d.SamplesB = values(b, &pb)
	if len(va) == 0 || len(vb) == 0 {
		d.Note = "no data on one side"
		return d
	}
	ma, mb := middle(va), middle(vb)
	shift, low, high := shiftOfRuns(va, vb, confidence)
	if d.Unit == "s" {
		if ma >= never/2 || mb >= never/2 {
			d.Note = "so many failed that there is no shift of latency: look at ok"
			return d
		}
		d.Margin = math.Max(m.Latency.Seconds(), m.LatencyRatio*ma)
		d.Superiority = ptr(superiority(va, ones(va), vb, ones(vb)))
	} else {
		d.Margin = math.Max(m.Share, m.ShareRatio*(1-ma))
		low, high = noNarrower(low, high, pa, pb, confidence)
	}
	d.A, d.B, d.Difference = ptr(ma), ptr(mb), ptr(shift)
	if !math.IsInf(low, 0) {
		d.Low, d.High = ptr(low), ptr(high)
	}
	if d.Unit == "s" {
		d.Outcome = outcome(low, high, d.Margin)
	} else {
		d.Outcome = outcome(-high, -low, d.Margin)
	}
	if d.Low == nil {
		d.Note = neverSignificant(len(va), len(vb), confidence)
	} else {
		d.Note = whyUndecided(d, d.Unit == "s")
	}
	return d
}

func ones(v []float64) []float64 {
	all := make([]float64, len(v))
	for i := range all {
		all[i] = 1
	}
	return all
}

// shiftOfRuns is the Hodges-Lehmann shift of b against a, and its bounds, each
// one-sided; infinite where so few runs bound nothing.
func shiftOfRuns(a, b []float64, confidence float64) (shift, low, high float64) {
	var all []float64
	for _, x := range a {
		for _, y := range b {
			all = append(all, y-x)
		}
	}
	slices.Sort(all)
	shift = (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	// The largest k with P(U < k) < 1 - confidence: the k-th smallest difference.
	k := 0
	for k < len(all) && smallU(len(a), len(b), k) < (1-confidence)-1e-12 {
		k++
	}
	if k == 0 {
		return shift, math.Inf(-1), math.Inf(1)
	}
	return shift, all[k-1], all[len(all)-k]
}

// smallU is P(U <= u) of Mann and Whitney's U for n and m values from one distribution,
// by their recurrence: f(n, m, u) = f(n-1, m, u-m) + f(n, m-1, u) orderings.
func smallU(n, m, u int) float64 {
	// ways[j][v]: orderings of i of the first and j of the second with U = v.
	ways := make([][]float64, m+1)
	for j := range ways {
		ways[j] = make([]float64, n*m+1)
		ways[j][0] = 1
	}
	for range n {
		for j := 1; j <= m; j++ {
			next := make([]float64, n*m+1)
			for v := range next {
				next[v] = ways[j-1][v]
				if v >= j {
					next[v] += ways[j][v-j]
				}
			}
			ways[j] = next
		}
	}
	var sum, all float64
	for v, w := range ways[m] {
		all += w
		if v <= u {
			sum += w
		}
	}
	return sum / all
}

// neverSignificant says why so few runs cannot show a difference, or "".
func neverSignificant(n, m int, confidence float64) string {
	p := smallU(n, m, 0)
	if p < (1-confidence)-1e-12 {
		return ""
	}
	return fmt.Sprintf("%d and %d runs can never be significant: even when every run of one side beats every run of the other, that comes by chance with probability %s, which is not below %s; 4 of each are enough at 95 %%",
		n, m, percent(p), percent(1-confidence))
}

// repeatNotes says what the numbers of runs, and their order, allow.
func repeatNotes(a, b []opened, confidence float64) []string {
	var notes []string
	if text := neverSignificant(len(a), len(b), confidence); text != "" {
		notes = append(notes, text)
	}
	var lastA, firstA, lastB, firstB time.Time
	span := func(runs []opened, first, last *time.Time) {
		for i, r := range runs {
			if at := r.result.StartedAt; i == 0 || at.Before(*first) {
				*first = at
			}
			if at := r.result.StartedAt; at.After(*last) {
				*last = at
			}
		}
	}
	span(a, &firstA, &lastA)
	span(b, &firstB, &lastB)
	if lastA.Before(firstB) || lastB.Before(firstA) {
		notes = append(notes, "all runs of one side came before all of the other: a drift of the machine looks just like a difference; run them in turn, A B B A")
	}
	return notes
}
