package verdict

import (
	"fmt"
	"math"
	"slices"
)

// NoiseFloor says how much runs of one and the same plan differ on a machine: the
// differences below which a comparison of two runs there shows nothing.
type NoiseFloor struct {
	Version     int        `json:"version"`
	Scenario    string     `json:"scenario"`
	Runs        []string   `json:"runs"`
	Pairs       int        `json:"pairs"` // each run with each other
	Margins     Margins    `json:"margins"`
	Confidence  float64    `json:"confidence"`
	Rows        []FloorRow `json:"rows"`
	FalseAlarms int        `json:"false_alarms"` // rows of pairs that were called regressed or improved
	Outcome     Outcome    `json:"outcome"`      // noise; regressed when there was a false alarm; undecided when a run does not count
	Reasons     []string   `json:"reasons"`
	Notes       []string   `json:"notes"`
}

// FloorRow is the noise of one metric.
type FloorRow struct {
	Load        string  `json:"load"`
	Phase       string  `json:"phase"`
	Metric      string  `json:"metric"`
	Unit        string  `json:"unit"`
	Largest     float64 `json:"largest"` // difference of any two runs, without its sign
	Typical     float64 `json:"typical"` // median of these differences
	Margin      float64 `json:"margin"`  // the largest that a comparison of two of these runs used
	Pairs       int     `json:"pairs"`   // that could be compared
	FalseAlarms int     `json:"false_alarms"`
	Undecided   int     `json:"undecided"`
}

// SelfCompare compares each of several runs of one plan with each other. What is
// called regressed or improved among them is a false alarm.
func SelfCompare(name string, runs []Recorded, m Margins, confidence float64) NoiseFloor {
	all := open(Side{Name: name, Runs: runs})
	out := NoiseFloor{Version: 1, Scenario: all[0].result.Scenario, Margins: m, Confidence: orDefault(confidence),
		Runs: describeSide(name, all).Runs, Rows: []FloorRow{}, Reasons: []string{}, Notes: []string{}, Outcome: Noise}
	found := map[string][]float64{}
	for i := range all {
		for j := range i {
			out.Pairs++
			for _, d := range compareAll(all[j:j+1], all[i:i+1], m, out.Confidence) {
				key := d.Load + "\n" + d.Phase + "\n" + d.Metric
				k := slices.IndexFunc(out.Rows, func(r FloorRow) bool { return r.Load+"\n"+r.Phase+"\n"+r.Metric == key })
				if k < 0 {
					k = len(out.Rows)
					out.Rows = append(out.Rows, FloorRow{Load: d.Load, Phase: d.Phase, Metric: d.Metric, Unit: d.Unit})
				}
				row := &out.Rows[k]
				if d.Difference == nil {
					continue
				}
				row.Pairs++
				found[key] = append(found[key], math.Abs(*d.Difference))
				row.Largest = math.Max(row.Largest, math.Abs(*d.Difference))
				row.Margin = math.Max(row.Margin, d.Margin)
				switch d.Outcome {
				case Regressed, Improved:
					row.FalseAlarms++
					out.FalseAlarms++
				case Undecided:
					row.Undecided++
				}
			}
		}
	}
	for i := range out.Rows {
		r := &out.Rows[i]
		if v := found[r.Load+"\n"+r.Phase+"\n"+r.Metric]; len(v) > 0 {
			slices.Sort(v)
			r.Typical = (v[(len(v)-1)/2] + v[len(v)/2]) / 2
		}
		if r.FalseAlarms > 0 {
			out.Reasons = append(out.Reasons, fmt.Sprintf("%s %s %s: %s of equal runs called different: the margin is below what runs differ by here.",
				r.Load, r.Phase, r.Metric, plural(r.FalseAlarms, "pair", "pairs")))
		}
	}
	if out.FalseAlarms > 0 {
		out.Outcome = Regressed
	}
	if void := notCounting(all); len(void) > 0 {
		out.Outcome = Undecided
		out.Reasons = append(void, out.Reasons...)
	}
	out.Notes = append(out.Notes, fmt.Sprintf("a further run lies outside the range of these %d with probability 2/%d = %s, whatever the distribution",
		len(all), len(all)+1, percent(2/float64(len(all)+1))))
	if len(all) < 3 {
		out.Notes = append(out.Notes, "two runs give one difference, which says little: five runs give ten")
	}
	return out
}
