package toxiproxy

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newMetrics serves /metrics. The counts are taken from the proxies when they are
// asked for: nothing is done for them otherwise.
func newMetrics(s *Server) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(metrics{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// metrics is a Server as Prometheus sees it.
type metrics struct{ s *Server }

var (
	sentBytes = prometheus.NewDesc("toxiproxy_proxy_sent_bytes_total", // Toxiproxy's name and labels
		"Bytes passed on, by direction.", []string{"direction", "proxy", "listener", "upstream"}, nil)
	receivedBytes = prometheus.NewDesc("toxiproxy_proxy_received_bytes_total", // … and these
		"Bytes received, by direction.", []string{"direction", "proxy", "listener", "upstream"}, nil)
	handshakes = prometheus.NewDesc("chaosctl_proxy_failed_handshakes_total",
		"TLS handshakes that failed, by whose doing and why.", []string{"proxy", "why"}, nil)
	tlsSeen = prometheus.NewDesc("chaosctl_proxy_tls_connections_total",
		"Connections by their TLS: passed through (as asked for), or agreed on here with the caller or the upstream.", []string{"proxy", "side", "server_name", "version", "alpn"}, nil)
	tried = prometheus.NewDesc("chaosctl_proxy_upstream_tried_total",
		"Connections to each of several upstreams: made, or refused and taken to the next.", []string{"proxy", "upstream", "result"}, nil)
	connections = prometheus.NewDesc("chaosctl_proxy_connections_total",
		"Connections accepted.", []string{"proxy"}, nil)
	reached = prometheus.NewDesc("chaosctl_proxy_upstream_connections_total",
		"Connections that reached the upstream.", []string{"proxy"}, nil)
	openNow = prometheus.NewDesc("chaosctl_proxy_open_connections",
		"Connections that clients hold now.", []string{"proxy"}, nil)
	ended = prometheus.NewDesc("chaosctl_proxy_ended_connections_total",
		"Connections that ended: closed in order, reset, canceled by the client, refused by the upstream.", []string{"proxy", "how"}, nil)
	enabled = prometheus.NewDesc("chaosctl_proxy_enabled",
		"1 when the proxy takes connections.", []string{"proxy"}, nil)
	toxicEligible = prometheus.NewDesc("chaosctl_toxic_eligible_total",
		"Connections that the toxic drew for.", toxicLabels, nil)
	toxicFired = prometheus.NewDesc("chaosctl_toxic_fired_total",
		"Connections that the toxic hit.", toxicLabels, nil)
	toxicBytes = prometheus.NewDesc("chaosctl_toxic_bytes_total",
		"Bytes that the toxic held back, throttled or discarded.", toxicLabels, nil)
	toxicDelay = prometheus.NewDesc("chaosctl_toxic_added_delay_seconds",
		"How long chunks of data were measured to wait because of the toxic.", toxicLabels, nil)

	toxicLabels = []string{"proxy", "toxic", "type", "stream"}
)

// Describe implements prometheus.Collector.
func (metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sentBytes, receivedBytes, handshakes, tlsSeen, tried, connections, reached, openNow, ended, enabled, toxicEligible, toxicFired, toxicBytes, toxicDelay} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m metrics) Collect(to chan<- prometheus.Metric) {
	for _, e := range m.s.list() {
		m.collect(e, e.now.Load(), to)
	}
}

func (metrics) collect(e *entry, st *state, to chan<- prometheus.Metric) {
	var all []prometheus.Metric // sent on when no lock is held
	add := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, kind, value, labels...))
	}
	e.totals.read(st.proxy, func(t *totals, open int) {
		count := prometheus.CounterValue
		add(sentBytes, count, float64(t.bytesUp), "upstream", e.name, st.listen, st.upstream)
		add(sentBytes, count, float64(t.bytesDown), "downstream", e.name, st.listen, st.upstream)
		add(receivedBytes, count, float64(t.receivedUp), "upstream", e.name, st.listen, st.upstream)
		add(receivedBytes, count, float64(t.receivedDown), "downstream", e.name, st.listen, st.upstream)
		for why, n := range t.handshakes {
			add(handshakes, count, float64(n), e.name, why)
		}
		for facts, n := range t.tls {
			add(tlsSeen, count, float64(n), e.name, string(facts.Side), facts.ServerName, facts.Version, facts.ALPN)
		}
		for at, n := range t.upstreams {
			add(tried, count, float64(n.Connections), e.name, at, "connected")
			add(tried, count, float64(n.Refused), e.name, at, "refused")
		}
		add(connections, count, float64(t.calls), e.name)
		add(reached, count, float64(t.upstream), e.name)
		add(openNow, prometheus.GaugeValue, float64(open), e.name)
		for how, n := range t.ended {
			add(ended, count, float64(n), e.name, how)
		}
		up := 0.0
		if st.proxy != nil {
			up = 1
		}
		add(enabled, prometheus.GaugeValue, up, e.name)
		for _, x := range st.toxics {
			did := t.of(x.Name)
			labels := []string{e.name, x.Name, x.Type, x.Stream}
			add(toxicEligible, count, float64(did.eligible), labels...)
			add(toxicFired, count, float64(did.fired), labels...)
			add(toxicBytes, count, float64(did.bytes), labels...)
			if h := did.delay; h != nil {
				buckets := map[float64]uint64{}
				for _, b := range delayBuckets {
					buckets[b.Seconds()] = uint64(h.CountAtMost(b))
				}
				sum := h.Mean().Seconds() * float64(h.Count())
				all = append(all, prometheus.MustNewConstHistogram(toxicDelay, uint64(h.Count()), sum, buckets, labels...))
			}
		}
	})
	for _, x := range all {
		to <- x
	}
}
