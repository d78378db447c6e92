//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/test/bench/loop"
)

// exchanges says how long each took, since reset.
type exchanges struct{ took []time.Duration }

func (e *exchanges) reset() { e.took = e.took[:0] }

// exchange keeps n connections busy while the loop runs: each sends the request,
// waits for the whole answer, and sends the next. The length of an answer
// is learned from the first on each connection, since a proxy may add headers.
func (t *traffic) exchange(n int, to netip.AddrPort, request string, length func(answer []byte) int) (*exchanges, error) {
	e := &exchanges{took: make([]time.Duration, 0, 1<<20)}
	message := []byte(request)
	var fds []int
	if err := t.callers(n, to, func(fd int) { fds = append(fds, fd) }); err != nil {
		return nil, err
	}
	for _, fd := range fds {
		var sent time.Duration
		var first []byte
		got, want := 0, 0
		send := func() {
			t.send(fd, message)
			got, sent = 0, t.Now()
		}
		t.watch(fd, unix.EPOLLIN, func(uint32) {
			b, gone := t.read(fd)
			if gone {
				t.fail(fmt.Errorf("a connection ended after %d exchanges on all", len(e.took)))
				return
			}
			got += len(b)
			if want == 0 {
				first = append(first, b...)
				want = length(first)
			}
			if want == 0 || got < want {
				return
			}
			e.took = append(e.took, t.Now()-sent)
			send()
		})
		send()
	}
	return e, nil
}

// echoed is the length of the answer of an echo.
func echoed(n int) func([]byte) int { return func([]byte) int { return n } }

// httpLength is the length of an HTTP answer, 0 while its head is not complete.
func httpLength(answer []byte) int {
	head, _, ok := bytes.Cut(answer, []byte("\r\n\r\n"))
	if !ok {
		return 0
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			if n, err := strconv.Atoi(string(bytes.TrimSpace(value))); err == nil {
				return len(head) + 4 + n
			}
		}
	}
	return 0
}

// connections opens connections through the proxy, atOnce at a time; each carries
// one byte each way and is closed by the upstream. count grows with every one
// that is over.
func (t *traffic) connections(atOnce int, to netip.AddrPort, count *int) {
	var open func()
	open = func() {
		t.connect(to, func(fd int) {
			answered := false
			t.watch(fd, unix.EPOLLIN, func(uint32) {
				n, again, err := loop.Read(fd, t.buf)
				switch {
				case err != nil:
					t.fail(fmt.Errorf("connection %d: %w", *count, err))
				case again:
				case n > 0:
					answered = true
				case !answered:
					t.fail(fmt.Errorf("connection %d was closed without an answer", *count))
				default:
					t.drop(fd)
					*count++
					open()
				}
			})
			t.send(fd, []byte{1})
		})
	}
	for range atOnce {
		open()
	}
}

// arrival is what a sink read at once.
type arrival struct {
	at    time.Duration
	bytes int
}

// sinks opens n connections to a source, and takes what comes without looking at
// it. total grows; each read is told to seen, if that is not nil.
func (t *traffic) sinks(n int, to netip.AddrPort, total *int64, seen func(arrival)) error {
	return t.callers(n, to, func(fd int) {
		t.watch(fd, unix.EPOLLIN, func(uint32) {
			n, again, err := loop.Discard(fd, 1<<20)
			if err != nil || n == 0 && !again {
				t.fail(fmt.Errorf("the source is gone after %d bytes: %w", *total, os.NewSyscallError("recv", err)))
				return
			}
			*total += int64(n)
			if seen != nil {
				seen(arrival{t.Now(), n})
			}
		})
		t.send(fd, []byte{1})
	})
}

// stamps opens n connections, over which the upstream sends the time of sending,
// on all of them at once, steps times every period; it returns how long each was
// on the way.
func (t *traffic) stamps(n int, start func(upstream netip.AddrPort) (netip.AddrPort, error), steps int, period, patience time.Duration) ([]time.Duration, error) {
	var senders []int
	upstream, err := t.upstream(func(fd int) {
		t.add(fd, unix.EPOLLIN, func(uint32) {
			b, gone := t.read(fd)
			if gone {
				t.drop(fd)
			} else if len(b) > 0 {
				if senders = append(senders, fd); len(senders) == n {
					t.Stop()
				}
			}
		})
	})
	if err != nil {
		return nil, err
	}
	to, err := start(upstream)
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, n*steps)
	var fds []int
	if err := t.callers(n, to, func(fd int) { fds = append(fds, fd) }); err != nil {
		return nil, err
	}
	for _, fd := range fds {
		var part []byte
		t.watch(fd, unix.EPOLLIN, func(uint32) {
			now := t.Now()
			b, gone := t.read(fd)
			if gone {
				t.fail(fmt.Errorf("a connection ended"))
				return
			}
			for part = append(part, b...); len(part) >= 8; part = part[8:] {
				took = append(took, now-time.Duration(binary.NativeEndian.Uint64(part)))
			}
			if len(took) == n*steps {
				t.Stop()
			}
		})
		t.send(fd, []byte{1})
	}
	if err := t.await(10*time.Second, fmt.Sprintf("%d connections at the upstream", n)); err != nil {
		return nil, err
	}
	next, step := t.Now()+period, 0
	t.Due = func(now time.Duration) time.Duration {
		if step < steps && now >= next {
			stamp := make([]byte, 8)
			for _, fd := range senders {
				binary.NativeEndian.PutUint64(stamp, uint64(t.Now()))
				t.send(fd, stamp)
			}
			next, step = next+period, step+1
		}
		return next
	}
	err = t.await(time.Duration(steps)*period+patience, fmt.Sprintf("%d messages", n*steps))
	t.Due = nil
	return took, err
}

// worstWindow is the most that arrived within any window of that length.
func worstWindow(all []arrival, window time.Duration) int {
	worst, sum, first := 0, 0, 0
	for _, a := range all {
		sum += a.bytes
		for a.at-all[first].at >= window {
			sum -= all[first].bytes
			first++
		}
		worst = max(worst, sum)
	}
	return worst
}

// rate is bytes per second between the first and the last arrival; what arrived
// first took its time before that and does not count.
func rate(all []arrival) float64 {
	if len(all) < 2 {
		return 0
	}
	sum := 0
	for _, a := range all[1:] {
		sum += a.bytes
	}
	return float64(sum) / (all[len(all)-1].at - all[0].at).Seconds()
}
