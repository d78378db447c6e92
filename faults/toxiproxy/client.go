package toxiproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// Client calls a Server, or a real Toxiproxy. It may be used by several
// goroutines. What the server refuses is an *Error; an *UnreachableError says
// that there is no server.
type Client struct {
	name  string // as users call it
	base  string
	token string
	http  http.Client
}

// Proxy is a proxy as a client sees it.
type Proxy struct {
	Name     string  `json:"name"`
	Listen   string  `json:"listen"`
	Upstream string  `json:"upstream"`
	Enabled  bool    `json:"enabled"`
	Toxics   []Toxic `json:"toxics"`
	TLS      *TLS    `json:"tls,omitempty"`      // a real Toxiproxy does not look at it
	Protocol string  `json:"protocol,omitempty"` // http or udp; empty: tcp. A real Toxiproxy has tcp alone
}

// Toxic is a toxic as a client sees it. Numbers among its attributes are
// json.Number.
type Toxic struct {
	Name       string         `json:"name,omitempty"` // empty: the server calls it <type>_<stream>
	Type       string         `json:"type,omitempty"`
	Stream     string         `json:"stream,omitempty"`   // upstream or downstream; empty: downstream
	Toxicity   *float32       `json:"toxicity,omitempty"` // nil: 1, or in an update as it was
	Attributes map[string]any `json:"attributes"`
}

// UnreachableError says that no server answered.
type UnreachableError struct {
	Host string
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no Toxiproxy API at %s: %v", e.Host, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// NewClient returns a Client of the server at host, like http://127.0.0.1:8474
// (the scheme may be left out), or unix:///path. token may be empty.
func NewClient(host, token string) (*Client, error) {
	if strings.HasPrefix(host, "unix:") {
		return newUnixClient(host, token)
	}
	base := host
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("host %q: want an address like http://127.0.0.1:8474", host)
	}
	base = strings.TrimSuffix(base, "/")
	return &Client{name: base, base: base, token: token, http: http.Client{Timeout: callWithin}}, nil
}

const callWithin = 30 * time.Second

// newUnixClient is a Client of a server at unix:///path.
func newUnixClient(host, token string) (*Client, error) {
	at, err := proxy.Canonical(host)
	if err != nil {
		return nil, fmt.Errorf("host %w", err)
	}
	path := strings.TrimPrefix(at, "unix://")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	// Its Host is what a server takes from everybody who can reach it.
	return &Client{name: at, base: "http://localhost", token: token, http: http.Client{Timeout: callWithin, Transport: transport}}, nil
}

// Proxies returns every proxy by name.
func (c *Client) Proxies(ctx context.Context) (map[string]Proxy, error) {
	var all map[string]Proxy
	return all, c.call(ctx, http.MethodGet, nil, &all, "proxies")
}

// Proxy returns one proxy.
func (c *Client) Proxy(ctx context.Context, name string) (p Proxy, err error) {
	return p, c.call(ctx, http.MethodGet, nil, &p, "proxies", name)
}

// Create makes a proxy. A real Toxiproxy does not look at p.Toxics.
func (c *Client) Create(ctx context.Context, p Proxy) (made Proxy, err error) {
	return made, c.call(ctx, http.MethodPost, p, &made, "proxies")
}

// Enable starts or stops a proxy.
func (c *Client) Enable(ctx context.Context, name string, enabled bool) (p Proxy, err error) {
	// POST, not PATCH: Toxiproxy before v2.6 does not know the other.
	return p, c.call(ctx, http.MethodPost, map[string]bool{"enabled": enabled}, &p, "proxies", name)
}

// Delete removes a proxy and ends its connections.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "proxies", name)
}

// AddToxic adds a toxic to a proxy.
func (c *Client) AddToxic(ctx context.Context, proxy string, t Toxic) (made Toxic, err error) {
	return made, c.call(ctx, http.MethodPost, t, &made, "proxies", proxy, "toxics")
}

// UpdateToxic changes the attributes that are named, and the toxicity if it is.
func (c *Client) UpdateToxic(ctx context.Context, proxy, name string, t Toxic) (now Toxic, err error) {
	t.Name, t.Type, t.Stream = "", "", ""
	return now, c.call(ctx, http.MethodPost, t, &now, "proxies", proxy, "toxics", name)
}

// RemoveToxic removes a toxic.
func (c *Client) RemoveToxic(ctx context.Context, proxy, name string) error {
	return c.call(ctx, http.MethodDelete, nil, nil, "proxies", proxy, "toxics", name)
}

// Populate creates the proxies of a JSON array. Those that were made before an
// error are returned beside it.
func (c *Client) Populate(ctx context.Context, config []byte) ([]Proxy, error) {
	var answer struct{ Proxies []Proxy }
	err := c.call(ctx, http.MethodPost, json.RawMessage(config), &answer, "populate")
	return answer.Proxies, err
}

// Reset enables every proxy and removes every toxic.
func (c *Client) Reset(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, nil, nil, "reset")
}

// Stats returns what a proxy did; nil when the server is a real Toxiproxy, which
// cannot tell.
func (c *Client) Stats(ctx context.Context, name string) (*Stats, error) {
	var s Stats
	err := c.call(ctx, http.MethodGet, nil, &s, "proxies", name, "stats")
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound && refused.Message != errProxyNotFound.Message {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// CA returns the certificate (PEM) of the authority behind self_signed. A real
// Toxiproxy has none: *Error, 404.
func (c *Client) CA(ctx context.Context) (pem []byte, err error) {
	return pem, c.call(ctx, http.MethodGet, nil, &pem, "ca.pem")
}

// maxAnswer is far above a list of all proxies that a server can have.
const maxAnswer = 256 << 20

// call sends in, unless it is nil, to the path made of these segments, and reads
// the answer into out, as it is where that is a *[]byte, unless that is nil; also the
// answer beside an error.
func (c *Client) call(ctx context.Context, method string, in, out any, path ...string) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	where := c.base
	for _, p := range path {
		where += "/" + url.PathEscape(p)
	}
	req, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "chaosctl")
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // without the URL, which UnreachableError says
		}
		return &UnreachableError{Host: c.name, Err: err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, where, err)
	}
	if text, is := out.(*[]byte); is {
		*text, out = answer, nil
	}
	if out != nil && len(answer) > 0 {
		d := json.NewDecoder(bytes.NewReader(answer))
		d.UseNumber()
		if err := d.Decode(out); err != nil && resp.StatusCode < 300 {
			return fmt.Errorf("%s %s: the answer is not what a Toxiproxy says: %w", method, where, err)
		}
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		refused := &Error{}
		if json.Unmarshal(answer, refused) != nil || refused.Message == "" {
			refused.Message = strings.TrimSpace(string(answer[:min(len(answer), 500)]))
		}
		if refused.Message == "" {
			refused.Message = resp.Status
		}
		refused.Status = resp.StatusCode
		return refused
	}
	return nil
}
