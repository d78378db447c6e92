package loadgen

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestHostileOnLoops: what TestHostile says of the general engine holds for event
// loops, on sockets.
func TestHostileOnLoops(t *testing.T) {
	if !haveFast {
		t.Skip("no fast engine here")
	}
	for name, c := range hostilities {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := (&hostile{serve: c.serve}).listen(t)
			timeout := 5 * time.Second // which nothing takes
			if c.outcome == "timeout" {
				timeout = 300 * time.Millisecond
			}
			began := time.Now()
			var s seenBy
			s.run(t, Config{Spec: hostileSpec(name, timeout), Requests: 4, Engine: Fast}, address)
			if want := map[string]int{c.outcome: 4}; !maps.Equal(s.outcomes, want) || !strings.Contains(s.details[c.outcome], c.detail) {
				t.Errorf("%v (%v), want %v: %s", s.outcomes, s.details, want, c.detail)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("4 requests with a timeout of %v took %v", timeout, took)
			}
			if s.all.Sent != 4 || s.all.DueCount != 4 {
				t.Errorf("%d due, %d sent", s.all.DueCount, s.all.Sent)
			}
		})
	}
}

// TestGoAwayOnLoops: as TestGoAway.
func TestGoAwayOnLoops(t *testing.T) {
	if !haveFast {
		t.Skip("no fast engine here")
	}
	answered := make(chan struct{})
	h := &hostile{serve: func(s *script) {
		s.WriteSettings()
		one := s.request()
		if !s.first {
			for id := one; id != 0; id = s.request() {
				s.header(id, true, ":status", "201")
				close(answered)
			}
			return
		}
		s.request()
		s.WriteGoAway(one, http2.ErrCodeNo, nil)
		<-answered
		s.header(one, true, ":status", "200")
		s.request()
	}}
	var s seenBy
	s.run(t, Config{Requests: 2, Engine: Fast, Spec: Spec{
		Name: "s", To: "shop", Protocol: H2C, Users: ptr(2), Streams: ptr(2), Request: &Request{Method: "GET", Path: "/"},
	}}, h.listen(t))
	if want := map[string]int{"200": 1, "201": 1}; !maps.Equal(s.outcomes, want) || s.all.Connects != 2 {
		t.Errorf("%v (%v), %d connections; want %v, 2", s.outcomes, s.details, s.all.Connects, want)
	}
}

// TestStalledNeighbour: a stream without an answer holds nobody up who shares its
// connection, nor does it cost them the connection.
func TestStalledNeighbour(t *testing.T) {
	_, address := http2Server(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stall" {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	for _, engine := range []Engine{Auto, General} {
		var s seenBy
		s.run(t, Config{Requests: 80, Engine: engine, Spec: Spec{
			Name: "s", To: "shop", Protocol: H2C, Users: ptr(4), Streams: ptr(4), Timeout: ptr(200 * time.Millisecond), Order: Listed,
			Requests: append([]Request{{Method: "GET", Path: "/stall"}}, slices.Repeat([]Request{{Method: "GET", Path: "/"}}, 39)...),
		}}, address)
		if want := map[string]int{"200": 78, "timeout": 2}; !maps.Equal(s.outcomes, want) || s.all.Connects != 1 {
			t.Errorf("%s: %v (%v) on %d connections, want %v on 1", engine, s.outcomes, s.details, s.all.Connects, want)
		}
	}
}

// TestHTTP2EnginesAgree: both engines, any number of event loops, plain and over TLS:
// the same counts, the same fates, and histograms that say what the single results say.
func TestHTTP2EnginesAgree(t *testing.T) {
	law := func(path string) (status int, takes time.Duration) {
		var seq int
		if _, err := fmt.Sscanf(path, "/%d", &seq); err != nil {
			return 400, 0
		}
		if seq%10 == 9 {
			return 503, 0
		}
		return 200, time.Duration(seq%7) * 3 * time.Millisecond
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		status, takes := law(r.URL.Path)
		time.Sleep(takes)
		w.WriteHeader(status)
		io.WriteString(w, "ok")
	}
	const n = 200
	for _, secure := range []bool{false, true} {
		server, address := http2Server(t, secure, serve)
		for _, v := range []struct {
			engine Engine
			loops  int
		}{{Fast, 1}, {Fast, 3}, {General, 0}} {
			if v.engine == Fast && !haveFast {
				continue
			}
			name := fmt.Sprintf("%s%d-tls=%t", v.engine, v.loops, secure)
			s := newSums()
			c := Config{
				Spec: Spec{Name: "s", To: "peer", Protocol: H2C, Rate: perSecond(500), Connections: ptr(9), Streams: ptr(10),
					Request: &Request{Method: "GET", Path: "/{{seq}}"}, Timeout: ptr(time.Minute)},
				Engine: v.engine, loops: v.loops, Seed: 1, Start: s.start, Until: 400 * time.Millisecond, Resolve: func() string { return address },
			}
			if secure {
				c.Spec.Protocol = H2
				c.TLS = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				c.TLS.ServerName = "example.com"
			}
			if err := Run(t.Context(), s.listen(c)); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			if s.DueCount != n || s.Sent != n || s.OK != n*9/10 || s.Outcomes["503"] != n/10 || len(s.windows) != 4 || s.Connects < 1 || s.Connects > 9 {
				t.Errorf("%s: %d due, %d sent, outcomes %v in %d windows on %d connections; want %d, %d, 180 ok, 20 failed, 4, 1 to 9", name, s.DueCount, s.Sent, s.Outcomes, len(s.windows), s.Connects, n, n)
			}
			if (s.Handshake.Count() > 0) != secure || s.Connect.Count() != int64(s.Connects) {
				t.Errorf("%s: %d handshakes and %d times to connect, of %d connections", name, s.Handshake.Count(), s.Connect.Count(), s.Connects)
			}
			var latencies []time.Duration
			seen, sent := map[uint64]bool{}, 0
			for _, r := range s.results {
				seen[r.Seq] = true
				sent += r.Sent
				status, takes := law(r.URL[strings.Index(r.URL, "//peer")+len("//peer"):])
				if r.Status != status || r.Latency < takes || r.Received != 2 {
					t.Errorf("%s: %s got %d and %d bytes after %v, the law says %d and 2 after %v", name, r.URL, r.Status, r.Received, r.Latency, status, takes)
				}
				if r.OK {
					latencies = append(latencies, r.Latency)
				}
			}
			if len(seen) != n || len(s.results) != n || int(s.BytesSent) != sent || len(latencies) == 0 {
				t.Errorf("%s: %d results of %d requests, %d bytes sent and told as %d", name, len(s.results), len(seen), sent, s.BytesSent)
				continue
			}
			slices.Sort(latencies)
			for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
				exact := latencies[max(int(math.Ceil(q*float64(len(latencies))))-1, 0)]
				if got := s.OKLatency.Quantile(q); math.Abs(float64(got-exact)) > float64(exact)/1000+float64(time.Microsecond) {
					t.Errorf("%s: p%g is told as %v, the results say %v", name, 100*q, got, exact)
				}
			}
			if s.Service.Mean() > s.OKLatency.Mean() || s.FirstByte.Mean() > s.Service.Mean() || s.Service.Min() > s.OKLatency.Min() {
				t.Errorf("%s: on average a first byte after %v, service in %v, latency %v", name, s.FirstByte.Mean(), s.Service.Mean(), s.OKLatency.Mean())
			}
		}
	}
}

// TestHTTP2CutOnLoops: at the end of the run what is under way is cut, and its
// connection closed.
func TestHTTP2CutOnLoops(t *testing.T) {
	if !haveFast {
		t.Skip("no fast engine here")
	}
	closed := make(chan struct{}, 10)
	address := (&hostile{serve: func(s *script) {
		defer func() { closed <- struct{}{} }()
		s.WriteSettings()
		for s.request() != 0 {
		}
	}}).listen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	sums := newSums()
	spec := Spec{Name: "s", To: "peer", Protocol: H2C, Users: ptr(6), Streams: ptr(3), Request: &Request{Method: "GET", Path: "/"}}
	if err := Run(ctx, sums.listen(Config{Spec: spec, Engine: Fast, Start: sums.start, Until: time.Hour, Resolve: func() string { return address }})); err != context.DeadlineExceeded {
		t.Fatal(err)
	}
	if want := map[string]int{"canceled": 6}; !maps.Equal(sums.Outcomes, want) {
		t.Errorf("%v, want %v", sums.Outcomes, want)
	}
	for range 2 {
		<-closed
	}
}

// answerFrames answers every request on c with the same few bytes, and makes no garbage.
func answerFrames(c net.Conn) {
	header := block(":status", "200")
	answer := append(appendFrame(nil, len(header), frameHeaders, flagEndHeaders, 0), header...)
	second := len(answer)
	answer = append(appendFrame(answer, 2, frameData, flagEndStream, 0), "ok"...)
	if _, err := io.ReadFull(c, make([]byte, len(h2Preface))); err != nil {
		return
	}
	out := appendFrame(nil, 0, frameSettings, 0, 0)
	in, have := make([]byte, 64<<10), 0
	for {
		if _, err := c.Write(out); err != nil {
			return
		}
		n, err := c.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		out = out[:0]
		used := 0
		for have-used >= frameHead {
			frame := in[used:have]
			length := int(frame[0])<<16 | int(frame[1])<<8 | int(frame[2])
			if len(frame) < frameHead+length {
				break
			}
			if frame[3] == frameData { // what was used of the windows is given back
				out = binary.BigEndian.AppendUint32(appendFrame(out, 4, frameWindow, 0, 0), uint32(length))
			}
			if (frame[3] == frameHeaders || frame[3] == frameData) && frame[4]&flagEndStream != 0 {
				copy(answer[5:9], frame[5:9])
				copy(answer[second+5:], frame[5:9])
				out = append(out, answer...)
			}
			used += frameHead + length
		}
		have = copy(in, in[used:have])
	}
}

// A request of HTTP/2 costs no memory either.
func TestHTTP2NoGarbagePerRequest(t *testing.T) {
	if !haveFast {
		t.Skip("no fast engine here")
	}
	client, server := trusted(t)
	server.NextProtos = []string{"h2"}
	for _, c := range []struct {
		protocol       Protocol
		client, server *tls.Config
		most           uint64 // mallocs of 10 requests, the server's included
	}{{H2C, nil, nil, 1}, {H2, client, server, 60}} {
		t.Run(string(c.protocol), func(t *testing.T) {
			mallocs, n := mallocsOfRequests(t, c.protocol, c.client, c.server, answerFrames)
			t.Logf("%d mallocs for %d requests", mallocs, n)
			if n < 300 || mallocs > 2000 && mallocs > c.most*uint64(n)/10 {
				t.Errorf("%d mallocs for %d requests, want windows' and at most %d for 10 requests", mallocs, n, c.most)
			}
		})
	}
}

// TestLive: streams are found by their ids as in a map, whatever order they end in.
func TestLive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var l h2live
	want := map[uint32]*h2stream{}
	var ids []uint32
	for id := uint32(1); id < 40_000; id += 2 {
		st := &h2stream{id: id}
		l.add(st)
		want[id] = st
		ids = append(ids, id)
		for len(ids) > 100 || len(ids) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(ids))
			if r.IntN(4) > 0 {
				i = len(ids) - 1 - r.IntN(min(3, len(ids))) // some stay for long
			}
			gone := ids[i]
			ids = slices.Delete(ids, i, i+1)
			l.remove(want[gone])
			delete(want, gone)
			if l.get(gone) != nil {
				t.Fatalf("stream %d is still there", gone)
			}
		}
		for _, id := range ids {
			if l.get(id) != want[id] {
				t.Fatalf("stream %d is not there", id)
			}
		}
		if all := l.all(); l.n != len(want) || len(all) != len(want) || !slices.IsSortedFunc(all, func(a, b *h2stream) int { return int(a.id) - int(b.id) }) {
			t.Fatalf("%d streams, %d in order; want %d", l.n, len(all), len(want))
		}
	}
}

// A model is what is read of stream 1 by x/net's Framer.
type model struct {
	status, bytes int
	complete      bool
	err           error // why it stopped to read, before the stream was complete
}

func modelOf(in []byte) (m model) {
	f := http2.NewFramer(io.Discard, strings.NewReader(string(in)))
	f.SetMaxReadFrameSize(ourFrame)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for !m.complete {
		frame, err := f.ReadFrame()
		if err != nil {
			m.err = err
			return m
		}
		if frame.Header().StreamID != 1 {
			continue
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			status := 0
			fmt.Sscan(frame.PseudoValue("status"), &status)
			if status >= 200 {
				m.status = status
			}
			m.complete = frame.StreamEnded()
		case *http2.DataFrame:
			m.bytes += len(frame.Data())
			m.complete = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			m.err = http2.StreamError{StreamID: 1, Code: frame.ErrCode}
			return m
		}
	}
	return m
}

// FuzzFramer: what x/net's Framer writes we read as it does, in pieces of any size;
// and a stream that we take for answered, of whatever bytes, it does.
func FuzzFramer(f *testing.F) {
	f.Add([]byte("hdt"), 3, []byte{})
	f.Add([]byte("ihpcdwgDsT"), 1, []byte{})
	f.Add([]byte("hdDdE"), 100, append(appendFrame(nil, 0, frameSettings, 0, 0), append(appendFrame(nil, 1, frameHeaders, flagEndHeaders|flagEndStream, 1), 0x88)...))
	f.Fuzz(func(t *testing.T, plan []byte, piece int, raw []byte) {
		piece = max(piece, 1)
		written := writtenBy(plan)
		if m, st := modelOf(written), readBy(written, piece); m.err == nil {
			if st.err != nil || st.status != m.status || st.bytes != m.bytes {
				t.Fatalf("plan %q: status %d with %d bytes, %v; x/net reads %d with %d", plan, st.status, st.bytes, st.err, m.status, m.bytes)
			}
		}
		if st, m := readBy(raw, piece), modelOf(raw); st.err == nil && m.err == nil && (st.status != m.status || st.bytes != m.bytes) {
			t.Fatalf("%x: status %d with %d bytes; x/net reads %d with %d", raw, st.status, st.bytes, m.status, m.bytes)
		} else if st.err == nil && (m.err == io.EOF || m.err == io.ErrUnexpectedEOF) {
			t.Fatalf("%x: taken for answered; x/net waits for more", raw)
		}
	})
}

// readBy is stream 1, and what we read of it.
func readBy(in []byte, piece int) *h2stream {
	c := newH2(func(*h2stream) {})
	st := &h2stream{}
	c.open(st, []byte{0x82}, nil)
	for err := error(nil); len(in) > 0 && err == nil; in = in[min(piece, len(in)):] {
		err = c.feed(in[:min(piece, len(in))], 1)
	}
	c.fail(io.EOF, 2)
	return st
}

// writtenBy is a valid answer to stream 1, with the frames that plan says, by letters,
// and its end.
func writtenBy(plan []byte) []byte {
	var out strings.Builder
	f := http2.NewFramer(&out, nil)
	headed, ended := false, false
	head := func(status string, end bool, change func(p *http2.HeadersFrameParam)) {
		p := http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(":status", status, "server", "x"), EndHeaders: true, EndStream: end}
		change(&p)
		_ = f.WriteHeaders(p) // a Builder has no errors
		headed, ended = headed || status >= "200", ended || end
	}
	plainly := func(*http2.HeadersFrameParam) {}
	_ = f.WriteSettings()
	for i, letter := range plan {
		if ended || i > 30 {
			break
		}
		switch letter {
		case 'i':
			if !headed {
				head("103", false, plainly)
			}
		case 'h', 'H':
			if !headed {
				head("200", letter == 'H', func(p *http2.HeadersFrameParam) {
					p.PadLength, p.Priority = letter, http2.PriorityParam{StreamDep: 3, Weight: 7}
				})
			}
		case 'c': // in pieces
			if !headed {
				whole := block(":status", "404", "date", "now")
				head("404", false, func(p *http2.HeadersFrameParam) { p.BlockFragment, p.EndHeaders = whole[:1], false })
				_ = f.WriteContinuation(1, false, nil)
				_ = f.WriteContinuation(1, true, whole[1:])
			}
		case 'd', 'D', 'E':
			if headed {
				_ = f.WriteDataPadded(1, letter == 'E', make([]byte, i*100), make([]byte, int(letter)*i%200))
				ended = letter == 'E'
			}
		case 'e':
			if headed {
				_ = f.WriteData(1, false, nil)
			}
		case 't', 'T':
			if headed {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block("sum", "1"), EndHeaders: true, EndStream: true})
				ended = true
			}
		case 'p':
			_ = f.WritePing(i%2 == 0, [8]byte{})
		case 's':
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)}, http2.Setting{ID: 99, Val: 1})
		case 'w':
			_ = f.WriteWindowUpdate(uint32(i%2), 1)
		case 'g':
			_ = f.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
		case 'u':
			_ = f.WriteRawFrame(http2.FrameType(77), 0xff, 1, make([]byte, i))
		}
	}
	if !ended {
		if !headed {
			head("200", true, plainly)
		} else {
			_ = f.WriteData(1, true, []byte("the end"))
		}
	}
	return []byte(out.String())
}
