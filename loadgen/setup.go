package loadgen

import (
	"context"
	"net/http/cookiejar"
	"time"
)

// identity is what stays of a user from session to session: what its setup has
// captured, and its cookies. One goroutine at a time uses it. In the closed model
// the users have one each; in the open one each connection has, since a session has
// a connection to itself.
//
//	first session of a user:   setup 1 ─> … ─> setup m ─> step 1 ─> … ─> step n
//	every later one:                                      step 1 ─> … ─> step n
type identity struct {
	ready    bool
	captured []string       // shared with the trip of the session that is under way
	jar      *cookiejar.Jar // nil while the user has no cookie
}

// makeIdentities gives a stream with a setup its users: those of the closed model,
// or as many as sessions can be under way at once, and not more than there are rows
// of unique data.
func (s *stream) makeIdentities() {
	if s.steps == len(s.kinds) || !s.session {
		return
	}
	n := s.spec.lanes()
	if s.spec.Users != nil {
		n = s.spec.users()
	}
	for _, src := range s.sources {
		if src.order == Unique {
			n = min(n, len(src.table.rows))
		}
	}
	s.identities = make([]identity, n)
	for i := range s.identities {
		s.identities[i].captured = make([]string, s.slots)
	}
}

// isSetup tells the steps of a setup.
func (s *stream) isSetup(step int) bool { return s.session && step >= s.steps }

// ready sets up the user of a job, if it is to begin a session and this was not done
// yet, and notes that the job is due. A session whose user was set up is due later
// by the time that took, so that no request is charged for it; one that had queued
// is due already. false: there will be no session, and that was noted.
func (s *stream) ready(ctx context.Context, c Config, cl client, rec *recorder, j *job) bool {
	who := &s.identities[j.owner]
	took, how := time.Duration(0), completed
	var why result
	if !who.ready {
		began := time.Now()
		why, how = s.setUp(ctx, c, cl, rec, *j)
		who.ready = how == completed
		took = time.Since(began)
	}
	if !j.queued {
		j.due += took
		if how == cutOff || j.due >= c.Until && took > 0 {
			rec.end(ended{due: j.due - took, how: cutOff})
			return false
		}
		rec.note(j.due, 0, count{due: 1})
	}
	if how == completed {
		return true
	}
	f := unsent(*j, unready)
	f.latency = time.Since(c.Start) - j.due
	f.detail = "the user's setup failed: " + why.request
	if why.detail != "" {
		f.detail += ": " + why.detail
	}
	if how == cutOff {
		f.outcome, f.detail = canceled, ""
	}
	rec.finish(f)
	rec.end(ended{due: j.due, took: f.latency, how: how})
	return false
}

// setUp carries out the setup of the user of j. Its steps are like those of a
// session; the first is due now. It returns the last of them, and how it ended.
func (s *stream) setUp(ctx context.Context, c Config, cl client, rec *recorder, j job) (last result, how ending) {
	j.seq, j.queued = j.owner, false
	for j.step = s.steps; j.step < len(s.kinds); j.step++ {
		k := &s.kinds[j.step]
		j.due = time.Since(c.Start) + k.think
		if j.due >= c.Until || !s.alarms.until(ctx, c.Start.Add(j.due)) {
			return last, cutOff
		}
		rec.note(j.due, j.step, count{due: 1})
		last = send(c, cl, rec, j, time.Since(c.Start), j.due+s.timeouts[k.timeout])
		switch {
		case last.outcome == canceled:
			return last, cutOff
		case !s.good(last):
			if last.detail == "" {
				last.detail = last.outcome.String()
			}
			return last, failed
		}
	}
	return last, completed
}
