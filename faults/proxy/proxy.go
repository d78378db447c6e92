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
//	 ├ h2    (h2.go)      … of HTTP/2: frame by frame, on either side
//	 │  └ stream (h2_streams.go)  a call of it, and what holds it back
//	 └ pump  (pump.go)    … of bytes: TCP edges, tunnels, and whatever is not HTTP;
//	                      what waits is in a queue of chunks (queue.go)
//	alarms   (alarms.go)  wake flows closer to their time than the runtime does, and write
//	                      what flows that only delay have lent them (lent.go)
//	Rule     (rule.go)    what a rule can ask for
//	placed   (placed.go)  rules that come, change, pause and go
//	active   (active.go)  a rule at work: what it hits, by a hash of the call's number
//	match    (match.go)   … and which requests it is about at all, by what they say
//	stage    (stage.go)   how a rule paces bytes, as arithmetic on a clock
//	reshape  (reshape.go) header lines that are changed
//	content  (content.go) bodies that are held, cut short, corrupted
//	socket   (socket.go)  a side of a conn: TCP, Unix, or TLS on them (secured.go)
//	early    (early.go)   the upstream asked which protocol it speaks, before a caller is answered
//	greeting (greeting.go) what TLS that passes through asks for
//	grpc     (grpc.go)    calls of gRPC, and their statuses
//	counters (stats.go)   the evidence
//	relay    (udp.go)     … of UDP: datagrams and sessions, in the place of conns
//	 └ fate  (udp_fate.go)  what rules do to a datagram, and when it goes
//	plane    (plane.go)   … without rules: loops, each of many
//	 ├ door  (plane_door.go)  a listening socket
//	 └ link  (plane_link.go)  a connection; what a conn and its flows are above
//
// A new kind of fault is a field of Rule and, where it paces or cuts bytes, a
// stage; one that ends or silences connections calls conn.strike, and one that
// does so by the clock is known to active.strikesAfter. Another
// transport is another socket, as TLS is (tls.go); another protocol is another sibling of
// calls.go; moving bytes inside the kernel belongs into the pump's path without
// stages.
//
// Bytes are never altered, but by Corrupt and Reshape, and the frames of HTTP/2 (see h2): framing only finds
// where messages begin and end, and what it cannot understand passes through as it is. A caller's connection has
// one upstream connection, dialled when the first byte is to go there, and they
// share their fate: FIN passes on as FIN, RST as RST, and an upstream that cannot
// be dialled is RST to the caller. No 502 is ever made up.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Protocol is what a Proxy looks at.
type Protocol string

const (
	HTTP Protocol = "http" // HTTP/1.x and HTTP/2: requests are seen, counted and hit one by one
	TCP  Protocol = "tcp"  // connections are seen, counted and hit
	UDP  Protocol = "udp"  // datagrams are
)

// Config says where a Proxy stands.
type Config struct {
	Name   string // of the edge, for messages
	Listen string // host:port or unix:///path (see Listen); empty is 127.0.0.1:0
	// Upstream is host:port or unix:///path. It may be empty until SetUpstream: then
	// every call is refused.
	//
	// Of several, with commas in between, connections take turns: the n-th, from 0,
	// goes to the n-th, and where that cannot be connected to, each other is tried
	// once, in their order. One that accepts and then fails is not passed over.
	//
	// None is to say that there is no upstream: rules still do what they do, and calls
	// that none of them answers are answered by Absent, or refused.
	Upstream    string
	Protocol    Protocol
	Seed        uint64
	DialTimeout time.Duration // 0 is 10 s; bounds each connect, and each TLS handshake
	Rules       []Rule        // at work before the first connection is accepted
	// CloseUnreachable ends a caller's connection with FIN where the upstream cannot
	// be dialled; else it is RST, which a caller may see in connect(2) already.
	CloseUnreachable bool
	// HoldMost is how many bytes latency rules hold back at most, of all connections
	// together; 0 is 256 MiB. Whoever sends more waits, as for a slow peer; no byte is
	// lost. A delay of d lets HoldMost/d through in a second, so 256 MiB are 1.3 GB/s
	// at 200 ms. One connection alone gets 64/65 of it. Not counted are the buffer that each
	// direction of a connection has to itself, of up to 64 KiB, and 48 KiB for
	// the times of the first 1000 pieces.
	HoldMost int64
	// CallerTLS and UpstreamTLS are TLS on either side; nil: that side's bytes are
	// passed on as they come, TLS or not. Rules are about what is inside TLS that ends
	// here: they may strike before a handshake is answered, and pace none of it.
	CallerTLS   *CallerTLS
	UpstreamTLS *UpstreamTLS
	// Absent is what an HTTP edge answers, in place of the upstream None, where no rule
	// does; nil: such calls are refused.
	Absent *Error
	// Of UDP alone: how long a caller's session lasts when nothing passes (0 is 60 s),
	// and how many there can be (0 is 1024; the one idle for longest makes room).
	Idle         time.Duration
	MostSessions int
}

// Proxy stands between a caller and a callee. All its methods may be called from
// any goroutine at any time, and none waits for a connection's peer, but Stop,
// which waits for the end of the Proxy's own goroutines.
type Proxy struct {
	config   Config
	listener net.Listener
	tls      security
	absent   *active // the answer of Config.Absent; nil: none
	dialer   func(ctx context.Context, address string) (net.Conn, error)
	unix     func(ctx context.Context, path string) (net.Conn, error) // … of a Unix socket
	start    time.Time                                                // zero of its clock
	ctx      context.Context
	cancel   context.CancelFunc
	all      sync.WaitGroup

	upstream atomic.Pointer[upstreams]
	calls    atomic.Uint64 // numbers given to calls; UDP: to callers' datagrams
	answers  atomic.Uint64 // UDP: numbers given to those that answer
	accepted atomic.Uint64 // numbers given to connections; UDP: to sessions
	open     atomic.Int64
	stats    counters
	held     budget
	alarms   *alarms // nil: on a clock of a test

	rulesMu sync.Mutex // one change of rules at a time, told to every conn before the next
	rules   atomic.Pointer[rules]
	ruleIDs uint64
	placed  []*placed // those declared (Config.Rules, SetRules), in their order, then those of Add, oldest first

	door    *door   // nil: nothing goes over the fast plane
	landing []*link // to be moved to conns by tell; guarded by rulesMu
	relay   *relay  // nil but on UDP, where there are no listener, no conns and no links

	mu      sync.Mutex
	conns   map[*conn]struct{}
	links   []*link   // none while there are rules
	paused  []*active // rules between two pulses
	retired []*active // rules removed since the last Collect
	stopped bool
}

// Start listens and serves until Stop, or until ctx ends. When it returns,
// callers can connect. A taken port is an error.
func Start(ctx context.Context, c Config) (*Proxy, error) {
	if c.Protocol != HTTP && c.Protocol != TCP && c.Protocol != UDP {
		return nil, fmt.Errorf("start proxy %q: protocol is %q, want %q, %q or %q", c.Name, c.Protocol, HTTP, TCP, UDP)
	}
	if c.Idle < 0 || c.MostSessions < 0 {
		return nil, fmt.Errorf("start proxy %q: sessions last %v and are %d at most, want more than 0 each, or 0 for %v and %d", c.Name, c.Idle, c.MostSessions, idleDefault, sessionsDefault)
	}
	if c.DialTimeout < 0 {
		return nil, fmt.Errorf("start proxy %q: dial timeout is %v, want more than 0", c.Name, c.DialTimeout)
	}
	if c.HoldMost < 0 {
		return nil, fmt.Errorf("start proxy %q: at most %d bytes are to be held back, want more than 0, or 0 for %d", c.Name, c.HoldMost, holdMost)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	for _, r := range c.Rules {
		if err := c.allows(r); err != nil {
			return nil, fmt.Errorf("start %w", err)
		}
	}
	if err := c.matchesFit(c.Rules...); err != nil {
		return nil, fmt.Errorf("start %w", err)
	}
	if err := ParseUpstream(c.Upstream); err != nil {
		return nil, fmt.Errorf("start proxy %q: %w", c.Name, err)
	}
	if err := c.absentFits(); err != nil {
		return nil, fmt.Errorf("start proxy %q: %w", c.Name, err)
	}
	if _, err := c.security(); err != nil {
		return nil, fmt.Errorf("start proxy %q: %w", c.Name, err)
	}
	if c.Protocol == UDP {
		if err := c.udpFits(); err != nil {
			return nil, fmt.Errorf("start proxy %q: %w", c.Name, err)
		}
		return startUDP(ctx, c)
	}
	l, err := Listen(ctx, c.Listen)
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
	if c.HoldMost == 0 {
		c.HoldMost = holdMost
	}
	p := &Proxy{config: c, listener: l, start: time.Now(), conns: map[*conn]struct{}{}}
	p.held.most = c.HoldMost
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.upstream.Store(parseUpstreams(c.Upstream))
	p.tls, _ = c.security() // as Start has seen
	if p.tls.caller != nil && p.tls.upstream != nil && len(c.CallerTLS.ALPN) == 0 {
		p.tls.caller.GetConfigForClient = p.likeUpstream
	}
	p.absent = c.absent()
	for _, r := range c.Rules {
		p.placed = append(p.placed, p.place(r, true))
	}
	p.publish(nil)
	switch l.(type) {
	case *net.TCPListener, *socketFile:
		p.alarms = newAlarms(p.start)
	}
	dialer := net.Dialer{Timeout: c.DialTimeout, KeepAlive: -1, Control: unpaceAt}
	p.dialer = func(ctx context.Context, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", address)
	}
	p.unix = func(ctx context.Context, path string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", path)
	}
	p.door = newDoor(p)
	p.all.Go(p.accept)
	p.all.Go(func() {
		p.keepAlive()
		p.shut()
	})
	return p
}

// Addr is where it listens, host:port or unix:///path.
func (p *Proxy) Addr() string {
	if p.relay != nil {
		return p.relay.port.addr().String()
	}
	return p.listener.Addr().String()
}

// Upstream is where new connections go to.
func (p *Proxy) Upstream() string { return p.upstream.Load().text }

// SetUpstream sends new connections to addr (as Config.Upstream; nobody is told what
// is wrong with it but by ParseUpstream). Those that are open stay where they are.
func (p *Proxy) SetUpstream(addr string) {
	p.upstream.Store(parseUpstreams(addr))
}

// Collect returns what happened since the last Collect. Of UDP, whatever a caller has
// received is in it.
func (p *Proxy) Collect() Stats {
	p.eachLink((*link).settle)
	for _, c := range p.connections() {
		c.up.lending.settle()
		c.down.lending.settle()
	}
	open := int(p.open.Load()) // first: what ended the connections that are gone is in the counts then
	var datagrams *DatagramStats
	if p.relay != nil {
		datagrams = p.relay.collect() // before the counts: a datagram on its way out is counted when its lock is free
	}
	s := p.stats.collect()
	s.Open, s.Datagrams = open, datagrams
	p.mu.Lock()
	all := slices.Concat(*p.rules.Load(), p.paused, p.retired)
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
	if p.relay != nil {
		p.relay.shut()
		p.alarms.close()
		p.stopPulses()
		return
	}
	if p.door != nil {
		p.door.lock(true)
	}
	p.listener.Close()
	p.alarms.close()
	p.stopPulses()
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

// accept takes connections until the listener is closed, or sees to it that the door
// does. It does nothing that could wait for one of them. Errors of accept(2) pass:
// running out of file descriptors (EMFILE) is survived by waiting for some to be
// closed.
func (p *Proxy) accept() {
	pause := time.Duration(0)
	for {
		before := p.accepted.Load()
		nc, err := p.next()
		if p.accepted.Load() != before { // the door has accepted some
			pause = 0
		}
		switch {
		case errors.Is(err, net.ErrClosed):
			return
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
		p.admit(p.receive(nc), p.accepted.Add(1)-1)
	}
}

// next is the next connection, or why there are no more; where there is a door, why
// that accepts no more.
func (p *Proxy) next() (net.Conn, error) {
	if p.door != nil {
		return nil, p.door.keep(p.ctx)
	}
	return p.listener.Accept()
}

// admit refuses the connection or starts to serve it.
func (p *Proxy) admit(client *socket, number uint64) {
	for _, r := range *p.rules.Load() {
		if r.Refuse != nil && r.did.drawn(r.picks(who{number: number, begun: p.now(), from: client.from()})) {
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
