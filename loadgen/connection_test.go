package loadgen

import (
	"fmt"
	"maps"
	"net/http"
	"testing"

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
