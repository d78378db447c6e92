package experiments

import (
	"fmt"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
)

// clocks are what three clocks show at one moment, each since some beginning of its
// own. Everything in a run is measured by the first, which nobody can set and which
// stands still while the machine is suspended; the others are looked at to know
// whether the world agrees.
type clocks struct {
	run  time.Duration // monotonic
	wall time.Duration // what people set
	boot time.Duration // monotonic, and goes on while the machine is suspended
}

// parted is by how much two clocks must have gone differently to be worth telling;
// what keeps time in step moves the wall clock by milliseconds.
const parted = time.Second

// since says what became of the clocks between two looks: how long the machine was
// suspended, and by how much somebody set the wall clock. 0: not at all.
func (c clocks) since(before clocks) (suspended, set time.Duration) {
	run := c.run - before.run
	suspended = c.boot - before.boot - run
	if suspended < parted {
		suspended = 0
	}
	if set = c.wall - before.wall - run - suspended; set.Abs() < parted {
		set = 0
	}
	return suspended, set
}

// observeClocks tells the journal when the machine was suspended, or its wall clock
// was set, as read by look once a second, until stopped is closed.
func observeClocks(stopped <-chan struct{}, look func() clocks, write func(journal.Event)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	before := look()
	for {
		select {
		case <-stopped:
			return
		case <-tick.C:
		}
		now := look()
		suspended, set := now.since(before)
		before = now
		if suspended > 0 {
			write(journal.Event{Mark: &journal.Mark{Warning: true, SuspendedS: journal.Secs(suspended),
				Text: fmt.Sprintf("the machine was suspended for %s: the run's clock stood still, and whatever runs elsewhere went on", suspended.Round(time.Millisecond))}})
		}
		if set != 0 {
			write(journal.Event{Mark: &journal.Mark{Warning: true,
				Text: fmt.Sprintf("somebody set the wall clock by %s: nothing of the run is measured by it, but services may go by it", set.Round(time.Millisecond))}})
		}
	}
}

// clocksFrom reads the clocks, the run's being 0 at start.
func clocksFrom(start time.Time) func() clocks {
	return func() clocks {
		now := time.Now()
		run := now.Sub(start)
		return clocks{run: run, wall: time.Duration(now.UnixNano()), boot: bootClock(run)}
	}
}
