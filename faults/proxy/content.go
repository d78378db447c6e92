package proxy

import (
	"errors"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// Abort ends the caller's connection, and the upstream's, in the midst of an
// answer: when After bytes of its body have passed, 0 as soon as its head has.
// The head, and how the body is cut into chunks, do not count (for a Cut they do).
// It ends with RST, or with Close in order, so that the caller sees a body that
// is too short. An answer without a body, or with a shorter one, passes whole.
type Abort struct {
	After int64
	Close bool
}

// piece passes on bytes of a message: head bytes, then bytes of its body, which
// was at that point before them.
func (f *flow) piece(p []byte, head int, at framing.Body) error {
	for len(p) > 0 && (len(f.aborts) == 0 && len(f.corrupt) == 0 || at.Empty()) {
		n, err := f.sendSome(p)
		if err != nil || n == len(p) && len(f.aborts) == 0 {
			return err
		}
		// Between two writes, a rule about the content may have come.
		if past := n - head; past > 0 {
			at.Take(p[head:n])
		}
		p, head = p[n:], max(0, head-n)
	}
	if at.Empty() {
		return nil
	}
	if err := f.send(p[:head]); err != nil {
		return err
	}
	p = p[head:]
	if err := f.aborted(at.Content()); err != nil {
		return err
	}
	for len(p) > 0 {
		place := at.Content()
		n, content := at.Next(p) // n > 0: p is the body's
		var err error
		if content {
			err = f.content(p[:n], place)
		} else {
			err = f.send(p[:n])
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// content passes on bytes of content from that place on, as the stages and the
// rules about bodies let it.
func (f *flow) content(p []byte, place int64) error {
	for len(p) > 0 {
		n := int64(len(p))
		for _, r := range f.aborts {
			n = min(n, r.Abort.After-place)
		}
		if n <= 0 { // by a rule that has just come
			if err := f.aborted(place); err != nil {
				return err
			}
			continue // it is gone again
		}
		k, again := f.admit(f.c.p.now(), int(n))
		var err error
		if k == 0 {
			err = f.wait(again)
		} else {
			k, err = f.writeCorrupt(p[:k], place)
			p, place = p[k:], place+int64(k)
			if struck := f.passed(k); struck != nil {
				return struck
			}
			if struck := f.aborted(place); struck != nil {
				return struck
			}
		}
		if errors.Is(err, errNudged) {
			err = f.look()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// aborted lets the first rule strike that wants no more than so much content.
func (f *flow) aborted(content int64) error {
	for _, r := range f.aborts {
		if r.Abort.After <= content {
			if err := f.c.strike(r); err != nil {
				return err
			}
			return f.look() // removed meanwhile
		}
	}
	return nil
}

// writeCorrupt is write with bits flipped in the bytes, which are at that place of
// their stream. What was not written is as it was.
func (f *flow) writeCorrupt(p []byte, place int64) (int, error) {
	for _, c := range f.corrupt {
		c.flips = c.flip(p, place)
	}
	n, err := f.write(p)
	for _, c := range f.corrupt {
		c.by.did.bytes.Add(c.flips - c.flip(p[n:], place+int64(n)))
	}
	return n, err
}

// inBody tells whether a latency rule holds back the body of a message, not all of it.
func (l *Latency) inBody() bool { return l.Where == Body }

// head makes the head of a call's message what the rules want it to be, and holds
// its body, of which so many bytes wait, back as long as they want. It returns
// what is still to be sent in front of the body: as a rule the head itself, so
// that both can go at once.
func (f *flow) head(cl *call, head []byte, body *framing.Body, waiting int) (left []byte, err error) {
	w := f.c.ofCall(cl)
	left = f.reshaped(w, head)
	if body.Empty() {
		return left, nil
	}
	for _, r := range *f.c.p.rules.Load() {
		if r.Latency == nil || !r.Latency.inBody() || r.toAnswer() != f.isDown || !r.draws(w) {
			continue
		}
		if err := f.send(left); err != nil {
			return nil, err
		}
		left = nil
		if err := f.hold(r, cl.number, waiting); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// restageContent takes over the rules about the content of the call whose bytes pass.
func (f *flow) restageContent(now rules, w who) {
	f.corrupt, f.aborts = f.corrupt[:0], f.aborts[:0]
	if f.raw {
		return
	}
	for _, r := range now {
		switch {
		case r.Corrupt != nil && r.Corrupt.Direction.covers(f.isDown) && r.picks(w):
			f.corrupt = append(f.corrupt, newCorrupter(r, ofByte^f.direction(), w.number))
		case r.Abort != nil && f.isDown && !r.gone.Load() && r.picks(w):
			f.aborts = append(f.aborts, r)
		}
	}
}
