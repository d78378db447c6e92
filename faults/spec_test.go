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
	{Name: "cut", Target: "orders -> payments", Reset: &Reset{After: 100}},
	{Name: "hole", Target: "orders -> payments", Blackhole: &Cut{}},
	{Name: "mute", Target: "orders -> payments", Silence: &Silence{For: ptr(2 * time.Second), Direction: "request"}},
	{Name: "closed", Target: "orders -> payments", Refuse: &Refuse{Percent: ptr(Percent(0.25))}},
	{Name: "handshake", Target: "orders -> payments", SlowConnect: &SlowConnect{Delay: time.Second}, From: "10.0.0.0/8"},
	{Name: "lingering", Target: "orders -> payments", SlowClose: &SlowClose{Delay: time.Second, Direction: "both"}},
	{Name: "narrow", Target: "orders -> payments", Bandwidth: &Bandwidth{Rate: 100_000, Shared: true, Direction: "answer"}, Pulse: &Pulse{2 * time.Second, 3 * time.Second}},
	{Name: "crumbs", Target: "orders -> payments", Slice: &Slice{Average: 64, Variation: 32, Delay: time.Millisecond}, First: ptr(uint64(20))},
	{Name: "lossy", Target: "orders -> payments", Loss: &Loss{Percent: 0.05, Correlation: 0.25}, Ramp: ptr(10 * time.Second)},
	{Name: "noise", Target: "orders -> payments", Corrupt: &Corrupt{Percent: 0.001}, Every: ptr(uint64(5))},
	{Name: "short", Target: "orders -> payments", Limit: &Limit{Bytes: ptr(Bytes(0)), Direction: "answer"}},
	{Name: "torn", Target: "orders -> payments", Abort: &Abort{After: 1000, Close: true, Percent: ptr(Percent(0.5))}, Match: &Match{Method: []string{"GET"}, Path: "/ledger/*"}},
	{Name: "elsewhere", Target: "orders -> payments", Reshape: &Reshape{
		Request: &Edit{Remove: []string{"Cookie"}, Set: map[string]string{"Host": "other:80"}}, Answer: &Edit{Add: map[string]string{"Retry-After": "5", "A": "1"}},
	}, Match: &Match{Host: "*.shop", Headers: map[string]string{"X-Tenant": "blue*", "X-Debug": ""}}},
	{Name: "twice", Target: "orders -> names", Duplicate: &Duplicate{Percent: 0.05, Direction: "answer"}},
	{Name: "shuffled", Target: "orders -> names", Reorder: &Reorder{Percent: 0.25, Wait: ptr(20 * time.Millisecond)}},
	{Name: "split", Partition: &Partition{From: []string{"orders"}, To: []string{"payments", "stock"}}},
	{Name: "die", Target: "stock", Kill: &Kill{}},
	{Name: "freeze", Target: "stock", Pause: &Pause{Pick: Pick{All: true}}},
	{Name: "again", Target: "stock", Restart: &Restart{Grace: ptr(time.Second)}},
	{Name: "busy", Target: "stock", CPU: &CPU{Load: ptr(Percent(0.5)), Workers: 2}},
	{Name: "large", Target: "stock", Memory: &Memory{Size: 200_000_000}},
	{Name: "full", Target: "stock", Disk: &Disk{Fill: 50_000}},
	{Name: "lost", Target: "orders -> payments", DNS: &DNS{Fail: "nxdomain", Delay: time.Second}},
	{Name: "late", Target: "stock", Clock: &Clock{Offset: Shift(-time.Hour), Drift: Shift(time.Millisecond)}},
}

// example is the one of that verb.
func example(verb string) Spec {
	return every[slices.IndexFunc(Kinds, func(k Kind) bool { return k.Verb == verb })]
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
		// What it means on UDP edges is said where it can be there.
		if k.On != OnService {
			there := s
			there.Match, there.From = nil, ""
			if r := there.Refuse; r != nil {
				there.Refuse = &Refuse{}
			}
			if _, err := there.OnUDP(); (err == nil) != (k.UDP != "" || k.On == OnUDPEdge) {
				t.Errorf("%s on a UDP edge: %v; the table says %q", k.Verb, err, k.UDP)
			}
		}
		// The fields of the table are those of the struct that scenarios fill.
		var want, got []string
		spec := reflect.ValueOf(s)
		for i := range spec.NumField() {
			if key(spec.Type().Field(i)) == k.Verb {
				verb := spec.Field(i).Type().Elem()
				for j := range verb.NumField() {
					want = append(want, key(verb.Field(j)))
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
	// And what stands beside the verbs is conditions.
	var beside []string
	for i := range reflect.TypeFor[Spec]().NumField() {
		name := key(reflect.TypeFor[Spec]().Field(i))
		if !slices.Contains([]string{"-", "target", "at", "for"}, name) && !slices.ContainsFunc(Kinds, func(k Kind) bool { return k.Verb == name }) {
			beside = append(beside, name)
		}
	}
	for i, c := range Conditions {
		if i >= len(beside) || beside[i] != c.Name || c.Type == "" || c.Default == "" || c.Doc == "" {
			t.Errorf("condition %+v; beside the verbs stand %v", c, beside)
		}
	}
}

// key is the key of a file that a field is for.
func key(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

func TestAsked(t *testing.T) {
	want := []map[string]float64{
		{"ratio": 0.5, "delay_s": 0.8, "jitter_s": 0.1},
		{"ratio": 1, "status": 503},
		{"ratio": 1, "after_bytes": 100},
		{"ratio": 1},
		{"ratio": 1, "silence_s": 2},
		{"ratio": 0.25},
		{"ratio": 1, "delay_s": 1},
		{"ratio": 1, "close_delay_s": 1},
		{"ratio": 1, "bytes_per_s": 100_000},
		{"ratio": 1, "piece_bytes": 64},
		{"ratio": 1, "loss_ratio": 0.05},
		{"ratio": 1, "corrupt_ratio": 0.001},
		{"ratio": 1, "limit_bytes": 0},
		{"ratio": 0.5, "after_bytes": 1000, "close": 1},
		{"ratio": 1},
		{"ratio": 0.05},
		{"ratio": 0.25},
		{"ratio": 1},
		{"instances": 1, "down_s": 1},
		{},
		{"instances": 1},
		{"instances": 1, "load_ratio": 0.5, "workers": 2},
		{"instances": 1, "rss_bytes": 200_000_000},
		{"instances": 1, "bytes": 50_000},
		{"delay_s": 1},
		{"instances": 1, "offset_s": -3600, "drift_ratio": 0.001},
	}
	for i, s := range every {
		if d := cmp.Diff(want[i], s.Asked()); d != "" {
			t.Errorf("%s: %s", s.Name, d)
		}
	}
	wait := Spec{Reset: &Reset{Wait: 3 * time.Second, Percent: ptr(Percent(0.1))}}
	if d := cmp.Diff(map[string]float64{"ratio": 0.1, "wait_s": 3}, wait.Asked()); d != "" {
		t.Error(d)
	}
	tail := Spec{Latency: &Latency{Delay: time.Second, Distribution: "exponential"}}
	if d := cmp.Diff(map[string]float64{"ratio": 1, "delay_s": 1, "jitter_s": 0, "delay_median_s": 0.693147181}, tail.Asked()); d != "" {
		t.Error(d)
	}
	wait.Asked()["wait_s"] = 99
	if wait.Asked()["wait_s"] != 3 {
		t.Error("the map is shared")
	}
}

func TestCheckSaysEverythingAtOnce(t *testing.T) {
	for _, c := range []struct {
		s    Spec
		want []string
	}{
		{Spec{Target: "a -> b"}, []string{`: a fault needs one verb: latency, error, reset, blackhole, silence, refuse, slow_connect, slow_close, bandwidth, slice, loss, corrupt, limit, abort, reshape, duplicate, reorder, partition, kill, pause, restart, cpu, memory, disk, dns, clock`}},
		{Spec{Target: "a", Kill: &Kill{}, Pause: &Pause{}}, []string{`: 2 verbs (kill, pause): a fault has exactly one`}},
		{Spec{Target: "stock", At: -1, For: ptr(time.Duration(0)), Latency: &Latency{Jitter: -1, Distribution: "gauss", Direction: "up", Percent: ptr(Percent(2))}}, []string{
			`target: latency is for an edge, and "stock" is none`, `at: at is -1ns`, `for: for is 0s`, `latency.percent: percent is 200`,
			`latency.delay: delay is 0s: write how long to hold a call back`, `latency.distribution: distribution "gauss" is unknown: write uniform, normal, pareto or exponential`, `latency.direction: direction "up" is unknown: write answer or request`}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: time.Second, Jitter: 2 * time.Second}}, []string{`latency.jitter: jitter is 2s: under the uniform distribution it is from 0s to the delay (1s)`}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: time.Second, Distribution: "normal"}}, []string{`latency.jitter: jitter is 0s: under the normal distribution it is the standard deviation`}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: time.Second, Distribution: "pareto", Jitter: -1}}, []string{`latency.jitter: jitter is -1ns: under the pareto distribution`}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: time.Second, Distribution: "exponential", Jitter: 1}}, []string{`latency.jitter: jitter is 1ns: leave it out`}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: 9000 * time.Hour}}, []string{`latency: delay is 9000h0m0s, want from 0 to 8760h`}},
		{Spec{Target: "a", Silence: &Silence{For: ptr(time.Duration(0)), Direction: "both", Percent: ptr(Percent(2))}}, []string{
			`target: silence is for an edge, and "a" is none`, `silence.percent: percent is 200`, `silence.for: for is 0s: write how long`, `silence.direction: silence is about one direction: write answer or request; blackhole silences both`}},
		{Spec{Target: "a -> b", Silence: &Silence{Direction: "up"}}, []string{`silence.direction: direction "up" is unknown: write answer or request`}},
		{Spec{Target: "a -> b", SlowConnect: &SlowConnect{Percent: ptr(Percent(0))}}, []string{`slow_connect.percent: percent is 0`, `slow_connect.delay: delay is 0s: write how long opening`}},
		{Spec{Target: "a -> b", SlowClose: &SlowClose{Delay: -1, Direction: "down"}}, []string{`slow_close.delay: delay is -1ns`, `slow_close.direction: direction "down" is unknown: write both, request or answer`}},
		{Spec{Target: "a -> b", Slice: &Slice{Direction: "x"}}, []string{`slice.average: average is 0B: write the size of a piece`, `slice.direction: direction "x"`}},
		{Spec{Target: "a -> b", Slice: &Slice{Average: 10, Variation: 11}}, []string{`slice.variation: variation is 11B: it is from 0 B to the average (10B)`}},
		{Spec{Target: "a -> b", Slice: &Slice{Average: 1 << 51}}, []string{`slice: average is 2251799813685248 bytes, want from 1 to`}},
		{Spec{Target: "a -> b", Loss: &Loss{Correlation: 2, Direction: "x"}}, []string{`loss.percent: percent is 0: write how large a share of the chunks`, `loss.correlation: correlation is 200`, `loss.direction: direction "x"`}},
		{Spec{Target: "a -> b", Corrupt: &Corrupt{Percent: 1.5, Direction: "x"}}, []string{`corrupt.percent: percent is 150: write how large a share of the bytes`, `corrupt.direction: direction "x"`}},
		{Spec{Target: "a -> b", Limit: &Limit{Direction: "x"}}, []string{`limit.bytes: bytes says after how many`, `limit.direction: direction "x"`}},
		{Spec{Target: "a -> b", Abort: &Abort{After: -1, Percent: ptr(Percent(2))}}, []string{`abort.percent: percent is 200`, `abort.after: after is -1 bytes`}},
		{Spec{Target: "a -> b", Reshape: &Reshape{}}, []string{`reshape: reshape changes nothing, want something to remove, set or add`}},
		{Spec{Target: "a -> b", Reshape: &Reshape{Answer: &Edit{Set: map[string]string{"Content-Length": "1"}}}}, []string{`reshape: `}},
		{Spec{Target: "a -> b", Latency: &Latency{Delay: 1, Where: "tail"}}, []string{`latency.where: where "tail" is unknown`}},
		{Spec{Target: "a -> b", Error: &Error{}, Match: &Match{Method: []string{"get"}}}, []string{`match: method is "get", want "GET"`}},
		{Spec{Target: "a -> b", Error: &Error{GRPC: "UNAVAIL", Status: 500, Body: "b"}, Match: &Match{GRPC: &GRPC{}}}, []string{
			`match.grpc: grpc names neither a service nor a method`, `error.grpc: "UNAVAIL" is no status of gRPC: write one of CANCELLED, UNKNOWN,`, `error.status: grpc and status contradict each other`, `error.body: an answer with a status of gRPC has no body`}},
		{Spec{Target: "a -> b", Error: &Error{GRPC: "OK"}}, []string{`error.grpc: OK is no error`}},
		{Spec{Target: "a -> b", Error: &Error{Message: "gone"}}, []string{`error.message: message is that of a status of gRPC: write which`}},
		{Spec{Target: "a -> b", Error: &Error{GRPC: "UNAVAILABLE", Message: strings.Repeat("x", 2000)}}, []string{`error: message has 2000 bytes, want at most 1024`}},
		{Spec{Target: "a -> b", Error: &Error{}, Match: &Match{GRPC: &GRPC{Service: "/shop"}}}, []string{`match: grpc service is "/shop", want a name such as shop.Payments`}},
		{Spec{Target: "a -> b", Refuse: &Refuse{}, Match: &Match{Path: "/"}}, []string{`match: refuse takes no match: it strikes before there is a request`}},
		{Spec{Target: "a -> b", Limit: &Limit{Bytes: ptr(Bytes(1))}, Match: &Match{Path: "/"}}, []string{`match: limit takes no match: it is about bytes`}},
		{Spec{Target: "a -> b", Reset: &Reset{After: 1, Wait: 1}}, []string{`reset.wait: after says at which byte to strike`}},
		{Spec{Target: "a -> b", Refuse: &Refuse{}, Pulse: &Pulse{}, Ramp: ptr(time.Duration(0)), First: ptr(uint64(0)), Every: ptr(uint64(0)), From: "nowhere"}, []string{
			`pulse.active: active is 0s: write how long the fault is at work each time`, `pulse.pause: pause is 0s: write how long the fault is not`, `ramp: ramp is 0s`, `first: first is 0`, `every: every is 0`, `from: "nowhere" is no range of addresses`}},
		{Spec{Target: "a", Pause: &Pause{}, Pulse: &Pulse{time.Second, time.Second}, From: "10.0.0.0/8"}, []string{`pulse: pulse is for faults on edges: pause acts on a service`, `from: from is for faults on edges`}},
		{Spec{Partition: &Partition{From: []string{"a"}, To: []string{"b"}}, Pulse: &Pulse{time.Second, time.Second}, Every: ptr(uint64(2))}, []string{`every: partition takes no every: it cuts off everything`}},
		{Spec{Error: &Error{Status: 99, Percent: ptr(Percent(0))}}, []string{`target: error needs a target: an edge`, `error.percent: percent is 0: a fault that hits nothing`, `error.status: status is 99`}},
		{Spec{Target: "a -> b", Reset: &Reset{After: -1, Percent: ptr(Percent(math.NaN()))}}, []string{`reset.percent: percent is NaN`, `reset.after: after is -1 bytes`}},
		{Spec{Target: "a -> b", Bandwidth: &Bandwidth{}}, []string{`bandwidth.rate: rate is 0B/s`}},
		{Spec{Target: "a -> b", Bandwidth: &Bandwidth{Rate: 1, Queue: -1}}, []string{`bandwidth.queue: queue is -1 bytes`}},
		{Spec{Target: "a -> b", Duplicate: &Duplicate{Direction: "up"}}, []string{`duplicate.percent: percent is 0: write how large a share of the datagrams is sent twice`, `duplicate.direction: direction "up" is unknown`}},
		{Spec{Target: "a -> b", Reorder: &Reorder{Percent: 2, Wait: ptr(time.Duration(0))}}, []string{`reorder.percent: percent is 200`, `reorder.wait: wait is 0s`}},
		{Spec{Target: "a -> b", Reorder: &Reorder{Percent: 1}, Match: &Match{Path: "/"}}, []string{`match: reorder takes no match: it is about bytes`}},
		{Spec{Target: "x", Partition: &Partition{From: []string{"a", "a"}, Direction: "back"}}, []string{
			`target: partition names its services in from and to`, `partition.from: "a" stands there twice`, `partition.to: to is empty`, `partition.direction: direction "back" is unknown`}},
		{Spec{Partition: &Partition{From: []string{"a"}, To: []string{"a", "b -> c"}}}, []string{`partition.to: "b -> c" is not a service`, `partition.to: "a" is on both sides`}},
		{Spec{Target: "a -> b", For: ptr(time.Second), Kill: &Kill{Signal: "HUP", Down: ptr(-time.Second), Pick: Pick{Count: -1}}}, []string{
			`target: kill is for a service, and "a -> b" is an edge`, "for: kill takes no `for`: write `down`", `kill.pick: pick is a number`, `kill.signal: signal "HUP"`, `kill.down: down is -1s`}},
		{Spec{Target: "a -> b", CPU: &CPU{Load: ptr(Percent(0)), Workers: -1, Pick: Pick{Count: -1}}}, []string{
			`target: cpu is for a service, and "a -> b" is an edge`, `cpu.pick: pick is a number`, `cpu.load: load is 0`, `cpu.workers: workers is -1`}},
		{Spec{Target: "a", CPU: &CPU{Load: ptr(Percent(math.NaN()))}}, []string{`cpu.load: load is NaN`}},
		{Spec{Target: "a", Memory: &Memory{}}, []string{`memory: memory needs size (how much to hold, like 200MB) or share`}},
		{Spec{Target: "a", Memory: &Memory{Size: -1, Share: ptr(Percent(2))}}, []string{`memory.share: both size and share`, `memory.size: size is -1`, `memory.share: percent is 200`}},
		{Spec{Target: "a", Disk: &Disk{}}, []string{`disk: disk needs fill (how much to write, like 50MB) or free`}},
		{Spec{Target: "a", Disk: &Disk{Fill: -1, Free: ptr(Bytes(-1))}, Pulse: &Pulse{time.Second, time.Second}}, []string{
			`pulse: pulse is for faults on edges: disk acts`, `disk.free: both fill and free`, `disk.fill: fill is -1`, `disk.free: free is -1`}},
		{Spec{Target: "a", DNS: &DNS{Fail: "gone", Delay: -1}}, []string{`target: dns is for an edge, and "a" is none`, `dns.fail: fail "gone" is unknown: write nxdomain, timeout or wrong`, `dns.delay: delay is -1ns`}},
		{Spec{Target: "a -> b", DNS: &DNS{}, Match: &Match{Path: "/"}}, []string{`match: match is for faults on what passes an edge: dns acts on its caller`, `dns: dns changes nothing`}},
		{Spec{Target: "a", Clock: &Clock{}}, []string{`clock: clock changes nothing`}},
		{Spec{Target: "a", Clock: &Clock{Offset: 1 << 62, Drift: Shift(-time.Second)}}, []string{`clock.offset: offset is `, `clock.drift: drift is -1s`}},
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
		{new(Shift), "+5m", "5m0s"}, {new(Shift), " -1h ", "-1h0m0s"}, {new(Shift), "5", ""}, {new(Shift), "", ""}, {new(Shift), "--1s", ""},
		{new(Source), "10.1.2.3/8", "10.0.0.0/8"}, {new(Source), " 10.1.2.3 ", "10.1.2.3"}, {new(Source), "10.1.2.3/32", "10.1.2.3"}, {new(Source), "2001:DB8::/32", "2001:db8::/32"}, {new(Source), "::ffff:10.1.2.3", "10.1.2.3"},
		{new(Source), "10.0.0.0/33", ""}, {new(Source), "10.0.0", ""}, {new(Source), "fe80::1%eth0", ""}, {new(Source), "::ffff:10.0.0.0/104", ""}, {new(Source), "localhost", ""},
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
		var canon []byte
		if source, ok := c.into.(*Source); ok {
			canon = []byte(*source) // a text as it is
		} else {
			canon, err = c.into.(encoding.TextMarshaler).MarshalText()
		}
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

// The median of a law is where its density, added up, comes to one half; and the
// mean of that same density is the delay that was asked for.
func TestMedian(t *testing.T) {
	for _, c := range []struct {
		distribution string
		jitter, want float64 // of the delay
	}{
		{"", 1, 1},
		{"uniform", 0.5, 1},
		{"exponential", 0, math.Ln2},
		{"normal", 0.1, 1}, // next to nothing of it is below 0
		// Pareto of shape 3: (sigma/mean)² = 1/(3·1); least = 2/3, times 2^(1/3).
		{"pareto", 1 / math.Sqrt(3), 2.0 / 3 * math.Cbrt(2)},
		{"normal", 1000, math.Ln2}, // so flat that it is exponential
	} {
		l := Latency{Delay: time.Second, Jitter: time.Duration(c.jitter * 1e9), Distribution: c.distribution}
		if got := l.median().Seconds(); math.Abs(got-c.want) > 1e-3 {
			t.Errorf("%s of mean 1 s, jitter %g s: median %g s, want %g", c.distribution, c.jitter, got, c.want)
		}
	}
	for _, middle := range []float64{-3, -1, 0, 0.5, 2} { // of a normal law of sigma 1
		const step = 1e-4
		var all, moment float64
		at := func(i int) (x, weight float64) {
			x = (float64(i) + 0.5) * step
			return x, math.Exp(-(x - middle) * (x - middle) / 2)
		}
		n := int((max(middle, 0) + 9) / step)
		for i := range n {
			x, w := at(i)
			all, moment = all+w, moment+x*w
		}
		half, i := 0.0, 0
		for ; half < all/2; i++ {
			_, w := at(i)
			half += w
		}
		if got, want := normalMedian(moment/all, 1), float64(i)*step; math.Abs(got-want) > 1e-3 {
			t.Errorf("normal around %g, above 0: median %g, want %g", middle, got, want)
		}
	}
}

// A run whose time is scaled has its pulses and ramps scaled, and its delays not.
func TestScaled(t *testing.T) {
	s := Spec{SlowConnect: &SlowConnect{Delay: time.Second}, Pulse: &Pulse{2 * time.Second, 4 * time.Second}, Ramp: ptr(6 * time.Second)}
	half := s.Scaled(func(d time.Duration) time.Duration { return d / 2 })
	if *half.Pulse != (Pulse{time.Second, 2 * time.Second}) || *half.Ramp != 3*time.Second || half.SlowConnect.Delay != time.Second {
		t.Errorf("%+v %v %v", half.Pulse, half.Ramp, half.SlowConnect.Delay)
	}
	if s.Pulse.Active != 2*time.Second || *s.Ramp != 6*time.Second {
		t.Error("the spec itself was changed")
	}
}
