package draft

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/loadgen"
)

// archive is what of a HAR 1.2 file matters here.
type archive struct {
	Log *struct {
		Creator struct{ Name, Version string }
		Pages   []struct{ ID, Title string }
		Entries []entry
	}
}

type entry struct {
	StartedDateTime time.Time
	Time            float64 // ms
	Pageref         string
	Request         struct {
		Method   string
		URL      string
		Headers  []pair
		PostData *struct {
			MimeType string
			Text     string
			Params   []pair
		}
	}
	Response struct {
		Status  int
		Content struct {
			MimeType string
			Text     string
			Encoding string
		}
	}

	url *url.URL
}

type pair struct{ Name, Value string }

const mostSteps = 100 // of a session

// FromHAR makes a session of what a browser recorded: the requests to one host, in
// their order, with the pauses between them. Values that came in a JSON answer and
// stand in a later path or body are captured. What was secret in the recording
// stays there.
func FromHAR(name string, src []byte, o Options) (Draft, error) {
	var a archive
	if err := json.Unmarshal(bytes.TrimPrefix(src, []byte("\ufeff")), &a); err != nil {
		return Draft{}, fmt.Errorf("%s is no HAR file: %w", name, err)
	}
	if a.Log == nil {
		return Draft{}, fmt.Errorf("%s is no HAR file: it has no log", name)
	}
	f := &flow{options: o, pages: map[string]string{}, captured: map[string]bool{}}
	for _, p := range a.Log.Pages {
		f.pages[p.ID] = p.Title
	}
	entries := a.Log.Entries
	slices.SortStableFunc(entries, func(x, y entry) int { return x.StartedDateTime.Compare(y.StartedDateTime) })
	for i := range entries {
		e := &entries[i]
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			f.count(strings.ToLower(clipped(e.Request.URL)), "is no http URL")
			continue
		}
		e.url = u
	}
	if err := f.chooseHost(entries); err != nil {
		return Draft{}, fmt.Errorf("%s: %w", name, err)
	}
	f.take(entries)
	if len(f.steps) == 0 {
		return Draft{}, fmt.Errorf("%s: nothing that was asked of %s can be a step: %s", name, f.host, strings.Join(f.leftOut(), "; "))
	}
	f.capture()
	out := stream{
		head: []string{
			fmt.Sprintf("A session as %s recorded it (%s %s), made from %s.", f.host, a.Log.Creator.Name, a.Log.Creator.Version, name),
			"Each step goes when the one before is answered and its think time over; cookies that the server sets are kept.",
			"Change what must differ from user to user ({{uuid}}, {{email}}, a data file), then: chaosctl validate, plan, run.",
		},
		scenario: nameOf(f.host, "-", "recording"), address: o.address(), name: "journeys", rate: "1/s", steps: true,
		service:  []string{fmt.Sprintf("It was recorded at %s. Where does an instance of your own listen?", f.origin)},
		comments: []string{"so many sessions begin"}, secrets: f.secrets, left: f.leftOut(),
	}
	for _, s := range f.steps {
		out.requests = append(out.requests, s.request)
	}
	return out.draft(), nil
}

// flow is a recording on its way to a session.
type flow struct {
	options  Options
	pages    map[string]string
	host     string
	origin   string // scheme and host
	steps    []step
	secrets  [][2]string
	captured map[string]bool // names

	left  []string       // what is left out, in order
	times map[string]int // and how often
}

// step is one request, and what came of it.
type step struct {
	request
	answer any // its JSON, if it is some
}

// count notes what is left out, once, with its number.
func (f *flow) count(what, why string) {
	if f.times == nil {
		f.times = map[string]int{}
	}
	key := what + ": " + why
	if f.times[key]++; f.times[key] == 1 {
		f.left = append(f.left, key)
	}
}

func (f *flow) leftOut() []string {
	var all []string
	for _, key := range f.left {
		if n := f.times[key]; n > 1 {
			key += fmt.Sprintf(" (%d times)", n)
		}
		all = append(all, key)
	}
	return all
}

// chooseHost is the one with the most requests, or the one that was asked for.
func (f *flow) chooseHost(entries []entry) error {
	requests := map[string]int{}
	var hosts []string
	for _, e := range entries {
		if e.url == nil {
			continue
		}
		if requests[e.url.Host]++; requests[e.url.Host] == 1 {
			hosts = append(hosts, e.url.Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return errors.New("there is no request in it")
	case f.options.Host != "" && requests[f.options.Host] == 0:
		return fmt.Errorf("there is no request to %q in it (there are: %s)", f.options.Host, strings.Join(hosts, ", "))
	case f.options.Host != "":
		f.host = f.options.Host
	default:
		f.host = hosts[0]
		for _, h := range hosts {
			if requests[h] > requests[f.host] {
				f.host = h
			}
		}
	}
	for _, e := range entries {
		if e.url != nil && e.url.Host == f.host {
			f.origin = e.url.Scheme + "://" + e.url.Host
			break
		}
	}
	return nil
}

// static are the names of what pages are decorated with.
var static = []string{".js", ".mjs", ".css", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".ico", ".webp", ".avif", ".woff", ".woff2", ".ttf", ".map"}

func (e entry) static() bool {
	kind, _, _ := strings.Cut(strings.ToLower(e.Response.Content.MimeType), ";")
	return slices.Contains(static, strings.ToLower(path.Ext(e.url.Path))) || kind == "text/css" || strings.HasSuffix(kind, "javascript") ||
		strings.HasPrefix(kind, "image/") || strings.HasPrefix(kind, "font/") || strings.HasPrefix(kind, "audio/") || strings.HasPrefix(kind, "video/")
}

var method = regexp.MustCompile(`^[A-Z]+$`)

// take makes steps of the entries.
func (f *flow) take(entries []entry) {
	var done time.Time // of what came before
	page := ""
	for _, e := range entries {
		if e.url == nil {
			continue
		}
		begun := e.StartedDateTime
		ended := begun.Add(time.Duration(e.Time * float64(time.Millisecond)))
		switch {
		case e.url.Host != f.host:
			f.count("requests to "+e.url.Host, "one load goes to one host; --host chooses another")
			continue
		case e.static() && !f.options.IncludeStatic:
			f.count("images, styles, scripts and fonts", "--include-static takes them in")
			continue
		case !method.MatchString(e.Request.Method) || e.Request.Method == "CONNECT":
			f.count(clipped(e.Request.Method)+" "+clipped(e.url.Path), "no method of a request")
			continue
		case e.Response.Status == 101:
			f.count("the WebSocket "+clipped(e.url.Path), "it is a stream of its own: protocol: websocket")
			continue
		case len(f.steps) == mostSteps:
			f.count("what came after", fmt.Sprintf("a session has at most %d steps", mostSteps))
			continue
		}
		s, ok := f.step(e)
		if !ok {
			continue
		}
		if problem := s.problem(f.secrets); problem != "" {
			f.count(s.method+" "+clipped(e.url.Path), problem)
			continue
		}
		if title := f.pages[e.Pageref]; e.Pageref != page && title != "" {
			page = e.Pageref
			s.comments = append([]string{"Page: " + title}, s.comments...)
		}
		if pause := begun.Sub(done).Round(100 * time.Millisecond); len(f.steps) > 0 && pause > 0 {
			if pause > longestThink {
				s.comments = append(s.comments, fmt.Sprintf("The pause was %s.", pause.Round(time.Second)))
				pause = longestThink
			}
			s.think = pause.String()
		}
		if ended.After(done) {
			done = ended
		}
		f.steps = append(f.steps, s)
	}
}

// longestThink is the longest pause that is taken over.
const longestThink = time.Minute

// step makes one of an entry.
func (f *flow) step(e entry) (step, bool) {
	s := step{request: request{method: e.Request.Method, path: f.query(e.url)}}
	for _, h := range e.Request.Headers {
		name := strings.ToLower(h.Name)
		switch {
		case name == "authorization", name == "cookie", secretWord.MatchString(name) && name != "content-type":
			f.count("the header "+h.Name, "it may be a secret: write auth, or secrets")
		case name == "accept", name == "content-type" && e.Request.PostData != nil, name == "x-requested-with",
			strings.HasPrefix(name, "x-") && !strings.HasPrefix(name, "x-forwarded"):
			s.headers = append(s.headers, [2]string{h.Name, loadgen.Literal(plain(h.Value))})
		}
	}
	if post := e.Request.PostData; post != nil {
		kind, _, _ := strings.Cut(strings.ToLower(post.MimeType), ";")
		body := post.Text
		if body == "" && len(post.Params) > 0 {
			v := url.Values{}
			for _, p := range post.Params {
				v.Add(p.Name, p.Value)
			}
			body = v.Encode()
		}
		switch {
		case strings.HasPrefix(kind, "multipart/"):
			f.count(s.method+" "+clipped(e.url.Path), "its body has several parts, which are not sent")
			return s, false
		case kind == "application/x-www-form-urlencoded":
			s.body = f.form(body)
		default:
			s.body = f.hide(loadgen.Literal(body))
		}
	}
	if status := e.Response.Status; status >= 400 && status <= 599 {
		s.check = []string{fmt.Sprintf("status == %d", status)}
		s.comments = append(s.comments, fmt.Sprintf("It was answered %d.", status))
	}
	content := e.Response.Content
	if strings.Contains(content.MimeType, "json") {
		body := []byte(content.Text)
		if content.Encoding == "base64" {
			body, _ = base64.StdEncoding.DecodeString(content.Text) // no JSON then, which is no answer to look at
		}
		in := json.NewDecoder(bytes.NewReader(body))
		in.UseNumber()
		_ = in.Decode(&s.answer)
	}
	return s, true
}

// secretWord is what names of secrets have in them.
var secretWord = regexp.MustCompile(`(?i)passw|passwd|pwd|secret|token|api[-_]?key|apikey|csrf|xsrf|session[-_]?id|auth`)

// secretField is such a field of a JSON text.
var secretField = regexp.MustCompile(`(?i)("[^"]*(?:passw|pwd|secret|token|api_?key)[^"]*"\s*:\s*)"(?:[^"\\]|\\.)*"`)

// hide puts secrets of the environment in the place of those in a JSON text.
func (f *flow) hide(body string) string {
	return secretField.ReplaceAllStringFunc(body, func(field string) string {
		key := secretField.FindStringSubmatch(field)[1]
		name := strings.Trim(strings.TrimRight(key, " \t\r\n:"), `"`)
		return key + "{{json .secret." + f.secret(name) + "}}"
	})
}

func (f *flow) secret(of string) string {
	s := stream{scenario: nameOf(f.host, "-", "recording"), secrets: f.secrets}
	name := s.addSecret(of)
	f.secrets = s.secrets
	return name
}

// form is a form's body without its secrets.
func (f *flow) form(body string) string {
	var all []string
	for field := range strings.SplitSeq(body, "&") {
		key, _, _ := strings.Cut(field, "=")
		if name, err := url.QueryUnescape(key); err == nil && secretWord.MatchString(name) {
			all = append(all, loadgen.Literal(key)+"={{urlquery .secret."+f.secret(name)+"}}")
		} else {
			all = append(all, loadgen.Literal(field))
		}
	}
	return strings.Join(all, "&")
}

// query is path and query of a URL without its secrets, as a template.
func (f *flow) query(u *url.URL) string {
	path := loadgen.Literal(u.EscapedPath())
	if path == "" {
		path = "/"
	}
	if u.RawQuery == "" {
		return path
	}
	var all []string
	for field := range strings.SplitSeq(u.RawQuery, "&") {
		key, _, _ := strings.Cut(field, "=")
		if name, err := url.QueryUnescape(key); err == nil && secretWord.MatchString(name) {
			all = append(all, loadgen.Literal(key)+"={{urlquery .secret."+f.secret(name)+"}}")
			continue
		}
		all = append(all, loadgen.Literal(field))
	}
	return path + "?" + strings.Join(all, "&")
}

// origin is where a value came up first.
type origin struct {
	step int
	path string // JSONPath
	key  string // of its object
}

// capture finds values that came in an answer and stand in a later path (a whole
// segment, or the value of a parameter) or, as a text, in a later JSON body, and
// stood in no request before: ids that the server gave.
func (f *flow) capture() {
	known := map[string]origin{}
	used := map[string]string{} // value -> name
	asked := map[string]bool{}
	for i := range f.steps {
		s := &f.steps[i]
		s.path = f.replace(s.path, known, used, asked)
		for _, value := range slices.Sorted(maps.Keys(known)) {
			from, whole := known[value], `"`+value+`"`
			if _, number := strconv.ParseFloat(value, 64); number != nil && len(value) >= 8 && strings.Contains(s.body, whole) {
				s.body = strings.ReplaceAll(s.body, whole, "{{json ."+f.name(value, from, used)+"}}")
			}
		}
		for _, value := range values(s.path) {
			asked[value] = true
		}
		walk(s.answer, "$", "", func(value, path, key string) {
			if _, ok := known[value]; !ok && !asked[value] && identifies(value) {
				known[value] = origin{i, path, key}
			}
		})
	}
}

// identifies tells values that look like ids from those that stand everywhere.
func identifies(value string) bool {
	if len(value) > 100 || strings.ContainsAny(value, " \t\n/{}\"\\") {
		return false
	}
	digits := strings.ContainsAny(value, "0123456789")
	return digits && len(value) >= 3 || len(value) >= 12
}

// replace puts captured values into a path.
func (f *flow) replace(p string, known map[string]origin, used map[string]string, asked map[string]bool) string {
	for _, value := range values(p) {
		from, ok := known[value]
		if !ok || asked[value] {
			continue
		}
		escaped := regexp.QuoteMeta(url.PathEscape(value))
		at := regexp.MustCompile(`([/=])` + escaped + `([/?&]|$)`)
		if at.MatchString(p) {
			p = at.ReplaceAllString(p, "${1}{{urlquery ."+f.name(value, from, used)+"}}${2}")
		}
	}
	return p
}

// values are the segments of a path and the values of its query, unescaped.
func values(p string) []string {
	before, query, _ := strings.Cut(p, "?")
	var all []string
	for segment := range strings.SplitSeq(before, "/") {
		if v, err := url.PathUnescape(segment); err == nil && v != "" {
			all = append(all, v)
		}
	}
	for field := range strings.SplitSeq(query, "&") {
		if _, v, _ := strings.Cut(field, "="); v != "" {
			if v, err := url.QueryUnescape(v); err == nil {
				all = append(all, v)
			}
		}
	}
	return all
}

// name of the captured value, which is captured with the first use.
func (f *flow) name(value string, from origin, used map[string]string) string {
	if name, ok := used[value]; ok {
		return name
	}
	base := nameOf(camel.ReplaceAllString(from.key, "${1}_$2"), "_", "value")
	if base == "secret" {
		base = "value"
	}
	name := base
	for n := 2; f.captured[name]; n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	f.captured[name] = true
	used[value] = name
	s := &f.steps[from.step]
	s.request.capture = append(s.request.capture, [2]string{name, from.path})
	return name
}

// walk calls visit for every text and number of a JSON document, in order.
func walk(v any, path, key string, visit func(value, path, key string)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			step := "." + k
			if !identifier.MatchString(k) {
				step = "['" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(k) + "']"
			}
			walk(v[k], path+step, k, visit)
		}
	case []any:
		for i, x := range v {
			walk(x, fmt.Sprintf("%s[%d]", path, i), key, visit)
		}
	case string:
		visit(v, path, key)
	case json.Number:
		visit(v.String(), path, key)
	}
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// clipped is a foreign text in a message.
func clipped(text string) string {
	if text = plain(text); len([]rune(text)) > 80 {
		return string([]rune(text)[:80]) + "…"
	}
	return text
}
