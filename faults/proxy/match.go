package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// Match narrows a rule down to some requests of an HTTP edge; the zero value does
// not. All that is set must hold. What does not match is not drawn for: it is not
// in RuleStats.Eligible, and When.First and When.Every do not count it.
//
// In a pattern, * stands for any characters, also for none and for "/"; the rest
// stands for itself. "/cart" is that path alone, "/cart/*" all below it,
// "/users/*/orders" the orders of each user, "*.png" every such name.
//
// A request is looked at when it begins, as the caller sent it. So a rule with a
// Match is about requests that begin while it is at work; it hits no tunnel behind
// an Upgrade, and nothing that is not understood as HTTP.
type Match struct {
	Methods []string // one of them; empty: any
	// Path is a pattern for the path, without the query, not decoded. That of
	// OPTIONS * is "*", that of CONNECT is empty.
	Path string
	// Host is a pattern for the host that is asked for, in whatever case; without a
	// port it is for any port.
	Host string
	// Headers must each be there, in a line of its own. The name is compared in
	// whatever case; Value is a pattern, and empty for any value.
	Headers []Field
	GRPC    GRPC
}

// Field is one line of a header.
type Field = framing.Field

func (m *Match) isZero() bool {
	return len(m.Methods) == 0 && m.Path == "" && m.Host == "" && len(m.Headers) == 0 && m.GRPC == GRPC{}
}

func (m *Match) wrong() error {
	for _, x := range m.Methods {
		switch {
		case !framing.IsToken(x):
			return fmt.Errorf("match: method is %q, want a name such as GET", x)
		case x != strings.ToUpper(x):
			return fmt.Errorf("match: method is %q, want %q: methods have a case", x, strings.ToUpper(x))
		}
	}
	switch p := m.Path; {
	case p == "":
	case p[0] != '/' && p[0] != '*':
		return fmt.Errorf("match: path is %q, want one that begins with / or *", p)
	case strings.ContainsAny(p, "?# \t\r\n"):
		return fmt.Errorf("match: path is %q, want one without query, fragment and white space: the query is not looked at", p)
	}
	if strings.ContainsAny(m.Host, "/@ \t\r\n") {
		return fmt.Errorf("match: host is %q, want a name such as shop.example, *.example or shop.example:8080", m.Host)
	}
	for _, f := range m.Headers {
		if err := wrongField(f); err != nil {
			return fmt.Errorf("match: %w", err)
		}
	}
	if err := m.GRPC.wrong(); err != nil {
		return fmt.Errorf("match: %w", err)
	}
	return nil
}

// wrongField tells why there can be no such header line.
func wrongField(f Field) error {
	switch {
	case !framing.IsToken(f.Name):
		return fmt.Errorf("header name is %q, want letters, digits and hyphens", f.Name)
	case !framing.IsValue(f.Value):
		return fmt.Errorf("header %s is %q, want no control characters, and no white space at its ends", f.Name, f.Value)
	}
	return nil
}

// clone is a copy that shares nothing with m.
func (m Match) clone() Match {
	m.Methods, m.Headers = slices.Clone(m.Methods), slices.Clone(m.Headers)
	return m
}

// request is a head, as far as matches look at it.
type request struct {
	head                 []byte
	fields               []hpack.HeaderField // of HTTP/2, which has no head
	method, target, path []byte
	host                 []byte
}

// asked reads the head of a request that framing understood.
func asked(head []byte) request {
	method, target := framing.RequestLine(head)
	q := request{head: head, method: method, target: target, path: target}
	switch {
	case target[0] == '/': // origin-form
	case string(method) == "CONNECT": // authority-form
		q.host, q.path = target, nil
	default: // absolute-form, or *
		if i := bytes.IndexByte(target, ':'); i > 0 && bytes.HasPrefix(target[i:], []byte("://")) {
			q.host, q.path = target[i+3:], nil
			if i := bytes.IndexAny(q.host, "/?#"); i >= 0 {
				q.host, q.path = q.host[:i], q.host[i:]
			}
			if len(q.path) == 0 || q.path[0] != '/' {
				q.path = root
			}
			q.host = q.host[bytes.LastIndexByte(q.host, '@')+1:]
		}
	}
	if i := bytes.IndexByte(q.path, '?'); i >= 0 {
		q.path = q.path[:i]
	}
	return q
}

// askedOf reads the head of a request of HTTP/2. What a pseudo field does not say is empty.
func askedOf(fields []hpack.HeaderField) request {
	q := request{fields: fields}
	for _, f := range fields {
		switch f.Name {
		case ":method":
			q.method = []byte(f.Value)
		case ":path":
			q.target = []byte(f.Value)
			q.path, _, _ = bytes.Cut(q.target, []byte("?"))
		case ":authority":
			q.host = []byte(f.Value)
		}
	}
	return q
}

var root = []byte("/")

// fits tells whether the match holds for the request.
func (m *Match) fits(q *request) bool {
	if len(m.Methods) > 0 && !slices.ContainsFunc(m.Methods, func(x string) bool { return x == string(q.method) }) {
		return false
	}
	if m.Path != "" && !glob(m.Path, q.path, false) {
		return false
	}
	if m.Host != "" {
		host := q.host
		if host == nil {
			host = q.field("Host")
		}
		if !glob(m.Host, host, true) && !glob(m.Host, withoutPort(host), true) {
			return false
		}
	}
	for i := range m.Headers {
		if !q.has(&m.Headers[i]) {
			return false
		}
	}
	return m.GRPC == GRPC{} || m.GRPC.fits(q)
}

// field is the value of the first line of that name.
func (q *request) field(name string) []byte {
	for i := range q.fields {
		if strings.EqualFold(q.fields[i].Name, name) {
			return []byte(q.fields[i].Value)
		}
	}
	if q.fields != nil {
		return nil
	}
	lines := framing.LinesOf(q.head)
	for l, ok := lines.Next(); ok; l, ok = lines.Next() {
		if l.Is(name) {
			return l.Value
		}
	}
	return nil
}

// has tells whether there is a line of that name with such a value.
func (q *request) has(f *Field) bool {
	for i := range q.fields {
		name := q.fields[i].Name
		if name == ":authority" {
			name = "host"
		}
		if strings.EqualFold(name, f.Name) && (f.Value == "" || glob(f.Value, q.fields[i].Value, false)) {
			return true
		}
	}
	if q.fields != nil {
		return false
	}
	lines := framing.LinesOf(q.head)
	for l, ok := lines.Next(); ok; l, ok = lines.Next() {
		if l.Is(f.Name) && (f.Value == "" || glob(f.Value, l.Value, false)) {
			return true
		}
	}
	return false
}

// withoutPort takes ":8080" off a host; the colons of an IPv6 address are in brackets.
func withoutPort(host []byte) []byte {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		return host[:i]
	}
	return host
}

// glob tells whether s is what the pattern stands for. It takes at most
// len(pattern)·len(s) steps: where a byte differs, only the last * need take more.
func glob[S ~string | ~[]byte](pattern string, s S, fold bool) bool {
	p, i := 0, 0
	star, from := -1, 0 // the last *, and how far what it stands for reaches
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == s[i] || fold && framing.Lower(pattern[p]) == framing.Lower(s[i])):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matching is a Match at work: calls remember by its slot what it said of them,
// so that their heads need not be kept.
type matching struct {
	Match
	id   uint64 // calls that begin later are asked
	slot int    // bit in marks; -1: none yet
}

// newMatching is nil for a Match that does not narrow.
func newMatching(m Match, id uint64) *matching {
	if m.isZero() {
		return nil
	}
	return &matching{Match: m.clone(), id: id, slot: -1}
}

// matchesMost is how many rules with a Match a proxy can have: the bits of marks.
const matchesMost = 64

// marks is what the rules with a Match that were at work when a call began said of it.
type marks struct {
	known uint64 // those with ids up to this one were asked
	about uint64 // by slot: the rule is about the call …
	turn  uint64 // … and the call is one of its First, and an Every-th
}

// marks asks the rules with a Match about a call that begins.
func (rs rules) marks(head []byte) marks { return rs.marksOf(head, nil) }

// marksOf is marks of a head, or of the fields of one.
func (rs rules) marksOf(head []byte, fields []hpack.HeaderField) (m marks) {
	var q request
	for _, r := range rs {
		if r.match == nil {
			continue
		}
		if q.head == nil && q.fields == nil {
			if fields == nil {
				q = asked(head)
			} else {
				q = askedOf(fields)
			}
			m.known = rs.last()
		}
		if !r.match.fits(&q) {
			continue
		}
		bit := uint64(1) << r.match.slot
		m.about |= bit
		if r.When.has(r.matched.Add(1)) {
			m.turn |= bit
		}
	}
	return m
}

// about tells whether the rule is about such a call at all; if not, it is not drawn.
func (r *active) about(w *who) bool {
	return r.match == nil || r.match.id <= w.known && w.about>>r.match.slot&1 == 1
}

// has tells whether the rule is about the nth call, as far as numbers go.
func (w *When) has(nth uint64) bool {
	return (w.First == 0 || nth <= w.First) && (w.Every == 0 || nth%w.Every == 0)
}

// slots gives a slot to each that has none. Those of rules that are gone are free
// again: a call that such a one had marked is not known to its successor.
func slots(all []*placed) {
	var used uint64
	for _, e := range all {
		if m := e.at.match; m != nil && m.slot >= 0 {
			used |= 1 << m.slot
		}
	}
	for _, e := range all {
		if m := e.at.match; m != nil && m.slot < 0 {
			for m.slot = 0; used>>m.slot&1 == 1; m.slot++ {
			}
			used |= 1 << m.slot
		}
	}
}

// matchesFit tells when there are too many of them.
func (c *Config) matchesFit(all ...Rule) error {
	n := 0
	for _, r := range all {
		if m := r.match(); !m.isZero() {
			n++
		}
	}
	if n > matchesMost {
		return fmt.Errorf("proxy %q: %d rules with a match, want at most %d", c.Name, n, matchesMost)
	}
	return nil
}

var errMatchOfConnections = errors.New("a match is about requests, and this is about connections: use another kind, or no match")
