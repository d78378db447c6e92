package proxy

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy/framing"
)

// requests is the flow up of an HTTP edge: request after request, until
// something else comes.
func (f *flow) requests() error {
	for first := true; ; {
		if f.raw {
			return f.tunnel()
		}
		is, short := maybeH2(f.buf[f.r:f.w])
		if first && is {
			return f.speakH2()
		}
		h, err := framing.ParseRequest(f.buf[f.r:f.w])
		if first && short {
			err = framing.ErrShort
		}
		switch {
		case err == nil:
			first = false
			err = f.request(h)
		case errors.Is(err, framing.ErrShort):
			err = f.fill(forever)
			if errors.Is(err, io.EOF) && f.r < f.w {
				err = framing.ErrOpaque // it ends within a head: whatever it is, it is passed on
			}
		}
		if errors.Is(err, framing.ErrOpaque) {
			if err = f.c.passOpaque(); err == nil {
				return f.tunnel()
			}
		}
		if err != nil {
			return err
		}
	}
}

// request is one call on its way up. Its head is in the buffer, and perhaps more.
func (f *flow) request(h framing.Request) error {
	c := f.c
	cl := call{
		number: c.p.calls.Add(1) - 1,
		method: h.Method,
		begun:  c.p.now(),
		close:  h.Close || h.Expect,
	}
	c.p.stats.begun()
	then := c.begin(&cl, f.buf[f.r:f.r+h.Size])
	if then.struck != nil {
		if err := c.strike(then.struck); err != nil {
			return err
		}
	}
	for _, r := range then.holds {
		if err := f.hold(r, cl.number, f.w-f.r); err != nil {
			return err
		}
	}
	if cl.inject != nil {
		return f.keep(h, cl)
	}

	if f.out == nil {
		if err := c.dial(); err != nil {
			return err
		}
	}
	if err := f.begin(c.ofCall(&cl)); err != nil {
		return err
	}
	c.p.stats.reached()
	if err := f.carry(&cl, h.Size, &h.Body); err != nil {
		return err
	}
	f.done()
	if !h.Upgrade {
		return nil
	}
	// What follows is HTTP or not, depending on the answer.
	return f.untilAnswered()
}

// keep reads a request whose answer the proxy gives itself.
func (f *flow) keep(h framing.Request, cl call) error {
	if !h.Expect {
		err := f.message(h.Size, &h.Body, func(p []byte, _ int, _ framing.Body) error {
			cl.inject.did.bytes.Add(int64(len(p)))
			return nil
		})
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, framing.ErrOpaque):
			// Nobody can be given the answer: its request has no end.
			f.c.end(wasCanceled, true)
			return errOver
		case err != nil:
			return err
		}
	}
	f.c.ready()
	if !cl.close {
		return nil
	}
	f.r = f.w // the caller has said, or is told, that no more will be heard
	if err := f.untilAnswered(); err != nil {
		return err
	}
	return errClosing
}

// untilAnswered waits until no call is under way. Meanwhile it goes on reading,
// so as to see the caller go away.
func (f *flow) untilAnswered() error {
	for f.c.underWay() {
		var err error
		if f.eof || f.w-f.r >= largeBuffer {
			if err = f.wait(forever); errors.Is(err, errNudged) {
				err = f.look()
			}
		} else if err = f.fill(forever); errors.Is(err, io.EOF) {
			if err = nil; f.out != nil && f.r == f.w {
				f.out.finish()
			}
		}
		if err != nil {
			return err
		}
	}
	return f.look() // what was read may be the first bytes of a tunnel
}

// answers is the flow down of an HTTP edge: the answers of the upstream, and
// those that error rules give in its place, in the order of the requests.
func (f *flow) answers() error {
	c := f.c
	for {
		cl, underWay := c.front()
		switch {
		case f.h2 != nil && f.in != nil:
			return f.speakH2Back(f.h2)
		case underWay && cl.inject != nil && cl.ready:
			if err := f.inject(cl); err != nil {
				return err
			}
		case f.in == nil:
			if !underWay && c.nothingComes() {
				return io.EOF
			}
			if err := f.idle(); err != nil {
				return err
			}
		case f.raw && !underWay:
			return f.tunnel()
		case f.r == f.w:
			if err := f.fill(forever); err != nil {
				return err
			}
		case !underWay || cl.inject != nil: // nobody asked
			return f.opaque()
		default:
			err := f.answer(cl)
			switch {
			case errors.Is(err, framing.ErrOpaque):
				return f.opaque()
			case err != nil:
				return err
			}
		}
	}
}

// nothingComes tells whether the caller has no more to say, was told all, and has
// no upstream that could say more (though the flow that asks may not know it yet).
func (c *conn) nothingComes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.upDone && c.server == nil && c.first == len(c.calls)
}

// idle waits for something to change.
func (f *flow) idle() error {
	if err := f.wait(forever); !errors.Is(err, errNudged) {
		return err
	}
	return f.look()
}

// opaque gives up on answers: from here on, they are bytes.
func (f *flow) opaque() error {
	if err := f.c.passOpaque(); err != nil {
		return err
	}
	f.c.settleAll(wasOpaque)
	return f.tunnel()
}

// answer passes on the answer to cl, or one head of it. Its first bytes are in
// the buffer.
func (f *flow) answer(cl call) error {
	h, err := framing.ParseAnswer(f.buf[f.r:f.w], cl.method)
	switch {
	case errors.Is(err, framing.ErrShort):
		err = f.fill(forever)
		if errors.Is(err, io.EOF) {
			err = errors.Join(f.sendBuffered(), io.EOF)
		}
		return err
	case err != nil:
		return err
	case h.Interim:
		err := f.send(f.buf[f.r : f.r+h.Size])
		f.r += h.Size
		return err
	}

	if err := f.beginAnswer(cl); err != nil {
		return err
	}
	err = f.carry(&cl, h.Size, &h.Body)
	if errors.Is(err, io.EOF) && h.Body.UntilClose() {
		f.c.settle(h.Status)
	}
	if err != nil {
		return err
	}
	if h.Tunnel {
		if err := f.c.enterRaw(); err != nil {
			return err
		}
	}
	f.done()
	f.c.settle(h.Status)
	return nil
}

// inject gives the answer that an error rule put in the upstream's place.
func (f *flow) inject(cl call) error {
	if err := f.beginAnswer(cl); err != nil {
		return err
	}
	answer := cl.inject.answer(cl.method == framing.Head, cl.close)
	h, err := framing.ParseAnswer(answer, cl.method)
	if err != nil {
		return fmt.Errorf("the answer of rule %q: %w", cl.inject.Name, err)
	}
	head, body := answer[:h.Size], answer[h.Size:]
	left, err := f.head(&cl, head, &h.Body, len(body))
	if err != nil {
		return err
	}
	if err := f.piece(slices.Concat(left, body), len(left), h.Body); err != nil {
		return err
	}
	f.done()
	f.c.settle(cl.inject.Error.status())
	return nil
}

// beginAnswer holds the answer to cl back as long as the rules want.
func (f *flow) beginAnswer(cl call) error {
	w := f.c.ofCall(&cl)
	for _, r := range *f.c.p.rules.Load() {
		if r.Latency == nil || r.Latency.inBody() || !r.toAnswer() || !r.draws(w) {
			continue
		}
		if err := f.hold(r, cl.number, f.w-f.r); err != nil {
			return err
		}
	}
	f.c.p.stats.answerBegun(f.c.p.now() - cl.begun)
	return f.begin(w)
}

// hold waits, with so many bytes, for the delay that the rule has for the call of
// that number, or until the rule is removed.
func (f *flow) hold(r *active, number uint64, bytes int) error {
	r.did.bytes.Add(int64(bytes))
	from := f.c.p.now()
	for !r.gone.Load() {
		r = f.c.p.rules.Load().now(r) // with the settings it has by now
		err := f.wait(from + r.delay(number, 0))
		switch {
		case err == nil:
			r.did.held(f.c.p.now() - from)
			return nil
		case errors.Is(err, errNudged):
			err = f.look()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// carry passes on a message of a call whose head of that size is in the buffer.
func (f *flow) carry(cl *call, size int, body *framing.Body) error {
	head := f.buf[f.r : f.r+size]
	left, err := f.head(cl, head, body, f.w-f.r-size)
	if err != nil {
		return err
	}
	if len(left) > 0 && &left[0] == &head[0] {
		return f.message(size, body, f.piece)
	}
	if err := f.send(left); err != nil {
		return err
	}
	f.r += size
	return f.message(0, body, f.piece)
}

// message hands on a message whose head, or what is left of it, is in the buffer,
// then its body to the end, in pieces as they come, each with how much of it is
// head, and the body before it. io.EOF: the sender ended first.
func (f *flow) message(head int, body *framing.Body, on func(p []byte, head int, at framing.Body) error) error {
	at := *body
	n, done, wrong := body.Take(f.buf[f.r+head : f.w])
	n += head
	for {
		err := on(f.buf[f.r:f.r+n], head, at)
		f.r += n
		switch {
		case err != nil:
			return err
		case wrong != nil:
			return wrong
		case done:
			return nil
		}
		if body.Pending() > smallBuffer && f.r == f.w {
			f.full = true // large pieces will come
		}
		if err := f.fill(forever); err != nil {
			return err
		}
		head, at = 0, *body
		n, done, wrong = body.Take(f.buf[f.r:f.w])
	}
}

// sendBuffered passes on what is in the buffer.
func (f *flow) sendBuffered() error {
	p := f.buf[f.r:f.w]
	f.r = f.w
	return f.send(p)
}

// sink is a silent flow: it discards what comes, until the conn is over.
func (f *flow) sink() {
	c := f.c
	c.mu.Lock()
	by := c.silent
	c.mu.Unlock()
	by.did.bytes.Add(int64(f.w - f.r + f.queue.n))
	f.discard(forever, func(n int) { by.did.bytes.Add(int64(n)) })
	if !f.isDown {
		c.callerGone()
	}
	<-c.ctx.Done()
}

// drain discards what comes, until its end or until that time.
func (f *flow) drain(until time.Duration) { f.discard(until, func(int) {}) }

func (f *flow) discard(until time.Duration, each func(n int)) {
	f.queue.drop()
	f.holds.drop(&f.queue)
	f.r, f.w = 0, 0
	f.room(largeBuffer)
	for f.in != nil && !f.eof {
		n, err := f.read(f.buf, until)
		each(n)
		if errors.Is(err, errNudged) {
			switch err = f.look(); {
			case errors.Is(err, errSilent), errors.Is(err, errEnding):
				err = nil
			case errors.Is(err, errOver):
				return
			}
		}
		if err != nil {
			return
		}
	}
}
