package faults

// What a fault may be on.
const (
	OnEdge     = "edge"
	OnHTTPEdge = "HTTP edge"
	OnTCPEdge  = "TCP edge"
	OnUDPEdge  = "UDP edge"
	OnService  = "service"
	OnServices = "set of services"
)

// Kind is one verb: what a scenario may write, and how it is done.
type Kind struct {
	Verb      string
	On        string // one of the On constants
	Summary   string
	Needs     string  // capabilities of the runtime, "" where the proxies suffice
	Instead   string  // what to write on an edge of another kind than On, "" where On has all
	UDP       string  // what it means on UDP edges; "" where it cannot be there, or to be on an edge of any kind is the same
	Instant   bool    // has its own end, so `for` means nothing to it
	Reference bool    // only the services of a reference system can have it
	Fields    []Field // under the verb, beside target, at and for

	needs  func(services any) bool
	inject injector
}

// Field is one setting of a Kind, or one of the Conditions.
type Field struct {
	Name    string
	Type    string // duration, percent, bytes, rate, pick, text, number, list, yes or no
	Default string // "" = required
	Doc     string
}

var (
	percentField   = Field{"percent", "percent", "100", "share of the requests to hit; of the connections on tcp edges, of the datagrams on udp edges"}
	ofConnections  = Field{"percent", "percent", "100", "share of the connections to hit"}
	afterField     = Field{"after", "bytes", "0 B", "strike when so many bytes of the answer have passed"}
	pickField      = Field{"pick", "pick", "1", "how many instances: a number, 50%, or all"}
	directionField = Field{"direction", "text", "both", "which way the bytes go that it is about: both, request (to the callee) or answer"}
	oneWay         = Field{"direction", "text", "answer", "what is held back: answer or request"}
)

// Conditions stand beside the verb of a fault on an edge, and say which calls
// (connections on tcp edges, datagrams on udp edges) it is about, and when; percent is of those. A
// partition, which is to cut off everything, takes pulse alone.
var Conditions = []Field{
	{"match", "{ method, path, host, headers, grpc }", "all", "on HTTP edges: which requests it is about; method is a list, grpc is { service, method } of calls of gRPC, in all but method * stands for any characters"},
	{"pulse", "{ active, pause }", "always on", "at work for `active`, then not for `pause`, in turn, as if it were injected and reverted each time"},
	{"ramp", "duration", "0s", "how long percent takes to grow from 0 to its full value"},
	{"first", "number", "all", "how many calls it is about, of those that begin after it was injected; on udp edges, how many datagrams of each direction"},
	{"every", "number", "1", "of those calls, only the n-th, 2n-th, …"},
	{"from", "addresses", "any", "where callers call from: 10.0.0.0/8, or one address"},
}

// Takes tells whether the condition of that name may stand beside the verb.
func (k Kind) Takes(condition string) bool {
	switch {
	case k.On == OnService || k.Reference:
		return false
	case k.On == OnServices:
		return condition == "pulse"
	case k.On == OnTCPEdge, k.On == OnUDPEdge:
		return condition != "match"
	}
	return condition != "match" || k.Verb != "refuse" && k.Verb != "slow_connect"
}

// Kinds is every fault there is, in the order in which they are shown.
var Kinds = []Kind{
	{
		Verb: "latency", On: OnEdge, inject: onEdges,
		Summary: "Holds every call back once, by delay ± jitter; on tcp edges every byte, order kept.",
		UDP:     "every datagram by itself: with a jitter they overtake one another",
		Fields: []Field{
			{"delay", "duration", "", "how long, on average, under every distribution"},
			{"jitter", "duration", "0s", "uniform: at most so much more or less; normal, pareto: standard deviation; exponential: none, its standard deviation is the delay"},
			{"distribution", "text", "uniform", "of the delays: uniform, normal (none below 0), pareto (few, and very long ones), exponential"},
			percentField,
			oneWay,
			{"where", "text", "head", "HTTP edges: what waits, all of the message from its head on, or only its body"},
			{"keep_order", "yes or no", "false", "udp edges: true: a datagram waits for the one before it of the same caller and direction"},
		},
	},
	{
		Verb: "error", On: OnHTTPEdge, inject: onEdges, Instead: "reset, refuse or blackhole work on any edge",
		Summary: "Answers in the callee's place; the callee does not hear of the request.",
		Fields: []Field{
			{"status", "number", "503", "from 200 to 599"},
			{"body", "text", "empty", "of the answer"},
			{"grpc", "text", "none", "in place of status and body: answers calls of gRPC, and no others, with that status, like UNAVAILABLE"},
			{"message", "text", "empty", "beside grpc"},
			percentField,
		},
	},
	{
		Verb: "reset", On: OnEdge, inject: onEdges,
		Summary: "Ends the connection with RST, also one that is open; over HTTP/2, the request with RST_STREAM.",
		Fields: []Field{
			percentField, afterField,
			{"wait", "duration", "0s", "tcp edges, in place of after: strike so long after the connection (or the fault) began, busy or not"},
		},
	},
	{
		Verb: "blackhole", On: OnEdge, inject: onEdges,
		Summary: "Lets nothing pass any more, either way, and says nothing: the caller waits.",
		UDP:     "the datagrams that it hits, of both directions, are dropped; after is for streams",
		Fields:  []Field{percentField, afterField},
	},
	{
		Verb: "silence", On: OnTCPEdge, inject: onEdges, Instead: "use blackhole, which silences calls on any edge",
		Summary: "Discards the bytes of one direction; the other goes on, where a blackhole stops both.",
		Fields: []Field{
			{"for", "duration", "never", "close the connection, in order, when it has been silent for so long"},
			ofConnections,
			{"direction", "text", "answer", "what is discarded: answer or request"},
		},
	},
	{
		Verb: "refuse", On: OnEdge, inject: onEdges,
		Summary: "Turns new connections away; open ones go on.",
		UDP:     "the port is as if closed, for everybody (ICMP \"port unreachable\"): no percent, and of the conditions only pulse; what is counted is one probe of our own",
		Fields:  []Field{{"percent", "percent", "100", "share of the new connections to turn away"}},
	},
	{
		Verb: "slow_connect", On: OnEdge, inject: onEdges,
		Summary: "Makes opening a connection slow: the callee is called, and a byte passes, only after delay.",
		Fields: []Field{
			{"delay", "duration", "", "since the connection was opened"},
			{"percent", "percent", "100", "share of the new connections to hit"},
		},
	},
	{
		Verb: "slow_close", On: OnTCPEdge, inject: onEdges, Instead: "use latency, which holds answers back on any edge",
		Summary: "Passes the end of a connection on only after delay.",
		Fields:  []Field{{"delay", "duration", "", "after the last byte"}, ofConnections, directionField},
	},
	{
		Verb: "bandwidth", On: OnEdge, inject: onEdges,
		Summary: "Lets so much through per second, on each connection or all together, in each direction.",
		UDP:     "per caller, or all together, and what finds the queue full is dropped",
		Fields: []Field{
			{"rate", "rate", "", "like 100KB/s"},
			{"shared", "yes or no", "false", "true: the connections (requests of HTTP/2) share it; false: it is each one's own"},
			percentField, directionField,
			{"queue", "bytes", "what passes in 100 ms, at least 64 KiB", "udp edges: how much waits at most"},
		},
	},
	{
		Verb: "slice", On: OnEdge, inject: onEdges,
		Summary: "Sends bytes in small pieces, each a write of its own, with pauses.",
		Fields: []Field{
			{"average", "bytes", "", "size of a piece"},
			{"variation", "bytes", "0 B", "at most so much more or less, evenly"},
			{"delay", "duration", "0s", "pause between two pieces"},
			percentField, directionField,
		},
	},
	{
		Verb: "loss", On: OnEdge, inject: onEdges,
		Summary: "Does to the stream what lost packets do: a chunk, and all behind it, is late by 200 ms, doubled with each loss in a row.",
		UDP:     "datagrams are lost; percent is the share of them",
		Fields: []Field{
			{"percent", "percent", "", "share of the chunks to lose: of what is ready to go at once, at most 64 KiB"},
			{"correlation", "percent", "0", "how likely a chunk's fate is that of the one before; the share stays the same, losses come in bursts"},
			directionField,
		},
	},
	{
		Verb: "corrupt", On: OnEdge, inject: onEdges,
		Summary: "Flips bits; lengths stay as they are. On HTTP edges in bodies only.",
		UDP:     "in what datagrams carry",
		Fields: []Field{
			{"percent", "percent", "", "share of the bytes in which one bit is flipped"},
			directionField,
		},
	},
	{
		Verb: "limit", On: OnTCPEdge, inject: onEdges, Instead: "use reset with after, which cuts answers short on HTTP edges",
		Summary: "Closes a connection, in order, when exactly so many bytes have passed since it was opened.",
		UDP:     "a datagram with which more would have passed since its caller's session began is dropped; percent is of the sessions",
		Fields: []Field{
			{"bytes", "bytes", "", "0 B closes it at the first"},
			ofConnections,
			{"direction", "text", "both", "which bytes count: request, answer, or both, each for itself"},
		},
	},
	{
		Verb: "abort", On: OnHTTPEdge, inject: onEdges, Instead: "use reset with after, which counts all bytes of a connection",
		Summary: "Ends the connection in the midst of an answer's body.",
		Fields: []Field{
			{"after", "bytes", "0 B", "strike when so many bytes of the body have passed; a shorter one passes whole"},
			{"close", "yes or no", "false", "end it in order, not with RST: the body is too short"},
			percentField,
		},
	},
	{
		Verb: "reshape", On: OnHTTPEdge, inject: onEdges, Instead: "there are no header lines on it",
		Summary: "Changes header lines, Host among them; all other bytes stay as they are.",
		Fields: []Field{
			{"request", "{ remove, set, add }", "nothing", "what is done to requests: a list of names, and two mappings of name to value"},
			{"answer", "{ remove, set, add }", "nothing", "the same to their answers"},
			percentField,
		},
	},
	{
		Verb: "duplicate", On: OnUDPEdge, inject: onEdges, Instead: "the bytes of a stream come once",
		Summary: "Sends datagrams twice; each copy has its own delay.",
		Fields: []Field{
			{"percent", "percent", "", "share of the datagrams to send twice"},
			directionField,
		},
	},
	{
		Verb: "reorder", On: OnUDPEdge, inject: onEdges, Instead: "the bytes of a stream come in order",
		Summary: "Has datagrams change places: sent at once where a latency delays the others, else behind the next one of the same caller and direction.",
		Fields: []Field{
			{"percent", "percent", "", "share of the datagrams that change places"},
			{"wait", "duration", "100ms", "where nothing is delayed: how long a datagram waits for the next one at most"},
			directionField,
		},
	},
	{
		Verb: "partition", On: OnServices, inject: onEdges,
		Summary: "Silences every edge between two sets of services, for open and new connections alike.",
		UDP:     "every datagram is dropped",
		Fields: []Field{
			{"from", "list", "", "services on one side"},
			{"to", "list", "", "services on the other"},
			{"direction", "text", "both", "which calls are cut: both ways, or only forward, those of from to to"},
		},
	},
	{
		Verb: "kill", On: OnService, Instant: true, inject: kill,
		Needs: "kill, start", needs: func(s any) bool { return offers[Killer](s) && offers[Starter](s) },
		Summary: "Ends instances without warning, and starts them again after `down`.",
		Fields: []Field{
			pickField,
			{"signal", "text", "KILL", "KILL or TERM"},
			{"down", "duration", "1s", "from an instance's end until it is started again"},
		},
	},
	{
		Verb: "pause", On: OnService, inject: pause,
		Needs: "pause", needs: offers[Pauser],
		Summary: "Stops instances where they are (SIGSTOP): connections stay open, nothing answers.",
		Fields:  []Field{pickField},
	},
	{
		Verb: "restart", On: OnService, Instant: true, inject: restart,
		Needs: "stop, start", needs: func(s any) bool { return offers[Stopper](s) && offers[Starter](s) },
		Summary: "Asks instances to end (SIGTERM), kills them after `grace`, and starts them again at once.",
		Fields: []Field{
			pickField,
			{"grace", "duration", "5s", "how long to wait before SIGKILL"},
		},
	},
	{
		Verb: "cpu", On: OnService, inject: cpu,
		Needs: "stress", needs: offers[Stresser],
		Summary: "Burns processor time beside instances, in a process of its own: in their control groups where they have some of their own, else on the whole machine.",
		Fields: []Field{
			pickField,
			{"load", "percent", "80", "of the time for which each worker is busy"},
			{"workers", "number", "one less than there are processors, at least 1", "threads that are busy; at most 4 per processor"},
		},
	},
	{
		Verb: "memory", On: OnService, inject: memory,
		Needs: "stress", needs: offers[Stresser],
		Summary: "Holds memory beside instances, in a process of its own: in their control groups where they have some of their own. Refused where it would leave the machine less than a tenth of its memory (256 MiB at least), or such a group a twentieth.",
		Fields: []Field{
			pickField,
			{"size", "bytes", "none", "how much to hold"},
			{"share", "percent", "none", "or which share of what is available"},
		},
	},
	{
		Verb: "disk", On: OnService, inject: disk,
		Needs: "data folder", needs: offers[DataKeeper],
		Summary: "Fills the file system of an instance's data folder (${data}; of a reference system, the one of all its services) by a file that is really written. On a file system that / or the working folder is on, 256 MiB stay free, on any other 1 MiB; at most 4 GiB are written.",
		Fields: []Field{
			pickField,
			{"fill", "bytes", "none", "how much to write"},
			{"free", "bytes", "none", "or how much to leave free"},
		},
	},
	{
		Verb: "dns", On: OnEdge, Reference: true, inject: dns,
		Needs: "lookups", needs: offers[LookupBreaker],
		Summary: "Breaks how the caller looks the callee's address up, which reference services do before each call, also on a connection that is open.",
		Fields: []Field{
			{"fail", "text", "none", "nxdomain: there is no such name; timeout: no answer, for as long as the caller waits; wrong: an address at which nobody listens"},
			{"delay", "duration", "0s", "how long each lookup takes"},
		},
	},
	{
		Verb: "clock", On: OnService, Reference: true, inject: clock,
		Needs: "clock", needs: offers[ClockSetter],
		Summary: "Sets the wall clock of instances wrong. It shows in the timestamps that a service writes and in its judgement of others' requests (reference services refuse one sent more than 5 minutes ago or ahead, as signed requests are); timers, timeouts and breakers run by the monotonic clock and stay right.",
		Fields: []Field{
			pickField,
			{"offset", "duration, either sign", "0s", "how far ahead, like 5m; -1h is behind"},
			{"drift", "duration, either sign", "0s", "gained, or lost, in each second from then on"},
		},
	},
}
