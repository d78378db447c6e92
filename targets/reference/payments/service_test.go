package payments

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/targets/reference/node"
)

// serve is the service without a listener.
func serve(t *testing.T) func(method, path, key, body string) (status int, answer string) {
	t.Helper()
	n := node.New(node.Config{Service: "payments", Data: t.TempDir(), Scale: 1}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	closer, err := Setup(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closer(); err != nil {
			t.Error(err)
		}
	})
	return func(method, path, key, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		if key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
}

func TestContract(t *testing.T) {
	call := serve(t)
	for _, step := range []struct {
		method, path, key, body string
		status                  int
		answer                  string // contained in it
	}{
		{"GET", "/readyz", "", "", 200, "ready"},
		{"GET", "/charges/o-1", "", "", 404, `"error"`},
		{"POST", "/charges", "o-1", `{"order":"o-1","user":"u-1","amount":"39.90"}`, 201, `{"charge":"ch-1","order":"o-1","amount":"39.90","status":"captured"}`},
		{"POST", "/charges", "o-1", `{"order":"o-1","user":"u-1","amount":"39.90"}`, 201, `{"charge":"ch-1","order":"o-1","amount":"39.90","status":"captured"}`},
		{"POST", "/charges", "o-1", `{"order":"o-1","user":"u-1","amount":"40"}`, 422, "used for another charge"},
		{"GET", "/charges/o-1", "", "", 200, `"status":"captured"`},
		{"POST", "/charges/o-1/refund", "", "", 200, `{"order":"o-1","amount":"39.90","status":"refunded"}`},
		{"POST", "/charges/o-1/refund", "", "", 200, `{"order":"o-1","amount":"39.90","status":"refunded"}`},
		{"POST", "/charges", "o-1", `{"order":"o-1","user":"u-1","amount":"39.90"}`, 409, "refunded before"},
		{"GET", "/charges/o-1", "", "", 200, `"status":"refunded"`},
		{"POST", "/charges/o-2/refund", "", "", 200, `{"order":"o-2","amount":"0.00","status":"refunded"}`},
		{"GET", "/charges/o-2", "", "", 404, `"error"`},
		{"POST", "/charges", "o-2", `{"order":"o-2","user":"u-1","amount":"1"}`, 409, "refunded before"},
		{"POST", "/charges", "o-3", `{"order":"o-3","user":"u-broke","amount":"1"}`, 402, "declined"},
		{"GET", "/charges/o-3", "", "", 200, `"status":"declined"`},

		{"POST", "/charges", "k", `{`, 400, "JSON"},
		{"POST", "/charges", "k", `{"user":"u-1","amount":"1"}`, 400, `\"order\"`},
		{"POST", "/charges", "k", `{"order":"o","amount":"1"}`, 400, `\"user\"`},
		{"POST", "/charges", "k", `{"order":"` + strings.Repeat("o", 201) + `","user":"u","amount":"1"}`, 400, "200 bytes"},
		{"POST", "/charges", "k", `{"order":"o","user":"u","amount":39.9}`, 400, "number into"},
		{"POST", "/charges", "k", `{"order":"o","user":"u","amount":"1e999999999"}`, 400, "like \\\"39.90\\\""},
		{"POST", "/charges", "k", `{"order":"o","user":"u","amount":"-1"}`, 400, "amount"},
		{"POST", "/charges", "k", `{"order":"o","user":"u","amount":"0.00"}`, 400, "more than 0"},
		{"POST", "/charges", "k", `{"order":"o","user":"u","amount":"1.001"}`, 400, "amount"},
		{"GET", "/charges/o", "", "", 404, `"error"`},
	} {
		status, answer := call(step.method, step.path, step.key, step.body)
		if status != step.status || !strings.Contains(answer, step.answer) {
			t.Errorf("%s %s %s\n got %d %s\nwant %d with %s", step.method, step.path, step.body, status, answer, step.status, step.answer)
		}
	}
}

func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"39.90", "0.01", "1000000000", "1e9", "", "0", ".5", "5.", "-1", "00001.10", "９"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		amount, err := parseAmount(s)
		if err != nil {
			return
		}
		cents, err := toCents(amount)
		if err != nil || cents <= 0 || !fromCents(cents).Equal(amount) {
			t.Errorf("%q was read as %s: %d cents, %v", s, amount, cents, err)
		}
	})
}
