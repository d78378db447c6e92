// Command chaosctl answers whether a system keeps its promise while something
// goes wrong: it starts the system, sends load, injects faults, undoes them, and
// gives a verdict with its evidence.
//
// The rules of its interface:
//
//   - stdout is the answer, stderr is the conversation; a pipe sees only the answer.
//   - Errors say what is wrong, where, what is allowed, and end with "hint:" where one helps.
//   - Exit codes: 0 pass, 1 fail, 2 wrong input, 3 inconclusive, 4 aborted or
//     interrupted, 5 a fault could not be reverted, 70 internal error.
//     When several apply: 5 > 70 > 4 > 1 > 3 > 0.
//   - Ctrl-C undoes everything, reports what was seen, and exits 4; a second one
//     shortens the wait, never the undo.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitPass
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = &exitError{code: exitUsage, err: err} // cobra's own: unknown command, flag, argument
	}
	if e.err != nil {
		fmt.Fprintln(stderr, "chaosctl:", e.err)
	}
	if e.hint != "" {
		fmt.Fprintln(stderr, "hint:", e.hint)
	}
	return e.code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "chaosctl",
		Short: "Does this system keep its promise while that goes wrong?",
		Long: `chaosctl starts a system, sends load, injects faults, undoes everything, and
answers whether the promise held: pass, fail or inconclusive, with its bounds.

Try it:

  chaosctl run checkout-survives-slow-payments`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run and judge:"}, &cobra.Group{ID: "read", Title: "Look things up:"})
	root.AddCommand(
		newRun(), newRecover(), newHalt(), newLoad(), newPlan(), newValidate(), newExplain(), newInit(), newReport(), newVerify(), newCompare(), newAudit(),
		newProxy(), newScenarios(), newFaults(), newSchema(), newVersion(), newService(), newRelay(), newStress(), newWatchdog(),
	)
	return root
}
