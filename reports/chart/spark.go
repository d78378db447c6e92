package chart

import (
	"math"
	"strings"
)

// Sparkline is a line of text, one character per value: ▁ at lo … █ at hi, a
// space where the value is missing (NaN), ✗ where it is beyond all measure (+Inf).
func Sparkline(values []float64, lo, hi float64) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, v := range values {
		switch {
		case math.IsNaN(v), math.IsInf(v, -1):
			b.WriteByte(' ')
		case math.IsInf(v, 1):
			b.WriteRune('✗')
		case !(hi > lo):
			b.WriteRune(levels[0])
		default:
			share := min(max((v-lo)/(hi-lo), 0), 1)
			b.WriteRune(levels[int(math.Round(share*float64(len(levels)-1)))])
		}
	}
	return b.String()
}
