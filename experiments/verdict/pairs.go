package verdict

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// PairedDifference is what one pair of runs says of a row.
type PairedDifference struct {
	A          string   `json:"a"` // run ids
	B          string   `json:"b"`
	Difference *float64 `json:"difference"`
	Low        *float64 `json:"low"` // from within the two runs
	High       *float64 `json:"high"`
	Outcome    Outcome  `json:"outcome"`
}

// ComparePairs says how b differs from a when run number k of the one was made next
// to run number k of the other, with the same seed: A B B A A B B A. What the
// machine does in the course of time hits both of a pair, and each pair is one
// difference. Both sides have the same number of runs, two at least.
//
// Each row is judged by its differences alone, one a pair, with the bounds of
// Wilcoxon's signed ranks; what each pair shows by itself stands beside them.
func ComparePairs(a, b Side, m Margins, confidence float64) Comparison {
	out := Comparison{Version: 1, Kind: "pairs", Confidence: orDefault(confidence), Margins: m,
		Reasons: []string{}, Rows: []Difference{}, Notes: []string{}, Differs: []string{}}
	ra, rb := open(a), open(b)
	n := min(len(ra), len(rb))
	ra, rb = ra[:n], rb[:n]
	out.A, out.B = describeSide(a.Name, ra), describeSide(b.Name, rb)
	out.Scenario = ra[0].result.Scenario
	var keys []string
	by := map[string][]Difference{}
	for i := range n {
		for _, d := range compareAll(ra[i:i+1], rb[i:i+1], m, out.Confidence) {
			key := d.Load + "\n" + d.Phase + "\n" + d.Metric
			if by[key] == nil {
				keys = append(keys, key)
				by[key] = make([]Difference, n)
			}
			by[key][i] = d
		}
	}
	for _, key := range keys {
		out.Rows = append(out.Rows, pairedRow(by[key], out.A.Runs, out.B.Runs, m, out.Confidence))
	}
	if text := pairsNeverSignificant(n, out.Confidence); text != "" {
		out.Notes = append(out.Notes, text)
	}
	if text := notInTurn(ra, rb); text != "" {
		out.Notes = append(out.Notes, text)
	}
	out.conclude(append(slices.Clone(ra), rb...))
	return out
}

// pairedRow judges one metric by its differences, one of each pair.
func pairedRow(pairs []Difference, a, b []string, m Margins, confidence float64) Difference {
	var d Difference
	var va, vb, all []float64
	outcomes := map[Outcome]int{}
	for i, x := range pairs {
		p := PairedDifference{A: a[i], B: b[i], Difference: x.Difference, Low: x.Low, High: x.High, Outcome: x.Outcome}
		if x.Metric == "" {
			p.Outcome = Undecided
		} else {
			d.Load, d.Phase, d.Metric, d.Unit = x.Load, x.Phase, x.Metric, x.Unit
		}
		d.SamplesA, d.SamplesB = d.SamplesA+x.SamplesA, d.SamplesB+x.SamplesB
		if x.Difference != nil && x.A != nil && x.B != nil {
			va, vb, all = append(va, *x.A), append(vb, *x.B), append(all, *x.Difference)
		}
		outcomes[p.Outcome]++
		d.Pairs = append(d.Pairs, p)
	}
	d.Outcome = Undecided
	var words []string
	for _, o := range []Outcome{Regressed, Improved, Noise, NoWorse, Undecided} {
		if k := outcomes[o]; k > 0 {
			words = append(words, fmt.Sprintf("%d %s", k, o))
		}
	}
	found := "the pairs by themselves: " + strings.Join(words, ", ")
	if len(all) < len(pairs) {
		d.Note = fmt.Sprintf("%d of %s have no such difference; %s", len(pairs)-len(all), plural(len(pairs), "pair", "pairs"), found)
		return d
	}
	ma, mb := middle(va), middle(vb)
	shift, low, high := signedRanks(all, confidence)
	if d.Unit != "s" {
		var sides [2]pool
		for _, x := range pairs {
			sides[0].add(*x.A, x.SamplesA)
			sides[1].add(*x.B, x.SamplesB)
		}
		low, high = noNarrower(low, high, sides[0], sides[1], confidence)
	}
	if d.Unit == "s" {
		d.Margin = math.Max(m.Latency.Seconds(), m.LatencyRatio*ma)
		d.Outcome = outcome(low, high, d.Margin)
	} else {
		d.Margin = math.Max(m.Share, m.ShareRatio*(1-ma))
		d.Outcome = outcome(-high, -low, d.Margin)
	}
	d.A, d.B, d.Difference = ptr(ma), ptr(mb), ptr(shift)
	if math.IsInf(low, 0) {
		d.Note = pairsNeverSignificant(len(all), confidence) + "; " + found
		return d
	}
	d.Low, d.High = ptr(low), ptr(high)
	d.Note = found
	if why := whyUndecided(d, d.Unit == "s"); why != "" {
		d.Note = why + "; " + found
	}
	return d
}

// pool is the requests of several runs together.
type pool struct{ good, n float64 }

func (p *pool) add(share float64, n int) {
	p.good += share * float64(n)
	p.n += float64(n)
}

// noNarrower widens bounds on a difference of shares to what all the requests
// together allow, were they independent. Five runs without a failure on each side
// differ by nothing, each time; that their builds do not differ, 60 requests a run do
// not show.
func noNarrower(low, high float64, a, b pool, confidence float64) (float64, float64) {
	of := func(p pool) share {
		s := share{estimate: p.good / p.n}
		s.low, s.high = bounds(p.good, p.n, confidence)
		return s
	}
	if a.n == 0 || b.n == 0 {
		return low, high
	}
	l, h := shareDifference(of(a), of(b))
	return math.Min(low, l), math.Max(high, h)
}

// middle is the median.
func middle(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// signedRanks is Hodges and Lehmann's estimate of the middle of symmetric
// differences, the median of their Walsh averages (x + y)/2, and its bounds, each
// one-sided: the ordered averages at the critical value of Wilcoxon's signed-rank
// statistic (Hollander and Wolfe, Nonparametric Statistical Methods, section 3.3).
// They are infinite where so few differences bound nothing.
func signedRanks(x []float64, confidence float64) (shift, low, high float64) {
	var walsh []float64
	for i := range x {
		for j := i; j < len(x); j++ {
			walsh = append(walsh, (x[i]+x[j])/2)
		}
	}
	slices.Sort(walsh)
	shift = middle(walsh)
	k := 0
	for k < len(walsh) && smallW(len(x), k) < (1-confidence)-1e-12 {
		k++
	}
	if k == 0 {
		return shift, math.Inf(-1), math.Inf(1)
	}
	return shift, walsh[k-1], walsh[len(walsh)-k]
}

// smallW is P(W <= w) of Wilcoxon's signed-rank statistic of n differences that are
// as likely to be positive as negative: of the 2^n sets of ranks 1 … n, those with
// a sum of at most w.
func smallW(n, w int) float64 {
	ways := make([]float64, n*(n+1)/2+1)
	ways[0] = 1
	for rank := 1; rank <= n; rank++ {
		for v := len(ways) - 1; v >= rank; v-- {
			ways[v] += ways[v-rank]
		}
	}
	var sum float64
	for v := 0; v <= min(w, len(ways)-1); v++ {
		sum += ways[v]
	}
	return sum / math.Pow(2, float64(n))
}

// pairsNeverSignificant says why so few pairs cannot show a difference, or "".
func pairsNeverSignificant(n int, confidence float64) string {
	p := smallW(n, 0)
	if p < (1-confidence)-1e-12 {
		return ""
	}
	enough := n
	for smallW(enough, 0) >= (1-confidence)-1e-12 {
		enough++
	}
	return fmt.Sprintf("%s can never be significant: even when B differs to the same side in all of them, that comes by chance with probability %s, which is not below %s; %d are enough",
		plural(n, "pair", "pairs"), percent(p), percent(1-confidence), enough)
}

// notInTurn says that the runs of pairs were not made next to each other, or "".
func notInTurn(a, b []opened) string {
	for i := range a {
		for j := range a {
			if i == j {
				continue
			}
			for _, side := range [][]opened{a, b} {
				at := side[j].result.StartedAt
				first, last := a[i].result.StartedAt, b[i].result.StartedAt
				if last.Before(first) {
					first, last = last, first
				}
				if at.After(first) && at.Before(last) {
					return fmt.Sprintf("between runs %s and %s of a pair another one was made: what the machine did in the meantime looks like a difference", a[i].result.Run, b[i].result.Run)
				}
			}
		}
	}
	return ""
}
