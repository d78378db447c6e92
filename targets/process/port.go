package process

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// FreePort picks a port of 127.0.0.1 for a program that must be told one; with udp, it
// is free for UDP and TCP. No other chaosctl on this machine picks it before hold is closed, which also
// the end of this process does. It lies below the range from which the kernel takes the local ports of outgoing
// connections, so that none of those sits on it while the program is down.
func FreePort(udp bool) (port int, hold io.Closer, err error) {
	const lowest = 10000
	highest := 32767
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if first, err := strconv.Atoi(strings.Fields(string(b) + " x")[0]); err == nil && first > lowest+1000 {
			highest = min(first-1, 65535)
		}
	}
	for range 100 {
		port = lowest + rand.IntN(highest-lowest+1)
		if hold, err = holdPort(port); err != nil {
			continue
		}
		if err = PortFree(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), udp); err == nil {
			return port, hold, nil
		}
		hold.Close()
	}
	return 0, nil, fmt.Errorf("find a free port between %d and %d: %w", lowest, highest, err)
}

// holdPort says to every other chaosctl in this network namespace that the port is
// picked, although nobody listens there yet, or for a moment: by a name in the
// abstract namespace of Unix sockets, which Linux has.
func holdPort(port int) (io.Closer, error) {
	if runtime.GOOS != "linux" {
		return io.NopCloser(nil), nil
	}
	l, err := net.Listen("unix", fmt.Sprintf("@chaosctl-port-%d", port))
	if err != nil {
		return nil, fmt.Errorf("port %d is another run's: %w", port, err)
	}
	return l, nil
}

// ErrTaken is why a port is not free.
var ErrTaken = errors.New("another process listens there")

// PortFree tells whether a program could listen at address now, for TCP and, with udp,
// for UDP too; ErrTaken if not.
func PortFree(address string, udp bool) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrTaken, err)
	}
	defer l.Close()
	if udp {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrTaken, err)
		}
		return c.Close()
	}
	return nil
}
