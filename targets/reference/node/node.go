// Package node is the one small runtime on which every reference service
// stands: its configuration, its listener, its life from start to SIGTERM, its
// client for each edge, and the pages by which it is watched.
//
//	GET /healthz      200 as long as the process answers
//	GET /readyz       200 when the service's own resources are usable; it never
//	                  asks other services, so that one dead database does not
//	                  take everybody out of rotation
//	GET /metrics      Prometheus text
//	GET /admin/state  {"service":"orders","instance":0,"breakers":{"orders -> payments":"closed"},…}
//	/admin/faults     what is wrong with it on purpose, and its time; see Faults
//
// A service is a Setup function: it registers handlers and background work on
// the Node and returns how to close what it opened.
package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Grace is how long a stopping service waits for requests in flight.
const Grace = 5 * time.Second

// Setup makes a service out of a Node: it registers handlers, readiness checks
// and background work, and returns how to close what it opened (nil: nothing).
// It must not block; ctx bounds it and nothing else.
type Setup func(ctx context.Context, n *Node) (closer func() error, err error)

// Run is the whole life of a service process: it reads the configuration, sets
// the service up, prints {"listening":"127.0.0.1:PORT"} on stdout once it
// accepts connections, logs JSON lines on stderr, and serves until SIGTERM,
// SIGINT or ctx ends it. It returns the process's exit code: 0 after an orderly
// end, else 1.
func Run(ctx context.Context, configPath string, setup Setup, stdout, stderr io.Writer) int {
	// The parent-death signal belongs to the thread that asked for it, so this
	// thread has to last as long as the service.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer frugal()()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	log := slog.New(slog.NewJSONHandler(stderr, nil))
	c, err := Load(configPath)
	if err == nil {
		log = log.With("service", c.Service, "instance", c.Instance)
		err = dieWithParent(c.Parent)
	}
	if err == nil {
		err = New(c, log).serve(ctx, setup, stdout)
	}
	if err != nil {
		log.Error("service failed", "error", err.Error())
		return 1
	}
	return 0
}

// frugal suits the Go runtime to a process that shares its machine with the
// other services and with the load that measures them. On two cores, a shop of
// five at 200 checkouts a second took 0.75 cores without it and 0.52 with it:
// idle schedulers spin, and small heaps are collected all the time. Whoever sets
// GOMAXPROCS or GOGC is left alone. It returns how to undo it.
func frugal() (undo func()) {
	procs := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.NumCPU()/4))
	}
	if os.Getenv("GOGC") != "" {
		return func() { runtime.GOMAXPROCS(procs) }
	}
	percent := debug.SetGCPercent(400)
	return func() { runtime.GOMAXPROCS(procs); debug.SetGCPercent(percent) }
}

// Node is one running instance of a service. Its methods that register things
// are for Setup, before serving begins; the others are safe for use by several
// goroutines.
type Node struct {
	Config Config
	Log    *slog.Logger

	mux      *http.ServeMux
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	calls    callMetrics

	clients map[string]*Client
	checks  []func(context.Context) error
	state   map[string]func() any
	work    []func(context.Context)

	clock    wallClock
	changing sync.Mutex // one change of faults at a time
	faults   atomic.Pointer[Faults]

	life   context.Context // ends when requests in flight are no longer waited for
	end    context.CancelFunc
	ending atomic.Bool
}

// New makes a Node that does not serve yet, with a Client for each edge of c.
func New(c Config, log *slog.Logger) *Node { return NewWithTransport(c, log, newTransport()) }

// NewWithTransport is New with another way to make calls: tests connect nodes in
// memory by it.
func NewWithTransport(c Config, log *slog.Logger, transport http.RoundTripper) *Node {
	c.Scale = cmp.Or(c.Scale, 1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	life, end := context.WithCancel(context.Background())
	n := &Node{
		Config:   c,
		Log:      log,
		mux:      http.NewServeMux(),
		registry: registry,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "Requests answered, by route and status."}, []string{"route", "status"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "request_seconds", Help: "Time from a request's arrival to its answer.", Buckets: seconds}, []string{"route"}),
		calls:    newCallMetrics(registry),
		clients:  make(map[string]*Client),
		state:    make(map[string]func() any),
		life:     life,
		end:      end,
	}
	registry.MustRegister(n.requests, n.seconds)
	for callee, edge := range c.Edges {
		n.clients[callee] = NewClient(ClientConfig{
			Edge:      c.Service + " -> " + callee,
			Address:   edge.Address,
			Settings:  edge.Settings,
			Seed:      mix(c.Seed, c.Service, strconv.Itoa(c.Instance), callee),
			Transport: transport,
			Log:       log,
			clock:     &n.clock,
			metrics:   &n.calls,
		})
	}
	n.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		Reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	n.mux.HandleFunc("GET /readyz", n.ready)
	n.mux.HandleFunc("GET /admin/state", n.adminState)
	if c.Control != "" {
		n.mux.HandleFunc("GET /admin/faults", n.admitted(n.getFaults))
		n.mux.HandleFunc("PUT /admin/faults", n.admitted(n.putFaults))
	}
	n.mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return n
}

// seconds are the histogram buckets: a loopback call to the slowest timeout.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// serve sets the service up and serves until ctx is done, then drains: requests
// in flight have Grace to finish. It prints where it listens on stdout.
func (n *Node) serve(ctx context.Context, setup Setup, stdout io.Writer) (err error) {
	defer n.End()
	if err := n.setFaults(n.Config.Faults); err != nil {
		return fmt.Errorf("configuration of %s: %w", n.Config.Service, err)
	}
	closer, err := setup(ctx, n)
	if err != nil {
		return fmt.Errorf("set up %s: %w", n.Config.Service, err)
	}
	if closer != nil {
		defer func() { err = errors.Join(err, closer()) }()
	}
	defer n.closeIdle()

	listener, err := net.Listen("tcp", n.Config.Listen)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", n.Config.Service, err)
	}
	server := &http.Server{
		Handler:           n.mux,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(n.Log.Handler(), slog.LevelWarn),
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(n.Background)
	defer n.End() // before all.Wait

	served := make(chan error, 1)
	all.Go(func() { served <- server.Serve(listener) })
	if _, err := fmt.Fprintf(stdout, "{\"listening\":%q}\n", listener.Addr()); err != nil {
		server.Close()
		return fmt.Errorf("say where %s listens: %w", n.Config.Service, err)
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", n.Config.Service, err)
	case <-ctx.Done():
	}

	n.ending.Store(true)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), Grace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		n.Log.Warn("requests in flight are cut", "error", err.Error())
		n.End()
		return server.Close()
	}
	return nil
}

// Client is the way to a callee. It fails when the configuration has no such
// edge.
func (n *Node) Client(callee string) (*Client, error) {
	c, ok := n.clients[callee]
	if !ok {
		return nil, fmt.Errorf("no edge %q in the configuration (%s calls: %s)", n.Config.Service+" -> "+callee, n.Config.Service,
			strings.Join(slices.Sorted(maps.Keys(n.clients)), ", "))
	}
	return c, nil
}

// Handle registers a handler for a pattern of http.ServeMux ("POST /orders")
// and measures it. Its requests carry the caller's trace.
func (n *Node) Handle(route string, handler http.HandlerFunc) {
	seconds := n.seconds.WithLabelValues(route)
	var counters [6]prometheus.Counter // by hundreds of status: a fixed, small set of series
	for i := range counters {
		counters[i] = n.requests.WithLabelValues(route, strconv.Itoa(i)+"xx")
	}
	n.mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		if n.stale(rec, r) {
			counters[min(rec.status/100, 5)].Inc()
			return
		}
		handler(rec, r.WithContext(withTrace(r.Context(), r.Header.Get("traceparent"))))
		seconds.Observe(time.Since(start).Seconds())
		counters[min(rec.status/100, 5)].Inc()
	})
}

// Go registers work that runs beside the requests. Its ctx ends once requests
// in flight have drained; the process waits for it to return.
func (n *Node) Go(work func(ctx context.Context)) { n.work = append(n.work, work) }

// Background does the registered work until End. A serving node calls it itself.
func (n *Node) Background() {
	var all sync.WaitGroup
	for _, work := range n.work {
		all.Go(func() { work(n.life) })
	}
	all.Wait()
}

// End cuts everything that is under way: background work, and what handlers do
// on a Detached context. A serving node calls it itself, after draining.
func (n *Node) End() { n.end() }

// Ready registers a check of the service's own resources for /readyz.
func (n *Node) Ready(check func(ctx context.Context) error) { n.checks = append(n.checks, check) }

// State adds a key to /admin/state. value is called per request.
func (n *Node) State(key string, value func() any) { n.state[key] = value }

// Register adds a metric to /metrics.
func (n *Node) Register(c prometheus.Collector) { n.registry.MustRegister(c) }

// Detached is a context for work that must go on when its caller is gone: it
// keeps the trace of ctx, and ends only with the service's own life.
func (n *Node) Detached(ctx context.Context) context.Context {
	return context.WithValue(n.life, traceKey{}, traceOf(ctx))
}

// Handler is the node's whole HTTP surface, for tests without a listener.
func (n *Node) Handler() http.Handler { return n.mux }

// Rand returns a random source of its own for one purpose, decided by the
// seed, the service, the instance and the purpose. It is not safe for use by
// several goroutines.
func (n *Node) Rand(purpose string) *rand.Rand {
	return rand.New(rand.NewPCG(mix(n.Config.Seed, n.Config.Service, strconv.Itoa(n.Config.Instance), purpose), 0))
}

func (n *Node) closeIdle() {
	for _, c := range n.clients {
		c.closeIdle()
	}
}

func (n *Node) ready(w http.ResponseWriter, r *http.Request) {
	if n.ending.Load() {
		Fail(w, http.StatusServiceUnavailable, "stopping")
		return
	}
	for _, check := range n.checks {
		if err := check(r.Context()); err != nil {
			Fail(w, http.StatusServiceUnavailable, "%s", err)
			return
		}
	}
	Reply(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (n *Node) adminState(w http.ResponseWriter, _ *http.Request) {
	breakers := make(map[string]string)
	for _, c := range n.clients {
		if c.breaker != nil {
			breakers[c.edge] = c.BreakerState()
		}
	}
	out := map[string]any{"service": n.Config.Service, "instance": n.Config.Instance, "breakers": breakers}
	for key, value := range n.state {
		out[key] = value()
	}
	Reply(w, http.StatusOK, out)
}

// recorder remembers the status for the metrics.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// MaxBody bounds every body that a reference service reads.
const MaxBody = 1 << 20

// Decode reads a request's JSON body into v; on failure it has answered 400 (or
// 413) and returns false.
func Decode(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			Fail(w, http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", tooLarge.Limit)
		} else {
			Fail(w, http.StatusBadRequest, "read the body: %s", err)
		}
		return false
	}
	if err := json.Unmarshal(body, v); err != nil {
		Fail(w, http.StatusBadRequest, "the body is not the JSON expected here: %s", err)
		return false
	}
	return true
}

// Reply answers with a status and a JSON body.
func Reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body) // the caller may be gone: nobody is left to tell
}

var jsonType = []string{"application/json"}

// Fail answers {"error":…}.
func Fail(w http.ResponseWriter, status int, format string, args ...any) {
	Reply(w, status, map[string]string{"error": fmt.Sprintf(format, args...)})
}
