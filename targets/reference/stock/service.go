package stock

import (
	"context"
	"errors"
	"net/http"

	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/reference/store"
)

// InitialStock is how much there is of each product at the beginning.
const InitialStock = 1_000_000

// Setup makes a node the stock service.
//
//	POST   /reservations               {"order","items":[{"product","quantity"}]}
//	    201 {"reservation":order,"total":"39.90"} · 404 no such product · 409 sold out, or released before
//	    422 the order was reserved before with other items
//	POST   /reservations/{order}/ship  200 · 404 nothing reserved · 409 released before
//	DELETE /reservations/{order}       200
//	GET    /products/{id}              200 {"product","name","price":"9.95","available"} · 404
//
// Everything may be repeated. Errors are {"error":"…"}.
func Setup(ctx context.Context, n *node.Node) (func() error, error) {
	db, err := store.Open(ctx, n.Config.Database())
	if err != nil {
		return nil, err
	}
	shelf, err := OpenShelf(ctx, db, Products(InitialStock))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &service{shelf: shelf, node: n}
	n.Handle("POST /reservations", s.reserve)
	n.Handle("POST /reservations/{order}/ship", s.ship)
	n.Handle("DELETE /reservations/{order}", s.release)
	n.Handle("GET /products/{id}", s.product)
	n.Ready(db.Read().PingContext)
	return db.Close, nil
}

type service struct {
	shelf *Shelf
	node  *node.Node
}

// maxName is how long the name of an order may be, in bytes.
const maxName = 200

func (s *service) reserve(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Order string
		Items []Item
	}
	if !node.Decode(w, r, &asked) || !named(w, asked.Order) {
		return
	}
	total, err := s.shelf.Reserve(r.Context(), asked.Order, asked.Items)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	node.Reply(w, http.StatusCreated, map[string]string{"reservation": asked.Order, "total": total.StringFixed(2)})
}

func (s *service) ship(w http.ResponseWriter, r *http.Request) {
	order := r.PathValue("order")
	if err := s.shelf.Ship(r.Context(), order); err != nil {
		s.refuse(w, r, err)
		return
	}
	node.Reply(w, http.StatusOK, map[string]string{"reservation": order, "status": string(Shipped)})
}

func (s *service) release(w http.ResponseWriter, r *http.Request) {
	order := r.PathValue("order")
	if !named(w, order) {
		return
	}
	if err := s.shelf.Release(r.Context(), order); err != nil {
		s.refuse(w, r, err)
		return
	}
	node.Reply(w, http.StatusOK, map[string]string{"reservation": order, "status": string(Released)})
}

func (s *service) product(w http.ResponseWriter, r *http.Request) {
	p, err := s.shelf.Product(r.Context(), r.PathValue("id"))
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	node.Reply(w, http.StatusOK, struct {
		Product   string `json:"product"`
		Name      string `json:"name"`
		Price     string `json:"price"`
		Available int64  `json:"available"`
	}{p.ID, p.Name, p.Price.StringFixed(2), p.Available})
}

// named answers 400 and returns false when an order has no usable name.
func named(w http.ResponseWriter, order string) bool {
	if order == "" || len(order) > maxName {
		node.Fail(w, http.StatusBadRequest, `"order" must be given, in at most %d bytes`, maxName)
		return false
	}
	return true
}

// refuse turns an error into its status.
func (s *service) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrItems):
		status = http.StatusBadRequest
	case errors.Is(err, ErrProduct), errors.Is(err, ErrOrder):
		status = http.StatusNotFound
	case errors.Is(err, ErrSoldOut), errors.Is(err, ErrReleased):
		status = http.StatusConflict
	case errors.Is(err, ErrReused):
		status = http.StatusUnprocessableEntity
	case r.Context().Err() == nil: // ours, unless the caller went away while waiting for its turn
		s.node.Log.Error("request failed", "route", r.Pattern, "error", err.Error(), "trace", node.Trace(r.Context()))
	}
	node.Fail(w, status, "%s", err)
}
