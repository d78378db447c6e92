package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/test/bench/compare"
)

// soakFaults are held in turn for 2 s, one every 5 s.
var soakFaults = []string{
	"target: gateway -> stock, latency: { delay: 20ms, jitter: 10ms }",
	"target: gateway -> stock, error: { percent: 20 }",
	"target: gateway -> stock, reset: { percent: 10 }",
	"target: gateway -> stock, bandwidth: { rate: 2MB/s }",
	"target: stock, pause: {}",
	"target: gateway -> stock, dns: { fail: nxdomain }",
	"target: stock, clock: { offset: 1m }",
	"target: stock, cpu: { load: 30%, workers: 1 }",
	"target: stock, memory: { size: 50MB }",
	"target: stock, disk: { fill: 10MB }",
	"target: gateway -> stock, refuse: {}",
	"target: stock, kill: { down: 500ms }",
}

const soakRate = 500 // requests a second

// soakRun keeps one `chaosctl run` busy for length: 500 requests a second through the
// shop, a fault every 5 s. It watches what the runner itself holds, writes the table
// into doc where that is named, and fails when something grows, when a fault was not
// undone, or when anything is left.
func soakRun(binary, doc string, length time.Duration, seed uint64) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var text strings.Builder
	fmt.Fprintf(&text, "scenario: soak\ntarget: { system: shop }\nload:\n  readers: { request: GET /products/p-3, to: gateway, rate: %d/s }\nphases: { before: 5s, during: %s, after: 5s }\nabort: []\nfaults:\n", soakRate, length)
	asked := 0
	for at := time.Second; at+3*time.Second < length; at += 5 * time.Second {
		fault := soakFaults[asked%len(soakFaults)]
		held := ", for: 2s"
		if strings.Contains(fault, "kill:") {
			held = ""
		}
		fmt.Fprintf(&text, "  f%d: { %s, at: %s%s }\n", asked, fault, at, held)
		asked++
	}
	file, temp := filepath.Join(dir, "soak.yaml"), filepath.Join(dir, "tmp")
	if err := errors.Join(os.WriteFile(file, []byte(text.String()), 0o600), os.Mkdir(temp, 0o700)); err != nil {
		return err
	}
	out := filepath.Join(dir, "run")
	ctx, cancel := context.WithTimeout(context.Background(), length+2*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, binary, "run", file, "--out", out, "--quiet", "--seed", strconv.FormatUint(seed, 10))
	run.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + temp, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
	run.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	run.Stdout, run.Stderr = &said, &said
	runtime.LockOSThread() // the parent-death signal follows the thread
	defer runtime.UnlockOSThread()
	if err := run.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	var readings []reading
	tick := time.NewTicker(max(length/120, 100*time.Millisecond))
	defer tick.Stop()
	for live := true; live; {
		select {
		case err = <-ended:
			live = false
		case <-tick.C:
			if r, err := lookAt(run.Process.Pid); err == nil { // else it is on its way out
				readings = append(readings, r)
			}
		}
	}
	var exit *exec.ExitError
	if code := run.ProcessState.ExitCode(); err != nil && (!errors.As(err, &exit) || code != 0 && code != 3) {
		return fmt.Errorf("chaosctl run: %w\n%s", err, said.String())
	}
	if len(readings) < 20 {
		return fmt.Errorf("only %d readings: it was over too soon\n%s", len(readings), said.String())
	}
	verified, sent, size, err := soakJournal(filepath.Join(out, "journal.jsonl"))
	if err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(temp, "*"))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("left behind: %v (%v)", left, err)
	}

	// A fault that holds calls back opens connections, which the services' pools then
	// keep for 90 s, some hundred at most: a run of minutes only shows them come.
	pools := 40.0
	if length < 15*time.Minute {
		pools = 1100 // both ends, in the proxy, of what two bulkheads of 256 admit
	}
	early, late := readings[len(readings)/4:len(readings)/2], readings[len(readings)*3/4:]
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, %s; `make soak`: %s of `chaosctl run`, %d requests sent, %d faults, of which %d were undone and verified; journal %.1f MB.\n\n| the runner itself, median | second quarter | last quarter |\n|---|---:|---:|\n",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), runtime.Version(), length, sent, asked, verified, float64(size)/1e6)
	var grown []string
	for _, m := range []struct {
		name string
		of   func(reading) float64
		by   float64 // of growth that is noise
	}{
		{"resident memory, MB", func(r reading) float64 { return r.rssMB }, 8},
		{"file descriptors", func(r reading) float64 { return r.fds }, pools},
		{"threads", func(r reading) float64 { return r.goroutines }, 4},
	} {
		a, z := compare.Median(each(early, m.of)), compare.Median(each(late, m.of))
		fmt.Fprintf(&b, "| %s | %.0f | %.0f |\n", m.name, a, z)
		if z > a*1.1+m.by {
			grown = append(grown, m.name)
		}
	}
	fmt.Print(b.String())
	switch {
	case verified != asked:
		return fmt.Errorf("%d of %d faults were undone and verified", verified, asked)
	case len(grown) > 0:
		return fmt.Errorf("it grows: %s", strings.Join(grown, ", "))
	case doc == "":
		return nil
	}
	return compare.Replace(doc, "soak", strings.TrimSuffix(b.String(), "\n"))
}

// soakJournal counts what the run did, and checks that its record holds.
func soakJournal(path string) (verified, sent int, size int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := journal.Verify(bytes.NewReader(b)); err != nil {
		return 0, 0, 0, err
	}
	for line := range bytes.Lines(b) {
		var e struct {
			Fault  *struct{ State string }
			Window *struct{ Sent int }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, 0, 0, err
		}
		if e.Fault != nil && e.Fault.State == "verified" {
			verified++
		}
		if e.Window != nil {
			sent += e.Window.Sent
		}
	}
	return verified, sent, int64(len(b)), nil
}
