package faults

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// Kind is the row of Kinds that the spec's verb stands for; false unless exactly
// one verb is set.
func (s Spec) Kind() (Kind, bool) {
	set := s.verbs()
	if len(set) != 1 {
		return Kind{}, false
	}
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Verb == set[0] })
	return Kinds[i], true
}

// verbs lists the verb fields that are set.
func (s Spec) verbs() []string {
	var set []string
	for _, v := range []struct {
		verb string
		set  bool
	}{
		{"latency", s.Latency != nil}, {"error", s.Error != nil}, {"reset", s.Reset != nil},
		{"blackhole", s.Blackhole != nil}, {"silence", s.Silence != nil}, {"refuse", s.Refuse != nil},
		{"slow_connect", s.SlowConnect != nil}, {"slow_close", s.SlowClose != nil}, {"bandwidth", s.Bandwidth != nil},
		{"slice", s.Slice != nil}, {"loss", s.Loss != nil}, {"corrupt", s.Corrupt != nil}, {"limit", s.Limit != nil},
		{"abort", s.Abort != nil}, {"reshape", s.Reshape != nil},
		{"duplicate", s.Duplicate != nil}, {"reorder", s.Reorder != nil},
		{"partition", s.Partition != nil}, {"kill", s.Kill != nil}, {"pause", s.Pause != nil}, {"restart", s.Restart != nil},
		{"cpu", s.CPU != nil}, {"memory", s.Memory != nil}, {"disk", s.Disk != nil}, {"dns", s.DNS != nil}, {"clock", s.Clock != nil},
	} {
		if v.set {
			set = append(set, v.verb)
		}
	}
	return set
}

// Length is how long the fault lasts when its verb decides that itself: `down`
// for kill, nothing for restart, which starts the service again at once.
func (s Spec) Length() (d time.Duration, fixed bool) {
	switch {
	case s.Kill != nil:
		return or(s.Kill.Down, time.Second), true
	case s.Restart != nil:
		return 0, true
	}
	return 0, false
}

// Selection is whom a fault on a service picks; false for the others.
func (s Spec) Selection() (p Pick, ok bool) {
	switch {
	case s.Kill != nil:
		return s.Kill.Pick, true
	case s.Pause != nil:
		return s.Pause.Pick, true
	case s.Restart != nil:
		return s.Restart.Pick, true
	case s.CPU != nil:
		return s.CPU.Pick, true
	case s.Memory != nil:
		return s.Memory.Pick, true
	case s.Disk != nil:
		return s.Disk.Pick, true
	case s.Clock != nil:
		return s.Clock.Pick, true
	}
	return Pick{}, false
}

// Scaled is the spec in a run whose time is scaled: a pulse and a ramp are parts
// of the fault's time, as `at` and `for` are (which whoever places the fault
// scales); delays are not.
func (s Spec) Scaled(scale func(time.Duration) time.Duration) Spec {
	if s.Pulse != nil {
		s.Pulse = &Pulse{Active: scale(s.Pulse.Active), Pause: scale(s.Pulse.Pause)}
	}
	if s.Ramp != nil {
		ramp := scale(*s.Ramp)
		s.Ramp = &ramp
	}
	return s
}

// Needs is what kind of edge the fault works on alone (OnHTTPEdge, OnTCPEdge, OnUDPEdge;
// "" where on any; for UDP edges there is more in OnUDP), the path inside the spec that says so, and what to write on
// another edge.
func (s Spec) Needs() (on, path, instead string) {
	k, _ := s.Kind()
	switch {
	case s.Reset != nil && s.Reset.Wait > 0:
		return OnTCPEdge, "reset.wait", "use reset with after, or without, which any edge can have"
	case s.Latency != nil && s.Latency.KeepOrder:
		return OnUDPEdge, "latency.keep_order", "leave keep_order out: order is kept where bytes are a stream"
	case s.Bandwidth != nil && s.Bandwidth.Queue > 0:
		return OnUDPEdge, "bandwidth.queue", "leave queue out: nothing is dropped where bytes are a stream"
	case k.On == OnHTTPEdge || k.On == OnTCPEdge || k.On == OnUDPEdge:
		return k.On, k.Verb, k.Instead
	case s.Match != nil:
		return OnHTTPEdge, "match", "leave match out: other bytes are no requests"
	case s.Latency != nil && s.Latency.Where != "":
		return OnHTTPEdge, "latency.where", "leave where out: every byte is held back"
	}
	return "", "", ""
}

// OnUDP tells why the fault cannot be on a UDP edge, and the path inside the spec that
// says so; nil where it can.
func (s Spec) OnUDP() (path string, err error) {
	s.Name = "-"
	err = (Fault{Spec: s}).rule().On(proxy.UDP)
	if err == nil {
		return "", nil
	}
	path = "match"
	if s.Match == nil {
		k, _ := s.Kind()
		path = k.Verb
	}
	return path, errors.New(strings.TrimPrefix(err.Error(), `rule "-": `))
}

// AskedOnUDP is Asked of a fault on a UDP edge: there, what a loss hits is lost, so that
// its share is a share of the datagrams; loss_correlation says how they depend on each
// other.
func (s Spec) AskedOnUDP() map[string]float64 {
	asked := s.Asked()
	if l := s.Loss; l != nil {
		asked["ratio"] *= float64(l.Percent)
		if l.Correlation > 0 {
			asked["loss_correlation"] = float64(l.Correlation)
		}
	}
	return asked
}

// Asked is what the fault is meant to do, in the units of the positive control:
//
//	ratio           share of the eligible calls (connections) to hit
//	delay_s         mean delay to add to each of those
//	jitter_s        how far a delay may be from that (under normal and pareto: standard deviation)
//	delay_median_s  of the delays' distribution, unless it is uniform (then it is the mean)
//	status          of injected answers
//	bytes_per_s     most to let through, per connection (or in all) and direction
//	piece_bytes     mean size of a slice
//	limit_bytes     that pass before a connection is closed
//	loss_ratio      share of the chunks to lose
//	corrupt_ratio   share of the bytes to corrupt
//	close_delay_s   that the end of a connection is held back
//	wait_s          until a connection is reset
//	after_bytes     of the answer (for abort: of its body) that pass before it is
//	close           1 where an abort ends the connection in order
//	silence_s       until a silenced connection is closed
//	load_ratio      of the time for which each worker is to burn processor time
//	workers         how many there are to be, where that is said
//	rss_bytes       of memory to hold, where that is said; ratio: as a share of what is available
//	bytes           to write to a disk; free_bytes: that are to be left on it
//	offset_s        by which a clock is to be ahead; drift_ratio: that it is to gain
//	instances       how many to hit, where that is a number
//	down_s          from an instance's end until it is started again
//
// The map is the caller's own.
func (s Spec) Asked() map[string]float64 {
	asked := map[string]float64{}
	instances := func(p Pick) {
		if p.Ratio == 0 && !p.All {
			asked["instances"] = float64(max(p.Count, 1))
		}
	}
	if k, _ := s.Kind(); k.On != OnService && !k.Reference {
		asked["ratio"] = (Fault{Spec: s}).rule().Percent
	}
	if p, ok := s.Selection(); ok {
		instances(p)
	}
	switch {
	case s.Latency != nil:
		asked["delay_s"] = s.Latency.Delay.Seconds()
		asked["jitter_s"] = s.Latency.Jitter.Seconds()
		if d := s.Latency.Distribution; d != "" && d != "uniform" {
			asked["delay_median_s"] = s.Latency.median().Seconds()
		}
	case s.Error != nil:
		if s.Error.GRPC != "" {
			asked["grpc_status"] = float64(s.Error.code())
		} else {
			asked["status"] = float64(s.Error.status())
		}
	case s.Reset != nil && s.Reset.Wait > 0:
		asked["wait_s"] = s.Reset.Wait.Seconds()
	case s.Reset != nil && s.Reset.After > 0:
		asked["after_bytes"] = float64(s.Reset.After)
	case s.Silence != nil && s.Silence.For != nil:
		asked["silence_s"] = s.Silence.For.Seconds()
	case s.SlowConnect != nil:
		asked["delay_s"] = s.SlowConnect.Delay.Seconds()
	case s.SlowClose != nil:
		asked["close_delay_s"] = s.SlowClose.Delay.Seconds()
	case s.Bandwidth != nil:
		asked["bytes_per_s"] = float64(s.Bandwidth.Rate)
	case s.Slice != nil:
		asked["piece_bytes"] = float64(s.Slice.Average)
	case s.Loss != nil:
		asked["loss_ratio"] = float64(s.Loss.Percent)
	case s.Corrupt != nil:
		asked["corrupt_ratio"] = float64(s.Corrupt.Percent)
	case s.Limit != nil && s.Limit.Bytes != nil:
		asked["limit_bytes"] = float64(*s.Limit.Bytes)
	case s.Abort != nil:
		asked["after_bytes"] = float64(s.Abort.After)
		if s.Abort.Close {
			asked["close"] = 1
		}
	case s.Kill != nil:
		asked["down_s"] = or(s.Kill.Down, time.Second).Seconds()
	case s.CPU != nil:
		asked["load_ratio"] = s.CPU.Load.or(0.8)
		if s.CPU.Workers > 0 {
			asked["workers"] = float64(s.CPU.Workers)
		}
	case s.Memory != nil && s.Memory.Share != nil:
		asked["ratio"] = float64(*s.Memory.Share)
	case s.Memory != nil:
		asked["rss_bytes"] = float64(s.Memory.Size)
	case s.Disk != nil && s.Disk.Free != nil:
		asked["free_bytes"] = float64(*s.Disk.Free)
	case s.Disk != nil:
		asked["bytes"] = float64(s.Disk.Fill)
	case s.DNS != nil:
		asked["delay_s"] = s.DNS.Delay.Seconds()
	case s.Clock != nil:
		asked["offset_s"] = time.Duration(s.Clock.Offset).Seconds()
		asked["drift_ratio"] = time.Duration(s.Clock.Drift).Seconds()
	}
	return asked
}

// Check reports everything that is wrong with the spec by itself, each with its
// path inside the spec. Whether the target exists is for whoever knows the system.
func (s Spec) Check(report func(path, format string, args ...any)) {
	tell, sound := report, true
	report = func(path, format string, args ...any) {
		sound = false
		tell(path, format, args...)
	}
	switch set := s.verbs(); len(set) {
	case 0:
		report("", "a fault needs one verb: %s", verbNames())
	case 1:
		s.checkTarget(report)
	default:
		report("", "%d verbs (%s): a fault has exactly one; write one fault for each", len(set), strings.Join(set, ", "))
	}
	if s.At < 0 {
		report("at", "at is %s: it counts from the start of `during` and cannot be before it", s.At)
	}
	if s.For != nil && *s.For <= 0 {
		report("for", "for is %s: a fault lasts longer than 0s", *s.For)
	}

	s.checkConditions(report)

	percent := func(verb string, p *Percent) {
		if p == nil {
			return
		}
		if *p == 0 {
			report(verb+".percent", "percent is 0: a fault that hits nothing shows nothing")
		} else if !(*p > 0 && *p <= 1) {
			report(verb+".percent", "percent is %v: it is a number above 0, at most 100", float64(*p)*100)
		}
	}
	// above0 is for delays that a verb cannot do without, example how one is written.
	above0 := func(path string, d time.Duration, example string) {
		if d <= 0 {
			_, name, _ := strings.Cut(path, ".")
			report(path, "%s is %s: write %s", name, d, example)
		}
	}
	direction := func(verb, d string, words ...string) {
		if d != "" && !slices.Contains(words, d) {
			last := len(words) - 1
			report(verb+".direction", "direction %q is unknown: write %s or %s", d, strings.Join(words[:last], ", "), words[last])
		}
	}
	eitherWay := []string{"both", "request", "answer"}
	pick := func(verb string, p Pick) {
		if p.Count < 0 || !(p.Ratio >= 0 && p.Ratio <= 1) {
			report(verb+".pick", "pick is a number of instances from 1, a share above 0%% like 50%%, or all")
		}
	}
	after := func(verb string, b Bytes) {
		if b < 0 {
			report(verb+".after", "after is %d bytes: it cannot be below 0", int64(b))
		}
	}
	if l := s.Latency; l != nil {
		percent("latency", l.Percent)
		above0("latency.delay", l.Delay, "how long to hold a call back, like 800ms")
		l.checkSpread(report)
		direction("latency", l.Direction, "answer", "request")
		if !slices.Contains([]string{"", "head", "body"}, l.Where) {
			report("latency.where", "where %q is unknown: write head, to hold all of the message back, or body", l.Where)
		}
	}
	if e := s.Error; e != nil {
		percent("error", e.Percent)
		if e.Status != 0 && (e.Status < 200 || e.Status > 599) {
			report("error.status", "status is %d: an answer has a status from 200 to 599", e.Status)
		}
		e.checkGRPC(report)
	}
	if r := s.Reset; r != nil {
		percent("reset", r.Percent)
		after("reset", r.After)
		if r.After > 0 && r.Wait > 0 {
			report("reset.wait", "after says at which byte to strike, and wait at what time: write one of them, or one fault for each")
		}
	}
	if b := s.Blackhole; b != nil {
		percent("blackhole", b.Percent)
		after("blackhole", b.After)
	}
	if q := s.Silence; q != nil {
		percent("silence", q.Percent)
		if q.For != nil && *q.For <= 0 {
			report("silence.for", "for is %s: write how long a connection is silent before it is closed, or leave it out", *q.For)
		}
		if q.Direction == "both" {
			report("silence.direction", "silence is about one direction: write answer or request; blackhole silences both")
		} else {
			direction("silence", q.Direction, "answer", "request")
		}
	}
	if s.Refuse != nil {
		percent("refuse", s.Refuse.Percent)
	}
	if c := s.SlowConnect; c != nil {
		percent("slow_connect", c.Percent)
		above0("slow_connect.delay", c.Delay, "how long opening a connection is to take, like 2s")
	}
	if c := s.SlowClose; c != nil {
		percent("slow_close", c.Percent)
		above0("slow_close.delay", c.Delay, "how long to hold the end of a connection back, like 2s")
		direction("slow_close", c.Direction, eitherWay...)
	}
	if b := s.Bandwidth; b != nil {
		percent("bandwidth", b.Percent)
		if b.Rate <= 0 || b.Rate > 1e12 {
			report("bandwidth.rate", "rate is %s: write how much passes per second, above 0 and at most 1000GB/s, like 100KB/s", b.Rate)
		}
		direction("bandwidth", b.Direction, eitherWay...)
		if b.Queue < 0 {
			report("bandwidth.queue", "queue is %d bytes: it cannot be below 0", int64(b.Queue))
		}
	}
	if l := s.Slice; l != nil {
		percent("slice", l.Percent)
		if l.Average < 1 {
			report("slice.average", "average is %s: write the size of a piece, like 64 B", l.Average)
		} else if l.Variation < 0 || l.Variation > l.Average {
			report("slice.variation", "variation is %s: it is from 0 B to the average (%s)", l.Variation, l.Average)
		}
		direction("slice", l.Direction, eitherWay...)
	}
	if l := s.Loss; l != nil {
		share("loss.percent", l.Percent, "of the chunks is lost, like 1%", report)
		if !(l.Correlation >= 0 && l.Correlation <= 1) {
			report("loss.correlation", "correlation is %v: it is a number from 0 to 100", float64(l.Correlation)*100)
		}
		direction("loss", l.Direction, eitherWay...)
	}
	if c := s.Corrupt; c != nil {
		share("corrupt.percent", c.Percent, "of the bytes is corrupted, like 0.1%", report)
		direction("corrupt", c.Direction, eitherWay...)
	}
	if l := s.Limit; l != nil {
		percent("limit", l.Percent)
		if l.Bytes == nil || *l.Bytes < 0 {
			report("limit.bytes", "bytes says after how many a connection is closed: write it, like 10KB")
		}
		direction("limit", l.Direction, eitherWay...)
	}
	if a := s.Abort; a != nil {
		percent("abort", a.Percent)
		after("abort", a.After)
	}
	if r := s.Reshape; r != nil {
		percent("reshape", r.Percent)
	}
	if d := s.Duplicate; d != nil {
		share("duplicate.percent", d.Percent, "of the datagrams is sent twice, like 5%", report)
		direction("duplicate", d.Direction, eitherWay...)
	}
	if o := s.Reorder; o != nil {
		share("reorder.percent", o.Percent, "of the datagrams changes places, like 5%", report)
		direction("reorder", o.Direction, eitherWay...)
		if o.Wait != nil && *o.Wait <= 0 {
			report("reorder.wait", "wait is %s: write how long a datagram waits for the next one at most, like 50ms, or leave it out", *o.Wait)
		}
	}
	if p := s.Partition; p != nil {
		p.check(report)
	}
	if k := s.Kill; k != nil {
		pick("kill", k.Pick)
		if !slices.Contains([]string{"KILL", "TERM"}, k.signal()) {
			report("kill.signal", "signal %q is not one to kill with: write KILL or TERM", k.Signal)
		}
		if or(k.Down, 0) < 0 {
			report("kill.down", "down is %s: it cannot be below 0s", *k.Down)
		}
	}
	if p := s.Pause; p != nil {
		pick("pause", p.Pick)
	}
	if r := s.Restart; r != nil {
		pick("restart", r.Pick)
		if or(r.Grace, 0) < 0 {
			report("restart.grace", "grace is %s: it cannot be below 0s", *r.Grace)
		}
	}
	if c := s.CPU; c != nil {
		pick("cpu", c.Pick)
		if c.Load != nil && *c.Load == 0 {
			report("cpu.load", "load is 0: a fault that burns nothing shows nothing")
		} else if !(c.Load.or(1) > 0 && c.Load.or(1) <= 1) {
			report("cpu.load", "load is %v: it is a share of the time, above 0, at most 100%%", float64(*c.Load)*100)
		}
		if c.Workers < 0 || c.Workers > 4096 {
			report("cpu.workers", "workers is %d: write how many threads are busy, from 1, at most 4 for each processor", c.Workers)
		}
	}
	if m := s.Memory; m != nil {
		pick("memory", m.Pick)
		either("memory", "size", "how much to hold, like 200MB", m.Size != 0, "share", "which share of the memory that is available, like 50%", m.Share != nil, report)
		if m.Size < 0 {
			report("memory.size", "size is %d bytes: it cannot be below 0", int64(m.Size))
		}
		if m.Share != nil {
			share("memory.share", *m.Share, "of the memory that is available is held, like 50%", report)
		}
	}
	if d := s.Disk; d != nil {
		pick("disk", d.Pick)
		either("disk", "fill", "how much to write, like 50MB", d.Fill != 0, "free", "how much to leave free, like 10MB", d.Free != nil, report)
		if d.Fill < 0 {
			report("disk.fill", "fill is %d bytes: it cannot be below 0", int64(d.Fill))
		}
		if d.Free != nil && *d.Free < 0 {
			report("disk.free", "free is %d bytes: it cannot be below 0", int64(*d.Free))
		}
	}
	if d := s.DNS; d != nil {
		if !slices.Contains([]string{"", "nxdomain", "timeout", "wrong"}, d.Fail) {
			report("dns.fail", "fail %q is unknown: write nxdomain, timeout or wrong", d.Fail)
		}
		if d.Delay < 0 {
			report("dns.delay", "delay is %s: it cannot be below 0s", d.Delay)
		}
		if d.Fail == "" && d.Delay == 0 {
			report("dns", "dns changes nothing: write fail: nxdomain, timeout or wrong, or a delay")
		}
	}
	if c := s.Clock; c != nil {
		pick("clock", c.Pick)
		if c.Offset == 0 && c.Drift == 0 {
			report("clock", "clock changes nothing: write an offset, like 5m or -1h, or a drift")
		}
		if time.Duration(c.Offset).Abs() > 100*365*24*time.Hour {
			report("clock.offset", "offset is %s: at most a hundred years, either way", c.Offset)
		}
		if time.Duration(c.Drift).Abs() >= time.Second {
			report("clock.drift", "drift is %s in each second: it is below 1s, either way: no clock stands still or runs backwards", c.Drift)
		}
	}
	// What only the proxy knows (how much is too much) is said here, not in the run.
	if kind, ok := s.Kind(); ok && sound && kind.On != OnService && !kind.Reference {
		s.Name = kind.Verb
		if err := (Fault{Spec: s}).rule().Validate(); err != nil {
			problem := errors.Unwrap(err).Error()
			if about, ok := strings.CutPrefix(problem, "match: "); ok {
				report("match", "%s", about)
			} else {
				report(kind.Verb, "%s", problem)
			}
		}
	}
}

// checkGRPC checks what is written of a status of gRPC, and beside it.
func (e *Error) checkGRPC(report func(path, format string, args ...any)) {
	if e.GRPC == "" {
		if e.Message != "" {
			report("error.message", "message is that of a status of gRPC: write which, like grpc: UNAVAILABLE, or write body")
		}
		return
	}
	switch e.GRPC {
	case "OK":
		report("error.grpc", "OK is no error: write another status of gRPC, like UNAVAILABLE")
	default:
		if _, ok := proxy.ParseCode(e.GRPC); !ok {
			report("error.grpc", "%q is no status of gRPC: write one of %s", e.GRPC, strings.Join(proxy.Codes(), ", "))
		}
	}
	if e.Status != 0 {
		report("error.status", "grpc and status contradict each other: a gRPC answer has the HTTP status 200, and its own in its trailers; write one of them, or one fault for each")
	}
	if e.Body != "" {
		report("error.body", "an answer with a status of gRPC has no body: write message")
	}
}

// checkSpread checks how the delays of a latency are spread.
func (l *Latency) checkSpread(report func(path, format string, args ...any)) {
	switch l.Distribution {
	case "", "uniform":
		if l.Jitter < 0 || l.Delay > 0 && l.Jitter > l.Delay {
			report("latency.jitter", "jitter is %s: under the uniform distribution it is from 0s to the delay (%s); normal, pareto and exponential reach further", l.Jitter, l.Delay)
		}
	case "normal", "pareto":
		if l.Jitter <= 0 {
			report("latency.jitter", "jitter is %s: under the %s distribution it is the standard deviation, above 0s", l.Jitter, l.Distribution)
		}
	case "exponential":
		if l.Jitter != 0 {
			report("latency.jitter", "jitter is %s: leave it out, the delay alone says how an exponential distribution spreads", l.Jitter)
		}
	default:
		report("latency.distribution", "distribution %q is unknown: write uniform, normal, pareto or exponential", l.Distribution)
	}
}

// share checks a percentage that a verb cannot do without.
func share(path string, p Percent, what string, report func(path, format string, args ...any)) {
	if !(p > 0 && p <= 1) {
		report(path, "percent is %v: write how large a share %s, above 0 and at most 100%%", float64(p)*100, what)
	}
}

// either wants one of two settings of a verb.
func either(verb, one, example string, hasOne bool, other, example2 string, hasOther bool, report func(path, format string, args ...any)) {
	switch {
	case hasOne && hasOther:
		report(verb+"."+other, "both %s and %s: they say the same thing in two ways; keep one", one, other)
	case !hasOne && !hasOther:
		report(verb, "%s needs %s (%s) or %s (%s)", verb, one, example, other, example2)
	}
}

// checkConditions checks what stands beside the verb.
func (s Spec) checkConditions(report func(path, format string, args ...any)) {
	kind, _ := s.Kind()
	for _, c := range []struct {
		name string
		set  bool
	}{{"match", s.Match != nil}, {"pulse", s.Pulse != nil}, {"ramp", s.Ramp != nil}, {"first", s.First != nil}, {"every", s.Every != nil}, {"from", s.From != ""}} {
		switch {
		case !c.set || kind.Verb == "" || kind.Takes(c.name):
		case kind.Reference && kind.On == OnEdge:
			report(c.name, "%s is for faults on what passes an edge: %s acts on its caller", c.name, kind.Verb)
		case c.name == "match" && kind.On == OnEdge:
			report(c.name, "%s takes no match: it strikes before there is a request to look at", kind.Verb)
		case c.name == "match" && (kind.On == OnTCPEdge || kind.On == OnUDPEdge):
			report(c.name, "%s takes no match: it is about bytes, not requests", kind.Verb)
		case kind.On == OnService:
			report(c.name, "%s is for faults on edges: %s acts on a service, not on calls", c.name, kind.Verb)
		default:
			report(c.name, "%s takes no %s: it cuts off everything; blackhole on an edge takes it", kind.Verb, c.name)
		}
	}
	if m := s.Match; m != nil && m.GRPC != nil && *m.GRPC == (GRPC{}) {
		report("match.grpc", "grpc names neither a service nor a method: write one of them, like service: shop.Payments, or service: \"*\" for every call of gRPC")
	}
	if p := s.Pulse; p != nil {
		for _, part := range []struct {
			name string
			d    time.Duration
		}{{"active", p.Active}, {"pause", p.Pause}} {
			if part.d < time.Millisecond {
				report("pulse."+part.name, "%s is %s: write how long the fault is %s each time, at least 1ms", part.name, part.d, map[string]string{"active": "at work", "pause": "not"}[part.name])
			}
		}
	}
	if s.Ramp != nil && *s.Ramp <= 0 {
		report("ramp", "ramp is %s: write how long percent takes to grow, or leave it out", *s.Ramp)
	}
	if s.First != nil && *s.First == 0 {
		report("first", "first is 0: a fault that hits nothing shows nothing")
	}
	if s.Every != nil && *s.Every == 0 {
		report("every", "every is 0: it counts from 1, which is every call")
	}
	if _, err := s.From.prefix(); err != nil {
		report("from", "%v", err)
	}
}

func (s Spec) checkTarget(report func(path, format string, args ...any)) {
	kind, _ := s.Kind()
	isEdge := strings.Contains(s.Target, "->")
	switch {
	case kind.On == OnServices && s.Target != "":
		report("target", "%s names its services in from and to; it takes no target", kind.Verb)
	case kind.On == OnServices:
	case s.Target == "" && kind.On == OnService:
		report("target", "%s needs a target: the name of a service", kind.Verb)
	case s.Target == "":
		report("target", `%s needs a target: an edge, written "caller -> callee"`, kind.Verb)
	case kind.On == OnService && isEdge:
		report("target", "%s is for a service, and %q is an edge", kind.Verb, s.Target)
	case kind.On != OnService && !isEdge:
		report("target", `%s is for an edge, and %q is none: write "caller -> callee"`, kind.Verb, s.Target)
	}
	if kind.Instant && s.For != nil {
		hint := "it is over as soon as the service is ready again"
		if s.Kill != nil {
			hint = "write `down` for how long the service stays away"
		}
		report("for", "%s takes no `for`: %s", kind.Verb, hint)
	}
}

func (p Partition) check(report func(path, format string, args ...any)) {
	sides := []struct {
		path     string
		services []string
	}{{"from", p.From}, {"to", p.To}}
	for _, side := range sides {
		if len(side.services) == 0 {
			report("partition."+side.path, "%s is empty: name at least one service", side.path)
		}
		for i, name := range side.services {
			if name == "" || strings.Contains(name, "->") {
				report("partition."+side.path, "%q is not a service", name)
			} else if slices.Index(side.services, name) < i {
				report("partition."+side.path, "%q stands there twice", name)
			}
		}
	}
	for _, name := range p.From {
		if slices.Contains(p.To, name) {
			report("partition.to", "%q is on both sides: a service cannot be cut off from itself", name)
		}
	}
	if p.Direction != "" && p.Direction != "both" && p.Direction != "forward" {
		report("partition.direction", "direction %q is unknown: write both or forward", p.Direction)
	}
}

// Covers tells whether the partition cuts the edge from caller to callee.
func (p Partition) Covers(caller, callee string) bool {
	if slices.Contains(p.From, caller) && slices.Contains(p.To, callee) {
		return true
	}
	return p.Direction != "forward" && slices.Contains(p.To, caller) && slices.Contains(p.From, callee)
}

// String is "orders | payments, stock", with ">|" where only calls that way are cut.
func (p Partition) String() string {
	bar := " | "
	if p.Direction == "forward" {
		bar = " >| "
	}
	return strings.Join(p.From, ", ") + bar + strings.Join(p.To, ", ")
}

func (e Error) status() int {
	if e.Status == 0 && e.GRPC == "" {
		return 503
	}
	return e.Status
}

// code is the status of gRPC; 0 for none, and for one that there is not.
func (e Error) code() proxy.Code {
	c, _ := proxy.ParseCode(e.GRPC)
	return c
}

func (k Kill) signal() string {
	if k.Signal == "" {
		return "KILL"
	}
	return k.Signal
}

func or(d *time.Duration, fallback time.Duration) time.Duration {
	if d == nil {
		return fallback
	}
	return *d
}

func verbNames() string {
	var names []string
	for _, k := range Kinds {
		names = append(names, k.Verb)
	}
	return strings.Join(names, ", ")
}
