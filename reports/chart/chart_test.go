package chart

import (
	"flag"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the files under testdata anew")

func TestSeconds(t *testing.T) {
	for s, want := range map[float64]string{
		0: "0 s", 1e-12: "0 s", 999e-9: "999 ns", 1e-6: "1.00 µs", 850e-6: "850 µs", 999.6e-6: "1.00 ms", 0.0142: "14.2 ms", 0.00999: "9.99 ms", 0.009996: "10.0 ms",
		0.9994: "999 ms", 0.9996: "1.00 s", 1.2: "1.20 s", 12.34: "12.3 s", 123.4: "123 s", 999.4: "999 s", 999.6: "16.7 min", 3600: "60.0 min", 59970: "16.7 h", 86400: "24.0 h", -0.0142: "-14.2 ms",
		math.Inf(1): Missing, math.Inf(-1): Missing,
	} {
		if got := Seconds(s); got != want {
			t.Errorf("%v: %q, want %q", s, got, want)
		}
	}
	if got := Seconds(math.NaN()); got != Missing {
		t.Errorf("NaN: %q", got)
	}
	if got := Duration(14200 * time.Microsecond); got != "14.2 ms" {
		t.Errorf("14.2 ms: %q", got)
	}
	for s, want := range map[float64]string{0.05: "50 ms", 1: "1 s", 0.0015: "1.5 ms", 0.2: "200 ms", 0: "0 s", math.Inf(1): Missing} {
		if got := TickSeconds(s); got != want {
			t.Errorf("tick %v: %q, want %q", s, got, want)
		}
	}
}

// Read back, a duration is within half a digit of what was written.
func TestSecondsHasThreeDigits(t *testing.T) {
	units := map[string]float64{"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}
	rapid.Check(t, func(t *rapid.T) {
		s := math.Exp(rapid.Float64Range(math.Log(1e-8), math.Log(1e6)).Draw(t, "log"))
		number, unit, _ := strings.Cut(Seconds(s), " ")
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatal(err)
		}
		if back := v * units[unit]; math.Abs(back-s)/s > 0.0051 {
			t.Fatalf("%v is written %s %s", s, number, unit)
		}
		if digits := strings.Trim(strings.ReplaceAll(number, ".", ""), "0"); len(digits) > 3 {
			t.Fatalf("%v is written with more than three digits: %s", s, number)
		}
	})
}

func TestShare(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0%", 1: "100%", 0.5: "50%", 0.95: "95%", 0.982: "98.2%", 0.9996: "99.96%", 0.99999: "99.999%", 0.0004: "0.04%", 0.07: "7%", 0.999: "99.9%", 1e-12: "<0.000001%", 1 - 1e-12: ">99.999999%", 1.25: "125%",
	} {
		if got := Share(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	for _, c := range []struct {
		v, target float64
		want      string
	}{{0.96996, 0.97, "96.996%"}, {0.97004, 0.97, "97.004%"}, {0.97, 0.97, "97%"}, {0.9812, 0.97, "98.1%"}, {math.NaN(), 0.9, Missing}} {
		if got := ShareAgainst(c.v, c.target); got != c.want {
			t.Errorf("%v against %v: %q, want %q", c.v, c.target, got, c.want)
		}
	}
}

// A reader who compares what is written decides as the numbers do.
func TestShareIsOnTheRightSide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		target := float64(rapid.IntRange(500, 1000).Draw(t, "target ‰")) / 1000
		off := rapid.Float64Range(-0.05, 0.05).Draw(t, "off")
		ratio := min(max(target+off, 0), 1)
		if math.Abs(ratio-target) < 2e-8 {
			return // beyond the digits
		}
		shown, err := strconv.ParseFloat(strings.TrimSuffix(ShareAgainst(ratio, target), "%"), 64)
		if err != nil {
			t.Fatal(err)
		}
		if (shown/100 < target-1e-9) != (ratio < target) {
			t.Fatalf("%v against %v is shown as %v%%", ratio, target, shown)
		}
	})
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(9999), "9999"}, {Count(10000), "10,000"}, {Count(-1234567), "-1,234,567"}, {Count(math.MinInt64), "-9,223,372,036,854,775,808"},
		{Number(12), "12"}, {Number(0.4), "0.400"}, {Number(1234.5), "1235"}, {Number(0.31), "0.310"}, {Number(math.NaN()), Missing}, {Number(1e300), "1.00e+300"}, {Number(-12.345), "-12.3"},
		{TickNumber(0.5), "0.5"}, {TickNumber(20), "20"}, {TickNumber(1e300), "1.00e+300"},
		{Rate(200), "200/s"}, {Rate(0.4), "0.400/s"}, {Rate(math.Inf(1)), Missing},
		{Bytes(64000), "64 kB"}, {Bytes(999.4), "999 B"}, {Bytes(1234567), "1.23 MB"}, {Bytes(math.NaN()), Missing},
		{Clock(0), "0 s"}, {Clock(-0.0001), "0 s"}, {Clock(2.5), "2.5 s"}, {Clock(179), "179 s"}, {Clock(200), "3:20"}, {Clock(3725), "1:02:05"}, {Clock(math.NaN()), Missing},
		{Significant(0.04567, 3), "0.0457"}, {Significant(9.996, 3), "10.0"}, {Significant(0, 3), "0.00"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct{ got, want []float64 }{
		{Ticks(0, 51.2, 10), []float64{0, 10, 20, 30, 40, 50}},
		{Ticks(0, 1, 4), []float64{0, 0.5, 1}},
		{Ticks(0, 0, 4), []float64{0}},
		{TimeTicks(0, 600, 7), []float64{0, 120, 240, 360, 480, 600}},
		{TimeTicks(0, 60, 7), []float64{0, 10, 20, 30, 40, 50, 60}},
		{LogTicks(0.01, 1, 8), []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1}},
		{LogTicks(0.001, 100, 6), []float64{0.001, 0.01, 0.1, 1, 10, 100}},
		{LogTicks(0, 1, 6), nil}, {LogTicks(1, math.Inf(1), 6), nil}, {Ticks(0, math.Inf(1), 4), nil}, {Ticks(math.NaN(), 1, 4), nil},
	} {
		if !slices.EqualFunc(c.got, c.want, func(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Abs(b) }) {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
}

func TestTicksAreRoundFewAndWithin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Float64Range(-1e6, 1e6).Draw(t, "lo")
		hi := lo + math.Exp(rapid.Float64Range(-10, 20).Draw(t, "log extent"))
		n := rapid.IntRange(1, 20).Draw(t, "n")
		ticks := Ticks(lo, hi, n)
		if len(ticks) > n+1 {
			t.Fatalf("%d ticks, asked for about %d", len(ticks), n)
		}
		for _, v := range ticks {
			if air := (hi - lo) * 1e-6; v < lo-air || v > hi+air {
				t.Fatalf("%v is outside [%v, %v]", v, lo, hi)
			}
		}
		if a, b := Nice(lo, hi, n); a > lo+(hi-lo)*1e-6 || b < hi-(hi-lo)*1e-6 {
			t.Fatalf("[%v, %v] does not hold [%v, %v]", a, b, lo, hi)
		}
		l := math.Exp(rapid.Float64Range(-15, 5).Draw(t, "log low"))
		h := l * math.Exp(rapid.Float64Range(0, 15).Draw(t, "log ratio"))
		if a, b := NiceLog(l, h); a > l*(1+1e-6) || b < h*(1-1e-6) || b/a < 9.9 || b/a > h/l*1000 {
			t.Fatalf("[%v, %v] is no good axis for [%v, %v]", a, b, l, h)
		}
	})
	for _, c := range [][2]float64{{math.NaN(), 1}, {1, math.Inf(1)}, {2, 1}, {0, 0}} {
		if a, b := Nice(c[0], c[1], 4); a != 0 || b != 1 {
			t.Errorf("an axis for %v: %v to %v, want 0 to 1", c, a, b)
		}
	}
	if a, b := NiceLog(0, 1); a != 0.001 || b != 1 {
		t.Errorf("a log axis from 0: %v to %v", a, b)
	}
}

func TestScale(t *testing.T) {
	up := Scale{Min: 0, Max: 10, From: 100, To: 0}
	log := Scale{Min: 0.01, Max: 1, From: 0, To: 100, Log: true}
	for _, c := range []struct {
		s       Scale
		v, want float64
	}{{up, 0, 100}, {up, 5, 50}, {up, 99, 0}, {up, -1, 100}, {up, math.NaN(), 100}, {log, 0.1, 50}, {log, 0, 0}, {log, 5, 100}, {Scale{From: 7}, 3, 7}} {
		if got := c.s.Pos(c.v); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%+v at %v: %v, want %v", c.s, c.v, got, c.want)
		}
	}
}

func TestSparkline(t *testing.T) {
	if got := Sparkline([]float64{0, 1, 2, math.NaN(), 7, math.Inf(1), 9, -1}, 0, 7); got != "▁▂▃ █✗█▁" {
		t.Errorf("%q", got)
	}
	if got := Sparkline([]float64{3, 3}, 3, 3); got != "▁▁" {
		t.Errorf("without extent: %q", got)
	}
	if Sparkline(nil, 0, 1) != "" {
		t.Error("nothing is drawn as something")
	}
}

const nasty = "</svg><script>alert(1)</script>\" onload=\"x\" '&\x00\u202e\xff"

// pictures show every element at least once; their files are testdata.
func pictures() map[string]template.HTML {
	phases := []Span{{0, 3, "warmup"}, {3, 15, "before"}, {15, 35, "during"}, {35, 50, "after"}}
	bands := []Span{{15, 35, "slow-payments (latency)"}, {25, 27.2, "lose-stock (kill)"}, {49.9, 49.9, "a very short one at the end (restart)"}}
	clock := Axis{Min: 0, Max: 51.2, Format: Clock}
	var p50, p99, ok, failed Series
	for i := range 26 {
		x, y := float64(i*2), 0.012+0.004*float64(i%3)
		switch {
		case i == 5:
			y = math.NaN()
		case i == 13:
			y = math.Inf(1)
		}
		p50.Points = append(p50.Points, Point{X: x, Y: y})
		p99.Points = append(p99.Points, Point{X: x, Y: y * 40})
		ok.Points = append(ok.Points, Point{X: x, Y: 150})
		failed.Points = append(failed.Points, Point{X: x, Y0: 150, Y: 150 + float64(i)})
	}
	p50.Points[4].Y, p50.Points[6].Y = math.NaN(), math.NaN()
	p50.Name, p50.Color, p99.Name, p99.Color, p99.Dash = "p50", Blue, "p99", Purple, "2 2"
	ok.Name, ok.Color, ok.Style, ok.Width = "ok", Good, Area, 2
	failed.Name, failed.Color, failed.Style, failed.Width = "failed", Bad, Area, 2
	step := Series{Name: "offered", Style: Step, Color: Grey, Width: 2, Points: ok.Points}
	latency := Plot{ID: "lat", Title: "Latency", Desc: "Two lines.", Width: 760, Height: 200, X: clock, Y: Axis{Label: "latency (log scale)", Log: true, Format: TickSeconds},
		Phases: phases, Bands: bands, Series: []Series{p50, p99},
		Limits:   []Limit{{3, 15, 0.15, "p95 < 150ms"}, {18, 35, 0.7, "p95 < 700ms"}, {18, 35, 0.72, "p99 < 720ms"}, {40, 50, 0.15, "p95 < 150ms"}},
		Readouts: []Readout{{0, 2, "0 s: p50 12 ms"}}}
	narrow := latency
	narrow.ID, narrow.Width = "lat-n", 360
	hostile := latency
	hostile.ID, hostile.Title, hostile.Desc, hostile.Y.Label = nasty, nasty, nasty, nasty
	hostile.Phases, hostile.Bands = []Span{{-5, math.Inf(1), nasty}}, []Span{{math.NaN(), math.NaN(), nasty}, {30, 10, nasty}}
	hostile.Series = []Series{{Name: nasty, Dash: nasty, Color: Blue, Points: []Point{{math.NaN(), 1, 0}, {3, math.Inf(-1), 0}, {1e300, 1e300, 0}}}}
	hostile.Readouts = []Readout{{math.Inf(-1), math.NaN(), nasty}}
	states := []State{{0, 16, "closed", Good, false}, {16, 16.01, "open", Bad, false}, {16.01, 30, "half-open", Unsure, true}, {30, 51, "closed", Good, false}}
	lanes := Lanes{ID: "brk", Title: "Breakers", Desc: "One lane.", Width: 760, X: clock, Phases: phases, Bands: bands,
		Lanes: []Lane{{Label: "orders -> payments", States: states}, {Label: "orders -> payments, as the service reports it", Thin: true, States: states}, {Label: "orders -> stock"}}}
	bad := Lanes{ID: nasty, Title: nasty, Desc: nasty, Width: 360, Lanes: []Lane{{Label: nasty, States: []State{{5, -5, nasty, Grey, true}, {math.NaN(), math.Inf(1), nasty, Grey, true}}}}}
	return map[string]template.HTML{
		"latency": latency.SVG(), "latency-narrow": narrow.SVG(),
		"throughput":   Plot{ID: "thr", Title: "Throughput", Desc: "Areas.", Width: 760, Height: 120, X: clock, Y: Axis{Label: "per second"}, Series: []Series{ok, failed, step}, Phases: phases, Bands: bands}.SVG(),
		"small":        Plot{ID: "sml", Title: "Small", Desc: "Without labels.", Width: 330, Height: 110, HideLabels: true, X: clock, Phases: phases, Bands: bands, Series: []Series{step}}.SVG(),
		"plot-empty":   Plot{ID: "non", Title: "Nothing", Desc: "No data.", Width: 360, Height: 100}.SVG(),
		"plot-hostile": hostile.SVG(), "lanes": lanes.SVG(), "lanes-hostile": bad.SVG(),
		"lanes-empty":   Lanes{ID: "ln", Title: "Nothing", Desc: "No breaker.", Width: 360, X: clock}.SVG(),
		"interval":      Interval{ID: "i", Title: "pass", Low: 0.988, High: 0.994, Estimate: 0.9915, Target: 0.97, Color: Teal}.SVG(),
		"interval-none": Interval{ID: "j", Title: "no data", Low: math.NaN(), High: math.NaN(), Estimate: math.NaN(), Target: 0.97, Color: Yellow}.SVG(),
	}
}

func TestPictures(t *testing.T) {
	for name, got := range pictures() {
		path := filepath.Join("testdata", name+".svg")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is not what is drawn now (go test ./reports/chart -update, when it should change):\n%s", path, diff)
		}
	}
}

func TestPicturesAreWellFormed(t *testing.T) {
	for name, picture := range pictures() {
		var open []string
		z := html.NewTokenizer(strings.NewReader(string(picture)))
		for {
			kind := z.Next()
			if kind == html.ErrorToken {
				if z.Err() != io.EOF {
					t.Error(z.Err())
				}
				break
			}
			tok := z.Token()
			switch kind {
			case html.StartTagToken:
				open = append(open, tok.Data)
			case html.EndTagToken:
				if len(open) == 0 || open[len(open)-1] != tok.Data {
					t.Fatalf("%s: </%s> closes %q", name, tok.Data, open)
				}
				open = open[:len(open)-1]
			}
			for _, a := range tok.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" || strings.Contains(a.Val, "NaN") || strings.Contains(a.Val, "Inf") {
					t.Errorf("%s: <%s> has %s=%q", name, tok.Data, a.Key, a.Val)
				}
			}
			if tok.Data == "script" {
				t.Errorf("%s has a script", name)
			}
		}
		if len(open) > 0 {
			t.Errorf("%s: left open: %q", name, open)
		}
	}
}

// Above the plot, no name of a fault lies over another, or over another's bar.
func TestStripKeepsNamesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := Scale{Min: 0, Max: 60, From: 40, To: rapid.Float64Range(200, 800).Draw(t, "right")}
		var bands []Span
		for i := range rapid.IntRange(1, 8).Draw(t, "faults") {
			from := rapid.Float64Range(0, 60).Draw(t, "from")
			bands = append(bands, Span{from, from + rapid.Float64Range(0, 30).Draw(t, "for"), strings.Repeat("x", 1+i*rapid.IntRange(0, 9).Draw(t, "length"))})
		}
		slices.SortFunc(bands, func(a, b Span) int { return int(math.Copysign(1, a.From-b.From)) })
		s := newStrip(nil, bands, x)
		n := 0
		for _, row := range s.rows {
			end := math.Inf(-1)
			for _, b := range row {
				from, to := x.Pos(b.From), bandEnd(b, x)
				text, at, left, right := bandLabel(b.Label, from, to, x)
				if left < end {
					t.Fatalf("%q begins at %v, where the one before ends at %v", b.Label, left, end)
				}
				if text != "" && (at < left-1e-9 || at+textWidth(text, 11) > right+1e-9 || at+textWidth(text, 11) > x.To+1e-9) {
					t.Fatalf("the name %q at %v leaves its place [%v, %v]", text, at, left, right)
				}
				end = right
				n++
			}
		}
		if n != len(bands) {
			t.Fatalf("%d of %d faults are drawn", n, len(bands))
		}
	})
}

// contrast is WCAG 2's ratio of the relative luminances of two colours.
func contrast(a, b [3]float64) float64 {
	luminance := func(c [3]float64) float64 {
		var l float64
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v := c[i]
			if v <= 0.04045 {
				v /= 12.92
			} else {
				v = math.Pow((v+0.055)/1.055, 2.4)
			}
			l += weight * v
		}
		return l
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// themes reads the colour variables of CSS: the light ones, and the dark ones.
func themes(t *testing.T, css string) (light, dark map[string][3]float64) {
	t.Helper()
	parts := strings.SplitN(css, "prefers-color-scheme:dark", 2)
	if len(parts) != 2 {
		t.Fatal("no dark theme")
	}
	read := func(s string) map[string][3]float64 {
		all := map[string][3]float64{}
		for _, m := range regexp.MustCompile(`--([a-z0-9-]+):#([0-9a-f]{6})`).FindAllStringSubmatch(s, -1) {
			var c [3]float64
			for i := range c {
				v, err := strconv.ParseUint(m[2][2*i:2*i+2], 16, 8)
				if err != nil {
					t.Fatal(err)
				}
				c[i] = float64(v) / 255
			}
			all[m[1]] = c
		}
		return all
	}
	return read(parts[0]), read(parts[1])
}

// over is colour a at the given opacity on b.
func over(a [3]float64, opacity float64, b [3]float64) (c [3]float64) {
	for i := range c {
		c[i] = a[i]*opacity + b[i]*(1-opacity)
	}
	return c
}

func TestContrast(t *testing.T) {
	light, dark := themes(t, CSS)
	for name, c := range map[string]map[string][3]float64{"light": light, "dark": dark} {
		check := func(what string, a, b [3]float64, least float64) {
			if got := contrast(a, b); got < least {
				t.Errorf("%s: %s has a contrast of %.2f, want %.1f", name, what, got, least)
			}
		}
		check("text", c["c-ink"], c["c-paper"], 4.5)
		check("muted text", c["c-muted"], c["c-paper"], 4.5)
		check("a limit's label in a band", c["c-ink"], over(c["c-band"], 0.1, c["c-paper"]), 4.5)
		bar := over(c["c-band"], 0.38, c["c-paper"])
		check("a fault's name in its bar", c["c-bandtxt"], bar, 4.5)
		check("a fault's name beside its bar", c["c-bandtxt"], c["c-paper"], 4.5)
		check("the word closed", c["c-on"], c["c-ok"], 4.5)
		check("the word open", c["c-on"], c["c-bad"], 4.5)
		check("the word half-open", c["c-onwarn"], c["c-warn"], 4.5)
		for i := 1; i <= 6; i++ {
			check(fmt.Sprintf("line %d", i), c[fmt.Sprintf("c-%d", i)], c["c-paper"], 3)
		}
		check("the failed area", c["c-bad"], c["c-paper"], 3)
		check("failed beside ok", c["c-bad"], over(c["c-ok"], 0.62, c["c-paper"]), 1.5)
	}
}

// The page's own colours are held to the same measure.
func TestContrastOfThePage(t *testing.T) {
	css, err := os.ReadFile("../page.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark := themes(t, string(css))
	for name, c := range map[string]map[string][3]float64{"light": light, "dark": dark} {
		for _, text := range []string{"ink", "muted", "link", "pass", "fail", "unsure"} {
			for _, on := range []string{"card", "bg"} {
				if got := contrast(c[text], c[on]); got < 4.5 {
					t.Errorf("%s: %s on %s has a contrast of %.2f, want 4.5", name, text, on, got)
				}
			}
		}
		for _, banner := range []string{"pass", "fail", "unsure"} {
			for _, text := range []string{"ink", "muted", banner} {
				if got := contrast(c[text], c[banner+"-bg"]); got < 4.5 {
					t.Errorf("%s: %s in the %s banner has a contrast of %.2f, want 4.5", name, text, banner, got)
				}
			}
		}
	}
}

func ExampleSparkline() {
	fmt.Println(Sparkline([]float64{12, 13, 12, 800, 790, 14, 12}, 0, 800))
	// Output: ▁▁▁██▁▁
}

func ExampleSeconds() {
	fmt.Println(Seconds(0.01423), Seconds(1.2), Seconds(0.00085))
	// Output: 14.2 ms 1.20 s 850 µs
}
