package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

func TestReshapeRefused(t *testing.T) {
	var many []Field
	for i := range framing.Most + 1 {
		many = append(many, Field{Name: fmt.Sprint("a", i)})
	}
	for want, e := range map[string]Edit{
		"changes nothing":                 {},
		`header name is "a:"`:             {Remove: []string{"a:"}},
		`header name is ""`:               {Add: []Field{{}}},
		`header a is "b\r\nc: d"`:         {Set: []Field{{Name: "a", Value: "b\r\nc: d"}}},
		`header a is " b"`:                {Add: []Field{{Name: "a", Value: " b"}}},
		"header A is set twice":           {Set: []Field{{Name: "a"}, {Name: "A"}}},
		"65 headers to set":               {Set: many},
		"headers of 65537 bytes, want at": {Set: []Field{{Name: "a", Value: strings.Repeat("b", reshapeMost)}}},
	} {
		for _, r := range []Rule{{Reshape: &Reshape{Request: e}}, {Reshape: &Reshape{Answer: e}}} {
			r.Name = "x"
			if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", r.Reshape, err, want)
			}
		}
	}
	for _, name := range []string{"content-Length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Trailer", "Expect", "Keep-Alive", "Proxy-Connection"} {
		for _, e := range []Edit{{Remove: []string{name}}, {Set: []Field{{Name: name}}}, {Add: []Field{{Name: name}}}} {
			err := Rule{Name: "x", Reshape: &Reshape{Request: e}}.Validate()
			if want := "header " + name + " says where a message ends"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", e, err, want)
			}
		}
	}
}

// scripted answers each request line with what the script has for it, and hears
// whole requests, as they stand.
func scripted(t *testing.T, script map[string]string, heard chan<- string) (address string) {
	return startTCP(t, func(c net.Conn) {
		r := newReader(c)
		for {
			var raw bytes.Buffer
			through := newReaderThrough(r, &raw)
			q, err := http.ReadRequest(through)
			if err != nil {
				return
			}
			if q.Header.Get("Expect") != "" {
				io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			if _, err := io.Copy(io.Discard, q.Body); err != nil {
				return
			}
			heard <- raw.String()
			answer := script[q.Method+" "+q.URL.Path]
			if io.WriteString(c, answer); strings.Contains(answer, "Connection: close") {
				return
			}
		}
	})
}

// TestReshapeForms runs through the shapes of messages, pipelined: of each, the
// head is changed as asked and nothing else.
func TestReshapeForms(t *testing.T) {
	forms := []struct{ request, heard, answer, got string }{
		{"GET /plain HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nX-Odd:  1\r\n\r\n",
			"GET /plain HTTP/1.1\r\nHost: elsewhere:81\r\nX-Odd:  1\r\nX-Via: proxy\r\n\r\n",
			"HTTP/1.1 200 OK\r\nserver: nginx\r\nContent-Length: 2\r\nDate: now\r\n\r\nok",
			"HTTP/1.1 200 OK\r\nServer: none\r\nContent-Length: 2\r\nCache-Control: no-store\r\n\r\nok"},
		{"POST /chunked HTTP/1.1\r\nCookie: 1\r\nhost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Cookie\r\ncookie: 2\r\n\r\n3;e\r\nabc\r\n0\r\nCookie: t\r\n\r\n",
			"POST /chunked HTTP/1.1\r\nHost: elsewhere:81\r\nTransfer-Encoding: chunked\r\nTrailer: Cookie\r\nX-Via: proxy\r\n\r\n3;e\r\nabc\r\n0\r\nCookie: t\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\n\r\n5;x=1\r\nhello\r\n0\r\nDate: v\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer: none\r\nCache-Control: no-store\r\n\r\n5;x=1\r\nhello\r\n0\r\nDate: v\r\n\r\n"},
		{"HEAD /head HTTP/1.1\r\nHost: x\r\n\r\n",
			"HEAD /head HTTP/1.1\r\nHost: elsewhere:81\r\nX-Via: proxy\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nServer: none\r\nCache-Control: no-store\r\n\r\n"},
		{"GET /204 HTTP/1.1\nHost: x\n\n",
			"GET /204 HTTP/1.1\nHost: elsewhere:81\nX-Via: proxy\n\n",
			"HTTP/1.1 204 No Content\r\nServer: a\r\nServer: b\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nServer: none\r\nCache-Control: no-store\r\n\r\n"},
		{"GET /304 HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /304 HTTP/1.1\r\nHost: elsewhere:81\r\nX-Via: proxy\r\n\r\n",
			"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: y\r\n\r\n",
			"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: y\r\nServer: none\r\nCache-Control: no-store\r\n\r\n"},
		{"GET /hints HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /hints HTTP/1.1\r\nHost: elsewhere:81\r\nX-Via: proxy\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nDate: kept\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nDate: kept\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: none\r\nCache-Control: no-store\r\n\r\n"},
		{"GET /other/one HTTP/1.1\r\nHost: x\r\nCookie: kept\r\n\r\n",
			"GET /other/one HTTP/1.1\r\nHost: x\r\nCookie: kept\r\n\r\n",
			"HTTP/1.1 200 OK\r\nDate: kept\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nDate: kept\r\nContent-Length: 0\r\n\r\n"},
		{"POST /expect HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
			"POST /expect HTTP/1.1\r\nHost: elsewhere:81\r\nExpect: 100-continue\r\nContent-Length: 3\r\nX-Via: proxy\r\n\r\nabc",
			"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\nServer: none\r\nCache-Control: no-store\r\n\r\n."},
		{"GET /close HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"GET /close HTTP/1.1\r\nHost: elsewhere:81\r\nConnection: close\r\nX-Via: proxy\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end",
			"HTTP/1.1 200 OK\r\nConnection: close\r\nServer: none\r\nCache-Control: no-store\r\n\r\nto the end"},
	}
	script, sent, want := map[string]string{}, "", ""
	for _, x := range forms {
		line := strings.Fields(x.request)
		script[line[0]+" "+line[1]] = x.answer
		sent += x.request
		want += x.got
	}
	heard := make(chan string, len(forms))
	p := startProxy(t, HTTP, scripted(t, script, heard))
	var match Match
	for _, path := range []string{"/plain", "/chunked", "/head", "/204", "/304", "/hints", "/expect", "/close"} {
		match.Path = path
		// Two rules, so that one edits what the other did.
		add(t, p, Rule{Name: "one", Percent: 1, Match: match, Reshape: &Reshape{
			Request: Edit{Set: []Field{{Name: "Host", Value: "elsewhere:81"}}, Remove: []string{"cookie"}},
			Answer:  Edit{Set: []Field{{Name: "Server", Value: "some"}}},
		}})
		add(t, p, Rule{Name: "two", Percent: 1, Match: match, Reshape: &Reshape{
			Request: Edit{Add: []Field{{Name: "X-Via", Value: "proxy"}}},
			Answer:  Edit{Remove: []string{"Date"}, Set: []Field{{Name: "Server", Value: "none"}}, Add: []Field{{Name: "Cache-Control", Value: "no-store"}}},
		}})
	}
	c := dial(t, p.Addr())
	c.send(sent)
	for _, x := range forms {
		got := make([]byte, len(x.got))
		if n, err := io.ReadFull(c.Reader, got); err != nil || string(got) != x.got {
			t.Fatalf("the caller got %q, %v,\nwant %q", got[:n], err, x.got)
		}
		if got := <-heard; got != x.heard {
			t.Fatalf("the upstream heard %q,\nwant %q", got, x.heard)
		}
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["200"]+s.Answers["204"]+s.Answers["304"] == len(forms) })
	if s.Opaque != 0 || s.Rules["two"].Fired != len(forms)-1 || s.Rules["two"].Eligible != len(forms)-1 {
		t.Errorf("stats %+v", s)
	}
}

// TestReshapeLargeHeads: a head never grows beyond what framing understands.
func TestReshapeLargeHeads(t *testing.T) {
	heard := make(chan string, 2)
	p := startProxy(t, HTTP, scripted(t, map[string]string{"GET /": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}, heard))
	add(t, p, Rule{Name: "x", Percent: 1, Reshape: &Reshape{Request: Edit{Add: []Field{{Name: "More", Value: strings.Repeat("y", 1000)}}}}})
	c := dial(t, p.Addr())
	for _, size := range []int{framing.MaxHead - 10_000, framing.MaxHead - 500} {
		head := "GET / HTTP/1.1\r\nHost: x\r\n"
		for len(head) < size-8 { // net/http bounds lines, but not by so much
			head += "A: " + strings.Repeat("z", min(60_000, size-8-len(head)-2)) + "\r\n"
		}
		want := head
		if size < framing.MaxHead-1000 {
			want += "More: " + strings.Repeat("y", 1000) + "\r\n"
		}
		c.send(head + "\r\n")
		if got := <-heard; got != want+"\r\n" {
			t.Errorf("a head of %d bytes became %d bytes, want %d", len(head)+2, len(got), len(want)+2)
		}
		if status, _ := c.answer("GET"); status != 200 {
			t.Errorf("status %d", status)
		}
	}
}
