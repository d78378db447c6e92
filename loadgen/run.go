package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// Config is one stream to run.
type Config struct {
	Spec  Spec
	Seed  uint64
	Start time.Time // offset zero of the run's clock; the zero time is now

	// From and Until are the offsets between which requests are due: [From, Until).
	From, Until time.Duration

	// Requests ends the stream after so many, if it is above 0, as if Until had come.
	Requests uint64

	// Resolve is the host:port of the target, empty while it has none. It is asked
	// for every new connection, from many goroutines: a restarted service may have
	// moved. Connections to where it was end when it ends them.
	Resolve func() string

	// The hooks are called from one goroutine and must not block long; each may be nil.
	OnWindow func(Window)
	OnSample func(Sample)
	OnResult func(Result) // every finished request but the canceled and those of a setup; its path is rendered again for it

	// Engine is how requests get onto the wire; Chosen says what becomes of Auto.
	Engine Engine
	loops  int // event loops of the fast engine, where a test wants so many; not more than connections or users
	buffer int // SO_SNDBUF of its sockets, where a test wants little

	// TLS is how connections are secured; nil: they are plain. Where it has no
	// ServerName, the host of the address is it. Connections resume the sessions of
	// earlier ones unless SessionTicketsDisabled is set.
	TLS    *tls.Config
	secure *secure // made of it by Run

	// Dial makes connections instead of a net.Dialer, for tests: with it, waiting
	// for due times also goes by Go's timers, so that a synctest bubble can hold
	// the run.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Reserve makes room in the process for the connections of streams that are to run
// side by side, which may take some ten milliseconds. Run does it for its own: who
// calls Reserve before Start spares the first requests that wait.
func Reserve(streams ...Spec) {
	n := 0
	for _, s := range streams {
		n += s.connections()
	}
	reserveFiles(n)
}

// Run sends what is due between From and Until, and returns when the fate of
// each request is known: at most the timeout after Until. A cancelled ctx stops
// arrivals and cuts requests in flight, which then count as canceled; Run returns
// the cause. Any other error means that nothing was sent.
func Run(ctx context.Context, c Config) error {
	if c.Resolve == nil {
		return fmt.Errorf("load %q: nobody says where %q is: Resolve is not set", c.Spec.Name, c.Spec.To)
	}
	var problems []error
	c.Spec.Check(func(path, format string, args ...any) {
		at := fmt.Sprintf("load %q", c.Spec.Name)
		if path != "" {
			at += ", " + path
		}
		problems = append(problems, errors.New(at+": "+fmt.Sprintf(format, args...)))
	})
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	engine, _, err := c.Chosen()
	if err != nil {
		return fmt.Errorf("load %q: %w", c.Spec.Name, err)
	}
	if c.Spec.values, err = c.Spec.readSecrets(nil); err != nil {
		return err
	}
	Reserve(c.Spec)
	if c.Start.IsZero() {
		c.Start = time.Now()
	}
	if c.secure = newSecure(c.TLS); c.secure != nil {
		c.secure.offer(c.Spec.speech().alpn)
	}
	s := compile(c.Spec, c.Seed, func(string, string, ...any) {})
	s.makeIdentities()
	col := newCollector(c, s)
	sp := c.Spec.speech()
	if sp.prepare != nil {
		if err := sp.prepare(ctx, c, s); err != nil {
			return fmt.Errorf("load %q: %w", c.Spec.Name, err)
		}
	}
	var carry carrier
	if engine == General {
		if carry, err = sp.open(ctx, c, s); err != nil {
			return fmt.Errorf("load %q: %w", c.Spec.Name, err)
		}
		if carry.close != nil {
			defer carry.close()
		}
		if s.session || c.Spec.Model() == "closed" {
			wait, err := waiterFor(c)
			if err != nil {
				return fmt.Errorf("load %q: %w", c.Spec.Name, err)
			}
			s.alarms = newAlarms(wait)
			defer s.alarms.close()
		}
	}
	if engine == General && s.keep.idle != never {
		k := &keeper{config: c, stream: s}
		carry.client = k.client(carry.client)
		over := make(chan struct{})
		var keeping sync.WaitGroup
		keeping.Go(func() { k.run(over) })
		defer keeping.Wait()
		defer close(over)
	}
	send := func() { closed(ctx, c, s, col, carry) }
	switch {
	case engine == Fast:
		loops, err := newShards(c, s, col)
		if err != nil {
			return fmt.Errorf("load %q: %w", c.Spec.Name, err)
		}
		defer closeShards(loops)
		send = func() { runShards(ctx, loops) }
	case c.Spec.Model() == "open":
		wait, err := waiterFor(c)
		if err != nil {
			return fmt.Errorf("load %q: %w", c.Spec.Name, err)
		}
		defer wait.close()
		send = func() { open(ctx, c, s, col, carry, wait) }
	}

	sent := make(chan struct{})
	var collecting sync.WaitGroup
	collecting.Go(func() { col.run(sent) })
	send()
	close(sent)
	collecting.Wait()
	return context.Cause(ctx)
}

func waiterFor(c Config) (waiter, error) {
	if c.Dial != nil {
		return newTimerWaiter(), nil
	}
	return newWaiter()
}

// Window is an increment of what is known about the requests that were due in
// the 100 ms that begin at Due: what became known since the last one with the
// same Due. Windows add up, in any order. One is told when all its requests are
// resolved, before that at least every second while something changes.
//
// Sent counts attempts, also those that got no connection: sent is the moment
// that a request was given a connection, or the making of one began for it. OK + Failed +
// Outcomes["canceled"] are those whose fate is known. The histograms are never
// nil and belong to the receiver.
//
// A stream of sessions has windows per step, each with its requests, and windows
// without a step that tell of the sessions that were due and hold no requests: all
// of them added up are the requests of the stream. The windows of a setup's steps stand apart.
type Window struct {
	Load  string
	Step  string        // of a session
	Setup bool          // the step is one of a user's setup: not among the requests of the stream
	Due   time.Duration // since the run's start

	DueCount int // became due
	Sent     int
	OK       int
	Failed   int
	Queued   int
	Dropped  int // of Failed
	Late     int

	Connects      int   // connections made
	Resumed       int   // of them, those whose TLS session is an earlier one's
	BytesSent     int64 // of requests
	BytesReceived int64 // of answers, heads included

	OKLatency     *hdr.Histogram // done − due
	FailedLatency *hdr.Histogram // the same, of the failed; of the dropped, how long they queued
	Lag           *hdr.Histogram // sent − due of those that were not queued: the generator's own error
	Service       *hdr.Histogram // done − sent of the OK: what a generator that forgets the waiting would call latency
	FirstByte     *hdr.Histogram // first byte of the answer − sent, of the OK
	Connect       *hdr.Histogram // how long each connection took to make, before TLS
	Handshake     *hdr.Histogram // how long each TLS handshake took after that

	Outcomes map[string]int // by status code ("200") or error class

	Sessions *Sessions // nil but in windows about sessions
}

// Sessions is what came of the sessions that were due in a window.
type Sessions struct {
	Completed int            // all steps were answered as they should be
	Failed    int            // one was not
	Cut       int            // the run ended first
	Duration  *hdr.Histogram // of the completed: due of the first step to done of the last, think times included
}

// Sample is one slow or failed request: at most 5 of each per second.
type Sample struct {
	Load    string
	Step    string        // of a session
	Seq     uint64        // number in its stream, from 0
	Due     time.Duration // since the run's start
	Latency time.Duration // done − due
	Outcome string        // status code or error class
	Request string        // "POST /checkout"
	Detail  string        // of an error
	TraceID string
}

// Result is one finished request.
type Result struct {
	Load     string
	Step     string // of a session
	Seq      uint64
	Due      time.Time
	Latency  time.Duration // done − due
	Status   int           // 0 without a complete answer, and where the protocol has none
	OK       bool
	Outcome  string
	Sent     int // bytes of the request, head included
	Received int // bytes of the answer's body
	Method   string
	URL      string // with the service's name for its host
	Detail   string
}

// Vegeta is the result in vegeta's terms, for its encoders: what `vegeta report`
// and `vegeta plot` read. Its time stamp is when the request was due, so that its
// latency is what it is here. As with vegeta, an unwanted status is an error too.
func (r Result) Vegeta() vegeta.Result {
	v := vegeta.Result{
		Attack: r.Load, Seq: r.Seq, Code: uint16(r.Status), Timestamp: r.Due, Latency: r.Latency,
		BytesOut: uint64(r.Sent), BytesIn: uint64(r.Received), Method: r.Method, URL: r.URL,
	}
	if r.OK && r.Status == 0 {
		v.Code = 200 // what vegeta counts as a success
	}
	if !r.OK {
		v.Error = r.Outcome
		if r.Detail != "" {
			v.Error += ": " + r.Detail
		}
	}
	return v
}
