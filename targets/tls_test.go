package targets

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/targets/topology"
)

// TestTLSOfASpec: what a scenario writes becomes what the edges and the probes need.
func TestTLSOfASpec(t *testing.T) {
	s := Spec{Services: map[string]ServiceSpec{
		"a": {Command: []string{"a", "${edge.b}", "${edge.c}", "${edge.d}", "${edge.e}", "${ca}"}},
		"b": {Address: "127.0.0.1:1", TLS: &TLSSpec{CA: "ca.pem", Client: &ClientCertSpec{Cert: "c", Key: "k"}}},
		"c": {Address: "127.0.0.1:2", TLS: &TLSSpec{Caller: "plain", Insecure: true, ServerName: "x"}},
		"d": {Address: "127.0.0.1:3", TLS: &TLSSpec{Caller: "passthrough"}},
		"e": {Absent: &AbsentSpec{Status: 503, Body: "gone"}},
	}}
	topo, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]topology.TLS{
		"b": {Caller: topology.CallerTLS, CA: "ca.pem", Cert: "c", Key: "k"},
		"c": {Caller: topology.CallerPlain, Insecure: true, ServerName: "x"},
		"d": {Caller: topology.Passthrough},
	} {
		if v, _ := topo.Service(name); v.TLS == nil || *v.TLS != want {
			t.Errorf("%s: %+v, want %+v", name, v.TLS, want)
		}
	}
	for callee, want := range map[string]topology.Protocol{"b": topology.HTTP, "c": topology.HTTP, "d": topology.TCP, "e": topology.HTTP} {
		if e, _ := topo.Edge("a", callee); e.Protocol != want {
			t.Errorf("a -> %s carries %q, want %q", callee, e.Protocol, want)
		}
	}
	if v, _ := topo.Service("e"); v.Managed() || v.Absent == nil || *v.Absent != (topology.Absent{Status: 503, Body: "gone"}) {
		t.Errorf("e: %+v", v)
	}
}

// TestReadSecrets: from the folder of the scenario, and what is wrong is said by
// service and key.
func TestReadSecrets(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	dir := t.TempDir()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	write("junk.pem", []byte("junk"))
	of := func(v topology.TLS) topology.Topology {
		return topology.Topology{Services: []topology.Service{{Name: "plain"}, {Name: "api", TLS: &v}}}
	}
	for _, ca := range []string{"ca.pem", filepath.Join(dir, "ca.pem")} {
		all, err := ReadSecrets(of(topology.TLS{CA: ca}), dir)
		if err != nil || len(all) != 1 || all["api"].CA == nil {
			t.Fatalf("%+v, %v", all, err)
		}
		c, err := all["api"].Config("127.0.0.1:80")
		if err != nil || c.ServerName != "127.0.0.1" || c.RootCAs == nil {
			t.Errorf("%+v, %v", c, err)
		}
	}
	for want, v := range map[string]topology.TLS{
		`service "api", tls.ca: open`:                        {CA: "nowhere.pem"},
		"there is no certificate in junk.pem":                {CA: "junk.pem"},
		`service "api", tls.client.key: open`:                {Cert: "ca.pem", Key: "nowhere.pem"},
		"client certificate and key: failed to find any PEM": {Cert: "ca.pem", Key: "junk.pem"},
	} {
		if _, err := ReadSecrets(of(v), dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
