package loadgen

import "context"

// The protocols of this file have no requests and answers of HTTP: a talker
// carries them, each in its dialect.
const (
	WebSocket Protocol = "websocket"
	TCP       Protocol = "tcp"
	UDP       Protocol = "udp"
	Redis     Protocol = "redis"
	Postgres  Protocol = "postgres"
)

// talkSpeeches are those protocols, for the table of all.
func talkSpeeches() []speech {
	all := []speech{
		{name: WebSocket, about: "a message out, the next one back", alpn: "http/1.1", takes: takesConnection | takesMethod | takesPath | takesHeaders | takesBody | takesBinary},
		{name: TCP, about: "bytes out, bytes back", takes: takesConnection | takesBody | takesReply},
		{name: UDP, about: "a datagram out, one back", tls: plainOnly, udp: true, takes: takesBody},
		{name: Redis, about: "a command and its reply", takes: takesConnection | takesCommand | takesLogin | takesValueChecks},
		{name: Postgres, about: "a query and its rows", takes: takesConnection | takesQuery | takesLogin},
	}
	for i := range all {
		all[i].talks, all[i].open, all[i].check = true, openTalk, Spec.checkTalk
	}
	return all
}

func openTalk(ctx context.Context, c Config, s *stream) (carrier, error) {
	login := c.Spec.compileLogin(func(string, string, ...any) {}) // what is wrong with it was said
	return carrier{client: func() client {
		switch c.Spec.Protocol {
		case WebSocket:
			return newTalker(ctx, s, c, "tcp", &websocketDialect{binary: c.Spec.Binary})
		case TCP:
			return newTalker(ctx, s, c, "tcp", newTCPDialect(*c.Spec.Reply))
		case UDP:
			return newTalker(ctx, s, c, "udp", newUDPDialect())
		case Redis:
			return newTalker(ctx, s, c, "tcp", &redisDialect{login: login})
		}
		// PostgreSQL agrees on TLS in its own way, after the connection is made.
		plain := c
		plain.secure = nil
		return newTalker(ctx, s, plain, "tcp", &postgresDialect{login: login, tls: c.TLS})
	}}, nil
}
