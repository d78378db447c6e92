// Package store is the database of one reference service: a SQLite file of its
// own, written by one connection and read by a few.
//
// What Write has committed survives SIGKILL of the process at any moment, but
// not a power cut: the journal mode is WAL with synchronous=NORMAL, which hands
// each commit to the kernel without waiting for the disk. A process killed in
// the middle of a transaction leaves nothing of it behind.
//
//	Write ──> one connection, BEGIN IMMEDIATE, first come first served ──> x.db-wal ──> x.db
//	Read  ──> a few connections, query_only, see the last commit       <───────┘
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Readers is the size of the pool behind Read. More would not help: reads are
// short, and each connection has a page cache of its own.
const Readers = 4

// DB is an open database. It is safe for use by several goroutines.
type DB struct {
	path   string
	writer *sql.DB       // at most one connection
	turn   chan struct{} // capacity 1: holds a token while somebody writes
	reader *sql.DB
}

// Open opens the database at path and creates it if there is none; the folder
// must exist. A journal that a killed process left behind is replayed first.
// ctx bounds the opening only.
func Open(ctx context.Context, path string) (*DB, error) {
	writer, err := connect(ctx, path, 1, url.Values{
		"_journal_mode": {"WAL"},
		"_synchronous":  {"NORMAL"},
		"_foreign_keys": {"on"},
		// The write lock is taken at BEGIN, where waiting is still possible: a
		// transaction that begins as a reader and wants to write later is refused
		// at once when another one wrote in between, whatever the busy timeout.
		"_txlock": {"immediate"},
	})
	if err != nil {
		return nil, err
	}
	reader, err := connect(ctx, path, Readers, url.Values{"_query_only": {"on"}})
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	return &DB{path: path, writer: writer, turn: make(chan struct{}, 1), reader: reader}, nil
}

// OpenReadOnly opens somebody else's database to look at it, while its service
// runs or after it has died. It never creates or changes a row; a file that
// does not exist is an error.
func OpenReadOnly(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open database read-only: %w", err)
	}
	// mode=rw rather than ro, with writing switched off above the file: after a
	// SIGKILL the first to look has to replay the journal, which ro refuses.
	return connect(ctx, path, 1, url.Values{"mode": {"rw"}, "_query_only": {"on"}})
}

// connect opens a pool of at most size connections and tries the first.
func connect(ctx context.Context, path string, size int, options url.Values) (*sql.DB, error) {
	options.Set("_busy_timeout", "5000") // ms: longer than any transaction here, shorter than a reader's patience
	name := "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + options.Encode()
	pool, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size) // statements live as long as their connection: keep it
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), pool.Close())
	}
	return pool, nil
}

// Write runs change in one transaction and commits it when change returns nil;
// otherwise, and when change panics, nothing of it remains. The error of change
// comes back as it is, so that callers can compare it.
//
// Writers take turns in the order they came. ctx bounds the waiting; once
// change has begun it is seen through, so that a caller who gives up never
// leaves the question whether it was done to chance. change must therefore be
// short, must not call Write, and must close the rows it opens.
func (db *DB) Write(ctx context.Context, change func(*sql.Tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write to %s: %w", db.path, err)
	}
	select {
	case db.turn <- struct{}{}:
		defer func() { <-db.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for the writer of %s: %w", db.path, ctx.Err())
	}
	tx, err := db.writer.BeginTx(context.Background(), nil) // not ctx: see above
	if err != nil {
		return fmt.Errorf("begin in %s: %w", db.path, err)
	}
	committed := false
	defer func() {
		if committed {
			return
		}
		if e := tx.Rollback(); e != nil && !errors.Is(e, sql.ErrTxDone) {
			err = errors.Join(err, fmt.Errorf("roll back in %s: %w", db.path, e))
		}
	}()
	if err := change(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit to %s: %w", db.path, err)
	}
	committed = true
	return nil
}

// Prepare compiles a statement for use within Write as tx.Stmt(s), which saves
// most of its cost. Statements for reading are prepared on Read(). It lives
// until Close; it waits for a transaction under way, so it must not be called
// within Write.
func (db *DB) Prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	s, err := db.writer.PrepareContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", query, err)
	}
	return s, nil
}

// Read returns the pool of readers. Each statement sees all that was committed
// before it began. Writing through it is refused.
func (db *DB) Read() *sql.DB { return db.reader }

// Path says where the file is.
func (db *DB) Path() string { return db.path }

// Close waits for the transaction under way, moves the journal into the file
// and closes it. Writing and reading fail from then on.
func (db *DB) Close() error {
	db.turn <- struct{}{}
	defer func() { <-db.turn }()
	if err := errors.Join(db.reader.Close(), db.writer.Close()); err != nil {
		return fmt.Errorf("close database %s: %w", db.path, err)
	}
	return nil
}
