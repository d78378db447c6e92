package proxy

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

var exactBytes = flag.Int64("bytes", 24<<20, "how many bytes TestDirectLosesNothing sends, and, if it is more than usual, TestBytesAreTheSame each way")

// TestDirectLosesNothing: bytes that are moved inside the kernel, to a reader that
// is often slower than the writer, come out whole and in order while rules that
// want to see them come and go at any moment, also with a pipe that is full.
func TestDirectLosesNothing(t *testing.T) {
	size := *exactBytes
	sent := make(chan []byte, 1)
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		h := sha256.New()
		content := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{3}), size), h)
		io.CopyBuffer(struct{ io.Writer }{c}, content, make([]byte, 1<<20))
		c.(*net.TCPConn).CloseWrite()
		sent <- h.Sum(nil)
		io.Copy(io.Discard, c)
	}))
	c := dial(t, p.Addr())
	c.SetDeadline(time.Now().Add(time.Duration(size/(4<<20))*time.Second + 3*patience))
	over := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		draw := rand.New(rand.NewPCG(7, 7))
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Duration(draw.IntN(4000)) * time.Microsecond):
			}
			r := Rule{Name: "x", Percent: 1, Latency: &Latency{Delay: time.Duration(draw.IntN(500)) * time.Microsecond}}
			if draw.IntN(2) == 0 {
				r = Rule{Name: "x", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: 1 << 30}}
			}
			remove := add(t, p, r)
			if draw.IntN(2) == 0 {
				<-time.After(time.Duration(draw.IntN(1000)) * time.Microsecond)
			}
			remove()
		}
	})
	h := sha256.New()
	draw := rand.New(rand.NewPCG(8, 8))
	var n int64
	for {
		m, err := io.CopyN(h, c.TCPConn, int64(1+draw.IntN(1<<20)))
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if draw.IntN(4) == 0 {
			<-time.After(time.Duration(draw.IntN(3)) * time.Millisecond)
		}
	}
	close(over)
	all.Wait()
	if got := h.Sum(nil); n != size || !bytes.Equal(got, <-sent) {
		t.Errorf("%d bytes of %d came, and not what was sent", n, size)
	}
	s := p.Collect()
	if s.Spliced == 0 || s.Spliced >= s.BytesDown || s.BytesDown != size {
		t.Errorf("%d of %d bytes were spliced: both ways of passing them on were to be taken", s.Spliced, s.BytesDown)
	}
}

// TestDirectCountsWhileOpen: what passed is known while the connection is open.
func TestDirectCountsWhileOpen(t *testing.T) {
	const size = 8 << 20
	p := startProxy(t, TCP, startTCP(t, func(c net.Conn) {
		c.Write(make([]byte, size))
		io.Copy(c, c)
	}))
	c := dial(t, p.Addr())
	if _, err := io.CopyN(io.Discard, c.TCPConn, size); err != nil {
		t.Fatal(err)
	}
	c.send("ping")
	if _, err := io.CopyN(io.Discard, c.TCPConn, 4); err != nil {
		t.Fatal(err)
	}
	if s := p.Collect(); s.BytesDown != size+4 || s.BytesUp != 4 || s.Spliced == 0 || s.Open != 1 {
		t.Errorf("down %d, up %d, spliced %d, open %d", s.BytesDown, s.BytesUp, s.Spliced, s.Open)
	}
}
