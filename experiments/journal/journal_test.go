package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var begun = Event{Start: &Start{Version: Version, Run: "r1", Scenario: "demo", Seed: 7, Plan: json.RawMessage(`{"a":1}`)}}

// write makes a journal in a temporary folder and returns its bytes and head.
func write(t *testing.T, events ...Event) ([]byte, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	w, err := Create(path, func() time.Duration { return 1500 * time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b, w.Head()
}

func TestLinesAreWrittenAsDocumented(t *testing.T) {
	got, head := write(t,
		begun,
		Event{At: 3 * time.Second, Phase: &Phase{Name: "before"}},
		Event{At: 3100001 * time.Microsecond, Edge: &Edge{Edge: "a -> b", Calls: 2, Answers: map[string]int{"503": 1, "200": 1}}},
		Event{Window: &Window{Load: "shoppers", DueS: Secs(100 * time.Millisecond), Due: 1}},
	)
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	want := []string{
		`{"at_s":0,"start":{"version":1,"run":"r1","scenario":"demo","variant":"","seed":7,"plan_hash":"","plan":{"a":1},"environment":{"chaosctl":"","go":"","os":"","arch":"","cpus":0},"wall":"0001-01-01T00:00:00Z"}}`,
		`{"at_s":3,"phase":{"name":"before"},"prev":"` + hash([]byte(lines[0])) + `"}`,
		`{"at_s":3.100001,"edge":{"edge":"a -> b","calls":2,"answers":{"200":1,"503":1}},"prev":"` + hash([]byte(lines[1])) + `"}`,
		`{"at_s":1.5,"window":{"load":"shoppers","due_s":0.1,"due":1},"prev":"` + hash([]byte(lines[2])) + `"}`,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if want := hash([]byte(lines[3])); head != want {
		t.Errorf("head is %s, want the hash of the last line %s", head, want)
	}
	if err := Verify(bytes.NewReader(got)); err != nil {
		t.Errorf("a fresh journal does not verify: %v", err)
	}
}

func TestReadReturnsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		events := append([]Event{begun}, rapid.SliceOf(anyEvent()).Draw(rt, "events")...)
		var file bytes.Buffer
		w := newWriter(nopCloser{&file}, "test", nil)
		for _, e := range events {
			if err := w.Write(e); err != nil {
				rt.Fatal(err)
			}
		}
		again, head, err := Read(bytes.NewReader(file.Bytes()))
		if err != nil {
			rt.Fatalf("%v in\n%s", err, file.Bytes())
		}
		if diff := cmp.Diff(events, again); diff != "" {
			rt.Errorf("events (-written +read):\n%s", diff)
		}
		if head != w.Head() {
			rt.Errorf("read head %s, written %s", head, w.Head())
		}
		if err := Verify(bytes.NewReader(file.Bytes())); err != nil {
			rt.Error(err)
		}
	})
}

// anyEvent draws events as the runner writes them, to the microsecond.
func anyEvent() *rapid.Generator[Event] {
	return rapid.Custom(func(t *rapid.T) Event {
		count := rapid.IntRange(0, 1000)
		text := rapid.StringMatching(`[ -~äß ]{0,12}`)
		e := Event{At: time.Duration(rapid.Int64Range(1, 1e12).Draw(t, "µs")) * time.Microsecond}
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			e.Phase = &Phase{Name: text.Draw(t, "name")}
		case 1:
			e.Window = &Window{Load: text.Draw(t, "load"), DueS: Secs(e.At), OK: count.Draw(t, "ok"), Outcomes: map[string]int{"200": 1, "timeout": count.Draw(t, "n")}}
		case 2:
			e.Fault = &Fault{Name: text.Draw(t, "name"), State: "injected", Observed: map[string]float64{"ratio": rapid.Float64Range(0, 1).Draw(t, "x")}}
		case 3:
			e.Edge = &Edge{Edge: text.Draw(t, "edge"), Calls: count.Draw(t, "calls"), Faults: map[string]EdgeFault{text.Draw(t, "f"): {Fired: count.Draw(t, "fired")}}}
		case 4:
			e.Probe = &Probe{Name: text.Draw(t, "name"), OK: rapid.Bool().Draw(t, "ok"), Detail: text.Draw(t, "detail")}
		case 5:
			e.Service = &Service{Name: text.Draw(t, "name"), State: "died", Log: []string{text.Draw(t, "log")}}
		}
		return e
	})
}

type nopCloser struct{ *bytes.Buffer }

func (nopCloser) Close() error { return nil }

func TestVerifyNamesTheFirstLineThatDoesNotFit(t *testing.T) {
	file, _ := write(t, begun,
		Event{At: 1, Phase: &Phase{Name: "one"}},
		Event{At: 2 * time.Second, Phase: &Phase{Name: "two"}},
		Event{At: 3 * time.Second, Phase: &Phase{Name: "three"}},
		Event{At: 4 * time.Second, End: &End{Status: "completed"}})
	line := strings.SplitAfter(string(file), "\n")
	for name, c := range map[string]struct {
		journal string
		line    int
		torn    bool
	}{
		"a line was changed":             {strings.Replace(string(file), "two", "TWO", 1), 4, false},
		"the first line was changed":     {strings.Replace(string(file), "demo", "dumo", 1), 2, false},
		"a line was removed":             {line[0] + line[1] + line[3] + line[4], 3, false},
		"two lines changed places":       {line[0] + line[2] + line[1] + line[3], 2, false},
		"a line was added":               {line[0] + line[1] + `{"at_s":1,"mark":{"text":"hi"}}` + "\n" + line[2], 3, false},
		"the last line is torn":          {string(file[:len(file)-20]), 5, true},
		"a line in the middle is broken": {line[0] + line[1][:20] + "\n" + line[2], 2, false},
	} {
		err := Verify(strings.NewReader(c.journal))
		var broken *BrokenError
		if !errors.As(err, &broken) {
			t.Errorf("%s: got %v, want a BrokenError", name, err)
			continue
		}
		if broken.Line != c.line || broken.Torn != c.torn {
			t.Errorf("%s: got line %d, torn %v (%v); want line %d, torn %v", name, broken.Line, broken.Torn, err, c.line, c.torn)
		}
	}
}

func TestAnEditOfTheLastLineShowsInTheHeadOnly(t *testing.T) {
	file, head := write(t, begun, Event{At: time.Second, End: &End{Status: "completed"}})
	edited := bytes.Replace(file, []byte("completed"), []byte("aborted"), 1)
	got, err := VerifyHead(bytes.NewReader(edited))
	if err != nil || got == head {
		t.Errorf("head of the edited journal: %s, %v; want one other than %s", got, err, head)
	}
}

func TestATornLastLineIsAWarning(t *testing.T) {
	file, _ := write(t, begun, Event{At: 2 * time.Second, Phase: &Phase{Name: "before"}}, Event{At: 3 * time.Second, Phase: &Phase{Name: "during"}})
	torn := file[:len(file)-30]
	events, head, err := Read(bytes.NewReader(torn))
	if err != nil {
		t.Fatalf("a torn last line is fatal: %v", err)
	}
	if len(events) != 3 || events[1].Phase == nil || events[2].Mark == nil || !events[2].Mark.Warning || events[2].At != 2*time.Second {
		t.Errorf("got %+v, want start, phase, and a warning at the time of the last whole line", events)
	}
	whole := bytes.SplitAfter(file, []byte("\n"))
	if want := hash(bytes.TrimSuffix(whole[1], []byte("\n"))); head != want {
		t.Errorf("head is %s, want that of the last whole line", head)
	}
}

func TestReadRefuses(t *testing.T) {
	start := `{"at_s":0,"start":{"version":1,"run":"","scenario":"","variant":"","seed":0,"plan_hash":"","plan":{},"environment":{"chaosctl":"","go":"","os":"","arch":"","cpus":1},"wall":"2026-01-01T00:00:00Z"}}` + "\n"
	for name, c := range map[string]struct{ journal, says string }{
		"nothing":             {"", "empty"},
		"something else":      {"PNG\n", "not a journal"},
		"a later version":     {`{"at_s":0,"start":{"version":2,"novelty":1}}` + "\n", "unknown journal version 2"},
		"no start":            {`{"at_s":0,"phase":{"name":"x"}}` + "\n", "not a journal"},
		"a second start":      {start + start, "line 2: a start event"},
		"an unknown key":      {start + `{"at_s":1,"phase":{"name":"x","colour":1}}` + "\n", `line 2: json: unknown field "colour"`},
		"an unknown kind":     {start + `{"at_s":1,"phaze":{}}` + "\n", `unknown field "phaze"`},
		"two kinds":           {start + `{"at_s":1,"phase":{"name":"x"},"mark":{"text":"y"}}` + "\n", "phase and mark"},
		"no kind":             {start + `{"at_s":1}` + "\n", "has none"},
		"no moment":           {start + `{"phase":{"name":"x"}}` + "\n", `"at_s" is missing`},
		"a Go field name":     {start + `{"at_s":1,"At":5,"phase":{"name":"x"}}` + "\n", "unknown field"},
		"an endless moment":   {start + `{"at_s":1e300,"phase":{"name":"x"}}` + "\n", "out of range"},
		"a moment in words":   {start + `{"at_s":"1s","phase":{"name":"x"}}` + "\n", "not a number"},
		"a negative count":    {start + `{"at_s":1,"window":{"load":"a","due_s":0,"ok":-5}}` + "\n", "a count of -5"},
		"an endless count":    {start + `{"at_s":1,"edge":{"edge":"a","answers":{"200":99999999999}}}` + "\n", "a count of"},
		"two values in a row": {start + `{"at_s":1,"phase":{"name":"x"}} {}` + "\n", "more than one JSON value"},
		"a broken line":       {start + "{\n" + start, "line 2"},
	} {
		_, _, err := Read(strings.NewReader(c.journal))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.says)
		}
	}
	if _, _, err := Read(strings.NewReader(`{"at_s":0,"start":{"version":2}}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: got %v, want ErrVersion", err)
	}
}

// endless is an input without a line end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.read += len(p)
	return len(p), nil
}

func TestALineWithoutEndIsBounded(t *testing.T) {
	in := &endless{}
	if _, _, err := Read(in); err == nil || !strings.Contains(err.Error(), "longer than 16 MiB") {
		t.Errorf("got %v, want a refusal of the long line", err)
	}
	if in.read > 2*MaxLine {
		t.Errorf("%d bytes were read before giving up", in.read)
	}
}

// disk is a file on a disk with so much room.
type disk struct {
	bytes.Buffer
	room int
}

var errFull = errors.New("no space left on device")

func (d *disk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}
func (d *disk) Close() error { return nil }

func TestAFullDiskIsKnownAtOnceAndForGood(t *testing.T) {
	d := &disk{room: 700}
	w := newWriter(d, "j", nil)
	must(t, w.Write(begun))
	var err error
	written := 1
	for ; err == nil; written++ {
		err = w.Write(Event{At: time.Second, Mark: &Mark{Text: strings.Repeat("x", 50)}})
	}
	if !errors.Is(err, errFull) {
		t.Fatalf("got %v, want the disk's error", err)
	}
	d.room = 1 << 20 // room again: too late, the line is torn
	if again := w.Write(Event{At: time.Second, Mark: &Mark{}}); !errors.Is(again, errFull) {
		t.Errorf("after the failed write: got %v, want the first error again", again)
	}
	if !errors.Is(w.Err(), errFull) || !errors.Is(w.Close(), errFull) {
		t.Errorf("Err and Close must repeat the error: %v, %v", w.Err(), w.Close())
	}
	events, head, err := Read(&d.Buffer)
	must(t, err)
	if last := events[len(events)-1]; last.Mark == nil || !last.Mark.Warning {
		t.Errorf("the torn line is not reported: %+v", last)
	}
	if head != w.Head() {
		t.Errorf("head %s, want that of the last whole line %s", head, w.Head())
	}
}

func TestWriterRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	w, err := Create(path, nil)
	must(t, err)
	refused := func(what string, err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error that says %q", what, err, says)
		}
	}
	refused("no start first", w.Write(Event{Mark: &Mark{}}), "first event must be a start")
	must(t, w.Write(begun))
	head := w.Head()
	refused("second start", w.Write(begun), "second start")
	refused("no kind", w.Write(Event{}), "has none")
	refused("NaN", w.Write(Event{Probe: &Probe{Values: map[string]float64{"x": nan()}}}), "NaN")
	if w.Head() != head || w.Err() != nil {
		t.Errorf("refused events left a trace: head %s, error %v", w.Head(), w.Err())
	}
	_, err = Create(path, nil)
	refused("same file again", err, "exists already")
	must(t, w.Close())
	must(t, w.Close())
	refused("after Close", w.Write(Event{Mark: &Mark{}}), "closed")
	_, err = Create(filepath.Join(t.TempDir(), "no", "folder"), nil)
	refused("no folder", err, "create journal")
}

func nan() float64 { z := 0.0; return z / z }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestManyWritersOneOrder(t *testing.T) {
	var file bytes.Buffer
	var clock time.Duration
	w := newWriter(nopCloser{&file}, "test", func() time.Duration { clock += time.Microsecond; return clock })
	must(t, w.Write(begun))
	var seen []Event
	cancel := w.Subscribe(func(e Event) { seen = append(seen, e) })
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 50 {
				if err := w.Write(Event{Mark: &Mark{Text: fmt.Sprintf("%d/%d", g, i)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	cancel()
	must(t, w.Write(Event{End: &End{Status: "completed"}}))
	events, _, err := Read(&file)
	must(t, err)
	if diff := cmp.Diff(events[1:401], seen); diff != "" {
		t.Errorf("what subscribers saw is not what the file holds, or not in its order:\n%s", diff)
	}
	for i, e := range seen {
		if e.At != time.Duration(i+1)*time.Microsecond {
			t.Fatalf("event %d is stamped %s: out of order", i, e.At)
		}
	}
}

func TestEveryLineIsThereBeforeWriteReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	w, err := Create(path, nil)
	must(t, err)
	defer w.Close()
	must(t, w.Write(begun))
	must(t, w.Write(Event{At: time.Second, Mark: &Mark{Text: "survives a SIGKILL"}}))
	b, err := os.ReadFile(path)
	must(t, err)
	if !strings.HasSuffix(string(b), "\n") || !strings.Contains(string(b), "survives a SIGKILL") {
		t.Errorf("the file holds %q", b)
	}
}

func FuzzRead(f *testing.F) {
	var file bytes.Buffer
	w := newWriter(nopCloser{&file}, "seed", nil)
	for _, e := range []Event{begun, {At: 1e9, Phase: &Phase{Name: "x"}}, {At: 2e9, Window: &Window{Load: "l", OK: 1, Outcomes: map[string]int{"200": 1}}}, {At: 3e9, End: &End{Status: "completed"}}} {
		if err := w.Write(e); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(file.Bytes())
	f.Add(file.Bytes()[:file.Len()-7])
	f.Add([]byte(`{"start":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		events, _, err := Read(bytes.NewReader(in))
		_ = Verify(bytes.NewReader(in))
		if err != nil {
			return
		}
		// What was read can be written, and reads the same.
		var out bytes.Buffer
		w := newWriter(nopCloser{&out}, "again", nil)
		for _, e := range events {
			if err := w.Write(e); err != nil {
				t.Fatalf("cannot write what was read: %v", err)
			}
		}
		again, _, err := Read(&out)
		if err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
		if len(again) != len(events) {
			t.Fatalf("%d events became %d", len(events), len(again))
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	w, err := Create(filepath.Join(b.TempDir(), "j"), func() time.Duration { return time.Second })
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	if err := w.Write(begun); err != nil {
		b.Fatal(err)
	}
	e := Event{Edge: &Edge{Edge: "orders -> payments", Calls: 20, Answers: map[string]int{"200": 19, "503": 1}, Latency: strings.Repeat("H", 200)}}
	for b.Loop() {
		if err := w.Write(e); err != nil {
			b.Fatal(err)
		}
	}
}
