package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// h2c is HTTP/2 without TLS, and nothing else.
func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// startH2 serves h, over HTTP/2 and HTTP/1.1.
func startH2(t testing.TB, h http.HandlerFunc) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := h2c()
	p.SetHTTP1(true)
	s := &http.Server{Handler: h, Protocols: p}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// h2Client is a client of HTTP/2 on as few connections as it can.
func h2Client(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: h2c(), MaxConnsPerHost: 1}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask sends a request, and returns the status and the body of its answer.
func ask(t testing.TB, c *http.Client, method, url, body string) (int, string) {
	t.Helper()
	status, got, err := askErr(c, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, got
}

func askErr(c *http.Client, method, url, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	a, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	got, err := io.ReadAll(a.Body)
	if a.ProtoMajor != 2 {
		err = errors.Join(err, fmt.Errorf("the answer is %s, want HTTP/2", a.Proto))
	}
	return a.StatusCode, string(got), err
}

func TestH2Calls(t *testing.T) {
	p := startProxy(t, HTTP, startH2(t, hello))
	c, url := h2Client(t), "http://"+p.Addr()
	for i := range 3 {
		if status, body := ask(t, c, "POST", fmt.Sprint(url, "/", i), "abc"); status != 200 || body != fmt.Sprint("/", i, " abc") {
			t.Fatalf("call %d: %d %q", i, status, body)
		}
	}
	if status, body := ask(t, c, "HEAD", url+"/x", ""); status != 200 || body != "" {
		t.Fatalf("HEAD: %d %q", status, body)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 4 })
	if s.Calls != 4 || s.Upstream != 4 || len(s.Answers) != 1 || s.Latency.Count() != 4 || s.Opaque != 0 || s.Open != 1 || s.BytesUp == 0 || s.BytesDown == 0 {
		t.Errorf("stats %+v", s)
	}
	c.CloseIdleConnections()
	collect(t, p, func(s Stats) bool { return s.Open == 0 })
}

// TestH2Trailers: trailers, early hints and large heads arrive as they were sent.
func TestH2Trailers(t *testing.T) {
	large := strings.Repeat("x", 100_000)
	p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Sum")
		w.Header().Set("Large", r.Header.Get("Large"))
		io.Copy(w, r.Body)
		w.Header().Set("Sum", r.Trailer.Get("Sum"))
	}))
	r, _ := http.NewRequest("POST", "http://"+p.Addr(), io.NopCloser(strings.NewReader("body")))
	r.Header.Set("Large", large)
	r.Trailer = http.Header{"Sum": {"17"}}
	a, err := h2Client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil || string(body) != "body" || a.Trailer.Get("Sum") != "17" || a.Header.Get("Large") != large {
		t.Errorf("body %q, trailer %v, %v", body, a.Trailer, err)
	}
}

// TestH2BytesAreTheSame: many streams with large bodies both ways, while rules that
// alter time only come and go.
func TestH2BytesAreTheSame(t *testing.T) {
	const streams, size = 12, 2 << 20
	sum := func(seed uint64, n int64) string {
		h := sha256.New()
		io.CopyN(h, rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), n)
		return string(h.Sum(nil))
	}
	p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
		var n uint64
		fmt.Sscanf(r.URL.Path, "/%d", &n)
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		var both sync.WaitGroup
		h := sha256.New()
		both.Go(func() { io.Copy(h, r.Body) })
		io.CopyN(w, rand.NewChaCha8([32]byte{byte(n), 1}), size)
		both.Wait()
		if got := string(h.Sum(nil)); got != sum(n, size) {
			t.Errorf("what went up on stream %d arrived changed", n)
		}
	}))
	c := h2Client(t)
	over := make(chan struct{})
	var rules, all sync.WaitGroup
	rules.Go(func() { rulesComeAndGo(t, p, 3, over, false) })
	for n := range uint64(streams) {
		all.Go(func() {
			body := io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), size)
			r, _ := http.NewRequest("POST", fmt.Sprintf("http://%s/%d", p.Addr(), n), body)
			a, err := c.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer a.Body.Close()
			h := sha256.New()
			if k, err := io.Copy(h, a.Body); k != size || err != nil {
				t.Errorf("stream %d: %d bytes came down, %v; want %d", n, k, err, size)
			} else if got := string(h.Sum(nil)); got != sum(n|1<<8, size) {
				t.Errorf("what came down on stream %d arrived changed", n)
			}
		})
	}
	all.Wait()
	close(over)
	rules.Wait()
	if held := p.held.claimed.Load(); held != 0 {
		t.Errorf("%d bytes are still claimed", held)
	}
}

// TestH2InTLS: callers that agree on h2 with a proxy that ends their TLS are hit
// request by request, and the upstream speaks it too.
func TestH2InTLS(t *testing.T) {
	ca, authority := newTestCA(t), newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(hello), TLSConfig: ca.serverConfig(t)}
	done := make(chan struct{})
	go func() { s.ServeTLS(l, "", ""); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })

	p := startWith(t, Config{Upstream: l.Addr().String(), Protocol: HTTP,
		CallerTLS:   &CallerTLS{Authority: authority, ALPN: []string{"h2", "http/1.1"}},
		UpstreamTLS: &UpstreamTLS{CA: ca.pem}})
	transport := &http.Transport{TLSClientConfig: trusting(authority), ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
	t.Cleanup(transport.CloseIdleConnections)
	c, url := &http.Client{Transport: transport}, "https://"+p.Addr()

	big := strings.Repeat("0123456789abcdef", 100_000)
	if status, body := ask(t, c, "POST", url+"/big", big); status != 200 || body != "/big "+big {
		t.Fatalf("%d, %d bytes", status, len(body))
	}
	add(t, p, Rule{Name: "broken", Percent: 1, Match: Match{Path: "/broken"}, Error: &Error{Status: 503, Body: "injected"}})
	for path, want := range map[string]int{"/broken": 503, "/whole": 200} {
		if status, _ := ask(t, c, "GET", url+path, ""); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	got := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 2 && s.Answers["503"] == 1 })
	if got.Calls != 3 || got.Opaque != 0 || got.Open != 1 || got.Rules["broken"].Eligible != 1 || got.Rules["broken"].Fired != 1 {
		t.Errorf("stats %+v", got)
	}
}
