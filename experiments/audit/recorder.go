package audit

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Recorder appends the entries of one command without keeping it waiting. Its
// methods may be called from any goroutine; Close comes last.
type Recorder struct {
	log   *Log
	about Entry // Command, Run, Scenario of every entry
	queue chan Entry
	done  chan struct{}

	mu     sync.Mutex
	failed []error
	closed bool
}

// queued is how many entries may wait: more than all faults of a run have steps.
const queued = 4096

// Record writes that a command has begun, with what about says of it, and returns a
// Recorder for the rest. The entry is on disk when it returns: what cannot be put
// down is not to begin.
func (l *Log) Record(about Entry) (*Recorder, Mark, error) {
	begun := about
	begun.Event = Begun
	m, err := l.Append(begun, true)
	if err != nil {
		return nil, m, err
	}
	r := &Recorder{log: l, about: Entry{Command: about.Command, Run: about.Run, Scenario: about.Scenario},
		queue: make(chan Entry, queued), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for e := range r.queue {
			if _, err := l.Append(e, false); err != nil {
				r.fail(err)
			}
		}
	}()
	return r, m, nil
}

// Add writes an entry about the same command, soon. It never blocks.
func (r *Recorder) Add(e Entry) {
	e.Command, e.Run, e.Scenario = r.about.Command, r.about.Run, r.about.Scenario
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	select {
	case r.queue <- e:
	default:
		r.failed = append(r.failed, errors.New("audit log: too many entries wait to be written: one was left out"))
	}
}

func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
}

// closeWithin bounds the wait for the last entries: others may hold the lock.
const closeWithin = 5 * time.Second

// Close writes how the command ended, after everything else, and says what could not
// be written.
func (r *Recorder) Close(detail string, err error) error {
	e := Entry{Event: Ended, Detail: detail}
	if err != nil {
		e.Error = err.Error()
	}
	r.Add(e)
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.queue)
	}
	r.mu.Unlock()
	select {
	case <-r.done:
	case <-time.After(closeWithin):
		r.fail(fmt.Errorf("audit log: its last entries were not written within %s", closeWithin))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failed) > 3 { // the same reason, mostly
		return errors.Join(append(r.failed[:3:3], fmt.Errorf("and %d more", len(r.failed)-3))...)
	}
	return errors.Join(r.failed...)
}
