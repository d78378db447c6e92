package loadgen

import (
	"bytes"
	"time"
)

// h2request is a request as it goes over the wire.
type h2request struct {
	host  string
	block []byte
	body  []byte
	trace int // where in block the trace context stands, to be written anew; 0: nowhere
	limit int // where in block the digits of grpc-timeout stand; 0: nowhere

	message []byte // memory for body
}

// compose makes r of a request's HTTP/1.1 text, which ends with its body.
func (r *h2request) compose(k *kind, text, body []byte, host, scheme string) error {
	text = text[:len(text)-len(body)]
	r.host, r.trace, r.limit = host, 0, 0
	if k.rpc != nil {
		return k.rpc.compose(r, text, body, scheme)
	}
	r.block, r.body = appendBlock(r.block[:0], text, scheme, false), body
	return nil
}

// fixedRequest is made of request number seq of a static kind: but for its stamp, every
// request of the kind is the same, on every connection.
func fixedRequest(s *stream, k *kind, seq uint64, host, scheme string) (*h2request, error) {
	text, body, err := s.appendRequest(nil, nil, seq, host)
	if err != nil {
		return nil, err
	}
	r := new(h2request)
	if err := r.compose(k, text, body, host, scheme); err != nil {
		return nil, err
	}
	r.body = bytes.Clone(r.body)
	if !k.trace {
		t := drawOf(s.seed, seq, forTrace)
		context := append(t.trace([]byte("00-")), "-01"...)
		r.trace = bytes.Index(r.block, context) + len("00-")
	}
	return r, nil
}

// stamp writes what is request number seq's own into the block of r, or a copy of it:
// its trace context, and how much time is left.
func (r *h2request) stamp(block []byte, s *stream, k *kind, seq uint64, left time.Duration) {
	if r.trace > 0 {
		t := drawOf(s.seed, seq, forTrace)
		t.trace(block[r.trace:r.trace])
	}
	if r.limit > 0 {
		k.rpc.limit(block[r.limit:], left)
	}
}
