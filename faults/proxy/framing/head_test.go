package framing

import (
	"bufio"
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEdit(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: a\r\nx-odd:  1 \r\nX-Odd:2\nB: b\r\n\r\n"
	for _, c := range []struct {
		edit       Edit
		head, want string
	}{
		{Edit{}, head, head},
		{Edit{Remove: []string{"X-ODD", "absent"}}, head, "GET / HTTP/1.1\r\nHost: a\r\nB: b\r\n\r\n"},
		{Edit{Set: []Field{{"Host", "z"}, {"new", ""}}}, head, "GET / HTTP/1.1\r\nHost: z\r\nx-odd:  1 \r\nX-Odd:2\nB: b\r\nnew: \r\n\r\n"},
		{Edit{Set: []Field{{"X-Odd", "3"}}}, head, "GET / HTTP/1.1\r\nHost: a\r\nX-Odd: 3\r\nB: b\r\n\r\n"},
		{Edit{Add: []Field{{"B", "c"}, {"B", "d"}}}, head, "GET / HTTP/1.1\r\nHost: a\r\nx-odd:  1 \r\nX-Odd:2\nB: b\r\nB: c\r\nB: d\r\n\r\n"},
		{Edit{Remove: []string{"b"}, Set: []Field{{"B", "1"}}, Add: []Field{{"B", "2"}}}, head, "GET / HTTP/1.1\r\nHost: a\r\nx-odd:  1 \r\nX-Odd:2\nB: 1\r\nB: 2\r\n\r\n"},
		{Edit{Add: []Field{{"A", "1"}}}, "\r\nGET / HTTP/1.0\n\r\n", "\r\nGET / HTTP/1.0\nA: 1\n\r\n"},
		{Edit{Set: []Field{{"Server", "x"}}}, "HTTP/1.1 200\nServer: nginx\n\n", "HTTP/1.1 200\nServer: x\n\n"},
	} {
		if got := c.edit.Append([]byte("before"), []byte(c.head)); string(got) != "before"+c.want {
			t.Errorf("%+v of %q:\n got %q\nwant %q", c.edit, c.head, got[len("before"):], c.want)
		}
	}
}

func TestRequestLine(t *testing.T) {
	for head, want := range map[string][2]string{
		"GET /a?b HTTP/1.1\r\n\r\n":            {"GET", "/a?b"},
		"\r\n\nOPTIONS * HTTP/1.0\nA: b\n\n":   {"OPTIONS", "*"},
		"GET http://x/y HTTP/1.1\r\na: \r\n\n": {"GET", "http://x/y"},
	} {
		method, target := RequestLine([]byte(head))
		if string(method) != want[0] || string(target) != want[1] {
			t.Errorf("%q: %q %q, want %q", head, method, target, want)
		}
	}
}

// lines are those of the head, whole, but those of that name.
func lines(head []byte, but string) (all []string) {
	rest := LinesOf(head)
	for l, ok := rest.Next(); ok; l, ok = rest.Next() {
		if !strings.EqualFold(string(l.Name), but) {
			all = append(all, string(l.Raw))
		}
	}
	return all
}

// TestEditKeepsTheRest: whatever a head is made of, and whatever is done to one
// name, the other lines stay as they are, in their order, and so does the frame.
func TestEditKeepsTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"A", "a", "Host", "Content-Type", "X-Odd", "Content-Length", "Connection", "Upgrade", "Expect"})
		var head []byte
		request := rapid.Bool().Draw(t, "request")
		if request {
			head = append(head, "POST /x HTTP/1.1\r\n"...)
		} else {
			head = append(head, "HTTP/1.1 200 OK\r\n"...)
		}
		for _, name := range rapid.SliceOfN(names, 0, 8).Draw(t, "names") {
			value := rapid.SampledFrom([]string{"7", " 7", "\t7 "}).Draw(t, "value")
			head = append(head, name+":"+value+rapid.SampledFrom([]string{"\r\n", "\n"}).Draw(t, "eol")...)
		}
		head = append(head, "\r\n"...)
		edited := rapid.SampledFrom([]string{"A", "Host", "x-odd", "new"}).Draw(t, "edited")
		var e Edit
		if rapid.Bool().Draw(t, "remove") {
			e.Remove = []string{edited}
		}
		if rapid.Bool().Draw(t, "set") {
			e.Set = []Field{{edited, "v"}}
		}
		if rapid.Bool().Draw(t, "add") {
			e.Add = []Field{{edited, "v"}}
		}
		got := e.Append(nil, head)
		if was, is := lines(head, edited), lines(got, edited); !slices.Equal(was, is) {
			t.Fatalf("the other lines of %q became %q", was, is)
		}
		if request {
			sameRequest(t, head, got)
		} else {
			sameAnswer(t, head, got)
		}
	})
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func sameRequest(t fataler, head, edited []byte) {
	t.Helper()
	was, err := ParseRequest(head)
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	is, err := ParseRequest(edited)
	was.Size = len(edited)
	if err != nil || was != is {
		t.Fatalf("the frame of %q is %+v, %v; want %+v as before", edited, is, err, was)
	}
}

func sameAnswer(t fataler, head, edited []byte) {
	t.Helper()
	was, err := ParseAnswer(head, Other)
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	is, err := ParseAnswer(edited, Other)
	was.Size = len(edited)
	if err != nil || was != is {
		t.Fatalf("the frame of %q is %+v, %v; want %+v as before", edited, is, err, was)
	}
}

// FuzzEdit holds edited heads against net/http: what it reads of one is what it
// reads of the other with the same done to its map.
func FuzzEdit(f *testing.F) {
	for how := range byte(3) {
		f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2\r\na: 3\r\n\r\n"), "A", "9", how)
		f.Add([]byte("\r\nPOST / HTTP/1.0\nContent-Length: 3\nX:\n\nabc"), "X", "", how)
		f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "Cookie", "a=b; c=\xff", how)
	}
	f.Fuzz(func(t *testing.T, p []byte, name, value string, how byte) {
		r, err := ParseRequest(p)
		if err != nil || !IsToken(name) || !IsValue(value) || slices.Contains(Frames, strings.ToLower(name)) {
			return
		}
		head := p[:r.Size]
		var e Edit
		switch how % 3 {
		case 0:
			e.Remove = []string{name}
		case 1:
			e.Set = []Field{{name, value}}
		case 2:
			e.Add = []Field{{name, value}}
		}
		got := e.Append(nil, head)
		if len(got) > MaxHead {
			return
		}
		sameRequest(t, head, got)
		if was, is := lines(head, name), lines(got, name); !slices.Equal(was, is) {
			t.Fatalf("the other lines of %q became %q", was, is)
		}

		read := func(p []byte) (http.Header, error) {
			theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(p, "\r\n"))))
			if err != nil {
				return nil, err
			}
			return theirs.Header, nil
		}
		switch http.CanonicalHeaderKey(name) {
		case "Host", "Pragma", "Cache-Control": // those it moves around
			return
		}
		want, err := read(head)
		if err != nil {
			return
		}
		switch how % 3 {
		case 0:
			want.Del(name)
		case 1:
			want.Set(name, value)
		case 2:
			want.Add(name, value)
		}
		is, err := read(got)
		if err != nil || !maps.EqualFunc(is, want, slices.Equal) {
			t.Fatalf("net/http reads %v, %v of %q, want %v", is, err, got, want)
		}
	})
}
