package faults

// What a fault may be on.
const (
	OnEdge     = "edge"
	OnHTTPEdge = "HTTP edge"
	OnTCPEdge  = "TCP edge"
	OnService  = "service"
	OnServices = "set of services"
)

// Kind is one verb: what a scenario may write, and how it is done.
type Kind struct {
	Verb    string
	On      string // one of the On constants
	Summary string
	Needs   string  // capabilities of the runtime, "" where the proxies suffice
	Instead string  // what to write on an edge of another kind than On, "" where On has all
	Instant bool    // has its own end, so `for` means nothing to it
	Fields  []Field // under the verb, beside target, at and for

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
	percentField   = Field{"percent", "percent", "100", "share of the requests to hit; of the connections on tcp edges"}
	ofConnections  = Field{"percent", "percent", "100", "share of the connections to hit"}
	afterField     = Field{"after", "bytes", "0 B", "strike when so many bytes of the answer have passed"}
	pickField      = Field{"pick", "pick", "1", "how many instances: a number, 50%, or all"}
	directionField = Field{"direction", "text", "both", "which way the bytes go that it is about: both, request (to the callee) or answer"}
	oneWay         = Field{"direction", "text", "answer", "what is held back: answer or request"}
)

// Conditions stand beside the verb of a fault on an edge, and say which calls
// (connections on tcp edges) it is about, and when; percent is of those. A
// partition, which is to cut off everything, takes pulse alone.
var Conditions = []Field{
	{"match", "{ method, path, host, headers, grpc }", "all", "on HTTP edges: which requests it is about; method is a list, grpc is { service, method } of calls of gRPC, in all but method * stands for any characters"},
	{"pulse", "{ active, pause }", "always on", "at work for `active`, then not for `pause`, in turn, as if it were injected and reverted each time"},
	{"ramp", "duration", "0s", "how long percent takes to grow from 0 to its full value"},
	{"first", "number", "all", "how many calls it is about, of those that begin after it was injected"},
	{"every", "number", "1", "of those calls, only the n-th, 2n-th, …"},
	{"from", "addresses", "any", "where callers call from: 10.0.0.0/8, or one address"},
}

// Takes tells whether the condition of that name may stand beside the verb.
func (k Kind) Takes(condition string) bool {
	switch k.On {
	case OnService:
		return false
	case OnServices:
		return condition == "pulse"
	case OnTCPEdge:
		return condition != "match"
	}
	return condition != "match" || k.Verb != "refuse" && k.Verb != "slow_connect"
}

// Kinds is every fault there is, in the order in which they are shown.
var Kinds = []Kind{
	{
		Verb: "latency", On: OnEdge, inject: onEdges,
		Summary: "Holds every call back once, by delay ± jitter; on tcp edges every byte, order kept.",
		Fields: []Field{
			{"delay", "duration", "", "how long, on average, under every distribution"},
			{"jitter", "duration", "0s", "uniform: at most so much more or less; normal, pareto: standard deviation; exponential: none, its standard deviation is the delay"},
			{"distribution", "text", "uniform", "of the delays: uniform, normal (none below 0), pareto (few, and very long ones), exponential"},
			percentField,
			oneWay,
			{"where", "text", "head", "HTTP edges: what waits, all of the message from its head on, or only its body"},
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
		Fields: []Field{
			{"rate", "rate", "", "like 100KB/s"},
			{"shared", "yes or no", "false", "true: the connections (requests of HTTP/2) share it; false: it is each one's own"},
			percentField, directionField,
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
		Fields: []Field{
			{"percent", "percent", "", "share of the chunks to lose: of what is ready to go at once, at most 64 KiB"},
			{"correlation", "percent", "0", "how likely a chunk's fate is that of the one before; the share stays the same, losses come in bursts"},
			directionField,
		},
	},
	{
		Verb: "corrupt", On: OnEdge, inject: onEdges,
		Summary: "Flips bits; lengths stay as they are. On HTTP edges in bodies only.",
		Fields: []Field{
			{"percent", "percent", "", "share of the bytes in which one bit is flipped"},
			directionField,
		},
	},
	{
		Verb: "limit", On: OnTCPEdge, inject: onEdges, Instead: "use reset with after, which cuts answers short on any edge",
		Summary: "Closes a connection, in order, when exactly so many bytes have passed since it was opened.",
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
		Verb: "partition", On: OnServices, inject: onEdges,
		Summary: "Silences every edge between two sets of services, for open and new connections alike.",
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
}
