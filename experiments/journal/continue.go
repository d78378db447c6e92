package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// ErrNoStart is why a journal cannot be continued: its writer died before the
// first line was whole, so no run is in it.
var ErrNoStart = errors.New("the journal has no start line")

// Remains is what Continue found of a journal whose writer is gone.
type Remains struct {
	Start Start
	Last  time.Duration // moment of the last whole line
	Ended bool          // it has its end event: there is nothing to add
	Torn  int           // bytes of a torn last line, which Continue cut off
}

// Continue opens the journal of a run whose writer has died, for those who clean
// up behind it: they seal it and add what they did, and the chain of hashes goes
// on. Whoever calls it must know that the writer is gone.
//
// A torn last line, what a kill in the middle of a write leaves, says nothing
// that could be read, and is cut off. Moments are the wall clock's since the
// run's start, and never before the last line's. Only the first and the last line
// are read, so that a long journal costs no time; Verify checks the chain.
func Continue(path string) (*Writer, Remains, error) {
	w, remains, err := reopen(path)
	if err != nil {
		return nil, remains, fmt.Errorf("continue journal %s: %w", path, err)
	}
	return w, remains, nil
}

func reopen(path string) (_ *Writer, found Remains, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, found, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, found, err
	}
	if !info.Mode().IsRegular() {
		return nil, found, fmt.Errorf("not a plain file (%s)", info.Mode().Type())
	}
	first, err := readLine(bufio.NewReader(f))
	if err == io.EOF {
		return nil, found, ErrNoStart
	}
	if err != nil {
		return nil, found, err
	}
	if err := checkVersion(first); err != nil {
		return nil, found, err
	}
	start, err := parseLine(first)
	if err != nil {
		return nil, found, fmt.Errorf("line 1: %w", err)
	}
	found.Start = *start.Start

	last, torn, err := lastLine(f, info.Size())
	if err != nil {
		return nil, found, err
	}
	l, err := parseLine(last)
	if err != nil {
		return nil, found, fmt.Errorf("its last line: %w", err)
	}
	found.Last, found.Ended = l.At, l.End != nil
	if found.Torn = torn; torn > 0 {
		if err := f.Truncate(info.Size() - int64(torn)); err != nil {
			return nil, found, fmt.Errorf("cut off its torn last line: %w", err)
		}
	}
	w := newWriter(f, path, func() time.Duration { return max(time.Since(found.Start.Wall), found.Last) })
	w.head = hash(last)
	return w, found, nil
}

// lastLine is the last whole line of a file that has at least one, without its
// newline, and how many bytes follow it.
func lastLine(f io.ReaderAt, size int64) (line []byte, torn int, err error) {
	for n := int64(64 << 10); ; n *= 4 {
		n = min(n, size)
		tail := make([]byte, n)
		if _, err := f.ReadAt(tail, size-n); err != nil && err != io.EOF {
			return nil, 0, err
		}
		end := bytes.LastIndexByte(tail, '\n')
		begin := -1
		if end >= 0 {
			begin = bytes.LastIndexByte(tail[:end], '\n')
		}
		switch {
		case end >= 0 && (begin >= 0 || n == size):
			return tail[begin+1 : end], len(tail) - end - 1, nil
		case n == size || n > 2*MaxLine:
			return nil, 0, errors.New("it has no whole line near its end")
		}
	}
}
