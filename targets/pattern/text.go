package pattern

import (
	"fmt"
	"strings"
	"time"
)

// UnmarshalText accepts off, textbook and hardened.
func (m *Mode) UnmarshalText(text []byte) error {
	switch mode := Mode(text); mode {
	case Off, Textbook, Hardened:
		*m = mode
		return nil
	}
	return fmt.Errorf("%q is not a mode: write off, textbook or hardened", text)
}

// MarshalText is the mode's name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m), nil }

// UnmarshalText accepts durable and memory.
func (s *Sagas) UnmarshalText(text []byte) error {
	switch sagas := Sagas(text); sagas {
	case Durable, Memory:
		*s = sagas
		return nil
	}
	return fmt.Errorf("%q is no place for sagas: write durable or memory", text)
}

// MarshalText is what UnmarshalText reads.
func (s Sagas) MarshalText() ([]byte, error) { return []byte(s), nil }

// UnmarshalText accepts a duration above zero ("500ms"), or "off".
func (t *Timeout) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*t = 0
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d <= 0 {
		return fmt.Errorf(`%q is not a timeout: write a duration above zero like "500ms", or off`, text)
	}
	*t = Timeout(d)
	return nil
}

// MarshalText is what UnmarshalText reads.
func (t Timeout) MarshalText() ([]byte, error) {
	if t == 0 {
		return []byte("off"), nil
	}
	return []byte(time.Duration(t).String()), nil
}

// ParseShort reads `orders -> payments: off`.
func (s *Spec) ParseShort(text string) error { return short(&s.Mode, text, "timeout: 500ms") }

// ParseShort reads `retry: off`.
func (s *RetrySpec) ParseShort(text string) error { return short(&s.Mode, text, "tries: 3") }

// ParseShort reads `breaker: textbook`.
func (s *BreakerSpec) ParseShort(text string) error { return short(&s.Mode, text, "failures: 5") }

// ParseShort reads `bulkhead: hardened`.
func (s *BulkheadSpec) ParseShort(text string) error { return short(&s.Mode, text, "limit: 64") }

func short(m *Mode, text, example string) error {
	if m.UnmarshalText([]byte(strings.TrimSpace(text))) != nil {
		return fmt.Errorf("%q is not a mode: write off, textbook or hardened, or single settings like { %s }", text, example)
	}
	return nil
}

// Check reports every setting that makes no sense, with its path inside the spec.
func (s Spec) Check(report func(path, format string, args ...any)) {
	if s.Timeout != nil && *s.Timeout < 0 {
		report("timeout", "a timeout is above zero, or off; got %s", time.Duration(*s.Timeout))
	}
	if s.Fallback != nil && *s.Fallback == Textbook {
		report("fallback", "there is no textbook fallback: write off or hardened")
	}
	if r := s.Retry; r != nil {
		within(report, "retry.tries", r.Tries, 1, 100)
		atLeast(report, "retry.base", r.Base, time.Microsecond)
		atLeast(report, "retry.cap", r.Cap, time.Microsecond)
		within(report, "retry.jitter", r.Jitter, 0, 1)
		within(report, "retry.budget", r.Budget, 0, 1)
		if r.Base != nil && r.Cap != nil && *r.Cap < *r.Base {
			report("retry.cap", "the cap (%s) is below the base (%s): waits grow from base up to cap", *r.Cap, *r.Base)
		}
		if r.Mode == Off && *r != (RetrySpec{Mode: Off}) {
			report("retry", "mode is off, so its other settings would have no effect: leave out one or the other")
		}
	}
	if b := s.Breaker; b != nil {
		within(report, "breaker.failures", b.Failures, 0, 1_000_000)
		within(report, "breaker.failure_ratio", b.FailureRatio, 0, 1)
		within(report, "breaker.min_calls", b.MinCalls, 1, 1_000_000)
		atLeast(report, "breaker.window", b.Window, time.Millisecond)
		atLeast(report, "breaker.open", b.Open, time.Millisecond)
		within(report, "breaker.jitter", b.Jitter, 0, 1)
		within(report, "breaker.probes", b.Probes, 1, 1000)
		if b.Mode == Off && *b != (BreakerSpec{Mode: Off}) {
			report("breaker", "mode is off, so its other settings would have no effect: leave out one or the other")
		}
		if is(b.Failures, 0) && is(b.FailureRatio, 0) {
			report("breaker", "with failures 0 and failure_ratio 0 it would never open: write off if that is meant")
		}
	}
	if b := s.Bulkhead; b != nil {
		within(report, "bulkhead.limit", b.Limit, 1, 100_000)
		atLeast(report, "bulkhead.wait", b.Wait, 0)
		if b.Mode == Textbook {
			report("bulkhead", "there is no textbook bulkhead: write off, hardened or { limit: 64, wait: 10ms }")
		}
		if b.Mode == Off && *b != (BulkheadSpec{Mode: Off}) {
			report("bulkhead", "mode is off, so its other settings would have no effect: leave out one or the other")
		}
	}
}

// within also refuses NaN, which is neither below nor above anything.
func within[T int | float64](report func(string, string, ...any), path string, v *T, low, high T) {
	if v != nil && !(*v >= low && *v <= high) {
		report(path, "%v is out of range: %v to %v", *v, low, high)
	}
}

func atLeast(report func(string, string, ...any), path string, v *time.Duration, low time.Duration) {
	if v != nil && *v < low {
		report(path, "%s is too short: at least %s", *v, low)
	}
}

func is[T comparable](v *T, x T) bool { return v != nil && *v == x }
