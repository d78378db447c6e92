package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Lever is what `chaosctl halt` pulls: a file beside the index. While it is there
// nothing starts, and what runs ends.
type Lever struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Run    string    `json:"run,omitempty"` // of which it stops only one; "" = all
}

// haltSuffix ends the name of the lever of one run, beside its entry.
const haltSuffix = ".halt"

func (x *Index) leverPath(run string) string {
	if run == "" {
		return filepath.Join(x.dir, "halt")
	}
	return x.path(run) + haltSuffix
}

// Halt pulls the lever: for all runs, also those to come until Release, or for
// one that is live. A lever that is pulled already stays as it is.
func (x *Index) Halt(l Lever) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	// Whole or absent: a run must not read half a reason.
	f, err := os.CreateTemp(x.dir, ".halt-*")
	if err != nil {
		return fmt.Errorf("pull the lever: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), x.leverPath(l.Run))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("pull the lever: %w", err)
	}
	return nil
}

// Release lets runs start again. It tells whether the lever was pulled.
func (x *Index) Release() (was bool, err error) {
	err = os.Remove(x.leverPath(""))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("release the lever: %w", err)
	}
	return true, nil
}

// Halted is the lever that stops a run, or nil. run "" asks only for the one that
// stops all. A lever that is there and cannot be read stops, too.
func (x *Index) Halted(run string) *Lever {
	for _, name := range []string{"", run} {
		b, err := os.ReadFile(x.leverPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var l Lever
		if err == nil {
			err = json.Unmarshal(b, &l)
		}
		if err != nil {
			return &Lever{Reason: fmt.Sprintf("the lever %s cannot be read: %v", x.leverPath(name), err), Run: name}
		}
		return &l
	}
	return nil
}

// leverEvery is how often a live run looks whether somebody has pulled the lever.
const leverEvery = 100 * time.Millisecond

// AwaitLever returns the lever that stops this run once somebody pulls it, or nil
// when ctx ends first.
func (x *Index) AwaitLever(ctx context.Context, run string) *Lever {
	tick := time.NewTicker(leverEvery)
	defer tick.Stop()
	for {
		if l := x.Halted(run); l != nil {
			return l
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// String is the reason, and since when.
func (l Lever) String() string {
	return fmt.Sprintf("halted since %s: %s", l.At.Local().Format(time.DateTime), l.Reason)
}
