package chart

import (
	"math"
)

// Scale maps values to coordinates. The zero Scale maps everything to 0.
type Scale struct {
	Min, Max float64 // values, Min < Max; for Log both above 0
	From, To float64 // coordinates of Min and Max; To < From is an axis that goes up
	Log      bool
}

// Pos is the coordinate of v, held within the axis.
func (s Scale) Pos(v float64) float64 {
	share := 0.0
	switch {
	case math.IsNaN(v) || !(s.Max > s.Min):
	case s.Log:
		if v > 0 {
			share = (math.Log(v) - math.Log(s.Min)) / (math.Log(s.Max) - math.Log(s.Min))
		}
	default:
		share = (v - s.Min) / (s.Max - s.Min)
	}
	return s.From + min(max(share, 0), 1)*(s.To-s.From)
}

// Ticks are about n round values (1, 2 or 5 times a power of ten) within [min, max].
func Ticks(min, max float64, n int) []float64 {
	return ticksOf(min, max, step(max-min, n))
}

// TimeTicks are about n round offsets in seconds within [min, max]: as Ticks up
// to three minutes, in the divisions of a clock beyond.
func TimeTicks(min, max float64, n int) []float64 {
	if max-min <= 180 {
		return Ticks(min, max, n)
	}
	for _, s := range []float64{30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400} {
		if (max-min)/s <= float64(n)+0.5 {
			return ticksOf(min, max, s)
		}
	}
	return Ticks(min, max, n)
}

// LogTicks are round values within [min, max] for a logarithmic axis: 1, 2 and 5
// of each decade where there is room for them, 1 alone (or fewer) where there is not.
func LogTicks(min, max float64, n int) []float64 {
	if !(min > 0) || !(max > min) || math.IsInf(max, 0) {
		return nil
	}
	from, to := int(math.Floor(math.Log10(min)-1e-9)), int(math.Ceil(math.Log10(max)+1e-9))
	for _, of := range []struct {
		digits []float64
		decade int
	}{{[]float64{1, 2, 5}, 1}, {[]float64{1, 3}, 1}, {[]float64{1}, 1}, {[]float64{1}, 2}, {[]float64{1}, 3}, {[]float64{1}, 6}} {
		var ticks []float64
		for e := from; e <= to; e++ {
			if (e-from)%of.decade != 0 {
				continue
			}
			for _, d := range of.digits {
				if v := d * math.Pow(10, float64(e)); v >= min*(1-1e-9) && v <= max*(1+1e-9) {
					ticks = append(ticks, v)
				}
			}
		}
		if len(ticks) <= n {
			return ticks
		}
	}
	return nil
}

// Nice widens [min, max] to round ends. A range without extent gets one, and a
// range of anything but numbers becomes [0, 1].
func Nice(lo, hi float64, n int) (float64, float64) {
	if math.IsNaN(lo) || math.IsNaN(hi) || math.IsInf(lo, 0) || math.IsInf(hi, 0) || hi < lo {
		return 0, 1
	}
	if hi == lo {
		if lo == 0 {
			return 0, 1
		}
		lo, hi = min(lo, 0), max(hi, 0)
	}
	s := step(hi-lo, n)
	return math.Floor(lo/s+1e-9) * s, math.Ceil(hi/s-1e-9) * s
}

// NiceLog widens [min, max] to ends of 1, 2 or 5 times a power of ten, at least
// one decade apart.
func NiceLog(lo, hi float64) (float64, float64) {
	if !(lo > 0) || math.IsInf(hi, 0) || !(hi >= lo) {
		return 0.001, 1
	}
	lo, hi = roundLog(lo, false), roundLog(hi, true)
	for hi/lo < 9.99 {
		lo, hi = roundLog(lo*0.99, false), roundLog(hi*1.01, true)
	}
	return lo, hi
}

func roundLog(v float64, up bool) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)+1e-9))
	digits := []float64{1, 2, 5, 10}
	for i, d := range digits {
		if up && v <= d*p*(1+1e-9) {
			return d * p
		}
		if !up && i+1 < len(digits) && v < digits[i+1]*p*(1-1e-9) {
			return d * p
		}
	}
	return 10 * p
}

// step is the round distance that cuts extent into at most about n parts.
func step(extent float64, n int) float64 {
	if !(extent > 0) || math.IsInf(extent, 0) || n < 1 {
		return 1
	}
	raw := extent / float64(n)
	p := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, d := range []float64{1, 2, 5} {
		if raw <= d*p*(1+1e-9) {
			return d * p
		}
	}
	return 10 * p
}

// ticksOf counts in whole steps, so that errors do not add up and the loop ends.
func ticksOf(min, max, step float64) []float64 {
	if !(step > 0) || !(max >= min) || math.IsInf(max-min, 0) || (max-min)/step > 1000 {
		return nil
	}
	first, last := math.Ceil(min/step-1e-9), math.Floor(max/step+1e-9)
	var ticks []float64
	for i := first; i <= last; i++ {
		ticks = append(ticks, i*step)
	}
	return ticks
}
