package shop

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/topology"
	"go.uber.org/goleak"
)

// TestMain is also the shop's services: the tests re-execute their own binary.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "service" {
		os.Exit(Main(context.Background(), os.Args[2], os.Args[3], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// town is a whole shop in five processes, with one relay in front of each, so
// that a service keeps its address when it is killed and started again.
type town struct {
	t       testing.TB
	data    string
	scale   float64
	relays  map[string]*relay
	running map[string]*process
}

// open starts all five at once and returns when all are ready.
func open(t testing.TB, scale float64) *town {
	t.Helper()
	// Parent-death signals are tied to the thread that forks; see node.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	s := &town{t: t, data: t.TempDir(), scale: scale, relays: map[string]*relay{}, running: map[string]*process{}}
	for _, name := range System.Topology.Names() {
		s.relays[name] = listen(t)
	}
	for _, name := range System.Topology.Names() {
		s.launch(name)
	}
	for _, name := range System.Topology.Names() {
		s.await(name)
	}
	return s
}

// process is one service.
type process struct {
	cmd     *exec.Cmd
	address chan string // one, once it listens
	log     *bytes.Buffer
	copied  sync.WaitGroup
}

// launch starts a service without waiting for it.
func (s *town) launch(name string) {
	s.t.Helper()
	c := node.Config{Service: name, Role: name, Data: s.data, Seed: 1, Scale: s.scale, Parent: os.Getpid(), Edges: map[string]node.Edge{}}
	for _, callee := range System.Topology.CallsOf(name) {
		settings := System.Defaults(topology.Edge{Caller: name, Callee: callee}).Scale(s.scale)
		c.Edges[callee] = node.Edge{Address: s.relays[callee].listener.Addr().String(), Settings: settings}
	}
	text, err := json.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.data, name+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		s.t.Fatal(err)
	}
	p := &process{cmd: exec.Command(os.Args[0], "service", name, file), address: make(chan string, 1), log: &bytes.Buffer{}}
	p.cmd.Stderr = p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	p.copied.Go(func() {
		defer close(p.address)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var said struct{ Listening string }
			if json.Unmarshal(lines.Bytes(), &said) == nil && said.Listening != "" {
				p.address <- said.Listening
			}
		}
	})
	s.running[name] = p
	s.t.Cleanup(func() { s.stop(p) })
}

// await returns when a service is ready.
func (s *town) await(name string) {
	s.t.Helper()
	p := s.running[name]
	address, ok := <-p.address
	if !ok {
		p.cmd.Wait()
		s.t.Fatalf("%s ended before it listened:\n%s", name, p.log)
	}
	s.relays[name].lead(address)
	answer, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		s.t.Fatalf("%s is not ready: %s", name, answer.Status)
	}
}

// kill is kill -9; it returns when the process is gone.
func (s *town) kill(name string) {
	p := s.running[name]
	p.cmd.Process.Kill()
	p.copied.Wait()
	p.cmd.Wait()
}

// stop is SIGTERM, and the service must then end in order.
func (s *town) stop(p *process) {
	if p.cmd.ProcessState != nil {
		return // killed before
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.copied.Wait()
	if err := p.cmd.Wait(); err != nil {
		s.t.Errorf("%s did not end in order: %v\n%s", p.cmd.Args[2], err, p.log)
	}
}

// cpu is what all services have used so far.
func (s *town) cpu() (total time.Duration) {
	for _, p := range s.running {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			s.t.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, field := range fields[11:13] { // utime and stime, in ticks of 10 ms
			ticks, err := strconv.Atoi(field)
			if err != nil {
				s.t.Fatal(err)
			}
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return total
}

// checkout buys something; status 0: no answer.
func (s *town) checkout(client *http.Client, n int) (status int, order string) {
	body := fmt.Sprintf(`{"user":"u-%d","items":[{"product":"p-%d","quantity":%d},{"product":"p-7","quantity":1}]}`, n%1000, n%100, n%3+1)
	answer, err := client.Post("http://"+s.relays["gateway"].listener.Addr().String()+"/checkout", "application/json", strings.NewReader(body))
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	var said struct{ Order string }
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, ""
	}
	json.Unmarshal(text, &said)
	return answer.StatusCode, said.Order
}

// settled waits until every saga has ended.
func (s *town) settled() {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ok, detail, err := Drained(context.Background(), s.data)
		if err != nil {
			s.t.Fatal(err)
		}
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not drained after a minute: %s\n%s", detail, s.running["orders"].log)
		}
		time.Sleep(50 * time.Millisecond) // another process's progress has no event for us
	}
}

func (s *town) conserved() (values map[string]float64) {
	s.t.Helper()
	for _, invariant := range System.Invariants {
		ok, detail, v, err := Check(context.Background(), s.data, invariant)
		if err != nil || !ok {
			s.t.Errorf("%s: %v, %s, %v", invariant, ok, detail, err)
		} else {
			s.t.Logf("%s: %s", invariant, detail)
		}
		values = v
	}
	return values
}

// Customers buy until 400 checkouts are confirmed, while orders and then
// payments are killed and come back: whatever anybody was told, money and stock
// are conserved, and an order that was confirmed is one.
func TestShopSurvivesKill(t *testing.T) {
	s := open(t, 0.1)
	const customers, enough, most = 8, 400, 20_000
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: customers}}
	defer client.CloseIdleConnections()

	var mu sync.Mutex
	statuses := map[int]int{}
	confirmed := map[string]bool{}
	news := make(chan struct{}, most) // one for each confirmation
	closing := make(chan struct{})
	var all sync.WaitGroup
	for c := range customers {
		all.Go(func() {
			for n := range most / customers {
				status, order := s.checkout(client, c+n*customers)
				mu.Lock()
				statuses[status]++
				if status == http.StatusCreated {
					confirmed[order] = true
					news <- struct{}{}
				}
				mu.Unlock()
				impatience := time.Duration(0)
				if status != http.StatusCreated {
					impatience = 20 * time.Millisecond // as customers do, they try again
				}
				select {
				case <-closing:
					return
				case <-time.After(impatience):
				}
			}
		})
	}
	deadline := time.After(60 * time.Second)
	for n := 1; n <= enough; n++ {
		select {
		case <-news:
		case <-deadline:
			t.Errorf("only %d checkouts were confirmed", n-1)
			n = enough
		}
		if victim := map[int]string{100: "orders", 250: "payments"}[n]; victim != "" {
			s.kill(victim)
			s.launch(victim)
			s.await(victim)
		}
	}
	close(closing)
	all.Wait()
	t.Logf("answers by status: %v", statuses)
	for status := range statuses {
		switch status {
		case 201, 202, 503:
		default:
			t.Errorf("%d answers with status %d; want 201, 202 and 503 only", statuses[status], status)
		}
	}

	s.settled()
	values := s.conserved()
	if int(values["orders_completed"]) < len(confirmed) {
		t.Errorf("%d orders were confirmed, but %v completed", len(confirmed), values["orders_completed"])
	}
	if err := look(t.Context(), s.data, "orders.db", func(db *sql.DB) error {
		placed, err := readOrders(t.Context(), db)
		for _, o := range placed {
			if confirmed[o.id] && o.state != "completed" {
				t.Errorf("order %s was confirmed, but is %s", o.id, o.state)
			}
			delete(confirmed, o.id)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(confirmed) > 0 {
		t.Errorf("%d confirmed orders do not exist", len(confirmed))
	}
}

// A user who cannot pay, one who does not exist, a product nobody has.
func TestRefusedCheckouts(t *testing.T) {
	s := open(t, 1)
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		body string
		want int
	}{
		{`{"user":"u-broke","items":[{"product":"p-3","quantity":1}]}`, 402},
		{`{"user":"u-1000","items":[{"product":"p-3","quantity":1}]}`, 400},
		{`{"user":"u-1","items":[{"product":"p-100","quantity":1}]}`, 422},
		{`{"user":"u-1","items":[{"product":"p-3","quantity":1},{}]}`, 400},
		{`{"user":"u-1","items":[{"product":"p-3","quantity":1000000},{"product":"p-3","quantity":1}]}`, 409},
		{`{"user":"u-1","items":[{"product":"p-3","quantity":1000000}]}`, 201}, // the refused ones took nothing
		{`{"user":"u-1","items":[{"product":"p-3","quantity":1}]}`, 409},
	} {
		answer, err := client.Post("http://"+s.relays["gateway"].listener.Addr().String()+"/checkout", "application/json", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != test.want {
			t.Errorf("%s\n got %d %s\nwant %d", test.body, answer.StatusCode, text, test.want)
		}
	}
	s.settled()
	s.conserved()
}

func TestMainRefusesUnknownRoles(t *testing.T) {
	var stderr strings.Builder
	if code := Main(t.Context(), "oders", "none.json", io.Discard, &stderr); code != 2 || stderr.String() != "no role \"oders\" in system \"shop\": it has gateway, orders, payments, stock, users\n" {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}

// BenchmarkStart is the time from nothing to five ready services.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s := open(b, 1)
		b.StopTimer()
		for _, p := range s.running {
			s.stop(p)
		}
		b.StartTimer()
	}
}

// BenchmarkCheckout sends 200 checkouts a second, by the clock, and reports the
// CPU time that the five services spend on each.
func BenchmarkCheckout(b *testing.B) {
	s := open(b, 1)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	defer client.CloseIdleConnections()
	for n := range 200 {
		s.checkout(client, n) // connections are made, statements warm
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var all sync.WaitGroup
	var mu sync.Mutex
	var worst time.Duration
	failed := 0
	before := s.cpu()
	for n := 0; b.Loop(); n++ {
		due := <-tick.C
		all.Go(func() {
			status, _ := s.checkout(client, n)
			mu.Lock()
			defer mu.Unlock()
			worst = max(worst, time.Since(due))
			if status != http.StatusCreated {
				failed++
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64((s.cpu()-before).Microseconds())/float64(b.N), "cpu-µs/checkout")
	b.ReportMetric(float64(worst.Milliseconds()), "worst-ms")
	b.ReportMetric(float64(failed), "failed")
}

// relay is an address that leads to whatever it was last told.
type relay struct {
	listener net.Listener
	mu       sync.Mutex
	to       string
}

func listen(t testing.TB) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l}
	var all sync.WaitGroup
	ctx, end := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.carry(ctx, in) })
		}
	})
	t.Cleanup(func() { l.Close(); end(); all.Wait() })
	return r
}

func (r *relay) lead(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// carry copies both ways until either side or ctx ends.
func (r *relay) carry(ctx context.Context, in net.Conn) {
	defer in.Close()
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			io.Copy(way[1], way[0])
			in.Close()
			out.Close()
		})
	}
	both.Wait()
}
