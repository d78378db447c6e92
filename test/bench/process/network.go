//go:build linux

package process

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inOwnNetwork is set, to anything, in the environment of a program that has a
// network of its own.
const inOwnNetwork = "CHAOSCTL_BENCH_NETWORK"

// OwnNetwork has the benchmark start once more, in a network namespace with
// nothing but a loopback device: firewalls and their tables of connections
// (Docker brings both) cost every packet, and drop them when the tables are full.
// Where this is done already it returns true, and false where it is not allowed,
// which takes root.
//
// Before is called while the network is still that of the machine, to fetch what is
// needed. The calling goroutine must be locked to its thread, and have started
// nothing yet that is to last.
func OwnNetwork(before func()) (bool, error) {
	if os.Getenv(inOwnNetwork) != "" {
		return true, nil
	}
	before()
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	switch err := unix.Unshare(unix.CLONE_NEWNET); err {
	case nil:
	case unix.EPERM, unix.EINVAL, unix.ENOSYS:
		return false, nil
	default:
		return false, os.NewSyscallError("unshare", err)
	}
	if err := raise("lo"); err != nil {
		return false, fmt.Errorf("start the loopback device of a new network: %w", err)
	}
	return false, os.NewSyscallError("execve", syscall.Exec(self, os.Args, append(os.Environ(), inOwnNetwork+"=1")))
}

// raise turns a network device on.
func raise(device string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	flags, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, flags); err != nil {
		return os.NewSyscallError("ioctl SIOCGIFFLAGS", err)
	}
	flags.SetUint16(flags.Uint16() | unix.IFF_UP)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, flags))
}

// Network says in a note to the results whose network it was.
func Network(own bool) string {
	if own {
		return "All of it in a network namespace of its own, without a firewall."
	}
	return "In the network of the machine, with whatever firewall that has: root is needed for a namespace of its own."
}
