package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestProxyDoc: every command line in docs/proxy.md and in the examples of
// chaosctl proxy is one that there is, with flags it has and arguments it takes.
func TestProxyDoc(t *testing.T) {
	text := readDoc(t, "docs/proxy.md")
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		text += "\n" + c.Example
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newProxy())
	lines := regexp.MustCompile(`(?m)^ +chaosctl (proxy .*?)(?: &)?$`).FindAllStringSubmatch(text, -1)
	if len(lines) < 15 {
		t.Fatalf("only %d commands found", len(lines))
	}
	for _, m := range lines {
		cmd, rest, err := newRoot().Find(strings.Fields(m[1]))
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err == nil {
			err = cmd.ValidateRequiredFlags()
		}
		if err == nil {
			err = cmd.ValidateFlagGroups()
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil || !cmd.Runnable() {
			t.Errorf("chaosctl %s: %v", m[1], err)
		}
	}
}
