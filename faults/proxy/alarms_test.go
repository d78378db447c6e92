package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// ears is a sleeper that notes when it is told.
type ears struct {
	start time.Time
	told  chan [2]time.Duration // what was due, and when it was told
}

func newEars(start time.Time) *ears {
	return &ears{start: start, told: make(chan [2]time.Duration, 100)}
}

func (l *ears) rung(due time.Duration, _ bool) { l.told <- [2]time.Duration{due, time.Since(l.start)} }

// TestAlarmsRing: in the order in which they are due, never before, each on its proxy's own clock.
func TestAlarmsRing(t *testing.T) {
	start := time.Now().Add(-time.Hour)
	mine, other := newAlarms(start), newAlarms(time.Now())
	defer mine.close()
	defer other.close()
	l := newEars(start)
	all := make([]alarm, 20)
	for i := range all {
		all[i].wakes = l
		mine.wake(&all[i], time.Since(start)+time.Hour)
	}
	soon := time.Since(start) + 2*time.Millisecond
	for i := range all { // set anew, the last first
		mine.wake(&all[len(all)-1-i], soon+time.Duration(len(all)-i)*100*time.Microsecond)
	}
	last := time.Duration(0)
	for range all {
		told := <-l.told
		if told[1] < told[0] {
			t.Errorf("told at %v of what is due at %v", told[1], told[0])
		}
		if told[0] < last {
			t.Errorf("told of %v after %v", told[0], last)
		}
		last = told[0]
	}
}

// TestAlarmsStop: neither one that is stopped nor those of a proxy that is closed ring, nor do others
// wait for them; and the ringer goes with the last proxy.
func TestAlarmsStop(t *testing.T) {
	start := time.Now()
	closed, open := newAlarms(start), newAlarms(start)
	never, ring := newEars(start), newEars(start)
	due := time.Since(start) + 20*time.Millisecond
	var many [9]alarm
	for i := range many {
		many[i].wakes = never
		closed.wake(&many[i], due-time.Duration(i)*time.Microsecond)
	}
	stopped, rings := alarm{wakes: never}, alarm{wakes: ring}
	open.wake(&stopped, due)
	open.wake(&rings, due+time.Millisecond)
	closed.close()
	open.stop(&stopped)
	closed.wake(&many[0], due)
	closed.stop(&many[1])
	<-ring.told
	if len(never.told) > 0 {
		t.Errorf("%d alarms rang that were stopped", len(never.told))
	}
	open.close()
	sharedRinger.mu.Lock()
	defer sharedRinger.mu.Unlock()
	if sharedRinger.users == 0 && sharedRinger.now != nil {
		t.Error("nobody is left that could set an alarm, but there is a ringer")
	}
}

// TestAlarmsOfMany: who sets, stops and closes at once is in nobody's way.
func TestAlarmsOfMany(t *testing.T) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				start := time.Now()
				a, l := newAlarms(start), newEars(start)
				set := make([]alarm, 5)
				for j := range set {
					set[j].wakes = l
					a.wake(&set[j], time.Duration(j*i)*50*time.Microsecond)
				}
				a.stop(&set[0])
				for range len(set) - 1 {
					<-l.told
				}
				a.close()
			}
		})
	}
	all.Wait()
}

// TestLead: the ringer asks the clock for a part of the time only.
func TestLead(t *testing.T) {
	r := &ringer{late: 40 * time.Microsecond}
	var leads []time.Duration
	for _, step := range []struct{ now, asked time.Duration }{
		{0, 0}, {time.Second, 0}, {time.Second, 4 * time.Millisecond}, {time.Second, time.Millisecond}, {time.Second + 50*time.Microsecond, 0},
	} {
		r.credit -= step.asked
		leads = append(leads, r.lead(step.now))
	}
	late := r.late
	if want := []time.Duration{0, late, late, 0, late}; !slices.Equal(leads, want) {
		t.Errorf("leads %v, want %v", leads, want)
	}
}

// TestNoFilesForAlarms: a proxy that is started when there is no file descriptor left has neither
// alarms nor a door of its own, and lends nothing: what it delays comes in order, and not too early.
func TestNoFilesForAlarms(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back := outOfFiles(t)
	p := serve(context.Background(), Config{Name: "a -> b", Protocol: TCP, Seed: 7}, listener)
	back()
	defer p.Stop()
	if p.alarms != nil || p.door != nil {
		t.Fatalf("alarms %v and door %v without a file descriptor", p.alarms, p.door)
	}
	p.SetUpstream(startTCP(t, echo))
	const delay = 5 * time.Millisecond
	add(t, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: delay}})
	nc := dial(t, p.Addr()).TCPConn
	for i := range 20 {
		said, heard := fmt.Appendf(nil, "%08d", i), make([]byte, 8)
		began := time.Now()
		if _, err := nc.Write(said); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, heard); err != nil || !bytes.Equal(said, heard) {
			t.Fatalf("%q came back for %q (%v)", heard, said, err)
		}
		if took := time.Since(began); took < delay-time.Millisecond { // the kernel's stamps are of the wall clock
			t.Errorf("back after %v, want %v at least", took, delay)
		}
	}
}
