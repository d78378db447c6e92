package toxiproxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// proxyJSON is a proxy on the wire. Logger is a slip of Toxiproxy's that has
// become part of its format.
type proxyJSON struct {
	Name     string   `json:"name"`
	Listen   string   `json:"listen"`
	Upstream string   `json:"upstream"`
	Enabled  bool     `json:"enabled"`
	Logger   struct{} `json:"Logger"`
	Toxics   []toxic  `json:"toxics"`
	TLS      *TLS     `json:"tls,omitempty"`      // not Toxiproxy's
	Protocol string   `json:"protocol,omitempty"` // not Toxiproxy's, and absent where it is tcp
}

// Error is how the API says no: a sentence and the HTTP status it came with.
type Error struct {
	Message string `json:"error"`
	Status  int    `json:"status"`
}

func (e *Error) Error() string { return e.Message }

var (
	errProxyNotFound = &Error{"proxy not found", http.StatusNotFound}
	errProxyExists   = &Error{"proxy already exists", http.StatusConflict}
	errToxicNotFound = &Error{"toxic not found", http.StatusNotFound}
	errToxicExists   = &Error{"toxic already exists", http.StatusConflict}
	errBadStream     = &Error{"stream was invalid, can be either upstream or downstream", http.StatusBadRequest}
	errBadType       = &Error{"invalid toxic type", http.StatusBadRequest}
	errStopped       = &Error{"the server is stopping", http.StatusServiceUnavailable}
)

func missing(field string) error {
	return &Error{"missing required field: " + field, http.StatusBadRequest}
}

// badBody is a body that could not be understood, or holds what is not allowed.
func badBody(err error) error {
	if err == nil {
		return nil
	}
	return &Error{"bad request body: " + err.Error(), http.StatusBadRequest}
}

// asError gives any error the shape of the API's.
func asError(err error) *Error {
	var e *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLarge):
		return &Error{fmt.Sprintf("bad request body: more than %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge}
	}
	return &Error{err.Error(), http.StatusInternalServerError}
}

// decode reads one JSON value, as Toxiproxy does: what follows it is not looked
// at, and an empty body is EOF.
func decode(body []byte, into any) error {
	return json.NewDecoder(bytes.NewReader(body)).Decode(into)
}

func writeJSON(w http.ResponseWriter, status int, answer any) error {
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that has gone does not want to know
	return nil
}

// writeError answers as Toxiproxy does, down to the text/plain.
func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	b, _ := json.Marshal(e) // a string and a number
	if e.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="chaosctl proxy"`)
	}
	http.Error(w, string(b), e.Status)
}
