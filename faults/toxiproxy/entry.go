package toxiproxy

import (
	"context"
	"errors"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// entry is one proxy of a Server.
//
//	mu    one change at a time; held while a listener is opened or connections are
//	      torn down, never while a client or an upstream is waited for
//	now   what readers see, replaced as a whole at the end of a change
type entry struct {
	s    *Server
	name string

	mu     sync.Mutex
	gone   bool   // deleted: whoever waited for mu looks for another entry
	starts uint64 // of the data plane so far: each draws afresh

	now    atomic.Pointer[state] // nil: its creation is not over, or has failed
	totals totals
}

// state is a proxy's definition, and what serves it.
type state struct {
	listen, upstream string // without a scheme
	protocol         proxy.Protocol
	toxics           []toxic      // in the order they were added
	tls              *TLS         // nil: bytes as they come
	proxy            *proxy.Proxy // nil: not enabled
}

func (e *entry) json(st *state) proxyJSON {
	j := proxyJSON{
		Name: e.name, Listen: shown(st.listen, st.protocol), Upstream: shown(st.upstream, st.protocol),
		Enabled: st.proxy != nil, Toxics: inOrder(st.toxics), TLS: st.tls,
	}
	if st.protocol != proxy.TCP {
		j.Protocol = string(st.protocol)
	}
	return j
}

// start is st, enabled: callers can connect, and the toxics hit the first one
// already. e.mu is held.
func (e *entry) start(st state) (state, error) {
	addr, err := e.s.resolve(st.listen)
	if err != nil {
		return st, &net.OpError{Op: "listen", Net: "tcp", Err: err}
	}
	e.starts++
	c := proxy.Config{
		Name: e.name, Listen: addr, Upstream: st.upstream, Protocol: st.protocol,
		Seed: e.seed(), Rules: rules(st.toxics), HoldMost: e.s.config.HoldMost,
		CloseUnreachable: true, // as Toxiproxy: to clients' tests, a proxy that accepts is up
	}
	if err := st.tls.into(&c, e.s); err != nil {
		return st, err
	}
	p, err := proxy.Start(e.s.ctx, c)
	if err != nil {
		var listen *net.OpError
		if errors.As(err, &listen) { // clients know these words
			err = listen
		}
		return st, err
	}
	st.proxy, st.listen = p, p.Addr()
	return st, nil
}

// seed differs between proxies and between the starts of one, so that the first
// connection after a restart does not meet the fate of the first one again.
func (e *entry) seed() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(e.name))
	return h.Sum64() ^ e.s.config.Seed ^ e.starts*0x9e3779b97f4a7c15
}

// stop is st, not enabled: its connections are reset, and its port is free.
// e.mu is held.
func (e *entry) stop(st state) state {
	if st.proxy != nil {
		_ = st.proxy.Stop() // it has no error
		e.totals.collect(st.proxy)
		st.proxy = nil
	}
	return st
}

// end takes the entry out of service for good. e.mu is held.
func (e *entry) end() {
	if st := e.now.Load(); st != nil {
		stopped := e.stop(*st)
		e.now.Store(&stopped)
	}
	e.gone = true
}

// setToxics puts exactly these to work, also on connections that are open.
// e.mu is held.
func (e *entry) setToxics(toxics []toxic) error {
	st := *e.now.Load()
	if err := fit(toxics, st.protocol); err != nil {
		return err
	}
	if st.proxy != nil {
		if err := st.proxy.SetRules(rules(toxics)); err != nil {
			return err
		}
		e.totals.collect(st.proxy) // what removed rules did is not to pile up
	}
	e.totals.keep(toxics)
	st.toxics = toxics
	e.now.Store(&st)
	return nil
}

// change runs f while nothing else changes the entry.
func (e *entry) change(f func(st state) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return errProxyNotFound
	}
	return f(*e.now.Load())
}

// update changes where the proxy stands and whether it is enabled; what body does
// not name stays. A changed address stops it first, as Toxiproxy does: what fails
// after that leaves it stopped. Toxics are not looked at: clients send the whole
// proxy as they last saw it when they change one field.
func (e *entry) update(body []byte) error {
	return e.change(func(st state) error {
		type Proxy struct { // the name is seen in errors of encoding/json
			Name     string `json:"name"` // a proxy keeps its own
			Listen   string `json:"listen"`
			Upstream string `json:"upstream"`
			Enabled  bool   `json:"enabled"`
			TLS      *TLS   `json:"tls"`
			Protocol string `json:"protocol"`
		}
		in := Proxy{Listen: st.listen, Upstream: st.upstream, Enabled: st.proxy != nil}
		if err := decode(body, &in); err != nil {
			return badBody(err)
		}
		if in.Protocol == "" && st.protocol != proxy.TCP {
			in.Protocol = string(st.protocol)
		}
		protocol, err := protocolOf(in.Protocol, &in.Listen, &in.Upstream)
		if err != nil {
			return err
		}
		if in.Upstream == "" {
			return missing("upstream")
		}
		if err := proxy.ParseUpstream(in.Upstream); err != nil {
			return badBody(err)
		}
		if in.TLS == nil { // most clients do not know of it
			in.TLS = st.tls
		}
		if err := fit(st.toxics, protocol); err != nil {
			return err
		}
		same, err := e.s.sameListen(st.listen, in.Listen)
		if err != nil {
			return err
		}
		if !same || st.upstream != in.Upstream || st.protocol != protocol || !st.tls.same(in.TLS) {
			st = e.stop(st)
			st.listen, st.upstream, st.protocol, st.tls = in.Listen, in.Upstream, protocol, in.TLS
		}
		if in.Enabled && st.proxy == nil {
			st, err = e.start(st)
		} else if !in.Enabled {
			st = e.stop(st)
		}
		e.now.Store(&st)
		return err
	})
}

// replace makes the entry what an entry of /populate says. What has that
// address and upstream already is kept as it is, with its toxics, unless others
// are named.
func (e *entry) replace(want definition) error {
	return e.change(func(st state) error {
		same, err := e.s.sameListen(st.listen, want.Listen)
		if err != nil {
			return err
		}
		if same && st.upstream == want.Upstream && st.protocol == want.protocol && st.tls.same(want.TLS) {
			if len(want.toxics) == 0 {
				return nil
			}
			return e.setToxics(want.toxics)
		}
		st = e.stop(st)
		fresh := state{listen: want.Listen, upstream: want.Upstream, protocol: want.protocol, toxics: want.toxics, tls: want.TLS}
		if *want.Enabled {
			if fresh, err = e.start(fresh); err != nil {
				e.now.Store(&st)
				return err
			}
		}
		e.totals.keep(nil)
		e.totals.keep(fresh.toxics)
		e.now.Store(&fresh)
		return nil
	})
}

// addToxic, updateToxic and removeToxic change one of the toxics.
func (e *entry) addToxic(body []byte) (t toxic, err error) {
	err = e.change(func(st state) error {
		if t, err = parseToxic(body, st.toxics); err != nil {
			return err
		}
		return e.setToxics(append(slices.Clone(st.toxics), t))
	})
	return t, err
}

func (e *entry) updateToxic(name string, body []byte) (t toxic, err error) {
	err = e.change(func(st state) error {
		i := find(st.toxics, name)
		if i < 0 {
			return errToxicNotFound
		}
		if t, err = st.toxics[i].updated(body); err != nil {
			return err
		}
		toxics := slices.Clone(st.toxics)
		toxics[i] = t
		return e.setToxics(toxics)
	})
	return t, err
}

func (e *entry) removeToxic(name string) error {
	return e.change(func(st state) error {
		i := find(st.toxics, name)
		if i < 0 {
			return errToxicNotFound
		}
		return e.setToxics(slices.Delete(slices.Clone(st.toxics), i, i+1))
	})
}

// reset removes the toxics and enables the proxy, in this order: no connection
// is to meet what is on its way out.
func (e *entry) reset() error {
	return e.change(func(st state) error {
		if err := e.setToxics(nil); err != nil || st.proxy != nil {
			return err
		}
		st, err := e.start(*e.now.Load())
		if err == nil {
			e.now.Store(&st)
		}
		return err
	})
}

// resolveWithin is how long a name server may take to say where to listen.
const resolveWithin = 5 * time.Second

// resolve makes a listen address one of numbers, or of a socket's whole path. An empty host is 127.0.0.1: who
// wants to be reached from elsewhere has to write 0.0.0.0 or [::]. The errors are
// those of package net, which clients know.
func (s *Server) resolve(listen string) (string, error) {
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	if strings.HasPrefix(listen, "unix:") {
		return proxy.Canonical(listen)
	}
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(s.ctx, resolveWithin)
	defer cancel()
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return "", err
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case host == "":
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case err != nil:
		all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return "", err
		}
		addr = all[0]
		if i := slices.IndexFunc(all, func(a netip.Addr) bool { return a.Unmap().Is4() }); i >= 0 {
			addr = all[i] // as net.Listen chooses
		}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)).String(), nil
}

// sameListen tells whether a proxy that listens at have would not move if it were
// told to listen at want. Go reports the wildcard 0.0.0.0 as [::], on which it
// takes both families.
func (s *Server) sameListen(have, want string) (bool, error) {
	resolved, err := s.resolve(want)
	if err != nil {
		return false, err
	}
	a, errA := netip.ParseAddrPort(have)
	b, errB := netip.ParseAddrPort(resolved)
	if errA != nil || errB != nil {
		return have == resolved, nil
	}
	return a == b || a.Port() == b.Port() && a.Addr().IsUnspecified() && b.Addr().IsUnspecified(), nil
}
