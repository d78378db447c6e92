package loadgen

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// redisDialect is RESP2, the protocol of Redis and of what speaks like it: a
// command goes out as an array of texts, one reply comes back.
//
//	*2\r\n$3\r\nGET\r\n$5\r\nkey-1\r\n        →   $5\r\nvalue\r\n
//
//	+OK\r\n                a line               :1000\r\n     a number
//	-WRONGTYPE text\r\n    an error             *2\r\n…       so many replies
//	$5\r\nvalue\r\n        a text; $-1 is nil   *-1\r\n       nil
//
// A text, a line and a number are the answer's body as they are, an array is JSON;
// nil is an answer without a value.
type redisDialect struct {
	login   *credentials
	out     []byte
	scratch []byte
}

func (r *redisDialect) open(l *link, t *trip) error {
	if r.login == nil {
		return nil
	}
	user, password, database, err := r.login.render()
	if err != nil {
		return err
	}
	var hello [][]string
	switch {
	case password != "" && user != "":
		hello = append(hello, []string{"AUTH", user, password})
	case password != "":
		hello = append(hello, []string{"AUTH", password})
	}
	if database != "" {
		hello = append(hello, []string{"SELECT", database})
	}
	for _, words := range hello {
		r.out = append(strconv.AppendInt(append(r.out[:0], '*'), int64(len(words)), 10), "\r\n"...)
		for _, w := range words {
			r.out = appendBulk(r.out, []byte(w))
		}
		if _, err := l.Write(r.out); err != nil {
			return err
		}
		if err := readReply(l.in, new(reply)); err != nil {
			if said := (*replyError)(nil); errors.As(err, &said) {
				return &replyError{said.code, words[0] + ": " + said.text}
			}
			return err
		}
	}
	return nil
}

func (r *redisDialect) idle(l *link) bool { return l.in.Buffered() == 0 && !l.spent() }

func (r *redisDialect) bye(*link) {}

func (r *redisDialect) exchange(l *link, t *trip) (keep bool, err error) {
	d := t.draw(forContent)
	r.out = append(strconv.AppendInt(append(r.out[:0], '*'), int64(len(t.kind.words)), 10), "\r\n"...)
	for i, w := range t.kind.words {
		if r.scratch, err = w.append(r.scratch[:0], &d); err != nil {
			return true, fmt.Errorf("rendering word %d of the command: %w", i+1, err)
		}
		r.out = appendBulk(r.out, r.scratch)
	}
	if _, err := l.Write(r.out); err != nil {
		return false, err
	}
	if err := readReply(l.in, &t.reply); err != nil {
		return true, err
	}
	if n := l.in.Buffered(); n > 0 {
		return false, wrong("%d bytes more than one reply", n)
	}
	return true, nil
}

func appendBulk(dst, text []byte) []byte {
	dst = append(strconv.AppendInt(append(dst, '$'), int64(len(text)), 10), "\r\n"...)
	return append(append(dst, text...), "\r\n"...)
}

// Bounds of a reply: Redis' own for a text, and what a reader should put up with.
const (
	mostBulk     = 512 << 20
	mostElements = 1 << 20
	mostNested   = 32
	mostReplyRow = 64 << 10
)

// readReply reads one reply into r; an error reply is a *replyError.
func readReply(in *bufio.Reader, r *reply) error {
	kind, text, err := replyHead(in)
	if err != nil {
		return err
	}
	switch kind {
	case '-':
		return errorReply(string(text))
	case '+', ':':
		if kind == ':' && !isWhole(text) {
			return wrong("%.40q is no whole number", text)
		}
		r.addBody(text)
		return nil
	case '$':
		n, err := replyLength(text, mostBulk)
		if n < 0 || err != nil {
			r.null = true
			return err
		}
		return readBulk(in, n, r.addBody)
	}
	var out jsonReply
	n, err := replyLength(text, mostElements)
	if n < 0 || err != nil {
		r.null = true
		return err
	}
	out.keep = r.keepBody
	if err := out.array(in, n, 1); err != nil {
		return err
	}
	r.addBody(out.text)
	return nil
}

func isWhole(text []byte) bool {
	_, err := strconv.ParseInt(string(text), 10, 64)
	return err == nil
}

// replyHead reads the first line of a reply; text is good until the next read.
func replyHead(in *bufio.Reader) (kind byte, text []byte, err error) {
	text, err = in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		// Rarely: a long error, or a long line.
		long := slices.Clone(text)
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= mostReplyRow {
			text, err = in.ReadSlice('\n')
			long = append(long, text...)
		}
		if err != nil {
			return 0, nil, wrong("a line of more than %d bytes", mostReplyRow)
		}
		text = long
	case err != nil:
		return 0, nil, endedAt(err, len(text) > 0)
	}
	if len(text) < 3 || !bytes.HasSuffix(text, []byte("\r\n")) {
		return 0, nil, wrong("the reply begins with %.40q", text)
	}
	kind, text = text[0], text[1:len(text)-2]
	if strings.IndexByte("+-:$*", kind) < 0 {
		return 0, nil, wrong("the reply begins with %q, which is not RESP2", kind)
	}
	return kind, text, nil
}

// endedAt tells a connection that ended before the answer from one that ended in it.
func endedAt(err error, begun bool) error {
	switch {
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case begun:
		return fmt.Errorf("%w: %w", errMidAnswer, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: %w", errEarly, io.EOF)
}

// replyLength is -1 for nil.
func replyLength(text []byte, most int64) (int64, error) {
	if string(text) == "-1" {
		return -1, nil
	}
	n, ok := parseLength(text)
	if !ok || n > most {
		return -1, wrong("the length %.40q", text)
	}
	return n, nil
}

// readBulk reads n bytes and the line end behind them.
func readBulk(in *bufio.Reader, n int64, to func([]byte)) error {
	for n > 0 {
		if _, err := in.Peek(1); err != nil {
			return endedAt(err, true)
		}
		some, _ := in.Peek(int(min(n, int64(in.Buffered()))))
		to(some)
		n -= int64(len(some))
		if _, err := in.Discard(len(some)); err != nil {
			return err
		}
	}
	end, err := in.Peek(2)
	if err != nil {
		return endedAt(err, true)
	}
	if string(end) != "\r\n" {
		return wrong("a text does not end where its length says")
	}
	_, err = in.Discard(2)
	return err
}

// jsonReply writes an array of replies as JSON.
type jsonReply struct {
	text []byte
	keep bool
}

func (j *jsonReply) add(text ...byte) {
	if j.keep && len(j.text) <= maxReply {
		j.text = append(j.text, text...)
	}
}

func (j *jsonReply) array(in *bufio.Reader, n int64, depth int) error {
	if depth > mostNested {
		return wrong("arrays in arrays, more than %d deep", mostNested)
	}
	j.add('[')
	for i := range n {
		if i > 0 {
			j.add(',')
		}
		kind, text, err := replyHead(in)
		if err != nil {
			return err
		}
		switch kind {
		case '+':
			j.add(appendJSON(nil, string(text))...)
		case '-':
			j.add([]byte(`{"error":`)...)
			j.add(appendJSON(nil, string(text))...)
			j.add('}')
		case ':':
			if !isWhole(text) {
				return wrong("%.40q is no whole number", text)
			}
			j.add(text...)
		default:
			most := int64(mostBulk)
			if kind == '*' {
				most = mostElements
			}
			size, err := replyLength(text, most)
			switch {
			case err != nil:
				return err
			case size < 0:
				j.add([]byte("null")...)
			case kind == '*':
				err = j.array(in, size, depth+1)
			default:
				var bulk []byte
				err = readBulk(in, size, func(p []byte) {
					if j.keep && len(bulk)+len(p) <= maxReply {
						bulk = append(bulk, p...)
					}
				})
				if j.keep {
					j.add(appendJSON(nil, string(bulk))...)
				}
			}
			if err != nil {
				return err
			}
		}
	}
	j.add(']')
	return nil
}

var errorCode = regexp.MustCompile(`^[A-Z][A-Z0-9]{0,15}$`)

// errorReply takes "WRONGTYPE Operation against …" apart.
func errorReply(text string) error {
	e := &replyError{text: clip(text)}
	if code, _, _ := strings.Cut(text, " "); errorCode.MatchString(code) {
		e.code = code
	}
	return e
}

// wrong says what of an answer is not as its protocol has it.
func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errGarbled, fmt.Sprintf(format, args...))
}

var errGarbled = errors.New("the answer is not as the protocol has it")

// notOneReply are commands that are answered more than once, or never: what they
// do is no request with an answer.
var notOneReply = []string{"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "SYNC", "PSYNC", "HELLO", "QUIT", "RESET"}

// redisWords splits a command as redis-cli does: words, or texts in quotes. What
// stands in {{…}} belongs together.
func redisWords(text string) ([]string, error) {
	var all []string
	var word strings.Builder
	open := false // a word has begun
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case strings.HasPrefix(text[i:], "{{"):
			end := strings.Index(text[i:], "}}")
			if end < 0 {
				end = len(text) - i - 2
			}
			word.WriteString(text[i : i+end+2])
			i, open = i+end+2, true
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			if open {
				all = append(all, word.String())
				word.Reset()
			}
			i, open = i+1, false
		case !open && (c == '"' || c == '\''):
			end := i + 1
			for end < len(text) && text[end] != c {
				if action := strings.Index(text[end:], "}}"); strings.HasPrefix(text[end:], "{{") && action >= 0 {
					end += action + 2
				} else {
					end++
				}
			}
			if end >= len(text) {
				return nil, fmt.Errorf("the quote %c is not closed", c)
			}
			word.WriteString(text[i+1 : end])
			i, open = end+1, true
		default:
			word.WriteByte(c)
			i, open = i+1, true
		}
	}
	if open {
		all = append(all, word.String())
	}
	return all, nil
}
