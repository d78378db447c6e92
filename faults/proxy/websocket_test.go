package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// startWebSocket serves WebSockets (RFC 6455) on which each message is answered with
// the same, and ping with pong.
func startWebSocket(t testing.TB) (address string) {
	return startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(426)
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		for {
			kind, p, err := readMessage(rw.Reader)
			if err != nil {
				return
			}
			if kind == pingFrame {
				kind = pongFrame
			}
			c.Write(message(kind, p, false))
			if kind == closeFrame {
				return
			}
		}
	})
}

const (
	binaryFrame = 2
	closeFrame  = 8
	pingFrame   = 9
	pongFrame   = 10
)

// message is a frame, masked as those of clients are.
func message(kind byte, p []byte, masked bool) []byte {
	b := []byte{0x80 | kind, 0}
	switch n := len(p); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !masked {
		return append(b, p...)
	}
	b[1] |= 0x80
	key := []byte{1, 2, 3, 4}
	b = append(b, key...)
	for i, c := range p {
		b = append(b, c^key[i%4])
	}
	return b
}

func readMessage(r *bufio.Reader) (kind byte, p []byte, err error) {
	var b [10]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(b[1] & 0x7f)
	switch n {
	case 126:
		_, err = io.ReadFull(r, b[2:4])
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		_, err = io.ReadFull(r, b[2:10])
		n = binary.BigEndian.Uint64(b[2:])
	}
	if err != nil {
		return 0, nil, err
	}
	var key [4]byte
	if b[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return 0, nil, err
		}
	}
	p = make([]byte, n)
	_, err = io.ReadFull(r, p)
	for i := range p {
		p[i] ^= key[i%4]
	}
	return b[0] & 0x0f, p, err
}

// open asks for a WebSocket, and returns the status.
func (c caller) open(path string) int {
	c.t.Helper()
	c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	a, err := http.ReadResponse(c.Reader, &http.Request{Method: "GET"})
	if err != nil {
		c.t.Fatal(err)
	}
	if a.StatusCode == 101 && a.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		c.t.Errorf("accepted with %q", a.Header.Get("Sec-WebSocket-Accept"))
	}
	if a.StatusCode != 101 {
		io.Copy(io.Discard, a.Body)
	}
	return a.StatusCode
}

// wantBack sends a message, and wants it back.
func (c caller) wantBack(kind byte, p []byte) {
	c.t.Helper()
	c.send(string(message(kind, p, true)))
	if kind == pingFrame {
		kind = pongFrame
	}
	if k, got, err := readMessage(c.Reader); err != nil || k != kind || !bytes.Equal(got, p) {
		c.t.Fatalf("a message of %d bytes came back as kind %d, %d bytes, %v", len(p), k, len(got), err)
	}
}

// TestWebSocket: faults of requests hit the one that asks for it; behind that bytes pass
// as on a TCP edge, and its rules hit them.
func TestWebSocket(t *testing.T) {
	p := startProxy(t, HTTP, startWebSocket(t))
	c := dial(t, p.Addr())
	upgrade := Match{Path: "/chat", Headers: []Field{{Name: "Upgrade", Value: "websocket"}}}
	remove := add(t, p, Rule{Name: "error", Percent: 1, Error: &Error{Status: 503}, Match: upgrade})
	if status := c.open("/chat"); status != 503 {
		t.Fatalf("status %d, want the rule's", status)
	}
	remove()
	remove = add(t, p, Rule{Name: "late", Percent: 1, Latency: &Latency{Delay: 50 * time.Millisecond}, Match: upgrade})
	begun := time.Now()
	if status := c.open("/chat"); status != 101 || time.Since(begun) < 50*time.Millisecond {
		t.Fatalf("status %d after %v", status, time.Since(begun))
	}
	c.wantBack(binaryFrame, []byte("not the match's"))
	remove()
	if s := p.Collect(); s.Rules["error"].Fired != 1 || s.Rules["late"].Fired != 1 || s.Answers["503"] != 1 || s.Answers["101"] != 1 || s.Opaque != 0 {
		t.Errorf("stats %+v", s)
	}

	large := bytes.Repeat([]byte("frame "), 50_000)
	for _, r := range []Rule{
		{Name: "latency", Latency: &Latency{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}},
		{Name: "bandwidth", Bandwidth: &Bandwidth{BytesPerS: 5_000_000}},
		{Name: "slice", Slice: &Slice{Average: 1000, Variation: 500}},
	} {
		r.Percent = 1
		remove := add(t, p, r)
		c.wantBack(binaryFrame, large)
		c.wantBack(pingFrame, []byte("alive"))
		if s := p.Collect().Rules[r.Name]; s.Fired != 1 || s.Bytes == 0 {
			t.Errorf("%s did %+v", r.Name, s)
		}
		remove()
	}
	remove = add(t, p, Rule{Name: "hole", Percent: 1, Blackhole: &Cut{}})
	c.send(string(message(binaryFrame, []byte("lost"), true)))
	c.wantSilence()
	remove()
	c.wantReset()
	collect(t, p, func(s Stats) bool { return s.Open == 0 })
}

// TestWebSocketOverTCP: on a TCP edge there is no request to look at, and all rules about
// bytes hit the frames.
func TestWebSocketOverTCP(t *testing.T) {
	p := startProxy(t, TCP, startWebSocket(t))
	c := dial(t, p.Addr())
	if status := c.open("/"); status != 101 {
		t.Fatalf("status %d", status)
	}
	c.wantBack(binaryFrame, []byte("hello"))
	remove := add(t, p, Rule{Name: "c", Percent: 1, Corrupt: &Corrupt{Ratio: 1, Direction: Answer}})
	c.send(string(message(binaryFrame, []byte("hello"), true)))
	got := make([]byte, 7)
	if _, err := io.ReadFull(c, got); err != nil || bytes.Equal(got, message(binaryFrame, []byte("hello"), false)) {
		t.Errorf("got %q, %v, want other bytes", got, err)
	}
	remove()
	c.wantBack(pingFrame, nil)
	add(t, p, Rule{Name: "l", Percent: 1, Limit: &Limit{Bytes: 1, Direction: Answer}})
	c.wantEnd()
}

// TestUpgradeToH2C: HTTP/2 that begins as HTTP/1.1 is one call, and bytes behind it.
func TestUpgradeToH2C(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, _ := http.NewResponseController(w).Hijack()
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		io.Copy(c, rw)
	}))
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n")
	if status, _ := c.answer("GET"); status != 101 {
		t.Fatalf("status %d", status)
	}
	says := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\x00", 30)
	c.send(says)
	got := make([]byte, len(says))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != says {
		t.Errorf("got %q, %v", got, err)
	}
	if s := p.Collect(); s.Calls != 1 || s.Answers["101"] != 1 || s.Opaque != 0 {
		t.Errorf("stats %+v", s)
	}
}
