package proxy

import (
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where the kernel's congestion control is BBR, a TCP socket does not send when it
// has something to send, but when a timer lets it: paced by an estimate of what the
// network takes. Between two programs on one machine there is no network, and a
// proxy doubles the hops that are paced. So it sends with Reno there, which every
// kernel has and lets everybody choose, and which loses nothing on loopback; to other
// machines it sends as the system has it.
const unpaced = "reno"

// paces tells whether the system's congestion control paces loopback as well.
var paces = sync.OnceValue(func() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	return err == nil && strings.HasPrefix(name, "bbr")
})

// unpace has a socket, or those accepted from it, send to that address unpaced.
func unpace(fd int, at netip.Addr) {
	if at.IsLoopback() && paces() {
		// It fails only on what is no TCP socket: that is paced by nobody.
		_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, unpaced)
	}
}

// unpaceAt is unpace for a net.Dialer and a net.ListenConfig.
func unpaceAt(_, address string, raw syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil
	}
	return raw.Control(func(fd uintptr) { unpace(int(fd), at.Addr()) })
}
