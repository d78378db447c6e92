// Package undo keeps, on disk, what would still have to be reverted if this
// process died now. A fault's record is written and synced before the fault
// exists and removed after its revert is verified, so at any moment the folder
// holds every fault that may be in effect, and perhaps one that never came to be:
// reverting must therefore be harmless when there is nothing to revert.
//
// Format: one file per record, "<number>-<fault>.json", one JSON object:
//
//	{"version":1,"run":"…","fault":"freeze","kind":"pause","target":"payments",
//	 "owner":{"pid":812,"start_ticks":90211},"boot":"<boot id>",
//	 "data":{"processes":"840@90260 846@90262"},"at":"2026-01-02T15:04:05Z"}
//
// A file is written under a name that no reader looks at, synced, and linked to
// its own: a record is whole or absent, and never replaces another. Pending reads what a dead owner left; Revert
// undoes one record with nothing but what it says.
package undo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Version is the format of a record.
const Version = 1

const (
	suffix     = ".json"
	unfinished = ".new"  // what a record is called until it is synced
	limit      = 1 << 20 // bytes; a larger file is not one of ours
)

// Record says what a fault changes, completely enough to change it back without
// the process that made it.
type Record struct {
	Version int               `json:"version"`
	Run     string            `json:"run,omitempty"`
	Fault   string            `json:"fault"`          // its name in the scenario
	Kind    string            `json:"kind"`           // its verb
	Target  string            `json:"target"`         // edge or service
	Owner   Owner             `json:"owner"`          // who holds the fault
	Boot    string            `json:"boot,omitempty"` // boot id: process numbers mean nothing after the next boot
	Data    map[string]string `json:"data,omitempty"` // what the kind needs; see Processes for pause, Files for disk
	At      time.Time         `json:"at"`

	File string `json:"-"` // where Pending found it
}

// Owner is a process, told apart from a later one with the same number by when
// it started (field 22 of /proc/PID/stat, clock ticks since boot).
type Owner struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"`
}

// Log is an open folder of records. Its methods may be called from any goroutine.
type Log struct {
	Run string // stamped on records that name none

	dir   string
	owner Owner
	boot  string
	sync  func(*os.File) error // (*os.File).Sync, but for tests

	mu     sync.Mutex
	next   int
	closed bool
	claims map[string]bool
}

// Open makes the folder where it is missing, and takes it into use. Records that
// are already there stay: they are somebody's, and Pending tells whose.
func Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open undo log: %w", err)
	}
	// The folder itself has to survive a power cut, or its files do not.
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("open undo log: %w", err)
	}
	me, err := Identify(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("open undo log: %w", err)
	}
	return &Log{dir: dir, owner: Owner(me), boot: BootID(), sync: (*os.File).Sync}, nil
}

// Dir is the folder the records are in.
func (l *Log) Dir() string { return l.dir }

// Record puts r on disk, for good: when it returns without an error the record
// survives any death of this process or of the machine, and the fault may be
// injected. When it returns an error, a full disk say, there is no record, and
// there must be no fault. It fills in Version, Owner, Boot, At, and Run.
//
// done says that the fault is reverted. It may be called more than once, and by
// any goroutine; after its first success it does nothing. When it fails the
// record is still there, which is harmless: to revert again changes nothing.
func (l *Log) Record(r Record) (done func() error, err error) {
	r.Version, r.Owner, r.Boot = Version, l.owner, l.boot
	if r.Run == "" {
		r.Run = l.Run
	}
	if r.At.IsZero() {
		r.At = time.Now()
	}
	doing := func(err error) error { return fmt.Errorf("write undo record of fault %q: %w", r.Fault, err) }
	if err := r.check(); err != nil {
		return nil, doing(err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return nil, doing(err)
	}
	if len(line) >= limit {
		return nil, doing(fmt.Errorf("%d bytes; a record has at most %d", len(line), limit))
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, doing(errors.New("the log is closed"))
	}
	temp, err := l.write(append(line, '\n'))
	if err != nil {
		return nil, doing(err)
	}
	path, err := l.publish(temp, r.Fault)
	if err != nil {
		return nil, errors.Join(doing(err), os.Remove(temp))
	}
	if err := errors.Join(os.Remove(temp), l.syncDir()); err != nil {
		return nil, errors.Join(doing(err), os.Remove(path))
	}
	return func() error { return l.remove(r.Fault, path) }, nil
}

// Claim takes something, named by its key, for one fault at a time: what two of
// them changed at once, neither could put back as it was. ok is false while another
// has it. release may be called again.
func (l *Log) Claim(key string) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.claims[key] {
		return nil, false
	}
	if l.claims == nil {
		l.claims = map[string]bool{}
	}
	l.claims[key] = true
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.claims, key)
	}), true
}

// Close ends the log's use: no more records. What is pending stays; a folder in
// which nothing is pending is removed. It may be called again.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	err := os.Remove(l.dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return fmt.Errorf("close undo log: %w", err)
}

// write puts the content, synced, into a file that no reader takes for a record.
func (l *Log) write(content []byte) (path string, err error) {
	f, err := os.CreateTemp(l.dir, "*"+unfinished)
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = l.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// publish gives the file the next unused name of a record. It links, and does not
// rename: others may be writing into the same folder, and a rename would silently
// replace a record of theirs that took the name since we looked.
func (l *Log) publish(temp, fault string) (path string, err error) {
	for {
		l.next++
		path = filepath.Join(l.dir, fmt.Sprintf("%06d-%s%s", l.next, fileName(fault), suffix))
		if err := os.Link(temp, path); !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
}

func (l *Log) remove(fault, path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = l.syncDir()
	}
	if err != nil {
		return fmt.Errorf("remove undo record of fault %q: %w", fault, err)
	}
	return nil
}

func (l *Log) syncDir() error {
	f, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.sync(f)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Pending lists the records in dir in the order they were written; none when
// there is no such folder. A file that cannot be read as a record does not hide
// the others: they are returned along with an error that names each bad file.
func Pending(dir string) ([]Record, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read undo log: %w", err)
	}
	var records []Record
	var bad []error
	for _, e := range entries { // by name, and so by number
		// "….new" was never finished, so its fault never existed.
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		r, err := readFile(path)
		if err != nil {
			bad = append(bad, fmt.Errorf("undo record %s: %w", path, err))
			continue
		}
		r.File = path
		records = append(records, r)
	}
	return records, errors.Join(bad...)
}

// readFile trusts nothing: neither that the name is a plain file (a FIFO would
// hang, a device never end), nor its size, nor its content.
func readFile(path string) (Record, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Record{}, err
	}
	if !info.Mode().IsRegular() {
		return Record{}, fmt.Errorf("not a plain file (%s)", info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return Record{}, err
	}
	return Parse(b)
}

// Parse reads the content of one record file.
func Parse(b []byte) (Record, error) {
	var r Record
	if len(b) > limit {
		return Record{}, fmt.Errorf("larger than %d bytes", limit)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return Record{}, errors.New("empty")
	}
	// Version first: a later one may mean something else by the same keys.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Record{}, fmt.Errorf("not a record: %w", err)
	}
	if head.Version != Version {
		return Record{}, fmt.Errorf("version %d; this chaosctl reads version %d", head.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("not a record: %w", err)
	}
	if err := r.check(); err != nil {
		return Record{}, err
	}
	if r.Owner.PID <= 0 {
		return Record{}, fmt.Errorf("owner pid %d", r.Owner.PID)
	}
	return r, nil
}

func (r Record) check() error {
	if r.Fault == "" || r.Kind == "" {
		return errors.New("a record needs a fault and a kind")
	}
	switch r.Kind {
	case kindPause:
		_, err := ParseProcesses(r.Data[Processes])
		return err
	case kindDisk:
		_, err := ParseFiles(r.Data[Files])
		return err
	}
	return nil
}

// fileName keeps letters, digits, dot, dash and underscore of a fault's name.
func fileName(fault string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '_'
	}, fault)
	return name[:min(len(name), 80)]
}

// BootID tells this boot of the machine from every other one.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// String names the record in messages.
func (r Record) String() string {
	var keys []string
	for k := range r.Data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return fmt.Sprintf("%s: %s %s (owner pid %d; %s)", r.Fault, r.Kind, r.Target, r.Owner.PID, strings.Join(keys, ", "))
}
