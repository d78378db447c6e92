package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// conn is a caller's connection and the one upstream connection behind it. Two
// goroutines serve it, one per direction. Its lock is held for bookkeeping only,
// never while anything waits.
type conn struct {
	p        *Proxy
	number   uint64 // of the connection on its proxy: what rules draw by that hit connections
	opened   time.Duration
	from     netip.Addr // the caller's
	up, down flow
	ctx      context.Context // ends with the conn: for dialling
	cancel   context.CancelFunc

	// callerDone is set when the caller has sent FIN: it may have gone, or wait on.
	callerDone atomic.Bool

	mu       sync.Mutex
	client   *socket            // nil: the caller is gone (and the conn silent)
	server   *socket            // nil: not dialled
	over     bool               // ended: nothing is served any more
	silent   *active            // the blackhole rule that holds it
	muted    []*work            // the silence rules that discard bytes of it
	ending   bool               // it is being closed in order …
	endBy    time.Duration      // … until then
	stopDial context.CancelFunc // while dialling
	alarm    *time.Timer        // wakes it for the next rule that strikes by time; nil: none yet
	raw      bool               // a stream of bytes, not of calls: drawn for by its number
	drawn    uint64             // raw: the youngest rule that was drawn for
	opaque   bool               // counted in Stats.Opaque
	tcpCall  bool               // TCP edges: its one call is not settled yet
	calls    []call             // under way, in the order of their requests; [first:] are not settled
	first    int
	h2       *h2  // of HTTP/2, whose calls are its streams; nil: it is not
	upWaits  bool // the up flow wants to know when a call is settled
	upDone   bool // that direction has passed FIN on
	upBroken bool // the upstream takes no more
	downDone bool
	kept     bool     // keep-alive is on
	origin   *origin  // on the fast plane; nil: it has none
	greeting greeting // the flow up's
	early    early    // likewise
}

// call is one HTTP request and its answer.
type call struct {
	number uint64
	method framing.Method
	begun  time.Duration
	inject *active   // the error rule that answers in the upstream's place
	close  bool      // … and ends the connection with it
	ready  bool      // … now: the request was read to its end
	cuts   []*active // rules that strike somewhere in its answer
	drawn  uint64    // the youngest rule that was drawn for
	marks
}

// Why a flow stopped, other than an error of its sockets.
var (
	errOver    = errors.New("the connection is over")
	errSilent  = errors.New("the connection is silent")
	errClosing = errors.New("the last answer was given")
	errEnding  = errors.New("the connection is being closed in order")
	errNudged  = errors.New("something changed")
	errDue     = errors.New("the time has come")
)

func newConn(p *Proxy, client *socket, number uint64) *conn {
	c := &conn{p: p, number: number, opened: p.now(), client: client}
	c.from = client.from()
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	c.up = flow{c: c, in: client, wake: make(chan struct{}, 1), readBy: forever}
	c.down = flow{c: c, isDown: true, out: client, wake: make(chan struct{}, 1), readBy: forever}
	for _, f := range []*flow{&c.up, &c.down} {
		f.take, f.give = f.takeFrom, f.giveTo
		f.into, f.some = f.takeInto, f.giveSome
		f.queue.budget = &p.held
		f.alarm.wakes = f
	}
	c.tcpCall = p.config.Protocol == TCP
	c.greeting.over = !p.watches()
	return c
}

// who is the conn, to rules that hit connections.
func (c *conn) who() who { return who{number: c.number, begun: c.opened, from: c.from} }

// ofCall is the call, to rules that hit calls.
func (c *conn) ofCall(cl *call) who {
	return who{number: cl.number, isCall: true, begun: cl.begun, from: c.from, marks: cl.marks}
}

// run serves one direction to its end.
func (c *conn) run(f *flow) {
	defer f.discardAll()
	if !f.isDown {
		defer c.dropEarly()
	}
	var err error
	switch {
	case c.origin != nil:
		err = f.resume()
	case c.p.config.Protocol == TCP && !f.isDown:
		if err = c.enterRaw(); err == nil {
			err = f.handshake()
		}
		if err == nil {
			err = f.secure()
		}
		if err == nil {
			err = f.tunnel()
		}
	case f.isDown:
		err = f.answers()
	default:
		if err = f.handshake(); err == nil {
			err = f.secure()
		}
		if err == nil {
			err = f.requests()
		}
	}

	if err == io.EOF && f.raw {
		err = f.holdEnd()
	}
	if err == io.EOF {
		err = f.flushed()
	}

	var failed *sideError
	switch {
	case errors.Is(err, errOver):
	case errors.Is(err, errEnding):
		f.leave()
	case errors.Is(err, errSilent):
		f.sink()
	case errors.Is(err, errClosing):
		c.closeInOrder(f)
	case errors.Is(err, io.EOF):
		c.finished(f)
	case errors.As(err, &failed) && failed.writing && !f.isDown:
		// The upstream takes nothing any more. What it said before that is still to
		// come down, and the flow down sees how it ended.
		if c.upFailed() {
			c.end(wasReset, true)
			return
		}
		f.drain(forever)
		c.finished(f)
	case f.isDown == (failed != nil && failed.writing):
		c.end(wasCanceled, true) // the caller's side failed
	default:
		c.end(wasReset, true)
	}
}

// finished passes the end of a direction on. The conn ends when both have.
func (c *conn) finished(f *flow) {
	if f.isDown {
		c.settleAll(c.lostClass())
	}
	c.mu.Lock()
	to := c.server
	if f.isDown {
		to, c.downDone = c.client, true
	} else {
		c.upDone = true
	}
	if to != nil && to.tls != nil && f.in.torn() {
		to.tls.tear()
	}
	// Without an upstream, no answer will come but one that an error rule owes.
	both := c.upDone && (c.downDone || c.server == nil && c.first == len(c.calls)) ||
		c.downDone && c.upBroken
	if !f.isDown {
		c.nudge(&c.down)
	}
	over := c.over
	c.mu.Unlock()
	switch {
	case over:
	case both:
		c.end(c.lostClass(), false)
	case to != nil:
		to.finish()
	}
}

// upFailed notes that the upstream takes no more; true when it says no more either.
func (c *conn) upFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upBroken = true
	return c.downDone
}

// lostClass is what becomes of calls whose answer will not come.
func (c *conn) lostClass() string {
	if c.p.config.Protocol == HTTP && c.callerDone.Load() {
		return wasCanceled
	}
	return wasClosed
}

// closeInOrder ends a conn whose last answer the proxy gave itself: FIN, then a
// while for the caller to read it, since closing with bytes unread means RST.
func (c *conn) closeInOrder(f *flow) {
	c.mu.Lock()
	client, over := c.client, c.over
	c.mu.Unlock()
	if over || client == nil {
		return
	}
	client.finish()
	f.drain(c.p.now() + linger)
	c.end(wasClosed, false)
}

// linger is how long a conn that is closed in order waits for what its peers
// still send: closing with bytes unread means RST, which overtakes bytes that are
// on their way.
const linger = time.Second

// leave is a flow's part in closing a conn in order: FIN at once, behind what was
// passed on; what still comes is dropped.
func (f *flow) leave() {
	c := f.c
	c.mu.Lock()
	by := c.endBy
	c.mu.Unlock()
	if f.out != nil {
		f.out.finish()
	}
	f.drain(by)
	c.finished(f)
}

// close has both flows close the conn in order. c.mu is held.
func (c *conn) close() {
	if c.over || c.ending {
		return
	}
	c.ending, c.endBy = true, c.p.now()+linger
	if c.stopDial != nil {
		c.stopDial()
	}
	c.nudge(&c.up)
	c.nudge(&c.down)
	if c.h2 != nil {
		c.h2.drained.Broadcast()
	}
}

// dial connects to the upstream, for the flow up. An upstream that cannot be
// reached ends the conn.
func (c *conn) dial() error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.mu.Lock()
	c.stopDial = cancel
	ending := c.ending
	c.mu.Unlock()
	if ending {
		return errEnding
	}
	server, err := c.takeEarly()
	if server == nil && err == nil {
		server, err = c.p.reach(ctx, c)
	}
	if err != nil {
		c.mu.Lock()
		ending = c.ending
		c.mu.Unlock()
		if ending {
			return errEnding
		}
		class := wasRefused
		if disagreed := (*handshakeError)(nil); errors.As(err, &disagreed) {
			class = wasHandshake
		}
		c.unasked()
		c.end(class, !c.p.config.CloseUnreachable)
		return errOver
	}
	c.mu.Lock()
	c.stopDial = nil
	if c.over {
		c.mu.Unlock()
		server.abort()
		return errOver
	}
	c.server = server
	c.nudge(&c.down)
	c.up.rev.Add(1) // for itself
	c.mu.Unlock()
	if c.p.config.Protocol == TCP {
		c.p.stats.reached()
	}
	return c.up.look()
}

// unasked counts a call that was not made: a caller that speaks HTTP/2 may wait for
// the upstream's SETTINGS first, and is refused as one.
func (c *conn) unasked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && c.h2 != nil && !c.h2.asked {
		c.p.stats.begun()
		c.p.stats.ended(wasRefused)
	}
}

// keepAlive turns TCP keep-alive on for both sides, once.
func (c *conn) keepAlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept || c.over {
		return
	}
	for _, s := range []*socket{c.client, c.server} {
		if s != nil && s.tcp != nil {
			// Fails only where the connection is gone already.
			_ = s.tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveAfter, Interval: keepAliveAfter})
		}
	}
	c.kept = c.server != nil
}

// end ends the conn: with RST to both sides, or as close(2) does. Calls under way
// are counted as class. Only the first end has an effect.
func (c *conn) end(class string, abort bool) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.over = true
	client, server := c.client, c.server
	if c.h2 != nil {
		c.h2.drop()
	}
	if c.alarm != nil {
		c.alarm.Stop()
	}
	c.mu.Unlock()

	c.settleAll(class)
	c.cancel()
	for _, s := range []*socket{client, server} {
		switch {
		case s == nil:
		case abort:
			s.abort()
		default:
			s.Close()
		}
	}
	if client != nil {
		c.p.open.Add(-1)
	}
	c.p.forget(c)
}

// callerGone ends what a silent conn still holds for its caller. The upstream is
// not to know: its connection is held until the rule is removed.
func (c *conn) callerGone() {
	c.settleAll(wasCanceled)
	c.mu.Lock()
	client, server := c.client, c.server
	if c.over || client == nil {
		c.mu.Unlock()
		return
	}
	if server != nil {
		c.client = nil
	}
	c.mu.Unlock()
	if server == nil {
		c.end(wasCanceled, true)
		return
	}
	client.Close()
	c.p.open.Add(-1)
}

// strike lets a rule have the conn: a reset or blackhole, a limit that is reached,
// a silence whose time is up. It returns why the flow that called must stop; nil
// when the rule has been removed meanwhile.
func (c *conn) strike(r *active) error {
	c.mu.Lock()
	switch {
	case c.over:
		c.mu.Unlock()
		return errOver
	case r.gone.Load():
		c.mu.Unlock()
		return nil
	case r.Blackhole != nil:
		if c.silent == nil {
			c.silent = r
			c.nudge(&c.up)
			c.nudge(&c.down)
		}
		c.mu.Unlock()
		return errSilent
	case r.Limit != nil || r.Silence != nil || r.Abort != nil && r.Abort.Close:
		c.close()
		c.mu.Unlock()
		if r.Abort != nil { // now: what the caller does about it is not to count
			c.settleAll(wasClosed)
		}
		return errEnding
	}
	c.mu.Unlock()
	c.end(wasReset, true)
	return errOver
}

// overdue is the rule whose time with the raw conn is up. If there is none, it
// sets the alarm for the next. c.mu is held.
func (c *conn) overdue() *active {
	if !c.raw {
		return nil
	}
	var first *active
	at := forever
	for _, r := range *c.p.rules.Load() {
		if after := r.strikesAfter(); after > 0 && r.picks(c.who()) {
			if due := max(c.opened, r.added) + after; due < at {
				first, at = r, due
			}
		}
	}
	switch wait := at - c.p.now(); {
	case first == nil && c.alarm != nil:
		c.alarm.Stop()
	case first == nil:
	case wait <= 0:
		return first
	case c.alarm == nil:
		c.alarm = time.AfterFunc(wait, c.wakeUp)
	default:
		c.alarm.Reset(wait)
	}
	return nil
}

// wakeUp is what the alarm does: the flows look whose time is up.
func (c *conn) wakeUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.nudge(&c.up)
		c.nudge(&c.down)
	}
}

// apply tells the conn of a rule that has just been added.
func (c *conn) apply(r *active) {
	c.mu.Lock()
	var struck bool
	switch {
	case c.over, c.ending, c.silent != nil, r.Refuse != nil:
	case c.h2 != nil:
		struck = c.h2.apply(r)
	case c.raw:
		if r.id > c.drawn {
			c.drawn = r.id
			struck = c.drawRaw(r)
		}
		c.nudge(&c.up)
		c.nudge(&c.down)
	case c.p.config.Protocol == TCP: // not begun: it will look itself
	case c.first == len(c.calls):
		// Nobody's call: only a rule that hits all calls may say that it has it.
		struck = r.Reset != nil && r.Reset.After == 0 && r.picksAll(c.from)
	case r.cut() != nil || r.reaches():
		for i := c.first; i < len(c.calls); i++ {
			cl := &c.calls[i]
			if cl.drawn >= r.id {
				continue
			}
			cl.drawn = r.id
			hit := r.draws(c.ofCall(cl))
			switch {
			case !hit || r.reaches():
			case r.cut().After == 0:
				struck = true
			default:
				cl.cuts = append(cl.cuts, r)
			}
		}
		c.nudge(&c.up)
		c.nudge(&c.down)
	}
	c.mu.Unlock()
	if struck {
		c.strike(r)
	}
}

// lift tells the conn of a rule that has just been removed.
func (c *conn) lift(r *active) {
	c.mu.Lock()
	held := c.heldBy(r)
	switch {
	case held || c.over:
	case c.h2 != nil:
		c.h2.lift(r)
	case slices.Contains(c.muted, r.work):
		c.close()
	case c.raw || c.first < len(c.calls) || r.Connect != nil:
		c.nudge(&c.up)
		c.nudge(&c.down)
	}
	c.mu.Unlock()
	if held {
		c.end(wasClosed, true)
	}
}

// heldBy tells whether it is that blackhole rule that holds the conn. c.mu is held.
func (c *conn) heldBy(r *active) bool { return c.silent != nil && c.silent.work == r.work }

// change tells the conn of a rule that has just been given other settings.
func (c *conn) change(from, to *active) {
	c.mu.Lock()
	was, is := from.picks(c.who()), to.picks(c.who())
	struck := false
	held := c.heldBy(from) && c.raw && !is // no more: as if the rule had been removed
	switch {
	case c.over || c.ending || held || to.Refuse != nil:
	case c.heldBy(from):
		c.silent = to
	case c.raw:
		if is && !was && c.drawn >= to.id && to.Connect == nil && !to.ofCallsOnly(c.p.config.Protocol) {
			to.did.fired.Add(1)
		}
		switch {
		case slices.Contains(c.muted, to.work) && !(is && to.Silence.Direction.includes(from.Silence.Direction)):
			c.close()
		case is && to.Silence != nil && !was:
			c.muted = append(c.muted, to.work)
		}
		struck = is && to.cut() != nil && to.cut().After == 0
	}
	for i := range c.calls[c.first:] {
		c.changed(&c.calls[c.first+i], from, to)
	}
	if c.h2 != nil && !c.over && !c.ending {
		c.h2.change(from, to)
	}
	if !c.over && (c.raw || c.first < len(c.calls) || to.Connect != nil) {
		c.nudge(&c.up)
		c.nudge(&c.down)
	}
	c.mu.Unlock()
	switch {
	case held:
		c.end(wasClosed, true)
	case struck:
		c.strike(to)
	}
}

// changed gives a call the settings that a rule has now. c.mu is held.
func (c *conn) changed(cl *call, from, to *active) {
	if cl.inject != nil && cl.inject.work == to.work {
		cl.inject = to
	}
	if i := slices.Index(cl.cuts, from); i >= 0 {
		cl.cuts = slices.Clone(cl.cuts)
		cl.cuts[i] = to
		if w := c.ofCall(cl); !to.about(&w) {
			cl.cuts = slices.Delete(cl.cuts, i, i+1)
		}
	}
}

// enterRaw makes the conn a stream of bytes, for good, and draws the rules for it.
func (c *conn) enterRaw() error {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return errOver
	}
	if !c.raw {
		c.raw = true
		c.nudge(&c.up)
		c.nudge(&c.down)
	}
	var struck *active
	now := *c.p.rules.Load()
	for _, r := range now {
		if r.id > c.drawn && c.drawRaw(r) && struck == nil {
			struck = r
		}
	}
	c.drawn = max(c.drawn, now.last())
	c.mu.Unlock()
	if struck != nil {
		return c.strike(struck)
	}
	return nil
}

// drawRaw draws a rule for the conn as a whole; true when it strikes at once.
func (c *conn) drawRaw(r *active) bool {
	if r.ofCallsOnly(c.p.config.Protocol) || r.Refuse != nil || r.Connect != nil {
		return false
	}
	hit := r.did.drawn(r.picks(c.who()))
	if hit && r.Silence != nil {
		c.muted = append(c.muted, r.work)
	}
	return hit && r.cut() != nil && r.cut().After == 0
}

// passOpaque makes the conn a stream of bytes because it is not, or is no longer,
// a stream of HTTP/1.x messages.
func (c *conn) passOpaque() error {
	c.mu.Lock()
	over, silent, counted := c.over, c.silent != nil, c.opaque
	c.opaque = c.opaque || !over && !silent
	c.mu.Unlock()
	switch {
	case over: // its calls are settled already, and what is left over only looks unasked for
		return errOver
	case silent:
		return errSilent
	case !counted:
		c.p.stats.passedOpaque()
	}
	return c.enterRaw()
}

// nudge interrupts whatever the flow waits for, so that it looks at the conn
// again. c.mu is held.
func (c *conn) nudge(f *flow) {
	f.rev.Add(1) // first: see flow.read
	f.rouse()
	in, out := c.client, c.server
	if f.isDown {
		in, out = out, in
	}
	if c.h2 != nil { // what reads needs to know of the end only, and what writes goes on to it
		if !c.ending {
			return
		}
		out = nil
	}
	if in != nil {
		in.SetReadDeadline(past)
	}
	if out != nil {
		out.SetWriteDeadline(past)
	}
}

var past = time.Unix(1, 0)

// fate is what the rules have in store for a request.
type fate struct {
	struck *active   // a reset or blackhole, before its first byte
	holds  []*active // latency on its way up
}

// begin puts a call under way, before its first byte goes anywhere, and draws
// the rules for it.
func (c *conn) begin(cl *call, head []byte) fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	then := c.draw(cl, head, nil)
	switch {
	case c.over:
		c.p.stats.ended(wasReset)
		return then
	case c.downDone: // the upstream has said its last word: there will be no answer
		c.p.stats.ended(wasClosed)
		return then
	case c.raw: // the answers cannot be told apart any more
		c.p.stats.ended(wasOpaque)
		return then
	}
	if c.first == len(c.calls) {
		c.calls, c.first = c.calls[:0], 0
	}
	c.calls = append(c.calls, *cl)
	return then
}

// draw draws the rules for a call that begins, by its head: bytes of HTTP/1.x, or
// fields. c.mu is held, so that a rule that is not in the set yet will find the call (apply).
func (c *conn) draw(cl *call, head []byte, fields []hpack.HeaderField) (then fate) {
	active := *c.p.rules.Load()
	if len(active) == 0 {
		cl.inject = c.p.instead()
		return then
	}
	cl.drawn = active.last()
	cl.marks = active.marksOf(head, fields)
	w := c.ofCall(cl)
	for _, r := range active {
		if r.cut() != nil && r.cut().After == 0 && r.draws(w) {
			then.struck = r
			break
		}
	}
	for _, r := range active {
		switch {
		case then.struck != nil: // no other rule gets a chance
		case r.Error != nil && cl.inject == nil:
			if r.draws(w) {
				cl.inject = r
			}
		case r.cut() != nil && r.cut().After > 0:
			if r.draws(w) {
				cl.cuts = append(cl.cuts, r)
			}
		case r.reaches():
			r.draws(w)
		case r.Latency != nil && !r.toAnswer() && !r.Latency.inBody():
			if r.draws(w) {
				then.holds = append(then.holds, r)
			}
		}
	}
	if then.struck == nil && cl.inject == nil {
		cl.inject = c.p.instead()
	}
	return then
}

// front is the call whose answer comes next.
func (c *conn) front() (call, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == len(c.calls) {
		return call{}, false
	}
	return c.calls[c.first], true
}

// ready lets the flow down give the injected answer of the youngest call.
func (c *conn) ready() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.calls); n > c.first {
		c.calls[n-1].ready = true
		c.nudge(&c.down)
	}
}

// settle counts the front call by its status.
func (c *conn) settle(status int) {
	// To a caller that has sent FIN the answer may have been news, or not.
	gone := c.callerDone.Load() && c.down.out.gone()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == len(c.calls) { // settled by the end of the conn
		return
	}
	c.calls[c.first] = call{}
	c.first++
	if c.upWaits {
		c.nudge(&c.up)
	}
	if gone {
		c.p.stats.ended(wasCanceled)
		return
	}
	c.p.stats.answered(status)
}

// settleAll counts every call under way as class.
func (c *conn) settleAll(class string) {
	c.mu.Lock()
	n := len(c.calls) - c.first
	c.calls, c.first = c.calls[:0], 0
	if c.h2 != nil {
		c.h2.end(class)
	}
	if c.tcpCall && (c.over || c.silent != nil) {
		c.tcpCall = false
		n++
	}
	if n > 0 && c.upWaits && !c.over {
		c.nudge(&c.up)
	}
	c.mu.Unlock()
	for range n {
		c.p.stats.ended(class)
	}
}

// underWay tells whether calls are; if so the flow up is nudged when one is settled.
func (c *conn) underWay() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upWaits = c.first < len(c.calls)
	return c.upWaits
}
