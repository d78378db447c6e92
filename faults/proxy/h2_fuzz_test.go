package proxy

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// conversation is what a caller says on one connection, as data decides: requests with
// bodies, paddings, trailers, heads in several frames, PINGs between them, and into
// which pieces it is cut.
type conversation struct {
	says    []byte
	pieces  []int
	streams int
}

func converse(data []byte) (c conversation) {
	next := func(n int) int {
		if len(data) == 0 {
			return 0
		}
		x := int(data[0])
		data = data[1:]
		return x % n
	}
	var out, block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	f := http2.NewFramer(&out, nil)
	out.WriteString(http2.ClientPreface)
	f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(next(3) * 100)})
	for id := uint32(1); len(data) > 0 && c.streams < 20; id += 2 {
		c.streams++
		size, trailers := next(8)*next(256), next(2) == 1
		block.Reset()
		enc.WriteField(hpack.HeaderField{Name: ":method", Value: "POST"})
		enc.WriteField(hpack.HeaderField{Name: ":scheme", Value: "http"})
		enc.WriteField(hpack.HeaderField{Name: ":authority", Value: "x"})
		enc.WriteField(hpack.HeaderField{Name: ":path", Value: fmt.Sprint("/", next(256))})
		for i := range next(5) {
			enc.WriteField(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: fmt.Sprint(next(256)), Sensitive: next(2) == 1})
		}
		head := bytes.Clone(block.Bytes())
		cut := next(len(head) + 1)
		end := size == 0 && !trailers
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head[:cut], EndStream: end, PadLength: uint8(next(30))})
		f.WriteContinuation(id, true, head[cut:])
		if next(4) == 0 {
			f.WritePing(false, [8]byte{byte(id)})
		}
		for size > 0 {
			n := min(size, 1+next(256))
			f.WriteDataPadded(id, size == n && !trailers, bytes.Repeat([]byte{byte(n)}, n), make([]byte, next(3)))
			size -= n
		}
		if trailers {
			block.Reset()
			enc.WriteField(hpack.HeaderField{Name: "sum", Value: fmt.Sprint(next(256))})
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		}
		c.pieces = append(c.pieces, 1+next(256)*next(8))
	}
	c.says = out.Bytes()
	return c
}

// hear has the conversation, and returns what was answered on each stream.
func (c conversation) hear(t *testing.T, address string) map[uint32]string {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	said := make(chan struct{})
	go func() {
		defer close(said)
		says := c.says
		for _, n := range c.pieces {
			n = min(n, len(says))
			nc.Write(says[:n])
			says = says[n:]
		}
		nc.Write(says)
	}()
	all := map[uint32]string{}
	f := http2.NewFramer(io.Discard, nc)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for ended := 0; ended < c.streams; {
		x, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%d of %d streams had ended when reading failed: %v", ended, c.streams, err)
		}
		id := x.Header().StreamID
		end := x.Header().Flags.Has(http2.FlagDataEndStream)
		switch x := x.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range x.Fields {
				if field.Name != "date" {
					all[id] += fmt.Sprintln(field.Name, field.Value)
				}
			}
		case *http2.DataFrame:
			all[id] += string(x.Data())
		case *http2.RSTStreamFrame:
			if x.ErrCode != http2.ErrCodeNo {
				all[id] += x.ErrCode.String()
			}
			end = x.ErrCode != http2.ErrCodeNo
		case *http2.GoAwayFrame:
			t.Fatalf("%v", x)
		default:
			end = false
		}
		if end {
			ended++
		}
	}
	<-said
	return all
}

// FuzzH2 compares what arrives, in both directions, with what arrives without a proxy:
// net/http is the judge.
func FuzzH2(f *testing.F) {
	upstream := startH2(f, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			fmt.Fprintln(w, name, r.Header[name])
		}
		fmt.Fprintln(w, r.Method, r.URL, r.Host, r.ContentLength, n, err, fmt.Sprintf("%x", h.Sum(nil)), r.Trailer)
		w.Header().Set("Sum", fmt.Sprint(n))
	})
	plain := startProxy(f, HTTP, upstream)
	slow := startProxy(f, HTTP, upstream)
	for i, r := range []Rule{
		{Slice: &Slice{Average: 40, Variation: 39}},
		{Latency: &Latency{Jitter: time.Millisecond, Direction: "request"}},
		{Latency: &Latency{Jitter: time.Millisecond, Where: Body}},
		{Bandwidth: &Bandwidth{BytesPerS: 10_000_000}},
	} {
		r.Name, r.Percent = fmt.Sprint(i), 0.5
		add(f, slow, r)
	}
	f.Add([]byte("one request, or a few"))
	f.Add(bytes.Repeat([]byte{7, 200, 1, 33, 4, 9, 1, 8, 3, 20, 0, 255, 30, 2}, 12))
	f.Add(bytes.Repeat([]byte{1, 0}, 90))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := converse(data)
		want := c.hear(t, upstream)
		for name, p := range map[string]*Proxy{"plain": plain, "slow": slow} {
			if got := c.hear(t, p.Addr()); !maps.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", name, got, want)
			}
		}
	})
}

// FuzzH2Bytes: whatever bytes follow the preface, the proxy's connection ends when both
// peers have, and nothing is left of it.
func FuzzH2Bytes(f *testing.F) {
	upstream := startH2(f, hello)
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), uint8(3))
	f.Add(converse(bytes.Repeat([]byte{7, 200, 1, 33, 4, 9, 1, 8, 3, 20, 0, 255, 30, 2}, 12)).says[len(http2.ClientPreface):], uint8(100))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		p, err := Start(t.Context(), Config{Name: "a -> b", Upstream: upstream, Protocol: HTTP})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Stop()
		add(t, p, Rule{Name: "s", Percent: 0.5, Slice: &Slice{Average: 10, Variation: 9}})
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		go func() {
			io.WriteString(c, http2.ClientPreface)
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1+int(piece))
				if _, err := c.Write(rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
			}
			c.(*net.TCPConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c); err != nil {
			if timeout, is := err.(net.Error); is && timeout.Timeout() {
				t.Fatal("the connection did not end")
			}
		}
		c.Close()
		collect(t, p, func(s Stats) bool { return s.Open == 0 })
		if held := p.held.claimed.Load(); held != 0 {
			t.Errorf("%d bytes are still claimed", held)
		}
	})
}
