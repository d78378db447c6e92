package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Authority issues the certificates of proxies that terminate TLS. Its key is made
// with it, and never leaves the process: what trusts it trusts nothing else once
// the process has ended. Safe for use by several goroutines.
type Authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	leaf *ecdsa.PrivateKey // of all that it issues

	mu     sync.Mutex
	issued map[string]*tls.Certificate // by the names they are for
}

// A certificate is issued anew when less than half of its time is left. Clocks of
// callers may be behind by that much.
const (
	leafValid   = 24 * time.Hour
	clockSkew   = time.Hour
	mostIssued  = 1000 // names that callers may have asked for are kept
	longestName = 253  // of a host (RFC 1035, without the final dot)
)

// NewAuthority makes one (ECDSA P-256) that is valid for so long from now.
func NewAuthority(valid time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a certificate authority: %w", err)
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for certificates: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "chaosctl, until " + now.Add(valid).UTC().Format(time.RFC3339)},
		NotBefore:    now.Add(-clockSkew), NotAfter: now.Add(valid),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	return &Authority{
		key: key, cert: cert, leaf: leaf, issued: map[string]*tls.Certificate{},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// PEM is its certificate, which callers are to trust.
func (a *Authority) PEM() []byte { return slices.Clone(a.pem) }

// WriteFile writes PEM to a file that everybody may read.
func (a *Authority) WriteFile(name string) error {
	if err := os.WriteFile(name, a.pem, 0o644); err != nil {
		return fmt.Errorf("write the certificate of the authority: %w", err)
	}
	return nil
}

// certificate is for the name that the caller asks for, and for what a caller can
// call this machine: localhost, its loopback addresses, the address it has come to.
func (a *Authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if len(name) > longestName {
		return nil, fmt.Errorf("the caller asks for a name of %d bytes; a host's has at most %d", len(name), longestName)
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	id := name
	if at, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		ips = append(ips, at.IP)
		id += "\x00" + at.IP.String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if c := a.issued[id]; c != nil && c.Leaf.NotAfter.Sub(now) > leafValid/2 {
		return c, nil
	}
	names := []string{"localhost"}
	if name != "" && name != "localhost" {
		names = append([]string{name}, names...)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "chaosctl proxy"},
		NotBefore: a.cert.NotBefore, NotAfter: now.Add(leafValid),
		DNSNames: names, IPAddresses: ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if now.Add(-clockSkew).After(template.NotBefore) {
		template.NotBefore = now.Add(-clockSkew)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leaf.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %q: %w", name, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %q: %w", name, err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leaf, Leaf: leaf}
	if len(a.issued) >= mostIssued {
		clear(a.issued)
	}
	a.issued[id] = c
	return c, nil
}

// serial is a random number of 127 bits: what RFC 5280 allows is more.
func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}
