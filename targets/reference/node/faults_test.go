package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// echoHost answers each call with the address it was sent to.
type echoHost struct{}

func (echoHost) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(r.URL.Host))}, nil
}

func faulty(t *testing.T, f Faults) (*Node, *Client) {
	t.Helper()
	c := Config{Service: "orders", Edges: map[string]Edge{"users": {Address: "127.0.0.1:4711"}}}
	n := NewWithTransport(c, slog.New(slog.DiscardHandler), echoHost{})
	if err := n.setFaults(f); err != nil {
		t.Fatal(err)
	}
	client, err := n.Client("users")
	if err != nil {
		t.Fatal(err)
	}
	return n, client
}

func TestLookupsGoWrong(t *testing.T) {
	for _, c := range []struct {
		fault LookupFault
		host  string // "": no answer
		kind  Kind
		took  time.Duration
	}{
		{LookupFault{}, "127.0.0.1:4711", "", 0},
		{LookupFault{Delay: 30 * time.Millisecond}, "127.0.0.1:4711", "", 30 * time.Millisecond},
		{LookupFault{Fail: Wrong}, "127.255.255.254:4711", "", 0},
		{LookupFault{Fail: NXDomain}, "", Broken, 0},
		{LookupFault{Fail: NXDomain, Delay: time.Second}, "", Broken, time.Second},
		{LookupFault{Fail: NoAnswer}, "", Broken, lookupPatience},
		{LookupFault{Fail: NoAnswer, Delay: time.Hour}, "", Timeout, 10 * time.Second}, // of ctx
	} {
		synctest.Test(t, func(t *testing.T) {
			n, client := faulty(t, Faults{Lookups: map[string]LookupFault{"users": c.fault}})
			defer n.End()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			answer, err := client.Do(ctx, Call{Method: http.MethodGet, Path: "/"})
			if string(answer.Body) != c.host || KindOf(err) != c.kind || time.Since(began) != c.took {
				t.Errorf("%+v: %q, %v after %s; want %q, %q after %s", c.fault, answer.Body, err, time.Since(began), c.host, c.kind, c.took)
			}
			var dns *net.DNSError
			if c.kind == Broken && !errors.As(err, &dns) {
				t.Errorf("%+v: %v is no error of a lookup", c.fault, err)
			}
			if err := n.setFaults(Faults{}); err != nil {
				t.Fatal(err)
			}
			if answer, err := client.Do(t.Context(), Call{Method: http.MethodGet, Path: "/"}); err != nil || string(answer.Body) != "127.0.0.1:4711" {
				t.Errorf("after it: %q, %v", answer.Body, err)
			}
		})
	}
}

// A change that was given up by its sender, and arrives behind the next one, is void.
func TestAnOvertakenChangeIsRefused(t *testing.T) {
	c := Config{Service: "orders", Edges: map[string]Edge{"users": {Address: "127.0.0.1:4711"}}, Control: "token"}
	n := NewWithTransport(c, slog.New(slog.DiscardHandler), echoHost{})
	defer n.End()
	put := func(body string) int {
		r := httptest.NewRequest(http.MethodPut, "/admin/faults", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer token")
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		return w.Code
	}
	for _, step := range []struct {
		body   string
		status int
		wrong  bool // the clock, and how users is found, are after it
	}{
		{`{"change":1,"clock":{"offset_ns":3600000000000,"since":"2026-01-01T00:00:00Z"},"lookups":{"users":{"fail":"nxdomain"}}}`, 200, true},
		{`{"change":3}`, 200, false},
		{`{"change":2,"clock":{"offset_ns":3600000000000,"since":"2026-01-01T00:00:00Z"},"lookups":{"users":{"fail":"nxdomain"}}}`, 409, false},
	} {
		if got := put(step.body); got != step.status {
			t.Errorf("%s: %d, want %d", step.body, got, step.status)
		}
		if wrong := time.Until(n.Now()).Abs() > time.Minute; wrong != step.wrong {
			t.Errorf("after %s: clock wrong %v", step.body, wrong)
		}
		client, err := n.Client("users")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(t.Context(), Call{Method: http.MethodGet, Path: "/"}); (err != nil) != step.wrong {
			t.Errorf("after %s: %v", step.body, err)
		}
	}
}

func TestAWrongClockRefusesWhatIsNotSentNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := faulty(t, Faults{})
		defer n.End()
		n.Handle("GET /x", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
		ask := func(sent string) int {
			r := httptest.NewRequest(http.MethodGet, "/x", nil)
			if sent != "" {
				r.Header.Set(sentAt, sent)
			}
			w := httptest.NewRecorder()
			n.Handler().ServeHTTP(w, r)
			return w.Code
		}
		now := func() string { return strconv.FormatInt(time.Now().UnixMilli(), 10) }
		for _, c := range []struct {
			offset, drift, later time.Duration
			want                 int
		}{
			{0, 0, 0, 204}, {4 * time.Minute, 0, 0, 204}, {-4 * time.Minute, 0, 0, 204}, {6 * time.Minute, 0, 0, 401}, {-time.Hour, 0, 0, 401},
			{0, 500 * time.Millisecond, 9 * time.Minute, 204}, {0, 500 * time.Millisecond, 11 * time.Minute, 401}, {0, -500 * time.Millisecond, 11 * time.Minute, 401},
		} {
			if err := n.setFaults(Faults{Clock: &ClockFault{Offset: c.offset, Drift: c.drift, Since: time.Now()}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.later)
			if got := ask(now()); got != c.want {
				t.Errorf("%s off, gaining %s each second, %s later: %d, want %d", c.offset, c.drift, c.later, got, c.want)
			}
			want := c.offset + time.Duration(c.later.Seconds()*float64(c.drift))
			if got := time.Until(n.Now()); got != want {
				t.Errorf("the clock is %s off, want %s", got, want)
			}
			if got := ask(""); got != 204 {
				t.Errorf("who does not say when it was sent is answered %d", got)
			}
		}
		if got := ask("yesterday"); got != 400 {
			t.Errorf("no time at all: %d", got)
		}
	})
}
