package framing

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRequest(t *testing.T) {
	for head, want := range map[string]Request{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                          {},
		"\r\nGET / HTTP/1.1\r\n\r\n":                                                 {},
		"GET / HTTP/1.1\nHost: x\n\n":                                                {},
		"HEAD / HTTP/1.1\r\n\r\n":                                                    {Method: Head},
		"CONNECT x:1 HTTP/1.1\r\n\r\n":                                               {Method: Connect, Upgrade: true},
		"GET / HTTP/1.0\r\n\r\n":                                                     {Close: true},
		"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n":                           {},
		"GET / HTTP/1.1\r\nConnection: foo, Close\r\n\r\n":                           {Close: true},
		"GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n":  {Upgrade: true},
		"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n":                                     {},
		"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n":       {Expect: true, Body: Body{kind: sized, left: 2}},
		"POST / HTTP/1.1\r\ncontent-length:\t7 \r\nContent-Length: 7\r\n\r\n":        {Body: Body{kind: sized, left: 7}},
		"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n":                      {Body: Body{kind: chunked}},
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n": {Body: Body{kind: chunked}},
	} {
		got, err := ParseRequest([]byte(head + "rest"))
		want.Size = len(head)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", head, got, err, want)
		}
		for n := range len(head) {
			if _, err := ParseRequest([]byte(head[:n])); !errors.Is(err, ErrShort) {
				t.Errorf("%q: %v, want ErrShort", head[:n], err)
			}
		}
	}
}

func TestParseAnswer(t *testing.T) {
	sizedBody := func(n int64) Body { return Body{kind: sized, left: n} }
	for _, c := range []struct {
		head string
		to   Method
		want Answer
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Other, Answer{Status: 200, Body: sizedBody(3)}},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Head, Answer{Status: 200}},
		{"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Other, Answer{Status: 200}},
		{"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Other, Answer{Status: 304}},
		{"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Other, Answer{Status: 204}},
		{"HTTP/1.0 200 OK\r\n\r\n", Other, Answer{Status: 200, Body: Body{kind: untilClose}}},
		{"HTTP/1.1 500 x y z\nTransfer-Encoding: chunked\n\n", Other, Answer{Status: 500, Body: Body{kind: chunked}}},
		{"HTTP/1.1 100 Continue\r\n\r\n", Other, Answer{Status: 100, Interim: true}},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", Other, Answer{Status: 101, Tunnel: true}},
		{"HTTP/1.1 200 OK\r\n\r\n", Connect, Answer{Status: 200, Tunnel: true}},
		{"HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\n", Connect, Answer{Status: 407, Body: sizedBody(3)}},
	} {
		got, err := ParseAnswer([]byte(c.head+"rest"), c.to)
		c.want.Size = len(c.head)
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v, want %+v", c.head, got, err, c.want)
		}
		for n := range len(c.head) {
			if _, err := ParseAnswer([]byte(c.head[:n]), c.to); !errors.Is(err, ErrShort) {
				t.Errorf("%q: %v, want ErrShort", c.head[:n], err)
			}
		}
	}
}

func TestOpaque(t *testing.T) {
	for _, p := range []string{
		"\x16\x03\x01", " GET", "GET  / HTTP/1.1\r\n\r\n", "PING\r\n", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1 x\r\n\r\n",
		"GET /\x00", strings.Repeat("a", 33), "GET / HTTP/1.1\r\n folded: x\r\n\r\n", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
		"GET / HTTP/1.1\r\nname : x\r\n\r\n", "GET / HTTP/1.1\r\n: x\r\n\r\n", "GET / HTTP/1.1\r\nx\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", MaxHead),
		"GET /" + strings.Repeat("a", MaxHead),
	} {
		if _, err := ParseRequest([]byte(p)); !errors.Is(err, ErrOpaque) {
			t.Errorf("request %.60q: %v, want ErrOpaque", p, err)
		}
	}
	for _, p := range []string{
		"HTTP/2", "SSH-2.0-x\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 x\r\n\r\n",
		"HTTP/1.1  200 OK\r\n\r\n", "HTTP/1.1\r\n", "HTTP/1.1 2x0 OK\r\n", "HTTP/1.2 200 OK\r\n",
	} {
		if _, err := ParseAnswer([]byte(p), Other); !errors.Is(err, ErrOpaque) {
			t.Errorf("answer %q: %v, want ErrOpaque", p, err)
		}
	}
	for _, p := range []string{
		"x\r\n", "\r\n", "5\nhello", ";x\r\n", "5 x\r\n", "5\r\nhelloX", "5\r\nhello\rX", "0\r\nT: x\n", "0\r\n\n", "11111111111111111\r\n", "8000000000000000\r\n",
	} {
		b := Body{kind: chunked}
		if _, _, err := b.Take([]byte(p)); !errors.Is(err, ErrOpaque) {
			t.Errorf("chunks %q: %v, want ErrOpaque", p, err)
		}
	}
}

// TestTakeInAnyPieces: where a body ends does not depend on how its bytes arrive.
func TestTakeInAnyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p []byte
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 300), 0, 8).Draw(t, "chunks") {
			ext := rapid.SampledFrom([]string{"", " ", ";a=b", ";x=\"y\""}).Draw(t, "ext")
			p = append(p, []byte(strings.ToUpper(strings.TrimLeft(hexOf(n), "0"))+ext+"\r\n")...)
			p = append(p, bytes.Repeat([]byte("\r"), n)...)
			p = append(p, "\r\n"...)
		}
		p = append(p, rapid.SampledFrom([]string{"0\r\n\r\n", "000;x\r\nA: b\r\nC: d\r\n\r\n"}).Draw(t, "end")...)
		whole := len(p)
		p = append(p, "GET / HTTP/1.1"...)

		b, taken := Body{kind: chunked}, 0
		for done := false; !done; {
			k := rapid.IntRange(0, len(p)-taken).Draw(t, "piece")
			runs, n := b, 0
			for more := true; more && n < k; {
				took, _ := runs.Next(p[taken+n : taken+k])
				n, more = n+took, took > 0
			}
			took, end, err := b.Take(p[taken : taken+k])
			if err != nil {
				t.Fatal(err)
			}
			if n != took || runs != b {
				t.Fatalf("Next took %d bytes, to %+v, Take %d, to %+v", n, runs, took, b)
			}
			if pending := b.Pending(); int64(whole-taken-n) < pending {
				t.Fatalf("%d bytes are said to come, %d do", pending, whole-taken-n)
			}
			taken += n
			done = end
		}
		if taken != whole {
			t.Fatalf("the body has %d bytes, %d were taken", whole, taken)
		}
	})
}

func hexOf(n int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[n>>8&15], digits[n>>4&15], digits[n&15]})
}

// whole is where this package sees the end of the message at the start of p;
// -1 when it does not understand it, or it is not complete.
func whole(head int, body Body, p []byte) int {
	n, done, err := body.Take(p[head:])
	if err != nil || !done && !body.UntilClose() {
		return -1
	}
	return head + n
}

// content is what this package takes for the content of the body at the start of p.
func content(body Body, p []byte) (all []byte) {
	for len(p) > 0 {
		n, is := body.Next(p)
		if n == 0 {
			break
		}
		if is {
			all = append(all, p[:n]...)
		}
		p = p[n:]
	}
	return all
}

// counting says how much of a reader was read.
type counting struct {
	r *bytes.Reader
}

func (c counting) at(b *bufio.Reader) int { return int(c.r.Size()) - c.r.Len() - b.Buffered() }

// FuzzRequest holds the boundaries against net/http: where both understand a
// request, both see its end at the same byte. (What only one of them understands
// is a matter of strictness; what this package does not, it lets pass.)
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\nGET",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1 \r\na\r\n000\r\n\r\nxyz",
		"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\nabc",
		"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"CONNECT x:1 HTTP/1.1\r\nContent-Length: 1\r\n\r\nabc",
		"POST / HTTP/1.1\nHost: x\ncontent-length:1\n\nab",
		"POST / HTTP/1.1\r\nHost: x\r\nA: b\r\n c: d\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabcd",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 3\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := ParseRequest(p)
		if err != nil {
			return
		}
		if r.Size > len(p) {
			t.Fatalf("a head of %d bytes in %d", r.Size, len(p))
		}
		ours := whole(r.Size, r.Body, p)
		c := counting{bytes.NewReader(bytes.TrimLeft(p, "\r\n"))}
		b := bufio.NewReader(c.r)
		theirs, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		all, err := io.ReadAll(theirs.Body)
		if err != nil || ours < 0 {
			return
		}
		if got := content(r.Body, p[r.Size:]); !bytes.Equal(got, all) {
			t.Fatalf("we see the content %q, net/http %q, of %q", got, all, p)
		}
		if at := c.at(b) + len(p) - len(bytes.TrimLeft(p, "\r\n")); at != ours {
			t.Fatalf("we see the end at %d, net/http at %d, of %q", ours, at, p)
		}
		if r.Close != theirs.Close && theirs.ProtoAtLeast(1, 1) {
			t.Fatalf("we see close %v, net/http %v, of %q", r.Close, theirs.Close, p)
		}
	})
}

// FuzzAnswer is the same for answers.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP",
		"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\nHTTP",
		"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\nHTTP",
		"HTTP/1.0 200 OK\r\n\r\nto the end",
		"HTTP/1.1 200\r\n\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, p []byte, head bool) {
		to, method := Other, "GET"
		if head {
			to, method = Head, "HEAD"
		}
		a, err := ParseAnswer(p, to)
		if err != nil || a.Interim || a.Tunnel {
			return
		}
		ours := whole(a.Size, a.Body, p)
		c := counting{bytes.NewReader(p)}
		b := bufio.NewReader(c.r)
		theirs, err := http.ReadResponse(b, &http.Request{Method: method})
		if err != nil {
			return
		}
		if theirs.StatusCode != a.Status {
			t.Fatalf("we see status %d, net/http %d, of %q", a.Status, theirs.StatusCode, p)
		}
		all, err := io.ReadAll(theirs.Body)
		if err != nil || ours < 0 {
			return
		}
		if got := content(a.Body, p[a.Size:]); !bytes.Equal(got, all) {
			t.Fatalf("we see the content %q, net/http %q, of %q", got, all, p)
		}
		if at := c.at(b); at != ours {
			t.Fatalf("we see the end at %d, net/http at %d, of %q", ours, at, p)
		}
	})
}

func BenchmarkParseRequest(b *testing.B) {
	p := []byte("POST /checkout HTTP/1.1\r\nHost: orders:8080\r\nUser-Agent: x/1.0\r\nContent-Type: application/json\r\nContent-Length: 26\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRequest(p); err != nil {
			b.Fatal(err)
		}
	}
}
