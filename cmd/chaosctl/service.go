package main

import (
	"github.com/spf13/cobra"

	"github.com/chaosctl/chaosctl/targets/reference/shop"
)

// newService is how chaosctl becomes a service of a reference system: the
// process runtime re-executes the binary with it. It is not for people.
func newService() *cobra.Command {
	return &cobra.Command{
		Use:    "service ROLE CONFIG",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := shop.Main(cmd.Context(), args[0], args[1], cmd.OutOrStdout(), cmd.ErrOrStderr()); code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
}
