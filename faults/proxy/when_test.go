package proxy

import (
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"
)

// ok answers whatever comes with an empty 200.
func ok(c net.Conn) {
	for buf := make([]byte, 4096); ; {
		if _, err := c.Read(buf); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
}

func TestFailTheFirst(t *testing.T) {
	p := startProxy(t, HTTP, startTCP(t, ok))
	c := dial(t, p.Addr())
	get := func(n int) (all string) {
		t.Helper()
		for range n {
			status, _ := c.get("/")
			all += fmt.Sprint(status, " ")
		}
		return strings.TrimSpace(all)
	}
	get(2) // before the rule came
	remove := add(t, p, Rule{Name: "first", Percent: 1, Error: &Error{Status: 503}, When: When{First: 3}})
	if got := get(5); got != "503 503 503 200 200" {
		t.Errorf("the first three: %s", got)
	}
	remove()
	remove = add(t, p, Rule{Name: "every", Percent: 1, Error: &Error{Status: 500}, When: When{Every: 3}})
	if got := get(7); got != "200 200 500 200 200 500 200" {
		t.Errorf("every third: %s", got)
	}
	remove()

	add(t, p, Rule{Name: "refuse", Percent: 1, Refuse: &Refuse{}, When: When{First: 2}})
	wantRefused(t, p.Addr())
	wantRefused(t, p.Addr())
	dial(t, p.Addr()).get("/")
	if s := p.Collect().Rules; s["refuse"].Fired != 2 || s["refuse"].Eligible != 3 {
		t.Errorf("%+v", s["refuse"])
	}
}

func TestSource(t *testing.T) {
	p := startProxy(t, TCP, startTCP(t, echo))
	add(t, p, Rule{Name: "others", Percent: 1, Reset: &Cut{}, When: When{Source: "127.0.0.2"}})
	dial(t, p.Addr()).talk()
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	nc, err := other.Dial("tcp", p.Addr())
	if err != nil {
		t.Skipf("no second address: %v", err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	caller{nc.(*net.TCPConn), newReader(nc), t}.wantReset()
}

// TestRampGrows: the share that is hit grows evenly, and whoever is hit early on
// would be hit later on.
func TestRampGrows(t *testing.T) {
	r := newActive(Rule{Name: "ramp", Percent: 0.8, When: When{Ramp: 10 * time.Second}}, 1, 7)
	r.added = time.Minute
	const n = 20_000
	for _, after := range []time.Duration{-time.Second, 0, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, time.Hour} {
		share := min(max(0, after.Seconds()/10), 1) * 0.8
		hits := 0
		for i := range uint64(n) {
			w := who{number: i, begun: r.added + after}
			if r.picks(w) {
				hits++
				if w.begun += time.Second; !r.picks(w) {
					t.Fatalf("call %d is hit after %v, but not a second later", i, after)
				}
			}
		}
		if d := math.Abs(float64(hits) - n*share); d > 4*math.Sqrt(n*share*(1-share)) {
			t.Errorf("after %v: %d of %d hit, more than 4σ from %v", after, hits, n, share)
		}
	}
}

// TestPulse: the rule comes and goes on time, as one; also when it is declared
// anew beside others, and until it is changed.
func TestPulse(t *testing.T) {
	inBubble(t, HTTP, ok, func(t *testing.T, p *Proxy, c net.Conn) {
		pulse := Rule{Name: "flap", Percent: 1, Error: &Error{Status: 503}, When: When{Pulse: Pulse{On: 100 * time.Millisecond, Off: 50 * time.Millisecond}}}
		other := Rule{Name: "other", Percent: 1, Bandwidth: &Bandwidth{BytesPerS: maxRate}}
		set := func(rules ...Rule) {
			t.Helper()
			if err := p.SetRules(rules); err != nil {
				t.Fatal(err)
			}
		}
		failed := 0
		set(pulse)
		at := func(ms int, broken bool) {
			t.Helper()
			time.Sleep(time.Duration(ms)*time.Millisecond - p.now())
			fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
			buf := make([]byte, 4096)
			n, err := c.Read(buf)
			if got := strings.HasPrefix(string(buf[:n]), "HTTP/1.1 503"); got != broken || err != nil {
				t.Fatalf("at %v: %q, %v; want broken: %v", p.now(), buf[:n], err, broken)
			}
			if broken {
				failed++
			}
		}
		at(1, true)
		at(99, true)
		at(101, false)
		at(149, false)
		at(151, true)
		set(other, pulse)
		at(249, true)
		at(251, false)
		set(pulse, other)
		at(299, false)
		pulse.Error.Status, pulse.Error.Body = 503, "x"
		set(pulse) // changed in a pause: the beat stays
		at(299, false)
		at(301, true)
		pulse.When = When{}
		set(pulse)
		at(1000, true)
		pulse.When.Pulse = Pulse{On: 10 * time.Millisecond, Off: time.Hour}
		set(pulse)
		at(1009, true)
		at(1011, false)
		if s := p.Collect().Rules["flap"]; s.Fired != failed { // counted together, also now, in a pause
			t.Errorf("%d fired, %d failed", s.Fired, failed)
		}
		pulse.When = When{}
		set(pulse) // changed in a pause: always on
		at(1012, true)
		set()
		at(1013, false)
		if n := len(p.placed); n > 0 {
			t.Errorf("%d rules left", n)
		}
	})
	// Each end of a pulse is a removal, to the connections it hit.
	inBubble(t, TCP, func(c net.Conn) { io.Copy(c, c) }, func(t *testing.T, p *Proxy, c net.Conn) {
		time.Sleep(time.Second)
		remove := add(t, p, Rule{Name: "mute", Percent: 1, Silence: &Silence{}, When: When{Pulse: Pulse{On: time.Second, Off: time.Second}}})
		start := time.Now()
		fmt.Fprint(c, "x")
		if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(start) != time.Second {
			t.Errorf("%v after %v, want the end with the pulse", err, time.Since(start))
		}
		time.Sleep(10 * time.Second)
		remove()
		time.Sleep(time.Hour) // no beat is left
		if n := len(*p.rules.Load()); n > 0 || p.ruleIDs != 6 {
			t.Errorf("%d rules at work, %d pulses; want none, 6", n, p.ruleIDs)
		}
	})
}
