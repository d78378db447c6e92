//go:build !linux

package loadgen

import "syscall"

// spent cannot tell here: a connection that was closed shows when it is used.
func spent(syscall.RawConn) bool { return false }

// readNow is never called: nothing is ever spent.
func readNow(syscall.RawConn, []byte) (int, error) { return 0, errAgain }

func newWaiter() (waiter, error) { return newTimerWaiter(), nil }
