// Package threads is for event loops that have a thread of the kernel's to
// themselves, as goroutines that block it: how such a thread wakes up on time, and
// how other goroutines keep as many processors as before. Decision 18 says why.
package threads

import (
	"runtime"
	"sync"
)

// extra is how many processors Go has been told of that there are not.
var extra struct {
	sync.Mutex
	n int
}

// Extra lets n more threads run Go code at once than there are
// processors (GOMAXPROCS), until the returned function is called: the kernel shares the
// processors out among threads, and sooner than Go does among goroutines. Other goroutines have
// as many as before, also while n of them block their threads.
func Extra(n int) (giveBack func()) {
	add := func(n int) {
		extra.Lock()
		defer extra.Unlock()
		extra.n += n
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	}
	add(n)
	return func() { add(-n) }
}

// Processors is how many there are for goroutines, without the extra ones.
func Processors() int {
	extra.Lock()
	defer extra.Unlock()
	return runtime.GOMAXPROCS(0) - extra.n
}
