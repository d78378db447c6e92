package loadgen

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"sync"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

// Replay sends requests when they came once: a file with a moment per line
// (seconds or RFC 3339), or an access log in the common or combined format. A
// stream that has no request of its own sends the log's: method and path, with
// the stream's headers and body. Lines of the log that hold no request that can
// be sent are left out then. In a scenario, File is in the scenario file's folder
// or below it (Spec.ReadData).
//
// The file is read once, when it is first needed; a Replay must not be copied
// after that.
type Replay struct {
	File  string   `yaml:"file" json:"file"`
	Speed *float64 `yaml:"speed" json:"speed,omitempty"` // default 1; 2 is twice as fast

	inside  bool  // File is in this folder; else where chaosctl runs
	folder  fs.FS // may be nil: there is none
	once    sync.Once
	all     arrival.Trace // every moment
	calls   arrival.Trace // those with a request that can be sent
	readErr error
}

// mostTrace bounds what is read of a trace, in bytes.
const mostTrace = 2 << 30

// read reads the file, once.
func (r *Replay) read() error {
	r.once.Do(func() {
		if r.readErr = r.parse(); r.readErr == nil {
			if r.all.Request(0) != "" {
				r.calls = r.all.Where(func(request string) bool { _, ok := parseCall(request); return ok })
			}
		}
	})
	return r.readErr
}

func (r *Replay) parse() error {
	f, err := r.open()
	if err != nil {
		return err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", r.File)
	case info.Size() > mostTrace:
		return fmt.Errorf("%s has %d bytes; at most %d", r.File, info.Size(), mostTrace)
	}
	if r.all, err = arrival.ParseTrace(f); err != nil {
		return fmt.Errorf("%s: %w", r.File, err)
	}
	return nil
}

func (r *Replay) open() (fs.File, error) {
	if r.inside {
		return openDataFile(r.folder, r.File)
	}
	return os.Open(r.File)
}

func (r *Replay) speed() float64 {
	if r.Speed == nil {
		return 1
	}
	return *r.Speed
}

// trace is when requests are due; own tells that the stream has requests of its own.
func (r *Replay) trace(own bool) arrival.Trace {
	if r.read() != nil {
		return arrival.Trace{}
	}
	if own {
		return r.all.At(r.speed())
	}
	return r.calls.At(r.speed())
}

// requests are the different ones of the log, and which of them each moment has.
func (r *Replay) requests() (kinds []Request, order []uint32) {
	t := r.trace(false)
	number := map[string]uint32{}
	for k := range t.Len() {
		text := t.Request(k)
		i, known := number[text]
		if !known {
			i = uint32(len(kinds))
			number[text] = i
			call, _ := parseCall(text)
			kinds = append(kinds, call)
		}
		order = append(order, i)
	}
	return kinds, order
}

// check reports what is wrong with the replay, its file included.
func (r *Replay) check(own bool, report func(path, format string, args ...any)) {
	if s := r.speed(); !(s >= 0.001 && s <= 1000) || math.IsNaN(s) {
		report("replay.speed", "speed is %v; it must be from 0.001 to 1000 (2 is twice as fast)", s)
	}
	if r.File == "" {
		report("replay.file", "file is missing: a file with a moment per line, or an access log")
		return
	}
	switch err := r.read(); {
	case err != nil:
		var path *os.PathError
		if errors.As(err, &path) {
			report("replay.file", "the trace cannot be read: %v", path)
		} else {
			report("replay.file", "the trace cannot be used: %v", err)
		}
	case own:
	case r.all.Request(0) == "":
		report("", "what is asked is missing: %s holds only times, so write request: METHOD /path, or requests with weights", r.File)
	case r.calls.Len() == 0:
		report("replay.file", "no line of %s holds a request that can be sent again", r.File)
	}
}

// parseCall reads "GET /path HTTP/1.1" as far as it can be sent.
func parseCall(text string) (Request, bool) {
	f := strings.Fields(text)
	if len(f) != 3 || !strings.HasPrefix(f[2], "HTTP/") || checkMethod(f[0]) != "" || checkPath(f[1]) != "" {
		return Request{}, false
	}
	return Request{Method: f[0], Path: Literal(f[1])}, true
}

// Literal is a template that renders to text.
func Literal(text string) string { return strings.ReplaceAll(text, "{{", `{{pick "{{"}}`) }
