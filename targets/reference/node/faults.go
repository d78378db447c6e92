package node

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Faults is what is wrong with a node on purpose. It comes with the configuration,
// and, while the node runs, by
//
//	PUT /admin/faults    the whole of it, in the place of what was
//	GET /admin/faults    {"now":…, "faults":{…}, "lookups":{"payments":{"all":812,"broken":3}}}
//
// for whoever has the token of the configuration; without one there is no such page.
// A request that its sender has given up may still arrive, and behind the next one:
// a change with a smaller number than the last one is refused.
type Faults struct {
	Change  uint64                 `json:"change,omitempty"`
	Lookups map[string]LookupFault `json:"lookups,omitempty"` // by callee
	Clock   *ClockFault            `json:"clock,omitempty"`
}

// LookupFault is what becomes of looking a callee up.
type LookupFault struct {
	Fail  string        `json:"fail,omitempty"` // "", NXDomain, NoAnswer or Wrong
	Delay time.Duration `json:"delay_ns,omitempty"`
}

// The ways in which a lookup fails.
const (
	NXDomain = "nxdomain" // there is no such name
	NoAnswer = "timeout"  // nobody answers, for as long as the caller waits (lookupPatience at most)
	Wrong    = "wrong"    // an address at which nobody listens
)

// ClockFault sets a node's wall clock: at the moment t it shows t + Offset, and
// Drift more for each second since Since.
type ClockFault struct {
	Offset time.Duration `json:"offset_ns,omitempty"`
	Drift  time.Duration `json:"drift_ns,omitempty"`
	Since  time.Time     `json:"since"`
}

// LookupCount is how often a callee was looked up since the node was started.
type LookupCount struct {
	All    uint64 `json:"all"`
	Broken uint64 `json:"broken"`
}

// FaultState is the answer of GET /admin/faults.
type FaultState struct {
	Now     time.Time              `json:"now"` // by the node's own clock
	Faults  Faults                 `json:"faults"`
	Lookups map[string]LookupCount `json:"lookups"`
}

// Now is the time by the node's wall clock, which a fault may have set wrong. What
// is written down, or compared with what others have written, is to ask it; what
// waits for time to pass is not: no wall clock changes that.
func (n *Node) Now() time.Time { return n.clock.now() }

type wallClock struct{ fault atomic.Pointer[ClockFault] }

func (c *wallClock) now() time.Time {
	t := time.Now().Round(0) // without its monotonic reading
	f := c.fault.Load()
	if f == nil {
		return t
	}
	return t.Add(f.Offset + time.Duration(t.Sub(f.Since).Seconds()*float64(f.Drift)))
}

// errOvertaken is a change that came behind a later one.
var errOvertaken = errors.New("a later change of the faults has come before this one")

// setFaults takes f in the place of what was wrong before.
func (n *Node) setFaults(f Faults) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if last := n.faults.Load(); last != nil && f.Change < last.Change {
		return errOvertaken
	}
	for callee, l := range f.Lookups {
		if n.clients[callee] == nil {
			return fmt.Errorf("%s does not call %q", n.Config.Service, callee)
		}
		if l.Fail != "" && l.Fail != NXDomain && l.Fail != NoAnswer && l.Fail != Wrong || l.Delay < 0 {
			return fmt.Errorf("lookup of %q: fail %q, delay %s: want nxdomain, timeout, wrong or nothing, and a delay not below 0s", callee, l.Fail, l.Delay)
		}
	}
	for callee, client := range n.clients {
		var fault *LookupFault
		if l, ok := f.Lookups[callee]; ok {
			fault = &l
		}
		client.lookup.fault.Store(fault)
	}
	n.clock.fault.Store(f.Clock)
	n.faults.Store(&f)
	return nil
}

// admitted lets only those with the token near the faults.
func (n *Node) admitted(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(n.Config.Control)) != 1 {
			Fail(w, http.StatusForbidden, "the faults of a service are for whoever started it")
			return
		}
		handler(w, r)
	}
}

func (n *Node) putFaults(w http.ResponseWriter, r *http.Request) {
	var f Faults
	if !Decode(w, r, &f) {
		return
	}
	switch err := n.setFaults(f); {
	case errors.Is(err, errOvertaken):
		Fail(w, http.StatusConflict, "%s", err)
		return
	case err != nil:
		Fail(w, http.StatusBadRequest, "%s", err)
		return
	}
	n.getFaults(w, r)
}

func (n *Node) getFaults(w http.ResponseWriter, _ *http.Request) {
	state := FaultState{Now: n.Now(), Lookups: make(map[string]LookupCount)}
	if f := n.faults.Load(); f != nil {
		state.Faults = *f
	}
	for callee, c := range n.clients {
		state.Lookups[callee] = LookupCount{c.lookup.all.Load(), c.lookup.broken.Load()}
	}
	Reply(w, http.StatusOK, state)
}

// lookup finds a callee's address, anew for each call: nothing is kept, so that a
// name that is gone is gone at once, whatever connections are open. A name service
// it has none: the runtime has told the node every address.
type lookup struct {
	callee  string
	address string // host:port
	fault   atomic.Pointer[LookupFault]

	all, broken atomic.Uint64
}

// lookupPatience is how long a lookup waits that nobody answers: what a resolver of
// the C library does for one server.
const lookupPatience = 5 * time.Second

// find returns the callee's address, or a *net.DNSError.
func (l *lookup) find(ctx context.Context) (address string, err error) {
	l.all.Add(1)
	f := l.fault.Load()
	if f == nil {
		return l.address, nil
	}
	l.broken.Add(1)
	if err := pass(ctx, f.Delay); err != nil {
		return "", err
	}
	switch f.Fail {
	case NXDomain:
		return "", &net.DNSError{Err: "no such host", Name: l.callee, IsNotFound: true}
	case NoAnswer:
		if err := pass(ctx, lookupPatience); err != nil {
			return "", err
		}
		return "", &net.DNSError{Err: "i/o timeout", Name: l.callee, IsTimeout: true}
	case Wrong:
		_, port, err := net.SplitHostPort(l.address)
		if err != nil {
			return "", err
		}
		// Also this machine's; services listen on 127.0.0.1 alone.
		return net.JoinHostPort("127.255.255.254", port), nil
	}
	return l.address, nil
}

// pass waits for d, or for the end of ctx, which is its error.
func pass(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sentAt is the header in which a caller says, in Unix milliseconds by its own
// clock, when it sent a request; staleAfter is how far that may be from the callee's
// clock, either way. Signed requests (AWS Signature Version 4, Kerberos) are refused
// in the same way, with the same five minutes.
const (
	sentAt     = "Sent-At"
	staleAfter = 5 * time.Minute
)

// stale refuses a request that was not sent now by our clock; it has answered then.
// Who does not say when it was sent is no service of ours, and is served.
func (n *Node) stale(w http.ResponseWriter, r *http.Request) bool {
	text := r.Header.Get(sentAt)
	if text == "" {
		return false
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		Fail(w, http.StatusBadRequest, "%s: %q is not a time in Unix milliseconds", sentAt, text)
		return true
	}
	age := n.Now().Sub(time.UnixMilli(ms))
	if age.Abs() <= staleAfter {
		return false
	}
	Fail(w, http.StatusUnauthorized, "the request was sent %s ago by our clock; at most %s either way are taken", age.Round(time.Second), staleAfter)
	return true
}
