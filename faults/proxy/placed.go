package proxy

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"
)

// placed is a rule that was put on a proxy. Proxy.rulesMu guards it.
type placed struct {
	rule     Rule
	declared bool    // by Config.Rules or SetRules
	at       *active // at work now, or, between two pulses, the last time
	paused   bool
	removed  bool
	next     time.Duration // when the pulse, or the pause, is over
	timer    *time.Timer   // rings then; nil: it never had a pulse
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
	if err := p.config.matchesFit(append(p.rulesOf(func(*placed) bool { return true }), r)...); err != nil {
		return nil, err
	}
	if p.ctx.Err() != nil {
		return nil, fmt.Errorf("proxy %q: rule %q: the proxy is stopped", p.config.Name, r.Name)
	}
	e := p.place(r, false)
	p.placed = append(p.placed, e)
	p.publish(nil)
	p.tell(func(c *conn) { c.apply(e.at) })
	return sync.OnceFunc(func() {
		p.rulesMu.Lock()
		defer p.rulesMu.Unlock()
		p.placed = slices.DeleteFunc(p.placed, func(x *placed) bool { return x == e })
		lift := e.remove()
		p.publish([]*placed{e})
		p.tell(lift)
	}), nil
}

// SetRules makes the rules that Config.Rules and earlier calls put to work exactly
// these, in this order; those of Add stay as they are. It refuses all or none.
//
//   - A rule that equals one at work stays untouched, with all it knows of its
//     connections: their draws, pieces, bytes counted, bytes held.
//   - One of the same name and kind, with other settings, takes the place of the
//     old one: the same connections are hit (at another Percent, the fewer or the
//     more of them), time goes on counting from when the old one was added, and
//     nothing is closed or let go that the new one would hold too. Only a Pulse
//     begins anew when it changes.
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
	if err := p.config.matchesFit(append(p.rulesOf(func(e *placed) bool { return !e.declared }), want...)...); err != nil {
		return err
	}

	var had, added []*placed
	for _, e := range p.placed {
		if e.declared {
			had = append(had, e)
		} else {
			added = append(added, e)
		}
	}
	take := func(is func(*placed) bool) *placed {
		i := slices.IndexFunc(had, is)
		if i < 0 {
			return nil
		}
		e := had[i]
		had = slices.Delete(had, i, i+1)
		return e
	}
	next := make([]*placed, len(want))
	for i, r := range want {
		next[i] = take(func(e *placed) bool { return reflect.DeepEqual(e.rule, r) })
	}
	var changes []func(*conn)
	for i, r := range want {
		if next[i] != nil {
			continue
		}
		e := take(func(e *placed) bool { return e.rule.Name == r.Name && e.rule.kind() == r.kind() })
		if e != nil {
			changes = append(changes, p.change(e, r))
		} else {
			e = p.place(r, true)
			changes = append(changes, func(c *conn) { c.apply(e.at) })
		}
		next[i] = e
	}
	for _, e := range had {
		changes = append(changes, e.remove())
	}
	p.placed = append(next, added...)
	p.publish(had)
	p.tell(changes...)
	return nil
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

// rulesOf are the rules of what is placed and is so.
func (p *Proxy) rulesOf(is func(*placed) bool) (all []Rule) {
	for _, e := range p.placed {
		if is(e) {
			all = append(all, e.rule)
		}
	}
	return all
}

// place makes a rule ready to be published.
func (p *Proxy) place(r Rule, declared bool) *placed {
	e := &placed{rule: r.clone(), declared: declared}
	e.at = p.anew(e, nil)
	p.beatFrom(e)
	return e
}

// anew is the rule at work from now on. Its counts go on where they stood.
func (p *Proxy) anew(e *placed, before *active) *active {
	p.ruleIDs++
	a := newActive(e.rule, p.ruleIDs, p.config.Seed)
	a.match = newMatching(a.Rule.match(), a.id)
	a.added, a.calls, a.conns, a.answers = p.now(), p.calls.Load(), p.accepted.Load(), p.answers.Load()
	if before != nil {
		a.did = before.did
	}
	return a
}

// change gives a rule other settings, and returns what connections are to be told.
func (p *Proxy) change(e *placed, r Rule) func(*conn) {
	pulse := e.rule.When.Pulse
	e.rule = r.clone()
	old := e.at
	e.at = old.as(r, p.config.Seed)
	if m := r.match(); e.at.match == nil && !m.isZero() { // calls under way were not asked
		p.ruleIDs++
		e.at.match = newMatching(m, p.ruleIDs)
	}
	anew := e.at
	if pulse == r.When.Pulse {
		if e.paused {
			return func(*conn) {}
		}
		return func(c *conn) { c.change(old, anew) }
	}
	tell := func(c *conn) { c.change(old, anew) }
	if e.paused {
		e.paused = false
		e.at = p.anew(e, old)
		anew = e.at
		tell = func(c *conn) { c.apply(anew) }
	}
	p.beatFrom(e)
	return tell
}

// remove ends a rule, and returns what connections are to be told.
func (e *placed) remove() func(*conn) {
	e.removed = true
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.paused {
		return func(*conn) {}
	}
	a := e.at
	a.gone.Store(true)
	return func(c *conn) { c.lift(a) }
}

// publish makes what is placed, and what was removed, known.
func (p *Proxy) publish(gone []*placed) {
	slots(p.placed)
	var now, paused rules
	for _, e := range p.placed {
		if e.paused {
			paused = append(paused, e.at)
		} else {
			now = append(now, e.at)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
	for _, e := range gone {
		p.retired = append(p.retired, e.at)
	}
	p.rules.Store(&now)
	if len(now) > 0 { // rules are for conns
		p.landing = append(p.landing, p.links...)
		p.links = nil
	}
}

// tell tells every connection of changes, in their order. Connections of the fast
// plane that have to leave it are among them.
func (p *Proxy) tell(changes ...func(*conn)) {
	if p.relay != nil {
		p.relay.rulesChanged()
		return
	}
	start := land(p.landing)
	p.landing = nil
	defer start()
	for _, c := range p.connections() {
		for _, tell := range changes {
			tell(c)
		}
	}
}

// beatFrom has the rule's pulse begin now.
func (p *Proxy) beatFrom(e *placed) {
	on := e.rule.When.Pulse.On
	e.next = p.now() + on
	switch {
	case on == 0 && e.timer != nil:
		e.timer.Stop()
	case on == 0:
	case e.timer == nil:
		e.timer = time.AfterFunc(on, func() { p.beat(e) })
	default:
		e.timer.Reset(on)
	}
}

// beat ends a pulse, or begins the next.
func (p *Proxy) beat(e *placed) {
	p.rulesMu.Lock()
	defer p.rulesMu.Unlock()
	if e.removed || e.rule.When.Pulse.On == 0 || p.now() < e.next || p.ctx.Err() != nil { // overtaken by a change
		return
	}
	a := e.at
	if e.paused {
		a = p.anew(e, a)
		e.at, e.paused = a, false
		e.next += e.rule.When.Pulse.On
		p.publish(nil)
		p.tell(func(c *conn) { c.apply(a) })
	} else {
		a.gone.Store(true)
		e.paused = true
		e.next += e.rule.When.Pulse.Off
		p.publish(nil)
		p.tell(func(c *conn) { c.lift(a) })
	}
	e.timer.Reset(e.next - p.now())
}

// stopPulses is for when the proxy stops.
func (p *Proxy) stopPulses() {
	for _, e := range p.placed {
		if e.timer != nil {
			e.timer.Stop()
		}
	}
}
