package proxy

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers every question for an A record with 192.0.2.7.
func nameServer(t *testing.T, asked *atomic.Int64) string {
	return startUDPService(t, func(b []byte) []byte {
		asked.Add(1)
		var p dnsmessage.Parser
		h, err := p.Start(b)
		if err != nil {
			t.Errorf("a question that cannot be read: %v", err)
			return nil
		}
		q, err := p.Question()
		if err != nil {
			t.Errorf("no question: %v", err)
			return nil
		}
		answer := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true}, Questions: []dnsmessage.Question{q}}
		if q.Type == dnsmessage.TypeA {
			answer.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}},
			}}
		}
		packed, err := answer.Pack()
		if err != nil {
			t.Error(err)
		}
		return packed
	})
}

// TestUDPCarriesDNS: Go's own resolver finds names through the proxy, asks again when
// its question is lost, and gives up when all are.
func TestUDPCarriesDNS(t *testing.T) {
	var asked atomic.Int64
	p := startProxy(t, UDP, nameServer(t, &asked))
	lookup := func(within time.Duration) error {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", p.Addr())
		}}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		addrs, err := r.LookupHost(ctx, "shop.example.")
		if err == nil && !slices.Equal(addrs, []string{"192.0.2.7"}) {
			t.Errorf("found %v", addrs)
		}
		return err
	}
	if err := lookup(patience); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n != 2 { // A and AAAA
		t.Errorf("asked %d questions, want 2", n)
	}
	// An answer is counted behind its write.
	bothAnswered := func(s Stats) bool { return s.Answers["answered"] == 2 }
	collect(t, p, bothAnswered)

	// The first datagram either way is lost: the resolver waits, 5 s by default, and asks again.
	remove := add(t, p, Rule{Name: "lossy", Percent: 1, When: When{First: 1}, Loss: &Loss{Ratio: 1, Direction: Request}})
	asked.Store(0)
	if err := lookup(6 * patience); err != nil {
		t.Fatal(err)
	}
	s := collect(t, p, bothAnswered)
	if r := s.Rules["lossy"]; asked.Load() != 2 || r.Fired != 1 || s.Calls != 3 || s.Datagrams.Lost["loss"] != 1 || s.Answers["answered"] != 2 {
		t.Errorf("the server was asked %d times; %d calls, %v, lost %v, rule %+v", asked.Load(), s.Calls, s.Answers, s.Datagrams.Lost, r)
	}
	remove()

	add(t, p, Rule{Name: "gone", Percent: 1, Loss: &Loss{Ratio: 1, Direction: Answer}})
	if err := lookup(500 * time.Millisecond); err == nil {
		t.Error("found a name without an answer")
	}
}
