package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// progress is the conversation on stderr while a run goes on: a bar with live
// numbers on a terminal, one plain line per event elsewhere. It is a fold over
// the journal's events and nothing else.
type progress struct {
	w    io.Writer
	plan *experiments.Plan
	bars *mpb.Progress
	bar  *mpb.Bar

	mu     sync.Mutex
	phase  string
	active map[string]bool // faults injected now
	recent []tally         // the last second of windows
	live   *verdict.Live
	judged time.Duration              // when live was last asked
	told   map[string]verdict.Verdict // of live's objectives
	done   chan struct{}
	all    sync.WaitGroup
}

// tally is what one window line said.
type tally struct {
	at         time.Duration
	ok, failed int
	latency    *hdr.Histogram
}

func newProgress(w io.Writer, plan *experiments.Plan) *progress {
	p := &progress{w: w, plan: plan, active: map[string]bool{}, done: make(chan struct{}),
		live: verdict.NewLive(plan.Hypotheses), told: map[string]verdict.Verdict{}}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(150*time.Millisecond))
		p.bar = p.bars.AddBar(int64(plan.Duration()/time.Millisecond),
			mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.headline() })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return p.numbers() })),
		)
	} else {
		name := plan.Scenario
		if plan.Variant != experiments.Main {
			name += " (" + string(plan.Variant) + ")"
		}
		fmt.Fprintf(w, "%s: %s, seed %d\n", name, plan.Duration(), plan.Seed)
	}
	return p
}

// Event folds one event in. It is called under the journal's lock.
func (p *progress) Event(e journal.Event) {
	p.mu.Lock()
	line := p.fold(e)
	decided := p.decide(e)
	p.mu.Unlock()
	if p.bar != nil {
		if e.Phase != nil && e.Phase.Name != "drain" && p.startClock() {
			began := time.Now().Add(-e.At)
			p.all.Go(func() { p.tick(began) })
		}
		if line != "" && (e.Abort != nil || e.Mark != nil && e.Mark.Warning) {
			_, _ = p.bars.Write([]byte(line))
		}
		if decided != "" {
			_, _ = p.bars.Write([]byte(decided))
		}
		return
	}
	if line+decided != "" {
		fmt.Fprint(p.w, decided+line)
	}
}

// decide asks, once a second, which objectives are decided so far, and says what is
// new. Looking all the time is what these bounds are made for. In a long run it asks
// less often: a look goes through all that was seen, and the journal waits for it.
func (p *progress) decide(e journal.Event) (lines string) {
	p.live.Observe(e)
	if e.At-p.judged < max(time.Second, e.At/50) && e.End == nil {
		return ""
	}
	p.judged = e.At
	for _, s := range p.live.States() {
		if s.Verdict == p.told[s.ID] || s.Verdict == verdict.Inconclusive && p.told[s.ID] == "" {
			continue
		}
		p.told[s.ID] = s.Verdict
		lines += fmt.Sprintf("%7.1fs  %s\n", e.At.Seconds(), s)
	}
	return lines
}

// fold updates the picture and returns the plain line for the event, if it has one.
func (p *progress) fold(e journal.Event) string {
	at := fmt.Sprintf("%7.1fs  ", e.At.Seconds())
	switch {
	case e.Window != nil && e.Window.Setup:
	case e.Window != nil:
		h, err := hdr.Decode(e.Window.OKLatency)
		if err != nil || e.Window.OKLatency == "" {
			h = nil
		}
		p.recent = append(p.recent, tally{e.At, e.Window.OK, e.Window.Failed, h})
		for len(p.recent) > 0 && p.recent[0].at < e.At-time.Second {
			p.recent = p.recent[1:]
		}
	case e.Phase != nil:
		was := p.phase
		p.phase = e.Phase.Name
		if was != "" {
			return fmt.Sprintf("%s%-8s %s\n", at, e.Phase.Name, p.summary())
		}
		return fmt.Sprintf("%s%s\n", at, e.Phase.Name)
	case e.Fault != nil:
		p.active[e.Fault.Name] = e.Fault.State == "injected"
		if !p.active[e.Fault.Name] {
			delete(p.active, e.Fault.Name)
		}
		switch e.Fault.State {
		case "injected", "verified", "failed":
			line := fmt.Sprintf("%sfault %s: %s on %s %s", at, e.Fault.Name, e.Fault.Kind, e.Fault.Target, e.Fault.State)
			if e.Fault.Error != "" {
				line += ": " + e.Fault.Error
			}
			return line + "\n"
		}
	case e.Breaker != nil && e.Breaker.State != "closed":
		return fmt.Sprintf("%sbreaker %s reports %s\n", at, e.Breaker.Edge, e.Breaker.State)
	case e.Service != nil && e.Service.State == "died" && !e.Service.Expected:
		return fmt.Sprintf("%sservice %s died: %s\n", at, e.Service.Name, e.Service.Detail)
	case e.Abort != nil:
		return fmt.Sprintf("%saborting: %s\n", at, e.Abort.Reason)
	case e.Mark != nil:
		return fmt.Sprintf("%s%s\n", at, e.Mark.Text)
	}
	return ""
}

// summary is the last second in a few words.
func (p *progress) summary() string {
	ok, failed := 0, 0
	all := hdr.New()
	for _, t := range p.recent {
		ok += t.ok
		failed += t.failed
		if t.latency != nil {
			all.Merge(t.latency)
		}
	}
	if ok+failed == 0 {
		return ""
	}
	return fmt.Sprintf("%d/s, ok %.1f %%, p95 %s", ok+failed, 100*float64(ok)/float64(ok+failed), all.Quantile(0.95).Round(100*time.Microsecond))
}

func (p *progress) headline() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.phase
	if p.plan.Variant != experiments.Main {
		text = string(p.plan.Variant) + " " + text
	}
	for _, name := range slices.Sorted(maps.Keys(p.active)) {
		text += " [" + name + "]"
	}
	return fmt.Sprintf("%-24.40s", text)
}

func (p *progress) numbers() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return " " + p.summary()
}

// startClock is true the first time.
func (p *progress) startClock() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
	}
	first := p.bar.Current() == 0
	if first {
		p.bar.SetCurrent(1)
	}
	return first
}

func (p *progress) tick(began time.Time) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			// One short of the total: the bar stays until Close.
			p.bar.SetCurrent(min(int64(time.Since(began)/time.Millisecond), int64(p.plan.Duration()/time.Millisecond)-1))
		case <-p.done:
			return
		}
	}
}

// Close takes the bar away.
func (p *progress) Close() {
	p.mu.Lock()
	close(p.done)
	p.mu.Unlock()
	p.all.Wait()
	if p.bars != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}
