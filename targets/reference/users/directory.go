// Package users is the user service of the reference systems: who is known,
// and where they live, behind HTTP.
package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/chaosctl/chaosctl/targets/reference/store"
)

// File is the name of the database in the folder of a system's data.
const File = "users.db"

const schema = `
CREATE TABLE IF NOT EXISTS users (
	id      TEXT PRIMARY KEY,
	name    TEXT NOT NULL,
	address TEXT NOT NULL
) WITHOUT ROWID;`

// User is somebody who can order.
type User struct {
	ID      string `json:"user"`
	Name    string `json:"name"`
	Address string `json:"address"`
}

// ErrUnknown means that there is no such user.
var ErrUnknown = errors.New("no such user")

// Directory holds the users. It is safe for use by several goroutines.
type Directory struct {
	user *sql.Stmt
}

// OpenDirectory readies the users in db, which it does not close. A database
// without users is filled with the given ones; one that has some keeps them.
func OpenDirectory(ctx context.Context, db *store.DB, seed []User) (*Directory, error) {
	if err := db.Write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(schema); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM users`).Scan(&n); err != nil || n > 0 {
			return err
		}
		insert, err := tx.Prepare(`INSERT INTO users (id, name, address) VALUES (?, ?, ?)`)
		if err != nil {
			return err
		}
		for _, u := range seed {
			if _, err := insert.Exec(u.ID, u.Name, u.Address); err != nil {
				return fmt.Errorf("user %q: %w", u.ID, err)
			}
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("fill the directory: %w", err)
	}
	user, err := db.Read().PrepareContext(ctx, `SELECT id, name, address FROM users WHERE id = ?`)
	if err != nil {
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	return &Directory{user: user}, nil
}

// Broke is a user whose every payment is declined: for whoever wants to see
// what happens then.
const Broke = "u-broke"

// Users are the reference systems' customers: u-0 … u-999, and Broke.
func Users() []User {
	users := make([]User, 1000, 1001)
	for n := range users {
		users[n] = User{
			ID:      fmt.Sprintf("u-%d", n),
			Name:    fmt.Sprintf("User %d", n),
			Address: fmt.Sprintf("%d Harbour Street, %05d Example Town", n%200+1, 10000+n),
		}
	}
	return append(users, User{ID: Broke, Name: "User without Means", Address: "1 Harbour Street, 10000 Example Town"})
}

// User looks one up. Errors: ErrUnknown, or the database's.
func (d *Directory) User(ctx context.Context, id string) (User, error) {
	var u User
	err := d.user.QueryRowContext(ctx, id).Scan(&u.ID, &u.Name, &u.Address)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrUnknown
	}
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", id, err)
	}
	return u, nil
}
