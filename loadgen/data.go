package loadgen

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Data is a file of rows that a stream's templates use: {{.users.email}}.
//
//	data:
//	  users: { file: users.csv, order: unique }
//
// A file is CSV with a header line (.csv), a JSON array of objects (.json), or one
// JSON object per line (.jsonl, .ndjson). All rows have the same columns.
type Data struct {
	File   string   `yaml:"file,required" json:"file"` // relative to the scenario file, in its folder or below
	Order  RowOrder `yaml:"order" json:"order,omitempty"`
	Rows   int      `yaml:"-" json:"rows,omitempty"`   // as read
	SHA256 string   `yaml:"-" json:"sha256,omitempty"` // of the file as read: what the plan was made with

	table *table // nil until ReadData, and where the file is mistaken
}

// RowOrder is how requests take rows. In a session all steps have the same row.
//
//	sequential   request number k has row k, and after the last the first again (default)
//	random       drawn from the stream's seed
//	unique       no row twice: user k has row k (closed model), or request number k
//	             has row k, and those after the last row fail with the class data
type RowOrder string

// The orders that there are.
const (
	Sequential RowOrder = "sequential"
	Random     RowOrder = "random"
	Unique     RowOrder = "unique"
)

// UnmarshalText reads one of the three.
func (o *RowOrder) UnmarshalText(text []byte) error {
	switch RowOrder(text) {
	case Sequential, Random, Unique:
		*o = RowOrder(text)
		return nil
	}
	return fmt.Errorf("%q is not an order: write sequential, random or unique", text)
}

// What a data file may cost.
const (
	maxDataFile = 64 << 20 // bytes
	maxDataRows = 1_000_000
)

// table is a data file in memory.
type table struct {
	columns []string
	rows    [][]string
}

func (t *table) column(name string) (int, bool) {
	i := slices.Index(t.columns, name)
	return i, i >= 0
}

// identifier is what {{.name}} can say.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ReadData reads the stream's data files, and says where a replay's file is, before Check and Run. files is the
// folder of the scenario file, which nothing may lead out of: use os.Root.FS, so
// that links do not either; nil if there is none. Mistakes are reported as Check
// does.
func (s *Spec) ReadData(files fs.FS, report func(path, format string, args ...any)) {
	if s.Replay != nil {
		s.Replay.inside, s.Replay.folder = true, files
	}
	if s.Descriptors != "" {
		raw, err := readDataFile(files, s.Descriptors)
		if err == nil {
			err = s.ReadDescriptors(s.Descriptors, raw)
		}
		if err != nil {
			report("descriptors", "%v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Data)) {
		at := "data." + name
		if !identifier.MatchString(name) {
			report(at, "%q cannot name data: templates say {{.%s.column}}, so use letters, digits and _, no digit first", name, name)
			continue
		}
		d := s.Data[name]
		if d.File == "" {
			report(at+".file", "the file is missing: write file: %s.csv", name)
			continue
		}
		raw, err := readDataFile(files, d.File)
		if err == nil {
			d.table, err = parseTable(d.File, raw)
		}
		if err != nil {
			report(at+".file", "%v", err)
			continue
		}
		sum := sha256.Sum256(raw)
		d.Rows, d.SHA256 = len(d.table.rows), hex.EncodeToString(sum[:])
		s.Data[name] = d
	}
}

func readDataFile(files fs.FS, name string) ([]byte, error) {
	f, err := openDataFile(files, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxDataFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q cannot be read: %w", name, err)
	case len(raw) > maxDataFile:
		return nil, fmt.Errorf("%q is larger than %d MiB", name, maxDataFile>>20)
	}
	return raw, nil
}

// openDataFile opens a regular file of the scenario file's folder.
func openDataFile(files fs.FS, name string) (fs.File, error) {
	clean := path.Clean(name)
	switch {
	case path.IsAbs(clean):
		return nil, fmt.Errorf("%q is absolute: data files are in the scenario file's folder or below it, and are named relative to it", name)
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return nil, fmt.Errorf("%q leads out of the scenario file's folder: data files are in it or below it", name)
	case files == nil:
		return nil, fmt.Errorf("%q cannot be read: this scenario does not come from a file, so there is no folder for data files", name)
	}
	info, err := fs.Stat(files, clean)
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no file %q in the scenario file's folder", name)
	case errors.As(err, &pathErr):
		return nil, fmt.Errorf("%q cannot be read: %w", name, pathErr.Err)
	case err != nil:
		return nil, fmt.Errorf("%q cannot be read: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%q is no regular file", name)
	}
	f, err := files.Open(clean)
	if err != nil {
		return nil, fmt.Errorf("%q cannot be read: %w", name, err)
	}
	return f, nil
}

// parseTable reads a data file; its errors begin with file:line:column.
func parseTable(name string, raw []byte) (*table, error) {
	raw = bytes.TrimPrefix(raw, []byte("\ufeff"))
	parse := map[string]func(string, []byte) (*table, error){
		".csv": parseCSV, ".json": parseJSONRows, ".jsonl": parseJSONRows, ".ndjson": parseJSONRows,
	}[path.Ext(name)]
	if parse == nil {
		return nil, fmt.Errorf("%q: data files end in .csv (with a header line), .json (an array of objects), .jsonl or .ndjson (an object per line)", name)
	}
	t, err := parse(name, raw)
	if err == nil && len(t.rows) == 0 {
		err = fmt.Errorf("%s:1:1: there are no rows in it", name)
	}
	return t, err
}

func parseCSV(name string, raw []byte) (*table, error) {
	in := csv.NewReader(bytes.NewReader(raw))
	in.FieldsPerRecord = -1 // counted here, for a better message
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s:1:1: the file is empty: its first line names the columns", name)
	}
	t := new(table)
	seen := map[string]bool{}
	for i, column := range header {
		line, at := in.FieldPos(i)
		switch column = strings.TrimSpace(column); {
		case column == "":
			return nil, fmt.Errorf("%s:%d:%d: column %d has no name", name, line, at, i+1)
		case seen[column]:
			return nil, fmt.Errorf("%s:%d:%d: a second column %q", name, line, at, column)
		}
		seen[column] = true
		t.columns = append(t.columns, column)
	}
	for err == nil {
		var row []string
		if row, err = in.Read(); err != nil {
			break
		}
		switch {
		case len(row) < len(t.columns):
			line, at := in.FieldPos(len(row) - 1)
			return nil, fmt.Errorf("%s:%d:%d: the row ends here, without %s: it has %d of %d columns", name, line, at, quoted(t.columns[len(row):]), len(row), len(t.columns))
		case len(row) > len(t.columns):
			line, at := in.FieldPos(len(t.columns))
			return nil, fmt.Errorf("%s:%d:%d: the row has %d fields, and the header names %d columns: put a field with a comma in double quotes", name, line, at, len(row), len(t.columns))
		case len(t.rows) == maxDataRows:
			line, at := in.FieldPos(0)
			return nil, fmt.Errorf("%s:%d:%d: more than %d rows", name, line, at, maxDataRows)
		}
		t.rows = append(t.rows, row)
	}
	var bad *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return t, nil
	case errors.As(err, &bad):
		return nil, fmt.Errorf("%s:%d:%d: %w", name, bad.Line, bad.Column, bad.Err)
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// parseJSONRows reads an array of objects, or objects one after another.
func parseJSONRows(name string, raw []byte) (*table, error) {
	fail := func(offset int64, format string, args ...any) error {
		before := raw[:min(max(int(offset), 0), len(raw))]
		line := bytes.Count(before, []byte("\n")) + 1
		column := len([]rune(string(before[bytes.LastIndexByte(before, '\n')+1:]))) + 1
		return fmt.Errorf("%s:%d:%d: %s", name, line, column, fmt.Sprintf(format, args...))
	}
	in := json.NewDecoder(bytes.NewReader(raw))
	// next is where the next value begins.
	next := func() int64 {
		at := in.InputOffset()
		return at + int64(len(raw[at:])-len(bytes.TrimLeft(raw[at:], " \t\r\n,")))
	}
	array := path.Ext(name) == ".json"
	if array {
		at := next()
		if open, err := in.Token(); err != nil || open != json.Delim('[') {
			return nil, fail(at, "it is to be a JSON array of objects: [{…}, {…}]")
		}
	}
	t := new(table)
	for in.More() {
		at := next()
		var object map[string]json.RawMessage
		if err := in.Decode(&object); err != nil {
			if _, ok := errors.AsType[*json.SyntaxError](err); ok {
				// Its offset does not count what Token read: ask again, from here.
				again, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(raw[at:], new(any)))
				if ok && again.Error() == err.Error() {
					at += again.Offset - 1
				}
				return nil, fail(at, "not JSON: %v", err)
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, fail(int64(len(raw)), "not JSON: it ends too early")
			}
			return nil, fail(at, "row %d is no object", len(t.rows)+1)
		}
		if len(object) == 0 {
			return nil, fail(at, "row %d has no columns", len(t.rows)+1)
		}
		if t.columns == nil {
			t.columns = slices.Sorted(maps.Keys(object))
		}
		row := make([]string, len(t.columns))
		for i, column := range t.columns {
			value, ok := object[column]
			if !ok {
				return nil, fail(at, "row %d has no %q, which the first row has", len(t.rows)+1, column)
			}
			row[i] = jsonText(value)
			delete(object, column)
		}
		for _, extra := range slices.Sorted(maps.Keys(object)) {
			return nil, fail(at, "row %d has a %q, which the first row has not", len(t.rows)+1, extra)
		}
		if len(t.rows) == maxDataRows {
			return nil, fail(at, "more than %d rows", maxDataRows)
		}
		t.rows = append(t.rows, row)
	}
	if array {
		if _, err := in.Token(); err != nil {
			return nil, fail(int64(len(raw)), "not JSON: the array is not closed")
		}
	}
	if at := next(); at < int64(len(raw)) {
		return nil, fail(at, "there is more than rows in it")
	}
	return t, nil
}

// jsonText is a JSON value as text: a string's own, everything else as written.
func jsonText(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil && !bytes.Equal(value, []byte("null")) {
		return s
	}
	var compact bytes.Buffer
	if json.Compact(&compact, value) != nil {
		return string(value)
	}
	return compact.String()
}

func quoted(names []string) string {
	var all []string
	for _, n := range names {
		all = append(all, fmt.Sprintf("%q", n))
	}
	return strings.Join(all, ", ")
}

// source is a table and how requests take its rows.
type source struct {
	name  string
	order RowOrder
	table *table
	salt  uint64 // tells the sources of a stream apart
}

var errNoRow = errors.New("no row is left")

// row of the request that d is the draw of.
func (s *source) row(d *draw) []string {
	n := uint64(len(s.table.rows))
	switch s.order {
	case Random:
		r := drawOf(d.stream^s.salt, d.seq, forRow)
		return s.table.rows[r.below(n)]
	case Unique:
		return s.table.rows[d.owner%n] // it is below n, or the request is not rendered: see left
	}
	return s.table.rows[d.seq%n]
}

// left is an error if the rows are all taken.
func (s *source) left(owner uint64) error {
	if n := len(s.table.rows); s.order == Unique && owner >= uint64(n) {
		return fmt.Errorf("%w in %q, which has %d: each is used once (order: unique)", errNoRow, s.name, n)
	}
	return nil
}

// checkData reports what is wrong between the stream and its data.
func (s Spec) checkData(report func(path, format string, args ...any)) {
	for _, name := range slices.Sorted(maps.Keys(s.Data)) {
		d := s.Data[name]
		if d.table != nil && d.Order == Unique && s.users() > len(d.table.rows) {
			report("data."+name, "order is unique, and the file has %d of the %d rows that the users need: add rows, or take order: sequential", len(d.table.rows), s.users())
		}
	}
}
