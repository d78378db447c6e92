package loadgen

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func render(t interface{ Fatalf(string, ...any) }, text string, seed, seq uint64) string {
	tm, err := parseTemplate(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	out, err := tm.append(nil, newDraw(seed, seq, forContent))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return string(out)
}

func TestTemplateFunctions(t *testing.T) {
	for text, form := range map[string]string{
		"":                                `^$`,
		"  \n":                            `^  \n$`,
		"plain {text}":                    `^plain \{text\}$`,
		"{{/* nothing */}}":               `^$`,
		"{{user}}":                        `^u-[0-9]{1,3}$`,
		"{{product}}":                     `^p-[0-9]{1,2}$`,
		"{{amount}}":                      `^[1-9][0-9]{0,2}\.[0-9][0-9]$`,
		"{{uuid}}":                        `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`,
		"{{int 1 3}}":                     `^[123]$`,
		"{{int -2 -2}}":                   `^-2$`,
		"{{seq}}":                         `^41$`,
		`{{pick "a" "b"}}`:                `^[ab]$`,
		`{{pick 1 2}}`:                    `^[12]$`,
		`{{name}}`:                        `^\pL+ \pL+$`,
		`{{email}}`:                       `^[a-z]+\.[a-z]+\.[0-9]{1,4}@example\.com$`,
		`{{word}}`:                        `^[a-z]+$`,
		`{{words 3}}`:                     `^[a-z]+ [a-z]+ [a-z]+$`,
		`{{letters 8}}`:                   `^[a-z]{8}$`,
		`{{now}} {{unix}} {{unixms}}`:     `^1970-01-01T00:00:00.000Z 0 0$`,
		`a {{- user -}} b`:                `^au-[0-9]+b$`,
		`{{$u := user}}{{$u}}{{$u}}`:      `^(u-[0-9]+)(u-[0-9]+)$`,
		`{{if int 0 0}}x{{else}}y{{end}}`: `^y$`,
		`{{int (int 3 3) 3}}`:             `^3$`,
		`{{3 | int 3}}`:                   `^3$`,
	} {
		if got := render(t, text, 7, 41); !regexp.MustCompile(form).MatchString(got) {
			t.Errorf("%q renders %q, want %s", text, got, form)
		}
	}
	if got := render(t, `{{$u := user}}{{$u}} {{$u}}`, 7, 41); strings.Fields(got)[0] != strings.Fields(got)[1] {
		t.Errorf("a variable has two values: %q", got)
	}
}

// Each mistake is found at its place.
func TestTemplateMistakes(t *testing.T) {
	for _, c := range []struct {
		text         string
		line, column int
		message      string
	}{
		{`{"user":"{{usr}}"}`, 1, 12, `no function "usr" (there are: user, product, amount, uuid, int, seq, pick, name, email,`},
		{"{\n  \"ü\": \"{{usr}}\"\n}", 2, 11, `no function "usr"`},
		{`{{if user}}a{{usr}}{{end}}`, 1, 15, `no function "usr"`},
		{`{{user}} {{user`, 1, 10, "unclosed action"},
		{`{{user}} {{if user}} x`, 1, 10, "unexpected EOF"},
		{`{{if user}}{{end}} {{if user}} x`, 1, 20, "unexpected EOF"},
		{`a {{end}}`, 1, 3, "unexpected {{end}}"},
		{`a {{}}`, 1, 3, "missing value"},
		{`a {{user "x}}`, 1, 3, "unterminated quoted string"},
		{`a {{.user}}`, 1, 5, "no data"},
		{`a {{.}}`, 1, 5, "no data"},
		{`a {{$}}`, 1, 5, "no data"},
		{`{{range int 1 3}}x{{end}}`, 1, 9, "only text"},
		{`{{with user}}x{{end}}`, 1, 8, "only text"},
		{`{{define "x"}}{{end}}`, 1, 1, "templates inside"},
		{`{{printf "%d" 1}}`, 1, 3, `no function "printf"`},
		{`x {{int 3 1}}`, 1, 5, "int 3 1: the lower end comes first"},
		{`x {{int 1}}`, 1, 5, "wrong number of args for int"},
		{`x {{int "a" 2}}`, 1, 9, "expected integer"},
		{`x {{user 1}}`, 1, 5, "wrong number of args for user"},
		{`x {{words 0}}`, 1, 5, "from 1 to 10000"},
		{`x {{pick}}`, 1, 5, "nothing to pick from"},
		{strings.Repeat("x", maxTemplate+1), 1, 1, "at most 1048576"},
	} {
		_, err := parseTemplate(c.text)
		var e *templateError
		if !errors.As(err, &e) {
			t.Errorf("%.40q: %v, want a mistake with %q", c.text, err, c.message)
			continue
		}
		if e.line != c.line || e.column != c.column || !strings.Contains(e.message, c.message) {
			t.Errorf("%.40q: %v; want line %d, column %d: %s", c.text, e, c.line, c.column, c.message)
		}
	}
}

// Compiled and executed, a template renders the same.
func TestCompiledTemplatesAreTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.SampledFrom([]string{"{{user}}", "{{product}}", "{{amount}}", "{{uuid}}", "{{int 1 3}}", "{{int -9 9}}", "{{seq}}", `{{pick "a" "b" "c"}}`, "{{name}}", "{{email}}", "{{words 3}}", "{{letters 5}}", "text ", "\n"})
		text := strings.Join(rapid.SliceOfN(part, 0, 8).Draw(t, "parts"), "")
		seed, seq := rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "seq")
		compiled := render(t, text, seed, seq)
		executed := render(t, "{{if false}}{{end}}"+text, seed, seq)
		if compiled != executed {
			t.Fatalf("%q renders %q compiled and %q executed", text, compiled, executed)
		}
		if again := render(t, text, seed, seq); again != compiled {
			t.Fatalf("%q renders %q and then %q", text, compiled, again)
		}
	})
}

func TestDrawsAreSpreadOut(t *testing.T) {
	users, ints := map[string]int{}, map[int64]int{}
	for seq := range uint64(20_000) {
		d := newDraw(1, seq, forContent)
		users[string(d.user(nil))]++
		ints[d.between(1, 3)]++
	}
	if len(users) != 1000 {
		t.Errorf("%d different users in 20,000 requests, want all 1,000", len(users))
	}
	for v, n := range ints {
		if v < 1 || v > 3 || n < 6400 || n > 6930 { // 6,667 ± 4σ
			t.Errorf("%d was drawn %d times of 20,000", v, n)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "a{{user}}", "{{if user}}{{end}}", "{{int 1 3}}", "{{usr}}", "{{", "}}", "{{$x := 1}}{{$x}}", "{{range}}", "\n{{.x}}", `{{pick "a"}}`, "{{- 1 -}}", "{{break}}", "{{/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tm, err := parseTemplate(text)
		if err != nil {
			var e *templateError
			if !errors.As(err, &e) || e.line < 1 || e.column < 1 || e.line > strings.Count(text, "\n")+1 || e.message == "" {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		a, errA := tm.append(nil, newDraw(1, 2, forContent))
		b, errB := tm.append(nil, newDraw(1, 2, forContent))
		if string(a) != string(b) || (errA == nil) != (errB == nil) {
			t.Fatalf("%q renders %q, %v and then %q, %v", text, a, errA, b, errB)
		}
	})
}

// Values of data files and of earlier answers, and what does not exist of them.
func TestTemplateValues(t *testing.T) {
	in := newScope()
	in.sources["users"] = &source{name: "users", table: &table{columns: []string{"name", "e-mail"}, rows: [][]string{{`A "da"`, "a b@x"}}}}
	in.slots["order"] = 0
	for text, want := range map[string]string{
		`{{.users.name}}`:                             `A "da"`,
		`{{json .users.name}}`:                        `"A \"da\""`,
		`{{.users.name | json}}`:                      `"A \"da\""`,
		`{{column "users" "e-mail"}}`:                 `a b@x`,
		`{{urlquery (column "users" "e-mail")}}`:      `a%20b%40x`,
		`{{.order}}-{{urlquery .order}}`:              `o/1-o%2F1`,
		`{{if .order}}{{.users.name}}{{end}}`:         `A "da"`,
		`{{$o := .order}}{{$o}}{{$o}}{{.users.name}}`: `o/1o/1A "da"`,
	} {
		tm, err := parseTemplateIn(text, in)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		d := drawOf(1, 2, forContent)
		d.captured = []string{"o/1"}
		if got, err := tm.append(nil, &d); string(got) != want || err != nil || !tm.values {
			t.Errorf("%s renders %q, %v; want %q", text, got, err, want)
		}
	}
	for _, c := range []struct {
		text    string
		column  int
		message string
	}{
		{`a {{.user.name}}`, 5, `nothing is called "user" here (there are: order, users)`},
		{`a {{.users.nam}}`, 11, `data "users" has no column "nam" (columns: name, e-mail)`},
		{`a {{.users}}`, 5, `write {{.users.COLUMN}} (columns: name, e-mail)`},
		{`a {{.users.name.first}}`, 5, `is a column of the file`},
		{`a {{.order.id}}`, 5, `order is a captured value and has no parts`},
		{`a {{column "users" "mail"}}`, 5, `has no column "mail"`},
		{`a {{column "users"}}`, 5, `write {{column "DATA" "COLUMN"}}`},
		{`a {{int 1 .order}}`, 11, `expected int; got string`},
	} {
		_, err := parseTemplateIn(c.text, in)
		var e *templateError
		if !errors.As(err, &e) || e.column != c.column || !strings.Contains(e.message, c.message) {
			t.Errorf("%s: %v; want column %d: %s", c.text, err, c.column, c.message)
		}
	}
}
