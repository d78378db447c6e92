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
	"cmp"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
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

// soak keeps `chaosctl proxy serve` busy for length: 50 connections at a time that send
// up to 4 MB each and compare what comes back, and a change of its toxics every 50 ms.
// It writes the table into doc where that is named.
func soak(binary, doc string, length time.Duration, seed uint64) error {
	// Beside a hundred goroutines that are always ready a change would wait for its turn:
	// the kernel is fairer than Go's scheduler.
	runtime.GOMAXPROCS(4 * runtime.NumCPU())
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer echo.Close()
	go serveEcho(echo)

	server := exec.Command(binary, "proxy", "serve", "--listen", "127.0.0.1:0", "--seed", strconv.FormatUint(seed, 10))
	server.Stderr = os.Stderr
	// It makes so little garbage that it collects it once in 10 to 40 s, and until then what
	// it let go looks as if it were held. Here it collects after a fifth more.
	server.Env = append(os.Environ(), "GOGC=20")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the parent-death signal follows the thread
	defer runtime.UnlockOSThread()
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
	// What the server holds depends on which toxics there are. So every quarter makes the
	// same changes at the same moments, and the last is compared with the second moment by
	// moment; in the first the server grows to what it needs.
	w := &work{api: api, listen: listen}
	began := time.Now()
	var quarters [4][]reading
	for i := range quarters {
		worked := make(chan error, 1)
		go func() { worked <- w.load(length/4, seed) }()
		quarters[i], err = watch(server.Process.Pid, api, length/4/readingsPerQuarter)
		if err := cmp.Or(<-worked, err); err != nil {
			return err
		}
		r := quarters[i][readingsPerQuarter-1]
		fmt.Fprintf(os.Stderr, "%v: %.0f MB resident, %.0f MB of heap, %.0f file descriptors, %.0f goroutines\n",
			time.Since(began).Round(time.Second), r.rssMB, r.heapMB, r.fds, r.goroutines)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, %s; `make soak-proxy`: %v, %.0f GB copied and compared, %d connections, %d calls of the API.\n\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), length, float64(w.copied.Load())/1e9, w.connections.Load(), w.calls.Load())
	judged := compareQuarters(&b, quarters[1], quarters[3])
	fmt.Print(b.String())
	if judged != nil || doc == "" {
		return judged
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
