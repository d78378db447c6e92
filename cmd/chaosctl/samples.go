package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/chaosctl/chaosctl/loadgen"
)

// samples is samples.bin: every request of a run in vegeta's own encoding, so
// that `vegeta report` and `vegeta plot` read it. Safe for several goroutines.
type samples struct {
	mu     sync.Mutex
	file   *os.File
	buffer *bufio.Writer
	encode vegeta.Encoder
	err    error
}

func openSamples(path string) (*samples, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, internal(fmt.Errorf("write the samples: %w", err))
	}
	b := bufio.NewWriterSize(f, 256<<10)
	return &samples{file: f, buffer: b, encode: vegeta.NewEncoder(b)}, nil
}

func (s *samples) Write(r loadgen.Result) {
	v := r.Vegeta()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = s.encode(&v)
	}
}

func (s *samples) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.err, s.buffer.Flush(), s.file.Close())
}
