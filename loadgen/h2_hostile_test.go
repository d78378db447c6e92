package loadgen

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hostile is a server in memory that plays what serve does, on every connection.
type hostile struct {
	serve func(s *script)
	all   sync.WaitGroup
	mu    sync.Mutex
	conns int
}

// script is one connection of it, its preface read and its settings sent.
type script struct {
	net.Conn
	*http2.Framer
	first bool // connection
}

func (h *hostile) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	h.play(server)
	return client, nil
}

// play is the server's side of a connection.
func (h *hostile) play(server net.Conn) {
	h.mu.Lock()
	h.conns++
	first := h.conns == 1
	h.mu.Unlock()
	h.all.Go(func() {
		defer server.Close()
		if _, err := io.ReadFull(server, make([]byte, len(h2Preface))); err == nil {
			h.serve(&script{server, http2.NewFramer(server, server), first})
		}
		io.Copy(io.Discard, server) // until the client hangs up
	})
}

// listen is the server on a socket, until the test ends.
func (h *hostile) listen(t *testing.T) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.play(c)
		}
	})
	t.Cleanup(func() { l.Close(); h.all.Wait() })
	return l.Addr().String()
}

// request reads frames until a request has come whole, and returns its stream.
func (s *script) request() uint32 {
	for {
		f, err := s.ReadFrame()
		if err != nil {
			return 0
		}
		if f.Header().Flags.Has(http2.FlagHeadersEndStream) && (f.Header().Type == http2.FrameHeaders || f.Header().Type == http2.FrameData) {
			return f.Header().StreamID
		}
	}
}

func block(fields ...string) []byte {
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // a Builder has no errors
	}
	return []byte(b.String())
}

func (s *script) header(id uint32, end bool, fields ...string) {
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(fields...), EndStream: end, EndHeaders: true})
}

// hostilities are what servers do, and the class in which every request of theirs
// must end; detail is in what is told of it.
var hostilities = map[string]struct {
	serve   func(s *script)
	outcome string
	detail  string
}{
	"silence":       {func(s *script) {}, "timeout", "i/o timeout"},
	"silence after": {answering(func(*script, uint32) {}), "timeout", "i/o timeout"},
	"garbage":       {func(s *script) { fmt.Fprint(s.Conn, "\x00\x00\x00garbage of some length") }, "protocol", "it begins with"},
	"hang up":       {answering(func(s *script, _ uint32) { s.Close() }), "reset", ""}, // reader or writer notices first,
	"hang up amid": {answering(func(s *script, id uint32) {
		s.header(id, false, ":status", "200")
		s.Close()
	}), "reset", ""},
	"stall amid": {answering(func(s *script, id uint32) {
		s.header(id, false, ":status", "200", "content-length", "3")
		s.WriteData(id, false, []byte("xx"))
	}), "timeout", "i/o timeout"},
	"padding": {answering(func(s *script, id uint32) {
		s.header(id, false, ":status", "200")
		s.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, id, []byte{9, 'x'})
	}), "protocol", "more padding than frame"},
	"reset":         {resetting(http2.ErrCodeInternal), "reset", "INTERNAL_ERROR"},
	"refusal":       {resetting(http2.ErrCodeRefusedStream), "reset", "REFUSED_STREAM"},
	"accusation":    {resetting(http2.ErrCodeProtocol), "protocol", "PROTOCOL_ERROR"},
	"other version": {resetting(http2.ErrCodeHTTP11Required), "protocol", "HTTP_1_1_REQUIRED"},
	"go away":       {answering(func(s *script, _ uint32) { s.WriteGoAway(0, http2.ErrCodeNo, nil) }), "reset", "GOAWAY"},
	"no status":     {heading("a", "b"), "protocol", "without a status"},
	"bad status":    {heading(":status", "20"), "protocol", `status "20"`},
	"bad name":      {heading(":status", "200", "Upper", "x"), "protocol", `header field "Upper"`},
	"two lengths":   {heading(":status", "200", "content-length", "1", "content-length", "2"), "protocol", "Content-Length"},
	"switching":     {heading(":status", "101"), "protocol", "status 101"},
	"bad block": {answering(func(s *script, id uint32) { s.WriteRawFrame(http2.FrameHeaders, 5, id, []byte{0xff}) }),
		"protocol", "cannot be decoded"},
	"data first": {answering(func(s *script, id uint32) { s.WriteData(id, true, []byte("x")) }), "protocol", "DATA before the header"},
	"too much": {answering(func(s *script, id uint32) {
		s.header(id, false, ":status", "200", "content-length", "1")
		s.WriteData(id, true, []byte("xx"))
	}), "protocol", "more DATA than Content-Length"},
	"too little": {answering(func(s *script, id uint32) {
		s.header(id, false, ":status", "200", "content-length", "3")
		s.WriteData(id, true, []byte("xx"))
	}), "protocol", "the body has 2 bytes"},
	"push": {answering(func(s *script, id uint32) {
		s.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: block(":status", "200"), EndHeaders: true})
	}), "protocol", "PUSH_PROMISE"},
	"stranger": {answering(func(s *script, _ uint32) { s.header(99, true, ":status", "200") }), "protocol", "stream 99, which nobody opened"},
	"huge frame": {answering(func(s *script, id uint32) { s.WriteRawFrame(http2.FrameData, 0, id, make([]byte, 20<<10)) }),
		"protocol", "a frame of 20480 bytes"},
	"interrupted": {answering(func(s *script, id uint32) {
		s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(":status", "200")})
		s.WritePing(false, [8]byte{})
	}), "protocol", "inside a header block"},
	"endless header": {answering(func(s *script, id uint32) {
		s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(":status", "200")})
		for s.WriteContinuation(id, false, block("a", "b")) == nil {
		}
	}), "protocol", "a header that does not end"},
	"endless interim": {answering(func(s *script, id uint32) {
		for range 40 {
			s.header(id, false, ":status", "103")
		}
	}), "protocol", "more than 32 interim answers"},
	"bomb": {answering(bomb), "protocol", "more than 262144 bytes of header"},
	"window too large": {answering(func(s *script, id uint32) {
		s.WriteWindowUpdate(0, 1<<31-1)
	}), "protocol", "window"},
	"bad settings": {func(s *script) { s.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) }, "protocol", "a frame size of 1"},
	"no window":    {func(s *script) { s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize}); s.request() }, "timeout", ""},
}

// hostileSpec is one request at a time to a server of that name.
func hostileSpec(name string, timeout time.Duration) Spec {
	spec := Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(1), Timeout: &timeout, Request: &Request{Method: "GET", Path: "/"}}
	if name == "no window" {
		spec.Request = &Request{Method: "POST", Path: "/", Body: "x"}
	}
	return spec
}

// TestHostile: whatever a server does, every request ends within its timeout, in
// the class that says why.
func TestHostile(t *testing.T) {
	for name, c := range hostilities {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hostile{serve: c.serve}
				outcomes, details := map[string]int{}, map[string]string{}
				began := time.Now()
				err := Run(t.Context(), Config{Spec: hostileSpec(name, 2*time.Second), Requests: 4, Until: time.Minute, Dial: h.dial, Resolve: func() string { return "shop:80" },
					OnWindow: func(w Window) {
						for name, n := range w.Outcomes {
							outcomes[name] += n
						}
					},
					OnSample: func(s Sample) { details[s.Outcome] = s.Detail },
				})
				h.all.Wait()
				if err != nil {
					t.Fatal(err)
				}
				if want := map[string]int{c.outcome: 4}; !maps.Equal(outcomes, want) || !strings.Contains(details[c.outcome], c.detail) {
					t.Errorf("%v (%v), want %v: %s", outcomes, details, want, c.detail)
				}
				if took := time.Since(began); took > 9*time.Second {
					t.Errorf("4 requests with a timeout of 2s took %v", took)
				}
			})
		})
	}
}

// answering says the settings, and to every request what answer does.
func answering(answer func(s *script, id uint32)) func(s *script) {
	return func(s *script) {
		s.WriteSettings()
		for id := s.request(); id != 0; id = s.request() {
			answer(s, id)
		}
	}
}

func resetting(code http2.ErrCode) func(s *script) {
	return answering(func(s *script, id uint32) { s.WriteRSTStream(id, code) })
}

func heading(fields ...string) func(s *script) {
	return answering(func(s *script, id uint32) { s.header(id, true, fields...) })
}

// bomb is a field of the table, told again and again in one byte each.
func bomb(s *script, id uint32) {
	b := block(":status", "200", "large", strings.Repeat("x", 3000))
	for range 200 {
		b = append(b, 0x80|62) // the newest entry
	}
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b, EndHeaders: true, EndStream: true})
}

// TestGoAway: what the server has not acted on is sent again on a new connection,
// and nothing else is; what is under way is answered where it is.
func TestGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hostile{serve: func(s *script) {
			s.WriteSettings()
			one := s.request()
			if !s.first {
				for id := one; id != 0; id = s.request() {
					s.header(id, true, ":status", "201")
				}
				return
			}
			s.request()
			s.WriteGoAway(one, http2.ErrCodeNo, nil)
			time.Sleep(time.Second)
			s.header(one, true, ":status", "200")
			s.request()
		}}
		outcomes, connects := map[string]int{}, 0
		spec := Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(2), Streams: ptr(2), Request: &Request{Method: "GET", Path: "/"}}
		err := Run(t.Context(), Config{Spec: spec, Requests: 2, Until: time.Minute, Dial: h.dial, Resolve: func() string { return "shop:80" },
			OnWindow: func(w Window) {
				connects += w.Connects
				for name, n := range w.Outcomes {
					outcomes[name] += n
				}
			}})
		h.all.Wait()
		if want := map[string]int{"200": 1, "201": 1}; err != nil || !maps.Equal(outcomes, want) || connects != 2 {
			t.Errorf("%v, %v, %d connections; want %v, 2", err, outcomes, connects, want)
		}
	})
}

// TestFlood: a server that asks for answers and does not read them is let go.
func TestFlood(t *testing.T) {
	c := newH2(func(*h2stream) {})
	ping := appendFrame(nil, 8, framePing, 0, 0)
	ping = append(ping, 1, 2, 3, 4, 5, 6, 7, 8)
	err := c.feed(appendFrame(nil, 0, frameSettings, 0, 0), 1)
	for i := 0; err == nil; i++ {
		if i > 100_000 {
			t.Fatal("there is no end")
		}
		err = c.feed(ping, 1)
	}
	if !strings.Contains(err.Error(), "wait to be read") || len(c.out) > 2*maxReplies {
		t.Errorf("%v, %d bytes", err, len(c.out))
	}
}

// FuzzFrames: no bytes make the reader fail in another way than with an error, nor
// depend on the pieces in which they come; and every stream ends at most once.
func FuzzFrames(f *testing.F) {
	settings := appendFrame(nil, 0, frameSettings, 0, 0)
	answer := func(kind, flags byte, payload ...byte) []byte {
		return append(appendFrame(nil, len(payload), kind, flags, 1), payload...)
	}
	f.Add(append(settings, answer(frameHeaders, flagEndHeaders|flagEndStream, 0x88)...), 3)
	f.Add(append(append(settings, answer(frameHeaders, flagEndHeaders, 0x88)...), answer(frameData, flagEndStream, 'a', 'b')...), 1)
	f.Add(append(append(settings, answer(frameHeaders, 0, 0x88)...), answer(frameContinuation, flagEndHeaders)...), 5)
	f.Add(append(settings, answer(frameData, flagPadded|flagEndStream, 1, 'a', 0)...), 2)
	f.Add(append(settings, binary.BigEndian.AppendUint32(appendFrame(nil, 4, frameWindow, 0, 0), 1<<31-1)...), 7)
	f.Add(append(settings, append(appendFrame(nil, 8, frameGoAway, 0, 0), 0, 0, 0, 0, 0, 0, 0, 1)...), 4)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		piece = max(piece, 1)
		play := func(size int) string {
			ends := map[*h2stream]int{}
			c := newH2(func(st *h2stream) { ends[st]++ })
			c.out = c.out[:0]
			var told strings.Builder
			all := []*h2stream{{}, {into: &reply{keepBody: true}}, {head: true}}
			for _, st := range all {
				c.open(st, []byte{0x82}, []byte("body"))
			}
			var err error
			for rest := in; len(rest) > 0 && err == nil; {
				n := min(size, len(rest))
				err = c.feed(rest[:n], 1)
				rest = rest[n:]
			}
			if c.fail(io.EOF, 2); c.live.n != 0 {
				t.Fatalf("%d streams live on", c.live.n)
			}
			for i, st := range all {
				if ends[st] != 1 {
					t.Fatalf("stream %d ended %d times", st.id, ends[st])
				}
				fmt.Fprintln(&told, i, st.status, st.bytes, st.err)
			}
			fmt.Fprintln(&told, err != nil, string(all[1].into.body))
			return told.String()
		}
		if whole, pieces := play(len(in)+1), play(piece); whole != pieces {
			t.Fatalf("in one piece:\n%sin pieces of %d:\n%s", whole, piece, pieces)
		}
	})
}
