package loadgen

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"
	"unicode/utf8"
)

// A template is Go's text/template, reduced to what costs a bounded amount of
// time per request: text, calls of the functions below, if and else, variables.
// What it renders is a function of the request's draw.
//
//	{"user":"{{user}}","items":[{"product":"{{product}}","quantity":{{int 1 3}}}]}
type tmpl struct {
	// Nearly all templates are text and plain calls; those are compiled to ops.
	// The others go to text/template.
	ops     []op
	execute *sync.Pool // of *execution; nil where ops serve
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
	bind        func(d *draw) any
}{
	{"user", "{{user}}: u-0 to u-999", func(d *draw) any { return func() string { return string(d.user(nil)) } }},
	{"product", "{{product}}: p-0 to p-99", func(d *draw) any { return func() string { return string(d.product(nil)) } }},
	{"amount", "{{amount}}: 1.00 to 199.99", func(d *draw) any { return func() string { return string(d.amount(nil)) } }},
	{"uuid", "{{uuid}}: a version 4 UUID", func(d *draw) any { return func() string { return string(d.uuid(nil)) } }},
	{"int", "{{int MIN MAX}}: a whole number, both ends included", func(d *draw) any {
		return func(low, high int) (int, error) {
			if low > high {
				return 0, fmt.Errorf("int %d %d: the lower end comes first", low, high)
			}
			return int(d.between(int64(low), int64(high))), nil
		}
	}},
	{"seq", "{{seq}}: the request's number in its stream, from 0", func(d *draw) any { return func() uint64 { return d.seq } }},
	{"pick", `{{pick "a" "b"}}: one of them`, func(d *draw) any {
		return func(of ...any) (any, error) {
			if len(of) == 0 {
				return nil, errors.New(`pick: nothing to pick from: write {{pick "a" "b"}}`)
			}
			return of[d.below(uint64(len(of)))], nil
		}
	}},
}

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
func parseTemplate(text string) (*tmpl, error) {
	if len(text) > maxTemplate {
		return nil, &templateError{1, 1, fmt.Sprintf("%d bytes; at most %d are allowed", len(text), maxTemplate)}
	}
	tree, err := parseTree(text)
	if err != nil {
		return nil, err
	}
	if pos, message := unsupported(tree.Root); message != "" {
		return nil, positioned(text, int(pos), message)
	}
	t := new(tmpl)
	if t.compile(tree.Root) {
		return t, nil
	}
	t.ops = nil
	t.execute = executions(tree)
	for seq := range uint64(3) { // wrong numbers and kinds of arguments show here
		if _, err := t.append(nil, newDraw(0, seq, 0)); err != nil {
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
	err := e.template.Execute(&e.out, map[string]any{})
	*d = e.draw
	if err != nil {
		return dst, err
	}
	return append(dst, e.out.Bytes()...), nil
}

// compile turns text and calls with literal arguments into ops.
func (t *tmpl) compile(list *parse.ListNode) bool {
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			t.ops = append(t.ops, op{text: n.Text})
		case *parse.ActionNode:
			call := compileCall(n)
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

// compileCall is nil for what text/template should look at: anything but one
// call with literal arguments of the right kinds.
func compileCall(n *parse.ActionNode) func(dst []byte, d *draw) []byte {
	if len(n.Pipe.Decl) > 0 || len(n.Pipe.Cmds) != 1 {
		return nil
	}
	args := n.Pipe.Cmds[0].Args
	name, ok := args[0].(*parse.IdentifierNode)
	if !ok {
		return nil
	}
	args = args[1:]
	if len(args) == 0 {
		switch name.Ident {
		case "user":
			return func(dst []byte, d *draw) []byte { return d.user(dst) }
		case "product":
			return func(dst []byte, d *draw) []byte { return d.product(dst) }
		case "amount":
			return func(dst []byte, d *draw) []byte { return d.amount(dst) }
		case "uuid":
			return func(dst []byte, d *draw) []byte { return d.uuid(dst) }
		case "seq":
			return func(dst []byte, d *draw) []byte { return strconv.AppendUint(dst, d.seq, 10) }
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
	out      limited
}

func executions(tree *parse.Tree) *sync.Pool {
	return &sync.Pool{New: func() any {
		e := new(execution)
		funcs := template.FuncMap{}
		for _, f := range templateFuncs {
			funcs[f.name] = f.bind(&e.draw)
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

// unsupported finds the first thing in a template that is not supported.
func unsupported(n parse.Node) (parse.Pos, string) {
	const noData = "there is no data to refer to; variables come from {{$name := …}}"
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return 0, ""
		}
		for _, c := range n.Nodes {
			if pos, m := unsupported(c); m != "" {
				return pos, m
			}
		}
	case *parse.ActionNode:
		return unsupported(n.Pipe)
	case *parse.IfNode:
		if pos, m := unsupported(n.Pipe); m != "" {
			return pos, m
		}
		if pos, m := unsupported(n.List); m != "" {
			return pos, m
		}
		return unsupported(n.ElseList)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			for _, a := range c.Args {
				if pos, m := unsupported(a); m != "" {
					return pos, m
				}
			}
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" || len(n.Ident) > 1 {
			return n.Pos, noData
		}
	case *parse.FieldNode, *parse.DotNode, *parse.ChainNode:
		return n.Position(), noData
	case *parse.TextNode, *parse.CommentNode, *parse.IdentifierNode, *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
	default:
		return n.Position(), "only text, function calls, if, else and variables are supported"
	}
	return 0, ""
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
