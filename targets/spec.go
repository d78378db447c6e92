package targets

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/reference"
	"github.com/chaosctl/chaosctl/targets/reference/shop"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// Systems is every reference system there is.
var Systems = []reference.System{shop.System}

// Runtimes is every runtime there is, the default first.
var Runtimes = []string{"process"}

// Spec is the `target:` of a scenario: a reference system with patterns per
// edge, or the user's own services.
type Spec struct {
	System   string                   `yaml:"system" json:"system,omitempty"`
	Runtime  string                   `yaml:"runtime" json:"runtime,omitempty"` // process (default)
	Patterns map[string]pattern.Spec  `yaml:"patterns" json:"patterns,omitempty"`
	Sagas    map[string]pattern.Sagas `yaml:"sagas" json:"sagas,omitempty"` // of a reference system's services; default durable
	Services map[string]ServiceSpec   `yaml:"services" json:"services,omitempty"`

	// Allow names the hosts that services may be at beside this machine. It stands at the
	// scenario's top, where whoever is asked to run it sees it.
	Allow []string `yaml:"-" json:"allow,omitempty"`
}

// ServiceSpec is one of the user's own services: started by Command, or already
// running at Address. Edges come from the ${edge.NAME} it uses in command and env.
//
// In command and env, ${port} is the port of 127.0.0.1 on which the service is to
// listen (also in $PORT; the same after every restart; with protocol udp it is free for
// TCP too, so that a service can have both), ${data} is a folder of its
// own (kept over restarts, removed with the system), ${instance} is its number, from 0,
// where there are several, each with a port and a folder of its own; ${self} is the program of
// chaosctl, ${ca} is a file with the certificate that the run's proxies are to be
// trusted by, and ${edge.NAME} is host:port
// at which it reaches the service NAME. $${ stands for ${ itself.
type ServiceSpec struct {
	Command  []string          `yaml:"command" json:"command,omitempty"`
	Address  string            `yaml:"address" json:"address,omitempty"`
	Env      map[string]string `yaml:"env" json:"env,omitempty"`
	Dir      string            `yaml:"dir" json:"dir,omitempty"`
	Ready    *ReadySpec        `yaml:"ready" json:"ready,omitempty"`
	TLS      *TLSSpec          `yaml:"tls" json:"tls,omitempty"`           // nil: it speaks plainly
	Absent   *AbsentSpec       `yaml:"absent" json:"absent,omitempty"`     // nil: there is one
	Protocol string            `yaml:"protocol" json:"protocol,omitempty"` // of the edges into it: http (default) | tcp | udp

	Instances *int `yaml:"instances" json:"instances,omitempty"` // of Command; nil: one
}

// ReadySpec is "GET /healthz", "tcp", "udp", or a mapping with a timeout (default 10s).
// Without a path, Over says what is asked: whether a TCP connection is accepted, or
// whether a UDP port is open; by default, what the service's protocol is.
type ReadySpec struct {
	Path    string        `yaml:"path" json:"path,omitempty"`
	Over    string        `yaml:"over" json:"over,omitempty"` // tcp | udp
	Timeout time.Duration `yaml:"timeout" json:"timeout,omitempty"`
}

// readyWithin is how long a service may take to become ready, unless it says.
const readyWithin = 10 * time.Second

// ParseShort reads "GET /healthz", "tcp" or "udp".
func (r *ReadySpec) ParseShort(text string) error {
	method, path, _ := strings.Cut(strings.TrimSpace(text), " ")
	path = strings.TrimSpace(path)
	switch {
	case (method == "tcp" || method == "udp") && path == "":
		*r = ReadySpec{Over: method}
	case method == "GET" && strings.HasPrefix(path, "/") && !strings.ContainsAny(path, " \t\r\n"):
		*r = ReadySpec{Path: path}
	default:
		return fmt.Errorf(`%q is no readiness check: write "GET /path" (answered 2xx or 3xx), tcp (accepts a connection), udp (the port is open), or a mapping like { path: /healthz, timeout: 20s }`, text)
	}
	return nil
}

// reference is the system it names.
func (s Spec) reference() (reference.System, error) {
	i := slices.IndexFunc(Systems, func(r reference.System) bool { return r.Name == s.System })
	if i < 0 {
		var names []string
		for _, r := range Systems {
			names = append(names, r.Name)
		}
		return reference.System{}, fmt.Errorf("there is no reference system %q (there is: %s)", s.System, strings.Join(names, ", "))
	}
	return Systems[i], nil
}

// Sample is a request body worth sending to the system's "METHOD /path", in the
// load generator's template language; "" where there is none.
func (s Spec) Sample(method, path string) string {
	r, err := s.reference()
	if err != nil {
		return ""
	}
	return r.Samples[method+" "+path]
}

// Invariants lists what System.Check can be asked.
func (s Spec) Invariants() []string {
	r, err := s.reference()
	if err != nil {
		return nil
	}
	return slices.Clone(r.Invariants)
}

// Settings is what the caller does on an edge of a reference system, its timers
// multiplied by timescale. Nothing is known of users' own services: they get the
// zero Settings.
func (s Spec) Settings(edge topology.Edge, timescale float64) pattern.Settings {
	r, err := s.reference()
	if err != nil || r.Defaults == nil {
		return pattern.Settings{}
	}
	settings := r.Defaults(edge)
	for name, spec := range s.Patterns {
		caller, callee, err := topology.ParseEdge(name)
		if err == nil && caller == edge.Caller && callee == edge.Callee {
			settings = spec.Apply(settings)
		}
	}
	return settings.Scale(timescale)
}

// Check reports everything that is wrong with the spec, each with its path inside it.
func (s Spec) Check(report func(path, format string, args ...any)) {
	if s.Runtime != "" && !slices.Contains(Runtimes, s.Runtime) {
		report("runtime", "runtime %q is not in this build: it has %s", s.Runtime, strings.Join(Runtimes, ", "))
	}
	switch {
	case s.System != "" && len(s.Services) > 0:
		report("services", "both system and services: a target is a reference system or services of your own")
	case s.System != "":
		if _, err := s.reference(); err != nil {
			report("system", "%s", err)
			return
		}
		s.checkPatterns(report)
		s.checkSagas(report)
	case len(s.Services) == 0:
		report("", "a target needs a reference system (system: %s), or services of your own (services:)", Systems[0].Name)
	default:
		if len(s.Patterns) > 0 {
			report("patterns", "patterns are settings of a reference system; your own services bring theirs")
		}
		if len(s.Sagas) > 0 {
			report("sagas", "sagas are a setting of a reference system; your own services bring theirs")
		}
		for _, name := range slices.Sorted(maps.Keys(s.Services)) {
			s.checkService(name, report)
		}
	}
}

func (s Spec) checkPatterns(report func(path, format string, args ...any)) {
	r, _ := s.reference()
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(s.Patterns)) {
		path := "patterns." + key
		caller, callee, err := topology.ParseEdge(key)
		if err != nil {
			report(path, "%s", err)
			continue
		}
		name := topology.Edge{Caller: caller, Callee: callee}.Name()
		if _, ok := r.Topology.Edge(caller, callee); !ok {
			report(path, "no edge %q in system %q (%s)", name, r.Name, callsOf(r.Topology, caller))
		} else if other, twice := seen[name]; twice {
			report(path, "%q is the same edge as %q: write it once", key, other)
		}
		seen[name] = key
		s.Patterns[key].Check(func(inner, format string, args ...any) {
			report(join(path, inner), format, args...)
		})
	}
}

func (s Spec) checkSagas(report func(path, format string, args ...any)) {
	r, _ := s.reference()
	for _, name := range slices.Sorted(maps.Keys(s.Sagas)) {
		if !slices.Contains(r.Sagas, name) {
			report("sagas."+name, "%q runs no sagas in system %q (%s)", name, r.Name, cmp.Or(strings.Join(r.Sagas, ", "), "no service does"))
		}
	}
}

func callsOf(t topology.Topology, caller string) string {
	if _, ok := t.Service(caller); !ok {
		return "its services: " + strings.Join(t.Names(), ", ")
	}
	if calls := t.CallsOf(caller); len(calls) > 0 {
		return caller + " calls: " + strings.Join(calls, ", ")
	}
	return caller + " calls nobody"
}

// A service's name is part of file names and of edges.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

func (s Spec) checkService(name string, report func(path, format string, args ...any)) {
	path := "services." + name
	v := s.Services[name]
	if !serviceName.MatchString(name) {
		report(path, "%q is not a name for a service: use letters, digits, and between them dots, dashes and underscores, at most 63", name)
	}
	switch {
	case len(v.Command) > 0 && v.Address != "":
		report(join(path, "address"), "both command and address: a service is started by us, or runs already")
	case len(v.Command) > 0:
		if v.Command[0] == "" {
			report(join(path, "command"), "the command is empty: write the program and its arguments, like [./bin/api, -port, \"${port}\"]")
		}
	case v.Address != "":
		if err := s.checkAddress(v.Address); err != nil {
			report(join(path, "address"), "%s", err)
		}
		if len(v.Env) > 0 {
			report(join(path, "env"), "a service with an address is not started by us: env would have no effect")
		}
		if v.Dir != "" {
			report(join(path, "dir"), "a service with an address is not started by us: dir would have no effect")
		}
	case v.Absent == nil:
		report(path, "service %q needs a command to start it, the address at which it runs, or absent: 503 where there is none", name)
	}
	if n := v.Instances; n != nil {
		switch {
		case len(v.Command) == 0 && (v.Address != "" || v.Absent != nil):
			report(join(path, "instances"), "instances are started by us: a service needs a command for that")
		case *n < 1 || *n > mostInstances:
			report(join(path, "instances"), "instances is %d: it is a number from 1 to %d", *n, mostInstances)
		}
	}
	s.checkTLS(name, report)
	s.checkAbsent(name, report)
	switch topology.Protocol(v.Protocol) {
	case "", topology.HTTP, topology.TCP, topology.UDP:
	default:
		report(join(path, "protocol"), "protocol %q is unknown: write http, tcp or udp", v.Protocol)
	}
	if r := v.Ready; r != nil {
		switch {
		case r.Over != "" && r.Over != "tcp" && r.Over != "udp":
			report(join(path, "ready.over"), "over %q is unknown: write tcp or udp", r.Over)
		case r.Over == "udp" && topology.Protocol(v.Protocol) != topology.UDP:
			report(join(path, "ready"), "ready: udp is for services with protocol: udp; this one has a TCP port")
		case r.Over != "" && r.Path != "":
			report(join(path, "ready.over"), "both path and over: a path is asked by HTTP")
		}
		if r.Timeout < 0 {
			report(join(path, "ready.timeout"), "timeout is %s: it cannot be below 0s", r.Timeout)
		}
		if r.Path != "" && (!strings.HasPrefix(r.Path, "/") || strings.ContainsAny(r.Path, " \t\r\n")) {
			report(join(path, "ready.path"), "path %q is not one: it begins with / and has no spaces", r.Path)
		}
	}
	for _, t := range v.templates() {
		if t.key != "" && strings.ContainsAny(t.key, "=\x00") {
			report(join(path, t.path), "%q is not a name for an environment variable", t.key)
		}
		if _, err := expand(t.text, func(word string) (string, error) { return "", s.known(word) }); err != nil {
			report(join(path, t.path), "%s", err)
		}
	}
}

// mostInstances is more than one machine has use for.
const mostInstances = 32

// checkAddress wants host:port on this machine, or at a host that is allowed: load and
// faults go nowhere else.
func (s Spec) checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("address %q is not host:port, like 127.0.0.1:9001", address)
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return fmt.Errorf("address %q: %q is not a port", address, port)
	}
	if !OnThisMachine(host) && !slices.ContainsFunc(s.Allow, func(a string) bool { return SameHost(a, host) }) {
		return fmt.Errorf("address %q is not on this machine: load and faults stay on loopback addresses, unless the scenario says, at its top, allow: [%s]", address, host)
	}
	return nil
}

// OnThisMachine tells whether a host is a loopback address. Of names only localhost is:
// what others stand for is decided elsewhere, and may change.
func OnThisMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// SameHost tells whether two texts name one host: the same address, or the same name.
func SameHost(a, b string) bool {
	one, err := netip.ParseAddr(a)
	other, err2 := netip.ParseAddr(b)
	if err != nil || err2 != nil {
		return err != nil && err2 != nil && strings.EqualFold(a, b)
	}
	return one.Unmap() == other.Unmap()
}

// Hosts are those of the services that run already, and are not on this machine, by
// the services' names.
func (s Spec) Hosts() map[string]string {
	all := map[string]string{}
	for name, v := range s.Services {
		if host, _, err := net.SplitHostPort(v.Address); err == nil && !OnThisMachine(host) {
			all[name] = host
		}
	}
	return all
}

// known tells what is wrong with ${word}; nil if it can be filled in.
func (s Spec) known(word string) error {
	if word == "port" || word == "data" || word == "instance" || word == "self" {
		return nil
	}
	if word == "ca" {
		for _, v := range s.Services {
			if v.TLS != nil && v.caller() == topology.CallerTLS {
				return nil
			}
		}
		return errors.New("${ca}: no edge needs it: there is no service with tls whose callers speak TLS to a proxy")
	}
	callee, isEdge := strings.CutPrefix(word, "edge.")
	names := slices.Sorted(maps.Keys(s.Services))
	if isEdge && slices.Contains(names, callee) {
		return nil
	}
	if isEdge {
		return fmt.Errorf("${%s}: there is no service %q (there are: %s)", word, callee, strings.Join(names, ", "))
	}
	return fmt.Errorf("${%s} is unknown: there are ${port}, ${data}, ${instance}, ${self}, ${ca} and ${edge.NAME}; write $${%s} for the text itself", word, word)
}

// template is a text with ${…} in it, and where it stands.
type template struct{ path, key, text string }

// templates lists the service's texts: command first, then env by name.
func (v ServiceSpec) templates() []template {
	var all []template
	for i, text := range v.Command {
		all = append(all, template{path: fmt.Sprintf("command[%d]", i), text: text})
	}
	for _, key := range slices.Sorted(maps.Keys(v.Env)) {
		all = append(all, template{path: "env." + key, key: key, text: v.Env[key]})
	}
	return all
}

// expand fills in every ${word}; $${ becomes ${.
func expand(text string, value func(word string) (string, error)) (string, error) {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "${")
		if !found {
			out.WriteString(text)
			return out.String(), nil
		}
		if literal, escaped := strings.CutSuffix(before, "$"); escaped {
			out.WriteString(literal + "${")
			text = after
			continue
		}
		word, rest, closed := strings.Cut(after, "}")
		if !closed {
			return "", fmt.Errorf("%q: ${ without } (write $${ for the text itself)", text)
		}
		v, err := value(word)
		if err != nil {
			return "", err
		}
		out.WriteString(before + v)
		text = rest
	}
}

func join(path, inner string) string {
	if inner == "" {
		return path
	}
	return path + "." + inner
}

// Resolve says what the target consists of. The services of users are in the
// order of their names, their edges by caller, and then as they use them. A spec
// with mistakes gives the first one as an error.
func (s Spec) Resolve() (topology.Topology, error) {
	var first error
	s.Check(func(path, format string, args ...any) {
		if first == nil {
			first = fmt.Errorf("%s: %s", join("target", path), fmt.Sprintf(format, args...))
		}
	})
	if first != nil {
		return topology.Topology{}, first
	}
	if s.System != "" {
		r, err := s.reference()
		t := r.Topology
		t.Services, t.Edges = slices.Clone(t.Services), slices.Clone(t.Edges)
		return t, err
	}
	var t topology.Topology
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		v := s.Services[name]
		service := topology.Service{
			Name: name, Command: slices.Clone(v.Command), Address: v.Address, Env: maps.Clone(v.Env), Dir: v.Dir,
			Ready: topology.Ready{Timeout: readyWithin}, TLS: v.tls(), Absent: v.Absent.topology(),
			UDP: topology.Protocol(v.Protocol) == topology.UDP,
		}
		if v.Instances != nil && *v.Instances > 1 {
			service.Instances = *v.Instances
		}
		service.Ready.UDP = service.UDP
		if v.Ready != nil {
			service.Ready.Path = v.Ready.Path
			service.Ready.UDP = service.UDP && v.Ready.Path == "" && v.Ready.Over != "tcp"
			if v.Ready.Timeout > 0 {
				service.Ready.Timeout = v.Ready.Timeout
			}
		}
		t.Services = append(t.Services, service)
		for _, text := range v.templates() {
			_, _ = expand(text.text, func(word string) (string, error) {
				callee, isEdge := strings.CutPrefix(word, "edge.")
				if _, known := t.Edge(name, callee); isEdge && !known {
					t.Edges = append(t.Edges, topology.Edge{Caller: name, Callee: callee, Protocol: s.Services[callee].protocol()})
				}
				return "", nil
			})
		}
	}
	return t, nil
}
