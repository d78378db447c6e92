package toxiproxy

import (
	"fmt"
	"net/http"
	"os"
	"reflect"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// TLS is what a proxy does about TLS, which a real Toxiproxy does not know: without
// it, bytes are passed on as they come. All files are the server's, PEM, and read
// whenever the proxy is enabled.
type TLS struct {
	Listen   *ListenTLS   `json:"listen,omitempty"`   // it answers the TLS of its clients
	Upstream *UpstreamTLS `json:"upstream,omitempty"` // it speaks TLS to the upstream
}

// ListenTLS is either Cert and Key, or SelfSigned: then the server's own authority,
// GET /ca.pem, issues a certificate for whatever name clients ask for.
type ListenTLS struct {
	Cert       string   `json:"cert,omitempty"`
	Key        string   `json:"key,omitempty"`
	SelfSigned bool     `json:"self_signed,omitempty"`
	ClientCA   string   `json:"client_ca,omitempty"` // clients must show a certificate of these
	ALPN       []string `json:"alpn,omitempty"`      // what clients may choose from, and the upstream is offered then
}

// UpstreamTLS is checked by CA (default: the system's), unless Insecure, for
// ServerName (default: the upstream's host). Cert and Key are shown to it if it asks.
type UpstreamTLS struct {
	CA         string `json:"ca,omitempty"`
	ServerName string `json:"server_name,omitempty"`
	Insecure   bool   `json:"insecure,omitempty"`
	Cert       string `json:"cert,omitempty"`
	Key        string `json:"key,omitempty"`
}

// authorityValid is for how long a server's authority can be trusted: its key is
// in memory only, and gone with the process.
const authorityValid = 365 * 24 * time.Hour

// CA is the certificate of the authority behind self_signed, PEM.
func (s *Server) CA() ([]byte, error) {
	a, err := s.authority()
	if err != nil {
		return nil, err
	}
	return a.PEM(), nil
}

func (s *Server) showCA(w http.ResponseWriter, _ call) error {
	text, err := s.CA()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(text)
	return nil
}

// same tells whether two proxies do the same about TLS.
func (t *TLS) same(as *TLS) bool {
	return t.plain() && as.plain() || reflect.DeepEqual(t, as)
}

func (t *TLS) plain() bool { return t == nil || t.Listen == nil && t.Upstream == nil }

// into makes it part of a proxy's settings.
func (t *TLS) into(c *proxy.Config, s *Server) error {
	if t.plain() {
		return nil
	}
	var wrong error
	read := func(what, name string) []byte {
		if name == "" || wrong != nil {
			return nil
		}
		b, err := os.ReadFile(name)
		if err == nil && len(b) == 0 {
			err = fmt.Errorf("%s is empty", name)
		}
		if err != nil {
			wrong = fmt.Errorf("tls: %s: %w", what, err)
		}
		return b
	}
	if l := t.Listen; l != nil {
		to := &proxy.CallerTLS{
			Certificate: read("listen.cert", l.Cert), Key: read("listen.key", l.Key),
			ClientCA: read("listen.client_ca", l.ClientCA), ALPN: l.ALPN,
		}
		if l.SelfSigned {
			a, err := s.authority()
			if err != nil {
				return err
			}
			to.Authority = a
		} else if l.Cert == "" && l.Key == "" && wrong == nil {
			wrong = fmt.Errorf(`tls: listen: want "cert" and "key", or "self_signed": true`)
		}
		c.CallerTLS = to
	}
	if u := t.Upstream; u != nil {
		c.UpstreamTLS = &proxy.UpstreamTLS{
			CA: read("upstream.ca", u.CA), ServerName: u.ServerName, Insecure: u.Insecure,
			Certificate: read("upstream.cert", u.Cert), Key: read("upstream.key", u.Key),
		}
	}
	if wrong == nil {
		wrong = c.CheckTLS()
	}
	if wrong != nil {
		return badBody(wrong)
	}
	return nil
}
