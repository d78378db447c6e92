package toxiproxy

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// toxic is a fault as its user wrote it, and its shape on the wire. It is never
// changed, only replaced: readers hold on to it without a lock.
type toxic struct {
	Attributes attributes `json:"attributes"`
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	Stream     string     `json:"stream"` // in the letters it was written in
	Toxicity   float32    `json:"toxicity"`
	when       conditions // on the wire among the attributes
}

// attributes of one type of toxic: a struct by value, complete with zeros.
type attributes interface {
	// check says what is wrong with a value that JSON let through.
	check() error
	// apply makes r the rule that the toxic stands for; false: it stands for none.
	apply(r *proxy.Rule, to proxy.Direction) bool
}

// kinds is the table of toxics: Toxiproxy's, then our own.
var kinds = []kind{
	{"bandwidth", read[BandwidthToxic], "so much passes per second; 0 lets nothing pass", []Attribute{
		{"rate", "KB/s", "of 1000 B, on each connection (udp: for each client)", false},
		{"shared", "yes or no", "all together", true},
		{"queue", "bytes", "udp: so many wait at most (0: what passes in 100 ms, at least 64 KiB)", true},
	}, "", false},
	{"latency", read[LatencyToxic], "every byte comes later, counted from when it was received, in order; http: every message, udp: every datagram", []Attribute{
		{"latency", "ms", "how long, on average", false},
		{"jitter", "ms", "more or less", false},
		{"distribution", "text", "uniform (default), normal, pareto (jitter is their standard deviation), exponential", true},
		{"where", "text", "http: head (default: all of the message waits) or body", true},
		{"keep_order", "yes or no", "udp: no datagram overtakes another", true},
	}, "", false},
	{"limit_data", read[LimitDataToxic], "the connection is closed after so many bytes, counted from its opening; udp: what goes beyond is dropped", []Attribute{
		{"bytes", "bytes", "", false},
	}, "", false},
	{"noop", read[NoopToxic], "nothing", nil, "", false},
	{"packet_loss", read[PacketLossToxic], "what lost packets do to TCP: chunks come late by a retransmission timeout, and nothing is missing; udp: datagrams are lost", []Attribute{
		{"loss_rate", "share", "of the chunks, or datagrams", false},
		{"correlation", "share", "how likely the fate of one is that of the one before", false},
	}, "", false},
	{"reset_peer", read[ResetToxic], "RST to both sides, so long after the connection opened or the toxic came, whichever is later", []Attribute{
		{"timeout", "ms", "", false},
	}, "", false},
	{"slicer", read[SlicerToxic], "bytes come in small pieces", []Attribute{
		{"average_size", "bytes", "of a piece", false},
		{"size_variation", "bytes", "more or less", false},
		{"delay", "µs", "between two", false},
	}, `{"average_size":1}`, false},
	{"slow_close", read[SlowCloseToxic], "the end of the connection is passed on later", []Attribute{
		{"delay", "ms", "", false},
	}, "", false},
	{"timeout", read[TimeoutToxic], "no byte passes, and the connection is closed then; removing it closes the connection", []Attribute{
		{"timeout", "ms", "0: never", false},
	}, "", false},

	{"abort", read[AbortToxic], "the connection ends in the midst of an answer's body", []Attribute{
		{"after", "bytes", "of the body have passed", true},
		{"close", "yes or no", "in order, not with RST", true},
	}, "", true},
	{"blackhole", read[BlackholeToxic], "nothing passes any more, either way, and nothing is said", []Attribute{afterBytes}, "", true},
	{"corrupt", read[CorruptToxic], "one bit is flipped in a share of the bytes; http: in bodies", []Attribute{
		{"rate", "share", "of the bytes", true},
	}, "", true},
	{"duplicate", read[DuplicateToxic], "datagrams are sent twice", nil, "", true},
	{"http_error", read[HTTPErrorToxic], "the request is answered here; the upstream does not hear of it", []Attribute{
		{"status", "number", "from 200 to 599 (0: 503)", true},
		{"body", "text", "of the answer", true},
	}, "", true},
	{"loss", read[LossToxic], "packet_loss, with shorter names", []Attribute{
		{"rate", "share", "of the chunks, or datagrams", true},
		{"correlation", "share", "how likely the fate of one is that of the one before", true},
	}, "", true},
	{"refuse", read[RefuseToxic], "new connections are turned away; udp: the port is as if closed (toxicity 1 only)", nil, "", true},
	{"reorder", read[ReorderToxic], "datagrams overtake those that a latency delays, or, without one, are overtaken by the next", []Attribute{
		{"wait", "ms", "for the next at most (0: 100)", true},
	}, "", true},
	{"reset", read[ResetNowToxic], "RST to both sides: at once, after so many bytes, or by the clock", []Attribute{
		afterBytes,
		{"wait", "ms", "tcp: so long after the connection opened or the toxic came", true},
	}, "", true},
	{"reshape", read[ReshapeToxic], "header lines are changed", []Attribute{
		{"request.remove", "list", "of requests, by name", true},
		{"request.set", "lines", "in the place of those of the same name", true},
		{"request.add", "lines", "at the end", true},
		{"answer.remove", "list", "and of their answers", true},
		{"answer.set", "lines", "", true},
		{"answer.add", "lines", "", true},
	}, `{"request":{"remove":["X"]}}`, true},
	{"silence", read[SilenceToxic], "timeout, by another name: the bytes of one direction are discarded", []Attribute{
		{"for", "ms", "then the connection is closed (0: never)", true},
	}, "", true},
	{"slow_connect", read[SlowConnectToxic], "the upstream is called, and a byte passes, only so long after the connection opened", []Attribute{
		{"delay", "ms", "", true},
	}, "", true},
}

var afterBytes = Attribute{"after", "bytes", "strike when so many bytes of the answer have passed", true}

// kind is one type of toxic. read takes the attributes out of a request's body:
// those it does not name are as in old, or zero when that is nil. least is attributes
// with which it is a toxic; "" where it is without.
type kind struct {
	name   string
	read   func(old attributes, body []byte) (attributes, error)
	doc    string
	fields []Attribute
	least  string
	own    bool // Toxiproxy does not have it
}

// Types lists the types of toxics there are.
func Types() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

func kindOf(name string) (kind, bool) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return kind{}, false
	}
	return kinds[i], true
}

func read[A attributes](old attributes, body []byte) (attributes, error) {
	var a A
	if old != nil {
		a = copied(old.(A))
	}
	into := struct {
		Attributes any `json:"attributes"`
	}{&a}
	if err := decode(body, &into); err != nil {
		return nil, badBody(err)
	}
	return a, badBody(a.check())
}

// The attributes of the toxics, in ms unless the field says otherwise. Types and
// fields have Toxiproxy's names because encoding/json puts them into its errors,
// which clients see.
type (
	LatencyToxic struct {
		Latency      int64  `json:"latency"`
		Jitter       int64  `json:"jitter"`
		Distribution string `json:"distribution,omitempty"` // this and what follows is not Toxiproxy's
		Where        string `json:"where,omitempty"`
		KeepOrder    bool   `json:"keep_order,omitempty"`
	}
	BandwidthToxic struct {
		Rate   int64 `json:"rate"`             // KB/s, of 1000 bytes
		Shared bool  `json:"shared,omitempty"` // this and what follows is not Toxiproxy's
		Queue  int64 `json:"queue,omitempty"`  // bytes
	}
	SlowCloseToxic struct {
		Delay int64 `json:"delay"`
	}
	TimeoutToxic struct {
		Timeout int64 `json:"timeout"` // 0: never
	}
	ResetToxic struct {
		Timeout int64 `json:"timeout"`
	}
	SlicerToxic struct {
		AverageSize   int64 `json:"average_size"`   // bytes
		SizeVariation int64 `json:"size_variation"` // bytes
		Delay         int64 `json:"delay"`          // µs
	}
	LimitDataToxic struct {
		Bytes int64 `json:"bytes"`
	}
	PacketLossToxic struct {
		LossRate    float64 `json:"loss_rate"`
		Correlation float64 `json:"correlation"`
	}
	NoopToxic struct{}
)

// year is the longest time that a toxic may have: sums of some stay far from
// where time.Duration ends.
const year = 365 * 24 * time.Hour

// maxRateKB is where the data plane's rates end.
const maxRateKB = 1_000_000_000

func (a LatencyToxic) check() error {
	return firstOf(within("latency", a.Latency, 0, year.Milliseconds(), " ms"), within("jitter", a.Jitter, 0, year.Milliseconds(), " ms"))
}

func (a LatencyToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Latency = &proxy.Latency{Delay: ms(a.Latency), Jitter: ms(a.Jitter), Direction: string(to),
		Distribution: a.Distribution, Where: proxy.Where(a.Where), KeepOrder: a.KeepOrder}
	return true
}

func (a BandwidthToxic) check() error {
	return firstOf(within("rate", a.Rate, 0, maxRateKB, " KB/s"), within("queue", a.Queue, 0, mostBytes, " bytes"))
}

func (a BandwidthToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Bandwidth = &proxy.Bandwidth{BytesPerS: a.Rate * 1000, Direction: to, Shared: a.Shared, Queue: a.Queue}
	return true
}

func (a SlowCloseToxic) check() error { return within("delay", a.Delay, 0, year.Milliseconds(), " ms") }

func (a SlowCloseToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.SlowClose = &proxy.SlowClose{Delay: ms(a.Delay), Direction: to}
	return true
}

func (a TimeoutToxic) check() error {
	return within("timeout", a.Timeout, 0, year.Milliseconds(), " ms")
}

func (a TimeoutToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Silence = &proxy.Silence{For: ms(a.Timeout), Direction: to}
	return true
}

func (a ResetToxic) check() error { return within("timeout", a.Timeout, 0, year.Milliseconds(), " ms") }

// apply: RST ends both directions, so that the stream does not matter.
func (a ResetToxic) apply(r *proxy.Rule, _ proxy.Direction) bool {
	r.Reset = &proxy.Cut{Wait: ms(a.Timeout)}
	return true
}

func (a SlicerToxic) check() error {
	return firstOf(
		within("average_size", a.AverageSize, 1, math.MaxInt32, " bytes"),
		within("size_variation", a.SizeVariation, 0, a.AverageSize, " bytes, the average_size"),
		within("delay", a.Delay, 0, year.Microseconds(), " µs"),
	)
}

func (a SlicerToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Slice = &proxy.Slice{Average: a.AverageSize, Variation: a.SizeVariation,
		Delay: time.Duration(a.Delay) * time.Microsecond, Direction: to}
	return true
}

func (a LimitDataToxic) check() error { return within("bytes", a.Bytes, 0, math.MaxInt64, " bytes") }

// apply: a limit beyond what the data plane counts to (a pebibyte) is never met.
func (a LimitDataToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Limit = &proxy.Limit{Bytes: min(a.Bytes, 1<<50), Direction: to}
	return true
}

func (a PacketLossToxic) check() error {
	return firstOf(within("loss_rate", a.LossRate, 0, 1, ""), within("correlation", a.Correlation, 0, 1, ""))
}

func (a PacketLossToxic) apply(r *proxy.Rule, to proxy.Direction) bool {
	r.Loss = &proxy.Loss{Ratio: a.LossRate, Correlation: a.Correlation, Direction: to}
	return true
}

func (NoopToxic) check() error                            { return nil }
func (NoopToxic) apply(*proxy.Rule, proxy.Direction) bool { return false }

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// within is nil when low <= v <= high; unit stands behind the number in the error.
func within[N int64 | float64 | float32](name string, v, low, high N, unit string) error {
	if v >= low && v <= high {
		return nil
	}
	return fmt.Errorf("%s is %v, want from %v to %v%s", name, v, low, high, unit)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// parseToxic reads a new toxic. The order of its checks is Toxiproxy's.
func parseToxic(body []byte, others []toxic) (toxic, error) {
	type ToxicWrapper struct { // the name is seen in errors of encoding/json
		Name     string  `json:"name"`
		Type     string  `json:"type"`
		Stream   string  `json:"stream"`
		Toxicity float32 `json:"toxicity"`
	}
	in := ToxicWrapper{Stream: "downstream", Toxicity: 1}
	if err := decode(body, &in); err != nil {
		return toxic{}, badBody(err)
	}
	t := toxic{Name: in.Name, Type: in.Type, Stream: in.Stream, Toxicity: in.Toxicity}
	if s := strings.ToLower(t.Stream); s != "upstream" && s != "downstream" {
		return toxic{}, errBadStream
	}
	if t.Name == "" {
		t.Name = t.Type + "_" + t.Stream
	}
	k, ok := kindOf(t.Type)
	if !ok {
		return toxic{}, errBadType
	}
	if find(others, t.Name) >= 0 {
		return toxic{}, errToxicExists
	}
	if len(others) >= maxToxics {
		return toxic{}, &Error{fmt.Sprintf("the proxy has %d toxics, which is the most there can be", maxToxics), http.StatusConflict}
	}
	var err error
	if t.Attributes, err = k.read(nil, body); err != nil {
		return toxic{}, err
	}
	if t.when, err = readConditions(conditions{}, body); err != nil {
		return toxic{}, err
	}
	if err := badBody(within("toxicity", t.Toxicity, 0, 1, "")); err != nil {
		return toxic{}, err
	}
	return t, t.sound()
}

// updated is t with the attributes and the toxicity that body names.
func (t toxic) updated(body []byte) (toxic, error) {
	in := struct {
		Toxicity float32 `json:"toxicity"`
	}{t.Toxicity}
	if err := decode(body, &in); err != nil {
		return toxic{}, badBody(err)
	}
	k, _ := kindOf(t.Type)
	attributes, err := k.read(t.Attributes, body)
	if err != nil {
		return toxic{}, err
	}
	if t.when, err = readConditions(t.when, body); err != nil {
		return toxic{}, err
	}
	t.Attributes, t.Toxicity = attributes, in.Toxicity
	if err := badBody(within("toxicity", t.Toxicity, 0, 1, "")); err != nil {
		return toxic{}, err
	}
	return t, t.sound()
}

// parseToxics reads the toxics that come with a proxy.
func parseToxics(bodies []json.RawMessage) ([]toxic, error) {
	all := make([]toxic, 0, len(bodies))
	for i, body := range bodies {
		t, err := parseToxic(body, all)
		if err != nil {
			e := asError(err)
			return nil, &Error{fmt.Sprintf("%s (toxic %d)", e.Message, i+1), e.Status}
		}
		all = append(all, t)
	}
	return all, nil
}

func find(toxics []toxic, name string) int {
	return slices.IndexFunc(toxics, func(t toxic) bool { return t.Name == name })
}

func (t toxic) isUp() bool { return strings.EqualFold(t.Stream, "upstream") }

// inOrder is how toxics stand on the wire and at work: those of the upstream
// direction first, each direction in the order they were added.
func inOrder(toxics []toxic) []toxic {
	up, down := []toxic{}, []toxic{}
	for _, t := range toxics {
		if t.isUp() {
			up = append(up, t)
		} else {
			down = append(down, t)
		}
	}
	return append(up, down...)
}

// rules is what the toxics mean to the data plane.
func rules(toxics []toxic) []proxy.Rule {
	var all []proxy.Rule
	for _, t := range inOrder(toxics) {
		if r, is := t.rule(); is {
			all = append(all, r)
		}
	}
	return all
}

// rule is what the toxic means to the data plane, if anything.
func (t toxic) rule() (r proxy.Rule, is bool) {
	to := proxy.Answer
	if t.isUp() {
		to = proxy.Request
	}
	r = proxy.Rule{Name: t.Name, Percent: float64(t.Toxicity)}
	t.when.apply(&r)
	return r, t.Attributes.apply(&r, to)
}
