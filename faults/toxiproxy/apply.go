package toxiproxy

import (
	"reflect"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// applied are the rules that an entry has put to work.
type applied []appliedRule

type appliedRule struct {
	rule   proxy.Rule
	remove func()
}

// setRules makes the proxy's rules exactly these; what is equal keeps its state.
// It stands in for proxy.SetRules: kinds that the data plane does not know yet
// are left out, and Silence is a Blackhole that never ends.
func (done *applied) setRules(p *proxy.Proxy, want []proxy.Rule) error {
	var now applied
	used := make([]bool, len(want))
	for _, a := range *done {
		kept := false
		for i, r := range want {
			if reflect.DeepEqual(r, a.rule) {
				used[i], kept = true, true
			}
		}
		if kept {
			now = append(now, a)
		} else {
			a.remove()
		}
	}
	for i, r := range want {
		if used[i] {
			continue
		}
		as := r
		if r.Silence != nil {
			as.Silence, as.Blackhole = nil, &proxy.Cut{}
		}
		if as.Validate() != nil {
			continue
		}
		remove, err := p.Add(as)
		if err != nil {
			return err
		}
		now = append(now, appliedRule{r, remove})
	}
	*done = now
	return nil
}
