package faults

import "time"

// Spec is one fault as a scenario writes it: one verb key, a target, a window,
// and, on edges, conditions that narrow it down. Exactly one of the verb fields is
// set.
//
//	slow-payments:
//	  target: orders -> payments
//	  latency: { delay: 800ms, jitter: 100ms, percent: 50 }
//	  at: 0s                       # into `during`
//	  for: 20s                     # default: the rest of `during`
//	  pulse: { active: 2s, pause: 3s }   # comes and goes
//	  ramp: 10s                    # until percent has its full value
//	  first: 20                    # calls, counted from when it was injected
//	  every: 5                     # the 5th, 10th, … call
//	  from: 10.0.0.0/8             # of callers with such an address
//	  match: { method: [POST], path: /payments/* }   # requests, on HTTP edges
type Spec struct {
	Name   string         `yaml:"-" json:"-"`                               // the key it stands under
	Target string         `yaml:"target,omitempty" json:"target,omitempty"` // "caller -> callee" or a service; none for partition
	At     time.Duration  `yaml:"at,omitempty" json:"at,omitempty"`         // offset into `during`
	For    *time.Duration `yaml:"for,omitempty" json:"for,omitempty"`       // default: until `during` ends

	Latency     *Latency     `yaml:"latency,omitempty" json:"latency,omitempty"`
	Error       *Error       `yaml:"error,omitempty" json:"error,omitempty"`
	Reset       *Reset       `yaml:"reset,omitempty" json:"reset,omitempty"`
	Blackhole   *Cut         `yaml:"blackhole,omitempty" json:"blackhole,omitempty"`
	Silence     *Silence     `yaml:"silence,omitempty" json:"silence,omitempty"`
	Refuse      *Refuse      `yaml:"refuse,omitempty" json:"refuse,omitempty"`
	SlowConnect *SlowConnect `yaml:"slow_connect,omitempty" json:"slow_connect,omitempty"`
	SlowClose   *SlowClose   `yaml:"slow_close,omitempty" json:"slow_close,omitempty"`
	Bandwidth   *Bandwidth   `yaml:"bandwidth,omitempty" json:"bandwidth,omitempty"`
	Slice       *Slice       `yaml:"slice,omitempty" json:"slice,omitempty"`
	Loss        *Loss        `yaml:"loss,omitempty" json:"loss,omitempty"`
	Corrupt     *Corrupt     `yaml:"corrupt,omitempty" json:"corrupt,omitempty"`
	Limit       *Limit       `yaml:"limit,omitempty" json:"limit,omitempty"`
	Abort       *Abort       `yaml:"abort,omitempty" json:"abort,omitempty"`
	Reshape     *Reshape     `yaml:"reshape,omitempty" json:"reshape,omitempty"`
	Duplicate   *Duplicate   `yaml:"duplicate,omitempty" json:"duplicate,omitempty"`
	Reorder     *Reorder     `yaml:"reorder,omitempty" json:"reorder,omitempty"`
	Partition   *Partition   `yaml:"partition,omitempty" json:"partition,omitempty"`
	Kill        *Kill        `yaml:"kill,omitempty" json:"kill,omitempty"`
	Pause       *Pause       `yaml:"pause,omitempty" json:"pause,omitempty"`
	Restart     *Restart     `yaml:"restart,omitempty" json:"restart,omitempty"`
	CPU         *CPU         `yaml:"cpu,omitempty" json:"cpu,omitempty"`
	Memory      *Memory      `yaml:"memory,omitempty" json:"memory,omitempty"`
	Disk        *Disk        `yaml:"disk,omitempty" json:"disk,omitempty"`
	DNS         *DNS         `yaml:"dns,omitempty" json:"dns,omitempty"`
	Clock       *Clock       `yaml:"clock,omitempty" json:"clock,omitempty"`

	// Conditions, of faults on edges; see proxy.Match and proxy.When.
	Match *Match         `yaml:"match,omitempty" json:"match,omitempty"`
	Pulse *Pulse         `yaml:"pulse,omitempty" json:"pulse,omitempty"`
	Ramp  *time.Duration `yaml:"ramp,omitempty" json:"ramp,omitempty"`
	First *uint64        `yaml:"first,omitempty" json:"first,omitempty"`
	Every *uint64        `yaml:"every,omitempty" json:"every,omitempty"`
	From  Source         `yaml:"from,omitempty" json:"from,omitempty"`
}

// Match is which requests of an HTTP edge the fault is about: all that is written
// must hold. In Path, Host and the values of Headers, * stands for any characters.
type Match struct {
	Method  []string          `yaml:"method,omitempty" json:"method,omitempty"`   // one of them
	Path    string            `yaml:"path,omitempty" json:"path,omitempty"`       // without the query
	Host    string            `yaml:"host,omitempty" json:"host,omitempty"`       // without a port: on any
	Headers map[string]string `yaml:"headers,omitempty" json:"headers,omitempty"` // "" for any value
	GRPC    *GRPC             `yaml:"grpc,omitempty" json:"grpc,omitempty"`
}

// GRPC is which calls of gRPC the fault is about; * stands for any characters.
type GRPC struct {
	Service string `yaml:"service,omitempty" json:"service,omitempty"` // shop.Payments; "" for any
	Method  string `yaml:"method,omitempty" json:"method,omitempty"`   // Charge; "" for any
}

// Pulse is Active at work, then Pause not, in turn, as if the fault were injected and
// reverted each time.
type Pulse struct {
	Active time.Duration `yaml:"active" json:"active"`
	Pause  time.Duration `yaml:"pause" json:"pause"`
}

// Latency adds Delay, give or take what Jitter and Distribution say, once per
// call, to the answer unless Direction says "request". On tcp edges it holds back
// every byte by that much, order kept; on udp edges every datagram, which then overtake
// one another unless KeepOrder. The mean is Delay under every
// distribution; see proxy.Latency for the laws.
type Latency struct {
	Delay        time.Duration `yaml:"delay,omitempty" json:"delay"`
	Jitter       time.Duration `yaml:"jitter,omitempty" json:"jitter,omitempty"`             // uniform: the most it differs; normal, pareto: standard deviation
	Distribution string        `yaml:"distribution,omitempty" json:"distribution,omitempty"` // uniform (default) | normal | pareto | exponential
	Percent      *Percent      `yaml:"percent,omitempty" json:"percent,omitempty"`           // default 100
	Direction    string        `yaml:"direction,omitempty" json:"direction,omitempty"`       // answer (default) | request
	Where        string        `yaml:"where,omitempty" json:"where,omitempty"`               // HTTP edges: head (default) | body
	KeepOrder    bool          `yaml:"keep_order,omitempty" json:"keep_order,omitempty"`     // UDP edges
}

// Error answers with Status instead of asking the callee, or calls of gRPC with that
// status of gRPC. HTTP edges only.
type Error struct {
	Status  int      `yaml:"status,omitempty" json:"status,omitempty"` // default 503
	Body    string   `yaml:"body,omitempty" json:"body,omitempty"`
	GRPC    string   `yaml:"grpc,omitempty" json:"grpc,omitempty"`       // UNAVAILABLE, …; in place of Status and Body
	Message string   `yaml:"message,omitempty" json:"message,omitempty"` // beside GRPC
	Percent *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
}

// Reset ends connections with RST: after so many bytes of the answer, or (tcp
// edges) when Wait is over since the connection, or the fault, began.
type Reset struct {
	Percent *Percent      `yaml:"percent,omitempty" json:"percent,omitempty"`
	After   Bytes         `yaml:"after,omitempty" json:"after,omitempty"`
	Wait    time.Duration `yaml:"wait,omitempty" json:"wait,omitempty"`
}

// Cut is a blackhole: nothing passes either way, after so many bytes of the answer.
type Cut struct {
	Percent *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
	After   Bytes    `yaml:"after,omitempty" json:"after,omitempty"`
}

// Silence discards the bytes of one direction, where the other goes on (a
// blackhole stops both, and never lets go). After For the connection is closed in
// order. TCP edges only.
type Silence struct {
	For       *time.Duration `yaml:"for,omitempty" json:"for,omitempty"` // default: not before the fault ends
	Percent   *Percent       `yaml:"percent,omitempty" json:"percent,omitempty"`
	Direction string         `yaml:"direction,omitempty" json:"direction,omitempty"` // answer (default) | request
}

// Refuse turns connections away before they are open.
type Refuse struct {
	Percent *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
}

// SlowConnect is a slow handshake: nothing passes, nor is the callee called, until
// Delay after the connection was opened. The other end of SlowClose, hence the name.
type SlowConnect struct {
	Delay   time.Duration `yaml:"delay,omitempty" json:"delay"`
	Percent *Percent      `yaml:"percent,omitempty" json:"percent,omitempty"`
}

// SlowClose passes the end of a direction (FIN) on only after Delay. TCP edges only.
type SlowClose struct {
	Delay     time.Duration `yaml:"delay,omitempty" json:"delay"`
	Percent   *Percent      `yaml:"percent,omitempty" json:"percent,omitempty"`
	Direction string        `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
}

// Bandwidth lets Rate bytes per second through, in each direction that is meant:
// per connection, or, Shared, for all connections that it hits together.
type Bandwidth struct {
	Rate      ByteRate `yaml:"rate,omitempty" json:"rate"`
	Shared    bool     `yaml:"shared,omitempty" json:"shared,omitempty"`
	Percent   *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
	Direction string   `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
	Queue     Bytes    `yaml:"queue,omitempty" json:"queue,omitempty"`         // UDP edges: bytes that wait at most
}

// Slice sends bytes in pieces of Average ± Variation, with Delay between two.
type Slice struct {
	Average   Bytes         `yaml:"average,omitempty" json:"average"`
	Variation Bytes         `yaml:"variation,omitempty" json:"variation,omitempty"`
	Delay     time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"`
	Percent   *Percent      `yaml:"percent,omitempty" json:"percent,omitempty"`
	Direction string        `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
}

// Loss is what loss of packets does to a stream of bytes: the chunk that is hit,
// and all behind it, comes late by a retransmission timeout. Percent is of the
// chunks; Correlation is how likely a chunk's fate is that of the one before. On UDP
// edges it is of datagrams, which are lost.
type Loss struct {
	Percent     Percent `yaml:"percent,omitempty" json:"percent"`
	Correlation Percent `yaml:"correlation,omitempty" json:"correlation,omitempty"`
	Direction   string  `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
}

// Corrupt flips one bit in so large a share of the bytes; on HTTP edges, of those
// of bodies.
type Corrupt struct {
	Percent   Percent `yaml:"percent,omitempty" json:"percent"`
	Direction string  `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
}

// Limit closes a connection, in order, when so many bytes have passed; on UDP edges,
// what does not fit into so many of a session is dropped. TCP and UDP edges only.
type Limit struct {
	Bytes     *Bytes   `yaml:"bytes,omitempty" json:"bytes"` // 0 B: at the first byte
	Percent   *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
	Direction string   `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default: in either) | request | answer
}

// Abort ends the connection in the midst of an answer, when After bytes of its
// body have passed: with RST, or, Close, in order. HTTP edges only.
type Abort struct {
	After   Bytes    `yaml:"after,omitempty" json:"after,omitempty"` // default 0 B: as soon as its head has
	Close   bool     `yaml:"close,omitempty" json:"close,omitempty"`
	Percent *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
}

// Reshape changes header lines of requests and of their answers. HTTP edges only.
type Reshape struct {
	Request *Edit    `yaml:"request,omitempty" json:"request,omitempty"`
	Answer  *Edit    `yaml:"answer,omitempty" json:"answer,omitempty"`
	Percent *Percent `yaml:"percent,omitempty" json:"percent,omitempty"`
}

// Edit is what is done to the lines of a head, in this order. Set takes the place
// of the first line of that name, and no other stays; Add goes to the end.
type Edit struct {
	Remove []string          `yaml:"remove,omitempty" json:"remove,omitempty"`
	Set    map[string]string `yaml:"set,omitempty" json:"set,omitempty"`
	Add    map[string]string `yaml:"add,omitempty" json:"add,omitempty"`
}

// Duplicate sends so large a share of the datagrams twice. UDP edges only.
type Duplicate struct {
	Percent   Percent `yaml:"percent,omitempty" json:"percent"`
	Direction string  `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
}

// Reorder has so large a share of the datagrams change places: ahead of those that a
// latency delays, or, where none does, behind the next, if that comes within Wait. UDP
// edges only.
type Reorder struct {
	Percent   Percent        `yaml:"percent,omitempty" json:"percent"`
	Wait      *time.Duration `yaml:"wait,omitempty" json:"wait,omitempty"`           // default 100ms
	Direction string         `yaml:"direction,omitempty" json:"direction,omitempty"` // both (default) | request | answer
}

// Partition silences every edge from a service of From to one of To
// (Direction "both", the default: and back; "forward": only From -> To).
type Partition struct {
	From      []string `yaml:"from,omitempty" json:"from"`
	To        []string `yaml:"to,omitempty" json:"to"`
	Direction string   `yaml:"direction,omitempty" json:"direction,omitempty"`
}

// Kill sends Signal to the picked instances; the runtime starts them again after Down.
type Kill struct {
	Pick   Pick           `yaml:"pick,omitempty" json:"pick,omitempty"`     // default 1
	Signal string         `yaml:"signal,omitempty" json:"signal,omitempty"` // KILL (default) | TERM
	Down   *time.Duration `yaml:"down,omitempty" json:"down,omitempty"`     // default 1s
}

// Pause stops the picked instances (SIGSTOP) for the fault's time, then SIGCONT.
type Pause struct {
	Pick Pick `yaml:"pick,omitempty" json:"pick,omitempty"`
}

// Restart asks politely (SIGTERM), waits for Grace, then kills; starts again at once.
type Restart struct {
	Pick  Pick           `yaml:"pick,omitempty" json:"pick,omitempty"`
	Grace *time.Duration `yaml:"grace,omitempty" json:"grace,omitempty"` // default 5s
}

// CPU keeps Workers threads beside each picked instance busy, each for its Load of
// the time, in the instance's control groups where it has some of its own.
type CPU struct {
	Pick    Pick     `yaml:"pick,omitempty" json:"pick,omitempty"`
	Load    *Percent `yaml:"load,omitempty" json:"load,omitempty"`       // of each worker; default 80%
	Workers int      `yaml:"workers,omitempty" json:"workers,omitempty"` // default: one less than there are processors, at least 1
}

// Memory holds so much memory beside each picked instance, in its control group
// where it has one of its own: Size, or Share of what is available then.
type Memory struct {
	Pick  Pick     `yaml:"pick,omitempty" json:"pick,omitempty"`
	Size  Bytes    `yaml:"size,omitempty" json:"size,omitempty"`
	Share *Percent `yaml:"share,omitempty" json:"share,omitempty"`
}

// Disk writes a file into the data folder of each picked instance: Fill of it, or
// until only Free is left to write on its file system.
type Disk struct {
	Pick Pick   `yaml:"pick,omitempty" json:"pick,omitempty"`
	Fill Bytes  `yaml:"fill,omitempty" json:"fill,omitempty"`
	Free *Bytes `yaml:"free,omitempty" json:"free,omitempty"`
}

// DNS is what becomes of looking the callee of an edge up: it fails, is slow, or
// both. Reference systems only: their services look a callee up before each call.
type DNS struct {
	Fail  string        `yaml:"fail,omitempty" json:"fail,omitempty"`   // nxdomain | timeout | wrong; "" = it does not
	Delay time.Duration `yaml:"delay,omitempty" json:"delay,omitempty"` // of each lookup
}

// Clock sets the clock of the picked instances wrong, by Offset and by Drift more
// for every second since. Reference systems only.
type Clock struct {
	Pick   Pick  `yaml:"pick,omitempty" json:"pick,omitempty"`
	Offset Shift `yaml:"offset,omitempty" json:"offset,omitempty"` // ahead; below 0: behind
	Drift  Shift `yaml:"drift,omitempty" json:"drift,omitempty"`   // gained per second; below 0: lost
}
