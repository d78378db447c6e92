// Package probe asks a service whether it may be called: an HTTP GET answered
// 2xx or 3xx, a TCP connection accepted, or a UDP port open. One question is one fresh
// connection, so an answer is about the service as it is now, not about a pool.
package probe

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Each question must be answered within this; a service that takes longer is
// asked again.
const patience = time.Second

// The wait before the second question, doubled up to the longest: short, since a
// service becomes ready within milliseconds of listening, and a refused
// connection costs next to nothing.
const (
	shortest = 2 * time.Millisecond
	longest  = 50 * time.Millisecond
)

// HTTP asks for http://address/path, or https:// where secure says how, and wants a
// status of 200 to 399; redirects are not followed.
func HTTP(ctx context.Context, address, path string, secure *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+address+path, nil)
	if err != nil {
		return err
	}
	// No proxy from the environment: the question goes to that address.
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4096) // the status has answered the question
	if answer.StatusCode < 200 || answer.StatusCode > 399 {
		return fmt.Errorf("GET %s answered %s, not 2xx or 3xx", path, answer.Status)
	}
	return nil
}

// TCP wants a connection to address to be accepted.
func TCP(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// UDP wants a UDP port to be open at address, on this machine: the kernel lists them
// (/proc/net/udp, proc(5)). Nothing is sent: to the service it would be a request.
func UDP(ctx context.Context, address string) error {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", number)
	if err != nil {
		return err
	}
	asked, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, table := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		b, err := os.ReadFile(table)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // without IPv6 there is no second one
			return err
		}
		for line := range strings.Lines(string(b)) {
			at, ok := openPort(line)
			if !ok || int(at.Port()) != port {
				continue
			}
			for _, a := range asked {
				if at.Addr().IsUnspecified() || at.Addr() == a.Unmap() {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("no UDP port is open at %s", address)
}

// openPort reads a line of /proc/net/udp: a number, "local:port" and "remote:port",
// addresses as words of 32 bits in the machine's order, all in hexadecimal. A socket that
// is connected has a remote port, and is nobody's to call.
func openPort(line string) (at netip.AddrPort, ok bool) {
	f := strings.Fields(line)
	if len(f) < 3 || !strings.HasSuffix(f[2], ":0000") {
		return at, false
	}
	words, number, _ := strings.Cut(f[1], ":")
	port, err := strconv.ParseUint(number, 16, 16)
	raw, err2 := hex.DecodeString(words)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return at, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok
}

// Ask is HTTP with a path, TCP without.
func Ask(ctx context.Context, address, path string, secure *tls.Config) error {
	if path == "" {
		return TCP(ctx, address)
	}
	return HTTP(ctx, address, path, secure)
}

// Until asks again and again until the answer is yes (nil), or ctx ends: then
// the error is the last answer, or the cause of ctx where there was none.
func Until(ctx context.Context, ask func(context.Context) error) error {
	wait := shortest
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		// An answer that was cut short by ctx says less than the one before it.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return last
		case <-timer.C:
		}
		wait = min(2*wait, longest)
	}
}
