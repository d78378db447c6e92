package loadgen

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theory/jsonpath"
)

// Check is a claim about one answer. A request whose answer does not keep it has
// failed, with the class check.
//
//	status == 201
//	latency < 200ms                      since due, as everywhere
//	body contains "completed"            or lacks, matches 'RE2', ==, !=
//	json $.status == "completed"         or != < <= > >=, contains, matches, exists
//	header Location contains "/orders/"  or lacks, matches, ==, !=, exists
//	rows == 1                            that a query returned, or affected
//	value exists                         or missing: what Redis answered is not nil
//
// Text stands in quotes and may be a template; {{.order}} without quotes is equal
// to a text and to a number. A status that a check asks for is good whatever the
// stream's ok says.
type Check struct {
	text    string
	subject string
	path    *jsonpath.Path // of json
	name    string         // of a header, or of the path
	op      string
	want    string         // text, a template
	loose   bool           // want is a template without quotes
	literal bool           // want is true, false or null
	number  *float64       // a number instead
	limit   time.Duration  // of latency
	re      *regexp.Regexp // of matches
}

// checkOps are the operators of each subject.
var checkOps = map[string][]string{
	"status":  {"==", "!=", "<=", ">=", "<", ">"},
	"latency": {"<=", ">=", "<", ">"},
	"body":    {"contains", "lacks", "matches", "==", "!="},
	"json":    {"==", "!=", "<=", ">=", "<", ">", "contains", "lacks", "matches", "exists"},
	"header":  {"contains", "lacks", "matches", "==", "!=", "exists"},

	"rows":     {"==", "!=", "<=", ">=", "<", ">"},
	"affected": {"==", "!=", "<=", ">=", "<", ">"},
	"value":    {"exists", "missing"},
}

// UnmarshalText reads a check; its error tells the place in it.
func (c *Check) UnmarshalText(text []byte) error {
	s := string(text)
	rest := strings.TrimLeft(s, " \t")
	fail := func(format string, args ...any) error {
		return &placedError{len([]rune(s)) - len([]rune(rest)), fmt.Sprintf(format, args...)}
	}
	*c = Check{text: strings.TrimSpace(s)}
	c.subject = rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz"))]
	ops := checkOps[c.subject]
	if ops == nil {
		return fail(`%q is not a check: write one like status == 201, latency < 200ms, body contains "text", json $.status == "done" or header Location exists`, c.text)
	}
	rest = strings.TrimLeft(rest[len(c.subject):], " \t")
	switch c.subject {
	case "json":
		length := pathLength(rest)
		var p JSONPath
		if err := p.UnmarshalText([]byte(rest[:length])); err != nil {
			bad := fail("%v", err).(*placedError)
			bad.offset += err.(*placedError).offset
			return bad
		}
		c.path, c.name = p.path, p.text
		rest = strings.TrimLeft(rest[length:], " \t")
	case "header":
		c.name, _, _ = strings.Cut(rest, " ")
		if checkHeader(c.name, "") == "is not a header name" {
			return fail("%q is not a header name", c.name)
		}
		rest = strings.TrimLeft(rest[len(c.name):], " \t")
	}
	for _, op := range ops {
		after, ok := strings.CutPrefix(rest, op)
		if ok && (op[0] < 'a' || strings.TrimLeft(after, " \t\"'{") != after || after == "") {
			c.op = op
			break
		}
	}
	if c.op == "" {
		return fail("%s takes one of %s", c.subject, strings.Join(ops, " "))
	}
	rest = strings.TrimLeft(rest[len(c.op):], " \t")
	value := strings.TrimRight(rest, " \t")
	if c.op == "exists" || c.op == "missing" {
		if value != "" {
			return fail("nothing stands after %s", c.op)
		}
		return nil
	}
	if err := c.takeValue(value); err != nil {
		return fail("%v", err)
	}
	return nil
}

// pathLength is how long the JSONPath is that s begins with: up to a space or an
// operator that stands in no bracket and no quotes.
func pathLength(s string) int {
	depth, quote := 0, byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case depth > 0 && (c == '"' || c == '\''):
			quote = c
		case c == '[' || c == '(':
			depth++
		case c == ']' || c == ')':
			depth--
		case depth <= 0 && strings.IndexByte(" \t=!<>", c) >= 0:
			return i
		}
	}
	return len(s)
}

// takeValue reads what stands after the operator.
func (c *Check) takeValue(v string) (err error) {
	quoted := len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0]
	switch {
	case c.subject == "status":
		n, err := strconv.Atoi(v)
		if err != nil || n < 100 || n > 999 {
			return fmt.Errorf("%q is not a status code: write status %s 201", v, c.op)
		}
		x := float64(n)
		c.number = &x
		return nil
	case c.subject == "rows", c.subject == "affected":
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no number of rows: write %s %s 1", v, c.subject, c.op)
		}
		x := float64(n)
		c.number = &x
		return nil
	case c.subject == "latency":
		if c.limit, err = time.ParseDuration(v); err != nil || c.limit <= 0 {
			return fmt.Errorf("%q is not a duration: write latency %s 200ms", v, c.op)
		}
		return nil
	case quoted && v[0] == '"':
		if json.Unmarshal([]byte(v), &c.want) != nil {
			return fmt.Errorf("%s is no text: within double quotes, write \\\" and \\\\ for those two", v)
		}
	case quoted:
		c.want = v[1 : len(v)-1]
	case strings.HasPrefix(v, "{{") && strings.HasSuffix(v, "}}"):
		c.want, c.loose = v, true
	case c.subject == "json" && (v == "true" || v == "false" || v == "null"):
		c.want, c.literal = v, true
	default:
		x, err := strconv.ParseFloat(v, 64)
		if c.subject != "json" || err != nil {
			return fmt.Errorf("%q is no text: put it in quotes", v)
		}
		c.number = &x
	}
	switch {
	case c.op == "matches":
		if c.re, err = regexp.Compile(c.want); err != nil {
			return fmt.Errorf("%q is not a regular expression: %w", c.want, err)
		}
		if c.number != nil || c.loose || c.literal {
			return errors.New("put the regular expression in quotes")
		}
		c.want = ""
	case c.number == nil && strings.ContainsAny(c.op, "<>"):
		return fmt.Errorf("%s compares with a number", c.op)
	case c.number != nil && (c.op == "contains" || c.op == "lacks"):
		return fmt.Errorf("%s takes text: put it in quotes", c.op)
	}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (c Check) MarshalText() ([]byte, error) { return []byte(c.text), nil }

func (c Check) String() string { return c.text }

func (c Check) ofBody() bool {
	return c.subject == "body" || c.subject == "json" || c.subject == "value" && c.op == "missing"
}

// holds says what is so instead, if the check does not hold. want is the check's
// text, rendered.
func (c Check) holds(r *reply, status int, latency time.Duration, want string) (instead string) {
	switch c.subject {
	case "status":
		if !ordered(float64(status), c.op, *c.number) {
			return strconv.Itoa(status)
		}
	case "latency":
		if !ordered(float64(latency), c.op, float64(c.limit)) {
			return latency.String()
		}
	case "rows":
		if !ordered(float64(r.rows), c.op, *c.number) {
			return strconv.FormatInt(r.rows, 10)
		}
	case "affected":
		if !ordered(float64(r.affected), c.op, *c.number) {
			return strconv.FormatInt(r.affected, 10)
		}
	case "value":
		switch {
		case r.null && c.op == "exists":
			return "nil"
		case !r.null && c.op == "missing":
			return excerpt(r.body)
		}
	case "body":
		body, err := r.content()
		if err != nil {
			return err.Error()
		}
		if !c.textHolds(string(body), want) {
			return excerpt(body)
		}
	case "header":
		v, ok := r.header(c.name)
		switch {
		case c.op == "exists" && ok:
		case !ok:
			return "the answer has no such header"
		case !c.textHolds(v, want):
			return strconv.Quote(v)
		}
	case "json":
		found, err := r.query(c.path)
		switch {
		case err != nil:
			return err.Error()
		case len(found) == 0:
			return "there is nothing in the body " + excerpt(r.body)
		case c.op == "exists":
		case !c.nodeHolds(found[0], want):
			text, _ := json.Marshal(found[0])
			return excerpt(text)
		}
	}
	return ""
}

func (c Check) textHolds(text, want string) bool {
	switch c.op {
	case "contains":
		return strings.Contains(text, want)
	case "lacks":
		return !strings.Contains(text, want)
	case "matches":
		return c.re.MatchString(text)
	case "!=":
		return text != want
	}
	return text == want
}

// nodeHolds compares a JSON value: with a number by value, with text as text, and
// with neither of them if it is of another kind.
func (c Check) nodeHolds(node any, want string) bool {
	n, isNumber := node.(json.Number)
	_, isText := node.(string)
	switch {
	case c.number != nil:
		x, err := n.Float64()
		if !isNumber || err != nil {
			return c.op == "!="
		}
		return ordered(x, c.op, *c.number)
	case slices.Contains([]string{"contains", "lacks", "matches"}, c.op), c.loose:
		return c.textHolds(nodeText(node), want)
	case c.literal == isText: // text against true, or the other way round
		return c.op == "!="
	}
	return c.textHolds(nodeText(node), want)
}

func ordered(a float64, op string, b float64) bool {
	switch op {
	case "==":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	}
	return a >= b
}
