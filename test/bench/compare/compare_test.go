package compare

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.95: "0.95", 0.0123: "0.0123", -0.5: "-0.5", 9.996: "10", 12.34: "12.3", 99.99: "100",
		123: "123", 1234.5: "1,234", 1234567: "1,234,567", -1234: "-1,234", -123: "-123",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %s, want %s", v, got, want)
		}
	}
}

func TestQuantiles(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	if got := Median(v); got != 3 {
		t.Errorf("the median of %v is %v", v, got)
	}
	if got := Median(v[:2]); got != 3 { // 5 and 1
		t.Errorf("the median of %v is %v, want the mean of both", v[:2], got)
	}
	for q, want := range map[float64]float64{0: 1, 0.2: 1, 0.21: 2, 0.5: 3, 0.99: 5, 1: 5} {
		if got := Quantile(v, q); got != want {
			t.Errorf("quantile %v of %v is %v, want %v", q, v, got, want)
		}
	}
	if !slices.Equal(v, []float64{5, 1, 4, 2, 3}) {
		t.Errorf("the samples were put into another order: %v", v)
	}
}

func TestGoals(t *testing.T) {
	more, less := Row{Key: "more"}, Row{Key: "less", Less: true}
	r := &Results{samples: map[key][]float64{
		{Ours, "more"}: {90, 100, 110}, {"peer", "more"}: {50},
		{Ours, "less"}: {2}, {"peer", "less"}: {8},
		{Ours, "off"}: {-0.3},
	}}
	for _, c := range []struct {
		name    string
		goal    Goal
		row     Row
		text    string
		verdict string
	}{
		{"twice as much", Times(2, "peer"), more, "≥ 2 × peer", met},
		{"more than twice", Times(2.01, "peer"), more, "≥ 2.01 × peer", missed},
		{"a quarter", Times(4, "peer"), less, "4 × better than peer", met},
		{"less than a quarter", Times(4.1, "peer"), less, "4.1 × better than peer", missed},
		{"nobody to compare with", Times(1, "absent"), more, "≥ 1 × absent", "not judged, no number of absent"},
		{"a limit", AtMost(2), less, "≤ 2", met},
		{"over the limit", AtMost(1.9), less, "≤ 1.9", missed},
		{"enough", AtLeast(100), more, "≥ 100", met},
		{"not enough", AtLeast(101), more, "≥ 101", missed},
		{"near 0 from below", Within(0.3), Row{Key: "off"}, "± 0.3", met},
		{"too far from 0, below", Within(0.2), Row{Key: "off"}, "± 0.2", missed},
		{"of another row", OfRow(0.02, Row{Key: "more", Label: "all"}), less, "≥ 0.02 × all", met},
		{"no number of ours", AtMost(1), Row{Key: "none"}, "≤ 1", "not judged, no number of ours"},
	} {
		if text, verdict := c.goal(c.row, r); text != c.text || verdict != c.verdict {
			t.Errorf("%s: %q, %q; want %q, %q", c.name, text, verdict, c.text, c.verdict)
		}
	}
}

// TestRun: programs take turns, one that fails is not asked again and stops
// nobody, and the tables say all of it.
func TestRun(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "doc.md")
	const before = "above\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nbelow\n"
	if err := os.WriteFile(doc, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	var asked []string
	b := Bench{
		Name: "x", Versions: []string{"peer 1.0"}, Notes: []string{"How."}, Skipped: map[string]string{"gone": "not here"},
		Sections: []Section{{
			Title: "Table", Columns: []string{"gone", "bad", "peer", Ours}, Against: []string{"peer"},
			Probes: []Probe{{
				Name: "speed", Rows: []Row{{Key: "s", Label: "speed, MB/s", Goals: []Goal{Times(2, "peer"), AtMost(5)}}},
				Measure: func(_ context.Context, subject string, _ bool) (Sample, error) {
					asked = append(asked, subject)
					switch subject {
					case "bad":
						return nil, errors.New("broken")
					case Ours:
						return Sample{"s": float64(len(asked))}, nil // 3, 5, 7
					}
					return Sample{"s": 2}, nil
				},
			}},
		}},
	}
	err := b.Run(t.Context(), Options{Rounds: 3, Doc: doc, Limit: 1e12}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "speed, bad: broken") {
		t.Errorf("the error is %v, want what failed", err)
	}
	if got := strings.Join(asked, " "); got != "bad peer ours peer ours peer ours" {
		t.Errorf("asked in the order %s", got)
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"above\n<!-- bench:x -->\n", "3 rounds", "peer 1.0", "`make bench-x`", "How.",
		"| | gone | bad | peer | ours | × better than peer | goal | |\n|---|---:|---:|---:|---:|---:|---|---|\n",
		"| speed, MB/s | – | – | 2 | 5 ± 40 % | 2.50 | ≥ 2 × peer, ≤ 5 | met |\n",
		"- gone was skipped: not here\n- failed: speed, bad: broken\n<!-- /bench:x -->\nbelow\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}

	// A part of it, or a quick look, does not replace a whole measurement.
	whole := string(text)
	for _, o := range []Options{{Rounds: 1, Doc: doc, Limit: 1e12, Only: "speed"}, {Rounds: 1, Doc: doc, Limit: 1e12, Quick: true}} {
		_ = b.Run(t.Context(), o, io.Discard, io.Discard) // fails as above
		if text, err := os.ReadFile(doc); err != nil || string(text) != whole {
			t.Errorf("%+v wrote into the document (%v)", o, err)
		}
	}
	if err := b.Run(t.Context(), Options{Rounds: 1, Only: "sped"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "sped") {
		t.Errorf("a row that does not exist: %v", err)
	}
}
