package loadgen

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/theory/jsonpath"
)

// Capture says which part of an answer a later step uses: one of the four.
type Capture struct {
	JSON   *JSONPath `yaml:"json" json:"json,omitempty"`     // of the body; the first value that the query finds
	Header string    `yaml:"header" json:"header,omitempty"` // a header's value, the first if there are several
	Regexp *Pattern  `yaml:"regexp" json:"regexp,omitempty"` // of the body: its group, or else the whole match
	Cookie string    `yaml:"cookie" json:"cookie,omitempty"` // that the session has after the step
}

// JSONPath is a query after RFC 9535: $.order, $.items[0].id.
type JSONPath struct {
	text string
	path *jsonpath.Path
}

var positionIn = regexp.MustCompile(` at position (\d+)`)

// UnmarshalText parses a query; its error tells the place in it.
func (p *JSONPath) UnmarshalText(text []byte) error {
	path, err := jsonpath.Parse(string(text))
	if err != nil {
		bad := &placedError{message: strings.TrimPrefix(err.Error(), "jsonpath: ")}
		if m := positionIn.FindStringSubmatch(bad.message); m != nil {
			at, _ := strconv.Atoi(m[1])
			bad.offset = max(at-1, 0)
		}
		bad.message = fmt.Sprintf("%q is not a JSONPath (RFC 9535), like $.order or $.items[0].id: %s", text, bad.message)
		return bad
	}
	p.text, p.path = string(text), path
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p JSONPath) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// placedError is a mistake at a place inside a text, in runes from its beginning.
type placedError struct {
	offset  int
	message string
}

func (e *placedError) Error() string { return e.message }
func (e *placedError) Offset() int   { return e.offset }

// Pattern is a regular expression (RE2) with at most one group.
type Pattern struct{ re *regexp.Regexp }

// UnmarshalText compiles the expression.
func (p *Pattern) UnmarshalText(text []byte) error {
	re, err := regexp.Compile(string(text))
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a regular expression: %w", text, err)
	case re.NumSubexp() > 1:
		return fmt.Errorf("%q has %d groups, and one value is captured: write (?:…) for those that are not it", text, re.NumSubexp())
	}
	p.re = re
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.re.String()), nil }

func (c Capture) check(path string, report func(path, format string, args ...any)) {
	given := 0
	for _, set := range []bool{c.JSON != nil, c.Header != "", c.Regexp != nil, c.Cookie != ""} {
		if set {
			given++
		}
	}
	if given != 1 {
		report(path, "a capture is one of json, header, regexp and cookie, like { json: $.order }; here are %d", given)
	}
	if c.Header != "" && checkHeader(c.Header, "") == "is not a header name" {
		report(path+".header", "%q is not a header name", c.Header)
	}
}

func (c Capture) ofBody() bool { return c.JSON != nil || c.Regexp != nil }

// from takes the value out of an answer.
func (c Capture) from(r *reply, cookie func(name string) (string, bool)) (string, error) {
	switch {
	case c.Header != "":
		if v, ok := r.header(c.Header); ok {
			return v, nil
		}
		return "", fmt.Errorf("the answer has no header %q", c.Header)
	case c.Cookie != "":
		if v, ok := cookie(c.Cookie); ok {
			return v, nil
		}
		return "", fmt.Errorf("the session has no cookie %q", c.Cookie)
	case c.Regexp != nil:
		body, err := r.content()
		if err != nil {
			return "", err
		}
		m := c.Regexp.re.FindSubmatch(body)
		if m == nil {
			return "", fmt.Errorf("%q does not match the body %s", c.Regexp.re, excerpt(body))
		}
		return string(m[len(m)-1]), nil
	}
	found, err := r.query(c.JSON.path)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("%s finds nothing in the body %s", c.JSON.text, excerpt(r.body))
	case found[0] == nil:
		return "", fmt.Errorf("%s is null in the body", c.JSON.text)
	}
	return nodeText(found[0]), nil
}

// maxReply bounds what is kept of an answer's body, as sent and unpacked.
const maxReply = 1 << 20

// reply is what is kept of an answer: its header, and its body if somebody looks
// at it.
type reply struct {
	fields   []field
	text     []byte // of the fields
	body     []byte
	keepBody bool
	tooLong  bool // the body, for being kept

	rows     int64 // that a query returned, or
	affected int64 // changed
	null     bool  // the answer is that there is no value

	unpacked bool // body is as the server meant it
	parsed   bool
	document any
	problem  error
}

// field is a part of reply.text: a name, and behind it a value.
type field struct{ at, value, end int }

func (r *reply) name(f field) []byte  { return r.text[f.at:f.value] }
func (r *reply) value(f field) []byte { return r.text[f.value:f.end] }

func (r *reply) reset(keepBody bool) {
	*r = reply{fields: r.fields[:0], text: r.text[:0], body: r.body[:0], keepBody: keepBody}
}

// addField and the two below are called while the answer is parsed.
func (r *reply) addField(name, value []byte) {
	at := len(r.text)
	r.text = append(append(r.text, name...), value...)
	r.fields = append(r.fields, field{at, at + len(name), len(r.text)})
}

// fold continues the last field (RFC 9112, 5.2).
func (r *reply) fold(line []byte) {
	last := &r.fields[len(r.fields)-1]
	if line = bytes.Trim(line, " \t"); len(line) == 0 {
		return
	}
	if last.end > last.value {
		r.text = append(r.text, ' ')
	}
	r.text = append(r.text, line...)
	last.end = len(r.text)
}

func (r *reply) addBody(p []byte) {
	switch {
	case !r.keepBody || r.tooLong:
	case len(r.body)+len(p) > maxReply:
		r.tooLong = true
	default:
		r.body = append(r.body, p...)
	}
}

// equalNames compares names of header fields, which are ASCII.
func equalNames(a []byte, b string) bool {
	return len(a) == len(b) && bytes.EqualFold(a, []byte(b))
}

func (r *reply) header(name string) (string, bool) {
	for _, f := range r.fields {
		if equalNames(r.name(f), name) {
			return string(r.value(f)), true
		}
	}
	return "", false
}

// cookies are those that the answer sets.
func (r *reply) cookies() []*http.Cookie {
	var all []*http.Cookie
	for _, f := range r.fields {
		if equalNames(r.name(f), "Set-Cookie") {
			if c, err := http.ParseSetCookie(string(r.value(f))); err == nil { // a browser ignores the others, too
				all = append(all, c)
			}
		}
	}
	return all
}

// content is the body, unpacked if the server packed it.
func (r *reply) content() ([]byte, error) {
	if r.unpacked || r.problem != nil {
		return r.body, r.problem
	}
	r.problem = r.unpack()
	return r.body, r.problem
}

func (r *reply) unpack() error {
	if r.tooLong {
		return fmt.Errorf("the body is larger than %d MiB: more is not kept to look at", maxReply>>20)
	}
	switch coding, _ := r.header("Content-Encoding"); strings.ToLower(coding) {
	case "", "identity":
	case "gzip", "x-gzip":
		if len(r.body) == 0 { // of a HEAD, for one
			break
		}
		in, err := gzip.NewReader(bytes.NewReader(r.body))
		if err != nil {
			return fmt.Errorf("the body says that it is gzip: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(in, maxReply+1))
		switch {
		case err != nil:
			return fmt.Errorf("the body says that it is gzip: %w", err)
		case len(text) > maxReply:
			return fmt.Errorf("the body is larger than %d MiB when unpacked: more is not kept to look at", maxReply>>20)
		}
		r.body = text
	default:
		return fmt.Errorf("the body is packed as %q: only gzip can be looked into (Accept-Encoding asks for it)", coding)
	}
	r.unpacked = true
	return nil
}

// query finds values in a JSON body.
func (r *reply) query(path *jsonpath.Path) ([]any, error) {
	body, err := r.content()
	if err != nil {
		return nil, err
	}
	if !r.parsed {
		in := json.NewDecoder(bytes.NewReader(body))
		in.UseNumber() // a long id stays what it is
		if err = in.Decode(&r.document); err == nil {
			if _, more := in.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("there is more after it")
			}
		}
		if err != nil {
			r.problem = fmt.Errorf("the body %s is not JSON: %w", excerpt(body), err)
			return nil, r.problem
		}
		r.parsed = true
	}
	return path.Select(r.document), nil
}

// nodeText is a JSON value as text: a string's own, everything else as JSON.
func nodeText(node any) string {
	switch n := node.(type) {
	case string:
		return n
	case json.Number:
		return n.String()
	}
	text, _ := json.Marshal(node) // it was JSON before
	return string(text)
}

// excerpt quotes the beginning of a body.
func excerpt(body []byte) string {
	const most = 80
	if len(body) > most {
		return strconv.Quote(strings.ToValidUTF8(string(body[:most]), "")) + "…"
	}
	return strconv.Quote(string(body))
}
