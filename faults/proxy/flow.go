package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// flow is one direction of a conn: it reads from in and writes to out. One
// goroutine owns it; others only nudge it (conn.nudge), upon which its reads,
// writes and waits return errNudged and it looks at its conn again.
type flow struct {
	c      *conn
	isDown bool // from the upstream to the caller
	in     *socket
	out    *socket

	rev  atomic.Uint64 // nudges given …
	seen uint64        // … and looked at
	wake chan struct{}

	timer    *time.Timer
	alarm    alarm
	readBy   time.Duration // read deadline that in has; unknown after a nudge
	writeSet bool          // out may have a write deadline that is over
	raw      bool          // conn.raw, as last looked at
	h2       *h2           // conn.h2, likewise

	// Bytes received and not yet passed on are buf[r:w], and once the flow pumps
	// they are in the queue.
	buf     []byte
	r, w    int
	full    bool  // the last read left no room
	quiet   int   // reads in a row that a small buffer would have held
	claimed int64 // of the proxy's budget for held bytes
	queue   queue
	lending lending
	spaces  [][]byte              // of the queue, while bytes are read …
	until   time.Duration         // … until then
	into    func(fd uintptr) bool // takeInto, bound once
	some    func(fd uintptr) bool // giveSome, bound once
	stuck   atomic.Bool           // out takes nothing now; a nudge will come
	arrived *arrivals             // nil until bytes are held
	ago     time.Duration         // how long before they were read the last bytes came
	vec     net.Buffers           // of the queue, while they are written
	eof     bool                  // in has sent FIN

	// The path of bytes that nothing needs to see (direct.go).
	take, give func(fd uintptr) bool // takeFrom and giveTo, bound once
	borrowed   *[largeBuffer]byte
	took, gave int
	tookErr    error
	gaveErr    error
	pipe       *pipe // bytes taken and not given yet
	bulk       int   // full buffers in a row
	short      int   // short splices in a row

	stages  []stage
	call    who // HTTP: the call whose bytes pass now
	inCall  bool
	sent    int64 // bytes passed on: of the call, or of the raw conn
	holds   holds
	mute    *active // the silence rule that discards all bytes, for good
	corrupt []*corrupter
	aborts  rules  // HTTP: of the call
	heads   []byte // that rules have changed, being sent
}

// unknown is a read deadline that must be set anew.
const unknown = time.Duration(-1)

// sideError is an error of one of a flow's two sockets.
type sideError struct {
	writing bool
	err     error
}

func (e *sideError) Error() string {
	if e.writing {
		return fmt.Sprintf("write: %v", e.err)
	}
	return fmt.Sprintf("read: %v", e.err)
}

func (e *sideError) Unwrap() error { return e.err }

// look catches up with the conn after a nudge, or at any other time.
func (f *flow) look() error {
	f.seen = f.rev.Load()
	f.readBy, f.writeSet = unknown, true
	c := f.c
	c.mu.Lock()
	over, silent, ending := c.over, c.silent != nil, c.ending
	var due *active
	if !over && !silent && !ending {
		due = c.overdue()
	}
	f.raw, f.h2 = c.raw, c.h2
	f.in, f.out = c.client, c.server
	if f.isDown {
		f.in, f.out = c.server, c.client
	}
	c.mu.Unlock()
	switch {
	case over:
		return errOver
	case silent:
		return errSilent
	case ending:
		return errEnding
	case due != nil:
		if err := c.strike(due); err != nil {
			return err
		}
	}
	return f.restage()
}

// read is in.Read, until that time of the proxy's clock (errDue) or until nudged.
func (f *flow) read(p []byte, until time.Duration) (int, error) {
	if f.pipe != nil {
		return f.unpipe(p), nil
	}
	if err := f.armRead(until); err != nil {
		return 0, err
	}
	n, err := f.in.Read(p)
	f.c.p.stats.received(f.isDown, n)
	switch {
	case n > 0 || err == nil:
		return n, nil // an error comes again
	case err == io.EOF:
		return 0, f.ended()
	}
	return 0, f.readFailed(err)
}

// readQuick is read into f.spaces, and cheaper than it where bytes are there already: only when
// it must wait does it set the deadline, and the alarm. A time that is over means
// not to wait.
func (f *flow) readQuick(until time.Duration) (int, error) {
	if f.pipe != nil || f.in.raw == nil {
		return f.read(f.spaces[0], until)
	}
	if now := f.c.p.now(); f.readBy == unknown || f.readBy <= now { // raw.Read does not even try after its deadline
		at := until
		if at <= now || f.lends(until) {
			at = forever
		}
		if err := f.armRead(at); err != nil {
			return 0, err
		}
	}
	f.until, f.took, f.tookErr = until, 0, nil
	err := f.in.raw.Read(f.into)
	f.recall()
	switch {
	case f.took > 0:
		f.c.p.stats.received(f.isDown, f.took)
		return f.took, nil
	case f.tookErr == errNudged, f.tookErr == errDue:
		return 0, f.tookErr
	case f.tookErr == io.EOF:
		return 0, f.ended()
	case err == nil:
		err = f.tookErr
	}
	return 0, f.readFailed(err)
}

// takeInto is called with the source's file descriptor until it returns true.
func (f *flow) takeInto(fd uintptr) bool {
	if f.recall() && !f.reserve() {
		f.tookErr = errDue
		return true
	}
	n, err := ignoringEINTR(func() (n int, err error) {
		switch {
		case len(f.holds.by) > 0:
			n, f.ago, err = f.stamps(int(fd)).read(int(fd), f.spaces)
			return n, err
		case len(f.spaces) == 1:
			return unix.Read(int(fd), f.spaces[0])
		}
		return unix.Readv(int(fd), f.spaces)
	})
	switch {
	case err == unix.EAGAIN:
		now := f.c.p.now()
		if f.arrived != nil {
			f.arrived.dry = now
		}
		if f.until <= now {
			f.tookErr = errDue
			return true
		}
		by, lends := f.until, f.lends(f.until)
		if lends {
			by = forever
		}
		if err := f.armRead(by); err != nil {
			f.tookErr = err
			return true
		}
		if lends {
			f.lend()
		} else {
			f.lending.become(reading)
		}
		f.c.p.alarms.wake(&f.alarm, f.until)
		return false
	case err != nil:
		f.tookErr = os.NewSyscallError("read", err)
	case n == 0:
		f.tookErr = io.EOF
	}
	f.took = max(n, 0)
	return true
}

// stamps is what tells when bytes came to in.
func (f *flow) stamps(fd int) *arrivals {
	if f.arrived == nil {
		f.arrived = new(arrivals)
	}
	if f.arrived.of != f.in {
		f.arrived.start(fd, f.in, f.c.p.now())
	}
	return f.arrived
}

// armRead makes the next read end at that time, or when nudged.
//
// Subtle: nudge counts first and sets the deadline second; here the deadline is
// set first and the count looked at second. Whichever way the two interleave,
// either the count or the deadline shows the nudge.
func (f *flow) armRead(until time.Duration) error {
	if until != f.readBy {
		var at time.Time
		if until != forever {
			at = f.c.p.start.Add(until)
		}
		f.in.SetReadDeadline(at)
		f.readBy = until
	}
	if f.rev.Load() != f.seen {
		return errNudged
	}
	return nil
}

// ended notes that in has sent FIN.
func (f *flow) ended() error {
	f.eof = true
	if !f.isDown {
		f.c.callerDone.Store(true)
	}
	return io.EOF
}

// readFailed says what an error of reading means.
func (f *flow) readFailed(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return &sideError{err: err}
	}
	f.readBy = unknown
	if f.rev.Load() != f.seen {
		return errNudged
	}
	return errDue
}

// write is out.Write until nudged: then n may be less than all.
func (f *flow) write(p []byte) (int, error) {
	if err := f.armWrite(); err != nil {
		return 0, err
	}
	n, err := f.out.Write(p)
	f.wrote(n)
	if err != nil {
		return n, f.writeFailed(err)
	}
	return n, nil
}

// writev is write of several slices at once, of which it leaves nothing.
func (f *flow) writev(v *net.Buffers) (int, error) {
	if len(*v) == 1 {
		return f.write((*v)[0])
	}
	if err := f.armWrite(); err != nil {
		return 0, err
	}
	n, err := v.WriteTo(f.out.Conn)
	f.wrote(int(n))
	if err != nil {
		return int(n), f.writeFailed(err)
	}
	return int(n), nil
}

// writeSome is writev of f.vec as far as it goes at once. When not all did, the flow is
// stuck, and nudged when out takes more.
func (f *flow) writeSome() (int, error) {
	if err := f.armWrite(); err != nil {
		return 0, err
	}
	f.gave, f.gaveErr = 0, nil
	err := f.out.raw.Write(f.some)
	f.wrote(f.gave)
	switch {
	case err != nil:
		return f.gave, f.writeFailed(err)
	case f.gaveErr == unix.EAGAIN:
		raw := f.out.raw
		f.stick(func() {
			_ = raw.Write(func(fd uintptr) bool {
				n, err := ignoringEINTR(func() (int, error) {
					return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
				})
				return n > 0 || err != nil
			})
		})
	case f.gaveErr != nil:
		return f.gave, f.writeFailed(os.NewSyscallError("writev", f.gaveErr))
	}
	return f.gave, nil
}

// giveSome is called with the destination's file descriptor, once.
func (f *flow) giveSome(fd uintptr) bool {
	if len(f.vec) == 1 && len(f.vec[0]) <= smallBuffer {
		n, errno := transmit(int(fd), f.vec[0])
		if f.gave, f.gaveErr = n, nil; errno != 0 {
			f.gaveErr = errno
		}
		return true
	}
	n, err := ignoringEINTR(func() (int, error) {
		if len(f.vec) == 1 {
			return unix.Write(int(fd), f.vec[0])
		}
		return unix.Writev(int(fd), f.vec)
	})
	f.gave, f.gaveErr = max(n, 0), err
	return true
}

// stick waits for out to take more, while the flow goes on reading. Whatever ends
// the wait, the flow looks itself.
func (f *flow) stick(wait func()) {
	f.stuck.Store(true)
	f.c.p.all.Go(func() {
		wait()
		f.stuck.Store(false)
		f.c.mu.Lock()
		if !f.c.over {
			f.c.nudge(f)
		}
		f.c.mu.Unlock()
	})
}

// armWrite lets the next write go on until it is nudged (see armRead).
func (f *flow) armWrite() error {
	if f.writeSet {
		f.out.SetWriteDeadline(time.Time{})
		f.writeSet = false
	}
	if f.rev.Load() != f.seen {
		return errNudged
	}
	return nil
}

// wrote counts n bytes that were passed on.
func (f *flow) wrote(n int) {
	if f.isDown {
		f.c.p.stats.bytesDown.Add(int64(n))
	} else {
		f.c.p.stats.bytesUp.Add(int64(n))
	}
	f.sent += int64(n)
}

// writeFailed says what an error of writing means.
func (f *flow) writeFailed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		f.writeSet = true
		return errNudged
	}
	return &sideError{writing: true, err: err}
}

// rouse has the flow's wait, or its next one, look again.
func (f *flow) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wait waits until that time of the proxy's clock (nil), or until nudged.
func (f *flow) wait(until time.Duration) error {
	var due <-chan time.Time
	if until != forever {
		d := until - f.c.p.now()
		if d <= 0 {
			return nil
		}
		if f.timer == nil {
			f.timer = time.NewTimer(d)
		} else {
			f.timer.Reset(d)
		}
		due = f.timer.C
		f.c.p.alarms.wake(&f.alarm, until)
		defer f.timer.Stop()
	}
	for f.rev.Load() == f.seen {
		select {
		case <-due:
			return nil
		case <-f.wake: // by an alarm, or a nudge, perhaps one that was seen long ago
			if until <= f.c.p.now() {
				return nil
			}
		case <-f.c.ctx.Done():
			return errOver
		}
	}
	return errNudged
}

// send passes p on, as the stages let it.
func (f *flow) send(p []byte) error {
	for len(p) > 0 {
		n, err := f.sendSome(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// sendSome passes on what may pass of p at once, or waits until some may, or until
// something has changed.
func (f *flow) sendSome(p []byte) (n int, err error) {
	n, again := f.admit(f.c.p.now(), len(p))
	if n == 0 {
		err = f.wait(again)
	} else {
		n, err = f.write(p[:n])
		if struck := f.passed(n); struck != nil {
			return n, struck
		}
	}
	if errors.Is(err, errNudged) {
		err = f.look()
	}
	return n, err
}

// admit asks every stage how much of n bytes may pass.
func (f *flow) admit(now time.Duration, n int) (int, time.Duration) {
	for _, s := range f.stages {
		var again time.Duration
		if n, again = s.admit(now, n); n == 0 {
			return 0, again
		}
	}
	return n, now
}

// passed tells every stage, and lets the first rule strike whose time has come.
func (f *flow) passed(n int) error {
	if len(f.stages) == 0 || n == 0 {
		return nil
	}
	now := f.c.p.now()
	var struck *active
	for _, s := range f.stages {
		if s.passed(now, n) && struck == nil {
			struck = s.rule()
		}
	}
	if struck != nil {
		return f.c.strike(struck)
	}
	return nil
}

// begin says whose bytes pass from now on.
func (f *flow) begin(call who) error {
	f.call, f.inCall, f.sent = call, true, 0
	return f.restage()
}

// done is the end of the call's bytes.
func (f *flow) done() {
	f.inCall = false
	// What counted the bytes of this call must not count on in the next. The buckets
	// are the connection's and stay, but those of rules that are about some calls.
	f.stages = slices.DeleteFunc(f.stages, func(s stage) bool { _, is := s.(*cut); return is || s.rule().match != nil })
	f.corrupt, f.aborts = f.corrupt[:0], f.aborts[:0]
}

// restage makes the stages fit the rules: those of the call whose bytes pass, or
// of the conn when it is raw. A stage keeps its state as long as its rule lasts.
func (f *flow) restage() error {
	now := *f.c.p.rules.Load()
	if f.raw {
		f.holds.restage(f, now)
		if f.remute(now); f.mute != nil {
			f.stages = append(f.stages[:0], mute{f.mute})
			return nil
		}
	}
	if len(now) == 0 {
		f.stages, f.corrupt, f.aborts = f.stages[:0], f.corrupt[:0], f.aborts[:0]
		return nil
	}
	w, cuts := f.call, rules(nil)
	switch {
	case f.raw:
		w = f.c.who()
		for _, r := range now {
			if r.cut() != nil && r.picks(w) {
				cuts = append(cuts, r)
			}
		}
	case !f.inCall:
		return nil
	default:
		if cl, ok := f.c.front(); ok && f.isDown {
			cuts = cl.cuts
		}
	}

	old := f.stages
	f.stages = nil
	keep := func(r *active, anew func() stage) { f.stages = append(f.stages, kept(old, r, anew)) }
	for _, r := range now {
		if r.paces(f.isDown) && r.picks(w) {
			number := f.c.number
			if r.match != nil { // each call anew
				number = f.call.number
			}
			keep(r, func() stage { return r.stage(f.c.p, f.direction(), number) })
		}
	}
	f.restageContent(now, w)
	for _, r := range now {
		if r.Corrupt != nil && f.c.p.config.Protocol == TCP && r.Corrupt.Direction.covers(f.isDown) && r.picks(w) {
			c := newCorrupter(r, ofByte^f.direction(), f.c.number)
			f.corrupt = append(f.corrupt, c)
			f.stages = append(f.stages, c)
		}
	}
	for _, r := range now {
		if r.Limit == nil || !f.raw || !r.Limit.Direction.covers(f.isDown) || !r.picks(w) {
			continue
		}
		if left := r.Limit.Bytes - f.sent; left > 0 || f.sent == 0 {
			keep(r, func() stage { return &limit{c: f.c, by: r, left: left} })
		} else if err := f.c.strike(r); err != nil {
			return err
		}
	}
	if !f.isDown {
		return nil
	}
	for _, r := range cuts {
		switch left := r.cut().After - f.sent; {
		case r.gone.Load():
		case left > 0:
			keep(r, func() stage { return &cut{by: r, left: left} })
		default:
			if err := f.c.strike(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// remute finds the silence rule that discards the bytes of the raw flow. Once
// there was one, bytes are missing: without it the conn is closed, not heard again.
func (f *flow) remute(now rules) {
	if f.mute != nil {
		f.mute = now.now(f.mute)
		return
	}
	for _, r := range now {
		if r.Silence != nil && r.Silence.Direction.covers(f.isDown) && r.picks(f.c.who()) {
			f.mute = r
			return
		}
	}
}

// holdEnd waits until the end of a raw flow, behind all its bytes, may be passed
// on (io.EOF), or for another reason to stop.
func (f *flow) holdEnd() error {
	for from := f.c.p.now(); ; {
		until := from
		for _, r := range *f.c.p.rules.Load() {
			if s := r.SlowClose; s != nil && s.Direction.covers(f.isDown) && r.picks(f.c.who()) {
				until += s.Delay
			}
		}
		if f.mute != nil {
			until = forever
		}
		err := f.wait(until)
		if err == nil {
			return io.EOF
		}
		if errors.Is(err, errNudged) {
			err = f.look()
		}
		if err != nil {
			return err
		}
	}
}

// handshake waits for as long as the conn is to be slow to open.
func (f *flow) handshake() error {
	c := f.c
	var drawn []*work
	for {
		var sum time.Duration
		var by rules
		for _, r := range *c.p.rules.Load() {
			if r.Connect == nil {
				continue
			}
			hit := r.picks(c.who())
			if !slices.Contains(drawn, r.work) {
				drawn = append(drawn, r.work)
				r.did.drawn(hit)
			}
			if hit {
				by = append(by, r)
				sum += r.Connect.Delay
			}
		}
		waited := c.p.now() - c.opened
		if waited >= sum {
			for _, r := range by { // each its part, as in holds.measure
				if sum > 0 {
					r.did.held(time.Duration(float64(waited) * float64(r.Connect.Delay) / float64(sum)))
				}
			}
			return nil
		}
		err := f.wait(c.opened + sum)
		if errors.Is(err, errNudged) {
			err = f.look()
		}
		if err != nil {
			return err
		}
	}
}

// direction is 0 on the way up, 1 on the way down.
func (f *flow) direction() uint64 {
	if f.isDown {
		return 1
	}
	return 0
}

// fill reads more bytes into the buffer. It returns nil also when only something
// changed.
func (f *flow) fill(until time.Duration) error {
	if f.eof {
		return io.EOF
	}
	if !f.room(2 * framing.MaxHead) {
		return fmt.Errorf("%d bytes wait in front of a message: %w", f.w-f.r, io.ErrShortBuffer)
	}
	n, err := f.read(f.buf[f.w:], until)
	f.received(n)
	if errors.Is(err, errNudged) {
		return f.look()
	}
	return err
}

// The sizes of a flow's buffer, and of the chunks of its queue: small when idle
// or in small talk, large when bytes come in bulk.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// room sees to it that there is room behind w, in a buffer of at most most bytes.
func (f *flow) room(most int) bool {
	if f.r == f.w {
		f.r, f.w = 0, 0
		switch {
		case f.buf == nil:
			f.buf = make([]byte, smallBuffer)
		case f.full && len(f.buf) == smallBuffer:
			f.buf = largeBuffers.Get().(*[largeBuffer]byte)[:]
		case len(f.buf) > smallBuffer && f.quiet >= 8:
			f.release()
			f.buf = make([]byte, smallBuffer)
		}
		return true
	}
	if f.w < len(f.buf) {
		return true
	}
	if f.r >= len(f.buf)/2 || len(f.buf) >= most && f.r > 0 {
		f.w = copy(f.buf, f.buf[f.r:f.w])
		f.r = 0
		return true
	}
	if len(f.buf) >= most {
		return false
	}
	var bigger []byte
	claimed := int64(0)
	if n := 2 * len(f.buf); n <= largeBuffer {
		bigger = largeBuffers.Get().(*[largeBuffer]byte)[:]
	} else {
		claimed = int64(n)
		if ok, _ := f.c.p.held.claim(claimed, 0); !ok {
			return false
		}
		bigger = make([]byte, n)
	}
	w := copy(bigger, f.buf[f.r:f.w])
	f.release()
	f.buf, f.w, f.claimed = bigger, w, claimed
	return true
}

// received counts n more bytes in the buffer.
func (f *flow) received(n int) {
	if n == 0 {
		return
	}
	f.w += n
	f.full = f.w == len(f.buf)
	if n <= smallBuffer {
		f.quiet++
	} else {
		f.quiet = 0
	}
}

// release gives the buffer back, with what is in it.
func (f *flow) release() {
	if len(f.buf) == largeBuffer {
		largeBuffers.Put((*[largeBuffer]byte)(f.buf))
	}
	if f.claimed > 0 {
		f.c.p.held.give(f.claimed)
	}
	f.buf, f.r, f.w, f.claimed, f.full, f.quiet = nil, 0, 0, 0, false, 0
}
