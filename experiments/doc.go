// Package experiments turns a scenario into a plan, and a plan into a journal.
//
// Compile is pure: everything that can be decided before anything runs is decided
// there and can be printed. Run is the only function of the whole program that
// knows load, faults and targets at once, and the only one that asks what time it is.
package experiments
