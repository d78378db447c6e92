// Package fill writes files whose only use is to take room on a file system, and
// removes them. A file says in its first line whose it is, so that nothing else is
// ever removed:
//
//	{"chaosctl":"fill","run":"20261121-…","fault":"full"}
//	… bytes that cannot be compressed …
//
// It is written, not only reserved: what a file system reserves may cost nothing.
package fill

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mark is whose a file is.
type Mark struct {
	Chaosctl string `json:"chaosctl"` // "fill"
	Run      string `json:"run"`
	Fault    string `json:"fault"`
}

// Prefix begins the name of every file.
const Prefix = ".chaosctl-fill-"

const (
	// Most is the most that is written at once: what takes minutes to write is no
	// fault of a test.
	Most = 4 << 30
	// ReserveShared stays free on a file system that others use: the root's, or the
	// one that we work on.
	ReserveShared = 256 << 20
	// ReserveOwn stays free on any other one: a volume of the data's own may as good
	// as fill up, and what chaosctl itself has to write there still fits.
	ReserveOwn = 1 << 20
)

// Path is where a fault's file in a folder is.
func Path(folder string, m Mark) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, m.Run+"-"+m.Fault)
	return filepath.Join(folder, Prefix+name[:min(len(name), 120)])
}

// Free is what an ordinary user may still write on the folder's file system, and
// what of it has to stay.
func Free(folder string) (free, reserve int64, err error) {
	var fsys unix.Statfs_t
	if err := unix.Statfs(folder, &fsys); err != nil {
		return 0, 0, fmt.Errorf("look how much room there is in %s: %w", folder, err)
	}
	reserve = ReserveOwn
	for _, other := range []string{"/", "."} {
		if SameFileSystem(folder, other) {
			reserve = ReserveShared
		}
	}
	return int64(fsys.Bavail) * fsys.Bsize, reserve, nil
}

// SameFileSystem tells whether two folders are on one file system.
func SameFileSystem(a, b string) bool {
	var one, two unix.Stat_t
	return unix.Stat(a, &one) == nil && unix.Stat(b, &two) == nil && one.Dev == two.Dev
}

// Size says how much to write: bytes, or, where that is 0, until only leave bytes are
// free. It is an error when that is more than Most, more than there is, or leaves
// less than the reserve.
func Size(folder string, bytes, leave int64) (int64, error) {
	free, reserve, err := Free(folder)
	if err != nil {
		return 0, err
	}
	if bytes == 0 {
		bytes = free - leave
	}
	most := min(free-reserve, Most)
	switch {
	case bytes <= 0:
		return 0, fmt.Errorf("there are only %s free in %s already: nothing would be written", mib(free), folder)
	case bytes > most && most == Most:
		return 0, fmt.Errorf("%s are more than is written at once: at most %s (free are %s); put the data on a smaller volume, by TMPDIR", mib(bytes), mib(Most), mib(free))
	case bytes > most:
		return 0, fmt.Errorf("%s would leave less than %s of the %s that are free in %s: ask for at most %s", mib(bytes), mib(reserve), mib(free), folder, mib(max(most, 0)))
	}
	return bytes, nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// Write makes the file of that size, its mark included. One that exists is an
// error. When ctx ends, or the room does, it is an error and the file stays, for
// Remove.
func Write(ctx context.Context, path string, m Mark, size int64) error {
	m.Chaosctl = "fill"
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	err = write(ctx, f, append(line, '\n'), size)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("fill %s: %w", path, err)
	}
	return nil
}

func write(ctx context.Context, f *os.File, head []byte, size int64) error {
	var seed [32]byte
	copy(seed[:], head)
	random := rand.NewChaCha8(seed)
	block := make([]byte, 1<<20)
	for size > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		_, _ = random.Read(block)
		copy(block, head)
		head = nil
		n, err := f.Write(block[:min(size, int64(len(block)))])
		if size -= int64(n); err != nil {
			return err
		}
	}
	return f.Sync() // allocated on the disk, not only promised
}

// Allocated is how many bytes the file takes on its file system; 0 when there is
// none.
func Allocated(path string) (int64, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}

// Remove removes the file if it is this fault's of this run, and tells whether there
// was one. Anything else by that name is an error, and stays. Safe to repeat.
func Remove(path string, m Mark) (did bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove what filled the disk: %w", err)
	}
	not := func(why string) error {
		return fmt.Errorf("%s %s: it is not what fault %q of run %s wrote, and is left alone", path, why, m.Fault, m.Run)
	}
	if !info.Mode().IsRegular() || !strings.HasPrefix(filepath.Base(path), Prefix) {
		return false, not("is no file of ours")
	}
	if info.Size() > 0 { // else it was cut off before its first byte
		found, err := readMark(path)
		if err != nil {
			return false, not("has no mark (" + err.Error() + ")")
		}
		if m.Chaosctl = "fill"; found != m {
			return false, not(fmt.Sprintf("belongs to fault %q of run %s", found.Fault, found.Run))
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove what filled the disk: %w", err)
	}
	return true, nil
}

func readMark(path string) (m Mark, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return m, err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}
