// Package strict reads a YAML file into Go structs and tells everything that is
// wrong with it at once: each mistake with file, line and column, the source
// line, and what would be right.
//
// Reading has two halves. Parse turns bytes into a Document, which remembers
// where every path ("faults.slow-db.latency.delay") was written. Decode fills a
// struct from it. Whoever checks the meaning of the values afterwards reports by
// path (Document.Report), and the Document finds the place in the file.
//
// # Rules of decoding
//
// Only fields with a yaml tag take part; `yaml:"-"` keeps one out.
//
//		yaml:"key"            the value under this key
//		yaml:"key,required"   the same; a file without it is mistaken
//		yaml:"key,named"      a mapping becomes a list: the field is []T, T is a struct
//		                      with a field Name string, which takes the key; the list
//		                      is in the order of the file
//
//	  - A time.Duration is text with a unit, "800ms"; a bare number is a mistake,
//	    and so is a negative one.
//	  - A type with UnmarshalText gets the text of a scalar, also when YAML would
//	    read it as a number: `percent: 50`.
//	  - A struct with ParseShort(string) error may be written as text ("short
//	    form") or, if it has tagged fields, as a mapping.
//	  - An error of these two that has a method Offset() int points at that rune of
//	    the text.
//	  - A string is text. Numbers and booleans in its place are mistakes, except
//	    that an element of a list or mapping of strings (commands, environments,
//	    headers) may be a number, taken as it is written.
//	  - A key without a value is a mistake everywhere: {} and [] say "empty".
//	  - Pointers, slices, map[string]T, numbers and booleans are as one expects.
//
// Of YAML, one document is read, with anchors and aliases; tags, merge keys and
// directives are refused. Limits keep hostile input cheap: see MaxSize and those
// beside it.
//
// No function here keeps state between documents; one Document belongs to one
// goroutine.
package strict

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may cost. The parser's time grows with the square of the tokens in
// one mapping, and its memory with the square of the depth: both are bounded
// before it runs, by a pass over the tokens.
const (
	MaxSize      = 1 << 20 // bytes of a file
	MaxTokens    = 30_000  // YAML tokens of a file: some 10,000 lines
	MaxDepth     = 32      // mappings and lists within one another
	MaxExpansion = 10_000  // values that aliases stand for, together
	MaxProblems  = 100     // mistakes that are told; more are counted
)

// Document is one YAML file and what was found wrong with it so far.
type Document struct {
	// Unavailable, if set, is asked about every key that the struct does not
	// know: a non-empty answer is told instead of "unknown key". The path is the
	// key's, as segments: ["target", "compose"].
	Unavailable func(path []string) string

	file     string
	lines    []string
	root     *ast.MappingNode
	aliases  map[*ast.AliasNode]ast.Node
	places   map[string]place
	problems Problems
	more     int             // mistakes beyond MaxProblems
	broken   map[string]bool // paths whose value could not be decoded
	partial  map[string]bool // mappings and lists directly above them
	fields   fieldCache

	expanded int // values decoded inside aliases
	tooMuch  bool
}

// position is a place in a file; both count from 1, columns in runes.
type position struct{ line, column int }

// place is where a path was written.
type place struct {
	key, value position
	keyed      bool // it stands under a key, not in a list
	scalar     bool
}

// Parse reads the bytes of a file; the name is for messages. It always returns a
// Document: what is wrong with the YAML itself is in its Err already, and such a
// Document decodes nothing.
func Parse(file string, src []byte) *Document {
	d := &Document{file: file, places: map[string]place{}, broken: map[string]bool{}, partial: map[string]bool{}, fields: fieldCache{}}
	if len(src) > MaxSize {
		d.add(position{1, 1}, "", fmt.Sprintf("the file is larger than %d KiB", MaxSize>>10), "")
		return d
	}
	text, ok := d.clean(src)
	if !ok {
		return d
	}
	tokens := lexer.Tokenize(text)
	if !d.affordable(tokens) {
		return d
	}
	parsed, err := parse(tokens)
	if err != nil {
		d.syntax(err)
		return d
	}
	d.takeRoot(parsed)
	return d
}

// parse keeps a panic of the YAML parser, which some malformed files cause, from
// becoming ours.
func parse(tokens token.Tokens) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("it confuses the YAML parser (%v)", p)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// clean makes text of the bytes: UTF-8 without a byte order mark, lines that end
// in "\n", no control characters.
func (d *Document) clean(src []byte) (string, bool) {
	if len(src) >= 2 && (src[0] == 0xff && src[1] == 0xfe || src[0] == 0xfe && src[1] == 0xff) {
		d.add(position{1, 1}, "", "the file is UTF-16", "save it as UTF-8")
		return "", false
	}
	text := strings.TrimPrefix(string(src), "\ufeff")
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	d.lines = strings.Split(text, "\n")
	for i, line := range d.lines {
		column := 0
		for at, r := range line {
			column++
			if r == utf8.RuneError {
				if _, size := utf8.DecodeRuneInString(line[at:]); size == 1 {
					d.add(position{i + 1, column}, "", fmt.Sprintf("byte 0x%02x is not UTF-8", line[at]), "save the file as UTF-8")
					return "", false
				}
			}
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
				d.add(position{i + 1, column}, "", fmt.Sprintf("the file has the control character %U", r), `write it as "\x…" in double quotes, if it is meant`)
				return "", false
			}
		}
	}
	return text, true
}

// affordable is the pass over the tokens that keeps the parser's costs bounded.
func (d *Document) affordable(tokens token.Tokens) bool {
	var blocks []int // columns at which block mappings and lists opened, ascending
	flow, tags := 0, 0
	for i, t := range tokens {
		opens := false
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(flow-1, 0)
		case token.SequenceEntryType, token.MappingKeyType:
			opens = true
		case token.TagType, token.AnchorType:
			tags++
		default:
			tags = 0
			opens = i+1 < len(tokens) && tokens[i+1].Type == token.MappingValueType
		}
		if opens && flow == 0 {
			column := t.Position.Column
			for len(blocks) > 0 && blocks[len(blocks)-1] >= column {
				blocks = blocks[:len(blocks)-1]
			}
			blocks = append(blocks, column)
		}
		if flow+len(blocks)+tags/2 > MaxDepth {
			d.add(where(t), "", fmt.Sprintf("nested more than %d deep", MaxDepth), "")
			return false
		}
	}
	if len(tokens) > MaxTokens {
		d.add(where(tokens[MaxTokens]), "", fmt.Sprintf("the file has more than %d YAML tokens", MaxTokens), "")
		return false
	}
	return true
}

// syntax tells what the YAML parser stumbled over, in words for people who do
// not know its grammar.
func (d *Document) syntax(err error) {
	at, message, hint := position{1, 1}, err.Error(), ""
	if e, ok := errors.AsType[*yaml.SyntaxError](err); ok {
		message = e.Message
		if e.Token != nil {
			at = where(e.Token)
		}
	}
	line := ""
	if at.line >= 1 && at.line <= len(d.lines) {
		line = d.lines[at.line-1]
	}
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case strings.Contains(indent, "\t"):
		at.column = strings.IndexByte(indent, '\t') + 1
		message, hint = "the line is indented with a tab", "indent with spaces: YAML allows no tabs there"
	case message == "mapping value is not allowed in this context":
		message, hint = `a second ": " on one line`, `if the colon belongs to the text, put the text in quotes`
	case message == "value is not allowed in this context":
		message, hint = "this does not fit in here", "check the indentation: keys of one mapping begin in the same column"
	case strings.HasPrefix(message, "unexpected directive value"):
		message, hint = `"%" cannot begin a value`, `put the text in quotes`
	case strings.HasSuffix(message, "is a reserved character"):
		hint = "put the text in quotes"
	case message == "non-map value is specified":
		message, hint = `a key without its ": "`, `write "key: value", with a space after the colon`
	}
	d.add(at, "", "not valid YAML: "+message, hint)
}

// takeRoot finds the one mapping that a file consists of, and says so where there is none.
func (d *Document) takeRoot(f *ast.File) {
	for _, doc := range f.Docs {
		if n, ok := doc.Body.(*ast.DirectiveNode); ok {
			d.add(d.begins(n), "", "YAML directives (%) are not used here", "remove the line")
			return
		}
	}
	if len(f.Docs) > 1 {
		at := position{1, 1}
		if start := f.Docs[1].Start; start != nil {
			at = where(start)
		} else if f.Docs[1].Body != nil {
			at = d.begins(f.Docs[1].Body)
		}
		d.add(at, "", "a second YAML document begins here", "one file holds one document: remove the --- between them, or split the file")
		return
	}
	var body ast.Node
	if len(f.Docs) == 1 {
		body = f.Docs[0].Body
	}
	switch n := body.(type) {
	case *ast.MappingNode:
		d.root = n
	case *ast.MappingValueNode:
		d.root = ast.Mapping(n.Start, false, n)
	case nil:
		d.add(position{1, 1}, "", "the file is empty", "")
		return
	default:
		d.add(d.begins(n), "", fmt.Sprintf("expected a mapping (key: value), found %s", kindOf(body)), "")
		return
	}
	d.aliases = map[*ast.AliasNode]ast.Node{}
	if !d.bind(d.root, map[string]ast.Node{}, nil) {
		d.root = nil
	}
}

// bind finds for each alias the anchor that it means: the last one of that name
// written before it. Anchors count wherever they stand, also under unknown keys.
func (d *Document) bind(n ast.Node, anchors map[string]ast.Node, open []string) bool {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if !d.bind(v, anchors, open) {
				return false
			}
		}
	case *ast.MappingValueNode:
		return d.bind(n.Key, anchors, open) && d.bind(n.Value, anchors, open)
	case *ast.MappingKeyNode:
		return d.bind(n.Value, anchors, open)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			if !d.bind(v, anchors, open) {
				return false
			}
		}
	case *ast.TagNode:
		return d.bind(n.Value, anchors, open)
	case *ast.AnchorNode:
		name := n.Name.GetToken().Value
		anchors[name] = n.Value
		return d.bind(n.Value, anchors, append(open, name))
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		to, ok := anchors[name]
		switch {
		case !ok:
			hint := "if the text begins with *, put it in quotes"
			if near, ok := Nearest(name, slices.Sorted(maps.Keys(anchors))); ok {
				hint = fmt.Sprintf("did you mean *%s?", near)
			}
			d.add(where(n.GetToken()), "", fmt.Sprintf("no anchor &%s before this alias", name), hint)
			return false
		case slices.Contains(open, name):
			d.add(where(n.GetToken()), "", fmt.Sprintf("the alias *%s stands inside its own anchor", name), "")
			return false
		}
		d.aliases[n] = to
	}
	return true
}

// Decode fills a struct, given by pointer, by the rules in the package comment.
// What is wrong joins the Document's problems; what is right is filled in all the
// same, so that later checks see as much as there is.
func (d *Document) Decode(into any) {
	if d.root != nil {
		d.decodeRoot(into)
	}
}

// Readable tells whether the file is YAML at all, so that Decode had something to
// read and checks of its content make sense.
func (d *Document) Readable() bool { return d.root != nil }

// Position says where a path was written: the value of a scalar, the key of
// anything larger. A path that is not in the file is where its nearest parent is.
func (d *Document) Position(path string) (line, column int) {
	for ; path != ""; path = parent(path) {
		if p, ok := d.places[path]; ok {
			if p.keyed && !p.scalar {
				return p.key.line, p.key.column
			}
			return p.value.line, p.value.column
		}
	}
	return 1, 1
}

// Has tells whether a path is written in the file.
func (d *Document) Has(path string) bool {
	_, ok := d.places[path]
	return ok
}

// Report adds what a check of the values found; the hint may be empty. It stays
// silent where decoding already found a mistake that explains it: at that path or
// above it (the value was never read), at a mapping one of whose own keys is
// mistaken, and for a key that is missing from such a mapping (it may be there,
// misspelt).
func (d *Document) Report(path, hint, format string, args ...any) {
	if d.explained(path) {
		return
	}
	line, column := d.Position(path)
	d.add(position{line, column}, path, fmt.Sprintf(format, args...), hint)
}

// ReportKey is Report for a mistake in the key itself: it points there also where
// the value is a scalar.
func (d *Document) ReportKey(path, hint, format string, args ...any) {
	if p, ok := d.places[path]; ok && p.keyed {
		if !d.explained(path) {
			d.add(p.key, path, fmt.Sprintf(format, args...), hint)
		}
		return
	}
	d.Report(path, hint, format, args...)
}

// explained tells whether decoding found a mistake that accounts for one at path.
func (d *Document) explained(path string) bool {
	if d.partial[path] || !d.Has(path) && path != "" && parent(path) != "" && d.partial[parent(path)] {
		return true
	}
	for p := path; p != ""; p = parent(p) {
		if d.broken[p] {
			return true
		}
	}
	return false
}

// Err is everything that is wrong, in the order of the file, or nil.
func (d *Document) Err() error {
	if len(d.problems) == 0 {
		return nil
	}
	told := slices.Clone(d.problems)
	slices.SortStableFunc(told, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	told = slices.CompactFunc(told, func(a, b Problem) bool { return a == b })
	if d.more > 0 {
		last := told[len(told)-1]
		told = append(told, Problem{File: d.file, Line: last.Line, Column: last.Column, Source: last.Source,
			Message: fmt.Sprintf("… and %d more mistakes", d.more)})
	}
	return told
}
