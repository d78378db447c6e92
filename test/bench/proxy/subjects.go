//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/test/bench/loop"
	"github.com/chaosctl/chaosctl/test/bench/peers"
	"github.com/chaosctl/chaosctl/test/bench/process"
)

// running is a program between callers and an upstream.
type running struct {
	addr    netip.AddrPort
	process *process.Process // nil: there is none (direct)
	api     string           // URL of its Toxiproxy API, empty without one
}

func (r *running) stop() error {
	if r.process == nil {
		return nil
	}
	return errors.Join(r.process.Ended(), r.process.Stop())
}

// subjects starts the programs by the names of their columns.
type subjects struct {
	cores  []int // where they run
	all    []int // the same in rows where they are free
	binary string
	// holdMost is what ours may hold back, as its flag has it; empty: what it does
	// without being told.
	holdMost string
	peers    map[string]peers.Peer
	dir      string   // for their files
	null     *os.File // where their logs go
}

func (s *subjects) start(ctx context.Context, name string, upstream netip.AddrPort) (*running, error) {
	switch name {
	case "direct":
		return &running{addr: upstream}, nil
	case "splice", "ours http":
		return s.self(name, upstream)
	case "haproxy":
		return s.haproxy("tcp", upstream)
	case "haproxy http":
		return s.haproxy("http", upstream)
	case "toxiproxy":
		return s.toxic(ctx, upstream, func(config, host, port string) []string {
			return []string{s.peers[name].Path, "-host", host, "-port", port, "-config", config}
		})
	case "ours":
		return s.toxic(ctx, upstream, func(config, host, port string) []string {
			all := []string{s.binary, "proxy", "serve", "--listen", net.JoinHostPort(host, port), "--config", config}
			if s.holdMost != "" {
				all = append(all, "--hold-most", s.holdMost)
			}
			return all
		})
	}
	return nil, fmt.Errorf("no subject is called %q", name)
}

// self starts this program as the proxy of that name; it prints its address.
func (s *subjects) self(name string, upstream netip.AddrPort) (*running, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p, err := process.Start(process.Spec{Args: []string{exe, "-as", name, "-upstream", upstream.String()}, Cores: s.cores, Stdout: w})
	w.Close()
	if err != nil {
		return nil, err
	}
	line := ""
	err = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if err == nil {
		line, err = bufio.NewReader(r).ReadString('\n')
	}
	addr, err2 := netip.ParseAddrPort(string(bytes.TrimSpace([]byte(line))))
	if err := errors.Join(err, err2); err != nil {
		return nil, errors.Join(fmt.Errorf("address of the %s proxy: %w", name, err), p.Stop())
	}
	return &running{addr: addr, process: p}, nil
}

// haproxy inherits a socket that listens already: no port to guess, and nothing
// to wait for.
func (s *subjects) haproxy(mode string, upstream netip.AddrPort) (*running, error) {
	fd, addr, err := loop.Listen()
	if err != nil {
		return nil, err
	}
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	config := filepath.Join(s.dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 8000
  nbthread 1
defaults
  mode %s
  timeout connect 5s
  timeout client 5m
  timeout server 5m
frontend bench
  bind fd@3
  default_backend upstream
backend upstream
  server one %s
`, mode, upstream)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	p, err := process.Start(process.Spec{Args: []string{s.peers["haproxy"].Path, "-db", "-f", config}, Cores: s.cores, Files: []*os.File{listener}})
	if err != nil {
		return nil, err
	}
	return &running{addr: addr, process: p}, nil
}

// proxyName is what the one proxy of a Toxiproxy API is called.
const proxyName = "bench"

// toxic starts a program that speaks the Toxiproxy API, with one proxy from its
// config file, and returns when that is there.
func (s *subjects) toxic(ctx context.Context, upstream netip.AddrPort, args func(config, host, port string) []string) (*running, error) {
	config := filepath.Join(s.dir, "toxiproxy.json")
	text, err := json.Marshal([]map[string]any{{"name": proxyName, "listen": "127.0.0.1:0", "upstream": upstream.String(), "enabled": true}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, text, 0o644); err != nil {
		return nil, err
	}
	// The API's port must be known beforehand: a free one, until somebody else takes it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	api := l.Addr().String()
	l.Close()
	host, port, err := net.SplitHostPort(api)
	if err != nil {
		return nil, err
	}
	p, err := process.Start(process.Spec{Args: args(config, host, port), Cores: s.cores, Stdout: s.null})
	if err != nil {
		return nil, err
	}
	r := &running{process: p, api: "http://" + api}
	if err := r.ready(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return r, nil
}

// ready asks the API until it answers, and learns where the proxy listens.
func (r *running) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		var all map[string]struct{ Listen string }
		err := r.call(ctx, http.MethodGet, "/proxies", nil, &all)
		if err == nil {
			r.addr, err = netip.ParseAddrPort(all[proxyName].Listen)
			if err != nil {
				return fmt.Errorf("GET /proxies: where proxy %q listens: %w", proxyName, err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API at %s does not answer within 10 s: %w", r.api, err)
		case <-r.process.Done():
			return r.process.Ended()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// add puts a toxic to work on what comes from the upstream.
func (r *running) add(ctx context.Context, kind string, attributes map[string]int64) error {
	return r.call(ctx, http.MethodPost, "/proxies/"+proxyName+"/toxics", map[string]any{"type": kind, "attributes": attributes}, nil)
}

// call speaks to the API on a connection of its own, which leaves none idle.
func (r *running) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.api+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, bytes.TrimSpace(text))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// serveAs is this program as one of the proxies under test, until it is ended.
func serveAs(ctx context.Context, name, upstream string) error {
	switch name {
	case "splice":
		return serveSplice(ctx, upstream)
	case "ours http":
		p, err := proxy.Start(ctx, proxy.Config{Name: "bench", Upstream: upstream, Protocol: proxy.HTTP})
		if err != nil {
			return err
		}
		if _, err := p.Add(proxy.Rule{Name: "hits nothing", Percent: 0, Error: &proxy.Error{Status: 503}}); err != nil {
			return errors.Join(err, p.Stop())
		}
		fmt.Println(p.Addr())
		<-ctx.Done()
		return p.Stop()
	}
	return fmt.Errorf("-as %q: want splice or ours http", name)
}

// serveSplice is the least a proxy can do in Go: accept, dial, copy both ways.
// Between two TCP connections io.Copy is splice(2).
func serveSplice(ctx context.Context, upstream string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		caller, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer caller.Close()
			callee, err := net.Dial("tcp", upstream)
			if err != nil {
				return
			}
			defer callee.Close()
			done := make(chan struct{})
			go func() {
				carry(callee, caller)
				close(done)
			}()
			carry(caller, callee)
			<-done
		}()
	}
}

// carry copies one direction and passes its end on. An error ends the direction
// as the end does: the bare proxy keeps no books.
func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}
