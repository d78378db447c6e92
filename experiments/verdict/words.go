package verdict

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// percent writes a share as a person would: 99.3 %, 99.98 %, never 100 % for
// less than all.
func percent(x float64) string {
	for digits := 1; digits <= 6; digits++ {
		s := strconv.FormatFloat(100*x, 'f', digits, 64)
		rounded, _ := strconv.ParseFloat(s, 64)
		if (rounded == 100 && x < 1) || (rounded == 0 && x > 0) {
			continue
		}
		return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + " %"
	}
	return strconv.FormatFloat(100*x, 'g', 3, 64) + " %"
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// seconds writes a duration for a sentence: 1.2 s, 340 ms.
func seconds(d time.Duration) string {
	switch a := d.Abs(); {
	case a >= 10*time.Second:
		return trimmed(d.Seconds(), 0) + " s"
	case a >= time.Second:
		return trimmed(d.Seconds(), 1) + " s"
	case a >= 10*time.Millisecond || a == 0:
		return trimmed(d.Seconds()*1e3, 0) + " ms"
	default:
		return trimmed(d.Seconds()*1e3, 2) + " ms"
	}
}

func trimmed(x float64, digits int) string {
	s := strconv.FormatFloat(x, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

// and joins names as a sentence does.
func and(names []string) string {
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// ID is the name by which `must_fail` and reports know the objective:
// "shoppers during p95".
func (o Objective) ID() string {
	return fmt.Sprintf("%s %s %s", o.Of(), o.Phase, o.Clause.Name())
}

// sec is a duration as result.json has it: seconds, to the microsecond.
func sec(d time.Duration) float64 {
	return math.Round(d.Seconds()*1e6) / 1e6
}

func ptr[T any](v T) *T { return &v }
