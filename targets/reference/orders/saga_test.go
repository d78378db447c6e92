package orders

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopspring/decimal"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/reference/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is everything that orders calls, in memory, with the promises that
// stock and payments make: effects happen once per order, and releasing or
// refunding the unknown leaves a tombstone.
type world struct {
	mu        sync.Mutex
	available map[string]int64
	taken     map[string][]Item // by order
	parcel    map[string]string // by order: reserved, shipped, released
	charge    map[string]string // by order: captured, refunded, void
	amount    map[string]decimal.Decimal
	captures  map[string]int
	reserves  map[string]int
	seen      []string // "POST /charges", in order

	// fate decides what becomes of the n-th call (from 1). Called without the lock.
	fate func(n int, step string) fate
	late sync.WaitGroup
}

// fate is what the network and the callee do to one call.
type fate string

const (
	fine        fate = ""
	lost        fate = "lost before its effect"
	answerLost  fate = "answer lost after its effect"
	hangs       fate = "hangs, without effect"
	delayed     fate = "caller gives up, effect comes later"
	fails       fate = "status 500, without effect"
	crashBefore fate = "orders is killed before the effect"
	crashAfter  fate = "orders is killed after the effect"
)

func newWorld() *world {
	return &world{
		available: map[string]int64{"p-1": 100, "p-2": 100, "p-rare": 0},
		taken:     map[string][]Item{}, parcel: map[string]string{}, charge: map[string]string{},
		amount: map[string]decimal.Decimal{}, captures: map[string]int{}, reserves: map[string]int{},
	}
}

// network is the world as one incarnation of orders sees it; kill ends that.
type network struct {
	*world
	kill func()
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	step := stepOf(r)
	n.mu.Lock()
	n.seen = append(n.seen, step)
	count := len(n.seen)
	n.mu.Unlock()
	f := fine
	if n.fate != nil {
		f = n.fate(count, step)
	}
	gone := errors.New("connection reset")
	switch f {
	case lost:
		return nil, gone
	case answerLost:
		n.effect(r, body)
		return nil, gone
	case hangs:
		<-r.Context().Done()
		return nil, r.Context().Err()
	case delayed:
		n.late.Go(func() {
			time.Sleep(3 * time.Second)
			n.effect(r, body)
		})
		<-r.Context().Done()
		return nil, r.Context().Err()
	case fails:
		return response(r, 500, "{}"), nil
	case crashBefore:
		n.kill()
		return nil, gone
	case crashAfter:
		n.effect(r, body)
		n.kill()
		return nil, gone
	}
	status, text := n.effect(r, body)
	return response(r, status, text), nil
}

func stepOf(r *http.Request) string {
	switch {
	case strings.HasPrefix(r.URL.Path, "/users/"):
		return "users"
	case strings.HasSuffix(r.URL.Path, "/ship"):
		return string(Ship)
	case strings.HasSuffix(r.URL.Path, "/refund"):
		return string(Refund)
	case r.Method == http.MethodDelete:
		return string(Release)
	case r.URL.Path == "/charges":
		return string(Charge)
	}
	return string(Reserve)
}

func response(r *http.Request, status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}
}

// effect is what stock, payments and users do.
func (w *world) effect(r *http.Request, body []byte) (int, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := strings.Split(r.URL.Path, "/")
	var asked struct {
		Order, User string
		Items       []Item
		Amount      decimal.Decimal
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &asked); err != nil {
			return 400, `{}`
		}
	}
	switch stepOf(r) {
	case "users":
		if parts[2] == "u-nobody" {
			return 404, `{}`
		}
		return 200, `{"user":"u","name":"U","address":"1 Lane"}`
	case string(Reserve):
		id := asked.Order
		total := decimal.Zero
		for _, item := range asked.Items {
			if _, known := w.available[item.Product]; !known {
				return 404, `{"error":"no such product"}`
			}
			total = total.Add(decimal.RequireFromString("9.95").Mul(decimal.NewFromInt(item.Quantity)))
		}
		switch w.parcel[id] {
		case "released":
			return 409, `{"error":"released before"}`
		case "":
			for _, item := range asked.Items {
				if w.available[item.Product] < item.Quantity {
					return 409, `{"error":"sold out"}`
				}
			}
			for _, item := range asked.Items {
				w.available[item.Product] -= item.Quantity
			}
			w.parcel[id], w.taken[id] = "reserved", asked.Items
			w.reserves[id]++
		}
		return 201, fmt.Sprintf(`{"reservation":%q,"total":%q}`, id, total.StringFixed(2))
	case string(Ship):
		switch w.parcel[parts[2]] {
		case "reserved", "shipped":
			w.parcel[parts[2]] = "shipped"
			return 200, `{}`
		case "released":
			return 409, `{"error":"released before"}`
		}
		return 404, `{}`
	case string(Release):
		for _, item := range w.taken[parts[2]] {
			w.available[item.Product] += item.Quantity
		}
		delete(w.taken, parts[2])
		w.parcel[parts[2]] = "released"
		return 200, `{}`
	case string(Charge):
		id := asked.Order
		if r.Header.Get("Idempotency-Key") != id {
			return 400, `{"error":"no key"}`
		}
		switch w.charge[id] {
		case "refunded", "void":
			return 409, `{"error":"refunded before"}`
		case "":
			if strings.HasPrefix(asked.User, "u-broke") {
				return 402, `{"error":"declined"}`
			}
			w.charge[id], w.amount[id] = "captured", asked.Amount
			w.captures[id]++
		}
		return 201, `{"status":"captured"}`
	case string(Refund):
		switch w.charge[parts[2]] {
		case "":
			w.charge[parts[2]] = "void"
		case "captured":
			w.charge[parts[2]] = "refunded"
		}
		return 200, `{}`
	}
	return 404, `{}`
}

// incarnation is one life of the orders process on the same database.
type incarnation struct {
	*node.Node
	close func() error
	done  sync.WaitGroup
}

func live(t rapid.TB, w *world, data string, edge pattern.Settings) *incarnation {
	t.Helper()
	return liveWith(t, w, data, edge, pattern.Durable)
}

func liveWith(t rapid.TB, w *world, data string, edge pattern.Settings, sagas pattern.Sagas) *incarnation {
	t.Helper()
	network := &network{world: w}
	edges := map[string]node.Edge{}
	for _, callee := range []string{"users", "stock", "payments"} {
		edges[callee] = node.Edge{Address: callee + ":80", Settings: edge}
	}
	n := node.NewWithTransport(node.Config{Service: "orders", Data: data, Seed: 7, Edges: edges, Sagas: sagas}, slog.New(slog.DiscardHandler), network)
	network.kill = n.End
	closer, err := Setup(context.Background(), n)
	if err != nil {
		t.Fatalf("set up orders: %v", err)
	}
	i := &incarnation{Node: n, close: closer}
	i.done.Go(n.Background)
	return i
}

// end stops it the way a kill does: nothing more is written or called.
func (i *incarnation) end(t rapid.TB) {
	t.Helper()
	i.End()
	i.done.Wait()
	if err := i.close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func (i *incarnation) post(user, product string, quantity int64, key string) (int, map[string]string) {
	body, _ := json.Marshal(map[string]any{"user": user, "items": []Item{{product, quantity}}})
	r := httptest.NewRequest("POST", "/orders", bytes.NewReader(body))
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, r)
	var answer map[string]string
	_ = json.Unmarshal(w.Body.Bytes(), &answer)
	return w.Code, answer
}

func (i *incarnation) status(id string) string {
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/orders/"+id, nil))
	var answer struct{ Status string }
	_ = json.Unmarshal(w.Body.Bytes(), &answer)
	return answer.Status
}

// rows reads all orders from a database that nobody has open.
func rows(t rapid.TB, data string) map[string]*order {
	t.Helper()
	table, err := openTable(context.Background(), data+"/"+File)
	if err != nil {
		t.Fatalf("open the orders: %v", err)
	}
	defer table.db.Close()
	found, err := table.db.Read().Query(`SELECT ` + columns + ` FROM orders`)
	if err != nil {
		t.Fatalf("read the orders: %v", err)
	}
	defer found.Close()
	all := map[string]*order{}
	for found.Next() {
		o, err := scan(found)
		if err != nil {
			t.Fatalf("read an order: %v", err)
		}
		all[o.id] = o
	}
	return all
}

// audit holds every order against what stock and payments have of it.
func (w *world) audit(t rapid.TB, all map[string]*order) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	sold := map[string]int64{}
	for id, o := range all {
		parcel, charge := w.parcel[id], w.charge[id]
		ok := false
		switch o.State {
		case Completed:
			ok = parcel == "shipped" && charge == "captured" && w.amount[id].StringFixed(2) == o.total
			var items []Item
			if err := json.Unmarshal([]byte(o.items), &items); err != nil {
				t.Fatalf("items of %s: %v", id, err)
			}
			for _, item := range items {
				sold[item.Product] += item.Quantity
			}
		case Declined:
			ok = parcel == "released" && charge == ""
		case SoldOut:
			ok = parcel != "reserved" && parcel != "shipped" && charge == ""
		case Compensated:
			ok = parcel != "reserved" && parcel != "shipped" && charge != "captured"
		}
		if !ok {
			t.Errorf("order %s is %s at %q: parcel %q, charge %q (%s), total %q, reason %q", id, o.State, o.Step, parcel, charge, w.amount[id], o.total, o.reason)
		}
		if w.captures[id] > 1 || w.reserves[id] > 1 {
			t.Errorf("order %s was charged %d times and reserved %d times", id, w.captures[id], w.reserves[id])
		}
	}
	for id := range maps.Keys(w.charge) {
		if all[id] == nil {
			t.Errorf("payments knows order %s, orders does not", id)
		}
	}
	for product, initial := range newWorld().available {
		if left := w.available[product]; left+sold[product] != initial {
			t.Errorf("%s: %d at the start, %d sold, %d left", product, initial, sold[product], left)
		}
	}
}

// dead tells whether a crash has ended it.
func (i *incarnation) dead() bool { return i.Detached(context.Background()).Err() != nil }

// settled waits until no saga is under way; false when a crash came first, or
// the time was up.
func (i *incarnation) settled(within time.Duration) bool {
	for deadline := time.Now().Add(within); time.Now().Before(deadline) && !i.dead(); time.Sleep(200 * time.Millisecond) {
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/admin/state", nil))
		var state struct {
			Unfinished *int `json:"sagas_unfinished"`
		}
		if json.Unmarshal(w.Body.Bytes(), &state) == nil && state.Unfinished != nil && *state.Unfinished == 0 {
			return true
		}
	}
	return false
}

var (
	bare     = pattern.Settings{Timeout: time.Second}
	hardened = pattern.Default(pattern.Hardened)
)

func TestCheckoutAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		user, product string
		edge          pattern.Settings
		fate          func(n int, step string) fate
		status        int
		state         string // at once
		end           State
	}{
		"completed":               {"u-1", "p-1", bare, nil, 201, "completed", Completed},
		"declined":                {"u-broke", "p-1", bare, nil, 402, "declined", Declined},
		"sold out":                {"u-1", "p-rare", bare, nil, 409, "soldout", SoldOut},
		"no such product":         {"u-1", "p-none", bare, nil, 422, "compensated", Compensated},
		"stock gone":              {"u-1", "p-1", bare, at("reserve", 1, lost), 503, "compensating", Compensated},
		"payments gone":           {"u-1", "p-1", bare, at("charge", 1, lost), 503, "compensating", Compensated},
		"payments slow":           {"u-1", "p-1", bare, at("charge", 1, delayed), 503, "compensating", Compensated},
		"shipping fails":          {"u-1", "p-1", bare, at("ship", 1, fails), 503, "compensating", Compensated},
		"stock gone, covered":     {"u-1", "p-1", hardened, at("reserve", 3, hangs), 202, "pending", Completed},
		"payments gone, covered":  {"u-1", "p-1", hardened, at("charge", 3, hangs), 202, "pending", Completed},
		"charged but unanswered":  {"u-1", "p-1", hardened, at("charge", 9, answerLost), 202, "pending", Completed},
		"shipping fails, covered": {"u-1", "p-1", hardened, at("ship", 3, fails), 202, "pending", Completed},
		"users gone, covered":     {"u-1", "p-1", hardened, at("users", 3, hangs), 201, "completed", Completed},
		"a blip is retried":       {"u-1", "p-1", hardened, at("charge", 1, answerLost), 201, "completed", Completed},
		"release fails":           {"u-broke", "p-1", bare, at("release", 3, fails), 402, "compensation_pending", Declined},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.fate = test.fate
				i := live(t, w, data, test.edge)
				status, answer := i.post(test.user, test.product, 2, "")
				if status != test.status || answer["status"] != test.state {
					t.Errorf("answered %d %v, want %d %s", status, answer, test.status, test.state)
				}
				if (status == 201) != (answer["total"] == "19.90") && status != 202 && test.user != "u-broke" && status != 503 {
					t.Errorf("total is %q with status %d", answer["total"], status)
				}
				if !i.settled(2 * time.Minute) {
					t.Error("not settled after two minutes")
				}
				if got := i.status(answer["order"]); got != string(test.end) {
					t.Errorf("ended as %s, want %s", got, test.end)
				}
				w.late.Wait()
				i.end(t)
				w.audit(t, rows(t, data))
			})
		})
	}
}

// at applies a fate to the first n calls of a step.
func at(step string, n int, f fate) func(int, string) fate {
	var mu sync.Mutex
	left := n
	return func(_ int, s string) fate {
		mu.Lock()
		defer mu.Unlock()
		if s != step || left == 0 {
			return fine
		}
		left--
		return f
	}
}

func TestUsersGoneWithoutFallback(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fate = at("users", 1, fails)
		i := live(t, w, data, bare)
		if status, answer := i.post("u-1", "p-1", 1, ""); status != 503 {
			t.Errorf("answered %d %v, want 503", status, answer)
		}
		if status, answer := i.post("u-nobody", "p-1", 1, ""); status != 400 {
			t.Errorf("unknown user: answered %d %v, want 400", status, answer)
		}
		i.end(t)
		if all := rows(t, data); len(all) != 0 {
			t.Errorf("%d orders were made", len(all))
		}
	})
}

func TestBadRequests(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		i := live(t, newWorld(), data, bare)
		for _, body := range []string{``, `{`, `[]`, `{}`, `{"user":"u-1"}`, `{"user":"u-1","items":[]}`, `{"user":"u-1","items":[{"product":"p-1","quantity":0}]}`,
			`{"user":"u-1","items":[{"product":"p-1","quantity":1e30}]}`, `{"user":"u-1","items":[{"quantity":1}]}`, `{"user":"","items":[{"product":"p-1","quantity":1}]}`} {
			w := httptest.NewRecorder()
			i.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/orders", strings.NewReader(body)))
			if w.Code != 400 || !strings.Contains(w.Body.String(), `"error"`) {
				t.Errorf("%s: answered %d %s", body, w.Code, w.Body)
			}
		}
		i.end(t)
	})
}

func TestKeyMakesCheckoutRepeatable(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fate = func(int, string) fate { time.Sleep(10 * time.Millisecond); return fine }
		i := live(t, w, data, bare)
		ids := make([]string, 20)
		var all sync.WaitGroup
		for k := range ids {
			all.Go(func() {
				status, answer := i.post("u-1", "p-1", 1, "same")
				if status != 201 {
					t.Errorf("answered %d %v", status, answer)
				}
				ids[k] = answer["order"]
			})
		}
		all.Wait()
		if ids = slices.Compact(ids); len(ids) != 1 {
			t.Errorf("one key made %d orders", len(ids))
		}
		if status, answer := i.post("u-1", "p-1", 1, "same"); status != 201 || answer["order"] != ids[0] || answer["total"] != "9.95" {
			t.Errorf("repeated later: %d %v", status, answer)
		}
		if status, _ := i.post("u-2", "p-1", 1, "same"); status != 422 {
			t.Errorf("key used for another order: %d, want 422", status)
		}
		if _, a := i.post("u-1", "p-1", 1, ""); a["order"] == ids[0] {
			t.Error("an order without a key is the earlier one")
		}
		i.end(t)
		if n := len(rows(t, data)); n != 2 {
			t.Errorf("%d orders, want 2", n)
		}
	})
}

// Row 41: killed at every step boundary, before and after the step's effect; a
// new process finishes the saga within 10 s, and no effect happens twice.
func TestKilledAtEveryStepBoundary(t *testing.T) {
	nothing := func() func(int, string) fate { return at("", 0, fine) }
	for _, path := range []struct {
		name, user string
		edge       pattern.Settings
		steps      []Step
		also       func() func(int, string) fate // besides the crash
		end        State
	}{
		{"forward", "u-1", bare, []Step{Reserve, Charge, Ship}, nothing, Completed},
		{"declined", "u-broke", bare, []Step{Reserve, Charge, Release}, nothing, Declined},
		{"given up", "u-1", bare, []Step{Refund, Release}, func() func(int, string) fate { return at("ship", 1, fails) }, Compensated},
	} {
		for _, step := range path.steps {
			for _, when := range []fate{crashBefore, crashAfter} {
				t.Run(fmt.Sprintf("%s/%s/%s", path.name, step, when), func(t *testing.T) {
					data := t.TempDir()
					synctest.Test(t, func(t *testing.T) {
						w := newWorld()
						crash, also := at(string(step), 1, when), path.also()
						w.fate = func(n int, s string) fate {
							if f := crash(n, s); f != fine {
								return f
							}
							return also(n, s)
						}
						first := live(t, w, data, path.edge)
						first.post(path.user, "p-1", 3, "")
						time.Sleep(2 * time.Second) // where the crash is in the background
						first.end(t)
						left := rows(t, data)
						for _, o := range left {
							if o.State.Terminal() || o.Step != step {
								t.Errorf("killed in %s, the order is %s at %q", step, o.State, o.Step)
							}
						}
						second := live(t, w, data, path.edge)
						if !second.settled(10 * time.Second) {
							t.Error("not settled 10 s after the restart")
						}
						second.end(t)
						all := rows(t, data)
						if len(all) != 1 {
							t.Fatalf("%d orders", len(all))
						}
						for _, o := range all {
							if o.State != path.end {
								t.Errorf("ended as %s, want %s", o.State, path.end)
							}
						}
						w.audit(t, all)
					})
				})
			}
		}
	}
}

// Row 41's control, D12: with its sagas in memory, orders answers the same while it
// lives, and what it had ended is there after a crash; what was under way is lost,
// whatever it had done by then.
func TestSagasInMemoryDieWithTheProcess(t *testing.T) {
	for _, step := range []Step{Reserve, Charge, Ship} {
		t.Run(string(step), func(t *testing.T) {
			data := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				var second atomic.Bool
				w.fate = func(_ int, s string) fate {
					if second.Load() && s == string(step) {
						return crashAfter
					}
					return fine
				}
				i := liveWith(t, w, data, bare, pattern.Memory)
				status, ended := i.post("u-1", "p-1", 2, "first")
				if status != 201 || i.status(ended["order"]) != string(Completed) {
					t.Errorf("answered %d %v", status, ended)
				}
				if status, again := i.post("u-1", "p-1", 2, "first"); status != 201 || again["order"] != ended["order"] {
					t.Errorf("the same key again: %d %v, want order %s", status, again, ended["order"])
				}
				if status, _ := i.post("u-2", "p-1", 2, "first"); status != 422 {
					t.Errorf("the key for another order: %d, want 422", status)
				}
				second.Store(true)
				i.post("u-1", "p-1", 3, "second")
				i.end(t)
				second.Store(false)

				next := liveWith(t, w, data, bare, pattern.Memory)
				time.Sleep(time.Minute)
				next.end(t)
				all := rows(t, data)
				if len(all) != 1 || all[ended["order"]] == nil || all[ended["order"]].State != Completed || all[ended["order"]].key != "first" {
					t.Errorf("after the crash the database has %v, want the first order only", all)
				}
				if left := newWorld().available["p-1"] - w.available["p-1"]; left != 5 {
					t.Errorf("%d pieces are gone, want the 2 that were sold and the 3 that nobody remembers", left)
				}
			})
		})
	}
}

// Sagas in memory that were not crashed keep every promise, like durable ones.
func TestSagasInMemoryAreRight(t *testing.T) {
	for name, f := range map[string]func(int, string) fate{
		"covered": at("charge", 3, hangs), "answer lost": at("charge", 9, answerLost), "shipping fails": at("ship", 9, fails),
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.fate = f
				i := liveWith(t, w, data, hardened, pattern.Memory)
				_, answer := i.post("u-1", "p-1", 2, "")
				if got := i.status(answer["order"]); got != answer["status"] {
					t.Errorf("under way, it is %q; the caller was told %q", got, answer["status"])
				}
				if !i.settled(2 * time.Minute) {
					t.Error("not settled after two minutes")
				}
				w.late.Wait()
				i.end(t)
				w.audit(t, rows(t, data))
			})
		})
	}
}

// Row 42: a charge that timed out may have happened; it is asked for again
// under the same key, and never happens twice.
func TestTimeoutIsNotFailure(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fate = at("charge", 4, delayed) // each comes through 3 s later
		i := live(t, w, data, hardened)
		status, answer := i.post("u-1", "p-1", 1, "")
		if status != 202 {
			t.Fatalf("answered %d %v", status, answer)
		}
		if !i.settled(time.Minute) {
			t.Error("not settled after a minute")
		}
		w.late.Wait()
		if got := i.status(answer["order"]); got != "completed" || w.captures[answer["order"]] != 1 {
			t.Errorf("%s, charged %d times", got, w.captures[answer["order"]])
		}
		i.end(t)
		w.audit(t, rows(t, data))
	})
}

// Row 40: while refunds fail the order says so, and it is refunded in the end.
func TestFailedRefundIsRetriedForGood(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var broken atomic.Bool
		broken.Store(true)
		w.fate = func(_ int, step string) fate {
			switch {
			case step == string(Refund) && broken.Load(), step == string(Ship):
				return fails
			}
			return fine
		}
		i := live(t, w, data, bare)
		_, answer := i.post("u-1", "p-1", 1, "")
		time.Sleep(time.Minute)
		if got := i.status(answer["order"]); got != "compensation_pending" {
			t.Errorf("%s while refunds fail", got)
		}
		broken.Store(false)
		time.Sleep(10 * time.Second)
		if got := i.status(answer["order"]); got != "compensated" {
			t.Errorf("%s 10 s after refunds work again", got)
		}
		i.end(t)
		w.audit(t, rows(t, data))
	})
}

// What piled up while payments was away reaches it gently: nothing but probes
// while the breaker is open, then a pace that starts at 50/s and only grows.
func TestDrainIsGentle(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.available["p-1"] = 10_000
		var mu sync.Mutex
		down := true
		perSecond := map[int]int{}
		var healed time.Time
		w.fate = func(_ int, step string) fate {
			mu.Lock()
			defer mu.Unlock()
			if step != string(Charge) {
				return fine
			}
			if down {
				perSecond[-1]++
				return fails
			}
			perSecond[int(time.Since(healed)/time.Second)]++
			return fine
		}
		i := live(t, w, data, hardened)
		const orders = 500
		for range orders {
			if status, answer := i.post("u-1", "p-1", 1, ""); status != 202 {
				t.Fatalf("answered %d %v", status, answer)
			}
			time.Sleep(20 * time.Millisecond)
		}
		mu.Lock()
		if n := perSecond[-1]; n > 20 {
			t.Errorf("payments, down for 10 s, was called %d times: 5 to open the breaker and a probe now and then were enough", n)
		}
		down, healed = false, time.Now()
		mu.Unlock()
		if !i.settled(time.Minute) {
			t.Error("not drained a minute after payments came back")
		}
		mu.Lock()
		peak := 0
		for second, n := range perSecond {
			if second >= 0 {
				peak = max(peak, n)
			}
		}
		mu.Unlock()
		if peak > int(fastest) || peak < int(gentle)/2 {
			t.Errorf("the busiest second of the drain had %d charges, want %v to %v", peak, gentle/2, fastest)
		}
		i.end(t)
		w.available["p-1"] -= 10_000 - 100
		w.audit(t, rows(t, data))
	})
}

// Whatever the network does and whenever orders is killed: once the failures
// end, every saga ends too, with money and stock conserved.
func TestMoneyAndStockAreConserved(t *testing.T) {
	rapid.Check(t, func(law *rapid.T) {
		fates := rapid.SliceOfN(rapid.SampledFrom([]fate{fine, fine, fine, fine, lost, answerLost, hangs, delayed, fails, crashBefore, crashAfter}), 0, 40).Draw(law, "fates")
		edge := rapid.SampledFrom([]pattern.Settings{bare, hardened, pattern.Default(pattern.Textbook)}).Draw(law, "edge")
		edge.Timeout = time.Second // a call that hangs for ever ends in no bubble
		users := rapid.SliceOfN(rapid.SampledFrom([]string{"u-1", "u-2", "u-broke"}), 1, 6).Draw(law, "users")
		data, err := os.MkdirTemp("", "orders")
		if err != nil {
			law.Fatal(err)
		}
		defer os.RemoveAll(data)
		synctest.Test(t, func(*testing.T) { // law.Fatalf must not be reached in here: it belongs to another goroutine
			w := newWorld()
			w.fate = func(n int, _ string) fate {
				if n <= len(fates) {
					return fates[n-1]
				}
				return fine
			}
			i := live(law, w, data, edge)
			next := func() { // another life, once this one was ended by a crash
				if i.dead() {
					i.end(law)
					i = live(law, w, data, edge)
				}
			}
			for k, user := range users {
				i.post(user, "p-1", int64(1+k), "")
				time.Sleep(time.Duration(k%3) * time.Second)
				next()
			}
			settled := false
			for range len(fates) + 1 { // each crash that is still to come ends one more life
				if settled = i.settled(time.Minute); settled {
					break
				}
				next()
			}
			i.end(law)
			if !settled {
				law.Errorf("sagas are left a minute after the last failure")
			}
			w.late.Wait()
			w.audit(law, rows(law, data))
		})
	})
}

// Next never leaves the drawing: terminal states have no step, every other has
// one, and going backward never turns forward again.
func TestPositionsFollowTheDrawing(t *testing.T) {
	seen := map[Position]bool{}
	frontier := []Position{Start}
	for len(frontier) > 0 {
		p := frontier[0]
		frontier = frontier[1:]
		if seen[p] {
			continue
		}
		seen[p] = true
		if p.State.Terminal() != (p.Step == "") {
			t.Errorf("%+v: a step in a terminal state, or none in another", p)
		}
		if p.State.Terminal() {
			continue
		}
		for r := Unknown; r <= GivenUp; r++ {
			next := p.Next(r)
			if p.Outcome != "" && next.Outcome != p.Outcome {
				t.Errorf("%+v turned to %+v on its way back", p, next)
			}
			if r == Unknown && next.Step != p.Step {
				t.Errorf("%+v moved to %+v without an answer", p, next)
			}
			frontier = append(frontier, next)
		}
	}
	if len(seen) < 12 {
		t.Errorf("only %d positions can be reached: %v", len(seen), seen)
	}
}
