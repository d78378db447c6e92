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
//	  rate: 200/s          # open model; or ramp, stages, step, spike, sine, replay
//	  arrivals: poisson    # default even; or users: with think: (closed model)
type Spec struct {
	Name        string            `yaml:"-" json:"name"`                      // the key it stands under
	To          string            `yaml:"to" json:"to"`                       // the service that is asked
	Protocol    Protocol          `yaml:"protocol" json:"protocol,omitempty"` // what it is spoken to in; default HTTP/1.1
	Request     *Request          `yaml:"request" json:"request,omitempty"`   // "POST /checkout", or a mapping
	Requests    []Request         `yaml:"requests" json:"requests,omitempty"` // a weighted mix, or a list
	Order       Order             `yaml:"order" json:"order,omitempty"`       // of requests; default mixed
	Setup       []SessionStep     `yaml:"setup" json:"setup,omitempty"`       // what each user of a stream of sessions does once, before its first
	Steps       []SessionStep     `yaml:"steps" json:"steps,omitempty"`       // a session: in order, over one connection
	Data        map[string]Data   `yaml:"data" json:"data,omitempty"`         // files whose rows templates use
	Rate        *arrival.Rate     `yaml:"rate" json:"rate,omitempty"`
	Ramp        *Ramp             `yaml:"ramp" json:"ramp,omitempty"`
	Stages      []Stage           `yaml:"stages" json:"stages,omitempty"`
	Step        *Step             `yaml:"step" json:"step,omitempty"`
	Spike       *Spike            `yaml:"spike" json:"spike,omitempty"`
	Sine        *Sine             `yaml:"sine" json:"sine,omitempty"`
	Replay      *Replay           `yaml:"replay" json:"replay,omitempty"`
	Spacing     arrival.Spacing   `yaml:"arrivals" json:"arrivals,omitempty"` // default even
	Users       *int              `yaml:"users" json:"users,omitempty"`
	Think       time.Duration     `yaml:"think" json:"think,omitempty"`
	Body        string            `yaml:"body" json:"body,omitempty"`               // for every request that has none of its own, GET and HEAD aside
	Headers     map[string]string `yaml:"headers" json:"headers,omitempty"`         // for every request; its own win
	Auth        *Auth             `yaml:"auth" json:"auth,omitempty"`               // for every request that has none of its own
	Timeout     *time.Duration    `yaml:"timeout" json:"timeout,omitempty"`         // since due; default 10s
	OK          []StatusSet       `yaml:"ok" json:"ok,omitempty"`                   // default: 200-399
	Connections *int              `yaml:"connections" json:"connections,omitempty"` // most open at once; default 1024, or users if that is more
	Connection  *Connection       `yaml:"connection" json:"connection,omitempty"`   // how long each is kept
	Secrets     map[string]Secret `yaml:"secrets" json:"secrets,omitempty"`         // values of the environment that templates use
	Login       *Login            `yaml:"login" json:"login,omitempty"`             // of protocols whose connections have one
	Reply       *Reply            `yaml:"reply" json:"reply,omitempty"`             // where an answer ends; protocol tcp
	Binary      bool              `yaml:"binary" json:"binary,omitempty"`           // messages are binary; protocol websocket

	values      map[string]string // of the secrets, once they are read
	Descriptors string            `yaml:"descriptors" json:"descriptors,omitempty"` // gRPC: a file of descriptors; default: the server says
	Streams     *int              `yaml:"streams" json:"streams,omitempty"`         // HTTP/2, HTTP/3: most requests under way on one connection; default 1

	descriptors *descriptors // nil until ReadData or ReadDescriptors
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
	Weight    *int              `yaml:"weight" json:"weight,omitempty"`   // default 1; 0 is never sent
	Command   []string          `yaml:"command" json:"command,omitempty"` // words, templates; protocol redis
	Query     string            `yaml:"query" json:"query,omitempty"`     // template; protocol postgres
	Args      []string          `yaml:"args" json:"args,omitempty"`       // its parameters, templates
	Text      string            `yaml:"-" json:"text,omitempty"`          // the short form, where it is not exactly METHOD /path

	brief bool // it was written in the short form
}

// ParseShort reads "METHOD /path", or what the stream's protocol has instead:
// a command, a query, the text that is sent. What it means shows in Check.
func (r *Request) ParseShort(text string) error {
	*r = Request{brief: true}
	r.Method, r.Path, r.Text = parseShort(text)
	return nil
}

// parseShort takes "METHOD /path" apart, or the package.Service/Method that only
// gRPC takes; text is what it was, if more or less.
func parseShort(short string) (method, path, text string) {
	if call := "/" + strings.TrimSpace(short); callPath(call) {
		return "", call, short
	}
	method, path, ok := strings.Cut(strings.TrimSpace(short), " ")
	path = strings.TrimSpace(path)
	switch {
	case !ok || method == "" || !strings.HasPrefix(path, "/"):
		return "", "", short
	case method+" "+path != short:
		return method, path, short
	}
	return method, path, ""
}

// short is the request as it was written in one text, if it was.
func (r Request) short() string {
	if r.Text == "" && r.brief {
		return r.Method + " " + r.Path
	}
	return r.Text
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
	Command   []string           `yaml:"command" json:"command,omitempty"` // as a Request's, like the three below
	Query     string             `yaml:"query" json:"query,omitempty"`
	Args      []string           `yaml:"args" json:"args,omitempty"`
	Text      string             `yaml:"-" json:"text,omitempty"`

	brief bool
}

// ParseShort reads what Request's does.
func (s *SessionStep) ParseShort(text string) error {
	*s = SessionStep{brief: true}
	s.Method, s.Path, s.Text = parseShort(text)
	return nil
}

// request is the step without what only sessions have.
func (s SessionStep) request() Request {
	return Request{
		Method: s.Method, Path: s.Path, Body: s.Body, Headers: s.Headers, Auth: s.Auth,
		Timeout: s.Timeout, Redirects: s.Redirects, Check: s.Check,
		Command: s.Command, Query: s.Query, Args: s.Args, Text: s.Text, brief: s.brief,
	}
}

// sequence is the steps of a session, and behind them those of the setup.
func (s Spec) sequence() []SessionStep {
	if len(s.Setup) == 0 {
		return s.Steps
	}
	return slices.Concat(s.Steps, s.Setup)
}

// StepNames are what the steps are called in the results, each differently: those of
// a session in order, then those of its setup.
func (s Spec) StepNames() []string {
	var names []string
	for i, step := range s.sequence() {
		name := cmp.Or(step.Name, s.title(step.request()))
		if slices.Contains(names, name) {
			name = fmt.Sprintf("%s (%d)", name, i+1)
		}
		names = append(names, name)
	}
	return names
}

// NamedSteps are the names that steps of the session were given: what objectives
// may be about. Those of a setup are in no number of the stream.
func (s Spec) NamedSteps() []string {
	var names []string
	for _, step := range s.Steps {
		if step.Name != "" {
			names = append(names, step.Name)
		}
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
	User     string `yaml:"user,required" json:"user"`
	Password string `yaml:"password,required" json:"password"`
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

// Step goes from one rate to another in steps, then stays there.
type Step struct {
	From  arrival.Rate  `yaml:"from" json:"from"`
	By    arrival.Rate  `yaml:"by" json:"by"`
	Every time.Duration `yaml:"every" json:"every"`
	To    arrival.Rate  `yaml:"to" json:"to"`
}

// Spike is a steady rate with an interlude at another.
type Spike struct {
	Base arrival.Rate  `yaml:"base" json:"base"`
	Peak arrival.Rate  `yaml:"peak" json:"peak"`
	At   time.Duration `yaml:"at" json:"at"`
	For  time.Duration `yaml:"for" json:"for"`
}

// Sine goes up and down around a mean, as the hours of a day do.
type Sine struct {
	Mean      arrival.Rate  `yaml:"mean" json:"mean"`
	Amplitude arrival.Rate  `yaml:"amplitude" json:"amplitude"`
	Period    time.Duration `yaml:"period" json:"period"`
	Phase     arrival.Phase `yaml:"phase" json:"phase,omitempty"` // where it begins; default mean-up
}

// Order is how a stream with several requests chooses: "mixed" (also the empty
// text), each time by weight, or "listed", one after another, and again.
type Order string

const (
	Mixed  Order = "mixed"
	Listed Order = "listed"
)

// UnmarshalText reads one of the two.
func (o *Order) UnmarshalText(text []byte) error {
	switch v := Order(strings.TrimSpace(string(text))); v {
	case Mixed, Listed:
		*o = v
		return nil
	}
	return fmt.Errorf("%q is not an order of requests: mixed (default, by weight) or listed (one after another)", text)
}

// StatusSet is "2xx", "402" or "200-399", both ends included; of gRPC a status by
// its name, which stands above HTTP's.
type StatusSet struct {
	From int
	To   int
}

// UnmarshalText reads one of the three forms.
func (s *StatusSet) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if status, ok := grpcStatus(t); ok {
		s.From, s.To = status, status
		return nil
	}
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
		return fmt.Errorf(`%q is not a set of status codes: write "2xx", "402" or "200-399", or for gRPC one of %s`, t, grpcStatusNames())
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
	case s.From >= grpcOutcome:
		return outcome(s.From).String()
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

// paces are the ways to say how much load there is, by their keys, in the order
// in which messages name them; users comes last and is the closed model.
func (s Spec) paces() []string {
	var given []string
	for _, m := range []struct {
		name string
		set  bool
	}{
		{"rate", s.Rate != nil}, {"ramp", s.Ramp != nil}, {"stages", s.Stages != nil}, {"step", s.Step != nil},
		{"spike", s.Spike != nil}, {"sine", s.Sine != nil}, {"replay", s.Replay != nil}, {"users", s.Users != nil},
	} {
		if m.set {
			given = append(given, m.name)
		}
	}
	return given
}

// Paced tells whether the spec says how much load there is.
func (s Spec) Paced() bool { return len(s.paces()) > 0 }

// Arrivals is when the requests of an open stream are due, since its beginning,
// for the seed of its run; false for a closed stream, whose arrivals depend on
// the answers.
func (s Spec) Arrivals(seed uint64) (arrival.Process, bool) {
	if s.Users != nil {
		return arrival.Profile{}, false
	}
	if s.Replay != nil {
		return s.Replay.trace(s.hasRequests()), true
	}
	var curve interface {
		arrival.Process
		arrival.Curve
	} = arrival.Profile{}
	switch {
	case s.Rate != nil:
		curve = arrival.Constant(*s.Rate)
	case s.Ramp != nil:
		curve = arrival.Ramp(s.Ramp.From, s.Ramp.To, s.Ramp.Over)
	case len(s.Stages) > 0:
		curve = arrival.Stages(s.legs()...)
	case s.Step != nil:
		curve = arrival.Step(s.Step.From, s.Step.By, s.Step.Every, s.Step.To)
	case s.Spike != nil:
		curve = arrival.Spike(s.Spike.Base, s.Spike.Peak, s.Spike.At, s.Spike.For)
	case s.Sine != nil:
		curve = arrival.Sine{Mean: s.Sine.Mean, Amplitude: s.Sine.Amplitude, Period: s.Sine.Period, Phase: s.Sine.Phase}
	}
	if s.Spacing == arrival.PoissonSpacing {
		return arrival.Poisson{Curve: curve, Seed: streamSeed(seed, s.Name+" arrivals")}, true
	}
	return curve, true
}

func (s Spec) legs() []arrival.Leg {
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
	return legs
}

func (s Spec) hasRequests() bool { return s.Request != nil || s.Requests != nil || s.Steps != nil }

// expanded is the spec with the requests of its log, where it has none of its
// own, and which of its requests comes when; nil where weights decide.
func (s Spec) expanded() (Spec, []uint32) {
	var order []uint32
	switch {
	case s.Replay != nil && !s.hasRequests():
		s.Requests, order = s.Replay.requests()
	case s.Order == Listed && s.Request == nil:
		for i := range s.Requests {
			order = append(order, uint32(i))
		}
	}
	return s, order
}

// MostConnections is how many may be open at once.
func (s Spec) MostConnections() int { return s.connections() }

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
	switch {
	case len(s.OK) > 0:
	case s.Protocol == GRPC:
		return status == grpcOutcome
	default:
		return status >= 200 && status <= 399
	}
	for _, set := range s.OK {
		if status >= set.From && status <= set.To {
			return true
		}
	}
	return false
}

// own are the stream's requests, or its session's, as they are written; calls are
// POST, which nobody has to write.
func (s Spec) own() []Request {
	all := s.written()
	if s.Protocol != GRPC {
		return all
	}
	all = slices.Clone(all)
	for i := range all {
		all[i].Method = cmp.Or(all[i].Method, "POST")
	}
	return all
}

func (s Spec) written() []Request {
	switch {
	case s.Request != nil:
		return []Request{*s.Request}
	case len(s.Steps) > 0:
		var all []Request
		for _, step := range s.sequence() {
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
	case len(s.Steps) > 0 && i >= len(s.Steps):
		return "setup[" + strconv.Itoa(i-len(s.Steps)) + "]"
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
		if r.Method != "GET" && r.Method != "HEAD" || !s.speech().may(takesMethod) {
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
