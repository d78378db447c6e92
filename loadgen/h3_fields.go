//go:build http3

package loadgen

import (
	"bytes"
	"io"

	"github.com/quic-go/qpack"
	"golang.org/x/net/http2/hpack"
)

// h3fields takes field sections apart (QPACK, RFC 9204). We allow no dynamic table,
// so that the same bytes mean the same on every connection: what a server says
// again and again is looked up.
type h3fields struct {
	decoder qpack.Decoder
	memos   [4]h2memo
	memo    int // the next one to be replaced
}

// decode returns what stays as it is until the next call. An error is the end of
// the connection.
func (f *h3fields) decode(section []byte) (*h2header, *h3violation) {
	for i := range f.memos {
		if m := &f.memos[i]; len(m.block) > 0 && bytes.Equal(m.block, section) {
			return &m.header, nil
		}
	}
	var fields []hpack.HeaderField
	size := 0
	for next := f.decoder.Decode(section); ; {
		field, err := next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, violatedH3(qpackDecompressionFailed, "a field section that cannot be decoded: %v", err)
		}
		h := hpack.HeaderField{Name: field.Name, Value: field.Value}
		if size += int(h.Size()); size > maxFields {
			return nil, violatedH3(h3ExcessiveLoad, "more than %d bytes of header", maxFields)
		}
		fields = append(fields, h)
	}
	m := &f.memos[f.memo]
	f.memo = (f.memo + 1) % len(f.memos)
	m.block, m.header = append(m.block[:0], section...), understand(fields)
	return &m.header, nil
}

// h3Indices are the names of the static table that requests use (RFC 9204, A).
var h3Indices = map[string]uint64{
	":authority": 0, ":path": 1, ":method": 15, "accept": 29, "accept-encoding": 31, "accept-language": 72, "authorization": 84,
	"cache-control": 36, "content-encoding": 42, "content-length": 4, "content-type": 44, "cookie": 5, "date": 6, "etag": 7,
	"if-modified-since": 8, "if-none-match": 9, "if-range": 89, "origin": 90, "range": 55, "referer": 13, "user-agent": 95,
}

// The entries of the static table that are a whole field.
var (
	h3Methods = map[string]byte{"CONNECT": 15, "DELETE": 16, "GET": 17, "HEAD": 18, "OPTIONS": 19, "POST": 20, "PUT": 21}
	h3HTTPS   = byte(23)
)

// appendSection makes the field section of a request out of its HTTP/1.1 text, as
// appendBlock does for HTTP/2: of literals, which need no table of the server's.
func appendSection(dst, text []byte) []byte {
	line, text, _ := bytes.Cut(text, crlf)
	method, line, _ := bytes.Cut(line, []byte(" "))
	path, _, _ := bytes.Cut(line, []byte(" "))
	dst = append(dst, 0, 0) // required insert count and base: no dynamic table
	if i, ok := h3Methods[string(method)]; ok {
		dst = append(dst, 0xc0|i)
	} else {
		dst = appendFieldLine(dst, []byte(":method"), method)
	}
	dst = append(dst, 0xc0|h3HTTPS)
	dst = appendFieldLine(dst, []byte(":path"), path)
	// Pseudo-fields come before the others; Host may stand anywhere.
	for rest := text; len(rest) > 0; {
		var name, value []byte
		if name, value, rest = cutField(rest); equalFold(name, "host") {
			dst = appendFieldLine(dst, []byte(":authority"), value)
		}
	}
	var small [64]byte
	for len(text) > 0 {
		var name, value []byte
		name, value, text = cutField(text)
		if name = appendLower(small[:0], name); len(name) > 0 && string(name) != "host" {
			dst = appendFieldLine(dst, name, value)
		}
	}
	return dst
}

// appendFieldLine is a field as a literal: 01NTxxxx with the name's index in the
// static table (T), or 001NHxxx with the name; N keeps it out of any proxy's table.
func appendFieldLine(dst, name, value []byte) []byte {
	never := string(name) == "authorization" || string(name) == "cookie"
	if i, ok := h3Indices[string(name)]; ok {
		first := byte(0x50)
		if never {
			first |= 0x20
		}
		dst = appendNumber(dst, first, 4, i)
	} else {
		dst = append(appendNumber(dst, 0x20, 3, uint64(len(name))), name...)
	}
	return append(appendNumber(dst, 0, 7, uint64(len(value))), value...)
}
