package loadgen

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAlarms: each of many goroutines wakes at its moment, whatever the order in
// which they came, and who asks for the past does not wait.
func TestAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAlarms(newTimerWaiter())
		r := rand.New(rand.NewPCG(1, 1))
		start := time.Now()
		var all sync.WaitGroup
		for range 500 {
			first, again := time.Duration(r.IntN(1000))*time.Millisecond, time.Duration(r.IntN(1000)-200)*time.Millisecond
			all.Go(func() {
				for _, wait := range []time.Duration{first, again} {
					before := time.Since(start)
					if !a.until(t.Context(), start.Add(before+wait)) {
						t.Error("it did not wait")
					}
					if waited := time.Since(start) - before; waited != max(wait, 0) {
						t.Errorf("asked for %s, waited %s", wait, waited)
					}
				}
			})
		}
		all.Wait()
		a.close()
	})
}

// TestAlarmsOfWhoIsGone: the end of a context ends the wait, and the alarm that is
// still set keeps nobody from hearing of his own.
func TestAlarmsOfWhoIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAlarms(newTimerWaiter())
		defer a.close()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a.until(ctx, start.Add(time.Minute)) || time.Since(start) != time.Second {
			t.Errorf("it waited %s beyond the end of its context", time.Since(start)-time.Second)
		}
		if !a.until(t.Context(), start.Add(2*time.Minute)) || time.Since(start) != 2*time.Minute {
			t.Errorf("woken after %s; want 2m", time.Since(start))
		}
		if a.until(ctx, start) {
			t.Error("it waits for the past, although its context has ended")
		}
	})
}
