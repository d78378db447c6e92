package proxy

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// BenchmarkUDPPingPong is one caller that waits for each answer.
func BenchmarkUDPPingPong(b *testing.B) {
	upstream := udpEcho(b)
	for _, through := range []string{"direct", "proxy"} {
		b.Run(through, func(b *testing.B) {
			at := upstream
			if through == "proxy" {
				at = startProxy(b, UDP, upstream).Addr()
			}
			c := dialPort(b, at)
			c.SetDeadline(time.Now().Add(time.Hour))
			p := make([]byte, 64)
			for b.Loop() {
				c.Write(p)
				if _, err := c.Read(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUDPDelay tells how late datagrams come, beyond the 10 ms asked for.
func BenchmarkUDPDelay(b *testing.B) {
	for _, callers := range []int{1, 50} {
		b.Run(fmt.Sprint(callers, "-callers"), func(b *testing.B) {
			p := startProxy(b, UDP, udpEcho(b))
			const delay = 10 * time.Millisecond
			add(b, p, Rule{Name: "slow", Percent: 1, Latency: &Latency{Delay: delay}})
			late := make(chan time.Duration, callers*b.N)
			for range callers {
				c, err := net.Dial("udp", p.Addr())
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				go func() {
					m := make([]byte, 64)
					for range b.N {
						begun := time.Now()
						c.Write(m)
						c.Read(m)
						late <- time.Since(begun) - delay
					}
				}()
			}
			var all []time.Duration
			for range callers * b.N {
				all = append(all, <-late)
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "µs-late-p50")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "µs-late-p99")
		})
	}
}
