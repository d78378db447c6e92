package loadgen

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Protocol is what a stream speaks with its service; the table below says which
// there are. The empty text is auto: HTTP/1.1, over TLS too.
type Protocol string

const (
	AutoProtocol Protocol = ""
	HTTP1        Protocol = "http1"
	H2C          Protocol = "h2c"
	H2           Protocol = "h2"
	GRPC         Protocol = "grpc"
	H3           Protocol = "h3"
)

// speech is a protocol that streams can have: what a stream may say with it, and
// who carries it.
type speech struct {
	name  Protocol
	about string // for whoever has to choose
	takes takes
	tls   tlsUse
	udp   bool   // it goes to a UDP port
	alpn  string // what it is called in a TLS handshake (RFC 7301); "" leaves that to the settings
	talks bool   // a talker carries it: there are no methods, paths and status codes

	// fast tells that event loops carry it, where nothing else stands against them.
	fast bool
	// prepare completes the stream before anything is sent, by either engine; nil where
	// it is complete. An error means that nothing can be sent.
	prepare func(ctx context.Context, c Config, s *stream) error
	// open makes what carries the requests of one stream in the general engine. An
	// error means that none can be sent.
	open func(ctx context.Context, c Config, s *stream) (carrier, error)
	// check reports what is wrong with a stream's requests beyond what holds for
	// all; nil if nothing can be.
	check func(s Spec, report func(path, format string, args ...any))
}

// carrier is what the clients of one stream share: nothing, or connections.
type carrier struct {
	client func() client // a new one; from any goroutine
	close  func()        // when all clients are closed; nil if there is nothing to close
}

// takes is a set of what a stream and its requests may say. Text and templates of
// a protocol that has no methods and paths stand in body.
type takes uint32

const (
	takesMethod       takes = 1 << iota // without it, a request needs none
	takesPath                           // the same
	takesHeaders                        // and auth
	takesBody                           // it may have one
	needsBody                           // it must have one
	takesRedirects                      // redirects, and cookies of sessions
	takesStatus                         // ok: sets of HTTP status codes
	takesCommand                        // command, or its words as the request
	takesQuery                          // query and args, or the query as the request
	takesLogin                          // login
	takesReply                          // reply
	takesBinary                         // binary
	takesHeaderChecks                   // checks and captures of an answer's header
	takesValueChecks                    // checks whether there is a value
	takesStreams                        // streams: several requests at once on one connection
	takesConnection                     // connection: it has connections
	takesCalls                          // descriptors, and gRPC's names of status codes in ok

	takesHTTP = takesConnection | takesMethod | takesPath | takesHeaders | takesBody | takesRedirects | takesStatus | takesHeaderChecks
)

// checkTakes is what the subjects of checks belong to, those aside that all
// protocols have.
var checkTakes = map[string]takes{
	"status": takesStatus, "header": takesHeaderChecks, "rows": takesQuery, "affected": takesQuery, "value": takesValueChecks,
}

// tlsUse is whether a protocol goes over TLS.
type tlsUse uint8

const (
	plainOrTLS tlsUse = iota
	plainOnly
	tlsOnly
)

// speeches are the protocols, in the order in which messages name them; the first
// is what auto means.
func speeches() []speech {
	return append([]speech{
		{
			name: HTTP1, about: "HTTP/1.1, what auto means", takes: takesHTTP, fast: true,
			open: func(ctx context.Context, c Config, s *stream) (carrier, error) {
				return carrier{client: func() client { return newHTTPClient(ctx, s, c) }}, nil
			},
		},
		{
			name: H2C, about: "HTTP/2 without TLS, by prior knowledge", takes: takesHTTP | takesStreams, tls: plainOnly, fast: true,
			check: checkH2, open: openH2,
		},
		{
			name: H2, about: "HTTP/2 over TLS, by ALPN", takes: takesHTTP | takesStreams, tls: tlsOnly, alpn: "h2", fast: true,
			check: checkH2, open: openH2,
		},
		{
			name: GRPC, about: "unary calls of gRPC over HTTP/2", alpn: "h2", fast: true, check: checkGRPC, prepare: findCalls, open: openH2,
			takes: takesConnection | takesMethod | takesPath | takesHeaders | takesBody | takesStatus | takesStreams | takesCalls | takesHeaderChecks,
		},
		{
			name: H3, about: "HTTP/3 over QUIC, always with TLS", takes: takesHTTP | takesStreams, tls: tlsOnly, udp: true, alpn: "h3",
			check: checkH3, open: openH3,
		},
	}, talkSpeeches()...)
}

// UnmarshalText reads the name of a protocol.
func (p *Protocol) UnmarshalText(text []byte) error {
	name := Protocol(strings.TrimSpace(string(text)))
	if name == "auto" {
		name = AutoProtocol
	}
	if _, ok := speechOf(name); !ok {
		var all []string
		for _, s := range speeches() {
			all = append(all, fmt.Sprintf("%s (%s)", s.name, s.about))
		}
		return fmt.Errorf("%q is not a protocol of load: write auto, %s", text, strings.Join(all, ", "))
	}
	*p = name
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p Protocol) String() string { return cmp.Or(string(p), "auto") }

// Protocols are those that a stream may name, auto first.
func Protocols() []string {
	names := []string{AutoProtocol.String()}
	for _, s := range speeches() {
		names = append(names, string(s.name))
	}
	return names
}

func speechOf(p Protocol) (*speech, bool) {
	all := speeches()
	p = cmp.Or(p, all[0].name)
	i := slices.IndexFunc(all, func(s speech) bool { return s.name == p })
	return &all[max(i, 0)], i >= 0
}

// speech is how the stream speaks; HTTP/1.1 where its protocol is none.
func (s Spec) speech() *speech {
	sp, _ := speechOf(s.Protocol)
	return sp
}

// Fits tells what keeps the stream's protocol from being spoken with a service: one
// that speaks TLS, or does not, at a port of UDP, or of TCP.
func (s Spec) Fits(secure, udp bool) error {
	switch sp := s.speech(); {
	case udp && !sp.udp:
		return fmt.Errorf("protocol %s (%s) goes over TCP, and %q has a UDP port: write protocol: h3 or udp", sp.name, sp.about, s.To)
	case !udp && sp.udp:
		return fmt.Errorf("protocol %s is for services with a UDP port, and that of %q is one of TCP", sp.name, s.To)
	case sp.tls == plainOnly && secure:
		return fmt.Errorf("protocol %s (%s) does not go over TLS", sp.name, sp.about)
	case sp.tls == tlsOnly && !secure:
		return fmt.Errorf("protocol %s (%s) needs TLS, and %q is asked without", sp.name, sp.about, s.To)
	}
	return nil
}

// dialer makes the connections of the general engine, before TLS.
func (c Config) dialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	dial := c.Dial
	if dial == nil {
		// Keep-alive probes would be two more system calls per connection.
		dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	return dial
}

func (s *speech) may(what takes) bool { return s.takes&what != 0 }

// checkProtocol reports what the stream says and its protocol has no meaning for.
func (s Spec) checkProtocol(report func(path, format string, args ...any)) {
	sp, ok := speechOf(s.Protocol)
	if !ok {
		report("protocol", "%v", new(Protocol).UnmarshalText([]byte(s.Protocol)))
		return
	}
	sp.checkTakes(s, report)
	if sp.check != nil {
		sp.check(s, report)
	}
}

func (sp *speech) checkTakes(s Spec, report func(path, format string, args ...any)) {
	refuse := func(given bool, what takes, path, name string) {
		if given && !sp.may(what) {
			report(path, "%s has no meaning with protocol %s (%s)", name, sp.name, sp.about)
		}
	}
	refuse(len(s.Headers) > 0, takesHeaders, "headers", "headers")
	refuse(s.Auth != nil, takesHeaders, "auth", "auth")
	refuse(s.Body != "", takesBody, "body", "body")
	refuse(len(s.OK) > 0, takesStatus, "ok", "ok")
	refuse(s.Login != nil, takesLogin, "login", "login")
	refuse(s.Reply != nil, takesReply, "reply", "reply")
	refuse(s.Binary, takesBinary, "binary", "binary")
	refuse(s.Descriptors != "", takesCalls, "descriptors", "descriptors")
	refuse(s.Connection != nil, takesConnection, "connection", "connection")
	refuse(s.Streams != nil, takesStreams, "streams", "streams")
	for i, r := range s.own() {
		at := s.at(i)
		refuse(r.Method != "" && !(r.brief && sp.talks), takesMethod, at+".method", "method")
		refuse(r.Path != "" && !(r.brief && sp.talks), takesPath, at+".path", "path")
		refuse(len(r.Command) > 0, takesCommand, at+".command", "command")
		refuse(r.Query != "", takesQuery, at+".query", "query")
		refuse(len(r.Args) > 0, takesQuery, at+".args", "args")
		for n, c := range r.Check {
			what, some := checkTakes[c.subject]
			refuse(some, what, fmt.Sprintf("%s.check[%d]", at, n), c.subject)
		}
		if len(s.Steps) > 0 {
			for name, c := range s.sequence()[i].Capture {
				refuse(c.Header != "", takesHeaderChecks, at+".capture."+name, "header")
				refuse(c.Cookie != "", takesRedirects, at+".capture."+name, "cookie")
			}
		}
		refuse(len(r.Headers) > 0, takesHeaders, at+".headers", "headers")
		refuse(r.Auth != nil, takesHeaders, at+".auth", "auth")
		refuse(r.Body != "", takesBody, at+".body", "body")
		refuse(r.Redirects != nil, takesRedirects, at+".redirects", "redirects")
		if sp.may(needsBody) && r.Body == "" && s.Body == "" {
			report(at+".body", "the body is missing: with protocol %s (%s) it is what is sent", sp.name, sp.about)
		}
	}
}
