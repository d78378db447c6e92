package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// run starts a service with Run and returns where it listens, how to end it,
// and how to wait for its exit code.
func run(t *testing.T, c Config, setup Setup) (base string, end context.CancelFunc, code func() int, logged func() string) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	out, in := io.Pipe()
	var stderr lockedBuffer
	exit := make(chan int, 1)
	go func() {
		exit <- Run(ctx, path, setup, in, &stderr)
		in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	var said struct{ Listening string }
	if err == nil {
		err = json.Unmarshal([]byte(line), &said)
	}
	if err != nil {
		t.Fatalf("the service said %q (%v) and logged %s", line, err, stderr.String())
	}
	go io.Copy(io.Discard, out)
	return "http://" + said.Listening, cancel, sync.OnceValue(func() int { return <-exit }), stderr.String
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPages(t *testing.T) {
	var broken error
	var mu sync.Mutex
	c := Config{Service: "orders", Seed: 1, Edges: map[string]Edge{
		"payments": {Address: "127.0.0.1:1", Settings: pattern.Default(pattern.Hardened)},
		"users":    {Address: "127.0.0.1:1"},
	}}
	closed := false
	base, end, code, logged := run(t, c, func(_ context.Context, n *Node) (func() error, error) {
		n.Ready(func(context.Context) error { mu.Lock(); defer mu.Unlock(); return broken })
		n.State("answer", func() any { return 42 })
		n.Handle("GET /hello", func(w http.ResponseWriter, r *http.Request) { Fail(w, 418, "no %s", "tea") })
		return func() error { closed = true; return nil }, nil
	})
	if status, body := fetch(t, base+"/healthz"); status != 200 {
		t.Errorf("healthz: %d %s", status, body)
	}
	if status, body := fetch(t, base+"/hello"); status != 418 || body != `{"error":"no tea"}` {
		t.Errorf("hello: %d %s", status, body)
	}
	if status, body := fetch(t, base+"/admin/state"); status != 200 || body != `{"answer":42,"breakers":{"orders -\u003e payments":"closed"},"instance":0,"service":"orders"}` {
		t.Errorf("state: %d %s", status, body)
	}
	for _, want := range []string{`requests_total{route="GET /hello",status="4xx"} 1`, `breaker_state{edge="orders -> payments"} 0`, `calls_total{edge="orders -> users",outcome="timeout"} 0`, "go_goroutines", "process_cpu_seconds_total"} {
		if _, body := fetch(t, base+"/metrics"); !strings.Contains(body, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if status, _ := fetch(t, base+"/readyz"); status != 200 {
		t.Errorf("readyz: %d", status)
	}
	mu.Lock()
	broken = errors.New("the database is gone")
	mu.Unlock()
	if status, body := fetch(t, base+"/readyz"); status != 503 || !strings.Contains(body, "database is gone") {
		t.Errorf("readyz with a broken database: %d %s", status, body)
	}
	end()
	if got := code(); got != 0 || !closed {
		t.Errorf("exit code %d, closed %t; logged %s", got, closed, logged())
	}
}

func TestStoppingDrainsRequestsAndThenBackgroundWork(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	var order []string
	var mu sync.Mutex
	note := func(s string) { mu.Lock(); defer mu.Unlock(); order = append(order, s) }
	base, end, code, logged := run(t, Config{Service: "x"}, func(_ context.Context, n *Node) (func() error, error) {
		n.Handle("GET /slow", func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-release
			note("answered")
			Reply(w, 200, "done")
		})
		n.Go(func(ctx context.Context) { <-ctx.Done(); note("work ended") })
		return func() error { note("closed"); return nil }, nil
	})
	got := make(chan string, 1)
	go func() {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(base + "/slow")
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	<-arrived
	end()
	for { // until it no longer accepts
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			break
		}
		conn.Close()
	}
	close(release)
	if body := <-got; body != `"done"` {
		t.Errorf("the request in flight got %s", body)
	}
	if c := code(); c != 0 {
		t.Errorf("exit code %d, logged %s", c, logged())
	}
	if fmt.Sprint(order) != "[answered work ended closed]" {
		t.Errorf("order of the end: %v", order)
	}
}

func TestRunSaysWhyItCannot(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	fine := func(context.Context, *Node) (func() error, error) { return nil, nil }
	for name, test := range map[string]struct {
		config string
		setup  Setup
		want   string
	}{
		"no JSON":         {`{`, fine, "unexpected end of JSON"},
		"no name":         {`{}`, fine, `\"service\" is missing`},
		"edge to nowhere": {`{"service":"a","edges":{"b":{}}}`, fine, `edge \"a -> b\" has no address`},
		"port taken":      {fmt.Sprintf(`{"service":"a","listen":%q}`, taken.Addr()), fine, "address already in use"},
		"not our parent":  {`{"service":"a","parent":999999999}`, fine, "parent process is gone"},
		"set-up fails":    {`{"service":"a"}`, func(context.Context, *Node) (func() error, error) { return nil, errors.New("no disk") }, "set up a: no disk"},
		"edge not configured": {`{"service":"a","edges":{"b":{"address":"x:1"}}}`, func(_ context.Context, n *Node) (func() error, error) {
			_, err := n.Client("c")
			return nil, err
		}, `no edge \"a -> c\" in the configuration (a calls: b)`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(path, []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, logged strings.Builder
			if code := Run(t.Context(), path, test.setup, &out, &logged); code != 1 || out.Len() > 0 {
				t.Errorf("exit code %d, stdout %q", code, out.String())
			}
			if !strings.Contains(strings.ReplaceAll(logged.String(), `\u003e`, ">"), test.want) {
				t.Errorf("logged %s, want %q", logged.String(), test.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for body, status := range map[string]int{`{`: 400, ``: 400, `[1]`: 400, `"` + strings.Repeat("x", MaxBody) + `"`: 413} {
		w := httptest.NewRecorder()
		var v struct{ A int }
		if Decode(w, httptest.NewRequest("POST", "/", strings.NewReader(body)), &v) || w.Code != status {
			t.Errorf("%.20q: status %d, want %d", body, w.Code, status)
		}
	}
}

func TestDetachedOutlivesItsCaller(t *testing.T) {
	n := New(Config{Service: "a"}, slog.New(slog.DiscardHandler))
	caller, leave := context.WithCancel(withTrace(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	work := n.Detached(caller)
	leave()
	if work.Err() != nil || Trace(work) != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("after the caller left: %v, trace %q", work.Err(), Trace(work))
	}
	n.End()
	if work.Err() == nil {
		t.Error("the service's end did not end its work")
	}
}

// A keyed request whose connection is reset is sent once: net/http's own
// resending would be a retry that no breaker and no budget sees.
func TestTransportDoesNotResend(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var mu sync.Mutex
	requests := 0
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { // answers the first request of a connection, drops the second unanswered
				defer conn.Close()
				in := bufio.NewReader(conn)
				for k := range 2 {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					mu.Lock()
					requests++
					mu.Unlock()
					if k == 0 {
						io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
					}
				}
			})
		}
	})
	cl := NewClient(ClientConfig{Edge: "a -> b", Address: listener.Addr().String()})
	defer cl.closeIdle()
	call := Call{Method: "POST", Path: "/", Key: "k", Body: 1}
	if _, err := cl.Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Do(t.Context(), call); KindOf(err) != Broken {
		t.Errorf("a dropped connection came to %v", err)
	}
	listener.Close()
	mu.Lock()
	defer mu.Unlock()
	if requests != 2 {
		t.Errorf("%d requests arrived, want 2", requests)
	}
}

func TestConfigDefaults(t *testing.T) {
	c := Config{Service: "orders", Data: "/tmp/x"}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:0" || c.Scale != 1 || c.Database() != "/tmp/x/orders.db" {
		t.Errorf("defaults: %+v, database %s", c, c.Database())
	}
	if err := (&Config{Service: "a", Scale: -1}).complete(); err == nil {
		t.Error("a negative scale was accepted")
	}
}
