package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// MarshalJSON writes the moment first, then the one kind. encoding/json sorts
// the keys of maps, so that equal events are equal bytes. An event without a
// kind, or with two, is an error.
func (e Event) MarshalJSON() ([]byte, error) {
	kinds := e.kinds()
	if len(kinds) != 1 {
		return nil, fmt.Errorf("a journal event has exactly one kind, this one has %s", count(kinds))
	}
	at, err := Secs(e.At).MarshalJSON()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"at_s":%s,%q:`, at, kinds[0].name)
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // so that grep finds "orders -> payments"
	if err := encoder.Encode(kinds[0].value); err != nil {
		return nil, fmt.Errorf("encode %q event: %w", kinds[0].name, err)
	}
	b.Truncate(b.Len() - 1) // the encoder ends with a newline
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads one line, strictly: unknown keys, a missing moment and
// any number of kinds but one are errors. The hash of the line before is
// accepted and not kept; Verify checks it.
func (e *Event) UnmarshalJSON(b []byte) error {
	l, err := parseLine(b)
	if err != nil {
		return err
	}
	*e = l.Event
	return nil
}

// line is an event as it stands in the file.
type line struct {
	Event
	prev string
}

func parseLine(b []byte) (line, error) {
	// bare has Event's fields but none of its methods.
	type bare Event
	var raw struct {
		AtS *Secs `json:"at_s"`
		bare
		Prev string `json:"prev"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&raw); err != nil {
		return line{}, err
	}
	if d.InputOffset() != int64(len(bytes.TrimRight(b, " \t\r\n"))) {
		return line{}, errors.New("more than one JSON value")
	}
	if raw.AtS == nil {
		return line{}, errors.New(`"at_s" is missing`)
	}
	l := line{Event: Event(raw.bare), prev: raw.Prev}
	l.At = time.Duration(*raw.AtS)
	if kinds := l.kinds(); len(kinds) != 1 {
		return line{}, fmt.Errorf("a journal line has exactly one kind, this one has %s", count(kinds))
	}
	return l, l.check()
}

// check refuses numbers that no run can have produced, so that whoever adds
// them up need not think of them.
func (e Event) check() error {
	negative := func(what string, n ...int) error {
		for _, v := range n {
			if v < 0 || v > math.MaxInt32 {
				return fmt.Errorf("%s: a count of %d", what, v)
			}
		}
		return nil
	}
	switch {
	case e.Window != nil:
		w := e.Window
		if err := negative("window", w.Due, w.Sent, w.OK, w.Failed, w.Queued, w.Dropped, w.Late, w.Connects, w.Resumed); err != nil {
			return err
		}
		if s := w.Sessions; s != nil {
			if err := negative("window sessions", s.Completed, s.Failed, s.Cut); err != nil {
				return err
			}
		}
		for _, n := range w.Outcomes {
			if err := negative("window outcomes", n); err != nil {
				return err
			}
		}
	case e.Edge != nil:
		if err := negative("edge", e.Edge.Calls, e.Edge.Upstream, e.Edge.Open); err != nil {
			return err
		}
		for _, n := range e.Edge.Answers {
			if err := negative("edge answers", n); err != nil {
				return err
			}
		}
		for name, f := range e.Edge.Faults {
			if err := negative("edge fault "+strconv.Quote(name), f.Eligible, f.Fired); err != nil {
				return err
			}
		}
	}
	return nil
}

// kind is a kind's key in the file, and its value.
type kind struct {
	name  string
	value any
}

// kinds lists what is set. It is the one table of kinds; a new kind is a field
// of Event and a line here.
func (e Event) kinds() []kind {
	var set []kind
	add := func(name string, isSet bool, v any) {
		if isSet {
			set = append(set, kind{name, v})
		}
	}
	add("start", e.Start != nil, e.Start)
	add("phase", e.Phase != nil, e.Phase)
	add("window", e.Window != nil, e.Window)
	add("sample", e.Sample != nil, e.Sample)
	add("fault", e.Fault != nil, e.Fault)
	add("edge", e.Edge != nil, e.Edge)
	add("breaker", e.Breaker != nil, e.Breaker)
	add("probe", e.Probe != nil, e.Probe)
	add("service", e.Service != nil, e.Service)
	add("abort", e.Abort != nil, e.Abort)
	add("mark", e.Mark != nil, e.Mark)
	add("end", e.End != nil, e.End)
	return set
}

// Kind is the key under which the event stands in the file: "window", "fault", …
// It is empty for an event that has none, or several.
func (e Event) Kind() string {
	if k := e.kinds(); len(k) == 1 {
		return k[0].name
	}
	return ""
}

func count(kinds []kind) string {
	if len(kinds) == 0 {
		return "none"
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return strings.Join(names, " and ")
}

// maxSecs bounds what is read: some 30 years, far beyond any run, far within
// time.Duration.
const maxSecs = 1e9

// MarshalJSON writes plain decimal seconds, rounded to the microsecond: 0.1, 12, -3.000001.
func (s Secs) MarshalJSON() ([]byte, error) {
	us := time.Duration(s).Round(time.Microsecond).Microseconds()
	sign := ""
	if us < 0 {
		sign, us = "-", -us
	}
	text := fmt.Sprintf("%s%d.%06d", sign, us/1e6, us%1e6)
	return []byte(strings.TrimSuffix(strings.TrimRight(text, "0"), ".")), nil
}

// UnmarshalJSON reads a JSON number of seconds and keeps it to the microsecond.
func (s *Secs) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return errors.New("seconds are null")
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("%.40s is not a number of seconds", b)
	}
	if !(math.Abs(f) <= maxSecs) {
		return fmt.Errorf("%.40s seconds are out of range", b)
	}
	*s = Secs(time.Duration(math.Round(f*1e6)) * time.Microsecond)
	return nil
}

// Duration is s as a time.Duration.
func (s Secs) Duration() time.Duration { return time.Duration(s) }
