package loadgen

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Config.Requests is met exactly, by both engines and models, in any number of
// event loops, and ends the run at once.
func TestRequestsEndTheStream(t *testing.T) {
	var seen atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	defer server.Close()
	for name, c := range map[string]Config{
		"open, general":             {Engine: General, Spec: Spec{Rate: perSecond(1000)}},
		"open, auto, 2 loops":       {loops: 2, Spec: Spec{Rate: perSecond(1000)}},
		"closed, general":           {Engine: General, Spec: Spec{Users: ptr(7)}},
		"closed, few connections":   {Engine: General, Spec: Spec{Users: ptr(7), Connections: ptr(2)}},
		"closed, auto":              {Spec: Spec{Users: ptr(7)}},
		"closed, auto, 2 loops":     {loops: 2, Spec: Spec{Users: ptr(7), Connections: ptr(4)}},
		"closed, auto, thinking":    {Spec: Spec{Users: ptr(7), Think: time.Millisecond}},
		"fewer requests than users": {Spec: Spec{Users: ptr(100)}},
		"open, all at once":         {Spec: Spec{Rate: perSecond(1e5)}},
	} {
		t.Run(name, func(t *testing.T) {
			seen.Store(0)
			s := newSums()
			c := s.listen(c)
			c.Spec.Name, c.Spec.To, c.Spec.Request = "s", "h", &Request{Method: "GET", Path: "/"}
			c.Until, c.Requests = time.Hour, 50
			c.Resolve = func() string { return strings.TrimPrefix(server.URL, "http://") }
			if err := Run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if s.DueCount != 50 || s.OK != 50 || seen.Load() != 50 {
				t.Errorf("%d due, %d ok, the server saw %d; want 50", s.DueCount, s.OK, seen.Load())
			}
			s.balance(t)
		})
	}
}
