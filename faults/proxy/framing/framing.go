// Package framing finds where HTTP/1.x messages begin and end in a stream of
// bytes. It reads only what that question needs (RFC 9112, section 6), copies
// nothing and changes nothing: whoever forwards a stream can go on passing on
// exactly the bytes it was given, and still know which call they belong to.
//
// What is not plainly an HTTP/1.0 or HTTP/1.1 message (another protocol, a
// folded header line, lengths that contradict each other) is ErrOpaque: there is
// no guess at a boundary.
package framing

import (
	"bytes"
	"errors"
)

var (
	// ErrShort says that the bytes so far may become a head: ask again with more.
	ErrShort = errors.New("framing: the head is not complete yet")
	// ErrOpaque says that no more bytes will make a message of these.
	ErrOpaque = errors.New("framing: not an HTTP/1.x message")
)

const (
	// MaxHead bounds a head, its blank line included; a longer one is opaque.
	MaxHead = 1 << 20
	// maxMethod bounds the wait for the end of what may be a method.
	maxMethod = 32
)

// Method is as much of a request's method as decides how its answer is framed.
type Method uint8

const (
	Other   Method = iota
	Head           // its answer has no body, whatever the answer's head says
	Connect        // a 2xx answer turns the connection into a tunnel
)

// Request is what the head of a request says about its frame.
type Request struct {
	Size    int    // bytes of the head, its blank line included
	Method  Method //
	Body    Body   // what follows the head
	Upgrade bool   // the connection may leave HTTP with the answer
	Expect  bool   // the body may wait for a 100 Continue
	Close   bool   // the caller ends the connection after the answer
}

// Answer is what the head of a response says about its frame.
type Answer struct {
	Size    int
	Status  int  // 100 to 999
	Body    Body // what follows the head
	Interim bool // 1xx: another head follows for the same request
	Tunnel  bool // no more HTTP on this connection after the head (101, or 2xx to CONNECT)
}

// ParseRequest reads the head of a request from the start of p. Empty lines
// before the request line belong to it.
func ParseRequest(p []byte) (Request, error) {
	start := 0
	for start < len(p) && (p[start] == '\r' || p[start] == '\n') {
		if p[start] == '\r' && start+1 < len(p) && p[start+1] != '\n' {
			return Request{}, ErrOpaque
		}
		start++
	}
	line, ok := cutLine(p[start:])
	if !ok {
		if len(p) >= MaxHead || !maybeRequestLine(p[start:]) {
			return Request{}, ErrOpaque
		}
		return Request{}, ErrShort
	}
	next := start + len(line)
	line = trimEOL(line)

	gap := bytes.IndexByte(line, ' ')
	if gap <= 0 || gap > maxMethod || !isToken(line[:gap]) {
		return Request{}, ErrOpaque
	}
	method, rest := line[:gap], line[gap+1:]
	gap = bytes.IndexByte(rest, ' ')
	if gap <= 0 {
		return Request{}, ErrOpaque
	}
	minor, ok := version(rest[gap+1:])
	if !ok {
		return Request{}, ErrOpaque
	}

	f, size, err := parseFields(p, next, minor)
	if err != nil {
		return Request{}, err
	}
	r := Request{Size: size, Expect: f.expect, Close: f.close || minor == 0 && !f.keepAlive}
	switch string(method) {
	case "HEAD":
		r.Method = Head
	case "CONNECT":
		r.Method, r.Upgrade = Connect, true
	}
	r.Upgrade = r.Upgrade || f.upgrade && f.upgradeTo
	switch {
	case f.chunked:
		r.Body = Body{kind: chunked}
	case f.length > 0:
		r.Body = Body{kind: sized, left: f.length}
	}
	return r, nil
}

// ParseAnswer reads the head of a response to a request with that method from
// the start of p.
func ParseAnswer(p []byte, to Method) (Answer, error) {
	line, ok := cutLine(p)
	if !ok {
		const begin = "HTTP/1."
		if len(p) >= MaxHead || string(p[:min(len(p), len(begin))]) != begin[:min(len(p), len(begin))] {
			return Answer{}, ErrOpaque
		}
		return Answer{}, ErrShort
	}
	next := len(line)
	line = trimEOL(line)

	// HTTP/1.1 SP 3DIGIT [SP reason]
	const v = len("HTTP/1.1")
	if len(line) < v+4 || line[v] != ' ' || len(line) > v+4 && line[v+4] != ' ' {
		return Answer{}, ErrOpaque
	}
	minor, ok := version(line[:v])
	if !ok {
		return Answer{}, ErrOpaque
	}
	status := 0
	for _, c := range line[v+1 : v+4] {
		if c < '0' || c > '9' {
			return Answer{}, ErrOpaque
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 {
		return Answer{}, ErrOpaque
	}

	f, size, err := parseFields(p, next, minor)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Size: size, Status: status}
	switch {
	case status == 101, to == Connect && status/100 == 2:
		a.Tunnel = true
	case status < 200:
		a.Interim = true
	case to == Head, status == 204, status == 304:
	case f.chunked:
		a.Body = Body{kind: chunked}
	case f.length > 0:
		a.Body = Body{kind: sized, left: f.length}
	case f.length < 0:
		a.Body = Body{kind: untilClose}
	}
	return a, nil
}

// fields is what the header lines say about framing.
type fields struct {
	length    int64 // -1: none
	chunked   bool
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	upgrade   bool // Connection: upgrade
	upgradeTo bool // Upgrade: …
	expect    bool // Expect: 100-continue
}

// parseFields reads header lines from p[at:] to the blank line; size is what
// comes behind it.
func parseFields(p []byte, at, minor int) (f fields, size int, err error) {
	f.length = -1
	for {
		line, ok := cutLine(p[at:])
		if !ok {
			if len(p) >= MaxHead {
				return f, 0, ErrOpaque
			}
			return f, 0, ErrShort
		}
		at += len(line)
		if at > MaxHead {
			return f, 0, ErrOpaque
		}
		line = trimEOL(line)
		if len(line) == 0 {
			return f, at, nil
		}
		// A folded line (it begins with white space) has no token before its colon either.
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !isToken(line[:colon]) {
			return f, 0, ErrOpaque
		}
		name, value := line[:colon], trimSpace(line[colon+1:])
		switch len(name) {
		case len("expect"):
			f.expect = f.expect || equalFold(name, "expect") && equalFold(value, "100-continue")
		case len("upgrade"):
			f.upgradeTo = f.upgradeTo || equalFold(name, "upgrade") && len(value) > 0
		case len("connection"):
			if equalFold(name, "connection") {
				f.connection(value)
			}
		case len("content-length"):
			if equalFold(name, "content-length") {
				n, ok := length(value)
				if !ok || f.length >= 0 && f.length != n {
					return f, 0, ErrOpaque
				}
				f.length = n
			}
		case len("transfer-encoding"):
			if equalFold(name, "transfer-encoding") {
				// Anything but exactly one "chunked" leaves the end of the body in doubt.
				if f.chunked || minor == 0 || !equalFold(value, "chunked") {
					return f, 0, ErrOpaque
				}
				f.chunked = true
			}
		}
	}
}

func (f *fields) connection(value []byte) {
	for len(value) > 0 {
		option := value
		if i := bytes.IndexByte(value, ','); i >= 0 {
			option, value = value[:i], value[i+1:]
		} else {
			value = nil
		}
		option = trimSpace(option)
		f.close = f.close || equalFold(option, "close")
		f.keepAlive = f.keepAlive || equalFold(option, "keep-alive")
		f.upgrade = f.upgrade || equalFold(option, "upgrade")
	}
}

// cutLine returns the first line of p with its line feed; false when there is none yet.
func cutLine(p []byte) ([]byte, bool) {
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		return nil, false
	}
	return p[:i+1], true
}

// trimEOL takes "\r\n" or "\n" off.
func trimEOL(line []byte) []byte {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

func trimSpace(p []byte) []byte {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}

// maybeRequestLine tells whether p can be the beginning of a request line. It
// must not take long to say no: until it does, a caller that speaks another
// protocol waits.
func maybeRequestLine(p []byte) bool {
	method := p
	if i := bytes.IndexByte(p, ' '); i >= 0 {
		if i == 0 {
			return false
		}
		method = p[:i]
		for _, c := range p[i+1:] {
			if c < ' ' && c != '\r' || c == 0x7f {
				return false
			}
		}
	}
	if n := len(method); n > 0 && n == len(p) && method[n-1] == '\r' {
		return false
	}
	return len(method) <= maxMethod && isToken(method)
}

// version reads "HTTP/1.0" or "HTTP/1.1".
func version(p []byte) (minor int, ok bool) {
	switch string(p) {
	case "HTTP/1.1":
		return 1, true
	case "HTTP/1.0":
		return 0, true
	}
	return 0, false
}

// length reads a Content-Length: digits only, below 2^62.
func length(p []byte) (int64, bool) {
	if len(p) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range p {
		if c < '0' || c > '9' || n > 1<<58 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// equalFold compares p with a lower-case ASCII name.
func equalFold(p []byte, name string) bool {
	if len(p) != len(name) {
		return false
	}
	for i := range len(name) {
		if Lower(p[i]) != name[i] {
			return false
		}
	}
	return true
}

// tokens marks what RFC 9110 allows in a method or a field name.
var tokens = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		t[c] = true
	}
	return t
}()

func isToken(p []byte) bool {
	for _, c := range p {
		if !tokens[c] {
			return false
		}
	}
	return true
}
