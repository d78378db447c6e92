package scenarios

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/loadgen"
	"github.com/chaosctl/chaosctl/loadgen/arrival"
	"github.com/chaosctl/chaosctl/scenarios/expect"
	"github.com/chaosctl/chaosctl/targets"
	"github.com/chaosctl/chaosctl/targets/metrics"
	"github.com/chaosctl/chaosctl/targets/pattern"
)

// Schema is the JSON Schema (draft 2020-12) of a scenario file, for editors: it is
// made from the structs that the file is decoded into. It knows keys, kinds and
// the form of texts; what the parts of a file say of one another only Parse checks.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[file](), nil)
	s.Version = jsonschema.Version
	s.ID = "https://github.com/chaosctl/chaosctl/scenario.schema.json"
	s.Title = "chaosctl scenario"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	return append(b, '\n'), nil
}

// schemaOf reflects one type by the rules of package strict. plain, if not nil, is
// the one type whose short form is left out this time.
func schemaOf(t reflect.Type, plain reflect.Type) *jsonschema.Schema {
	r := &jsonschema.Reflector{
		Anonymous:                  true,
		DoNotReference:             true,
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		LookupComment:              describe,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			if t == plain {
				return nil
			}
			return special(t)
		},
	}
	s := r.ReflectFromType(t)
	s.Version = ""
	finish(t, s)
	return s
}

// special is the schema of a type that is not written as Go's structs suggest.
func special(t reflect.Type) *jsonschema.Schema {
	if form, ok := textForms[t]; ok {
		return form.schema()
	}
	if short, ok := shortForms[t]; ok {
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{short.schema(), schemaOf(t, t)}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return schemaOf(t, t)
	case reflect.Slice:
		if slices.Contains(namedTypes(), t) {
			return &jsonschema.Schema{
				Type:                 "object",
				PropertyNames:        nameOf(t.Elem()),
				AdditionalProperties: special(t.Elem()),
			}
		}
		if t.Elem().Kind() == reflect.String {
			return &jsonschema.Schema{Type: "array", Items: textOrNumber()}
		}
	case reflect.Map:
		if _, own := textForms[t.Elem()]; t.Elem().Kind() == reflect.String && !own {
			return &jsonschema.Schema{Type: "object", AdditionalProperties: textOrNumber()}
		}
		s := &jsonschema.Schema{Type: "object", AdditionalProperties: special(t.Elem())}
		if t.Elem() == reflect.TypeFor[pattern.Spec]() {
			s.PropertyNames = edgePattern.schema()
		}
		return s
	}
	return nil
}

// finish adds what the reflector does not see: the required keys.
func finish(t reflect.Type, s *jsonschema.Schema) {
	if t.Kind() != reflect.Struct || s.Properties == nil {
		return
	}
	s.Required = slices.Clone(required[t])
	for i := range t.NumField() {
		key, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if slices.Contains(strings.Split(options, ","), "required") {
			s.Required = append(s.Required, key)
		}
	}
}

// required are the keys that a part's own Check asks for.
var required = map[reflect.Type][]string{
	reflect.TypeFor[loadgen.Spec]():       {"to"},
	reflect.TypeFor[loadgen.Ramp]():       {"over"},
	reflect.TypeFor[loadgen.Stage]():      {"for"},
	reflect.TypeFor[faults.Latency]():     {"delay"},
	reflect.TypeFor[faults.Bandwidth]():   {"rate"},
	reflect.TypeFor[faults.Partition]():   {"from", "to"},
	reflect.TypeFor[loadgen.Step]():       {"by", "every", "to"},
	reflect.TypeFor[loadgen.Spike]():      {"peak", "for"},
	reflect.TypeFor[loadgen.Sine]():       {"mean", "amplitude", "period"},
	reflect.TypeFor[loadgen.Replay]():     {"file"},
	reflect.TypeFor[faults.Pulse]():       {"active", "pause"},
	reflect.TypeFor[faults.SlowConnect](): {"delay"},
	reflect.TypeFor[faults.SlowClose]():   {"delay"},
	reflect.TypeFor[faults.Slice]():       {"average"},
	reflect.TypeFor[faults.Loss]():        {"percent"},
	reflect.TypeFor[faults.Corrupt]():     {"percent"},
	reflect.TypeFor[faults.Limit]():       {"bytes"},
}

// namedTypes are the lists that files write as mappings.
func namedTypes() []reflect.Type {
	var all []reflect.Type
	t := reflect.TypeFor[file]()
	for i := range t.NumField() {
		_, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if slices.Contains(strings.Split(options, ","), "named") {
			all = append(all, t.Field(i).Type)
		}
	}
	return all
}

func nameOf(t reflect.Type) *jsonschema.Schema {
	if t == reflect.TypeFor[breakerExpectation]() || t == reflect.TypeFor[edgeSettings]() {
		return edgePattern.schema()
	}
	return &jsonschema.Schema{Pattern: namePattern.String()}
}

// form is a text with rules of its own.
type form struct {
	description string
	pattern     string
	numbers     bool // YAML may read it as a number: percent: 50
	examples    []any
}

func (f form) schema() *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string", Pattern: f.pattern, Description: f.description, Examples: f.examples}
	if f.numbers {
		s.Type = ""
		s.Pattern, s.Description, s.Examples = "", "", nil
		return &jsonschema.Schema{Description: f.description, Examples: f.examples, AnyOf: []*jsonschema.Schema{
			{Type: "number", Minimum: "0"}, {Type: "string", Pattern: f.pattern},
		}}
	}
	return s
}

const (
	durationPattern = `^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*$`
	modes           = `^\s*(off|textbook|hardened)\s*$`
)

var edgePattern = form{pattern: `^\s*[^\s>-].*->.*\S\s*$`, examples: []any{"orders -> payments"}}

// textForms are the types that are always written as text.
var textForms = map[reflect.Type]form{
	reflect.TypeFor[time.Duration]():    {pattern: durationPattern, examples: []any{"800ms", "2s", "1m30s"}},
	reflect.TypeFor[pattern.Timeout]():  {pattern: `^off$|` + durationPattern, examples: []any{"500ms", "off"}},
	reflect.TypeFor[pattern.Mode]():     {pattern: `^(off|textbook|hardened)$`, examples: []any{"off", "textbook", "hardened"}},
	reflect.TypeFor[pattern.Sagas]():    {pattern: `^(durable|memory)$`, examples: []any{"durable", "memory"}},
	reflect.TypeFor[arrival.Rate]():     {pattern: `^[^/]+/\s*(s|m|h)\s*$`, examples: []any{"200/s", "30/m", "100/h"}},
	reflect.TypeFor[arrival.Spacing]():  {pattern: `^(even|poisson)$`, examples: []any{"even", "poisson"}},
	reflect.TypeFor[arrival.Phase]():    {pattern: `^(mean-up|peak|mean-down|trough)$`, examples: []any{"mean-up", "trough"}},
	reflect.TypeFor[loadgen.Order]():    {pattern: `^(mixed|listed)$`, examples: []any{"mixed", "listed"}},
	reflect.TypeFor[loadgen.Protocol](): {pattern: `^(` + strings.Join(loadgen.Protocols(), "|") + `)$`, examples: []any{"auto", "http1"}},
	reflect.TypeFor[loadgen.StatusSet](): {pattern: `^\s*([1-5]xx|[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?|[A-Z_]+)\s*$`, numbers: true,
		examples: []any{"2xx", 402, "200-399", "NOT_FOUND"}},
	reflect.TypeFor[loadgen.RowOrder](): {pattern: `^(sequential|random|unique)$`, examples: []any{"sequential", "random", "unique"}},
	reflect.TypeFor[loadgen.Database](): {pattern: `^.*$`, numbers: true, examples: []any{"orders", 1}},
	reflect.TypeFor[loadgen.JSONPath](): {pattern: `^\$`, examples: []any{"$.order", "$.items[0].id"}},
	reflect.TypeFor[loadgen.Pattern]():  {examples: []any{`id=(\d+)`}},
	reflect.TypeFor[loadgen.Check](): {
		pattern:     `^\s*(status|latency|body|json|header|rows|affected|value)\b`,
		description: "A check: status == 201, latency < 200ms, body contains \"text\", json $.status == \"done\", header Location exists, rows == 1, value exists.",
		examples:    []any{"status == 201", "latency < 200ms", `body contains "completed"`, `json $.status == "completed"`, "header Location exists"},
	},
	reflect.TypeFor[faults.Percent]():  {pattern: `^\s*[0-9.]+\s*%?\s*$`, numbers: true, examples: []any{50, "0.5%"}},
	reflect.TypeFor[faults.Shift]():    {pattern: `^\s*[+-]?([0-9.]+(ns|us|µs|μs|ms|s|m|h))+\s*$|^\s*[+-]?0\s*$`, examples: []any{"5m", "-1h"}},
	reflect.TypeFor[faults.Pick]():     {pattern: `^\s*([0-9]+|[0-9.]+\s*%|all)\s*$`, numbers: true, examples: []any{1, "50%", "all"}},
	reflect.TypeFor[faults.Bytes]():    {pattern: `^\s*[0-9.]+\s*[A-Za-z]+\s*$`, numbers: true, examples: []any{"0 B", "64KB", "64KiB"}},
	reflect.TypeFor[faults.ByteRate](): {pattern: `^\s*[0-9.]+\s*[A-Za-z]+\s*/\s*s\s*$`, examples: []any{"100KB/s", "1MiB/s"}},
	reflect.TypeFor[faults.Source]():   {pattern: `^\s*[0-9A-Fa-f.:]+(/[0-9]+)?\s*$`, examples: []any{"10.0.0.0/8", "2001:db8::/32", "10.1.2.3"}},
	reflect.TypeFor[metrics.Kind]():    {pattern: `^(resilience4j|envoy|opossum|failsafe)$`, examples: []any{"resilience4j", "envoy", "opossum", "failsafe"}},
	reflect.TypeFor[share]():           {pattern: `^\s*[0-9.]+\s*%\s*$`, examples: []any{"99.9%"}},
	reflect.TypeFor[window]():          {pattern: `^\s*[0-9][0-9a-zµμ.]*[a-z]\s*$`, examples: []any{"30d", "4w", "1h", "5m"}},
	reflect.TypeFor[indicator]():       {pattern: `^\s*ok(\s+within\s+\S+)?\s*$`, examples: []any{"ok", "ok within 300ms"}},
	reflect.TypeFor[confidence]():      {pattern: `^[0-9.]+%$`, examples: []any{"95%", "99%"}},
	reflect.TypeFor[expect.Clause](): {
		pattern:     `^\s*(ok|upstream|p[0-9.]+)\s*(<|<=|>|>=)\s*\S+(\s+for\s+\S+)?\s*$`,
		description: "A clause: METRIC OP LIMIT.",
		examples:    []any{"ok >= 99%", "p95 < 250ms", "upstream <= 2/s", "ok < 5% for 30s"},
	},
}

// shortForms are the structs that may be written as text.
var shortForms = map[reflect.Type]form{
	reflect.TypeFor[targets.TLSSpec]():      {pattern: `^(tls|plain|passthrough)$`, examples: []any{"tls", "plain", "passthrough"}},
	reflect.TypeFor[targets.AbsentSpec]():   {pattern: `^(refused|[2-5][0-9]{2})$`, numbers: true, examples: []any{503, "refused"}},
	reflect.TypeFor[targets.ReadySpec]():    {pattern: `^\s*(GET\s+/\S*|tcp|udp)\s*$`, examples: []any{"GET /healthz", "tcp", "udp"}},
	reflect.TypeFor[loadgen.Request]():      {pattern: `\S`, examples: []any{"POST /checkout", "GET key-{{int 1 100}}", "select 1", "grpc.health.v1.Health/Check"}},
	reflect.TypeFor[loadgen.SessionStep]():  {pattern: `\S`, examples: []any{"GET /orders/{{.order}}"}},
	reflect.TypeFor[loadgen.Reply]():        {pattern: `^\s*close\s*$`, examples: []any{"close"}},
	reflect.TypeFor[pattern.Spec]():         {pattern: modes, examples: []any{"off", "textbook", "hardened"}},
	reflect.TypeFor[pattern.RetrySpec]():    {pattern: modes, examples: []any{"off", "textbook", "hardened"}},
	reflect.TypeFor[pattern.BreakerSpec]():  {pattern: modes, examples: []any{"off", "textbook", "hardened"}},
	reflect.TypeFor[pattern.BulkheadSpec](): {pattern: modes, examples: []any{"off", "hardened"}},
}

// textOrNumber is an element of a list or mapping of texts: 8080 is taken as written.
func textOrNumber() *jsonschema.Schema {
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "number"}}}
}

// describe is the description of a field: its doc tag, or its line in descriptions.
// The reflector also asks about types as such (no name); they have none.
func describe(t reflect.Type, name string) string {
	if name == "" || t.Kind() != reflect.Struct {
		return ""
	}
	if f, ok := t.FieldByName(name); ok {
		if doc := f.Tag.Get("doc"); doc != "" {
			return doc
		}
	}
	return descriptions[t.String()+"."+name]
}
