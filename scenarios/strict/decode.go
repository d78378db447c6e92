package strict

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// shortParser is a struct that may be written as text.
type shortParser interface{ ParseShort(string) error }

// located is an error that knows where in the text it is: so many runes from its beginning.
type located interface{ Offset() int }

var durationType = reflect.TypeFor[time.Duration]()

// spot is where decoding is: the path in both forms, and how deep.
type spot struct {
	path    string
	steps   []string // keys and indices, for Unavailable
	depth   int
	aliased bool
	loose   bool // an element of a list or mapping: a number will do as text
}

func (s spot) key(name string) spot {
	s.steps = append(slices.Clip(s.steps), name)
	if s.path != "" {
		s.path += "."
	}
	s.path += name
	s.depth++
	s.loose = false
	return s
}

func (s spot) index(i int) spot {
	n := strconv.Itoa(i)
	s.steps = append(slices.Clip(s.steps), n)
	s.path += "[" + n + "]"
	s.depth++
	return s
}

func (d *Document) decodeRoot(into any) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("strict: Decode into %T, want a pointer to a struct", into))
	}
	d.value(d.root, v.Elem(), spot{})
}

// value decodes one node into one variable and tells whether that worked.
// Whatever is wrong is reported here or below.
func (d *Document) value(n ast.Node, v reflect.Value, at spot) bool {
	n, at, ok := d.unwrap(n, at)
	if !ok {
		return false
	}
	if v.Kind() == reflect.Pointer {
		fresh := reflect.New(v.Type().Elem())
		ok := d.value(n, fresh.Elem(), at)
		if ok || fresh.Elem().Kind() == reflect.Struct {
			v.Set(fresh) // a struct with mistakes inside is still worth checking
		}
		return ok
	}
	if _, null := n.(*ast.NullNode); null {
		d.mistake(d.keyOf(at.path, n), at.path, d.emptyHint(v.Type()), "%s has no value", last(at))
		return false
	}
	if v.Type() == durationType {
		return d.duration(n, v, at)
	}
	if short, ok := v.Addr().Interface().(shortParser); ok {
		if s, isScalar := scalarOf(n); isScalar {
			return d.parsed(n, s, at, short.ParseShort(s.text))
		}
		if v.Kind() != reflect.Struct || len(d.fields.of(v.Type())) == 0 {
			return d.wrongKind(n, at, "text", "")
		}
	} else if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		s, isScalar := scalarOf(n)
		if !isScalar {
			return d.wrongKind(n, at, "text", "")
		}
		return d.parsed(n, s, at, text.UnmarshalText([]byte(s.text)))
	}
	switch v.Kind() {
	case reflect.Struct:
		return d.structure(n, v, at)
	case reflect.Map:
		return d.mapping(n, v, at)
	case reflect.Slice:
		return d.list(n, v, at)
	case reflect.String:
		return d.text(n, v, at)
	case reflect.Bool:
		if s, ok := scalarOf(n); ok && s.kind == boolean {
			v.SetBool(strings.EqualFold(s.text, "true"))
			return true
		}
		return d.wrongKind(n, at, "true or false", "")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		return d.number(n, v, at)
	}
	panic(fmt.Sprintf("strict: cannot decode into %s (%s)", v.Type(), at.path))
}

// unwrap sees through anchors and aliases, remembers where the path stands, and
// keeps depth and expansion within their limits.
func (d *Document) unwrap(n ast.Node, at spot) (ast.Node, spot, bool) {
	p := d.places[at.path]
	p.value = d.begins(n)
	for {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
			continue
		case *ast.AliasNode:
			n = d.aliases[x]
			at.aliased = true
			continue
		case *ast.MappingValueNode:
			n = ast.Mapping(x.Start, false, x)
		case *ast.TagNode:
			d.mistake(d.begins(x), at.path, "remove it; quotes make text of a number", "YAML tags (%s) are not used here", x.GetToken().Value)
			return nil, at, false
		}
		break
	}
	if _, scalar := scalarOf(n); scalar {
		p.scalar, p.value = true, d.begins(n)
	}
	d.places[at.path] = p
	if at.depth > MaxDepth {
		d.mistake(p.value, at.path, "", "nested more than %d deep", MaxDepth)
		return nil, at, false
	}
	if at.aliased {
		if d.expanded++; d.expanded > MaxExpansion {
			if !d.tooMuch {
				d.tooMuch = true
				d.mistake(p.value, at.path, "", "aliases stand for more than %d values", MaxExpansion)
			}
			return nil, at, false
		}
	}
	return n, at, true
}

// structure decodes a mapping into the tagged fields of a struct.
func (d *Document) structure(n ast.Node, v reflect.Value, at spot) bool {
	fields := d.fields.of(v.Type())
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return d.wrongKind(n, at, "a mapping (key: value)", "keys here: "+strings.Join(fields.names(), ", "))
	}
	meant := map[string]bool{} // keys that a misspelt one most likely means
	sound := true
	found := map[string]bool{}
	for key, value := range d.pairs(m, at, &sound) {
		f, known := fields.find(key.text)
		if !known {
			sound = false
			d.unknown(key, fields, meant, at)
			continue
		}
		found[f.key] = true
		into := v.FieldByIndex(f.index)
		if f.named {
			sound = d.named(value, into, at.key(f.key)) && sound
		} else {
			sound = d.value(value, into, at.key(f.key)) && sound
		}
	}
	for _, f := range fields {
		if f.required && !found[f.key] && !meant[f.key] {
			sound = false
			d.add(d.mappingAt(at, m), at.path, fmt.Sprintf("missing %q%s", f.key, inside(at)), "")
			d.broken[at.key(f.key).path] = true
		}
	}
	return sound
}

// unknown tells of a key that a struct does not have.
func (d *Document) unknown(key keyText, fields fieldList, meant map[string]bool, at spot) {
	here := at.key(key.text)
	d.places[here.path] = place{key: key.at, value: key.at, keyed: true}
	if d.Unavailable != nil {
		if why := d.Unavailable(here.steps); why != "" {
			d.mistake(key.at, here.path, "", "%s", why)
			return
		}
	}
	hint := "keys here: " + strings.Join(fields.names(), ", ")
	if near, ok := Nearest(key.text, fields.names()); ok {
		hint = fmt.Sprintf("did you mean %q?", near)
		meant[near] = true
	}
	d.mistake(key.at, here.path, hint, "unknown key %q%s", key.text, inside(at))
}

// mapping decodes into a map[string]T.
func (d *Document) mapping(n ast.Node, v reflect.Value, at spot) bool {
	if v.Type().Key().Kind() != reflect.String {
		panic(fmt.Sprintf("strict: cannot decode into %s (%s): keys are strings", v.Type(), at.path))
	}
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return d.wrongKind(n, at, "a mapping (key: value)", "")
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(m.Values)))
	sound := true
	for key, value := range d.pairs(m, at, &sound) {
		into := reflect.New(v.Type().Elem()).Elem()
		below := at.key(key.text)
		below.loose = true
		sound = d.value(value, into, below) && sound
		v.SetMapIndex(reflect.ValueOf(key.text).Convert(v.Type().Key()), into)
	}
	return sound
}

// named decodes a mapping into a list of structs with a Name, in file order.
func (d *Document) named(n ast.Node, v reflect.Value, at spot) bool {
	n, at, ok := d.unwrap(n, at)
	if !ok {
		return false
	}
	if _, null := n.(*ast.NullNode); null {
		d.mistake(d.keyOf(at.path, n), at.path, "leave the key out, or write {}", "%s has no value", last(at))
		return false
	}
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return d.wrongKind(n, at, "a mapping (name: …)", "each entry stands under its name")
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, len(m.Values)))
	sound := true
	for key, value := range d.pairs(m, at, &sound) {
		into := reflect.New(v.Type().Elem()).Elem()
		sound = d.value(value, into, at.key(key.text)) && sound
		into.FieldByName("Name").SetString(key.text)
		v.Set(reflect.Append(v, into))
	}
	return sound
}

// list decodes a sequence.
func (d *Document) list(n ast.Node, v reflect.Value, at spot) bool {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		hint := ""
		if s, scalar := scalarOf(n); scalar && len(s.text) < 60 {
			hint = fmt.Sprintf("write [%s]", s.source)
		}
		return d.wrongKind(n, at, "a list", hint)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	sound := true
	for i, item := range seq.Values {
		below := at.index(i)
		below.loose = true
		sound = d.value(item, v.Index(i), below) && sound
	}
	return sound
}

// text decodes into a string.
func (d *Document) text(n ast.Node, v reflect.Value, at spot) bool {
	s, ok := scalarOf(n)
	switch {
	case !ok:
		return d.wrongKind(n, at, "text", "")
	case s.kind == boolean:
		return d.wrongKind(n, at, "text", fmt.Sprintf("YAML reads %s as a boolean: put it in quotes if you mean the text", s.text))
	case s.kind == numeric && !at.loose:
		return d.wrongKind(n, at, "text", fmt.Sprintf("put it in quotes: %q", s.text))
	}
	v.SetString(s.text)
	return true
}

// duration decodes "800ms".
func (d *Document) duration(n ast.Node, v reflect.Value, at spot) bool {
	s, ok := scalarOf(n)
	if !ok || s.kind == boolean {
		return d.wrongKind(n, at, "a duration like 800ms or 1m30s", "")
	}
	if _, err := strconv.ParseFloat(s.text, 64); err == nil {
		d.mistake(d.begins(n), at.path, fmt.Sprintf("write %sms or %ss", s.text, s.text), "%s needs a unit", last(at))
		return false
	}
	span, err := time.ParseDuration(s.text)
	switch {
	case err != nil:
		d.mistake(d.begins(n), at.path, "", "%q is not a duration: write 800ms, 2s or 1m30s (units: ns, us, ms, s, m, h)", clip(s.text))
		return false
	case span < 0:
		d.mistake(d.begins(n), at.path, "", "%s is negative", s.text)
		return false
	}
	v.SetInt(int64(span))
	return true
}

// number decodes into any kind of int, uint or float.
func (d *Document) number(n ast.Node, v reflect.Value, at spot) bool {
	whole := v.Kind() != reflect.Float32 && v.Kind() != reflect.Float64
	want := "a number"
	if whole {
		want = "a whole number"
	}
	s, ok := scalarOf(n)
	if !ok || s.kind == boolean {
		return d.wrongKind(n, at, want, "")
	}
	if s.quoted {
		return d.wrongKind(n, at, want, "remove the quotes")
	}
	var err error
	switch {
	case v.CanInt():
		var i int64
		if i, err = strconv.ParseInt(s.text, 0, v.Type().Bits()); err == nil {
			v.SetInt(i)
		}
	case v.CanUint():
		var u uint64
		if u, err = strconv.ParseUint(strings.TrimPrefix(s.text, "+"), 0, v.Type().Bits()); err == nil {
			v.SetUint(u)
		} else if strings.HasPrefix(s.text, "-") {
			want = "a whole number from 0"
		}
	default:
		var f float64
		if f, err = strconv.ParseFloat(s.text, v.Type().Bits()); err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			err = strconv.ErrRange
		}
		if err == nil {
			v.SetFloat(f)
		}
	}
	if err == nil {
		return true
	}
	if e, ok := err.(*strconv.NumError); ok && e.Err == strconv.ErrRange {
		d.mistake(d.begins(n), at.path, "", "%s is too large for %s", clip(s.text), last(at))
		return false
	}
	d.mistake(d.begins(n), at.path, "", "expected %s, found %q", want, clip(s.text))
	return false
}

// parsed passes on what UnmarshalText or ParseShort said about a scalar.
func (d *Document) parsed(n ast.Node, s scalar, at spot, err error) bool {
	if err == nil {
		return true
	}
	where, hint := d.begins(n), ""
	// The offset leads to the right column only where the text stands in the file
	// as it is: on one line, without escapes.
	if e, ok := err.(located); ok && s.verbatim {
		where.column += e.Offset()
		if s.quoted {
			where.column++
		}
	}
	if s.kind == boolean {
		hint = fmt.Sprintf("YAML reads %s as a boolean", s.text)
	}
	d.mistake(where, at.path, hint, "%s", err)
	return false
}

func (d *Document) wrongKind(n ast.Node, at spot, want, hint string) bool {
	d.mistake(d.begins(n), at.path, hint, "expected %s%s, found %s", want, forKey(at), kindOf(n))
	return false
}

// keyText is a key of a mapping and where it stands.
type keyText struct {
	text string
	at   position
}

// pairs are the entries of a mapping in file order, without those whose key is
// no text or comes a second time; *sound becomes false for such a one.
func (d *Document) pairs(m *ast.MappingNode, at spot, sound *bool) func(yield func(keyText, ast.Node) bool) {
	return func(yield func(keyText, ast.Node) bool) {
		seen := make(map[string]position, len(m.Values))
		for _, pair := range m.Values {
			key, ok := d.keyText(pair.Key, at)
			if !ok {
				*sound = false
				continue
			}
			if first, twice := seen[key.text]; twice {
				*sound = false
				d.add(key.at, at.key(key.text).path, fmt.Sprintf("%q stands here a second time (first on line %d)", key.text, first.line), "keep one of them")
				continue
			}
			seen[key.text] = key.at
			below := at.key(key.text)
			d.places[below.path] = place{key: key.at, value: d.begins(pair.Value), keyed: true}
			if !yield(key, pair.Value) {
				return
			}
		}
	}
}

func (d *Document) keyText(n ast.Node, at spot) (keyText, bool) {
	k := keyText{at: d.begins(n)}
	if explicit, ok := n.(*ast.MappingKeyNode); ok {
		n = explicit.Value
		k.at = d.begins(n)
	}
	if _, merge := n.(*ast.MergeKeyNode); merge {
		d.mistake(k.at, at.key("<<").path, "write the keys out, or use an alias for a whole value", "merge keys (<<) are not used here")
		return k, false
	}
	s, ok := scalarOf(n)
	switch {
	case !ok || s.text == "":
		d.mistake(k.at, at.key("?").path, "", "a key is text, found %s", kindOf(n))
		return k, false
	case s.kind == boolean || s.kind == null:
		d.mistake(k.at, at.key(s.text).path, "put it in quotes", "a key is text, found %s", kindOf(n))
		return k, false
	}
	k.text = s.text
	return k, true
}

// scalarKind is what YAML takes an unquoted scalar for.
type scalarKind int

const (
	plain scalarKind = iota // text
	numeric
	boolean
	null
)

type scalar struct {
	text     string // what it says
	source   string // how to write it again
	kind     scalarKind
	quoted   bool
	verbatim bool // text stands in the file as it is, on one line
}

func scalarOf(n ast.Node) (scalar, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		t := n.GetToken()
		quoted := t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType
		s := scalar{text: n.Value, source: n.Value, quoted: quoted, verbatim: strings.Contains(t.Origin, n.Value)}
		if quoted {
			s.source = strconv.Quote(n.Value)
		}
		return s, true
	case *ast.LiteralNode:
		return scalar{text: n.Value.Value, source: strconv.Quote(n.Value.Value), quoted: true}, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		t := n.GetToken().Value
		return scalar{text: t, source: t, kind: numeric, verbatim: true}, true
	case *ast.BoolNode:
		t := n.GetToken().Value
		return scalar{text: t, source: t, kind: boolean, verbatim: true}, true
	case *ast.NullNode:
		return scalar{text: "null", source: "null", kind: null}, true
	}
	return scalar{}, false
}

func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AliasNode:
		return "an alias"
	case *ast.AnchorNode:
		return kindOf(n.Value)
	case *ast.TagNode:
		return "a YAML tag"
	}
	s, ok := scalarOf(n)
	switch {
	case !ok:
		return "something else"
	case s.kind == null:
		return "nothing"
	case s.kind == numeric:
		return "the number " + clip(s.text)
	case s.kind == boolean:
		return "the boolean " + s.text
	}
	return fmt.Sprintf("the text %q", clip(s.text))
}

// begins is where a node begins. (A block mapping's own token is its first colon.)
func (d *Document) begins(n ast.Node) position {
	switch n := n.(type) {
	case nil:
		return position{1, 1}
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return d.begins(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return d.begins(n.Key)
	}
	return where(n.GetToken())
}

func where(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{1, 1}
	}
	return position{t.Position.Line, t.Position.Column}
}

// keyOf is the key's place for a value that is nothing, and so has none worth pointing at.
func (d *Document) keyOf(path string, n ast.Node) position {
	if p := d.places[path]; p.keyed {
		return p.key
	}
	return d.begins(n)
}

// mappingAt is where to say that a mapping lacks something.
func (d *Document) mappingAt(at spot, m *ast.MappingNode) position {
	if p, ok := d.places[at.path]; ok && p.keyed {
		return p.key
	}
	return d.begins(m)
}

func (d *Document) emptyHint(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "write a value, or {} for one with nothing but defaults"
	case reflect.Slice:
		return "write a list, or [] for an empty one"
	}
	return "write a value, or leave the key out"
}

// last names the last step of a path for a message.
func last(at spot) string {
	if len(at.steps) == 0 {
		return "the file"
	}
	name := at.steps[len(at.steps)-1]
	if strings.HasSuffix(at.path, "]") {
		return "entry " + name
	}
	return strconv.Quote(name)
}

func inside(at spot) string {
	if at.path == "" {
		return ""
	}
	return " in " + printable(at.path)
}

func forKey(at spot) string {
	if at.path == "" {
		return ""
	}
	return " for " + last(at)
}

// clip keeps quotations in messages short.
func clip(s string) string {
	const longest = 60
	if utf8.RuneCountInString(s) <= longest {
		return s
	}
	return string([]rune(s)[:longest]) + "…"
}

// printable is a path fit for a message.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, clip(s))
}

// field is one key of a struct.
type field struct {
	key             string
	index           []int
	required, named bool
}

type fieldList []field

func (l fieldList) find(key string) (field, bool) {
	i := slices.IndexFunc(l, func(f field) bool { return f.key == key })
	if i < 0 {
		return field{}, false
	}
	return l[i], true
}

func (l fieldList) names() []string {
	names := make([]string, len(l))
	for i, f := range l {
		names[i] = f.key
	}
	return names
}

// fieldCache holds the tagged fields of each struct type met so far.
type fieldCache map[reflect.Type]fieldList

func (c fieldCache) of(t reflect.Type) fieldList {
	if l, ok := c[t]; ok {
		return l
	}
	var l fieldList
	for _, f := range reflect.VisibleFields(t) {
		tag, tagged := f.Tag.Lookup("yaml")
		key, options, _ := strings.Cut(tag, ",")
		if !tagged || key == "" || key == "-" {
			continue
		}
		add := field{key: key, index: f.Index}
		for _, o := range strings.Split(options, ",") {
			switch o {
			case "required":
				add.required = true
			case "named":
				add.named = true
			case "", "omitempty":
			default:
				panic(fmt.Sprintf("strict: %s.%s has the unknown yaml option %q", t, f.Name, o))
			}
		}
		l = append(l, add)
	}
	c[t] = l
	return l
}
