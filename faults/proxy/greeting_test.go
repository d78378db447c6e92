package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// helloOf is what a client says first.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	go tls.Client(here, config).Handshake() // ends with there
	p := make([]byte, longestHello)
	n, err := there.Read(p)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

// asTLSSees is what crypto/tls reads out of a ClientHello.
func asTLSSees(p []byte) (facts TLSFacts, is bool) {
	enough := errors.New("enough")
	from := &lastWords{Reader: bytes.NewReader(p)}
	_ = tls.Server(from, &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		is = true
		facts = TLSFacts{Side: TLSThrough, ServerName: printable(info.ServerName), ALPN: printable(strings.Join(info.SupportedProtos, ","))}
		return nil, enough
	}}).HandshakeContext(context.Background())
	return facts, is
}

// lastWords is a connection on which a few bytes come, and nothing is heard.
type lastWords struct {
	net.Conn
	*bytes.Reader
}

func (c *lastWords) Read(p []byte) (int, error)        { return c.Reader.Read(p) }
func (c *lastWords) Write(p []byte) (int, error)       { return len(p), nil }
func (c *lastWords) Close() error                      { return nil }
func (c *lastWords) SetDeadline(time.Time) error       { return nil }
func (c *lastWords) SetReadDeadline(t time.Time) error { return nil }

// inRecords sends a handshake message in records of n bytes.
func inRecords(hello []byte, n int) (all []byte) {
	for message := hello[5:]; len(message) > 0; message = message[min(n, len(message)):] {
		part := message[:min(n, len(message))]
		all = append(append(all, hello[0], hello[1], hello[2], byte(len(part)>>8), byte(len(part))), part...)
	}
	return all
}

// TestGreeting: whatever pieces and records it comes in, a ClientHello is read once, and
// what is no ClientHello is not.
func TestGreeting(t *testing.T) {
	want := TLSFacts{Side: TLSThrough, ServerName: "api.test", ALPN: "h2,http/1.1"}
	whole := helloOf(t, &tls.Config{ServerName: "api.test", NextProtos: []string{"h2", "http/1.1"}})
	for name, bytes := range map[string][]byte{"one record": whole, "small records": inRecords(whole, 100), "tiny records": inRecords(whole, 3)} {
		for _, piece := range []int{1, 7, 100, len(bytes)} {
			var h greeting
			times := 0
			for p := append(bytes, "what comes then"...); len(p) > 0; p = p[min(piece, len(p)):] {
				if facts, found := h.look(p[:min(piece, len(p))]); found {
					if times++; facts != want {
						t.Errorf("%s in pieces of %d: %+v, want %+v", name, piece, facts, want)
					}
				}
			}
			if times != 1 || !h.over || h.part != nil {
				t.Errorf("%s in pieces of %d: found %d times, over: %v, %d bytes kept", name, piece, times, h.over, len(h.part))
			}
		}
	}
	for name, p := range map[string]string{
		"HTTP":                 "GET / HTTP/1.1\r\n\r\n",
		"another record":       "\x17\x03\x03\x00\x01x",
		"another version":      "\x16\x10\x03\x00\x01\x01",
		"an empty record":      "\x16\x03\x01\x00\x00",
		"a record too long":    "\x16\x03\x01\xff\xff\x01",
		"another message":      "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
		"a message too long":   "\x16\x03\x01\x00\x04\x01\xff\xff\xff",
		"cut lists":            "\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03",
		"random bytes in it":   "\x16\x03\x01\x00\x2a\x01\x00\x00\x26" + strings.Repeat("\xff", 38),
		"more after than fits": "\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03" + strings.Repeat("r", 32) + "\x00\x00\x02\x13\x01\x01\x00\x00\x00xx",
	} {
		var h greeting
		if facts, found := h.look([]byte(p)); found || !h.over {
			t.Errorf("%s: found %v %+v, over: %v", name, found, facts, h.over)
		}
	}
	var h greeting
	for range 1000 { // a ClientHello that does not end
		if _, found := h.look([]byte("\x16\x03\x01\x00\x40" + strings.Repeat("\x01\x00\x3f\xf0", 16))); found || len(h.part) > longestHello {
			t.Fatalf("found: %v, %d bytes are kept", found, len(h.part))
		}
	}
	if !h.over || h.part != nil {
		t.Errorf("a ClientHello that does not end: %d bytes are kept", len(h.part))
	}
	for in, want := range map[string]string{"a.example": "a.example", "x\xff": "(invalid)", "a b": "(invalid)", strings.Repeat("a", 300): "(invalid)"} {
		if got := printable(in); got != want {
			t.Errorf("%q is shown as %q", in, got)
		}
	}
}

// FuzzGreeting holds it against crypto/tls: what that takes for a ClientHello says the same
// here, in one piece and byte by byte.
func FuzzGreeting(f *testing.F) {
	for _, c := range []*tls.Config{
		{ServerName: "api.test", NextProtos: []string{"h2", "http/1.1"}},
		{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
		{ServerName: "a.very.long.name.example", NextProtos: []string{"x\xff"}, CurvePreferences: []tls.CurveID{tls.X25519}},
	} {
		f.Add(helloOf(f, c), uint16(50))
		f.Add(inRecords(helloOf(f, c), 60), uint16(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, piece uint16) {
		var h, whole greeting
		var facts TLSFacts
		found := false
		for rest, n := p, int(piece)+1; len(rest) > 0; rest = rest[min(n, len(rest)):] {
			if got, is := h.look(rest[:min(n, len(rest))]); is {
				if found {
					t.Fatal("found twice")
				}
				facts, found = got, true
			}
		}
		if got, is := whole.look(p); is != found && len(p) <= longestHello || is && got != facts {
			t.Fatalf("in pieces %v %+v, at once %v %+v", found, facts, is, got)
		}
		if want, is := asTLSSees(p); is && len(p) <= longestHello && (!found || facts != want) {
			t.Fatalf("%v %+v, crypto/tls sees %+v", found, facts, want)
		}
	})
}

// TestTLSFactsThrough: TLS that passes through is seen on both planes, on edges of bytes and
// of HTTP, under rules too, and the two ends still agree on every byte.
func TestTLSFactsThrough(t *testing.T) {
	ca := newTestCA(t)
	server := ca.serverConfig(t, "api.test")
	server.NextProtos = []string{"http/1.1"}
	for name, c := range map[string]Config{
		"fast plane": {Protocol: TCP},
		"rules":      {Protocol: TCP, Rules: []Rule{{Name: "s", Percent: 1, Slice: &Slice{Average: 100}}, {Name: "l", Percent: 1, Latency: &Latency{Delay: time.Millisecond, Direction: string(Request)}}}},
		"other rule": {Protocol: TCP, Rules: []Rule{{Name: "c", Percent: 1, Connect: &Connect{}}}},
		"HTTP edge":  {Protocol: HTTP},
	} {
		t.Run(name, func(t *testing.T) {
			c.Upstream = startTLS(t, server, echoTLS)
			p := startWith(t, c)
			for range 2 {
				to := dialTLS(t, p.Addr(), &tls.Config{RootCAs: ca.pool(), ServerName: "api.test", NextProtos: []string{"h2", "http/1.1"}})
				defer to.Close()
				io.WriteString(to, "hello")
				if b := make([]byte, 5); true {
					if _, err := io.ReadFull(to, b); err != nil || string(b) != "hello" {
						t.Fatalf("%q, %v", b, err)
					}
				}
			}
			dialTLS(t, p.Addr(), &tls.Config{InsecureSkipVerify: true}).Close()
			plain := dial(t, p.Addr())
			plain.send("no TLS\r\n\r\n")
			plain.CloseWrite()
			io.Copy(io.Discard, plain.Reader)
			s := collect(t, p, func(s Stats) bool { return len(s.TLS) == 2 })
			if s.TLS[TLSFacts{Side: TLSThrough, ServerName: "api.test", ALPN: "h2,http/1.1"}] != 2 || s.TLS[TLSFacts{Side: TLSThrough}] != 1 {
				t.Errorf("%+v", s.TLS)
			}
			if s := p.Collect(); s.TLS == nil || len(s.TLS) > 0 {
				t.Errorf("collected twice: %+v", s.TLS)
			}
		})
	}
}

// TestTLSFactsMoved: a ClientHello of which the beginning came on the fast plane, and the
// rest under a rule, is one.
func TestTLSFactsMoved(t *testing.T) {
	got := make(chan []byte, 1)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		got <- b
	}))
	hello := helloOf(t, &tls.Config{ServerName: "moved.test"})
	c := dial(t, p.Addr())
	c.send(string(hello[:100]))
	collect(t, p, func(s Stats) bool { return s.BytesUp == 100 })
	add(t, p, Rule{Name: "l", Percent: 1, Latency: &Latency{Delay: time.Millisecond, Direction: string(Request)}})
	c.send(string(hello[100:]))
	c.CloseWrite()
	if b := <-got; !bytes.Equal(b, hello) {
		t.Errorf("%d bytes came, and not those that were sent", len(b))
	}
	if s := p.Collect(); s.TLS[TLSFacts{Side: TLSThrough, ServerName: "moved.test"}] != 1 {
		t.Errorf("%+v", s.TLS)
	}
}

// TestTLSFactsEnded: what was agreed on with both sides, where TLS ends here and begins anew.
func TestTLSFactsEnded(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	server := ca.serverConfig(t, "inside.test")
	server.MaxVersion = tls.VersionTLS12
	p := startWith(t, Config{Protocol: HTTP, Upstream: startTLS(t, server, echoTLS),
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem, ServerName: "inside.test"}})
	trust := trusting(authority)
	trust.ServerName, trust.NextProtos = "outside.test", []string{"http/1.1"}
	c := dialTLS(t, p.Addr(), trust)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	s := collect(t, p, func(s Stats) bool { return len(s.TLS) == 2 })
	if s.TLS[TLSFacts{TLSCaller, "outside.test", "TLS 1.3", "http/1.1"}] != 1 || s.TLS[TLSFacts{TLSUpstream, "inside.test", "TLS 1.2", ""}] != 1 {
		t.Errorf("%+v", s.TLS)
	}
}

// TestTLSFactsAreBounded: callers that make names up do not fill the memory.
func TestTLSFactsAreBounded(t *testing.T) {
	var c counters
	for i := range 1000 {
		c.met(TLSFacts{Side: TLSThrough, ServerName: strings.Repeat("a", i%200+1)})
	}
	s := c.collect()
	if len(s.TLS) != mostFacts+1 || s.TLS[TLSFacts{Side: TLSThrough}.Others()] == 0 {
		t.Errorf("%d are told apart: %+v", len(s.TLS), s.TLS)
	}
}
