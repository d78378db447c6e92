package experiments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// edges puts a proxy on each edge of a system and answers targets.Edges: callers
// are handed the proxy's address, the proxy follows the callee wherever it listens.
type edges struct {
	topology topology.Topology
	mu       sync.Mutex
	proxies  map[string]*proxy.Proxy   // by edge name
	serve    map[string]map[int]string // by service and instance: where it listens
}

// authority is what the callers of a run are to trust, where a proxy answers their
// TLS; nil where none does. Its certificate is written into the run's folder.
func authority(p *Plan, folder string) (a *proxy.Authority, file string, err error) {
	for _, v := range p.Topology.Services {
		if v.TLS == nil || v.TLS.Caller != topology.CallerTLS {
			continue
		}
		if a, err = proxy.NewAuthority(p.Duration() + authorityBeyond); err != nil {
			return nil, "", err
		}
		// Absolute: services may have a working directory of their own.
		if file, err = filepath.Abs(filepath.Join(folder, "ca.pem")); err != nil {
			return nil, "", err
		}
		return a, file, a.WriteFile(file)
	}
	return nil, "", nil
}

// authorityBeyond is for start-up, drain, and clocks that differ.
const authorityBeyond = 24 * time.Hour

// listen starts every proxy of a plan; none has an upstream yet.
func listen(ctx context.Context, p *Plan, secrets map[string]*targets.Secrets, a *proxy.Authority) (*edges, error) {
	e := &edges{topology: p.Topology, proxies: map[string]*proxy.Proxy{}, serve: map[string]map[int]string{}}
	for _, edge := range p.Topology.Edges {
		// The proxies outlive the run's context: they carry the traffic until the
		// last request is answered and the last service has stopped.
		px, err := proxy.Start(context.WithoutCancel(ctx), proxyConfig(p, edge, secrets, a))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for edge %q: %w", edge.Name(), err), e.stop())
		}
		e.proxies[edge.Name()] = px
	}
	return e, nil
}

// proxyConfig is that of the proxy on an edge.
func proxyConfig(p *Plan, edge topology.Edge, secrets map[string]*targets.Secrets, a *proxy.Authority) proxy.Config {
	c := proxy.Config{
		Name: edge.Name(), Protocol: proxy.Protocol(edge.Protocol), Seed: derive(p.Seed, "edge", edge.Name()),
		HoldMost: int64(p.Edges[edge.Name()].HoldMost),
	}
	callee, _ := p.Topology.Service(edge.Callee)
	if s := secrets[callee.Name]; s != nil && s.Caller != topology.Passthrough {
		c.UpstreamTLS = &proxy.UpstreamTLS{CA: s.CA, ServerName: s.ServerName, Insecure: s.Insecure, Certificate: s.Cert, Key: s.Key}
		if s.Caller == topology.CallerTLS {
			c.CallerTLS = &proxy.CallerTLS{Authority: a}
			switch {
			case s.HTTP2 == nil: // as the service says
			case *s.HTTP2:
				c.CallerTLS.ALPN = []string{"h2", "http/1.1"}
			default:
				c.CallerTLS.ALPN = []string{"http/1.1"}
			}
		}
	}
	if x := callee.Absent; x != nil && x.Status != 0 {
		c.Absent = &proxy.Error{Status: x.Status, Body: x.Body}
	}
	return c
}

// Resolve implements targets.Edges. The instances of a callee share one proxy, and so
// one address, which is that of instance 0.
func (e *edges) Resolve(caller, callee string, instance int) (string, error) {
	p := e.proxy(topology.Edge{Caller: caller, Callee: callee}.Name())
	if p == nil || instance != 0 {
		return "", fmt.Errorf("no edge from %q to %q (instance %d)", caller, callee, instance)
	}
	return p.Addr(), nil
}

// Serves implements targets.Edges. The connections on an edge go to the callee's
// instances in turn; one that refuses a connection is passed over.
func (e *edges) Serves(callee string, instance int, address string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.serve[callee] == nil {
		e.serve[callee] = map[int]string{}
	}
	e.serve[callee][instance] = address
	var all []string
	for _, i := range slices.Sorted(maps.Keys(e.serve[callee])) {
		all = append(all, e.serve[callee][i])
	}
	for _, edge := range e.topology.Into(callee) {
		e.proxies[edge.Name()].SetUpstream(strings.Join(all, ","))
	}
}

func (e *edges) proxy(name string) *proxy.Proxy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.proxies[name]
}

func (e *edges) stop() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, p := range e.proxies {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}

// edgeEvent is what a proxy saw, as the journal has it; nil when nothing moved.
func edgeEvent(name string, s proxy.Stats) *journal.Edge {
	if s.Calls == 0 && len(s.Answers) == 0 && s.BytesUp == 0 && s.BytesDown == 0 && len(s.Rules) == 0 {
		return nil
	}
	event := &journal.Edge{
		Edge: name, Calls: s.Calls, Answers: s.Answers, Upstream: s.Upstream, Open: s.Open,
		BytesUp: s.BytesUp, BytesDown: s.BytesDown, Latency: s.Latency.Encode(),
	}
	if d := s.Datagrams; d != nil {
		event.DatagramsUp, event.DatagramsDown, event.Lost = d.Up, d.Down, d.Lost
	}
	for rule, did := range s.Rules {
		if event.Faults == nil {
			event.Faults = map[string]journal.EdgeFault{}
		}
		event.Faults[rule] = journal.EdgeFault{Eligible: did.Eligible, Fired: did.Fired, Delay: did.Delay.Encode(), Bytes: did.Bytes}
	}
	return event
}
