package toxiproxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// TestEveryKindOfRuleIsAToxic: nothing that the data plane can do is out of the API's reach.
func TestEveryKindOfRuleIsAToxic(t *testing.T) {
	reached := map[string]bool{}
	for _, k := range kinds {
		if r, is := k.sample().rule(); is {
			v := reflect.ValueOf(r)
			for i := range v.NumField() {
				if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
					reached[v.Type().Field(i).Name] = true
				}
			}
		}
	}
	rule := reflect.TypeFor[proxy.Rule]()
	for i := range rule.NumField() {
		if f := rule.Field(i); f.Type.Kind() == reflect.Pointer && !reached[f.Name] {
			t.Errorf("no type of toxic becomes a %s: add a row to kinds", f.Name)
		}
	}
}

// TestTheTableOfToxicsIsComplete: its attributes are those that are read, and what it says
// of each fits its JSON.
func TestTheTableOfToxicsIsComplete(t *testing.T) {
	example := map[string]any{
		"ms": 5, "µs": 5, "bytes": 5, "KB/s": 5, "share": 0.5, "number": 300, "text": "*", "list": []string{"GET"},
		"yes or no": true, "lines": map[string]string{"A": "b"},
	}
	words := map[string]any{"distribution": "normal", "where": "body", "from": "10.0.0.0/8"}
	for i, k := range kinds {
		if k.own != (i >= 9) || k.doc == "" {
			t.Errorf("%s: own %v, doc %q", k.name, k.own, k.doc)
		}
		var names []string
		for _, a := range slices.Concat(k.fields, Conditions) {
			names = append(names, a.Name)
			value := example[a.Type]
			if w := words[a.Name]; w != nil {
				value = w
			}
			if value == nil {
				t.Errorf("%s.%s: type %q", k.name, a.Name, a.Type)
				continue
			}
			outer, inner, nested := strings.Cut(a.Name, ".")
			if nested {
				value = map[string]any{inner: value}
			}
			if outer == "match" && (k.name == "refuse" || k.name == "slow_connect") {
				continue // they strike before there is a request
			}
			body := map[string]any{"type": k.name, "attributes": map[string]any{outer: value}}
			attributes := body["attributes"].(map[string]any)
			if outer == "pulse" {
				attributes[outer] = map[string]any{"active": 5, "pause": 5}
			}
			switch {
			case a.Name == "distribution":
				attributes["latency"], attributes["jitter"] = 5, 1
			case k.name == "slicer" && a.Name != "average_size":
				attributes["average_size"] = 10
			case k.name == "reshape" && outer != "request" && outer != "answer":
				attributes["request"] = map[string]any{"remove": []string{"X"}}
			}
			b, _ := json.Marshal(body)
			x, err := parseToxic(b, nil)
			if err != nil {
				t.Errorf("%s: %v", b, err)
				continue
			}
			out, _ := json.Marshal(x)
			var back struct{ Attributes map[string]any }
			if err := json.Unmarshal(out, &back); err != nil {
				t.Fatal(err)
			}
			want, _ := json.Marshal(attributes[outer])
			got, _ := json.Marshal(back.Attributes[outer])
			if !nested && !bytes.Equal(want, got) || nested && !strings.Contains(string(got), strings.Trim(string(want), "{}")) {
				t.Errorf("%s.%s: wrote %s, reads %s", k.name, a.Name, want, got)
			}
			if f, key, ok := AttributeOf(k.name, a.Name); !ok || f != a || key != "" {
				t.Errorf("%s.%s is not found", k.name, a.Name)
			}
		}
		// And none is missing.
		out, _ := json.Marshal(k.sample())
		var back struct{ Attributes map[string]any }
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatal(err)
		}
		for name := range back.Attributes {
			if !slices.ContainsFunc(names, func(n string) bool { return n == name || strings.HasPrefix(n, name+".") }) {
				t.Errorf("%s: the table has no attribute %s", k.name, name)
			}
		}
	}
	if a, key, ok := AttributeOf("http_error", "match.headers.X-Tenant.Id"); !ok || a.Type != "lines" || key != "X-Tenant.Id" {
		t.Errorf("a header: %+v %q %v", a, key, ok)
	}
	if _, _, ok := AttributeOf("latency", "rate"); ok {
		t.Error("a latency has no rate")
	}
}

func ok(t *testing.T, method, url, body string) string {
	t.Helper()
	resp, answer := send(t, method, url, body, nil)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s %s: %s", method, url, body, answer)
	}
	return answer
}

func listenOf(t *testing.T, answer string) string {
	t.Helper()
	var p struct{ Listen string }
	if err := json.Unmarshal([]byte(answer), &p); err != nil {
		t.Fatal(err)
	}
	return p.Listen
}

// TestHTTPProxies: toxics on requests, by what they say.
func TestHTTPProxies(t *testing.T) {
	s := startServer(t, Config{Seed: 7})
	var seen []string
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Added"))
		io.WriteString(w, "fine")
	}))
	defer behind.Close()
	at := "http://" + listenOf(t, ok(t, "POST", s.URL+"/proxies", `{"name":"web","protocol":"http","upstream":"`+behind.Listener.Addr().String()+`"}`))
	ok(t, "POST", s.URL+"/proxies/web/toxics", `{"type":"http_error","attributes":{"status":429,"body":"slow down","match":{"methods":["POST"],"path":"/pay*"},"first":2}}`)
	ok(t, "POST", s.URL+"/proxies/web/toxics", `{"type":"reshape","attributes":{"request":{"set":{"X-Added":"yes"}}}}`)
	for _, c := range []struct {
		method, path string
		status       int
	}{{"POST", "/pay/1", 429}, {"GET", "/pay/2", 200}, {"POST", "/buy", 200}, {"POST", "/pay/3", 429}, {"POST", "/pay/4", 200}} {
		resp, body := send(t, c.method, at+c.path, "", nil)
		if resp.StatusCode != c.status || c.status == 429 && body != "slow down" {
			t.Errorf("%s %s: %d %q, want %d", c.method, c.path, resp.StatusCode, body, c.status)
		}
	}
	if want := []string{"GET /pay/2 yes", "POST /buy yes", "POST /pay/4 yes"}; !slices.Equal(seen, want) {
		t.Errorf("the upstream saw %q, want %q", seen, want)
	}
	var stats Stats
	if err := json.Unmarshal([]byte(ok(t, "GET", s.URL+"/proxies/web/stats", "")), &stats); err != nil || stats.Toxics[0].Fired != 2 || stats.Toxics[0].Eligible != 3 {
		t.Errorf("%+v, %v", stats.Toxics, err)
	}
}

// TestUDPProxies: datagrams go through, toxics hit them, counts show it, and a disabled
// proxy is a closed port.
func TestUDPProxies(t *testing.T) {
	s := startServer(t, Config{Seed: 7})
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1<<16); ; {
			n, from, err := echo.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			echo.WriteTo(b[:n], from)
		}
	}()
	defer func() { echo.Close(); <-done }()
	made := ok(t, "POST", s.URL+"/proxies", `{"name":"dns","listen":"udp://127.0.0.1:0","upstream":"udp://`+echo.LocalAddr().String()+`"}`)
	at, is := strings.CutPrefix(listenOf(t, made), "udp://")
	if !is {
		t.Fatal(made)
	}
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	ask := func(question string, want ...string) {
		t.Helper()
		c.Write([]byte(question))
		for _, w := range want {
			b := make([]byte, 100)
			if n, err := c.Read(b); err != nil || string(b[:n]) != w {
				t.Fatalf("got %q, %v; want %q", b[:n], err, w)
			}
		}
	}
	ask("one", "one")
	ok(t, "POST", s.URL+"/proxies/dns/toxics", `{"type":"duplicate"}`)
	ask("two", "two", "two")
	ok(t, "DELETE", s.URL+"/proxies/dns/toxics/duplicate_downstream", "")
	ok(t, "POST", s.URL+"/proxies/dns/toxics", `{"type":"loss","stream":"upstream","attributes":{"rate":1,"first":1}}`)
	ask("three")
	ask("four", "four")
	var stats Stats
	if err := json.Unmarshal([]byte(ok(t, "GET", s.URL+"/proxies/dns/stats", "")), &stats); err != nil {
		t.Fatal(err)
	}
	if d := stats.Datagrams; d == nil || d.Upstream != 3 || d.Downstream != 4 || d.Lost["loss"] != 1 || stats.Toxics[0].Fired != 1 || stats.Connections.Open != 1 {
		t.Errorf("%+v, %+v", stats, stats.Datagrams)
	}
	ok(t, "DELETE", s.URL+"/proxies/dns/toxics/loss_upstream", "")
	ok(t, "POST", s.URL+"/proxies/dns", `{"enabled":false}`)
	c.Write([]byte("five"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a disabled proxy: %v, want connection refused", err)
	}
	if again := listenOf(t, ok(t, "POST", s.URL+"/proxies/dns", `{"enabled":true}`)); again != "udp://"+at {
		t.Errorf("it is at %s now", again)
	}
	ask("six", "six")
}

func TestToxicsAreBounded(t *testing.T) {
	_, err := parseToxic(fmt.Appendf(nil, `{"type":"http_error","attributes":{"body":%q}}`, strings.Repeat("x", mostAttributes)), nil)
	if err == nil || !strings.Contains(err.Error(), "want at most 65536") {
		t.Errorf("got %v", err)
	}
	var many []toxic
	for i := range maxMatches + 1 {
		x, err := parseToxic(fmt.Appendf(nil, `{"name":"%d","type":"latency","attributes":{"match":{"path":"/"}}}`, i), many)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, x)
	}
	if fit(many[1:], proxy.HTTP) != nil || asError(fit(many, proxy.HTTP)).Status != http.StatusConflict {
		t.Errorf("%d matches: %v", len(many), fit(many, proxy.HTTP))
	}
}

// FuzzAPI plays calls, a line each, "METHOD PATH BODY", to one server: whatever they are, no
// call panics or hangs, errors are the client's, answers are what they say they are, and
// the server keeps to its bounds.
func FuzzAPI(f *testing.F) {
	for _, name := range []string{"toxiproxy.txt", "chaosctl.txt", "extended.txt"} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		var calls []string
		for line := range strings.Lines(string(b)) {
			if call, is := strings.CutPrefix(line, "> "); is {
				calls = append(calls, call)
			}
			if len(calls) == 10 {
				f.Add(strings.Join(calls, ""))
				calls = nil
			}
		}
		f.Add(strings.Join(calls, ""))
	}
	f.Fuzz(func(t *testing.T, script string) {
		const most = 4
		s := NewServer(Config{MaxProxies: most})
		defer s.Stop()
		for line := range strings.Lines(script) {
			parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
			if len(parts) < 2 || !strings.HasPrefix(parts[1], "/") || !harmless(parts[2:]) {
				continue
			}
			r, err := http.NewRequest(parts[0], "http://localhost"+parts[1], strings.NewReader(strings.Join(parts[2:], "")))
			if err != nil {
				continue
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			switch {
			case w.Code >= 500 && !strings.Contains(w.Body.String(), "listen"):
				t.Fatalf("%q: %d %s", line, w.Code, w.Body)
			case w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()):
				t.Fatalf("%q: %d %s", line, w.Code, w.Body)
			}
			all := s.list()
			if len(all) > most {
				t.Fatalf("%d proxies, at most %d were to be", len(all), most)
			}
			for _, e := range all {
				st := e.now.Load()
				if len(st.toxics) > maxToxics {
					t.Fatalf("%d toxics", len(st.toxics))
				}
				if err := fit(st.toxics, st.protocol); err != nil {
					t.Fatalf("after %q: %v", line, err)
				}
			}
		}
	})
}

// harmless tells whether the fuzzer's body listens nowhere but at a port of 127.0.0.1
// that the kernel chooses: others may be in use, or names to be looked up.
func harmless(body []string) bool {
	var v any
	if len(body) == 0 || decode([]byte(body[0]), &v) != nil {
		return true
	}
	var look func(v any) bool
	look = func(v any) bool {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				at, text := inner.(string)
				if text && strings.EqualFold(key, "listen") && !slices.Contains([]string{"", "127.0.0.1:0", "udp://127.0.0.1:0", "udp://", ":0"}, at) || !look(inner) {
					return false
				}
			}
		case []any:
			return !slices.ContainsFunc(v, func(inner any) bool { return !look(inner) })
		}
		return true
	}
	return look(v)
}
