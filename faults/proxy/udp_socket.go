package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpPort is a port of the kernel.
type udpPort struct {
	c      *net.UDPConn
	raw    syscall.RawConn
	family int  // AF_INET, or AF_INET6, which takes both
	any    bool // it is at every address of this machine: each datagram says at which it came
	buf    [largeBuffer]byte
	oob    [64]byte

	// Of the write that goes on.
	to     *session
	b      []byte
	err    error
	giveFn func(fd uintptr) bool // give, bound once
}

// receiveBuffer is asked of the kernel for the port, so that bursts find room; without
// CAP_NET_ADMIN it gives at most net.core.rmem_max.
const receiveBuffer = 4 << 20

// listenUDP opens a port at host:port.
func listenUDP(ctx context.Context, address string) (*udpPort, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	open := func(address string) (*net.UDPConn, error) {
		c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", address)
		if err != nil {
			return nil, err
		}
		return c.(*net.UDPConn), nil
	}
	c, err := open(address)
	// A number that the kernel chose is the socket's only until it is disconnected
	// (refuse). It has to be asked for.
	for range 10 {
		host, number, splitErr := net.SplitHostPort(address)
		if err != nil || splitErr != nil || number != "0" && number != "" {
			break
		}
		chosen := c.LocalAddr().(*net.UDPAddr).Port
		c.Close()
		if c, err = open(net.JoinHostPort(host, strconv.Itoa(chosen))); err == nil {
			break
		}
		c, err = open(address)
	}
	if err != nil {
		return nil, err
	}
	p := &udpPort{c: c}
	p.giveFn = p.give
	if p.raw, err = c.SyscallConn(); err != nil {
		c.Close()
		return nil, err
	}
	p.any = p.local().Addr().IsUnspecified()
	err = p.control(func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // as much as there may be
		}
		var err error
		if p.family, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || !p.any {
			return err
		}
		if p.family == unix.AF_INET6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("listen udp %s: %w", address, err)
	}
	return p, nil
}

func (p *udpPort) addr() net.Addr { return p.c.LocalAddr() }

func (p *udpPort) local() netip.AddrPort { return p.c.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *udpPort) Close() error { return p.c.Close() }

// control calls f with the file descriptor.
func (p *udpPort) control(f func(fd int) error) error {
	var err error
	if e := p.raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

func (p *udpPort) read() ([]byte, peer, error) {
	oob := p.oob[:0]
	if p.any {
		oob = p.oob[:]
	}
	n, oobn, _, from, err := p.c.ReadMsgUDPAddrPort(p.buf[:], oob)
	if err != nil {
		return nil, peer{}, err
	}
	return p.buf[:n], peer{from: from, at: arrivedAt(oob[:oobn])}, nil
}

// arrivedAt is the address of this machine that a datagram was sent to, as the kernel
// says beside it (ip(7), ipv6(7)): struct in_pktinfo is { index int32; local, to
// [4]byte }, struct in6_pktinfo { to [16]byte; index uint32 }. Invalid where it says none.
func arrivedAt(oob []byte) netip.Addr {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		switch {
		case err != nil:
			return netip.Addr{}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 8:
			return netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			return netip.AddrFrom16([16]byte(data[:16]))
		}
		oob = rest
	}
	return netip.Addr{}
}

func (p *udpPort) write(b []byte, to *session) error {
	if to.to == nil {
		to.to, to.oob = p.reply(to.peer)
	}
	p.b, p.to = b, to
	if err := p.raw.Write(p.giveFn); err != nil {
		return err
	}
	return p.err
}

// give is called with the file descriptor, once.
func (p *udpPort) give(fd uintptr) bool {
	_, p.err = ignoringEINTR(func() (int, error) {
		return unix.SendmsgN(int(fd), p.b, p.to.oob, p.to.to, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	return true
}

// reply is how a caller is written to: its address, and from which of ours.
func (p *udpPort) reply(to peer) (unix.Sockaddr, []byte) {
	addr := to.from.Addr()
	if p.family == unix.AF_INET {
		sa := &unix.SockaddrInet4{Port: int(to.from.Port()), Addr: addr.Unmap().As4()}
		if !to.at.IsValid() {
			return sa, nil
		}
		return sa, unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: to.at.Unmap().As4()})
	}
	sa := &unix.SockaddrInet6{Port: int(to.from.Port()), Addr: addr.As16(), ZoneId: zone(addr.Zone())}
	if !to.at.IsValid() {
		return sa, nil
	}
	return sa, unix.PktInfo6(&unix.Inet6Pktinfo{Addr: to.at.As16(), Ifindex: sa.ZoneId})
}

// zone is the number of an interface.
func zone(name string) uint32 {
	if name == "" {
		return 0
	}
	if i, err := net.InterfaceByName(name); err == nil {
		return uint32(i.Index)
	}
	n, _ := strconv.ParseUint(name, 10, 32)
	return uint32(n)
}

// refuse connects the port to itself: the kernel then finds no socket for what others
// send, and answers with ICMP "port unreachable" (RFC 1122, 4.1.3.1), as for a closed
// port; and yet nobody else can have it meanwhile. Connecting to no family ends that
// (connect(2)).
func (p *udpPort) refuse(on bool) error {
	return p.control(func(fd int) error {
		if on {
			return unix.Connect(fd, p.self())
		}
		none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
		if errno != 0 {
			return os.NewSyscallError("connect", errno)
		}
		return nil
	})
}

// self is an address at which the port reaches itself.
func (p *udpPort) self() unix.Sockaddr {
	at := p.local()
	if p.family == unix.AF_INET {
		sa := &unix.SockaddrInet4{Port: int(at.Port()), Addr: [4]byte{127, 0, 0, 1}}
		if !p.any {
			sa.Addr = at.Addr().Unmap().As4()
		}
		return sa
	}
	sa := &unix.SockaddrInet6{Port: int(at.Port()), Addr: netip.IPv6Loopback().As16()}
	if !p.any {
		sa.Addr, sa.ZoneId = at.Addr().As16(), zone(at.Addr().Zone())
	}
	return sa
}

// probeWithin is how long the news of a closed port may take from this machine to itself,
// where it comes before the datagram's write is over. Changes of rules wait meanwhile.
const probeWithin = 100 * time.Millisecond

func (p *udpPort) probe() error {
	at := p.local()
	if p.any {
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(probeWithin)); err != nil {
		return err
	}
	if _, err := c.Write(nil); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// missed asks the kernel (SO_MEMINFO, sock_diag(7)) how many datagrams it has dropped
// because the port's buffer was full; 0 where it does not tell.
func (p *udpPort) missed() uint64 {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	err := p.control(func(fd int) error {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return 0
	}
	return uint64(info[drops])
}

// udpLeg is a socket of the kernel, connected to the upstream, so that it hears of its
// refusals. A buffer is taken only when something is there to be read.
type udpLeg struct {
	c      *net.UDPConn
	raw    syscall.RawConn
	got    *[largeBuffer]byte
	n      int
	getErr error
	getFn  func(fd uintptr) bool
	b      []byte
	err    error
	giveFn func(fd uintptr) bool
}

// dialUDP dials upstreams; a name may take so long to be looked up.
func dialUDP(within time.Duration) func(context.Context, string) (leg, error) {
	d := net.Dialer{Timeout: within}
	return func(ctx context.Context, upstream string) (leg, error) {
		c, err := d.DialContext(ctx, "udp", upstream)
		if err != nil {
			return nil, err
		}
		l := &udpLeg{c: c.(*net.UDPConn)}
		l.getFn, l.giveFn = l.get, l.give
		if l.raw, err = l.c.SyscallConn(); err != nil {
			c.Close()
			return nil, err
		}
		return l, nil
	}
}

func (l *udpLeg) read(handle func(b []byte)) error {
	if err := l.raw.Read(l.getFn); err != nil {
		return err
	}
	if l.getErr != nil {
		return l.getErr
	}
	handle(l.got[:l.n])
	largeBuffers.Put(l.got)
	l.got = nil
	return nil
}

// get is called with the file descriptor until it returns true.
func (l *udpLeg) get(fd uintptr) bool {
	b := largeBuffers.Get().(*[largeBuffer]byte)
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b[:]) })
	if err != nil {
		largeBuffers.Put(b)
		l.getErr = os.NewSyscallError("read", err)
		return !errors.Is(err, unix.EAGAIN)
	}
	l.got, l.n, l.getErr = b, n, nil
	return true
}

func (l *udpLeg) write(b []byte) error {
	l.b = b
	if err := l.raw.Write(l.giveFn); err != nil {
		return err
	}
	return l.err
}

// give is called with the file descriptor, once.
func (l *udpLeg) give(fd uintptr) bool {
	_, l.err = ignoringEINTR(func() (int, error) { return unix.SendmsgN(int(fd), l.b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) })
	return true
}

func (l *udpLeg) Close() error { return l.c.Close() }
