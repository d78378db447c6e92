// Package audit keeps, for all runs of a user on a machine, who asked for what when,
// and what became of it. It is an append-only file of JSON lines beside the index of
// live runs, because it must outlive every run folder:
//
//	$XDG_STATE_HOME/chaosctl/audit.jsonl
//	    {"n":12,"prev":"<sha256 of line 11>","at":"…","who":{…},"command":"run","event":"injected","run":"…","fault":"freeze",…}
//
// Each line carries the hash of the one before. Without a key such a chain shows
// edits, insertions and removals before its end, and a missing end only against a
// copy of a later hash: every run notes in its own journal which entry it began
// with, and `chaosctl audit verify --run` compares.
//
// Processes append one at a time (a lock on the file). A line that its writer did
// not finish is never taken for an entry, nor removed: the next writer seals it by an
// entry that says how many bytes it has. A file that has grown to RotateAt is renamed to
// audit-<its last n>.jsonl, and the chain goes on in a new one; the Keep last of
// those stay, so that all of it takes RotateAt times Keep+1 bytes at most.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What an entry may be about.
const (
	Begun    = "begun"    // a command that may send load or inject faults
	Asked    = "asked"    // a fault: its undo record exists, it is about to be injected
	Injected = "injected" // and its effect was confirmed
	Reverted = "reverted"
	Verified = "verified" // seen to be as before
	Failed   = "failed"   // a fault could not be injected, or reverted
	Ended    = "ended"
	Healed   = "healed" // what a dead run left was undone
	Halted   = "halted" // the lever was pulled
	Released = "released"
	Sealed   = "sealed" // the line before was not finished by its writer
)

// Entry is one line. N, Prev, At and Who are filled in by Append.
type Entry struct {
	N        uint64    `json:"n"` // counts from 1, on through rotation
	Prev     string    `json:"prev"`
	At       time.Time `json:"at"`
	Who      Who       `json:"who"`
	Command  string    `json:"command"` // of chaosctl: run, load, halt, …; "watchdog"
	Event    string    `json:"event"`   // one of the above
	Run      string    `json:"run,omitempty"`
	Scenario string    `json:"scenario,omitempty"`
	Fault    string    `json:"fault,omitempty"`
	Kind     string    `json:"kind,omitempty"`
	Target   string    `json:"target,omitempty"` // of the fault; of load, where it is sent
	Detail   string    `json:"detail,omitempty"`
	Error    string    `json:"error,omitempty"`
	Bytes    int64     `json:"bytes,omitempty"` // sealed: of the line before
}

// Who is a process and whose it is.
type Who struct {
	UID  int    `json:"uid"`
	User string `json:"user,omitempty"`
	Host string `json:"host"`
	PID  int    `json:"pid"`
}

// Me is this process.
func Me() Who {
	w := Who{UID: os.Getuid(), PID: os.Getpid()}
	w.Host, _ = os.Hostname()
	if u, err := user.Current(); err == nil {
		w.User = u.Username
	}
	return w
}

const (
	// RotateAt is how large a file may grow, in bytes.
	RotateAt = 8 << 20
	// Keep is how many files there may be beside the one that is written.
	Keep = 3

	name      = "audit.jsonl"
	lineLimit = 1 << 16
)

// Log is the audit log in a folder. It holds nothing open; its methods may be called
// from any goroutine and by several processes.
type Log struct {
	dir      string
	rotateAt int64 // RotateAt, but for tests
	lockFor  time.Duration
}

// In is the log in a folder, which exists.
func In(dir string) *Log { return &Log{dir, RotateAt, lockWithin} }

// Path is the file that is written.
func (l *Log) Path() string { return filepath.Join(l.dir, name) }

// lockWithin bounds the wait for others who append: each takes less than a
// millisecond, unless it was stopped in the midst of it.
const lockWithin = 2 * time.Second

// Mark is a place in the chain.
type Mark struct {
	N    uint64 `json:"n"`
	Hash string `json:"hash"` // of entry N's line
}

// Append writes e to the end of the log, and says where that is. With sync it is on
// disk when Append returns.
func (l *Log) Append(e Entry, sync bool) (Mark, error) {
	m, err := l.append(e, sync)
	if err != nil {
		return m, fmt.Errorf("audit log: %w", err)
	}
	return m, nil
}

func (l *Log) append(e Entry, sync bool) (m Mark, err error) {
	f, err := l.open()
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // releases the lock
	last, torn, err := tail(f)
	if err != nil {
		return m, err
	}
	if torn > 0 {
		// One write: a line end for the torn line, and the entry that says so.
		sealed := Entry{Event: Sealed, Command: e.Command, Bytes: int64(len(last.line)),
			Detail: "the line before was cut off while it was written"}
		last, err = write(f, last, sealed, "\n")
		if err != nil {
			return m, err
		}
	}
	if size, err := f.Seek(0, io.SeekEnd); err != nil {
		return m, err
	} else if size >= l.rotateAt {
		if f, err = l.rotate(f, last.n); err != nil {
			return m, err
		}
	}
	now, err := write(f, last, e, "")
	if err == nil && sync {
		err = f.Sync()
	}
	return Mark{now.n, hash(now.line)}, err
}

// end is the last line of a log.
type end struct {
	n    uint64 // of the last whole entry
	line []byte // without its line end; also one that is no entry
}

func hash(line []byte) string {
	if line == nil {
		return ""
	}
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// write appends an entry behind last, in one write.
func write(f *os.File, last end, e Entry, before string) (end, error) {
	e.N, e.Prev, e.At, e.Who = last.n+1, hash(last.line), time.Now().UTC(), Me()
	for _, text := range []*string{&e.Run, &e.Scenario, &e.Fault, &e.Target, &e.Detail, &e.Error} {
		if len(*text) > 4096 {
			*text = strings.ToValidUTF8((*text)[:4096], "") + " …"
		}
	}
	line, err := json.Marshal(e)
	if err != nil {
		return last, err
	}
	_, err = f.Write([]byte(before + string(line) + "\n"))
	return end{e.N, line}, err
}

// open opens the file, makes it where it is missing, and has the lock: of the file
// that the name leads to, also when another process has just rotated it.
func (l *Log) open() (*os.File, error) {
	deadline := time.Now().Add(l.lockFor)
	for {
		f, err := os.OpenFile(l.Path(), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		for {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if err != unix.EWOULDBLOCK && err != unix.EINTR {
				break
			}
			if time.Now().After(deadline) {
				return nil, errors.Join(fmt.Errorf("%s has been locked by another process for %s: is it stopped?", l.Path(), l.lockFor), f.Close())
			}
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		held, err := f.Stat()
		now, err2 := os.Stat(l.Path())
		if err == nil && err2 == nil && os.SameFile(held, now) {
			return f, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if err2 != nil && !errors.Is(err2, fs.ErrNotExist) {
			return nil, err2
		}
	}
}

// tail reads the end of an open log. torn is how many bytes stand behind the last
// line end.
func tail(f *os.File) (last end, torn int, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return last, 0, err
	}
	from := max(0, size-2*lineLimit)
	b := make([]byte, size-from)
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return last, 0, err
	}
	if from > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return last, 0, fmt.Errorf("%s ends with a line of more than %d bytes: it is not one of ours; move it away", f.Name(), 2*lineLimit)
		}
		b = b[i+1:]
	}
	whole, rest := b, []byte(nil)
	if i := bytes.LastIndexByte(b, '\n'); i < len(b)-1 {
		whole, rest = b[:i+1], b[i+1:]
	}
	lines := bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		if e, err := parse(lines[i]); err == nil {
			last.n = e.N
			break
		}
	}
	last.line = slices.Clone(lines[len(lines)-1])
	if len(whole) == 0 {
		last.line = nil
	}
	if len(rest) > 0 {
		last.line = slices.Clone(rest)
	}
	return last, len(rest), nil
}

// rotate gives the full file its last name and begins a new one. The old one's lock
// is kept until the new one is had, so that nobody comes between.
func (l *Log) rotate(old *os.File, n uint64) (*os.File, error) {
	if err := old.Sync(); err != nil {
		return old, err
	}
	f, err := os.CreateTemp(l.dir, ".audit-*")
	if err != nil {
		return old, err
	}
	fresh := f.Name()
	// With O_APPEND, and locked before anybody can see it.
	if err := f.Close(); err != nil {
		return old, err
	}
	if f, err = os.OpenFile(fresh, os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return old, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return old, errors.Join(err, f.Close(), os.Remove(fresh))
	}
	rotated := filepath.Join(l.dir, fmt.Sprintf("audit-%012d.jsonl", n))
	// Linked, then replaced: a moment without a file by that name is a moment in which
	// another process would begin a chain of its own.
	if err := os.Link(l.Path(), rotated); err != nil {
		return old, errors.Join(err, f.Close(), os.Remove(fresh))
	}
	if err := os.Rename(fresh, l.Path()); err != nil {
		return old, errors.Join(err, f.Close(), os.Remove(fresh), os.Remove(rotated))
	}
	if err := old.Close(); err != nil {
		return f, err
	}
	files, err := l.Files()
	for ; err == nil && len(files) > Keep+1; files = files[1:] {
		err = os.Remove(files[0])
	}
	return f, err
}

// Files lists the log's files, the oldest first; none when nothing was ever written.
func (l *Log) Files() ([]string, error) {
	entries, err := os.ReadDir(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	current := ""
	for _, e := range entries { // by name, and so by number
		number, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".jsonl"), "audit-")
		if _, err := strconv.ParseUint(number, 10, 64); ok && err == nil {
			files = append(files, filepath.Join(l.dir, e.Name()))
		}
		if e.Name() == name {
			current = filepath.Join(l.dir, name)
		}
	}
	if current != "" {
		files = append(files, current)
	}
	return files, nil
}

// parse reads one line.
func parse(line []byte) (e Entry, err error) {
	if len(line) > lineLimit {
		return e, fmt.Errorf("longer than %d bytes", lineLimit)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("not an entry: %w", err)
	}
	if d.More() {
		return e, errors.New("not an entry: more than one value")
	}
	if e.N == 0 || e.Event == "" || e.Command == "" {
		return e, errors.New("not an entry: n, event and command are needed")
	}
	return e, nil
}
