package loadgen

import (
	"fmt"
	"strings"

	"github.com/chaosctl/chaosctl/loadgen/arrival"
)

// mostDescribed is how many kinds of requests are named.
const mostDescribed = 5

// Describe is the stream in a few words: "POST /checkout at 200/s".
func (s Spec) Describe() string {
	var kinds []string
	for i, r := range s.own() {
		if len(s.Steps) == 0 || i < len(s.Steps) { // not those of a setup
			kinds = append(kinds, s.title(r))
		}
	}
	if len(kinds) > mostDescribed {
		kinds = append(kinds[:mostDescribed-1], fmt.Sprintf("and %d more", len(kinds)-mostDescribed+1))
	}
	what := strings.Join(kinds, ", ")
	if len(s.Steps) > 0 {
		what = "sessions of " + strings.Join(kinds, ", then ")
		if len(s.Setup) > 0 {
			var once []string
			for _, r := range s.own()[len(s.Steps):] {
				once = append(once, s.title(r))
			}
			what = fmt.Sprintf("%s once per user, then %s", strings.Join(once, ", "), what)
		}
	}
	if s.Order == Listed {
		what += " in turn"
	}
	what += s.Connection.describe()
	if s.Spacing == arrival.PoissonSpacing {
		what += ", Poisson arrivals"
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
	case s.Step != nil:
		return fmt.Sprintf("%s from %s by %s every %s to %s", what, s.Step.From, s.Step.By, s.Step.Every, s.Step.To)
	case s.Spike != nil:
		return fmt.Sprintf("%s at %s, %s for %s from %s on", what, s.Spike.Base, s.Spike.Peak, s.Spike.For, s.Spike.At)
	case s.Sine != nil:
		return fmt.Sprintf("%s at %s ± %s, up and down every %s", what, s.Sine.Mean, s.Sine.Amplitude, s.Sine.Period)
	case s.Replay != nil:
		return s.Replay.describe(what)
	case s.Rate != nil:
		return fmt.Sprintf("%s at %s", what, s.Rate)
	}
	return what
}

// describe is what deserves to be known about connections, if anything.
func (c *Connection) describe() (text string) {
	switch {
	case c == nil:
		return ""
	case c.Requests == 1:
		return ", each on a new connection"
	case c.Requests > 0:
		text = fmt.Sprintf(", a new connection after %d requests", c.Requests)
	}
	if c.Lifetime > 0 {
		text += fmt.Sprintf(", connections of %s", c.Lifetime)
	}
	return text
}

// describe says what is replayed: "the 1200 requests of access.log, twice as …".
func (r *Replay) describe(what string) string {
	text := fmt.Sprintf("%s when %s says", what, r.File)
	if what == "" {
		text = fmt.Sprintf("the %d requests of %s", r.trace(false).Len(), r.File)
		if left := r.all.Len() - r.calls.Len(); left > 0 {
			text += fmt.Sprintf(" (%d lines without a request that can be sent are left out)", left)
		}
	}
	if s := r.speed(); s != 1 {
		text += fmt.Sprintf(", at speed %v", s)
	}
	return text
}
