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

	ctx     context.Context // of the stream
	network string
	resolve func() string // the service's address now
	connect func(ctx context.Context, address string) (*L, error)
	begin   func(*L) // is told of one that was made, with the lock held

	mu      sync.Mutex // also of its links
	open    int        // clients that are not closed
	link    *L         // that takes requests; nil: none does
	dialing chan struct{}
}

// get is a link to send on; fresh tells that it was made for this request.
func (t *trunk[L]) get(deadline time.Time) (l *L, fresh bool, err error) {
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
			l, err = t.dial(deadline)
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
			err = fmt.Errorf("dial %s %s: %w", t.network, t.resolve(), os.ErrDeadlineExceeded)
		case <-t.ctx.Done():
			err = context.Canceled
		}
		patience.Stop()
		if err != nil {
			return nil, false, err
		}
	}
}

// dial makes a link to where the service is now, which the trunk does not take into use.
func (t *trunk[L]) dial(deadline time.Time) (*L, error) {
	ctx, cancel := context.WithDeadline(t.ctx, deadline)
	defer cancel()
	address := t.resolve()
	if address == "" {
		return nil, errNoAddress
	}
	return t.connect(ctx, address)
}

// warm tells whether there is a link that takes requests.
func (t *trunk[L]) warm() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.link != nil
}
