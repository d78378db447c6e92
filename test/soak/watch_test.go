package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCompareQuarters(t *testing.T) {
	quarter := func(seed uint64, heap, noise float64) []reading {
		draw := rand.New(rand.NewPCG(seed, 0))
		all := make([]reading, readingsPerQuarter)
		for i := range all {
			all[i] = reading{rssMB: 60, heapMB: heap + noise*draw.NormFloat64(), fds: 120, goroutines: 70}
		}
		return all
	}
	for name, c := range map[string]struct {
		late []reading
		want string
	}{
		"flat":                   {quarter(2, 30, 5), ""},
		"grows":                  {quarter(2, 45, 5), "it grows: heap in use, MB, by 1"},
		"shrinks":                {quarter(2, 10, 5), ""},
		"too noisy to be judged": {quarter(2, 30, 90), "it cannot be told whether it grows"},
	} {
		var table strings.Builder
		err := compareQuarters(&table, quarter(1, 30, 5), c.late)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v\n%s", name, err, table.String())
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s...\n%s", name, err, c.want, table.String())
		}
	}
}
