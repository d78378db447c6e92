package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serving serves every connection of a listener with handle.
func serving(t testing.TB, l net.Listener, handle func(net.Conn)) {
	t.Helper()
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
}

// TestUnixBothSides: sockets in the file system carry the same bytes, small talk and
// bulk, with rules and without, and their ends.
func TestUnixBothSides(t *testing.T) {
	const size = 32 << 20
	dir := t.TempDir()
	up, err := net.Listen("unix", filepath.Join(dir, "up.sock"))
	if err != nil {
		t.Fatal(err)
	}
	serving(t, up, func(c net.Conn) { io.Copy(c, c); c.(*net.UnixConn).CloseWrite() })
	p := startWith(t, Config{Listen: "unix:" + filepath.Join(dir, "proxy.sock"), Upstream: "unix://" + up.Addr().String(), Protocol: TCP})
	if want := "unix://" + filepath.Join(dir, "proxy.sock"); p.Addr() != want {
		t.Errorf("it listens at %s, want %s", p.Addr(), want)
	}
	info, err := os.Lstat(filepath.Join(dir, "proxy.sock"))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v; want a socket of its owner's only", info.Mode(), err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, "proxy.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	over := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { rulesComeAndGo(t, p, 1, over, false) })
	all.Go(func() {
		io.CopyN(c, mrand.NewChaCha8([32]byte{1}), size)
		c.(*net.UnixConn).CloseWrite()
	})
	want, got := sha256.New(), sha256.New()
	io.CopyN(want, mrand.NewChaCha8([32]byte{1}), size)
	if n, err := io.Copy(got, c); n != size || err != nil || string(got.Sum(nil)) != string(want.Sum(nil)) {
		t.Errorf("%d bytes came back, %v; want the %d that were sent", n, err, size)
	}
	close(over)
	all.Wait()
	collect(t, p, func(s Stats) bool { return s.Open == 0 })
	p.Stop()
	if _, err := os.Lstat(filepath.Join(dir, "proxy.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Stop: %v", err)
	}
}

// TestUnixSpliced: bulk over sockets in the file system stays inside the kernel.
func TestUnixSpliced(t *testing.T) {
	const size = 16 << 20
	path := filepath.Join(t.TempDir(), "up.sock")
	up, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serving(t, up, func(c net.Conn) { io.CopyN(c, mrand.NewChaCha8([32]byte{1}), size) })
	p := startWith(t, Config{Upstream: "unix:" + path, Protocol: TCP})
	want, got := sha256.New(), sha256.New()
	io.CopyN(want, mrand.NewChaCha8([32]byte{1}), size)
	if n, err := io.Copy(got, dial(t, p.Addr()).Reader); n != size || err != nil || string(got.Sum(nil)) != string(want.Sum(nil)) {
		t.Errorf("%d bytes came, %v; want the %d that were sent", n, err, size)
	}
	if s := collect(t, p, func(s Stats) bool { return s.BytesDown == size }); s.Spliced == 0 {
		t.Error("nothing was spliced")
	}
}

// TestUnixReset: there is no RST, but the end comes at once.
func TestUnixReset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	p := startWith(t, Config{Listen: "unix://" + path, Upstream: startTCP(t, echo), Protocol: TCP})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "x")
	io.ReadFull(c, make([]byte, 1))
	add(t, p, Rule{Name: "cut", Percent: 1, Reset: &Cut{}})
	if _, err := c.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want the end", err)
	}
}

// TestUnixListen: a dead socket is removed, and nothing else is.
func TestUnixListen(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	dead, err := net.Listen("unix", at("dead"))
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen(t.Context(), "unix://"+at("dead"))
	if err != nil {
		t.Fatalf("a dead socket is in the way: %v", err)
	}
	if l.Addr().String() != "unix://"+at("dead") || l.Addr().Network() != "unix" {
		t.Errorf("it listens at %v", l.Addr())
	}
	if _, err := Listen(t.Context(), "unix:"+at("dead")); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a living one: %v, want EADDRINUSE", err)
	}

	// Somebody else's by the time it is closed.
	os.Rename(at("dead"), at("moved"))
	other, err := net.Listen("unix", at("dead"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l.Close()
	if _, err := os.Lstat(at("dead")); err != nil {
		t.Errorf("another's socket was removed: %v", err)
	}

	os.WriteFile(at("file"), []byte("precious"), 0o600)
	os.Mkdir(at("folder"), 0o700)
	for listen, want := range map[string]string{
		"unix:" + at("file"):      "it is no socket",
		"unix:" + at("folder"):    "it is no socket",
		"unix:" + at("nowhere/x"): "no such file",
		"unix:":                   "names no socket",
		"unix:///tmp/":            "names no socket",
		"unix:@abstract":          "only sockets in the file system",
		"unix:/" + strings.Repeat("x", longestPath): "at most 107 bytes",
	} {
		if l, err := Listen(t.Context(), listen); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", listen, err, want)
			if err == nil {
				l.Close()
			}
		}
	}
	if b, err := os.ReadFile(at("file")); string(b) != "precious" || err != nil {
		t.Errorf("a file was touched: %q, %v", b, err)
	}
}

// TestUnixListenRace: of many who find a dead socket, one listens, and keeps it.
func TestUnixListenRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 20 {
		dead, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		dead.(*net.UnixListener).SetUnlinkOnClose(false)
		dead.Close()
		won := make(chan net.Listener, 8)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if l, err := Listen(context.Background(), "unix:"+path); err == nil {
					won <- l
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		close(won)
		if len(won) != 1 {
			t.Errorf("%d listen", len(won))
		}
		for l := range won {
			if c, err := net.Dial("unix", path); err != nil {
				t.Error(err)
			} else {
				c.Close()
			}
			l.Close()
		}
	}
}

func skipWithoutIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback: %v", err)
	}
	l.Close()
}

func TestIPv6(t *testing.T) {
	skipWithoutIPv6(t)
	for _, listen := range []string{"[::1]:0", "[::1%lo]:0"} {
		l, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		serving(t, l, echo)
		ups := []string{l.Addr().String(), strings.Replace(l.Addr().String(), "]", "%lo]", 1)}
		if all, err := net.LookupHost("localhost"); err == nil && slices.Contains(all, "::1") { // of both families, and only one listens
			ups = append(ups, fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port))
		}
		for _, up := range ups {
			p := startWith(t, Config{Listen: listen, Upstream: up, Protocol: TCP})
			if !strings.HasPrefix(p.Addr(), "[::1") {
				t.Errorf("%s: listens at %s", listen, p.Addr())
			}
			for _, rules := range [][]Rule{nil, {{Name: "x", Percent: 1, Latency: &Latency{Delay: time.Millisecond}}}} { // both planes
				if err := p.SetRules(rules); err != nil {
					t.Fatal(err)
				}
				c := dial(t, p.Addr())
				c.send("hello")
				if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
					t.Errorf("%s -> %s: %v", listen, up, err)
				}
			}
		}
	}
}

// TestUpstreamsTakeTurns: by the number of the connection; one that is not there
// is passed over, and counted.
func TestUpstreamsTakeTurns(t *testing.T) {
	says := func(name string) string {
		return startTCP(t, func(c net.Conn) { io.WriteString(c, name); c.(*net.TCPConn).CloseWrite(); io.Copy(io.Discard, c) })
	}
	a, b, c := says("a"), says("b"), says("c")
	p := startWith(t, Config{Upstream: a + ", " + b + "," + c, Protocol: TCP})
	ask := func() string {
		t.Helper()
		conn := dial(t, p.Addr())
		defer conn.Close()
		got, err := io.ReadAll(conn.Reader)
		if err != nil {
			t.Error(err)
		}
		return string(got)
	}
	var got string
	for range 7 {
		got += ask()
	}
	if got != "abcabca" {
		t.Errorf("connections went to %s", got)
	}
	gone := "127.0.0.1:1"
	p.SetUpstream(a + "," + gone + "," + c)
	got = ""
	for range 6 { // from number 7 on
		got += ask()
	}
	if got != "ccacca" {
		t.Errorf("without b they went to %s", got)
	}
	s := collect(t, p, func(s Stats) bool { return s.Open == 0 && s.Calls == 13 })
	want := map[string]UpstreamStats{a: {Connections: 5}, b: {Connections: 2}, c: {Connections: 6}, gone: {Refused: 2}}
	for at, n := range want {
		if s.Upstreams[at] != n {
			t.Errorf("%s: %+v, want %+v", at, s.Upstreams[at], n)
		}
	}
	if s.Answers["refused"] > 0 {
		t.Errorf("stats %+v", s)
	}
	p.SetUpstream(gone + ",127.0.0.1:2")
	wantRefused(t, p.Addr())

	for text, want := range map[string]string{
		"127.0.0.1:1,":                              "empty address",
		"127.0.0.1:1,127.0.0.1:1":                   "twice",
		"127.0.0.1:1,unix:":                         "names no socket",
		"unix:" + strings.Repeat("x", 200) + ",a:1": "at most 107",
	} {
		if p, err := Start(t.Context(), Config{Name: "x", Upstream: text, Protocol: TCP}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
			if err == nil {
				p.Stop()
			}
		}
	}
}

// TestNoUpstream: rules answer, and what none of them does is answered as was said,
// or refused.
func TestNoUpstream(t *testing.T) {
	p := startWith(t, Config{Upstream: None, Protocol: HTTP, Absent: &Error{Status: 503, Body: "nobody is here"}})
	c := dial(t, p.Addr())
	for range 2 {
		if status, body := c.get("/"); status != 503 || body != "nobody is here" {
			t.Errorf("%d %q", status, body)
		}
	}
	remove := add(t, p, Rule{Name: "answers", Percent: 1, Error: &Error{Status: 200, Body: "ok"}, Match: Match{Path: "/a"}})
	if status, body := c.get("/a"); status != 200 || body != "ok" {
		t.Errorf("%d %q, want the rule's", status, body)
	}
	if status, _ := c.get("/b"); status != 503 {
		t.Errorf("%d for a request that no rule answers", status)
	}
	remove()
	if status, _ := c.get("/a"); status != 503 {
		t.Errorf("%d without the rule", status)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["503"] == 4 && s.Answers["200"] == 1 })
	if s.Calls != 5 || s.Upstream != 0 || len(s.Rules) != 1 {
		t.Errorf("stats %+v", s)
	}
	p.SetUpstream(startHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "here") }))
	if status, body := c.get("/"); status != 200 || body != "here" {
		t.Errorf("%d %q, with an upstream", status, body)
	}

	p = startWith(t, Config{Upstream: None, Protocol: HTTP})
	c = dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.wantReset()
	p = startWith(t, Config{Upstream: None, Protocol: TCP})
	wantRefused(t, p.Addr())
	collect(t, p, func(s Stats) bool { return s.Answers["refused"] == 1 })

	for want, c := range map[string]Config{
		"needs an http edge": {Protocol: TCP, Absent: &Error{Status: 503}},
		"status of the answer in place of the upstream is 9": {Protocol: HTTP, Absent: &Error{Status: 9}},
	} {
		c.Name, c.Upstream = "x", None
		if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestReceivedBytes: what came counts before it is passed on, on either plane.
func TestReceivedBytes(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	c := dial(t, p.Addr())
	c.send("12345")
	io.ReadFull(c, make([]byte, 5))
	collect(t, p, func(s Stats) bool { return s.ReceivedUp == 5 && s.ReceivedDown == 5 && s.BytesDown == 5 })
	add(t, p, Rule{Name: "mute", Percent: 1, Silence: &Silence{Direction: Request}})
	c.send("123")
	s := collect(t, p, func(s Stats) bool { return s.ReceivedUp == 3 })
	if s.BytesUp != 0 {
		t.Errorf("stats %+v", s)
	}
}
