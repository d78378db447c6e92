package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/loadgen"
)

// loadScheme is what a URL's scheme says of a load.
type loadScheme struct {
	name     string
	protocol loadgen.Protocol // auto: HTTP
	port     string           // where the URL has none; "" if it must
	tls      bool
}

var loadSchemes = []loadScheme{
	{name: "http", port: "80"},
	{name: "https", port: "443", tls: true},
	{name: "grpc", port: "80"},
	{name: "grpcs", port: "443", tls: true},
	{name: "ws", protocol: loadgen.WebSocket, port: "80"},
	{name: "wss", protocol: loadgen.WebSocket, port: "443", tls: true},
	{name: "tcp", protocol: loadgen.TCP},
	{name: "udp", protocol: loadgen.UDP},
	{name: "redis", protocol: loadgen.Redis, port: "6379"},
	{name: "rediss", protocol: loadgen.Redis, port: "6379", tls: true},
	{name: "postgres", protocol: loadgen.Postgres, port: "5432"},
	{name: "postgresql", protocol: loadgen.Postgres, port: "5432"},
}

func schemeOf(name string) (loadScheme, bool) {
	i := slices.IndexFunc(loadSchemes, func(s loadScheme) bool { return s.name == name })
	if i < 0 {
		return loadScheme{}, false
	}
	return loadSchemes[i], true
}

// talks tells a protocol without HTTP's requests.
func (s loadScheme) talks() bool { return s.protocol != loadgen.AutoProtocol }

// talk makes a stream of what a URL says beyond its address: who asks, and what
// is opened.
func (a address) talk(s loadgen.Spec) (loadgen.Spec, error) {
	scheme, _ := schemeOf(a.scheme)
	foreign := slices.ContainsFunc(loadSchemes, func(of loadScheme) bool { return of.talks() && of.protocol == s.Protocol })
	if s.Protocol != loadgen.AutoProtocol && s.Protocol != scheme.protocol && (scheme.talks() || foreign) {
		return s, fmt.Errorf("%s:// does not speak protocol: %s", a.scheme, s.Protocol)
	}
	if !scheme.talks() {
		return s, nil
	}
	s.Protocol = scheme.protocol
	path, query, _ := strings.Cut(strings.TrimPrefix(a.path, "/"), "?")
	switch s.Protocol {
	case loadgen.WebSocket:
		return s, nil
	case loadgen.TCP, loadgen.UDP:
		if path != "" || query != "" || a.user != nil {
			return s, fmt.Errorf("%s://%s has no path, no query and no user: write %s://HOST:PORT", a.scheme, a.authority, a.scheme)
		}
		return s, nil
	}
	if err := a.checkTalkQuery(query); err != nil {
		return s, err
	}
	var login loadgen.Login
	if s.Login != nil {
		login = *s.Login
	}
	database, err := url.PathUnescape(path)
	if err != nil {
		return s, fmt.Errorf("the database in the URL: %w", err)
	}
	user, password := a.user.Username(), ""
	if a.user != nil {
		password, _ = a.user.Password()
	}
	login.User = cmp.Or(login.User, loadgen.Literal(user))
	login.Password = cmp.Or(login.Password, loadgen.Literal(password))
	login.Database = cmp.Or(login.Database, loadgen.Database(loadgen.Literal(database)))
	if login != (loadgen.Login{}) {
		s.Login = &login
	}
	return s, nil
}

// checkTalkQuery: of what may stand behind the ? of such URLs, sslmode is what
// matters here.
func (a address) checkTalkQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("the query of the URL: %w", err)
	}
	for key, v := range values {
		switch {
		case a.scheme == "redis" || a.scheme == "rediss":
			return fmt.Errorf("%q in the URL means nothing here: write %s://USER:PASSWORD@HOST:PORT/DATABASE", key, a.scheme)
		case key != "sslmode":
			return fmt.Errorf("%q in the URL means nothing here: only sslmode does", key)
		case !slices.Contains([]string{"disable", "require", "verify-full"}, v[0]):
			return fmt.Errorf("sslmode=%s: there are disable (default), require (any certificate) and verify-full", v[0])
		}
	}
	return nil
}

// talkFlags are flags that one protocol has a meaning for.
var talkFlags = []struct {
	flag     string
	protocol loadgen.Protocol
}{
	{"command", loadgen.Redis}, {"query", loadgen.Postgres}, {"arg", loadgen.Postgres},
	{"until", loadgen.TCP}, {"until-bytes", loadgen.TCP}, {"until-close", loadgen.TCP}, {"binary", loadgen.WebSocket},
}

func checkTalkFlags(p loadgen.Protocol, changed func(string) bool) error {
	for _, f := range talkFlags {
		if changed(f.flag) && p != f.protocol {
			return fmt.Errorf("--%s is for %s://", f.flag, f.protocol)
		}
	}
	return nil
}

// applyTalk puts what the flags say into a stream that does not speak HTTP; body and
// headers are theirs.
func (p *loadPlan) applyTalk(f loadFlags, body string, headers map[string]string) error {
	s := &p.spec
	if f.method != "" {
		return fmt.Errorf("--method is for http://; this is %s://", p.target.scheme)
	}
	if len(headers) > 0 && s.Protocol != loadgen.WebSocket {
		return fmt.Errorf("--header is for http:// and ws://; this is %s://", p.target.scheme)
	}
	s.Headers = merged(s.Headers, headers)
	if s.Binary = s.Binary || f.binary; f.until != "" || f.untilBytes != 0 || f.untilClose {
		s.Reply = &loadgen.Reply{Until: f.until, Bytes: f.untilBytes, Close: f.untilClose}
	}
	r := s.Request
	if r == nil {
		if body != "" || f.command != "" || f.query != "" || f.args != nil {
			return errors.New("the file says what is asked: leave out --body, --command, --query and --arg")
		}
		return nil
	}
	switch s.Protocol {
	case loadgen.Redis:
		if body != "" {
			return errors.New("--body: a command of Redis is --command 'GET x'")
		}
		if f.command != "" {
			_ = r.ParseShort(f.command) // what it means shows in Check
		}
	case loadgen.Postgres:
		if body != "" {
			return errors.New("--body: a query is --query 'select 1'")
		}
		r.Query, r.Args = cmp.Or(f.query, r.Query), append(r.Args, f.args...)
	default:
		r.Body = cmp.Or(body, r.Body)
	}
	return nil
}

// parseSecrets reads NAME=VARIABLE.
func parseSecrets(lines []string) (map[string]loadgen.Secret, error) {
	var all map[string]loadgen.Secret
	for _, line := range lines {
		name, env, ok := strings.Cut(line, "=")
		if !ok || name == "" || env == "" {
			return nil, fmt.Errorf("--secret %q: write NAME=VARIABLE, like token=API_TOKEN: {{.secret.token}} is then what the variable API_TOKEN of the environment holds", name)
		}
		if all == nil {
			all = map[string]loadgen.Secret{}
		}
		all[name] = loadgen.Secret{Env: env}
	}
	return all, nil
}
