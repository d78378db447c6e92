package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// None as an upstream says that there is none, and that this is meant: see
// Config.Upstream.
const None = "none"

// place is where a listener or an upstream stands.
type place struct {
	network string // tcp or unix
	address string // host:port, or the path of a socket
}

// longestPath is what sockaddr_un has room for, but the final 0 (unix(7)).
const longestPath = 107

// parsePlace reads host:port, unix:///path or unix:path. Whether a host:port is
// one is left to package net, whose words clients know.
func parsePlace(text string) (place, error) {
	path, is := strings.CutPrefix(text, "unix:")
	if !is {
		return place{"tcp", text}, nil
	}
	path = strings.TrimPrefix(path, "//")
	switch {
	case path == "" || strings.HasSuffix(path, "/"):
		return place{}, fmt.Errorf("%q names no socket: write unix:///run/app.sock, or unix:app.sock", text)
	case path[0] == '@' || strings.ContainsRune(path, 0):
		return place{}, fmt.Errorf("%q: only sockets in the file system can be used, like unix:///run/app.sock", text)
	case len(path) > longestPath:
		return place{}, fmt.Errorf("%q: the path of a socket has at most %d bytes, this one has %d", text, longestPath, len(path))
	}
	return place{"unix", path}, nil
}

func (at place) String() string {
	if at.network == "unix" {
		return "unix://" + at.address
	}
	return at.address
}

// host is what a certificate of who listens there is for.
func (at place) host() string {
	if at.network == "unix" {
		return "localhost"
	}
	host, _, err := net.SplitHostPort(at.address)
	if err != nil {
		return at.address
	}
	host, _, _ = strings.Cut(host, "%") // no certificate names a zone
	return host
}

// upstreams is where connections go to.
type upstreams struct {
	text   string         // as it was given
	places []place        // none: nowhere
	wrong  error          // why there are none, where somebody has mistyped
	none   bool           // … and that is meant
	direct netip.AddrPort // the only one, if it has an address and no name; else invalid
}

// ParseUpstream tells what is wrong with the text of an upstream: host:port,
// unix:///path, several of them with commas in between, or None.
func ParseUpstream(text string) error { return parseUpstreams(text).wrong }

func parseUpstreams(text string) *upstreams {
	if text == None {
		return &upstreams{text: text, none: true}
	}
	u := &upstreams{text: text}
	if text == "" { // what package net says of it will do
		u.places = []place{{network: "tcp"}}
		return u
	}
	for one := range strings.SplitSeq(text, ",") {
		at, err := parsePlace(strings.TrimSpace(one))
		switch {
		case err != nil:
		case at.address == "":
			err = fmt.Errorf("upstream %q has an empty address in it: write host:port,host:port", text)
		case slices.Contains(u.places, at):
			err = fmt.Errorf("upstream %q has %s in it twice: connections take turns, each upstream once", text, at)
		}
		if err != nil {
			return &upstreams{text: text, wrong: err}
		}
		u.places = append(u.places, at)
	}
	if to, err := netip.ParseAddrPort(text); err == nil && to.Addr().Zone() == "" && to.Port() != 0 && !to.Addr().IsUnspecified() {
		u.direct = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	}
	return u
}

// Canonical is the one way to write where a Proxy listens: a socket by its whole
// path, host:port as it is.
func Canonical(listen string) (string, error) {
	at, err := parsePlace(listen)
	if err != nil {
		return "", err
	}
	return at.whole().String(), nil
}

// whole is the place of a socket by its whole path, if that is not too long: then it
// goes by the one that was given, for as long as the process stays in its folder.
func (at place) whole() place {
	if at.network == "unix" {
		if path, err := filepath.Abs(at.address); err == nil && len(path) <= longestPath {
			at.address = path
		}
	}
	return at
}

// Listen listens at host:port, or unix:///path (unix:path), where what it makes
// may be used by its owner only (0600) and goes with the listener. A socket that
// is there already is removed if nobody listens on it: a connection to it is
// refused by the kernel. Anything else is an error, and stays.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	at, err := parsePlace(address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
	}
	at = at.whole()
	lc := net.ListenConfig{KeepAlive: -1} // see keepAlive
	lc.SetMultipathTCP(false)             // a proxied connection is plain TCP on both sides
	if at.network == "tcp" {
		lc.Control = unpaceAt
		return lc.Listen(ctx, "tcp", at.address)
	}
	path := at.address
	wrong := func(err error) error {
		return &net.OpError{Op: "listen", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: err}
	}
	// Two who find the same dead socket must not remove each other's living one.
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, wrong(err)
	}
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return nil, wrong(os.NewSyscallError("flock", err))
	}
	if err := removeDead(ctx, path); err != nil {
		return nil, wrong(err)
	}
	// What bind(2) makes has the mode of the socket: nobody else gets in before a
	// chmod(2) could say so.
	lc.Control = func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), 0o600)) })
		return errors.Join(err, failed)
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	file := &socketFile{UnixListener: l.(*net.UnixListener), path: path}
	file.SetUnlinkOnClose(false)
	if file.made, err = os.Lstat(path); err == nil && file.made.Mode().Perm() != 0o600 {
		err = os.Chmod(path, 0o600) // a file system that does not do as Linux's own
	}
	if err != nil {
		file.Close()
		return nil, wrong(err)
	}
	return file, nil
}

// removeDead removes a socket on which nobody listens. What answers, what does not
// let us ask, and what is no socket stays, and is an error.
func removeDead(ctx context.Context, path string) error {
	found, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case found.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something at that path, and it is no socket: it is left alone")
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("somebody listens there already: %w", syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist): // its owner has just removed it
		return nil
	}
	return fmt.Errorf("there is a socket, and whether somebody listens there cannot be told: %w", err)
}

// socketFile is a listener at a path, which goes with it, unless it is another's by then.
type socketFile struct {
	*net.UnixListener
	path string
	made fs.FileInfo
}

func (l *socketFile) Close() error {
	if now, err := os.Lstat(l.path); err == nil && l.made != nil && os.SameFile(now, l.made) {
		_ = os.Remove(l.path) // before nobody listens: whoever comes then makes a new one
	}
	return l.UnixListener.Close()
}

// Addr is where it listens, as Listen takes it.
func (l *socketFile) Addr() net.Addr { return socketAddr(l.path) }

type socketAddr string

func (socketAddr) Network() string  { return "unix" }
func (a socketAddr) String() string { return "unix://" + string(a) }
