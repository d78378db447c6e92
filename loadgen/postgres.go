package loadgen

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresDialect asks PostgreSQL one query per request, over pgconn: with args by
// the extended protocol (parse, bind, describe, execute in one go, parameters as
// text, their types for the server to say), without them by the simple one, which
// takes several statements.
//
// Nothing comes from where libpq's programs look (PGPASSWORD, .pgpass, service
// files): a login is what the scenario says. A request that timed out is not
// canceled at the server; its connection is closed.
type postgresDialect struct {
	login *credentials
	tls   *tls.Config // nil for a connection in the clear
	conn  *pgconn.PgConn

	query []byte
	args  [][]byte
	text  []byte // of all args
}

var errOneConnection = errors.New("a connection is made once")

func (p *postgresDialect) open(l *link, _ *trip) error {
	user, password, database, err := p.login.render()
	if err != nil {
		return err
	}
	// What the environment says is read here, and replaced below.
	config, err := pgconn.ParseConfig("host=127.0.0.1 port=5432 user=x password=x database=x sslmode=disable target_session_attrs=any passfile=/dev/null")
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(l.host)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	dialed := false
	config.Host, config.Port, config.User, config.Password, config.Database = host, uint16(number), user, password, database
	if secure := p.tls; secure != nil && secure.ServerName == "" {
		p.tls = secure.Clone()
		p.tls.ServerName = host
	}
	config.TLSConfig, config.Fallbacks, config.ConnectTimeout, config.ValidateConnect = p.tls, nil, 0, nil
	config.SSLNegotiation, config.RequireAuth, config.KerberosSrvName, config.KerberosSpn = "", "", "", ""
	config.RuntimeParams = map[string]string{"application_name": "chaosctl"}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		if dialed {
			return nil, errOneConnection
		}
		dialed = true
		return l, nil
	}
	// The deadline is that of the link; a context would need a goroutine.
	conn, err := pgconn.ConnectConfig(context.Background(), config)
	if err != nil {
		return postgresError(err)
	}
	p.conn = conn
	l.after = func() {
		if conn.IsClosed() {
			<-conn.CleanupDone()
		}
	}
	return nil
}

func (p *postgresDialect) idle(l *link) bool { return !p.conn.IsClosed() && !l.spent() }

// bye ends the session as the protocol has it.
func (p *postgresDialect) bye(*link) { _ = p.conn.Close(context.Background()) }

func (p *postgresDialect) exchange(l *link, t *trip) (keep bool, err error) {
	if t.stream.session && t.job.step == 0 && p.conn.TxStatus() != 'I' {
		return false, errStale // the session before left a transaction open
	}
	d := t.draw(forContent)
	if p.query, err = t.kind.body.append(p.query[:0], &d); err != nil {
		return true, fmt.Errorf("rendering the query: %w", err)
	}
	p.args, p.text = p.args[:0], p.text[:0]
	ends := make([]int, 0, 8)
	for i, a := range t.kind.words {
		if p.text, err = a.append(p.text, &d); err != nil {
			return true, fmt.Errorf("rendering parameter %d: %w", i+1, err)
		}
		ends = append(ends, len(p.text))
	}
	from := 0
	for _, to := range ends {
		p.args = append(p.args, p.text[from:to:to])
		from = to
	}
	rows := rowsOf{keep: t.kind.keepBody, reply: &t.reply}
	ctx := context.Background()
	if len(p.args) > 0 {
		r := p.conn.ExecParams(ctx, string(p.query), p.args, nil, nil, nil)
		err = rows.take(r)
	} else {
		all := p.conn.Exec(ctx, string(p.query))
		for all.NextResult() {
			_ = rows.take(all.ResultReader()) // Close says the same
		}
		err = all.Close()
	}
	rows.end()
	return !p.conn.IsClosed(), postgresError(err)
}

// postgresError makes what the server says of a query a *replyError.
func postgresError(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return &replyError{code: said.Code, text: clip(fmt.Sprintf("%s: %s (SQLSTATE %s)", said.Severity, said.Message, said.Code))}
	}
	return err
}

// rowsOf makes a JSON array of what a query returns.
type rowsOf struct {
	keep  bool
	reply *reply
	any   bool
}

func (o *rowsOf) take(r *pgconn.ResultReader) error {
	for r.NextRow() {
		o.reply.rows++
		if !o.keep {
			continue
		}
		row := []byte{'['}
		if o.any {
			row[0] = ','
		}
		o.any = true
		row = append(row, '{')
		fields := r.FieldDescriptions()
		for i, v := range r.Values() {
			if i > 0 {
				row = append(row, ',')
			}
			row = append(appendJSON(row, fields[i].Name), ':')
			row = appendColumn(row, fields[i].DataTypeOID, v)
		}
		o.reply.addBody(append(row, '}'))
	}
	tag, err := r.Close()
	if tag.Insert() || tag.Update() || tag.Delete() || strings.HasPrefix(tag.String(), "MERGE") {
		o.reply.affected += tag.RowsAffected()
	}
	return err
}

func (o *rowsOf) end() {
	switch {
	case !o.keep:
	case o.any:
		o.reply.addBody([]byte("]"))
	default:
		o.reply.addBody([]byte("[]"))
	}
}

// Object ids of PostgreSQL's types (pg_type.dat) whose text is JSON as it is.
var (
	postgresNumbers = map[uint32]bool{20: true, 21: true, 23: true, 26: true, 700: true, 701: true, 1700: true}
	postgresJSON    = map[uint32]bool{114: true, 3802: true}
)

const postgresBool = 16

// appendColumn writes a value, which came as text.
func appendColumn(dst []byte, oid uint32, v []byte) []byte {
	switch {
	case v == nil:
		return append(dst, "null"...)
	case oid == postgresBool:
		return strconv.AppendBool(dst, string(v) == "t")
	case (postgresNumbers[oid] || postgresJSON[oid]) && json.Valid(v): // NaN is not
		return append(dst, v...)
	}
	return appendJSON(dst, string(v))
}
