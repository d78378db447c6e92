package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	hdrhistogram "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/hdr"
)

// loadSinks are the files a load writes besides its answer. They are made before
// the first request, so that a mistake in a path costs no measurement; none is
// written over.
type loadSinks struct {
	samples  *samples
	hdr, csv *os.File
	plan     *loadPlan
	began    time.Time
}

func openLoadSinks(f loadFlags, p *loadPlan) (*loadSinks, error) {
	s := &loadSinks{plan: p, began: time.Now()}
	var err error
	if f.samples != "" {
		if s.samples, err = openSamples(f.samples); err != nil {
			return nil, usage(err, "name a file that does not exist yet")
		}
	}
	for _, file := range []struct {
		name string
		to   **os.File
	}{{f.hdr, &s.hdr}, {f.csv, &s.csv}} {
		if file.name == "" {
			continue
		}
		if *file.to, err = os.OpenFile(file.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err != nil {
			return nil, errors.Join(usage(err, "name a file that does not exist yet"), s.Close(nil))
		}
	}
	return s, nil
}

// result is the hook for every request, nil where nobody wants them.
func (s *loadSinks) result() func(loadgen.Result) {
	if s.samples == nil {
		return nil
	}
	return s.samples.Write
}

// Close writes what is left to write; without an outcome, nothing.
func (s *loadSinks) Close(o *loadOutcome) error {
	var err error
	if s.samples != nil {
		err = s.samples.Close()
	}
	for _, f := range []struct {
		file  *os.File
		write func(io.Writer, *loadOutcome) error
	}{{s.hdr, s.writeHDR}, {s.csv, writeLoadCSV}} {
		if f.file == nil {
			continue
		}
		if o != nil {
			b := bufio.NewWriter(f.file)
			err = errors.Join(err, f.write(b, o), b.Flush())
		}
		err = errors.Join(err, f.file.Close())
	}
	return err
}

// writeLoadCSV writes a line per second of due time, times in seconds; an empty
// percentile had no request.
func writeLoadCSV(w io.Writer, o *loadOutcome) error {
	out := csv.NewWriter(w)
	_ = out.Write(strings.Fields("second due sent ok failed queued dropped late p50_s p90_s p95_s p99_s p999_s max_s lag_p99_s"))
	err := o.perSecond(func(second int64, c *loadCounts) error {
		row := []string{strconv.FormatInt(second, 10)}
		for _, n := range []int{c.due, c.sent, c.ok, c.failed, c.queued, c.dropped, c.late} {
			row = append(row, strconv.Itoa(n))
		}
		for _, q := range []float64{0.5, 0.9, 0.95, 0.99, 0.999, 1} {
			row = append(row, secondsOf(c.latency, q))
		}
		return out.Write(append(row, secondsOf(c.lag, 0.99)))
	})
	out.Flush()
	return errors.Join(err, out.Error())
}

func secondsOf(h *hdr.Histogram, q float64) string {
	if h.Count() == 0 {
		return ""
	}
	return strconv.FormatFloat(h.Quantile(q).Seconds(), 'f', -1, 64)
}

// writeHDR writes the latencies (ok and failed, from due) in one of
// HdrHistogram's own formats, which its tools and wrk2's users plot.
func (s *loadSinks) writeHDR(w io.Writer, o *loadOutcome) error {
	if filepath.Ext(s.hdr.Name()) != ".hlog" {
		_, err := theirs(o.total.latency).PercentilesPrint(w, 5, 1000)
		return err
	}
	log := hdrhistogram.NewHistogramLogWriter(w)
	base := s.began.UnixMilli()
	if err := errors.Join(
		log.OutputComment(fmt.Sprintf("[latency of %s in µs, from when a request was due; Interval_Max in s]", s.plan.target.url())),
		log.OutputLogFormatVersion(),
		log.OutputStartTime(base),
		log.OutputLegend(),
	); err != nil {
		return err
	}
	return o.perSecond(func(second int64, c *loadCounts) error {
		if c.latency.Count() == 0 {
			return nil
		}
		h := theirs(c.latency)
		h.SetStartTimeMs(base + second*1000)
		h.SetEndTimeMs(base + (second+1)*1000)
		return log.OutputIntervalHistogram(h)
	})
}

// theirs is the same histogram in the library's own form.
func theirs(h *hdr.Histogram) *hdrhistogram.Histogram {
	t := hdrhistogram.New(int64(hdr.Lowest/time.Microsecond), int64(hdr.Highest/time.Microsecond), 3)
	h.Each(func(low, _ time.Duration, n int64) {
		_ = t.RecordValues(int64(low/time.Microsecond), n) // in range: the bounds are the same
	})
	return t
}
