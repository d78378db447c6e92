package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// reading is what the server holds at one moment.
type reading struct{ rssMB, heapMB, fds, goroutines float64 }

// A quarter is read so often, and so many parts of it are averaged before they are
// compared: neighbours are not independent, averages of ten seconds nearly are.
const (
	readingsPerQuarter = 150
	partsPerQuarter    = 15
)

// watch reads the server once an interval, a quarter long.
func watch(pid int, api string, every time.Duration) (all []reading, err error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range readingsPerQuarter {
		r, err := look(pid, api)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		<-tick.C
	}
	return all, nil
}

// look is what the server holds: what shows from outside, and what it tells of itself.
func look(pid int, api string) (r reading, err error) {
	if r, err = lookAt(pid); err != nil {
		return r, fmt.Errorf("the server is gone: %w", err)
	}
	metrics, err := call("GET", api+"/metrics", "")
	if err != nil {
		return r, err
	}
	heap, err := number(heapInUse, metrics)
	if err != nil {
		return r, err
	}
	r.heapMB = heap / (1 << 20)
	r.goroutines, err = number(goroutines, metrics)
	return r, err
}

var (
	vmRSS      = regexp.MustCompile(`VmRSS:\s+(\d+)`)
	threads    = regexp.MustCompile(`Threads:\s+(\d+)`)
	heapInUse  = regexp.MustCompile(`(?m)^go_memstats_heap_inuse_bytes (\S+)`)
	goroutines = regexp.MustCompile(`(?m)^go_goroutines (\S+)`)
)

// lookAt is what a process holds, seen from outside; its threads in the place of
// goroutines, which do not show there. Of a zombie it is an error.
func lookAt(pid int) (r reading, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return r, err
	}
	kb, err := number(vmRSS, string(status))
	if err != nil {
		return r, err
	}
	if r.goroutines, err = number(threads, string(status)); err != nil {
		return r, err
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	r.rssMB, r.fds = kb/1024, float64(len(fds))
	return r, err
}

// number is the one that a text has where the pattern says.
func number(at *regexp.Regexp, text string) (float64, error) {
	found := at.FindStringSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("nothing like %s", at)
	}
	return strconv.ParseFloat(found[1], 64)
}

// compareQuarters writes a table of what was held in two quarters and by how much the
// later held more, with the interval that has the true difference in 95 of 100 soaks:
// Student's, over the differences of parts at the same moment. A growth is excluded
// when even the interval's upper end is below a tenth and what is allowed beside it;
// else it says what could not be excluded, or what grew.
func compareQuarters(b *strings.Builder, early, late []reading) error {
	b.WriteString("| the server, mean | second quarter | last quarter | difference, 95 % | allowed |\n|---|---:|---:|---:|---:|\n")
	var judged error
	for _, m := range []struct {
		name string
		of   func(reading) float64
		by   float64
	}{
		{"resident memory, MB", func(r reading) float64 { return r.rssMB }, 4},
		{"heap in use, MB", func(r reading) float64 { return r.heapMB }, 4},
		{"file descriptors", func(r reading) float64 { return r.fds }, 8},
		{"goroutines", func(r reading) float64 { return r.goroutines }, 8},
	} {
		before, after := parts(early, m.of), parts(late, m.of)
		differences := make([]float64, len(before))
		for i := range differences {
			differences[i] = after[i] - before[i]
		}
		mean, deviation := stat.MeanStdDev(differences, nil)
		half := distuv.StudentsT{Sigma: 1, Nu: partsPerQuarter - 1}.Quantile(0.975) * deviation / math.Sqrt(partsPerQuarter)
		was := stat.Mean(before, nil)
		allowed := was*0.1 + m.by
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.1f to %.1f | %.1f |\n",
			m.name, was, was+mean, mean-half, mean+half, allowed)
		switch {
		case mean+half <= allowed:
		case mean-half > 0:
			judged = errors.Join(judged, fmt.Errorf("it grows: %s, by %.1f to %.1f", m.name, mean-half, mean+half))
		default:
			judged = errors.Join(judged, fmt.Errorf("it cannot be told whether it grows, a longer soak can: %s, by %.1f to %.1f", m.name, mean-half, mean+half))
		}
	}
	return judged
}

// parts are the means of a quarter's parts.
func parts(quarter []reading, of func(reading) float64) []float64 {
	means := make([]float64, partsPerQuarter)
	for i, r := range quarter {
		means[i*partsPerQuarter/len(quarter)] += of(r) * partsPerQuarter / float64(len(quarter))
	}
	return means
}

// each is what all the readings have of one thing.
func each(all []reading, of func(reading) float64) []float64 {
	v := make([]float64, len(all))
	for i, r := range all {
		v[i] = of(r)
	}
	return v
}
