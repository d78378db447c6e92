package loadgen

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Over TLS an idle connection is kept, tickets of the server or not, and one that
// the server has closed is not used again: neither when its close_notify came with
// the answer before, nor when it came later.
func TestTalkOverTLS(t *testing.T) {
	client, server := trusted(t)
	for name, together := range map[string]bool{"closed with the answer": true, "closed later": false} {
		t.Run(name, func(t *testing.T) {
			var last atomic.Bool // the server says what it says last
			arrived, closed := make(chan struct{}), make(chan struct{})
			address := talkServer(t, func(c net.Conn, conn int) {
				secure := tls.Server(c, server)
				in := bufio.NewReader(secure)
				for n := 1; ; n++ {
					if _, err := readCommand(in); err != nil {
						return
					}
					end := conn == 0 && n == 3
					last.Store(end)
					_, _ = io.WriteString(secure, "+OK\r\n")
					if end {
						<-arrived
						secure.Close()
						close(closed)
						return
					}
				}
			})
			s := Spec{Name: "a", To: "b", Protocol: Redis, Request: shortly("PING"), Users: ptr(1), Think: 20 * time.Millisecond}
			got := newSums()
			c := got.listen(Config{Spec: s, Until: time.Hour, Requests: 5, TLS: client, Resolve: func() string { return address }})
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &tapped{TCPConn: conn.(*net.TCPConn), read: func(c *net.TCPConn, p []byte, n int) int {
					if !last.Swap(false) {
						return n
					}
					close(arrived)
					<-closed
					awaitReadable(t, c)
					if together {
						m, err := c.Read(p[n:])
						if err != nil {
							t.Error(err)
						}
						n += m
						awaitReadable(t, c) // FIN
					}
					return n
				}}, nil
			}
			if err := Run(context.Background(), c); err != nil {
				t.Fatal(err)
			}
			got.balance(t)
			got.wants(t, map[string]int{"answered": 5}, "")
			if got.Connects != 2 || got.Handshake.Count() != 2 {
				t.Errorf("%d connections and %d handshakes, want two", got.Connects, got.Handshake.Count())
			}
		})
	}
}

// tapped is a connection that has read look at what it has read, and return how much
// there is of it.
type tapped struct {
	*net.TCPConn
	read func(c *net.TCPConn, p []byte, n int) int
}

func (c *tapped) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil {
		return n, err
	}
	return c.read(c.TCPConn, p, n), nil
}

// awaitReadable returns when there is something to read, if only the end.
func awaitReadable(t *testing.T, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if err != nil {
		t.Error(err)
	}
}
