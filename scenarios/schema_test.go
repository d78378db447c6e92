package scenarios

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/goccy/go-yaml"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t *testing.T) *validator.Schema {
	t.Helper()
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := validator.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	c.DefaultDraft(validator.Draft2020)
	if err := c.AddResource("scenario.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("scenario.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON reads YAML without any of our own code, as an editor does.
func asJSON(t *testing.T, src string) any {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	v, err := validator.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchemaAcceptsTheLibrary(t *testing.T) {
	schema := compiled(t)
	for _, e := range Library() {
		if err := schema.Validate(asJSON(t, e.Source)); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
}

// everything has each key of the language once, so that the tests below meet
// every mapping there is.
const everything = `
scenario: everything
description: all keys
rows: [1, 2]
seed: 3
target:
  system: shop
  runtime: process
  patterns:
    orders -> payments:
      mode: hardened
      timeout: 500ms
      retry: { mode: hardened, tries: 3, base: 10ms, cap: 1s, jitter: 0.5, budget: 0.2 }
      breaker: { mode: hardened, failures: 5, failure_ratio: 0.5, min_calls: 20, window: 10s, open: 5s, jitter: 0.2, probes: 1 }
      bulkhead: { mode: hardened, limit: 64, wait: 10ms }
      fallback: hardened
    orders -> stock: off
    orders -> users: { timeout: off, retry: off, breaker: textbook, bulkhead: off }
load:
  shoppers:
    to: gateway
    requests:
      - POST /checkout
      - { method: GET, path: /products/p-1, body: "", headers: { A: b, C: 1 }, timeout: 1s, weight: 3 }
    rate: 20/s
    headers: { X-Test: "yes" }
    timeout: 2s
    ok: [2xx, 402, 200-399]
    connections: 100
  ramping: { to: gateway, request: GET /products/p-1, ramp: { from: 1/s, to: 60/m, over: 5s } }
  staged: { to: gateway, request: GET /products/p-1, stages: [{ rate: 1/s, for: 5s }, { to: 3/s, for: 5s }] }
  users: { to: gateway, request: { method: GET, path: /products/p-1, redirects: 5, check: [status == 200], auth: { bearer: x } }, users: 3, think: 1s }
  journeys:
    to: gateway
    rate: 1/s
    data:
      people: { file: people.csv, order: random }
    auth: { basic: { user: "{{.people.name}}", password: y } }
    steps:
      - GET /products/p-1
      - name: buy
        method: POST
        path: /checkout
        body: "{{json .people.name}}"
        headers: { A: b }
        timeout: 2s
        redirects: 1
        think: 100ms
        auth: { bearer: x }
        check: [status == 201, latency < 1s, 'json $.status == "completed"', header Location exists, 'body contains "x"']
        capture:
          order: { json: $.order }
          to: { header: Location }
          total: { regexp: '"total":"([0-9.]+)"' }
          sid: { cookie: sid }
      - { method: GET, path: "/orders/{{.order}}" }
phases: { warmup: 1s, before: 10s, during: 30s, after: 10s }
edges:
  orders -> payments: { hold_most: 64MiB }
faults:
  slow: { target: orders -> payments, latency: { delay: 1s, jitter: 10ms, distribution: uniform, percent: 50, direction: request }, at: 1s, for: 5s }
  wrong: { target: orders -> payments, error: { status: 500, body: "{}", percent: 0.5% } }
  cut: { target: orders -> payments, reset: { percent: 10, after: 10 B } }
  silent: { target: orders -> payments, blackhole: { percent: 10%, after: 1KB } }
  away: { target: orders -> payments, refuse: { percent: 100 } }
  narrow: { target: orders -> payments, bandwidth: { rate: 100KB/s, shared: true, percent: 50, direction: both } }
  tail: { target: orders -> payments, latency: { delay: 1s, jitter: 2s, distribution: pareto }, pulse: { active: 2s, pause: 3s }, ramp: 2s, first: 20, every: 5, from: 10.0.0.0/8 }
  open: { target: orders -> payments, slow_connect: { delay: 1s, percent: 50 } }
  crumbs: { target: orders -> payments, slice: { average: 64 B, variation: 32 B, delay: 1ms, percent: 50, direction: answer } }
  lossy: { target: orders -> payments, loss: { percent: 1, correlation: 25%, direction: request } }
  split: { partition: { from: [gateway], to: [orders], direction: both } }
  crash: { target: stock, kill: { pick: 1, signal: KILL, down: 2s } }
  frozen: { target: stock, pause: { pick: all } }
  anew: { target: users, restart: { pick: 100%, grace: 5s } }
hypothesis:
  shoppers:
    before: [ok >= 99%]
    during: [ok >= 10%, p99.9 < 1m]
    after: [ok >= 99%]
    settle: 1s
    recovery: 1s
breakers:
  orders -> payments: { opens: 5s, open: [p99 < 20ms, upstream <= 2/s], closes: 5s, flaps: 3, metrics: { service: orders, path: /metrics, kind: opossum, name: payments } }
slos:
  shoppers: { objective: 99.9%, window: 30d, indicator: ok within 300ms, scale: 60, spends: 10%, alerts: [{ long: 1h, short: 5m, burn: 14.4, severity: page, fires: 2m }] }
  taken: { load: shoppers, openslo: slo.yaml }
invariants: [money, stock]
abort: [ok < 5% for 30s]
control: { patterns: { orders -> payments: off }, sagas: { orders: memory }, must_fail: [shoppers during ok, orders -> payments open, money] }
confidence: 95%
timescale: 0.5
`

// files are what they read.
var files = fstest.MapFS{
	"people.csv": &fstest.MapFile{Data: []byte("name\nada\nbob\n")},
	"slo.yaml": &fstest.MapFile{Data: []byte(`apiVersion: openslo/v1
kind: Service
metadata: { name: shop }
spec: {}
---
apiVersion: openslo/v1
kind: SLO
metadata: { name: checkout }
spec:
  service: shop
  indicator: { metadata: { name: answered }, spec: { ratioMetric: { counter: true, good: { metricSource: { type: Prometheus, spec: { query: up } } } } } }
  timeWindow: [{ duration: 4w, isRolling: true }]
  budgetingMethod: Occurrences
  objectives: [{ displayName: good, target: 0.995 }]
`)},
}

const ownServices = `
scenario: own
target:
  services:
    api: { command: [./api, -port, "${port}", 8080], env: { B: "http://${edge.back}", N: 3 }, dir: /tmp, ready: GET /healthz, protocol: http }
    back: { address: "127.0.0.1:9001", ready: { path: /x, timeout: 3s } }
    other: { address: "127.0.0.1:9002", ready: tcp, protocol: tcp }
    user: { command: [./user, "${edge.other}", "${ca}"] }
    sealed: { address: "127.0.0.1:9003", tls: { caller: plain, ca: ca.pem, server_name: sealed.example, client: { cert: c.pem, key: k.pem } } }
    sealed2: { address: "127.0.0.1:9004", tls: { caller: tls, insecure: true } }
    nobody: { absent: { status: 503, body: gone } }
    nobody2: { absent: refused }
load: { visitors: { request: GET /, to: api, rate: 10/s } }
phases: { before: 5s, during: 5s }
faults:
  mute: { target: user -> other, silence: { for: 2s, percent: 50, direction: request } }
  late: { target: user -> other, reset: { wait: 2s } }
  fin: { target: user -> other, slow_close: { delay: 2s, percent: 50, direction: both } }
  noise: { target: user -> other, corrupt: { percent: 0.1%, direction: answer } }
  short: { target: user -> other, limit: { bytes: 0 B, percent: 50, direction: answer } }
`

// walk visits every mapping of a document, with the structs' keys in it.
func walk(v any, path string, visit func(m map[string]any, path string)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v, path)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			walk(v[k], path+"/"+k, visit)
		}
	case []any:
		for i, x := range v {
			walk(x, fmt.Sprintf("%s/%d", path, i), visit)
		}
	}
}

// open are the mappings in which any key is right.
func open(path string) bool {
	parts := strings.Split(path, "/")
	switch parts[len(parts)-1] {
	case "load", "faults", "hypothesis", "breakers", "edges", "patterns", "headers", "env", "services", "data", "capture", "slos":
		return true
	}
	return false
}

// TestSchemaAgrees: decoder and schema say yes and no to the same files. The
// files are the two above with one key too many in each mapping, and with one of
// their keys missing; JSON is YAML, so both read the same text.
func TestSchemaAgrees(t *testing.T) {
	schema := compiled(t)
	judge := func(doc any, what string) (decoder, byschema error) {
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		_, decoder = ParseIn(files, "x.yaml", b)
		again, err := validator.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return decoder, schema.Validate(again)
	}
	cases := 0
	for name, src := range map[string]string{"everything": everything, "own": ownServices} {
		doc := asJSON(t, src)
		if a, b := judge(doc, name); a != nil || b != nil {
			t.Fatalf("%s is right, but: decoder: %v, schema: %v", name, a, b)
		}
		walk(doc, "", func(m map[string]any, path string) {
			if !open(path) {
				m["zzzzunknown"] = "x"
				if a, b := judge(doc, path); a == nil || b == nil {
					t.Errorf("%s: an unknown key in %q: decoder: %v, schema: %v", name, path, a, b)
				}
				delete(m, "zzzzunknown")
				cases++
			}
			for _, k := range slices.Sorted(maps.Keys(m)) {
				was := m[k]
				delete(m, k)
				a, b := judge(doc, path)
				// Beyond missing keys the checks know more than the schema (a clause
				// that must_fail names, say); what the schema refuses, they must.
				if b != nil && a == nil || b == nil && a != nil && missing(a) {
					t.Errorf("%s without %s/%s: decoder: %v, schema: %v", name, path, k, a, b)
				}
				m[k] = was
				cases++
			}
		})
	}
	if cases < 200 {
		t.Errorf("only %d cases were tried", cases)
	}
}

func missing(err error) bool {
	problems, ok := err.(Problems)
	return ok && slices.ContainsFunc(problems, func(p Problem) bool { return strings.HasPrefix(p.Message, "missing ") })
}

func TestSchemaRefuses(t *testing.T) {
	schema := compiled(t)
	good := "scenario: x\ntarget: { system: shop }\nload: { a: { request: GET /, to: gateway, rate: 1/s } }\nphases: { before: 1s }\n"
	if err := schema.Validate(asJSON(t, good)); err != nil {
		t.Fatalf("the file to change is right: %v", err)
	}
	for _, bad := range []struct{ old, new string }{
		{"before: 1s", "before: 1"},
		{"before: 1s", "before: soon"},
		{"before: 1s", "before: 1s, later: 2s"},
		{"rate: 1/s", "rate: 1"},
		{"request: GET /", "request: ''"},
		{"request: GET /", "steps: ['']"},
		{"request: GET /", "steps: [{ method: GET, path: /, weight: 3 }]"},
		{"request: GET /", "steps: [{ method: GET, path: /, check: [fine] }]"},
		{"request: GET /", "steps: [{ method: GET, path: /, capture: { a: { json: order } } }]"},
		{"request: GET /", "steps: [{ method: GET, path: /, auth: { basic: { user: x } } }]"},
		{"request: GET /", "request: GET /, data: { a: { file: a.csv, order: shuffled } }"},
		{"{ system: shop }", "[shop]"},
		{"{ system: shop }", "{ system: shop, patterns: { orders: off } }"},
		{"{ system: shop }", "{ system: shop, patterns: { a -> b: false } }"},
		{"scenario: x", "scenario: 5"},
		{"scenario: x", "scenario: x\nconfidence: 0.95"},
		{"scenario: x", "scenario: x\nhypothesis: { a: { before: ok >= 99% } }"},
		{"scenario: x", "scenario: x\nhypothesis: { a: { before: [fine] } }"},
		{"scenario: x", "scenario: x\nfaults: [{ target: stock, kill: {} }]"},
		{"scenario: x", "scenario: x\nfaults: { a: { target: gateway -> orders, loss: {} } }"},
		{"scenario: x", "scenario: x\nfaults: { a: { target: gateway -> orders, limit: { direction: answer } } }"},
		{"scenario: x", "scenario: x\nfaults: { a: { target: gateway -> orders, refuse: {}, from: localhost } }"},
		{"scenario: x", "scenario: x\nfaults: { a: { target: gateway -> orders, refuse: {}, pulse: { active: 1s } } }"},
	} {
		src := strings.Replace(good, bad.old, bad.new, 1)
		if err := schema.Validate(asJSON(t, src)); err == nil {
			t.Errorf("schema accepts %q", bad.new)
		}
		if _, err := Parse("x.yaml", []byte(src)); err == nil {
			t.Errorf("decoder accepts %q", bad.new)
		}
	}
}

// TestSchemaDescribes: every key has a description, and every description a key.
func TestSchemaDescribes(t *testing.T) {
	used := map[string]bool{}
	var visit func(reflect.Type)
	seen := map[reflect.Type]bool{}
	visit = func(ty reflect.Type) {
		switch ty.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			visit(ty.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if _, text := textForms[ty]; text || seen[ty] {
			return
		}
		seen[ty] = true
		for i := range ty.NumField() {
			f := ty.Field(i)
			if key, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); key == "" || key == "-" {
				continue
			}
			name := ty.String() + "." + f.Name
			used[name] = true
			if describe(ty, f.Name) == "" {
				t.Errorf("%s has no description: add it to descriptions.go", name)
			}
			visit(f.Type)
		}
	}
	visit(reflect.TypeFor[file]())
	for name := range descriptions {
		if !used[name] {
			t.Errorf("descriptions.go describes %s, which is no key", name)
		}
	}
}
