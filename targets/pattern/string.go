package pattern

import (
	"fmt"
	"strings"
	"time"
)

// String is the spec in the words of a scenario: "off", or the settings that it
// names.
func (s Spec) String() string {
	var parts []string
	if s.Mode != "" {
		parts = append(parts, string(s.Mode))
	}
	if s.Timeout != nil {
		text := "off"
		if *s.Timeout > 0 {
			text = time.Duration(*s.Timeout).String()
		}
		parts = append(parts, "timeout "+text)
	}
	mode := func(name string, m Mode) {
		if m == "" {
			m = "changed"
		}
		parts = append(parts, fmt.Sprintf("%s %s", name, m))
	}
	if s.Retry != nil {
		mode("retry", s.Retry.Mode)
	}
	if s.Breaker != nil {
		mode("breaker", s.Breaker.Mode)
	}
	if s.Bulkhead != nil {
		mode("bulkhead", s.Bulkhead.Mode)
	}
	if s.Fallback != nil {
		mode("fallback", *s.Fallback)
	}
	return strings.Join(parts, ", ")
}
