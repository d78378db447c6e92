package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments/audit"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/targets/process"
)

// loadFlags are what a user writes; load.go makes a loadPlan of them.
type loadFlags struct {
	rate        string
	users       int
	think       time.Duration
	duration    time.Duration
	requests    uint64
	connections int
	idle        time.Duration
	lifetime    time.Duration
	perConn     int
	noKeepAlive bool
	http2       bool
	http3       bool
	streams     int
	descriptors string
	timeout     time.Duration
	method      string
	headers     []string
	body        string
	ok          string
	tls         loadTLSFlags
	seed        uint64
	arrivals    string
	warmup      time.Duration
	engine      string
	command     string
	query       string
	args        []string
	until       string
	untilBytes  int
	untilClose  bool
	binary      bool
	secrets     []string

	objectives   []string
	confidence   string
	findMax      string
	maxRate      string
	stepDuration time.Duration

	output  string
	samples string
	hdr     string
	csv     string
	quiet   bool
}

const (
	defaultLoadRate     = "50/s" // as vegeta's
	defaultLoadDuration = 10 * time.Second
	defaultStep         = 5 * time.Second
	endless             = 365 * 24 * time.Hour // a load that ends by its number of requests
)

func newLoad() *cobra.Command {
	var f loadFlags
	cmd := &cobra.Command{
		Use:     "load URL|FILE",
		GroupID: "run",
		Short:   "Send load to an address and say how long it really took",
		Long: `Load sends requests to a URL, or those of a file, at a rate that does not depend
on the answers (--rate, the open model), or from users who each wait for an
answer before they ask again (--users, the closed model).

Latency counts from the moment at which a request was due: a server that stalls
is charged for every request that fell due meanwhile. Service time (from the
send) and the generator's own lag are shown beside it.

grpc://HOST:PORT/package.Service/Method (grpcs:// with TLS) makes unary calls, with
--body for their message in JSON.

FILE is a list of targets in vegeta's formats (HTTP or JSON), sent in turn, or a
load stream as a scenario writes it (*.yaml), with a URL for its "to".

With --objective there is a verdict with confidence bounds, and the exit code is
0 pass, 1 fail, 3 inconclusive; without, it is 0. With --find-max the rate
rises until the objective no longer holds. Ctrl-C ends early, prints what was
seen, and exits 4; so does chaosctl halt --all, under which none starts (exit 2).`,
		Example: `  chaosctl load http://127.0.0.1:8080/ --rate 500/s --duration 30s
  chaosctl load http://127.0.0.1:8080/ --users 64 --think 100ms
  chaosctl load http://127.0.0.1:8080/ --rate 200/s --objective 'ok >= 99.9%' --objective 'p99 < 50ms'
  chaosctl load http://127.0.0.1:8080/ --find-max 'p99 < 50ms'
  chaosctl load https://127.0.0.1:8443/ --http2 --users 64 --streams 8
  chaosctl load grpc://127.0.0.1:9090/shop.v1.Stock/Reserve --body '{"product":"p-{{int 1 9}}"}'
  chaosctl load targets.txt --rate 100/s --arrivals poisson --samples samples.bin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return load(cmd.Context(), args[0], f, cmd.Flags().Changed, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.rate, "rate", defaultLoadRate, "open model: requests due per time, like 500/s, 30/m, or 500 (per second)")
	fl.IntVar(&f.users, "users", 0, "closed model: so many users, each waiting for the answer before the next request")
	fl.DurationVar(&f.think, "think", 0, "the users' pause between an answer and the next request")
	fl.DurationVar(&f.duration, "duration", defaultLoadDuration, "how long requests fall due (default of a replay: all of it)")
	fl.Uint64Var(&f.requests, "requests", 0, "end after so many requests")
	fl.IntVar(&f.connections, "connections", 0, "most connections open at once (default 1024, or users if that is more)")
	fl.BoolVar(&f.noKeepAlive, "disable-keepalive", false, "a new connection for each request")
	fl.IntVar(&f.perConn, "connection-requests", 0, "close a connection behind the answer to so many requests (default: keep it)")
	fl.DurationVar(&f.lifetime, "connection-lifetime", 0, "close a connection behind the first answer that comes at this age (default: keep it)")
	fl.DurationVar(&f.idle, "connection-idle", 0, "close a connection after so long without a request (default 30s with --rate; users keep theirs)")
	fl.BoolVar(&f.http2, "http2", false, "HTTP/2: by prior knowledge for http://, agreed on by TLS for https://")
	fl.BoolVar(&f.http3, "http3", false, "HTTP/3, over QUIC, for https:// (in a binary that was built with -tags http3)")
	fl.IntVar(&f.streams, "streams", 0, "HTTP/2, HTTP/3 and gRPC: most requests under way on one connection (default 1)")
	fl.StringVar(&f.descriptors, "descriptors", "", "gRPC: a file that says what the services are, as protoc and buf make it (default: the server is asked)")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "of a request, since it was due")
	fl.StringVarP(&f.method, "method", "X", "", "method (default GET, or POST with a body)")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "header, 'Name: value'; may be repeated")
	fl.StringVar(&f.body, "body", "", "body of each request, a template; @FILE reads it from a file")
	fl.StringVar(&f.command, "command", "", "redis: the command, a template, like 'GET key-{{int 1 100}}'")
	fl.StringVar(&f.query, "query", "", "postgres: the query, a template")
	fl.StringArrayVar(&f.args, "arg", nil, "postgres: a parameter of the query ($1, then $2), a template; may be repeated")
	fl.StringVar(&f.until, "until", "", `tcp: what an answer ends with, like '\n'`)
	fl.IntVar(&f.untilBytes, "until-bytes", 0, "tcp: how many bytes an answer has")
	fl.BoolVar(&f.untilClose, "until-close", false, "tcp: an answer ends when the server closes the connection")
	fl.BoolVar(&f.binary, "binary", false, "ws: messages are binary")
	fl.StringArrayVar(&f.secrets, "secret", nil, "NAME=VARIABLE: {{.secret.NAME}} is what that variable of the environment holds; may be repeated")
	fl.StringVar(&f.ok, "ok", "", "which answers are good, like 2xx,404 (default 200-399)")
	fl.BoolVarP(&f.tls.insecure, "insecure", "k", false, "https: accept any certificate")
	fl.StringVar(&f.tls.authorities, "cacert", "", "https: trust the certificates in this file (PEM) instead of the system's")
	fl.StringVar(&f.tls.certificate, "cert", "", "https: the client's own certificate (PEM)")
	fl.StringVar(&f.tls.key, "key", "", "https: its key (PEM; default: in the file of --cert)")
	fl.StringVar(&f.tls.server, "server-name", "", "https: whose certificate it is to be, and the name asked for (default: the URL's host)")
	fl.BoolVar(&f.tls.withoutResumption, "no-resumption", false, "https: a whole handshake for every connection, instead of resuming sessions")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of every random choice")
	fl.StringVar(&f.arrivals, "arrivals", "even", "even, or poisson: gaps between requests as they are when users know nothing of one another")
	fl.StringVar(&f.engine, "engine", "auto", "how requests get onto the wire: fast (HTTP and gRPC on Linux), general, or auto: fast where it can be")
	fl.DurationVar(&f.warmup, "warmup", 0, "load before the duration that is in no number (with --find-max: before each step; default 1s there)")
	fl.StringArrayVar(&f.objectives, "objective", nil, "what must hold, like 'p99 < 50ms' or 'ok >= 99%', or, of a step with a name, 'pay p99 < 50ms'; may be repeated")
	fl.StringVar(&f.confidence, "confidence", "95%", "of each bound, one-sided")
	fl.StringVar(&f.findMax, "find-max", "", "search the highest rate at which this objective holds; starts at --rate")
	fl.StringVar(&f.maxRate, "max-rate", "100000/s", "where --find-max ends")
	fl.DurationVar(&f.stepDuration, "step-duration", defaultStep, "of a step of --find-max, at least; longer where the objective needs more requests")
	fl.StringVar(&f.output, "output", "text", "what stdout gets: text or json")
	fl.StringVar(&f.samples, "samples", "", "write every request to this file, in vegeta's encoding")
	fl.StringVar(&f.hdr, "hdr", "", "write the latencies to this file: FILE.hlog as an HdrHistogram log of seconds, else as a percentile distribution in ms")
	fl.StringVar(&f.csv, "csv", "", "write one line per second to this file")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no progress on stderr")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("arrivals", cobra.FixedCompletions([]string{"even", "poisson"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// loadConflicts are flags that contradict each other, and why.
var loadConflicts = []struct{ one, other, why string }{
	{"rate", "users", "--rate is the open model (requests due whatever the answers), --users the closed one"},
	{"arrivals", "users", "users ask when they have their answer; --arrivals spaces the requests of a --rate"},
	{"disable-keepalive", "connection-requests", "without keep-alive a connection has one request"},
	{"disable-keepalive", "connection-lifetime", "without keep-alive a connection has one request"},
	{"disable-keepalive", "connection-idle", "without keep-alive a connection has one request"},
	{"disable-keepalive", "streams", "without keep-alive a connection has one request"},
	{"requests", "warmup", "--requests counts from the first request"},
	{"find-max", "users", "it changes the rate of an open load"},
	{"find-max", "objective", "it has an objective of its own"},
	{"find-max", "requests", "its steps are as long as their bounds need"},
	{"find-max", "duration", "its steps are as long as their bounds need, and at least --step-duration"},
	{"find-max", "samples", "it sends many loads; repeat the one of interest with --rate"},
	{"find-max", "hdr", "it sends many loads; repeat the one of interest with --rate"},
	{"find-max", "csv", "it sends many loads; repeat the one of interest with --rate"},
}

func checkConflicts(changed func(string) bool) error {
	for _, c := range loadConflicts {
		if changed(c.one) && changed(c.other) {
			return usage(fmt.Errorf("--%s and --%s are given: %s", c.one, c.other, c.why), "leave one of them out")
		}
	}
	for _, of := range []string{"max-rate", "step-duration"} {
		if changed(of) && !changed("find-max") {
			return usage(fmt.Errorf("--%s is for --find-max", of), "")
		}
	}
	return nil
}

// loadPlan is a load with every choice made.
type loadPlan struct {
	spec       loadgen.Spec
	target     loadTarget
	engine     loadgen.Engine
	seed       uint64
	warmup     time.Duration
	duration   time.Duration       // judged; after the warm-up
	requests   uint64              // 0: no limit
	objectives []verdict.Objective // of the load, or of a step of its sessions
	confidence float64
	perSecond  bool // the seconds are kept apart, for a file
	warnings   []string
}

func load(ctx context.Context, arg string, f loadFlags, changed func(string) bool, stdout, stderr io.Writer) (err error) {
	if f.output != "text" && f.output != "json" {
		return usage(fmt.Errorf("--output %q: allowed are text, json", f.output), "")
	}
	if err := checkConflicts(changed); err != nil {
		return err
	}
	plan, err := planLoad(ctx, arg, f, changed)
	if err != nil {
		return err
	}
	var search *capacity
	if f.findMax != "" {
		if search, err = planSearch(plan, f, changed); err != nil {
			return err
		}
	}
	if err := plan.checkLimits(changed("connections") || plan.spec.Connections != nil); err != nil {
		return err
	}
	ctx, closeAudit, err := underLever(ctx, audit.Entry{Command: "load", Target: withoutPassword(arg)}, stderr)
	if err != nil {
		return err
	}
	defer func() { closeAudit("", err) }()
	if plan.target.address, err = reachable(ctx, plan.target); err != nil {
		return err
	}
	sinks, err := openLoadSinks(f, plan)
	if err != nil {
		return err
	}

	process.Favour()
	halted := ctx
	ctx, release := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer release()
	// A second Ctrl-C must not wait for anything.
	defer context.AfterFunc(ctx, release)()
	if !f.quiet {
		fmt.Fprintln(stderr, plan.headline(search))
		for _, w := range plan.warnings {
			fmt.Fprintln(stderr, "warning:", w)
		}
	}
	if search != nil {
		return errors.Join(haltedBy(halted), findMax(ctx, plan, search, f, stdout, stderr))
	}

	live := newLoadLive(stderr, plan, f.quiet)
	o, err := plan.run(ctx, live.window, sinks.result())
	live.Close()
	if err != nil {
		return errors.Join(internal(err), sinks.Close(nil))
	}
	if err := sinks.Close(o); err != nil {
		return internal(err)
	}
	r := plan.result(o)
	if f.output == "json" {
		err = writeJSON(stdout, r)
	} else {
		width, color := terminal(stdout)
		err = loadText{w: stdout, width: width, color: color}.result(plan, o, r)
	}
	if err != nil {
		return internal(err)
	}
	if err := haltedBy(halted); err != nil {
		return err
	}
	if code := r.exitCode(); code != exitPass {
		return &exitError{code: code}
	}
	return nil
}

// withoutPassword is a URL, or a file's name, as it may be put down.
func withoutPassword(arg string) string {
	u, err := url.Parse(arg)
	if err != nil || u.User == nil {
		return arg
	}
	return u.Redacted()
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// planLoad makes a plan of the command line; all that can be wrong with it is
// found here, before anything is sent.
func planLoad(ctx context.Context, arg string, f loadFlags, changed func(string) bool) (*loadPlan, error) {
	p := &loadPlan{seed: f.seed, warmup: f.warmup, duration: f.duration, requests: f.requests,
		perSecond: f.csv != "" || f.hdr != ""}
	var err error
	if p.spec, p.target, err = readLoad(arg); err != nil {
		return nil, usage(err, "")
	}
	if err := p.applyFlags(f, changed); err != nil {
		return nil, usage(err, "")
	}
	if p.confidence, err = parseConfidence(f.confidence); err != nil {
		return nil, usage(err, "")
	}
	for _, text := range f.objectives {
		step, clause := p.stepOf(text)
		c, err := parseObjective("--objective", clause)
		if err != nil {
			return nil, usage(err, "")
		}
		p.objectives = append(p.objectives, verdict.Objective{Step: step, Clause: c})
	}
	if f.duration <= 0 {
		return nil, usage(fmt.Errorf("--duration %s: it must be above 0s", f.duration), "")
	}
	if p.warmup < 0 {
		return nil, usage(fmt.Errorf("--warmup %s: it must not be negative", p.warmup), "")
	}

	var problems []error
	p.spec.Check(func(path, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", flagOf(path), fmt.Sprintf(format, args...)))
	})
	if len(problems) > 0 {
		return nil, usage(errors.Join(problems...), "")
	}
	if err := p.spec.ReadSecrets(nil); err != nil {
		return nil, usage(err, "")
	}
	if !changed("duration") {
		p.duration = p.naturalLength()
	}
	if err := p.engine.UnmarshalText([]byte(f.engine)); err != nil {
		return nil, usage(fmt.Errorf("--engine: %w", err), "")
	}
	if err := p.target.secure(f.tls); err != nil {
		return nil, usage(err, "")
	}
	if p.target.tls != nil && (p.spec.Protocol == loadgen.H2 || p.spec.Protocol == loadgen.GRPC) {
		p.target.tls.NextProtos = []string{"h2"} // also of the first connection, which only tries
	}
	p.target.quic = p.spec.Protocol == loadgen.H3
	if _, _, err := p.config().Chosen(); err != nil {
		return nil, usage(err, "")
	}
	return p, p.target.lookup(ctx)
}

// naturalLength is how long a load takes where nobody says: a number of requests
// as long as they take, a trace to its end.
func (p *loadPlan) naturalLength() time.Duration {
	process, _ := p.spec.Arrivals(p.seed)
	trace, replayed := process.(arrival.Trace)
	switch {
	case p.requests > 0:
		return endless
	case replayed && trace.Len() > 0:
		last, _ := trace.Due(uint64(trace.Len() - 1))
		return last.Truncate(windowLength) + windowLength
	}
	return defaultLoadDuration
}

// applyFlags puts what the flags say over what the file says.
func (p *loadPlan) applyFlags(f loadFlags, changed func(string) bool) error {
	s := &p.spec
	fromFile := s.Paced()
	if changed("rate") || changed("users") || !fromFile {
		if fromFile {
			return errors.New("the file says how much load there is: leave out --rate and --users, or its rate")
		}
		if changed("users") {
			s.Users = &f.users
		} else {
			rate, err := parseRate("--rate", f.rate)
			if err != nil {
				return err
			}
			s.Rate = &rate
		}
	}
	if changed("think") {
		s.Think = f.think
	}
	if changed("timeout") || s.Timeout == nil {
		s.Timeout = &f.timeout
	}
	if changed("connections") {
		s.Connections = &f.connections
	}
	s.Connection = f.connection(s.Connection, changed)
	if f.http3 {
		if f.http2 {
			return errors.New("--http2 and --http3: a load speaks one of them")
		}
		if p.target.scheme != "https" {
			return fmt.Errorf("--http3: HTTP/3 always goes over TLS: write https://%s", p.target.authority)
		}
		if s.Protocol != loadgen.AutoProtocol && s.Protocol != loadgen.H3 {
			return fmt.Errorf("--http3: the load speaks %s already", s.Protocol)
		}
		s.Protocol = loadgen.H3
	}
	if f.http2 {
		want := loadgen.H2C
		if p.target.scheme == "https" {
			want = loadgen.H2
		}
		if s.Protocol != loadgen.AutoProtocol && s.Protocol != want {
			return fmt.Errorf("--http2: the load speaks %s already", s.Protocol)
		}
		s.Protocol = want
	}
	if changed("streams") {
		s.Streams = &f.streams
	}
	if f.descriptors != "" {
		raw, err := os.ReadFile(f.descriptors)
		if err == nil {
			err = s.ReadDescriptors(f.descriptors, raw)
		}
		if err != nil {
			return fmt.Errorf("--descriptors: %w", err)
		}
		s.Descriptors = f.descriptors
	}
	if changed("arrivals") {
		if err := s.Spacing.UnmarshalText([]byte(f.arrivals)); err != nil {
			return fmt.Errorf("--arrivals: %w", err)
		}
	}
	if f.ok != "" {
		s.OK = nil
		for _, text := range strings.Split(f.ok, ",") {
			var set loadgen.StatusSet
			if err := set.UnmarshalText([]byte(text)); err != nil {
				return fmt.Errorf("--ok: %w", err)
			}
			s.OK = append(s.OK, set)
		}
	}
	secrets, err := parseSecrets(f.secrets)
	if err != nil {
		return err
	}
	if len(secrets) > 0 {
		all := maps.Clone(s.Secrets)
		if all == nil {
			all = map[string]loadgen.Secret{}
		}
		maps.Copy(all, secrets)
		s.Secrets = all
	}
	if err := checkTalkFlags(s.Protocol, changed); err != nil {
		return err
	}
	body, err := readBody(f.body)
	if err != nil {
		return err
	}
	headers, err := parseHeaders(f.headers)
	if err != nil {
		return err
	}
	if scheme, _ := schemeOf(p.target.scheme); scheme.talks() {
		return p.applyTalk(f, body, headers)
	}
	if s.Requests == nil && s.Request == nil { // a trace that brings its own
		if f.method != "" {
			return errors.New("--method: each request of the file has its own")
		}
		s.Body, s.Headers = cmp.Or(body, s.Body), merged(s.Headers, headers)
		return nil
	}
	edit := func(r *loadgen.Request, given bool) {
		switch {
		case f.method != "" && !given:
			r.Method = f.method
		case r.Method == "" && body != "":
			r.Method = "POST"
		case r.Method == "" && s.Protocol != loadgen.GRPC:
			r.Method = "GET"
		}
		if body != "" && r.Body == "" {
			r.Body = body
		}
		r.Headers = merged(r.Headers, headers)
	}
	switch {
	case s.Request != nil:
		edit(s.Request, false)
	case f.method != "":
		return errors.New("--method: each request of the file has its own")
	default:
		for i := range s.Requests {
			edit(&s.Requests[i], true)
		}
	}
	return nil
}

// connection is what the flags say of how long connections are kept, over what the
// file does.
func (f loadFlags) connection(file *loadgen.Connection, changed func(string) bool) *loadgen.Connection {
	c := loadgen.Connection{}
	if file != nil {
		c = *file
	}
	if changed("connection-idle") {
		c.Idle = f.idle
	}
	if changed("connection-lifetime") {
		c.Lifetime = f.lifetime
	}
	if changed("connection-requests") {
		c.Requests = f.perConn
	}
	if f.noKeepAlive {
		c.Requests = 1
	}
	if c == (loadgen.Connection{}) {
		return file
	}
	return &c
}

// merged is over put upon base; names are compared as HTTP does.
func merged(base, over map[string]string) map[string]string {
	all := map[string]string{}
	for name, v := range base {
		all[name] = v
	}
	for name, v := range over {
		for other := range all {
			if strings.EqualFold(other, name) {
				delete(all, other)
			}
		}
		all[name] = v
	}
	return all
}

// flagOf is what a user calls the place that loadgen.Spec.Check names.
func flagOf(path string) string {
	first, _, _ := strings.Cut(path, ".")
	switch {
	case slices.Contains([]string{"rate", "users", "think", "timeout", "connections", "streams", "descriptors"}, path):
		return "--" + path
	case path == "connection":
		return "--disable-keepalive, --connection-*"
	case first == "connection":
		return "--" + strings.ReplaceAll(path, ".", "-")
	case path == "arrivals":
		return "--arrivals"
	case first == "request" && strings.Contains(path, ".headers."):
		return "--header"
	case path == "request.method":
		return "--method"
	case path == "request.path":
		return "the URL"
	case path == "request.body":
		return "--body"
	case strings.HasPrefix(path, "request.command"):
		return "--command"
	case strings.HasPrefix(path, "request.query"):
		return "--query"
	case strings.HasPrefix(path, "request.args"):
		return "--arg"
	case first == "reply":
		return "--until"
	case first == "login":
		return "the URL"
	case first == "secrets":
		return "--secret"
	case path == "":
		return "the load"
	}
	return path
}

func parseRate(flag, text string) (arrival.Rate, error) {
	if _, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
		text += "/s"
	}
	var r arrival.Rate
	if err := r.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("%s: %w", flag, err)
	}
	return r, nil
}

// stepOf takes the name of a step off an objective: "pay p99 < 50ms" speaks of the
// step "pay".
func (p *loadPlan) stepOf(objective string) (step, clause string) {
	for _, name := range p.spec.NamedSteps() {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(objective), name+" "); ok && len(name) > len(step) {
			step, clause = name, rest
		}
	}
	return step, cmp.Or(clause, objective)
}

func parseObjective(flag, text string) (expect.Clause, error) {
	c, err := expect.Parse(text)
	switch {
	case err != nil:
		return c, fmt.Errorf("%s %q: %w", flag, text, err)
	case c.Metric != expect.OK && c.Metric != expect.Percentile:
		return c, fmt.Errorf("%s %q: allowed are ok and percentiles, like 'ok >= 99%%' or 'p99 < 50ms'", flag, text)
	case c.For != 0:
		return c, fmt.Errorf("%s %q: an objective speaks of the whole load; leave out \"for\"", flag, text)
	}
	return c, nil
}

func parseConfidence(text string) (float64, error) {
	digits, _ := strings.CutSuffix(strings.TrimSpace(text), "%")
	x, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(x > 50 && x < 100) {
		return 0, fmt.Errorf("--confidence %q: it must be above 50%% and below 100%%, like 95%%", text)
	}
	return x / 100, nil
}

func parseHeaders(lines []string) (map[string]string, error) {
	headers := map[string]string{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return nil, fmt.Errorf("--header %q: write 'Name: value'", line)
		}
		if _, twice := headers[name]; twice {
			return nil, fmt.Errorf("--header %q: %s is given twice; join the values with a comma", line, name)
		}
		headers[name] = strings.TrimSpace(value)
	}
	return headers, nil
}

func readBody(text string) (string, error) {
	name, isFile := strings.CutPrefix(text, "@")
	if !isFile {
		return text, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("--body: %w", err)
	}
	return string(b), nil
}

// headline is the first line: what goes where.
func (p *loadPlan) headline(search *capacity) string {
	what := p.spec.Describe()
	if search != nil {
		what = fmt.Sprintf("searching the highest rate with %s, from %s to at most %s", search.clause, search.start, search.most)
	}
	long := ""
	switch {
	case search != nil:
	case p.requests > 0 && p.duration == endless:
		long = fmt.Sprintf(", %d requests", p.requests)
	case p.requests > 0:
		long = fmt.Sprintf(", %d requests or %s", p.requests, p.duration)
	default:
		long = fmt.Sprintf(", for %s", p.duration)
	}
	if p.warmup > 0 && search == nil {
		long += fmt.Sprintf(" after %s of warm-up", p.warmup)
	}
	return fmt.Sprintf("load on %s (%s): %s%s; seed %d", p.target.url(), p.target.address, what, long, p.seed)
}

// config is the load for loadgen.
func (p *loadPlan) config() loadgen.Config {
	return loadgen.Config{
		Spec: p.spec, Seed: p.seed, Until: p.warmup + p.duration, Requests: p.requests, Engine: p.engine, TLS: p.target.tls,
		Resolve: func() string { return p.target.address },
	}
}

// run sends the load and returns what was seen; ctx ends it early, which is no
// error.
func (p *loadPlan) run(ctx context.Context, onWindow func(loadgen.Window), onResult func(loadgen.Result)) (*loadOutcome, error) {
	o := newLoadOutcome(p)
	config := p.config()
	loadgen.Reserve(config.Spec)
	config.Start, config.OnSample, config.OnResult = time.Now(), o.sample, onResult
	config.OnWindow = func(w loadgen.Window) {
		o.add(w)
		if onWindow != nil {
			onWindow(w)
		}
	}
	own := watchGenerator()
	err := loadgen.Run(ctx, config)
	o.took = time.Since(config.Start)
	o.generator = own()
	if ctx.Err() != nil {
		o.status, err = "interrupted", nil
	}
	return o, err
}

// judge is the verdict on what was seen, by the same rules as a run's.
func (p *loadPlan) judge(o *loadOutcome, objectives []verdict.Objective) verdict.Result {
	const phase = "load"
	h := verdict.Hypotheses{
		Confidence: p.confidence,
		Loads:      []verdict.Load{{Name: p.spec.Name, Model: p.spec.Model(), To: p.spec.To, Timeout: p.spec.TimeoutOrDefault(), Steps: p.spec.NamedSteps()}},
	}
	if p.warmup > 0 {
		h.Phases = append(h.Phases, verdict.Phase{Name: "warmup", End: p.warmup})
	}
	h.Phases = append(h.Phases, verdict.Phase{Name: phase, Start: p.warmup, End: p.warmup + o.length(p)})
	for _, objective := range objectives {
		objective.Load, objective.Phase = p.spec.Name, phase
		h.Objectives = append(h.Objectives, objective)
	}
	r := verdict.Judge(h, o.events(p))
	for i, text := range r.Reasons {
		text = strings.TrimPrefix(text, p.spec.Name+", "+phase+": ")
		for _, step := range p.spec.NamedSteps() {
			text = strings.Replace(text, p.spec.Name+"."+step+", "+phase+": ", step+": ", 1)
		}
		r.Reasons[i] = text
	}
	return r
}
