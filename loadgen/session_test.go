package loadgen

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// memory serves a handler on connections in memory, inside a synctest bubble.
type memory struct {
	http.Handler
	dialed atomic.Int64
	all    sync.WaitGroup
}

func (m *memory) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	m.dialed.Add(1)
	m.all.Go(func() {
		defer server.Close()
		in := bufio.NewReader(server)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			answer := httptest.NewRecorder()
			m.ServeHTTP(answer, r)
			_, _ = io.Copy(io.Discard, r.Body)
			whole := answer.Result()
			whole.ContentLength = int64(answer.Body.Len())
			if whole.Write(server) != nil {
				return
			}
		}
	})
	return client, nil
}

// yaml-like shorthands for tests.
func checks(t interface{ Fatalf(string, ...any) }, texts ...string) (all []Check) {
	for _, text := range texts {
		var c Check
		if err := c.UnmarshalText([]byte(text)); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		all = append(all, c)
	}
	return all
}

func ofJSON(t interface{ Fatalf(string, ...any) }, path string) Capture {
	p := new(JSONPath)
	if err := p.UnmarshalText([]byte(path)); err != nil {
		t.Fatalf("%v", err)
	}
	return Capture{JSON: p}
}

func ofRegexp(t interface{ Fatalf(string, ...any) }, re string) Capture {
	p := new(Pattern)
	if err := p.UnmarshalText([]byte(re)); err != nil {
		t.Fatalf("%v", err)
	}
	return Capture{Regexp: p}
}

// walker does requests of a stream one after another, without a schedule.
type walker struct {
	client *httpClient
	stream *stream
}

func newWalker(t interface {
	Helper()
	Fatalf(string, ...any)
}, ctx context.Context, s Spec, address string) *walker {
	t.Helper()
	s.Name, s.To, s.Rate = "s", "server", perSecond(1)
	s.Check(func(path, format string, args ...any) { t.Fatalf("%s: "+format, append([]any{path}, args...)...) })
	st := compile(s, 7, func(string, string, ...any) {})
	return &walker{newHTTPClient(ctx, st, Config{Start: time.Now(), Resolve: func() string { return address }}), st}
}

// session does one session, or one request, and tells how each step ended.
func (w *walker) session(seq uint64) (all []result) {
	for step := range w.stream.kinds {
		due := time.Since(w.client.trip.start)
		r := w.client.do(job{seq: seq, step: step, owner: seq, due: due}, time.Now().Add(5*time.Second))
		all = append(all, r)
		if !w.stream.good(r) || !w.stream.session {
			break
		}
	}
	return all
}

// Whatever an answer holds arrives as it is in the request that uses it, from
// wherever it was captured to wherever it goes; and the same seed asks the same.
func TestEveryCapturedValueArrives(t *testing.T) {
	var mu sync.Mutex // that one side is done when the other begins, the race detector cannot see
	var value, second string
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/login":
			got = append(got, string(body))
			w.Header().Set("X-Token", second)
			http.SetCookie(w, &http.Cookie{Name: "sid", Value: second, Path: "/"})
			_ = json.NewEncoder(w).Encode(map[string]any{"deep": []any{map[string]string{"order": value}}, "number": json.Number("12345678901234567890")})
		default:
			var sent struct{ Order string }
			if err := json.Unmarshal(body, &sent); err != nil {
				t.Errorf("%s: %v", body, err)
			}
			sid, _ := r.Cookie("sid")
			last := strings.TrimPrefix(r.URL.EscapedPath(), "/orders/")
			last, _ = url.PathUnescape(last)
			got = append(got, last, r.URL.Query().Get("q"), r.URL.Query().Get("n"), sent.Order, r.Header.Get("X-Token"), r.Header.Get("Authorization"), sid.Value)
		}
	}))
	defer server.Close()
	spec := Spec{Steps: []SessionStep{
		{Method: "POST", Path: "/login", Body: `{"id":"{{uuid}}"}`, Capture: map[string]Capture{
			"order": ofJSON(t, "$.deep[?@.order].order"), "number": ofRegexp(t, `"number":(\d+)`), "token": {Header: "x-token"}, "sid": {Cookie: "sid"},
		}},
		{Method: "POST", Path: "/orders/{{urlquery .order}}?q={{urlquery .order}}&n={{.number}}", Body: `{"order":{{json .order}}}`,
			Headers: map[string]string{"X-Token": "{{.token}}"}, Auth: &Auth{Bearer: "{{.sid}}"}},
	}}
	w := newWalker(t, t.Context(), spec, server.Listener.Addr().String())
	defer w.client.close()
	again := newWalker(t, t.Context(), spec, server.Listener.Addr().String())
	defer again.client.close()
	seq := uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		mu.Lock()
		value = rapid.StringN(1, 50, 200).Draw(t, "value")
		second = rapid.StringMatching(`[!#-+\--:<-Z\^-~]{1,30}`).Draw(t, "token")
		got = nil
		mu.Unlock()
		seq++
		for _, who := range []*walker{w, again} {
			for _, r := range who.session(seq) {
				if r.outcome != 200 {
					t.Fatalf("%v %s: %s", r.outcome, r.request, r.detail)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		want := []string{got[0], value, value, "12345678901234567890", value, second, "Bearer " + second, second}
		if want := append(want, want...); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("sent %q,\nwant %q", got, want)
		}
	})
}

// What happens between a client and a server in a session, a case a line.
func TestSessionsOnTheWire(t *testing.T) {
	mux := http.NewServeMux()
	say := func(path string, status int, header, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if name, value, ok := strings.Cut(header, ": "); ok {
				w.Header().Add(name, value)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	say("/ok", 200, "", `{"status":"done","n":5,"list":[1,2],"none":null,"yes":true}`)
	say("/moved", 302, "Location: /ok?from=moved", "")
	say("/twice", 301, "Location: moved", "")
	say("/away", 302, "Location: http://other.example/ok", "")
	say("/nowhere", 302, "", "")
	say("/again", 307, "Location: /echo", "")
	say("/see-other", 303, "Location: /echo", "")
	say("/round", 302, "Location: /round", "")
	say("/gone", 404, "", "no")
	say("/broken", 500, "", "{}")
	say("/huge", 200, "", strings.Repeat("x", maxReply+1))
	say("/spaced", 200, "", "a b")
	say("/lines", 200, "", "a\r\nX-B: c")
	mux.HandleFunc("/self", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/ok")
		w.WriteHeader(201)
	})
	say("/brotli", 200, "Content-Encoding: br", "xyz")
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q cookie=%q auth=%q encoding=%q", r.Method, r.RequestURI, body, r.Header.Get("Cookie"), r.Header.Get("Authorization"), r.Header.Get("Accept-Encoding"))
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "sid", Value: "s1", Path: "/", HttpOnly: true})
		http.SetCookie(w, &http.Cookie{Name: "narrow", Value: "n", Path: "/admin"})
	})
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "sid", Value: "gone", Path: "/", MaxAge: -1})
	})
	mux.HandleFunc("/packed", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		n := 1
		if r.URL.RawQuery == "bomb" {
			n = maxReply
		}
		fmt.Fprintf(z, `{"packed":%q}`, strings.Repeat("y", n))
		z.Close()
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	step := func(path string, how ...func(*SessionStep)) SessionStep {
		s := SessionStep{Method: "GET", Path: path}
		for _, h := range how {
			h(&s)
		}
		return s
	}
	check := func(texts ...string) func(*SessionStep) {
		return func(s *SessionStep) { s.Check = checks(t, texts...) }
	}
	take := func(name string, c Capture) func(*SessionStep) {
		return func(s *SessionStep) { s.Capture = map[string]Capture{name: c} }
	}
	follow := func(n int) func(*SessionStep) { return func(s *SessionStep) { s.Redirects = &n } }
	post := func(body string) func(*SessionStep) { return func(s *SessionStep) { s.Method, s.Body = "POST", body } }
	for _, c := range []struct {
		name   string
		steps  []SessionStep
		want   string // outcomes
		detail string // of the last
	}{
		{"all checks hold", []SessionStep{step("/ok", check(`status == 200`, `body contains "done"`, `body lacks "x"`, `body matches '"n":\d'`, `json $.status == "done"`, `json $.n >= 5`, `json $.n == 5.0`, `json $.yes == true`,
			`json $.none == null`, `json $.list exists`, `json $.list[1] != 1`, `json $.status contains "on"`, `header content-type exists`, `header Content-Type contains "text"`, `latency < 5s`))}, "200", ""},
		{"wrong text", []SessionStep{step("/ok", check(`json $.status == "open"`)), step("/ok")}, "check", `check json $.status == "open": it is "\"done\""`},
		{"a number is no text", []SessionStep{step("/ok", check(`json $.n == "5"`))}, "check", "it is \"5\""},
		{"text is not true", []SessionStep{step("/ok", check(`json $.status == true`))}, "check", "done"},
		{"nothing there", []SessionStep{step("/ok", check(`json $.other exists`))}, "check", "there is nothing in the body"},
		{"too slow", []SessionStep{step("/ok", check(`latency < 1ns`))}, "check", "check latency < 1ns: it is "},
		{"good status, not the one", []SessionStep{step("/ok", check(`status == 201`))}, "check", "check status == 201: it is 200"},
		{"a bad status is told as it is", []SessionStep{step("/broken", check(`status == 201`))}, "500", "check status == 201: it is 500"},
		{"a bad status comes before other checks", []SessionStep{step("/broken", check(`body contains "x"`))}, "500", ""},
		{"a status that is asked for is good", []SessionStep{step("/gone", check(`status == 404`)), step("/ok")}, "404 200", ""},
		{"no JSON", []SessionStep{step("/gone", check(`status == 404`, `json $.a exists`))}, "check", `the body "no" is not JSON`},
		{"values in checks", []SessionStep{step("/ok", take("n", ofJSON(t, "$.n"))), step("/ok", check(`json $.n == {{.n}}`, `body contains "\"n\":{{.n}}"`))}, "200 200", ""},
		{"values in failing checks", []SessionStep{step("/ok", take("n", ofJSON(t, "$.n"))), step("/ok", check(`body contains "n{{.n}}"`))}, "200 check", `("n5"): it is "{`},

		{"no redirect unless asked", []SessionStep{step("/moved", check("status == 302"), take("to", Capture{Header: "Location"})), step("{{.to}}")}, "302 200", ""},
		{"redirect", []SessionStep{step("/moved", follow(1), check("status == 200", `json $.status == "done"`))}, "200", ""},
		{"relative redirects", []SessionStep{step("/twice", follow(2))}, "200", ""},
		{"one too many", []SessionStep{step("/twice", follow(1))}, "redirect", "one more after 1"},
		{"round and round", []SessionStep{step("/round", follow(20))}, "redirect", "one more after 20"},
		{"to another host", []SessionStep{step("/away", follow(1))}, "redirect", `to "http://other.example/ok"`},
		{"without Location", []SessionStep{step("/nowhere", follow(1))}, "redirect", "without Location"},
		{"the same again", []SessionStep{step("/again?x={{int 1 9}}", follow(1), post("id {{uuid}}"), check(`body contains "POST /echo \"id "`))}, "200", ""},
		{"see other", []SessionStep{step("/see-other", follow(1), post("id {{uuid}}"), check(`body contains "GET /echo \"\""`))}, "200", ""},

		{"cookies", []SessionStep{step("/login", take("n", Capture{Cookie: "narrow"})), step("/echo", check(`body contains "cookie=\"sid=s1\""`), take("sid", Capture{Cookie: "sid"})), step("/echo?{{.sid}}{{.n}}", check(`body contains "/echo?s1n"`)),
			step("/logout"), step("/echo", check(`body contains "cookie=\"\""`))}, "200 200 200 200 200", ""},
		{"cookies beside one's own", []SessionStep{step("/login"), step("/echo", func(s *SessionStep) { s.Headers = map[string]string{"cookie": "a=b"} }, check(`body contains "cookie=\"a=b; sid=s1\""`))}, "200 200", ""},
		{"a cookie that is gone", []SessionStep{step("/login"), step("/logout", take("sid", Capture{Cookie: "sid"}))}, "200 capture", `no cookie "sid"`},

		{"basic", []SessionStep{step("/echo", func(s *SessionStep) { s.Auth = &Auth{Basic: &Basic{User: "Aladdin", Password: "open sesame"}} }, check(`body contains "auth=\"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\""`))}, "200", ""},
		{"no compression unless asked", []SessionStep{step("/echo", check(`body contains "encoding=\"\""`))}, "200", ""},
		{"packed", []SessionStep{step("/packed", func(s *SessionStep) { s.Headers = map[string]string{"Accept-Encoding": "gzip"} }, check(`json $.packed == "y"`))}, "200", ""},
		{"packed too well", []SessionStep{step("/packed?bomb", check(`json $.packed exists`))}, "check", "larger than 1 MiB when unpacked"},
		{"packed otherwise", []SessionStep{step("/brotli", take("a", ofRegexp(t, "a")))}, "capture", `packed as "br"`},
		{"too long to look at", []SessionStep{step("/huge", take("a", ofRegexp(t, "x+"))), step("/ok")}, "capture", "larger than 1 MiB"},
		{"long, and nobody looks", []SessionStep{step("/huge"), step("/ok")}, "200 200", ""},

		{"no such header", []SessionStep{step("/ok", take("a", Capture{Header: "Location"}))}, "capture", `no header "Location"`},
		{"no match", []SessionStep{step("/ok", take("a", ofRegexp(t, `id=(\d+)`)))}, "capture", "does not match the body"},
		{"null is no value", []SessionStep{step("/ok", take("a", ofJSON(t, "$.none")))}, "capture", "$.none is null"},
		{"a value that breaks the path", []SessionStep{step("/spaced", take("a", ofRegexp(t, ".+"))), step("/orders/{{.a}}")}, "200 other", `the path "/orders/a b" must not contain ' '`},
		{"a value that is escaped", []SessionStep{step("/spaced", take("a", ofRegexp(t, ".+"))), step("/echo?{{urlquery .a}}", check(`body contains "/echo?a%20b"`))}, "200 200", ""},
		{"a value that breaks a header", []SessionStep{step("/lines", take("a", ofRegexp(t, `(?s).+`))), step("/ok", func(s *SessionStep) { s.Headers = map[string]string{"X-A": "{{.a}}"} })}, "200 other", "line break"},
		{"a whole URL", []SessionStep{step("/self", take("a", Capture{Header: "Location"})), step("{{.a}}", check(`json $.n == 5`))}, "201 200", ""},
	} {
		w := newWalker(t, t.Context(), Spec{Steps: c.steps}, server.Listener.Addr().String())
		for seq := range uint64(2) { // the second must not remember the first
			var got []string
			results := w.session(seq)
			for _, r := range results {
				got = append(got, r.outcome.String())
			}
			last := results[len(results)-1]
			if strings.Join(got, " ") != c.want || !strings.Contains(last.detail, c.detail) {
				t.Errorf("%s: %v, %s; want %s, %s", c.name, got, last.detail, c.want, c.detail)
			}
		}
		w.client.close()
	}
}

// Steps are due when the one before is done and its think time over, each with a
// latency of its own; what would be due after the run is cut; sessions are told, too.
func TestSessionsThink(t *testing.T) {
	m := &memory{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(30 * time.Millisecond)
		if r.URL.Path == "/b" && r.URL.RawQuery == "3" {
			w.WriteHeader(500)
		}
	})}
	spec := Spec{Name: "s", To: "gateway", Rate: perSecond(10), Steps: []SessionStep{
		{Name: "first", Method: "GET", Path: "/a"}, {Method: "GET", Path: "/b?{{seq}}", Think: 200 * time.Millisecond}, {Method: "GET", Path: "/c"},
	}}
	synctest.Test(t, func(t *testing.T) {
		steps, s := map[string]Window{}, newSums()
		sessions := Sessions{}
		slowest, fastest := time.Duration(0), time.Hour
		c := s.listen(Config{Spec: spec, Seed: 7, Start: time.Now(), Until: time.Second, Dial: m.dial, Resolve: func() string { return "gateway:80" }})
		sum := c.OnWindow
		c.OnWindow = func(w Window) {
			sum(w)
			if w.Sessions != nil {
				if w.DueCount != 0 || w.Step != "" {
					t.Errorf("a window about sessions has requests: %+v", w)
				}
				sessions.Completed += w.Sessions.Completed
				sessions.Failed += w.Sessions.Failed
				sessions.Cut += w.Sessions.Cut
				if w.Sessions.Completed > 0 {
					slowest, fastest = max(slowest, w.Sessions.Duration.Max()), min(fastest, w.Sessions.Duration.Min())
				}
				return
			}
			at, ok := steps[w.Step]
			if !ok {
				at = empty()
			}
			steps[w.Step] = plus(at, w)
		}
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		took := time.Since(s.start)
		m.all.Wait()
		s.balance(t)
		// Sessions are due at 0.05 s, 0.15 s, …, 0.95 s; second steps 0.23 s later, so
		// that those of the last two would be due after the run. Number 3 fails in its
		// second step.
		for name, want := range map[string]int{"first": 10, "GET /b?{{seq}}": 8, "GET /c": 6} {
			if got := steps[name]; got.DueCount != want || got.Sent != want || got.Late != 0 {
				t.Errorf("%s: %d due, %d sent, %d late; want %d, as many, 0", name, got.DueCount, got.Sent, got.Late, want)
			}
			if steps[name].OKLatency == nil {
				t.Fatalf("no windows of %s: %v", name, steps)
			}
			if lo, hi := steps[name].OKLatency.Min(), steps[name].OKLatency.Max(); lo < 29*time.Millisecond || hi > 31*time.Millisecond {
				t.Errorf("%s took %v to %v, want 30ms: thinking is not waiting", name, lo, hi)
			}
		}
		if len(steps) != 3 || s.DueCount != 24 || s.Failed != 1 || s.Outcomes["500"] != 1 {
			t.Errorf("%d steps, %d due, outcomes %v", len(steps), s.DueCount, s.Outcomes)
		}
		// The third step of session 7 would be due at 1.01 s.
		if sessions.Completed != 6 || sessions.Failed != 1 || sessions.Cut != 3 {
			t.Errorf("%d sessions completed, %d failed, %d cut; want 6, 1, 3", sessions.Completed, sessions.Failed, sessions.Cut)
		}
		if fastest < 289*time.Millisecond || slowest > 292*time.Millisecond {
			t.Errorf("sessions took %v to %v, want 290ms", fastest, slowest)
		}
		if took > 1100*time.Millisecond {
			t.Errorf("the run took %v", took)
		}
		if len(s.samples) == 0 || s.samples[0].Step == "" || !strings.Contains(s.samples[0].Request, "GET /") {
			t.Errorf("samples %+v", s.samples)
		}
		for _, r := range s.results {
			if r.OK != (r.Status == 200) || r.Step == "" || !strings.HasPrefix(r.URL, "http://gateway/") {
				t.Errorf("result %+v", r)
			}
		}
	})
}

// In the closed model a user has the same row in all its sessions, also where
// users share connections, and nobody else has it.
func TestUniqueRowsOfUsers(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	m := &memory{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	})}
	spec := withData(t, Spec{Name: "s", To: "gateway", Users: ptr(3), Connections: ptr(2), Think: 50 * time.Millisecond,
		Data:  map[string]Data{"users": {File: "users.csv", Order: Unique}},
		Steps: []SessionStep{{Method: "GET", Path: "/{{.users.name}}/a"}, {Method: "GET", Path: "/{{.users.name}}/b"}},
	}, map[string]string{"users.csv": "name\nada\nbob\neve\nspare\n"})
	synctest.Test(t, func(t *testing.T) {
		s := newSums()
		if err := Run(t.Context(), s.listen(Config{Spec: spec, Start: time.Now(), Until: time.Second, Dial: m.dial, Resolve: func() string { return "gateway:80" }})); err != nil {
			t.Fatal(err)
		}
		m.all.Wait()
		s.balance(t)
		// A session takes 20 ms and the thinking 50 ms: some 14 a second each.
		for _, name := range []string{"ada", "bob", "eve"} {
			if a, b := asked["/"+name+"/a"], asked["/"+name+"/b"]; a < 10 || a-b < 0 || a-b > 1 {
				t.Errorf("%s asked %d and %d times", name, a, b)
			}
		}
		if len(asked) != 6 || s.Failed != 0 || m.dialed.Load() != 2 {
			t.Errorf("%v asked over %d connections, outcomes %v", asked, m.dialed.Load(), s.Outcomes)
		}
	})
}

// In the open model each arrival takes the next row, and those after the last fail
// with a class of their own, unsent.
func TestUniqueRowsRunOut(t *testing.T) {
	p := &pipes{handle: after(time.Millisecond)}
	spec := withData(t, Spec{Rate: perSecond(10), Request: &Request{Method: "GET", Path: "/{{.users.name}}"}, Data: map[string]Data{"users": {File: "users.csv", Order: Unique}}},
		map[string]string{"users.csv": "name\nada\nbob\neve\n"})
	inBubble(t, spec, time.Second, p, func(t *testing.T, s *sums, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s.balance(t)
		if s.OK != 3 || s.Failed != 7 || s.Outcomes["data"] != 7 || fmt.Sprint(p.seen) != "[GET /ada  GET /bob  GET /eve ]" {
			t.Errorf("outcomes %v, sent %q; want three requests and seven failures for want of data", s.Outcomes, p.seen)
		}
		if len(s.samples) == 0 || !strings.Contains(s.samples[0].Detail, `"users", which has 3`) {
			t.Errorf("samples %+v do not tell why", s.samples)
		}
	})
}

// Cancelling a run ends sessions that are thinking, at once.
func TestCancelCutsSessions(t *testing.T) {
	m := &memory{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	for _, spec := range []Spec{{Rate: perSecond(10)}, {Users: ptr(2)}} {
		spec.Name, spec.To = "s", "gateway"
		spec.Steps = []SessionStep{{Method: "GET", Path: "/a"}, {Method: "GET", Path: "/b", Think: time.Minute}}
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			s := newSums()
			cut := 0
			c := s.listen(Config{Spec: spec, Start: time.Now(), Until: time.Hour, Dial: m.dial, Resolve: func() string { return "gateway:80" }})
			sum := c.OnWindow
			c.OnWindow = func(w Window) {
				sum(w)
				if w.Sessions != nil {
					cut += w.Sessions.Cut
				}
			}
			if err := Run(ctx, c); err != context.DeadlineExceeded {
				t.Errorf("%v", err)
			}
			took := time.Since(s.start)
			m.all.Wait()
			s.balance(t)
			if took > 510*time.Millisecond || cut == 0 || cut != s.OK || s.Failed != 0 {
				t.Errorf("%s: cut %d of %d sessions after %v, outcomes %v", spec.Model(), cut, s.OK, took, s.Outcomes)
			}
		})
	}
}

// Checks and redirects are for single requests, too; and only what needs more than
// its number leaves the fast path.
func TestPlain(t *testing.T) {
	data := map[string]string{"d.csv": "a\n1\n"}
	request := func(r Request) Spec { r.Method = "GET"; return Spec{Request: &r} }
	for name, c := range map[string]struct {
		spec  Spec
		plain bool
	}{
		"template":   {request(Request{Path: "/{{uuid}}"}), true},
		"auth":       {request(Request{Path: "/", Auth: &Auth{Bearer: "{{uuid}}"}}), true},
		"rows":       {withData(t, Spec{Request: &Request{Method: "GET", Path: "/{{.d.a}}"}, Data: map[string]Data{"d": {File: "d.csv", Order: Random}}}, data), true},
		"unique":     {withData(t, Spec{Request: &Request{Method: "GET", Path: "/{{.d.a}}"}, Data: map[string]Data{"d": {File: "d.csv", Order: Unique}}}, data), false},
		"time":       {request(Request{Path: "/{{unix}}"}), false},
		"check":      {request(Request{Path: "/", Check: checks(t, "status == 200")}), false},
		"redirects":  {request(Request{Path: "/", Redirects: ptr(1)}), false},
		"no follows": {request(Request{Path: "/", Redirects: ptr(0)}), true},
		"session":    {Spec{Steps: []SessionStep{{Method: "GET", Path: "/"}}}, false},
	} {
		s := compile(c.spec, 1, func(path, format string, args ...any) { t.Errorf(name+": "+path+": "+format, args...) })
		if s.plain() != c.plain {
			t.Errorf("%s: plain is %t", name, s.plain())
		}
		if why := c.spec.notPlain(); (why == "") != c.plain {
			t.Errorf("%s: the fast engine is told %q", name, why)
		}
	}
	now := time.Now()
	m := &memory{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("n") == "2" {
			_, _ = io.WriteString(w, "bad")
		}
	})}
	synctest.Test(t, func(t *testing.T) {
		var paths []string
		s := newSums()
		spec := Spec{Name: "s", To: "gateway", Rate: perSecond(10), Request: &Request{Method: "GET", Path: "/?n={{seq}}&at={{unixms}}", Check: checks(t, `body lacks "bad"`)}}
		c := s.listen(Config{Spec: spec, Start: time.Now(), Until: time.Second, Dial: m.dial, Resolve: func() string { return "gateway:80" }})
		now = c.Start
		if err := Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		m.all.Wait()
		s.balance(t)
		for _, r := range s.results {
			paths = append(paths, strings.TrimPrefix(r.URL, "http://gateway"))
			if r.OK == (r.Seq == 2) || r.Seq == 2 && (r.Status != 200 || r.Outcome != "check") {
				t.Errorf("%+v", r)
			}
		}
		for k, path := range paths {
			if want := fmt.Sprintf("/?n=%d&at=%d", k, now.Add(50*time.Millisecond+time.Duration(k)*100*time.Millisecond).UnixMilli()); path != want {
				t.Errorf("request %d asked %s, want %s: the time is that it was due", k, path, want)
			}
		}
		if s.OK != 9 || s.Outcomes["check"] != 1 {
			t.Errorf("outcomes %v", s.Outcomes)
		}
	})
}

// A check that cannot be read says what is possible, at the place.
func TestCheckMistakes(t *testing.T) {
	for _, c := range []struct {
		text, want string
		offset     int
	}{
		{"", "is not a check", 0},
		{"code == 200", "is not a check: write one like status == 201", 0},
		{"status = 200", "status takes one of == != <= >= < >", 7},
		{"status == ok", `"ok" is not a status code`, 10},
		{"status contains 2", "status takes one of", 7},
		{"latency < 200", `"200" is not a duration`, 10},
		{"latency == 1s", "latency takes one of", 8},
		{"body == done", `"done" is no text: put it in quotes`, 8},
		{`body contains "a`, "put it in quotes", 14},
		{`body contains "\x"`, "is no text", 14},
		{`body matches "("`, "is not a regular expression", 13},
		{`json status == 1`, "is not a JSONPath", 5},
		{`json $.a[ == 1`, "is not a JSONPath", 10},
		{`json $.a`, "json takes one of", 8},
		{`json $.a < "x"`, "< compares with a number", 11},
		{`json $.a contains 5`, "contains takes text", 18},
		{`json $.a exists "x"`, "nothing stands after exists", 16},
		{`json $.a == x`, `"x" is no text: put it in quotes`, 12},
		{`header ü exists`, "is not a header name", 7},
		{`header Location < 5`, "header takes one of", 16},
	} {
		err := new(Check).UnmarshalText([]byte(c.text))
		bad, ok := err.(*placedError)
		if !ok || !strings.Contains(bad.message, c.want) || bad.offset != c.offset {
			t.Errorf("%q: %+v; want %q at %d", c.text, err, c.want, c.offset)
		}
	}
	for _, text := range []string{"status==201", "latency<=1m", `body contains "{{uuid}}"`, `json $.items[?@.n == 1 && @.s == "a b"].id == {{.order}}`, `json $['a b'] != null`, "header Content-Type matches '^text'"} {
		var c Check
		if err := c.UnmarshalText([]byte(text)); err != nil || c.String() != text {
			t.Errorf("%q: %v, %v", text, c, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"status == 200", `json $.a == "x"`, "json $[?@.a", "body matches 'a'", "header X exists", "latency < 1s", `json $.a=="\"`} {
		f.Add(s, `{"a":"x"}`)
	}
	f.Fuzz(func(t *testing.T, text, body string) {
		var c Check
		if err := c.UnmarshalText([]byte(text)); err != nil {
			if bad, ok := err.(*placedError); !ok || bad.offset < 0 || bad.offset > len([]rune(text)) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		r := &reply{body: []byte(body), keepBody: true}
		c.holds(r, 200, time.Second, c.want)
	})
}
