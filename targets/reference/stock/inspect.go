package stock

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
)

// Inventory is what Inspect found on a shelf.
type Inventory struct {
	Products map[string]Level
	Orders   map[string]Holding // tombstones included
}

// Level is how much of one product there was and is.
type Level struct {
	Initial, Available int64
}

// Gone is what has left the shelf: reserved, or shipped.
func (l Level) Gone() int64 { return l.Initial - l.Available }

// Holding is what one order has of it.
type Holding struct {
	State State
	Items []Item // by product
}

// Inspect counts everything in db (see store.OpenReadOnly) at one moment. It
// judges nothing, changes nothing, and may run beside the service.
func Inspect(ctx context.Context, db *sql.DB) (Inventory, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // one snapshot for both tables
	if err != nil {
		return Inventory{}, fmt.Errorf("inspect the stock: %w", err)
	}
	defer tx.Rollback()
	inventory := Inventory{Products: map[string]Level{}, Orders: map[string]Holding{}}
	if err := inventory.readProducts(ctx, tx); err != nil {
		return Inventory{}, fmt.Errorf("inspect the stock's products: %w", err)
	}
	if err := inventory.readReservations(ctx, tx); err != nil {
		return Inventory{}, fmt.Errorf("inspect the stock's reservations: %w", err)
	}
	return inventory, nil
}

func (i *Inventory) readProducts(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, initial, available FROM products`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var l Level
		if err := rows.Scan(&id, &l.Initial, &l.Available); err != nil {
			return err
		}
		i.Products[id] = l
	}
	return rows.Err()
}

func (i *Inventory) readReservations(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT order_id, state, items FROM reservations`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var order, items string
		var h Holding
		if err := rows.Scan(&order, &h.State, &items); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(items), &h.Items); err != nil {
			return fmt.Errorf("items of order %q: %w", order, err)
		}
		i.Orders[order] = h
	}
	return rows.Err()
}
