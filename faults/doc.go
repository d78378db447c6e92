// Package faults says what a fault is, and holds one for its time.
//
// A Spec is what a scenario writes. A Fault is a Spec placed on a run's clock,
// its target resolved to edges or to a service. A World is what it acts upon: the
// proxies on the edges, the runtime of the services, the undo log. Hold injects
// the fault, keeps it for its time, reverts it, and verifies that:
//
//	undo record ──> injecting ──> injected ──(time, or the end of ctx)──> reverting ──> reverted ──> verified
//	                    └── failed ──> what was done so far is reverted ──┘      └── failed: *RevertError
//
// Kinds is the one table of everything there is to inject. A kind that needs
// more of a runtime than proxies asks for a capability (Killer, Starter, …); the
// interfaces are declared here and offered by runtimes that know nothing of
// faults.
package faults
