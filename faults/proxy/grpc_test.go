package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type text = wrapperspb.StringValue

// shop is a service without a .proto file: Get answers with what it is asked, Fail
// with a status, Chat with each message that it is sent.
var shop = grpc.ServiceDesc{
	ServiceName: "shop.Stock",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Get", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var asked text
			if err := decode(&asked); err != nil {
				return nil, err
			}
			grpc.SetTrailer(ctx, metadata.Pairs("counted", fmt.Sprint(len(asked.Value))))
			return &asked, nil
		}},
		{MethodName: "Fail", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var asked text
			if err := decode(&asked); err != nil {
				return nil, err
			}
			return nil, status.Error(codes.NotFound, "no "+asked.Value)
		}},
	},
	Streams: []grpc.StreamDesc{{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			var said text
			if err := s.RecvMsg(&said); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(&said); err != nil {
				return err
			}
		}
	}}},
}

func startGRPC(t testing.TB) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&shop, nil)
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func dialGRPC(t testing.TB, address string) (*grpc.ClientConn, context.Context) {
	t.Helper()
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c, ctx
}

func TestGRPC(t *testing.T) {
	p := startProxy(t, HTTP, startGRPC(t))
	c, ctx := dialGRPC(t, p.Addr())
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			var got text
			var trailer metadata.MD
			asked := strings.Repeat("x", 1000*i)
			err := c.Invoke(ctx, "/shop.Stock/Get", &text{Value: asked}, &got, grpc.Trailer(&trailer))
			if err != nil || got.Value != asked || trailer.Get("counted")[0] != fmt.Sprint(len(asked)) {
				t.Errorf("call %d: %d bytes, trailer %v, %v", i, len(got.Value), trailer, err)
			}
		})
	}
	all.Wait()
	err := c.Invoke(ctx, "/shop.Stock/Fail", &text{Value: "such"}, &text{})
	if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != "no such" {
		t.Errorf("Fail: %v", err)
	}
	chat, err := c.NewStream(ctx, &shop.Streams[0], "/shop.Stock/Chat")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		said := fmt.Sprint("message ", i)
		var heard text
		if err := errors.Join(chat.SendMsg(&text{Value: said}), chat.RecvMsg(&heard)); err != nil || heard.Value != said {
			t.Fatalf("%q, %v", heard.Value, err)
		}
	}
	chat.CloseSend()
	if err := chat.RecvMsg(&text{}); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	s := collect(t, p, func(s Stats) bool { return s.Answers["200"] == 51 && s.Answers["NOT_FOUND"] == 1 })
	if s.Calls != 52 || len(s.Answers) != 2 || s.Opaque != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestGRPCFaults(t *testing.T) {
	p := startProxy(t, HTTP, startGRPC(t))
	c, ctx := dialGRPC(t, p.Addr())
	get := func() error { return c.Invoke(ctx, "/shop.Stock/Get", &text{Value: "a"}, &text{}) }
	only := Match{GRPC: GRPC{Service: "shop.*", Method: "Get"}}
	for name, x := range map[string]struct {
		rule Rule
		want codes.Code
		says string
	}{
		"status":     {Rule{Error: &Error{Code: Code(codes.Unavailable), Message: "100% gone\nfor ö"}}, codes.Unavailable, "100% gone\nfor ö"},
		"no message": {Rule{Error: &Error{Code: Code(codes.ResourceExhausted)}}, codes.ResourceExhausted, ""},
		"http":       {Rule{Error: &Error{Status: 503, Body: "no"}}, codes.Unavailable, "503"},
		"reset":      {Rule{Reset: &Cut{}}, codes.Internal, "INTERNAL_ERROR"},
		"abort":      {Rule{Abort: &Abort{}}, codes.Internal, "INTERNAL_ERROR"},
		"no trailer": {Rule{Abort: &Abort{After: 3, Close: true}}, codes.Internal, ""},
	} {
		x.rule.Name, x.rule.Percent, x.rule.Match = "r", 1, only
		remove := add(t, p, x.rule)
		s := status.Convert(get())
		if s.Code() != x.want || !strings.Contains(s.Message(), x.says) {
			t.Errorf("%s: %v, want %v, %q", name, s, x.want, x.says)
		}
		if s := status.Convert(c.Invoke(ctx, "/shop.Stock/Fail", &text{}, &text{})); s.Code() != codes.NotFound {
			t.Errorf("%s: another method got %v", name, s)
		}
		remove()
		if err := get(); err != nil {
			t.Errorf("%s: after it was removed: %v", name, err)
		}
	}
	remove := add(t, p, Rule{Name: "late", Percent: 1, Latency: &Latency{Delay: 50 * time.Millisecond}, Match: Match{GRPC: GRPC{Service: "shop.Stock"}}})
	begun := time.Now()
	if err := get(); err != nil || time.Since(begun) < 50*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	remove()
	s := collect(t, p, func(s Stats) bool { return s.Rules["late"].Fired == 1 })
	if s.Answers["UNAVAILABLE"] != 1 || s.Answers["RESOURCE_EXHAUSTED"] != 1 || s.Answers["503"] != 1 || s.Answers["reset"] != 2 || s.Answers["closed"] != 1 || s.Opaque != 0 {
		t.Errorf("answers %v", s.Answers)
	}
}

// TestGRPCErrorsAreForGRPC: a rule that answers with a gRPC status leaves other calls alone.
func TestGRPCErrorsAreForGRPC(t *testing.T) {
	p := startProxy(t, HTTP, startH2(t, hello))
	add(t, p, Rule{Name: "g", Percent: 1, Error: &Error{Code: 14, Message: "no"}})
	if status, _ := ask(t, h2Client(t), "GET", "http://"+p.Addr()+"/shop.Stock/Get", ""); status != 200 {
		t.Errorf("status %d", status)
	}
	c := dial(t, p.Addr())
	c.send("POST /shop.Stock/Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 0\r\n\r\n")
	head, err := io.ReadAll(io.LimitReader(c, int64(len("HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web\r\nGrpc-Status: 14\r\nGrpc-Message: no\r\n"))))
	if err != nil || !strings.Contains(string(head), "Grpc-Status: 14\r\nGrpc-Message: no\r\n") {
		t.Errorf("gRPC-Web over HTTP/1.1 got %q, %v", head, err)
	}
	if r := p.Collect().Rules["g"]; r.Eligible != 1 || r.Fired != 1 {
		t.Errorf("evidence %+v", r)
	}
}

func TestGRPCMatch(t *testing.T) {
	for _, x := range []struct {
		g    GRPC
		path string
		is   string
		want bool
	}{
		{GRPC{Service: "shop.Stock", Method: "Get"}, "/shop.Stock/Get", "application/grpc", true},
		{GRPC{Service: "shop.Stock"}, "/shop.Stock/Get", "application/grpc+proto", true},
		{GRPC{Method: "Get"}, "/shop.Stock/Get", "Application/GRPC", true},
		{GRPC{Service: "*"}, "/shop.Stock/Get", "application/grpc-web", true},
		{GRPC{Service: "shop.Stock", Method: "Set"}, "/shop.Stock/Get", "application/grpc", false},
		{GRPC{Service: "shop.stock"}, "/shop.Stock/Get", "application/grpc", false},
		{GRPC{Service: "*"}, "/shop.Stock/Get", "application/json", false},
		{GRPC{Service: "*"}, "/", "application/grpc", false},
		{GRPC{Service: "*"}, "*", "application/grpc", false},
	} {
		q := asked([]byte("POST " + x.path + " HTTP/1.1\r\nHost: x\r\nContent-Type: " + x.is + "\r\n\r\n"))
		m := Match{GRPC: x.g}
		if got := m.fits(&q); got != x.want {
			t.Errorf("%+v and %s of %s: %v", x.g, x.path, x.is, got)
		}
	}
}
