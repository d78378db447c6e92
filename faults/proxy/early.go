package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
)

// early is a conn's upstream that was dialled in the midst of the caller's handshake, until the
// conn dials. The flow up owns it.
type early struct {
	offers []string // ALPN, while it is being dialled
	server *socket
	err    error // why there is none, where asking again would be the same once more
}

// connOf is the key under which a handshake's context has its *conn.
type connOf struct{}

// likeUpstream answers a caller with what the upstream chooses of what the caller offers. It is
// tls.Config.GetConfigForClient.
//
//	caller                  proxy                    upstream
//	  ── ClientHello ─────────>
//	     ALPN h2, http/1.1     ── dial, ClientHello ───>
//	                              ALPN h2, http/1.1
//	                           <────── ALPN http/1.1 ──
//	  <────── ALPN http/1.1 ──
func (p *Proxy) likeUpstream(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, ok := hello.Context().Value(connOf{}).(*conn)
	offers := hello.SupportedProtos
	if p.config.Protocol == HTTP {
		offers = slices.DeleteFunc(slices.Clone(offers), func(o string) bool { return o != "h2" && o != "http/1.1" })
		ok = ok && slices.Contains(offers, "h2") // else there is nothing to choose
	}
	s := (*secured)(nil)
	if ok && len(offers) > 0 {
		s = c.callers()
	}
	if s == nil {
		return nil, nil // as it is
	}
	s.aside(p.config.DialTimeout, func() { c.dialEarly(hello.Context(), offers) })
	if err := hello.Context().Err(); err != nil { // the connection ends: its caller is not answered before
		return nil, err
	}
	chosen := ""
	if c.early.server != nil {
		chosen = c.early.server.tls.ConnectionState().NegotiatedProtocol
	}
	to := p.tls.caller.Clone()
	switch {
	case chosen != "":
		to.NextProtos = []string{chosen}
	case p.config.Protocol == HTTP && c.early.server == nil:
		to.NextProtos = []string{"http/1.1", "h2"} // whoever speaks only HTTP/2 can be told so by it
	}
	return to, nil
}

// dialEarly dials the upstream, and offers it those protocols.
func (c *conn) dialEarly(ctx context.Context, offers []string) {
	c.early.offers = offers
	server, err := c.p.reach(ctx, c)
	c.early = early{server: server}
	// On a TCP edge, dialling is the next thing to do. On others the first request may be
	// long after: an upstream that could not be reached may be there by then.
	if disagreed := (*handshakeError)(nil); err != nil && (c.p.config.Protocol == TCP || errors.As(err, &disagreed)) {
		c.early.err = err
	}
}

// takeEarly is the outcome, once: neither where there is none, or one that has ended since.
func (c *conn) takeEarly() (*socket, error) {
	server, err := c.early.server, c.early.err
	c.early = early{}
	if server != nil && server.hungUp() {
		server.abort()
		server = nil
	}
	return server, err
}

// dropEarly closes what was never used.
func (c *conn) dropEarly() {
	if server := c.early.server; server != nil {
		c.early = early{}
		server.abort()
	}
}
