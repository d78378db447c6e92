package loadgen

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

// Spec is one load stream as a scenario writes it.
//
//	shoppers:
//	  request: POST /checkout
//	  to: gateway
//	  rate: 200/s          # open model; or ramp:, stages:; or users: with think: (closed model)
type Spec struct {
	Name        string            `yaml:"-" json:"name"`                      // the key it stands under
	To          string            `yaml:"to" json:"to"`                       // the service that is asked
	Request     *Request          `yaml:"request" json:"request,omitempty"`   // "POST /checkout", or a mapping
	Requests    []Request         `yaml:"requests" json:"requests,omitempty"` // a weighted mix
	Steps       []SessionStep     `yaml:"steps" json:"steps,omitempty"`       // a session: in order, over one connection
	Data        map[string]Data   `yaml:"data" json:"data,omitempty"`         // files whose rows templates use
	Rate        *arrival.Rate     `yaml:"rate" json:"rate,omitempty"`
	Ramp        *Ramp             `yaml:"ramp" json:"ramp,omitempty"`
	Stages      []Stage           `yaml:"stages" json:"stages,omitempty"`
	Users       *int              `yaml:"users" json:"users,omitempty"`
	Think       time.Duration     `yaml:"think" json:"think,omitempty"`
	Body        string            `yaml:"body" json:"body,omitempty"`               // for every request that has none of its own, GET and HEAD aside
	Headers     map[string]string `yaml:"headers" json:"headers,omitempty"`         // for every request; its own win
	Auth        *Auth             `yaml:"auth" json:"auth,omitempty"`               // for every request that has none of its own
	Timeout     *time.Duration    `yaml:"timeout" json:"timeout,omitempty"`         // since due; default 10s
	OK          []StatusSet       `yaml:"ok" json:"ok,omitempty"`                   // default: 200-399
	Connections *int              `yaml:"connections" json:"connections,omitempty"` // most open at once; default 1024, or users if that is more
}

// Request is one kind of request, short form "METHOD /path".
type Request struct {
	Method    string            `yaml:"method" json:"method"`
	Path      string            `yaml:"path" json:"path"`                 // template
	Body      string            `yaml:"body" json:"body,omitempty"`       // template
	Headers   map[string]string `yaml:"headers" json:"headers,omitempty"` // templates
	Auth      *Auth             `yaml:"auth" json:"auth,omitempty"`
	Timeout   *time.Duration    `yaml:"timeout" json:"timeout,omitempty"`
	Redirects *int              `yaml:"redirects" json:"redirects,omitempty"` // most that are followed; default 0: a redirect is the answer
	Check     []Check           `yaml:"check" json:"check,omitempty"`
	Weight    *int              `yaml:"weight" json:"weight,omitempty"` // default 1; 0 is never sent
}

// ParseShort reads "METHOD /path".
func (r *Request) ParseShort(text string) error {
	method, path, err := parseShort(text)
	if err == nil {
		*r = Request{Method: method, Path: path}
	}
	return err
}

func parseShort(text string) (method, path string, err error) {
	method, path, ok := strings.Cut(strings.TrimSpace(text), " ")
	path = strings.TrimSpace(path)
	if !ok || method == "" || !strings.HasPrefix(path, "/") {
		return "", "", fmt.Errorf(`%q is not a request: write "METHOD /path", like "POST /checkout"`, text)
	}
	return method, path, nil
}

// SessionStep is one request of a session: a user's journey, in which a later request
// uses what an earlier one was answered with.
//
//	steps:
//	  - { method: POST, path: /checkout, check: [status == 201], capture: { order: { json: $.order } } }
//	  - { method: GET, path: "/orders/{{.order}}", think: 200ms }
//
// A step is due when the one before is done and its think time is over. One that
// fails ends the session.
type SessionStep struct {
	Name      string             `yaml:"name" json:"name,omitempty"` // in the results; default "METHOD /path"
	Method    string             `yaml:"method" json:"method"`
	Path      string             `yaml:"path" json:"path"`                 // template
	Body      string             `yaml:"body" json:"body,omitempty"`       // template
	Headers   map[string]string  `yaml:"headers" json:"headers,omitempty"` // templates
	Auth      *Auth              `yaml:"auth" json:"auth,omitempty"`
	Timeout   *time.Duration     `yaml:"timeout" json:"timeout,omitempty"`
	Redirects *int               `yaml:"redirects" json:"redirects,omitempty"`
	Check     []Check            `yaml:"check" json:"check,omitempty"`
	Capture   map[string]Capture `yaml:"capture" json:"capture,omitempty"` // by the name that later templates use
	Think     time.Duration      `yaml:"think" json:"think,omitempty"`     // before it; not before the first
}

// ParseShort reads "METHOD /path".
func (s *SessionStep) ParseShort(text string) error {
	method, path, err := parseShort(text)
	if err == nil {
		*s = SessionStep{Method: method, Path: path}
	}
	return err
}

// request is the step without what only sessions have.
func (s SessionStep) request() Request {
	return Request{
		Method: s.Method, Path: s.Path, Body: s.Body, Headers: s.Headers, Auth: s.Auth,
		Timeout: s.Timeout, Redirects: s.Redirects, Check: s.Check,
	}
}

// stepNames are what the steps are called in the results, each differently.
func (s Spec) stepNames() []string {
	var names []string
	for i, step := range s.Steps {
		name := cmp.Or(step.Name, step.Method+" "+step.Path)
		if slices.Contains(names, name) {
			name = fmt.Sprintf("%s (%d)", name, i+1)
		}
		names = append(names, name)
	}
	return names
}

// RequestsPerArrival is how many requests an arrival leads to: one, or the steps
// of a session, all of which are sent only if each before it succeeds.
func (s Spec) RequestsPerArrival() int { return max(len(s.Steps), 1) }

// Auth is the Authorization header of a request: one of the two.
type Auth struct {
	Basic  *Basic `yaml:"basic" json:"basic,omitempty"`
	Bearer string `yaml:"bearer" json:"bearer,omitempty"` // template
}

// Basic is a user with a password (RFC 7617); both are templates.
type Basic struct {
	User     string `yaml:"user" json:"user"`
	Password string `yaml:"password" json:"password"`
}

// Ramp goes from one rate to another in a straight line, then stays there.
type Ramp struct {
	From arrival.Rate  `yaml:"from" json:"from"`
	To   arrival.Rate  `yaml:"to" json:"to"`
	Over time.Duration `yaml:"over" json:"over"`
}

// Stage is one leg of a stepwise load: constant at Rate, or a straight line from
// where the stage before ended (the first: from 0) to To. The last stage's rate
// is kept to the end.
type Stage struct {
	Rate *arrival.Rate `yaml:"rate" json:"rate,omitempty"`
	To   *arrival.Rate `yaml:"to" json:"to,omitempty"`
	For  time.Duration `yaml:"for" json:"for"`
}

// StatusSet is "2xx", "402" or "200-399", both ends included.
type StatusSet struct {
	From int
	To   int
}

// UnmarshalText reads one of the three forms.
func (s *StatusSet) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	from, to, isRange := strings.Cut(t, "-")
	switch {
	case len(t) == 3 && t[0] >= '1' && t[0] <= '5' && t[1:] == "xx":
		s.From = int(t[0]-'0') * 100
		s.To = s.From + 99
		return nil
	case !isRange:
		to = from
	}
	a, errA := strconv.Atoi(strings.TrimSpace(from))
	b, errB := strconv.Atoi(strings.TrimSpace(to))
	if errA != nil || errB != nil {
		return fmt.Errorf(`%q is not a set of status codes: write "2xx", "402" or "200-399"`, t)
	}
	if a < 100 || b > 599 || a > b {
		return fmt.Errorf(`%q: status codes go from 100 to 599, the lower one first`, t)
	}
	s.From, s.To = a, b
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (s StatusSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s StatusSet) String() string {
	switch {
	case s.From == s.To:
		return strconv.Itoa(s.From)
	case s.From%100 == 0 && s.To == s.From+99:
		return strconv.Itoa(s.From/100) + "xx"
	}
	return strconv.Itoa(s.From) + "-" + strconv.Itoa(s.To)
}

// Model is "closed" for users with think time, else "open".
func (s Spec) Model() string {
	if s.Users != nil {
		return "closed"
	}
	return "open"
}

const (
	defaultTimeout     = 10 * time.Second
	defaultConnections = 1024
)

// TimeoutOrDefault is how long after it is due a request may take, where the
// request does not say.
func (s Spec) TimeoutOrDefault() time.Duration {
	if s.Timeout != nil {
		return *s.Timeout
	}
	return defaultTimeout
}

// Arrivals is the rate of an open stream since its beginning; false for a
// closed one, whose arrivals depend on the answers.
func (s Spec) Arrivals() (arrival.Profile, bool) {
	switch {
	case s.Users != nil:
		return arrival.Profile{}, false
	case s.Ramp != nil:
		return arrival.Ramp(s.Ramp.From, s.Ramp.To, s.Ramp.Over), true
	case len(s.Stages) > 0:
		var legs []arrival.Leg
		var last arrival.Rate
		for _, st := range s.Stages {
			l := arrival.Leg{From: last, To: last, For: st.For}
			if st.Rate != nil {
				l.From, l.To = *st.Rate, *st.Rate
			} else if st.To != nil {
				l.To = *st.To
			}
			last = l.To
			legs = append(legs, l)
		}
		return arrival.Stages(legs...), true
	case s.Rate != nil:
		return arrival.Constant(*s.Rate), true
	}
	return arrival.Profile{}, true
}

// connections is how many may be open at once.
func (s Spec) connections() int {
	if s.Connections != nil {
		return *s.Connections
	}
	return max(defaultConnections, s.users())
}

func (s Spec) users() int {
	if s.Users == nil {
		return 0
	}
	return *s.Users
}

// isOK tells whether a status code is what the stream wants.
func (s Spec) isOK(status int) bool {
	if len(s.OK) == 0 {
		return status >= 200 && status <= 399
	}
	for _, set := range s.OK {
		if status >= set.From && status <= set.To {
			return true
		}
	}
	return false
}

// own are the stream's requests, or its session's, as they are written.
func (s Spec) own() []Request {
	switch {
	case s.Request != nil:
		return []Request{*s.Request}
	case len(s.Steps) > 0:
		var all []Request
		for _, step := range s.Steps {
			all = append(all, step.request())
		}
		return all
	}
	return s.Requests
}

// at is the path of request i in the spec.
func (s Spec) at(i int) string {
	switch {
	case s.Request != nil:
		return "request"
	case len(s.Steps) > 0:
		return "steps[" + strconv.Itoa(i) + "]"
	}
	return "requests[" + strconv.Itoa(i) + "]"
}

// filled is the stream's requests with everything the stream says for all of them.
func (s Spec) filled() []Request {
	requests := s.own()
	filled := make([]Request, len(requests))
	for i, r := range requests {
		if r.Method != "GET" && r.Method != "HEAD" {
			r.Body = cmp.Or(r.Body, s.Body)
		}
		headers := make(map[string]string, len(s.Headers)+len(r.Headers))
		for name, v := range s.Headers {
			headers[name] = v
		}
		for name, v := range r.Headers {
			for other := range headers {
				if strings.EqualFold(other, name) {
					delete(headers, other)
				}
			}
			headers[name] = v
		}
		r.Headers = headers
		r.Auth = cmp.Or(r.Auth, s.Auth)
		if r.Timeout == nil {
			t := s.TimeoutOrDefault()
			r.Timeout = &t
		}
		if r.Weight == nil {
			one := 1
			r.Weight = &one
		}
		filled[i] = r
	}
	return filled
}
