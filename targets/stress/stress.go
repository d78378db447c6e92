// Package stress is the work of a process that presses on a service from beside
// it: it burns processor time, or holds memory, until somebody ends it. The process
// runtime starts it as `chaosctl stress` (hidden), in a process group of its own and
// with a parent-death signal, so that the pressure ends when its process does,
// whatever ended the run.
//
// Linux only.
package stress

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Join moves this process into the control groups whose cgroup.procs files are
// named. One that cannot be joined is left out: whoever started us looks where we
// are, and says so.
func Join(procs []string) {
	for _, file := range procs {
		_ = os.WriteFile(file, []byte("0"), 0) // 0 is the writer itself, in v1 as in v2
	}
}

// period is what the load of a worker is a share of. A scheduler of control groups
// has the same one by default, so that a victim feels it in the same rhythm.
const period = 100 * time.Millisecond

// Busy is the line that Burn says when it begins.
const Busy = "busy"

// Burn says so on out, and keeps so many threads busy until ctx ends, each for its load (0 to 1) of
// every 100 ms. What counts is the processor time that it got: a worker that had to
// wait goes on until it has had its share, or the 100 ms are over.
func Burn(ctx context.Context, workers int, load float64, out io.Writer) error {
	if workers < 1 || !(load > 0 && load <= 1) {
		return fmt.Errorf("burn: %d workers at a load of %v: want at least one, and a load above 0, at most 1", workers, load)
	}
	runtime.GOMAXPROCS(workers + 1)
	debug.SetGCPercent(-1) // nothing is allocated
	if _, err := fmt.Fprintln(out, Busy); err != nil {
		return fmt.Errorf("say that it begins: %w", err)
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			burn(ctx, time.Duration(load*float64(period)))
		})
	}
	all.Wait()
	return nil
}

func burn(ctx context.Context, each time.Duration) {
	x := uint64(time.Now().UnixNano()) | 1
	for ctx.Err() == nil {
		began, used := time.Now(), threadTime()
		for time.Since(began) < period && threadTime()-used < each {
			for range 20_000 { // some 20 µs
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
			}
		}
		if rest := period - time.Since(began); rest > 0 && each < period {
			select {
			case <-time.After(rest):
			case <-ctx.Done():
			}
		}
	}
	sink.Store(x)
}

// sink keeps the compiler from leaving out what nobody reads.
var sink atomic.Uint64

// threadTime is the processor time of the calling thread, which must be locked.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// touchEvery is how often held pages are written to, so that none is swapped out
// or merged with another.
const touchEvery = time.Second

// Held is the line that Hold says when every page is there.
const Held = "held"

// Hold takes so many bytes of memory, writes to each page of them, says so on out,
// and keeps them until ctx ends. Should the machine run out of memory all the same, the kernel
// takes this process first.
func Hold(ctx context.Context, bytes int64, out io.Writer) error {
	if bytes < 1 {
		return fmt.Errorf("hold %d bytes: want at least 1", bytes)
	}
	// More of a victim than anybody else; also allowed without privileges.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("hold memory: offer ourselves first when it runs out: %w", err)
	}
	held, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("hold %d bytes of memory: %w", bytes, err)
	}
	defer unix.Munmap(held)
	page := os.Getpagesize()
	random := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(bytes)))
	touch := func() {
		for at := 0; at+8 <= len(held) && ctx.Err() == nil; at += page {
			*(*uint64)(unsafe.Pointer(&held[at])) = random.Uint64() // pages that differ: none is shared
		}
	}
	touch()
	if _, err := fmt.Fprintln(out, Held); err != nil {
		return fmt.Errorf("say that the memory is held: %w", err)
	}
	tick := time.NewTicker(touchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			touch()
		case <-ctx.Done():
			return nil
		}
	}
}
