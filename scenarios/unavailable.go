package scenarios

// later are the keys that belong to the language and not to this version:
// whoever writes one is told so, instead of "unknown key". A "*" stands for any
// one step of the path; what they will mean stands in the design.
var later = []struct {
	path []string
	why  string // empty: nothing better to say than that it is not there
}{
	{[]string{"target", "compose"}, "start the services by command, or give their address"},
	{[]string{"target", "kubernetes"}, "give the services' addresses"},
	{[]string{"repeat"}, "chaosctl run SCENARIO --repeat 5"},
	{[]string{"load", "*", "request", "capture"}, captureInSteps},
	{[]string{"load", "*", "requests", "*", "capture"}, captureInSteps},
}

const captureInSteps = "values are captured by the steps of a session: write steps instead of requests"

// unavailable is what to say about a key that no struct has; empty if it is simply unknown.
func unavailable(path []string) string {
	if len(path) == 3 && path[0] == "faults" && path[2] == "percent" {
		return `"percent" belongs to the verb: latency: { delay: 800ms, percent: 50 }`
	}
	for _, key := range later {
		if len(key.path) != len(path) {
			continue
		}
		match := true
		for i, step := range key.path {
			match = match && (step == "*" || step == path[i])
		}
		if match {
			say := `"` + path[len(path)-1] + `" is not available in this version`
			if key.why != "" {
				say += ": " + key.why
			}
			return say
		}
	}
	return ""
}
