package loadgen

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// parsed is what there is to know about one answer.
type parsed struct {
	status, bytes, used int
	close               bool
}

// parseIn feeds raw in pieces that end at the given places, then ends the connection.
func parseIn(raw []byte, head bool, piece func(left int) int) (parsed, bool, error) {
	var a answer
	a.reset(head)
	used := 0
	for used < len(raw) && !a.done() {
		end := used + piece(len(raw)-used)
		n, err := a.feed(raw[used:end])
		used += n
		if err != nil {
			return parsed{}, false, err
		}
	}
	ok := a.end()
	return parsed{a.status, a.bytes, used, a.close}, ok, nil
}

func whole(left int) int { return left }

var answers = []struct {
	name, raw string
	head      bool
	want      parsed // used 0: all of raw
	err       string // "incomplete", or part of the error
}{
	{name: "length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", want: parsed{status: 200, bytes: 5}},
	{name: "no reason", raw: "HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", want: parsed{status: 200}},
	{name: "something left over", raw: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", want: parsed{status: 200, bytes: 1, used: 39}},
	{name: "chunked", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\n\r\n", want: parsed{status: 200, bytes: 8}},
	{name: "chunked with trailers", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: T\r\n\r\nA\r\n0123456789\r\n0\r\nT: 1\r\nU: 2\r\n\r\n", want: parsed{status: 200, bytes: 10}},
	{name: "chunked wins over length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", want: parsed{status: 200, bytes: 1}},
	{name: "until close", raw: "HTTP/1.1 200 OK\r\n\r\nall of it", want: parsed{status: 200, bytes: 9, close: true}},
	{name: "HTTP/1.0", raw: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", want: parsed{status: 200, bytes: 2, close: true}},
	{name: "HTTP/1.0 kept alive", raw: "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", want: parsed{status: 200, bytes: 2}},
	{name: "close", raw: "HTTP/1.1 503 Busy\r\nConnection: x, close\r\nContent-Length: 0\r\n\r\n", want: parsed{status: 503, close: true}},
	{name: "continue", raw: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", want: parsed{status: 201}},
	{name: "early hints", raw: "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", want: parsed{status: 200, bytes: 2}},
	{name: "head", raw: "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", head: true, want: parsed{status: 200}},
	{name: "no content", raw: "HTTP/1.1 204 No Content\r\n\r\n", want: parsed{status: 204}},
	{name: "not modified", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", want: parsed{status: 304}},
	{name: "bare line feeds", raw: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", want: parsed{status: 200, bytes: 2}},
	{name: "folded", raw: "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", want: parsed{status: 200}},
	{name: "same length twice", raw: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", want: parsed{status: 200, bytes: 1}},

	{name: "nothing", raw: "", err: "incomplete"},
	{name: "half a line", raw: "HTTP/1.1 20", err: "incomplete"},
	{name: "half the fields", raw: "HTTP/1.1 200 OK\r\nContent-Le", err: "incomplete"},
	{name: "half a body", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", err: "incomplete"},
	{name: "half a chunk", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", err: "incomplete"},
	{name: "no last chunk", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", err: "incomplete"},
	{name: "only an interim answer", raw: "HTTP/1.1 100 Continue\r\n\r\n", err: "incomplete"},

	{name: "garbage", raw: "SSH-2.0-OpenSSH_9.2\r\n", err: "begins with"},
	{name: "HTTP/2", raw: "HTTP/2.0 200 OK\r\n\r\n", err: "begins with"},
	{name: "status of letters", raw: "HTTP/1.1 2OO OK\r\n\r\n", err: "begins with"},
	{name: "status of four digits", raw: "HTTP/1.1 2000 OK\r\n\r\n", err: "begins with"},
	{name: "status below 100", raw: "HTTP/1.1 099 No\r\n\r\n", err: "status 099"},
	{name: "switching protocols", raw: "HTTP/1.1 101 Switching Protocols\r\n\r\n", err: "status 101"},
	{name: "two lengths", raw: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", err: "as 1 and as 2"},
	{name: "negative length", raw: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", err: "Content-Length"},
	{name: "length with sign", raw: "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", err: "Content-Length"},
	{name: "endless length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx", err: "Content-Length"},
	{name: "other encoding", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", err: "Transfer-Encoding"},
	{name: "space before the colon", raw: "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", err: "not a header field"},
	{name: "folded length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 0\r\n\r\nx", err: "folded"},
	{name: "chunk size in words", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n", err: "chunk size"},
	{name: "chunk longer than said", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", err: "does not end where"},
	{name: "endless header", raw: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 300), err: "bytes of header"},
	{name: "endless line", raw: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 70<<10), err: "bytes of header"},
	{name: "endless chunk line", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("y", 70<<10), err: "bytes of header"},
	{name: "endless interim answers", raw: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 40), err: "interim"},
}

func TestAnswers(t *testing.T) {
	for _, c := range answers {
		for _, by := range []struct {
			name  string
			piece func(int) int
		}{{"at once", whole}, {"byte by byte", func(int) int { return 1 }}} {
			got, ok, err := parseIn([]byte(c.raw), c.head, by.piece)
			if c.want.used == 0 {
				c.want.used = len(c.raw)
			}
			switch {
			case c.err == "incomplete":
				if ok || err != nil {
					t.Errorf("%s, %s: complete %t, error %v; want incomplete", c.name, by.name, ok, err)
				}
			case c.err != "":
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s, %s: error %v, want one with %q", c.name, by.name, err, c.err)
				}
			case err != nil || !ok || got != c.want:
				t.Errorf("%s, %s: %+v, complete %t, %v; want %+v", c.name, by.name, got, ok, err, c.want)
			}
		}
	}
}

// How an answer is cut into pieces changes nothing.
func TestPiecesDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := answers[rapid.IntRange(0, len(answers)-1).Draw(t, "answer")]
		raw := []byte(c.raw)
		if len(raw) > 500 {
			return
		}
		a, okA, errA := parseIn(raw, c.head, whole)
		b, okB, errB := parseIn(raw, c.head, func(left int) int { return rapid.IntRange(1, left).Draw(t, "piece") })
		if okA != okB || (errA == nil) != (errB == nil) || errA == nil && a != b {
			t.Fatalf("%s: at once %+v %t %v, in pieces %+v %t %v", c.name, a, okA, errA, b, okB, errB)
		}
	})
}

// What we take for a whole answer, net/http takes for the same whole answer.
func FuzzAnswer(f *testing.F) {
	for _, c := range answers {
		if len(c.raw) < 1000 {
			f.Add([]byte(c.raw), c.head)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, head bool) {
		got, ok, err := parseIn(raw, head, whole)
		byByte, okByByte, errByByte := parseIn(raw, head, func(int) int { return 1 })
		if ok != okByByte || (err == nil) != (errByByte == nil) || err == nil && got != byByte {
			t.Fatalf("at once %+v %t %v, byte by byte %+v %t %v", got, ok, err, byByte, okByByte, errByByte)
		}
		if err != nil || !ok {
			return
		}
		method := "GET"
		if head {
			method = "HEAD"
		}
		r := bufio.NewReaderSize(bytes.NewReader(raw), 1<<20)
		for {
			theirs, err := http.ReadResponse(r, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("we read %+v, net/http says %v", got, err)
			}
			n, err := io.Copy(io.Discard, theirs.Body)
			if err != nil {
				if strings.Contains(err.Error(), "too much non-data") {
					return // its defence against tiny chunks with long extensions; ours is the timeout
				}
				t.Fatalf("we read %+v, net/http says %v after %d bytes of the body", got, err, n)
			}
			if theirs.StatusCode < 200 {
				continue
			}
			if theirs.StatusCode != got.status || int(n) != got.bytes || theirs.Close != got.close {
				t.Fatalf("we read %+v, net/http read status %d, %d bytes, close %t", got, theirs.StatusCode, n, theirs.Close)
			}
			return
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	raw := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Length: 40\r\n\r\n" + strings.Repeat("x", 40))
	var a answer
	for b.Loop() {
		a.reset(false)
		if n, err := a.feed(raw); n != len(raw) || err != nil || !a.done() {
			b.Fatal(n, err)
		}
	}
}
