// Package draft writes scenarios to begin with: a commented starter, the requests
// that an OpenAPI description lists, or the session that a browser recorded (HAR).
//
// A draft is text for a person to change. What was found and is not in it stands
// in Left, and in the comments at its top, each with the reason. Every draft is a
// scenario that Parse accepts; it asks 127.0.0.1 unless somebody says otherwise,
// because what stands in a description or a recording is somebody's production
// as often as not. Passwords, tokens and cookies of a recording are not taken over.
package draft

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

// Draft is a scenario to begin with.
type Draft struct {
	Text []byte
	Left []string // what is not in it, and why
}

// Options are what nobody but the user can say.
type Options struct {
	Address       string // host:port of the service that is to be asked; default 127.0.0.1:8080
	IncludeWrites bool   // OpenAPI: also POST, PUT, PATCH and DELETE
	IncludeStatic bool   // HAR: also images, styles, scripts and fonts
	Host          string // HAR: whose requests; default: the one with the most
}

func (o Options) address() string {
	if o.Address == "" {
		return "127.0.0.1:8080"
	}
	return o.Address
}

//go:embed starter.yaml
var starter []byte

// Starter is a scenario for services of the user's own, with a comment on
// everything in it.
func Starter() Draft { return Draft{Text: starter} }

// request is one request of a draft, in the words of a scenario.
type request struct {
	comments []string
	name     string
	method   string
	path     string
	headers  [][2]string
	auth     string // as YAML: { bearer: … }
	body     string
	check    []string
	think    string
	capture  [][2]string // name and JSONPath
	weight   bool
}

// problem is what the load generator would say of the request, if anything.
func (r request) problem(secrets [][2]string) (problem string) {
	rate := arrival.Rate(1)
	one := loadgen.Request{Method: r.method, Path: r.path, Body: r.body, Headers: map[string]string{}}
	for _, h := range r.headers {
		if _, twice := one.Headers[h[0]]; twice {
			return fmt.Sprintf("header %q is there twice", plain(h[0]))
		}
		one.Headers[h[0]] = h[1]
	}
	spec := loadgen.Spec{To: "api", Rate: &rate, Request: &one, Secrets: map[string]loadgen.Secret{}}
	for _, s := range secrets {
		spec.Secrets[s[0]] = loadgen.Secret{Env: s[1]}
	}
	spec.Check(func(_, format string, args ...any) {
		if problem == "" {
			problem = plain(fmt.Sprintf(format, args...))
		}
	})
	return problem
}

// stream is the load of a draft.
type stream struct {
	head     []string // comments at the top of the file
	scenario string
	service  []string // comments on the service
	address  string
	name     string
	rate     string
	comments []string
	secrets  [][2]string // name and variable
	steps    bool        // a session, not a mix
	requests []request
	left     []string
}

const mostLeft = 40 // lines about what is left out, in the file

// draft writes the YAML.
func (s stream) draft() Draft {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	comment := func(indent, text string) {
		for part := range strings.SplitSeq(text, "\n") {
			if part = plain(part); part != "" {
				line("%s# %s", indent, part)
			}
		}
	}
	for _, c := range s.head {
		comment("", c)
	}
	if len(s.left) > 0 {
		line("#\n# Left out:")
		for i, l := range s.left {
			if i == mostLeft {
				line("#   and %d more", len(s.left)-i)
				break
			}
			comment("", "  "+l)
		}
	}
	line("scenario: %s", s.scenario)
	line("target:\n  services:")
	for _, c := range s.service {
		comment("    ", c)
	}
	line("    api: { address: %q }", s.address)
	line("load:\n  %s:", s.name)
	line("    to: api\n    rate: %s", s.rate)
	for _, c := range s.comments {
		comment("    ", c)
	}
	if len(s.secrets) > 0 {
		line("    secrets: # {{.secret.NAME}} is what the variable holds; it stands in no journal and no report")
		for _, secret := range s.secrets {
			line("      %s: { env: %s }", secret[0], secret[1])
		}
	}
	if s.steps {
		line("    steps:")
	} else {
		line("    requests:")
	}
	for _, r := range s.requests {
		for _, c := range r.comments {
			comment("      ", c)
		}
		line("      - method: %s", r.method)
		if r.name != "" {
			line("        name: %s", quote(r.name))
		}
		line("        path: %s", quote(r.path))
		if r.weight {
			line("        weight: 1")
		}
		if r.think != "" {
			line("        think: %s", r.think)
		}
		if len(r.headers) > 0 {
			line("        headers:")
			for _, h := range r.headers {
				line("          %s: %s", quote(h[0]), quote(h[1]))
			}
		}
		if r.auth != "" {
			line("        auth: %s", r.auth)
		}
		if r.body != "" {
			line("        body: %s", quote(r.body))
		}
		if len(r.check) > 0 {
			line("        check:")
			for _, c := range r.check {
				line("          - %s", quote(c))
			}
		}
		if len(r.capture) > 0 {
			line("        capture:")
			for _, c := range r.capture {
				line("          %s: { json: %s }", c[0], quote(c[1]))
			}
		}
	}
	line("phases: { warmup: 3s, before: 30s }")
	line("hypothesis:\n  %s:\n    before: [ok >= 99%%, p95 < 500ms] # what holds when all is well: change it to what you promise", s.name)
	return Draft{Text: []byte(b.String()), Left: s.left}
}

// plain makes a comment of foreign text: one line, no control characters.
func plain(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 || c == 0xfeff {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimRight(text, " ")
	if all := []rune(text); len(all) > 160 {
		text = string(all[:160]) + "…"
	}
	return text
}

var bare = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._-]*$`)

// words that YAML reads as something other than text.
var yamlWords = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

// quote writes a text as YAML: bare where it can be, else in quotes.
func quote(text string) string {
	switch {
	case bare.MatchString(text) && !slices.Contains(yamlWords, strings.ToLower(text)):
		return text
	case utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool {
		return c < ' ' || c >= 0x7f && c < 0xa0 || c == 0x2028 || c == 0x2029 || c == 0xfeff
	}):
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	}
	quoted, _ := json.Marshal(text) // JSON's texts are YAML's; it has no error for text
	return string(quoted)
}

var notName = regexp.MustCompile(`[^A-Za-z0-9]+`)

// nameOf makes a name of any text, with sep between its words.
func nameOf(text, sep, otherwise string) string {
	name := strings.Trim(notName.ReplaceAllString(strings.ToLower(text), sep), sep)
	if len(name) > 40 {
		name = strings.Trim(name[:40], sep)
	}
	if name == "" || sep == "_" && name[0] >= '0' && name[0] <= '9' {
		return strings.TrimSuffix(otherwise+sep+name, sep)
	}
	return name
}

// camel parts the words of apiKey.
var camel = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// addSecret adds a secret that is not there yet. Its variable has the scenario's
// name in it: what a description calls a key must not make us send AWS_SECRET_KEY.
func (s *stream) addSecret(text string) (name string) {
	name = nameOf(camel.ReplaceAllString(text, "${1}_$2"), "_", "secret")
	env := strings.ToUpper(nameOf(s.scenario, "_", "scenario") + "_" + name)
	if !slices.Contains(s.secrets, [2]string{name, env}) {
		s.secrets = append(s.secrets, [2]string{name, env})
	}
	return name
}
