// Package loadgen sends requests on a schedule and says, honestly, how long
// they took.
//
// A stream (Spec) follows one of two models. In the open model requests are due
// at times that nobody's answers move (package arrival). In the closed model so
// many users each wait for an answer, think, and ask again. Either way a request
// is due at one moment, sent at another, done at a third, and
//
//	latency = done − due
//
// so that a system that stalls is charged for all the requests that fell due
// meanwhile, also for those that no connection was free to carry. What keeps a
// request from being sent is told apart:
//
//	queued   due while all connections the stream may have were busy: the
//	         system's doing, and part of the latency
//	late     a connection was free, yet it was sent more than 10 ms after due:
//	         the generator's own lag
//	dropped  queued longer than its timeout: failed, never sent
//
// The timeout runs from due. What goes wrong has one of seven names:
//
//	timeout   no complete answer within the timeout
//	refused   no connection could be made: nobody listens there
//	reset     the connection ended before the answer was complete
//	protocol  the answer is not HTTP/1.1
//	dropped   see above
//	canceled  the run was cut off; in no share, neither ok nor failed
//	other     anything else (the detail of a Sample says what)
//
// Beside the latency stand the service time, done − sent, which is what a
// generator that forgets the waiting would report, and the generator's lag,
// sent − due; sent is when the request was given a connection, or the making of
// one began for it.
//
// Two engines carry requests (Engine): event loops on raw sockets where they can
// be (shard), else a goroutine per connection (pool, user). What is written here
// holds for both.
//
// Requests of a stream are numbered from 0. Number k has the same content for
// the same seed and stream name, whatever the timing.
package loadgen
