package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/scenarios/strict"
)

// loadName is the stream's name: one for all, so that a seed means the same
// whatever the URL.
const loadName = "load"

// mostTargets bounds what is read from a file of targets.
const mostTargets = 1 << 20

// loadTarget is where a load goes.
type loadTarget struct {
	scheme    string // one of loadSchemes
	sslmode   string // of postgres
	authority string // as the URL has it: shop.example:8080
	addresses []string
	address   string      // the one of them that is used: 192.0.2.7:8080
	tls       *tls.Config // of https; else nil
	quic      bool        // it is asked in HTTP/3
}

func (t loadTarget) overTLS() bool {
	scheme, _ := schemeOf(t.scheme)
	return scheme.tls || t.sslmode != "" && t.sslmode != "disable"
}

func (t loadTarget) url() string { return t.scheme + "://" + t.authority }

// readLoad reads what the argument names: a URL, or a file of targets or of a
// load stream. The spec lacks what flags may say.
func readLoad(arg string) (loadgen.Spec, loadTarget, error) {
	if strings.Contains(arg, "://") && !strings.ContainsAny(arg[:strings.Index(arg, "://")], `/\`) {
		a, err := parseAddress(arg)
		if err != nil {
			return loadgen.Spec{}, loadTarget{}, err
		}
		if scheme, _ := schemeOf(a.scheme); scheme.talks() {
			r := &loadgen.Request{}
			if scheme.protocol == loadgen.WebSocket {
				r = &loadgen.Request{Method: "GET", Path: a.path, Headers: a.headers()}
			}
			s, err := a.talk(loadgen.Spec{Request: r})
			return a.spec(s), a.target(), err
		}
		return a.spec(loadgen.Spec{Request: &loadgen.Request{Path: a.path, Headers: a.headers()}}), a.target(), nil
	}
	src, err := readLoadFile(arg)
	if err != nil {
		return loadgen.Spec{}, loadTarget{}, err
	}
	if ext := filepath.Ext(arg); ext == ".yaml" || ext == ".yml" {
		return readStream(arg, src)
	}
	requests, err := readTargets(arg, src)
	if err != nil {
		return loadgen.Spec{}, loadTarget{}, err
	}
	s := loadgen.Spec{Order: loadgen.Listed}
	var first address
	for i, r := range requests {
		if i == 0 {
			first = r.address
		} else if r.scheme != first.scheme || r.authority != first.authority {
			return s, loadTarget{}, fmt.Errorf("%s:%d: %s://%s is another address than %s://%s above; one load goes to one address: make a file for each",
				arg, r.line, r.scheme, r.authority, first.scheme, first.authority)
		}
		s.Requests = append(s.Requests, r.request)
	}
	return first.spec(s), first.target(), nil
}

func readLoadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%q is no file, and no URL: a URL begins with http:// or https://", name)
	case err != nil:
		return nil, err
	}
	defer f.Close()
	const most = 256 << 20
	src, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case len(src) > most:
		return nil, fmt.Errorf("%s: more than %d MB", name, most>>20)
	}
	return src, nil
}

// readStream reads a load stream as a scenario writes it, with a URL for its to.
func readStream(name string, src []byte) (loadgen.Spec, loadTarget, error) {
	doc := strict.Parse(name, src)
	var s loadgen.Spec
	doc.Decode(&s)
	s.ReadData(scenarios.Folder(filepath.Dir(name)), func(path, format string, args ...any) { doc.Report(path, "", format, args...) })
	if err := doc.Err(); err != nil {
		return s, loadTarget{}, err
	}
	if s.To == "" {
		return s, loadTarget{}, fmt.Errorf("%s: to is missing: write to: http://HOST:PORT", name)
	}
	a, err := parseAddress(s.To)
	scheme, _ := schemeOf(a.scheme)
	if err == nil {
		s, err = a.talk(s)
	}
	switch {
	case err != nil:
		return s, loadTarget{}, fmt.Errorf("%s: to: %w", name, err)
	case a.path != "/" && (!scheme.talks() || scheme.protocol == loadgen.WebSocket):
		return s, loadTarget{}, fmt.Errorf("%s: to: %q is in the way; the path stands in the request", name, a.path)
	}
	// What is wrong in the file is told with its place in it; a rate may still
	// come from the command line.
	checked := a.spec(s)
	if !checked.Paced() {
		one := arrival.Rate(1)
		checked.Rate = &one
	}
	checked.Check(func(path, format string, args ...any) { doc.Report(path, "", format, args...) })
	if err := doc.Err(); err != nil {
		return s, loadTarget{}, err
	}
	if !scheme.talks() || scheme.protocol == loadgen.WebSocket {
		s.Headers = merged(a.headers(), s.Headers)
	}
	return a.spec(s), a.target(), nil
}

// address is a URL taken apart. Its path may be a template, and stays as it is.
type address struct {
	scheme, authority, path string
	user                    *url.Userinfo
}

func parseAddress(text string) (address, error) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(text), "://")
	a := address{scheme: strings.ToLower(scheme), path: "/"}
	if _, known := schemeOf(a.scheme); !ok || !known {
		return a, fmt.Errorf("%q is not a URL to send load to: write http://HOST:PORT/PATH or https://…, grpc://HOST:PORT/package.Service/Method, or ws, wss, tcp, udp, redis, rediss, postgres", text)
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest, a.path = rest[:i], rest[i:]
		a.path, _, _ = strings.Cut(a.path, "#")
		if !strings.HasPrefix(a.path, "/") {
			a.path = "/" + a.path
		}
	}
	u, err := url.Parse(a.scheme + "://" + rest)
	if err != nil {
		return a, fmt.Errorf("%q is not a URL: %w", text, errors.Unwrap(err))
	}
	a.authority, a.user = u.Host, u.User
	if u.Hostname() == "" {
		return a, fmt.Errorf("%q names no host: write %s://HOST:PORT/PATH", text, a.scheme)
	}
	if scheme, _ := schemeOf(a.scheme); scheme.port == "" && u.Port() == "" {
		return a, fmt.Errorf("%q names no port: write %s://HOST:PORT", text, a.scheme)
	}
	return a, nil
}

func (a address) target() loadTarget {
	t := loadTarget{scheme: a.scheme, authority: a.authority}
	if _, query, ok := strings.Cut(a.path, "?"); ok && strings.HasPrefix(a.scheme, "postgres") {
		values, _ := url.ParseQuery(query) // was checked
		t.sslmode = values.Get("sslmode")
	}
	return t
}

func (a address) spec(s loadgen.Spec) loadgen.Spec {
	s.Name, s.To = loadName, a.authority
	if strings.HasPrefix(a.scheme, "grpc") && s.Protocol == loadgen.AutoProtocol {
		s.Protocol = loadgen.GRPC
	}
	return s
}

// headers are those that the URL asks for.
func (a address) headers() map[string]string {
	h := map[string]string{"Host": a.authority}
	if a.user != nil {
		password, _ := a.user.Password()
		h["Authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte(a.user.Username()+":"+password))
	}
	return h
}

// listed is one target of a file, and the line it begins on.
type listed struct {
	address
	line    int
	request loadgen.Request
}

// readTargets reads vegeta's formats: JSON, an object per line, or HTTP:
//
//	POST http://shop.example/checkout
//	Content-Type: application/json
//	@body.json
//
// Targets are separated by blank lines, or by the next method; # begins a
// comment. Nothing in such a file is a template.
func readTargets(name string, src []byte) ([]listed, error) {
	var all []listed
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) {
		all, err = readJSONTargets(src)
	} else {
		all, err = readHTTPTargets(src)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s:%w", name, err)
	case len(all) == 0:
		return nil, fmt.Errorf("%s: there is no target in it: write lines like GET http://127.0.0.1:8080/", name)
	}
	return all, nil
}

var targetLine = regexp.MustCompile(`^([A-Z]+)\s+(\S.*)$`)

func readHTTPTargets(src []byte) ([]listed, error) {
	var all []listed
	open := false // the target goes on
	lines := bufio.NewScanner(bytes.NewReader(src))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		m := targetLine.FindStringSubmatch(line)
		switch {
		case line == "":
			open = false
		case line[0] == '#':
		case m != nil:
			t, err := newListed(n, m[1], m[2], nil, nil)
			if err != nil {
				return nil, fmt.Errorf("%d: %w", n, err)
			}
			if all = append(all, t); len(all) > mostTargets {
				return nil, fmt.Errorf("%d: more than %d targets", n, mostTargets)
			}
			open = true
		case !open:
			return nil, fmt.Errorf("%d: %q is not a target: write METHOD URL, like GET http://127.0.0.1:8080/", n, line)
		case line[0] == '@':
			body, err := os.ReadFile(line[1:])
			if err != nil {
				return nil, fmt.Errorf("%d: the body: %w", n, err)
			}
			all[len(all)-1].request.Body, open = loadgen.Literal(string(body)), false
		default:
			key, value, ok := strings.Cut(line, ":")
			if key, value = strings.TrimSpace(key), strings.TrimSpace(value); !ok || key == "" || value == "" {
				return nil, fmt.Errorf("%d: %q is not a header: write Name: value", n, line)
			}
			addHeader(all[len(all)-1].request.Headers, key, value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf(" %w", err)
	}
	return all, nil
}

func readJSONTargets(src []byte) ([]listed, error) {
	var all []listed
	for n, line := range bytes.Split(src, []byte("\n")) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var v vegeta.Target
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		t, err := newListed(n, v.Method, v.URL, v.Header, v.Body)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		if all = append(all, t); len(all) > mostTargets {
			return nil, fmt.Errorf("%d: more than %d targets", n, mostTargets)
		}
	}
	return all, nil
}

func newListed(line int, method, address string, headers map[string][]string, body []byte) (listed, error) {
	a, err := parseAddress(address)
	if err != nil {
		return listed{}, err
	}
	r := loadgen.Request{Method: method, Path: loadgen.Literal(a.path), Body: loadgen.Literal(string(body)), Headers: a.headers()}
	for name, values := range headers {
		for _, v := range values {
			addHeader(r.Headers, name, v)
		}
	}
	return listed{address: a, line: line, request: r}, nil
}

// addHeader joins the values of one name, which is what several lines of it mean
// (RFC 9110, 5.3).
func addHeader(headers map[string]string, name, value string) {
	value = loadgen.Literal(value)
	for other, v := range headers {
		if strings.EqualFold(other, name) {
			delete(headers, other)
			if !strings.EqualFold(name, "Host") && !strings.EqualFold(name, "Authorization") {
				value = v + ", " + value
			}
		}
	}
	headers[name] = value
}

// lookup finds the addresses of the target's host.
func (t *loadTarget) lookup(ctx context.Context) error {
	u := url.URL{Host: t.authority}
	port := u.Port()
	if port == "" {
		scheme, _ := schemeOf(t.scheme)
		port = scheme.port
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, u.Hostname())
	if err != nil {
		return usage(fmt.Errorf("no address for %q: %w", u.Hostname(), err), "check the host's name, or write its IP address")
	}
	for _, ip := range ips {
		t.addresses = append(t.addresses, net.JoinHostPort(ip.String(), port))
	}
	return nil
}

// reachable is the first of the target's addresses that accepts a connection,
// for https with a certificate that we accept.
func reachable(ctx context.Context, t loadTarget) (string, error) {
	if t.scheme == "udp" || t.quic {
		return t.addresses[0], nil // only an answer tells
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var failures error
	hint := "start the server first; load begins only when it accepts a connection"
	for _, a := range t.addresses {
		dial := new(net.Dialer).DialContext
		if t.tls != nil && t.sslmode == "" { // PostgreSQL agrees on TLS in its own way
			dial = (&tls.Dialer{Config: t.tls}).DialContext
		}
		conn, err := dial(ctx, "tcp", a)
		if err == nil {
			return a, conn.Close()
		}
		var certificate *tls.CertificateVerificationError
		if errors.As(err, &certificate) {
			hint = "--cacert FILE names who else is to be trusted; --server-name says whose certificate it is; --insecure accepts any"
		}
		failures = errors.Join(failures, err)
	}
	return "", usage(fmt.Errorf("nothing to load at %s: %w", t.url(), failures), hint)
}

// loadTLSFlags say how a load over https is secured.
type loadTLSFlags struct {
	insecure          bool
	authorities       string // a file with certificates
	certificate, key  string // files
	server            string
	withoutResumption bool
}

// secure sets up TLS for https: HTTP/1.1, certificates checked against the URL's
// host unless the user said otherwise.
func (t *loadTarget) secure(f loadTLSFlags) error {
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"--insecure", f.insecure}, {"--cacert", f.authorities != ""}, {"--cert", f.certificate != ""}, {"--key", f.key != ""},
		{"--server-name", f.server != ""}, {"--no-resumption", f.withoutResumption},
	} {
		if flag.given && !t.overTLS() {
			return fmt.Errorf("%s is for https; this is %s", flag.name, t.scheme)
		}
	}
	if !t.overTLS() {
		return nil
	}
	u := url.URL{Host: t.authority}
	c := &tls.Config{
		ServerName:         cmp.Or(f.server, u.Hostname()),
		InsecureSkipVerify: f.insecure || t.sslmode == "require", SessionTicketsDisabled: f.withoutResumption,
	}
	if scheme, _ := schemeOf(t.scheme); !scheme.talks() || scheme.protocol == loadgen.WebSocket {
		c.NextProtos = []string{"http/1.1"}
	}
	if f.authorities != "" {
		pem, err := os.ReadFile(f.authorities)
		if err != nil {
			return fmt.Errorf("--cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--cacert: there is no certificate in %s: it is to hold PEM blocks that begin with -----BEGIN CERTIFICATE-----", f.authorities)
		}
	}
	switch {
	case f.certificate == "" && f.key != "":
		return errors.New("--key is the key of a certificate: give --cert, too")
	case f.certificate != "":
		// One file may hold both.
		pair, err := tls.LoadX509KeyPair(f.certificate, cmp.Or(f.key, f.certificate))
		if err != nil {
			return fmt.Errorf("--cert %s, --key %s: %w", f.certificate, cmp.Or(f.key, f.certificate), err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	t.tls = c
	return nil
}
