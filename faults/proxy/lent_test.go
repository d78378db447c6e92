package proxy

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// someLent tells whether a conn has lent what it holds on its way down.
func someLent(p *Proxy) bool {
	return slices.ContainsFunc(p.connections(), func(c *conn) bool {
		c.down.lending.mu.Lock()
		defer c.down.lending.mu.Unlock()
		return c.down.lending.state == lent
	})
}

// TestLentIsWrittenInOrder: small messages on many connections at once, held by a rule that
// changes meanwhile, come in order and not before their time, and the alarm is who wrote them.
func TestLentIsWrittenInOrder(t *testing.T) {
	const conns, messages, least = 20, 100, 5 * time.Millisecond
	began := time.Now()
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		c.Read(make([]byte, 1))
		draw := rand.New(rand.NewPCG(1, 2))
		for range messages {
			var b [8]byte
			binary.NativeEndian.PutUint64(b[:], uint64(time.Since(began)))
			c.Write(b[:])
			<-time.After(time.Duration(draw.IntN(2000)) * time.Microsecond)
		}
		io.Copy(io.Discard, c)
	}))
	held := Rule{Name: "x", Percent: 1, Latency: &Latency{Delay: least}}
	add(t, p, held)
	over := make(chan struct{})
	var callers, changes sync.WaitGroup
	for range conns {
		c := dial(t, p.Addr())
		callers.Go(func() {
			c.TCPConn.Write([]byte("x"))
			last := time.Duration(0)
			for i := range messages {
				var b [8]byte
				if _, err := io.ReadFull(c, b[:]); err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
				sent := time.Duration(binary.NativeEndian.Uint64(b[:]))
				if sent < last {
					t.Errorf("message %d was sent at %v, after one of %v", i, sent, last)
				}
				// The kernel's stamps are of the wall clock.
				if took := time.Since(began) - sent; took < least-time.Millisecond {
					t.Errorf("message %d took %v, want at least %v", i, took, least)
				}
				last = sent
			}
		})
	}
	changes.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(3 * time.Millisecond):
				add(t, p, Rule{Name: "y", Percent: 1, Latency: &Latency{Delay: time.Millisecond}})()
			}
		}
	})
	callers.Wait()
	close(over)
	changes.Wait()
	if p.stats.lent.Load() == 0 {
		t.Error("no byte was written by the alarm")
	}
	if s := p.Collect(); s.BytesDown != conns*messages*8 {
		t.Errorf("%d bytes down, want %d", s.BytesDown, conns*messages*8)
	}
}

// TestLentIsTakenBack: what is lent goes at once when its rule does, is the flow's own again when a
// rule comes that needs to see every byte, and is reset with its conn.
func TestLentIsTakenBack(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) { io.WriteString(c, "held"); io.Copy(io.Discard, c) }))
	hour := Rule{Name: "hour", Percent: 1, Latency: &Latency{Delay: time.Hour}}
	remove := add(t, p, hour)
	c := dial(t, p.Addr())
	c.send("x")
	await(t, "what is held is lent", func() bool { return someLent(p) })
	unpace := add(t, p, Rule{Name: "pace", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1 << 20}})
	await(t, "a flow that paces its bytes keeps them", func() bool { return !someLent(p) })
	unpace()
	await(t, "what is held is lent again", func() bool { return someLent(p) })
	remove()
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "held" {
		t.Fatalf("%q, %v; want what was held", got, err)
	}

	add(t, p, hour)
	c = dial(t, p.Addr())
	c.send("x")
	await(t, "what is held is lent", func() bool { return someLent(p) })
	add(t, p, Rule{Name: "reset", Percent: 1, Reset: &Cut{}})
	c.wantReset()
}

// TestLentToOneWhoDoesNotRead: where the caller's socket is full the flow takes over, and every byte
// comes when there is room.
func TestLentToOneWhoDoesNotRead(t *testing.T) {
	const size, piece = 32 << 20, 16 << 10
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{9}).Read(content)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		for at := 0; at < size; at += piece {
			if _, err := c.Write(content[at : at+piece]); err != nil {
				return
			}
			if at%(64*piece) == 0 {
				<-time.After(time.Millisecond)
			}
		}
		io.Copy(io.Discard, c)
	}))
	add(t, p, Rule{Name: "x", Percent: 1, Latency: &Latency{Delay: 3 * time.Millisecond}})
	c := dial(t, p.Addr())
	await(t, "the caller's socket is full", func() bool {
		all := p.connections()
		return len(all) == 1 && all[0].down.stuck.Load()
	})
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(content) {
		t.Error("other bytes came than were sent")
	}
}
