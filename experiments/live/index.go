// Package live knows which runs there are on this machine, and what to do about
// one whose process is gone: undo what it left.
//
// Each live run has an entry, one small file outside its run folder, because
// whoever cleans up behind a killed run does not know where that folder is:
//
//	$XDG_STATE_HOME/chaosctl/live/<id>      (default ~/.local/state/chaosctl)
//	    {"version":1,"run":"…","owner":{"pid":812,"start_ticks":90211},"boot":"…",
//	     "folder":"/home/me/.chaosctl/runs/…","temp":"/tmp/chaosctl-…","holds":["127.0.0.1:9001"],"at":"…"}
//	    {"service":"orders","process":"840@90260"}        one line for each child
//
// Three come to look: the watchdog, at once; `chaosctl recover`, when asked; and
// the next run, before it starts. All call Heal, one at a time (a lock on the
// entry), and never for an owner that still runs.
//
//	            Enter                 Leave
//	(nothing) ─────────> live run ──────────────> (nothing)
//	                        │ its process dies        ^
//	                        v                         │
//	                   dead run ──── Heal ────────────┘
//
// Beside the index lies the lever of `chaosctl halt`.
package live

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/faults/undo"
)

// Version is the format of an entry.
const Version = 1

// limit bounds an entry that is read; a larger file is not one of ours.
const limit = 1 << 20

// Entry is what is known of one run from outside.
type Entry struct {
	Version   int        `json:"version"`
	Run       string     `json:"run"`
	Owner     undo.Owner `json:"owner"`
	Boot      string     `json:"boot"`
	Namespace string     `json:"pid_namespace"` // in which the owner's number means something
	Folder    string     `json:"folder"`        // run folder
	Temp      string     `json:"temp"`          // of the services' databases; may not exist yet, or any more
	Holds     []string   `json:"holds,omitempty"`
	At        time.Time  `json:"at"`

	Children []Child `json:"-"` // the lines below
	File     string  `json:"-"` // where it stands
}

// Child is a process that the run started.
type Child struct {
	Service string `json:"service"`
	Process string `json:"process"` // undo.Process: "840@90260"
}

// State tells whether an entry's owner is there.
type State string

const (
	Live    State = "live"    // it undoes its faults itself
	Dead    State = "dead"    // what it left is to be healed
	Unknown State = "unknown" // it ran in another pid namespace (a container): it cannot be seen from here
)

// State looks the owner up.
func (e Entry) State() State {
	switch {
	case e.Boot != undo.BootID():
		return Dead
	case e.Namespace != namespace():
		return Unknown
	case undo.Process(e.Owner).Alive():
		return Live
	}
	return Dead
}

// Index is the folder of entries, and the lever beside it. It holds nothing open;
// its methods may be called from any goroutine and by several processes.
type Index struct{ dir string }

// Open finds the index of this user, $XDG_STATE_HOME/chaosctl or
// ~/.local/state/chaosctl, and makes it where it is missing.
func Open() (*Index, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // the specification: a relative one is to be ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("find the folder that lists live runs: %w", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return OpenAt(filepath.Join(state, "chaosctl"))
}

// OpenAt is Open for a folder of the caller's choice.
func OpenAt(dir string) (*Index, error) {
	if err := os.MkdirAll(filepath.Join(dir, "live"), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder that lists live runs: %w", err)
	}
	return &Index{dir}, nil
}

// Dir is where the index is.
func (x *Index) Dir() string { return x.dir }

func (x *Index) path(run string) string { return filepath.Join(x.dir, "live", run) }

// Entries lists what there is, oldest first. A file that cannot be read does not
// hide the others: they are returned with an error that names each bad one.
func (x *Index) Entries() ([]Entry, error) {
	files, err := os.ReadDir(filepath.Join(x.dir, "live"))
	if err != nil {
		return nil, fmt.Errorf("list live runs: %w", err)
	}
	var entries []Entry
	var bad []error
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") || strings.HasSuffix(f.Name(), haltSuffix) {
			continue
		}
		e, err := ReadEntry(x.path(f.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has left meanwhile
		case err != nil:
			bad = append(bad, err)
		default:
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.At.Compare(b.At) })
	return entries, errors.Join(bad...)
}

// ReadEntry reads one entry. A torn last line, about a child, is left out: its
// process carries the run's mark all the same.
func ReadEntry(path string) (Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	e, err := parseEntry(f)
	if err == nil && e.Run != filepath.Base(path) {
		err = fmt.Errorf("it is about run %q", e.Run)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("entry %s: %w", path, err)
	}
	e.File = path
	return e, nil
}

func parseEntry(r io.Reader) (Entry, error) {
	var e Entry
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return e, err
	}
	if len(b) > limit {
		return e, fmt.Errorf("larger than %d bytes", limit)
	}
	first, rest, _ := bytes.Cut(b, []byte("\n"))
	if err := json.Unmarshal(first, &e); err != nil {
		return e, fmt.Errorf("not an entry: %w", err)
	}
	if e.Version != Version {
		return e, fmt.Errorf("version %d; this chaosctl reads version %d", e.Version, Version)
	}
	if e.Run == "" || e.Run != filepath.Base(e.Run) || e.Owner.PID <= 1 || !filepath.IsAbs(e.Folder) || !filepath.IsAbs(e.Temp) {
		return e, errors.New("not an entry: run, owner, folder and temp are needed")
	}
	lines := bufio.NewScanner(bytes.NewReader(rest))
	lines.Buffer(nil, limit)
	for lines.Scan() {
		var c Child
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			continue
		}
		if ps, err := undo.ParseProcesses(c.Process); err == nil && len(ps) == 1 {
			e.Children = append(e.Children, c)
		}
	}
	return e, lines.Err()
}

// HeldError says that a live run has hold of what another one wants.
type HeldError struct {
	What string
	By   Entry
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s is in the hands of run %s (pid %d, since %s)", e.What, e.By.Run, e.By.Owner.PID, e.By.At.Local().Format(time.TimeOnly))
}

// Run is a run of ours that stands in the index.
type Run struct {
	Entry
	index *Index

	mu   sync.Mutex
	file *os.File
}

// Enter writes the entry of a run that this process is about to start: e.Run,
// Folder, Temp and Holds are the caller's. What is held (addresses of services that
// run already) is held by one run at a time: a *HeldError says by whom.
func (x *Index) Enter(e Entry) (*Run, error) {
	me, err := undo.Identify(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("enter run %s: %w", e.Run, err)
	}
	e.Version, e.Owner, e.Boot, e.Namespace, e.At = Version, undo.Owner(me), undo.BootID(), namespace(), time.Now()
	for i, h := range e.Holds {
		e.Holds[i] = address(h)
	}
	slices.Sort(e.Holds)
	e.Holds = slices.Compact(e.Holds)

	unlock, err := x.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	others, err := x.Entries()
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		for _, h := range e.Holds {
			if slices.Contains(o.Holds, h) && o.State() != Dead {
				return nil, &HeldError{h, o}
			}
		}
	}
	line, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("enter run %s: %w", e.Run, err)
	}
	// Under a name that no reader looks at until it is whole.
	hidden := filepath.Join(x.dir, "live", "."+e.Run)
	f, err := os.OpenFile(hidden, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("enter run %s: %w", e.Run, err)
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(hidden, x.path(e.Run))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("enter run %s: %w", e.Run, err), f.Close(), os.Remove(hidden))
	}
	e.File = x.path(e.Run)
	return &Run{Entry: e, index: x, file: f}, nil
}

// Child notes a process that the run has started. One that is gone already needs
// no note.
func (r *Run) Child(service string, pid int) error {
	p, err := undo.Identify(pid)
	if err != nil {
		return nil
	}
	line, err := json.Marshal(Child{Service: service, Process: p.String()})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	// Not synced: after a power cut there are no processes to look for.
	if _, err := r.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("note process %d in the list of live runs: %w", pid, err)
	}
	return nil
}

// Leave removes the entry: the run is over. It stays, for recover and the next
// run, when a fault of the run could not be reverted.
func (r *Run) Leave() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	if pending, e := undo.Pending(r.UndoFolder()); len(pending) > 0 || e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, r.index.remove(r.Entry))
}

// UndoFolder is where the run keeps its undo records.
func (e Entry) UndoFolder() string { return filepath.Join(e.Folder, "undo") }

func (x *Index) remove(e Entry) error {
	var errs []error
	for _, path := range []string{x.path(e.Run) + haltSuffix, x.path(e.Run)} { // the entry last: it is what leads here
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove run %s from the list of live runs: %w", e.Run, err))
		}
	}
	return errors.Join(errs...)
}

// lock keeps two runs from entering at the same time.
func (x *Index) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(x.dir, "live", ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the list of live runs: %w", err)
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the list of live runs: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing releases it
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

// address makes one name of the several that a loopback address has.
func address(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return s
	}
	if host == "localhost" || host == "" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	return net.JoinHostPort(strings.ToLower(host), port)
}

func namespace() string {
	name, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return name
}
