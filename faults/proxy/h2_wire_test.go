package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framed is one end of an HTTP/2 connection, frame by frame.
type framed struct {
	*http2.Framer
	net.Conn
	t     testing.TB
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
}

func newWire(t testing.TB, c net.Conn) *framed {
	c.SetDeadline(time.Now().Add(patience))
	w := &framed{Framer: http2.NewFramer(c, c), Conn: c, t: t, dec: hpack.NewDecoder(4096, nil)}
	w.enc = hpack.NewEncoder(&w.block)
	return w
}

// wires connects a caller with an upstream through a proxy; both have sent their SETTINGS.
func wires(t testing.TB, rules []Rule, upstream ...http2.Setting) (p *Proxy, caller, server *framed) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	hold := make(chan struct{})
	address := startTCP(t, func(c net.Conn) { accepted <- c; <-hold })
	t.Cleanup(func() { close(hold) })
	p = startProxy(t, HTTP, address)
	for _, r := range rules {
		add(t, p, r)
	}
	caller = newWire(t, dial(t, p.Addr()).TCPConn)
	io.WriteString(caller.Conn, http2.ClientPreface)
	caller.WriteSettings()
	server = newWire(t, <-accepted)
	preface := make([]byte, len(clientPreface))
	if _, err := io.ReadFull(server.Conn, preface); err != nil || !bytes.Equal(preface, clientPreface) {
		t.Fatalf("the upstream got %q, %v", preface, err)
	}
	if s := server.next().(*http2.SettingsFrame); s.NumSettings() != 1 || s.Setting(0) != (http2.Setting{ID: http2.SettingEnablePush, Val: 0}) {
		t.Fatalf("the upstream got %v", s)
	}
	server.WriteSettings(upstream...)
	if s, is := caller.next().(*http2.SettingsFrame); !is || s.NumSettings() != len(upstream) {
		t.Fatalf("the caller got %v", s)
	}
	return p, caller, server
}

// next is the next frame but those of the connection's window.
func (w *framed) next() http2.Frame {
	w.t.Helper()
	for {
		f, err := w.ReadFrame()
		if err != nil {
			w.t.Fatal(err)
		}
		if u, is := f.(*http2.WindowUpdateFrame); !is || u.StreamID != 0 {
			return f
		}
	}
}

func (w *framed) head(id uint32, end bool, fields ...string) {
	w.t.Helper()
	w.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		w.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: fields[i] == "secret"})
	}
	if err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block.Bytes(), EndHeaders: true, EndStream: end}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *framed) ask(id uint32, path string, end bool) {
	w.head(id, end, ":method", "POST", ":scheme", "http", ":path", path, ":authority", "x")
}

// wantHead reads a head of that stream.
func (w *framed) wantHead(id uint32) map[string]hpack.HeaderField {
	w.t.Helper()
	f, is := w.next().(*http2.HeadersFrame)
	if !is || f.StreamID != id || !f.HeadersEnded() {
		w.t.Fatalf("got %v, want the head of stream %d", f, id)
	}
	fields, err := w.dec.DecodeFull(f.HeaderBlockFragment())
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]hpack.HeaderField{}
	for _, x := range fields {
		all[x.Name] = x
	}
	return all
}

// wantReset reads RST_STREAM.
func (w *framed) wantReset(id uint32, code http2.ErrCode) {
	w.t.Helper()
	if f, is := w.next().(*http2.RSTStreamFrame); !is || f.StreamID != id || f.ErrCode != code {
		w.t.Fatalf("got %v, want RST_STREAM of stream %d with %v", f, id, code)
	}
}

// TestH2Frames: what is passed on, and how.
func TestH2Frames(t *testing.T) {
	p, caller, server := wires(t, nil, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 7})
	caller.WriteSettingsAck()
	if s, is := server.next().(*http2.SettingsFrame); !is || !s.IsAck() {
		t.Errorf("got %v, want the ACK", s)
	}
	caller.WritePing(false, [8]byte{1, 2})
	if f, is := server.next().(*http2.PingFrame); !is || f.Data != [8]byte{1, 2} || f.IsAck() {
		t.Errorf("got %v, want the PING", f)
	}
	server.WritePing(true, [8]byte{1, 2})
	if f, is := caller.next().(*http2.PingFrame); !is || !f.IsAck() {
		t.Errorf("got %v, want its ACK", f)
	}
	caller.WriteRawFrame(0xfe, 3, 0, []byte("new"))
	if f, is := server.next().(*http2.UnknownFrame); !is || string(f.Payload()) != "new" || f.Flags != 3 {
		t.Errorf("got %v, want the unknown frame", f)
	}
	caller.head(1, false, ":method", "POST", ":path", "/", "secret", "s")
	if h := server.wantHead(1); !h["secret"].Sensitive || h[":path"].Value != "/" {
		t.Errorf("head %v", h)
	}
	caller.WriteRawFrame(0xfe, 0, 1, []byte("of a stream"))
	if f, is := server.next().(*http2.UnknownFrame); !is || string(f.Payload()) != "of a stream" || f.StreamID != 1 {
		t.Errorf("got %v, want the unknown frame of a stream", f)
	}
	caller.WritePriority(1, http2.PriorityParam{Weight: 9})
	if f, is := server.next().(*http2.PriorityFrame); !is || f.Weight != 9 || f.StreamID != 1 {
		t.Errorf("got %v, want PRIORITY", f)
	}
	caller.WriteDataPadded(1, false, []byte("padded"), make([]byte, 100))
	if f, is := server.next().(*http2.DataFrame); !is || string(f.Data()) != "padded" {
		t.Errorf("got %v", f)
	}
	if f, is := caller.next().(*http2.WindowUpdateFrame); !is || f.StreamID != 1 || f.Increment != 101 {
		t.Errorf("got %v, want the window of the padding back", f)
	}
	server.WriteWindowUpdate(1, 1234)
	if f, is := caller.next().(*http2.WindowUpdateFrame); !is || f.StreamID != 1 || f.Increment != 1234 {
		t.Errorf("got %v, want WINDOW_UPDATE", f)
	}
	server.head(1, false, ":status", "200")
	caller.wantHead(1)
	server.WriteRSTStream(1, http2.ErrCodeEnhanceYourCalm)
	caller.wantReset(1, http2.ErrCodeEnhanceYourCalm)
	// A head in pieces, with a priority.
	caller.block.Reset()
	caller.enc.WriteField(hpack.HeaderField{Name: ":method", Value: "GET"})
	b := caller.block.Bytes()
	caller.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: b[:0], EndStream: true, Priority: http2.PriorityParam{Weight: 5, Exclusive: true}})
	caller.WriteContinuation(3, true, b)
	if f, is := server.next().(*http2.HeadersFrame); !is || f.Priority != (http2.PriorityParam{Weight: 5, Exclusive: true}) || !f.StreamEnded() {
		t.Errorf("got %v", f)
	}
	caller.WriteRSTStream(3, http2.ErrCodeCancel)
	server.wantReset(3, http2.ErrCodeCancel)
	server.WriteGoAway(3, http2.ErrCodeNo, []byte("bye"))
	if f, is := caller.next().(*http2.GoAwayFrame); !is || f.LastStreamID != 3 || string(f.DebugData()) != "bye" {
		t.Errorf("got %v", f)
	}
	// The upstream would not hear of it.
	caller.ask(5, "/", true)
	caller.wantReset(5, http2.ErrCodeRefusedStream)
	server.Close()
	for {
		if _, err := caller.ReadFrame(); err != nil {
			break
		}
	}
	caller.Close()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
	if s.Calls != 3 || s.Upstream != 2 || s.Answers[wasReset] != 1 || s.Answers[wasCanceled] != 1 || s.Answers[wasClosed] != 1 || s.Opaque != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestH2Order: a request that is held lets the next one go first, under numbers that
// rise at the upstream; GOAWAY refuses those that it did not hear of.
func TestH2Order(t *testing.T) {
	p, caller, server := wires(t, nil)
	if err := p.SetRules([]Rule{{Name: "l", Percent: 1, Latency: &Latency{Delay: time.Hour, Direction: "request"}, Match: Match{Path: "/slow"}}}); err != nil {
		t.Fatal(err)
	}
	caller.ask(1, "/slow", false)
	caller.WriteData(1, true, []byte("slow body"))
	caller.WriteWindowUpdate(1, 77)
	caller.ask(3, "/fast", true)
	if h := server.wantHead(1); h[":path"].Value != "/fast" {
		t.Fatalf("head %v", h)
	}
	server.head(1, true, ":status", "204")
	if h := caller.wantHead(3); h[":status"].Value != "204" {
		t.Fatalf("head %v", h)
	}
	server.WriteGoAway(1, http2.ErrCodeNo, nil)
	if f, is := caller.next().(*http2.GoAwayFrame); !is || f.LastStreamID != 3 {
		t.Errorf("got %v", f)
	}
	// Only now is the held one to go, and there is nobody any more who takes it.
	if err := p.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	caller.wantReset(1, http2.ErrCodeRefusedStream)
}

// TestH2Windows: answers that the proxy gives obey the caller's windows.
func TestH2Windows(t *testing.T) {
	body := strings.Repeat("x", 100_000)
	_, caller, _ := wires(t, []Rule{{Name: "e", Percent: 1, Error: &Error{Status: 500, Body: body}}})
	caller.ask(1, "/", true)
	caller.wantHead(1)
	read := func(want int) {
		t.Helper()
		for want > 0 {
			f, is := caller.next().(*http2.DataFrame)
			if !is || len(f.Data()) > want {
				t.Fatalf("got %v, want %d bytes more", f, want)
			}
			want -= len(f.Data())
		}
	}
	read(ownWindow)
	caller.WriteWindowUpdate(0, 1<<20)
	caller.WritePing(false, [8]byte{})
	caller.WriteWindowUpdate(1, 1000)
	read(1000)
	caller.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: ownWindow + 5000})
	read(5000)
	caller.WriteWindowUpdate(1, 1<<20)
	read(100_000 - ownWindow - 6000)
}

// TestH2Hostile: what cannot be understood ends the connection with the error that
// RFC 9113 has for it, on both sides, and is counted.
func TestH2Hostile(t *testing.T) {
	frame := func(kind http2.FrameType, flags http2.Flags, id uint32, p string) func(*framed) {
		return func(w *framed) { w.Conn.Write(append(appendFrame(nil, len(p), kind, flags, id), p...)) }
	}
	large := func(w *framed) {
		w.block.Reset()
		for range 200 {
			w.enc.WriteField(hpack.HeaderField{Name: strings.Repeat("n", 10_000), Value: ""})
		}
		b := w.block.Bytes()
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:1000]})
		for b = b[1000:]; len(b) > 0; b = b[min(len(b), 10_000):] {
			if w.WriteContinuation(1, false, b[:min(len(b), 10_000)]) != nil {
				return
			}
		}
	}
	bomb := func(w *framed) { // one large field, thousands of times
		w.block.Reset()
		w.enc.WriteField(hpack.HeaderField{Name: "n", Value: strings.Repeat("v", 3000)})
		w.Conn.Write(append(appendFrame(nil, w.block.Len()+10_000, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1), append(bytes.Clone(w.block.Bytes()), bytes.Repeat([]byte{0x80 | 62}, 10_000)...)...))
	}
	flood := func(w *framed) {
		w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
		for range 300 {
			if w.WriteContinuation(1, false, nil) != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		says func(*framed)
		code http2.ErrCode
	}{
		"frame too large":        {func(w *framed) { w.Conn.Write(appendFrame(nil, 1<<20, 0, 0, 1)) }, http2.ErrCodeFrameSize},
		"hpack":                  {frame(http2.FrameHeaders, 4, 1, "\xff\xff\xff\xff\xff\xff\xff\xff\xff"), http2.ErrCodeCompression},
		"truncated hpack":        {frame(http2.FrameHeaders, 4, 1, "\x00\x05ab"), http2.ErrCodeCompression},
		"lone continuation":      {frame(http2.FrameContinuation, 4, 1, ""), http2.ErrCodeProtocol},
		"frame within a head":    {func(w *framed) { frame(http2.FrameHeaders, 0, 1, "")(w); frame(http2.FramePing, 0, 0, "12345678")(w) }, http2.ErrCodeProtocol},
		"data of stream 0":       {frame(http2.FrameData, 0, 0, "x"), http2.ErrCodeProtocol},
		"even stream":            {frame(http2.FrameHeaders, 4, 2, "\x82"), http2.ErrCodeProtocol},
		"padding beyond":         {frame(http2.FrameData, 8, 1, "\x05abc"), http2.ErrCodeProtocol},
		"priority":               {frame(http2.FramePriority, 0, 1, "abc"), http2.ErrCodeFrameSize},
		"reset":                  {frame(http2.FrameRSTStream, 0, 0, "1234"), http2.ErrCodeProtocol},
		"settings":               {frame(http2.FrameSettings, 0, 0, "12345"), http2.ErrCodeFrameSize},
		"ack with something":     {frame(http2.FrameSettings, 1, 0, "123456"), http2.ErrCodeFrameSize},
		"window beyond":          {frame(http2.FrameSettings, 0, 0, "\x00\x04\xff\xff\xff\xff"), http2.ErrCodeFlowControl},
		"frame size":             {frame(http2.FrameSettings, 0, 0, "\x00\x05\x00\x00\x00\x01"), http2.ErrCodeProtocol},
		"ping":                   {frame(http2.FramePing, 0, 0, "1"), http2.ErrCodeProtocol},
		"go away":                {frame(http2.FrameGoAway, 0, 0, "1"), http2.ErrCodeProtocol},
		"push":                   {frame(http2.FramePushPromise, 4, 1, "\x00\x00\x00\x02"), http2.ErrCodeProtocol},
		"window of 0":            {frame(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00"), http2.ErrCodeFlowControl},
		"window overflow":        {frame(http2.FrameWindowUpdate, 0, 0, "\x7f\xff\xff\xff"), http2.ErrCodeFlowControl},
		"head too large":         {large, http2.ErrCodeEnhanceYourCalm},
		"hpack bomb":             {bomb, http2.ErrCodeEnhanceYourCalm},
		"flood of continuations": {flood, http2.ErrCodeEnhanceYourCalm},
	} {
		t.Run(name, func(t *testing.T) {
			p, caller, server := wires(t, nil)
			c.says(caller)
			for who, w := range map[string]*framed{"caller": caller, "upstream": server} {
				for {
					f, err := w.ReadFrame()
					if err != nil {
						t.Fatalf("the %s got %v, want GOAWAY", who, err)
					}
					if g, is := f.(*http2.GoAwayFrame); is {
						if g.ErrCode != c.code {
							t.Errorf("the %s got %v, want %v", who, g, c.code)
						}
						break
					}
				}
				w.Close()
			}
			if s := collect(t, p, func(s Stats) bool { return s.Open == 0 }); s.Opaque != 1 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// TestH2NotSpoken: an upstream that answers something else is passed on as it is.
func TestH2NotSpoken(t *testing.T) {
	const says = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
	p := startProxy(t, HTTP, startTCP(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 30))
		io.WriteString(c, says)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	}))
	c := newWire(t, dial(t, p.Addr()).TCPConn)
	io.WriteString(c.Conn, http2.ClientPreface)
	c.WriteSettings()
	c.ask(1, "/", true)
	if got, err := io.ReadAll(c.Conn); err != nil || string(got) != says {
		t.Errorf("got %q, %v", got, err)
	}
	c.Close()
	if s := collect(t, p, func(s Stats) bool { return s.Open == 0 }); s.Opaque != 1 || s.Answers["200"] != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestH2Refused: without an upstream there is at least one call that was refused.
func TestH2Refused(t *testing.T) {
	p := startProxy(t, HTTP, "127.0.0.1:1")
	if _, _, err := askErr(h2Client(t), "GET", "http://"+p.Addr(), ""); err == nil {
		t.Error("an answer came from nowhere")
	}
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 && s.Answers[wasRefused] > 0 })
	if s.Calls != s.Answers[wasRefused] || s.Upstream != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestH2UpstreamEnds: calls whose answers will not come are counted, and the caller
// sees the end as it was.
func TestH2UpstreamEnds(t *testing.T) {
	for name, end := range map[string]func(*framed){
		"closed": func(w *framed) { w.Conn.(*net.TCPConn).CloseWrite() },
		"reset":  func(w *framed) { newSocket(w.Conn).abort() },
	} {
		t.Run(name, func(t *testing.T) {
			p, caller, server := wires(t, nil)
			caller.ask(1, "/", true)
			server.wantHead(1)
			end(server)
			for {
				if _, err := caller.ReadFrame(); err != nil {
					if errors.Is(err, io.EOF) != (name == "closed") {
						t.Errorf("the caller got %v", err)
					}
					break
				}
			}
			caller.Close()
			s := collect(t, p, func(s Stats) bool { return s.Open == 0 })
			if s.Calls != 1 || s.Answers[name] != 1 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}
