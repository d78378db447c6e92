//go:build linux

package main

import (
	"testing"
	"time"
)

func TestRateAndWorstWindow(t *testing.T) {
	// 100 bytes every 10 ms: the window of 100 ms is half open, and holds ten of them.
	var even []arrival
	for i := range 50 {
		even = append(even, arrival{time.Duration(i) * 10 * time.Millisecond, 100})
	}
	if got := worstWindow(even, 100*time.Millisecond); got != 1000 {
		t.Errorf("the worst window of an even flow holds %d bytes, want 1000", got)
	}
	if got := rate(even); got != 10_000 {
		t.Errorf("an even flow has %v bytes/s, want 10000", got)
	}
	burst := append(even, arrival{495 * time.Millisecond, 700})
	if got := worstWindow(burst, 100*time.Millisecond); got != 1700 {
		t.Errorf("with a burst it holds %d bytes, want 1700", got)
	}
	// What comes at once at first was under way before.
	head := append([]arrival{{0, 1 << 20}}, arrival{time.Second, 500})
	if got := rate(head); got != 500 {
		t.Errorf("after a first burst the rate is %v, want 500", got)
	}
	if got := rate(even[:1]); got != 0 {
		t.Errorf("one arrival has a rate of %v", got)
	}
}

func TestHTTPLength(t *testing.T) {
	for answer, want := range map[string]int{
		"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab":            len("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n") + 3,
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nVia: x\r\n\r\nabc": len("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nVia: x\r\n\r\nabc"),
		"HTTP/1.1 200 OK\r\nContent-Len":                            0,
	} {
		if got := httpLength([]byte(answer)); got != want {
			t.Errorf("%q is %d bytes long, want %d", answer, got, want)
		}
	}
}
