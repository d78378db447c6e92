package orders

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/chaosctl/chaosctl/targets/reference/store"
)

// File is the name of the database in the folder of a system's data.
const File = "orders.db"

// Schema is the one table of the orders database: one row is one order and, at
// once, the whole durable state of its saga. It is a public seam: the shop's
// invariants are read from it, while orders is running or dead.
//
//	id       the order, a time-ordered UUID; it is also the reservation's name
//	         at stock and the idempotency key of the charge at payments
//	key      the caller's Idempotency-Key; NULL when it sent none
//	user     "u-17"
//	items    JSON: [{"product":"p-3","quantity":1}]
//	address  where to ship; NULL when users could not be asked (to be reconciled)
//	total    decimal text "39.90"; '' until stock has answered the reserve
//	state    see State: pending, compensating, compensation_pending, and the
//	         terminal completed, declined, soldout, compensated
//	step     the step that is being done, or was when the process died: its
//	         effect may or may not have happened; '' in a terminal state
//	outcome  the terminal state that compensation leads to; '' if there was none
//	reason   why the saga left the forward path, for people
//	created_ms, updated_ms  Unix milliseconds
//
// What each terminal state promises about the other services:
//
//	completed    charged once (total), reservation shipped
//	declined     no charge, reservation released
//	soldout      no charge, nothing reserved
//	compensated  charge absent or refunded, reservation absent or released
const Schema = `
CREATE TABLE IF NOT EXISTS orders (
	id         TEXT PRIMARY KEY,
	key        TEXT UNIQUE,
	user       TEXT NOT NULL,
	items      TEXT NOT NULL,
	address    TEXT,
	total      TEXT NOT NULL DEFAULT '',
	state      TEXT NOT NULL,
	step       TEXT NOT NULL,
	outcome    TEXT NOT NULL DEFAULT '',
	reason     TEXT NOT NULL DEFAULT '',
	created_ms INTEGER NOT NULL,
	updated_ms INTEGER NOT NULL
) WITHOUT ROWID;`

// Item is some pieces of one product.
type Item struct {
	Product  string `json:"product"`
	Quantity int64  `json:"quantity"`
}

// order is one row. It belongs to one goroutine at a time.
type order struct {
	id, key, user string
	items         string // JSON
	address       string
	total         string
	Position
	reason  string
	tries   int // of the current step, in the background; not durable
	created time.Time
}

// table is the orders table, and with sagas in memory also what is not in it yet.
type table struct {
	now                 func() time.Time // of what is written
	db                  *store.DB
	insert, update      *sql.Stmt // on the writer
	byID, byKey, unfini *sql.Stmt // on the readers
	memory              *memory   // nil: every step is durable
}

const columns = `id, coalesce(key, ''), user, items, coalesce(address, ''), total, state, step, outcome, reason, created_ms`

func openTable(ctx context.Context, path string) (t *table, err error) {
	db, err := store.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	err = db.Write(ctx, func(tx *sql.Tx) error { _, err := tx.Exec(Schema); return err })
	if err != nil {
		return nil, fmt.Errorf("make the orders table: %w", err)
	}
	t = &table{db: db, now: time.Now}
	if t.insert, err = db.Prepare(ctx, `INSERT INTO orders (id, key, user, items, address, state, step, created_ms, updated_ms)
		VALUES (?, nullif(?, ''), ?, ?, nullif(?, ''), ?, ?, ?8, ?8) ON CONFLICT (key) DO NOTHING`); err != nil {
		return nil, err
	}
	if t.update, err = db.Prepare(ctx, `UPDATE orders SET total = ?2, state = ?3, step = ?4, outcome = ?5, reason = ?6, updated_ms = ?7 WHERE id = ?1`); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&t.byID, `SELECT ` + columns + ` FROM orders WHERE id = ?`},
		{&t.byKey, `SELECT ` + columns + ` FROM orders WHERE key = ?`},
		{&t.unfini, `SELECT ` + columns + ` FROM orders WHERE step <> '' ORDER BY id`},
	} {
		if *s.to, err = db.Read().PrepareContext(ctx, s.query); err != nil {
			return nil, fmt.Errorf("prepare %q: %w", s.query, err)
		}
	}
	return t, nil
}

// add makes o durable. An order that has the same key is returned instead, and
// o is not added.
func (t *table) add(ctx context.Context, o *order) (existing *order, err error) {
	if t.memory != nil {
		if existing, err = scan(t.byKey.QueryRowContext(ctx, o.key)); err == nil && existing == nil {
			existing = t.memory.add(o)
		}
		return existing, err
	}
	var added int64
	err = t.db.Write(ctx, func(tx *sql.Tx) error {
		result, err := tx.Stmt(t.insert).Exec(o.id, o.key, o.user, o.items, o.address, o.State, o.Step, o.created.UnixMilli())
		if err != nil {
			return err
		}
		added, err = result.RowsAffected()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record order %s: %w", o.id, err)
	}
	if added == 1 {
		return nil, nil
	}
	existing, err = scan(t.byKey.QueryRowContext(ctx, o.key))
	if err == nil && existing == nil {
		err = fmt.Errorf("record order %s: refused for its key %q, which no order has", o.id, o.key)
	}
	return existing, err
}

// move makes o's next position durable, and then o's.
func (t *table) move(ctx context.Context, o *order, to Position) error {
	if t.memory != nil && !to.State.Terminal() {
		o.Position = to
		t.memory.put(o)
		return nil
	}
	err := t.db.Write(ctx, func(tx *sql.Tx) error {
		if t.memory != nil { // the first that the disk hears of it
			if _, err := tx.Stmt(t.insert).Exec(o.id, o.key, o.user, o.items, o.address, o.State, o.Step, o.created.UnixMilli()); err != nil {
				return err
			}
		}
		_, err := tx.Stmt(t.update).Exec(o.id, o.total, to.State, to.Step, to.Outcome, o.reason, t.now().UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("record that order %s is %s: %w", o.id, to.State, err)
	}
	o.Position = to
	if t.memory != nil {
		t.memory.forget(o)
	}
	return nil
}

// find returns nil when there is no such order.
func (t *table) find(ctx context.Context, id string) (*order, error) {
	if t.memory != nil {
		if o := t.memory.find(id); o != nil {
			return o, nil
		}
	}
	return scan(t.byID.QueryRowContext(ctx, id))
}

// repeated finds the order that has a key; nil when none has.
func (t *table) repeated(ctx context.Context, key string) (*order, error) {
	if t.memory != nil {
		if o := t.memory.withKey(key); o != nil {
			return o, nil
		}
	}
	return scan(t.byKey.QueryRowContext(ctx, key))
}

// unfinished lists the orders whose saga is under way, oldest first.
func (t *table) unfinished(ctx context.Context) ([]*order, error) {
	rows, err := t.unfini.QueryContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for unfinished orders: %w", err)
	}
	defer rows.Close()
	var out []*order
	for rows.Next() {
		o, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, rows.Err()
}

func scan(row interface{ Scan(...any) error }) (*order, error) {
	var o order
	var ms int64
	err := row.Scan(&o.id, &o.key, &o.user, &o.items, &o.address, &o.total, &o.State, &o.Step, &o.Outcome, &o.reason, &ms)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read an order: %w", err)
	}
	o.created = time.UnixMilli(ms)
	return &o, nil
}

func (o *order) raw() json.RawMessage { return json.RawMessage(o.items) }
