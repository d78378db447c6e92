package loadgen

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReserveFiles(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 5000 {
		t.Skipf("the limit of open files is %d: %v", limit.Cur, err)
	}
	reserveFiles(4000)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	room := 0
	_, line, _ := bytes.Cut(status, []byte("\nFDSize:"))
	if _, err := fmt.Sscan(string(line), &room); err != nil || room < 4000 {
		t.Errorf("there is room for %d descriptors, want at least 4000; %v", room, err)
	}
	reserveFiles(1 << 30) // more than allowed: as many as are
}
