// Package proxy is the data plane of a fault: a proxy on one edge between a
// caller and a callee, which passes everything on unchanged, counts it, and
// breaks it by rules that come and go while connections are open.
//
// A proxy of plain TCP that has no rules hands its connections to event loops, the
// fast plane (plane.go), which moves those that are open to the layers below when
// the first rule comes, between one byte and the next. Nothing else tells one from
// the other: both count, end and keep order alike.
//
// The layers, from the wire inwards; each knows only the next:
//
//	Proxy    (proxy.go)   the listener, the rules, the counts
//	conn     (conn.go)    a caller's connection and the one upstream connection behind
//	                      it: dial, calls under way, how and why both end
//	flow     (flow.go)    one direction of a conn, one goroutine: reads, writes and waits
//	                      that a change of rules interrupts
//	 ├ calls (calls.go)   … of HTTP/1.x: message by message, with package framing
//	 └ pump  (pump.go)    … of bytes: TCP edges, tunnels, and whatever is not HTTP
//	Rule     (rule.go)    what a rule can ask for
//	active   (active.go)  a rule at work: what it hits, by a hash of the call's number
//	stage    (stage.go)   how a rule paces bytes, as arithmetic on a clock
//	counters (stats.go)   the evidence
//	plane    (plane.go)   … without rules: loops, each of many
//	 ├ door  (plane_door.go)  a listening socket
//	 └ link  (plane_link.go)  a connection; what a conn and its flows are above
//
// A new kind of fault is a field of Rule and, where it paces or cuts bytes, a
// stage; one that ends or silences connections calls conn.strike, and one that
// does so by the clock is known to active.strikesAfter. Another
// transport (TLS) is another socket; another protocol is another sibling of
// calls.go; moving bytes inside the kernel belongs into the pump's path without
// stages.
//
// Bytes are never altered, but by Corrupt: framing only finds where messages begin and end, and
// what it cannot understand passes through as it is. A caller's connection has
// one upstream connection, dialled when the first byte is to go there, and they
// share their fate: FIN passes on as FIN, RST as RST, and an upstream that cannot
// be dialled is RST to the caller. No 502 is ever made up.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Protocol is what a Proxy looks at.
type Protocol string

const (
	HTTP Protocol = "http" // HTTP/1.x: requests are seen, counted and hit one by one
	TCP  Protocol = "tcp"  // connections are seen, counted and hit
)

// Config says where a Proxy stands.
type Config struct {
	Name        string // of the edge, for messages
	Listen      string // host:port; empty is 127.0.0.1:0
	Upstream    string // host:port; may be empty until SetUpstream: then every call is refused
	Protocol    Protocol
	Seed        uint64
	DialTimeout time.Duration // 0 is 10 s
	Rules       []Rule        // at work before the first connection is accepted
	// CloseUnreachable ends a caller's connection with FIN where the upstream cannot
	// be dialled; else it is RST, which a caller may see in connect(2) already.
	CloseUnreachable bool
}

// Proxy stands between a caller and a callee. All its methods may be called from
// any goroutine at any time, and none waits for a connection's peer, but Stop,
// which waits for the end of the Proxy's own goroutines.
type Proxy struct {
	config   Config
	listener net.Listener
	dialer   func(ctx context.Context, address string) (net.Conn, error)
	start    time.Time // zero of its clock
	ctx      context.Context
	cancel   context.CancelFunc
	all      sync.WaitGroup

	upstream atomic.Pointer[string]
	calls    atomic.Uint64 // numbers given to calls
	open     atomic.Int64
	stats    counters

	rulesMu  sync.Mutex // one change of rules at a time, told to every conn before the next
	rules    atomic.Pointer[rules]
	ruleIDs  uint64
	declared rules // those put there by Config.Rules and SetRules

	door    *door  // nil: nothing goes over the fast plane
	numbers uint64 // given to connections; of whoever accepts

	mu      sync.Mutex
	conns   map[*conn]struct{}
	links   []*link   // none while there are rules
	retired []*active // rules removed since the last Collect
	stopped bool
}

// Start listens and serves until Stop, or until ctx ends. When it returns,
// callers can connect. A taken port is an error.
func Start(ctx context.Context, c Config) (*Proxy, error) {
	if c.Protocol != HTTP && c.Protocol != TCP {
		return nil, fmt.Errorf("start proxy %q: protocol is %q, want %q or %q", c.Name, c.Protocol, HTTP, TCP)
	}
	if c.DialTimeout < 0 {
		return nil, fmt.Errorf("start proxy %q: dial timeout is %v, want more than 0", c.Name, c.DialTimeout)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	for _, r := range c.Rules {
		if err := c.allows(r); err != nil {
			return nil, fmt.Errorf("start %w", err)
		}
	}
	lc := net.ListenConfig{KeepAlive: -1} // see keepAlive
	lc.SetMultipathTCP(false)             // a proxied connection is plain TCP on both sides
	l, err := lc.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("start proxy %q: %w", c.Name, err)
	}
	return serve(ctx, c, l), nil
}

// serve is Start on a listener that is there.
func serve(ctx context.Context, c Config, l net.Listener) *Proxy {
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	p := &Proxy{config: c, listener: l, start: time.Now(), conns: map[*conn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.upstream.Store(&c.Upstream)
	for _, r := range c.Rules {
		p.declared = append(p.declared, p.anew(r))
	}
	now := slices.Clone(p.declared)
	p.rules.Store(&now)
	dialer := net.Dialer{Timeout: c.DialTimeout, KeepAlive: -1}
	p.dialer = func(ctx context.Context, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", address)
	}
	p.door = newDoor(p)
	p.all.Go(p.accept)
	p.all.Go(func() {
		p.keepAlive()
		p.shut()
	})
	return p
}

// Addr is where it listens, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Upstream is where new connections go to.
func (p *Proxy) Upstream() string { return *p.upstream.Load() }

// SetUpstream sends new connections to addr (host:port). Those that are open
// stay where they are.
func (p *Proxy) SetUpstream(addr string) {
	p.upstream.Store(&addr)
	p.door.reconsider()
}

// Add puts the rule to work, also on connections that are open: when it returns,
// every new byte is subject to it, and the connections that it resets are reset.
// remove ends it, once; when that returns, what the rule held back is on its way.
// Rules of one name are counted together.
func (p *Proxy) Add(r Rule) (remove func(), err error) {
	if err := p.config.allows(r); err != nil {
		return nil, err
	}
	p.rulesMu.Lock()
	defer p.rulesMu.Unlock()
	if p.ctx.Err() != nil {
		return nil, fmt.Errorf("proxy %q: rule %q: the proxy is stopped", p.config.Name, r.Name)
	}
	a := p.anew(r)
	p.setRules(p.rules.Load().with(a), nil, func(c *conn) { c.apply(a) })
	return sync.OnceFunc(func() { p.remove(a) }), nil
}

// allows tells what is wrong with a rule on such a proxy.
func (c *Config) allows(r Rule) error {
	err := r.Validate()
	if err == nil {
		err = r.needs(c.Protocol)
	}
	if err != nil {
		return fmt.Errorf("proxy %q: %w", c.Name, err)
	}
	return nil
}

// anew puts a rule to work. Of one caller at a time.
func (p *Proxy) anew(r Rule) *active {
	p.ruleIDs++
	a := newActive(r, p.ruleIDs, p.config.Seed)
	a.added = p.now()
	return a
}

func (p *Proxy) remove(a *active) {
	p.rulesMu.Lock()
	defer p.rulesMu.Unlock()
	a.gone.Store(true)
	p.setRules(p.rules.Load().without(a), []*active{a}, func(c *conn) { c.lift(a) })
}

// setRules puts those rules in the place of the ones there were, and tells every
// connection that is open.
func (p *Proxy) setRules(now rules, retired []*active, tell func(*conn)) {
	p.mu.Lock()
	p.retired = append(p.retired, retired...)
	p.rules.Store(&now)
	var links []*link
	if len(now) > 0 {
		links, p.links = p.links, nil
	}
	p.mu.Unlock()
	start := land(links)
	for _, c := range p.connections() {
		tell(c)
	}
	start()
	p.door.reconsider()
}

// SetRules makes the rules that Config.Rules and earlier calls put to work exactly
// these, in this order; those of Add stay as they are. It refuses all or none.
//
//   - A rule that equals one at work stays untouched, with all it knows of its
//     connections: their draws, pieces, bytes counted, bytes held.
//   - One of the same name and kind, with other settings, takes the place of the
//     old one: the same connections are hit (at another Percent, the fewer or the
//     more of them), time goes on counting from when the old one was added, and
//     nothing is closed or let go that the new one would hold too.
//   - What is missing is removed, as by the func that Add returns; what is new is
//     added, as by Add.
func (p *Proxy) SetRules(want []Rule) error {
	for _, r := range want {
		if err := p.config.allows(r); err != nil {
			return err
		}
	}
	p.rulesMu.Lock()
	defer p.rulesMu.Unlock()
	if p.ctx.Err() != nil {
		return fmt.Errorf("proxy %q: the proxy is stopped", p.config.Name)
	}

	had := slices.Clone(p.declared)
	take := func(is func(*active) bool) *active {
		i := slices.IndexFunc(had, is)
		if i < 0 {
			return nil
		}
		a := had[i]
		had = slices.Delete(had, i, i+1)
		return a
	}
	next := make(rules, len(want))
	for i, r := range want {
		next[i] = take(func(a *active) bool { return reflect.DeepEqual(a.Rule, r) })
	}
	var changes []func(*conn)
	for i, r := range want {
		if next[i] != nil {
			continue
		}
		if old := take(func(a *active) bool { return a.Name == r.Name && a.kind() == r.kind() }); old != nil {
			anew := old.as(r, p.config.Seed)
			next[i] = anew
			changes = append(changes, func(c *conn) { c.change(old, anew) })
			continue
		}
		a := p.anew(r)
		next[i] = a
		changes = append(changes, func(c *conn) { c.apply(a) })
	}
	for _, a := range had {
		a.gone.Store(true)
		changes = append(changes, func(c *conn) { c.lift(a) })
	}

	now := slices.Clone(next)
	for _, a := range *p.rules.Load() {
		if !slices.Contains(p.declared, a) {
			now = append(now, a)
		}
	}
	p.declared = next
	p.setRules(now, had, func(c *conn) {
		for _, tell := range changes {
			tell(c)
		}
	})
	return nil
}

// Collect returns what happened since the last Collect.
func (p *Proxy) Collect() Stats {
	p.eachLink((*link).settle)
	open := int(p.open.Load()) // first: what ended the connections that are gone is in the counts then
	s := p.stats.collect()
	s.Open = open
	p.mu.Lock()
	all := slices.Concat(*p.rules.Load(), p.retired)
	p.retired = nil
	p.mu.Unlock()
	for _, r := range all {
		s.Rules[r.Name] = r.did.collectInto(s.Rules[r.Name])
	}
	return s
}

// Stop closes the listener and resets every connection. It returns when every
// goroutine is gone; a second call does the same.
func (p *Proxy) Stop() error {
	p.cancel()
	p.all.Wait()
	return nil
}

func (p *Proxy) shut() {
	p.rulesMu.Lock() // links that are being moved are nobody's in between
	defer p.rulesMu.Unlock()
	if p.door != nil {
		p.door.lock(true)
	}
	p.listener.Close()
	p.mu.Lock()
	p.stopped = true
	links := p.links
	p.links = nil
	p.mu.Unlock()
	for _, k := range links {
		k.mu.Lock()
		k.end(wasReset, true)
		k.mu.Unlock()
	}
	for _, c := range p.connections() {
		c.end(wasReset, true)
	}
	p.door.leave()
}

// keepAlive has the kernel find peers that vanished without a word, until the
// proxy stops: on connections that have been open for a while, since the eight
// system calls would cost a short one a third of its time.
func (p *Proxy) keepAlive() {
	tick := time.NewTicker(keepAliveAfter)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
			for _, c := range p.connections() {
				c.keepAlive()
			}
			p.eachLink((*link).keepAlive)
		}
	}
}

// keepAliveAfter is also the kernel's idle time and interval, as net.Dialer has it.
const keepAliveAfter = 15 * time.Second

// accept takes connections until the listener is closed, while the fast plane does
// not. It does nothing that could wait for one of them. Errors of accept(2) pass:
// running out of file descriptors (EMFILE) is survived by waiting for some to be
// closed.
func (p *Proxy) accept() {
	pause := time.Duration(0)
	for {
		before := p.numbers
		nc, err := p.next()
		if p.numbers != before { // the fast plane has accepted some
			pause = 0
		}
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // for the fast plane, perhaps
			continue
		case err != nil:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
				continue
			case <-p.ctx.Done():
				return
			}
		}
		pause = 0
		if nc == nil {
			continue
		}
		number := p.numbers
		p.numbers++
		p.admit(newSocket(nc), number)
	}
}

// next is the next connection, or nil after the fast plane has taken some.
func (p *Proxy) next() (net.Conn, error) {
	if p.door != nil {
		p.door.listener.SetDeadline(time.Time{}) // first: see door.reconsider
		if p.door.wanted() {
			return nil, p.door.keep(p.ctx)
		}
	}
	return p.listener.Accept()
}

// admit refuses the connection or starts to serve it.
func (p *Proxy) admit(client *socket, number uint64) {
	for _, r := range *p.rules.Load() {
		if r.Refuse != nil && r.did.drawn(r.hits(number)) {
			p.stats.begun()
			p.stats.ended(wasRefused)
			client.abort()
			return
		}
	}
	c := newConn(p, client, number)
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		client.abort()
		return
	}
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	if p.config.Protocol == TCP {
		p.stats.begun()
	}
	p.open.Add(1)
	p.all.Go(func() { c.run(&c.up) })
	p.all.Go(func() { c.run(&c.down) })
}

func (p *Proxy) forget(c *conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) connections() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	return all
}

// now is the time on the proxy's clock.
func (p *Proxy) now() time.Duration { return time.Since(p.start) }
