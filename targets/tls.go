package targets

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/chaosctl/chaosctl/targets/topology"
)

// TLSSpec says that a service speaks TLS. Readiness and load speak it with the
// service itself; on the edges, Caller says who speaks what:
//
//	tls          callers speak TLS to the proxy, which has a certificate of the run's
//	(default)    own authority: they are to trust ${ca}
//	plain        callers speak plainly to the proxy, and the proxy TLS to the service
//	passthrough  callers speak TLS with the service; the edge carries bytes (tcp), or
//	             datagrams (udp), where it is the default: QUIC cannot be ended in between
//
// Files are PEM, and found from the folder of the scenario.
type TLSSpec struct {
	Caller     string          `yaml:"caller" json:"caller,omitempty"`
	CA         string          `yaml:"ca" json:"ca,omitempty"`                   // who has issued its certificate; "": one the system trusts
	ServerName string          `yaml:"server_name" json:"server_name,omitempty"` // who its certificate is for; "": 127.0.0.1, or its address
	Insecure   bool            `yaml:"insecure" json:"insecure,omitempty"`
	HTTP2      *bool           `yaml:"http2" json:"http2,omitempty"`   // callers may choose HTTP/2, and the service speaks it; nil: each is asked
	Client     *ClientCertSpec `yaml:"client" json:"client,omitempty"` // what it is shown; nil: nothing
}

// ClientCertSpec is a certificate and its key.
type ClientCertSpec struct {
	Cert string `yaml:"cert,required" json:"cert"`
	Key  string `yaml:"key,required" json:"key"`
}

// AbsentSpec says that there is no such service: a fault may answer in its place,
// and what none does gets this answer, or is refused.
type AbsentSpec struct {
	Status int    `yaml:"status" json:"status,omitempty"` // 0: refused
	Body   string `yaml:"body" json:"body,omitempty"`
}

// ParseShort reads "tls", "plain" or "passthrough".
func (t *TLSSpec) ParseShort(text string) error {
	switch topology.Caller(text) {
	case topology.CallerTLS, topology.CallerPlain, topology.Passthrough:
		*t = TLSSpec{Caller: text}
		return nil
	}
	return fmt.Errorf("%q: write what callers speak, tls, plain or passthrough, or a mapping like { ca: certs/ca.pem, caller: plain }", text)
}

// ParseShort reads "503" or "refused".
func (a *AbsentSpec) ParseShort(text string) error {
	if text == "refused" {
		*a = AbsentSpec{}
		return nil
	}
	status, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%q: write a status to answer with, like 503, refused, or a mapping like { status: 503, body: gone }", text)
	}
	*a = AbsentSpec{Status: status}
	return nil
}

// caller is what the callers of a service with TLS speak.
func (v ServiceSpec) caller() topology.Caller {
	switch {
	case v.TLS.Caller != "":
		return topology.Caller(v.TLS.Caller)
	case v.Protocol == string(topology.UDP):
		return topology.Passthrough
	}
	return topology.CallerTLS
}

func (v ServiceSpec) tls() *topology.TLS {
	t := v.TLS
	if t == nil {
		return nil
	}
	to := &topology.TLS{Caller: v.caller(), CA: t.CA, ServerName: t.ServerName, Insecure: t.Insecure, HTTP2: t.HTTP2}
	if t.Client != nil {
		to.Cert, to.Key = t.Client.Cert, t.Client.Key
	}
	return to
}

func (a *AbsentSpec) topology() *topology.Absent {
	if a == nil {
		return nil
	}
	return &topology.Absent{Status: a.Status, Body: a.Body}
}

// protocol is that of the edges into the service.
func (v ServiceSpec) protocol() topology.Protocol {
	switch {
	case v.Protocol != "":
		return topology.Protocol(v.Protocol)
	case v.TLS != nil && v.caller() == topology.Passthrough:
		return topology.TCP
	}
	return topology.HTTP
}

func (s Spec) checkTLS(name string, report func(path, format string, args ...any)) {
	v := s.Services[name]
	if v.TLS == nil {
		return
	}
	path := "services." + name + ".tls"
	switch v.caller() {
	case topology.CallerTLS, topology.CallerPlain:
		if v.Protocol == string(topology.UDP) {
			report(join(path, "caller"), "what is secured on a udp edge, like HTTP/3, passes the proxy as it is: leave caller out, or write passthrough")
		}
	case topology.Passthrough:
		if v.Protocol == string(topology.HTTP) {
			report(path, "TLS that passes through is bytes to the edge: leave protocol out, or write caller: tls, and requests can be seen")
		}
	default:
		report(join(path, "caller"), "caller %q is unknown: write tls (callers speak TLS to the proxy), plain (the proxy speaks it for them) or passthrough", v.TLS.Caller)
	}
	if v.TLS.Insecure && v.TLS.CA != "" {
		report(join(path, "insecure"), "both ca and insecure: a certificate is checked, or it is not")
	}
	if v.TLS.HTTP2 != nil && (v.caller() != topology.CallerTLS || v.protocol() != topology.HTTP) {
		report(join(path, "http2"), "http2 is for callers that speak TLS to the proxy, and protocol http: they are offered HTTP/2 beside HTTP/1.1")
	}
	if c := v.TLS.Client; c != nil && (c.Cert == "") != (c.Key == "") {
		report(join(path, "client"), "a certificate and its key come together")
	}
	if v.Absent != nil {
		report(path, "service %q is absent: nobody is there to speak TLS", name)
	}
}

func (s Spec) checkAbsent(name string, report func(path, format string, args ...any)) {
	v := s.Services[name]
	if v.Absent == nil {
		return
	}
	path := "services." + name + ".absent"
	switch a := v.Absent; {
	case len(v.Command) > 0 || v.Address != "":
		report(path, "service %q is absent, and yet it has a command or an address", name)
	case v.Ready != nil || len(v.Env) > 0 || v.Dir != "":
		report(path, "service %q is absent: ready, env and dir would have no effect", name)
	case v.protocol() != topology.HTTP && (a.Status != 0 || a.Body != ""):
		report(path, "an answer needs an http edge, and those into %q carry %s: write absent: refused", name, v.protocol())
	case a.Status == 0 && a.Body != "":
		report(join(path, "status"), "a body without a status: write status: 503 beside it")
	case a.Status != 0 && (a.Status < 200 || a.Status > 599):
		report(join(path, "status"), "status is %d: write one from 200 to 599", a.Status)
	}
}

// Secrets are the files of a service that speaks TLS, read. They stay in memory.
type Secrets struct {
	topology.TLS
	CA, Cert, Key []byte // PEM; nil: none
}

// ReadSecrets reads the files of each service that speaks TLS, by its name; paths
// are from folder on.
func ReadSecrets(t topology.Topology, folder string) (map[string]*Secrets, error) {
	all := map[string]*Secrets{}
	for _, v := range t.Services {
		if v.TLS == nil {
			continue
		}
		s := &Secrets{TLS: *v.TLS}
		for _, f := range []struct {
			what, name string
			into       *[]byte
		}{{"ca", v.TLS.CA, &s.CA}, {"client.cert", v.TLS.Cert, &s.Cert}, {"client.key", v.TLS.Key, &s.Key}} {
			if f.name == "" {
				continue
			}
			name := f.name
			if !filepath.IsAbs(name) {
				name = filepath.Join(folder, name)
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("service %q, tls.%s: %w", v.Name, f.what, err)
			}
			*f.into = b
		}
		if _, err := s.Config("localhost"); err != nil {
			return nil, fmt.Errorf("service %q, tls: %w", v.Name, err)
		}
		all[v.Name] = s
	}
	return all, nil
}

// Config is for whoever speaks TLS with the service itself, at that address:
// HTTP/1.1, as readiness and load do.
func (s *Secrets) Config(address string) (*tls.Config, error) {
	c := &tls.Config{ServerName: s.ServerName, InsecureSkipVerify: s.Insecure, NextProtos: []string{"http/1.1"}}
	if c.ServerName == "" {
		c.ServerName = address
		if host, _, err := net.SplitHostPort(address); err == nil {
			c.ServerName = host
		}
	}
	if s.CA != nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(s.CA) {
			return nil, fmt.Errorf("there is no certificate in %s; want PEM, -----BEGIN CERTIFICATE-----", s.TLS.CA)
		}
	}
	if s.Cert != nil {
		pair, err := tls.X509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate and key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Secured is how to speak TLS with a service itself, where it is now; nil: plainly.
func (s *System) Secured(service string) (*tls.Config, error) {
	secrets := s.config.Secrets[service]
	if secrets == nil {
		return nil, nil
	}
	return secrets.Config(s.Address(service))
}
