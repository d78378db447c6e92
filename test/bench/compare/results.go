package compare

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Results are the samples of a run.
type Results struct {
	samples map[key][]float64
	failed  []error
}

type key struct{ subject, row string }

func (r *Results) add(subject, row string, v float64) {
	r.samples[key{subject, row}] = append(r.samples[key{subject, row}], v)
}

// Median of what was measured; false if nothing was.
func (r *Results) Median(subject, row string) (float64, bool) {
	v := r.samples[key{subject, row}]
	if len(v) == 0 {
		return 0, false
	}
	return Median(v), true
}

// Median is the middle value, or the mean of the two middle ones; v, which must
// not be empty, stays in its order.
func Median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Quantile of v, which must not be empty: the smallest value that at least the
// share q of all does not exceed (nearest rank).
func Quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	rank := int(math.Ceil(q * float64(len(v))))
	return v[min(max(rank, 1), len(v))-1]
}

// spread is half of the range, as a share of the median.
func (r *Results) spread(subject, row string) float64 {
	v := r.samples[key{subject, row}]
	if len(v) < 3 {
		return 0
	}
	if m := Median(v); m > 0 {
		return (slices.Max(v) - slices.Min(v)) / 2 / m
	}
	return 0
}

// times is how often better a program is than its peer: the quotient of the
// medians that is above 1 when it is better.
func (r *Results) times(row Row, subject, peer string) (float64, bool) {
	ours, ok := r.Median(subject, row.Key)
	theirs, ok2 := r.Median(peer, row.Key)
	if row.Less {
		ours, theirs = theirs, ours
	}
	if !ok || !ok2 || theirs <= 0 || ours < 0 {
		return 0, false
	}
	return ours / theirs, true
}

// Goal is judged on the medians: its text, and met, missed, or why it cannot be
// judged.
type Goal func(row Row, r *Results) (text, verdict string)

const (
	met    = "met"
	missed = "**missed**"
)

// Times: ours is at least so many times better than the peer (0.95: hardly worse).
func Times(factor float64, peer string) Goal { return TimesOf(Ours, factor, peer) }

// TimesOf is Times for a column that is called something else.
func TimesOf(subject string, factor float64, peer string) Goal {
	return func(row Row, r *Results) (string, string) {
		text := fmt.Sprintf("≥ %s × %s", number(factor), peer)
		if row.Less {
			text = fmt.Sprintf("%s × better than %s", number(factor), peer)
		}
		times, ok := r.times(row, subject, peer)
		return text, verdict(times >= factor, ok, r, row, peer, subject)
	}
}

// OfRow: ours is at least this share of ours in another row.
func OfRow(factor float64, other Row) Goal {
	return func(row Row, r *Results) (string, string) {
		ours, ok := r.Median(Ours, row.Key)
		base, ok2 := r.Median(Ours, other.Key)
		return fmt.Sprintf("≥ %s × %s", number(factor), other.Label), verdict(ours >= factor*base, ok && ok2, r, row, Ours)
	}
}

// AtMost: ours is no more than limit.
func AtMost(limit float64) Goal {
	return limited("≤ "+number(limit), func(v float64) bool { return v <= limit })
}

// AtLeast: ours is no less than limit.
func AtLeast(limit float64) Goal {
	return limited("≥ "+number(limit), func(v float64) bool { return v >= limit })
}

// Within: ours is at most limit away from 0.
func Within(limit float64) Goal {
	return limited("± "+number(limit), func(v float64) bool { return math.Abs(v) <= limit })
}

func limited(text string, good func(v float64) bool) Goal {
	return func(row Row, r *Results) (string, string) {
		ours, ok := r.Median(Ours, row.Key)
		return text, verdict(good(ours), ok, r, row, Ours)
	}
}

// verdict of a goal that needs a number of each of the subjects.
func verdict(good, judged bool, r *Results, row Row, subjects ...string) string {
	switch {
	case !judged:
		missing := slices.DeleteFunc(subjects, func(s string) bool {
			_, ok := r.Median(s, row.Key)
			return ok
		})
		if len(missing) == 0 {
			return "not judged"
		}
		return "not judged, no number of " + strings.Join(missing, ", ")
	case good:
		return met
	}
	return missed
}

// tally counts the goals.
func (r *Results) tally(b Bench) string {
	counts := map[string]int{}
	for _, s := range b.Sections {
		for _, p := range s.Probes {
			for _, row := range p.Rows {
				for _, g := range row.Goals {
					_, v := g(row, r)
					if v != met && v != missed {
						v = ""
					}
					counts[v]++
				}
			}
		}
	}
	return fmt.Sprintf("goals: %d met, %d missed, %d not judged", counts[met], counts[missed], counts[""])
}

// number prints three digits, more only before the point: 1,234, 12.3, 0.0123.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case a == 0:
		return "0"
	case a < 100:
		digits := 2 - int(math.Floor(math.Log10(a)))
		s := fmt.Sprintf("%.*f", min(digits, 4), v)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
