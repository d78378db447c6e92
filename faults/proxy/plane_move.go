package proxy

import (
	"context"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// adopt makes a socket a net.Conn; whatever happens, fd is not to be used any more.
func adopt(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "proxied connection")
	defer f.Close() // a copy is made of it
	return net.FileConn(f)
}

// leave moves the link to the other plane, where its conn goes on from the byte at
// which it stands. Where that fails (no file descriptor is left), it ends. k.mu is held.
func (k *link) leave() {
	if c := k.become(); c != nil {
		c.carryOn()
	}
}

// land moves links to the other plane. Their conns are known to the proxy when it
// returns, and stand still until start is called.
func land(links []*link) (start func()) {
	conns := make([]*conn, 0, len(links))
	for _, k := range links {
		k.mu.Lock()
		if !k.over {
			if c := k.become(); c != nil {
				conns = append(conns, c)
			}
		}
		k.mu.Unlock()
	}
	return func() {
		for _, c := range conns {
			c.carryOn()
		}
	}
}

// become makes the link a conn, which Proxy.all waits for; nil: it has ended. k.mu
// is held.
func (k *link) become() *conn {
	p := k.p
	sockets := [2]*socket{}
	for i := range k.sides {
		s := &k.sides[i]
		if s.fd < 0 {
			continue
		}
		k.loop.unwatch(s.fd)
		nc, err := adopt(s.fd)
		s.fd = -1
		if err != nil {
			if sockets[up] != nil {
				sockets[up].abort()
			}
			k.end(wasReset, true)
			return nil
		}
		sockets[i] = newSocket(nc)
	}
	k.retire()

	c := newConn(p, sockets[up], k.number)
	c.opened, c.greeting = k.opened, k.greeting
	was := &origin{dialling: k.dialling, broken: k.broken}
	if k.dialling {
		was.server = sockets[down]
		was.until = k.opened + p.config.DialTimeout
	} else {
		c.server = sockets[down]
	}
	if c.server != nil || k.dialling {
		c.origin = was
		c.raw = true
		c.kept = k.kept
	}
	c.upDone, c.downDone = k.lanes[up].done, k.lanes[down].done
	c.callerDone.Store(k.lanes[up].done)
	for d, f := range []*flow{&c.up, &c.down} {
		n := &k.lanes[d]
		f.sent = n.sent
		f.pipe = n.pipe
		f.bulk, f.short = n.bulk, n.short
		if n.buf != nil {
			f.buf, f.r, f.w = n.buf[:], n.r, n.w
		}
		n.buf, n.pipe = nil, nil
	}

	p.mu.Lock()
	p.delist(k)
	stopped := p.stopped
	if !stopped {
		p.conns[c] = struct{}{}
		// Not too late for Stop to wait for them: what sets stopped is among those it
		// waits for.
		p.all.Add(2)
	}
	p.mu.Unlock()
	if stopped {
		c.up.discardAll()
		c.down.discardAll()
		was.drop()
		c.end(wasReset, true)
		return nil
	}
	return c
}

// carryOn starts the flows of a conn that was a link, those of directions that are
// not done.
func (c *conn) carryOn() {
	start := func(f *flow, done bool) {
		if done {
			c.p.all.Done()
			return
		}
		go func() {
			defer c.p.all.Done()
			c.run(f)
		}()
	}
	c.mu.Lock() // the one that is started first may be done by now
	upDone, downDone := c.upDone, c.downDone
	c.mu.Unlock()
	start(&c.up, upDone)
	start(&c.down, downDone)
}

// origin is what a conn that was a link has to know of it.
type origin struct {
	dialling bool
	server   *socket // … and this is what dials, until then
	until    time.Duration
	broken   bool // the upstream takes no more
}

// resume is what a flow of such a conn does first, and then as tunnel does.
func (f *flow) resume() error {
	was := f.c.origin
	switch {
	case was.dialling && f.isDown:
		return f.answers()
	case was.dialling:
		defer was.drop()
		return f.tunnel()
	case was.broken && !f.isDown:
		return &sideError{writing: true, err: unix.EPIPE}
	}
	f.enqueue()
	if err := f.look(); err != nil {
		return err
	}
	return f.pump()
}

// drop closes what dials, if nobody has taken it.
func (o *origin) drop() {
	if o.server != nil {
		o.server.abort()
		o.server = nil
	}
}

// await waits for the socket to be connected.
func (o *origin) await(ctx context.Context, p *Proxy) (net.Conn, error) {
	server := o.server
	server.SetWriteDeadline(p.start.Add(o.until))
	stop := context.AfterFunc(ctx, func() { server.SetWriteDeadline(past) })
	var errno syscall.Errno
	err := server.raw.Write(func(fd uintptr) (connected bool) {
		connected, errno = progress(int(fd))
		return connected || errno != 0
	})
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err == nil && errno != 0 {
		err = os.NewSyscallError("connect", errno)
	}
	if err != nil {
		return nil, err
	}
	server.SetWriteDeadline(time.Time{})
	o.server = nil
	return server.Conn, nil
}
