package chart

import (
	"math"
)

// Color names a colour of CSS by its meaning. The six series colours can be told
// apart with every common form of colour blindness (after Okabe and Ito).
type Color string

const (
	Blue   Color = "1"
	Orange Color = "2"
	Purple Color = "3"
	Teal   Color = "4"
	Yellow Color = "5"
	Grey   Color = "6"
	Good   Color = "ok"
	Bad    Color = "bad"
	Unsure Color = "warn"
)

// Span is a stretch of the x axis with a name: a phase, or the time of a fault.
type Span struct {
	From, To float64
	Label    string
}

// Tick is one labelled place on an axis.
type Tick struct {
	At    float64
	Label string
}

// Axis is one direction of a plot. A zero range (Min == Max) is taken from what
// is drawn.
type Axis struct {
	Label    string
	Min, Max float64
	Log      bool
	Format   func(float64) string // of a tick; default TickNumber
	Ticks    []Tick               // in place of computed ones
}

// Readout is what a pointer over [From, To) of the x axis is told.
type Readout struct {
	From, To float64
	Text     string
}

const (
	fontSize  = 12.0
	rowHeight = 17.0
)

// frame is what Plot and Lanes have in common: the time axis, the phases and
// faults named in rows above it and shaded within, and the place left for the rest.
type frame struct {
	svg
	x                        Scale
	left, right, top, bottom float64 // of the plot area
}

// strip is the rows above the plot area.
type strip struct {
	phases []Span
	rows   [][]Span // bands, packed so that neither they nor their names overlap
}

// newStrip packs bands into rows: each into the first row where its bar and its
// name have room.
func newStrip(phases, bands []Span, x Scale) strip {
	s := strip{phases: phases}
	var ends []float64 // per row, where the next may begin
	for _, b := range bands {
		from, to := x.Pos(b.From), bandEnd(b, x)
		_, _, left, right := bandLabel(b.Label, from, to, x)
		row := 0
		for row < len(ends) && left < ends[row] {
			row++
		}
		if row == len(ends) {
			s.rows, ends = append(s.rows, nil), append(ends, 0)
		}
		s.rows[row], ends[row] = append(s.rows[row], b), right+6
	}
	return s
}

// bandEnd leaves even the shortest fault two pixels.
func bandEnd(b Span, x Scale) float64 {
	to := b.To
	if math.IsNaN(to) || math.IsInf(to, 0) {
		to = x.Max
	}
	return max(x.Pos(to), x.Pos(b.From)+2)
}

// bandLabel finds the place for a fault's name: within its bar, else right of it,
// else left of it, else within and clipped. left and right are what the two take up together.
func bandLabel(label string, from, to float64, x Scale) (text string, at, left, right float64) {
	w := textWidth(label, 11)
	edge := max(x.From, x.To)
	switch {
	case label == "":
		return "", from, from, to
	case w+8 <= to-from:
		return label, from + 4, from, to
	case to+4+w <= edge:
		return label, to + 4, from, to + 4 + w
	case from-4-w >= min(x.From, x.To):
		return label, from - 4 - w, from - 4 - w, to
	case to-from > edge-to:
		return clip(label, to-from-8, 11), from + 4, from, to
	default:
		return clip(label, edge-to-4, 11), to + 4, from, edge
	}
}

func (s strip) height() float64 {
	h := float64(len(s.rows)) * rowHeight
	if len(s.phases) > 0 {
		h += rowHeight
	}
	return h
}

// drawStrip writes the rows, the last of them just above the plot area.
func (f *frame) drawStrip(s strip) {
	y := f.top - s.height()
	if len(s.phases) > 0 {
		for _, p := range s.phases {
			from, to := f.x.Pos(p.From), f.x.Pos(p.To)
			if label := clip(p.Label, to-from-4, 11); label != "" {
				f.text((from+to)/2, y+12, "middle", "c-phase", label)
			}
		}
		y += rowHeight
	}
	for _, row := range s.rows {
		for _, b := range row {
			from, to := f.x.Pos(b.From), bandEnd(b, f.x)
			f.rect(from, y+1, to-from, rowHeight-3, "c-bandbar")
			if text, at, _, _ := bandLabel(b.Label, from, to, f.x); text != "" {
				f.text(at, y+12, "start", "c-bandtxt", text)
			}
		}
		y += rowHeight
	}
}

// drawBack shades the faults and draws the borders of the phases.
func (f *frame) drawBack(phases, bands []Span) {
	for _, b := range bands {
		from := f.x.Pos(b.From)
		f.rect(from, f.top, bandEnd(b, f.x)-from, f.bottom-f.top, "c-band")
	}
	for i, p := range phases {
		if i > 0 && p.From > f.x.Min && p.From < f.x.Max {
			f.line(f.x.Pos(p.From), f.top, f.x.Pos(p.From), f.bottom, "c-border")
		}
	}
}

// drawX writes the axis below the plot area; labels that would touch are left out.
func (f *frame) drawX(a Axis) {
	f.line(f.left, f.bottom, f.right, f.bottom, "c-axis")
	ticks := a.Ticks
	if ticks == nil {
		format := a.Format
		if format == nil {
			format = TickNumber
		}
		for _, v := range TimeTicks(f.x.Min, f.x.Max, int(max(2, (f.right-f.left)/70))) {
			ticks = append(ticks, Tick{v, format(v)})
		}
	}
	free := math.Inf(-1)
	for _, t := range ticks {
		if t.At < f.x.Min || t.At > f.x.Max {
			continue
		}
		x, w := f.x.Pos(t.At), textWidth(t.Label, fontSize)
		at := min(max(x, f.left-10+w/2), f.right+12-w/2)
		f.line(x, f.bottom, x, f.bottom+4, "c-axis")
		if at-w/2 < free {
			continue
		}
		f.text(at, f.bottom+16, "middle", "c-txt", t.Label)
		free = at + w/2 + 6
	}
	if a.Label != "" {
		f.text((f.left+f.right)/2, f.bottom+32, "middle", "c-txt", a.Label)
	}
}

func (a Axis) footHeight() float64 {
	if a.Label != "" {
		return 38
	}
	return 22
}

// drawHits lays the places for a pointer over the plot area.
func (f *frame) drawHits(readouts []Readout) {
	if len(readouts) == 0 {
		return
	}
	f.put("<g class=\"c-hits\">\n")
	for _, r := range readouts {
		from, to := f.x.Pos(r.From), f.x.Pos(r.To)
		f.put(`<rect x="`, from, `" y="`, f.top, `" width="`, max(to-from, 0), `" height="`, f.bottom-f.top, `"><title>`, escape(r.Text), "</title></rect>\n")
	}
	f.put("</g>\n")
}

// key is one entry of a legend.
type key struct {
	name string
	draw func(f *frame, x, y float64) // within 22 × 10 pixels, y the middle
}

// legendHeight and drawLegend agree on how entries fall into rows.
func legendHeight(keys []key, left, right float64) float64 {
	rows := 0.0
	layoutLegend(keys, left, right, func(_ key, _ string, _ float64, row int) { rows = float64(row + 1) })
	if rows == 0 {
		return 0
	}
	return rows*rowHeight + 6
}

func layoutLegend(keys []key, left, right float64, place func(k key, label string, x float64, row int)) {
	x, row := left, 0
	for _, k := range keys {
		label := clip(k.name, right-left-30, fontSize)
		w := 28 + textWidth(label, fontSize) + 14
		if x > left && x+w-14 > right {
			x, row = left, row+1
		}
		place(k, label, x, row)
		x += w
	}
}

func (f *frame) drawLegend(keys []key, left, top float64) {
	layoutLegend(keys, left, f.right, func(k key, label string, x float64, row int) {
		y := top + 10 + float64(row)*rowHeight
		k.draw(f, x, y)
		f.text(x+28, y+4, "start", "c-key", label)
	})
}

// box is a place taken, so that labels keep out of each other's way.
type box struct{ x1, y1, x2, y2 float64 }

func (b box) meets(o box) bool { return b.x1 < o.x2 && o.x1 < b.x2 && b.y1 < o.y2 && o.y1 < b.y2 }
