package proxy

import (
	"context"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// door is a proxy's listening socket, on the fast plane: open while the proxy has
// no rules and an upstream that needs no look-up. Its connections are accepted by
// a loop then, otherwise by Proxy.accept, never by both.
type door struct {
	p        *Proxy
	listener *net.TCPListener
	loops    []*loop
	loop     *loop // the one that accepts
	news     chan struct{}
	failed   chan error

	mu     sync.Mutex
	fd     int
	slot   int32
	open   bool
	closed bool // for good
}

// acceptMost is how many connections are accepted before others have a turn.
const acceptMost = 16

// newDoor is the door of a proxy that may use the fast plane, else nil.
func newDoor(p *Proxy) *door {
	l, ok := p.listener.(*net.TCPListener)
	if !ok || p.config.Protocol != TCP || !p.tls.plain() {
		return nil
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return nil
	}
	loops, err := shared.join()
	if err != nil { // out of file descriptors, perhaps: the other plane does as well
		return nil
	}
	w := &door{p: p, listener: l, loops: loops, news: make(chan struct{}, 1), failed: make(chan error, 1)}
	w.loop = loops[0]
	for _, l := range loops {
		if l.links.Load() < w.loop.links.Load() {
			w.loop = l
		}
	}
	err = raw.Control(func(fd uintptr) {
		w.fd = int(fd)
		setOption(w.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // what is accepted inherits it
	})
	if err != nil {
		shared.leave()
		return nil
	}
	return w
}

// wanted tells whether the door is to be open.
func (w *door) wanted() bool {
	if w == nil || len(*w.p.rules.Load()) > 0 {
		return false
	}
	_, ok := w.p.target()
	return ok
}

// reconsider has Proxy.accept look whether the door is to be open. The rules, or
// the upstream, have changed.
func (w *door) reconsider() {
	if w == nil {
		return
	}
	select {
	case w.news <- struct{}{}:
	default:
	}
	if w.wanted() {
		w.listener.SetDeadline(past) // Accept returns
	}
}

// keep opens the door for as long as it is wanted. The error is what accept(2)
// said, or net.ErrClosed.
func (w *door) keep(ctx context.Context) error {
	if err := w.unlock(); err != nil {
		return err
	}
	defer w.lock(false)
	for w.wanted() {
		select {
		case <-w.news:
		case err := <-w.failed:
			return err
		case <-ctx.Done():
			return net.ErrClosed
		}
	}
	return nil
}

func (w *door) unlock() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	select {
	case <-w.failed: // of an earlier opening
	default:
	}
	w.open = true
	w.slot = w.loop.place(w)
	if err := w.loop.watch(unix.EPOLL_CTL_ADD, w.fd, w.slot, 0, unix.EPOLLIN); err != nil {
		w.shut()
		return err
	}
	return nil
}

// lock closes the door, if it is open; perhaps for good. When it returns, nobody
// accepts.
func (w *door) lock(forGood bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = w.closed || forGood
	w.shut()
}

// shut does so. w.mu is held.
func (w *door) shut() {
	if w.open {
		w.open = false
		w.loop.unwatch(w.fd)
		w.loop.vacate(w.slot)
	}
}

// happened implements watcher: callers wait.
func (w *door) happened(by *loop, _ int, _ uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range acceptMost {
		if !w.open {
			return
		}
		fd, errno := acceptFrom(w.fd)
		switch errno {
		case 0:
			number := w.p.accepted.Add(1) - 1
			w.p.welcome(by, fd, number)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED: // it did not want to wait
		default:
			w.shut()
			w.failed <- os.NewSyscallError("accept4", errno) // has room: one per opening
			return
		}
	}
}

// leave ends the door's part in the fast plane. It is closed for good by now, and
// no link is left.
func (w *door) leave() {
	if w != nil {
		shared.leave()
	}
}
