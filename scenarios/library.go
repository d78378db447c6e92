package scenarios

import (
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/chaosctl/chaosctl/scenarios/strict"
)

//go:embed library/*.yaml
var libraryFiles embed.FS

// Entry is one scenario of the library that comes with the binary.
type Entry struct {
	Name        string
	Description string
	Rows        []int  // the reference rows it shows
	Source      string // the file, comments and all
}

// Library is every scenario that comes with the binary, by name.
func Library() []Entry { return readLibrary() }

var readLibrary = sync.OnceValue(func() []Entry {
	names, err := libraryFiles.ReadDir("library")
	if err != nil {
		panic(fmt.Sprintf("the library is part of the binary: %v", err))
	}
	var entries []Entry
	for _, n := range names { // ReadDir sorts
		src, err := libraryFiles.ReadFile(path.Join("library", n.Name()))
		if err != nil {
			panic(fmt.Sprintf("the library is part of the binary: %v", err))
		}
		var f file // the heading is enough here; the tests check the rest
		strict.Parse(n.Name(), src).Decode(&f)
		entries = append(entries, Entry{
			Name:        strings.TrimSuffix(n.Name(), ".yaml"),
			Description: strings.TrimSpace(f.Description),
			Rows:        f.Rows,
			Source:      string(src),
		})
	}
	return entries
})

// Open reads a scenario by path or by its name in the library, and returns the
// bytes of the file, too. A path has a separator or ends in .yaml or .yml, or a
// file of that name exists; anything else is a name. Errors in the file are of
// type Problems.
func Open(nameOrPath string) (*Scenario, []byte, error) {
	if isPath(nameOrPath) {
		return load(nameOrPath)
	}
	var names []string
	for _, e := range Library() {
		if e.Name == nameOrPath {
			src := []byte(e.Source)
			s, err := Parse("library/"+e.Name+".yaml", src)
			return s, src, err
		}
		names = append(names, e.Name)
	}
	if near, ok := strict.Nearest(nameOrPath, names); ok {
		return nil, nil, fmt.Errorf("no scenario %q in the library, and no file of that name: did you mean %q?", nameOrPath, near)
	}
	return nil, nil, fmt.Errorf("no scenario %q in the library, and no file of that name (library: %s)", nameOrPath, list(names))
}

func isPath(s string) bool {
	if strings.ContainsRune(s, '/') || strings.ContainsRune(s, filepath.Separator) {
		return true
	}
	switch filepath.Ext(s) {
	case ".yaml", ".yml":
		return true
	}
	info, err := os.Stat(s)
	return err == nil && !info.IsDir()
}
