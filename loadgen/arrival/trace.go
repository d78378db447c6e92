package arrival

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Trace is when requests came once, to be sent again: a list of moments. The
// first is due at once. After the last, nothing is due. A Trace does not change;
// any number of goroutines may use it.
type Trace struct {
	due      []time.Duration
	requests []string // "GET /path HTTP/1.1" of each, where the file is an access log
	speed    float64  // 0 is 1
}

// MaxTrace bounds the moments of a trace.
const MaxTrace = 10_000_000

// ParseTrace reads one moment per line: seconds ("12.5", "1700000000.123"), RFC
// 3339 ("2026-11-20T10:00:00.5Z"), or an access log in the common or combined
// format, of which it takes the time and the request line. Blank lines and lines
// that begin with # are skipped. All lines have the form of the first.
//
// An access log tells whole seconds: the requests of one second are spread evenly
// over it.
//
// Errors name the line: a moment that cannot be read, or one before the line above.
func ParseTrace(r io.Reader) (Trace, error) {
	var t Trace
	var read func(line string) (at moment, request string, err error)
	var first, last moment
	text := map[string]string{} // each request line once
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		begins := read == nil
		if begins {
			if read = formOf(line); read == nil {
				return Trace{}, fmt.Errorf("line %d: %.60q is no moment: write seconds (12.5), RFC 3339 (2026-11-20T10:00:00Z), or give an access log in the common or combined format", n, line)
			}
		}
		at, request, err := read(line)
		switch {
		case err != nil:
			return Trace{}, fmt.Errorf("line %d: %w", n, err)
		case begins:
			first = at
		case at.before(last):
			return Trace{}, fmt.Errorf("line %d: its time is %s before that of the line above; sort the file by time", n, last.since(at))
		case len(t.due) == MaxTrace:
			return Trace{}, fmt.Errorf("line %d: more than %d moments", n, MaxTrace)
		}
		last = at
		if at.seconds-first.seconds > longestTrace {
			return Trace{}, fmt.Errorf("line %d: more than a year after the first", n)
		}
		t.due = append(t.due, at.since(first))
		if request != "" {
			if known, ok := text[request]; ok {
				request = known
			} else {
				request = strings.Clone(request)
				text[request] = request
			}
			t.requests = append(t.requests, request)
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return Trace{}, fmt.Errorf("line %d: longer than 1 MiB", n+1)
		}
		return Trace{}, err
	}
	if len(t.due) == 0 {
		return Trace{}, errors.New("there is no moment in it")
	}
	if t.requests != nil {
		t.spread()
	}
	return t, nil
}

const longestTrace = 366 * 24 * 3600 // s

// spread places the n requests of each whole second s at s + (j+½)/n.
func (t Trace) spread() {
	for from := 0; from < len(t.due); {
		to := from
		for to < len(t.due) && t.due[to] == t.due[from] {
			to++
		}
		second := t.due[from]
		for j := range to - from {
			t.due[from+j] = second + time.Second*time.Duration(2*j+1)/time.Duration(2*(to-from))
		}
		from = to
	}
}

// moment is a point in time, exact to the nanosecond over all of history: a
// time.Time is not needed, and a float64 loses the nanoseconds.
type moment struct {
	seconds int64
	nanos   int64
}

func (m moment) before(o moment) bool {
	return m.seconds < o.seconds || m.seconds == o.seconds && m.nanos < o.nanos
}

func (m moment) since(o moment) time.Duration {
	s := max(min(m.seconds-o.seconds, math.MaxInt32), math.MinInt32)
	return time.Duration(s)*time.Second + time.Duration(m.nanos-o.nanos)
}

// formOf finds out how the first line is written; nil if it is no known form.
func formOf(line string) func(string) (moment, string, error) {
	for _, read := range []func(string) (moment, string, error){readSeconds, readRFC3339, readLog} {
		if _, _, err := read(line); err == nil {
			return read
		}
	}
	return nil
}

func readSeconds(line string) (moment, string, error) {
	bad := fmt.Errorf("%.60q is not a number of seconds, as the lines above are", line)
	whole, fraction, _ := strings.Cut(line, ".")
	s, err := strconv.ParseUint(whole, 10, 40)
	if err != nil || len(fraction) > 18 {
		return moment{}, "", bad
	}
	var nanos uint64
	if fraction != "" {
		if nanos, err = strconv.ParseUint((fraction + "000000000")[:9], 10, 32); err != nil || strings.ContainsAny(fraction, "+-") {
			return moment{}, "", bad
		}
	}
	return moment{int64(s), int64(nanos)}, "", nil
}

func readRFC3339(line string) (moment, string, error) {
	t, err := time.Parse(time.RFC3339Nano, line)
	if err != nil {
		return moment{}, "", fmt.Errorf("%.60q is not a time in RFC 3339, as the lines above are", line)
	}
	return moment{t.Unix(), int64(t.Nanosecond())}, "", nil
}

// readLog reads
//
//	127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.0" 200 2326 …
func readLog(line string) (moment, string, error) {
	bad := fmt.Errorf("%.60q is not a line of an access log in the common or combined format", line)
	_, rest, ok := strings.Cut(line, "[")
	stamp, rest, ok2 := strings.Cut(rest, "]")
	t, err := time.Parse("02/Jan/2006:15:04:05 -0700", stamp)
	if !ok || !ok2 || err != nil {
		return moment{}, "", bad
	}
	rest, ok = strings.CutPrefix(strings.TrimSpace(rest), `"`)
	request, _, ok2 := strings.Cut(rest, `" `)
	if !ok || !ok2 {
		return moment{}, "", bad
	}
	if request == "" {
		request = "-"
	}
	return moment{t.Unix(), 0}, request, nil
}

// Len is how many moments there are.
func (t Trace) Len() int { return len(t.due) }

// Request is what request k asked for, as its access log has it ("GET /a
// HTTP/1.1"); empty where the trace is no access log.
func (t Trace) Request(k int) string {
	if t.requests == nil {
		return ""
	}
	return t.requests[k]
}

// At is the trace at another speed: 2 is twice as fast.
func (t Trace) At(speed float64) Trace {
	t.speed = speed
	return t
}

// Where is the trace with those moments only whose request passes.
func (t Trace) Where(keep func(request string) bool) Trace {
	kept := Trace{speed: t.speed}
	for k, due := range t.due {
		if keep(t.requests[k]) {
			kept.due = append(kept.due, due)
			kept.requests = append(kept.requests, t.requests[k])
		}
	}
	return kept
}

// Due is when request k is due, and whether there is one.
func (t Trace) Due(k uint64) (time.Duration, bool) {
	if k >= uint64(len(t.due)) {
		return 0, false
	}
	return t.scaled(t.due[k]), true
}

func (t Trace) scaled(d time.Duration) time.Duration {
	if t.speed == 0 || t.speed == 1 {
		return d
	}
	return time.Duration(math.Round(min(float64(d)/t.speed, math.MaxInt64/2)))
}

// Expected is how many are due before until.
func (t Trace) Expected(until time.Duration) float64 {
	return float64(sort.Search(len(t.due), func(k int) bool { return t.scaled(t.due[k]) >= until }))
}

// Rate implements vegeta.Pacer: how many are due in the second around elapsed.
func (t Trace) Rate(elapsed time.Duration) float64 {
	return t.Expected(elapsed+time.Second/2) - t.Expected(elapsed-time.Second/2)
}

// Pace implements vegeta.Pacer.
func (t Trace) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	due, ok := t.Due(hits)
	return max(due-elapsed, 0), !ok
}
