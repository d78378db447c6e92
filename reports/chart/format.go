package chart

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Missing is what stands where there is no value.
const Missing = "–"

// Duration writes d with three significant digits and its unit: "14.2 ms",
// "850 µs", "1.20 s"; from 1000 s on in minutes or hours.
func Duration(d time.Duration) string { return Seconds(d.Seconds()) }

// Seconds is Duration for seconds.
func Seconds(s float64) string {
	switch a := math.Abs(s); {
	case math.IsNaN(s) || math.IsInf(s, 0):
		return Missing
	case a < 0.5e-9:
		return "0 s"
	case a < 999.5e-9:
		return Significant(s*1e9, 3) + " ns"
	case a < 999.5e-6:
		return Significant(s*1e6, 3) + " µs"
	case a < 999.5e-3:
		return Significant(s*1e3, 3) + " ms"
	case a < 999.5:
		return Significant(s, 3) + " s"
	case a < 59970:
		return Significant(s/60, 3) + " min"
	default:
		return Significant(s/3600, 3) + " h"
	}
}

// TickSeconds is Seconds for the round values of an axis: "50 ms", not "50.0 ms".
func TickSeconds(s float64) string {
	number, unit, _ := strings.Cut(Seconds(s), " ")
	return strings.TrimSuffix(trimZeros(number)+" "+unit, " ")
}

// TickNumber is Number for the round values of an axis: "0.5", not "0.500".
func TickNumber(v float64) string { return trimZeros(Number(v)) }

func trimZeros(number string) string {
	if !strings.Contains(number, ".") || strings.Contains(number, "e") {
		return number
	}
	return strings.TrimRight(strings.TrimRight(number, "0"), ".")
}

// Share writes a ratio (0 to 1) as a percentage: "98.2%". It takes as many digits
// as it needs so that only a true 1 reads 100% and only a true 0 reads 0%.
func Share(ratio float64) string { return ShareAgainst(ratio, math.NaN()) }

// ShareAgainst is Share with enough digits that the reader, too, sees on which
// side of target the ratio lies: 0.96996 against 0.97 reads "96.996%".
func ShareAgainst(ratio, target float64) string {
	switch {
	case math.IsNaN(ratio) || math.IsInf(ratio, 0):
		return Missing
	case ratio == 0:
		return "0%"
	case ratio == 1:
		return "100%"
	case ratio > 0 && ratio < 1e-8:
		return "<0.000001%"
	case ratio < 1 && ratio > 1-1e-8:
		return ">99.999999%"
	case math.Abs(ratio*100-math.Round(ratio*100)) < 1e-9:
		return strconv.FormatFloat(ratio*100, 'f', 0, 64) + "%"
	}
	for digits := 1; ; digits++ {
		s := strconv.FormatFloat(ratio*100, 'f', digits, 64)
		shown, _ := strconv.ParseFloat(s, 64)
		shown /= 100
		honest := shown > 0 == (ratio > 0) && (shown < 1) == (ratio < 1)
		if !math.IsNaN(target) {
			const tiny = 1e-9
			honest = honest && (shown < target-tiny) == (ratio < target-tiny) && (shown > target+tiny) == (ratio > target+tiny)
		}
		if honest || digits == 6 {
			return s + "%"
		}
	}
}

// Rate writes events per second: "200/s", "0.40/s".
func Rate(perS float64) string {
	if math.IsNaN(perS) || math.IsInf(perS, 0) {
		return Missing
	}
	return Number(perS) + "/s"
}

// Bytes writes a size in powers of 1000: "64.0 kB".
func Bytes(n float64) string {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return Missing
	}
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for math.Abs(n) >= 999.5 && i < len(units)-1 {
		n /= 1000
		i++
	}
	return Number(n) + " " + units[i]
}

// Count writes a whole number, with commas from 10,000 on.
func Count(n int) string {
	s := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	if len(s) < 5 {
		return sign + s
	}
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return sign + b.String()
}

// Number writes v with three significant digits, whole numbers whole: "12",
// "0.40", "1234".
func Number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return Missing
	case v == math.Trunc(v) && math.Abs(v) < 1e15:
		return Count(int(v))
	case math.Abs(v) >= 999.5 && math.Abs(v) < 1e15:
		return Count(int(math.Round(v)))
	}
	return Significant(v, 3)
}

// Significant writes v with n significant digits, without an exponent where a
// person would not use one: Significant(0.04567, 3) is "0.0457".
func Significant(v float64, n int) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Sprintf("%.*f", n-1, v)
	}
	// Round first: 9.996 has one digit before the point, but is written 10.0.
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'e', n-1, 64), 64)
	exp := int(math.Floor(math.Log10(math.Abs(rounded)) + 1e-12))
	if exp < -6 || exp > 15 {
		return strconv.FormatFloat(v, 'e', n-1, 64)
	}
	return strconv.FormatFloat(rounded, 'f', max(0, n-1-exp), 64)
}

// Clock writes an offset on a time axis: "40 s", "2.5 s", from three minutes on "3:20".
func Clock(s float64) string {
	if math.IsNaN(s) || math.IsInf(s, 0) {
		return Missing
	}
	if math.Abs(s) < 180 {
		return strconv.FormatFloat(math.Round(s*1000)/1000+0, 'f', -1, 64) + " s" // +0 makes -0 a 0
	}
	t := int(math.Round(s))
	if t >= 3600 || t <= -3600 {
		return fmt.Sprintf("%d:%02d:%02d", t/3600, t%3600/60, t%60)
	}
	return fmt.Sprintf("%d:%02d", t/60, t%60)
}
