package hdr

import "time"

// Counts is a histogram of the same bucketCount for a goroutine that records all
// the time: Record takes a few nanoseconds and touches no memory but the bucket's.
// The bucketCount lie in pages, which come when first used, so that a hundred Counts
// of a narrow range each are small. The zero Counts is empty and ready; its
// methods want one goroutine at a time.
type Counts struct {
	pages [(bucketCount + pageSize - 1) / pageSize]*page
}

const (
	pageSize    = 256
	bucketCount = (bitsOfHighest-11)*exact/2 + int(highest>>(bitsOfHighest-11)) + 1
	// highest is 120e6 µs, between 2^26 and 2^27.
	bitsOfHighest = 27
)

type page [pageSize]uint32

// Record counts d once.
func (c *Counts) Record(d time.Duration) {
	i := bucketIndex(micros(d))
	p := c.pages[i/pageSize]
	if p == nil {
		p = new(page)
		c.pages[i/pageSize] = p
	}
	p[i%pageSize]++
}

// MoveTo adds everything counted so far to h, and forgets it. It keeps the pages
// that were in use for the next counts, which are likely to be near, and gives up
// the others.
func (c *Counts) MoveTo(h *Histogram) {
	for n, p := range c.pages {
		if p == nil {
			continue
		}
		used := false
		for i, count := range p {
			if count > 0 {
				used = true
				// The value is a bucket's lower edge, the count positive: see RecordN.
				_ = h.packed.RecordValues(max(bucketLow(n*pageSize+i), lowest), int64(count))
			}
		}
		if used {
			clear(p[:])
		} else {
			c.pages[n] = nil
		}
	}
}

// bucketLow is where bucket i begins: the inverse of bucketIndex.
func bucketLow(i int) int64 {
	if i < exact {
		return int64(i)
	}
	doubling := i/(exact/2) - 1
	return int64(i-doubling*exact/2) << doubling
}
