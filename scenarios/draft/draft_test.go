package draft_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/scenarios/draft"
)

var update = flag.Bool("update", false, "write the goldens anew")

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// golden compares a draft with testdata/NAME.want.yaml, and parses it.
func golden(t *testing.T, name string, d draft.Draft) *scenarios.Scenario {
	t.Helper()
	file := name + ".want.yaml"
	if *update {
		if err := os.WriteFile("testdata/"+file, d.Text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, file)), string(d.Text)); diff != "" {
		t.Errorf("%s (-want +got; go test -update writes it anew):\n%s", file, diff)
	}
	s, err := scenarios.Parse(file, d.Text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStarter(t *testing.T) {
	if _, err := scenarios.Parse("starter.yaml", draft.Starter().Text); err != nil {
		t.Error(err)
	}
}

func TestOpenAPI(t *testing.T) {
	src := read(t, "catalogue.yaml")
	d, err := draft.FromOpenAPI("catalogue.yaml", src, draft.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := golden(t, "catalogue", d)
	for _, r := range s.Loads[0].Requests {
		if r.Method != "GET" {
			t.Errorf("%s %s writes, and nobody asked for that", r.Method, r.Path)
		}
	}
	d, err = draft.FromOpenAPI("catalogue.yaml", src, draft.Options{IncludeWrites: true, Address: "127.0.0.1:9"})
	if err != nil {
		t.Fatal(err)
	}
	if s = golden(t, "catalogue-writes", d); s.Target.Services["api"].Address != "127.0.0.1:9" {
		t.Errorf("the address is %q", s.Target.Services["api"].Address)
	}
	if len(d.Left) != 3 {
		t.Errorf("left out: %q", d.Left)
	}
}

func TestOpenAPIJSON(t *testing.T) {
	d, err := draft.FromOpenAPI("a.json", []byte(`{
	"openapi": "3.0.3", "info": {"title": "a", "version": "1"},
	"paths": {"/a/{n}": {"get": {"parameters": [{"name": "n", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 5, "exclusiveMinimum": true, "maximum": 9}}]}}}}`), draft.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "path: '/a/{{int 6 9}}'"; !strings.Contains(string(d.Text), want) {
		t.Errorf("no %q in\n%s", want, d.Text)
	}
}

func TestOpenAPIRefused(t *testing.T) {
	for src, want := range map[string]string{
		`swagger: "2.0"`:      "is Swagger 2.0",
		`openapi: 4.0.0`:      `it has openapi: "4.0.0"`,
		`[1, 2]`:              "x.yaml: ",
		``:                    "x.yaml: ",
		`{"openapi": "3.0.0"`: "unexpected EOF",
		`openapi: 3.0.0`:      "no operation can be asked: it has none",
		"openapi: 3.0.0\npaths: { /a: { post: {} } }": "POST /a: it writes; --include-writes takes it in",
	} {
		if _, err := draft.FromOpenAPI("x.yaml", []byte(src), draft.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", src, err, want)
		}
	}
}

func TestHAR(t *testing.T) {
	src := read(t, "shop.har")
	d, err := draft.FromHAR("shop.har", src, draft.Options{})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "shop", d)
	for _, secret := range []string{"very-secret-cookie", "csrf-secret", "hunter2-secret", "bearer-secret", "tok-secret", "form-secret"} {
		if told := string(d.Text) + strings.Join(d.Left, "\n"); strings.Contains(told, secret) {
			t.Errorf("%q stands in the draft", secret)
		}
	}
	d, err = draft.FromHAR("shop.har", src, draft.Options{Host: "tracker.example"})
	if err != nil || !strings.Contains(string(d.Text), "path: /hit") {
		t.Errorf("%v, %s", err, d.Text)
	}
	for src, want := range map[string]string{
		`{}`: "it has no log", `[]`: "is no HAR file", `{"log": {"entries": []}}`: "there is no request in it",
		`{"log": {"entries": [{"request": {"method": "GET", "url": "data:abc"}}]}}`:          "there is no request in it",
		`{"log": {"entries": [{"request": {"method": "GET", "url": "http://a/logo.png"}}]}}`: "nothing that was asked of a can be a step",
	} {
		if _, err := draft.FromHAR("x.har", []byte(src), draft.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", src, err, want)
		}
	}
	if _, err := draft.FromHAR("shop.har", read(t, "shop.har"), draft.Options{Host: "b.example"}); err == nil || !strings.Contains(err.Error(), "(there are: shop.example, tracker.example)") {
		t.Error(err)
	}
}

// FuzzOpenAPI: whatever is read, it is refused, or makes a scenario.
func FuzzOpenAPI(f *testing.F) {
	f.Add(string(read(f, "catalogue.yaml")))
	f.Add(`{"openapi":"3.1.0","paths":{"/a":{"get":{"summary":"x\ny: z"}}}}`)
	f.Fuzz(func(t *testing.T, src string) {
		d, err := draft.FromOpenAPI("x.yaml", []byte(src), draft.Options{IncludeWrites: true})
		if err != nil {
			return
		}
		if _, err := scenarios.Parse("x.yaml", d.Text); err != nil {
			t.Errorf("%v\n%s", err, d.Text)
		}
	})
}

// FuzzHAR is the same of recordings.
func FuzzHAR(f *testing.F) {
	f.Add(string(read(f, "shop.har")))
	f.Fuzz(func(t *testing.T, src string) {
		d, err := draft.FromHAR("x.har", []byte(src), draft.Options{IncludeStatic: true})
		if err != nil {
			return
		}
		if _, err := scenarios.Parse("x.yaml", d.Text); err != nil {
			t.Errorf("%v\n%s", err, d.Text)
		}
	})
}
