// Package compare runs several programs against one another and writes down who
// won: every measurement is taken in rounds that go through the programs in turn
// (A B C A B C …), so that a machine that slows down slows them all, and the
// medians stand in one table with ratios, goals, and whether they are met.
package compare

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Ours is the column of the program that the goals are about.
const Ours = "ours"

// Bench is one block of a document, between <!-- bench:Name --> and its end.
type Bench struct {
	Name     string
	Versions []string          // of what is compared
	Notes    []string          // how it is measured; one paragraph each
	Skipped  map[string]string // column -> why it is empty
	Sections []Section
}

// Section is a table.
type Section struct {
	Title   string
	Columns []string // the programs, Ours last
	Against []string // the programs that Ours is divided by, in columns of their own
	Probes  []Probe
}

// Probe is one measurement. It may fill several rows.
type Probe struct {
	Name      string
	Subjects  []string // nil: every column
	MaxRounds int      // 0: as many as asked for
	Rows      []Row
	// Measure takes it once, within patience. A number it leaves out stays
	// empty in the table; NaN must not be in it.
	Measure func(ctx context.Context, subject string, quick bool) (Sample, error)
}

// Sample is what one measurement found, by Row.Key.
type Sample map[string]float64

// Row is a line of a table.
type Row struct {
	Key   string // unique within the Bench
	Label string // with its unit
	Less  bool   // less is better
	Plain bool   // an error, a share …: ratios and spreads of it say nothing
	Goals []Goal
}

// Options are the flags that every comparison has.
type Options struct {
	Rounds      int
	Only        string
	Programs    string
	Quick, List bool
	Doc         string
	Limit       time.Duration
}

// Flags declares them.
func Flags(f *flag.FlagSet) *Options {
	o := &Options{}
	f.IntVar(&o.Rounds, "rounds", 5, "`rounds` of every measurement, programs taking turns")
	f.StringVar(&o.Only, "only", "", "measure only these `rows`, comma-separated, by the names that -list prints")
	f.StringVar(&o.Programs, "programs", "", "measure only these `programs`, comma-separated, by the names of their columns")
	f.BoolVar(&o.Quick, "quick", false, "one short round of everything: shows that it works, not how well")
	f.BoolVar(&o.List, "list", false, "print what is measured, and end")
	f.StringVar(&o.Doc, "doc", "docs/PERFORMANCE.md", "`file` that a complete run writes its tables into; empty for none")
	f.DurationVar(&o.Limit, "limit", time.Hour, "give up after this `time`")
	return o
}

// List prints the names of the probes with the rows they fill.
func (b Bench) List(w io.Writer) {
	for _, s := range b.Sections {
		fmt.Fprintf(w, "%s\n", s.Title)
		for _, p := range s.Probes {
			var labels []string
			for _, r := range p.Rows {
				labels = append(labels, r.Label)
			}
			fmt.Fprintf(w, "  %-16s %s\n", p.Name, strings.Join(labels, "; "))
		}
	}
}

// Run measures, prints the tables to stdout and the numbers as they come to
// stderr, and writes the tables into o.Doc if it was a complete run. What could
// not be measured is an error in the end, and stops nothing before; a goal that
// is missed is none.
func (b Bench) Run(ctx context.Context, o Options, stdout, stderr io.Writer) error {
	sections, err := b.only(o.Only)
	if err != nil {
		return err
	}
	partial := o.Quick || o.Only != "" || o.Programs != ""
	b.Sections = sections
	if o.Quick {
		o.Rounds = 1
	}
	if o.Rounds < 1 {
		return fmt.Errorf("-rounds is %d, want at least 1", o.Rounds)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("not done after -limit %v", o.Limit))
	defer cancel()
	began, where := time.Now(), machine()
	results := Results{samples: map[key][]float64{}}
	for _, s := range b.Sections {
		for _, p := range s.Probes {
			if err := b.rounds(ctx, s, p, o, &results, stderr); err != nil {
				return err
			}
		}
	}
	took := time.Since(began).Round(time.Second)
	block := b.markdown(&results, o, where, began, took)
	fmt.Fprintln(stdout, block)
	switch {
	case o.Doc == "":
	case partial:
		fmt.Fprintf(stderr, "%s keeps what it has: this was not a complete run\n", o.Doc)
	default:
		if err := Replace(o.Doc, b.Name, block); err != nil {
			return err
		}
	}
	fmt.Fprintf(stderr, "%s; took %v\n", results.tally(b), took)
	return errors.Join(results.failed...)
}

// only keeps the probes that were asked for.
func (b Bench) only(names string) ([]Section, error) {
	if names == "" {
		return b.Sections, nil
	}
	wanted := strings.Split(names, ",")
	found := map[string]bool{}
	var sections []Section
	for _, s := range b.Sections {
		s.Probes = slices.DeleteFunc(slices.Clone(s.Probes), func(p Probe) bool {
			found[p.Name] = true
			return !slices.Contains(wanted, p.Name)
		})
		if len(s.Probes) > 0 {
			sections = append(sections, s)
		}
	}
	for _, name := range wanted {
		if !found[name] {
			return nil, fmt.Errorf("-only %s: no such measurement; -list prints them", name)
		}
	}
	return sections, nil
}

// patience is how long one measurement may take: a program that hangs must not
// take the others' results with it.
const patience = 5 * time.Minute

// rounds takes one measurement of every program, in turn, again and again. A
// program that fails once is not asked again.
func (b Bench) rounds(ctx context.Context, s Section, p Probe, o Options, results *Results, stderr io.Writer) error {
	rounds := o.Rounds
	if p.MaxRounds > 0 {
		rounds = min(rounds, p.MaxRounds)
	}
	subjects := p.Subjects
	if subjects == nil {
		subjects = s.Columns
	}
	if o.Programs != "" {
		wanted := strings.Split(o.Programs, ",")
		subjects = slices.DeleteFunc(slices.Clone(subjects), func(name string) bool { return !slices.Contains(wanted, name) })
	}
	failed := map[string]bool{}
	for round := range rounds {
		for _, subject := range subjects {
			if _, skip := b.Skipped[subject]; skip || failed[subject] {
				continue
			}
			began := time.Now()
			one, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not measured within %v", patience))
			sample, err := p.Measure(one, subject, o.Quick)
			cancel()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			fmt.Fprintf(stderr, "%-14s %d/%d %-14s %4.1fs", p.Name, round+1, rounds, subject, time.Since(began).Seconds())
			if err != nil {
				fmt.Fprintf(stderr, "  %v\n", err)
				failed[subject] = true
				results.failed = append(results.failed, fmt.Errorf("%s, %s: %w", p.Name, subject, err))
				continue
			}
			for _, r := range p.Rows {
				if v, ok := sample[r.Key]; ok {
					results.add(subject, r.Key, v)
					fmt.Fprintf(stderr, "  %s %s", r.Key, number(v))
				}
			}
			fmt.Fprintln(stderr)
		}
	}
	return nil
}

// Replace puts block where the last one of that name stood in the document.
func Replace(doc, name, block string) error {
	b, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	begin, end := "<!-- bench:"+name+" -->", "<!-- /bench:"+name+" -->"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %s … %s to put the table between", doc, begin, end)
	}
	return os.WriteFile(doc, []byte(head+begin+"\n"+strings.TrimSpace(block)+"\n"+end+tail), 0o644)
}
