package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// Client makes the calls along one edge, with the edge's patterns around each:
//
//	fallback( bulkhead( retry( breaker( timeout( call )))))
//
// The timeout is of one try, so that a slow try leaves room for another. The
// breaker is inside the retries, so that it sees every try and an open circuit
// ends the retrying. The bulkhead is outside, so that a call that waits to try
// again still counts against what the edge may cost the caller, and so that
// being turned away is neither retried nor held against the callee. The
// fallback covers for everything.
//
// A Client is safe for use by several goroutines.
type Client struct {
	edge     string
	base     string // http://host:port, where the callee is when nothing is wrong
	lookup   *lookup
	clock    *wallClock
	settings pattern.Settings
	http     http.RoundTripper
	log      *slog.Logger

	try     failsafe.Executor[Answer] // timeout; nil when off
	breaker *breaker                  // nil when off
	repeat  failsafe.Executor[Answer] // bulkhead and retry; nil when both are off
	once    failsafe.Executor[Answer] // bulkhead alone; nil when off
	metrics edgeMetrics
}

// ClientConfig says where an edge leads and how it is protected.
type ClientConfig struct {
	Edge      string // "orders -> payments"
	Address   string // host:port
	Settings  pattern.Settings
	Seed      uint64            // decides the back-off jitter and this instance's open time
	Transport http.RoundTripper // default: a keep-alive pool of its own
	Log       *slog.Logger      // default: none

	clock   *wallClock // of the node; default: one that is right
	metrics *callMetrics
}

// Call is one call. The zero value of everything but Method and Path is fine.
type Call struct {
	Method string
	Path   string
	Body   any    // encoded as JSON; nil = none
	Key    string // Idempotency-Key: makes any method repeatable
	Once   bool   // never retried: the caller has its own way of trying again
	// Fallback answers in place of a callee that could not, given why; it is asked
	// only when the edge's fallback is on.
	Fallback func(err error) (Answer, error)
}

// repeatable tells whether trying twice does no more than trying once.
func (c Call) repeatable() bool {
	switch c.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return c.Key != ""
}

// Answer is what the callee said: any status below 500.
type Answer struct {
	Status int
	Body   []byte
}

// Decode reads the JSON body into v.
func (a Answer) Decode(v any) error {
	if err := json.Unmarshal(a.Body, v); err != nil {
		return fmt.Errorf("the answer (status %d) is not the JSON expected: %w", a.Status, err)
	}
	return nil
}

// Kind says why there is no answer.
type Kind string

const (
	Open     Kind = "open"     // the breaker let nothing through
	Full     Kind = "full"     // the bulkhead had no room
	Timeout  Kind = "timeout"  // no answer in time; the callee may have acted
	Broken   Kind = "broken"   // connection refused, reset or cut short; the callee may have acted
	Status   Kind = "5xx"      // the callee answered 500 or above; it may have acted
	Canceled Kind = "canceled" // whoever wanted to know is gone
	refusal  Kind = "4xx"      // an answer; a failure only by the textbook
)

// Error is a call without an answer. The callee may have acted on it unless
// Kind is Open or Full: an outcome that is not known, not one that failed.
type Error struct {
	Edge string
	Call string // "POST /charges"
	Kind Kind
	Err  error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %s: %s", e.Edge, e.Call, e.Kind, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the Kind of a Client's error, or "" for any other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// NewClient makes a Client. It starts no goroutine.
func NewClient(c ClientConfig) *Client {
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.metrics == nil {
		m := newCallMetrics(prometheus.NewRegistry())
		c.metrics = &m
	}
	if c.clock == nil {
		c.clock = &wallClock{}
	}
	s := c.Settings
	_, callee, _ := strings.Cut(c.Edge, " -> ")
	client := &Client{edge: c.Edge, base: "http://" + c.Address, lookup: &lookup{callee: callee, address: c.Address}, clock: c.clock, settings: s, http: c.Transport, log: c.Log, metrics: c.metrics.edge(c.Edge)}
	if s.Timeout > 0 {
		client.try = failsafe.With[Answer](timeout.New[Answer](s.Timeout))
	}
	if s.Breaker.Failures > 0 || s.Breaker.FailureRatio > 0 {
		client.breaker = newBreaker(c.Edge, s.Breaker, c.Seed, c.Log, c.metrics)
	}
	var outer []failsafe.Policy[Answer]
	if s.Bulkhead.Limit > 0 {
		outer = append(outer, bulkhead.NewBuilder[Answer](uint(s.Bulkhead.Limit)).WithMaxWaitTime(s.Bulkhead.Wait).Build())
		client.once = failsafe.With(outer...)
		client.repeat = client.once
	}
	if s.Retry.Tries > 1 {
		client.repeat = failsafe.With(append(outer[:len(outer):len(outer)], client.retry(s.Retry, c.Seed))...)
	}
	return client
}

// retry builds the retry policy. Its waits come from pattern.Retry's formula
// rather than from the policy's own back-off, which knows only jitter after the
// cap.
func (c *Client) retry(r pattern.Retry, seed uint64) failsafe.Policy[Answer] {
	waits := &backoff{retry: r, rand: rand.New(rand.NewPCG(seed, mix(seed, "backoff")))}
	b := retrypolicy.NewBuilder[Answer]().
		WithMaxAttempts(r.Tries).
		ReturnLastFailure().
		WithDelayFunc(func(e failsafe.ExecutionAttempt[Answer]) time.Duration { return waits.before(e.Retries() + 1) }).
		OnRetry(func(failsafe.ExecutionEvent[Answer]) { c.metrics.retries.Inc() }).
		HandleIf(func(_ Answer, err error) bool {
			switch KindOf(err) {
			case Timeout, Broken, Status:
				return true
			case Open, refusal:
				return r.Mode == pattern.Textbook // D14
			}
			return false
		})
	if r.Budget > 0 {
		b = b.WithBudget(budget.NewBuilder().WithMaxRate(r.Budget).Build())
	}
	return b.Build()
}

// backoff draws the waits of pattern.Retry.
type backoff struct {
	retry pattern.Retry
	mu    sync.Mutex
	rand  *rand.Rand
}

// before is the wait before retry k, k = 1, 2, …
func (b *backoff) before(k int) time.Duration {
	b.mu.Lock()
	factor := 1 + b.retry.Jitter*(2*b.rand.Float64()-1)
	b.mu.Unlock()
	wait := float64(b.retry.Base) * math.Pow(2, float64(k-1))
	limit := float64(b.retry.Cap)
	if limit == 0 {
		limit = math.MaxInt64 / 4
	}
	if b.retry.Mode == pattern.Textbook {
		return time.Duration(min(wait, limit) * factor)
	}
	return time.Duration(min(wait*factor, limit))
}

// Do makes a call. Any answer below 500 is an Answer with a nil error; anything
// else is an *Error, unless the edge's fallback covered for it.
//
// A caller's ctx that ends counts as canceled, not against the callee. Work
// that must go on without its caller passes Node.Detached.
func (c *Client) Do(ctx context.Context, call Call) (Answer, error) {
	var body []byte
	if call.Body != nil {
		var err error
		if body, err = json.Marshal(call.Body); err != nil {
			return Answer{}, fmt.Errorf("encode the body of %s %s: %w", call.Method, call.Path, err)
		}
	}
	start := time.Now()
	answer, err := c.protected(ctx, call, body)
	c.metrics.seconds.Observe(time.Since(start).Seconds())
	c.metrics.count(err)
	if c.breaker != nil {
		c.breaker.tell()
	}
	if err != nil && KindOf(err) == refusal {
		return answer, nil // an answer after all: it only counted as a failure on the way
	}
	if err != nil && call.Fallback != nil && c.Covered() && KindOf(err) != Canceled {
		c.metrics.fallbacks.Inc()
		return call.Fallback(err)
	}
	return answer, err
}

// protected is everything but the fallback.
func (c *Client) protected(ctx context.Context, call Call, body []byte) (Answer, error) {
	outer := c.once
	if !call.Once && (call.repeatable() || c.settings.Retry.Mode == pattern.Textbook) {
		outer = c.repeat
	}
	if outer == nil {
		return c.guarded(ctx, call, body)
	}
	// A spent retry budget ends the call with an error that no longer says what
	// the tries came to: the last of them is kept.
	var last error
	answer, err := outer.WithContext(ctx).Get(func() (Answer, error) {
		var answer Answer
		answer, last = c.guarded(ctx, call, body)
		return answer, last
	})
	switch {
	case err == nil || KindOf(err) != "":
		return answer, err
	case errors.Is(err, bulkhead.ErrFull):
		return Answer{}, c.fail(call, Full, err)
	case errors.Is(err, budget.ErrExceeded) && last != nil:
		return Answer{}, last
	}
	return Answer{}, c.fail(call, kindOfContext(err), err)
}

// guarded is one try behind the breaker.
func (c *Client) guarded(ctx context.Context, call Call, body []byte) (Answer, error) {
	if c.breaker == nil {
		return c.timed(ctx, call, body)
	}
	answer, err := c.breaker.do(func() (Answer, error) { return c.timed(ctx, call, body) })
	if err != nil && KindOf(err) == "" {
		err = c.fail(call, Open, err)
	}
	return answer, err
}

// timed is one try with its timeout.
func (c *Client) timed(ctx context.Context, call Call, body []byte) (Answer, error) {
	if c.try == nil {
		return c.send(ctx, call, body)
	}
	answer, err := c.try.WithContext(ctx).GetWithExecution(func(e failsafe.Execution[Answer]) (Answer, error) {
		return c.send(e.Context(), call, body)
	})
	if err != nil && errors.Is(err, timeout.ErrExceeded) {
		return Answer{}, c.fail(call, Timeout, fmt.Errorf("no answer within %s", c.settings.Timeout))
	}
	if err != nil && KindOf(err) == "" {
		return Answer{}, c.fail(call, kindOfContext(err), err)
	}
	return answer, err
}

// send is the bare call.
func (c *Client) send(ctx context.Context, call Call, body []byte) (Answer, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	address, err := c.lookup.find(ctx)
	if err != nil {
		return Answer{}, c.broken(ctx, call, err)
	}
	base := c.base
	if address != c.lookup.address {
		base = "http://" + address
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, base+call.Path, reader)
	if err != nil {
		return Answer{}, c.fail(call, Broken, err)
	}
	// The transport would resend a keyed request by itself when a connection is
	// reset: a retry that neither breaker nor budget would see. It cannot without
	// GetBody. (A bodiless GET it still resends, once, on a reused connection.)
	req.GetBody = nil
	if body != nil {
		req.Header["Content-Type"] = jsonType
	}
	if call.Key != "" {
		req.Header["Idempotency-Key"] = []string{call.Key}
	}
	req.Header[sentAt] = []string{strconv.FormatInt(c.clock.now().UnixMilli(), 10)}
	if t := traceparent(ctx); t != "" {
		req.Header["Traceparent"] = []string{t}
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return Answer{}, c.broken(ctx, call, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	if err != nil {
		return Answer{}, c.broken(ctx, call, err)
	}
	answer := Answer{Status: resp.StatusCode, Body: text}
	switch {
	case answer.Status >= 500:
		return Answer{}, c.fail(call, Status, fmt.Errorf("status %d", answer.Status))
	case answer.Status >= 400:
		return answer, c.fail(call, refusal, fmt.Errorf("status %d", answer.Status))
	}
	return answer, nil
}

// broken tells a lost connection from a context that ended.
func (c *Client) broken(ctx context.Context, call Call, err error) error {
	if ctx.Err() != nil {
		return c.fail(call, kindOfContext(ctx.Err()), err)
	}
	return c.fail(call, Broken, err)
}

// kindOfContext: a deadline that passed is a timeout, whoever set it; anything
// else that ends a context is a caller who went away.
func kindOfContext(err error) Kind {
	if errors.Is(err, context.DeadlineExceeded) {
		return Timeout
	}
	return Canceled
}

func (c *Client) fail(call Call, kind Kind, err error) *Error {
	return &Error{Edge: c.edge, Call: call.Method + " " + call.Path, Kind: kind, Err: err}
}

// Edge is the edge's name, "orders -> payments".
func (c *Client) Edge() string { return c.edge }

// Settings are the edge's patterns.
func (c *Client) Settings() pattern.Settings { return c.settings }

// Covered tells whether the edge has a fallback.
func (c *Client) Covered() bool { return c.settings.Fallback == pattern.Hardened }

// Admits tells whether a call made now would get past the breaker (as far as
// one can know; another may take the only probe). Background work asks it, so
// that it waits instead of knocking.
func (c *Client) Admits() bool {
	if c.breaker == nil {
		return true
	}
	admits := c.breaker.admits()
	c.breaker.tell()
	return admits
}

// BreakerState is "closed", "open" or "half-open"; "" without a breaker.
func (c *Client) BreakerState() string {
	if c.breaker == nil {
		return ""
	}
	state := c.breaker.state()
	c.breaker.tell()
	return state
}

func (c *Client) closeIdle() {
	if t, ok := c.http.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// newTransport keeps connections alive for as many callers as a bulkhead ever
// admits: on loopback a new connection costs more than the call. It sets no
// timeout of its own, so that "off" is off.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{KeepAlive: -1}).DialContext,
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
}

// callMetrics are the metrics of all edges of a service.
type callMetrics struct {
	calls     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	retries   *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	changes   *prometheus.CounterVec
	state     *prometheus.GaugeVec
}

func newCallMetrics(r *prometheus.Registry) callMetrics {
	m := callMetrics{
		calls:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "calls_total", Help: "Calls made, by edge and outcome (ok, 4xx, 5xx, timeout, broken, open, full, canceled)."}, []string{"edge", "outcome"}),
		seconds:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "call_seconds", Help: "Time of a call, its retries included.", Buckets: seconds}, []string{"edge"}),
		retries:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "call_retries_total", Help: "Tries beyond a call's first."}, []string{"edge"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "call_fallbacks_total", Help: "Calls answered by their fallback."}, []string{"edge"}),
		changes:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "breaker_changes_total", Help: "Changes of a breaker's state, by the state entered."}, []string{"edge", "to"}),
		state:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "breaker_state", Help: "State of a breaker: 0 closed, 1 half-open, 2 open."}, []string{"edge"}),
	}
	r.MustRegister(m.calls, m.seconds, m.retries, m.fallbacks, m.changes, m.state)
	return m
}

// edgeMetrics are the series of one edge, looked up once.
type edgeMetrics struct {
	outcome            map[Kind]prometheus.Counter
	seconds            prometheus.Observer
	retries, fallbacks prometheus.Counter
}

func (m *callMetrics) edge(name string) edgeMetrics {
	e := edgeMetrics{
		outcome:   make(map[Kind]prometheus.Counter),
		seconds:   m.seconds.WithLabelValues(name),
		retries:   m.retries.WithLabelValues(name),
		fallbacks: m.fallbacks.WithLabelValues(name),
	}
	for _, kind := range []Kind{"ok", Open, Full, Timeout, Broken, Status, Canceled, refusal} {
		e.outcome[kind] = m.calls.WithLabelValues(name, string(kind))
	}
	return e
}

func (m edgeMetrics) count(err error) {
	kind := Kind("ok")
	if err != nil {
		kind = KindOf(err)
	}
	if c := m.outcome[kind]; c != nil {
		c.Inc()
	}
}
