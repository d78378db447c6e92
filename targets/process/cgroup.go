package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ControlGroup is the group of a process in one hierarchy of control groups.
type ControlGroup struct {
	Controllers []string // of a v1 hierarchy; none for v2, which has all
	Path        string   // below the hierarchy's mount, "/" at its top
}

// ControlGroups reads /proc/PID/cgroup.
//
//	4:cpu,cpuacct:/user.slice        a v1 hierarchy
//	0::/user.slice                   v2
func ControlGroups(pid int) ([]ControlGroup, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("look up the control groups of process %d: %w", pid, err)
	}
	var all []ControlGroup
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || strings.HasPrefix(parts[1], "name=") {
			continue
		}
		g := ControlGroup{Path: parts[2]}
		if parts[1] != "" {
			g.Controllers = strings.Split(parts[1], ",")
		}
		all = append(all, g)
	}
	return all, nil
}

// OwnGroups lists those control groups of a process that have one of these
// controllers and that this process is not in itself: the folder of each, where it
// is mounted under /sys/fs/cgroup. None: the process has no group of its own.
func OwnGroups(pid int, controllers ...string) (folders []string, err error) {
	theirs, err := ControlGroups(pid)
	if err != nil {
		return nil, err
	}
	ours, err := ControlGroups(os.Getpid())
	if err != nil {
		return nil, err
	}
	for _, g := range theirs {
		same := slices.ContainsFunc(ours, func(o ControlGroup) bool {
			return slices.Equal(o.Controllers, g.Controllers) && o.Path == g.Path
		})
		if same {
			continue
		}
		if folder := g.folder(controllers); folder != "" {
			folders = append(folders, folder)
		}
	}
	return folders, nil
}

// cgroupRoot is where the hierarchies are mounted, by convention.
const cgroupRoot = "/sys/fs/cgroup"

// folder is where the group can be looked at; "" when it has none of these
// controllers, or cannot be seen from here.
func (g ControlGroup) folder(controllers []string) string {
	mounts := []string{cgroupRoot, cgroupRoot + "/unified"} // v2, alone or beside v1
	if len(g.Controllers) > 0 {
		if !slices.ContainsFunc(g.Controllers, func(c string) bool { return slices.Contains(controllers, c) }) {
			return ""
		}
		mounts = []string{filepath.Join(cgroupRoot, strings.Join(g.Controllers, ","))}
		for _, c := range g.Controllers {
			mounts = append(mounts, filepath.Join(cgroupRoot, c))
		}
	}
	for _, mount := range mounts {
		folder := filepath.Join(mount, g.Path)
		if _, err := os.Stat(filepath.Join(folder, "cgroup.procs")); err != nil {
			continue
		}
		if len(g.Controllers) > 0 || v2Has(folder, controllers) {
			return folder
		}
	}
	return ""
}

func v2Has(folder string, controllers []string) bool {
	b, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	return err == nil && slices.ContainsFunc(strings.Fields(string(b)), func(c string) bool { return slices.Contains(controllers, c) })
}

// MemoryLeft is how much a process in this control group may still take: its
// limit, less what is used. ok is false where there is no limit.
func MemoryLeft(folder string) (left int64, ok bool, err error) {
	for _, names := range [][2]string{{"memory.max", "memory.current"}, {"memory.limit_in_bytes", "memory.usage_in_bytes"}} {
		limit, err := readNumber(filepath.Join(folder, names[0]))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, false, err
		}
		if limit < 0 || limit > 1<<60 { // "max", or v1's way to say so
			return 0, false, nil
		}
		used, err := readNumber(filepath.Join(folder, names[1]))
		return limit - used, err == nil, err
	}
	return 0, false, nil
}

// readNumber reads a file that holds one number; -1 for "max".
func readNumber(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is no number", path, text)
	}
	return n, nil
}

// Memory is the machine's, in bytes: all there is, and what could be had without
// pushing anybody out.
func Memory() (total, available int64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("look up how much memory there is: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 50)
		switch {
		case err != nil:
		case name == "MemTotal":
			total = kib << 10
		case name == "MemAvailable":
			available = kib << 10
		}
	}
	if total == 0 || available == 0 {
		return 0, 0, errors.New("look up how much memory there is: /proc/meminfo does not say")
	}
	return total, available, nil
}
