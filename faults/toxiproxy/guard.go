package toxiproxy

import (
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// admit keeps web pages, and those without the token, away from the API.
//
// The API has no password as a rule, and a browser on this machine reaches it.
// Two ways lead from a web page to it. A page can send a simple POST across
// origins: then Origin names the page. Or its host name can be made to resolve to
// 127.0.0.1 (DNS rebinding): then Host names the page. So Host has to be an
// address, localhost, or a name that the server was told it has; and Origin,
// which no client but a browser sends, has to be on this machine, or such a name.
func (s *Server) admit(r *http.Request) error {
	host := withoutPort(r.Host)
	if _, err := netip.ParseAddr(host); err != nil && !s.isOurs(host) {
		return &Error{fmt.Sprintf("host %q not allowed: use an IP address or localhost, or start the server with --allow-host %s", host, host), http.StatusForbidden}
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || !s.isOurs(withoutPort(u.Host)) {
			return &Error{fmt.Sprintf("origin %q not allowed: web pages have no business here", origin), http.StatusForbidden}
		}
	}
	if s.config.Token == "" {
		return nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare([]byte(token), []byte(s.config.Token)) != 1 {
		return &Error{"this server wants its token: Authorization: Bearer ...", http.StatusUnauthorized}
	}
	return nil
}

// isOurs tells whether a name is this machine's, or one the server was told of.
func (s *Server) isOurs(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil && a.Unmap().IsLoopback() {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		slices.ContainsFunc(s.config.AllowedHosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// withoutPort is the host of a Host header: lower case, no port, no brackets, no
// final dot.
func withoutPort(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
