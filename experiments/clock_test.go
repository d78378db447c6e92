package experiments

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
)

// TestClocksThatPart: a machine that was suspended and a wall clock that was set,
// forwards and backwards, are told apart and told once; what keeps time in step is
// not told at all.
func TestClocksThatPart(t *testing.T) {
	for name, c := range map[string]struct {
		wall, boot time.Duration // by how much they jump between two looks
		says       string
		suspended  time.Duration
	}{
		"nothing":       {0, 0, "", 0},
		"kept in step":  {900 * time.Millisecond, 0, "", 0},
		"set forwards":  {time.Hour, 0, "set the wall clock by 1h0m0s", 0},
		"set backwards": {-time.Hour, 0, "set the wall clock by -1h0m0s", 0},
		"suspended":     {time.Minute, time.Minute, "suspended for 1m0s", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				look := func() clocks {
					run := time.Since(start)
					now := clocks{run: run, wall: run + 1000*time.Hour, boot: run + time.Hour}
					if run > 10500*time.Millisecond {
						now.wall += c.wall
						now.boot += c.boot
					}
					return now
				}
				var told []journal.Mark
				stopped, done := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					observeClocks(stopped, look, func(e journal.Event) { told = append(told, *e.Mark) })
				}()
				time.Sleep(20500 * time.Millisecond)
				close(stopped)
				<-done
				switch {
				case c.says == "" && len(told) > 0:
					t.Errorf("told %v", told)
				case c.says != "" && (len(told) != 1 || !strings.Contains(told[0].Text, c.says) || told[0].SuspendedS.Duration() != c.suspended || !told[0].Warning):
					t.Errorf("told %+v, want once %q", told, c.says)
				}
			})
		})
	}
}

// TestClocksOfThisMachine: the real ones agree.
func TestClocksOfThisMachine(t *testing.T) {
	look := clocksFrom(time.Now())
	before := look()
	now := look()
	if suspended, set := now.since(before); suspended != 0 || set != 0 || now.run < before.run || now.boot < before.boot {
		t.Errorf("between %+v and %+v: suspended %s, set by %s", before, now, suspended, set)
	}
}
