package proxy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// GRPC is which gRPC calls a Match is about: their content type begins with
// application/grpc, and their path is /Service/Method. Both are patterns, and
// stand for any when they are empty, but one is set.
type GRPC struct{ Service, Method string }

func (g *GRPC) wrong() error {
	for _, x := range []struct{ what, pattern, want string }{
		{"service", g.Service, "shop.Payments"}, {"method", g.Method, "Charge"},
	} {
		if strings.ContainsAny(x.pattern, "/?# \t\r\n") {
			return fmt.Errorf("grpc %s is %q, want a name such as %s, with * for any characters", x.what, x.pattern, x.want)
		}
	}
	return nil
}

// fits tells whether such a request is such a call.
func (g *GRPC) fits(q *request) bool {
	if !isGRPC(q.field("Content-Type")) || len(q.path) == 0 {
		return false
	}
	path := string(q.path[1:])
	i := strings.LastIndexByte(path, '/')
	return i >= 0 && (g.Service == "" || glob(g.Service, path[:i], false)) && (g.Method == "" || glob(g.Method, path[i+1:], false))
}

// isGRPC tells whether the content type is one of gRPC, or of gRPC-Web.
func isGRPC[S ~string | ~[]byte](contentType S) bool {
	const is = "application/grpc"
	return len(contentType) >= len(is) && strings.EqualFold(string(contentType[:len(is)]), is)
}

// codeNames are the names of gRPC's statuses, by number (grpc.io, Status Codes).
var codeNames = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// Code is a status of gRPC other than OK; 0 is none.
type Code int

// Codes are the names that ParseCode takes, by number.
func Codes() []string { return codeNames[1:] }

// ParseCode reads a name such as UNAVAILABLE.
func ParseCode(name string) (Code, bool) {
	i := slices.Index(codeNames, name)
	return Code(max(i, 0)), i > 0
}

func (c Code) String() string {
	if c < 0 || int(c) >= len(codeNames) {
		return strconv.Itoa(int(c))
	}
	return codeNames[c]
}

// grpcClass is what Stats.Answers counts an answer under with such a grpc-status; a status that there is
// not is UNKNOWN to callers too.
func grpcClass(status string) string {
	if n, err := strconv.Atoi(status); err == nil && n > 0 && n < len(codeNames) {
		return codeNames[n]
	}
	return "UNKNOWN"
}

// percentEncoded is a message as grpc-message carries it (gRPC over HTTP2, Responses).
func percentEncoded(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
