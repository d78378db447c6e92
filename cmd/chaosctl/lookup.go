package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/faults"
	"github.com/chaosctl/chaosctl/scenarios"
)

func newValidate() *cobra.Command {
	return &cobra.Command{
		Use:     "validate SCENARIO...",
		GroupID: "run",
		Short:   "Check scenario files and show every mistake at once",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bad := 0
			for _, name := range args {
				s, _, err := scenarios.Open(name)
				if err != nil {
					bad++
					fmt.Fprintln(cmd.ErrOrStderr(), err)
					continue
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (%s)\n", name, s.Name); err != nil {
					return internal(err)
				}
			}
			if bad > 0 {
				return &exitError{code: exitUsage, err: fmt.Errorf("%d of %d not valid", bad, len(args)),
					hint: "chaosctl schema prints the JSON Schema; chaosctl faults lists the verbs"}
			}
			return nil
		},
		ValidArgsFunction: completeScenarios,
	}
}

func newScenarios() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "scenarios",
		GroupID: "read",
		Short:   "The library of scenarios: list, show, copy",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return listScenarios(cmd) },
	}
	list := &cobra.Command{
		Use: "list", Short: "List the library, with the rows each scenario shows", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listScenarios(cmd) },
	}
	show := &cobra.Command{
		Use: "show NAME", Short: "Print a library scenario", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, src, err := openScenario(args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(src)
			return internal(err)
		},
		ValidArgsFunction: completeScenarios,
	}
	var force bool
	copyCmd := &cobra.Command{
		Use: "copy NAME [FILE]", Short: "Copy a library scenario to a file of your own", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, src, err := openScenario(args[0])
			if err != nil {
				return err
			}
			to := strings.TrimSuffix(filepath.Base(args[0]), ".yaml") + ".yaml"
			if len(args) == 2 {
				to = args[1]
			}
			flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
			if force {
				flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
			}
			f, err := os.OpenFile(to, flags, 0o644)
			if err != nil {
				return usage(err, "--force overwrites")
			}
			if _, err := f.Write(src); err != nil {
				_ = f.Close()
				return internal(err)
			}
			if err := f.Close(); err != nil {
				return internal(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n", to)
			return nil
		},
		ValidArgsFunction: completeScenarios,
	}
	copyCmd.Flags().BoolVar(&force, "force", false, "overwrite the file")
	cmd.AddCommand(list, show, copyCmd)
	return cmd
}

func listScenarios(cmd *cobra.Command) error {
	tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "NAME\tROWS\tWHAT IT SHOWS")
	for _, e := range scenarios.Library() {
		rows := strings.Trim(strings.ReplaceAll(fmt.Sprint(e.Rows), " ", ","), "[]")
		if rows == "" {
			rows = "-"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\n", e.Name, rows, strings.TrimSpace(e.Description))
	}
	return internal(tab.Flush())
}

func completeScenarios(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, e := range scenarios.Library() {
		names = append(names, e.Name+"\t"+strings.TrimSpace(e.Description))
	}
	return names, cobra.ShellCompDirectiveDefault
}

func newFaults() *cobra.Command {
	return &cobra.Command{
		Use:     "faults [VERB]",
		GroupID: "read",
		Short:   "The faults there are: what each does, to what, with which fields",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(tab, "VERB\tON\tWHAT IT DOES")
				for _, k := range faults.Kinds {
					fmt.Fprintf(tab, "%s\t%s\t%s\n", k.Verb, k.On, k.Summary)
				}
				if err := tab.Flush(); err != nil {
					return internal(err)
				}
				fmt.Fprintln(tab, "\nCONDITION\tTYPE\tBESIDE THE VERB, ON EDGES")
				for _, c := range faults.Conditions {
					fmt.Fprintf(tab, "%s\t%s\t%s\n", c.Name, c.Type, c.Doc)
				}
				return internal(tab.Flush())
			}
			for _, k := range faults.Kinds {
				if k.Verb == args[0] {
					return internal(printKind(cmd, k))
				}
			}
			return usage(fmt.Errorf("no fault %q", args[0]), "chaosctl faults lists them")
		},
	}
}

func printKind(cmd *cobra.Command, k faults.Kind) error {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s, on %s: %s\n\n", k.Verb, k.On, k.Summary)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "FIELD\tTYPE\tDEFAULT\tMEANING")
	for _, f := range k.Fields {
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\n", f.Name, f.Type, f.Default, f.Doc)
	}
	for _, c := range faults.Conditions {
		if k.Takes(c.Name) {
			fmt.Fprintf(tab, "(%s)\t%s\t%s\t%s\n", c.Name, c.Type, c.Default, c.Doc)
		}
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	var err error
	if k.Takes("pulse") {
		_, err = fmt.Fprintln(w, "\nFields in brackets are conditions: they stand beside the verb.")
	}
	if k.Instead != "" && err == nil {
		_, err = fmt.Fprintf(w, "\nOn another edge: %s.\n", k.Instead)
	}
	if k.UDP != "" && err == nil {
		_, err = fmt.Fprintf(w, "\nOn udp edges: %s.\n", k.UDP)
	}
	return err
}

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		GroupID: "read",
		Short:   "Print the JSON Schema of scenario files, for editors",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := scenarios.Schema()
			if err != nil {
				return internal(err)
			}
			_, err = cmd.OutOrStdout().Write(b)
			return internal(err)
		},
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: "read",
		Short:   "Print the version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e := environment()
			fmt.Fprintf(cmd.OutOrStdout(), "chaosctl %s %s %s/%s\n", e.Chaosctl, e.Go, e.OS, e.Arch)
			return nil
		},
	}
}
