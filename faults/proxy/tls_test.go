package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// testCA issues what tests need, also what an Authority would not.
type testCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// issue makes a certificate and its key, PEM, for 127.0.0.1 and the names, valid until then.
func (ca *testCA) issue(t testing.TB, until time.Time, names ...string) (certificate, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if len(names) == 0 {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &k.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

// serverConfig is a server's, for 127.0.0.1 or the names.
func (ca *testCA) serverConfig(t testing.TB, names ...string) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(ca.issue(t, time.Now().Add(time.Hour), names...))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// startTLS serves every connection with handle.
func startTLS(t testing.TB, config *tls.Config, handle func(*tls.Conn)) (address string) {
	t.Helper()
	return startTCP(t, func(nc net.Conn) {
		c := tls.Server(nc, config)
		if c.Handshake() == nil {
			handle(c)
		}
	})
}

func echoTLS(c *tls.Conn) { io.Copy(c, c); c.CloseWrite() }

func startWith(t testing.TB, c Config) *Proxy {
	t.Helper()
	if c.Name == "" {
		c.Name = "a -> b"
	}
	p, err := Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop() })
	return p
}

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// trusting is a caller's, that trusts the authority.
func trusting(a *Authority) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.PEM())
	return &tls.Config{RootCAs: pool}
}

func dialTLS(t testing.TB, address string, config *tls.Config) *tls.Conn {
	t.Helper()
	c, err := handshakeWith(t, address, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshakeWith is a connection whose handshake is over, in time for the test.
func handshakeWith(t testing.TB, address string, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	nc := dial(t, address).TCPConn
	if config.ServerName == "" && !config.InsecureSkipVerify {
		config = config.Clone()
		config.ServerName = "127.0.0.1"
	}
	c := tls.Client(nc, config)
	return c, c.Handshake()
}

// TestTLSBothSides: HTTPS through a proxy that ends it and begins it anew, with
// rules that see the requests.
func TestTLSBothSides(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	config := ca.serverConfig(t, "api.internal")
	var names, protocols sync.Map
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names.Store(h.ServerName, true)
		protocols.Store(strings.Join(h.SupportedProtos, ","), true)
		return nil, nil
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })

	p := startWith(t, Config{Upstream: l.Addr().String(), Protocol: HTTP,
		CallerTLS:   &CallerTLS{Authority: authority},
		UpstreamTLS: &UpstreamTLS{CA: ca.pem, ServerName: "api.internal"}})
	transport := &http.Transport{TLSClientConfig: trusting(authority), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	body := make([]byte, 3<<20)
	mrand.NewChaCha8([32]byte{1}).Read(body)
	for range 3 {
		a, err := client.Post("https://"+p.Addr()+"/", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || a.StatusCode != 200 || sha256.Sum256(got) != sha256.Sum256(body) {
			t.Fatalf("%s, %d bytes, %v; want the %d that were sent", a.Status, len(got), err, len(body))
		}
		if a.TLS.NegotiatedProtocol != alpnOf(HTTP)[0] {
			t.Errorf("the caller has agreed on %q", a.TLS.NegotiatedProtocol)
		}
	}
	if _, ok := names.Load("api.internal"); !ok {
		t.Error("the upstream was not asked for by its name")
	}
	if _, ok := protocols.Load("h2,http/1.1"); !ok {
		t.Error("the upstream was not offered what the caller offers")
	}

	remove := add(t, p, Rule{Name: "broken", Percent: 1, Error: &Error{Status: 503, Body: "injected"}})
	a, err := client.Get("https://" + p.Addr() + "/")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(a.Body)
	a.Body.Close()
	if a.StatusCode != 503 || string(text) != "injected" {
		t.Errorf("%s %q, want the injected answer", a.Status, text)
	}
	remove()
	got := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 3 && s.Answers["503"] == 1 })
	if got.Calls != 4 || got.Opaque != 0 || got.Rules["broken"].Fired != 1 || got.BytesUp < 3*int64(len(body)) || got.ReceivedDown < 3*int64(len(body)) {
		t.Errorf("stats %+v", got)
	}
}

// TestTLSOneSide: plain callers of an upstream that speaks TLS, and the reverse.
func TestTLSOneSide(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	p := startWith(t, Config{Upstream: startTLS(t, ca.serverConfig(t), echoTLS), Protocol: TCP, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	c := dial(t, p.Addr())
	c.send("hello")
	c.CloseWrite()
	if got, err := io.ReadAll(c.Reader); string(got) != "hello" || err != nil {
		t.Errorf("from TLS: %q, %v", got, err)
	}

	p = startWith(t, Config{Upstream: startTCP(t, echo), Protocol: TCP, CallerTLS: &CallerTLS{Authority: authority}})
	s := dialTLS(t, p.Addr(), trusting(authority))
	io.WriteString(s, "hello")
	s.CloseWrite()
	if got, err := io.ReadAll(s); string(got) != "hello" || err != nil {
		t.Errorf("to TLS: %q, %v", got, err)
	}
	collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 && s.Open == 0 })
}

// TestTLSPassesThrough: TLS that is nobody's business here is bytes.
func TestTLSPassesThrough(t *testing.T) {
	ca := newTestCA(t)
	p := startProxy(t, TCP, startTLS(t, ca.serverConfig(t), echoTLS))
	c := dialTLS(t, p.Addr(), &tls.Config{RootCAs: ca.pool()})
	io.WriteString(c, "hello")
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestTLSExactBytes: rules that pace, hold and interrupt come and go, and the peers
// read in fits and starts, and no byte is lost, doubled or out of place, in either direction.
func TestTLSExactBytes(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	const size = 24 << 20
	lazily := func(r io.Reader) io.Reader { return &lazy{r: r, dice: mrand.New(mrand.NewPCG(1, 2))} }
	sums := make(chan [32]byte, 1)
	up := startTLS(t, ca.serverConfig(t), func(c *tls.Conn) {
		h := sha256.New()
		var all sync.WaitGroup
		all.Go(func() { io.Copy(h, lazily(c)) })
		io.CopyN(c, mrand.NewChaCha8([32]byte{2}), size)
		c.CloseWrite()
		all.Wait()
		sums <- [32]byte(h.Sum(nil))
	})
	want := func(seed byte) [32]byte {
		h := sha256.New()
		io.CopyN(h, mrand.NewChaCha8([32]byte{seed}), size)
		return [32]byte(h.Sum(nil))
	}
	p := startWith(t, Config{Upstream: up, Protocol: TCP,
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	c := dialTLS(t, p.Addr(), trusting(authority))
	c.SetDeadline(time.Now().Add(2 * time.Minute))

	over := make(chan struct{})
	var all sync.WaitGroup
	changes := 0
	all.Go(func() {
		kinds := []Rule{
			{Name: "held", Percent: 1, Latency: &Latency{Delay: 3 * time.Millisecond, Jitter: 2 * time.Millisecond}},
			{Name: "held up", Percent: 1, Latency: &Latency{Delay: 3 * time.Millisecond, Direction: "request"}},
			{Name: "narrow", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 50 << 20}},
			{Name: "sliced", Percent: 1, Slice: &Slice{Average: 3000, Variation: 2000}},
		}
		for ; ; changes++ {
			remove, err := p.Add(kinds[changes%len(kinds)])
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-over:
				return
			case <-time.After(time.Duration(changes%4) * time.Millisecond):
			}
			remove()
		}
	})
	all.Go(func() {
		io.CopyN(c, mrand.NewChaCha8([32]byte{1}), size)
		c.CloseWrite()
	})
	h := sha256.New()
	n, err := io.Copy(h, lazily(c))
	if err != nil || n != size || [32]byte(h.Sum(nil)) != want(2) {
		t.Errorf("down: %d bytes, %v, the right ones: %v", n, err, [32]byte(h.Sum(nil)) == want(2))
	}
	if <-sums != want(1) {
		t.Error("up: other bytes than were sent")
	}
	close(over)
	all.Wait()
	t.Logf("%d changes of rules", changes)
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 && s.Answers["closed"] == 1 })
	if s.BytesUp != size || s.BytesDown != size {
		t.Errorf("%d bytes up, %d down; want %d", s.BytesUp, s.BytesDown, size)
	}
}

// TestTLSHeldWhileTheReceiverWaits: as of plain bytes, those inside TLS are held from
// when they came, also while the receiver takes none.
func TestTLSHeldWhileTheReceiverWaits(t *testing.T) {
	const size = 48 << 20 // more than the kernel's buffers take for a caller that does not read
	authority := newAuthority(t)
	p := startWith(t, Config{Protocol: TCP, CallerTLS: &CallerTLS{Authority: authority}, Upstream: startTCP(t, func(c net.Conn) {
		io.CopyN(c, mrand.NewChaCha8([32]byte{3}), size)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})})
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: time.Millisecond}})
	c := dialTLS(t, p.Addr(), trusting(authority))
	c.SetDeadline(time.Now().Add(time.Minute))
	s := collect(t, p, func(s Stats) bool { return s.Rules["slow"].Bytes == size })
	if s.BytesDown == size {
		t.Error("the caller's side has taken all of it: nothing was held while it did not")
	}
	want, got := sha256.New(), sha256.New()
	io.CopyN(want, mrand.NewChaCha8([32]byte{3}), size)
	if n, err := io.Copy(got, c); n != size || err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes came, %v; want the %d that were sent", n, err, size)
	}
}

// TestTLSExactLatency: inside TLS too, a chunk waits for as long as was asked.
func TestTLSExactLatency(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	p := startWith(t, Config{Protocol: TCP, Upstream: startTLS(t, ca.serverConfig(t), echoTLS),
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	c := dialTLS(t, p.Addr(), trusting(authority))
	const delay = 20 * time.Millisecond
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: delay}})
	for range 5 {
		from := time.Now()
		io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(from); took < delay {
			t.Errorf("an answer took %v, want %v at least", took, delay)
		}
	}
	s := collect(t, p, func(s Stats) bool { return s.Rules["slow"].Delay.Count() >= 5 })
	if d := s.Rules["slow"].Delay.Quantile(0); d < delay {
		t.Errorf("measured %v at least, want %v", d, delay)
	}
}

// lazy reads little or much, and at times not at all.
type lazy struct {
	r    io.Reader
	dice *mrand.Rand
}

func (l *lazy) Read(p []byte) (int, error) {
	if l.dice.IntN(64) == 0 {
		time.Sleep(time.Duration(l.dice.IntN(4)) * time.Millisecond)
	}
	return l.r.Read(p[:1+l.dice.IntN(len(p))])
}

// TestTLSEnds: close_notify is FIN and the reverse, RST is RST, and a FIN without
// close_notify is passed on as one.
func TestTLSEnds(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	heard := make(chan error, 1)
	listen := func(c *tls.Conn) {
		_, err := io.Copy(io.Discard, c)
		heard <- err
		io.WriteString(c, "after")
		c.CloseWrite()
		io.Copy(io.Discard, c.NetConn())
	}
	p := startWith(t, Config{Upstream: startTLS(t, ca.serverConfig(t), listen), Protocol: TCP,
		CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})

	c := dialTLS(t, p.Addr(), trusting(authority))
	io.WriteString(c, "x")
	c.CloseWrite()
	if err := <-heard; err != nil {
		t.Errorf("close_notify: the upstream saw %v", err)
	}
	if got, err := io.ReadAll(c); string(got) != "after" || err != nil {
		t.Errorf("the other half: %q, %v", got, err)
	}
	collect(t, p, func(s Stats) bool { return s.Answers["closed"] == 1 && s.Open == 0 })

	c = dialTLS(t, p.Addr(), trusting(authority))
	io.WriteString(c, "x")
	collect(t, p, func(s Stats) bool { return s.BytesUp == 1 })
	c.NetConn().(*net.TCPConn).SetLinger(0)
	c.NetConn().Close()
	if err := <-heard; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("RST: the upstream saw %v", err)
	}
	collect(t, p, func(s Stats) bool { return s.Answers["canceled"] == 1 && s.Open == 0 })

	// A bare FIN: crypto/tls takes it for the end at a record's edge, so the socket is asked.
	raw := make(chan []byte, 1)
	p.SetUpstream(startTLS(t, ca.serverConfig(t), func(c *tls.Conn) {
		c.Read(make([]byte, 1))
		rest, _ := io.ReadAll(c.NetConn())
		raw <- rest
	}))
	c = dialTLS(t, p.Addr(), trusting(authority))
	io.WriteString(c, "x")
	collect(t, p, func(s Stats) bool { return s.BytesUp == 1 })
	c.NetConn().(*net.TCPConn).CloseWrite()
	if rest := <-raw; len(rest) > 0 {
		t.Errorf("after FIN without close_notify the upstream was sent %d bytes", len(rest))
	}

	// A rule's reset goes to the sockets, at once.
	p.SetUpstream(startTLS(t, ca.serverConfig(t), func(c *tls.Conn) { _, err := io.Copy(io.Discard, c); heard <- err }))
	c = dialTLS(t, p.Addr(), trusting(authority))
	io.WriteString(c, "x")
	collect(t, p, func(s Stats) bool { return s.BytesUp == 1 })
	remove := add(t, p, Rule{Name: "cut", Percent: 1, Reset: &Cut{}})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: the caller saw %v", err)
	}
	if err := <-heard; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: the upstream saw %v", err)
	}
	wantRefused(t, p.Addr()) // before a handshake
	remove()
}

// TestTLSHandshakeFailures: each is counted as one, with its reason, and the next
// caller is served.
func TestTLSHandshakeFailures(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	expired, key := ca.issue(t, time.Now().Add(-time.Minute))
	pair, err := tls.X509KeyPair(expired, key)
	if err != nil {
		t.Fatal(err)
	}
	good := startTLS(t, ca.serverConfig(t), echoTLS)
	wantsCert := ca.serverConfig(t)
	wantsCert.ClientAuth, wantsCert.ClientCAs, wantsCert.MaxVersion = tls.RequireAndVerifyClientCert, ca.pool(), tls.VersionTLS12
	for _, x := range []struct {
		name, upstream string
		tls            UpstreamTLS
		why            string
	}{
		{"another CA", good, UpstreamTLS{CA: other.pem}, "certificate signed by unknown authority"},
		{"the system's CAs", good, UpstreamTLS{}, "certificate signed by unknown authority"},
		{"another name", good, UpstreamTLS{CA: ca.pem, ServerName: "elsewhere"}, "certificate is"},
		{"expired", startTLS(t, &tls.Config{Certificates: []tls.Certificate{pair}}, echoTLS), UpstreamTLS{CA: ca.pem}, "its certificate expired on"},
		{"no TLS there", startTCP(t, func(c net.Conn) { io.WriteString(c, "220 ready\r\n"); io.Copy(io.Discard, c) }), UpstreamTLS{Insecure: true}, "first record does not look like a TLS handshake"},
		{"hangs up", startTCP(t, func(c net.Conn) { c.Read(make([]byte, 1000)) }), UpstreamTLS{Insecure: true}, "it ended the connection during the handshake"},
		{"wants our certificate", startTLS(t, wantsCert, echoTLS), UpstreamTLS{CA: ca.pem}, "it says: "},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := startWith(t, Config{Upstream: x.upstream, Protocol: TCP, UpstreamTLS: &x.tls})
			wantRefused(t, p.Addr())
			s := collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 1 && s.Open == 0 })
			if len(s.Handshakes) != 1 {
				t.Fatalf("stats %+v", s)
			}
			for why := range s.Handshakes {
				if !strings.HasPrefix(why, "upstream "+x.upstream+": ") || !strings.Contains(why, x.why) {
					t.Errorf("why: %q, want %q", why, x.why)
				}
			}
		})
	}
}

// TestTLSReasons: the words for a failed handshake reach Stats.
func TestTLSReasons(t *testing.T) {
	authority := newAuthority(t)
	p := startWith(t, Config{Upstream: startTCP(t, echo), Protocol: HTTP, CallerTLS: &CallerTLS{Authority: authority}})
	why := func(do func()) string {
		t.Helper()
		do()
		s := collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 1 && s.Calls == 1 && len(s.Handshakes) == 1 })
		for reason := range s.Handshakes {
			return reason
		}
		return ""
	}
	for want, do := range map[string]func(){
		"caller: it says: bad certificate":                             func() { handshakeWith(t, p.Addr(), &tls.Config{RootCAs: newTestCA(t).pool()}) },
		"caller: tls: first record does not look like a TLS handshake": func() { dial(t, p.Addr()).send("GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"caller: it ended the connection during the handshake":         func() { dial(t, p.Addr()).Close() },
		`caller: tls: client requested unsupported application protocols`: func() {
			handshakeWith(t, p.Addr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"spdy/1"}})
		},
	} {
		if got := why(do); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestTLSStuckHandshake: callers that say nothing keep nobody waiting, are given up
// after a while, and do not keep Stop.
func TestTLSStuckHandshake(t *testing.T) {
	authority := newAuthority(t)
	p := startWith(t, Config{Upstream: startTCP(t, echo), Protocol: TCP, CallerTLS: &CallerTLS{Authority: authority}})
	for range 50 {
		dial(t, p.Addr())
	}
	c := dialTLS(t, p.Addr(), trusting(authority))
	io.WriteString(c, "hello")
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}

	p = startWith(t, Config{Upstream: startTCP(t, echo), Protocol: TCP, DialTimeout: 50 * time.Millisecond, CallerTLS: &CallerTLS{Authority: authority}})
	dial(t, p.Addr()).wantEnd()
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 && len(s.Handshakes) > 0 })
	if s.Handshakes["caller: the handshake took too long"] != 1 || s.Answers["handshake"] != 1 {
		t.Errorf("stats %+v", s)
	}

	silent := startTCP(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	p = startWith(t, Config{Upstream: silent, Protocol: TCP, DialTimeout: 50 * time.Millisecond, UpstreamTLS: &UpstreamTLS{Insecure: true}})
	wantRefused(t, p.Addr())
	if s := collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 1 }); s.Handshakes["upstream "+silent+": the handshake took too long"] != 1 {
		t.Errorf("stats %+v", s)
	}
	p = startWith(t, Config{Upstream: silent, Protocol: TCP, UpstreamTLS: &UpstreamTLS{Insecure: true}})
	stuck := dial(t, p.Addr())
	collect(t, p, func(s Stats) bool { return s.Open == 1 })
	p.Stop()
	stuck.wantReset()
}

// TestTLSBlackholeBeforeHandshake: who is to hear nothing hears no handshake, and
// the removal of the rule is the end.
func TestTLSBlackholeBeforeHandshake(t *testing.T) {
	p := startWith(t, Config{Upstream: startTCP(t, echo), Protocol: TCP, CallerTLS: &CallerTLS{Authority: newAuthority(t)}})
	remove := add(t, p, Rule{Name: "hole", Percent: 1, Blackhole: &Cut{}})
	c := dial(t, p.Addr())
	hello := tls.Client(c.TCPConn, &tls.Config{InsecureSkipVerify: true})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { hello.HandshakeContext(ctx) })
	collect(t, p, func(s Stats) bool { return s.Rules["hole"].Bytes > 100 })
	remove()
	all.Wait()
	cancel()
	if s := collect(t, p, func(s Stats) bool { return s.Open == 0 }); s.BytesDown > 0 || len(s.Handshakes) > 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestTLSSlowToOpen: a connection that is slow to open is slow to handshake.
func TestTLSSlowToOpen(t *testing.T) {
	authority := newAuthority(t)
	p := startWith(t, Config{Upstream: startTCP(t, echo), Protocol: TCP, CallerTLS: &CallerTLS{Authority: authority},
		Rules: []Rule{{Name: "slow", Percent: 1, Connect: &Connect{Delay: 60 * time.Millisecond}}}})
	from := time.Now()
	dialTLS(t, p.Addr(), trusting(authority))
	if took := time.Since(from); took < 60*time.Millisecond {
		t.Errorf("the handshake was over after %v", took)
	}
}

func TestMutualTLS(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	certificate, key := ca.issue(t, time.Now().Add(time.Hour), "client")
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	var shown atomic.Value
	server := ca.serverConfig(t)
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool()
	up := startTLS(t, server, func(c *tls.Conn) {
		shown.Store(c.ConnectionState().PeerCertificates[0].DNSNames[0])
		echoTLS(c)
	})
	p := startWith(t, Config{Upstream: up, Protocol: TCP,
		CallerTLS:   &CallerTLS{Authority: authority, ClientCA: ca.pem},
		UpstreamTLS: &UpstreamTLS{CA: ca.pem, Certificate: certificate, Key: key}})

	config := trusting(authority)
	config.Certificates = []tls.Certificate{pair}
	c := dialTLS(t, p.Addr(), config)
	io.WriteString(c, "hello")
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if shown.Load() != "client" {
		t.Errorf("the upstream was shown %v", shown.Load())
	}

	// Without one. In TLS 1.3 a client learns of it with its first read.
	if c, err := handshakeWith(t, p.Addr(), trusting(authority)); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("without a certificate: %v", err)
		}
	}
	// One that somebody else has issued.
	foreign, foreignKey := newTestCA(t).issue(t, time.Now().Add(time.Hour), "client")
	pair, _ = tls.X509KeyPair(foreign, foreignKey)
	config = trusting(authority)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	if c, err := handshakeWith(t, p.Addr(), config); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a foreign certificate was taken")
		}
	}
	collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 2 })
}

// TestTLSAgreesOnOneProtocol: the upstream must speak what the caller was promised.
func TestTLSAgreesOnOneProtocol(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	server := ca.serverConfig(t)
	server.NextProtos = []string{"b"}
	p := startWith(t, Config{Upstream: startTLS(t, server, echoTLS), Protocol: TCP,
		CallerTLS: &CallerTLS{Authority: authority, ALPN: []string{"a", "b"}}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	ask := func(protocols ...string) *tls.Config {
		c := trusting(authority)
		c.NextProtos = protocols
		return c
	}
	c := dialTLS(t, p.Addr(), ask("b"))
	io.WriteString(c, "x")
	if _, err := c.Read(make([]byte, 1)); err != nil || c.ConnectionState().NegotiatedProtocol != "b" {
		t.Errorf("%v, %q", err, c.ConnectionState().NegotiatedProtocol)
	}
	c = dialTLS(t, p.Addr(), ask("a"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a protocol that the upstream does not have: %v", err)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["handshake"] == 1 })
	for why := range s.Handshakes {
		if !strings.Contains(why, "no application protocol") {
			t.Errorf("why: %q", why)
		}
	}
}

func TestTLSSettings(t *testing.T) {
	ca := newTestCA(t)
	certificate, key := ca.issue(t, time.Now().Add(time.Hour))
	_, otherKey := ca.issue(t, time.Now().Add(time.Hour))
	for want, c := range map[string]Config{
		"want either a certificate with its key, or an authority": {CallerTLS: &CallerTLS{}},
		"come together":                         {CallerTLS: &CallerTLS{Certificate: certificate}},
		"private key does not match public key": {CallerTLS: &CallerTLS{Certificate: certificate, Key: otherKey}},
		"client CA: there is no certificate in": {CallerTLS: &CallerTLS{Certificate: certificate, Key: key, ClientCA: key}},
		"upstream: CA: there is no certificate": {UpstreamTLS: &UpstreamTLS{CA: []byte("nonsense")}},
		"both a CA and insecure":                {UpstreamTLS: &UpstreamTLS{CA: ca.pem, Insecure: true}},
		"one of them is missing":                {UpstreamTLS: &UpstreamTLS{Key: key}},
	} {
		c.Name, c.Protocol = "x", TCP
		p, err := Start(t.Context(), c)
		if err == nil {
			p.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestAuthority: names that callers ask for, addresses, and a file that holds no key.
func TestAuthority(t *testing.T) {
	a := newAuthority(t)
	p := startWith(t, Config{Upstream: startTCP(t, echo), Protocol: TCP, CallerTLS: &CallerTLS{Authority: a}})
	for _, name := range []string{"127.0.0.1", "localhost", "payments", "Api.Example.COM"} {
		config := trusting(a)
		config.ServerName = name
		if _, err := handshakeWith(t, p.Addr(), config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := a.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(text, a.PEM()) || bytes.Contains(text, []byte("PRIVATE")) {
		t.Errorf("%v: %s", err, text)
	}
	c1, _ := a.certificate(&tls.ClientHelloInfo{ServerName: "x", Conn: dial(t, p.Addr())})
	c2, _ := a.certificate(&tls.ClientHelloInfo{ServerName: "x", Conn: dial(t, p.Addr())})
	if c1 == nil || c1 != c2 {
		t.Error("the same name has got two certificates")
	}
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		first, err := a.certificate(&tls.ClientHelloInfo{ServerName: "x", Conn: pipeEnd{}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(leafValid/2 + time.Minute)
		second, err := a.certificate(&tls.ClientHelloInfo{ServerName: "x", Conn: pipeEnd{}})
		if err != nil || first == second || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
			t.Errorf("%v: half a day later it is the old one", err)
		}
	})
}

type pipeEnd struct{ net.Conn }

func (pipeEnd) LocalAddr() net.Addr { return socketAddr("x") }

// BenchmarkBulkTLS is one connection of TLS as fast as it goes: without a proxy, with
// one that passes it through, and with one that ends it and begins it anew.
func BenchmarkBulkTLS(b *testing.B) {
	const size = 64 << 20
	ca, authority := newTestCA(b), newAuthority(b)
	server := func(b *testing.B) string {
		return startTLS(b, ca.serverConfig(b), func(c *tls.Conn) {
			buf := make([]byte, 256<<10)
			for n := 0; n < size; n += len(buf) {
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		})
	}
	run := func(b *testing.B, address string, config *tls.Config) {
		b.SetBytes(size)
		from := cpuTime()
		for b.Loop() {
			c, err := handshakeWith(b, address, config)
			if err != nil {
				b.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			if n, err := io.CopyN(io.Discard, c, size); err != nil {
				b.Fatal(n, err)
			}
			c.Close()
		}
		b.ReportMetric(float64((cpuTime()-from).Milliseconds())/float64(b.N), "cpu-ms/op")
	}
	b.Run("direct", func(b *testing.B) { run(b, server(b), &tls.Config{RootCAs: ca.pool()}) })
	b.Run("through", func(b *testing.B) {
		run(b, startProxy(b, TCP, server(b)).Addr(), &tls.Config{RootCAs: ca.pool()})
	})
	b.Run("anew", func(b *testing.B) {
		p := startWith(b, Config{Protocol: TCP, Upstream: server(b), CallerTLS: &CallerTLS{Authority: authority}, UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
		run(b, p.Addr(), trusting(authority))
	})
}
