package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/faults/undo"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "sleep" { // the victims of TestRealProcesses
		fmt.Println("up")
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	}
	goleak.VerifyTestMain(m)
}

// fake is a world of instances and edges that can be looked at. Everything takes
// some time, and fails where told to.
type fake struct {
	mu      sync.Mutex
	running map[int]bool
	paused  map[int]bool
	rules   map[string][]string
	took    time.Duration    // of every operation
	fails   map[string]error // by operation
	reverts []string         // operations that revert, in order
	ended   error            // an ended ctx that was given to a revert
	wrong   map[string]string
	looked  uint64
	data    string // folder that disk faults fill
}

func newFake(instances int) *fake {
	f := &fake{running: map[int]bool{}, paused: map[int]bool{}, rules: map[string][]string{}, fails: map[string]error{}, wrong: map[string]string{}}
	for i := range instances {
		f.running[i] = true
	}
	return f
}

func (f *fake) do(ctx context.Context, what string, change func()) error {
	select {
	case <-time.After(f.took):
	case <-ctx.Done():
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails[what]; err != nil {
		return err
	}
	change()
	return nil
}

func (f *fake) revert(ctx context.Context, what string, change func()) error {
	if ctx.Err() != nil {
		f.ended = ctx.Err()
	}
	return f.do(ctx, what, func() { f.reverts = append(f.reverts, what); change() })
}

func (f *fake) Runtime() string { return "fake" }
func (f *fake) Kill(ctx context.Context, _ string, i int, _ string) error {
	return f.do(ctx, "kill", func() { f.running[i], f.paused[i] = false, false })
}
func (f *fake) Terminate(ctx context.Context, s string, i int, _ time.Duration) error {
	return f.Kill(ctx, s, i, "TERM")
}
func (f *fake) StartAgain(ctx context.Context, _ string, i int) error {
	return f.revert(ctx, "start", func() { f.running[i] = true })
}
func (f *fake) Pause(ctx context.Context, _ string, i int) error {
	return f.do(ctx, "pause", func() { f.paused[i] = f.running[i] })
}
func (f *fake) Resume(ctx context.Context, _ string, i int) error {
	return f.revert(ctx, "resume", func() { f.paused[i] = false })
}
func (f *fake) Paused(_ string, i int) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused[i], nil
}

func (f *fake) StressCPU(ctx context.Context, s string, i int, fault string, workers int, _ float64) (int, int, string, error) {
	return 0, workers, "beside it", f.do(ctx, "press", func() { f.presses(s, i, fault, true) })
}
func (f *fake) StressMemory(ctx context.Context, s string, i int, fault string, bytes int64, _ float64) (int, int64, string, error) {
	return 0, bytes, "beside it", f.do(ctx, "press", func() { f.presses(s, i, fault, true) })
}
func (f *fake) Pressure(string, int, string) (map[string]float64, error) {
	return map[string]float64{"cpu_s": 1, "rss_bytes": 2}, nil
}
func (f *fake) Relieve(ctx context.Context, s string, i int, fault string) error {
	return f.revert(ctx, "relieve", func() { f.presses(s, i, fault, false) })
}
func (f *fake) presses(s string, i int, fault string, does bool) {
	if f.wrong[fmt.Sprint("press ", s, i, fault)] = "yes"; !does {
		delete(f.wrong, fmt.Sprint("press ", s, i, fault))
	}
}
func (f *fake) DataFolder(_ string, i int) (string, error) {
	folder := filepath.Join(f.data, "data", strconv.Itoa(i))
	return folder, os.MkdirAll(folder, 0o755)
}
func (f *fake) BreakLookup(ctx context.Context, caller, callee, fail string, delay time.Duration) error {
	return f.do(ctx, "break", func() { f.wrong["lookup "+caller+callee] = fail + delay.String() })
}
func (f *fake) MendLookup(ctx context.Context, caller, callee string) error {
	return f.revert(ctx, "mend", func() { delete(f.wrong, "lookup "+caller+callee) })
}
func (f *fake) Lookups(context.Context, string, string) (uint64, uint64, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked += 10
	return f.looked, f.looked / 2, true, nil
}
func (f *fake) SetClock(ctx context.Context, s string, i int, offset, drift time.Duration) error {
	set := func() { f.wrong[fmt.Sprint("clock ", s, i)] = offset.String() }
	if offset == 0 && drift == 0 {
		return f.revert(ctx, "set clock", func() { delete(f.wrong, fmt.Sprint("clock ", s, i)) })
	}
	return f.do(ctx, "clock", set)
}
func (f *fake) ClockOffset(_ context.Context, s string, i int) (offset, uncertain time.Duration, running bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if text := f.wrong[fmt.Sprint("clock ", s, i)]; text != "" {
		offset, err = time.ParseDuration(text)
	}
	return offset, time.Millisecond, true, err
}

type fakeEdge struct {
	f    *fake
	name string
}

func (e fakeEdge) Add(r proxy.Rule) (func(), error) {
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	if err := e.f.fails["add "+e.name]; err != nil {
		return nil, err
	}
	e.f.rules[e.name] = append(e.f.rules[e.name], r.Name)
	return func() {
		e.f.mu.Lock()
		defer e.f.mu.Unlock()
		e.f.reverts = append(e.f.reverts, "remove "+e.name)
		e.f.rules[e.name] = slices.DeleteFunc(e.f.rules[e.name], func(n string) bool { return n == r.Name })
	}, nil
}

// surface is everything that faults change.
func (f *fake) surface() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	rules := map[string][]string{}
	for name, r := range f.rules {
		if len(r) > 0 {
			rules[name] = r
		}
	}
	paused := maps.Clone(f.paused)
	maps.DeleteFunc(paused, func(_ int, p bool) bool { return !p })
	files, _ := filepath.Glob(filepath.Join(f.data, "data", "*", ".chaosctl*"))
	return fmt.Sprint(f.running, paused, rules, f.wrong, files)
}

func (f *fake) world(t interface {
	Fatal(...any)
	Cleanup(func())
}, dir string) World {
	l, err := undo.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f.data = filepath.Dir(dir)
	return World{Services: f, Undo: l, edge: func(name string) edge { return fakeEdge{f, name} }}
}

func (f *fake) fault(s Spec, length time.Duration, instances int) Fault {
	x := Fault{Spec: s, For: length, Seed: 7, Instances: instances}
	if k, _ := s.Kind(); k.On == OnService {
		x.Service = s.Target
	} else {
		x.Edges = []string{"orders -> payments", "orders -> stock"}
	}
	return x
}

func names(states []State) (all []string) {
	for _, s := range states {
		all = append(all, s.State)
	}
	return all
}

var wholeLife = []string{Injecting, Injected, Reverting, Reverted, Verified}

func TestHoldMeasuresAKill(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(3)
		f.took = 300 * time.Millisecond
		began := time.Now()
		var states []State
		err := Hold(t.Context(), f.fault(Spec{Name: "die", Target: "stock", Kill: &Kill{Pick: Pick{Count: 2}}}, 2*time.Second, 3), f.world(t, dir), func(s State) {
			states = append(states, s)
			down := 0
			for _, up := range f.running {
				if !up {
					down++
				}
			}
			if want := map[string]int{Injected: 2, Reverting: 2}[s.State]; down != want {
				t.Errorf("%s: %d instances are down; want %d", s.State, down, want)
			}
			if pending, err := undo.Pending(dir); err != nil || (len(pending) == 1) != (s.State != Verified) {
				t.Errorf("%s: undo records %v (%v)", s.State, pending, err)
			}
		})
		if err != nil || !slices.Equal(names(states), wholeLife) {
			t.Fatalf("%v, %v", names(states), err)
		}
		// Both at the same time: 0.3 s to die, 2 s away, 0.3 s to come back.
		want := map[string]float64{"instances": 2, "gone_s": 0.3, "down_s": 2, "outage_s": 2.3}
		if d := cmp.Diff(want, states[4].Observed); d != "" {
			t.Errorf("observed %s", d)
		}
		if took := time.Since(began); took != 2600*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

func TestHoldUntilTheEndOfCtx(t *testing.T) {
	dir := t.TempDir()
	for _, s := range every {
		if s.Restart != nil {
			continue // is over at once
		}
		synctest.Test(t, func(t *testing.T) {
			f := newFake(1)
			f.took = 10 * time.Millisecond
			before, began := f.surface(), time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var states []State
			err := Hold(ctx, f.fault(s, time.Hour, 1), f.world(t, dir), func(s State) { states = append(states, s) })
			if err != nil || !slices.Equal(names(states), wholeLife) {
				t.Errorf("%s: %v, %v", s.Name, names(states), err)
			}
			if took := time.Since(began); took < time.Second || took > 1020*time.Millisecond {
				t.Errorf("%s: reverted after %s; want at once", s.Name, took)
			}
			if f.ended != nil || f.surface() != before {
				t.Errorf("%s: reverted with an ended ctx (%v); the world is %s, it was %s", s.Name, f.ended, f.surface(), before)
			}
		})
	}
}

func TestHoldWithAnEndedCtxDoesNothing(t *testing.T) {
	f := newFake(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Hold(ctx, f.fault(example("kill"), time.Second, 1), f.world(t, t.TempDir()), func(s State) { t.Errorf("told %v", s) })
	if !errors.Is(err, context.Canceled) || len(f.reverts) > 0 {
		t.Errorf("%v, %v", err, f.reverts)
	}
}

func TestAPartlyInjectedFaultIsRevertedLastInFirstOut(t *testing.T) {
	dir := t.TempDir()
	f := newFake(1)
	x := f.fault(example("partition"), time.Second, 1)
	x.Edges = []string{"a -> b", "b -> a", "a -> c", "c -> a"}
	f.fails["add c -> a"] = errors.New("proxy is stopped")
	before := f.surface()
	var states []State
	err := Hold(t.Context(), x, f.world(t, dir), func(s State) { states = append(states, s) })
	var revert *RevertError
	if err == nil || errors.As(err, &revert) || err.Error() != `inject fault "split": proxy is stopped` {
		t.Errorf("error %v", err)
	}
	if want := []string{Injecting, Failed, Reverting, Reverted, Verified}; !slices.Equal(names(states), want) {
		t.Errorf("states %v; want %v", names(states), want)
	}
	if want := []string{"remove a -> c", "remove b -> a", "remove a -> b"}; !slices.Equal(f.reverts, want) || f.surface() != before {
		t.Errorf("reverts %v; want %v", f.reverts, want)
	}
}

func TestARevertThatFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(2)
		f.fails["start"] = errors.New("port taken")
		var states []State
		err := Hold(t.Context(), f.fault(Spec{Name: "die", Target: "stock", Kill: &Kill{Pick: Pick{All: true}}}, time.Second, 2), f.world(t, dir), func(s State) { states = append(states, s) })
		var revert *RevertError
		if !errors.As(err, &revert) || revert.ExitCode() != 5 || strings.Count(err.Error(), "port taken") != 2 || !strings.Contains(err.Error(), `revert fault "die"`) {
			t.Errorf("error %v; want a RevertError that joins both", err)
		}
		if want := []string{Injecting, Injected, Reverting, Failed}; !slices.Equal(names(states), want) {
			t.Errorf("states %v; want %v", names(states), want)
		}
		if pending, err := undo.Pending(dir); err != nil || len(pending) != 1 || pending[0].Kind != "kill" || pending[0].Target != "stock" {
			t.Errorf("undo records %v (%v); want the one that is still to do", pending, err)
		}
	})
}

func TestNoFaultWithoutAnUndoRecord(t *testing.T) {
	f := newFake(1)
	w := f.world(t, t.TempDir())
	if err := w.Undo.Close(); err != nil { // as good as a full disk
		t.Fatal(err)
	}
	for name, w := range map[string]World{"closed": w, "none": {Services: f, edge: w.edge}} {
		for _, s := range every {
			var states []State
			err := Hold(t.Context(), f.fault(s, time.Second, 1), w, func(s State) { states = append(states, s) })
			if err == nil || !slices.Equal(names(states), []string{Failed}) || len(f.reverts) > 0 || f.surface() != newFake(1).surface() {
				t.Errorf("%s log, %s: %v, %v, %v", name, s.Name, err, names(states), f.surface())
			}
		}
	}
}

func TestAPanicOfTheReporterReverts(t *testing.T) {
	dir := t.TempDir()
	for _, s := range every {
		for _, at := range wholeLife {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(1)
				before := f.surface()
				func() {
					defer func() {
						if recover() == nil {
							t.Errorf("%s: the panic at %s is swallowed", s.Name, at)
						}
					}()
					_ = Hold(t.Context(), f.fault(s, time.Second, 1), f.world(t, dir), func(st State) {
						if st.State == at {
							panic(at)
						}
					})
				}()
				if f.surface() != before {
					t.Errorf("%s: after a panic at %s the world is %s, it was %s", s.Name, at, f.surface(), before)
				}
			})
		}
	}
}

// The law: whatever faults are injected, fail, overlap, and are cut short, when
// all is over the world is as it was, and no record is left.
func TestTheWorldIsAsBefore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "undo")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		type hold struct {
			spec           Spec
			at, length, to time.Duration
		}
		ms := func(name string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
		}
		var holds []hold
		for i := range rapid.IntRange(1, 5).Draw(rt, "faults") {
			s := every[rapid.IntRange(0, len(every)-1).Draw(rt, "kind")]
			s.Name = fmt.Sprintf("%s-%d", s.Name, i)
			holds = append(holds, hold{s, ms("at", 50), ms("for", 50), ms("cut", 120)})
		}
		instances := rapid.IntRange(1, 3).Draw(rt, "instances")
		took := ms("took", 20)
		broken := rapid.SampledFrom([]string{"", "kill", "pause", "add orders -> stock"}).Draw(rt, "broken")

		problem := ""
		synctest.Test(t, func(t *testing.T) {
			f := newFake(instances)
			f.took = took
			if broken != "" {
				f.fails[broken] = errors.New("broken")
			}
			before, w := f.surface(), f.world(t, dir)
			var mu sync.Mutex
			var all sync.WaitGroup
			for _, h := range holds {
				all.Go(func() {
					time.Sleep(h.at)
					ctx, cancel := context.WithTimeout(t.Context(), h.to)
					defer cancel()
					var states []State
					err := Hold(ctx, f.fault(h.spec, h.length, instances), w, func(s State) { states = append(states, s) })
					mu.Lock()
					defer mu.Unlock()
					var revert *RevertError
					if errors.As(err, &revert) {
						problem = err.Error()
					}
					if got := names(states); len(got) > 0 && got[len(got)-1] != Verified && !slices.Equal(got, []string{Failed}) {
						problem = fmt.Sprintf("%s: states %v", h.spec.Name, got)
					}
				})
			}
			all.Wait()
			if f.surface() != before {
				problem = fmt.Sprintf("the world is %s, it was %s", f.surface(), before)
			}
			if f.ended != nil {
				problem = "reverted with an ended ctx"
			}
			if pending, err := undo.Pending(dir); err != nil || len(pending) > 0 {
				problem = fmt.Sprintf("undo records %v (%v)", pending, err)
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// Two pauses of one instance that begin at the same time: one of them is it, for
// all of its time, and the other says why it is not.
func TestTwoPausesAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1)
		f.took = 5 * time.Millisecond
		before, w := f.surface(), f.world(t, dir)
		errs, states := make([]error, 2), make([][]State, 2)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				s := Spec{Name: fmt.Sprintf("freeze-%d", i), Target: "svc", Pause: &Pause{}}
				errs[i] = Hold(t.Context(), f.fault(s, time.Duration(i+1)*20*time.Millisecond, 1), w, func(s State) { states[i] = append(states[i], s) })
			})
		}
		all.Wait()
		if errs[0] != nil {
			errs[0], errs[1], states[0], states[1] = errs[1], errs[0], states[1], states[0]
		}
		var revert *RevertError
		if errs[0] != nil || errs[1] == nil || errors.As(errs[1], &revert) || !strings.Contains(errs[1].Error(), "another fault") {
			t.Fatalf("%v; %v: want one of them refused, and nothing unreverted", errs[0], errs[1])
		}
		if last := states[0][len(states[0])-1]; last.State != Verified || last.Detail != "" {
			t.Errorf("the pause that took place ends with %+v: the other has meddled", last)
		}
		if pending, err := undo.Pending(dir); f.surface() != before || err != nil || len(pending) > 0 {
			t.Errorf("the world is %s, it was %s; pending %v (%v)", f.surface(), before, pending, err)
		}
	})
}

func TestWhatARuntimeLacks(t *testing.T) {
	for _, k := range Kinds {
		err := k.Supported(struct{}{})
		if (err != nil) != (k.On == OnService || k.Reference) {
			t.Errorf("%s on a runtime without capabilities: %v", k.Verb, err)
		}
		if err != nil && !strings.Contains(err.Error(), k.Verb+": runtime struct {} cannot do that: it does not offer all of: "+k.Needs) {
			t.Errorf("%s: %v", k.Verb, err)
		}
		if err := k.Supported((*fake)(nil)); err != nil {
			t.Errorf("%s on one with all: %v", k.Verb, err)
		}
	}
	f := newFake(1)
	w := f.world(t, t.TempDir())
	w.Services = struct{}{}
	if err := Hold(t.Context(), f.fault(example("pause"), time.Second, 1), w, func(State) {}); err == nil || !strings.Contains(err.Error(), "pause: runtime") {
		t.Errorf("Hold: %v", err)
	}
}

func TestTheSeedDecidesWhoIsHit(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(20) {
		f := Fault{Service: "x", Instances: 5, Seed: seed}
		a, err := f.picked(Pick{Count: 2})
		b, err2 := f.picked(Pick{Count: 2})
		if err != nil || err2 != nil || !slices.Equal(a, b) || len(a) != 2 {
			t.Fatalf("seed %d: %v and %v (%v, %v)", seed, a, b, err, err2)
		}
		seen[fmt.Sprint(a)] = true
	}
	if len(seen) < 5 {
		t.Errorf("20 seeds hit only %v", seen)
	}
}

func TestRules(t *testing.T) {
	share := func(p float64) proxy.Rule { return proxy.Rule{Seed: 7, Percent: p} }
	want := map[string]proxy.Rule{}
	add := func(name string, r proxy.Rule, set func(*proxy.Rule)) {
		r.Name = name
		set(&r)
		want[name] = r
	}
	add("slow", share(0.5), func(r *proxy.Rule) {
		r.Latency = &proxy.Latency{Delay: 800 * time.Millisecond, Jitter: 100 * time.Millisecond}
	})
	add("broken", share(1), func(r *proxy.Rule) { r.Error = &proxy.Error{Status: 503} })
	add("cut", share(1), func(r *proxy.Rule) { r.Reset = &proxy.Cut{After: 100} })
	add("hole", share(1), func(r *proxy.Rule) { r.Blackhole = &proxy.Cut{} })
	add("mute", share(1), func(r *proxy.Rule) { r.Silence = &proxy.Silence{For: 2 * time.Second, Direction: proxy.Request} })
	add("closed", share(0.25), func(r *proxy.Rule) { r.Refuse = &proxy.Refuse{} })
	add("handshake", share(1), func(r *proxy.Rule) {
		r.Connect = &proxy.Connect{Delay: time.Second}
		r.When.Source = "10.0.0.0/8"
	})
	add("lingering", share(1), func(r *proxy.Rule) { r.SlowClose = &proxy.SlowClose{Delay: time.Second} })
	add("narrow", share(1), func(r *proxy.Rule) {
		r.Bandwidth = &proxy.Bandwidth{BytesPerS: 100_000, Shared: true, Direction: proxy.Answer}
		r.When.Pulse = proxy.Pulse{On: 2 * time.Second, Off: 3 * time.Second}
	})
	add("crumbs", share(1), func(r *proxy.Rule) {
		r.Slice = &proxy.Slice{Average: 64, Variation: 32, Delay: time.Millisecond}
		r.When.First = 20
	})
	add("lossy", share(1), func(r *proxy.Rule) {
		r.Loss = &proxy.Loss{Ratio: 0.05, Correlation: 0.25}
		r.When.Ramp = 10 * time.Second
	})
	add("noise", share(1), func(r *proxy.Rule) {
		r.Corrupt = &proxy.Corrupt{Ratio: 0.001}
		r.When.Every = 5
	})
	add("short", share(1), func(r *proxy.Rule) { r.Limit = &proxy.Limit{Direction: proxy.Answer} })
	add("torn", share(0.5), func(r *proxy.Rule) {
		r.Abort = &proxy.Abort{After: 1000, Close: true}
		r.Match = proxy.Match{Methods: []string{"GET"}, Path: "/ledger/*"}
	})
	add("elsewhere", share(1), func(r *proxy.Rule) {
		r.Reshape = &proxy.Reshape{
			Request: proxy.Edit{Remove: []string{"Cookie"}, Set: []proxy.Field{{Name: "Host", Value: "other:80"}}},
			Answer:  proxy.Edit{Add: []proxy.Field{{Name: "A", Value: "1"}, {Name: "Retry-After", Value: "5"}}},
		}
		r.Match = proxy.Match{Host: "*.shop", Headers: []proxy.Field{{Name: "X-Debug"}, {Name: "X-Tenant", Value: "blue*"}}}
	})
	add("twice", share(0.05), func(r *proxy.Rule) { r.Duplicate = &proxy.Duplicate{Direction: proxy.Answer} })
	add("shuffled", share(0.25), func(r *proxy.Rule) { r.Reorder = &proxy.Reorder{Wait: 20 * time.Millisecond} })
	add("split", share(1), func(r *proxy.Rule) { r.Blackhole = &proxy.Cut{} })
	quiet := Spec{Name: "quiet", Silence: &Silence{}}
	add("quiet", share(1), func(r *proxy.Rule) { r.Silence = &proxy.Silence{Direction: proxy.Answer} })
	late := Spec{Name: "late", Reset: &Reset{Wait: time.Second}}
	add("late", share(1), func(r *proxy.Rule) { r.Reset = &proxy.Cut{Wait: time.Second} })
	steady := Spec{Name: "steady", Latency: &Latency{Delay: time.Second, KeepOrder: true}}
	add("steady", share(1), func(r *proxy.Rule) { r.Latency = &proxy.Latency{Delay: time.Second, KeepOrder: true} })
	thin := Spec{Name: "thin", Bandwidth: &Bandwidth{Rate: 1000, Queue: 2000}}
	add("thin", share(1), func(r *proxy.Rule) { r.Bandwidth = &proxy.Bandwidth{BytesPerS: 1000, Queue: 2000} })
	gone := Spec{Name: "gone", Error: &Error{GRPC: "UNAVAILABLE", Message: "no"}, Match: &Match{GRPC: &GRPC{Service: "shop.*", Method: "Get"}}}
	add("gone", share(1), func(r *proxy.Rule) {
		r.Error = &proxy.Error{Code: 14, Message: "no"}
		r.Match.GRPC = proxy.GRPC{Service: "shop.*", Method: "Get"}
	})
	for _, s := range append(slices.Clone(every[:18]), quiet, late, steady, thin, gone) {
		got := Fault{Spec: s, Seed: 7}.rule()
		if d := cmp.Diff(want[s.Name], got); d != "" {
			t.Errorf("%s: %s", s.Name, d)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

// Through a real proxy: the fault is there while it is held, and only then.
func TestRealProxy(t *testing.T) {
	callee := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer callee.Close()
	p, err := proxy.Start(t.Context(), proxy.Config{Name: "a -> b", Upstream: callee.Listener.Addr().String(), Protocol: proxy.HTTP})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	l, err := undo.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	status := func() int {
		answer, err := client.Get("http://" + p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	w := World{Undo: l, Edge: func(name string) *proxy.Proxy {
		if name == "a -> b" {
			return p
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	during := 0
	f := Fault{Spec: Spec{Name: "teapot", Target: "a -> b", Error: &Error{Status: 418}}, For: time.Hour, Edges: []string{"a -> b"}}
	err = Hold(ctx, f, w, func(s State) {
		if s.State == Injected {
			during = status()
			cancel()
		}
	})
	if after := status(); err != nil || during != 418 || after != 200 {
		t.Errorf("%v; during: %d, after: %d", err, during, after)
	}
	if did := p.Collect().Rules["teapot"]; did.Fired != 1 {
		t.Errorf("counted: %+v", did)
	}
	f.Edges = []string{"a -> b", "b -> c"}
	if err := Hold(t.Context(), f, w, func(State) {}); err == nil || !strings.Contains(err.Error(), `no proxy on edge "b -> c"`) || status() != 200 {
		t.Errorf("an edge that does not exist: %v", err)
	}
}

// children is a runtime of one real process, and a liar where told to be.
type children struct {
	t       *testing.T
	cmd     *exec.Cmd
	lies    map[string]bool
	signals []string
	asked   bool // to be paused
}

func (c *children) start() {
	c.cmd = exec.Command(os.Args[0], "sleep")
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *children) stop() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
}

func (c *children) Kill(_ context.Context, _ string, _ int, signal string) error {
	c.signals = append(c.signals, signal)
	if !c.lies["kill"] {
		c.stop()
	}
	return nil
}
func (c *children) StartAgain(context.Context, string, int) error {
	if c.cmd == nil && !c.lies["start"] {
		c.start()
	}
	return nil
}
func (c *children) Pause(context.Context, string, int) error {
	c.asked = true
	if c.lies["pause"] {
		return nil
	}
	return c.signalled(syscall.SIGSTOP, true)
}
func (c *children) Resume(context.Context, string, int) error {
	c.asked = false
	if c.lies["resume"] {
		return nil
	}
	return c.signalled(syscall.SIGCONT, false)
}
func (c *children) signalled(s syscall.Signal, stopped bool) error {
	p, err := undo.Identify(c.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := c.cmd.Process.Signal(s); err != nil {
		return err
	}
	for p.Stopped() != stopped {
		time.Sleep(time.Millisecond) // a stop of somebody else's child comes without an event
	}
	return nil
}

// Paused of a liar says what was asked for, so that only Hold's own look at the
// processes finds out.
func (c *children) Paused(string, int) (bool, error) {
	if c.lies["pause"] || c.lies["resume"] {
		return c.asked, nil
	}
	p, err := undo.Identify(c.cmd.Process.Pid)
	return p.Stopped(), err
}
func (c *children) Processes(string, int) ([]int, error) {
	if c.cmd == nil {
		return nil, nil
	}
	return []int{c.cmd.Process.Pid}, nil
}

func TestRealProcesses(t *testing.T) {
	kill := Spec{Name: "die", Target: "svc", Kill: &Kill{Signal: "TERM", Down: ptr(20 * time.Millisecond)}}
	pause := Spec{Name: "freeze", Target: "svc", Pause: &Pause{}}
	for _, c := range []struct {
		name, lie string
		spec      Spec
		want      []string
		wantError string
	}{
		{"kill", "", kill, wholeLife, ""},
		{"kill that did not", "kill", kill, []string{Injecting, Failed, Reverting, Reverted, Verified}, "is still there"},
		{"start that did not", "start", kill, []string{Injecting, Injected, Reverting, Reverted, Failed}, "does not run"},
		{"pause", "", pause, wholeLife, ""},
		{"pause that did not", "pause", pause, []string{Injecting, Failed, Reverting, Reverted, Verified}, "runs on"},
		{"resume that did not", "resume", pause, []string{Injecting, Injected, Reverting, Reverted, Failed}, "is still stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := undo.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			r := &children{t: t, lies: map[string]bool{c.lie: true}}
			r.start()
			t.Cleanup(r.stop)
			before := r.cmd.Process.Pid
			var states []State
			var recorded string
			f := Fault{Spec: c.spec, Service: "svc"}
			if c.spec.Pause != nil {
				f.For = 20 * time.Millisecond
			}
			err = Hold(t.Context(), f, World{Services: r, Undo: l, Run: "r-1"}, func(s State) {
				states = append(states, s)
				pending, _ := undo.Pending(dir)
				if s.State == Injecting && len(pending) == 1 && pending[0].Run == "r-1" {
					recorded = pending[0].Data[undo.Processes]
				}
			})
			if !slices.Equal(names(states), c.want) {
				t.Errorf("states %v; want %v", names(states), c.want)
			}
			if (err != nil) != (c.wantError != "") || err != nil && !strings.Contains(err.Error(), c.wantError) {
				t.Errorf("error %v; want %q", err, c.wantError)
			}
			var revert *RevertError
			if got, want := errors.As(err, &revert), c.want[len(c.want)-1] == Failed; got != want {
				t.Errorf("a RevertError: %v; want %v", got, want)
			}
			pending, _ := undo.Pending(dir)
			if (len(pending) == 1) != errors.As(err, &revert) {
				t.Errorf("undo records %v after %v", pending, err)
			}
			if !strings.HasPrefix(recorded, fmt.Sprintf("%d@", before)) {
				t.Errorf("recorded processes %q; want %d", recorded, before)
			}
			if c.lie != "" {
				return
			}
			o := states[len(states)-1].Observed
			if o["pid_before"] != float64(before) || o["instances"] != 1 {
				t.Errorf("observed %v", o)
			}
			if c.spec.Kill != nil && (o["pid_after"] != float64(r.cmd.Process.Pid) || o["pid_after"] == o["pid_before"] || o["down_s"] < 0.02 || o["outage_s"] < o["down_s"] || !slices.Equal(r.signals, []string{"TERM"})) {
				t.Errorf("observed %v, signals %v", o, r.signals)
			}
			if c.spec.Pause != nil && o["paused_s"] < 0.02 {
				t.Errorf("observed %v", o)
			}
		})
	}
}

func TestAVictimThatDoesNotRun(t *testing.T) {
	l, err := undo.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var states []State
	err = Hold(t.Context(), Fault{Spec: example("kill"), Service: "stock"}, World{Services: &children{t: t}, Undo: l}, func(s State) { states = append(states, s) })
	if err == nil || err.Error() != `inject fault "die": stock/0 does not run` || !slices.Equal(names(states), []string{Failed}) {
		t.Errorf("%v, %v", err, names(states))
	}
}
