package proxy

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestArrivalsTellWhenBytesCame(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	s := newSocket(near)

	var a arrivals
	if err := s.raw.Control(func(fd uintptr) { a.start(int(fd), s, 0) }); err != nil {
		t.Fatal(err)
	}
	read := func(into ...[]byte) (n int, ago time.Duration) {
		t.Helper()
		var err error
		if e := s.raw.Read(func(fd uintptr) bool {
			n, ago, err = a.read(int(fd), into)
			return err != unix.EAGAIN
		}); e != nil || err != nil {
			t.Fatal(e, err)
		}
		return n, ago
	}
	// The first to ask for stamps anywhere has the kernel turn them on, a little later.
	for ago, tries := time.Duration(0), 0; ago == 0; tries++ {
		if tries == 10_000 {
			t.Fatal("no packet is stamped")
		}
		if _, err := far.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_, ago = read(make([]byte, 1))
	}

	sent := time.Now()
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	const late = 30 * time.Millisecond
	<-time.After(late)

	first, second := make([]byte, 2), make([]byte, 8)
	n, ago := read(first, second)
	if n != 5 || string(first)+string(second[:3]) != "hello" {
		t.Fatalf("read %q %q, %d", first, second, n)
	}
	// Loopback hands bytes over within write(2).
	if most := time.Since(sent); ago < late || ago > most {
		t.Errorf("the bytes came %v ago, want between %v and %v", ago, late, most)
	}
}

func TestArrivalsDistrustTheClock(t *testing.T) {
	t.Parallel()
	a := arrivals{dry: 10 * time.Second}
	for _, c := range []struct {
		what           string
		now, ago, want time.Duration
		emptied        bool
		dry            time.Duration
	}{
		{"as noted", 20 * time.Second, time.Second, 19 * time.Second, false, 10 * time.Second},
		{"the clock was put back", 20 * time.Second, -time.Hour, 20 * time.Second, false, 10 * time.Second},
		{"the clock was put forward", 20 * time.Second, time.Hour, 10 * time.Second, true, 20 * time.Second},
		{"nothing was there before", 21 * time.Second, 5 * time.Second, 20 * time.Second, true, 21 * time.Second},
	} {
		if got := a.came(c.now, c.ago, c.emptied); got != c.want || a.dry != c.dry {
			t.Errorf("%s: came at %v, dry %v; want %v, %v", c.what, got, a.dry, c.want, c.dry)
		}
	}
}
