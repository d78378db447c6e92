package draft

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/chaosctl/chaosctl/loadgen"
)

// FromOpenAPI makes a mix of the operations of an OpenAPI description, 3.0 or 3.1,
// in YAML or JSON: those that only read (GET), unless more is asked for. Values come
// from examples and defaults, else from schemas, as templates. The description is
// not validated: what of it cannot be understood is left out, by name.
func FromOpenAPI(name string, src []byte, o Options) (Draft, error) {
	doc, err := decode(src)
	if err != nil {
		return Draft{}, fmt.Errorf("%s: %w", name, err)
	}
	version := text(doc["openapi"])
	switch {
	case doc["swagger"] != nil:
		return Draft{}, fmt.Errorf("%s is Swagger %s; OpenAPI 3.0 and 3.1 can be read: convert it first", name, text(doc["swagger"]))
	case !strings.HasPrefix(version, "3.0") && !strings.HasPrefix(version, "3.1"):
		return Draft{}, fmt.Errorf("%s is no OpenAPI description of version 3.0 or 3.1: it has openapi: %q", name, version)
	}
	a := &api{doc: doc, options: o}
	info, _ := doc["info"].(map[string]any)
	title := cmp.Or(text(info["title"]), name)
	a.out = stream{
		head: []string{
			fmt.Sprintf("A first scenario for %q %s, made from %s (OpenAPI %s).", title, text(info["version"]), name, version),
			"Change what is asked and how often, then: chaosctl validate, plan, run.",
		},
		scenario: nameOf(title, "-", "api"), address: o.address(), name: "mix", rate: "20/s",
	}
	a.servers()
	a.paths()
	if len(a.out.requests) == 0 {
		return Draft{}, fmt.Errorf("%s: no operation can be asked: %s", name, cmp.Or(strings.Join(a.out.left, "; "), "it has none"))
	}
	return a.out.draft(), nil
}

// decode reads JSON or YAML.
func decode(src []byte) (doc map[string]any, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) {
		in := json.NewDecoder(bytes.NewReader(src))
		in.UseNumber()
		if err = in.Decode(&doc); err == nil {
			if _, more := in.Token(); !errors.Is(more, io.EOF) {
				err = errors.New("there is more after the JSON")
			}
		}
		return doc, err
	}
	if err := yaml.Unmarshal(src, &doc); err != nil {
		return nil, err
	}
	if doc == nil {
		return nil, errors.New("it holds no mapping")
	}
	return doc, nil
}

// api is a description on its way to a draft.
type api struct {
	doc     map[string]any
	options Options
	prefix  string // of all paths
	out     stream
	notes   []string // on the operation that is looked at
}

// servers takes the path of the first server, and tells where it is.
func (a *api) servers() {
	all, _ := a.doc["servers"].([]any)
	if len(all) == 0 {
		a.out.service = []string{"Where does an instance of your own listen?"}
		return
	}
	first, _ := all[0].(map[string]any)
	at := text(first["url"])
	variables, _ := first["variables"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		v, _ := variables[name].(map[string]any)
		at = strings.ReplaceAll(at, "{"+name+"}", text(v["default"]))
	}
	a.out.service = []string{fmt.Sprintf("The description says %s. Where does an instance of your own listen?", at)}
	if u, err := url.Parse(at); err == nil && !strings.ContainsAny(u.Path, "{}") {
		a.prefix = strings.TrimRight(u.EscapedPath(), "/")
		if u.Scheme == "https" {
			a.out.service = append(a.out.service, "It speaks https there; here it is asked in the clear.")
		}
	}
}

// verbs are the methods of a path, those that read first.
var verbs = []string{"get", "post", "put", "patch", "delete", "head", "options", "trace"}

func (a *api) paths() {
	paths, _ := a.doc["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item, _ := a.resolve(paths[path]).(map[string]any)
		for _, verb := range verbs {
			operation, ok := item[verb].(map[string]any)
			if !ok {
				continue
			}
			what := strings.ToUpper(verb) + " " + path
			switch {
			case verb == "head", verb == "options", verb == "trace":
				a.leave(what, "it answers without content")
				continue
			case verb != "get" && !a.options.IncludeWrites:
				a.leave(what, "it writes; --include-writes takes it in")
				continue
			}
			a.notes = nil
			r, err := a.operation(path, verb, item, operation)
			if err != nil {
				a.leave(what, err.Error())
				continue
			}
			if problem := r.problem(a.out.secrets); problem != "" {
				a.leave(what, problem)
				continue
			}
			r.comments = append(r.comments, a.notes...)
			a.out.requests = append(a.out.requests, r)
		}
	}
}

func (a *api) leave(what, why string) { a.out.left = append(a.out.left, what+": "+why) }

func (a *api) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(a.notes, n) {
		a.notes = append(a.notes, n)
	}
}

func (a *api) operation(path, verb string, item, op map[string]any) (request, error) {
	r := request{method: strings.ToUpper(verb), weight: true}
	if title := cmp.Or(text(op["summary"]), text(op["operationId"])); title != "" {
		r.comments = append(r.comments, strings.Split(title, "\n")[0])
	}
	if op["deprecated"] == true {
		r.comments = append(r.comments, "It is deprecated.")
	}
	full := a.prefix + path
	var query []string
	for _, p := range a.parameters(item, op) {
		name, in := text(p["name"]), text(p["in"])
		if in != "path" && p["required"] != true {
			continue
		}
		switch in {
		case "path":
			full = strings.ReplaceAll(full, "{"+name+"}", a.value(p, name, inPath))
		case "query":
			query = append(query, url.QueryEscape(name)+"="+a.value(p, name, inPath))
		case "header":
			if !slices.Contains([]string{"accept", "content-type", "authorization"}, strings.ToLower(name)) {
				r.headers = append(r.headers, [2]string{name, a.value(p, name, inText)})
			}
		case "cookie":
			r.headers = append(r.headers, [2]string{"Cookie", name + "=" + a.value(p, name, inPath)})
		}
	}
	rest := full
	for strings.Contains(rest, "{{") { // what templates there are
		i := strings.Index(rest, "{{")
		j := strings.Index(rest[i:], "}}")
		rest = rest[:i] + rest[i+j+2:]
	}
	if i := strings.IndexByte(rest, '{'); i >= 0 {
		return r, fmt.Errorf("nothing is said of %s in its path", rest[i:i+strings.IndexByte(rest[i:]+"}", '}')+1])
	}
	var err error
	if query, err = a.security(op, &r, query); err != nil {
		return r, err
	}
	r.path = full
	if len(query) > 0 {
		r.path += "?" + strings.Join(query, "&")
	}
	return r, a.body(op, &r)
}

// parameters are those of the operation, and those of its path that it does not
// replace.
func (a *api) parameters(item, op map[string]any) []map[string]any {
	var all []map[string]any
	seen := map[string]bool{}
	for _, of := range []map[string]any{op, item} {
		list, _ := of["parameters"].([]any)
		for _, p := range list {
			m, ok := a.resolve(p).(map[string]any)
			key := text(m["in"]) + " " + text(m["name"])
			if ok && !seen[key] {
				seen[key] = true
				all = append(all, m)
			}
		}
	}
	return all
}

// security puts in a secret for what the operation asks for: of several ways the
// first.
func (a *api) security(op map[string]any, r *request, query []string) ([]string, error) {
	ways, ok := op["security"].([]any)
	if !ok {
		ways, _ = a.doc["security"].([]any)
	}
	if len(ways) == 0 {
		return query, nil
	}
	way, _ := ways[0].(map[string]any)
	components, _ := a.doc["components"].(map[string]any)
	schemes, _ := components["securitySchemes"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(way)) {
		scheme, _ := a.resolve(schemes[name]).(map[string]any)
		kind, in := text(scheme["type"]), text(scheme["in"])
		http := strings.ToLower(text(scheme["scheme"]))
		switch {
		case kind == "http" && http == "basic":
			user, password := a.out.addSecret(name+" user"), a.out.addSecret(name+" password")
			r.auth = fmt.Sprintf(`{ basic: { user: "{{.secret.%s}}", password: "{{.secret.%s}}" } }`, user, password)
		case kind == "http" && http == "bearer", kind == "oauth2", kind == "openIdConnect":
			r.auth = fmt.Sprintf(`{ bearer: "{{.secret.%s}}" }`, a.out.addSecret(name))
		case kind == "apiKey" && in == "header":
			r.headers = append(r.headers, [2]string{text(scheme["name"]), "{{.secret." + a.out.addSecret(name) + "}}"})
		case kind == "apiKey" && in == "query":
			query = append(query, url.QueryEscape(text(scheme["name"]))+"={{urlquery .secret."+a.out.addSecret(name)+"}}")
		case kind == "apiKey" && in == "cookie":
			r.headers = append(r.headers, [2]string{"Cookie", text(scheme["name"]) + "={{.secret." + a.out.addSecret(name) + "}}"})
		default:
			return query, fmt.Errorf("it asks for %q, of a kind (%s) that is not known here", name, strings.TrimSpace(kind+" "+http))
		}
	}
	return query, nil
}

// body takes the first content that can be written.
func (a *api) body(op map[string]any, r *request) error {
	described, ok := a.resolve(op["requestBody"]).(map[string]any)
	if !ok {
		return nil
	}
	content, _ := described["content"].(map[string]any)
	for _, kind := range slices.Sorted(maps.Keys(content)) {
		media, _ := a.resolve(content[kind]).(map[string]any)
		base, _, _ := strings.Cut(kind, ";")
		if base == "application/json" || strings.HasSuffix(base, "+json") {
			r.headers = append(r.headers, [2]string{"Content-Type", kind})
			if example, ok := a.example(media); ok {
				r.body = loadgen.Literal(compact(example))
			} else {
				r.body = a.json(media["schema"], "", 0)
			}
			return nil
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(content)) {
		media, _ := a.resolve(content[kind]).(map[string]any)
		example, ok := a.example(media)
		switch {
		case strings.HasPrefix(kind, "application/x-www-form-urlencoded"):
			r.headers = append(r.headers, [2]string{"Content-Type", kind})
			schema, _ := a.resolve(media["schema"]).(map[string]any)
			var fields []string
			for _, name := range a.wanted(schema) {
				properties, _ := schema["properties"].(map[string]any)
				fields = append(fields, url.QueryEscape(name)+"="+a.fromSchema(properties[name], name, inPath))
			}
			r.body = strings.Join(fields, "&")
			return nil
		case strings.HasPrefix(kind, "text/") && ok:
			r.headers = append(r.headers, [2]string{"Content-Type", kind})
			r.body = loadgen.Literal(text(example))
			return nil
		}
	}
	if described["required"] != true {
		a.note("Its body is left out: %s cannot be made up.", strings.Join(slices.Sorted(maps.Keys(content)), ", "))
		return nil
	}
	return fmt.Errorf("its body is %s, which cannot be made up", strings.Join(slices.Sorted(maps.Keys(content)), ", "))
}

// example is what a parameter or a content gives as one.
func (a *api) example(of map[string]any) (any, bool) {
	if v, ok := of["example"]; ok {
		return v, true
	}
	switch all := of["examples"].(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(all)) {
			e, _ := a.resolve(all[name]).(map[string]any)
			if v, ok := e["value"]; ok {
				return v, true
			}
		}
	case []any: // of a schema, in 3.1
		if len(all) > 0 {
			return all[0], true
		}
	}
	return nil, false
}

// where a value goes, and so what may stand in it.
type where int

const (
	inPath where = iota // or a query, or a form
	inText              // a header
	inJSON              // within quotes
)

func (w where) literal(s string) string {
	switch w {
	case inPath:
		return loadgen.Literal(strings.ReplaceAll(url.QueryEscape(s), "+", "%20"))
	case inJSON:
		quoted, _ := json.Marshal(s)
		return loadgen.Literal(string(quoted[1 : len(quoted)-1]))
	}
	return loadgen.Literal(plain(s))
}

// value is that of a parameter, as a template.
func (a *api) value(p map[string]any, name string, w where) string {
	if v, ok := a.example(p); ok {
		return w.literal(text(v))
	}
	schema := p["schema"]
	if schema == nil { // content instead
		content, _ := p["content"].(map[string]any)
		for _, kind := range slices.Sorted(maps.Keys(content)) {
			media, _ := content[kind].(map[string]any)
			schema = media["schema"]
		}
	}
	return a.fromSchema(schema, name, w)
}

// fixed is the value that a schema itself gives, if it does.
func (a *api) fixed(schema map[string]any) (any, bool) {
	for _, key := range []string{"const", "example"} {
		if v, ok := schema[key]; ok {
			return v, true
		}
	}
	if v, ok := a.example(schema); ok {
		return v, true
	}
	v, ok := schema["default"]
	return v, ok && v != nil
}

// fromSchema makes up a text.
func (a *api) fromSchema(of any, name string, w where) string {
	schema := a.schema(of, 0)
	if v, ok := a.fixed(schema); ok {
		return w.literal(text(v))
	}
	if all, ok := schema["enum"].([]any); ok && len(all) > 0 {
		return pick(all, w)
	}
	low, high := 1, 100
	switch kind(schema) {
	case "integer", "number":
		low, high = bounds(schema)
		return fmt.Sprintf("{{int %d %d}}", low, high)
	case "boolean":
		return `{{pick "true" "false"}}`
	case "array":
		return a.fromSchema(schema["items"], name, w)
	}
	if pattern := text(schema["pattern"]); pattern != "" {
		a.note("%s is to match %s: write a value that does.", name, pattern)
	}
	if made, ok := formats[text(schema["format"])]; ok {
		return made
	}
	low, high = size(schema, "minLength", 0), size(schema, "maxLength", 1000)
	switch lower := strings.ToLower(name); {
	case low > 12 || high < 8:
		return fmt.Sprintf("{{letters %d}}", max(1, min(max(low, 3), high)))
	case strings.HasSuffix(lower, "uuid"):
		return "{{uuid}}"
	case strings.Contains(lower, "email"):
		return "{{email}}"
	case strings.HasSuffix(lower, "name") && w != inPath:
		return "{{name}}"
	case low > 3:
		return fmt.Sprintf("{{letters %d}}", low)
	}
	return "{{word}}"
}

// formats are those of texts for which there is a function, or one good value.
var formats = map[string]string{
	"uuid": "{{uuid}}", "email": "{{email}}", "date-time": "{{now}}", "date": "2026-01-31", "time": "12:00:00Z", "duration": "PT1M",
	"uri": "https://example.com/{{word}}", "url": "https://example.com/{{word}}", "hostname": "example.com", "ipv4": "192.0.2.1",
	"ipv6": "2001:db8::1", "byte": "aGVsbG8=", "password": "{{letters 12}}",
}

// pick is one of an enum.
func pick(all []any, w where) string {
	var values []string
	for _, v := range all {
		if v == nil {
			continue
		}
		s := text(v)
		if s == "" || w.literal(s) != s || strings.Contains(s, "{{") {
			return w.literal(text(all[0]))
		}
		values = append(values, strconv.Quote(s))
	}
	if len(values) < 2 {
		return w.literal(text(all[0]))
	}
	return "{{pick " + strings.Join(values, " ") + "}}"
}

const deepest = 4 // of nested objects that are made up

// json makes up a JSON text.
func (a *api) json(of any, name string, depth int) string {
	schema := a.schema(of, 0)
	if v, ok := a.fixed(schema); ok {
		return loadgen.Literal(compact(v))
	}
	if all, ok := schema["enum"].([]any); ok && len(all) > 0 {
		if _, isText := all[0].(string); isText {
			return `"` + pick(all, inJSON) + `"`
		}
		return loadgen.Literal(compact(all[0]))
	}
	switch kind(schema) {
	case "object":
		var fields []string
		properties, _ := schema["properties"].(map[string]any)
		for _, key := range a.wanted(schema) {
			if depth < deepest {
				fields = append(fields, loadgen.Literal(compact(key))+":"+a.json(properties[key], key, depth+1))
			}
		}
		return closed("{", strings.Join(fields, ","), "}")
	case "array":
		if depth >= deepest {
			return "[]"
		}
		items := make([]string, max(1, min(size(schema, "minItems", 1), 10)))
		for i := range items {
			items[i] = a.json(schema["items"], name, depth+1)
		}
		return closed("[", strings.Join(items, ","), "]")
	case "integer", "number", "boolean":
		return a.fromSchema(schema, name, inJSON)
	case "null":
		return "null"
	}
	return `"` + a.fromSchema(schema, name, inJSON) + `"`
}

// closed keeps brackets apart that would otherwise begin or end a template's action.
func closed(left, inner, right string) string {
	if strings.HasPrefix(inner, "{") && left == "{" {
		left = "{ "
	}
	if strings.HasSuffix(inner, "}") && right == "}" && !strings.HasSuffix(inner, "}}") {
		right = " }"
	}
	return left + inner + right
}

// wanted are the properties that are asked for: the required ones, or all if none is;
// those that only answers have are not.
func (a *api) wanted(schema map[string]any) []string {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		p := a.schema(properties[name], 0)
		if p["readOnly"] == true || len(required) > 0 && !slices.ContainsFunc(required, func(r any) bool { return text(r) == name }) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// schema follows references, joins allOf, and takes the first of alternatives.
func (a *api) schema(of any, depth int) map[string]any {
	m, _ := a.resolve(of).(map[string]any)
	if depth > 20 || m == nil {
		return map[string]any{}
	}
	all, _ := m["allOf"].([]any)
	for _, key := range []string{"oneOf", "anyOf"} {
		if some, ok := m[key].([]any); ok && len(some) > 0 {
			all = append(all, some[0])
		}
	}
	if len(all) == 0 {
		return m
	}
	joined := map[string]any{}
	for _, part := range append(all, map[string]any(nil)) {
		p := a.schema(part, depth+1)
		if part == nil || len(p) == 0 {
			continue
		}
		join(joined, p)
	}
	join(joined, m)
	return joined
}

func join(into, m map[string]any) {
	for key, v := range m {
		switch key {
		case "allOf", "oneOf", "anyOf":
		case "properties":
			merged := map[string]any{}
			old, _ := into[key].(map[string]any)
			maps.Copy(merged, old)
			its, _ := v.(map[string]any)
			maps.Copy(merged, its)
			into[key] = merged
		case "required":
			old, _ := into[key].([]any)
			its, _ := v.([]any)
			into[key] = append(slices.Clone(old), its...)
		default:
			into[key] = v
		}
	}
}

// resolve follows references within the document; to others it does not.
func (a *api) resolve(v any) any {
	for range 20 {
		m, ok := v.(map[string]any)
		ref := text(m["$ref"])
		if !ok || ref == "" {
			return v
		}
		path, ok := strings.CutPrefix(ref, "#/")
		if !ok {
			a.note("%s is in another file, which is not read.", ref)
			return nil
		}
		v = a.doc
		for part := range strings.SplitSeq(path, "/") {
			part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
			if plain, err := url.PathUnescape(part); err == nil {
				part = plain
			}
			m, _ := v.(map[string]any)
			v = m[part]
		}
	}
	return nil // in a circle
}

// kind is the type of a schema; in 3.1 there may be several.
func kind(schema map[string]any) string {
	switch t := schema["type"].(type) {
	case string:
		return t
	case []any:
		for _, one := range t {
			if one != "null" {
				return text(one)
			}
		}
		return "null"
	}
	switch {
	case schema["properties"] != nil:
		return "object"
	case schema["items"] != nil:
		return "array"
	}
	return ""
}

// bounds of a whole number.
func bounds(schema map[string]any) (low, high int) {
	low, hasLow := number(schema["minimum"])
	high, hasHigh := number(schema["maximum"])
	if n, ok := number(schema["exclusiveMinimum"]); ok { // 3.1; a boolean in 3.0
		low, hasLow = n+1, true
	} else if schema["exclusiveMinimum"] == true {
		low++
	}
	if n, ok := number(schema["exclusiveMaximum"]); ok {
		high, hasHigh = n-1, true
	} else if schema["exclusiveMaximum"] == true {
		high--
	}
	switch {
	case hasLow && hasHigh:
		return low, max(low, high)
	case hasLow:
		return low, low + 99
	case hasHigh:
		return min(1, high), high
	}
	return 1, 100
}

func number(v any) (int, bool) {
	if v == nil || v == true || v == false {
		return 0, false
	}
	x, err := strconv.ParseFloat(text(v), 64)
	return int(min(max(x, -1e9), 1e9)), err == nil
}

func size(schema map[string]any, key string, otherwise int) int {
	if n, ok := number(schema[key]); ok && n >= 0 {
		return min(n, 10_000)
	}
	return otherwise
}

// text is a scalar as it is written; empty for nothing.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case map[string]any, []any:
		return compact(v)
	}
	return fmt.Sprint(v)
}

// compact is JSON; what YAML has and JSON has not becomes text.
func compact(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return strconv.Quote(fmt.Sprint(v))
	}
	return strings.TrimSpace(b.String())
}
