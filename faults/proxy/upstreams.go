package proxy

import (
	"context"
	"errors"
	"fmt"
)

// reach is a connection to an upstream, for c.
func (p *Proxy) reach(ctx context.Context, c *conn) (*socket, error) {
	if c.origin != nil {
		nc, err := c.origin.await(ctx, p)
		if err != nil {
			return nil, err
		}
		return newSocket(nc), nil
	}
	to := p.upstream.Load()
	n := uint64(len(to.places))
	switch {
	case to.none:
		return nil, errors.New("there is no upstream")
	case n == 0:
		return nil, to.wrong
	}
	var failed []error
	for i := range n {
		at := to.places[(c.number+i)%n]
		dial := p.dialer
		if at.network == "unix" {
			dial = p.unix
		}
		nc, err := dial(ctx, at.address)
		if n > 1 && ctx.Err() == nil {
			p.stats.tried(at, err == nil)
		}
		switch {
		case err == nil && p.tls.upstream != nil:
			return p.originate(ctx, c, at, nc)
		case err == nil:
			return newSocket(nc), nil
		}
		if failed = append(failed, err); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failed...)
}

// absentFits tells what is wrong with Absent.
func (c *Config) absentFits() error {
	switch a := c.Absent; {
	case a == nil:
		return nil
	case c.Protocol != HTTP:
		return fmt.Errorf("an answer in place of the upstream needs an http edge, this one carries %s", c.Protocol)
	case a.Status < 200 || a.Status > 599:
		return fmt.Errorf("status of the answer in place of the upstream is %d, want from 200 to 599", a.Status)
	}
	return nil
}

// absent is Absent as a rule that nothing counts.
func (c *Config) absent() *active {
	if c.Absent == nil {
		return nil
	}
	return newActive(Rule{Name: "no upstream", Percent: 1, Error: c.Absent}, 0, 0)
}

// instead is what answers a call that no rule does; nil: the upstream.
func (p *Proxy) instead() *active {
	if p.absent != nil && p.upstream.Load().none {
		return p.absent
	}
	return nil
}
