package shop

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/targets/reference/orders"
	"github.com/chaosctl/chaosctl/targets/reference/payments"
	"github.com/chaosctl/chaosctl/targets/reference/stock"
	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/shopspring/decimal"
)

// The shop's invariants.
const (
	Money = "money" // what the shop has = what its completed orders cost
	Stock = "stock" // what is gone from the shelves = what its completed orders contain
)

// Offenders is how many broken orders or products a detail names; the others
// are counted.
const Offenders = 5

// Drained tells whether every saga has ended. detail counts those that have not.
func Drained(ctx context.Context, data string) (ok bool, detail string, err error) {
	err = look(ctx, data, orders.File, func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT state, count(*) FROM orders GROUP BY state ORDER BY state`)
		if err != nil {
			return err
		}
		defer rows.Close()
		total := 0
		var states []string
		for rows.Next() {
			var state orders.State
			var n int
			if err := rows.Scan(&state, &n); err != nil {
				return err
			}
			if !state.Terminal() {
				total += n
				states = append(states, fmt.Sprintf("%d %s", n, state))
			}
		}
		ok, detail = total == 0, "every order has ended"
		if !ok {
			detail = fmt.Sprintf("%s not ended: %s", count(total, "order has", "orders have"), strings.Join(states, ", "))
		}
		return rows.Err()
	})
	return ok, detail, err
}

// Check judges one invariant; see reference.System.Check.
func Check(ctx context.Context, data, invariant string) (ok bool, detail string, values map[string]float64, err error) {
	if invariant != Money && invariant != Stock {
		return false, "", nil, fmt.Errorf("no invariant %q in system %q: it has %s", invariant, Name, strings.Join([]string{Money, Stock}, ", "))
	}
	var placed []order
	if err := look(ctx, data, orders.File, func(db *sql.DB) (err error) {
		placed, err = readOrders(ctx, db)
		return err
	}); err != nil {
		return false, "", nil, err
	}
	var f finding
	switch invariant {
	case Money:
		err = look(ctx, data, payments.File, func(db *sql.DB) error {
			books, err := payments.Inspect(ctx, db)
			f = judgeMoney(placed, books)
			return err
		})
	case Stock:
		err = look(ctx, data, stock.File, func(db *sql.DB) error {
			inventory, err := stock.Inspect(ctx, db)
			f = judgeStock(placed, inventory)
			return err
		})
	}
	if err != nil {
		return false, "", nil, err
	}
	ok, detail = f.verdict()
	return ok, detail, f.values, nil
}

// look opens one service's database for reading while f runs.
func look(ctx context.Context, data, file string, f func(*sql.DB) error) (err error) {
	db, err := store.OpenReadOnly(ctx, filepath.Join(data, file))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := f(db); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// order is what the orders database says of one.
type order struct {
	id    string
	state orders.State
	total decimal.Decimal // zero until stock has answered
	items map[string]int64
}

func readOrders(ctx context.Context, db *sql.DB) ([]order, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, state, total, items FROM orders ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []order
	for rows.Next() {
		o := order{items: map[string]int64{}}
		var total, text string
		if err := rows.Scan(&o.id, &o.state, &total, &text); err != nil {
			return nil, err
		}
		if total != "" {
			if o.total, err = decimal.NewFromString(total); err != nil {
				return nil, fmt.Errorf("total of order %s: %w", o.id, err)
			}
		}
		var items []orders.Item
		if err := json.Unmarshal([]byte(text), &items); err != nil {
			return nil, fmt.Errorf("items of order %s: %w", o.id, err)
		}
		for _, i := range items {
			o.items[i.Product] += i.Quantity
		}
		all = append(all, o)
	}
	return all, rows.Err()
}

// finding is what a judge has come to.
type finding struct {
	sum    string   // the numbers, right or wrong, in one clause
	broken []string // what is wrong, the gravest first; each names its order or product
	values map[string]float64
}

// verdict is one line: the numbers, then up to Offenders of what is broken.
func (f finding) verdict() (ok bool, detail string) {
	if len(f.broken) == 0 {
		return true, f.sum
	}
	named := f.broken[:min(len(f.broken), Offenders)]
	detail = f.sum + "; " + strings.Join(named, "; ")
	if more := len(f.broken) - len(named); more > 0 {
		detail += fmt.Sprintf("; and %d more", more)
	}
	return false, detail
}

// judgeMoney holds the ledger against the orders. The equation of the sums says
// whether money was lost or made; only the comparison order by order excludes
// that two errors cancel out.
func judgeMoney(placed []order, books payments.Books) finding {
	var f finding
	for _, e := range books.Errors {
		f.broken = append(f.broken, "ledger: "+e)
	}
	sold := decimal.Zero
	completed, twice, unpaid, kept := 0, 0, 0, 0
	left := maps.Clone(books.Orders)
	for _, o := range placed {
		p := left[o.id]
		delete(left, o.id)
		if o.state == orders.Completed {
			completed++
			sold = sold.Add(o.total)
		}
		switch {
		case p.Charges > 1:
			twice++
			f.broken = append(f.broken, fmt.Sprintf("order %s (%s, %s) was charged %d times: %s charged, %s refunded",
				o.id, o.state, money(o.total), p.Charges, money(p.Charged), money(p.Refunded)))
		case o.state == orders.Completed && !p.Kept().Equal(o.total):
			unpaid++
			f.broken = append(f.broken, fmt.Sprintf("order %s (completed, %s) has %s charged and %s refunded",
				o.id, money(o.total), money(p.Charged), money(p.Refunded)))
		case o.state != orders.Completed && !p.Kept().IsZero():
			kept++
			f.broken = append(f.broken, fmt.Sprintf("order %s (%s) still has %s charged", o.id, o.state, money(p.Kept())))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		if p := left[id]; !p.Kept().IsZero() {
			kept++
			f.broken = append(f.broken, fmt.Sprintf("order %s (unknown to orders) has %s charged", id, money(p.Kept())))
		}
	}

	has := books.Charged.Sub(books.Refunded)
	if !has.Equal(sold) && len(f.broken) == 0 { // cannot be: some order would have to be wrong
		f.broken = append(f.broken, "the sums differ although no order does")
	}
	f.sum = fmt.Sprintf("%s kept (%s charged - %s refunded), %s due from %s",
		money(has), money(books.Charged), money(books.Refunded), money(sold), count(completed, "completed order", "completed orders"))
	if len(books.Errors) == 0 {
		f.sum += fmt.Sprintf("; %s in %s sum to 0.00 each, hash chain intact",
			count(books.Entries, "ledger entry", "ledger entries"), count(books.Transactions, "transaction", "transactions"))
	}
	f.values = map[string]float64{
		"orders": float64(len(placed)), "orders_completed": float64(completed), "orders_total": sold.InexactFloat64(),
		"charged": books.Charged.InexactFloat64(), "refunded": books.Refunded.InexactFloat64(), "difference": has.Sub(sold).InexactFloat64(),
		"charged_twice": float64(twice), "charged_wrong": float64(unpaid), "charge_kept": float64(kept),
		"ledger_entries": float64(books.Entries), "ledger_errors": float64(len(books.Errors)),
	}
	return f
}

// judgeStock holds the shelves against the orders.
func judgeStock(placed []order, inventory stock.Inventory) finding {
	var f finding
	completed := map[string]map[string]int64{} // items by order
	sold := map[string]int64{}
	for _, o := range placed {
		if o.state == orders.Completed {
			completed[o.id] = o.items
			for product, n := range o.items {
				sold[product] += n
			}
		}
	}

	var soldAll, goneAll, initialAll int64
	negative, reserved := 0, 0
	products := slices.SortedFunc(maps.Keys(inventory.Products), naturally)
	for _, id := range products {
		l := inventory.Products[id]
		initialAll += l.Initial
		goneAll += l.Gone()
		if l.Available < 0 {
			negative++
			f.broken = append(f.broken, fmt.Sprintf("product %s is oversold: %d available of %d", id, l.Available, l.Initial))
		}
		if l.Gone() != sold[id] {
			f.broken = append(f.broken, fmt.Sprintf("product %s: %d gone (%d - %d), but completed orders contain %d", id, l.Gone(), l.Initial, l.Available, sold[id]))
		}
	}
	for _, n := range sold {
		soldAll += n
	}
	for _, id := range slices.SortedFunc(maps.Keys(sold), naturally) {
		if _, known := inventory.Products[id]; !known {
			f.broken = append(f.broken, fmt.Sprintf("product %s is not on the shelves, but completed orders contain %d", id, sold[id]))
		}
	}
	states := make(map[string]orders.State, len(placed))
	for _, o := range placed {
		states[o.id] = o.state
		h, known := inventory.Orders[o.id]
		switch {
		case o.state != orders.Completed:
		case !known:
			f.broken = append(f.broken, fmt.Sprintf("order %s (completed) was never reserved", o.id))
		case h.State == stock.Released:
			f.broken = append(f.broken, fmt.Sprintf("order %s (completed) was released", o.id))
		case h.State == stock.Shipped && !same(h.Items, o.items):
			f.broken = append(f.broken, fmt.Sprintf("order %s (completed) was shipped with other items", o.id))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(inventory.Orders)) {
		state, known := states[id]
		if !known {
			state = "unknown to orders"
		}
		switch h := inventory.Orders[id]; {
		case h.State == stock.Reserved:
			reserved++
			f.broken = append(f.broken, fmt.Sprintf("order %s (%s) is still reserved", id, state))
		case h.State == stock.Shipped && state != orders.Completed:
			f.broken = append(f.broken, fmt.Sprintf("order %s (%s) was shipped", id, state))
		}
	}

	f.sum = fmt.Sprintf("%s gone (%d - %d), %d sold in %s", count(int(goneAll), "piece", "pieces"),
		initialAll, initialAll-goneAll, soldAll, count(len(completed), "completed order", "completed orders"))
	if reserved == 0 && negative == 0 {
		f.sum += "; nothing left reserved, nothing below zero"
	}
	f.values = map[string]float64{
		"orders": float64(len(placed)), "orders_completed": float64(len(completed)),
		"initial": float64(initialAll), "gone": float64(goneAll), "sold": float64(soldAll), "difference": float64(goneAll - soldAll),
		"reserved": float64(reserved), "negative": float64(negative),
	}
	return f
}

// same tells whether a holding is what was ordered.
func same(held []stock.Item, ordered map[string]int64) bool {
	got := map[string]int64{}
	for _, i := range held {
		got[i.Product] += i.Quantity
	}
	return maps.Equal(got, ordered)
}

// naturally sorts p-9 before p-10.
func naturally(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func money(d decimal.Decimal) string { return d.StringFixed(2) }

// count is "1 order" or "2 orders".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
