package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// talkServer serves connections of a protocol on a real socket.
func talkServer(t *testing.T, serve func(c net.Conn, n int)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				serve(c, n)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// converse runs a stream against an address: so many requests, one after another.
func converse(t *testing.T, s Spec, requests int, address string) *sums {
	t.Helper()
	s.Name, s.To = "talk", "there"
	if s.Rate == nil && s.Users == nil {
		s.Users = ptr(1)
	}
	if s.Timeout == nil {
		s.Timeout = ptr(20 * time.Second)
	}
	got := newSums()
	c := got.listen(Config{Spec: s, Seed: 1, Until: time.Hour, Requests: uint64(requests), Resolve: func() string { return address }})
	if err := Run(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	got.balance(t)
	return got
}

// wants checks the outcomes, and that a text stands in the detail of a failure.
func (s *sums) wants(t *testing.T, outcomes map[string]int, detail string) {
	t.Helper()
	if fmt.Sprint(s.Outcomes) != fmt.Sprint(outcomes) {
		t.Errorf("outcomes %v, want %v", s.Outcomes, outcomes)
	}
	var all []string
	for _, x := range s.samples {
		all = append(all, x.Detail)
	}
	if !strings.Contains(strings.Join(all, "\n"), detail) {
		t.Errorf("no sample says %q; they say %q", detail, all)
	}
}

func checksOf(t *testing.T, texts ...string) []Check {
	t.Helper()
	var all []Check
	for _, text := range texts {
		var c Check
		if err := c.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func shortly(text string) *Request {
	r := new(Request)
	_ = r.ParseShort(text) // it has no error
	return r
}

// redisFake answers commands by their first word.
func redisFake(t *testing.T, reply func(words []string) string) string {
	return talkServer(t, func(c net.Conn, _ int) {
		in := bufio.NewReader(c)
		for {
			words, err := readCommand(in)
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, reply(words)); err != nil {
				return
			}
		}
	})
}

func readCommand(in *bufio.Reader) ([]string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if line[0] != '*' || err != nil {
		return nil, fmt.Errorf("%q", line)
	}
	var words []string
	for range n {
		if line, err = in.ReadString('\n'); err != nil {
			return nil, err
		}
		size, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		if line[0] != '$' || err != nil {
			return nil, fmt.Errorf("%q", line)
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, err
		}
		words = append(words, string(b[:size]))
	}
	return words, nil
}

func TestRedis(t *testing.T) {
	for _, c := range []struct {
		name     string
		request  *Request
		check    []string
		reply    string
		outcomes map[string]int
		detail   string
	}{
		{name: "a text", request: shortly("GET key-1"), check: []string{`body == "value"`, "value exists"}, reply: "$5\r\nvalue\r\n"},
		{name: "a line", request: shortly("PING"), check: []string{`body == "PONG"`}, reply: "+PONG\r\n"},
		{name: "a number", request: shortly("INCR n"), check: []string{"json $ == 7"}, reply: ":7\r\n"},
		{name: "nil", request: shortly("GET none"), check: []string{"value missing"}, reply: "$-1\r\n"},
		{name: "nil, and a value was wanted", request: shortly("GET none"), check: []string{"value exists"}, reply: "$-1\r\n",
			outcomes: map[string]int{"check": 3}, detail: "value exists: it is nil"},
		{name: "an array", request: shortly("LRANGE l 0 -1"), check: []string{`json $[0] == "a"`, "json $[1] == 2", "json $[2] == null", `json $[3][0] == "b"`},
			reply: "*4\r\n$1\r\na\r\n:2\r\n$-1\r\n*1\r\n+b\r\n"},
		{name: "an error", request: shortly("GET list"), reply: "-WRONGTYPE Operation against a key\r\n",
			outcomes: map[string]int{"error WRONGTYPE": 3}, detail: "WRONGTYPE Operation against a key"},
		{name: "too much", request: shortly("GET x"), reply: "+a\r\n+b\r\n", outcomes: map[string]int{"protocol": 3}, detail: "4 bytes more than one reply"},
		{name: "not RESP", request: shortly("GET x"), reply: "HTTP/1.1 400 Bad Request\r\n", outcomes: map[string]int{"protocol": 3}, detail: "not RESP2"},
		{name: "a length that is none", request: shortly("GET x"), reply: "$x1\r\n", outcomes: map[string]int{"protocol": 3}},
		{name: "a text longer than it says", request: shortly("GET x"), reply: "$1\r\nabc\r\n", outcomes: map[string]int{"protocol": 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.outcomes == nil {
				c.outcomes = map[string]int{"answered": 3}
			}
			c.request.Check = checksOf(t, c.check...)
			got := converse(t, Spec{Protocol: Redis, Request: c.request}, 3, redisFake(t, func([]string) string { return c.reply }))
			got.wants(t, c.outcomes, c.detail)
		})
	}
}

// A login goes ahead of the first request of each connection; one that is refused
// fails the request, with the class of its error.
func TestRedisLogin(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	address := redisFake(t, func(words []string) string {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, strings.Join(words, " "))
		return "+OK\r\n"
	})
	got := converse(t, Spec{Protocol: Redis, Login: &Login{User: "u", Password: "p w", Database: "3"}, Request: shortly(`SET "a b" {{seq}}`)}, 2, address)
	got.wants(t, map[string]int{"answered": 2}, "")
	if want := "AUTH u p w|SELECT 3|SET a b 0|SET a b 1"; strings.Join(seen, "|") != want || got.Connects != 1 {
		t.Errorf("the server saw %q on %d connections, want %q on one", seen, got.Connects, want)
	}
	refused := redisFake(t, func([]string) string { return "-WRONGPASS invalid\r\n" })
	converse(t, Spec{Protocol: Redis, Login: &Login{Password: "x"}, Request: shortly("PING")}, 1, refused).
		wants(t, map[string]int{"error WRONGPASS": 1}, "AUTH: WRONGPASS invalid")
}

// What arrives in pieces is put together, and what is cut off is a reset.
func TestRedisInPieces(t *testing.T) {
	address := talkServer(t, func(c net.Conn, _ int) {
		in := bufio.NewReader(c)
		if _, err := readCommand(in); err != nil {
			return
		}
		for _, b := range []byte("*2\r\n$3\r\nabc\r\n:-12\r\n") {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
		}
		if _, err := readCommand(in); err == nil {
			_, _ = io.WriteString(c, "$100\r\nhalf")
		}
	})
	r := shortly("GET x")
	r.Check = checksOf(t, `json $[0] == "abc"`, "json $[1] == -12")
	converse(t, Spec{Protocol: Redis, Request: r}, 2, address).wants(t, map[string]int{"answered": 1, "reset": 1}, "in the middle of the answer")
}

func TestTCP(t *testing.T) {
	echo := func(prefix string) func(c net.Conn, n int) {
		return func(c net.Conn, _ int) {
			in := bufio.NewReader(c)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, prefix+line)
			}
		}
	}
	for _, c := range []struct {
		name     string
		reply    Reply
		serve    func(c net.Conn, n int)
		check    []string
		outcomes map[string]int
		detail   string
		connects int
	}{
		{name: "until a line ends", reply: Reply{Until: `\n`}, serve: echo("re: "), check: []string{`body matches '^re: PING [012]\n$'`}, connects: 1},
		{name: "so many bytes", reply: Reply{Bytes: 7}, serve: echo(""), check: []string{`body contains "PING"`}, connects: 1},
		{name: "until the end", reply: Reply{Close: true}, connects: 3, check: []string{`body == "bye"`}, serve: func(c net.Conn, _ int) {
			if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				_, _ = io.WriteString(c, "bye")
			}
		}},
		{name: "an end that comes in pieces", reply: Reply{Until: "END"}, connects: 1, check: []string{`body == "aEENEND"`}, serve: func(c net.Conn, _ int) {
			in := bufio.NewReader(c)
			for {
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
				for _, b := range []byte("aEENEND") {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
				}
			}
		}},
		{name: "more than the reply", reply: Reply{Bytes: 2}, serve: echo(""), outcomes: map[string]int{"protocol": 3}, detail: "5 bytes more than the reply", connects: 3},
		{name: "less than the reply", reply: Reply{Bytes: 100}, outcomes: map[string]int{"reset": 3}, detail: "middle of the answer", connects: 3, serve: func(c net.Conn, _ int) {
			if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				_, _ = io.WriteString(c, "bye")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.outcomes == nil {
				c.outcomes = map[string]int{"answered": 3}
			}
			r := shortly(`PING {{seq}}\n`)
			r.Check = checksOf(t, c.check...)
			got := converse(t, Spec{Protocol: TCP, Reply: &c.reply, Request: r}, 3, talkServer(t, c.serve))
			got.wants(t, c.outcomes, c.detail)
			if got.Connects != c.connects {
				t.Errorf("%d connections, want %d", got.Connects, c.connects)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		converse(t, Spec{Protocol: TCP, Reply: &Reply{Close: true}, Request: shortly("x")}, 1, l.Addr().String()).wants(t, map[string]int{"refused": 1}, "")
	})
}

// A late answer is not taken for the next request's, and a datagram that lies in
// the socket is not either.
func TestUDP(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var all sync.WaitGroup
	all.Go(func() {
		b := make([]byte, 1<<16)
		var late []byte
		var lateTo net.Addr
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			text := string(b[:n])
			if lateTo != nil { // now the answer to 1, on which nobody waits any more
				_, _ = server.WriteTo(late, lateTo)
				lateTo = nil
			}
			if text == "n 1" {
				late, lateTo = []byte(text), from
				continue
			}
			_, _ = server.WriteTo([]byte(text), from)
			if text == "n 3" {
				_, _ = server.WriteTo([]byte("twice"), from)
			}
		}
	})
	r := shortly("n {{seq}}")
	r.Check = checksOf(t, `body == "n {{seq}}"`)
	got := converse(t, Spec{Protocol: UDP, Request: r, Think: 20 * time.Millisecond, Timeout: ptr(300 * time.Millisecond)}, 6, server.LocalAddr().String())
	got.wants(t, map[string]int{"answered": 5, "timeout": 1}, "")
	if got.Connects != 2 {
		t.Errorf("%d sockets, want a second one after the timeout", got.Connects)
	}
	server.Close()
	all.Wait()
	converse(t, Spec{Protocol: UDP, Request: shortly("x"), Timeout: ptr(300 * time.Millisecond)}, 1, server.LocalAddr().String()).wants(t, map[string]int{"refused": 1}, "")
}

// wsServer upgrades and then lets serve speak frames.
func wsServer(t *testing.T, serve func(c net.Conn, in *bufio.Reader, n int)) string {
	return talkServer(t, func(c net.Conn, n int) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", websocketAccept(r.Header.Get("Sec-WebSocket-Key")))
		serve(c, in, n)
	})
}

// wsRead reads a client's frame, which must be masked.
func wsRead(in *bufio.Reader) (opcode byte, text []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	if head[1]&0x80 == 0 {
		return 0, nil, fmt.Errorf("a frame without a mask")
	}
	n := int(head[1] & 0x7f)
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(in, b[:])
		n = int(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(in, b[:])
		n = int(binary.BigEndian.Uint64(b[:]))
	}
	if err != nil {
		return 0, nil, err
	}
	var mask [4]byte
	if _, err = io.ReadFull(in, mask[:]); err != nil {
		return 0, nil, err
	}
	text = make([]byte, n)
	_, err = io.ReadFull(in, text)
	for i := range text {
		text[i] ^= mask[i&3]
	}
	return head[0] & 0xf, text, err
}

func wsFrame(final bool, opcode byte, text string) string {
	b := []byte{opcode}
	if final {
		b[0] |= 0x80
	}
	switch n := len(text); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return string(b) + text
}

func TestWebSocket(t *testing.T) {
	long := strings.Repeat("ä", 40_000)
	for _, c := range []struct {
		name     string
		body     string
		answer   func(n int, text string) string // what follows a message
		check    []string
		outcomes map[string]int
		detail   string
		connects int
	}{
		{name: "text", answer: func(_ int, s string) string { return wsFrame(true, wsText, s) }, check: []string{`body == "hello {{seq}}"`}},
		{name: "long", body: long, answer: func(_ int, s string) string { return wsFrame(true, wsText, s) }, check: []string{`body == "` + long + `"`}},
		{name: "fragments around a ping", answer: func(_ int, s string) string {
			return wsFrame(false, wsText, s[:2]) + wsFrame(true, wsPing, "there?") + wsFrame(false, wsContinued, "") + wsFrame(true, wsContinued, s[2:])
		}, check: []string{`body == "hello {{seq}}"`}},
		{name: "a message that nobody asked for", answer: func(_ int, s string) string { return wsFrame(true, wsText, s) + wsFrame(true, wsText, "news") }, check: []string{`body == "hello {{seq}}"`}},
		{name: "closed", answer: func(int, string) string { return wsFrame(true, wsClose, "\x03\xe9going away") },
			outcomes: map[string]int{"reset": 3}, detail: "1001 going away", connects: 3},
		{name: "masked", answer: func(int, string) string { return "\x81\x81abcd" }, outcomes: map[string]int{"protocol": 3}, detail: "masked", connects: 3},
		{name: "reserved bits", answer: func(int, string) string { return "\xc1\x00" }, outcomes: map[string]int{"protocol": 3}, detail: "reserved", connects: 3},
		{name: "not UTF-8", answer: func(int, string) string { return wsFrame(true, wsText, "\xff") }, outcomes: map[string]int{"protocol": 3}, detail: "UTF-8", connects: 3},
		{name: "too long", answer: func(int, string) string { return "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff" }, outcomes: map[string]int{"protocol": 3}, detail: "16 MiB", connects: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.outcomes == nil {
				c.outcomes, c.connects = map[string]int{"answered": 3}, 1
			}
			var pongs atomic.Int64
			address := wsServer(t, func(conn net.Conn, in *bufio.Reader, _ int) {
				for n := 0; ; {
					opcode, text, err := wsRead(in)
					switch {
					case err != nil || opcode == wsClose:
						return
					case opcode == wsPong && string(text) == "there?":
						pongs.Add(1)
					default:
						_, _ = io.WriteString(conn, c.answer(n, string(text)))
						n++
					}
				}
			})
			r := shortly("GET /chat?room={{int 1 9}}")
			r.Body = firstOf(c.body, "hello {{seq}}")
			r.Check = checksOf(t, c.check...)
			got := converse(t, Spec{Protocol: WebSocket, Request: r, Think: 5 * time.Millisecond}, 3, address)
			got.wants(t, c.outcomes, c.detail)
			if got.Connects != c.connects {
				t.Errorf("%d connections, want %d", got.Connects, c.connects)
			}
			if strings.Contains(c.name, "ping") && pongs.Load() != 3 {
				t.Errorf("%d pongs, want 3", pongs.Load())
			}
		})
	}
}

// An upgrade is what it says, or it is none.
func TestWebSocketUpgrade(t *testing.T) {
	accept := "Sec-WebSocket-Accept: KEY\r\n"
	for _, c := range []struct{ name, answer, outcome, detail string }{
		{"refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "error 403", `"403 Forbidden"`},
		{"not upgraded", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "error 200", `"200 OK"`},
		{"wrong key", "HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: abc\r\n\r\n", "protocol", "Sec-WebSocket-Accept"},
		{"no upgrade", "HTTP/1.1 101 Ok\r\n" + accept + "\r\n", "protocol", "without Connection: Upgrade"},
		{"an extension", "HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" + accept + "\r\n", "protocol", "none was offered"},
		{"a subprotocol", "HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: soap\r\n" + accept + "\r\n", "protocol", "was not offered"},
		{"an end", "", "reset", "before the answer began"},
		{"no HTTP", "SSH-2.0\r\n\r\n", "protocol", "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := talkServer(t, func(conn net.Conn, _ int) {
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if r.URL.Path != "/chat" || r.Header.Get("Origin") != "http://a" || r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Content-Type") != "" {
					t.Errorf("the request for an upgrade is %v", r)
				}
				_, _ = io.WriteString(conn, strings.Replace(c.answer, "KEY", websocketAccept(r.Header.Get("Sec-WebSocket-Key")), 1))
			})
			r := shortly("GET /chat")
			r.Body, r.Headers = "hi", map[string]string{"Origin": "http://a"}
			converse(t, Spec{Protocol: WebSocket, Request: r}, 2, address).wants(t, map[string]int{c.outcome: 2}, c.detail)
		})
	}
}

// A run that is cut off ends at once, whatever it waits for.
func TestTalkIsCut(t *testing.T) {
	silent := talkServer(t, func(c net.Conn, _ int) { _, _ = io.Copy(io.Discard, c) })
	for _, s := range []Spec{
		{Protocol: Redis, Request: shortly("PING")},
		{Protocol: TCP, Reply: &Reply{Close: true}, Request: shortly("x")},
		{Protocol: WebSocket, Request: &Request{Method: "GET", Path: "/", Body: "x"}},
		{Protocol: Postgres, Login: &Login{User: "x"}, Request: shortly("select 1")},
	} {
		t.Run(string(s.Protocol), func(t *testing.T) {
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			s.Name, s.To, s.Users, s.Timeout = "cut", "there", ptr(2), ptr(time.Minute)
			got := newSums()
			var asked atomic.Int64
			c := got.listen(Config{Spec: s, Until: time.Hour, Resolve: func() string {
				if asked.Add(1) == 2 {
					time.AfterFunc(50*time.Millisecond, stop)
				}
				return silent
			}})
			began := time.Now()
			if err := Run(ctx, c); err != context.Canceled {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v to end", took)
			}
			got.wants(t, map[string]int{"canceled": 2}, "")
		})
	}
}

func TestUnescape(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{`a\n\r\t\0\\\x41`, "a\n\r\t\x00\\A", ""},
		{`{{pick "\n" "b"}}\n`, `{{pick "\n" "b"}}` + "\n", ""},
		{`\xff`, "\xff", ""},
		{`a\`, "", `single \`},
		{`\q`, "", `\q means nothing`},
		{`\xzz`, "", "two hex digits"},
	} {
		got, err := unescape(c.text)
		if got != c.want || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("unescape(%q) = %q, %v; want %q, %q", c.text, got, err, c.want, c.problem)
		}
	}
}

func TestRedisWords(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"GET  x ", []string{"GET", "x"}},
		{`SET k "a b" 'c "d"'`, []string{"SET", "k", "a b", `c "d"`}},
		{`SET k{{pick "a b" "c"}} '{{pick "x" 'y'}}' ""`, []string{"SET", `k{{pick "a b" "c"}}`, `{{pick "x" 'y'}}`, ""}},
	} {
		if got, err := redisWords(c.text); err != nil || strings.Join(got, "|") != strings.Join(c.want, "|") {
			t.Errorf("redisWords(%q) = %q, %v", c.text, got, err)
		}
	}
	if _, err := redisWords(`SET "a`); err == nil {
		t.Error("an open quote is taken")
	}
}

// FuzzReadReply: no reply makes the reader hang, panic, or keep more than it may.
func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"+OK\r\n", "-ERR x\r\n", ":1\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*2\r\n$1\r\na\r\n*1\r\n:1\r\n", "*-1\r\n", "*1000000\r\n", "$5\r\nab"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &reply{keepBody: true}
		if err := readReply(bufio.NewReader(bytes.NewReader(b)), r); err == nil && len(r.body) > maxReply {
			t.Errorf("%d bytes are kept", len(r.body))
		}
	})
}

// FuzzFrame: whatever a server sends, a message is read whole or refused.
func FuzzFrame(f *testing.F) {
	f.Add([]byte(wsFrame(true, wsText, "x")))
	f.Add([]byte(wsFrame(false, wsText, "x") + wsFrame(true, wsPing, "y") + wsFrame(true, wsContinued, "z")))
	f.Add([]byte(wsFrame(true, wsClose, "\x03\xe8")))
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		defer near.Close()
		var all sync.WaitGroup
		all.Go(func() { _, _ = io.Copy(io.Discard, far) })
		all.Go(func() { _, _ = far.Write(b); far.Close() })
		l, w, m := newLink(near, "x"), &websocketDialect{}, &message{}
		var err error
		for err == nil && !m.whole {
			_, err = w.frame(l, m)
		}
		if len(m.text) > len(b) {
			t.Errorf("a message of %d bytes out of %d", len(m.text), len(b))
		}
		near.Close()
		all.Wait()
	})
}
