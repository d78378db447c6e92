package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what processes have used since they were started.
type Usage struct {
	CPU    time.Duration // processor time
	Waited time.Duration // time for which threads wanted a processor and had none; 0 where the kernel does not say
	RSS    int64         // bytes of memory that are resident now
}

// ticksPerSecond is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// Linux that Go runs on.
const ticksPerSecond = 100

// UsageOf adds up what these processes have used. One that is gone counts as
// having used nothing.
//
//	CPU      the larger of utime+stime in /proc/PID/stat (10 ms steps, ended threads
//	         included) and the sum of /proc/PID/task/*/schedstat (exact, living threads)
//	Waited   the second number of the latter
//	RSS      VmRSS of /proc/PID/status
func UsageOf(pids ...int) (Usage, error) {
	var all Usage
	for _, pid := range pids {
		u, err := usageOf("/proc/" + strconv.Itoa(pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("look up what process %d uses: %w", pid, err)
		}
		all.CPU += u.CPU
		all.Waited += u.Waited
		all.RSS += u.RSS
	}
	return all, nil
}

func usageOf(dir string) (u Usage, err error) {
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	// Fields 14 and 15; the third is the first behind the name's last parenthesis.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("cannot read %q", text)
	}
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseUint(field, 10, 63)
		if err != nil {
			return u, fmt.Errorf("cannot read %q", text)
		}
		u.CPU += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok { // a zombie has none
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 50)
			if err != nil {
				return u, fmt.Errorf("cannot read %q", line)
			}
			u.RSS = kib << 10
		}
	}
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return u, err
	}
	var exact time.Duration
	for _, t := range threads {
		var ran, waited uint64
		b, err := os.ReadFile(dir + "/task/" + t.Name() + "/schedstat")
		if err != nil { // it has ended, or the kernel keeps none
			continue
		}
		if _, err := fmt.Sscan(string(b), &ran, &waited); err == nil {
			exact += time.Duration(ran)
			u.Waited += time.Duration(waited)
		}
	}
	u.CPU = max(u.CPU, exact)
	return u, nil
}
