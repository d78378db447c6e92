package framing

// Body finds the end of a message body, fed with the bytes behind the head in
// pieces of any size. The zero value is a body of no bytes.
type Body struct {
	kind  kind
	state state // chunked only
	digit uint8 // of the chunk size, read so far
	left  int64 // bytes to come: of the body (sized) or of the chunk
	taken int64 // bytes of content so far
}

type kind uint8

const (
	none kind = iota
	sized
	chunked
	untilClose
)

// The states of a chunked body, named for the byte that is expected next:
//
//	chunk   = 1*16HEXDIG [*WS] [";" *ext] CR LF  data  CR LF
//	body    = *chunk  "0" … CR LF  *(trailer CR LF)  CR LF
//
//	size ─┬─> pad ─┐
//	      ├─> ext ─┼─> sizeLF ─┬─> data ─> dataCR ─> dataLF ─> size
//	      └────────┘           └─> trailer ─┬─> field ─> fieldLF ─> trailer
//	                                        └─> endLF ─> end
type state uint8

const (
	size state = iota
	pad
	ext
	sizeLF
	data
	dataCR
	dataLF
	trailer
	field
	fieldLF
	endLF
	end
)

// Empty tells that no byte belongs to the body.
func (b *Body) Empty() bool { return b.kind == none }

// UntilClose tells that the body ends with the connection.
func (b *Body) UntilClose() bool { return b.kind == untilClose }

// Pending is how many bytes are certain to come next: what a reader may expect
// without looking at them.
func (b *Body) Pending() int64 {
	switch {
	case b.kind == untilClose:
		return 1 << 62
	case b.kind == sized, b.kind == chunked && b.state == data:
		return b.left
	}
	return 0
}

// Content is how many bytes of the body's content were taken so far: all but the
// sizes, extensions, line ends and trailers of chunks.
func (b *Body) Content() int64 { return b.taken }

// Next takes as many bytes at the start of p as are alike: all content, or all not.
// They are none at the end of the body, and where Take would fail.
func (b *Body) Next(p []byte) (n int, content bool) {
	if b.kind != chunked || b.state == data {
		if b.kind == chunked {
			p = p[:min(b.left, int64(len(p)))]
		}
		n, _, _ = b.Take(p)
		return n, true
	}
	for n < len(p) && b.state != end && b.state != data && b.step(p[n]) {
		n++
	}
	return n, false
}

// Take says how many bytes at the start of p belong to the body, and whether it
// ends with them. After an error (ErrOpaque: this is not chunked coding), the n
// bytes before it still belong to the body.
func (b *Body) Take(p []byte) (n int, done bool, err error) {
	switch b.kind {
	case none:
		return 0, true, nil
	case untilClose:
		b.taken += int64(len(p))
		return len(p), false, nil
	case sized:
		n = int(min(b.left, int64(len(p))))
		b.left -= int64(n)
		b.taken += int64(n)
		return n, b.left == 0, nil
	}
	for n < len(p) && b.state != end {
		if b.state == data {
			k := min(b.left, int64(len(p)-n))
			b.left -= k
			b.taken += k
			n += int(k)
			if b.left == 0 {
				b.state = dataCR
			}
			continue
		}
		if !b.step(p[n]) {
			return n, false, ErrOpaque
		}
		n++
	}
	return n, b.state == end, nil
}

// step takes one byte outside of chunk data.
func (b *Body) step(c byte) bool {
	switch b.state {
	case size:
		if v, ok := hex(c); ok {
			if b.digit == 16 || b.left > 1<<57 {
				return false
			}
			b.digit++
			b.left = b.left<<4 | int64(v)
			return true
		}
		if b.digit == 0 {
			return false
		}
		switch c {
		case ' ', '\t':
			b.state = pad
		case ';':
			b.state = ext
		case '\r':
			b.state = sizeLF
		default:
			return false
		}
	case pad:
		switch c {
		case ' ', '\t':
		case '\r':
			b.state = sizeLF
		default:
			return false
		}
	case ext:
		switch c {
		case '\r':
			b.state = sizeLF
		case '\n':
			return false
		}
	case sizeLF:
		if c != '\n' {
			return false
		}
		b.digit = 0
		b.state = data
		if b.left == 0 {
			b.state = trailer
		}
	case dataCR:
		if c != '\r' {
			return false
		}
		b.state = dataLF
	case dataLF:
		if c != '\n' {
			return false
		}
		b.state = size
	case trailer:
		switch c {
		case '\r':
			b.state = endLF
		case '\n':
			return false
		default:
			b.state = field
		}
	case field:
		switch c {
		case '\r':
			b.state = fieldLF
		case '\n':
			return false
		}
	case fieldLF:
		if c != '\n' {
			return false
		}
		b.state = trailer
	case endLF:
		if c != '\n' {
			return false
		}
		b.state = end
	}
	return true
}

func hex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
