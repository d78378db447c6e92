package arrival

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is arrivals per second, written "200/s", "30/m" or "100/h".
type Rate float64

// perUnit says how many seconds a unit has; the order is the one in which
// MarshalText tries them.
var perUnit = []struct {
	unit    string
	seconds float64
}{{"s", 1}, {"m", 60}, {"h", 3600}}

// UnmarshalText reads a number, a slash and one of the units s, m and h.
// Negative rates and 0 are read; whether they make sense is for the caller to say.
func (r *Rate) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	number, unit, ok := strings.Cut(s, "/")
	number, unit = strings.TrimSpace(number), strings.TrimSpace(unit)
	if !ok {
		return fmt.Errorf(`rate %q has no unit: write "200/s", "30/m" or "100/h"`, s)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsInf(n, 0) || math.IsNaN(n) || strings.ContainsAny(number, "xX_") {
		return fmt.Errorf(`rate %q: %q is not a number: write "200/s", "30/m" or "100/h"`, s, number)
	}
	for _, u := range perUnit {
		if u.unit == unit {
			*r = Rate(n / u.seconds)
			return nil
		}
	}
	return fmt.Errorf(`rate %q: unit %q is not one of s, m, h: write "200/s", "30/m" or "100/h"`, s, unit)
}

// MarshalText writes the rate in the unit that makes it shortest; reading the
// text gives the same Rate again.
func (r Rate) MarshalText() ([]byte, error) {
	if math.IsInf(float64(r), 0) || math.IsNaN(float64(r)) {
		return nil, fmt.Errorf("rate %v is not a number", float64(r))
	}
	best := ""
	for _, u := range perUnit {
		n := float64(r) * u.seconds
		if n/u.seconds != float64(r) { // lost in rounding, or beyond float64
			continue
		}
		if s := strconv.FormatFloat(n, 'f', -1, 64) + "/" + u.unit; best == "" || len(s) < len(best) {
			best = s
		}
	}
	return []byte(best), nil
}

func (r Rate) String() string {
	text, err := r.MarshalText()
	if err != nil {
		return fmt.Sprintf("%v/s", float64(r))
	}
	return string(text)
}
