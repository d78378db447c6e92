//go:build http3

package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"

	"github.com/quic-go/quic-go/http3"
	"github.com/rogpeppe/go-internal/testscript"
)

// http3Commands are the servers of scripts that need HTTP/3.
var http3Commands = map[string]func(){"origin": origin}

// http3Server answers every request, and says so to told. Its certificate is the one
// that `secure ca` prints.
func http3Server(told func(r *http.Request)) *http3.Server {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	return &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(certified.TLS),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			told(r)
			fmt.Fprintln(w, "far away")
		}),
	}
}

// origin is a user's server of HTTP/3: `origin PORT`.
func origin() {
	s := http3Server(func(r *http.Request) { fmt.Println(r.Method, r.URL, r.Proto) })
	s.Addr = "127.0.0.1:" + os.Args[1]
	fmt.Fprintln(os.Stderr, s.ListenAndServe())
	os.Exit(1)
}

// serveHTTP3 gives a script such a server, at $WEB3.
func serveHTTP3(env *testscript.Env) error {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := http3Server(func(*http.Request) {})
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(socket) }) // until it is closed
	env.Setenv("WEB3", "https://"+socket.LocalAddr().String())
	env.Defer(func() {
		s.Close()
		serving.Wait()
		socket.Close()
	})
	return nil
}
