package targets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/targets/process"
	"github.com/chaosctl/chaosctl/targets/reference/shop"
)

// The test binary is also the services: those of the shop, and small commands
// such as a user might have.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "service" {
		os.Exit(shop.Main(context.Background(), os.Args[2], os.Args[3], os.Stdout, os.Stderr))
	}
	if len(os.Args) > 2 && os.Args[1] == "stress" {
		if err := press(os.Args[2:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "child" {
		os.Exit(child(os.Args[2], os.Args[3:]))
	}
	goleak.VerifyTestMain(m)
}

func child(role string, args []string) int {
	switch role {
	case "store", "api": // store PORT · api PORT STORE-URL
		mux := http.NewServeMux()
		mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("GET /crash", func(http.ResponseWriter, *http.Request) {
			fmt.Println("about to crash")
			os.Exit(7)
		})
		mux.HandleFunc("GET /ask", func(w http.ResponseWriter, r *http.Request) {
			if role == "store" {
				fmt.Fprintf(w, "store %d", os.Getpid())
				return
			}
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			answer, err := client.Get(args[1] + "/ask")
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer answer.Body.Close()
			_, _ = io.Copy(w, answer.Body)
		})
		fmt.Println(role, "listens on", args[0])
		fmt.Println(http.ListenAndServe("127.0.0.1:"+args[0], mux))
		return 1
	case "deaf": // runs, and never listens
		fmt.Println("up but deaf")
		time.Sleep(time.Hour) // not select{}: alone in a process, that is a fatal deadlock
	case "robbed": // robbed PORT FIFO FIFO: says its port into the one, and fails when told so by the other
		if err := os.WriteFile(args[1], []byte(args[0]), 0o600); err != nil {
			return 4
		}
		told, err := os.Open(args[2])
		if err != nil {
			return 4
		}
		if _, err := told.Read(make([]byte, 1)); err != nil {
			return 4
		}
		return 3
	case "fails":
		fmt.Println("no configuration")
		return 3
	case "daemon":
		return 0
	}
	return 2
}

func command(role string, args ...string) []string {
	return append([]string{os.Args[0], "child", role}, args...)
}

// relays is a small Edges: one relay per edge, which follows the callee.
type relays struct {
	mu        sync.Mutex
	to        map[string]string // by callee
	at        map[string]string // by edge
	listeners []net.Listener
	wg        sync.WaitGroup
}

func newRelays(t *testing.T) *relays {
	r := &relays{to: map[string]string{}, at: map[string]string{}}
	t.Cleanup(func() { // all listeners first: the group waits for every one
		r.mu.Lock()
		for _, l := range r.listeners {
			l.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *relays) Serves(callee string, _ int, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to[callee] = address
}

func (r *relays) Resolve(caller, callee string, _ int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	edge := caller + " -> " + callee
	if at, ok := r.at[edge]; ok {
		return at, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	r.at[edge] = l.Addr().String()
	r.wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.relay(from, callee) })
		}
	})
	r.listeners = append(r.listeners, l)
	return r.at[edge], nil
}

func (r *relays) relay(from net.Conn, callee string) {
	defer from.Close()
	r.mu.Lock()
	address := r.to[callee]
	r.mu.Unlock()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	var all sync.WaitGroup
	all.Go(func() { _, _ = io.Copy(to, from); to.(*net.TCPConn).CloseWrite() })
	_, _ = io.Copy(from, to)
	from.Close()
	all.Wait()
}

// diary keeps the events, and fails when two arrive at once.
type diary struct {
	t    *testing.T
	busy sync.Mutex
	mu   sync.Mutex
	all  []Event
}

func (d *diary) notify(e Event) {
	if !d.busy.TryLock() {
		d.t.Error("two events at the same time")
		return
	}
	defer d.busy.Unlock()
	if e.At.IsZero() {
		d.t.Errorf("%+v has no time", e)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, e)
}

func (d *diary) of(service string) (events []Event, states []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.all {
		if e.Service == service {
			events, states = append(events, e), append(states, e.State)
		}
	}
	return events, states
}

// nothingLeft looks for the process groups of everything that was ever started.
func (d *diary) nothingLeft() {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.all {
		if e.PID == 0 {
			continue
		}
		if left, err := process.Group(e.PID); err != nil || len(left) > 0 {
			d.t.Errorf("service %q left processes %v (%v)", e.Service, left, err)
		}
	}
}

func config(t *testing.T, s Spec) (Config, *diary) {
	t.Helper()
	top, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	d := &diary{t: t}
	dir := t.TempDir()
	return Config{Spec: s, Topology: top, Temp: filepath.Join(dir, "temp"), Logs: filepath.Join(dir, "logs"),
		Edges: newRelays(t), Notify: d.notify, Seed: 1}, d
}

func start(t *testing.T, s Spec) (*System, *diary, Config) {
	t.Helper()
	c, d := config(t, s)
	sys, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		d.nothingLeft()
		if _, err := os.Stat(c.Temp); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the services' data is still there (%v)", err)
		}
	})
	return sys, d, c
}

var two = Spec{Services: map[string]ServiceSpec{
	"store": {Command: command("store", "${port}"), Ready: &ReadySpec{Path: "/healthz"}},
	"api":   {Command: command("api", "${port}", "http://${edge.store}"), Ready: &ReadySpec{Path: "/healthz"}},
}}

func get(t *testing.T, url string) (body string, err error) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", answer.Status, b)
	}
	return string(b), err
}

func TestUserServicesAreStartedKilledAndStartedAgain(t *testing.T) {
	sys, d, c := start(t, two)
	ask := func() string {
		body, err := get(t, "http://"+sys.Address("api")+"/ask")
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	pids, err := sys.Processes("store", 0)
	if err != nil || len(pids) != 1 {
		t.Fatal(pids, err)
	}
	if got, want := ask(), fmt.Sprintf("store %d", pids[0]); got != want {
		t.Errorf("through the edge: %q; want %q", got, want)
	}
	before := sys.Address("store")

	if err := sys.Kill(t.Context(), "store", 0, "KILL"); err != nil {
		t.Fatal(err)
	}
	if now, err := sys.Processes("store", 0); err != nil || len(now) != 0 {
		t.Errorf("after Kill: %v, %v", now, err)
	}
	if _, err := get(t, "http://"+sys.Address("api")+"/ask"); err == nil {
		t.Error("the killed store answers")
	}
	if err := sys.Kill(t.Context(), "store", 0, "KILL"); err == nil || !strings.Contains(err.Error(), `service "store" does not run`) {
		t.Errorf("killed twice: %v", err)
	}
	for range 2 { // the second time it runs, and is left alone
		if err := sys.StartAgain(t.Context(), "store", 0); err != nil {
			t.Fatal(err)
		}
	}
	after, _ := sys.Processes("store", 0)
	if len(after) != 1 || after[0] == pids[0] || sys.Address("store") != before {
		t.Errorf("again as %v at %s; want another process at %s", after, sys.Address("store"), before)
	}
	if got, want := ask(), fmt.Sprintf("store %d", after[0]); got != want {
		t.Errorf("through the edge: %q; want %q", got, want)
	}
	if err := sys.Terminate(t.Context(), "store", 0, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := sys.StartAgain(t.Context(), "store", 0); err != nil {
		t.Fatal(err)
	}

	events, states := d.of("store")
	if want := []string{"started", "ready", "died", "restarted", "ready", "stopped", "restarted", "ready"}; !slices.Equal(states, want) {
		t.Fatalf("states %v; want %v", states, want)
	}
	died, stopped := events[2], events[5]
	if !died.Expected || died.Detail != "killed by SIGKILL" || died.PID != pids[0] || !slices.Equal(died.Log, []string{"store listens on " + port(before)}) {
		t.Errorf("death: %+v", died)
	}
	if !stopped.Expected || stopped.Detail != "killed by SIGTERM" {
		t.Errorf("stop: %+v", stopped)
	}
	log, err := os.ReadFile(filepath.Join(c.Logs, "store.log"))
	if want := strings.Repeat("store listens on "+port(before)+"\n", 3); err != nil || string(log) != want {
		t.Errorf("log %q (%v); want %q", log, err, want)
	}
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

func TestPauseAndResume(t *testing.T) {
	sys, d, _ := start(t, two)
	if err := sys.Pause(t.Context(), "store", 0); err != nil {
		t.Fatal(err)
	}
	if paused, err := sys.Paused("store", 0); err != nil || !paused {
		t.Errorf("paused %v, %v", paused, err)
	}
	if err := sys.Pause(t.Context(), "store", 0); err == nil || !strings.Contains(err.Error(), "paused already") {
		t.Errorf("paused twice: %v", err)
	}
	for range 2 { // the second time there is nothing to do
		if err := sys.Resume(t.Context(), "store", 0); err != nil {
			t.Fatal(err)
		}
	}
	if paused, err := sys.Paused("store", 0); err != nil || paused {
		t.Errorf("paused after Resume: %v, %v", paused, err)
	}
	if _, err := get(t, "http://"+sys.Address("store")+"/ask"); err != nil {
		t.Errorf("it does not answer after Resume: %v", err)
	}
	// A paused service can be killed, and one that is gone resumed.
	if err := sys.Pause(t.Context(), "store", 0); err != nil {
		t.Fatal(err)
	}
	if err := sys.Kill(t.Context(), "store", 0, "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := sys.Resume(t.Context(), "store", 0); err != nil {
		t.Errorf("resume what is gone: %v", err)
	}
	if err := sys.Pause(t.Context(), "store", 0); err == nil {
		t.Error("paused what is gone")
	}
	_, states := d.of("store")
	if want := []string{"started", "ready", "paused", "resumed", "paused", "died"}; !slices.Equal(states, want) {
		t.Errorf("states %v; want %v", states, want)
	}
}

// What is told of an instance is told with its own address.
func TestPauseOneOfTwo(t *testing.T) {
	n := 2
	sys, d, _ := start(t, Spec{Services: map[string]ServiceSpec{
		"store": {Command: command("store", "${port}"), Ready: &ReadySpec{Path: "/healthz"}, Instances: &n},
	}})
	if err := errors.Join(sys.Pause(t.Context(), "store", 1), sys.Resume(t.Context(), "store", 1)); err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{}
	events, _ := d.of("store")
	for _, e := range events {
		if e.Instance == 1 {
			addresses[e.State] = e.Address
		}
	}
	if at := addresses[Ready]; at == "" || at == sys.Address("store") || addresses[Paused] != at || addresses[Resumed] != at {
		t.Errorf("instance 1, beside one at %s: %v", sys.Address("store"), addresses)
	}
}

func TestADeathNobodyAskedFor(t *testing.T) {
	sys, d, _ := start(t, two)
	told := make(chan struct{})
	in, err := sys.instance("store", 0)
	if err != nil {
		t.Fatal(err)
	}
	in.mu.Lock()
	gone := in.told
	in.mu.Unlock()
	go func() { <-gone; close(told) }()
	_, _ = get(t, "http://"+sys.Address("store")+"/crash")
	<-told
	events, _ := d.of("store")
	died := events[len(events)-1]
	if died.State != Died || died.Expected || died.Detail != "exit status 7" || !slices.Contains(died.Log, "about to crash") {
		t.Errorf("%+v; want an unexpected death with exit status 7 and its last words", died)
	}
}

func TestWhatDoesNotStart(t *testing.T) {
	const soon = 3 * time.Second // in which a process begins, and says what it has to say
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, c := range map[string]struct {
		service ServiceSpec
		want    []string
	}{
		"never ready":    {ServiceSpec{Command: command("deaf"), Ready: &ReadySpec{Path: "/healthz", Timeout: soon}}, []string{"not ready within 3s", "refused", "${port}", "| up but deaf"}},
		"exits":          {ServiceSpec{Command: command("fails")}, []string{"ended before it was ready (exit status 3)", "| no configuration"}},
		"becomes daemon": {ServiceSpec{Command: command("daemon")}, []string{"exit status 0", "stay in the foreground", "it has said nothing"}},
		"no command":     {ServiceSpec{Command: []string{"./no/such/api"}}, []string{"there is no file", "no/such/api"}},
		"no program":     {ServiceSpec{Command: []string{"no-such-program"}}, []string{`there is no command "no-such-program" in PATH`}},
		"not ready http": {ServiceSpec{Command: command("store", "${port}"), Ready: &ReadySpec{Path: "/no", Timeout: soon}}, []string{"not ready within 3s", "404"}},
		"nobody there":   {ServiceSpec{Address: closed.Addr().String(), Ready: &ReadySpec{Timeout: soon}}, []string{"at its address", "refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c2, d := config(t, Spec{Services: map[string]ServiceSpec{"bad": c.service, "good": two.Services["store"]}})
			sys, err := Start(t.Context(), c2)
			if sys != nil || err == nil {
				t.Fatal("it started")
			}
			for _, want := range append(c.want, `service "bad"`) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), `service "good"`) {
				t.Errorf("error %q blames the other one, too", err)
			}
			d.nothingLeft()
			if _, err := os.Stat(c2.Temp); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("data left (%v)", err)
			}
		})
	}
}

// TestAStrangerAnswers: who has the port of a service by chance does not make it ready.
func TestAStrangerAnswers(t *testing.T) {
	fifo := func(name string) *os.File {
		path := filepath.Join(t.TempDir(), name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0) // with both ends open nobody's open waits
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		f.SetDeadline(time.Now().Add(10 * time.Second))
		return f
	}
	says, told := fifo("says"), fifo("told")
	c, d := config(t, Spec{Services: map[string]ServiceSpec{"bad": {Command: command("robbed", "${port}", says.Name(), told.Name())}}})
	robbed := make(chan error, 1)
	go func() {
		robbed <- func() error {
			port := make([]byte, 5)
			n, err := says.Read(port)
			if err != nil {
				return err
			}
			stranger, err := net.Listen("tcp", "127.0.0.1:"+string(port[:n]))
			if err != nil {
				return err
			}
			defer stranger.Close()
			stranger.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
			asks, err := stranger.Accept()
			if err != nil {
				return err
			}
			asks.Close()
			_, err = told.Write([]byte("!"))
			return err
		}()
	}()
	sys, err := Start(t.Context(), c)
	if sys != nil || err == nil || !strings.Contains(err.Error(), "ended before it was ready (exit status 3)") {
		t.Errorf("%v; want that it has ended", err)
	}
	if err := <-robbed; err != nil {
		t.Error(err)
	}
	d.nothingLeft()
}

func TestInterruptedStart(t *testing.T) {
	c, d := config(t, Spec{Services: map[string]ServiceSpec{"deaf": {Command: command("deaf")}}})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := errors.New("Ctrl-C")
	notify := c.Notify
	c.Notify = func(e Event) { notify(e); cancel(why) } // as soon as it is started
	if _, err := Start(ctx, c); !errors.Is(err, why) {
		t.Errorf("error %v; want the cause", err)
	}
	d.nothingLeft()
}

func TestThePortIsTakenMeanwhile(t *testing.T) {
	sys, _, _ := start(t, two)
	if err := sys.Kill(t.Context(), "store", 0, "KILL"); err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp", sys.Address("store"))
	if err != nil {
		t.Fatal(err)
	}
	err = sys.StartAgain(t.Context(), "store", 0)
	want := fmt.Sprintf(`service "store": its port %s is taken`, port(sys.Address("store")))
	if !errors.Is(err, process.ErrTaken) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v; want %q", err, want)
	}
	thief.Close()
	if err := sys.StartAgain(t.Context(), "store", 0); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}

func TestAddressOnlyIsNotOurs(t *testing.T) {
	theirs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "theirs") }))
	defer theirs.Close()
	sys, d, _ := start(t, Spec{Services: map[string]ServiceSpec{
		"store": {Address: theirs.Listener.Addr().String(), Ready: &ReadySpec{Path: "/healthz"}},
		"api":   {Command: command("api", "${port}", "http://${edge.store}"), Ready: &ReadySpec{Path: "/healthz"}},
	}})
	if body, err := get(t, "http://"+sys.Address("api")+"/ask"); err != nil || body != "theirs" {
		t.Errorf("through the edge: %q, %v", body, err)
	}
	for name, do := range map[string]func() error{
		"kill":      func() error { return sys.Kill(t.Context(), "store", 0, "KILL") },
		"pause":     func() error { return sys.Pause(t.Context(), "store", 0) },
		"terminate": func() error { return sys.Terminate(t.Context(), "store", 0, time.Second) },
		"start":     func() error { return sys.StartAgain(t.Context(), "store", 0) },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "not ours to signal") {
			t.Errorf("%s: %v; want a refusal", name, err)
		}
	}
	if err := sys.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, theirs.URL); err != nil {
		t.Errorf("it does not answer after our Stop: %v", err)
	}
	if events, states := d.of("store"); !slices.Equal(states, []string{"ready"}) || events[0].PID != 0 {
		t.Errorf("events %+v", events)
	}
}

func TestStopEndsAStartUnderWay(t *testing.T) {
	s := Spec{Services: map[string]ServiceSpec{"svc": {
		// The first start becomes ready; later ones find the file and stay deaf.
		Command: []string{"/bin/sh", "-c", `if [ -e ${data}/again ]; then exec "$0" child deaf; fi; touch ${data}/again; exec "$0" child store ${port}`, os.Args[0]},
	}}}
	c, d := config(t, s)
	restarted := make(chan struct{})
	c.Notify = func(e Event) {
		d.notify(e)
		if e.State == Restarted {
			close(restarted)
		}
	}
	sys, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.Kill(t.Context(), "svc", 0, "TERM"); err != nil {
		t.Fatal(err)
	}
	again := make(chan error, 1)
	go func() { again <- sys.StartAgain(context.Background(), "svc", 0) }()
	<-restarted
	if err := sys.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-again; err == nil || !strings.Contains(err.Error(), "the system is being stopped") {
		t.Errorf("StartAgain: %v", err)
	}
	if err := sys.StartAgain(t.Context(), "svc", 0); err == nil {
		t.Error("started after Stop")
	}
	if err := sys.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	d.nothingLeft()
}

func TestUnknownNames(t *testing.T) {
	sys, _, _ := start(t, two)
	for want, err := range map[string]error{
		`there is no service "bank" (there are: api, store)`: sys.Kill(t.Context(), "bank", 0, "KILL"),
		`service "store" has no instance 3`:                  sys.Pause(t.Context(), "store", 3),
		`signal "HUP" is unknown: use KILL or TERM`:          sys.Kill(t.Context(), "store", 0, "HUP"),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want %q", err, want)
		}
	}
	if _, _, _, err := sys.Check(t.Context(), "money"); err == nil {
		t.Error("an invariant of users' own services")
	}
	if ok, _, err := sys.Drained(t.Context()); !ok || err != nil {
		t.Errorf("drained: %v, %v", ok, err)
	}
	if b := sys.Breakers(t.Context()); len(b) != 0 {
		t.Errorf("breakers %v", b)
	}
}

func TestShop(t *testing.T) {
	began := time.Now()
	sys, d, _ := start(t, Spec{System: "shop"})
	t.Logf("five services ready in %s", time.Since(began).Round(time.Millisecond))
	breakers := sys.Breakers(t.Context())
	for _, e := range sys.config.Topology.Edges {
		if breakers[e.Name()] != "closed" {
			t.Errorf("breaker on %q is %q; want closed", e.Name(), breakers[e.Name()])
		}
	}
	before := sys.Address("orders")
	if err := sys.Kill(t.Context(), "orders", 0, "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := sys.StartAgain(t.Context(), "orders", 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("orders listened on %s, then on %s", before, sys.Address("orders"))
	body := `{"user":"u-1","items":[{"product":"p-3","quantity":1}]}`
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Post("http://"+sys.Address("gateway")+"/checkout", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Errorf("checkout: %s; want 201", answer.Status)
	}
	if ok, detail, err := sys.Drained(t.Context()); !ok || err != nil {
		t.Errorf("drained: %v %s %v", ok, detail, err)
	}
	for _, invariant := range (Spec{System: "shop"}).Invariants() {
		if ok, detail, _, err := sys.Check(t.Context(), invariant); !ok || err != nil {
			t.Errorf("%s: %v %s %v", invariant, ok, detail, err)
		}
	}
	if _, _, _, err := sys.Check(t.Context(), "magic"); err == nil || !strings.Contains(err.Error(), "it has: money, stock") {
		t.Errorf("unknown invariant: %v", err)
	}
	if err := sys.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"gateway", "orders", "payments", "stock", "users"} {
		events, _ := d.of(name)
		if last := events[len(events)-1]; last.State != Stopped || last.Detail != "exit status 0" {
			t.Errorf("%s ended as %+v; want an orderly stop", name, last)
		}
	}
}
