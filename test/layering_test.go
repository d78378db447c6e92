// Package test holds what is true of the tree as a whole.
package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/chaosctl/chaosctl/"

// leaves may be imported by every package, and import only one another.
var leaves = []string{
	"targets/topology", "targets/pattern", "loadgen/hdr", "loadgen/arrival", "loadgen/threads", "scenarios/expect",
}

// layers, left to right: a package may import what stands in a layer before its
// own, and its own top-level folder.
var layers = map[string]int{
	"loadgen": 1, "faults": 1, "targets": 1, "scenarios": 2, "experiments": 3, "reports": 4, "cmd": 5, "test": 6,
}

// TestImportDirection: loadgen, faults and targets know nothing of each other ->
// scenarios -> experiments -> reports -> cmd.
func TestImportDirection(t *testing.T) {
	seen := 0
	for file, imports := range goFiles(t, false) {
		from := filepath.ToSlash(filepath.Dir(file))
		for _, to := range imports {
			to, ours := strings.CutPrefix(to, module)
			if !ours {
				continue
			}
			seen++
			fromTop, toTop := top(from), top(to)
			switch {
			case slices.Contains(leaves, to):
			case slices.Contains(leaves, from):
				t.Errorf("%s imports %s: a leaf imports only leaves", file, to)
			case fromTop == toTop:
			case layers[toTop] >= layers[fromTop]:
				t.Errorf("%s imports %s: the direction is loadgen, faults, targets -> scenarios -> experiments -> reports -> cmd; declare an interface where it is called instead", file, to)
			}
		}
	}
	if seen < 20 {
		t.Fatalf("only %d imports seen: this test looks at the wrong folder", seen)
	}
}

// TestPackageDocs: each package says what it is for, once.
func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{}
	for file := range goFiles(t, false) {
		dir := filepath.Dir(file)
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := docs[dir]; !ok {
			docs[dir] = nil
		}
		if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
			docs[dir] = append(docs[dir], file)
		}
	}
	for dir, files := range docs {
		switch len(files) {
		case 0:
			t.Errorf("package %s has no package comment: say what it owns, in the file a reader opens first", dir)
		case 1:
		default:
			t.Errorf("package %s has %d package comments (%s): keep one", dir, len(files), strings.Join(files, ", "))
		}
	}
}

// TestTopLevel: the folders that a reader was promised, and no others.
func TestTopLevel(t *testing.T) {
	allowed := strings.Fields(`cmd experiments faults loadgen targets reports scenarios docs test .ci .git .gitignore .chaosctl bin
		go.mod go.sum README.md ARCHITECTURE.md Makefile`)
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s stands at the top: the layout there is fixed (%s)", e.Name(), strings.Join(allowed, " "))
		}
	}
}

// goFiles lists the module's Go files with their imports.
func goFiles(t *testing.T, tests bool) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || (!tests && strings.HasSuffix(name, "_test.go")) {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		imports := []string{}
		for _, i := range f.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		files[rel] = imports
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func top(pkg string) string {
	first, _, _ := strings.Cut(pkg, "/")
	return first
}
