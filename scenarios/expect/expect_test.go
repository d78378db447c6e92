package expect

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func ExampleParse() {
	c, _ := Parse("p95 < 250ms")
	fmt.Println(c.Name(), c.Quantile, c.Op, c.Limit)
	_, err := Parse("p95 < 250")
	fmt.Println(err)
	// Output:
	// p95 0.95 < 250ms
	// "250" has no unit: write 250ms or 250s
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Clause{
		"ok >= 99%":                 {Metric: OK, Op: ">=", Ratio: 0.99},
		"ok>=99.95%":                {Metric: OK, Op: ">=", Ratio: 0.9995},
		"  ok   >   0.5%  ":         {Metric: OK, Op: ">", Ratio: 0.005},
		"ok >= 100%":                {Metric: OK, Op: ">=", Ratio: 1},
		"ok >= 0%":                  {Metric: OK, Op: ">="},
		"ok >= 7%":                  {Metric: OK, Op: ">=", Ratio: 0.07},
		"p95 < 250ms":               {Metric: Percentile, Quantile: 0.95, Op: "<", Limit: 250 * time.Millisecond},
		"p99.9 <= 1.5s":             {Metric: Percentile, Quantile: 0.999, Op: "<=", Limit: 1500 * time.Millisecond},
		"p50\t<\t1m30s":             {Metric: Percentile, Quantile: 0.5, Op: "<", Limit: 90 * time.Second},
		"p99.999 < 1h":              {Metric: Percentile, Quantile: 0.99999, Op: "<", Limit: time.Hour},
		"upstream <= 2/s":           {Metric: Upstream, Op: "<=", PerS: 2},
		"upstream < 0.5/s":          {Metric: Upstream, Op: "<", PerS: 0.5},
		"ok < 5% for 30s":           {Metric: OK, Op: "<", Ratio: 0.05, For: 30 * time.Second},
		"p95 > 5s   for   1m":       {Metric: Percentile, Quantile: 0.95, Op: ">", Limit: 5 * time.Second, For: time.Minute},
		"ok < 5% for 1h0m0.000001s": {Metric: OK, Op: "<", Ratio: 0.05, For: time.Hour + time.Microsecond},
	} {
		got, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// TestErrors: each mistake with the column of the part that is wrong, and what is
// allowed there.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		text   string
		column int
		say    string
	}{
		{"", 1, "an empty clause"},
		{"   ", 4, "an empty clause"},
		{"fast", 1, `"fast" is not measured: write ok, p50 … p99.999 or upstream`},
		{"OK >= 99%", 1, `"OK" is not measured`},
		{"p0 < 1s", 1, `"p0" is not measured`},
		{"p100 < 1s", 1, `"p100" is not measured`},
		{"p99.9999 < 1s", 1, `"p99.9999" is not measured`},
		{"p < 1s", 1, `"p" is not measured`},
		{"p9.5.1 < 1s", 1, `"p9.5.1" is not measured`},
		{"99% ok", 1, `"99%" is not measured`},
		{"ok", 3, `after "ok" comes <, <=, > or >=`},
		{"ok 99%", 4, `after "ok" comes <, <=, > or >=`},
		{"ok == 99%", 4, `"==" does not compare`},
		{"ok => 99%", 4, `"=>" does not compare`},
		{"ok ≥ 99%", 4, `"≥" does not compare`},
		{"ok >=", 6, `"ok >=" has no limit: write one like 99% or 99.9%`},
		{"p95 <", 6, "write a duration like 250ms"},
		{"upstream <", 11, "write one like 2/s"},
		{"ok >= 99", 7, `"99" has no unit: write 99%`},
		{"ok >= 101%", 7, "101% is more than all"},
		{"ok >= -1%", 7, `"-1%" is not a share`},
		{"ok >= 1e1%", 7, `"1e1%" is not a share`},
		{"ok >= 99 %", 7, `"99" has no unit: write 99%`},
		{"p95 < 250", 7, `"250" has no unit: write 250ms or 250s`},
		{"p95 < 250 ms", 7, `"250" has no unit`},
		{"p95 < fast", 7, `"fast" is not a duration`},
		{"p95 < -1s", 7, "-1s is negative"},
		{"p95 < 0s", 7, "no latency is below 0"},
		{"upstream < 2", 12, `"2" has no unit: write 2/s`},
		{"upstream < 2/m", 12, `"2/m" is not a rate`},
		{"ok >= 99%,", 7, `"99%," is not a share`},
		{"ok >= 99% p95 < 1s", 11, `"p95" does not belong here`},
		{"ok < 5% for", 12, `"for" needs a duration`},
		{"ok < 5% for ever", 13, `"ever" is not a duration`},
		{"ok < 5% for 30", 13, `"30" has no unit`},
		{"ok < 5% for 30s more", 17, `"more" does not belong here`},
		{strings.Repeat("x", 1000), 1, "this one has 1000 characters"},
	} {
		_, err := Parse(test.text)
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%q: error %v, want an *Error", test.text, err)
			continue
		}
		if e.Column != test.column || e.Offset() != test.column-1 {
			t.Errorf("%q: column %d, want %d", test.text, e.Column, test.column)
		}
		if !strings.Contains(e.Message, test.say) {
			t.Errorf("%q: %q, want it to say %q", test.text, e.Message, test.say)
		}
	}
}

// clauses draws any clause that a text can express.
func clauses() *rapid.Generator[Clause] {
	return rapid.Custom(func(t *rapid.T) Clause {
		c := Clause{
			Metric: rapid.SampledFrom([]Metric{OK, Percentile, Upstream}).Draw(t, "metric"),
			Op:     rapid.SampledFrom([]string{"<", "<=", ">", ">="}).Draw(t, "op"),
			For:    time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "for")),
		}
		// Decimal fractions, as people write them.
		decimal := func(name string, low, high int64, digits int) float64 {
			n := rapid.Int64Range(low, high).Draw(t, name)
			x, _ := decimal(shift(fmt.Sprint(n), -digits))
			return x
		}
		switch c.Metric {
		case OK:
			c.Ratio = decimal("ratio", 0, 1_000_000, 6)
		case Percentile:
			c.Quantile = decimal("quantile", 1000, 99_999, 5)
			c.Limit = time.Duration(rapid.Int64Range(1, int64(1000*time.Hour)).Draw(t, "limit"))
		case Upstream:
			c.PerS = decimal("per_s", 0, 1_000_000_000, 3)
		}
		return c
	})
}

// TestRoundTrip: print, then parse, changes nothing; nor does JSON, in which
// clauses travel with the plan.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := clauses().Draw(t, "clause")
		got, err := Parse(c.String())
		if err != nil {
			t.Fatalf("%+v prints as %q, and that does not parse: %v", c, c, err)
		}
		if got != c {
			t.Fatalf("%+v prints as %q, which is %+v", c, c, got)
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Clause
		if err := json.Unmarshal(b, &back); err != nil || back != c {
			t.Fatalf("%+v comes back from %s as %+v (%v)", c, b, back, err)
		}
	})
}

func TestHolds(t *testing.T) {
	for _, test := range []struct {
		clause string
		value  float64
		want   bool
	}{
		{"ok >= 99%", 0.99, true}, {"ok >= 99%", 0.9899, false}, {"ok > 99%", 0.99, false},
		{"p95 < 250ms", 0.25, false}, {"p95 <= 250ms", 0.25, true}, {"p95 < 250ms", 0.2499, true},
		{"upstream <= 2/s", 2, true}, {"upstream < 2/s", 2, false},
	} {
		c, err := Parse(test.clause)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Holds(test.value); got != test.want {
			t.Errorf("%s with %v: %t, want %t", c, test.value, got, test.want)
		}
	}
}

// FuzzParse: no text makes Parse panic; what it accepts, it prints so that it
// reads the same; what it refuses, it places inside the text.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"ok >= 99%", "p99.9 <= 1.5s", "upstream <= 2/s", "ok < 5% for 30s", "p95 < 250", "ok ≥ 9%", "p95 < 1h0m0.1s for 1ns", "\xff ok"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Column < 1 || e.Column > len([]rune(text))+1 || e.Message == "" {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		again, err := Parse(c.String())
		if err != nil || again != c {
			t.Fatalf("%q is %+v, prints as %q, which is %+v (%v)", text, c, c, again, err)
		}
	})
}
