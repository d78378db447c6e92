//go:build http3

package loadgen

import (
	"fmt"
	"syscall"

	"github.com/quic-go/quic-go/quicvarint"
)

// h3answer takes an answer of HTTP/3 in pieces of any size, as they come on the
// stream of its request, and keeps nothing of it itself but what decides about it
// (RFC 9114, 4.1 and 7):
//
//	HEADERS (1xx) ... HEADERS  DATA ...  HEADERS (trailers)  end of the stream
//
// with frames of unknown types anywhere, which are passed over. A frame is its type,
// its length, both variable-length integers, and so many bytes.
type h3answer struct {
	head   bool   // the request is a HEAD: no body whatever the header says
	into   *reply // what is kept of the answer, if anything
	fields h3fields

	status  int
	length  int64 // of Content-Length; -1 without
	bytes   int   // of the body
	interim int   // 1xx answers so far
	inBody  bool
	ended   bool // by its trailers

	partial [16]byte // of type and length
	has     int
	kind    uint64
	left    uint64 // of the frame
	inFrame bool
	section []byte // of a HEADERS frame that has not arrived whole
}

// Frame types and error codes (RFC 9114, 7.2 and 8.1; RFC 9204, 6).
const (
	h3Data        = 0x00
	h3Headers     = 0x01
	h3CancelPush  = 0x03
	h3Settings    = 0x04
	h3PushPromise = 0x05
	h3GoAway      = 0x07
	h3MaxPushID   = 0x0d

	h3NoError                = 0x100
	h3StreamCreationError    = 0x103
	h3ClosedCriticalStream   = 0x104
	h3FrameUnexpected        = 0x105
	h3FrameError             = 0x106
	h3ExcessiveLoad          = 0x107
	h3IDError                = 0x108
	h3SettingsError          = 0x109
	h3MissingSettings        = 0x10a
	h3RequestRejected        = 0x10b
	h3RequestCancelled       = 0x10c
	h3MessageError           = 0x10e
	qpackDecompressionFailed = 0x200
)

var h3Codes = map[uint64]string{
	0x100: "H3_NO_ERROR", 0x101: "H3_GENERAL_PROTOCOL_ERROR", 0x102: "H3_INTERNAL_ERROR", 0x103: "H3_STREAM_CREATION_ERROR",
	0x104: "H3_CLOSED_CRITICAL_STREAM", 0x105: "H3_FRAME_UNEXPECTED", 0x106: "H3_FRAME_ERROR", 0x107: "H3_EXCESSIVE_LOAD",
	0x108: "H3_ID_ERROR", 0x109: "H3_SETTINGS_ERROR", 0x10a: "H3_MISSING_SETTINGS", 0x10b: "H3_REQUEST_REJECTED",
	0x10c: "H3_REQUEST_CANCELLED", 0x10d: "H3_REQUEST_INCOMPLETE", 0x10e: "H3_MESSAGE_ERROR", 0x10f: "H3_CONNECT_ERROR",
	0x110: "H3_VERSION_FALLBACK", 0x200: "QPACK_DECOMPRESSION_FAILED", 0x201: "QPACK_ENCODER_STREAM_ERROR", 0x202: "QPACK_DECODER_STREAM_ERROR",
}

// h3violation is what a server must not say in HTTP/3, and the code that it is told so with.
type h3violation struct {
	code uint64
	text string
}

func (v *h3violation) Error() string        { return "not an HTTP/3 answer: " + v.text }
func (v *h3violation) Is(target error) bool { return target == errProtocol }

// whole tells whether it is the end of the connection, not only of the request.
func (v *h3violation) whole() bool { return v.code != h3MessageError }

func violatedH3(code uint64, format string, args ...any) *h3violation {
	return &h3violation{code, fmt.Sprintf(format, args...)}
}

// h3codeError is a code with which the server ended a stream, or the connection.
type h3codeError struct {
	what   string
	code   uint64
	reason string // in its words, if it gave one
}

func (e *h3codeError) Error() string {
	name, ok := h3Codes[e.code]
	if !ok {
		name = fmt.Sprintf("error code %#x", e.code)
	}
	if e.reason != "" {
		name += fmt.Sprintf(" (%.100q)", e.reason)
	}
	return e.what + ": " + name
}

// Is tells what a server holds against us from what it cannot do now.
func (e *h3codeError) Is(target error) bool {
	switch e.code {
	case 0x101, 0x103, 0x104, 0x105, 0x106, 0x108, 0x109, 0x10a, 0x10d, 0x10e, 0x110, 0x200, 0x201, 0x202:
		return target == errProtocol
	}
	return target == syscall.ECONNRESET
}

// reset makes a ready for the answer to a new request; nothing is kept of it unless
// into is set afterwards.
func (a *h3answer) reset(head bool) {
	*a = h3answer{head: head, fields: a.fields, length: -1, section: a.section[:0]}
}

// feed takes the next bytes.
func (a *h3answer) feed(p []byte) *h3violation {
	for len(p) > 0 {
		if !a.inFrame {
			n, bad := a.begin(p)
			if bad != nil {
				return bad
			}
			p = p[n:]
			if a.inFrame && a.left == 0 {
				if bad := a.endFrame(nil); bad != nil {
					return bad
				}
			}
			continue
		}
		n := int(min(a.left, uint64(len(p))))
		a.left -= uint64(n)
		if bad := a.take(p[:n]); bad != nil {
			return bad
		}
		p = p[n:]
	}
	return nil
}

// begin takes bytes of a frame's type and length, until both are known.
func (a *h3answer) begin(p []byte) (n int, bad *h3violation) {
	for _, b := range p {
		a.partial[a.has] = b
		a.has++
		n++
		kind, used, err := quicvarint.Parse(a.partial[:a.has])
		if err != nil {
			continue
		}
		length, _, err := quicvarint.Parse(a.partial[used:a.has])
		if err != nil {
			continue
		}
		a.kind, a.left, a.has, a.inFrame = kind, length, 0, true
		return n, a.allowed()
	}
	return n, nil
}

// allowed tells what is wrong with a frame here, if anything.
func (a *h3answer) allowed() *h3violation {
	switch a.kind {
	case h3Data:
		switch {
		case !a.inBody:
			return violatedH3(h3FrameUnexpected, "DATA before the header")
		case a.ended:
			return violatedH3(h3FrameUnexpected, "DATA after the trailers")
		case a.head && a.left > 0:
			return violatedH3(h3MessageError, "an answer to HEAD with a body")
		case a.length >= 0 && a.left > uint64(a.length)-uint64(a.bytes):
			return violatedH3(h3MessageError, "more DATA than Content-Length: %d", a.length)
		}
	case h3Headers:
		switch {
		case a.ended:
			return violatedH3(h3FrameUnexpected, "a header after the trailers")
		case a.left > maxFields:
			return violatedH3(h3ExcessiveLoad, "more than %d bytes of header", maxFields)
		}
		a.section = a.section[:0]
	case h3PushPromise:
		return violatedH3(h3IDError, "PUSH_PROMISE, though pushing was not allowed")
	case h3CancelPush, h3Settings, h3GoAway, h3MaxPushID, 0x02, 0x06, 0x08, 0x09:
		return violatedH3(h3FrameUnexpected, "frame type %#x on the stream of a request", a.kind)
	}
	return nil
}

// take takes bytes of the frame's content.
func (a *h3answer) take(p []byte) *h3violation {
	switch a.kind {
	case h3Data:
		a.bytes += len(p)
		if a.into != nil {
			a.into.addBody(p)
		}
	case h3Headers:
		if a.left > 0 || len(a.section) > 0 {
			a.section = append(a.section, p...)
			p = a.section
		}
	}
	if a.left > 0 {
		return nil
	}
	return a.endFrame(p)
}

// endFrame takes a frame that is complete; section is its content, if it is HEADERS.
func (a *h3answer) endFrame(section []byte) *h3violation {
	a.inFrame = false
	if a.kind != h3Headers {
		return nil
	}
	h, bad := a.fields.decode(section)
	if bad != nil {
		return bad
	}
	switch {
	case h.problem != "":
		return violatedH3(h3MessageError, "%s", h.problem)
	case a.inBody && h.status != 0:
		return violatedH3(h3MessageError, "a status in the trailers")
	case a.inBody:
		a.ended = true
	case h.status == 0:
		return violatedH3(h3MessageError, "an answer without a status")
	case h.status == 101:
		return violatedH3(h3MessageError, "status 101")
	case h.status < 200:
		if a.interim++; a.interim > maxInterim {
			return violatedH3(h3MessageError, "more than %d interim answers", maxInterim)
		}
	default:
		a.status, a.length, a.inBody = h.status, h.length, true
		if h.status == 204 || h.status == 304 || a.head {
			a.length = -1
		}
		h.keep(a.into)
	}
	return nil
}

// end says that the stream has ended; nil if the answer is complete.
func (a *h3answer) end() *h3violation {
	switch {
	case a.inFrame || a.has > 0:
		return violatedH3(h3FrameError, "the stream ends in the middle of a frame")
	case !a.inBody:
		return violatedH3(h3MessageError, "the stream ends without an answer")
	case a.length >= 0 && int64(a.bytes) < a.length:
		return violatedH3(h3MessageError, "Content-Length is %d, and the body has %d bytes", a.length, a.bytes)
	}
	return nil
}
