package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/experiments/live"
)

func newRecover() *cobra.Command {
	var output string
	var list bool
	cmd := &cobra.Command{
		Use:     "recover",
		GroupID: "run",
		Short:   "Undo what a killed run left behind",
		Long: `Recover looks for runs whose process is gone, reverts the faults they left,
kills the processes they started, removes their temporary folders, and notes it
in their journals. Runs that are live are left alone; to repeat it is harmless.

A run has a watchdog that does the same within milliseconds, and the next run
does it before it starts: recover is for when both were killed, too.

Exit code 0: nothing was left, or all of it is undone. 5: something is still there.`,
		Example: `  chaosctl recover
  chaosctl recover --list
  chaosctl recover --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usage(fmt.Errorf("--output %q: allowed are text, json", output), "")
			}
			index, err := live.Open()
			if err != nil {
				return usage(err, "set XDG_STATE_HOME to where it was when the run was started")
			}
			var report healing
			if list {
				report = look(index)
			} else {
				report = heal(cmd.Context(), index, "chaosctl recover")
			}
			if err := report.print(cmd.OutOrStdout(), output); err != nil {
				return internal(err)
			}
			if len(report.Failed) > 0 {
				return &exitError{code: exitNotReverted}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "what stdout gets: text or json")
	cmd.Flags().BoolVar(&list, "list", false, "only show what is live and what is left, undo nothing")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// healing is what recover found and did.
type healing struct {
	Live   []liveRun     `json:"live"`   // left alone: their owners run
	Dead   []liveRun     `json:"dead"`   // with --list: killed, and not healed yet
	Healed []live.Healed `json:"healed"` // by us, now
	Failed []string      `json:"failed"` // what is still there, and why
}

type liveRun struct {
	Run    string    `json:"run"`
	PID    int       `json:"pid"`
	Folder string    `json:"folder"`
	Holds  []string  `json:"holds"`
	Since  time.Time `json:"since"`
}

func liveRunOf(e live.Entry) liveRun {
	return liveRun{e.Run, e.Owner.PID, e.Folder, append([]string{}, e.Holds...), e.At}
}

// look sorts the index, and changes nothing.
func look(index *live.Index) healing {
	r := healing{[]liveRun{}, []liveRun{}, []live.Healed{}, []string{}}
	entries, err := index.Entries()
	if err != nil {
		r.Failed = append(r.Failed, err.Error())
	}
	for _, e := range entries {
		switch e.State() {
		case live.Live:
			r.Live = append(r.Live, liveRunOf(e))
		case live.Dead:
			r.Dead = append(r.Dead, liveRunOf(e))
		default:
			r.Failed = append(r.Failed, fmt.Sprintf(
				"run %s: its process (pid %d) was started in another pid namespace and cannot be seen from here: run chaosctl recover there", e.Run, e.Owner.PID))
		}
	}
	return r
}

// heal undoes what dead runs left. by is who does it, for their journals.
func heal(ctx context.Context, index *live.Index, by string) healing {
	r := look(index)
	entries, err := index.Entries()
	for _, e := range entries {
		if e.State() != live.Dead {
			continue
		}
		h, err := index.Heal(ctx, e, by)
		if err != nil {
			r.Failed = append(r.Failed, err.Error())
			continue
		}
		r.Healed = append(r.Healed, h)
	}
	r.Dead = []liveRun{}
	if err != nil && len(r.Failed) == 0 {
		r.Failed = append(r.Failed, err.Error())
	}
	return r
}

func (r healing) print(w io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		errs = append(errs, err)
	}
	show := func(state string, runs []liveRun) {
		for _, l := range runs {
			line("%s  %s  pid %d, since %s, %s", state, l.Run, l.PID, l.Since.Local().Format(time.DateTime), l.Folder)
		}
	}
	show("live", r.Live)
	show("dead", r.Dead)
	for _, h := range r.Healed {
		line("healed  %s  %s", h.Run, h)
		for _, note := range h.Notes {
			line("        note: %s", note)
		}
	}
	for _, text := range r.Failed {
		line("failed  %s", text)
	}
	if len(r.Dead)+len(r.Healed)+len(r.Failed) == 0 {
		line("nothing was left behind")
	}
	return errors.Join(errs...)
}
