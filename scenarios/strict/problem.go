package strict

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is one mistake in a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; the column counts runes
	Path         string // "faults.slow-db.target"; empty where the YAML itself is wrong
	Message      string // what is wrong, and what is allowed
	Hint         string // what to do; may be empty
	Source       string // the line of the file
}

// Problems is every mistake of a file, in the order of the file.
type Problems []Problem

// Error is all of them, each with its place, its line and a caret:
//
//	shop.yaml:12:5: unknown key "latncy" in faults.slow-payments
//	   12 |     latncy: { delay: 800ms }
//	      |     ^
//	      hint: did you mean "latency"?
func (all Problems) Error() string {
	var b strings.Builder
	for i, p := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	if len(all) > 1 {
		fmt.Fprintf(&b, "\n%d mistakes in %s", len(all), all[0].File)
	}
	return b.String()
}

// String is one mistake as Problems.Error shows it.
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
	const gutter = "      "
	if p.Source != "" {
		source, caret := excerpt(p.Source, p.Column)
		fmt.Fprintf(&b, "\n%5d | %s\n%s| %s^", p.Line, source, gutter, strings.Repeat(" ", caret))
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "\n%shint: %s", gutter, p.Hint)
	}
	return b.String()
}

// excerpt is the part of a line around a column that fits a terminal, with
// everything that would move the caret or the terminal made a plain sign; caret
// is how many columns stand before it.
func excerpt(line string, column int) (text string, caret int) {
	const width, before = 100, 60
	// A line may be a whole megabyte: look only at what can be shown.
	runes := make([]rune, 0, width+2)
	skip := 0
	if column > width-10 {
		skip = column - 1 - before
	}
	i := 0
	cut := false
	for _, r := range line {
		if i++; i <= skip {
			continue
		}
		if len(runes) == width {
			cut = true
			break
		}
		switch {
		case r == '\t':
			r = ' '
		case !unicode.IsPrint(r):
			r = '\ufffd'
		}
		runes = append(runes, r)
	}
	caret = max(column-1-skip, 0)
	text = strings.TrimRight(string(runes), " ")
	if skip > 0 {
		text, caret = "…"+text, caret+1
	}
	if cut {
		text += "…"
	}
	return text, caret
}

// add keeps a mistake; beyond MaxProblems they are only counted.
func (d *Document) add(at position, path, message, hint string) {
	if len(d.problems) >= MaxProblems {
		d.more++
		return
	}
	p := Problem{File: d.file, Line: max(at.line, 1), Column: max(at.column, 1), Path: path, Message: message, Hint: hint}
	if p.Line <= len(d.lines) {
		p.Source = d.lines[p.Line-1]
		p.Column = min(p.Column, utf8.RuneCountInString(p.Source)+1) // the parser puts what is missing beyond the line
	}
	d.problems = append(d.problems, p)
}

// mistake adds what decoding found, and remembers it for Report.
func (d *Document) mistake(at position, path, hint, format string, args ...any) {
	d.broken[path] = true
	d.partial[parent(path)] = true
	d.add(at, path, fmt.Sprintf(format, args...), hint)
}

// parent is a path without its last step: "a.b[1]" -> "a.b" -> "a" -> "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}
