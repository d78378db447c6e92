package faults

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

func problems(s Spec) []string {
	var all []string
	s.Check(func(path, format string, args ...any) { all = append(all, path+": "+fmt.Sprintf(format, args...)) })
	return all
}

// every is a valid fault of each kind, in the order of Kinds.
var every = []Spec{
	{Name: "slow", Target: "orders -> payments", Latency: &Latency{Delay: 800 * time.Millisecond, Jitter: 100 * time.Millisecond, Percent: ptr(Percent(0.5))}},
	{Name: "broken", Target: "orders -> payments", Error: &Error{}},
	{Name: "cut", Target: "orders -> payments", Reset: &Cut{After: 100}},
	{Name: "silent", Target: "orders -> payments", Blackhole: &Cut{}},
	{Name: "closed", Target: "orders -> payments", Refuse: &Refuse{Percent: ptr(Percent(0.25))}},
	{Name: "narrow", Target: "orders -> payments", Bandwidth: &Bandwidth{Rate: 100_000}},
	{Name: "split", Partition: &Partition{From: []string{"orders"}, To: []string{"payments", "stock"}}},
	{Name: "die", Target: "stock", Kill: &Kill{}},
	{Name: "freeze", Target: "stock", Pause: &Pause{Pick: Pick{All: true}}},
	{Name: "again", Target: "stock", Restart: &Restart{Grace: ptr(time.Second)}},
}

func TestTheTableOfKindsIsComplete(t *testing.T) {
	if len(every) != len(Kinds) {
		t.Fatalf("%d kinds, %d examples", len(Kinds), len(every))
	}
	for i, s := range every {
		k, ok := s.Kind()
		if !ok || k.Verb != Kinds[i].Verb {
			t.Errorf("example %d is a %q; want %q", i, k.Verb, Kinds[i].Verb)
			continue
		}
		if got := problems(s); got != nil {
			t.Errorf("%s: %q", k.Verb, got)
		}
		if k.Summary == "" || k.inject == nil || (k.Needs == "") != (k.needs == nil) {
			t.Errorf("%s: the row is incomplete: %+v", k.Verb, k)
		}
		if _, fixed := s.Length(); fixed != k.Instant {
			t.Errorf("%s: its length is fixed: %v, but instant: %v", k.Verb, fixed, k.Instant)
		}
		// The fields of the table are those of the struct that scenarios fill.
		var want, got []string
		spec := reflect.ValueOf(s)
		for i := range spec.NumField() {
			if spec.Type().Field(i).Tag.Get("yaml") == k.Verb {
				verb := spec.Field(i).Type().Elem()
				for j := range verb.NumField() {
					want = append(want, verb.Field(j).Tag.Get("yaml"))
				}
			}
		}
		for _, f := range k.Fields {
			got = append(got, f.Name)
			if f.Type == "" || f.Doc == "" {
				t.Errorf("%s.%s: no type or no doc", k.Verb, f.Name)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("%s: the table has %v, the struct %v", k.Verb, got, want)
		}
	}
}

func TestAsked(t *testing.T) {
	want := []map[string]float64{
		{"ratio": 0.5, "delay_s": 0.8, "jitter_s": 0.1},
		{"ratio": 1, "status": 503},
		{"ratio": 1},
		{"ratio": 1},
		{"ratio": 0.25},
		{"bytes_per_s": 100_000},
		{"ratio": 1},
		{"instances": 1, "down_s": 1},
		{},
		{"instances": 1},
	}
	for i, s := range every {
		if d := cmp.Diff(want[i], s.Asked()); d != "" {
			t.Errorf("%s: %s", s.Name, d)
		}
	}
	every[7].Asked()["down_s"] = 99
	if every[7].Asked()["down_s"] != 1 {
		t.Error("the map is shared")
	}
}

func TestCheckSaysEverythingAtOnce(t *testing.T) {
	for _, c := range []struct {
		s    Spec
		want []string
	}{
		{Spec{Target: "a -> b"}, []string{`: a fault needs one verb: latency, error, reset, blackhole, refuse, bandwidth, partition, kill, pause, restart`}},
		{Spec{Target: "a", Kill: &Kill{}, Pause: &Pause{}}, []string{`: 2 verbs (kill, pause): a fault has exactly one`}},
		{Spec{Target: "stock", At: -1, For: ptr(time.Duration(0)), Latency: &Latency{Jitter: -1, Distribution: "normal", Direction: "up", Percent: ptr(Percent(2))}}, []string{
			`target: latency is for an edge, and "stock" is none`, `at: at is -1ns`, `for: for is 0s`, `latency.percent: percent is 200`,
			`latency.delay: delay is 0s`, `latency.jitter: jitter is -1ns`, `latency.distribution: distribution "normal" is unknown: write uniform`, `latency.direction: direction "up" is unknown`}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: time.Second, Jitter: 2 * time.Second}}, []string{`latency.jitter: jitter is 2s: it is from 0s to the delay (1s)`}},
		{Spec{Error: &Error{Status: 99, Percent: ptr(Percent(0))}}, []string{`target: error needs a target: an edge`, `error.percent: percent is 0: a fault that hits nothing`, `error.status: status is 99`}},
		{Spec{Target: "a -> b", Reset: &Cut{After: -1, Percent: ptr(Percent(math.NaN()))}}, []string{`reset.percent: percent is NaN`, `reset.after: after is -1 bytes`}},
		{Spec{Target: "a -> b", Bandwidth: &Bandwidth{}}, []string{`bandwidth.rate: rate is 0B/s`}},
		{Spec{Target: "x", Partition: &Partition{From: []string{"a", "a"}, Direction: "back"}}, []string{
			`target: partition names its services in from and to`, `partition.from: "a" stands there twice`, `partition.to: to is empty`, `partition.direction: direction "back" is unknown`}},
		{Spec{Partition: &Partition{From: []string{"a"}, To: []string{"a", "b -> c"}}}, []string{`partition.to: "b -> c" is not a service`, `partition.to: "a" is on both sides`}},
		{Spec{Target: "a -> b", For: ptr(time.Second), Kill: &Kill{Signal: "HUP", Down: ptr(-time.Second), Pick: Pick{Count: -1}}}, []string{
			`target: kill is for a service, and "a -> b" is an edge`, "for: kill takes no `for`: write `down`", `kill.pick: pick is a number`, `kill.signal: signal "HUP"`, `kill.down: down is -1s`}},
		{Spec{For: ptr(time.Second), Restart: &Restart{Grace: ptr(-time.Second)}}, []string{`target: restart needs a target: the name of a service`, "for: restart takes no `for`: it is over", `restart.grace: grace is -1s`}},
	} {
		got := problems(c.s)
		ok := len(got) == len(c.want)
		for _, want := range c.want {
			ok = ok && slices.ContainsFunc(got, func(p string) bool { return strings.HasPrefix(p, want) })
		}
		if !ok {
			t.Errorf("%+v:\n got %q\nwant %q", c.s, got, c.want)
		}
	}
}

func TestText(t *testing.T) {
	type textual interface {
		encoding.TextUnmarshaler
	}
	for _, c := range []struct {
		into        textual
		text, canon string // canon "": refused
	}{
		{new(Percent), "50", "50%"}, {new(Percent), " 12.5 % ", "12.5%"}, {new(Percent), "0", "0%"}, {new(Percent), "100%", "100%"},
		{new(Percent), "29", "29%"}, {new(Percent), "0.1%", "0.1%"},
		{new(Percent), "101", ""}, {new(Percent), "-1", ""}, {new(Percent), "1e1", ""}, {new(Percent), "NaN", ""}, {new(Percent), "0x10", ""},
		{new(Percent), "", ""}, {new(Percent), "%", ""}, {new(Percent), "50 %%", ""}, {new(Percent), "1_0", ""}, {new(Percent), "1.2.3", ""},
		{new(Bytes), "0 B", "0B"}, {new(Bytes), "0", "0B"}, {new(Bytes), "64KB", "64KB"}, {new(Bytes), "64 KiB", "64KiB"}, {new(Bytes), "1.5MB", "1500KB"},
		{new(Bytes), "2 kB", "2KB"}, {new(Bytes), "9223372036854775807B", "9223372036854775807B"},
		{new(Bytes), "64", ""}, {new(Bytes), "64kb", ""}, {new(Bytes), "-1B", ""}, {new(Bytes), "+1B", ""}, {new(Bytes), "1.5B", ""}, {new(Bytes), "9223372036854775808B", ""}, {new(Bytes), "10000000000GiB", ""}, {new(Bytes), "KB", ""},
		{new(ByteRate), "100KB/s", "100KB/s"}, {new(ByteRate), "1 MiB/s", "1MiB/s"}, {new(ByteRate), "100KB", ""}, {new(ByteRate), "100/s", ""},
		{new(Pick), "1", "1"}, {new(Pick), " 3 ", "3"}, {new(Pick), "50%", "50%"}, {new(Pick), "all", "all"},
		{new(Pick), "0", ""}, {new(Pick), "0%", ""}, {new(Pick), "-1", ""}, {new(Pick), "half", ""}, {new(Pick), "101%", ""}, {new(Pick), "99999999999", ""},
	} {
		err := c.into.UnmarshalText([]byte(c.text))
		if c.canon == "" {
			if err == nil {
				t.Errorf("%T %q is accepted", c.into, c.text)
			} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", c.text)) && !strings.Contains(err.Error(), fmt.Sprintf("%q", strings.TrimSpace(c.text))) {
				t.Errorf("%T %q: the error does not quote it: %v", c.into, c.text, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%T %q: %v", c.into, c.text, err)
			continue
		}
		canon, err := c.into.(encoding.TextMarshaler).MarshalText()
		if err != nil || string(canon) != c.canon {
			t.Errorf("%T %q is written %q (%v); want %q", c.into, c.text, canon, err, c.canon)
		}
	}
}

// What is written reads back as the same value.
func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Percent(rapid.Float64Range(0, 1).Draw(t, "percent"))
		b, r := Bytes(rapid.Int64Range(0, math.MaxInt64).Draw(t, "bytes")), ByteRate(rapid.Int64Range(0, math.MaxInt64).Draw(t, "rate"))
		k := rapid.OneOf(rapid.Map(rapid.IntRange(1, 1e6), func(n int) Pick { return Pick{Count: n} }),
			rapid.Just(Pick{All: true}), rapid.Just(Pick{Ratio: 0.5})).Draw(t, "pick")
		var p2 Percent
		var b2 Bytes
		var r2 ByteRate
		var k2 Pick
		for _, c := range []struct {
			from encoding.TextMarshaler
			into encoding.TextUnmarshaler
		}{{p, &p2}, {b, &b2}, {r, &r2}, {k, &k2}} {
			text, err := c.from.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.into.UnmarshalText(text); err != nil {
				t.Fatalf("%v is written %q: %v", c.from, text, err)
			}
		}
		// A percentage is a text of hundredths: reading divides by 100, which is not
		// always the exact inverse in binary. One unit in the last place is allowed.
		if math.Abs(float64(p2-p)) > 1e-15 || b2 != b || r2 != r || k2 != k {
			t.Fatalf("%v %v %v %v read back as %v %v %v %v", p, b, r, k, p2, b2, r2, k2)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"50%", "1.5MiB", "100KB/s", "all", "1e308", "٣", "0.0000000000001%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var p Percent
		if p.UnmarshalText([]byte(s)) == nil && !(p >= 0 && p <= 1) {
			t.Errorf("%q is %v", s, float64(p))
		}
		var b Bytes
		if b.UnmarshalText([]byte(s)) == nil && b < 0 {
			t.Errorf("%q is %d", s, int64(b))
		}
		var r ByteRate
		if r.UnmarshalText([]byte(s)) == nil && r < 0 {
			t.Errorf("%q is %d", s, int64(r))
		}
		var k Pick
		if k.UnmarshalText([]byte(s)) == nil {
			if _, err := k.Of(1 << 30); err != nil && k.Ratio > 1e-6 {
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}

func TestPickOf(t *testing.T) {
	for _, c := range []struct {
		p         Pick
		of, want  int
		wantError string
	}{
		{Pick{}, 1, 1, ""}, {Pick{Count: 2}, 3, 2, ""}, {Pick{All: true}, 5, 5, ""}, {Pick{Ratio: 0.5}, 5, 3, ""}, {Pick{Ratio: 0.5}, 1, 1, ""},
		{Pick{Ratio: 0.1}, 2, 0, "pick 10% of 2 is none"}, {Pick{Count: 2}, 1, 0, "pick 2 is more than there are (1)"}, {Pick{All: true}, 0, 0, "is none"},
	} {
		n, err := c.p.Of(c.of)
		if n != c.want || (err != nil) != (c.wantError != "") || err != nil && !strings.Contains(err.Error(), c.wantError) {
			t.Errorf("%s of %d: %d, %v", c.p, c.of, n, err)
		}
	}
}

func TestPartitionCovers(t *testing.T) {
	both := Partition{From: []string{"a", "b"}, To: []string{"c"}}
	forward := both
	forward.Direction = "forward"
	for _, c := range []struct {
		caller, callee string
		both, forward  bool
	}{{"a", "c", true, true}, {"c", "b", true, false}, {"a", "b", false, false}, {"a", "x", false, false}} {
		if both.Covers(c.caller, c.callee) != c.both || forward.Covers(c.caller, c.callee) != c.forward {
			t.Errorf("%s -> %s", c.caller, c.callee)
		}
	}
	if both.String() != "a, b | c" || forward.String() != "a, b >| c" {
		t.Errorf("%s and %s", both, forward)
	}
}

func TestFaultsSurviveJSON(t *testing.T) {
	for _, s := range every {
		f := Fault{Spec: s, At: time.Second, For: 2 * time.Second, Edges: []string{"a -> b"}, Service: "x", Instances: 2, Seed: math.MaxUint64}
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var got Fault
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		// The zero Pick is written "1".
		if d := cmp.Diff(f, got, cmp.Comparer(func(a, b Pick) bool { return a.String() == b.String() })); d != "" {
			t.Errorf("%s: %s", b, d)
		}
	}
}
