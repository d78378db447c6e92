package expect

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Error is a clause that cannot be read.
type Error struct {
	Clause  string
	Column  int    // of the part that is wrong, in runes from 1
	Message string // what is wrong, and what is allowed
}

func (e *Error) Error() string { return e.Message }

// Offset is how many runes of the clause stand before the part that is wrong.
func (e *Error) Offset() int { return e.Column - 1 }

// longest is far beyond any clause that makes sense.
const longest = 200

// Parse reads one clause. Its errors are of type *Error.
func Parse(text string) (Clause, error) {
	p := parser{text: text}
	if utf8.RuneCountInString(text) > longest {
		return Clause{}, p.wrong(0, "a clause is short, like ok >= 99%% or p95 < 250ms; this one has %d characters", utf8.RuneCountInString(text))
	}
	return p.clause()
}

// ParseShort makes Clause a type that files write as text.
func (c *Clause) ParseShort(text string) error {
	parsed, err := Parse(text)
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}

type parser struct {
	text string
	at   int // byte offset of what is not read yet
}

func (p *parser) clause() (Clause, error) {
	var c Clause
	start, word := p.word(isMetric)
	switch {
	case word == "" && p.rest() == "":
		return c, p.wrong(start, "an empty clause: write one like ok >= 99%% or p95 < 250ms")
	case word == string(OK), word == string(Upstream):
		c.Metric = Metric(word)
	default:
		quantile, ok := percentile(word)
		if !ok {
			return c, p.wrong(start, "%q is not measured: write ok, p50 … p99.999 or upstream", clip(p.foreign(start)))
		}
		c.Metric, c.Quantile = Percentile, quantile
	}
	start, c.Op = p.word(func(r rune) bool { return strings.ContainsRune("<>=!≤≥", r) })
	switch c.Op {
	case "<", "<=", ">", ">=":
	case "":
		return c, p.wrong(start, "after %q comes <, <=, > or >=", c.Name())
	default:
		return c, p.wrong(start, "%q does not compare: write <, <=, > or >=", clip(c.Op))
	}
	start, word = p.word(isLimit)
	if word == "" {
		return c, p.wrong(start, "%q has no limit: %s", c.Name()+" "+c.Op, example(c.Metric))
	}
	if message := c.limit(word); message != "" {
		return c, p.wrong(start, "%s", message)
	}
	start, word = p.word(isLimit)
	if word == "" && p.rest() == "" {
		return c, nil
	}
	if word != "for" {
		return c, p.wrong(start, `%q does not belong here: after the limit comes nothing, or "for 30s"; further clauses are entries of their own`, clip(word))
	}
	start, word = p.word(isLimit)
	span, message := parseDuration(word)
	switch {
	case word == "":
		return c, p.wrong(start, `"for" needs a duration: for 30s`)
	case message != "":
		return c, p.wrong(start, "%s", message)
	}
	c.For = span
	if start, _ = p.word(isLimit); p.rest() != "" || p.at > start {
		return c, p.wrong(start, "%q does not belong here: the clause ends before it", clip(strings.TrimSpace(p.text[start:])))
	}
	return c, nil
}

// limit reads the value that the metric is compared with; the message is empty if it is one.
func (c *Clause) limit(word string) (message string) {
	switch c.Metric {
	case OK:
		digits, ok := strings.CutSuffix(word, "%")
		x, isNumber := decimal(digits)
		switch {
		case !isNumber:
			return fmt.Sprintf("%q is not a share: %s", clip(word), example(OK))
		case !ok:
			return fmt.Sprintf("%q has no unit: write %s%%", word, clip(word))
		case x > 100:
			return fmt.Sprintf("%s is more than all: a share is 0%% to 100%%", clip(word))
		}
		c.Ratio, _ = strconv.ParseFloat(shift(digits, -2), 64)
	case Percentile:
		c.Limit, message = parseDuration(word)
		if message == "" && c.Limit == 0 {
			message = "no latency is below 0: write a limit like 250ms"
		}
	case Upstream:
		digits, ok := strings.CutSuffix(word, "/s")
		x, isNumber := decimal(digits)
		switch {
		case !isNumber:
			return fmt.Sprintf("%q is not a rate: %s", clip(word), example(Upstream))
		case !ok:
			return fmt.Sprintf("%q has no unit: write %s/s", word, clip(word))
		}
		c.PerS = x
	}
	return message
}

func example(m Metric) string {
	switch m {
	case OK:
		return "write one like 99% or 99.9%"
	case Percentile:
		return "write a duration like 250ms or 1.5s"
	}
	return "write one like 2/s"
}

// percentile reads "p95" or "p99.9" as 0.95 or 0.999.
func percentile(word string) (float64, bool) {
	digits, ok := strings.CutPrefix(word, "p")
	if !ok {
		return 0, false
	}
	x, ok := decimal(digits)
	if !ok || x < 1 || x > 99.999 {
		return 0, false
	}
	q, err := strconv.ParseFloat(shift(digits, -2), 64)
	return q, err == nil
}

// decimal reads digits with at most one point; no sign, no exponent.
func decimal(s string) (float64, bool) {
	if strings.Trim(s, "0123456789.") != "" || strings.Count(s, ".") > 1 || strings.Trim(s, ".") == "" ||
		strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || len(s) > 20 {
		return 0, false
	}
	x, err := strconv.ParseFloat(s, 64)
	return x, err == nil && !math.IsInf(x, 0)
}

func parseDuration(word string) (time.Duration, string) {
	d, err := time.ParseDuration(word)
	_, bare := decimal(word)
	switch {
	case bare:
		return 0, fmt.Sprintf("%q has no unit: write %sms or %ss", word, clip(word), clip(word))
	case err != nil:
		return 0, fmt.Sprintf("%q is not a duration: write one like 250ms, 1.5s or 1m30s", clip(word))
	case d < 0:
		return 0, fmt.Sprintf("%s is negative", clip(word))
	}
	return d, ""
}

// word skips white space and takes what belongs together.
func (p *parser) word(part func(rune) bool) (start int, word string) {
	for p.at < len(p.text) {
		r, size := utf8.DecodeRuneInString(p.text[p.at:])
		if !unicode.IsSpace(r) {
			break
		}
		p.at += size
	}
	start = p.at
	for p.at < len(p.text) {
		r, size := utf8.DecodeRuneInString(p.text[p.at:])
		if !part(r) {
			break
		}
		p.at += size
	}
	return start, p.text[start:p.at]
}

func isMetric(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '.' || r == '_' }

func isLimit(r rune) bool { return !unicode.IsSpace(r) }

func (p *parser) rest() string { return p.text[p.at:] }

// foreign is what stands where a metric should, up to a space or an operator.
func (p *parser) foreign(start int) string {
	rest := p.text[start:]
	if i := strings.IndexFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("<>=", r) }); i > 0 {
		return rest[:i]
	}
	return rest
}

func (p *parser) wrong(at int, format string, args ...any) *Error {
	return &Error{Clause: p.text, Column: utf8.RuneCountInString(p.text[:at]) + 1, Message: fmt.Sprintf(format, args...)}
}

func clip(s string) string {
	if utf8.RuneCountInString(s) <= 40 {
		return s
	}
	return string([]rune(s)[:40]) + "…"
}
