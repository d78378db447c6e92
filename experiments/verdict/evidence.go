package verdict

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Tolerances of the positive control.
const (
	evidence   = 0.9999               // two-sided level of the interval in which the measured share must lie
	ratioSlack = 0.005                // or as near to it as this: calls at the very edges of the fault
	delaySlack = 2 * time.Millisecond // the added delay may be off by this, or by delayShare
	delayShare = 0.20
	downSlack  = time.Second // a killed process may be started this much later than asked
	readySlack = 10 * time.Second
)

// judgeFault is the positive control of one fault: what was measured, beside
// what was asked. What proxies saw stands in the edge lines; what happened to
// processes, in the service lines; what the runtime itself measured, in the
// fault's own lines.
func judgeFault(h Hypotheses, r *record, f Fault) FaultResult {
	out := FaultResult{
		Name: f.Name, Kind: f.Kind, Target: f.Target,
		Asked: maps.Clone(f.Asked), Observed: map[string]float64{},
	}
	if out.Asked == nil {
		out.Asked = map[string]float64{}
	}
	var failure string
	for _, line := range r.faults[f.Name] {
		maps.Copy(out.Observed, line.Observed)
		switch line.State {
		case "injected":
			if out.InjectedAtS == nil {
				out.InjectedAtS = ptr(sec(line.at))
			}
		case "reverted":
			out.RevertedAtS = ptr(sec(line.at))
		case "verified":
			out.VerifiedReverted = true
			if out.RevertedAtS == nil {
				out.RevertedAtS = ptr(sec(line.at))
			}
		case "failed":
			failure = line.Error
		}
	}
	ev := r.evidenceOf(f)
	out.Fired = ev.fired
	if ev.eligible > 0 {
		out.Observed["ratio"] = float64(ev.fired) / float64(ev.eligible)
	}

	switch {
	case h.Sham:
		out.Detail = "left out on purpose (sham run)"
		if ev.fired > 0 || out.InjectedAtS != nil {
			out.Detail = "this is a sham run, and yet the fault was there"
		}
	case out.InjectedAtS == nil && failure != "":
		out.Detail = "could not be injected: " + failure
	case out.InjectedAtS == nil && ev.fired == 0:
		out.Detail = "was never injected"
		if !r.complete && len(r.faults[f.Name]) == 0 {
			out.Detail = notReached
		}
	case len(f.Edges) > 0:
		out.ObservedOK, out.Detail = ev.compare(f, out.Observed)
	default:
		var pressed bool
		if out.ObservedOK, out.Detail, pressed = comparePressure(f, &out); !pressed {
			out.ObservedOK, out.Detail = r.compareProcess(f, &out)
		}
	}
	return out
}

// notReached is the detail of a fault that was still to come when the run was cut off.
const notReached = "was not injected: the run ended before"

// edgeEvidence is what all proxies of a fault saw of it.
type edgeEvidence struct {
	eligible, fired int
	bytes           int64
	delay           []bucket
	calls, answered int // while it was in place
	hungUp          int // calls that their caller gave up in that time
	resets          int // calls that a reset ended in that time

	draws    []drawn // what was eligible, and when, since it was in place
	begun    int     // calls that began since then, at most
	underWay int     // calls that had begun before, and were not over, at most
}

// drawn is how many calls were eligible at some time between two.
type drawn struct {
	since, at time.Duration // from when the fault was in place
	eligible  int
}

// evidenceOf adds up the edge lines of a fault. Rules of one fault may carry a
// suffix behind its name and one of "/:#. (": a partition is made of two.
func (r *record) evidenceOf(f Fault) edgeEvidence {
	var ev edgeEvidence
	from, to, placed := r.inPlace(f.Name)
	for _, edge := range f.Edges {
		for _, line := range r.edges[edge] {
			for _, name := range slices.Sorted(maps.Keys(line.Faults)) {
				rest, ok := strings.CutPrefix(name, f.Name)
				if !ok || (rest != "" && !strings.ContainsAny(rest[:1], "/:#. (")) {
					continue
				}
				did := line.Faults[name]
				ev.eligible += did.Eligible
				ev.fired += did.Fired
				ev.bytes += did.Bytes
				ev.delay = append(ev.delay, r.decode(did.Delay, edge)...)
				ev.draws = append(ev.draws, drawn{line.since - from, line.at - from, did.Eligible})
			}
			if placed && line.at > from && line.since < to {
				ev.begun += line.Calls
				ev.resets += line.Answers["reset"]
			}
			if placed && line.since < from {
				ev.underWay += line.Calls
				for _, n := range line.Answers {
					if line.at <= from {
						ev.underWay -= n
					}
				}
			}
			// Half a second for what was already on its way when it began.
			if placed && line.since >= from+500*time.Millisecond && line.at <= to {
				ev.calls += line.Calls
				for outcome, n := range line.Answers {
					if isStatus(outcome) || outcome == "answered" {
						ev.answered += n
					}
				}
			}
			if placed && line.at >= from {
				ev.hungUp += line.Answers["canceled"]
			}
		}
	}
	slices.SortFunc(ev.delay, func(a, b bucket) int { return int(a.high - b.high) })
	return ev
}

// inPlace is the time in which a fault really was there.
func (r *record) inPlace(name string) (from, to time.Duration, ok bool) {
	to = r.last
	for _, line := range r.faults[name] {
		switch line.State {
		case "injected":
			if !ok {
				from, ok = line.at, true
			}
		case "reverting":
			if ok {
				to = line.at
			}
		}
	}
	return from, to, ok
}

// compare is the positive control of a fault that proxies hold.
func (ev edgeEvidence) compare(f Fault, observed map[string]float64) (ok bool, detail string) {
	where := and(f.Edges)
	if f.Kind == "partition" {
		switch {
		case ev.fired > 0:
			return true, fmt.Sprintf("hit %s", plural(ev.fired, "call or connection", "calls and connections"))
		case ev.calls > 0 && ev.answered == 0:
			return true, fmt.Sprintf("none of %s across it was answered", plural(ev.calls, "call", "calls"))
		case ev.calls == 0:
			return false, fmt.Sprintf("found no traffic: nobody called across %s while it was in place", where)
		}
		return false, fmt.Sprintf("%s were answered across %s while it was in place", plural(ev.answered, "call", "calls"), where)
	}
	switch {
	case ev.eligible == 0 && ev.fired == 0:
		return false, fmt.Sprintf("found no traffic: nothing it could have hit passed %s while it was in place", where)
	case ev.fired == 0 && ev.bytes == 0:
		detail = fmt.Sprintf("hit none of %s on %s", plural(ev.eligible, "call", "calls"), where)
		if f.When.First > 0 || f.When.Every > 0 {
			detail += " (first and every count those that begin when it is in place)"
		}
		return false, detail
	}
	if f.UDP && f.Kind == "refuse" {
		// Callers' datagrams go to no socket: nobody can count them.
		return true, "a probe found its port closed, as any caller does; calls are not seen meanwhile"
	}
	ok, detail = ev.compareShare(f, observed)
	if !ok {
		return false, detail
	}
	verb, is := onBytes[f.Kind]
	if f.UDP && f.Kind == "loss" {
		verb = "lost"
	}
	if is {
		observed["bytes"] = float64(ev.bytes)
		if ev.bytes == 0 {
			return false, fmt.Sprintf("%s, but not a byte was %s", detail, verb)
		}
		detail += fmt.Sprintf(", %s %s", plural(int(ev.bytes), "byte", "bytes"), verb)
	}
	switch {
	case f.Kind == "reset" && f.Asked["wait_s"] > 0 && ev.resets == 0:
		return false, fmt.Sprintf("%s, but none of them was still there after %s to be reset", detail, seconds(time.Duration(f.Asked["wait_s"]*float64(time.Second))))
	case f.Kind == "abort" && f.Asked["close"] == 0 && ev.resets == 0:
		return false, fmt.Sprintf("%s, but none of them had a body of more than %.0f bytes to be cut short", detail, f.Asked["after_bytes"])
	case f.Kind == "reset" && f.Asked["after_bytes"] > 0 && ev.resets == 0:
		return false, fmt.Sprintf("%s, but none of them had an answer of more than %.0f bytes to be cut short", detail, f.Asked["after_bytes"])
	case f.Asked["delay_median_s"] > 0:
		delayOK, said := ev.compareLaw(f, observed)
		return delayOK, detail + ", " + said
	case f.Asked["delay_s"] > 0:
		delayOK, said := ev.compareDelay(f, observed)
		return delayOK, detail + ", " + said
	}
	return true, detail
}

// onBytes are the kinds that do what they do to bytes: without any, a call that
// was hit noticed nothing.
var onBytes = map[string]string{"bandwidth": "throttled", "slice": "sliced", "loss": "lost and sent again", "corrupt": "corrupted", "silence": "discarded",
	"duplicate": "sent twice", "reorder": "out of order"}

// When is a fault's conditions: which calls (connections) it is about at all. The
// zero value is all of them.
type When struct {
	PulseOn  time.Duration `json:"pulse_on_ns,omitempty"` // it comes and goes
	PulseOff time.Duration `json:"pulse_off_ns,omitempty"`
	Ramp     time.Duration `json:"ramp_ns,omitempty"` // the share asked grows so long
	First    uint64        `json:"first,omitempty"`
	Every    uint64        `json:"every,omitempty"`
	From     string        `json:"from,omitempty"` // addresses of callers
}

// counts tells whether it counts calls.
func (w When) counts() bool { return w.First > 0 || w.Every > 1 }

// left is how many of the eligible the fault's conditions left it, at least and at
// most; on a ramp, each counts as much as the ramp had risen when it began. (The
// proxy's own count of the eligible is of all for which it looked, also where a
// condition then said no.)
//
//   - Pulses need nothing: between them, a proxy does not look.
//   - First and Every count calls that begin when the fault is in place; which of
//     the eligible were under way before is known from calls and answers on the
//     edge. With pulses they count anew in each, and only the most is known.
//   - A ramp is taken over the 100 ms in which a call was looked at. Answers are
//     looked at when they come: begun at most slowCall before.
//   - Nobody records callers' addresses: with From, only the most is known.
func (ev edgeEvidence) left(f Fault) (low, high float64) {
	w := f.When
	low, high = float64(ev.eligible), float64(ev.eligible)
	if w.Ramp > 0 {
		low, high = 0, 0
		risen := func(at time.Duration) float64 { return min(max(0, at.Seconds()/w.Ramp.Seconds()), 1) }
		for _, d := range ev.draws {
			since := d.since
			if f.Kind == "latency" {
				since -= slowCall
			}
			low += float64(d.eligible) * risen(since)
			high += float64(d.eligible) * risen(d.at)
		}
		if w.PulseOn > 0 || w.counts() {
			low, high = 0, float64(ev.eligible)
		}
	}
	if w.counts() {
		pulses := ev.pulses(f)
		low = max(0, low-float64(max(ev.underWay, 0)))
		begun := float64(max(ev.begun, ev.eligible))
		if w.First > 0 {
			first := float64(w.First)
			if f.UDP { // of each direction
				first *= 2
			}
			low, begun = min(low, first), min(begun, first*pulses)
		}
		if w.Every > 1 {
			low = math.Floor(low / float64(w.Every))
			begun = math.Floor(begun/float64(w.Every)) + pulses - 1
		}
		high = min(high, begun)
		if pulses > 1 || f.UDP { // calls under way cannot be told from those that nobody will answer
			low = 0
		}
	}
	if w.From != "" {
		low = 0
	}
	return min(low, high), high
}

// slowCall is how long an answer may take by itself.
const slowCall = time.Second

// pulses is how many there were at most, 1 where there are none. Reverting takes
// its moment, in which one more may begin.
func (ev edgeEvidence) pulses(f Fault) float64 {
	if w := f.When; w.PulseOn > 0 {
		return math.Floor(f.For.Seconds()/(w.PulseOn+w.PulseOff).Seconds()) + 1
	}
	return 1
}

// compareShare compares the share that was hit, of what the conditions left, with
// the one asked for.
func (ev edgeEvidence) compareShare(f Fault, observed map[string]float64) (ok bool, detail string) {
	low, high := ev.left(f)
	fired, middle := float64(ev.fired), (low+high)/2
	known := low > 0 || f.When == When{} // how many were left, from both sides
	detail = fmt.Sprintf("hit %s of %s", thousands(ev.fired), thousands(ev.eligible))
	switch {
	case f.When.Ramp > 0 && known:
		detail += fmt.Sprintf(" (with the ramp, worth %s)", thousands(int(math.Round(middle))))
	case f.When.counts() && known:
		left := thousands(int(low))
		if int(low) != int(high) {
			left += " to " + thousands(int(high))
		}
		detail = fmt.Sprintf("hit %s of the %s that its conditions left of %s", thousands(ev.fired), left, thousands(ev.eligible))
	}
	if delete(observed, "ratio"); known && middle > 0 {
		observed["ratio"] = min(1, fired/middle)
	}
	asked, given := f.Asked["ratio"]
	if !given || ev.eligible == 0 {
		return true, detail
	}
	if f.When.Ramp == 0 && fired > math.Ceil(high) {
		return false, fmt.Sprintf("%s, and its conditions left it %s at most", detail, thousands(int(math.Ceil(high))))
	}
	// A connection that is there for several pulses is hit in each or in none: what
	// one pulse drew is what is independent.
	n := ev.pulses(f)
	if c := min(f.Asked["loss_correlation"], 0.999); c > 0 {
		n *= (1 + c) / (1 - c) // so many draws of a chain tell as much as one that is independent
	}
	within := func(fired, of float64) (atLeast, atMost float64) { return bounds(fired/n, of/n, 1-(1-evidence)/2) }
	var atLeast, atMost float64
	if all := float64(ev.eligible); f.When.Ramp > 0 {
		// Draws of unequal chance scatter less than as many of their mean (Hoeffding,
		// Annals of Mathematical Statistics 27, 1956).
		atLeast, atMost = within(fired, all)
		atLeast, atMost = atLeast*all/high, atMost*all/low
	} else {
		atLeast, _ = within(fired, high)
		_, atMost = within(min(fired, low), low)
	}
	if !known {
		atMost = 1
	}
	if asked < atLeast-ratioSlack || asked > atMost+ratioSlack {
		return false, fmt.Sprintf("%s (%s), asked was %s: so far off by chance less than once in 10,000 runs",
			detail, percent(min(1, fired/max(middle, 1))), percent(asked))
	}
	return true, detail
}

// compareLaw compares measured delays with the median of the law they were to
// follow. That is a share, too: one half is below it, whatever the law, so the
// number of delays that are clearly below (above) must be one that chance gives to
// one half of them. Delays that a caller's hanging up ended early are on neither
// side.
func (ev edgeEvidence) compareLaw(f Fault, observed map[string]float64) (ok bool, detail string) {
	asked := time.Duration(f.Asked["delay_median_s"] * float64(time.Second))
	slack := max(delaySlack, time.Duration(delayShare*float64(asked)))
	var n, below, above int
	var sum float64
	for _, b := range ev.delay {
		n += b.n
		sum += float64(b.n) * (b.low + (b.high-b.low)/2).Seconds()
		switch {
		case b.high < asked-slack:
			below += b.n
		case b.low > asked+slack:
			above += b.n
		}
	}
	gaveUp := max(0, ev.fired-n)
	switch {
	case n == 0 && gaveUp > 0 && ev.hungUp >= gaveUp:
		return true, fmt.Sprintf("and the callers hung up each time before a delay of around %s was over", seconds(asked))
	case n == 0:
		return false, fmt.Sprintf("but no added delay around %s was measured", seconds(asked))
	case 2*gaveUp > ev.fired && ev.hungUp < gaveUp:
		return false, fmt.Sprintf("but of %s of them no added delay was measured", thousands(gaveUp))
	}
	median := time.Duration(*rank(ev.delay, n, 0.5) * float64(time.Second))
	observed["delay_s"], observed["delay_median_s"] = math.Round(sum/float64(n)*1e6)/1e6, sec(median)
	for _, side := range []int{below, above} {
		if least, _ := interval(side, n+gaveUp, evidence); least > 0.5 {
			return false, fmt.Sprintf("but the added delay was %s (median), asked was %s", seconds(median), seconds(asked))
		}
	}
	detail = fmt.Sprintf("added %s (median; asked %s)", seconds(median), seconds(asked))
	if gaveUp > 0 && ev.hungUp > 0 {
		detail += fmt.Sprintf(", %s hung up before", plural(min(gaveUp, ev.hungUp), "caller", "callers"))
	}
	return true, detail
}

// compareDelay compares the measured added delay with the asked one. A caller
// that hangs up ends the delay early: such calls say nothing about it, and when
// only they are left, their hanging up is the evidence.
func (ev edgeEvidence) compareDelay(f Fault, observed map[string]float64) (ok bool, detail string) {
	asked := time.Duration(f.Asked["delay_s"] * float64(time.Second))
	jitter := time.Duration(f.Asked["jitter_s"] * float64(time.Second))
	slack := max(delaySlack, time.Duration(delayShare*float64(asked)))
	floor := asked - jitter - slack
	var whole []bucket
	var n, cut int
	var sum float64
	for _, b := range ev.delay {
		if b.high < floor {
			cut += b.n
			continue
		}
		whole = append(whole, b)
		n += b.n
		sum += float64(b.n) * (b.low + (b.high-b.low)/2).Seconds()
	}
	gaveUp := max(0, ev.fired-n)
	explained := ev.hungUp >= gaveUp
	if !explained && cut*20 <= ev.fired && n > 0 {
		// A few short ones, as when the fault ends while they wait.
		explained = true
	}
	if n == 0 {
		if gaveUp > 0 && explained {
			return true, fmt.Sprintf("and the callers hung up each time before the delay of %s was over", seconds(asked))
		}
		if cut == 0 && asked >= f.For {
			return true, fmt.Sprintf("and was over before the delay of %s was", seconds(asked))
		}
		return false, fmt.Sprintf("but no added delay near %s was measured", seconds(asked))
	}
	median := time.Duration(*rank(whole, n, 0.5) * float64(time.Second))
	mean := time.Duration(sum / float64(n) * float64(time.Second))
	observed["delay_s"], observed["delay_mean_s"] = sec(median), sec(mean)
	if !explained {
		return false, fmt.Sprintf("but %s of them were delayed by less than %s, asked was %s", thousands(cut), seconds(floor), seconds(asked))
	}
	// With calls cut off the rest leans towards the short delays of the jitter.
	if gaveUp*20 > ev.fired {
		slack += jitter
	}
	if (median-asked).Abs() > slack && (mean-asked).Abs() > slack {
		return false, fmt.Sprintf("but the added delay was %s (median), asked was %s", seconds(median), seconds(asked))
	}
	detail = fmt.Sprintf("added %s (median; asked %s)", seconds(median), seconds(asked))
	if gaveUp > 0 && ev.hungUp > 0 {
		detail += fmt.Sprintf(", %s hung up before", plural(min(gaveUp, ev.hungUp), "caller", "callers"))
	}
	return true, detail
}

// compareProcess is the positive control of kill, pause and restart: the process
// really was gone (or stopped), and really came back.
func (r *record) compareProcess(f Fault, out *FaultResult) (ok bool, detail string) {
	gone, back := "died", []string{"restarted", "started", "ready"}
	switch f.Kind {
	case "restart":
		gone = "stopped"
	case "pause":
		gone, back = "paused", []string{"resumed"}
	}
	// What goes while the fault is injected, and is one of the processes that it
	// names: others may be hit by other faults at the same time.
	from := r.faults[f.Name][0].at
	injected, _, _ := r.inPlace(f.Name)
	var victims []float64
	for key, pid := range out.Observed {
		if strings.HasPrefix(key, "pid_before") {
			victims = append(victims, pid)
		}
	}

	// One spell per instance: when it went, when its process was there again, when it was ready.
	type spell struct{ gone, back, ready time.Duration }
	spells := map[int]*spell{}
	for _, line := range r.services {
		if line.Name != f.Target {
			continue
		}
		s := spells[line.Instance]
		switch {
		case s == nil:
			if line.State == gone && line.at >= from && line.at <= injected && (victims == nil || slices.Contains(victims, float64(line.PID))) {
				spells[line.Instance] = &spell{gone: line.at, back: -1, ready: -1}
			}
		case slices.Contains(back, line.State):
			if s.back < 0 {
				s.back = line.at
			}
			if line.State == "ready" && s.ready < 0 {
				s.ready = line.at
			}
		}
	}
	instances := len(spells)
	out.Fired = max(out.Fired, instances)
	if instances == 0 {
		if v, told := out.Observed["down_s"]; told && v > 0 && f.Kind != "pause" {
			return false, "the runtime reported it, but no instance was seen to go"
		}
		return false, fmt.Sprintf("no instance of %q was seen to go (%s)", f.Target, gone)
	}
	if asked, given := f.Asked["instances"]; given && float64(instances) < asked {
		return false, fmt.Sprintf("%d of %.0f instances were hit", instances, asked)
	}

	asked := time.Duration(f.Asked["down_s"] * float64(time.Second))
	if _, given := f.Asked["down_s"]; !given && f.Kind == "pause" {
		asked = f.For
	}
	var longest, longestReady time.Duration
	for _, i := range slices.Sorted(maps.Keys(spells)) {
		s := spells[i]
		if s.back < 0 {
			return false, fmt.Sprintf("instance %d of %q went at %s and was not seen to come back", i, f.Target, seconds(s.gone))
		}
		down := s.back - s.gone
		longest = max(longest, down)
		longestReady = max(longestReady, s.ready-s.gone)
		if asked > 0 && r.complete {
			slack := max(downSlack, time.Duration(delayShare*float64(asked)))
			if s.ready == s.back { // only its readiness was seen: starting takes its time
				slack = max(readySlack, slack)
			}
			early := max(step, time.Duration(delayShare*float64(asked)))
			if down < asked-early || down > asked+slack {
				return false, fmt.Sprintf("instance %d of %q was gone for %s, asked was %s", i, f.Target, seconds(down), seconds(asked))
			}
		}
	}
	out.Observed["down_s"] = sec(longest)
	if longestReady > 0 {
		out.Observed["ready_after_s"] = sec(longestReady)
	}
	verb := map[string]string{"kill": "killed", "pause": "stopped", "restart": "restarted"}[f.Kind]
	if verb == "" {
		verb = "hit"
	}
	detail = fmt.Sprintf("%s %s, back after %s", verb, plural(instances, "instance", "instances"), seconds(longest))
	if longestReady > longest+step {
		detail += fmt.Sprintf(" (ready after %s)", seconds(longestReady))
	}
	return true, detail
}

// interval is Clopper and Pearson's two-sided interval of a share x of n.
func interval(x, n int, level float64) (low, high float64) {
	return bounds(float64(x), float64(n), 1-(1-level)/2)
}
