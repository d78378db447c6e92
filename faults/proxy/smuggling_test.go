package proxy

import (
	"io"
	"net"
	"testing"
)

// TestSmuggling: requests about whose end two readers could disagree. The proxy takes no side:
// what it cannot be sure of passes as it is, and is counted, and no byte is changed either way.
func TestSmuggling(t *testing.T) {
	const next = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		request string
		opaque  int
	}{
		"plain":                      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + next, 0},
		"two lengths":                {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + next, 1},
		"two lengths in a line":      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 4\r\n\r\nabc" + next, 1},
		"a length with a sign":       {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc" + next, 1},
		"a length below 0":           {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc" + next, 1},
		"a length that is too long":  {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nabc" + next, 1},
		"encoding that is unknown":   {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + next, 1},
		"encoding twice":             {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + next, 1},
		"space before the colon":     {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc" + next, 1},
		"a folded line":              {"POST / HTTP/1.1\r\nHost: x\r\nX: y\r\n Content-Length: 3\r\n\r\n" + next, 1},
		"a folded encoding":          {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + next, 1},
		"a bare CR":                  {"POST / HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 3\r\n\r\n" + next, 0}, // part of a value here, and passed on as one
		"a chunk's size with a sign": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n" + next, 1},
		"a chunk's size with 0x":     {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + next, 1},
		"a chunk that is too long":   {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n" + next, 1},
		"a chunk that goes on":       {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + next, 1},
		"encoding and length":        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next, 0}, // RFC 9112, 6.3: the encoding counts
		"the same length twice":      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + next, 0},                // … and this is one
		"lines that end in LF":       {"POST / HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc" + next, 0},                                             // RFC 9112, 2.2 allows it
		"an encoding of HTTP/1.0":    {"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) {
				b, _ := io.ReadAll(c)
				got <- string(b)
			}))
			add(t, p, Rule{Name: "looks", Percent: 1, Error: &Error{Status: 500}, Match: Match{Path: "/elsewhere"}})
			to := dial(t, p.Addr())
			to.send(c.request)
			to.CloseWrite()
			if b := <-got; b != c.request {
				t.Errorf("the upstream got %q, want %q", b, c.request)
			}
			if s := p.Collect(); s.Opaque != c.opaque {
				t.Errorf("%d connections were not understood, want %d", s.Opaque, c.opaque)
			}
		})
	}
}
