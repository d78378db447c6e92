package main

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults/toxiproxy"
	"github.com/chaosctl/chaosctl/test/bench/compare"
)

// rest is what is still reachable when a proxy has nothing to do any more.
type rest struct {
	connections int64 // until then
	heapKB      uint64
	objects     uint64
	goroutines  int
}

// soakRest has the server in this process, where the garbage collector can be called:
// four times the load of soak for a quarter of length, each with other choices, and
// after each everything is ended and what is left is counted. What soak sees depends
// on the toxics of the moment; this does not, and so it is exact to an object.
func soakRest(doc string, length time.Duration, seed uint64) error {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer echo.Close()
	go serveEcho(echo)
	server := toxiproxy.NewServer(toxiproxy.Config{Seed: seed, HoldMost: 256 << 20})
	defer server.Stop()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h := &http.Server{Handler: server, ReadHeaderTimeout: 5 * time.Second}
	defer h.Close()
	go h.Serve(listener)
	api := "http://" + listener.Addr().String()
	listen, err := proxyTo(echo, api)
	if err != nil {
		return err
	}

	const rounds = 4
	w := &work{api: api, listen: listen}
	var left []rest
	for round := range rounds {
		if err := w.load(length/rounds, seed+uint64(round)); err != nil {
			return err
		}
		if err := calm(api); err != nil {
			return err
		}
		for range 3 { // pools are emptied by the second
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		left = append(left, rest{w.connections.Load(), m.HeapAlloc >> 10, m.HeapObjects, runtime.NumGoroutine()})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores, %s; `make soak-proxy`: %v in %d parts.\n\n| after | connections until then | heap, KB | objects | goroutines |\n|---|---:|---:|---:|---:|\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), length, rounds)
	for i, r := range left {
		fmt.Fprintf(&b, "| part %d | %d | %d | %d | %d |\n", i+1, r.connections, r.heapKB, r.objects, r.goroutines)
	}
	fmt.Print(b.String())
	first, last := left[0], left[rounds-1]
	// Some 200 objects are the runtime's and the HTTP server's; beyond them, one that is
	// kept for every hundredth connection would be seen.
	if last.objects > first.objects+200+uint64(last.connections-first.connections)/100 || last.goroutines > first.goroutines+2 {
		return fmt.Errorf("something is left behind: %d objects and %d goroutines after the first part, %d and %d after the last",
			first.objects, first.goroutines, last.objects, last.goroutines)
	}
	if doc == "" {
		return nil
	}
	return compare.Replace(doc, "soak-rest", strings.TrimSuffix(b.String(), "\n"))
}

// calm waits until the proxy has no connection left, and nobody one to its API.
func calm(api string) error {
	open := regexp.MustCompile(`"open":\s*0\b`)
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		body, err := call("GET", api+"/proxies/echo/stats", "")
		if err != nil {
			return err
		}
		if open.MatchString(body) {
			break
		}
		if time.Now().After(limit) {
			return fmt.Errorf("connections are still open after 30 s: %s", body)
		}
	}
	client.CloseIdleConnections()
	time.Sleep(time.Second) // for their goroutines
	return nil
}

func removeToxics(api string) error {
	for i := range toxicNames {
		if _, err := call("DELETE", api+"/proxies/echo/toxics/"+toxicName(i), ""); err != nil {
			return err
		}
	}
	return nil
}
