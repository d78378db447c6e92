package chart

import (
	"html/template"
	"math"
	"strings"
)

// Plot is series over a common x axis.
//
//	         warmup |  before  |      during      |  after      phases
//	                           [ slow-payments    ]             bands
//	  1 s  ┤                 - - - p95 < 700ms - -              limits
//	       ┤                      /‾‾‾‾‾‾‾‾‾‾\
//	10 ms  ┤  ________________/              \______            series
//	       └──┬────────┬─────────┬─────────┬──────
//	          0 s      20 s      40 s      60 s
//	  — p50   - - p95   ··· p99                                 legend
type Plot struct {
	ID          string // unique on its page
	Title, Desc string
	Width       float64 // of the whole picture
	Height      float64 // of the plot area alone; rows, axis and legend come on top
	X, Y        Axis
	Phases      []Span
	Bands       []Span // faults
	HideLabels  bool   // of phases and bands, where a larger picture nearby has them
	Limits      []Limit
	LimitName   string // in the legend; default "limit, where it is judged"
	Series      []Series
	Readouts    []Readout
	Empty       string // what to say where nothing is drawn; default "no data"
}

// Limit is a line that values should stay on one side of.
type Limit struct {
	From, To, Y float64
	Label       string
}

// Style is how a series is drawn.
type Style int

const (
	Line Style = iota // from point to point
	Step              // constant over Series.Width from each point on
	Area              // as Step, filled between Y0 and Y
)

// Series is one set of values. A NaN is a gap; +Inf is beyond the axis and gets
// a mark at the upper edge.
type Series struct {
	Name   string
	Style  Style
	Color  Color
	Dash   string // SVG's stroke-dasharray: "6 3"; empty: solid
	Stroke float64
	Width  float64 // of a point's step, in units of x
	Points []Point
}

// Point is one value. Y0 is the lower edge, for an Area.
type Point struct{ X, Y, Y0 float64 }

// SVG draws the plot.
func (p Plot) SVG() template.HTML {
	f := &frame{}
	yAxis, yScale, yTicks := p.yAxis()

	labelWidth := 0.0
	for _, t := range yTicks {
		labelWidth = max(labelWidth, textWidth(t.Label, fontSize))
	}
	f.left, f.right = math.Ceil(labelWidth)+12, p.Width-14
	f.x = Scale{Min: p.X.Min, Max: p.X.Max, From: f.left, To: f.right}
	if !(f.x.Max > f.x.Min) {
		f.x.Min, f.x.Max = p.xRange()
	}
	var rows strip
	if !p.HideLabels {
		rows = newStrip(p.Phases, p.Bands, f.x)
	}
	head := 0.0
	if yAxis.Label != "" {
		head = rowHeight + 1
		if rows.height() == 0 {
			head += 8 // keeps it off the label of the uppermost tick
		}
	}
	f.top = 4 + head + rows.height() + 3
	f.bottom = f.top + p.Height
	keys := p.keys()
	legendTop := f.bottom + p.X.footHeight() + 2
	height := legendTop + legendHeight(keys, f.left, f.right)

	f.open(p.ID, p.Width, height, p.Title, p.Desc)
	if yAxis.Label != "" {
		f.text(2, 4+12, "start", "c-txt", clip(yAxis.Label, p.Width-10, fontSize))
	}
	f.drawStrip(rows)
	f.drawBack(p.Phases, p.Bands)

	yScale.From, yScale.To = f.bottom, f.top
	for _, t := range yTicks {
		y := yScale.Pos(t.At)
		f.line(f.left, y, f.right, y, "c-grid")
		f.text(f.left-6, y+4, "end", "c-txt", t.Label)
	}
	drawn := false
	for _, s := range p.Series {
		drawn = f.drawSeries(s, yScale) || drawn
	}
	f.drawLimits(p.Limits, p.Series, yScale)
	if !drawn {
		empty := p.Empty
		if empty == "" {
			empty = "no data"
		}
		f.text((f.left+f.right)/2, (f.top+f.bottom)/2+4, "middle", "c-empty", clip(empty, f.right-f.left, 13))
	}
	f.drawX(p.X)
	f.drawLegend(keys, f.left, legendTop)
	f.drawHits(p.Readouts)
	f.put("</svg>")
	return template.HTML(f.String())
}

// yAxis fills in the range and the ticks.
func (p Plot) yAxis() (Axis, Scale, []Tick) {
	a := p.Y
	if a.Format == nil {
		a.Format = TickNumber
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	see := func(v float64) {
		if !math.IsNaN(v) && !math.IsInf(v, 0) && (!a.Log || v > 0) {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	for _, s := range p.Series {
		for _, pt := range s.Points {
			see(pt.Y)
		}
	}
	for _, l := range p.Limits {
		see(l.Y)
	}
	n := int(max(4, p.Height/38))
	scale := Scale{Min: a.Min, Max: a.Max, Log: a.Log}
	if !(a.Max > a.Min) {
		if a.Log {
			scale.Min, scale.Max = NiceLog(lo, hi)
		} else {
			scale.Min, scale.Max = Nice(min(lo, 0), hi, n)
		}
	}
	ticks := a.Ticks
	if ticks == nil {
		values := Ticks(scale.Min, scale.Max, n)
		if a.Log {
			values = LogTicks(scale.Min, scale.Max, n+2)
		}
		for _, v := range values {
			ticks = append(ticks, Tick{v, a.Format(v)})
		}
	}
	return a, scale, ticks
}

func (p Plot) xRange() (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, s := range p.Series {
		for _, pt := range s.Points {
			if !math.IsNaN(pt.X) && !math.IsInf(pt.X, 0) {
				lo, hi = min(lo, pt.X), max(hi, pt.X+s.Width)
			}
		}
	}
	if !(hi > lo) {
		return 0, 1
	}
	return lo, hi
}

// drawSeries tells whether there was anything to draw.
func (f *frame) drawSeries(s Series, y Scale) bool {
	var path strings.Builder
	var dots []Point
	drawn := false
	for i := 0; i < len(s.Points); {
		run := i
		for run < len(s.Points) && finite(s.Points[run].X) && finite(s.Points[run].Y) {
			run++
		}
		if run > i {
			f.tracePath(&path, s, s.Points[i:run], y)
			if run == i+1 && s.Style == Line {
				dots = append(dots, s.Points[i])
			}
			drawn = true
		}
		i = max(run, i+1)
	}
	if path.Len() > 0 {
		if s.Style == Area {
			f.put(`<path d="`, path.String(), `" class="c-area f-`, string(s.Color), "\"/>\n")
		} else {
			f.put(`<path d="`, path.String(), `" class="l-`, string(s.Color), `" stroke-width="`, s.stroke(), `"`)
			if s.Dash != "" {
				f.put(` stroke-dasharray="`, escape(s.Dash), `"`)
			}
			f.put("/>\n")
		}
	}
	for _, d := range dots {
		f.put(`<circle cx="`, f.x.Pos(d.X), `" cy="`, y.Pos(d.Y), `" r="2" class="f-`, string(s.Color), "\"/>\n")
	}
	for _, pt := range s.Points {
		if math.IsInf(pt.Y, 1) && finite(pt.X) {
			f.triangle(f.x.Pos(pt.X+s.Width/2), f.top+1, s.Color)
			drawn = true
		}
	}
	return drawn
}

func (s Series) stroke() float64 {
	if s.Stroke > 0 {
		return s.Stroke
	}
	return 1.8
}

// tracePath appends one unbroken stretch of the series.
func (f *frame) tracePath(path *strings.Builder, s Series, run []Point, y Scale) {
	to := func(cmd string, px_, py float64) { path.WriteString(cmd + px(px_) + " " + px(py)) }
	cmd := "M"
	for _, pt := range run {
		to(cmd, f.x.Pos(pt.X), y.Pos(pt.Y))
		if cmd = "L"; s.Style != Line {
			to("L", f.x.Pos(pt.X+s.Width), y.Pos(pt.Y))
		}
	}
	if s.Style == Area {
		for i := len(run) - 1; i >= 0; i-- {
			to("L", f.x.Pos(run[i].X+s.Width), y.Pos(run[i].Y0))
			to("L", f.x.Pos(run[i].X), y.Pos(run[i].Y0))
		}
		path.WriteString("Z")
	}
}

// triangle points beyond the upper edge.
func (f *frame) triangle(x, y float64, c Color) {
	f.put(`<path d="M`, px(x), ` `, px(y), `L`, px(x-4), ` `, px(y+7), `L`, px(x+4), ` `, px(y+7), `Z" class="f-`, string(c), "\"/>\n")
}

// drawLimits puts each label above or below its line, at its start, middle or
// end, where it covers no other label, stays within the plot, and lies over the
// fewest points. A label that fits nowhere is left out; the line stays, and so do
// the tables.
func (f *frame) drawLimits(limits []Limit, series []Series, y Scale) {
	var taken []box
	for _, l := range limits {
		x1, x2, at := f.x.Pos(l.From), f.x.Pos(l.To), y.Pos(l.Y)
		f.line(x1, at, x2, at, "c-limit")
		w := textWidth(l.Label, 11)
		best, over := box{}, -1
		for _, place := range []struct{ x, y float64 }{
			{x1 + 3, at - 4}, {x2 - w - 3, at - 4}, {(x1+x2)/2 - w/2, at - 4},
			{x1 + 3, at + 13}, {x2 - w - 3, at + 13}, {(x1+x2)/2 - w/2, at + 13},
		} {
			b := box{place.x - 2, place.y - 11, place.x + w + 2, place.y + 3}
			ok := b.x1 >= f.left && b.x2 <= f.right && b.y1 >= f.top-2 && b.y2 <= f.bottom
			for _, t := range taken {
				ok = ok && !b.meets(t)
			}
			if n := f.pointsIn(b, series, y); ok && (over < 0 || n < over) {
				best, over = b, n
			}
		}
		if over >= 0 {
			taken = append(taken, best)
			f.text(best.x1+2, best.y2-3, "start", "c-limittxt", l.Label)
		}
	}
}

func (f *frame) pointsIn(b box, series []Series, y Scale) (n int) {
	for _, s := range series {
		for _, pt := range s.Points {
			if finite(pt.X) && finite(pt.Y) && b.meets(box{f.x.Pos(pt.X), y.Pos(pt.Y), f.x.Pos(pt.X) + 0.1, y.Pos(pt.Y) + 0.1}) {
				n++
			}
		}
	}
	return n
}

// keys are the legend: series with a name, then limits and the mark for "beyond".
func (p Plot) keys() []key {
	var keys []key
	beyond := false
	for _, s := range p.Series {
		for _, pt := range s.Points {
			beyond = beyond || math.IsInf(pt.Y, 1)
		}
		if s.Name == "" {
			continue
		}
		keys = append(keys, key{s.Name, func(f *frame, x, y float64) {
			if s.Style == Area {
				f.rect(x, y-5, 22, 10, "c-area f-"+string(s.Color))
				return
			}
			f.put(`<path d="M`, x, ` `, y, `L`, x+22, ` `, y, `" class="l-`, string(s.Color), `" stroke-width="`, s.stroke(), `"`)
			if s.Dash != "" {
				f.put(` stroke-dasharray="`, escape(s.Dash), `"`)
			}
			f.put("/>\n")
		}})
	}
	if len(p.Limits) > 0 {
		name := p.LimitName
		if name == "" {
			name = "limit, where it is judged"
		}
		keys = append(keys, key{name, func(f *frame, x, y float64) { f.line(x, y, x+22, y, "c-limit") }})
	}
	if beyond {
		keys = append(keys, key{"falls among failed requests", func(f *frame, x, y float64) { f.triangle(x+11, y-4, Grey) }})
	}
	if len(p.Bands) > 0 {
		keys = append(keys, key{"fault active", func(f *frame, x, y float64) {
			f.rect(x, y-5, 22, 10, "c-bandbar")
		}})
	}
	return keys
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
