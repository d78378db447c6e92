package node

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
)

// traceKey holds the W3C trace id (32 hex digits) of the request being served.
type traceKey struct{}

// withTrace takes the trace id from a traceparent header
// ("00-<32 hex trace>-<16 hex span>-<2 hex flags>"), or starts a new trace.
func withTrace(ctx context.Context, header string) context.Context {
	if len(header) == 55 && header[:3] == "00-" && header[35] == '-' && header[52] == '-' && isHex(header[3:35]) {
		return context.WithValue(ctx, traceKey{}, header[3:35])
	}
	return context.WithValue(ctx, traceKey{}, fmt.Sprintf("%016x%016x", rand.Uint64()|1, rand.Uint64()))
}

func isHex(s string) bool {
	zero := true
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
		zero = zero && c == '0'
	}
	return !zero // an all-zero trace id is invalid
}

func traceOf(ctx context.Context) string {
	trace, _ := ctx.Value(traceKey{}).(string)
	return trace
}

// Trace is the trace id of the request that ctx belongs to, for log lines; ""
// outside a request.
func Trace(ctx context.Context) string { return traceOf(ctx) }

// traceparent is the header of a call made on behalf of ctx: the caller's
// trace, a span of its own.
func traceparent(ctx context.Context) string {
	trace := traceOf(ctx)
	if trace == "" {
		return ""
	}
	return fmt.Sprintf("00-%s-%016x-01", trace, rand.Uint64()|1)
}

// mix derives a seed for one purpose, so that drawing for one never shifts the
// numbers of another.
func mix(seed uint64, purpose ...string) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d", seed)
	for _, p := range purpose {
		fmt.Fprintf(h, "\x00%s", p)
	}
	return h.Sum64()
}
