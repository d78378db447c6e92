package loadgen

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

func TestProtocolNames(t *testing.T) {
	for text, want := range map[string]Protocol{"auto": AutoProtocol, "http1": HTTP1} {
		var p Protocol
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want || p.String() != text {
			t.Errorf("%q: %q, %v", text, p, err)
		}
	}
	var p Protocol
	err := p.UnmarshalText([]byte("gopher"))
	if err == nil || !strings.Contains(err.Error(), `"gopher" is not a protocol of load: write auto, http1`) {
		t.Errorf("gopher: %v", err)
	}
}

// TestProtocolTakes: what a protocol has no meaning for is refused, with its place.
func TestProtocolTakes(t *testing.T) {
	rate, redirects := arrival.Rate(10), 1
	s := Spec{To: "a", Protocol: "gopher", Request: &Request{Method: "GET", Path: "/", Redirects: &redirects}, Rate: &rate}
	if got := problems(s); !strings.Contains(got["protocol"], "gopher") {
		t.Errorf("%q", got)
	}
	// A protocol without methods, paths and headers, whose text is the body.
	plain := speech{name: "echo", about: "lines that come back", takes: takesBody | needsBody}
	var got []string
	plain.checkTakes(Spec{Headers: map[string]string{"a": "b"}, Request: s.Request}, func(path, format string, args ...any) {
		got = append(got, path+": "+fmt.Sprintf(format, args...))
	})
	for i, want := range []string{"headers: headers has no meaning with protocol echo", "request.method", "request.path", "request.redirects", "request.body: the body is missing"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("problem %d is %q, want %q…", i, got, want)
		}
	}
}

// TestTransport: a protocol that goes only with or without TLS says so.
func TestTransport(t *testing.T) {
	for _, c := range []struct {
		protocol Protocol
		tls      *tls.Config
		want     string
	}{
		{HTTP1, nil, ""}, {HTTP1, new(tls.Config), ""}, {GRPC, nil, ""}, {GRPC, new(tls.Config), ""},
		{H2, new(tls.Config), ""}, {H2, nil, "needs TLS"}, {H2C, nil, ""}, {H2C, new(tls.Config), "does not go over TLS"},
	} {
		_, _, err := Config{Spec: Spec{To: "a", Protocol: c.protocol}, TLS: c.tls}.Chosen()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, TLS %v: %v, want %q", c.protocol, c.tls != nil, err, c.want)
		}
	}
}

// TestPort: a protocol fits services whose port is of its kind, and HTTP/3 is only
// there where the binary was built with it.
func TestPort(t *testing.T) {
	for _, c := range []struct {
		protocol    Protocol
		secure, udp bool
		want        string
	}{
		{H3, true, true, ""}, {UDP, false, true, ""}, {H2, true, false, ""},
		{H3, true, false, `protocol h3 is for services with a UDP port, and that of "a" is one of TCP`},
		{UDP, false, false, `protocol udp is for services with a UDP port, and that of "a" is one of TCP`},
		{H3, false, true, `needs TLS, and "a" is asked without`},
		{UDP, true, true, "does not go over TLS"},
		{HTTP1, true, true, `goes over TCP, and "a" has a UDP port: write protocol: h3 or udp`},
	} {
		err := Spec{To: "a", Protocol: c.protocol}.Fits(c.secure, c.udp)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, TLS %t, UDP %t: %v, want %q", c.protocol, c.secure, c.udp, err, c.want)
		}
	}
	rate, streams := arrival.Rate(10), 0
	s := Spec{To: "a", Protocol: H3, Request: &Request{Method: "GET", Path: "/"}, Rate: &rate, Streams: &streams, Headers: map[string]string{"Keep-Alive": "1"}}
	got := problems(s)
	if missing := strings.Contains(got["protocol"], "go build -tags http3"); missing == haveHTTP3 {
		t.Errorf("HTTP/3 is in the binary: %t; %q", haveHTTP3, got)
	}
	if !strings.Contains(got["streams"], "streams is 0") || !strings.Contains(got["headers.Keep-Alive"], "must not be sent in HTTP/3") {
		t.Errorf("%q", got)
	}
}
