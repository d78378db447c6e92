package faults

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Percent is a share written 50 or 50%; its value is 0 to 1.
type Percent float64

// Bytes is a size written "0 B", "64KB" (1000), "64KiB" (1024).
type Bytes int64

// ByteRate is bytes per second, written "100KB/s".
type ByteRate int64

// Shift is a span of time in either direction, written 5m, +5m or -1h.
type Shift time.Duration

// Source is where callers call from, written "10.0.0.0/8" or, for one address,
// "10.1.2.3"; the zero Source is anywhere.
type Source string

// Pick says how many instances: 1 (also the zero Pick), 50%, all. Nothing picked
// is an error.
type Pick struct {
	Count int     `json:"count,omitempty"`
	Ratio Percent `json:"ratio,omitempty"`
	All   bool    `json:"all,omitempty"`
}

// UnmarshalText reads "50", "50%" or "12.5 %".
func (p *Percent) UnmarshalText(text []byte) error {
	number := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(text)), "%"))
	v, ok := decimal(number)
	if !ok || v > 100 {
		return fmt.Errorf("%q is not a percentage: write a number from 0 to 100, like 50 or 50%%", text)
	}
	*p = Percent(v / 100)
	return nil
}

// MarshalText writes "50%", with as many digits as it takes to read back the
// same share.
func (p Percent) MarshalText() ([]byte, error) {
	if !(p >= 0 && p <= 1) {
		return nil, fmt.Errorf("percentage %v is not within 0%% and 100%%", float64(p)*100)
	}
	for digits := 6; ; digits++ {
		s := strconv.FormatFloat(float64(p)*100, 'f', digits, 64)
		if v, err := strconv.ParseFloat(s, 64); (err == nil && v/100 == float64(p)) || digits == 340 {
			if strings.Contains(s, ".") {
				s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
			}
			return []byte(s + "%"), nil
		}
	}
}

// String is the text form.
func (p Percent) String() string {
	b, err := p.MarshalText()
	if err != nil {
		return fmt.Sprintf("%v%%", float64(p)*100)
	}
	return string(b)
}

// UnmarshalText reads "5m", "+5m" or "-1h".
func (s *Shift) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%q is no span of time: write one like 5m or -1h (units: ns, us, ms, s, m, h)", text)
	}
	*s = Shift(d)
	return nil
}

// MarshalText is what UnmarshalText reads.
func (s Shift) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is the text form.
func (s Shift) String() string { return time.Duration(s).String() }

// UnmarshalText reads "10.0.0.0/8", "2001:db8::/32" or a single address.
func (s *Source) UnmarshalText(text []byte) error {
	p, err := Source(strings.TrimSpace(string(text))).prefix()
	if err != nil {
		return err
	}
	*s = Source(p.String())
	if p.IsSingleIP() {
		*s = Source(p.Addr().String())
	}
	return nil
}

// prefix is the addresses that are meant; invalid for the zero Source.
func (s Source) prefix() (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(string(s)); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(string(s))
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no range of addresses: write one like 10.0.0.0/8 or 2001:db8::/32, or one address", string(s))
	}
	return p.Masked(), nil
}

// or is the value of an optional percentage: all, where none is given.
func (p *Percent) or(all float64) float64 {
	if p == nil {
		return all
	}
	return float64(*p)
}

// units, largest first; of two equal ones the first is written.
var units = []struct {
	name string
	size int64
}{
	{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

const unitNames = "B, KB, KiB, MB, MiB, GB or GiB"

// UnmarshalText reads "64KB", "1.5 MiB", "0 B"; a 0 needs no unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, ok := size(string(text))
	if !ok {
		return fmt.Errorf("%q is not a size: write a number with its unit (%s), like 64KB", text, unitNames)
	}
	*b = Bytes(n)
	return nil
}

// MarshalText writes the size in the largest unit that divides it.
func (b Bytes) MarshalText() ([]byte, error) {
	if b < 0 {
		return nil, fmt.Errorf("size %d is below zero", int64(b))
	}
	return []byte(sizeText(int64(b))), nil
}

// String is the text form.
func (b Bytes) String() string { return sizeText(int64(b)) }

// UnmarshalText reads "100KB/s".
func (r *ByteRate) UnmarshalText(text []byte) error {
	per, ok := strings.CutSuffix(strings.TrimSpace(string(text)), "/s")
	n, ok2 := size(per)
	if !ok || !ok2 {
		return fmt.Errorf("%q is not a rate of bytes: write a number with its unit (%s) per second, like 100KB/s", text, unitNames)
	}
	*r = ByteRate(n)
	return nil
}

// MarshalText writes "100KB/s".
func (r ByteRate) MarshalText() ([]byte, error) {
	if r < 0 {
		return nil, fmt.Errorf("rate %d is below zero", int64(r))
	}
	return []byte(r.String()), nil
}

// String is the text form.
func (r ByteRate) String() string { return sizeText(int64(r)) + "/s" }

func size(s string) (n int64, ok bool) {
	s = strings.TrimSpace(s)
	if s == "0" {
		return 0, true
	}
	for _, u := range units {
		number, found := strings.CutSuffix(s, u.name)
		if !found {
			continue
		}
		number = strings.TrimSpace(number)
		// Whole numbers exactly: a float64 has only 53 bits for them.
		if whole, err := strconv.ParseInt(number, 10, 64); err == nil && strings.Trim(number, "0123456789") == "" {
			return whole * u.size, whole <= math.MaxInt64/u.size
		}
		v, ok := decimal(number)
		if v *= float64(u.size); !ok || v >= 1<<53 || v != math.Trunc(v) {
			return 0, false
		}
		return int64(v), true
	}
	return 0, false
}

func sizeText(n int64) string {
	for _, u := range units {
		if n != 0 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return "0B"
}

// decimal reads digits with at most one point: no sign, exponent, hexadecimal,
// underscore, infinity or NaN, all of which strconv would take.
func decimal(s string) (v float64, ok bool) {
	if s == "" || s == "." || strings.Trim(s, "0123456789.") != "" || len(s) > 400 {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

// UnmarshalText reads "1", "50%" or "all".
func (p *Pick) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	wrong := fmt.Errorf("%q picks nothing: write a number of instances from 1, a share above 0%% like 50%%, or all", text)
	switch {
	case s == "all":
		*p = Pick{All: true}
	case strings.HasSuffix(s, "%"):
		var share Percent
		if share.UnmarshalText([]byte(s)) != nil || share == 0 {
			return wrong
		}
		*p = Pick{Ratio: share}
	default:
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil || n == 0 {
			return wrong
		}
		*p = Pick{Count: int(n)}
	}
	return nil
}

// MarshalText is what UnmarshalText reads.
func (p Pick) MarshalText() ([]byte, error) {
	switch {
	case p.All:
		return []byte("all"), nil
	case p.Ratio != 0:
		return p.Ratio.MarshalText()
	}
	return []byte(strconv.Itoa(max(p.Count, 1))), nil
}

// String is the text form.
func (p Pick) String() string {
	b, err := p.MarshalText()
	if err != nil {
		return p.Ratio.String()
	}
	return string(b)
}

// Of is how many of that many instances are picked; a share is rounded to the
// nearest number, halves up.
func (p Pick) Of(instances int) (int, error) {
	n := max(p.Count, 1)
	switch {
	case p.All:
		n = instances
	case p.Ratio != 0:
		n = int(math.Floor(float64(p.Ratio)*float64(instances) + 0.5))
	}
	switch {
	case n < 1:
		return 0, fmt.Errorf("pick %s of %d is none: a fault that hits nothing shows nothing", p, instances)
	case n > instances:
		return 0, fmt.Errorf("pick %s is more than there are (%d)", p, instances)
	}
	return n, nil
}
