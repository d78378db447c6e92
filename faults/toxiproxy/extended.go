package toxiproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// What Toxiproxy does not have: toxics for everything else that the data plane can do,
// and, on any toxic, conditions. Both are among the attributes, where every client can
// write them, and are on the wire only where somebody has.
type (
	HTTPErrorToxic struct {
		Status int64  `json:"status"` // 0: 503
		Body   string `json:"body"`
	}
	RefuseToxic    struct{}
	BlackholeToxic struct {
		After int64 `json:"after"` // bytes
	}
	SilenceToxic struct {
		For int64 `json:"for"` // 0: never
	}
	ResetNowToxic struct {
		After int64 `json:"after"` // bytes
		Wait  int64 `json:"wait"`
	}
	CorruptToxic struct {
		Rate float64 `json:"rate"` // share of bytes
	}
	AbortToxic struct {
		After int64 `json:"after"` // bytes
		Close bool  `json:"close"`
	}
	ReshapeToxic struct {
		Request EditAttributes `json:"request"`
		Answer  EditAttributes `json:"answer"`
	}
	EditAttributes struct {
		Remove []string          `json:"remove,omitempty"`
		Set    map[string]string `json:"set,omitempty"`
		Add    map[string]string `json:"add,omitempty"`
	}
	SlowConnectToxic struct {
		Delay int64 `json:"delay"`
	}
	LossToxic struct {
		Rate        float64 `json:"rate"`
		Correlation float64 `json:"correlation"`
	}
	DuplicateToxic struct{}
	ReorderToxic   struct {
		Wait int64 `json:"wait"` // 0: 100
	}
)

func (a HTTPErrorToxic) check() error {
	if a.Status == 0 {
		return nil
	}
	return within("status", a.Status, 200, 599, "")
}

func (a HTTPErrorToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	status := int(a.Status)
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	r.Error = &proxy.Error{Status: status, Body: a.Body}
	return true
}

func (RefuseToxic) check() error { return nil }

func (RefuseToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	r.Refuse = &proxy.Refuse{}
	return true
}

// mostBytes is where the data plane's counts end.
const mostBytes = 1 << 50

func (a BlackholeToxic) check() error { return within("after", a.After, 0, mostBytes, " bytes") }

func (a BlackholeToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	r.Blackhole = &proxy.Cut{After: a.After}
	return true
}

func (a SilenceToxic) check() error { return within("for", a.For, 0, year.Milliseconds(), " ms") }

func (a SilenceToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Silence = &proxy.Silence{For: ms(a.For), Direction: to}
	return true
}

func (a ResetNowToxic) check() error {
	if a.After > 0 && a.Wait > 0 {
		return errors.New("after says at which byte to strike, and wait at what time: want one of them, or two toxics")
	}
	return firstOf(within("after", a.After, 0, mostBytes, " bytes"), within("wait", a.Wait, 0, year.Milliseconds(), " ms"))
}

func (a ResetNowToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	r.Reset = &proxy.Cut{After: a.After, Wait: ms(a.Wait)}
	return true
}

func (a CorruptToxic) check() error { return within("rate", a.Rate, 0, 1, "") }

func (a CorruptToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Corrupt = &proxy.Corrupt{Ratio: a.Rate, Direction: to}
	return true
}

func (a AbortToxic) check() error { return within("after", a.After, 0, mostBytes, " bytes") }

func (a AbortToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	r.Abort = &proxy.Abort{After: a.After, Close: a.Close}
	return true
}

func (ReshapeToxic) check() error { return nil } // the data plane's own check says it all

func (a ReshapeToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	edit := func(e EditAttributes) proxy.Edit {
		return proxy.Edit{Remove: e.Remove, Set: lines(e.Set), Add: lines(e.Add)}
	}
	r.Reshape = &proxy.Reshape{Request: edit(a.Request), Answer: edit(a.Answer)}
	return true
}

// lines are header lines, in the order of their names.
func lines(values map[string]string) (all []proxy.Field) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all = append(all, proxy.Field{Name: name, Value: values[name]})
	}
	return all
}

func (a SlowConnectToxic) check() error {
	return within("delay", a.Delay, 0, year.Milliseconds(), " ms")
}

func (a SlowConnectToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	r.Connect = &proxy.Connect{Delay: ms(a.Delay)}
	return true
}

func (a LossToxic) check() error {
	return firstOf(within("rate", a.Rate, 0, 1, ""), within("correlation", a.Correlation, 0, 1, ""))
}

func (a LossToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Loss = &proxy.Loss{Ratio: a.Rate, Correlation: a.Correlation, Direction: to}
	return true
}

func (DuplicateToxic) check() error { return nil }

func (DuplicateToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Duplicate = &proxy.Duplicate{Direction: to}
	return true
}

func (a ReorderToxic) check() error { return within("wait", a.Wait, 0, year.Milliseconds(), " ms") }

func (a ReorderToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Reorder = &proxy.Reorder{Wait: ms(a.Wait), Direction: to}
	return true
}

// conditions narrow a toxic down; the zero value does not. Times are in ms.
type conditions struct {
	Match *MatchAttributes `json:"match,omitempty"`
	Pulse *PulseAttributes `json:"pulse,omitempty"`
	Ramp  int64            `json:"ramp,omitempty"`
	First uint64           `json:"first,omitempty"`
	Every uint64           `json:"every,omitempty"`
	From  string           `json:"from,omitempty"`
}

type (
	MatchAttributes struct {
		Methods []string          `json:"methods,omitempty"`
		Path    string            `json:"path,omitempty"`
		Host    string            `json:"host,omitempty"`
		Headers map[string]string `json:"headers,omitempty"`
	}
	PulseAttributes struct {
		Active int64 `json:"active"`
		Pause  int64 `json:"pause"`
	}
)

// readConditions takes them out of a request's body; what it does not name is as in old.
func readConditions(old conditions, body []byte) (conditions, error) {
	c := copied(old)
	into := struct {
		Attributes any `json:"attributes"`
	}{&c}
	if err := decode(body, &into); err != nil {
		return c, badBody(err)
	}
	return c, badBody(c.check())
}

func (c conditions) check() error {
	err := within("ramp", c.Ramp, 0, year.Milliseconds(), " ms")
	if p := c.Pulse; p != nil {
		err = firstOf(err, within("pulse.active", p.Active, 1, year.Milliseconds(), " ms"), within("pulse.pause", p.Pause, 1, year.Milliseconds(), " ms"))
	}
	return err
}

func (c conditions) apply(r *proxy.Rule) {
	r.When = proxy.When{Source: c.From, Ramp: ms(c.Ramp), First: c.First, Every: c.Every}
	if p := c.Pulse; p != nil {
		r.When.Pulse = proxy.Pulse{On: ms(p.Active), Off: ms(p.Pause)}
	}
	if m := c.Match; m != nil {
		r.Match = proxy.Match{Methods: m.Methods, Path: m.Path, Host: m.Host, Headers: lines(m.Headers)}
	}
}

// copied shares nothing with v.
func copied[V any](v V) (c V) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil { // such types do not fail
		panic(err)
	}
	return c
}

// MarshalJSON writes the conditions among the attributes.
func (t toxic) MarshalJSON() ([]byte, error) {
	type plain toxic
	b, err := json.Marshal(plain(t))
	if err != nil {
		return nil, err
	}
	more, err := json.Marshal(t.when)
	if err != nil || string(more) == "{}" {
		return b, err
	}
	own, err := json.Marshal(t.Attributes)
	if err != nil {
		return nil, err
	}
	joined := append(own[:len(own)-1], ',')
	if string(own[:len(own)-1]) == "{" {
		joined = []byte{'{'}
	}
	return json.Marshal(struct {
		Attributes json.RawMessage `json:"attributes"`
		Name       string          `json:"name"`
		Type       string          `json:"type"`
		Stream     string          `json:"stream"`
		Toxicity   float32         `json:"toxicity"`
	}{append(joined, more[1:]...), t.Name, t.Type, t.Stream, t.Toxicity})
}

// mostAttributes bounds what a toxic keeps: bodies and header lines among it.
const mostAttributes = 64 << 10

// sound says what the data plane would not take, and what takes too much room.
func (t toxic) sound() error {
	if r, is := t.rule(); is {
		if err := r.Validate(); err != nil {
			return badBody(withoutName(r, err))
		}
	}
	if b, err := json.Marshal(t); err != nil || len(b) > mostAttributes {
		return badBody(errors.Join(err, fmt.Errorf("the toxic takes %d bytes, want at most %d", len(b), mostAttributes)))
	}
	return nil
}

func withoutName(r proxy.Rule, err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("rule %q: ", r.Name)))
}

// fit says which toxic cannot be on a proxy of that protocol.
func fit(toxics []toxic, protocol proxy.Protocol) error {
	matches := 0
	for _, t := range toxics {
		r, is := t.rule()
		if !is {
			continue
		}
		if err := r.On(protocol); err != nil {
			return &Error{fmt.Sprintf("toxic %s (%s): %v", t.Name, t.Type, withoutName(r, err)), http.StatusBadRequest}
		}
		if t.when.Match != nil {
			matches++
		}
	}
	if matches > maxMatches {
		return &Error{fmt.Sprintf("%d toxics have a match, at most %d can on one proxy", matches, maxMatches), http.StatusConflict}
	}
	return nil
}

// maxMatches is how many the data plane can tell apart.
const maxMatches = 64

// protocols are those a proxy can have: what it may look at.
var protocols = []proxy.Protocol{proxy.TCP, proxy.HTTP, proxy.UDP}

// scheme is before addresses of a UDP proxy, which are the network's only with it.
const scheme = "udp://"

// address takes the scheme off an address.
func address(a string) (plain string, udp bool) { return strings.CutPrefix(a, scheme) }

// shown is the address of a proxy as it is on the wire.
func shown(a string, protocol proxy.Protocol) string {
	if protocol == proxy.UDP && a != "" {
		return scheme + a
	}
	return a
}

// protocolOf settles what a proxy carries, from what a request says of it, and takes
// the schemes off its addresses.
func protocolOf(said string, listen, upstream *string) (proxy.Protocol, error) {
	l, udpListen := address(*listen)
	u, udpUpstream := address(*upstream)
	*listen, *upstream = l, u
	p := proxy.Protocol(said)
	switch {
	case said == "" && (udpListen || udpUpstream):
		p = proxy.UDP
	case said == "":
		p = proxy.TCP
	case !slices.Contains(protocols, p):
		return p, &Error{fmt.Sprintf("bad request body: protocol is %q, want http, tcp or udp", said), http.StatusBadRequest}
	case p != proxy.UDP && (udpListen || udpUpstream):
		return p, &Error{fmt.Sprintf("bad request body: protocol is %q, and an address begins with %s", said, scheme), http.StatusBadRequest}
	}
	return p, nil
}

// Type is a type of toxic, for whoever lists them.
type Type struct {
	Name       string
	Doc        string
	Attributes []Attribute
	On         []string // protocols of proxies
	Own        bool     // Toxiproxy does not have it
}

// Attribute is one of a Type. Conditions have dots in their names, where they are inside
// another.
type Attribute struct {
	Name string
	Type string // ms, µs, bytes, KB/s, share, number, text, list, yes or no, lines (a mapping of names to values)
	Doc  string
	Own  bool // Toxiproxy does not have it
}

// All lists the types of toxics.
func All() []Type {
	var all []Type
	for _, k := range kinds {
		t := Type{Name: k.name, Doc: k.doc, Attributes: slices.Clone(k.fields), Own: k.own}
		for _, p := range protocols {
			if fit([]toxic{k.sample()}, p) == nil {
				t.On = append(t.On, string(p))
			}
		}
		all = append(all, t)
	}
	return all
}

// sample is a toxic of that kind that does as little as there is to do.
func (k kind) sample() toxic {
	body := k.least
	if body == "" {
		body = "{}"
	}
	t, err := parseToxic(fmt.Appendf(nil, `{"name":"sample","type":%q,"attributes":%s}`, k.name, body), nil)
	if err != nil {
		panic(err) // the table is wrong
	}
	return t
}

// Conditions are attributes that any toxic can have.
var Conditions = []Attribute{
	{"match.methods", "list", "on http proxies: requests with one of these methods", true},
	{"match.path", "text", "… with such a path, without the query; * stands for any characters", true},
	{"match.host", "text", "… to such a host", true},
	{"match.headers", "lines", "… with these header lines; an empty value for any", true},
	{"pulse.active", "ms", "at work for so long", true},
	{"pulse.pause", "ms", "then not for so long, in turn", true},
	{"ramp", "ms", "how long the toxicity takes to grow to its value", true},
	{"first", "number", "only so many, of those that begin after it was added", true},
	{"every", "number", "of those, only the n-th, 2n-th, …", true},
	{"from", "text", "of clients with such an address: 10.0.0.0/8, or one address", true},
}

// AttributeOf finds what a dotted path means to a type of toxic: the attribute, and the
// key in it, where it is a mapping.
func AttributeOf(kind, path string) (a Attribute, key string, ok bool) {
	all := Conditions
	if k, known := kindOf(kind); known {
		all = slices.Concat(k.fields, Conditions)
	}
	for _, a := range all {
		if a.Name == path {
			return a, "", true
		}
		if inner, is := strings.CutPrefix(path, a.Name+"."); is && a.Type == "lines" && inner != "" {
			return a, inner, true
		}
	}
	return Attribute{}, "", false
}
