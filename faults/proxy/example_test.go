package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// A caller talks to payments through a proxy. While a rule holds, every call is
// answered 503, and payments does not hear of it.
func Example() {
	payments := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer payments.Close()

	p, err := proxy.Start(context.Background(), proxy.Config{
		Name:     "orders -> payments",
		Upstream: payments.Listener.Addr().String(),
		Protocol: proxy.HTTP,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Stop()
	orders := &http.Client{Transport: &http.Transport{}}
	defer orders.CloseIdleConnections()
	call := func() {
		answer, err := orders.Post("http://"+p.Addr()+"/charge", "text/plain", http.NoBody)
		if err != nil {
			fmt.Println(err)
			return
		}
		answer.Body.Close()
		fmt.Println(answer.StatusCode)
	}

	call()
	remove, err := p.Add(proxy.Rule{Name: "broken", Percent: 1, Error: &proxy.Error{Status: 503}})
	if err != nil {
		fmt.Println(err)
		return
	}
	call()
	remove()
	call()

	s := p.Collect()
	fmt.Printf("%d calls, %d reached payments, %d of %d hit\n", s.Calls, s.Upstream, s.Rules["broken"].Fired, s.Rules["broken"].Eligible)
	// Output:
	// 200
	// 503
	// 200
	// 3 calls, 2 reached payments, 1 of 1 hit
}

// Rules can also be declared: what is at work is made to be what is asked for, all
// or nothing.
func ExampleProxy_SetRules() {
	limit := func(bytes int64) []proxy.Rule {
		return []proxy.Rule{{Name: "short", Percent: 1, Limit: &proxy.Limit{Bytes: bytes, Direction: proxy.Answer}}}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "one two three")
			c.Close()
		}
	}()
	p, err := proxy.Start(context.Background(), proxy.Config{
		Name:     "orders -> db",
		Upstream: l.Addr().String(),
		Protocol: proxy.TCP,
		Rules:    limit(3), // at work before the first connection
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Stop()
	hear := func() {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			fmt.Println(err)
			return
		}
		defer c.Close()
		all, err := io.ReadAll(c)
		fmt.Printf("%q %v\n", all, err)
	}

	hear()
	if err := p.SetRules(limit(7)); err != nil { // the same rule, with another setting
		fmt.Println(err)
	}
	hear()
	if err := p.SetRules(limit(-1)); err != nil {
		fmt.Println(err)
	}
	if err := p.SetRules(nil); err != nil {
		fmt.Println(err)
	}
	hear()
	// Output:
	// "one" <nil>
	// "one two" <nil>
	// proxy "orders -> db": rule "short": limit is -1 bytes, want from 0 to 1125899906842624
	// "one two three" <nil>
}

// Of all that is asked of the shop, only the orders of one tenant suffer: every
// second one is cut off within its body, and all of them lose a header.
func ExampleMatch() {
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		fmt.Fprint(w, "all is well")
	}))
	defer shop.Close()

	orders := proxy.Match{
		Methods: []string{"GET", "POST"},
		Path:    "/users/*/orders",
		Headers: []proxy.Field{{Name: "X-Tenant", Value: "blue"}},
	}
	p, err := proxy.Start(context.Background(), proxy.Config{
		Name:     "web -> shop",
		Upstream: shop.Listener.Addr().String(),
		Protocol: proxy.HTTP,
		Rules: []proxy.Rule{
			{Name: "cut off", Percent: 1, Match: orders, When: proxy.When{Every: 2}, Abort: &proxy.Abort{After: 3, Close: true}},
			{Name: "no tag", Percent: 1, Match: orders, Reshape: &proxy.Reshape{Answer: proxy.Edit{Remove: []string{"ETag"}}}},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Stop()
	web := &http.Client{Transport: &http.Transport{}}
	defer web.CloseIdleConnections()

	for _, path := range []string{"/users/7/orders", "/users/7", "/users/8/orders?page=2"} {
		request, err := http.NewRequest("GET", "http://"+p.Addr()+path, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		request.Header.Set("X-Tenant", "blue")
		answer, err := web.Do(request)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Printf("%s: %q, %v, tag %q\n", path, body, err, answer.Header.Get("ETag"))
	}
	did := p.Collect().Rules["cut off"]
	fmt.Printf("%d of %d hit\n", did.Fired, did.Eligible)
	// Output:
	// /users/7/orders: "all is well", <nil>, tag ""
	// /users/7: "all is well", <nil>, tag "\"1\""
	// /users/8/orders?page=2: "all", unexpected EOF, tag ""
	// 1 of 2 hit
}
