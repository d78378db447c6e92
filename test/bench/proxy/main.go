//go:build linux

// Command proxy measures what our proxy costs and how exact its faults are, beside
// Toxiproxy, HAProxy, a bare splice(2) proxy and no proxy at all:
//
//	go run ./test/bench/proxy -binary bin/chaosctl
//
// Callers and upstream are this process, on one core with one clock (package
// loop); the proxy is a process of its own on the other core, started anew for
// every measurement.
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

	"github.com/chaosctl/chaosctl/test/bench/compare"
	"github.com/chaosctl/chaosctl/test/bench/peers"
	"github.com/chaosctl/chaosctl/test/bench/process"
)

func main() {
	// Children die with the thread that forked them: it has to be this one, to the end.
	runtime.LockOSThread()
	binary := flag.String("binary", "bin/chaosctl", "our `program`")
	as := flag.String("as", "", "be the proxy of that `name` instead of measuring (what the benchmark starts itself as)")
	upstream := flag.String("upstream", "", "`host:port` behind the proxy that -as is")
	options := compare.Flags(flag.CommandLine)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() error {
		if *as != "" {
			return serveAs(ctx, *as, *upstream)
		}
		return measure(ctx, *binary, *options)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
		os.Exit(1)
	}
}

// others are the peers, as package peers calls them.
var others = []string{"toxiproxy", "haproxy"}

func measure(ctx context.Context, binary string, options compare.Options) error {
	if options.List {
		bench(nil).List(os.Stdout)
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
	dir, err := os.MkdirTemp("", "bench-proxy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	s := &subjects{binary: binary, peers: map[string]peers.Peer{}, dir: dir, null: null}
	b := bench(s)
	b.Skipped = map[string]string{}
	for _, name := range others {
		p, err := peers.Find(ctx, name)
		if err != nil {
			b.Skipped[name] = err.Error()
			if name == "haproxy" {
				b.Skipped["haproxy http"] = err.Error()
			}
			continue
		}
		s.peers[name] = p
		b.Versions = append(b.Versions, name+" "+p.Version)
	}
	if output, err := exec.CommandContext(ctx, binary, "proxy", "serve", "--help").CombinedOutput(); err != nil {
		b.Skipped[compare.Ours] = fmt.Sprintf("%s proxy serve --help: %v: %s", binary, err, strings.TrimSpace(string(output)))
	}
	traffic, subject := process.Cores()
	s.cores, s.all = []int{subject}, []int{traffic, subject}
	b.Notes = append(b.Notes, process.Network(alone), fmt.Sprintf(`Callers and upstream are one thread with epoll on core %d; each proxy is a process of its own on core %d, started anew for every measurement, its log going to /dev/null.
Traffic is read without copying it (MSG_TRUNC), so that the proxy is the slower side. On one core a proxy is spared wake-ups across cores; "free" rows let it run on both, as users do. "ours" is `+"`chaosctl proxy serve`"+`, "splice" is 40 lines of Go with io.Copy both ways.`, traffic, subject))
	if err := process.Pin(traffic); err != nil {
		return err
	}
	return b.Run(ctx, options, os.Stdout, os.Stderr)
}
