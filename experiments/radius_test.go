package experiments

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/scenarios"
)

func TestRadius(t *testing.T) {
	for _, c := range []struct {
		faults string
		want   string // "" where nothing is worth a line
		most   bool
	}{
		{"{}", "", false},
		{"{ a: { target: single, kill: {} } }", "", false},
		{"{ a: { target: front -> api, latency: { delay: 1s } } }", "", false},
		{"{ a: { target: api, kill: {} } }", "api: 1 of 4 instances at once (a)", false},
		{"{ a: { target: api, pause: { pick: 50% } } }", "api: 2 of 4 instances at once (a)", false},
		{"{ a: { target: api, pause: { pick: 75% } } }", "api: 3 of 4 instances at once (a)", true},
		{"{ a: { target: api, pause: { pick: all } } }", "api: 4 of 4 instances at once (a)", true},
		// One after the other is one at a time; at the same time they may be different ones.
		{"{ a: { target: api, pause: { pick: 2 }, for: 1s }, b: { target: api, pause: {}, at: 2s, for: 1s } }", "api: 2 of 4 instances at once (a)", false},
		{"{ b: { target: api, restart: {}, at: 2s }, a: { target: api, pause: { pick: 2 }, at: 1s, for: 2s } }", "api: 3 of 4 instances at once (a and b)", true},
		{"{ a: { target: api, cpu: { pick: 3 } }, b: { target: api, kill: { pick: 3, down: 1s } }, c: { target: api, pause: {} } }", "api: 4 of 4 instances at once (a, b and c)", true},
	} {
		s, err := scenarios.Parse("t.yaml", fmt.Appendf(nil, `scenario: t
target:
  services:
    front: { command: [x, "${edge.api}", "${edge.single}", "${edge.far}"] }
    api: { command: [x, "${port}"], instances: 4 }
    single: { command: [x, "${port}"] }
    far: { address: "far.example.com:80" }
allow: [FAR.example.com]
load: { l: { request: GET /, to: front, rate: 1/s } }
phases: { during: 10s }
faults: %s
`, c.faults))
		if err != nil {
			t.Fatalf("%s: %v", c.faults, err)
		}
		for _, variant := range []Variant{Main, Sham} {
			p, err := Compile(s, variant)
			if err != nil {
				t.Fatal(err)
			}
			lines, most := []string{}, false
			for _, r := range p.Radius() {
				lines, most = append(lines, r.String()), most || r.MoreThanHalf()
			}
			want := []string{"far: 1 instance at far.example.com, which is not this machine, and which allow names"}
			if c.want != "" && variant == Main {
				want = append([]string{c.want}, want...)
			}
			if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") || most != (c.most && variant == Main) {
				t.Errorf("%s %s: %q, more than half: %v; want %q, %v", variant, c.faults, got, most, want, c.most)
			}
		}
	}
}
