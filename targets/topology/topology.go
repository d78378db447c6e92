// Package topology says what a system consists of: services, and the edges
// along which they call one another. It is plain data, shared by whoever
// describes a system, starts it, breaks it or judges it.
package topology

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Protocol is what an edge carries, and so what a proxy on it may look at.
type Protocol string

const (
	HTTP Protocol = "http" // HTTP/1.1: requests are seen, counted and hit one by one
	TCP  Protocol = "tcp"  // bytes: connections are seen, counted and hit
	UDP  Protocol = "udp"  // datagrams are
)

// Edge is a caller and a callee. Its name, "orders -> payments", is how users
// write it and how every message and record spells it.
type Edge struct {
	Caller   string   `json:"caller" yaml:"caller"`
	Callee   string   `json:"callee" yaml:"callee"`
	Protocol Protocol `json:"protocol" yaml:"protocol"`
}

// Name is "caller -> callee".
func (e Edge) Name() string { return e.Caller + " -> " + e.Callee }

// ParseEdge reads "caller -> callee"; any white space around the arrow will do.
func ParseEdge(s string) (caller, callee string, err error) {
	a, b, ok := strings.Cut(s, "->")
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	if !ok || a == "" || b == "" || strings.Contains(b, "->") {
		return "", "", fmt.Errorf(`%q is not an edge: write "caller -> callee"`, s)
	}
	return a, b, nil
}

// Service is one named member of a system. Exactly one of Role, Command and
// Address says where it comes from.
type Service struct {
	Name    string            `json:"name" yaml:"name"`
	Role    string            `json:"role,omitempty" yaml:"role,omitempty"`       // a reference role: started by re-executing this binary
	Command []string          `json:"command,omitempty" yaml:"command,omitempty"` // the user's own program; ${port} and ${edge.NAME} are filled in
	Address string            `json:"address,omitempty" yaml:"address,omitempty"` // host:port that already runs; we never start, stop or signal it
	Env     map[string]string `json:"env,omitempty" yaml:"env,omitempty"`
	Files   map[string]string `json:"files,omitempty" yaml:"files,omitempty"` // written into the service's own folder, ${data}
	Dir     string            `json:"dir,omitempty" yaml:"dir,omitempty"`     // working directory of Command; default: where chaosctl was started
	UDP     bool              `json:"udp,omitempty" yaml:"udp,omitempty"`     // its port is a UDP port
	Ready   Ready             `json:"ready" yaml:"ready"`

	Instances int `json:"instances,omitempty" yaml:"instances,omitempty"` // how many of it run; 0 counts as 1, see Count

	TLS    *TLS    `json:"tls,omitempty" yaml:"tls,omitempty"`       // nil: it speaks plainly
	Absent *Absent `json:"absent,omitempty" yaml:"absent,omitempty"` // nil: there is one
}

// Count is how many instances of it there are.
func (s Service) Count() int { return max(s.Instances, 1) }

// Managed tells whether we start (and so may kill, pause and restart) it.
func (s Service) Managed() bool { return s.Address == "" && s.Absent == nil }

// TLS says that a service speaks TLS, and how it is spoken to. Files are PEM.
type TLS struct {
	Caller     Caller `json:"caller" yaml:"caller"`                               // what its callers speak to the proxy
	CA         string `json:"ca,omitempty" yaml:"ca,omitempty"`                   // file; who has issued its certificate; "": one the system trusts
	ServerName string `json:"server_name,omitempty" yaml:"server_name,omitempty"` // who its certificate is for; "": the host of its address
	Insecure   bool   `json:"insecure,omitempty" yaml:"insecure,omitempty"`       // take any certificate
	HTTP2      *bool  `json:"http2,omitempty" yaml:"http2,omitempty"`             // callers may choose it; nil: where the service does
	Cert       string `json:"cert,omitempty" yaml:"cert,omitempty"`               // file, with Key; what it is shown
	Key        string `json:"key,omitempty" yaml:"key,omitempty"`
}

// Caller is what callers of a service that speaks TLS speak themselves.
type Caller string

const (
	CallerTLS   Caller = "tls"         // TLS, which ends at the proxy and begins anew there
	CallerPlain Caller = "plain"       // no TLS: the proxy speaks it for them
	Passthrough Caller = "passthrough" // TLS with the service itself: the proxy sees bytes
)

// Absent says that there is no such service: whatever no fault answers on the edges
// into it gets this answer, or, Status 0, is refused.
type Absent struct {
	Status int    `json:"status,omitempty" yaml:"status,omitempty"`
	Body   string `json:"body,omitempty" yaml:"body,omitempty"`
}

// Ready is the question that decides that a service may be called: an HTTP GET
// answered 2xx or 3xx, or (Path empty) a TCP connection accepted, or (UDP) a UDP port
// that is open.
type Ready struct {
	Path    string        `json:"path,omitempty" yaml:"path,omitempty"`
	UDP     bool          `json:"udp,omitempty" yaml:"udp,omitempty"`
	Timeout time.Duration `json:"timeout_ns" yaml:"timeout"`
}

// Topology is a whole system, in the order its author wrote it.
type Topology struct {
	System   string    `json:"system,omitempty" yaml:"system,omitempty"` // "shop", or empty for the user's own services
	Services []Service `json:"services" yaml:"services"`
	Edges    []Edge    `json:"edges" yaml:"edges"`
}

// Service finds one by name.
func (t Topology) Service(name string) (Service, bool) {
	i := slices.IndexFunc(t.Services, func(s Service) bool { return s.Name == name })
	if i < 0 {
		return Service{}, false
	}
	return t.Services[i], true
}

// Edge finds one by caller and callee.
func (t Topology) Edge(caller, callee string) (Edge, bool) {
	i := slices.IndexFunc(t.Edges, func(e Edge) bool { return e.Caller == caller && e.Callee == callee })
	if i < 0 {
		return Edge{}, false
	}
	return t.Edges[i], true
}

// CallsOf lists whom a service calls, for messages: "orders calls: payments, stock, users".
func (t Topology) CallsOf(caller string) []string {
	var to []string
	for _, e := range t.Edges {
		if e.Caller == caller {
			to = append(to, e.Callee)
		}
	}
	return to
}

// Into lists the edges on which a service is called.
func (t Topology) Into(callee string) []Edge {
	var in []Edge
	for _, e := range t.Edges {
		if e.Callee == callee {
			in = append(in, e)
		}
	}
	return in
}

// Names lists the services.
func (t Topology) Names() []string {
	var names []string
	for _, s := range t.Services {
		names = append(names, s.Name)
	}
	return names
}
