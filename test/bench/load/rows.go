//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/test/bench/compare"
)

// bench is what is measured, and what we want to reach.
func bench(g *generators) compare.Bench {
	open := []compare.Probe{}
	for _, rate := range []int{2000, 10_000, 20_000, 50_000} {
		open = append(open, g.openLoop(rate))
	}
	return compare.Bench{
		Name: "load",
		Sections: []compare.Section{{
			Title:   "Closed loop: as many requests as go",
			Columns: []string{"wrk", "vegeta", "hey", "fortio", "ab", "k6", compare.Ours},
			Against: []string{"wrk", "vegeta", "k6"},
			Probes: []compare.Probe{{
				Name: "closed-64",
				Rows: []compare.Row{
					{Key: "c64-cpu", Label: "64 connections, CPU µs per request", Less: true, Goals: []compare.Goal{
						compare.Times(1.25, "wrk"), compare.Times(6, "vegeta"), compare.Times(10, "k6")}},
					{Key: "c64", Label: "the same, requests/s on one core"},
					{Key: "c64-rss", Label: "the same, RSS MB", Less: true},
				},
				Measure: g.closed("c64", behaviour{}, job{connections: 64}),
			}, {
				Name:     "closed-5000",
				Subjects: []string{"wrk", compare.Ours},
				Rows: []compare.Row{
					{Key: "c5000-cpu", Label: "5,000 connections, CPU µs per request", Less: true, Goals: []compare.Goal{compare.Times(1.8, "wrk")}},
					{Key: "c5000", Label: "the same, requests/s on one core"},
					{Key: "c5000-rss", Label: "the same, RSS MB", Less: true, Goals: []compare.Goal{compare.AtMost(40)}},
				},
				Measure: g.closed("c5000", behaviour{}, job{connections: 5000}),
			}, {
				Name:      "growth",
				MaxRounds: 1,
				Rows: []compare.Row{
					{Key: "grown", Label: "RSS above that after 1 s, MB", Plain: true, Goals: []compare.Goal{compare.AtMost(20)}},
					{Key: "grown-n", Label: "after so many million requests (ours: 10, others: 20 s)", Plain: true, Goals: []compare.Goal{compare.AtLeast(10)}},
				},
				Measure: g.growth,
			}},
		}, {
			Title:   "Closed loop over TLS 1.3: HTTP/1.1",
			Columns: []string{"wrk", "vegeta", "fortio", compare.Ours},
			Against: []string{"wrk", "vegeta"},
			Probes: []compare.Probe{{
				Name: "tls-64",
				Rows: []compare.Row{
					{Key: "tls64-cpu", Label: "64 connections, CPU µs per request", Less: true, Goals: []compare.Goal{
						compare.Times(1.2, "wrk"), compare.Times(4, "vegeta")}},
					{Key: "tls64", Label: "the same, requests/s on one core"},
					{Key: "tls64-rss", Label: "the same, RSS MB", Less: true},
				},
				Measure: g.closed("tls64", behaviour{Secure: true}, job{connections: 64}),
			}},
		}, {
			Title:   "Closed loop, HTTP/2",
			Columns: []string{"h2load", "vegeta", compare.Ours},
			Against: []string{"h2load", "vegeta"},
			Probes: []compare.Probe{{
				Name: "h2-64x1",
				Rows: []compare.Row{
					{Key: "h2c64-cpu", Label: "64 connections, one stream on each: CPU µs per request", Less: true, Goals: []compare.Goal{
						compare.Times(1, "h2load"), compare.Times(2.5, "vegeta")}},
					{Key: "h2c64", Label: "the same, requests/s on one core"},
					{Key: "h2c64-rss", Label: "the same, RSS MB", Less: true},
				},
				Measure: g.closed("h2c64", behaviour{Speaks: speaksHTTP2}, job{connections: 64, streams: 1}),
			}, {
				Name: "h2-8x8",
				Rows: []compare.Row{
					{Key: "h2c8x8-cpu", Label: "8 connections, 8 streams on each: CPU µs per request", Less: true, Goals: []compare.Goal{
						compare.Times(1, "h2load"), compare.Times(2.5, "vegeta")}},
					{Key: "h2c8x8", Label: "the same, requests/s on one core"},
				},
				Measure: g.closed("h2c8x8", behaviour{Speaks: speaksHTTP2}, job{connections: 8, streams: 8}),
			}},
		}, {
			Title:   "Closed loop, unary calls of gRPC",
			Columns: []string{grpcLoop, "k6", compare.Ours},
			Against: []string{grpcLoop, "k6"},
			Probes: []compare.Probe{{
				Name: "grpc-8x8",
				Rows: []compare.Row{
					{Key: "grpc8x8-cpu", Label: "8 connections, 8 calls on each: CPU µs per call", Less: true, Goals: []compare.Goal{compare.Times(1.2, grpcLoop)}},
					{Key: "grpc8x8", Label: "the same, calls/s on one core"},
				},
				Measure: g.closed("grpc8x8", behaviour{Speaks: speaksGRPC}, job{connections: 8, streams: 8, calls: true}),
			}},
		}, {
			Title:   "Sessions: three requests, of which the second and third use a value from the answer to the first",
			Columns: []string{"k6", compare.Ours},
			Against: []string{"k6"},
			Probes: []compare.Probe{{
				Name: "sessions-64",
				Rows: []compare.Row{
					{Key: "session64-cpu", Label: "64 users, CPU µs per request", Less: true, Goals: []compare.Goal{compare.Times(5, "k6")}},
					{Key: "session64", Label: "the same, requests/s on one core"},
					{Key: "session64-rss", Label: "the same, RSS MB", Less: true},
				},
				Measure: g.closed("session64", behaviour{}, job{connections: 64, session: true}),
			}},
		}, {
			Title:   "Open loop: what is due is sent, and when",
			Columns: []string{"vegeta", "k6", "fortio", "wrk2", compare.Ours},
			Probes:  open,
		}, {
			Title:   "What they say they saw, and what was",
			Columns: []string{"wrk", "vegeta", "hey", "fortio", "k6", "wrk2", compare.Ours},
			Probes: []compare.Probe{{
				Name:      "omission",
				MaxRounds: 3,
				Subjects:  []string{"vegeta", "hey", "fortio", "k6", "wrk2", compare.Ours},
				Rows: []compare.Row{
					{Key: "co", Label: "500/s on 17 connections, 1 ms server that freezes a tenth of the time: p99, ms", Plain: true},
					{Key: "co-error", Label: "the same, off the truth by %", Plain: true, Goals: []compare.Goal{compare.Within(2)}},
				},
				Measure: g.omission,
			}, {
				Name:     "exact",
				Subjects: []string{"wrk", "vegeta", "hey", "fortio", "k6", "wrk2", compare.Ours},
				Rows: []compare.Row{
					{Key: "exact-p50", Label: "2,000/s, server of exactly 5 ms (wrk, hey: 10 connections): p50 off by ms", Plain: true, Goals: []compare.Goal{compare.Within(0.2)}},
					{Key: "exact-p99", Label: "the same, p99 off by ms", Plain: true, Goals: []compare.Goal{compare.Within(0.4)}},
				},
				Measure: g.exact,
			}},
		}},
	}
}

// measurement is what Probe.Measure is.
type measurement = func(ctx context.Context, subject string, quick bool) (compare.Sample, error)

// against starts a server and a generator on it, and clears both away after do.
func (g *generators) against(name string, b behaviour, j job, do func(s *server, r *running) error) error {
	s, err := startServer(g.serverCore, b)
	if err != nil {
		return err
	}
	j.url = s.url()
	r, err := g.start(name, j)
	if err != nil {
		return errors.Join(err, s.stop())
	}
	return errors.Join(do(s, r), r.stop(), s.stop())
}

// pause waits for d, or for the end of ctx or of the generator, which are errors.
func (r *running) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.processes[0].Done():
		return fmt.Errorf("too early: %w", r.ended())
	}
}

// begun waits until requests arrive.
func (r *running) begun(ctx context.Context, s *server) error {
	for began := time.Now(); ; {
		n, err := s.count()
		if err != nil || n > 0 {
			return err
		}
		if time.Since(began) > 30*time.Second {
			return errors.New("no request within 30 s")
		}
		if err := r.pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// closed looks at a window in the middle of the run: neither start-up, which is
// long for k6, nor the report at the end is in it.
func (g *generators) closed(key string, b behaviour, j job) measurement {
	return func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
		warm, window := time.Second, 4*time.Second
		if quick {
			warm, window = 300*time.Millisecond, 400*time.Millisecond
		}
		sample := compare.Sample{}
		j.duration = (warm + window + 2*time.Second).Truncate(time.Second)
		err := g.against(subject, b, j, func(s *server, r *running) error {
			if err := r.begun(ctx, s); err != nil {
				return err
			}
			if err := r.pause(ctx, warm); err != nil {
				return err
			}
			began := time.Now()
			n0, err0 := s.count()
			cpu0, err1 := r.cpu()
			if err := errors.Join(err0, err1); err != nil {
				return err
			}
			if err := r.pause(ctx, window); err != nil {
				return err
			}
			took := time.Since(began)
			n1, err0 := s.count()
			cpu1, err1 := r.cpu()
			rss, err2 := r.rss()
			if err := errors.Join(err0, err1, err2); err != nil {
				return err
			}
			if n1 == n0 {
				return fmt.Errorf("no request within %v", took)
			}
			n := float64(n1 - n0)
			sample[key] = n / took.Seconds()
			sample[key+"-cpu"] = float64(cpu1-cpu0) / float64(time.Microsecond) / n
			sample[key+"-rss"] = float64(rss) / 1e6
			return nil
		})
		return sample, err
	}
}

// growth lets it run on and watches its memory.
func (g *generators) growth(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
	want, most := 10_000_000, 4*time.Minute
	if subject != compare.Ours {
		want, most = 1<<40, 20*time.Second
	}
	if quick {
		want, most = 20_000, 1500*time.Millisecond
	}
	sample := compare.Sample{}
	err := g.against(subject, behaviour{}, job{connections: 64, duration: most + 10*time.Second}, func(s *server, r *running) error {
		if err := r.begun(ctx, s); err != nil {
			return err
		}
		began := time.Now()
		if err := r.pause(ctx, time.Second); err != nil {
			return err
		}
		start, err := r.rss()
		if err != nil {
			return err
		}
		n := 0
		for n < want && time.Since(began) < most {
			if err := r.pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			if n, err = s.count(); err != nil {
				return err
			}
		}
		end, err := r.rss()
		sample["grown"], sample["grown-n"] = float64(end-start)/1e6, float64(n)/1e6
		return err
	})
	return sample, err
}

// openLoop compares when requests arrived with when they were due.
func (g *generators) openLoop(rate int) compare.Probe {
	key := fmt.Sprintf("open%d", rate)
	return compare.Probe{
		Name: fmt.Sprintf("open-%d", rate),
		Rows: []compare.Row{
			{Key: key, Label: fmt.Sprintf("%d,000/s: share sent, %%", rate/1000), Plain: true, Goals: []compare.Goal{compare.AtLeast(100)}},
			{Key: key + "-p50", Label: "the same, error of the send time p50, µs", Less: true, Plain: true, Goals: []compare.Goal{compare.AtMost(100)}},
			{Key: key + "-p99", Label: "the same, p99, µs", Less: true, Plain: true, Goals: []compare.Goal{compare.AtMost(500)}},
		},
		Measure: func(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
			j := job{rate: rate, duration: 5 * time.Second}
			if quick {
				j.duration = time.Second
			}
			if subject == "wrk2" {
				j.connections = 64
			}
			sample := compare.Sample{}
			err := g.against(subject, behaviour{}, j, func(s *server, r *running) error {
				if _, err := r.wait(ctx); err != nil {
					return err
				}
				arrived, err := s.arrived()
				if err != nil {
					return err
				}
				share, late := schedule(arrived, rate, j.duration)
				sample[key] = 100 * share
				if share >= 0.99 { // otherwise there is no telling which one is missing
					sample[key+"-p50"], sample[key+"-p99"] = compare.Quantile(late, 0.5), compare.Quantile(late, 0.99)
				}
				return nil
			})
			return sample, err
		},
	}
}

// schedule holds arrivals against the ideal: request k is due at k/rate. It
// returns which share arrived within the duration, and how late each was, in µs,
// against the earliest: where the ideal begins is not known from outside.
func schedule(arrived []time.Duration, rate int, d time.Duration) (share float64, late []float64) {
	due := int(d.Seconds() * float64(rate))
	slices.Sort(arrived)
	if len(arrived) > due {
		arrived = arrived[:due]
	}
	// What comes after the end was not sent in time; a little later is on its way.
	inTime, _ := slices.BinarySearch(arrived, d+d/100)
	late = make([]float64, len(arrived))
	for k, at := range arrived {
		late[k] = float64(at)/1e3 - float64(k)*1e6/float64(rate)
	}
	if len(late) > 0 {
		least := slices.Min(late)
		for k := range late {
			late[k] -= least
		}
	}
	return float64(inTime) / float64(due), late
}

// omission is the test for coordinated omission: the truth is known from the
// schedule and from when the server answers.
func (g *generators) omission(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
	const rate = 500
	b := behaviour{Delay: time.Millisecond, Period: 10 * time.Second, Freeze: time.Second}
	j := job{rate: rate, connections: 17, duration: 20 * time.Second, report: true}
	if quick {
		b.Period, b.Freeze, j.duration = 2*time.Second, 200*time.Millisecond, 4*time.Second
	}
	truth := b.p99(rate, j.duration)
	sample := compare.Sample{}
	err := g.against(subject, b, j, func(s *server, r *running) error {
		saw, err := r.wait(ctx)
		sample["co"] = float64(saw.p99) / 1e6
		sample["co-error"] = 100 * (float64(saw.p99)/float64(truth) - 1)
		return err
	})
	return sample, err
}

// p99 is what callers really wait for, at that rate.
func (b behaviour) p99(rate int, d time.Duration) time.Duration {
	var took []float64
	for k := range int(d.Seconds() * float64(rate)) {
		due := time.Duration(k) * time.Second / time.Duration(rate)
		took = append(took, float64(b.answerAt(due)-due))
	}
	return time.Duration(compare.Quantile(took, 0.99))
}

func (g *generators) exact(ctx context.Context, subject string, quick bool) (compare.Sample, error) {
	const delay = 5 * time.Millisecond
	j := job{rate: 2000, connections: 64, duration: 5 * time.Second, report: true}
	if subject == "wrk" || subject == "hey" {
		j.rate, j.connections = 0, 10
	}
	if quick {
		j.duration = time.Second
	}
	sample := compare.Sample{}
	err := g.against(subject, behaviour{Delay: delay}, j, func(s *server, r *running) error {
		saw, err := r.wait(ctx)
		sample["exact-p50"] = float64(saw.p50-delay) / 1e6
		sample["exact-p99"] = float64(saw.p99-delay) / 1e6
		return err
	})
	return sample, err
}
