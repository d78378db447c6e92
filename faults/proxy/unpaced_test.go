package proxy

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// congestion is a socket's congestion control.
func congestion(t *testing.T, fd int) string {
	t.Helper()
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestUnpaced: a proxy between two of this machine does not pace them, on either plane; what goes to
// another machine is sent as the system has it.
func TestUnpaced(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	system := congestion(t, fd)
	here := system
	if paces() {
		here = unpaced
	}
	unpace(fd, netip.MustParseAddr("192.0.2.1"))
	if name := congestion(t, fd); name != system {
		t.Errorf("to another machine: %s, want %s", name, system)
	}
	unpace(fd, netip.MustParseAddr("::1"))
	if name := congestion(t, fd); name != here {
		t.Errorf("to this machine: %s, want %s", name, here)
	}

	p := startProxy(t, TCP, startTCP(t, echo))
	dial(t, p.Addr()).talk()
	var found []string
	p.eachLink(func(k *link) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, s := range k.sides {
			found = append(found, congestion(t, s.fd))
		}
	})
	add(t, p, Rule{Name: "pace", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1 << 20}})
	dial(t, p.Addr()).talk()
	for _, c := range p.connections() {
		for _, s := range []*socket{c.client, c.server} {
			s.raw.Control(func(fd uintptr) { found = append(found, congestion(t, int(fd))) })
		}
	}
	if want := slices.Repeat([]string{here}, 6); !slices.Equal(found, want) {
		t.Errorf("the proxy's sockets have %v, want %v", found, want)
	}
}
