package pattern

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

func TestApply(t *testing.T) {
	hardened, textbook := Default(Hardened), Default(Textbook)
	tuned := hardened // an edge's own default
	tuned.Timeout, tuned.Retry, tuned.Bulkhead.Limit = 2*time.Second, Retry{}, 7

	for name, test := range map[string]struct {
		spec Spec
		base Settings
		want Settings
	}{
		"nothing said":         {Spec{}, tuned, tuned},
		"hardened is the edge": {Spec{Mode: Hardened}, tuned, tuned},
		"off":                  {Spec{Mode: Off}, tuned, Settings{}},
		"textbook":             {Spec{Mode: Textbook}, tuned, textbook},
		"one setting": {Spec{Timeout: ptr(Timeout(time.Second))}, hardened, func() Settings {
			s := hardened
			s.Timeout = time.Second
			return s
		}()},
		"timeout off":  {Spec{Timeout: ptr(Timeout(0))}, Settings{Timeout: time.Second}, Settings{}},
		"fallback off": {Spec{Fallback: ptr(Off)}, Settings{Fallback: Hardened}, Settings{}},
		"hardened part over off takes the edge's": {Spec{Mode: Off, Bulkhead: &BulkheadSpec{Mode: Hardened}}, tuned,
			Settings{Bulkhead: tuned.Bulkhead}},
		"hardened part that the edge lacks": {Spec{Retry: &RetrySpec{Mode: Hardened}}, Settings{}, Settings{Retry: hardened.Retry}},
		"settings over a part that is off start hardened": {Spec{Retry: &RetrySpec{Tries: ptr(5)}}, Settings{},
			func() Settings {
				s := Settings{Retry: hardened.Retry}
				s.Retry.Tries = 5
				return s
			}()},
		"settings over a textbook part keep its defects": {Spec{Mode: Textbook, Breaker: &BreakerSpec{Open: ptr(time.Second)}}, tuned,
			func() Settings {
				s := textbook
				s.Breaker.Open = time.Second
				return s
			}()},
		"breaker off": {Spec{Breaker: &BreakerSpec{Mode: Off}}, hardened, func() Settings {
			s := hardened
			s.Breaker = Breaker{}
			return s
		}()},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.spec.Apply(test.base)); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestD13AndD14AreInTheTextbook(t *testing.T) {
	s := Default(Textbook)
	if s.Timeout != 0 {
		t.Errorf("D13: the textbook breaker example calls without a timeout; got %s", s.Timeout)
	}
	if s.Retry.Mode != Textbook || s.Retry.Budget != 0 || s.Breaker.Mode != Textbook || s.Breaker.Open != 30*time.Second || s.Breaker.Failures != 5 {
		t.Errorf("textbook settings are %+v", s)
	}
}

func TestScaleChangesTimersOnly(t *testing.T) {
	s := Default(Hardened)
	got := s.Scale(0.1)
	want := s
	want.Retry.Base, want.Retry.Cap = 5*time.Millisecond, 100*time.Millisecond
	want.Breaker.Window, want.Breaker.Open = time.Second, 500*time.Millisecond
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("scaled by 0.1 (-want +got):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		spec Spec
		want string // "path: message part", or "" for nothing
	}{
		"empty":            {Spec{}, ""},
		"all fine":         {Spec{Mode: Textbook, Timeout: ptr(Timeout(time.Second)), Retry: &RetrySpec{Tries: ptr(1)}}, ""},
		"no try":           {Spec{Retry: &RetrySpec{Tries: ptr(0)}}, "retry.tries: 0 is out of range: 1 to 100"},
		"jitter":           {Spec{Retry: &RetrySpec{Jitter: ptr(1.5)}}, "retry.jitter: 1.5 is out of range"},
		"not a number":     {Spec{Breaker: &BreakerSpec{FailureRatio: ptr(nan())}}, "breaker.failure_ratio: NaN is out of range"},
		"cap below base":   {Spec{Retry: &RetrySpec{Base: ptr(time.Second), Cap: ptr(time.Millisecond)}}, "retry.cap: the cap (1ms) is below"},
		"off and settings": {Spec{Breaker: &BreakerSpec{Mode: Off, Failures: ptr(3)}}, "breaker: mode is off"},
		"never opens":      {Spec{Breaker: &BreakerSpec{Failures: ptr(0), FailureRatio: ptr(0.)}}, "breaker: with failures 0"},
		"zero open":        {Spec{Breaker: &BreakerSpec{Open: ptr(time.Duration(0))}}, "breaker.open: 0s is too short"},
		"no room":          {Spec{Bulkhead: &BulkheadSpec{Limit: ptr(0)}}, "bulkhead.limit: 0 is out of range"},
		"textbook pool":    {Spec{Bulkhead: &BulkheadSpec{Mode: Textbook}}, "bulkhead: there is no textbook bulkhead"},
		"textbook cover":   {Spec{Fallback: ptr(Textbook)}, "fallback: there is no textbook fallback"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			test.spec.Check(func(path, format string, args ...any) {
				got = append(got, path+": "+fmt.Sprintf(format, args...))
			})
			switch {
			case test.want == "" && len(got) > 0:
				t.Errorf("reported %q, want nothing", got)
			case test.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], test.want)):
				t.Errorf("reported %q, want one that begins with %q", got, test.want)
			}
		})
	}
}

func nan() float64 { zero := 0.; return zero / zero }

func TestText(t *testing.T) {
	var s Spec
	if err := s.ParseShort(" off "); err != nil || s.Mode != Off {
		t.Errorf(`ParseShort("off") = %v, mode %q`, err, s.Mode)
	}
	var b BreakerSpec
	if err := b.ParseShort("on"); err == nil || !strings.Contains(err.Error(), "off, textbook or hardened") {
		t.Errorf(`ParseShort("on") = %v, want an error that lists the modes`, err)
	}
	var timeout Timeout
	for _, bad := range []string{"", "500", "-1s", "0s", "never", "1e99h"} {
		if err := timeout.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("timeout %q was accepted as %v", bad, time.Duration(timeout))
		}
	}
}

// A plan carries specs as JSON: what comes back is what went in.
func TestSpecSurvivesJSON(t *testing.T) {
	mode := rapid.SampledFrom([]Mode{"", Off, Textbook, Hardened})
	duration := rapid.Ptr(rapid.Map(rapid.Int64Range(1, 1e12), func(n int64) time.Duration { return time.Duration(n) }), true)
	number, share := rapid.Ptr(rapid.IntRange(1, 100), true), rapid.Ptr(rapid.Float64Range(0, 1), true)
	rapid.Check(t, func(t *rapid.T) {
		want := Spec{
			Mode:    mode.Draw(t, "mode"),
			Timeout: rapid.Ptr(rapid.Map(rapid.Int64Range(0, 1e12), func(n int64) Timeout { return Timeout(n) }), true).Draw(t, "timeout"),
			Retry: rapid.Ptr(rapid.Custom(func(t *rapid.T) RetrySpec {
				return RetrySpec{mode.Draw(t, "m"), number.Draw(t, "tries"), duration.Draw(t, "base"), duration.Draw(t, "cap"), share.Draw(t, "jitter"), share.Draw(t, "budget")}
			}), true).Draw(t, "retry"),
			Bulkhead: rapid.Ptr(rapid.Custom(func(t *rapid.T) BulkheadSpec {
				return BulkheadSpec{mode.Draw(t, "m"), number.Draw(t, "limit"), duration.Draw(t, "wait")}
			}), true).Draw(t, "bulkhead"),
			Fallback: rapid.Ptr(rapid.SampledFrom([]Mode{Off, Hardened}), true).Draw(t, "fallback"),
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Spec
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", text, diff)
		}
	})
}

func FuzzTimeout(f *testing.F) {
	for _, s := range []string{"500ms", "off", "1h2m", "", "-1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var a, b Timeout
		if a.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.UnmarshalText(text); err != nil || a != b {
			t.Errorf("%q reads as %v, written %q, read again %v (%v)", s, a, text, b, err)
		}
	})
}
