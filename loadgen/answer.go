package loadgen

import (
	"bytes"
	"errors"
	"fmt"
)

// answer takes an HTTP/1.x response apart as it arrives, in pieces of any size,
// and keeps nothing of it itself but what decides where it ends (RFC 9112):
//
//	      1xx ┌──────┐
//	          v      │
//	statusLine ──> fields ──┬──> (no body)                     ──> complete
//	                        ├──> counted (Content-Length)      ──> complete
//	                        ├──> untilClose                    ──> complete at the end
//	                        └──> chunkSize ──> chunk ──> chunkEnd ─┐
//	                                ^    └ 0: trailer ──> complete │
//	                                └──────────────────────────────┘
//
// Where somebody looks at the answer (a reply is given), its header goes there,
// and its body as far as it is asked for.
//
// It is as strict as net/http's client about what decides the length, because a
// generator that guesses reads the next answer wrong.
type answer struct {
	head bool   // the request was a HEAD: no body whatever the fields say
	into *reply // what is kept of it, if anything

	state   answerState
	status  int
	close   bool // the connection ends with this answer
	bytes   int  // of the body, unchunked
	left    int64
	line    []byte // the beginning of a line whose end has not arrived
	fields  int    // bytes of status line and fields so far
	interim int    // 1xx answers so far

	length   int64 // of Content-Length; -1 without
	chunked  bool
	framing  bool // the field just read matters for the length: it may not be folded
	anyField bool
	http10   bool
	keep     bool // Connection: keep-alive
}

type answerState uint8

const (
	statusLine answerState = iota
	fields
	counted
	untilClose
	chunkSize
	chunk
	chunkEnd
	trailer
	complete
)

const (
	maxFields  = 256 << 10 // bytes of status line and fields, trailers included
	maxLine    = 64 << 10
	maxInterim = 32
)

var errProtocol = errors.New("not an HTTP/1.1 answer")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// reset makes a ready for the answer to a new request; nothing is kept of it
// unless into is set afterwards.
func (a *answer) reset(head bool) {
	*a = answer{head: head, length: -1, line: a.line[:0]}
}

func (a *answer) done() bool { return a.state == complete }

// feed takes the next bytes and returns how many belong to this answer; fewer
// than all only when it is complete.
func (a *answer) feed(p []byte) (n int, err error) {
	for n < len(p) && a.state != complete {
		switch a.state {
		case counted, chunk:
			take := int(min(a.left, int64(len(p)-n)))
			if a.into != nil {
				a.into.addBody(p[n : n+take])
			}
			n += take
			a.bytes += take
			if a.left -= int64(take); a.left == 0 {
				if a.state == counted {
					a.state = complete
				} else {
					a.state = chunkEnd
				}
			}
		case untilClose:
			if a.into != nil {
				a.into.addBody(p[n:])
			}
			a.bytes += len(p) - n
			n = len(p)
		default:
			line, used, whole := a.takeLine(p[n:])
			n += used
			if a.fields > maxFields || len(a.line) > maxLine {
				return n, malformed("more than %d bytes of header", min(a.fields, maxLine))
			}
			if !whole {
				return n, nil
			}
			err := a.takeWhole(line)
			a.line = a.line[:0]
			if err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// end says that the connection has ended; the answer is complete only if that
// is how it was to end.
func (a *answer) end() bool {
	if a.state == untilClose {
		a.state = complete
	}
	return a.state == complete
}

// takeLine finds a line of p, its line feed included, putting pieces together.
func (a *answer) takeLine(p []byte) (line []byte, used int, whole bool) {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		a.line = append(a.line, p...)
		a.count(len(p))
		return nil, len(p), false
	}
	a.count(i + 1)
	if len(a.line) == 0 {
		return p[:i+1], i + 1, true
	}
	a.line = append(a.line, p[:i+1]...)
	return a.line, i + 1, true
}

func (a *answer) count(n int) {
	if a.state == statusLine || a.state == fields || a.state == trailer {
		a.fields += n
	}
}

func (a *answer) takeWhole(line []byte) error {
	crlf := bytes.HasSuffix(line, []byte("\r\n"))
	text := bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
	switch a.state {
	case statusLine:
		return a.takeStatus(text)
	case fields:
		if len(text) == 0 {
			return a.takeBody()
		}
		return a.takeField(text)
	case chunkSize:
		if !crlf {
			return malformed("the line of a chunk's size does not end in CR LF")
		}
		return a.takeChunkSize(text)
	case chunkEnd:
		if !crlf || len(text) > 0 {
			return malformed("a chunk does not end where its size says")
		}
		a.state = chunkSize
	case trailer:
		if !crlf {
			return malformed("a trailer does not end in CR LF")
		}
		if len(text) == 0 {
			a.state = complete
			return nil
		}
		_, _, err := splitField(text)
		return err
	}
	return nil
}

// takeStatus reads "HTTP/1.1 200 OK".
func (a *answer) takeStatus(s []byte) error {
	const form = "HTTP/1.x 200"
	if len(s) < len(form) || string(s[:7]) != "HTTP/1." || s[7] != '0' && s[7] != '1' || s[8] != ' ' || len(s) > len(form) && s[len(form)] != ' ' {
		return malformed("it begins with %.40q", s)
	}
	code := 0
	for _, c := range s[9:12] {
		if c < '0' || c > '9' {
			return malformed("it begins with %.40q", s)
		}
		code = code*10 + int(c-'0')
	}
	if code < 100 {
		return malformed("status %03d", code)
	}
	a.status, a.http10 = code, s[7] == '0'
	a.state = fields
	return nil
}

func splitField(s []byte) (name, value []byte, err error) {
	i := bytes.IndexByte(s, ':')
	if i < 1 {
		return nil, nil, malformed("%.40q is not a header field", s)
	}
	for _, c := range s[:i] {
		if !isToken(c) {
			return nil, nil, malformed("%.40q is not a header field", s)
		}
	}
	for _, c := range s[i+1:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, malformed("a control character in header field %.40q", s)
		}
	}
	return s[:i], bytes.Trim(s[i+1:], " \t"), nil
}

func (a *answer) takeField(s []byte) error {
	if s[0] == ' ' || s[0] == '\t' {
		// A folded line continues the field before it, which is history in
		// HTTP/1.1 but must be understood (RFC 9112, 5.2).
		if !a.anyField || a.framing {
			return malformed("a folded line %.40q", s)
		}
		for _, c := range s {
			if c < ' ' && c != '\t' || c == 0x7f {
				return malformed("a control character in header field %.40q", s)
			}
		}
		if a.into != nil {
			a.into.fold(s)
		}
		return nil
	}
	name, value, err := splitField(s)
	if err != nil {
		return err
	}
	if a.into != nil {
		a.into.addField(name, value)
	}
	a.anyField, a.framing = true, false
	switch {
	case equalFold(name, "content-length"):
		a.framing = true
		n, ok := parseLength(value)
		if !ok {
			return malformed("Content-Length %.40q", value)
		}
		if a.length >= 0 && a.length != n {
			return malformed("Content-Length is given as %d and as %d", a.length, n)
		}
		a.length = n
	case equalFold(name, "transfer-encoding"):
		a.framing = true
		if a.http10 {
			return nil // it has no meaning there
		}
		if a.chunked || !equalFold(value, "chunked") {
			return malformed("Transfer-Encoding %.40q", value)
		}
		a.chunked = true
	case equalFold(name, "connection"):
		a.framing = true
		for option := range bytes.SplitSeq(value, []byte(",")) {
			switch option = bytes.Trim(option, " \t"); {
			case equalFold(option, "close"):
				a.close = true
			case equalFold(option, "keep-alive"):
				a.keep = true
			}
		}
	}
	return nil
}

// takeBody decides, after the fields, how the body ends (RFC 9112, 6.3).
func (a *answer) takeBody() error {
	if a.status == 101 {
		return malformed("status 101: nobody asked for another protocol")
	}
	if a.status < 200 {
		if a.interim++; a.interim > maxInterim {
			return malformed("more than %d interim answers", maxInterim)
		}
		head, interim, size, line, into := a.head, a.interim, a.fields, a.line, a.into
		*a = answer{head: head, interim: interim, fields: size, line: line, length: -1, into: into}
		if into != nil {
			into.reset(into.keepBody)
		}
		return nil
	}
	if a.http10 && !a.keep {
		a.close = true
	}
	switch {
	case a.head, a.status == 204, a.status == 304:
		a.state = complete
	case a.chunked:
		a.state = chunkSize
	case a.length == 0:
		a.state = complete
	case a.length > 0:
		a.state, a.left = counted, a.length
	default:
		a.state, a.close = untilClose, true
	}
	return nil
}

// takeChunkSize reads "1f" or "1f;extension".
func (a *answer) takeChunkSize(s []byte) error {
	if bytes.IndexByte(s, '\r') >= 0 {
		return malformed("a CR inside the line of a chunk's size")
	}
	size, _, _ := bytes.Cut(s, []byte(";"))
	size = bytes.TrimRight(size, " \t")
	if len(size) == 0 || len(size) > 15 {
		return malformed("chunk size %.40q", s)
	}
	var n int64
	for _, c := range size {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return malformed("chunk size %.40q", s)
		}
		n = n<<4 | int64(c)
	}
	if n == 0 {
		a.state = trailer
		return nil
	}
	a.state, a.left = chunk, n
	return nil
}

// parseLength reads up to 18 digits, and nothing else.
func parseLength(s []byte) (n int64, ok bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// equalFold compares with an ASCII word in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
