//go:build http3

package loadgen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// h3script is one connection of a server that speaks QUIC, and of HTTP/3 what a test
// wants it to.
type h3script struct {
	*quic.Conn
	control *quic.SendStream // its settings are sent
}

// h3hostile plays serve for every stream of a request that has come whole.
func h3hostile(t *testing.T, settings []byte, serve func(s *h3script, st *quic.Stream)) (address string) {
	t.Helper()
	_, server := trusted(t)
	config := server.Clone()
	config.NextProtos = []string{"h3"}
	socket := udpSocket(t, "127.0.0.1:0")
	transport := &quic.Transport{Conn: socket}
	l, err := transport.Listen(config, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			s := &h3script{Conn: conn}
			if s.control, err = conn.OpenUniStream(); err != nil {
				return
			}
			_, _ = s.control.Write(settings) // what the client does not take it does not want
			all.Go(func() {
				for {
					st, err := conn.AcceptStream(context.Background())
					if err != nil {
						return
					}
					all.Go(func() {
						if _, err := io.ReadAll(st); err == nil {
							serve(s, st)
						}
					})
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		transport.Close()
		socket.Close()
		all.Wait()
	})
	return socket.LocalAddr().String()
}

// goodSettings is a control stream, and nothing said in it.
var goodSettings = []byte{0x00, h3Settings, 0}

func h3frame(kind uint64, content []byte) []byte {
	b := quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(content)))
	return append(b, content...)
}

func h3section(fields ...string) []byte {
	var b bytes.Buffer
	e := qpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // a Buffer has no errors
	}
	return b.Bytes()
}

func h3header(fields ...string) []byte { return h3frame(h3Headers, h3section(fields...)) }

// saying plays an answer made of frames, and then its end.
func saying(frames ...[]byte) func(*h3script, *quic.Stream) {
	return func(_ *h3script, st *quic.Stream) {
		_, _ = st.Write(bytes.Join(frames, nil))
		_ = st.Close()
	}
}

// TestHTTP3Hostile: whatever a server does, every request ends within its timeout, in
// the class that says why.
func TestHTTP3Hostile(t *testing.T) {
	ok := h3header(":status", "200")
	huge := quicvarint.Append(quicvarint.Append(nil, h3Headers), maxFields+1)
	for name, c := range map[string]struct {
		settings []byte
		serve    func(s *h3script, st *quic.Stream)
		outcome  string
		detail   string
	}{
		"stall":          {nil, func(*h3script, *quic.Stream) {}, "timeout", "i/o timeout"},
		"stall mid-body": {nil, func(_ *h3script, st *quic.Stream) { _, _ = st.Write(append(ok, h3frame(h3Data, []byte("half"))...)) }, "timeout", "i/o timeout"},
		"close": {nil, func(s *h3script, _ *quic.Stream) { _ = s.CloseWithError(h3NoError, "good bye") },
			"reset", `the server closed the connection: H3_NO_ERROR ("good bye")`},
		"close mid-body": {nil, func(s *h3script, st *quic.Stream) {
			_, _ = st.Write(append(ok, h3frame(h3Data, []byte("half"))...))
			_ = s.CloseWithError(0x102, "")
		}, "reset", "H3_INTERNAL_ERROR"},
		"accusation":   {nil, func(s *h3script, _ *quic.Stream) { _ = s.CloseWithError(h3FrameError, "") }, "protocol", "H3_FRAME_ERROR"},
		"reset":        {nil, func(_ *h3script, st *quic.Stream) { st.CancelWrite(0x102) }, "reset", "the server reset the stream: H3_INTERNAL_ERROR"},
		"rejection":    {nil, func(_ *h3script, st *quic.Stream) { st.CancelWrite(h3RequestRejected) }, "reset", "H3_REQUEST_REJECTED"},
		"unknown code": {nil, func(_ *h3script, st *quic.Stream) { st.CancelWrite(0x4242) }, "reset", "error code 0x4242"},
		"nothing":      {nil, saying(), "protocol", "the stream ends without an answer"},
		"garbage":      {nil, saying([]byte("HTTP/1.1 200 OK\r\n\r\n")), "protocol", ""},
		"half a frame": {nil, saying(ok[:len(ok)-1]), "protocol", "in the middle of a frame"},
		"no status":    {nil, saying(h3header("a", "b")), "protocol", "without a status"},
		"bad status":   {nil, saying(h3header(":status", "20")), "protocol", `status "20"`},
		"bad name":     {nil, saying(h3header(":status", "200", "Upper", "x")), "protocol", `header field "Upper"`},
		"two lengths":  {nil, saying(h3header(":status", "200", "content-length", "1", "content-length", "2")), "protocol", "Content-Length"},
		"switching":    {nil, saying(h3header(":status", "101")), "protocol", "status 101"},
		"dynamic":      {nil, saying(h3frame(h3Headers, []byte{0x05, 0x00, 0x80})), "protocol", "cannot be decoded"},
		"data first":   {nil, saying(h3frame(h3Data, []byte("x"))), "protocol", "DATA before the header"},
		"data last":    {nil, saying(ok, h3header("a", "b"), h3frame(h3Data, []byte("x"))), "protocol", "DATA after the trailers"},
		"too much":     {nil, saying(h3header(":status", "200", "content-length", "1"), h3frame(h3Data, []byte("xx"))), "protocol", "more DATA than Content-Length"},
		"too little":   {nil, saying(h3header(":status", "200", "content-length", "3"), h3frame(h3Data, []byte("xx"))), "protocol", "the body has 2 bytes"},
		"push":         {nil, saying(h3frame(h3PushPromise, []byte{0})), "protocol", "PUSH_PROMISE"},
		"settings":     {nil, saying(h3frame(h3Settings, nil)), "protocol", "frame type 0x4 on the stream of a request"},
		"huge header":  {nil, saying(huge), "protocol", "more than 262144 bytes of header"},
		"endless interim": {nil, saying(bytes.Repeat(h3header(":status", "103"), 40)),
			"protocol", "more than 32 interim answers"},
		"unknown frames":     {nil, saying(h3frame(0x21, []byte("grease")), ok, h3frame(0x40, nil), h3frame(h3Data, nil), h3frame(h3Data, []byte("x"))), "200", ""},
		"no settings":        {[]byte{0x00, h3GoAway, 1, 0}, func(*h3script, *quic.Stream) {}, "protocol", "its control stream begins with frame type 0x7"},
		"settings of HTTP/2": {[]byte{0x00, h3Settings, 2, 0x02, 0x00}, func(*h3script, *quic.Stream) {}, "protocol", "setting 0x2"},
		"control ends":       {goodSettings, func(s *h3script, _ *quic.Stream) { _ = s.control.Close() }, "protocol", "the control stream ends"},
		"data as control":    {goodSettings, func(s *h3script, _ *quic.Stream) { _, _ = s.control.Write(h3frame(h3Data, nil)) }, "protocol", "frame type 0x0 on the control stream"},
		"two control streams": {goodSettings, func(s *h3script, _ *quic.Stream) {
			if st, err := s.OpenUniStream(); err == nil {
				_, _ = st.Write(goodSettings)
			}
		}, "protocol", "a second stream of type 0x0"},
		"pushes": {goodSettings, func(s *h3script, _ *quic.Stream) {
			if st, err := s.OpenUniStream(); err == nil {
				_, _ = st.Write([]byte{0x01})
			}
		}, "protocol", "pushing was not allowed"},
		"stream of its own": {goodSettings, func(s *h3script, _ *quic.Stream) { _, _ = s.OpenStream() }, "timeout", ""},
		"goes away":         {goodSettings, func(s *h3script, _ *quic.Stream) { _, _ = s.control.Write(h3frame(h3GoAway, []byte{0})) }, "reset", "GOAWAY"},
		"goes away oddly":   {goodSettings, func(s *h3script, _ *quic.Stream) { _, _ = s.control.Write(h3frame(h3GoAway, []byte{1})) }, "protocol", "GOAWAY up to stream 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := c.settings
			if settings == nil {
				settings = goodSettings
			}
			address := h3hostile(t, settings, c.serve)
			s, began := h3run(t, address, timeoutFor(c.outcome)), time.Now()
			if want := map[string]int{c.outcome: 2}; !maps.Equal(s.Outcomes, want) {
				t.Errorf("outcomes %v, want %v; samples %+v", s.Outcomes, want, s.samples)
			}
			for _, sample := range s.samples {
				if !strings.Contains(sample.Detail, c.detail) {
					t.Errorf("detail is %q, want %q", sample.Detail, c.detail)
				}
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// timeoutFor is the timeout of requests that are to end so: on a busy machine, too, only
// those that are meant to do run out of it.
func timeoutFor(outcome string) time.Duration {
	if outcome == "timeout" {
		return 300 * time.Millisecond
	}
	return 15 * time.Second
}

// h3run sends two requests, one after the other.
func h3run(t *testing.T, address string, timeout time.Duration) *sums {
	t.Helper()
	client, _ := trusted(t)
	s := newSums()
	c := s.listen(Config{Requests: 2, TLS: client, Until: time.Minute, Resolve: func() string { return address }, Spec: Spec{
		Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Timeout: &timeout, Request: &Request{Method: "GET", Path: "/"},
	}})
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s.balance(t)
	return s
}

// TestHTTP3NoHandshake: who does not answer, or answers what is not QUIC, is waited
// for as long as the request may take; who speaks another version of it says so.
func TestHTTP3NoHandshake(t *testing.T) {
	version := func(hello []byte) []byte { // RFC 9000, 17.2.1
		to, from := hello[6:6+hello[5]], hello[6+hello[5]:]
		b := append([]byte{0x80, 0, 0, 0, 0, from[0]}, from[1:1+from[0]]...)
		return append(append(append(b, byte(len(to))), to...), 0x7a, 0x7a, 0x7a, 0x7a)
	}
	for name, c := range map[string]struct {
		reply   func(hello []byte) []byte
		outcome string
		detail  string
	}{
		"silence":       {func([]byte) []byte { return nil }, "timeout", "i/o timeout"},
		"garbage":       {func([]byte) []byte { return []byte("no such thing as QUIC here") }, "timeout", "i/o timeout"},
		"echo":          {func(hello []byte) []byte { return hello }, "timeout", "i/o timeout"},
		"other version": {version, "protocol", "no compatible QUIC version found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := udpSocket(t, "127.0.0.1:0")
			var serving sync.WaitGroup
			serving.Go(func() {
				for b := make([]byte, 1<<16); ; {
					n, from, err := socket.ReadFrom(b)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if reply := c.reply(b[:n]); reply != nil {
						_, _ = socket.WriteTo(reply, from)
					}
				}
			})
			s := h3run(t, socket.LocalAddr().String(), timeoutFor(c.outcome))
			socket.Close()
			serving.Wait()
			if want := map[string]int{c.outcome: 2}; !maps.Equal(s.Outcomes, want) || !strings.Contains(s.samples[0].Detail, c.detail) {
				t.Errorf("outcomes %v, want %v; samples %+v", s.Outcomes, want, s.samples)
			}
		})
	}
}

// TestHTTP3Silence: a connection on which nothing is heard any more is given up with
// the request that noticed, and one that is only slow is kept.
func TestHTTP3Silence(t *testing.T) {
	client, _ := trusted(t)
	var both sync.WaitGroup
	defer both.Wait()
	for _, silent := range []bool{false, true} {
		address := h3hostile(t, goodSettings, func(s *h3script, st *quic.Stream) {
			if st.StreamID() != 4 { // the second request of a connection
				saying(h3header(":status", "200"))(s, st)
			}
		})
		relay := newUDPGate(t, address)
		asked := 0
		s := newSums()
		c := s.listen(Config{Requests: 3, TLS: client, Until: time.Minute, Resolve: relay.address, Spec: Spec{
			Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Timeout: ptr(time.Second), Request: &Request{Method: "GET", Path: "/{{seq}}"},
			Think: time.Second, // within it, the result before is told, and the gate moved
		}})
		c.OnResult = func(Result) {
			if asked++; silent {
				relay.shut(asked == 1)
			}
		}
		both.Go(func() {
			if err := Run(t.Context(), c); err != nil {
				t.Error(err)
			}
			if want := map[string]int{"200": 2, "timeout": 1}; !maps.Equal(s.Outcomes, want) || s.Connects != map[bool]int{false: 1, true: 2}[silent] {
				t.Errorf("silent %t: outcomes %v on %d connections, want %v; samples %+v", silent, s.Outcomes, s.Connects, want, s.samples)
			}
		})
	}
}

// TestHTTP3Fields: what requests are made into is what a decoder of QPACK reads.
func TestHTTP3Fields(t *testing.T) {
	text := "PROPFIND /a?b=c HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: chaosctl\r\n"
	want := []qpack.HeaderField{{Name: ":method", Value: "PROPFIND"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/a?b=c"},
		{Name: ":authority", Value: "shop.example"}, {Name: "user-agent", Value: "chaosctl"}}
	for name := range h3Indices {
		if name[0] != ':' && name != "user-agent" {
			text += name + ": " + name + "'s value\r\n"
			want = append(want, qpack.HeaderField{Name: name, Value: name + "'s value"})
		}
	}
	for _, name := range []string{"x", "x-longer-than-seven", "traceparent"} {
		text += name + ": " + strings.Repeat("v", 300) + "\r\n"
		want = append(want, qpack.HeaderField{Name: name, Value: strings.Repeat("v", 300)})
	}
	fields := decodeSection(t, appendSection(nil, []byte(text+"\r\n")))
	if len(fields) != len(want) {
		t.Fatalf("%d fields, want %d: %q", len(fields), len(want), fields)
	}
	for i := range want {
		if fields[i] != want[i] {
			t.Errorf("field %d is %q, want %q", i, fields[i], want[i])
		}
	}
	for method := range h3Methods {
		if fields := decodeSection(t, appendSection(nil, []byte(method+" / HTTP/1.1\r\n\r\n"))); fields[0].Value != method {
			t.Errorf("%s became %q", method, fields)
		}
	}
}

func decodeSection(t *testing.T, section []byte) (fields []qpack.HeaderField) {
	t.Helper()
	for next := qpack.NewDecoder().Decode(section); ; {
		f, err := next()
		if err == io.EOF {
			return fields
		}
		if err != nil {
			t.Fatal(err)
		}
		fields = append(fields, f)
	}
}

// FuzzHTTP3Answer: in pieces of any size an answer means the same as in one.
func FuzzHTTP3Answer(f *testing.F) {
	ok := h3header(":status", "200", "content-length", "5")
	f.Add(bytes.Join([][]byte{h3header(":status", "103"), ok, h3frame(h3Data, []byte("hello")), h3header("a", "b")}, nil), byte(1))
	f.Add(bytes.Join([][]byte{h3frame(0x21, []byte("grease")), ok, h3frame(h3Data, []byte("hel")), h3frame(h3Data, []byte("lo!"))}, nil), byte(3))
	f.Add(h3frame(h3Headers, []byte{0x05, 0x00, 0x80}), byte(2))
	f.Fuzz(func(t *testing.T, answer []byte, size byte) {
		play := func(size int) (status int, body string, fate string) {
			var a h3answer
			var kept reply
			kept.keepBody = true
			a.reset(false)
			a.into = &kept
			var bad *h3violation
			for rest := answer; len(rest) > 0 && bad == nil; {
				n := min(size, len(rest))
				bad = a.feed(rest[:n])
				rest = rest[n:]
			}
			if bad == nil {
				bad = a.end()
			}
			if bad != nil {
				return 0, "", bad.Error()
			}
			return a.status, string(kept.body), ""
		}
		status, body, fate := play(len(answer) + 1)
		if s, b, f := play(int(size) + 1); s != status || b != body || f != fate {
			t.Errorf("whole: %d %q %q; in pieces of %d: %d %q %q", status, body, fate, int(size)+1, s, b, f)
		}
	})
}

// udpGate passes datagrams on between one client and a server, unless it is shut.
type udpGate struct {
	front  net.PacketConn
	mu     sync.Mutex
	closed bool
}

func newUDPGate(t *testing.T, server string) *udpGate {
	g := &udpGate{front: udpSocket(t, "127.0.0.1:0")}
	back, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	var from net.Addr
	var all sync.WaitGroup
	all.Go(func() {
		for b := make([]byte, 1<<16); ; {
			n, addr, err := g.front.ReadFrom(b)
			if err != nil {
				return
			}
			g.mu.Lock()
			if from = addr; !g.closed {
				_, _ = back.Write(b[:n])
			}
			g.mu.Unlock()
		}
	})
	all.Go(func() {
		for b := make([]byte, 1<<16); ; {
			n, err := back.Read(b)
			if err != nil {
				return
			}
			g.mu.Lock()
			if !g.closed && from != nil {
				_, _ = g.front.WriteTo(b[:n], from)
			}
			g.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		g.front.Close()
		back.Close()
		all.Wait()
	})
	return g
}

func (g *udpGate) address() string { return g.front.LocalAddr().String() }

func (g *udpGate) shut(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
}
