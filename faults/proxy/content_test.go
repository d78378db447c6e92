package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestLatencyOfTheBody: the head comes at once, the body later, to the nanosecond;
// and what has no body, or does not match, does not wait.
func TestLatencyOfTheBody(t *testing.T) {
	const head, body = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"
	answers := map[string]string{"/": head + body, "/none": "HTTP/1.1 204 No Content\r\n\r\n", "/empty": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}
	const up = 70 * time.Millisecond
	var start time.Time
	inBubble(t, HTTP, func(c net.Conn) {
		r := newReader(c)
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			headAt := time.Since(start)
			io.Copy(io.Discard, q.Body)
			if bodyAt := time.Since(start); q.Method == "POST" && (headAt != 0 || bodyAt != up) {
				t.Errorf("the upstream has the head after %v, the body after %v; want 0 and %v", headAt, bodyAt, up)
			}
			io.WriteString(c, answers[q.URL.Path])
		}
	}, func(t *testing.T, p *Proxy, c net.Conn) {
		add(t, p, Rule{Name: "down", Percent: 1, Latency: &Latency{Delay: 200 * time.Millisecond, Where: Body}})
		add(t, p, Rule{Name: "down too", Percent: 1, Match: Match{Path: "/"}, Latency: &Latency{Delay: 50 * time.Millisecond, Where: Body}})
		add(t, p, Rule{Name: "up", Percent: 1, Match: Match{Methods: []string{"POST"}}, Latency: &Latency{Delay: up, Where: Body, Direction: "request"}})
		for _, x := range []struct {
			request    string
			head, body time.Duration
		}{
			{"GET /empty HTTP/1.1\r\nHost: x\r\n\r\n", 0, 0},
			{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, 250 * time.Millisecond},
			{"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", 0, 0},
			{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", up, up + 250*time.Millisecond},
		} {
			start = time.Now()
			io.WriteString(c, x.request)
			answer := answers[strings.Fields(x.request)[1]]
			size := strings.Index(answer, "\r\n\r\n") + 4
			got := make([]byte, len(answer))
			_, err := io.ReadFull(c, got[:size])
			headAt := time.Since(start)
			if err == nil {
				_, err = io.ReadFull(c, got[size:])
			}
			if bodyAt := time.Since(start); err != nil || string(got) != answer || headAt != x.head || bodyAt != x.body {
				t.Errorf("%q: head after %v, body after %v, %v; want %v and %v", x.request, headAt, bodyAt, err, x.head, x.body)
			}
		}
		s := p.Collect()
		for name, want := range map[string]int{"down": 2, "down too": 2, "up": 1} {
			if r := s.Rules[name]; r.Eligible != want || r.Fired != want || int(r.Delay.Count()) != want {
				t.Errorf("rule %q fired %d of %d, %d measured; want %d", name, r.Fired, r.Eligible, r.Delay.Count(), want)
			}
		}
	})
}

// TestBodyLatencyEndsWithTheRule: what is held goes on, the head having gone before.
func TestBodyLatencyEndsWithTheRule(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	remove := add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Hour, Where: Body}})
	c := dial(t, p.Addr())
	c.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
	a, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	remove()
	if body, err := io.ReadAll(a.Body); string(body) != "/held " || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}

// TestAbort: so many bytes of content pass, whatever is around them, then RST, or
// FIN; an answer that has not so many passes whole, and the next call too.
func TestAbort(t *testing.T) {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	script := map[string]string{
		"GET /sized":   "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n" + letters,
		"GET /chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n17\r\n" + letters[3:] + "\r\n0\r\nT: v\r\n\r\n",
		"GET /until":   "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + letters,
		"HEAD /sized":  "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n",
		"GET /204":     "HTTP/1.1 204 No Content\r\n\r\n",
		"GET /hints":   "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
	}
	upstream := scripted(t, script, make(chan string, 100))
	for _, x := range []struct {
		request string
		after   int64
		want    string // of the answer; empty: all
	}{
		{"GET /sized", 0, "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n"},
		{"GET /sized", 7, "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\nabcdefg"},
		{"GET /sized", 27, ""},
		{"GET /chunked", 0, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"GET /chunked", 3, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc"},
		{"GET /chunked", 5, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n17\r\nde"},
		{"GET /chunked", 26, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n17\r\n" + letters[3:]},
		{"GET /chunked", 27, ""},
		{"GET /until", 7, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcdefg"},
		{"HEAD /sized", 0, ""},
		{"GET /204", 0, ""},
		{"GET /hints", 1, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na"},
	} {
		for _, inOrder := range []bool{false, true} {
			t.Run(fmt.Sprint(x.request, " ", x.after, " ", inOrder), func(t *testing.T) {
				p := startProxy(t, HTTP, upstream)
				add(t, p, Rule{Name: "abort", Percent: 1, Match: Match{Headers: []Field{{Name: "Hit"}}}, Abort: &Abort{After: x.after, Close: inOrder}})
				c := dial(t, p.Addr())
				whole, want := script[x.request], x.want
				read := func(want string) {
					t.Helper()
					got := make([]byte, len(want))
					if n, err := io.ReadFull(c.Reader, got); string(got) != want {
						t.Fatalf("%q, %v; want %q", got[:n], err, want)
					}
				}
				c.send(plainRequest(x.request))
				if x.request == "GET /until" {
					read(whole)
					c.wantEnd()
					c.Close()
					c = dial(t, p.Addr())
				} else {
					read(whole)
				}
				c.send(strings.Replace(plainRequest(x.request), "Host", "Hit: 1\r\nHost", 1))
				class := "200"
				if x.request == "GET /204" {
					class = "204"
				}
				switch {
				case want == "":
					read(whole)
					c.send(plainRequest("GET /204"))
					read(script["GET /204"])
				case inOrder:
					class = "closed"
					read(want)
					c.wantEnd()
					c.Close()
				default:
					class = "reset"
					got, err := io.ReadAll(c.Reader)
					if !errors.Is(err, syscall.ECONNRESET) || !strings.HasPrefix(want, string(got)) {
						t.Fatalf("%q, %v; want %q at most, and RST", got, err, want)
					}
				}
				s := collect(t, p, func(s Stats) bool {
					return s.Answers[class] >= 1 && s.Rules["abort"].Fired == 1 && (want == "" || s.Open == 0)
				})
				if want != "" && s.BytesDown != int64(len(whole)+len(want)) {
					t.Errorf("%d bytes went down, want %d and %d", s.BytesDown, len(whole), len(want))
				}
				if s.Rules["abort"].Eligible != 1 {
					t.Errorf("rule %+v, want one call drawn for", s.Rules["abort"])
				}
			})
		}
	}
}

// plainRequest has nothing but a method and a path.
func plainRequest(line string) string { return line + " HTTP/1.1\r\nHost: x\r\n\r\n" }

// TestAbortMidway: a rule that comes while a body waits for its next byte strikes then.
func TestAbortMidway(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "0123456789")
		http.NewResponseController(w).Flush()
		<-release
	}))
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	a, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	add(t, p, Rule{Name: "not yet", Percent: 1, Abort: &Abort{After: 11}})
	c.wantSilence()
	add(t, p, Rule{Name: "over", Percent: 1, Abort: &Abort{After: 10}})
	c.wantReset()
	collect(t, p, func(s Stats) bool { return s.Answers["reset"] == 1 && s.Rules["over"].Fired == 1 })
}

// TestAbortOfHeldBytes: a rule that comes while another holds up bytes that were
// received long ago strikes at its byte, or at once where that has passed.
func TestAbortOfHeldBytes(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	const answer = head + "a\r\n0123456789\r\n5\r\nabcde\r\n0\r\n\r\n"
	for after, want := range map[int64]string{4: head + "a\r\n01234", 5: head + "a\r\n01234", 12: head + "a\r\n0123456789\r\n5\r\nab"} {
		inBubble(t, HTTP, func(c net.Conn) {
			c.Read(make([]byte, 100))
			io.WriteString(c, answer)
			c.Read(make([]byte, 100))
		}, func(t *testing.T, p *Proxy, c net.Conn) {
			first := int64(len(head + "a\r\n01234"))
			remove := add(t, p, Rule{Name: "slice", Percent: 1, Slice: &Slice{Average: first, Delay: time.Hour, Direction: Answer}})
			io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
			got := make([]byte, first)
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			add(t, p, Rule{Name: "abort", Percent: 1, Abort: &Abort{After: after}})
			if after > 5 {
				remove()
			}
			rest, err := io.ReadAll(c)
			if all := string(got) + string(rest); err != nil || all != want {
				t.Errorf("after %d: %q, %v, want %q", after, all, err, want)
			}
			if s := p.Collect(); s.Answers["reset"] != 1 {
				t.Errorf("after %d: answers %v", after, s.Answers)
			}
		})
	}
}

// TestCorruptBodies: bits of content flip, in the same places of the same call
// again, and nothing else changes: heads, chunk sizes, trailers, the calls between.
func TestCorruptBodies(t *testing.T) {
	const size, ratio = 20_000, 0.1
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(content)
	var chunks bytes.Buffer
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 777)
		fmt.Fprintf(&chunks, "%x;ext=%d\r\n%s\r\n", n, n, rest[:n])
		rest = rest[n:]
	}
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks.String() + "0\r\nTrailer: value\r\n\r\n"
	sized := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, content)
	run := func(slices bool) (all []string) {
		p := startProxy(t, HTTP, scripted(t, map[string]string{"GET /chunked": chunked, "GET /sized": sized}, make(chan string, 10)))
		add(t, p, Rule{Name: "rot", Percent: 1, Match: Match{Headers: []Field{{Name: "Hit"}}}, Corrupt: &Corrupt{Ratio: ratio, Direction: Answer}})
		if slices {
			add(t, p, Rule{Name: "slice", Percent: 1, Slice: &Slice{Average: 500, Variation: 400, Direction: Answer}})
		}
		c := dial(t, p.Addr())
		for _, path := range []string{"/chunked", "/sized"} {
			whole := chunked
			if path == "/sized" {
				whole = sized
			}
			for _, hit := range []string{"", "Hit: 1\r\n"} {
				c.send("GET " + path + " HTTP/1.1\r\n" + hit + "Host: x\r\n\r\n")
				got := make([]byte, len(whole))
				if _, err := io.ReadFull(c.Reader, got); err != nil {
					t.Fatal(err)
				}
				if hit == "" {
					if string(got) != whole {
						t.Fatalf("%s: an answer that was not to be hit is changed", path)
					}
					continue
				}
				if at := strings.Index(whole, "\r\n\r\n") + 4; string(got[:at]) != whole[:at] {
					t.Fatalf("%s: the head became %q", path, got[:at])
				}
				all = append(all, string(got))
			}
		}
		total := 0
		for i, got := range all {
			body := []byte(got[strings.Index(got, "\r\n\r\n")+4:])
			if i == 0 {
				r := httputil.NewChunkedReader(bytes.NewReader(body))
				var err error
				if body, err = io.ReadAll(r); err != nil {
					t.Fatalf("the chunks are broken: %v", err)
				}
				if !strings.HasSuffix(got, "0\r\nTrailer: value\r\n\r\n") || strings.Count(got, ";ext=") < 20 {
					t.Fatal("the trailer or the extensions are broken")
				}
			}
			if len(body) != size {
				t.Fatalf("%d bytes of content, want %d", len(body), size)
			}
			n := 0
			for i := range body {
				n += bits.OnesCount8(body[i] ^ content[i])
			}
			if n < size*ratio*8/10 || n > size*ratio*12/10 { // 9σ
				t.Errorf("%d bits flipped, want about %v", n, size*ratio)
			}
			total += n
		}
		s := collect(t, p, func(s Stats) bool { return s.Rules["rot"].Bytes >= int64(total) })
		if r := s.Rules["rot"]; r.Bytes != int64(total) || r.Fired != 2 || r.Eligible != 2 {
			t.Errorf("rule %+v, want %d bytes of 2 calls", r, total)
		}
		return all
	}
	one, two := run(false), run(true)
	if one[0] != two[0] || one[1] != two[1] {
		t.Error("the same calls broke in different places")
	}
}

// TestCorruptRequests: the other direction, chunked.
func TestCorruptRequests(t *testing.T) {
	heard := make(chan string, 1)
	p := startProxy(t, HTTP, scripted(t, map[string]string{"POST /": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}, heard))
	add(t, p, Rule{Name: "rot", Percent: 1, Corrupt: &Corrupt{Ratio: 1, Direction: Request}})
	c := dial(t, p.Addr())
	const before, after = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;abc\r\n", "\r\n0\r\nT: abc\r\n\r\n"
	c.send(before + "hello" + after)
	got := <-heard
	if !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) || len(got) != len(before+"hello"+after) {
		t.Fatalf("the upstream heard %q", got)
	}
	for i, b := range []byte(got[len(before) : len(before)+5]) {
		if bits.OnesCount8(b^"hello"[i]) != 1 {
			t.Errorf("byte %d: %q", i, b)
		}
	}
	if status, body := c.answer("POST"); status != 200 || body != "ok" {
		t.Errorf("%d %q", status, body)
	}
}

// TestInjectedAnswersAreAnswers: other rules have their say in what an error rule
// gives, and what is pipelined behind it.
func TestInjectedAnswersAreAnswers(t *testing.T) {
	p := startProxy(t, HTTP, "")
	add(t, p, Rule{Name: "down", Percent: 1, Error: &Error{Status: 503, Body: "nobody there"}})
	add(t, p, Rule{Name: "later", Percent: 1, Reshape: &Reshape{Answer: Edit{Set: []Field{{Name: "Retry-After", Value: "7"}, {Name: "content-type", Value: "x/y"}}}}})
	add(t, p, Rule{Name: "slow", Percent: 1, Match: Match{Path: "/slow"}, Latency: &Latency{Delay: 20 * time.Millisecond, Where: Body}})
	add(t, p, Rule{Name: "rot", Percent: 1, Match: Match{Path: "/rot"}, Corrupt: &Corrupt{Ratio: 1}})
	add(t, p, Rule{Name: "cut", Percent: 1, Match: Match{Path: "/cut"}, Abort: &Abort{After: 6, Close: true}})
	c := dial(t, p.Addr())
	requests := []string{"GET /", "HEAD /slow", "GET /slow", "POST /rot", "GET /cut"}
	for _, r := range requests {
		c.send(r + " HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for _, r := range requests {
		method, path, _ := strings.Cut(r, " ")
		a, err := http.ReadResponse(c.Reader, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(a.Body)
		if a.StatusCode != 503 || a.Header.Get("Retry-After") != "7" || a.Header.Get("Content-Type") != "x/y" {
			t.Errorf("%s: %+v", r, a)
		}
		want := "nobody there"
		switch {
		case method == "HEAD":
			want = ""
		case path == "/cut":
			want = "nobody"
		}
		whole := string(body) == want
		if path == "/rot" {
			whole = len(body) == len(want) && string(body) != want
		}
		if !whole || (err != nil) != (path == "/cut") {
			t.Errorf("%s: %q, %v", r, body, err)
		}
	}
	c.Close()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	if s.Answers["503"] != 4 || s.Answers["closed"] != 1 || s.Rules["slow"].Fired != 1 || s.Rules["slow"].Delay.Count() != 1 || s.Rules["slow"].Bytes != int64(len("nobody there")) {
		t.Errorf("answers %v, rule %+v", s.Answers, s.Rules["slow"])
	}
}

// TestBrokenChunksPassAsTheyAre: what stops being chunked coding is not content,
// and is not touched.
func TestBrokenChunksPassAsTheyAre(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nno chunk, but twenty bytes and more"
	p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) {
		c.Read(make([]byte, 100))
		io.WriteString(c, answer)
	}))
	add(t, p, Rule{Name: "rot", Percent: 1, Corrupt: &Corrupt{Ratio: 1}})
	add(t, p, Rule{Name: "cut", Percent: 1, Abort: &Abort{After: 3}})
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	got, err := io.ReadAll(c.Reader)
	at := strings.Index(answer, "ok")
	if err != nil || len(got) != len(answer) || string(got[:at]) != answer[:at] || string(got[at+2:]) != answer[at+2:] || string(got[at:at+2]) == "ok" {
		t.Errorf("got %q, %v, want %q but its two bytes of content", got, err, answer)
	}
	collect(t, p, func(s Stats) bool { return s.Opaque == 1 && s.Answers["opaque"] == 1 && s.Rules["rot"].Bytes == 2 })
}
