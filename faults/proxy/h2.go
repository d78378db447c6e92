package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// h2 is a conn that speaks HTTP/2 (RFC 9113) from its first byte on: frames are
// passed on, streams are calls. It has four goroutines: each way has one that
// reads and one, its flow's, that writes what the socket did not take at once and
// keeps the time. conn.mu guards it all; nobody holds it while a peer is waited for.
//
//	caller ── read ──> way up:   halves of the streams ──> out ── write ──> upstream
//	caller <── write ── out <── halves of the streams :way down <── read ── upstream
//
// Passed on between the peers as they are: SETTINGS and their ACKs, PING, GOAWAY, the
// windows of streams, frames of unknown types. The proxy's own are, on either side,
//
//   - the connection's window, so that bytes which are held back for one stream
//     do not stop the others: each sender has grant in advance of what went on;
//   - HPACK's tables: heads are decoded, and written anew;
//   - the numbers of streams towards the upstream, which has to see them rise in the
//     order in which they arrive, however long one was held;
//   - padding, which ends here, and pushes, which are turned off.
//
// SETTINGS pass with three exceptions: ENABLE_PUSH becomes 0, and MAX_FRAME_SIZE and
// HEADER_TABLE_SIZE are cut down to what the proxy takes.
type h2 struct {
	c         *conn
	ways      [2]way
	streams   map[uint32]*stream // by the caller's number
	above     map[uint32]*stream // by the upstream's
	newest    uint32             // of the caller's numbers
	next      uint32             // of the upstream's
	last      uint32             // the upstream takes none above this: it has sent GOAWAY
	underWay  int                // calls that are not settled
	unreached int                // calls that wait for the upstream to be dialled
	asked     bool               // there was a call
	opaque    bool               // the upstream speaks something else: bytes pass as they are
	drained   *sync.Cond         // some bytes were written, or the conn is over
	spare     []*stream          // to be used again
}

const (
	grant           = 1 << 20   // of the connection's window, to a sender
	ownWindow       = 65535     // of every connection and stream, unless SETTINGS say otherwise
	ownFrame        = 16 << 10  // likewise
	frameMost       = 32 << 10  // payload of a frame that the proxy takes
	tableMost       = 64 << 10  // bytes of an HPACK table
	fragmentsMost   = 256       // frames that a head may come in; its size is framing.MaxHead at most
	outMost         = 256 << 10 // DATA waits while so much waits to be written …
	controlMost     = 4 << 20   // … and then whoever sends is not read
	streamsMost     = 10_000    // calls on one connection
	frameHead       = 9         // bytes
	maxStream       = uint32(1)<<31 - 1
	settingSize     = 6
	prioritySize    = 5
	priorityUpdate  = 0x10 // RFC 9218
	ownTable        = 4096 // bytes of the HPACK tables that heads are written with, at most
	turn            = 64 << 10
	windowUpdateLen = 4
)

// way is one direction of an h2.
type way struct {
	h *h2
	f *flow // reads and writes

	// The sender.
	from   *socket
	open   bool           // it has sent its SETTINGS
	most   int            // the largest frame that it may send
	window int64          // of the connection: what it may still send …
	owed   int64          // … and what it will be told that it may
	dec    *hpack.Decoder // of its heads
	block  block
	ended  bool // it has sent FIN
	failed error

	// The receiver.
	to       *socket // nil: not there yet
	enc      *hpack.Encoder
	encoded  bytes.Buffer
	frame    int   // the largest frame that it takes
	room     int64 // of the connection's window
	initial  int64 // the window of a new stream
	out      []byte
	rest     []byte // is written before out …
	whole    []byte // … and is the end of this
	empty    []byte // to be used for out
	onItsWay int    // bytes being written
	writing  bool
	broken   bool                  // it takes no more
	some     func(fd uintptr) bool // giveSome, bound once
	gave     int
	gaveErr  error
	due      indexed[*half]
	starved  []*half // wait for room, first come first served
	queued   int     // halves with something in their queues
}

// block is a head that is being received: HEADERS and its CONTINUATIONs.
type block struct {
	id        uint32 // 0: none
	end       bool   // it ends the stream
	fragments int
	fields    []hpack.HeaderField
	size      int // RFC 9113, 6.5.2
	priority  priority
}

// priority is what HEADERS may say of it (RFC 7540, 6.2).
type priority struct {
	is     bool
	on     uint32 // another stream, with its exclusive bit
	weight byte
}

// h2Error is what is wrong with a connection, for its GOAWAY.
type h2Error http2.ErrCode

func (e h2Error) Error() string { return "http2: " + http2.ErrCode(e).String() }

var clientPreface = []byte(http2.ClientPreface)

// maybeH2 tells whether the first bytes of a connection are those of HTTP/2, its first
// SETTINGS included. False, true: perhaps, when there are more.
func maybeH2(p []byte) (is, short bool) {
	n := min(len(p), len(clientPreface))
	if !bytes.Equal(p[:n], clientPreface[:n]) {
		return false, false
	}
	if p = p[n:]; len(p) < frameHead {
		return false, true
	}
	return isSettings(p), false
}

// isSettings tells whether p begins with the SETTINGS that a peer has to send first.
func isSettings(p []byte) bool {
	n := frameLength(p)
	return n <= ownFrame && n%settingSize == 0 && http2.FrameType(p[3]) == http2.FrameSettings && p[4] == 0 && streamID(p[5:]) == 0
}

func frameLength(p []byte) int { return int(p[0])<<16 | int(p[1])<<8 | int(p[2]) }

func streamID(p []byte) uint32 { return binary.BigEndian.Uint32(p) & maxStream }

func newH2(c *conn) *h2 {
	h := &h2{c: c, streams: map[uint32]*stream{}, above: map[uint32]*stream{}, next: 1, last: maxStream}
	h.drained = sync.NewCond(&c.mu)
	for i, f := range []*flow{&c.up, &c.down} {
		w := &h.ways[i]
		*w = way{h: h, f: f, most: ownFrame, window: ownWindow, frame: ownFrame, room: ownWindow, initial: ownWindow}
		w.some = w.giveSome
		w.dec = hpack.NewDecoder(ownTable, w.block.field)
		w.dec.SetAllowedMaxDynamicTableSize(tableMost)
		w.dec.SetMaxStringLength(framing.MaxHead)
		w.enc = hpack.NewEncoder(&w.encoded)
	}
	return h
}

func (h *h2) up() *way   { return &h.ways[0] }
func (h *h2) down() *way { return &h.ways[1] }

func (w *way) isDown() bool { return w.f.isDown }

// back is the other way: what is sent to the sender.
func (w *way) back() *way { return &w.h.ways[1-w.f.direction()] }

// speakH2 is the flow up from the moment at which the caller was found to speak HTTP/2.
// The buffer begins with its preface.
func (f *flow) speakH2() error {
	c := f.c
	h := newH2(c)
	w := h.up()
	c.mu.Lock()
	if c.over || c.ending {
		c.mu.Unlock()
		return f.look()
	}
	c.h2 = h
	w.from, h.down().to = c.client, c.client
	// Nudges leave deadlines alone from now on.
	c.client.SetReadDeadline(time.Time{})
	c.client.SetWriteDeadline(time.Time{})
	w.out = append(w.out, clientPreface...)
	f.r += len(clientPreface)
	c.nudge(&c.down)
	c.mu.Unlock()

	read := make(chan struct{})
	c.p.all.Go(func() { defer close(read); w.read() })
	err := c.dial()
	if err == nil {
		c.mu.Lock()
		w.to = c.server
		for ; h.unreached > 0; h.unreached-- {
			c.p.stats.reached()
		}
		c.mu.Unlock()
		err = w.serve()
	}
	<-read
	return err
}

// speakH2Back is the flow down of such a conn; it has its upstream.
func (f *flow) speakH2Back(h *h2) error {
	w := h.down()
	w.from = f.in
	read := make(chan struct{})
	f.c.p.all.Go(func() { defer close(read); w.read() })
	err := w.serve()
	<-read
	return err
}

// read takes frames until the sender has no more to say.
func (w *way) read() {
	f, c := w.f, w.f.c
	for {
		c.mu.Lock()
		err := w.take()
		if err != nil {
			w.h.fail(w, err)
		}
		w.h.flush()
		for !c.over && !c.ending && max(w.waiting(), w.back().waiting()) > controlMost {
			w.h.drained.Wait()
		}
		stop := c.over || c.ending
		c.mu.Unlock()
		if stop {
			return
		}
		f.room(largeBuffer) // a frame fits
		n, err := w.from.Read(f.buf[f.w:])
		f.received(n)
		switch {
		case n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded): // the deadline was set when the conn is ending, or before
			continue
		case err == io.EOF && !f.isDown:
			c.callerDone.Store(true)
		}
		c.mu.Lock()
		if w.h.opaque || !w.open { // it ends within a frame, whatever that is
			w.out = append(w.out, f.buf[f.r:f.w]...)
			w.open = true
		}
		w.ended = true
		if err != io.EOF {
			w.failed = &sideError{err: err}
		}
		w.wake()
		c.mu.Unlock()
		return
	}
}

// take handles the frames in the buffer. c.mu is held.
func (w *way) take() error {
	f := w.f
	if w.h.c.over || w.h.c.ending {
		return nil
	}
	for {
		p := f.buf[f.r:f.w]
		switch {
		case w.h.opaque:
			w.out = append(w.out, p...)
			f.r = f.w
			return nil
		case len(p) < frameHead:
			return nil
		case !w.open && !isSettings(p):
			// Only the upstream: the caller was looked at before.
			w.h.giveUp()
			continue
		}
		n := frameLength(p)
		if n > w.most {
			return h2Error(http2.ErrCodeFrameSize)
		}
		if len(p) < frameHead+n {
			return nil
		}
		f.r += frameHead + n
		if err := w.handle(http2.FrameType(p[3]), http2.Flags(p[4]), streamID(p[5:]), p[frameHead:frameHead+n]); err != nil {
			return err
		}
	}
}

// handle passes a frame on, or what it means.
func (w *way) handle(kind http2.FrameType, flags http2.Flags, id uint32, p []byte) error {
	if w.block.id != 0 && (kind != http2.FrameContinuation || id != w.block.id) {
		return h2Error(http2.ErrCodeProtocol)
	}
	switch kind {
	case http2.FrameData:
		return w.data(flags, id, p)
	case http2.FrameHeaders:
		return w.headers(flags, id, p)
	case http2.FrameContinuation:
		if w.block.id == 0 {
			return h2Error(http2.ErrCodeProtocol)
		}
		return w.fragment(flags, p)
	case http2.FramePriority:
		if len(p) != prioritySize {
			return h2Error(http2.ErrCodeFrameSize)
		}
		if s := w.stream(id); s != nil && s.numberTo(w) != 0 {
			on := binary.BigEndian.Uint32(p)
			w.out = appendFrame(w.out, prioritySize, kind, 0, s.numberTo(w))
			w.out = append(binary.BigEndian.AppendUint32(w.out, w.mapped(on)), p[4])
		}
	case http2.FrameRSTStream:
		if len(p) != 4 || id == 0 {
			return h2Error(http2.ErrCodeProtocol)
		}
		if s := w.stream(id); s != nil {
			s.resetBy(w, binary.BigEndian.Uint32(p))
		}
	case http2.FrameSettings:
		return w.settings(flags, id, p)
	case http2.FramePing:
		if len(p) != 8 || id != 0 {
			return h2Error(http2.ErrCodeProtocol)
		}
		w.pass(kind, flags, 0, p)
	case http2.FrameGoAway:
		return w.goAway(id, p)
	case http2.FrameWindowUpdate:
		return w.windowUpdate(id, p)
	case http2.FramePushPromise: // was turned off
		return h2Error(http2.ErrCodeProtocol)
	case priorityUpdate:
		if len(p) >= 4 {
			if s := w.stream(streamID(p)); s != nil && s.numberTo(w) != 0 {
				w.out = appendFrame(w.out, len(p), kind, flags, id)
				w.out = append(binary.BigEndian.AppendUint32(w.out, s.numberTo(w)), p[4:]...)
			}
		}
	default:
		if id == 0 {
			w.pass(kind, flags, 0, p)
		} else if s := w.stream(id); s != nil {
			s.half(w).put(item{what: other, kind: kind, flags: flags, b: p})
		}
	}
	return nil
}

// stream is the sender's stream of that number; nil: there is none, or none any more.
func (w *way) stream(id uint32) *stream {
	if w.isDown() {
		return w.h.above[id]
	}
	return w.h.streams[id]
}

// mapped is what the receiver knows a stream by; 0 where it does not. The
// exclusive bit of a dependency stays.
func (w *way) mapped(on uint32) uint32 {
	if s := w.stream(on & maxStream); s != nil && s.numberTo(w) != 0 {
		return s.numberTo(w) | on&^maxStream
	}
	return on &^ maxStream
}

func appendFrame(b []byte, n int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// pass passes a frame on as it is.
func (w *way) pass(kind http2.FrameType, flags http2.Flags, id uint32, p []byte) {
	if len(p) > w.frame { // an unknown one that is too large for the receiver: it would end the connection
		return
	}
	w.out = append(appendFrame(w.out, len(p), kind, flags, id), p...)
}

func (w *way) sendReset(id uint32, code uint32) {
	w.out = binary.BigEndian.AppendUint32(appendFrame(w.out, 4, http2.FrameRSTStream, 0, id), code)
}

func (w *way) sendWindow(id uint32, n int64) {
	w.out = binary.BigEndian.AppendUint32(appendFrame(w.out, windowUpdateLen, http2.FrameWindowUpdate, 0, id), uint32(n))
}

// unpadded takes padding off.
func unpadded(flags http2.Flags, p []byte) ([]byte, bool) {
	if flags&http2.FlagDataPadded == 0 { // the same bit for HEADERS
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

// data is a frame of a body.
func (w *way) data(flags http2.Flags, id uint32, p []byte) error {
	size := int64(len(p))
	p, ok := unpadded(flags, p)
	if id == 0 || !ok {
		return h2Error(http2.ErrCodeProtocol)
	}
	if w.window -= size; w.window < 0 {
		return h2Error(http2.ErrCodeFlowControl)
	}
	end := flags&http2.FlagDataEndStream != 0
	padding := size - int64(len(p))
	w.credit(padding)
	s := w.stream(id)
	if s == nil || s.half(w).heard { // over: what was on its way falls
		w.credit(int64(len(p)))
		return nil
	}
	l := s.half(w)
	if padding > 0 && !end {
		w.back().sendWindow(id, padding)
	}
	l.heard = end
	l.put(item{what: data, b: p, end: end})
	return nil
}

// credit gives the sender n bytes of the connection's window back.
func (w *way) credit(n int64) {
	w.owed += n
	if w.owed >= grant/4 {
		w.back().sendWindow(0, w.owed)
		w.window += w.owed
		w.owed = 0
	}
}

// headers begins a head.
func (w *way) headers(flags http2.Flags, id uint32, p []byte) error {
	p, ok := unpadded(flags, p)
	b := &w.block
	if id == 0 || !ok {
		return h2Error(http2.ErrCodeProtocol)
	}
	b.id, b.end, b.fragments, b.size, b.priority = id, flags&http2.FlagHeadersEndStream != 0, 0, 0, priority{}
	b.fields = b.fields[:0]
	if flags&http2.FlagHeadersPriority != 0 {
		if len(p) < prioritySize {
			return h2Error(http2.ErrCodeFrameSize)
		}
		b.priority = priority{true, binary.BigEndian.Uint32(p), p[4]}
		p = p[prioritySize:]
	}
	return w.fragment(flags, p)
}

// field takes one field of a head.
func (b *block) field(f hpack.HeaderField) {
	if b.size += int(f.Size()); b.size <= framing.MaxHead {
		b.fields = append(b.fields, f)
	}
}

// fragment is part of a head, or its end.
func (w *way) fragment(flags http2.Flags, p []byte) error {
	b := &w.block
	if _, err := w.dec.Write(p); err != nil {
		return h2Error(http2.ErrCodeCompression)
	}
	if b.fragments++; b.fragments > fragmentsMost || b.size > framing.MaxHead {
		return h2Error(http2.ErrCodeEnhanceYourCalm)
	}
	if flags&http2.FlagHeadersEndHeaders == 0 {
		return nil
	}
	if err := w.dec.Close(); err != nil {
		return h2Error(http2.ErrCodeCompression)
	}
	id := b.id
	b.id = 0
	err := w.head(id)
	if cap(b.fields) > 256 {
		b.fields = nil
	}
	return err
}

// head is a head that was received whole: of a call, of its answer, or trailers.
func (w *way) head(id uint32) error {
	b := &w.block
	s := w.stream(id)
	switch {
	case s != nil:
		l := s.half(w)
		if l.heard {
			return nil // nothing may come behind the end
		}
		it := item{what: head, fields: b.fields, end: b.end, priority: b.priority}
		if w.isDown() {
			it.what = s.answered(b.fields, b.end)
		} else {
			it.what = trailer
		}
		l.heard = b.end
		l.put(it)
	case w.isDown() || id <= w.h.newest: // over
	case id&1 == 0:
		return h2Error(http2.ErrCodeProtocol)
	default:
		w.h.newest = id
		w.h.begin(id, b)
	}
	return nil
}

// settings takes over what the sender says about itself, and passes it on.
func (w *way) settings(flags http2.Flags, id uint32, p []byte) error {
	o := w.back()
	switch {
	case id != 0:
		return h2Error(http2.ErrCodeProtocol)
	case flags&http2.FlagSettingsAck != 0:
		if len(p) != 0 {
			return h2Error(http2.ErrCodeFrameSize)
		}
		w.pass(http2.FrameSettings, flags, 0, nil)
		return nil
	case len(p)%settingSize != 0:
		return h2Error(http2.ErrCodeFrameSize)
	}
	first := !w.open
	later := []byte(nil)
	if first && w.isDown() { // goes before all that the proxy had to say meanwhile
		later, w.out = w.out, nil
	}
	from := len(w.out)
	w.out = append(appendFrame(w.out, len(p), http2.FrameSettings, 0, 0), p...)
	push := false
	for at := from + frameHead; at < len(w.out); at += settingSize {
		value := binary.BigEndian.Uint32(w.out[at+2:])
		switch http2.SettingID(binary.BigEndian.Uint16(w.out[at:])) {
		case http2.SettingHeaderTableSize:
			o.enc.SetMaxDynamicTableSizeLimit(min(value, ownTable))
			value = min(value, tableMost)
		case http2.SettingEnablePush:
			push, value = true, 0
		case http2.SettingInitialWindowSize:
			if value > maxStream {
				w.out = w.out[:from]
				return h2Error(http2.ErrCodeFlowControl)
			}
			o.resize(int64(value))
		case http2.SettingMaxFrameSize:
			if value < ownFrame || value > 1<<24-1 {
				w.out = w.out[:from]
				return h2Error(http2.ErrCodeProtocol)
			}
			o.frame = int(value)
			value = min(value, frameMost)
			o.most = max(o.most, int(value))
		}
		binary.BigEndian.PutUint32(w.out[at+2:], value)
	}
	if !first {
		return nil
	}
	w.open = true
	if !w.isDown() && !push {
		n := len(w.out) - from - frameHead + settingSize
		w.out[from], w.out[from+1], w.out[from+2] = byte(n>>16), byte(n>>8), byte(n)
		w.out = append(w.out, 0, byte(http2.SettingEnablePush), 0, 0, 0, 0)
	}
	// To the receiver, which is the sender on the way back.
	w.sendWindow(0, grant-ownWindow)
	o.window += grant - ownWindow
	w.out = append(w.out, later...)
	return nil
}

// resize changes the windows of the receiver's streams.
func (w *way) resize(initial int64) {
	by := initial - w.initial
	w.initial = initial
	for _, s := range w.h.streams {
		l := s.half(w)
		l.window += by
	}
	if by > 0 {
		w.h.runAll()
	}
}

// windowUpdate is room at the sender of it for what comes the other way.
func (w *way) windowUpdate(id uint32, p []byte) error {
	if len(p) != windowUpdateLen {
		return h2Error(http2.ErrCodeFrameSize)
	}
	n := int64(streamID(p))
	o := w.back()
	if id == 0 {
		if o.room += n; n == 0 || o.room > int64(maxStream) {
			return h2Error(http2.ErrCodeFlowControl)
		}
		o.feed(o.f.c.p.now())
		return nil
	}
	s := w.stream(id)
	if s == nil {
		return nil
	}
	l := s.half(o)
	l.window += n
	switch to := s.numberTo(w); {
	case l.heard || l.drop || s.silent != nil: // who sent all needs no more room
	case to == 0:
		s.more += n
	default:
		w.sendWindow(to, n)
	}
	l.run(o.f.c.p.now())
	return nil
}

// goAway: the sender takes no more streams, or is about to.
func (w *way) goAway(id uint32, p []byte) error {
	h := w.h
	if len(p) < 8 || id != 0 {
		return h2Error(http2.ErrCodeProtocol)
	}
	if !w.isDown() { // is about pushes
		w.pass(http2.FrameGoAway, 0, 0, p)
		return nil
	}
	last := streamID(p)
	told := last
	if last != maxStream {
		h.last, told = min(h.last, last), h.newest
		// What the caller could not know by number is said of each.
		for _, s := range h.streams {
			if s.up > h.last {
				s.refuse()
			}
		}
	}
	w.out = binary.BigEndian.AppendUint32(appendFrame(w.out, len(p), http2.FrameGoAway, 0, 0), told)
	w.out = append(w.out, p[4:]...)
	return nil
}

// giveUp passes bytes on as they are: the upstream does not speak HTTP/2.
func (h *h2) giveUp() {
	h.opaque = true
	if !h.c.opaque {
		h.c.opaque = true
		h.c.p.stats.passedOpaque()
	}
	h.end(wasOpaque)
	h.down().out, h.down().open = nil, true
}

// fail ends the conn in order, and tells both sides why: what comes cannot be
// understood, and cannot be passed on either, since heads were written anew. c.mu
// is held.
func (h *h2) fail(w *way, err error) {
	c := h.c
	var wrong h2Error
	if !errors.As(err, &wrong) || c.over || c.ending {
		return
	}
	if !c.opaque {
		c.opaque = true
		c.p.stats.passedOpaque()
	}
	h.end(wasOpaque)
	for i := range h.ways {
		o := &h.ways[i]
		last := uint32(0)
		if o.isDown() {
			last = h.newest
		}
		if o.open || !o.isDown() {
			o.out = appendFrame(o.out, 8, http2.FrameGoAway, 0, 0)
			o.out = binary.BigEndian.AppendUint32(o.out, last)
			o.out = binary.BigEndian.AppendUint32(o.out, uint32(wrong))
		}
	}
	c.close()
}

// waiting is how many bytes wait to be written.
func (w *way) waiting() int { return len(w.out) + len(w.rest) + w.onItsWay }

// wake has the writer look again.
func (w *way) wake() {
	w.f.rev.Add(1)
	select {
	case w.f.wake <- struct{}{}:
	default:
	}
}

// ready tells whether there is something to be written, and nobody does.
func (w *way) ready() bool {
	return !w.writing && !w.broken && w.to != nil && w.sendable() && len(w.out)+len(w.rest) > 0
}

// sendable tells whether the receiver may be written to: the caller is to hear the
// upstream's SETTINGS first.
func (w *way) sendable() bool { return !w.isDown() || w.open }

// flush writes what waits, as far as the sockets take it at once; the rest is left
// to the writers. c.mu is held, but while it writes.
func (h *h2) flush() {
	for i := range h.ways {
		w := &h.ways[i]
		for w.ready() {
			if w.to.raw == nil || len(w.rest) > 0 {
				w.wake()
				break
			}
			p := w.grab()
			h.c.mu.Unlock()
			w.f.vec = append(w.f.vec[:0], p) // its own while writing
			w.gave, w.gaveErr = 0, nil       // where the socket is closed, nobody is asked
			err := w.to.raw.Write(w.some)
			n := w.gave
			if err == nil && w.gaveErr != nil && w.gaveErr != unix.EAGAIN {
				err = w.gaveErr
			}
			h.c.mu.Lock()
			w.wrote(p, n, err)
		}
	}
}

// kick has the writers write what waits. c.mu is held.
func (h *h2) kick() {
	for i := range h.ways {
		if w := &h.ways[i]; w.ready() {
			w.wake()
		}
	}
}

// giveSome is called with the receiver's file descriptor, once.
func (w *way) giveSome(fd uintptr) bool {
	n, err := ignoringEINTR(func() (int, error) { return unix.Write(int(fd), w.f.vec[0]) })
	w.gave, w.gaveErr = max(n, 0), err
	return true
}

// grab takes what waits, to be written by whoever called.
func (w *way) grab() []byte {
	p := w.rest
	if len(p) == 0 {
		w.whole, p = w.out, w.out
		w.out, w.empty = w.empty[:0], nil
	}
	w.rest = nil
	w.writing, w.onItsWay = true, len(p)
	return p
}

// wrote is the end of that.
func (w *way) wrote(p []byte, n int, err error) {
	w.writing, w.onItsWay = false, 0
	stats := &w.f.c.p.stats
	if w.isDown() {
		stats.bytesDown.Add(int64(n))
	} else {
		stats.bytesUp.Add(int64(n))
	}
	if w.rest = p[n:]; len(w.rest) == 0 {
		w.rest = nil
		if cap(w.whole) <= 2*outMost {
			w.empty = w.whole[:0]
		}
		w.whole = nil
	}
	switch {
	case err != nil:
		w.broken, w.rest, w.whole, w.out = true, nil, nil, nil
		if w.failed == nil {
			w.failed = &sideError{writing: true, err: err}
		}
		w.wake()
	case len(w.rest) > 0:
		w.wake()
	default:
		w.feed(w.f.c.p.now())
		if w.ended || w.h.c.ending { // its writer may have waited for this
			w.wake()
		}
	}
	w.h.drained.Broadcast()
}

// serve is the writer, until the way has ended: with io.EOF when all that was sent
// has been passed on.
func (w *way) serve() error {
	f, c, h := w.f, w.f.c, w.h
	for {
		f.seen = f.rev.Load()
		c.mu.Lock()
		now := c.p.now()
		for !c.over && !c.ending && len(w.due) > 0 && w.due[0].at <= now {
			w.due[0].run(now)
		}
		w.feed(now)
		if o := w.back(); o.ready() {
			o.wake()
		}
		if !c.over && w.ready() {
			p := w.grab()
			if c.ending {
				w.to.SetWriteDeadline(c.p.start.Add(c.endBy))
			}
			c.mu.Unlock()
			n, err := w.to.Write(p)
			c.mu.Lock()
			w.wrote(p, n, err)
			c.mu.Unlock()
			continue
		}
		over, ending, failed := c.over, c.ending, w.failed
		done := w.ended && (w.broken || w.queued == 0 && w.waiting() == 0) || h.opaque && w.ended && w.waiting() == 0
		if w.broken && !w.isDown() && failed != nil {
			w.failed = nil // once: below
		}
		until := forever
		if len(w.due) > 0 {
			until = w.due[0].at
		}
		idle := !w.writing && (w.broken || w.waiting() == 0 || !w.sendable())
		c.mu.Unlock()

		var side *sideError
		switch errors.As(failed, &side); {
		case over:
			return errOver
		case ending && idle:
			return errEnding
		case ending:
		case side != nil && side.writing && !w.isDown():
			// The upstream takes nothing any more; see conn.run.
			if c.upFailed() {
				c.end(wasReset, true)
				return errOver
			}
			c.mu.Lock()
			h.upIsGone()
			h.kick()
			c.mu.Unlock()
			continue
		case side != nil && side.writing == w.isDown():
			c.end(wasCanceled, true) // the caller's side failed
			return errOver
		case side != nil:
			c.end(wasReset, true)
			return errOver
		case done:
			return io.EOF
		}
		if err := f.wait(until); err != nil && !errors.Is(err, errNudged) {
			return err
		}
	}
}

// feed lets the halves go on that wait for room, as far as there is some.
func (w *way) feed(now time.Duration) {
	if w.h.c.over || w.h.c.ending {
		return
	}
	for n := len(w.starved); n > 0 && w.room > 0 && w.waiting() < outMost; n-- {
		l := w.starved[0]
		w.starved = w.starved[:copy(w.starved, w.starved[1:])]
		l.starves = false
		l.run(now)
	}
}
