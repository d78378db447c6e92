package loadgen

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// http2Server is net/http's server for HTTP/2 without TLS, or with it.
func http2Server(t *testing.T, secure bool, handle http.HandlerFunc) (s *httptest.Server, address string) {
	t.Helper()
	s = httptest.NewUnstartedServer(handle)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	if secure {
		s.EnableHTTP2 = true
		s.Config.Protocols.SetHTTP2(true)
		s.StartTLS()
	} else {
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, s.Listener.Addr().String()
}

// seenBy is a stream's windows added up.
type seenBy struct {
	all      Window
	outcomes map[string]int
	details  map[string]string
	results  []Result
}

// run sends a stream and adds up what it is told.
func (s *seenBy) run(t *testing.T, c Config, address string) {
	t.Helper()
	s.outcomes, s.details = map[string]int{}, map[string]string{}
	s.all = Window{OKLatency: hdr.New(), Service: hdr.New()}
	c.Resolve = func() string { return address }
	if c.Until == 0 {
		c.Until = time.Minute
	}
	c.OnWindow = func(w Window) {
		s.all.DueCount += w.DueCount
		s.all.Sent += w.Sent
		s.all.OK += w.OK
		s.all.Failed += w.Failed
		s.all.Queued += w.Queued
		s.all.Dropped += w.Dropped
		s.all.Connects += w.Connects
		s.all.OKLatency.Merge(w.OKLatency)
		s.all.Service.Merge(w.Service)
		for name, n := range w.Outcomes {
			s.outcomes[name] += n
		}
	}
	c.OnSample = func(sample Sample) { s.details[sample.Outcome] = sample.Detail }
	c.OnResult = func(r Result) { s.results = append(s.results, r) }
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func (s *seenBy) only(t *testing.T, outcome string, n int) {
	t.Helper()
	if want := map[string]int{outcome: n}; !maps.Equal(s.outcomes, want) {
		t.Errorf("outcomes are %v (%v), want %v", s.outcomes, s.details, want)
	}
}

// TestHTTP2Plain: requests arrive as HTTP/1.1 would have them, over as many
// connections and streams as were asked for.
func TestHTTP2Plain(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			var wrong atomic.Value
			server, address := http2Server(t, secure, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.ProtoMajor != 2 || r.Host != "shop.example" || r.Header.Get("X-Id") == "" || r.Header.Get("Traceparent") == "" ||
					r.ContentLength != int64(len(body)) || !strings.HasPrefix(string(body), `{"user":"u-`) || r.Header.Get("User-Agent") != "chaosctl" {
					wrong.Store(fmt.Sprintf("%s %s %s %v %q", r.Proto, r.Host, r.URL, r.Header, body))
				}
				w.WriteHeader(201)
				fmt.Fprint(w, "made")
			})
			users, streams, connections := 12, 4, 3
			c := Config{Requests: 300, Spec: Spec{
				Name: "s", To: "shop", Protocol: H2C, Users: &users, Streams: &streams, Connections: &connections,
				Headers: map[string]string{"Host": "shop.example", "X-Id": "{{seq}}"}, Request: &Request{Method: "POST", Path: "/checkout", Body: `{"user":"{{user}}"}`},
			}}
			if secure {
				c.Spec.Protocol = H2
				c.TLS = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				c.TLS.ServerName = "example.com"
			}
			var s seenBy
			s.run(t, c, address)
			s.only(t, "201", 300)
			if s.all.Connects != 3 || s.all.DueCount != 300 || s.all.Sent != 300 {
				t.Errorf("%d connections, %d due, %d sent", s.all.Connects, s.all.DueCount, s.all.Sent)
			}
			if w := wrong.Load(); w != nil {
				t.Error("one request was ", w)
			}
		})
	}
}

// TestHTTP2SameRequests: request number k is the same in HTTP/1.1 and in HTTP/2.
func TestHTTP2SameRequests(t *testing.T) {
	var mu sync.Mutex
	seen := map[int][]string{}
	_, address := http2Server(t, false, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := r.Header.Clone()
		var text strings.Builder
		fmt.Fprintf(&text, "%s %s %s %d %s\n", r.Method, r.Host, r.URL, r.ContentLength, body)
		for _, name := range slices.Sorted(maps.Keys(h)) {
			fmt.Fprintf(&text, "%s: %q\n", name, h[name])
		}
		mu.Lock()
		defer mu.Unlock()
		seen[r.ProtoMajor] = append(seen[r.ProtoMajor], text.String())
	})
	spec := Spec{Name: "s", To: "shop", Users: ptr(1), Requests: []Request{
		{Method: "GET", Path: "/items/{{int 1 100}}?q={{word}}"},
		{Method: "PUT", Path: "/", Body: "{{words 5}}", Headers: map[string]string{"Cookie": "a=b", "Accept": "{{pick \"a\" \"b\"}}"}},
		{Method: "HEAD", Path: "/head", Auth: &Auth{Basic: &Basic{User: "{{user}}", Password: "secret"}}},
		{Method: "POST", Path: "/empty"},
		{Method: "GET", Path: "/fixed"},
	}}
	for _, engine := range []Engine{General, Auto} {
		mu.Lock()
		clear(seen)
		mu.Unlock()
		for _, p := range []Protocol{HTTP1, H2C} {
			spec.Protocol = p
			var s seenBy
			s.run(t, Config{Spec: spec, Requests: 100, Seed: 7, Engine: engine}, address)
			s.only(t, "200", 100)
		}
		mu.Lock()
		if !slices.Equal(seen[1], seen[2]) {
			for i := range seen[1] {
				if i < len(seen[2]) && seen[1][i] != seen[2][i] {
					t.Fatalf("request %d is in HTTP/1.1\n%s\nand in HTTP/2\n%s", i, seen[1][i], seen[2][i])
				}
			}
			t.Fatalf("%d and %d requests", len(seen[1]), len(seen[2]))
		}
		mu.Unlock()
	}
}

// TestHTTP2Large: bodies larger than every window pass both ways.
func TestHTTP2Large(t *testing.T) {
	const size = 9 << 20
	_, address := http2Server(t, false, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if n != 1<<20 || err != nil {
			http.Error(w, fmt.Sprint(n, err), 500)
			return
		}
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(200)
		w.Write(bytes.Repeat([]byte("x"), size))
		w.Header().Set("X-Sum", "1")
	})
	var s seenBy
	s.run(t, Config{Requests: 12, Spec: Spec{
		Name: "s", To: "shop", Protocol: H2C, Users: ptr(4), Streams: ptr(4), Request: &Request{Method: "POST", Path: "/", Body: strings.Repeat("y", 1<<20)},
	}}, address)
	s.only(t, "200", 12)
	for _, r := range s.results {
		if r.Received != size || r.Sent < 1<<20 {
			t.Errorf("%d bytes received, %d sent", r.Received, r.Sent)
		}
	}
}

// TestHTTP2Answers: interim answers, HEAD, trailers, statuses without a body.
func TestHTTP2Answers(t *testing.T) {
	_, address := http2Server(t, false, func(w http.ResponseWriter, r *http.Request) {
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
	s.run(t, Config{Requests: 40, Spec: Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(1), Order: Listed, Requests: []Request{
		{Method: "GET", Path: "/early"}, {Method: "GET", Path: "/none"}, {Method: "GET", Path: "/same"}, {Method: "HEAD", Path: "/head"},
	}}}, address)
	if want := map[string]int{"200": 20, "204": 10, "304": 10}; !maps.Equal(s.outcomes, want) {
		t.Errorf("%v (%v), want %v", s.outcomes, s.details, want)
	}
	if s.all.Connects != 1 {
		t.Errorf("%d connections", s.all.Connects)
	}
}

// TestHTTP2Session: cookies, captures, checks and redirects over HTTP/2.
func TestHTTP2Session(t *testing.T) {
	_, address := http2Server(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			http.SetCookie(w, &http.Cookie{Name: "id", Value: "42"})
			w.WriteHeader(201)
			io.WriteString(w, `{"order":"o-7","status":"completed"}`)
		case "/orders/o-7":
			if c, err := r.Cookie("id"); err != nil || c.Value != "42" {
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/moved":
			http.Redirect(w, r, "/there", http.StatusSeeOther)
		case "/there":
			if r.Method != "GET" || r.ContentLength > 0 {
				w.WriteHeader(400)
				return
			}
			io.WriteString(w, "found")
		default:
			w.WriteHeader(404)
		}
	})
	var order JSONPath
	if err := order.UnmarshalText([]byte("$.order")); err != nil {
		t.Fatal(err)
	}
	var s seenBy
	s.run(t, Config{Requests: 10, Spec: Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(2), Streams: ptr(2), Steps: []SessionStep{
		{Method: "POST", Path: "/login", Check: checks(t, "status == 201", `json $.status == "completed"`), Capture: map[string]Capture{"order": {JSON: &order}}},
		{Method: "GET", Path: "/orders/{{.order}}", Redirects: ptr(1), Check: checks(t, `body == "found"`, "header Content-Length exists")},
		{Method: "POST", Path: "/moved", Body: "{{word}} {{word}}", Redirects: ptr(1), Check: checks(t, `body == "found"`)},
	}}}, address)
	if want := map[string]int{"200": 20, "201": 10}; !maps.Equal(s.outcomes, want) {
		t.Errorf("%v (%v), want %v", s.outcomes, s.details, want)
	}
}

// TestHTTP2FewStreams: what the server takes no stream for is queued, not sent;
// and what has queued too long is dropped.
func TestHTTP2FewStreams(t *testing.T) {
	var under, most atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := under.Add(1)
		defer under.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if r.URL.Path == "/never" {
			<-r.Context().Done()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2}
	server.Start()
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	spec := Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(8), Connections: ptr(1), Streams: ptr(8), Request: &Request{Method: "GET", Path: "/"}}
	var s seenBy
	s.run(t, Config{Requests: 80, Spec: spec}, address)
	s.only(t, "200", 80)
	if most.Load() > 2 || s.all.Connects != 1 || s.all.Queued < 20 || s.all.Sent != 80 {
		t.Errorf("%d at once, %d connections, %d queued, %d sent", most.Load(), s.all.Connects, s.all.Queued, s.all.Sent)
	}
	if l, sv := s.all.OKLatency.Quantile(0.5), s.all.Service.Quantile(0.5); l < 2*sv {
		t.Errorf("latency %v, service %v: waiting for a stream belongs to the one and not to the other", l, sv)
	}
	spec.Request.Path, spec.Timeout = "/never", ptr(300*time.Millisecond)
	var never seenBy
	never.run(t, Config{Requests: 8, Until: 100 * time.Millisecond, Spec: spec}, address)
	if want := map[string]int{"timeout": 2, "dropped": 6}; !maps.Equal(never.outcomes, want) {
		t.Errorf("%v (%v), want %v", never.outcomes, never.details, want)
	}
	if never.all.Sent != 2 || never.all.Queued != 6 || never.all.Dropped != 6 {
		t.Errorf("%d sent, %d queued, %d dropped", never.all.Sent, never.all.Queued, never.all.Dropped)
	}
}

// TestHTTP2Cut: the end of the run cuts what is under way.
func TestHTTP2Cut(t *testing.T) {
	arrived := make(chan struct{}, 100)
	_, address := http2Server(t, false, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	outcomes := map[string]int{}
	c := Config{Spec: Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(6), Streams: ptr(3), Request: &Request{Method: "GET", Path: "/"}}, Until: time.Minute,
		Resolve: func() string { return address },
		OnWindow: func(w Window) {
			for name, n := range w.Outcomes {
				outcomes[name] += n
			}
		}}
	go func() {
		for range 6 {
			<-arrived
		}
		cancel()
	}()
	if err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if want := map[string]int{"canceled": 6}; !maps.Equal(outcomes, want) {
		t.Errorf("%v, want %v", outcomes, want)
	}
}

// TestHTTP2Elsewhere: what does not speak HTTP/2 is told by its class.
func TestHTTP2Elsewhere(t *testing.T) {
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.EnableHTTP2 = false
	old.StartTLS()
	t.Cleanup(old.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	for _, c := range []struct {
		name, address, outcome, detail string
		tls                            *tls.Config
	}{
		{"HTTP/1.1", plain.Listener.Addr().String(), "protocol", "not an HTTP/2 answer: it begins with", nil},
		{"ALPN", old.Listener.Addr().String(), "", "", &tls.Config{InsecureSkipVerify: true}},
		{"nobody", nobody.Addr().String(), "refused", "connection refused", nil},
	} {
		spec := Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(2), Streams: ptr(2), Timeout: ptr(5 * time.Second), Request: &Request{Method: "GET", Path: "/"}}
		if c.tls != nil {
			spec.Protocol = H2
		}
		var s seenBy
		s.run(t, Config{Requests: 4, Spec: spec, TLS: c.tls}, c.address)
		if s.all.Failed != 4 || c.outcome != "" && s.outcomes[c.outcome] != 4 || !strings.Contains(s.details[c.outcome], c.detail) {
			t.Errorf("%s: %v (%v), want %s: %s", c.name, s.outcomes, s.details, c.outcome, c.detail)
		}
	}
}
