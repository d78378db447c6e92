// Package toxiproxy speaks the HTTP API of Toxiproxy v2 in front of our own data
// plane, so that every existing client works against `chaosctl proxy serve`
// unchanged, and gives a client for the command line.
//
// The words of that API are used only here: a toxic is a fault on one direction
// (stream) of a proxy, and its toxicity the share of connections it hits.
//
//	Server   (server.go)   the routes, and what is in front of them (guard.go)
//	entry    (entry.go)    one proxy: its definition, its toxics, its data plane
//	toxic    (toxic.go)    the table of toxics: attributes, limits, the rule each becomes
//	TLS      (tls.go)     what a proxy does about TLS: ours, not Toxiproxy's
//	totals   (stats.go)    counts that outlive restarts; /metrics (metrics.go)
//	Client   (client.go)   for this server and for a real Toxiproxy
//
// What an API call can wait for is only another call that changes the same
// proxy, and that one only for the operating system: bodies are read before a
// lock is taken, answers are written after it is given back, and what a call
// changes in the data plane takes effect without a word from any connection's
// peer. Calls that only look wait for nothing.
package toxiproxy

import (
	"context"
	"crypto/rand"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/chaosctl/chaosctl/faults/proxy"
)

// Config says how a Server behaves. The zero value is usable.
type Config struct {
	// Seed decides which connections a toxicity below 1 hits, and every other
	// random choice: the same calls and connections in the same order are treated
	// the same.
	Seed uint64
	// Token, when set, must come with every call as "Authorization: Bearer ...".
	Token string
	// AllowedHosts are the names, beside localhost and IP addresses, that the Host
	// and Origin headers may have, without port: what clients call this server by.
	AllowedHosts []string
	// MaxProxies is the most there can be; 0 is 1000.
	MaxProxies int
	// HoldMost is how many bytes the latency toxics of each proxy hold at most; 0 is
	// 256 MiB (see proxy.Config).
	HoldMost int64
}

const (
	defaultMaxProxies = 1000
	maxToxics         = 100     // of one proxy
	maxBody           = 1 << 20 // bytes of a request
)

// Server is Toxiproxy's API as an http.Handler. Its methods may be called from
// any goroutine.
type Server struct {
	config  Config
	ctx     context.Context // of the proxies: ends with Stop
	cancel  context.CancelFunc
	metrics http.Handler

	mu      sync.RWMutex // held for looking at the map only
	entries map[string]*entry
	stopped bool

	authority func() (*proxy.Authority, error) // of self_signed; made when it is first asked for
}

// NewServer returns a Server without proxies. Stop ends what it starts.
func NewServer(c Config) *Server {
	if c.MaxProxies == 0 {
		c.MaxProxies = defaultMaxProxies
	}
	s := &Server{config: c, entries: map[string]*entry{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.authority = sync.OnceValues(func() (*proxy.Authority, error) { return proxy.NewAuthority(authorityValid) })
	s.metrics = newMetrics(s)
	return s
}

// Stop ends every proxy, and every connection through them with RST. It returns
// when all their goroutines are gone. Calls that change something are refused
// from then on.
func (s *Server) Stop() {
	s.mu.Lock()
	s.stopped = true
	entries := slices.Collect(maps.Values(s.entries)) // also those that are being created
	s.mu.Unlock()
	s.cancel()
	var all sync.WaitGroup
	for _, e := range entries {
		all.Go(func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.end()
		})
	}
	all.Wait()
}

// A route is one thing that can be asked. handle answers, or returns the error
// to answer with.
type route struct {
	method string // "": whichever
	path   string // {} stands for the name of a proxy, then of a toxic
	handle func(s *Server, w http.ResponseWriter, c call) error
}

// call is a request, taken apart.
type call struct {
	*http.Request
	proxy, toxic string
	body         []byte
}

var routes = []route{
	{"GET", "/proxies", (*Server).listProxies},
	{"POST", "/proxies", (*Server).createProxy},
	{"GET", "/proxies/{}", (*Server).showProxy},
	{"POST", "/proxies/{}", (*Server).updateProxy},
	{"PATCH", "/proxies/{}", (*Server).updateProxy},
	{"DELETE", "/proxies/{}", (*Server).deleteProxy},
	{"GET", "/proxies/{}/toxics", (*Server).listToxics},
	{"POST", "/proxies/{}/toxics", (*Server).createToxic},
	{"GET", "/proxies/{}/toxics/{}", (*Server).showToxic},
	{"POST", "/proxies/{}/toxics/{}", (*Server).updateToxic},
	{"PATCH", "/proxies/{}/toxics/{}", (*Server).updateToxic},
	{"DELETE", "/proxies/{}/toxics/{}", (*Server).deleteToxic},
	{"POST", "/populate", (*Server).populate},
	{"POST", "/reset", (*Server).reset},
	{"GET", "/version", (*Server).version},
	{"", "/metrics", (*Server).showMetrics},
	{"GET", "/proxies/{}/stats", (*Server).showStats}, // ours
	{"GET", "/ca.pem", (*Server).showCA},              // ours
}

var slashes = regexp.MustCompile("/+")

// ServeHTTP answers one API call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.admit(r); err != nil {
		writeError(w, err)
		return
	}
	// A client whose base URL ends with a slash asks for //proxies. (Toxiproxy redirects it,
	// to a GET whatever it was: nothing is created, and nobody says so.)
	asked := slashes.ReplaceAllString(r.URL.EscapedPath(), "/")
	c := call{Request: r}
	var found *route
	var allowed []string
	for i := range routes {
		switch names, ok := match(routes[i].path, asked); {
		case !ok:
		case routes[i].method != "" && routes[i].method != r.Method:
			allowed = append(allowed, routes[i].method)
		default:
			found, c.proxy, c.toxic = &routes[i], names[0], names[1]
		}
	}
	switch {
	case found != nil:
	case allowed != nil:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("X-Toxiproxy-Request-Id", rand.Text())
	if strings.HasPrefix(r.UserAgent(), "Mozilla/") {
		http.Error(w, "User agent not allowed", http.StatusForbidden)
		return
	}
	var err error
	if c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err == nil {
		err = found.handle(s, w, c)
	}
	if err != nil {
		writeError(w, err)
	}
}

// match takes the names out of a path. Segments are split before they are
// unescaped, so that a proxy called "a/b" can be reached as a%2Fb.
func match(pattern, path string) (names [2]string, ok bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return names, false
	}
	n := 0
	for i := range want {
		segment, err := url.PathUnescape(have[i])
		switch {
		case err != nil:
			return names, false
		case want[i] == "{}" && segment != "":
			names[n] = segment
			n++
		case want[i] != segment:
			return names, false
		}
	}
	return names, true
}

func (s *Server) version(w http.ResponseWriter, _ call) error {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	_, _ = io.WriteString(w, versionText)
	return nil
}

// versionText is what Toxiproxy says when it was built without a release tag;
// its own tests expect these bytes.
const versionText = "{\"version\": \"git\"}\n"

func (s *Server) showMetrics(w http.ResponseWriter, c call) error {
	s.metrics.ServeHTTP(w, c.Request)
	return nil
}
