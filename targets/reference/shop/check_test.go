package shop

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/reference/orders"
	"github.com/chaosctl/chaosctl/targets/reference/payments"
	"github.com/chaosctl/chaosctl/targets/reference/stock"
	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
)

// past is a shop that has been in business and is closed now: a folder with
// the databases of
//
//	o-1, o-2, o-3  completed, one p-N each: 10.95, 11.95, 12.95
//	o-4            compensated: charged 13.95 and refunded, reserved and released
//	o-5            declined: reserved and released
//	o-6            soldout
type past struct {
	data   string
	orders *store.DB
	ledger *payments.Ledger
	shelf  *stock.Shelf
}

func business(t *testing.T) past {
	t.Helper()
	p := past{data: t.TempDir()}
	var err error
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(file string) *store.DB {
		db, err := store.Open(t.Context(), filepath.Join(p.data, file))
		must(err)
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		return db
	}
	p.orders = open(orders.File)
	p.sql(t, p.orders, orders.Schema)
	p.ledger, err = payments.OpenLedger(t.Context(), open(payments.File), func(user string, _ decimal.Decimal) bool { return user == "poor" })
	must(err)
	p.shelf, err = stock.OpenShelf(t.Context(), open(stock.File), stock.Products(1000))
	must(err)

	for n, state := range []orders.State{orders.Completed, orders.Completed, orders.Completed, orders.Compensated, orders.Declined, orders.SoldOut} {
		id, product, user := fmt.Sprintf("o-%d", n+1), fmt.Sprintf("p-%d", n+1), "u-1"
		total := decimal.Zero
		if state == orders.Declined {
			user = "poor"
		}
		if state != orders.SoldOut {
			total, err = p.shelf.Reserve(t.Context(), id, []stock.Item{{Product: product, Quantity: 1}})
			must(err)
			if _, err = p.ledger.Charge(t.Context(), payments.Charge{Key: id, Order: id, User: user, Amount: total}); !errors.Is(err, payments.ErrDeclined) {
				must(err)
			}
		}
		switch state {
		case orders.Completed:
			must(p.shelf.Ship(t.Context(), id))
		case orders.Compensated:
			_, err = p.ledger.Refund(t.Context(), id)
			must(err)
			must(p.shelf.Release(t.Context(), id))
		case orders.Declined:
			must(p.shelf.Release(t.Context(), id))
		}
		p.order(t, id, state, product, money(total))
	}
	return p
}

func (p past) order(t *testing.T, id string, state orders.State, product, total string) {
	t.Helper()
	p.sql(t, p.orders, fmt.Sprintf(`INSERT INTO orders (id, user, items, total, state, step, created_ms, updated_ms)
		VALUES ('%s', 'u-1', '[{"product":"%s","quantity":1}]', '%s', '%s', '', 0, 0)`, id, product, total, state))
}

func (p past) sql(t *testing.T, db *store.DB, text string) {
	t.Helper()
	if err := db.Write(context.Background(), func(tx *sql.Tx) error { _, err := tx.Exec(text); return err }); err != nil {
		t.Fatal(err)
	}
}

// tamper changes a database from outside, past all constraints.
func (p past) tamper(t *testing.T, file, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(p.data, file)+"?_pragma=ignore_check_constraints(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}

func (p past) check(t *testing.T, invariant string) (ok bool, detail string, values map[string]float64) {
	t.Helper()
	ok, detail, values, err := Check(context.Background(), p.data, invariant)
	if err != nil {
		t.Fatal(err)
	}
	return ok, detail, values
}

const (
	moneyRight = "35.85 kept (49.80 charged - 13.95 refunded), 35.85 due from 3 completed orders; 10 ledger entries in 5 transactions sum to 0.00 each, hash chain intact"
	stockRight = "3 pieces gone (100000 - 99997), 3 sold in 3 completed orders; nothing left reserved, nothing below zero"
)

func TestInvariantsHold(t *testing.T) {
	p := business(t)
	ok, detail, values := p.check(t, Money)
	if !ok || detail != moneyRight {
		t.Errorf("money: %v\n got %s\nwant %s", ok, detail, moneyRight)
	}
	want := map[string]float64{"orders": 6, "orders_completed": 3, "orders_total": 35.85, "charged": 49.8, "refunded": 13.95, "difference": 0,
		"charged_twice": 0, "charged_wrong": 0, "charge_kept": 0, "ledger_entries": 10, "ledger_errors": 0}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Errorf("money's values (-want +got):\n%s", diff)
	}
	ok, detail, values = p.check(t, Stock)
	if !ok || detail != stockRight {
		t.Errorf("stock: %v\n got %s\nwant %s", ok, detail, stockRight)
	}
	want = map[string]float64{"orders": 6, "orders_completed": 3, "initial": 100_000, "gone": 3, "sold": 3, "difference": 0, "reserved": 0, "negative": 0}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Errorf("stock's values (-want +got):\n%s", diff)
	}
	if ok, detail, err := Drained(t.Context(), p.data); !ok || err != nil || detail != "every order has ended" {
		t.Errorf("drained: %v, %q, %v", ok, detail, err)
	}
}

// Each way in which money can go wrong is found, with the order and the sums.
func TestMoneyBroken(t *testing.T) {
	for name, test := range map[string]struct {
		plant func(*testing.T, past)
		want  string
		value string // that is then 1
	}{
		"refund missing": {
			func(t *testing.T, p past) {
				p.order(t, "o-7", orders.Compensated, "p-7", "16.95")
				p.charge(t, "o-7", "o-7", "16.95")
			},
			"52.80 kept (66.75 charged - 13.95 refunded), 35.85 due from 3 completed orders; 12 ledger entries in 6 transactions sum to 0.00 each, hash chain intact" +
				"; order o-7 (compensated) still has 16.95 charged",
			"charge_kept",
		},
		"charged twice": {
			func(t *testing.T, p past) { p.charge(t, "", "o-2", "11.95") },
			"47.80 kept (61.75 charged - 13.95 refunded), 35.85 due from 3 completed orders; 12 ledger entries in 6 transactions sum to 0.00 each, hash chain intact" +
				"; order o-2 (completed, 11.95) was charged 2 times: 23.90 charged, 0.00 refunded",
			"charged_twice",
		},
		"charged twice and all given back": {
			func(t *testing.T, p past) {
				p.order(t, "o-7", orders.Compensated, "p-7", "16.95")
				p.charge(t, "", "o-7", "16.95")
				p.charge(t, "", "o-7", "16.95")
				if _, err := p.ledger.Refund(t.Context(), "o-7"); err != nil {
					t.Fatal(err)
				}
			},
			"35.85 kept (83.70 charged - 47.85 refunded), 35.85 due from 3 completed orders; 18 ledger entries in 9 transactions sum to 0.00 each, hash chain intact" +
				"; order o-7 (compensated, 16.95) was charged 2 times: 33.90 charged, 33.90 refunded",
			"charged_twice",
		},
		"completed without a charge": {
			func(t *testing.T, p past) { p.order(t, "o-7", orders.Completed, "p-7", "16.95") },
			"35.85 kept (49.80 charged - 13.95 refunded), 52.80 due from 4 completed orders; 10 ledger entries in 5 transactions sum to 0.00 each, hash chain intact" +
				"; order o-7 (completed, 16.95) has 0.00 charged and 0.00 refunded",
			"charged_wrong",
		},
		"a cent too little": {
			func(t *testing.T, p past) { p.sql(t, p.orders, `UPDATE orders SET total = '10.96' WHERE id = 'o-1'`) },
			"35.85 kept (49.80 charged - 13.95 refunded), 35.86 due from 3 completed orders; 10 ledger entries in 5 transactions sum to 0.00 each, hash chain intact" +
				"; order o-1 (completed, 10.96) has 10.95 charged and 0.00 refunded",
			"charged_wrong",
		},
		"order forgotten": {
			func(t *testing.T, p past) { p.charge(t, "o-9", "o-9", "5") },
			"40.85 kept (54.80 charged - 13.95 refunded), 35.85 due from 3 completed orders; 12 ledger entries in 6 transactions sum to 0.00 each, hash chain intact" +
				"; order o-9 (unknown to orders) has 5.00 charged",
			"charge_kept",
		},
		"order not ended": {
			func(t *testing.T, p past) {
				p.sql(t, p.orders, `UPDATE orders SET state = 'pending', step = 'ship' WHERE id = 'o-1'`)
			},
			"35.85 kept (49.80 charged - 13.95 refunded), 24.90 due from 2 completed orders; 10 ledger entries in 5 transactions sum to 0.00 each, hash chain intact" +
				"; order o-1 (pending) still has 10.95 charged",
			"charge_kept",
		},
		"address of an entry changed": {
			func(t *testing.T, p past) {
				p.tamper(t, payments.File, `DROP TRIGGER entries_are_not_changed; UPDATE entries SET account = 'customer:u-2' WHERE id = 3`)
			},
			"35.85 kept (49.80 charged - 13.95 refunded), 35.85 due from 3 completed orders; ledger: hash chain broken at entry 3 (charge of order o-2)",
			"ledger_errors",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := business(t)
			test.plant(t, p)
			ok, detail, values := p.check(t, Money)
			if ok || detail != test.want {
				t.Errorf("%v\n got %s\nwant %s", ok, detail, test.want)
			}
			if values[test.value] != 1 {
				t.Errorf("values %v: want %s 1", values, test.value)
			}
		})
	}
}

func (p past) charge(t *testing.T, key, order, amount string) {
	t.Helper()
	if _, err := p.ledger.Charge(t.Context(), payments.Charge{Key: key, Order: order, User: "u-1", Amount: decimal.RequireFromString(amount)}); err != nil {
		t.Fatal(err)
	}
}

// Each way in which stock can go wrong is found, with the product or the order.
func TestStockBroken(t *testing.T) {
	for name, test := range map[string]struct {
		plant func(*testing.T, past)
		want  string
	}{
		"oversold": {
			func(t *testing.T, p past) {
				p.tamper(t, stock.File, `UPDATE products SET available = -2, initial = 5 WHERE id = 'p-9'`)
			},
			"10 pieces gone (99005 - 98995), 3 sold in 3 completed orders" +
				"; product p-9 is oversold: -2 available of 5; product p-9: 7 gone (5 - -2), but completed orders contain 0",
		},
		"pieces lost": {
			func(t *testing.T, p past) {
				p.tamper(t, stock.File, `UPDATE products SET available = 995 WHERE id = 'p-1'`)
			},
			"7 pieces gone (100000 - 99993), 3 sold in 3 completed orders; nothing left reserved, nothing below zero" +
				"; product p-1: 5 gone (1000 - 995), but completed orders contain 1",
		},
		"two errors that cancel out": {
			func(t *testing.T, p past) {
				p.tamper(t, stock.File, `UPDATE products SET available = 1000 WHERE id = 'p-1'; UPDATE products SET available = 998 WHERE id = 'p-2'`)
			},
			"3 pieces gone (100000 - 99997), 3 sold in 3 completed orders; nothing left reserved, nothing below zero" +
				"; product p-1: 0 gone (1000 - 1000), but completed orders contain 1; product p-2: 2 gone (1000 - 998), but completed orders contain 1",
		},
		"reservation left over": {
			func(t *testing.T, p past) { p.reserve(t, "o-6", "p-6") },
			"4 pieces gone (100000 - 99996), 3 sold in 3 completed orders" +
				"; product p-6: 1 gone (1000 - 999), but completed orders contain 0; order o-6 (soldout) is still reserved",
		},
		"reservation of nobody": {
			func(t *testing.T, p past) { p.reserve(t, "o-9", "p-6") },
			"4 pieces gone (100000 - 99996), 3 sold in 3 completed orders" +
				"; product p-6: 1 gone (1000 - 999), but completed orders contain 0; order o-9 (unknown to orders) is still reserved",
		},
		"shipped without being paid": {
			func(t *testing.T, p past) {
				p.order(t, "o-7", orders.Compensated, "p-7", "16.95")
				p.reserve(t, "o-7", "p-7")
				if err := p.shelf.Ship(t.Context(), "o-7"); err != nil {
					t.Fatal(err)
				}
			},
			"4 pieces gone (100000 - 99996), 3 sold in 3 completed orders; nothing left reserved, nothing below zero" +
				"; product p-7: 1 gone (1000 - 999), but completed orders contain 0; order o-7 (compensated) was shipped",
		},
		"completed, never reserved": {
			func(t *testing.T, p past) { p.order(t, "o-7", orders.Completed, "p-7", "16.95") },
			"3 pieces gone (100000 - 99997), 4 sold in 4 completed orders; nothing left reserved, nothing below zero" +
				"; product p-7: 0 gone (1000 - 1000), but completed orders contain 1; order o-7 (completed) was never reserved",
		},
		"completed, but released": {
			func(t *testing.T, p past) {
				if err := p.shelf.Release(t.Context(), "o-2"); err != nil {
					t.Fatal(err)
				}
			},
			"2 pieces gone (100000 - 99998), 3 sold in 3 completed orders; nothing left reserved, nothing below zero" +
				"; product p-2: 0 gone (1000 - 1000), but completed orders contain 1; order o-2 (completed) was released",
		},
		"shipped with other items": {
			func(t *testing.T, p past) {
				p.tamper(t, stock.File, `UPDATE reservations SET items = '[{"product":"p-2","quantity":2}]' WHERE order_id = 'o-2'`)
			},
			stockRight + "; order o-2 (completed) was shipped with other items",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := business(t)
			test.plant(t, p)
			if ok, detail, _ := p.check(t, Stock); ok || detail != test.want {
				t.Errorf("%v\n got %s\nwant %s", ok, detail, test.want)
			}
		})
	}
}

func (p past) reserve(t *testing.T, order, product string) {
	t.Helper()
	if _, err := p.shelf.Reserve(t.Context(), order, []stock.Item{{Product: product, Quantity: 1}}); err != nil {
		t.Fatal(err)
	}
}

func TestDetailNamesFiveAndCountsTheRest(t *testing.T) {
	p := business(t)
	for n := range 8 {
		id := fmt.Sprintf("x-%d", n)
		p.order(t, id, orders.Compensated, "p-1", "1.00")
		p.charge(t, id, id, "1")
	}
	_, detail, _ := p.check(t, Money)
	if n := strings.Count(detail, "still has 1.00 charged"); n != Offenders || !strings.HasSuffix(detail, "order x-4 (compensated) still has 1.00 charged; and 3 more") {
		t.Errorf("%d orders are named, want %d and the number of the others: %s", n, Offenders, detail)
	}
}

func TestDrainedCountsWhatIsUnderWay(t *testing.T) {
	p := business(t)
	p.sql(t, p.orders, `UPDATE orders SET state = 'pending', step = 'charge' WHERE id IN ('o-1', 'o-2');
		UPDATE orders SET state = 'compensation_pending', step = 'refund' WHERE id = 'o-3'`)
	ok, detail, err := Drained(t.Context(), p.data)
	if want := "3 orders have not ended: 1 compensation_pending, 2 pending"; ok || detail != want || err != nil {
		t.Errorf("%v, %q, %v; want %q", ok, detail, err, want)
	}
}

// A question that cannot be answered is an error, never a yes.
func TestCheckWithoutDatabases(t *testing.T) {
	for _, invariant := range System.Invariants {
		if ok, _, _, err := Check(t.Context(), t.TempDir(), invariant); ok || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), orders.File) {
			t.Errorf("%s without databases: %v, %v", invariant, ok, err)
		}
	}
	if ok, _, err := Drained(t.Context(), t.TempDir()); ok || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("drained without databases: %v, %v", ok, err)
	}
	if _, _, _, err := Check(t.Context(), business(t).data, "monye"); err == nil || err.Error() != `no invariant "monye" in system "shop": it has money, stock` {
		t.Errorf("unknown invariant: %v", err)
	}
}

// The description of the system is whole: each service has a role that exists,
// each edge two services and the defaults that the report will show.
func TestSystemIsWhole(t *testing.T) {
	for _, s := range System.Topology.Services {
		if roles[s.Role] == nil {
			t.Errorf("service %q has role %q, which does not exist", s.Name, s.Role)
		}
	}
	if len(System.Topology.Services) != len(roles) {
		t.Errorf("%d services for %d roles", len(System.Topology.Services), len(roles))
	}
	var names []string
	for _, e := range System.Topology.Edges {
		names = append(names, e.Name())
		for _, s := range []string{e.Caller, e.Callee} {
			if _, ok := System.Topology.Service(s); !ok {
				t.Errorf("edge %q: no service %q", e.Name(), s)
			}
		}
		if d := System.Defaults(e); d.Timeout == 0 || d.Retry.Mode != pattern.Hardened || d.Breaker.Mode != pattern.Hardened || d.Fallback != pattern.Hardened {
			t.Errorf("edge %q is not hardened: %+v", e.Name(), d)
		}
	}
	want := []string{"gateway -> orders", "gateway -> stock", "orders -> users", "orders -> stock", "orders -> payments"}
	if !slices.Equal(names, want) {
		t.Errorf("edges %q, want %q", names, want)
	}
}
