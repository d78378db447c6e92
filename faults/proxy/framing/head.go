package framing

import "bytes"

// RequestLine cuts the method and the target out of the head of a request that
// ParseRequest understood.
func RequestLine(head []byte) (method, target []byte) {
	from, to := startLine(head)
	line := head[from:to]
	gap := bytes.IndexByte(line, ' ')
	method, line = line[:gap], line[gap+1:]
	return method, line[:bytes.IndexByte(line, ' ')]
}

// startLine is where the first line of a head is, which may have empty lines
// before it.
func startLine(head []byte) (from, to int) {
	for head[from] == '\r' || head[from] == '\n' {
		from++
	}
	return from, from + bytes.IndexByte(head[from:], '\n') + 1
}

// Lines walks through the header lines of a head.
type Lines struct{ rest []byte }

// Line is one of them. Its slices are parts of the head.
type Line struct {
	Raw   []byte // all of it, with its line ending
	Name  []byte
	Value []byte // without the white space around it
}

// LinesOf begins with the first header line of a head that ParseRequest or
// ParseAnswer understood.
func LinesOf(head []byte) Lines {
	_, to := startLine(head)
	return Lines{head[to:]}
}

// Next is the next line; false at the blank line that ends the head.
func (l *Lines) Next() (Line, bool) {
	raw, ok := cutLine(l.rest)
	if !ok {
		return Line{}, false
	}
	line := trimEOL(raw)
	if len(line) == 0 {
		return Line{}, false
	}
	l.rest = l.rest[len(raw):]
	colon := bytes.IndexByte(line, ':')
	return Line{Raw: raw, Name: line[:colon], Value: trimSpace(line[colon+1:])}, true
}

// Is tells whether the line has that name, in whatever case.
func (l Line) Is(name string) bool {
	if len(l.Name) != len(name) {
		return false
	}
	for i, c := range l.Name {
		if Lower(c) != Lower(name[i]) {
			return false
		}
	}
	return true
}

// Lower is the lower case of an ASCII letter, and any other byte as it is.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Field is a header field to be written.
type Field struct{ Name, Value string }

// Edit is what to change in a head: fields to remove; to set, where the first
// line of that name is, or at the end, with no other line of that name left; and
// to add at the end. At most 64 can be set.
type Edit struct {
	Remove   []string
	Set, Add []Field
}

// Most is how many fields an Edit can set.
const Most = 64

// Append appends the head, edited, to dst. Every line that the edit does not
// name stays as it is, byte for byte and in its place, as do the start line and
// the blank line. A head edited without names that Frames stays a head of the
// same frame.
func (e *Edit) Append(dst, head []byte) []byte {
	_, to := startLine(head)
	eol := head[to-1 : to]
	if to >= 2 && head[to-2] == '\r' {
		eol = head[to-2 : to]
	}
	dst = append(dst, head[:to]...)
	lines := Lines{head[to:]}
	set := uint64(0) // bit i: Set[i] is written
next:
	for line, ok := lines.Next(); ok; line, ok = lines.Next() {
		for _, name := range e.Remove {
			if line.Is(name) {
				continue next
			}
		}
		for i, f := range e.Set {
			if !line.Is(f.Name) {
				continue
			}
			if set&(1<<i) == 0 {
				set |= 1 << i
				dst = f.append(dst, line.Raw[len(trimEOL(line.Raw)):])
			}
			continue next
		}
		dst = append(dst, line.Raw...)
	}
	for i, f := range e.Set {
		if set&(1<<i) == 0 {
			dst = f.append(dst, eol)
		}
	}
	for _, f := range e.Add {
		dst = f.append(dst, eol)
	}
	return append(dst, lines.rest...)
}

func (f Field) append(dst, eol []byte) []byte {
	dst = append(append(append(dst, f.Name...), ": "...), f.Value...)
	return append(dst, eol...)
}

// Frames are the names, in lower case, of the fields that say where a message
// ends, when its body comes, and what becomes of its connection (RFC 9110, 7.6,
// 7.8, 10.1; RFC 9112, 6, 7.1.2, 9).
var Frames = []string{
	"connection", "content-length", "expect", "keep-alive", "proxy-connection",
	"te", "trailer", "transfer-encoding", "upgrade",
}

// IsToken tells whether s can be a method, or the name of a field.
func IsToken(s string) bool { return s != "" && isToken([]byte(s)) }

// IsValue tells whether s can be the value of a field: no control character but
// the tab, and no white space at either end, which is not part of a value.
func IsValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(trimSpace([]byte(s))) == len(s)
}
