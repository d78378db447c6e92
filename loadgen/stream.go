package loadgen

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stream is a Spec compiled for sending. It does not change while requests are
// sent; any number of goroutines may render from it.
type stream struct {
	spec     Spec
	seed     uint64
	kinds    []kind
	weight   uint64          // of all kinds together
	timeouts []time.Duration // the different ones
	order    []uint32        // which kind comes when, and again; nil where weights decide
}

// kind is one compiled Request.
type kind struct {
	method  string
	path    *tmpl
	headers []header // in order of their names
	body    *tmpl
	host    bool // there is a Host among the headers
	trace   bool // there is a traceparent among the headers
	payload bool // a Content-Length is sent even for an empty body
	timeout int  // index into stream.timeouts
	weight  uint64
}

type header struct {
	name  string
	value *tmpl
}

// compile checks as it goes; mistakes are reported as Spec.Check does, and the
// stream is usable only if there was none.
func compile(s Spec, seed uint64, report func(path, format string, args ...any)) *stream {
	s, order := s.expanded()
	st := &stream{spec: s, seed: streamSeed(seed, s.Name), order: order}
	single := s.Request != nil
	for i, r := range s.filled() {
		at := "request"
		own := s.Request
		if !single {
			at = "requests[" + strconv.Itoa(i) + "]"
			own = &s.Requests[i]
		}
		k := kind{method: r.Method, weight: uint64(max(*r.Weight, 0)), payload: r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"}
		template := func(path, what, text string) *tmpl {
			t, err := parseTemplate(text)
			if err != nil {
				report(path, "%s: %v", what, err)
				return new(tmpl)
			}
			return t
		}
		k.path = template(at+".path", "path", r.Path)
		bodyAt := at + ".body"
		if own.Body == "" {
			bodyAt = "body"
		}
		k.body = template(bodyAt, "body", r.Body)
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			headerAt := at + ".headers." + name
			if _, ok := own.Headers[name]; !ok {
				headerAt = "headers." + name
			}
			k.host = k.host || strings.EqualFold(name, "Host")
			k.trace = k.trace || strings.EqualFold(name, "traceparent")
			k.headers = append(k.headers, header{name, template(headerAt, "header "+strconv.Quote(name), r.Headers[name])})
			if problem := checkHeader(name, r.Headers[name]); problem != "" {
				report(headerAt, "header %q %s", name, problem)
			}
		}
		if r.Body != "" && !slices.ContainsFunc(k.headers, func(h header) bool { return strings.EqualFold(h.name, "Content-Type") }) {
			k.headers = append(k.headers, header{"Content-Type", &tmpl{ops: []op{{text: []byte(contentType(r.Body))}}}})
		}
		if i := slices.Index(st.timeouts, *r.Timeout); i >= 0 {
			k.timeout = i
		} else {
			k.timeout = len(st.timeouts)
			st.timeouts = append(st.timeouts, *r.Timeout)
		}
		st.weight += k.weight
		st.kinds = append(st.kinds, k)
	}
	return st
}

// contentType guesses from the first character, which is all that a template shows.
func contentType(body string) string {
	if t := strings.TrimSpace(body); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") {
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

// kind of request number seq.
func (s *stream) kind(seq uint64) *kind { return &s.kinds[s.pick(seq)] }

// pick is the kind of request number seq, as an index into kinds.
func (s *stream) pick(seq uint64) int {
	if len(s.kinds) == 1 {
		return 0
	}
	if len(s.order) > 0 {
		return int(s.order[seq%uint64(len(s.order))])
	}
	d := drawOf(s.seed, seq, forKind)
	at := d.below(s.weight)
	for i := range s.kinds {
		if at < s.kinds[i].weight {
			return i
		}
		at -= s.kinds[i].weight
	}
	panic("weights of a stream's requests do not add up")
}

func (s *stream) timeout(seq uint64) time.Duration { return s.timeouts[s.kind(seq).timeout] }

// appendRequest renders request number seq for host as it goes over the wire.
// body is memory to use.
func (s *stream) appendRequest(dst, body []byte, seq uint64, host string) (request, usedBody []byte, err error) {
	return s.appendDrawn(new(draw), dst, body, seq, host)
}

// appendDrawn is appendRequest for who has memory for the draw as well.
func (s *stream) appendDrawn(d *draw, dst, body []byte, seq uint64, host string) (request, usedBody []byte, err error) {
	k := s.kind(seq)
	*d = drawOf(s.seed, seq, forContent)
	dst = append(append(dst, k.method...), ' ')
	if dst, err = k.path.append(dst, d); err != nil {
		return dst, body, fmt.Errorf("rendering the path: %w", err)
	}
	dst = append(dst, " HTTP/1.1\r\n"...)
	if !k.host {
		dst = append(append(append(dst, "Host: "...), host...), "\r\n"...)
	}
	dst = append(dst, "User-Agent: chaosctl\r\n"...)
	for _, h := range k.headers {
		dst = append(append(dst, h.name...), ": "...)
		if dst, err = h.value.append(dst, d); err != nil {
			return dst, body, fmt.Errorf("rendering header %q: %w", h.name, err)
		}
		dst = append(dst, "\r\n"...)
	}
	if !k.trace {
		dst = append(dst, "traceparent: 00-"...)
		t := drawOf(s.seed, seq, forTrace)
		dst = append(t.trace(dst), "-01\r\n"...)
	}
	if body, err = k.body.append(body[:0], d); err != nil {
		return dst, body, fmt.Errorf("rendering the body: %w", err)
	}
	if len(body) > 0 || k.payload {
		dst = append(strconv.AppendInt(append(dst, "Content-Length: "...), int64(len(body)), 10), "\r\n"...)
	}
	return append(append(dst, "\r\n"...), body...), body, nil
}

// describe is "POST /checkout": method and rendered path of a request.
func (s *stream) describe(seq uint64) (method, path string) {
	k := s.kind(seq)
	d := drawOf(s.seed, seq, forContent)
	p, err := k.path.append(nil, &d)
	if err != nil {
		return k.method, ""
	}
	return k.method, string(p)
}

// traceID of a request, empty where the stream sets traceparent itself.
func (s *stream) traceID(seq uint64) string {
	if s.kind(seq).trace {
		return ""
	}
	d := drawOf(s.seed, seq, forTrace)
	id, _, _ := bytes.Cut(d.trace(nil), []byte("-"))
	return string(id)
}

// checkHeader says what is wrong with a header, if anything.
func checkHeader(name, value string) string {
	switch {
	case name == "" || strings.ContainsFunc(name, func(c rune) bool { return c > 0x7f || !isToken(byte(c)) }):
		return "is not a header name"
	case strings.EqualFold(name, "Content-Length"), strings.EqualFold(name, "Transfer-Encoding"):
		return "is set by chaosctl from the body"
	case strings.EqualFold(name, "Upgrade"), strings.EqualFold(name, "Expect"):
		return "is not supported: requests are sent in one piece and answered in HTTP/1.1"
	case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
		return "has a line break or control character in its value"
	}
	return ""
}

// isToken tells the characters of methods and header names (RFC 9110, 5.6.2).
func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// checkPath says what is wrong with a path as rendered, if anything.
func checkPath(path string) string {
	switch bad := strings.IndexFunc(path, func(c rune) bool { return c <= ' ' || c >= 0x7f }); {
	case path == "":
		return `is missing: write it as in "POST /checkout"`
	case path[0] != '/':
		return "must begin with /"
	case bad >= 0:
		return fmt.Sprintf("must not contain %q: write it percent-encoded", []rune(path[bad:])[0])
	case strings.Contains(path, "#"):
		return "must not contain #: fragments are not sent"
	}
	if _, err := url.ParseRequestURI(path); err != nil {
		return fmt.Sprintf("cannot be parsed: %v", cmp.Or(unwrapURL(err), err))
	}
	return ""
}

func unwrapURL(err error) error {
	if e, ok := err.(*url.Error); ok {
		return e.Err
	}
	return nil
}
