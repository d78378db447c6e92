package loadgen

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	randv2 "math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// websocketDialect is RFC 6455: a connection is opened with an HTTP/1.1 upgrade,
// with path, headers and auth of the request that it is made for; then each request
// is one message out and the next message that comes back.
//
//	 0               1               2 …
//	|F|RSV|opcode |M| length        | 2 or 8 bytes of length if it is 126, 127 |
//	| 4 bytes of mask (what we send is masked, what we are sent is not)        |
//	| payload                                                                  |
//
// Pings are answered, also those that lie there when the next request is sent; a
// message that came when nobody had asked is thrown away then. No extension is
// offered, so that messages come as they are.
type websocketDialect struct {
	binary bool
	out    []byte
	body   []byte
	text   []byte // the message that comes
}

// Opcodes.
const (
	wsContinued = 0x0
	wsText      = 0x1
	wsBinary    = 0x2
	wsClose     = 0x8
	wsPing      = 0x9
	wsPong      = 0xa
)

// mostMessage bounds a message that comes, in bytes.
const mostMessage = 16 << 20

// websocketGUID makes the answer to a key (RFC 6455, 1.3).
const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

func websocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + websocketGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (w *websocketDialect) open(l *link, t *trip) error {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	content, trace := t.draw(forContent), t.draw(forTrace)
	k := *t.kind
	k.method, k.body, k.payload = "GET", new(tmpl), false
	var err error
	if w.out, w.body, err = k.append(w.out[:0], w.body, l.host, "", &content, &trace); err != nil {
		return err
	}
	w.out = append(bytes.TrimSuffix(w.out, []byte("\r\n")),
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+key+"\r\n\r\n"...)
	if _, err := l.Write(w.out); err != nil {
		return err
	}
	asked, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(w.out)))
	if err != nil {
		return fmt.Errorf("the request for an upgrade: %w", err)
	}
	before := l.read.Load()
	answer, err := http.ReadResponse(l.in, asked)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return endedAt(err, l.read.Load() > before)
	case err != nil && isTransport(err):
		return err
	case err != nil:
		return wrong("%v", err)
	case answer.StatusCode != http.StatusSwitchingProtocols:
		return &replyError{code: fmt.Sprint(answer.StatusCode), text: fmt.Sprintf("the upgrade to a WebSocket is answered %q", answer.Status)}
	case !hasToken(answer.Header, "Connection", "upgrade") || !hasToken(answer.Header, "Upgrade", "websocket"):
		return wrong("status 101 without Connection: Upgrade and Upgrade: websocket")
	case answer.Header.Get("Sec-WebSocket-Accept") != websocketAccept(key):
		return wrong("Sec-WebSocket-Accept is %.60q, which is not what the key asks for", answer.Header.Get("Sec-WebSocket-Accept"))
	case answer.Header.Get("Sec-WebSocket-Extensions") != "":
		return wrong("the server takes the extension %.60q, and none was offered", answer.Header.Get("Sec-WebSocket-Extensions"))
	}
	if chosen := answer.Header.Get("Sec-WebSocket-Protocol"); chosen != "" && !hasToken(asked.Header, "Sec-WebSocket-Protocol", chosen) {
		return wrong("the server takes the subprotocol %.60q, which was not offered", chosen)
	}
	return nil
}

// isTransport tells what went wrong with the connection from what is wrong with
// the answer.
func isTransport(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || classify(err, false) != other
}

// hasToken tells whether one of the values of a header, which are separated by
// commas, is the token.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for v := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(v), token) {
				return true
			}
		}
	}
	return false
}

// idle takes what came since the last answer.
func (w *websocketDialect) idle(l *link) bool {
	for l.in.Buffered() > 0 || spent(l.raw) {
		// What lies there may be bytes of TLS and no frame.
		_ = l.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		_, err := l.in.Peek(1)
		l.arm(l.deadline)
		if isTimeout(err) {
			return true
		}
		if err != nil {
			return false
		}
		if _, err := w.frame(l, nil); err != nil {
			return false
		}
	}
	return true
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func (w *websocketDialect) exchange(l *link, t *trip) (keep bool, err error) {
	d := t.draw(forContent)
	if w.body, err = t.kind.body.append(w.body[:0], &d); err != nil {
		return true, fmt.Errorf("rendering the message: %w", err)
	}
	opcode := byte(wsText)
	switch {
	case w.binary:
		opcode = wsBinary
	case !utf8.Valid(w.body):
		return true, errors.New("the message is not UTF-8: a text message is; write binary: true")
	}
	if err := w.send(l, opcode, w.body); err != nil {
		return false, err
	}
	m := &message{}
	for !m.whole {
		if _, err := w.frame(l, m); err != nil {
			return false, err
		}
	}
	if m.opcode == wsText && !utf8.Valid(m.text) {
		return false, wrong("a text message that is not UTF-8")
	}
	t.reply.addBody(m.text)
	return true, nil
}

// message is put together from frames.
type message struct {
	opcode byte
	begun  bool
	whole  bool
	text   []byte
}

// frame reads one frame. Pings are answered; data goes into m, and where nobody
// waits for a message (m is nil) it is thrown away.
func (w *websocketDialect) frame(l *link, m *message) (opcode byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(l.in, head[:2]); err != nil {
		return 0, endedAt(err, m != nil && m.begun)
	}
	final, length := head[0]&0x80 != 0, uint64(head[1]&0x7f)
	opcode = head[0] & 0x0f
	switch {
	case head[0]&0x70 != 0:
		return 0, wrong("a frame with reserved bits, and no extension was agreed on")
	case head[1]&0x80 != 0:
		return 0, wrong("a masked frame from a server")
	}
	switch length {
	case 126:
		_, err = io.ReadFull(l.in, head[:2])
		length = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		_, err = io.ReadFull(l.in, head[:8])
		length = binary.BigEndian.Uint64(head[:8])
	}
	if err != nil {
		return 0, endedAt(err, true)
	}
	if opcode >= wsClose {
		if !final || length > 125 {
			return 0, wrong("a control frame in pieces, or of %d bytes", length)
		}
		var payload [125]byte
		if _, err := io.ReadFull(l.in, payload[:length]); err != nil {
			return 0, endedAt(err, true)
		}
		return opcode, w.control(l, opcode, payload[:length])
	}
	if m == nil {
		if opcode > wsBinary {
			return 0, wrong("a frame with opcode %d", opcode)
		}
		if length > mostMessage {
			return 0, wrong("a message of more than %d MiB", mostMessage>>20)
		}
		_, err := io.CopyN(io.Discard, l.in, int64(length))
		return opcode, err
	}
	switch {
	case opcode > wsBinary:
		return 0, wrong("a frame with opcode %d", opcode)
	case opcode == wsContinued && !m.begun:
		// The rest of a message that nobody had asked for.
		_, err := io.CopyN(io.Discard, l.in, int64(min(length, mostMessage)))
		return opcode, err
	case opcode != wsContinued && m.begun:
		return 0, wrong("a message begins within a message")
	case uint64(len(m.text))+length > mostMessage:
		return 0, wrong("a message of more than %d MiB", mostMessage>>20)
	}
	if !m.begun {
		m.begun, m.opcode, m.text = true, opcode, w.text[:0]
	}
	at := len(m.text)
	m.text = slices.Grow(m.text, int(length))[:at+int(length)]
	if _, err := io.ReadFull(l.in, m.text[at:]); err != nil {
		return 0, endedAt(err, true)
	}
	w.text = m.text
	m.whole = final
	return opcode, nil
}

// control does what a control frame asks for.
func (w *websocketDialect) control(l *link, opcode byte, payload []byte) error {
	switch opcode {
	case wsPing:
		return w.send(l, wsPong, payload)
	case wsPong:
		return nil
	case wsClose:
		_ = w.send(l, wsClose, payload[:min(len(payload), 2)]) // as the closing handshake has it; the connection is over either way
		why := "without a reason"
		if len(payload) >= 2 {
			why = strings.TrimSpace(fmt.Sprintf("%d %s", binary.BigEndian.Uint16(payload), clip(string(payload[2:]))))
		}
		return fmt.Errorf("the server closes the WebSocket, %s: %w", why, io.EOF)
	}
	return wrong("a frame with opcode %d", opcode)
}

// send writes one frame, whole and masked.
func (w *websocketDialect) send(l *link, opcode byte, payload []byte) error {
	w.out = append(w.out[:0], 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		w.out = append(w.out, 0x80|byte(n))
	case n < 1<<16:
		w.out = binary.BigEndian.AppendUint16(append(w.out, 0x80|126), uint16(n))
	default:
		w.out = binary.BigEndian.AppendUint64(append(w.out, 0x80|127), uint64(n))
	}
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], randv2.Uint32())
	w.out = append(w.out, mask[:]...)
	at := len(w.out)
	w.out = append(w.out, payload...)
	for i := range payload {
		w.out[at+i] ^= mask[i&3]
	}
	_, err := l.Write(w.out)
	return err
}

// bye says that nobody asks any more (1000), and does not wait for the echo.
func (w *websocketDialect) bye(l *link) {
	_ = w.send(l, wsClose, []byte{0x03, 0xe8})
}
