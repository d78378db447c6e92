package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// TestLook: a service whose metrics the reference implementation writes.
func TestLook(t *testing.T) {
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "resilience4j_circuitbreaker_state", Help: "The states of the circuit breaker"}, []string{"name", "state", "application"})
	calls := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "resilience4j_circuitbreaker_calls_seconds", Help: "Total number of successful calls"}, []string{"name", "kind"})
	registry.MustRegister(gauge, calls)
	calls.WithLabelValues("payments", "successful").Observe(0.1)
	set := func(name, is string) {
		for _, state := range []string{"closed", "open", "half_open", "forced_open", "disabled", "metrics_only"} {
			value := 0.0
			if state == is {
				value = 1
			}
			gauge.WithLabelValues(name, state, "orders").Set(value)
		}
	}
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := NewReader(Source{Kind: Resilience4j, Path: "/", Name: "payments"})
	set("stock", "open")
	if _, err := r.Look(ctx, address); err == nil || !strings.Contains(err.Error(), `nothing named "payments" (there are: stock)`) {
		t.Errorf("a breaker that is not there: %v", err)
	}
	for is, want := range map[string]string{"closed": Closed, "open": Open, "half_open": HalfOpen, "forced_open": Open, "disabled": Closed, "metrics_only": Closed} {
		set("payments", is)
		if got, err := r.Look(ctx, address); err != nil || got != want {
			t.Errorf("%s: %q %v, want %s", is, got, err, want)
		}
	}
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	if _, err := r.Look(ctx, strings.TrimPrefix(down.URL, "http://")); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no such page: %v", err)
	}
	if _, err := r.Look(ctx, ""); err == nil {
		t.Error("a service without an address was read")
	}
}

// page is a part of what Envoy writes at /stats/prometheus, limits and hosts filled in.
func page(rqOpen, ejected, healthy string) string {
	return `# TYPE envoy_cluster_circuit_breakers_default_cx_open gauge
envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="payments"} 0
envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="stock"} 1
# TYPE envoy_cluster_circuit_breakers_default_rq_open gauge
envoy_cluster_circuit_breakers_default_rq_open{envoy_cluster_name="payments"} ` + rqOpen + `
# TYPE envoy_cluster_circuit_breakers_default_remaining_rq gauge
envoy_cluster_circuit_breakers_default_remaining_rq{envoy_cluster_name="payments"} 1000
# TYPE envoy_cluster_outlier_detection_ejections_active gauge
envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="payments"} ` + ejected + `
# TYPE envoy_cluster_membership_healthy gauge
envoy_cluster_membership_healthy{envoy_cluster_name="payments"} ` + healthy + `
`
}

func TestEnvoy(t *testing.T) {
	for _, c := range []struct{ rqOpen, ejected, healthy, want string }{
		{"0", "0", "3", Closed}, {"1", "0", "3", Open}, {"0", "3", "0", Open}, {"0", "1", "2", HalfOpen},
	} {
		r := NewReader(Source{Kind: Envoy, Name: "payments"})
		if got, err := r.Read(strings.NewReader(page(c.rqOpen, c.ejected, c.healthy))); err != nil || got != c.want {
			t.Errorf("%+v: %q %v", c, got, err)
		}
	}
	if _, err := NewReader(Source{Kind: Envoy, Name: "users"}).Read(strings.NewReader(page("0", "0", "1"))); err == nil || !strings.Contains(err.Error(), "payments, stock") {
		t.Errorf("a cluster that is not there: %v", err)
	}
}

// TestOpossum: counters tell what happened, not what is; the state follows from
// look to look.
func TestOpossum(t *testing.T) {
	r := NewReader(Source{Kind: Opossum, Name: "payments"})
	for i, c := range []struct {
		open, half, closed string
		want               string
	}{
		{"0", "0", "0", Closed},
		{"1", "0", "0", Open},
		{"1", "0", "0", Open},
		{"1", "1", "0", HalfOpen},
		{"1", "1", "0", HalfOpen},
		{"2", "1", "0", Open}, // the try failed
		{"3", "3", "0", HalfOpen},
		{"3", "3", "1", Closed},
		{"4", "4", "2", Closed}, // a whole round between two looks
		{"4", "4", "2", Closed},
		{"5", "4", "2", Open},
		{"0", "0", "0", Closed}, // the service began anew
		{"1", "0", "0", Open},
	} {
		text := `# HELP circuit A count of all circuit' events
# TYPE circuit counter
circuit{name="payments",event="open"} ` + c.open + `
circuit{name="payments",event="halfOpen"} ` + c.half + `
circuit{name="payments",event="close"} ` + c.closed + `
circuit{name="payments",event="fire"} 17
circuit{name="stock",event="open"} 5
`
		if got, err := r.Read(strings.NewReader(text)); err != nil || got != c.want {
			t.Errorf("look %d, %+v: %q %v", i, c, got, err)
		}
	}
	other := NewReader(Source{Kind: Opossum, Name: "payments"})
	if got, err := other.Read(strings.NewReader("circuit_breaker_counter{name=\"payments\",event=\"open\"} 1\n")); err != nil || got != Open {
		t.Errorf("the TypeScript relative: %q %v", got, err)
	}
}

// TestFailsafe: changes are counted like opossum's events, and a breaker that never
// changed has no such counter.
func TestFailsafe(t *testing.T) {
	r := NewReader(Source{Kind: Failsafe, Name: "payments"})
	count := func(metric, state, n string) string {
		return "failsafe_circuit_breaker_" + metric + `_count_total{failsafe_circuit_breaker_name="payments",failsafe_circuit_breaker_` + state + `",otel_scope_name="io.opentelemetry.failsafe-3.0"} ` + n + "\n"
	}
	text := "# TYPE failsafe_circuit_breaker_execution_count_total counter\n" + count("execution", `outcome="success`, "9")
	for i, c := range []struct{ more, want string }{
		{"", Closed},
		{count("state_change", `state="open`, "1"), Open},
		{count("state_change", `state="open`, "1") + count("state_change", `state="half_open`, "1"), HalfOpen},
		{count("state_change", `state="open`, "2") + count("state_change", `state="half_open`, "1"), Open},
		{count("state_change", `state="open`, "2") + count("state_change", `state="half_open`, "2") + count("state_change", `state="closed`, "1"), Closed},
	} {
		if got, err := r.Read(strings.NewReader(text + c.more)); err != nil || got != c.want {
			t.Errorf("look %d: %q %v, want %q", i, got, err, c.want)
		}
	}
	if got, err := NewReader(Source{Kind: Failsafe, Name: "payments"}).Read(strings.NewReader(count("state_changes", `state="open`, "1"))); err != nil || got != Open {
		t.Errorf("the name of the first releases: %q %v", got, err)
	}
	if _, err := NewReader(Source{Kind: Failsafe, Name: "stock"}).Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "there are: payments") {
		t.Errorf("a breaker that is not there: %v", err)
	}
}

// FuzzRead: a page is whatever a service likes to write.
func FuzzRead(f *testing.F) {
	f.Add(page("1", "2", "3"), "payments")
	f.Add("circuit{name=\"a\",event=\"open\"} NaN\n", "a")
	f.Add("resilience4j_circuitbreaker_state{name=\"a\",state=\"open\"} 1\n", "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		for _, kind := range []Kind{Resilience4j, Envoy, Opossum, Failsafe} {
			r := NewReader(Source{Kind: kind, Name: name})
			for range 2 {
				state, err := r.Read(strings.NewReader(text))
				if err == nil && state != Closed && state != Open && state != HalfOpen {
					t.Errorf("%s: state %q", kind, state)
				}
			}
		}
	})
}
