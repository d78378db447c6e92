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
	spec       Spec
	seed       uint64
	kinds      []kind
	weight     uint64          // of all kinds together
	timeouts   []time.Duration // the different ones
	keep       keeping         // of its connections
	order      []uint32        // which kind comes when, and again; nil where weights decide
	session    bool            // the kinds are steps
	steps      int             // of a session; the kinds behind them are the steps of the setup
	identities []identity      // of users, by their number; nil without a setup
	sources    []*source
	redact     *redactor
	alarms     *alarms                // for what the general engine's users think
	slots      int                    // captured values
	lasting    int                    // the first of them, which a setup captures
	watched    bool                   // somebody looks at answers, follows redirects, or is told the time
	wanted     [grpcOutcome + 20]bool // the status codes that are good
}

// plain tells whether the stream's requests stand each for itself: appendRequest
// makes them from their numbers alone, and of an answer only its status matters.
// Whatever is not plain goes through a trip.
func (s *stream) plain() bool {
	unique := slices.ContainsFunc(s.sources, func(src *source) bool { return src.order == Unique })
	return !s.session && !s.watched && !unique
}

// ok tells whether a request met a good fate.
func (s *stream) ok(f *finished) bool {
	return f.outcome >= 100 && (f.wanted || s.wanted[f.outcome])
}

// kind is one compiled Request, or SessionStep.
type kind struct {
	name    string // of a step
	method  string
	path    *tmpl
	headers []header // in order of their names
	body    *tmpl
	words   []*tmpl // of a command, or parameters of a query
	host    bool    // there is a Host among the headers
	trace   bool    // there is a traceparent among the headers
	payload bool    // a Content-Length is sent even for an empty body
	timeout int     // index into stream.timeouts
	weight  uint64

	auth      *authorization
	values    bool // path, headers or auth have values from files or answers: what they render to is looked at
	redirects int
	checks    []check
	captures  []capture
	keepBody  bool      // a check or capture looks at it
	status    bool      // a check asks for a status
	rpc       *grpcCall // what it calls, in gRPC
	think     time.Duration
	call      string // "GET /healthz", where that is always the same
}

type header struct {
	name  string
	value *tmpl
}

// compile checks as it goes; mistakes are reported as Spec.Check does, and the
// stream is usable only if there was none.
func compile(s Spec, seed uint64, report func(path, format string, args ...any)) *stream {
	s, order := s.expanded()
	st := &stream{spec: s, seed: streamSeed(seed, s.Name), order: order, session: len(s.Steps) > 0, keep: s.keeping(), redact: newRedactor(s.values)}
	sp := s.speech()
	for status := range st.wanted {
		st.wanted[status] = s.isOK(status)
	}
	in := st.scope(s)
	readable := true // all templates
	names, sequence := s.StepNames(), s.sequence()
	filled := s.filled()
	st.kinds, st.steps = make([]kind, len(filled)), len(s.Steps)
	inSetup := map[string]bool{}
	for _, i := range st.inOrder(len(filled)) {
		r, at, own := filled[i], s.at(i), s.own()[i]
		if i == 0 {
			inSetup, in.used = in.used, map[string]bool{}
			st.lasting = len(in.slots)
		}
		k := kind{method: r.Method, weight: uint64(max(*r.Weight, 0)), payload: r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"}
		template := func(path, what, text string) *tmpl {
			t, err := parseTemplateIn(text, in)
			if err != nil {
				report(path, "%s: %v", what, err)
				readable = false
				return new(tmpl)
			}
			st.watched = st.watched || t.clock
			return t
		}
		words, text := []string(nil), r.Body
		if method, path := s.label(r); sp.talks && s.Protocol != WebSocket {
			k.method, r.Path = method, path
		}
		if sp.talks {
			words, text, _ = s.content(r) // what is wrong with it was said
		}
		for n, w := range words {
			k.words = append(k.words, template(fmt.Sprintf("%s.%s[%d]", at, s.wordsKey(), n), "word "+strconv.Itoa(n+1), w))
		}
		if sp.talks && s.Protocol != WebSocket { // what was said of its parts need not be said again
			if k.path, _ = parseTemplateIn(r.Path, in); k.path == nil {
				k.path = new(tmpl)
			}
		} else {
			k.path = template(at+".path", "path", r.Path)
		}
		k.values = k.path.values
		if k.path.static() {
			if path, err := k.path.append(nil, new(draw)); err == nil {
				k.call = k.method + " " + string(path)
			}
		}
		bodyAt := at + ".body"
		if own.Body == "" {
			bodyAt = "body"
		}
		k.body = template(bodyAt, "body", text)
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			headerAt := at + ".headers." + name
			if _, ok := own.Headers[name]; !ok {
				headerAt = "headers." + name
			}
			k.host = k.host || strings.EqualFold(name, "Host")
			k.trace = k.trace || strings.EqualFold(name, "traceparent")
			value := template(headerAt, "header "+strconv.Quote(name), r.Headers[name])
			k.values = k.values || value.values
			k.headers = append(k.headers, header{name, value})
			if problem := checkHeader(name, r.Headers[name]); problem != "" {
				report(headerAt, "header %q %s", name, problem)
			}
			if r.Auth != nil && strings.EqualFold(name, "Authorization") {
				report(headerAt, "header %q and auth are given; a request has one of them", name)
			}
		}
		if r.Auth != nil {
			authAt := at + ".auth"
			if own.Auth == nil {
				authAt = "auth"
			}
			k.auth = compileAuth(*r.Auth, authAt, template, report)
			k.values = k.values || k.auth.values()
		}
		if r.Body != "" && !sp.talks && !slices.ContainsFunc(k.headers, func(h header) bool { return strings.EqualFold(h.name, "Content-Type") }) {
			k.headers = append(k.headers, header{"Content-Type", &tmpl{ops: []op{{text: []byte(contentType(r.Body))}}}})
		}
		if st.keep.requests == 1 && cmp.Or(s.Protocol, HTTP1) == HTTP1 && !slices.ContainsFunc(k.headers, func(h header) bool { return strings.EqualFold(h.name, "Connection") }) {
			// Who closes says so (RFC 9112, 9.6): the server need not keep the connection either.
			k.headers = append(k.headers, header{"Connection", &tmpl{ops: []op{{text: []byte("close")}}}})
		}
		if i := slices.Index(st.timeouts, *r.Timeout); i >= 0 {
			k.timeout = i
		} else {
			k.timeout = len(st.timeouts)
			st.timeouts = append(st.timeouts, *r.Timeout)
		}
		if r.Redirects != nil {
			k.redirects = *r.Redirects
		}
		for n, c := range r.Check {
			k.checks = append(k.checks, newCheck(c, template(fmt.Sprintf("%s.check[%d]", at, n), "check", c.want)))
			k.keepBody = k.keepBody || c.ofBody()
			k.status = k.status || c.subject == "status"
		}
		if st.session {
			k.name, k.think = names[i], sequence[i].Think
			k.capture(sequence[i].Capture, in)
			st.slots = len(in.slots)
		}
		st.watched = st.watched || len(k.checks) > 0 || k.redirects > 0
		st.weight += k.weight
		st.kinds[i] = k
	}
	for name := range inSetup {
		if d, ok := s.Data[name]; ok && in.used[name] && d.Order != Unique {
			report("data."+name, "setup and steps use it, and would have different rows: a setup is the user's, and a session has the next row; write order: unique, and both have the user's")
		}
		in.used[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(in.sources)) {
		if readable && !in.used[name] {
			report("data."+name, "no template uses it: write {{.%s.COLUMN}} where a value belongs, or leave it out", name)
		}
	}
	return st
}

// inOrder is the order in which n kinds are compiled: what a setup captures is
// there for all steps.
func (s *stream) inOrder(n int) []int {
	var order []int
	for i := s.steps; s.session && i < n; i++ {
		order = append(order, i)
	}
	for i := range n - len(order) {
		order = append(order, i)
	}
	return order
}

// contentType guesses from the first character, which is all that a template shows.
func contentType(body string) string {
	if t := strings.TrimSpace(body); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") {
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

// kind of request number seq; of a session, its first step.
func (s *stream) kind(seq uint64) *kind { return &s.kinds[s.pick(seq)] }

// pick is the kind of request number seq, as an index into kinds.
func (s *stream) pick(seq uint64) int {
	if len(s.kinds) == 1 || s.session {
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
	*d = drawOf(s.seed, seq, forContent)
	trace := drawOf(s.seed, seq, forTrace)
	return s.kind(seq).append(dst, body, host, "", d, &trace)
}

// append renders a request of this kind. cookies are those of its session.
func (k *kind) append(dst, body []byte, host, cookies string, d, trace *draw) (request, usedBody []byte, err error) {
	dst = append(append(dst, k.method...), ' ')
	at := len(dst)
	if dst, err = k.path.append(dst, d); err != nil {
		return dst, body, fmt.Errorf("rendering the path: %w", err)
	}
	if k.values {
		if problem := quickPath(dst[at:]); problem != "" {
			return dst, body, fmt.Errorf("the path %q %s", dst[at:], problem)
		}
	}
	return k.appendRest(dst, body, host, cookies, false, d, trace)
}

// appendRest renders what comes after method and path. A bare request has no body.
func (k *kind) appendRest(dst, body []byte, host, cookies string, bare bool, d, trace *draw) (request, usedBody []byte, err error) {
	dst = append(dst, " HTTP/1.1\r\n"...)
	if !k.host {
		dst = append(append(append(dst, "Host: "...), host...), "\r\n"...)
	}
	dst = append(dst, "User-Agent: chaosctl\r\n"...)
	for _, h := range k.headers {
		if bare && strings.EqualFold(h.name, "Content-Type") {
			continue
		}
		dst = append(append(dst, h.name...), ": "...)
		at := len(dst)
		if dst, err = h.value.append(dst, d); err != nil {
			return dst, body, fmt.Errorf("rendering header %q: %w", h.name, err)
		}
		if k.values && bytes.ContainsFunc(dst[at:], isControl) {
			return dst, body, fmt.Errorf("header %q would be %q: %s", h.name, dst[at:], hasControl)
		}
		if cookies != "" && strings.EqualFold(h.name, "Cookie") {
			dst = append(append(dst, "; "...), cookies...)
			cookies = ""
		}
		dst = append(dst, "\r\n"...)
	}
	if k.auth != nil {
		if dst, body, err = k.auth.append(dst, body, d); err != nil {
			return dst, body, err
		}
	}
	if cookies != "" {
		dst = append(append(append(dst, "Cookie: "...), cookies...), "\r\n"...)
	}
	if !k.trace {
		dst = append(dst, "traceparent: 00-"...)
		dst = append(trace.trace(dst), "-01\r\n"...)
	}
	if bare {
		return append(dst, "\r\n"...), body[:0], nil
	}
	if body, err = k.body.append(body[:0], d); err != nil {
		return dst, body, fmt.Errorf("rendering the body: %w", err)
	}
	if len(body) > 0 || k.payload {
		dst = append(strconv.AppendInt(append(dst, "Content-Length: "...), int64(len(body)), 10), "\r\n"...)
	}
	return append(append(dst, "\r\n"...), body...), body, nil
}

// static tells that all of this kind are the same but for their trace contexts.
func (k *kind) static() bool {
	for _, h := range k.headers {
		if !h.value.static() {
			return false
		}
	}
	return k.auth == nil && k.path.static() && k.body.static()
}

// describe is "POST /checkout": method and rendered path of a request that never
// went out, or of a plain stream.
func (s *stream) describe(seq uint64) (method, path string) {
	k := s.kind(seq)
	d := drawOf(s.seed, seq, forContent)
	d.captured = make([]string, s.slots)
	p, err := k.path.append(nil, &d)
	if err != nil {
		return k.method, ""
	}
	return k.method, string(p)
}

// traceID of a request, empty where the stream sets traceparent itself.
func (s *stream) traceID(seq uint64, step int) string {
	k := s.kind(seq)
	if s.session {
		k = &s.kinds[step]
	}
	if k.trace {
		return ""
	}
	d := drawOf(s.seed, seq, forTrace.ofStep(step))
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
	case strings.ContainsFunc(value, isControl):
		return hasControl
	}
	return ""
}

const hasControl = "has a line break or control character in its value"

func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

// quickPath is checkPath for values that come while requests are sent.
func quickPath(path []byte) string {
	if len(path) == 0 || path[0] != '/' {
		return "must begin with /"
	}
	for _, c := range path {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return fmt.Sprintf("must not contain %q: write {{urlquery .NAME}} for a value that may be anything", rune(c))
		}
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
