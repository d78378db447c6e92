//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/test/bench/loop"
	"github.com/chaosctl/chaosctl/test/bench/process"
)

// behaviour is when the server answers: Delay after a request arrived; and while
// it is frozen, for the last Freeze of every Period since the first request, not
// before it thaws. Secure is over TLS.
type behaviour struct {
	Delay, Period, Freeze time.Duration
	Secure                bool
	Speaks                string // speaksHTTP2 or speaksGRPC; "": HTTP/1.1
}

// answerAt is when a request is answered that arrived at that time; both count
// from the first request.
func (b behaviour) answerAt(arrived time.Duration) time.Duration {
	due := arrived + b.Delay
	if b.Period > 0 {
		if in := due % b.Period; in >= b.Period-b.Freeze {
			due += b.Period - in
		}
	}
	return due
}

func (b behaviour) args() []string {
	return []string{"-as", "server", "-delay", b.Delay.String(), "-period", b.Period.String(), "-freeze", b.Freeze.String(), "-secure=" + strconv.FormatBool(b.Secure), "-speaks", b.Speaks}
}

// answer is as small as HTTP/1.1 gets, with something in it for sessions; ab speaks
// HTTP/1.0 and wants to be told that the connection stays.
const answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\nContent-Length: 13\r\n\r\n{\"order\":\"7\"}"

// httpServer answers every request alike, from one thread, and notes when each
// arrived. It takes commands on stdin, one a line:
//
//	count     prints how many requests have arrived
//	arrivals  prints their number and then, in 8 bytes of native order each, when
//	          they arrived, in ns since the first
//
// and ends with stdin.
type httpServer struct {
	*loop.Loop
	behaviour
	buf      []byte
	answers  []byte // where frames are spoken
	first    time.Duration
	arrivals []int64
	waiting  []pending // by due time, from head on
	head     int
}

// pending is an answer that is not due yet.
type pending struct {
	due  time.Duration
	conn *serverConn
}

type serverConn struct {
	fd      int
	tls     *tls.Conn // nil: plain
	rest    []byte    // of a request that has not arrived in one piece
	greeted bool      // the preface of HTTP/2 has come
	closed  bool
}

func serve(b behaviour) error {
	l, err := loop.New()
	if err != nil {
		return err
	}
	defer l.Close()
	s := &httpServer{Loop: l, behaviour: b, buf: make([]byte, 64<<10), arrivals: make([]int64, 0, 1<<20)}
	if b.Speaks != "" {
		s.answers = h2Answers(b.Speaks)
	}
	listener, addr, err := loop.Listen()
	if err != nil {
		return err
	}
	var shaker *shaker
	if b.Secure {
		if shaker, err = newShaker(s); err != nil {
			return err
		}
	}
	err = s.Add(listener, unix.EPOLLIN, func(uint32) {
		for {
			var err error
			fd, ok := loop.Accept(listener)
			if !ok {
				return
			}
			c := &serverConn{fd: fd}
			if shaker != nil {
				err = shaker.shake(c)
			} else {
				err = s.Add(fd, unix.EPOLLIN, func(uint32) { s.read(c) })
			}
			if err != nil {
				s.drop(c)
			}
		}
	})
	var failed error
	command := bufio.NewReader(os.Stdin)
	err = errors.Join(err, s.Add(int(os.Stdin.Fd()), unix.EPOLLIN, func(uint32) {
		line, err := command.ReadString('\n')
		if err == nil {
			err = s.command(strings.TrimSpace(line))
			failed = err
		}
		if err != nil {
			s.Stop()
		}
	}))
	if err != nil {
		return err
	}
	if b.Delay > 0 || b.Period > 0 {
		s.Due = s.answerDue
	}
	fmt.Println(addr)
	_, err = s.Run(24 * time.Hour)
	return errors.Join(err, failed)
}

func (s *httpServer) drop(c *serverConn) {
	c.closed = true
	s.Drop(c.fd)
}

var endOfHead = []byte("\r\n\r\n")

// read takes what has arrived on c: whole requests without bodies, as a rule one.
// What TLS has decrypted already, epoll does not tell of.
func (s *httpServer) read(c *serverConn) {
	for !c.closed {
		n, again, err := s.receive(c)
		switch {
		case again:
			return
		case n == 0 || err != nil:
			s.drop(c)
			return
		}
		s.take(c, s.buf[:n])
		if c.tls == nil {
			return
		}
	}
}

func (s *httpServer) take(c *serverConn, b []byte) {
	if c.rest != nil {
		b = append(c.rest, b...)
		c.rest = nil
	}
	if s.answers != nil {
		s.readFrames(c, b)
		return
	}
	if !bytes.HasSuffix(b, endOfHead) {
		i := bytes.LastIndex(b, endOfHead) + len(endOfHead)
		if i < len(endOfHead) {
			i = 0
		}
		c.rest = bytes.Clone(b[i:])
		b = b[:i]
	}
	now := s.Now()
	for range bytes.Count(b, endOfHead) {
		if len(s.arrivals) == 0 {
			s.first = now
		}
		s.arrivals = append(s.arrivals, int64(now-s.first))
		if s.Due == nil {
			s.answer(c)
		} else {
			s.waiting = append(s.waiting, pending{s.first + s.answerAt(now-s.first), c})
		}
	}
}

func (s *httpServer) answer(c *serverConn) {
	if c.closed {
		return
	}
	if err := s.say(c, []byte(answer)); err != nil {
		s.drop(c)
	}
}

// answerDue is Loop.Due: whoever came first is due first.
func (s *httpServer) answerDue(now time.Duration) time.Duration {
	for s.head < len(s.waiting) {
		if p := s.waiting[s.head]; p.due > now {
			return p.due
		} else {
			s.answer(p.conn)
		}
		s.head++
	}
	s.waiting, s.head = s.waiting[:0], 0
	return 0
}

func (s *httpServer) command(line string) error {
	out := bufio.NewWriter(os.Stdout)
	switch line {
	case "count":
		fmt.Fprintln(out, len(s.arrivals))
	case "arrivals":
		fmt.Fprintln(out, len(s.arrivals))
		if err := binary.Write(out, binary.NativeEndian, s.arrivals); err != nil {
			return err
		}
	default:
		return fmt.Errorf("command %q: want count or arrivals", line)
	}
	return out.Flush()
}

// server is the other end: an httpServer in a process of its own.
type server struct {
	*process.Process
	addr     netip.AddrPort
	secure   bool
	speaks   string
	commands *os.File
	answers  *os.File
	lines    *bufio.Reader
}

// startServer starts one on the core.
func startServer(core int, b behaviour) (s *server, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	stdin, commands, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, stdout, err := os.Pipe()
	if err != nil {
		stdin.Close()
		commands.Close()
		return nil, err
	}
	p, err := process.Start(process.Spec{Args: append([]string{exe}, b.args()...), Cores: []int{core}, Stdin: stdin, Stdout: stdout})
	stdin.Close()
	stdout.Close()
	s = &server{Process: p, secure: b.Secure, speaks: b.Speaks, commands: commands, answers: answers, lines: bufio.NewReader(answers)}
	if err != nil {
		commands.Close()
		answers.Close()
		return nil, err
	}
	line, err := s.line()
	if err == nil {
		s.addr, err = netip.ParseAddrPort(line)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("address of the server: %w", err), s.stop())
	}
	return s, nil
}

func (s *server) url() string {
	if s.secure {
		return "https://" + s.addr.String() + "/"
	}
	if s.speaks == speaksGRPC {
		return "grpc://" + s.addr.String() + "/" + healthCall
	}
	return "http://" + s.addr.String() + "/"
}

// stop ends it.
func (s *server) stop() error {
	return errors.Join(s.commands.Close(), s.Stop(), s.answers.Close())
}

// line is its next line; it answers within 30 s.
func (s *server) line() (string, error) {
	if err := s.answers.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	line, err := s.lines.ReadString('\n')
	if err != nil {
		return "", errors.Join(err, s.Ended())
	}
	return strings.TrimSpace(line), nil
}

func (s *server) ask(command string) (int, error) {
	if _, err := s.commands.WriteString(command + "\n"); err != nil {
		return 0, errors.Join(err, s.Ended())
	}
	line, err := s.line()
	if err != nil {
		return 0, fmt.Errorf("ask the server for %s: %w", command, err)
	}
	return strconv.Atoi(line)
}

// count is how many requests have arrived.
func (s *server) count() (int, error) { return s.ask("count") }

// arrived is when each did, since the first.
func (s *server) arrived() ([]time.Duration, error) {
	n, err := s.ask("arrivals")
	if err != nil {
		return nil, err
	}
	all := make([]time.Duration, n)
	return all, binary.Read(s.lines, binary.NativeEndian, all)
}
