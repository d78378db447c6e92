package hdr

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	hdrhistogram "github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"
)

// drawDuration covers the range and what lies beyond it.
var drawDuration = rapid.Custom(func(t *rapid.T) time.Duration {
	return time.Duration(rapid.OneOf(
		rapid.Int64Range(-5, 5000),
		rapid.Int64Range(0, int64(50*time.Millisecond)),
		rapid.Int64Range(0, int64(3*Highest)),
	).Draw(t, "ns"))
})

func drawHistogram(t *rapid.T, label string) (*Histogram, []time.Duration) {
	h, ds := New(), rapid.SliceOfN(drawDuration, 0, 80).Draw(t, label)
	for _, d := range ds {
		h.Record(d)
	}
	return h, ds
}

type bucket struct {
	low, high time.Duration
	count     int64
}

func buckets(h *Histogram) []bucket {
	var bs []bucket
	h.Each(func(low, high time.Duration, count int64) { bs = append(bs, bucket{low, high, count}) })
	return bs
}

func TestEmpty(t *testing.T) {
	h := New()
	if h.Count() != 0 || h.Quantile(0.99) != 0 || h.Max() != 0 || h.Min() != 0 || h.Mean() != 0 || h.CountAtMost(time.Hour) != 0 {
		t.Errorf("an empty histogram is not all zero: %v", buckets(h))
	}
	if s := h.Encode(); s != "" {
		t.Errorf("Encode of an empty histogram = %q, want empty", s)
	}
	back, err := Decode("")
	if err != nil || back.Count() != 0 {
		t.Errorf("Decode of the empty string = %v, %v", back, err)
	}
}

func TestOutOfRangeIsCountedAsTheBound(t *testing.T) {
	h := New()
	h.Record(-time.Second)
	h.Record(0)
	h.Record(time.Hour)
	h.RecordN(time.Second, 0)
	h.RecordN(time.Second, -3)
	if h.Count() != 3 || h.Min() != Lowest || h.Max() != Highest {
		t.Errorf("count %d, min %v, max %v; want 3, %v, %v", h.Count(), h.Min(), h.Max(), Lowest, Highest)
	}
}

// Quantile and CountAtMost agree with a sorted list, to the width of a bucket.
func TestAgreesWithTheSortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, ds := drawHistogram(t, "durations")
		if len(ds) == 0 {
			return
		}
		for i, d := range ds {
			ds[i] = time.Duration(micros(d)) * time.Microsecond
		}
		slices.Sort(ds)
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		want := ds[min(max(int(math.Ceil(q*float64(len(ds)))), 1), len(ds))-1]
		got := h.Quantile(q)
		if got < want || float64(got) > float64(want)*1.001+1 {
			t.Fatalf("Quantile(%v) = %v, the list says %v", q, got, want)
		}
		if share := float64(h.CountAtMost(got)) / float64(len(ds)); share < q {
			t.Fatalf("CountAtMost(Quantile(%v)) is a share of %v", q, share)
		}
		if h.CountAtMost(Highest) != int64(len(ds)) || h.CountAtMost(-1) != 0 {
			t.Fatalf("CountAtMost of the bounds = %d, %d; want %d, 0", h.CountAtMost(Highest), h.CountAtMost(-1), len(ds))
		}
		if h.Min() > ds[0] || h.Max() < ds[len(ds)-1] {
			t.Fatalf("[%v, %v] does not hold [%v, %v]", h.Min(), h.Max(), ds[0], ds[len(ds)-1])
		}
		if m := h.Mean(); m < h.Min() || m > h.Max() {
			t.Fatalf("mean %v outside [%v, %v]", m, h.Min(), h.Max())
		}
	})
}

func TestMergeIsAssociativeAndCommutative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, as := drawHistogram(t, "a")
		b, bs := drawHistogram(t, "b")
		c, cs := drawHistogram(t, "c")
		left, right, all := New(), New(), New()
		left.Merge(a)
		left.Merge(b)
		left.Merge(c)
		right.Merge(c)
		right.Merge(nil)
		right.Merge(b)
		right.Merge(a)
		for _, d := range slices.Concat(as, bs, cs) {
			all.Record(d)
		}
		if !slices.Equal(buckets(left), buckets(right)) || !slices.Equal(buckets(left), buckets(all)) {
			t.Fatalf("(a+b)+c = %v, c+b+a = %v, all at once = %v", buckets(left), buckets(right), buckets(all))
		}
	})
}

func TestDecodeUndoesEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, _ := drawHistogram(t, "durations")
		h.RecordN(drawDuration.Draw(t, "many"), rapid.Int64Range(0, 1<<50).Draw(t, "n"))
		s := h.Encode()
		back, err := Decode(s)
		if err != nil {
			t.Fatalf("Decode(%q): %v", s, err)
		}
		if !slices.Equal(buckets(h), buckets(back)) || h.Count() != back.Count() {
			t.Fatalf("%v became %v", buckets(h), buckets(back))
		}
	})
}

// Other readers of the format must see the same counts.
func TestTheLibraryReadsWhatEncodeWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, ds := drawHistogram(t, "durations")
		if len(ds) == 0 {
			return
		}
		theirs, err := hdrhistogram.Decode([]byte(h.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		var got []bucket
		for _, b := range theirs.Distribution() {
			if b.Count > 0 {
				got = append(got, bucket{time.Duration(b.From) * time.Microsecond,
					time.Duration(min(b.To, highest)) * time.Microsecond, b.Count})
			}
		}
		if !slices.Equal(got, buckets(h)) {
			t.Fatalf("the library sees %v, we have %v", got, buckets(h))
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	wide := hdrhistogram.New(1, math.MaxInt64, 5)
	if err := wide.RecordValue(1); err != nil {
		t.Fatal(err)
	}
	foreign, err := wide.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	good := New()
	good.Record(time.Millisecond)
	whole := good.Encode()
	huge := New()
	huge.RecordN(time.Millisecond, math.MaxInt64)
	for name, c := range map[string]struct{ in, want string }{
		"not base64":     {"%%%", "too short"},
		"too short":      {"AAAA", "too short"},
		"not zlib":       {base64.StdEncoding.EncodeToString(make([]byte, 60)), "zlib"},
		"wide geometry":  {string(foreign), "5 digits from 1 to 9223372036854775807"},
		"cut off":        {whole[:len(whole)-8], "decoding a histogram"},
		"megabytes":      {strings.Repeat("A", maxEncoded+1), "at most"},
		"trailing noise": {whole + "!!!!", "decoding a histogram"},
	} {
		if _, err := Decode(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	if h, err := Decode(huge.Encode()); err != nil || h.Count() != math.MaxInt64 {
		t.Errorf("the largest count: %v, %v", h, err)
	}
}

func FuzzDecode(f *testing.F) {
	h := New()
	f.Add(h.Encode())
	h.RecordN(5*time.Millisecond, 1000)
	h.Record(90 * time.Second)
	f.Add(h.Encode())
	f.Add("HISTFAAAACF42pNpmSzMwMDAyAABzFCaEUoz2X+AMwADHgLW")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Decode(s)
		if err != nil {
			return
		}
		again, err := Decode(h.Encode())
		if err != nil {
			t.Fatalf("what Decode accepted does not encode: %v", err)
		}
		if !slices.Equal(buckets(h), buckets(again)) {
			t.Fatalf("%v became %v", buckets(h), buckets(again))
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	h := New()
	i := 0
	for b.Loop() {
		i++
		h.Record(time.Duration(i%500) * 10 * time.Microsecond)
	}
}

// One 100 ms window of 200 requests.
func BenchmarkEncodeWindow(b *testing.B) {
	h := New()
	for i := range 200 {
		h.Record(time.Duration(1000+i*i) * time.Microsecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.Encode()
	}
}
