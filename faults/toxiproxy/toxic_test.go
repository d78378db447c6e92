package toxiproxy

import (
	"bytes"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	official "github.com/Shopify/toxiproxy/v2/client"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// TestRules: which rule each toxic stands for, in which direction and units.
func TestRules(t *testing.T) {
	down := proxy.Rule{Name: "t", Percent: 1}
	for body, want := range map[string]func(r *proxy.Rule){
		`{"type":"latency","attributes":{"latency":20,"jitter":50}}`: func(r *proxy.Rule) {
			r.Latency = &proxy.Latency{Delay: 20 * time.Millisecond, Jitter: 50 * time.Millisecond, Direction: "answer"}
		},
		`{"type":"latency","stream":"UPSTREAM","toxicity":0.5}`: func(r *proxy.Rule) {
			r.Percent, r.Latency = 0.5, &proxy.Latency{Direction: "request"}
		},
		`{"type":"bandwidth","attributes":{"rate":3}}`: func(r *proxy.Rule) {
			r.Bandwidth = &proxy.Bandwidth{BytesPerS: 3000, Direction: proxy.Answer}
		},
		`{"type":"slow_close","stream":"upstream","attributes":{"delay":5}}`: func(r *proxy.Rule) {
			r.SlowClose = &proxy.SlowClose{Delay: 5 * time.Millisecond, Direction: proxy.Request}
		},
		`{"type":"timeout","attributes":{"timeout":5}}`: func(r *proxy.Rule) {
			r.Silence = &proxy.Silence{For: 5 * time.Millisecond, Direction: proxy.Answer}
		},
		`{"type":"reset_peer","attributes":{"timeout":5}}`: func(r *proxy.Rule) {
			r.Reset = &proxy.Cut{Wait: 5 * time.Millisecond}
		},
		`{"type":"slicer","attributes":{"average_size":9,"size_variation":3,"delay":7}}`: func(r *proxy.Rule) {
			r.Slice = &proxy.Slice{Average: 9, Variation: 3, Delay: 7 * time.Microsecond, Direction: proxy.Answer}
		},
		`{"type":"limit_data","attributes":{"bytes":9223372036854775807}}`: func(r *proxy.Rule) {
			r.Limit = &proxy.Limit{Bytes: 1 << 50, Direction: proxy.Answer}
		},
		`{"type":"packet_loss","attributes":{"loss_rate":0.1,"correlation":0.25}}`: func(r *proxy.Rule) {
			r.Loss = &proxy.Loss{Ratio: 0.1, Correlation: 0.25, Direction: proxy.Answer}
		},
	} {
		x, err := parseToxic([]byte(`{"name":"t",`+body[1:]), nil)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		r := down
		want(&r)
		if got := rules([]toxic{x}); !reflect.DeepEqual(got, []proxy.Rule{r}) {
			t.Errorf("%s: got %+v, want %+v", body, got, r)
		}
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	if r := rules([]toxic{{Type: "noop", Attributes: NoopToxic{}}}); r != nil {
		t.Errorf("noop: %+v", r)
	}
}

// TestLimitsFitTheDataPlane: what check lets through, the data plane takes, at
// both ends of what is allowed.
func TestLimitsFitTheDataPlane(t *testing.T) {
	for _, body := range []string{
		`{"type":"latency","attributes":{"latency":31536000000,"jitter":31536000000}}`,
		`{"type":"latency","attributes":{"latency":0,"jitter":31536000000}}`,
		`{"type":"bandwidth","attributes":{"rate":1000000000}}`,
		`{"type":"slow_close","attributes":{"delay":31536000000}}`,
		`{"type":"timeout","attributes":{"timeout":31536000000}}`,
		`{"type":"reset_peer","attributes":{"timeout":31536000000}}`,
		`{"type":"slicer","attributes":{"average_size":2147483647,"size_variation":2147483647,"delay":31536000000000}}`,
		`{"type":"slicer","attributes":{"average_size":1}}`,
		`{"type":"limit_data","attributes":{"bytes":9223372036854775807}}`,
		`{"type":"packet_loss","attributes":{"loss_rate":1,"correlation":1}}`,
	} {
		x, err := parseToxic([]byte(body), nil)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		for _, r := range rules([]toxic{x}) {
			if err := r.Validate(); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
	}
}

// FuzzToxic: whatever a body says, it is refused with a 4xx, or the data plane takes
// what it becomes, and so for an update of it.
func FuzzToxic(f *testing.F) {
	for _, k := range kinds {
		f.Add(`{"type":"`+k.name+`"}`, `{"toxicity":0.5,"attributes":{"latency":1,"rate":1,"bytes":1}}`)
	}
	f.Add(`{"type":"slicer","stream":"uPstream","attributes":{"average_size":1,"size_variation":1}}`, `{"attributes":{"size_variation":2}}`)
	f.Add(`{"type":"packet_loss","attributes":{"loss_rate":-0}}`, `{"attributes":null,"toxicity":1e-45}`)
	f.Fuzz(func(t *testing.T, body, change string) {
		x, err := parseToxic([]byte(body), nil)
		for range 2 {
			if err != nil {
				if s := asError(err).Status; s < 400 || s > 499 {
					t.Fatalf("status %d: %v", s, err)
				}
				return
			}
			for _, r := range rules([]toxic{x}) {
				if err := r.Validate(); err != nil {
					t.Fatal(err)
				}
			}
			x, err = x.updated([]byte(change))
		}
	})
}

// TestToxicsAtWork: each toxic, through the API, on real connections. Times are
// lower bounds.
func TestToxicsAtWork(t *testing.T) {
	client := official.NewClient(startServer(t, Config{}).URL)
	add := func(t *testing.T, to, kind string, attributes official.Attributes) (*official.Proxy, net.Conn) {
		t.Helper()
		p, err := client.CreateProxy(t.Name()[len("TestToxicsAtWork/"):], "", to)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, p.Listen)
		ask(t, c, "open") // the toxic comes to a connection that is open and has been used
		if _, err := p.AddToxic("", kind, "downstream", 1, attributes); err != nil {
			t.Fatal(err)
		}
		return p, c
	}
	to := upstream(t, echo)

	t.Run("timeout ends a busy connection", func(t *testing.T) {
		begun := time.Now()
		_, c := add(t, to, "timeout", official.Attributes{"timeout": 40})
		go func() { // more often than the timeout is long
			for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		if got, _ := io.ReadAll(c); len(got) > 0 {
			t.Errorf("%d bytes came through", len(got))
		}
		if took := time.Since(begun); took < 40*time.Millisecond {
			t.Errorf("it ended after %v", took)
		}
	})
	t.Run("removing a timeout ends the connection", func(t *testing.T) {
		p, c := add(t, to, "timeout", nil)
		if _, err := io.WriteString(c, "lost"); err != nil {
			t.Fatal(err)
		}
		if err := p.RemoveToxic("timeout_downstream"); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(c); len(got) > 0 {
			t.Errorf("%q came through", got)
		}
	})
	t.Run("limit_data counts from the beginning of the connection", func(t *testing.T) {
		_, c := add(t, to, "limit_data", official.Attributes{"bytes": 12}) // 5 have passed
		if _, err := io.WriteString(c, "0123456789"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "0123456" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("slow_close", func(t *testing.T) {
		_, c := add(t, to, "slow_close", official.Attributes{"delay": 40})
		begun := time.Now()
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < 40*time.Millisecond {
			t.Errorf("the end came after %v", took)
		}
	})
	t.Run("reset_peer resets an idle connection", func(t *testing.T) {
		begun := time.Now()
		_, c := add(t, to, "reset_peer", official.Attributes{"timeout": 30})
		wantReset(t, c)
		if took := time.Since(begun); took < 30*time.Millisecond {
			t.Errorf("it came after %v", took)
		}
	})
	t.Run("slicer keeps the bytes", func(t *testing.T) {
		_, c := add(t, to, "slicer", official.Attributes{"average_size": 3, "size_variation": 2, "delay": 100})
		sent := bytes.Repeat([]byte("0123456789"), 20)
		begun := time.Now()
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%q, %v", got, err)
		}
		if took := time.Since(begun); took < 39*100*time.Microsecond { // at least 40 pieces
			t.Errorf("40 pieces and more took %v", took)
		}
	})
	t.Run("packet_loss delays, and loses nothing", func(t *testing.T) {
		_, c := add(t, to, "packet_loss", official.Attributes{"loss_rate": 1})
		if took := ask(t, c, "late"); took < 200*time.Millisecond {
			t.Errorf("a chunk that was lost came after %v", took)
		}
	})
	t.Run("bandwidth 0 holds everything", func(t *testing.T) {
		p, c := add(t, to, "bandwidth", nil)
		if _, err := io.WriteString(c, "held\n"); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); n > 0 {
			t.Errorf("a byte passed (%v)", err)
		}
		_ = c.SetReadDeadline(time.Time{})
		if _, err := p.UpdateToxic("bandwidth_downstream", -1, official.Attributes{"rate": 1}); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "held\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("bandwidth", func(t *testing.T) {
		_, c := add(t, to, "bandwidth", official.Attributes{"rate": 100})
		begun := time.Now()
		sent := make([]byte, 6000) // 60 ms
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, sent); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 50*time.Millisecond {
			t.Errorf("6 KB at 100 KB/s took %v", took)
		}
	})
}
