package loadgen

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// maxRate is far above what one process sends, and below what would make a
// schedule of nanoseconds meaningless.
const maxRate = 1_000_000

const maxConnections = 60_000 // of about 64,000 ports that one address has

// Check reports everything that is wrong with the spec in itself; path says
// where, relative to it ("requests[1].body"; "" is the whole).
func (s Spec) Check(report func(path, format string, args ...any)) {
	if s.To == "" {
		report("to", "which service is asked is missing: write to: NAME")
	}
	s.checkProtocol(report)
	s.checkArrivals(report)
	s.checkRequests(report)
	checkTimeout(s.Timeout, "timeout", report)
	if c := s.Connections; c != nil && (*c < 1 || *c > maxConnections) {
		report("connections", "connections is %d; it must be from 1 to %d", *c, maxConnections)
	}
	s.checkConnection(report)
	for i, set := range s.OK {
		at := fmt.Sprintf("ok[%d]", i)
		switch calls := s.speech().may(takesCalls); {
		case set.From >= grpcOutcome && !calls:
			report(at, `%s is a status of gRPC; this stream speaks %s`, set, s.speech().name)
		case set.From >= grpcOutcome:
		case calls:
			report(at, `%s is a status of HTTP; with gRPC, write names of its own: %s`, set, grpcStatusNames())
		case set.From < 100 || set.To > 599 || set.From > set.To:
			report(at, `%s is not a set of status codes from 100 to 599`, set)
		}
	}
}

func (s Spec) checkArrivals(report func(path, format string, args ...any)) {
	given := s.paces()
	closed := s.Users != nil
	switch len(given) {
	case 0:
		report("", "how much load is missing: write one of rate, ramp, stages, step, spike, sine, replay (open model) or users (closed model)")
	case 1:
	default:
		report(given[1], "%s are given; a stream has one of rate, ramp, stages, step, spike, sine, replay (open model) and users (closed model)", strings.Join(given, " and "))
	}
	rate := func(path string, r arrival.Rate, zero bool) {
		switch {
		case math.IsNaN(float64(r)) || r < 0 || r == 0 && !zero:
			report(path, "rate %s must be above 0", r)
		case r > maxRate:
			report(path, "rate %s is too high; at most %d/s", r, maxRate)
		}
	}
	if s.Rate != nil {
		rate("rate", *s.Rate, false)
	}
	if r := s.Ramp; r != nil {
		rate("ramp.from", r.From, true)
		rate("ramp.to", r.To, true)
		if r.From == 0 && r.To == 0 {
			report("ramp", "a ramp from 0/s to 0/s sends nothing")
		}
		if r.Over <= 0 {
			report("ramp.over", "over is %v; a ramp takes longer than 0s", r.Over)
		}
	}
	if s.Stages != nil && len(s.Stages) == 0 {
		report("stages", "there are no stages")
	}
	silent := len(s.Stages) > 0
	for i, st := range s.Stages {
		path := fmt.Sprintf("stages[%d]", i)
		switch {
		case st.Rate != nil && st.To != nil:
			report(path, "rate and to are given; a stage is constant at its rate, or goes in a straight line to its to")
		case st.Rate == nil && st.To == nil:
			report(path, "a stage needs rate (constant) or to (a straight line from where the stage before ended)")
		}
		for _, r := range []struct {
			name string
			rate *arrival.Rate
		}{{"rate", st.Rate}, {"to", st.To}} {
			if r.rate != nil {
				rate(path+"."+r.name, *r.rate, true)
			}
		}
		last := cmp.Or(st.To, st.Rate)
		silent = silent && last != nil && *last == 0
		if st.For <= 0 {
			report(path+".for", "for is %v; a stage takes longer than 0s", st.For)
		}
	}
	if silent {
		report("stages", "all stages have rate 0: nothing is sent")
	}
	s.checkShapes(rate, report)
	switch {
	case s.Spacing != arrival.PoissonSpacing:
	case closed:
		report("arrivals", "arrivals: poisson is for rates; users ask when they have their answer")
	case s.Replay != nil:
		report("arrivals", "arrivals: poisson is for rates; a replay has times of its own")
	}
	if u := s.Users; u != nil && (*u < 1 || *u > maxConnections) {
		report("users", "users is %d; it must be from 1 to %d", *u, maxConnections)
	}
	switch {
	case s.Think < 0:
		report("think", "think is %v; it must not be negative", s.Think)
	case s.Think > 0 && s.Users == nil:
		report("think", "think is the pause of users (closed model); this stream has none")
	}
}

// mostSteps bounds what is laid out in memory for a step.
const mostSteps = 10_000

// checkShapes checks step, spike, sine and replay.
func (s Spec) checkShapes(rate func(path string, r arrival.Rate, zero bool), report func(path, format string, args ...any)) {
	if st := s.Step; st != nil {
		rate("step.from", st.From, true)
		rate("step.by", st.By, false)
		rate("step.to", st.To, true)
		switch {
		case st.From == st.To:
			report("step", "from and to are both %s: that is a rate, not a step", st.To)
		case st.By > 0 && arrival.Steps(st.From, st.By, st.To) > mostSteps:
			report("step.by", "from %s by %s to %s takes more than %d steps", st.From, st.By, st.To, mostSteps)
		}
		if st.Every <= 0 {
			report("step.every", "every is %v; a step takes longer than 0s", st.Every)
		}
	}
	if sp := s.Spike; sp != nil {
		rate("spike.base", sp.Base, true)
		rate("spike.peak", sp.Peak, true)
		if sp.Base == sp.Peak {
			report("spike", "base and peak are both %s: that is a rate, not a spike", sp.Peak)
		}
		if sp.At < 0 {
			report("spike.at", "at is %v; it must not be negative", sp.At)
		}
		if sp.For <= 0 {
			report("spike.for", "for is %v; a spike takes longer than 0s", sp.For)
		}
	}
	if sine := s.Sine; sine != nil {
		rate("sine.mean", sine.Mean, false)
		rate("sine.amplitude", sine.Amplitude, false)
		switch {
		case sine.Mean > 0 && sine.Amplitude > sine.Mean:
			report("sine.amplitude", "amplitude %s is above the mean %s: the rate would fall below 0", sine.Amplitude, sine.Mean)
		case sine.Mean <= maxRate && sine.Mean+sine.Amplitude > maxRate:
			report("sine", "mean and amplitude add up to %s; at most %d/s", sine.Mean+sine.Amplitude, maxRate)
		}
		if sine.Period <= 0 {
			report("sine.period", "period is %v; it must be above 0s", sine.Period)
		}
	}
	if s.Replay != nil {
		s.Replay.check(s.hasRequests(), report)
	}
}

func (s Spec) checkRequests(report func(path, format string, args ...any)) {
	var given []string
	for _, m := range []struct {
		name string
		set  bool
	}{{"request", s.Request != nil}, {"requests", s.Requests != nil}, {"steps", s.Steps != nil}} {
		if m.set {
			given = append(given, m.name)
		}
	}
	switch {
	case len(given) > 1:
		report(given[1], "%s are given; a stream has one of request, requests (a mix) and steps (a session)", strings.Join(given, " and "))
		return
	case s.Replay != nil && !s.hasRequests(): // its log has them, and was checked
	case len(s.own()) == 0:
		report("", "what is asked is missing: write request: METHOD /path, requests with weights, or steps")
		return
	}
	switch {
	case s.Setup == nil:
	case len(s.Setup) == 0:
		report("setup", "there are no steps in the setup: leave it out")
	case len(s.Steps) == 0:
		report("setup", "setup is what each user does once before its sessions: write steps for them, a single one if need be, instead of request")
		s.Setup = nil
	}
	s.checkData(report)
	s.checkSecrets(report)
	if s.Order == Listed {
		switch {
		case s.Request != nil:
			report("order", "order is for requests; this stream has one request")
		case s.Steps != nil:
			report("order", "order is for requests; the steps of a session go one after another anyway")
		case slices.ContainsFunc(s.Requests, func(r Request) bool { return r.Weight != nil }):
			report("order", "order: listed sends each request in its turn; weights mean nothing then")
		}
	}
	replays := s.Replay != nil && !s.hasRequests()
	s, _ = s.expanded()
	if replays && len(s.own()) == 0 {
		return // its file was complained of
	}
	st := compile(s, 0, report)
	weight := 0
	samples := uint64(32)
	if len(s.Requests) > 1000 { // a list or a log: hardly templates
		samples = 1
	}
	for i, r := range s.filled() {
		at := s.at(i)
		if r.brief && r.Method == "" && s.speech().may(takesMethod) {
			report(at, `%q is not a request: write "METHOD /path", like "POST /checkout"`, r.Text)
		} else {
			if problem := checkMethod(r.Method); problem != "" && s.speech().may(takesMethod) {
				report(at+".method", "%s", problem)
			}
			st.kinds[i].checkRendered(s.speech(), r, st.slots, at, samples, report)
		}
		if n := r.Redirects; n != nil && (*n < 0 || *n > maxRedirects) {
			report(at+".redirects", "redirects is %d; it must be from 0 to %d", *n, maxRedirects)
		}
		switch w := *r.Weight; {
		case w < 0:
			report(at+".weight", "weight is %d; it must not be negative", w)
		case w > 1_000_000:
			report(at+".weight", "weight is %d; at most 1000000", w)
		default:
			weight += w
		}
		checkTimeout(s.own()[i].Timeout, at+".timeout", report)
	}
	if weight == 0 {
		report("requests", "all weights are 0: nothing would be sent")
	}
	s.checkSteps(report)
}

// Bounds of a session. A browser gives up after 20 redirects.
const (
	maxRedirects = 20
	maxSteps     = 100
)

func (s Spec) checkSteps(report func(path, format string, args ...any)) {
	for _, part := range []struct {
		key   string
		steps []SessionStep
	}{{"steps", s.Steps}, {"setup", s.Setup}} {
		if len(part.steps) > maxSteps {
			report(part.key, "there are %d steps; at most %d", len(part.steps), maxSteps)
		}
	}
	named := map[string]bool{}
	for i, step := range s.sequence() {
		at := s.at(i)
		if step.Think < 0 {
			report(at+".think", "think is %v; it must not be negative", step.Think)
		}
		if step.Think > 0 && i == len(s.Steps) {
			report(at+".think", "the first step of a setup begins when the user's first session is due; think stands before later ones")
		}
		if step.Think > 0 && i == 0 {
			report(at+".think", "the first step is due when the session is; think stands before later ones")
		}
		if step.Name != "" && named[step.Name] {
			report(at+".name", "a second step is called %q", step.Name)
		}
		named[step.Name] = true
		for _, name := range slices.Sorted(maps.Keys(step.Capture)) {
			path := at + ".capture." + name
			_, isData := s.Data[name]
			switch {
			case !identifier.MatchString(name):
				report(path, "%q cannot name a captured value: templates say {{.%s}}, so use letters, digits and _, no digit first", name, name)
			case isData:
				report(path, "%q is the name of data already", name)
			}
			step.Capture[name].check(path, report)
		}
	}
}

// checkMethod says what is wrong with a method, if anything.
func checkMethod(m string) string {
	switch {
	case m == "":
		return `the method is missing: write it as in "POST /checkout"`
	case strings.ContainsFunc(m, func(c rune) bool { return c < 'A' || c > 'Z' }):
		return fmt.Sprintf("method %q is not one: methods are capital letters, like GET or POST", m)
	case m == "CONNECT":
		return "CONNECT opens tunnels; it cannot be load"
	}
	return ""
}

// checkRendered looks at some examples of what the templates make, each mistake
// reported once. A template that does not parse was reported already, and renders
// to nothing.
func (k *kind) checkRendered(sp *speech, r Request, slots int, at string, samples uint64, report func(path, format string, args ...any)) {
	said := map[string]bool{}
	once := func(path, format string, args ...any) {
		if !said[path] {
			said[path] = true
			report(path, format, args...)
		}
	}
	for seq := range samples {
		d := drawOf(0, seq, forContent)
		d.captured = slices.Repeat([]string{exampleValue}, slots)
		path, err := k.path.append(nil, &d)
		if err != nil {
			once(at+".path", "path %q cannot be rendered: %v", r.Path, err)
		} else if sp.may(takesPath) && (len(path) > 0 || r.Path == "") {
			if problem := checkPath(string(path)); problem != "" {
				once(at+".path", "path %q %s", r.Path, problem)
			}
		}
		for _, h := range k.headers {
			value, err := h.value.append(nil, &d)
			if err != nil {
				once(at+".headers."+h.name, "header %q cannot be rendered: %v", h.name, err)
			} else if problem := checkHeader(h.name, string(value)); problem != "" && checkHeader(h.name, r.Headers[h.name]) == "" {
				once(at+".headers."+h.name, "header %q %s", h.name, problem)
			}
		}
		if _, err := k.body.append(nil, &d); err != nil {
			once(at+".body", "the body cannot be rendered: %v", err)
		}
		if k.auth != nil {
			if _, _, err := k.auth.append(nil, nil, &d); err != nil {
				once(at+".auth", "%v", err)
			}
		}
	}
}

func checkTimeout(t *time.Duration, path string, report func(path, format string, args ...any)) {
	switch {
	case t == nil:
	case *t <= 0:
		report(path, "timeout is %v; it must be above 0s", *t)
	case *t > hdr.Highest:
		report(path, "timeout is %v; at most %v, where the histograms end", *t, hdr.Highest)
	}
}
