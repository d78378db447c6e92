//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/test/bench/compare"
)

// bench is what is measured, and what we want to reach.
func bench(s *subjects) compare.Bench {
	return compare.Bench{
		Name: "proxy",
		Sections: []compare.Section{{
			Title:   "Carrying bytes, no fault",
			Columns: []string{"direct", "splice", "toxiproxy", "haproxy", compare.Ours},
			Against: []string{"splice", "toxiproxy", "haproxy"},
			Probes: []compare.Probe{{
				Name: "bulk-1",
				Rows: []compare.Row{
					{Key: "bulk1", Label: "bulk, 1 connection, MB/s", Goals: []compare.Goal{compare.Times(0.95, "splice"), compare.Times(2.3, "toxiproxy")}},
					{Key: "bulk1-cpu", Label: "the same, proxy CPU-s per GB", Less: true, Goals: []compare.Goal{compare.Times(4, "toxiproxy")}},
				},
				Measure: s.bulk("bulk1", 1),
			}, {
				Name: "bulk-free",
				Rows: []compare.Row{
					{Key: "free", Label: "bulk, 1 connection, proxy free on both cores, MB/s", Goals: []compare.Goal{compare.Times(0.95, "splice"), compare.Times(2.3, "toxiproxy")}},
					{Key: "free-cpu", Label: "the same, proxy CPU-s per GB", Less: true, Goals: []compare.Goal{compare.Times(4, "toxiproxy")}},
				},
				Measure: func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
					free := *s
					free.cores = s.all
					return free.bulk("free", 1)(ctx, subject, quick)
				},
			}, {
				Name: "bulk-4",
				Rows: []compare.Row{
					{Key: "bulk4", Label: "bulk, 4 connections, MB/s", Goals: []compare.Goal{compare.Times(0.95, "splice"), compare.Times(2.3, "toxiproxy")}},
					{Key: "bulk4-cpu", Label: "the same, proxy CPU-s per GB", Less: true, Goals: []compare.Goal{compare.Times(4, "toxiproxy")}},
				},
				Measure: s.bulk("bulk4", 4),
			}, {
				Name: "ping-pong",
				Rows: []compare.Row{
					{Key: "ping", Label: "64 B ping-pong, 16 connections, requests/s", Goals: []compare.Goal{compare.Times(1, "haproxy"), compare.Times(1.35, "toxiproxy")}},
					{Key: "ping-p50", Label: "the same, p50 µs", Less: true},
					{Key: "ping-p99", Label: "the same, p99 µs", Less: true},
					{Key: "ping-cpu", Label: "the same, proxy CPU µs per request", Less: true},
				},
				Measure: s.exchanges("ping", 16, pingMessage, (*traffic).echo, echoed(len(pingMessage))),
			}, {
				Name: "connections",
				Rows: []compare.Row{
					{Key: "conn", Label: "new connections/s, 1 byte each way", Goals: []compare.Goal{compare.Times(1, "haproxy"), compare.Times(2.8, "toxiproxy")}},
					{Key: "conn-cpu", Label: "the same, proxy CPU µs per connection", Less: true},
				},
				Measure: s.connections,
			}, {
				Name: "keep-alive",
				Rows: []compare.Row{
					{Key: "http", Label: "HTTP keep-alive, 64 connections, requests/s", Goals: []compare.Goal{compare.Times(1, "haproxy"), compare.Times(1.35, "toxiproxy")}},
					{Key: "http-p99", Label: "the same, p99 µs", Less: true},
					{Key: "http-cpu", Label: "the same, proxy CPU µs per request", Less: true},
				},
				Measure: s.exchanges("http", 64, httpRequest, (*traffic).http, httpLength),
			}, {
				Name:     "idle",
				Subjects: []string{"splice", "toxiproxy", "haproxy", compare.Ours},
				Rows: []compare.Row{
					{Key: "idle", Label: "RSS with 2,000 idle connections, MB", Less: true, Goals: []compare.Goal{compare.AtMost(30)}},
				},
				Measure: s.idle,
			}},
		}, {
			Title:   "Looking at HTTP",
			Columns: []string{"direct", "haproxy http", compare.Ours + " http"},
			Against: []string{"haproxy http"},
			Probes: []compare.Probe{{
				Name: "http-aware",
				Rows: []compare.Row{
					{Key: "aware", Label: "HTTP keep-alive, 64 connections, requests/s; ours with a fault that hits nothing", Goals: []compare.Goal{compare.TimesOf(compare.Ours+" http", 0.8, "haproxy http")}},
					{Key: "aware-p99", Label: "the same, p99 µs", Less: true},
					{Key: "aware-cpu", Label: "the same, proxy CPU µs per request", Less: true},
				},
				Measure: s.exchanges("aware", 64, httpRequest, (*traffic).http, httpLength),
			}},
		}, {
			Title:   "Faults, how exact",
			Columns: []string{"toxiproxy", compare.Ours},
			Against: []string{"toxiproxy"},
			Probes:  s.faults(),
		}},
	}
}

var pingMessage = string(make([]byte, 64))

// faults are the rows about toxics.
func (s *subjects) faults() []compare.Probe {
	without := compare.Row{Key: "pace-0", Label: "bulk, 1 connection, no toxic, MB/s"}
	probes := []compare.Probe{{
		Name: "latency-1",
		Rows: []compare.Row{
			{Key: "lat1-p50", Label: "latency 100 ms, 1 connection: error p50, ms", Plain: true, Goals: []compare.Goal{compare.Within(0.2)}},
			{Key: "lat1-p99", Label: "the same, p99", Plain: true, Goals: []compare.Goal{compare.Within(0.5)}},
		},
		Measure: s.latency("lat1", 100*time.Millisecond, 1),
	}, {
		Name: "latency-500",
		Rows: []compare.Row{
			{Key: "lat500-p50", Label: "latency 100 ms, 500 connections in step: error p50, ms", Plain: true},
			{Key: "lat500-p99", Label: "the same, p99", Plain: true, Goals: []compare.Goal{compare.Within(3)}},
		},
		Measure: s.latency("lat500", 100*time.Millisecond, 500),
	}, {
		Name: "latency-1ms",
		Rows: []compare.Row{
			{Key: "lat1ms-p50", Label: "latency 1 ms, 1 connection: error p50, ms", Plain: true, Goals: []compare.Goal{compare.Within(0.1)}},
			{Key: "lat1ms-p99", Label: "the same, p99", Plain: true},
		},
		Measure: s.latency("lat1ms", time.Millisecond, 1),
	}, {
		Name: "latency-bulk",
		Rows: []compare.Row{
			without,
			{Key: "pace-200", Label: "the same with latency 200 ms, MB/s", Goals: []compare.Goal{compare.OfRow(0.8, without)}},
			{Key: "pace-1000", Label: "the same with latency 1 s, MB/s", Goals: []compare.Goal{compare.OfRow(0.8, without)}},
			{Key: "pace-200-more", Label: "with latency 200 ms and `--hold-most 4GiB`, MB/s"},
			{Key: "pace-1000-more", Label: "with latency 1 s and `--hold-most 4GiB`, MB/s"},
		},
		Measure: s.latencyBulk,
	}}
	for _, kb := range []int64{10, 100, 1000, 10_000, 50_000, 200_000, 500_000} {
		name := fmt.Sprintf("%d KB/s", kb)
		if kb >= 1000 {
			name = fmt.Sprintf("%d MB/s", kb/1000)
		}
		key := fmt.Sprintf("bw%d", kb)
		probes = append(probes, compare.Probe{
			Name: fmt.Sprintf("bandwidth-%d", kb),
			Rows: []compare.Row{
				{Key: key, Label: "bandwidth " + name + ": error of the mean, %", Plain: true, Goals: []compare.Goal{compare.Within(0.5)}},
				{Key: key + "-worst", Label: "the same, worst 100 ms window ÷ rate", Plain: true, Goals: []compare.Goal{compare.AtMost(1.1)}},
			},
			Measure: s.bandwidth(key, kb),
		})
	}
	return probes
}

// measurement is what Probe.Measure is.
type measurement = func(ctx context.Context, subject string, quick bool) (compare.Sample, error)

// seconds is how long to look: what is worth it, or as short as makes sense.
func seconds(full float64, quick bool) time.Duration {
	if quick {
		full = min(full, 0.4)
	}
	return time.Duration(full * float64(time.Second))
}

// through makes the traffic for one measurement, starts the program between its
// ends, and clears both away after do.
func (s *subjects) through(ctx context.Context, subject string, serve func(*traffic, int), do func(t *traffic, r *running) error) error {
	t, err := newTraffic()
	if err != nil {
		return err
	}
	defer t.close()
	upstream, err := t.upstream(func(fd int) { serve(t, fd) })
	if err != nil {
		return err
	}
	r, err := s.start(ctx, subject, upstream)
	if err != nil {
		return err
	}
	return errors.Join(do(t, r), r.stop())
}

// window serves for d, and says what the proxy used of its core meanwhile.
func (t *traffic) window(d time.Duration, r *running) (took, cpu time.Duration, err error) {
	var before, after time.Duration
	if r.process != nil {
		if before, err = r.process.CPU(); err != nil {
			return 0, 0, err
		}
	}
	start := t.Now()
	if err := t.run(d); err != nil {
		return 0, 0, err
	}
	took = t.Now() - start
	if r.process != nil {
		if after, err = r.process.CPU(); err != nil {
			return 0, 0, err
		}
	}
	return took, after - before, nil
}

// perUnit adds the CPU time per unit, where there is a process that uses it.
func (r *running) perUnit(into compare.Sample, key string, cpu time.Duration, unit time.Duration, units float64) {
	if r.process != nil && units > 0 {
		into[key] = float64(cpu) / float64(unit) / units
	}
}

func (s *subjects) bulk(key string, conns int) measurement {
	return func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
		sample := compare.Sample{}
		err := s.through(ctx, subject, (*traffic).source, func(t *traffic, r *running) error {
			var total int64
			if err := t.sinks(conns, r.addr, &total, nil); err != nil {
				return err
			}
			if err := t.run(seconds(0.5, quick)); err != nil {
				return err
			}
			total = 0
			took, cpu, err := t.window(seconds(2.5, quick), r)
			sample[key] = float64(total) / 1e6 / took.Seconds()
			r.perUnit(sample, key+"-cpu", cpu, time.Second, float64(total)/1e9)
			return err
		})
		return sample, err
	}
}

func (s *subjects) exchanges(key string, conns int, request string, serve func(*traffic, int), length func([]byte) int) measurement {
	return func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
		sample := compare.Sample{}
		err := s.through(ctx, subject, serve, func(t *traffic, r *running) error {
			e, err := t.exchange(conns, r.addr, request, length)
			if err != nil {
				return err
			}
			if err := t.run(seconds(0.5, quick)); err != nil {
				return err
			}
			e.reset()
			took, cpu, err := t.window(seconds(2.5, quick), r)
			if err != nil {
				return err
			}
			if len(e.took) == 0 {
				return fmt.Errorf("no answer within %v", took)
			}
			micros := in(e.took, time.Microsecond)
			sample[key] = float64(len(e.took)) / took.Seconds()
			sample[key+"-p50"], sample[key+"-p99"] = compare.Quantile(micros, 0.5), compare.Quantile(micros, 0.99)
			r.perUnit(sample, key+"-cpu", cpu, time.Microsecond, float64(len(e.took)))
			return nil
		})
		return sample, err
	}
}

func (s *subjects) connections(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
	sample := compare.Sample{}
	err := s.through(ctx, subject, (*traffic).once, func(t *traffic, r *running) error {
		count := 0
		t.connections(16, r.addr, &count)
		if err := t.run(seconds(0.3, quick)); err != nil {
			return err
		}
		count = 0
		took, cpu, err := t.window(seconds(2, quick), r)
		sample["conn"] = float64(count) / took.Seconds()
		r.perUnit(sample, "conn-cpu", cpu, time.Microsecond, float64(count))
		return err
	})
	return sample, err
}

func (s *subjects) idle(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
	sample := compare.Sample{}
	err := s.through(ctx, subject, (*traffic).echo, func(t *traffic, r *running) error {
		const n = 2000
		answered := 0
		err := t.callers(n, r.addr, func(fd int) {
			t.watch(fd, unix.EPOLLIN, func(uint32) {
				if b, gone := t.read(fd); gone {
					t.fail(fmt.Errorf("connection ended, %d of %d had been answered", answered, n))
				} else if len(b) > 0 {
					if answered++; answered == n {
						t.Stop()
					}
				}
			})
			t.send(fd, []byte{1})
		})
		if err != nil {
			return err
		}
		if answered < n {
			if err := t.await(10*time.Second, "one answer on each of 2,000 connections"); err != nil {
				return err
			}
		}
		if err := t.run(seconds(1, quick)); err != nil { // idle for a while
			return err
		}
		rss, err := r.process.RSS()
		sample["idle"] = float64(rss) / 1e6
		return err
	})
	return sample, err
}

func (s *subjects) latency(key string, delay time.Duration, conns int) measurement {
	return func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
		t, err := newTraffic()
		if err != nil {
			return nil, err
		}
		defer t.close()
		// Of one connection 250 times; of 500 in step, with time to calm down between.
		steps, period := 250, 10*time.Millisecond
		if conns > 1 {
			steps, period = 10, 250*time.Millisecond
		}
		if quick {
			steps /= 5
		}
		var r *running
		took, err := t.stamps(conns, func(upstream netip.AddrPort) (netip.AddrPort, error) {
			if r, err = s.start(ctx, subject, upstream); err != nil {
				return netip.AddrPort{}, err
			}
			return r.addr, r.add(ctx, "latency", map[string]int64{"latency": delay.Milliseconds()})
		}, steps, period, delay+5*time.Second)
		if r != nil {
			err = errors.Join(err, r.stop())
		}
		if err != nil {
			return nil, err
		}
		for i := range took {
			took[i] -= delay
		}
		errors := in(took, time.Millisecond)
		return compare.Sample{key + "-p50": compare.Quantile(errors, 0.5), key + "-p99": compare.Quantile(errors, 0.99)}, nil
	}
}

// latencyBulk counts what passes once the pipe is full: as much as a whole delay
// holds is then under way.
func (s *subjects) latencyBulk(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
	sample := compare.Sample{}
	more := *s
	more.holdMost = "4GiB"
	for _, one := range []struct {
		key string
		ms  int64
		of  *subjects
	}{{"pace-0", 0, s}, {"pace-200", 200, s}, {"pace-1000", 1000, s}, {"pace-200-more", 200, &more}, {"pace-1000-more", 1000, &more}} {
		if one.of == &more && subject != compare.Ours {
			continue
		}
		err := one.of.through(ctx, subject, (*traffic).source, func(t *traffic, r *running) error {
			if one.ms > 0 {
				if err := r.add(ctx, "latency", map[string]int64{"latency": one.ms}); err != nil {
					return err
				}
			}
			var total int64
			if err := t.sinks(1, r.addr, &total, nil); err != nil {
				return err
			}
			delay := time.Duration(one.ms) * time.Millisecond
			if err := t.run(2*delay + seconds(0.5, quick)); err != nil {
				return err
			}
			total = 0
			// What is held comes in bursts, one per delay, when the bound is reached: whole
			// delays are counted.
			d := seconds(2.5, quick)
			if delay > 0 {
				d = (d + delay - 1).Truncate(delay)
			}
			took, _, err := t.window(d, r)
			sample[one.key] = float64(total) / 1e6 / took.Seconds()
			return err
		})
		if err != nil {
			return sample, err
		}
	}
	return sample, nil
}

func (s *subjects) bandwidth(key string, kb int64) measurement {
	return func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
		sample := compare.Sample{}
		err := s.through(ctx, subject, (*traffic).source, func(t *traffic, r *running) error {
			if err := r.add(ctx, "bandwidth", map[string]int64{"rate": kb}); err != nil {
				return err
			}
			var total int64
			var all []arrival
			if err := t.sinks(1, r.addr, &total, func(a arrival) { all = append(all, a) }); err != nil {
				return err
			}
			d := seconds(4, quick)
			if err := t.run(d); err != nil {
				return err
			}
			if len(all) < 2 {
				return fmt.Errorf("%d reads within %v", len(all), d)
			}
			want := float64(kb) * 1000
			sample[key] = 100 * (rate(all)/want - 1)
			sample[key+"-worst"] = float64(worstWindow(all, 100*time.Millisecond)) / (want / 10)
			return nil
		})
		return sample, err
	}
}

// in is durations as numbers of a unit.
func in(d []time.Duration, unit time.Duration) []float64 {
	v := make([]float64, len(d))
	for i := range d {
		v[i] = float64(d[i]) / float64(unit)
	}
	return v
}
