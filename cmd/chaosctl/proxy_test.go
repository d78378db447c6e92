package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestProxyDoc: every command line in docs/proxy.md and in the examples of
// chaosctl proxy is one that there is, with flags it has and arguments it takes.
func TestProxyDoc(t *testing.T) {
	text := readDoc(t, "docs/proxy.md")
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		text += "\n" + c.Example
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newProxy())
	lines := regexp.MustCompile(`(?m)^ +chaosctl (proxy .*?)(?: &)?$`).FindAllStringSubmatch(text, -1)
	if len(lines) < 15 {
		t.Fatalf("only %d commands found", len(lines))
	}
	for _, m := range lines {
		cmd, rest, err := newRoot().Find(strings.Fields(m[1]))
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err == nil {
			err = cmd.ValidateRequiredFlags()
		}
		if err == nil {
			err = cmd.ValidateFlagGroups()
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil || !cmd.Runnable() {
			t.Errorf("chaosctl %s: %v", m[1], err)
		}
	}
}

// TestServeAllowHost: a name given with --allow-host is one that clients may use;
// a server that others can reach without a token says so.
func TestServeAllowHost(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	url, stdout := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- serveProxies(ctx, serveFlags{listen: "0.0.0.0:0", hold: 1 << 20, allow: []string{"toxiproxy"}}, stdout, &stderr)
	}()
	line, err := bufio.NewReader(url).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port := line[strings.LastIndex(line, ":")+1 : len(line)-1]
	for host, want := range map[string]int{"toxiproxy:8474": 200, "evil.example:8474": 403} {
		req, _ := http.NewRequest("GET", "http://127.0.0.1:"+port+"/proxies", nil)
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %s: %s, want %d", host, resp.Status, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(stderr.String(), "--token asks for one") {
		t.Errorf("stderr: %s", stderr.String())
	}
}
