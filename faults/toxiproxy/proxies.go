package toxiproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// definition is a proxy as a request asks for it.
type definition struct {
	Name     string            `json:"name"`
	Listen   string            `json:"listen"`
	Upstream string            `json:"upstream"`
	Enabled  *bool             `json:"enabled"`
	Toxics   []json.RawMessage `json:"toxics"` // not Toxiproxy's: at work from the first connection on
	toxics   []toxic
	TLS      *TLS   `json:"tls"`      // nor this
	Protocol string `json:"protocol"` // nor is this: http, tcp (default), udp
	protocol proxy.Protocol
}

// check completes a definition and says what is missing; at says where it stands.
func (d *definition) check(at string) error {
	if d.Name == "" {
		return missing("name" + at)
	}
	var err error
	if d.protocol, err = protocolOf(d.Protocol, &d.Listen, &d.Upstream); err == nil && d.Upstream == "" {
		return missing("upstream" + at)
	}
	if err == nil {
		if wrong := proxy.ParseUpstream(d.Upstream); wrong != nil {
			err = badBody(wrong)
		}
	}
	if err != nil {
		e := asError(err)
		return &Error{e.Message + at, e.Status}
	}
	if d.Enabled == nil {
		d.Enabled = new(bool)
		*d.Enabled = true
	}
	if d.toxics, err = parseToxics(d.Toxics); err == nil {
		err = fit(d.toxics, d.protocol)
	}
	if err != nil {
		e := asError(err)
		return &Error{e.Message + at, e.Status}
	}
	return nil
}

// lookup finds a proxy whose creation is over.
func (s *Server) lookup(name string) (*entry, *state, error) {
	s.mu.RLock()
	e := s.entries[name]
	s.mu.RUnlock()
	if e == nil {
		return nil, nil, errProxyNotFound
	}
	st := e.now.Load()
	if st == nil {
		return nil, nil, errProxyNotFound
	}
	return e, st, nil
}

// list is every proxy whose creation is over, by name.
func (s *Server) list() []*entry {
	s.mu.RLock()
	all := slices.Collect(maps.Values(s.entries))
	s.mu.RUnlock()
	all = slices.DeleteFunc(all, func(e *entry) bool { return e.now.Load() == nil })
	slices.SortFunc(all, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	return all
}

// create makes a proxy. Its name is taken at once, and given back when it fails.
func (s *Server) create(d definition) (*entry, error) {
	e := &entry{s: s, name: d.Name}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.mu.Lock()
	err := s.place(e)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	st := state{listen: d.Listen, upstream: d.Upstream, protocol: d.protocol, toxics: d.toxics, tls: d.TLS}
	if st.protocol == "" {
		st.protocol = proxy.TCP
	}
	if *d.Enabled {
		if st, err = e.start(st); err != nil {
			e.gone = true
			s.remove(e)
			return nil, err
		}
	}
	e.totals.keep(d.toxics)
	e.now.Store(&st)
	return e, nil
}

// place puts an entry into the map. s.mu is held.
func (s *Server) place(e *entry) error {
	switch {
	case s.stopped:
		return errStopped
	case s.entries[e.name] != nil:
		return errProxyExists
	case len(s.entries) >= s.config.MaxProxies:
		return &Error{fmt.Sprintf("there are %d proxies, which is the most there can be", len(s.entries)), http.StatusConflict}
	}
	s.entries[e.name] = e
	return nil
}

func (s *Server) remove(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.name] == e {
		delete(s.entries, e.name)
	}
}

// Populate creates the proxies of a JSON array, in Toxiproxy's format, with
// "toxics" where they are to have some. Those that are there already with the
// same address and upstream are kept. Names, upstreams and toxics are checked
// before anything is done; a later error leaves those that were done, which are
// counted.
func (s *Server) Populate(config []byte) (done int, err error) {
	all, err := s.populateAll(config)
	if listen := (*net.OpError)(nil); errors.As(err, &listen) {
		err = fmt.Errorf("proxy %d: %w", len(all)+1, err)
	}
	return len(all), err
}

func (s *Server) populateAll(config []byte) (done []proxyJSON, err error) {
	var all []definition
	if err := decode(config, &all); err != nil {
		return nil, badBody(err)
	}
	for i := range all {
		if err := all[i].check(fmt.Sprintf(" at proxy %d", i+1)); err != nil {
			return nil, err
		}
	}
	for _, d := range all {
		e, err := s.createOrReplace(d)
		if err != nil {
			return done, err
		}
		done = append(done, e.json(e.now.Load()))
	}
	return done, nil
}

// createOrReplace waits for a proxy of that name that somebody else is just
// creating: two who populate the same at once both succeed.
func (s *Server) createOrReplace(d definition) (*entry, error) {
	for {
		s.mu.RLock()
		e, stopped := s.entries[d.Name], s.stopped
		s.mu.RUnlock()
		if stopped {
			return nil, errStopped
		}
		var err error
		again := errProxyNotFound // it has been deleted meanwhile
		if e != nil {
			err = e.replace(d)
		} else {
			e, err = s.create(d)
			again = errProxyExists // … or created
		}
		if !errors.Is(err, again) {
			return e, err
		}
	}
}

// The routes.

func (s *Server) listProxies(w http.ResponseWriter, _ call) error {
	all := map[string]proxyJSON{}
	for _, e := range s.list() {
		all[e.name] = e.json(e.now.Load())
	}
	return writeJSON(w, http.StatusOK, all)
}

func (s *Server) createProxy(w http.ResponseWriter, c call) error {
	var d definition
	type Proxy definition // the name is seen in errors of encoding/json
	if err := decode(c.body, (*Proxy)(&d)); err != nil {
		return badBody(err)
	}
	if err := d.check(""); err != nil {
		return err
	}
	e, err := s.create(d)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, e.json(e.now.Load()))
}

func (s *Server) showProxy(w http.ResponseWriter, c call) error {
	e, st, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, e.json(st))
}

func (s *Server) updateProxy(w http.ResponseWriter, c call) error {
	e, _, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	if err := e.update(c.body); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, e.json(e.now.Load()))
}

func (s *Server) deleteProxy(w http.ResponseWriter, c call) error {
	e, _, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	err = e.change(func(state) error {
		e.end()
		s.remove(e)
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listToxics(w http.ResponseWriter, c call) error {
	_, st, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, inOrder(st.toxics))
}

func (s *Server) createToxic(w http.ResponseWriter, c call) error {
	e, _, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	t, err := e.addToxic(c.body)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, t)
}

func (s *Server) showToxic(w http.ResponseWriter, c call) error {
	_, st, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	i := find(st.toxics, c.toxic)
	if i < 0 {
		return errToxicNotFound
	}
	return writeJSON(w, http.StatusOK, st.toxics[i])
}

func (s *Server) updateToxic(w http.ResponseWriter, c call) error {
	e, _, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	t, err := e.updateToxic(c.toxic, c.body)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, t)
}

func (s *Server) deleteToxic(w http.ResponseWriter, c call) error {
	e, _, err := s.lookup(c.proxy)
	if err != nil {
		return err
	}
	if err := e.removeToxic(c.toxic); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// reset goes on after an error: one port that is taken does not keep the other
// proxies broken.
func (s *Server) reset(w http.ResponseWriter, _ call) error {
	var failed []error
	for _, e := range s.list() {
		if err := e.reset(); err != nil && !errors.Is(err, errProxyNotFound) {
			failed = append(failed, err)
		}
	}
	if err := errors.Join(failed...); err != nil {
		return &Error{err.Error(), http.StatusInternalServerError}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// populate answers with what was done, also beside an error.
func (s *Server) populate(w http.ResponseWriter, c call) error {
	done, err := s.populateAll(c.body)
	answer := struct {
		*Error
		Proxies []proxyJSON `json:"proxies"`
	}{nil, done}
	status := http.StatusCreated
	if err != nil {
		answer.Error = asError(err)
		status = answer.Status
	}
	return writeJSON(w, status, answer)
}
