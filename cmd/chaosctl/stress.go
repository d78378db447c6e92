package main

import (
	"errors"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/targets/stress"
)

// newStress is how chaosctl becomes what presses on a service from beside it: the
// process runtime re-executes the binary with it. It is not for people.
func newStress() *cobra.Command {
	var join []string
	var workers int
	var load float64
	var bytes int64
	cmd := &cobra.Command{
		Use:    "stress",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			stress.Join(join)
			switch {
			case workers > 0:
				return internal(stress.Burn(ctx, workers, load, cmd.OutOrStdout()))
			case bytes > 0:
				return internal(stress.Hold(ctx, bytes, cmd.OutOrStdout()))
			}
			return usage(errors.New("stress: it is to burn (--workers) or to hold (--bytes)"), "")
		},
	}
	cmd.Flags().StringArrayVar(&join, "join", nil, "cgroup.procs file of a control group to be in")
	cmd.Flags().IntVar(&workers, "workers", 0, "threads to keep busy")
	cmd.Flags().Float64Var(&load, "load", 1, "share of the time for which each is busy")
	cmd.Flags().Int64Var(&bytes, "bytes", 0, "memory to hold")
	return cmd
}
