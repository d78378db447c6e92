package loadgen

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"
)

// withData is the spec with its data files read from texts.
func withData(t interface {
	Helper()
	Fatalf(string, ...any)
}, s Spec, files map[string]string) Spec {
	t.Helper()
	tree := fstest.MapFS{}
	for name, text := range files {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	s.ReadData(tree, func(path, format string, args ...any) { t.Fatalf("%s: "+format, append([]any{path}, args...)...) })
	return s
}

// Each format says the same rows; what is text stays text, what is not is JSON.
func TestDataFormats(t *testing.T) {
	for name, text := range map[string]string{
		"a.csv":    "\ufeffn, name\r\n1,\"Lo, \"\"pez\"\"\"\r\n2,ü\r\n",
		"a.json":   `[{"n":1,"name":"Lo, \"pez\""}, {"name":"ü","n":2}]` + "\n",
		"a.jsonl":  "{\"n\":1,\"name\":\"Lo, \\\"pez\\\"\"}\n\n{\"n\":2,\"name\":\"ü\"}\n",
		"a.ndjson": `{"n":1,"name":"Lo, \"pez\""}{"n":2,"name":"ü"}`,
	} {
		got, err := parseTable(name, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := [][]string{{"1", `Lo, "pez"`}, {"2", "ü"}}; !slices.Equal(got.columns, []string{"n", "name"}) || fmt.Sprint(got.rows) != fmt.Sprint(want) {
			t.Errorf("%s: columns %q, rows %q, want %q", name, got.columns, got.rows, want)
		}
	}
	got, err := parseTable("kinds.jsonl", []byte(`{"b":true,"n":12345678901234567890,"o":{"x": [1, 2]},"z":null}`))
	if want := []string{"true", "12345678901234567890", `{"x":[1,2]}`, "null"}; err != nil || !slices.Equal(got.rows[0], want) {
		t.Errorf("%v, %v; want %q", got, err, want)
	}
}

// Each mistake in a file is told at its place in that file.
func TestDataMistakes(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"a.csv", "", "a.csv:1:1: the file is empty"},
		{"a.csv", "name,email\n", "a.csv:1:1: there are no rows"},
		{"a.csv", "name,email\nada,a@x\nbob\n", `a.csv:3:1: the row ends here, without "email"`},
		{"a.csv", "name,email\nada,a@x,more\n", "a.csv:2:9: the row has 3 fields, and the header names 2"},
		{"a.csv", "name,name\n1,2\n", `a.csv:1:6: a second column "name"`},
		{"a.csv", "name,\n1,2\n", "a.csv:1:6: column 2 has no name"},
		{"a.csv", "name,email\nada,\"x\n", "a.csv:2:8: extraneous or missing \""},
		{"a.csv", "name\na\"b\n", "a.csv:2:2: bare \""},
		{"a.json", "{}", "a.json:1:1: it is to be a JSON array"},
		{"a.json", "[]", "a.json:1:1: there are no rows"},
		{"a.json", "[{\"a\":1},\n 5]", "a.json:2:2: row 2 is no object"},
		{"a.json", "[{\"a\":1},\n  {\"b\":1}]", `a.json:2:3: row 2 has no "a", which the first row has`},
		{"a.json", "[{\"a\":1},\n  {\"a\":1,\"b\":2}]", `a.json:2:3: row 2 has a "b", which the first row has not`},
		{"a.json", "[{\"a\":1}", "a.json:1:9: not JSON: the array is not closed"},
		{"a.json", "[{\"a\":1}] []", "a.json:1:11: there is more than rows in it"},
		{"a.json", "[{\"a\":1},\n{\"a\":x}]", "a.json:2:6: not JSON: invalid character 'x'"},
		{"a.json", `[{"a":1} {"a":2}]`, "a.json:1:10: not JSON: expected comma"},
		{"a.jsonl", "{\"a\":1}\n{\"a\":", "a.jsonl:2:6: not JSON: it ends too early"},
		{"a.jsonl", "{\"a\":1}\n{}", "a.jsonl:2:1: row 2 has no columns"},
		{"a.xlsx", "", "data files end in .csv"},
	} {
		if _, err := parseTable(c.file, []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v; want %q", c.file, c.text, err, c.want)
		}
	}
}

// No name leads out of the scenario file's folder, and no link does.
func TestDataStaysInItsFolder(t *testing.T) {
	dir := t.TempDir()
	inside, secret := filepath.Join(dir, "inside"), filepath.Join(dir, "secret.csv")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(inside, "below"), 0o755),
		os.WriteFile(secret, []byte("a\n1\n"), 0o600),
		os.WriteFile(filepath.Join(inside, "below", "a.csv"), []byte("a\n1\n"), 0o600),
		os.Symlink(secret, filepath.Join(inside, "absolute.csv")),
		os.Symlink("../secret.csv", filepath.Join(inside, "out.csv")),
		os.Symlink("..", filepath.Join(inside, "up")),
		os.Symlink("below/a.csv", filepath.Join(inside, "in.csv")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{
		"below/a.csv": "", "./below/../below/a.csv": "", "in.csv": "",
		secret: "is absolute", "../secret.csv": "leads out", "below/../../secret.csv": "leads out",
		"absolute.csv": "escapes", "out.csv": "escapes", "up/secret.csv": "escapes",
		"none.csv": "no file", "below": "is no regular file",
	} {
		_, err := readDataFile(root.FS(), name)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
}

// The order of rows: request k has row k and starts again; random is a function of
// the seed and uses all rows; unique never gives one twice.
func TestRowsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "rows")
		text := "id\n"
		for i := range n {
			text += fmt.Sprintf("r%d\n", i)
		}
		seed := rapid.Uint64().Draw(t, "seed")
		order := rapid.SampledFrom([]RowOrder{"", Sequential, Random, Unique}).Draw(t, "order")
		spec := withData(t, Spec{
			Name: "s", Request: &Request{Method: "GET", Path: "/{{.d.id}}"}, Data: map[string]Data{"d": {File: "d.csv", Order: order}},
		}, map[string]string{"d.csv": text})
		compiled := func(seed uint64) *stream {
			return compile(spec, seed, func(path, format string, args ...any) { t.Fatalf(format, args...) })
		}
		s, again := compiled(seed), compiled(seed)
		seen := map[string]int{}
		for seq := range uint64(200) {
			if order == Unique && seq >= uint64(n) {
				if err := s.sources[0].left(seq); err == nil {
					t.Fatalf("request %d has a row of %d", seq, n)
				}
				continue
			}
			_, path := s.describe(seq)
			seen[path]++
			if _, same := again.describe(seq); same != path {
				t.Fatalf("request %d has %s and %s", seq, path, same)
			}
			if want := fmt.Sprintf("/r%d", seq%uint64(n)); order != Random && path != want {
				t.Fatalf("request %d has %s, want %s", seq, path, want)
			}
		}
		if order != Random && len(seen) != n || order == Unique && slices.Max(slices.Collect(maps.Values(seen))) != 1 {
			t.Fatalf("%s: %v of %d rows", order, seen, n)
		}
	})
}

func TestRandomRowsAreSpreadOut(t *testing.T) {
	spec := withData(t, Spec{Name: "s", Request: &Request{Method: "GET", Path: "/{{.d.id}}"}, Data: map[string]Data{"d": {File: "d.csv", Order: Random}}},
		map[string]string{"d.csv": "id\na\nb\nc\n"})
	s := compile(spec, 7, func(path, format string, args ...any) { t.Errorf(format, args...) })
	seen := map[string]int{}
	for seq := range uint64(3000) {
		_, path := s.describe(seq)
		seen[path]++
	}
	for path, n := range seen {
		if n < 897 || n > 1103 { // 1,000 ± 4σ
			t.Errorf("%s %d times of 3000", path, n)
		}
	}
}

// A mix sends each kind as often as its weight says, and weight 0 never.
func TestWeights(t *testing.T) {
	s := compile(Spec{Name: "mix", Requests: []Request{
		{Method: "GET", Path: "/a", Weight: ptr(6)}, {Method: "GET", Path: "/never", Weight: ptr(0)}, {Method: "GET", Path: "/b", Weight: ptr(3)}, {Method: "GET", Path: "/c"},
	}}, 7, func(path, format string, args ...any) { t.Errorf(format, args...) })
	seen := map[string]int{}
	const n = 20_000
	for seq := range uint64(n) {
		_, path := s.describe(seq)
		seen[path]++
	}
	for path, share := range map[string]float64{"/a": 0.6, "/b": 0.3, "/c": 0.1, "/never": 0} {
		if got := float64(seen[path]) / n; got < share-0.014 || got > share+0.014 { // 4σ of 0.6 at 20,000
			t.Errorf("%s is %.3f of the requests, want %.1f", path, got, share)
		}
	}
	if seen["/never"] != 0 {
		t.Errorf("weight 0 was sent %d times", seen["/never"])
	}
}

func FuzzData(f *testing.F) {
	for _, s := range []string{"a,b\n1,2\n", `[{"a":1}]`, "[{\"a\":1} 2", `{"a":1}`, "[1 2", "\"", "[{}", "\xff\xfe", `{"a":1}]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"d.csv", "d.json", "d.jsonl"} {
			got, err := parseTable(name, []byte(text))
			if err != nil {
				if !strings.HasPrefix(err.Error(), name+":") {
					t.Fatalf("%q: %v has no place", text, err)
				}
				continue
			}
			for _, row := range got.rows {
				if len(row) != len(got.columns) {
					t.Fatalf("%q: row %q of columns %q", text, row, got.columns)
				}
			}
		}
	})
}
