package loadgen

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/loadgen/threads"
)

// Engine is how a stream's requests get onto the wire. Both engines mean the
// same by every word of doc.go.
//
//	fast     event loops on raw sockets, for HTTP/1.1, HTTP/2 and gRPC over TCP or TLS
//	         on Linux: a few µs of CPU per request, due times met to some ten µs
//	general  a goroutine per connection, on anything that Go can dial
type Engine string

const (
	Auto    Engine = "" // fast where it can be, else general
	Fast    Engine = "fast"
	General Engine = "general"
)

// UnmarshalText reads auto, fast or general.
func (e *Engine) UnmarshalText(text []byte) error {
	switch name := Engine(text); name {
	case Auto, "auto":
		*e = Auto
	case Fast, General:
		*e = name
	default:
		return fmt.Errorf("engine %q is none of auto, fast, general", text)
	}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (e Engine) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

func (e Engine) String() string {
	if e == Auto {
		return "auto"
	}
	return string(e)
}

// Chosen is the engine that Run will use, and in a few words why it is not the
// fast one, where it is not. An engine that was asked for and cannot be is an error.
func (c Config) Chosen() (e Engine, why string, err error) {
	if err := c.Spec.Fits(c.TLS != nil, c.Spec.speech().udp); err != nil {
		return "", "", err
	}
	switch c.Engine {
	case Auto, Fast:
		why := c.notFast()
		switch {
		case why == "":
			return Fast, "", nil
		case c.Engine == Fast:
			return Fast, "", fmt.Errorf("the fast engine cannot be used: %s; leave the engine at auto", why)
		}
		return General, why, nil
	case General:
		return General, "it was asked for", nil
	}
	return "", "", errors.Join(new(Engine).UnmarshalText([]byte(c.Engine)))
}

// notFast says what keeps the fast engine from being used, if anything.
func (c Config) notFast() string {
	switch {
	case !haveFast:
		return "it needs Linux, this is " + runtime.GOOS
	case !c.Spec.speech().fast:
		return "the stream speaks " + string(c.Spec.speech().name)
	case c.Dial != nil:
		return "connections are made by Config.Dial"
	}
	return c.Spec.notPlain()
}

// Rates and connections that are worth another event loop.
const (
	shardRate        = 40_000 // requests per second
	shardConnections = 64
)

// shards is how many event loops the stream gets: as many as its rate asks for,
// at most one per processor. A closed stream has no rate of its own: users who
// think say how much they can ask at the most, users who do not get a loop for
// every 64.
func (c Config) shards() int {
	if c.loops > 0 {
		return c.loops
	}
	s, n := c.Spec, 1.0
	switch users := float64(s.users()); {
	case s.Users == nil:
		n = s.peak() / shardRate
	case s.Think > 0:
		n = min(users/s.Think.Seconds()/shardRate, users/shardConnections)
	default:
		n = users / shardConnections
	}
	most := min(threads.Processors(), s.connections())
	if s.Users != nil {
		most = min(most, s.users())
	}
	// A rate just above is not worth another thread: half a loop's work is.
	return max(1, min(int(min(n, 1e6)+0.5), most))
}

// peak is the highest rate an open stream gets to, as far as its settings say.
func (s Spec) peak() float64 {
	peak := 0.0
	if s.Rate != nil {
		peak = float64(*s.Rate)
	}
	if s.Ramp != nil {
		peak = max(float64(s.Ramp.From), float64(s.Ramp.To))
	}
	for _, st := range s.Stages {
		if st.Rate != nil {
			peak = max(peak, float64(*st.Rate))
		}
		if st.To != nil {
			peak = max(peak, float64(*st.To))
		}
	}
	switch {
	case s.Step != nil:
		peak = max(float64(s.Step.From), float64(s.Step.To))
	case s.Spike != nil:
		peak = max(float64(s.Spike.Base), float64(s.Spike.Peak))
	case s.Sine != nil:
		peak = float64(s.Sine.Mean + s.Sine.Amplitude)
	case s.Replay != nil:
		t := s.Replay.trace(s.hasRequests())
		for k := range t.Len() {
			if due, _ := t.Due(uint64(k)); k%100 == 99 { // its mean so far, now and then
				peak = max(peak, float64(k+1)/max(due.Seconds(), 1))
			}
		}
	}
	return peak
}

// notPlain says what only the general engine does for the stream, if anything.
func (s Spec) notPlain() string {
	if len(s.Steps) > 0 {
		return "the stream has sessions"
	}
	for name, d := range s.Data {
		if d.Order == Unique {
			return fmt.Sprintf("the rows of %q are unique", name)
		}
	}
	timed := false
	for _, r := range s.filled() {
		switch {
		case len(r.Check) > 0:
			return "the stream checks answers"
		case r.Redirects != nil && *r.Redirects > 0:
			return "the stream follows redirects"
		}
		texts := append(slices.Collect(maps.Values(r.Headers)), r.Path, r.Body)
		if r.Auth != nil {
			texts = append(texts, r.Auth.Bearer)
			if r.Auth.Basic != nil {
				texts = append(texts, r.Auth.Basic.User, r.Auth.Basic.Password)
			}
		}
		timed = timed || slices.ContainsFunc(texts, func(text string) bool {
			return strings.Contains(text, "{{") && (strings.Contains(text, "now") || strings.Contains(text, "unix"))
		})
	}
	if timed && !compile(s, 0, func(string, string, ...any) {}).plain() {
		return "the stream's templates tell the time"
	}
	return ""
}
