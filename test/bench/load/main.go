//go:build linux

// Command load measures what our load generator costs and how true its numbers
// are, beside wrk, vegeta, hey, fortio, ab and k6:
//
//	go run ./test/bench/load -binary bin/chaosctl
//
// The server is this program on one core, the generator alone on the other.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/chaosctl/chaosctl/test/bench/compare"
	"github.com/chaosctl/chaosctl/test/bench/peers"
	"github.com/chaosctl/chaosctl/test/bench/process"
)

func main() {
	// Children die with the thread that forked them: it has to be this one, to the end.
	runtime.LockOSThread()
	binary := flag.String("binary", "bin/chaosctl", "our `program`")
	as := flag.String("as", "", "server or caller: be that instead of measuring (what the benchmark starts itself as)")
	var b behaviour
	flag.DurationVar(&b.Delay, "delay", 0, "of the server's answers")
	flag.DurationVar(&b.Period, "period", 0, "in which the server freezes once")
	flag.DurationVar(&b.Freeze, "freeze", 0, "how long it does")
	flag.BoolVar(&b.Secure, "secure", false, "the server speaks TLS")
	flag.StringVar(&b.Speaks, "speaks", "", "what the server speaks instead of HTTP/1.1: h2c or grpc")
	target := flag.String("url", "", "of caller: whom it calls")
	users := flag.Int("users", 0, "of caller: calls at once")
	connections := flag.Int("connections", 0, "of caller: they share so many")
	options := compare.Flags(flag.CommandLine)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() error {
		switch *as {
		case "":
			return measure(ctx, *binary, *options)
		case "server":
			stop() // it ends with its stdin, or at once
			return serve(b)
		case "caller":
			return call(ctx, *target, *users, *connections)
		}
		return fmt.Errorf("-as %q: want server or caller", *as)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-load:", err)
		os.Exit(1)
	}
}

// others are the peers, as package peers calls them.
var others = []string{"wrk", "wrk2", "vegeta", "hey", "fortio", "ab", "k6", "h2load"}

func measure(ctx context.Context, binary string, options compare.Options) error {
	if options.List {
		bench(&generators{}).List(os.Stdout)
		return nil
	}
	alone, err := process.OwnNetwork(func() {
		for _, name := range others {
			_, _ = peers.Find(ctx, name) // asked again, and then told, by who is to run
		}
	})
	if err != nil {
		return err
	}
	if err := process.AllowFiles(10_000); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g := &generators{binary: binary, peers: map[string]peers.Peer{}, dir: dir}
	b := bench(g)
	b.Skipped = map[string]string{}
	for _, name := range others {
		p, err := peers.Find(ctx, name)
		if err != nil {
			b.Skipped[name] = err.Error()
			continue
		}
		g.peers[name] = p
		b.Versions = append(b.Versions, name+" "+p.Version)
	}
	if output, err := exec.CommandContext(ctx, binary, "load", "--help").CombinedOutput(); err != nil {
		b.Skipped[compare.Ours] = fmt.Sprintf("%s load --help: %v: %s", binary, err, strings.TrimSpace(string(output)))
	}
	g.serverCore, g.core = process.Cores()
	b.Notes = append(b.Notes, process.Network(alone), fmt.Sprintf(`The server is one thread with epoll on core %d, answers of 13 bytes; the generator is alone on core %d. CPU and requests are counted from outside, in a window of 4 s in the middle of the run: of vegeta, attack and report together.
Open loop: request k is due at k/rate; when it arrived is noted by the server, against the earliest. Truth in the freezing test: from the schedule and the server's answers, a p99 of %v.
Over TLS the server is the same thread with crypto/tls, which costs about what our generator does. A session is three requests, the second and third with a value captured from the JSON of the first.
HTTP/2 is without TLS, and vegeta has one connection for it. The grpc-go loop is goroutines that call grpc_health_v1 and do nothing else; k6 has a connection for each of its 64 users there; what is called is answered from frames that are made once.`,
		g.serverCore, g.core, behaviour{Delay: time.Millisecond, Period: 10 * time.Second, Freeze: time.Second}.p99(500, 20*time.Second).Round(time.Millisecond)))
	if err := process.Pin(g.serverCore); err != nil {
		return err
	}
	return b.Run(ctx, options, os.Stdout, os.Stderr)
}
