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
		c.list(), c.inspect(), c.create(), c.toggle(), c.delete(), c.toxic(), c.populate(), c.reset())
	return cmd
}

type serveFlags struct {
	listen, config, token string
	allow                 []string
	seed                  uint64
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
are at work before its first connection.

The seed decides which connections a toxicity below 1 hits; the same seed and the
same calls hit the same ones. Without --seed one is drawn and said on stderr.

Calls are taken from clients that call the server localhost, by an address, or by
a name given with --allow-host (that of its container, for example): a web page
must not reach it through a name of its own.`,
		Example: `  chaosctl proxy serve
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
	fl.StringVar(&f.listen, "listen", proxyAPI, "address of the API")
	fl.StringVar(&f.config, "config", "", "JSON file of proxies to start with")
	fl.Uint64Var(&f.seed, "seed", 0, "seed of every random choice (default: drawn)")
	fl.StringVar(&f.token, "token", "", "take only calls with this bearer token (default: CHAOSCTL_PROXY_TOKEN)")
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
	l, err := net.Listen("tcp", f.listen)
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
	server := toxiproxy.NewServer(toxiproxy.Config{Seed: f.seed, Token: token, AllowedHosts: f.allow})
	defer server.Stop()
	if f.config != "" {
		config, err := os.ReadFile(f.config)
		if err != nil {
			return usage(fmt.Errorf("config: %w", err), "")
		}
		n, err := server.Populate(config)
		if err != nil {
			return usage(fmt.Errorf("config %s: %w", f.config, err), `want a JSON array like [{"name":"redis","listen":"127.0.0.1:26379","upstream":"127.0.0.1:6379"}]`)
		}
		fmt.Fprintf(stderr, "%d %s from %s\n", n, plural(n, "proxy", "proxies"), f.config)
	}
	fmt.Fprintf(stderr, "seed %d\n", f.seed)
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() && token == "" {
		fmt.Fprintf(stderr, "warning: whoever reaches %s may use this; --token asks for one\n", l.Addr())
	}
	if _, err := fmt.Fprintf(stdout, "http://%s\n", l.Addr()); err != nil {
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
	fl.StringVar(&c.host, "host", "", "the API's address (default: TOXIPROXY_URL, else http://"+proxyAPI+")")
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
	fmt.Fprintf(w, "%s\t%s -> %s\t%s\n", p.Name, p.Listen, p.Upstream, enabledWord(p.Enabled))
	if stats != nil {
		n := stats.Connections
		fmt.Fprintf(w, "connections\t%d accepted, %d open", n.Accepted, n.Open)
		for _, how := range slices.Sorted(maps.Keys(n.Ended)) {
			fmt.Fprintf(w, ", %d %s", n.Ended[how], how)
		}
		fmt.Fprintf(w, "\nbytes\t%d upstream, %d downstream\n", stats.Bytes.Upstream, stats.Bytes.Downstream)
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

func shortSeconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}

func attributeText(attributes map[string]any) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(attributes)) {
		all = append(all, fmt.Sprintf("%s=%v", k, attributes[k]))
	}
	if all == nil {
		return "-"
	}
	return strings.Join(all, " ")
}

func (c *proxyClient) create() *cobra.Command {
	var listen, upstream string
	cmd := c.command("create -u ADDRESS PROXY", "Create a proxy", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		p, err := c.api.Create(c.ctx, toxiproxy.Proxy{Name: args[0], Listen: listen, Upstream: upstream, Enabled: true})
		return p, func(w io.Writer) { fmt.Fprintf(w, "created %s: %s -> %s\n", p.Name, p.Listen, p.Upstream) }, err
	})
	cmd.Aliases = []string{"c", "new"}
	cmd.Flags().StringVarP(&listen, "listen", "l", "127.0.0.1:0", "address the proxy listens at")
	cmd.Flags().StringVarP(&upstream, "upstream", "u", "", "address it connects to")
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
	cmd.AddCommand(c.toxicAdd(), c.toxicUpdate(), c.toxicRemove())
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
	cmd.Flags().StringArrayVarP(&f.attributes, "attribute", "a", nil, "key=value, may be repeated")
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
		if n := json.Number(value); json.Valid([]byte(value)) && numeric(n) {
			t.Attributes[key] = n
		} else {
			t.Attributes[key] = value // the server knows whether that will do
		}
	}
	return t, nil
}

func numeric(n json.Number) bool {
	_, err := n.Float64()
	return err == nil
}

// warn names the attributes that the server did not know.
func (c *proxyClient) warn(asked, got toxiproxy.Toxic) {
	for _, k := range slices.Sorted(maps.Keys(asked.Attributes)) {
		if _, ok := got.Attributes[k]; !ok {
			fmt.Fprintf(c.err, "warning: %s has no attribute %s: it has %s\n", got.Type, k, attributeText(got.Attributes))
		}
	}
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
	cmd.Long = "Add a toxic to a proxy. The types, with their attributes (ms unless said otherwise):\n\n" + toxicTypes
	cmd.Example = `  chaosctl proxy toxic add -t latency -n slow -a latency=100 -a jitter=10 --toxicity 0.5 redis
  chaosctl proxy toxic add -t bandwidth -a rate=64 --upstream redis`
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

const toxicTypes = `  latency      latency, jitter           every byte comes later by latency ± jitter
  bandwidth    rate (KB/s)               per connection; 0 lets nothing pass
  slow_close   delay                     the end of the connection comes later
  timeout      timeout                   no byte passes; the connection ends then (0: never)
  reset_peer   timeout                   RST, so long after the connection opened
  slicer       average_size, size_variation (bytes), delay (µs)
                                         bytes come in small pieces
  limit_data   bytes                     the connection ends after so many
  packet_loss  loss_rate, correlation (0 to 1)
                                         retransmission timeouts, as lost packets cause
  noop                                   nothing`

func (c *proxyClient) toxicUpdate() *cobra.Command {
	var f toxicFlags
	var cmd *cobra.Command
	cmd = c.command("update -n TOXIC [-a KEY=VALUE]... PROXY", "Change attributes or the toxicity; what is not named stays", cobra.ExactArgs(1), func(args []string) (any, func(io.Writer), error) {
		t, err := f.toxic(cmd)
		if err != nil {
			return nil, nil, err
		}
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
