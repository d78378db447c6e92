package reports

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// quantile is what one finds by sorting: the failed ones last.
func TestQuantileCountsFailedAsSlowest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Below 2 ms a histogram has a bucket for every microsecond.
		ok := rapid.SliceOfN(rapid.IntRange(1, 2000), 0, 60).Draw(t, "ok µs")
		failed := rapid.IntRange(0, 20).Draw(t, "failed")
		q := float64(rapid.IntRange(1, 999).Draw(t, "q")) / 1000
		h := hdr.New()
		for _, us := range ok {
			h.Record(time.Duration(us) * time.Microsecond)
		}
		got := quantile(h, failed, q)
		slices.Sort(ok)
		all := len(ok) + failed
		if all == 0 {
			if !math.IsNaN(got) {
				t.Fatalf("of nothing: %v, want NaN", got)
			}
			return
		}
		rank := max(int(math.Ceil(q*float64(all)-1e-9)), 1)
		if rank > len(ok) {
			if !math.IsInf(got, 1) {
				t.Fatalf("rank %d of %d ok: %v, want +Inf", rank, len(ok), got)
			}
			return
		}
		if want := float64(ok[rank-1]) / 1e6; math.Abs(got-want) > 1.5e-6 {
			t.Fatalf("rank %d: %v, want %v", rank, got, want)
		}
	})
}

func TestGatherKeepsEveryRequest(t *testing.T) {
	r := failing()
	due, ok, failed := 0, 0, 0
	for _, ev := range r.Events {
		if w := ev.Window; w != nil {
			due, ok, failed = due+w.Due, ok+w.OK, failed+w.Failed
		}
	}
	for _, most := range []int{1, 7, 46, 150, 1000} {
		e := gather(r, most, fitting)
		if e.count > most {
			t.Errorf("%d buckets, asked for at most %d", e.count, most)
		}
		var got loadBucket
		for _, l := range e.loads {
			for _, b := range l.buckets {
				got.due, got.ok, got.failed = got.due+b.due, got.ok+b.ok, got.failed+b.failed
			}
		}
		if got.due != due || got.ok != ok || got.failed != failed {
			t.Errorf("%d/%d/%d requests in %d buckets, want %d/%d/%d", got.due, got.ok, got.failed, e.count, due, ok, failed)
		}
		phases := 0
		for _, l := range e.loads {
			for _, p := range l.byPhase {
				phases += int(p.ok.Count()) + p.failed
			}
		}
		if phases != ok+failed {
			t.Errorf("%d requests in the phases, want %d", phases, ok+failed)
		}
	}
}

func TestGatherOfAnAbortedRunEndsThere(t *testing.T) {
	e := gather(aborted(), 150, roundWidth)
	if e.end != 9.4 || len(e.bands) != 0 {
		t.Errorf("ends at %v s with %d faults, want 9.4 and none", e.end, len(e.bands))
	}
	if last := e.phases[len(e.phases)-1]; last.Label != "before" || last.To != 9.4 {
		t.Errorf("the last phase is %+v", last)
	}
}

// wrap keeps every character in its order, and every line within its room.
func TestWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`([a-z0-9é日]{0,30} ){0,12}(12 ms )?[a-z]{0,90}`).Draw(t, "s")
		first, rest := rapid.IntRange(2, 50).Draw(t, "first"), rapid.IntRange(2, 80).Draw(t, "rest")
		lines := wrap(s, first, rest)
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if squeeze(strings.Join(lines, "")) != squeeze(s) {
			t.Fatalf("%q became %q", s, lines)
		}
		for i, l := range lines {
			room := rest
			if i == 0 {
				room = first
			}
			if columns(l) > room {
				t.Fatalf("line %d has %d columns, room is %d: %q", i, columns(l), room, l)
			}
		}
	})
	if got := wrap("it took 14.2 ms, which is long", 12, 12); !slices.Equal(got, []string{"it took", "14.2 ms,", "which is", "long"}) {
		t.Errorf("a number and its unit are parted: %q", got)
	}
}

func TestShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, n := rapid.String().Draw(t, "s"), rapid.IntRange(0, 30).Draw(t, "n")
		got := short(s, n)
		if columns(got) > n {
			t.Fatalf("%q has %d columns, want at most %d", got, columns(got), n)
		}
		if c := clean(s); columns(c) <= n && got != c {
			t.Fatalf("%q fits in %d and became %q", c, n, got)
		}
	})
}

func TestShellQuote(t *testing.T) {
	for s, want := range map[string]string{
		"plain-name": "plain-name", "a/b.yaml": "a/b.yaml", "": "''", "-rf": "'-rf'",
		"two words": "'two words'", "$(id)": "'$(id)'", "it's": `'it'\''s'`, "`x`": "'`x`'", "日本": "'日本'",
	} {
		if got := shellQuote(s); got != want {
			t.Errorf("%q is quoted %s, want %s", s, got, want)
		}
	}
}

func TestCommand(t *testing.T) {
	r := failing()
	for _, c := range []struct {
		change func()
		want   string
	}{
		{func() {}, "chaosctl run checkout-survives-slow-payments --seed 7"},
		{func() { r.Result.Variant = "sham" }, "chaosctl run checkout-survives-slow-payments --seed 7 --sham"},
		{func() { r.Result.Variant, r.Result.Control = "", &verdict.ControlResult{} }, "chaosctl run checkout-survives-slow-payments --seed 7 --control"},
		{func() { r.Events[0].Start.Plan = []byte(`{"file":"my scenarios/x.yaml"}`) }, "chaosctl run 'my scenarios/x.yaml' --seed 7 --control"},
		{func() { r.Events[0].Start.Plan = []byte(`{"file":"library/checkout-survives-slow-payments.yaml"}`) }, "chaosctl run checkout-survives-slow-payments --seed 7 --control"},
	} {
		c.change()
		if got := command(r); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	r := failing()
	for _, c := range []struct {
		change func()
		want   string
	}{
		{func() {}, "2 of 10 claims did not hold, or could not be shown to. What went wrong on purpose: slow-payments (latency on orders -> payments) and lose-stock (kill on stock)."},
		{func() { r.Result.Verdict = verdict.Pass }, "The system kept its promise: 8 of 10 claims held at 95% confidence."},
		{func() { r.Result.Verdict = verdict.Inconclusive }, "This run cannot tell"},
		{func() { r.Result.Void = "generator saturated" }, "Nothing of this run counts as evidence, for or against (generator saturated)."},
		{func() { r.Result.Variant = "control" }, "it is expected to fail"},
		{func() { r.Hypotheses.Sham = true }, "everything took place but the faults"},
		{func() { r.Result.Status = "interrupted" }, "interrupted before its end"},
		{func() { r.Hypotheses.Sham, r.Result.Faults = false, nil }, "No fault was part of this run."},
	} {
		c.change()
		if got := strings.Join(explain(r), " "); !strings.Contains(got, c.want) {
			t.Errorf("%q lacks %q", got, c.want)
		}
	}
}

func TestNeeded(t *testing.T) {
	o := verdict.ObjectiveResult{Verdict: verdict.Inconclusive}
	for _, c := range []struct {
		n    int
		s    float64
		want string
	}{{0, 0, ""}, {-1, 0, "no realistic number of arrivals would decide"}, {1200, 6, "about 1200 more arrivals (6.00 s) would decide"}, {12000, 0, "about 12,000 more arrivals would decide"}} {
		if o.NeededSamples, o.NeededS = c.n, c.s; needed(o) != c.want {
			t.Errorf("%d, %v s: %q, want %q", c.n, c.s, needed(o), c.want)
		}
	}
	if o.Verdict = verdict.Pass; needed(o) != "" {
		t.Error("a decided objective needs more")
	}
}

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		key   string
		value float64
		want  string
	}{
		{"delay_s", 0.8, "delay 800 ms"}, {"ratio", 0.5, "share hit 50%"}, {"hit_ratio", 0.125, "hit 12.5%"}, {"bytes_per_s", 64000, "bandwidth 64 kB/s"},
		{"upstream_per_s", 2.5, "upstream 2.50/s"}, {"instances", 1, "instances 1"}, {"status", 503, "status 503"}, {"pid_before", 21439, "pid before 21439"}, {"_s", 1, "s 1.00 s"},
	} {
		name, text := quantity(c.key)
		if got := name + " " + text(c.value); got != c.want {
			t.Errorf("%s: %q, want %q", c.key, got, c.want)
		}
	}
}

func TestPositiveControl(t *testing.T) {
	pairs, more := positiveControl(verdict.FaultResult{
		Asked:    map[string]float64{"delay_s": 0.8, "jitter_s": 0, "down_s": 2},
		Observed: map[string]float64{"delay_s": 0.79, "pid": 7, "edges": 1},
	})
	if want := []measured{{"delay", "800 ms", "790 ms"}, {"down", "2.00 s", "–"}}; !slices.Equal(pairs, want) {
		t.Errorf("pairs %v, want %v", pairs, want)
	}
	if want := []string{"edges 1", "pid 7"}; !slices.Equal(more, want) {
		t.Errorf("more %q, want %q", more, want)
	}
}
