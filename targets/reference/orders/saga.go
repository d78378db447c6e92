package orders

// State is where an order stands, as its row says and as callers read it.
type State string

// Forward, backward, and the four ends.
const (
	Pending             State = "pending"              // going forward
	Compensating        State = "compensating"         // going backward
	CompensationPending State = "compensation_pending" // going backward, and a step back could not be confirmed: retried for good
	Completed           State = "completed"
	Declined            State = "declined"
	SoldOut             State = "soldout"
	Compensated         State = "compensated"
)

// Terminal tells whether nothing more will happen.
func (s State) Terminal() bool {
	switch s {
	case Completed, Declined, SoldOut, Compensated:
		return true
	}
	return false
}

// Step is one call of the saga to another service.
type Step string

// The way forward and the way back. Release also calls back what was shipped,
// so it undoes ship and reserve at once.
const (
	Reserve Step = "reserve" // stock:    POST /reservations
	Charge  Step = "charge"  // payments: POST /charges
	Ship    Step = "ship"    // stock:    POST /reservations/{order}/ship
	Refund  Step = "refund"  // payments: POST /charges/{order}/refund
	Release Step = "release" // stock:    DELETE /reservations/{order}
)

// Result is what came of a step.
type Result int

const (
	Unknown  Result = iota // no answer: it may have had its effect, or not, or may have it yet
	Done                   // it has had its effect
	Refused                // it has had none and never will: declined at charge, sold out at reserve
	Rejected               // the callee does not accept the call itself; it had no effect
	GivenUp                // the outcome is not known, and nobody is waiting to find out: undo it
)

// Position is the durable state of a saga: where it stands, the step whose
// effect is uncertain, and the end that compensation leads to.
type Position struct {
	State   State
	Step    Step  // "" in a terminal state
	Outcome State // "" while going forward
}

// Start is the position of a new order.
var Start = Position{State: Pending, Step: Reserve}

// Next is the position after a step came to r. It is the whole saga:
//
//	           done            done           done
//	reserve ---------> charge ------> ship ---------> completed
//	  |  |  |          |  |  |         |
//	  |  |  |          |  |  +-declined|--------------+
//	  |  |  |          |  | given up,  | given up,    |
//	  |  |  |          |  | rejected   | rejected     v
//	  |  |  |          |  +----------> refund ---> release ---> declined | compensated
//	  |  |  +-given up-|------------------------------^
//	  |  +-rejected----|------------------------------------> compensated
//	  +-sold out-------|-----------------> release --------> soldout
//
// Unknown leaves a saga where it is, to be tried again under the same name:
// every step may be repeated. After a charge that went unanswered the way back
// begins with the refund, because the money may have moved; payments answers a
// refund of nothing by closing the order against a charge that is still on its
// way, and stock does likewise: so even a refused reserve is released, since an
// earlier try of it may have gone unanswered and still arrive. On the way back
// everything but done means that the step has to be tried again, for good.
func (p Position) Next(r Result) Position {
	if p.Outcome != "" {
		switch {
		case r != Done:
			return Position{CompensationPending, p.Step, p.Outcome}
		case p.Step == Refund:
			return Position{Compensating, Release, p.Outcome}
		}
		return Position{State: p.Outcome, Outcome: p.Outcome}
	}
	switch p.Step {
	case Reserve:
		switch r {
		case Done:
			return Position{State: Pending, Step: Charge}
		case Refused:
			return Position{Compensating, Release, SoldOut}
		case Rejected:
			return Position{State: Compensated}
		case GivenUp:
			return Position{Compensating, Release, Compensated}
		}
	case Charge:
		switch r {
		case Done:
			return Position{State: Pending, Step: Ship}
		case Refused:
			return Position{Compensating, Release, Declined}
		case Rejected, GivenUp:
			return Position{Compensating, Refund, Compensated}
		}
	case Ship:
		switch r {
		case Done:
			return Position{State: Completed}
		case Refused, Rejected, GivenUp:
			return Position{Compensating, Refund, Compensated}
		}
	}
	return p
}
