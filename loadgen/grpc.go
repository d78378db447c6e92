package loadgen

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// gRPC: unary calls over HTTP/2. A request is POST /package.Service/Method with a
// body of JSON, which is turned into the method's message; metadata are headers. Its
// answer is a message and a status, which takes the place of HTTP's:
//
//	HEADERS  :status 200, content-type application/grpc
//	DATA     0 (not compressed), 4 bytes of length, message
//	HEADERS  grpc-status 0, grpc-message
//
// An answer without a message has one HEADERS with all of it.

// grpcOutcome is the outcome of status OK; the others follow.
const grpcOutcome = 1000

// grpcNames are the statuses of gRPC, in the order of their numbers, and what
// they are closest to in HTTP (google.rpc.Code).
var grpcNames = [...]struct {
	name string
	http int
}{
	{"OK", 200}, {"CANCELLED", 499}, {"UNKNOWN", 500}, {"INVALID_ARGUMENT", 400}, {"DEADLINE_EXCEEDED", 504}, {"NOT_FOUND", 404},
	{"ALREADY_EXISTS", 409}, {"PERMISSION_DENIED", 403}, {"RESOURCE_EXHAUSTED", 429}, {"FAILED_PRECONDITION", 400}, {"ABORTED", 409},
	{"OUT_OF_RANGE", 400}, {"UNIMPLEMENTED", 501}, {"INTERNAL", 500}, {"UNAVAILABLE", 503}, {"DATA_LOSS", 500}, {"UNAUTHENTICATED", 401},
}

// grpcStatus is the outcome that a name stands for.
func grpcStatus(name string) (outcome int, ok bool) {
	for i, s := range grpcNames {
		if s.name == name {
			return grpcOutcome + i, true
		}
	}
	return 0, false
}

func grpcStatusNames() string {
	var all []string
	for _, s := range grpcNames {
		all = append(all, s.name)
	}
	return strings.Join(all, ", ")
}

// grpcCall is a method, as a kind of request calls it.
type grpcCall struct {
	method protoreflect.MethodDescriptor
	types  *dynamicpb.Types
	path   string
	fixed  []byte // the message, where the body is the same for all
	unit   byte   // of grpc-timeout: u or m
}

// findCalls finds the methods that the stream calls: in its descriptors, or else by
// asking the server.
func findCalls(ctx context.Context, c Config, s *stream) error {
	set := c.Spec.descriptors
	if set == nil {
		var err error
		if set, err = newH2Hub(ctx, c, s).reflect(ctx); err != nil {
			return fmt.Errorf("what %q offers is not known: %w; write descriptors: FILE, made by protoc --include_imports --descriptor_set_out=FILE", c.Spec.To, err)
		}
	}
	for i := range s.kinds {
		k := &s.kinds[i]
		var err error
		if k.rpc, err = set.call(k, s.timeouts[k.timeout]); err != nil {
			return fmt.Errorf("%s: %w", c.Spec.at(i), err)
		}
	}
	return nil
}

// call resolves the method of a kind.
func (d *descriptors) call(k *kind, timeout time.Duration) (*grpcCall, error) {
	path, err := k.path.append(nil, newDraw(0, 0, forContent))
	if err != nil {
		return nil, err
	}
	m, err := d.method(string(path))
	if err != nil {
		return nil, err
	}
	call := &grpcCall{method: m, types: d.types, path: string(path), unit: 'u'}
	if timeout >= 99*time.Second { // eight digits are all there may be
		call.unit = 'm'
	}
	if !k.body.static() {
		return call, nil
	}
	text, err := k.body.append(nil, newDraw(0, 0, forContent))
	if err == nil {
		call.fixed, err = call.appendMessage(nil, text)
	}
	return call, err
}

// appendMessage makes the message of its JSON text, framed.
func (c *grpcCall) appendMessage(dst, text []byte) ([]byte, error) {
	message := dynamicpb.NewMessage(c.method.Input())
	if len(bytes.TrimSpace(text)) > 0 {
		if err := (protojson.UnmarshalOptions{Resolver: c.types}).Unmarshal(text, message); err != nil {
			return dst, fmt.Errorf("the body is not a %s in JSON: %s", c.method.Input().FullName(), protoText(err))
		}
	}
	at := len(dst)
	dst, err := proto.MarshalOptions{}.MarshalAppend(append(dst, 0, 0, 0, 0, 0), message)
	if err != nil {
		return dst, fmt.Errorf("the body as a %s: %s", c.method.Input().FullName(), protoText(err))
	}
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-5))
	return dst, nil
}

// protoText is an error of package proto without its prefix, and with plain spaces:
// its texts differ from build to build, so that nobody compares them.
func protoText(err error) string {
	return strings.TrimPrefix(strings.ReplaceAll(err.Error(), " ", " "), "proto: ")
}

// grpcLeft are the fields of an HTTP request that a call has otherwise.
func grpcLeft(name []byte) bool {
	return string(name) == "content-type" || string(name) == "content-length"
}

// compose makes r of the HTTP/1.1 text of a request, and of its body.
func (c *grpcCall) compose(r *h2request, text, body []byte, scheme string) (err error) {
	r.block = appendBlock(r.block[:0], text, scheme, true)
	r.block = appendField(r.block, []byte("content-type"), []byte("application/grpc"))
	r.block = appendField(r.block, []byte("te"), []byte("trailers"))
	r.block = appendField(r.block, []byte("grpc-timeout"), append([]byte("00000000"), c.unit))
	r.limit = len(r.block) - 9
	if r.body = c.fixed; r.body == nil {
		r.message, err = c.appendMessage(r.message[:0], body)
		r.body = r.message
	}
	return err
}

// limit writes how much time the call has left into the eight digits of its
// grpc-timeout.
func (c *grpcCall) limit(digits []byte, left time.Duration) {
	n := left.Microseconds()
	if c.unit == 'm' {
		n = left.Milliseconds()
	}
	n = min(max(n, 1), 99_999_999)
	for i := 7; i >= 0; i-- {
		digits[i] = '0' + byte(n%10)
		n /= 10
	}
}

// json is an answer's message as text, for checks and captures: all fields, also
// those that have their default value.
func (c *grpcCall) json(message []byte) ([]byte, error) {
	m := dynamicpb.NewMessage(c.method.Output())
	if err := (proto.UnmarshalOptions{Resolver: c.types}).Unmarshal(message, m); err != nil {
		return nil, violated("the answer is not a %s: %s", c.method.Output().FullName(), protoText(err))
	}
	text, err := (protojson.MarshalOptions{EmitDefaultValues: true, Resolver: c.types}).Marshal(m)
	if err != nil {
		return nil, violated("the answer, a %s, cannot be written as JSON: %s", c.method.Output().FullName(), protoText(err))
	}
	var compact bytes.Buffer // its spaces differ from build to build
	if err := json.Compact(&compact, text); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// grpcAnswer takes the answer to a call apart.
type grpcAnswer struct {
	keep     bool // the message
	code     int  // -1: not known yet
	text     string
	head     [5]byte
	got      int // bytes of head
	left     int // of the message
	messages int
	message  []byte
}

func (a *grpcAnswer) reset(keep bool) {
	*a = grpcAnswer{keep: keep, code: -1, message: a.message[:0]}
}

// take takes a header, or the trailers.
func (a *grpcAnswer) take(h *h2header) {
	for _, f := range h.fields {
		switch f.Name {
		case "grpc-status":
			n, err := strconv.Atoi(f.Value)
			if err != nil || n < 0 || n >= len(grpcNames) {
				n = 2 // what it stands for is not known
			}
			a.code = n
		case "grpc-message":
			a.text = f.Value
			if text, err := url.PathUnescape(f.Value); err == nil {
				a.text = text
			}
		}
	}
}

// feed takes bytes of the answer's body.
func (a *grpcAnswer) feed(p []byte) error {
	for len(p) > 0 {
		if a.got < len(a.head) {
			n := copy(a.head[a.got:], p)
			p, a.got = p[n:], a.got+n
			if a.got < len(a.head) {
				return nil
			}
			if a.head[0] != 0 {
				return violated("a message that is compressed, which nobody asked for")
			}
			if a.messages > 0 {
				return violated("a second message in the answer to a unary call")
			}
			a.left = int(binary.BigEndian.Uint32(a.head[1:]))
			if a.keep && a.left > maxReply {
				return fmt.Errorf("%w: the message has %d bytes: no more than %d MiB are kept to look at", errChecked, a.left, maxReply>>20)
			}
			if a.left == 0 {
				a.messages, a.got = 1, 0
			}
			continue
		}
		n := min(a.left, len(p))
		if a.keep {
			a.message = append(a.message, p[:n]...)
		}
		p = p[n:]
		if a.left -= n; a.left == 0 {
			a.messages, a.got = 1, 0
		}
	}
	return nil
}

// end is told that the answer is over; status is HTTP's.
func (a *grpcAnswer) end(status int) error {
	switch {
	case status != 200: // somebody on the way who does not speak gRPC
		return nil
	case a.code < 0:
		return violated("an answer without grpc-status")
	case a.code == 0 && a.got > 0:
		return violated("a message that is not whole")
	case a.code == 0 && a.messages == 0:
		return violated("status OK without a message")
	}
	return nil
}

// outcome is what came of a call that was answered, under HTTP's status; detail is
// what the server says of it, if it is not OK.
func (a *grpcAnswer) outcome(status int) (o outcome, detail string) {
	switch {
	case a.code < 0:
		return outcome(status), ""
	case a.code > 0:
		detail = a.text
	}
	return outcome(grpcOutcome + a.code), detail
}

// answered puts the status of a call into its result, and its message where a check
// or capture looks for it.
func (c *h2Client) answered(r *result) {
	a := c.st.grpc
	r.outcome, r.detail = a.outcome(c.st.status)
	if a.code != 0 || !a.keep {
		return
	}
	text, err := c.trip.kind.rpc.json(a.message)
	if err != nil {
		r.outcome, r.detail = classify(err, false), err.Error()
		return
	}
	c.trip.reply.body = text
}

var grpcHeaders = []string{"content-type", "te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message"}

func checkGRPC(s Spec, report func(path, format string, args ...any)) {
	checkH2(s, report)
	eachHeader(s, func(path, name string) {
		if slices.Contains(grpcHeaders, strings.ToLower(name)) {
			report(path, "header %q is set by chaosctl from the call", name)
		}
	})
	for i, r := range s.own() {
		at := s.at(i)
		for n, c := range r.Check {
			if c.subject == "status" {
				report(fmt.Sprintf("%s.check[%d]", at, n), "status is HTTP's; with gRPC, ok says which statuses are good: ok: [OK, NOT_FOUND]")
			}
		}
		switch {
		case r.Method != "POST" && r.Method != "":
			report(at+".method", "method %q: calls of gRPC are POST; leave it out", r.Method)
		case strings.Contains(r.Path, "{{"):
			report(at+".path", "the path of a call is /package.Service/Method, and no template")
		case !callPath(r.Path):
			report(at+".path", "path %q is not a call: write package.Service/Method, like grpc.health.v1.Health/Check", r.Path)
		}
	}
	if s.descriptors == nil {
		return // the server will say
	}
	st := compile(s, 0, func(string, string, ...any) {})
	for i := range st.kinds {
		k := &st.kinds[i]
		at := s.at(i)
		call, err := s.descriptors.call(k, st.timeouts[k.timeout])
		if call == nil {
			report(at+".path", "%v", err)
			continue
		}
		for seq := uint64(0); seq < 8 && err == nil && !k.body.static() && !k.body.values; seq++ {
			d := drawOf(0, seq, forContent)
			d.captured = slices.Repeat([]string{exampleValue}, st.slots)
			var text []byte
			if text, err = k.body.append(nil, &d); err == nil {
				_, err = call.appendMessage(nil, text)
			}
		}
		if err != nil {
			report(at+".body", "%v", err)
		}
	}
}

func callPath(path string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return ok && strings.HasPrefix(path, "/") && protoreflect.FullName(service).IsValid() && protoreflect.Name(method).IsValid()
}
