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
// The timeout runs from due. What goes wrong has one of these names:
//
//	timeout   no complete answer within the timeout
//	refused   no connection could be made: nobody listens there
//	reset     the connection ended before the answer was complete
//	tls       no agreement on TLS: an untrusted certificate, one of another name, an
//	          alert; or what came was not TLS
//	dns       the host's name has no address
//	protocol  the answer is not one of the stream's protocol
//	dropped   see above
//	canceled  the run was cut off; in no share, neither ok nor failed
//	check     the answer does not hold what a check claims
//	capture   a value that a later step needs is not in the answer
//	redirect  a redirect that is not followed: to another host, or one too many
//	data      no row is left of unique data: never sent
//	other     anything else (the detail of a Sample says what)
//
// A stream may also consist of sessions: an arrival, or a user's turn, begins one,
// and its steps go one after another over one connection, each a request of its own
// that may use what earlier answers held (session.go).
//
// Beside the latency stand the service time, done − sent, which is what a
// generator that forgets the waiting would report, and the generator's lag,
// sent − due; sent is when the request was given a connection, or the making of
// one began for it.
//
// Two engines carry requests (Engine): event loops on raw sockets where they can
// be (shard), else a goroutine per connection (pool, user). What is written here
// holds for both, plain and over TLS; sessions, and whatever looks at answers, take
// the second.
//
// Requests of a stream are numbered from 0, or else its sessions. Number k has the same content for
// the same seed and stream name, whatever the timing.
package loadgen
