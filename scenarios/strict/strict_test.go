package strict

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// menu has a field of every kind that the package decodes.
type menu struct {
	Title   string            `yaml:"title,required"`
	Wait    time.Duration     `yaml:"wait"`
	Limit   *time.Duration    `yaml:"limit"`
	Count   int               `yaml:"count"`
	Tiny    int8              `yaml:"tiny"`
	Seed    *uint64           `yaml:"seed"`
	Factor  float64           `yaml:"factor"`
	Open    bool              `yaml:"open"`
	Tags    []string          `yaml:"tags"`
	Env     map[string]string `yaml:"env"`
	Color   color             `yaml:"color"`
	Colors  []color           `yaml:"colors"`
	Main    *dish             `yaml:"main"`
	Dishes  []dish            `yaml:"dishes,named"`
	By      map[string]dish   `yaml:"by"`
	Order   []dish            `yaml:"order"`
	Hint    quip              `yaml:"hint"`
	Hints   []quip            `yaml:"hints"`
	Ignored string            `yaml:"-"`
	Untold  string
}

type dish struct {
	Name  string        `yaml:"-"`
	Price int           `yaml:"price"`
	Time  time.Duration `yaml:"time"`
	With  []string      `yaml:"with"`
	Side  *dish         `yaml:"side"`
}

// ParseShort reads a dish by its price: "12 EUR".
func (d *dish) ParseShort(s string) error {
	if _, err := fmt.Sscanf(s, "%d EUR", &d.Price); err != nil {
		return fmt.Errorf(`%q is not a price: write "12 EUR"`, s)
	}
	return nil
}

type color string

func (c *color) UnmarshalText(b []byte) error {
	switch string(b) {
	case "red", "off", "50":
		*c = color(b)
		return nil
	}
	return fmt.Errorf("%q is not a color: write red, off or 50", b)
}

// quip is a struct that is always text.
type quip struct{ text string }

func (q *quip) ParseShort(s string) error {
	if i := strings.IndexByte(s, '!'); i >= 0 {
		return &loud{offset: utf8.RuneCountInString(s[:i])}
	}
	q.text = s
	return nil
}

type loud struct{ offset int }

func (e *loud) Error() string { return "no shouting" }
func (e *loud) Offset() int   { return e.offset }

func decode(src string) (menu, *Document) {
	var m menu
	d := Parse("menu.yaml", []byte(src))
	d.Decode(&m)
	return m, d
}

func TestDecode(t *testing.T) {
	got, d := decode(`
title: "Supper"
wait: 1m30s
limit: 0s
count: 0x10
tiny: -128
seed: 18446744073709551615
factor: 1e3
open: true
tags: [a, 'b c', 8080, 1.50]
env: { PORT: 8080, X: "" }
color: 50
colors: [red, off]
main: 12 EUR
dishes:
  zucchini: { price: 3 }
  "aubergine -> x": 4 EUR
by:
  first: { price: 1, side: { price: 2, time: 10ms } }
order: [1 EUR, { price: 2, with: [] }]
hint: hello
hints:
  - |
    two
    lines
  - "quoted"
`)
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	limit, seed := time.Duration(0), uint64(18446744073709551615)
	want := menu{
		Title: "Supper", Wait: 90 * time.Second, Limit: &limit, Count: 16, Tiny: -128, Seed: &seed, Factor: 1000, Open: true,
		Tags: []string{"a", "b c", "8080", "1.50"}, Env: map[string]string{"PORT": "8080", "X": ""},
		Color: "50", Colors: []color{"red", "off"}, Main: &dish{Price: 12},
		Dishes: []dish{{Name: "zucchini", Price: 3}, {Name: "aubergine -> x", Price: 4}},
		By:     map[string]dish{"first": {Price: 1, Side: &dish{Price: 2, Time: 10 * time.Millisecond}}},
		Order:  []dish{{Price: 1}, {Price: 2, With: []string{}}},
		Hint:   quip{"hello"}, Hints: []quip{{"two\nlines\n"}, {"quoted"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(quip{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMistakes: one mistake per file; the place and what is said.
func TestMistakes(t *testing.T) {
	for _, test := range []struct{ name, src, want string }{
		// The YAML itself.
		{"empty", "", "1:1: the file is empty"},
		{"only a comment", "# nothing\n", "1:1: the file is empty"},
		{"a list", "- a\n", "1:1: expected a mapping (key: value), found a list"},
		{"a text", "hello\n", `1:1: expected a mapping (key: value), found the text "hello"`},
		{"two documents", "title: a\n---\ntitle: b\n", "2:1: a second YAML document begins here"},
		{"tab", "title: a\nmain:\n\tprice: 3\n", "3:1: not valid YAML: the line is indented with a tab"},
		{"colon", "title: a: b\n", `1:8: not valid YAML: a second ": " on one line`},
		{"open list", "title: a\ntags: [a, b\nwait: 1s\n", "3:1: not valid YAML: ',' or ']' must be specified"},
		{"open quote", "title: \"a\nwait: 1s\n", "1:8: not valid YAML: could not find end character of double-quoted text"},
		{"indentation", "main:\n   price: 1\n  time: 2\n", "3:3: not valid YAML: this does not fit in here"},
		{"reserved", "title: @a\n", "1:8: not valid YAML: '@' is a reserved character"},
		{"percent", "title: %a\n", `1:8: not valid YAML: "%" cannot begin a value`},
		{"not UTF-8", "title: a\nhint: \xff\n", "2:7: byte 0xff is not UTF-8"},
		{"UTF-16", "\xff\xfet\x00", "1:1: the file is UTF-16"},
		{"control character", "title: a\x00b\n", "1:9: the file has the control character U+0000"},
		{"tag", "title: !!str 5\n", "1:8: YAML tags (!!str) are not used here"},
		{"directive", "%YAML 1.2\n---\ntitle: a\n", "1:1: YAML directives (%) are not used here"},
		{"merge key", "title: a\nmain: &m { price: 1 }\nby:\n  x:\n    <<: *m\n", "5:5: merge keys (<<) are not used here"},
		{"no anchor", "title: a\nmain: &dinner { price: 1 }\nby: { x: *diner }\n", "3:10: no anchor &diner before this alias"},
		{"anchor too late", "title: a\nmain: *m\nby: { x: &m { price: 1 } }\n", "2:7: no anchor &m before this alias"},
		{"anchor in itself", "title: a\nmain: &m { side: *m }\n", "2:18: the alias *m stands inside its own anchor"},
		{"key is a list", "title: a\n? [x]\n: 1\n", ""},
		{"boolean key", "title: a\nenv: { true: x }\n", "2:8: a key is text, found the boolean true"},

		// Keys.
		{"unknown", "title: a\ncuont: 3\n", `2:1: unknown key "cuont"`},
		{"unknown inside", "title: a\nmain: { pirce: 3 }\n", `2:9: unknown key "pirce" in main`},
		{"untagged", "title: a\nUntold: b\n", `2:1: unknown key "Untold"`},
		{"ignored", "title: a\nIgnored: b\n", `2:1: unknown key "Ignored"`},
		{"twice", "title: a\nwait: 1s\ntitle: b\n", `3:1: "title" stands here a second time (first on line 1)`},
		{"name twice", "title: a\ndishes:\n  x: 1 EUR\n  y: 1 EUR\n  x: 2 EUR\n", `5:3: "x" stands here a second time (first on line 3)`},
		{"missing", "count: 3\n", `1:1: missing "title"`},

		// Values.
		{"no value", "title: a\nmain:\nwait: 1s\n", `2:1: "main" has no value`},
		{"null", "title: ~\n", `1:1: "title" has no value`},
		{"no named value", "title: a\ndishes:\n", `2:1: "dishes" has no value`},
		{"no entry", "title: a\ntags:\n  - a\n  -\n", `4:4: entry 1 has no value`},
		{"bare number", "title: a\nwait: 800\n", `2:7: "wait" needs a unit`},
		{"bare zero", "title: a\nwait: 0\n", `2:7: "wait" needs a unit`},
		{"wrong unit", "title: a\nwait: 3d\n", `2:7: "3d" is not a duration: write 800ms, 2s or 1m30s (units: ns, us, ms, s, m, h)`},
		{"space before unit", "title: a\nwait: 3 s\n", `2:7: "3 s" is not a duration`},
		{"negative", "title: a\nlimit: -3s\n", `2:8: -3s is negative`},
		{"long", "title: a\nwait: 999999999h\n", `2:7: "999999999h" is not a duration`},
		{"duration as list", "title: a\nwait: [1s]\n", `2:7: expected a duration like 800ms or 1m30s for "wait", found a list`},
		{"list for mapping", "title: a\nmain: [1]\n", `2:7: expected a mapping (key: value) for "main", found a list`},
		{"list for named", "title: a\ndishes: [x, y]\n", `2:9: expected a mapping (name: …) for "dishes", found a list`},
		{"text for list", "title: a\ntags: a\n", `2:7: expected a list for "tags", found the text "a"`},
		{"mapping for list", "title: a\ntags:\n  x: y\n", `3:3: expected a list for "tags", found a mapping`},
		{"mapping for text", "title: { a: b }\n", `1:8: expected text for "title", found a mapping`},
		{"mapping for parsed text", "title: a\nhint: { a: b }\n", `2:7: expected text for "hint", found a mapping`},
		{"list for color", "title: a\ncolor: [red]\n", `2:8: expected text for "color", found a list`},
		{"boolean for text", "title: true\n", `1:8: expected text for "title", found the boolean true`},
		{"boolean in list", "title: a\ntags: [a, false]\n", `2:11: expected text for entry 1, found the boolean false`},
		{"number for text", "title: 3\n", `1:8: expected text for "title", found the number 3`},
		{"boolean for color", "title: a\ncolor: false\n", `2:8: "false" is not a color: write red, off or 50`},
		{"text for number", "title: a\ncount: many\n", `2:8: expected a whole number, found "many"`},
		{"fraction", "title: a\ncount: 1.5\n", `2:8: expected a whole number, found "1.5"`},
		{"quoted number", "title: a\ncount: \"3\"\n", `2:8: expected a whole number for "count", found the text "3"`},
		{"below zero", "title: a\nseed: -1\n", `2:7: expected a whole number from 0, found "-1"`},
		{"too large", "title: a\ntiny: 128\n", `2:7: 128 is too large for "tiny"`},
		{"not a number", "title: a\nfactor: .nan\n", `2:9: expected a number, found ".nan"`},
		{"infinite", "title: a\nfactor: 1e999\n", `2:9: 1e999 is too large for "factor"`},
		{"text for boolean", "title: a\nopen: yes\n", `2:7: expected true or false for "open", found the text "yes"`},
		{"short form", "title: a\nmain: cheap\n", `2:7: "cheap" is not a price: write "12 EUR"`},

		// Columns: runes, inside texts, behind quotes, in lines that end in CRLF.
		{"runes", "title: \"äöü\"\nenv: { ä: b, ü: true }\n", `2:17: expected text for "ü", found the boolean true`},
		{"offset", "title: a\nhint: oh no!\n", `2:12: no shouting`},
		{"offset in quotes", "title: a\nhint: \"öh no!\"\n", `2:13: no shouting`},
		{"offset beyond escapes", "title: a\nhint: \"\\x41 no!\"\n", `2:7: no shouting`},
		{"CRLF", "title: a\r\nmain:\r\n  price: x\r\n", `3:10: expected a whole number, found "x"`},
		{"byte order mark", "\ufefftitle: a\ncount: x\n", `2:8: expected a whole number, found "x"`},
		{"through an alias", "title: a\nmain: &m { price: x }\n", `2:19: expected a whole number, found "x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, d := decode(test.src)
			if test.want == "" {
				if d.Err() == nil {
					t.Fatal("no mistake found")
				}
				return
			}
			problems, _ := d.Err().(Problems)
			if len(problems) != 1 {
				t.Fatalf("%d mistakes, want 1: %v", len(problems), d.Err())
			}
			got := fmt.Sprintf("%d:%d: %s", problems[0].Line, problems[0].Column, problems[0].Message)
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestAllAtOnce: mistakes of every sort in one file, all told, in file order, each
// as a person sees it.
func TestAllAtOnce(t *testing.T) {
	_, d := decode(`wait: 800
main: { pirce: 3, time: [1s] }
tags: a
count: "3"
color: green
by:
  x: { with: b }
nonsense: 1
`)
	want := `menu.yaml:1:1: missing "title"
    1 | wait: 800
      | ^
menu.yaml:1:7: "wait" needs a unit
    1 | wait: 800
      |       ^
      hint: write 800ms or 800s
menu.yaml:2:9: unknown key "pirce" in main
    2 | main: { pirce: 3, time: [1s] }
      |         ^
      hint: did you mean "price"?
menu.yaml:2:25: expected a duration like 800ms or 1m30s for "time", found a list
    2 | main: { pirce: 3, time: [1s] }
      |                         ^
menu.yaml:3:7: expected a list for "tags", found the text "a"
    3 | tags: a
      |       ^
      hint: write [a]
menu.yaml:4:8: expected a whole number for "count", found the text "3"
    4 | count: "3"
      |        ^
      hint: remove the quotes
menu.yaml:5:8: "green" is not a color: write red, off or 50
    5 | color: green
      |        ^
menu.yaml:7:14: expected a list for "with", found the text "b"
    7 |   x: { with: b }
      |              ^
      hint: write [b]
menu.yaml:8:1: unknown key "nonsense"
    8 | nonsense: 1
      | ^
      hint: keys here: title, wait, limit, count, tiny, seed, factor, open, tags, env, color, colors, main, dishes, by, order, hint, hints
9 mistakes in menu.yaml`
	if diff := cmp.Diff(want, d.Err().Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMisspeltIsNotMissing: a key that was misspelt is told once.
func TestMisspeltIsNotMissing(t *testing.T) {
	_, d := decode("titel: a\n")
	problems, _ := d.Err().(Problems)
	if len(problems) != 1 || problems[0].Hint != `did you mean "title"?` {
		t.Errorf("got %v", d.Err())
	}
}

// TestLimits: files made to cost more than they are worth are refused, quickly.
func TestLimits(t *testing.T) {
	bomb := "title: a\nby:\n  a0: &a0 { price: 1 }\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("  a%d: &a%d { with: [x], side: *a%d }\n", i, i, i-1)
	}
	wide := "title: a\ntags: &t [" + strings.Repeat("x,", 2000) + "]\norder:\n" + strings.Repeat("  - { with: *t }\n", 20)
	for _, test := range []struct{ name, src, want string }{
		{"10 MB", strings.Repeat("# a comment\n", 1_000_000), "the file is larger than 1024 KiB"},
		{"deep list", "title: " + strings.Repeat("[", 50_000), "nested more than 32 deep"},
		{"deep mapping", strings.Repeat("{a: ", 50_000), "nested more than 32 deep"},
		{"deep on one line", "title:\n  " + strings.Repeat("- ", 50_000), "nested more than 32 deep"},
		{"deep keys", strings.Repeat("? ", 50_000), "nested more than 32 deep"},
		{"deep by indentation", deepBlock(200), "nested more than 32 deep"},
		{"deep tags", "title: " + strings.Repeat("!!a ", 50_000), "nested more than 32 deep"},
		{"many keys", strings.Repeat("abc: b\n", 40_000), "more than 30000 YAML tokens"},
		{"many items", "tags: [" + strings.Repeat("1,", 40_000) + "]", "more than 30000 YAML tokens"},
		{"wide aliases", wide, "aliases stand for more than 10000 values"},
	} {
		t.Run(test.name, func(t *testing.T) {
			start := time.Now()
			_, d := decode(test.src)
			err := d.Err()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %.300v, want %q", err, test.want)
			}
			// A hundred times what it takes here; the point is that it is not minutes.
			if spent := time.Since(start); spent > 20*time.Second {
				t.Errorf("took %s", spent)
			}
		})
	}
	if _, d := decode(bomb); d.Err() != nil {
		t.Errorf("a dozen anchors in one another are no bomb: %v", d.Err())
	}
}

func deepBlock(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

// TestManyMistakes: they are counted, and a bounded number is told.
func TestManyMistakes(t *testing.T) {
	src := "title: a\n"
	for i := range 3000 {
		src += fmt.Sprintf("wrong%d: x\n", i)
	}
	_, d := decode(src)
	problems := d.Err().(Problems)
	if len(problems) != MaxProblems+1 || problems[MaxProblems].Message != "… and 2900 more mistakes" {
		t.Errorf("%d told, the last: %s", len(problems), problems[len(problems)-1].Message)
	}
}

func TestPosition(t *testing.T) {
	_, d := decode(`title: a
dishes:
  fish: { price: 3, with: [a, "b"] }
  soup:
    side:
      price: 4
`)
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"title":                  "1:8",  // the value of a scalar
		"dishes":                 "2:1",  // the key of anything larger
		"dishes.fish":            "3:3",  //
		"dishes.fish.price":      "3:18", //
		"dishes.fish.with[1]":    "3:31", // an entry of a list
		"dishes.fish.with[7]":    "3:21", // the nearest parent: "with"
		"dishes.soup.side.price": "6:14", //
		"dishes.soup.side.time":  "5:5",  // "side"
		"dishes.salad.price":     "2:1",
		"nowhere":                "1:1",
		"":                       "1:1",
	} {
		line, column := d.Position(path)
		if got := fmt.Sprintf("%d:%d", line, column); got != want {
			t.Errorf("%q is at %s, want %s", path, got, want)
		}
	}
	if !d.Has("dishes.fish.price") || d.Has("dishes.fish.time") {
		t.Error("Has is wrong about what is written")
	}
}

// TestReport: a check speaks where decoding did not.
func TestReport(t *testing.T) {
	_, d := decode("title: a\nmain: { pirce: 3 }\nby:\n  x: { price: many, time: 1s }\n  y: { price: 1 }\n")
	before := len(d.Err().(Problems))
	for _, silent := range []string{
		"main.price", // perhaps what was misspelt
		"main",       // perhaps because of it
		"by.x.price", // was not a number, as told
		"by.x",       //
		"by.x.with",  // perhaps because of it
	} {
		d.Report(silent, "", "must not be told: %s", silent)
	}
	if now := len(d.Err().(Problems)); now != before {
		t.Errorf("told too much: %v", d.Err())
	}
	d.Report("by.x.time", "a hint", "told: %d", 1)
	d.Report("by.y.with", "", "told")
	d.ReportKey("by.x.price", "", "must not be told")
	d.Report("by", "", "told")
	d.ReportKey("by.y.price", "", "told at the key")
	problems := d.Err().(Problems)
	if len(problems) != before+4 {
		t.Fatalf("told too little: %v", d.Err())
	}
	for _, p := range problems {
		if p.Path == "by.x.time" && (p.Line != 4 || p.Column != 27 || p.Hint != "a hint" || p.Message != "told: 1") {
			t.Errorf("told wrongly: %+v", p)
		}
		if p.Message == "told at the key" && (p.Line != 5 || p.Column != 8) {
			t.Errorf("told at the wrong place: %+v", p)
		}
	}
}

func TestUnavailable(t *testing.T) {
	var m menu
	d := Parse("menu.yaml", []byte("title: a\nmain: { later: 1 }\n"))
	d.Unavailable = func(path []string) string { return "asked about " + strings.Join(path, "/") }
	d.Decode(&m)
	if err := d.Err(); err == nil || !strings.Contains(err.Error(), "menu.yaml:2:9: asked about main/later") {
		t.Errorf("got %v", err)
	}
}

func TestAliases(t *testing.T) {
	got, d := decode("title: &t \"12 EUR\"\nmain: &m { price: 1, with: [a] }\nby: { x: *m, y: *m }\norder: [*m, *t]\nwait: 3s\n")
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	one := dish{Price: 1, With: []string{"a"}}
	if diff := cmp.Diff(map[string]dish{"x": one, "y": one}, got.By); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]dish{one, {Price: 12}}, got.Order); diff != "" {
		t.Error(diff)
	}
}

func TestExcerpt(t *testing.T) {
	long := strings.Repeat("x", 500) + "HERE" + strings.Repeat("y", 1_000_000)
	text, caret := excerpt(long, 501)
	if utf8.RuneCountInString(text) > 102 || string([]rune(text)[caret:caret+4]) != "HERE" {
		t.Errorf("caret %d in %q", caret, text)
	}
	text, caret = excerpt("\tä\x1b[31mx", 3)
	if text != " ä\ufffd[31mx" || caret != 2 {
		t.Errorf("caret %d in %q", caret, text)
	}
}

func TestNearest(t *testing.T) {
	edges := []string{"gateway", "orders", "payments", "stock", "users"}
	for name, want := range map[string]string{
		"order": "orders", "oders": "orders", "payemnts": "payments", "PAYMENTS": "payments", "stokc": "stock",
		"pay": "payments", "gatewy": "gateway", "db": "", "": "", "x": "", "catalogue": "",
		strings.Repeat("a", 100): "",
	} {
		got, ok := Nearest(name, edges)
		if got != want || ok != (want != "") {
			t.Errorf("Nearest(%q) = %q, %t, want %q", name, got, ok, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "bac", 1},
		{"kitten", "sitting", 3}, {"latenzy", "latency", 1}, {"ca", "abc", 3}, {"öl", "ol", 1},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
		if got := distance(test.b, test.a); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.b, test.a, got, test.want)
		}
	}
}

// FuzzParse: whatever the bytes, there is no panic, the cost stays bounded, and
// every mistake stands inside the file.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"title: a\nwait: 800\n", "title: &a [*a]\n", "a: !!str x\n", "? [a]\n: b\n", "title: a\nmain: { price: 1, <<: *x }\n",
		"---\na: 1\n---\n", "- - - a\n", "title: |\n  x\n y\n", "title: \"\\x00\"\n", "{a: b, c}\n", "\ufefftitle: x\r\n\ttags: [", "%YAML 1.2\n",
		"title: a\ndishes: { x: 1 EUR, y: { side: { side: 3 EUR } } }\ntags: &t [a]\nby: { z: { with: *t } }\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1<<16 {
			return // large files are TestLimits' business; here many files matter
		}
		start := time.Now()
		_, d := decode(string(src))
		if spent := time.Since(start); spent > 10*time.Second {
			t.Errorf("took %s", spent)
		}
		err := d.Err()
		if err == nil {
			return
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("%#v", err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Message == "" || p.Line > len(d.lines)+1 {
				t.Errorf("%+v", p)
			}
		}
		if text := err.Error(); len(text) > 1<<17 || !utf8.ValidString(text) {
			t.Errorf("%d bytes of error", len(text))
		}
	})
}
