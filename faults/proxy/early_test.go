package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// startHTTPS serves hello over TLS, and counts the connections that have been accepted and are open.
func startHTTPS(t testing.TB, ca *testCA, protocols ...string) (address string, open *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open = new(atomic.Int64)
	s := &http.Server{Handler: http.HandlerFunc(hello), TLSConfig: ca.serverConfig(t), Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, is http.ConnState) {
			switch is {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
			}
		}}
	for _, p := range protocols {
		s.Protocols.SetHTTP1(s.Protocols.HTTP1() || p == "http/1.1")
		s.Protocols.SetHTTP2(s.Protocols.HTTP2() || p == "h2")
	}
	done := make(chan struct{})
	go func() { s.ServeTLS(l, "", ""); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String(), open
}

// offering is a client that offers h2 and http/1.1, as most do.
func offering(t testing.TB, a *Authority) *http.Client {
	transport := &http.Transport{TLSClientConfig: trusting(a), ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// fetch is what a GET is answered with, and in which protocol.
func fetch(t testing.TB, c *http.Client, url string) (status int, protocol string) {
	t.Helper()
	a, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	io.Copy(io.Discard, a.Body)
	return a.StatusCode, a.Proto
}

// TestUpstreamChooses: a caller is answered with what the upstream chooses of its offers, unless
// the proxy is told what to offer; an instance that speaks otherwise is asked anew.
func TestUpstreamChooses(t *testing.T) {
	t.Parallel()
	ca, authority := newTestCA(t), newAuthority(t)
	old, _ := startHTTPS(t, ca, "http/1.1")
	both, open := startHTTPS(t, ca, "http/1.1", "h2")
	only2, _ := startHTTPS(t, ca, "h2")
	for _, c := range []struct {
		what, upstream string
		alpn           []string
		want           string
	}{
		{"asked", both, nil, "HTTP/2.0"},
		{"asked, HTTP/2 alone", only2, nil, "HTTP/2.0"},
		{"asked, HTTP/1.1 alone", old, nil, "HTTP/1.1"},
		{"told", both, []string{"http/1.1"}, "HTTP/1.1"},
		{"told of HTTP/2", both, []string{"h2", "http/1.1"}, "HTTP/2.0"},
		{"several, of which the first is not there", "127.0.0.1:1," + both, nil, "HTTP/2.0"},
	} {
		p := startWith(t, Config{Upstream: c.upstream, Protocol: HTTP,
			CallerTLS: &CallerTLS{Authority: authority, ALPN: c.alpn}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
		client := offering(t, authority)
		for range 3 {
			if status, got := fetch(t, client, "https://"+p.Addr()+"/"); status != 200 || got != c.want {
				t.Errorf("%s: %d, %s; want %s", c.what, status, got, c.want)
			}
		}
		s := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 3 })
		if s.Open != 1 || s.Opaque != 0 || s.Calls != 3 {
			t.Errorf("%s: %+v", c.what, s)
		}
		client.CloseIdleConnections()
		if c.alpn == nil {
			p.SetUpstream(old)
			if status, got := fetch(t, client, "https://"+p.Addr()+"/"); status != 200 || got != "HTTP/1.1" {
				t.Errorf("%s, then an older upstream: %d, %s", c.what, status, got)
			}
		}
		p.Stop()
	}
	await(t, "no connection of the upstream is left", func() bool { return open.Load() == 0 })
}

// TestUpstreamThatCannotBeAsked: faults, and nobody, answer as before, over HTTP/1.1, and what failed
// is counted once, when a call was made.
func TestUpstreamThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	ca, other, authority := newTestCA(t), newTestCA(t), newAuthority(t)
	working, _ := startHTTPS(t, ca, "http/1.1", "h2")
	foreign, _ := startHTTPS(t, other, "http/1.1", "h2")
	mute := startTCP(t, func(c net.Conn) { io.Copy(io.Discard, c) }) // as one that is paused
	for _, c := range []struct{ what, upstream, class string }{
		{"refused", "127.0.0.1:1", "refused"},
		{"none", None, "refused"},
		{"its certificate is not trusted", foreign, "handshake"},
		{"its handshake is not answered", mute, "handshake"},
	} {
		p := startWith(t, Config{Upstream: c.upstream, Protocol: HTTP, DialTimeout: 300 * time.Millisecond,
			CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
		client := offering(t, authority)
		remove := add(t, p, Rule{Name: "broken", Percent: 1, Error: &Error{Status: 503}})
		if status, got := fetch(t, client, "https://"+p.Addr()+"/"); status != 503 || got != "HTTP/1.1" {
			t.Errorf("%s: %d, %s", c.what, status, got)
		}
		remove()
		client.CloseIdleConnections()
		if _, err := client.Get("https://" + p.Addr() + "/"); err == nil {
			t.Errorf("%s: answered", c.what)
		}
		s := collect(t, p, func(s Stats) bool { return s.Answers[c.class] > 0 && s.Answers["503"] == 1 })
		if s.Answers[c.class] != s.Calls-1 {
			t.Errorf("%s: %+v", c.what, s)
		}
		nc := dialTLS(t, p.Addr(), offers(authority, "h2")) // as callers of gRPC do
		if got := nc.ConnectionState().NegotiatedProtocol; got != "h2" {
			t.Errorf("%s: of HTTP/2 alone, %q was agreed on", c.what, got)
		}
		if c.class == "refused" { // it may be there by the time of the first request
			nc = dialTLS(t, p.Addr(), offers(authority, "h2", "http/1.1"))
			p.SetUpstream(working)
			io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if n, err := nc.Read(make([]byte, 100)); err != nil || n == 0 {
				t.Errorf("%s, then there: %v", c.what, err)
			}
		}
		p.Stop()
	}
}

// offers is a caller's configuration with those protocols.
func offers(a *Authority, protocols ...string) *tls.Config {
	c := trusting(a)
	c.NextProtos = protocols
	return c
}

// TestUpstreamChoosesForBytes: on a TCP edge any protocol can be offered, and no offer needs none.
func TestUpstreamChoosesForBytes(t *testing.T) {
	t.Parallel()
	ca, authority := newTestCA(t), newAuthority(t)
	server := ca.serverConfig(t)
	server.NextProtos = []string{"b"}
	p := startWith(t, Config{Upstream: startTLS(t, server, echoTLS), Protocol: TCP,
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	for want, asked := range map[string][]string{"b": {"a", "b"}, "": nil} {
		c := dialTLS(t, p.Addr(), offers(authority, asked...))
		io.WriteString(c, "x")
		if _, err := c.Read(make([]byte, 1)); err != nil || c.ConnectionState().NegotiatedProtocol != want {
			t.Errorf("of %q: %v, %q", asked, err, c.ConnectionState().NegotiatedProtocol)
		}
	}
	if c, err := handshakeWith(t, p.Addr(), offers(authority, "a")); err == nil {
		if _, err = c.Read(make([]byte, 1)); err == nil {
			t.Error("a protocol that the upstream does not have was agreed on")
		}
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 1 })
	if n := len(s.Handshakes); n != 1 {
		t.Errorf("reasons: %v", s.Handshakes)
	}
}

// TestCallerThatNeverFinishes: the upstream that was dialled for it is let go.
func TestCallerThatNeverFinishes(t *testing.T) {
	t.Parallel()
	ca, authority := newTestCA(t), newAuthority(t)
	upstream, open := startHTTPS(t, ca, "http/1.1", "h2")
	p := startWith(t, Config{Upstream: upstream, Protocol: HTTP, DialTimeout: 300 * time.Millisecond,
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	config := offers(authority, "h2", "http/1.1")
	over, stopped := context.WithCancel(t.Context())
	asked := int64(0)
	config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
		asked = open.Load()
		<-over.Done()
		return errors.New("enough")
	}
	done := make(chan struct{})
	go func() { defer close(done); handshakeWith(t, p.Addr(), config) }()
	s := collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 1 })
	for why := range s.Handshakes {
		if !strings.Contains(why, "caller: the handshake took too long") {
			t.Errorf("why: %q", why)
		}
	}
	await(t, "the upstream's connection is gone", func() bool { return open.Load() == 0 })
	stopped()
	<-done
	if asked != 1 {
		t.Errorf("%d connections of the upstream before the caller was answered, want 1", asked)
	}
}

// TestStopWhileTheUpstreamIsAsked: neither that, nor a reset, waits for the upstream.
func TestStopWhileTheUpstreamIsAsked(t *testing.T) {
	t.Parallel()
	ca, authority := newTestCA(t), newAuthority(t)
	asked := make(chan struct{}, 2)
	p := startWith(t, Config{Protocol: HTTP, DialTimeout: time.Hour,
		Upstream:  startTCP(t, func(c net.Conn) { asked <- struct{}{}; io.Copy(io.Discard, c) }),
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	call := func() chan error {
		failed := make(chan error, 1)
		nc := dial(t, p.Addr()).TCPConn
		config := offers(authority, "h2")
		config.ServerName = "127.0.0.1"
		go func() { failed <- tls.Client(nc, config).Handshake() }()
		<-asked
		return failed
	}
	failed := call()
	remove := add(t, p, Rule{Name: "reset", Percent: 1, Reset: &Cut{}})
	if err := <-failed; err == nil {
		t.Error("the handshake was answered")
	}
	remove()
	failed = call()
	p.Stop()
	if err := <-failed; err == nil {
		t.Error("the handshake was answered")
	}
}

// TestUpstreamThatHungUpMeanwhile: a caller that is silent for longer than the upstream waits is not
// to suffer for it: the first request has a connection of its own.
func TestUpstreamThatHungUpMeanwhile(t *testing.T) {
	t.Parallel()
	ca, authority := newTestCA(t), newAuthority(t)
	config := ca.serverConfig(t)
	config.NextProtos = []string{"http/1.1"}
	first, closed := atomic.Bool{}, make(chan struct{})
	p := startWith(t, Config{Protocol: HTTP, CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem},
		Upstream: startTLS(t, config, func(c *tls.Conn) {
			if first.CompareAndSwap(false, true) {
				c.Close()
				close(closed)
				return
			}
			c.Read(make([]byte, 1000))
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			io.Copy(io.Discard, c)
		})})
	c := dialTLS(t, p.Addr(), offers(authority, "h2", "http/1.1"))
	<-closed
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "HTTP/1.1 204" {
		t.Errorf("%q, %v", b, err)
	}
}
