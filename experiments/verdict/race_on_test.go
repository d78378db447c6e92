//go:build race

package verdict

// fewer: the race detector makes the simulations ten times as slow, and they
// have one goroutine.
const fewer = 10
