package loadgen

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// postgresFake answers queries by their text, and knows the parameters.
func postgresFake(t *testing.T, answer func(query string, args []string) []pgproto3.BackendMessage) (address string, opened *atomic.Int64) {
	opened = new(atomic.Int64)
	return talkServer(t, func(c net.Conn, _ int) {
		opened.Add(1)
		b := pgproto3.NewBackend(c, c)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		status := byte('I')
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.BackendKeyData{SecretKey: []byte{1, 2, 3, 4}})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: status})
		var query string
		var args []string
		for b.Flush() == nil {
			m, err := b.Receive()
			if err != nil {
				return
			}
			send := func(all []pgproto3.BackendMessage, extended bool) {
				for _, a := range all {
					if _, isRows := a.(*pgproto3.RowDescription); isRows && extended {
						continue // told when it was described
					}
					if tag, ok := a.(*pgproto3.CommandComplete); ok {
						status = map[string]byte{"BEGIN": 'T'}[string(tag.CommandTag)]
						if status == 0 {
							status = 'I'
						}
					}
					b.Send(a)
				}
			}
			switch m := m.(type) {
			case *pgproto3.Query:
				send(answer(m.String, nil), false)
				b.Send(&pgproto3.ReadyForQuery{TxStatus: status})
			case *pgproto3.Parse:
				query = m.Query
				b.Send(&pgproto3.ParseComplete{})
			case *pgproto3.Bind:
				args = nil
				for _, p := range m.Parameters {
					args = append(args, string(p))
				}
				b.Send(&pgproto3.BindComplete{})
			case *pgproto3.Describe:
				for _, a := range answer(query, args) {
					if d, ok := a.(*pgproto3.RowDescription); ok {
						b.Send(d)
					}
				}
			case *pgproto3.Execute:
				send(answer(query, args), true)
			case *pgproto3.Sync:
				b.Send(&pgproto3.ReadyForQuery{TxStatus: status})
			case *pgproto3.Terminate:
				return
			}
		}
	}), opened
}

func column(name string, oid uint32) pgproto3.FieldDescription {
	return pgproto3.FieldDescription{Name: []byte(name), DataTypeOID: oid, DataTypeSize: -1, TypeModifier: -1}
}

func TestPostgres(t *testing.T) {
	address, opened := postgresFake(t, func(query string, args []string) []pgproto3.BackendMessage {
		switch {
		case strings.HasPrefix(query, "select"):
			first := "1"
			if len(args) > 0 {
				first = args[0]
			}
			return []pgproto3.BackendMessage{
				&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{column("id", 23), column("name", 25), column("paid", 16), column("more", 3802)}},
				&pgproto3.DataRow{Values: [][]byte{[]byte(first), []byte(`a "name"`), []byte("t"), []byte(`{"x": 1}`)}},
				&pgproto3.DataRow{Values: [][]byte{[]byte("2"), nil, []byte("f"), nil}},
				&pgproto3.CommandComplete{CommandTag: []byte("SELECT 2")},
			}
		case strings.HasPrefix(query, "insert"):
			return []pgproto3.BackendMessage{&pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 3")}}
		case query == "begin":
			return []pgproto3.BackendMessage{&pgproto3.CommandComplete{CommandTag: []byte("BEGIN")}}
		}
		return []pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "40001", Message: "could not serialize"}}
	})
	login := &Login{User: "u", Database: "d"}
	for _, c := range []struct {
		name     string
		request  Request
		check    []string
		outcomes map[string]int
		detail   string
	}{
		{"simple", Request{Query: "select 1"}, []string{"rows == 2", "affected == 0", "json $[0].id == 1", `json $[0].name == 'a "name"'`, "json $[0].paid == true",
			"json $[0].more.x == 1", "json $[1].name == null"}, map[string]int{"answered": 3}, ""},
		{"parameters", Request{Query: "select $1", Args: []string{"{{seq}}", "x"}}, []string{"json $[0].id == {{seq}}", "rows >= 2"}, map[string]int{"answered": 3}, ""},
		{"changes", Request{Query: "insert into t values (1)"}, []string{"affected == 3", "rows == 0", `body == "[]"`}, map[string]int{"answered": 3}, ""},
		{"a check that fails", Request{Query: "select 1"}, []string{"rows > 2"}, map[string]int{"check": 3}, "rows > 2: it is 2"},
		{"an error", Request{Query: "update t set x = 1"}, nil, map[string]int{"error 40001": 3}, "ERROR: could not serialize (SQLSTATE 40001)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := opened.Load()
			c.request.Check = checksOf(t, c.check...)
			converse(t, Spec{Protocol: Postgres, Login: login, Request: &c.request}, 3, address).wants(t, c.outcomes, c.detail)
			if n := opened.Load() - before; n != 1 {
				t.Errorf("%d connections, want one: an error is no reason for another", n)
			}
		})
	}
	t.Run("a session that fails in a transaction", func(t *testing.T) {
		before := opened.Load()
		s := Spec{Protocol: Postgres, Login: login, Steps: []SessionStep{{Text: "begin", brief: true}, {Query: "update t set x = 1"}}}
		converse(t, s, 2, address).wants(t, map[string]int{"answered": 2, "error 40001": 2}, "")
		if n := opened.Load() - before; n != 2 {
			t.Errorf("%d connections, want two: the next session must not be in the transaction", n)
		}
	})
	t.Run("a login that is refused", func(t *testing.T) {
		refuses := talkServer(t, func(c net.Conn, _ int) {
			b := pgproto3.NewBackend(c, c)
			if _, err := b.ReceiveStartupMessage(); err == nil {
				b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "no"})
				_ = b.Flush()
			}
		})
		converse(t, Spec{Protocol: Postgres, Login: login, Request: shortly("select 1")}, 2, refuses).wants(t, map[string]int{"error 28P01": 2}, "FATAL: no")
	})
	t.Run("no answer", func(t *testing.T) {
		hangs, _ := postgresFake(t, func(string, []string) []pgproto3.BackendMessage {
			time.Sleep(500 * time.Millisecond) // longer than the timeout
			return nil
		})
		s := Spec{Protocol: Postgres, Login: login, Request: shortly("select 1"), Timeout: ptr(100 * time.Millisecond)}
		converse(t, s, 1, hangs).wants(t, map[string]int{"timeout": 1}, "")
	})
}

// What the environment has for libpq's programs is nobody's login here.
func TestPostgresEnvironment(t *testing.T) {
	t.Setenv("PGUSER", "somebody")
	t.Setenv("PGPASSWORD", "secret")
	t.Setenv("PGSSLMODE", "verify-full")
	t.Setenv("PGOPTIONS", "-c statement_timeout=1")
	t.Setenv("PGAPPNAME", "another")
	started := make(chan map[string]string, 1)
	address := talkServer(t, func(c net.Conn, _ int) {
		b := pgproto3.NewBackend(c, c)
		m, err := b.ReceiveStartupMessage()
		if s, ok := m.(*pgproto3.StartupMessage); ok && err == nil {
			started <- s.Parameters
		} else {
			started <- map[string]string{"error": "no start-up message"}
		}
	})
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	s := Spec{Name: "a", To: "b", Protocol: Postgres, Login: &Login{User: "u", Database: "d"}, Request: shortly("select 1"), Users: ptr(1)}
	if err := Run(ctx, Config{Spec: s, Until: time.Hour, Requests: 1, Resolve: func() string { return address }}); err != nil {
		t.Fatal(err)
	}
	got := <-started
	if got["user"] != "u" || got["database"] != "d" || got["application_name"] != "chaosctl" || got["options"] != "" || got["error"] != "" {
		t.Errorf("the server is told %v", got)
	}
}
