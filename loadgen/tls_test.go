package loadgen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{certificate: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}, pool: x509.NewCertPool()}
	signed := a.sign(t, a.certificate)
	a.key = signed.PrivateKey.(*ecdsa.PrivateKey)
	a.certificate = signed.Leaf
	a.pool.AddCert(signed.Leaf)
	return a
}

// sign makes a key for what c says; the first signature is its own.
func (a *authority) sign(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	by := a.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.certificate, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// issue signs a certificate for names and addresses, as changed.
func (a *authority) issue(t testing.TB, change func(c *x509.Certificate)) tls.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "peer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(c)
	}
	return a.sign(t, c)
}

var once struct {
	sync.Once
	authority *authority
	peer      tls.Certificate
}

// trusted is a client and a server that know each other.
func trusted(t testing.TB) (client, server *tls.Config) {
	once.Do(func() {
		once.authority = newAuthority(t)
		once.peer = once.authority.issue(t, nil)
	})
	return &tls.Config{RootCAs: once.authority.pool}, &tls.Config{Certificates: []tls.Certificate{once.peer}}
}

// Whatever keeps client and server from agreeing on TLS is told as that, in words
// that say what it is.
func TestTLSThatFails(t *testing.T) {
	trusting, serving := trusted(t)
	issue := func(change func(c *x509.Certificate)) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{once.authority.issue(t, change)}}
	}
	mutual := serving.Clone()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, once.authority.pool
	old := serving.Clone()
	old.MaxVersion = tls.VersionTLS11
	older := serving.Clone()
	older.MaxVersion = tls.VersionTLS12
	other := serving.Clone()
	other.NextProtos = []string{"imap"}
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		want, detail   string
	}{
		{"nobody trusted signed it", &tls.Config{RootCAs: x509.NewCertPool()}, serving, "tls", "unknown authority"},
		{"of another name", &tls.Config{RootCAs: once.authority.pool, ServerName: "shop.example"}, serving, "tls", "not shop.example"},
		{"expired", trusting, issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "tls", "has expired"},
		{"the client has none", trusting, mutual, "tls", "certificate required"},
		{"no common version", trusting, old, "tls", "protocol version"},
		{"no common protocol", trusting, other, "tls", "no application protocol"},
		{"not TLS", trusting, nil, "tls", "does not speak TLS"},
		{"TLS 1.2", trusting, older, "200", ""},
		{"accepted unseen", &tls.Config{InsecureSkipVerify: true}, serving, "200", ""},
		{"accepted by another name", &tls.Config{RootCAs: once.authority.pool, ServerName: "localhost"}, serving, "200", ""},
		{"both have one", &tls.Config{RootCAs: once.authority.pool, Certificates: []tls.Certificate{once.peer}}, mutual, "200", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEnginesOnly(t, func(t *testing.T, w way) {
				t.Parallel()
				w.server = c.server
				p := w.startPeer(t, func(peer *peerConn, _ *http.Request, _ int) bool { return say(peer, fine) })
				if c.server == nil {
					p = chatter(t)
				}
				s := newSums()
				spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(50), Timeout: ptr(time.Minute)}
				if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: c.client, Start: s.start, Until: 100 * time.Millisecond, Resolve: p.address})); err != nil {
					t.Fatal(err)
				}
				s.balance(t)
				if s.Outcomes[c.want] != 5 {
					t.Errorf("outcomes %v, want 5 × %s; samples %+v", s.Outcomes, c.want, s.samples)
				}
				for _, x := range s.samples {
					if !strings.Contains(x.Detail, c.detail) {
						t.Errorf("detail %q, want one with %q", x.Detail, c.detail)
					}
				}
			})
		})
	}
}

// chatter is a peer that greets whoever comes, as mail servers do.
func chatter(t *testing.T) *peer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{listener: l}
	p.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.all.Go(func() {
				defer c.Close()
				say(c, "220 mail.example ESMTP\r\n")
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // the other side hangs up
				hang(c)
			})
		}
	})
	t.Cleanup(p.stop)
	return p
}

// A handshake that does not come to its end is a timeout that says so, and one that
// is broken off is what a broken connection is.
func TestHandshakesThatStall(t *testing.T) {
	client, _ := trusted(t)
	onEnginesOnly(t, func(t *testing.T, w way) {
		for want, meet := range map[string]func(c net.Conn){
			"timeout": func(c net.Conn) { hang(c) },
			"reset": func(c net.Conn) {
				_, _ = c.Read(make([]byte, 10))
				_ = c.(*net.TCPConn).CloseWrite()
				hang(c)
			},
		} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			all.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					all.Go(func() {
						defer c.Close()
						meet(c)
					})
				}
			})
			s := newSums()
			spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Rate: perSecond(50), Timeout: ptr(1500 * time.Millisecond)}
			if want == "reset" {
				spec.Timeout = ptr(time.Minute)
			}
			if err := Run(t.Context(), s.listen(Config{Spec: spec, Engine: w.engine, TLS: client, Start: s.start, Until: 60 * time.Millisecond, Resolve: l.Addr().String})); err != nil {
				t.Fatal(err)
			}
			l.Close()
			all.Wait()
			s.balance(t)
			if s.Outcomes[want] != 3 || s.Connects != 0 || len(s.samples) == 0 || !strings.Contains(s.samples[0].Detail, "handshake") {
				t.Errorf("outcomes %v on %d connections, samples %+v; want 3 × %s in the handshake", s.Outcomes, s.Connects, s.samples, want)
			}
		}
	})
}

// A new connection goes on with the session of an earlier one, unless that is not
// wanted; the handshake's time stands apart.
func TestSessionsAreResumed(t *testing.T) {
	onEngines(t, "", func(t *testing.T, w way) {
		if w.tls == nil {
			return
		}
		for _, resume := range []bool{true, false} {
			w.tls.SessionTicketsDisabled = !resume
			p := w.startPeer(t, func(c *peerConn, _ *http.Request, _ int) bool {
				return say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			})
			s := newSums()
			spec := Spec{Name: "s", To: "peer", Request: &Request{Method: "GET", Path: "/"}, Users: ptr(1)}
			c := s.listen(Config{Spec: spec, Engine: w.engine, TLS: w.tls, Requests: 10, Start: s.start, Until: time.Minute, Resolve: p.address})
			if err := Run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			s.balance(t)
			want := 0
			if resume {
				want = 9
			}
			if s.OK != 10 || s.Connects != 10 || s.Handshake.Count() != 10 || s.Resumed != want || s.Handshake.Min() <= 0 {
				t.Errorf("outcomes %v on %d connections with %d handshakes, %d resumed; want 10, 10, 10, %d", s.Outcomes, s.Connects, s.Handshake.Count(), s.Resumed, want)
			}
			for _, r := range s.results {
				if r.URL != "https://peer/" {
					t.Errorf("told of %s, want https://peer/", r.URL)
				}
			}
		}
	})
}

// Records are found however they come.
func TestFrames(t *testing.T) {
	record := func(n int) []byte { return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...) }
	stream := slices.Concat(record(20), record(0), record(16000), record(1))
	rapid.Check(t, func(t *rapid.T) {
		var f frames
		begun := 0
		for rest := stream; len(rest) > 0; {
			n := min(rapid.IntRange(1, 30).Draw(t, "n")*rapid.SampledFrom([]int{1, 1000}).Draw(t, "times"), len(rest))
			begun += f.see(rest[:n])
			rest = rest[n:]
			at := len(stream) - len(rest)
			if want := at == 25 || at == 30 || at == 16035 || at == len(stream); f.between() != want {
				t.Fatalf("after %d bytes between records: %t", at, f.between())
			}
		}
		if begun != 4 {
			t.Fatalf("%d records, want 4", begun)
		}
	})
}
