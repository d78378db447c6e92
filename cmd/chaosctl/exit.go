package main

import (
	"errors"
	"syscall"

	"github.com/chaosctl/chaosctl/experiments"
	"github.com/chaosctl/chaosctl/experiments/verdict"
	"github.com/chaosctl/chaosctl/faults"
)

// The exit codes are part of the interface: CI hangs on them.
const (
	exitPass         = 0
	exitFail         = 1
	exitUsage        = 2 // the input was wrong: nothing was injected
	exitInconclusive = 3
	exitAborted      = 4 // by an abort condition or a signal
	exitNotReverted  = 5
	exitInternal     = 70
)

// exitError is an error with the exit code it means. Its err may be nil when
// everything there is to say has been said.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }
func (e *exitError) ExitCode() int { return e.code }

// usage marks an error as the user's input being wrong.
func usage(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &exitError{code: exitUsage, err: err, hint: hint}
}

// internal marks an error as ours (or the machine's), not the user's.
func internal(err error) error {
	if err == nil {
		return nil
	}
	var e *exitError
	if errors.As(err, &e) {
		return err
	}
	return &exitError{code: exitInternal, err: err}
}

// severity orders exit codes: a fault left behind outranks everything.
var severity = []int{exitPass, exitInconclusive, exitFail, exitAborted, exitInternal, exitNotReverted}

func worst(codes ...int) int {
	rank := func(code int) int {
		for i, c := range severity {
			if c == code {
				return i
			}
		}
		return len(severity)
	}
	worst := exitPass
	for _, c := range codes {
		if rank(c) > rank(worst) {
			worst = c
		}
	}
	return worst
}

// runCode is the exit code of one finished run, judged.
func runCode(r verdict.Result) int {
	switch {
	case r.Status == "aborted" || r.Status == "interrupted":
		return exitAborted
	case r.Status == "failed": // the system did not start
		return exitUsage
	case r.Verdict == verdict.Fail:
		return exitFail
	case r.Verdict == verdict.Pass:
		return exitPass
	}
	return exitInconclusive
}

// reportCode is the exit code of a run, with its control where it had one.
func reportCode(r verdict.Result) int {
	code := runCode(r)
	if r.Control != nil && code != exitAborted {
		return pairCode(*r.Control)
	}
	return code
}

// pairCode is the exit code of a scenario with its control.
func pairCode(c verdict.ControlResult) int {
	switch c.Pair {
	case "PROVEN":
		return exitPass
	case "DISPROVEN", "VACUOUS":
		return exitFail
	}
	return exitInconclusive
}

// runError is the exit code of what Run could not put into the journal.
func runError(err error) error {
	var revert *faults.RevertError
	var start *experiments.StartError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revert):
		return &exitError{code: exitNotReverted, err: err,
			hint: "a fault may still be in place; the records in the run's undo folder say what and where"}
	case errors.As(err, &start):
		return &exitError{code: exitUsage, err: err}
	case errors.Is(err, syscall.ENOSPC):
		return &exitError{code: exitInternal, err: err, hint: "the disk is full: make room, or choose another run folder with --out"}
	}
	return internal(err)
}
