package faults

import (
	"slices"
	"strings"
	"time"
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
		{"blackhole", s.Blackhole != nil}, {"refuse", s.Refuse != nil}, {"bandwidth", s.Bandwidth != nil},
		{"partition", s.Partition != nil}, {"kill", s.Kill != nil}, {"pause", s.Pause != nil}, {"restart", s.Restart != nil},
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

// Asked is what the fault is meant to do, in the units of the positive control:
//
//	ratio         share of the eligible calls (connections) to hit
//	delay_s       mean delay to add to each of those
//	jitter_s      how far a delay may be from that
//	status        of injected answers
//	bytes_per_s   most to let through per connection and direction
//	instances     how many to hit, where that is a number
//	down_s        from an instance's end until it is started again
//
// The map is the caller's own.
func (s Spec) Asked() map[string]float64 {
	asked := map[string]float64{}
	instances := func(p Pick) {
		if p.Ratio == 0 && !p.All {
			asked["instances"] = float64(max(p.Count, 1))
		}
	}
	switch {
	case s.Latency != nil:
		asked["ratio"] = s.Latency.Percent.or(1)
		asked["delay_s"] = s.Latency.Delay.Seconds()
		asked["jitter_s"] = s.Latency.Jitter.Seconds()
	case s.Error != nil:
		asked["ratio"] = s.Error.Percent.or(1)
		asked["status"] = float64(s.Error.status())
	case s.Reset != nil:
		asked["ratio"] = s.Reset.Percent.or(1)
	case s.Blackhole != nil:
		asked["ratio"] = s.Blackhole.Percent.or(1)
	case s.Refuse != nil:
		asked["ratio"] = s.Refuse.Percent.or(1)
	case s.Bandwidth != nil:
		asked["bytes_per_s"] = float64(s.Bandwidth.Rate)
	case s.Partition != nil:
		asked["ratio"] = 1
	case s.Kill != nil:
		instances(s.Kill.Pick)
		asked["down_s"] = or(s.Kill.Down, time.Second).Seconds()
	case s.Pause != nil:
		instances(s.Pause.Pick)
	case s.Restart != nil:
		instances(s.Restart.Pick)
	}
	return asked
}

// Check reports everything that is wrong with the spec by itself, each with its
// path inside the spec. Whether the target exists is for whoever knows the system.
func (s Spec) Check(report func(path, format string, args ...any)) {
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
	pick := func(verb string, p Pick) {
		if p.Count < 0 || !(p.Ratio >= 0 && p.Ratio <= 1) {
			report(verb+".pick", "pick is a number of instances from 1, a share above 0%% like 50%%, or all")
		}
	}
	cut := func(verb string, c *Cut) {
		percent(verb, c.Percent)
		if c.After < 0 {
			report(verb+".after", "after is %d bytes: it cannot be below 0", int64(c.After))
		}
	}
	if l := s.Latency; l != nil {
		percent("latency", l.Percent)
		if l.Delay <= 0 {
			report("latency.delay", "delay is %s: write how long to hold a call back, like 800ms", l.Delay)
		}
		if l.Jitter < 0 || l.Delay > 0 && l.Jitter > l.Delay {
			report("latency.jitter", "jitter is %s: it is from 0s to the delay (%s), or the mean delay would not be the one asked for", l.Jitter, l.Delay)
		}
		if l.Distribution != "" && l.Distribution != "uniform" {
			report("latency.distribution", "distribution %q is unknown: write uniform, or leave it out", l.Distribution)
		}
		if l.Direction != "" && l.Direction != "answer" && l.Direction != "request" {
			report("latency.direction", "direction %q is unknown: write answer or request", l.Direction)
		}
	}
	if e := s.Error; e != nil {
		percent("error", e.Percent)
		if e.Status != 0 && (e.Status < 200 || e.Status > 599) {
			report("error.status", "status is %d: an answer has a status from 200 to 599", e.Status)
		}
	}
	if s.Reset != nil {
		cut("reset", s.Reset)
	}
	if s.Blackhole != nil {
		cut("blackhole", s.Blackhole)
	}
	if s.Refuse != nil {
		percent("refuse", s.Refuse.Percent)
	}
	if b := s.Bandwidth; b != nil && (b.Rate <= 0 || b.Rate > 1e12) {
		report("bandwidth.rate", "rate is %s: write how much passes per second, above 0 and at most 1000GB/s, like 100KB/s", b.Rate)
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
	if e.Status == 0 {
		return 503
	}
	return e.Status
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
