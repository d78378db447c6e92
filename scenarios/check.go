package scenarios

import (
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/scenarios/strict"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// check reports everything that decoding cannot see: first what each part says
// of itself, then what the parts say of one another. No check stops another. files
// is where the load's data files are.
func check(doc *strict.Document, f *file, files fs.FS) {
	c := checker{doc: doc, file: f, breakers: map[string]string{}, told: map[string]bool{}}
	c.names()
	c.phases()
	c.allowed()
	c.topology()
	c.edges("target.patterns", f.Target.Patterns)
	f.Target.Check(c.under("target"))
	for i := range f.Load {
		l := &f.Load[i]
		at := "load." + l.Name
		l.ReadData(files, c.under(at))
		l.Check(c.under(at))
		if c.service(at+".to", fmt.Sprintf("load %q", l.Name), l.To) {
			if to, _ := c.system.Service(l.To); to.Absent != nil {
				doc.Report(at+".to", "send it to a service that calls this one", "load %q: %q is absent: only the edges into it answer", l.Name, l.To)
			} else if err := l.Fits(to.TLS != nil, to.UDP); err != nil {
				doc.Report(at+".protocol", "", "load %q: %s", l.Name, err)
			}
		}
	}
	if doc.Has("load") && len(f.Load) == 0 {
		doc.Report("load", "", "a scenario needs at least one load stream: without requests there is nothing to judge")
	}
	c.edgeSettings()
	for _, s := range f.Faults {
		s.Check(c.under("faults." + s.Name))
		c.fault(s)
	}
	for _, h := range f.Hypothesis {
		c.expectation(h)
	}
	for _, b := range f.Breakers {
		c.breaker(b)
	}
	c.slos(files)
	c.invariants()
	c.abort()
	c.control()
	if t := f.Timescale; t != nil && !(*t > 0 && *t <= 1000) {
		doc.Report("timescale", "", "timescale is a factor above 0, at most 1000; got %v", *t)
	}
}

type checker struct {
	doc    *strict.Document
	file   *file
	system topology.Topology
	known  bool // system is what the target describes; otherwise nothing can be said about names in it

	breakers map[string]string // edges met under breakers, by their name, as they were spelt
	told     map[string]bool   // paths of which something was said here, so that a part's own Check need not
}

// under makes a part's own Check report below a path.
func (c *checker) under(prefix string) func(path, format string, args ...any) {
	return func(path, format string, args ...any) {
		switch {
		case path == "":
			path = prefix
		case path[0] == '[':
			path = prefix + path
		default:
			path = prefix + "." + path
		}
		if !c.told[path] {
			c.doc.Report(path, "", format, args...)
		}
	}
}

// namePattern keeps names fit for folders, for metrics and for "STREAM PHASE METRIC".
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (c *checker) names() {
	legal := func(path, what, name string) {
		if !namePattern.MatchString(name) {
			c.doc.Report(path, "", "%q cannot name %s: use letters, digits, - _ and dots, at most 64, a letter or digit first", name, what)
		}
	}
	if c.doc.Has("scenario") {
		legal("scenario", "a scenario", c.file.Scenario)
	}
	for _, l := range c.file.Load {
		legal("load."+l.Name, "a load stream", l.Name)
	}
	for _, s := range c.file.Faults {
		legal("faults."+s.Name, "a fault", s.Name)
	}
	for i, row := range c.file.Rows {
		if row < 1 {
			c.doc.Report(fmt.Sprintf("rows[%d]", i), "", "rows are numbered from 1; got %d", row)
		}
	}
}

// longestRun keeps a slip of the unit (12h for 12s) from running overnight.
const longestRun = 24 * time.Hour

func (c *checker) phases() {
	p := c.file.Phases
	if !c.doc.Has("phases") {
		return
	}
	total := time.Duration(0)
	for _, d := range []time.Duration{p.Warmup, p.Before, p.During, p.After} {
		total += min(d, 2*longestRun)
	}
	switch {
	case p.Before == 0 && p.During == 0 && p.After == 0:
		c.doc.Report("phases", "write phases: { before: 10s, during: 20s, after: 15s }",
			"at least one of before, during and after must take time: nothing else is judged")
	case total > longestRun:
		c.doc.Report("phases", "", "the phases take %s together; at most %s", total, longestRun)
	}
}

// topology finds out what the names of services and edges mean. A mistake in the
// patterns must not keep the names from being known, so they are left out here; a
// mistake in the rest of the target is told by the target's own Check.
func (c *checker) topology() {
	bare := c.file.Target
	bare.Patterns, bare.Sagas, bare.Runtime = nil, nil, ""
	t, err := bare.Resolve()
	c.system, c.known = t, err == nil
}

// allowed checks the hosts that may be reached beside this machine: each must be that of
// a service, so that nothing is allowed that nobody asks for.
func (c *checker) allowed() {
	c.file.Target.Allow = c.file.Allow
	hosts := slices.Sorted(maps.Values(c.file.Target.Hosts()))
	hosts = slices.Compact(hosts)
	for i, name := range c.file.Allow {
		path := fmt.Sprintf("allow[%d]", i)
		switch {
		case slices.ContainsFunc(c.file.Allow[:i], func(other string) bool { return targets.SameHost(name, other) }):
			c.doc.Report(path, "", "%q stands here twice", name)
		case targets.OnThisMachine(name):
			c.doc.Report(path, "leave it out", "%q is this machine, which needs no permission", name)
		case slices.ContainsFunc(hosts, func(h string) bool { return targets.SameHost(name, h) }):
		case strings.Count(name, ":") == 1:
			c.doc.Report(path, "write the host alone", "%q has a port: hosts are allowed, whatever the port", name)
		case strings.ContainsAny(name, "/*"):
			c.doc.Report(path, "write each host by itself", "%q is no host: neither networks nor patterns are allowed, only hosts of services (hosts: %s)", name, list(hosts))
		default:
			c.doc.Report(path, didYouMean(name, hosts), "no service has its address at host %q (hosts: %s)", name, list(hosts))
		}
	}
}

// of says where names are looked up: `in system "shop"`.
func (c *checker) of() string {
	if c.system.System != "" {
		return fmt.Sprintf("in system %q", c.system.System)
	}
	return "in target.services"
}

// service checks that a name is a service.
func (c *checker) service(path, who, name string) bool {
	if !c.known || name == "" {
		return false
	}
	if _, ok := c.system.Service(name); ok {
		return true
	}
	c.doc.Report(path, didYouMean(name, c.system.Names()), "%s: no service %q %s (services: %s)",
		who, name, c.of(), list(c.system.Names()))
	return false
}

// edge checks that "caller -> callee" is an edge.
func (c *checker) edge(path, who, name string) (topology.Edge, bool) {
	report := c.doc.Report
	if strings.HasSuffix(path, "."+name) {
		report = c.doc.ReportKey // the edge is the key
	}
	caller, callee, err := topology.ParseEdge(name)
	if err != nil {
		c.told[path] = true
		report(path, "", "%s: %v", who, err)
		return topology.Edge{}, false
	}
	if !c.known {
		return topology.Edge{}, false
	}
	if e, ok := c.system.Edge(caller, callee); ok {
		return e, true
	}
	calls := c.system.CallsOf(caller)
	slices.Sort(calls)
	_, callerExists := c.system.Service(caller)
	allowed, hint := "", ""
	switch {
	case !callerExists:
		allowed = "services: " + list(c.system.Names())
	case len(calls) == 0:
		allowed = caller + " calls nobody"
	default:
		allowed = caller + " calls: " + list(calls)
	}
	if e, ok := c.system.Edge(callee, caller); ok {
		hint = fmt.Sprintf("did you mean %q? An edge is written from the caller to the callee", e.Name())
	} else {
		callers := []string{caller}
		if near, ok := strict.Nearest(caller, c.system.Names()); ok && !callerExists {
			callers = []string{near}
		}
		callees := c.system.CallsOf(callers[0])
		if near, ok := strict.Nearest(callee, callees); ok {
			hint = fmt.Sprintf("did you mean %q?", callers[0]+" -> "+near)
		} else if slices.Contains(callees, callee) {
			hint = fmt.Sprintf("did you mean %q?", callers[0]+" -> "+callee)
		}
	}
	c.told[path] = true
	report(path, hint, "%s: no edge %q %s (%s)", who, caller+" -> "+callee, c.of(), allowed)
	return topology.Edge{}, false
}

// edges checks the keys of patterns; what stands under them is for their own Check.
func (c *checker) edges(path string, patterns map[string]pattern.Spec) {
	if c.known && c.system.System == "" {
		return // no patterns at all for services of one's own: said elsewhere
	}
	spelling := map[string]string{}
	for _, edge := range sorted(patterns) {
		at := path + "." + edge
		if _, ok := c.edge(at, "patterns", edge); ok {
			c.once(spelling, at, edge)
		}
	}
}

func (c *checker) edgeSettings() {
	spelling := map[string]string{}
	for _, e := range c.file.Edges {
		at := "edges." + e.Name
		c.edge(at, "edges", e.Name)
		switch {
		case e.HoldMost == nil:
			c.doc.Report(at, "write { hold_most: 64MiB }", "nothing is said of this edge")
		case *e.HoldMost < leastHeld:
			c.doc.Report(at+".hold_most", "write 64MiB, or leave it out for 256MiB", "hold_most is at least %s, so that a few pieces can wait; got %s", faults.Bytes(leastHeld), *e.HoldMost)
		}
		c.once(spelling, at, e.Name)
	}
}

// leastHeld is room for a few buffers of 64 KiB.
const leastHeld = 256 << 10

// once refuses an edge that stands under two spellings, "a->b" and "a -> b".
func (c *checker) once(seen map[string]string, path, edge string) {
	name, ok := edgeName(edge)
	if !ok {
		return
	}
	if first, twice := seen[name]; twice {
		c.told[path] = true
		c.doc.ReportKey(path, "keep one of them", "the edge %q stands here twice, as %q and as %q", name, first, edge)
	}
	seen[name] = edge
}

func (c *checker) fault(s faults.Spec) {
	at, who := "faults."+s.Name, fmt.Sprintf("fault %q", s.Name)
	kind, _ := s.Kind()
	switch {
	case kind.Reference && c.known && c.system.System == "":
		c.doc.Report(at+"."+kind.Verb, "target: { system: shop } has such services",
			"%s: %s needs services that can be told to go wrong, which those of a reference system can; your own have their clock and their lookups to themselves", who, kind.Verb)
	case s.Partition != nil:
		c.partition(at+".partition", who, *s.Partition)
	case s.Target == "":
		// The fault's own Check says that a target is missing.
	case kind.On == faults.OnService:
		if strings.Contains(s.Target, "->") {
			break // said by the fault's own Check
		}
		if c.service(at+".target", who, s.Target) {
			if service, _ := c.system.Service(s.Target); service.Absent != nil {
				c.doc.Report(at+".target", "give the service a command, and chaosctl starts it", "%s: %q is absent: there is nothing to kill, pause or restart", who, s.Target)
			} else if !service.Managed() {
				c.doc.Report(at+".target", "give the service a command, and chaosctl starts it",
					"%s: %q is only an address: what chaosctl did not start, it does not %s", who, s.Target, deed(kind.Verb))
			}
			service, _ := c.system.Service(s.Target)
			pick, _ := s.Selection()
			if _, err := pick.Of(service.Count()); err != nil {
				runs := "runs as one instance"
				if n := service.Count(); n > 1 {
					runs = fmt.Sprintf("has %d instances", n)
				}
				c.doc.Report(at+"."+kind.Verb+".pick", "leave pick out, or write all", "%s: %v: %q %s", who, err, s.Target, runs)
			}
		}
	case strings.Contains(s.Target, "->"):
		if e, ok := c.edge(at+".target", who, s.Target); ok {
			c.protocol(at, who, s, e)
		}
	}

	during := c.file.Phases.During
	if c.doc.Has("phases") && during == 0 {
		c.doc.Report(at, "add during to phases", "%s: the scenario has no phase \"during\" for it to happen in", who)
		return
	}
	length, fixed := s.Length()
	c.conditions(at, who, s, during)
	switch {
	case s.At >= during && during > 0:
		c.doc.Report(at+".at", "at counts from the start of during", "%s: it begins at %s, and \"during\" takes only %s", who, s.At, during)
	case s.For != nil && *s.For > during-s.At: // the sum of two durations could overflow
		c.doc.Report(at+".for", "", "%s: from %s on for %s is longer than \"during\", which takes %s", who, s.At, *s.For, during)
	case s.For == nil && fixed && length > during-s.At:
		c.doc.Report(at, "begin earlier, or make during longer",
			"%s: from %s on it has its effect for %s, longer than \"during\", which takes %s", who, s.At, length, during)
	}
}

// protocol refuses a fault on an edge that carries what it cannot work on.
func (c *checker) protocol(at, who string, s faults.Spec, e topology.Edge) {
	needs, path, instead := s.Needs()
	if e.Protocol == topology.UDP {
		if path, err := s.OnUDP(); err != nil {
			c.doc.Report(at+"."+path, "", "%s: %q carries udp: %v", who, e.Name(), err)
		}
		return
	}
	carries := map[string]topology.Protocol{faults.OnHTTPEdge: topology.HTTP, faults.OnTCPEdge: topology.TCP, faults.OnUDPEdge: topology.UDP}[needs]
	if needs == "" || carries == e.Protocol {
		return
	}
	what := strings.ReplaceAll(path, ".", " with ")
	if carries == topology.UDP {
		c.doc.Report(at+"."+path, instead, "%s: %s is about datagrams and needs a udp edge; %q carries %s", who, what, e.Name(), e.Protocol)
		return
	}
	if carries == topology.HTTP {
		c.doc.Report(at+"."+path, instead, "%s: %s answers HTTP requests, and the edge %q carries %s", who, what, e.Name(), e.Protocol)
		return
	}
	hint := instead
	if c.system.System == "" {
		hint = fmt.Sprintf("write protocol: tcp under target.services.%s, and its calls are seen as connections; or %s", e.Callee, instead)
	}
	c.doc.Report(at+"."+path, hint, "%s: %s acts on the bytes of a connection and needs a tcp edge; %q carries %s", who, what, e.Name(), e.Protocol)
}

// conditions checks a fault's pulse and ramp against the time that it has.
func (c *checker) conditions(at, who string, s faults.Spec, during time.Duration) {
	lasts := during - s.At
	if s.For != nil {
		lasts = min(lasts, *s.For)
	}
	if lasts <= 0 {
		return // said elsewhere
	}
	if s.Pulse != nil && s.Pulse.Active >= lasts {
		c.doc.Report(at+".pulse", "leave pulse out, or make active shorter", "%s: its first pulse takes %s, and it lasts %s: it would never pause", who, s.Pulse.Active, lasts)
	}
	if s.Ramp != nil {
		if s.Pulse != nil && *s.Ramp > s.Pulse.Active {
			c.doc.Report(at+".ramp", "each pulse begins the ramp anew", "%s: the ramp takes %s, and a pulse %s: it would never have its full percent", who, *s.Ramp, s.Pulse.Active)
		} else if *s.Ramp > lasts {
			c.doc.Report(at+".ramp", "", "%s: the ramp takes %s, and the fault lasts %s: it would never have its full percent", who, *s.Ramp, lasts)
		}
	}
}

func (c *checker) partition(path, who string, p faults.Partition) {
	sound := c.known && len(p.From) > 0 && len(p.To) > 0
	for _, side := range []struct {
		key   string
		names []string
	}{{"from", p.From}, {"to", p.To}} {
		for i, name := range side.names {
			sound = c.service(fmt.Sprintf("%s.%s[%d]", path, side.key, i), who, name) && sound
		}
	}
	if sound && !slices.ContainsFunc(c.system.Edges, func(e topology.Edge) bool { return p.Covers(e.Caller, e.Callee) }) {
		c.doc.Report(path, "chaosctl plan shows the edges", "%s: no edge leads from one side to the other, so there is nothing to cut", who)
	}
}

// deed is what a fault of this kind does to a service.
func deed(verb string) string {
	switch verb {
	case "kill", "pause", "restart":
		return "kill, pause or restart"
	}
	return "press on, nor fill its disk"
}

func (c *checker) expectation(h expectation) {
	at := "hypothesis." + h.Name
	c.claimed(at, h.Name)
	p := c.file.Phases
	for _, part := range []struct {
		phase   string
		clauses []expect.Clause
		length  time.Duration
	}{{"before", h.Before, p.Before}, {"during", h.During, p.During}, {"after", h.After, p.After}} {
		path := at + "." + part.phase
		if len(part.clauses) > 0 && part.length == 0 && c.doc.Has("phases") {
			c.doc.Report(path, fmt.Sprintf("add %s to phases", part.phase), "the scenario has no phase %q to judge", part.phase)
		}
		seen := map[string]bool{}
		for i, clause := range part.clauses {
			c.objective(fmt.Sprintf("%s[%d]", path, i), clause)
			if name := clause.Name(); seen[name] {
				c.doc.Report(fmt.Sprintf("%s[%d]", path, i), "keep the stricter one", "%q stands in %q twice", name, part.phase)
			} else {
				seen[name] = true
			}
		}
	}
	switch {
	case h.Settle > 0 && len(h.During) == 0:
		c.doc.Report(at+".settle", "", "settle leaves out the start of during, and during has no clauses")
	case p.During > 0 && h.Settle >= p.During:
		c.doc.Report(at+".settle", "", "settle (%s) leaves nothing of during (%s) to judge", h.Settle, p.During)
	}
	switch {
	case h.Recovery > 0 && len(h.After) == 0:
		c.doc.Report(at+".recovery", "", "recovery leaves out the start of after, and after has no clauses")
	case p.After > 0 && h.Recovery >= p.After:
		c.doc.Report(at+".recovery", "", "recovery (%s) leaves nothing of after (%s) to judge", h.Recovery, p.After)
	}
}

// objective checks that a clause of a hypothesis can be judged: a share that is
// to be high, a latency that is to be low.
func (c *checker) objective(path string, clause expect.Clause) {
	up := strings.HasPrefix(clause.Op, ">")
	switch {
	case clause.Metric == "":
		// It could not be read, and that was said.
	case clause.For != 0:
		c.doc.Report(path, "for belongs to abort conditions", `"for" says nothing here: a clause is judged over its whole phase`)
	case clause.Metric == expect.Upstream:
		c.doc.Report(path, "", `"upstream" is measured on an edge: it belongs into breakers, under open`)
	case clause.Metric == expect.OK && !up:
		c.doc.Report(path, "write ok >= 99%", `a steady state asks for enough good answers: ok takes > or >=, not %s`, clause.Op)
	case clause.Metric == expect.OK && clause.Ratio == 0:
		c.doc.Report(path, "", "ok %s 0%% always holds", clause.Op)
	case clause.Metric == expect.OK && clause.Op == ">" && clause.Ratio == 1:
		c.doc.Report(path, "write ok >= 100%", "ok > 100%% never holds")
	case clause.Metric == expect.Percentile && up:
		c.doc.Report(path, fmt.Sprintf("write %s < %s", clause.Name(), clause.Limit), `a steady state asks for fast answers: %s takes < or <=, not %s`, clause.Name(), clause.Op)
	}
}

// claimed is the stream that a hypothesis is about, and the step where it is about
// only that: "shoppers.pay". A stream whose own name has the dot comes first.
func claimed(loads []loadgen.Spec, name string) (load, step string) {
	for _, l := range loads {
		if l.Name == name {
			return name, ""
		}
	}
	for _, l := range loads {
		if rest, ok := strings.CutPrefix(name, l.Name+"."); ok && len(l.Name) > len(load) {
			load, step = l.Name, rest
		}
	}
	if load == "" {
		return name, ""
	}
	return load, step
}

// claimed checks that a hypothesis is about a stream, or a step of its sessions.
func (c *checker) claimed(path, name string) {
	load, step := claimed(c.file.Load, name)
	if step == "" {
		c.stream(path, "hypothesis", name)
		return
	}
	spec := c.file.Load[slices.IndexFunc(c.file.Load, func(l loadgen.Spec) bool { return l.Name == load })]
	var names, all []string
	for i, s := range spec.Steps {
		if namePattern.MatchString(s.Name) {
			names = append(names, s.Name)
			all = append(all, load+"."+s.Name)
		}
		if s.Name == step && !namePattern.MatchString(step) {
			c.doc.Report(fmt.Sprintf("load.%s.steps[%d].name", load, i), "", "%q cannot name a step of a hypothesis: use letters, digits, - _ and dots, at most 64, a letter or digit first", step)
			return
		}
	}
	switch {
	case slices.Contains(names, step):
	case len(spec.Steps) == 0:
		c.doc.Report(path, "", "hypothesis: load stream %q has no steps, so there is no %q", load, name)
	case slices.ContainsFunc(spec.Setup, func(s loadgen.SessionStep) bool { return s.Name == step }):
		c.doc.Report(path, "", "hypothesis: %q is a step of the setup of %q, which is not judged (steps: %s)", step, load, list(names))
	case len(names) == 0:
		c.doc.Report(path, fmt.Sprintf("give the step a name: { name: %s, method: …, path: … }", step), "hypothesis: no step of load stream %q has a name", load)
	default:
		c.doc.Report(path, didYouMean(name, all), "hypothesis: load stream %q has no step with the name %q (named steps: %s)", load, step, list(names))
	}
}

// stream checks that a name is a load stream.
func (c *checker) stream(path, who, name string) bool {
	var names []string
	for _, l := range c.file.Load {
		names = append(names, l.Name)
	}
	if slices.Contains(names, name) || !c.doc.Has("load") {
		return true
	}
	c.doc.Report(path, didYouMean(name, names), "%s: no load stream %q (streams: %s)", who, name, list(names))
	return false
}

func (c *checker) breaker(b breakerExpectation) {
	at := "breakers." + b.Name
	if e, ok := c.edge(at, "breakers", b.Name); ok {
		if caller, _ := c.system.Service(e.Caller); caller.Count() > 1 {
			c.doc.ReportKey(at, "let it run as one instance", "breakers: %q runs as %d instances, each with a breaker of its own: one edge shows all of them at once, and so none", e.Caller, caller.Count())
		}
	}
	if b.Opens == nil && b.Closes == nil && b.Flaps == nil && len(b.Open) == 0 {
		c.doc.Report(at, "write { opens: 5s, closes: 15s }", "nothing is claimed of this breaker")
	}
	if b.Opens != nil && *b.Opens == 0 {
		c.doc.Report(at+".opens", "", "opens is the time it may take, so it is above 0s")
	}
	if b.Closes != nil && *b.Closes == 0 {
		c.doc.Report(at+".closes", "", "closes is the time it may take, so it is above 0s")
	}
	if (b.Opens != nil || b.Closes != nil) && len(c.file.Faults) == 0 {
		c.doc.Report(at, "", "opens and closes count from the beginning and the end of a fault, and the scenario has none")
	}
	if b.Flaps != nil && *b.Flaps < 0 {
		c.doc.Report(at+".flaps", "", "flaps counts from 0; got %d", *b.Flaps)
	}
	for i, clause := range b.Open {
		path := fmt.Sprintf("%s.open[%d]", at, i)
		switch {
		case clause.Metric == "":
		case clause.For != 0:
			c.doc.Report(path, "for belongs to abort conditions", `"for" says nothing here: it is judged for as long as the breaker is open`)
		case clause.Metric == expect.OK:
			c.doc.Report(path, "", "while a breaker is open, pNN of the caller's answers and upstream can be judged, not ok")
		case strings.HasPrefix(clause.Op, ">"):
			c.doc.Report(path, "", "an open breaker answers fast and spares the callee: %s takes < or <=, not %s", clause.Name(), clause.Op)
		}
	}
	if m := b.Metrics; m != nil {
		if m.Service != "" {
			c.service(at+".metrics.service", "metrics", m.Service)
		}
		if m.Path != "" && !strings.HasPrefix(m.Path, "/") {
			c.doc.Report(at+".metrics.path", "write /metrics", "a path begins with /; got %q", m.Path)
		}
		if m.Name == "" && c.doc.Has(at+".metrics.name") {
			c.doc.Report(at+".metrics.name", "", "the name of the breaker is empty")
		}
	}
	c.once(c.breakers, at, b.Name)
}

func (c *checker) invariants() {
	if !c.known {
		return
	}
	offered := c.file.Target.Invariants()
	seen := map[string]bool{}
	for i, name := range c.file.Invariants {
		path := fmt.Sprintf("invariants[%d]", i)
		switch {
		case c.system.System == "":
			c.doc.Report(path, "", "invariants are read from a reference system's own state; services of your own offer none")
		case !slices.Contains(offered, name):
			c.doc.Report(path, didYouMean(name, offered), "no invariant %q %s (invariants: %s)", name, c.of(), list(offered))
		case seen[name]:
			c.doc.Report(path, "", "%q stands here twice", name)
		}
		seen[name] = true
	}
}

func (c *checker) abort() {
	if c.file.Abort == nil {
		return
	}
	for i, clause := range *c.file.Abort {
		path := fmt.Sprintf("abort[%d]", i)
		up := strings.HasPrefix(clause.Op, ">")
		switch {
		case clause.Metric == "":
		case clause.Metric == expect.Upstream:
			c.doc.Report(path, "", "abort conditions look at ok and pNN of the load streams, not at upstream")
		case clause.For == 0:
			c.doc.Report(path, fmt.Sprintf("write %s for 30s", clause), "an abort condition says for how long it must hold")
		case clause.Metric == expect.OK && up, clause.Metric == expect.Percentile && !up:
			c.doc.Report(path, "write ok < 10% for 30s, or p95 > 5s for 30s", "an abort condition says when things are bad: %q would end a healthy run", clause)
		default:
			c.abortsWhatPasses(path, clause)
		}
	}
}

// abortsWhatPasses refuses an abort condition that ends a run which keeps its
// promise: abort on ok < 99% contradicts ok >= 95%. Abort conditions look at all
// streams together, so that with several of them nothing follows.
func (c *checker) abortsWhatPasses(path string, abort expect.Clause) {
	if len(c.file.Load) != 1 {
		return
	}
	for _, h := range c.file.Hypothesis {
		if _, step := claimed(c.file.Load, h.Name); step != "" {
			continue // the stream as a whole may be worse
		}
		for _, part := range []struct {
			phase   string
			clauses []expect.Clause
		}{{"before", h.Before}, {"during", h.During}, {"after", h.After}} {
			for _, clause := range part.clauses {
				if clause.Metric != abort.Metric {
					continue
				}
				// p99 is never below p95: p99 > 500ms ends runs in which p95 < 1s holds.
				if clause.Metric == expect.OK && abort.Ratio > clause.Ratio ||
					clause.Metric == expect.Percentile && abort.Quantile >= clause.Quantile && abort.Limit < clause.Limit {
					c.doc.Report(path, "let it be further from good than the hypothesis is", "%q contradicts %q, which %s of %s asks for: a run that keeps its promise would be aborted", abort, clause, part.phase, h.Name)
					return
				}
			}
		}
	}
}

func (c *checker) control() {
	k := c.file.Control
	if k == nil {
		return
	}
	if len(k.Patterns) > 0 && c.known && c.system.System == "" {
		c.doc.Report("control.patterns", "write services: { NAME: { command: […] } }", "patterns are settings of a reference system; services of your own bring theirs")
	}
	c.edges("control.patterns", k.Patterns)
	for _, edge := range sorted(k.Patterns) {
		k.Patterns[edge].Check(c.under("control.patterns." + edge))
	}
	c.controlServices(k)
	if k.change().Empty() {
		c.doc.Report("control", "write patterns: { orders -> payments: off }", "the control changes nothing, so it cannot fail where the scenario passes")
	}
	if c.doc.Has("control.must_fail") && len(k.MustFail) == 0 {
		c.doc.Report("control.must_fail", "write [shoppers during p95]", "the control must fail on at least one clause")
	}
	claims := c.claims()
	for i, text := range k.MustFail {
		claim := claimName(text)
		path := fmt.Sprintf("control.must_fail[%d]", i)
		switch {
		case slices.Contains(claims, claim):
		case len(claims) == 0:
			c.doc.Report(path, "", "%q: the hypothesis has no clauses that could fail", claim)
		default:
			c.doc.Report(path, didYouMean(claim, claims), "no clause %q in the hypothesis (clauses: %s)", claim, list(claims))
		}
	}
}

// controlServices checks what the control has otherwise of services: as a target of
// its own, in which every edge of the scenario is still there.
func (c *checker) controlServices(k *control) {
	for _, name := range sorted(k.Services) {
		at := "control.services." + name
		switch own, known := c.file.Target.Services[name]; {
		case c.known && c.system.System != "":
			c.doc.Report(at, "write patterns: { orders -> payments: off }", "the services of system %q are started as they are; its control changes patterns, or sagas", c.system.System)
		case !known:
			c.doc.Report(at, didYouMean(name, sorted(c.file.Target.Services)), "no service %q in target.services (services: %s)", name, list(sorted(c.file.Target.Services)))
		case len(own.Command) == 0:
			c.doc.Report(at, "", "service %q is not started by us: its command and env cannot be changed", name)
		}
	}
	change := k.change()
	change.Services = maps.Clone(change.Services)
	maps.DeleteFunc(change.Services, func(name string, _ targets.ServiceChange) bool { return len(c.file.Target.Services[name].Command) == 0 })
	changed := c.file.Target.With(change)
	changed.Check(func(path, format string, args ...any) {
		part, _, _ := strings.Cut(path, ".")
		// What the target says itself was said there.
		if part != "patterns" && c.doc.Has("control."+path) {
			c.doc.Report("control."+path, "", format, args...)
		}
	})
	changed.Patterns, changed.Sagas, changed.Runtime = nil, nil, ""
	if t, err := changed.Resolve(); err == nil && c.known {
		for _, e := range c.system.Edges {
			if _, still := t.Edge(e.Caller, e.Callee); !still {
				c.doc.Report("control.services."+e.Caller, "", "with this command, there is no edge %q: a control has the same edges, and other behaviour", e.Name())
			}
		}
	}
}

// claims are all that must_fail can name.
func (c *checker) claims() []string {
	var claims []string
	for _, h := range c.file.Hypothesis {
		for _, part := range []struct {
			phase   string
			clauses []expect.Clause
		}{{"before", h.Before}, {"during", h.During}, {"after", h.After}} {
			for _, clause := range part.clauses {
				claim := h.Name + " " + part.phase + " " + clause.Name()
				if (clause.Metric == expect.OK || clause.Metric == expect.Percentile) && !slices.Contains(claims, claim) {
					claims = append(claims, claim)
				}
			}
		}
	}
	for _, b := range c.file.Breakers {
		edge, ok := edgeName(b.Name)
		if !ok {
			continue
		}
		claims = append(claims, edge)
		for _, part := range []struct {
			word    string
			claimed bool
		}{{"opens", b.Opens != nil}, {"open", len(b.Open) > 0}, {"closes", b.Closes != nil}, {"flaps", b.Flaps != nil}} {
			if part.claimed {
				claims = append(claims, edge+" "+part.word)
			}
		}
	}
	return append(claims, c.file.Invariants...)
}

func didYouMean(name string, candidates []string) string {
	if near, ok := strict.Nearest(name, candidates); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// list writes names for a message; a long list is cut.
func list(names []string) string {
	const most = 12
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + fmt.Sprintf(", and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// edgeName spells an edge as every record does.
func edgeName(s string) (string, bool) {
	caller, callee, err := topology.ParseEdge(s)
	return topology.Edge{Caller: caller, Callee: callee}.Name(), err == nil
}

func sorted[T any](m map[string]T) []string {
	return slices.Sorted(maps.Keys(m))
}
