package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/reports"
)

// readRun judges a run from its journal alone, and the pair when its control was
// run too.
func readRun(dir string) (reports.Report, error) {
	return readRunWith(dir, nil)
}

// readRunWith is readRun with other hypotheses: change gets those of the run, and
// of its control, before they are judged.
func readRunWith(dir string, change func(*verdict.Hypotheses) error) (reports.Report, error) {
	main, plan, err := readJournalWith(filepath.Join(dir, "journal.jsonl"), change)
	if err != nil {
		return reports.Report{}, err
	}
	controlDir := filepath.Join(dir, "control")
	control, _, err := readJournalWith(filepath.Join(controlDir, "journal.jsonl"), change)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return reports.Report{}, err
	default:
		pair := verdict.Pair(main.Result, control.Result, plan.MustFail)
		pair.Run = "control"
		main.Result.Control = &pair
	}
	return main, nil
}

func readJournal(path string) (reports.Report, *experiments.Plan, error) {
	return readJournalWith(path, nil)
}

func readJournalWith(path string, change func(*verdict.Hypotheses) error) (reports.Report, *experiments.Plan, error) {
	f, err := os.Open(path)
	if err != nil {
		return reports.Report{}, nil, err
	}
	defer f.Close()
	events, head, err := journal.Read(f)
	if err != nil {
		return reports.Report{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(events) == 0 || events[0].Start == nil {
		return reports.Report{}, nil, fmt.Errorf("%s: no run in it: it does not begin with a start line", path)
	}
	var plan experiments.Plan
	if err := json.Unmarshal(events[0].Start.Plan, &plan); err != nil {
		return reports.Report{}, nil, fmt.Errorf("%s:1: the plan: %w", path, err)
	}
	if change != nil {
		if err := change(&plan.Hypotheses); err != nil {
			return reports.Report{}, nil, err
		}
	}
	result := verdict.Judge(plan.Hypotheses, events)
	result.JournalHead = head
	return reports.Report{Result: result, Hypotheses: plan.Hypotheses, Events: events, Description: plan.Description}, &plan, nil
}

var outputs = []string{"text", "json", "markdown", "junit", "html"}

func checkOutput(name string) error {
	if slices.Contains(outputs, name) {
		return nil
	}
	return usage(fmt.Errorf("--output %q: allowed are %s", name, strings.Join(outputs, ", ")), "")
}

func printReport(stdout io.Writer, output, dir string, r reports.Report) error {
	switch output {
	case "json":
		return reports.JSON(stdout, r)
	case "markdown":
		return reports.Markdown(stdout, r)
	case "junit":
		return reports.JUnit(stdout, r)
	case "html":
		return reports.HTML(stdout, r)
	}
	width, color := terminal(stdout)
	return reports.Text(stdout, r, reports.TextOptions{Width: width, Color: color, Folder: dir})
}

// terminal says how wide w is and whether it shows colour: 80 and no where it is
// not a terminal, or where NO_COLOR is set.
func terminal(w io.Writer) (width int, color bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 80, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 40 {
		width = 80
	}
	return min(width, 120), os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// environment is where we are, for the record.
func environment() journal.Environment {
	host, _ := os.Hostname()
	e := journal.Environment{
		Chaosctl: version(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		CPUs: runtime.NumCPU(), Hostname: host,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return e
}

// version is what the build knows of itself: the tag, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if commit == "" {
		return "devel"
	}
	return "devel-" + commit + dirty
}
