package loadgen

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// healthServer is a service that grpc-go serves: health, whose one text decides
// what is answered.
type healthServer struct {
	grpc_health_v1.UnimplementedHealthServer

	mu   sync.Mutex
	seen []string
}

// calls is what has been seen so far.
func (h *healthServer) calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

func (h *healthServer) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	deadline, ok := ctx.Deadline()
	left := time.Until(deadline)
	h.mu.Lock()
	h.seen = append(h.seen, fmt.Sprintf("%s %v %v %v", r.Service, md["x-id"], md["content-type"], ok && left > 0 && left <= 5*time.Second))
	h.mu.Unlock()
	switch r.Service {
	case "missing":
		return nil, status.Error(codes.NotFound, "no such thing: 100%")
	case "silent":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// grpcServer is grpc-go's own, with reflection of both versions unless it is to be silent.
func grpcServer(t *testing.T, mute bool) (*healthServer, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, h := grpc.NewServer(), new(healthServer)
	grpc_health_v1.RegisterHealthServer(s, h)
	if !mute {
		reflection.Register(s)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { s.Stop(); serving.Wait() })
	return h, l.Addr().String()
}

const checkCall = "/grpc.health.v1.Health/Check"

func callSpec(body string) Spec {
	return Spec{
		Name: "s", To: "health", Protocol: GRPC, Users: ptr(6), Streams: ptr(3), Timeout: ptr(5 * time.Second),
		Request: &Request{Path: checkCall, Body: body},
	}
}

// healthDescriptors are what protoc writes for the health service.
func healthDescriptors(t *testing.T) []byte {
	t.Helper()
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestCalls: messages of JSON reach grpc-go as they are meant, whoever describes them.
func TestCalls(t *testing.T) {
	for _, reflected := range []bool{true, false} {
		h, address := grpcServer(t, !reflected)
		spec := callSpec(`{"service":"s-{{seq}}"}`)
		spec.Headers = map[string]string{"X-Id": "{{seq}}"}
		if !reflected {
			if err := spec.ReadDescriptors("health.binpb", healthDescriptors(t)); err != nil {
				t.Fatal(err)
			}
		}
		var s seenBy
		s.run(t, Config{Spec: spec, Requests: 60}, address)
		s.only(t, "OK", 60)
		if s.all.Connects != 2 {
			t.Errorf("%d connections", s.all.Connects)
		}
		got := map[string]bool{}
		for _, text := range h.calls() {
			got[text] = true
		}
		for i := range 60 {
			if want := fmt.Sprintf("s-%d [%d] [application/grpc] true", i, i); !got[want] {
				t.Fatalf("call %d did not arrive as %q; there are %d: %q", i, want, len(got), h.calls()[0])
			}
		}
	}
}

// TestCallsConstant: a call whose body and headers are always the same.
func TestCallsConstant(t *testing.T) {
	h, address := grpcServer(t, false)
	spec := callSpec(`{"service":"x"}`)
	spec.Headers = map[string]string{"X-Id": "1"}
	var s seenBy
	s.run(t, Config{Spec: spec, Requests: 60}, address)
	s.only(t, "OK", 60)
	for _, got := range h.calls() {
		if got != "x [1] [application/grpc] true" {
			t.Fatalf("arrived as %q", got)
		}
	}
}

// TestCallOutcomes: each status by its name; what is good is said by name, too.
func TestCallOutcomes(t *testing.T) {
	_, address := grpcServer(t, false)
	spec := callSpec(`{"service":"missing"}`)
	var s seenBy
	s.run(t, Config{Spec: spec, Requests: 10}, address)
	s.only(t, "NOT_FOUND", 10)
	if s.all.Failed != 10 || s.details["NOT_FOUND"] != "no such thing: 100%" || s.results[0].Status != 404 {
		t.Errorf("%d failed; %q; status %d", s.all.Failed, s.details, s.results[0].Status)
	}
	if err := json.Unmarshal([]byte(`["OK","NOT_FOUND"]`), &spec.OK); err != nil {
		t.Fatal(err)
	}
	var fine seenBy
	fine.run(t, Config{Spec: spec, Requests: 10}, address)
	if fine.only(t, "NOT_FOUND", 10); fine.all.OK != 10 {
		t.Errorf("%d are ok", fine.all.OK)
	}
	spec = callSpec(`{"service":"silent"}`)
	spec.Timeout = ptr(200 * time.Millisecond)
	var late seenBy
	late.run(t, Config{Spec: spec, Requests: 3}, address)
	// Who of the two notices first that the time is over is open.
	if late.all.Failed != 3 || late.outcomes["timeout"]+late.outcomes["DEADLINE_EXCEEDED"] != 3 {
		t.Errorf("%v (%v)", late.outcomes, late.details)
	}
}

// TestCallSession: checks and captures read the answer as JSON.
func TestCallSession(t *testing.T) {
	h, address := grpcServer(t, false)
	var path JSONPath
	if err := path.UnmarshalText([]byte("$.status")); err != nil {
		t.Fatal(err)
	}
	spec := callSpec("")
	spec.Request, spec.Steps = nil, []SessionStep{
		{Path: checkCall, Check: checks(t, `json $.status == "SERVING"`), Capture: map[string]Capture{"state": {JSON: &path}}},
		{Path: checkCall, Body: `{"service":{{json .state}}}`, Check: checks(t, `body contains "\"status\":\"SERVING\""`)},
		{Path: checkCall, Check: checks(t, `json $.status == "NOT_SERVING"`)},
	}
	var s seenBy
	s.run(t, Config{Spec: spec, Requests: 5}, address)
	if want := map[string]int{"OK": 10, "check": 5}; !maps.Equal(s.outcomes, want) {
		t.Errorf("%v (%v), want %v", s.outcomes, s.details, want)
	}
	captured := 0
	for _, text := range h.calls() {
		if strings.HasPrefix(text, "SERVING ") {
			captured++
		}
	}
	if captured != 5 || len(h.calls()) != 15 {
		t.Errorf("%d calls with what was captured of %d: %q", captured, len(h.calls()), h.calls())
	}
}

// TestCallMistakes: what cannot be sent is said before anything is.
func TestCallMistakes(t *testing.T) {
	raw := healthDescriptors(t)
	for name, c := range map[string]struct {
		spoil    func(s *Spec)
		at, want string
	}{
		"service":   {func(s *Spec) { s.Request.Path = "/a.B/C" }, "request.path", `there is no service "a.B" (there are: grpc.health.v1.Health)`},
		"method":    {func(s *Spec) { s.Request.Path = "/grpc.health.v1.Health/Chuck" }, "request.path", `has no method "Chuck" (there are: Check, Watch)`},
		"streaming": {func(s *Spec) { s.Request.Path = "/grpc.health.v1.Health/Watch" }, "request.path", "streams; only unary calls"},
		"path":      {func(s *Spec) { s.Request.Path = "/checkout" }, "request.path", "is not a call: write package.Service/Method"},
		"template":  {func(s *Spec) { s.Request.Path = "/{{word}}/Check" }, "request.path", "no template"},
		"field":     {func(s *Spec) { s.Request.Body = `{"servise":1}` }, "request.body", `unknown field "servise"`},
		"kind":      {func(s *Spec) { s.Request.Body = `{"service":{{seq}}}` }, "request.body", "grpc.health.v1.HealthCheckRequest"},
		"verb":      {func(s *Spec) { s.Request.Method = "GET" }, "request.method", "calls of gRPC are POST"},
		"redirects": {func(s *Spec) { s.Request.Redirects = ptr(1) }, "request.redirects", "has no meaning with protocol grpc"},
		"header":    {func(s *Spec) { s.Headers = map[string]string{"grpc-timeout": "1S"} }, "headers.grpc-timeout", "is set by chaosctl"},
		"ok":        {func(s *Spec) { s.OK = []StatusSet{{200, 299}} }, "ok[0]", "is a status of HTTP"},
		"other":     {func(s *Spec) { s.Protocol, s.OK = HTTP1, []StatusSet{{grpcOutcome, grpcOutcome}} }, "ok[0]", "is a status of gRPC"},
		"check":     {func(s *Spec) { s.Request.Check = checks(t, "status == 200") }, "request.check[0]", "ok says which statuses are good"},
		"streams":   {func(s *Spec) { s.Streams = ptr(0) }, "streams", "from 1 to"},
	} {
		spec := callSpec(`{"service":"x"}`)
		if err := spec.ReadDescriptors("health.binpb", raw); err != nil {
			t.Fatal(err)
		}
		c.spoil(&spec)
		if got := problems(spec); !strings.Contains(got[c.at], c.want) {
			t.Errorf("%s: %q, want at %s: %s", name, got, c.at, c.want)
		}
	}
	spec := callSpec("")
	if err := spec.ReadDescriptors("f", []byte("no descriptors")); err == nil || !strings.Contains(err.Error(), `"f" is not a set of descriptors`) {
		t.Error(err)
	}
	_, mute := grpcServer(t, true)
	err := Run(t.Context(), Config{Spec: spec, Resolve: func() string { return mute }, Until: time.Second})
	if err == nil || !strings.Contains(err.Error(), "it has no reflection") || !strings.Contains(err.Error(), "write descriptors: FILE") {
		t.Error(err)
	}
	_, address := grpcServer(t, false)
	spec.Request.Path = "/a.B/C"
	err = Run(t.Context(), Config{Spec: spec, Resolve: func() string { return address }, Until: time.Second})
	if err == nil || !strings.Contains(err.Error(), `"a.B"`) {
		t.Error(err)
	}
	for text, want := range map[string]string{"grpc.health.v1.Health/Check": checkCall, "POST " + checkCall: checkCall} {
		var r Request
		if err := r.ParseShort(text); err != nil || r.Path != want {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}

// TestCallsPerConnection: a connection carries as many calls as it is allowed to.
func TestCallsPerConnection(t *testing.T) {
	onEnginesOnly(t, func(t *testing.T, w way) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		calls := map[string]int{} // by who calls
		s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			p, _ := grpcpeer.FromContext(ctx)
			mu.Lock()
			calls[p.Addr.String()]++
			mu.Unlock()
			return handle(ctx, r)
		}))
		grpc_health_v1.RegisterHealthServer(s, new(healthServer))
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(l) }) // it ends when it is stopped
		defer serving.Wait()
		defer s.Stop()
		spec := callSpec(`{"service":"x"}`)
		spec.Connections, spec.Connection = ptr(1), &Connection{Requests: 7}
		if err := spec.ReadDescriptors("health.binpb", healthDescriptors(t)); err != nil {
			t.Fatal(err)
		}
		var seen seenBy
		seen.run(t, Config{Spec: spec, Requests: 50, Engine: w.engine}, l.Addr().String())
		seen.only(t, "OK", 50)
		mu.Lock()
		defer mu.Unlock()
		counts := map[int]int{}
		for _, n := range calls {
			counts[n]++
		}
		if want := map[int]int{7: 7, 1: 1}; !maps.Equal(counts, want) || seen.all.Connects != 8 {
			t.Errorf("%d connections, by their calls %v; want 8, %v", seen.all.Connects, counts, want)
		}
	})
}
