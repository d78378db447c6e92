package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHTTP(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	address := s.Listener.Addr().String()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	for path, want := range map[string]string{"/": "", "/moved": "", "/broken": "GET /broken answered 503 Service Unavailable, not 2xx or 3xx"} {
		err := Ask(t.Context(), address, path, nil)
		if got := text(err); got != want {
			t.Errorf("%s: %q; want %q", path, got, want)
		}
	}
}

// TestHTTPS: with a certificate that is trusted, and only then.
func TestHTTPS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	address := s.Listener.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	if err := Ask(t.Context(), address, "/", &tls.Config{RootCAs: pool}); err != nil {
		t.Error(err)
	}
	if err := Ask(t.Context(), address, "/", &tls.Config{}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a certificate that nobody knows: %v", err)
	}
	if err := Ask(t.Context(), address, "/", nil); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("plainly: %v", err)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := Ask(t.Context(), address, "", nil); err != nil {
		t.Errorf("listening: %v", err)
	}
	l.Close()
	if err := Ask(t.Context(), address, "", nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed: %v; want refused", err)
	}
}

func TestUntilBacksOffAndGivesTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start, asked := time.Now(), 0
		no := errors.New("not yet")
		if err := Until(ctx, func(context.Context) error { asked++; return no }); err != no {
			t.Errorf("got %v; want the last answer", err)
		}
		// 2 + 4 + 8 + 16 + 32 ms, then every 50 ms: 6 + 18 questions in a second.
		if asked != 24 || time.Since(start) != time.Second {
			t.Errorf("%d questions in %v; want 24 in 1s", asked, time.Since(start))
		}

		start, asked = time.Now(), 0
		err := Until(t.Context(), func(context.Context) error {
			if asked++; asked < 4 {
				return no
			}
			return nil
		})
		if err != nil || time.Since(start) != 14*time.Millisecond {
			t.Errorf("%v after %v; want ready after 2+4+8 ms", err, time.Since(start))
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestUDP: the port is seen at its own address, at all addresses, and by IPv6; nothing
// is sent to it; and a socket that is connected is nobody's to call.
func TestUDP(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0"} {
		c, err := net.ListenPacket("udp", listen)
		if err != nil {
			if listen == "[::1]:0" {
				continue // no IPv6 here
			}
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(c.LocalAddr().String())
		host := "127.0.0.1"
		if listen == "[::1]:0" {
			host = "::1"
		}
		at := net.JoinHostPort(host, port)
		if err := UDP(t.Context(), at); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
		if err := UDP(t.Context(), net.JoinHostPort("127.0.0.9", port)); (err == nil) != (listen == "0.0.0.0:0") {
			t.Errorf("%s, asked for 127.0.0.9: %v", listen, err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if n, _, err := c.ReadFrom(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes were sent to it", n)
		}
		c.Close()
		if err := UDP(t.Context(), at); err == nil || !strings.Contains(err.Error(), "no UDP port is open at "+at) {
			t.Errorf("%s is closed: %v", listen, err)
		}
	}
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := UDP(t.Context(), c.LocalAddr().String()); err == nil {
		t.Error("a connected socket counts as a port")
	}
	for _, wrong := range []string{"", "no port", "127.0.0.1:x"} {
		if UDP(t.Context(), wrong) == nil {
			t.Errorf("%q is open", wrong)
		}
	}
}
