package verdict

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
)

// worked executes one example of docs/statistics.md: what stands left of the
// arrow goes in, by name, and what comes out is compared with what stands right of it.
var worked = map[string]func(in arguments) map[string]float64{
	"bounds": func(in arguments) map[string]float64 {
		low, high := bounds(in.number("good"), in.number("n"), in.number("confidence"))
		return map[string]float64{"low": low, "high": high}
	},
	"decidable": func(in arguments) map[string]float64 {
		pass, fail, smallest := Decidable(in.number("target"), int(in.number("n")), in.number("confidence"))
		return map[string]float64{"pass_up_to": float64(pass), "fail_from": float64(fail), "smallest": float64(smallest)}
	},
	"sharedifference": func(in arguments) map[string]float64 {
		of := func(side string) share {
			good, n := in.number("good_"+side), in.number("n_"+side)
			low, high := bounds(good, n, in.number("confidence"))
			return share{estimate: good / n, low: low, high: high}
		}
		a, b := of("a"), of("b")
		low, high := shareDifference(a, b)
		return map[string]float64{"difference": b.estimate - a.estimate, "low": low, "high": high}
	},
	"latency": func(in arguments) map[string]float64 {
		a, b := in.numbers("a"), in.numbers("b")
		return map[string]float64{"shift": hodgesLehmann(a, ones(a), b, ones(b), 0), "superiority": superiority(a, ones(a), b, ones(b))}
	},
	"runs": func(in arguments) map[string]float64 {
		shift, low, high := shiftOfRuns(in.numbers("a"), in.numbers("b"), in.number("confidence"))
		return map[string]float64{"shift": shift, "low": low, "high": high, "bounded": asNumber(!math.IsInf(low, 0))}
	},
	"pairs": func(in arguments) map[string]float64 {
		shift, low, high := signedRanks(in.numbers("differences"), in.number("confidence"))
		return map[string]float64{"shift": shift, "low": low, "high": high, "bounded": asNumber(!math.IsInf(low, 0))}
	},
	"anytime": func(in arguments) map[string]float64 {
		low, high := anytime(in.number("good"), in.number("n"), in.number("confidence"))
		return map[string]float64{"low": low, "high": high}
	},
	"budget": func(in arguments) map[string]float64 {
		allowed, window := decimal.NewFromInt(1).Sub(in.decimal("objective")), in.decimal("days").Mul(decimal.NewFromInt(86_400))
		return map[string]float64{
			"minutes":  plain(allowed.Mul(window).Div(decimal.NewFromInt(60))),
			"requests": plain(allowed.Mul(window).Mul(in.decimal("rate"))),
			"spent":    plain(spent(in.decimal("bad"), in.decimal("scale"), allowed, in.decimal("rate"), window)),
		}
	},
	"burn": func(in arguments) map[string]float64 {
		return map[string]float64{"rate": plain(burnRate(in.decimal("bad"), in.decimal("n"), decimal.NewFromInt(1).Sub(in.decimal("objective"))))}
	},
	"alert": func(in arguments) map[string]float64 {
		// Ten requests per 100 ms for a minute; from 10 s to 30 s so many of them fail.
		x := burning{to: 600, n: make([]int64, 601), bad: make([]int64, 601), steadyN: decimal.NewFromInt(10), allowed: decimal.NewFromInt(1).Sub(in.decimal("objective"))}
		for k := 1; k <= 600; k++ {
			x.n[k], x.bad[k] = x.n[k-1]+10, x.bad[k-1]
			if k > 100 && k <= 300 {
				x.bad[k] += int64(in.number("bad_of_ten"))
			}
		}
		a := Alert{Long: time.Duration(in.number("long_s")) * time.Second, Short: time.Duration(in.number("short_s")) * time.Second, Burn: in.decimal("burn")}
		out := x.alert(SLO{Scale: in.number("scale")}, a, 10*time.Second, true, x.rate(100, 300))
		got := map[string]float64{}
		for name, v := range map[string]*float64{"fired_after_s": out.FiredAfterS, "fired_after_slo_s": out.FiredAfterSLOS, "reset_at_s": out.ResetAtS, "needs_s": out.NeedsS} {
			if v != nil {
				got[name] = *v
			}
		}
		return got
	},
	"share": func(in arguments) map[string]float64 {
		s := estimateShare(in.windows(), in.number("confidence"))
		return map[string]float64{"samples": float64(s.n), "effective": s.effective, "block": s.block, "low": s.low, "high": s.high, "short": asNumber(s.short)}
	},
}

// TestWorkedExamples: what docs/statistics.md works out is what the code answers,
// to the digits that it prints.
func TestWorkedExamples(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "statistics.md"))
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{}
	inside := false
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "```") {
			inside = line == "```example"
			continue
		}
		if !inside || strings.TrimSpace(line) == "" {
			continue
		}
		left, right, ok := strings.Cut(line, " -> ")
		name, rest, _ := strings.Cut(left, " ")
		do := worked[name]
		if !ok || do == nil {
			t.Errorf("docs/statistics.md:%d: %q is no example that this test knows", i+1, line)
			continue
		}
		got := do(arguments{t, parseArguments(rest)})
		done[name] = true
		for key, want := range parseArguments(right) {
			value, known := got[key]
			number, err := strconv.ParseFloat(want, 64)
			if !known || err != nil {
				t.Errorf("docs/statistics.md:%d: %s has no number %s=%s", i+1, name, key, want)
				continue
			}
			_, digits, _ := strings.Cut(want, ".")
			if math.Abs(value-number) > 0.5001*math.Pow(10, -float64(len(digits))) {
				t.Errorf("docs/statistics.md:%d: %s: %s is %g, the document says %s", i+1, name, key, value, want)
			}
		}
	}
	for name := range worked {
		if !done[name] {
			t.Errorf("docs/statistics.md has no worked example of %q", name)
		}
	}
}

// arguments are key=value pairs.
type arguments struct {
	t  *testing.T
	of map[string]string
}

func parseArguments(text string) map[string]string {
	all := map[string]string{}
	for _, f := range strings.Fields(text) {
		key, value, _ := strings.Cut(f, "=")
		all[key] = value
	}
	return all
}

func (a arguments) number(key string) float64 {
	a.t.Helper()
	x, err := strconv.ParseFloat(a.of[key], 64)
	if err != nil {
		a.t.Errorf("argument %s=%q is no number", key, a.of[key])
	}
	return x
}

func (a arguments) decimal(key string) decimal.Decimal {
	a.t.Helper()
	d, err := decimal.NewFromString(a.of[key])
	if err != nil {
		a.t.Errorf("argument %s=%q is no number", key, a.of[key])
	}
	return d
}

// numbers are separated by commas.
func (a arguments) numbers(key string) []float64 {
	a.t.Helper()
	var all []float64
	for _, s := range strings.Split(a.of[key], ",") {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			a.t.Errorf("argument %s=%q: %q is no number", key, a.of[key], s)
		}
		all = append(all, x)
	}
	return all
}

// windows are good/n, separated by commas, so many times.
func (a arguments) windows() []window {
	a.t.Helper()
	var all []window
	for range int(a.number("times")) {
		for _, s := range strings.Split(a.of["windows"], ",") {
			good, n, _ := strings.Cut(s, "/")
			g, err1 := strconv.Atoi(good)
			m, err2 := strconv.Atoi(n)
			if err1 != nil || err2 != nil {
				a.t.Errorf("%q is no window", s)
			}
			all = append(all, window{good: g, n: m})
		}
	}
	return all
}

func asNumber(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
