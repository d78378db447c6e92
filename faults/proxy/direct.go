package proxy

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// direct passes bytes on while no rule needs to see them (flow.unseen). It
// returns nil when the pump is to look again at what there is to do.
//
// While it waits it holds neither a buffer nor a pipe, so that an idle connection
// costs little more than its goroutines. Small talk goes through a borrowed
// buffer, bulk through a borrowed pipe by splice(2), which never enters user space:
//
//	           ┌─ full buffers ──────────────────┐
//	           │                                 v
//	buffer: read, write              pipe: splice in, splice out
//	           ^                                 │
//	           └────────── short splices ────────┘
//
// A nudge interrupts either side, and no byte is lost by it: what was read and
// not written stays in the flow's queue, or in its pipe, from which flow.read
// takes it before it goes back to the socket.
func (f *flow) direct() error {
	if f.pipe != nil {
		return f.pour()
	}
	if err := f.armRead(forever); err != nil {
		return err
	}
	f.took, f.tookErr = 0, nil
	err := f.in.raw.Read(f.take)
	if err == nil && f.tookErr != nil {
		err = f.tookErr
	}
	switch {
	case err != nil:
		return f.readFailed(err)
	case f.pipe != nil:
		f.c.p.stats.received(f.isDown, f.pipe.held)
		return f.pour()
	case f.took == 0:
		return f.ended()
	}
	f.c.p.stats.received(f.isDown, f.took)
	b := f.borrowed
	f.borrowed = nil
	f.saw(b[:f.took])
	n, err := f.write(b[:f.took])
	if n == f.took {
		largeBuffers.Put(b)
	} else { // what is left waits in the queue, where every rule finds it
		f.queue.adopt(b[:], n, f.took, 0)
		f.holds.free = f.took - n
	}
	return err
}

// unseen tells whether nothing needs to see the bytes of a raw flow: no rule that
// paces or holds them, nothing that waits in front, kernel sockets on both sides.
func (f *flow) unseen() bool {
	return len(f.stages) == 0 && len(f.corrupt) == 0 && len(f.holds.by) == 0 && f.holds.first == len(f.holds.marks) &&
		f.queue.n == 0 && !f.eof && f.in.raw != nil && f.out.raw != nil
}

// Bulk begins after so many full buffers in a row, and ends after so many short
// splices.
const (
	bulkAfter  = 2
	bulkShort  = 16 << 10
	bulkEnds   = 8
	spliceMost = 1 << 20
)

// takeFrom is called with the source's file descriptor until it returns true:
// there are bytes, or there is an end.
func (f *flow) takeFrom(fd uintptr) bool {
	if f.bulk >= bulkAfter {
		return f.takeBulk(int(fd))
	}
	b := largeBuffers.Get().(*[largeBuffer]byte)
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b[:]) })
	if err == unix.EAGAIN {
		largeBuffers.Put(b)
		return false
	}
	if err != nil || n == 0 {
		largeBuffers.Put(b)
		f.tookErr = os.NewSyscallError("read", err)
		return true
	}
	if n == len(b) {
		f.bulk++
	} else {
		f.bulk = 0
	}
	f.took, f.borrowed = n, b
	return true
}

func (f *flow) takeBulk(fd int) bool {
	p, err := sparePipes.get()
	if err != nil { // out of file descriptors: the buffer does as well
		f.bulk = 0
		return f.takeFrom(uintptr(fd))
	}
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(fd, nil, p.w, nil, spliceMost, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	switch {
	case err == unix.EAGAIN:
		sparePipes.put(p)
		return false
	case err != nil || n == 0:
		sparePipes.put(p)
		f.tookErr = os.NewSyscallError("splice", err)
		return true
	case n >= bulkShort:
		f.short = 0
	default:
		if f.short++; f.short == bulkEnds {
			f.bulk, f.short = 0, 0
		}
	}
	p.held = n
	f.pipe = p
	return true
}

// pour moves what the pipe holds to the destination.
func (f *flow) pour() error {
	for f.pipe.held > 0 {
		if err := f.armWrite(); err != nil {
			return err
		}
		f.gave, f.gaveErr = 0, nil
		err := f.out.raw.Write(f.give)
		if err == nil && f.gaveErr != nil {
			err = f.gaveErr
		}
		f.pipe.held -= f.gave
		f.wrote(f.gave)
		f.c.p.stats.spliced.Add(int64(f.gave))
		if err != nil {
			return f.writeFailed(err)
		}
	}
	sparePipes.put(f.pipe)
	f.pipe = nil
	return nil
}

func (f *flow) giveTo(fd uintptr) bool {
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(f.pipe.r, nil, int(fd), nil, f.pipe.held, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if err == unix.EAGAIN {
		return false
	}
	f.gave, f.gaveErr = max(n, 0), os.NewSyscallError("splice", err)
	return true
}

// unpipe takes bytes out of the pipe that a rule wants to see now.
func (f *flow) unpipe(p []byte) int {
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(f.pipe.r, p[:min(len(p), f.pipe.held)]) })
	if err != nil || n == 0 { // cannot be: the pipe is ours, and holds them
		panic(fmt.Sprintf("a pipe has lost %d bytes: %v", f.pipe.held, err))
	}
	f.pipe.held -= n
	if f.pipe.held == 0 {
		sparePipes.put(f.pipe)
		f.pipe = nil
	}
	return n
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

// pipe is a pipe(2) through which one flow at a time moves its bytes.
type pipe struct {
	r, w int
	held int // bytes inside
}

// pipeStore keeps some pipes for the next who needs one.
type pipeStore struct {
	mu   sync.Mutex
	idle []*pipe
}

var sparePipes pipeStore

const sparesKept = 64

func (s *pipeStore) get() (*pipe, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		p := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return p, nil
	}
	s.mu.Unlock()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// A larger pipe means fewer system calls; a user who has used up
	// /proc/sys/fs/pipe-user-pages-soft goes on with the 64 KiB there are.
	_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, spliceMost)
	return &pipe{r: ends[0], w: ends[1]}, nil
}

// put takes a pipe back; one that still holds bytes is of no more use.
func (s *pipeStore) put(p *pipe) {
	if p.held == 0 {
		s.mu.Lock()
		if len(s.idle) < sparesKept {
			s.idle = append(s.idle, p)
			p = nil
		}
		s.mu.Unlock()
	}
	if p != nil {
		unix.Close(p.r) // nothing is left to be lost by either
		unix.Close(p.w)
	}
}

// discardAll gives back everything the flow holds.
func (f *flow) discardAll() {
	f.release()
	f.queue.drop()
	f.holds.drop(&f.queue)
	f.queue.budget.leave(f)
	f.c.p.alarms.stop(&f.alarm)
	if f.pipe != nil {
		sparePipes.put(f.pipe)
		f.pipe = nil
	}
}
