package payments

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"

	"github.com/shopspring/decimal"
)

// Books is what Inspect found in a ledger.
type Books struct {
	Entries      int
	Transactions int
	Charged      decimal.Decimal // sum of all charges, refunded ones included
	Refunded     decimal.Decimal

	// Errors says what is wrong with the books themselves, in the order of the
	// entries: a break in the chain (the first only, since all that follows is
	// in doubt), a transaction that does not sum to zero, a charge and entries
	// that do not agree. Empty: the books are sound.
	Errors []string

	// Orders holds the position of each order that entries speak of.
	Orders map[string]Position
}

// Position is what the entries say of one order.
type Position struct {
	Charges  int             // transactions that took money
	Charged  decimal.Decimal // sum of those
	Refunded decimal.Decimal // what was given back
}

// Kept is what the shop still has: Charged - Refunded.
func (p Position) Kept() decimal.Decimal { return p.Charged.Sub(p.Refunded) }

// Inspect reads all books in db (see store.OpenReadOnly), recomputes each hash,
// and adds everything up from the entries alone; the charges' states are then
// held against that. It changes nothing, and may run beside the service.
func Inspect(ctx context.Context, db *sql.DB) (Books, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // one snapshot for all questions
	if err != nil {
		return Books{}, fmt.Errorf("inspect the ledger: %w", err)
	}
	defer tx.Rollback()
	books := Books{Orders: map[string]Position{}}
	charges, err := books.readEntries(ctx, tx)
	if err != nil {
		return Books{}, fmt.Errorf("inspect the ledger's entries: %w", err)
	}
	if err := books.compareCharges(ctx, tx, charges); err != nil {
		return Books{}, fmt.Errorf("inspect the ledger's charges: %w", err)
	}
	return books, nil
}

// moved is what the entries say of one charge, in cents on the shop's account.
type moved struct {
	charged, refunded       int64
	timesCharged, timesBack int
}

// readEntries walks the chain and returns what was moved, by charge.
func (b *Books) readEntries(ctx context.Context, tx *sql.Tx) (map[int64]moved, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, tx, kind, charge, order_id, account, amount, at_ms, hash FROM entries ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()

	charges := map[int64]moved{}
	var previous []byte
	var lastID, openTx, openSum int64
	chainBroken := false
	closeTx := func() {
		if b.Transactions > 0 && openSum != 0 {
			b.Errors = append(b.Errors, fmt.Sprintf("transaction %d sums to %s instead of 0", openTx, fromCents(openSum).StringFixed(2)))
		}
	}
	for rows.Next() {
		var e entry
		var hash []byte
		if err := rows.Scan(&e.id, &e.tx, &e.kind, &e.charge, &e.order, &e.account, &e.amount, &e.atMs, &hash); err != nil {
			return nil, err
		}
		if !chainBroken && (e.id != lastID+1 || !bytes.Equal(hash, e.hash(previous))) {
			chainBroken = true
			if e.id != lastID+1 {
				b.Errors = append(b.Errors, fmt.Sprintf("hash chain broken: entry %d follows entry %d", e.id, lastID))
			} else {
				b.Errors = append(b.Errors, fmt.Sprintf("hash chain broken at entry %d (%s of order %s)", e.id, e.kind, e.order))
			}
		}
		previous, lastID = hash, e.id

		if b.Entries == 0 || e.tx != openTx {
			closeTx()
			openTx, openSum = e.tx, 0
			b.Transactions++
		}
		b.Entries++
		openSum += e.amount

		if e.account == ShopAccount {
			m, p := charges[e.charge], b.Orders[e.order]
			if e.kind == "charge" {
				m.charged, m.timesCharged = m.charged+e.amount, m.timesCharged+1
				p.Charges++
				p.Charged = p.Charged.Add(fromCents(e.amount))
				b.Charged = b.Charged.Add(fromCents(e.amount))
			} else {
				m.refunded, m.timesBack = m.refunded-e.amount, m.timesBack+1
				p.Refunded = p.Refunded.Sub(fromCents(e.amount))
				b.Refunded = b.Refunded.Sub(fromCents(e.amount))
			}
			charges[e.charge], b.Orders[e.order] = m, p
		}
	}
	closeTx()
	return charges, rows.Err()
}

// compareCharges holds each charge's state against what was moved for it.
func (b *Books) compareCharges(ctx context.Context, tx *sql.Tx, charges map[int64]moved) error {
	rows, err := readCharges(tx.QueryContext(ctx, `SELECT id, coalesce(key, ''), order_id, user, amount, state FROM charges ORDER BY id`))
	if err != nil {
		return err
	}
	for _, c := range rows {
		got, want := charges[c.ID], moved{}
		cents := c.Amount.Shift(2).IntPart()
		switch c.State {
		case Captured:
			want = moved{charged: cents, timesCharged: 1}
		case Refunded:
			want = moved{charged: cents, timesCharged: 1, refunded: cents, timesBack: 1}
		}
		if got != want {
			b.Errors = append(b.Errors, fmt.Sprintf("charge %d of order %s is %s at %s, but the entries charged %s in %d and refunded %s in %d transactions",
				c.ID, c.Order, c.State, c.Amount.StringFixed(2),
				fromCents(got.charged).StringFixed(2), got.timesCharged, fromCents(got.refunded).StringFixed(2), got.timesBack))
		}
		delete(charges, c.ID)
	}
	if n := len(charges); n > 0 {
		b.Errors = append(b.Errors, fmt.Sprintf("entries speak of %d charges that do not exist", n))
	}
	return nil
}
