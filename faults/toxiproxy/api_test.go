package toxiproxy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	official "github.com/Shopify/toxiproxy/v2/client"
	"pgregory.net/rapid"
)

// TestOfficialClient: the life of a proxy, as Toxiproxy's own Go client leads it,
// with bytes that tell whether what it says is so.
func TestOfficialClient(t *testing.T) {
	client := official.NewClient(startServer(t, Config{}).URL)
	p, err := client.CreateProxy("echo", "localhost:0", upstream(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, p.Listen)
	ask(t, c, "hello")

	if _, err := p.AddToxic("", "latency", "upstream", 1, official.Attributes{"latency": 40}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AddToxic("back", "latency", "downstream", 1, official.Attributes{"latency": 10}); err != nil {
		t.Fatal(err)
	}
	if took := ask(t, c, "slow"); took < 50*time.Millisecond {
		t.Errorf("with 40 ms up and 10 ms down, an answer took %v", took)
	}
	if _, err := p.UpdateToxic("back", -1, official.Attributes{"latency": 30}); err != nil {
		t.Fatal(err)
	}
	if took := ask(t, c, "slower"); took < 70*time.Millisecond {
		t.Errorf("with 40 ms up and 30 ms down, an answer took %v", took)
	}
	if err := p.Disable(); err != nil {
		t.Fatal(err)
	}
	wantReset(t, c)
	if _, err := net.Dial("tcp", p.Listen); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a disabled proxy: %v", err)
	}
	if err := client.ResetState(); err != nil {
		t.Fatal(err)
	}
	if p, err = client.Proxy("echo"); err != nil || !p.Enabled || len(p.ActiveToxics) != 0 {
		t.Fatalf("after reset: %+v, %v", p, err)
	}
	ask(t, dial(t, p.Listen), "again")
	if err := p.Delete(); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(); err == nil || err.Error() != "Delete: HTTP 404: proxy not found" {
		t.Errorf("delete twice: %v", err)
	}
}

// TestToxicsComeWithTheProxy: what a definition names is at work from its first
// connection on.
func TestToxicsComeWithTheProxy(t *testing.T) {
	h := startServer(t, Config{})
	c, _ := NewClient(h.URL, "")
	to := upstream(t, echo)
	p, err := c.Create(context.Background(), Proxy{Name: "a", Upstream: to, Enabled: true, Toxics: []Toxic{{Type: "reset_peer"}}})
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, p.Listen)
	done, err := c.Populate(context.Background(), []byte(`[{"name":"b","upstream":"`+to+`","toxics":[{"type":"reset_peer"}]}]`))
	if err != nil || len(done) != 1 {
		t.Fatalf("%v, %v", done, err)
	}
	wantRefusal(t, done[0].Listen)
}

// TestToxicityZero: a toxic that is to hit nobody does not, and one that is to hit
// everybody hits open, idle connections too. (Toxiproxy: the first resets all the
// same, the second waits for bytes.)
func TestToxicityZero(t *testing.T) {
	client := official.NewClient(startServer(t, Config{}).URL)
	p, err := client.CreateProxy("echo", "", upstream(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, p.Listen)
	ask(t, c, "before")
	if _, err := p.AddToxic("never", "reset_peer", "", 0, nil); err != nil {
		t.Fatal(err)
	}
	ask(t, c, "after")
	ask(t, dial(t, p.Listen), "new")
	if _, err := p.AddToxic("always", "reset_peer", "", 1, nil); err != nil {
		t.Fatal(err)
	}
	wantReset(t, c)
}

// TestSeed: one seed hits the same connections, another seed others, and a
// neighbour that comes and goes, or another attribute, has no say in it.
func TestSeed(t *testing.T) {
	to := upstream(t, echo)
	hit := func(seed uint64, disturb bool) (hits string) {
		h := startServer(t, Config{Seed: seed})
		p, err := official.NewClient(h.URL).CreateProxy("p", "", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.AddToxic("half", "reset_peer", "", 0.5, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 24 {
			if disturb {
				if _, err := p.AddToxic(fmt.Sprint("n", i), "latency", "", 1, nil); err != nil {
					t.Fatal(err)
				}
				if i%2 == 1 {
					if err := p.RemoveToxic(fmt.Sprint("n", i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			fate := "x"
			if c, err := net.Dial("tcp", p.Listen); err == nil {
				_, _ = io.WriteString(c, "?")
				if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
					fate = "."
				}
				c.Close()
			}
			hits += fate
		}
		return hits
	}
	first := hit(7, false)
	if again := hit(7, false); again != first {
		t.Errorf("seed 7 hit %s, then %s", first, again)
	}
	if disturbed := hit(7, true); disturbed != first {
		t.Errorf("seed 7 hit %s, beside other toxics %s", first, disturbed)
	}
	if other := hit(8, false); other == first {
		t.Errorf("seeds 7 and 8 both hit %s", first)
	}
	if !strings.Contains(first, "x") || !strings.Contains(first, ".") {
		t.Errorf("toxicity 0.5 hit %s", first)
	}
}

// TestStuckConnection: a client that reads nothing while the upstream sends is
// where Toxiproxy's API hangs for good: no call may wait for it.
func TestStuckConnection(t *testing.T) {
	stuck := make(chan struct{}, 1)
	to := upstream(t, func(c net.Conn) {
		for block := make([]byte, 64<<10); ; {
			_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := c.Write(block); err != nil {
				break
			}
		}
		stuck <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})
	client := official.NewClient(startServer(t, Config{}).URL)
	p, err := client.CreateProxy("flood", "", to)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, p.Listen)
	<-stuck
	must := func(what string, f func() error) {
		t.Helper()
		soon(t, what, func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	for _, kind := range []string{"latency", "bandwidth", "slicer", "limit_data", "slow_close", "noop", "timeout"} {
		attributes := map[string]official.Attributes{
			"latency": {"latency": 10}, "slicer": {"average_size": 10}, "limit_data": {"bytes": 1 << 40},
		}[kind]
		for _, stream := range []string{"upstream", "downstream"} {
			name := kind + "_" + stream
			must("add "+name, func() error { _, err := p.AddToxic("", kind, stream, 1, attributes); return err })
			must("update "+name, func() error { _, err := p.UpdateToxic(name, 0.5, attributes); return err })
		}
	}
	must("list", func() error { _, err := client.Proxies(); return err })
	must("remove", func() error { return p.RemoveToxic("bandwidth_upstream") })
	must("reset", client.ResetState)
	must("disable", p.Disable)
	must("delete", p.Delete)
	_, _ = io.Copy(io.Discard, c) // ends: the connection is gone
}

var (
	stormConns = flag.Int("storm-conns", 100, "connections that TestStorm has open at once")
	stormFor   = flag.Duration("storm-for", 0, "how long TestStorm goes on at least; 0 is one round")
)

// TestStorm: a hundred connections copy bytes while the API is busy. Every byte
// arrives, in order.
func TestStorm(t *testing.T) {
	h := startServer(t, Config{})
	client := official.NewClient(h.URL)
	p, err := client.CreateProxy("echo", "", upstream(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	var copies, storm sync.WaitGroup
	var over atomic.Bool
	began := time.Now()
	copyOnce := func(n int) {
		sent := make([]byte, 48<<10)
		src := rand.NewChaCha8([32]byte{byte(n)})
		_, _ = src.Read(sent)
		c, err := net.Dial("tcp", p.Listen)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		var wrote sync.WaitGroup
		wrote.Go(func() {
			if _, err := c.Write(sent); err != nil {
				t.Errorf("connection %d: %v", n, err)
			}
			_ = c.(*net.TCPConn).CloseWrite()
		})
		got, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("connection %d: %v", n, err)
		}
		if sha256.Sum256(got) != sha256.Sum256(sent) {
			same := 0
			for same < min(len(got), len(sent)) && got[same] == sent[same] {
				same++
			}
			t.Errorf("connection %d: %d bytes came back of %d that were sent; the first %d are the same", n, len(got), len(sent), same)
		}
		c.Close()
		wrote.Wait()
	}
	for n := range *stormConns {
		copies.Go(func() {
			for first := true; first || time.Since(began) < *stormFor && !t.Failed(); first = false {
				copyOnce(n)
			}
		})
	}
	calls := []string{
		`POST /proxies/echo/toxics {"name":"%d","type":"latency","attributes":{"latency":2,"jitter":1}}`,
		`POST /proxies/echo/toxics {"name":"%d","type":"bandwidth","stream":"upstream","toxicity":0.5,"attributes":{"rate":100000}}`,
		`POST /proxies/echo/toxics {"name":"%d","type":"slicer","attributes":{"average_size":1000,"size_variation":900}}`,
		`PATCH /proxies/echo/toxics/%d {"toxicity":0.7}`,
		`DELETE /proxies/echo/toxics/%d `,
		`DELETE /proxies/echo/toxics/%d `,
		`GET /proxies/echo/stats `,
		`GET /metrics `,
		`POST /reset `,
	}
	for n := range 4 {
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		storm.Go(func() {
			for !over.Load() {
				line := calls[rng.IntN(len(calls))]
				if strings.Contains(line, "%d") {
					line = fmt.Sprintf(line, rng.IntN(6))
				}
				parts := strings.SplitN(line, " ", 3)
				resp, body := send(t, parts[0], h.URL+parts[1], parts[2], nil)
				switch resp.StatusCode {
				case http.StatusOK, http.StatusNoContent, http.StatusNotFound, http.StatusConflict:
				default:
					t.Errorf("%s: %s %s", line, resp.Status, body)
				}
			}
		})
	}
	copies.Wait()
	over.Store(true)
	storm.Wait()
}

// TestOneProxyDoesNotBlockAnother: while one proxy is being changed, and while a
// request's body is still on its way, everything else goes on.
func TestOneProxyDoesNotBlockAnother(t *testing.T) {
	s := NewServer(Config{})
	defer s.Stop()
	call := func(method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
		s.ServeHTTP(w, r)
		return w
	}
	for _, name := range []string{"busy", "free"} {
		if w := call("POST", "/proxies", `{"name":"`+name+`","upstream":"127.0.0.1:1"}`); w.Code != 201 {
			t.Fatal(w.Body)
		}
	}
	slow, rest := io.Pipe()
	var all sync.WaitGroup
	all.Go(func() { // a client that never comes to the end of its request
		r := httptest.NewRequest("POST", "http://localhost/proxies/free/toxics", slow)
		s.ServeHTTP(httptest.NewRecorder(), r)
	})
	_, _ = io.WriteString(rest, `{"type":`)
	s.entries["busy"].mu.Lock()
	soon(t, "calls beside a busy proxy", func() {
		for _, c := range []struct {
			request string
			status  int
		}{
			{"GET /proxies ", 200},
			{"GET /proxies/busy ", 200},
			{"GET /proxies/busy/toxics ", 200},
			{"GET /proxies/busy/stats ", 200},
			{"GET /metrics ", 200},
			{`POST /proxies {"name":"busy","upstream":"127.0.0.1:1"}`, 409},
			{`POST /proxies {"name":"new","upstream":"127.0.0.1:1"}`, 201},
			{`POST /proxies/free/toxics {"type":"latency"}`, 200},
			{`PATCH /proxies/free {"enabled":false}`, 200},
			{"DELETE /proxies/free ", 204},
		} {
			parts := strings.SplitN(c.request, " ", 3)
			if w := call(parts[0], parts[1], parts[2]); w.Code != c.status {
				t.Errorf("%s: %d %s, want %d", c.request, w.Code, w.Body, c.status)
			}
		}
	})
	s.entries["busy"].mu.Unlock()
	rest.Close()
	all.Wait()
}

// TestNamesAreTakenOnce: of many who create a name at once, one succeeds, and what
// it got is what there is.
func TestNamesAreTakenOnce(t *testing.T) {
	s := NewServer(Config{})
	defer s.Stop()
	var all sync.WaitGroup
	var made, refused atomic.Int64
	for n := range 32 {
		all.Go(func() {
			yes := true
			_, err := s.create(definition{Name: "one", Upstream: fmt.Sprint("127.0.0.1:", n+1), Enabled: &yes})
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, errProxyExists):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || refused.Load() != 31 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
	// Of those who populate, all do.
	for range 16 {
		all.Go(func() {
			if _, err := s.Populate([]byte(`[{"name":"all","upstream":"127.0.0.1:1"},{"name":"one","upstream":"127.0.0.1:1"}]`)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	// A name whose creation failed is free again.
	yes := true
	taken := s.entries["one"].now.Load().listen
	if _, err := s.create(definition{Name: "two", Listen: taken, Upstream: "127.0.0.1:1", Enabled: &yes}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("listen at a taken port: %v", err)
	}
	if _, err := s.create(definition{Name: "two", Upstream: "127.0.0.1:1", Enabled: &yes}); err != nil {
		t.Error(err)
	}
}

// TestStop: a stopped server has no listeners, ends connections, and makes nothing
// new.
func TestStop(t *testing.T) {
	s := NewServer(Config{})
	if _, err := s.Populate([]byte(`[{"name":"a","upstream":"` + upstream(t, echo) + `"}]`)); err != nil {
		t.Fatal(err)
	}
	addr := s.entries["a"].now.Load().listen
	c := dial(t, addr)
	ask(t, c, "hello")
	s.Stop()
	wantReset(t, c)
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after Stop: %v", err)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := s.Populate([]byte(`[{"name":"` + name + `","upstream":"x:1"}]`)); !errors.Is(err, errStopped) {
			t.Errorf("populate %s after Stop: %v", name, err)
		}
	}
	s.Stop()
}

// TestGuard: who gets to the API.
func TestGuard(t *testing.T) {
	open := startServer(t, Config{AllowedHosts: []string{"toxiproxy"}})
	closed := startServer(t, Config{Token: "sesame"})
	for _, c := range []struct {
		name   string
		server *httptest.Server
		header http.Header
		status int
	}{
		{"address", open, http.Header{}, 200},
		{"localhost", open, http.Header{"Host": {"LOCALHOST:8474"}}, 200},
		{"another address", open, http.Header{"Host": {"192.0.2.7:8474"}}, 200},
		{"IPv6", open, http.Header{"Host": {"[::1]:8474"}}, 200},
		{"IPv6 without port", open, http.Header{"Host": {"[2001:db8::1]"}}, 200},
		{"its own name", open, http.Header{"Host": {"Toxiproxy:8474"}}, 200},
		{"its own name, final dot", open, http.Header{"Host": {"toxiproxy."}}, 200},
		{"rebound name", open, http.Header{"Host": {"evil.example:8474"}}, 403},
		{"name like ours", open, http.Header{"Host": {"toxiproxy.evil.example"}}, 403},
		{"name like an address", open, http.Header{"Host": {"127.0.0.1.evil.example"}}, 403},
		{"page on this machine", open, http.Header{"Origin": {"http://localhost:3000"}}, 200},
		{"page on our name", open, http.Header{"Origin": {"http://toxiproxy:8474"}}, 200},
		{"page elsewhere", open, http.Header{"Origin": {"https://evil.example"}}, 403},
		{"page on another address", open, http.Header{"Origin": {"http://192.0.2.7"}}, 403},
		{"page without origin", open, http.Header{"Origin": {"null"}}, 403},
		{"browser", open, http.Header{"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64)"}}, 403},
		{"not a browser", open, http.Header{"User-Agent": {"curl/8 (not Mozilla/5.0)"}}, 200},
		{"no token", closed, http.Header{}, 401},
		{"wrong token", closed, http.Header{"Authorization": {"Bearer open"}}, 401},
		{"token as password", closed, http.Header{"Authorization": {"Basic sesame"}}, 401},
		{"token", closed, http.Header{"Authorization": {"bearer sesame"}}, 200},
		{"token, rebound name", closed, http.Header{"Authorization": {"Bearer sesame"}, "Host": {"evil.example"}}, 403},
	} {
		resp, body := send(t, "GET", c.server.URL+"/proxies", "", c.header)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s %s, want %d", c.name, resp.Status, body, c.status)
		}
		if (resp.Header.Get("WWW-Authenticate") != "") != (c.status == 401) {
			t.Errorf("%s: WWW-Authenticate %q", c.name, resp.Header.Get("WWW-Authenticate"))
		}
	}
	resp, body := send(t, "POST", open.URL+"/proxies", `{"name":"`+strings.Repeat("x", maxBody)+`"}`, nil)
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of more than 1 MiB: %s %s", resp.Status, body)
	}
	resp, _ = send(t, "GET", open.URL+"/version", "", nil)
	if resp.Header.Get("X-Toxiproxy-Request-Id") == "" {
		t.Error("no X-Toxiproxy-Request-Id")
	}
}

// TestMostToxics: the hundredth toxic is the last.
func TestMostToxics(t *testing.T) {
	h := startServer(t, Config{})
	c, _ := NewClient(h.URL, "")
	ctx := context.Background()
	if _, err := c.Create(ctx, Proxy{Name: "p", Upstream: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	for i := range maxToxics {
		if _, err := c.AddToxic(ctx, "p", Toxic{Name: fmt.Sprint(i), Type: "latency"}); err != nil {
			t.Fatal(err)
		}
	}
	var refused *Error
	if _, err := c.AddToxic(ctx, "p", Toxic{Name: "more", Type: "latency"}); !errors.As(err, &refused) || refused.Status != 409 {
		t.Errorf("toxic 101: %v", err)
	}
}

// TestToxicsStayInOrder: after any calls, the toxics are those of a list that the
// same calls were applied to: upstream first, then as they were added.
func TestToxicsStayInOrder(t *testing.T) {
	h := startServer(t, Config{})
	c, _ := NewClient(h.URL, "")
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		if _, err := c.Create(ctx, Proxy{Name: "p", Upstream: "127.0.0.1:1"}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Delete(ctx, "p") }()
		var up, down []string // "name=latency"
		has := func(name string) (list *[]string, i int) {
			for _, list := range []*[]string{&up, &down} {
				if i := slices.IndexFunc(*list, func(s string) bool { return strings.HasPrefix(s, name+"=") }); i >= 0 {
					return list, i
				}
			}
			return nil, -1
		}
		for range rapid.IntRange(1, 12).Draw(t, "calls") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
			ms := rapid.IntRange(0, 9).Draw(t, "latency")
			list, i := has(name)
			value := Toxic{Name: name, Type: "latency", Attributes: map[string]any{"latency": ms}}
			var err error
			var want error
			switch rapid.IntRange(0, 2).Draw(t, "call") {
			case 0:
				stream := rapid.SampledFrom([]string{"upstream", "downstream"}).Draw(t, "stream")
				value.Stream = stream
				_, err = c.AddToxic(ctx, "p", value)
				switch {
				case i >= 0:
					want = errToxicExists
				case stream == "upstream":
					up = append(up, fmt.Sprint(name, "=", ms))
				default:
					down = append(down, fmt.Sprint(name, "=", ms))
				}
			case 1:
				_, err = c.UpdateToxic(ctx, "p", name, value)
				if want = errToxicNotFound; i >= 0 {
					want = nil
					(*list)[i] = fmt.Sprint(name, "=", ms)
				}
			case 2:
				err = c.RemoveToxic(ctx, "p", name)
				if want = errToxicNotFound; i >= 0 {
					want = nil
					*list = slices.Delete(*list, i, i+1)
				}
			}
			if fmt.Sprint(err) != fmt.Sprint(want) {
				t.Fatalf("got %v, want %v", err, want)
			}
		}
		p, err := c.Proxy(ctx, "p")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range p.Toxics {
			got = append(got, fmt.Sprint(x.Name, "=", x.Attributes["latency"]))
		}
		if want := slices.Concat(up, down); !slices.Equal(got, want) {
			t.Fatalf("toxics are %v, want %v", got, want)
		}
	})
}

// TestClientAgainstOthers: what is not a Toxiproxy is said to be none, and a real
// one, which has no stats, is not an error.
func TestClientAgainstOthers(t *testing.T) {
	ctx := context.Background()
	var answer atomic.Value
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer.Load().(func(http.ResponseWriter))(w)
	}))
	c, err := NewClient(strings.TrimPrefix(h.URL, "http://"), "")
	if err != nil {
		t.Fatal(err)
	}
	answer.Store(func(w http.ResponseWriter) { http.Error(w, "404 page not found", 404) })
	if s, err := c.Stats(ctx, "p"); s != nil || err != nil {
		t.Errorf("stats of a real Toxiproxy: %v, %v", s, err)
	}
	answer.Store(func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") })
	if _, err := c.Proxies(ctx); err == nil || !strings.Contains(err.Error(), "not what a Toxiproxy says") {
		t.Errorf("a web page for an answer: %v", err)
	}
	answer.Store(func(w http.ResponseWriter) { w.WriteHeader(502) })
	var refused *Error
	if _, err := c.Proxies(ctx); !errors.As(err, &refused) || refused.Message != "502 Bad Gateway" {
		t.Errorf("an empty 502: %v", err)
	}
	h.Close()
	var none *UnreachableError
	if _, err := c.Proxies(ctx); !errors.As(err, &none) {
		t.Errorf("nobody there: %v", err)
	}
	for _, host := range []string{"", "http://", "ftp://localhost", "http://a b"} {
		if _, err := NewClient(host, ""); err == nil {
			t.Errorf("host %q: no error", host)
		}
	}
}

// TestStatsAndMetrics: the same counts, over a restart of the proxy too.
func TestStatsAndMetrics(t *testing.T) {
	h := startServer(t, Config{})
	client := official.NewClient(h.URL)
	to := upstream(t, echo)
	p, err := client.CreateProxy("p", "", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AddToxic("slow", "latency", "upstream", 1, official.Attributes{"latency": 5}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ask(t, dial(t, p.Listen), "12345")
		if err := p.Disable(); err != nil { // what its goroutines counted is complete then
			t.Fatal(err)
		}
		if err := p.Enable(); err != nil {
			t.Fatal(err)
		}
	}
	_, body := send(t, "GET", h.URL+"/proxies/p/stats", "", nil)
	var s Stats
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Connections.Accepted != 3 || s.Connections.Open != 0 || s.Connections.Ended["reset"] != 3 || s.Bytes.Upstream != 18 || s.Bytes.Downstream != 18 {
		t.Errorf("stats: %s", body)
	}
	slow := s.Toxics[0]
	if slow.Eligible != 3 || slow.Fired != 3 || slow.Delay == nil || slow.Delay.Count != 3 || slow.Delay.P50 < 0.005 {
		t.Errorf("stats of the toxic: %s", body)
	}
	_, text := send(t, "GET", h.URL+"/metrics", "", nil)
	for _, want := range []string{
		`toxiproxy_proxy_sent_bytes_total{direction="upstream",listener="` + p.Listen + `",proxy="p",upstream="` + to + `"} 18`,
		`toxiproxy_proxy_received_bytes_total{direction="downstream",listener="` + p.Listen + `",proxy="p",upstream="` + to + `"} 18`,
		`chaosctl_proxy_connections_total{proxy="p"} 3`,
		`chaosctl_proxy_open_connections{proxy="p"} 0`,
		`chaosctl_proxy_ended_connections_total{how="reset",proxy="p"} 3`,
		`chaosctl_proxy_enabled{proxy="p"} 1`,
		`chaosctl_toxic_fired_total{proxy="p",stream="upstream",toxic="slow",type="latency"} 3`,
		`chaosctl_toxic_added_delay_seconds_bucket{proxy="p",stream="upstream",toxic="slow",type="latency",le="0.002"} 0`,
		`chaosctl_toxic_added_delay_seconds_count{proxy="p",stream="upstream",toxic="slow",type="latency"} 3`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics: no %s", want)
		}
	}
	ask(t, dial(t, p.Listen), "12345")
	if _, text = send(t, "GET", h.URL+"/metrics", "", nil); !strings.Contains(text, `chaosctl_proxy_open_connections{proxy="p"} 1`+"\n") {
		t.Error("/metrics does not show the connection that is open")
	}
	// A toxic that is gone takes its counts with it.
	if err := p.RemoveToxic("slow"); err != nil {
		t.Fatal(err)
	}
	if _, text = send(t, "GET", h.URL+"/metrics", "", nil); strings.Contains(text, `toxic="slow"`) {
		t.Error("/metrics still shows a toxic that is gone")
	}
}
