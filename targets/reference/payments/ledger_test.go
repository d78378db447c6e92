package payments

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// books opens an empty ledger in which whoever is called "poor" is declined.
func books(t testing.TB) (*Ledger, *store.DB) {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), File))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	l, err := OpenLedger(context.Background(), db, func(user string, _ decimal.Decimal) bool { return user == "poor" })
	if err != nil {
		t.Fatal(err)
	}
	return l, db
}

func dec(s string) decimal.Decimal { return decimal.RequireFromString(s) }

func inspect(t testing.TB, db *store.DB) Books {
	t.Helper()
	look, err := store.OpenReadOnly(context.Background(), db.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	b, err := Inspect(context.Background(), look)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var decimals = cmp.Comparer(func(a, b decimal.Decimal) bool { return a.Equal(b) })

func TestChargeAndRefund(t *testing.T) {
	l, db := books(t)
	wish := Charge{Key: "o-1", Order: "o-1", User: "u-1", Amount: dec("39.90")}

	first, err := l.Charge(t.Context(), wish)
	if err != nil || first.State != Captured {
		t.Fatalf("first charge: %+v, %v", first, err)
	}
	again, err := l.Charge(t.Context(), wish)
	if err != nil || !cmp.Equal(again, first, decimals) {
		t.Errorf("the same charge again gave %+v, %v; want what the first gave, %+v", again, err, first)
	}
	for what, other := range map[string]Charge{
		"amount": {Key: "o-1", Order: "o-1", User: "u-1", Amount: dec("39.91")},
		"user":   {Key: "o-1", Order: "o-1", User: "u-2", Amount: dec("39.90")},
		"order":  {Key: "o-1", Order: "o-2", User: "u-1", Amount: dec("39.90")},
	} {
		if _, err := l.Charge(t.Context(), other); !errors.Is(err, ErrReused) {
			t.Errorf("same key, other %s: %v, want ErrReused", what, err)
		}
	}
	for range 2 {
		if sum, err := l.Refund(t.Context(), "o-1"); err != nil || !sum.Equal(dec("39.90")) {
			t.Errorf("refund gave back %s, %v; want 39.90", sum, err)
		}
	}
	if c, err := l.Find(t.Context(), "o-1"); err != nil || c.State != Refunded {
		t.Errorf("after the refund: %+v, %v", c, err)
	}
	if _, err := l.Charge(t.Context(), wish); !errors.Is(err, ErrClosed) {
		t.Errorf("a charge sent again after the refund: %v, want ErrClosed", err)
	}

	want := Books{Entries: 4, Transactions: 2, Charged: dec("39.90"), Refunded: dec("39.90"),
		Orders: map[string]Position{"o-1": {Charges: 1, Charged: dec("39.90"), Refunded: dec("39.90")}}}
	if diff := cmp.Diff(want, inspect(t, db), decimals); diff != "" {
		t.Errorf("books (-want +got):\n%s", diff)
	}
}

func TestRefundBeforeCharge(t *testing.T) {
	l, db := books(t)
	if sum, err := l.Refund(t.Context(), "o-1"); err != nil || !sum.IsZero() {
		t.Fatalf("refund of an unknown order: %s, %v", sum, err)
	}
	if _, err := l.Find(t.Context(), "o-1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a tombstone was found as a charge: %v", err)
	}
	for _, key := range []string{"o-1", "other", ""} {
		if _, err := l.Charge(t.Context(), Charge{Key: key, Order: "o-1", User: "u-1", Amount: dec("1")}); !errors.Is(err, ErrClosed) {
			t.Errorf("late charge with key %q: %v, want ErrClosed", key, err)
		}
	}
	if b := inspect(t, db); b.Entries != 0 || len(b.Errors) != 0 {
		t.Errorf("books: %+v, want none", b)
	}
}

func TestDeclinedIsRememberedAndMovesNothing(t *testing.T) {
	l, db := books(t)
	for range 2 {
		c, err := l.Charge(t.Context(), Charge{Key: "o-1", Order: "o-1", User: "poor", Amount: dec("5")})
		if !errors.Is(err, ErrDeclined) || c.ID != 1 {
			t.Errorf("charge of the poor: %+v, %v; want number 1, ErrDeclined", c, err)
		}
	}
	if sum, err := l.Refund(t.Context(), "o-1"); err != nil || !sum.IsZero() {
		t.Errorf("refund of a declined charge: %s, %v", sum, err)
	}
	if c, err := l.Find(t.Context(), "o-1"); err != nil || c.State != Declined {
		t.Errorf("found %+v, %v", c, err)
	}
	if b := inspect(t, db); b.Entries != 0 || len(b.Errors) != 0 {
		t.Errorf("books: %+v, want none", b)
	}
}

// Without a key there is nothing by which a repetition could be known.
func TestWithoutKeyEachCallCharges(t *testing.T) {
	l, db := books(t)
	for range 3 {
		if _, err := l.Charge(t.Context(), Charge{Order: "o-1", User: "u-1", Amount: dec("10")}); err != nil {
			t.Fatal(err)
		}
	}
	if p := inspect(t, db).Orders["o-1"]; p.Charges != 3 || !p.Kept().Equal(dec("30")) {
		t.Errorf("position %+v, want 3 charges of 10", p)
	}
	if sum, err := l.Refund(t.Context(), "o-1"); err != nil || !sum.Equal(dec("30")) {
		t.Errorf("refund gave back %s, %v; want all 30", sum, err)
	}
	if p := inspect(t, db).Orders["o-1"]; !p.Kept().IsZero() {
		t.Errorf("position after the refund: %+v", p)
	}
}

func TestAmountsThatCannotBeKeptExactly(t *testing.T) {
	l, _ := books(t)
	for _, amount := range []string{"0", "-1", "0.001", "1000000000.01"} {
		if _, err := l.Charge(t.Context(), Charge{Key: "k", Order: "o", User: "u", Amount: dec(amount)}); err == nil {
			t.Errorf("amount %s was accepted", amount)
		}
	}
	if _, err := l.Charge(t.Context(), Charge{Key: "k", Order: "o", User: "u", Amount: dec("39.9000")}); err != nil {
		t.Errorf("39.9000 is whole cents: %v", err)
	}
}

// The law of the ledger, for any charges and refunds in any order, repeated at
// will: the books are sound, and the position of each order is what a model
// that knows only "first word counts, refund is final" says.
func TestLedgerFollowsItsModel(t *testing.T) {
	l, db := books(t)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++ // the ledger forgets nothing: each run has orders of its own
		of := func(name string) string { return fmt.Sprintf("%d-%s", runs, name) }

		type order struct {
			first  *Charge // the one that was accepted or declined
			closed bool
		}
		names := []string{of("a"), of("b"), of("c")}
		model := map[string]*order{names[0]: {}, names[1]: {}, names[2]: {}}
		t.Repeat(map[string]func(*rapid.T){
			"charge": func(t *rapid.T) {
				c := Charge{
					Order:  rapid.SampledFrom(names).Draw(t, "order"),
					User:   rapid.SampledFrom([]string{"u-1", "u-2", "poor"}).Draw(t, "user"),
					Amount: decimal.New(rapid.Int64Range(1, 3).Draw(t, "cents"), -2),
				}
				c.Key = c.Order
				got, err := l.Charge(context.Background(), c)
				o := model[c.Order]
				same := o.first != nil && o.first.User == c.User && o.first.Amount.Equal(c.Amount)
				switch {
				case o.first != nil && !same:
					if !errors.Is(err, ErrReused) {
						t.Fatalf("%+v after %+v: %v, want ErrReused", c, o.first, err)
					}
				case o.first != nil && o.first.State == Declined:
					if !errors.Is(err, ErrDeclined) || got.ID != o.first.ID {
						t.Fatalf("%+v: %+v, %v, want the declined charge again", c, got, err)
					}
				case o.closed:
					if !errors.Is(err, ErrClosed) {
						t.Fatalf("%+v on a closed order: %v", c, err)
					}
				case o.first != nil:
					if err != nil || got.ID != o.first.ID {
						t.Fatalf("repeated %+v: %+v, %v", c, got, err)
					}
				default:
					want := error(nil)
					if c.User == "poor" {
						want = ErrDeclined
					}
					if !errors.Is(err, want) {
						t.Fatalf("first %+v: %v, want %v", c, err, want)
					}
					o.first = &got
				}
			},
			"refund": func(t *rapid.T) {
				name := rapid.SampledFrom(names).Draw(t, "order")
				o := model[name]
				want := decimal.Zero
				if o.first != nil && o.first.State == Captured {
					want = o.first.Amount
				}
				if sum, err := l.Refund(context.Background(), name); err != nil || !sum.Equal(want) {
					t.Fatalf("refund of %s: %s, %v; want %s", name, sum, err, want)
				}
				o.closed = true
			},
		})

		got, err := Inspect(context.Background(), db.Read())
		if err != nil || len(got.Errors) > 0 {
			t.Fatalf("books: %+v, %v", got.Errors, err)
		}
		for name := range got.Orders {
			if model[name] == nil {
				delete(got.Orders, name)
			}
		}
		want := map[string]Position{}
		for name, o := range model {
			if o.first != nil && o.first.State == Captured {
				p := Position{Charges: 1, Charged: o.first.Amount}
				if o.closed {
					p.Refunded = o.first.Amount
				}
				want[name] = p
			}
		}
		if diff := cmp.Diff(want, got.Orders, decimals); diff != "" {
			t.Fatalf("positions (-want +got):\n%s", diff)
		}
	})
}

// Many at once: each order is charged twice with its key while it is refunded.
func TestConcurrentChargesAndRefunds(t *testing.T) {
	l, db := books(t)
	const orders = 60
	var all sync.WaitGroup
	for n := range orders {
		order := fmt.Sprintf("o-%d", n)
		for range 2 {
			all.Go(func() {
				_, err := l.Charge(t.Context(), Charge{Key: order, Order: order, User: "u-1", Amount: dec("9.95")})
				if err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
		}
		if n%2 == 0 {
			all.Go(func() {
				if _, err := l.Refund(t.Context(), order); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	b := inspect(t, db)
	if len(b.Errors) > 0 {
		t.Errorf("books: %q", b.Errors)
	}
	kept := decimal.Zero
	for order, p := range b.Orders {
		if p.Charges > 1 {
			t.Errorf("order %s was charged %d times", order, p.Charges)
		}
		kept = kept.Add(p.Kept())
	}
	if want := dec("9.95").Mul(decimal.NewFromInt(orders / 2)); !kept.Equal(want) {
		t.Errorf("kept %s, want %s: the orders that were not refunded", kept, want)
	}
}

// Each way of tampering with the file is found, and named.
func TestInspectFindsTampering(t *testing.T) {
	const unlock = `DROP TRIGGER entries_are_not_changed; DROP TRIGGER entries_are_not_removed;`
	for name, test := range map[string]struct {
		tamper string
		want   []string
	}{
		"amounts of one transaction changed": {
			unlock + `UPDATE entries SET amount = amount * 2 WHERE tx = 3`,
			[]string{"hash chain broken at entry 3 (charge of order o-2)",
				"charge 2 of order o-2 is captured at 20.00, but the entries charged 40.00 in 1 and refunded 0.00 in 0 transactions"},
		},
		"one side of a transaction changed": {
			unlock + `UPDATE entries SET amount = 1999 WHERE id = 4`,
			[]string{"hash chain broken at entry 4 (charge of order o-2)",
				"transaction 3 sums to -0.01 instead of 0",
				"charge 2 of order o-2 is captured at 20.00, but the entries charged 19.99 in 1 and refunded 0.00 in 0 transactions"},
		},
		"last transaction changed and only its sum": {
			unlock + `UPDATE entries SET amount = 2999 WHERE id = 6`,
			[]string{"hash chain broken at entry 6 (charge of order o-3)",
				"transaction 5 sums to -0.01 instead of 0",
				"charge 3 of order o-3 is captured at 30.00, but the entries charged 29.99 in 1 and refunded 0.00 in 0 transactions"},
		},
		"order rewritten": {
			unlock + `UPDATE entries SET order_id = 'o-9' WHERE tx = 1`,
			[]string{"hash chain broken at entry 1 (charge of order o-9)"},
		},
		"transaction removed from the middle": {
			unlock + `DELETE FROM entries WHERE tx = 3`,
			[]string{"hash chain broken: entry 5 follows entry 2",
				"charge 2 of order o-2 is captured at 20.00, but the entries charged 0.00 in 0 and refunded 0.00 in 0 transactions"},
		},
		"transaction removed from the end": {
			unlock + `DELETE FROM entries WHERE tx = 5`,
			[]string{"charge 3 of order o-3 is captured at 30.00, but the entries charged 0.00 in 0 and refunded 0.00 in 0 transactions"},
		},
		"charge made undone without an entry": {
			`UPDATE charges SET state = 'refunded' WHERE id = 2`,
			[]string{"charge 2 of order o-2 is refunded at 20.00, but the entries charged 20.00 in 1 and refunded 0.00 in 0 transactions"},
		},
		"charge removed": {
			`PRAGMA foreign_keys = OFF; DELETE FROM charges WHERE id = 2`,
			[]string{"entries speak of 1 charges that do not exist"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, db := books(t)
			for n := 1; n <= 3; n++ {
				order := fmt.Sprintf("o-%d", n)
				if _, err := l.Charge(t.Context(), Charge{Key: order, Order: order, User: "u-1", Amount: decimal.NewFromInt(int64(10 * n))}); err != nil {
					t.Fatal(err)
				}
			}
			outside, err := sql.Open("sqlite", "file:"+db.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer outside.Close()
			if _, err := outside.Exec(test.tamper); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, inspect(t, db).Errors); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEntriesAreAppendOnly(t *testing.T) {
	l, db := books(t)
	if _, err := l.Charge(t.Context(), Charge{Key: "o", Order: "o", User: "u-1", Amount: dec("1")}); err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{`UPDATE entries SET amount = 5`, `DELETE FROM entries`} {
		err := db.Write(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(change); return err })
		if err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v, want a refusal", change, err)
		}
	}
}

// A ledger that is opened again goes on with the chain.
func TestLedgerReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	for n := range 3 {
		db, err := store.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := OpenLedger(t.Context(), db, nil)
		if err != nil {
			t.Fatal(err)
		}
		order := fmt.Sprintf("o-%d", n)
		if _, err := l.Charge(t.Context(), Charge{Key: order, Order: order, User: "u-1", Amount: dec("1")}); err != nil {
			t.Fatal(err)
		}
		if b := inspect(t, db); len(b.Errors) > 0 || b.Transactions != n+1 {
			t.Errorf("after opening %d times: %+v", n+1, b)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkCharge(b *testing.B) {
	l, _ := books(b)
	for i := 0; b.Loop(); i++ {
		order := fmt.Sprintf("0190c3a1-%08d", i)
		if _, err := l.Charge(b.Context(), Charge{Key: order, Order: order, User: fmt.Sprintf("u-%d", i%1000), Amount: dec("39.90")}); err != nil {
			b.Fatal(err)
		}
	}
}
