package reports

import (
	"strings"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// wrap breaks s at spaces into lines of at most first, then rest columns. A word
// wider than a whole line is broken where the line ends; a unit stays with its number.
func wrap(s string, first, rest int) []string {
	first, rest = max(first, 1), max(rest, 1)
	var lines []string
	line, room := "", first
	flush := func() {
		lines = append(lines, line)
		line, room = "", rest
	}
	for _, word := range words(s) {
		if line != "" && columns(line)+1+columns(word) > room {
			flush()
		}
		if line == "" && columns(word) > room && room < rest && len(lines) == 0 && columns(word) <= rest {
			flush() // it fits below, whole
		}
		for line == "" && columns(word) > room {
			head := cut(word, room)
			line, word = head, word[len(head):]
			flush()
		}
		if line == "" {
			line = word
		} else if word != "" {
			line += " " + word
		}
	}
	if line != "" || len(lines) == 0 {
		flush()
	}
	return lines
}

// words splits at spaces, but keeps "14.2 ms" together.
func words(s string) []string {
	var all []string
	for _, w := range strings.Fields(s) {
		if n := len(all); n > 0 && isUnit(w) && all[n-1] != "" && all[n-1][len(all[n-1])-1] >= '0' && all[n-1][len(all[n-1])-1] <= '9' {
			all[n-1] += " " + w
			continue
		}
		all = append(all, w)
	}
	return all
}

func isUnit(w string) bool {
	switch strings.TrimRight(w, ".,;:)") {
	case "s", "ms", "µs", "ns", "min", "h", "B", "kB", "MB", "GB", "%":
		return true
	}
	return false
}

// cut is the longest beginning of s, at least one character, within n columns.
func cut(s string, n int) string {
	if head := terminal.Truncate(s, n, ""); head != "" || s == "" {
		return head
	}
	_, size := utf8.DecodeRuneInString(s)
	return s[:size]
}

// short cuts a name to n columns, "…" included.
func short(s string, n int) string {
	s = clean(s)
	if columns(s) <= n {
		return s
	}
	if n < 1 {
		return ""
	}
	head := cut(s, n-1)
	if columns(head) > n-1 {
		head = "" // not even one character, or a wide one
	}
	return strings.TrimRight(head, " ") + "…"
}

// right pads s on its right to n columns, left on its left.
func right(s string, n int) string { return s + strings.Repeat(" ", max(n-columns(s), 0)) }
func left(s string, n int) string  { return strings.Repeat(" ", max(n-columns(s), 0)) + s }

// columns is how many columns of a terminal s takes (Unicode's East Asian Width, by
// grapheme). The locale has no say, so that the same run gives the same bytes anywhere.
func columns(s string) int { return terminal.StringWidth(s) }

var terminal = &runewidth.Condition{}
