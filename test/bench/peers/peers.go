//go:build linux

// Package peers provides the programs we compare ourselves with: Go programs by
// exact version, each built once into the user's cache folder from a module of
// its own, and others where they are installed.
package peers

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

//go:embed *.mod
var modules embed.FS

// source says which package of its module a Go peer's program is.
var source = map[string]string{
	"toxiproxy": "github.com/Shopify/toxiproxy/v2/cmd/server",
	"vegeta":    "github.com/tsenart/vegeta/v12",
	"hey":       "github.com/rakyll/hey",
	"fortio":    "fortio.org/fortio",
	"k6":        "go.k6.io/k6",
}

// installed says of each peer that is taken as it is on the PATH how to get it,
// and how it says its version. Of wrk, -v is an error and prints it all the same.
var installed = map[string]struct{ get, flag string }{
	"haproxy": {"apt-get install haproxy", "-v"},
	"wrk":     {"apt-get install wrk", "-v"},
	"h2load":  {"apt-get install nghttp2-client", "--version"},
	"wrk2":    {"Debian does not have it: build it and put it on the PATH under this name", "-v"},
	"ab":      {"apt-get install apache2-utils", "-V"},
}

// Peer is a program that can be run.
type Peer struct{ Name, Path, Version string }

// Find builds or locates the named peer. Not having one is an error that says
// what to do about it; a benchmark goes on without.
func Find(ctx context.Context, name string) (Peer, error) {
	if _, ok := source[name]; ok {
		return build(ctx, name)
	}
	from, ok := installed[name]
	if !ok {
		return Peer{}, fmt.Errorf("no peer is called %q", name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return Peer{}, fmt.Errorf("not installed (%s)", from.get)
	}
	// The exit code says nothing: see installed.
	output, _ := exec.CommandContext(ctx, path, from.flag).CombinedOutput()
	return Peer{name, path, version(output)}, nil
}

var number = regexp.MustCompile(`\d+\.\d+(\.\d+)?[-+.\w~]*`)

func version(output []byte) string {
	if v := number.Find(output); v != nil {
		return string(v)
	}
	return "of unknown version"
}

// build makes name-version in the cache folder, if it is not there.
func build(ctx context.Context, name string) (Peer, error) {
	mod, err := modules.ReadFile(name + ".mod")
	if err != nil {
		return Peer{}, err
	}
	_, require, _ := strings.Cut(string(mod), "\nrequire ")
	_, version, ok := strings.Cut(strings.TrimSpace(require), " ")
	if !ok {
		return Peer{}, fmt.Errorf("%s.mod: want one line: require MODULE VERSION", name)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return Peer{}, err
	}
	cache = filepath.Join(cache, "chaosctl-bench")
	p := Peer{name, filepath.Join(cache, name+"-"+version), version}
	if _, err := os.Stat(p.Path); err == nil {
		return p, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Peer{}, err
	}
	dir, err := os.MkdirTemp(cache, name+"-build-")
	if err != nil {
		return Peer{}, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o644); err != nil {
		return Peer{}, err
	}
	fmt.Fprintf(os.Stderr, "building %s %s into %s, once (of all peers only k6 takes minutes) …\n", name, version, cache)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", "go", "build", "-trimpath", "-o", "peer", source[name])
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return Peer{}, fmt.Errorf("build %s %s: %w: %s", name, version, err, lastLine(output))
	}
	// Renamed when it is whole: another benchmark may look for it meanwhile.
	if err := os.Rename(filepath.Join(dir, "peer"), p.Path); err != nil {
		return Peer{}, errors.Join(fmt.Errorf("build %s", name), err)
	}
	return p, nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
