// Package gateway is the front door of the reference systems: what customers
// call, and the only service whose answers they see.
//
// It makes a checkout repeatable: a customer who sends no Idempotency-Key gets
// one here, so that whatever is retried further in is still one order. The
// catalogue is answered from memory when stock cannot.
package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/google/uuid"

	"github.com/chaosctl/chaosctl/targets/reference/node"
)

// remembered is how many products the catalogue's fallback keeps: an unknown
// number of names must not become an unknown amount of memory.
const remembered = 10_000

// Setup makes a node the gateway.
//
//	POST /checkout      {"user","items":[{"product","quantity"}]}, optional Idempotency-Key
//	    201 {"order","status":"completed","total"} · 202 pending · 400 · 402 declined · 409 sold out · 422
//	GET  /orders/{id}   200 · 404
//	GET  /products/{id} 200, with "X-Fallback: cache" when stock could not be asked · 404
//
// 503 {"error":"…"} where a dependency gives no answer and nothing covers for it.
func Setup(_ context.Context, n *node.Node) (func() error, error) {
	orders, err := n.Client("orders")
	if err != nil {
		return nil, err
	}
	stock, err := n.Client("stock")
	if err != nil {
		return nil, err
	}
	g := &service{orders: orders, stock: stock, products: make(map[string][]byte)}
	n.Handle("POST /checkout", g.checkout)
	n.Handle("GET /orders/{id}", g.order)
	n.Handle("GET /products/{id}", g.product)
	return nil, nil
}

type service struct {
	orders, stock *node.Client

	mu       sync.RWMutex
	products map[string][]byte // last answers, by id
}

func (g *service) checkout(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, node.MaxBody))
	if err != nil {
		node.Fail(w, http.StatusRequestEntityTooLarge, "read the body: %s", err)
		return
	}
	if !json.Valid(body) {
		node.Fail(w, http.StatusBadRequest, "the body is not JSON")
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		key = uuid.NewString()
	}
	answer, err := g.orders.Do(r.Context(), node.Call{Method: http.MethodPost, Path: "/orders", Body: json.RawMessage(body), Key: key})
	pass(w, answer, err)
}

func (g *service) order(w http.ResponseWriter, r *http.Request) {
	answer, err := g.orders.Do(r.Context(), node.Call{Method: http.MethodGet, Path: "/orders/" + url.PathEscape(r.PathValue("id"))})
	pass(w, answer, err)
}

func (g *service) product(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	cached := false
	answer, err := g.stock.Do(r.Context(), node.Call{
		Method: http.MethodGet, Path: "/products/" + url.PathEscape(id),
		Fallback: func(err error) (node.Answer, error) {
			g.mu.RLock()
			defer g.mu.RUnlock()
			body, ok := g.products[id]
			if !ok {
				return node.Answer{}, err
			}
			cached = true
			return node.Answer{Status: http.StatusOK, Body: body}, nil
		},
	})
	switch {
	case cached:
		w.Header().Set("X-Fallback", "cache")
	case err == nil && answer.Status == http.StatusOK:
		g.remember(id, answer.Body)
	}
	pass(w, answer, err)
}

func (g *service) remember(id string, body []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.products[id]; known || len(g.products) < remembered {
		g.products[id] = body
	}
}

// pass hands an answer on as it is, and turns none into 503.
func pass(w http.ResponseWriter, answer node.Answer, err error) {
	if err != nil {
		node.Fail(w, http.StatusServiceUnavailable, "%s", err)
		return
	}
	node.Reply(w, answer.Status, json.RawMessage(answer.Body))
}
