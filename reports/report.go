// Package reports writes down what a run showed: for a terminal, a browser, a pull
// request, a program, and a CI system.
//
//	journal ──► verdict.Judge ──► Report ──► Text      stdout, 80 columns
//	                                    ├──► HTML      report.html, one file, pictures inside
//	                                    ├──► Markdown  report.md
//	                                    ├──► JUnit     junit.xml
//	                                    └──► JSON      result.json
//
// A Report is a journal and its judgement, and every writer is a function of it
// alone: the same Report gives the same bytes, today and in a year, so that a
// report can be thrown away and made again (`chaosctl report RUN`).
//
// All writers put the verdict first, then what it rests on. None of them tells
// anything by colour alone, and none trusts a name, a detail or a log line: text
// from outside is escaped for where it goes and cannot steer a terminal, a
// browser or a Markdown renderer.
package reports

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/experiments/verdict"
)

// Report is one run and its judgement.
type Report struct {
	Result      verdict.Result
	Hypotheses  verdict.Hypotheses
	Events      []journal.Event // the whole journal, in its order
	Description string          // the scenario's; empty: taken from the plan in the journal
}

// Formats are the files that WriteAll makes. result.json comes last: where it is,
// all the others are too.
var Formats = []struct {
	File  string
	Write func(io.Writer, Report) error
}{
	{"report.html", HTML},
	{"report.md", Markdown},
	{"junit.xml", JUnit},
	{"result.json", JSON},
}

// WriteAll writes every format into dir, which exists. It first writes all of
// them under temporary names and renames only when all are complete and on disk:
// what bears a final name is whole. On an error no temporary file is left.
func WriteAll(dir string, r Report) (err error) {
	var temps []string
	defer func() {
		if err == nil {
			return
		}
		for _, t := range temps {
			if e := os.Remove(t); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	for _, f := range Formats {
		temp, e := writeTemp(dir, f.File, func(w io.Writer) error { return f.Write(w, r) })
		if temp != "" {
			temps = append(temps, temp)
		}
		if e != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, f.File), e)
		}
	}
	for i, f := range Formats {
		if e := os.Rename(temps[i], filepath.Join(dir, f.File)); e != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, f.File), e)
		}
	}
	return nil
}

// WriteFile writes one file into dir, under a temporary name first: what bears the
// final name is whole.
func WriteFile(dir, name string, write func(io.Writer) error) error {
	temp, err := writeTemp(dir, name, write)
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, name))
	}
	if err == nil {
		return nil
	}
	if temp != "" {
		err = errors.Join(err, os.Remove(temp))
	}
	return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
}

// writeTemp returns the name of the temporary file also with an error, when there is one.
func writeTemp(dir, name string, write func(io.Writer) error) (temp string, err error) {
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return "", err
	}
	b := bufio.NewWriter(f)
	err = write(b)
	if err == nil {
		err = b.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	return f.Name(), errors.Join(err, f.Close())
}
