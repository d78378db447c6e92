package loadgen

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	// Files that others import, and that compilers leave out.
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

// descriptors say which methods services have, and what their messages hold.
type descriptors struct {
	files *protoregistry.Files
	types *dynamicpb.Types
}

// ReadDescriptors takes a FileDescriptorSet, as protoc and buf write it, for the
// stream's calls. name is for messages.
func (s *Spec) ReadDescriptors(name string, raw []byte) error {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil || len(set.File) == 0 {
		return fmt.Errorf("%q is not a set of descriptors: make one with protoc --include_imports --descriptor_set_out=FILE, or buf build -o FILE", name)
	}
	d, err := newDescriptors(set.File)
	if err != nil {
		return fmt.Errorf("%q: %w; make it with protoc --include_imports", name, err)
	}
	s.descriptors = d
	return nil
}

func newDescriptors(files []*descriptorpb.FileDescriptorProto) (*descriptors, error) {
	has := func(name string) bool {
		return slices.ContainsFunc(files, func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == name })
	}
	for i := 0; i < len(files); i++ {
		for _, name := range files[i].GetDependency() {
			if !strings.HasPrefix(name, "google/protobuf/") || has(name) {
				continue
			}
			if known, err := protoregistry.GlobalFiles.FindFileByPath(name); err == nil {
				files = append(files, protodesc.ToFileDescriptorProto(known))
			}
		}
	}
	all, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: files})
	if err != nil {
		return nil, errors.New(protoText(err))
	}
	return &descriptors{all, dynamicpb.NewTypes(all)}, nil
}

// method finds /package.Service/Method.
func (d *descriptors) method(path string) (protoreflect.MethodDescriptor, error) {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok {
		return nil, fmt.Errorf("path %q is not a call: write package.Service/Method", path)
	}
	found, err := d.files.FindDescriptorByName(protoreflect.FullName(service))
	s, isService := found.(protoreflect.ServiceDescriptor)
	if err != nil || !isService {
		return nil, fmt.Errorf("there is no service %q (there are: %s)", service, strings.Join(d.services(), ", "))
	}
	m := s.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		var names []string
		for i := range s.Methods().Len() {
			names = append(names, string(s.Methods().Get(i).Name()))
		}
		return nil, fmt.Errorf("service %q has no method %q (there are: %s)", service, method, strings.Join(names, ", "))
	}
	if m.IsStreamingClient() || m.IsStreamingServer() {
		return nil, fmt.Errorf("method %q streams; only unary calls can be load", path)
	}
	return m, nil
}

func (d *descriptors) services() []string {
	var all []string
	d.files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			all = append(all, string(f.Services().Get(i).FullName()))
		}
		return true
	})
	slices.Sort(all)
	return all
}

// Reflection (grpc.reflection.v1 and v1alpha, which differ in their names alone):
// the server describes itself. A question and its answer are one message each, on a
// stream that is closed behind it.
//
//	question  3: file by its name  4: file by a symbol
//	answer    4: { 1: serialized file descriptors }  7: { 1: code 2: text }
const (
	reflectionV1    = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	reflectionAlpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

	// reflectionTime is how long the server may take to describe itself, and
	// mostFiles how much it may have to say.
	reflectionTime = 10 * time.Second
	mostFiles      = 2000
)

// reflect asks the server for the services that the stream calls.
func (h *h2hub) reflect(ctx context.Context) (*descriptors, error) {
	ctx, cancel := context.WithTimeout(ctx, reflectionTime)
	defer cancel()
	deadline, _ := ctx.Deadline()
	l, err := newH2Trunk(h).dial(deadline)
	if err != nil {
		return nil, err
	}
	defer hangUp(l.conn)
	if err := l.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { hangUp(l.conn) })()
	a := asker{link: l, scheme: h.scheme, path: reflectionV1}
	var files []*descriptorpb.FileDescriptorProto
	asked, have := map[string]bool{}, map[string]bool{}
	ask := func(field protowire.Number, name string) error {
		if asked[name] {
			return nil
		}
		asked[name] = true
		found, err := a.ask(field, name)
		if err != nil {
			return fmt.Errorf("asking the server about %q: %w", name, err)
		}
		for _, raw := range found {
			f := new(descriptorpb.FileDescriptorProto)
			if err := proto.Unmarshal(raw, f); err != nil {
				return fmt.Errorf("what the server says of %q: %s", name, protoText(err))
			}
			if !have[f.GetName()] {
				have[f.GetName()] = true
				files = append(files, f)
			}
		}
		if len(files) > mostFiles {
			return fmt.Errorf("the server describes itself in more than %d files", mostFiles)
		}
		return nil
	}
	for i := range h.stream.kinds {
		path, err := h.stream.kinds[i].path.append(nil, newDraw(0, 0, forContent))
		if err != nil {
			return nil, err
		}
		service, _, _ := strings.Cut(strings.TrimPrefix(string(path), "/"), "/")
		if err := ask(4, service); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(files); i++ {
		for _, name := range files[i].GetDependency() {
			if have[name] {
				continue
			}
			if _, err := protoregistry.GlobalFiles.FindFileByPath(name); err == nil && strings.HasPrefix(name, "google/protobuf/") {
				continue
			}
			if err := ask(3, name); err != nil {
				return nil, err
			}
		}
	}
	return newDescriptors(files)
}

// asker has calls answered one after another on a connection of its own.
type asker struct {
	link   *h2link
	scheme string
	path   string
}

func (a *asker) ask(field protowire.Number, name string) ([][]byte, error) {
	question := protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), name)
	message, code, text, err := a.call(question)
	if err == nil && code == 12 && a.path == reflectionV1 {
		a.path = reflectionAlpha
		message, code, text, err = a.call(question)
	}
	switch {
	case err != nil:
		return nil, err
	case code == 12:
		return nil, errors.New("it has no reflection (grpc.reflection.v1)")
	case code != 0:
		return nil, fmt.Errorf("%s %s", grpcNames[code].name, text)
	}
	var files [][]byte
	err = eachBytes(message, func(n protowire.Number, v []byte) error {
		switch n {
		case 4:
			return eachBytes(v, func(n protowire.Number, file []byte) error {
				if n == 1 {
					files = append(files, file)
				}
				return nil
			})
		case 7:
			text := "error"
			if err := eachBytes(v, func(n protowire.Number, v []byte) error {
				if n == 2 {
					text = string(v)
				}
				return nil
			}); err != nil {
				return err
			}
			return errors.New(text)
		}
		return nil
	})
	return files, err
}

// eachBytes goes through the fields of a message that are texts or messages.
func eachBytes(message []byte, do func(n protowire.Number, v []byte) error) error {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return violated("an answer that is no message")
		}
		message = message[size:]
		if kind != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
				return violated("an answer that is no message")
			}
			message = message[size:]
			continue
		}
		v, size := protowire.ConsumeBytes(message)
		if size < 0 {
			return violated("an answer that is no message")
		}
		message = message[size:]
		if err := do(n, v); err != nil {
			return err
		}
	}
	return nil
}

func (a *asker) call(question []byte) (message []byte, code int, text string, err error) {
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(question)))
	body = append(body, question...)
	head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: chaosctl\r\nContent-Type: application/grpc\r\nTE: trailers\r\n\r\n", a.path, a.link.host)
	over := false
	l := a.link
	l.h2.ended = func(*h2stream) { over = true }
	st := &h2stream{grpc: new(grpcAnswer)}
	st.grpc.reset(true)
	l.h2.open(st, appendBlock(nil, head, a.scheme, false), body)
	buffer := make([]byte, 16<<10)
	for !over {
		if len(l.h2.out) > 0 {
			out := l.h2.out
			l.h2.out = nil
			l.h2.written()
			if _, err := l.conn.Write(out); err != nil {
				return nil, 0, "", err
			}
			continue
		}
		n, err := l.conn.Read(buffer)
		if err == nil {
			err = l.h2.feed(buffer[:n], l.trunk.hub.now()+1)
		}
		if err != nil {
			return nil, 0, "", err
		}
	}
	switch {
	case st.err != nil:
		return nil, 0, "", st.err
	case st.status != 200:
		return nil, 0, "", fmt.Errorf("status %d", st.status)
	}
	return st.grpc.message, st.grpc.code, st.grpc.text, nil
}
