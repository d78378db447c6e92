package loadgen

import (
	"fmt"
	"slices"
	"strings"
)

// Login is who a connection belongs to, in protocols that ask (redis, postgres).
// All three are templates, which know secrets and nothing else:
//
//	login: { user: shop, password: "{{.secret.password}}", database: orders }
type Login struct {
	User     string   `yaml:"user" json:"user,omitempty"`
	Password string   `yaml:"password" json:"password,omitempty"`
	Database Database `yaml:"database" json:"database,omitempty"`
}

// Database is a name, or Redis' number of one.
type Database string

// UnmarshalText takes it as it is written.
func (d *Database) UnmarshalText(text []byte) error {
	*d = Database(text)
	return nil
}

// credentials is a Login, compiled.
type credentials struct{ user, password, database *tmpl }

// compileLogin is nil where there is no login.
func (s Spec) compileLogin(report func(path, format string, args ...any)) *credentials {
	if s.Login == nil {
		return nil
	}
	in := newScope()
	in.secrets = s.secretValues()
	template := func(key, text string) *tmpl {
		t, err := parseTemplateIn(text, in)
		if err != nil {
			report("login."+key, "%s: %v", key, err)
			return new(tmpl)
		}
		return t
	}
	return &credentials{template("user", s.Login.User), template("password", s.Login.Password), template("database", string(s.Login.Database))}
}

func (c *credentials) render() (user, password, database string, err error) {
	d := drawOf(0, 0, forContent)
	var all [3]string
	for i, t := range []*tmpl{c.user, c.password, c.database} {
		text, err := t.append(nil, &d)
		if err != nil {
			return "", "", "", fmt.Errorf("rendering the login: %w", err)
		}
		all[i] = string(text)
	}
	return all[0], all[1], all[2], nil
}

// content is what a request of the stream says in a protocol without methods and
// paths: the words of a command, or parameters of a query, and the text that is
// sent.
func (s Spec) content(r Request) (words []string, text string, err error) {
	switch s.Protocol {
	case Redis:
		if words = r.Command; len(words) == 0 {
			words, err = redisWords(r.short())
		}
		return words, "", err
	case Postgres:
		text = r.Query
		if text == "" {
			text = r.short()
		}
		return r.Args, text, nil
	case WebSocket:
		return nil, firstOf(r.Body, s.Body), nil
	}
	text = firstOf(r.Body, r.short(), s.Body)
	if s.Protocol == TCP || s.Protocol == UDP {
		text, err = unescape(text)
	}
	return nil, text, err
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// title is what a request is called before it is rendered: "POST /checkout",
// "GET key-{{int 1 9}}".
func (s Spec) title(r Request) string {
	method, path := s.label(r)
	return strings.TrimSpace(method + " " + clip(path))
}

// label is the same in two parts; the second is a template.
func (s Spec) label(r Request) (method, path string) {
	if !s.speech().talks {
		return r.Method, r.Path
	}
	words, text, err := s.content(r)
	switch {
	case err != nil:
		return r.short(), ""
	case s.Protocol == Redis && len(words) > 0 && !strings.Contains(words[0], "{{"):
		return strings.ToUpper(words[0]), strings.Join(words[1:], " ")
	case s.Protocol == Redis:
		return "", strings.Join(words, " ")
	case s.Protocol == Postgres:
		method, path, _ = strings.Cut(strings.TrimSpace(text), " ")
		if strings.Contains(method, "{{") {
			return "", text
		}
		return method, path
	case s.Protocol == WebSocket:
		return "WEBSOCKET", r.Path
	}
	return strings.ToUpper(string(s.Protocol)), firstOf(r.Body, r.short(), s.Body)
}

// checkTalk reports what is wrong with requests in the words of their protocol.
func (s Spec) checkTalk(report func(path, format string, args ...any)) {
	if s.Login != nil {
		s.compileLogin(report)
	}
	for i, r := range s.own() {
		at := s.at(i)
		words, text, err := s.content(r)
		if err != nil {
			report(at, "%v", err)
			continue
		}
		switch s.Protocol {
		case Redis:
			s.checkCommand(r, words, at, report)
		case Postgres:
			checkQuery(r, text, at, report)
		case TCP, UDP:
			if r.Body != "" && r.short() != "" {
				report(at+".body", "the request is given twice, as a text and as body")
			}
			if text == "" {
				report(at, "what is sent is missing: write request: \"PING\\n\", or body: …")
			}
		case WebSocket:
			s.checkMessage(i, r, text, at, report)
		}
	}
	switch s.Protocol {
	case TCP:
		if s.Reply == nil {
			report("reply", `where an answer ends is missing: write reply: { until: "\n" }, { bytes: 4 } or close`)
		} else {
			s.Reply.check("reply", report)
		}
	case Redis:
		if l := s.Login; l != nil && l.User != "" && l.Password == "" {
			report("login.password", "the user of a login has a password")
		}
		if l := s.Login; l != nil && l.Database != "" && !strings.Contains(string(l.Database), "{{") && strings.Trim(string(l.Database), "0123456789") != "" {
			report("login.database", "%q is no database: Redis numbers them, from 0", l.Database)
		}
	case Postgres:
		if s.Login == nil || s.Login.User == "" {
			report("login", "who asks is missing: write login: { user: …, password: …, database: … }")
		}
	}
}

func (s Spec) checkCommand(r Request, words []string, at string, report func(path, format string, args ...any)) {
	switch {
	case len(r.Command) > 0 && r.short() != "":
		report(at+".command", "the command is given twice, as a text and as command")
	case len(words) == 0:
		report(at, "the command is missing: write request: GET key-{{int 1 100}}, or command: [SET, key, value]")
	case slices.Contains(notOneReply, strings.ToUpper(words[0])):
		report(at, "%s is not answered once and done with: a request is one command with one reply", strings.ToUpper(words[0]))
	case strings.EqualFold(words[0], "AUTH"), strings.EqualFold(words[0], "SELECT"):
		report(at, "%s is about the connection, which requests share: write login: { user: …, password: …, database: 1 }", strings.ToUpper(words[0]))
	}
}

func checkQuery(r Request, text, at string, report func(path, format string, args ...any)) {
	word, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	switch {
	case r.Query != "" && r.short() != "":
		report(at+".query", "the query is given twice, as a text and as query")
	case text == "":
		report(at, "the query is missing: write request: select 1, or query: … with args: […]")
	case strings.EqualFold(word, "COPY"), strings.EqualFold(word, "LISTEN"):
		report(at, "%s is no query with an answer", strings.ToUpper(word))
	}
}

// checkMessage: requests share connections, so that what a connection is opened
// with is the same for all.
func (s Spec) checkMessage(i int, r Request, text, at string, report func(path, format string, args ...any)) {
	if text == "" {
		report(at+".body", "the message is missing: write body: …")
	}
	if r.Method != "GET" && r.Method != "" {
		report(at+".method", "a WebSocket is opened with a GET")
	}
	if i == 0 {
		return
	}
	if first := s.own()[0]; r.Path != first.Path {
		report(at+".path", "path %q, and the first request has %q: requests share connections, which are opened for one path; make a stream for each", r.Path, first.Path)
	}
}

// wordsKey is the key that content's words stand under.
func (s Spec) wordsKey() string {
	if s.Protocol == Postgres {
		return "args"
	}
	return "command"
}
