package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

func look(pid int, api string) (r reading, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return r, fmt.Errorf("the server is gone: %w", err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return r, err
	}
	metrics, err := call("GET", api+"/metrics", "")
	if err != nil {
		return r, err
	}
	var wrong error
	number := func(pattern, text string) float64 {
		found := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if found == nil {
			wrong = errors.Join(wrong, fmt.Errorf("no %s in what the server tells of itself", pattern))
			return 0
		}
		v, err := strconv.ParseFloat(found[1], 64)
		wrong = errors.Join(wrong, err)
		return v
	}
	r = reading{
		rssMB:      number(`VmRSS:\s+(\d+)`, string(status)) / 1024,
		heapMB:     number(`(?m)^go_memstats_heap_inuse_bytes (\S+)`, metrics) / (1 << 20),
		fds:        float64(len(fds)),
		goroutines: number(`(?m)^go_goroutines (\S+)`, metrics),
	}
	return r, wrong
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
		allowed := stat.Mean(before, nil)*0.1 + m.by
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.1f to %.1f | %.1f |\n",
			m.name, stat.Mean(before, nil), stat.Mean(after, nil), mean-half, mean+half, allowed)
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

func median(all []reading, of func(reading) float64) float64 {
	var v []float64
	for _, r := range all {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
