package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Group lists the processes of a process group that still run, the leader (whose
// number is the group's) first. Zombies count as gone: all that is left of them
// is a number, kept until somebody reaps it.
func Group(pgid int) ([]int, error) {
	states, err := group(pgid)
	var pids []int
	for pid := range states {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	if i := slices.Index(pids, pgid); i > 0 {
		pids = slices.Insert(slices.Delete(pids, i, i+1), 0, pgid)
	}
	return pids, err
}

// group maps the live members of a group to their states (R, S, D, T, …).
func group(pgid int) (map[int]byte, error) {
	names, err := processNames()
	if err != nil {
		return nil, err
	}
	states := make(map[int]byte)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue // not a process
		}
		state, itsGroup, err := stat(pid)
		if err != nil {
			return nil, err
		}
		if itsGroup == pgid && state != 0 && state != 'Z' && state != 'X' {
			states[pid] = state
		}
	}
	return states, nil
}

// processNames lists /proc: the numbers of all processes, and some other names.
func processNames() ([]string, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	return names, nil
}

// stat reads a process's state and group from /proc/PID/stat; state 0 means that
// there is no such process (any more).
//
//	840 (a (strange) name) S 812 840 840 …
//	                       ^state ^group
//
// The name may hold parentheses and spaces, so fields count from the last ")".
func stat(pid int) (state byte, pgid int, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look up process %d: %w", pid, err)
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 3 {
		return 0, 0, fmt.Errorf("look up process %d: cannot read %q", pid, text)
	}
	pgid, err = strconv.Atoi(fields[2])
	if err != nil {
		return 0, 0, fmt.Errorf("look up process %d: cannot read %q", pid, text)
	}
	return fields[0][0], pgid, nil
}
