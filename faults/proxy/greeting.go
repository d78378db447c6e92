package proxy

import (
	"encoding/binary"
	"strings"
)

// TLSSide says where a Proxy has met TLS.
type TLSSide string

const (
	TLSThrough  TLSSide = "through"  // it passed through, and was not touched: what the caller asked for
	TLSCaller   TLSSide = "caller"   // it ended here: what was agreed on with the caller
	TLSUpstream TLSSide = "upstream" // it began here: what was agreed on with the upstream
)

// TLSFacts is what connections had in common, as far as their TLS goes. It comes from
// peers: names are at most 253 bytes of printable ASCII, or "(invalid)".
type TLSFacts struct {
	Side       TLSSide
	ServerName string // who was asked for (SNI); empty: nobody by name
	Version    string // "TLS 1.3"; empty where it passed through: the answer says, not the question
	ALPN       string // the protocol agreed on; where TLS passed through, those offered: "h2,http/1.1"
}

// mostFacts is how many are told apart between two collects.
const mostFacts = 64

// Others is what facts beyond a bound are counted as: of the same side, with the
// ServerName "others".
func (t TLSFacts) Others() TLSFacts { return TLSFacts{Side: t.Side, ServerName: "others"} }

// greeting reads the ClientHello (RFC 8446, 4.1.2) of TLS that passes through, out of the
// first bytes of a caller. It looks on, and neither alters nor delays a byte: when one
// of the ClientHello's records comes in pieces, it keeps copies.
//
//	record:    22  version(2)  length(2)  part of a handshake message
//	handshake: 1   length(3)   version(2) random(32) session<1> suites<2> methods<1> extensions<2>
type greeting struct {
	over bool   // it was there, or it will not be
	part []byte // what has come of it
}

// longestHello bounds what is kept. Post-quantum key shares take it to some 2 KB.
const longestHello = 16 << 10

// look takes the next bytes of the caller. found is true once, when the ClientHello is
// whole.
func (h *greeting) look(p []byte) (facts TLSFacts, found bool) {
	if h.over || len(p) == 0 {
		return facts, false
	}
	if len(h.part) > 0 {
		h.part = append(h.part, p[:min(len(p), longestHello-len(h.part))]...)
		p = h.part
	}
	facts, state := readHello(p)
	switch {
	case state == helloWhole:
		h.over, h.part = true, nil
		return facts, true
	case state == helloShort && len(p) < longestHello:
		if h.part == nil {
			h.part = append(h.part, p...)
		}
	default:
		h.over, h.part = true, nil
	}
	return TLSFacts{}, false
}

type helloState int

const (
	helloNone  helloState = iota // something else
	helloShort                   // so far it is one
	helloWhole
)

const (
	recordHandshake    = 22
	messageClientHello = 1
	extensionName      = 0  // server_name, RFC 6066
	extensionALPN      = 16 // RFC 7301
	longestRecord      = 1 << 14
)

// readHello reads a ClientHello from the beginning of a caller's bytes. The version of a
// record is not to be relied on (RFC 8446, 5.1); as in crypto/tls, one from 0x1000 on is
// another protocol's.
func readHello(p []byte) (facts TLSFacts, state helloState) {
	var message []byte // of the records, where they are several
	for {
		switch {
		case len(p) > 0 && p[0] != recordHandshake, len(p) > 1 && p[1] >= 0x10:
			return facts, helloNone
		case len(p) < 5:
			return facts, helloShort
		}
		n := int(binary.BigEndian.Uint16(p[3:]))
		if n == 0 || n > longestRecord {
			return facts, helloNone
		}
		here := p[5:min(len(p), 5+n)]
		if message == nil {
			message = here[:len(here):len(here)]
		} else {
			message = append(message, here...)
		}
		if len(message) > 0 && message[0] != messageClientHello {
			return facts, helloNone
		}
		if len(message) >= 4 {
			body := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			switch {
			case body > longestHello:
				return facts, helloNone
			case len(message) >= 4+body:
				return parseHello(message[4 : 4+body])
			}
		}
		if len(p) < 5+n {
			return facts, helloShort
		}
		p = p[5+n:]
	}
}

// parseHello reads the body of a ClientHello.
func parseHello(p []byte) (facts TLSFacts, state helloState) {
	facts.Side = TLSThrough
	b := wireBytes(p)
	if !b.skip(2 + 32) {
		return facts, helloNone
	}
	for _, size := range []int{1, 2, 1} { // session, cipher suites, compression methods
		if _, ok := b.block(size); !ok {
			return facts, helloNone
		}
	}
	if len(b) == 0 { // TLS 1.2 without extensions
		return facts, helloWhole
	}
	extensions, ok := b.block(2)
	if !ok || len(b) > 0 {
		return facts, helloNone
	}
	for len(extensions) > 0 {
		kind, ok := extensions.number()
		if !ok {
			return facts, helloNone
		}
		content, ok := extensions.block(2)
		if !ok {
			return facts, helloNone
		}
		switch kind {
		case extensionName:
			names, ok := content.block(2)
			for ok && len(names) > 0 {
				isHost := names[0] == 0
				names.skip(1)
				var name wireBytes
				if name, ok = names.block(2); ok && isHost {
					facts.ServerName = printable(strings.TrimSuffix(string(name), "."))
				}
			}
			if !ok {
				return facts, helloNone
			}
		case extensionALPN:
			protocols, ok := content.block(2)
			var all []string
			for ok && len(protocols) > 0 {
				var one wireBytes
				if one, ok = protocols.block(1); ok {
					all = append(all, string(one))
				}
			}
			if !ok {
				return facts, helloNone
			}
			facts.ALPN = printable(strings.Join(all, ","))
		}
	}
	return facts, helloWhole
}

// wireBytes is what is left of a structure of TLS.
type wireBytes []byte

func (b *wireBytes) skip(n int) bool {
	if len(*b) < n {
		return false
	}
	*b = (*b)[n:]
	return true
}

func (b *wireBytes) number() (n int, ok bool) {
	if len(*b) < 2 {
		return 0, false
	}
	n = int(binary.BigEndian.Uint16(*b))
	return n, b.skip(2)
}

// block is what stands behind its length, of so many bytes: 1 or 2.
func (b *wireBytes) block(size int) (content wireBytes, ok bool) {
	if len(*b) < size {
		return nil, false
	}
	n := int((*b)[0])
	if size == 2 {
		n = n<<8 | int((*b)[1])
	}
	b.skip(size)
	if len(*b) < n {
		return nil, false
	}
	content = (*b)[:n]
	return content, b.skip(n)
}

// longestHost is what a host name has at most (RFC 1035).
const longestHost = 253

// printable is what may stand in a label of Prometheus, and on a terminal.
func printable(name string) string {
	if len(name) > longestHost || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "(invalid)"
	}
	return name
}

// watches tells whether TLS may pass through that callers speak with the upstream.
func (p *Proxy) watches() bool { return p.tls.plain() }

// met counts a connection's TLS.
func (c *counters) met(facts TLSFacts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tls == nil {
		c.tls = map[TLSFacts]int{}
	}
	if c.tls[facts] == 0 && len(c.tls) >= mostFacts {
		facts = facts.Others()
	}
	c.tls[facts]++
}

// saw takes what the caller has sent: bytes that pass, in their order.
func (f *flow) saw(p []byte) {
	if f.isDown || f.c.greeting.over {
		return
	}
	if facts, found := f.c.greeting.look(p); found {
		f.c.p.stats.met(facts)
	}
}

// sawIn is saw of the first n bytes of those.
func (f *flow) sawIn(spaces [][]byte, n int) {
	for _, p := range spaces {
		m := min(n, len(p))
		f.saw(p[:m])
		n -= m
	}
}

// saw is the same on the fast plane. k.mu is held.
func (k *link) saw(p []byte) {
	if facts, found := k.greeting.look(p); found {
		k.p.stats.met(facts)
	}
}
