package users

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/reference/store"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup is the service without a listener; it may be closed and set up again.
func setup(t *testing.T, data string) (*node.Node, func() error) {
	t.Helper()
	n := node.New(node.Config{Service: "users", Data: data, Scale: 1}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	closer, err := Setup(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	return n, closer
}

func TestContract(t *testing.T) {
	data := t.TempDir()
	for _, time := range []string{"first", "second"} { // the second finds the users of the first
		n, closer := setup(t, data)
		for path, want := range map[string]struct {
			status int
			answer string
		}{
			"/readyz":         {200, `{"status":"ready"}`},
			"/users/u-0":      {200, `{"user":"u-0","name":"User 0","address":"1 Harbour Street, 10000 Example Town"}`},
			"/users/u-999":    {200, `{"user":"u-999","name":"User 999","address":"200 Harbour Street, 10999 Example Town"}`},
			"/users/" + Broke: {200, `{"user":"u-broke","name":"User without Means","address":"1 Harbour Street, 10000 Example Town"}`},
			"/users/u-1000":   {404, `{"error":"user \"u-1000\": no such user"}`},
			"/users/u-00":     {404, `{"error":"user \"u-00\": no such user"}`},
		} {
			w := httptest.NewRecorder()
			n.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != want.status || w.Body.String() != want.answer {
				t.Errorf("%s start, GET %s: %d %s, want %d %s", time, path, w.Code, w.Body, want.status, want.answer)
			}
		}
		if err := closer(); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkFill is the price of a first start.
func BenchmarkFill(b *testing.B) {
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		db, err := store.Open(b.Context(), filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := OpenDirectory(b.Context(), db, Users()); err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
