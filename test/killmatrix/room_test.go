package killmatrix

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/chaosctl/chaosctl/experiments/journal"
	"github.com/chaosctl/chaosctl/faults"
)

// A folder without room is a file system of its own, mounted where nobody else sees it:
// the test runs itself again in a mount name space (and, for those who are not root, a
// user name space) of its own. Files are counted there, not bytes: a journal that is
// there can grow, an undo record cannot come to be.

const apartMark = "KILLMATRIX_APART"

// mounts tells whether file systems can be mounted.
func mounts() bool { return os.Getenv(apartMark) == "yes" }

// apart runs the test again where it can mount; done is false where this is that run, or
// there is no such place: then the points that need it are left out.
func apart() (code int, done bool) {
	switch os.Getenv(apartMark) {
	case "yes":
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount:", err)
			return 1, true
		}
		return 0, false
	case "no":
		return 0, false
	}
	runtime.LockOSThread() // the parent-death signal follows the thread
	defer runtime.UnlockOSThread()
	for _, flags := range []uintptr{syscall.CLONE_NEWNS, syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER} {
		again := exec.Command(os.Args[0], os.Args[1:]...)
		again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
		again.Env = append(os.Environ(), apartMark+"=yes")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&syscall.CLONE_NEWUSER != 0 {
			again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
			again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		}
		if err := again.Start(); err != nil {
			continue
		}
		err := again.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, err)
			return 1, true
		}
		return max(again.ProcessState.ExitCode(), 0), true
	}
	return 0, false
}

// mount gives the run's folder a file system with room for some hundred files.
func (r *run) mount() error {
	if err := os.Mkdir(r.folder(), 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", r.folder(), "tmpfs", 0, "size=64m,nr_inodes=300")
}

func (r *run) unmount() error { return unix.Unmount(r.folder(), 0) }

// fill takes the room for files away, by files of ours.
func (r *run) fill() (took []string, err error) {
	for n := 0; err == nil; n++ {
		path := filepath.Join(r.folder(), fmt.Sprintf("full-%d", n))
		var f *os.File
		if f, err = os.Create(path); err == nil {
			took, err = append(took, path), f.Close()
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return took, err
}

// free gives the room back when what becomes of the fault stands in the journal: the
// reports need it.
func (r *run) free(took []string) error {
	err := r.await("what becomes of the fault is not told", func() bool {
		b, _ := os.ReadFile(r.journal())
		return bytes.Contains(b, []byte(`"state":"failed"`)) || bytes.Contains(b, []byte(`"state":"verified"`))
	})
	for _, path := range took {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// onRecord tells whether the fault has, or had, an undo record, or begins to have one.
func (r *run) onRecord() bool {
	records, _ := filepath.Glob(filepath.Join(r.folder(), "undo", "*"))
	b, _ := os.ReadFile(r.journal())
	return len(records) > 0 || bytes.Contains(b, []byte(`"fault":{"name":"fault"`))
}

// lookAtRecord wants a fault that had no room for its undo record not to have been
// injected.
func (r *run) lookAtRecord(events []journal.Event) {
	var states []string
	why := ""
	for _, e := range events {
		if e.Fault != nil {
			states, why = append(states, e.Fault.State), why+e.Fault.Error
		}
	}
	if !slices.Equal(states, []string{faults.Failed}) || !strings.Contains(why, "no space left on device") {
		r.wrong("without room for its undo record the fault went through %q (%s), want only %q", states, why, faults.Failed)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 3 {
		r.wrong("exit code %d, want 3: the fault was not there", code)
	}
}
