package loadgen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

func TestParseShort(t *testing.T) {
	for in, want := range map[string]Request{
		"POST /checkout":               {Method: "POST", Path: "/checkout"},
		"  GET   /orders/{{int 1 3}} ": {Method: "GET", Path: "/orders/{{int 1 3}}"},
	} {
		var r Request
		if err := r.ParseShort(in); err != nil || r.Method != want.Method || r.Path != want.Path {
			t.Errorf("%q = %+v, %v; want %+v", in, r, err, want)
		}
	}
	for _, in := range []string{"", "POST", "/checkout", "POST checkout", "POST  "} {
		r := new(Request)
		if err := r.ParseShort(in); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		got := problems(Spec{To: "a", Rate: perSecond(1), Request: r})
		if len(got) != 1 || !strings.Contains(got["request"], `write "METHOD /path"`) {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestStatusSetText(t *testing.T) {
	for in, want := range map[string]StatusSet{"2xx": {200, 299}, "402": {402, 402}, "200-399": {200, 399}, " 500 - 503 ": {500, 503}} {
		var s StatusSet
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want {
			t.Errorf("%q = %v, %v; want %v", in, s, err, want)
		}
		raw, err := json.Marshal(s)
		var back StatusSet
		if err != nil || json.Unmarshal(raw, &back) != nil || back != s {
			t.Errorf("%v is written %s and read %v, %v", s, raw, back, err)
		}
	}
	for in, want := range map[string]string{
		"": "not a set", "x": "not a set", "2x": "not a set", "6xx": "not a set", "200-": "not a set", "1-2-3": "not a set",
		"99": "from 100 to 599", "600": "from 100 to 599", "300-200": "the lower one first",
	} {
		var s StatusSet
		if err := s.UnmarshalText([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", in, err, want)
		}
	}
}

func problems(s Spec) map[string]string {
	found := map[string]string{}
	s.Check(func(path, format string, args ...any) { found[path] += fmt.Sprintf(format, args...) + "\n" })
	return found
}

// good is a spec that a test may spoil.
func good(spoil func(*Spec)) Spec {
	s := Spec{Name: "s", To: "gateway", Request: &Request{Method: "POST", Path: "/checkout", Body: `{"user":"{{user}}"}`}, Rate: perSecond(200)}
	spoil(&s)
	return s
}

func TestCheckAccepts(t *testing.T) {
	for name, spoil := range map[string]func(*Spec){
		"as it is": func(*Spec) {},
		"mix": func(s *Spec) {
			s.Request, s.Requests = nil, []Request{{Method: "GET", Path: "/", Weight: ptr(0)}, {Method: "PUT", Path: "/a%20b?c={{seq}}", Timeout: ptr(time.Second)}}
			s.Body, s.Headers = "{{seq}}", map[string]string{"X-Id": "{{uuid}}", "Host": "shop.example", "traceparent": "x"}
		},
		"ramp from 0": func(s *Spec) { s.Rate, s.Ramp = nil, &Ramp{To: 100, Over: time.Second} },
		"stages": func(s *Spec) {
			s.Rate, s.Stages = nil, []Stage{{Rate: perSecond(0), For: 1}, {To: perSecond(5), For: 1}}
		},
		"step up":   func(s *Spec) { s.Rate, s.Step = nil, &Step{By: 10, Every: time.Second, To: 100} },
		"step down": func(s *Spec) { s.Rate, s.Step = nil, &Step{From: 100, By: 10, Every: time.Second} },
		"spike":     func(s *Spec) { s.Rate, s.Spike = nil, &Spike{Peak: 10, For: time.Second} },
		"sine to 0": func(s *Spec) {
			s.Rate, s.Sine = nil, &Sine{Mean: 10, Amplitude: 10, Period: time.Minute, Phase: arrival.Trough}
		},
		"poisson": func(s *Spec) { s.Spacing = arrival.PoissonSpacing },
		"listed": func(s *Spec) {
			s.Request, s.Requests, s.Order = nil, []Request{{Method: "GET", Path: "/"}, {Method: "GET", Path: "/b"}}, Listed
		},
		"users": func(s *Spec) { s.Rate, s.Users, s.Think, s.Connections = nil, ptr(5), time.Second, ptr(2) },
	} {
		if found := problems(good(spoil)); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		path, message string
		spoil         func(*Spec)
	}{
		{"to", "missing", func(s *Spec) { s.To = "" }},
		{"rate", "rate 0/s must be above 0", func(s *Spec) { s.Rate = perSecond(0) }},
		{"rate", "rate -5/s must be above 0", func(s *Spec) { s.Rate = perSecond(-5) }},
		{"rate", "at most 1000000/s", func(s *Spec) { s.Rate = perSecond(2e6) }},
		{"", "write one of rate, ramp, stages, step, spike, sine, replay (open model) or users (closed model)", func(s *Spec) { s.Rate = nil }},
		{"users", "rate and users are given", func(s *Spec) { s.Users = ptr(5) }},
		{"ramp", "rate and ramp are given", func(s *Spec) { s.Ramp = &Ramp{To: 5, Over: time.Second} }},
		{"ramp.from", "must be above 0", func(s *Spec) { s.Rate, s.Ramp = nil, &Ramp{From: -1, To: 5, Over: time.Second} }},
		{"ramp.to", "must be above 0", func(s *Spec) { s.Rate, s.Ramp = nil, &Ramp{From: 1, To: -5, Over: time.Second} }},
		{"ramp.over", "longer than 0s", func(s *Spec) { s.Rate, s.Ramp = nil, &Ramp{From: 1, To: 5} }},
		{"ramp", "sends nothing", func(s *Spec) { s.Rate, s.Ramp = nil, &Ramp{Over: time.Second} }},
		{"stages", "there are no stages", func(s *Spec) { s.Rate, s.Stages = nil, []Stage{} }},
		{"stages[0]", "needs rate (constant) or to", func(s *Spec) { s.Rate, s.Stages = nil, []Stage{{For: 1}} }},
		{"stages[1]", "rate and to are given", func(s *Spec) {
			s.Rate, s.Stages = nil, []Stage{{Rate: perSecond(1), For: 1}, {Rate: perSecond(1), To: perSecond(2), For: 1}}
		}},
		{"stages[0].for", "longer than 0s", func(s *Spec) { s.Rate, s.Stages = nil, []Stage{{Rate: perSecond(1)}} }},
		{"stages[0].to", "must be above 0", func(s *Spec) { s.Rate, s.Stages = nil, []Stage{{To: perSecond(-1), For: 1}} }},
		{"stages", "all stages have rate 0", func(s *Spec) { s.Rate, s.Stages = nil, []Stage{{Rate: perSecond(0), For: 1}} }},
		{"step", "rate and step are given", func(s *Spec) { s.Step = &Step{By: 1, Every: 1, To: 5} }},
		{"step.by", "must be above 0", func(s *Spec) { s.Rate, s.Step = nil, &Step{Every: 1, To: 5} }},
		{"step.by", "more than 10000 steps", func(s *Spec) { s.Rate, s.Step = nil, &Step{By: 0.01, Every: 1, To: 500} }},
		{"step.every", "longer than 0s", func(s *Spec) { s.Rate, s.Step = nil, &Step{By: 1, To: 5} }},
		{"step", "both 5/s", func(s *Spec) { s.Rate, s.Step = nil, &Step{From: 5, By: 1, Every: 1, To: 5} }},
		{"spike.peak", "must be above 0", func(s *Spec) { s.Rate, s.Spike = nil, &Spike{Base: 1, Peak: -1, For: 1} }},
		{"spike.for", "longer than 0s", func(s *Spec) { s.Rate, s.Spike = nil, &Spike{Peak: 5} }},
		{"spike", "both 5/s", func(s *Spec) { s.Rate, s.Spike = nil, &Spike{Base: 5, Peak: 5, For: 1} }},
		{"sine.mean", "rate -1/s must be above 0", func(s *Spec) { s.Rate, s.Sine = nil, &Sine{Mean: -1, Amplitude: 1e-9, Period: 1} }},
		{"sine.amplitude", "above the mean 5/s", func(s *Spec) { s.Rate, s.Sine = nil, &Sine{Mean: 5, Amplitude: 6, Period: 1} }},
		{"sine", "add up to 1200000/s", func(s *Spec) { s.Rate, s.Sine = nil, &Sine{Mean: 6e5, Amplitude: 6e5, Period: 1} }},
		{"sine.period", "must be above 0s", func(s *Spec) { s.Rate, s.Sine = nil, &Sine{Mean: 5, Amplitude: 5} }},
		{"arrivals", "users ask when they have their answer", func(s *Spec) { s.Rate, s.Users, s.Spacing = nil, ptr(5), arrival.PoissonSpacing }},
		{"order", "weights mean nothing", func(s *Spec) {
			s.Request, s.Requests, s.Order = nil, []Request{{Method: "GET", Path: "/", Weight: ptr(1)}}, Listed
		}},
		{"order", "this stream has one request", func(s *Spec) { s.Order = Listed }},
		{"replay.file", "no such file", func(s *Spec) { s.Rate, s.Replay = nil, &Replay{File: "testdata/none"} }},
		{"replay.file", "no regular file", func(s *Spec) { s.Rate, s.Replay = nil, &Replay{File: "/dev/zero"} }},
		{"replay.file", "file is missing", func(s *Spec) { s.Rate, s.Replay = nil, &Replay{} }},
		{"users", "users is 0", func(s *Spec) { s.Rate, s.Users = nil, ptr(0) }},
		{"users", "users is -1", func(s *Spec) { s.Rate, s.Users = nil, ptr(-1) }},
		{"think", "must not be negative", func(s *Spec) { s.Rate, s.Users, s.Think = nil, ptr(1), -1 }},
		{"think", "this stream has none", func(s *Spec) { s.Think = 1 }},
		{"requests", "request and requests are given", func(s *Spec) { s.Requests = []Request{{Method: "GET", Path: "/"}} }},
		{"", "write request: METHOD /path", func(s *Spec) { s.Request = nil }},
		{"", "write request: METHOD /path", func(s *Spec) { s.Request, s.Requests = nil, []Request{} }},
		{"request.method", "capital letters", func(s *Spec) { s.Request.Method = "post" }},
		{"request.method", "missing", func(s *Spec) { s.Request.Method = "" }},
		{"request.method", "CONNECT", func(s *Spec) { s.Request.Method = "CONNECT" }},
		{"request.path", "is missing", func(s *Spec) { s.Request.Path = "" }},
		{"request.path", "must begin with /", func(s *Spec) { s.Request.Path = "checkout" }},
		{"request.path", "must begin with /", func(s *Spec) { s.Request.Path = "http://other/x" }},
		{"request.path", `must not contain ' '`, func(s *Spec) { s.Request.Path = "/a b" }},
		{"request.path", `must not contain 'ü'`, func(s *Spec) { s.Request.Path = "/ü" }},
		{"request.path", `must not contain '\n'`, func(s *Spec) { s.Request.Path = "/a\nb" }},
		{"request.path", `must not contain ' '`, func(s *Spec) { s.Request.Path = `/{{pick "a" "b c"}}` }},
		{"request.path", "fragments", func(s *Spec) { s.Request.Path = "/a#b" }},
		{"request.path", "invalid URL escape", func(s *Spec) { s.Request.Path = "/a%zz" }},
		{"request.path", "line 1, column 5 of the template", func(s *Spec) { s.Request.Path = "/a{{x}}" }},
		{"request.body", `body: line 1, column 12 of the template: no function "usr"`, func(s *Spec) { s.Request.Body = `{"user":"{{usr}}"}` }},
		{"body", "line 2, column 3 of the template", func(s *Spec) { s.Request.Body, s.Body = "", "{\n{{usr}}" }},
		{"requests[1].body", "unclosed action", func(s *Spec) {
			s.Request, s.Requests = nil, []Request{{Method: "GET", Path: "/"}, {Method: "PUT", Path: "/", Body: "{{"}}
		}},
		{"headers.X-A", "unclosed action", func(s *Spec) { s.Headers = map[string]string{"X-A": "{{"} }},
		{"request.headers.X A", "is not a header name", func(s *Spec) { s.Request.Headers = map[string]string{"X A": "1"} }},
		{"headers.content-length", "is set by chaosctl", func(s *Spec) { s.Headers = map[string]string{"content-length": "1"} }},
		{"headers.X", "line break", func(s *Spec) { s.Headers = map[string]string{"X": "a\r\nY: b"} }},
		{"request.headers.X", "line break", func(s *Spec) { s.Request.Headers = map[string]string{"X": `{{pick "a\n" "b\n"}}`} }},
		{"headers.Expect", "not supported", func(s *Spec) { s.Headers = map[string]string{"Expect": "100-continue"} }},
		{"timeout", "must be above 0s", func(s *Spec) { s.Timeout = ptr(time.Duration(0)) }},
		{"timeout", "must be above 0s", func(s *Spec) { s.Timeout = ptr(-time.Second) }},
		{"timeout", "at most 2m0s", func(s *Spec) { s.Timeout = ptr(time.Hour) }},
		{"request.timeout", "must be above 0s", func(s *Spec) { s.Request.Timeout = ptr(time.Duration(0)) }},
		{"requests[0].weight", "must not be negative", func(s *Spec) {
			s.Request, s.Requests = nil, []Request{{Method: "GET", Path: "/", Weight: ptr(-1)}, {Method: "GET", Path: "/"}}
		}},
		{"requests", "all weights are 0", func(s *Spec) { s.Request, s.Requests = nil, []Request{{Method: "GET", Path: "/", Weight: ptr(0)}} }},
		{"connections", "must be from 1", func(s *Spec) { s.Connections = ptr(0) }},
		{"connections", "must be from 1", func(s *Spec) { s.Connections = ptr(-4) }},
		{"ok[1]", "not a set of status codes", func(s *Spec) { s.OK = []StatusSet{{200, 299}, {500, 400}} }},
	} {
		found := problems(good(c.spoil))
		if !strings.Contains(found[c.path], c.message) || len(found) != 1 {
			t.Errorf("%q: found %q, want one mistake at %q with %q", c.message, found, c.path, c.message)
		}
	}
}

func TestCheckFindsAllAtOnce(t *testing.T) {
	s := Spec{Rate: perSecond(0), Timeout: ptr(time.Duration(0)), Connections: ptr(0),
		Request: &Request{Method: "get", Path: "x", Body: "{{x}}"}}
	got := slices.Sorted(maps.Keys(problems(s)))
	want := []string{"connections", "rate", "request.body", "request.method", "request.path", "timeout", "to"}
	if !slices.Equal(got, want) {
		t.Errorf("mistakes at %q, want %q", got, want)
	}
}

func TestModelAndDefaults(t *testing.T) {
	s := good(func(*Spec) {})
	if s.Model() != "open" || s.TimeoutOrDefault() != 10*time.Second || s.connections() != 1024 {
		t.Errorf("%s, %v, %d", s.Model(), s.TimeoutOrDefault(), s.connections())
	}
	s.Rate, s.Users, s.Timeout = nil, ptr(3000), ptr(time.Second)
	if s.Model() != "closed" || s.TimeoutOrDefault() != time.Second || s.connections() != 3000 {
		t.Errorf("%s, %v, %d", s.Model(), s.TimeoutOrDefault(), s.connections())
	}
	if _, ok := s.Arrivals(1); ok {
		t.Error("a closed stream has arrivals")
	}
}

// What goes over the wire is a request that net/http reads.
func TestRequestsOnTheWire(t *testing.T) {
	spec := Spec{Name: "s", Body: "for all", Headers: map[string]string{"X-A": "stream", "X-B": "stream"}, Requests: []Request{
		{Method: "POST", Path: "/checkout", Body: `{"n":{{seq}}}`, Headers: map[string]string{"x-a": "own {{seq}}"}},
		{Method: "PUT", Path: "/put"},
		{Method: "GET", Path: "/get?x={{int 1 3}}", Headers: map[string]string{"Host": "shop.example", "Traceparent": "mine"}},
		{Method: "DELETE", Path: "/d", Body: "[]", Headers: map[string]string{"Content-Type": "x/y"}},
	}}
	s := compile(spec, 1, func(path, format string, args ...any) { t.Errorf(path+": "+format, args...) })
	seen := map[string]bool{}
	for seq := range uint64(50) {
		raw, _, err := s.appendRequest(nil, nil, seq, "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(bytes.NewReader(raw))
		r, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || in.Buffered() != 0 {
			t.Fatalf("%q: %v, %d bytes left over", raw, err, in.Buffered())
		}
		seen[r.Method] = true
		h := r.Header
		type line struct{ body, kind, a, b, host string }
		got := line{string(body), h.Get("Content-Type"), h.Get("X-A"), h.Get("X-B"), r.Host}
		want := map[string]line{
			"POST":   {fmt.Sprintf(`{"n":%d}`, seq), "application/json", fmt.Sprintf("own %d", seq), "stream", "127.0.0.1:8080"},
			"PUT":    {"for all", "text/plain; charset=utf-8", "stream", "stream", "127.0.0.1:8080"},
			"GET":    {"", "", "stream", "stream", "shop.example"},
			"DELETE": {"[]", "x/y", "stream", "stream", "127.0.0.1:8080"},
		}[r.Method]
		if got != want {
			t.Errorf("%s: %+v, want %+v", r.Method, got, want)
		}
		if len(h.Values("X-A")) != 1 || len(h.Values("traceparent")) != 1 || (h.Get("traceparent") == "mine") != (r.Method == "GET") {
			t.Errorf("%q has other headers than it should", raw)
		}
		if method, path := s.describe(seq); method != r.Method || path != r.RequestURI {
			t.Errorf("request %d is described as %s %s, it is %s %s", seq, method, path, r.Method, r.RequestURI)
		}
		if (s.traceID(seq, 0) == "") != (r.Method == "GET") {
			t.Errorf("%s has trace id %q", r.Method, s.traceID(seq, 0))
		}
	}
	if len(seen) != 4 {
		t.Errorf("only %v were sent", seen)
	}
	empty := compile(Spec{Request: &Request{Method: "POST", Path: "/"}}, 1, nil)
	if raw, _, _ := empty.appendRequest(nil, nil, 0, "h"); !bytes.Contains(raw, []byte("Content-Length: 0\r\n")) {
		t.Errorf("a POST without body does not say so: %q", raw)
	}
}
