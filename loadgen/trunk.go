package loadgen

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// trunk is one of the connections that a stream may have where requests share them:
// clients that each carry one request at a time, and the link that takes these. There
// is one such link at a time; whoever needs it first makes it, the others wait.
type trunk[L any] struct {
	clients int // ever; guarded by the hub

	connect func(deadline time.Time) (*L, error)
	begin   func(*L) // is told of one that was made, with the lock held

	mu      sync.Mutex // also of its links
	open    int        // clients that are not closed
	link    *L         // that takes requests; nil: none does
	dialing chan struct{}
}

// get is a link to send on; fresh tells that it was made for this request. ctx is the
// stream's, network and the name of the service's address are for the error.
func (t *trunk[L]) get(ctx context.Context, deadline time.Time, network string, resolve func() string) (l *L, fresh bool, err error) {
	for {
		t.mu.Lock()
		if t.link != nil {
			l = t.link
			t.mu.Unlock()
			return l, false, nil
		}
		if t.dialing == nil {
			done := make(chan struct{})
			t.dialing = done
			t.mu.Unlock()
			l, err = t.connect(deadline)
			t.mu.Lock()
			if err == nil {
				t.link = l
				t.begin(l)
			}
			t.dialing = nil
			t.mu.Unlock()
			close(done)
			return l, err == nil, err
		}
		wait := t.dialing
		t.mu.Unlock()
		patience := time.NewTimer(time.Until(deadline))
		select {
		case <-wait:
		case <-patience.C:
			err = fmt.Errorf("dial %s %s: %w", network, resolve(), os.ErrDeadlineExceeded)
		case <-ctx.Done():
			err = context.Canceled
		}
		patience.Stop()
		if err != nil {
			return nil, false, err
		}
	}
}

// warm tells whether there is a link that takes requests.
func (t *trunk[L]) warm() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.link != nil
}
