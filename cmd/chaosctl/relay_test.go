package main

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// TestRelayTries: so many tries are so many calls, also where a connection that was
// used before breaks, after which net/http would send a GET once more by itself.
func TestRelayTries(t *testing.T) {
	for tries := 1; tries <= 3; tries++ {
		var calls atomic.Int64
		var broken atomic.Bool
		upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			if broken.Load() {
				panic(http.ErrAbortHandler)
			}
		}))
		r := &relay{to: upstream.URL, timeout: 10 * time.Second, tries: tries, client: &http.Client{Transport: &http.Transport{}}}
		ask := func() int {
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			return w.Code
		}
		if code := ask(); code != 200 {
			t.Errorf("the first call is answered %d", code)
		}
		broken.Store(true)
		calls.Store(0)
		if code := ask(); code != 502 || calls.Load() != int64(tries) {
			t.Errorf("%d tries: answered %d after %d calls, want 502 after as many", tries, code, calls.Load())
		}
		r.client.CloseIdleConnections()
		upstream.Close()
	}
}
