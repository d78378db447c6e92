package targets

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/topology"
)

func problems(s Spec) []string {
	var all []string
	s.Check(func(path, format string, args ...any) { all = append(all, path+": "+fmt.Sprintf(format, args...)) })
	return all
}

func TestCheckSaysEverythingAtOnce(t *testing.T) {
	s := Spec{Runtime: "docker", Patterns: map[string]pattern.Spec{"a -> b": {}}, Services: map[string]ServiceSpec{
		"a/b":   {Command: []string{""}},
		"api":   {Command: []string{"x", "${prot}", "${edge.bank}", "${port"}, Env: map[string]string{"A=B": "x", "U": "${edge.}"}, Protocol: "sctp"},
		"both":  {Command: []string{"x"}, Address: "127.0.0.1:1"},
		"far":   {Address: "example.com:80", Env: map[string]string{"A": "b"}, Dir: "/"},
		"none":  {Ready: &ReadySpec{Path: "healthz", Timeout: -1}},
		"port0": {Address: "127.0.0.1:0"},
	}}
	got := problems(s)
	for _, want := range []string{
		`runtime: runtime "docker" is not in this build: it has process`,
		`patterns: patterns are settings of a reference system`,
		`services.a/b: "a/b" is not a name for a service`,
		`services.a/b.command: the command is empty`,
		`services.api.command[1]: ${prot} is unknown: there are ${port}`,
		`services.api.command[2]: ${edge.bank}: there is no service "bank" (there are: a/b, api, both, far, none, port0)`,
		`services.api.command[3]: "${port": ${ without }`,
		`services.api.env.A=B: "A=B" is not a name for an environment variable`,
		`services.api.env.U: ${edge.}: there is no service ""`,
		`services.api.protocol: protocol "sctp" is unknown: write http, tcp or udp`,
		`services.both.address: both command and address`,
		`services.far.address: address "example.com:80" is not on this machine`,
		`services.far.env: a service with an address is not started by us`,
		`services.far.dir: a service with an address is not started by us`,
		`services.none: service "none" needs a command to start it, the address`,
		`services.none.ready.path: path "healthz" is not one`,
		`services.none.ready.timeout: timeout is -1ns`,
		`services.port0.address: address "127.0.0.1:0": "0" is not a port`,
	} {
		i := slices.IndexFunc(got, func(p string) bool { return strings.HasPrefix(p, want) })
		if i < 0 {
			t.Errorf("not reported: %s", want)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("also reported:\n%s", strings.Join(got, "\n"))
	}
	if _, err := s.Resolve(); err == nil || !strings.HasPrefix(err.Error(), "target.runtime: ") {
		t.Errorf("Resolve: %v; want the first of them", err)
	}
}

func TestCheckOfReferenceSystems(t *testing.T) {
	for want, s := range map[string]Spec{
		`: a target needs a reference system (system: shop), or services`:                   {},
		`system: there is no reference system "shpo" (there is: shop)`:                      {System: "shpo"},
		`services: both system and services`:                                                {System: "shop", Services: map[string]ServiceSpec{"a": {Address: "127.0.0.1:1"}}},
		`patterns.orders->db: no edge "orders -> db" in system "shop" (orders calls: users`: {System: "shop", Patterns: map[string]pattern.Spec{"orders->db": {}}},
		`patterns.ordrs -> payments: no edge "ordrs -> payments" in system "shop" (its ser`: {System: "shop", Patterns: map[string]pattern.Spec{"ordrs -> payments": {}}},
		`patterns.orders: "orders" is not an edge`:                                          {System: "shop", Patterns: map[string]pattern.Spec{"orders": {}}},
		`patterns.orders->stock: "orders->stock" is the same edge as "orders -> stock"`:     {System: "shop", Patterns: map[string]pattern.Spec{"orders -> stock": {}, "orders->stock": {}}},
	} {
		if got := problems(s); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("got %q; want %q", got, want)
		}
	}
	if got := problems(Spec{System: "shop", Runtime: "process"}); got != nil {
		t.Errorf("a good one: %q", got)
	}
}

func TestResolveOfUserServices(t *testing.T) {
	s := Spec{Services: map[string]ServiceSpec{
		"web": {Command: []string{"web", "${edge.db}", "${edge.api}", "$${edge.none}", "${port}"}, Env: map[string]string{"Z": "${edge.db}", "A": "x ${edge.cache} y"}, Dir: "/srv"},
		"api": {Command: []string{"api"}, Ready: &ReadySpec{Path: "/healthz"}},
		"db":  {Address: "127.0.0.1:5432", Protocol: "tcp", Ready: &ReadySpec{Timeout: time.Second}},
		// Not in the order of the file, which a mapping does not keep, but in a fixed one.
		"cache": {Command: []string{"cache"}, Protocol: "http"},
	}}
	got, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	if names := got.Names(); !slices.Equal(names, []string{"api", "cache", "db", "web"}) {
		t.Errorf("services %v", names)
	}
	want := []topology.Edge{
		{Caller: "web", Callee: "db", Protocol: topology.TCP},
		{Caller: "web", Callee: "api", Protocol: topology.HTTP},
		{Caller: "web", Callee: "cache", Protocol: topology.HTTP},
	}
	if d := cmp.Diff(want, got.Edges); d != "" {
		t.Error(d)
	}
	api, _ := got.Service("api")
	db, _ := got.Service("db")
	if api.Ready != (topology.Ready{Path: "/healthz", Timeout: 10 * time.Second}) || db.Ready != (topology.Ready{Timeout: time.Second}) {
		t.Errorf("ready: %+v and %+v", api.Ready, db.Ready)
	}
	if db.Managed() || !api.Managed() {
		t.Error("the one with an address is not ours, the one with a command is")
	}
}

func TestSettingsFollowPatternsAndTimescale(t *testing.T) {
	edge := topology.Edge{Caller: "orders", Callee: "payments", Protocol: topology.HTTP}
	off := Spec{System: "shop", Patterns: map[string]pattern.Spec{"orders->payments": {Mode: pattern.Off}}}
	if got := off.Settings(edge, 1); got.Timeout != 0 || got.Breaker.Failures != 0 {
		t.Errorf("off: %+v", got)
	}
	one, half := (Spec{System: "shop"}).Settings(edge, 1), (Spec{System: "shop"}).Settings(edge, 0.5)
	if one.Breaker.Open == 0 || half.Breaker.Open != one.Breaker.Open/2 {
		t.Errorf("open time %s, at half the timescale %s", one.Breaker.Open, half.Breaker.Open)
	}
	if got := (Spec{Services: map[string]ServiceSpec{"a": {}}}).Settings(edge, 1); got != (pattern.Settings{}) {
		t.Errorf("users' own: %+v", got)
	}
	if (Spec{System: "shop"}).Sample("POST", "/checkout") == "" || (Spec{}).Sample("POST", "/checkout") != "" {
		t.Error("samples")
	}
}

func TestReadyShortForm(t *testing.T) {
	for text, want := range map[string]ReadySpec{"tcp": {Over: "tcp"}, "udp": {Over: "udp"}, " GET  /healthz ": {Path: "/healthz"}} {
		var r ReadySpec
		if err := r.ParseShort(text); err != nil || r != want {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "GET", "GET healthz", "POST /x", "tcp 80", "GET /a b"} {
		if err := new(ReadySpec).ParseShort(text); err == nil || !strings.Contains(err.Error(), `write "GET /path"`) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestUDPServices: whether a service has a UDP port decides how it is asked, and what
// its edges carry.
func TestUDPServices(t *testing.T) {
	s := Spec{Services: map[string]ServiceSpec{
		"api":   {Command: []string{"api", "${edge.names}", "${edge.clock}"}},
		"names": {Command: []string{"names", "${port}"}, Protocol: "udp"},
		"clock": {Command: []string{"clock", "${port}"}, Protocol: "udp", Ready: &ReadySpec{Over: "tcp"}},
		"logs":  {Command: []string{"logs", "${port}"}, Protocol: "udp", Ready: &ReadySpec{Path: "/healthz"}},
	}}
	got, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]bool{"api": {}, "names": {true, true}, "clock": {true, false}, "logs": {true, false}} {
		if v, _ := got.Service(name); v.UDP != want[0] || v.Ready.UDP != want[1] {
			t.Errorf("%s: %+v", name, v)
		}
	}
	for _, e := range got.Edges {
		if e.Protocol != topology.UDP {
			t.Errorf("%+v, want udp", e)
		}
	}
	wrong := Spec{Services: map[string]ServiceSpec{
		"a": {Address: "127.0.0.1:1", Ready: &ReadySpec{Over: "udp"}},
		"b": {Address: "127.0.0.1:1", Ready: &ReadySpec{Over: "sctp"}},
		"c": {Address: "127.0.0.1:1", Protocol: "udp", Ready: &ReadySpec{Over: "udp", Path: "/"}},
	}}
	for _, want := range []string{"services.a.ready: ready: udp is for services with protocol: udp", `services.b.ready.over: over "sctp" is unknown`, "services.c.ready.over: both path and over"} {
		if !slices.ContainsFunc(problems(wrong), func(p string) bool { return strings.HasPrefix(p, want) }) {
			t.Errorf("not reported: %s", want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"${port}", "$${port}", "a${edge.b}c${port}", "${", "$", "${}", "$$${x}", "}${"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := expand(text, func(word string) (string, error) { return "<" + word + ">", nil })
		if err == nil && !strings.Contains(text, "${") && got != text {
			t.Errorf("%q became %q", text, got)
		}
		// What is escaped comes out as it was.
		if !strings.HasSuffix(text, "$") {
			escaped := strings.ReplaceAll(text, "${", "$${")
			if !strings.Contains(text, "$${") {
				if got, err := expand(escaped, func(string) (string, error) { return "?", nil }); err != nil || got != text {
					t.Errorf("%q, escaped %q, became %q (%v)", text, escaped, got, err)
				}
			}
		}
	})
}
