package loadgen

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shardOf is the one event loop of a stream, not running.
func shardOf(t *testing.T, spec Spec, until time.Duration, address string) *shard {
	t.Helper()
	spec.Name, spec.To, spec.Request = "s", "peer", &Request{Method: "GET", Path: "/"}
	c := Config{Spec: spec, Start: time.Now(), Until: until, Resolve: func() string { return address }, loops: 1}
	s := compile(spec, 1, func(_, format string, args ...any) { t.Errorf(format, args...) })
	shards, err := newShards(c, s, newCollector(c, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeShards(shards) })
	sh := shards[0]
	sh.begun = c.Start
	t.Cleanup(func() {
		for _, c := range sh.conns {
			c.disconnect()
		}
	})
	return sh
}

// Of what is due when no connection is free, one request makes a connection; the
// others wait until answers have been looked for. With users, each is to have his own.
func TestOneConnectionBetweenTwoLooks(t *testing.T) {
	address := fullListener(t)
	open := shardOf(t, Spec{Rate: perSecond(1000)}, time.Second, address)
	for want := range 3 {
		if len(open.conns) != want {
			t.Fatalf("%d connections after sending %d times what is due", len(open.conns), want)
		}
		open.sendDue(500 * time.Millisecond)
		open.keepUp()
	}
	if next := open.demand.next(); next != 3500*time.Microsecond { // three were taken
		t.Errorf("the next request is due at %v, want 3.5ms", next)
	}
	closed := shardOf(t, Spec{Users: ptr(5)}, time.Second, address)
	if closed.sendDue(500 * time.Millisecond); len(closed.conns) != 5 {
		t.Errorf("%d connections of 5 users", len(closed.conns))
	}
}

// Waits that end late do not put off those after them.
func TestWaitsDoNotDrift(t *testing.T) {
	s := shardOf(t, Spec{Rate: perSecond(10_000)}, time.Second, "127.0.0.1:1")
	now := 200 * time.Microsecond
	for range 100 {
		for s.demand.next() <= now {
			if _, ok := s.demand.take(now); !ok {
				t.Fatal("nothing is due")
			}
		}
		due := s.demand.next()
		if until := s.until(now, now); until != due {
			t.Fatalf("at %v the loop waits until %v for what is due at %v", now, until, due)
		}
		now = due + 30*time.Microsecond
		s.slot = s.wakeup // what sendDue does
	}
	// What comes faster than a quantum is sent together.
	for s.demand.next() <= now {
		s.demand.take(now)
	}
	s.slot = now
	if until := s.until(now, now); until < now+quantum {
		t.Errorf("at %v the loop waits until %v, which is less than a quantum", now, until)
	}
}

// Of the connections of an open stream the one used longest ago is closed first, and
// none before its time; the loop wakes up for it.
func TestIdleConnectionsInTurn(t *testing.T) {
	s := shardOf(t, Spec{Rate: perSecond(0.001)}, time.Hour, "127.0.0.1:1")
	var all []*conn
	for i := range 3 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(pair[1]) })
		c := s.newConn()
		c.fd, c.state, c.used = pair[0], kept, time.Duration(i)*time.Second
		s.warm.pushFront(c)
		all = append(all, c)
	}
	for _, at := range []struct {
		now, again time.Duration
		open       int
	}{
		{29 * time.Second, 30 * time.Second, 3},
		{30*time.Second - 1, 30*time.Second - 1 + windowLength, 3},
		{30 * time.Second, 31 * time.Second, 2},
		{35 * time.Second, 65 * time.Second, 0},
	} {
		s.closeIdle(at.now)
		open := 0
		for i, c := range all {
			if c.state == kept {
				open++
			} else if i >= len(all)-at.open || c.list != &s.cold {
				t.Errorf("at %v connection %d was closed, or is not at hand to be made again", at.now, i)
			}
		}
		if open != at.open || s.lookAt != at.again || s.until(at.now, at.now) != at.again {
			t.Errorf("at %v %d are open, and the loop looks again at %v; want %d, %v", at.now, open, s.lookAt, at.open, at.again)
		}
	}
}
