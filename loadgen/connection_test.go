package loadgen

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Every connection counts that one request has made for it: sent again after a
// GOAWAY that says that nobody has acted on it, over HTTP/2,
func TestConnectionsOfARequestSentAgain(t *testing.T) {
	onEnginesOnly(t, func(t *testing.T, w way) {
		h := &hostile{serve: func(s *script) {
			s.WriteSettings()
			for id := s.request(); id != 0; id = s.request() {
				if s.first {
					s.WriteGoAway(0, http2.ErrCodeNo, nil)
				} else {
					s.header(id, true, ":status", "200")
				}
			}
		}}
		var s seenBy
		s.run(t, Config{Requests: 1, Engine: w.engine, Spec: Spec{Name: "s", To: "shop", Protocol: H2C, Users: ptr(1), Request: &Request{Method: "GET", Path: "/"}}}, h.listen(t))
		h.mu.Lock()
		defer h.mu.Unlock()
		if want := map[string]int{"200": 1}; !maps.Equal(s.outcomes, want) || s.all.Connects != 2 || h.conns != 2 {
			t.Errorf("%v (%v) on %d connections, and the server saw %d; want %v on 2", s.outcomes, s.details, s.all.Connects, h.conns, want)
		}
	})
}

// or led on by a redirect after which the server closes, over HTTP/1.1.
func TestConnectionsOfARedirectedRequest(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", secure), func(t *testing.T) {
			w := way{}
			if secure {
				w.tls, w.server = trusted(t)
			}
			p := w.startPeer(t, func(c *peerConn, r *http.Request, _ int) bool {
				if r.URL.Path == "/" {
					return say(c, "HTTP/1.1 302 Found\r\nLocation: /there\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				}
				return say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			})
			s := newSums()
			c := s.listen(Config{
				Spec: Spec{Name: "s", To: "peer", Users: ptr(1), Request: &Request{Method: "GET", Path: "/", Redirects: ptr(1)}},
				TLS:  w.tls, Requests: 5, Until: never, Start: s.start, Resolve: p.address,
			})
			if err := Run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			if s.Outcomes["200"] != 5 || s.Connects != 10 || p.dialed.Load() != 10 || secure && s.Handshake.Count() != 10 {
				t.Errorf("outcomes %v on %d connections, %d handshakes, and the server saw %d connections; want 5 × 200 on 10", s.Outcomes, s.Connects, s.Handshake.Count(), p.dialed.Load())
			}
		})
	}
}

// witness is a server that tells what it sees of connections.
type witness struct {
	handle func(w http.ResponseWriter, r *http.Request) // nil: answers at once

	mu       sync.Mutex
	requests map[net.Conn]int // of every connection that there was
	said     int              // requests with Connection: close
	open     int
	most     int           // open at once
	changed  chan struct{} // closed and replaced with every connection that opens or closes
}

// route is a protocol, over TLS or not.
type route struct {
	protocol Protocol
	secure   bool
}

var routes = []route{{HTTP1, false}, {HTTP1, true}, {H2C, false}, {H2, true}}

func (r route) String() string { return fmt.Sprintf("%s-tls=%t", r.protocol, r.secure) }

// start serves until the test ends; client is how to speak TLS with it, if it does.
func (v *witness) start(t *testing.T, secure bool) (client *tls.Config, address string) {
	t.Helper()
	v.requests, v.changed = map[net.Conn]int{}, make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(v.serve))
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, v, c) }
	server.Config.ConnState = v.state
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the end of a run cuts handshakes
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	if secure {
		client, server.TLS = trusted(t)
		server.TLS = server.TLS.Clone()
		server.EnableHTTP2 = true
		server.Config.Protocols.SetHTTP2(true)
		server.StartTLS()
	} else {
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
	}
	t.Cleanup(server.Close)
	return client, server.Listener.Addr().String()
}

func (v *witness) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.requests[r.Context().Value(v).(net.Conn)]++
	if r.Close {
		v.said++
	}
	v.mu.Unlock()
	if v.handle != nil {
		v.handle(w, r)
	}
}

func (v *witness) state(c net.Conn, s http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch s {
	case http.StateNew:
		v.requests[c] += 0
		v.open++
		v.most = max(v.most, v.open)
	case http.StateClosed:
		v.open--
	default:
		return
	}
	close(v.changed)
	v.changed = make(chan struct{})
}

// until waits for what holds of the connections some time.
func (v *witness) until(ctx context.Context, holds func(open, most int) bool) {
	for {
		v.mu.Lock()
		done, changed := holds(v.open, v.most), v.changed
		v.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// counts is how many connections carried how many requests.
func (v *witness) counts() map[int]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := map[int]int{}
	for _, requests := range v.requests {
		n[requests]++
	}
	return n
}

// onRoutes is a test of both engines, with each protocol that both carry.
func onRoutes(t *testing.T, f func(t *testing.T, engine Engine, r route)) {
	for _, r := range routes {
		t.Run(r.String(), func(t *testing.T) {
			onEnginesOnly(t, func(t *testing.T, w way) {
				t.Parallel()
				f(t, w.engine, r)
			})
		})
	}
}

// watched runs a stream against v, until ctx ends if that is before its end. It has
// no failures, and as many connections as the server saw.
func (v *witness) watched(ctx context.Context, t *testing.T, c Config, r route) *sums {
	t.Helper()
	s := newSums()
	c.Spec.Name, c.Spec.To, c.Spec.Protocol, c.Spec.Timeout = "s", "server", r.protocol, ptr(time.Minute)
	if c.Spec.Request == nil {
		c.Spec.Request = &Request{Method: "GET", Path: "/"}
	}
	var address string
	c.TLS, address = v.start(t, r.secure)
	c.Start, c.Resolve = s.start, func() string { return address }
	if c.Until == 0 {
		c.Until = time.Hour
	}
	if err := Run(ctx, s.listen(c)); err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	s.balance(t)
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.Failed > 0 || s.Connects != len(v.requests) && ctx.Err() == nil || s.Dropped > 0 {
		t.Errorf("outcomes %v (%+v) on %d connections; the server saw %d", s.Outcomes, s.samples, s.Connects, len(v.requests))
	}
	return s
}

// A connection carries as many requests as it is allowed to, and then the next one is
// made: nobody fails for it, and nobody has to wait for more than that.
func TestRequestsOfAConnection(t *testing.T) {
	onRoutes(t, func(t *testing.T, engine Engine, r route) {
		for name, c := range map[string]struct {
			spec Spec
			want map[int]int // connections by how many requests they carried
		}{
			"one":      {Spec{Users: ptr(1), Connection: &Connection{Requests: 1}}, map[int]int{1: 50}},
			"seven":    {Spec{Users: ptr(1), Connection: &Connection{Requests: 7}}, map[int]int{7: 7, 1: 1}},
			"any":      {Spec{Users: ptr(1), Connection: &Connection{}}, map[int]int{50: 1}},
			"an old":   {Spec{Users: ptr(1), Connection: &Connection{Lifetime: 1}}, map[int]int{1: 50}},
			"a young":  {Spec{Users: ptr(1), Connection: &Connection{Lifetime: time.Hour}}, map[int]int{50: 1}},
			"sharing":  {Spec{Users: ptr(8), Connections: ptr(1), Connection: &Connection{Requests: 7}}, map[int]int{7: 7, 1: 1}},
			"when due": {Spec{Rate: perSecond(5000), Connections: ptr(1), Connection: &Connection{Requests: 7}}, map[int]int{7: 7, 1: 1}},
			"streams":  {Spec{Users: ptr(8), Connections: ptr(1), Streams: ptr(7), Connection: &Connection{Requests: 7}}, map[int]int{7: 7, 1: 1}},
			"streams, when due": {Spec{Rate: perSecond(5000), Connections: ptr(1), Streams: ptr(4), Connection: &Connection{Requests: 7}},
				map[int]int{7: 7, 1: 1}},
		} {
			if c.spec.Streams != nil && r.protocol == HTTP1 {
				continue
			}
			v := new(witness)
			s := v.watched(t.Context(), t, Config{Spec: c.spec, Requests: 50, Engine: engine, loops: 1}, r)
			if got := v.counts(); s.OK != 50 || !maps.Equal(got, c.want) {
				t.Errorf("%s: %d answered, and by their requests there were %v connections, want %v", name, s.OK, got, c.want)
			}
			said := 0
			if r.protocol == HTTP1 && name == "one" {
				said = 50
			}
			if v.said != said {
				t.Errorf("%s: %d requests said that they are the last of their connection, want %d", name, v.said, said)
			}
		}
	})
}

// Old connections do not end under the answers that are under way on them: of several
// requests that share one, all are answered where they are.
func TestLifetimeOfASharedConnection(t *testing.T) {
	for _, r := range routes[2:] {
		t.Run(r.String(), func(t *testing.T) {
			onEnginesOnly(t, func(t *testing.T, w way) {
				// The first is answered when the other three are there, which is the end of the
				// connection; they are when the fifth request has come, on another one.
				var come, gone sync.WaitGroup
				come.Add(4)
				gone.Add(1)
				v := &witness{handle: func(_ http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/0":
						come.Done()
						come.Wait()
					case "/1", "/2", "/3":
						come.Done()
						gone.Wait()
					case "/4":
						gone.Done()
					}
				}}
				s := v.watched(t.Context(), t, Config{Engine: w.engine, loops: 1, Requests: 6, Spec: Spec{
					Rate: perSecond(100), Connections: ptr(1), Streams: ptr(4), Connection: &Connection{Lifetime: 1}, Request: &Request{Method: "GET", Path: "/{{seq}}"},
				}}, r)
				if s.OK != 6 || v.counts()[4] != 1 {
					t.Errorf("outcomes %v, and connections by their requests %v, want one with the first four", s.Outcomes, v.counts())
				}
			})
		})
	}
}

// What an open stream needed only while its service was slow is given back, while the
// load goes on and when there is none, with nothing lost.
func TestIdleConnectionsAreClosed(t *testing.T) {
	const burst = 20
	for name, spec := range map[string]Spec{
		"under load": {Rate: perSecond(200)},
		"in silence": {Spike: &Spike{Base: 0.001, Peak: 200, For: burst * 5 * time.Millisecond}},
		"streams":    {Rate: perSecond(200), Streams: ptr(4)},
	} {
		t.Run(name, func(t *testing.T) {
			onRoutes(t, func(t *testing.T, engine Engine, r route) {
				if spec.Streams != nil && r.protocol == HTTP1 {
					t.Skip("one at a time")
				}
				var asked atomic.Int64
				all := make(chan struct{})
				v := &witness{handle: func(w http.ResponseWriter, _ *http.Request) {
					if asked.Add(1) == burst {
						close(all)
					}
					<-all
				}}
				spec := spec
				spec.Connection, spec.Connections = &Connection{Idle: 200 * time.Millisecond}, ptr(burst/spec.streams())
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				var waiting sync.WaitGroup
				waiting.Go(func() {
					<-all
					v.until(ctx, func(open, most int) bool { return open <= 2 && most >= burst/spec.streams() })
					cancel()
				})
				v.watched(ctx, t, Config{Spec: spec, Engine: engine, loops: 1}, r)
				waiting.Wait()
				if !errors.Is(ctx.Err(), context.Canceled) {
					t.Errorf("after 30s %d connections of %d are open", v.open, v.most)
				}
			})
		})
	}
}

// Users keep their connections, unless somebody says how long.
func TestIdleConnectionsOfUsers(t *testing.T) {
	onRoutes(t, func(t *testing.T, engine Engine, r route) {
		for name, spec := range map[string]Spec{
			"their own": {Users: ptr(3), Think: time.Hour},
			"shared":    {Users: ptr(4), Connections: ptr(1), Think: time.Hour},
		} {
			spec.Connection = &Connection{Idle: 50 * time.Millisecond}
			v := new(witness)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var waiting sync.WaitGroup
			closed := false
			started := make(chan struct{})
			waiting.Go(func() {
				<-started
				v.until(ctx, func(open, most int) bool { return most > 0 && open == 0 })
				closed = ctx.Err() == nil
				cancel()
			})
			v.handle = func(http.ResponseWriter, *http.Request) { close(started) } // by the first user only: the others are thinking
			s := v.watched(ctx, t, Config{Spec: spec, Engine: engine}, r)
			waiting.Wait()
			if !closed || s.OK != 1 {
				t.Errorf("%s: outcomes %v; the connection was closed: %t", name, s.Outcomes, closed)
			}
		}
	})
}

// Without a word about it, an open stream gives a connection back after 30 s, and a
// user keeps his.
func TestIdleByDefault(t *testing.T) {
	for _, c := range []struct {
		name     string
		spec     Spec
		requests int
		dialed   int
	}{
		{"every 29s", Spec{Rate: perSecond(1.0 / 29)}, 10, 1},
		{"every 31s", Spec{Rate: perSecond(1.0 / 31)}, 10, 10},
		{"every 31s, idle for longer", Spec{Rate: perSecond(1.0 / 31), Connection: &Connection{Idle: time.Minute}}, 10, 1},
		{"a user", Spec{Users: ptr(1), Think: time.Hour}, 10, 1},
		{"users who share", Spec{Users: ptr(2), Connections: ptr(1), Think: time.Hour}, 10, 1},
		{"a user, idle for less", Spec{Users: ptr(1), Think: time.Hour, Connection: &Connection{Idle: time.Minute}}, 10, 10},
		{"a session that thinks", Spec{Rate: perSecond(1.0 / 100), Steps: []SessionStep{{Method: "GET", Path: "/"}, {Method: "GET", Path: "/2", Think: 50 * time.Second}}}, 5, 5},
		{"a user who is young", Spec{Users: ptr(1), Think: time.Second, Connection: &Connection{Lifetime: 3500 * time.Millisecond}}, 20, 4},
	} {
		p := &pipes{handle: after(10 * time.Millisecond)}
		synctest.Test(t, func(t *testing.T) {
			s := newSums()
			config := s.listen(config(c.spec, never/2, p))
			config.Requests = uint64(c.requests)
			if c.spec.Steps != nil {
				config.Spec.Request = nil
			}
			if err := Run(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			p.all.Wait()
			s.balance(t)
			if want := c.requests * c.spec.RequestsPerArrival(); s.OK != want || p.dialed != c.dialed || s.Connects != c.dialed {
				t.Errorf("%s: outcomes %v on %d connections, and the server saw %d; want %d answered on %d", c.name, s.Outcomes, s.Connects, p.dialed, want, c.dialed)
			}
		})
	}
}

// Half a minute after a service was slow there are as many connections as are needed.
func TestConnectionsOfASlowService(t *testing.T) {
	var begin time.Time
	p := &pipes{handle: func(*http.Request) int {
		if time.Since(begin) < 5*time.Second {
			time.Sleep(5 * time.Second)
		}
		return 200
	}}
	synctest.Test(t, func(t *testing.T) {
		begin = time.Now()
		open := map[time.Duration]int{}
		for _, at := range []time.Duration{5 * time.Second, 34 * time.Second, 42 * time.Second} {
			time.AfterFunc(at, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				open[at] = p.open
			})
		}
		s := newSums()
		if err := Run(t.Context(), s.listen(config(Spec{Rate: perSecond(100)}, 45*time.Second, p))); err != nil {
			t.Fatal(err)
		}
		p.all.Wait()
		s.balance(t)
		if s.OK != 4500 || s.Connects != p.dialed || open[5*time.Second] < 499 || open[34*time.Second] < 499 || open[42*time.Second] != 1 {
			t.Errorf("outcomes %v on %d connections, %v open; want 500 until 30s after the first slow answer, and 1 that long after the last", s.Outcomes, s.Connects, open)
		}
	})
}

// A session is not cut where its connection may matter to it, whatever the limits; a
// request by itself is.
func TestConnectionOfASession(t *testing.T) {
	perConnection := func(spec Spec, requests int) (asked map[int]int, s *sums) {
		var mu sync.Mutex
		all := map[int]int{}
		address := talkServer(t, func(c net.Conn, n int) {
			in := bufio.NewReader(c)
			for {
				if _, err := readCommand(in); err != nil {
					return
				}
				mu.Lock()
				all[n]++
				mu.Unlock()
				if !say(c, "+OK\r\n") {
					return
				}
			}
		})
		spec.Protocol, spec.Connection = Redis, &Connection{Requests: 2}
		s = converse(t, spec, requests, address)
		mu.Lock()
		defer mu.Unlock()
		asked = map[int]int{}
		for _, n := range all {
			asked[n]++
		}
		return asked, s
	}
	step := SessionStep{Command: []string{"PING"}}
	if asked, s := perConnection(Spec{Steps: []SessionStep{step, step, step}}, 4); s.OK != 12 || !maps.Equal(asked, map[int]int{3: 4}) {
		t.Errorf("outcomes %v, connections by their requests %v; want 4 sessions of 3", s.Outcomes, asked)
	}
	if asked, s := perConnection(Spec{Request: shortly("PING")}, 11); s.OK != 11 || !maps.Equal(asked, map[int]int{2: 5, 1: 1}) {
		t.Errorf("outcomes %v, connections by their requests %v; want 5 with 2 and one with the last", s.Outcomes, asked)
	}
}

// What cannot be, or means nothing, is refused where it stands.
func TestConnectionChecked(t *testing.T) {
	for _, c := range []struct {
		at, want string
		spec     Spec
	}{
		{"", "", Spec{Request: shortly("GET /"), Connection: &Connection{Idle: time.Second, Lifetime: time.Second, Requests: 1}}},
		{"", "", Spec{Protocol: Redis, Request: shortly("PING"), Connection: &Connection{Requests: 1}}},
		{"", "", Spec{Protocol: H2C, Streams: ptr(8), Request: shortly("GET /"), Connection: &Connection{Requests: 8}}},
		{"connection.idle", "idle is -1s; it must not be negative", Spec{Request: shortly("GET /"), Connection: &Connection{Idle: -time.Second}}},
		{"connection.lifetime", "lifetime is -1s; it must not be negative", Spec{Request: shortly("GET /"), Connection: &Connection{Lifetime: -time.Second}}},
		{"connection.requests", "requests is -1; it must not be negative", Spec{Request: shortly("GET /"), Connection: &Connection{Requests: -1}}},
		{"connection.requests", "closed after 4 requests never has 8 under way", Spec{Protocol: H2C, Streams: ptr(8), Request: shortly("GET /"), Connection: &Connection{Requests: 4}}},
		{"connection", "has no meaning with protocol udp", Spec{Protocol: UDP, Request: shortly("x"), Connection: &Connection{Requests: 4}}},
		{"connection", "has no meaning with reply: close", Spec{Protocol: TCP, Reply: &Reply{Close: true}, Request: shortly("x"), Connection: &Connection{Requests: 4}}},
	} {
		c.spec.To, c.spec.Users = "a", ptr(1)
		got := problems(c.spec)
		if c.at == "" && len(got) > 0 || c.at != "" && (len(got) != 1 || !strings.Contains(got[c.at], c.want)) {
			t.Errorf("%+v: %v, want %q at %s", *c.spec.Connection, got, c.want, c.at)
		}
	}
}
