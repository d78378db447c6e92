package users

import (
	"context"
	"errors"
	"net/http"

	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/reference/store"
)

// Setup makes a node the user service.
//
//	GET /users/{id}   200 {"user","name","address"} · 404
//
// Errors are {"error":"…"}.
func Setup(ctx context.Context, n *node.Node) (func() error, error) {
	db, err := store.Open(ctx, n.Config.Database())
	if err != nil {
		return nil, err
	}
	directory, err := OpenDirectory(ctx, db, Users())
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	n.Handle("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		u, err := directory.User(r.Context(), r.PathValue("id"))
		switch {
		case err == nil:
			node.Reply(w, http.StatusOK, u)
		case errors.Is(err, ErrUnknown):
			node.Fail(w, http.StatusNotFound, "%s", err)
		default:
			if r.Context().Err() == nil { // a caller who went away is no failure of ours
				n.Log.Error("request failed", "route", r.Pattern, "error", err.Error(), "trace", node.Trace(r.Context()))
			}
			node.Fail(w, http.StatusInternalServerError, "%s", err)
		}
	})
	n.Ready(db.Read().PingContext)
	return db.Close, nil
}
