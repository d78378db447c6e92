//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/test/bench/loop"
)

// traffic is both ends of what goes through a proxy, the upstream and the
// callers, on one thread with one clock. Make one for each measurement.
type traffic struct {
	*loop.Loop
	buf  []byte // read into by everyone, one after another
	open map[int]bool
	err  error // the first thing that went wrong; it stops the loop
}

func newTraffic() (*traffic, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	return &traffic{Loop: l, buf: make([]byte, 256<<10), open: map[int]bool{}}, nil
}

// close drops every socket that is still open.
func (t *traffic) close() {
	for fd := range t.open {
		t.Drop(fd)
	}
	t.Loop.Close()
}

func (t *traffic) add(fd int, events uint32, call func(events uint32)) {
	t.open[fd] = true
	if err := t.Add(fd, events, call); err != nil {
		t.fail(err)
	}
}

func (t *traffic) watch(fd int, events uint32, call func(events uint32)) {
	if err := t.Watch(fd, events, call); err != nil {
		t.fail(err)
	}
}

func (t *traffic) drop(fd int) {
	delete(t.open, fd)
	t.Drop(fd)
}

func (t *traffic) fail(err error) {
	if t.err == nil {
		t.err = err
	}
	t.Stop()
}

// run serves for d.
func (t *traffic) run(d time.Duration) error {
	_, err := t.Run(d)
	return errors.Join(t.err, err)
}

// await serves until Stop; that it takes longer than d is an error.
func (t *traffic) await(d time.Duration, what string) error {
	stopped, err := t.Run(d)
	if err == nil && t.err == nil && !stopped {
		err = fmt.Errorf("%s: not within %v", what, d)
	}
	return errors.Join(t.err, err)
}

// read is what there is to read; at the end, or after a reset, none and gone.
func (t *traffic) read(fd int) (b []byte, gone bool) {
	n, again, err := loop.Read(fd, t.buf)
	return t.buf[:n], !again && (n == 0 || err != nil)
}

// send writes a message small enough for an empty socket buffer.
func (t *traffic) send(fd int, b []byte) {
	n, _, err := loop.Write(fd, b)
	if err == nil && n < len(b) {
		err = fmt.Errorf("a message of %d bytes does not fit into the socket buffer", len(b))
	}
	if err != nil {
		t.fail(os.NewSyscallError("send", err))
	}
}

// upstream listens, and hands every connection that arrives to serve.
func (t *traffic) upstream(serve func(fd int)) (netip.AddrPort, error) {
	listener, addr, err := loop.Listen()
	if err != nil {
		return addr, err
	}
	t.add(listener, unix.EPOLLIN, func(uint32) {
		for {
			fd, ok := loop.Accept(listener)
			if !ok {
				return
			}
			serve(fd)
		}
	})
	return addr, nil
}

// echo answers whatever arrives with the same.
func (t *traffic) echo(fd int) {
	t.add(fd, unix.EPOLLIN, func(uint32) {
		b, gone := t.read(fd)
		if gone {
			t.drop(fd)
		} else if len(b) > 0 {
			t.send(fd, b)
		}
	})
}

// once answers like echo and closes, as HTTP/1.0 did.
func (t *traffic) once(fd int) {
	t.add(fd, unix.EPOLLIN, func(uint32) {
		b, _ := t.read(fd)
		if len(b) > 0 {
			t.send(fd, b)
		}
		t.drop(fd)
	})
}

const (
	httpRequest = "GET /bench HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	httpAnswer  = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\r\nthirty-two bytes of plain text.\n"
)

// http answers each GET.
func (t *traffic) http(fd int) {
	answer := []byte(httpAnswer)
	t.add(fd, unix.EPOLLIN, func(uint32) {
		b, gone := t.read(fd)
		switch {
		case gone:
			t.drop(fd)
		case bytes.HasSuffix(b, []byte("\r\n\r\n")):
			t.send(fd, answer)
		case len(b) > 0:
			t.fail(fmt.Errorf("upstream: %q is not the end of a request", b))
		}
	})
}

// source waits for a first byte, and then sends as fast as it can.
func (t *traffic) source(fd int) {
	t.add(fd, unix.EPOLLIN, func(uint32) {
		if b, gone := t.read(fd); gone || len(b) == 0 {
			t.drop(fd)
			return
		}
		t.watch(fd, unix.EPOLLOUT, func(uint32) {
			if _, again, err := loop.Write(fd, bulk); err != nil && !again {
				t.drop(fd)
			}
		})
	})
}

// bulk is what a source sends at once.
var bulk = make([]byte, 256<<10)

// callers opens n connections one after another, so that no backlog overflows,
// and hands each to serve when it is there. It returns when all are.
func (t *traffic) callers(n int, to netip.AddrPort, serve func(fd int)) error {
	connected := 0
	var next func()
	next = func() {
		t.connect(to, func(fd int) {
			serve(fd)
			if connected++; connected == n {
				t.Stop()
			} else {
				next()
			}
		})
	}
	next()
	return t.await(10*time.Second, fmt.Sprintf("open %d connections", n))
}

// connect opens a connection and hands it over when it is there.
func (t *traffic) connect(to netip.AddrPort, serve func(fd int)) {
	fd, err := loop.Connect(to)
	if err != nil {
		t.fail(err)
		return
	}
	// Told once: serve says what to wait for next.
	t.add(fd, unix.EPOLLOUT|unix.EPOLLONESHOT, func(uint32) {
		if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			t.fail(errors.Join(fmt.Errorf("connect to %v: %w", to, unix.Errno(code)), err))
			return
		}
		serve(fd)
	})
}
