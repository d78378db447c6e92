package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// wantStreamError wants RST_STREAM with that code, on a connection that goes on.
func wantStreamError(t *testing.T, err error, code http2.ErrCode) {
	t.Helper()
	// net/http has its own copy of http2.StreamError.
	if err == nil || !strings.Contains(err.Error(), "stream error") || !strings.Contains(err.Error(), code.String()) {
		t.Errorf("got %v, want a stream reset with %v", err, code)
	}
}

func TestH2Error(t *testing.T) {
	p := startProxy(t, HTTP, startH2(t, hello))
	c, url := h2Client(t), "http://"+p.Addr()
	remove := add(t, p, Rule{Name: "e", Percent: 1, Error: &Error{Status: 503, Body: "no"}, Match: Match{Methods: []string{"POST"}, Path: "/pay/*", Host: "127.0.0.1", Headers: []Field{{Name: "User-Agent", Value: "Go*"}}}})
	if status, body := ask(t, c, "POST", url+"/pay/1?x=1", strings.Repeat("x", 1<<20)); status != 503 || body != "no" {
		t.Errorf("%d %q, want the rule's answer", status, body)
	}
	if status, _ := ask(t, c, "GET", url+"/pay/1", ""); status != 200 {
		t.Errorf("status %d, want 200: it does not match", status)
	}
	if status, body := ask(t, c, "POST", url+"/other", "b"); status != 200 || body != "/other b" {
		t.Errorf("%d %q, want the upstream's answer", status, body)
	}
	remove()
	if status, _ := ask(t, c, "POST", url+"/pay/1", "b"); status != 200 {
		t.Errorf("status %d after the rule was removed", status)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 3 && s.Answers["503"] == 1 })
	if r := s.Rules["e"]; s.Calls != 4 || s.Upstream != 3 || r.Eligible != 1 || r.Fired != 1 || r.Bytes == 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestH2TheSameCallsAreHit: a rule hits the calls on one connection that it would hit on
// HTTP/1.1, by their numbers.
func TestH2TheSameCallsAreHit(t *testing.T) {
	hits := func(h2 bool, r Rule) (all []int) {
		p := startProxy(t, HTTP, startH2(t, hello))
		add(t, p, r)
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		c := &http.Client{Transport: transport}
		if h2 {
			c = h2Client(t)
		}
		for range 60 {
			a, err := c.Get("http://" + p.Addr() + "/x")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, a.Body)
			a.Body.Close()
			all = append(all, a.StatusCode)
		}
		return all
	}
	for _, r := range []Rule{
		{Name: "half", Percent: 0.5, Error: &Error{Status: 500}},
		{Name: "match", Percent: 0.5, Error: &Error{Status: 500}, Match: Match{Path: "/x"}},
		{Name: "first", Percent: 1, Error: &Error{Status: 500}, When: When{First: 7, Every: 2}},
		{Name: "every", Percent: 1, Error: &Error{Status: 500}, When: When{Every: 3}, Match: Match{Methods: []string{"GET"}}},
	} {
		one, two := hits(false, r), hits(true, r)
		if fmt.Sprint(one) != fmt.Sprint(two) || !strings.Contains(fmt.Sprint(two), "500") || !strings.Contains(fmt.Sprint(two), "200") {
			t.Errorf("%s: hit on HTTP/1.1 %v, on HTTP/2 %v", r.Name, one, two)
		}
	}
}

func TestH2Latency(t *testing.T) {
	const delay = 100 * time.Millisecond
	for name, l := range map[string]Latency{
		"answer":       {Delay: delay},
		"request":      {Delay: delay, Direction: "request"},
		"answer body":  {Delay: delay, Where: Body},
		"request body": {Delay: delay, Where: Body, Direction: "request"},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(200)
				http.NewResponseController(w).Flush()
				io.Copy(w, r.Body)
				io.WriteString(w, "!")
			}))
			add(t, p, Rule{Name: "l", Percent: 1, Latency: &l, Match: Match{Path: "/slow"}})
			c := h2Client(t)
			ask(t, c, "GET", "http://"+p.Addr()+"/", "")
			begun := time.Now()
			r, _ := http.NewRequest("POST", "http://"+p.Addr()+"/slow", strings.NewReader("x"))
			a, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			headed := time.Since(begun)
			body, err := io.ReadAll(a.Body)
			if err != nil || string(body) != "x!" {
				t.Errorf("%q, %v", body, err)
			}
			if took := time.Since(begun); took < delay {
				t.Errorf("the call took %v, want %v at least", took, delay)
			}
			if l.Where == "" && headed < delay {
				t.Errorf("the head came after %v, want %v at least", headed, delay)
			}
			s := collect(t, p, func(s Stats) bool { return s.Rules["l"].Delay != nil && s.Rules["l"].Delay.Count() == 1 })
			if r := s.Rules["l"]; r.Fired != 1 || r.Delay.Max() < delay {
				t.Errorf("evidence %+v", r)
			}
		})
	}
}

// TestH2OthersGoOn: what one stream has to wait for holds back no other, and what was
// held goes on when the rule is removed.
func TestH2OthersGoOn(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 3<<20)
	p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Sent", fmt.Sprint(n))
		w.Write(large)
	}))
	var removes []func()
	for _, r := range []Rule{
		{Name: "answer", Latency: &Latency{Delay: time.Hour}},
		{Name: "body", Latency: &Latency{Delay: time.Hour, Where: Body}},
		{Name: "request", Latency: &Latency{Delay: time.Hour, Direction: "request"}},
		{Name: "line", Bandwidth: &Bandwidth{}},
	} {
		r.Percent, r.Match = 1, Match{Path: "/" + r.Name}
		removes = append(removes, add(t, p, r))
	}
	c, url := h2Client(t), "http://"+p.Addr()
	ask(t, c, "GET", url+"/", "")
	held := make(chan error, 16)
	for i := range 16 {
		path := []string{"/answer", "/body", "/request", "/line"}[i%4]
		go func() {
			a, err := c.Post(url+path, "", bytes.NewReader(large[:1<<20]))
			if err == nil {
				defer a.Body.Close()
				var n int64
				if n, err = io.Copy(io.Discard, a.Body); n != int64(len(large)) || a.Header.Get("Sent") != fmt.Sprint(1<<20) {
					err = errors.Join(err, fmt.Errorf("%s: %d bytes came down, %s went up", path, n, a.Header.Get("Sent")))
				}
			}
			held <- err
		}()
	}
	collect(t, p, func(s Stats) bool { return s.Calls == 17 })
	for range 3 {
		if status, body := ask(t, c, "POST", url+"/free", string(large)); status != 200 || len(body) != len(large) {
			t.Fatalf("%d, %d bytes", status, len(body))
		}
	}
	select {
	case err := <-held:
		t.Fatalf("a call was not held: %v", err)
	default:
	}
	for _, remove := range removes {
		remove()
	}
	for range 16 {
		if err := <-held; err != nil {
			t.Error(err)
		}
	}
	if held := p.held.claimed.Load(); held != 0 {
		t.Errorf("%d bytes are still claimed", held)
	}
}

// TestH2Cuts: what ends a call ends its stream, with the codes that the rules have.
func TestH2Cuts(t *testing.T) {
	const size = 300_000
	for name, c := range map[string]struct {
		rule  Rule
		body  int // bytes of it that arrive; -1: no answer comes; -2: some of it
		class string
		whole bool
	}{
		"reset":         {Rule{Reset: &Cut{}}, -1, wasReset, false},
		"reset after":   {Rule{Reset: &Cut{After: 100_000}}, -2, wasReset, false},
		"reset in head": {Rule{Reset: &Cut{After: 10}}, -1, wasReset, false},
		"abort":         {Rule{Abort: &Abort{After: 100_000}}, 100_000, wasReset, false},
		"abort at once": {Rule{Abort: &Abort{}}, 0, wasReset, false},
		"abort at end":  {Rule{Abort: &Abort{After: size}}, size, wasReset, false},
		"abort beyond":  {Rule{Abort: &Abort{After: size + 1}}, size, "200", true},
		"abort, closed": {Rule{Abort: &Abort{After: 100_000, Close: true}}, 100_000, wasClosed, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
				w.Write(make([]byte, size))
			}))
			c.rule.Name, c.rule.Percent, c.rule.Match = "r", 1, Match{Path: "/cut"}
			add(t, p, c.rule)
			client := h2Client(t)
			ask(t, client, "GET", "http://"+p.Addr()+"/", "")
			a, err := client.Get("http://" + p.Addr() + "/cut")
			n := int64(-1)
			if err == nil {
				n, err = io.Copy(io.Discard, a.Body)
				a.Body.Close()
			}
			if c.body == -2 && (n < 90_000 || n > 100_000) || c.body != -2 && n != int64(c.body) {
				t.Errorf("%d bytes came, want %d (-1: no head)", n, c.body)
			}
			if !c.whole {
				wantStreamError(t, err, http2.ErrCodeInternal)
			} else if err != nil {
				t.Error(err)
			}
			ask(t, client, "GET", "http://"+p.Addr()+"/", "")
			want := map[string]int{"200": 2}
			want[c.class]++
			s := collect(t, p, func(s Stats) bool { return fmt.Sprint(s.Answers) == fmt.Sprint(want) })
			if s.Calls != 3 || s.Open != 1 || s.Opaque != 0 || s.Rules["r"].Fired != 1 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// TestH2Blackhole: the stream is silent, the others go on, and it is reset when the
// rule is removed.
func TestH2Blackhole(t *testing.T) {
	for _, after := range []int64{0, 1000} {
		p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
			w.Write(make([]byte, 5000))
		}))
		c, url := h2Client(t), "http://"+p.Addr()
		remove := add(t, p, Rule{Name: "b", Percent: 1, Blackhole: &Cut{After: after}, Match: Match{Path: "/b"}})
		ended := make(chan error, 2)
		for range 2 {
			go func() {
				_, _, err := askErr(c, "POST", url+"/b", strings.Repeat("x", 3<<20))
				ended <- err
			}()
		}
		collect(t, p, func(s Stats) bool { return s.Rules["b"].Fired == 2 && s.Rules["b"].Bytes > 0 })
		for range 5 {
			if status, body := ask(t, c, "POST", url+"/", strings.Repeat("x", 3<<20)); status != 200 || len(body) != 5000 {
				t.Fatalf("%d, %d bytes", status, len(body))
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		given := make(chan struct{})
		go func() {
			defer close(given)
			r, _ := http.NewRequestWithContext(ctx, "GET", url+"/b", nil)
			if a, err := c.Do(r); err == nil {
				io.Copy(io.Discard, a.Body)
				a.Body.Close()
			}
		}()
		collect(t, p, func(s Stats) bool { return s.Rules["b"].Fired == 1 })
		cancel()
		<-given
		s := collect(t, p, func(s Stats) bool { return s.Answers[wasCanceled] == 1 })
		remove()
		for range 2 {
			wantStreamError(t, <-ended, http2.ErrCodeInternal)
		}
		if s = collect(t, p, func(s Stats) bool { return s.Answers[wasClosed] == 2 }); s.Open != 1 {
			t.Errorf("stats %+v", s)
		}
	}
}

// TestH2RulesThatCome: rules that are added while calls are under way hit those.
func TestH2RulesThatCome(t *testing.T) {
	for name, r := range map[string]Rule{
		"reset":  {Reset: &Cut{}},
		"passed": {Reset: &Cut{After: 1000}},
		"abort":  {Abort: &Abort{After: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
				w.Write(make([]byte, 5000))
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			c := h2Client(t)
			a, err := c.Get("http://" + p.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			if _, err := io.ReadFull(a.Body, make([]byte, 5000)); err != nil {
				t.Fatal(err)
			}
			r.Name, r.Percent = "r", 1
			add(t, p, r)
			_, err = io.Copy(io.Discard, a.Body)
			wantStreamError(t, err, http2.ErrCodeInternal)
			// Nothing is under way: a reset has the connection itself.
			if name == "reset" {
				add(t, p, Rule{Name: "idle", Percent: 1, Reset: &Cut{}})
				collect(t, p, func(s Stats) bool { return s.Open == 0 })
			}
		})
	}
}

func TestH2Reshape(t *testing.T) {
	p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "upstream")
		fmt.Fprint(w, r.Host, " ", r.Header.Get("Tenant"), " ", r.Header["Added"], " ", r.Header.Get("Cookie"))
	}))
	add(t, p, Rule{Name: "r", Percent: 1, Reshape: &Reshape{
		Request: Edit{Remove: []string{"Cookie"}, Set: []Field{{Name: "Host", Value: "other.example"}, {Name: "Tenant", Value: "blue"}}, Add: []Field{{Name: "Added", Value: "1"}}},
		Answer:  Edit{Remove: []string{"date"}, Set: []Field{{Name: "SERVER", Value: "proxy"}}},
	}})
	r, _ := http.NewRequest("GET", "http://"+p.Addr(), nil)
	r.Header.Set("Tenant", "red")
	r.Header.Set("Cookie", "a=b")
	a, err := h2Client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, _ := io.ReadAll(a.Body)
	if string(body) != "other.example blue [1] " || a.Header.Get("Server") != "proxy" || a.Header.Get("Date") != "" {
		t.Errorf("%q, %v", body, a.Header)
	}
}

// TestH2Corrupt: the bits that are flipped are those of HTTP/1.1.
func TestH2Corrupt(t *testing.T) {
	upstream := startH2(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	get := func(c *http.Client) []byte {
		p := startProxy(t, HTTP, upstream)
		add(t, p, Rule{Name: "c", Percent: 1, Corrupt: &Corrupt{Ratio: 0.01, Direction: Answer}})
		a, err := c.Post("http://"+p.Addr(), "", bytes.NewReader(make([]byte, 200_000)))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		if s := p.Collect(); s.Rules["c"].Bytes < 1500 || s.Rules["c"].Bytes > 2500 {
			t.Errorf("%d bits flipped of %d bytes, want about 2000: %+v", s.Rules["c"].Bytes, len(body), s)
		}
		return body
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if one, two := get(&http.Client{Transport: transport}), get(h2Client(t)); !bytes.Equal(one, two) || bytes.Equal(two, make([]byte, len(two))) {
		t.Error("other bits are flipped than on HTTP/1.1, or none")
	}
}

// TestH2Bandwidth: each request has the rate to itself, whatever else its connection carries.
func TestH2Bandwidth(t *testing.T) {
	p := startProxy(t, HTTP, startH2(t, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 100_000)) }))
	add(t, p, Rule{Name: "b", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 200_000, Direction: Answer}, Match: Match{Path: "/slow"}})
	add(t, p, Rule{Name: "s", Percent: 1, Slice: &Slice{Average: 10_000, Delay: time.Millisecond, Direction: Answer}, Match: Match{Path: "/slow"}})
	c := h2Client(t)
	ask(t, c, "GET", "http://"+p.Addr(), "")
	begun := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, body, err := askErr(c, "GET", "http://"+p.Addr()+"/slow", ""); err != nil || len(body) != 100_000 {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			if took := time.Since(begun); took < 400*time.Millisecond {
				t.Errorf("100 kB at 200 kB/s took %v", took)
			}
		})
	}
	all.Wait()
	if s := p.Collect(); s.Rules["b"].Fired != 4 || s.Rules["b"].Bytes < 400_000 {
		t.Errorf("evidence %+v", s.Rules["b"])
	}
}

// TestH2Pulse: a rule that comes and goes on one connection.
func TestH2Pulse(t *testing.T) {
	p := startProxy(t, HTTP, startH2(t, hello))
	add(t, p, Rule{Name: "p", Percent: 1, Error: &Error{Status: 500}, When: When{Pulse: Pulse{On: 5 * time.Millisecond, Off: 5 * time.Millisecond}}})
	c := h2Client(t)
	seen := map[int]int{}
	for limit := time.Now().Add(patience); time.Now().Before(limit) && (seen[200] == 0 || seen[500] == 0); {
		status, _ := ask(t, c, "GET", "http://"+p.Addr(), "")
		seen[status]++
	}
	if seen[200] == 0 || seen[500] == 0 {
		t.Errorf("statuses %v, want both", seen)
	}
}
