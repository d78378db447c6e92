// Package payments is the payment service of the reference systems: an
// idempotent double-entry ledger behind HTTP.
//
// A charge moves money from a customer's account to the shop's, a refund moves
// it back; each movement is one transaction of two entries that sum to zero.
// Entries are never changed or removed. Each carries the hash of the one before
// it, so that Inspect notices when somebody did.
//
// Beside the entries stands one row per charge: what is known under an
// idempotency key, and the answer to whoever asks again. Its life:
//
//	             charge                 refund
//	(unknown) ────────────> captured ────────────> refunded
//	    │  └──────────────> declined
//	    │ refund
//	    └─────────────────> void       a tombstone: the order is closed, no charge was seen
//
// Once an order has a charge that is refunded or void, it is closed: a charge
// that arrives late, because it was delayed or sent again, is refused.
package payments

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/shopspring/decimal"
)

// File is the name of the database in the folder of a system's data.
const File = "payments.db"

// The account that all charges flow to, and the prefix of a customer's account.
const (
	ShopAccount    = "shop"
	CustomerPrefix = "customer:"
)

// Amounts are stored as whole cents, so that SQLite adds them exactly. An entry
// is positive on the account that gains.
const schema = `
CREATE TABLE IF NOT EXISTS charges (
	id       INTEGER PRIMARY KEY,
	key      TEXT UNIQUE,      -- idempotency key; NULL: none was sent, or a tombstone
	order_id TEXT NOT NULL,
	user     TEXT NOT NULL,
	amount   INTEGER NOT NULL CHECK (amount >= 0),
	state    TEXT NOT NULL CHECK (state IN ('captured', 'declined', 'refunded', 'void'))
);
CREATE INDEX IF NOT EXISTS charges_by_order ON charges (order_id);
CREATE TABLE IF NOT EXISTS accounts (
	id TEXT PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
	id       INTEGER PRIMARY KEY, -- 1, 2, 3, … without gaps
	tx       INTEGER NOT NULL,    -- id of the transaction's first entry
	kind     TEXT NOT NULL CHECK (kind IN ('charge', 'refund')),
	charge   INTEGER NOT NULL REFERENCES charges (id),
	order_id TEXT NOT NULL,
	account  TEXT NOT NULL REFERENCES accounts (id),
	amount   INTEGER NOT NULL CHECK (amount <> 0),
	at_ms    INTEGER NOT NULL,    -- Unix milliseconds
	hash     BLOB NOT NULL        -- of the entry before, and this one
);
CREATE TRIGGER IF NOT EXISTS entries_are_not_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_are_not_removed BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;`

// State is what became of a charge.
type State string

// The states of a charge; the package comment draws the way from one to another.
const (
	Captured State = "captured"
	Declined State = "declined"
	Refunded State = "refunded"
	Void     State = "void"
)

// Charge is one wish to take money, and what became of it.
type Charge struct {
	ID     int64
	Key    string // idempotency key; empty: this is not to be recognised when it comes again
	Order  string
	User   string
	Amount decimal.Decimal // more than zero, whole cents
	State  State
}

// Why a charge is refused. Callers may compare with errors.Is.
var (
	ErrClosed   = errors.New("the order is closed: it was refunded before")
	ErrReused   = errors.New("the idempotency key was used for another charge")
	ErrDeclined = errors.New("declined")
	ErrUnknown  = errors.New("no charge for this order")
)

// Ledger keeps the books. It is safe for use by several goroutines; one process
// at a time may write.
type Ledger struct {
	db      *store.DB
	decline func(user string, amount decimal.Decimal) bool // nil: nobody is declined
	now     func() time.Time                               // of entries

	known, addCharge, ofOrder, setState   *sql.Stmt // on the writer
	lastEntry, addAccounts, addTwoEntries *sql.Stmt
	find                                  *sql.Stmt // on the readers
}

// OpenLedger readies the books in db, which it does not close. decline says
// whose charges are to be declined, by user and amount; nil: nobody's.
func OpenLedger(ctx context.Context, db *store.DB, decline func(user string, amount decimal.Decimal) bool) (*Ledger, error) {
	if err := db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(schema)
		return err
	}); err != nil {
		return nil, fmt.Errorf("create the ledger: %w", err)
	}
	l := &Ledger{db: db, decline: decline, now: time.Now}
	var errs []error
	prepare := func(query string) *sql.Stmt {
		s, err := db.Prepare(ctx, query)
		errs = append(errs, err)
		return s
	}
	const columns = `id, coalesce(key, ''), order_id, user, amount, state`
	l.known = prepare(`SELECT ` + columns + ` FROM charges WHERE key = ?1 OR order_id = ?2`)
	l.ofOrder = prepare(`SELECT ` + columns + ` FROM charges WHERE order_id = ?`)
	l.addCharge = prepare(`INSERT INTO charges (key, order_id, user, amount, state) VALUES (nullif(?, ''), ?, ?, ?, ?)`)
	l.setState = prepare(`UPDATE charges SET state = ? WHERE id = ?`)
	l.lastEntry = prepare(`SELECT id, hash FROM entries ORDER BY id DESC LIMIT 1`)
	l.addAccounts = prepare(`INSERT OR IGNORE INTO accounts (id) VALUES (?), (?)`)
	l.addTwoEntries = prepare(`INSERT INTO entries (id, tx, kind, charge, order_id, account, amount, at_ms, hash)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	var err error
	l.find, err = db.Read().PrepareContext(ctx, `SELECT `+columns+` FROM charges WHERE order_id = ? ORDER BY id`)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	return l, nil
}

// Charge takes c.Amount from c.User for c.Order, once per key: whoever sends
// the same charge again gets the same answer, and no money moves. A declined
// charge is remembered too.
//
// Without a key each call is a charge of its own, as with any payment
// provider: whoever repeats it after a timeout charges twice.
//
// Errors: ErrClosed, ErrReused, ErrDeclined (with the charge), or the
// database's.
func (l *Ledger) Charge(ctx context.Context, c Charge) (Charge, error) {
	cents, err := toCents(c.Amount)
	if err != nil {
		return Charge{}, err
	}
	err = l.db.Write(ctx, func(tx *sql.Tx) error {
		known, err := readCharges(tx.Stmt(l.known).Query(c.Key, c.Order))
		if err != nil {
			return err
		}
		// The key first: a replay is a replay whatever became of the order.
		// But money that was given back must not look taken.
		for _, k := range known {
			if c.Key == "" || k.Key != c.Key {
				continue
			}
			if k.Order != c.Order || k.User != c.User || !k.Amount.Equal(c.Amount) {
				return ErrReused
			}
			if k.State == Captured || k.State == Declined {
				c = k
				return nil
			}
		}
		if slices.ContainsFunc(known, func(k Charge) bool {
			return k.Order == c.Order && (k.State == Refunded || k.State == Void)
		}) {
			return ErrClosed
		}

		c.State = Captured
		if l.decline != nil && l.decline(c.User, c.Amount) {
			c.State = Declined
		}
		inserted, err := tx.Stmt(l.addCharge).Exec(c.Key, c.Order, c.User, cents, c.State)
		if err != nil {
			return err
		}
		if c.ID, err = inserted.LastInsertId(); err != nil {
			return err
		}
		if c.State == Declined {
			return nil
		}
		return l.post(tx, "charge", c, CustomerPrefix+c.User, ShopAccount, cents)
	})
	switch {
	case err != nil:
		return Charge{}, fmt.Errorf("charge order %q: %w", c.Order, err)
	case c.State == Declined:
		return c, fmt.Errorf("charge order %q: %w", c.Order, ErrDeclined)
	}
	return c, nil
}

// Refund gives back all that was captured for an order, and closes the order:
// no charge for it is accepted from then on, even if none was seen before. It
// may be repeated. The sum is what has been given back in all.
func (l *Ledger) Refund(ctx context.Context, order string) (refunded decimal.Decimal, err error) {
	err = l.db.Write(ctx, func(tx *sql.Tx) error {
		charges, err := readCharges(tx.Stmt(l.ofOrder).Query(order))
		if err != nil {
			return err
		}
		closed := false
		for _, c := range charges {
			switch c.State {
			case Captured:
				if _, err := tx.Stmt(l.setState).Exec(Refunded, c.ID); err != nil {
					return err
				}
				if err := l.post(tx, "refund", c, ShopAccount, CustomerPrefix+c.User, c.Amount.Shift(2).IntPart()); err != nil {
					return err
				}
				closed, refunded = true, refunded.Add(c.Amount)
			case Refunded:
				closed, refunded = true, refunded.Add(c.Amount)
			case Void:
				closed = true
			}
		}
		if closed {
			return nil
		}
		_, err = tx.Stmt(l.addCharge).Exec("", order, "", 0, Void)
		return err
	})
	if err != nil {
		return decimal.Zero, fmt.Errorf("refund order %q: %w", order, err)
	}
	return refunded, nil
}

// Find says what is known of an order's charge: the captured one if there is
// one, else the last. Tombstones are not charges: ErrUnknown.
func (l *Ledger) Find(ctx context.Context, order string) (Charge, error) {
	charges, err := readCharges(l.find.QueryContext(ctx, order))
	if err != nil {
		return Charge{}, fmt.Errorf("find the charge of order %q: %w", order, err)
	}
	charges = slices.DeleteFunc(charges, func(c Charge) bool { return c.State == Void })
	if len(charges) == 0 {
		return Charge{}, fmt.Errorf("order %q: %w", order, ErrUnknown)
	}
	if i := slices.IndexFunc(charges, func(c Charge) bool { return c.State == Captured }); i >= 0 {
		return charges[i], nil
	}
	return charges[len(charges)-1], nil
}

// post appends one transaction: cents leave one account and reach another.
func (l *Ledger) post(tx *sql.Tx, kind string, c Charge, from, to string, cents int64) error {
	if _, err := tx.Stmt(l.addAccounts).Exec(from, to); err != nil {
		return err
	}
	// The end of the chain is read anew each time, not kept in memory: what was
	// rolled back never was.
	var last int64
	var hash []byte
	if err := tx.Stmt(l.lastEntry).QueryRow().Scan(&last, &hash); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	at := l.now().UnixMilli()
	out := entry{last + 1, last + 1, kind, c.ID, c.Order, from, -cents, at}
	in := entry{last + 2, last + 1, kind, c.ID, c.Order, to, cents, at}
	hashOut := out.hash(hash)
	hashIn := in.hash(hashOut)
	_, err := tx.Stmt(l.addTwoEntries).Exec(
		out.id, out.tx, out.kind, out.charge, out.order, out.account, out.amount, out.atMs, hashOut,
		in.id, in.tx, in.kind, in.charge, in.order, in.account, in.amount, in.atMs, hashIn)
	return err
}

// entry is one row of the table entries, without its hash.
type entry struct {
	id, tx  int64
	kind    string
	charge  int64
	order   string
	account string
	amount  int64 // cents
	atMs    int64
}

// hash chains the entry to the one before it:
//
//	SHA-256( previous hash | id | tx | charge | amount | at_ms | len kind | kind | len order | order | len account | account )
//
// where numbers and lengths are 8 bytes, big endian. The first entry's previous
// hash is empty. The chain has no secret: it shows that the books were changed
// to whoever kept a later hash, or when the change was not carried through to
// the end.
func (e entry) hash(previous []byte) []byte {
	b := make([]byte, 0, 256)
	b = append(b, previous...)
	for _, n := range []int64{e.id, e.tx, e.charge, e.amount, e.atMs} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	for _, s := range []string{e.kind, e.order, e.account} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// MaxAmount is the most that one charge may be.
var MaxAmount = decimal.New(1, 9)

// toCents refuses what the ledger could not keep exactly.
func toCents(amount decimal.Decimal) (int64, error) {
	cents := amount.Shift(2)
	if !amount.IsPositive() || amount.GreaterThan(MaxAmount) || !cents.IsInteger() {
		return 0, fmt.Errorf("amount %s: must be whole cents, more than 0 and at most %s", amount, MaxAmount)
	}
	return cents.IntPart(), nil
}

// fromCents is the inverse of toCents.
func fromCents(cents int64) decimal.Decimal { return decimal.New(cents, -2) }

// readCharges takes a query's two results, so that it can be wrapped around one.
func readCharges(rows *sql.Rows, err error) ([]Charge, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var charges []Charge
	for rows.Next() {
		var c Charge
		var cents int64
		if err := rows.Scan(&c.ID, &c.Key, &c.Order, &c.User, &cents, &c.State); err != nil {
			return nil, err
		}
		c.Amount = fromCents(cents)
		charges = append(charges, c)
	}
	return charges, rows.Err()
}
