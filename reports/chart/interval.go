package chart

import (
	"html/template"
	"math"
)

// Interval is an estimate of a share with its bounds, against the share to reach:
//
//	   |         ├────●────┤
//	target      low  est.  high
type Interval struct {
	ID             string
	Title          string
	Low, High      float64 // NaN: unknown
	Estimate       float64
	Target         float64
	Color          Color
	Width          float64 // default 150
	LowEnd, TopEnd float64 // of the axis; default: around the values
}

// SVG draws the interval, 26 pixels high.
func (i Interval) SVG() template.HTML {
	width := i.Width
	if width == 0 {
		width = 150
	}
	const height = 26.0
	b := &svg{}
	b.open(i.ID, width, height, i.Title, "estimate, its lower and upper bound, and the target as a line")
	lo, hi := i.axis()
	x := Scale{Min: lo, Max: hi, From: 6, To: width - 6}
	if finite(i.Estimate) {
		b.line(x.From, 13, x.To, 13, "c-grid")
	}
	if finite(i.Low) && finite(i.High) {
		b.put(`<path d="M`, x.Pos(i.Low), ` 13L`, x.Pos(i.High), ` 13M`, x.Pos(i.Low), ` 8L`, x.Pos(i.Low), ` 18M`, x.Pos(i.High), ` 8L`, x.Pos(i.High), ` 18" class="l-`, string(i.Color), `" stroke-width="2"/>`, "\n")
	}
	if finite(i.Target) && finite(i.Estimate) {
		b.line(x.Pos(i.Target), 2, x.Pos(i.Target), 24, "c-target")
	}
	if finite(i.Estimate) {
		b.put(`<circle cx="`, x.Pos(i.Estimate), `" cy="13" r="4" class="f-`, string(i.Color), "\"/>\n")
	} else {
		b.text(width/2, 17, "middle", "c-txt", "no data")
	}
	b.put("</svg>")
	return template.HTML(b.String())
}

// axis gives the values some air, within 0 and 1.
func (i Interval) axis() (lo, hi float64) {
	if i.TopEnd > i.LowEnd {
		return i.LowEnd, i.TopEnd
	}
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, v := range []float64{i.Low, i.High, i.Estimate, i.Target} {
		if finite(v) {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	if lo > hi {
		return 0, 1
	}
	air := max((hi-lo)*0.15, 0.0005)
	return max(0, lo-air), min(1, hi+air)
}
