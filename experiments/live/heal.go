package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/experiments/audit"
	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/faults/undo"
	"github.com/chaosctl/chaosctl/targets/process"
)

// healWithin bounds the healing of one run: processes that have to go on, or to
// die, do so in milliseconds, or hang in the kernel.
const healWithin = 15 * time.Second

// Healed is what was done about one dead run.
type Healed struct {
	Run      string   `json:"run"`
	Folder   string   `json:"folder"`
	Reverted []string `json:"reverted,omitempty"` // faults that were in effect, or may have been
	Killed   []int    `json:"killed,omitempty"`   // processes that had outlived it
	Removed  []string `json:"removed,omitempty"`  // folders
	Notes    []string `json:"notes,omitempty"`    // what is odd and does no harm
}

// String is what was done, in a line.
func (h Healed) String() string {
	var did []string
	if len(h.Reverted) > 0 {
		did = append(did, "reverted "+strings.Join(h.Reverted, ", "))
	}
	if len(h.Killed) > 0 {
		did = append(did, fmt.Sprintf("killed %d left processes %v", len(h.Killed), h.Killed))
	}
	if len(h.Removed) > 0 {
		did = append(did, "removed "+strings.Join(h.Removed, ", "))
	}
	if len(did) == 0 {
		return "it had left nothing"
	}
	return strings.Join(did, "; ")
}

// Heal undoes what a dead run left, with nothing but its files: the faults (last
// in, first out), the processes it started, its temporary folder. It tells the
// run's journal, and removes the entry when all that is done; what could not be
// done is the error, and the entry stays. by says who heals, for the journal.
//
// An owner that still runs is refused with undo.ErrOwned. Several may heal the
// same run: one does, the others wait and find nothing left. Safe to repeat.
func (x *Index) Heal(ctx context.Context, e Entry, by string) (Healed, error) {
	h := Healed{Run: e.Run, Folder: e.Folder}
	if s := e.State(); s != Dead {
		return h, fmt.Errorf("heal run %s: %w (pid %d, %s)", e.Run, undo.ErrOwned, e.Owner.PID, s)
	}
	unlock, err := lockEntry(e.File)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil // somebody else has healed it
	}
	if err != nil {
		return h, fmt.Errorf("heal run %s: %w", e.Run, err)
	}
	defer unlock()
	if e, err = ReadEntry(e.File); err != nil { // with the children that were noted last
		return h, fmt.Errorf("heal run %s: %w", h.Run, err)
	}
	ctx, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()

	log := openRecord(e, by, &h)
	log.audit = audit.In(x.dir)
	errs := []error{
		h.revert(ctx, e, log),
		h.kill(ctx, e),
		h.clear(e),
	}
	err = errors.Join(errs...)
	log.close(err)
	if err == nil {
		err = x.remove(e)
	}
	if err != nil {
		return h, fmt.Errorf("heal run %s: %w", e.Run, err)
	}
	return h, nil
}

// revert goes through the undo records, the last one first.
func (h *Healed) revert(ctx context.Context, e Entry, log *record) error {
	pending, err := undo.Pending(e.UndoFolder())
	errs := []error{err}
	slices.Reverse(pending)
	for _, r := range pending {
		log.fault(r, "reverting", "", nil)
		outcome, err := undo.Revert(ctx, r)
		if err != nil {
			errs = append(errs, err)
			log.fault(r, "failed", "", err)
			continue
		}
		detail := "by " + log.by
		if outcome == undo.Nothing {
			detail += ": nothing was left of it"
		}
		log.fault(r, "reverted", detail, nil)
		log.fault(r, "verified", detail, nil)
		h.Reverted = append(h.Reverted, fmt.Sprintf("%s (%s %s)", r.Fault, r.Kind, r.Target))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Unfinished records are of faults that never were.
	left, _ := filepath.Glob(filepath.Join(e.UndoFolder(), "*.new"))
	for _, path := range left {
		errs = append(errs, os.Remove(path))
	}
	if err := os.Remove(e.UndoFolder()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// kill ends what the run started and what has outlived it: the children
// themselves are killed by the kernel with their parent, what they started is not.
func (h *Healed) kill(ctx context.Context, e Entry) error {
	if e.Boot != undo.BootID() {
		return nil
	}
	var errs []error
	for _, c := range e.Children {
		ps, err := undo.ParseProcesses(c.Process)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, p := range ps {
			if err := killGroup(ctx, p); err != nil {
				errs = append(errs, fmt.Errorf("kill service %q: %w", c.Service, err))
			}
		}
	}
	killed, err := process.KillMarked(ctx, e.Run)
	h.Killed = killed
	return errors.Join(append(errs, err)...)
}

// killGroup kills a child's process group while the child itself, identified by
// number and start, holds the group's number, and waits until the child is gone:
// the kernel has sent it SIGKILL with our death, but its ports are free only then.
func killGroup(ctx context.Context, p undo.Process) error {
	if !p.Alive() {
		return nil
	}
	if group, err := unix.Getpgid(p.PID); err != nil || group != p.PID {
		return nil // it has left the group it was given; its mark is looked at next
	}
	if err := unix.Kill(-p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.Alive() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d did not die of SIGKILL: %w", p.PID, context.Cause(ctx))
		}
	}
	return nil
}

// clear removes the temporary folder, if it is one: a folder of this user, by the
// name that a run gives it.
func (h *Healed) clear(e Entry) error {
	info, err := os.Lstat(e.Temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Getuid() || !strings.HasPrefix(filepath.Base(e.Temp), TempPrefix+e.Run+"-") {
		return fmt.Errorf("%s is not a folder that run %s made: it is left alone", e.Temp, e.Run)
	}
	if err := os.RemoveAll(e.Temp); err != nil {
		return err
	}
	h.Removed = append(h.Removed, e.Temp)
	return nil
}

// TempPrefix begins the name of a run's temporary folder; the run's id and a dash
// follow. Nothing by another name is ever removed.
const TempPrefix = "chaosctl-"

// lockEntry takes the entry for one healer. When the lock is had and the entry
// has been removed meanwhile, that is fs.ErrNotExist.
func lockEntry(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	held, err := f.Stat()
	now, err2 := os.Stat(path)
	if err := errors.Join(err, err2); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !os.SameFile(held, now) {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// record is the run's journal, continued; it swallows what is told where there is
// no journal to tell it to: healing does not depend on it.
type record struct {
	by     string
	owner  int
	w      *journal.Writer
	audit  *audit.Log
	healed *Healed
}

func openRecord(e Entry, by string, h *Healed) *record {
	r := &record{by: by, owner: e.Owner.PID, healed: h}
	w, found, err := journal.Continue(filepath.Join(e.Folder, "journal.jsonl"))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, journal.ErrNoStart): // it died before it began
		return r
	case err != nil:
		r.note(err)
		return r
	case found.Ended: // it died on its way out: there is nothing to add
		r.note(w.Close())
		return r
	}
	r.w = w
	if found.Torn > 0 {
		r.write(journal.Event{Mark: &journal.Mark{Warning: true, Text: fmt.Sprintf(
			"the last line was cut off while it was written: its %d bytes were removed by %s", found.Torn, by)}})
	}
	r.write(journal.Event{Abort: &journal.Abort{Reason: fmt.Sprintf("chaosctl (pid %d) was killed; what it left was undone by %s", e.Owner.PID, by)}})
	return r
}

func (r *record) fault(u undo.Record, state, detail string, err error) {
	f := &journal.Fault{Name: u.Fault, Kind: u.Kind, Target: u.Target, State: state, Detail: detail}
	if err != nil {
		f.Error = err.Error()
	}
	r.write(journal.Event{Fault: f})
	if event := map[string]string{"reverted": audit.Reverted, "verified": audit.Verified, "failed": audit.Failed}[state]; event != "" {
		r.put(audit.Entry{Event: event, Fault: u.Fault, Kind: u.Kind, Target: u.Target, Detail: detail, Error: f.Error})
	}
}

// put adds to the audit log, in the name of whoever heals.
func (r *record) put(e audit.Entry) {
	e.Command, e.Run = strings.TrimPrefix(strings.TrimPrefix(r.by, "its "), "chaosctl "), r.healed.Run
	_, err := r.audit.Append(e, false)
	r.note(err)
}

// close says how it ended, and seals the journal.
func (r *record) close(failed error) {
	entry := audit.Entry{Event: audit.Healed, Detail: r.healed.String()}
	if failed != nil {
		entry.Error = failed.Error()
	}
	r.put(entry)
	if r.w == nil {
		return
	}
	end := &journal.End{Status: "aborted"}
	if failed != nil {
		end.Error = failed.Error()
	}
	r.write(journal.Event{Mark: &journal.Mark{Warning: true, Text: r.by + ": " + r.healed.String()}})
	r.write(journal.Event{End: end})
	r.note(r.w.Close())
}

func (r *record) write(e journal.Event) {
	if r.w != nil {
		r.note(r.w.Write(e))
	}
}

func (r *record) note(err error) {
	if err != nil {
		r.healed.Notes = append(r.healed.Notes, err.Error())
	}
}
