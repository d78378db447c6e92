// Package stock is the stock service of the reference systems: products that
// can be reserved, shipped and released, and never sold twice, behind HTTP.
//
// A reservation belongs to one order and moves one way only:
//
//	            reserve               ship
//	(unknown) ───────────> reserved ────────> shipped
//	    │ release             │ release          │ release
//	    └─────────────────────┴──────────────────┴──> released
//
// So requests may arrive late, twice or in the wrong order: whoever released an
// order once has released it, and a reserve or ship that comes after finds it
// so and is refused.
package stock

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/shopspring/decimal"
)

// File is the name of the database in the folder of a system's data.
const File = "stock.db"

// The CHECK is the second line of defence: Reserve asks for enough first.
const schema = `
CREATE TABLE IF NOT EXISTS products (
	id        TEXT PRIMARY KEY,
	name      TEXT NOT NULL,
	price     INTEGER NOT NULL CHECK (price > 0), -- cents
	initial   INTEGER NOT NULL,                   -- what there was at the beginning
	available INTEGER NOT NULL CHECK (available BETWEEN 0 AND initial)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
	order_id TEXT PRIMARY KEY,
	state    TEXT NOT NULL CHECK (state IN ('reserved', 'shipped', 'released')),
	items    TEXT NOT NULL,   -- JSON [{"product":"p-3","quantity":2}], by product; [] for a tombstone
	total    INTEGER NOT NULL -- cents
) WITHOUT ROWID;`

// Item is some pieces of one product.
type Item struct {
	Product  string `json:"product"`
	Quantity int64  `json:"quantity"`
}

// Product is one thing for sale.
type Product struct {
	ID        string
	Name      string
	Price     decimal.Decimal // whole cents
	Available int64           // neither reserved nor shipped
}

// State is what became of a reservation.
type State string

// The states of a reservation; the package comment draws the way from one to another.
const (
	Reserved State = "reserved"
	Shipped  State = "shipped"
	Released State = "released"
)

// Why something is refused. Callers may compare with errors.Is.
var (
	ErrSoldOut  = errors.New("sold out")
	ErrReleased = errors.New("the order was released before")
	ErrReused   = errors.New("the order was reserved before with other items")
	ErrProduct  = errors.New("no such product")
	ErrOrder    = errors.New("nothing is reserved for this order")
	ErrItems    = errors.New("items must be 1 to 100, each with a product and a quantity of 1 to 1000000")
)

// Shelf holds the products. It is safe for use by several goroutines; one
// process at a time may write.
type Shelf struct {
	db *store.DB

	reservation, take, exists, putBack, add, setState *sql.Stmt // on the writer
	product                                           *sql.Stmt // on the readers
}

// OpenShelf readies the products in db, which it does not close. A database
// without products is filled with the given ones; one that has some keeps them.
func OpenShelf(ctx context.Context, db *store.DB, seed []Product) (*Shelf, error) {
	if err := db.Write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(schema); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM products`).Scan(&n); err != nil || n > 0 {
			return err
		}
		insert, err := tx.Prepare(`INSERT INTO products (id, name, price, initial, available) VALUES (?, ?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		for _, p := range seed {
			if _, err := insert.Exec(p.ID, p.Name, p.Price.Shift(2).IntPart(), p.Available, p.Available); err != nil {
				return fmt.Errorf("product %q: %w", p.ID, err)
			}
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("fill the shelf: %w", err)
	}
	s := &Shelf{db: db}
	var errs []error
	prepare := func(query string) *sql.Stmt {
		p, err := db.Prepare(ctx, query)
		errs = append(errs, err)
		return p
	}
	s.reservation = prepare(`SELECT state, items, total FROM reservations WHERE order_id = ?`)
	s.take = prepare(`UPDATE products SET available = available - ?2 WHERE id = ?1 AND available >= ?2 RETURNING price`)
	s.exists = prepare(`SELECT 1 FROM products WHERE id = ?`)
	s.putBack = prepare(`UPDATE products SET available = available + ?2 WHERE id = ?1`)
	s.add = prepare(`INSERT INTO reservations (order_id, state, items, total) VALUES (?, ?, ?, ?)`)
	s.setState = prepare(`UPDATE reservations SET state = ?2 WHERE order_id = ?1`)
	var err error
	s.product, err = db.Read().PrepareContext(ctx, `SELECT id, name, price, available FROM products WHERE id = ?`)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("open the shelf: %w", err)
	}
	return s, nil
}

// Products are the reference systems' goods: p-0 … p-99, stock pieces of each;
// p-N costs (N mod 50) + 9.95.
func Products(stock int64) []Product {
	products := make([]Product, 100)
	for n := range products {
		products[n] = Product{
			ID:        fmt.Sprintf("p-%d", n),
			Name:      fmt.Sprintf("Product %d", n),
			Price:     decimal.New(int64(n%50)*100+995, -2),
			Available: stock,
		}
	}
	return products
}

// Reserve takes all items off the shelf for an order, or none of them, and
// says what they cost. Reserving the same again changes nothing and gives the
// same answer.
//
// Errors: ErrItems, ErrProduct, ErrSoldOut, ErrReleased, ErrReused, or the
// database's. Nothing is remembered of a refusal.
func (s *Shelf) Reserve(ctx context.Context, order string, items []Item) (total decimal.Decimal, err error) {
	items, err = merge(items)
	if err != nil {
		return decimal.Zero, fmt.Errorf("reserve for order %q: %w", order, err)
	}
	text, err := json.Marshal(items)
	if err != nil {
		return decimal.Zero, fmt.Errorf("reserve for order %q: %w", order, err)
	}
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		r, err := s.read(tx, order)
		switch {
		case err == nil && r.state == Released:
			return ErrReleased
		case err == nil && r.items != string(text):
			return ErrReused
		case err == nil:
			total = r.total
			return nil
		case !errors.Is(err, ErrOrder):
			return err
		}
		for _, item := range items {
			var price int64
			err := tx.Stmt(s.take).QueryRow(item.Product, item.Quantity).Scan(&price)
			if errors.Is(err, sql.ErrNoRows) {
				if err = tx.Stmt(s.exists).QueryRow(item.Product).Scan(new(int)); errors.Is(err, sql.ErrNoRows) {
					return fmt.Errorf("%q: %w", item.Product, ErrProduct)
				} else if err == nil {
					return fmt.Errorf("%q: %w", item.Product, ErrSoldOut)
				}
			}
			if err != nil {
				return err
			}
			total = total.Add(decimal.New(price, -2).Mul(decimal.NewFromInt(item.Quantity)))
		}
		_, err = tx.Stmt(s.add).Exec(order, Reserved, string(text), total.Shift(2).IntPart())
		return err
	})
	if err != nil {
		return decimal.Zero, fmt.Errorf("reserve for order %q: %w", order, err)
	}
	return total, nil
}

// Ship sends what was reserved on its way. Shipping again changes nothing.
//
// Errors: ErrOrder, ErrReleased, or the database's.
func (s *Shelf) Ship(ctx context.Context, order string) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		r, err := s.read(tx, order)
		switch {
		case err != nil:
			return err
		case r.state == Released:
			return ErrReleased
		case r.state == Shipped:
			return nil
		}
		_, err = tx.Stmt(s.setState).Exec(order, Shipped)
		return err
	})
	if err != nil {
		return fmt.Errorf("ship order %q: %w", order, err)
	}
	return nil
}

// Release puts everything back on the shelf, also what was shipped: whoever
// releases because the answer to Ship got lost calls the parcel back. An order
// of which nothing is known is closed all the same, so that a Reserve that is
// still on its way finds it so. Releasing again changes nothing.
func (s *Shelf) Release(ctx context.Context, order string) error {
	err := s.db.Write(ctx, func(tx *sql.Tx) error {
		r, err := s.read(tx, order)
		if errors.Is(err, ErrOrder) {
			_, err := tx.Stmt(s.add).Exec(order, Released, "[]", 0)
			return err
		}
		if err != nil || r.state == Released {
			return err
		}
		var items []Item
		if err := json.Unmarshal([]byte(r.items), &items); err != nil {
			return err
		}
		for _, item := range items {
			if _, err := tx.Stmt(s.putBack).Exec(item.Product, item.Quantity); err != nil {
				return err
			}
		}
		_, err = tx.Stmt(s.setState).Exec(order, Released)
		return err
	})
	if err != nil {
		return fmt.Errorf("release order %q: %w", order, err)
	}
	return nil
}

// Product looks one up. Errors: ErrProduct, or the database's.
func (s *Shelf) Product(ctx context.Context, id string) (Product, error) {
	var p Product
	var cents int64
	err := s.product.QueryRowContext(ctx, id).Scan(&p.ID, &p.Name, &cents, &p.Available)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrProduct
	}
	if err != nil {
		return Product{}, fmt.Errorf("product %q: %w", id, err)
	}
	p.Price = decimal.New(cents, -2)
	return p, nil
}

// reservation is one row of the table reservations.
type reservation struct {
	state State
	items string
	total decimal.Decimal
}

// read returns ErrOrder if there is none.
func (s *Shelf) read(tx *sql.Tx, order string) (r reservation, err error) {
	var cents int64
	err = tx.Stmt(s.reservation).QueryRow(order).Scan(&r.state, &r.items, &cents)
	if errors.Is(err, sql.ErrNoRows) {
		return r, ErrOrder
	}
	r.total = decimal.New(cents, -2)
	return r, err
}

// merge adds up the quantities of each product, and sorts: so two lists of the
// same goods are the same list.
func merge(items []Item) ([]Item, error) {
	if len(items) < 1 || len(items) > 100 {
		return nil, ErrItems
	}
	quantity := map[string]int64{}
	for _, i := range items {
		if i.Product == "" || i.Quantity < 1 || i.Quantity > 1_000_000 {
			return nil, ErrItems
		}
		quantity[i.Product] += i.Quantity
	}
	merged := make([]Item, 0, len(quantity))
	for product, n := range quantity {
		merged = append(merged, Item{product, n})
	}
	slices.SortFunc(merged, func(a, b Item) int { return strings.Compare(a.Product, b.Product) })
	return merged, nil
}
