package loadgen

import "time"

// waiter waits for moments, for one goroutine.
type waiter interface {
	// until returns at t, at once if t is past, earlier if woken.
	until(t time.Time)
	// wake ends the wait that goes on, or else the next one. Any goroutine may.
	wake()
	close()
}

// timerWaiter waits with Go's timers: to a millisecond or so, and in the time of
// a synctest bubble.
type timerWaiter struct {
	timer *time.Timer
	woken chan struct{}
}

func newTimerWaiter() waiter {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &timerWaiter{timer: t, woken: make(chan struct{}, 1)}
}

func (w *timerWaiter) until(t time.Time) {
	d := time.Until(t)
	if d <= 0 {
		return
	}
	w.timer.Reset(d)
	select {
	case <-w.timer.C:
	case <-w.woken:
		w.timer.Stop()
	}
}

func (w *timerWaiter) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (w *timerWaiter) close() { w.timer.Stop() }
