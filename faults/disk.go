package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chaosctl/chaosctl/faults/fill"
	"github.com/chaosctl/chaosctl/faults/undo"
)

// disk writes a file into the data folder of each victim, one after the other. What
// is to stay free is a matter of file systems: where two victims share one, the first
// file fills it for both.
func disk(f Fault, w World) (*plan, error) {
	d, keeper := f.Spec.Disk, w.Services.(DataKeeper)
	all, p, err := victims(f, w, d.Pick)
	if err != nil {
		return nil, err
	}
	leave := int64(0)
	if d.Free != nil {
		leave = int64(*d.Free)
	}
	mark := fill.Mark{Run: w.Run, Fault: f.Spec.Name}
	var folders, paths []string // one per file
	hit := make([]int, 0, len(all))
	for _, v := range all {
		folder, err := keeper.DataFolder(v.service, v.instance)
		if err != nil {
			return nil, err
		}
		if i := sharing(folders, folder, d.Free != nil); i >= 0 {
			hit[i]++
			continue
		}
		size, err := fill.Size(folder, int64(d.Fill), leave)
		if err != nil {
			return nil, err
		}
		p.patience += patienceFor(size)
		folders, paths, hit = append(folders, folder), append(paths, fill.Path(folder, mark)), append(hit, 1)
	}
	p.detail = strings.Join(paths, ", ")
	p.data[undo.Files] = undo.FormatFiles(paths)
	p.inject = func(ctx context.Context, e *effect) error {
		e.observed["instances"] = 0
		leastFree := func(key string) {
			for i, folder := range folders {
				if n, _, err := fill.Free(folder); err == nil && (i == 0 || float64(n) < e.observed[key]) {
					e.observed[key] = float64(n)
				}
			}
		}
		leastFree("free_before_bytes")
		for i, path := range paths {
			// Its name is this fault's alone; a second one of that name would remove what
			// the first has written.
			release, ok := w.Undo.Claim("disk " + path)
			if !ok {
				return fmt.Errorf("%s is being written by another fault", path)
			}
			e.releases = append(e.releases, release)
			size, err := fill.Size(folders[i], int64(d.Fill), leave) // of what the files before have left
			if err != nil {
				return err
			}
			if err := e.fill(ctx, path, mark, size); err != nil {
				return err
			}
			e.observed["instances"] += float64(hit[i])
		}
		leastFree("free_bytes")
		return nil
	}
	return p, nil
}

// fill writes one file of that size, which is reverted by removing it.
func (e *effect) fill(ctx context.Context, path string, mark fill.Mark, size int64) error {
	wrote := int64(0)
	e.step(func(context.Context) error {
		// What is left of it now is what there was all the time, at least.
		if n, err := fill.Allocated(path); err == nil && n < wrote {
			e.observed["bytes"] -= float64(wrote - n)
			e.detail = "somebody else made it smaller, or removed it"
		}
		_, err := fill.Remove(path, mark)
		return err
	}, func(context.Context) error {
		if n, err := fill.Allocated(path); err != nil || n > 0 {
			return errors.Join(fmt.Errorf("%s is still there (%d bytes)", path, n), err)
		}
		return nil
	})
	if err := fill.Write(ctx, path, mark, size); err != nil {
		return err
	}
	n, err := fill.Allocated(path)
	if err != nil {
		return err
	}
	wrote = n
	e.observed["bytes"] += float64(n)
	if n < size {
		return fmt.Errorf("%s takes %d bytes of its file system, %d were written: it would not fill up", path, n, size)
	}
	return nil
}

// sharing is which of the folders takes the same file as this one: the folder itself,
// or, for what is about their file system, one beside it on that. -1: none.
func sharing(folders []string, folder string, fileSystem bool) int {
	for i, other := range folders {
		if other == folder || fileSystem && fill.SameFileSystem(other, folder) {
			return i
		}
	}
	return -1
}

// patienceFor is what writing so much may take: 50 MB/s, of a slow disk that others
// use, too.
func patienceFor(bytes int64) time.Duration { return time.Duration(bytes) * time.Second / 50_000_000 }
