// Package timeline merges everything that is due in a run into one list of
// moments, in order, for people to read and for the runner to follow.
package timeline

import (
	"cmp"
	"slices"
	"time"
)

// Moment is something that is due. Offsets are since the run's start.
type Moment struct {
	At   time.Duration
	Kind Kind
	Name string        // of the phase or the fault; empty for End
	For  time.Duration // how long it lasts
}

// Kind of a moment. When several fall on the same instant, they come in this
// order: what ends makes room before what begins, and a phase has begun before
// its faults do.
type Kind int

const (
	Revert Kind = iota // a fault's time is over
	Phase              // a phase begins
	Inject             // a fault is due
	End                // the load stops
)

func (k Kind) String() string {
	return [...]string{"revert", "phase", "inject", "end"}[k]
}

// Span is a named stretch of time: a phase, or a fault.
type Span struct {
	Name    string
	At, For time.Duration
}

// Merge lists the moments of phases and faults in the order in which they are due.
func Merge(phases, faults []Span) []Moment {
	var all []Moment
	var end time.Duration
	for _, p := range phases {
		all = append(all, Moment{At: p.At, Kind: Phase, Name: p.Name, For: p.For})
		end = max(end, p.At+p.For)
	}
	for _, f := range faults {
		all = append(all,
			Moment{At: f.At, Kind: Inject, Name: f.Name, For: f.For},
			Moment{At: f.At + f.For, Kind: Revert, Name: f.Name})
	}
	all = append(all, Moment{At: end, Kind: End})
	slices.SortStableFunc(all, func(a, b Moment) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}
