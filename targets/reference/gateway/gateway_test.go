package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/reference/orders"
	"github.com/chaosctl/chaosctl/targets/reference/payments"
	"github.com/chaosctl/chaosctl/targets/reference/stock"
	"github.com/chaosctl/chaosctl/targets/reference/users"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory connects nodes without sockets: host "stock:80" is the node "stock".
type memory struct {
	mu    sync.RWMutex
	nodes map[string]http.Handler
	cut   map[string]bool // services that cannot be reached
}

func (m *memory) RoundTrip(r *http.Request) (*http.Response, error) {
	name, _, _ := strings.Cut(r.URL.Host, ":")
	m.mu.RLock()
	handler, cut := m.nodes[name], m.cut[name]
	m.mu.RUnlock()
	if handler == nil || cut {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	handler.ServeHTTP(w, in)
	return w.Result(), nil
}

func (m *memory) setCut(service string, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[service] = cut
}

// shop is the five services in one process, connected in memory.
func shop(t testing.TB, edge pattern.Settings) (front http.Handler, network *memory) {
	t.Helper()
	network = &memory{nodes: map[string]http.Handler{}, cut: map[string]bool{}}
	data := t.TempDir()
	for name, service := range services {
		n := node.NewWithTransport(node.Config{Service: name, Data: data, Seed: 1, Edges: edges(service.calls, edge, func(callee string) string { return callee + ":80" })},
			slog.New(slog.DiscardHandler), network)
		closer, err := service.setup(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		var work sync.WaitGroup
		work.Go(n.Background)
		t.Cleanup(func() {
			n.End()
			work.Wait()
			if closer != nil {
				if err := closer(); err != nil {
					t.Error(err)
				}
			}
		})
		network.nodes[name] = n.Handler()
	}
	return network.nodes["gateway"], network
}

var services = map[string]struct {
	setup node.Setup
	calls []string
}{
	"gateway":  {Setup, []string{"orders", "stock"}},
	"orders":   {orders.Setup, []string{"users", "stock", "payments"}},
	"payments": {payments.Setup, nil},
	"stock":    {stock.Setup, nil},
	"users":    {users.Setup, nil},
}

func edges(calls []string, s pattern.Settings, address func(string) string) map[string]node.Edge {
	out := map[string]node.Edge{}
	for _, callee := range calls {
		out[callee] = node.Edge{Address: address(callee), Settings: s}
	}
	return out
}

func ask(front http.Handler, method, path, body string, key string) (int, map[string]any, http.Header) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	front.ServeHTTP(w, r)
	var answer map[string]any
	_ = json.Unmarshal(w.Body.Bytes(), &answer)
	return w.Code, answer, w.Header()
}

const basket = `{"user":"u-17","items":[{"product":"p-3","quantity":1}]}`

func TestShopFromOutside(t *testing.T) {
	front, _ := shop(t, pattern.Default(pattern.Hardened))
	status, placed, _ := ask(front, "POST", "/checkout", basket, "")
	if status != 201 || placed["status"] != "completed" || placed["total"] == "" {
		t.Fatalf("checkout: %d %v", status, placed)
	}
	if status, order, _ := ask(front, "GET", "/orders/"+placed["order"].(string), "", ""); status != 200 || order["status"] != "completed" || order["total"] != placed["total"] {
		t.Errorf("order: %d %v", status, order)
	}
	_, second, _ := ask(front, "POST", "/checkout", basket, "")
	if second["order"] == placed["order"] {
		t.Error("equal bodies without a key are one order")
	}
	_, a, _ := ask(front, "POST", "/checkout", basket, "k")
	if _, b, _ := ask(front, "POST", "/checkout", basket, "k"); a["order"] != b["order"] {
		t.Error("one key made two orders")
	}
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/healthz", "", 200},
		{"GET", "/orders/none", "", 404},
		{"GET", "/products/none", "", 404},
		{"GET", "/products/a%2F..%2Fb", "", 404},
		{"POST", "/checkout", `{`, 400},
		{"POST", "/checkout", `{}`, 400},
		{"POST", "/checkout", `{"user":"u-x","items":[{"product":"p-3","quantity":1}]}`, 400},
		{"POST", "/checkout", `{"user":"u-1","items":[{"product":"p-3","quantity":999999}]},`, 400},
		{"GET", "/checkout", "", 405},
		{"GET", "/nowhere", "", 404},
	} {
		if status, answer, _ := ask(front, test.method, test.path, test.body, ""); status != test.status {
			t.Errorf("%s %s %s: %d %v, want %d", test.method, test.path, test.body, status, answer, test.status)
		}
	}
	const all = `{"user":"u-1","items":[{"product":"p-7","quantity":1000000}]}`
	if status, answer, _ := ask(front, "POST", "/checkout", all, ""); status != 201 {
		t.Errorf("the whole stock: %d %v", status, answer)
	}
	if status, answer, _ := ask(front, "POST", "/checkout", all, ""); status != 409 || answer["error"] != "sold out" {
		t.Errorf("more than there is: %d %v, want 409 sold out", status, answer)
	}
}

func TestCatalogueIsAnsweredFromMemory(t *testing.T) {
	front, network := shop(t, pattern.Settings{Fallback: pattern.Hardened})
	status, fresh, _ := ask(front, "GET", "/products/p-3", "", "")
	if status != 200 || fresh["product"] != "p-3" {
		t.Fatalf("product: %d %v", status, fresh)
	}
	network.setCut("stock", true)
	status, stale, header := ask(front, "GET", "/products/p-3", "", "")
	if status != 200 || stale["price"] != fresh["price"] || header.Get("X-Fallback") != "cache" {
		t.Errorf("stock gone: %d %v %v", status, stale, header)
	}
	if status, _, _ := ask(front, "GET", "/products/p-4", "", ""); status != 503 {
		t.Errorf("stock gone, never seen before: %d, want 503", status)
	}
	network.setCut("stock", false)
	if _, _, header := ask(front, "GET", "/products/p-3", "", ""); header.Get("X-Fallback") != "" {
		t.Error("stock is back, the answer still comes from memory")
	}
}

func TestDependencyGone(t *testing.T) {
	for _, test := range []struct {
		gone   string
		edge   pattern.Settings
		status int
	}{
		{"payments", pattern.Settings{Fallback: pattern.Hardened}, 202},
		{"stock", pattern.Settings{Fallback: pattern.Hardened}, 202},
		{"users", pattern.Settings{Fallback: pattern.Hardened}, 201},
		{"orders", pattern.Settings{Fallback: pattern.Hardened}, 503},
		{"payments", pattern.Settings{}, 503},
		{"stock", pattern.Settings{}, 503},
		{"users", pattern.Settings{}, 503},
	} {
		t.Run(fmt.Sprintf("%s/%s", test.gone, test.edge.Fallback), func(t *testing.T) {
			front, network := shop(t, test.edge)
			network.setCut(test.gone, true)
			if status, answer, _ := ask(front, "POST", "/checkout", basket, ""); status != test.status {
				t.Errorf("%d %v, want %d", status, answer, test.status)
			}
		})
	}
}

// BenchmarkCheckout is one checkout through five services over loopback, with
// every pattern on and all databases on disk; they share this process, so its
// CPU time is the whole shop's, the client included.
func BenchmarkCheckout(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	data := b.TempDir()
	addresses := map[string]string{}
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, name := range []string{"users", "stock", "payments", "orders", "gateway"} { // callees first
		n := node.New(node.Config{Service: name, Data: data, Seed: 1, Edges: edges(services[name].calls, pattern.Default(pattern.Hardened), func(callee string) string { return addresses[callee] })},
			slog.New(slog.DiscardHandler))
		closer, err := services[name].setup(ctx, n)
		if err != nil {
			b.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addresses[name] = listener.Addr().String()
		server := &http.Server{Handler: n.Handler()}
		all.Go(func() { server.Serve(listener) })
		all.Go(n.Background)
		defer func() {
			server.Close()
			n.End()
			if closer != nil {
				closer()
			}
		}()
	}
	client := node.NewClient(node.ClientConfig{Edge: "client -> gateway", Address: addresses["gateway"]})
	before := cpu()
	b.ResetTimer()
	start := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a, err := client.Do(ctx, node.Call{Method: "POST", Path: "/checkout", Body: json.RawMessage(basket)})
			if err != nil || a.Status != 201 && a.Status != 202 {
				b.Errorf("%d %v", a.Status, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "checkouts/s")
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/checkout")
}

// cpu is the CPU time this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
