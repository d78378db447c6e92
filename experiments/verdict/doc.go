// Package verdict says what a run showed. Judge is a pure function of what was
// claimed (Hypotheses) and of what happened (the journal's events): the same
// input gives the same Result, on any machine, at any later time.
//
// The nouns: an objective claims a share ("at least 99 % of requests are ok";
// "p95 < 400ms" is "at least 95 % are good within 400 ms"), judged by exact
// binomial bounds on a number of samples that respects that failures come in
// bursts (share.go). A breaker is judged from the wire: who called whom, how
// often, and how fast the callers were answered (breaker.go). The positive
// control compares each fault as it was measured with the fault as it was asked
// (evidence.go): without it nothing else counts.
//
// A request belongs to the phase in which it was due, whenever it was answered;
// the journal tells due times to 100 ms, and such a window belongs to the phase
// in which it begins.
package verdict
