package main

import (
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chaosctl/chaosctl/targets/process"
)

// looked looks at a run that is live, from outside: `looked FOLDER`. Everything that
// listens does so on a loopback address, and what was started knows of our
// environment only what every child is given.
func looked(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: looked FOLDER")
	}
	temp := "TMPDIR=" + ts.Getenv("TMPDIR")
	allowed := []string{"PATH", "HOME", "TMPDIR", "LANG", process.Mark}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	ts.Check(err)
	sockets := map[string]string{} // inode -> who
	services := 0
	for _, dir := range dirs {
		b, err := os.ReadFile(dir + "/environ")
		env := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		if err != nil || !slices.Contains(env, temp) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		name := strings.ReplaceAll(string(line), "\x00", " ")
		links, _ := filepath.Glob(dir + "/fd/*")
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:[") {
				sockets[strings.Trim(to, "socket:[]")] = name
			}
		}
		if !strings.Contains(name, " service ") && !strings.Contains(name, " stress ") && !strings.Contains(name, " watchdog ") {
			continue
		}
		services++
		for _, entry := range env {
			if key, _, _ := strings.Cut(entry, "="); !slices.Contains(allowed, key) {
				ts.Fatalf("%s was given %s", name, entry)
			}
		}
	}
	if services != 7 { // five services, a stressor, the watchdog
		ts.Fatalf("%d children of the run were found, want 7", services)
	}
	listening := 0
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile("/proc/net/" + table)
		ts.Check(err)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 10 || sockets[f[9]] == "" || f[3] != "0A" && strings.HasPrefix(table, "tcp") {
				continue // 0A is LISTEN
			}
			listening++
			address, _, _ := strings.Cut(f[1], ":")
			raw, err := hex.DecodeString(address)
			ts.Check(err)
			for i := 0; i+4 <= len(raw); i += 4 { // words of the machine's byte order
				slices.Reverse(raw[i : i+4])
			}
			if !net.IP(raw).IsLoopback() {
				ts.Fatalf("%s listens on %s", sockets[f[9]], net.IP(raw))
			}
		}
	}
	if listening != 10 { // five services, five edges
		ts.Fatalf("%d sockets of the run listen, want 10", listening)
	}
}
