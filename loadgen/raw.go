package loadgen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Reply says where the answer of a TCP server ends: one of the three.
//
//	reply: { until: "\n" }     with these bytes, which belong to it
//	reply: { bytes: 4 }        after so many
//	reply: close               when the server closes the connection
type Reply struct {
	Until string `yaml:"until" json:"until,omitempty"` // with \n, \r, \t, \0, \\ and \xff
	Bytes int    `yaml:"bytes" json:"bytes,omitempty"`
	Close bool   `yaml:"-" json:"close,omitempty"`
}

// ParseShort reads "close".
func (r *Reply) ParseShort(text string) error {
	if strings.TrimSpace(text) != "close" {
		return fmt.Errorf(`%q does not say where a reply ends: write { until: "\n" }, { bytes: 4 } or close`, text)
	}
	*r = Reply{Close: true}
	return nil
}

// What is waited for.
const (
	mostUntil = 1 << 10
	mostBytes = 1 << 30
)

func (r Reply) check(path string, report func(path, format string, args ...any)) {
	given := 0
	for _, set := range []bool{r.Until != "", r.Bytes != 0, r.Close} {
		if set {
			given++
		}
	}
	if given != 1 {
		report(path, `a reply ends in one way: write { until: "\n" }, { bytes: 4 } or close`)
		return
	}
	if r.Bytes < 0 || r.Bytes > mostBytes {
		report(path+".bytes", "bytes is %d; it must be from 1 to %d", r.Bytes, mostBytes)
	}
	if text, err := unescape(r.Until); err != nil {
		report(path+".until", "%v", err)
	} else if len(text) > mostUntil {
		report(path+".until", "%d bytes to wait for; at most %d", len(text), mostUntil)
	}
}

// unescape reads \n, \r, \t, \0, \\ and \xff in a text, but not within {{…}}.
func unescape(text string) (string, error) {
	if !strings.Contains(text, `\`) {
		return text, nil
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if strings.HasPrefix(text[i:], "{{") {
			end := strings.Index(text[i:], "}}")
			if end < 0 {
				end = len(text) - i - 2
			}
			out.WriteString(text[i : i+end+2])
			i += end + 1
			continue
		}
		if text[i] != '\\' {
			out.WriteByte(text[i])
			continue
		}
		i++
		plain := map[string]byte{"n": '\n', "r": '\r', "t": '\t', "0": 0, `\`: '\\'}
		switch {
		case i == len(text):
			return "", errors.New(`the text ends in a single \: write \\`)
		case text[i] == 'x' && i+2 < len(text):
			b, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
			if err != nil {
				return "", fmt.Errorf(`\%s is no byte: write two hex digits, like \x0a`, text[i:i+3])
			}
			out.WriteByte(byte(b))
			i += 2
		default:
			b, ok := plain[text[i:i+1]]
			if !ok {
				return "", fmt.Errorf(`\%c means nothing: there are \n, \r, \t, \0, \\ and \x0a`, text[i])
			}
			out.WriteByte(b)
		}
	}
	return out.String(), nil
}

// tcpDialect sends the bytes of a body and takes what comes back.
type tcpDialect struct {
	until  []byte
	bytes  int // 0: as until says; both empty: until the end
	out    []byte
	buffer []byte
	tail   []byte // the end of what came, where until may have begun
}

func newTCPDialect(r Reply) *tcpDialect {
	until, _ := unescape(r.Until) // was checked
	return &tcpDialect{until: []byte(until), bytes: r.Bytes, buffer: make([]byte, 16<<10)}
}

func (d *tcpDialect) open(*link, *trip) error { return nil }

func (d *tcpDialect) idle(l *link) bool { return !l.spent() }

func (d *tcpDialect) bye(*link) {}

func (d *tcpDialect) exchange(l *link, t *trip) (keep bool, err error) {
	content := t.draw(forContent)
	if d.out, err = t.kind.body.append(d.out[:0], &content); err != nil {
		return true, fmt.Errorf("rendering the body: %w", err)
	}
	if _, err := l.Write(d.out); err != nil {
		return false, err
	}
	d.tail = d.tail[:0]
	for got := 0; ; {
		n, err := l.Read(d.buffer)
		p := d.buffer[:n]
		got += n
		size, done := d.ends(p, got)
		t.reply.addBody(p[:size])
		switch {
		case done && size < n:
			return false, wrong("%d bytes more than the reply: %.40q", n-size, p[size:])
		case done:
			return err == nil, nil
		case err == nil:
		case errors.Is(err, io.EOF) && d.bytes == 0 && len(d.until) == 0 && got > 0:
			return false, nil
		case errors.Is(err, io.EOF):
			return false, endedAt(err, got > 0)
		default:
			return false, err
		}
	}
}

// ends tells how much of p, after which so many bytes have come in all, belongs to
// the reply, and whether that is its end.
func (d *tcpDialect) ends(p []byte, got int) (size int, done bool) {
	switch {
	case d.bytes > 0:
		return min(len(p), d.bytes-(got-len(p))), got >= d.bytes
	case len(d.until) == 0:
		return len(p), false
	}
	kept := len(d.tail)
	d.tail = append(d.tail, p...)
	if i := bytes.Index(d.tail, d.until); i >= 0 {
		return i + len(d.until) - kept, true
	}
	if most := len(d.until) - 1; len(d.tail) > most {
		d.tail = append(d.tail[:0], d.tail[len(d.tail)-most:]...)
	}
	return len(p), false
}

// mostDatagram is what UDP over IPv4 carries.
const mostDatagram = 65507

// udpDialect sends a datagram and takes the next one that comes from the same
// address as its answer. One that was lost, or came too late, is a timeout.
//
// An answer to an earlier request must not pass for one to this: after a timeout
// the socket is given up, and with it the port that a late answer would come to;
// what lies in the socket before a request is sent is thrown away. What is left
// is an answer sent twice, of which the second arrives after the next request
// went out: only the content can tell, so let a check look for {{seq}}.
type udpDialect struct {
	out, buffer []byte
}

func newUDPDialect() *udpDialect { return &udpDialect{buffer: make([]byte, 1<<16)} }

func (d *udpDialect) open(*link, *trip) error { return nil }

func (d *udpDialect) bye(*link) {}

func (d *udpDialect) idle(l *link) bool {
	for l.spent() { // something is there: a datagram, or an error
		if _, err := l.Conn.Read(d.buffer); err != nil {
			return false
		}
	}
	return true
}

func (d *udpDialect) exchange(l *link, t *trip) (keep bool, err error) {
	content := t.draw(forContent)
	if d.out, err = t.kind.body.append(d.out[:0], &content); err != nil {
		return true, fmt.Errorf("rendering the body: %w", err)
	}
	if len(d.out) > mostDatagram {
		return true, fmt.Errorf("the datagram has %d bytes; at most %d can be sent", len(d.out), mostDatagram)
	}
	if l.used.IsZero() || time.Since(l.used) <= longIdle {
		if !d.idle(l) { // attempt looks only after longIdle
			return false, errStale
		}
	}
	if _, err := l.Write(d.out); err != nil {
		return false, err
	}
	n, err := l.Read(d.buffer)
	if err != nil {
		return false, err
	}
	t.reply.addBody(d.buffer[:n])
	return true, nil
}

// errStale is a kept socket that an earlier request left an error in.
var errStale = fmt.Errorf("the socket is of no more use: %w", io.ErrClosedPipe)
