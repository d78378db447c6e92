package proxy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// Reshape changes header lines of a request, and of its answer. Lines that it does
// not name pass as they are, byte for byte and in their places. What says where a
// message ends, or what becomes of its connection, is refused (framing.Frames), and
// a head that would grow beyond framing.MaxHead passes as it is. 1xx heads are left
// alone, but 101.
type Reshape struct {
	Request, Answer Edit
}

// Edit is what is done to the lines of one head, in this order; names are
// compared in whatever case.
type Edit struct {
	Remove []string // all lines of that name
	Set    []Field  // in place of the first line of that name, or at the end; no other stays
	Add    []Field  // at the end, whatever there is
}

func (e *Edit) isZero() bool { return len(e.Remove) == 0 && len(e.Set) == 0 && len(e.Add) == 0 }

func (s *Reshape) wrong() error {
	if s.Request.isZero() && s.Answer.isZero() {
		return fmt.Errorf("reshape changes nothing, want something to remove, set or add in the request or the answer")
	}
	for _, e := range []*Edit{&s.Request, &s.Answer} {
		if err := e.wrong(); err != nil {
			return err
		}
	}
	return nil
}

func (e *Edit) wrong() error {
	var fields []Field
	for _, name := range e.Remove {
		fields = append(fields, Field{Name: name})
	}
	fields = append(append(fields, e.Set...), e.Add...)
	size := 0
	for _, f := range fields {
		if err := wrongField(f); err != nil {
			return fmt.Errorf("reshape: %w", err)
		}
		if slices.Contains(framing.Frames, strings.ToLower(f.Name)) {
			return fmt.Errorf("reshape: header %s says where a message ends or what becomes of its connection, and cannot be changed: it would be another fault than the one asked for (none of %s can)", f.Name, strings.Join(framing.Frames, ", "))
		}
		size += len(f.Name) + len(f.Value)
	}
	if len(e.Set) > framing.Most {
		return fmt.Errorf("reshape: %d headers to set, want at most %d", len(e.Set), framing.Most)
	}
	for i, f := range e.Set {
		if slices.ContainsFunc(e.Set[:i], func(x Field) bool { return strings.EqualFold(x.Name, f.Name) }) {
			return fmt.Errorf("reshape: header %s is set twice, want set and add", f.Name)
		}
	}
	if size > reshapeMost {
		return fmt.Errorf("reshape: headers of %d bytes, want at most %d", size, reshapeMost)
	}
	return nil
}

// reshapeMost keeps what a rule adds small beside a head.
const reshapeMost = 64 << 10

func (e Edit) clone() Edit {
	return Edit{slices.Clone(e.Remove), slices.Clone(e.Set), slices.Clone(e.Add)}
}

// edit is what the rule does to heads of that direction; nil: nothing.
func (r *active) edit(isDown bool) *framing.Edit {
	if r.Reshape == nil {
		return nil
	}
	e := &r.Reshape.Request
	if isDown {
		e = &r.Reshape.Answer
	}
	if e.isZero() {
		return nil
	}
	return (*framing.Edit)(e)
}

// reshaped is the head as the rules want it for that call: itself, or a copy that
// holds until the next. A head that is longer than it may be stays as it was.
func (f *flow) reshaped(w who, head []byte) []byte {
	f.heads = f.heads[:0]
	for _, r := range *f.c.p.rules.Load() {
		e := r.edit(f.isDown)
		if e == nil || !r.picks(w) {
			continue
		}
		from := len(f.heads)
		f.heads = e.Append(f.heads, head)
		if anew := f.heads[from:]; len(anew) <= framing.MaxHead {
			head = anew
		}
	}
	if cap(f.heads) > largeBuffer { // rare; head keeps it for as long as it is needed
		f.heads = nil
	}
	return head
}
