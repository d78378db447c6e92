package payments

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/reference/store"
	"github.com/shopspring/decimal"
)

// DeclinedPrefix begins the names of users whose charges are declined.
const DeclinedPrefix = "u-broke"

// Setup makes a node the payment service.
//
//	POST /charges                  {"order","user","amount":"39.90"}, Idempotency-Key
//	    201 {"charge","order","amount","status":"captured"}
//	    402 declined · 409 the order was refunded before · 422 the key was used for another charge
//	GET  /charges/{order}          200 {"charge","order","amount","status":"captured|declined|refunded"} · 404
//	POST /charges/{order}/refund   200 {"order","status":"refunded","amount":"39.90"}; amount 0.00: nothing was captured
//
// Everything may be repeated, given a key. Errors are {"error":"…"}.
func Setup(ctx context.Context, n *node.Node) (func() error, error) {
	db, err := store.Open(ctx, n.Config.Database())
	if err != nil {
		return nil, err
	}
	ledger, err := OpenLedger(ctx, db, func(user string, _ decimal.Decimal) bool {
		return strings.HasPrefix(user, DeclinedPrefix)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	ledger.now = n.Now
	s := &service{ledger: ledger, node: n}
	n.Handle("POST /charges", s.charge)
	n.Handle("GET /charges/{order}", s.find)
	n.Handle("POST /charges/{order}/refund", s.refund)
	n.Ready(db.Read().PingContext)
	return db.Close, nil
}

type service struct {
	ledger *Ledger
	node   *node.Node
}

// receipt is how a charge travels.
type receipt struct {
	Charge string `json:"charge,omitempty"`
	Order  string `json:"order"`
	Amount string `json:"amount"`
	Status State  `json:"status"`
}

func receiptOf(c Charge) receipt {
	return receipt{Charge: fmt.Sprintf("ch-%d", c.ID), Order: c.Order, Amount: c.Amount.StringFixed(2), Status: c.State}
}

func (s *service) charge(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Order, User, Amount string }
	if !node.Decode(w, r, &asked) {
		return
	}
	c := Charge{Key: r.Header.Get("Idempotency-Key"), Order: asked.Order, User: asked.User}
	if c.Order == "" || c.User == "" || len(c.Order) > maxName || len(c.User) > maxName || len(c.Key) > maxName {
		node.Fail(w, http.StatusBadRequest, `"order" and "user" must be given; they and the Idempotency-Key may have at most %d bytes`, maxName)
		return
	}
	var err error
	if c.Amount, err = parseAmount(asked.Amount); err != nil {
		node.Fail(w, http.StatusBadRequest, "%s", err)
		return
	}
	c, err = s.ledger.Charge(r.Context(), c)
	switch {
	case err == nil:
		node.Reply(w, http.StatusCreated, receiptOf(c))
	case errors.Is(err, ErrDeclined):
		node.Fail(w, http.StatusPaymentRequired, "%s", err)
	case errors.Is(err, ErrClosed):
		node.Fail(w, http.StatusConflict, "%s", err)
	case errors.Is(err, ErrReused):
		node.Fail(w, http.StatusUnprocessableEntity, "%s", err)
	default:
		s.failed(w, r, err)
	}
}

func (s *service) find(w http.ResponseWriter, r *http.Request) {
	c, err := s.ledger.Find(r.Context(), r.PathValue("order"))
	switch {
	case err == nil:
		node.Reply(w, http.StatusOK, receiptOf(c))
	case errors.Is(err, ErrUnknown):
		node.Fail(w, http.StatusNotFound, "%s", err)
	default:
		s.failed(w, r, err)
	}
}

func (s *service) refund(w http.ResponseWriter, r *http.Request) {
	order := r.PathValue("order")
	if len(order) > maxName {
		node.Fail(w, http.StatusBadRequest, "an order's name may have at most %d bytes", maxName)
		return
	}
	amount, err := s.ledger.Refund(r.Context(), order)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	node.Reply(w, http.StatusOK, receipt{Order: order, Amount: amount.StringFixed(2), Status: Refunded})
}

// failed answers for errors that are ours: the request was all right. A caller
// that is gone while it waited for its turn is none.
func (s *service) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.node.Log.Error("request failed", "route", r.Pattern, "error", err.Error(), "trace", node.Trace(r.Context()))
	}
	node.Fail(w, http.StatusInternalServerError, "%s", err)
}

// maxName is how long names of orders, users and keys may be, in bytes.
const maxName = 200

// decimal would also read 1e999999999, and compute with it for very long.
var plainNumber = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,2})?$`)

// parseAmount reads "39.90".
func parseAmount(s string) (decimal.Decimal, error) {
	if !plainNumber.MatchString(s) {
		return decimal.Zero, fmt.Errorf(`"amount" is %q: write a decimal number as a string, like "39.90"`, s)
	}
	amount, err := decimal.NewFromString(s)
	if err != nil {
		return decimal.Zero, fmt.Errorf(`"amount" is %q: %w`, s, err)
	}
	_, err = toCents(amount)
	return amount, err
}
