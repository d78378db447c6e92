package stock

import (
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/targets/reference/node"
)

func TestContract(t *testing.T) {
	n := node.New(node.Config{Service: "stock", Data: t.TempDir(), Scale: 1}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	closer, err := Setup(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closer(); err != nil {
			t.Error(err)
		}
	}()
	for _, step := range []struct {
		method, path, body string
		status             int
		answer             string // contained in it
	}{
		{"GET", "/readyz", "", 200, "ready"},
		{"GET", "/products/p-3", "", 200, `{"product":"p-3","name":"Product 3","price":"12.95","available":1000000}`},
		{"GET", "/products/p-100", "", 404, `"error"`},
		{"POST", "/reservations", `{"order":"o-1","items":[{"product":"p-3","quantity":2}]}`, 201, `{"reservation":"o-1","total":"25.90"}`},
		{"POST", "/reservations", `{"order":"o-1","items":[{"product":"p-3","quantity":2}]}`, 201, `{"reservation":"o-1","total":"25.90"}`},
		{"POST", "/reservations", `{"order":"o-1","items":[{"product":"p-3","quantity":1}]}`, 422, "other items"},
		{"POST", "/reservations", `{"order":"o-2","items":[{"product":"p-100","quantity":1}]}`, 404, "no such product"},
		{"POST", "/reservations", `{"order":"o-2","items":[{"product":"p-3","quantity":1000000}]}`, 409, "sold out"},
		{"POST", "/reservations", `{"order":"o-2","items":[]}`, 400, "items must be"},
		{"POST", "/reservations", `{"items":[{"product":"p-3","quantity":1}]}`, 400, `\"order\"`},
		{"POST", "/reservations", `{"order":"o-2","items":[{"product":"p-3","quantity":1.5}]}`, 400, "JSON"},
		{"POST", "/reservations/o-2/ship", "", 404, "nothing is reserved"},
		{"POST", "/reservations/o-1/ship", "", 200, `{"reservation":"o-1","status":"shipped"}`},
		{"POST", "/reservations/o-1/ship", "", 200, `{"reservation":"o-1","status":"shipped"}`},
		{"GET", "/products/p-3", "", 200, `"available":999998`},
		{"DELETE", "/reservations/o-1", "", 200, `{"reservation":"o-1","status":"released"}`},
		{"DELETE", "/reservations/o-1", "", 200, `{"reservation":"o-1","status":"released"}`},
		{"GET", "/products/p-3", "", 200, `"available":1000000`},
		{"POST", "/reservations/o-1/ship", "", 409, "released before"},
		{"DELETE", "/reservations/o-9", "", 200, `{"reservation":"o-9","status":"released"}`},
		{"POST", "/reservations", `{"order":"o-9","items":[{"product":"p-3","quantity":2}]}`, 409, "released before"},
		{"DELETE", "/reservations/" + strings.Repeat("o", 201), "", 400, "200 bytes"},
	} {
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, httptest.NewRequest(step.method, step.path, strings.NewReader(step.body)))
		if w.Code != step.status || !strings.Contains(w.Body.String(), step.answer) {
			t.Errorf("%s %s %s\n got %d %s\nwant %d with %s", step.method, step.path, step.body, w.Code, w.Body, step.status, step.answer)
		}
	}
}
