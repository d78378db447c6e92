package loadgen

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A secret goes over the wire and nowhere else: not into samples, results, or the
// plan, also where the server says it back, and where a message cuts it off.
func TestSecrets(t *testing.T) {
	const token = `pass"word&42 is a long one, longer than what a message quotes of an answer, which is eighty`
	t.Setenv("LOADGEN_TOKEN", token)
	var mu sync.Mutex
	var saw []string
	p := startPeer(t, func(c *peerConn, r *http.Request, _ int) bool {
		mu.Lock()
		saw = append(saw, r.Header.Get("Authorization")+" "+r.URL.Query().Get("key"))
		mu.Unlock()
		return say(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nYou said %s", len("You said "+token), token))
	})
	onEnginesOnly(t, func(t *testing.T, w way) {
		mu.Lock() // the race detector does not see what our own system calls put in order
		saw = nil
		mu.Unlock()
		s := Spec{
			Name: "a", To: "b", Users: ptr(1), Secrets: map[string]Secret{"token": {Env: "LOADGEN_TOKEN"}},
			Request: &Request{Method: "GET", Path: "/x?key={{urlquery .secret.token}}", Auth: &Auth{Bearer: "{{.secret.token}}"}},
		}
		if w.engine == General {
			s.Request.Check = checksOf(t, `body == "{{.secret.token}}!"`)
		} else {
			s.OK = []StatusSet{{201, 201}}
		}
		got := newSums()
		c := got.listen(Config{Spec: s, Engine: w.engine, Until: time.Hour, Requests: 3, Resolve: p.address})
		if err := Run(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(saw) != 3 || saw[0] != "Bearer "+token+" "+token {
			t.Errorf("the server saw %q", saw)
		}
		plan, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		told := fmt.Sprintf("%s %+v %+v", plan, got.samples, got.results)
		for _, part := range []string{token, token[:12], "pass", "long one"} {
			if strings.Contains(told, part) {
				t.Errorf("%q stands in what is told: %s", part, told)
			}
		}
		if !strings.Contains(told, "[secret token]") || len(got.samples) == 0 || len(got.results) != 3 {
			t.Errorf("nothing is told of it: %s", told)
		}
	})
}

func TestSecretsThatAreNotThere(t *testing.T) {
	s := Spec{Name: "a", To: "b", Users: ptr(1), Request: &Request{Method: "GET", Path: "/"}, Secrets: map[string]Secret{"token": {Env: "LOADGEN_NOWHERE"}, "short": {Env: "LOADGEN_SHORT"}}}
	t.Setenv("LOADGEN_SHORT", "abc")
	err := Run(context.Background(), Config{Spec: s, Until: time.Second, Resolve: func() string { t.Error("somebody was asked"); return "" }})
	if err == nil || !strings.Contains(err.Error(), "the environment has no LOADGEN_NOWHERE") || !strings.Contains(err.Error(), "LOADGEN_SHORT holds 3 characters") {
		t.Errorf("%v", err)
	}
}

func TestSecretsChecked(t *testing.T) {
	ask := func(path string) Spec {
		return Spec{To: "b", Users: ptr(1), Request: &Request{Method: "GET", Path: path}, Secrets: map[string]Secret{"token": {Env: "X"}}}
	}
	if got := problems(ask("/{{.secret.token}}")); len(got) > 0 {
		t.Errorf("%v", got)
	}
	if got := problems(ask("/{{.secret.tokn}}")); !strings.Contains(got["request.path"], ".secret.tokn is no secret of this stream (there are: token)") {
		t.Errorf("%v", got)
	}
	s := ask("/")
	s.Secrets = map[string]Secret{"to-ken": {Env: "X"}, "a": {Env: "$X"}, "b": {}}
	got := problems(s)
	for at, want := range map[string]string{"secrets.to-ken": "cannot name a secret", "secrets.a.env": "cannot name a variable", "secrets.b.env": "is missing"} {
		if !strings.Contains(got[at], want) {
			t.Errorf("%s: %q, want %q", at, got[at], want)
		}
	}
	// Without secrets the word means what it always did: nothing, or data.
	if got := problems(Spec{To: "b", Users: ptr(1), Request: &Request{Method: "GET", Path: "/{{.secret.x}}"}}); !strings.Contains(got["request.path"], "there is no data") {
		t.Errorf("%v", got)
	}
}
