package faults

// What a fault may be on.
const (
	OnEdge     = "edge"
	OnHTTPEdge = "HTTP edge"
	OnService  = "service"
	OnServices = "set of services"
)

// Kind is one verb: what a scenario may write, and how it is done.
type Kind struct {
	Verb    string
	On      string // one of the On constants
	Summary string
	Needs   string  // capabilities of the runtime, "" where the proxies suffice
	Instant bool    // has its own end, so `for` means nothing to it
	Fields  []Field // under the verb, beside target, at and for

	needs  func(services any) bool
	inject injector
}

// Field is one setting of a Kind.
type Field struct {
	Name    string
	Type    string // duration, percent, bytes, rate, pick, text, number, list
	Default string // "" = required
	Doc     string
}

var (
	percentField = Field{"percent", "percent", "100", "share of the requests to hit; of the connections on tcp edges"}
	afterField   = Field{"after", "bytes", "0 B", "strike when so many bytes of the answer have passed"}
	pickField    = Field{"pick", "pick", "1", "how many instances: a number, 50%, or all"}
)

// Kinds is every fault there is, in the order in which they are shown.
var Kinds = []Kind{
	{
		Verb: "latency", On: OnEdge, inject: onEdges,
		Summary: "Holds every call back once, by delay ± jitter; on tcp edges every byte, order kept.",
		Fields: []Field{
			{"delay", "duration", "", "how long, on average"},
			{"jitter", "duration", "0s", "at most so much more or less"},
			{"distribution", "text", "uniform", "of the jitter"},
			percentField,
			{"direction", "text", "answer", "what is held back: answer or request"},
		},
	},
	{
		Verb: "error", On: OnHTTPEdge, inject: onEdges,
		Summary: "Answers in the callee's place; the callee does not hear of the request.",
		Fields: []Field{
			{"status", "number", "503", "from 200 to 599"},
			{"body", "text", "empty", "of the answer"},
			percentField,
		},
	},
	{
		Verb: "reset", On: OnEdge, inject: onEdges,
		Summary: "Ends the connection with RST, also one that is open.",
		Fields:  []Field{percentField, afterField},
	},
	{
		Verb: "blackhole", On: OnEdge, inject: onEdges,
		Summary: "Lets nothing pass any more, and says nothing: the caller waits.",
		Fields:  []Field{percentField, afterField},
	},
	{
		Verb: "refuse", On: OnEdge, inject: onEdges,
		Summary: "Turns new connections away; open ones go on.",
		Fields:  []Field{{"percent", "percent", "100", "share of the new connections to turn away"}},
	},
	{
		Verb: "bandwidth", On: OnEdge, inject: onEdges,
		Summary: "Lets so much through per second, on each connection, in each direction.",
		Fields:  []Field{{"rate", "rate", "", "like 100KB/s"}},
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
