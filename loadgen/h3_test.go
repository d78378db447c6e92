//go:build http3

package loadgen

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// http3Server is quic-go's server, on a port of its own.
func http3Server(t *testing.T, config *tls.Config, handle http.HandlerFunc) (s *http3.Server, address string) {
	t.Helper()
	socket := udpSocket(t, "127.0.0.1:0")
	return serveHTTP3(t, socket, config, handle), socket.LocalAddr().String()
}

func serveHTTP3(t *testing.T, socket net.PacketConn, config *tls.Config, handle http.HandlerFunc) *http3.Server {
	s := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(config), Handler: handle,
		QUICConfig: &quic.Config{MaxIncomingStreams: 1000},
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(socket) }) // it ends when it is closed
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
		socket.Close()
	})
	return s
}

func udpSocket(t *testing.T, address string) net.PacketConn {
	t.Helper()
	quietly()
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// TestHTTP3: requests arrive as HTTP/1.1 would have them, over as many connections
// and streams as were asked for.
func TestHTTP3(t *testing.T) {
	client, server := trusted(t)
	var wrong atomic.Value
	var callers sync.Map
	_, address := http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		callers.Store(r.RemoteAddr, true)
		if r.ProtoMajor != 3 || r.Host != "shop.example" || r.Header.Get("X-Id") == "" || r.Header.Get("Traceparent") == "" ||
			r.ContentLength != int64(len(body)) || !strings.HasPrefix(string(body), `{"user":"u-`) || r.Header.Get("User-Agent") != "chaosctl" {
			wrong.Store(fmt.Sprintf("%s %s %s %v %q", r.Proto, r.Host, r.URL, r.Header, body))
		}
		w.WriteHeader(201)
		fmt.Fprint(w, "made")
	})
	sums := newSums()
	c := sums.listen(Config{Requests: 300, TLS: client, Until: time.Minute, Resolve: func() string { return address }, Spec: Spec{
		Name: "s", To: "shop", Protocol: H3, Users: ptr(12), Streams: ptr(4), Connections: ptr(3),
		Headers: map[string]string{"Host": "shop.example", "X-Id": "{{seq}}"}, Request: &Request{Method: "POST", Path: "/checkout", Body: `{"user":"{{user}}"}`},
	}})
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	sums.balance(t)
	n := 0
	callers.Range(func(any, any) bool { n++; return true })
	if sums.Outcomes["201"] != 300 || sums.Connects != 3 || n != 3 || sums.Handshake.Count() != 3 || sums.Connect.Count() != 3 || sums.Handshake.Max() <= sums.Connect.Min() {
		t.Errorf("outcomes %v on %d connections, %d seen by the server; handshakes %v to %v", sums.Outcomes, sums.Connects, n, sums.Handshake.Min(), sums.Handshake.Max())
	}
	for _, r := range sums.results {
		if r.Received != 4 || r.Sent < 100 || r.URL != "https://shop/checkout" {
			t.Fatalf("told of %+v", r)
		}
	}
	if w := wrong.Load(); w != nil {
		t.Error("one request was ", w)
	}
}

// TestHTTP3SameRequests: request number k is the same in HTTP/1.1 and in HTTP/3.
func TestHTTP3SameRequests(t *testing.T) {
	client, server := trusted(t)
	var mu sync.Mutex
	seen := map[int][]string{}
	handle := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var text strings.Builder
		fmt.Fprintf(&text, "%s %s %s %d %s\n", r.Method, r.Host, r.URL, max(r.ContentLength, 0), body)
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			fmt.Fprintf(&text, "%s: %q\n", name, r.Header[name])
		}
		mu.Lock()
		defer mu.Unlock()
		seen[r.ProtoMajor] = append(seen[r.ProtoMajor], text.String())
	}
	_, plain := http2Server(t, false, handle)
	_, address := http3Server(t, server, handle)
	spec := Spec{Name: "s", To: "shop", Users: ptr(1), Headers: map[string]string{"Host": "shop.example"}, Requests: []Request{
		{Method: "GET", Path: "/items/{{int 1 100}}?q={{word}}"},
		{Method: "PUT", Path: "/", Body: "{{words 5}}", Headers: map[string]string{"Cookie": "a=b", "Accept": "{{pick \"a\" \"b\"}}"}},
		{Method: "HEAD", Path: "/head", Auth: &Auth{Basic: &Basic{User: "{{user}}", Password: "secret"}}},
		{Method: "POST", Path: "/empty"},
		{Method: "GET", Path: "/fixed", Headers: map[string]string{"Cache-Control": "no-cache"}},
		{Method: "PATCH", Path: "/", Body: strings.Repeat("{{uuid}}", 200)},
	}}
	for _, c := range []Config{{Spec: spec}, {Spec: spec, TLS: client}} {
		to := plain
		if c.TLS != nil {
			c.Spec.Protocol, to = H3, address
		}
		c.Requests, c.Seed, c.Engine = 100, 7, General
		var s seenBy
		s.run(t, c, to)
		s.only(t, "200", 100)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen[1], seen[3]) {
		for i := range seen[1] {
			if i < len(seen[3]) && seen[1][i] != seen[3][i] {
				t.Fatalf("request %d is in HTTP/1.1\n%s\nand in HTTP/3\n%s", i, seen[1][i], seen[3][i])
			}
		}
		t.Fatalf("%d and %d requests", len(seen[1]), len(seen[3]))
	}
}

// TestHTTP3Large: bodies larger than the windows pass both ways, and an answer that
// does not wait for the request is one.
func TestHTTP3Large(t *testing.T) {
	const size, up = 9 << 20, 1 << 20
	client, server := trusted(t)
	_, address := http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.WriteHeader(413)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		if n != up || err != nil {
			http.Error(w, fmt.Sprint(n, err), 500)
			return
		}
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(200)
		w.Write(bytes.Repeat([]byte("x"), size))
		w.Header().Set("X-Sum", "1")
	})
	var s seenBy
	body := strings.Repeat("y", up)
	s.run(t, Config{Requests: 8, TLS: client, Spec: Spec{
		Name: "s", To: "shop", Protocol: H3, Users: ptr(2), Streams: ptr(2), Order: Listed,
		Requests: []Request{{Method: "POST", Path: "/", Body: body}, {Method: "POST", Path: "/early", Body: body}},
	}}, address)
	if want := map[string]int{"200": 4, "413": 4}; !maps.Equal(s.outcomes, want) {
		t.Errorf("%v (%v), want %v", s.outcomes, s.details, want)
	}
	for _, r := range s.results {
		if r.Status == 200 && (r.Received != size || r.Sent < up) {
			t.Errorf("%d bytes received, %d sent", r.Received, r.Sent)
		}
	}
}

// TestHTTP3Answers: interim answers, HEAD, trailers, statuses without a body.
func TestHTTP3Answers(t *testing.T) {
	client, server := trusted(t)
	_, address := http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(103)
			w.WriteHeader(200)
			io.WriteString(w, "hello")
		case "/none":
			w.WriteHeader(204)
		case "/same":
			w.WriteHeader(304)
		case "/head":
			w.Header().Set("Content-Length", "1000")
		}
	})
	var s seenBy
	s.run(t, Config{Requests: 40, TLS: client, Spec: Spec{Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Order: Listed, Requests: []Request{
		{Method: "GET", Path: "/early"}, {Method: "GET", Path: "/none"}, {Method: "GET", Path: "/same"}, {Method: "HEAD", Path: "/head"},
	}}}, address)
	if want := map[string]int{"200": 20, "204": 10, "304": 10}; !maps.Equal(s.outcomes, want) {
		t.Errorf("%v (%v), want %v", s.outcomes, s.details, want)
	}
	if s.all.Connects != 1 {
		t.Errorf("%d connections", s.all.Connects)
	}
}

// TestHTTP3Session: cookies, captures, checks and redirects over HTTP/3.
func TestHTTP3Session(t *testing.T) {
	client, server := trusted(t)
	_, address := http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "s-1"})
			fmt.Fprint(w, `{"id": "o-7"}`)
		case "/orders/o-7":
			if c, err := r.Cookie("session"); err != nil || c.Value != "s-1" {
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, "/final", http.StatusFound)
		case "/final":
			fmt.Fprint(w, "done")
		default:
			w.WriteHeader(404)
		}
	})
	var id JSONPath
	if err := id.UnmarshalText([]byte("$.id")); err != nil {
		t.Fatal(err)
	}
	var s seenBy
	s.run(t, Config{Requests: 10, TLS: client, Spec: Spec{Name: "s", To: "shop", Protocol: H3, Users: ptr(2), Steps: []SessionStep{
		{Method: "POST", Path: "/login", Capture: map[string]Capture{"order": {JSON: &id}}},
		{Method: "GET", Path: "/orders/{{.order}}", Redirects: ptr(2), Check: checks(t, `body == "done"`)},
	}}}, address)
	s.only(t, "200", 20)
}

// TestHTTP3Agrees: against a server whose latency follows a law, counts and
// percentiles are those of HTTP/1.1, within what the histograms round.
func TestHTTP3Agrees(t *testing.T) {
	client, server := trusted(t)
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
	handle := func(w http.ResponseWriter, r *http.Request) {
		status, takes := law(r.URL.Path)
		time.Sleep(takes)
		w.WriteHeader(status)
		io.WriteString(w, "ok")
	}
	_, plain := http2Server(t, false, handle)
	_, address := http3Server(t, server, handle)
	const n = 200
	for _, p := range []Protocol{HTTP1, H3} {
		s := newSums()
		c := s.listen(Config{
			Spec:   Spec{Name: "s", To: "peer", Protocol: p, Rate: perSecond(500), Connections: ptr(20), Request: &Request{Method: "GET", Path: "/{{seq}}"}, Timeout: ptr(time.Minute)},
			Engine: General, Seed: 1, Start: s.start, Until: 400 * time.Millisecond, Resolve: func() string { return plain },
		})
		if p == H3 {
			c.TLS, c.Spec.Streams, c.Resolve = client, ptr(5), func() string { return address }
		}
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.DueCount != n || s.Sent != n || s.OK != n*9/10 || s.Outcomes["503"] != n/10 || len(s.windows) != 4 {
			t.Errorf("%s: %d due, %d sent, outcomes %v in %d windows", p, s.DueCount, s.Sent, s.Outcomes, len(s.windows))
		}
		var latencies []time.Duration
		for _, r := range s.results {
			status, takes := law(r.URL[strings.Index(r.URL, "//peer")+len("//peer"):])
			if r.Status != status || r.Latency < takes || r.Received != 2 {
				t.Errorf("%s: %s got %d and %d bytes after %v, the law says %d and 2 after %v", p, r.URL, r.Status, r.Received, r.Latency, status, takes)
			}
			if r.OK {
				latencies = append(latencies, r.Latency)
			}
		}
		slices.Sort(latencies)
		for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
			exact := latencies[max(int(math.Ceil(q*float64(len(latencies))))-1, 0)]
			if got := s.OKLatency.Quantile(q); math.Abs(float64(got-exact)) > float64(exact)/1000+float64(time.Microsecond) {
				t.Errorf("%s: p%g is told as %v, the results say %v", p, 100*q, got, exact)
			}
		}
		if s.Service.Mean() > s.OKLatency.Mean() || s.FirstByte.Mean() > s.Service.Mean() || s.Service.Min() > s.OKLatency.Min() {
			t.Errorf("%s: on average a first byte after %v, service in %v, latency %v", p, s.FirstByte.Mean(), s.Service.Mean(), s.OKLatency.Mean())
		}
	}
}

// TestHTTP3TLS: what keeps the two from agreeing on TLS is told as that, and a new
// connection goes on with an earlier one's session unless that is not wanted.
func TestHTTP3TLS(t *testing.T) {
	client, server := trusted(t)
	mutual := server.Clone()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, once.authority.pool
	known := client.Clone()
	known.Certificates = []tls.Certificate{once.peer}
	unchecked := &tls.Config{InsecureSkipVerify: true, ServerName: "shop.example"}
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		want, detail   string
	}{
		{"nobody trusted signed it", &tls.Config{RootCAs: x509.NewCertPool()}, server, "tls", "unknown authority"},
		{"of another name", &tls.Config{RootCAs: once.authority.pool, ServerName: "shop.example"}, server, "tls", "not shop.example"},
		{"the client has none", client, mutual, "tls", "certificate"},
		{"the client is known", known, mutual, "204", ""},
		{"anybody will do", unchecked, server, "204", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, address := http3Server(t, c.server, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
			var s seenBy
			s.run(t, Config{Requests: 3, TLS: c.client, Spec: Spec{
				Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Request: &Request{Method: "GET", Path: "/"},
			}}, address)
			s.only(t, c.want, 3)
			if !strings.Contains(s.details[c.want], c.detail) {
				t.Errorf("detail is %q, want %q", s.details[c.want], c.detail)
			}
		})
	}
	for _, resume := range []bool{true, false} {
		var conns sync.Map
		_, address := http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
			conns.Store(r.RemoteAddr, r.TLS.DidResume)
			w.WriteHeader(204)
		})
		config := client.Clone()
		config.SessionTicketsDisabled = !resume
		config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		if !resume {
			config.ClientSessionCache = nil
		}
		resumed := 0
		for range 3 {
			s := newSums()
			c := s.listen(Config{Requests: 5, TLS: config, Until: time.Minute, Resolve: func() string { return address }, Spec: Spec{
				Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Request: &Request{Method: "GET", Path: "/"},
			}})
			if err := Run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			resumed += s.Resumed
		}
		if want := map[bool]int{true: 2}[resume]; resumed != want {
			t.Errorf("resume %t: %d connections did, want %d", resume, resumed, want)
		}
	}
}

// TestHTTP3Moves: a server that goes away, gracefully or not, and comes back at the
// same port: its requests end, and later ones find it.
func TestHTTP3Moves(t *testing.T) {
	client, server := trusted(t)
	ok := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }
	t.Run("gracefully", func(t *testing.T) {
		// The first server says GOAWAY amid requests; nobody fails for it.
		var first *http3.Server
		var served atomic.Int64
		var mu sync.Mutex
		var leaving sync.WaitGroup
		_, next := http3Server(t, server, ok)
		address := atomic.Pointer[string]{}
		first, old := http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
			if served.Add(1) == 20 {
				mu.Lock()
				address.Store(&next)
				mu.Unlock()
				leaving.Go(func() {
					if err := first.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			w.WriteHeader(200)
		})
		address.Store(&old)
		s := newSums()
		c := s.listen(Config{Requests: 100, TLS: client, Until: time.Minute, Resolve: func() string { return *address.Load() }, Spec: Spec{
			Name: "s", To: "shop", Protocol: H3, Users: ptr(4), Streams: ptr(4), Connections: ptr(1), Request: &Request{Method: "GET", Path: "/"},
		}})
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		leaving.Wait()
		if s.OK != 100 || s.Connects != 2 || s.Outcomes["204"] < 50 {
			t.Errorf("outcomes %v on %d connections, samples %v", s.Outcomes, s.Connects, s.samples)
		}
	})
	t.Run("refused", func(t *testing.T) {
		socket := udpSocket(t, "127.0.0.1:0")
		address := socket.LocalAddr().String()
		socket.Close()
		var s seenBy
		s.run(t, Config{Requests: 3, TLS: client, Spec: Spec{
			Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Request: &Request{Method: "GET", Path: "/"},
		}}, address)
		s.only(t, "refused", 3)
		if !strings.Contains(s.details["refused"], "dial udp "+address+": connection refused") {
			t.Errorf("%q", s.details["refused"])
		}
	})
	t.Run("killed", func(t *testing.T) {
		// Its socket is gone without a word, as when its process is killed; then it is back.
		socket := udpSocket(t, "127.0.0.1:0")
		address := socket.LocalAddr().String()
		dead := make(chan struct{})
		var served atomic.Int64
		serveHTTP3(t, socket, server, func(w http.ResponseWriter, r *http.Request) {
			if served.Add(1) == 5 {
				socket.Close()
				close(dead)
				return
			}
			w.WriteHeader(204)
		})
		var back atomic.Bool
		resolve := func() string {
			select {
			case <-dead:
				if back.CompareAndSwap(false, true) {
					return address // once while nobody listens
				}
				if back.Load() && served.Add(1000) < 2000 {
					serveHTTP3(t, udpSocket(t, address), server, ok)
				}
			default:
			}
			return address
		}
		s := newSums()
		c := s.listen(Config{Requests: 20, TLS: client, Until: time.Minute, Resolve: resolve, Spec: Spec{
			Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Request: &Request{Method: "GET", Path: "/"},
		}})
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if want := map[string]int{"204": 18, "reset": 1, "refused": 1}; !maps.Equal(s.Outcomes, want) {
			t.Errorf("outcomes %v, want %v; samples %+v", s.Outcomes, want, s.samples)
		}
	})
}

// TestHTTP3Queues: what finds no free stream is queued, its waiting part of its
// latency, and dropped if none becomes free in time.
func TestHTTP3Queues(t *testing.T) {
	client, server := trusted(t)
	for _, c := range []struct {
		takes, timeout time.Duration
		requests       int
		want           map[string]int
		queued         int
	}{
		{20 * time.Millisecond, time.Minute, 8, map[string]int{"200": 8}, 6},
		{time.Hour, time.Second, 2, map[string]int{"timeout": 1, "dropped": 1}, 1},
	} {
		socket := udpSocket(t, "127.0.0.1:0")
		over := make(chan struct{})
		s := &http3.Server{
			TLSConfig: http3.ConfigureTLSConfig(server), QUICConfig: &quic.Config{MaxIncomingStreams: 1},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(c.takes):
				case <-over:
				}
			}),
		}
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(socket) })
		sums := newSums()
		config := sums.listen(Config{Requests: uint64(c.requests), TLS: client, Until: time.Minute, Resolve: socket.LocalAddr().String, Spec: Spec{
			Name: "s", To: "shop", Protocol: H3, Users: ptr(4), Streams: ptr(4), Connections: ptr(1), Timeout: &c.timeout, Request: &Request{Method: "GET", Path: "/"},
		}})
		if err := Run(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		close(over)
		s.Close()
		serving.Wait()
		socket.Close()
		if !maps.Equal(sums.Outcomes, c.want) || sums.Queued < c.queued || sums.Connects != 1 {
			t.Errorf("outcomes %v, %d queued on %d connections; want %v, %d, 1; samples %+v", sums.Outcomes, sums.Queued, sums.Connects, c.want, c.queued, sums.samples)
		}
	}
}

// TestHTTP3Cut: the end of the run ends requests in flight, handshakes and all.
func TestHTTP3Cut(t *testing.T) {
	client, server := trusted(t)
	for _, silent := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		var address string
		over := make(chan struct{})
		if silent {
			socket := udpSocket(t, "127.0.0.1:0")
			defer socket.Close()
			address = socket.LocalAddr().String()
			var reading sync.WaitGroup
			reading.Go(func() {
				if _, _, err := socket.ReadFrom(make([]byte, 2000)); err == nil {
					cancel()
				}
			})
			defer reading.Wait()
		} else {
			var under atomic.Int64
			_, address = http3Server(t, server, func(w http.ResponseWriter, r *http.Request) {
				if under.Add(1) == 3 {
					cancel()
				}
				<-over
			})
		}
		sums := newSums()
		c := sums.listen(Config{TLS: client, Until: time.Minute, Resolve: func() string { return address }, Spec: Spec{
			Name: "s", To: "shop", Protocol: H3, Users: ptr(3), Streams: ptr(3), Timeout: ptr(time.Minute), Request: &Request{Method: "GET", Path: "/"},
		}})
		if err := Run(ctx, c); err != context.Canceled {
			t.Error(err)
		}
		close(over)
		if n := sums.Outcomes["canceled"]; n == 0 || n != sums.DueCount || !silent && n != 3 {
			t.Errorf("outcomes %v of %d due, want all of them canceled", sums.Outcomes, sums.DueCount)
		}
		if took := time.Since(sums.start); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

// TestHTTP3Connections: a connection is kept as long as it is allowed to, and nobody
// fails for its end.
func TestHTTP3Connections(t *testing.T) {
	client, server := trusted(t)
	for name, c := range map[string]struct {
		spec Spec
		want map[int]int // connections by how many requests they carried
	}{
		"one":      {Spec{Users: ptr(1), Connection: &Connection{Requests: 1}}, map[int]int{1: 20}},
		"seven":    {Spec{Users: ptr(1), Connection: &Connection{Requests: 7}}, map[int]int{7: 2, 6: 1}},
		"an old":   {Spec{Users: ptr(1), Connection: &Connection{Lifetime: 1}}, map[int]int{1: 20}},
		"a young":  {Spec{Users: ptr(1), Connection: &Connection{Lifetime: time.Hour}}, map[int]int{20: 1}},
		"streams":  {Spec{Users: ptr(8), Connections: ptr(1), Streams: ptr(7), Connection: &Connection{Requests: 7}}, map[int]int{7: 2, 6: 1}},
		"when due": {Spec{Rate: perSecond(1000), Connections: ptr(1), Streams: ptr(4), Connection: &Connection{Requests: 7}}, map[int]int{7: 2, 6: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			asked := map[string]int{}
			_, address := http3Server(t, server, func(_ http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked[r.RemoteAddr]++
			})
			c.spec.Name, c.spec.To, c.spec.Protocol, c.spec.Request = "s", "shop", H3, &Request{Method: "GET", Path: "/"}
			s := newSums()
			if err := Run(t.Context(), s.listen(Config{Spec: c.spec, Requests: 20, TLS: client, Until: time.Minute, Start: s.start, Resolve: func() string { return address }})); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			counts := map[int]int{}
			mu.Lock()
			defer mu.Unlock()
			for _, n := range asked {
				counts[n]++
			}
			if s.OK != 20 || !maps.Equal(counts, c.want) || s.Connects != len(asked) {
				t.Errorf("outcomes %v (%+v) on %d connections, by their requests %v; want %v", s.Outcomes, s.samples, s.Connects, counts, c.want)
			}
		})
	}
}

// TestHTTP3Idle: a connection that nobody uses is closed, and the server is told.
func TestHTTP3Idle(t *testing.T) {
	client, server := trusted(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	closed := make(chan struct{})
	socket := udpSocket(t, "127.0.0.1:0")
	s := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(server), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			context.AfterFunc(c.Context(), func() { close(closed) })
			return ctx
		},
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = s.Serve(socket) // it ends when it is closed
	})
	serving.Go(func() {
		select {
		case <-closed:
		case <-ctx.Done():
		}
		cancel()
	})
	sums := newSums()
	_ = Run(ctx, sums.listen(Config{TLS: client, Until: time.Hour, Start: sums.start, Resolve: func() string { return socket.LocalAddr().String() }, Spec: Spec{
		Name: "s", To: "shop", Protocol: H3, Users: ptr(1), Think: time.Hour, Connection: &Connection{Idle: 50 * time.Millisecond}, Request: &Request{Method: "GET", Path: "/"},
	}})) // the end of ctx
	s.Close()
	serving.Wait()
	socket.Close()
	if sums.OK != 1 || !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("outcomes %v; the connection ended by itself: %t", sums.Outcomes, errors.Is(ctx.Err(), context.Canceled))
	}
}
