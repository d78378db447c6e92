// Package arrival decides when requests are due: pure functions of the time
// since the stream began, in vegeta's vocabulary of pacers, run on a virtual clock.
package arrival

// Rate is arrivals per second, written "200/s", "30/m" or "100/h".
type Rate float64
