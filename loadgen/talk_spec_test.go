package loadgen

import (
	"strings"
	"testing"
)

// What a protocol has no meaning for is refused at its place, and what it needs is
// asked for.
func TestTalkChecked(t *testing.T) {
	login := &Login{User: "u"}
	for _, c := range []struct {
		name string
		spec Spec
		want map[string]string
	}{
		{"redis", Spec{Protocol: Redis, Request: shortly("GET key-{{int 1 9}}")}, nil},
		{"a path is a word", Spec{Protocol: Redis, Request: shortly("GET /x")}, nil},
		{"redis with statuses", Spec{Protocol: Redis, Request: shortly("GET x"), OK: []StatusSet{{200, 299}}}, map[string]string{"ok": "has no meaning with protocol redis"}},
		{"redis in HTTP's words", Spec{Protocol: Redis, Request: &Request{Method: "GET", Path: "/", Body: "x"}},
			map[string]string{"request.method": "no meaning", "request.path": "no meaning", "request.body": "no meaning", "request": "the command is missing"}},
		{"redis subscribes", Spec{Protocol: Redis, Request: shortly("subscribe news")}, map[string]string{"request": "SUBSCRIBE is not answered once"}},
		{"redis selects", Spec{Protocol: Redis, Request: shortly("SELECT 3")}, map[string]string{"request": "write login"}},
		{"redis with a quote", Spec{Protocol: Redis, Request: shortly(`SET "a`)}, map[string]string{"request": "is not closed"}},
		{"redis with a template", Spec{Protocol: Redis, Request: &Request{Command: []string{"GET", "{{nobody}}"}}}, map[string]string{"request.command[1]": `no function "nobody"`}},
		{"redis twice", Spec{Protocol: Redis, Request: &Request{Command: []string{"GET"}, Text: "GET x", brief: true}}, map[string]string{"request.command": "twice"}},
		{"redis' database", Spec{Protocol: Redis, Request: shortly("PING"), Login: &Login{Database: "orders"}}, map[string]string{"login.database": "Redis numbers them"}},
		{"a login's template", Spec{Protocol: Redis, Request: shortly("PING"), Login: &Login{Password: "{{.order}}"}}, map[string]string{"login.password": "there is no data"}},
		{"postgres", Spec{Protocol: Postgres, Login: login, Request: shortly("select 1")}, nil},
		{"postgres for nobody", Spec{Protocol: Postgres, Request: shortly("select 1")}, map[string]string{"login": "who asks is missing"}},
		{"postgres with a command", Spec{Protocol: Postgres, Login: login, Request: &Request{Command: []string{"a"}}}, map[string]string{"request.command": "no meaning", "request": "the query is missing"}},
		{"postgres copies", Spec{Protocol: Postgres, Login: login, Request: shortly("copy t from stdin")}, map[string]string{"request": "COPY is no query"}},
		{"tcp", Spec{Protocol: TCP, Reply: &Reply{Until: `\n`}, Request: shortly(`PING\n`)}, nil},
		{"tcp without an end", Spec{Protocol: TCP, Request: shortly("PING")}, map[string]string{"reply": "where an answer ends is missing"}},
		{"tcp with two ends", Spec{Protocol: TCP, Reply: &Reply{Bytes: 1, Close: true}, Request: shortly("PING")}, map[string]string{"reply": "ends in one way"}},
		{"tcp says nothing", Spec{Protocol: TCP, Reply: &Reply{Close: true}, Request: &Request{}}, map[string]string{"request": "what is sent is missing"}},
		{"tcp's escapes", Spec{Protocol: TCP, Reply: &Reply{Until: `\z`}, Request: shortly(`a\q`)}, map[string]string{"request": `\q means nothing`, "reply.until": `\z means nothing`}},
		{"udp with an end", Spec{Protocol: UDP, Reply: &Reply{Close: true}, Request: shortly("a")}, map[string]string{"reply": "no meaning with protocol udp"}},
		{"http with an end", Spec{Reply: &Reply{Close: true}, Request: shortly("GET /")}, map[string]string{"reply": "no meaning"}},
		{"websocket", Spec{Protocol: WebSocket, Body: "hi", Request: shortly("GET /chat")}, nil},
		{"websocket says nothing", Spec{Protocol: WebSocket, Request: shortly("GET /chat")}, map[string]string{"request.body": "the message is missing"}},
		{"websocket posts", Spec{Protocol: WebSocket, Body: "hi", Request: shortly("POST /chat")}, map[string]string{"request.method": "opened with a GET"}},
		{"websocket here and there", Spec{Protocol: WebSocket, Body: "hi", Requests: []Request{*shortly("GET /a"), *shortly("GET /b")}}, map[string]string{"requests[1].path": "share connections"}},
		{"a check of HTTP's", Spec{Protocol: Redis, Request: &Request{Command: []string{"PING"}, Check: checksOf(t, "status == 200", "header X exists", "rows == 1")}},
			map[string]string{"request.check[0]": "status has no meaning with protocol redis", "request.check[1]": "header has no meaning", "request.check[2]": "rows has no meaning"}},
		{"a check of another's", Spec{Request: &Request{Method: "GET", Path: "/", Check: checksOf(t, "value exists")}}, map[string]string{"request.check[0]": "value has no meaning with protocol http1"}},
		{"a capture of HTTP's", Spec{Protocol: Redis, Steps: []SessionStep{{Command: []string{"PING"}, Capture: map[string]Capture{"a": {Header: "X"}, "b": {Cookie: "c"}}}}},
			map[string]string{"steps[0].capture.a": "header has no meaning", "steps[0].capture.b": "cookie has no meaning"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.To, c.spec.Users = "a", ptr(1)
			got := problems(c.spec)
			for at, want := range c.want {
				if !strings.Contains(got[at], want) {
					t.Errorf("%s: %q, want %q", at, got[at], want)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("%d problems, want %d: %v", len(got), len(c.want), got)
			}
		})
	}
}

func TestTalkDescribed(t *testing.T) {
	for want, s := range map[string]Spec{
		"GET key-{{int 1 9}} by 1 users":          {Protocol: Redis, Request: shortly("get key-{{int 1 9}}")},
		"select * from orders by 1 users":         {Protocol: Postgres, Request: shortly("select * from orders")},
		`TCP PING\n by 1 users`:                   {Protocol: TCP, Request: shortly(`PING\n`)},
		"WEBSOCKET /chat by 1 users":              {Protocol: WebSocket, Request: shortly("GET /chat")},
		"sessions of SET a b, then GET a by 1 us": {Protocol: Redis, Steps: []SessionStep{{Text: "SET a b", brief: true}, {Command: []string{"GET", "a"}}}},
	} {
		s.Users = ptr(1)
		if got := s.Describe(); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
