package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Found is what is in a log.
type Found struct {
	Entries  []Entry  `json:"-"`
	First    uint64   `json:"first"` // number of the first entry; more than 1: what was before was rotated away, or removed
	Last     Mark     `json:"last"`
	Count    int      `json:"entries"`
	Sealed   int      `json:"sealed"`   // lines that their writers did not finish
	Torn     int      `json:"torn"`     // bytes behind the last line end: a writer was killed, or is at it
	Problems []string `json:"problems"` // where the chain does not hold

	hashes map[uint64]string
}

// Read reads files of one chain, the oldest first, and checks that the chain holds.
// An error is about files that cannot be read; what is wrong inside them is in
// Problems, with file and line.
func Read(files ...string) (*Found, error) {
	v := &verifier{found: &Found{Problems: []string{}, hashes: map[uint64]string{}}}
	for i, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		err = v.file(file, f, i == len(files)-1)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("audit log %s: %w", file, err)
		}
	}
	v.found.Count = len(v.found.Entries)
	return v.found, nil
}

// Holds tells whether the entry of a mark stands in the log as it did then. known is
// false when it is older than the log's first.
func (f *Found) Holds(m Mark) (holds, known bool) {
	if m.N < f.First {
		return false, false
	}
	return f.hashes[m.N] == m.Hash, true
}

type verifier struct {
	found *Found
	prev  []byte // the line before; nil: there is none yet
	odd   string // where the line before is, when it was no entry: the next one has to seal it
}

func (v *verifier) problem(where, format string, args ...any) {
	v.found.Problems = append(v.found.Problems, where+": "+fmt.Sprintf(format, args...))
}

func (v *verifier) file(name string, r io.Reader, last bool) error {
	in := bufio.NewReaderSize(r, lineLimit)
	for number := 1; ; number++ {
		line, err := in.ReadBytes('\n')
		where := fmt.Sprintf("%s:%d", name, number)
		if errors.Is(err, io.EOF) {
			if len(line) == 0 {
				return nil
			}
			if v.found.Torn = len(line); !last {
				v.problem(where, "the line is cut off, and another file follows")
			}
			return nil
		}
		if err != nil {
			return err
		}
		v.line(where, bytes.TrimSuffix(line, []byte("\n")))
	}
}

func (v *verifier) line(where string, line []byte) {
	line = bytes.Clone(line)
	e, err := parse(line)
	if err != nil {
		if v.odd != "" {
			v.problem(v.odd, "it is no entry, and the next line does not seal it")
		}
		v.odd, v.prev = where, line
		return
	}
	f := v.found
	first := len(f.Entries) == 0
	switch {
	case first && e.N == 1 && v.prev == nil && e.Prev != "":
		v.problem(where, "it is the first entry, and names one before it")
	case first && v.prev == nil: // what was before is not here to compare with
	case e.Prev != hash(v.prev):
		v.problem(where, "entry %d does not name the line before it: that one was changed, or something between them was removed or put in", e.N)
	}
	if !first && e.N != f.Last.N+1 {
		v.problem(where, "entry %d follows entry %d", e.N, f.Last.N)
	}
	if v.odd != "" {
		if e.Event != Sealed || e.Bytes != int64(len(v.prev)) {
			v.problem(v.odd, "it is no entry, and the next line does not seal it")
		} else {
			f.Sealed++
		}
		v.odd = ""
	} else if e.Event == Sealed {
		v.problem(where, "it seals a line of %d bytes that was not finished, and the line before it was", e.Bytes)
	}
	if first {
		f.First = e.N
	}
	f.Entries = append(f.Entries, e)
	f.Last = Mark{e.N, hash(line)}
	f.hashes[e.N] = f.Last.Hash
	v.prev = line
}
