package loadgen

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// mostStreams is far above what servers take; RFC 9113 (6.5.2) recommends at least 100.
const mostStreams = 10_000

// streams is how many requests may be under way on one connection.
func (s Spec) streams() int {
	if s.Streams != nil {
		return *s.Streams
	}
	return 1
}

// lanes is how many requests may be under way at once.
func (s Spec) lanes() int { return s.connections() * s.streams() }

func openH2(ctx context.Context, c Config, s *stream) (carrier, error) {
	return newH2Hub(ctx, c, s).carrier(), nil
}

// hopByHop are the fields that HTTP/2 and HTTP/3 have no use for (RFC 9113, 8.2.2).
var hopByHop = []string{"connection", "keep-alive", "proxy-connection", "te", "http2-settings"}

func checkH2(s Spec, report func(path, format string, args ...any)) {
	checkStreams(s, "HTTP/2", report)
}

// checkStreams is for protocols that carry several requests on one connection.
func checkStreams(s Spec, protocol string, report func(path, format string, args ...any)) {
	if n := s.Streams; n != nil && (*n < 1 || *n > mostStreams) {
		report("streams", "streams is %d; it must be from 1 to %d", *n, mostStreams)
	}
	eachHeader(s, func(path, name string) {
		if slices.Contains(hopByHop, strings.ToLower(name)) {
			report(path, "header %q is about one connection of HTTP/1.1 and must not be sent in %s", name, protocol)
		}
	})
}

// eachHeader goes through the names of all headers as they are written.
func eachHeader(s Spec, do func(path, name string)) {
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		do("headers."+name, name)
	}
	for i, r := range s.own() {
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			do(s.at(i)+".headers."+name, name)
		}
	}
}
