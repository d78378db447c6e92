package targets

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// TestWith: what a change names is changed, whatever the spelling of an edge; the
// rest stays, and so does the spec that it was made from.
func TestWith(t *testing.T) {
	shop := Spec{System: "shop", Patterns: map[string]pattern.Spec{"orders->stock": {Mode: pattern.Textbook}, "orders->payments": {Mode: pattern.Textbook}}}
	got := shop.With(Change{Patterns: map[string]pattern.Spec{"orders -> payments": {Mode: pattern.Off}}, Sagas: map[string]pattern.Sagas{"orders": pattern.Memory}})
	want := Spec{System: "shop", Patterns: map[string]pattern.Spec{"orders -> stock": {Mode: pattern.Textbook}, "orders -> payments": {Mode: pattern.Off}},
		Sagas: map[string]pattern.Sagas{"orders": pattern.Memory}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	own := Spec{Services: map[string]ServiceSpec{
		"api":  {Command: []string{"api"}, Env: map[string]string{"A": "1", "B": "2"}, Dir: "x"},
		"back": {Address: "127.0.0.1:1"},
	}}
	got = own.With(Change{Services: map[string]ServiceChange{"api": {Command: []string{"api", "-once"}, Env: map[string]string{"B": "3"}}, "none": {}}})
	want = Spec{Services: map[string]ServiceSpec{
		"api":  {Command: []string{"api", "-once"}, Env: map[string]string{"A": "1", "B": "3"}, Dir: "x"},
		"back": {Address: "127.0.0.1:1"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if own.Services["api"].Env["B"] != "2" || len(own.Services["api"].Command) != 1 {
		t.Error("the spec itself was changed")
	}
	if !(Change{}).Empty() || !(Change{Services: map[string]ServiceChange{"api": {}}}).Empty() || (Change{Sagas: map[string]pattern.Sagas{"orders": pattern.Memory}}).Empty() {
		t.Error("Empty is wrong")
	}
}
