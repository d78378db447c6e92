package loadgen

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"time"
)

// follow carries a job out, and where it begins a session also the steps after
// it, over the same connection:
//
//	arrival ─> step 1 ─> think ─> step 2 ─> … ─> step n     completed
//	              └─ fails ────────> ends here              failed
//	                     └─ run over ─> no more is due      cut
//
// The first step is due when the session is, a later one when the one before it is
// done and its think time over. Each is a request with its own window, its own
// timeout and its own fate. Nothing falls due once the run is over.
func follow(ctx context.Context, c Config, s *stream, cl client, rec *recorder, j job, now, deadline time.Duration) outcome {
	if s.identities != nil {
		due := j.due
		if !s.ready(ctx, c, cl, rec, &j) {
			return unready
		}
		deadline += j.due - due
		if j.due > due {
			now = max(time.Since(c.Start), j.due)
		}
	}
	r := send(c, cl, rec, j, now, deadline)
	if !s.session {
		return r.outcome
	}
	end := ended{due: j.due, how: completed}
	for j.step = 1; ; j.step++ {
		done := r.done.Sub(c.Start)
		end.took = done - end.due
		switch {
		case r.outcome == canceled:
			end.how = cutOff
		case !s.good(r):
			end.how = failed
		}
		if end.how != completed || j.step == s.steps {
			break
		}
		k := &s.kinds[j.step]
		j.due, j.queued = done+k.think, false
		if j.due >= c.Until || !s.alarms.until(ctx, c.Start.Add(j.due)) {
			end.how = cutOff
			break
		}
		rec.note(j.due, j.step, count{due: 1})
		r = send(c, cl, rec, j, time.Since(c.Start), j.due+s.timeouts[k.timeout])
	}
	rec.end(end)
	return r.outcome
}

// ended is a session whose fate is known.
type ended struct {
	due, took time.Duration
	how       ending
}

type ending uint8

const (
	completed ending = iota
	failed
	cutOff // by the end of the run: neither completed nor failed
)

// good tells whether a request was answered as it should be.
func (s *stream) good(r result) bool {
	return r.outcome >= 100 && (r.wanted || s.wanted[r.outcome])
}

// scope makes the stream's sources, and what templates of its first request can
// refer to.
func (s *stream) scope(spec Spec) *scope {
	in := newScope()
	in.secrets = spec.secretValues()
	for _, name := range slices.Sorted(maps.Keys(spec.Data)) {
		d := spec.Data[name]
		if d.table == nil {
			in.sources[name] = nil
			continue
		}
		h := fnv.New64a()
		h.Write([]byte(name))
		src := &source{name: name, order: d.Order, table: d.table, salt: h.Sum64()}
		in.sources[name] = src
		s.sources = append(s.sources, src)
	}
	return in
}

// check is a Check and the text that it compares with.
type check struct {
	Check
	template *tmpl
	fixed    string // what the template renders to, if that is always the same
	varies   bool
}

func newCheck(c Check, t *tmpl) check {
	all := check{Check: c, template: t, varies: !t.static()}
	if !all.varies {
		text, _ := t.append(nil, new(draw)) // text alone does not fail
		all.fixed = string(text)
	}
	return all
}

// capture is a Capture and where its value goes.
type capture struct {
	Capture
	name string
	slot int
}

// capture adds what a step captures, also to the scope of the steps after it.
func (k *kind) capture(captures map[string]Capture, in *scope) {
	for _, name := range slices.Sorted(maps.Keys(captures)) {
		slot, again := in.slots[name]
		if !again {
			slot = len(in.slots)
			in.slots[name] = slot
		}
		k.captures = append(k.captures, capture{captures[name], name, slot})
		k.keepBody = k.keepBody || captures[name].ofBody()
	}
}

// authorization is an Auth, compiled.
type authorization struct {
	user, password *tmpl // basic
	bearer         *tmpl
}

func compileAuth(a Auth, at string, template func(path, what, text string) *tmpl, report func(path, format string, args ...any)) *authorization {
	switch {
	case a.Basic != nil && a.Bearer != "":
		report(at, "basic and bearer are given; a request has one of them")
	case a.Basic != nil:
		if strings.Contains(a.Basic.User, ":") && !strings.Contains(a.Basic.User, "{{") {
			report(at+".basic.user", "the user of basic authentication has no colon (RFC 7617)")
		}
		return &authorization{user: template(at+".basic.user", "user", a.Basic.User), password: template(at+".basic.password", "password", a.Basic.Password)}
	case a.Bearer != "":
		return &authorization{bearer: template(at+".bearer", "bearer", a.Bearer)}
	default:
		report(at, "write basic: { user: …, password: … } or bearer: TOKEN")
	}
	return &authorization{bearer: new(tmpl)}
}

func (a *authorization) values() bool { return a.bearer != nil && a.bearer.values }

func (a *authorization) append(dst, scratch []byte, d *draw) (header, usedScratch []byte, err error) {
	dst = append(dst, "Authorization: "...)
	if a.bearer != nil {
		dst = append(dst, "Bearer "...)
		at := len(dst)
		if dst, err = a.bearer.append(dst, d); err != nil {
			return dst, scratch, fmt.Errorf("rendering the bearer token: %w", err)
		}
		if slices.ContainsFunc(dst[at:], func(c byte) bool { return isControl(rune(c)) }) {
			return dst, scratch, fmt.Errorf("the bearer token %s", hasControl)
		}
		return append(dst, "\r\n"...), scratch, nil
	}
	if scratch, err = a.user.append(scratch[:0], d); err == nil {
		scratch, err = a.password.append(append(scratch, ':'), d)
	}
	if err != nil {
		return dst, scratch, fmt.Errorf("rendering user and password: %w", err)
	}
	return append(base64.StdEncoding.AppendEncode(append(dst, "Basic "...), scratch), "\r\n"...), scratch, nil
}

// trip is what a client keeps from request to request of a session, or of a
// request and the redirects that follow from it. One goroutine uses it.
type trip struct {
	stream *stream
	start  time.Time // of the run
	scheme string    // http or https

	job      job
	kind     *kind
	captured []string
	jar      *cookiejar.Jar // nil until the session has a cookie
	set      []*http.Cookie // by the answers to this step
	hop      *hop           // where a redirect has led

	// Of the request on its way, or the last one.
	address string // it went to
	host    string // what it said: the address, unless a Host header says otherwise
	call    string // "POST /checkout"
	path    string // of that
	reply   reply

	content, span, ofCheck draw // memory: what draws, what is drawn into
	scratch                []byte
}

// hop is a request made of a redirect.
type hop struct {
	method, path string
	bare         bool // without body
}

var (
	errChecked  = errors.New("check")
	errCaptured = errors.New("capture")
	errRedirect = errors.New("redirect")
)

// begin prepares the trip for a job: the first step of a session forgets the one before.
func (t *trip) begin(j job) error {
	t.job, t.kind, t.hop, t.path, t.call = j, t.stream.kind(j.seq), nil, "", ""
	t.set = t.set[:0]
	if t.stream.session {
		t.kind = &t.stream.kinds[j.step]
	}
	switch s := t.stream; {
	case s.identities != nil:
		who := &s.identities[j.owner]
		if j.step == s.steps { // the user's first request, or another try
			clear(who.captured)
			who.jar = nil
		}
		if j.step == 0 {
			clear(who.captured[s.lasting:])
		}
		t.jar, t.captured = who.jar, who.captured
	case j.step == 0:
		t.jar = nil
		if t.captured == nil {
			t.captured = make([]string, t.stream.slots)
		}
		clear(t.captured)
	}
	for _, src := range t.stream.sources {
		if err := src.left(j.owner); err != nil {
			return err
		}
	}
	return nil
}

// draw is the randomness of the job, for one purpose, and what its templates refer to.
func (t *trip) draw(p purpose) draw {
	d := drawOf(t.stream.seed, t.job.seq, p.ofStep(t.job.step))
	d.owner, d.due, d.captured = t.job.owner, t.start.Add(t.job.due).UnixNano(), t.captured
	return d
}

// append renders the request that is next: the job's, or where a redirect leads.
func (t *trip) append(dst, body []byte, address string) (request, usedBody []byte, err error) {
	k := t.kind
	t.content, t.span = t.draw(forContent), t.draw(forTrace)
	// The path first, because cookies depend on it. After a redirect, too, so that
	// what comes behind it draws the same again.
	if t.scratch, err = k.path.append(t.scratch[:0], &t.content); err != nil {
		return dst, body, fmt.Errorf("rendering the path: %w", err)
	}
	t.address, t.host = address, address
	if k.host {
		if err := t.readHost(); err != nil {
			return dst, body, err
		}
	}
	method, path, bare, call := k.method, t.scratch, false, k.call
	if t.hop != nil {
		method, path, bare, call = t.hop.method, []byte(t.hop.path), t.hop.bare, ""
	}
	// A Location that was captured may be a whole URL.
	if len(path) > 0 && path[0] != '/' {
		if rest, ok := strings.CutPrefix(string(path), t.scheme+"://"+t.host); ok && (rest == "" || rest[0] == '/') {
			path = []byte(cmp.Or(rest, "/"))
		}
	}
	at := len(dst)
	dst = append(append(append(dst, method...), ' '), path...)
	if call == "" {
		call = string(dst[at:])
	}
	t.call, t.path = call, call[len(method)+1:]
	if k.values {
		if problem := quickPath(path); problem != "" {
			return dst, body, fmt.Errorf("the path %q %s", path, problem)
		}
	}
	return k.appendRest(dst, body, address, t.cookies(), bare, &t.content, &t.span)
}

// readHost finds what the request says that its host is, from a Host header.
func (t *trip) readHost() error {
	for _, h := range t.kind.headers {
		if strings.EqualFold(h.name, "Host") {
			ahead := t.content
			name, err := h.value.append(nil, &ahead)
			if err != nil {
				return fmt.Errorf("rendering header %q: %w", h.name, err)
			}
			t.host = string(name)
		}
	}
	return nil
}

// method of the request on its way, or the last one.
func (t *trip) method() string {
	if t.hop != nil {
		return t.hop.method
	}
	return t.kind.method
}

// url is where the request went.
func (t *trip) url() *url.URL {
	u := &url.URL{Scheme: t.scheme, Host: t.host}
	if p, err := url.ParseRequestURI(t.path); err == nil {
		u.Path, u.RawPath, u.RawQuery = p.Path, p.RawPath, p.RawQuery
	}
	return u
}

// cookies is the value of the Cookie header.
func (t *trip) cookies() string {
	if t.jar == nil {
		return ""
	}
	var all []string
	for _, c := range t.jar.Cookies(t.url()) {
		all = append(all, (&http.Cookie{Name: c.Name, Value: c.Value, Quoted: c.Quoted}).String())
	}
	return strings.Join(all, "; ")
}

// learn takes the cookies of an answer; only sessions have any.
func (t *trip) learn() {
	if !t.stream.session {
		return
	}
	set := t.reply.cookies()
	if len(set) == 0 {
		return
	}
	if t.jar == nil {
		t.jar, _ = cookiejar.New(nil) // it has no error to return
		if t.stream.identities != nil {
			t.stream.identities[t.job.owner].jar = t.jar
		}
	}
	t.jar.SetCookies(t.url(), set)
	t.set = append(t.set, set...)
}

// cookie is the value of a cookie that the step has set, or else of one that the
// session would send to where it is.
func (t *trip) cookie(name string) (string, bool) {
	for _, c := range slices.Backward(t.set) {
		if c.Name == name {
			return c.Value, c.MaxAge >= 0
		}
	}
	if t.jar != nil {
		for _, c := range t.jar.Cookies(t.url()) {
			if c.Name == name {
				return c.Value, true
			}
		}
	}
	return "", false
}

// redirected tells whether the answer leads on, to the same host, and where: what
// browsers and net/http do with 301, 302, 303 (a GET from then on, unless it was a
// HEAD), 307 and 308 (the same request again).
func (t *trip) redirected(status int) (bool, error) {
	if t.kind.redirects == 0 {
		return false, nil
	}
	switch status {
	case 301, 302, 303, 307, 308:
	default:
		return false, nil
	}
	target, ok := t.reply.header("Location")
	if !ok {
		return false, fmt.Errorf("%w: status %d without Location", errRedirect, status)
	}
	to, err := t.url().Parse(target)
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: Location %q cannot be parsed", errRedirect, target)
	case to.Scheme != t.scheme || !strings.EqualFold(to.Host, t.host) && to.Host != t.address:
		return false, fmt.Errorf("%w: to %q, and only %s is asked", errRedirect, target, t.host)
	}
	next := &hop{method: t.method(), path: to.RequestURI(), bare: t.hop != nil && t.hop.bare}
	if problem := checkPath(next.path); problem != "" {
		return false, fmt.Errorf("%w: Location %q %s", errRedirect, target, problem)
	}
	if status <= 303 && next.method != "HEAD" {
		next.method, next.bare = "GET", true
	}
	t.hop = next
	return true, nil
}

// judge checks an answer and captures from it. A status that is wrong anyway is
// told as it is, and nothing else is looked at then.
func (t *trip) judge(r *result) error {
	status := int(r.outcome)
	ok := t.stream.wanted[status]
	if !ok && !t.kind.status {
		return nil
	}
	return t.examine(r, status)
}

// examine looks at an answer: its checks, and what is captured from it.
func (t *trip) examine(r *result, status int) error {
	ok := status == 0 || t.stream.wanted[status]
	t.ofCheck = t.draw(forCheck)
	for i := range t.kind.checks {
		c := &t.kind.checks[i]
		want := c.fixed
		if c.varies {
			text, err := c.template.append(t.scratch[:0], &t.ofCheck)
			if err != nil {
				return fmt.Errorf("%w %s: %w", errChecked, c, err)
			}
			t.scratch, want = text, string(text)
		}
		instead := c.holds(&t.reply, status, r.done.Sub(t.start)-t.job.due, want)
		if instead == "" {
			continue
		}
		err := fmt.Errorf("%w %s: it is %s", errChecked, c, instead)
		if c.template.values {
			err = fmt.Errorf("%w %s (%q): it is %s", errChecked, c, want, instead)
		}
		if c.subject == "status" && !ok {
			r.detail = err.Error()
			return nil
		}
		return err
	}
	r.wanted = t.kind.status
	for _, c := range t.kind.captures {
		v, err := c.from(&t.reply, t.cookie)
		if err != nil {
			return fmt.Errorf("%w %s: %w", errCaptured, c.name, err)
		}
		t.captured[c.slot] = v
	}
	return nil
}

// visit carries a job out by what sends one request on a client's connection: the request, redirects, and
// what is looked at in the answer. All of that is one request in the results.
func (t *trip) visit(j job, deadline time.Time, once func(seq uint64, deadline time.Time) result) result {
	if err := t.begin(j); err != nil {
		return result{outcome: classify(err, false), detail: err.Error(), done: time.Now(), request: t.kind.method + " ?"}
	}
	var all result
	for hops := 0; ; hops++ {
		r := once(j.seq, deadline)
		r.sent, r.received, r.read = r.sent+all.sent, r.received+all.received, r.read+all.read
		r.waited += all.waited
		r.made = append(all.made, r.made...)
		if r.request = t.call; r.request == "" { // it got no connection
			r.request = t.method() + " "
		}
		all = r
		if r.outcome < 100 {
			return all
		}
		t.learn()
		on, err := t.redirected(int(r.outcome))
		switch {
		case on && hops == t.kind.redirects:
			err = fmt.Errorf("%w: one more after %d", errRedirect, hops)
		case on:
			continue
		case err == nil:
			err = t.judge(&all)
		}
		if err != nil {
			all.status, all.outcome, all.detail, all.wanted = int(r.outcome), classify(err, false), err.Error(), false
		}
		return all
	}
}
