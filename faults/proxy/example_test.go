package proxy_test

import (
	"context"
	"fmt"
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
