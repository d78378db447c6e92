package loadgen

import (
	"errors"
	"math"
	"sync"
	"time"
)

// Connection says how long a stream keeps each of its connections; what is 0 is as
// by default. Whatever ends it, a connection is closed between two requests, and the
// next one that needs one has another made.
//
//	connection: { idle: 30s, lifetime: 1m, requests: 100 }
type Connection struct {
	Idle     time.Duration `yaml:"idle" json:"idle,omitempty"`         // without a request; default 30s in the open model, and no end for users
	Lifetime time.Duration `yaml:"lifetime" json:"lifetime,omitempty"` // it is closed behind the first answer that comes at this age; default no end
	Requests int           `yaml:"requests" json:"requests,omitempty"` // it is closed behind the answer to so many; default no end
}

// defaultIdle is long enough for the connections of a load that comes and goes, and
// short enough to give back what was needed only while a service was slow.
const defaultIdle = 30 * time.Second

// keeping is how long connections are kept.
type keeping struct {
	idle     time.Duration // never: as long as the other side does
	lifetime time.Duration
	requests int
}

func (s Spec) keeping() keeping {
	const long = never / 2 // longer than any run, and no sum with it overflows
	k := keeping{idle: defaultIdle, lifetime: long, requests: math.MaxInt}
	// Users keep theirs; and what a setup did to a connection may last as long as that.
	if s.Users != nil || s.speech().talks && len(s.Setup) > 0 {
		k.idle = never
	}
	if c := s.Connection; c != nil {
		if c.Idle > 0 {
			k.idle = min(c.Idle, long)
		}
		if c.Lifetime > 0 {
			k.lifetime = c.Lifetime
		}
		if c.Requests > 0 {
			k.requests = c.Requests
		}
	}
	return k
}

// over tells that a connection of that age that has carried so many requests is to
// carry no more.
func (k keeping) over(age time.Duration, requests int) bool {
	return requests >= k.requests || age >= k.lifetime
}

// look is when to look again for idle connections, where the first of them will have
// been idle for long enough at next: not more often than is of use.
func (k keeping) look(now, next time.Duration) time.Duration {
	return max(next, now+min(k.idle, windowLength))
}

// errRetired is why a connection that several requests share takes no more of them.
var errRetired = errors.New("the connection has been kept for as long as it is to be")

func (s Spec) checkConnection(report func(path, format string, args ...any)) {
	c := s.Connection
	if c == nil {
		return
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"idle", c.Idle}, {"lifetime", c.Lifetime}} {
		if d.d < 0 {
			report("connection."+d.name, "%s is %v; it must not be negative", d.name, d.d)
		}
	}
	switch {
	case c.Requests < 0:
		report("connection.requests", "requests is %d; it must not be negative", c.Requests)
	case c.Requests > 0 && c.Requests < s.streams():
		report("connection.requests", "requests is %d, and streams %d: a connection that is closed after %[1]d requests never has %[2]d under way; lower streams", c.Requests, s.streams())
	}
	if s.Reply != nil && s.Reply.Close {
		report("connection", "connection has no meaning with reply: close, where the server closes each behind its answer")
	}
}

// ends tells whether the request of j, which ended with r, was a request by itself or
// the last of its session: what a connection was told in a session may matter to the
// rest of it.
func (s *stream) ends(j job, r result) bool {
	return !s.session || j.step == s.steps-1 || !s.good(r)
}

// keeper closes connections of the general engine that nobody has used for a while.
type keeper struct {
	config Config
	stream *stream

	mu    sync.Mutex
	seats []*seat
}

// seat is a client that the keeper looks at when it is not in use.
type seat struct {
	client
	stream *stream
	mu     sync.Mutex // held by who uses the client
	used   time.Time  // when a request last ended
	fixed  bool       // there is nothing to look at: a session goes on, or it was looked at since
}

// client is a seat for a new client of open.
func (k *keeper) client(open func() client) func() client {
	return func() client {
		s := &seat{client: open(), stream: k.stream, fixed: true}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.seats = append(k.seats, s)
		return s
	}
}

func (s *seat) do(j job, deadline time.Time) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.client.do(j, deadline)
	s.used, s.fixed = r.done, !s.stream.ends(j, r)
	return r
}

func (s *seat) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client.close()
}

// warm is asked by who uses the client: if anybody else does now, it is being closed.
func (s *seat) warm() bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	return s.client.warm()
}

// run looks until stop is closed.
func (k *keeper) run(stop <-chan struct{}) {
	keep := k.stream.keep
	timer := time.NewTimer(keep.idle)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-stop:
			return
		}
		now := time.Since(k.config.Start)
		next := k.closeIdle(now)
		timer.Reset(keep.look(now, next) - time.Since(k.config.Start))
	}
}

// closeIdle has connections closed that have been idle for long enough at now, and
// returns when the next one will have been.
func (k *keeper) closeIdle(now time.Duration) (next time.Duration) {
	k.mu.Lock()
	seats := k.seats // only grows
	k.mu.Unlock()
	idle := k.stream.keep.idle
	next = now + idle
	for _, s := range seats {
		if !s.mu.TryLock() {
			continue
		}
		switch until := s.used.Sub(k.config.Start) + idle; {
		case s.fixed:
		case until <= now:
			s.fixed = true
			s.client.rest(s.used)
		default:
			next = min(next, until)
		}
		s.mu.Unlock()
	}
	return next
}
