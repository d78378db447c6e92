//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/test/bench/compare"
	"github.com/chaosctl/chaosctl/test/bench/peers"
	"github.com/chaosctl/chaosctl/test/bench/process"
)

// job is what a generator is to do: Rate requests a second, or, when that is 0, as
// many as go, on that many connections (0: as many as it likes).
type job struct {
	url         string
	duration    time.Duration // whole seconds
	rate        int
	connections int
	report      bool // it is asked afterwards what it saw
	streams     int  // HTTP/2: so many at once on each connection; 0: HTTP/1.1
	calls       bool // gRPC
	session     bool // not one request, but three with a captured value
}

// seen is what a generator says that it saw.
type seen struct{ p50, p99 time.Duration }

// running is a generator at work: a program, or two in a pipe.
type running struct {
	processes []*process.Process
	out       *bytes.Buffer
	file      string // of its own report, where that does not go to stdout
	parse     func(out []byte) (seen, error)
}

// generators starts them by the names of their columns.
type generators struct {
	core, serverCore int
	binary           string
	peers            map[string]peers.Peer
	dir              string // for their files
}

func (g *generators) start(name string, j job) (*running, error) {
	seconds := strconv.Itoa(int(j.duration / time.Second))
	conns := strconv.Itoa(j.connections)
	path := g.peers[name].Path
	r := &running{out: &bytes.Buffer{}}
	var args []string
	var env []string
	switch name {
	case compare.Ours:
		target := j.url
		if j.session {
			target = filepath.Join(g.dir, "session.yaml")
			if err := os.WriteFile(target, []byte(sessionYAML(j)), 0o644); err != nil {
				return nil, err
			}
		}
		args = []string{g.binary, "load", target, "--duration", j.duration.String(), "--output", "json", "--quiet"}
		if j.rate > 0 {
			args = append(args, "--rate", strconv.Itoa(j.rate)+"/s")
		} else {
			args = append(args, "--users", conns)
		}
		if j.connections > 0 {
			args = append(args, "--connections", conns)
		}
		if j.secure() {
			args = append(args, "--insecure")
		}
		if j.streams > 0 {
			args[slices.Index(args, "--users")+1] = strconv.Itoa(j.connections * j.streams)
			args = append(args, "--streams", strconv.Itoa(j.streams))
		}
		switch {
		case j.calls:
			file, err := g.writeDescriptors()
			if err != nil {
				return nil, err
			}
			args = append(args, "--body", `{"service":"x"}`, "--descriptors", file)
		case j.streams > 0:
			args = append(args, "--http2")
		}
		r.parse = parseOurs
	case "h2load", grpcLoop:
		var err error
		if args, err = g.argsHTTP2(name, j); err != nil {
			return nil, err
		}
	case "wrk", "wrk2":
		args = []string{path, "-t", "1", "-c", conns, "-d", seconds + "s", "--latency"}
		if name == "wrk2" {
			args = append(args, "-R", strconv.Itoa(j.rate))
		}
		args = append(args, j.url)
		r.parse = parseWrk
	case "vegeta":
		return r, g.vegeta(r, path, j)
	case "hey":
		args = []string{path, "-z", j.duration.String(), "-c", conns}
		if j.rate > 0 {
			args = append(args, "-q", fmt.Sprint(float64(j.rate)/float64(j.connections))) // per worker
		}
		if j.report {
			args = append(args, "-o", "csv")
		}
		args = append(args, j.url)
		r.parse = parseHey
	case "fortio":
		if j.connections == 0 {
			conns = "64"
		}
		// Its histogram counts in steps of 1 ms unless told otherwise.
		args = []string{path, "load", "-quiet", "-c", conns, "-qps", strconv.Itoa(j.rate), "-t", seconds + "s", "-r", "0.00005", "-p", "50,99", "-json", "-"}
		if j.secure() {
			args = append(args, "-k")
		}
		args = append(args, j.url)
		r.parse = parseFortio
	case "ab":
		// -t sets -n to 50,000, so -n comes after it.
		args = []string{path, "-q", "-k", "-c", conns, "-t", seconds, "-n", "50000000", j.url}
	case "k6":
		script := filepath.Join(g.dir, "script.js")
		text := k6Script(j)
		if j.calls {
			descriptors, err := g.writeDescriptors()
			if err == nil {
				text, err = k6Calls(j, descriptors)
			}
			if err != nil {
				return nil, err
			}
		}
		if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
			return nil, err
		}
		r.file = filepath.Join(g.dir, "k6.json")
		args = []string{path, "run", "--quiet", "--no-usage-report", "--summary-export", r.file, "--summary-trend-stats", "p(50),p(99)", script}
		env = []string{"K6_NO_USAGE_REPORT=true", "NO_COLOR=1"}
		r.parse = parseK6
	default:
		return nil, fmt.Errorf("no generator is called %q", name)
	}
	p, err := process.Start(process.Spec{Args: args, Env: env, Cores: []int{g.core}, Stdout: r.out})
	r.processes = []*process.Process{p}
	return r, err
}

// vegeta is a pipe: what `vegeta attack | vegeta report` is in a shell.
func (g *generators) vegeta(r *running, path string, j job) error {
	attack := []string{path, "attack", "-rate", strconv.Itoa(j.rate), "-duration", j.duration.String()}
	if j.secure() {
		attack = append(attack, "-insecure")
	}
	if j.streams > 0 {
		attack = append(attack, "-h2c")
	}
	if j.connections > 0 {
		n := strconv.Itoa(j.connections * max(j.streams, 1))
		attack = append(attack, "-workers", n, "-max-workers", n, "-connections", n)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	defer write.Close()
	r.parse = parseVegeta
	for _, s := range []process.Spec{
		{Args: attack, Cores: []int{g.core}, Stdin: strings.NewReader("GET " + j.url + "\n"), Stdout: write},
		{Args: []string{path, "report", "-type", "json"}, Cores: []int{g.core}, Stdin: read, Stdout: r.out},
	} {
		p, err := process.Start(s)
		if err != nil {
			return errors.Join(err, r.stop())
		}
		r.processes = append(r.processes, p)
	}
	return nil
}

func (j job) secure() bool { return strings.HasPrefix(j.url, "https:") }

// sessionYAML is the session for us, and k6Session the same for k6.
func sessionYAML(j job) string {
	return fmt.Sprintf(`to: %s
steps:
  - { method: GET, path: /new, capture: { order: { json: $.order } } }
  - GET /orders/{{.order}}
  - GET /orders/{{.order}}/status
`, strings.TrimSuffix(j.url, "/"))
}

func k6Session(j job) string {
	return fmt.Sprintf(`const url = %q;
  const order = http.get(url + "new", { responseType: "text" }).json("order");
  http.get(url + "orders/" + order);
  http.get(url + "orders/" + order + "/status");`, j.url)
}

// k6Script asks for the same load in k6's terms. An arrival rate needs virtual
// users, as many as requests may be under way.
func k6Script(j job) string {
	scenario := fmt.Sprintf(`executor: "constant-vus", vus: %d, duration: "%v"`, j.connections, j.duration)
	if j.rate > 0 {
		pre, most := 200, 2000
		if j.connections > 0 {
			pre, most = j.connections, j.connections
		}
		scenario = fmt.Sprintf(`executor: "constant-arrival-rate", rate: %d, timeUnit: "1s", duration: "%v", preAllocatedVUs: %d, maxVUs: %d`, j.rate, j.duration, pre, most)
	}
	turn := fmt.Sprintf("http.get(%q);", j.url)
	if j.session {
		turn = k6Session(j)
	}
	return fmt.Sprintf(`import http from "k6/http";
export const options = { discardResponseBodies: true, insecureSkipTLSVerify: true, scenarios: { bench: { %s, gracefulStop: "2s" } } };
export default function () { %s }
`, scenario, turn)
}

// wait waits for the generator's own end and says what it saw.
func (r *running) wait(ctx context.Context) (seen, error) {
	for _, p := range r.processes {
		if err := p.Wait(ctx); err != nil {
			return seen{}, errors.Join(err, r.stop())
		}
	}
	if r.parse == nil {
		return seen{}, nil
	}
	out := r.out.Bytes()
	if r.file != "" {
		var err error
		if out, err = os.ReadFile(r.file); err != nil {
			return seen{}, err
		}
	}
	s, err := r.parse(out)
	if err == nil && (s.p50 <= 0 || s.p99 <= 0) {
		err = fmt.Errorf("p50 %v, p99 %v", s.p50, s.p99)
	}
	if err != nil {
		return s, fmt.Errorf("read the report: %w, in %.300q", err, out)
	}
	return s, nil
}

func (r *running) stop() error {
	var all []error
	for _, p := range r.processes {
		all = append(all, p.Stop())
	}
	return errors.Join(all...)
}

// ended is not nil when a part has ended.
func (r *running) ended() error {
	var all []error
	for _, p := range r.processes {
		all = append(all, p.Ended())
	}
	return errors.Join(all...)
}

func (r *running) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, p := range r.processes {
		cpu, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

func (r *running) rss() (int64, error) {
	var sum int64
	for _, p := range r.processes {
		rss, err := p.RSS()
		if err != nil {
			return 0, err
		}
		sum += rss
	}
	return sum, nil
}

func secondsOf(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

// parseOurs reads `chaosctl load --output json`.
func parseOurs(out []byte) (seen, error) {
	var v struct {
		P50 float64 `json:"p50_s"`
		P99 float64 `json:"p99_s"`
	}
	err := json.Unmarshal(out, &v)
	return seen{secondsOf(v.P50), secondsOf(v.P99)}, err
}

// parseVegeta reads `vegeta report -type json`: nanoseconds.
func parseVegeta(out []byte) (seen, error) {
	var v struct {
		Latencies struct {
			P50 int64 `json:"50th"`
			P99 int64 `json:"99th"`
		}
	}
	err := json.Unmarshal(out, &v)
	return seen{time.Duration(v.Latencies.P50), time.Duration(v.Latencies.P99)}, err
}

// parseFortio reads `fortio load -json -`: seconds.
func parseFortio(out []byte) (seen, error) {
	var v struct {
		DurationHistogram struct {
			Percentiles []struct{ Percentile, Value float64 }
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return seen{}, err
	}
	var s seen
	for _, p := range v.DurationHistogram.Percentiles {
		switch p.Percentile {
		case 50:
			s.p50 = secondsOf(p.Value)
		case 99:
			s.p99 = secondsOf(p.Value)
		}
	}
	return s, nil
}

// parseK6 reads --summary-export: milliseconds.
func parseK6(out []byte) (seen, error) {
	var v struct {
		Metrics struct {
			Duration struct {
				P50 float64 `json:"p(50)"`
				P99 float64 `json:"p(99)"`
			} `json:"http_req_duration"`
		}
	}
	err := json.Unmarshal(out, &v)
	return seen{secondsOf(v.Metrics.Duration.P50 / 1e3), secondsOf(v.Metrics.Duration.P99 / 1e3)}, err
}

// parseHey reads `hey -o csv`: a line for each request, its seconds first.
func parseHey(out []byte) (seen, error) {
	lines := csv.NewReader(bytes.NewReader(out))
	if _, err := lines.Read(); err != nil { // the header
		return seen{}, err
	}
	var took []float64
	for {
		line, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return seen{}, err
		}
		v, err := strconv.ParseFloat(line[0], 64)
		if err != nil {
			return seen{}, err
		}
		took = append(took, v)
	}
	if len(took) == 0 {
		return seen{}, errors.New("no requests")
	}
	return seen{secondsOf(compare.Quantile(took, 0.5)), secondsOf(compare.Quantile(took, 0.99))}, nil
}

// wrkLine is a line of wrk's or wrk2's latency distribution: "99%    1.23ms", "99.000%    1.23ms".
var wrkLine = regexp.MustCompile(`(?m)^\s*(50|99)(?:\.000)?%\s+([\d.]+(?:us|ms|s|m))\s*$`)

func parseWrk(out []byte) (seen, error) {
	var s seen
	for _, m := range wrkLine.FindAllSubmatch(out, -1) {
		d, err := time.ParseDuration(string(m[2]))
		if err != nil {
			return s, err
		}
		if string(m[1]) == "50" {
			s.p50 = d
		} else {
			s.p99 = d
		}
	}
	return s, nil
}
