package chart

import "html/template"

// Lanes show states that lasted, one lane below the other, over one time axis.
type Lanes struct {
	ID          string
	Title, Desc string
	Width       float64
	X           Axis
	Phases      []Span
	Bands       []Span
	Lanes       []Lane
	Empty       string // what to say where nothing is drawn; default "no data"
}

// Lane is one row of states.
type Lane struct {
	Label  string
	Thin   bool // a second opinion on the lane above
	States []State
}

// State is one stretch of a lane. Its text stands within where it fits; Hatched
// marks it apart from its neighbours without colour.
type State struct {
	From, To float64
	Text     string
	Color    Color
	Hatched  bool
}

// SVG draws the lanes.
func (l Lanes) SVG() template.HTML {
	f := &frame{left: 10, right: l.Width - 14}
	f.x = Scale{Min: l.X.Min, Max: l.X.Max, From: f.left, To: f.right}
	if !(f.x.Max > f.x.Min) {
		f.x.Max = f.x.Min + 1
	}
	rows := newStrip(l.Phases, l.Bands, f.x)
	f.top = 4 + rows.height() + 3
	f.bottom = f.top + 4
	for _, lane := range l.Lanes {
		f.bottom += lane.height()
	}
	if len(l.Lanes) == 0 {
		f.bottom += 40
	}
	keys := l.keys()
	legendTop := f.bottom + l.X.footHeight() + 2

	f.open(l.ID, l.Width, legendTop+legendHeight(keys, f.left, f.right), l.Title, l.Desc)
	f.put(`<defs><pattern id="`, escape(l.ID), `-h" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="7" class="c-hatch"/></pattern></defs>`, "\n")
	f.drawStrip(rows)
	f.drawBack(l.Phases, l.Bands)
	y := f.top + 2
	for _, lane := range l.Lanes {
		f.text(f.left+2, y+13, "start", "c-lane", clip(lane.Label, f.right-f.left-4, fontSize))
		if len(lane.States) == 0 {
			f.text((f.left+f.right)/2, y+18+lane.bar()/2+4, "middle", "c-empty", l.empty())
		}
		for _, s := range lane.States {
			f.drawState(s, y+18, lane.bar(), l.ID)
		}
		y += lane.height()
	}
	if len(l.Lanes) == 0 {
		f.text((f.left+f.right)/2, f.top+26, "middle", "c-empty", clip(l.empty(), f.right-f.left, 13))
	}
	f.drawX(l.X)
	f.drawLegend(keys, f.left, legendTop)
	f.put("</svg>")
	return template.HTML(f.String())
}

func (l Lanes) empty() string {
	if l.Empty == "" {
		return "no data"
	}
	return l.Empty
}

func (l Lane) bar() float64 {
	if l.Thin {
		return 11
	}
	return 20
}

func (l Lane) height() float64 { return 18 + l.bar() + 6 }

// drawState leaves every state a pixel and a half, however short it was.
func (f *frame) drawState(s State, y, h float64, id string) {
	from := f.x.Pos(s.From)
	to := max(f.x.Pos(s.To), from+1.5)
	f.put(`<g><title>`, escape(s.Text+" from "+Clock(s.From)+" to "+Clock(s.To)), "</title>\n")
	f.rect(from, y, to-from, h, "f-"+string(s.Color))
	if s.Hatched {
		f.put(`<rect x="`, from, `" y="`, y, `" width="`, to-from, `" height="`, h, `" fill="url(#`, escape(id), "-h)\"/>\n")
	}
	if w := textWidth(s.Text, 11); h >= 16 && w+8 <= to-from {
		f.text((from+to)/2, y+h/2+4, "middle", "c-on-"+string(s.Color), s.Text)
	}
	f.put("</g>\n")
}

// keys name each state once, in the order they are met.
func (l Lanes) keys() []key {
	var keys []key
	seen := map[string]bool{}
	for _, lane := range l.Lanes {
		for _, s := range lane.States {
			if seen[s.Text] {
				continue
			}
			seen[s.Text] = true
			keys = append(keys, key{s.Text, func(f *frame, x, y float64) {
				f.rect(x, y-5, 22, 10, "f-"+string(s.Color))
				if s.Hatched {
					f.put(`<rect x="`, x, `" y="`, y-5, `" width="22" height="10" fill="url(#`, escape(l.ID), "-h)\"/>\n")
				}
			}})
		}
	}
	if len(l.Bands) > 0 {
		keys = append(keys, key{"fault active", func(f *frame, x, y float64) { f.rect(x, y-5, 22, 10, "c-bandbar") }})
	}
	return keys
}
