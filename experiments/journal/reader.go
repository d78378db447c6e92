package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// MaxLine is the longest line that is read. The longest real one is the start,
// which carries the whole plan; hostile input stops here.
const MaxLine = 16 << 20

// ErrVersion is a journal written in a format that this program does not know.
var ErrVersion = errors.New("unknown journal version")

// Read reads a whole journal and returns its events and its head, the hash of
// the last complete line. The version stands in the first line and is checked
// before anything else is believed. A line that does not parse is an error that
// names it.
//
// A last line without a newline that does not parse is what a crash or a full
// disk leaves behind: it is dropped and reported, as a mark with Warning set at
// the end of the events, and is no error. Read does not check the chain of
// hashes; Verify does.
func Read(r io.Reader) (events []Event, head string, err error) {
	err = each(r, func(n int, text []byte, torn bool) error {
		if n == 1 {
			if err := checkVersion(text); err != nil {
				return err
			}
		}
		l, err := parseLine(text)
		if err != nil && torn && n > 1 {
			events = append(events, Event{
				At: events[len(events)-1].At,
				Mark: &Mark{Warning: true, Text: fmt.Sprintf(
					"the journal's last line (%d) is torn: the run was cut off while it was written; it is left out", n)},
			})
			return nil
		}
		if err != nil {
			return err
		}
		if (n == 1) != (l.Start != nil) {
			return errors.New("a start event stands in the first line, and only there")
		}
		events = append(events, l.Event)
		head = hash(text)
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("read journal: %w", err)
	}
	if len(events) == 0 {
		return nil, "", errors.New("read journal: it is empty")
	}
	return events, head, nil
}

// ReadFile reads the journal at path; see Read.
func ReadFile(path string) (events []Event, head string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("open journal: %w", err)
	}
	defer f.Close()
	events, head, err = Read(f)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return events, head, nil
}

// BrokenError says where a journal is no longer what was written.
type BrokenError struct {
	Line   int  // the first line that does not fit, counted from 1
	Torn   bool // it is the last line, and it ends in the middle: a crash, not an edit
	Detail string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("journal line %d: %s", e.Line, e.Detail)
}

// Verify checks that every line carries the hash of the line before, and that
// the last line is whole. It returns a *BrokenError for the first line that does not
// fit: an edit shows in the line after it, and an edit of the last line, or a
// cut, only in the head, which is to be compared with the copy in the result.
func Verify(r io.Reader) error {
	_, err := VerifyHead(r)
	return err
}

// VerifyHead is Verify, and returns the head of a journal that holds.
func VerifyHead(r io.Reader) (head string, err error) {
	err = each(r, func(n int, text []byte, torn bool) error {
		if n == 1 {
			if err := checkVersion(text); err != nil {
				return err
			}
		}
		l, err := parseLine(text)
		switch {
		case err != nil && torn:
			return &BrokenError{n, true, "the last line is torn: the run was cut off while it was written"}
		case err != nil:
			return &BrokenError{n, false, err.Error()}
		case l.prev != head && n == 1:
			return &BrokenError{n, false, "the first line names a line before it: the beginning is missing"}
		case l.prev == "":
			if n > 1 {
				return &BrokenError{n, false, "it does not carry the hash of the line before"}
			}
		case l.prev != head:
			return &BrokenError{n, false, fmt.Sprintf(
				"it was written after a line with hash %.12s…, but line %d has %.12s…: something between was changed, added or removed", l.prev, n-1, head)}
		}
		head = hash(text)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("verify journal: %w", err)
	}
	if head == "" {
		return "", errors.New("verify journal: it is empty")
	}
	return head, nil
}

// each hands over the lines, counted from 1 and without their newline, and
// wraps an error with the line's number. torn is set for a last line that has no
// newline.
func each(r io.Reader, do func(n int, text []byte, torn bool) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		text, err := readLine(in)
		torn := err == io.EOF
		if torn && len(text) == 0 {
			return nil
		}
		if err != nil && !torn {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := do(n, text, torn); err != nil {
			if _, ok := errors.AsType[*BrokenError](err); ok {
				return err
			}
			return fmt.Errorf("line %d: %w", n, err)
		}
		if torn {
			return nil
		}
	}
}

// readLine is bufio's ReadBytes with a bound.
func readLine(in *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(text)+len(part) > MaxLine {
			return nil, fmt.Errorf("longer than %d MiB: this is not a journal", MaxLine>>20)
		}
		text = append(text, part...)
		if err != bufio.ErrBufferFull {
			return bytes.TrimSuffix(text, []byte("\n")), err
		}
	}
}

// checkVersion looks at the version only, so that a later format is called by
// its name and not by the first key that this program does not know.
func checkVersion(text []byte) error {
	var first struct {
		Start *struct {
			Version int `json:"version"`
		} `json:"start"`
	}
	if err := json.Unmarshal(text, &first); err != nil || first.Start == nil {
		return errors.New("not a journal: the first line must be a start event")
	}
	if first.Start.Version != Version {
		return fmt.Errorf("%w %d: this chaosctl reads version %d", ErrVersion, first.Start.Version, Version)
	}
	return nil
}
