package proxy

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/loadgen/threads"
)

// The fast plane serves the connections of TCP proxies that no rule has ever
// touched: event loops on epoll(7), shared by all proxies of the process, in place
// of two goroutines per connection.
//
//	door (plane_door.go)  a proxy's listening socket
//	link (plane_link.go)  a connection here: a small struct, no goroutine, and no
//	                      buffer unless a peer does not read
//	move (plane_move.go)  a link becomes a conn, for good, when its proxy is given a
//	                      rule, or when it is odd
//
//	                 no rules                                    rules
//	kernel ──> door ──────────> link ─┐  Add, SetRules   ┌─> conn, 2 flows
//	            │                     └──────────────────┤
//	            └────────── Proxy.admit ─────────────────┘
//
// Who may touch what: a link belongs to whoever holds its lock, a door likewise.
// A loop only says which of them something has happened to; that it does so late,
// when the link is over, does no harm. Locks are taken in the order door, link,
// then Proxy.mu or loop.mu; none is held while anything waits.
//
// All sockets are watched edge-triggered, from the beginning for reading, and for
// writing too from when a peer was slow for the first time: small talk costs no
// system calls but those that move its bytes.
type plane struct {
	mu    sync.Mutex
	users int
	loops []*loop
	all   sync.WaitGroup
	spare func() // takes back the processors that stand for the loops' threads
}

// shared is the plane of the process: it runs while a proxy does that can use it.
var shared plane

const mostLoops = 4

// join returns the loops, which run until as many have left as have joined.
func (pl *plane) join() ([]*loop, error) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.users == 0 {
		n := min(threads.Processors(), mostLoops)
		pl.spare = threads.Extra(n)
		for range n {
			l, err := newLoop()
			if err != nil {
				pl.end()
				return nil, err
			}
			pl.loops = append(pl.loops, l)
			pl.all.Go(l.run)
		}
	}
	pl.users++
	return pl.loops, nil
}

// leave ends the loops when nobody uses them any more.
func (pl *plane) leave() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.users--; pl.users == 0 {
		pl.end()
	}
}

func (pl *plane) end() {
	for _, l := range pl.loops {
		l.stop()
	}
	pl.all.Wait()
	for _, l := range pl.loops {
		l.close()
	}
	pl.loops = nil
	pl.spare()
}

// loop is one goroutine that waits for sockets and tells their watchers. It has a
// thread for itself and blocks it: in Go's own poller it would be woken by whichever
// thread was there, on whichever processor, and what is in the caches is on the
// other one, half of the time.
type loop struct {
	epoll, bell int
	ended       atomic.Bool
	links       atomic.Int32 // how busy it is

	mu    sync.Mutex
	slots []slot
	free  []int32 // of the slots

	// Of the goroutine alone.
	events [256]unix.EpollEvent
	batch  [256]watcher
	again  []*link            // those that have more to do at once
	buf    *[largeBuffer]byte // what every byte of small talk goes through
}

// leastBusy is the loop with the fewest links: by, unless another has fewer.
func leastBusy(by *loop, of []*loop) *loop {
	for _, l := range of {
		if l.links.Load() < by.links.Load() {
			by = l
		}
	}
	return by
}

// watcher is told what has happened to its side-th socket (EPOLLIN …).
type watcher interface {
	happened(l *loop, side int, events uint32)
}

// slot is a watcher's place. Its generation tells an event of its own from a late
// one that was for the one before.
type slot struct {
	watcher    watcher
	generation int32
}

// bellSlot is nobody's: all that the bell has to say is that the loop has ended.
const bellSlot = 0

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &loop{epoll: epoll, bell: -1, slots: make([]slot, bellSlot+1), buf: new([largeBuffer]byte)}
	if l.bell, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		l.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err = l.watch(unix.EPOLL_CTL_ADD, l.bell, bellSlot, 0, unix.EPOLLIN|unix.EPOLLET); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	unix.Close(l.epoll) // nothing can be lost by either
	if l.bell >= 0 {
		unix.Close(l.bell)
	}
}

// stop has the goroutine end, from any other.
func (l *loop) stop() {
	l.ended.Store(true)
	l.ring()
}

// ring makes for an event, of the bell's. Nobody reads what it has counted: that
// it was rung once more is the event.
func (l *loop) ring() {
	var once [8]byte
	binary.NativeEndian.PutUint64(once[:], 1)
	_, _ = unix.Write(l.bell, once[:]) // fails when it has been rung 2^64 times
}

func (l *loop) run() {
	defer threads.Attentive()()
	for {
		n := l.wait()
		if l.ended.Load() {
			return
		}
		l.mu.Lock()
		for i, e := range l.events[:n] {
			if s := &l.slots[e.Fd>>1]; s.generation == e.Pad {
				l.batch[i] = s.watcher // nil: it left in the meantime
			}
		}
		l.mu.Unlock()
		for i, e := range l.events[:n] {
			if w := l.batch[i]; w != nil {
				l.batch[i] = nil
				w.happened(l, int(e.Fd&1), e.Events)
			}
		}
		for _, k := range l.takeAgain() {
			k.goOn(l)
		}
	}
}

// takeAgain is who has waited for another turn.
func (l *loop) takeAgain() []*link {
	all := l.again
	l.again = nil
	return all
}

// wait returns how many events there are; perhaps none, where links wait for
// another turn.
func (l *loop) wait() int {
	// What is there already is got without telling Go's scheduler, which costs more
	// than asking in vain.
	n, errno := eventsOf(l.epoll, l.events[:])
	if n == 0 && errno == 0 && len(l.again) == 0 {
		n, errno = awaitEvents(l.epoll, l.events[:])
	}
	if errno != 0 { // a file descriptor that is not ours any more
		panic(os.NewSyscallError("epoll_wait", errno))
	}
	return n
}

// place gives the watcher a slot.
func (l *loop) place(w watcher) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		at := l.free[n-1]
		l.free = l.free[:n-1]
		l.slots[at].watcher = w
		return at
	}
	l.slots = append(l.slots, slot{watcher: w})
	return int32(len(l.slots) - 1)
}

// vacate frees a slot: what was for it is not told any more.
func (l *loop) vacate(at int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.slots[at]
	s.watcher = nil
	s.generation++
	l.free = append(l.free, at)
}

// watch has the one in that slot told of events of its side-th socket. Unless op
// is EPOLL_CTL_ADD, it changes which.
func (l *loop) watch(op int, fd int, at int32, side int, events uint32) error {
	l.mu.Lock()
	generation := l.slots[at].generation
	l.mu.Unlock()
	if errno := control(l.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: at<<1 | int32(side), Pad: generation}); errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// unwatch ends that. A socket that is closed for good need not be unwatched.
func (l *loop) unwatch(fd int) {
	// It fails only for one that was not watched.
	_ = control(l.epoll, unix.EPOLL_CTL_DEL, fd, &unix.EpollEvent{})
}
