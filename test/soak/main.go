// Command soak keeps `chaosctl proxy serve`, or a whole `chaosctl run`, busy for a
// while and watches what it holds: memory, file descriptors, goroutines (of a run:
// threads). It fails when any of them grows from the second quarter of the time to
// the last, when a byte is wrong, or when a fault was not undone.
//
//	go run ./test/soak -binary bin/chaosctl -for 10m -doc docs/PERFORMANCE.md
//	go run ./test/soak -what rest -for 2m
//	go run ./test/soak -binary bin/chaosctl -what run -for 30m
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/chaosctl/chaosctl/test/bench/compare"
)

func main() {
	binary := flag.String("binary", "bin/chaosctl", "the `program` to keep busy")
	what := flag.String("what", "proxy", "what to keep busy: proxy, rest (the proxy in this process, to see what is left of it) or run")
	doc := flag.String("doc", "", "write the table into this file")
	length := flag.Duration("for", 10*time.Minute, "how long")
	seed := flag.Uint64("seed", 1, "of every choice")
	flag.Parse()
	var err error
	switch *what {
	case "proxy":
		err = soak(*binary, *doc, *length, *seed)
	case "rest":
		err = soakRest(*doc, *length, *seed)
	case "run":
		err = soakRun(*binary, *doc, *length, *seed)
	default:
		err = fmt.Errorf("-what %q: allowed are proxy, rest, run", *what)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// reading is what the server holds at one moment.
type reading struct{ rssMB, heapMB, fds, goroutines float64 }

// soak keeps `chaosctl proxy serve` busy for length: 50 connections at a time that send
// up to 4 MB each and compare what comes back, and 50 calls a second to its API, by
// which toxics come and go. It writes the table into doc where that is named.
func soak(binary, doc string, length time.Duration, seed uint64) error {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer echo.Close()
	go serveEcho(echo)

	server := exec.Command(binary, "proxy", "serve", "--listen", "127.0.0.1:0", "--seed", strconv.FormatUint(seed, 10))
	server.Stderr = os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the server did not say where it listens: %w", err)
	}
	api := strings.TrimSpace(line)
	listen, err := proxyTo(echo, api)
	if err != nil {
		return err
	}
	// Every quarter makes the same choices, so that they can be compared: what the server
	// holds depends on which toxics there are.
	w := &work{api: api, listen: listen}
	worked := make(chan error, 1)
	began := time.Now()
	go func() {
		worked <- func() error {
			for range 4 {
				if err := w.load(length/4, seed); err != nil {
					return err
				}
			}
			return nil
		}()
	}()

	var readings []reading
	tick := time.NewTicker(length / 120)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case err := <-worked:
			if err != nil {
				return err
			}
			over = true
		case <-tick.C:
			r, err := look(server.Process.Pid, api)
			if err != nil {
				return err
			}
			readings = append(readings, r)
			if len(readings)%12 == 0 {
				fmt.Fprintf(os.Stderr, "%v: %.0f MB resident, %.0f MB of heap, %.0f file descriptors, %.0f goroutines\n",
					time.Since(began).Round(time.Second), r.rssMB, r.heapMB, r.fds, r.goroutines)
			}
		}
	}
	early, late := readings[len(readings)/4:len(readings)/2], readings[len(readings)*3/4:]
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, %s; `make soak-proxy`: %v, %.0f GB copied and compared, %d connections, %d calls of the API.\n\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), length, float64(w.copied.Load())/1e9, w.connections.Load(), w.calls.Load())
	b.WriteString("| the server, median | second quarter | last quarter |\n|---|---:|---:|\n")
	grown := false
	for _, m := range []struct {
		name string
		of   func(reading) float64
		by   float64 // of growth that is noise
	}{
		{"resident memory, MB", func(r reading) float64 { return r.rssMB }, 8},
		{"heap in use, MB", func(r reading) float64 { return r.heapMB }, 8},
		{"file descriptors", func(r reading) float64 { return r.fds }, 40},
		{"goroutines", func(r reading) float64 { return r.goroutines }, 40},
	} {
		before, after := median(early, m.of), median(late, m.of)
		fmt.Fprintf(&b, "| %s | %.0f | %.0f |\n", m.name, before, after)
		grown = grown || after > before*1.1+m.by
	}
	fmt.Print(b.String())
	switch {
	case grown:
		return errors.New("it grows")
	case doc == "":
		return nil
	}
	return compare.Replace(doc, "soak-proxy", strings.TrimSuffix(b.String(), "\n"))
}

// copyThrough sends random bytes through the proxy to the echo server and
// compares what comes back. A connection that a toxic ended is no mistake; a byte
// that is not the one that was sent is.
func copyThrough(listen string, draw *rand.Rand) (int64, error) {
	c, err := net.DialTimeout("tcp", listen, 10*time.Second)
	if err != nil {
		return 0, nil // reset at once, by a toxic
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	sent := make([]byte, 1+draw.IntN(4<<20))
	var key [32]byte
	for i := range key {
		key[i] = byte(draw.Uint32())
	}
	_, _ = rand.NewChaCha8(key).Read(sent)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := c.Write(sent); err == nil {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	})
	got, err := io.ReadAll(c)
	c.Close()
	writing.Wait()
	if !bytes.HasPrefix(sent, got) {
		return 0, fmt.Errorf("%d of %d bytes came back, and not those that were sent (%v)", len(got), len(sent), err)
	}
	return int64(len(got)), nil
}

var toxics = []string{
	`{"name":"%s","type":"latency","attributes":{"latency":5,"jitter":5}}`,
	`{"name":"%s","type":"bandwidth","stream":"upstream","toxicity":0.5,"attributes":{"rate":20000}}`,
	`{"name":"%s","type":"slicer","attributes":{"average_size":2000,"size_variation":1500}}`,
	`{"name":"%s","type":"limit_data","toxicity":0.1,"attributes":{"bytes":100000}}`,
	`{"name":"%s","type":"reset_peer","toxicity":0.1,"attributes":{"timeout":20}}`,
	`{"name":"%s","type":"timeout","toxicity":0.1,"attributes":{"timeout":50}}`,
	`{"name":"%s","type":"slow_close","attributes":{"delay":10}}`,
	`{"name":"%s","type":"packet_loss","toxicity":0.2,"attributes":{"loss_rate":0.01}}`,
}

// So many toxics can there be at once.
const toxicNames = 4

func toxicName(i int) string { return "t" + strconv.Itoa(i) }

// change adds a toxic, removes one, or looks.
func change(api string, draw *rand.Rand) error {
	name := toxicName(draw.IntN(toxicNames))
	switch draw.IntN(5) {
	case 0, 1:
		_, err := call("POST", api+"/proxies/echo/toxics", fmt.Sprintf(toxics[draw.IntN(len(toxics))], name))
		return err
	case 2, 3:
		_, err := call("DELETE", api+"/proxies/echo/toxics/"+name, "")
		return err
	}
	_, err := call("GET", api+"/proxies/echo/stats", "")
	return err
}

// client lets go of idle connections before the server does (after a minute), which
// it might while a call is on its way.
var client = &http.Client{Transport: &http.Transport{IdleConnTimeout: 10 * time.Second}}

func call(method, url, body string) (string, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch resp.StatusCode {
	case 200, 201, 204, 404, 409: // a toxic that is not there, or there already
		return string(b), err
	}
	return "", fmt.Errorf("%s %s: %s %s", method, url, resp.Status, b)
}

func look(pid int, api string) (r reading, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return r, fmt.Errorf("the server is gone: %w", err)
	}
	kb, _ := strconv.ParseFloat(regexp.MustCompile(`VmRSS:\s+(\d+)`).FindStringSubmatch(string(status))[1], 64)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return r, err
	}
	metrics, err := call("GET", api+"/metrics", "")
	if err != nil {
		return r, err
	}
	goroutines, _ := strconv.ParseFloat(regexp.MustCompile(`(?m)^go_goroutines (\S+)`).FindStringSubmatch(metrics)[1], 64)
	heap, _ := strconv.ParseFloat(regexp.MustCompile(`(?m)^go_memstats_heap_inuse_bytes (\S+)`).FindStringSubmatch(metrics)[1], 64)
	return reading{kb / 1024, heap / (1 << 20), float64(len(fds)), goroutines}, nil
}

func median(all []reading, of func(reading) float64) float64 {
	var v []float64
	for _, r := range all {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
	}
}
