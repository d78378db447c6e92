package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2FixedServer answers every HEADERS with one small answer, and allocates nothing.
func h2FixedServer(b *testing.B) string {
	return startTCP(b, func(c net.Conn) {
		in := make([]byte, 0, 64<<10)
		var out []byte
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		out = appendFrame(out, 0, http2.FrameSettings, 0, 0)
		c.Write(out)
		preface := len(clientPreface)
		for {
			n, err := c.Read(in[len(in):cap(in)])
			if err != nil {
				return
			}
			in = in[:len(in)+n]
			p := in
			if preface > 0 {
				if len(p) < preface {
					continue
				}
				p = p[preface:]
				preface = 0
			}
			out = out[:0]
			for len(p) >= frameHead && len(p) >= frameHead+frameLength(p) {
				switch http2.FrameType(p[3]) {
				case http2.FrameSettings:
					if p[4] == 0 {
						out = appendFrame(out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
					}
				case http2.FrameData:
					out = append(appendFrame(out, 4, http2.FrameWindowUpdate, 0, 0), 0, 0, 0, byte(frameLength(p)))
				case http2.FrameHeaders:
					block.Reset()
					enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
					enc.WriteField(hpack.HeaderField{Name: "content-type", Value: "application/json"})
					out = append(appendFrame(out, block.Len(), http2.FrameHeaders, http2.FlagHeadersEndHeaders, streamID(p[5:])), block.Bytes()...)
					out = append(appendFrame(out, 15, http2.FrameData, http2.FlagDataEndStream, streamID(p[5:])), `{"status":"ok"}`...)
				}
				p = p[frameHead+frameLength(p):]
			}
			in = in[:copy(in, p)]
			if len(out) > 0 {
				c.Write(out)
			}
		}
	})
}

// benchmarkH2Calls is one small call after the other, on one connection, by a caller that allocates nothing.
func benchmarkH2Calls(b *testing.B, address string) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Minute))
	out := append([]byte(nil), clientPreface...)
	out = appendFrame(out, 0, http2.FrameSettings, 0, 0)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	in := make([]byte, 0, 64<<10)
	id := uint32(1)
	call := func() {
		block.Reset()
		for _, f := range []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/checkout"}, {Name: ":authority", Value: "orders:8080"}, {Name: "content-type", Value: "application/json"}} {
			enc.WriteField(f)
		}
		out = append(appendFrame(out, block.Len(), http2.FrameHeaders, http2.FlagHeadersEndHeaders, id), block.Bytes()...)
		out = append(appendFrame(out, 26, http2.FrameData, http2.FlagDataEndStream, id), `{"user":"u-17","items":[]}`...)
		if _, err := c.Write(out); err != nil {
			b.Fatal(err)
		}
		out = out[:0]
		for {
			n, err := c.Read(in[len(in):cap(in)])
			if err != nil {
				b.Fatal(err)
			}
			in = in[:len(in)+n]
			p, ended := in, false
			for len(p) >= frameHead && len(p) >= frameHead+frameLength(p) {
				switch http2.FrameType(p[3]) {
				case http2.FrameSettings:
					if p[4] == 0 {
						out = appendFrame(out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
					}
				case http2.FrameData:
					ended = p[4] == byte(http2.FlagDataEndStream) && streamID(p[5:]) == id
					n := uint32(frameLength(p))
					out = append(appendFrame(out, 4, http2.FrameWindowUpdate, 0, 0), 0, 0, 0, byte(n))
				}
				p = p[frameHead+frameLength(p):]
			}
			in = in[:copy(in, p)]
			if ended {
				break
			}
		}
		id += 2
	}
	for range 100 {
		call()
	}
	b.ReportAllocs()
	before := cpuTime()
	for b.Loop() {
		call()
	}
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkH2Calls is BenchmarkCalls over HTTP/2. A call allocates nothing in the proxy.
func BenchmarkH2Calls(b *testing.B) {
	b.Run("direct", func(b *testing.B) { benchmarkH2Calls(b, h2FixedServer(b)) })
	b.Run("http", func(b *testing.B) { benchmarkH2Calls(b, startProxy(b, HTTP, h2FixedServer(b)).Addr()) })
	b.Run("tcp", func(b *testing.B) { benchmarkH2Calls(b, startProxy(b, TCP, h2FixedServer(b)).Addr()) })
	b.Run("http, rules that never hit", func(b *testing.B) {
		p := startProxy(b, HTTP, h2FixedServer(b))
		add(b, p, Rule{Name: "a", Latency: &Latency{Delay: time.Second}})
		add(b, p, Rule{Name: "b", Error: &Error{Status: 500}})
		add(b, p, Rule{Name: "c", Bandwidth: &Bandwidth{BytesPerS: 1000}})
		benchmarkH2Calls(b, p.Addr())
	})
}

// BenchmarkH2Download is 16 MiB on one stream, to net/http from net/http.
func BenchmarkH2Download(b *testing.B) {
	large := make([]byte, 16<<20)
	upstream := startH2(b, func(w http.ResponseWriter, r *http.Request) { w.Write(large) })
	for _, through := range []string{"direct", "http"} {
		b.Run(through, func(b *testing.B) {
			address := upstream
			if through == "http" {
				address = startProxy(b, HTTP, upstream).Addr()
			}
			c := h2Client(b)
			b.SetBytes(int64(len(large)))
			for b.Loop() {
				a, err := c.Get("http://" + address)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, a.Body); n != int64(len(large)) || err != nil {
					b.Fatal(n, err)
				}
				a.Body.Close()
			}
		})
	}
}
