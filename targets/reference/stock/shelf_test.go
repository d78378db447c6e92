package stock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf opens the one at path, a new one with stock pieces of p-0 … p-99.
func shelf(t testing.TB, path string, stock int64) (*Shelf, *store.DB) {
	db, err := store.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenShelf(context.Background(), db, Products(stock))
	if err != nil {
		t.Fatal(err)
	}
	return s, db
}

func testShelf(t testing.TB, stock int64) (*Shelf, *store.DB) {
	t.Helper()
	s, db := shelf(t, filepath.Join(t.TempDir(), File), stock)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, db
}

func inventory(t testing.TB, db *store.DB) Inventory {
	t.Helper()
	i, err := Inspect(context.Background(), db.Read())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestReserveShipRelease(t *testing.T) {
	s, db := testShelf(t, 10)
	items := []Item{{"p-3", 1}, {"p-1", 2}, {"p-3", 1}} // p-3 twice: 2 × 12.95 + 2 × 10.95

	for range 2 {
		total, err := s.Reserve(t.Context(), "o-1", items)
		if err != nil || total.StringFixed(2) != "47.80" {
			t.Fatalf("reserve: %s, %v; want 47.80", total, err)
		}
	}
	if _, err := s.Reserve(t.Context(), "o-1", []Item{{"p-1", 1}}); !errors.Is(err, ErrReused) {
		t.Errorf("reserve with other items: %v, want ErrReused", err)
	}
	want := Holding{Reserved, []Item{{"p-1", 2}, {"p-3", 2}}}
	if diff := cmp.Diff(want, inventory(t, db).Orders["o-1"]); diff != "" {
		t.Errorf("reservation (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := s.Ship(t.Context(), "o-1"); err != nil {
			t.Errorf("ship: %v", err)
		}
	}
	if _, err := s.Reserve(t.Context(), "o-1", items); err != nil {
		t.Errorf("a reserve that comes again after the ship: %v", err)
	}
	if i := inventory(t, db); i.Orders["o-1"].State != Shipped || i.Products["p-3"].Gone() != 2 || i.Products["p-1"].Gone() != 2 {
		t.Errorf("after the ship: %+v, p-3 %+v, p-1 %+v", i.Orders["o-1"], i.Products["p-3"], i.Products["p-1"])
	}
	for range 2 {
		if err := s.Release(t.Context(), "o-1"); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if p, err := s.Product(t.Context(), "p-3"); err != nil || p.Available != 10 {
		t.Errorf("after the release: %+v, %v; want 10 available", p, err)
	}
	if err := s.Ship(t.Context(), "o-1"); !errors.Is(err, ErrReleased) {
		t.Errorf("ship after the release: %v, want ErrReleased", err)
	}
	if _, err := s.Reserve(t.Context(), "o-1", items); !errors.Is(err, ErrReleased) {
		t.Errorf("reserve after the release: %v, want ErrReleased", err)
	}
}

func TestReleaseBeforeReserve(t *testing.T) {
	s, db := testShelf(t, 10)
	if err := s.Release(t.Context(), "o-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(t.Context(), "o-1", []Item{{"p-1", 1}}); !errors.Is(err, ErrReleased) {
		t.Errorf("late reserve: %v, want ErrReleased", err)
	}
	if l := inventory(t, db).Products["p-1"]; l.Gone() != 0 {
		t.Errorf("p-1: %+v, want nothing gone", l)
	}
}

func TestRefusalsTakeNothing(t *testing.T) {
	s, db := testShelf(t, 3)
	for name, test := range map[string]struct {
		items []Item
		want  error
	}{
		"second item sold out":  {[]Item{{"p-1", 3}, {"p-2", 4}}, ErrSoldOut},
		"sold out by two lines": {[]Item{{"p-1", 2}, {"p-1", 2}}, ErrSoldOut},
		"second item unknown":   {[]Item{{"p-1", 1}, {"p-999", 1}}, ErrProduct},
		"no items":              {nil, ErrItems},
		"quantity zero":         {[]Item{{"p-1", 0}}, ErrItems},
		"quantity negative":     {[]Item{{"p-1", -1}}, ErrItems},
		"quantity absurd":       {[]Item{{"p-1", 1 << 62}}, ErrItems},
		"no product":            {[]Item{{"", 1}}, ErrItems},
		"too many":              {slices.Repeat([]Item{{"p-1", 1}}, 101), ErrItems},
	} {
		if _, err := s.Reserve(t.Context(), "o-1", test.items); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	i := inventory(t, db)
	if len(i.Orders) != 0 {
		t.Errorf("refusals left %v", i.Orders)
	}
	for id, l := range i.Products {
		if l.Gone() != 0 {
			t.Errorf("refusals took %d of %s", l.Gone(), id)
		}
	}
	if err := s.Ship(t.Context(), "o-1"); !errors.Is(err, ErrOrder) {
		t.Errorf("ship of nothing: %v, want ErrOrder", err)
	}
}

// 100 pieces, 500 buyers at once: 100 get one, 400 do not.
func TestCannotOversell(t *testing.T) {
	s, db := testShelf(t, 100)
	var mu sync.Mutex
	sold, soldOut := 0, 0
	var all sync.WaitGroup
	for n := range 500 {
		all.Go(func() {
			_, err := s.Reserve(t.Context(), fmt.Sprintf("o-%d", n), []Item{{"p-7", 1}})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				sold++
			case errors.Is(err, ErrSoldOut):
				soldOut++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if l := inventory(t, db).Products["p-7"]; sold != 100 || soldOut != 400 || l.Available != 0 {
		t.Errorf("sold %d, refused %d, left %d; want 100, 400, 0", sold, soldOut, l.Available)
	}
}

// The database itself refuses what the code must never ask for.
func TestSecondLineOfDefence(t *testing.T) {
	_, db := testShelf(t, 5)
	for _, change := range []string{
		`UPDATE products SET available = available - 6 WHERE id = 'p-1'`,
		`UPDATE products SET available = available + 1 WHERE id = 'p-1'`,
	} {
		if err := db.Write(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(change); return err }); err == nil {
			t.Errorf("%s passed", change)
		}
	}
}

// op is one request, for the law below.
type op struct {
	Verb  string
	Order string
}

// requests draws some requests about few orders, each of which always asks for
// the same items.
var requests = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
	return op{
		rapid.SampledFrom([]string{"reserve", "ship", "release"}).Draw(t, "verb"),
		rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "order"),
	}
}), 1, 40)

var wants = map[string][]Item{
	"a": {{"p-0", 2}}, "b": {{"p-0", 2}, {"p-1", 1}}, "c": {{"p-1", 3}}, "d": {{"p-0", 4}, {"p-2", 1}},
}

func (s *Shelf) apply(o op) error {
	switch o.Verb {
	case "reserve":
		_, err := s.Reserve(context.Background(), o.Order, wants[o.Order])
		return err
	case "ship":
		return s.Ship(context.Background(), o.Order)
	}
	return s.Release(context.Background(), o.Order)
}

// conserved is the law of the shelf: what is gone is what orders hold, and
// nothing is below zero.
func conserved(i Inventory) error {
	held := map[string]int64{}
	for _, h := range i.Orders {
		if h.State == Released {
			continue
		}
		for _, item := range h.Items {
			held[item.Product] += item.Quantity
		}
	}
	for id, l := range i.Products {
		if l.Available < 0 || l.Gone() != held[id] {
			return fmt.Errorf("%s: %d of %d available, %d held by orders", id, l.Available, l.Initial, held[id])
		}
	}
	return nil
}

// anew makes a shelf as it was at the beginning.
func anew(t *rapid.T, db *store.DB) {
	if err := db.Write(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM reservations; UPDATE products SET available = initial`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// pieces of each product in the laws: too few for all four orders.
const pieces = 5

// One after another, the shelf does what a model in ten lines does.
func TestShelfFollowsItsModel(t *testing.T) {
	s, db := testShelf(t, pieces)
	rapid.Check(t, func(t *rapid.T) {
		anew(t, db)

		states := map[string]State{}
		left := map[string]int64{"p-0": pieces, "p-1": pieces, "p-2": pieces}
		for _, o := range requests.Draw(t, "requests") {
			state, want := states[o.Order], error(nil)
			switch {
			case o.Verb == "release":
				if state == Reserved || state == Shipped {
					for _, i := range wants[o.Order] {
						left[i.Product] += i.Quantity
					}
				}
				states[o.Order] = Released
			case state == Released:
				want = ErrReleased
			case o.Verb == "ship" && state == "":
				want = ErrOrder
			case o.Verb == "ship":
				states[o.Order] = Shipped
			case state == "":
				if slices.ContainsFunc(wants[o.Order], func(i Item) bool { return left[i.Product] < i.Quantity }) {
					want = ErrSoldOut
					break
				}
				for _, i := range wants[o.Order] {
					left[i.Product] -= i.Quantity
				}
				states[o.Order] = Reserved
			}
			if err := s.apply(o); !errors.Is(err, want) {
				t.Fatalf("%+v in state %q: %v, want %v", o, state, err, want)
			}
		}

		i, err := Inspect(context.Background(), db.Read())
		if err == nil {
			err = conserved(i)
		}
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]State{}
		for order, h := range i.Orders {
			got[order] = h.State
		}
		if diff := cmp.Diff(states, got); diff != "" {
			t.Fatalf("states (-want +got):\n%s", diff)
		}
		for id, n := range left {
			if i.Products[id].Available != n {
				t.Fatalf("%s: %d available, want %d", id, i.Products[id].Available, n)
			}
		}
	})
}

// All at once, in whatever order they get their turn: conserved, and whoever
// was released by anybody stays released.
func TestShelfConcurrently(t *testing.T) {
	s, db := testShelf(t, pieces)
	rapid.Check(t, func(t *rapid.T) {
		anew(t, db)

		ops := requests.Draw(t, "requests")
		var mu sync.Mutex
		var failed []error
		var all sync.WaitGroup
		for _, o := range ops {
			all.Go(func() {
				err := s.apply(o)
				if err == nil || errors.Is(err, ErrReleased) || errors.Is(err, ErrOrder) || errors.Is(err, ErrSoldOut) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			})
		}
		all.Wait()
		if err := errors.Join(failed...); err != nil {
			t.Fatal(err)
		}
		i, err := Inspect(context.Background(), db.Read())
		if err == nil {
			err = conserved(i)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range ops {
			if o.Verb == "release" && i.Orders[o.Order].State != Released {
				t.Fatalf("order %s was released, but is %q", o.Order, i.Orders[o.Order].State)
			}
		}
	})
}

func TestProducts(t *testing.T) {
	s, _ := testShelf(t, InitialStock)
	for id, price := range map[string]string{"p-0": "9.95", "p-3": "12.95", "p-49": "58.95", "p-50": "9.95", "p-99": "58.95"} {
		if p, err := s.Product(t.Context(), id); err != nil || p.Price.StringFixed(2) != price || p.Available != 1_000_000 {
			t.Errorf("%s: %+v, %v; want price %s, 1000000 available", id, p, err, price)
		}
	}
	if _, err := s.Product(t.Context(), "p-100"); !errors.Is(err, ErrProduct) {
		t.Errorf("p-100: %v, want ErrProduct", err)
	}
	if p := Products(1)[10].Price; !p.Equal(decimal.RequireFromString("19.95")) {
		t.Errorf("p-10 costs %s", p)
	}
}

// A shelf that is opened again is as it was left, not filled anew.
func TestShelfReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	s, db := shelf(t, path, 10)
	if _, err := s.Reserve(t.Context(), "o-1", []Item{{"p-1", 4}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = shelf(t, path, 10)
	defer db.Close()
	if p, err := s.Product(t.Context(), "p-1"); err != nil || p.Available != 6 {
		t.Errorf("p-1 after reopening: %+v, %v; want 6 available", p, err)
	}
}

func BenchmarkReserveAndShip(b *testing.B) {
	s, _ := testShelf(b, 1<<40)
	for i := 0; b.Loop(); i++ {
		order := fmt.Sprintf("0190c3a1-%08d", i)
		if _, err := s.Reserve(b.Context(), order, []Item{{fmt.Sprintf("p-%d", i%100), 1}}); err != nil {
			b.Fatal(err)
		}
		if err := s.Ship(b.Context(), order); err != nil {
			b.Fatal(err)
		}
	}
}
