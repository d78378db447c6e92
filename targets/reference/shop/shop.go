// Package shop is the reference system of the same name: five services that
// sell things, and the two promises by which they are judged.
//
//	                    ┌──> users
//	client ──> gateway ─┼──> orders ──> payments
//	                    │      └──────┐
//	                    └────────> stock
//
// (gateway calls orders and stock; orders calls users, stock and payments.)
// orders runs each checkout as a saga: reserve, charge, ship, and back again
// when one of them fails for good.
//
// The promise "money": the shop has exactly what its completed orders cost, to
// the cent, and nobody paid twice. The promise "stock": what is gone from the
// shelves is exactly what was shipped for completed orders. Check holds both
// against the services' own databases, without asking the services.
package shop

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/targets/pattern"
	"github.com/chaosctl/chaosctl/targets/reference"
	"github.com/chaosctl/chaosctl/targets/reference/gateway"
	"github.com/chaosctl/chaosctl/targets/reference/node"
	"github.com/chaosctl/chaosctl/targets/reference/orders"
	"github.com/chaosctl/chaosctl/targets/reference/payments"
	"github.com/chaosctl/chaosctl/targets/reference/stock"
	"github.com/chaosctl/chaosctl/targets/reference/users"
	"github.com/chaosctl/chaosctl/targets/topology"
)

// Name is how scenarios ask for the shop.
const Name = "shop"

// System describes the shop.
var System = reference.System{
	Name: Name,
	Topology: topology.Topology{
		System: Name,
		Services: []topology.Service{
			service("gateway"), service("orders"), service("payments"), service("stock"), service("users"),
		},
		Edges: []topology.Edge{
			{Caller: "gateway", Callee: "orders", Protocol: topology.HTTP},
			{Caller: "gateway", Callee: "stock", Protocol: topology.HTTP},
			{Caller: "orders", Callee: "users", Protocol: topology.HTTP},
			{Caller: "orders", Callee: "stock", Protocol: topology.HTTP},
			{Caller: "orders", Callee: "payments", Protocol: topology.HTTP},
		},
	},
	Defaults: defaults,
	Sagas:    []string{"orders"},
	Samples: map[string]string{
		"POST /checkout":    `{"user":"{{user}}","items":[{"product":"{{product}}","quantity":{{int 1 3}}}]}`,
		"GET /products/p-3": "",
	},
	Invariants: []string{Money, Stock},
	Check:      Check,
	Drained:    Drained,
}

// roles is what each service of the shop is made of, by role.
var roles = map[string]node.Setup{
	"gateway":  gateway.Setup,
	"orders":   orders.Setup,
	"payments": payments.Setup,
	"stock":    stock.Setup,
	"users":    users.Setup,
}

// service is one whose role has its name.
func service(name string) topology.Service {
	return topology.Service{Name: name, Role: name, Ready: topology.Ready{Path: "/readyz", Timeout: 10 * time.Second}}
}

// defaults are hardened everywhere. The gateway alone waits longer, because
// orders does the waiting for it: a checkout takes up to three tries of charging
// at 500 ms each before orders gives up on payments and answers by itself, and a
// gateway that cut it short would turn one slow dependency into a slow orders.
// For the same reason a second try is enough.
func defaults(edge topology.Edge) pattern.Settings {
	s := pattern.Default(pattern.Hardened)
	if edge.Caller == "gateway" && edge.Callee == "orders" {
		s.Timeout = 4 * time.Second
		s.Retry.Tries = 2
		// Little's law again: 200 checkouts a second that wait 500 ms for
		// payments are 100 at once.
		s.Bulkhead.Limit = 256
	}
	return s
}

// Main runs one role of the shop as this process, until SIGTERM or ctx ends it,
// and returns the exit code. See node.Run for what it prints.
func Main(ctx context.Context, role, configPath string, stdout, stderr io.Writer) int {
	setup, ok := roles[role]
	if !ok {
		fmt.Fprintf(stderr, "no role %q in system %q: it has %s\n", role, Name,
			strings.Join(slices.Sorted(maps.Keys(roles)), ", "))
		return 2
	}
	return node.Run(ctx, configPath, setup, stdout, stderr)
}
