package proxy

import (
	"context"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// door is a proxy's listening socket, of which Go's poller does not know: a loop
// accepts its connections, those for Proxy.admit too. (Go would be woken by each of
// them as well, and have another thread look for what there is to do.)
type door struct {
	p      *Proxy
	loops  []*loop
	loop   *loop // the one that accepts
	failed chan error

	mu     sync.Mutex
	fd     int
	slot   int32
	open   bool
	closed bool // for good
}

// acceptMost is how many connections are accepted before others have a turn.
const acceptMost = 16

// newDoor takes over the listener of a proxy that may use the fast plane; nil where
// it may not, or cannot.
func newDoor(p *Proxy) *door {
	l, ok := p.listener.(*net.TCPListener)
	if !ok || p.config.Protocol != TCP || !p.tls.plain() {
		return nil
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	err = raw.Control(func(own uintptr) { fd, _ = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil || fd < 0 { // out of file descriptors: Proxy.accept does as well
		return nil
	}
	loops, err := shared.join()
	if err != nil { // likewise
		unix.Close(fd)
		return nil
	}
	setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // what is accepted inherits it
	l.Close()                                            // takes it from Go's poller; it still listens
	return &door{p: p, fd: fd, loops: loops, loop: leastBusy(loops[0], loops), failed: make(chan error, 1)}
}

// keep has the door open until ctx ends (net.ErrClosed), or accept(2) fails.
func (w *door) keep(ctx context.Context) error {
	if err := w.unlock(); err != nil {
		return err
	}
	defer w.lock(false)
	select {
	case err := <-w.failed:
		return err
	case <-ctx.Done():
		return net.ErrClosed
	}
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
	w.shut()
	if forGood && !w.closed {
		w.closed = true
		closeSocket(w.fd)
	}
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
