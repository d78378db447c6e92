//go:build !race

package verdict

// fewer divides the number of simulated runs.
const fewer = 1
