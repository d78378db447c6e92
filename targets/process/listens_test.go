package process

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStrangerListens: whoever listens is told from others by what it has open.
func TestStrangerListens(t *testing.T) {
	p := start(t, Command{Args: self("sleep")})
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, "localhost:0")
		if err != nil {
			t.Logf("%s: %v", network, err)
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port
		if !StrangerListens(p.PID(), port) {
			t.Errorf("%s: the test listens, which is not the process", network)
		}
		if StrangerListens(unix.Getpgrp(), port) {
			t.Errorf("%s: the test is a stranger to itself", network)
		}
		l.Close()
		if StrangerListens(p.PID(), port) {
			t.Errorf("%s: nobody listens any more", network)
		}
	}
}
