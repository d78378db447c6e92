//go:build !linux

package loadgen

import "syscall"

// spent cannot tell here: a connection that was closed shows when it is used.
func spent(syscall.RawConn) bool { return false }

func newWaiter() (waiter, error) { return newTimerWaiter(), nil }
