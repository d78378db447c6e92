// Package probe asks a service whether it may be called: an HTTP GET answered
// 2xx or 3xx, or a TCP connection accepted. One question is one fresh
// connection, so an answer is about the service as it is now, not about a pool.
package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Each question must be answered within this; a service that takes longer is
// asked again.
const patience = time.Second

// The wait before the second question, doubled up to the longest: short, since a
// service becomes ready within milliseconds of listening, and a refused
// connection costs next to nothing.
const (
	shortest = 2 * time.Millisecond
	longest  = 50 * time.Millisecond
)

// HTTP asks for http://address/path, or https:// where secure says how, and wants a
// status of 200 to 399; redirects are not followed.
func HTTP(ctx context.Context, address, path string, secure *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+address+path, nil)
	if err != nil {
		return err
	}
	// No proxy from the environment: the question goes to that address.
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4096) // the status has answered the question
	if answer.StatusCode < 200 || answer.StatusCode > 399 {
		return fmt.Errorf("GET %s answered %s, not 2xx or 3xx", path, answer.Status)
	}
	return nil
}

// TCP wants a connection to address to be accepted.
func TCP(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// Ask is HTTP with a path, TCP without.
func Ask(ctx context.Context, address, path string, secure *tls.Config) error {
	if path == "" {
		return TCP(ctx, address)
	}
	return HTTP(ctx, address, path, secure)
}

// Until asks again and again until the answer is yes (nil), or ctx ends: then
// the error is the last answer, or the cause of ctx where there was none.
func Until(ctx context.Context, ask func(context.Context) error) error {
	wait := shortest
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		// An answer that was cut short by ctx says less than the one before it.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return last
		case <-timer.C:
		}
		wait = min(2*wait, longest)
	}
}
