package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Writer appends events to one journal. Its methods may be called by any
// goroutine; the order in the file is the order of the calls.
//
// Every line goes to the operating system before Write returns, so that a
// SIGKILL loses nothing and a full disk is known to the caller at once. (A line
// costs some microseconds; a run writes about a hundred a second.) Only Close
// asks for the disk itself.
type Writer struct {
	now func() time.Duration

	mu     sync.Mutex
	out    io.WriteCloser
	name   string // for messages
	head   string // hash of the last line; empty before the first
	err    error  // the first write that failed: nothing is written after it
	closed bool
	taps   []*func(Event)
}

// Create starts a new journal. A file that exists already is an error: a
// journal is never overwritten and never continued by another run. now is the
// run's clock, asked for events that bring no moment of their own.
func Create(path string, now func() time.Duration) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("journal %s exists already: a run never overwrites another; choose an empty folder: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	return newWriter(f, path, now), nil
}

func newWriter(out io.WriteCloser, name string, now func() time.Duration) *Writer {
	return &Writer{now: now, out: out, name: name}
}

// Write appends one event. The first must be a start, and only the first; its
// Version is filled in. An event whose At is zero gets the run's clock, except
// for the start, which is at 0 by definition.
//
// An event that cannot be encoded is refused and leaves no trace. When the file
// cannot be written, that error is returned now and by every later call: what
// stands in the file may end in a torn line, which Read knows how to report.
func (w *Writer) Write(e Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err != nil:
		return w.err
	case w.closed:
		return fmt.Errorf("write %q event to journal %s: %w", e.Kind(), w.name, os.ErrClosed)
	case w.head == "" && e.Start == nil:
		return fmt.Errorf("journal %s: the first event must be a start, not %q", w.name, e.Kind())
	case w.head != "" && e.Start != nil:
		return fmt.Errorf("journal %s: a second start", w.name)
	}
	if e.Start != nil {
		start := *e.Start
		start.Version = Version
		e.Start = &start
	} else if e.At == 0 && w.now != nil {
		e.At = w.now()
	}
	e.At = e.At.Round(time.Microsecond) // what subscribers see is what a reader will see
	b, err := encodeLine(e, w.head)
	if err != nil {
		return fmt.Errorf("journal %s: %w", w.name, err)
	}
	if _, err := w.out.Write(append(b, '\n')); err != nil {
		w.err = fmt.Errorf("write journal: %w", err)
		return w.err
	}
	w.head = hash(b)
	for _, tap := range w.taps {
		(*tap)(e)
	}
	return nil
}

// Subscribe has every later event passed to tap, in order, with its moment
// filled in, until the returned cancel is called. tap runs under the writer's
// lock: it must not block and must not call the writer (cancel included). When
// cancel has returned, tap is not running and will not be called again.
func (w *Writer) Subscribe(tap func(Event)) (cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &tap
	w.taps = append(w.taps, t)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.taps = slices.DeleteFunc(w.taps, func(o *func(Event)) bool { return o == t })
	}
}

// Head is the hash of the last line, in hex; empty before the first.
func (w *Writer) Head() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head
}

// Err is the error that stopped the journal, if one did.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close brings the journal to the disk (fsync, file and folder) and closes it.
// It also returns a write error that happened earlier: a journal with a hole may
// not pass for a whole one. Closing again returns the same.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return w.err
	}
	w.closed = true
	var errs []error
	if w.err != nil {
		errs = append(errs, w.err)
	}
	if f, ok := w.out.(*os.File); ok {
		if err := f.Sync(); err != nil {
			errs = append(errs, fmt.Errorf("sync journal: %w", err))
		}
		if err := syncFolder(filepath.Dir(f.Name())); err != nil {
			errs = append(errs, fmt.Errorf("sync journal's folder: %w", err))
		}
	}
	if err := w.out.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close journal: %w", err))
	}
	w.err = errors.Join(errs...)
	return w.err
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// encodeLine is the event's JSON with the hash of the line before as its last key.
func encodeLine(e Event, prev string) ([]byte, error) {
	b, err := e.MarshalJSON()
	if err != nil || prev == "" {
		return b, err
	}
	b = append(b[:len(b)-1], `,"prev":"`...)
	b = append(b, prev...)
	return append(b, `"}`...), nil
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
