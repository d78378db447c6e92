// Command startup measures what a user waits for, and writes it into
// docs/PERFORMANCE.md together with the command that measured it.
//
//	go run ./test/bench/startup -binary bin/chaosctl
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/test/bench/compare"
)

func main() {
	binary := flag.String("binary", "bin/chaosctl", "the program to measure")
	rounds := flag.Int("rounds", 7, "runs of the short scenario")
	doc := flag.String("doc", "docs/PERFORMANCE.md", "where the table goes")
	flag.Parse()
	if err := measure(*binary, *rounds, *doc); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// short is just long enough for a first request.
const short = `scenario: start-up
target: { system: shop }
load:
  shoppers: { request: POST /checkout, to: gateway, rate: 100/s }
phases: { before: 1s }
hypothesis: { shoppers: { before: [ok >= 90%] } }
`

func measure(binary string, rounds int, doc string) error {
	work, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	file := filepath.Join(work, "short.yaml")
	if err := os.WriteFile(file, []byte(short), 0o644); err != nil {
		return err
	}
	var first, ready, over []float64
	for i := range rounds {
		t, err := once(binary, file, filepath.Join(work, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		first, ready, over = append(first, t.first), append(ready, t.ready), append(over, t.wall-1)
	}
	full, err := once(binary, "checkout-survives-slow-payments", filepath.Join(work, "full"))
	if err != nil {
		return err
	}
	table := fmt.Sprintf(`%s, %d cores, %s; %d runs, median (min – max). Command: `+"`make bench`"+`.

| what a user waits for | seconds | goal |
|---|---|---|
| process start to first request due | %s | ≤ 1 |
| five services of the shop started and ready | %s | < 1 |
| everything but the phases (start-up, drain, invariants, stop, reports) | %s | |
| `+"`chaosctl run checkout-survives-slow-payments`"+`, wall | %.1f | < 60 |`, time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), runtime.Version(), rounds,
		spread(first), spread(ready), spread(over), full.wall)
	fmt.Println(table)
	return compare.Replace(doc, "start-up", table)
}

type timing struct{ first, ready, wall float64 }

// once runs a scenario and reads from its journal when the clock started.
func once(binary, scenario, out string) (timing, error) {
	began := time.Now()
	cmd := exec.Command(binary, "run", scenario, "--out", out, "--quiet")
	output, err := cmd.CombinedOutput()
	if err != nil {
		return timing{}, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, output)
	}
	t := timing{wall: time.Since(began).Seconds()}
	f, err := os.Open(filepath.Join(out, "journal.jsonl"))
	if err != nil {
		return t, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Start *struct{ Wall time.Time }
			Mark  *struct{ Text string }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return t, err
		}
		if e.Start != nil {
			t.first = e.Start.Wall.Sub(began).Seconds()
		}
		if e.Mark != nil {
			if text, ok := strings.CutPrefix(e.Mark.Text, "system ready in "); ok {
				d, err := time.ParseDuration(text)
				if err != nil {
					return t, err
				}
				t.ready = d.Seconds()
				return t, nil
			}
		}
	}
	return t, fmt.Errorf("%s: the journal does not say when the system was ready", out)
}

func spread(v []float64) string {
	slices.Sort(v)
	return fmt.Sprintf("%.2f (%.2f – %.2f)", v[len(v)/2], v[0], v[len(v)-1])
}
