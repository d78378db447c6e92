package toxiproxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	official "github.com/Shopify/toxiproxy/v2/client"
)

// TestTLSProxy: clients speak TLS to a proxy, which speaks TLS to its upstream; a
// client that knows nothing of that leaves it as it is.
func TestTLSProxy(t *testing.T) {
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	defer web.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	h := startServer(t, Config{})
	c, err := NewClient(h.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.Create(t.Context(), Proxy{Name: "web", Upstream: web.Listener.Addr().String(), Enabled: true, TLS: &TLS{
		Listen: &ListenTLS{SelfSigned: true}, Upstream: &UpstreamTLS{CA: file, ServerName: "example.com"},
	}})
	if err != nil || made.TLS == nil || made.TLS.Upstream.CA != file {
		t.Fatalf("%+v, %v", made, err)
	}
	ca, err := c.CA(t.Context())
	if err != nil || strings.Contains(string(ca), "PRIVATE") {
		t.Fatalf("%v: %s", err, ca)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	get := func() error {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
		client := http.Client{Transport: transport, Timeout: 20 * time.Second}
		a, err := client.Get("https://" + made.Listen)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		if b, err := io.ReadAll(a.Body); string(b) != "hello" || err != nil {
			return fmt.Errorf("%q, %v", b, err)
		}
		return nil
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}

	// Toxiproxy's own client changes other things.
	other := official.NewClient(h.URL)
	p, err := other.Proxy("web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AddToxic("", "latency", "", 1, official.Attributes{"latency": 1}); err != nil {
		t.Fatal(err)
	}
	if err := p.Disable(); err != nil {
		t.Fatal(err)
	}
	if err := p.Enable(); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Error(err)
	}

	// Somebody who asks for another name is told, and so are the counts.
	resp, text := send(t, "POST", h.URL+"/proxies/web", `{"tls":{"listen":{"self_signed":true},"upstream":{"ca":"`+file+`","server_name":"elsewhere"}}}`, nil)
	if resp.StatusCode != 200 || !strings.Contains(text, "elsewhere") {
		t.Fatalf("%s %s", resp.Status, text)
	}
	if err := get(); err == nil {
		t.Error("an upstream of another name was taken")
	}
	s, err := c.Stats(t.Context(), "web")
	if err != nil || len(s.Handshakes) != 1 || s.Connections.Ended["handshake"] != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	for why := range s.Handshakes {
		if !strings.Contains(why, "not elsewhere") {
			t.Errorf("why: %s", why)
		}
	}
	if _, text := send(t, "GET", h.URL+"/metrics", "", nil); !strings.Contains(text, `chaosctl_proxy_failed_handshakes_total{proxy="web"`) {
		t.Error("/metrics does not know of the handshake")
	}
	if _, text := send(t, "GET", h.URL+"/metrics", "", nil); !strings.Contains(text, `chaosctl_proxy_tls_connections_total{alpn="http/1.1",proxy="web",server_name="example.com",side="upstream",version="TLS 1.3"}`) &&
		!strings.Contains(text, `chaosctl_proxy_tls_connections_total{alpn="",proxy="web",server_name="example.com",side="upstream",version="TLS 1.3"}`) {
		t.Errorf("/metrics does not know of the TLS that was agreed on:\n%s", text)
	}
	if len(s.TLS) != 2 || s.TLS[0].Connections < 2 || s.TLS[0].Version != "TLS 1.3" || s.TLS[1].Version != "TLS 1.3" {
		t.Errorf("what was agreed on: %+v", s.TLS)
	}

	// {} is plain again.
	resp, text = send(t, "POST", h.URL+"/proxies/web", `{"tls":{}}`, nil)
	if resp.StatusCode != 200 || strings.Contains(text, "elsewhere") {
		t.Errorf("%s %s", resp.Status, text)
	}
	if err := get(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("passed through, the upstream's own certificate is seen: %v", err)
	}
	s, err = c.Stats(t.Context(), "web")
	if err != nil || !slices.ContainsFunc(s.TLS, func(s TLSStats) bool { return s.Side == "through" && s.Version == "" }) {
		t.Errorf("of what passes through: %+v, %v", s.TLS, err)
	}
}

// TestTLSIsChecked: before anything is done.
func TestTLSIsChecked(t *testing.T) {
	h := startServer(t, Config{})
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for tls, want := range map[string]string{
		`{"listen":{}}`: `want \"cert\" and \"key\", or \"self_signed\": true`,
		`{"listen":{"self_signed":true,"cert":"` + junk + `"}}`:       "want either",
		`{"listen":{"cert":"` + dir + `/none","key":"` + junk + `"}}`: "tls: listen.cert: open",
		`{"listen":{"cert":"` + junk + `","key":"` + junk + `"}}`:     "failed to find any PEM data",
		`{"upstream":{"ca":"` + junk + `"}}`:                          "there is no certificate in it",
		`{"upstream":{"cert":"` + junk + `"}}`:                        "come together",
		`{"upstream":{"insecure":"yes"}}`:                             "cannot unmarshal string",
	} {
		resp, text := send(t, "POST", h.URL+"/proxies", `{"name":"x","upstream":"127.0.0.1:1","tls":`+tls+`}`, nil)
		if resp.StatusCode != 400 || !strings.Contains(text, want) {
			t.Errorf("%s: %s %s, want %s", tls, resp.Status, text, want)
		}
	}
	if _, text := send(t, "GET", h.URL+"/proxies", "", nil); text != "{}" {
		t.Errorf("there is %s", text)
	}
}

// TestUnixProxy: sockets on both sides, and the API on one.
func TestUnixProxy(t *testing.T) {
	dir := t.TempDir()
	up, err := net.Listen("unix", filepath.Join(dir, "up"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := up.Accept()
			if err != nil {
				return
			}
			echo(c)
			c.Close()
		}
	}()
	defer func() { up.Close(); <-done }()

	s := NewServer(Config{})
	l, err := net.Listen("unix", filepath.Join(dir, "api"))
	if err != nil {
		t.Fatal(err)
	}
	api := &http.Server{Handler: s}
	served := make(chan error, 1)
	go func() { served <- api.Serve(l) }()
	defer func() { api.Close(); <-served; s.Stop() }()
	c, err := NewClient("unix://"+filepath.Join(dir, "api"), "")
	if err != nil {
		t.Fatal(err)
	}
	listen := "unix://" + filepath.Join(dir, "proxy")
	p, err := c.Create(t.Context(), Proxy{Name: "u", Listen: "unix:" + filepath.Join(dir, "proxy"), Upstream: "unix:" + filepath.Join(dir, "up"), Enabled: true})
	if err != nil || p.Listen != listen {
		t.Fatalf("%+v, %v", p, err)
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "proxy"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask(t, conn, "hello")
	if p, err = c.Enable(t.Context(), "u", true); err != nil || p.Listen != listen {
		t.Errorf("%+v, %v", p, err)
	}
	ask(t, conn, "still the same connection")
	// The same socket by another of its names is the same place.
	config, _ := json.Marshal([]Proxy{{Name: "u", Listen: "unix:" + filepath.Join(dir, ".", "proxy"), Upstream: p.Upstream, Enabled: true}})
	if _, err := c.Populate(t.Context(), config); err != nil {
		t.Error(err)
	}
	ask(t, conn, "and still")
	if _, err := c.Create(t.Context(), Proxy{Name: "twice", Listen: listen, Upstream: "127.0.0.1:1", Enabled: true}); err == nil || !strings.Contains(err.Error(), "somebody listens there already") {
		t.Errorf("the same socket twice: %v", err)
	}
	if err := c.Delete(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "proxy")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a deleted proxy: %v", err)
	}

	gone, err := NewClient("unix:"+filepath.Join(dir, "nobody"), "")
	if err != nil {
		t.Fatal(err)
	}
	var unreachable *UnreachableError
	if _, err := gone.Proxies(t.Context()); !errors.As(err, &unreachable) || unreachable.Host != "unix://"+filepath.Join(dir, "nobody") {
		t.Errorf("%v", err)
	}
}

// TestSeveralUpstreamsAndNone: through the field that has one in Toxiproxy.
func TestSeveralUpstreamsAndNone(t *testing.T) {
	h := startServer(t, Config{})
	client := official.NewClient(h.URL)
	says := func(name string) string {
		return upstream(t, func(c net.Conn) { io.WriteString(c, name+"\n") })
	}
	a, b := says("a"), says("b")
	p, err := client.CreateProxy("both", "", a+","+b)
	if err != nil || p.Upstream != a+","+b {
		t.Fatalf("%+v, %v", p, err)
	}
	got := ""
	for range 4 {
		line, err := bufio.NewReader(dial(t, p.Listen)).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		got += line
	}
	if got != "a\nb\na\nb\n" {
		t.Errorf("connections went to %q", got)
	}
	c, _ := NewClient(h.URL, "")
	s, err := c.Stats(t.Context(), "both")
	if err != nil || s.Upstreams[a].Connections != 2 || s.Upstreams[b].Connections != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, text := send(t, "GET", h.URL+"/metrics", "", nil); !strings.Contains(text, `chaosctl_proxy_upstream_tried_total{proxy="both",result="connected",upstream="`+a+`"} 2`+"\n") {
		t.Error("/metrics does not tell the upstreams apart")
	}
	if _, err := client.CreateProxy("wrong", "", a+","+a); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same twice: %v", err)
	}
	p, err = client.CreateProxy("nobody", "", "none")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, dial(t, p.Listen)); n > 0 || err != nil {
		t.Errorf("without an upstream: %d bytes, %v; want the end", n, err)
	}
}

// TestIPv6Proxy: in Toxiproxy's text forms.
func TestIPv6Proxy(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			echo(c)
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	client := official.NewClient(startServer(t, Config{}).URL)
	p, err := client.CreateProxy("six", "[::1]:0", l.Addr().String())
	if err != nil || !strings.HasPrefix(p.Listen, "[::1]:") {
		t.Fatalf("%+v, %v", p, err)
	}
	c := dial(t, p.Listen)
	ask(t, c, "hello")
	if err := p.Enable(); err != nil { // sends back what it saw
		t.Fatal(err)
	}
	ask(t, c, "still the same connection")
	if err := p.Disable(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", p.Listen); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
	zone, err := client.CreateProxy("zone", "[::1%lo]:0", l.Addr().String())
	if err != nil || !strings.HasPrefix(zone.Listen, "[::1") {
		t.Errorf("%+v, %v", zone, err)
	}
}
