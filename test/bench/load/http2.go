//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/chaosctl/chaosctl/test/bench/loop"
)

// What the server speaks besides HTTP/1.1.
const (
	speaksHTTP2 = "h2c"
	speaksGRPC  = "grpc"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// healthCall is what gRPC generators call: a method that everybody has.
const healthCall = "grpc.health.v1.Health/Check"

// h2Answers are a HEADERS and a DATA frame, and trailers where gRPC has them, for
// stream 0: their header blocks change no table, so that they mean the same every
// time. What the client sends is taken apart only as far as its frames.
func h2Answers(speaks string) []byte {
	frame := func(dst []byte, kind, flags byte, payload []byte) []byte {
		dst = append(dst, 0, byte(len(payload)>>8), byte(len(payload)), kind, flags, 0, 0, 0, 0)
		return append(dst, payload...)
	}
	literal := func(dst []byte, name, value string) []byte {
		dst = append(append(dst, 0, byte(len(name))), name...)
		return append(append(dst, byte(len(value))), value...)
	}
	const endStream, endHeaders = 1, 4
	header := literal([]byte{0x88}, "content-type", map[string]string{speaksHTTP2: "text/plain", speaksGRPC: "application/grpc"}[speaks])
	answers := frame(nil, 1, endHeaders, header)
	if speaks == speaksHTTP2 {
		return frame(answers, 0, endStream, []byte("Hello, world\n"))
	}
	answers = frame(answers, 0, 0, []byte{0, 0, 0, 0, 2, 8, 1}) // SERVING
	return frame(answers, 1, endStream|endHeaders, literal(nil, "grpc-status", "0"))
}

// readFrames takes what has arrived on c, and answers every request that is whole.
func (s *httpServer) readFrames(c *serverConn, b []byte) {
	var out []byte
	if !c.greeted {
		if len(b) < len(preface) {
			c.rest = bytes.Clone(b)
			return
		}
		c.greeted = true
		b = b[len(preface):]
		out = append(out, 0, 0, 0, 4, 0, 0, 0, 0, 0) // SETTINGS, empty
	}
	now := s.Now()
	for len(b) >= 9 {
		length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if len(b) < 9+length {
			break
		}
		kind, flags, id, payload := b[3], b[4], b[5:9], b[9:9+length]
		b = b[9+length:]
		switch {
		case kind == 4 && flags&1 == 0:
			out = append(out, 0, 0, 0, 4, 1, 0, 0, 0, 0)
		case kind == 6 && flags&1 == 0:
			out = append(append(out, 0, 0, 8, 6, 1, 0, 0, 0, 0), payload...)
		case kind == 0 && length > 0:
			// The window of the connection is given back as it is used.
			out = binary.BigEndian.AppendUint32(append(out, 0, 0, 4, 8, 0, 0, 0, 0, 0), uint32(length))
		}
		if (kind == 0 || kind == 1) && flags&1 != 0 {
			if len(s.arrivals) == 0 {
				s.first = now
			}
			s.arrivals = append(s.arrivals, int64(now-s.first))
			at := len(out)
			for out = append(out, s.answers...); at < len(out); at += 9 + int(out[at+1])<<8 + int(out[at+2]) {
				copy(out[at+5:], id)
			}
		}
	}
	if c.rest = nil; len(b) > 0 {
		c.rest = bytes.Clone(b)
	}
	if len(out) > 0 {
		if _, _, err := loop.Write(c.fd, out); err != nil {
			s.drop(c)
		}
	}
}

// call is the plain way to call with grpc-go: so many goroutines share so many
// connections, each waiting for its answer before it calls again. It ends with its
// context.
func call(ctx context.Context, target string, users, connections int) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	if users < 1 || connections < 1 {
		return fmt.Errorf("%d users on %d connections", users, connections)
	}
	var clients []grpc_health_v1.HealthClient
	for range connections {
		conn, err := grpc.NewClient(u.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		clients = append(clients, grpc_health_v1.NewHealthClient(conn))
	}
	failed := make(chan error, users)
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := clients[i%connections].Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "x"}); err != nil && ctx.Err() == nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// writeDescriptors writes what protoc would for the method that is called.
func (g *generators) writeDescriptors() (name string, err error) {
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto),
	}})
	if err != nil {
		return "", err
	}
	name = filepath.Join(g.dir, "health.binpb")
	return name, os.WriteFile(name, raw, 0o644)
}

// k6Calls is the call in k6's terms: as many virtual users as calls under way. k6
// gives each a connection of its own, which it keeps.
func k6Calls(j job, descriptors string) (string, error) {
	u, err := url.Parse(j.url)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`import grpc from "k6/net/grpc";
export const options = { discardResponseBodies: true, scenarios: { bench: { executor: "constant-vus", vus: %d, duration: "%v", gracefulStop: "2s" } } };
const client = new grpc.Client();
client.loadProtoset(%q);
let connected = false;
export default function () {
  if (!connected) {
    client.connect(%q, { plaintext: true });
    connected = true;
  }
  const answer = client.invoke(%q, { service: "x" });
  if (answer.status !== grpc.StatusOK) {
    throw new Error("status " + answer.status);
  }
}
`, j.connections*j.streams, j.duration, descriptors, u.Host, healthCall), nil
}

// argsHTTP2 is how a generator is told to speak HTTP/2 or gRPC.
func (g *generators) argsHTTP2(name string, j job) ([]string, error) {
	users, conns, streams := strconv.Itoa(j.connections*j.streams), strconv.Itoa(j.connections), strconv.Itoa(j.streams)
	switch name {
	case "h2load":
		return []string{g.peers[name].Path, "-t", "1", "-c", conns, "-m", streams, "-D", strconv.Itoa(int(j.duration.Seconds())), j.url}, nil
	case grpcLoop:
		exe, err := os.Executable()
		return []string{exe, "-as", "caller", "-url", j.url, "-users", users, "-connections", conns}, err
	}
	return nil, errors.New(name + " is not known to speak HTTP/2")
}

// grpcLoop is the column of call.
const grpcLoop = "grpc-go loop"
