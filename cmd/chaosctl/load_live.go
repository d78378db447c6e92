package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/reports/chart"
)

// loadLive is the conversation on stderr while a load goes on: a bar with live
// numbers on a terminal, a plain line now and then elsewhere.
type loadLive struct {
	w     io.Writer
	plan  *loadPlan
	began time.Time
	total time.Duration
	bars  *mpb.Progress
	bar   *mpb.Bar

	mu     sync.Mutex
	all    loadCounts
	recent []loadgen.Window // the last seconds of windows
	done   chan struct{}
	ticks  sync.WaitGroup
}

// liveSpan is what the live numbers speak of.
const liveSpan = 2 * time.Second

func newLoadLive(w io.Writer, p *loadPlan, quiet bool) *loadLive {
	l := &loadLive{w: w, plan: p, began: time.Now(), total: p.warmup + p.duration, all: *newLoadCounts(), done: make(chan struct{})}
	if quiet {
		return l
	}
	if isTerminal(w) {
		l.bars = mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(150*time.Millisecond))
		l.bar = l.bars.AddBar(l.length(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return l.elapsed() })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + l.numbers() })),
		)
		l.ticks.Go(func() {
			// One short of the total: the bar stays until Close.
			l.every(100*time.Millisecond, func() { l.bar.SetCurrent(min(l.position(), l.length()-1)) })
		})
		return l
	}
	l.ticks.Go(func() {
		l.every(max(time.Second, min(l.total/10, 10*time.Second)), func() { fmt.Fprintf(w, "%12s  %s\n", l.elapsed(), l.numbers()) })
	})
	return l
}

// every calls f at an interval until Close.
func (l *loadLive) every(interval time.Duration, f func()) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f()
		case <-l.done:
			return
		}
	}
}

// length and position are in ms, or in requests where only their number ends the load.
func (l *loadLive) length() int64 {
	if l.plan.duration == endless {
		return int64(l.plan.requests)
	}
	return l.total.Milliseconds()
}

func (l *loadLive) position() int64 {
	if l.plan.duration == endless {
		l.mu.Lock()
		defer l.mu.Unlock()
		return int64(l.all.ok + l.all.failed)
	}
	return time.Since(l.began).Milliseconds()
}

// window folds one window in.
func (l *loadLive) window(w loadgen.Window) {
	if w.Setup {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.ok += w.OK
	l.all.failed += w.Failed
	l.all.late += w.Late
	l.recent = append(l.recent, w)
	newest := w.Due
	for _, r := range l.recent {
		newest = max(newest, r.Due)
	}
	for len(l.recent) > 0 && l.recent[0].Due < newest-liveSpan {
		l.recent = l.recent[1:]
	}
}

func (l *loadLive) elapsed() string {
	text := fmt.Sprintf("%.0fs", time.Since(l.began).Seconds())
	if l.plan.duration != endless {
		text += " of " + l.total.String()
	}
	return text
}

// numbers are rate, p99 and errors of the last seconds, and the errors so far.
func (l *loadLive) numbers() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := newLoadCounts()
	var from, to time.Duration
	for i, w := range l.recent {
		now.add(w)
		if i == 0 {
			from = w.Due
		}
		from, to = min(from, w.Due), max(to, w.Due+windowLength)
	}
	if now.due == 0 {
		return "no answer yet"
	}
	text := fmt.Sprintf("%s  p99 %s  failed %s", chart.Rate(float64(now.sent)/(to-from).Seconds()), chart.Duration(now.latency.Quantile(0.99)), chart.Count(l.all.failed))
	if l.all.late > 0 {
		text += "  late " + chart.Count(l.all.late)
	}
	return text
}

// Close takes the bar away.
func (l *loadLive) Close() {
	close(l.done)
	l.ticks.Wait()
	if l.bars != nil {
		l.bar.Abort(true)
		l.bars.Wait()
	}
}

// isTerminal tells whether a bar may be drawn on w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}
