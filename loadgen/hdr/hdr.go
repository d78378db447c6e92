// Package hdr holds the histograms in which latencies travel: from the load
// generator and the edge proxies into the journal, and from there to verdicts
// and reports. It is a narrow view of HdrHistogram with one fixed geometry, so
// that any two histograms of a run can be added up.
package hdr

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"sync"
	"time"

	hdrhistogram "github.com/HdrHistogram/hdrhistogram-go"
)

// Lowest and Highest bound what a Histogram tells apart. A duration beyond is
// counted as the bound.
const (
	Lowest  = time.Microsecond
	Highest = 120 * time.Second
)

const (
	digits  = 3                                // significant decimal digits
	lowest  = int64(Lowest / time.Microsecond) // µs
	highest = int64(Highest / time.Microsecond)

	// With 3 digits the first 2048 values have a bucket each; above that, every
	// doubling of the value has 1024 buckets (HdrHistogram: the smallest power
	// of two that holds 2·10^digits).
	exact = 2048
)

// Histogram counts durations in microseconds from Lowest to Highest, each in a
// bucket at most 0.1 % wide. It stores only the buckets in use: some hundred bytes
// for the requests of a 100 ms window. Its methods want one goroutine at a time
// (reading alone may be shared).
type Histogram struct {
	packed *hdrhistogram.PackedHistogram
}

// New is an empty histogram.
func New() *Histogram {
	return &Histogram{packed: hdrhistogram.NewPacked(lowest, highest, digits)}
}

// Record counts d once.
func (h *Histogram) Record(d time.Duration) { h.RecordN(d, 1) }

// RecordN counts d n times; n below 1 counts nothing.
func (h *Histogram) RecordN(d time.Duration, n int64) {
	if n < 1 {
		return
	}
	// The value is in range by now and n positive: what is left to fail is a
	// total past 2^63, which no run reaches. Such counts stay out.
	_ = h.packed.RecordValues(micros(d), n)
}

// Merge adds the counts of o, which may be nil.
func (h *Histogram) Merge(o *Histogram) {
	if o != nil {
		h.packed.Merge(o.packed)
	}
}

// Count is how many durations were recorded.
func (h *Histogram) Count() int64 { return h.packed.TotalCount() }

// Quantile is the smallest recorded duration (its bucket's upper edge) that at
// least the share q of all do not exceed: rank ⌈q·n⌉, at least 1, at most n.
// It is 0 for an empty histogram.
func (h *Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := min(max(int64(math.Ceil(q*float64(n))), 1), n)
	var at int64
	h.packed.ForEachBucket(func(low, count int64) bool {
		at, rank = low, rank-count
		return rank > 0
	})
	return upper(at)
}

// Max is the upper edge of the highest bucket in use, 0 when empty.
func (h *Histogram) Max() time.Duration { return h.Quantile(1) }

// Min is the lower edge of the lowest bucket in use, 0 when empty.
func (h *Histogram) Min() time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return time.Duration(h.packed.Min()) * time.Microsecond
}

// Mean takes every duration for the middle of its bucket; 0 when empty.
func (h *Histogram) Mean() time.Duration {
	return min(time.Duration(h.packed.Mean()*float64(time.Microsecond)), Highest)
}

// CountAtMost is how many durations are d or less. Those in the same bucket as
// d count as such.
func (h *Histogram) CountAtMost(d time.Duration) int64 {
	if d < 0 {
		return 0
	}
	limit, sum := micros(d), int64(0)
	h.packed.ForEachBucket(func(low, count int64) bool {
		if low > limit {
			return false
		}
		sum += count
		return true
	})
	return sum
}

// Each calls f for every bucket in use, in ascending order, with its bounds
// (both included) and its count.
func (h *Histogram) Each(f func(low, high time.Duration, count int64)) {
	h.packed.ForEachBucket(func(low, count int64) bool {
		f(time.Duration(low)*time.Microsecond, upper(low), count)
		return true
	})
}

// Reset forgets everything.
func (h *Histogram) Reset() { h.packed.Reset() }

// Encode writes the histogram in HdrHistogram's V2 compressed format, base64;
// empty histograms are the empty string.
//
//	base64( cookie[4] length[4] zlib( cookie[4] payload[4] offset[4] digits[4]
//	        lowest[8] highest[8] ratio[8] counts… ) )
//
// All integers are big-endian; counts are ZigZag LEB128, a negative one being
// so many empty buckets in a row.
func (h *Histogram) Encode() string {
	if h.Count() == 0 {
		return ""
	}
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	return e.encode(h)
}

// Decode reads what Encode wrote. Text that is not of this package's geometry is
// an error, found before anything is allocated for its counts.
func Decode(s string) (*Histogram, error) {
	if s == "" {
		return New(), nil
	}
	if len(s) > maxEncoded {
		return nil, fmt.Errorf("decoding a histogram: %d bytes of text, at most %d are possible", len(s), maxEncoded)
	}
	if err := checkGeometry(s); err != nil {
		return nil, fmt.Errorf("decoding a histogram: %w", err)
	}
	packed, err := hdrhistogram.DecodePacked([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("decoding a histogram: %w", err)
	}
	// Counts whose sum leaves int64 are kept by the library with a total that
	// does not match them; no run counts that far.
	sum := int64(0)
	overflow := false
	packed.ForEachBucket(func(_, count int64) bool {
		overflow = count > math.MaxInt64-sum
		sum += count
		return !overflow
	})
	if overflow {
		return nil, errors.New("decoding a histogram: its counts add up to more than 2^63")
	}
	return &Histogram{packed: packed}, nil
}

// micros is d in whole microseconds, to the nearest, within bounds.
func micros(d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	if d%time.Microsecond >= 500*time.Nanosecond {
		us++
	}
	return min(max(us, lowest), highest)
}

// upper is the upper edge of the bucket that begins at low µs.
func upper(low int64) time.Duration {
	high := low
	if low >= exact {
		high += int64(1)<<(bits.Len64(uint64(low))-bits.Len64(exact-1)) - 1
	}
	return time.Duration(min(high, highest)) * time.Microsecond
}

// The longest text: every bucket in use with the longest count (9 bytes), not
// compressible, as base64.
const maxEncoded = (18*1024*9 + 1024) * 4 / 3

const (
	cookieCompressed = 0x1c849304 | 0x10
	cookiePlain      = 0x1c849303 | 0x10
	headerSize       = 40
)

// checkGeometry looks at the fixed part of an encoded histogram.
func checkGeometry(s string) error {
	raw := base64.NewDecoder(base64.StdEncoding, bytes.NewReader([]byte(s)))
	var outer [8]byte
	if _, err := io.ReadFull(raw, outer[:]); err != nil {
		return fmt.Errorf("too short: %w", err)
	}
	z, err := zlib.NewReader(raw)
	if err != nil {
		return err
	}
	defer z.Close()
	var header [headerSize]byte
	if _, err := io.ReadFull(z, header[:]); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	d, l, hi := binary.BigEndian.Uint32(header[12:]), binary.BigEndian.Uint64(header[16:]), binary.BigEndian.Uint64(header[24:])
	if d != digits || l != uint64(lowest) || hi != uint64(highest) {
		return fmt.Errorf("it has %d digits from %d to %d µs, not %d from %d to %d", d, l, hi, digits, lowest, highest)
	}
	return nil
}

// encoder is the reusable memory of one Encode; a zlib writer alone takes
// several hundred kilobytes.
type encoder struct {
	plain      []byte
	compressed bytes.Buffer
	zlib       *zlib.Writer
}

var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.zlib = zlib.NewWriter(&e.compressed)
	return e
}}

func (e *encoder) encode(h *Histogram) string {
	e.plain = append(e.plain[:0], make([]byte, headerSize)...)
	next := 0 // index of the bucket that comes next
	h.packed.ForEachBucket(func(low, count int64) bool {
		if i := bucketIndex(low); i > next {
			// One empty bucket is written as a count of 0, as the library does.
			if i-next == 1 {
				e.plain = zigzag(e.plain, 0)
			} else {
				e.plain = zigzag(e.plain, int64(next-i))
			}
			next = i
		}
		e.plain = zigzag(e.plain, count)
		next++
		return true
	})
	p := e.plain
	binary.BigEndian.PutUint32(p[0:], cookiePlain)
	binary.BigEndian.PutUint32(p[4:], uint32(len(p)-headerSize))
	binary.BigEndian.PutUint32(p[8:], 0)
	binary.BigEndian.PutUint32(p[12:], digits)
	binary.BigEndian.PutUint64(p[16:], uint64(lowest))
	binary.BigEndian.PutUint64(p[24:], uint64(highest))
	binary.BigEndian.PutUint64(p[32:], math.Float64bits(1))

	e.compressed.Reset()
	e.compressed.Write(make([]byte, 8))
	e.zlib.Reset(&e.compressed)
	// A bytes.Buffer accepts every write.
	_, _ = e.zlib.Write(p)
	_ = e.zlib.Close()
	out := e.compressed.Bytes()
	binary.BigEndian.PutUint32(out[0:], cookieCompressed)
	binary.BigEndian.PutUint32(out[4:], uint32(len(out)-8))
	return base64.StdEncoding.EncodeToString(out)
}

// bucketIndex is the place of the bucket that begins at low in HdrHistogram's
// array of counts: low itself below 2048, then 1024 buckets per doubling.
func bucketIndex(low int64) int {
	if low < exact {
		return int(low)
	}
	doubling := bits.Len64(uint64(low)) - bits.Len64(exact-1)
	return doubling*exact/2 + int(low>>doubling)
}

// zigzag appends v as ZigZag LEB128 with at most 9 bytes, the last one whole.
func zigzag(dst []byte, v int64) []byte {
	u := uint64(v<<1) ^ uint64(v>>63)
	for i := 0; i < 8; i++ {
		if u < 0x80 {
			return append(dst, byte(u))
		}
		dst = append(dst, byte(u)|0x80)
		u >>= 7
	}
	return append(dst, byte(u))
}
