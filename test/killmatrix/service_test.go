package killmatrix

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// serve is a service of the runs: `serve PORT [URL...]` answers on PORT, after having
// asked each URL; `serve udp:PORT` answers datagrams, as whoever asks `udp:ADDRESS` sends
// them. It takes its time to get ready and to end, so that
// there is a middle to be killed in, and has processes of its own that nobody
// tells to end: one in its group, one that has left it.
func serve(args []string) error {
	if args[0] == "sleep" {
		signal.Ignore(syscall.SIGHUP)
		time.Sleep(time.Minute) // an end of its own, should everything else fail
		return nil
	}
	for _, leaves := range []bool{false, true} {
		c := exec.Command(os.Args[0], "serve", "sleep")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: leaves}
		if err := c.Start(); err != nil {
			return err
		}
	}
	time.Sleep(50 * time.Millisecond)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		time.Sleep(50 * time.Millisecond)
		os.Exit(0)
	}()
	if port, is := strings.CutPrefix(args[0], "udp:"); is {
		c, err := net.ListenPacket("udp", "127.0.0.1:"+port)
		for b := make([]byte, 100); err == nil; {
			var from net.Addr
			if _, from, err = c.ReadFrom(b); err == nil {
				_, err = c.WriteTo(b[:1], from)
			}
		}
		return err
	}
	client := &http.Client{Timeout: 200 * time.Millisecond}
	return http.ListenAndServe("127.0.0.1:"+args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, url := range args[1:] {
			if r.URL.Path == "/healthz" {
				break
			}
			if err := ask(client, url); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		fmt.Fprintln(w, "hello")
	}))
}

func ask(client *http.Client, url string) error {
	address, datagram := strings.CutPrefix(url, "udp:")
	if !datagram {
		answer, err := client.Get(url)
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(client.Timeout))
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}
