package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sony/gobreaker/v2"
)

// guarded is a user's service for the scripts: `guarded PORT BACKEND resilience4j`
// asks the backend for every page through a breaker of its own, and tells the
// breaker's state as resilience4j does; with liar, it always says closed.
func guarded() {
	port, backend, lies := os.Args[1], os.Args[2], os.Args[3] == "liar"
	state := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "resilience4j_circuitbreaker_state", Help: "The states of the circuit breaker"}, []string{"name", "state"})
	set := func(to gobreaker.State) {
		for of, name := range map[gobreaker.State]string{gobreaker.StateClosed: "closed", gobreaker.StateOpen: "open", gobreaker.StateHalfOpen: "half_open"} {
			value := 0.0
			if of == to {
				value = 1
			}
			state.WithLabelValues("back", name).Set(value)
		}
	}
	set(gobreaker.StateClosed)
	breaker := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{
		MaxRequests: 1, Timeout: time.Second,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= 5 },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if !lies {
				set(to)
			}
		},
	})
	registry := prometheus.NewRegistry()
	registry.MustRegister(state)
	mux := http.NewServeMux()
	mux.Handle("GET /actuator/prometheus", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		_, err := breaker.Execute(func() (int, error) {
			answer, err := http.Get("http://" + backend + "/")
			if err != nil {
				return 0, err
			}
			defer answer.Body.Close()
			if answer.StatusCode >= 500 {
				return 0, fmt.Errorf("answered %s", answer.Status)
			}
			return answer.StatusCode, nil
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+port, mux))
	os.Exit(1)
}
