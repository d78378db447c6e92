package main

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/scenarios/expect"
)

// serveScripts gives the scripts a server in $WEB, and the same with TLS in
// $WEBTLS, whose certificate is authority.pem, both in HTTP/1.1 and HTTP/2; $GRPC has
// gRPC's health service, which health.binpb describes, and $GRPCS the same over TLS. The servers answer /NNN with that status, /slow after 60 ms, and anything else
// with hello; what it was asked stands in requests.log.
func serveScripts(env *testscript.Env) error {
	log, err := os.Create(filepath.Join(env.WorkDir, "requests.log"))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		fmt.Fprintf(log, "%s %s %s X=%s %s\n", r.Method, r.URL, r.Host, r.Header.Get("X"), body)
		mu.Unlock()
		status := 0
		if r.Header.Get("Upgrade") == "websocket" {
			echo(w, r)
			return
		}
		switch _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); {
		case err == nil:
			w.WriteHeader(status)
		case r.URL.Path == "/slow":
			time.Sleep(60 * time.Millisecond) // a server that takes so long, not a wait for something
		}
		_, _ = io.WriteString(w, "hello\n")
	})
	plain, secure := httptest.NewUnstartedServer(handler), httptest.NewUnstartedServer(handler)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	secure.EnableHTTP2 = true
	secure.StartTLS()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	calls := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(calls, health.NewServer())
	reflection.Register(calls)
	var serving sync.WaitGroup
	serving.Go(func() { _ = calls.Serve(listener) }) // until it is stopped
	env.Setenv("GRPC", "grpc://"+listener.Addr().String())
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto),
	}})
	if err == nil {
		err = os.WriteFile(filepath.Join(env.WorkDir, "health.binpb"), set, 0o644)
	}
	if err != nil {
		return err
	}
	// The same over TLS, with the certificate of $WEBTLS.
	guarded, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	safeCalls := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: secure.TLS.Certificates})))
	grpc_health_v1.RegisterHealthServer(safeCalls, health.NewServer())
	reflection.Register(safeCalls)
	serving.Go(func() { _ = safeCalls.Serve(guarded) })
	env.Setenv("GRPCS", "grpcs://"+guarded.Addr().String())
	env.Setenv("WEB", plain.URL)
	env.Setenv("HOSTPORT", strings.TrimPrefix(plain.URL, "http://"))
	env.Setenv("WEBTLS", secure.URL)
	env.Setenv("HOSTPORTTLS", strings.TrimPrefix(secure.URL, "https://"))
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(env.WorkDir, "authority.pem"), authority, 0o644); err != nil {
		return err
	}
	env.Defer(func() {
		plain.Close()
		secure.Close()
		calls.Stop()
		safeCalls.Stop()
		serving.Wait()
		log.Close()
	})
	return serveLines(env)
}

// echo is a WebSocket (RFC 6455) on which every message, of at most 125 bytes,
// comes back.
func echo(w http.ResponseWriter, r *http.Request) {
	c, in, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	for {
		head := make([]byte, 6) // kind, length, mask
		if _, err := io.ReadFull(in, head); err != nil || head[1]&0x7f > 125 {
			return
		}
		frame := make([]byte, 2+int(head[1]&0x7f))
		if _, err := io.ReadFull(in, frame[2:]); err != nil || head[0]&0x0f == 8 {
			return
		}
		frame[0], frame[1] = head[0], head[1]&0x7f
		for i := range frame[2:] {
			frame[2+i] ^= head[2+i%4]
		}
		if _, err := c.Write(frame); err != nil {
			return
		}
	}
}

// serveLines starts a server of lines, $LINES: each comes back behind "re: ".
func serveLines(env *testscript.Env) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { // ends with the client's connection
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := io.WriteString(c, "re: "+line); err != nil {
						return
					}
				}
			})
		}
	})
	env.Setenv("LINES", l.Addr().String())
	env.Defer(func() { l.Close(); all.Wait() })
	return nil
}

// The search as a table: a server whose knee is known, seen without error, is
// found to within the width, from below and from above, in a number of steps that
// grows with the logarithm.
func TestSearchFindsTheKnee(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Float64Range(1, 5000).Draw(t, "start")
		knee := rapid.Float64Range(1.5, 50_000).Draw(t, "knee")
		most := max(start, rapid.Float64Range(10, 100_000).Draw(t, "most"))
		c := &capacity{start: arrival.Rate(start), most: arrival.Rate(most)}
		steps := 0
		for rate, more := c.next(); more; rate, more = c.next() {
			if rate <= 0 || rate > most {
				t.Fatalf("step %d is at %v, outside (0, %v]", steps, rate, most)
			}
			if c.limit > 0 && rate >= c.limit || rate <= c.holds {
				t.Fatalf("step %d is at %v, which is known already: %v holds, %v does not", steps, rate, c.holds, c.limit)
			}
			o := stepHolds
			if rate > knee {
				o = stepFails
			}
			c.saw(rate, o)
			if steps++; steps > 40 {
				t.Fatalf("no end after %d steps: %v holds, %v does not", steps, c.holds, c.limit)
			}
		}
		switch {
		case knee >= most:
			if c.holds != most || c.limit != 0 {
				t.Fatalf("the knee %v is above %v: found %v, %v", knee, most, c.holds, c.limit)
			}
		case !(c.holds <= knee && knee < c.limit):
			t.Fatalf("the knee %v is not between %v and %v", knee, c.holds, c.limit)
		case c.limit > 1.06*c.holds && c.limit > 3: // three digits are coarse below
			t.Fatalf("the knee %v is known only between %v and %v", knee, c.holds, c.limit)
		}
	})
}

func TestSearchSteps(t *testing.T) {
	for name, c := range map[string]struct {
		seen []stepOutcome // in turn
		want []float64     // rates, the last one for holds
	}{
		"doubles, then bisects": {[]stepOutcome{stepHolds, stepHolds, stepFails, stepHolds, stepFails, stepFails, stepFails}, []float64{100, 200, 400, 283, 336, 308, 295, 283}},
		"halves down":           {[]stepOutcome{stepFails, stepFails, stepHolds, stepHolds, stepHolds, stepHolds, stepHolds}, []float64{100, 50, 25, 35.4, 42.1, 45.9, 47.9, 47.9}},
		"never":                 {[]stepOutcome{stepFails, stepFails, stepFails, stepFails, stepFails, stepFails, stepFails, stepFails}, []float64{100, 50, 25, 12.5, 6.25, 3.13, 1.57, 1, 0}},
		"to the top":            {[]stepOutcome{stepHolds, stepHolds, stepHolds, stepHolds}, []float64{100, 200, 400, 500, 500}},
		"saturated counts as a limit, not as a failure": {[]stepOutcome{stepHolds, stepSaturated, stepHolds, stepHolds, stepHolds, stepHolds}, []float64{100, 200, 141, 168, 183, 191, 191}},
	} {
		s := &capacity{start: 100, most: 500}
		for i, o := range c.seen {
			rate, more := s.next()
			if !more || rate != c.want[i] {
				t.Fatalf("%s: step %d is at %v (%t), want %v", name, i, rate, more, c.want[i])
			}
			s.saw(rate, o)
		}
		if rate, more := s.next(); more || s.holds != c.want[len(c.seen)] {
			t.Errorf("%s: then %v (%t), holds %v; want the end and %v", name, rate, more, s.holds, c.want[len(c.seen)])
		}
	}
}

func TestSearchSentence(t *testing.T) {
	clause, err := expect.Parse("p99 < 50ms")
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]capacity{
		"PASS  the knee: p99 < 50ms holds at 100/s and fails at 105/s": {holds: 100, limit: 105, reason: stepFails},
		"the most that was tried":                                      {holds: 100},
		"does not hold at any rate down to 1/s":                        {limit: 1, reason: stepFails},
		"says nothing about the server":                                {holds: 100, limit: 200, reason: stepSaturated},
		"at 200/s it is undecided":                                     {holds: 100, limit: 200, reason: stepUndecided},
		"INCONCLUSIVE  no rate down to 1/s":                            {limit: 1, reason: stepSaturated},
	} {
		r := searchResult{Objective: clause.String(), Status: "completed", Confidence: 0.95}
		if got := r.sentence(&c); !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want it to contain %q", c, got, want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]address{
		"http://h":                 {scheme: "http", authority: "h", path: "/"},
		"HTTPS://h:8443/a/b?c=d#e": {scheme: "https", authority: "h:8443", path: "/a/b?c=d"},
		"http://h?x=1":             {scheme: "http", authority: "h", path: "/?x=1"},
		"http://[::1]:80/items/{{int 1 100}}?a=b": {scheme: "http", authority: "[::1]:80", path: "/items/{{int 1 100}}?a=b"},
	} {
		if got, err := parseAddress(in); err != nil || got != want {
			t.Errorf("%q = %+v, %v; want %+v", in, got, err, want)
		}
	}
	a, err := parseAddress("http://me:se%20cret@h/")
	if err != nil || a.headers()["Authorization"] != "Basic bWU6c2UgY3JldA==" || a.authority != "h" {
		t.Errorf("%+v, %v, %v", a, a.headers(), err)
	}
	for in, want := range map[string]string{
		"ftp://h": "not a URL to send load to", "http://": "names no host", "http://:80": "names no host", "http://h:x": "invalid port", "h": "not a URL",
	} {
		if _, err := parseAddress(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

// Both of vegeta's formats, with its corner cases, come out as the same requests.
func TestReadTargets(t *testing.T) {
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, []byte(`{"a":"{{b}}"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	http := "# a comment\nGET http://h:1/a\nGET http://h:1/b?x=1\nX: 1\n# between\nX: 2\n\n\nPOST http://h:1/c\nHost: other\n@" + body + "\n"
	json := `{"method":"GET","url":"http://h:1/a"}` + "\n\n" + `{"method":"GET","url":"http://h:1/b?x=1","header":{"X":["1","2"]}}` + "\n" +
		`{"method":"POST","url":"http://h:1/c","header":{"Host":["other"]},"body":"eyJhIjoie3tifX0ifQ=="}`
	for format, src := range map[string]string{"http": http, "json": json} {
		all, err := readTargets("f", []byte(src))
		if err != nil || len(all) != 3 {
			t.Fatalf("%s: %d targets, %v", format, len(all), err)
		}
		got := ""
		for _, l := range all {
			got += fmt.Sprintf("%s %s X=%s Host=%s %s\n", l.request.Method, l.request.Path, l.request.Headers["X"], l.request.Headers["Host"], l.request.Body)
		}
		want := "GET /a X= Host=h:1 \nGET /b?x=1 X=1, 2 Host=h:1 \nPOST /c X= Host=other " + `{"a":"{{pick "{{"}}b}}"}` + "\n"
		if got != want {
			t.Errorf("%s:\n%swant:\n%s", format, got, want)
		}
	}
	for src, want := range map[string]string{
		"": "f: there is no target", "# only\n": "there is no target", "GET\n": `f:1: "GET" is not a target`,
		"GET http://h/\nfoo\n": `f:2: "foo" is not a header`, "GET http://h/\n\n@x\n": `f:3: "@x" is not a target`,
		"GET http://h/\n@/no/such\n": "f:2: the body", "GET /path\n": "f:1: \"/path\" is not a URL", `{"method":"GET","ulr":"x"}`: "f:1: json: unknown field",
		"{\"method\":\"GET\",\"url\":\"http://h\"}\n{": "f:2: unexpected EOF",
	} {
		if _, err := readTargets("f", []byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", src, err, want)
		}
	}
}

// What the windows say adds up, in any order, and warm-up is left out.
func TestLoadResult(t *testing.T) {
	rate := arrival.Rate(100)
	p := &loadPlan{
		spec:   loadgen.Spec{Name: "load", To: "h", Request: &loadgen.Request{Method: "GET", Path: "/"}, Rate: &rate},
		target: loadTarget{scheme: "http", authority: "h", address: "127.0.0.1:80"}, warmup: time.Second, duration: 2 * time.Second, confidence: 0.95,
	}
	clause, _ := expect.Parse("ok >= 50%")
	p.objectives = []verdict.Objective{{Clause: clause}}
	outcome := func(late int) *loadOutcome {
		o := newLoadOutcome(p)
		for i := 29; i >= 0; i-- {
			c := newLoadCounts()
			w := loadgen.Window{
				Load: "load", Due: time.Duration(i) * windowLength, DueCount: 10, Sent: 10, OK: 9, Failed: 1, Late: late,
				OKLatency: c.latency, FailedLatency: c.lag, Outcomes: map[string]int{"200": 9, "503": 1}, BytesSent: 5,
			}
			w.OKLatency.RecordN(10*time.Millisecond, 9)
			w.FailedLatency.Record(20 * time.Millisecond)
			o.add(w)
		}
		o.took = 3 * time.Second
		return o
	}
	r := p.result(outcome(0))
	if r.Due != 200 || r.Sent != 200 || r.OK != 180 || r.Failed != 20 || r.Outcomes["503"] != 20 || r.BytesSent != 100 {
		t.Errorf("counts: %+v", r.LoadResult)
	}
	if math.Abs(r.P50S-0.01) > 1e-4 || math.Abs(r.P95S-0.02) > 1e-4 || r.SentPerS != 100 || r.OKPerS != 90 || math.Abs(r.AskedPerS-100) > 1e-9 {
		t.Errorf("p50 %v, p95 %v, %v/s sent, %v/s ok, %v/s asked", r.P50S, r.P95S, r.SentPerS, r.OKPerS, r.AskedPerS)
	}
	if r.Verdict != "pass" || r.exitCode() != exitPass || len(r.Warnings) != 0 {
		t.Errorf("verdict %s %v, warnings %v", r.Verdict, r.Reasons, r.Warnings)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("name model due sent ok failed queued dropped late p50_s p90_s p95_s p99_s p999_s max_s") {
		if !strings.Contains(string(raw), `"`+name+`":`) {
			t.Errorf("the JSON has no %q: %s", name, raw)
		}
	}

	if r := p.result(outcome(1)); r.Verdict != "inconclusive" || r.exitCode() != exitInconclusive {
		t.Errorf("10 %% late: verdict %s %v", r.Verdict, r.Reasons)
	}
	var text strings.Builder
	o := outcome(0)
	for range 100 { // a generator with a lag of its own shows it
		o.total.service.Record(10 * time.Millisecond)
		o.total.lag.Record(3 * time.Millisecond)
	}
	if err := (loadText{w: &text, width: 80}).result(p, o, p.result(o)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"requests   200 due, 200 sent, 180 ok, 20 failed\n", "rate       100/s sent of 100/s asked, 90/s ok, for 2.00 s\n",
		"latency    service        lag\n", "p95            20.0 ms    10.0 ms    3.00 ms\n", "answers    200               180\n           503                20\n",
		"pass         ok >= 50%: 90% good, bounds ", "\nPASS  The one claim holds",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "\x1b") || strings.Contains(text.String(), "queued") {
		t.Errorf("colours without a terminal, or counts that are 0:\n%s", text.String())
	}

	p.objectives = nil
	if r := p.result(outcome(1)); r.exitCode() != exitPass || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "generator saturated") {
		t.Errorf("10 %% late, no objective: exit %d, warnings %v", r.exitCode(), r.Warnings)
	}
	o = outcome(0)
	o.total.connects = 150
	if r := p.result(o); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "hardly ever used twice") {
		t.Errorf("no keep-alive: %v", r.Warnings)
	}
	o = outcome(0)
	o.status = "interrupted"
	if r := p.result(o); r.exitCode() != exitAborted {
		t.Errorf("interrupted: exit %d", r.exitCode())
	}
}

// TestLoadDoc: the commands of docs/load.md parse, and its streams are valid.
func TestLoadDoc(t *testing.T) {
	text := readDoc(t, "docs/load.md")
	commands := regexp.MustCompile("(?m)(?:^    |`)chaosctl (load [^`\n]*)").FindAllStringSubmatch(text, -1)
	if len(commands) < 12 {
		t.Fatalf("only %d commands found", len(commands))
	}
	for _, m := range commands {
		args, err := shlex(m[1])
		if err != nil {
			t.Errorf("%s: %v", m[1], err)
			continue
		}
		cmd, rest, err := newRoot().Find(args)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(cmd.ParseFlags(rest), cmd.ValidateArgs(cmd.Flags().Args()), checkConflicts(cmd.Flags().Changed)); err != nil {
			t.Errorf("chaosctl %s: %v", m[1], err)
		}
	}
	stream := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(text)
	s, _, err := readStream("docs/load.md", []byte(stream[1]))
	if err != nil {
		t.Fatal(err)
	}
	s.Check(func(path, format string, args ...any) { t.Errorf("%s: %s", path, fmt.Sprintf(format, args...)) })
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:rate|ramp|stages|step|spike|sine): [^`]*)`").FindAllStringSubmatch(text, -1) {
		s, _, err := readStream("docs/load.md", []byte("to: http://h\nrequest: GET /\n"+m[1]+"\n"))
		if err != nil {
			t.Error(err)
			continue
		}
		s.Check(func(path, format string, args ...any) {
			t.Errorf("%s: %s: %s", m[1], path, fmt.Sprintf(format, args...))
		})
	}
}

// shlex splits a command line at spaces outside single quotes.
func shlex(line string) (args []string, err error) {
	parts := strings.Split(line, "'")
	if len(parts)%2 == 0 {
		return nil, errors.New("an odd number of quotes")
	}
	for i, part := range parts {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args, nil
}
