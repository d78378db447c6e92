package chart

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

// svg collects the elements of one picture.
type svg struct{ strings.Builder }

// put writes an element's parts: strings as they are, numbers rounded to a tenth
// of a pixel.
func (b *svg) put(parts ...any) {
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b.WriteString(p)
		case float64:
			b.WriteString(px(p))
		}
	}
}

// text writes a label. anchor is start, middle or end.
func (b *svg) text(x, y float64, anchor, class, s string) {
	b.put(`<text x="`, x, `" y="`, y, `"`)
	if anchor != "start" {
		b.put(` text-anchor="`, anchor, `"`)
	}
	b.put(` class="`, class, `">`, escape(s), "</text>\n")
}

func (b *svg) line(x1, y1, x2, y2 float64, class string) {
	b.put(`<line x1="`, x1, `" y1="`, y1, `" x2="`, x2, `" y2="`, y2, `" class="`, class, "\"/>\n")
}

func (b *svg) rect(x, y, w, h float64, class string) {
	b.put(`<rect x="`, x, `" y="`, y, `" width="`, max(w, 0), `" height="`, max(h, 0), `" class="`, class, "\"/>\n")
}

// open begins the picture, with the words for those who cannot see it.
func (b *svg) open(id string, w, h float64, title, desc string) {
	id = escape(id)
	b.put(`<svg viewBox="0 0 `, w, ` `, h, `" role="img" class="chart" aria-labelledby="`, id, `-t `, id, `-d">`, "\n")
	b.put(`<title id="`, id, `-t">`, escape(title), "</title>\n")
	b.put(`<desc id="`, id, `-d">`, escape(desc), "</desc>\n")
}

func px(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "0"
	}
	s := strconv.FormatFloat(v, 'f', 1, 64)
	s = strings.TrimSuffix(s, ".0")
	if s == "-0" {
		return "0"
	}
	return s
}

// escape makes any text safe between tags and inside quoted attributes.
// Characters that steer a terminal or turn the direction of text become "·".
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '"':
			b.WriteString("&#34;")
		case r == '\'':
			b.WriteString("&#39;")
		case r == '\n', r == '\t':
			b.WriteRune(r)
		default:
			b.WriteRune(Printable(r))
		}
	}
	return b.String()
}

// Printable is r, or "·" in the place of a character that has no picture of its
// own and would act on whatever shows it: controls, escapes, direction overrides.
func Printable(r rune) rune {
	if r == unicode.ReplacementChar || unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
		return '·'
	}
	return r
}

// textWidth estimates how wide s is in a proportional font of the given size, on
// the wide side: there is no font to measure with, and a label that is cut a
// little early is better than two that overlap.
func textWidth(s string, size float64) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune(" .,:;'|!ijl", r):
			w += 0.34
		case strings.ContainsRune("mwMW@%…→", r):
			w += 0.95
		case r >= 'A' && r <= 'Z':
			w += 0.72
		case r >= '0' && r <= '9', r == '<', r == '=', r == '>':
			w += 0.62
		case r < 0x2e80:
			w += 0.58
		default:
			w += 1.05
		}
	}
	return w * size
}

// clip shortens s to at most room pixels, with "…" for what is gone; "" when
// not even two characters fit.
func clip(s string, room, size float64) string {
	if textWidth(s, size) <= room {
		return s
	}
	runes := []rune(s)
	for n := len(runes) - 1; n >= 2; n-- {
		if short := strings.TrimRight(string(runes[:n]), " ") + "…"; textWidth(short, size) <= room {
			return short
		}
	}
	return ""
}
