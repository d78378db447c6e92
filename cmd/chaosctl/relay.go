package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// newRelay is a small service for scenarios whose point is somebody else's: it
// answers each GET with what its upstream says, the way a careful caller asks:
// a timeout per try, and a second try where the first came to nothing. It is
// not for people.
func newRelay() *cobra.Command {
	var listen, to string
	var timeout time.Duration
	var tries int
	cmd := &cobra.Command{
		Use:    "relay",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return usage(err, "")
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "relaying from %s to %s\n", l.Addr(), to)
			r := &relay{to: to, timeout: timeout, tries: tries, client: &http.Client{
				Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
			}}
			server := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
			ended := make(chan error, 1)
			go func() { ended <- server.Serve(l) }()
			select {
			case err := <-ended:
				return internal(err)
			case <-ctx.Done():
			}
			grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			err = server.Shutdown(grace)
			if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
				err = errors.Join(err, e)
			}
			return internal(err)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address to listen at")
	cmd.Flags().StringVar(&to, "to", "", "upstream, like http://127.0.0.1:8080")
	cmd.Flags().DurationVar(&timeout, "timeout", 500*time.Millisecond, "of one try")
	cmd.Flags().IntVar(&tries, "tries", 2, "in all, the first included")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

type relay struct {
	to      string
	timeout time.Duration
	tries   int
	client  *http.Client
}

// maxRelayed bounds an answer, which is read whole before a byte of it is passed
// on: a try that breaks off half-way can then still be repeated.
const maxRelayed = 1 << 20

func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		http.Error(w, "only GET is relayed", http.StatusMethodNotAllowed)
		return
	}
	if req.URL.Path == "/healthz" {
		return
	}
	var err error
	for range r.tries {
		var status int
		var body []byte
		if status, body, err = r.ask(req.Context(), req.URL.RequestURI()); err == nil {
			w.WriteHeader(status)
			_, _ = w.Write(body)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// ask is one try, and one call on the wire: net/http sends a GET again by itself
// when a connection that it had used before breaks, which would be a try more than
// the relay was told. Its second look for a connection ends the try.
func (r *relay) ask(ctx context.Context, uri string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	looked := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GetConn: func(string) {
		if looked {
			cancel()
		}
		looked = true
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.to+uri, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxRelayed))
	return resp.StatusCode, body, err
}
