package loadgen

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The benchmarks' server is a process of its own, so that the CPU time of this
// one is the generator's alone. It is this test binary, told so by a variable.
const benchServer = "LOADGEN_BENCH_SERVER"

// serveBench answers everything with 200, until its standard input ends; over TLS
// where a listener has that.
func serveBench() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	if os.Getenv(benchServer) == "tls" {
		_, server := trusted(&testing.B{})
		l = tls.NewListener(l, server)
	}
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buffer := make([]byte, 4096)
				answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n" + strings.Repeat("x", 20))
				for {
					n, err := c.Read(buffer)
					if err != nil {
						return
					}
					// The generator sends a request in one write: it arrives whole.
					if bytes.Contains(buffer[:n], []byte("\r\n\r\n")) {
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func startBenchServer(b *testing.B, kind string) (address string) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchServer+"="+kind)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchRun(b *testing.B, w way, address string, s Spec, length time.Duration) (sent Window, cpu time.Duration) {
	b.Helper()
	s.Name, s.To = "bench", "server"
	if s.Request == nil && s.Steps == nil {
		s.Request = &Request{Method: "POST", Path: "/checkout", Body: `{"user":"{{user}}","items":[{"product":"{{product}}","quantity":{{int 1 3}}}]}`}
	}
	sum := newSums()
	c := sum.listen(Config{Spec: s, Seed: 1, Engine: w.engine, TLS: w.tls, Start: time.Now(), Until: length, Resolve: func() string { return address }})
	c.OnResult = nil
	before := cpuTime(b)
	if err := Run(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	if sum.OK != sum.DueCount {
		b.Fatalf("outcomes %v", sum.Outcomes)
	}
	return sum.Window, cpuTime(b) - before
}

// forEngines runs f with both, plain and over TLS.
func forEngines(b *testing.B, f func(b *testing.B, w way, address string)) {
	for kind, client := range map[string]*tls.Config{"plain": nil, "tls": {InsecureSkipVerify: true}} {
		address := startBenchServer(b, kind)
		for _, engine := range []Engine{Fast, General} {
			b.Run(engine.String()+"-"+kind, func(b *testing.B) { f(b, way{engine: engine, tls: client}, address) })
		}
	}
}

// CPU time of the generator per request, 64 users without think time, answers on
// loopback from another process: a templated request, and one that is always the
// same.
func BenchmarkClosedLoop(b *testing.B) {
	forEngines(b, func(b *testing.B, way way, address string) {
		for name, r := range map[string]*Request{"templated": nil, "static": {Method: "GET", Path: "/"}} {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					w, cpu := benchRun(b, way, address, Spec{Users: ptr(64), Request: r}, 2*time.Second)
					b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(w.OK), "cpu-µs/req")
					b.ReportMetric(float64(w.OK)/2, "req/s")
					b.ReportMetric(float64(w.OKLatency.Quantile(0.99).Microseconds()), "p99-µs")
				}
			})
		}
	})
}

// How much later than due requests are sent.
func BenchmarkOpenLoop(b *testing.B) {
	forEngines(b, func(b *testing.B, way way, address string) {
		for _, rate := range []float64{200, 2000, 10_000, 20_000} {
			b.Run(fmt.Sprintf("%.0f-per-s", rate), func(b *testing.B) {
				for b.Loop() {
					w, cpu := benchRun(b, way, address, Spec{Rate: perSecond(rate)}, 2*time.Second)
					b.ReportMetric(float64(w.Lag.Quantile(0.5).Microseconds()), "lag-p50-µs")
					b.ReportMetric(float64(w.Lag.Quantile(0.99).Microseconds()), "lag-p99-µs")
					b.ReportMetric(float64(w.OKLatency.Quantile(0.99).Microseconds()), "p99-µs")
					b.ReportMetric(float64(cpu)/float64(2*time.Second)*100, "cpu-%")
					b.ReportMetric(float64(w.Late+w.Queued), "late+queued")
					b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(w.OK), "cpu-µs/req")
				}
			})
		}
	})
}

func BenchmarkRender(b *testing.B) {
	for name, body := range map[string]string{
		"static":   `{"user":"u-1"}`,
		"calls":    `{"user":"{{user}}","items":[{"product":"{{product}}","quantity":{{int 1 3}}}]}`,
		"executed": `{{$u := user}}{"user":"{{$u}}","items":[{"product":"{{product}}","quantity":{{int 1 3}}}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			s := compile(Spec{Request: &Request{Method: "POST", Path: "/checkout", Body: body}}, 1, func(path, format string, args ...any) { b.Fatalf(format, args...) })
			var dst, scratch []byte
			var err error
			seq := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				seq++
				if dst, scratch, err = s.appendRequest(dst[:0], scratch, seq, "127.0.0.1:80"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// CPU time per step of a session that captures, checks and uses what it captured,
// to hold against BenchmarkClosedLoop's on the same machine.
func BenchmarkSessions(b *testing.B) {
	address := startBenchServer(b, "plain")
	for b.Loop() {
		w, cpu := benchRun(b, way{}, address, Spec{Users: ptr(64), Steps: []SessionStep{
			{Method: "POST", Path: "/checkout", Body: `{"user":"{{user}}"}`, Check: checks(b, "status == 200"), Capture: map[string]Capture{"order": ofRegexp(b, "x+")}},
			{Method: "GET", Path: "/orders/{{.order}}", Check: checks(b, `body contains "{{.order}}"`)},
			{Method: "GET", Path: "/healthz"},
		}}, 2*time.Second)
		b.ReportMetric(float64(cpu.Microseconds())/float64(w.OK), "cpu-µs/step")
		b.ReportMetric(float64(w.OK)/2, "steps/s")
	}
}
