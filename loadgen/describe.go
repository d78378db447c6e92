package loadgen

import (
	"fmt"
	"strings"
)

// Describe is the stream in a few words: "POST /checkout at 200/s".
func (s Spec) Describe() string {
	var kinds []string
	for _, r := range s.own() {
		kinds = append(kinds, r.Method+" "+r.Path)
	}
	what := strings.Join(kinds, ", ")
	if len(s.Steps) > 0 {
		what = "sessions of " + strings.Join(kinds, ", then ")
	}
	switch {
	case s.Users != nil:
		return fmt.Sprintf("%s by %d users, %s between an answer and the next request", what, *s.Users, s.Think)
	case s.Ramp != nil:
		return fmt.Sprintf("%s from %s to %s within %s", what, s.Ramp.From, s.Ramp.To, s.Ramp.Over)
	case len(s.Stages) > 0:
		var legs []string
		for _, st := range s.Stages {
			if st.Rate != nil {
				legs = append(legs, fmt.Sprintf("%s for %s", st.Rate, st.For))
			} else if st.To != nil {
				legs = append(legs, fmt.Sprintf("to %s within %s", st.To, st.For))
			}
		}
		return what + " at " + strings.Join(legs, ", then ")
	case s.Rate != nil:
		return fmt.Sprintf("%s at %s", what, s.Rate)
	}
	return what
}
