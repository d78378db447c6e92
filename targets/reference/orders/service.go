// Package orders is the order service of the reference systems: it runs the
// checkout as an orchestrated saga over stock and payments.
//
// The way forward is reserve, charge, ship; the way back is refund, release
// (see Position.Next for all of it). Three rules make it safe to kill the
// process anywhere:
//
//   - The step that will be done is durable before it is done. After a crash the
//     row says which effect is uncertain, and that step is simply done again:
//     all steps can be repeated under the order's name.
//   - No answer is not a no. A step without an answer is repeated, or undone on
//     the way back, and never taken for failed.
//   - A step back that fails is tried until it succeeds; until then the order is
//     compensation_pending, never compensated.
//
// The first of these is what `sagas: { orders: memory }` leaves out: an order is
// written down when its saga has ended, as tutorials have it (docs/rows.md, D12). It
// is there to be compared with: a crash loses what was under way, and its effects stay.
//
// Most checkouts finish while their caller waits. When a dependency gives no
// answer and the edge to it has a fallback, the order is accepted as pending and
// its saga goes on in the background (see drain), paced so that a service that
// is just recovering is not knocked down again. Without a fallback the caller
// gets 503, and the background undoes what was done.
package orders

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/shopspring/decimal"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/reference/node"
)

// Setup makes a node the order service.
//
//	POST /orders       {"user","items":[{"product","quantity"}]}, optional Idempotency-Key
//	    201 {"order","status":"completed","total":"39.90"} · 202 pending
//	    400 no such user, or no usable body · 402 declined · 409 sold out
//	    422 refused by stock or payments, or the key was used for another order
//	    503 a dependency gave no answer, and nothing covers for it
//	GET  /orders/{id}  200 {"order","status","user","items","total","reason"} · 404
//
// Errors are {"error":"…"}, with the order where there is one. The sagas that
// an earlier process left unfinished are resumed at once.
func Setup(ctx context.Context, n *node.Node) (func() error, error) {
	s := &service{node: n, flights: make(map[string]*flight)}
	var err error
	for callee, client := range map[string]**node.Client{"users": &s.users, "stock": &s.stock, "payments": &s.payments} {
		if *client, err = n.Client(callee); err != nil {
			return nil, err
		}
	}
	if s.table, err = openTable(ctx, n.Config.Database()); err != nil {
		return nil, err
	}
	s.table.now = n.Now
	if n.Config.Sagas == pattern.Memory {
		s.table.memory = newMemory()
	}
	s.drains = map[*node.Client]*drain{s.stock: newDrain(s, s.stock), s.payments: newDrain(s, s.payments)}
	s.ended = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sagas_ended_total", Help: "Sagas that reached a terminal state, by state."}, []string{"state"})
	n.Register(s.ended)

	left, err := s.table.unfinished(ctx)
	if err != nil {
		return nil, errors.Join(err, s.table.db.Close())
	}
	for _, o := range left {
		s.later(ctx, o, nil)
	}
	if len(left) > 0 {
		n.Log.Info("sagas resumed", "count", len(left))
	}
	for _, d := range s.drains {
		n.Go(d.run)
	}
	n.Handle("POST /orders", s.checkout)
	n.Handle("GET /orders/{id}", s.show)
	n.Ready(s.table.db.Read().PingContext)
	n.State("sagas_waiting", func() any {
		return map[string]int{"stock": s.drains[s.stock].waiting(), "payments": s.drains[s.payments].waiting()}
	})
	s.unfinished.Store(int64(len(left)))
	n.State("sagas_unfinished", func() any { return s.unfinished.Load() })
	return s.table.db.Close, nil
}

type service struct {
	node                   *node.Node
	users, stock, payments *node.Client
	table                  *table
	drains                 map[*node.Client]*drain // by the callee of the next step
	ended                  *prometheus.CounterVec
	unfinished             atomic.Int64 // orders that are not in a terminal state

	mu      sync.Mutex
	flights map[string]*flight // checkouts under way, by Idempotency-Key
}

// flight is a checkout that somebody else with the same key may wait for.
type flight struct {
	done   chan struct{}
	answer answer // once done is closed
}

// answer is what a checkout came to, for its caller.
type answer struct {
	status int
	body   any
}

func problem(status int, format string, args ...any) answer {
	return answer{status, map[string]string{"error": fmt.Sprintf(format, args...)}}
}

// checkout answers POST /orders.
func (s *service) checkout(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		User  string `json:"user"`
		Items []Item `json:"items"`
	}
	if !node.Decode(w, r, &asked) {
		return
	}
	if err := check(asked.User, asked.Items); err != nil {
		node.Fail(w, http.StatusBadRequest, "%s", err)
		return
	}
	items, err := json.Marshal(asked.Items)
	if err != nil {
		node.Fail(w, http.StatusBadRequest, "items: %s", err)
		return
	}
	id, err := uuid.NewV7() // ordered by time: rows are appended, not scattered
	if err != nil {
		node.Fail(w, http.StatusInternalServerError, "name the order: %s", err)
		return
	}
	o := &order{id: id.String(), key: r.Header.Get("Idempotency-Key"), user: asked.User, items: string(items), Position: Start, created: s.node.Now()}
	if len(o.key) > 200 {
		node.Fail(w, http.StatusBadRequest, "the Idempotency-Key may have at most 200 bytes")
		return
	}
	// From here on the caller may leave; the saga goes on.
	ctx := s.node.Detached(r.Context())
	if o.key == "" {
		a := s.place(ctx, o)
		node.Reply(w, a.status, a.body)
		return
	}
	f, first := s.fly(o.key)
	if first {
		f.answer = s.place(ctx, o)
		s.mu.Lock()
		delete(s.flights, o.key)
		s.mu.Unlock()
		close(f.done)
		node.Reply(w, f.answer.status, f.answer.body)
		return
	}
	select {
	case <-f.done:
	case <-r.Context().Done():
		return // nobody is left to answer
	}
	// What the first caller was told may be stale or about other items: look.
	a := s.repeated(ctx, o, f.answer)
	node.Reply(w, a.status, a.body)
}

// fly joins the checkout under way for key, or becomes the first.
func (s *service) fly(key string) (f *flight, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[key]; ok {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	s.flights[key] = f
	return f, true
}

// repeated answers for a key whose first checkout has just ended with fallback.
func (s *service) repeated(ctx context.Context, o *order, fallback answer) answer {
	existing, err := s.table.repeated(ctx, o.key)
	switch {
	case err != nil:
		return problem(http.StatusInternalServerError, "%s", err)
	case existing == nil:
		return fallback // it never became an order
	}
	return again(o, existing)
}

// again answers a repeated checkout from the order that the first one made.
func again(o, existing *order) answer {
	if existing.user != o.user || existing.items != o.items {
		return problem(http.StatusUnprocessableEntity, "the Idempotency-Key %q was used for another order (%s)", o.key, existing.id)
	}
	return answerOf(existing)
}

func check(user string, items []Item) error {
	if user == "" || len(user) > 200 {
		return errors.New(`"user" must be given, in at most 200 bytes`)
	}
	if len(items) == 0 || len(items) > 100 {
		return fmt.Errorf(`"items" has %d entries: 1 to 100 are allowed`, len(items))
	}
	for i, item := range items {
		if item.Product == "" || len(item.Product) > 200 {
			return fmt.Errorf(`items[%d]: "product" must be given, in at most 200 bytes`, i)
		}
		if item.Quantity < 1 || item.Quantity > 1_000_000 {
			return fmt.Errorf(`items[%d]: "quantity" is %d: 1 to 1000000 are allowed`, i, item.Quantity)
		}
	}
	return nil
}

// place runs a new order's saga as far as it gets while the caller waits.
func (s *service) place(ctx context.Context, o *order) answer {
	if a, ok := s.locate(ctx, o); !ok {
		return a
	}
	existing, err := s.table.add(ctx, o)
	if err != nil {
		s.node.Log.Error("checkout failed", "error", err.Error(), "trace", node.Trace(ctx))
		return problem(http.StatusInternalServerError, "%s", err)
	}
	if existing != nil {
		return again(o, existing)
	}
	s.unfinished.Add(1)
	for !o.State.Terminal() {
		result, err := s.do(ctx, o, false)
		if result == Unknown && o.Outcome == "" && !s.callee(o.Step).Covered() {
			result = GivenUp
		}
		if !s.settle(ctx, o, result, err) {
			a := answerOf(o)
			s.later(ctx, o, err) // which may finish it before a could be read from it
			return a
		}
	}
	return answerOf(o)
}

// locate asks users for the address. It is supplementary: where the edge has a
// fallback, an order without it is as good, to be completed later.
func (s *service) locate(ctx context.Context, o *order) (answer, bool) {
	a, err := s.users.Do(ctx, node.Call{
		Method: http.MethodGet, Path: "/users/" + url.PathEscape(o.user),
		Fallback: func(error) (node.Answer, error) { return node.Answer{Status: http.StatusOK, Body: []byte("{}")}, nil },
	})
	if err != nil {
		return problem(http.StatusServiceUnavailable, "%s", err), false
	}
	if a.Status != http.StatusOK {
		return problem(http.StatusBadRequest, "no user %q", o.user), false
	}
	var user struct {
		Address string `json:"address"`
	}
	if err := a.Decode(&user); err != nil {
		return problem(http.StatusServiceUnavailable, "users: %s", err), false
	}
	o.address = user.Address
	return answer{}, true
}

// callee is whom a step calls.
func (s *service) callee(step Step) *node.Client {
	if step == Charge || step == Refund {
		return s.payments
	}
	return s.stock
}

// do takes the order's current step. err says why a result is not Done. once
// leaves trying again to the caller.
func (s *service) do(ctx context.Context, o *order, once bool) (Result, error) {
	call := node.Call{Key: o.id, Once: once}
	switch o.Step {
	case Reserve:
		call.Method, call.Path = http.MethodPost, "/reservations"
		call.Body = struct {
			Order string          `json:"order"`
			Items json.RawMessage `json:"items"`
		}{o.id, o.raw()}
	case Charge:
		call.Method, call.Path = http.MethodPost, "/charges"
		call.Body = struct {
			Order  string `json:"order"`
			User   string `json:"user"`
			Amount string `json:"amount"`
		}{o.id, o.user, o.total}
	case Ship:
		call.Method, call.Path = http.MethodPost, "/reservations/"+o.id+"/ship"
	case Refund:
		call.Method, call.Path = http.MethodPost, "/charges/"+o.id+"/refund"
	case Release:
		call.Method, call.Path = http.MethodDelete, "/reservations/"+o.id
	default:
		return Unknown, fmt.Errorf("order %s is at step %q, which does not exist", o.id, o.Step)
	}
	a, err := s.callee(o.Step).Do(ctx, call)
	switch {
	case err != nil:
		return Unknown, err
	case a.Status < 300 && o.Step == Reserve:
		return s.reserved(o, a)
	case a.Status < 300:
		return Done, nil
	case a.Status < 400:
		return Unknown, fmt.Errorf("%s answered status %d", o.Step, a.Status)
	}
	var said struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(a.Body, &said) // a body of another kind just has no words to pass on
	err = fmt.Errorf("%s refused: %d %s", o.Step, a.Status, said.Error)
	if o.Step == Reserve && a.Status == http.StatusConflict || o.Step == Charge && a.Status == http.StatusPaymentRequired {
		return Refused, err
	}
	return Rejected, err
}

// reserved takes the total from stock's answer. A total that makes no sense is
// as good as no answer: charging it would be worse than asking again.
func (s *service) reserved(o *order, a node.Answer) (Result, error) {
	var r struct {
		Total string `json:"total"`
	}
	if err := a.Decode(&r); err != nil {
		return Unknown, err
	}
	total, err := decimal.NewFromString(r.Total)
	if err != nil || total.IsNegative() {
		return Unknown, fmt.Errorf("stock's total is %q, which is no amount", r.Total)
	}
	o.total = total.StringFixed(2)
	return Done, nil
}

// settle makes durable what follows from a step's result. It tells whether to
// go on at once; if not, the order has to be handed to later. err says why the
// result is not Done.
func (s *service) settle(ctx context.Context, o *order, result Result, err error) bool {
	if ctx.Err() != nil {
		return false // the process is ending; its successor goes on from the row
	}
	to := o.Next(result)
	if o.Outcome == "" && result != Done && result != Unknown {
		o.reason = err.Error()
	}
	stuck := to.Step == o.Step || result == GivenUp
	if to != o.Position {
		if err := s.table.move(ctx, o, to); err != nil {
			if ctx.Err() == nil {
				s.node.Log.Error("saga not recorded", "order", o.id, "error", err.Error())
			}
			return false // its row is as it was: the step will be repeated
		}
		if to.State == CompensationPending {
			s.node.Log.Warn("compensation pending", "order", o.id, "step", string(to.Step), "error", err.Error())
		}
		if to.State.Terminal() {
			s.ended.WithLabelValues(string(to.State)).Inc()
			s.unfinished.Add(-1)
		}
	}
	if stuck {
		return false
	}
	o.tries = 0
	return true
}

// later hands an order over to the background, after a step that failed with
// err (nil: none did).
func (s *service) later(ctx context.Context, o *order, err error) {
	if ctx.Err() == nil {
		s.drains[s.callee(o.Step)].add(o, err)
	}
}

// answerOf says what an order's position means to its caller.
func answerOf(o *order) answer {
	end := o.State
	if o.Outcome != "" {
		end = o.Outcome // what it will come to is certain already
	}
	body := map[string]string{"order": o.id, "status": string(o.State)}
	if o.total != "" {
		body["total"] = o.total
	}
	switch end {
	case Completed:
		return answer{http.StatusCreated, body}
	case Pending:
		return answer{http.StatusAccepted, body}
	case Declined:
		body["error"] = "the charge was declined"
		return answer{http.StatusPaymentRequired, body}
	case SoldOut:
		body["error"] = "sold out"
		return answer{http.StatusConflict, body}
	}
	body["error"] = o.reason
	if o.Outcome == "" {
		return answer{http.StatusUnprocessableEntity, body} // rejected before anything was done
	}
	return answer{http.StatusServiceUnavailable, body}
}

// show answers GET /orders/{id}.
func (s *service) show(w http.ResponseWriter, r *http.Request) {
	o, err := s.table.find(r.Context(), r.PathValue("id"))
	if err != nil {
		node.Fail(w, http.StatusInternalServerError, "%s", err)
		return
	}
	if o == nil {
		node.Fail(w, http.StatusNotFound, "no order %q", r.PathValue("id"))
		return
	}
	node.Reply(w, http.StatusOK, struct {
		Order  string          `json:"order"`
		Status State           `json:"status"`
		User   string          `json:"user"`
		Items  json.RawMessage `json:"items"`
		Total  string          `json:"total,omitempty"`
		Reason string          `json:"reason,omitempty"`
	}{o.id, o.State, o.user, o.raw(), o.total, o.reason})
}
