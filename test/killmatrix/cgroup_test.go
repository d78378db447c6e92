package killmatrix

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Service managers and container runtimes end a run by its control group: all its
// processes at once, the watchdog among them. Here each such run has a group of its own.

// groupsRoot is where control groups (version 2) can be made that can be killed;
// "": nowhere, and the points that need one are left out.
var groupsRoot = sync.OnceValue(func() string {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		group, err := os.MkdirTemp(root, "chaosctl-matrix-")
		if err != nil {
			continue
		}
		f, err := os.OpenFile(filepath.Join(group, "cgroup.kill"), os.O_WRONLY, 0) // Linux 5.14
		if err == nil {
			f.Close()
		}
		if errors.Join(err, os.Remove(group)) == nil {
			return root
		}
	}
	return ""
})

// enclose has the run start in a control group of its own. The caller closes the
// folder once it has started.
func (r *run) enclose() (folder *os.File, err error) {
	if r.group, err = os.MkdirTemp(groupsRoot(), "chaosctl-matrix-"); err != nil {
		return nil, err
	}
	if folder, err = os.Open(r.group); err != nil {
		return nil, err
	}
	r.cmd.SysProcAttr.UseCgroupFD, r.cmd.SysProcAttr.CgroupFD = true, int(folder.Fd())
	return folder, nil
}

// killGroup kills every process in the run's control group.
func (r *run) killGroup() error {
	return os.WriteFile(filepath.Join(r.group, "cgroup.kill"), []byte("1"), 0)
}

// removeGroup removes the control group, which the kernel allows once the last of
// its processes has been reaped.
func (r *run) removeGroup() error {
	deadline := time.Now().Add(within)
	err := os.Remove(r.group)
	for ; errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline); err = os.Remove(r.group) {
		time.Sleep(500 * time.Microsecond)
	}
	if err != nil {
		procs, _ := os.ReadFile(filepath.Join(r.group, "cgroup.procs"))
		return fmt.Errorf("%w; processes in it: %q", err, procs)
	}
	return nil
}
