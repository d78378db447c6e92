package fill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary is also what fills a small file system, in a name space of its own.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FILL_TEST_DIR"); dir != "" {
		os.Exit(small(dir))
	}
	os.Exit(m.Run())
}

func TestAFileTakesItsRoomAndIsRemoved(t *testing.T) {
	dir := t.TempDir()
	m := Mark{Run: "r-1", Fault: "full/of it"}
	path := Path(dir, m)
	if filepath.Dir(path) != dir || !strings.HasPrefix(filepath.Base(path), Prefix) {
		t.Errorf("path %s", path)
	}
	if err := Write(t.Context(), path, m, 3<<20+17); err != nil {
		t.Fatal(err)
	}
	if n, err := Allocated(path); err != nil || n < 3<<20+17 {
		t.Errorf("it takes %d bytes (%v)", n, err)
	}
	if err := Write(t.Context(), path, m, 1); !errors.Is(err, os.ErrExist) {
		t.Errorf("written twice: %v", err)
	}
	for _, other := range []Mark{{Run: "r-2", Fault: m.Fault}, {Run: m.Run, Fault: "another"}} {
		if did, err := Remove(path, other); did || err == nil || !strings.Contains(err.Error(), "left alone") {
			t.Errorf("removed for %v: %v, %v", other, did, err)
		}
	}
	for _, want := range []bool{true, false} {
		if did, err := Remove(path, m); did != want || err != nil {
			t.Errorf("removed: %v, %v; want %v", did, err, want)
		}
	}
	if n, err := Allocated(path); n != 0 || err != nil {
		t.Errorf("it still takes %d bytes (%v)", n, err)
	}
}

// What is not ours stays, whatever the record says.
func TestRemoveTouchesNothingElse(t *testing.T) {
	dir := t.TempDir()
	m := Mark{Run: "r-1", Fault: "f"}
	for name, make := range map[string]func(path string) error{
		"orders.db":         func(p string) error { return os.WriteFile(p, []byte("data"), 0o600) },
		Prefix + "text":     func(p string) error { return os.WriteFile(p, []byte("no mark\n"), 0o600) },
		Prefix + "endless":  func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("x", 1<<16)), 0o600) },
		Prefix + "folder":   func(p string) error { return os.Mkdir(p, 0o700) },
		Prefix + "link":     func(p string) error { return os.Symlink("/etc/passwd", p) },
		Prefix + "stranger": func(p string) error { return Write(context.Background(), p, Mark{Run: "r-9", Fault: "f"}, 100) },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if did, err := Remove(path, m); did || err == nil {
			t.Errorf("%s was removed (%v)", name, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
	empty := Path(dir, m) // cut off before its first byte
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if did, err := Remove(empty, m); !did || err != nil {
		t.Errorf("an empty file of ours: %v, %v", did, err)
	}
}

func TestSizeLeavesTheReserve(t *testing.T) {
	dir := t.TempDir()
	free, reserve, err := Free(dir)
	if err != nil || free <= 0 || reserve < ReserveOwn {
		t.Fatal(free, reserve, err)
	}
	if n, err := Size(dir, 1000, 0); n != 1000 || err != nil {
		t.Errorf("1000 bytes: %d, %v", n, err)
	}
	for _, c := range []struct{ bytes, leave int64 }{{1 << 60, 0}, {0, 0}, {0, 1 << 60}} {
		if n, err := Size(dir, c.bytes, c.leave); err == nil {
			t.Errorf("%v of %d free: %d are allowed", c, free, n)
		}
	}
}

func TestAnEndOfCtxLeavesAFileForRemove(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := Mark{Run: "r", Fault: "f"}
	path := Path(t.TempDir(), m)
	if err := Write(ctx, path, m, 1<<30); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if did, err := Remove(path, m); !did || err != nil {
		t.Errorf("removed: %v, %v", did, err)
	}
}

// On a volume of its own all but the last MiB may be taken; then nobody else can
// write much any more.
func TestASmallVolumeIsFilled(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FILL_TEST_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 77 {
		t.Skipf("no small file system to be had: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func small(dir string) int {
	failed := func(what ...any) int {
		_, _ = os.Stdout.WriteString(fmt.Sprintln(what...))
		return 1
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		failed(err)
		return 77
	}
	m := Mark{Run: "r", Fault: "f"}
	path := Path(dir, m)
	if _, err := Size(dir, 8<<20, 0); err == nil {
		return failed("all of it is allowed")
	}
	n, err := Size(dir, 0, ReserveOwn)
	if err != nil {
		return failed(err)
	}
	if err := Write(context.Background(), path, m, n); err != nil {
		return failed(err)
	}
	if free, _, err := Free(dir); err != nil || free > ReserveOwn+64<<10 {
		return failed("free", free, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "service.db"), make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return failed("a service writes 2 MiB:", err)
	}
	// More than there is: the file stays, and is removed.
	second := Mark{Run: "r", Fault: "g"}
	if err := Write(context.Background(), Path(dir, second), second, 8<<20); !errors.Is(err, syscall.ENOSPC) {
		return failed("8 MiB more:", err)
	}
	for _, m := range []Mark{m, second} {
		if did, err := Remove(Path(dir, m), m); !did || err != nil {
			return failed(did, err)
		}
	}
	return 0
}
