package loadgen

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// shop is a service with a login of 50 ms, which gives a token and a cookie; whoever
// has both may buy, which takes 10 ms. It gives a new cookie with each purchase.
type shop struct {
	mu     sync.Mutex
	logins map[string]int // by user
	buys   map[string]int
	denied int
	refuse int // so many logins fail first
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	user := string(body)
	if r.URL.Path == "/login" {
		time.Sleep(50 * time.Millisecond)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refuse > 0 {
			s.refuse--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.logins[user]++
		http.SetCookie(w, &http.Cookie{Name: "sid", Value: user + "-0", Path: "/"})
		fmt.Fprintf(w, `{"token":"t-%s"}`, user)
		return
	}
	time.Sleep(10 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	sid, err := r.Cookie("sid")
	if want := fmt.Sprintf("%s-%d", user, s.buys[user]); err != nil || sid.Value != want || r.Header.Get("Authorization") != "Bearer t-"+user {
		s.denied++
		w.WriteHeader(http.StatusForbidden)
		return
	}
	s.buys[user]++
	http.SetCookie(w, &http.Cookie{Name: "sid", Value: fmt.Sprintf("%s-%d", user, s.buys[user]), Path: "/"})
}

func newShop() (*shop, *memory) {
	s := &shop{logins: map[string]int{}, buys: map[string]int{}}
	return s, &memory{Handler: s}
}

// withLogin is a stream whose users log in once, each with a row of its own.
func withLogin(t *testing.T, spec Spec) Spec {
	spec.Name, spec.To = "s", "gateway"
	spec.Data = map[string]Data{"users": {File: "users.csv", Order: Unique}}
	spec.Setup = []SessionStep{{Name: "login", Method: "POST", Path: "/login", Body: "{{.users.name}}", Capture: map[string]Capture{"token": ofJSON(t, "$.token")}}}
	spec.Steps = []SessionStep{{Name: "buy", Method: "POST", Path: "/buy", Body: "{{.users.name}}", Auth: &Auth{Bearer: "{{.token}}"}}}
	return withData(t, spec, map[string]string{"users.csv": "name\nada\nbob\neve\n"})
}

// runShop runs a stream for a second and adds its windows up, those of the setup apart.
func runShop(t *testing.T, spec Spec, m *memory) (*sums, Window, Sessions) {
	t.Helper()
	s, setup, sessions := newSums(), empty(), Sessions{}
	c := s.listen(Config{Spec: spec, Start: time.Now(), Until: time.Second, Dial: m.dial, Resolve: func() string { return "gateway:80" }})
	sum := c.OnWindow
	c.OnWindow = func(w Window) {
		if w.Setup {
			if w.Step != "login" {
				t.Errorf("a step %q in the setup", w.Step)
			}
			setup = plus(setup, w)
			return
		}
		sum(w)
		if w.Sessions != nil {
			sessions.Completed += w.Sessions.Completed
			sessions.Failed += w.Sessions.Failed
			sessions.Cut += w.Sessions.Cut
		}
	}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	m.all.Wait()
	s.balance(t)
	return s, setup, sessions
}

// A user logs in once, and has its token and its cookies in all its sessions, also
// where users share connections; the login is in none of the stream's numbers.
func TestSetupOncePerUser(t *testing.T) {
	for name, spec := range map[string]Spec{
		"users with a connection each": {Users: ptr(3), Think: 40 * time.Millisecond},
		"users who share two":          {Users: ptr(3), Think: 40 * time.Millisecond, Connections: ptr(2)},
		"arrivals":                     {Rate: perSecond(50)}, // three rows: three users
		"arrivals on two connections":  {Rate: perSecond(50), Connections: ptr(2)},
	} {
		t.Run(name, func(t *testing.T) {
			spec := withLogin(t, spec)
			synctest.Test(t, func(t *testing.T) {
				site, m := newShop()
				s, setup, sessions := runShop(t, spec, m)
				users := 3
				if spec.Users == nil && spec.Connections != nil {
					users = 2
				}
				bought := 0
				for user, n := range site.logins {
					if n != 1 {
						t.Errorf("%s logged in %d times", user, n)
					}
					bought += site.buys[user]
				}
				if site.denied > 0 || s.Failed > 0 {
					t.Errorf("%d were denied; outcomes %v", site.denied, s.Outcomes)
				}
				if len(site.logins) > users || setup.DueCount != len(site.logins) || setup.OK != setup.DueCount || setup.BytesSent == 0 {
					t.Errorf("logins %v, %d in the setup's windows, of at most %d users", site.logins, setup.DueCount, users)
				}
				if s.OK != bought || bought < 20 || sessions.Completed != bought || sessions.Failed > 0 {
					t.Errorf("%d bought, %d requests ok, sessions %+v", bought, s.OK, sessions)
				}
				for _, r := range s.results {
					if r.Step != "buy" {
						t.Errorf("a result of %q: the setup's are no results of the stream", r.Step)
					}
				}
				// Who logs in is not charged for it; who queued meanwhile is.
				if spec.Connections == nil && s.OKLatency.Max() > 11*time.Millisecond {
					t.Errorf("a purchase took %v with the login before it, want 10ms", s.OKLatency.Max())
				}
			})
		})
	}
}

// A login that fails fails the session, with a class of its own, and is tried again
// before the next one.
func TestSetupFails(t *testing.T) {
	spec := withLogin(t, Spec{Users: ptr(1), Think: 100 * time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		site, m := newShop()
		site.refuse = 2
		s, setup, sessions := runShop(t, spec, m)
		if setup.DueCount != 3 || setup.Failed != 2 || setup.OK != 1 || setup.Outcomes["503"] != 2 {
			t.Errorf("setup: %d due, outcomes %v; want two refusals and a login", setup.DueCount, setup.Outcomes)
		}
		if s.Failed != 2 || s.Outcomes["setup"] != 2 || sessions.Failed != 2 || sessions.Completed != s.OK || s.OK < 4 {
			t.Errorf("outcomes %v, sessions %+v; want two that failed for want of a login", s.Outcomes, sessions)
		}
		told := false
		for _, x := range s.samples {
			told = told || x.Outcome == "setup" && strings.Contains(x.Detail, "the user's setup failed: POST /login: 503")
		}
		if !told {
			t.Errorf("no sample tells why: %+v", s.samples)
		}
	})
}

// What does not fit together is told before anything is sent.
func TestSetupMistakes(t *testing.T) {
	get := func(path string) SessionStep { return SessionStep{Method: "GET", Path: path} }
	for want, spec := range map[string]Spec{
		"setup: setup is what each user does once": {Request: &Request{Method: "GET", Path: "/"}, Setup: []SessionStep{get("/login")}},
		"setup: there are no steps":                {Steps: []SessionStep{get("/")}, Setup: []SessionStep{}},
		"setup[0].path: path":                      {Steps: []SessionStep{get("/")}, Setup: []SessionStep{get("login")}},
		"setup[0].think: the first step":           {Steps: []SessionStep{get("/")}, Setup: []SessionStep{{Method: "GET", Path: "/", Think: time.Second}}},
		"setup[1].name: a second step is called":   {Steps: []SessionStep{get("/")}, Setup: []SessionStep{{Name: "a", Method: "GET", Path: "/"}, {Name: "a", Method: "GET", Path: "/"}}},
		"setup[0].path: path: line 1, column 4":    {Steps: []SessionStep{{Method: "GET", Path: "/", Capture: map[string]Capture{"late": ofJSON(t, "$.x")}}}, Setup: []SessionStep{get("/{{.late}}")}},
		"data.users: setup and steps use it": withData(t, Spec{Data: map[string]Data{"users": {File: "users.csv"}},
			Steps: []SessionStep{get("/{{.users.name}}")}, Setup: []SessionStep{get("/{{.users.name}}")}}, map[string]string{"users.csv": "name\nada\n"}),
	} {
		spec.Name, spec.To, spec.Rate = "s", "gateway", perSecond(1)
		var got []string
		spec.Check(func(path, format string, args ...any) { got = append(got, path+": "+fmt.Sprintf(format, args...)) })
		if len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}
