package loadgen

// checkH3 is what holds for HTTP/2, whose connections carry several requests and
// whose requests have no fields about one connection, too (RFC 9114, 4.2).
func checkH3(s Spec, report func(path, format string, args ...any)) {
	if !haveHTTP3 {
		report("protocol", "this chaosctl was built without HTTP/3: build it with `go build -tags http3 ./cmd/chaosctl`")
	}
	checkStreams(s, "HTTP/3", report)
}
