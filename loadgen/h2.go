package loadgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// h2conn is the client's side of one HTTP/2 connection (RFC 9113) without its
// socket: of requests it makes bytes to be written, and it takes what was read, in
// pieces of any size.
//
//	open ──> out ──> (whoever writes) ──> server
//	ended <── feed <── (whoever reads) <──┘
//
// It is not for several goroutines at once. Times are of the caller's clock.
type h2conn struct {
	out   []byte          // to be written: who takes it says written
	ended func(*h2stream) // is told of every stream that is over, once

	live    h2live
	next    uint32 // the id of the next stream
	most    int    // streams at once, as the server says
	settled bool   // it has said so
	going   error  // why no more streams are to be opened here, if so

	// To send.
	window  int64       // what may be sent on the connection
	initial int64       // window of a new stream
	frame   int         // the largest frame that the server takes
	blocked []*h2stream // with some of their bodies unsent, in turn
	replies int         // bytes of out that answer settings and pings

	// To receive.
	now      time.Duration
	credit   int64  // what the server may send on the connection
	owed     int64  // of that, what came and was not given back
	partial  []byte // of a frame that has not arrived whole
	data     *h2stream
	left     int  // bytes of a DATA frame that is passed on as it arrives
	inData   bool // there is one; data is nil where its stream is over
	last     bool // it ends its stream
	block    []byte
	blockOf  uint32 // the stream whose header block goes on; 0: none
	blockEnd bool   // its END_STREAM
	pieces   int    // CONTINUATION frames of it
	fields   h2fields
}

// h2stream is one request and its answer. What is above the line is set by who
// opens it, and stays as it is until it has ended.
type h2stream struct {
	owner any
	head  bool        // the request is a HEAD: no body whatever the header says
	into  *reply      // what is kept of the answer, if anything
	grpc  *grpcAnswer // the answer is a message and a status (grpc.go)

	id      uint32
	body    []byte // what is left of it to send
	window  int64
	sent    int
	begun   time.Duration // when the answer did; 0: it has not
	done    time.Duration
	status  int
	length  int64 // of Content-Length; -1 without
	bytes   int   // of the answer's body
	read    int   // of its frames
	interim int   // 1xx answers so far
	inBody  bool
	credit  int64 // what the server may send of it
	err     error // why there is no complete answer; nil if there is
	unheard bool  // the server says that it has not acted on it
}

// Frame types, flags, settings and error codes (RFC 9113, 6 and 7).
const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	frameSettings     = 4
	framePush         = 5
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 1
	flagAck        = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 0x20

	settingPush       = 2
	settingMost       = 3
	settingWindow     = 4
	settingFrame      = 5
	settingHeaderList = 6

	codeNone   = 0
	codeCancel = 8
)

const (
	h2Preface  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHead  = 9
	ourFrame   = 16 << 10 // the largest we take: the default
	ourWindow  = 4 << 20  // of a stream; nobody holds its bytes back
	ourCredit  = 1 << 30  // of the connection
	mostWindow = 1<<31 - 1
	// Before the server has said how many streams it takes: one need not wait for it.
	presumedMost = 1
	maxReplies   = 64 << 10
	maxPieces    = 128
	maxOut       = 256 << 10 // of bodies that wait to be written
)

// violation is what a server must not say in HTTP/2.
type violation string

func (v violation) Error() string        { return "not an HTTP/2 answer: " + string(v) }
func (v violation) Is(target error) bool { return target == errProtocol }

func violated(format string, args ...any) error { return violation(fmt.Sprintf(format, args...)) }

// codeError is an error code with which the server ended a stream, or all.
type codeError struct {
	what string
	code uint32
}

var h2Codes = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func (e *codeError) Error() string {
	if int(e.code) < len(h2Codes) {
		return e.what + ": " + h2Codes[e.code]
	}
	return fmt.Sprintf("%s: error code %#x", e.what, e.code)
}

// Is tells what a server holds against us from what it cannot do now.
func (e *codeError) Is(target error) bool {
	switch e.code {
	case 1, 3, 6, 9, 12, 13:
		return target == errProtocol
	}
	return target == syscall.ECONNRESET
}

// newH2 is a connection that has just been made; its preface is the first to be
// written.
func newH2(ended func(*h2stream)) *h2conn {
	c := &h2conn{
		ended: ended, next: 1, most: presumedMost,
		window: 65535, initial: 65535, frame: 16 << 10, credit: ourCredit,
	}
	c.fields.init()
	c.out = append(c.out, h2Preface...)
	c.out = appendFrame(c.out, 18, frameSettings, 0, 0)
	for _, s := range [][2]uint32{{settingPush, 0}, {settingWindow, ourWindow}, {settingHeaderList, maxFields}} {
		c.out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(c.out, uint16(s[0])), s[1])
	}
	c.update(0, ourCredit-65535)
	return c
}

// opened is how many streams there have been.
func (c *h2conn) opened() int { return int(c.next / 2) }

func appendFrame(dst []byte, length int, kind, flags byte, id uint32) []byte {
	return append(dst, byte(length>>16), byte(length>>8), byte(length), kind, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func (c *h2conn) update(id uint32, n int64) {
	c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, 4, frameWindow, 0, id), uint32(n))
}

// open begins a stream with a header block and a body, which must stay as they
// are until it has ended.
func (c *h2conn) open(st *h2stream, block, body []byte) {
	*st = h2stream{
		owner: st.owner, head: st.head, into: st.into, grpc: st.grpc,
		id: c.next, body: body, window: c.initial, length: -1, credit: ourWindow,
	}
	if c.next += 2; c.next > mostWindow-2 {
		c.going = errors.New("the connection has had as many streams as there are numbers")
	}
	c.live.add(st)
	before := len(c.out)
	var flags byte
	if len(body) == 0 {
		flags = flagEndStream
	}
	for kind := byte(frameHeaders); ; kind, flags = frameContinuation, 0 {
		n := min(len(block), c.frame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		c.out = append(appendFrame(c.out, n, kind, flags, st.id), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			break
		}
	}
	st.sent += len(c.out) - before
	if len(body) > 0 {
		c.blocked = append(c.blocked, st)
		c.pump()
	}
}

// pump sends of bodies what the windows allow, a frame of each in turn.
func (c *h2conn) pump() {
	stuck := 0
	for stuck < len(c.blocked) && c.window > 0 && len(c.out) < maxOut {
		st := c.blocked[0]
		c.blocked = append(c.blocked[:0], c.blocked[1:]...)
		n := int(min(c.window, st.window, int64(c.frame), int64(len(st.body))))
		if n <= 0 {
			stuck++
			c.blocked = append(c.blocked, st)
			continue
		}
		stuck = 0
		var flags byte
		if n == len(st.body) {
			flags = flagEndStream
		}
		c.out = append(appendFrame(c.out, n, frameData, flags, st.id), st.body[:n]...)
		st.sent += frameHead + n
		c.window, st.window, st.body = c.window-int64(n), st.window-int64(n), st.body[n:]
		if len(st.body) > 0 {
			c.blocked = append(c.blocked, st)
		}
	}
}

// written says that what was in out has been taken; there may be more.
func (c *h2conn) written() {
	c.out, c.replies = c.out[:0], 0
	if len(c.blocked) > 0 {
		c.pump()
	}
}

// reset ends a stream from our side; ended is not told.
func (c *h2conn) reset(st *h2stream) {
	if c.live.get(st.id) != st {
		return
	}
	c.drop(st)
	c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, 4, frameReset, 0, st.id), codeCancel)
}

func (c *h2conn) drop(st *h2stream) {
	c.live.remove(st)
	if c.data == st {
		c.data = nil
	}
	if len(st.body) == 0 {
		return
	}
	st.body = nil
	for i, other := range c.blocked {
		if other == st {
			c.blocked = append(c.blocked[:i], c.blocked[i+1:]...)
			break
		}
	}
}

// finish ends a stream: complete, or for the reason that err is.
func (c *h2conn) finish(st *h2stream, err error) {
	if err == nil && len(st.body) > 0 {
		// The answer did not wait for the request: what is left of it is not wanted.
		c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, 4, frameReset, 0, st.id), codeNone)
	}
	c.drop(st)
	st.done, st.err = c.now, err
	c.ended(st)
}

// fail ends all streams.
func (c *h2conn) fail(err error, now time.Duration) {
	c.now = now
	if c.going == nil {
		c.going = err
	}
	for _, st := range c.live.all() {
		c.finish(st, err)
	}
}

// violate ends a stream whose answer is none, and tells the server so.
func (c *h2conn) violate(st *h2stream, err error) {
	const protocolError = 1
	c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, 4, frameReset, 0, st.id), protocolError)
	st.body = nil // finish need not say more
	for i, other := range c.blocked {
		if other == st {
			c.blocked = append(c.blocked[:i], c.blocked[i+1:]...)
			break
		}
	}
	c.finish(st, err)
}

// feed takes the next bytes. An error is the end of the connection.
func (c *h2conn) feed(p []byte, now time.Duration) error {
	c.now = now
	for len(p) > 0 {
		if c.inData {
			n := min(c.left, len(p))
			c.takeData(p[:n])
			c.left -= n
			p = p[n:]
			if c.left == 0 {
				c.endData()
			}
			continue
		}
		frame := p
		if len(c.partial) > 0 {
			n := 0
			if len(c.partial) < frameHead {
				n = min(frameHead-len(c.partial), len(p))
				c.partial = append(c.partial, p[:n]...)
				p = p[n:]
			}
			frame = c.partial
		}
		if len(frame) < frameHead {
			if len(c.partial) == 0 {
				c.partial = append(c.partial, p...)
				p = nil
			}
			continue
		}
		length := int(frame[0])<<16 | int(frame[1])<<8 | int(frame[2])
		kind, flags := frame[3], frame[4]
		if !c.settled && (kind != frameSettings || flags&flagAck != 0) {
			return violated("it begins with %.40q", frame)
		}
		if length > ourFrame {
			return violated("a frame of %d bytes; at most %d are allowed", length, ourFrame)
		}
		id := binary.BigEndian.Uint32(frame[5:]) & mostWindow
		if c.blockOf != 0 && (kind != frameContinuation || id != c.blockOf) {
			return violated("frame type %d inside a header block", kind)
		}
		if kind == frameData && flags&flagPadded == 0 {
			if len(c.partial) > 0 {
				c.partial = c.partial[:0]
			} else {
				p = p[frameHead:]
			}
			if err := c.beginData(id, length, flags&flagEndStream != 0); err != nil {
				return err
			}
			continue
		}
		if len(c.partial) > 0 {
			n := min(frameHead+length-len(c.partial), len(p))
			c.partial = append(c.partial, p[:n]...)
			p = p[n:]
			frame = c.partial
		} else if len(p) < frameHead+length {
			c.partial = append(c.partial, p...)
			return nil
		} else {
			frame = p[:frameHead+length]
			p = p[frameHead+length:]
		}
		if len(frame) < frameHead+length {
			return nil
		}
		err := c.take(kind, flags, id, frame[frameHead:])
		c.partial = c.partial[:0]
		if err != nil {
			return err
		}
	}
	return nil
}

// known finds the stream of a frame; nil where it is over.
func (c *h2conn) known(id uint32, what string) (*h2stream, error) {
	if id == 0 || id&1 == 0 || id >= c.next {
		return nil, violated("%s on stream %d, which nobody opened", what, id)
	}
	return c.live.get(id), nil
}

// beginData takes the head of a DATA frame; length is without padding.
func (c *h2conn) beginData(id uint32, length int, last bool) error {
	st, err := c.known(id, "DATA")
	if err != nil {
		return err
	}
	if c.credit -= int64(length); c.credit < 0 {
		return violated("more DATA than the connection's window")
	}
	c.owed += int64(length)
	if c.owed >= ourCredit/2 {
		c.update(0, c.owed)
		c.credit, c.owed = c.credit+c.owed, 0
	}
	if st != nil {
		st.read += frameHead + length
		st.credit -= int64(length)
		switch {
		case st.credit < 0:
			c.violate(st, violated("more DATA than the stream's window"))
			st = nil
		case !st.inBody:
			c.violate(st, violated("DATA before the header"))
			st = nil
		case st.head && length > 0:
			c.violate(st, violated("an answer to HEAD with a body"))
			st = nil
		case st.credit < ourWindow/2 && !last:
			c.update(id, ourWindow-st.credit)
			st.credit = ourWindow
		}
	}
	c.data, c.left, c.last, c.inData = st, length, last, true
	if length == 0 {
		c.endData()
	}
	return nil
}

func (c *h2conn) takeData(p []byte) {
	st := c.data
	if st == nil {
		return
	}
	st.bytes += len(p)
	if st.length >= 0 && int64(st.bytes) > st.length {
		c.violate(st, violated("more DATA than Content-Length: %d", st.length))
		return
	}
	if st.grpc != nil {
		if err := st.grpc.feed(p); err != nil {
			c.violate(st, err)
		}
	} else if st.into != nil {
		st.into.addBody(p)
	}
}

func (c *h2conn) endData() {
	st := c.data
	c.data, c.inData = nil, false
	if st != nil && c.last {
		c.complete(st)
	}
}

// complete ends a stream with its answer.
func (c *h2conn) complete(st *h2stream) {
	if st.length > 0 && int64(st.bytes) < st.length && !st.head && st.status != 304 {
		c.finish(st, violated("Content-Length is %d, and the body has %d bytes", st.length, st.bytes))
		return
	}
	if st.grpc != nil {
		c.finish(st, st.grpc.end(st.status))
		return
	}
	c.finish(st, nil)
}

// take takes a whole frame.
func (c *h2conn) take(kind, flags byte, id uint32, p []byte) error {
	switch kind {
	case frameData: // padded
		n := len(p)
		p, err := unpad(p)
		if err != nil {
			return err
		}
		// Padding counts for the windows.
		if err := c.beginData(id, n, flags&flagEndStream != 0); err != nil {
			return err
		}
		if n > 0 {
			c.takeData(p)
			c.endData()
		}
		return nil
	case frameHeaders:
		st, err := c.known(id, "HEADERS")
		if err == nil && flags&flagPadded != 0 {
			p, err = unpad(p)
		}
		if err != nil {
			return err
		}
		if flags&flagPriority != 0 {
			if len(p) < 5 {
				return violated("HEADERS too short for its priority")
			}
			p = p[5:]
		}
		if st != nil {
			st.read += frameHead + len(p)
		}
		c.blockEnd, c.pieces = flags&flagEndStream != 0, 0
		if flags&flagEndHeaders != 0 {
			return c.takeBlock(id, p)
		}
		c.blockOf, c.block = id, append(c.block[:0], p...)
		return nil
	case frameContinuation:
		if c.blockOf == 0 {
			return violated("CONTINUATION of nothing")
		}
		if st := c.live.get(id); st != nil {
			st.read += frameHead + len(p)
		}
		c.block = append(c.block, p...)
		if c.pieces++; len(c.block) > maxFields || c.pieces > maxPieces {
			return violated("a header that does not end: %d bytes in %d frames so far", len(c.block), c.pieces+1)
		}
		if flags&flagEndHeaders == 0 {
			return nil
		}
		c.blockOf = 0
		return c.takeBlock(id, c.block)
	case frameReset:
		st, err := c.known(id, "RST_STREAM")
		switch {
		case err != nil:
			return err
		case len(p) != 4:
			return violated("RST_STREAM of %d bytes", len(p))
		case st != nil:
			st.read += frameHead + len(p)
			c.finish(st, &codeError{"the server reset the stream", binary.BigEndian.Uint32(p)})
		}
		return nil
	case frameSettings:
		return c.takeSettings(flags, id, p)
	case framePing:
		if id != 0 || len(p) != 8 {
			return violated("PING of %d bytes on stream %d", len(p), id)
		}
		if flags&flagAck != 0 {
			return nil
		}
		c.out = append(appendFrame(c.out, 8, framePing, flagAck, 0), p...)
		return c.replied(frameHead + 8)
	case frameGoAway:
		if id != 0 || len(p) < 8 {
			return violated("GOAWAY of %d bytes on stream %d", len(p), id)
		}
		c.goAway(binary.BigEndian.Uint32(p)&mostWindow, binary.BigEndian.Uint32(p[4:]))
		return nil
	case frameWindow:
		return c.takeWindow(id, p)
	case framePush:
		return violated("PUSH_PROMISE, though pushing is switched off")
	}
	return nil // priorities, and what later standards add
}

func unpad(p []byte) ([]byte, error) {
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, violated("more padding than frame")
	}
	return p[1 : len(p)-int(p[0])], nil
}

// replied counts answers that the server wants: one who asks and does not read
// must not fill our memory.
func (c *h2conn) replied(n int) error {
	if c.replies += n; c.replies > maxReplies {
		return violated("%d bytes of answers to its settings and pings wait to be read", c.replies)
	}
	return nil
}

func (c *h2conn) takeSettings(flags byte, id uint32, p []byte) error {
	switch {
	case id != 0 || len(p)%6 != 0:
		return violated("SETTINGS of %d bytes on stream %d", len(p), id)
	case flags&flagAck != 0 && len(p) > 0:
		return violated("SETTINGS acknowledged with %d bytes", len(p))
	case flags&flagAck != 0:
		return nil
	}
	if !c.settled {
		c.most = mostWindow // unless it says otherwise
	}
	for ; len(p) > 0; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingMost:
			c.most = int(min(v, mostWindow))
		case settingWindow:
			if v > mostWindow {
				return violated("an initial window of %d", v)
			}
			for _, st := range c.live.all() {
				if st.window += int64(v) - c.initial; st.window > mostWindow {
					return violated("a window of %d", st.window)
				}
			}
			c.initial = int64(v)
		case settingFrame:
			if v < 16<<10 || v > 1<<24-1 {
				return violated("a frame size of %d", v)
			}
			c.frame = int(v)
		}
	}
	c.settled = true
	c.out = appendFrame(c.out, 0, frameSettings, flagAck, 0)
	c.pump()
	return c.replied(frameHead)
}

func (c *h2conn) takeWindow(id uint32, p []byte) error {
	if len(p) != 4 {
		return violated("WINDOW_UPDATE of %d bytes", len(p))
	}
	n := int64(binary.BigEndian.Uint32(p) & mostWindow)
	if id == 0 {
		if c.window += n; n == 0 || c.window > mostWindow {
			return violated("a connection's window of %d, after one more of %d", c.window, n)
		}
		c.pump()
		return nil
	}
	st, err := c.known(id, "WINDOW_UPDATE")
	if err != nil || st == nil {
		return err
	}
	st.read += frameHead + len(p)
	if st.window += n; n == 0 || st.window > mostWindow {
		c.violate(st, violated("a stream's window of %d, after one more of %d", st.window, n))
		return nil
	}
	c.pump()
	return nil
}

// goAway: the server takes no more streams, and none above last.
func (c *h2conn) goAway(last, code uint32) {
	why := &codeError{"the server ends the connection (GOAWAY)", code}
	c.going = why
	for _, st := range c.live.all() {
		if st.id > last {
			st.unheard = true
			c.finish(st, why)
		}
	}
}

// takeBlock takes a header block, of an answer or of its trailers.
func (c *h2conn) takeBlock(id uint32, block []byte) error {
	// The decoder must see it even if nobody waits for it any more.
	h, err := c.fields.decode(block)
	if err != nil {
		return err
	}
	st := c.live.get(id)
	if st == nil {
		return nil
	}
	if st.begun == 0 {
		st.begun = max(c.now, 1) // 0 says that it has not
	}
	switch {
	case h.problem != "":
		c.violate(st, violation(h.problem))
	case st.inBody && !c.blockEnd:
		c.violate(st, violated("a second header"))
	case st.inBody && h.status != 0:
		c.violate(st, violated("a status in the trailers"))
	case st.inBody:
		if st.grpc != nil {
			st.grpc.take(h)
			h.keep(st.into)
		}
		c.complete(st)
	case h.status == 0:
		c.violate(st, violated("an answer without a status"))
	case h.status == 101:
		c.violate(st, violated("status 101"))
	case h.status < 200 && c.blockEnd:
		c.violate(st, violated("it ends with status %d", h.status))
	case h.status < 200:
		if st.interim++; st.interim > maxInterim {
			c.violate(st, violated("more than %d interim answers", maxInterim))
		}
	default:
		st.status, st.length, st.inBody = h.status, h.length, true
		if h.status == 204 {
			st.length = -1
		}
		if st.grpc != nil {
			st.grpc.take(h)
		}
		h.keep(st.into)
		if c.blockEnd {
			c.complete(st)
		}
	}
	return nil
}
