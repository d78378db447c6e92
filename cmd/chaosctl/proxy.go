package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments/audit"
	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/faults/proxy"
	"github.com/chaosctl/chaosctl/faults/toxiproxy"
)

const proxyAPI = "127.0.0.1:8474" // where Toxiproxy's clients look

func newProxy() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "proxy",
		GroupID: "run",
		Short:   "A drop-in Toxiproxy: serve its API, and a client for it",
		Long: `Proxy serve is a server that every Toxiproxy client works with unchanged. The
other commands are a client, of this server and of a real Toxiproxy; they take
the flags of toxiproxy-cli.

The client looks at --host, else at TOXIPROXY_URL; its token is --token, else
CHAOSCTL_PROXY_TOKEN, which does not show in the list of processes.`,
		Example: `  chaosctl proxy serve &
  chaosctl proxy create -l 127.0.0.1:26379 -u 127.0.0.1:6379 redis
  chaosctl proxy toxic add -t latency -a latency=100 -a jitter=10 redis
  chaosctl proxy inspect redis
  chaosctl proxy toxic remove -n latency_downstream redis`,
	}
	c := &proxyClient{}
	cmd.AddCommand(newProxyServe(),
		c.list(), c.inspect(), c.create(), c.toggle(), c.delete(), c.toxic(), c.populate(), c.reset(), c.ca())
	return cmd
}

type serveFlags struct {
	listen, config, token, ca string
	allow                     []string
	seed                      uint64
	hold                      faults.Bytes
}

func newProxyServe() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve Toxiproxy's HTTP API until Ctrl-C",
		Long: `Serve listens for API calls and prints where, on stdout. It ends, with every
proxy, at the first SIGINT or SIGTERM: exit code 0; or when somebody pulls the
lever (chaosctl halt --all): exit code 4. While that is pulled it does not start.

The config is Toxiproxy's: a JSON array of proxies. Each may have "toxics", which
are at work before its first connection, and a "protocol": http, where toxics are to
see requests, or udp, as when an address begins with udp://.

The seed decides which connections a toxicity below 1 hits; the same seed and the
same calls hit the same ones. Without --seed one is drawn and said on stderr.

Calls are taken from clients that call the server localhost, by an address, or by
a name given with --allow-host (that of its container, for example): a web page
must not reach it through a name of its own.

Proxies, and the API itself, can listen on a Unix socket: unix:///run/app.sock. It
is for its owner only (0600), goes with the server, and takes the place of one on
which nobody listens any more.`,
		Example: `  chaosctl proxy serve
  chaosctl proxy serve --listen unix:///run/chaosctl.sock --ca-file ca.pem
  chaosctl proxy serve --listen 0.0.0.0:8474 --allow-host toxiproxy --config toxiproxy.json --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				f.seed = rand.Uint64()
			}
			return serveProxies(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.listen, "listen", proxyAPI, "address of the API, host:port or unix:///path")
	fl.StringVar(&f.config, "config", "", "JSON file of proxies to start with")
	fl.Uint64Var(&f.seed, "seed", 0, "seed of every random choice (default: drawn)")
	fl.StringVar(&f.token, "token", "", "take only calls with this bearer token (default: CHAOSCTL_PROXY_TOKEN)")
	fl.StringVar(&f.ca, "ca-file", "", "write the certificate of the authority behind self_signed here")
	fl.TextVar(&f.hold, "hold-most", faults.Bytes(256<<20), "bytes that the latency toxics of a proxy hold back at most: 64MiB")
	fl.StringSliceVar(&f.allow, "allow-host", nil, "name that clients may call this server by, may be repeated")
	return cmd
}

// serveProxies listens first, then makes the proxies, then answers calls: whoever
// sees the address can connect, and whoever gets an answer sees the whole config.
func serveProxies(ctx context.Context, f serveFlags, stdout, stderr io.Writer) (err error) {
	ctx, closeAudit, err := underLever(ctx, audit.Entry{Command: "proxy serve", Target: f.listen}, stderr)
	if err != nil {
		return err
	}
	defer func() { closeAudit("", err) }()
	halted := ctx
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if f.hold <= 0 {
		return usage(fmt.Errorf("--hold-most %s: want more than 0 B, like 64MiB", f.hold), "")
	}
	l, err := proxy.Listen(ctx, f.listen)
	if err != nil {
		hint := ""
		if errors.Is(err, syscall.EADDRINUSE) {
			hint = "another server has that address, perhaps a Toxiproxy; choose another with --listen"
		}
		return usage(fmt.Errorf("API: %w", err), hint)
	}
	defer l.Close()
	if host, _, err := net.SplitHostPort(f.listen); err == nil {
		f.allow = append(f.allow, host)
	}
	token := firstSet(f.token, os.Getenv("CHAOSCTL_PROXY_TOKEN"))
	server := toxiproxy.NewServer(toxiproxy.Config{Seed: f.seed, Token: token, AllowedHosts: f.allow, HoldMost: int64(f.hold)})
	defer server.Stop()
	if f.ca != "" {
		ca, err := server.CA()
		if err == nil {
			err = os.WriteFile(f.ca, ca, 0o644)
		}
		if err != nil {
			return usage(fmt.Errorf("--ca-file: %w", err), "")
		}
	}
	if f.config != "" {
		config, err := os.ReadFile(f.config)
		if err != nil {
			return usage(fmt.Errorf("config: %w", err), "")
		}
		n, err := server.Populate(config)
		if err != nil {
			hint := `want a JSON array like [{"name":"redis","listen":"127.0.0.1:26379","upstream":"127.0.0.1:6379"}]`
			if wrong := (*net.OpError)(nil); errors.As(err, &wrong) { // it could be read, and not be done
				hint = ""
			}
			return usage(fmt.Errorf("config %s: %w", f.config, err), hint)
		}
		fmt.Fprintf(stderr, "%d %s from %s\n", n, plural(n, "proxy", "proxies"), f.config)
	}
	fmt.Fprintf(stderr, "seed %d\n", f.seed)
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() && token == "" {
		fmt.Fprintf(stderr, "warning: whoever reaches %s may use this; --token asks for one\n", l.Addr())
	}
	where := l.Addr().String()
	if l.Addr().Network() == "tcp" {
		where = "http://" + where
	}
	if _, err := fmt.Fprintln(stdout, where); err != nil {
		return internal(err)
	}

	api := &http.Server{Handler: server, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- api.Serve(l) }()
	select {
	case err := <-ended:
		return internal(err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if api.Shutdown(grace) != nil { // a call that is still being written or read is not worth the wait
		_ = api.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return internal(err)
	}
	return haltedBy(halted)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func firstSet(values ...string) string {
	i := slices.IndexFunc(values, func(v string) bool { return v != "" })
	if i < 0 {
		return ""
	}
	return values[i]
}

// proxyClient is what the client's commands have in common.
type proxyClient struct {
	host, token, output string

	// Of the command that runs.
	ctx context.Context
	api *toxiproxy.Client
	in  io.Reader
	err io.Writer
}

// command makes a command of the client: run says what to print, as a value for
// JSON and as text.
func (c *proxyClient) command(use, short string, args cobra.PositionalArgs, run func(args []string) (value any, text func(io.Writer), err error)) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: args}
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if c.output != "text" && c.output != "json" {
			return usage(fmt.Errorf("--output %q: allowed are text, json", c.output), "")
		}
		host := firstSet(c.host, os.Getenv("TOXIPROXY_URL"), "http://"+proxyAPI)
		if c.api, err = toxiproxy.NewClient(host, firstSet(c.token, os.Getenv("CHAOSCTL_PROXY_TOKEN"))); err != nil {
			return usage(err, "")
		}
		c.ctx, c.in, c.err = cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr()
		value, text, err := run(args)
		if err != nil {
			return proxyError(err)
		}
		if c.output == "json" {
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return internal(e.Encode(value))
		}
		tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		text(tab)
		return internal(tab.Flush())
	}
	fl := cmd.Flags()
	fl.StringVar(&c.host, "host", "", "the API's address, also unix:///path (default: TOXIPROXY_URL, else http://"+proxyAPI+")")
	fl.StringVar(&c.token, "token", "", "bearer token of the server (default: CHAOSCTL_PROXY_TOKEN)")
	fl.StringVar(&c.output, "output", "text", "what stdout gets: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// proxyError gives what the client met its exit code: everything that the user
// can put right is 2.
func proxyError(err error) error {
	var refused *toxiproxy.Error
	var wrong *exitError
	var unreachable *toxiproxy.UnreachableError
	switch {
	case errors.As(err, &wrong):
		return err
	case errors.As(err, &unreachable):
		return usage(err, "chaosctl proxy serve starts one; --host names another")
	case !errors.As(err, &refused):
		return internal(err)
	}
	hint := ""
	switch {
	case refused.Status == http.StatusUnauthorized:
		hint = "give it with --token or CHAOSCTL_PROXY_TOKEN"
	case refused.Message == "proxy not found":
		hint = "chaosctl proxy list shows which there are"
	case refused.Message == "toxic not found":
		hint = "chaosctl proxy inspect NAME shows which there are"
	case refused.Message == "invalid toxic type":
		hint = "there are " + strings.Join(toxiproxy.Types(), ", ")
	}
	return usage(err, hint)
}

func (c *proxyClient) list() *cobra.Command {
	cmd := c.command("list", "List every proxy", cobra.NoArgs, func([]string) (any, func(io.Writer), error) {
		all, err := c.api.Proxies(c.ctx)
		return all, func(w io.Writer) {
			fmt.Fprintln(w, "NAME\tLISTEN\tUPSTREAM\tENABLED\tTOXICS")
			for _, name := range slices.Sorted(maps.Keys(all)) {
				p := all[name]
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", name, p.Listen, p.Upstream, enabledWord(p.Enabled), len(p.Toxics))
			}
		}, err
	})
	cmd.Aliases = []string{"l", "li", "ls"}
	return cmd
}

func enabledWord(enabled bool) string {
	if enabled {
		return "enabled"
	}
	return "disabled"
}

func (c *proxyClient) inspect() *cobra.Command {
	cmd := c.command("inspect PROXY", "Show a proxy, its toxics, and what they did", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		p, err := c.api.Proxy(c.ctx, args[0])
		if err != nil {
			return nil, nil, err
		}
		stats, err := c.api.Stats(c.ctx, args[0])
		value := struct {
			toxiproxy.Proxy
			Stats *toxiproxy.Stats `json:"stats,omitempty"`
		}{p, stats}
		return value, func(w io.Writer) { inspectText(w, p, stats) }, err
	})
	cmd.Aliases = []string{"i", "ins"}
	return cmd
}

func inspectText(w io.Writer, p toxiproxy.Proxy, stats *toxiproxy.Stats) {
	fmt.Fprintf(w, "%s\t%s -> %s\t%s", p.Name, p.Listen, p.Upstream, enabledWord(p.Enabled))
	if p.Protocol != "" {
		fmt.Fprintf(w, ", %s", p.Protocol)
	}
	fmt.Fprintln(w)
	if text := tlsText(p.TLS); text != "" {
		fmt.Fprintf(w, "tls\t%s\n", text)
	}
	if stats != nil && stats.Datagrams != nil {
		n, d := stats.Connections, stats.Datagrams
		fmt.Fprintf(w, "clients\t%d now\ndatagrams\t%d came, %d passed upstream, %d downstream", n.Open, n.Accepted, d.Upstream, d.Downstream)
		for _, why := range slices.Sorted(maps.Keys(d.Lost)) {
			fmt.Fprintf(w, ", %d lost (%s)", d.Lost[why], why)
		}
		fmt.Fprintf(w, "\nbytes\t%d upstream, %d downstream\n", stats.Bytes.Upstream, stats.Bytes.Downstream)
	} else if stats != nil {
		n := stats.Connections
		fmt.Fprintf(w, "connections\t%d accepted, %d open", n.Accepted, n.Open)
		for _, how := range slices.Sorted(maps.Keys(n.Ended)) {
			fmt.Fprintf(w, ", %d %s", n.Ended[how], how)
		}
		fmt.Fprintf(w, "\nbytes\t%d upstream, %d downstream\n", stats.Bytes.Upstream, stats.Bytes.Downstream)
		for _, at := range slices.Sorted(maps.Keys(stats.Upstreams)) {
			u := stats.Upstreams[at]
			fmt.Fprintf(w, "upstream %s\t%d connections, %d refused\n", at, u.Connections, u.Refused)
		}
		for _, s := range stats.TLS {
			fmt.Fprintf(w, "tls seen\t%s\n", seenText(s))
		}
		for _, why := range slices.Sorted(maps.Keys(stats.Handshakes)) {
			fmt.Fprintf(w, "handshakes failed\t%d: %s\n", stats.Handshakes[why], why)
		}
	}
	if len(p.Toxics) == 0 {
		fmt.Fprintln(w, "no toxics")
		return
	}
	fmt.Fprintln(w, "\nTOXIC\tTYPE\tSTREAM\tTOXICITY\tATTRIBUTES\tHIT\tADDED DELAY")
	for _, t := range p.Toxics {
		toxicity, hit, delay := "1", "-", "-"
		if t.Toxicity != nil {
			toxicity = strconv.FormatFloat(float64(*t.Toxicity), 'g', -1, 32)
		}
		if stats != nil {
			for _, s := range stats.Toxics {
				if s.Name != t.Name {
					continue
				}
				hit = fmt.Sprintf("%d of %d", s.Fired, s.Eligible)
				if d := s.Delay; d != nil {
					delay = fmt.Sprintf("p50 %s, p99 %s", shortSeconds(d.P50), shortSeconds(d.P99))
				}
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, t.Type, t.Stream, toxicity, attributeText(t.Attributes), hit, delay)
	}
}

// seenText is "3 with callers: api.test, TLS 1.3, h2".
func seenText(s toxiproxy.TLSStats) string {
	side := map[string]string{"through": "passed through", "caller": "with callers", "upstream": "with the upstream"}[s.Side]
	words := []string{firstSet(s.ServerName, "no name")}
	for _, word := range []string{s.Version, s.ALPN} {
		if word != "" {
			words = append(words, word)
		}
	}
	return fmt.Sprintf("%d %s: %s", s.Connections, firstSet(side, s.Side), strings.Join(words, ", "))
}

func shortSeconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}

// attributeText writes attributes as -a takes them: "latency=100 match.path=/pay/*".
func attributeText(attributes map[string]any) string {
	var all []string
	var visit func(prefix string, attributes map[string]any)
	visit = func(prefix string, attributes map[string]any) {
		for _, k := range slices.Sorted(maps.Keys(attributes)) {
			switch v := attributes[k].(type) {
			case map[string]any:
				visit(prefix+k+".", v)
			case []any:
				var words []string
				for _, w := range v {
					words = append(words, fmt.Sprint(w))
				}
				all = append(all, prefix+k+"="+strings.Join(words, ","))
			default:
				all = append(all, fmt.Sprintf("%s%s=%v", prefix, k, v))
			}
		}
	}
	visit("", attributes)
	if all == nil {
		return "-"
	}
	return strings.Join(all, " ")
}

// tlsText says what a proxy does about TLS; "" for nothing.
func tlsText(t *toxiproxy.TLS) string {
	var all []string
	if t != nil && t.Listen != nil {
		all = append(all, "ends that of clients")
		if t.Listen.ClientCA != "" {
			all = append(all, "asks for their certificates")
		}
	}
	if t != nil && t.Upstream != nil {
		all = append(all, "speaks it to the upstream")
		if t.Upstream.Insecure {
			all = append(all, "takes any certificate")
		}
	}
	return strings.Join(all, ", ")
}

// proxyTLSFlags are what `proxy create` takes about TLS.
type proxyTLSFlags struct {
	listen     toxiproxy.ListenTLS
	upstream   toxiproxy.UpstreamTLS
	toUpstream bool
}

func (f *proxyTLSFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.listen.SelfSigned, "tls", false, "end the TLS of clients, with a certificate that the server makes (proxy ca shows who has issued it)")
	fl.StringVar(&f.listen.Cert, "tls-cert", "", "end the TLS of clients with this certificate: a PEM file of the server's, as all below")
	fl.StringVar(&f.listen.Key, "tls-key", "", "its key")
	fl.StringVar(&f.listen.ClientCA, "tls-client-ca", "", "take clients only with a certificate that one of these has issued")
	fl.StringSliceVar(&f.listen.ALPN, "tls-alpn", nil, "protocols that clients may choose from")
	fl.BoolVar(&f.toUpstream, "upstream-tls", false, "speak TLS to the upstream; implied by the flags below")
	fl.StringVar(&f.upstream.CA, "upstream-ca", "", "who has issued its certificate (default: one the system trusts)")
	fl.StringVar(&f.upstream.ServerName, "upstream-server-name", "", "who its certificate is for (default: its host)")
	fl.BoolVar(&f.upstream.Insecure, "upstream-insecure", false, "take any certificate of it")
	fl.StringVar(&f.upstream.Cert, "upstream-cert", "", "certificate to show it")
	fl.StringVar(&f.upstream.Key, "upstream-key", "", "its key")
	cmd.MarkFlagsMutuallyExclusive("tls", "tls-cert")
	cmd.MarkFlagsMutuallyExclusive("upstream-ca", "upstream-insecure")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cmd.MarkFlagsRequiredTogether("upstream-cert", "upstream-key")
}

// tls is what they ask for; nil: nothing.
func (f *proxyTLSFlags) tls() (*toxiproxy.TLS, error) {
	var t toxiproxy.TLS
	if l := f.listen; l.SelfSigned || l.Cert != "" {
		t.Listen = &l
	} else if l.ClientCA != "" || len(l.ALPN) > 0 {
		return nil, usage(errors.New("--tls-client-ca and --tls-alpn are about TLS that ends here"), "add --tls, or --tls-cert and --tls-key")
	}
	if u := f.upstream; f.toUpstream || u != (toxiproxy.UpstreamTLS{}) {
		t.Upstream = &u
	}
	if t.Listen == nil && t.Upstream == nil {
		return nil, nil
	}
	return &t, nil
}

func (c *proxyClient) ca() *cobra.Command {
	return c.command("ca", "Print the certificate of the authority behind --tls, for clients to trust (PEM)", cobra.NoArgs, func([]string) (any, func(io.Writer), error) {
		text, err := c.api.CA(c.ctx)
		return map[string]string{"ca": string(text)}, func(w io.Writer) { _, _ = w.Write(text) }, err
	})
}

func (c *proxyClient) create() *cobra.Command {
	var listen, upstream, protocol string
	var secure proxyTLSFlags
	cmd := c.command("create -u ADDRESS PROXY", "Create a proxy", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		t, err := secure.tls()
		if err != nil {
			return nil, nil, err
		}
		p, err := c.api.Create(c.ctx, toxiproxy.Proxy{Name: args[0], Listen: listen, Upstream: upstream, Enabled: true, TLS: t, Protocol: protocol})
		if err == nil && t != nil && p.TLS == nil {
			fmt.Fprintln(c.err, "warning: this server knows nothing of TLS: the proxy passes bytes on as they come")
		}
		if err == nil && protocol != "" && protocol != "tcp" && p.Protocol != protocol {
			fmt.Fprintln(c.err, "warning: this server knows no protocols: the proxy carries tcp")
		}
		return p, func(w io.Writer) { fmt.Fprintf(w, "created %s: %s -> %s\n", p.Name, p.Listen, p.Upstream) }, err
	})
	cmd.Aliases = []string{"c", "new"}
	cmd.Flags().StringVarP(&listen, "listen", "l", "127.0.0.1:0", "address the proxy listens at, host:port or unix:///path")
	cmd.Flags().StringVarP(&upstream, "upstream", "u", "", "address it connects to; several with commas take turns, none refuses")
	secure.add(cmd)
	cmd.Example = `  chaosctl proxy create -l 127.0.0.1:26379 -u 127.0.0.1:6379 redis
  chaosctl proxy create -l unix:///tmp/pg.sock -u 10.0.0.1:5432,10.0.0.2:5432 postgres
  chaosctl proxy create -l 127.0.0.1:8443 -u api.example:443 --tls --upstream-ca ca.pem api`
	cmd.Flags().StringVar(&protocol, "protocol", "", "what it carries: tcp (the default), http (toxics see requests), udp; for udp an address can begin with udp://")
	_ = cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions([]string{"tcp", "http", "udp"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagRequired("upstream")
	return cmd
}

func (c *proxyClient) toggle() *cobra.Command {
	cmd := c.command("toggle PROXY", "Disable a proxy that is enabled, and the reverse", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		p, err := c.api.Proxy(c.ctx, args[0])
		if err == nil {
			p, err = c.api.Enable(c.ctx, args[0], !p.Enabled)
		}
		return p, func(w io.Writer) { fmt.Fprintf(w, "%s is now %s\n", p.Name, enabledWord(p.Enabled)) }, err
	})
	cmd.Aliases = []string{"tog"}
	return cmd
}

func (c *proxyClient) delete() *cobra.Command {
	cmd := c.command("delete PROXY", "Delete a proxy and end its connections", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		err := c.api.Delete(c.ctx, args[0])
		return map[string]string{"deleted": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "deleted %s\n", args[0]) }, err
	})
	cmd.Aliases = []string{"d"}
	return cmd
}

func (c *proxyClient) reset() *cobra.Command {
	return c.command("reset", "Remove every toxic and enable every proxy", cobra.NoArgs, func([]string) (any, func(io.Writer), error) {
		err := c.api.Reset(c.ctx)
		return map[string]bool{"reset": true}, func(w io.Writer) { fmt.Fprintln(w, "every proxy is enabled, without toxics") }, err
	})
}

func (c *proxyClient) populate() *cobra.Command {
	return c.command("populate FILE", "Create the proxies of a JSON file, Toxiproxy's config (- is stdin)", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		config, err := readFile(args[0], c.in)
		if err != nil {
			return nil, nil, usage(err, "")
		}
		done, err := c.api.Populate(c.ctx, config)
		if err != nil {
			for _, p := range done {
				fmt.Fprintf(c.err, "done before the error: %s\n", p.Name)
			}
		}
		return done, func(w io.Writer) {
			for _, p := range done {
				fmt.Fprintf(w, "%s\t%s -> %s\t%s\n", p.Name, p.Listen, p.Upstream, enabledWord(p.Enabled))
			}
		}, err
	})
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

func (c *proxyClient) toxic() *cobra.Command {
	cmd := &cobra.Command{Use: "toxic", Aliases: []string{"t"}, Short: "Add, update or remove a toxic", Args: cobra.NoArgs}
	cmd.AddCommand(c.toxicAdd(), c.toxicUpdate(), c.toxicRemove(), toxicTypes())
	return cmd
}

// toxicFlags are toxiproxy-cli's, in its spelling too.
type toxicFlags struct {
	name, kind string
	toxicity   float32
	attributes []string
	up, down   bool
}

func (f *toxicFlags) nameFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVarP(&f.name, "name", "n", "", usage)
	cmd.Flags().StringVar(&f.name, "toxicName", "", usage)
	_ = cmd.Flags().MarkHidden("toxicName")
}

func (f *toxicFlags) valueFlags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.attributes, "attribute", "a", nil, "key=value, may be repeated; dots lead into nested ones: match.path=/pay/*")
	for _, name := range []string{"toxicity", "tox"} {
		cmd.Flags().Float32Var(&f.toxicity, name, 1, "share of connections it hits, 0 to 1")
	}
	_ = cmd.Flags().MarkHidden("tox")
}

// toxic is what the flags of cmd ask for. Toxicity is set where a flag was given.
func (f *toxicFlags) toxic(cmd *cobra.Command) (toxiproxy.Toxic, error) {
	t := toxiproxy.Toxic{Name: f.name, Type: f.kind, Attributes: map[string]any{}}
	if cmd.Flags().Changed("toxicity") || cmd.Flags().Changed("tox") {
		if !(f.toxicity >= 0 && f.toxicity <= 1) {
			return t, usage(fmt.Errorf("--toxicity %v: want a share from 0 to 1", f.toxicity), "")
		}
		t.Toxicity = &f.toxicity
	}
	for _, a := range f.attributes {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return t, usage(fmt.Errorf("-a %s: want key=value, like -a latency=100", a), "")
		}
		if err := setAttribute(t.Attributes, t.Type, key, value); err != nil {
			return t, usage(fmt.Errorf("-a %s: %w", a, err), "")
		}
	}
	return t, nil
}

// setAttribute puts an attribute of such a type of toxic where it belongs. What a value
// is, the table of toxics says; of an attribute that is not in it, its looks.
func setAttribute(into map[string]any, kind, path, value string) error {
	attribute, key, known := toxiproxy.AttributeOf(kind, path)
	steps := strings.Split(path, ".")
	if known {
		steps = strings.Split(attribute.Name, ".")
	}
	if key != "" { // a header's name can have dots
		steps = append(steps, key)
	}
	for _, step := range steps[:len(steps)-1] {
		inner, ok := into[step].(map[string]any)
		if !ok {
			if into[step] != nil {
				return fmt.Errorf("%s has a value already", step)
			}
			inner = map[string]any{}
			into[step] = inner
		}
		into = inner
	}
	last := steps[len(steps)-1]
	n := json.Number(value)
	isNumber := json.Valid([]byte(value)) && numeric(n)
	switch {
	case known && attribute.Type == "list":
		list, _ := into[last].([]string)
		into[last] = append(list, strings.Split(value, ",")...)
	case known && attribute.Type == "yes or no":
		yes, err := strconv.ParseBool(value)
		if err != nil {
			return errors.New("want true or false")
		}
		into[last] = yes
	case known && (attribute.Type == "text" || key != ""):
		into[last] = value
	case isNumber:
		into[last] = n
	case (strings.HasPrefix(value, "{") || strings.HasPrefix(value, "[") || value == "null") && json.Valid([]byte(value)):
		into[last] = json.RawMessage(value) // all of match, pulse, request at once
	default:
		into[last] = value // the server knows whether that will do
	}
	return nil
}

func numeric(n json.Number) bool {
	_, err := n.Float64()
	return err == nil
}

// warn names the attributes that the server did not know.
func (c *proxyClient) warn(asked, got toxiproxy.Toxic) {
	for _, k := range slices.Sorted(maps.Keys(asked.Attributes)) {
		if _, ok := got.Attributes[k]; !ok && !hasAttribute(got.Type, k) {
			fmt.Fprintf(c.err, "warning: %s has no attribute %s: it has %s\n", got.Type, k, attributeText(got.Attributes))
		}
	}
}

// hasAttribute tells whether such a toxic can have it: where it has its zero value, it
// may not be on the wire.
func hasAttribute(kind, name string) bool {
	for _, t := range toxiproxy.All() {
		has := func(a toxiproxy.Attribute) bool {
			return a.Own && (a.Name == name || strings.HasPrefix(a.Name, name+"."))
		}
		if t.Name == kind {
			return slices.ContainsFunc(t.Attributes, has) || slices.ContainsFunc(toxiproxy.Conditions, has)
		}
	}
	return false
}

func (c *proxyClient) toxicAdd() *cobra.Command {
	var f toxicFlags
	var cmd *cobra.Command
	cmd = c.command("add -t TYPE [-a KEY=VALUE]... PROXY", "Add a toxic to a proxy", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		t, err := f.toxic(cmd)
		if err != nil {
			return nil, nil, err
		}
		t.Stream = "downstream"
		if f.up {
			t.Stream = "upstream"
		}
		made, err := c.api.AddToxic(c.ctx, args[0], t)
		if err == nil {
			c.warn(t, made)
		}
		return made, func(w io.Writer) {
			fmt.Fprintf(w, "added %s %s to %s (%s): %s\n", made.Type, made.Name, args[0], made.Stream, attributeText(made.Attributes))
		}, err
	})
	cmd.Aliases = []string{"a"}
	cmd.Long = `Add a toxic to a proxy: chaosctl proxy toxic types lists the types and their
attributes. Dots lead into nested attributes; lists are written with commas.`
	cmd.Example = `  chaosctl proxy toxic add -t latency -n slow -a latency=100 -a jitter=10 --toxicity 0.5 redis
  chaosctl proxy toxic add -t bandwidth -a rate=64 --upstream redis
  chaosctl proxy toxic add -t http_error -a status=503 -a match.methods=POST,PUT -a match.path='/pay/*' -a first=20 web
  chaosctl proxy toxic add -t latency -a latency=200 -a pulse.active=2000 -a pulse.pause=3000 redis`
	cmd.Flags().StringVarP(&f.kind, "type", "t", "", "type of the toxic")
	_ = cmd.MarkFlagRequired("type")
	f.nameFlag(cmd, "its name (default: <type>_<stream>)")
	f.valueFlags(cmd)
	cmd.Flags().BoolVarP(&f.up, "upstream", "u", false, "on what clients send")
	cmd.Flags().BoolVarP(&f.down, "downstream", "d", false, "on what the upstream answers (the default)")
	cmd.MarkFlagsMutuallyExclusive("upstream", "downstream")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(toxiproxy.Types(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func toxicTypes() *cobra.Command {
	return &cobra.Command{
		Use:   "types",
		Short: "The types of toxics: what each does, with which attributes, on what proxies",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, t := range toxiproxy.All() {
				fmt.Fprintf(tab, "%s (%s): %s\n", t.Name, strings.Join(t.On, ", "), t.Doc)
				for _, a := range t.Attributes {
					fmt.Fprintf(tab, "  %s\t%s\t%s\n", a.Name, a.Type, a.Doc)
				}
			}
			fmt.Fprintln(tab, "\nOn any of them, as attributes too, which clients it is about, and when:")
			for _, a := range toxiproxy.Conditions {
				fmt.Fprintf(tab, "  %s\t%s\t%s\n", a.Name, a.Type, a.Doc)
			}
			return internal(tab.Flush())
		},
	}
}

func (c *proxyClient) toxicUpdate() *cobra.Command {
	var f toxicFlags
	var cmd *cobra.Command
	cmd = c.command("update -n TOXIC [-a KEY=VALUE]... PROXY", "Change attributes or the toxicity; what is not named stays", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		if len(f.attributes) > 0 { // what they are depends on its type
			p, err := c.api.Proxy(c.ctx, args[0])
			if err != nil {
				return nil, nil, err
			}
			for _, t := range p.Toxics {
				if t.Name == f.name {
					f.kind = t.Type
				}
			}
		}
		t, err := f.toxic(cmd)
		if err != nil {
			return nil, nil, err
		}
		t.Type = ""
		now, err := c.api.UpdateToxic(c.ctx, args[0], f.name, t)
		if err == nil {
			c.warn(t, now)
		}
		return now, func(w io.Writer) {
			fmt.Fprintf(w, "updated %s of %s: %s\n", now.Name, args[0], attributeText(now.Attributes))
		}, err
	})
	cmd.Aliases = []string{"u"}
	f.nameFlag(cmd, "name of the toxic")
	f.valueFlags(cmd)
	cmd.MarkFlagsOneRequired("name", "toxicName")
	return cmd
}

func (c *proxyClient) toxicRemove() *cobra.Command {
	var f toxicFlags
	cmd := c.command("remove -n TOXIC PROXY", "Remove a toxic from a proxy", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		err := c.api.RemoveToxic(c.ctx, args[0], f.name)
		return map[string]string{"removed": f.name, "proxy": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "removed %s from %s\n", f.name, args[0]) }, err
	})
	cmd.Aliases = []string{"r", "delete", "d"}
	f.nameFlag(cmd, "name of the toxic")
	cmd.MarkFlagsOneRequired("name", "toxicName")
	return cmd
}
