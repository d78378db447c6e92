package reports

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/chaosctl/chaosctl/experiments/verdict"
)

// JSON writes the Result, indented, as result.json holds it. Lists that are
// empty are written as [], never as null.
func JSON(w io.Writer, r Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // "p95 < 700ms", not "p95 \u003c 700ms": this is a file, not a page
	if err := e.Encode(listed(r.Result)); err != nil {
		return fmt.Errorf("encode the result of run %q: %w", r.Result.Run, err)
	}
	return nil
}

// listed makes the lists that a reader may count on lists.
func listed(r verdict.Result) verdict.Result {
	r.Reasons = orEmpty(r.Reasons)
	r.Warnings = orEmpty(r.Warnings)
	r.Objectives = orEmpty(r.Objectives)
	r.Breakers = orEmpty(r.Breakers)
	r.Invariants = orEmpty(r.Invariants)
	r.Faults = orEmpty(r.Faults)
	r.Load = orEmpty(r.Load)
	return r
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
