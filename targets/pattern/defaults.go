package pattern

import "time"

// Default is the whole set that a mode stands for. An unknown mode is off.
//
// Hardened: a try that takes longer than 500 ms is of no use to a waiting
// customer. Two retries, 50 ms and 100 ms apart on average, ride out a lost
// connection; the budget keeps them below a fifth of the calls, so that retries
// cannot multiply an outage. Five failures in a row open the breaker within a
// fraction of a second at tens of calls per second; the ratio rule catches the
// half-dead callee that still answers now and then. A fifth of jitter on the
// open time keeps instances from probing together. By Little's law 64 calls in
// flight carry 128/s even when each takes the whole 500 ms.
//
// Textbook keeps the defects of the tutorials (docs/rows.md, end):
//
//	D13  no timeout; a declined card (402) counts against the breaker
//	D14  everything is retried; the jitter is applied after the cap
func Default(mode Mode) Settings {
	switch mode {
	case Hardened:
		return Settings{
			Timeout:  500 * time.Millisecond,
			Retry:    Retry{Mode: Hardened, Tries: 3, Base: 50 * time.Millisecond, Cap: time.Second, Jitter: 0.5, Budget: 0.2},
			Breaker:  Breaker{Mode: Hardened, Failures: 5, FailureRatio: 0.5, MinCalls: 20, Window: 10 * time.Second, Open: 5 * time.Second, Jitter: 0.2, Probes: 1},
			Bulkhead: Bulkhead{Mode: Hardened, Limit: 64, Wait: 10 * time.Millisecond},
			Fallback: Hardened,
		}
	case Textbook:
		return Settings{
			Retry:   Retry{Mode: Textbook, Tries: 3, Base: time.Second, Cap: 60 * time.Second, Jitter: 0.5},
			Breaker: Breaker{Mode: Textbook, Failures: 5, Open: 30 * time.Second, Probes: 1},
		}
	}
	return Settings{}
}

// Apply lays what a scenario says over base, the edge's own default. "hardened"
// means base's setting where base has one, because an edge's default is tuned
// to that edge; where base is off it means Default(Hardened)'s.
func (s Spec) Apply(base Settings) Settings {
	hardened := base
	fallen := Default(Hardened)
	if hardened.Timeout == 0 {
		hardened.Timeout = fallen.Timeout
	}
	if hardened.Retry.Mode != Hardened {
		hardened.Retry = fallen.Retry
	}
	if hardened.Breaker.Mode != Hardened {
		hardened.Breaker = fallen.Breaker
	}
	if hardened.Bulkhead.Mode != Hardened {
		hardened.Bulkhead = fallen.Bulkhead
	}
	hardened.Fallback = Hardened

	out := base
	if s.Mode == Off || s.Mode == Textbook {
		out = Default(s.Mode)
	}
	if s.Timeout != nil {
		out.Timeout = time.Duration(*s.Timeout)
	}
	if s.Fallback != nil {
		out.Fallback = *s.Fallback
		if out.Fallback == Off {
			out.Fallback = ""
		}
	}
	if r := s.Retry; r != nil {
		out.Retry = choose(r.Mode, out.Retry, hardened.Retry, Default(Textbook).Retry, Retry{}, *r == RetrySpec{Mode: r.Mode})
		set(&out.Retry.Tries, r.Tries)
		set(&out.Retry.Base, r.Base)
		set(&out.Retry.Cap, r.Cap)
		set(&out.Retry.Jitter, r.Jitter)
		set(&out.Retry.Budget, r.Budget)
	}
	if b := s.Breaker; b != nil {
		out.Breaker = choose(b.Mode, out.Breaker, hardened.Breaker, Default(Textbook).Breaker, Breaker{}, *b == BreakerSpec{Mode: b.Mode})
		set(&out.Breaker.Failures, b.Failures)
		set(&out.Breaker.FailureRatio, b.FailureRatio)
		set(&out.Breaker.MinCalls, b.MinCalls)
		set(&out.Breaker.Window, b.Window)
		set(&out.Breaker.Open, b.Open)
		set(&out.Breaker.Jitter, b.Jitter)
		set(&out.Breaker.Probes, b.Probes)
	}
	if b := s.Bulkhead; b != nil {
		out.Bulkhead = choose(b.Mode, out.Bulkhead, hardened.Bulkhead, Bulkhead{}, Bulkhead{}, *b == BulkheadSpec{Mode: b.Mode})
		set(&out.Bulkhead.Limit, b.Limit)
		set(&out.Bulkhead.Wait, b.Wait)
	}
	return out
}

// choose is where one part's single settings start from: its mode, or what is
// already there, or (single settings over a part that is off) hardened.
func choose[T comparable](mode Mode, current, hardened, textbook, off T, modeOnly bool) T {
	switch mode {
	case Hardened:
		return hardened
	case Textbook:
		return textbook
	case Off:
		return off
	}
	if current == off && !modeOnly {
		return hardened
	}
	return current
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Scale multiplies the timers, the things that wait on purpose: back-off, the
// breaker's window and open time. Timeout and Bulkhead.Wait are limits on
// latency, which a timescale never touches: the delays they must tell from
// normal are not scaled either.
func (s Settings) Scale(f float64) Settings {
	for _, d := range []*time.Duration{&s.Retry.Base, &s.Retry.Cap, &s.Breaker.Window, &s.Breaker.Open} {
		*d = time.Duration(float64(*d) * f)
	}
	return s
}
