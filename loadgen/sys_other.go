//go:build !linux

package loadgen

import "syscall"

// spent cannot tell here: a connection that was closed shows when it is used.
func spent(syscall.RawConn) bool { return false }

// receiveNow and sendNow are never called: no wire is direct.
func receiveNow(int, []byte) (int, error) { return 0, errAgain }
func sendNow(int, []byte) (int, error)    { return 0, errAgain }

// newTalk is nil: requests are written and answers read.
func newTalk(syscall.RawConn, *secured) *talk { return nil }

type talk struct{}

func (*talk) do([]byte, []byte) (sent, read int, err error) { panic("there is none") }

func newWaiter() (waiter, error) { return newTimerWaiter(), nil }

// push is nothing here: the link's writer does all.
type push struct{}

func newPush(syscall.RawConn) *push { return nil }

func (*push) do([]byte) int { return 0 }

func reserveFiles(int) {}
