package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
	"pgregory.net/rapid"
)

func TestMatchFits(t *testing.T) {
	const (
		get  = "GET /cart/7/items?x=/no HTTP/1.1\r\nHost: Shop.example:8080\r\nX-Tenant: blue\r\nx-tenant: Red\r\nEmpty:\r\n\r\n"
		post = "\r\nPOST http://u@api.example/ HTTP/1.1\nHost: other\n\n"
	)
	for _, c := range []struct {
		m          Match
		head, want string // yes or no, by head
	}{
		{Match{}, get, "yes"},
		{Match{Methods: []string{"PUT", "GET"}}, get, "yes"},
		{Match{Methods: []string{"PUT", "GET"}}, post, "no"},
		{Match{Path: "/cart/7/items"}, get, "yes"},
		{Match{Path: "/cart/7"}, get, "no"},
		{Match{Path: "/cart/7/items/"}, get, "no"},
		{Match{Path: "/cart/*"}, get, "yes"},
		{Match{Path: "/*/items"}, get, "yes"},
		{Match{Path: "*/no"}, get, "no"}, // only in the query
		{Match{Path: "/Cart/*"}, get, "no"},
		{Match{Path: "/"}, post, "yes"},
		{Match{Path: "/"}, "GET http://x HTTP/1.1\r\n\r\n", "yes"},
		{Match{Path: "/"}, "GET http://x?/y HTTP/1.1\r\n\r\n", "yes"},
		{Match{Path: "/a://b"}, "GET /a://b HTTP/1.1\r\n\r\n", "yes"},
		{Match{Path: "*"}, "OPTIONS * HTTP/1.1\r\n\r\n", "yes"},
		{Match{Path: "/*"}, "OPTIONS * HTTP/1.1\r\n\r\n", "no"},
		{Match{Path: "/*"}, "CONNECT db:5432 HTTP/1.1\r\n\r\n", "no"},
		{Match{Host: "db:5432"}, "CONNECT db:5432 HTTP/1.1\r\n\r\n", "yes"},
		{Match{Host: "shop.EXAMPLE"}, get, "yes"},
		{Match{Host: "shop.example:8080"}, get, "yes"},
		{Match{Host: "shop.example:80"}, get, "no"},
		{Match{Host: "*.example"}, get, "yes"},
		{Match{Host: "other"}, post, "no"}, // the target says it
		{Match{Host: "api.example"}, post, "yes"},
		{Match{Host: "[::1]"}, "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "yes"},
		{Match{Host: "[::1]"}, "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "yes"},
		{Match{Host: "x"}, "GET / HTTP/1.0\r\n\r\n", "no"},
		{Match{Headers: []Field{{Name: "x-TENANT"}}}, get, "yes"},
		{Match{Headers: []Field{{Name: "X-Tenant", Value: "Red"}}}, get, "yes"}, // the second line
		{Match{Headers: []Field{{Name: "X-Tenant", Value: "red"}}}, get, "no"},
		{Match{Headers: []Field{{Name: "X-Tenant", Value: "bl*"}, {Name: "Empty"}}}, get, "yes"},
		{Match{Headers: []Field{{Name: "X-Tenant"}, {Name: "Absent"}}}, get, "no"},
		{Match{Methods: []string{"GET"}, Path: "/nowhere", Host: "*"}, get, "no"},
	} {
		if err := c.m.wrong(); err != nil {
			t.Errorf("%+v: %v", c.m, err)
		}
		q := asked([]byte(c.head))
		if got := c.m.fits(&q); got != (c.want == "yes") {
			t.Errorf("%+v of %q: %v, want %s", c.m, c.head, got, c.want)
		}
	}
}

// FuzzAsked holds what a match looks at against net/http: where that understands
// a request, both see one host and one path.
func FuzzAsked(f *testing.F) {
	for _, s := range []string{
		"GET /a/b?c HTTP/1.1\r\nHost: x:80\r\nHOST: y\r\n\r\n",
		"GET http://u@x:1/a?b HTTP/1.1\r\nHost: y\r\n\r\n",
		"GET http://x?a/b HTTP/1.1\r\nHost: y\r\n\r\n",
		"\r\nOPTIONS * HTTP/1.1\nhost:\tx \n\n",
		"CONNECT x:1 HTTP/1.1\r\nHost: y\r\n\r\n",
		"CONNECT /rpc HTTP/1.0\r\n\r\n",
		"GET a:b://c HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := framing.ParseRequest(p)
		if err != nil {
			return
		}
		q := asked(p[:h.Size])
		theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(p, "\r\n"))))
		if err != nil {
			return
		}
		host := q.host
		if host == nil {
			host = q.field("Host")
		}
		if string(q.method) != theirs.Method || string(host) != theirs.Host && theirs.URL.Opaque == "" {
			t.Fatalf("we see %q on %q, net/http %q on %q, of %q", q.method, host, theirs.Method, theirs.Host, p)
		}
		if uri := theirs.RequestURI; uri[0] == '/' {
			if path, _, _ := strings.Cut(uri, "?"); path != string(q.path) {
				t.Fatalf("we see the path %q, net/http %q, of %q", q.path, path, p)
			}
		} else if path := theirs.URL.EscapedPath(); theirs.URL.Host != "" && len(theirs.URL.RawPath) > 0 && path != string(q.path) {
			t.Fatalf("we see the path %q, net/http %q, of %q", q.path, path, p)
		}
	})
}

// TestGlob holds patterns against regexp.
func TestGlob(t *testing.T) {
	letters := rapid.StringOfN(rapid.RuneFrom([]rune("aAb/")), 0, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		pattern := strings.Join(rapid.SliceOfN(letters, 1, 4).Draw(t, "pattern"), "*")
		s := letters.Draw(t, "s") + letters.Draw(t, "more")
		want := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", ".*") + "$").MatchString(s)
		if got := glob(pattern, []byte(s), false); got != want {
			t.Fatalf("%q of %q: %v, want %v", pattern, s, got, want)
		}
		want = regexp.MustCompile("(?i)^" + strings.ReplaceAll(pattern, "*", ".*") + "$").MatchString(s)
		if got := glob(pattern, []byte(s), true); got != want {
			t.Fatalf("%q of %q in whatever case: %v, want %v", pattern, s, got, want)
		}
	})
}

func TestMatchRefused(t *testing.T) {
	for want, r := range map[string]Rule{
		`method is "G T"`:                {Error: &Error{Status: 500}, Match: Match{Methods: []string{"G T"}}},
		`method is "get", want "GET"`:    {Error: &Error{Status: 500}, Match: Match{Methods: []string{"get"}}},
		`path is "cart"`:                 {Error: &Error{Status: 500}, Match: Match{Path: "cart"}},
		`path is "/cart?x"`:              {Error: &Error{Status: 500}, Match: Match{Path: "/cart?x"}},
		`host is "http://x"`:             {Error: &Error{Status: 500}, Match: Match{Host: "http://x"}},
		`header name is "a b"`:           {Error: &Error{Status: 500}, Match: Match{Headers: []Field{{Name: "a b"}}}},
		`header a is "\n"`:               {Error: &Error{Status: 500}, Match: Match{Headers: []Field{{Name: "a", Value: "\n"}}}},
		"a match is about requests":      {Refuse: &Refuse{}, Match: Match{Path: "/"}},
		"this is about connections: use": {Connect: &Connect{}, Match: Match{Path: "/"}},
	} {
		r.Name = "x"
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
	p := startProxy(t, TCP, "")
	for want, r := range map[string]Rule{
		"match needs an http edge, where requests can be told apart": {Latency: &Latency{}, Match: Match{Path: "/"}},
		"abort needs an http edge":                                   {Abort: &Abort{}},
		"reshape changes headers and needs an http edge":             {Reshape: &Reshape{Answer: Edit{Remove: []string{"x"}}}},
		"latency of the body needs an http edge":                     {Latency: &Latency{Where: Body}},
	} {
		r.Name = "x"
		if _, err := p.Add(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s on a TCP edge: %v, want %q", r.kind(), err, want)
		}
	}

	p = startProxy(t, HTTP, "")
	var all []Rule
	for i := range matchesMost {
		all = append(all, Rule{Name: fmt.Sprint("a", i), Error: &Error{Status: 500}, Match: Match{Path: "/"}})
	}
	one := Rule{Name: "one more", Error: &Error{Status: 500}, Match: Match{Path: "/"}}
	if err := p.SetRules(all); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Add(one); err == nil || !strings.Contains(err.Error(), "65 rules with a match, want at most 64") {
		t.Errorf("one too many: %v", err)
	}
	for i := range all { // all others, at once
		all[i].Name = fmt.Sprint("b", i)
	}
	if err := p.SetRules(all); err != nil {
		t.Error(err)
	}
	if err := p.SetRules(append(all, one)); err == nil {
		t.Error("one too many was taken")
	}
}

// TestMatchDrawsForItsCallsOnly: what does not match is neither hit nor counted,
// in the midst of a pipeline, and First and Every count what does.
func TestMatchDrawsForItsCallsOnly(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, hello))
	for status, r := range map[int]Rule{
		501: {Match: Match{Path: "/a"}, When: When{First: 2}},
		502: {Match: Match{Path: "/b"}, When: When{Every: 3}},
		503: {Match: Match{Methods: []string{"POST"}}},
		504: {Match: Match{Headers: []Field{{Name: "Hit"}}}, When: When{Ramp: time.Nanosecond, Source: "127.0.0.1"}},
		505: {Match: Match{Path: "/never"}},
	} {
		r.Name, r.Percent, r.Error = fmt.Sprint(status), 1, &Error{Status: status}
		add(t, p, r)
	}
	c := dial(t, p.Addr())
	script := []struct {
		request string
		want    int
	}{
		{"GET /c", 200}, {"GET /b", 200}, {"GET /a", 501}, {"POST /c", 503}, {"GET /b", 200},
		{"GET /a", 501}, {"GET /b", 502}, {"GET /a", 200}, {"GET /a", 200}, {"GET /b", 200}, {"GET /d", 504},
	}
	for _, x := range script {
		more := ""
		if x.want == 504 {
			more = "hit:\r\n"
		}
		c.send(x.request + " HTTP/1.1\r\nHost: x\r\n" + more + "Content-Length: 1\r\n\r\nx")
	}
	for _, x := range script {
		if status, _ := c.answer("GET"); status != x.want {
			t.Fatalf("%s: %d, want %d", x.request, status, x.want)
		}
	}
	s := p.Collect()
	for name, want := range map[string][2]int{"501": {4, 2}, "502": {4, 1}, "503": {1, 1}, "504": {1, 1}, "505": {0, 0}} {
		if r := s.Rules[name]; r.Eligible != want[0] || r.Fired != want[1] {
			t.Errorf("rule %s: fired %d of %d, want %d of %d", name, r.Fired, r.Eligible, want[1], want[0])
		}
	}
}

// TestMatchIsAskedOnce: a rule that comes while a call is under way does not have
// it, not even on the slot of one that had; with the same Match it keeps it, with
// another it lets it go.
func TestMatchIsAskedOnce(t *testing.T) {
	release := make(chan struct{})
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		if r.URL.Path == "/slow" {
			http.NewResponseController(w).Flush()
			<-release
		}
		io.WriteString(w, "0123456789")
	}))
	stalled := Rule{Name: "stall", Percent: 1, Bandwidth: &Bandwidth{Direction: Answer}, Match: Match{Path: "/slow"}}
	set := func(rs ...Rule) {
		t.Helper()
		if err := p.SetRules(rs); err != nil {
			t.Fatal(err)
		}
	}
	set(stalled)
	c := dial(t, p.Addr())
	c.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	collect(t, p, func(s Stats) bool { return s.Rules["stall"].Fired == 1 && s.Upstream == 1 })
	c.wantSilence()
	// As fast as may be from now on, but the same work: the call stays its call.
	fast := stalled
	fast.Bandwidth = &Bandwidth{BytesPerS: maxRate, Direction: Answer}
	set(fast)
	if line, err := c.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	set(stalled)
	other := stalled
	other.Match.Path = "/other"
	set(other) // lets the call go
	set(stalled, Rule{Name: "cut", Percent: 1, Reset: &Cut{After: 1}, Match: Match{Path: "/slow"}})
	close(release)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = c.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if body := make([]byte, 10); func() error { _, err := io.ReadFull(c, body); return err }() != nil || string(body) != "0123456789" {
		t.Errorf("body %q", body)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 1 })
	if s.Rules["cut"].Eligible != 0 || s.Rules["stall"].Eligible != 0 {
		t.Errorf("rules that came later were drawn: %+v", s.Rules)
	}
}

// TestMatchTunnels: what is behind an Upgrade is a connection, which no Match hits.
func TestMatchTunnels(t *testing.T) {
	p := startProxy(t, HTTP, startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		nc, rw, _ := w.(http.Hijacker).Hijack()
		defer nc.Close()
		io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(nc, rw)
	}))
	for i, r := range []Rule{
		{Bandwidth: &Bandwidth{BytesPerS: 0, Direction: Request}, Match: Match{Path: "/other"}},
		{Blackhole: &Cut{After: 500}, Match: Match{Path: "*"}},
		{Latency: &Latency{Delay: time.Hour, Where: Body}},
		{Corrupt: &Corrupt{Ratio: 1}},
		{Abort: &Abort{}},
		{Reshape: &Reshape{Answer: Edit{Set: []Field{{Name: "X-New", Value: "1"}}}}},
	} {
		r.Name, r.Percent = fmt.Sprint(i), 1
		add(t, p, r)
	}
	c := dial(t, p.Addr())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	a, err := http.ReadResponse(c.Reader, nil)
	if err != nil || a.StatusCode != 101 || a.Header.Get("X-New") != "1" {
		t.Fatalf("%+v, %v", a, err)
	}
	large := strings.Repeat("x", 10_000)
	c.send(large)
	got := make([]byte, len(large))
	if _, err := io.ReadFull(c.Reader, got); err != nil || string(got) != large {
		t.Errorf("%d bytes differ, %v", len(got), err)
	}
	for name, r := range p.Collect().Rules {
		if want := map[string]int{"0": 0, "2": 0}; r.Eligible > 1 || r.Fired > 1 {
			t.Errorf("rule %s fired %d of %d: for the connection too", name, r.Fired, r.Eligible)
		} else if n, is := want[name]; is && r.Eligible != n {
			t.Errorf("rule %s: %d eligible, want %d", name, r.Eligible, n)
		}
	}
}

// TestMatchedBandwidthIsPerCall: the calls that match take bytes/rate each, those
// between them no time at all, interim heads included.
func TestMatchedBandwidthIsPerCall(t *testing.T) {
	const size = 1000
	answer := "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", size)
	inBubble(t, HTTP, func(c net.Conn) {
		for buf := make([]byte, 4096); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
			io.WriteString(c, answer)
		}
	}, func(t *testing.T, p *Proxy, c net.Conn) {
		add(t, p, Rule{Name: "thin", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1000, Direction: Answer}, Match: Match{Path: "/thin"}})
		got := make([]byte, len(answer))
		hints := len("HTTP/1.1 103 Early Hints\r\n\r\n")
		for i, path := range []string{"/", "/thin", "/", "/thin", "/thin", "/"} {
			start := time.Now()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\n\r\n", path)
			if _, err := io.ReadFull(c, got[:hints]); err != nil || time.Since(start) != 0 {
				t.Fatalf("call %d: the interim head after %v, %v", i, time.Since(start), err)
			}
			_, err := io.ReadFull(c, got[hints:])
			want := time.Duration(0)
			if path == "/thin" {
				want = time.Duration(len(answer)-hints) * time.Second / 1000
			}
			if d := time.Since(start); err != nil || d != want || string(got) != answer {
				t.Errorf("call %d took %v, %v; want %v", i, d, err, want)
			}
		}
		if r := p.Collect().Rules["thin"]; r.Eligible != 3 || r.Fired != 3 || r.Bytes != int64(3*(len(answer)-hints)) {
			t.Errorf("rule %+v", r)
		}
	})
}

// TestMatchesAllocateNothing: neither when there is none, nor when there are some.
func TestMatchesAllocateNothing(t *testing.T) {
	p := startProxy(t, HTTP, "")
	head := []byte("POST /checkout/7?x=y HTTP/1.1\r\nHost: orders:8080\r\nUser-Agent: x/1.0\r\nX-Tenant-Of-A-Name-That-Is-Long: blue\r\n\r\n")
	for _, m := range []Match{
		{},
		{Methods: []string{"GET", "POST"}, Path: "/checkout/*", Host: "orders", Headers: []Field{{Name: "x-tenant-of-a-name-that-is-long", Value: "b*"}}},
		{Path: "*/nowhere"},
	} {
		add(t, p, Rule{Name: "x", Percent: 1, When: When{Every: 2}, Error: &Error{Status: 500}, Match: m})
		rs := *p.rules.Load()
		if n := testing.AllocsPerRun(100, func() { rs.marks(head) }); n != 0 {
			t.Errorf("%d rules: %v allocations", len(rs), n)
		}
	}
	rs := *p.rules.Load()
	if m := rs.marks(head); m.about != 1 || m.known != rs.last() {
		t.Errorf("marks %+v", m)
	}
}

// TestOthersBytesAreTheSame: under a storm of all that can be done to calls of one
// path, those of another arrive as they were sent, in whatever pieces.
func TestOthersBytesAreTheSame(t *testing.T) {
	over := make(chan struct{})
	p := startProxy(t, HTTP, startTCP(t, echoMessages))
	var all sync.WaitGroup
	all.Go(func() { // rules for /hit
		rng := rand.New(rand.NewPCG(3, 0))
		var removes []func()
		for {
			select {
			case <-over:
				for _, remove := range removes {
					remove()
				}
				return
			case <-time.After(time.Duration(rng.IntN(500)) * time.Microsecond):
			}
			if len(removes) > 12 {
				i := rng.IntN(len(removes))
				removes[i]()
				removes = append(removes[:i], removes[i+1:]...)
			}
			r := Rule{Name: fmt.Sprint("rule ", rng.IntN(8)), Percent: 1, Match: Match{Path: "/hit"}}
			if rng.IntN(2) == 0 {
				r.Match = Match{Headers: []Field{{Name: "Hit"}}}
			}
			callRule(rng, &r)
			removes = append(removes, add(t, p, r))
		}
	})
	for i := range 2 {
		all.Go(func() { // and calls that they hit
			rng := rand.New(rand.NewPCG(uint64(i), 4))
			for {
				select {
				case <-over:
					return
				default:
				}
				nc, err := net.Dial("tcp", p.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				nc.SetDeadline(time.Now().Add(time.Duration(rng.IntN(20)) * time.Millisecond))
				io.WriteString(nc, "POST /hit HTTP/1.1\r\nHit: 1\r\nContent-Length: 5\r\n\r\nhello")
				io.Copy(io.Discard, nc)
				nc.Close()
			}
		})
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := dial(t, p.Addr())
		defer c.Close()
		var want bytes.Buffer
		for range rapid.IntRange(1, 4).Draw(rt, "calls") {
			body := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(rt, "body")
			if rapid.Bool().Draw(rt, "chunked") {
				fmt.Fprintf(&want, "POST /hit/not HTTP/1.1\r\nX-Hit:  1 \r\nTransfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n0\r\nT: v\r\n\r\n", len(body), body)
			} else {
				fmt.Fprintf(&want, "POST /not HTTP/1.1\r\nHit-Not:1\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
		}
		sent := want.Bytes()
		cut := rapid.IntRange(0, len(sent)).Draw(rt, "cut")
		go func() {
			c.TCPConn.Write(sent[:cut])
			c.TCPConn.Write(sent[cut:])
			c.CloseWrite()
		}()
		got, err := io.ReadAll(c.Reader)
		if err != nil || !bytes.Equal(stripAnswers(got), sent) {
			rt.Fatalf("got %q, %v, want %q", got, err, sent)
		}
	})
	s := collect(t, p, func(s Stats) bool { // or there was no storm
		n := 0
		for _, r := range s.Rules {
			n += r.Fired
		}
		return n >= 50
	})
	close(over)
	all.Wait()
	if s.Opaque != 0 {
		t.Errorf("%d connections were not understood", s.Opaque)
	}
}

// callRule makes r a random rule about calls.
func callRule(rng *rand.Rand, r *Rule) {
	direction := []Direction{Both, Request, Answer}[rng.IntN(3)]
	switch rng.IntN(11) {
	case 0:
		r.Latency = &Latency{Delay: time.Duration(rng.IntN(8)) * time.Millisecond, Where: Body, Direction: string(Answer)}
	case 1:
		r.Latency = &Latency{Delay: time.Duration(rng.IntN(8)) * time.Millisecond, Where: Body, Direction: string(Request)}
	case 2:
		r.Bandwidth = &Bandwidth{BytesPerS: int64(rng.IntN(3)) * 10_000, Shared: rng.IntN(2) == 0, Direction: direction}
	case 3:
		r.Reset = &Cut{After: int64(rng.IntN(2)) * 60}
	case 4:
		r.Blackhole = &Cut{After: int64(rng.IntN(2)) * 60}
	case 5, 6:
		r.Abort = &Abort{After: int64(rng.IntN(3)) * 10, Close: rng.IntN(2) == 0}
	case 7:
		r.Corrupt = &Corrupt{Ratio: 0.3, Direction: direction}
	case 8:
		r.Reshape = &Reshape{Answer: Edit{Remove: []string{"Date", "Server"}, Set: []Field{{Name: "Content-Type", Value: "x/y"}}}}
	case 9:
		r.Reshape = &Reshape{Request: Edit{Set: []Field{{Name: "Host", Value: "elsewhere"}}, Add: []Field{{Name: "X-More", Value: "1"}}}}
	case 10:
		r.Error = &Error{Status: 500, Body: "injected"}
	}
}
