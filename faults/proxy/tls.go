package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// CallerTLS has a Proxy answer the TLS of its callers (terminate), so that rules
// see what is inside. Either Authority or Certificate and Key is set.
type CallerTLS struct {
	// Authority issues a certificate for whatever name a caller asks for (SNI), for
	// localhost, and for the address it has come to.
	Authority *Authority
	// Certificate (with its chain) and Key, PEM.
	Certificate, Key []byte
	// ClientCA, PEM: callers must show a certificate that one of these has issued.
	// Empty: they are not asked for one.
	ClientCA []byte
	// ALPN is what callers may choose a protocol from. What one chooses is all that the
	// upstream is offered then. Empty, with an UpstreamTLS: a caller that asks for a
	// protocol is answered with the one that the upstream chooses, of those that
	// Config.Protocol can carry (HTTP: h2 and http/1.1; TCP: any). So the upstream is dialled
	// before such a caller is answered, on HTTP edges only where it asks for h2. An upstream that
	// cannot be asked has no say: HTTP/1.1 on HTTP edges, none on TCP edges. Empty, without
	// an UpstreamTLS: the same, as if it could not be asked.
	ALPN []string
}

// UpstreamTLS has a Proxy speak TLS to its upstream (originate).
type UpstreamTLS struct {
	// CA, PEM, has issued the upstream's certificate; empty: one that the system trusts.
	CA []byte
	// ServerName is who the certificate must be for, and who is asked for (SNI);
	// empty: the upstream's host, localhost on a Unix socket.
	ServerName string
	// Insecure takes any certificate.
	Insecure bool
	// Certificate and Key, PEM, are shown to an upstream that asks; empty: none.
	Certificate, Key []byte
}

// alpnOf is what an edge can carry, in TLS's words (RFC 7301), the best first.
func alpnOf(p Protocol) []string {
	if p == HTTP {
		return []string{"http/1.1"}
	}
	return nil // bytes: nobody is told what they are
}

// security is a Config's TLS, ready to be used; nil: plain.
type security struct {
	caller, upstream *tls.Config
}

// plain tells whether bytes are passed on as they come, on both sides.
func (s security) plain() bool { return s.caller == nil && s.upstream == nil }

func (c *Config) security() (security, error) {
	var s security
	var err error
	if c.CallerTLS != nil {
		if s.caller, err = c.CallerTLS.config(c.Protocol); err != nil {
			return s, fmt.Errorf("TLS of callers: %w", err)
		}
	}
	if c.UpstreamTLS != nil {
		if s.upstream, err = c.UpstreamTLS.config(); err != nil {
			return s, fmt.Errorf("TLS to the upstream: %w", err)
		}
	}
	return s, nil
}

// CheckTLS tells what is wrong with CallerTLS and UpstreamTLS.
func (c *Config) CheckTLS() error {
	_, err := c.security()
	return err
}

func (c *CallerTLS) config(protocol Protocol) (*tls.Config, error) {
	to := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: c.ALPN, DynamicRecordSizingDisabled: true}
	if len(to.NextProtos) == 0 {
		to.NextProtos = alpnOf(protocol)
	}
	own := len(c.Certificate) > 0 || len(c.Key) > 0
	switch {
	case own == (c.Authority != nil):
		return nil, errors.New("want either a certificate with its key, or an authority that issues them")
	case own:
		pair, err := keyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, err
		}
		to.Certificates = []tls.Certificate{pair}
	default:
		to.GetCertificate = c.Authority.certificate
	}
	if len(c.ClientCA) > 0 {
		pool, err := certificates("client CA", c.ClientCA)
		if err != nil {
			return nil, err
		}
		to.ClientCAs, to.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return to, nil
}

func (u *UpstreamTLS) config() (*tls.Config, error) {
	to := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.ServerName, InsecureSkipVerify: u.Insecure, DynamicRecordSizingDisabled: true}
	if len(u.CA) > 0 {
		if u.Insecure {
			return nil, errors.New("both a CA and insecure: a certificate is checked, or it is not")
		}
		pool, err := certificates("CA", u.CA)
		if err != nil {
			return nil, err
		}
		to.RootCAs = pool
	}
	if len(u.Certificate) > 0 || len(u.Key) > 0 {
		pair, err := keyPair(u.Certificate, u.Key)
		if err != nil {
			return nil, err
		}
		to.Certificates = []tls.Certificate{pair}
	}
	return to, nil
}

func keyPair(certificate, key []byte) (tls.Certificate, error) {
	if len(certificate) == 0 || len(key) == 0 {
		return tls.Certificate{}, errors.New("a certificate and its key come together: one of them is missing")
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return pair, fmt.Errorf("certificate and key: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return pair, nil
}

func certificates(what string, text []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %s", what, n+1, strings.TrimPrefix(err.Error(), "x509: "))
		}
		pool.AddCert(one)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("%s: there is no certificate in it; want PEM, -----BEGIN CERTIFICATE-----", what)
	}
	return pool, nil
}

// receive is the caller's side of a connection that was just accepted. Nothing is
// said on it yet.
func (p *Proxy) receive(nc net.Conn) *socket {
	if p.tls.caller == nil {
		return newSocket(nc)
	}
	return newSocket(newSecured(nc, p.all.Go, func(w net.Conn) *tls.Conn { return tls.Server(w, p.tls.caller) }))
}

// handshakeError says that TLS was not agreed on.
type handshakeError struct {
	with string // the caller, or upstream ADDRESS
	err  error
}

func (e *handshakeError) Error() string { return e.with + ": " + handshakeWords(e.err) }
func (e *handshakeError) Unwrap() error { return e.err }

// handshakeWords are the same for the same reason: no time, no port of a peer. What
// a peer has said may be long.
func handshakeWords(err error) string {
	words := handshakeReason(err)
	if len(words) > longestReason {
		words = strings.ToValidUTF8(words[:longestReason], "") + " …"
	}
	return words
}

const longestReason = 200

func handshakeReason(err error) string {
	var invalid x509.CertificateInvalidError
	var at *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "the handshake took too long"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "it ended the connection during the handshake"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		if time.Now().Before(invalid.Cert.NotBefore) {
			return "its certificate is not valid before " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339)
		}
		return "its certificate expired on " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
	case errors.As(err, &at):
		if remote, is := strings.CutPrefix(at.Err.Error(), "tls: "); is && at.Op == "remote error" {
			return "it says: " + remote
		}
		err = at.Err
	}
	return err.Error()
}

// secure answers the caller's handshake, where the proxy is to. Rules have had
// their say by now: whoever is reset, or kept waiting, is not answered before.
func (f *flow) secure() error {
	c := f.c
	s := f.in.tls
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithValue(c.ctx, connOf{}, c))
	defer cancel()
	c.mu.Lock()
	c.stopDial = cancel
	over, ending := c.over, c.ending
	c.mu.Unlock()
	var err error
	if !over && !ending {
		err = s.handshake(ctx, c.p.config.DialTimeout)
	}
	c.mu.Lock()
	c.stopDial = nil
	over, ending = c.over, c.ending
	c.mu.Unlock()
	switch {
	case over:
		return errOver
	case ending:
		return errEnding
	case err != nil:
		if c.p.config.Protocol == HTTP { // it had no chance to make a call
			c.p.stats.begun()
			c.p.stats.ended(wasHandshake)
		}
		c.p.stats.disagreed(&handshakeError{"caller", err})
		c.end(wasHandshake, false) // the caller may read why
		return errOver
	}
	c.p.stats.met(factsOf(TLSCaller, s.ConnectionState()))
	return f.look()
}

// originate speaks TLS to the upstream that nc leads to.
func (p *Proxy) originate(ctx context.Context, c *conn, at place, nc net.Conn) (*socket, error) {
	config := p.tls.upstream.Clone()
	if config.ServerName == "" {
		config.ServerName = at.host()
	}
	agreed := ""
	if s := c.callers(); s != nil && c.early.offers == nil {
		agreed = s.ConnectionState().NegotiatedProtocol
	}
	switch {
	case c.early.offers != nil:
		config.NextProtos = c.early.offers
	case agreed != "":
		config.NextProtos = []string{agreed}
	case c.h2 != nil:
		agreed, config.NextProtos = "h2", []string{"h2"}
	default:
		config.NextProtos = alpnOf(p.config.Protocol)
		if i := slices.Index(config.NextProtos, "http/1.1"); i >= 0 { // what a caller speaks who has not asked
			config.NextProtos = config.NextProtos[i : i+1]
		}
	}
	s := newSecured(nc, p.all.Go, func(w net.Conn) *tls.Conn { return tls.Client(w, config) })
	err := s.handshake(ctx, p.config.DialTimeout)
	if err == nil {
		// Who says nothing of protocols speaks HTTP/1.1, if HTTP at all.
		if has := s.ConnectionState().NegotiatedProtocol; has != agreed && has != "" && agreed != "" || has == "" && agreed != "" && agreed != "http/1.1" {
			err = fmt.Errorf("the caller speaks the protocol %q, and it speaks %q", agreed, has)
		}
	}
	if err != nil {
		s.wire.Close()
		failed := &handshakeError{"upstream " + at.String(), err}
		if ctx.Err() == nil {
			p.stats.disagreed(failed)
		}
		return nil, failed
	}
	facts := factsOf(TLSUpstream, s.ConnectionState())
	facts.ServerName = config.ServerName // an address is not asked for by SNI, and yet it is who the certificate is for
	p.stats.met(facts)
	return newSocket(s), nil
}

// factsOf is what a handshake has agreed on.
func factsOf(side TLSSide, s tls.ConnectionState) TLSFacts {
	return TLSFacts{Side: side, ServerName: printable(s.ServerName), Version: tls.VersionName(s.Version), ALPN: printable(s.NegotiatedProtocol)}
}

// callers is the TLS of the caller's side; nil: it has none, or has gone.
func (c *conn) callers() *secured {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return nil
	}
	return c.client.tls
}

// offer is writeSome, to TLS.
func (f *flow) offer() (n int, err error) {
	if err := f.armWrite(); err != nil {
		return 0, err
	}
	out := f.out.tls
	for _, p := range f.vec {
		m, err := out.offer(p)
		f.wrote(m)
		if n += m; err != nil {
			return n, f.writeFailed(err)
		}
	}
	if out.wire.waits() {
		f.stick(out.wire.emptied)
	}
	return n, nil
}

// flushed waits, at the end of a direction, until out has been sent all that was
// written (io.EOF), or for another reason to stop.
func (f *flow) flushed() error {
	for f.out != nil && f.out.tls != nil {
		err := f.armWrite()
		if err == nil {
			if err = f.out.tls.wire.drained(); err == nil {
				break
			}
			err = f.writeFailed(err)
		}
		if errors.Is(err, errNudged) {
			err = f.look()
		}
		if err != nil {
			return err
		}
	}
	return io.EOF
}
