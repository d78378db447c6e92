package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/scenarios"
	"github.com/chaosctl/chaosctl/scenarios/draft"
)

type initFlags struct {
	openapi, har string
	out          string
	force        bool
	options      draft.Options
}

func newInit() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:     "init",
		GroupID: "run",
		Short:   "Write a first scenario: a starter, or from an OpenAPI description or a HAR recording",
		Long: `Init writes a scenario to begin with, commented, and never over a file.

Without --openapi and --har it is a starter for services of your own. With
--openapi it is a mix of the operations of an OpenAPI description (3.0 or 3.1,
YAML or JSON): those that read, unless --include-writes is given; values come from
examples, defaults and schemas, authentication from secrets of the environment.
With --har it is the session that a browser recorded, with its pauses; ids that an
answer gave are captured, and passwords, tokens and cookies are not taken over.

What is left out, and why, stands in comments at the top of the file, and is told
on stderr.`,
		Example: `  chaosctl init
  chaosctl init --openapi openapi.yaml --out catalogue.yaml
  chaosctl init --har session.har --address 127.0.0.1:9000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return initScenario(f, cmd.Flags().Changed, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.openapi, "openapi", "", "make it of the operations of this OpenAPI description")
	fl.StringVar(&f.har, "har", "", "make it of the requests of this HAR file")
	fl.StringVar(&f.out, "out", "scenario.yaml", "write it to this file; - is stdout")
	fl.BoolVar(&f.force, "force", false, "overwrite the file")
	fl.StringVar(&f.options.Address, "address", "127.0.0.1:8080", "HOST:PORT of the service that is asked")
	fl.BoolVar(&f.options.IncludeWrites, "include-writes", false, "OpenAPI: also POST, PUT, PATCH and DELETE")
	fl.BoolVar(&f.options.IncludeStatic, "include-static", false, "HAR: also images, styles, scripts and fonts")
	fl.StringVar(&f.options.Host, "host", "", "HAR: whose requests (default: the host with the most)")
	return cmd
}

// mostInit bounds what is read.
const mostInit = 256 << 20

func initScenario(f initFlags, changed func(string) bool, stdout, stderr io.Writer) error {
	for _, of := range []struct {
		flag, needs string
		given       bool
	}{
		{"include-writes", "openapi", f.openapi != ""}, {"include-static", "har", f.har != ""}, {"host", "har", f.har != ""},
		{"address", "openapi or --har", f.openapi+f.har != ""},
	} {
		if changed(of.flag) && !of.given {
			return usage(fmt.Errorf("--%s is for --%s", of.flag, of.needs), "")
		}
	}
	if _, _, err := net.SplitHostPort(f.options.Address); err != nil {
		return usage(fmt.Errorf("--address %q: write HOST:PORT", f.options.Address), "")
	}
	var d draft.Draft
	var err error
	switch {
	case f.openapi != "" && f.har != "":
		return usage(errors.New("--openapi and --har are given: a scenario is made of one of them"), "")
	case f.openapi != "":
		d, err = drafted(f.openapi, draft.FromOpenAPI, f.options)
	case f.har != "":
		d, err = drafted(f.har, draft.FromHAR, f.options)
	default:
		d = draft.Starter()
	}
	if err != nil {
		return usage(err, "")
	}
	if _, err := scenarios.Parse(f.out, d.Text); err != nil {
		return usage(fmt.Errorf("what was found does not make a scenario: %w", err), "--out - shows all of it where it is one; leave out of the file what is named here")
	}
	if f.out == "-" {
		if _, err := stdout.Write(d.Text); err != nil {
			return internal(err)
		}
	} else {
		if err := writeNew(f.out, d.Text, f.force); err != nil {
			return err
		}
		fmt.Fprintln(stdout, f.out)
	}
	for i, l := range d.Left {
		if i == 20 {
			fmt.Fprintf(stderr, "left out: %d more, see the file\n", len(d.Left)-i)
			break
		}
		fmt.Fprintln(stderr, "left out:", l)
	}
	return nil
}

func drafted(name string, from func(string, []byte, draft.Options) (draft.Draft, error), o draft.Options) (draft.Draft, error) {
	file, err := os.Open(name)
	if err != nil {
		return draft.Draft{}, err
	}
	defer file.Close()
	src, err := io.ReadAll(io.LimitReader(file, mostInit+1))
	switch {
	case err != nil:
		return draft.Draft{}, err
	case len(src) > mostInit:
		return draft.Draft{}, fmt.Errorf("%s: more than %d MB", name, mostInit>>20)
	}
	return from(filepath.Base(name), src, o)
}

// writeNew writes a file that is not there yet.
func writeNew(name string, text []byte, force bool) error {
	flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if force {
		flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	}
	file, err := os.OpenFile(name, flags, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return usage(fmt.Errorf("%s is there already", name), "--force overwrites it, --out writes another")
	case err != nil:
		return usage(err, "")
	}
	if _, err := file.Write(text); err != nil {
		_ = file.Close()
		return internal(err)
	}
	return internal(file.Close())
}
