// Package metrics reads from a service's Prometheus metrics what state its circuit
// breaker says it is in. It knows how four kinds of breakers tell that, and
// nothing else of them; what the wire shows is the verdict's business.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Source is where the state of one breaker is told.
type Source struct {
	Service string `yaml:"service" json:"service"`
	Path    string `yaml:"path" json:"path"`
	Kind    Kind   `yaml:"kind,required" json:"kind"`
	Name    string `yaml:"name,required" json:"name"`
}

// Kind is who wrote the breaker, and with it the names of its metrics.
//
//	resilience4j  gauge resilience4j_circuitbreaker_state{name, state}: 1 for the state it is in, of closed,
//	              open, half_open, forced_open, disabled, metrics_only
//	              (https://resilience4j.readme.io/docs/micrometer)
//	envoy         gauges envoy_cluster_circuit_breakers_<priority>_<what>_open{envoy_cluster_name}: 1 at the
//	              limit; outlier detection: envoy_cluster_outlier_detection_ejections_active and
//	              envoy_cluster_membership_healthy
//	              (https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats)
//	opossum       counter circuit{name, event}: how often the events open, halfOpen and close came
//	              (https://github.com/nodeshift/opossum-prometheus); circuit_breaker_counter in its TypeScript
//	              relative (https://github.com/iamelevich/opossum-prometheus)
//	failsafe      counter failsafe_circuit_breaker_state_change_count_total{failsafe_circuit_breaker_name,
//	              failsafe_circuit_breaker_state}: how often it came to open, half_open and closed. Failsafe (Java)
//	              itself tells nothing; this is OpenTelemetry's instrumentation of it, by way of a Prometheus
//	              exporter (https://github.com/open-telemetry/opentelemetry-java-instrumentation, failsafe-3.0)
type Kind string

// The kinds that are known.
const (
	Resilience4j Kind = "resilience4j"
	Envoy        Kind = "envoy"
	Opossum      Kind = "opossum"
	Failsafe     Kind = "failsafe"
)

// UnmarshalText reads one of them.
func (k *Kind) UnmarshalText(text []byte) error {
	switch Kind(text) {
	case Resilience4j, Envoy, Opossum, Failsafe:
		*k = Kind(text)
		return nil
	}
	return fmt.Errorf("%q is not a kind of breaker whose metrics are known: write resilience4j, envoy, opossum or failsafe", text)
}

// DefaultPath is where the metrics usually are.
func (k Kind) DefaultPath() string {
	switch k {
	case Resilience4j:
		return "/actuator/prometheus"
	case Envoy:
		return "/stats/prometheus"
	}
	return "/metrics"
}

// States in the journal's words.
const (
	Closed   = "closed"
	Open     = "open"
	HalfOpen = "half-open"
)

// most is how much of a page is read: a large Envoy tells some megabytes.
const most = 16 << 20

// Reader follows one breaker from look to look. It belongs to one goroutine.
type Reader struct {
	Source
	client http.Client

	state  string             // as of the last look
	events map[string]float64 // opossum's and failsafe's counters, as of the last look
}

// NewReader looks at one source. No proxy of the environment is used, and no edge: a
// question for metrics is no call.
func NewReader(s Source) *Reader {
	return &Reader{Source: s, client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

// Look asks the service at address once.
func (r *Reader) Look(ctx context.Context, address string) (state string, err error) {
	if address == "" {
		return "", errors.New("the service has no address")
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+r.Path, nil)
	if err != nil {
		return "", err
	}
	q.Header.Set("Accept", "text/plain; version=0.0.4")
	answer, err := r.client.Do(q)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s answered %s", r.Path, answer.Status)
	}
	return r.Read(io.LimitReader(answer.Body, most))
}

// Read takes one exposition.
func (r *Reader) Read(page io.Reader) (state string, err error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	if err != nil {
		return "", fmt.Errorf("read the metrics: %w", err)
	}
	switch r.Kind {
	case Resilience4j:
		state, err = r.resilience4j(families)
	case Envoy:
		state, err = r.envoy(families)
	case Opossum:
		state, err = r.opossum(families)
	case Failsafe:
		state, err = r.failsafe(families)
	default:
		err = fmt.Errorf("%q is not a kind of breaker whose metrics are known", r.Kind)
	}
	if err == nil {
		r.state = state
	}
	return state, err
}

func (r *Reader) resilience4j(families map[string]*dto.MetricFamily) (string, error) {
	const metric = "resilience4j_circuitbreaker_state"
	var names []string
	for _, m := range families[metric].GetMetric() {
		name := label(m, "name")
		if name != r.Name {
			names = append(names, name)
			continue
		}
		if value(m) == 0 {
			continue
		}
		switch state := strings.ToLower(label(m, "state")); state {
		case "closed", "disabled", "metrics_only":
			return Closed, nil
		case "open", "forced_open":
			return Open, nil
		case "half_open":
			return HalfOpen, nil
		default:
			return "", fmt.Errorf("%s tells the state %q, which is not known", metric, state)
		}
	}
	return "", r.missing(metric, names)
}

// envoy is open while a limit is reached or outlier detection has ejected every
// host, and half-open while it has ejected some: a part of the calls passes.
func (r *Reader) envoy(families map[string]*dto.MetricFamily) (string, error) {
	const prefix, suffix, cluster = "envoy_cluster_circuit_breakers_", "_open", "envoy_cluster_name"
	found := false
	var names []string
	atLimit := false
	for name, family := range families {
		if !strings.HasPrefix(name, prefix) || !strings.HasSuffix(name, suffix) {
			continue
		}
		for _, m := range family.GetMetric() {
			if of := label(m, cluster); of != r.Name {
				names = append(names, of)
				continue
			}
			found = true
			atLimit = atLimit || value(m) > 0
		}
	}
	gauge := func(name string) (v float64, ok bool) {
		for _, m := range families[name].GetMetric() {
			if label(m, cluster) == r.Name {
				return value(m), true
			}
		}
		return 0, false
	}
	ejected, told := gauge("envoy_cluster_outlier_detection_ejections_active")
	healthy, known := gauge("envoy_cluster_membership_healthy")
	switch {
	case atLimit, ejected > 0 && known && healthy == 0:
		return Open, nil
	case ejected > 0:
		return HalfOpen, nil
	case found || told:
		return Closed, nil
	}
	return "", r.missing(prefix+"…"+suffix, names)
}

func (r *Reader) opossum(families map[string]*dto.MetricFamily) (string, error) {
	now := map[string]float64{}
	var names []string
	found := false
	for _, metric := range []string{"circuit", "circuit_breaker_counter"} {
		for _, m := range families[metric].GetMetric() {
			if name := label(m, "name"); name != r.Name {
				names = append(names, name)
				continue
			}
			found = true
			now[label(m, "event")] += value(m)
		}
	}
	if !found {
		return "", r.missing("circuit", names)
	}
	return r.counted(now), nil
}

// failsafe counts changes of state. A counter is there from its first change on:
// before that, only the calls tell that there is such a breaker, which is closed.
func (r *Reader) failsafe(families map[string]*dto.MetricFamily) (string, error) {
	const prefix, name, state = "failsafe_circuit_breaker_", "failsafe_circuit_breaker_name", "failsafe_circuit_breaker_state"
	events := map[string]string{"open": "open", "half_open": "halfOpen", "closed": "close"}
	now := map[string]float64{}
	var names []string
	found := false
	// Its first releases said state_changes; an exporter may leave _total out.
	for _, metric := range []string{"state_change_count", "state_changes_count", "execution_count"} {
		for _, suffix := range []string{"", "_total"} {
			for _, m := range families[prefix+metric+suffix].GetMetric() {
				if of := label(m, name); of != r.Name {
					names = append(names, of)
					continue
				}
				found = true
				if event, ok := events[label(m, state)]; ok {
					now[event] += value(m)
				}
			}
		}
	}
	if !found {
		return "", r.missing(prefix+"state_change_count_total", names)
	}
	return r.counted(now), nil
}

// counted is the state after so many events. Which of them came last follows from
// what the counters did before:
//
//	closed --open--> open --halfOpen--> half-open --close--> closed
//	                  ^---------open-----'
//
// A whole round between two looks is taken as the way it usually goes, to closed.
func (r *Reader) counted(now map[string]float64) string {
	before := r.events
	r.events = now
	rose := func(event string) bool { return now[event] > before[event] }
	if before == nil || now["open"] < before["open"] || now["close"] < before["close"] { // the first look, or the service began anew
		switch {
		case now["open"] > now["halfOpen"]:
			return Open
		case now["halfOpen"] > 0 && now["close"] == 0:
			return HalfOpen
		}
		return Closed
	}
	opened, tried, closed := rose("open"), rose("halfOpen"), rose("close")
	switch {
	case now["open"] > now["halfOpen"]: // each try is of an opening: one has not been tried yet
		return Open
	case closed:
		return Closed
	case tried:
		return HalfOpen
	case opened:
		return Open
	}
	return r.state
}

// missing says which names there are instead.
func (r *Reader) missing(metric string, names []string) error {
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(names) == 0:
		return fmt.Errorf("no %s among the metrics: is it a service of kind %s?", metric, r.Kind)
	case len(names) > 8:
		names = append(names[:8], "…")
	}
	return fmt.Errorf("%s has nothing named %q (there are: %s)", metric, r.Name, strings.Join(names, ", "))
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// value is that of a gauge, a counter, or of what has no type.
func value(m *dto.Metric) float64 {
	switch {
	case m.GetGauge() != nil:
		return m.GetGauge().GetValue()
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	}
	return m.GetUntyped().GetValue()
}
