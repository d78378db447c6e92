package loadgen

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"
	"unicode/utf8"
)

// A template is Go's text/template, reduced to what costs a bounded amount of
// time per request: text, calls of the functions below, values from data files and
// earlier answers, if and else, variables. What it renders is a function of the
// request's draw.
//
//	{"user":{{json .users.email}},"items":[{"product":"{{product}}","quantity":{{int 1 3}}}]}
type tmpl struct {
	// Nearly all templates are text, plain calls and values; those are compiled to
	// ops. The others go to text/template.
	ops     []op
	execute *sync.Pool // of *execution; nil where ops serve

	values bool // it has values from files or answers, which may be anything
	clock  bool // it has the time
}

// scope is what a template can refer to.
type scope struct {
	sources map[string]*source // data files; nil for one that could not be read
	slots   map[string]int     // captured values: index into draw.captured
	used    map[string]bool    // what templates have referred to so far
	secrets map[string]string  // their values, by name; empty until they are read
}

func newScope() *scope {
	return &scope{sources: map[string]*source{}, slots: map[string]int{}, used: map[string]bool{}}
}

// value is a field of a template: {{.users.email}}, {{.order}}.
type value struct {
	name, column string
	text         func(d *draw) string
}

// value finds what a field means, or says why it means nothing.
func (in *scope) value(ident []string) (v value, problem string) {
	v.name = ident[0]
	if len(ident) > 1 {
		v.column = ident[1]
	}
	src, isData := in.sources[v.name]
	slot, isCaptured := in.slots[v.name]
	field := "." + strings.Join(ident, ".")
	if v.name == secretName && len(in.secrets) > 0 {
		secret, ok := in.secrets[v.column]
		if !ok || len(ident) != 2 {
			return v, fmt.Sprintf("%s is no secret of this stream (there are: %s)", field, strings.Join(slices.Sorted(maps.Keys(in.secrets)), ", "))
		}
		v.text = func(*draw) string { return secret }
		return v, ""
	}
	switch {
	case isCaptured && len(ident) == 1:
		v.text = func(d *draw) string { return d.captured[slot] }
	case isCaptured:
		return v, fmt.Sprintf("%s is a captured value and has no parts: write {{.%s}}", v.name, v.name)
	case isData && src == nil: // its file is mistaken, which was said
		v.text = func(*draw) string { return "" }
	case isData && len(ident) != 2:
		return v, fmt.Sprintf("%s is a column of the file: write {{.%s.COLUMN}} (columns: %s)", field, v.name, strings.Join(src.table.columns, ", "))
	case isData:
		column, ok := src.table.column(v.column)
		if !ok {
			return v, fmt.Sprintf("data %q has no column %q (columns: %s)", v.name, v.column, strings.Join(src.table.columns, ", "))
		}
		v.text = func(d *draw) string { return src.row(d)[column] }
	case len(in.sources)+len(in.slots) == 0:
		return v, noData
	default:
		names := append(slices.Collect(maps.Keys(in.sources)), slices.Collect(maps.Keys(in.slots))...)
		slices.Sort(names)
		names = slices.Compact(names)
		return v, fmt.Sprintf("nothing is called %q here (there are: %s)", v.name, strings.Join(names, ", "))
	}
	return v, ""
}

const noData = "there is no data to refer to; variables come from {{$name := …}}, values from data files and captures"

// exampleValue stands for a captured value when templates are tried: it may be a
// whole path, or a part of one.
const exampleValue = "/x"

// example is a draw to try templates with.
func (in *scope) example(seq uint64) draw {
	d := drawOf(0, seq, forContent)
	d.captured = slices.Repeat([]string{exampleValue}, len(in.slots))
	return d
}

// op is literal text, or else a call.
type op struct {
	text []byte
	call func(dst []byte, d *draw) []byte
}

// maxTemplate bounds a template and what it renders, in bytes.
const maxTemplate = 1 << 20

// templateFuncs is what templates may call. Every call draws anew.
var templateFuncs = []struct {
	name, usage string
	bind        func(d *draw, in *scope) any
}{
	{"user", "{{user}}: u-0 to u-999", written((*draw).user)},
	{"product", "{{product}}: p-0 to p-99", written((*draw).product)},
	{"amount", "{{amount}}: 1.00 to 199.99", written((*draw).amount)},
	{"uuid", "{{uuid}}: a version 4 UUID", written((*draw).uuid)},
	{"int", "{{int MIN MAX}}: a whole number, both ends included", func(d *draw, _ *scope) any {
		return func(low, high int) (int, error) {
			if low > high {
				return 0, fmt.Errorf("int %d %d: the lower end comes first", low, high)
			}
			return int(d.between(int64(low), int64(high))), nil
		}
	}},
	{"seq", "{{seq}}: the number of the request, or session, in its stream, from 0", func(d *draw, _ *scope) any { return func() uint64 { return d.seq } }},
	{"pick", `{{pick "a" "b"}}: one of them`, func(d *draw, _ *scope) any {
		return func(of ...any) (any, error) {
			if len(of) == 0 {
				return nil, errors.New(`pick: nothing to pick from: write {{pick "a" "b"}}`)
			}
			return of[d.below(uint64(len(of)))], nil
		}
	}},
	{"name", "{{name}}: a person's name, Ada Lindqvist", written((*draw).name)},
	{"email", "{{email}}: an address at example.com", written((*draw).email)},
	{"word", "{{word}}: an English word", written((*draw).word)},
	{"words", "{{words N}}: so many words", sized((*draw).words)},
	{"letters", "{{letters N}}: so many of a to z", sized((*draw).letters)},
	{"now", "{{now}}: when the request was due, 2006-01-02T15:04:05.000Z", written((*draw).now)},
	{"unix", "{{unix}}: the same in seconds since 1970", written((*draw).unix)},
	{"unixms", "{{unixms}}: the same in milliseconds", written((*draw).unixms)},
	{"json", "{{json .users.name}}: a value as JSON text, quotes and all", func(*draw, *scope) any {
		return func(v any) string { return string(appendJSON(nil, fmt.Sprint(v))) }
	}},
	{"urlquery", "{{urlquery .order}}: a value escaped for a path or query", func(*draw, *scope) any {
		return func(v any) string { return escape(fmt.Sprint(v)) }
	}},
	{"column", `{{column "users" "e-mail"}}: a column whose name {{.users.…}} cannot say`, func(d *draw, in *scope) any {
		return func(data, column string) (string, error) {
			v, problem := in.value([]string{data, column})
			if problem != "" {
				return "", errors.New(problem)
			}
			return v.text(d), nil
		}
	}},
}

// written is the function of a template that appends to text.
func written(to func(d *draw, dst []byte) []byte) func(d *draw, in *scope) any {
	return func(d *draw, _ *scope) any { return func() string { return string(to(d, nil)) } }
}

// sized is the same with a number.
func sized(to func(d *draw, dst []byte, n int) []byte) func(d *draw, in *scope) any {
	return func(d *draw, _ *scope) any {
		return func(n int) (string, error) {
			if n < 1 || n > maxSized {
				return "", fmt.Errorf("%d: from 1 to %d", n, maxSized)
			}
			return string(to(d, nil, n)), nil
		}
	}
}

const maxSized = 10_000

// templateError is a mistake at a place inside a template, both counted from 1.
type templateError struct {
	line, column int
	message      string
}

func (e *templateError) Error() string {
	return fmt.Sprintf("line %d, column %d of the template: %s", e.line, e.column, e.message)
}

// parseTemplate compiles text; its error is a *templateError. A template without
// error here can still fail on some draws only where an int's ends are computed.
func parseTemplate(text string) (*tmpl, error) { return parseTemplateIn(text, newScope()) }

// parseTemplateIn is parseTemplate where there are values to refer to.
func parseTemplateIn(text string, in *scope) (*tmpl, error) {
	if len(text) > maxTemplate {
		return nil, &templateError{1, 1, fmt.Sprintf("%d bytes; at most %d are allowed", len(text), maxTemplate)}
	}
	tree, err := parseTree(text)
	if err != nil {
		return nil, err
	}
	t := new(tmpl)
	refs := references{scope: in}
	if pos, message := refs.resolve(tree.Root); message != "" {
		return nil, positioned(text, int(pos), message)
	}
	for _, name := range refs.names {
		in.used[name] = true
	}
	t.values, t.clock = len(refs.names) > 0, refs.clock
	if t.compile(tree.Root, in) {
		return t, nil
	}
	t.ops = nil
	t.execute = executions(tree, in, refs.values)
	for seq := range uint64(3) { // wrong numbers and kinds of arguments show here
		d := in.example(seq)
		if _, err := t.append(nil, &d); err != nil {
			return nil, located(text, err)
		}
	}
	return t, nil
}

// append renders for one request.
func (t *tmpl) append(dst []byte, d *draw) ([]byte, error) {
	if t.execute == nil {
		for _, o := range t.ops {
			if o.call != nil {
				dst = o.call(dst, d)
			} else {
				dst = append(dst, o.text...)
			}
		}
		return dst, nil
	}
	e := t.execute.Get().(*execution)
	defer t.execute.Put(e)
	e.draw = *d
	e.out.Reset()
	err := e.template.Execute(&e.out, e.data())
	d.state = e.draw.state
	if err != nil {
		return dst, err
	}
	return append(dst, e.out.Bytes()...), nil
}

// static tells that it always renders to the same.
func (t *tmpl) static() bool {
	for _, o := range t.ops {
		if o.call != nil {
			return false
		}
	}
	return t.execute == nil
}

// compile turns text and calls with literal arguments into ops.
func (t *tmpl) compile(list *parse.ListNode, in *scope) bool {
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			t.ops = append(t.ops, op{text: n.Text})
		case *parse.ActionNode:
			call := compileCall(n, in)
			if call == nil {
				return false
			}
			t.ops = append(t.ops, op{call: call})
		case *parse.CommentNode:
		default:
			return false
		}
	}
	return true
}

// compileCall is nil for what text/template should look at: anything but a value,
// or one call with literal arguments of the right kinds, or json or urlquery of a
// value.
func compileCall(n *parse.ActionNode, in *scope) func(dst []byte, d *draw) []byte {
	if len(n.Pipe.Decl) > 0 || len(n.Pipe.Cmds) != 1 {
		return nil
	}
	args := n.Pipe.Cmds[0].Args
	if field, ok := args[0].(*parse.FieldNode); ok && len(args) == 1 {
		v, _ := in.value(field.Ident)
		return func(dst []byte, d *draw) []byte { return append(dst, v.text(d)...) }
	}
	name, ok := args[0].(*parse.IdentifierNode)
	if !ok {
		return nil
	}
	args = args[1:]
	if len(args) == 0 {
		to := map[string]func(d *draw, dst []byte) []byte{
			"user": (*draw).user, "product": (*draw).product, "amount": (*draw).amount, "uuid": (*draw).uuid,
			"name": (*draw).name, "email": (*draw).email, "word": (*draw).word,
			"now": (*draw).now, "unix": (*draw).unix, "unixms": (*draw).unixms,
			"seq": func(d *draw, dst []byte) []byte { return strconv.AppendUint(dst, d.seq, 10) },
		}[name.Ident]
		if to == nil {
			return nil
		}
		return func(dst []byte, d *draw) []byte { return to(d, dst) }
	}
	if field, ok := args[0].(*parse.FieldNode); ok && len(args) == 1 {
		v, _ := in.value(field.Ident)
		switch name.Ident {
		case "json":
			return func(dst []byte, d *draw) []byte { return appendJSON(dst, v.text(d)) }
		case "urlquery":
			return func(dst []byte, d *draw) []byte { return append(dst, escape(v.text(d))...) }
		}
		return nil
	}
	switch name.Ident {
	case "int":
		if len(args) != 2 {
			return nil
		}
		low, ok1 := args[0].(*parse.NumberNode)
		high, ok2 := args[1].(*parse.NumberNode)
		if !ok1 || !ok2 || !low.IsInt || !high.IsInt || low.Int64 > high.Int64 {
			return nil
		}
		return func(dst []byte, d *draw) []byte {
			return strconv.AppendInt(dst, d.between(low.Int64, high.Int64), 10)
		}
	case "words", "letters":
		n, ok := args[0].(*parse.NumberNode)
		if !ok || !n.IsInt || len(args) != 1 || n.Int64 < 1 || n.Int64 > maxSized {
			return nil
		}
		to := (*draw).words
		if name.Ident == "letters" {
			to = (*draw).letters
		}
		return func(dst []byte, d *draw) []byte { return to(d, dst, int(n.Int64)) }
	case "pick":
		var of []string
		for _, a := range args {
			s, ok := a.(*parse.StringNode)
			if !ok {
				return nil
			}
			of = append(of, s.Text)
		}
		return func(dst []byte, d *draw) []byte { return append(dst, of[d.below(uint64(len(of)))]...) }
	}
	return nil
}

// execution is a text/template whose functions draw from its own draw.
type execution struct {
	template *template.Template
	draw     draw
	values   []value
	out      limited
}

// data is what the fields of the template mean for its draw.
func (e *execution) data() map[string]any {
	data := make(map[string]any, len(e.values))
	for _, v := range e.values {
		if v.column == "" {
			data[v.name] = v.text(&e.draw)
			continue
		}
		row, ok := data[v.name].(map[string]string)
		if !ok {
			row = map[string]string{}
			data[v.name] = row
		}
		row[v.column] = v.text(&e.draw)
	}
	return data
}

func executions(tree *parse.Tree, in *scope, values []value) *sync.Pool {
	return &sync.Pool{New: func() any {
		e := &execution{values: values}
		funcs := template.FuncMap{}
		for _, f := range templateFuncs {
			funcs[f.name] = f.bind(&e.draw, in)
		}
		t, err := template.New(tree.Name).Option("missingkey=error").Funcs(funcs).AddParseTree(tree.Name, tree.Copy())
		if err != nil {
			panic("a parsed template was refused: " + err.Error()) // AddParseTree fails only on templates already executed
		}
		e.template = t
		return e
	}}
}

// limited is a buffer that refuses to grow past maxTemplate.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxTemplate {
		return 0, fmt.Errorf("it renders to more than %d bytes", maxTemplate)
	}
	return l.Buffer.Write(p)
}

// references is what a template refers to.
type references struct {
	scope  *scope
	values []value
	names  []string // of data and captured values, those of column included
	clock  bool     // it calls now or one of its kind
}

// resolve finds what a template refers to, and the first thing in it that means
// nothing or is not supported.
func (r *references) resolve(n parse.Node) (parse.Pos, string) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return 0, ""
		}
		for _, c := range n.Nodes {
			if pos, m := r.resolve(c); m != "" {
				return pos, m
			}
		}
	case *parse.ActionNode:
		return r.resolve(n.Pipe)
	case *parse.IfNode:
		if pos, m := r.resolve(n.Pipe); m != "" {
			return pos, m
		}
		if pos, m := r.resolve(n.List); m != "" {
			return pos, m
		}
		return r.resolve(n.ElseList)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			for _, a := range c.Args {
				if pos, m := r.resolve(a); m != "" {
					return pos, m
				}
			}
			if pos, m := r.column(c.Args); m != "" {
				return pos, m
			}
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" || len(n.Ident) > 1 {
			return n.Pos, noData
		}
	case *parse.FieldNode:
		v, problem := r.scope.value(n.Ident)
		if problem != "" {
			pos := n.Pos
			if len(n.Ident) > 1 && v.name != "" { // the parser points behind the first part
				if src := r.scope.sources[v.name]; src == nil || len(n.Ident) > 2 {
					pos -= parse.Pos(1 + len(v.name))
				}
			}
			return pos, problem
		}
		r.values = append(r.values, v)
		r.names = append(r.names, v.name)
	case *parse.DotNode, *parse.ChainNode:
		return n.Position(), noData
	case *parse.IdentifierNode:
		r.clock = r.clock || n.Ident == "now" || n.Ident == "unix" || n.Ident == "unixms"
	case *parse.TextNode, *parse.CommentNode, *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
	default:
		return n.Position(), "only text, function calls, values, if, else and variables are supported"
	}
	return 0, ""
}

// column resolves a call of column, whose arguments stand in the template.
func (r *references) column(args []parse.Node) (parse.Pos, string) {
	if f, ok := args[0].(*parse.IdentifierNode); !ok || f.Ident != "column" {
		return 0, ""
	}
	if len(args) == 3 {
		data, ok1 := args[1].(*parse.StringNode)
		column, ok2 := args[2].(*parse.StringNode)
		if ok1 && ok2 {
			v, problem := r.scope.value([]string{data.Text, column.Text})
			r.names = append(r.names, v.name)
			return args[0].Position(), problem
		}
	}
	return args[0].Position(), `write {{column "DATA" "COLUMN"}}`
}

var (
	parsePrefix = regexp.MustCompile(`^template: [^:]*:\d+: `)
	execPrefix  = regexp.MustCompile(`^template: [^:]*:(\d+):(\d+): (?:executing "[^"]*" at <[^>]*>: )?`)
	definition  = regexp.MustCompile(`\{\{-?\s*(define|block)\b`)
	undefined   = regexp.MustCompile(`^function "([^"]+)" not defined`)
)

// parseTree parses text, which must not define templates of its own.
func parseTree(text string) (*parse.Tree, error) {
	tree, err := parseOnce(text)
	if err == nil {
		return tree, nil
	}
	message := parsePrefix.ReplaceAllString(err.Error(), "")
	if errors.Is(err, errDefinition) {
		pos := 0
		if at := definition.FindStringIndex(text); at != nil {
			pos = at[0]
		}
		return nil, positioned(text, pos, message)
	}
	pos := locate(text, message)
	if m := undefined.FindStringSubmatch(message); m != nil {
		if i := strings.Index(text[pos:], m[1]); i >= 0 {
			pos += i
		}
		message = fmt.Sprintf("no function %q (there are: %s)", m[1], functionNames())
	}
	return nil, positioned(text, pos, message)
}

var errDefinition = errors.New("templates inside a template are not supported")

func parseOnce(text string) (*parse.Tree, error) {
	known := map[string]any{}
	for _, f := range templateFuncs {
		known[f.name] = f.bind
	}
	trees, err := parse.Parse("t", text, "", "", known)
	switch {
	case err != nil:
		return nil, err
	case len(trees) == 0: // nothing but white space and comments
		tree := parse.New("t")
		tree.Root = &parse.ListNode{NodeType: parse.NodeList, Nodes: []parse.Node{&parse.TextNode{NodeType: parse.NodeText, Text: []byte(text)}}}
		return tree, nil
	case len(trees) > 1 || trees["t"] == nil:
		return nil, errDefinition
	}
	return trees["t"], nil
}

func functionNames() string {
	var names []string
	for _, f := range templateFuncs {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

// locate finds the action that a parser's message is about, which names a line
// at best: the first action at whose end the text so far fails with that very
// message; and where the message is that something was left open, the first
// action after the longest beginning that parses.
func locate(text, message string) int {
	const patience = 200 // actions; later mistakes are reported at the text's beginning
	clean := 0
	for end, i := 0, 0; end < len(text) && i < patience; i++ {
		n := strings.Index(text[end:], "}}")
		if n < 0 {
			end = len(text)
		} else {
			end += n + 2
		}
		_, err := parseOnce(text[:end])
		switch {
		case err == nil:
			clean = end
		case strings.Contains(message, "unexpected EOF"):
		case parsePrefix.ReplaceAllString(err.Error(), "") == message:
			return max(strings.LastIndex(text[:end], "{{"), clean)
		}
	}
	return clean + max(strings.Index(text[clean:], "{{"), 0)
}

// located turns an error of text/template's execution into a *templateError.
func located(text string, err error) error {
	m := execPrefix.FindStringSubmatch(err.Error())
	if m == nil {
		return &templateError{1, 1, err.Error()}
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2]) // bytes before it
	message := strings.TrimPrefix(err.Error(), m[0])
	if i := strings.LastIndex(message, "error calling "); i >= 0 {
		if _, inner, ok := strings.Cut(message[i:], ": "); ok {
			message = inner
		}
	}
	return &templateError{line, column + 1, cmp.Or(message, "it cannot be rendered")}
}

// positioned says in lines and columns (characters) where a byte of text is.
func positioned(text string, pos int, message string) *templateError {
	before := text[:min(max(pos, 0), len(text))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return &templateError{line, column, message}
}
