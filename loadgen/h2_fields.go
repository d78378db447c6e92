package loadgen

import (
	"bytes"
	"fmt"
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// h2fields takes header blocks apart (HPACK, RFC 7541). Servers say the same again
// and again, in a block that neither changes the decoder's table nor is changed in
// its meaning by it, until another block adds to the table: such a block is looked
// up.
type h2fields struct {
	decoder *hpack.Decoder
	fields  []hpack.HeaderField // of the block that is being decoded
	size    int

	memos [4]h2memo
	memo  int // the next one to be replaced
}

type h2memo struct {
	block  []byte
	header h2header
}

// h2header is a header or trailer section as it was meant.
type h2header struct {
	status  int   // 0: there is none, as in trailers
	length  int64 // of Content-Length; -1 without
	fields  []hpack.HeaderField
	problem string // why the stream ends with it, if so
}

func (f *h2fields) init() {
	f.decoder = hpack.NewDecoder(4096, func(h hpack.HeaderField) {
		if f.size += int(h.Size()); f.size <= maxFields {
			f.fields = append(f.fields, h)
		}
	})
	f.decoder.SetMaxStringLength(maxFields)
}

// decode returns what stays as it is until the next call. An error is the end of
// the connection: the two ends mean different things from now on.
func (f *h2fields) decode(block []byte) (*h2header, error) {
	for i := range f.memos {
		if m := &f.memos[i]; len(m.block) > 0 && bytes.Equal(m.block, block) {
			return &m.header, nil
		}
	}
	f.fields, f.size = nil, 0
	if _, err := f.decoder.Write(block); err != nil {
		return nil, violated("a header block that cannot be decoded: %v", err)
	}
	if err := f.decoder.Close(); err != nil {
		return nil, violated("a header block that cannot be decoded: %v", err)
	}
	if f.size > maxFields {
		return nil, violated("more than %d bytes of header", maxFields)
	}
	h := understand(f.fields)
	if !keepsTable(block) {
		for i := range f.memos {
			f.memos[i].block = f.memos[i].block[:0]
		}
		return &h, nil
	}
	m := &f.memos[f.memo]
	f.memo = (f.memo + 1) % len(f.memos)
	m.block, m.header = append(m.block[:0], block...), h
	return &m.header, nil
}

// keepsTable tells whether a valid block leaves the decoder's table as it is.
func keepsTable(block []byte) bool {
	number := func(prefix int) uint64 {
		mask := byte(1<<prefix - 1)
		v := uint64(block[0] & mask)
		more := v == uint64(mask)
		block = block[1:]
		for shift := 0; more && len(block) > 0; shift += 7 {
			v += uint64(block[0]&0x7f) << shift
			more = block[0]&0x80 != 0
			block = block[1:]
		}
		return v
	}
	text := func() bool {
		if len(block) == 0 {
			return false
		}
		n := number(7)
		if n > uint64(len(block)) {
			return false
		}
		block = block[n:]
		return true
	}
	for len(block) > 0 {
		switch b := block[0]; {
		case b&0x80 != 0:
			number(7)
		case b&0xe0 == 0: // a literal that is not added
			if number(4) == 0 && !text() || !text() {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// understand checks what decides about an answer (RFC 9113, 8.2 and 8.3).
func understand(fields []hpack.HeaderField) h2header {
	h := h2header{length: -1, fields: fields}
	regular := 0
	for _, f := range fields {
		switch {
		case f.Name == ":status":
			n, err := strconv.Atoi(f.Value)
			if err != nil || len(f.Value) != 3 || n < 100 || h.status != 0 || regular > 0 {
				h.problem = fmt.Sprintf("a status %.40q", f.Value)
				return h
			}
			h.status = n
			continue
		case f.Name == "" || f.Name[0] == ':':
			h.problem = fmt.Sprintf("a header field %.40q", f.Name)
			return h
		case f.Name == "content-length":
			n, ok := parseLength([]byte(f.Value))
			if !ok || h.length >= 0 && h.length != n {
				h.problem = fmt.Sprintf("Content-Length %.40q", f.Value)
				return h
			}
			h.length = n
		}
		regular++
		for i := range len(f.Name) {
			if c := f.Name[i]; !isToken(c) || c >= 'A' && c <= 'Z' {
				h.problem = fmt.Sprintf("a header field %.40q", f.Name)
				return h
			}
		}
		for i := range len(f.Value) {
			if c := f.Value[i]; c < ' ' && c != '\t' || c == 0x7f {
				h.problem = fmt.Sprintf("a control character in header field %.40q", f.Name)
				return h
			}
		}
	}
	if h.status != 0 {
		h.fields = fields[1:] // the status came first: it is no field
	}
	return h
}

// keep puts the fields where somebody looks at them, if anybody does.
func (h *h2header) keep(into *reply) {
	if into == nil {
		return
	}
	for _, f := range h.fields {
		into.addField([]byte(f.Name), []byte(f.Value))
	}
}

// h2Indices are the names of the static table that requests use (RFC 7541, A).
var h2Indices = map[string]uint64{
	":authority": 1, ":method": 2, ":path": 4, "accept-charset": 15, "accept-encoding": 16, "accept-language": 17, "accept": 19,
	"authorization": 23, "cache-control": 24, "content-encoding": 26, "content-language": 27, "content-length": 28, "content-type": 31,
	"cookie": 32, "date": 33, "etag": 34, "expect": 35, "from": 37, "if-match": 39, "if-modified-since": 40, "if-none-match": 41,
	"if-range": 42, "if-unmodified-since": 43, "max-forwards": 47, "range": 50, "referer": 51, "user-agent": 58, "via": 60,
}

// appendNumber is an HPACK integer after the bits of first.
func appendNumber(dst []byte, first byte, prefix int, v uint64) []byte {
	most := uint64(1)<<prefix - 1
	if v < most {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(most))
	for v -= most; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}

// appendField is a field as a literal that no table is to take: the same bytes mean
// the same on every connection.
func appendField(dst []byte, name, value []byte) []byte {
	var first byte
	if string(name) == "authorization" || string(name) == "cookie" {
		first = 0x10 // nor any proxy's
	}
	i := h2Indices[string(name)]
	dst = appendNumber(dst, first, 4, i)
	if i == 0 {
		dst = append(appendNumber(dst, 0, 7, uint64(len(name))), name...)
	}
	return append(appendNumber(dst, 0, 7, uint64(len(value))), value...)
}

// appendBlock makes the header block of a request out of its HTTP/1.1 text, so
// that a request is the same in both. text ends with the header; of a call of gRPC,
// what that has otherwise is left out.
func appendBlock(dst, text []byte, scheme string, call bool) []byte {
	line, text, _ := bytes.Cut(text, crlf)
	method, line, _ := bytes.Cut(line, []byte(" "))
	path, _, _ := bytes.Cut(line, []byte(" "))
	switch string(method) {
	case "GET":
		dst = append(dst, 0x82)
	case "POST":
		dst = append(dst, 0x83)
	default:
		dst = appendField(dst, []byte(":method"), method)
	}
	if scheme == "https" {
		dst = append(dst, 0x87)
	} else {
		dst = append(dst, 0x86)
	}
	dst = appendField(dst, []byte(":path"), path)
	// Pseudo-fields come before the others; Host may stand anywhere.
	for rest := text; len(rest) > 0; {
		var name, value []byte
		if name, value, rest = cutField(rest); equalFold(name, "host") {
			dst = appendField(dst, []byte(":authority"), value)
		}
	}
	var small [64]byte
	for len(text) > 0 {
		var name, value []byte
		name, value, text = cutField(text)
		name = appendLower(small[:0], name)
		if len(name) > 0 && string(name) != "host" && !(call && grpcLeft(name)) {
			dst = appendField(dst, name, value)
		}
	}
	return dst
}

var crlf = []byte("\r\n")

// cutField takes the first line off; it has no name if it is no field.
func cutField(text []byte) (name, value, rest []byte) {
	line, rest, _ := bytes.Cut(text, crlf)
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return nil, nil, rest
	}
	return name, bytes.Trim(value, " \t"), rest
}

func appendLower(dst, s []byte) []byte {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
