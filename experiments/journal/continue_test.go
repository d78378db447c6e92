package journal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestContinue: wherever a journal is cut off, whoever continues it makes a whole
// one of it: chained, with everything that was whole, and time going forward.
func TestContinue(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.jsonl")
	w, err := Create(path, func() time.Duration { return 3 * time.Second })
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{
		{Start: &Start{Run: "r", Wall: time.Now()}},
		{Phase: &Phase{Name: "during"}},
		{Mark: &Mark{Text: "long " + strings.Repeat("x", 1000)}},
	} {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	firstEnds := strings.IndexByte(string(whole), '\n') + 1
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		w, found, err := Continue(path)
		if cut < firstEnds {
			if !errors.Is(err, ErrNoStart) {
				t.Fatalf("cut at %d, in the first line: %v, want ErrNoStart", cut, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		kept := strings.LastIndexByte(string(whole[:cut]), '\n') + 1
		if found.Torn != cut-kept || found.Ended || found.Start.Run != "r" {
			t.Fatalf("cut at %d: %+v, want %d torn bytes of run r, not ended", cut, found, cut-kept)
		}
		if err := errors.Join(w.Write(Event{Abort: &Abort{Reason: "killed"}}), w.Write(Event{End: &End{Status: "aborted"}}), w.Close()); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = Verify(f)
		f.Close()
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		events, _, err := ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(string(whole[:cut]), "\n")
		if len(events) != lines+2 || events[lines].Abort == nil || events[lines+1].End == nil {
			t.Fatalf("cut at %d: %d events, want the %d whole ones, the abort and the end", cut, len(events), lines)
		}
		if lines > 1 && events[lines].At < 3*time.Second {
			t.Fatalf("cut at %d: continued at %s, before the last line at 3 s", cut, events[lines].At)
		}
	}
}

// TestContinueEnded: a journal with its end is recognised, and one that is not a
// journal is refused and left as it was.
func TestContinueEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	w, err := Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(Event{Start: &Start{Run: "r"}}), w.Write(Event{End: &End{Status: "completed"}}), w.Close()); err != nil {
		t.Fatal(err)
	}
	w, found, err := Continue(path)
	if err != nil || !found.Ended {
		t.Fatalf("%+v, %v: want it to have ended", found, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a letter\nto somebody", `{"at_s":0,"start":{"version":99}}` + "\n", "{}\n{}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Continue(path); err == nil || errors.Is(err, ErrNoStart) {
			t.Errorf("%q: %v, want it to be refused", text, err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%q has become %q", text, b)
		}
	}
}
