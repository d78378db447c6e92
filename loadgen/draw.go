package loadgen

import (
	"encoding/hex"
	"hash/fnv"
	"math/bits"
	"strconv"
)

// draw is the randomness of one request: a splitmix64 generator (Steele, Lea
// and Flood, "Fast splittable pseudorandom number generators", 2014) seeded by
// stream, request number and purpose. It costs a few nanoseconds to make and no
// memory to keep, so that any request can be rendered again at any time.
type draw struct {
	state  uint64
	stream uint64 // seed of the stream
	seq    uint64

	// What templates may use besides: set where a request has them.
	owner    uint64   // whose row of unique data it is: the user's, or the request's own number
	due      int64    // when it was due, in nanoseconds since 1970
	captured []string // values from earlier steps, by slot
}

// purpose keeps the draws of a request apart, so that one more call in a body
// changes neither the kind of the request nor its trace id.
type purpose uint64

const (
	forContent purpose = iota
	forKind
	forTrace
	forRow
	forCheck
)

// ofStep keeps the steps of a session apart.
func (p purpose) ofStep(step int) purpose { return p + purpose(step)<<8 }

func newDraw(stream, seq uint64, p purpose) *draw {
	d := drawOf(stream, seq, p)
	return &d
}

func drawOf(stream, seq uint64, p purpose) draw {
	return draw{state: mix(mix(stream+uint64(p)*0xd1342543de82ef95) + seq*0x9e3779b97f4a7c15), stream: stream, seq: seq, owner: seq}
}

// streamSeed tells streams of one run apart by their names.
func streamSeed(seed uint64, name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return mix(seed) ^ h.Sum64()
}

func (d *draw) next() uint64 {
	d.state += 0x9e3779b97f4a7c15
	return mix(d.state)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is uniform over [0, n), to within n/2^64.
func (d *draw) below(n uint64) uint64 {
	high, _ := bits.Mul64(d.next(), n)
	return high
}

// between is uniform over [low, high].
func (d *draw) between(low, high int64) int64 {
	span := uint64(high) - uint64(low) + 1
	if span == 0 { // all of int64
		return int64(d.next())
	}
	return int64(uint64(low) + d.below(span))
}

func (d *draw) user(dst []byte) []byte {
	return strconv.AppendUint(append(dst, "u-"...), d.below(1000), 10)
}

func (d *draw) product(dst []byte) []byte {
	return strconv.AppendUint(append(dst, "p-"...), d.below(100), 10)
}

func (d *draw) amount(dst []byte) []byte {
	cents := 100 + d.below(19900)
	return append(strconv.AppendUint(dst, cents/100, 10), '.', byte('0'+cents/10%10), byte('0'+cents%10))
}

func (d *draw) uuid(dst []byte) []byte {
	var raw [16]byte
	putUint64(raw[:8], d.next())
	putUint64(raw[8:], d.next())
	raw[6] = raw[6]&0x0f | 0x40 // version 4
	raw[8] = raw[8]&0x3f | 0x80 // variant of RFC 9562
	for i, part := range [][]byte{raw[0:4], raw[4:6], raw[6:8], raw[8:10], raw[10:16]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}

// trace is the W3C trace context of a request: its trace id and, after a dash,
// the id of its first span; neither is ever all zero.
func (d *draw) trace(dst []byte) []byte {
	var raw [24]byte
	putUint64(raw[0:], d.next())
	putUint64(raw[8:], d.next()|1)
	putUint64(raw[16:], d.next()|1)
	dst = hex.AppendEncode(dst, raw[:16])
	return hex.AppendEncode(append(dst, '-'), raw[16:])
}

func putUint64(dst []byte, v uint64) {
	for i := range 8 {
		dst[i] = byte(v >> (56 - 8*i))
	}
}
