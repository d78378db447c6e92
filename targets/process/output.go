package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Tail keeps this many lines, each cut at lineLimit bytes. The log file gets
// everything.
const (
	tailLines = 50
	lineLimit = 4096
)

// straggling is how long output is still read when all processes of the group
// are gone but somebody outside it (who left the group) keeps the pipe open.
const straggling = 200 * time.Millisecond

// output collects what a child writes: into a ring of lines, and a file. A child
// that announces where it listens does so in the first line of its stdout.
type output struct {
	ring      ring
	listening chan string

	mu   sync.Mutex // of file and err: two pipes may write
	file *os.File
	err  error

	pipes    []*os.File
	announce *os.File // the one of pipes whose first line is an announcement
	readers  sync.WaitGroup
}

// childFiles are the child's ends of the pipes, closed on our side after the fork.
type childFiles struct{ stdout, stderr *os.File }

func (f *childFiles) closeChildSide() error {
	err := f.stdout.Close()
	if f.stderr != f.stdout {
		err = errors.Join(err, f.stderr.Close())
	}
	return err
}

// newOutput opens one pipe for both streams, which keeps their order; a child
// that announces has its stdout apart.
func newOutput(c Command) (*output, *childFiles, error) {
	o := &output{listening: make(chan string, 1)}
	if c.Log != "" {
		f, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, nil, fmt.Errorf("open its log: %w", err)
		}
		o.file = f
	}
	r, w, err := os.Pipe()
	if err != nil {
		o.close()
		return nil, nil, err
	}
	o.pipes = append(o.pipes, r)
	files := &childFiles{stdout: w, stderr: w}
	if c.Announces {
		r, w, err := os.Pipe()
		if err != nil {
			o.close()
			return nil, nil, errors.Join(err, files.closeChildSide())
		}
		o.pipes, o.announce = append(o.pipes, r), r
		files.stdout = w
	} else {
		close(o.listening)
	}
	return o, files, nil
}

func (o *output) start() {
	for _, r := range o.pipes {
		o.readers.Go(func() { o.read(r) })
	}
}

// read takes lines until the pipe's last writer is gone. It goes on reading when
// the log cannot be written: a child must not hang because our disk is full.
func (o *output) read(r *os.File) {
	announcing := r == o.announce
	var line []byte // begun, not ended
	buf := make([]byte, 32*1024)
	for {
		n, err := r.Read(buf)
		chunk := buf[:n]
		if announcing && n > 0 {
			line = append(line, chunk...)
			first, rest, ended := bytes.Cut(line, []byte("\n"))
			if !ended && len(line) < lineLimit && err == nil {
				continue
			}
			announcing = false
			if address := announcement(first); ended && address != "" {
				o.listening <- address
				chunk, line = rest, nil
			} else { // something else: then it is ordinary output
				chunk, line = line, nil
			}
			close(o.listening)
		}
		o.write(chunk)
		line = o.ring.take(append(line, chunk...))
		if err != nil {
			break
		}
	}
	if announcing {
		close(o.listening)
	}
	if len(line) > 0 {
		o.ring.add(line)
	}
}

// announcement reads {"listening":"127.0.0.1:40123"}.
func announcement(line []byte) string {
	var a struct {
		Listening string `json:"listening"`
	}
	if json.Unmarshal(line, &a) != nil {
		return ""
	}
	return a.Listening
}

func (o *output) write(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil || o.err != nil || len(b) == 0 {
		return
	}
	_, o.err = o.file.Write(b)
}

// drain waits for the rest of the output of a group that is gone, then closes all.
func (o *output) drain() error {
	for _, r := range o.pipes {
		_ = r.SetReadDeadline(time.Now().Add(straggling)) // os.Pipe supports it
	}
	o.readers.Wait()
	return o.close()
}

func (o *output) close() error {
	for _, r := range o.pipes {
		_ = r.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		o.err = errors.Join(o.err, o.file.Close())
		o.file = nil
	}
	return o.err
}

// ring holds the last lines of an output.
type ring struct {
	mu   sync.Mutex
	last []string
}

// take adds the whole lines in b, and returns the rest. A line that will not end
// is cut into several.
func (r *ring) take(b []byte) (rest []byte) {
	for {
		line, after, ok := bytes.Cut(b, []byte("\n"))
		switch {
		case ok:
			r.add(line)
			b = after
		case len(b) > lineLimit:
			r.add(b[:lineLimit])
			b = b[lineLimit:]
		default:
			return b
		}
	}
}

func (r *ring) add(line []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	text := string(bytes.ToValidUTF8(line[:min(len(line), lineLimit)], []byte("�")))
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.last) == tailLines {
		copy(r.last, r.last[1:])
		r.last[tailLines-1] = text
		return
	}
	r.last = append(r.last, text)
}

func (r *ring) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.last...)
}
