package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// proxyTo creates the proxy that is kept busy, and tells where it listens.
func proxyTo(echo net.Listener, api string) (listen string, err error) {
	if _, err := call("POST", api+"/proxies", fmt.Sprintf(`{"name":"echo","listen":"127.0.0.1:0","upstream":%q}`, echo.Addr())); err != nil {
		return "", err
	}
	body, err := call("GET", api+"/proxies/echo", "")
	if err != nil {
		return "", err
	}
	return regexp.MustCompile(`"listen":"([^"]+)"`).FindStringSubmatch(body)[1], nil
}

// work is what keeps the proxy busy, and how much of it was done.
type work struct {
	api, listen                string
	copied, connections, calls atomic.Int64
}

// A change of the toxics comes so long after the one before it began.
const changeEvery = 50 * time.Millisecond

// load keeps it busy for length: 50 connections at a time, and a call of the API every
// changeEvery, by the clock: the n-th of a load with the same seed is the same at the same
// moment. In the end no toxic is left, and no connection. It ends early when something is wrong.
func (w *work) load(length time.Duration, seed uint64) error {
	over, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var callers, changes sync.WaitGroup
	var wrong atomic.Pointer[error]
	until := func(all *sync.WaitGroup, n uint64, do func(*rand.Rand) error) {
		all.Go(func() {
			for draw := rand.New(rand.NewPCG(seed, n)); over.Err() == nil; {
				if err := do(draw); err != nil {
					wrong.CompareAndSwap(nil, &err)
					cancel()
				}
			}
		})
	}
	for n := range uint64(50) {
		until(&callers, n, func(draw *rand.Rand) error {
			size, err := copyThrough(w.listen, draw)
			w.copied.Add(size)
			w.connections.Add(1)
			return err
		})
	}
	next := time.NewTimer(0)
	due := time.Now()
	until(&changes, 1<<32, func(draw *rand.Rand) error {
		<-next.C
		err := change(w.api, draw)
		w.calls.Add(1)
		due = due.Add(changeEvery)
		next.Reset(time.Until(due))
		return err
	})
	changes.Wait()
	err := removeToxics(w.api) // what they hold is let go
	callers.Wait()
	if p := wrong.Load(); p != nil {
		return *p
	}
	return err
}
